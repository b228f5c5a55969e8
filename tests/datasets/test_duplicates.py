"""Near duplicates, twins and nearest neighbours, of images whose distances are known."""

import numpy as np
import pytest

from datasets import duplicates
from datasets.duplicates import close_pairs, has_twin, nearest
from tests.datasets.noise import all_distances, noise


@pytest.mark.parametrize("block", [4, 1024])
def test_nearest_against_all_distances(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(duplicates, "BLOCK", block)
    a, b = noise(9), noise(13, seed=1)
    index, distances = nearest(a, b)
    expected = all_distances(a, b)
    np.testing.assert_array_equal(index, expected.argmin(1))
    np.testing.assert_allclose(distances, expected.min(1), rtol=1e-12)


@pytest.mark.parametrize("block", [4, 1024])
def test_close_pairs_come_each_once_and_closest_first(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(duplicates, "BLOCK", block)
    images = noise(10)
    images[7] = images[2]
    images[9] = images[2] + 5
    images[4] = images[0] + 12
    images[5] = images[1] + 13
    assert close_pairs(images) == [(2, 7, 0.0), (2, 9, 5.0), (7, 9, 5.0), (0, 4, 12.0)]
    assert close_pairs(images[:4], images[4:], 6.0) == [(2, 3, 0.0), (2, 5, 5.0)]
    assert close_pairs(images[:1], images[1:2]) == []


def test_twins_are_within_twelve_levels() -> None:
    images = noise(3)
    shifted = np.stack([images[0] + 12, images[1] + 13])
    np.testing.assert_array_equal(has_twin(shifted, images), [True, False])
    np.testing.assert_array_equal(has_twin(shifted, images, distance=13.0), [True, True])
