"""Checkpoints: what is restored is what was saved, whatever happened to the files."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet import checkpoint
from resnet.checkpoint import Checkpoints, Expected
from resnet.checksums import check_files
from resnet.errors import UserError
from tests.command_line import ROOT
from tests.damages import put_in_place


def make_state(step: int) -> dict:
    params = {"head": {"kernel": jnp.full((64, 32), step, jnp.float32)}}
    batch_stats = {"norm": {"mean": jnp.full(32, step + 0.5)}}
    average = jax.tree.map(lambda leaf: -leaf, {"params": params, "batch_stats": batch_stats})
    return {"params": params, "batch_stats": batch_stats, "ema": average}


@pytest.fixture(scope="module")
def shared_workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Has checkpoints of steps 1, 2 and 3, of which step 1 has the best validation accuracy."""
    folder = tmp_path_factory.mktemp("checkpoints")
    with Checkpoints(folder, keep=2) as checkpoints:
        for step, accuracy in [(0, 0.1), (1, 0.9), (2, 0.5), (3, 0.4)]:
            checkpoints.save(step, make_state(step), {"seconds": float(step)}, accuracy)
    return folder


@pytest.fixture
def workdir(shared_workdir: Path, tmp_path: Path) -> Path:
    """A copy of `shared_workdir` that a test may change."""
    return Path(shutil.copytree(shared_workdir, tmp_path, dirs_exist_ok=True))


def saved_steps(workdir: Path) -> set[int]:
    return {int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()}


def restore(workdir: Path):
    with Checkpoints(workdir, keep=2) as checkpoints:
        return checkpoints.restore_newest(jax.eval_shape(partial(make_state, 0)))


