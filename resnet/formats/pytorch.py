"""Reads the files of `torch.save`, by PyTorch itself. Code inside a file is never executed."""

import argparse
import os
import pathlib
import re
import shlex
import types
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resnet.errors import UserError
from resnet.formats.containers import Container, damaged

if TYPE_CHECKING:
    import torch

# Where the weights are in a file that holds more; the first of them that is there. Averages come first: a
# training that keeps one publishes the accuracy of its average, and timm takes it too (`use_ema`).
_AVERAGES = ("state_dict_ema", "model_ema", "ema")
_WRAPPERS = (*_AVERAGES, "state_dict", "model_state_dict", "model", "model_state", "net", "network")
_NO_WEIGHTS = ("optimizer", "optimizer_state_dict", "state")  # which hold arrays of an optimizer
_DEPTH = 4  # how deep a state dict may lie inside of others
_SAVE = "save the weights alone: torch.save(model.state_dict(), 'weights.pth')"
_QUANTIZED = "quantized, and this project computes in floating point; take the network before quantization"
# PyTorch stores arrays as they are. float8 becomes four times as large, and sparse arrays become dense.
_MAX_GROWTH = 16
_ALLOWANCE = 2**20  # bytes, for small files

_CONVERSION = (
    "import sys, torch, safetensors.torch as s;"
    " w = torch.load(sys.argv[1], map_location='cpu', weights_only=True);"
    f" [w := w[k] for k in {_WRAPPERS} if isinstance(w.get(k), dict)"
    " and any(isinstance(t, (dict, torch.Tensor)) for t in w[k].values())];"
    " s.save_file({n: t.detach().clone().contiguous() for n, t in w.items() if isinstance(t, torch.Tensor)},"
    " 'weights.safetensors')"
)


def read_pytorch(path: Path) -> Container:
    """Reads the tensors of a file of `torch.save`.

    Raises:
        UserError: PyTorch is not installed, or the file is damaged or holds something else.
    """
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{path}: is a PyTorch file, which only PyTorch reads; expected it to be installed: install it,"
            f' or convert the file where it is: python -c "{_CONVERSION}" {shlex.quote(path.name)}'
        ) from None
    _check_archive(path)
    limit = _MAX_GROWTH * os.path.getsize(path) + _ALLOWANCE
    tensors = _state_dict(_load(path), torch.Tensor | np.ndarray, path)
    needed = sum(4 * int(np.prod(tensor.shape, dtype=object)) for tensor in tensors.values())
    if needed > limit:
        raise UserError(
            f"{path}: declares arrays of {needed:,} bytes, but has {os.path.getsize(path):,} itself; expected"
            f" at most {_MAX_GROWTH} times as many; {_SAVE}"
        )
    return Container({name: _array(name, tensor, path) for name, tensor in tensors.items()})


