"""The one exception type for what a user gets wrong."""

import os
import sys
from collections.abc import Callable


class UserError(Exception):
    """A mistake of the user's, told in one line.

    The message names the file, field or value, what was found, what was expected and what to do.
    `main.py` prints that line and exits with code 2; a program error keeps its traceback instead.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def exit_code(command: Callable[[], int | None]) -> int:
    """Runs a program and returns its exit code: what `command` returns, 0 for nothing.

    It is 2 for a user's mistake, which is printed in one line, and as shells have it for Ctrl-C and for
    output that nobody reads any more, as that of `| head`.
    """
    try:
        code = command()
        sys.stdout.flush()
        return code or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end.
        return 141
