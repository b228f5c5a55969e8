"""Training as a user sees it: resuming, signals, devices, bad settings, and what lands in the workdir."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import rules
from resnet.checkpoint import newest_step
from resnet.errors import UserError
from tests.command_line import ROOT, flags_of, run_program
from tests.quick_compilation import QUICK_XLA_FLAGS
from tests.runs import (
    SMALL,
    assert_close,
    assert_same_bits,
    last_weights,
    metrics_of,
    modification_times,
    names_of_changed_files,
    saved_steps,
    small_config,
    summary_of,
)
from train import train_and_evaluate
from workdir import settings

FIELDS = SMALL | {
    "num_epochs": 3,
    "batch_size": 16,
    "steps_per_call": 2,
    "optimizer.warmup_epochs": 0.5,
    "checkpoint.every_epochs": 1.0,
    # Images grow in the middle of an epoch.
    "augment.early_size": 48,
    "augment.early_share": 0.5,
}


def config_for(data_dir: Path, **fields: object) -> ConfigDict:
    """Returns the config that `command` trains."""
    return small_config(**FIELDS | {"data.dir": str(data_dir)} | fields)


def command(data_dir: Path, workdir: Path, **fields: object) -> list[str]:
    """Returns the arguments of main.py that train in `workdir`, without a report, which would take longer."""
    page = workdir / "report" / "index.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.touch()
    os.utime(page, (2**32, 2**32))  # Later than the end of the run: there is nothing to write anew.
    flags = flags_of(FIELDS | {"data.dir": data_dir} | fields)
    return ["--config=configs/default.py", f"--workdir={workdir}", *flags]


@pytest.fixture(scope="module")
def environment(compilation_cache: str) -> dict[str, str]:
    """The environment of the programs that this file starts."""
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK_XLA_FLAGS}


def train(arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Trains in a process of its own and asserts that it ends well."""
    result = run_program("main.py", *arguments, environment=environment)
    assert result.returncode == 0, result.stderr
    return result


