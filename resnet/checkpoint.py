"""Checkpoints of a run.

Orbax saves them in the background. Checksums are written with them, and only checkpoints whose files agree
with their checksums are restored.
"""

import hashlib
import logging
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from resnet.errors import UserError
from resnet.network import Weights

FOLDER = "checkpoints"
# In the format of the sha256sum command. Orbax itself would not notice a flipped bit.
CHECKSUMS = "SHA256SUMS"

Which = Literal["best", "last"]


def _is_not_from_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname


# Orbax warns about what is intended here: managers that only read, and checkpoints without a metric. It
# raises its errors as well, while its log and that of its tasks have one for each array.
logging.getLogger("absl").addFilter(_is_not_from_orbax)
logging.getLogger("asyncio").setLevel(logging.CRITICAL)


def _drop_closed_loops(unraisable: Any, show: Callable[[Any], object] = sys.unraisablehook) -> None:
    if str(unraisable.exc_value) != "Event loop is closed":
        show(unraisable)


# So do the tasks that are left when a save fails.
sys.unraisablehook = _drop_closed_loops


class Checkpoints:
    """The checkpoints in a workdir, named by their steps.

    Used as a context manager, it waits at the end until all checkpoints are on disk.
    """

    def __init__(self, workdir: Path, keep: int = 1, read_only: bool = False) -> None:
        """Keeps the newest `keep` checkpoints and the one with the best validation accuracy.

        Raises:
            UserError: `read_only` is set and `workdir` has no checkpoints.
        """
        self.folder = (workdir / FOLDER).absolute()
        if read_only and not os.path.isdir(self.folder):
            raise UserError(f"{self.folder}: no checkpoints; train first, or name another --workdir")
        add_checksums = ocp.options.AsyncOptions(post_finalization_callback=self._write_checksums)
        self._manager = ocp.CheckpointManager(
            self.folder,
            item_names=("state", "progress"),
            options=ocp.CheckpointManagerOptions(
                best_fn=_accuracy,
                preservation_policy=AnyPreservationPolicy(
                    [
                        LatestN(keep),
                        BestN(get_metric_fn=_accuracy, n=1, keep_checkpoints_without_metrics=False),
                    ]
                ),
                cleanup_tmp_directories=not read_only,
                read_only=read_only,
                async_options=add_checksums,
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        self._manager.close()

    def save(self, step: int, state: Any, progress: dict[str, Any], accuracy: float | None) -> None:
        """Starts to save `state` and `progress` (JSON) of `step`, with the validation accuracy."""
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave(progress)),
            metrics=None if accuracy is None else {"accuracy": accuracy},
        )

    def wait(self) -> None:
        """Waits until all that was saved is on disk."""
        self._manager.wait_until_finished()

    def newest(self) -> Path | None:
        """Returns the folder of the newest checkpoint, or None if there is none."""
        step = self._manager.latest_step()
        return None if step is None else self.folder / str(step)

    def discard(self, step: int) -> None:
        """Moves the checkpoint of `step`, if it exists, to `checkpoints/damaged`."""
        if step in self._manager.all_steps():
            self._set_aside([step])

    def restore_newest(self, abstract_state: Any) -> tuple[Any, dict[str, Any]] | None:
        """Returns state and progress of the newest undamaged checkpoint, or None if there are no checkpoints.

        Newer checkpoints that are damaged are reported on stderr and moved to `checkpoints/damaged`.

        Raises:
            UserError: there are checkpoints, but all of them are damaged.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract_state), progress=ocp.args.JsonRestore()
        )
        damaged = []
        try:
            for step in steps:
                if _is_whole(self.folder / str(step)):
                    restored = self._manager.restore(step, args=args)
                    return restored.state, restored.progress
                damaged.append(step)
        finally:
            if len(damaged) < len(steps):
                self._set_aside(damaged)
        if damaged:
            raise UserError(
                f"{self.folder}: every checkpoint is damaged ({', '.join(map(str, damaged))}); restore"
                " the folder from a copy, or train again in another --workdir"
            )
        return None

    def restore_weights(self, which: Which, ema: bool) -> tuple[Weights, int]:
        """Returns weights, in host memory, and the step of the checkpoint that they come from.

        `best` is the checkpoint with the best validation accuracy, or the last one without validation. With
        `ema`, the weights are the exponential moving average. If the checkpoint is damaged, this is reported
        on stderr and the newest undamaged one is used.

        Raises:
            UserError: there is no undamaged checkpoint.
        """
        newest_first = sorted(self._manager.all_steps(), reverse=True)
        best = self._manager.best_step() if which == "best" else None
        for step in dict.fromkeys([*([] if best is None else [best]), *newest_first]):
            if _is_whole(self.folder / str(step)):
                return _read_weights(self.folder / str(step) / "state", ema), step
        problem = "every checkpoint is damaged" if newest_first else "no finished checkpoint"
        raise UserError(f"{self.folder}: {problem}; train again, or name another --workdir")

    def _set_aside(self, steps: list[int]) -> None:
        """Moves the checkpoints of `steps` to `checkpoints/damaged`."""
        for step in steps:
            target = self.folder / "damaged" / str(step)
            target.parent.mkdir(exist_ok=True)
            shutil.rmtree(target, ignore_errors=True)
            (self.folder / str(step)).rename(target)
        if steps:
            self._manager.reload()

    def _write_checksums(self) -> None:
        """Writes the checksums of the checkpoint that Orbax is about to give its final name."""
        for folder in self.folder.glob("*.orbax-checkpoint-tmp*"):
            # Only the folders of the items count: Orbax writes files of its own beside them later.
            files = sorted(file for file in folder.glob("*/**/*") if file.is_file())
            sums = "".join(f"{_sha256(file)}  {file.relative_to(folder)}\n" for file in files)
            (folder / CHECKSUMS).write_text(sums)


def newest_step(workdir: Path) -> int | None:
    """Returns the step of the newest checkpoint in `workdir`, or None if there is none."""
    steps = [int(folder.name) for folder in (workdir / FOLDER).glob("*") if folder.name.isdecimal()]
    return max(steps, default=None)


def remove_unfinished(workdir: Path) -> None:
    """Removes what is left of checkpoints in `workdir` that could not be finished."""
    for folder in (workdir / FOLDER).glob("*.orbax-checkpoint-tmp*"):
        shutil.rmtree(folder, ignore_errors=True)


def _accuracy(metrics: dict[str, float]) -> float:
    return metrics["accuracy"]


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _is_whole(folder: Path) -> bool:
    """Returns whether the files of a checkpoint match their checksums; if not, reports why on stderr."""
    try:
        for line in (folder / CHECKSUMS).read_text().splitlines():
            digest, name = line.split("  ", 1)
            if _sha256(folder / name) != digest:
                raise ValueError(f"{name} has changed since it was saved")
    except FileNotFoundError as error:
        reason = f"{Path(error.filename).relative_to(folder)} is missing"
    except (OSError, ValueError) as error:
        reason = str(error)
    else:
        return True
    print(f"checkpoint {folder} is damaged ({reason}); trying an older one", file=sys.stderr)
    return False


def _read_weights(state: Path, ema: bool) -> Weights:
    """Reads the weights, or with `ema` their moving average, and nothing else of a saved state."""
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        tree = checkpointer.metadata(state).item_metadata.tree
        tree = tree["ema"] if ema else tree
        item = {"params": tree["params"], "batch_stats": tree["batch_stats"]}
        item = {"ema": item} if ema else item
        as_numpy = _map_leaves(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
        restored = checkpointer.restore(
            state,
            args=ocp.args.PyTreeRestore(item=item, restore_args=as_numpy, partial_restore=True),
        )
    return Weights(**(restored["ema"] if ema else restored))


def _map_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """Applies `function` to the leaves of nested dictionaries. JAX would regard Orbax' leaves as trees."""
    if isinstance(tree, dict):
        return {name: _map_leaves(function, branch) for name, branch in tree.items()}
    return function(tree)
