"""When a program hangs: by the work of its processes rather than by the clock, as the machine may do more."""

import time
from contextlib import suppress
from pathlib import Path

IDLE = 45.0  # seconds without work, after which a program hangs
WORK = 0.25  # seconds of a processor in that time, below which it does none
LONGEST = 900.0  # seconds after which it hangs whatever it does
_TICKS = 100.0  # in a second, on Linux


class Patience:
    """Watches the processes of a session, which `pid` leads, and says when to give them up."""

    def __init__(self, pid: int, busy: float) -> None:
        """`busy` are the seconds of a processor that they may take."""
        self._pid = pid
        self._busy = busy
        self._began = self._since = time.monotonic()
        self._first = self._work = work_of(pid)

    def is_over(self) -> bool:
        """Whether they did nothing for long, or more than they may."""
        now, work = time.monotonic(), work_of(self._pid)
        if work - self._work > WORK:
            self._since, self._work = now, work
        return now - self._since > IDLE or work - self._first > self._busy or now - self._began > LONGEST


def work_of(pid: int) -> float:
    """Returns the seconds of a processor that the processes in the session of `pid` have taken."""
    ticks = 0
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # It has ended.
            fields = file.read_text().rpartition(")")[2].split()
            if int(fields[3]) == pid:
                ticks += sum(map(int, fields[11:15]))  # its own and those of children that have ended
    return ticks / _TICKS
