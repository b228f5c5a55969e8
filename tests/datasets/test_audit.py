"""The audit of a data set, on images whose distances are known."""

import os

import numpy as np
import pytest

from datasets import signs
from datasets.audit import audit
from datasets.types import Split
from tests.datasets.noise import all_distances, noise


def test_audit_finds_leaks_and_conflicts() -> None:
    train = Split(noise(6), np.int32([0, 0, 1, 1, 2, 2]))
    train.images[1] = train.images[0]  # a copy
    train.images[3] = train.images[4] + 3  # a near copy of another class
    test = Split(noise(4, seed=9), np.int32([0, 1, 0, 2]))
    test.images[0] = train.images[0] + 6  # twice leaked: its twin is there twice
    test.images[1] = train.images[5]  # another label
    report = audit({"train": train, "test": test}, ("a", "b", "c"))

    assert report["classes"] == {"train": {"a": 2, "b": 2, "c": 2}, "test": {"a": 2, "b": 1, "c": 1}}
    within, across, in_test = report["near_duplicates"]
    assert within["splits"] == ["train", "train"]
    assert within["within"]["0"] == {"pairs": 1, "images": 1, "conflicts": 0}
    assert within["within"]["6"] == {"pairs": 2, "images": 2, "conflicts": 1}
    assert across["splits"] == ["train", "test"]
    assert across["within"]["0"] == {"pairs": 1, "images": 1, "conflicts": 1}
    assert across["within"]["6"] == {"pairs": 3, "images": 2, "conflicts": 1}
    assert in_test["within"]["12"]["pairs"] == 0
    conflicts = [pair for pair in report["pairs"] if pair["conflict"]]
    assert [(c["splits"], c["indices"], c["labels"], c["distance"]) for c in conflicts] == [
        (["train", "test"], [5, 1], ["c", "b"], 0.0),
        (["train", "train"], [3, 4], ["b", "c"], 3.0),
    ]

    expected = train.labels[all_distances(test.images, train.images).argmin(1)] == test.labels
    neighbour = report["nearest_neighbour"]["test"]
    assert neighbour["accuracy"] == expected.mean()
    assert neighbour["without_twins"] == {"accuracy": expected[2:].mean(), "images": 2}


def test_of_mostly_alike_images_all_pairs_are_counted_and_some_described(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("datasets.audit.PAIRS_DESCRIBED", 7)
    monkeypatch.setattr("datasets.duplicates.BLOCK", 16)
    images = np.arange(40, dtype=np.uint8)[:, None, None, None] // 4 + np.full((40, 8, 8, 3), 100, np.uint8)
    labels = np.zeros(40, np.int32)
    labels[[0, 21]] = 1
    report = audit({"train": Split(images, labels)}, ("a", "b"))
    (within,) = report["near_duplicates"]
    assert within["within"]["0"] == {"pairs": 10 * 6, "images": 30, "conflicts": 6}
    assert within["within"]["12"] == {"pairs": 40 * 39 / 2, "images": 39, "conflicts": 2 * 38}
    assert [pair["distance"] for pair in report["pairs"]] == [0.0] * 6 + [1.0]
    assert all(pair["conflict"] for pair in report["pairs"])


@pytest.mark.skipif(not os.environ.get("SIGNS_DIR"), reason="needs SIGNS")
def test_signs_has_its_known_twins() -> None:
    dataset = signs.load()
    report = audit({"train": dataset.train, "test": dataset.test}, dataset.class_names)
    across = next(c for c in report["near_duplicates"] if c["splits"] == ["train", "test"])
    assert (across["within"]["6"]["images"], across["within"]["12"]["images"]) == (12, 17)
    assert report["nearest_neighbour"]["test"]["accuracy"] == pytest.approx(0.908, abs=5e-4)
    assert not any(pair["conflict"] for pair in report["pairs"])
