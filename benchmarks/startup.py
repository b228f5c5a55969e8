"""Seconds from the command to the first finished training step: `python -m benchmarks.startup --help`.

A round starts `python main.py --config=configs/signs.py ...` four times: with an empty compilation cache
(`first`); with the cache that the first start has filled (`warm`); by `benchmarks.startup_phases`, which
measures where the time goes; and under `python -X importtime`, which measures the time of the imports.

The time begins when the process starts and ends when the first step is in metrics.jsonl. It includes reading
a data set of the size of SIGNS (noise in HDF5 files) and drawing the initial weights. It does not include
making that data set, nor reading Python's files from the disk for the first time.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from tabulate import tabulate

from benchmarks import command_line
from benchmarks.command_line import DEPTHS, at_least, exit_code, parse_with_settings
from benchmarks.machine import stamp
from benchmarks.peers import CLASSES
from benchmarks.rounds import Failed, process_failed, spread
from benchmarks.worker import QUIET, ROOT, device_variables
from resnet.files import write_json
from workdir.metrics import METRICS_FILE

CASE = ("depth", "batch", "image_size", "images", "device")
TEST_IMAGES = 120
POLL_SECONDS = 0.002
PACKAGES = ("jax", "flax", "orbax")
# A line of -X importtime: microseconds of the module alone and with its imports, two more spaces for each
# level of nesting, and the name.
IMPORT_LINE = re.compile(r"import time:\s*(\d+) \|\s*\d+ \| ( *)(\S+)$")


class Start(NamedTuple):
    """A start: seconds to the first finished step, peak resident memory until then in bytes, and stderr."""

    seconds: float
    peak_memory: int
    messages: str


def main() -> int:
    """Runs the benchmark from the command line and returns the exit code."""
    options, settings = _parse()
    return exit_code(lambda: _run(options, settings))


def _parse() -> tuple[argparse.Namespace, list[str]]:
    """Returns the options, and the settings for main.py."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--depth", type=int, choices=DEPTHS, default=50, help="depth of the ResNet")
    parser.add_argument("--batch", type=at_least(1), default=32, help="images in a batch")
    parser.add_argument("--image_size", type=at_least(32), default=64, help="pixels a side")
    parser.add_argument("--images", type=at_least(1), default=1080, help="number of training images")
    parser.add_argument("--rounds", type=at_least(1), default=3, help="number of rounds")
    parser.epilog = "Any --config.FIELD=VALUE is passed to main.py, such as --config.model.width=32."
    return parse_with_settings(parser)


def _run(options: argparse.Namespace, settings: list[str]) -> None:
    fields = {
        "data.image_size": options.image_size,
        "model.depth": options.depth,
        "batch_size": options.batch,
        "steps_per_call": 1,  # The first line of the metrics is then about the first step.
    }
    all_settings = [*(f"--config.{name}={value}" for name, value in fields.items()), *settings]
    _import_once()
    with tempfile.TemporaryDirectory(prefix="startup-") as folder:
        write_dataset(Path(folder), options.images, options.image_size)
        all_settings.append(f"--config.data.dir={folder}")
        rounds = [measure_round(all_settings, options.device) for _ in range(options.rounds)]
    report = {
        "benchmark": "startup",
        **stamp(),
        "rounds": options.rounds,
        "case": {name: getattr(options, name) for name in CASE} | {"settings": settings},
        "results": _spreads(rounds),
    }
    print(format_report(report))
    if options.json:
        write_json(options.json, report)


def write_dataset(folder: Path, images: int, image_size: int) -> None:
    """Writes noise in the files of SIGNS: `images` to train on, 120 to test on, uint8 [N, H, W, 3]."""
    rng = np.random.default_rng(0)
    for split, count in (("train", images), ("test", TEST_IMAGES)):
        with h5py.File(folder / f"{split}_signs.h5", "w") as file:
            shape = (count, image_size, image_size, 3)
            file[f"{split}_set_x"] = rng.integers(0, 256, shape, np.uint8)
            file[f"{split}_set_y"] = np.arange(count) % CLASSES
            file["list_classes"] = np.arange(CLASSES)


def measure_round(settings: list[str], device: str) -> dict[str, dict[str, float]]:
    """Measures a round with a compilation cache of its own; returns seconds and bytes in four groups."""
    with tempfile.TemporaryDirectory(prefix="startup-") as folder:
        environment = start_environment(device, folder)

        def arguments(name: str) -> list[str]:
            return ["--config=configs/signs.py", f"--workdir={folder}/{name}", *settings]

        def start(name: str, *interpreter_options: str) -> Start:
            command = [sys.executable, *interpreter_options, "main.py", *arguments(name)]
            return first_step(command, Path(folder, name), environment)

        first, warm = start("first"), start("warm")
        phases = phase_seconds(arguments("phases"), environment)
        imports = import_seconds(start("imports", "-X", "importtime").messages)
    return {
        "first": {"seconds": first.seconds, "peak_memory": first.peak_memory},
        "warm": {"seconds": warm.seconds, "peak_memory": warm.peak_memory},
        "phases": phases,
        "imports": imports,
    }


