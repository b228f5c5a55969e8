"""Fine-tuning from rendered hands or training from scratch: `python -m benchmarks.transfer --help`.

Trains one network on rendered hands (configs/rendered.py). Then, for each seed and number of epochs, trains
two runs on SIGNS. One starts from that network (configs/finetune.py). The other starts from scratch, and all
of its parts have the learning rate of configs/rendered.py, which suits a network of this size. Every run has
its own cosine schedule, and is tested once, at its end. The seed draws the order of the images, their
augmentation and, from scratch, the initial weights. All fine-tuned runs share one pretrained network.

Every run has its folder in --workdir: the same command resumes where it was killed, and repeats nothing that
is finished.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from tabulate import tabulate

import datasets
from benchmarks import command_line
from benchmarks.command_line import at_least, exit_code, list_of
from benchmarks.machine import stamp
from configs import finetune, rendered
from configs.rules import CHOICES
from devices import environment
from resnet.errors import UserError
from resnet.files import write_json, write_result
from workdir.lock import locked
from workdir.statistics import format_spread, mean_and_std

STARTS = ("scratch", "rendered")
TITLES = {"scratch": "from scratch", "rendered": "from rendered hands"}
MAX_WARMUP = 0.25  # share of a run; the warm-up of the recipes could take all of a short one


class Run(NamedTuple):
    """A training on SIGNS."""

    start: str
    epochs: int
    seed: int

    @property
    def name(self) -> str:
        """The name of its folder in the workdir."""
        return f"{self.start}_{self.epochs}_epochs_seed_{self.seed}"


def main() -> int:
    """Runs the benchmark from the command line and returns the exit code."""
    options = _parse()
    return exit_code(lambda: _run(options))


def _parse() -> argparse.Namespace:
    parser = command_line.parser(__doc__)
    parser.add_argument("--workdir", type=Path, required=True, help="folder of the runs")
    parser.add_argument(
        "--depth", type=int, choices=CHOICES["model.depth"], default=18, help="depth of the ResNet"
    )
    parser.add_argument("--width", type=at_least(1), default=32, help="channels of its first stage")
    parser.add_argument(
        "--epochs",
        type=list_of(at_least(1)),
        default=[2, 5, 10],
        metavar="N[,N...]",
        help="epochs on SIGNS; each number has runs of its own",
    )
    parser.add_argument("--seeds", type=at_least(1), default=3, help="number of seeds: 0, 1, ...")
    parser.add_argument("--pretraining_epochs", type=at_least(1), default=10, help="epochs on rendered hands")
    parser.add_argument(
        "--pretraining_images", type=at_least(32), default=6000, help="number of rendered hands"
    )
    parser.add_argument("--signs_dir", default="", help="folder of SIGNS; empty: $SIGNS_DIR, else data/signs")
    parser.add_argument("--plot", type=Path, default=None, metavar="PATH", help="file for a picture")
    return parser.parse_args()


def list_runs(options: argparse.Namespace) -> Iterator[Run]:
    """Yields every run on SIGNS, the runs of fewer epochs first."""
    for epochs in options.epochs:
        for seed in range(options.seeds):
            for start in STARTS:
                yield Run(start, epochs, seed)


def pretraining_config(options: argparse.Namespace) -> ConfigDict:
    """Returns configs/rendered.py with the network of the command line."""
    config = rendered.get_config()
    config.num_epochs = options.pretraining_epochs
    config.data.train_size = options.pretraining_images
    config.model.update({"depth": options.depth, "width": options.width})
    return config


def pretraining_workdir(options: argparse.Namespace) -> Path:
    """Returns the workdir of the pretraining, which depends on the number of epochs."""
    return options.workdir / f"pretrained_{options.pretraining_epochs}_epochs"


def make_config(run: Run, options: argparse.Namespace) -> ConfigDict:
    """Returns the config of a run on SIGNS."""
    config = finetune.get_config()
    if run.start == "scratch":
        config.optimizer.learning_rate = rendered.get_config().optimizer.learning_rate
        config.finetune.layer_decay = 1.0
    else:
        config.init_from = str(pretraining_workdir(options))
    config.model.update({"depth": options.depth, "width": options.width})
    config.seed, config.num_epochs, config.data.dir = run.seed, run.epochs, options.signs_dir
    config.optimizer.warmup_epochs = min(config.optimizer.warmup_epochs, MAX_WARMUP * run.epochs)
    config.checkpoint.every_epochs = 0.0  # Runs are short: the checkpoint at the end is enough.
    return config


def _run(options: argparse.Namespace) -> None:
    pretraining = pretraining_config(options)
    command_line.select_device(options)
    environment.prepare(pretraining.gpu, compilation_cache=pretraining.compilation_cache, training=True)
    # JAX reads the environment when it is imported.
    from resnet import Classifier
    from training.signals import StopRun

    # Loaded before the training, so that a missing data set is reported at once.
    test = datasets.load(make_config(Run("scratch", 1, 0), options).data).test
    report: dict[str, Any] = {
        "benchmark": "transfer",
        **stamp(),
        "network": {"depth": options.depth, "width": options.width},
        "pretraining": {"epochs": options.pretraining_epochs, "images": options.pretraining_images},
        "runs": [],
    }
    try:
        _print_progress("pretraining on rendered hands")
        summary = _train(pretraining, pretraining_workdir(options))
        report["parameters"] = summary["parameters"]
        report["pretraining"] |= _select_scores(summary)
        probabilities = Classifier.load(pretraining_workdir(options)).probabilities(test.images)
        report["pretraining"]["accuracy_on_signs"] = float(np.mean(probabilities.argmax(-1) == test.labels))
        for run in list_runs(options):
            _print_progress(run.name)
            summary = _train(make_config(run, options), options.workdir / run.name)
            report["runs"].append(run._asdict() | _select_scores(summary))
            report["cells"] = summarize_cells(report["runs"])
            if options.json:
                write_json(options.json, report)
    except StopRun:
        raise UserError(f"stopped and saved in {options.workdir}; the same command resumes there") from None
    print(format_report(report))
    if options.plot:
        plot(report, options.plot)


def _train(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Trains a run and returns its summary. Nobody else trains in `workdir` meanwhile."""
    from train import train_and_evaluate

    with locked(workdir):
        return train_and_evaluate(config, workdir)