def flip_a_bit(folder: Path) -> None:
    largest = max((p for p in (folder / "state").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


def test_newest_ones_and_the_best_are_kept(workdir: Path) -> None:
    assert saved_steps(workdir) == {1, 2, 3}


def test_restores_the_newest(workdir: Path) -> None:
    state, progress = restore(workdir)
    np.testing.assert_array_equal(state["params"]["head"]["kernel"], 3.0)
    assert progress == {"seconds": 3.0}


@pytest.mark.parametrize(("which", "step"), [("best", 1), ("last", 3)])
@pytest.mark.parametrize("ema", [False, True])
def test_weights_of_the_best_and_the_last(workdir: Path, which: str, step: int, ema: bool) -> None:
    with Checkpoints(workdir, read_only=True) as checkpoints:
        weights, restored_step = checkpoints.restore_weights(which, ema)
    sign = -1 if ema else 1
    assert restored_step == step
    np.testing.assert_array_equal(weights.params["head"]["kernel"], sign * step)
    np.testing.assert_array_equal(weights.batch_stats["norm"]["mean"], sign * (step + 0.5))


def test_saving_in_the_background_is_not_disturbed_by_the_next_steps(tmp_path: Path) -> None:
    @partial(jax.jit, donate_argnums=0)
    def overwrite(state: dict) -> dict:
        return jax.tree.map(lambda leaf: leaf * 0 - 1, state)

    state = {"params": {"kernel": jnp.arange(4e6)}, "batch_stats": {}}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {}, None)
        for _ in range(5):
            state = overwrite(state)
        jax.block_until_ready(state)
    with Checkpoints(tmp_path) as checkpoints:
        restored, _ = checkpoints.restore_newest(jax.eval_shape(lambda: state))
    np.testing.assert_array_equal(restored["params"]["kernel"], np.arange(4e6, dtype=np.float32))


def test_flipped_bit_is_noticed_and_an_older_checkpoint_used(
    workdir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flip_a_bit(workdir / "checkpoints" / "3")
    with Checkpoints(workdir, read_only=True) as checkpoints:
        weights, step = checkpoints.restore_weights("last", ema=False)
    assert step == 2
    np.testing.assert_array_equal(weights.params["head"]["kernel"], 2.0)

    state, _ = restore(workdir)
    np.testing.assert_array_equal(state["params"]["head"]["kernel"], 2.0)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all("checkpoints/3 is damaged" in line and "has changed" in line for line in lines)
    assert saved_steps(workdir) == {1, 2}
    assert (workdir / "checkpoints" / "damaged" / "3").is_dir()


def test_checkpoints_leave_in_one_step_and_then_their_files_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    removed = tmp_path / "checkpoints" / "removed"
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "_delete_removed", lambda self: None)  # A kill comes before.
        with Checkpoints(tmp_path, keep=1) as checkpoints:
            for step in (1, 2):
                checkpoints.save(step, make_state(step), {}, None)
    check_files(removed / "1")
    (removed / "1" / "SHA256SUMS").unlink()
    state, _ = restore(tmp_path)
    np.testing.assert_array_equal(state["params"]["head"]["kernel"], 2.0)
    assert capfd.readouterr().err == ""
    assert not removed.exists()


def test_training_can_save_the_step_of_a_damaged_checkpoint_again(workdir: Path) -> None:
    flip_a_bit(workdir / "checkpoints" / "3")
    with Checkpoints(workdir, keep=2) as checkpoints:
        checkpoints.restore_newest(jax.eval_shape(partial(make_state, 0)))
        checkpoints.save(3, make_state(30), {"seconds": 0.0}, None)
    state, _ = restore(workdir)
    np.testing.assert_array_equal(state["params"]["head"]["kernel"], 30.0)


def test_missing_file_is_noticed(workdir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (workdir / "checkpoints" / "3" / "state" / "manifest.ocdbt").unlink()
    state, _ = restore(workdir)
    np.testing.assert_array_equal(state["params"]["head"]["kernel"], 2.0)
    assert "state/manifest.ocdbt is missing" in capfd.readouterr().err


def cut_by_a_line(text: str) -> str:
    return text.partition("\n")[2]


def without_seal(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.startswith("#")) + "\n"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: "", "is not in SHA256SUMS"),
        (lambda text: "# SHA-256 of the lines above: \n", "SHA256SUMS has changed"),
        (cut_by_a_line, "SHA256SUMS has changed"),
        (lambda text: cut_by_a_line(without_seal(text)), "metrics/commit_success.txt is not in SHA256SUMS"),
        (lambda text: without_seal(text)[:-70], "SHA256SUMS is cut off"),
        (lambda text: without_seal(text) + f"{'0' * 64}  state/more\n", "state/more is missing"),
    ],
)
def test_list_of_checksums_must_be_complete(
    workdir: Path, capfd: pytest.CaptureFixture[str], change: Callable[[str], str], reason: str
) -> None:
    file = workdir / "checkpoints" / "2" / "SHA256SUMS"
    shutil.rmtree(workdir / "checkpoints" / "3")
    file.write_text(change(file.read_text()))
    state, _ = restore(workdir)
    np.testing.assert_array_equal(state["params"]["head"]["kernel"], 1.0)
    (line,) = capfd.readouterr().err.splitlines()
    assert "checkpoints/2 is damaged" in line
    assert reason in line


def test_a_file_that_has_grown_is_not_read(workdir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    os.truncate(workdir / "checkpoints" / "3" / "state" / "_sharding", 2**40)
    state, _ = restore(workdir)
    np.testing.assert_array_equal(state["params"]["head"]["kernel"], 2.0)
    assert "checkpoints/3 is damaged (its files have 1,099,5" in capfd.readouterr().err


def test_list_is_one_for_the_sha256sum_command_with_a_seal(workdir: Path) -> None:
    folder = workdir / "checkpoints" / "3"
    *lines, seal = (folder / "SHA256SUMS").read_text().splitlines(keepends=True)
    size = 0
    for line in lines[:-1]:
        digest, name = line.rstrip("\n").split("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
        size += (folder / name).stat().st_size
    assert lines[-1] == f"# bytes in all: {size}\n"
    assert seal == f"# SHA-256 of the lines above: {hashlib.sha256(''.join(lines).encode()).hexdigest()}\n"


def test_checkpoints_of_older_versions_have_a_list_without_a_seal(
    workdir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = workdir / "checkpoints" / "3" / "SHA256SUMS"
    file.write_text(without_seal(file.read_text()))
    state, _ = restore(workdir)
    np.testing.assert_array_equal(state["params"]["head"]["kernel"], 3.0)
    assert capfd.readouterr().err == ""


def test_files_and_folders_are_on_disk_before_a_checkpoint_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.readlink(f"/proc/self/fd/{file}")))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(1), {}, 0.5)
    monkeypatch.undo()
    folder = tmp_path / "checkpoints" / "1"
    outside = {folder / "_CHECKPOINT_METADATA", folder / "commit_success.txt"}  # Nothing is read from these.
    names = {str(path.relative_to(folder)) for path in {*folder.rglob("*")} - outside} | {"."}
    temporary = next(path for path in map(Path, synced) if path.name.startswith("1.orbax"))
    assert names <= {os.path.relpath(path, temporary) for path in synced}
    assert str(folder.parent) in synced


