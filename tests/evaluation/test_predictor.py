"""Predictions batch by batch: every image counted once."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from datasets.types import Split
from devices.mesh import make_mesh
from evaluation.predictor import evaluate, make_predictor
from resnet.network import Weights


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
    scores = evaluate(predict, weights, Split(images, labels))
    assert scores["accuracy"] == pytest.approx((expected.argmax(1) == labels).mean())
    losses = np.log(np.exp(expected - expected.max(1, keepdims=True)).sum(1)) + expected.max(1)
    losses -= expected[np.arange(count), labels]
    assert scores["loss"] == pytest.approx(losses.mean(), rel=1e-4, abs=1e-4)