def start_environment(device: str, cache: str) -> dict[str, str]:
    """Returns the environment of a start on `device` whose compilation cache is in the folder `cache`."""
    # main.py does not override variables of JAX that are set already.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    return environment | QUIET | device_variables(device) | {"XDG_CACHE_HOME": cache}


def first_step(command: list[str], workdir: Path, environment: dict[str, str]) -> Start:
    """Starts a training in `workdir` and kills it once its first step is in metrics.jsonl.

    Raises:
        Failed: it ends before that.
    """
    metrics = workdir / METRICS_FILE
    with tempfile.TemporaryFile("w+") as log:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=log, text=True
        )
        try:
            while not (metrics.exists() and metrics.stat().st_size):
                if process.poll() is not None:
                    log.seek(0)
                    raise process_failed("main.py", process.returncode, log.read())
                time.sleep(POLL_SECONDS)
            seconds = time.perf_counter() - started
        finally:
            if process.returncode is None:
                process.kill()
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
        log.seek(0)
        return Start(seconds, usage.ru_maxrss * 1024, log.read())


def phase_seconds(arguments: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Returns the seconds of each phase of a start, measured by `benchmarks.startup_phases`.

    Raises:
        Failed: the start fails.
    """
    command = [sys.executable, "-m", "benchmarks.startup_phases", repr(time.time()), *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"startup_phases: {' '.join(done.stderr.strip().splitlines()[-1:])[:300]}")
    return json.loads(done.stdout.splitlines()[-1])


def import_seconds(messages: str) -> dict[str, float]:
    """Returns the seconds of the imports that `python -X importtime` lists in `messages`, by package.

    A module that is in none of `PACKAGES` counts for the package that imports it, directly or through other
    modules. What none of them imports is the "rest".
    """
    seconds = dict.fromkeys((*PACKAGES, "rest"), 0.0)
    importing: list[str] = []  # by level of nesting
    # A module is listed after the modules that it imports. In reverse order, importers come first.
    for line in reversed(messages.splitlines()):
        if match := IMPORT_LINE.match(line):
            own, indent, module = match.groups()
            level = len(indent) // 2
            package = module.partition(".")[0]
            outer = importing[level - 1] if level else "rest"
            importing[level:] = [package if package in PACKAGES else outer]
            seconds[importing[level]] += int(own) / 1e6
    return seconds


def _import_once() -> None:
    """Imports once what all starts import, so that the files are in memory and compiled by Python."""
    code = "from modes import load_modes; load_modes(); import train"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def _spreads(rounds: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, Any]]:
    def spread_over_rounds(group: str, name: str) -> dict[str, Any]:
        values = [results[group][name] for results in rounds]
        return spread(values)._asdict() | {"rounds": values}

    return {
        group: {name: spread_over_rounds(group, name) for name in names} for group, names in rounds[0].items()
    }


def format_report(report: dict[str, Any]) -> str:
    """Returns the report as text."""
    case, results = report["case"], report["results"]
    starts = [
        [
            {"first": "first start", "warm": "warm compilation cache"}[name],
            *_seconds(results[name]["seconds"]),
            f"{results[name]['peak_memory']['median'] / 1e6:.0f}",
        ]
        for name in ("first", "warm")
    ]
    lines = [
        f"to the first finished step: ResNet-{case['depth']}, batch {case['batch']} of {case['image_size']}x"
        f"{case['image_size']}, {case['device']} {' '.join(case['settings'])}",
        tabulate(starts, ["", "seconds", "range", "peak MB"], disable_numparse=True, colalign=_COLUMNS),
    ]
    for group, title in (("phases", "warm start, by phase"), ("imports", "imports, by package")):
        cells = [[name, *_seconds(values)] for name, values in results[group].items()]
        rounds = zip(*(values["rounds"] for values in results[group].values()), strict=True)
        cells.append(["all", *_seconds(spread([sum(seconds) for seconds in rounds])._asdict())])
        table = tabulate(cells, [title, "seconds", "range"], disable_numparse=True, colalign=_COLUMNS[:3])
        lines += ["", table]
    return "\n".join(lines)


_COLUMNS = ("left", "right", "right", "right")


def _seconds(values: dict[str, float]) -> tuple[str, str]:
    return f"{values['median']:.2f}", f"{values['low']:.2f}-{values['high']:.2f}"


if __name__ == "__main__":
    sys.exit(main())
