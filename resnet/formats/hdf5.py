"""Reads the weights that Keras keeps in HDF5: `.h5` files, and `.weights.h5` inside of its archives."""

import io
import json
import zipfile
from collections.abc import Iterable, Iterator
from itertools import count, takewhile
from pathlib import Path

import h5py
import numpy as np

from resnet.errors import UserError
from resnet.formats.containers import DESCRIPTION, Container, damaged, description

KERAS_WEIGHTS = "model.weights.h5"
# The names of a layer's weights by their number, in the order in which Keras stores them.
_KERAS_LAYERS = {
    1: ("kernel",),
    2: ("kernel", "bias"),
    4: ("gamma", "beta", "moving_mean", "moving_variance"),
}


def read_hdf5(source: Path | io.BytesIO, path: Path) -> Container:
    """Reads the arrays in `source`, under the names layer/weight. Messages speak of `path`.

    Raises:
        UserError: it is damaged, or no weights of Keras.
    """
    try:
        with h5py.File(source, "r") as file:
            weights = file.get("model_weights", file)
            if "layer_names" in weights.attrs or "layer_names0" in weights.attrs:
                arrays = dict(_legacy_layers(weights, path))
            else:
                arrays = dict(_new_layers(file, path))
            return Container(arrays, description(file.attrs.get(DESCRIPTION)))
    except UserError:
        raise
    except Exception as error:  # What h5py raises depends on which byte is damaged.
        raise damaged(path, error) from None


def _legacy_layers(weights: h5py.Group, path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (layer/weight, array) from the layout of Keras 1 and 2, and of `.h5` files of Keras 3.

    There, attributes list the names of the layers and of their weights.
    """
    for layer in _names(weights, "layer_names"):
        arrays = [weights[layer][name][()] for name in _names(weights[layer], "weight_names")]
        yield from _named_weights(layer, arrays, path)


def _new_layers(file: h5py.File, path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (layer/weight, array) from the layout of `.weights.h5`.

    There, a layer has its numbered weights in a group `vars`, which has the layer's name as an attribute.
    """
    groups: list[tuple[str, h5py.Group]] = []

    def collect(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Group) and name.endswith("/vars") and "layers/" in name and len(item):
            groups.append((name, item))

    file.visititems(collect)
    for name, group in groups:
        layer = group.attrs.get("name")
        if layer is None:
            raise UserError(
                f"{path}: {name} does not say which layer it is, as in files of the first Keras 3 releases;"
                " expected its name: load the file in a newer Keras and save its weights again"
            )
        arrays = [group[str(index)][()] for index in range(len(group))]
        yield from _named_weights(layer, arrays, path)


def _named_weights(layer: str, arrays: list[np.ndarray], path: Path) -> Iterator[tuple[str, np.ndarray]]:
    if arrays and len(arrays) not in _KERAS_LAYERS:
        raise UserError(
            f"{path}: layer {layer} holds {len(arrays)} arrays, expected a convolution, a batch norm or a"
            " dense layer; if it is a model inside a model, save the inner one"
        )
    for weight, array in zip(_KERAS_LAYERS.get(len(arrays), ()), arrays, strict=True):
        yield f"{layer}/{weight}", array


def _names(group: h5py.Group, attribute: str) -> list[str]:
    """Returns a list of names. Keras splits a long one over several numbered attributes."""
    parts: Iterable[str] = (attribute,)
    if attribute not in group.attrs:
        parts = takewhile(group.attrs.__contains__, (f"{attribute}{i}" for i in count()))
    names = [name for part in parts for name in group.attrs[part]]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def read_keras_archive(path: Path) -> Container:
    """Reads a `.keras` file, which is a zip file with HDF5 inside.

    Raises:
        UserError: it is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            container = read_hdf5(io.BytesIO(archive.read(KERAS_WEIGHTS)), path)
            metadata = json.loads(archive.read("metadata.json"))
            return container._replace(description=metadata.get(DESCRIPTION))
    except UserError:
        raise
    except Exception as error:
        raise damaged(path, error) from None
