"""Processes that run `main.py` many times over, as a start of Python and JAX takes longer than most cases.

`python -m tests.campaigns.workers` is such a process. It reads one JSON list of arguments a line, and answers
each with a JSON object. `Worker` starts one, gives it arguments, and ends it when it takes too long or too
much memory.
"""

import json
import os
import select
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from tests.campaigns.patience import Patience
from tests.command_line import ROOT

MEMORY = 3 * 2**30  # bytes; the most that a case may take, with Python and JAX themselves
SECONDS = 60.0  # of a processor, the most that a case may take
CASES = 400  # after so many, a worker starts anew: JAX keeps what it compiled
GROWN = 3 * 2**29  # bytes; a worker that keeps so much starts anew
COMMAND = (sys.executable, "-m", "tests.campaigns.workers")
POLL = 0.05  # seconds between two looks at the memory of a worker


class Answer(NamedTuple):
    """How a case ended. `code` is None if the worker did not survive it, and `ended` then says why."""

    code: int | None
    out: str
    err: str
    peak: int = 0  # bytes
    seconds: float = 0.0
    ended: str = ""  # hang, memory or crash


class Worker:
    """A process that runs the program; a context manager."""

    def __init__(self, environment: Mapping[str, str], command: Sequence[str] = COMMAND) -> None:
        self._environment = environment
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._cases = 0

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def run(self, arguments: Sequence[object], seconds: float = SECONDS, memory: int = MEMORY) -> Answer:
        """Runs main.py with `arguments`, for at most `seconds` of work and in at most `memory` bytes."""
        process = self._started()
        started, looks = time.monotonic(), count(1)
        patience = Patience(process.pid, seconds)
        process.stdin.write(json.dumps([str(argument) for argument in arguments]).encode() + b"\n")
        process.stdin.flush()
        while not select.select([process.stdout], [], [], POLL)[0]:
            taken = time.monotonic() - started
            if next(looks) % 20 == 0 and patience.is_over():
                return self._killed("hang", taken)
            if memory_of(process.pid) > memory:
                return self._killed("memory", taken)
        line = process.stdout.readline()
        taken = time.monotonic() - started
        if not line:
            code = process.wait()
            self._end()
            return Answer(None, "", f"the process ended with {code}", 0, taken, "crash")
        answer = Answer(**json.loads(line), seconds=taken)
        self._cases += 1
        if self._cases >= CASES or memory_of(process.pid) > GROWN:
            self._end()
        return answer._replace(ended="memory") if answer.peak > memory else answer

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is not None:
            self._end()  # It ended by itself since the last case.
        if self._process is None:
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            self._process.stdout.readline()  # The imports are no part of the first case.
            self._cases = 0
        return self._process

    def _killed(self, reason: str, seconds: float) -> Answer:
        peak = memory_of(self._process.pid)
        self._end()
        return Answer(None, "", "", peak, seconds, reason)

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def memory_of(pid: int, field: str = "VmRSS") -> int:
    """Returns the resident memory of a process in bytes, or with `VmHWM` its peak; 0 if it has gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    lines = [line for line in status.splitlines() if line.startswith(f"{field}:")]
    return int(lines[0].split()[1]) * 1024 if lines else 0


# The process itself


def answer(arguments: Sequence[str]) -> dict[str, Any]:
    """Runs main.py with `arguments` in this process; returns exit code, output and peak of memory."""
    Path("/proc/self/clear_refs").write_text("5")  # The peak begins anew.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        kept = [os.dup(stream) for stream in (1, 2)]
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        try:
            with (
                redirect_stdout(open(1, "w", closefd=False)) as stdout,
                redirect_stderr(open(2, "w", closefd=False)) as stderr,
            ):
                code = _run(arguments)
                for stream in (stdout, stderr):
                    if not stream.closed:
                        stream.flush()
        finally:
            for stream, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, stream)
                os.close(copy)
        texts = {}
        for name, file in (("out", out), ("err", err)):
            file.seek(0)
            texts[name] = file.read().decode(errors="replace")
    return {"code": code, **texts, "peak": memory_of(os.getpid(), "VmHWM")}


def _run(arguments: Sequence[str]) -> int:
    """Runs main.py and returns the exit code that Python would end with."""
    from tests.command_line import run_main

    try:
        return run_main(*arguments)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
        return 1


def serve() -> None:
    """Answers the lines of arguments that come on stdin, on what was stdout at the start."""
    import main  # noqa: F401 (before the first case, and without its time)

    replies = os.fdopen(os.dup(1), "w")
    replies.write("ready\n")
    replies.flush()
    for line in sys.stdin:
        replies.write(json.dumps(answer(json.loads(line))) + "\n")
        replies.flush()


if __name__ == "__main__":
    serve()
