"""SIGTERM and SIGINT, after which a run saves before it stops."""

import signal
from typing import Any

from devices import hosts


class StopRun(Exception):
    """SIGTERM or SIGINT came; the run is saved. `signum` is the signal's number."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class Signals:
    """Remembers SIGTERM or SIGINT in `received` instead of dying of it. A second one kills as usual.

    At the end, it raises `StopRun` for a signal that came after the caller had last looked. A signal at one
    host counts for all, which look and end at the same places.
    """

    def __enter__(self) -> "Signals":
        self.received = 0
        self._handlers = {s: signal.signal(s, self._note) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, kind: type | None, *error: object) -> None:
        for signum, handler in self._handlers.items():
            signal.signal(signum, handler)
        if kind is None and (agreed := self.agreed()):
            raise StopRun(agreed)

    def agreed(self) -> int:
        """Returns the number of the signal that came to this host or another one, 0 if none has come."""
        return hosts.largest(self.received)

    def _note(self, signum: int, frame: Any) -> None:
        self.received = signum
        for either in self._handlers:
            signal.signal(either, signal.SIG_DFL)
