"""Ctrl-C and SIGTERM of a command: they end it at once, at any moment."""

# Until the handlers stand, Ctrl-C prints a traceback. So nothing is imported here that is not there already.
import os
import signal
from _collections_abc import Callable
from _thread import get_ident

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Those are to be removed when a signal comes.
temporary_files: set[os.PathLike[str]] = set()
temporary_folders: set[str] = set()
# Functions of the exit code that are called before a signal ends the process.
farewells: list[Callable[[int], None]] = []
# The threads that have begun to end the process, the one that does it first.
_leaving: list[int] = []


def exit_at_signals() -> None:
    """Lets SIGINT and SIGTERM end the process at once, with exit code 130 or 143.

    No exception is raised: a library could swallow it, or Python itself, in a callback of its garbage
    collector. All files are written whole or not at all, so nothing is left half-written.
    """
    for signum in SIGNALS:
        signal.signal(signum, exit_now)


def exit_inside_calls() -> None:
    """Lets a thread act on the signals, while the main thread is in a call such as a compilation of minutes.

    It is for after `exit_at_signals`, once the standard streams are open.
    """
    import threading

    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_exit_when_told, args=(reader,), daemon=True).start()
    # A child would write its signals into the pipe of its parent.
    os.register_at_fork(after_in_child=_reset)


def exit_now(signum: int, frame: object) -> None:
    """Removes what is temporary and ends the process, with the exit code that shells give it.

    A signal calls this in the main thread and in the one of `exit_inside_calls`. The second call waits, and a
    second signal changes nothing.
    """
    thread = get_ident()
    _leaving.append(thread)
    while _leaving[0] != thread:
        signal.pause()
    if _leaving.count(thread) > 1:
        return
    for farewell in (*farewells,):
        farewell(128 + signum)
    remove_temporary()
    os._exit(128 + signum)


def remove_temporary() -> None:
    """Removes the temporary files and folders of this process."""
    for file in (*temporary_files,):
        _remove(file)
    for folder in (*temporary_folders,):
        for path, folders, files in os.walk(folder, topdown=False):
            for name in (*files, *folders):
                _remove(os.path.join(path, name))
        _remove(folder)


def _remove(path: str | os.PathLike[str]) -> None:
    """Removes a file or an empty folder, if it can be removed."""
    try:
        if os.path.isdir(path) and not os.path.islink(path):
            os.rmdir(path)
        else:
            os.unlink(path)
    except OSError:
        pass


def _exit_when_told(reader: int) -> None:
    while received := os.read(reader, 1):
        # A training saves first; it has handlers of its own meanwhile.
        if signal.getsignal(received[0]) is exit_now:
            exit_now(received[0], None)


def _reset() -> None:
    signal.set_wakeup_fd(-1)
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_DFL)
