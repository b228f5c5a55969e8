"""The program as a whole: its help, its streams, and what it imports before it knows its settings."""

import os
import signal
import subprocess
import sys
import time
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
    assert len(NAMES) == len(load_modes()) == 12
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


@pytest.mark.parametrize(
    ("redirections", "code"),
    [
        (">&-", 0),
        (">&- 2>&- <&-", 0),
        (">/dev/full", 2),
        (">/dev/full 2>/dev/full", 2),
        ("2>/dev/full", 0),
        ("| true; exit ${PIPESTATUS[0]}", 141),
    ],
)
def test_streams_that_are_closed_or_full(redirections: str, code: int) -> None:
    command = ["bash", "-c", f"{sys.executable} main.py --help {redirections}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == code
    told = code == 2 and "2>" not in redirections
    line = "error: standard output: cannot be written (No space left on device)"
    assert [text.partition(";")[0] for text in result.stderr.splitlines()] == [line] * told
    assert result.stdout.startswith("usage:") == (redirections == "2>/dev/full")


def test_letters_that_the_output_lacks_are_escaped() -> None:
    code = "from resnet.streams import prepare_streams; prepare_streams(); print('Schön 猫')"
    result = run_program("-c", code, environment=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert (result.returncode, result.stdout) == (0, "Sch\\xf6n \\u732b\n")


@pytest.mark.parametrize("locale", [{"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, {}])
def test_names_are_utf8_in_any_locale(tmp_path: Path, locale: dict[str, str]) -> None:
    result = run_program("main.py", "--mode=eval", f"--workdir={tmp_path}/é", environment=os.environ | locale)
    shown = "\\xe9" if locale else "é"
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {tmp_path}/{shown}: no trained run here")


# Signals


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("doing", ["pass", "import hashlib; hashlib.pbkdf2_hmac('md5', b'', b'', 10**9)"])
def test_a_signal_ends_the_program_at_any_moment(tmp_path: Path, signum: int, code: int, doing: str) -> None:
    """Even where Python would swallow an exception, or does not come to call a handler."""
    program = f"""
from pathlib import Path
from resnet.files import replacement
from resnet.signals import exit_at_signals, exit_inside_calls
exit_at_signals()
exit_inside_calls()
with replacement(Path({str(tmp_path / "file")!r})) as temporary:
    temporary.write_text("half")
    print("ready", flush=True)
    class Endless:
        def __del__(self):
            while True:
                {doing}
    Endless()
"""  # The digest is one call, of minutes.

    command = [sys.executable, "-c", program]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signum)
        try:
            _, stderr = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (process.returncode, stderr) == (code, "")
    assert list(tmp_path.iterdir()) == []


def test_a_signal_while_all_is_imported() -> None:
    for moment in (0.0, 0.1, 0.2, 0.4):
        command = [sys.executable, "-X", "importtime", "main.py", "--help"]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as process:
            for line in process.stderr:
                if line.endswith(" resnet.signals\n"):
                    break
            time.sleep(0.02 + moment)
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate()
        assert process.returncode in (130, 0)
        assert "Traceback" not in stderr
