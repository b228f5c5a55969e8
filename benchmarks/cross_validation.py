"""Compares recipes by k-fold cross-validation on the training images:

    python -m benchmarks.cross_validation --folds=5 --variant "base:" --variant "long: --config.num_epochs=80"
    python -m benchmarks.cross_validation --folds=5 --variants=variants.txt

A variant is a name, a colon and the settings that it changes. A file of variants has one on each line, and
`#` begins a comment. Each fold is held out once, from a training of its own whose last weights are used. They
are measured on the fold as it is, on the fold under the four corruptions that ImageNet-C sets aside for
choosing a recipe, and on rendered hands of full variety, which stand for hands that no photograph showed.
`--photographs` adds real ones. The test split is never evaluated. Finished runs are not trained again: name
more variants, and the table grows.

To report how well a recipe reads SIGNS, not to choose one, `--config.data.folds_of=all` makes the folds of
its test images too, with near duplicates in one fold.
"""

import argparse
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tabulate import tabulate

from benchmarks import command_line
from benchmarks.command_line import at_least, exit_code
from benchmarks.machine import stamp
from benchmarks.runs import Measurement, Run, train_all
from resnet.errors import UserError
from resnet.files import write_json, write_whole
from workdir.statistics import format_spread, mean_and_std

RESERVED = ("--config.data.folds", "--config.data.fold", "--config.data.val_fraction", "--config.seeds")
COLUMNS = {  # of the table: the name in the results of a fold, and the number of digits
    "accuracy": ("accuracy", 4),
    "cross-entropy": ("loss", 4),
    "ECE": ("ece", 4),
    "accuracy without twins": ("accuracy_without_twins", 4),
    "under extra corruptions": ("accuracy_extra_corruptions", 4),
    "of rendered hands": ("accuracy_rendered", 4),
    "of photographs": ("accuracy_photographs", 4),
    "ECE of photographs": ("ece_photographs", 4),
    "seconds": ("seconds", 0),
}


class Variant(NamedTuple):
    """A recipe: its name, and the settings that it changes, as flags of main.py."""

    name: str
    settings: list[str]


def main() -> int:
    """Runs the benchmark from the command line and returns the exit code."""
    options, settings = _parse()
    return exit_code(lambda: _run(options, settings))


def _parse() -> tuple[argparse.Namespace, list[str]]:
    """Returns the options, and the settings that all variants share."""
    parser = command_line.training_parser(__doc__, None)
    command_line.add_jobs(parser)
    parser.add_argument("--folds", type=at_least(2), default=5, help="number of folds")
    parser.add_argument(
        "--rendered", type=at_least(0), default=600, help="number of rendered hands to measure accuracy on"
    )
    command_line.add_photographs(parser)
    parser.add_argument(
        "--variant", action="append", default=[], help="a variant, NAME: SETTINGS; may be repeated"
    )
    parser.add_argument("--variants", type=Path, help="file of variants")
    parser.add_argument("--workdir", default="runs/cross_validation", help="folder of the runs")
    return command_line.parse_with_settings(parser)


def _run(options: argparse.Namespace, settings: Sequence[str]) -> None:
    _check_settings("all variants", settings)
    variants = parse_variants([*_read_lines(options.variants), *options.variant] or ["base:"])
    runs = {variant.name: _fold_runs(variant, options, settings) for variant in variants}
    all_runs = [run for variant_runs in runs.values() for run in variant_runs]
    train_all(all_runs, options.jobs, options.device)
    rows = []
    for variant in variants:
        folds = [read_fold(run) for run in runs[variant.name]]
        rows.append({**variant._asdict(), **mean_and_std(folds), "folds": folds})
    table = format_table(rows)
    print(table)
    report = {
        "benchmark": "cross_validation",
        **stamp(),
        "config": options.config,
        "settings": list(settings),
        "jobs": options.jobs,
        "folds": options.folds,
        "variants": rows,
    }
    path = options.json or Path(options.workdir, "cross_validation.json")
    write_json(path, report)
    write_whole(path.with_suffix(".md"), table + "\n")
    print(f"written: {path} and {path.with_suffix('.md').name}")


