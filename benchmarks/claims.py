"""What the original of this project claimed, checked on SIGNS: `python -m benchmarks.claims [--jobs=2]`.

- `keras`: where the published accuracy of 0.866, of one run, falls among those of several seeds of
  configs/signs_keras.py.
- `plain`: whether deep networks are hard to train without shortcuts, and easy with them. As He et al. 2015
  (arXiv:1512.03385, section 4.1) did, by the error on the training images; one recipe for all.
- `batch`: whether the batch size changes the accuracy, in as many epochs, at one learning rate and at one
  that grows with the batch (Goyal et al. 2017, arXiv:1706.02677, section 2.1, who say it of SGD).

Accuracies and losses are those of the last weights on the images as they are, without augmentation; the test
split is looked at once, at the end of each run, and nothing is chosen by it. Every run has its folder in
--workdir: the same command goes on where it was stopped, and one of more --groups or --seeds repeats nothing.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tabulate import tabulate

from benchmarks import claims_plot, command_line
from benchmarks.command_line import at_least, exit_code, list_of, names
from benchmarks.machine import stamp
from benchmarks.runs import Run, train_all
from benchmarks.suite import RESULTS
from benchmarks.worker import ROOT
from errors import UserError
from files import write_json, write_whole
from metrics import read_metrics
from spread import by_seed, format_spread

PUBLISHED = 0.866  # of 120 test images
TITLES = {
    "keras": "The Keras recipe over seeds",
    "plain": "Plain and residual networks",
    "batch": "Batch size",
}
# The moving average would be a longer one, in epochs, the larger the batch.
EVERY_RUN = {"ema_decay": 0.0, "checkpoint.every_epochs": 0.0}


class Case(NamedTuple):
    """A row of a table, trained with every seed: `what` tells it from the others of its group."""

    name: str
    what: dict[str, Any]
    config: str
    settings: dict[str, Any]

    def run(self, seed: int, workdir: str, shared: Sequence[str]) -> Run:
        """The run of `seed`; `shared` are flags of main.py."""
        own = {**EVERY_RUN, **self.settings, "seed": seed}
        flags = [f"--config.{name}={value}" for name, value in own.items()]
        return Run(f"{workdir}/{self.name}/seed_{seed}", [f"--config={self.config}", *shared, *flags])


def main() -> int:
    """Runs the benchmark from the command line and returns the exit code."""
    options, settings = _parse()
    return exit_code(lambda: _run(options, settings))


def _parse() -> tuple[argparse.Namespace, list[str]]:
    """The options, and the settings that all runs share."""
    parser = command_line.training_parser(__doc__, RESULTS / "claims.json")
    parser.set_defaults(config="configs/default.py")
    parser.epilog += " --config is the recipe of `plain` and `batch`."
    parser.add_argument("--groups", type=names, default=list(TITLES), help="of the claims")
    parser.add_argument("--seeds", type=at_least(1), default=3, help="how many: 0, 1, ...")
    parser.add_argument("--keras_epochs", type=at_least(1), default=10)
    parser.add_argument("--plain_epochs", type=at_least(1), default=6)
    parser.add_argument("--depths", type=list_of(at_least(1)), default=[18, 34, 50], help="of `plain`")
    parser.add_argument("--batch_epochs", type=at_least(1), default=6)
    parser.add_argument("--batches", type=list_of(at_least(1)), default=[8, 16, 32, 64, 128, 256])
    parser.add_argument("--width", type=at_least(1), default=32, help="of the ResNet-18 of `batch`")
    parser.add_argument("--warmup_epochs", type=float, default=1.0, help="of `plain` and `batch`")
    parser.add_argument("--workdir", default="runs/claims")
    parser.add_argument("--plots", type=Path, default=ROOT / "docs", metavar="DIR", help="draw them there")
    return command_line.parse_with_settings(parser)


def cases_of(options: argparse.Namespace, settings: Sequence[str]) -> dict[str, list[Case]]:
    """The cases of `options.groups`, by group.

    Raises:
        UserError: there is no such group, or `settings` cannot be used or are what the cases differ in.
    """
    for group in options.groups:
        if group not in TITLES:
            raise UserError(f"--groups: found {group!r}; expected some of {', '.join(TITLES)}")
    base = Run("", [f"--config={options.config}", *settings]).config()
    base_rate = base.optimizer.learning_rate
    keras = Case(
        f"keras_{options.keras_epochs}_epochs",
        {"recipe": "configs/signs_keras.py"},
        "configs/signs_keras.py",
        {"num_epochs": options.keras_epochs},
    )
    plain = [
        Case(
            f"{network}_{depth}_{options.plain_epochs}_epochs",
            {"depth": depth, "network": network},
            options.config,
            {
                "num_epochs": options.plain_epochs,
                "optimizer.warmup_epochs": options.warmup_epochs,
                "model.depth": depth,
                "model.residual": network == "residual",
                # Both start alike: residual blocks would otherwise begin as the identity.
                "model.zero_init_last": False,
            },
        )
        for depth in options.depths
        for network in ("plain", "residual")
    ]
    batch = []
    for size in options.batches:
        scaled = base_rate * size / base.batch_size
        rates = {"same": base_rate, "scaled": scaled} if scaled != base_rate else {"both": base_rate}
        for rule, rate in rates.items():
            own = {
                "num_epochs": options.batch_epochs,
                "optimizer.warmup_epochs": options.warmup_epochs,
                "model.depth": 18,
                "model.width": options.width,
                "batch_size": size,
                "optimizer.learning_rate": rate,
            }
            name = f"batch_{size}_rate_{rate:g}_{options.batch_epochs}_epochs"
            batch.append(Case(name, {"batch": size, "rule": rule, "rate": rate}, options.config, own))
    groups = {"keras": [keras], "plain": plain, "batch": batch}
    chosen = {group: groups[group] for group in TITLES if group in options.groups}
    taken = {"seed", "seeds", *EVERY_RUN}.union(*(case.settings for of in chosen.values() for case in of))
    command_line.check_not_taken(settings, taken)
    return chosen


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
    for group, cases in cases_of(options, settings).items():
        runs = {case.name: [case.run(seed, options.workdir, settings) for seed in seeds] for case in cases}
        train_all([run for of_seed in zip(*runs.values(), strict=True) for run in of_seed],
                  options.jobs, options.device)  # fmt: skip
        rows = [row_of(case, [read_run(run) for run in runs[case.name]]) for case in cases]
        report["groups"][group] = rows
        # What there is, while the next group trains.
        write_json(options.json, report)
        write_whole(table, format_report(report) + "\n")
        print(format_group(group, rows) + "\n", flush=True)
    claims_plot.plot(report, options.plots)
    print(f"written: {options.json}, {table.name}, and plots in {options.plots}")


def read_run(run: Run) -> dict[str, Any]:
    """What a finished run came to; `seconds` are those of its training steps alone."""
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
    """The mean training loss of each epoch's steps, from the `lines` of `metrics.jsonl` of a whole run."""
    per_epoch = steps // epochs
    losses, last_step = [0.0] * epochs, 0
    for line in lines:
        if line["split"] == "train":
            count = line["step"] - last_step
            losses[last_step // per_epoch] += line["loss"] * count / per_epoch
            last_step = line["step"]
    return losses


def row_of(case: Case, measured: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What `case` came to, `measured` by seed; of the Keras recipe with the share of seeds below 0.866."""
    row = {"what": case.what, "config": case.config, "settings": {**EVERY_RUN, **case.settings}}
    row |= by_seed(range(len(measured)), measured)
    if "recipe" in case.what:
        below = [each["test"]["accuracy"] < PUBLISHED for each in measured]
        row |= {"published": PUBLISHED, "share_below_published": sum(below) / len(below)}
    return row


def format_report(report: dict[str, Any]) -> str:
    """The tables of all groups, in Markdown."""
    return "\n\n".join(format_group(group, rows) for group, rows in report["groups"].items())


def format_group(group: str, rows: Sequence[dict[str, Any]]) -> str:
    """A heading, what the runs shared, and a table of `rows` in Markdown: mean ± std over seeds."""
    first = rows[0]
    cells = []
    for row in rows:
        accuracies = [each["test"]["accuracy"] for each in row["seeds"].values()]
        cells.append(
            [
                *(f"{value:g}" if isinstance(value, float) else value for value in row["what"].values()),
                next(iter(row["seeds"].values()))["steps"],
                format_spread(row["mean"]["train"]["accuracy"], row["std"]["train"]["accuracy"], 3),
                format_spread(row["mean"]["train"]["loss"], row["std"]["train"]["loss"], 3),
                format_spread(row["mean"]["test"]["accuracy"], row["std"]["test"]["accuracy"], 3),
                f"{min(accuracies):.3f} to {max(accuracies):.3f}",
                format_spread(row["mean"]["seconds"], row["std"]["seconds"], 0),
            ]
        )
    headers = [*first["what"], "steps", "training accuracy", "training loss", "test accuracy", "range",
               "seconds of steps"]  # fmt: skip
    table = tabulate(cells, headers, tablefmt="github", disable_numparse=True)
    shared = [f"{name}={value}" for name, value in first["settings"].items()
              if all(row["settings"][name] == value for row in rows)]  # fmt: skip
    text = (
        f"### {TITLES[group]}\n\n{len(first['seeds'])} seeds, {first['config']} with"
        f" `{' '.join(shared)}`\n\n{table}"
    )
    if group == "keras":
        count = round(first["share_below_published"] * len(first["seeds"]))
        text += f"\n\nBelow the published {PUBLISHED}: {count} of {len(first['seeds'])} seeds"
    return text


if __name__ == "__main__":
    sys.exit(main())
