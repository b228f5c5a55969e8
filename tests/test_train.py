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

import settings
from configs import default
from errors import UserError
from resnet.checkpoint import Checkpoints
from train import train_and_evaluate

ROOT = Path(__file__).parent.parent
# Compiling takes nearly all of these tests' time: little optimisation makes it several times faster.
QUICK_COMPILATION = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
SMALL = {
    "num_epochs": 3,
    "batch_size": 16,
    "steps_per_call": 2,
    "model.depth": 18,
    "model.width": 4,
    "model.convolution": "lax",  # compiles in a fraction of the time
    "optimizer.warmup_epochs": 0.5,
    "checkpoint.every_epochs": 1.0,
}


def small_config(data_dir: Path, **fields: object):
    config = default.get_config()
    config.update_from_flattened_dict(SMALL | {"data.dir": str(data_dir)} | fields)
    return config


def command(data_dir: Path, workdir: Path, **fields: object) -> list[str]:
    """What trains in `workdir`, without the report, which takes longer to write than such a run."""
    page = workdir / "report" / "index.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.touch()
    os.utime(page, (2**32, 2**32))  # Later than the end of the run: there is nothing to write anew.
    fields = SMALL | {"data.dir": data_dir} | fields
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    return [sys.executable, "main.py", "--config=configs/default.py", f"--workdir={workdir}", *flags]


@pytest.fixture(scope="module")
def environment(compilation_cache: str) -> dict[str, str]:
    """That of the programs which this file starts."""
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK_COMPILATION}


def run(arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess:
    return subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def summary_of(arguments: list[str], environment: dict[str, str], workdir: Path) -> dict[str, Any]:
    """What a run that ends well sums up."""
    result = run(arguments, environment)
    assert result.returncode == 0, result.stderr
    return json.loads((workdir / "summary.json").read_text())


def start(arguments: list[str], environment: dict[str, str]) -> subprocess.Popen:
    return subprocess.Popen(
        arguments, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_line(process: subprocess.Popen, beginning: str) -> None:
    for line in process.stdout:
        if line.startswith(beginning):
            return
    pytest.fail(f"no line {beginning!r}; stderr: {process.stderr.read()}")


def weights_of(workdir: Path) -> list[np.ndarray]:
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return jax.tree.leaves([checkpoints.restore_weights("last", ema) for ema in (False, True)])


def assert_same_bits(a: Path, b: Path) -> None:
    for x, y in zip(weights_of(a), weights_of(b), strict=True):
        np.testing.assert_array_equal(x, y)


def metrics_of(workdir: Path, split: str) -> list[dict]:
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["split"] == split]


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, shared_signs_dir: Path, environment: dict[str, str]
) -> Path:
    """The workdir of a short run that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    result = run(command(shared_signs_dir, workdir), environment)
    assert result.returncode == 0, result.stderr
    return workdir


def test_finished_run_leaves_what_the_readme_names(finished: Path, shared_signs_dir: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert {"accuracy", "loss"} == set(summary["test"]) == set(summary["ema"]["train"])
    assert summary["steps"] == 3 * (60 // 16)
    assert summary["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(_restored(finished).params))
    assert summary["seconds"] > 0
    assert summary["images_per_second"] > 0
    assert summary["versions"]["jax"] == jax.__version__

    config, class_names = settings.load(finished)
    assert class_names == ("0", "1", "2", "3", "4", "5")
    assert dict(settings.flatten(config)) == dict(settings.flatten(small_config(shared_signs_dir)))

    lines = metrics_of(finished, "train")
    assert [line["step"] for line in lines] == [2, 3, 5, 6, 8, 9]
    assert {"epoch", "loss", "accuracy", "learning_rate", "images_per_second"} <= set(lines[0])
    assert any((finished / "tensorboard").iterdir())


def _restored(workdir: Path):
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return checkpoints.restore_weights("last", ema=False)[0]


def test_second_start_on_a_finished_run_changes_nothing(
    finished: Path, shared_signs_dir: Path, environment: dict[str, str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    result = run(command(shared_signs_dir, finished), environment)
    assert result.returncode == 0, result.stderr
    after = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    changed = {path.name for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert changed <= {settings.CONFIG_FILE}


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
    result = run(arguments, environment)
    assert result.returncode == 0, result.stderr
    assert_same_bits(finished, workdir)
    steps = [line["step"] for line in metrics_of(workdir, "train")]
    assert steps == sorted(set(steps))


@pytest.mark.parametrize(
    "moment",
    [
        "train.init_state",  # when nothing but config.json is there
        "resnet.checkpoint.Checkpoints._seal_unfinished",  # in the middle of saving
        "train.summarize",  # between the last checkpoint and the summary
    ],
)
def test_killed_at_a_chosen_moment_and_resumed_gives_the_same_bits(
    tmp_path: Path, finished: Path, shared_signs_dir: Path, environment: dict[str, str], moment: str
) -> None:
    workdir = tmp_path / "run"
    arguments = command(shared_signs_dir, workdir)[1:]
    module, _, name = moment.partition(".") if moment.count(".") == 1 else moment.rpartition(".")
    program = f"""
