"""What the layers of a Keras model compute in predictions, however they are spelled.

A padding is part of the convolution or pooling after it, an activation is an operation of its own, and a
layer that is active in training only is none.
"""

from typing import Any, NamedTuple

from resnet.errors import UserError
from resnet.formats.keras_graph import Graph, Node
from resnet.json_files import Schema, check_json

# These do nothing in predictions.
INACTIVE = {
    "ActivityRegularization", "AlphaDropout", "Dropout", "GaussianDropout", "GaussianNoise", "Identity",
    "SpatialDropout2D",
    "AugMix", "CutMix", "MixUp", "RandAugment", "RandomBrightness", "RandomColorDegeneration",
    "RandomColorJitter", "RandomContrast", "RandomElasticTransform", "RandomErasing", "RandomFlip",
    "RandomGaussianBlur", "RandomGrayscale", "RandomHue", "RandomInvert", "RandomPerspective",
    "RandomPosterization", "RandomRotation", "RandomSaturation", "RandomSharpness", "RandomShear",
    "RandomTranslation", "RandomZoom",
}  # fmt: skip
ACTIVATIONS = ("relu", "sigmoid", "softmax")
FLOATS = ["float16", "bfloat16", "float32", "float64", "mixed_float16", "mixed_bfloat16"]


def _layer(**settings: Schema) -> Schema:
    """Returns the schema of a layer's settings: `settings`, and those that change no prediction."""
    policy = {"type": ["string", "object"], "anyOf": [{"enum": FLOATS}, {"type": "object"}]}
    policy["properties"] = {"config": {"properties": {"name": {"enum": FLOATS}}}}
    ignored = (
        "name trainable momentum synchronized batch_input_shape kernel_initializer bias_initializer"
        " beta_initializer gamma_initializer moving_mean_initializer moving_variance_initializer"
        " kernel_regularizer bias_regularizer beta_regularizer gamma_regularizer activity_regularizer"
        " kernel_constraint bias_constraint beta_constraint gamma_constraint renorm_clipping renorm_momentum"
    )
    free: dict[str, Schema] = {name: {} for name in ignored.split()}
    fixed = {"data_format": _one_of("channels_last", None), "dtype": policy}
    return {"type": "object", "properties": free | fixed | settings, "additionalProperties": False}


def _one_of(*values: Any) -> Schema:
    return {"enum": list(values)}


_NUMBER = {"type": "integer", "minimum": 1, "maximum": 2**31}
_SQUARE = {"type": "array", "prefixItems": [_NUMBER, _NUMBER], "minItems": 2, "maxItems": 2}
_EDGE = {
    "type": "array",
    "items": {"type": "integer", "minimum": 0, "maximum": 64},
    "minItems": 2,
    "maxItems": 2,
}
_POOL = _layer(
    pool_size=_SQUARE, strides={"anyOf": [_SQUARE, {"type": "null"}]}, padding=_one_of("valid", "same")
)

# What a layer that computes something may say. What a ResNet of this project has not is not among it.
LAYERS: dict[str, Schema] = {
    "ZeroPadding2D": _layer(padding={"type": "array", "items": _EDGE, "minItems": 2, "maxItems": 2}),
    "Conv2D": _layer(
        filters=_NUMBER,
        kernel_size=_SQUARE,
        strides=_SQUARE,
        padding=_one_of("valid", "same"),
        dilation_rate=_one_of([1, 1]),
        groups=_NUMBER,
        activation={},
        use_bias={"type": "boolean"},
        lora_rank=_one_of(None),
        lora_alpha=_one_of(None),
    ),
    "BatchNormalization": _layer(
        axis=_one_of(-1, 3, [-1], [3]),
        epsilon={"type": "number"},
        center=_one_of(True),
        scale=_one_of(True),
        renorm=_one_of(False),
        fused={},
    ),
    "Dense": _layer(
        units=_NUMBER,
        activation={},
        use_bias={"type": "boolean"},
        lora_rank=_one_of(None),
        lora_alpha=_one_of(None),
        quantization_config=_one_of(None),
    ),
    "Activation": _layer(activation={}),
    "ReLU": _layer(max_value=_one_of(None), negative_slope=_one_of(0, None), threshold=_one_of(0, None)),
    "Softmax": _layer(axis=_one_of(-1, [-1])),
    "MaxPooling2D": _POOL,
    "AveragePooling2D": _POOL,
    "GlobalAveragePooling2D": _layer(keepdims={"type": "boolean"}),
    "Flatten": _layer(),
    "Add": _layer(),
    "Multiply": _layer(),
}
# The same as operations: `keras.ops.relu(x)`, or `x + y`.
SAME_LAYER = {"Relu": "ReLU"}


