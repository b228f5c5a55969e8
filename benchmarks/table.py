"""The tables of docs/benchmarks.md, from benchmarks/results: `python -m benchmarks.table [--print]`.

They replace what is between the two marker comments of that page.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks.command_line import HelpFormatter, exit_code
from benchmarks.peers import PEERS
from benchmarks.rounds import OURS, is_ours, lead
from benchmarks.suite import RESULTS, ROWS
from benchmarks.worker import ROOT
from resnet.errors import UserError
from resnet.files import write_whole

BEGIN, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"
DASH, TIMES = "–", "×"  # noqa: RUF001
PAGE = "docs/benchmarks.md"
PICTURE = "growth.png"  # beside the page
Report = Mapping[str, Any]


def main() -> int:
    """Runs the command line and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--print", action="store_true", help="print the tables, leave the page as it is")
    options = parser.parse_args()
    return exit_code(lambda: _run(options.print))


def _run(only_print: bool) -> None:
    text = format_reports(read_reports(RESULTS))
    if only_print:
        print(text)
        return
    page = ROOT / PAGE
    write_whole(page, replaced(page.read_text(), text))


def read_reports(folder: Path) -> list[Report]:
    """Returns the reports of the rows that have been measured, in the order of the suite.

    Raises:
        UserError: there are none, or one is damaged.
    """
    paths = [folder / f"{row.name}.json" for rows in ROWS.values() for row in rows]
    reports = []
    for path in paths:
        if path.exists():
            try:
                reports.append(json.loads(path.read_text()))
            except ValueError as error:
                raise UserError(
                    f"{path}: not JSON ({error}); measure it again:"
                    f" python -m benchmarks.suite --only={path.stem}"
                ) from None
    if not reports:
        raise UserError(f"{folder}: no reports there; measure some: python -m benchmarks.suite")
    return reports


def replaced(text: str, table: str) -> str:
    """Returns `text` with `table` between its markers.

    Raises:
        UserError: it has no pair of markers.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{PAGE}: no {BEGIN} followed by {END}; expected both around the place of the tables")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def format_reports(reports: list[Report]) -> str:
    """Returns the tables in Markdown, below a heading for each machine and set of versions."""
    parts = []
    for heading, group in groupby(sorted(reports, key=_heading), _heading):
        group = list(group)
        parts.append(heading)
        results = [result for report in group for result in report.get("results", []) if "rows" in result]
        if results:
            parts.append(contest_table(results))
        for report in group:
            if report["benchmark"] == "startup":
                parts.append(startup_table(report))
            elif report["benchmark"] == "growth":
                parts.append(growth_table(report))
    return "\n\n".join(parts)


def _heading(report: Report) -> str:
    machine, versions = report["machine"], report["versions"]
    used = ", ".join(f"{name} {version}" for name, version in versions.items() if name != "jaxlib")
    return f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}; {used}:"


def contest_table(results: list[Mapping[str, Any]]) -> str:
    """Returns a table with a row for each case: images/s, our lead, the ratio to Flax, memory."""
    contestants = {row["name"] for result in results for row in result["rows"]}
    peers = [name for name in PEERS if name in contestants - {OURS}]
    cells = []
    for result in results:
        rows = {row["name"]: row for row in result["rows"]}
        rates = {name: f"{row['images_per_second']['median']:.1f}" for name, row in rows.items()}
        ahead = lead(result["rows"])
        if ahead:
            rates[ahead.peer] = f"**{rates[ahead.peer]}**"
        floor = rows[OURS]["share_of_floor"]
        cells.append(
            [
                _case(result["case"]),
                *(rates.get(name, "") for name in (OURS, *peers)),
                _spread(ahead.ratio._asdict(), 2) if ahead else "",
                _spread(rows["flax"]["ratio"], 2) if "flax" in rows else "",
                f"{floor:.2f}" if floor else "",
                _memory(rows),
            ]
        )
    comparisons = ["ours / fastest", "ours / flax", "of floor", "peak MB: ours, leanest"]
    return _markdown(cells, ["images/s", OURS, *peers, *comparisons])


def _case(case: Mapping[str, Any]) -> str:
    dtype = "" if case["dtype"] == "float32" else f", {case['dtype']}"
    return f"{case['task']}, ResNet-{case['depth']}, {_batch(case)}{dtype}"


def _batch(case: Mapping[str, Any]) -> str:
    return f"{case['batch']} of {case['image_size']}{TIMES}{case['image_size']}"


def _memory(rows: Mapping[str, Mapping[str, Any]]) -> str:
    key = "peak_device_memory" if rows[OURS]["peak_device_memory"] else "peak_memory"
    peers = {name: row[key] for name, row in rows.items() if not is_ours(name) and row[key]}
    leanest = min(peers, key=peers.get, default=None)
    return f"{rows[OURS][key] / 1e6:.0f}" + (f", {peers[leanest] / 1e6:.0f} ({leanest})" if leanest else "")


def _spread(values: Mapping[str, float], digits: int) -> str:
    median, low, high = (f"{values[name]:.{digits}f}" for name in ("median", "low", "high"))
    return f"{median} ({low}{DASH}{high})"


def _markdown(cells: list[list[str]], headers: list[str]) -> str:
    sides = ["left", *["right"] * (len(headers) - 1)]
    return tabulate(cells, headers, "github", disable_numparse=True, colalign=sides)


def startup_table(report: Report) -> str:
    """Returns the table of the two starts, and below it a sentence on where the time of the second goes."""
    results = report["results"]
    starts = {"first": "first, empty compilation cache", "warm": "second, warm compilation cache"}
    cells = [
        [text, _spread(results[name]["seconds"], 1), f"{results[name]['peak_memory']['median'] / 1e6:.0f}"]
        for name, text in starts.items()
    ]
    title = f"start to first finished step, ResNet-{report['case']['depth']}, {_batch(report['case'])}"
    parts = {
        group: ", ".join(f"{name} {values['median']:.2f}" for name, values in results[group].items())
        for group in ("phases", "imports")
    }
    sentence = f"Seconds of the second start: {parts['phases']}. Of the imports: {parts['imports']}."
    return f"{_markdown(cells, [title, 'seconds', 'peak MB'])}\n\n{sentence}"


def growth_table(report: Report) -> str:
    """Returns the picture of the growth, and the table of its points."""
    cells = [
        [
            f"{point['axis'].replace('_', ' ')} {point['case'][point['axis']]:,}"
            if point["axis"]
            else "base",
            f"{point['seconds_per_step']['median']:.3f}",
            f"{point['images_per_second']['median']:.1f}",
            f"{point['peak_memory'] / 1e6:.0f}",
        ]
        for point in report["points"]
    ]
    base = report["base"]
    title = f"train, base: ResNet-{base['depth']}, {_batch(base)}, data set {base['dataset_size']:,}"
    table = _markdown(cells, [title, "s/step", "images/s", "peak MB"])
    return f"![Seconds a step, images a second and peak memory along five axes]({PICTURE})\n\n{table}"


if __name__ == "__main__":
    sys.exit(main())
