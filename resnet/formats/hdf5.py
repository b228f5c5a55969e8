"""Reads the weights of Keras: `.h5` files, `.weights.h5` files and their shards, and `.keras` archives."""

import io
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from itertools import count, takewhile
from pathlib import Path

import h5py
import numpy as np

from resnet.errors import UserError
from resnet.formats.containers import DESCRIPTION, Container, damaged
from resnet.formats.keras import HEAD, WEIGHTS_FILE, fields_of_layers
from resnet.formats.keras_graph import Node, parse_graph
from resnet.formats.keras_network import WEIGHTS, read_network
from resnet.formats.names import Arrays
from resnet.hdf5_files import MAX_EXPANSION, SMALL_BYTES, Hdf5, open_hdf5
from resnet.json_files import MAX_BYTES as MAX_JSON_BYTES
from resnet.json_files import Schema, parse_json, read_json

SHARDS_SUFFIX = ".weights.json"
MAX_BYTES = 2**30  # Twice ResNet-101 of double width.
_REMEDY = "fetch or save it again"
# The names of a layer's weights by their number, in the order in which Keras stores them.
_LEAVES = {len(names): names for names in (("kernel",), *WEIGHTS.values())}
_FILE_NAME = r"^(?!\.{1,2}$)[^/\\]+$"  # in the folder itself
_SHARDS: Schema = {
    "type": "object",
    "required": ["weight_map"],
    "properties": {
        "weight_map": {
            "type": "object",
            "additionalProperties": {
                "type": ["string", "array"],
                "pattern": _FILE_NAME,
                "items": {"type": "string", "pattern": _FILE_NAME},
            },
        }
    },
}

Layers = dict[str, list[np.ndarray]]  # the weights of each layer, in the order of Keras


def read_hdf5(path: Path, *, with_head: bool = True) -> Container:
    """Reads the arrays in an HDF5 file, under the names layer/weight.

    Raises:
        UserError: it is damaged, no weights of Keras, or a model that is no network of this project.
    """
    opened = partial(open_hdf5, path, max_bytes=MAX_BYTES, remedy=_REMEDY)
    with opened() as hdf5:
        graph = hdf5.file.attrs.get("model_config")
        if graph is None:
            layers = _layers_by_name(hdf5, path)
            return Container(_arrays(layers, path, with_head), fields_of_layers(layers))
        graph = graph if isinstance(graph, str | bytes) else repr(graph)
    return _read_model(graph, opened, path, with_head=with_head)


def read_keras_archive(path: Path, *, with_head: bool = True) -> Container:
    """Reads a `.keras` file: a zip file of the graph in JSON and the weights in HDF5.

    Raises:
        UserError: as `read_hdf5`.
    """
    weights = io.BytesIO(_member(path, WEIGHTS_FILE, MAX_BYTES))
    graph = _member(path, "config.json", MAX_JSON_BYTES)
    metadata = parse_json(
        _member(path, "metadata.json", MAX_JSON_BYTES), {"type": "object"}, f"{path}: metadata"
    )
    opened = partial(open_hdf5, path, max_bytes=MAX_BYTES, remedy=_REMEDY, content=weights)
    if DESCRIPTION not in metadata:
        return _read_model(graph, opened, path, with_head=with_head)
    with opened() as hdf5:  # Our own export.
        arrays = _arrays(_layers_by_name(hdf5, path), path, with_head)
    return Container(arrays, metadata[DESCRIPTION], graph)


def read_keras_shards(path: Path, *, with_head: bool = True) -> Container:
    """Reads the weights in the files that `path`, a `.weights.json` of Keras, lists.

    Raises:
        UserError: as `read_hdf5`, or a file is missing.
    """
    weight_map = read_json(path, _SHARDS)["weight_map"]
    weights: dict[str, dict[int, np.ndarray]] = {}
    names: dict[str, str] = {}
    listed = [(key, [files] if isinstance(files, str) else files) for key, files in weight_map.items()]
    for file in sorted({file for _, files in listed for file in files}):
        try:
            with open_hdf5(path.with_name(file), max_bytes=MAX_BYTES, remedy=_REMEDY) as hdf5:
                for key, files in listed:
                    # Only the first of several files says the name, even if it has none of the weights.
                    if isinstance(group := hdf5.find(key), h5py.Group) and "name" in group.attrs:
                        names[key] = str(group.attrs["name"])
                    for index in _group(hdf5, key) if file in files else ():
                        weights.setdefault(key, {})[int(index)] = hdf5.read(f"{key}/{index}")
        except FileNotFoundError:
            raise UserError(
                f"{path.with_name(file)}: no such file, but {path.name} lists it; put it there"
            ) from None
    if nameless := sorted(weights.keys() - names.keys()):
        raise UserError(f"{path}: {nameless[0]} does not say which layer it is; save the weights in one file")
    layers = {names[key]: [part[index] for index in sorted(part)] for key, part in weights.items()}
    return Container(_arrays(layers, path, with_head))


