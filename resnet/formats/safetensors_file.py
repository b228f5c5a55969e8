"""Reads and writes safetensors files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import save

from resnet.formats.containers import DESCRIPTION, Container, damaged, description, unwrapped
from resnet.formats.names import Arrays


def read_safetensors(path: Path) -> Container:
    """Reads the arrays of a safetensors file.

    Raises:
        UserError: it is damaged.
    """
    try:
        with safetensors.safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        return Container(unwrapped(arrays), description(metadata.get(DESCRIPTION)))
    except Exception as error:  # What safetensors raises depends on which byte is damaged.
        raise damaged(path, error) from None


def write_safetensors(arrays: Arrays, settings: dict[str, Any], format_name: str = "pt") -> bytes:
    """Returns the bytes of a safetensors file; transformers looks for `format_name` in its metadata."""
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    return save(contiguous, {"format": format_name, DESCRIPTION: json.dumps(settings)})
