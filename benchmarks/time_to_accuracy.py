"""Seconds to a test accuracy, against PyTorch with the same recipe: `python -m benchmarks.time_to_accuracy`.

Trains the network of `--config` and the same network in PyTorch on the same images, one after the other for
each seed. Both start from fresh weights of the same distribution, and see the same recipe: batches, learning
rates, weight decay, crops, flips, label smoothing, moving average. Both train on the CPU. The test split is
measured after every epoch, for this report alone, which gives the epoch after which it reaches `--target`.

The speed is measured apart, in `--rounds` that alternate between the two, so that whatever disturbs the
machine disturbs both. A round is as many steps as a call of training makes, on images of noise; smaller
images early in training have rounds of their own. The seconds are what all steps up to that epoch take at
the median speed, without compiling.

What is finished is not trained again: a finished run of this project lies in --workdir, the lines of PyTorch
beside it. `--peer_dtypes=float32,bfloat16` adds PyTorch's automatic mixed precision, whose products use AMX
where the processor has it.
"""

import argparse
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from tabulate import tabulate

import datasets
from benchmarks import command_line, rounds
from benchmarks.accuracy import early_epochs
from benchmarks.command_line import at_least, exit_code, names
from benchmarks.machine import stamp
from benchmarks.peers import Case
from benchmarks.rounds import OURS, Failed
from benchmarks.runs import Run, load_with_test_images, train_all
from benchmarks.suite import RESULTS
from benchmarks.worker import CPU_ONLY, ROOT, Worker, start
from configs import cifar10, rules
from resnet.errors import UserError
from resnet.files import write_json
from training.optimizer import learning_rate_schedule
from workdir.metrics import read_metrics

OPTIMIZERS = ("sgd", "muon")
OPTIMIZER_FIELDS = ("momentum", "nesterov", "b1", "b2", "epsilon", "weight_decay")
# Fields that PyTorch's side takes over. All others must be as in configs/cifar10.py.
KNOWN = (
    *("num_epochs", "batch_size", "label_smoothing", "test_time_flip", "ema_decay"),
    *("data.dir", "data.image_size", "data.mean", "data.std"),
    *("augment.flip", "augment.pad", "augment.early_size", "augment.early_share"),
    *("model.depth", "model.width", "model.zero_init_last"),
    *("optimizer.learning_rate", "optimizer.schedule", "optimizer.warmup_epochs", "optimizer.milestones"),
    "optimizer.decay_factor",
    *(f"optimizer.{name}" for name in OPTIMIZER_FIELDS),
)
# Fields that change nothing of what is compared.
FREE = ("seed", "steps_per_call", "checkpoint.", "gpu.", "compilation_cache")


def main() -> int:
    """Runs the benchmark from the command line and returns the exit code."""
    options, settings = _parse()
    return exit_code(lambda: _run(options, settings))


def _parse() -> tuple[argparse.Namespace, list[str]]:
    parser = command_line.training_parser(__doc__, RESULTS / "time_to_accuracy.json", device=False)
    parser.set_defaults(config="configs/cifar10_short.py")
    parser.add_argument(
        "--workdir", type=Path, default=Path("runs/time_to_accuracy"), help="folder of the runs"
    )
    parser.add_argument("--target", type=float, default=0.88, help="the test accuracy to reach")
    parser.add_argument("--seeds", type=at_least(1), default=1, help="number of seeds: 0, 1, ...")
    parser.add_argument(
        "--peer_seeds", type=at_least(1), default=1, help="number of seeds that PyTorch trains too"
    )
    parser.add_argument(
        "--peer_dtypes", type=names, default=["float32"], help="float32, bfloat16 or both, of PyTorch"
    )
    parser.add_argument("--rounds", type=at_least(1), default=7, help="number of rounds that give the speed")
    return command_line.parse_with_settings(parser)