def _read_model(
    graph: str | bytes, opened: Callable[[], AbstractContextManager[Hdf5]], path: Path, *, with_head: bool
) -> Container:
    """Returns the arrays of a file by the graph of its model. `opened` opens the weights."""

    def read_weights(node: Node) -> list[np.ndarray]:
        with opened() as hdf5:
            return _weights_of(hdf5, node)

    model = parse_json(graph, {}, f"{path}: the graph of the model")
    try:
        network = read_network(parse_graph(model, str(path)), str(path), read_weights, with_head=with_head)
    except RecursionError:
        raise UserError(f"{path}: has too many brackets inside each other in its graph") from None
    with opened() as hdf5:
        layers = {name: _weights_of(hdf5, node) for name, node in network.layers.items()}
    named: Arrays = {}
    for name, arrays in layers.items():
        node = network.layers[name]
        leaves = WEIGHTS[node.kind][: 1 if node.settings.get("use_bias") is False else None]
        if len(arrays) != len(leaves):
            raise node.error(str(path), f"{len(arrays)} arrays", ", ".join(leaves))
        named |= {f"{name}/{leaf}": array for leaf, array in zip(leaves, arrays, strict=True)}
    if f"{HEAD}/kernel" in named and f"{HEAD}/bias" not in named:
        named[f"{HEAD}/bias"] = np.zeros(named[f"{HEAD}/kernel"].shape[-1:], np.float32)
    return Container(named, {"model": network.model, "data": network.data})


def _weights_of(hdf5: Hdf5, node: Node) -> list[np.ndarray]:
    """Returns the weights of a layer in the graph."""
    if isinstance(hdf5.find("model_weights"), h5py.Group):  # An `.h5` file.
        group = f"model_weights/{node.group}"
        names = _names(_group(hdf5, group), "weight_names")
        return [hdf5.read(f"{group}/{name}") for name in _of_layer(names, node)]
    place = f"{node.place}/vars"
    in_keras_2_12 = place.replace("layers/", "_layer_checkpoint_dependencies/")
    if hdf5.find(in_keras_2_12) is not None:
        place = in_keras_2_12
    return [hdf5.read(f"{place}/{index}") for index in range(len(_group(hdf5, place)))]


def _of_layer(names: list[str], node: Node) -> list[str]:
    """Returns those of `names` that are the weights of `node`, which may lie in a model inside of a model."""
    if node.name == node.group:
        return names
    inner = node.name.removeprefix(f"{node.group}/")
    found = {
        leaf.split(":")[0]: name
        for name in names
        for layer, _, leaf in [name.rpartition("/")]
        if f"/{layer}".endswith(f"/{inner}") or f"/{inner}".endswith(f"/{layer}")
    }
    return [found[leaf] for leaf in WEIGHTS.get(node.kind, ("mean", "variance", "count")) if leaf in found]


def _group(hdf5: Hdf5, name: str) -> h5py.Group:
    group = hdf5.find(name)
    if not isinstance(group, h5py.Group):
        raise hdf5.error(name, "nothing" if group is None else "an array", "the weights of a layer")
    return group


def _layers_by_name(hdf5: Hdf5, path: Path) -> Layers:
    """Returns the weights of the layers of a file without a graph."""
    hdf5.check_links()
    root = "model_weights" if isinstance(hdf5.find("model_weights"), h5py.Group) else ""
    weights = _group(hdf5, root)
    if "layer_names" in weights.attrs or "layer_names0" in weights.attrs:
        return dict(_legacy_layers(hdf5, weights, root, path))
    return dict(_new_layers(hdf5, path))