def _load(path: Path) -> Any:
    """Returns the content of the file, in which nothing but data is accepted."""
    import pickle

    import torch

    try:
        with torch.serialization.safe_globals(_data_classes()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # What they say of a damaged file is for PyTorch's own users.
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch's own message tells how to run the code.
        if (found := re.search(r"GLOBAL ([\w.]+)", str(error))) is None:
            raise damaged(path, pickle.UnpicklingError("no data of torch.save")) from None
        raise UserError(
            f"{path}: holds code beside weights ({found[1]}), and none of it was run; expected tensors alone:"
            f" where that code is at home, {_SAVE}"
        ) from None
    except Exception as error:  # What PyTorch raises depends on which byte is damaged.
        raise damaged(path, error) from None


def _data_classes() -> list[Any]:
    """Returns classes of plain data that lie beside weights, and those of NumPy's arrays."""
    from numpy._core import multiarray  # type: ignore[attr-defined]

    arrays = [np.ndarray, np.dtype, *(type(np.dtype(code)) for code in "?bhilqBHILQefdFD")]
    functions = [multiarray._reconstruct, multiarray.scalar]
    older = [(function, f"numpy.core.multiarray.{function.__name__}") for function in functions]
    return [argparse.Namespace, types.SimpleNamespace, pathlib.PosixPath, *arrays, *functions, *older]


def _check_archive(path: Path) -> None:
    """Checks a zip file before PyTorch reads it.

    Raises:
        UserError: it is damaged, no file of `torch.save`, or would unpack to far more than it is.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except Exception as error:  # What zipfile raises depends on which byte is damaged.
        raise damaged(path, error) from None
    # Names begin with a folder, whose name is any.
    names = {info.filename.partition("/")[2] for info in infos}
    if "constants.pkl" in names:
        raise UserError(
            f"{path}: is a TorchScript program, not weights; load it with torch.jit.load and {_SAVE}"
        )
    if "models/model.json" in names:
        raise UserError(f"{path}: is a program of torch.export, not weights; {_SAVE}")
    if "data.pkl" not in names:
        raise UserError(
            f"{path}: is a zip archive, but none of torch.save; expected a file of weights: unpack it"
        )
    unpacked, size = sum(info.file_size for info in infos), os.path.getsize(path)
    if unpacked > size + _ALLOWANCE:
        raise UserError(
            f"{path}: unpacks to {unpacked:,} bytes from {size:,}; expected arrays stored as they are, as"
            " torch.save does"
        )


def _state_dict(loaded: Any, array_type: Any, path: Path) -> dict[str, Any]:
    """Returns the arrays of a file by name: its whole content, or an entry of it such as `model`.

    Raises:
        UserError: there is none, or more than one.
    """
    if isinstance(loaded, array_type):
        raise UserError(f"{path}: holds a single array without a name; {_SAVE}")
    found = dict(_state_dicts(loaded, array_type, (), _DEPTH, {}))
    if not found:
        raise UserError(f"{path}: holds no arrays by name ({_summary(loaded)}); {_SAVE}")
    if len(found) > 1:
        places = ", ".join(".".join(map(str, place)) for place in found)
        raise UserError(f"{path}: holds several sets of weights ({places}), expected one; save it alone")
    (content,) = found.values()
    if packed := [name for name in content if "_packed_params" in str(name)]:
        raise UserError(f"{path}: {packed[0]} is {_QUANTIZED}; {_SAVE}")
    return {k: v for k, v in content.items() if isinstance(v, array_type) and isinstance(k, str)}


def _state_dicts(
    content: Any, array_type: Any, place: tuple[Any, ...], depth: int, seen: dict[int, int]
) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Yields the dictionaries of arrays in `content`, with their places. None lies inside of another.

    `seen` has the depth at which an object was looked into: a small file may refer to one a million times.
    """
    if seen.get(id(content), -1) >= depth:
        return
    seen[id(content)] = depth
    entries: list[tuple[Any, Any]] = []
    if isinstance(content, list | tuple):
        entries = list(enumerate(content))
    elif isinstance(content, dict):
        entries = list(content.items())
        wrapped = [
            list(_state_dicts(content[name], array_type, (*place, name), depth - 1, seen))
            for name in _WRAPPERS
            if depth and isinstance(content.get(name), dict)
        ]
        wrapped.sort(key=_lacks_statistics)
        if inside := next(filter(None, wrapped), None):
            yield from inside
            return
        if any(isinstance(k, str) and isinstance(v, array_type) and v.ndim for k, v in entries):
            yield place, content
            return
    for key, value in entries if depth else ():
        if key not in _NO_WEIGHTS:
            yield from _state_dicts(value, array_type, (*place, key), depth - 1, seen)


def _lacks_statistics(found: Sequence[tuple[tuple[Any, ...], dict[str, Any]]]) -> bool:
    """Whether no batch norm has its statistics: an average of the parameters alone is no whole network."""
    return not any("running_mean" in str(name) for _, arrays in found for name in arrays)


def _summary(loaded: Any) -> str:
    """Says in a few words what `loaded` is."""
    if isinstance(loaded, dict):
        keys = ", ".join(map(repr, list(loaded)[:3]))
        return f"a dictionary of {keys}, ..." if len(loaded) > 3 else f"a dictionary of {keys or 'nothing'}"
    if isinstance(loaded, list | tuple):
        return f"a {type(loaded).__name__} of {len(loaded)}"
    return f"a {type(loaded).__name__}"


def _array(name: str, tensor: "torch.Tensor | np.ndarray", path: Path) -> np.ndarray:
    """Returns the values of `tensor`; floating-point numbers that NumPy does not have become float32."""
    if isinstance(tensor, np.ndarray):
        return tensor
    kind = _kind(tensor)
    if kind:
        raise UserError(f"{path}: {name} is {kind}, expected an ordinary array; {_SAVE}")
    import torch

    try:
        tensor = tensor.detach()
        if tensor.layout != torch.strided:
            tensor = tensor.to_dense()
        return (tensor.float() if tensor.is_floating_point() else tensor.resolve_conj().resolve_neg()).numpy()
    except Exception as error:  # Whatever else PyTorch may have, it has no values here.
        reason = " ".join(str(error).split())[:80]
        raise UserError(f"{path}: {name} cannot become an array ({reason}); {_SAVE}") from None


def _kind(tensor: "torch.Tensor") -> str | None:
    """Returns what makes `tensor` more or less than values, None for an ordinary one."""
    import torch

    if tensor.is_quantized:
        return _QUANTIZED
    if tensor.is_meta:
        return "on the device meta, without values"
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer):
        return f"a {type(tensor).__module__}.{type(tensor).__qualname__}"
    return None
