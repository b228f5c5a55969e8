"""The one exception type for what a user gets wrong (DESIGN D8)."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """A mistake of the user's, told in one line.

    The message names the file, field or value, what was found, what was expected and what to do.
    `main.py` prints that line and exits with code 2; a program error keeps its traceback instead.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def exit_code(command: Callable[[], None]) -> int:
    """Runs `command` of a module of its own; 2 for a user's mistake, which it prints, else 0."""
    try:
        command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
