"""`--mode=train`: trains a network, or goes on where a training stopped, and writes its report."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from modes.flags import Command, Mode, require_config, require_workdir
from resnet.errors import UserError


def check(command: Command) -> None:
    """Checks that there are a config and a workdir."""
    require_config(command)
    require_workdir(command)


def run(command: Command) -> int:
    """Trains and prints where the results are. The exit code of a signal is 128 plus its number.

    Raises:
        UserError: another process trains in the workdir.
    """
    from workdir.lock import locked

    config, workdir = command.settings(), command.run_folder
    with locked(workdir):
        return _train(config, workdir)


def _train(config: ConfigDict, workdir: Path) -> int:
    if not os.path.exists(workdir / "summary.json"):
        prefetch_training_step(config)

    from train import train_and_evaluate
    from training.signals import StopRun

    try:
        summary = train_and_evaluate(config, workdir)
    except StopRun as stop:
        print(f"stopped and saved; the same command goes on from here: {workdir}")
        return 128 + stop.signum
    print("\n".join(format_summaries(list(summary.get("seeds", {0: summary}).values()))))
    write_report_once(workdir)
    print(f"results: {workdir}")
    return 0


def prefetch_training_step(config: ConfigDict) -> None:
    """Starts to load the training step, if an earlier start left it in the cache, while the rest is imported.

    Raises:
        UserError: the batch does not divide evenly over the devices.
    """
    from devices import mesh, program_cache

    if config.seeds:
        from training.seeds import trains_at_once

        if trains_at_once(config.seeds_together):
            return  # Their step is another program, on another mesh.
    program_cache.prefetch(config.to_dict(), mesh.replicated(mesh.make_mesh(config.batch_size)))


def format_summaries(summaries: Sequence[dict[str, Any]]) -> list[str]:
    """Returns a line with accuracy and loss for each kind of weights: mean ± std over seeds.

    They are of the test images or, where there are none, of the validation images, or else of training.
    """
    from workdir.statistics import format_spread, mean_and_std

    names = {"test": "test", "val": "validation", "train": "training"}
    split = next(split for split in names if split in summaries[0])
    scores = {
        "raw weights": [summary[split] for summary in summaries],
        "moving average": [summary["ema"][split] for summary in summaries if "ema" in summary],
    }
    lines = []
    for kind, by_seed in scores.items():
        if by_seed:
            spread = mean_and_std(by_seed)
            accuracy, loss = (
                format_spread(spread["mean"][name], spread["std"][name]) for name in ("accuracy", "loss")
            )
            lines.append(f"{names[split]} accuracy {accuracy} loss {loss} ({kind})")
    return lines


def write_report_once(workdir: Path) -> None:
    """Writes the report of a finished run if there is none yet. Without it, the run is whole all the same.

    Raises:
        UserError: the report cannot be written.
    """
    from evaluation.report import page  # It brings matplotlib, which would make every start slower.

    written = workdir / page.FOLDER / page.PAGE
    again = f"try again with: python main.py --mode=report --workdir={workdir}"
    try:
        if not written.exists() or written.stat().st_mtime < (workdir / "summary.json").stat().st_mtime:
            print("writing the report", flush=True)
            page.write_report(workdir)
    except UserError as error:
        raise UserError(f"the run is finished and saved, but not its report ({error}); {again}") from None
    except Exception as error:
        print(
            "warning: the run is finished and saved, but not its report"
            f" ({type(error).__name__}: {error}); {again}",
            file=sys.stderr,
        )


MODE = Mode(
    help="Train a network; the same command goes on where it stopped.",
    usage=(
        "--config=configs/signs.py --workdir=runs/signs",
        "--config=configs/signs.py --config.seeds=0,1,2 --workdir=runs/three",
    ),
    flags=(),
    check=check,
    run=run,
    trains=True,
)
