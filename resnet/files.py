"""Files: written whole or not at all, JSON that may be missing, and the cache folder."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnet.errors import UserError


def cache_folder() -> Path | None:
    """Returns the folder for what this project can make again, in the cache folder of the user.

    None if the user's cache folder is no absolute path.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache, "resnet-signs") if os.path.isabs(cache) else None


def write_whole(path: Path, content: str | bytes) -> None:
    """Replaces the content of `path` in one step.

    At any moment, even if the program is killed, the file has either its old content or the new one.

    Raises:
        OSError: the folder cannot be written.
    """
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(temporary, path)


def write_result(path: Path, content: str | bytes) -> None:
    """Writes a result that the user asked for, as `write_whole` does, and creates its folder.

    Raises:
        UserError: `path` cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); name another folder") from None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes `content` as indented JSON, as `write_result` does.

    Raises:
        UserError: `path` cannot be written.
    """
    write_result(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Returns the JSON object in `path`, or an empty one if `path` is missing, damaged or something else."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
