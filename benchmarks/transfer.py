"""Fine-tuning from rendered hands against training from scratch: `python -m benchmarks.transfer --help`.

Trains one network on rendered hands (configs/rendered.py), then, for each seed and number of epochs, one run
on SIGNS that starts from it (configs/finetune.py) and one that starts from nothing: the same, but all parts
at the learning rate of configs/rendered.py, which suits a network of this size. Every run is its own, with
its own cosine schedule, and sees the test images once, at its end. The seed draws the order of the images,
their augmentation and, from scratch, the initial weights; there is one pretrained network for all.

Every run has its folder in --workdir: the same command goes on where it was killed, and repeats nothing that
is finished.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from tabulate import tabulate

import datasets
import main as program
from benchmarks import command_line
from benchmarks.command_line import at_least, exit_code, list_of
from benchmarks.machine import stamp
from benchmarks.worker import CPU_ONLY
from configs import finetune, rendered
from errors import UserError
from files import write_json, write_result
from settings import CHOICES
from spread import format_spread, mean_and_std

STARTS = ("scratch", "rendered")
TITLES = {"scratch": "from scratch", "rendered": "from rendered hands"}
WARMUP = 0.25  # of a run, at most: the warm-up of the recipes would be all of two epochs


class Run(NamedTuple):
    """One training on SIGNS."""

    start: str
    epochs: int
    seed: int

    @property
    def name(self) -> str:
        """Its folder in the workdir."""
        return f"{self.start}_{self.epochs}_epochs_seed_{self.seed}"


def main() -> int:
    """Runs the benchmark from the command line and returns the exit code."""
    options = _parse()
    return exit_code(lambda: _run(options))


def _parse() -> argparse.Namespace:
    parser = command_line.parser(__doc__)
    parser.add_argument("--workdir", type=Path, required=True, help="folder of the runs")
    parser.add_argument(
        "--depth", type=int, choices=CHOICES["model.depth"], default=18, help="of the network"
    )
    parser.add_argument("--width", type=at_least(1), default=32, help="channels of its first stage")
    parser.add_argument("--epochs", type=list_of(at_least(1)), default=[2, 5, 10], metavar="N[,N...]")
    parser.add_argument("--seeds", type=at_least(1), default=3, help="how many: 0, 1, ...")
    parser.add_argument("--pretraining_epochs", type=at_least(1), default=10)
    parser.add_argument("--pretraining_images", type=at_least(32), default=6000, help="rendered")
    parser.add_argument("--signs_dir", default="", help="folder of SIGNS; empty: $SIGNS_DIR, else data/signs")
    parser.add_argument("--plot", type=Path, default=None, metavar="PATH", help="draw the accuracies there")
    return parser.parse_args()


def runs_of(options: argparse.Namespace) -> Iterator[Run]:
    """Every run on SIGNS, the short ones first."""
    for epochs in options.epochs:
        for seed in range(options.seeds):
            for start in STARTS:
                yield Run(start, epochs, seed)


def pretraining_config(options: argparse.Namespace) -> ConfigDict:
    """configs/rendered.py with the network of the command line."""
    config = rendered.get_config()
    config.num_epochs = options.pretraining_epochs
    config.data.train_size = options.pretraining_images
    config.model.update({"depth": options.depth, "width": options.width})
    return config


def pretrained_in(options: argparse.Namespace) -> Path:
    """The workdir of the pretraining; another number of epochs is another run."""
    return options.workdir / f"pretrained_{options.pretraining_epochs}_epochs"


def config_of(run: Run, options: argparse.Namespace) -> ConfigDict:
    """The config of a run on SIGNS."""
    config = finetune.get_config()
    if run.start == "scratch":
        config.optimizer.learning_rate = rendered.get_config().optimizer.learning_rate
        config.finetune.layer_decay = 1.0
    else:
        config.init_from = str(pretrained_in(options))
    config.model.update({"depth": options.depth, "width": options.width})
    config.seed, config.num_epochs, config.data.dir = run.seed, run.epochs, options.signs_dir
    config.optimizer.warmup_epochs = min(config.optimizer.warmup_epochs, WARMUP * run.epochs)
    config.checkpoint.every_epochs = 0.0  # The end's is enough: runs are short.
    return config


def _run(options: argparse.Namespace) -> None:
    pretraining = pretraining_config(options)
    if options.device == "cpu":
        os.environ |= CPU_ONLY
    program.apply_accelerator_settings(pretraining, training=True)
    # JAX reads its settings when it is imported.
    from resnet import Classifier
    from train import StopRun, train_and_evaluate

    # Who lacks SIGNS is told before anything is trained.
    test = datasets.load(config_of(Run("scratch", 1, 0), options).data).test
    report: dict[str, Any] = {
        "benchmark": "transfer",
        **stamp(),
        "network": {"depth": options.depth, "width": options.width},
        "pretraining": {"epochs": options.pretraining_epochs, "images": options.pretraining_images},
        "runs": [],
    }
    try:
        _say("pretraining on rendered hands")
        summary = train_and_evaluate(pretraining, pretrained_in(options))
        report["parameters"] = summary["parameters"]
        report["pretraining"] |= _measured(summary)
        probabilities = Classifier.load(pretrained_in(options)).probabilities(test.images)
        report["pretraining"]["accuracy_on_signs"] = float(np.mean(probabilities.argmax(-1) == test.labels))
        for run in runs_of(options):
            _say(run.name)
            summary = train_and_evaluate(config_of(run, options), options.workdir / run.name)
            report["runs"].append(run._asdict() | _measured(summary))
            report["cells"] = cells_of(report["runs"])
            if options.json:
                write_json(options.json, report)
    except StopRun:
        raise UserError(f"stopped and saved; the same command goes on from here: {options.workdir}") from None
    print(format_report(report))
    if options.plot:
        plot(report, options.plot)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _measured(summary: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a `summary.json`: the moving average's accuracy, which is what a run is used with."""
    return {
        "accuracy": summary["ema"]["test"]["accuracy"],
        "loss": summary["ema"]["test"]["loss"],
        "accuracy_raw_weights": summary["test"]["accuracy"],
        "seconds": summary["seconds"],
    }