def _print_progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _select_scores(summary: dict[str, Any]) -> dict[str, Any]:
    """Returns the scores that the report takes from a `summary.json`, mainly of the moving average."""
    return {
        "accuracy": summary["ema"]["test"]["accuracy"],
        "loss": summary["ema"]["test"]["loss"],
        "accuracy_raw_weights": summary["test"]["accuracy"],
        "seconds": summary["seconds"],
    }


def summarize_cells(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the mean accuracy of each start and number of epochs, and its deviation over seeds."""
    groups: dict[tuple[str, int], list[float]] = {}
    for run in runs:
        groups.setdefault((run["start"], run["epochs"]), []).append(run["accuracy"])
    return [
        {"start": start, "epochs": epochs, "seeds": len(values), **mean_and_std(values)}
        for (start, epochs), values in groups.items()
    ]


def format_report(report: dict[str, Any]) -> str:
    """Returns the report as text."""
    cells = {(cell["start"], cell["epochs"]): (cell["mean"], cell["std"]) for cell in report["cells"]}
    rows = [
        [epochs, *(format_spread(*cells[start, epochs]) for start in STARTS)]
        for epochs in dict.fromkeys(cell["epochs"] for cell in report["cells"])
    ]
    table = tabulate(rows, ["epochs", *TITLES.values()], disable_numparse=True, colalign=["right"] * 3)
    pretraining = report["pretraining"]
    head = (
        f"{_title(report)}\ntrained on {pretraining['images']:,} rendered hands, before fine-tuning:"
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
    """Draws the mean accuracy of both starts over the number of epochs, with the deviations."""
    from matplotlib.figure import Figure

    from evaluation.report.figures import encode_figure

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
