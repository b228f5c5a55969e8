"""Mixup and CutMix: what becomes of a batch and of its targets."""

from collections.abc import Callable
from functools import cache, partial

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.quick_compilation import quick_jit
from training.mixing import mix

SIZE = 8
IMAGES = np.random.default_rng(0).random((6, SIZE, SIZE, 3), np.float32)
TARGETS = np.eye(6, dtype=np.float32)


COUNT = 2000


@cache
def compiled(mixup: float, cutmix: float) -> Callable[..., tuple[jax.Array, jax.Array]]:
    config = ConfigDict({"mixup": mixup, "cutmix": cutmix})
    return quick_jit(jax.vmap(partial(mix, config=config), in_axes=(0, None, None)))


def mixed(mixup: float = 0.0, cutmix: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mixes the batch with `COUNT` keys; returns images, targets and the own share of each image's target."""
    keys = jax.random.split(jax.random.key(0), COUNT)
    images, targets = map(np.asarray, compiled(mixup, cutmix)(keys, IMAGES, TARGETS))
    assert images.dtype == targets.dtype == np.float32
    share = targets[:, range(6), range(6)]
    # One share for the whole batch; the rest is the target of the image before.
    np.testing.assert_allclose(share, share[:, :1].repeat(6, 1), atol=1e-6)
    np.testing.assert_allclose(targets[:, range(6), np.arange(6) - 1], 1 - share, atol=1e-6)
    np.testing.assert_allclose(targets.sum(-1), 1, atol=1e-6)
    return images, targets, share[:, 0]


def is_mixup(images: np.ndarray, share: np.ndarray) -> np.ndarray:
    share = share[:, None, None, None, None]
    expected = share * IMAGES + (1 - share) * np.roll(IMAGES, 1, axis=0)
    return (abs(images - expected) < 1e-5).all((1, 2, 3, 4))


def from_own_image(images: np.ndarray) -> np.ndarray:
    """Returns which pixels [count, S, S] are those of the own image; all the others are the other image's."""
    own, other = images == IMAGES, images == np.roll(IMAGES, 1, axis=0)
    assert (own | other).all()
    own = own.all((1, -1))
    assert (own | other.all((1, -1))).all()
    return own


def test_both_off_change_nothing() -> None:
    config = ConfigDict({"mixup": 0.0, "cutmix": 0.0})
    images, targets = mix(jax.random.key(0), IMAGES, TARGETS, config)
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(targets, TARGETS)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixup_is_a_mean_weighted_by_a_share_from_the_beta_distribution(alpha: float) -> None:
    images, _, share = mixed(mixup=alpha)
    assert is_mixup(images, share).all()
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(share.mean() - 0.5) < 4 * np.sqrt(variance / COUNT)
    assert abs(share.var() / variance - 1) < 0.15


def test_cutmix_replaces_one_rectangle_and_counts_its_pixels() -> None:
    images, _, share = mixed(cutmix=1.0)
    own = from_own_image(images)
    np.testing.assert_allclose(share, own.mean((1, 2)), atol=1e-6)
    for mask in ~own:
        rows, columns = mask.any(1), mask.any(0)
        np.testing.assert_array_equal(mask, rows[:, None] & columns)
        for side in (rows, columns):
            inside = np.flatnonzero(side)
            assert len(inside) == 0 or np.ptp(inside) == len(inside) - 1
            # An even number of pixels, unless the border clips them.
            assert len(inside) % 2 == 0 or side[0] or side[-1]


def test_the_rectangle_of_cutmix_is_as_large_as_the_paper_says() -> None:
    _, _, share = mixed(cutmix=1.0)
    # Of side 8: half a side is floor(4 r), r**2 uniform; the centre is uniform and the border clips.
    rng = np.random.default_rng(0)
    half = np.floor(4 * np.sqrt(rng.random(100_000))).astype(int)
    centres = rng.integers(0, SIZE, (2, 100_000))
    sides = np.minimum(centres + half, SIZE) - np.maximum(centres - half, 0)
    expected = 1 - sides.prod(0) / SIZE**2
    assert abs(share.mean() - expected.mean()) < 4 * expected.std() / np.sqrt(COUNT)
    assert abs((share == 1).mean() - (expected == 1).mean()) < 4 * 0.25 / np.sqrt(COUNT)


def test_both_on_share_the_batches_in_halves() -> None:
    images, _, share = mixed(mixup=1.0, cutmix=1.0)
    blended = is_mixup(images, share)
    from_own_image(images[~blended])
    # The few rectangles without a pixel look like mixup with a share of one.
    assert abs(blended.mean() - 0.5) < 4 * 0.5 / np.sqrt(COUNT) + 0.04


def test_a_key_fixes_the_mix() -> None:
    first, again = (mixed(mixup=1.0, cutmix=1.0)[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert (first[0] != first[1]).any()
