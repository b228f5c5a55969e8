"""Checkpoints of a run.

Orbax saves them in the background. Checksums are written with them, and only checkpoints whose files agree
with their checksums are restored. Where several processes train together, each works alone here: the state is
whole on each, one of them saves it, and a process that dies leaves no other one waiting for it.
"""

import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from resnet.checksums import ORBAX_METADATA, DamageError, check_files, write_checksums
from resnet.errors import UserError
from resnet.fields import check_field
from resnet.json_files import Schema, read_json
from resnet.network import Weights

FOLDER = "checkpoints"
DAMAGED = "damaged"  # the folder in it for checkpoints that were set aside
# The folder in it for those that are no longer kept. They go there in one step: a training that was killed
# while it removes files would leave a checkpoint that looks damaged.
REMOVED = "removed"
METRICS = "metrics/metrics"  # the file of a checkpoint with its validation accuracy
METRICS_SCHEMA: Schema = {
    "type": "object",
    "properties": {"accuracy": {"type": "number"}},
    "required": ["accuracy"],
}

TRIES = 5  # to read a checkpoint that a training does not remove meanwhile

Which = Literal["best", "last"]


class Expected(NamedTuple):
    """What a description of a run says about its weights.

    `shapes` are those of `Network.shapes`. `has_average` says whether there is a moving average. `source` is
    the file of the description.
    """

    shapes: Mapping[str, tuple[int, ...]]
    has_average: bool
    source: Path


class _RemovedError(Exception):
    """A training has removed a checkpoint while it was read."""


def _is_not_from_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname


# Orbax warns about checkpoints without a metric, which are intended here. It logs an error once for each
# array, but also raises it, and that is enough.
logging.getLogger("absl").addFilter(_is_not_from_orbax)


@cache
def _silence_failed_saves() -> None:
    """Keeps quiet what the tasks say that are left when a save fails: Orbax raises the error too.

    This holds for the whole program, so it is done once, and only where something is saved.
    """
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    show = sys.unraisablehook

    def drop_closed_loops(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            show(unraisable)

    sys.unraisablehook = drop_closed_loops


def _alone() -> ocp.options.MultiprocessingOptions:
    """Returns the options by which Orbax waits for no other process."""
    own = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=own, active_processes={own})


def _checkpointer(make_handler: Callable[..., Any]) -> ocp.Checkpointer:
    """Returns what reads checkpoints by a handler of Orbax, in this process alone."""
    options = _alone()
    return ocp.Checkpointer(make_handler(multiprocessing_options=options), multiprocessing_options=options)


