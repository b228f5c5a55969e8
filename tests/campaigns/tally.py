"""What a campaign counts: cases by outcome, and every failure as a command that repeats it."""

import sys
from collections import Counter
from threading import Lock
from typing import NamedTuple


class InvalidSeedError(Exception):
    """Valid files were not read, or an undisturbed run did not end well: there is nothing to compare with."""


class Failure(NamedTuple):
    """A case that broke the rule: its kind, such as `traceback`, what was seen, and how to repeat it."""

    kind: str
    seen: str
    command: str


class Tally:
    """Counts outcomes and collects failures, from several threads."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.failures: list[Failure] = []
        self._lock = Lock()

    def count(self, outcome: str, number: int = 1) -> None:
        """Adds `number` to what is counted as `outcome`."""
        with self._lock:
            self.counts[outcome] += number

    def fail(self, failure: Failure) -> None:
        """Counts a failure and prints it at once, as a campaign may be cut short."""
        with self._lock:
            self.counts[failure.kind] += 1
            self.failures.append(failure)
            print(f"FAILED {failure.kind}: {failure.seen}\n  {failure.command}", file=sys.stderr, flush=True)

    def lines(self, outcomes: tuple[str, ...]) -> list[str]:
        """Returns a line for each of `outcomes`, zeros too, and for what else was counted."""
        others = sorted(self.counts.keys() - set(outcomes))
        return [f"  {name:<28}{self.counts[name]:>7,}" for name in (*outcomes, *others)]


def last_line(text: str, length: int = 300) -> str:
    """Returns the last line of `text`, where a traceback has its error."""
    lines = text.strip().splitlines() or [""]
    return lines[-1][:length]
