"""The exception for mistakes of the user, and the exit code of a command."""

import os
import sys
from collections.abc import Callable


class UserError(Exception):
    """A mistake of the user, described in one line.

    The message says what was wrong, where, what was expected and what to do. Commands print that line and
    exit with code 2. Errors of the program keep their traceback.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def exit_code(command: Callable[[], int | None]) -> int:
    """Runs `command` and returns the exit code of the program.

    This is what `command` returns, or 0 if it returns None. After a `UserError`, which is printed on stderr,
    it is 2. After Ctrl-C it is 130. It is 141 if the reader of the output has gone, as with `| head`. Both
    are the values that shells use.
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
        # Python flushes once more when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
