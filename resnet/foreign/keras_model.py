"""A network as a Keras archive (`.keras`): the graph of its layers as JSON, and their weights as HDF5.

`keras.models.load_model` reads it. Layers are named as in Keras Applications. The input is normalised
images, the output logits.
"""

import io
import json
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import h5py
import numpy as np

from errors import UserError
from resnet.architecture import Architecture
from resnet.foreign import keras
from resnet.foreign.containers import DESCRIPTION, KERAS_WEIGHTS
from resnet.foreign.names import Arrays

KERAS_VERSION = "3.15.1"  # whose layout this is
DATE = "2016-01-01@00:00:00"  # Keras wants one; the same weights shall give the same bytes
INPUT = "images"


class _Layer(NamedTuple):
    """One layer of the graph: Keras' class, its settings, its weights and the layers that it takes."""

    name: str
    class_name: str
    group: str  # how Keras names its group of weights, before the number
    config: dict[str, Any]
    arrays: list[np.ndarray]
    inputs: list[str]


class _Graph:
    """Collects layers; every method adds one and returns its name."""

    def __init__(self, named: Arrays, architecture: Architecture) -> None:
        self.layers: dict[str, _Layer] = {}
        self.architecture = architecture
        self._named = named
        self._format = keras.V2 if architecture.preactivation else keras.V1
        self.add(INPUT, "InputLayer", "input_layer", [], batch_shape=[None, None, None, 3])

    def add(
        self,
        name: str,
        class_name: str,
        group: str,
        inputs: list[str],
        arrays: tuple[np.ndarray, ...] = (),
        **config: object,
    ) -> str:
        self.layers[name] = _Layer(
            name, class_name, group, {"name": name, **config}, [*map(np.asarray, arrays)], inputs
        )
        return name

    def keras_name(self, ours: str, leaf: str) -> str:
        return self._format.foreign_name(f"{ours}.{leaf}")[0].split("/")[0]

    def has(self, ours: str) -> bool:
        return ours in self._named

    def conv(self, x: str, ours: str, stride: int = 1, groups: int = 1) -> str:
        kernel = self._named[f"{ours}.kernel"]
        name, size = self.keras_name(ours, "kernel"), len(kernel)
        if size > 1:
            edge = [(size - 1) // 2] * 2
            pad = name.removesuffix("_conv") + "_pad"
            x = self.add(pad, "ZeroPadding2D", "zero_padding2d", [x], padding=[edge, edge])
        arrays = [self._named[key] for leaf in ("kernel", "bias") if (key := f"{ours}.{leaf}") in self._named]
        return self.add(
            name,
            "Conv2D",
            "conv2d",
            [x],
            tuple(arrays),
            filters=kernel.shape[-1],
            kernel_size=[size, size],
            strides=[stride, stride],
            padding="valid",
            groups=groups,
            use_bias=len(arrays) == 2,
        )

    def norm(self, x: str, ours: str) -> str:
        arrays = tuple(self._named[f"{ours}.{leaf}"] for leaf in ("scale", "bias", "mean", "var"))
        name, epsilon = self.keras_name(ours, "scale"), self.architecture.norm_epsilon
        return self.add(
            name, "BatchNormalization", "batch_normalization", [x], arrays, epsilon=epsilon, momentum=0.9
        )

    def relu(self, x: str, name: str) -> str:
        return self.add(name, "Activation", "activation", [x], activation="relu")

    def norm_relu(self, x: str, ours: str) -> str:
        name = self.norm(x, ours)
        return self.relu(name, name.removesuffix("_bn") + "_relu")

    def dense(self, x: str, ours: str, activation: str = "linear") -> str:
        arrays = self._named[f"{ours}.kernel"], self._named[f"{ours}.bias"]
        name, units = self.keras_name(ours, "kernel"), len(arrays[1])
        return self.add(name, "Dense", "dense", [x], arrays, units=units, activation=activation)


def keras_archive(named: Arrays, architecture: Architecture, description: dict[str, Any]) -> bytes:
    """The bytes of a `.keras` file with the weights `named` of the network of `architecture`.

    Raises:
        UserError: Keras' layers cannot express it.
    """
    a = architecture
    if a.shortcut == "zero_pad" or (a.preactivation and a.max_pool == "padded"):
        field = "shortcut=zero_pad" if a.shortcut == "zero_pad" else "max_pool=padded with variant v2"
        raise UserError(
            f"--format=keras: Keras has no layer for config.model.{field}; expected another format, such"
            " as safetensors"
        )
    graph = _Graph(named, a)
    x = _stem(graph)
    for stage, count in enumerate(a.blocks, start=1):
        for block in range(1, count + 1):
            x = _block(graph, x, f"stage{stage}.block{block}", a.stride(stage, block))
    if a.preactivation:
        x = graph.norm_relu(x, "final_norm")
    x = graph.add("avg_pool", "GlobalAveragePooling2D", "global_average_pooling2d", [x])
    output = graph.dense(x, "head")
    return _archive(_in_keras_order(graph.layers, output), output, description)


def _stem(graph: _Graph) -> str:
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
        # Zeros are as good as minus infinity here: after a ReLU.
        x = graph.add("pool1_pad", "ZeroPadding2D", "zero_padding2d", [x], padding=[[1, 1], [1, 1]])
    return graph.add("pool1_pool", "MaxPooling2D", "max_pooling2d", [x], pool_size=[3, 3], strides=[2, 2])


def _block(graph: _Graph, x: str, ours: str, stride: int) -> str:
    a = graph.architecture
    prefix = graph.keras_name(f"{ours}.conv1", "kernel").removesuffix("1_conv")
    depth = 3 if a.bottleneck else 2
    strides = {1: stride} if not a.bottleneck or a.variant == "v1" else {2: stride}
    y, source = x, x
    for i in range(1, depth + 1):
        if a.preactivation:
            y = graph.norm_relu(y, f"{ours}.norm{i}")
            source = y if i == 1 else source
        y = graph.conv(y, f"{ours}.conv{i}", strides.get(i, 1), a.groups if i == 2 and a.bottleneck else 1)
        if not a.preactivation:
            norm = graph.norm if i == depth else graph.norm_relu
            y = norm(y, f"{ours}.norm{i}")
    if a.squeeze:
        y = _squeeze(graph, y, ours, prefix)
    if a.residual:
        shortcut = _shortcut(graph, x, source, ours, prefix, stride)
        y = graph.add(prefix + "add", "Add", "add", [shortcut, y])
    return y if a.preactivation else graph.relu(y, prefix + "out")


def _shortcut(graph: _Graph, x: str, source: str, ours: str, prefix: str, stride: int) -> str:
    a = graph.architecture
    if not graph.has(f"{ours}.shortcut.conv.kernel"):
        if stride == 1:
            return x
        options = {"pool_size": [1, 1], "strides": [stride, stride]}
        return graph.add(prefix + "0_pool", "MaxPooling2D", "max_pooling2d", [x], **options)
    if a.shortcut == "average_pool" and stride > 1:
        options = {"pool_size": [2, 2], "strides": [2, 2], "padding": "same"}
        source = graph.add(prefix + "0_pool", "AveragePooling2D", "average_pooling2d", [source], **options)
        stride = 1
    y = graph.conv(source, f"{ours}.shortcut.conv", stride)
    return y if a.preactivation else graph.norm(y, f"{ours}.shortcut.norm")


def _squeeze(graph: _Graph, x: str, ours: str, prefix: str) -> str:
    y = graph.add(
        prefix + "se_pool", "GlobalAveragePooling2D", "global_average_pooling2d", [x], keepdims=True
    )
    y = graph.dense(y, f"{ours}.squeeze.reduce", "relu")
    y = graph.dense(y, f"{ours}.squeeze.expand", "sigmoid")
    return graph.add(prefix + "se_scale", "Multiply", "multiply", [x, y])


def _in_keras_order(layers: dict[str, _Layer], output: str) -> list[_Layer]:
    """Layers in the order of Keras' `Model.layers`, by which it finds their weights in the file.

    By decreasing distance to the output, then in the order of a depth-first walk from there.
    """
    order: dict[str, int] = {}
    pending = [output]
    while pending:
        name = pending.pop()
        if name not in order:
            order[name] = len(order)
            pending += reversed(layers[name].inputs)
    distance = dict.fromkeys(layers, 0)
    for layer in reversed(layers.values()):  # Each was added after those that it takes.
        for name in layer.inputs:
            distance[name] = max(distance[name], distance[layer.name] + 1)
    return sorted(layers.values(), key=lambda layer: (-distance[layer.name], order[layer.name]))


def _archive(layers: list[_Layer], output: str, description: dict[str, Any]) -> bytes:
    model = {
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
    metadata = {"keras_version": KERAS_VERSION, "date_saved": DATE, DESCRIPTION: description}
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in {
            "metadata.json": json.dumps(metadata),
            "config.json": json.dumps(model),
            KERAS_WEIGHTS: _weights_file(layers),
        }.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return content.getvalue()


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
    names = _numbered(layer.group for layer in layers)
    with h5py.File(content, "w") as file:
        for name, layer in zip(names, layers, strict=True):
            variables = file.create_group(f"layers/{name}/vars")
            variables.attrs["name"] = layer.name
            for index, array in enumerate(layer.arrays):
                variables[str(index)] = array
    return content.getvalue()


def _numbered(groups: Iterable[str]) -> Iterator[str]:
    """Each group's name, from its second time on with a number: conv2d, conv2d_1, ..."""
    used: dict[str, int] = {}
    for group in groups:
        count = used[group] = used.get(group, -1) + 1
        yield f"{group}_{count}" if count else group
