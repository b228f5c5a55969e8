"""What a file of weights holds, whichever format it has: arrays by name, and a description of ours."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from resnet.errors import UserError
from resnet.formats.names import Arrays

# The entry for the settings of the network, in the metadata of the files that we export.
DESCRIPTION = "resnet_config"
_PREFIXES = ("module.", "_orig_mod.", "model.")


class Container(NamedTuple):
    """The content of a file: arrays by name, and the description that our exports add, otherwise None."""

    arrays: Arrays
    description: dict[str, Any] | None = None


def damaged(path: Path, error: Exception) -> UserError:
    """Returns the error of a file that its library cannot read."""
    return UserError(
        f"{path}: truncated or damaged ({type(error).__name__}: {error}); fetch or save it again"
    )


def description(text: str | bytes | None) -> dict[str, Any] | None:
    """Returns the description in `text`, None where there is none."""
    return None if text is None else json.loads(text)


def unwrapped(arrays: Arrays) -> Arrays:
    """Removes the prefixes that wrappers around a network, such as `DataParallel`, add to all names."""
    while True:
        prefix = next((p for p in _PREFIXES if arrays and all(name.startswith(p) for name in arrays)), None)
        if prefix is None:
            return arrays
        arrays = {name.removeprefix(prefix): array for name, array in arrays.items()}
