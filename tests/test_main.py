"""The program as a whole: its help, its streams, and what it imports before it knows its settings."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import resnet
from modes import NAMES, load_modes
from tests.command_line import ROOT, Run, assert_succeeded, run_program
from tests.pictures import random_pictures, sort_into
from tests.runs import DIGITS, save_untrained_run, small_config


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that never trained."""
    config = small_config(compilation_cache=False)
    return save_untrained_run(tmp_path_factory.mktemp("main") / "run", config, DIGITS)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of eleven pictures: more than one batch."""
    return sort_into(tmp_path_factory.mktemp("pictures"), random_pictures(), ["."] * 11)


# Help


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_every_mode_with_a_line(run: Run, arguments: list[str]) -> None:
    result = run(*arguments)
    assert_succeeded(result)
    assert result.out.startswith("usage: python main.py ")
    lines = result.out.splitlines()
    assert len(NAMES) == len(load_modes()) == 11
    for name, mode in load_modes().items():
        (line,) = (line for line in lines if line.split()[:1] == [f"--mode={name}"])
        assert line.endswith(mode.help)


def test_help_names_modes_and_flags(run: Run) -> None:
    result = run("--help")
    assert result.code == 0
    for part in ("--mode=predict", "--workdir", "--config=", "configs/default.py"):
        assert part in result.out
    assert "--checkpoint" in run("--help", "--mode=predict").out


def test_help_of_a_mode_lists_its_flags_and_no_others(run: Run) -> None:
    result = run("--help", "--mode=eval")
    assert_succeeded(result)
    flags = {line.split()[0].partition("=")[0] for line in result.out.split("flags:")[1].splitlines() if line}
    assert flags == {
        "--config", "--workdir", "--weights", "--split", "--corruptions", "--crops", "--checkpoint", "--raw",
        "--json",
    }  # fmt: skip


def test_version_is_that_of_the_library(run: Run) -> None:
    assert run("--version") == (0, f"{resnet.__version__}\n", "")


# Streams and imports


def test_terminal_and_settings_of_a_fresh_process(workdir: Path, pictures: Path) -> None:
    result = run_program("main.py", "--mode=predict", f"--workdir={workdir}", pictures / "00.png")
    assert (result.returncode, result.stderr) == (0, "")
    assert len(result.stdout.splitlines()) == 3


def test_output_that_nobody_reads_any_more(workdir: Path, pictures: Path) -> None:
    """The pipe is closed as by `| head -1`."""
    command = [sys.executable, "main.py", "--mode=predict", f"--workdir={workdir}", "--json", pictures]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_jax_starts_only_after_its_settings() -> None:
    code = "import sys, main; main.load_modes(); sys.exit('jax' in sys.modules)"
    assert run_program("-c", code).returncode == 0
