"""The lock of a workdir, so that two trainings never write the same run."""

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from resnet.errors import UserError
from resnet.files import cannot_write, removed_at_exit

LOCK_FILE = ".lock"
PATIENCE = 70.0  # seconds; a network file system keeps what it has seen for up to 60


@contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Holds the lock of `workdir`, which is made if it is missing, and removed again if it stays empty.

    The lock is one of the operating system's on a file that names process and host. It dies with its process,
    so a file that a killed process left behind locks nothing. Linux passes such locks on to the other hosts
    of a network file system; one that has no locks goes without.

    Raises:
        UserError: another process holds the lock, or `workdir` cannot be written.
    """
    missing = [folder for folder in (workdir, *workdir.parents) if not os.path.lexists(folder)]
    file = workdir / LOCK_FILE
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        descriptor = _open_locked(file)
    except (OSError, ValueError) as error:
        raise cannot_write(f"--workdir={workdir}", error) from None
    try:
        with removed_at_exit(file):  # While it is locked: nobody can hold the lock of a file that is gone.
            yield
    finally:
        os.close(descriptor)
        with suppress(OSError):
            for folder in missing:
                folder.rmdir()


def check_shared(workdir: Path, share: Callable[[Any], Any]) -> None:
    """Checks that this host sees the `workdir` whose lock the writer holds.

    `share` returns the writer's value on every host. A network file system may show a new file late, and
    later still if it was looked for before.

    Raises:
        UserError: this host sees another folder of that name, or none.
    """
    share(None)  # The writer has the lock now.
    holder, deadline = share(_read_holder(workdir)), time.monotonic() + PATIENCE
    while _read_holder(workdir) != holder:
        if time.monotonic() > deadline:
            raise UserError(
                f"--workdir={workdir}: is not the folder in which {holder} trains; expected one that all"
                " hosts share, such as on a network file system; name it as this host sees it"
            )
        time.sleep(0.2)


def _read_holder(workdir: Path) -> str:
    """Returns what the file of the lock says, or "" if there is none."""
    try:
        return (workdir / LOCK_FILE).read_text(errors="replace").strip()
    except OSError:
        return ""


def _open_locked(file: Path) -> int:
    """Returns the descriptor of `file`, which is made, locked, and filled with process and host."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        try:
            _lock(descriptor, file)
            if _is_at(descriptor, file):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # Its holder has just removed it.


def _lock(descriptor: int, file: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # The second on some network file systems.
        holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
        raise UserError(
            f"--workdir={file.parent}: {holder} trains there; wait for its end, or name another folder"
        ) from None
    except OSError:  # There are no locks on this file system.
        return


def _is_at(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(file))
    except FileNotFoundError:
        return False
