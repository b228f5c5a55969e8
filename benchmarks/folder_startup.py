"""Seconds and memory to the first step on a folder of images: `python -m benchmarks.folder_startup --dir=X`.

A round starts `python main.py` on the images at --dir twice, with an empty cache and with the cache that the
first start has filled: decoded images and compiled programs. The time begins when the process starts and
ends when the first step is in metrics.jsonl.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks import command_line
from benchmarks.command_line import at_least, exit_code
from benchmarks.machine import stamp
from benchmarks.rounds import Spread, spread
from benchmarks.startup import Start, first_step, start_environment
from resnet.files import write_json

STARTS = ("first start", "second start")


def main() -> int:
    """Runs the benchmark from the command line and returns the exit code."""
    options, settings = _parse()
    return exit_code(lambda: _run(options, settings))


def _parse() -> tuple[argparse.Namespace, list[str]]:
    parser = command_line.training_parser(__doc__, None)
    parser.set_defaults(config="configs/cifar10_short.py")
    parser.add_argument("--dir", required=True, help="a folder, an archive or a table of images")
    parser.add_argument("--rounds", type=at_least(1), default=3, help="number of rounds")
    return command_line.parse_with_settings(parser)


def _run(options: argparse.Namespace, settings: list[str]) -> None:
    arguments = [
        f"--config={options.config}",
        f"--config.data.dir={Path(options.dir).absolute()}",
        "--config.steps_per_call=1",  # The first line of the metrics is then about the first step.
        *settings,
    ]
    rounds = [measure_round(arguments, options.device) for _ in range(options.rounds)]
    report: dict[str, Any] = {
        "benchmark": "folder_startup",
        **stamp(),
        "dir": options.dir,
        "config": options.config,
        "settings": settings,
        "results": {
            name: {
                "seconds": spread([starts[i].seconds for starts in rounds]),
                "peak_memory": spread([starts[i].peak_memory for starts in rounds]),
            }
            for i, name in enumerate(STARTS)
        },
    }
    print(format_report(report))
    if options.json:
        write_json(options.json, report)


def measure_round(arguments: list[str], device: str) -> list[Start]:
    """Starts `arguments` of main.py with an empty cache, and again with what that start has kept."""
    with tempfile.TemporaryDirectory(prefix="folder-startup-") as folder:
        environment = start_environment(device, folder)
        starts = []
        for name in ("first", "second"):
            workdir = Path(folder, name)
            command = [sys.executable, "main.py", *arguments, f"--workdir={workdir}"]
            starts.append(first_step(command, workdir, environment))
    return starts


def format_report(report: dict[str, Any]) -> str:
    """Returns the table: the medians over rounds, and their ranges."""

    def cells(values: Spread, unit: float, digits: int) -> list[str]:
        median, low, high = (f"{value / unit:.{digits}f}" for value in values)
        return [median, f"{low}-{high}"]

    rows = [
        [name, *cells(result["seconds"], 1, 1), *cells(result["peak_memory"], 1e6, 0)]
        for name, result in report["results"].items()
    ]
    headers = ["", "seconds", "range", "peak MB", "range"]
    return tabulate(rows, headers, disable_numparse=True, colalign=["left", *["right"] * 4])


if __name__ == "__main__":
    sys.exit(main())
