"""What a training records while it runs: when a save is due, whose seconds count, which losses stop it."""

import json
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest

from configs import default
from devices.mesh import make_mesh, replicated
from resnet.checkpoint import Checkpoints
from resnet.errors import UserError
from tests.runs import config_with, metrics_of, modification_times, saved_steps, summary_of
from workdir import recorder as recorder_module
from workdir import settings
from workdir.recorder import CallTimes, Host, Recorder, Schedule, record_settings
from workdir.settings import Sources


class State(NamedTuple):
    """Stands in for a `TrainState`."""

    step: np.int32 | jax.Array
    weights: np.ndarray | jax.Array


def state_at(step: int) -> State:
    return State(np.int32(step), np.full(3, step, np.float32))


class Clock:
    """Stands in for the clock of the recorder; time passes when a test says so."""

    seconds = 100.0

    def perf_counter(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(recorder_module, "time", clock)
    return clock


@contextmanager
def recording(workdirs: Sequence[Path], **checkpoint: float) -> Iterator[Recorder]:
    """A recorder of four epochs of three steps with batches of eight, which saves as `checkpoint` says."""
    settings = default.get_config().checkpoint
    settings.update({"every_epochs": 0.0, "every_minutes": 0.0} | checkpoint)
    with Recorder(workdirs, Schedule(12, 3, 8, settings)) as recorder:
        recorder.open_metrics(0)
        yield recorder


def history_of(*losses: Sequence[float]) -> dict[str, np.ndarray]:
    """Returns the history of steps with these losses, a sequence for each seed."""
    loss = np.array(losses)
    return {"loss": loss, "accuracy": np.full_like(loss, 0.5), "gradient_norm": np.ones_like(loss)}


# When a save is due


@pytest.mark.parametrize(
    ("every_epochs", "steps"), [(0.0, [12]), (1.0, [3, 6, 9, 12]), (2.0, [6, 12]), (1.5, [6, 9, 12])]
)
def test_saves_are_due_by_epochs_and_at_the_end(
    tmp_path: Path, every_epochs: float, steps: list[int]
) -> None:
    with recording([tmp_path], every_epochs=every_epochs) as recorder:
        assert [step for step in range(1, 13) if recorder.is_save_due(step)] == steps


def test_saves_by_epochs_wait_while_they_have_taken_more_than_their_share(
    tmp_path: Path, clock: Clock
) -> None:
    with recording([tmp_path], every_epochs=1.0, share=0.1) as recorder:
        (record,) = recorder._records
        clock.seconds += 10
        assert recorder.is_save_due(3)
        record.checkpoints.seconds = 2.0
        assert not recorder.is_save_due(6)
        assert recorder.is_save_due(12)  # the end
        clock.seconds += 10
        assert recorder.is_save_due(6)


def test_the_seconds_of_a_save_are_counted(tmp_path: Path) -> None:
    with recording([tmp_path]) as recorder:
        recorder.save(2, [state_at(2)])
        recorder.wait()
        (record,) = recorder._records
        assert 0 < record.checkpoints.seconds < 60


def test_saves_are_due_by_minutes_since_the_last_one(tmp_path: Path, clock: Clock) -> None:
    with recording([tmp_path], every_minutes=0.5) as recorder:
        clock.seconds += 29
        assert not recorder.is_save_due(2)
        clock.seconds += 1
        assert recorder.is_save_due(2)
        recorder.save(2, [state_at(2)])
        assert not recorder.is_save_due(4)
        clock.seconds += 30
        assert recorder.is_save_due(4)


def test_a_new_best_validation_of_any_seed_makes_a_save_due(tmp_path: Path) -> None:
    with recording([tmp_path / "a", tmp_path / "b"]) as recorder:
        due = []
        for step, accuracies in ((3, (0.5, 0.5)), (6, (0.5, 0.4)), (9, (0.1, 0.6))):
            recorder.record_steps(step - 3, history_of([1.0] * 3, [1.0] * 3), CallTimes(1.0))
            assert not recorder.is_save_due(step)
            recorder.record_validation(step, [{"accuracy": accuracy} for accuracy in accuracies])
            due.append(recorder.is_save_due(step))
        assert due == [True, False, True]
    assert [line["accuracy"] for line in metrics_of(tmp_path / "b", "val")] == [0.5, 0.4, 0.6]


def test_the_best_by_validation_is_kept_beside_the_newest(tmp_path: Path) -> None:
    with recording([tmp_path], every_epochs=1.0, keep=2) as recorder:
        for step, accuracy in ((3, 0.9), (6, 0.2), (9, 0.3), (12, 0.1)):
            recorder.record_steps(step - 3, history_of([1.0] * 3), CallTimes(1.0))
            recorder.record_validation(step, [{"accuracy": accuracy}])
            recorder.save(step, [state_at(step)])
    assert saved_steps(tmp_path) == {3, 9, 12}


# Losses that are not finite


@pytest.mark.parametrize("name", ["loss", "gradient_norm"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stops_and_throws_away_the_state_before_it(
    tmp_path: Path, name: str, value: float
) -> None:
    with recording([tmp_path / "a", tmp_path / "b"]) as recorder:
        for step in (2, 4):
            recorder.save(step, [state_at(step)] * 2)
        history = history_of([1.0, 1.0], [1.0, 1.0])
        history[name][1, 0] = value  # The second seed, at the first step after the state that was saved.
        line = rf"^step 5: .*{value}.*the last good checkpoint is .*/b/checkpoints/2;"
        with pytest.raises(UserError, match=line):
            recorder.record_steps(4, history, CallTimes(1.0))
    assert saved_steps(tmp_path / "a") == saved_steps(tmp_path / "b") == {2}
    assert metrics_of(tmp_path / "a", "train") == []


def test_without_a_checkpoint_there_is_none_to_name(tmp_path: Path) -> None:
    with (
        recording([tmp_path]) as recorder,
        pytest.raises(UserError, match=r"^step 2: loss nan, gradient norm 1\.0, .*is no good checkpoint"),
    ):
        recorder.record_steps(0, history_of([1.0, np.nan]), CallTimes(1.0))


def test_one_of_several_seeds_that_diverges_names_another_workdir(tmp_path: Path) -> None:
    schedule = Schedule(12, 3, 8, default.get_config().checkpoint)
    with (
        Recorder([tmp_path], schedule, of_seeds=True) as recorder,
        pytest.raises(UserError, match=r"rate in another --workdir, as all seeds have the same one$"),
    ):
        recorder.record_steps(0, history_of([np.nan]), CallTimes(1.0))


def test_scores_that_are_not_finite_are_no_summary_and_throw_away_the_last_state(tmp_path: Path) -> None:
    good = {"train": {"loss": 1.0, "accuracy": 0.5}}
    bad = good | {"ema": {"test": {"loss": np.nan, "accuracy": 0.1}}}
    with recording([tmp_path / "a", tmp_path / "b"]) as recorder:
        for step in (9, 12):
            recorder.save(step, [state_at(step)] * 2)
        with pytest.raises(UserError, match=r"^step 12: test loss nan, expected finite.*/b/checkpoints/9;"):
            recorder.write_summaries([good, bad])
    for name in "ab":
        assert saved_steps(tmp_path / name) == {9}
        assert not (tmp_path / name / "summary.json").exists()


# Metrics, seconds and speed


def test_metrics_are_means_over_the_steps_of_a_call(tmp_path: Path) -> None:
    with recording([tmp_path / "a", tmp_path / "b"]) as recorder:
        means = recorder.record_steps(0, history_of([1.0, 2.0], [3.0, 4.0]), CallTimes(4.0))
    assert means["loss"] == 2.5
    lines = [metrics_of(tmp_path / name, "train") for name in ("a", "b")]
    assert [[line["loss"] for line in seed_lines] for seed_lines in lines] == [[1.5], [3.5]]
    # 16 images each, in half of the four seconds, which the seeds share.
    assert [(line["step"], line["epoch"], line["images_per_second"]) for (line,) in lines] == [
        (2, 0.6667, 8.0),
        (2, 0.6667, 8.0),
    ]


def test_seconds_leave_out_pauses_and_are_shared_by_the_seeds(tmp_path: Path, clock: Clock) -> None:
    with recording([tmp_path / "a", tmp_path / "b"]) as recorder:
        clock.seconds += 10
        recorder.record_steps(0, history_of([1.0, 1.0], [1.0, 1.0]), CallTimes(4.0))
        with recorder.paused_clock():
            clock.seconds += 1000
        written = recorder.write_summaries([{"steps": 12}, {"steps": 12}])
    assert written == [{"steps": 12, "seconds": 5.0, "images_per_second": 8.0}] * 2
    assert [summary_of(tmp_path / name) for name in "ab"] == written


def test_a_second_start_goes_on_from_the_seconds_of_the_first(tmp_path: Path, clock: Clock) -> None:
    sharding = replicated(make_mesh(8))
    with recording([tmp_path]) as recorder:
        initial = [state_at(0)]
        states, step = recorder.restore(initial, sharding)
        assert states == initial
        assert step == 0
        clock.seconds += 10
        recorder.record_steps(0, history_of([1.0, 1.0]), CallTimes(4.0))
        recorder.save(2, [state_at(2)])
    clock.seconds += 1000  # between the starts
    with Recorder([tmp_path], Schedule(12, 3, 8, default.get_config().checkpoint)) as recorder:
        ((state,), step) = recorder.restore([state_at(0)], sharding)
        assert (step, int(state.step)) == (2, 2)
        np.testing.assert_array_equal(state.weights, state_at(2).weights)
        recorder.open_metrics(2)
        clock.seconds += 1
        recorder.record_steps(2, history_of([1.0]), CallTimes(1.0))
        recorder.write_summaries([{}])
    assert summary_of(tmp_path) == {"seconds": 11.0, "images_per_second": 4.8}
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 3]


def test_a_checkpoint_of_a_newer_version_with_more_progress_is_refused(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(2, state_at(2), {"seconds": 1.0, "energy": 3.0}, None)
    with (
        recording([tmp_path]) as recorder,
        pytest.raises(UserError, match=r"checkpoints/2: progress: .*'energy' was unexpected"),
    ):
        recorder.restore([state_at(0)], replicated(make_mesh(8)))


def test_seeds_at_different_steps_do_not_go_on_together(tmp_path: Path) -> None:
    workdirs = [tmp_path / "a", tmp_path / "b"]
    with recording(workdirs[:1]) as recorder:
        recorder.save(2, [state_at(2)])
    with (
        recording(workdirs) as recorder,
        pytest.raises(UserError, match=r"its seeds stand at steps 2, 0.*run the same command again"),
    ):
        recorder.restore([state_at(0)] * 2, replicated(make_mesh(8)))


# Settings


def record(workdir: Path, table: str = "", **fields: object) -> None:
    """Records a training with `fields` on images that `table` lists."""
    record_settings(config_with(**fields), ("0", "1"), workdir, Sources("digest of the images", table))


def test_a_training_that_saved_nothing_gives_its_workdir_to_another(tmp_path: Path) -> None:
    record(tmp_path, "split\tclass\tfile\tdigest\n", data__name="folder")
    with recording([tmp_path]) as recorder:
        recorder.record_steps(0, history_of([1.0]), CallTimes(1.0))
    record(tmp_path, batch_size=16)
    assert settings.load(tmp_path)[0].batch_size == 16
    assert not (tmp_path / "images.tsv").exists()
    with recording([tmp_path]):
        assert metrics_of(tmp_path, "train") == []


@pytest.mark.parametrize(
    ("seeds", "left"),
    [
        ((), "checkpoints/3"),
        ((), "checkpoints/damaged/3"),
        ((), "summary.json"),
        ((4, 1), "seed_1/checkpoints/3"),
        ((4, 1), "seed_4/summary.json"),
    ],
)
def test_a_training_that_saved_something_keeps_its_workdir(
    tmp_path: Path, seeds: tuple[int, ...], left: str
) -> None:
    record(tmp_path, seeds=seeds)
    (tmp_path / left).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / left).touch()
    with pytest.raises(UserError, match=r"holds a run with other settings: batch_size \(there 32, here 16\)"):
        record(tmp_path, seeds=seeds, batch_size=16)
    assert settings.load(tmp_path)[0].batch_size == 32


@pytest.mark.parametrize("seeds", [(), (4,)])
def test_a_training_that_would_leave_metrics_of_another_beside_its_own_is_refused(
    tmp_path: Path, seeds: tuple[int, ...]
) -> None:
    record(tmp_path, seeds=(4, 1))
    with pytest.raises(UserError, match="other settings: "):
        record(tmp_path, seeds=seeds, batch_size=16)
    record(tmp_path, seeds=(4, 1, 0), batch_size=16)


# Hosts that do not write


def test_a_host_that_does_not_write_restores_what_the_writer_chose(tmp_path: Path) -> None:
    sharding = replicated(make_mesh(8))
    with recording([tmp_path]) as recorder:
        recorder.record_steps(0, history_of([1.0, 1.0]), CallTimes(4.0))
        for step in (2, 4):
            recorder.save(step, [state_at(step)])
    before = modification_times(tmp_path)
    shared = iter([2, [{"epochs": 1}]])  # the step, and summaries
    schedule = Schedule(12, 3, 8, default.get_config().checkpoint)
    with Recorder([tmp_path], schedule, Host(writes=False, share=lambda _: next(shared))) as recorder:
        ((state,), step) = recorder.restore([state_at(0)], sharding)
        assert (step, int(state.step)) == (2, 2)
        assert recorder.read_summaries() == [{"epochs": 1}]
        recorder.open_metrics(step)
        # No step is left to make, so that its speed is that of the steps before.
        (summary,) = recorder.write_summaries([{"steps": 2}])
        assert summary["images_per_second"] == 4.0
        recorder.record_steps(2, history_of([1.0]), CallTimes(1.0))
        recorder.save(3, [state_at(3)])
        recorder.wait()
    assert modification_times(tmp_path) == before


def test_a_host_that_cannot_read_the_checkpoint_is_refused(tmp_path: Path) -> None:
    schedule = Schedule(12, 3, 8, default.get_config().checkpoint)
    with (
        Recorder([tmp_path], schedule, Host(writes=False, share=lambda _: 2)) as recorder,
        pytest.raises(UserError, match=f"{tmp_path}.*no checkpoints"),
    ):
        recorder.restore([state_at(0)], replicated(make_mesh(8)))


# A disk that is full


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Lets no file grow beyond `size` bytes, as `ulimit -f` does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_checkpoint_that_does_not_fit_stops_in_a_line_that_says_what_is_safe(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)

    def save(step: int, size: int) -> None:
        with recording([tmp_path]) as recorder:
            recorder.save(step, [State(np.int32(step), rng.random(size))])
            recorder.wait()

    save(3, 10)
    with files_of_at_most(100_000), pytest.raises(UserError) as caught:
        save(6, 100_000)
    assert str(caught.value) == (
        f"{tmp_path}: cannot be written (File too large); the checkpoint of step 3 is safe; make room or mend"
        " the disk, and the same command goes on from there"
    )
    assert saved_steps(tmp_path) == {3}
    assert not list(tmp_path.rglob("*tmp*"))
    save(6, 100_000)
    assert saved_steps(tmp_path) == {3, 6}
    assert capfd.readouterr().err == ""


def test_metrics_that_do_not_fit_stop_in_a_line_and_the_half_line_is_dropped(tmp_path: Path) -> None:
    def record(step: int) -> None:
        with recording([tmp_path]) as recorder:
            while True:
                recorder.record(step, "val", [{"accuracy": 0.5}])

    with files_of_at_most(1000), pytest.raises(UserError, match="no checkpoint was saved yet"):
        record(0)
    assert (tmp_path / "metrics.jsonl").stat().st_size == 1000
    with recording([tmp_path]):
        assert {line["accuracy"] for line in metrics_of(tmp_path, "val")} == {0.5}


def test_a_summary_that_does_not_fit_stops_in_a_line(tmp_path: Path) -> None:
    with recording([tmp_path]) as recorder:
        recorder.record_steps(0, history_of([1.0]), CallTimes(1.0))
        with files_of_at_most(10), pytest.raises(UserError, match="cannot be written"):
            recorder.write_summaries([{"steps": 12}])
    assert not list(tmp_path.glob("summary*"))
