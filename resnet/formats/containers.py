"""What a file of weights holds, whichever format it has: arrays by name, and a description of ours."""

from pathlib import Path
from typing import Any, NamedTuple

from resnet.errors import UserError
from resnet.formats.names import Arrays
from resnet.json_files import parse_json

# The entry for the settings of the network, in the metadata of the files that we export.
DESCRIPTION = "resnet_config"
MAX_REASON = 160  # characters of what a library says of a damaged file


class Container(NamedTuple):
    """The content of a file: arrays by name, and the description that our exports add, otherwise None.

    `graph` is the JSON of the model in a Keras archive of ours, which must be that of the description.
    """

    arrays: Arrays
    description: dict[str, Any] | None = None
    graph: str | bytes | None = None


def damaged(path: Path, error: Exception) -> UserError:
    """Returns the error of a file that its library cannot read."""
    reason = " ".join(str(error).split())[:MAX_REASON]
    return UserError(
        f"{path}: truncated or damaged ({type(error).__name__}: {reason}); fetch or save it again"
    )


def parse_description(text: str | bytes | None, path: Path) -> dict[str, Any] | None:
    """Returns the description in `text`, which stands in the file `path`; None where there is none.

    Raises:
        UserError: it is no JSON object.
    """
    return None if text is None else parse_json(text, {"type": "object"}, f"{path}: its {DESCRIPTION}")
