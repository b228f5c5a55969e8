"""The standard streams of a command: closed, full or without a reader, they do not stop its work."""

import io
import os
import sys
from typing import Any


class _Stream(io.FileIO):
    """A standard stream that drops what can no longer be written, and keeps the first error."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                return super().write(data) or 0
            except OSError as error:
                self.error = error
        return memoryview(data).nbytes


_output: _Stream | None = None


def prepare_streams() -> None:
    """Makes the standard streams safe to use: print raises no error, whatever becomes of them.

    A closed stream is opened on the null device; otherwise the next file that is opened would take its
    number, and what libraries write to stderr would land in it. Letters that the encoding of a stream lacks
    are written as escapes.
    """
    global _output
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # It takes the lowest number that is free.
    _output, sys.stdout = _open(1, sys.stdout)
    _, sys.stderr = _open(2, sys.stderr)


def _open(descriptor: int, stream: Any) -> tuple[_Stream, io.TextIOWrapper]:
    raw = _Stream(descriptor, "w", closefd=False)
    text = io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(stream, "encoding", None) or "utf-8",
        errors="backslashreplace",
        line_buffering=descriptor == 2 or raw.isatty(),
    )
    return raw, text


def output_error() -> OSError | None:
    """Returns why stdout can no longer be written, or None as long as it can."""
    return _output.error if _output else None