import os, signal, sys
sys.argv = {arguments!r}
import main, settings
values = main.define_flags(sys.argv)
main.parse_flags(values, sys.argv)
main.apply_accelerator_settings(values.config, training=True)
import resnet.checkpoint, train
def kill(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)
{module}.{name} = kill
main.run(sys.argv)
"""
    killed = run([sys.executable, "-c", program], environment)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (workdir / "summary.json").exists()
    result = run(command(shared_signs_dir, workdir), environment)
    assert result.returncode == 0, result.stderr
    assert "damaged" not in result.stderr
    assert_same_bits(finished, workdir)


def test_other_images_under_the_same_settings_are_refused(
    tmp_path: Path, finished: Path, shared_signs_dir: Path
) -> None:
    before = (finished / settings.CONFIG_FILE).read_bytes()
    other = tmp_path / "signs"
    shutil.copytree(shared_signs_dir, other)
    with h5py.File(other / "train_signs.h5", "r+") as file:
        file["train_set_x"][0, 0, 0, 0] ^= 1
    with pytest.raises(UserError, match="other training images"):
        train_and_evaluate(small_config(other), finished)
    assert (finished / settings.CONFIG_FILE).read_bytes() == before


def test_what_may_change_once_a_run_is_finished(
    tmp_path: Path, finished: Path, shared_signs_dir: Path
) -> None:
    workdir = Path(shutil.copytree(finished, tmp_path / "run"))
    before = {name: (workdir / name).read_bytes() for name in (settings.CONFIG_FILE, "summary.json")}
    summary = json.loads(before["summary.json"])
    config = small_config(shared_signs_dir)
    assert train_and_evaluate(config, workdir) == summary

    config.optimizer.learning_rate *= 2
    with pytest.raises(UserError, match=r"other settings: optimizer\.learning_rate"):
        train_and_evaluate(config, workdir)
    assert {name: (workdir / name).read_bytes() for name in before} == before

    config = small_config(shared_signs_dir)
    config.temperature = 0.5
    sharper = train_and_evaluate(config, workdir)
    assert sharper == json.loads((workdir / "summary.json").read_text())
    assert sharper["test"]["accuracy"] == summary["test"]["accuracy"]
    assert sharper["test"]["loss"] != summary["test"]["loss"]


def test_finished_run_that_nobody_tested_is_tested_when_asked(
    tmp_path: Path, finished: Path, shared_signs_dir: Path
) -> None:
    workdir = Path(shutil.copytree(finished, tmp_path / "run"))
    summary = json.loads((workdir / "summary.json").read_text())
    untested = {name: value for name, value in summary.items() if name != "test"}
    (workdir / "summary.json").write_text(json.dumps(untested))
    assert train_and_evaluate(small_config(shared_signs_dir), workdir, "never") == untested
    tested = train_and_evaluate(small_config(shared_signs_dir), workdir)
    assert tested["test"] == pytest.approx(summary["test"])


def test_only_the_newest_checkpoints_are_kept_without_validation(finished: Path) -> None:
    kept = {int(path.name) for path in (finished / "checkpoints").iterdir() if path.name.isdigit()}
    assert kept == {6, 9}


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
    result = run(command(shared_signs_dir, workdir), environment)
    assert result.returncode == 0, result.stderr
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
    saved = [int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()]
    assert len(saved) == 1
    assert saved[0] == metrics_of(workdir, "train")[-1]["step"] < 90


def test_eight_devices_end_where_one_does(
    tmp_path: Path, finished: Path, shared_signs_dir: Path, environment: dict[str, str]
) -> None:
    workdir = tmp_path / "run"
    flags = f"{QUICK_COMPILATION} --xla_force_host_platform_device_count=8"
    eight = environment | {"XLA_FLAGS": flags}
    result = run(command(shared_signs_dir, workdir), eight)
    assert result.returncode == 0, result.stderr
    assert json.loads((workdir / "summary.json").read_text())["device"].startswith("8 x")
    losses = [[line["loss"] for line in metrics_of(w, "train")] for w in (finished, workdir)]
    np.testing.assert_allclose(*losses, rtol=1e-3)
    one, other = (np.concatenate([np.ravel(x) for x in weights_of(w)]) for w in (finished, workdir))
    # Adam divides by the root of tiny second moments: rounding grows, but stays far below one update.
    assert np.abs(one - other).max() < 1e-3
    assert np.linalg.norm(one - other) < 1e-3 * np.linalg.norm(one)


def test_validation_split_is_measured_and_its_best_checkpoint_kept(
    tmp_path: Path, shared_signs_dir: Path, environment: dict[str, str]
) -> None:
    fields = {"data.val_fraction": 0.3, "num_epochs": 4, "checkpoint.keep": 2}
    workdir = tmp_path / "run"
    summary = summary_of(command(shared_signs_dir, workdir, **fields), environment, workdir)
    measured = metrics_of(workdir, "val")
    assert [line["epoch"] for line in measured] == [1, 2, 3, 4]
    assert summary["ema"]["val"]["accuracy"] == measured[-1]["accuracy"]
    raw = metrics_of(workdir, "val_raw")
    assert [line["epoch"] for line in raw] == [1, 2, 3, 4]
    assert summary["val"]["loss"] == raw[-1]["loss"] != measured[-1]["loss"]
    kept = {int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()}
    best = max(line["accuracy"] for line in measured)
    assert kept >= {measured[-1]["step"]}
    assert any(line["step"] in kept for line in measured if line["accuracy"] == best)
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
    summary = summary_of(command(shared_signs_dir, workdir, **fields), environment, workdir)
    assert summary["ema"]["test"]["accuracy"] > 0.9


def test_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(
    tmp_path: Path, shared_signs_dir: Path, environment: dict[str, str]
) -> None:
    fields = {
        "optimizer.name": "sgd",
        "optimizer.learning_rate": 1e30,
        "optimizer.warmup_epochs": 1.0,
        "steps_per_call": 1,
        "checkpoint.every_minutes": 1e-9,
    }
    workdir = tmp_path / "run"
    result = run(command(shared_signs_dir, workdir, **fields), environment)
    assert result.returncode == 2
    # The warm-up begins at zero: the first step changes nothing, the second explodes, the third sees it.
    assert "error: step 3: loss nan" in result.stderr
    assert f"the last good checkpoint is {workdir / 'checkpoints' / '1'};" in result.stderr
    assert not (workdir / "summary.json").exists()
    with Checkpoints(workdir, read_only=True) as checkpoints:
        assert checkpoints.newest().name == "1"


def test_another_model_in_the_workdir_is_refused_and_nothing_changes(
    finished: Path, shared_signs_dir: Path
) -> None:
    before = (finished / settings.CONFIG_FILE).read_bytes()
    with pytest.raises(UserError, match=r"model\.depth \(there 18, here 34\)"):
        train_and_evaluate(small_config(shared_signs_dir, **{"model.depth": 34}), finished)
    assert (finished / settings.CONFIG_FILE).read_bytes() == before


def test_more_epochs_go_on_from_the_finished_run(
    tmp_path: Path, finished: Path, shared_signs_dir: Path, environment: dict[str, str]
) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    summary = summary_of(command(shared_signs_dir, workdir, num_epochs=4), environment, workdir)
    assert summary["steps"] == 12
    assert [line["step"] for line in metrics_of(workdir, "train")] == [2, 3, 5, 6, 8, 9, 11, 12]
