"""Reads files of named arrays: safetensors, HDF5, Keras archives and PyTorch files."""

import os
import zipfile
from pathlib import Path

from resnet.errors import UserError
from resnet.files import open_file
from resnet.formats.containers import Container, damaged
from resnet.formats.hdf5 import SHARDS_SUFFIX, read_hdf5, read_keras_archive, read_keras_shards
from resnet.formats.keras import WEIGHTS_FILE
from resnet.formats.names import Arrays
from resnet.formats.pytorch import read_pytorch
from resnet.formats.safetensors_file import read_safetensors
from resnet.json_files import Schema, read_json

_HEAD = 512  # bytes that show which format a file has
INDEX_SUFFIX = ".index.json"  # of the list that says which of several files holds which array
# The weights in a folder of Hugging Face's, timm's or ours, from the first choice down.
WEIGHTS_FILES = (
    "model.safetensors",
    f"model.safetensors{INDEX_SUFFIX}",
    "resnet.safetensors",
    "pytorch_model.bin",
    f"pytorch_model.bin{INDEX_SUFFIX}",
)
_INDEX: Schema = {
    "type": "object",
    "required": ["weight_map"],
    "properties": {
        "metadata": {"type": "object"},
        "weight_map": {"type": "object", "minProperties": 1, "additionalProperties": {"type": "string"}},
    },
}


def read_container(path: Path, *, with_head: bool = True) -> Container:
    """Reads the arrays of a file. Its first bytes show which of the formats it has.

    Without `with_head`, a model of Keras may have any head, which is left out.

    Raises:
        UserError: the file is missing, damaged, of another format, or holds code.
    """
    try:
        with open_file(path) as file:
            head = file.read(_HEAD)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise damaged(path, error) from None
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return read_hdf5(path, with_head=with_head)
    if head.startswith(b"PK"):
        if _is_keras_archive(path):
            return read_keras_archive(path, with_head=with_head)
        return read_pytorch(path)
    if path.name.endswith(SHARDS_SUFFIX):
        return read_keras_shards(path, with_head=with_head)
    if head[8:9] == b"{":
        return read_safetensors(path)
    if head.startswith(b"\x80"):
        return read_pytorch(path)
    if head[257:262] == b"ustar":
        raise UserError(
            f"{path}: is a tar archive, as PyTorch wrote before 2018, or one of several files; expected"
            " a file of weights: unpack it, or load it in an old PyTorch and save model.state_dict() anew"
        )
    raise UserError(
        f"{path}: not a file of weights (it begins with {head[:8]!r}); expected safetensors, HDF5 (.h5,"
        " .keras) or PyTorch (.pth), or it is truncated: fetch it again"
    )


def read_shards(index: Path) -> Container:
    """Reads the arrays of several files, of which `index` is the list, as transformers writes it.

    Raises:
        UserError: the list is damaged, or a file of it is missing, damaged, or outside of the folder.
    """
    names = _files_by_array(index)
    arrays: Arrays = {}
    description = None
    for file in _shards(names, index):
        container = read_container(index.parent / file)
        if twice := sorted(arrays.keys() & container.arrays.keys()):
            raise UserError(
                f"{index}: {twice[0]} is in {file} and in another file; expected every array once"
            )
        arrays |= container.arrays
        description = description or container.description
    if missing := sorted(names.keys() - arrays.keys()):
        raise UserError(
            f"{index}: {missing[0]} is not in {names[missing[0]]}, nor in another file; fetch the files again"
        )
    return Container(arrays, description)


def shards_of(index: Path) -> list[str]:
    """Returns the names of the files that `index` lists, which lie in its folder.

    Raises:
        UserError: the list is damaged, or names a file outside of the folder.
    """
    return _shards(_files_by_array(index), index)


def _shards(names: dict[str, str], index: Path) -> list[str]:
    files = sorted(set(names.values()))
    for file in files:
        if file != os.path.basename(file) or file in ("", ".", ".."):
            raise UserError(f"{index}: names the file {file!r}; expected files in its own folder")
    return files


def _files_by_array(index: Path) -> dict[str, str]:
    try:
        return read_json(index, _INDEX)["weight_map"]
    except FileNotFoundError:
        raise UserError(f"{index}: no such file; check the path") from None


def _is_keras_archive(path: Path) -> bool:
    """Returns whether a zip file holds the weights of Keras; those of PyTorch are zip files too."""
    try:
        with zipfile.ZipFile(path) as archive:
            return WEIGHTS_FILE in archive.namelist()
    except Exception as error:  # What zipfile raises depends on which byte is damaged.
        raise damaged(path, error) from None
