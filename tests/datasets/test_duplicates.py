"""Near duplicates, twins and nearest neighbours, of images whose distances are known."""

from collections.abc import Iterable

import numpy as np
import pytest

from datasets import duplicates
from datasets.duplicates import close_pairs, has_twin, nearest, twin_groups
from tests.datasets.noise import all_distances, noise


@pytest.mark.parametrize("block", [4, 1024])
def test_nearest_against_all_distances(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(duplicates, "BLOCK", block)
    a, b = noise(9), noise(13, seed=1)
    index, distances = nearest(a, b)
    expected = all_distances(a, b)
    np.testing.assert_array_equal(index, expected.argmin(1))
    np.testing.assert_allclose(distances, expected.min(1), rtol=1e-12)


def listed(blocks: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> list[tuple[int, int, float]]:
    """Returns the pairs of all blocks, sorted."""
    return sorted(pair for block in blocks for pair in zip(*map(np.ndarray.tolist, block), strict=True))


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of pairs that are compared by all their pixels at a time, with blocks of 64 images."""
    numbers: list[int] = []
    all_distances = duplicates._all_distances
    monkeypatch.setattr(duplicates, "BLOCK", 64)
    monkeypatch.setattr(
        duplicates, "_all_distances", lambda a, b: numbers.append(len(a) * len(b)) or all_distances(a, b)
    )
    return numbers


@pytest.mark.parametrize("block", [4, 1024])
def test_close_pairs_come_each_once(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(duplicates, "BLOCK", block)
    images = noise(10)
    images[7] = images[2]
    images[9] = images[2] + 5
    images[4] = images[0] + 12
    images[5] = images[1] + 13
    assert listed(close_pairs(images)) == [(0, 4, 12.0), (2, 7, 0.0), (2, 9, 5.0), (7, 9, 5.0)]
    assert listed(close_pairs(images[:4], images[4:], 6.0)) == [(2, 3, 0.0), (2, 5, 5.0)]
    assert listed(close_pairs(images[:1], images[1:2])) == []


def test_pairs_among_the_same_images_are_compared_once(compared: list[int]) -> None:
    images = np.full((300, 8, 8, 3), 100, np.uint8)
    assert len(listed(close_pairs(images))) == 300 * 299 / 2
    assert sum(compared) <= 300 * (300 + 64) / 2


def test_twins_are_within_twelve_levels() -> None:
    images = noise(3)
    shifted = np.stack([images[0] + 12, images[1] + 13])
    np.testing.assert_array_equal(has_twin(shifted, images), [True, False])
    np.testing.assert_array_equal(has_twin(shifted, images, distance=13.0), [True, True])


# Groups


def groups_by_definition(images: np.ndarray, distance: float) -> np.ndarray:
    """Connected components, by spreading the smallest number until nothing changes."""
    flat = images.reshape(len(images), -1).astype(float)
    near = np.stack([np.sqrt(((flat - image) ** 2).mean(1)) <= distance for image in flat])
    groups = np.arange(len(images))
    while True:
        spread = np.where(near, groups, len(images)).min(1)
        if (spread == groups).all():
            return np.unique(groups, return_inverse=True)[1]
        groups = spread


def chains(seed: int, height: int, width: int, count: int = 60) -> np.ndarray:
    """Returns random walks of images, whose steps are sometimes within 12 levels, and copies of some."""
    rng = np.random.default_rng(seed)
    start = rng.integers(60, 190, (height, width, 3)).astype(float)
    images = []
    for step in rng.uniform(1, 16, count):
        start = start + rng.normal(0, step, start.shape) * (rng.random() < 0.8) + rng.normal(0, 3)
        images.append(start.clip(0, 255))
    images = np.array(images).astype(np.uint8)
    return rng.permutation(np.concatenate([images, images[: count // 4]]))


@pytest.mark.parametrize("shape", [(32, 32), (8, 8), (20, 37), (5, 3), (1, 1), (36, 35)])
@pytest.mark.parametrize("block", [16, 1024])
def test_groups_are_those_of_the_definition(monkeypatch, shape, block):
    monkeypatch.setattr(duplicates, "BLOCK", block)
    monkeypatch.setattr(duplicates, "PIXELS", 1000)
    sizes = set()
    for seed in range(2):
        images = chains(seed, *shape)
        for distance in (0.0, 6.0, 12.0):
            groups = twin_groups(images, distance)
            np.testing.assert_array_equal(groups, renumbered(groups_by_definition(images, distance)))
            sizes |= set(np.bincount(groups).tolist())
    assert len(sizes) > 2


def renumbered(groups: np.ndarray) -> np.ndarray:
    """Numbers groups in the order in which they occur."""
    numbers: dict[int, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups.tolist()])


def test_exactly_twelve_levels_are_twins_even_by_single_pixels():
    images = np.full((3, 16, 16, 3), 100, np.uint8)
    images[1] += 12
    images[2, 0, 0] = 255  # far at one pixel, and near on the whole
    assert twin_groups(images).tolist() == [0, 0, 0]
    images[1, 0, 0, 0] += 1
    assert twin_groups(images[:2]).tolist() == [0, 1]


@pytest.mark.parametrize("levels", [0, 3])
def test_images_that_are_all_alike_take_no_longer_than_others(compared, levels):
    """Every pair is near, and yet hardly any is compared by its pixels more than once."""
    rng = np.random.default_rng(0)
    images = rng.integers(9, 200, (8, 8, 3)) + rng.integers(-levels, levels + 1, (400, 8, 8, 3))
    assert twin_groups(images.astype(np.uint8)).max() == 0
    assert sum(compared) <= 64 * 400 + 64 * 64


def test_one_image_is_one_group():
    assert twin_groups(noise(1)).tolist() == [0]
