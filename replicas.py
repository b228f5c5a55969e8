"""Several seeds in one run: which are trained as one, their states stacked, each one's files and summary."""

import platform
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

import settings
from datasets.types import Split
from errors import UserError
from evaluate import Predictor, evaluate
from files import read_json
from input_pipeline import by_replica, has_replicas, replicated
from metrics import MetricsWriter
from resnet.checkpoint import Checkpoints, newest_step
from resnet.network import Weights
from signals import Signals, StopRun
from spread import by_seed

SUMMARY_FILE = "summary.json"
SHARED = ("parameters", "device", "versions", "epochs", "steps", "prediction")  # the same for every seed

PyTree = TypeVar("PyTree")


class Progress(NamedTuple):
    """What a run has spent so far; saved in its checkpoints. Seeds trained as one share seconds evenly."""

    seconds: float = 0.0  # since the first start, without the time between a kill and the next start
    images: int = 0  # trained on
    step_seconds: float = 0.0  # of `seconds`, those in training steps
    best_accuracy: float = -1.0  # by validation


class Replica:
    """One seed's run in `workdir`, alone or among others: its checkpoints, metrics and progress."""

    def __init__(self, workdir: Path, keep: int) -> None:
        """Opens its checkpoints, of which it keeps the newest `keep` and the best by validation."""
        self.workdir = workdir
        self.progress = Progress()
        self._seconds_before = 0.0
        self._open = ExitStack()
        self.checkpoints = self._open.enter_context(Checkpoints(workdir, keep))

    def __enter__(self) -> "Replica":
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def restore(self, initial: PyTree, mesh: Mesh) -> PyTree:
        """The state to go on from, on all devices of `mesh`; `initial` where nothing was saved yet."""
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated(mesh)), initial
        )
        restored = self.checkpoints.restore_newest(abstract)
        if restored is None:
            return initial
        state, progress = restored
        print(f"resuming from {self.checkpoints.newest()}", flush=True)
        self.progress = Progress(**progress)
        self._seconds_before = self.progress.seconds
        return state

    def save(self, step: int, state: Any, val_accuracy: float | None) -> None:
        """Starts to save `state` and the progress as `step`."""
        self.checkpoints.save(step, state, self.progress._asdict(), val_accuracy)

    def open_metrics(self, step: int) -> None:
        """Opens `metrics.jsonl`, to go on after `step`."""
        self.metrics = self._open.enter_context(MetricsWriter(self.workdir, step))

    def count_seconds(self, seconds: float) -> None:
        """Counts `seconds` since this start."""
        self.progress = self.progress._replace(seconds=self._seconds_before + seconds)

    def note_steps(
        self, step: int, epoch: float, images: int, seconds: float, measured: dict[str, float]
    ) -> None:
        """Counts and writes a call of steps that ended with `step`."""
        self.progress = self.progress._replace(
            images=self.progress.images + images, step_seconds=self.progress.step_seconds + seconds
        )
        self.metrics.write(step, epoch, "train", {**measured, "images_per_second": images / seconds})

    def note_validation(self, step: int, epoch: float, measured: dict[str, float]) -> bool:
        """Writes what validation measured; returns whether it is the best so far."""
        self.metrics.write(step, epoch, "val", measured)
        is_best = measured["accuracy"] > self.progress.best_accuracy
        if is_best:
            self.progress = self.progress._replace(best_accuracy=measured["accuracy"])
        return is_best

    def speed(self) -> dict[str, float]:
        """What the summary says of time."""
        return {
            "seconds": round(self.progress.seconds, 1),
            "images_per_second": round(self.progress.images / self.progress.step_seconds, 2),
        }


def group_seeds(config: ConfigDict, workdir: Path) -> list[list[int]]:
    """`config.seeds` in the groups that are trained as one, one group after the other.

    On CPU every seed is a group of its own, unless `config.seeds_together` says otherwise: one after the
    other is faster there, see `benchmarks/replicas.py`. Elsewhere those that stand at the same step are one.
    """
    if not trains_together(config.seeds_together):
        return [[seed] for seed in config.seeds]
    groups: dict[int | None, list[int]] = {}
    for seed in config.seeds:
        groups.setdefault(newest_step(settings.seed_workdir(workdir, seed)), []).append(seed)
    return list(groups.values())


def trains_together(choice: str) -> bool:
    """Whether seeds are trained as one: what `config.seeds_together` comes to on the default device."""
    return choice == "yes" or (choice == "auto" and jax.default_backend() != "cpu")


def stack_states(states: Sequence[PyTree], mesh: Mesh) -> PyTree:
    """`states` on the devices as one, with a leading axis of replicas; a single one as it is."""
    if not has_replicas(mesh):
        return jax.device_put(states[0], replicated(mesh))
    stacked = jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *states)
    return jax.device_put(stacked, by_replica(mesh))


def take(stacked: PyTree, index: int, mesh: Mesh) -> PyTree:
    """State `index` of those that `stack_states` stacked, or a part of it."""
    if not has_replicas(mesh):
        return stacked
    return jax.device_put(jax.tree.map(lambda leaf: leaf[index], stacked), replicated(mesh))


def check_finite(history: Mapping[str, np.ndarray], step: int, replicas: Sequence[Replica]) -> None:
    """Checks what each of `replicas` measured in the steps after `step`, arrays [replicas, steps] by name.

    Raises:
        UserError: a loss or a gradient was not finite; checkpoints from then on are thrown away.
    """
    finite = np.isfinite(history["loss"]) & np.isfinite(history["gradient_norm"])
    if not finite.all():
        first = int(finite.all(0).argmin())
        worst = int(finite[:, first].argmin())
        for replica in replicas:
            replica.checkpoints.wait()
            # Weights that give no finite loss are no good, though every one of them may be finite.
            replica.checkpoints.discard(step + first)
        kept = replicas[worst].checkpoints.newest()
        raise UserError(
            f"step {step + first + 1}: loss {history['loss'][worst, first]}, gradient norm"
            f" {history['gradient_norm'][worst, first]}, expected finite numbers; stopped,"
            f" {f'the last good checkpoint is {kept}' if kept else 'no checkpoint was saved yet'};"
            " run again with a lower --config.optimizer.learning_rate"
        )


def read_summary(workdir: Path) -> dict[str, Any]:
    """What an earlier start wrote at its end, empty if none came to that."""
    return read_json(workdir / SUMMARY_FILE)


def summarize(
    weights: dict[str, Weights],
    splits: dict[str, Split],
    predict: Predictor,
    mesh: Mesh,
    signals: Signals,
) -> dict[str, Any]:
    """Accuracy and loss of `weights`, `raw` and perhaps `ema`, on `splits`; parameters, device, versions.

    Raises:
        StopRun: a signal came.
    """
    measured: dict[str, dict[str, Any]] = {kind: {} for kind in weights}
    for kind, results in measured.items():
        for name, split in splits.items():
            if signals.received:
                raise StopRun(signals.received)
            results[name] = evaluate(predict, weights[kind], split)
    device = mesh.devices.flat[0]
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    return {
        **measured.pop("raw"),
        **measured,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(weights["raw"].params)),
        "device": f"{mesh.devices.size} x {device.device_kind} ({device.platform})",
        "versions": {"python": platform.python_version()} | {p: version(p) for p in packages},
    }


def summarize_seeds(seeds: Sequence[int], summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The summary of a run of several seeds: `mean`, `std`, and under `seeds` that of each."""
    return {**by_seed(seeds, summaries), **{name: summaries[0][name] for name in SHARED}}
