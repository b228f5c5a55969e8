"""What a training writes while it runs: settings, metrics, checkpoints, its best validation, and its summary.

A `Recorder` writes for one seed, or for several seeds that are trained at once in workdirs of their own.
Where several hosts train together, all of them have one, but only the writer's writes.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np
from ml_collections import ConfigDict

from resnet.checkpoint import DAMAGED, FOLDER, Checkpoints, newest_checkpoint, newest_step, remove_unfinished
from resnet.errors import UserError
from resnet.files import disk_error, write_whole
from resnet.json_files import Schema, check_json
from resnet.run import CONFIG_FILE, seed_workdir
from workdir import settings
from workdir.images_file import IMAGES_FILE
from workdir.metrics import BOARD_FOLDER, METRICS_FILE, MetricsWriter
from workdir.settings import Sources
from workdir.summary import SUMMARY_FILE, read_summary, score_not_finite

Metrics = dict[str, float]
History = Mapping[str, np.ndarray]  # name to an array [seeds, steps]


class Host(NamedTuple):
    """Whether this host `writes`, and how the hosts `share` what the writer knows (JSON).

    `share` takes the writer's value, which others need not have, and returns it on every host. All hosts call
    it in the same order.
    """

    writes: bool
    share: Callable[[Any], Any]


ALONE = Host(writes=True, share=lambda value: value)


class Schedule(NamedTuple):
    """How long a training is, and when it saves; `checkpoint` is that part of a config."""

    total_steps: int
    steps_per_epoch: int
    batch_size: int
    checkpoint: ConfigDict


class CallTimes(NamedTuple):
    """The seconds that a call of steps took, and those of them that it waited for streamed images, if any."""

    seconds: float
    waiting: float | None = None


class Progress(NamedTuple):
    """What a run has spent so far, as its checkpoints keep it. Seeds trained at once share the seconds."""

    seconds: float = 0.0  # since the first start, without the time between a kill and the next start
    images: int = 0  # trained on
    step_seconds: float = 0.0  # the part of `seconds` that was spent in training steps
    best_accuracy: float = -1.0  # on the validation split


# A newer version may keep more, which going on here would lose.
PROGRESS_SCHEMA: Schema = {
    "type": "object",
    "properties": {name: {"type": "number"} for name in Progress._fields},
    "additionalProperties": False,
}


class SeedRecord:
    """The files of one seed in its `workdir`: checkpoints and metrics, with its progress."""

    def __init__(self, workdir: Path, keep: int) -> None:
        """Opens the checkpoints, of which the newest `keep` and the best by validation are kept."""
        self.workdir = workdir
        self.progress = Progress()
        self.seconds_before = 0.0
        self._open = ExitStack()
        with self.writing():
            self.checkpoints = self._open.enter_context(Checkpoints(workdir, keep))

    def open_metrics(self, step: int) -> None:
        """Opens `metrics.jsonl`, to go on after `step`."""
        with self.writing():
            self.metrics = self._open.enter_context(MetricsWriter(self.workdir, step))

    def write_metrics(self, step: int, epoch: float, split: str, metrics: Metrics) -> None:
        """Appends `metrics` on `split` after `step` to `metrics.jsonl`."""
        with self.writing():
            self.metrics.write(step, epoch, split, metrics)

    def save(self, step: int, state: Any, accuracy: float | None) -> None:
        """Starts to save `state` and the progress after `step`, once what was saved before is on disk."""
        with self.writing():
            self.checkpoints.save(step, state, self.progress._asdict(), accuracy)

    def close(self) -> None:
        """Closes all files, once what is being saved is on disk."""
        with self.writing():
            self._open.close()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turns an error of the disk, such as that it is full, into one that says what is safe.

        Raises:
            UserError: the disk cannot be written.
        """
        try:
            yield
        except Exception as error:
            reason = disk_error(error)
            if reason is None:
                raise
            remove_unfinished(self.workdir)
            step = newest_step(self.workdir)
            safe = "no checkpoint was saved yet" if step is None else f"the checkpoint of step {step} is safe"
            raise UserError(
                f"{self.workdir}: cannot be written ({reason}); {safe}; make room or mend the disk, and the"
                " same command goes on from there"
            ) from None

    def restore(self, initial: Any, sharding: jax.sharding.Sharding) -> Any:
        """Returns the newest state, placed as `sharding` says, or `initial` where nothing was saved yet."""
        with self.writing():
            restored = self.checkpoints.restore_newest(_abstract(initial, sharding))
        if restored is None:
            return initial
        state, progress = restored
        newest = newest_checkpoint(self.workdir)
        print(f"resuming from {newest}", flush=True)
        check_json(progress, PROGRESS_SCHEMA, f"{newest}: progress")
        self._go_on_from(progress)
        return state

    def _go_on_from(self, progress: dict[str, Any]) -> None:
        self.progress = Progress(**progress)
        self.seconds_before = self.progress.seconds

    def speed(self) -> Metrics:
        """Returns what the summary says about time."""
        return {
            "seconds": round(self.progress.seconds, 1),
            "images_per_second": round(self.progress.images / self.progress.step_seconds, 2),
        }

    @property
    def save_seconds(self) -> float:
        """The seconds that saves have taken so far, also beside the training."""
        return self.checkpoints.seconds

    def wait(self) -> None:
        """Waits until all that was saved is on disk."""
        with self.writing():
            self.checkpoints.wait()

    def discard(self, step: int) -> None:
        """Puts the checkpoint of `step`, if it exists, aside."""
        self.checkpoints.discard(step)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Writes the summary of the run."""
        with self.writing():
            write_whole(self.workdir / SUMMARY_FILE, json.dumps(summary, indent=2) + "\n")


class SilentRecord(SeedRecord):
    """The record of a host that reads checkpoints and writes nothing."""

    save_seconds = 0.0

    def __init__(self, workdir: Path) -> None:
        self.workdir = workdir
        self.progress = Progress()
        self.seconds_before = 0.0

    def restore_step(self, step: int, initial: Any, sharding: jax.sharding.Sharding) -> Any:
        """Returns the state of `step`, which the writer has restored, placed as `sharding` says.

        Raises:
            UserError: this host cannot read it.
        """
        try:
            checkpoints = Checkpoints(self.workdir, read_only=True)
            state, progress = checkpoints.restore(step, _abstract(initial, sharding))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self.workdir}: this host cannot read the checkpoint of step {step} ({error}); expected the"
                " folder that all hosts share"
            ) from None
        self._go_on_from(progress)
        return state

    def open_metrics(self, step: int) -> None:
        """Does nothing."""

    def write_metrics(self, step: int, epoch: float, split: str, metrics: Metrics) -> None:
        """Does nothing."""

    def save(self, step: int, state: Any, accuracy: float | None) -> None:
        """Does nothing."""

    def wait(self) -> None:
        """Does nothing."""

    def discard(self, step: int) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Does nothing."""


