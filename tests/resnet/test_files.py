"""Results are written whole, or the user gets an error."""

import errno
import json
import os
from pathlib import Path

import pytest

from benchmarks.rounds import summarize
from resnet.errors import UserError
from resnet.files import disk_error, replacement, write_json, write_result


def test_report_is_written_as_json(tmp_path: Path) -> None:
    path = tmp_path / "results" / "report.json"
    report = {"rows": summarize({"ours": [1.5, 2.5]}, None), "left_out": {"peer": "not installed"}}
    write_json(path, report)
    assert json.loads(path.read_text()) == report
    assert [file.name for file in path.parent.iterdir()] == ["report.json"]


def test_report_that_cannot_be_written_is_an_error_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"report\.json: cannot be written"):
        write_json(tmp_path / "file" / "report.json", {})


def test_what_cannot_be_written_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_result(tmp_path / "old", "old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match=r"No space left on device\); free some space"):
        write_result(tmp_path / "old", "new")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("old", "old")]


def test_two_that_write_the_same_file_at_once_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with replacement(path) as one, replacement(path) as other:
        other.write_text("whole")
        one.write_text("wh")
    assert path.read_text() == "wh"
    assert list(tmp_path.iterdir()) == [path]


def test_words_of_the_disk_are_found_in_what_orbax_raises() -> None:
    error = ValueError("RESOURCE_EXHAUSTED: Error writing: Failed to write [os_error_code='28']")
    assert disk_error(error) == disk_error(OSError(28, "No space left on device"))
    assert disk_error(ValueError("of the program")) is None
