"""Scores against numbers made by hand."""

import numpy as np
import pytest

from evaluation.scores import (
    accuracy_and_loss,
    calibration,
    ensemble_logits,
    frequent_confusions,
    full_report,
    hardest_classes,
    log_softmax,
)
from modes.eval import format_report


def test_accuracy_and_loss_by_hand() -> None:
    # Softmax of log(p) is p.
    logits = np.log(np.float32([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.25, 0.25, 0.5]])) + 3
    scores = accuracy_and_loss(logits, np.array([0, 2, 2]))
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert scores["loss"] == pytest.approx(-(np.log(0.7) + np.log(0.3) + np.log(0.5)) / 3, rel=1e-6)


def test_log_softmax_of_large_logits() -> None:
    logits = np.float32([[3e38, -3e38, 0], [1000, 1001, 999], [-1e4, -1e4, -1e4]])
    result = log_softmax(logits)
    assert result.dtype == np.float64
    assert np.isfinite(result).all()
    np.testing.assert_allclose(result[0, 0], 0)
    shifted = np.array([-1.0, 0.0, -2.0])
    np.testing.assert_allclose(result[1], shifted - np.log(np.exp(shifted).sum()))
    np.testing.assert_allclose(result[2], -np.log(3))


def one_hot_logits(predictions: list[int], classes: int) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[predictions]


def test_full_report_by_hand() -> None:
    labels = np.array([0, 0, 0, 1, 1, 3])
    report = full_report(one_hot_logits([0, 0, 1, 1, 0, 1], 4), labels, ("a", "b", "c", "d"))
    # c is neither seen nor predicted, d is never predicted.
    assert report["confusion_matrix"] == [[2, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]]
    assert report["classes"] == [
        {"class": "a", "images": 3, "precision": pytest.approx(2 / 3), "recall": pytest.approx(2 / 3)},
        {"class": "b", "images": 2, "precision": pytest.approx(1 / 3), "recall": pytest.approx(1 / 2)},
        {"class": "c", "images": 0, "precision": None, "recall": None},
        {"class": "d", "images": 1, "precision": None, "recall": 0.0},
    ]
    assert report["images"] == 6
    assert report["accuracy"] == pytest.approx(3 / 6)
    wrong, right = np.log(3 + np.e), np.log(3 + np.e) - 1
    assert report["loss"] == pytest.approx((3 * wrong + 3 * right) / 6)

    text = format_report(report)
    assert text.startswith("accuracy 0.5000   loss 1.2437   images 6")
    rows = [line.split() for line in text.splitlines()]
    assert ["a", "3", "0.6667", "0.6667"] in rows
    assert ["c", "0", "-", "-"] in rows
    assert ["d", "0", "1", "0", "0"] in rows


def test_calibration_by_hand() -> None:
    # Probabilities of the predicted class 0.9, 0.9, 0.9, 0.62, 1.0; right, right, wrong, right, right.
    rows = [[0.9, 0.1], [0.1, 0.9], [0.9, 0.1], [0.62, 0.38], [1.0, 1e-30]]
    logits, labels = np.log(rows), np.array([0, 1, 1, 0, 0])
    result = calibration(logits, labels, bins=10)
    assert [row["images"] for row in result["bins"]] == [1, 4]  # 1.0 belongs to the last bin
    assert result["bins"][0] == {
        "low": 0.6,
        "high": 0.7,
        "images": 1,
        "confidence": pytest.approx(0.62),
        "accuracy": 1.0,
    }
    assert result["bins"][1]["confidence"] == pytest.approx((0.9 * 3 + 1) / 4)
    assert result["bins"][1]["accuracy"] == pytest.approx(3 / 4)
    assert result["ece"] == pytest.approx((1 * 0.38 + 4 * abs(0.75 - 0.925)) / 5)


def test_images_without_a_twin_are_measured_apart() -> None:
    labels, twins = np.array([0, 1, 1]), np.array([True, False, False])
    logits = one_hot_logits([0, 1, 0], 2)
    report = full_report(logits, labels, ("a", "b"), twins)
    ece = calibration(logits[1:], labels[1:])["ece"]
    assert report["without_twins"] == {**accuracy_and_loss(logits[1:], labels[1:]), "ece": ece, "images": 2}
    assert "2 of 3 images have no near duplicate in training: accuracy 0.5000" in format_report(report)
    every = full_report(logits, labels, ("a", "b"), np.ones(3, bool))
    assert every["without_twins"] == {"images": 0}
    assert "0 of 3 images have no near duplicate in training" in format_report(every)
    assert "without_twins" not in full_report(logits, labels, ("a", "b"))


def test_ensemble_averages_probabilities() -> None:
    shares = np.array([[[0.9, 0.1]], [[0.2, 0.8]], [[1.0, 0.0]]])
    with np.errstate(divide="ignore"):
        logits = np.log(shares) + np.array([5.0, -3.0, 0.0])[:, None, None]
    result = np.exp(ensemble_logits(list(logits)))
    np.testing.assert_allclose(result, [[0.7, 0.3]], rtol=1e-12)


def test_balanced_accuracy_is_the_mean_over_the_classes_that_have_images() -> None:
    labels = np.array([0] * 8 + [1] * 2)
    report = full_report(one_hot_logits([0] * 8 + [0, 1], 3), labels, ("many", "few", "none"))
    assert report["accuracy"] == pytest.approx(0.9)
    assert report["balanced_accuracy"] == pytest.approx((1 + 0.5) / 2)
    assert "balanced accuracy 0.7500" in format_report(report)


def test_of_many_classes_those_that_stand_out_are_printed() -> None:
    names = tuple(f"class {i}" for i in range(300))
    labels = np.repeat(np.arange(300), 2)
    predicted = labels.copy()
    predicted[14:16] = 9  # class 7 is taken for class 9, both times
    predicted[8] = 2  # class 4 once for class 2
    report = full_report(one_hot_logits(predicted.tolist(), 300), labels, names)
    assert frequent_confusions(report, 5) == [("class 7", "class 9", 2), ("class 4", "class 2", 1)]
    assert [row["class"] for row in hardest_classes(report, 2)] == ["class 7", "class 4"]
    printed = format_report(report)
    assert len(printed.splitlines()) < 60
    assert "the 20 of 300 classes with the lowest recall" in printed


def test_classes_that_look_like_numbers_are_printed_as_they_are() -> None:
    report = full_report(one_hot_logits([0, 1, 1], 3), np.arange(3), ("1.1", "1.10", "1e3"))
    rows = [line.split() for line in format_report(report).splitlines()]
    assert ["1.10", "1", "0.5000", "1.0000"] in rows
    assert ["1e3", "0", "1", "0"] in rows
    labels = np.arange(30)
    predicted = np.where(labels == 7, 9, labels)
    report = full_report(one_hot_logits(predicted.tolist(), 30), labels, tuple(f"{i}.10" for i in labels))
    rows = [line.split() for line in format_report(report).splitlines()]
    assert ["7.10", "1", "-", "0.0000"] in rows
    assert ["7.10", "9.10", "1"] in rows