def _legacy_layers(
    hdf5: Hdf5, weights: h5py.Group, root: str, path: Path
) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Yields the layers of the layout of Keras 1 and 2, and of `.h5` files of Keras 3.

    There, attributes list the names of the layers and of their weights. A model inside of the model has the
    weights of all its layers, whose names are then in those of the weights.
    """
    for layer in _names(weights, "layer_names"):
        names = _names(_group(hdf5, f"{root}/{layer}"), "weight_names")
        inner: dict[str, dict[str, str]] = {}
        for name in names:
            *_, owner, leaf = ["", "", *name.split("/")]
            inner.setdefault(owner, {})[leaf.split(":")[0]] = name
        if len(inner) > 1:
            order = [leaf for leaves in WEIGHTS.values() for leaf in leaves]
            for owner, leaves in inner.items():
                if not owner or not leaves.keys() <= set(order):
                    raise _other_layer(path, f"{layer}/{owner}", len(names))
                yield (
                    owner,
                    [
                        hdf5.read(f"{root}/{layer}/{leaves[leaf]}")
                        for leaf in dict.fromkeys(order)
                        if leaf in leaves
                    ],
                )
        else:
            yield layer, [hdf5.read(f"{root}/{layer}/{name}") for name in names]


def _new_layers(hdf5: Hdf5, path: Path) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Yields the layers of the layout of `.weights.h5`.

    There, a layer has its numbered weights in a group `vars`, which has the layer's name as an attribute.
    """
    groups: list[tuple[str, h5py.Group]] = []

    def collect(name: str, item: h5py.Group | h5py.Dataset) -> None:
        is_layer = name.endswith("/vars") and "layers/" in name and not name.endswith("seed_generator/vars")
        if isinstance(item, h5py.Group) and is_layer and len(item):
            groups.append((name, item))

    hdf5.file.visititems(collect)
    for name, group in groups:
        layer = group.attrs.get("name")
        if layer is None:
            raise UserError(
                f"{path}: {name} does not say which layer it is, as in files of the first Keras 3 releases;"
                " expected its name: load the file in a newer Keras and save its weights again, or the model"
            )
        yield str(layer), [hdf5.read(f"{name}/{index}") for index in range(len(group))]


def _arrays(layers: Layers, path: Path, with_head: bool) -> Arrays:
    """Returns arrays by the names layer/weight. The head is the only dense layer, whatever its name."""
    heads = [
        layer
        for layer, arrays in layers.items()
        if arrays and arrays[0].ndim == 2 and not re.fullmatch(r".*_se_(reduce|expand)", layer)
    ]
    if with_head and len(heads) > 1:
        raise UserError(
            f"{path}: has the dense layers {', '.join(heads)}; expected one, the head; to leave the head out,"
            " use config.init_head=replace"
        )
    named: Arrays = {}
    for layer, arrays in layers.items():
        if arrays and len(arrays) not in _LEAVES:
            raise _other_layer(path, layer, len(arrays))
        if layer not in heads or with_head:
            name = HEAD if layer in heads else layer
            leaves = _LEAVES.get(len(arrays), ())
            named |= {f"{name}/{leaf}": array for leaf, array in zip(leaves, arrays, strict=True)}
    return named


def _other_layer(path: Path, layer: str, arrays: int) -> UserError:
    return UserError(
        f"{path}: layer {layer} holds {arrays} arrays, expected a convolution, a batch norm or a dense layer;"
        " if it is a model inside a model, save the inner one"
    )


def _names(group: h5py.Group, attribute: str) -> list[str]:
    """Returns a list of names. Keras splits a long one over several numbered attributes."""
    parts: Iterable[str] = (attribute,)
    if attribute not in group.attrs:
        parts = takewhile(group.attrs.__contains__, (f"{attribute}{i}" for i in count()))
    names = [name for part in parts for name in group.attrs[part]]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def _member(path: Path, name: str, max_bytes: int) -> bytes:
    """Returns the file `name` in the zip file `path`, which unpacks to `max_bytes` at most."""
    try:
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(name)
            is_bomb = info.file_size > max(SMALL_BYTES, MAX_EXPANSION * info.compress_size)
            is_known = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
            if info.file_size <= max_bytes and not is_bomb and is_known:
                with archive.open(info) as file:
                    # With a number, it unpacks no more than that, whatever is there.
                    return file.read(info.file_size)
    except Exception as error:  # What zipfile raises depends on which byte is damaged.
        raise damaged(path, error) from None
    if not is_known:  # The others unpack all of it at once.
        raise UserError(
            f"{path}: {name} in it is packed by method {info.compress_type} of zip; expected 0 (stored) or 8"
            f" (deflated), as Keras writes; {_REMEDY}"
        )
    raise UserError(
        f"{path}: {name} in it unpacks from {info.compress_size:,} to {info.file_size:,} bytes; expected at"
        f" most {max_bytes:,}, and no more than a hundredfold; {_REMEDY}"
    )
