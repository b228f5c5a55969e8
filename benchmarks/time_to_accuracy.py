"""Seconds to a test accuracy, against PyTorch with the same recipe: `python -m benchmarks.time_to_accuracy`.

Trains the network of `--config` and the same network in PyTorch on the same images, one after the other for
each seed. Both start from fresh weights of the same distribution, and see the same recipe: batches, learning
rates, weight decay, crops, flips, label smoothing, moving average. Both train on the CPU. The test split is
measured after every epoch, for this report alone. Only training steps count, without compiling. A run is
timed at its median speed, which is taken over its lines of metrics here, and over its epochs in PyTorch;
smaller images early in training have a median of their own.

What is finished is not trained again: a finished run of this project lies in --workdir, the lines of PyTorch
beside it. `--peer_dtypes=float32,bfloat16` adds PyTorch's automatic mixed precision, whose products use AMX
where the processor has it.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from tabulate import tabulate

import datasets
from benchmarks import command_line
from benchmarks.accuracy import early_epochs, steady_seconds, time_to
from benchmarks.command_line import at_least, exit_code, names
from benchmarks.machine import stamp
from benchmarks.rounds import Failed
from benchmarks.runs import Run, load_with_test_images, train_all
from benchmarks.suite import RESULTS
from benchmarks.worker import CPU_ONLY, ROOT
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
    check_is_known(runs[0].config())
    dataset = load_with_test_images(runs[0].config().data)
    for seed, run in enumerate(runs):
        config = run.config()
        train_all([run])
        report["runs"].append(_our_result(run, config, seed, options.target))
        if seed < options.peer_seeds:
            for dtype in options.peer_dtypes:
                lines = _train_peer(config, dataset, options.workdir, dtype)
                early = early_epochs(config)
                report["runs"].append(peer_result(f"PyTorch, {dtype}", seed, lines, options.target, early))
        write_json(options.json, report)
    print(format_report(report))
    print(f"\nwritten: {options.json}")


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


def _our_result(run: Run, config: ConfigDict, seed: int, target: float) -> dict[str, Any]:
    lines = read_metrics(Path(run.workdir))
    reached = time_to(lines, config, target) or {"epoch": None, "seconds": None}
    final = [line for line in lines if line["split"] == "test"][-1]
    return {"name": "this project", "seed": seed, "accuracy": final["accuracy"], **reached}


def peer_result(
    name: str, seed: int, lines: Sequence[dict[str, Any]], target: float, early: float = 0.0
) -> dict[str, Any]:
    """Returns the final accuracy of a run of PyTorch, and the epoch and the seconds to `target`.

    `lines` has one entry for each epoch, with the `seconds` since the start of the run; the first `early`
    ones had smaller images. Epoch and seconds are None if the run never reached `target`.
    """
    reached = next((line["epoch"] for line in lines if line["accuracy"] >= target), None)
    seconds = np.diff([line["seconds"] for line in lines], prepend=0.0)
    costs = [(line["epoch"], cost) for line, cost in zip(lines, seconds, strict=True)]
    return {
        "name": name,
        "seed": seed,
        "accuracy": lines[-1]["accuracy"],
        "epoch": reached,
        "seconds": reached and steady_seconds(costs, reached, early),
    }


def format_report(report: dict[str, Any]) -> str:
    """Returns the table of all runs; the ratio divides our seconds by the peer's, for the same seed."""
    ours = {run["seed"]: run["seconds"] for run in report["runs"] if run["name"] == "this project"}
    rows = []
    for run in report["runs"]:
        both = run["seconds"] and ours[run["seed"]] and run["name"] != "this project"
        ratio = f"{ours[run['seed']] / run['seconds']:.2f}" if both else ""
        seconds = "never" if run["seconds"] is None else f"{run['seconds']:.0f}"
        epoch = "-" if run["epoch"] is None else f"{run['epoch']:.0f}"
        rows.append([run["name"], run["seed"], f"{run['accuracy']:.4f}", epoch, seconds, ratio])
    headers = ["", "seed", "test accuracy", "epochs", f"seconds to {report['target']}", "ours to theirs"]
    return tabulate(rows, headers, disable_numparse=True, colalign=["left", *["right"] * 5])


if __name__ == "__main__":
    sys.exit(main())
