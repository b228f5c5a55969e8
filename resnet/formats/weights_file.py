"""Reads files of named arrays: safetensors, HDF5, Keras archives and PyTorch files."""

import zipfile
from pathlib import Path

from resnet.errors import UserError
from resnet.files import open_file
from resnet.formats.containers import Container, damaged
from resnet.formats.hdf5 import (
    SHARDS_SUFFIX,
    read_hdf5,
    read_keras_archive,
    read_shards,
)
from resnet.formats.keras import WEIGHTS_FILE
from resnet.formats.pytorch import read_pytorch
from resnet.formats.safetensors_file import read_safetensors


def read_container(path: Path, *, with_head: bool = True) -> Container:
    """Reads the arrays of a file. Its first bytes show which of the formats it has.

    Without `with_head`, a model of Keras may have any head, which is left out.

    Raises:
        UserError: the file is missing, damaged, of another format, or holds code.
    """
    try:
        with open_file(path) as file:
            head = file.read(16)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return read_hdf5(path, with_head=with_head)
    if head.startswith(b"PK"):
        if _is_keras_archive(path):
            return read_keras_archive(path, with_head=with_head)
        return read_pytorch(path)
    if path.name.endswith(SHARDS_SUFFIX):
        return read_shards(path, with_head=with_head)
    if head[8:9] == b"{":
        return read_safetensors(path)
    if head.startswith(b"\x80"):
        return read_pytorch(path)
    raise UserError(
        f"{path}: not a file of weights (it begins with {head[:8]!r}); expected safetensors, HDF5 (.h5,"
        " .keras) or PyTorch (.pth), or it is truncated: fetch it again"
    )


def _is_keras_archive(path: Path) -> bool:
    """Returns whether a zip file holds the weights of Keras; those of PyTorch are zip files too."""
    try:
        with zipfile.ZipFile(path) as archive:
            return WEIGHTS_FILE in archive.namelist()
    except Exception as error:  # What zipfile raises depends on which byte is damaged.
        raise damaged(path, error) from None
