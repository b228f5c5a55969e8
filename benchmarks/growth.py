"""Time and memory of a training step as one quantity grows at a time: `python -m benchmarks.growth --help`.

Every point is measured in a process of its own, after another process has compiled its program. Compiling
takes most of the time, so name few points. The defaults take about ten minutes on two slow cores.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from tabulate import tabulate

from benchmarks import command_line
from benchmarks.command_line import DEPTHS, at_least, exit_code, list_of
from benchmarks.growth_plot import plot
from benchmarks.machine import stamp
from benchmarks.peers import Case
from benchmarks.rounds import OURS, Failed, spread
from benchmarks.worker import start
from resnet.errors import UserError
from resnet.files import write_json


class Axis(NamedTuple):
    """A field of `Case` that grows: its value along the other axes, its further values, and its help."""

    base: int
    values: list[int]
    help: str


AXES = {
    "batch": Axis(32, [8, 128], "images a step"),
    "image_size": Axis(64, [32, 128], "pixels a side"),
    "depth": Axis(50, [18, 101], "layers"),
    "dataset_size": Axis(1080, [34560], "images of the data set, all on the device"),
    "devices": Axis(1, [2, 4], "CPU devices, simulated, that share the batch and the cores"),
}


def main() -> int:
    """Runs the benchmark from the command line and returns the exit code."""
    options = _parse()
    return exit_code(lambda: _run(options))


def _parse() -> argparse.Namespace:
    parser = command_line.parser(__doc__)
    for name, axis in AXES.items():
        parser.add_argument(
            f"--{name}",
            type=list_of(at_least(32 if name == "image_size" else 1)),
            default=[axis.base, *axis.values],
            metavar="BASE[,N...]",
            help=f"{axis.help}: first the value along the other axes, then the values of this axis",
        )
    parser.add_argument("--rounds", type=at_least(1), default=5, help="number of rounds")
    parser.add_argument(
        "--steps", type=at_least(1), default=2, help="timed steps in a round, after an untimed one"
    )
    parser.add_argument("--plot", type=Path, default=None, metavar="PATH", help="file for a picture")
    return parser.parse_args()


def _run(options: argparse.Namespace) -> None:
    points = list(cases(options))
    for _, case in points:
        _check(case)
    report: dict[str, Any] = {
        "benchmark": "growth",
        **stamp(),
        "rounds": options.rounds,
        "base": {name: getattr(options, name)[0] for name in AXES},
        "points": [],
        "left_out": [],
    }
    for axis, case in points:
        print(f"measuring {_name(axis, case)}", file=sys.stderr, flush=True)
        try:
            report["points"].append({"axis": axis} | _measure(case, options.rounds))
        except Failed as error:
            report["left_out"].append({"axis": axis, "case": vars(case), "reason": str(error)})
        if options.json:
            write_json(options.json, report)
    print(format_report(report))
    if options.plot:
        plot(report, options.plot)


def _check(case: Case) -> None:
    """Checks that a case can be run.

    Raises:
        UserError: it cannot.
    """
    if case.depth not in DEPTHS:
        raise UserError(f"--depth={case.depth}: expected some of {', '.join(map(str, DEPTHS))}")
    if case.batch > case.dataset_size:
        raise UserError(
            f"--dataset_size={case.dataset_size}: fewer images than a batch of {case.batch}; expected at"
            " least as many"
        )
    if case.batch % case.devices:
        raise UserError(
            f"--devices={case.devices}: does not divide a batch of {case.batch}; expected divisors of it"
        )
    if case.device == "gpu" and case.devices > 1:
        raise UserError(f"--devices={case.devices}: GPUs are not simulated; expected 1, or --device=cpu")


def cases(options: argparse.Namespace) -> Iterator[tuple[str | None, Case]]:
    """Yields the base case, with axis None, and then a case for each further value of each axis."""
    base = Case(
        task="train",
        depth=options.depth[0],
        batch=options.batch[0],
        image_size=options.image_size[0],
        dtype="float32" if options.device == "cpu" else "bfloat16",
        device=options.device,
        steps=options.steps,
        dataset_size=options.dataset_size[0],
        devices=options.devices[0],
    )
    yield None, base
    for axis in AXES:
        for value in getattr(options, axis)[1:]:
            yield axis, replace(base, **{axis: value})


def _measure(case: Case, count: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="compiled-") as caches:
        worker = start(OURS, case, Path(caches))
        try:
            replies = [worker.run(case.steps) for _ in range(count)]
        finally:
            worker.stop()
    seconds = [reply["seconds"] / case.steps for reply in replies]
    return {
        "case": vars(case),
        "seconds_per_step": spread(seconds)._asdict() | {"rounds": seconds},
        "images_per_second": spread([case.batch / value for value in seconds])._asdict(),
        **worker.hello,
        "peak_memory": replies[-1]["peak_memory"],
        "peak_device_memory": replies[-1]["peak_device_memory"],
    }


def _name(axis: str | None, case: Case) -> str:
    return f"{axis} {vars(case)[axis]}" if axis else "base"


def format_report(report: dict[str, Any]) -> str:
    """Returns the report as text."""
    cells = [
        [
            _name(point["axis"], Case(**point["case"])),
            f"{point['seconds_per_step']['median']:.3f}",
            f"{point['seconds_per_step']['low']:.3f}-{point['seconds_per_step']['high']:.3f}",
            f"{point['images_per_second']['median']:.1f}",
            f"{point['peak_memory'] / 1e6:.0f}",
            f"{point['compiling']['peak_memory'] / 1e6:.0f}",
        ]
        for point in report["points"]
    ]
    base = ", ".join(f"{name} {value}" for name, value in report["base"].items())
    headers = ["", "s/step", "range", "images/s", "peak MB", "compiling"]
    table = tabulate(cells, headers, disable_numparse=True, colalign=["left", *["right"] * 5])
    left_out = [
        f"{_name(point['axis'], Case(**point['case']))}: {point['reason']}" for point in report["left_out"]
    ]
    return "\n".join([f"train, base: {base}", table, *left_out])


if __name__ == "__main__":
    sys.exit(main())
