"""Writes a network as an ONNX model: pictures as uint8 in, logits and probabilities out.

The graph is made from the architecture. Norms that follow a convolution are folded into it, and what the
network needs done to its images is part of the graph. So any runtime answers as `Classifier` does, once the
pictures are squares of the right size.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from resnet.architecture import Architecture
from resnet.errors import UserError
from resnet.formats import PRECISIONS
from resnet.formats.containers import DESCRIPTION
from resnet.formats.names import Arrays
from resnet.formats.onnx_precision import quantized, with_float16_weights
from resnet.network import LEAST_DEVIATION
from resnet.preprocessing import Preprocessing

if TYPE_CHECKING:
    import onnx

# The oldest that has all operators here. Version 4 of the format is the one that came with it.
OPSET, IR_VERSION = 9, 4
INPUT, LOGITS, PROBABILITIES = "images", "logits", "probabilities"
PRODUCER = "resnet-signs"
CLASS_NAMES, NOTES = "class_names", "notes"  # entries of the metadata


class OnnxOptions(NamedTuple):
    """How to write an ONNX model.

    `precision` is one of `resnet.formats.PRECISIONS`. Only int8 needs `calibration`: pictures uint8
    [N, S, S, 3] such as the network will see. `notes` go into the metadata, as JSON.
    """

    precision: str = "float32"
    calibration: np.ndarray | None = None
    notes: Mapping[str, Any] = {}


FLOAT32 = OnnxOptions()


class _Graph:
    """The nodes of a model. Its methods add one node or a few, and return the name of what they give."""

    def __init__(self, named: Arrays, architecture: Architecture, side: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.architecture = architecture
        self._named = dict(named)
        self._sides = {INPUT: side}  # of square maps, by name

    def add(self, operator: str, inputs: list[str], name: str = "", **attributes: Any) -> str:
        """Adds a node; what it gives has its name, or one that counts the nodes."""
        from onnx import helper

        name = name or f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        side = self._sides.get(inputs[0], 0)
        if operator == "Pad":
            side += attributes["pads"][2] + attributes["pads"][6]
        elif "strides" in attributes:
            before, after = attributes.get("pads", [0] * 4)[1:3]
            side = (side + before + after - attributes["kernel_shape"][0]) // attributes["strides"][0] + 1
        self._sides[name] = side
        return name

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        """Adds an array that is part of the model, and returns its name."""
        self.constants[name] = np.asarray(value, dtype)
        return name

    def side(self, x: str) -> int:
        """Returns the side of the square map `x`, in pixels."""
        return self._sides[x]

    def has(self, ours: str) -> bool:
        """Returns whether the network has the array `ours`."""
        return ours in self._named

    def channels(self, ours: str) -> tuple[int, int]:
        """Returns how many channels the convolution `ours` takes and gives; it has one group."""
        *_, taken, given = self._named[f"{ours}.kernel"].shape
        return taken, given

    def change_inputs(self, ours: str, factor: np.ndarray, *, reverse: bool) -> None:
        """Lets the convolution `ours` multiply its inputs by `factor` [C], or take them in reverse order."""
        kernel = self._named[f"{ours}.kernel"]
        kernel = kernel[:, :, ::-1] if reverse else kernel
        self._named[f"{ours}.kernel"] = kernel * factor.reshape(-1, 1)

    def conv(self, x: str, ours: str, stride: int = 1, *, groups: int = 1, norm: str = "") -> str:
        """Adds the convolution `ours`, with the batch norm `norm` folded into it."""
        kernel = self._named[f"{ours}.kernel"].astype(np.float64)
        bias = self._named.get(f"{ours}.bias", np.zeros(kernel.shape[-1])).astype(np.float64)
        if norm:
            factor, offset = self._factor_and_offset(norm)
            kernel, bias = kernel * factor, bias * factor + offset
        inputs = [x, self.constant(f"{ours}.weight", kernel.transpose(3, 2, 0, 1))]
        if norm or self.has(f"{ours}.bias"):
            inputs.append(self.constant(f"{ours}.bias", bias))
        size = len(kernel)
        edges = [(size - 1) // 2] * 4
        return self.add(
            "Conv", inputs, ours, kernel_shape=[size] * 2, strides=[stride] * 2, pads=edges, group=groups
        )

    def norm(self, x: str, ours: str) -> str:
        """Adds a batch norm that no convolution precedes."""
        factor, offset = self._factor_and_offset(ours)
        shape = (1, -1, 1, 1)
        scaled = self.add("Mul", [x, self.constant(f"{ours}.factor", factor.reshape(shape))])
        return self.add("Add", [scaled, self.constant(f"{ours}.offset", offset.reshape(shape))], ours)

    def relu(self, x: str) -> str:
        """Adds a ReLU."""
        return self.add("Relu", [x], f"{x}.relu")

    def _factor_and_offset(self, norm: str) -> tuple[np.ndarray, np.ndarray]:
        scale, bias, mean, var = (
            self._named[f"{norm}.{leaf}"].astype(np.float64) for leaf in ("scale", "bias", "mean", "var")
        )
        factor = scale / np.sqrt(var + self.architecture.norm_epsilon)
        return factor, bias - mean * factor

    def dense(self, x: str, ours: str, name: str = "") -> str:
        """Adds the linear layer `ours` on `x` [N, C]."""
        arrays = [
            self.constant(f"{ours}.{leaf}", self._named[f"{ours}.{leaf}"]) for leaf in ("kernel", "bias")
        ]
        return self.add("Gemm", [x, *arrays], name or ours)


def onnx_model(
    named: Arrays,
    architecture: Architecture,
    preprocessing: Preprocessing,
    *,
    class_names: tuple[str, ...],
    description: dict[str, Any],
    options: OnnxOptions,
) -> bytes:
    """Returns the bytes of an `.onnx` file with the weights `named` of the network of `architecture`.

    Its input `images` is uint8 [N, S, S, 3] in RGB, for any N. Its outputs are `logits` and `probabilities`,
    float32 [N, classes], with the mirror image if the network predicts with it. `description`, the class
    names and the notes of `options` are in the metadata.

    Raises:
        UserError: the package onnx is not installed, the network has no head, or it does not fit the
            precision.
    """
    try:
        import onnx
        from onnx import TensorProto, helper, numpy_helper
    except ImportError:
        raise UserError("--format=onnx: needs the package onnx; install it: pip install onnx") from None
    if not class_names:
        raise UserError("--format=onnx: these weights have no head and so no classes; expected a classifier")
    side = preprocessing.image_size
    graph = _Graph(named, architecture, side)
    _add_network(graph, preprocessing)
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", len(class_names)])
        for name in (LOGITS, PROBABILITIES)
    ]
    pictures = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["N", side, side, 3])
    constants = [numpy_helper.from_array(array, name) for name, array in graph.constants.items()]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "resnet", [pictures], outputs, constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name=PRODUCER,
    )
    names = json.dumps(class_names, ensure_ascii=False)
    notes = json.dumps(dict(options.notes), ensure_ascii=False)
    helper.set_model_props(model, {DESCRIPTION: json.dumps(description), CLASS_NAMES: names, NOTES: notes})
    model = _in_precision(model, options)
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)


def _in_precision(model: "onnx.ModelProto", options: OnnxOptions) -> "onnx.ModelProto":
    if options.precision == "float16":
        return with_float16_weights(model)
    if options.precision == "int8":
        if options.calibration is None:
            raise UserError("precision int8: needs pictures to calibrate it by; give some as calibration")
        return quantized(model, options.calibration)
    if options.precision not in PRECISIONS:
        raise UserError(f"precision {options.precision}: expected one of {', '.join(PRECISIONS)}")
    return model


def _add_network(graph: _Graph, preprocessing: Preprocessing) -> None:
    a = graph.architecture
    x = _add_stem(graph, _add_preparation(graph, preprocessing))
    for stage, count in enumerate(a.blocks, start=1):
        for block in range(1, count + 1):
            x = _add_block(graph, x, f"stage{stage}.block{block}", a.stride(stage, block))
    if a.preactivation:
        x = graph.relu(graph.norm(x, "final_norm"))
    x = graph.add("Flatten", [graph.add("GlobalAveragePool", [x])])
    if preprocessing.test_time_flip:
        both = graph.dense(x, "head")
        shape = graph.constant("views", [2, -1, graph.constants["head.bias"].size], np.int64)
        both = graph.add("Reshape", [both, shape])
        graph.add("ReduceMean", [both], LOGITS, axes=[0], keepdims=0)
    else:
        graph.dense(x, "head", LOGITS)
    graph.add("Softmax", [LOGITS], PROBABILITIES, axis=1)


def _add_preparation(graph: _Graph, preprocessing: Preprocessing) -> str:
    """Adds what `Network.normalize` does, and the mirror images behind the images.

    The first convolution divides by the standard deviation, and takes the channels in their order. It cannot
    subtract the mean, as its padding comes after that.
    """
    from onnx import TensorProto

    x = graph.add("Transpose", [INPUT], perm=[0, 3, 1, 2])
    x = graph.add("Cast", [x], to=TensorProto.FLOAT)
    side = graph.side(INPUT)
    factor = np.ones(3)
    if preprocessing.standardize == "none":
        factor = 1 / (255 * np.array(preprocessing.std))
        mean = 255 * np.reshape(preprocessing.mean, (1, 3, 1, 1))
        x = graph.add("Sub", [x, graph.constant("mean", mean)])
    else:
        axes = [2, 3] if preprocessing.standardize == "channel" else [1, 2, 3]
        x = graph.add("Sub", [x, graph.add("ReduceMean", [x], axes=axes, keepdims=1)])
        variance = graph.add("ReduceMean", [graph.add("Mul", [x, x])], axes=axes, keepdims=1)
        least = graph.constant("least_deviation", LEAST_DEVIATION)
        x = graph.add("Div", [x, graph.add("Max", [graph.add("Sqrt", [variance]), least])])
    stem = "stem_conv1" if graph.architecture.stem == "deep" else "stem_conv"
    graph.change_inputs(stem, factor, reverse=preprocessing.channel_order == "bgr")
    if preprocessing.test_time_flip:
        mirrored = graph.constant("mirrored", np.arange(side)[::-1], np.int64)
        x = graph.add("Concat", [x, graph.add("Gather", [x, mirrored], axis=3)], axis=0)
    return x


def _add_stem(graph: _Graph, x: str) -> str:
    a = graph.architecture
    if a.stem == "deep":
        x = graph.relu(graph.conv(x, "stem_conv1", 2, norm="stem_norm1"))
        x = graph.relu(graph.conv(x, "stem_conv2", norm="stem_norm2"))
    stride = 2 if a.stem == "7x7" else 1
    if a.preactivation:
        x = graph.conv(x, "stem_conv", stride)
    else:
        x = graph.relu(graph.conv(x, "stem_conv", stride, norm="stem_norm"))
    if a.max_pool == "none":
        return x
    edges = [0] * 4 if a.max_pool == "unpadded" else [1] * 4
    if a.max_pool == "zero_padded" and a.preactivation:
        # MaxPool pads with minus infinity, which only after a ReLU is as good as zeros.
        x, edges = graph.add("Pad", [x], pads=[0, 0, 1, 1, 0, 0, 1, 1]), [0] * 4
    return graph.add("MaxPool", [x], "stem_pool", kernel_shape=[3, 3], strides=[2, 2], pads=edges)


def _add_block(graph: _Graph, x: str, ours: str, stride: int) -> str:
    a = graph.architecture
    depth = 3 if a.bottleneck else 2
    strides = {1: stride} if not a.bottleneck or a.variant == "v1" else {2: stride}
    y = projected = graph.relu(graph.norm(x, f"{ours}.norm1")) if a.preactivation else x
    for i in range(1, depth + 1):
        # With pre-activation, the norm of the next convolution is the one to fold.
        following = i + 1 if a.preactivation else i
        norm = f"{ours}.norm{following}" if following <= depth else ""
        groups = a.groups if i == 2 and a.bottleneck else 1
        y = graph.conv(y, f"{ours}.conv{i}", strides.get(i, 1), groups=groups, norm=norm)
        if i < depth:
            y = graph.relu(y)
    if a.squeeze:
        y = _add_squeeze(graph, y, f"{ours}.squeeze")
    if a.residual:
        more = graph.channels(f"{ours}.conv{depth}")[1] - graph.channels(f"{ours}.conv1")[0]
        shortcut = _add_shortcut(graph, x, projected, ours=f"{ours}.shortcut", stride=stride, more=more)
        y = graph.add("Add", [y, shortcut], ours)
    return y if a.preactivation else graph.relu(y)


def _add_shortcut(graph: _Graph, x: str, projected: str, *, ours: str, stride: int, more: int) -> str:
    """Adds the shortcut of a block with `more` channels out than in."""
    a = graph.architecture
    if graph.has(f"{ours}.conv.kernel"):
        if a.shortcut == "average_pool" and stride > 1:
            odd = graph.side(projected) % 2
            projected = graph.add(
                "AveragePool", [projected], kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, odd, odd]
            )
            stride = 1
        return graph.conv(projected, f"{ours}.conv", stride, norm="" if a.preactivation else f"{ours}.norm")
    if stride > 1:
        x = graph.add("MaxPool", [x], kernel_shape=[1, 1], strides=[stride] * 2)
    return graph.add("Pad", [x], pads=[0, 0, 0, 0, 0, more, 0, 0]) if more else x


def _add_squeeze(graph: _Graph, x: str, ours: str) -> str:
    gates = graph.add("Flatten", [graph.add("GlobalAveragePool", [x])])
    gates = graph.relu(graph.dense(gates, f"{ours}.reduce"))
    gates = graph.add("Sigmoid", [graph.dense(gates, f"{ours}.expand")])
    shape = graph.constant("gates", [0, -1, 1, 1], np.int64)
    return graph.add("Mul", [x, graph.add("Reshape", [gates, shape])])
