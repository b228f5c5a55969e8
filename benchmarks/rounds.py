"""Alternating rounds, and their medians, ranges, ratios by round and table."""

from collections.abc import Callable, Mapping
from statistics import median
from typing import Any, NamedTuple

from tabulate import tabulate

OURS = "ours"


class Failed(Exception):
    """A contestant could not be built or broke down in a round; the message says why, in one line."""


def process_failed(what: str, code: int, messages: str) -> Failed:
    """Returns the failure of a process, with the last line of the `messages` that it left on stderr."""
    last = " ".join(messages.strip().splitlines()[-1:])[:300]
    return Failed(f"{what} ended with exit code {code}: {last}")


class Spread(NamedTuple):
    """The median, the smallest and the largest value of all rounds."""

    median: float
    low: float
    high: float


def alternate(
    contestants: Mapping[str, Callable[[], float]], rounds: int
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Runs all contestants in turn, once a round, so that whatever disturbs the machine disturbs all of them.

    Returns the results of each, a number a round, and the reason for those that raised `Failed`.
    """
    results: dict[str, list[float]] = {name: [] for name in contestants}
    failed: dict[str, str] = {}
    for _ in range(rounds):
        for name, run in contestants.items():
            if name not in failed:
                try:
                    results[name].append(run())
                except Failed as error:
                    failed[name] = str(error)
    return {name: values for name, values in results.items() if name not in failed}, failed


def spread(values: list[float]) -> Spread:
    """Returns the median and the range of `values`."""
    return Spread(median(values), min(values), max(values))


def ratios(ours: list[float], peer: list[float]) -> list[float]:
    """Returns `ours` / `peer` for each round.

    The two are neighbours in time, so that a slow phase of the machine cancels.
    """
    return [our_rate / peer_rate for our_rate, peer_rate in zip(ours, peer, strict=True)]


def summarize(rates: Mapping[str, list[float]], floor_rate: float | None) -> list[dict[str, Any]]:
    """Returns a row for each contestant.

    `rates` are in images/s, one for each round, and so is the `floor_rate`. In a row, `ratio` is our rate
    over the peer's rate (None if we take no part), and `share_of_floor` is the median over `floor_rate`.
    """
    rows = []
    for name, values in rates.items():
        row = {"name": name, "images_per_second": spread(values)._asdict() | {"rounds": values}}
        by_round = ratios(rates[OURS], values) if OURS in rates else None
        row["ratio"] = by_round and spread(by_round)._asdict() | {"rounds": by_round}
        row["share_of_floor"] = row["images_per_second"]["median"] / floor_rate if floor_rate else None
        rows.append(row)
    return rows


def is_ours(name: str) -> bool:
    """Returns whether the contestant `name` is this project, or a model that it exported."""
    return name.partition("_")[0] == OURS


class Lead(NamedTuple):
    """The fastest of ours, the fastest peer, and the ratio of the first to the second by round."""

    ours: str
    peer: str
    ratio: Spread


def lead(rows: list[dict[str, Any]]) -> Lead | None:
    """Returns how far this project is ahead, by medians; None if there are no peers.

    Several rows may be ours, such as `ours` and the ONNX models that it exports, `ours_onnx`.
    """
    by_name = {row["name"]: row["images_per_second"] for row in rows}
    ours, peers = ([name for name in by_name if is_ours(name) == wanted] for wanted in (True, False))
    if not peers:
        return None
    best, peer = (max(names, key=lambda name: by_name[name]["median"]) for names in (ours, peers))
    return Lead(best, peer, spread(ratios(by_name[best]["rounds"], by_name[peer]["rounds"])))


def format_table(rows: list[dict[str, Any]], left_out: Mapping[str, str]) -> str:
    """Returns the rows as a table; below it, those `left_out`, with the reason."""
    cells = [
        [
            row["name"],
            f"{row['images_per_second']['median']:.1f}",
            format_range(row["images_per_second"], 1),
            f"{row['ratio']['median']:.2f}" if row["ratio"] else "-",
            format_range(row["ratio"], 2) if row["ratio"] else "-",
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


def format_range(values: Mapping[str, float], digits: int) -> str:
    """Returns the lowest and the highest of a `Spread` as a dictionary, such as `0.77-0.90`."""
    return f"{values['low']:.{digits}f}-{values['high']:.{digits}f}"
