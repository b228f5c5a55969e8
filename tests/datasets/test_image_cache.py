"""Decoded images are kept whole or not at all, found again by content, and never trusted if damaged."""

import errno
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from datasets import image_cache
from datasets.cache_files import remove_longest_unused
from datasets.decoding import Square
from datasets.image_cache import Decoded, load_or_decode
from datasets.lazy_images import LazyImages
from resnet.errors import UserError
from tests.datasets.listings import BROKEN, MemorySource, noisy, png

SQUARE = Square(12, 1.0, "crop")
SIZE = 4 * 12 * 12 * 3


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the entries, in a cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "resnet-signs" / "images"


def source() -> MemorySource:
    """Four files, of which b.png cannot be decoded."""
    return MemorySource(
        {"a.png": png(noisy(0)), "b.png": BROKEN, "c.png": png(noisy(1)), "d.png": png(noisy(2))}
    )


def load(files: MemorySource, place: str = "/photos", square: Square = SQUARE) -> Decoded:
    return load_or_decode(list(files.files), files, square, place)


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.images"))


def assert_right(decoded: Decoded) -> None:
    np.testing.assert_array_equal(decoded.images, [noisy(0), noisy(1), noisy(2)])
    assert list(decoded.unreadable) == [1]
    assert decoded.unreadable[1].startswith("b.png: is not an image")


