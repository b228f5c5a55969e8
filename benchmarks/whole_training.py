"""Seconds of a training from the command to the end, by phase: `python -m benchmarks.whole_training --help`.

Trains `--config` by main.py in a process of its own, as a user does. The second start finds in the cache what
the first has compiled. Phases are read from outside: `start` ends with the first line of steps in
metrics.jsonl, `training` with the last one, and `end` with the process. `steps` are the steps at their median
speed. `undisturbed` is the share of that speed that remains beside saves and evaluations.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from tabulate import tabulate

from benchmarks import command_line
from benchmarks.command_line import at_least, exit_code
from benchmarks.machine import gpu_memory, gpu_names, stamp
from benchmarks.program import parse_command
from benchmarks.rounds import process_failed
from benchmarks.startup import start_environment
from benchmarks.worker import ROOT
from resnet.files import write_json
from workdir.metrics import METRICS_FILE, read_metrics
from workdir.summary import read_summary

POLL_SECONDS = 0.1
MEMORY_SECONDS = 1.0  # between two questions to the driver, which disturb the steps


class Watched(NamedTuple):
    """What was seen of a process: seconds since its start, and its largest memory in bytes.

    `first_steps` and `last_steps` are when its metrics began and when they grew last, by their lines for
    training. `gpu_memory` is what it added to what the GPUs held before.
    """

    first_steps: float
    last_steps: float
    end: float
    peak_memory: int
    gpu_memory: int


def main() -> int:
    """Runs the benchmark from the command line and returns the exit code."""
    options, settings = _parse()
    return exit_code(lambda: _run(options, settings))


def _parse() -> tuple[argparse.Namespace, list[str]]:
    parser = command_line.training_parser(__doc__, None)
    parser.add_argument("--starts", type=at_least(1), default=2, help="trainings, one after the other")
    return command_line.parse_with_settings(parser)


def _run(options: argparse.Namespace, settings: list[str]) -> None:
    report: dict[str, Any] = {
        "benchmark": "whole_training",
        **stamp(),
        "gpus": gpu_names(),
        "config": options.config,
        "settings": settings,
        "results": [],
    }
    with tempfile.TemporaryDirectory(prefix="whole-") as folder:
        environment = start_environment(options.device, folder)
        for start in range(options.starts):
            workdir = Path(folder, f"run{start}")
            arguments = [f"--config={options.config}", f"--workdir={workdir}", *settings]
            watched = watch([sys.executable, "main.py", *arguments], workdir, environment)
            batch_size = parse_command(arguments).settings().batch_size
            report["results"].append(by_phase(watched, workdir, batch_size))
            if options.json:
                write_json(options.json, report)
    print(format_results(report["results"]))


def watch(command: list[str], workdir: Path, environment: dict[str, str]) -> Watched:
    """Runs a training in `workdir` and watches it from outside.

    Raises:
        Failed: it ends with another exit code than 0.
    """
    metrics = workdir / METRICS_FILE
    first = last = asked = 0.0
    held = most = gpu_memory()
    has_gpu = bool(gpu_names())  # An idle GPU may hold no memory.
    count = size = 0
    with tempfile.TemporaryFile("w+") as log:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=log, text=True
        )
        try:
            while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
                now = time.perf_counter() - started
                if metrics.exists() and metrics.stat().st_size > size:
                    size = metrics.stat().st_size
                    lines = sum(line["split"] == "train" for line in read_metrics(workdir))
                    if lines > count:
                        first, last, count = first or now, now, lines
                if has_gpu and now > asked + MEMORY_SECONDS:
                    most, asked = max(most, gpu_memory()), now
                time.sleep(POLL_SECONDS)
        except BaseException:
            process.kill()
            process.wait()
            raise
        _, status, usage = ended
        process.returncode = os.waitstatus_to_exitcode(status)
        end = time.perf_counter() - started
        if process.returncode:
            log.seek(0)
            raise process_failed("main.py", process.returncode, log.read())
    return Watched(first, last, end, usage.ru_maxrss * 1024, most - held)


def by_phase(watched: Watched, workdir: Path, batch_size: int) -> dict[str, Any]:
    """Returns the seconds of the phases of a finished run, its memory in bytes, and its summary."""
    rates = [line["images_per_second"] for line in read_metrics(workdir) if line["split"] == "train"]
    summary = read_summary(workdir)
    return {
        "seconds": watched.end,
        "start": watched.first_steps,
        "training": watched.last_steps - watched.first_steps,
        "steps": summary["steps"] * batch_size / median(rates),
        "end": watched.end - watched.last_steps,
        "undisturbed": summary["images_per_second"] / median(rates),
        "peak_memory": watched.peak_memory,
        "gpu_memory": watched.gpu_memory,
        "summary": summary,
    }


def format_results(results: list[dict[str, Any]]) -> str:
    """Returns a table with a line for each start."""
    rows = [
        [
            number,
            *(f"{result[name]:.1f}" for name in ("seconds", "start", "training", "steps", "end")),
            f"{result['undisturbed']:.3f}",
            *(f"{result[name] / 1e6:.0f}" for name in ("peak_memory", "gpu_memory")),
        ]
        for number, result in enumerate(results, start=1)
    ]
    headers = ["start", "seconds", "to the first steps", "training", "steps", "end", "undisturbed"]
    return tabulate(rows, [*headers, "peak MB", "GPU MB"], disable_numparse=True)


if __name__ == "__main__":
    sys.exit(main())
