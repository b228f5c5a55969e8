"""SIGTERM and SIGINT: a run saves before it stops."""

import signal
from typing import Any


class StopRun(Exception):
    """SIGTERM or SIGINT came; the run is saved. `signum` is the signal's number."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class Signals:
    """Notes SIGTERM and SIGINT instead of dying by them; a second one kills as usual."""

    def __enter__(self) -> "Signals":
        self.received = 0
        self._before = {s: signal.signal(s, self._note) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *error: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, frame: Any) -> None:
        self.received = signum
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)