class Checkpoints:
    """The checkpoints in a workdir, named by their steps.

    Used as a context manager, it waits at the end until all checkpoints are on disk.
    """

    def __init__(self, workdir: Path, keep: int = 1, read_only: bool = False) -> None:
        """Keeps the newest `keep` checkpoints and the one with the best validation accuracy.

        Raises:
            UserError: `read_only` is set and there are no checkpoints, or something else is in their place.
        """
        self.folder = (workdir / FOLDER).absolute()
        self._keep = keep
        self.seconds = 0.0  # that saves have taken so far, also beside the training
        self._save_started = 0.0
        if read_only and not os.path.lexists(self.folder):
            raise UserError(f"{self.folder}: no checkpoints; train first, or name another --workdir")
        for folder in (self.folder, self.folder / DAMAGED):
            if os.path.lexists(folder) and not os.path.isdir(folder):
                raise UserError(f"{folder}: is no folder, expected that of checkpoints; move it elsewhere")
        if not read_only:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._delete_removed()

    @cached_property
    def _manager(self) -> ocp.CheckpointManager:
        """Saves and removes checkpoints. It reads those that are there, which must be whole for that."""
        _silence_failed_saves()
        add_checksums = ocp.options.AsyncOptions(post_finalization_callback=self._write_checksums)
        return ocp.CheckpointManager(
            self.folder,
            item_names=("state", "progress"),
            options=ocp.CheckpointManagerOptions(
                best_fn=_accuracy,
                preservation_policy=AnyPreservationPolicy(
                    [
                        LatestN(self._keep),
                        BestN(get_metric_fn=_accuracy, n=1, keep_checkpoints_without_metrics=False),
                    ]
                ),
                cleanup_tmp_directories=True,
                create=False,  # It is there, and Orbax would wait for other processes.
                multiprocessing_options=_alone(),
                todelete_subdir=REMOVED,
                async_options=add_checksums,
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        if "_manager" in vars(self):
            self._manager.close()
            self._delete_removed()

    def save(self, step: int, state: Any, progress: dict[str, Any], accuracy: float | None) -> None:
        """Starts to save `state` and `progress` (JSON) of `step`, with the validation accuracy."""
        if step in self._manager.all_steps():
            return
        self.wait()
        self._save_started = time.perf_counter()
        self._manager.save(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(progress)),
            metrics=None if accuracy is None else {"accuracy": accuracy},
        )

    def wait(self) -> None:
        """Waits until all that was saved is on disk."""
        if "_manager" in vars(self):
            self._manager.wait_until_finished()
            self._delete_removed()

    def _delete_removed(self) -> None:
        shutil.rmtree(self.folder / REMOVED, ignore_errors=True)

    def discard(self, step: int) -> None:
        """Moves the checkpoint of `step`, if it exists, to `checkpoints/damaged`."""
        if step in _steps(self.folder):
            self._set_aside([step])

    def restore_newest(self, abstract_state: Any) -> tuple[Any, dict[str, Any]] | None:
        """Returns state and progress of the newest undamaged checkpoint, or None if there are no checkpoints.

        Newer checkpoints that are damaged, and older ones of which Orbax could not read what it must, are
        reported on stderr and moved to `checkpoints/damaged`.

        Raises:
            UserError: there are checkpoints, but all of them are damaged. Or they are of another training.
        """
        damaged: list[int] = []
        newest: int | None = None
        for step in _steps(self.folder):
            if not _is_whole(self.folder / str(step), only_metrics=newest is not None):
                damaged.append(step)
            elif newest is None:
                newest = step
        if newest is not None:
            restored = self.restore(newest, abstract_state)
            self._set_aside(damaged)
            return restored
        if damaged:
            raise UserError(
                f"{self.folder}: every checkpoint is damaged ({', '.join(map(str, damaged))}); restore"
                " the folder from a copy, or train again in another --workdir"
            )
        return None

    def restore(self, step: int, abstract_state: Any) -> tuple[Any, dict[str, Any]]:
        """Returns state and progress of the whole checkpoint of `step`.

        Raises:
            UserError: it is of another training.
        """
        return _read_state(self.folder / str(step), abstract_state)

    def restore_weights(
        self, which: Which, ema: bool, expected: Expected | None = None
    ) -> tuple[Weights, int]:
        """Returns weights, in host memory, and the step of the checkpoint that they come from.

        `best` is the checkpoint with the best validation accuracy, or the last one without validation. With
        `ema`, the weights are the exponential moving average. If the checkpoint is damaged, this is reported
        on stderr and the newest undamaged one is used. A training may save and remove checkpoints meanwhile.

        Raises:
            UserError: there is no such `which`, or no undamaged checkpoint, or its weights are not those that
                are `expected`. Or a training removes checkpoints faster than they can be read.
        """
        check_field("checkpoint", which, "best", choices=get_args(Which))
        for _ in range(TRIES):
            with suppress(_RemovedError):
                return self._restore_listed_weights(which, ema, expected)
        raise UserError(
            f"{self.folder}: a training removed checkpoints while they were read, {TRIES} times; try again"
        )

    def _restore_listed_weights(
        self, which: Which, ema: bool, expected: Expected | None
    ) -> tuple[Weights, int]:
        """Does what `restore_weights` does with the checkpoints that are there now.

        Raises:
            UserError: as `restore_weights`.
            _RemovedError: a checkpoint was removed meanwhile.
        """
        steps = candidates = _steps(self.folder)
        if which == "best":
            ranks = {step: _rank(self.folder / str(step)) for step in steps}
            best = max(filter(None, ranks.values()), default=None)
            candidates = sorted((step for step in steps if ranks[step]), key=lambda step: ranks[step] != best)
        for step in candidates:
            folder = self.folder / str(step)
            if _is_whole(folder):
                with _noticing_removal(folder):
                    return _read_weights(folder, ema, expected), step
        problem = "every checkpoint is damaged" if steps else "no finished checkpoint"
        raise UserError(f"{self.folder}: {problem}; train again, or name another --workdir")

    def _set_aside(self, steps: list[int]) -> None:
        """Moves the checkpoints of `steps` to `checkpoints/damaged`."""
        for step in steps:
            target = self.folder / DAMAGED / str(step)
            target.parent.mkdir(exist_ok=True)
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)
            (self.folder / str(step)).rename(target)
        if steps and "_manager" in vars(self):
            self._manager.reload()

    def _write_checksums(self) -> None:
        """Writes the checksums of the checkpoint that Orbax is about to give its final name."""
        for folder in self.folder.glob("*.orbax-checkpoint-tmp*"):
            write_checksums(folder)
        self.seconds += time.perf_counter() - self._save_started


