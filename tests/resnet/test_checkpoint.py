"""Checkpoints: what is restored is what was saved, whatever happened to the files."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet.checkpoint import Checkpoints
from resnet.errors import UserError


def make_state(step: int) -> dict:
    params = {"head": {"kernel": jnp.full((64, 32), step, jnp.float32)}}
    batch_stats = {"norm": {"mean": jnp.full(32, step + 0.5)}}
    average = jax.tree.map(lambda leaf: -leaf, {"params": params, "batch_stats": batch_stats})
    return {"params": params, "batch_stats": batch_stats, "ema": average}


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """Has checkpoints of steps 1, 2 and 3, of which step 1 has the best validation accuracy."""
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step, accuracy in [(0, 0.1), (1, 0.9), (2, 0.5), (3, None)]:
            checkpoints.save(step, make_state(step), {"seconds": float(step)}, accuracy)
    return tmp_path


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
