"""The lock of a workdir."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from resnet.errors import UserError
from tests.command_line import ROOT, SHORT_TRAINING, run_main
from workdir import lock
from workdir.lock import LOCK_FILE, check_shared, locked

HOLDER = """
import sys, time
from pathlib import Path
from workdir.lock import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def hold(workdir: Path) -> subprocess.Popen:
    """Starts a process that holds the lock of `workdir`."""
    command = [sys.executable, "-c", HOLDER, workdir]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "locked\n"
    return process


def test_the_second_is_refused_and_told_who_trains_and_a_stale_lock_is_taken_over(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    workdir = tmp_path / "run"
    with hold(workdir) as process:
        try:
            assert run_main(*SHORT_TRAINING, f"--workdir={workdir}") == 2
            (line,) = capfd.readouterr().err.splitlines()
            assert line.startswith(
                f"error: --workdir={workdir}: process {process.pid} on {socket.gethostname()}"
            )
        finally:
            process.send_signal(signal.SIGKILL)
    assert os.listdir(workdir) == [LOCK_FILE]
    with locked(workdir):
        assert f"process {os.getpid()} " in (workdir / LOCK_FILE).read_text()
    assert os.listdir(workdir) == []


def test_a_seed_that_another_process_trains_is_refused(
    tmp_path: Path, shared_signs_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    workdir = tmp_path / "run"
    flags = [*SHORT_TRAINING, f"--config.data.dir={shared_signs_dir}", "--config.seeds=4,1"]
    with hold(workdir / "seed_4") as process:
        try:
            assert run_main(*flags, f"--workdir={workdir}") == 2
        finally:
            process.kill()
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"error: --workdir={workdir / 'seed_4'}: process {process.pid} on ")
    assert os.listdir(workdir / "seed_4") == [LOCK_FILE]
    assert not (workdir / "seed_1").exists()


def test_a_folder_that_was_made_and_stays_empty_is_removed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="bad"), locked(tmp_path / "runs" / "one"):
        raise UserError("bad")
    assert os.listdir(tmp_path) == []
    with locked(tmp_path / "runs" / "one"):
        (tmp_path / "runs" / "one" / "file").touch()
    assert os.listdir(tmp_path / "runs" / "one") == ["file"]


def test_a_holder_that_removes_its_file_meanwhile_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that was opened is gone; another process may lock the one that now has its name."""
    opened = []

    def open_and_remove_once(path: Path, *arguments: int) -> int:
        opened.append(real_open(path, *arguments))
        if len(opened) == 1:
            os.unlink(path)
        return opened[-1]

    real_open = os.open
    monkeypatch.setattr(os, "open", open_and_remove_once)
    with locked(tmp_path):
        assert len(opened) == 2
        assert f"process {os.getpid()} " in (tmp_path / LOCK_FILE).read_text()


def test_where_the_lock_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/run: cannot be written"), locked(tmp_path / "file" / "run"):
        pass


def test_a_host_that_sees_another_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "PATIENCE", 0.3)
    shared, other = tmp_path / "run", tmp_path / "other"
    with locked(shared):
        holder = (shared / LOCK_FILE).read_text().strip()
        check_shared(shared, lambda value: value)  # the writer itself
        check_shared(shared, lambda value: holder)
        with pytest.raises(UserError, match=f"--workdir={other}: is not the folder in which {holder} trains"):
            check_shared(other, lambda value: holder)