class Op(NamedTuple):
    """An operation: its kind, its settings, the keys of its inputs, and its layer in Keras.

    `depth` counts the operations before it. Sums and products have their inputs by depth.
    """

    kind: str
    settings: dict[str, Any]
    inputs: tuple[str, ...]
    depth: int
    node: Node


Ops = dict[str, Op]


def operations(graph: Graph, source: str, *, with_head: bool = True) -> tuple[Ops, str]:
    """Returns the operations of `graph`, each after its inputs, and the key of the last one.

    A layer that no ResNet has is an operation of the kind `other`. Without `with_head`, so is a layer after
    the last sum that has other settings.

    Raises:
        UserError: a layer has settings that no ResNet has; the message names layer, setting and value.
    """
    reader = _Reader(source)
    sums = [i for i, node in enumerate(graph.nodes.values()) if node.kind == "Add" and len(node.inputs) > 1]
    for index, (key, node) in enumerate(graph.nodes.items()):
        try:
            reader.add(key, node)
        except UserError:
            if with_head or index < max(sums, default=0):
                raise
            reader.add_other(key, node)
    return reader.ops, reader.last[graph.output]


class _Reader:
    """Collects operations. `last` has the operation whose output is that of a call of a layer."""

    def __init__(self, source: str) -> None:
        self.ops: Ops = {}
        self.last: dict[str, str] = {}
        self._source = source

    def add(self, key: str, node: Node) -> None:
        """Adds the operations of the call `node` of a layer."""
        inputs = [self.last[name] for name in node.inputs]
        kind = SAME_LAYER.get(node.kind, node.kind)
        # Of several tensors in a list, as in Add()([x, y]), the list is the only argument.
        is_usual = len(node.arguments) == 1 or len(inputs) == len(node.arguments)
        if node.kind in INACTIVE and len(inputs) == 1:
            self.last[key] = inputs[0]
        elif node.kind == "InputLayer":
            self._append(key, "input", {}, inputs, node)
        elif kind not in LAYERS or not is_usual or not inputs:
            self.add_other(key, node)
        else:
            check_json(node.settings, LAYERS[kind], f"{self._source}: layer {node.name} ({node.kind})")
            getattr(self, f"_add_{_METHODS[kind]}")(key, node, inputs)

    def add_other(self, key: str, node: Node) -> None:
        """Adds the call `node` of a layer that no ResNet has."""
        self._append(key, "other", {}, [self.last[name] for name in node.inputs], node)

    def _append(self, key: str, kind: str, settings: dict[str, Any], inputs: list[str], node: Node) -> None:
        if kind in ("add", "multiply"):
            inputs = sorted(inputs, key=lambda name: self.ops[name].depth)
        depth = 1 + max((self.ops[name].depth for name in inputs), default=-1)
        while key in self.ops:
            key += "'"  # The activation of the same layer.
        self.ops[key] = Op(kind, settings, tuple(inputs), depth, node)
        self.last[key.rstrip("'")] = key

    def _add_padding(self, key: str, node: Node, inputs: list[str]) -> None:
        self._append(
            key, "padding", {"padding": node.settings.get("padding", [[1, 1], [1, 1]])}, inputs, node
        )

    def _padded(
        self, inputs: list[str], node: Node, size: int, stride: int
    ) -> tuple[list[str], list[list[int]]]:
        """Returns the inputs of a convolution or pooling before their padding, and the padding."""
        none = [[0, 0], [0, 0]]
        if node.settings.get("padding", "valid") == "same" and size > 1:
            if stride > 1 or size % 2 == 0:
                raise node.error(
                    self._source,
                    f"padding=same with strides={stride}, which pads more below and on the right",
                    "padding=valid after a ZeroPadding2D, as Keras Applications have it",
                )
            return inputs, [[(size - 1) // 2] * 2] * 2
        before = self.ops[inputs[0]]
        return ([*before.inputs], before.settings["padding"]) if before.kind == "padding" else (inputs, none)

    def _square(self, node: Node, setting: str, default: int) -> int:
        height, width = node.settings.get(setting) or [default, default]
        if height != width:
            raise node.error(self._source, f"{setting}={[height, width]}", "the same twice")
        return int(height)

    def _add_convolution(self, key: str, node: Node, inputs: list[str]) -> None:
        size, stride = self._square(node, "kernel_size", 1), self._square(node, "strides", 1)
        inputs, padding = self._padded(inputs, node, size, stride)
        settings = {
            "kernel_size": size,
            "strides": stride,
            "padding": padding,
            "groups": node.settings.get("groups", 1),
        }
        self._append(key, "convolution", settings, inputs, node)
        self._add_activation(key, node, [self.last[key]])

    def _add_pooling(self, key: str, node: Node, inputs: list[str]) -> None:
        size = self._square(node, "pool_size", 2)
        stride = self._square(node, "strides", size)
        kind = "max" if node.kind == "MaxPooling2D" else "mean"
        padding: Any = "same"
        # The mean of a window that reaches over the edge is that of its pixels inside: no padding of zeros.
        if kind == "max" or node.settings.get("padding") != "same" or size == 1:
            inputs, padding = self._padded(inputs, node, size, stride)
        self._append(key, kind, {"pool_size": size, "strides": stride, "padding": padding}, inputs, node)

    def _add_norm(self, key: str, node: Node, inputs: list[str]) -> None:
        self._append(key, "norm", {"epsilon": node.settings.get("epsilon", 1e-3)}, inputs, node)

    def _add_dense(self, key: str, node: Node, inputs: list[str]) -> None:
        self._append(key, "dense", {}, inputs, node)
        self._add_activation(key, node, [self.last[key]])

    def _add_activation(self, key: str, node: Node, inputs: list[str]) -> None:
        name = {"ReLU": "relu", "Relu": "relu", "Softmax": "softmax"}.get(node.kind)
        name = name or node.settings.get("activation", "linear")
        if name == "linear":
            self.last[key] = inputs[0]
        else:
            kind = name if name in ACTIVATIONS else f"activation={name!r:.80}"
            self._append(key, kind, {}, inputs, node)

    def _add_global_mean(self, key: str, node: Node, inputs: list[str]) -> None:
        self._append(key, "global_mean", {"keepdims": node.settings.get("keepdims", False)}, inputs, node)

    def _add_flatten(self, key: str, node: Node, inputs: list[str]) -> None:
        self._append(key, "flatten", {}, inputs, node)

    def _add_sum(self, key: str, node: Node, inputs: list[str]) -> None:
        self._append(key, "add", {}, inputs, node)

    def _add_product(self, key: str, node: Node, inputs: list[str]) -> None:
        self._append(key, "multiply", {}, inputs, node)


_METHODS = {
    "ZeroPadding2D": "padding",
    "Conv2D": "convolution",
    "BatchNormalization": "norm",
    "Dense": "dense",
    "Activation": "activation",
    "ReLU": "activation",
    "Softmax": "activation",
    "MaxPooling2D": "pooling",
    "AveragePooling2D": "pooling",
    "GlobalAveragePooling2D": "global_mean",
    "Flatten": "flatten",
    "Add": "sum",
    "Multiply": "product",
}
