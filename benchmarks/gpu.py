"""Everything that this project claims of a GPU, in one call: `python -m benchmarks.gpu --help`.

The parts run one after the other, the most important first, until the minutes are over. Figures are written
to --json after each part. Only the packages of the project and PyTorch are needed, and no network. To try it
without a GPU, use `--device=cpu` and a small network.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from tabulate import tabulate

from benchmarks import command_line
from benchmarks.command_line import DEPTHS, at_least, exit_code
from benchmarks.machine import gpu_names, stamp
from benchmarks.rounds import lead
from benchmarks.startup import start_environment
from benchmarks.worker import ROOT
from resnet.files import write_json

LEAST_SECONDS = 20  # A part that has less does not begin.
# The fastest of PyTorch that compiles within minutes, by device.
PEER = {"gpu": "torch_cuda_graph", "cpu": "torch_compile"}


class Part(NamedTuple):
    """A part: its name, the module of this package that measures it, its options, and what it should give.

    `goal` is the least ratio to PyTorch or to seeds in turn, or None.
    """

    name: str
    module: str
    options: tuple[str, ...]
    goal: float | None = None


def main() -> int:
    """Runs the benchmark from the command line and returns the exit code."""
    options, settings = _parse()
    return exit_code(lambda: _run(options, settings))


def _parse() -> tuple[argparse.Namespace, list[str]]:
    parser = command_line.parser(__doc__)
    parser.set_defaults(device="gpu")
    parser.add_argument("--minutes", type=at_least(1), default=9, help="time for all parts")
    parser.add_argument("--depth", type=int, choices=DEPTHS, default=50, help="depth of the ResNet")
    parser.add_argument("--batch", type=at_least(1), default=32, help="images in a small batch")
    parser.add_argument("--large_batch", type=at_least(1), default=256, help="images in a large batch")
    parser.add_argument("--image_size", type=at_least(32), default=64, help="pixels a side of small images")
    parser.add_argument("--large_size", type=at_least(32), default=224, help="pixels a side of large images")
    parser.add_argument("--steps", type=at_least(1), default=50, help="steps in a round")
    parser.add_argument("--rounds", type=at_least(1), default=5, help="number of rounds")
    parser.add_argument("--seeds", type=at_least(2), default=5, help="seeds that are trained together")
    parser.epilog = "Any --config.FIELD=VALUE is for the training of configs/signs.py from start to end."
    return command_line.parse_with_settings(parser)


def parts(options: argparse.Namespace, settings: list[str]) -> list[Part]:
    """Returns all parts, the most important first."""
    o = options
    rounds = (f"--rounds={o.rounds}", f"--steps={o.steps}", f"--depth={o.depth}")
    contest = (*rounds, "--one_process", f"--peers={PEER[o.device]}")

    def case(batch: int, size: int) -> tuple[str, ...]:
        return (*contest, f"--batch={batch}", f"--image_size={size}")

    small, large = case(o.batch, o.image_size), case(o.large_batch, o.image_size)
    photographs = case(o.large_batch, o.large_size)
    seeds = (
        *rounds,
        f"--seeds={o.seeds}",
        f"--batch={o.batch}",
        f"--image_size={o.image_size}",
        "--width=64",
    )
    sizes = (f"--depth={o.depth}", f"--batch={o.batch}", f"--image_size={o.image_size}")
    return [
        Part("train, small", "train_step", small, goal=1.2),
        Part("signs", "whole_training", ("--starts=2", *settings)),
        Part("train, large batch", "train_step", large, goal=1.2),
        Part("train, photographs", "train_step", photographs, goal=1.0),
        Part("seeds together", "replicas", seeds, goal=3.0),
        Part("inference, small", "inference", small, goal=1.2),
        Part("same results", "same_results", sizes),
        Part("inference, photographs", "inference", photographs, goal=1.0),
        Part("inference, large batch", "inference", large, goal=1.2),
    ]


def _run(options: argparse.Namespace, settings: list[str]) -> None:
    deadline = time.monotonic() + 60 * options.minutes
    report: dict[str, Any] = {"benchmark": "gpu", **stamp(), "gpus": gpu_names(), "parts": {}}
    all_parts = parts(options, settings)
    for part in all_parts:
        seconds = deadline - time.monotonic()
        if seconds < LEAST_SECONDS:
            result = {"failed": "no time left"}
        else:
            print(f"\n{part.name}: python -m benchmarks.{part.module} {' '.join(part.options)}", flush=True)
            result = measure(part, options.device, seconds)
        report["parts"][part.name] = result
        if options.json:
            write_json(options.json, report)
    print(f"\n{format_goals(all_parts, report['parts'])}")


def measure(part: Part, device: str, seconds: float) -> dict[str, Any]:
    """Runs a part for at most `seconds`; returns its report, with the reason under `failed` if it fails.

    A part that is stopped leaves what it had written so far.
    """
    with tempfile.TemporaryDirectory(prefix="gpu-") as folder:
        path = Path(folder, "report.json")
        started = time.monotonic()
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", f"benchmarks.{part.module}"),
                *(*part.options, f"--device={device}", f"--json={path}"),
            ],
            cwd=ROOT,
            env=start_environment(device, folder),
            start_new_session=True,  # Its workers stop with it.
        )
        try:
            code = process.wait(seconds)
            failed = f"exit code {code}" if code else ""
        except subprocess.TimeoutExpired:
            failed = f"stopped after {seconds:.0f} s"
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        report = json.loads(path.read_text()) if path.exists() else {}
        report["part_seconds"] = round(time.monotonic() - started, 1)
        return report | ({"failed": failed} if failed else {})


def format_goals(all_parts: list[Part], results: dict[str, dict[str, Any]]) -> str:
    """Returns a table of the parts that are ratios, with their goals, and a line for those that failed."""
    rows = []
    for part in all_parts:
        ratio = _ratio(results[part.name])
        if ratio and part.goal:
            spread = f"{ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})"
            rows.append([part.name, spread, part.goal, "yes" if ratio["median"] >= part.goal else "no"])
    lines = [tabulate(rows, ["", "ratio", "goal", "reached"], disable_numparse=True)] if rows else []
    failed = [
        f"{name}: not measured ({result['failed']})" for name, result in results.items() if "failed" in result
    ]
    return "\n".join([*lines, *failed])


def _ratio(report: dict[str, Any]) -> dict[str, float] | None:
    """Returns the ratio of ours to the peer, or of seeds together to seeds in turn."""
    for result in report.get("results", []):
        if "rows" not in result:
            return result.get("ratio")
        if found := lead(result["rows"]):
            return found.ratio._asdict()
    return None


if __name__ == "__main__":
    sys.exit(main())