def test_a_checkpoint_under_the_name_of_another_is_damaged(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    states = {step: {**make_state(step), "step": jnp.int32(step)} for step in (17, 18, 24)}
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        for step, state in states.items():
            checkpoints.save(step, state, {}, None)
    folder = tmp_path / "checkpoints"
    (folder / "18").rename(folder / "x")
    (folder / "24").rename(folder / "18")
    (folder / "x").rename(folder / "24")
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.restore_weights("last", ema=False)[1] == 17
    lines = capfd.readouterr().err.splitlines()
    assert ["24 is damaged (it holds the state of step 18)" in line for line in lines] == [True, False]
    with Checkpoints(tmp_path) as checkpoints:
        state, _ = checkpoints.restore_newest(jax.eval_shape(lambda: states[24]))
    assert state["step"] == 17


PLACES = {
    "": ("empty", "pipe", "folder", "link loop"),
    "SHA256SUMS": ("bytes", "folder", "pipe", "dangling link"),
    "_CHECKPOINT_METADATA": ("empty", "pipe"),
    "metrics": ("bytes", "pipe"),
    "metrics/metrics": ("bytes", "pipe", "folder"),
    "state": ("folder", "link loop"),
    "state/manifest.ocdbt": ("cut", "pipe"),
}


@pytest.mark.parametrize(("place", "damage"), [(place, d) for place in PLACES for d in PLACES[place]])
def test_whatever_stands_in_place_of_a_part_of_a_checkpoint_an_older_one_is_used(
    workdir: Path, place: str, damage: str
) -> None:
    for step in (1, 3):  # the best and the last
        put_in_place(workdir / "checkpoints" / str(step) / place, damage)
    for which in ("best", "last"):
        with Checkpoints(workdir, read_only=True) as checkpoints:
            assert checkpoints.restore_weights(which, ema=False)[1] == 2
    with Checkpoints(workdir, keep=2) as checkpoints:
        state, _ = checkpoints.restore_newest(jax.eval_shape(partial(make_state, 0)))
        checkpoints.save(4, make_state(4), {}, 0.1)
    np.testing.assert_array_equal(state["params"]["head"]["kernel"], 2.0)
    assert saved_steps(workdir) >= {2, 4}


@pytest.mark.parametrize("name", ["checkpoints", "checkpoints/damaged"])
@pytest.mark.parametrize("damage", ["bytes", "pipe", "link loop"])
def test_no_folder_in_place_of_that_of_checkpoints(tmp_path: Path, name: str, damage: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    put_in_place(tmp_path / name, damage)
    for read_only in (False, True):
        with pytest.raises(UserError, match=rf"{name}: is no folder, expected that of checkpoints"):
            Checkpoints(tmp_path, read_only=read_only)


def test_state_of_another_training_is_refused(workdir: Path) -> None:
    other = {**make_state(0), "params": {"head": {"kernel": jnp.zeros((64, 8))}}}
    for state in (jax.eval_shape(lambda: other), {"params": {}}):
        with (
            Checkpoints(workdir) as checkpoints,
            pytest.raises(UserError, match="checkpoints/3: does not hold the state of a training with these"),
        ):
            checkpoints.restore_newest(state)


@pytest.mark.parametrize(
    ("shapes", "has_average", "difference"),
    [
        ({}, True, "head.kernel is [64, 32] there, but missing by its fields"),
        ({"head.kernel": (64, 3)}, True, "head.kernel is [64, 32] there, but [64, 3] by"),
        ({"head.kernel": (64, 32), "head.bias": (32,)}, True, "head.bias is missing there, but [32] by"),
        ({"head.kernel": (64, 32)}, False, "ema_decay says that there is no moving average"),
    ],
)
def test_weights_are_compared_with_their_description(
    shared_workdir: Path, shapes: dict[str, tuple[int, ...]], has_average: bool, difference: str
) -> None:
    expected = Expected({"norm.mean": (32,), **shapes}, has_average, Path("config.json"))
    with (
        Checkpoints(shared_workdir, read_only=True) as checkpoints,
        pytest.raises(UserError, match=re.escape(difference)),
    ):
        checkpoints.restore_weights("last", False, expected)


@pytest.mark.parametrize(
    ("which", "pruned", "reader", "expected"),
    [
        ("last", 3, "check_files", 2),
        ("last", 3, "_saved_step", 2),
        ("last", 3, "_read_weights", 2),
        ("best", 1, "read_json", 2),
        ("best", 1, "_read_weights", 2),
    ],
)
def test_a_checkpoint_that_a_training_removes_meanwhile_is_not_called_damaged(
    which: str,
    pruned: int,
    reader: str,
    expected: int,
    workdir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    read = getattr(checkpoint, reader)
    folder = workdir / "checkpoints"

    def prune_and_read(path: Path, *arguments: object, **more: object) -> object:
        if path.is_relative_to(folder / str(pruned)):
            shutil.rmtree(folder / str(pruned))
        return read(path, *arguments, **more)

    monkeypatch.setattr(checkpoint, reader, prune_and_read)
    with Checkpoints(workdir, read_only=True) as checkpoints:
        assert checkpoints.restore_weights(which, ema=False)[1] == expected
    assert capfd.readouterr().err == ""


def test_checkpoints_that_are_always_removed_before_they_are_read(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prune_and_read(path: Path, part: str) -> None:
        shutil.copytree(path, path.with_name(str(int(path.name) + 1)))
        shutil.rmtree(path)
        check_files(path, part)

    monkeypatch.setattr(checkpoint, "check_files", prune_and_read)
    with (
        Checkpoints(workdir, read_only=True) as checkpoints,
        pytest.raises(UserError, match="removed checkpoints while they were read, 5 times; try again"),
    ):
        checkpoints.restore_weights("last", ema=False)


def test_a_checkpoint_that_there_is_not(workdir: Path) -> None:
    with (
        Checkpoints(workdir, read_only=True) as checkpoints,
        pytest.raises(UserError, match=r"^checkpoint='newest': expected one of best, last$"),
    ):
        checkpoints.restore_weights("newest", ema=False)


def test_only_saving_changes_what_the_whole_program_reports(tmp_path: Path) -> None:
    code = f"""
import logging, pathlib, sys
shown, asyncio = sys.unraisablehook, logging.getLogger("asyncio")
from resnet import Classifier
from resnet.checkpoint import Checkpoints
with Checkpoints(pathlib.Path({str(tmp_path)!r})) as checkpoints:
    assert checkpoints.restore_newest({{}}) is None
    assert (sys.unraisablehook, asyncio.level) == (shown, logging.NOTSET)
    checkpoints.save(1, {{"params": {{}}}}, {{}}, None)
    assert sys.unraisablehook is not shown
    assert asyncio.level == logging.CRITICAL
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_half_written_checkpoint_is_not_one(workdir: Path) -> None:
    folder = workdir / "checkpoints"
    (folder / "3").rename(folder / "3.orbax-checkpoint-tmp")
    state, _ = restore(workdir)
    np.testing.assert_array_equal(state["params"]["head"]["kernel"], 2.0)


def test_only_damaged_checkpoints_is_an_error_that_moves_nothing(workdir: Path) -> None:
    for step in saved_steps(workdir):
        flip_a_bit(workdir / "checkpoints" / str(step))
    with pytest.raises(UserError, match=r"every checkpoint is damaged \(3, 2, 1\)"):
        restore(workdir)
    with (
        Checkpoints(workdir, read_only=True) as checkpoints,
        pytest.raises(UserError, match="every checkpoint is damaged"),
    ):
        checkpoints.restore_weights("best", ema=False)
    assert saved_steps(workdir) == {1, 2, 3}


def test_no_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoints"):
        Checkpoints(tmp_path, read_only=True)
    (tmp_path / "checkpoints").mkdir()
    with (
        Checkpoints(tmp_path, read_only=True) as checkpoints,
        pytest.raises(UserError, match="no finished checkpoint"),
    ):
        checkpoints.restore_weights("best", ema=False)
    assert restore(tmp_path) is None
