"""Measures against numbers made by hand; every image counted once."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from datasets.types import Split
from evaluate import (
    accuracy_and_loss,
    calibration,
    evaluate,
    evaluate_corruptions,
    format_corruptions,
    format_report,
    full_report,
    log_softmax,
    make_predictor,
)
from input_pipeline import make_mesh
from resnet.network import Weights


def test_accuracy_and_loss_by_hand() -> None:
    # Softmax of log(p) is p.
    logits = np.log(np.float32([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.25, 0.25, 0.5]])) + 3
    measured = accuracy_and_loss(logits, np.array([0, 2, 2]))
    assert measured["accuracy"] == pytest.approx(2 / 3)
    assert measured["loss"] == pytest.approx(-(np.log(0.7) + np.log(0.3) + np.log(0.5)) / 3, rel=1e-6)


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
    found = calibration(logits, labels, bins=10)
    assert [row["images"] for row in found["bins"]] == [1, 4]  # 1.0 belongs to the last bin
    assert found["bins"][0] == {
        "low": 0.6,
        "high": 0.7,
        "images": 1,
        "confidence": pytest.approx(0.62),
        "accuracy": 1.0,
    }
    assert found["bins"][1]["confidence"] == pytest.approx((0.9 * 3 + 1) / 4)
    assert found["bins"][1]["accuracy"] == pytest.approx(3 / 4)
    assert found["ece"] == pytest.approx((1 * 0.38 + 4 * abs(0.75 - 0.925)) / 5)


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


def test_corruptions_are_counted_by_kind_and_severity() -> None:
    # A classifier of bright against dark: contrast cannot fool it, brightness does at last.
    images = np.stack([np.full((16, 16, 3), value, np.uint8) for value in (0, 60, 200, 250)])
    split = Split(images, np.array([0, 0, 1, 1]))

    def predict(images: np.ndarray) -> np.ndarray:
        bright = images.mean((1, 2, 3)) > 127
        return np.stack([~bright, bright], 1).astype(np.float32)

    found = evaluate_corruptions(predict, split, "standard")
    table = np.array(list(found["corruptions"].values()))
    assert table.shape == (15, 5)
    assert found["clean"] == 1.0
    assert found["corruptions"]["contrast"] == [1.0] * 5
    # 60 + 76.5 is the first above the threshold, 0 + 127.5 the second.
    assert found["corruptions"]["brightness"] == [1.0, 1.0, 0.75, 0.75, 0.5]
    assert found["mean"] == pytest.approx(table.mean())
    np.testing.assert_allclose(found["by_severity"], table.mean(0))
    rows = [line.split() for line in format_corruptions(found).splitlines()]
    assert ["brightness", "1.000", "1.000", "0.750", "0.750", "0.500", "0.800"] in rows
    assert list(evaluate_corruptions(predict, split, "extra")["corruptions"]) == [
        "speckle_noise",
        "gaussian_blur",
        "spatter",
        "saturate",
    ]


def arrange_linear(weights: Weights, batch_shape: tuple[int, ...]) -> dict[str, list[jax.Array]]:
    assert batch_shape == (4, 4, 4, 3)
    return {"head": [weights.params["kernel"]]}


def predict_linear(weights: Weights, arranged: dict[str, list[jax.Array]], images: jax.Array) -> jax.Array:
    """Logits from each image's mean colour, less the running mean."""
    colour = images.astype(jnp.float32).mean((1, 2))
    return (colour - weights.batch_stats["mean"]) @ arranged["head"][0]


@pytest.mark.parametrize("count", [1, 8, 10])
def test_predictor_counts_every_image_once_with_the_running_statistics(count: int) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 4, 4, 3), np.uint8)
    kernel = rng.standard_normal((3, 6), np.float32)
    weights = Weights({"kernel": kernel}, {"mean": np.float32([90, 120, 130])})
    predict = make_predictor(SimpleNamespace(arrange=arrange_linear, predict=predict_linear), 4, make_mesh(4))
    logits = predict(weights, images)
    expected = (images.mean((1, 2)) - [90, 120, 130]) @ kernel.astype(np.float64)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-3)

    labels = rng.integers(0, 6, count)
    labels[0] = expected[0].argmax()
    measured = evaluate(predict, weights, Split(images, labels))
    assert measured["accuracy"] == pytest.approx((expected.argmax(1) == labels).mean())
    losses = np.log(np.exp(expected - expected.max(1, keepdims=True)).sum(1)) + expected.max(1)
    losses -= expected[np.arange(count), labels]
    assert measured["loss"] == pytest.approx(losses.mean(), rel=1e-4, abs=1e-4)
