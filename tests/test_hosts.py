"""A training on several hosts: the same images and results as on one, agreement, signals, deaths."""

import json
import os
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from devices import hosts
from tests.command_line import ROOT, Result, Run, assert_refused, flags_of
from tests.hosts import TIMEOUT, Hosts, host_flags
from tests.runs import NO_RESAMPLING, SMALL, assert_close, metrics_of, saved_steps, summary_of

CONFIG = f"--config={ROOT / 'configs' / 'default.py'}"
FIELDS = (
    SMALL
    | NO_RESAMPLING
    | {
        "model.depth": 16,
        "data.image_size": 32,
        "data.val_fraction": 0.2,
        "augment.appearance": 0.0,
        "num_epochs": 3,
        "batch_size": 16,
        "steps_per_call": 1,
        "optimizer.warmup_epochs": 0.5,
        "checkpoint.every_epochs": 1.0,
        "checkpoint.keep": 20,
    }
)
LOOP = ["-m", "tests.host_loop", CONFIG]
TIMES = ("images_per_second", "waiting", "seconds")


def command(data_dir: Path, workdir: Path, **fields: object) -> list[object]:
    """Returns the arguments that train in `workdir`, without a report, which would take longer."""
    page = workdir / "report" / "index.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.touch()
    os.utime(page, (2**32, 2**32))  # Later than the end of the run: there is nothing to write anew.
    return ["main.py", CONFIG, f"--workdir={workdir}", *flags_of(FIELDS | {"data.dir": data_dir} | fields)]


def train(arguments: list[object], count: int, devices: int, folder: Path) -> list[Result]:
    """Trains on `count` hosts to the end."""
    with Hosts(arguments, count=count, devices=devices, folder=folder) as started:
        results = started.results()
    assert [result.code for result in results] == [0] * count, results
    return results


@pytest.fixture(scope="session")
def alone(made_once: Callable[..., Path], shared_signs_dir: Path) -> Path:
    """The workdir of a run on one host with four devices."""
    return made_once(
        "one_host", lambda workdir: train(command(shared_signs_dir, workdir), 1, 4, workdir / "printed")
    )


@pytest.fixture(scope="session")
def on_two(made_once: Callable[..., Path], shared_signs_dir: Path) -> Path:
    """The workdir of the same run on two hosts with two devices each."""
    return made_once(
        "two_hosts", lambda workdir: train(command(shared_signs_dir, workdir), 2, 2, workdir / "printed")
    )


def assert_one_line(result: Result, *parts: str) -> None:
    """Asserts that a host ended with one line of error that has all of `parts`."""
    assert result.code == 2, result
    assert len(result.err.splitlines()) == 1, result.err
    for part in ("error: ", *parts):
        assert part in result.err


def assert_lost(result: Result, *parts: str) -> None:
    """Asserts what `assert_one_line` does, or that an older JAX has ended the process in words of its own."""
    if hosts._aborts():
        assert_one_line(result, *parts)
    else:
        assert result.code == 1, result
        assert "Terminating process because the JAX distributed service" in result.err


def test_every_number_of_hosts_sees_the_same_images(tmp_path: Path, shared_signs_dir: Path) -> None:
    fields = {"data.dir": shared_signs_dir, "batch_size": 8, "steps_per_call": 3, "num_epochs": 2}
    arguments = ["-m", "tests.host_batches", CONFIG, *flags_of(fields)]
    found = []
    for count, devices in ((1, 4), (2, 2), (4, 1)):
        with Hosts(arguments, count=count, devices=devices, folder=tmp_path / str(count)) as started:
            results = started.results()
        assert [result.code for result in results] == [0] * count, results
        found.append(json.loads(results[0].out.splitlines()[-1]))
    assert found[0] == found[1] == found[2]
    assert found[0]["device"] == found[0]["stream"]
    assert len(set(found[0]["device"])) == 14  # steps, of which no two are the same


def test_two_hosts_end_with_the_results_of_one(alone: Path, on_two: Path) -> None:
    assert_close(alone, on_two)
    for split in ("train", "val"):
        one, two = metrics_of(alone, split), metrics_of(on_two, split)
        assert [line["step"] for line in one] == [line["step"] for line in two]
        for a, b in zip(one, two, strict=True):
            assert a.keys() == b.keys()
            for name in a.keys() - {*TIMES, "split"}:
                np.testing.assert_allclose(a[name], b[name], rtol=2e-3, atol=1e-6, err_msg=name)
    assert summary_of(alone)["device"] == summary_of(on_two)["device"]
    assert summary_of(alone)["test"]["accuracy"] == summary_of(on_two)["test"]["accuracy"]


def test_one_host_alone_prints_and_nothing_of_the_hosts_is_kept(on_two: Path) -> None:
    out, other = ((on_two / "printed" / f"host_{index}.out").read_text() for index in (0, 1))
    assert "test accuracy" in out
    assert "epoch" not in other
    assert "accuracy" not in other
    stored = json.loads((on_two / "config.json").read_text())["config"]
    assert "hosts" not in stored


