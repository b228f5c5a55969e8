"""Alternating rounds and what follows from them: medians, spread, ratios round by round, table."""

from collections.abc import Callable, Mapping
from statistics import median
from typing import Any, NamedTuple

from tabulate import tabulate

OURS = "ours"


class Failed(Exception):
    """A contestant could not be built or broke down in a round; the message says why, in one line."""


class Spread(NamedTuple):
    """Median, smallest and largest of a figure's rounds."""

    median: float
    low: float
    high: float


def alternate(
    contestants: Mapping[str, Callable[[], float]], rounds: int
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Runs all contestants once a round, in order, so that whatever disturbs the machine meets each of them.

    Returns what each gave, one number a round, and for those that raised `Failed` the reason instead.
    """
    measured: dict[str, list[float]] = {name: [] for name in contestants}
    failed: dict[str, str] = {}
    for _ in range(rounds):
        for name, run in contestants.items():
            if name not in failed:
                try:
                    measured[name].append(run())
                except Failed as error:
                    failed[name] = str(error)
    return {name: values for name, values in measured.items() if name not in failed}, failed


def spread(values: list[float]) -> Spread:
    """The median and the range of `values`."""
    return Spread(median(values), min(values), max(values))


def ratios(ours: list[float], peer: list[float]) -> list[float]:
    """`ours` over `peer` round by round: neighbours in time, so that a slow phase of the machine cancels."""
    return [mine / other for mine, other in zip(ours, peer, strict=True)]


def summarize(rates: Mapping[str, list[float]], floor_rate: float | None) -> list[dict[str, Any]]:
    """One row a contestant, of `rates` in images/s, one a round; `floor_rate` is the floor's.

    `ratio` is ours over the peer's (None without ours), `share_of_floor` the median over `floor_rate`.
    """
    rows = []
    for name, values in rates.items():
        row = {"name": name, "images_per_second": spread(values)._asdict() | {"rounds": values}}
        of_rounds = ratios(rates[OURS], values) if OURS in rates else None
        row["ratio"] = of_rounds and spread(of_rounds)._asdict() | {"rounds": of_rounds}
        row["share_of_floor"] = row["images_per_second"]["median"] / floor_rate if floor_rate else None
        rows.append(row)
    return rows


def fastest_peer(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The row of the highest median among those that are not ours."""
    peers = [row for row in rows if row["name"] != OURS]
    return max(peers, key=lambda row: row["images_per_second"]["median"], default=None)


def format_table(rows: list[dict[str, Any]], left_out: Mapping[str, str]) -> str:
    """The rows for people to read; below it who is `left_out`, with the reason."""
    cells = [
        [
            row["name"],
            f"{row['images_per_second']['median']:.1f}",
            _range(row["images_per_second"], 1),
            f"{row['ratio']['median']:.2f}" if row["ratio"] else "-",
            _range(row["ratio"], 2) if row["ratio"] else "-",
            f"{row['share_of_floor']:.2f}" if row["share_of_floor"] else "-",
            _megabytes(row.get("peak_memory")),
            _megabytes((row.get("compiling") or {}).get("peak_memory")),
            _megabytes(row.get("peak_device_memory")),
        ]
        for row in rows
    ]
    headers = ["", "images/s", "range", "ours/peer", "range", "of floor", "peak MB", "compiling", "device MB"]
    table = tabulate(cells, headers, disable_numparse=True, colalign=["left", *["right"] * 8])
    return "\n".join([table, *(f"{name}: {reason}" for name, reason in left_out.items())])


def _megabytes(size: int | None) -> str:
    return f"{size / 1e6:.0f}" if size else "-"


def _range(of: Mapping[str, float], digits: int) -> str:
    return f"{of['low']:.{digits}f}-{of['high']:.{digits}f}"