def _fold_runs(variant: Variant, options: argparse.Namespace, settings: Sequence[str]) -> list[Run]:
    """Returns the run of `variant` for each fold."""
    measurements = [Measurement("val"), Measurement("val", "extra")]
    if options.rendered:
        measurements.append(Measurement("test", rendered=options.rendered))
    if options.photographs:
        measurements.append(Measurement("train", photographs=options.photographs))
    shared = [f"--config={options.config}", *settings, *variant.settings]
    # A config may hold out images in another way.
    shared += ["--config.data.val_fraction=0.0", f"--config.data.folds={options.folds}"]
    return [
        Run(
            f"{options.workdir}/{variant.name}/fold_{fold}",
            [*shared, f"--config.data.fold={fold}"],
            test="never",
            measurements=tuple(measurements),
        )
        for fold in range(options.folds)
    ]


def _read_lines(file: Path | None) -> list[str]:
    if file is None:
        return []
    try:
        lines = [line.partition("#")[0].strip() for line in file.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--variants={file}: cannot be read ({error}); expected a text file") from None
    return [line for line in lines if line]


def parse_variants(lines: Iterable[str]) -> list[Variant]:
    """Returns the variants that `lines` describe, such as `long: --config.num_epochs=80`.

    Raises:
        UserError: a line describes no variant, sets a field that the benchmark sets, or repeats a name.
    """
    variants: dict[str, Variant] = {}
    for line in lines:
        name, colon, rest = (part.strip() for part in line.partition(":"))
        try:
            settings = shlex.split(rest)
        except ValueError as error:
            raise UserError(f"variant {line!r}: {error}; expected settings as in a shell") from None
        if not colon or not re.fullmatch(r"[\w.+-]+", name):
            raise UserError(
                f"variant {line!r}: expected a name (letters, digits and . + - _), a colon and settings,"
                " such as 'long: --config.num_epochs=80'"
            )
        _check_settings(f"variant {name}", settings)
        if name in variants:
            raise UserError(f"variant {name}: defined twice; expected different names")
        variants[name] = Variant(name, settings)
    return list(variants.values())


def _check_settings(owner: str, settings: Iterable[str]) -> None:
    for setting in settings:
        if not setting.startswith("--config.") or setting.partition("=")[0] in RESERVED:
            raise UserError(
                f"{owner}: found {setting}; expected --config.FIELD=VALUE, of a field that is not one of"
                f" {', '.join(RESERVED)}"
            )


def read_fold(run: Run) -> dict[str, Any]:
    """Reads the results of a finished run on the images that it held out, and its seconds of training."""
    summary, *evaluations = run.read()
    validation, corrupted, *_ = evaluations
    others = list(zip(run.measurements, evaluations, strict=True))
    rendered = next((result for measurement, result in others if measurement.rendered), None)
    photographs = next((result for measurement, result in others if measurement.photographs), None)
    without_twins = validation["without_twins"]
    return {
        "accuracy": validation["accuracy"],
        "loss": validation["loss"],
        "ece": validation["calibration"]["ece"],
        "images": validation["images"],
        "accuracy_without_twins": without_twins.get("accuracy"),
        "images_without_twins": without_twins["images"],
        "accuracy_extra_corruptions": corrupted["mean"],
        "accuracy_rendered": rendered and rendered["accuracy"],
        "accuracy_photographs": photographs and photographs["accuracy"],
        "ece_photographs": photographs and photographs["calibration"]["ece"],
        "seconds": summary["seconds"],
    }


def format_table(rows: Sequence[dict[str, Any]]) -> str:
    """Returns the results of all variants as a Markdown table: mean ± std over folds."""
    cells = [
        [
            row["name"],
            *(
                format_spread(row["mean"][name], row["std"][name], digits) if name in row["mean"] else ""
                for name, digits in COLUMNS.values()
            ),
            f"`{' '.join(row['settings'])}`" if row["settings"] else "",
        ]
        for row in rows
    ]
    return tabulate(cells, ["variant", *COLUMNS, "settings"], tablefmt="github", disable_numparse=True)


if __name__ == "__main__":
    sys.exit(main())