def cells_of(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over seeds of the accuracies of each start and number of epochs."""
    groups: dict[tuple[str, int], list[float]] = {}
    for run in runs:
        groups.setdefault((run["start"], run["epochs"]), []).append(run["accuracy"])
    return [
        {"start": start, "epochs": epochs, "seeds": len(values), **mean_and_std(values)}
        for (start, epochs), values in groups.items()
    ]


def format_report(report: dict[str, Any]) -> str:
    """The report for people to read."""
    cells = {(cell["start"], cell["epochs"]): (cell["mean"], cell["std"]) for cell in report["cells"]}
    rows = [
        [epochs, *(format_spread(*cells[start, epochs]) for start in STARTS)]
        for epochs in dict.fromkeys(cell["epochs"] for cell in report["cells"])
    ]
    table = tabulate(rows, ["epochs", *TITLES.values()], disable_numparse=True, colalign=["right"] * 3)
    pretraining = report["pretraining"]
    head = (
        f"{_title(report)}\nthe network trained on {pretraining['images']:,} rendered hands, as it is:"
        f" {pretraining['accuracy_on_signs']:.4f} ({pretraining['accuracy']:.4f} on rendered test images)"
    )
    return f"{head}\n\n{table}"


def _title(report: dict[str, Any]) -> str:
    network, seeds = report["network"], max(cell["seeds"] for cell in report["cells"])
    return (
        f"SIGNS test accuracy, ResNet-{network['depth']} of width {network['width']}; mean and standard"
        f" deviation of {seeds} seeds"
    )


def plot(report: dict[str, Any], path: Path) -> None:
    """Draws mean accuracy over epochs of both starts, with their deviations."""
    from matplotlib.figure import Figure

    from report.figures import encode_figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for (start, title), marker in zip(TITLES.items(), "so", strict=True):
        cells = [cell for cell in report["cells"] if cell["start"] == start]
        epochs = [cell["epochs"] for cell in cells]
        means, deviations = [cell["mean"] for cell in cells], [cell["std"] or 0.0 for cell in cells]
        axes.errorbar(epochs, means, deviations, marker=marker, capsize=4, label=title)
    untrained = report["pretraining"]["accuracy_on_signs"]
    axes.axhline(untrained, color="grey", linestyle="--", label="rendered hands alone")
    axes.set_xticks(sorted({cell["epochs"] for cell in report["cells"]}))
    axes.set(xlabel="epochs on SIGNS", ylabel="test accuracy", ylim=(0, 1.02))
    axes.set_title(_title(report), fontsize="medium", loc="left")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize="small", frameon=False)
    write_result(path, encode_figure(figure))


if __name__ == "__main__":
    sys.exit(main())
