"""Several seeds in one run: the same as each alone, in turn or as one program, killed or not."""

import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from resnet.checkpoint import Checkpoints, newest_step
from resnet.errors import UserError
from tests.command_line import run_program
from tests.runs import (
    assert_close,
    assert_same_bits,
    metrics_of,
    modification_times,
    names_of_changed_files,
    seeds_config,
    small_config,
    summary_of,
)
from train import train_and_evaluate
from training.seeds import group_seeds, trains_at_once
from workdir import settings


@pytest.fixture
def in_turn(seeds_in_turn: Path) -> Path:
    """The workdir of a run of the seeds 4 and 1, one after the other; tests leave it as it is."""
    return seeds_in_turn


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory, shared_signs_dir: Path) -> Path:
    """The workdir of the same run, both seeds as one program."""
    workdir = tmp_path_factory.mktemp("together") / "run"
    train_and_evaluate(seeds_config(shared_signs_dir, seeds=(4, 1), seeds_together="yes"), workdir)
    return workdir


def test_in_turn_gives_the_bits_of_each_seed_alone(
    tmp_path: Path, in_turn: Path, shared_signs_dir: Path
) -> None:
    train_and_evaluate(seeds_config(shared_signs_dir, seed=1), tmp_path / "alone")
    assert_same_bits(tmp_path / "alone", in_turn / "seed_1")
    for name in ("config.json", "summary.json"):
        assert (in_turn / "seed_1" / name).exists()
    assert settings.load(in_turn / "seed_1")[0].seed == 1
    losses = [
        [line["loss"] for line in metrics_of(w, "train")] for w in (tmp_path / "alone", in_turn / "seed_1")
    ]
    assert losses[0] == losses[1]


def test_images_are_smaller_in_the_first_half_of_the_training(
    tmp_path: Path, in_turn: Path, shared_signs_dir: Path
) -> None:
    throughout = seeds_config(shared_signs_dir, seed=1, **{"augment.early_share": 1.0})
    train_and_evaluate(throughout, tmp_path / "throughout")
    workdirs = (in_turn / "seed_1", tmp_path / "throughout")
    half, small = ([line["loss"] for line in metrics_of(workdir, "train")] for workdir in workdirs)
    # The loss of the first step at another size depends on the size too.
    assert [a == b for a, b in zip(half, small, strict=True)] == [True] * 2 + [False] * 2


def test_together_gives_what_each_seed_gives_in_turn(in_turn: Path, together: Path) -> None:
    for seed in (4, 1):
        assert_close(in_turn / f"seed_{seed}", together / f"seed_{seed}")
        for split in ("train", "val"):
            metrics = [metrics_of(w / f"seed_{seed}", split) for w in (in_turn, together)]
            assert [line["step"] for line in metrics[0]] == [line["step"] for line in metrics[1]]
            losses = [[line["loss"] for line in lines] for lines in metrics]
            np.testing.assert_allclose(*losses, rtol=1e-3)
    # Two seeds differ by more than the tolerance.
    with pytest.raises(AssertionError):
        assert_close(in_turn / "seed_4", together / "seed_1")


@pytest.mark.parametrize("how", ["in_turn", "together"])
def test_summary_holds_every_seed_with_mean_and_deviation(how: str, request: pytest.FixtureRequest) -> None:
    workdir = request.getfixturevalue(how)
    summary = summary_of(workdir)
    alone = [summary_of(workdir / f"seed_{seed}") for seed in (4, 1)]
    assert summary["seeds"] == {"4": alone[0], "1": alone[1]}
    losses = [one["ema"]["test"]["loss"] for one in alone]
    assert summary["mean"]["ema"]["test"]["loss"] == pytest.approx(np.mean(losses))
    assert summary["std"]["ema"]["test"]["loss"] == pytest.approx(np.std(losses, ddof=1))
    assert summary["steps"] == alone[0]["steps"] == 6
    assert summary["parameters"] == alone[0]["parameters"]


def test_more_seeds_join_and_finished_ones_stay_as_they_are(
    tmp_path: Path, in_turn: Path, shared_signs_dir: Path
) -> None:
    workdir = Path(shutil.copytree(in_turn, tmp_path / "run"))
    before = modification_times(workdir / "seed_4")
    # As one program where they stand at the same step: the new one alone.
    config = seeds_config(shared_signs_dir, seeds=(4, 1, 0), seeds_together="yes")
    assert group_seeds(config, workdir) == [[4, 1], [0]]
    summary = train_and_evaluate(config, workdir)
    assert list(summary["seeds"]) == ["4", "1", "0"]
    changed = names_of_changed_files(before, modification_times(workdir / "seed_4"))
    assert changed <= {"config.json"}