@pytest.fixture
def not_decoded(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Lets decoding fail from the call on."""

    def fail(*arguments: object) -> None:
        raise AssertionError("decoded again")

    return lambda: monkeypatch.setattr(image_cache, "decode", fail)


def test_the_second_start_reads_no_image_and_remembers_unreadable_ones():
    files = source()
    assert_right(load(files))
    assert max(files.reads.values()) == 1
    again = load(files)
    assert_right(again)
    assert max(files.reads.values()) == 1
    assert not again.images.flags.writeable


def test_a_copy_at_another_place_is_read_but_not_decoded(not_decoded):
    load(source())
    not_decoded()
    copy = source()
    copy.times = dict.fromkeys(copy.times, 7)
    assert_right(load(copy, place="/copies"))
    assert max(copy.reads.values()) == 1
    assert_right(load(copy, place="/copies"))
    assert max(copy.reads.values()) == 1


def test_other_files_with_the_same_stamps_at_another_place_are_not_confused():
    load(source())
    others = source()
    others.files["a.png"] = png(noisy(0)[::-1])
    others.stamps = source().stamps
    np.testing.assert_array_equal(load(others, place="/others").images[0], noisy(0)[::-1])


def test_an_edited_file_is_noticed():
    files = source()
    load(files)
    files.edit("b.png", png(noisy(3)))
    decoded = load(files)
    assert decoded.unreadable == {}
    np.testing.assert_array_equal(decoded.images[1], noisy(3))


@pytest.mark.parametrize("square", [Square(10, 1.0, "crop"), Square(12, 0.9, "crop"), Square(12, 1.0, "pad")])
def test_every_square_has_its_own_entry(folder, square):
    load(source())
    load(source(), square=square)
    assert len(entries(folder)) == 2


def test_another_version_of_the_decoder_decodes_anew(folder, monkeypatch):
    load(source())
    monkeypatch.setattr(image_cache, "_version", lambda: "another")
    files = source()
    assert_right(load(files))
    assert files.reads
    assert len(entries(folder)) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: b"",
        lambda data: data + b"x",
        lambda data: bytes([data[0] ^ 1]) + data[1:],
        lambda data: data[:-60] + bytes([data[-60] ^ 1]) + data[-59:],
        lambda data: data[:-1] + b"\xff",
        lambda data: bytes(len(data)),
    ],
)
def test_what_is_damaged_is_decoded_anew(folder, damage):
    files = source()
    load(files)
    [entry] = entries(folder)
    data = entry.read_bytes()
    entry.write_bytes(damage(data))
    assert_right(load(files))
    assert files.reads["a.png"] > 1
    assert entry.read_bytes() == data


def test_a_file_that_cannot_be_opened_is_tried_again(folder, capsys):
    files = source()
    content, files.files["c.png"] = files.files["c.png"], None
    assert load(files).unreadable[2] == "c.png: cannot be read"
    assert "note: the decoded images are not kept" in capsys.readouterr().err
    assert [*folder.glob("*.images"), *folder.glob("*.tmp")] == []
    files.files["c.png"] = content
    assert_right(load(files))


# Trouble with the disk


@pytest.mark.parametrize("name", ["_reserve", "_finish"])
def test_a_full_disk_is_one_line_and_training_goes_on(folder, monkeypatch, capsys, name):
    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(image_cache, name, fail)
    assert_right(load(source()))
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["note: the decoded images are not kept for the next start (No space left on device)"]
    assert [file for file in folder.rglob("*") if file.is_file()] == []


def test_a_cache_folder_that_cannot_be_written_is_one_line(folder, capsys):
    folder.parent.parent.mkdir(exist_ok=True)
    folder.parent.write_text("a file in the way")
    assert_right(load(source()))
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_without_a_cache_folder_images_are_in_memory(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert_right(load(source()))


def test_images_that_fit_nowhere_are_refused(monkeypatch):
    monkeypatch.setattr(image_cache, "LIMIT", SIZE - 1)
    monkeypatch.setattr(os, "sysconf", lambda name: 10)
    with pytest.raises(UserError, match=r"4 images of 12x12 pixels take .* GB, and the memory is"):
        load(source())


def test_a_kill_leaves_nothing_that_counts_and_the_next_start_removes_it(folder, tmp_path):
    program = """
import os, signal
from datasets import image_cache
from tests.datasets.test_image_cache import load, source
image_cache._finish = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
load(source())
"""
    killed = subprocess.run([sys.executable, "-c", program], check=False)
    assert killed.returncode == -9
    assert len([*folder.glob("*.tmp")]) == 1
    assert entries(folder) == []
    assert_right(load(source()))
    assert [*folder.glob("*.tmp")] == []
    assert len(entries(folder)) == 1


def test_a_draft_of_a_living_process_is_left_alone(folder):
    with image_cache._draft(folder, 100) as living, image_cache._draft(folder, 100):
        assert Path(living.name).exists()
    assert [*folder.glob("*.tmp")] == []


def test_two_processes_that_start_at_once_both_get_their_images(folder):
    program = "from tests.datasets.test_image_cache import *; assert_right(load(source()))"
    starts = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(2)]
    assert [start.wait() for start in starts] == [0, 0]
    assert len(entries(folder)) == 1


# Size


def test_what_was_unused_the_longest_is_removed_first(folder, monkeypatch):
    first, second, third = (source() for _ in range(3))
    for i, files in enumerate((first, second, third)):
        files.edit("d.png", png(noisy(10 + i)))
    load(first, "/1")
    [oldest] = entries(folder)
    load(second, "/2")
    for entry in entries(folder):
        hours = 2 if entry == oldest else 1
        os.utime(entry, (time.time() - 3600 * hours,) * 2)
    load(first, "/1")  # It is used again, so the second one goes.
    used = sum(entry.stat().st_size for entry in entries(folder))
    monkeypatch.setattr(image_cache, "LIMIT", used + SIZE - 1)
    load(third, "/3")
    assert len(entries(folder)) == 2
    assert len([*folder.glob("places/*")]) == 2
    reads = first.reads.total(), third.reads.total()
    load(first, "/1")
    load(third, "/3")
    assert (first.reads.total(), third.reads.total()) == reads


def test_images_above_the_limit_are_not_kept(folder, monkeypatch, capsys):
    monkeypatch.setattr(image_cache, "LIMIT", SIZE - 1)
    assert_right(load(source()))
    assert entries(folder) == []
    assert "in the cache folder)" in capsys.readouterr().err


def test_a_file_that_another_process_removes_meanwhile_is_no_error(tmp_path):
    (tmp_path / "kept").write_bytes(b"kept")
    remove_longest_unused([tmp_path / "gone", tmp_path / "kept"], 4)
    assert (tmp_path / "kept").exists()


# Lazy images


def load_lazily(files: MemorySource, place: str = "/photos") -> Decoded:
    return load_or_decode(list(files.files), files, SQUARE, place, lazy=True)


def test_lazy_images_are_read_from_the_cache_and_not_decoded_again(not_decoded, folder):
    assert_right(load_lazily(source()))
    not_decoded()
    decoded = load_lazily(source())
    assert_right(decoded)
    assert isinstance(decoded.images, LazyImages)
    assert not decoded.images.decodes
    entries(folder)[0].unlink()  # as another process may, to make room
    assert_right(decoded)


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_cache, "LIMIT", SIZE - 1)


@pytest.mark.usefixtures("no_room")
def test_lazy_images_without_room_are_decoded_each_time_and_surveyed_once(not_decoded, folder, capfd):
    files = source()
    decoded = load_lazily(files)
    assert_right(decoded)
    assert decoded.images.decodes
    assert "not kept for the next start" in capfd.readouterr().err
    assert files.reads["a.png"] == 3  # the first time to see whether single files can be read
    assert_right(pickle.loads(pickle.dumps(decoded)))
    not_decoded()
    assert_right(load_lazily(source()))
    (survey,) = (folder / "surveys").iterdir()
    survey.write_bytes(survey.read_bytes()[1:])
    with pytest.raises(AssertionError, match="decoded again"):
        load_lazily(source())


@pytest.mark.usefixtures("no_room")
def test_a_lazy_file_that_cannot_be_opened_is_tried_again():
    files = source()
    files.stamps = source().stamps  # as where it is a disk that fails, not the file
    content, files.files["c.png"] = files.files["c.png"], None
    assert load_lazily(files).unreadable[2] == "c.png: cannot be read"
    files.files["c.png"] = content
    assert_right(load_lazily(files))


@pytest.mark.usefixtures("no_room")
def test_surveys_unused_the_longest_make_room(not_decoded, folder, monkeypatch):
    for place in ("/1", "/2"):
        load_lazily(source(), place)
    for survey in (folder / "surveys").iterdir():
        os.utime(survey, (time.time() - 3600,) * 2)
    load_lazily(source(), "/1")  # It is used again, so the second one goes.
    size = next((folder / "surveys").iterdir()).stat().st_size
    monkeypatch.setattr(image_cache, "SURVEYS_LIMIT", 2 * size)
    load_lazily(source(), "/3")
    not_decoded()
    for place in ("/1", "/3"):
        load_lazily(source(), place)
    with pytest.raises(AssertionError, match="decoded again"):
        load_lazily(source(), "/2")


@pytest.mark.usefixtures("no_room")
def test_a_file_that_changes_under_a_training_is_noticed():
    files = source()
    images = load_lazily(files).images
    files.edit("c.png", png(noisy(9)))
    with pytest.raises(UserError, match=r"^c\.png: has changed since it was first read; start again$"):
        images[1]
    files.edit("c.png", BROKEN)
    with pytest.raises(UserError, match=r"^c\.png: is not an image"):
        images[1]
    np.testing.assert_array_equal(images[0], noisy(0))


def test_squares_are_surveyed_even_with_room(folder):
    files = source()
    files.square_size = SQUARE.size
    assert load_lazily(files).images.decodes
    assert not entries(folder)
