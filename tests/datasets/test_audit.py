"""Duplicates, twins and the audit of a data set, on images whose distances are known."""

import os

import numpy as np
import pytest

from datasets import duplicates, signs
from datasets.audit import audit
from datasets.duplicates import close_pairs, has_twin, nearest
from datasets.types import Split


def noise(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(20, 230, (count, 8, 8, 3), dtype=np.uint8)


def brute_force(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sqrt(((a[:, None].astype(float) - b[None]) ** 2).mean((2, 3, 4)))


@pytest.mark.parametrize("block", [4, 1024])
def test_nearest_against_brute_force(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(duplicates, "BLOCK", block)
    a, b = noise(9), noise(13, seed=1)
    index, distances = nearest(a, b)
    expected = brute_force(a, b)
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


def test_audit_tells_leaks_and_conflicts() -> None:
    train = Split(noise(6), np.int32([0, 0, 1, 1, 2, 2]))
    train.images[1] = train.images[0]  # a copy
    train.images[3] = train.images[4] + 3  # a near copy of another class
    test = Split(noise(4, seed=9), np.int32([0, 1, 0, 2]))
    test.images[0] = train.images[0] + 6  # twice leaked: its twin is there twice
    test.images[1] = train.images[5]  # another label
    found = audit({"train": train, "test": test}, ("a", "b", "c"))

    assert found["classes"] == {"train": {"a": 2, "b": 2, "c": 2}, "test": {"a": 2, "b": 1, "c": 1}}
    within, across, in_test = found["near_duplicates"]
    assert within["splits"] == ["train", "train"]
    assert within["within"]["0"] == {"pairs": 1, "images": 1, "conflicts": 0}
    assert within["within"]["6"] == {"pairs": 2, "images": 2, "conflicts": 1}
    assert across["splits"] == ["train", "test"]
    assert across["within"]["0"] == {"pairs": 1, "images": 1, "conflicts": 1}
    assert across["within"]["6"] == {"pairs": 3, "images": 2, "conflicts": 1}
    assert in_test["within"]["12"]["pairs"] == 0
    conflicts = [pair for pair in found["pairs"] if pair["conflict"]]
    assert [(c["splits"], c["indices"], c["labels"], c["distance"]) for c in conflicts] == [
        (["train", "test"], [5, 1], ["c", "b"], 0.0),
        (["train", "train"], [3, 4], ["b", "c"], 3.0),
    ]

    expected = train.labels[brute_force(test.images, train.images).argmin(1)] == test.labels
    neighbour = found["nearest_neighbour"]["test"]
    assert neighbour["accuracy"] == expected.mean()
    assert neighbour["without_twins"] == {"accuracy": expected[2:].mean(), "images": 2}


@pytest.mark.skipif(not os.environ.get("SIGNS_DIR"), reason="needs SIGNS")
def test_signs_has_the_twins_that_are_known_of_it() -> None:
    dataset = signs.load()
    found = audit({"train": dataset.train, "test": dataset.test}, dataset.class_names)
    across = next(c for c in found["near_duplicates"] if c["splits"] == ["train", "test"])
    assert (across["within"]["6"]["images"], across["within"]["12"]["images"]) == (12, 17)
    assert found["nearest_neighbour"]["test"]["accuracy"] == pytest.approx(0.908, abs=5e-4)
    assert not any(pair["conflict"] for pair in found["pairs"])
