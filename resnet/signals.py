"""Ctrl-C and SIGTERM of a command: they end it at once, at any moment."""

import os
import signal
import threading
from typing import Any, NoReturn

from resnet.files import remove_temporary_files

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def exit_at_signals() -> None:
    """Lets SIGINT and SIGTERM end the process at once, with exit code 130 or 143.

    No exception is raised: a library could swallow it, or Python itself, in a callback of its garbage
    collector. A thread acts on the signal, as the main thread may be compiling for minutes. All files are
    written whole or not at all, so nothing is left half-written.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for signum in SIGNALS:
        signal.signal(signum, exit_now)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_exit_when_told, args=(reader,), daemon=True).start()
    # A child would write its signals into the pipe of its parent.
    os.register_at_fork(after_in_child=_reset)


def exit_now(signum: int, frame: Any) -> NoReturn:
    """Ends the process as a signal does, with the exit code that shells give it."""
    remove_temporary_files()
    os._exit(128 + signum)


def _exit_when_told(reader: int) -> None:
    while received := os.read(reader, 1):
        # A training saves first; it has handlers of its own meanwhile.
        if signal.getsignal(received[0]) is exit_now:
            exit_now(received[0], None)


def _reset() -> None:
    signal.set_wakeup_fd(-1)
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_DFL)
