"""What the recipe comes to over several seeds: `python -m benchmarks.accuracy --seeds=5 [--config=FILE]`.

Trains the seeds 0 to N-1 and prints a table of the test split: accuracy, cross-entropy and calibration, on
all images and on those without a near twin in training, seconds of training, and what is asked for. Nothing
is chosen by it. A seed that is finished is not trained again, and one that was killed goes on.

`--jobs=2` trains two seeds at a time, each bound to half of the cores. `--time_to` also looks at the test
split after each epoch, for this report alone: training does not hear of it, and the clock stands still.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tabulate import tabulate

from benchmarks import command_line
from benchmarks.command_line import at_least, exit_code
from benchmarks.machine import stamp
from benchmarks.runs import Measurement, Run, train_all
from benchmarks.suite import RESULTS
from errors import UserError
from files import write_json
from metrics import read_metrics
from spread import format_spread, mean_and_std


class Measure(NamedTuple):
    """A row of the table: where a seed's results have it, and what it should come to.

    `mean` and `each` bound the mean over seeds and every seed; from below, where `higher` is better.
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
    Measure("accuracy under corruptions", "corruptions.mean", higher=True, mean=0.95),
    Measure("accuracy on rendered hands", "rendered.accuracy", higher=True),
    Measure("seconds of training", "seconds", each=900, digits=0),
    Measure("seconds of steps to the accuracy", "time_to.seconds", digits=0),
    Measure("epochs to the accuracy", "time_to.epoch", digits=0),
)


def main() -> int:
    """Runs the benchmark from the command line and returns the exit code."""
    options, settings = _parse()
    return exit_code(lambda: _run(options, settings))


def _parse() -> tuple[argparse.Namespace, list[str]]:
    """The options, and the settings that go on to main.py."""
    parser = command_line.training_parser(__doc__, RESULTS / "accuracy.json")
    parser.add_argument("--seeds", type=at_least(1), default=5, help="how many")
    parser.add_argument("--workdir", default="runs/accuracy")
    parser.add_argument("--corruptions", action="store_true", help="measure the accuracy under them too")
    parser.add_argument(
        "--rendered", type=at_least(0), default=0, help="how many rendered hands to measure on as well"
    )
    parser.add_argument(
        "--time_to", type=float, nargs="?", const=0.98, help="a test accuracy, to tell when it was reached"
    )
    return command_line.parse_with_settings(parser)


def _run(options: argparse.Namespace, settings: Sequence[str]) -> None:
    command_line.check_not_taken(settings, ("seed", "seeds"))
    seeds = range(options.seeds)
    arguments = [f"--config={options.config}", *settings]
    test = "last"
    if options.time_to is not None:
        test = "every_epoch"
        for seed in seeds:
            _check_watched(Path(options.workdir, f"seed_{seed}"))
    if options.jobs > 1:
        alone = [
            Run(f"{options.workdir}/seed_{seed}", [*arguments, f"--config.seed={seed}"], test)
            for seed in seeds
        ]
        train_all(alone, options.jobs, options.device)
    measurements = [Measurement("test")]
    if options.corruptions:
        measurements.append(Measurement("test", "standard"))
    if options.rendered:
        measurements.append(Measurement("test", rendered=options.rendered))
    # Finds all seeds finished where they were trained above.
    together = Run(
        options.workdir, [*arguments, f"--config.seeds={tuple(seeds)!r}"], test, tuple(measurements)
    )
    train_all([together], device=options.device)
    results = read_results(together, options.time_to)
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
    print(f"the ensemble of all: accuracy {results.ensemble['accuracy']:.4f}"
          f" cross-entropy {results.ensemble['loss']:.4f}")  # fmt: skip
    write_json(options.json, report)
    print(f"written: {options.json}")