def _abstract(state: Any, sharding: jax.sharding.Sharding) -> Any:
    """Returns the shapes and dtypes of `state`, with the `sharding` that its arrays are to have."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), state)


class Recorder:
    """Records the training of one seed or several, each in its workdir; a context manager."""

    def __init__(
        self, workdirs: Sequence[Path], schedule: Schedule, host: Host = ALONE, *, of_seeds: bool = False
    ) -> None:
        """Opens the checkpoints in `workdirs` and starts the clock. `host` may be one that does not write.

        `of_seeds` says that they belong to a run of several seeds, which all have the same settings.
        """
        self._schedule = schedule
        self._host = host
        self._of_seeds = of_seeds
        self._records: list[SeedRecord] = []
        self._val_accuracies: Sequence[float | None] = [None] * len(workdirs)
        self._is_new_best = False
        self._started = self._last_save = time.perf_counter()
        try:
            for workdir in workdirs:
                keep = schedule.checkpoint.keep
                self._records.append(SeedRecord(workdir, keep) if host.writes else SilentRecord(workdir))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes all files, once what is being saved is on disk."""
        with ExitStack() as stack:
            for record in self._records:
                stack.callback(record.close)

    def restore(self, initial: Sequence[Any], sharding: jax.sharding.Sharding) -> tuple[list[Any], int]:
        """Returns the newest state of every seed, or `initial` where nothing was saved yet, and their step.

        The writer chooses the checkpoints for all hosts.

        Raises:
            UserError: the seeds stand at different steps, or every checkpoint of a seed is damaged.
        """
        states = [
            self._restore_seed(record, state, sharding)
            for record, state in zip(self._records, initial, strict=True)
        ]
        steps = [int(state.step) for state in states]
        if len(set(steps)) > 1:
            raise UserError(
                f"{self._records[0].workdir.parent}: its seeds stand at steps {', '.join(map(str, steps))}"
                ", as damaged checkpoints were put aside; run the same command again, and they go on in turn"
            )
        return states, steps[0]

    def _restore_seed(self, record: SeedRecord, initial: Any, sharding: jax.sharding.Sharding) -> Any:
        if not isinstance(record, SilentRecord):
            state = record.restore(initial, sharding)
            self._host.share(int(state.step) if state is not initial else None)
            return state
        step = self._host.share(None)
        return initial if step is None else record.restore_step(step, initial, sharding)

    def open_metrics(self, step: int) -> None:
        """Opens the metrics of every seed, to go on after `step`."""
        for record in self._records:
            record.open_metrics(step)

    @contextmanager
    def paused_clock(self) -> Iterator[None]:
        """Leaves out of the seconds of the run what happens inside."""
        paused = time.perf_counter()
        yield
        self._started += time.perf_counter() - paused

    def record_steps(self, step: int, history: History, times: CallTimes) -> Metrics:
        """Records the steps after `step`, which took `times`; returns the means over steps and seeds.

        With streamed images they have `waiting`, the share of the time in which the devices waited for them.

        Raises:
            UserError: a loss or a gradient is not finite. Checkpoints of that state are thrown away.
        """
        self._check_finite(step, history)
        self._val_accuracies, self._is_new_best = [None] * len(self._records), False
        count = history["loss"].shape[1]
        images, seconds = count * self._schedule.batch_size, times.seconds / len(self._records)
        waiting = {} if times.waiting is None else {"waiting": times.waiting / times.seconds}
        for i, record in enumerate(self._records):
            record.progress = record.progress._replace(
                images=record.progress.images + images, step_seconds=record.progress.step_seconds + seconds
            )
            metrics = {name: float(values[i].mean()) for name, values in history.items()}
            metrics |= {"images_per_second": images / seconds, **waiting}
            record.write_metrics(step + count, self._epoch(step + count), "train", metrics)
        return {name: float(values.mean()) for name, values in history.items()} | waiting

    def record(self, step: int, split: str, metrics: Sequence[Metrics]) -> None:
        """Writes the `metrics` of every seed on `split` after `step`."""
        for record, seed_metrics in zip(self._records, metrics, strict=True):
            record.write_metrics(step, self._epoch(step), split, seed_metrics)

    def record_validation(self, step: int, metrics: Sequence[Metrics]) -> None:
        """Writes the validation `metrics` of every seed after `step`; a new best one makes a save due."""
        self.record(step, "val", metrics)
        self._val_accuracies = accuracies = [seed_metrics["accuracy"] for seed_metrics in metrics]
        for record, accuracy in zip(self._records, accuracies, strict=True):
            if accuracy > record.progress.best_accuracy:
                record.progress = record.progress._replace(best_accuracy=accuracy)
                self._is_new_best = True

    def is_save_due(self, step: int) -> bool:
        """Whether to save after `step`: at the end, at a new best, by epochs and by minutes.

        Saves slow the steps beside them. So those by epochs wait while saving has taken more than its share
        of the time since the start.
        """
        minutes = self._schedule.checkpoint.every_minutes
        return (
            step == self._schedule.total_steps
            or self._is_new_best
            or (self._is_save_epoch(step) and self._saves_are_cheap())
            or 0 < minutes * 60 <= time.perf_counter() - self._last_save
        )

    def wait(self) -> None:
        """Waits until all that was saved is on disk."""
        for record in self._records:
            record.wait()

    def save(self, step: int, states: Sequence[Any]) -> None:
        """Starts to save the state of every seed after `step`."""
        self._count_seconds()
        for record, state, accuracy in zip(self._records, states, self._val_accuracies, strict=True):
            record.save(step, state, accuracy)
        self._last_save = time.perf_counter()

    def read_summaries(self) -> list[dict[str, Any]]:
        """Returns the summaries that earlier starts wrote, empty for seeds without one."""
        found = [read_summary(record.workdir) for record in self._records] if self._host.writes else None
        return self._host.share(found)

    def write_summaries(self, summaries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Writes `summaries` with the seconds and the speed of every seed, and returns them.

        Raises:
            UserError: a score is not finite. Checkpoints of the last step are thrown away.
        """
        for seed, summary in enumerate(summaries):
            if score := score_not_finite(summary):
                step = self._schedule.total_steps
                self._stop(step, seed, f"step {step}: {score}")
        self._count_seconds()
        whole = [summary | record.speed() for summary, record in zip(summaries, self._records, strict=True)]
        for summary, record in zip(whole, self._records, strict=True):
            record.write_summary(summary)
        return whole

    def _count_seconds(self) -> None:
        seconds = (time.perf_counter() - self._started) / len(self._records)
        for record in self._records:
            record.progress = record.progress._replace(seconds=record.seconds_before + seconds)

    def _epoch(self, step: int) -> float:
        return step / self._schedule.steps_per_epoch

    def _is_save_epoch(self, step: int) -> bool:
        """Whether an epoch ends here that is the first at or after the next multiple of `every_epochs`."""
        every_epochs = self._schedule.checkpoint.every_epochs
        if step % self._schedule.steps_per_epoch or not every_epochs:
            return False
        epoch = step // self._schedule.steps_per_epoch
        return epoch // every_epochs > (epoch - 1) // every_epochs

    def _saves_are_cheap(self) -> bool:
        share = self._schedule.checkpoint.share
        spent = max(record.save_seconds for record in self._records)
        return not share or spent <= share * (time.perf_counter() - self._started)

    def _check_finite(self, step: int, history: History) -> None:
        finite = np.isfinite(history["loss"]) & np.isfinite(history["gradient_norm"])
        if finite.all():
            return
        first = int(finite.all(0).argmin())
        worst = int(finite[:, first].argmin())
        found = (
            f"step {step + first + 1}: loss {history['loss'][worst, first]},"
            f" gradient norm {history['gradient_norm'][worst, first]}"
        )
        self._stop(step + first, worst, found)

    def _stop(self, step: int, seed: int, found: str) -> NoReturn:
        """Throws away the checkpoints of `step`, and says what was `found` with their weights in a seed.

        `seed` is its index among those that are trained at once.

        Raises:
            UserError: always.
        """
        for record in self._records:
            record.wait()
            # Weights that give no finite loss are no good, though every one of them may be finite.
            record.discard(step)
        # The others wait until the writer has discarded it.
        newest = self._host.share(str(newest_checkpoint(self._records[seed].workdir) or ""))
        raise UserError(
            f"{found}, expected finite numbers; stopped,"
            f" {f'the last good checkpoint is {newest}' if newest else 'there is no good checkpoint'};"
            " run again with a lower --config.optimizer.learning_rate"
            f"{' in another --workdir, as all seeds have the same one' if self._of_seeds else ''}"
        )


def record_settings(
    config: ConfigDict, class_names: tuple[str, ...], workdir: Path, sources: Sources
) -> None:
    """Makes `workdir` and writes `config` to its `config.json`.

    The folder of each seed gets its own `config.json` when that seed is trained. Whether all of them may go
    on is checked here, before any is trained.

    Raises:
        UserError: `workdir` cannot be written, or it or the folder of a seed holds a run of other settings or
            sources.
    """
    runs = {seed_workdir(workdir, seed): settings.for_seed(config, seed) for seed in config.seeds}
    for folder, own in ({workdir: config} | runs).items():
        _check_places(folder)
        if _is_taken(folder, own):
            finished = read_summary(folder).get("epochs") == own.num_epochs
            settings.check_same_run(own, folder, sources, finished)
    settings.save(config, class_names, workdir, sources)


def _is_taken(workdir: Path, config: ConfigDict) -> bool:
    """Whether `workdir` holds a training that one of other settings must not replace.

    A training that has saved nothing may be replaced, such as one whose first step did not fit into memory.
    The new one drops old metrics where it begins, so it must begin in every folder of the old one.
    """
    if not os.path.lexists(workdir / CONFIG_FILE):
        return False
    stored, _ = settings.load(workdir)
    before, now = ({*settings.seed_workdirs(either, workdir)} for either in (stored, config))
    return not before <= now or any(map(_has_results, {workdir} | before))


def _has_results(workdir: Path) -> bool:
    """Whether a training has left a summary or checkpoints, such as damaged ones, in `workdir`."""
    others = (workdir / SUMMARY_FILE, workdir / FOLDER / DAMAGED)
    return newest_step(workdir) is not None or any(map(os.path.lexists, others))


def _check_places(workdir: Path) -> None:
    """Checks that nothing in `workdir` stands where a training writes, and that its settings are there."""
    for name in (METRICS_FILE, SUMMARY_FILE, IMAGES_FILE):
        if os.path.isdir(workdir / name):
            raise UserError(f"{workdir / name}: is a folder, expected a file; move it elsewhere")
    for name in (FOLDER, BOARD_FOLDER):
        if os.path.lexists(workdir / name) and not os.path.isdir(workdir / name):
            raise UserError(f"{workdir / name}: is no folder, expected one; move it elsewhere")
    if newest_step(workdir) is not None and not os.path.lexists(workdir / CONFIG_FILE):
        raise UserError(
            f"{workdir}: has checkpoints but no {CONFIG_FILE}, so that nothing tells their settings; restore"
            " it from a copy, or use another --workdir"
        )
