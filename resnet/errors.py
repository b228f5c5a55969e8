"""The exception for mistakes of the user, and the exit code of a command."""

import os
import sys
from collections.abc import Callable

from resnet.streams import output_error


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
    and after output that cannot be written, it is 2. After Ctrl-C it is 130. It is 141 if the reader of the
    output has gone, as with `| head`. Both are the values that shells use.
    """
    try:
        code = command() or 0
    except UserError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return _drop_output(141)
    error = _output_error()
    if error is None:
        return code
    if isinstance(error, BrokenPipeError):
        return _drop_output(code or 141)
    print(
        f"error: standard output: cannot be written ({error.strerror}); what was printed is incomplete,"
        " while all files are whole",
        file=sys.stderr,
    )
    return _drop_output(code or 2)


def _output_error() -> OSError | None:
    """Returns why not all of stdout could be written, or None if it was."""
    try:
        sys.stdout.flush()
    except OSError as error:
        return error
    return output_error()


def _drop_output(code: int) -> int:
    """Returns `code`. Python flushes once more when it exits, which then goes to the null device."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code
