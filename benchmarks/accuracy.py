"""Test accuracy of a recipe over several seeds: `python -m benchmarks.accuracy --seeds=5 [--config=FILE]`.

Trains the seeds 0 to N-1 and prints a table about the test split: accuracy, cross-entropy and calibration, on
all images and on those without a near duplicate in training, the seconds of training, and the targets. No
decision depends on these results. Finished seeds are not trained again; interrupted ones are resumed.

`--jobs=2` trains two seeds at a time, each bound to half of the cores. `--time_to` also evaluates the test
split after each epoch, for this report alone: training does not use the result, and the clock is paused.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from ml_collections import ConfigDict
from tabulate import tabulate

from benchmarks import command_line
from benchmarks.command_line import at_least, exit_code
from benchmarks.machine import stamp
from benchmarks.runs import Measurement, Run, train_all
from benchmarks.suite import RESULTS
from resnet.errors import UserError
from resnet.files import write_json
from resnet.run import seed_workdir
from workdir.metrics import read_metrics
from workdir.statistics import format_spread, mean_and_std


class Measure(NamedTuple):
    """A row of the table: its `path` in the results of a seed, and its targets.

    `mean` is the bound for the mean over seeds, `each` the bound for every seed. They are lower bounds if
    `higher` values are better, upper bounds otherwise.
    """

    name: str
    path: str
    higher: bool = False
    mean: float | None = None
    each: float | None = None
    digits: int = 4


MEASURES = (
    Measure("test accuracy", "test.accuracy", higher=True, mean=0.996, each=0.991),
    Measure("test cross-entropy", "test.loss", mean=0.03),
    Measure("expected calibration error", "test.calibration.ece", mean=0.02),
    Measure("accuracy without twins", "test.without_twins.accuracy", higher=True, mean=0.996, each=0.991),
    Measure("cross-entropy without twins", "test.without_twins.loss", mean=0.03),
    Measure("calibration error without twins", "test.without_twins.ece", mean=0.02),
    Measure("accuracy under corruptions", "corruptions.mean", higher=True, mean=0.97),
    Measure("accuracy on rendered hands", "rendered.accuracy", higher=True),
    Measure("accuracy on photographs of other hands", "photographs.accuracy", higher=True, mean=0.97),
    Measure("cross-entropy on these", "photographs.loss"),
    Measure("calibration error on these", "photographs.calibration.ece", mean=0.03),
    Measure("seconds of training", "seconds", each=1200, digits=0),
    Measure("seconds of steps to the accuracy", "time_to.seconds", digits=0),
    Measure("epochs to the accuracy", "time_to.epoch", digits=0),
)


def main() -> int:
    """Runs the benchmark from the command line and returns the exit code."""
    options, settings = _parse()
    return exit_code(lambda: _run(options, settings))


def _parse() -> tuple[argparse.Namespace, list[str]]:
    """Returns the options, and the settings for main.py."""
    parser = command_line.training_parser(__doc__, RESULTS / "accuracy.json")
    command_line.add_jobs(parser)
    parser.add_argument("--seeds", type=at_least(1), default=5, help="number of seeds")
    parser.add_argument("--workdir", default="runs/accuracy", help="folder of the runs")
    parser.add_argument("--corruptions", action="store_true", help="also measure accuracy under corruptions")
    parser.add_argument(
        "--rendered", type=at_least(0), default=0, help="number of rendered hands to measure accuracy on"
    )
    command_line.add_photographs(parser)
    parser.add_argument(
        "--time_to", type=float, nargs="?", const=0.98, help="also report when this test accuracy is reached"
    )
    return command_line.parse_with_settings(parser)


def _run(options: argparse.Namespace, settings: Sequence[str]) -> None:
    command_line.check_not_reserved(settings, ("seed", "seeds"))
    results = read_results(_train(options, settings), options.time_to)
    report = {
        "benchmark": "accuracy",
        **stamp(),
        "config": options.config,
        "settings": list(settings),
        "jobs": options.jobs,
        "time_to": options.time_to,
        "ensemble": results.ensemble,
        "seeds": results.seeds,
        **mean_and_std(list(results.seeds.values())),
    }
    print(format_table(results.seeds))
    accuracy, loss = results.ensemble["accuracy"], results.ensemble["loss"]
    print(f"ensemble of all seeds: accuracy {accuracy:.4f} cross-entropy {loss:.4f}")
    write_json(options.json, report)
    print(f"written: {options.json}")


def _train(options: argparse.Namespace, settings: Sequence[str]) -> Run:
    """Trains and measures what is not finished yet; returns the run of all seeds."""
    seeds = range(options.seeds)
    arguments = [f"--config={options.config}", *settings]
    workdirs = {seed: seed_workdir(Path(options.workdir), seed) for seed in seeds}
    test = "last"
    if options.time_to is not None:
        test = "every_epoch"
        for workdir in workdirs.values():
            _check_tested_every_epoch(workdir)
    if options.jobs > 1:
        single_runs = [
            Run(str(workdirs[seed]), [*arguments, f"--config.seed={seed}"], test) for seed in seeds
        ]
        train_all(single_runs, options.jobs, options.device)
    measurements = [Measurement("test")]
    if options.corruptions:
        measurements.append(Measurement("test", "standard"))
    if options.rendered:
        measurements.append(Measurement("test", rendered=options.rendered))
    if options.photographs:
        measurements.append(Measurement("train", photographs=options.photographs))
    # Seeds that were trained above are finished, and only measured here.
    run = Run(options.workdir, [*arguments, f"--config.seeds={tuple(seeds)!r}"], test, tuple(measurements))
    train_all([run], device=options.device)
    return run


def _check_tested_every_epoch(workdir: Path) -> None:
    lines = read_metrics(workdir)
    if any(line["epoch"] >= 1 for line in lines) and not any(line["split"] == "test" for line in lines):
        raise UserError(
            f"{workdir}: was trained without --time_to, so its test accuracy after each epoch is unknown;"
            " name another --workdir, or leave out --time_to"
        )


class Results(NamedTuple):
    """The results of every seed by its number, and of the ensemble of all seeds, on the test split."""

    seeds: dict[str, dict[str, Any]]
    ensemble: dict[str, Any]


def read_results(run: Run, time_to_accuracy: float | None) -> Results:
    """Reads the results of a finished run of several seeds from its workdir."""
    summary, test, *others = run.read()
    config = run.config()
    seeds = {}
    for seed, report in test["seeds"].items():
        seeds[seed] = {"test": _select_scores(report), "seconds": summary["seeds"][seed]["seconds"]}
        for measurement, result in zip(run.measurements[1:], others, strict=True):
            scores = result["seeds"][seed]
            if measurement.corruptions:
                seeds[seed]["corruptions"] = {"mean": scores["mean"]}
            elif measurement.photographs:
                seeds[seed]["photographs"] = _select_scores(scores)
            else:
                seeds[seed]["rendered"] = {name: scores[name] for name in ("accuracy", "images")}
        if time_to_accuracy is not None:
            lines = read_metrics(seed_workdir(Path(run.workdir), int(seed)))
            if reached := time_to(lines, config, time_to_accuracy):
                seeds[seed]["time_to"] = reached
    return Results(seeds, _select_scores(test["ensemble"]))


def _select_scores(report: dict[str, Any]) -> dict[str, Any]:
    """Returns the scores of a `full_report` that the table shows."""
    calibration = {"ece": report["calibration"]["ece"]}
    names = ("accuracy", "loss", "images", "without_twins")
    return {**{name: report[name] for name in names if name in report}, "calibration": calibration}


def time_to(lines: Sequence[dict[str, Any]], config: ConfigDict, accuracy: float) -> dict[str, float] | None:
    """Returns the `epoch` after which the test accuracy first reaches `accuracy`, and the `seconds`.

    `lines` come from the `metrics.jsonl` of a run of `config`. Only training steps count, see
    `steady_seconds`. The result is None if the accuracy was never reached, or the test split never evaluated.
    """
    reached = next((line for line in lines if line["split"] == "test" and line["accuracy"] >= accuracy), None)
    if reached is None:
        return None
    epoch = float(reached["epoch"])
    images = reached["step"] * config.batch_size / epoch
    steps = [line for line in lines if line["split"] == "train"]
    costs = [(line["epoch"], images / line["images_per_second"]) for line in steps]
    return {"epoch": epoch, "seconds": steady_seconds(costs, epoch, early_epochs(config))}


def early_epochs(config: ConfigDict) -> float:
    """Returns how many epochs of `config` have smaller images."""
    return float(config.augment.early_share * config.num_epochs)


def steady_seconds(costs: Sequence[tuple[float, float]], epochs: float, early: float = 0.0) -> float:
    """Returns the seconds that the first `epochs` of a run take at its median speed.

    Other work on the machine for a while does not change that. `costs` are (epoch, seconds of an epoch at the
    speed of then) from all over the run. The first `early` epochs have smaller images, and a median of their
    own.
    """
    of_early = [seconds for epoch, seconds in costs if epoch <= early]
    of_late = [seconds for epoch, seconds in costs if epoch > early]
    spent = min(epochs, early) * median(of_early or of_late)
    return spent + max(epochs - early, 0.0) * median(of_late or of_early)


def format_table(seeds: dict[str, dict[str, Any]]) -> str:
    """Returns a table of the `MEASURES` that there are: mean ± std, the worst seed, the target, each seed."""
    rows = []
    for measure in MEASURES:
        numbers = [_lookup(results, measure.path) for results in seeds.values()]
        values = [number for number in numbers if number is not None]
        if not values:
            continue
        spread = mean_and_std(values)
        worst = min(values) if measure.higher else max(values)
        listing = " ".join(f"{value:.{measure.digits}f}" for value in values)
        missing = len(seeds) - len(values)
        rows.append(
            [
                measure.name,
                format_spread(spread["mean"], spread["std"], measure.digits),
                f"{worst:.{measure.digits}f}",
                _format_targets(measure, spread["mean"], worst),
                f"{listing} ({missing} never)" if missing else listing,
            ]
        )
    return tabulate(rows, ["", "mean ± std", "worst", "target", "each seed"], disable_numparse=True)


def _format_targets(measure: Measure, mean: float, worst: float) -> str:
    sign = "≥" if measure.higher else "≤"
    targets = []
    for name, bound, value in (("mean", measure.mean, mean), ("each", measure.each, worst)):
        if bound is not None:
            is_met = value >= bound if measure.higher else value <= bound
            targets.append(f"{name} {sign} {bound:g}: {'met' if is_met else 'missed'}")
    return ", ".join(targets)


def _lookup(results: dict[str, Any], path: str) -> float | None:
    """Returns the number at a dotted `path` of `results`, or None if there is none."""
    value: Any = results
    for name in path.split("."):
        value = value.get(name, {})
    return value if isinstance(value, float) else None


if __name__ == "__main__":
    sys.exit(main())
