"""What a command meets in its process: the standard streams, and the encoding of names.

Streams that are closed, full or without a reader do not stop its work.
"""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
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


def ensure_utf8_names() -> None:
    """Starts Python again, in its UTF-8 mode, where the locale has another encoding.

    There, names of files and arguments would be other text, so a class would have another name than
    elsewhere. The standard streams keep the encoding of the locale.
    """
    if sys.getfilesystemencoding() != "utf-8":
        os.environ.setdefault("PYTHONIOENCODING", getattr(sys.stdout, "encoding", None) or "utf-8")
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def prepare_streams() -> None:
    """Makes the standard streams safe to use: print raises no error, whatever becomes of them.

    A closed stream is opened on the null device; otherwise the next file that is opened would take its
    number, and what libraries write to stderr would land in it. Letters that the encoding of a stream lacks
    are written as escapes. `sys.stderr` gets a descriptor of its own, which `libraries_silenced` leaves
    alone.
    """
    global _output
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # It takes the lowest number that is free.
    _output, sys.stdout = _open(1, sys.stdout)
    _, sys.stderr = _open(os.dup(2), sys.stderr)


def _open(descriptor: int, stream: Any) -> tuple[_Stream, io.TextIOWrapper]:
    raw = _Stream(descriptor, "w", closefd=False)
    text = io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(stream, "encoding", None) or "utf-8",
        errors="backslashreplace",
        line_buffering=stream is sys.stderr or raw.isatty(),
    )
    return raw, text


def output_error() -> OSError | None:
    """Returns why stdout can no longer be written, or None as long as it can."""
    return _output.error if _output else None


class _Silence:
    """The null device in the place of stderr, for as long as somebody asks for it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._count = 0
        self._saved = -1

    def begin(self) -> None:
        with self._lock:
            if self._count == 0:
                self._saved = os.dup(2)
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, 2)
                os.close(null)
            self._count += 1

    def end(self) -> None:
        with self._lock:
            self._count -= 1
            if self._count == 0:
                os.dup2(self._saved, 2)
                os.close(self._saved)


_silence = _Silence()


@contextmanager
def libraries_silenced() -> Iterator[None]:
    """Drops what libraries in C write to stderr, such as libtiff, for which Pillow has no switch."""
    _silence.begin()
    try:
        yield
    finally:
        _silence.end()
