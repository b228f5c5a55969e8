"""Writing a file whole or not at all, and reading back what may not be there."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from errors import UserError


def write_whole(path: Path, content: str | bytes) -> None:
    """Replaces `path` by `content` in one step: whoever reads it, or kills us, finds the old or the new.

    Raises:
        OSError: the folder cannot be written.
    """
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(temporary, path)


def write_result(path: Path, content: str | bytes) -> None:
    """`write_whole` for what a command writes for its user; makes the folder.

    Raises:
        UserError: `path` cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); name a folder that can") from None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """`write_result` of `content` as JSON, for people to read as well.

    Raises:
        UserError: `path` cannot be written.
    """
    write_result(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`, empty where there is none: it may be missing, damaged or something else."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