def start(arguments: list[str], environment: dict[str, str]) -> subprocess.Popen:
    """Starts to train in a process of its own."""
    arguments = [sys.executable, "main.py", *arguments]
    return subprocess.Popen(
        arguments, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_line(process: subprocess.Popen, beginning: str) -> None:
    """Reads what the process prints, until a line with this beginning comes."""
    for line in process.stdout:
        if line.startswith(beginning):
            return
    pytest.fail(f"no line {beginning!r}; stderr: {process.stderr.read()}")


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, shared_signs_dir: Path, environment: dict[str, str]
) -> Path:
    """The workdir of a short run that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    train(command(shared_signs_dir, workdir), environment)
    return workdir


def test_finished_run_leaves_what_the_readme_names(finished: Path, shared_signs_dir: Path) -> None:
    summary = summary_of(finished)
    assert {"accuracy", "loss"} == set(summary["test"]) == set(summary["ema"]["train"])
    assert summary["steps"] == 3 * (60 // 16)
    assert summary["parameters"] == sum(
        leaf.size for leaf in jax.tree.leaves(last_weights(finished)[0].params)
    )
    assert summary["seconds"] > 0
    assert summary["images_per_second"] > 0
    assert summary["versions"]["jax"] == jax.__version__

    config, class_names = settings.load(finished)
    assert class_names == ("0", "1", "2", "3", "4", "5")
    assert dict(rules.flatten(config)) == dict(rules.flatten(config_for(shared_signs_dir)))

    lines = metrics_of(finished, "train")
    # A call ends with an epoch, and after step 4, where images grow.
    assert [line["step"] for line in lines] == [2, 3, 4, 6, 8, 9]
    assert {"epoch", "loss", "accuracy", "learning_rate", "images_per_second"} <= set(lines[0])
    assert any((finished / "tensorboard").iterdir())


def test_second_start_on_a_finished_run_changes_nothing(
    finished: Path, shared_signs_dir: Path, environment: dict[str, str]
) -> None:
    before = modification_times(finished)
    train(command(shared_signs_dir, finished), environment)
    changed = names_of_changed_files(before, modification_times(finished))
    assert changed <= {"config.json"}


def test_killed_five_times_and_resumed_gives_the_same_bits(
    tmp_path: Path, finished: Path, shared_signs_dir: Path, environment: dict[str, str]
) -> None:
    workdir = tmp_path / "run"
    arguments = command(shared_signs_dir, workdir)
    delays = random.Random(0)
    kills = 0
    for _ in range(5):
        process = start(arguments, environment)
        # The window reaches from the first step to the writing of the last checkpoint.
        wait_for_line(process, "epoch")
        time.sleep(delays.uniform(0, 0.3))
        kills += process.poll() is None
        process.kill()
        process.communicate()
        if (workdir / "summary.json").exists():
            break
    assert kills
    train(arguments, environment)
    assert_same_bits(finished, workdir)
    steps = [line["step"] for line in metrics_of(workdir, "train")]
    assert steps == sorted(set(steps))


@pytest.mark.parametrize(
    "moment",
    [
        "train.init_state",  # when nothing but config.json is there
        "resnet.checkpoint.Checkpoints._write_checksums",  # in the middle of saving
        "train.Training._summarize",  # between the last checkpoint and the summary
    ],
)
def test_killed_at_a_chosen_moment_and_resumed_gives_the_same_bits(
    tmp_path: Path, finished: Path, shared_signs_dir: Path, environment: dict[str, str], moment: str
) -> None:
    workdir = tmp_path / "run"
    arguments = command(shared_signs_dir, workdir)
    killed = run_program("-m", "tests.killed_at", moment, "--", *arguments, environment=environment)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (workdir / "summary.json").exists()
    result = train(command(shared_signs_dir, workdir), environment)
    assert "damaged" not in result.stderr
    assert_same_bits(finished, workdir)


def test_other_images_under_the_same_settings_are_refused(
    tmp_path: Path, finished: Path, shared_signs_dir: Path
) -> None:
    before = (finished / "config.json").read_bytes()
    other = tmp_path / "signs"
    shutil.copytree(shared_signs_dir, other)
    with h5py.File(other / "train_signs.h5", "r+") as file:
        file["train_set_x"][0, 0, 0, 0] ^= 1
    with pytest.raises(UserError, match="holds a run on other images"):
        train_and_evaluate(config_for(other), finished)
    assert (finished / "config.json").read_bytes() == before


def test_what_may_change_once_a_run_is_finished(
    tmp_path: Path, finished: Path, shared_signs_dir: Path
) -> None:
    workdir = Path(shutil.copytree(finished, tmp_path / "run"))
    before = {name: (workdir / name).read_bytes() for name in ("config.json", "summary.json")}
    summary = summary_of(workdir)
    config = config_for(shared_signs_dir)
    assert train_and_evaluate(config, workdir) == summary

    config.optimizer.learning_rate *= 2
    with pytest.raises(UserError, match=r"other settings: optimizer\.learning_rate"):
        train_and_evaluate(config, workdir)
    assert {name: (workdir / name).read_bytes() for name in before} == before

    config = config_for(shared_signs_dir)
    config.temperature = 0.5
    sharper = train_and_evaluate(config, workdir)
    assert sharper == summary_of(workdir)
    assert sharper["test"]["accuracy"] == summary["test"]["accuracy"]
    assert sharper["test"]["loss"] != summary["test"]["loss"]


def test_finished_run_that_nobody_tested_is_tested_when_asked(
    tmp_path: Path, finished: Path, shared_signs_dir: Path
) -> None:
    workdir = Path(shutil.copytree(finished, tmp_path / "run"))
    summary = summary_of(workdir)
    untested = {name: value for name, value in summary.items() if name != "test"}
    (workdir / "summary.json").write_text(json.dumps(untested))
    assert train_and_evaluate(config_for(shared_signs_dir), workdir, "never") == untested
    tested = train_and_evaluate(config_for(shared_signs_dir), workdir)
    assert tested["test"] == pytest.approx(summary["test"])

    without_average = tested | {"ema": {"train": tested["ema"]["train"]}}
    (workdir / "summary.json").write_text(json.dumps(without_average))
    again = train_and_evaluate(config_for(shared_signs_dir), workdir)
    assert again["ema"]["test"] == pytest.approx(summary["ema"]["test"])


def test_only_the_newest_checkpoints_are_kept_without_validation(finished: Path) -> None:
    assert saved_steps(finished) == {6, 9}


def test_killed_while_saving_falls_back_to_the_last_whole_checkpoint(
    tmp_path: Path, finished: Path, shared_signs_dir: Path, environment: dict[str, str]
) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    (workdir / "summary.json").unlink()
    last = workdir / "checkpoints" / "9"
    half = workdir / "checkpoints" / "9.orbax-checkpoint-tmp"
    last.rename(half)
    shutil.rmtree(half / "state" / "ocdbt.process_0")
    result = train(command(shared_signs_dir, workdir), environment)
    assert "resuming from" in result.stdout
    assert_same_bits(finished, workdir)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_saves_within_a_call_and_the_run_goes_on(
    tmp_path: Path,
    finished: Path,
    shared_signs_dir: Path,
    environment: dict[str, str],
    signum: int,
    code: int,
) -> None:
    workdir = tmp_path / "run"
    arguments = command(shared_signs_dir, workdir, **{"num_epochs": 30, "checkpoint.every_epochs": 0.0})
    process = start(arguments, environment)
    wait_for_line(process, "epoch")
    process.send_signal(signum)
    _, stderr = process.communicate()
    assert process.returncode == code, stderr
    assert "Traceback" not in stderr
    (saved,) = saved_steps(workdir)
    assert saved == metrics_of(workdir, "train")[-1]["step"] < 90


def test_the_placement_of_the_images_may_change_on_the_way(
    tmp_path: Path, finished: Path, shared_signs_dir: Path, environment: dict[str, str]
) -> None:
    workdir = tmp_path / "run"
    process = start(command(shared_signs_dir, workdir, **{"data.placement": "stream"}), environment)
    wait_for_line(process, "epoch")
    process.terminate()
    _, stderr = process.communicate()
    assert process.returncode == 143, stderr
    assert "Traceback" not in stderr
    assert all(0 <= line["waiting"] <= 1 for line in metrics_of(workdir, "train"))
    result = train(command(shared_signs_dir, workdir), environment)
    assert "resuming from" in result.stdout
    assert "waiting" not in metrics_of(workdir, "train")[-1]
    # Close and no more, as quick compilation multiplies and adds in one operation here and in two there.
    assert_close(finished, workdir)


def test_eight_devices_end_where_one_does(
    tmp_path: Path, finished: Path, shared_signs_dir: Path, environment: dict[str, str]
) -> None:
    workdir = tmp_path / "run"
    flags = f"{QUICK_XLA_FLAGS} --xla_force_host_platform_device_count=8"
    eight = environment | {"XLA_FLAGS": flags}
    train(command(shared_signs_dir, workdir, **{"data.placement": "stream"}), eight)
    assert summary_of(workdir)["device"].startswith("8 x")
    losses = [[line["loss"] for line in metrics_of(w, "train")] for w in (finished, workdir)]
    np.testing.assert_allclose(*losses, rtol=1e-3)
    assert_close(finished, workdir)


def test_validation_split_is_measured_and_its_best_checkpoint_kept(
    tmp_path: Path, shared_signs_dir: Path, environment: dict[str, str]
) -> None:
    fields = {"data.val_fraction": 0.3, "num_epochs": 4, "checkpoint.keep": 2}
    workdir = tmp_path / "run"
    train(command(shared_signs_dir, workdir, **fields), environment)
    summary = summary_of(workdir)
    averaged = metrics_of(workdir, "val")
    assert [line["epoch"] for line in averaged] == [1, 2, 3, 4]
    assert summary["ema"]["val"]["accuracy"] == averaged[-1]["accuracy"]
    raw = metrics_of(workdir, "val_raw")
    assert [line["epoch"] for line in raw] == [1, 2, 3, 4]
    assert summary["val"]["loss"] == raw[-1]["loss"] != averaged[-1]["loss"]
    kept = saved_steps(workdir)
    best = max(line["accuracy"] for line in averaged)
    assert kept >= {averaged[-1]["step"]}
    assert any(line["step"] in kept for line in averaged if line["accuracy"] == best)
    assert len(kept) <= 3


def test_learns_signs_that_are_easy(
    tmp_path: Path, shared_signs_dir: Path, environment: dict[str, str]
) -> None:
    fields = {
        "num_epochs": 30,
        "model.width": 8,
        "optimizer.learning_rate": 5e-3,
        "ema_decay": 0.9,
        "augment.flip": 0.0,
    }
    workdir = tmp_path / "run"
    # The one run here that is long enough for optimised programs to pay.
    environment = {name: value for name, value in environment.items() if name != "XLA_FLAGS"}
    train(command(shared_signs_dir, workdir, **fields), environment)
    summary = summary_of(workdir)
    assert summary["ema"]["test"]["accuracy"] > 0.9


# The warm-up begins at zero: the first step changes nothing, the second explodes.
DIVERGING = {
    "optimizer.name": "sgd",
    "optimizer.learning_rate": 1e18,
    "optimizer.warmup_epochs": 1.0,
    "steps_per_call": 1,
    "checkpoint.every_minutes": 1e-9,
}


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, "step 3: loss nan"),
        ({"num_epochs": 1, "batch_size": 30}, "step 2: train loss "),  # There is no third step to see it.
    ],
)
def test_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(
    tmp_path: Path, shared_signs_dir: Path, environment: dict[str, str], fields: dict[str, Any], found: str
) -> None:
    workdir = tmp_path / "run"
    arguments = command(shared_signs_dir, workdir, **DIVERGING | fields)
    result = run_program("main.py", *arguments, environment=environment)
    assert result.returncode == 2
    assert f"error: {found}" in result.stderr
    assert f"the last good checkpoint is {workdir / 'checkpoints' / '1'};" in result.stderr
    assert not (workdir / "summary.json").exists()
    assert newest_step(workdir) == 1


def test_a_training_that_saved_nothing_gives_its_workdir_to_one_that_can(
    tmp_path: Path, shared_signs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **options: object) -> None:
        raise MemoryError

    monkeypatch.setattr("train.init_state", fail)
    for size in (30, 15):  # which a second training lowers, as the message says
        with pytest.raises(MemoryError):
            train_and_evaluate(config_for(shared_signs_dir, batch_size=size), tmp_path / "run")
        assert settings.load(tmp_path / "run")[0].batch_size == size


def test_another_model_in_the_workdir_is_refused_and_nothing_changes(
    finished: Path, shared_signs_dir: Path
) -> None:
    before = (finished / "config.json").read_bytes()
    with pytest.raises(UserError, match=r"model\.depth \(there 18, here 34\)"):
        train_and_evaluate(config_for(shared_signs_dir, **{"model.depth": 34}), finished)
    assert (finished / "config.json").read_bytes() == before


def test_more_epochs_go_on_from_the_finished_run(
    tmp_path: Path, finished: Path, shared_signs_dir: Path, environment: dict[str, str]
) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    train(command(shared_signs_dir, workdir, num_epochs=4), environment)
    summary = summary_of(workdir)
    assert summary["steps"] == 12
    assert [line["step"] for line in metrics_of(workdir, "train")] == [2, 3, 4, 6, 8, 9, 11, 12]
