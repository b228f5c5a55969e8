"""The rows of the suite are commands that run, each with its own report."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from benchmarks import contest, growth, startup, suite
from benchmarks.suite import ROWS, Row, command
from resnet.errors import UserError


@pytest.mark.parametrize(
    ("device", "row"), [(device, row) for device, rows in ROWS.items() for row in rows], ids=str
)
def test_a_row_is_a_command_that_its_benchmark_accepts(
    monkeypatch: pytest.MonkeyPatch, device: str, row: Row
) -> None:
    arguments = command(row, device)
    assert arguments[:2] == ["-m", f"benchmarks.{row.benchmark}"]
    monkeypatch.setattr(sys, "argv", arguments[1:])
    match row.benchmark:
        case "startup":
            options, settings = startup._parse()
            assert settings == []
        case "growth":
            options = growth._parse()
            for _, case in growth.cases(options):
                growth._check(case)
        case task:
            options = contest._parse("", [1], 1)
            peers = contest._select_peers(
                {"train_step": "train", "inference": "inference"}[task], device, options.peers
            )
            assert {"ours", "flax", "torch_eager"} <= set(peers)
            assert len(options.batch) == len(options.image_size) == 1
    assert options.device == device
    assert options.json.stem == row.name


def test_every_row_has_a_report_of_its_own() -> None:
    rows = [row.name for rows in ROWS.values() for row in rows]
    assert len(set(rows)) == len(rows)


def test_rows_can_be_measured_alone_and_in_other_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = []
    monkeypatch.setattr(
        subprocess, "run", lambda command, cwd: commands.append(command) or SimpleNamespace(returncode=0)
    )
    suite._run("cpu", ["startup", "train_64_b32"], 2, only_list=False)
    assert [command[2] for command in commands] == ["benchmarks.startup", "benchmarks.train_step"]
    assert all([o for o in command if "--rounds" in o][-1] == "--rounds=2" for command in commands)


def test_a_row_that_fails_is_reported_after_the_others_have_run(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []

    def run(command: list[str], cwd: object) -> SimpleNamespace:
        ran.append(command[2])
        return SimpleNamespace(returncode=int(command[2] == "benchmarks.startup"))

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["suite", "--only=startup,growth"])
    assert suite.main() == 1
    assert ran == ["benchmarks.startup", "benchmarks.growth"]


def test_an_unknown_row_is_reported_in_one_line() -> None:
    with pytest.raises(UserError, match=r"--only=growht: no such row; expected some of train_64_b32, "):
        suite._run("cpu", ["growht"], None, only_list=False)
