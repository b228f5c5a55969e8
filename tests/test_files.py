"""Results are written whole, or their user is told."""

import json
from pathlib import Path

import pytest

from benchmarks.rounds import summarize
from errors import UserError
from files import write_json


def test_report_is_written_as_json(tmp_path: Path) -> None:
    path = tmp_path / "results" / "report.json"
    report = {"rows": summarize({"ours": [1.5, 2.5]}, None), "left_out": {"peer": "not installed"}}
    write_json(path, report)
    assert json.loads(path.read_text()) == report
    assert [each.name for each in path.parent.iterdir()] == ["report.json"]


def test_report_that_cannot_be_written_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"report\.json: cannot be written"):
        write_json(tmp_path / "file" / "report.json", {})
