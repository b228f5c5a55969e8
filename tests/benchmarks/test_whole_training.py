"""A training from the command to its end: its phases, as seen from outside."""

import itertools
import os
import sys
from pathlib import Path

import pytest

from benchmarks import whole_training
from benchmarks.program import parse_command
from benchmarks.rounds import Failed
from benchmarks.startup import start_environment
from benchmarks.whole_training import by_phase, format_results, watch
from tests.benchmarks.small_runs import SMALL


def test_the_phases_of_a_training(tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    arguments = ["--config=configs/rendered.py", f"--workdir={workdir}", *SMALL]
    environment = start_environment("cpu", str(tmp_path / "cache"))
    watched = watch([sys.executable, "main.py", *arguments], workdir, environment)
    assert 0 < watched.first_steps <= watched.last_steps <= watched.end
    assert watched.gpu_memory == 0
    batch_size = parse_command(arguments).settings().batch_size
    result = by_phase(watched, workdir, batch_size)
    assert result["steps"] < result["seconds"]
    assert result["summary"]["steps"] == 4
    row = format_results([result]).splitlines()[-1].split()
    assert row[1] == f"{watched.end:.1f}"
    phases = by_phase(watched._replace(first_steps=3.0, last_steps=7.0, end=9.0), workdir, batch_size)
    assert [phases[name] for name in ("start", "training", "end", "seconds")] == [3.0, 4.0, 2.0, 9.0]


def test_a_training_that_fails_is_reported_with_its_last_line(tmp_path: Path) -> None:
    command = [sys.executable, "main.py", f"--workdir={tmp_path / 'run'}", "--config=lost.py"]
    with pytest.raises(Failed, match=r"exit code 2: .*lost\.py"):
        watch(command, tmp_path / "run", start_environment("cpu", str(tmp_path)))


def test_what_a_training_adds_to_an_idle_gpu_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_use = itertools.chain([0], itertools.repeat(5 * 10**9))
    monkeypatch.setattr(whole_training, "gpu_names", lambda: ["H100"])
    monkeypatch.setattr(whole_training, "gpu_memory", lambda: next(in_use))
    monkeypatch.setattr(whole_training, "MEMORY_SECONDS", 0.0)
    command = [sys.executable, "-c", "import time; time.sleep(0.5)"]
    assert watch(command, tmp_path, dict(os.environ)).gpu_memory == 5 * 10**9
