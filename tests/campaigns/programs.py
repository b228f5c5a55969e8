"""Processes of `main.py` that are watched, interrupted and given a time limit."""

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.campaigns.patience import Patience
from tests.command_line import ROOT

SECONDS = 300.0  # of a processor, the most that a program may take


class Ended(NamedTuple):
    """How a program ended: the code that a shell would show, 137 after SIGKILL; None if it hung."""

    code: int | None
    out: str
    err: str
    was_running: bool = False  # when the signal was sent
    first: float = 0.0  # seconds until the awaited line
    seconds: float = 0.0


class Interruption(NamedTuple):
    """A signal, sent `delay` seconds after the start, or after a line that begins with `line`."""

    signum: int
    delay: float
    line: str = ""


def run(
    arguments: Sequence[object],
    environment: Mapping[str, str],
    *,
    interruption: Interruption | None = None,
    line: str = "",
    seconds: float = SECONDS,
) -> Ended:
    """Runs main.py with `arguments`, interrupted by a signal if asked to. Watches for `line`."""
    command = [sys.executable, "main.py", *map(str, arguments)]
    line = interruption.line if interruption else line
    started = time.monotonic()
    with tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=err,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        with _watchdog(process, seconds) as hung:
            first, printed = _read_until(process, line) if line else (0.0, b"")
            first = first and first - started
            was_running = False
            if interruption:
                time.sleep(interruption.delay)
                was_running = process.poll() is None
                process.send_signal(interruption.signum)
            out = printed + process.stdout.read()
            process.wait()
        err.seek(0)
        texts = out.decode(errors="replace"), err.read().decode(errors="replace")
    code = None if hung.is_set() else _code_of_shell(process.returncode)
    return Ended(code, *texts, was_running, first, time.monotonic() - started)


@contextmanager
def _watchdog(process: subprocess.Popen, seconds: float) -> Iterator[threading.Event]:
    """Ends the process if it hangs, which sets the event, and when it is no longer needed."""
    hung, done = threading.Event(), threading.Event()
    patience = Patience(process.pid, seconds)

    def watch() -> None:
        while not done.wait(1.0):
            if patience.is_over():
                hung.set()
                process.kill()
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield hung
    finally:
        done.set()
        process.kill()
        process.stdout.close()
        thread.join()


def _read_until(process: subprocess.Popen, beginning: str) -> tuple[float, bytes]:
    """Reads until a line with this beginning; returns the time, 0 if there was none, and what was read."""
    printed = b""
    for line in process.stdout:
        printed += line
        if line.startswith(beginning.encode()):
            return time.monotonic(), printed
    return 0.0, printed


def _code_of_shell(returncode: int) -> int:
    return 128 - returncode if returncode < 0 else returncode


def leftovers(folder: Path) -> list[str]:
    """Returns the temporary files below `folder`."""
    found = [path for path in folder.rglob("*") if path.name.endswith(".tmp") or path.name.startswith("tmp")]
    return sorted(str(path.relative_to(folder)) for path in found)
