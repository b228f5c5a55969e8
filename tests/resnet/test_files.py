"""Results are written whole, or the user gets an error."""

import json
from pathlib import Path

import pytest

from benchmarks.rounds import summarize
from resnet.errors import UserError
from resnet.files import write_json


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