def newest_step(workdir: Path) -> int | None:
    """Returns the step of the newest checkpoint in `workdir`, or None if there is none."""
    return next(iter(_steps(workdir / FOLDER)), None)


def newest_checkpoint(workdir: Path) -> Path | None:
    """Returns the folder of the newest checkpoint in `workdir`, or None if there is none."""
    step = newest_step(workdir)
    return None if step is None else (workdir / FOLDER / str(step)).absolute()


def _steps(folder: Path) -> list[int]:
    """Returns the steps that have something of their name in the folder of checkpoints, newest first."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return sorted((int(name) for name in names if re.fullmatch(r"0|[1-9][0-9]{0,17}", name)), reverse=True)


def _rank(folder: Path) -> tuple[float, int] | None:
    """Returns validation accuracy and step of a checkpoint; None, which is reported, if it is damaged."""
    if not _is_whole(folder, only_metrics=True):
        return None
    with _noticing_removal(folder):
        has_accuracy = os.path.lexists(folder / METRICS)
        accuracy = read_json(folder / METRICS, METRICS_SCHEMA)["accuracy"] if has_accuracy else -1.0
    return accuracy, int(folder.name)


def remove_unfinished(workdir: Path) -> None:
    """Removes what is left of checkpoints in `workdir` that were not finished, or not wholly removed."""
    for folder in [*(workdir / FOLDER).glob("*.orbax-checkpoint-tmp*"), workdir / FOLDER / REMOVED]:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _noticing_removal(folder: Path) -> Iterator[None]:
    """Raises `_RemovedError` in place of any error whose reason is that `folder`, a checkpoint, has gone."""
    try:
        yield
    except Exception:
        if os.path.lexists(folder):
            raise
        raise _RemovedError from None


def _accuracy(metrics: dict[str, float]) -> float:
    return metrics["accuracy"]


def _is_whole(folder: Path, only_metrics: bool = False) -> bool:
    """Returns whether a checkpoint is as it was saved; if not, reports why on stderr.

    With `only_metrics`, only the files are read from which Orbax chooses the checkpoints to keep.

    Raises:
        _RemovedError: it was removed meanwhile.
    """
    try:
        with _noticing_removal(folder):
            check_files(folder, part="metrics/" if only_metrics else "")
            if os.path.lexists(folder / ORBAX_METADATA):
                read_json(folder / ORBAX_METADATA, {"type": "object"})
            if os.path.lexists(folder / METRICS):
                read_json(folder / METRICS, METRICS_SCHEMA)
            saved = None if only_metrics else _saved_step(folder)
            if saved not in (None, int(folder.name)):
                raise DamageError(f"it holds the state of step {saved}")
    except (DamageError, UserError, FileNotFoundError) as error:
        print(f"checkpoint {folder} is damaged ({error}); it is not used", file=sys.stderr)
        return False
    return True


def _saved_step(folder: Path) -> int | None:
    """Returns the step of the saved state, None for a state without one."""
    with _checkpointer(ocp.PyTreeCheckpointHandler) as checkpointer:
        tree = checkpointer.metadata(folder / "state").item_metadata.tree
        if "step" not in tree:
            return None
        return int(_read_part(checkpointer, folder, {"step": tree["step"]})["step"])


def _read_state(folder: Path, abstract_state: Any) -> tuple[Any, dict[str, Any]]:
    """Returns state and progress of a whole checkpoint."""
    progress = read_json(folder / "progress" / "metadata", {"type": "object"})
    wanted = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(abstract_state)
    }
    with _checkpointer(ocp.StandardCheckpointHandler) as checkpointer:
        found = _saved_shapes(checkpointer.metadata(folder / "state").item_metadata.tree)
        if difference := _difference(found, wanted):
            raise UserError(
                f"{folder}: does not hold the state of a training with these settings: {difference} by them;"
                " use another --workdir, or the same settings"
            )
        args = ocp.args.StandardRestore(abstract_state)
        return checkpointer.restore(folder / "state", args=args), progress


def _read_weights(folder: Path, ema: bool, expected: Expected | None) -> Weights:
    """Reads the weights, or with `ema` their moving average, and nothing else of a whole checkpoint."""
    with _checkpointer(ocp.PyTreeCheckpointHandler) as checkpointer:
        tree = checkpointer.metadata(folder / "state").item_metadata.tree
        if expected is not None:
            _check_expected(tree, expected, folder)
        tree = tree["ema"] if ema else tree
        item = {"params": tree["params"], "batch_stats": tree["batch_stats"]}
        item = {"ema": item} if ema else item
        restored = _read_part(checkpointer, folder, item)
    return Weights(**(restored["ema"] if ema else restored))


def _check_expected(tree: Mapping[str, Any], expected: Expected, folder: Path) -> None:
    """Checks that the saved `tree` has the arrays that a description of the run gives it."""
    shapes = _saved_shapes([tree["params"], tree["batch_stats"]])
    found = {name.partition(".")[2]: shape for name, shape in shapes.items()}
    difference = _difference(found, expected.shapes)
    if bool(tree.get("ema")) != expected.has_average:
        difference = f"ema_decay says that there is {'a' if expected.has_average else 'no'} moving average"
    if difference:
        raise UserError(
            f"{expected.source}: describes other weights than {folder} holds: {difference} by its fields and"
            " class names; restore what the run wrote"
        )


def _saved_shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every array in the `tree` of a saved state by its dotted name."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, list | tuple):
        return {name: shape for branch in tree for name, shape in _saved_shapes(branch).items()}
    return {tree.name: tuple(tree.shape)} if hasattr(tree, "shape") else {}


def _difference(found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> str:
    """Says where the shapes of two sets of named arrays differ first, "" if they do not."""
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            there, here = (list(of[name]) if name in of else "missing" for of in (found, wanted))
            return f"{name} is {there} there, but {here}"
    return ""


def _read_part(checkpointer: ocp.Checkpointer, folder: Path, item: Any) -> Any:
    """Returns the arrays of `item`, a part of the tree that was saved, in host memory."""
    as_numpy = _map_leaves(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
    return checkpointer.restore(
        folder / "state",
        args=ocp.args.PyTreeRestore(item=item, restore_args=as_numpy, partial_restore=True),
    )


def _map_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """Applies `function` to the leaves of nested dictionaries. JAX would regard Orbax' leaves as trees."""
    if isinstance(tree, dict):
        return {name: _map_leaves(function, branch) for name, branch in tree.items()}
    return function(tree)
