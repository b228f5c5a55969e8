"""A network's weights in the formats of other frameworks, which read them without this project."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from resnet.architecture import Architecture
from resnet.errors import UserError
from resnet.files import cannot_write, write_result
from resnet.formats import EXPORT_FORMATS, PROGRAMS, huggingface, torchvision
from resnet.formats.keras_model import keras_archive
from resnet.formats.names import Arrays, Format
from resnet.formats.onnx_model import FLOAT32, OnnxOptions, onnx_model
from resnet.formats.reading import OWN
from resnet.formats.safetensors_file import write_safetensors
from resnet.formats.stablehlo import stablehlo_program
from resnet.network import Network, Weights
from resnet.preprocessing import Preprocessing

# Fields of `Architecture` that say how weights are first drawn, not what they are.
INITIAL_ONLY = ("zero_init_last",)
# The fields of `Architecture` that the networks of PyTorch leave free; the others have one value there.
TORCHVISION_FREE = ("depth", "width", "stem_width", "groups", "widen")
HUGGINGFACE_FREE = ("depth", "width", "stem_width", "variant")
TORCH_EPSILON = 1e-5
HEAD = {"head.kernel", "head.bias"}


class Exported(NamedTuple):
    """A network that is about to be written: its arrays by our names, and what describes it."""

    named: Arrays
    architecture: Architecture
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    onnx: OnnxOptions

    def description(self, **architecture_changes: Any) -> dict[str, Any]:
        """Returns what the metadata of a file says of the network, for `read_pretrained`."""
        model = asdict(self.architecture) | architecture_changes
        data = asdict(self.preprocessing)
        del data["temperature"]  # It is in the head.
        test_time_flip = data.pop("test_time_flip")
        return {
            "model": {name: value for name, value in model.items() if name not in INITIAL_ONLY},
            "data": data,
            "class_names": self.class_names,
            "test_time_flip": test_time_flip,
        }

    def in_rgb(self) -> "Exported":
        """Returns the same network for pictures in red, green and blue. Its stem must be one convolution.

        A state dict has no place for another order, and whatever loads it prepares pictures in this one.
        """
        if self.preprocessing.channel_order == "rgb":
            return self
        kernel = self.named["stem_conv.kernel"]
        return self._replace(
            named={**self.named, "stem_conv.kernel": kernel[:, :, ::-1]},
            preprocessing=replace(self.preprocessing, channel_order="rgb"),
        )


def _safetensors_files(network: Exported) -> dict[str, bytes]:
    content = write_safetensors(network.named, {**network.description(), "format": OWN.name})
    return {"resnet.safetensors": content}


def _keras_files(network: Exported) -> dict[str, bytes]:
    return {"model.keras": keras_archive(network.named, network.architecture, network.description())}


def _torchvision_files(network: Exported) -> dict[str, bytes]:
    _check_expressible(network.architecture, "torchvision", TORCHVISION_FREE)
    network = network.in_rgb()
    arrays = _torch_arrays(network.named, network.architecture, torchvision.FORMAT)
    description = network.description(norm_epsilon=TORCH_EPSILON)
    return {"torchvision.safetensors": write_safetensors(arrays, description)}


def _huggingface_files(network: Exported) -> dict[str, bytes | None]:
    _check_expressible(network.architecture, "huggingface", HUGGINGFACE_FREE)
    network = network.in_rgb()
    table = huggingface.FORMAT if network.class_names else huggingface.MODEL
    arrays = _torch_arrays(network.named, network.architecture, table)
    description = network.description(norm_epsilon=TORCH_EPSILON)
    config = huggingface.config_json(network.architecture, network.class_names)
    preprocessor = None
    if huggingface.has_preprocessor(network.preprocessing):
        preprocessor = _json(huggingface.preprocessor_json(description["data"]))
    files: dict[str, bytes | None] = {
        "huggingface/preprocessor_config.json": preprocessor,
        "huggingface/model.safetensors": write_safetensors(arrays, description),
        "huggingface/config.json": _json(config),
        "huggingface/model.onnx": None,  # A push writes it anew.
    }
    # `--mode=export` writes a model card of every network that has classes.
    return files if network.class_names else files | {"huggingface/README.md": None}


def _onnx_files(network: Exported) -> dict[str, bytes]:
    model = onnx_model(
        network.named,
        network.architecture,
        network.preprocessing,
        class_names=network.class_names,
        description=network.description(),
        options=network.onnx,
    )
    precision = network.onnx.precision
    return {"model.onnx" if precision == "float32" else f"model_{precision}.onnx": model}


def _stablehlo_files(network: Exported) -> dict[str, bytes]:
    program = stablehlo_program(
        network.architecture,
        network.preprocessing,
        len(network.class_names),
        Weights.from_named(network.named),
    )
    return {"model.stablehlo": program, "model.json": _json(network.description())}


class Exporter(NamedTuple):
    """A format: the files to write, by relative path, and the `folder` of them if that is what is loaded.

    The content of a file is None if this network has none of that name. Networks `for_pytorch` take channels
    first, in the order red, green, blue.
    """

    files: Callable[[Exported], Mapping[str, bytes | None]]
    folder: str = ""
    for_pytorch: bool = False


EXPORTERS = {
    "torchvision": Exporter(_torchvision_files, for_pytorch=True),
    "huggingface": Exporter(_huggingface_files, "huggingface", for_pytorch=True),
    "keras": Exporter(_keras_files),
    "safetensors": Exporter(_safetensors_files),
    "onnx": Exporter(_onnx_files),
    "stablehlo": Exporter(_stablehlo_files),
}


def export(
    network: Network,
    weights: Weights,
    class_names: tuple[str, ...],
    *,
    format: str,
    folder: Path,
    onnx: OnnxOptions = FLOAT32,
) -> Path:
    """Writes `weights` in `format` into `folder` and returns the path that the other framework loads.

    `torchvision` (for timm too) and `safetensors` (with the names of this project) are one file, `keras` is a
    model with its graph, `huggingface` a folder for `from_pretrained`. `onnx` and `stablehlo` are programs
    from pictures to probabilities, for any runtime and for JAX alone. Normalisation and class names are in
    the metadata of the file, or in a file beside it. Running variances absorb the difference to the epsilon
    that the other code adds. The head absorbs the temperature, so that the softmax of its logits is the
    answer of this project. Weights without a head are written without one. For PyTorch, a network that takes
    blue, green and red becomes one that takes red, green and blue. A file of the format that an earlier
    export left in `folder`, and that this network does not have, is removed: it would describe other weights.

    Raises:
        UserError: there is no such format, it has no such network, or `folder` cannot be written.
    """
    if format not in EXPORTERS:
        raise UserError(f"format {format}: no such format; expected one of {', '.join(EXPORT_FORMATS)}")
    named = weights.named()
    for name in HEAD & named.keys():
        if class_names:
            named[name] = named[name] / np.float32(network.preprocessing.temperature)
        else:  # Its arrays are empty, which no reader takes for weights.
            del named[name]
    exporter = EXPORTERS[format]
    files = exporter.files(Exported(named, network.architecture, network.preprocessing, class_names, onnx))
    for name, content in files.items():
        if content is None:
            _remove(folder / name)
        else:
            write_result(folder / name, content)
    return folder / (exporter.folder or next(iter(files)))


def describe_input(preprocessing: Preprocessing, format: str) -> str:
    """Describes the input of the network in `format`: shape, channel order, normalisation and views."""
    side = preprocessing.image_size
    if format in PROGRAMS:
        return f"uint8 [N, {side}, {side}, 3], RGB; everything else is in the model"
    for_pytorch = EXPORTERS[format].for_pytorch
    shape = [3, side, side] if for_pytorch else [side, side, 3]
    channel_order = "rgb" if for_pytorch else preprocessing.channel_order  # as in `Exported.in_rgb`
    mean, std = list(preprocessing.mean), list(preprocessing.std)
    normalized = {
        "none": f"(pixels / 255 - {mean}) / {std} of red, green and blue",
        "image": "pixels less their mean, over their standard deviation, of each image",
        "channel": "pixels less their mean, over their standard deviation, of each channel of each image",
    }[preprocessing.standardize]
    square = {"crop": "", "pad": "; padded to a square with grey", "stretch": "; stretched to a square"}
    views = "; as an image and as its mirror image, of whose logits the mean is taken"
    return (
        f"float32 [N, {', '.join(map(str, shape))}], {channel_order.upper()}; {normalized}"
        f"{square[preprocessing.fit]}{views if preprocessing.test_time_flip else ''}"
    )


def _check_expressible(architecture: Architecture, format: str, free: tuple[str, ...]) -> None:
    standard = asdict(Architecture())
    differing = [
        f"config.model.{name}={value}"
        for name, value in asdict(architecture).items()
        if name not in (*free, "zero_init_last", "norm_epsilon") and value != standard[name]
        # Networks of basic blocks are the same in v1 and v1.5.
        if not (name == "variant" and value == "v1" and not architecture.bottleneck)
    ]
    if "variant" in free and architecture.preactivation:
        differing.append("config.model.variant=v2")
    if len(architecture.blocks) != 4:
        differing.append(f"config.model.depth={architecture.depth}")
    if differing:
        raise UserError(
            f"--format={format}: has no network with {', '.join(differing)}; expected what is common to"
            " both, or another format: keras takes nearly all, safetensors all"
        )


def _torch_arrays(named: Arrays, architecture: Architecture, format: Format) -> Arrays:
    """Returns the state dict of a PyTorch network, whose norms add 1e-5 to the variance and count batches."""
    arrays: Arrays = {}
    for name, array in named.items():
        translated = format.foreign_name(name)
        assert translated is not None  # `_check_expressible` has seen to it.
        foreign, transform = translated
        if name.endswith(".var"):
            arrays[foreign.replace("running_var", "num_batches_tracked")] = np.zeros((), np.int64)
            if (excess := architecture.norm_epsilon - TORCH_EPSILON) != 0:
                array = (array.astype(np.float64) + excess).astype(np.float32)
        arrays[foreign] = transform.to_foreign(array)
    return arrays


def _remove(file: Path) -> None:
    """Removes `file` if it is there.

    Raises:
        UserError: it cannot be removed.
    """
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(file, error) from None


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
