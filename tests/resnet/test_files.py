"""Results are written whole, or the user gets an error."""

import errno
import json
import os
import tracemalloc
from pathlib import Path

import pytest

from benchmarks.rounds import summarize
from resnet.errors import UserError
from resnet.files import disk_error, read_file, replacement, write_json, write_result


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


def test_a_device_is_written_into_and_stays_one() -> None:
    # A terminal, in whose folder nothing can be made: with a fault here, root would replace /dev/null.
    ours, theirs = os.openpty()
    device = Path(os.ttyname(theirs))
    write_result(device, "result")
    assert os.read(ours, 100) == b"result"
    assert device.is_char_device()
    os.close(theirs)
    os.close(ours)


def test_a_result_is_not_lost_in_a_device_behind_a_link(tmp_path: Path) -> None:
    (link := tmp_path / "index.html").symlink_to("/dev/null")
    with pytest.raises(UserError, match=r"cannot be written \(links to /dev/null, which is not a file"):
        write_result(link, "result")
    assert link.is_symlink()


def test_a_pipe_is_written_into_if_somebody_reads(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe: cannot be written"):
        write_result(pipe, "result")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_result(pipe, "result")
    assert os.read(reader, 100) == b"result"
    os.close(reader)
    assert pipe.is_fifo()


def test_links_are_followed(tmp_path: Path) -> None:
    for name, target in (("new", "folder/new.json"), ("old", "folder/old.json")):
        (tmp_path / name).symlink_to(target)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old.json").write_text("old")
    for name in ("new", "old"):
        write_result(tmp_path / name, "result")
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "folder" / f"{name}.json").read_text() == "result"


def test_reading_takes_no_more_memory_than_the_file_has_bytes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"small")
    tracemalloc.start()
    assert read_file(tmp_path / "file", 2**31) == b"small"
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


def test_reading_ends_at_the_limit(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert read_file(tmp_path / "file", 5) == b"12345"
    with pytest.raises(UserError, match="has more than 4 bytes"):
        read_file(tmp_path / "file", 4)
    version = Path("/proc/version")  # Its size is said to be 0.
    assert read_file(version, 2**20) == version.read_bytes()
    with pytest.raises(UserError, match="has more than 4 bytes"):
        read_file(version, 4)


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