def _run(options: argparse.Namespace, settings: Sequence[str]) -> None:
    command_line.check_not_reserved(settings, ("seed", "seeds"))
    report: dict[str, Any] = {
        "benchmark": "time_to_accuracy",
        **stamp(),
        "config": options.config,
        "settings": list(settings),
        "target": options.target,
        "runs": [],
    }
    runs = [_our_run(seed, options, settings) for seed in range(options.seeds)]
    config = runs[0].config()
    check_is_known(config)
    dataset = load_with_test_images(config.data)
    for seed, run in enumerate(runs):
        train_all([run])
        report["runs"].append(_our_result(run, seed, options.target))
        if seed < options.peer_seeds:
            for dtype in options.peer_dtypes:
                lines = _train_peer(run.config(), dataset, options.workdir, dtype)
                report["runs"].append(peer_result(dtype, seed, lines, options.target))
        write_json(options.json, report)
    sizes = (len(dataset.class_names), len(dataset.train.labels))
    report["speed"] = measure_speed(runs[0], sizes, options.peer_dtypes, options.rounds)
    phases = phases_of(config, sizes[1])
    for result in report["runs"]:
        result["seconds"] = seconds_to(result, report["speed"], phases)
    write_json(options.json, report)
    print(format_speed(report["speed"]))
    print(f"\n{format_report(report)}\n\nwritten: {options.json}")


def _our_run(seed: int, options: argparse.Namespace, settings: Sequence[str]) -> Run:
    arguments = [f"--config={options.config}", *settings, f"--config.seed={seed}"]
    return Run(str(options.workdir / f"seed_{seed}"), arguments, test="every_epoch")


def check_is_known(config: ConfigDict) -> None:
    """Checks that PyTorch's side knows everything that `config` asks for.

    Raises:
        UserError: it does not.
    """
    if config.optimizer.name not in OPTIMIZERS:
        raise UserError(
            f"config.optimizer.name={config.optimizer.name}: not known to PyTorch's side of this comparison;"
            f" expected {' or '.join(OPTIMIZERS)}"
        )
    expected = dict(rules.flatten(cifar10.get_config())) | {"optimizer.name": config.optimizer.name}
    for name, value in rules.flatten(config):
        if name not in KNOWN and not name.startswith(FREE) and value != expected[name]:
            raise UserError(
                f"config.{name}={value}: not known to PyTorch's side of this comparison; expected"
                f" {expected[name]}"
            )


def make_recipe(config: ConfigDict, *, classes: int, train_size: int, dtype: str) -> dict[str, Any]:
    """Returns what `benchmarks.peers.torch_recipe` trains by, in JSON's types."""
    per_epoch = train_size // config.batch_size
    schedule = learning_rate_schedule(
        config.optimizer, num_epochs=config.num_epochs, steps_per_epoch=per_epoch
    )
    shared = ("seed", "batch_size", "label_smoothing", "test_time_flip", "ema_decay")
    return {
        **{name: config[name] for name in shared},
        "optimizer": config.optimizer.name,
        **{name: config.optimizer[name] for name in OPTIMIZER_FIELDS},
        **{name: config.augment[name] for name in ("flip", "pad", "early_size", "early_share")},
        "mean": config.data.mean,
        "std": config.data.std,
        "depth": config.model.depth,
        "width": config.model.width,
        "zero_init_last": config.model.zero_init_last,
        "classes": classes,
        "epochs": config.num_epochs,
        "dtype": dtype,
        "learning_rates": [float(schedule(step)) for step in range(config.num_epochs * per_epoch)],
    }


