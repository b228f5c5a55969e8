"""Rendered images are drawn once, and again whenever what was kept cannot be trusted."""

from pathlib import Path

import numpy as np
import pytest

from datasets import render_cache
from datasets.render_cache import cached

SHAPE = (500, 2, 2, 4)


class Drawer:
    """Draws other images each time, and counts."""

    count = 0

    def __call__(self) -> np.ndarray:
        self.count += 1
        return np.random.default_rng(self.count).integers(0, 256, SHAPE, np.uint8)


@pytest.fixture
def draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Drawer:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return Drawer()


def kept(tmp_path: Path) -> list[Path]:
    return sorted(file for file in tmp_path.rglob("*") if file.is_file())


def test_images_are_drawn_once_for_each_name(tmp_path: Path, draw: Drawer) -> None:
    first = cached("a", SHAPE, draw)
    np.testing.assert_array_equal(cached("a", SHAPE, draw), first)
    assert draw.count == 1
    assert not np.array_equal(cached("b", SHAPE, draw), first)
    assert len(kept(tmp_path)) == 2


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b"\0" + b[1:], lambda b: b"", lambda b: b + b"x"]
)
def test_a_damaged_file_is_drawn_again(tmp_path: Path, draw: Drawer, damage) -> None:
    cached("a", SHAPE, draw)
    (file,) = kept(tmp_path)
    file.write_bytes(damage(file.read_bytes()))
    again = cached("a", SHAPE, draw)
    assert draw.count == 2
    np.testing.assert_array_equal(cached("a", SHAPE, draw), again)
    assert draw.count == 2


def test_another_version_of_the_renderer_replaces_what_was_kept(
    tmp_path: Path, draw: Drawer, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached("a", SHAPE, draw)
    monkeypatch.setattr(render_cache, "_source_digest", lambda: "other")
    cached("a", SHAPE, draw)
    assert draw.count == 2
    (file,) = kept(tmp_path)
    assert file.parent.name == "other"


def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, draw: Drawer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert cached("a", SHAPE, draw).shape == SHAPE
    assert draw.count == 1


def test_few_images_are_not_kept(tmp_path: Path, draw: Drawer) -> None:
    cached("a", (499, 2, 2, 4), draw)
    assert not kept(tmp_path)
