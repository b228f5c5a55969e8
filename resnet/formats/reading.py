"""From the arrays of a foreign file to ours: recognise the format, translate, infer the network, check it."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from resnet.architecture import BOTTLENECK_EXPANSION, STAGES, Architecture
from resnet.errors import UserError
from resnet.formats import huggingface, keras, torchvision
from resnet.formats.containers import Container
from resnet.formats.names import SAME, Arrays, Format
from resnet.network import Network
from resnet.preprocessing import Preprocessing
from resnet.wording import first_of

# The names of this project; the description in the file says which network it is.
OWN = Format("safetensors", (), model={}, data={})
FORMATS = (torchvision.FORMAT, huggingface.FORMAT, huggingface.MODEL, keras.V1, keras.V2, keras.OLD)
NAMES_SHOWN = 8
NAME_LENGTH = 80  # characters of a name that are shown
MOST_ARRAYS = 20_000  # ResNet-200 has about a thousand
LONGEST_NAME = 300  # characters; the longest names of Keras have about a hundred
MOST_WRAPPERS = 8  # prefixes of a name
MOST = 0.9  # share of the names that begin with the prefix of a wrapper
# A network may have this many times the weights of its file, or this many, before they are compared.
MAX_MISSING = 4
LEAST_LIMIT = 10**8


class Translation:
    """The arrays of a file under our names, in our layout, as float32.

    `left_over` are the foreign names that the format does not know, `no_weights` those whose arrays cannot
    be weights.
    """

    def __init__(self, arrays: Arrays, format: Format) -> None:
        self.format = format
        self.named: Arrays = {}
        self.left_over: list[str] = []
        self.no_weights: list[str] = []
        self._seen: set[str] = set()
        for name, array in arrays.items():
            if not re.fullmatch(format.ignored, name):
                self._add(name, array)

    def _add(self, name: str, array: np.ndarray) -> None:
        if self.format is OWN:
            translated = (name, SAME) if "." in name else None
        else:
            translated = self.format.our_name(name)
        if translated is None:
            if array.ndim:  # Counters, such as `n_averaged` of PyTorch's averages, are no weights.
                self.left_over.append(name)
            return
        ours, transform = translated
        self._seen.add(ours)
        if not np.issubdtype(array.dtype, np.floating) and array.dtype.name != "bfloat16":
            self.no_weights.append(f"{name} ({array.dtype})")
        elif array.ndim != _dimensions(ours) or not array.size:
            self.no_weights.append(f"{name} (shape {list(array.shape)})")
        elif not np.isfinite(array := _as_float32(array)).all():
            self.no_weights.append(f"{name} (not finite)")
        else:
            self.named[ours] = np.ascontiguousarray(transform.to_ours(array))

    @property
    def classes(self) -> int:
        """The number of classes of the head, 0 without one."""
        shapes = [self.named[name].shape for name in ("head.bias", "head.kernel") if name in self.named]
        return shapes[0][-1] if shapes else 0

    def finished(self, architecture: Architecture, path: Path) -> Arrays:
        """Returns exactly the arrays of the network of `architecture`.

        Biases that a norm makes useless are folded away, and a missing head becomes a head of no classes.

        Raises:
            UserError: names the arrays that are missing, left over, of the wrong shape, or no weights.
        """
        self._refuse_other_networks(path)
        self._check_size(architecture, path)
        expected = Network(architecture, Preprocessing(), self.classes).shapes()
        named = fold_biases(self.named, expected)
        if not self._seen & {"head.kernel", "head.bias"}:
            named |= {name: np.zeros(expected[name], np.float32) for name in ("head.kernel", "head.bias")}
        foreign = {name: (self.format.foreign_name(name) or (name,))[0] for name in (*expected, *named)}
        left_over = [foreign[name] for name in named if name not in expected]
        problems = {
            "missing": [foreign[name] for name in expected if name not in named.keys() | self._seen],
            "left over": [*left_over, *self.left_over],
            "of another shape": [
                f"{foreign[name]} {list(named[name].shape)}, expected {list(shape)} in our layout"
                for name, shape in expected.items()
                if name in named and named[name].shape != shape
            ],
            "no weights": self.no_weights,
        }
        if any(problems.values()):
            listed = "; ".join(f"{what}: {_listed(names)}" for what, names in problems.items() if names)
            raise UserError(
                f"{path}: does not fit ResNet-{architecture.depth} of {self.format.name}; {listed}; expected"
                " the whole of one network, in finite floating-point numbers"
            )
        return {name: named[name] for name in expected}

    def _refuse_other_networks(self, path: Path) -> None:
        for pattern, reason in self.format.refused.items():
            if names := [name for name in self.left_over if re.fullmatch(pattern, name)]:
                raise UserError(
                    f"{path}: has {reason}, by the name of {names[0]}; expected a network of"
                    f" {self.format.name}'s own layout, without"
                )

    def _check_size(self, architecture: Architecture, path: Path) -> None:
        """Checks that a network is not much larger than the file, before its arrays are made.

        Raises:
            UserError: the names or a description in the file tell of a larger one.
        """
        there = sum(array.size for array in self.named.values())
        needed = architecture.least_parameters()
        needed += architecture.channels(len(architecture.blocks)) * self.classes
        if needed > max(MAX_MISSING * there, LEAST_LIMIT):
            raise UserError(
                f"{path}: names a network of {needed:,} weights, but holds {there:,}; expected the whole of"
                " one network"
            )


def unwrapped(arrays: Arrays) -> Arrays:
    """Removes what wrappers around a network add to its names, such as `module.`.

    A prefix is removed if nine tenths of the names have it and hardly one is known with it. Of momentum
    contrast (MoCo), the encoder of queries is taken without its head, which names no classes.
    """
    shorter = arrays
    for _ in range(MOST_WRAPPERS):
        if known_names(shorter) >= len(shorter) / 2:
            return shorter
        names = [name for name, array in shorter.items() if array.ndim]
        queries = [name for name in names if name.startswith("encoder_q.")]
        if queries:
            shorter = {name: shorter[name] for name in queries if not name.startswith("encoder_q.fc.")}
            names = list(shorter)
        prefix = Counter(name.partition(".")[0] + "." for name in names if "." in name).most_common(1)
        if not prefix or prefix[0][1] < MOST * len(names):
            return arrays
        without = {name.removeprefix(prefix[0][0]): array for name, array in shorter.items()}
        if len(without) < len(shorter):
            return arrays
        shorter = without
    return arrays


def check_names(arrays: Arrays, path: Path) -> None:
    """Checks that there are not too many names and none is too long, as comparing them takes time.

    Raises:
        UserError: one is longer, or there are more.
    """
    if len(arrays) > MOST_ARRAYS:
        raise UserError(
            f"{path}: holds {len(arrays):,} arrays; expected those of one network, at most {MOST_ARRAYS:,}"
        )
    for name in arrays:
        if len(name) > LONGEST_NAME:
            raise UserError(
                f"{path}: has a name of {len(name):,} characters, {_shortened(name)}; expected at most"
                f" {LONGEST_NAME}"
            )


def known_names(arrays: Arrays) -> int:
    """Returns how many of the names the table knows that knows most of them."""
    return max(_known_by_format(arrays))


def _known_by_format(names: Iterable[str]) -> list[int]:
    """Returns how many of `names` the table of each of `FORMATS` knows."""
    return [sum(form.our_name(name) is not None for name in names) for form in FORMATS]


def recognise(container: Container, path: Path) -> Format:
    """Returns the format whose table knows most of the names, at least half of them.

    Raises:
        UserError: there is none.
    """
    if (container.description or {}).get("format") == OWN.name:
        return OWN
    names = [name for name, array in container.arrays.items() if array.ndim]
    best, count = max(zip(FORMATS, _known_by_format(names), strict=True), key=lambda pair: pair[1])
    if count < max(len(names) / 2, 1):
        content = f"its names: {_listed(names)}" if names else "no arrays in it"
        raise UserError(
            f"{path}: not a residual network that is known here ({content}); expected the names of"
            f" {', '.join(dict.fromkeys(form.name for form in FORMATS))}"
        )
    return best


def infer_model(named: Arrays) -> dict[str, Any]:
    """Infers fields of `Architecture` from names and shapes.

    If arrays are missing, the result is the smallest network that has all arrays which are there.
    """
    counts: Counter[int] = Counter()
    for name in named:
        if match := re.match(r"stage(\d{1,4})\.block(\d{1,4})\.", name):
            stage, block = int(match[1]), int(match[2])
            counts[stage] = max(counts[stage], block)
    bottleneck = any(name.endswith(".conv3.kernel") for name in named)
    kind = "bottleneck" if bottleneck else "basic"
    depths = [
        depth
        for depth, (blocks, its_kind) in STAGES.items()
        if its_kind == kind
        and len(blocks) == 4
        and all(stage <= 4 and count <= blocks[stage - 1] for stage, count in counts.items())
    ]

    def size(name: str, axis: int, otherwise: int) -> int:
        return named[name].shape[axis] if name in named else otherwise

    stem = size("stem_conv.kernel", -1, 64)
    first_block = "stage1.block1."
    if bottleneck:
        width = max(size(first_block + "conv3.kernel", -1, 4 * stem) // BOTTLENECK_EXPANSION, 1)
    else:
        width = size(first_block + "conv1.kernel", -1, stem)
    inner = size(first_block + "conv1.kernel", -1, width)
    return {
        "depth": min(depths, default=max(STAGES)),
        "width": width,
        "stem_width": 0 if stem == width else stem,
        "widen": max(inner // width, 1),
        "groups": max(inner // max(size(first_block + "conv2.kernel", 2, inner), 1), 1) if bottleneck else 1,
    }


def fold_biases(named: Arrays, expected: Iterable[str]) -> Arrays:
    """Subtracts biases that are not `expected` from the mean of the norm that follows the convolution.

    This is exact: a norm subtracts its mean from the output of the convolution, which includes the bias.
    """
    folded, kept = dict(named), set(expected)
    for name, bias in named.items():
        norm = re.sub(r"conv(\d*)\.bias$", r"norm\1.mean", name)
        if name != norm and name not in kept and norm in folded and folded[norm].shape == bias.shape:
            folded[norm] = folded[norm] - bias
            del folded[name]
    return folded


def _as_float32(array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # What becomes infinite is refused.
        return array.astype(np.float32)


def _dimensions(ours: str) -> int:
    *_, module, leaf = ours.split(".")
    if leaf != "kernel":
        return 1
    return 4 if "conv" in module else 2


def _listed(names: list[str]) -> str:
    """Lists some of `names`: one of each kind first, rare kinds before others: the odd one is shown."""
    kinds = [re.sub(r"\d+", "", re.split(r"[ (]", name)[0]) for name in names]
    counts, seen = Counter(kinds), Counter[str]()
    order = []
    for name, kind in zip(names, kinds, strict=True):
        order.append(((seen[kind], counts[kind]), name))
        seen[kind] += 1
    ordered = [_shortened(name) for _, name in sorted(order, key=lambda pair: pair[0])]
    return first_of(ordered, NAMES_SHOWN)


def _shortened(name: str) -> str:
    return name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH // 2]}...{name[-NAME_LENGTH // 2 :]}"