def _train_peer(
    config: ConfigDict, dataset: datasets.Dataset, workdir: Path, dtype: str
) -> list[dict[str, Any]]:
    """Trains in PyTorch, unless that was done before; returns its line of every epoch.

    Raises:
        Failed: PyTorch is not there, or breaks down.
        UserError: it was done by another recipe.
    """
    recipe = make_recipe(
        config, classes=len(dataset.class_names), train_size=len(dataset.train.labels), dtype=dtype
    ) | {"images": dataset.train.digest()}
    results = workdir / f"torch_{dtype}_seed_{config.seed}.jsonl"
    recipe_file, images_file = results.with_suffix(".json"), workdir / "images.npz"
    if results.exists():
        return read_peer(results, recipe_file, recipe)
    write_json(recipe_file, recipe)
    splits = {"train": dataset.train, "test": dataset.test}
    np.savez(images_file, **{f"{name}_images": split.images for name, split in splits.items()},
             **{f"{name}_labels": split.labels for name, split in splits.items()})  # fmt: skip
    unfinished = results.with_suffix(".unfinished")
    command = [sys.executable, "-m", "benchmarks.peers.torch_recipe", str(recipe_file), str(images_file)]
    with unfinished.open("w") as output:
        process = subprocess.run(command, cwd=ROOT, env=os.environ | CPU_ONLY, stdout=output, check=False)
    images_file.unlink()
    if process.returncode:
        raise Failed(f"PyTorch ended with exit code {process.returncode}; its last words are above")
    unfinished.rename(results)
    return read_peer(results, recipe_file, recipe)


