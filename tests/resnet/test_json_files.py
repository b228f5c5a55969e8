"""JSON that somebody edited is read as its schema says, or the user gets one line."""

import os
from pathlib import Path

import pytest

from resnet.errors import UserError
from resnet.files import read_file
from resnet.json_files import read_json

SCHEMA = {
    "type": "object",
    "required": ["step"],
    "properties": {
        "step": {"type": "integer", "minimum": 0},
        "names": {"type": "array", "uniqueItems": True},
    },
}


def test_json_of_the_right_form_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"step": 3, "names": ["ä"]}')
    assert read_json(tmp_path / "a.json", SCHEMA) == {"step": 3, "names": ["ä"]}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is not JSON"),
        (b'{"step": 3', "is not JSON"),
        (b'{"step": "3"}', "a.json: step: '3' is not of type 'integer'"),
        (b'{"step": -1}', "step: -1 is less than the minimum of 0"),
        (b"{}", "'step' is a required property"),
        (b"[3]", "is not of type 'object'"),
        (b"\xff\xfe{}", "is not UTF-8"),
        (b"[" * 100_000, "too many brackets"),
        (b'{"step": ' + b"9" * 5000 + b"}", "is not JSON"),
        (b'{"step": 1, "names": "' + b"x" * 1000 + b'"}', "names: 'xxx"),
        (b'{"step": NaN}', "NaN is no number of JSON"),
        (b'{"step": -Infinity}', "-Infinity is no number of JSON"),
        (b'{"step": 1, "names": ["a", "b", "a"]}', "['a', 'b', 'a'] has non-unique elements"),
        # Of mixed types every two would be compared, which takes an hour.
        (b'{"step": 1, "names": [' + b'0, "a", ' * 100_000 + b"[]]}", "non-unique elements"),
    ],
)
def test_other_content_is_refused_in_a_short_line(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.json: ") as error:
        read_json(tmp_path / "a.json", SCHEMA)
    assert expected in str(error.value)
    assert len(str(error.value)) < 400 + len(str(tmp_path))


def test_files_beyond_the_limit_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"step": 3}')
    with pytest.raises(UserError, match="more than 4 bytes"):
        read_json(tmp_path / "a.json", SCHEMA, max_bytes=4)


def test_what_is_no_ordinary_file_is_refused_and_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, kind in (
        (tmp_path / "pipe", "a pipe"),
        (tmp_path, "a folder"),
        (Path("/dev/zero"), "a device"),
    ):
        with pytest.raises(UserError, match=f"is {kind}, expected an ordinary file"):
            read_file(path, 10)


def test_missing_files_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "none.json", tmp_path / "file" / "none.json"):
        with pytest.raises(FileNotFoundError):
            read_json(path, SCHEMA)
    with pytest.raises(UserError, match="null byte"):
        read_file(Path("a\0b"), 10)
