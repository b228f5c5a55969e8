"""Fine-tuning or training from scratch with few images a class: `python -m benchmarks.few_images --help`.

Takes a data set of many classes in folders, such as CIFAR-10, and trains a network on the first half of its
classes. Then, for each number of images a class and each seed, two runs learn the other half. One starts from
that network (all of its parts, the head anew), the other from scratch. Both make the same number of steps by
configs/cifar10_short.py, each at a learning rate that suits it. The seed draws the images, their order, their
augmentation and the new weights. Every run is measured once, on all test images of the other half.

Runs and tables lie in --workdir: the same command resumes where it was killed and repeats nothing.
"""

import argparse
import csv
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tabulate import tabulate

from benchmarks import command_line
from benchmarks.command_line import at_least, exit_code, list_of
from benchmarks.machine import stamp
from benchmarks.runs import Run, train_all
from benchmarks.suite import RESULTS
from datasets.listing import ImageFile, Listing, list_images
from resnet.errors import UserError
from resnet.files import write_json, write_result
from workdir.statistics import format_spread, mean_and_std

STARTS = {"scratch": "from scratch", "pretrained": "from other classes"}
EPOCHS = {25: 80, 100: 40, 1000: 12}  # by the number of images a class
RATES = {"scratch": 4e-3, "pretrained": 1e-3}  # peaks of the learning rate
BATCH = 32  # images; with larger batches, 25 images a class would give too few steps


class Cell(NamedTuple):
    """A run of the other half: where it starts, how many images a class it has, and its seed."""

    start: str
    images: int
    seed: int

    @property
    def name(self) -> str:
        """The name of its folder in the workdir."""
        return f"{self.start}_{self.images}_seed_{self.seed}"


def main() -> int:
    """Runs the benchmark from the command line and returns the exit code."""
    options = _parse()
    return exit_code(lambda: _run(options))


def _parse() -> argparse.Namespace:
    parser = command_line.parser(__doc__)
    parser.set_defaults(json=RESULTS / "few_images.json")
    parser.add_argument("--dir", required=True, help="folder with train/CLASS and test/CLASS")
    parser.add_argument("--workdir", type=Path, default=Path("runs/few_images"), help="folder of the runs")
    parser.add_argument("--images", type=list_of(at_least(1)), default=[*EPOCHS], help="images a class")
    parser.add_argument("--seeds", type=at_least(1), default=3, help="number of seeds: 0, 1, ...")
    parser.add_argument("--epochs", type=at_least(1), default=12, help="epochs on the first half")
    return parser.parse_args()


def _run(options: argparse.Namespace) -> None:
    folder = Path(options.dir).absolute()
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected one with train/CLASS and test/CLASS, unpacked")
    listing = list_images(str(folder))
    half = len(listing.class_names) // 2
    check_test_images(folder, listing, half)
    table = options.workdir / "pretraining.csv"
    write_table(table, folder, listing, [file for file in listing.files if file.label < half])
    pretraining = Run(
        str(options.workdir / "pretrained"),
        [*_arguments(table), f"--config.num_epochs={options.epochs}"],
    )
    train_all([pretraining], device=options.device)
    report: dict[str, Any] = {
        "benchmark": "few_images",
        **stamp(),
        "pretraining": _scores(pretraining),
        "runs": [],
    }
    for cell in list_cells(options):
        table = options.workdir / f"{cell.images}_seed_{cell.seed}.csv"
        write_table(table, folder, listing, draw_files(listing, half, cell.images, cell.seed))
        run = Run(str(options.workdir / cell.name), _cell_arguments(cell, table, pretraining.workdir))
        train_all([run], device=options.device)
        report["runs"].append(cell._asdict() | _scores(run))
        write_json(options.json, report)
    print(format_report(report))
    print(f"\nwritten: {options.json}")


def check_test_images(folder: Path, listing: Listing, half: int) -> None:
    """Checks that `folder` has test images of both halves of the classes, the second from label `half` on.

    Raises:
        UserError: there are none of one half.
    """
    if {file.label < half for file in listing.files if file.split == "test"} != {True, False}:
        raise UserError(
            f"--dir={folder}: has no test images for one half of its classes; expected some for both, in"
            " test/CLASS"
        )


def list_cells(options: argparse.Namespace) -> Iterator[Cell]:
    """Yields every run on the other half of the classes, in ascending order of images a class."""
    for images in options.images:
        for seed in range(options.seeds):
            for start in STARTS:
                yield Cell(start, images, seed)


def draw_files(listing: Listing, first: int, images: int, seed: int) -> list[ImageFile]:
    """Returns `images` training files, drawn by `seed`, and all test files of every label from `first` on.

    Raises:
        UserError: a class has fewer.
    """
    rng, drawn = np.random.default_rng(seed), []
    for label in range(first, len(listing.class_names)):
        files = [file for file in listing.files if (file.split, file.label) == ("train", label)]
        if len(files) < images:
            raise UserError(
                f"--images={images}: class {listing.class_names[label]} has {len(files)} training images;"
                " expected at most that"
            )
        drawn += [files[i] for i in sorted(rng.choice(len(files), images, replace=False))]
    return drawn + [file for file in listing.files if file.split == "test" and file.label >= first]


def write_table(path: Path, folder: Path, listing: Listing, files: Sequence[ImageFile]) -> None:
    """Writes a table of `files` in `folder`, with the columns path, label and split."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "label", "split"])
    writer.writerows([folder / file.name, listing.class_names[file.label], file.split] for file in files)
    write_result(path, text.getvalue())


def _arguments(table: Path) -> list[str]:
    return ["--config=configs/cifar10_short.py", f"--config.data.dir={table}"]


def _cell_arguments(cell: Cell, table: Path, pretrained: str) -> list[str]:
    epochs = EPOCHS.get(cell.images, max(1, 12_000 // cell.images))
    arguments = [
        *_arguments(table),
        f"--config.seed={cell.seed}",
        f"--config.num_epochs={epochs}",
        f"--config.batch_size={BATCH}",
        f"--config.optimizer.learning_rate={RATES[cell.start]}",
    ]
    if cell.start == "pretrained":
        arguments += [f"--config.init_from={pretrained}", "--config.init_head=replace"]
    return arguments


def _scores(run: Run) -> dict[str, Any]:
    summary = run.read()[0]
    weights = summary.get("ema", summary)
    return {"accuracy": weights["test"]["accuracy"], "seconds": summary["seconds"]}


def format_report(report: dict[str, Any]) -> str:
    """Returns the table: accuracy and seconds of both starts by the number of images, mean ± std."""
    rows = []
    for images in dict.fromkeys(run["images"] for run in report["runs"]):
        row = [str(images)]
        for start in STARTS:
            runs = [run for run in report["runs"] if (run["start"], run["images"]) == (start, images)]
            for name, digits in (("accuracy", 4), ("seconds", 0)):
                spread = mean_and_std([run[name] for run in runs])
                row.append(format_spread(spread["mean"], spread["std"], digits))
        rows.append(row)
    headers = ["images a class", *(f"{t}: {n}" for t in STARTS.values() for n in ("accuracy", "seconds"))]
    return tabulate(rows, headers, disable_numparse=True, colalign=["right"] * 5)


if __name__ == "__main__":
    sys.exit(main())
