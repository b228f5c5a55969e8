"""The loss of classification against formulas in NumPy, in float64."""

import jax
import numpy as np
import optax
import pytest

from resnet.errors import UserError
from training.loss import class_weights, classification_loss

CLASSES = 5


def batch(seed: int = 0, count: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Returns logits [N, classes] and labels [N]."""
    rng = np.random.default_rng(seed)
    return 3 * rng.standard_normal((count, CLASSES), np.float32), rng.integers(0, CLASSES, count)


def one_hot(labels: np.ndarray) -> np.ndarray:
    return np.eye(CLASSES, dtype=np.float32)[labels]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def binary_cross_entropy(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    return -(targets * np.log(probabilities) + (1 - targets) * np.log(1 - probabilities))


def smoothed(targets: np.ndarray, smoothing: float) -> np.ndarray:
    return (1 - smoothing) * targets.astype(np.float64) + smoothing / CLASSES


def test_without_weights_the_softmax_loss_has_the_bits_of_optax() -> None:
    logits, labels = batch()
    targets = jax.nn.one_hot(labels, CLASSES)
    loss = classification_loss(logits, targets, name="softmax", smoothing=0.1)
    assert loss == optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, 0.1)).mean()
    assert (loss.shape, loss.dtype) == ((), np.float32)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_softmax_takes_mixed_targets(smoothing: float) -> None:
    logits, labels = batch()
    targets = 0.7 * one_hot(labels) + 0.3 * one_hot(np.roll(labels, 1))
    expected = -(smoothed(targets, smoothing) * log_softmax(logits)).sum(1).mean()
    loss = classification_loss(logits, targets, name="softmax", smoothing=smoothing)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_sigmoid_takes_each_class_by_itself(smoothing: float) -> None:
    logits, labels = batch()
    expected = binary_cross_entropy(logits, smoothed(one_hot(labels), smoothing)).mean()
    loss = classification_loss(logits, one_hot(labels), name="sigmoid", smoothing=smoothing)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_with_sigmoid_both_classes_of_a_mixed_image_are_fully_present(smoothing: float) -> None:
    logits, labels = batch()
    others = (labels + 1) % CLASSES
    for share, present in {0.7: one_hot(labels) + one_hot(others), 0.9: one_hot(labels)}.items():
        targets = share * one_hot(labels) + (1 - share) * one_hot(others)
        expected = binary_cross_entropy(logits, smoothed(present, smoothing)).mean()
        loss = classification_loss(logits, targets, name="sigmoid", smoothing=smoothing)
        np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_a_weight_counts_an_image_as_often(name: str) -> None:
    logits, labels = batch()
    weights = np.float32([1, 3, 2, 1, 4])
    repeats = weights[labels].astype(int)
    repeated = np.repeat(logits, repeats, axis=0), one_hot(np.repeat(labels, repeats))
    loss = classification_loss(logits, one_hot(labels), name=name, weights=weights)
    np.testing.assert_allclose(loss, classification_loss(*repeated, name=name), rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_a_mixed_image_has_the_mean_weight_of_its_classes(name: str, smoothing: float) -> None:
    logits, labels = batch()
    weights = np.float32([0.5, 3, 2, 1, 4])
    targets = 0.75 * one_hot(labels) + 0.25 * one_hot((labels + 1) % CLASSES)
    of_images = targets.astype(np.float64) @ weights
    if name == "softmax":
        losses = -(smoothed(targets, smoothing) * weights * log_softmax(logits)).sum(1)
    else:
        losses = binary_cross_entropy(logits, smoothed(targets > 0, smoothing)).mean(1) * of_images
    loss = classification_loss(logits, targets, name=name, smoothing=smoothing, weights=weights)
    np.testing.assert_allclose(loss, losses.sum() / of_images.sum(), rtol=1e-5)


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_equal_weights_change_nothing(name: str) -> None:
    logits, labels = batch()
    losses = [
        classification_loss(logits, one_hot(labels), name=name, smoothing=0.1, weights=weights)
        for weights in (None, np.full(CLASSES, 7, np.float32))
    ]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_balanced_weights_give_every_class_the_same_total() -> None:
    labels = np.array([0] * 6 + [1] * 3 + [2])
    weights = class_weights(labels, 3, "balanced")
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, [10 / 18, 10 / 9, 10 / 3], rtol=1e-6)
    np.testing.assert_allclose(np.bincount(labels) * weights, 10 / 3, rtol=1e-6)
    assert class_weights(labels, 3, "none") is None


def test_balanced_weights_need_images_of_every_class() -> None:
    with pytest.raises(UserError) as refused:
        class_weights(np.array([0, 0, 2]), 5, "balanced")
    assert str(refused.value) == (
        "config.loss.class_weights=balanced: 3 of 5 classes have no training image, the first is number 1;"
        " expected one of each class, or class_weights none"
    )
