"""`--mode=train`: trains a network, or goes on where a training stopped, and writes its report."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from configs import rules
from devices import hosts
from modes.flags import Command, Mode, require_config, require_workdir
from resnet.errors import UserError
from resnet.run import seed_workdir


def check(command: Command) -> None:
    """Checks that there are a config and a workdir."""
    require_config(command)
    require_workdir(command)


def run(command: Command) -> int:
    """Trains and prints where the results are. The exit code of a signal is 128 plus its number.

    Raises:
        UserError: another process trains in the workdir, or the hosts of the run differ.
    """
    from workdir.lock import check_shared, locked
    from workdir.settings import without_hosts

    config, workdir = without_hosts(command.settings()), command.run_folder
    _check_hosts(config)
    with locked(workdir) if hosts.is_writer() else nullcontext():
        check_shared(workdir, hosts.broadcast)
        return _train(config, workdir)


# Fields that a host may have for itself: where its data lie, and what it is.
OF_A_HOST = ("data.dir", "data.loader_processes", "init_from", "compilation_cache", "gpu.visible_devices")


def _check_hosts(config: ConfigDict) -> None:
    """Checks that all hosts run the same program with the same settings, and can train these seeds.

    Raises:
        UserError: they do not.
    """
    if hosts.count() == 1:
        return
    if config.seeds and config.seeds_together == "yes":
        raise UserError(
            f"config.seeds_together=yes: {hosts.count()} hosts train seeds one after the other; expected auto"
            " or no"
        )
    settings = {name: value for name, value in rules.flatten(config) if name not in OF_A_HOST}
    hosts.agree("settings", settings)
    hosts.agree("program", hosts.describe_program())


def _train(config: ConfigDict, workdir: Path) -> int:
    if not os.path.exists(workdir / "summary.json"):
        prefetch_training_step(config, workdir)

    from train import train_and_evaluate
    from training.signals import StopRun

    try:
        with fitting_into_memory(config):
            summary = train_and_evaluate(config, workdir)
    except StopRun as stop:
        if hosts.is_writer():
            print(f"stopped and saved; the same command goes on from here: {workdir}")
        return 128 + stop.signum
    if not hosts.is_writer():
        return 0
    print("\n".join(format_summaries(list(summary.get("seeds", {0: summary}).values()))))
    write_report_once(workdir)
    print(f"results: {workdir}")
    return 0


@contextmanager
def fitting_into_memory(config: ConfigDict) -> Iterator[None]:
    """Turns the error that the devices or this machine have no memory left into one that says what to lower.

    Raises:
        UserError: a training of `config` does not fit into the memory.
    """
    import jax

    try:
        yield
    except MemoryError:
        what = "the training does not fit into the memory of this machine"
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        what = "a step does not fit into the memory of the device"
    else:
        return
    raise UserError(
        f"config.batch_size={config.batch_size}: {what}; lower it, data.image_size or steps_per_call, or set"
        " optimizer.accumulate, which lets a smaller batch learn as a larger one"
    )


def prefetch_training_step(config: ConfigDict, workdir: Path) -> None:
    """Starts to load the training step, if an earlier start left it in the cache, while the rest is imported.

    Raises:
        UserError: the batch does not divide evenly over the devices.
    """
    from devices import mesh, program_cache
    from training.early_size import image_sizes, settings_of_step

    if config.seeds:
        from training.seeds import trains_at_once

        if trains_at_once(config):
            return  # Their step is another program, on another mesh.
        workdir = seed_workdir(workdir, config.seeds[0])
    all_devices = mesh.make_mesh(config.batch_size, all_hosts=True)
    size, *later_sizes = image_sizes(config)
    if later_sizes and os.path.isdir(workdir / "checkpoints"):
        return  # Which size the run has come to is known only with the number of its images.
    program_cache.prefetch(settings_of_step(config, size), mesh.replicated(all_devices))


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
    on_hosts=True,
)
