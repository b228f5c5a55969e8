"""A training from the command to its end: its phases, as seen from outside."""

import sys
from pathlib import Path

import pytest

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
    result = by_phase(watched, workdir, parse_command(arguments).settings().batch_size)
    assert result["start"] + result["training"] + result["end"] == pytest.approx(result["seconds"])
    assert result["steps"] < result["seconds"]
    assert result["summary"]["steps"] == 4
    row = format_results([result]).splitlines()[-1].split()
    assert row[1] == f"{watched.end:.1f}"


def test_a_training_that_fails_is_reported_with_its_last_line(tmp_path: Path) -> None:
    command = [sys.executable, "main.py", f"--workdir={tmp_path / 'run'}", "--config=lost.py"]
    with pytest.raises(Failed, match=r"exit code 2: .*lost\.py"):
        watch(command, tmp_path / "run", start_environment("cpu", str(tmp_path)))
