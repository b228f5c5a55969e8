"""Reads and writes files of named arrays: safetensors, HDF5, Keras archives and PyTorch files.

Code inside a file is never executed.
"""

import io
import json
import zipfile
from collections.abc import Iterable, Iterator
from itertools import count, takewhile
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import safetensors
from safetensors.numpy import save

from resnet.errors import UserError
from resnet.formats.names import Arrays

# The entry for the settings of the network, in the metadata of the files that we export.
DESCRIPTION = "resnet_config"
KERAS_WEIGHTS = "model.weights.h5"
# The names of a layer's weights by their number, in the order in which Keras stores them.
_KERAS_LAYERS = {
    1: ("kernel",),
    2: ("kernel", "bias"),
    4: ("gamma", "beta", "moving_mean", "moving_variance"),
}
_WRAPPERS = ("model", "state_dict", "model_state_dict", "model_state", "net", "network", "ema", "model_ema")
_PREFIXES = ("module.", "_orig_mod.", "model.")


class Container(NamedTuple):
    """The content of a file: arrays by name, and the description that our exports add, otherwise None."""

    arrays: Arrays
    description: dict[str, Any] | None = None


def read_container(path: Path) -> Container:
    """Reads the arrays of a file. Its first bytes show which of the formats it has.

    Raises:
        UserError: the file is missing, damaged, of another format, or holds code.
    """
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return _read_hdf5(path, path)
    if head.startswith(b"PK"):
        return _read_archive(path)
    if head[8:9] == b"{":
        return _read_safetensors(path)
    if head.startswith(b"\x80"):
        return _read_pytorch(path)
    raise UserError(
        f"{path}: not a file of weights (it begins with {head[:8]!r}); expected safetensors, HDF5 (.h5,"
        " .keras) or PyTorch (.pth), or it is truncated: fetch it again"
    )


def write_safetensors(arrays: Arrays, description: dict[str, Any], format_name: str = "pt") -> bytes:
    """Returns the bytes of a safetensors file; transformers looks for `format_name` in its metadata."""
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    return save(contiguous, {"format": format_name, DESCRIPTION: json.dumps(description)})


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path}: truncated or damaged ({type(error).__name__}: {error}); fetch or save it again"
    )


def _description(text: str | bytes | None) -> dict[str, Any] | None:
    return None if text is None else json.loads(text)


def _read_safetensors(path: Path) -> Container:
    try:
        with safetensors.safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        return Container(unwrapped(arrays), _description(metadata.get(DESCRIPTION)))
    except Exception as error:  # What safetensors raises depends on which byte is damaged.
        raise _damaged(path, error) from None


# HDF5


def _read_hdf5(source: Path | io.BytesIO, path: Path) -> Container:
    try:
        with h5py.File(source, "r") as file:
            weights = file.get("model_weights", file)
            if "layer_names" in weights.attrs or "layer_names0" in weights.attrs:
                arrays = dict(_legacy_layers(weights, path))
            else:
                arrays = dict(_new_layers(file, path))
            return Container(arrays, _description(file.attrs.get(DESCRIPTION)))
    except UserError:
        raise
    except Exception as error:  # What h5py raises depends on which byte is damaged.
        raise _damaged(path, error) from None


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


def _read_archive(path: Path) -> Container:
    """Reads a zip file: an archive of Keras or a file of `torch.save`."""
    try:
        with zipfile.ZipFile(path) as archive:
            if KERAS_WEIGHTS not in archive.namelist():
                return _read_pytorch(path)
            container = _read_hdf5(io.BytesIO(archive.read(KERAS_WEIGHTS)), path)
            description = json.loads(archive.read("metadata.json")).get(DESCRIPTION)
            return container._replace(description=description)
    except UserError:
        raise
    except Exception as error:
        raise _damaged(path, error) from None


# PyTorch


def _read_pytorch(path: Path) -> Container:
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{path}: is a PyTorch file, which only PyTorch reads; expected it to be installed: install it,"
            ' or convert the file where it is: python -c "import sys, torch, safetensors.torch as s;'
            " w = torch.load(sys.argv[1], map_location='cpu', weights_only=True);"
            " s.save_file(w, 'weights.safetensors')\""
            f" {path.name}"
        ) from None
    import pickle

    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path}: holds code beside weights, or is damaged; expected tensors alone, and no code was run:"
            " save model.state_dict() instead of the model"
        ) from None
    except Exception as error:
        raise _damaged(path, error) from None
    arrays = {
        name: (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        for name, tensor in _state_dict(loaded).items()
        if isinstance(tensor, torch.Tensor)
    }
    return Container(unwrapped(arrays))


def _state_dict(loaded: Any) -> dict[str, Any]:
    """Returns the state dict of a file: its whole content, or an entry of it such as `model`."""
    for wrapper in _WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            return _state_dict(loaded[wrapper])
    return loaded if isinstance(loaded, dict) else {}


def unwrapped(arrays: Arrays) -> Arrays:
    """Removes the prefixes that wrappers around a network, such as `DataParallel`, add to all names."""
    while True:
        prefix = next((p for p in _PREFIXES if arrays and all(name.startswith(p) for name in arrays)), None)
        if prefix is None:
            return arrays
        arrays = {name.removeprefix(prefix): array for name, array in arrays.items()}