def _check_watched(workdir: Path) -> None:
    lines = read_metrics(workdir)
    if any(line["epoch"] >= 1 for line in lines) and not any(line["split"] == "test" for line in lines):
        raise UserError(
            f"{workdir}: was trained without --time_to, so that nobody looked at the test split after each"
            " epoch; name another --workdir, or leave out --time_to"
        )


class Results(NamedTuple):
    """What each seed came to, by seed, and the ensemble of all on the test split."""

    seeds: dict[str, dict[str, Any]]
    ensemble: dict[str, Any]


def read_results(run: Run, time_to_accuracy: float | None) -> Results:
    """What a finished run of several seeds left in its workdir."""
    summary, test, *others = run.read()
    batch_size = run.config().batch_size
    seeds = {}
    for seed, report in test["seeds"].items():
        seeds[seed] = {"test": _numbers(report), "seconds": summary["seeds"][seed]["seconds"]}
        for measurement, measured in zip(run.measurements[1:], others, strict=True):
            found = measured["seeds"][seed]
            if measurement.corruptions:
                seeds[seed]["corruptions"] = {"mean": found["mean"]}
            else:
                seeds[seed]["rendered"] = {name: found[name] for name in ("accuracy", "images")}
        if time_to_accuracy is not None:
            lines = read_metrics(Path(run.workdir, f"seed_{seed}"))
            if reached := time_to(lines, batch_size, time_to_accuracy):
                seeds[seed]["time_to"] = reached
    return Results(seeds, _numbers(test["ensemble"]))


def _numbers(report: dict[str, Any]) -> dict[str, Any]:
    """Of a `full_report` what the table shows."""
    calibration = {"ece": report["calibration"]["ece"]}
    names = ("accuracy", "loss", "images", "without_twins")
    return {**{name: report[name] for name in names}, "calibration": calibration}


def time_to(lines: Sequence[dict[str, Any]], batch_size: int, accuracy: float) -> dict[str, float] | None:
    """The first epoch at whose end the test split reached `accuracy`, and the seconds of steps until then.

    `lines` are those of `metrics.jsonl`. None where it was never reached, or never looked at.
    """
    seconds, last_step = 0.0, 0
    for line in lines:
        if line["split"] == "train":
            seconds += (line["step"] - last_step) * batch_size / line["images_per_second"]
            last_step = line["step"]
        elif line["split"] == "test" and line["accuracy"] >= accuracy:
            return {"epoch": float(line["epoch"]), "seconds": seconds}
    return None


def format_table(seeds: dict[str, dict[str, Any]]) -> str:
    """The rows of `MEASURES` that were measured: mean ± std, the worst seed, the target, and each seed."""
    rows = []
    for measure in MEASURES:
        values = [value for each in seeds.values() if (value := _at(each, measure.path)) is not None]
        if not values:
            continue
        spread = mean_and_std(values)
        worst = min(values) if measure.higher else max(values)
        every = " ".join(f"{value:.{measure.digits}f}" for value in values)
        rows.append(
            [
                measure.name,
                format_spread(spread["mean"], spread["std"], measure.digits),
                f"{worst:.{measure.digits}f}",
                _target(measure, spread["mean"], worst),
                every if len(values) == len(seeds) else f"{every} ({len(seeds) - len(values)} never)",
            ]
        )
    return tabulate(rows, ["", "mean ± std", "worst", "target", "each seed"], disable_numparse=True)


def _target(measure: Measure, mean: float, worst: float) -> str:
    sign = "≥" if measure.higher else "≤"
    told = []
    for name, bound, value in (("mean", measure.mean, mean), ("each", measure.each, worst)):
        if bound is not None:
            met = value >= bound if measure.higher else value <= bound
            told.append(f"{name} {sign} {bound:g}: {'met' if met else 'missed'}")
    return ", ".join(told)


def _at(measured: dict[str, Any], path: str) -> float | None:
    for name in path.split("."):
        measured = measured.get(name, {})
    return measured if isinstance(measured, float) else None


if __name__ == "__main__":
    sys.exit(main())
