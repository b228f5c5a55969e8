"""Rendered images are drawn once, and again when the cached file cannot be trusted."""

import ast
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from datasets.rendered import cache
from datasets.rendered.cache import load_or_draw

SHAPE = (500, 2, 2, 4)


class Drawer:
    """Draws new images every time and counts the calls."""

    count = 0

    def __call__(self) -> np.ndarray:
        self.count += 1
        return np.random.default_rng(self.count).integers(0, 256, SHAPE, np.uint8)


@pytest.fixture
def draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Drawer:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return Drawer()


def cached_files(tmp_path: Path) -> list[Path]:
    return sorted(file for file in tmp_path.rglob("*") if file.is_file())


def test_images_are_drawn_once_for_each_name(tmp_path: Path, draw: Drawer) -> None:
    first = load_or_draw("a", SHAPE, draw)
    np.testing.assert_array_equal(load_or_draw("a", SHAPE, draw), first)
    assert draw.count == 1
    assert not np.array_equal(load_or_draw("b", SHAPE, draw), first)
    assert len(cached_files(tmp_path)) == 2


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b"\0" + b[1:], lambda b: b"", lambda b: b + b"x"]
)
def test_a_damaged_file_is_drawn_again(
    tmp_path: Path, draw: Drawer, damage: Callable[[bytes], bytes]
) -> None:
    load_or_draw("a", SHAPE, draw)
    (file,) = cached_files(tmp_path)
    file.write_bytes(damage(file.read_bytes()))
    again = load_or_draw("a", SHAPE, draw)
    assert draw.count == 2
    np.testing.assert_array_equal(load_or_draw("a", SHAPE, draw), again)
    assert draw.count == 2


def test_another_version_of_the_renderer_replaces_what_was_kept(
    tmp_path: Path, draw: Drawer, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_or_draw("a", SHAPE, draw)
    monkeypatch.setattr(cache, "_source_digest", lambda: "other")
    load_or_draw("a", SHAPE, draw)
    assert draw.count == 2
    (file,) = cached_files(tmp_path)
    assert file.parent.name == "other"


def test_what_was_unused_the_longest_is_removed_beyond_the_limit(
    tmp_path: Path, draw: Drawer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        load_or_draw(name, SHAPE, draw)
    files = cached_files(tmp_path)
    for time, file in enumerate(files):
        os.utime(file, (time, time))
    load_or_draw("a", SHAPE, draw)  # It is used again, so `b` goes.
    assert draw.count == 3
    monkeypatch.setattr(cache, "LIMIT", 3 * files[0].stat().st_size)
    load_or_draw("d", SHAPE, draw)
    assert [file.name for file in cached_files(tmp_path)] == ["a.bin", "c.bin", "d.bin"]


def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, draw: Drawer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert load_or_draw("a", SHAPE, draw).shape == SHAPE
    assert draw.count == 1


def test_few_images_are_not_kept(tmp_path: Path, draw: Drawer) -> None:
    load_or_draw("a", (499, 2, 2, 4), draw)
    assert not cached_files(tmp_path)


# The version of the renderer

FOLDER = Path(cache.__file__).parent
ROOT = FOLDER.parents[1]


def imported_files(file: Path) -> Iterator[Path]:
    """Yields the files of the project's data sets that `file` imports anything from."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            # What is imported is a module of its own or a name inside one.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if source_file(name) else node.module for name in names]
        else:
            continue
        yield from (source_file(name) for name in names if source_file(name))


def source_file(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    files = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in files if module.startswith("datasets") and file.is_file()), None)


def test_the_version_covers_the_files_that_pictures_depend_on_and_no_more() -> None:
    files, new = set(), {FOLDER / "render.py"}
    while new:
        files |= new
        new = {imported for file in new for imported in imported_files(file)} - files
    assert {file.relative_to(FOLDER).as_posix() for file in files} == set(cache.SOURCES)
    # Packages run when a module inside them is imported. This one has nothing that pictures depend on.
    (docstring,) = ast.parse((FOLDER / "__init__.py").read_text()).body
    assert isinstance(docstring, ast.Expr)


def test_an_edit_makes_a_new_version_if_pictures_depend_on_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(FOLDER, tmp_path / "rendered")
    monkeypatch.setattr(cache, "__file__", str(tmp_path / "rendered" / "cache.py"))
    version = cache._source_digest.__wrapped__()
    for file in sorted((tmp_path / "rendered").glob("*.py")):
        content = file.read_text()
        file.write_text(content + "# edited\n")
        is_new = cache._source_digest.__wrapped__() != version
        assert is_new == (file.name not in ("__init__.py", "__main__.py", "cache.py", "dataset.py"))
        file.write_text(content)