def read_peer(results: Path, recipe_file: Path, recipe: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns PyTorch's line of every epoch.

    Raises:
        UserError: it was trained by another `recipe` than this one, as `recipe_file` says.
    """
    if not recipe_file.exists() or json.loads(recipe_file.read_text()) != json.loads(json.dumps(recipe)):
        raise UserError(
            f"{results}: was trained by another recipe or on other images; remove it, or name another"
            " --workdir"
        )
    return [json.loads(line) for line in results.read_text().splitlines()]


def _our_result(run: Run, seed: int, target: float) -> dict[str, Any]:
    lines = [line for line in read_metrics(Path(run.workdir)) if line["split"] == "test"]
    return {"name": OURS, "seed": seed} | _reached(lines, target)


def peer_result(dtype: str, seed: int, lines: Sequence[dict[str, Any]], target: float) -> dict[str, Any]:
    """Returns the final accuracy of a run of PyTorch, and the epoch after which it reached `target`.

    `lines` has one entry for each epoch. The epoch is None if the run never reached `target`.
    """
    return {"name": f"torch_{dtype}", "seed": seed} | _reached(lines, target)


def _reached(lines: Sequence[dict[str, Any]], target: float) -> dict[str, Any]:
    epochs = [line["epoch"] for line in lines if line["accuracy"] >= target]
    return {"accuracy": lines[-1]["accuracy"], "epoch": float(epochs[0]) if epochs else None}


class Phase(NamedTuple):
    """Epochs whose images have one size: from epoch `first` to epoch `last`, with `images` images in each.

    The rounds that measure it begin at the step `first_step`.
    """

    image_size: int
    first: float
    last: float
    images: int
    first_step: int


def phases_of(config: ConfigDict, train_size: int) -> list[Phase]:
    """Returns the phases of a training of `config` on `train_size` images."""
    per_epoch = train_size // config.batch_size
    images = per_epoch * config.batch_size
    early = early_epochs(config)
    # No round begins in the epoch that has images of both sizes.
    first_late_step = math.ceil(early) * per_epoch
    phases = [
        Phase(config.augment.early_size, 0.0, early, images, 0),
        Phase(config.data.image_size, early, config.num_epochs, images, first_late_step),
    ]
    return [phase for phase in phases if phase.first < phase.last]


def measure_speed(
    run: Run, sizes: tuple[int, int], dtypes: Sequence[str], count: int
) -> list[dict[str, Any]]:
    """Measures the training steps of `run` and of PyTorch in `count` alternating rounds.

    `sizes` has the number of classes and of training images. Returns for each phase its `image_size`, and as
    `rows` the speeds, see `benchmarks.rounds.summarize`.

    Raises:
        Failed: a contestant cannot be built or run.
    """
    config = run.config()
    classes, train_size = sizes
    dtypes_of = {OURS: config.compute_dtype} | {f"torch_{dtype}": dtype for dtype in dtypes}
    phases = phases_of(config, train_size)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="compiled-")))
        recipe = make_recipe(config, classes=classes, train_size=train_size, dtype="float32")
        write_json(folder / "recipe.json", recipe | {"arguments": run.arguments})
        base = Case("train", config.model.depth, config.batch_size, config.data.image_size, "float32", "cpu",
                    steps=config.steps_per_call, dataset_size=train_size,
                    recipe=str(folder / "recipe.json"))  # fmt: skip

        def measure_rate(worker: Worker) -> float:
            return base.steps * base.batch / worker.run(base.steps)["seconds"]

        contestants = {}
        for phase, (name, dtype) in itertools.product(phases, dtypes_of.items()):
            contestant = f"{name} at {phase.image_size} pixels"
            print(f"warming up {contestant}", file=sys.stderr, flush=True)
            case = replace(base, dtype=dtype, first_step=phase.first_step)
            worker = start(OURS if name == OURS else "torch_recipe", case, folder / name)
            stack.callback(worker.stop)
            contestants[contestant] = partial(measure_rate, worker)
        rates, failed = rounds.alternate(contestants, count)
    for contestant, reason in failed.items():
        raise Failed(f"{contestant}: {reason}")

    def summarize(phase: Phase) -> list[dict[str, Any]]:
        return rounds.summarize(
            {name: rates[f"{name} at {phase.image_size} pixels"] for name in dtypes_of}, None
        )

    return [{"image_size": phase.image_size, "rows": summarize(phase)} for phase in phases]


def seconds_to(
    result: dict[str, Any], speed: Sequence[dict[str, Any]], phases: Sequence[Phase]
) -> float | None:
    """Returns the seconds that the steps of a run take until it reaches the target, at their median `speed`.

    They are None if it never does.
    """
    if result["epoch"] is None:
        return None
    seconds = 0.0
    for phase, measured in zip(phases, speed, strict=True):
        [rate] = [
            row["images_per_second"]["median"] for row in measured["rows"] if row["name"] == result["name"]
        ]
        epochs = max(min(result["epoch"], phase.last) - phase.first, 0.0)
        seconds += epochs * phase.images / rate
    return seconds


def format_speed(speed: Sequence[dict[str, Any]]) -> str:
    """Returns the table of speeds, by the size of the images; the ratio divides our speed by theirs."""
    rows = []
    for measured in speed:
        for row in measured["rows"]:
            rate, ratio = row["images_per_second"], row["ratio"]
            cells = [f"{rate['median']:.0f}", rounds.format_range(rate, 0)]
            cells += [f"{ratio['median']:.2f}", rounds.format_range(ratio, 2)]
            rows.append([measured["image_size"], row["name"], *cells])
    headers = ["pixels", "", "images/s", "range", "ours/theirs", "range"]
    return tabulate(rows, headers, disable_numparse=True, colalign=["right", "left", *["right"] * 4])


def format_report(report: dict[str, Any]) -> str:
    """Returns the table of all runs; the ratio divides our seconds by the peer's, for the same seed."""
    ours = {run["seed"]: run["seconds"] for run in report["runs"] if run["name"] == OURS}
    rows = []
    for run in report["runs"]:
        both = run["seconds"] and ours[run["seed"]] and run["name"] != OURS
        ratio = f"{ours[run['seed']] / run['seconds']:.2f}" if both else ""
        seconds = "never" if run["seconds"] is None else f"{run['seconds']:.0f}"
        epoch = "-" if run["epoch"] is None else f"{run['epoch']:.0f}"
        rows.append([run["name"], run["seed"], f"{run['accuracy']:.4f}", epoch, seconds, ratio])
    headers = ["", "seed", "test accuracy", "epochs", f"seconds to {report['target']}", "ours to theirs"]
    return tabulate(rows, headers, disable_numparse=True, colalign=["left", *["right"] * 5])


if __name__ == "__main__":
    sys.exit(main())
