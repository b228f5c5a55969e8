"""Checks on SIGNS what the original of this project claimed: `python -m benchmarks.claims [--jobs=2]`.

- `keras`: where the published accuracy of a single run, 0.866, lies among the accuracies of several seeds of
  configs/signs_keras.py.
- `plain`: whether deep networks are hard to train without shortcuts, and easy with them. The measure is the
  error on the training images, as in He et al. 2015 (arXiv:1512.03385), section 4.1. All networks share one
  recipe.
- `batch`: whether the batch size changes the accuracy after the same number of epochs, with one learning rate
  for all and with one in proportion to the batch (for SGD: Goyal et al. 2017, arXiv:1706.02677, section 2.1).

Accuracy and loss are measured with the last weights, on images without augmentation. The test split is
evaluated once, at the end of each run, and no decision depends on it. Every run has its folder in --workdir:
the same command resumes where it was stopped, and one with more --groups or --seeds repeats nothing.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict
from tabulate import tabulate

from benchmarks import claims_plot, command_line
from benchmarks.command_line import at_least, exit_code, list_of, names
from benchmarks.machine import stamp
from benchmarks.runs import Run, load_with_test_images, train_all
from benchmarks.suite import RESULTS
from benchmarks.worker import ROOT
from resnet.errors import UserError
from resnet.files import write_json, write_whole
from workdir.metrics import read_metrics
from workdir.statistics import by_seed, format_spread

PUBLISHED = 0.866  # of 120 test images
TITLES = {
    "keras": "The Keras recipe over seeds",
    "plain": "Plain and residual networks",
    "batch": "Batch size",
}
# The larger the batch, the more epochs a moving average would cover.
EVERY_RUN = {"ema_decay": 0.0, "checkpoint.every_epochs": 0.0}


class Case(NamedTuple):
    """A row of a table, trained with every seed. `what` distinguishes it from the others of its group."""

    name: str
    what: dict[str, Any]
    config: str
    settings: dict[str, Any]

    def run(self, seed: int, workdir: str, shared: Sequence[str]) -> Run:
        """Returns the run of `seed`. `shared` are arguments of main.py."""
        fields = {**EVERY_RUN, **self.settings, "seed": seed}
        arguments = [f"--config.{name}={value}" for name, value in fields.items()]
        return Run(f"{workdir}/{self.name}/seed_{seed}", [f"--config={self.config}", *shared, *arguments])


def main() -> int:
    """Runs the benchmark from the command line and returns the exit code."""
    options, settings = _parse()
    return exit_code(lambda: _run(options, settings))


def _parse() -> tuple[argparse.Namespace, list[str]]:
    """Returns the options, and the settings that all runs share."""
    parser = command_line.training_parser(__doc__, RESULTS / "claims.json")
    command_line.add_jobs(parser)
    parser.set_defaults(config="configs/default.py")
    parser.epilog += " --config is the recipe of `plain` and `batch`."
    parser.add_argument("--groups", type=names, default=list(TITLES), help="the claims to check")
    parser.add_argument("--seeds", type=at_least(1), default=3, help="number of seeds: 0, 1, ...")
    parser.add_argument("--keras_epochs", type=at_least(1), default=10, help="epochs of `keras`")
    parser.add_argument("--plain_epochs", type=at_least(1), default=6, help="epochs of `plain`")
    parser.add_argument("--depths", type=list_of(at_least(1)), default=[18, 34, 50], help="depths of `plain`")
    parser.add_argument("--batch_epochs", type=at_least(1), default=6, help="epochs of `batch`")
    parser.add_argument(
        "--batches", type=list_of(at_least(1)), default=[8, 16, 32, 64, 128, 256], help="sizes of `batch`"
    )
    parser.add_argument("--width", type=at_least(1), default=32, help="width of the ResNet-18 of `batch`")
    parser.add_argument("--warmup_epochs", type=float, default=1.0, help="warm-up of `plain` and `batch`")
    parser.add_argument("--workdir", default="runs/claims", help="folder of the runs")
    parser.add_argument(
        "--plots", type=Path, default=ROOT / "docs", metavar="DIR", help="folder for pictures"
    )
    return command_line.parse_with_settings(parser)


def make_cases(options: argparse.Namespace, settings: Sequence[str]) -> dict[str, list[Case]]:
    """Returns the cases of `options.groups`, by group.

    Raises:
        UserError: a group does not exist, or `settings` are invalid or change what the cases differ in.
    """
    for group in options.groups:
        if group not in TITLES:
            raise UserError(f"--groups={group}: no such group; expected some of {', '.join(TITLES)}")
    base = Run("", [f"--config={options.config}", *settings]).config()
    groups = {
        "keras": [_keras_case(options)],
        "plain": _plain_cases(options),
        "batch": _batch_cases(options, base),
    }
    selected = {group: groups[group] for group in TITLES if group in options.groups}
    fields = {name for cases in selected.values() for case in cases for name in case.settings}
    command_line.check_not_reserved(settings, {"seed", "seeds", *EVERY_RUN, *fields})
    return selected


def _keras_case(options: argparse.Namespace) -> Case:
    config = "configs/signs_keras.py"
    settings = {"num_epochs": options.keras_epochs}
    return Case(f"keras_{options.keras_epochs}_epochs", {"recipe": config}, config, settings)


def _plain_cases(options: argparse.Namespace) -> list[Case]:
    shared = {
        "num_epochs": options.plain_epochs,
        "optimizer.warmup_epochs": options.warmup_epochs,
        # Otherwise residual blocks would start as the identity, and plain ones would not.
        "model.zero_init_last": False,
    }
    return [
        Case(
            f"{network}_{depth}_{options.plain_epochs}_epochs",
            {"depth": depth, "network": network},
            options.config,
            {**shared, "model.depth": depth, "model.residual": network == "residual"},
        )
        for depth in options.depths
        for network in ("plain", "residual")
    ]


def _batch_cases(options: argparse.Namespace, base: ConfigDict) -> list[Case]:
    shared = {
        "num_epochs": options.batch_epochs,
        "optimizer.warmup_epochs": options.warmup_epochs,
        "model.depth": 18,
        "model.width": options.width,
    }
    base_rate = base.optimizer.learning_rate
    cases = []
    for size in options.batches:
        scaled = base_rate * size / base.batch_size
        rates = {"same": base_rate, "scaled": scaled} if scaled != base_rate else {"both": base_rate}
        for rule, rate in rates.items():
            settings = {**shared, "batch_size": size, "optimizer.learning_rate": rate}
            name = f"batch_{size}_rate_{rate:g}_{options.batch_epochs}_epochs"
            cases.append(Case(name, {"batch": size, "rule": rule, "rate": rate}, options.config, settings))
    return cases


def _run(options: argparse.Namespace, settings: Sequence[str]) -> None:
    seeds = range(options.seeds)
    report: dict[str, Any] = {
        "benchmark": "claims",
        **stamp(),
        "settings": list(settings),
        "jobs": options.jobs,
        "groups": {},
    }
    table = options.json.with_suffix(".md")
    groups = make_cases(options, settings)
    for first, *_ in groups.values():  # The cases of a group have the same data.
        load_with_test_images(first.run(0, options.workdir, settings).config().data)
    for group, cases in groups.items():
        runs = {case.name: [case.run(seed, options.workdir, settings) for seed in seeds] for case in cases}
        # All cases of one seed come before the next seed.
        in_order = [run for runs_of_seed in zip(*runs.values(), strict=True) for run in runs_of_seed]
        train_all(in_order, options.jobs, options.device)
        rows = [make_row(case, [read_run(run) for run in runs[case.name]]) for case in cases]
        report["groups"][group] = rows
        # The next group takes long to train; what is finished can be read meanwhile.
        write_json(options.json, report)
        write_whole(table, format_report(report) + "\n")
        print(format_group(group, rows) + "\n", flush=True)
    claims_plot.plot(report, options.plots)
    print(f"written: {options.json}, {table.name}, and plots in {options.plots}")


def read_run(run: Run) -> dict[str, Any]:
    """Reads the results of a finished run; `seconds` count its training steps alone."""
    (summary,) = run.read()
    images = summary["steps"] * run.config().batch_size
    return {
        "train": summary["train"],
        "test": summary["test"],
        "steps": summary["steps"],
        "seconds": images / summary["images_per_second"],
        "loss_by_epoch": loss_by_epoch(read_metrics(Path(run.workdir)), summary["steps"], summary["epochs"]),
    }


def loss_by_epoch(lines: Sequence[dict[str, Any]], steps: int, epochs: int) -> list[float]:
    """Returns the mean training loss over the steps of each epoch.

    `lines` are the lines of the `metrics.jsonl` of a whole run.
    """
    steps_per_epoch = steps // epochs
    losses, last_step = [0.0] * epochs, 0
    for line in lines:
        if line["split"] == "train":
            count = line["step"] - last_step
            losses[last_step // steps_per_epoch] += line["loss"] * count / steps_per_epoch
            last_step = line["step"]
    return losses


def make_row(case: Case, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the row of `case` in the report, from the results of all seeds.

    For the Keras recipe it has the share of the seeds that are below the published accuracy.
    """
    row = {"what": case.what, "config": case.config, "settings": {**EVERY_RUN, **case.settings}}
    row |= by_seed(range(len(results)), results)
    if "recipe" in case.what:
        are_below = [result["test"]["accuracy"] < PUBLISHED for result in results]
        row |= {"published": PUBLISHED, "share_below_published": sum(are_below) / len(are_below)}
    return row


