"""Writes a network as a Keras archive (`.keras`): the graph of its layers as JSON, and their weights as HDF5.

`keras.models.load_model` reads it. Layers have the names of Keras Applications. The input is normalised
images, the output logits, or pooled features of weights without a head.
"""

import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import h5py
import numpy as np

from resnet.architecture import Architecture
from resnet.errors import UserError
from resnet.formats import keras
from resnet.formats.containers import DESCRIPTION
from resnet.formats.names import Arrays

KERAS_VERSION = "3.15.1"  # The release whose layout this is.
# Keras expects a date. It is fixed so that the same weights give the same bytes.
DATE = "2016-01-01@00:00:00"
INPUT = "images"


class _Layer(NamedTuple):
    """A layer of the graph: its class in Keras, its settings, its weights and the names of its inputs."""

    name: str
    class_name: str
    config: dict[str, Any]
    arrays: list[np.ndarray]
    inputs: list[str]


class _Graph:
    """The layers of a network. Its methods add one layer or a few, and return the name of the last one."""

    def __init__(self, named: Arrays, architecture: Architecture) -> None:
        self.layers: dict[str, _Layer] = {}
        self.architecture = architecture
        self._named = named
        self._format = keras.V2 if architecture.preactivation else keras.V1
        self.add(INPUT, "InputLayer", [], batch_shape=[None, None, None, 3])

    def add(
        self, name: str, class_name: str, inputs: list[str], arrays: Iterable[np.ndarray] = (), **config: Any
    ) -> str:
        """Adds a layer with the settings `config` and the weights `arrays`."""
        weights = [np.asarray(array) for array in arrays]
        self.layers[name] = _Layer(name, class_name, {"name": name, **config}, weights, inputs)
        return name

    def keras_name(self, ours: str, leaf: str) -> str:
        """Returns the name of the layer that holds the array `leaf` of our module `ours`."""
        translation = self._format.foreign_name(f"{ours}.{leaf}")
        assert translation is not None, f"no name for {ours}.{leaf} in the table of {self._format.name}"
        return translation[0].split("/")[0]

    def has(self, ours: str) -> bool:
        """Returns whether the network has the array `ours`."""
        return ours in self._named

    def conv(self, x: str, ours: str, stride: int = 1, groups: int = 1) -> str:
        """Adds a convolution, with a layer for its padding before it."""
        kernel = self._named[f"{ours}.kernel"]
        name, size = self.keras_name(ours, "kernel"), len(kernel)
        if size > 1:
            edge = [(size - 1) // 2] * 2
            pad = name.removesuffix("_conv") + "_pad"
            x = self.add(pad, "ZeroPadding2D", [x], padding=[edge, edge])
        arrays = [self._named[key] for leaf in ("kernel", "bias") if (key := f"{ours}.{leaf}") in self._named]
        return self.add(
            name,
            "Conv2D",
            [x],
            arrays,
            filters=kernel.shape[-1],
            kernel_size=[size, size],
            strides=[stride, stride],
            padding="valid",
            groups=groups,
            use_bias=len(arrays) == 2,
        )

    def norm(self, x: str, ours: str) -> str:
        """Adds a batch norm."""
        arrays = [self._named[f"{ours}.{leaf}"] for leaf in ("scale", "bias", "mean", "var")]
        name, epsilon = self.keras_name(ours, "scale"), self.architecture.norm_epsilon
        return self.add(name, "BatchNormalization", [x], arrays, epsilon=epsilon, momentum=0.9)

    def relu(self, x: str, name: str) -> str:
        """Adds a ReLU."""
        return self.add(name, "Activation", [x], activation="relu")

    def norm_relu(self, x: str, ours: str) -> str:
        """Adds a batch norm and a ReLU."""
        name = self.norm(x, ours)
        return self.relu(name, name.removesuffix("_bn") + "_relu")

    def dense(self, x: str, ours: str, activation: str = "linear") -> str:
        """Adds a linear layer with `activation`."""
        arrays = [self._named[f"{ours}.kernel"], self._named[f"{ours}.bias"]]
        name, units = self.keras_name(ours, "kernel"), len(arrays[1])
        return self.add(name, "Dense", [x], arrays, units=units, activation=activation)


def keras_archive(named: Arrays, architecture: Architecture, description: dict[str, Any]) -> bytes:
    """Returns the bytes of a `.keras` file with the weights `named` of the network of `architecture`.

    `description` becomes part of the metadata, where `read_container` finds it.

    Raises:
        UserError: Keras has no layers for this architecture.
    """
    layers, output = _layers(named, architecture)
    return _archive(layers, output, description)


def keras_graph(named: Arrays, architecture: Architecture) -> dict[str, Any]:
    """Returns the graph of that file as it is read from JSON, where tuples are lists.

    Raises:
        UserError: Keras has no layers for this architecture.
    """
    return json.loads(json.dumps(_model_json(*_layers(named, architecture))))


def _layers(named: Arrays, architecture: Architecture) -> tuple[list[_Layer], str]:
    """Returns the layers in the order of Keras, and the name of the last one."""
    a = architecture
    if a.shortcut == "zero_pad" or (a.preactivation and a.max_pool == "padded"):
        field = "shortcut=zero_pad" if a.shortcut == "zero_pad" else "max_pool=padded with variant v2"
        raise UserError(
            f"--format=keras: Keras has no layer for config.model.{field}; expected another format, such as"
            " safetensors"
        )
    graph = _Graph(named, a)
    x = _add_stem(graph)
    for stage, count in enumerate(a.blocks, start=1):
        for block in range(1, count + 1):
            x = _add_block(graph, x, f"stage{stage}.block{block}", a.stride(stage, block))
    if a.preactivation:
        x = graph.norm_relu(x, "final_norm")
    x = graph.add("avg_pool", "GlobalAveragePooling2D", [x])
    if graph.has("head.kernel"):
        x = graph.dense(x, "head")
    return _in_keras_order(graph.layers, x), x


def _add_stem(graph: _Graph) -> str:
    a, x = graph.architecture, INPUT
    if a.stem == "deep":
        x = graph.norm_relu(graph.conv(x, "stem_conv1", 2), "stem_norm1")
        x = graph.norm_relu(graph.conv(x, "stem_conv2"), "stem_norm2")
    x = graph.conv(x, "stem_conv", 2 if a.stem == "7x7" else 1)
    if not a.preactivation:
        x = graph.norm_relu(x, "stem_norm")
    if a.max_pool == "none":
        return x
    if a.max_pool != "unpadded":
        # After a ReLU, padding with zeros is as good as padding with minus infinity.
        x = graph.add("pool1_pad", "ZeroPadding2D", [x], padding=[[1, 1], [1, 1]])
    return graph.add("pool1_pool", "MaxPooling2D", [x], pool_size=[3, 3], strides=[2, 2])


def _add_block(graph: _Graph, x: str, ours: str, stride: int) -> str:
    a = graph.architecture
    prefix = graph.keras_name(f"{ours}.conv1", "kernel").removesuffix("1_conv")
    depth = 3 if a.bottleneck else 2
    strides = {1: stride} if not a.bottleneck or a.variant == "v1" else {2: stride}
    y, projected = x, x
    for i in range(1, depth + 1):
        if a.preactivation:
            y = graph.norm_relu(y, f"{ours}.norm{i}")
            projected = y if i == 1 else projected
        y = graph.conv(y, f"{ours}.conv{i}", strides.get(i, 1), a.groups if i == 2 and a.bottleneck else 1)
        if not a.preactivation:
            norm = graph.norm if i == depth else graph.norm_relu
            y = norm(y, f"{ours}.norm{i}")
    if a.squeeze:
        y = _add_squeeze(graph, y, ours, prefix)
    if a.residual:
        if graph.has(f"{ours}.shortcut.conv.kernel"):
            shortcut = _add_projection(graph, projected, ours=ours, prefix=prefix, stride=stride)
        else:
            shortcut = _add_identity(graph, x, prefix, stride)
        y = graph.add(prefix + "add", "Add", [shortcut, y])
    return y if a.preactivation else graph.relu(y, prefix + "out")


def _add_identity(graph: _Graph, x: str, prefix: str, stride: int) -> str:
    if stride == 1:
        return x
    return graph.add(prefix + "0_pool", "MaxPooling2D", [x], pool_size=[1, 1], strides=[stride, stride])


def _add_projection(graph: _Graph, x: str, *, ours: str, prefix: str, stride: int) -> str:
    a = graph.architecture
    if a.shortcut == "average_pool" and stride > 1:
        name = prefix + "0_pool"
        x = graph.add(name, "AveragePooling2D", [x], pool_size=[2, 2], strides=[2, 2], padding="same")
        stride = 1
    y = graph.conv(x, f"{ours}.shortcut.conv", stride)
    return y if a.preactivation else graph.norm(y, f"{ours}.shortcut.norm")


def _add_squeeze(graph: _Graph, x: str, ours: str, prefix: str) -> str:
    y = graph.add(prefix + "se_pool", "GlobalAveragePooling2D", [x], keepdims=True)
    y = graph.dense(y, f"{ours}.squeeze.reduce", "relu")
    y = graph.dense(y, f"{ours}.squeeze.expand", "sigmoid")
    return graph.add(prefix + "se_scale", "Multiply", [x, y])


def _in_keras_order(layers: dict[str, _Layer], output: str) -> list[_Layer]:
    """Sorts layers as Keras' `Model.layers` does, since Keras finds their weights by this order.

    They are sorted by decreasing distance to the output, then in the order of a depth-first walk from there.
    """
    order: dict[str, int] = {}
    pending = [output]
    while pending:
        name = pending.pop()
        if name not in order:
            order[name] = len(order)
            pending += reversed(layers[name].inputs)
    distance = dict.fromkeys(layers, 0)
    for layer in reversed(layers.values()):  # A layer was added after its inputs.
        for name in layer.inputs:
            distance[name] = max(distance[name], distance[layer.name] + 1)
    return sorted(layers.values(), key=lambda layer: (-distance[layer.name], order[layer.name]))


def _archive(layers: list[_Layer], output: str, description: dict[str, Any]) -> bytes:
    """Returns a zip file of metadata, graph and weights."""
    metadata = {"keras_version": KERAS_VERSION, "date_saved": DATE, DESCRIPTION: description}
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in (
            ("metadata.json", json.dumps(metadata).encode()),
            ("config.json", json.dumps(_model_json(layers, output)).encode()),
            (keras.WEIGHTS_FILE, _weights_file(layers)),
        ):
            archive.writestr(zipfile.ZipInfo(name), data)
    return content.getvalue()


def _model_json(layers: list[_Layer], output: str) -> dict[str, Any]:
    return {
        "module": "keras.src.models.functional",
        "class_name": "Functional",
        "registered_name": "Functional",
        "config": {
            "name": "resnet",
            "trainable": True,
            "layers": [_layer_json(layer) for layer in layers],
            "input_layers": [INPUT, 0, 0],
            "output_layers": [output, 0, 0],
        },
    }


def _layer_json(layer: _Layer) -> dict[str, Any]:
    tensors = [
        {"class_name": "__keras_tensor__", "config": {"shape": [None], "dtype": "float32",
                                                      "keras_history": [name, 0, 0]}}
        for name in layer.inputs
    ]  # fmt: skip
    args = [tensors] if layer.class_name in ("Add", "Multiply") else tensors
    return {
        "module": "keras.layers",
        "class_name": layer.class_name,
        "config": {**layer.config, "dtype": "float32"},
        "registered_name": None,
        "name": layer.name,
        "inbound_nodes": [{"args": args, "kwargs": {}}] if layer.inputs else [],
    }


def _weights_file(layers: list[_Layer]) -> bytes:
    content = io.BytesIO()
    names = _group_names(layer.class_name for layer in layers)
    with h5py.File(content, "w") as file:
        for name, layer in zip(names, layers, strict=True):
            variables = file.create_group(f"layers/{name}/vars")
            variables.attrs["name"] = layer.name
            for index, array in enumerate(layer.arrays):
                variables[str(index)] = array
    return content.getvalue()


def _group_names(class_names: Iterable[str]) -> Iterator[str]:
    """Yields Keras' names for the groups of the layers' weights: conv2d, conv2d_1, conv2d_2, ..."""
    counts: Counter[str] = Counter()
    for class_name in class_names:
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", class_name).lower()
        yield f"{name}_{counts[name]}" if counts[name] else name
        counts[name] += 1
