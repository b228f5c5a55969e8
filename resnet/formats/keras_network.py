"""The ResNet in the graph of a Keras model: found by what is computed, whatever its layers are called."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from resnet.architecture import BOTTLENECK_EXPANSION, STAGES, Architecture
from resnet.errors import UserError
from resnet.formats.keras import HEAD
from resnet.formats.keras_graph import Graph, Node, parse_graph
from resnet.formats.keras_model import keras_graph
from resnet.formats.keras_ops import Op, Ops, operations
from resnet.formats.keras_preprocessing import ReadWeights, read_preprocessing
from resnet.network import Network
from resnet.preprocessing import Preprocessing

WEIGHTS = {
    "Conv2D": ("kernel", "bias"),
    "Dense": ("kernel", "bias"),
    "BatchNormalization": ("gamma", "beta", "moving_mean", "moving_variance"),
}
_ADVICE = (
    "a global average pooling and one Dense layer, with softmax or without; to leave the head out, use"
    " config.init_head=replace"
)


class KerasNetwork(NamedTuple):
    """Fields of `Architecture` and `Preprocessing`, and layers by their names in Keras Applications."""

    model: dict[str, Any]
    data: dict[str, Any]
    layers: dict[str, Node]


def read_network(graph: Graph, source: str, read_weights: ReadWeights, *, with_head: bool) -> KerasNetwork:
    """Returns the network that `graph` describes, checked layer by layer.

    Without `with_head`, what comes after the last block is left out, whatever it is. `read_weights` returns
    the arrays of a layer, which are read for a `Normalization` only. `source` is the file.

    Raises:
        UserError: it computes something else than a network of this project; the message names the layer.
    """
    return _Reading(graph, source, with_head).network(read_weights)


class _Reading:
    def __init__(self, graph: Graph, source: str, with_head: bool) -> None:
        self._source = source
        self._with_head = with_head
        self._ops, self._output = operations(graph, source, with_head=with_head)
        # The keys of the operations that take the output of an operation.
        self._users: dict[str, list[str]] = {key: [] for key in self._ops}
        for key, op in self._ops.items():
            for name in op.inputs:
                self._users[name].append(key)

    def network(self, read_weights: ReadWeights) -> KerasNetwork:
        sums = [key for key, op in self._ops.items() if op.kind == "add" and len(op.inputs) == 2]
        if not sums:
            raise UserError(
                f"{self._source}: has no residual blocks in its graph; expected a ResNet of Keras"
                " Applications"
            )
        preactivation = not any(self._ops[user].kind == "relu" for key in sums for user in self._users[key])
        end = self._end_of_blocks(sums[-1], preactivation)
        fields = self._architecture(sums, preactivation)
        try:
            architecture = Architecture(**fields)
        except UserError as error:
            raise UserError(f"{self._source}: no network of this project ({error})") from None
        layers, entry = self._match(architecture, end)
        data = read_preprocessing(self._ops, entry, self._source, read_weights)
        if self._with_head and (head := self._head(end, data.get("image_size"))):
            layers[HEAD] = head
        return KerasNetwork(fields, data, layers)

    def _end_of_blocks(self, last_sum: str, preactivation: bool) -> str:
        """Returns the operation whose output is pooled: the last ReLU."""
        key = last_sum
        for kind in ("norm", "relu") if preactivation else ("relu",):
            key = self._next(key, kind)
        return key

    def _next(self, key: str, kind: str) -> str:
        """Returns the one user of the output of `key`, which is of `kind`."""
        users = self._users[key]
        if len(users) != 1 or self._ops[users[0]].kind != kind:
            node = self._ops[users[0] if users else key].node
            raise node.error(self._source, f"is after the last block, where only a {kind} is known")
        return users[0]

    def _branch(self, key: str) -> list[Op]:
        """Returns the convolutions of the longer branch that ends in the sum `key`, from first to last."""
        start, op = self._ops[self._ops[key].inputs[0]], self._ops[self._ops[key].inputs[1]]
        convolutions: list[Op] = []
        while op.inputs and op is not start and len(convolutions) < 4:
            if op.kind == "convolution":
                convolutions.insert(0, op)
            # The shorter branch begins where the longer one does, or has one layer or two on the way.
            if op.kind == "add" or op.depth <= start.depth - 2:
                break
            op = self._ops[op.inputs[0]]
        return convolutions

    def _architecture(self, sums: list[str], preactivation: bool) -> dict[str, Any]:
        """Returns the fields of the only architecture that the graph could be that of."""
        convolutions = [op for op in self._ops.values() if op.kind == "convolution"]
        first = self._branch(sums[0])
        bottleneck = len(first) >= 3 and first[-1].settings["kernel_size"] == 1
        kind = "bottleneck" if bottleneck else "basic"
        depths = [d for d, (blocks, its) in STAGES.items() if its == kind and sum(blocks) == len(sums)]
        if not depths or len(first) < 2:
            raise UserError(
                f"{self._source}: has {len(sums)} residual blocks of {len(first)} convolutions; expected"
                f" those of ResNet-{', '.join(map(str, STAGES))}"
            )
        first = first[-3:] if bottleneck else first[-2:]
        stem = _stem_of(convolutions)
        inner = _filters(first[0])
        width = max(_filters(first[-1]) // BOTTLENECK_EXPANSION, 1) if bottleneck else inner
        norms = [op.settings["epsilon"] for op in self._ops.values() if op.kind == "norm"]
        gates = [op for op in self._ops.values() if op.kind == "multiply"]
        subsampling = any(op.kind == "max" and op.settings["pool_size"] == 1 for op in self._ops.values())
        fields = {
            "depth": depths[0],
            "width": width,
            "variant": self._variant(convolutions, preactivation, bottleneck),
            "stem": stem,
            "stem_width": _filters(convolutions[2 if stem == "deep" else 0]),
            "max_pool": self._max_pool(preactivation),
            "shortcut": "average_pool" if self._averages() else "projection",
            "stride_in": "last_block" if preactivation and subsampling else "first_block",
            "groups": first[1].settings["groups"] if bottleneck else 1,
            "widen": max(inner // width, 1) if bottleneck else 1,
            "squeeze": self._squeeze(gates[0]) if gates else 0,
            "conv_bias": preactivation and bool(convolutions[0].node.settings.get("use_bias", True)),
            "norm_epsilon": norms[0] if norms else 1e-3,
        }
        return fields | ({"stem_width": 0} if fields["stem_width"] == width else {})

    def _variant(self, convolutions: list[Op], preactivation: bool, bottleneck: bool) -> str:
        if preactivation:
            return "v2"
        strided = [
            op for op in convolutions if op.settings["strides"] == 2 and op.settings["kernel_size"] == 3
        ]
        # Networks of basic blocks are the same in v1 and v1.5.
        return "v1.5" if len(strided) > (convolutions[0] in strided) or not bottleneck else "v1"

    def _averages(self) -> bool:
        """Returns whether shortcuts take means before their convolutions."""
        users = [self._users[key] for key, op in self._ops.items() if op.kind == "mean"]
        return any(self._ops[key].kind == "convolution" for keys in users for key in keys)

    def _max_pool(self, preactivation: bool) -> str:
        for op in self._ops.values():
            if op.kind == "max" and op.settings["pool_size"] > 1:
                is_padded = op.settings["padding"] != [[0, 0], [0, 0]]
                return ("zero_padded" if preactivation else "padded") if is_padded else "unpadded"
        return "none"

    def _squeeze(self, gate: Op) -> int:
        """Returns the reduction of the squeeze-and-excitation that ends in `gate`."""
        op, units = gate, []
        while op.inputs and op.kind != "global_mean":
            if op.kind == "dense":
                units.append(int(op.node.settings.get("units", 1)))
            op = self._ops[op.inputs[-1]]
        return max(units[0] // units[-1], 1) if units else 1

    def _match(self, architecture: Architecture, end: str) -> tuple[dict[str, Node], str]:
        """Returns the layers with weights by their names in Keras Applications, and the input of the network.

        Both graphs are walked from `end` to their inputs, side by side.
        """
        expected = _expected(architecture)
        layers: dict[str, Node] = {}
        pending, seen = [(end, expected.end)], dict[str, str]()
        entry = ""
        while pending:
            key, its = pending.pop()
            ours = expected.ops[its]
            if seen.setdefault(its, key) != key:
                raise self._ops[key].node.error(
                    self._source, f"is where {self._ops[seen[its]].node.name} was expected"
                )
            if ours.kind == "input":
                entry = key
                continue
            op = self._ops[key]
            self._check_same(op, ours, architecture)
            if op.node.kind in WEIGHTS and op.kind in ("convolution", "norm", "dense"):
                layers[ours.node.name] = op.node
            pending += [
                pair for pair in zip(op.inputs, ours.inputs, strict=True) if seen.get(pair[1]) != pair[0]
            ]
        if len({node.place for node in layers.values()}) < len(layers):
            raise UserError(
                f"{self._source}: a layer with weights is called twice; expected one for each place"
            )
        return layers, entry

    def _check_same(self, op: Op, ours: Op, architecture: Architecture) -> None:
        place = f"ResNet-{architecture.depth} at {ours.node.name}"
        if op.kind != ours.kind or len(op.inputs) != len(ours.inputs):
            raise op.node.error(
                self._source,
                f"computes {op.kind}, where a {ours.node.kind} was expected",
                f"the layers of a {place}",
            )
        for name, value in ours.settings.items():
            if op.settings[name] != value:
                raise op.node.error(self._source, f"{name}={op.settings[name]}", f"{value}, as in {place}")

    def _head(self, end: str, image_size: int | None) -> Node | None:
        """Returns the Dense layer after the pooling of the output of `end`, None if the model has none."""
        after = self._unpooled(list(self._after(end)), end, image_size)
        for op, expected in zip(after, ("dense", "softmax", ""), strict=False):
            if op.kind != expected:
                raise op.node.error(
                    self._source, f"is in the head{'' if op.kind == 'other' else f' as {op.kind}'}", _ADVICE
                )
        if after and after[0].node.settings.get("units") == 1:
            raise after[0].node.error(
                self._source, "units=1, of which no softmax makes a choice", "two or more"
            )
        return after[0].node if after else None

    def _unpooled(self, after: list[Op], end: str, image_size: int | None) -> list[Op]:
        """Returns `after` without its first operations, which are a mean over all positions."""
        if not after:
            return []
        pool, is_flattened = after[0], [op.kind for op in after[1:2]] == ["flatten"]
        is_mean = pool.kind == "global_mean" and (is_flattened or not pool.settings["keepdims"])
        if not is_mean and not (is_flattened and self._covers(pool, end, image_size)):
            raise pool.node.error(
                self._source, f"pools the last map of {image_size or 'any'} pixels", _ADVICE
            )
        return after[2:] if is_flattened else after[1:]

    def _after(self, key: str) -> Iterator[Op]:
        """Yields the operations after `key`, to the output of the model."""
        while key != self._output:
            users = self._users[key]
            if len(users) != 1:
                raise self._ops[key].node.error(self._source, f"{len(users)} layers take its output", _ADVICE)
            key = users[0]
            yield self._ops[key]

    def _covers(self, pool: Op, end: str, image_size: int | None) -> bool:
        """Returns whether a pooling has all of its map in one window."""
        if image_size is None or pool.kind != "mean":
            return False
        sides: dict[str, int] = {}
        for key, op in self._ops.items():
            side = sides[op.inputs[0]] if op.inputs else image_size
            if op.kind in ("convolution", "max") or (op.kind == "mean" and op.settings["padding"] != "same"):
                size = op.settings["kernel_size" if op.kind == "convolution" else "pool_size"]
                side = (side + sum(op.settings["padding"][0]) - size) // op.settings["strides"] + 1
            elif op.kind == "mean":
                side = -(-side // op.settings["strides"])
            sides[key] = side
        return bool(pool.settings["pool_size"] == sides[end] and pool.settings["padding"] == [[0, 0], [0, 0]])


def _filters(convolution: Op) -> int:
    return int(convolution.node.settings.get("filters", 1))


def _stem_of(convolutions: list[Op]) -> str:
    first = convolutions[0].settings
    if first["kernel_size"] != 3:
        return "7x7"
    return "deep" if first["strides"] == 2 and len(convolutions) > 2 else "3x3"


class _Expected(NamedTuple):
    ops: Ops
    end: str


@lru_cache(maxsize=8)
def _expected(architecture: Architecture) -> _Expected:
    """Returns the operations of `architecture` as Keras Applications would have them, up to the last ReLU."""
    shapes = Network(architecture, Preprocessing(), 1).shapes()
    blank = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    graph = parse_graph(keras_graph(blank, architecture), "export")
    ops, output = operations(graph, "export")
    pool = ops[output].inputs[0]
    return _Expected(ops, ops[pool].inputs[0])