def format_report(report: dict[str, Any]) -> str:
    """Returns the tables of all groups, in Markdown."""
    return "\n\n".join(format_group(group, rows) for group, rows in report["groups"].items())


def format_group(group: str, rows: Sequence[dict[str, Any]]) -> str:
    """Returns a heading, the settings that the runs share, and a Markdown table: mean ± std over seeds."""
    first = rows[0]
    headers = [
        *first["what"],
        *("steps", "training accuracy", "training loss", "test accuracy", "range", "seconds of steps"),
    ]
    table = tabulate([_cells(row) for row in rows], headers, tablefmt="github", disable_numparse=True)
    shared = [
        f"{name}={value}"
        for name, value in first["settings"].items()
        if all(row["settings"][name] == value for row in rows)
    ]
    text = (
        f"### {TITLES[group]}\n\n{len(first['seeds'])} seeds, {first['config']} with"
        f" `{' '.join(shared)}`\n\n{table}"
    )
    if group == "keras":
        count = round(first["share_below_published"] * len(first["seeds"]))
        text += f"\n\nBelow the published {PUBLISHED}: {count} of {len(first['seeds'])} seeds"
    return text


def _cells(row: dict[str, Any]) -> list[Any]:
    def spread(split: str, name: str) -> str:
        return format_spread(row["mean"][split][name], row["std"][split][name], 3)

    results = list(row["seeds"].values())
    accuracies = [result["test"]["accuracy"] for result in results]
    return [
        *(f"{value:g}" if isinstance(value, float) else value for value in row["what"].values()),
        results[0]["steps"],
        spread("train", "accuracy"),
        spread("train", "loss"),
        spread("test", "accuracy"),
        f"{min(accuracies):.3f} to {max(accuracies):.3f}",
        format_spread(row["mean"]["seconds"], row["std"]["seconds"], 0),
    ]


if __name__ == "__main__":
    sys.exit(main())