def test_four_hosts_and_one_continue_a_run_of_two(
    tmp_path: Path, alone: Path, on_two: Path, shared_signs_dir: Path
) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(on_two, workdir)
    (workdir / "summary.json").unlink()
    first, *later = sorted(saved_steps(workdir))
    for step in later:
        shutil.rmtree(workdir / "checkpoints" / str(step))

    arguments = command(shared_signs_dir, workdir)
    with Hosts(arguments, count=4, devices=1, folder=tmp_path / "four") as started:
        started.wait_for("epoch")
        started.send(2, signal.SIGTERM)
        stopped = started.results()
    assert [result.code for result in stopped] == [143] * 4, stopped
    assert f"resuming from {workdir / 'checkpoints' / str(first)}" in stopped[0].out
    assert "stopped and saved" in stopped[0].out
    last = metrics_of(workdir, "train")[-1]["step"]
    assert first < max(saved_steps(workdir)) == last < 9

    train(arguments, 1, 4, tmp_path / "one")
    assert_close(alone, workdir)


# How a run on several hosts ends before its time


@pytest.mark.parametrize(("killed", "line"), [(0, "host 0 has died"), (1, "host 1 has not answered for 5 s")])
def test_the_others_end_when_a_host_is_killed(tmp_path: Path, killed: int, line: str) -> None:
    with Hosts(LOOP, count=3, devices=1, folder=tmp_path) as started:
        started.wait_for("together")
        started.send(killed, signal.SIGKILL)
        results = started.results()
    assert results.pop(killed).code == -signal.SIGKILL
    assert_ended = assert_lost if killed == 0 else assert_one_line
    for result in results:
        assert_ended(result, line, "the same command goes on from the last checkpoint")


@pytest.mark.parametrize("wrong", [0, 1])
def test_the_others_say_what_was_wrong_at_one_host(tmp_path: Path, wrong: int) -> None:
    own = [["--config.seed=1"] if index == wrong else [] for index in range(3)]
    with Hosts(LOOP, count=3, devices=1, folder=tmp_path, own=own) as started:
        results = started.results()
    assert_one_line(results.pop(wrong), "error: config.data.dir=/nowhere: no such folder")
    for result in results:
        assert_one_line(result, f"error: host {wrong} has ended (config.data.dir=/nowhere: no such folder)")


def test_an_error_of_the_program_keeps_its_traceback(tmp_path: Path) -> None:
    with Hosts(LOOP, count=2, devices=1, folder=tmp_path, own=[[], ["--config.seed=2"]]) as started:
        first, second = started.results()
    assert second.code == 1
    assert "ValueError: of the program" in second.err
    assert_one_line(first, "host 1 has ended (ValueError)")


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_signal_outside_of_the_training_stops_all(tmp_path: Path, stopped: int) -> None:
    with Hosts(LOOP, count=2, devices=1, folder=tmp_path) as started:
        started.wait_for("together")
        started.send(stopped, signal.SIGTERM)
        results = started.results()
    assert [result.code for result in results] == [143, 143]
    assert f"host {stopped} was stopped by SIGTERM" in results[1 - stopped].err


def test_hosts_with_other_settings_refuse(tmp_path: Path, shared_signs_dir: Path) -> None:
    arguments, own = command(shared_signs_dir, tmp_path / "run"), [[], ["--config.seed=7"]]
    with Hosts(arguments, count=2, devices=1, folder=tmp_path, own=own) as started:
        first, second = started.results()
    assert_one_line(second, "host 1: has other settings than host 0: seed (there 0, here 7)")
    assert_one_line(first, "host 1 has ended", "seed (there 0, here 7)")
    assert not (tmp_path / "run").joinpath("config.json").exists()


def test_hosts_with_other_numbers_of_devices_refuse(tmp_path: Path, shared_signs_dir: Path) -> None:
    arguments = command(shared_signs_dir, tmp_path / "run")
    with Hosts(arguments, count=2, devices=[1, 2], folder=tmp_path) as started:
        first, second = started.results()
    assert_one_line(second, "host 1: has other program than host 0: number of devices (there 1, here 2)")
    assert_one_line(first, "host 1 has ended", "number of devices")


def test_a_host_with_other_images_refuses(tmp_path: Path, shared_signs_dir: Path, signs_dir: Path) -> None:
    with h5py.File(signs_dir / "test_signs.h5", "r+") as file:
        file["test_set_x"][0] ^= 255
    arguments = command(shared_signs_dir, tmp_path / "run")
    own = [[], [f"--config.data.dir={signs_dir}"]]
    with Hosts(arguments, count=2, devices=1, folder=tmp_path, own=own) as started:
        first, second = started.results()
    assert_one_line(second, "host 1: has other data than host 0: test images")
    assert_one_line(first, "host 1 has ended", "test images")


def test_a_port_that_another_program_uses_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("", 0))
        listener.listen()
        flags = host_flags(listener.getsockname()[1], number=2, index=0)
        with Hosts([*LOOP, *flags], count=1, devices=1, folder=tmp_path) as started:
            (result,) = started.results()
    assert_one_line(result, "config.hosts.coordinator=127.0.0.1:", "the port cannot be used")


def test_a_coordinator_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    own = [["--config.hosts.number=3"], ["--config.hosts.number=3", "--config.hosts.coordinator=localhost:9"]]
    with Hosts(LOOP, count=2, devices=1, folder=tmp_path, own=own) as started:
        results = started.results()
    for result in results:
        assert_lost(result, "config.hosts.coordinator=", f"within {TIMEOUT} s")


@pytest.mark.parametrize("mode", ["eval", "show_batch", "lr_find"])
def test_other_modes_run_on_one_host(run: Run, tmp_path: Path, mode: str) -> None:
    flags = ["--config.hosts.coordinator=localhost:1", "--config.hosts.number=2", "--config.hosts.index=0"]
    result = run(f"--mode={mode}", CONFIG, *flags, f"--workdir={tmp_path}")
    assert_refused(result, f"config.hosts: --mode={mode} runs on one host")
