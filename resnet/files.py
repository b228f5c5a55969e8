"""Files: written whole or not at all, read within bounds, and the cache folder."""

import errno
import json
import os
import re
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from secrets import token_hex
from typing import Any

from resnet.errors import UserError
from resnet.signals import temporary_files, temporary_folders

_BLOCK = 2**20  # bytes
# A full disk, a used up quota, and the largest file that `ulimit -f` allows.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+-]+:/")  # gs://, s3://, hf://, file:/
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def cache_folder() -> Path | None:
    """Returns the folder for what this project can make again, in the cache folder of the user.

    None if the user's cache folder is no absolute path.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache, "resnet-signs") if os.path.isabs(cache) else None


def last_name(path: str) -> str:
    """Returns the last name of `path`, which may be `.` or begin with `~`."""
    return os.path.basename(os.path.abspath(os.path.expanduser(path)))


@contextmanager
def removed_at_exit(file: Path) -> Iterator[None]:
    """Removes `file` at the end, and also if a signal ends the process before."""
    temporary_files.add(file)
    try:
        yield
    finally:
        with suppress(OSError):
            file.unlink(missing_ok=True)
        temporary_files.discard(file)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yields an empty folder, which is removed at the end, and also if a signal ends the process before.

    Raises:
        UserError: the system's folder for temporary files cannot be written.
    """
    try:
        folder = tempfile.TemporaryDirectory()
    except OSError as error:
        raise UserError(
            f"folder for temporary files: cannot be written ({error.strerror}); free some space, or set"
            " TMPDIR to another one"
        ) from None
    with folder as name:
        temporary_folders.add(name)
        try:
            yield Path(name)
        finally:
            temporary_folders.discard(name)


@contextmanager
def replacement(path: Path) -> Iterator[Path]:
    """Yields the path of a temporary file, which takes the place of `path` in one step at the end.

    If the caller fails, the temporary file is removed. Each process writes one of its own, so two that write
    the same `path` at once do no harm.
    """
    temporary = path.with_name(f"{path.name}.{token_hex(4)}.tmp")
    with removed_at_exit(temporary):
        yield temporary
        os.replace(temporary, path)


def write_whole(path: Path, content: str | bytes) -> None:
    """Replaces the content of `path` in one step.

    At any moment, even if the program is killed, the file has either its old content or the new one.

    Raises:
        OSError: the folder cannot be written.
    """
    with replacement(path) as temporary, temporary.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())  # Some file systems tell only now that there is no space left.


def write_result(path: Path, content: str | bytes) -> None:
    """Writes a result that the user asked for, as `write_whole` does, and creates its folder.

    A link is followed. What is no ordinary file, such as /dev/null or a pipe, is written into.

    Raises:
        UserError: `path` cannot be written, or links from elsewhere to a device or a pipe, where nobody would
            find the result.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if os.path.exists(path) and not os.path.isfile(path):
            _write_into(path, content)
        else:
            write_whole(Path(os.path.realpath(path)), content)
    except (OSError, ValueError) as error:
        raise cannot_write(path, error) from None


def _write_into(path: Path, content: str | bytes) -> None:
    """Writes into a device or a pipe, which stays what it is.

    Raises:
        OSError: it cannot be written, or is a disk, or a link from elsewhere, or nobody reads from the pipe.
    """
    if path.is_block_device():
        raise OSError("is a disk")
    if path.is_symlink() and not path.is_relative_to("/dev"):  # /dev/stdout is a link, too.
        raise OSError(f"links to {os.path.realpath(path)}, which is not a file")
    # It does not wait until somebody reads, nor make a terminal the one that controls this process.
    descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    os.set_blocking(descriptor, True)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)


def cannot_write(path: Path | str, error: Exception) -> UserError:
    """Returns the error that says why `path` cannot be written, and what to do."""
    full = isinstance(error, OSError) and error.errno in FULL
    advice = "free some space, or name another folder" if full else "name another folder"
    return UserError(f"{path}: cannot be written ({reason_of(error)}); {advice}")


def disk_error(error: BaseException) -> str | None:
    """Returns what the disk says in `error`, or None if the error is of another kind.

    TensorStore, with which Orbax writes, has the number of the system's error in its message.
    """
    if isinstance(error, OSError):
        return reason_of(error)
    match = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(match[1])) if match else None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes `content` as indented JSON, as `write_result` does.

    Raises:
        UserError: `path` cannot be written.
    """
    write_result(path, json.dumps(content, indent=2) + "\n")


def open_file(path: Path) -> BufferedReader:
    """Opens the ordinary file `path` for reading. A pipe or a device is refused, where reading could hang.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it is no ordinary file, or cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except NotADirectoryError as error:
        raise FileNotFoundError(error.errno, error.strerror, str(path)) from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path.
        raise UserError(
            f"{printable(path)}: cannot be read ({reason_of(error)}); check the path and its permissions"
        ) from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "something else")
        raise UserError(f"{printable(path)}: is {kind}, expected an ordinary file")
    return os.fdopen(descriptor, "rb")


def read_file(path: Path, max_bytes: int) -> bytes:
    """Returns the bytes of the ordinary file `path`.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it is no ordinary file, cannot be read, or has more than `max_bytes`.
    """
    with open_file(path) as file:
        try:
            # Not more at once than there is: memory for all of a high limit may not be there.
            size = os.fstat(file.fileno()).st_size
            content = file.read(min(size, max_bytes) + 1)
            while size < len(content) <= max_bytes and (more := file.read(_BLOCK)):
                content += more  # It has grown, or lies in /proc, where sizes are said to be 0.
        except OSError as error:
            raise UserError(
                f"{printable(path)}: cannot be read ({reason_of(error)}); restore it from a copy"
            ) from None
    if len(content) > max_bytes:
        raise UserError(f"{printable(path)}: has more than {max_bytes:,} bytes, expected at most that")
    return content


_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def local_path(text: str) -> str:
    """Returns the path that somebody typed, with `~` written out as the shell would.

    Raises:
        UserError: it is empty, a URL, holds a null byte, or names the home of somebody who is not known.
    """
    shown = printable(text)
    if not text:
        raise UserError("'': is an empty path, expected a file or a folder; name one")
    if "\0" in text:
        raise UserError(f"{shown}: holds a null byte, expected a path; leave it out")
    if _URL.match(text):
        raise UserError(
            f"{shown}: is a URL, expected a path on this machine; download it, or mount it as a folder"
        )
    path = os.path.expanduser(text)
    if path.startswith("~") and not os.path.lexists(path):
        raise UserError(f"{shown}: there is no such user; write ./{shown} for a name that begins with ~")
    return path


def printable(path: str | os.PathLike[str]) -> str:
    """Returns a path as text that any terminal and file takes.

    Bytes that are not UTF-8 become such as `\\xe9`, and control characters such as `\\x0a`.
    """
    return _UNPRINTABLE.sub(_escaped, os.fspath(path))


def _escaped(character: re.Match[str]) -> str:
    code = ord(character[0])
    if 0xDC80 <= code <= 0xDCFF:  # A surrogate escape stands for the byte in its last two digits.
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def reason_of(error: Exception) -> str:
    """Returns the words of the operating system for `error`."""
    return getattr(error, "strerror", None) or str(error)