def test_killed_between_two_seeds_checkpoints_and_started_again_ends_the_same(
    tmp_path: Path, in_turn: Path, shared_signs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workdir = tmp_path / "run"
    config = seeds_config(shared_signs_dir, seeds=(4, 1), seeds_together="yes")
    save, saved = Checkpoints.save, []

    def save_or_die(self: Checkpoints, step: int, *rest: object) -> None:
        if len(saved) == 3:
            raise KeyboardInterrupt
        saved.append(step)
        save(self, step, *rest)

    monkeypatch.setattr(Checkpoints, "save", save_or_die)
    with pytest.raises(KeyboardInterrupt):
        train_and_evaluate(config, workdir)
    monkeypatch.undo()
    assert [newest_step(workdir / name) for name in ("seed_4", "seed_1")] == [6, 3]
    assert not (workdir / "summary.json").exists()
    train_and_evaluate(config, workdir)
    for seed in (4, 1):
        assert_close(in_turn / f"seed_{seed}", workdir / f"seed_{seed}")


def test_seeds_spread_over_devices_end_where_each_does_alone() -> None:
    flags = "--xla_force_host_platform_device_count=4"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    result = run_program("-m", "tests.training.seeds_on_devices", environment=environment)
    assert result.returncode == 0, result.stderr


def test_settings_that_a_finished_seed_refuses_are_refused_before_anything_changes(
    tmp_path: Path, in_turn: Path, shared_signs_dir: Path
) -> None:
    workdir = Path(shutil.copytree(in_turn, tmp_path / "run"))
    for folder in (workdir, workdir / "seed_1"):  # It has stopped, after seed 4.
        (folder / "summary.json").unlink()
    before = modification_times(workdir)
    fields = {"seeds_together": "no", "optimizer.learning_rate": 1e-5}
    with pytest.raises(UserError, match=r"seed_4: holds a run with other settings: optimizer\.learning_rate"):
        train_and_evaluate(seeds_config(shared_signs_dir, seeds=(1, 4), **fields), workdir)
    assert modification_times(workdir) == before


def test_seeds_whose_images_turn_out_to_be_streamed_are_trained_in_turn(
    tmp_path: Path, in_turn: Path, shared_signs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.seeds.trains_at_once", lambda config: True)  # as on an accelerator
    monkeypatch.setattr("input_pipeline.DEVICE_SHARE", 0.0)
    train_and_evaluate(seeds_config(shared_signs_dir, seeds=(4, 1)), tmp_path / "run")
    for seed in (4, 1):
        assert_close(in_turn / f"seed_{seed}", tmp_path / "run" / f"seed_{seed}")


def test_one_seed_and_several_do_not_share_a_workdir(in_turn: Path, shared_signs_dir: Path) -> None:
    with pytest.raises(UserError, match=r"other settings: .*seeds \(there \(4, 1\), here \(\)\)"):
        train_and_evaluate(seeds_config(shared_signs_dir), in_turn)


def test_looks_at_the_test_split_change_nothing_but_the_metrics(
    tmp_path: Path, in_turn: Path, shared_signs_dir: Path
) -> None:
    config = seeds_config(shared_signs_dir, seed=4)
    every = train_and_evaluate(config, tmp_path / "every", test="every_epoch")
    never = train_and_evaluate(config, tmp_path / "never", test="never")
    for workdir in (tmp_path / "every", tmp_path / "never"):
        assert_same_bits(workdir, in_turn / "seed_4")
    looks = metrics_of(tmp_path / "every", "test")
    assert [line["epoch"] for line in looks] == [1, 2]
    assert looks[-1]["accuracy"] == every["ema"]["test"]["accuracy"]
    assert metrics_of(in_turn / "seed_4", "test") == metrics_of(tmp_path / "never", "test") == []
    assert "test" not in never
    assert "test" not in never["ema"]
    assert never["ema"]["val"] == every["ema"]["val"]


def test_which_seeds_train_as_one_program(monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config()
    for backend, at_once in {"cpu": False, "gpu": True}.items():
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        assert trains_at_once(config) == at_once
    assert not trains_at_once(small_config(**{"data.placement": "stream"}))
    assert trains_at_once(small_config(seeds_together="yes"))
