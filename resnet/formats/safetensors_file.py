"""Reads and writes safetensors files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import save

from resnet.errors import UserError
from resnet.formats.containers import DESCRIPTION, Container, damaged, parse_description
from resnet.formats.names import Arrays


def read_safetensors(path: Path) -> Container:
    """Reads the arrays of a safetensors file.

    Raises:
        UserError: it is damaged, or has numbers that NumPy does not have.
    """
    try:
        with safetensors.safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            arrays = {name: _array(file, name, path) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except UserError:
        raise
    except Exception as error:  # What safetensors raises depends on which byte is damaged.
        raise damaged(path, error) from None
    return Container(arrays, parse_description(metadata.get(DESCRIPTION), path))


def _array(file: Any, name: str, path: Path) -> np.ndarray:
    try:
        return file.get_tensor(name)
    except (TypeError, AttributeError):
        kind = file.get_slice(name).get_dtype()
        raise UserError(
            f"{path}: {name} holds numbers of the kind {kind}, which NumPy does not have; expected F32,"
            " F16 or BF16: save model.float() instead"
        ) from None


def write_safetensors(arrays: Arrays, settings: dict[str, Any], format_name: str = "pt") -> bytes:
    """Returns the bytes of a safetensors file; transformers looks for `format_name` in its metadata."""
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    return save(contiguous, {"format": format_name, DESCRIPTION: json.dumps(settings)})
