"""Grad-CAM against its closed form and against finite differences."""

import jax
import numpy as np
import pytest

from resnet.grad_cam import BATCH_SIZE, grad_cam
from resnet.network import Network, Weights
from tests.resnet.networks import make_network


@pytest.fixture(scope="module")
def network() -> Network:
    return make_network(6, convolution="lax", zero_init_last=False)


@pytest.fixture(scope="module")
def weights(network: Network) -> Weights:
    return network.init(0)


def test_last_stage_is_the_class_activation_map(network: Network, weights: Weights) -> None:
    # With a global average pool and a linear head, the gradient is the column of the head divided by the
    # number of pixels (Selvaraju et al. 2017, section 3.1).
    rng = np.random.default_rng(0)
    count = BATCH_SIZE + 1
    images = rng.integers(0, 256, (count, 96, 64, 3), dtype=np.uint8)
    classes = rng.integers(0, 6, count)
    maps = grad_cam(network, weights, images, classes)["stage4"]
    features = np.asarray(network.apply(weights, images, train=False)[1]["stage4"])
    expected = np.einsum("nhwc,cn->nhw", features, weights.params["head"]["kernel"][:, classes])
    expected = np.maximum(expected, 0)
    peak = expected.max((1, 2), keepdims=True)
    assert maps.shape == (count, 3, 2)
    assert maps.dtype == np.float32
    np.testing.assert_allclose(maps, expected / np.where(peak, peak, 1), atol=1e-4)


def test_earlier_stage_agrees_with_finite_differences(network: Network, weights: Weights) -> None:
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    classes = np.array([3, 0])
    maps = grad_cam(network, weights, images, classes, stages=("stage2", "stage3"))["stage3"]
    features = network.apply(weights, images, train=False)[1]["stage3"]

    def scores(features: jax.Array) -> np.ndarray:
        model = network.merge(weights)
        x = model.stage4(features, False)[0].mean((1, 2))
        return np.asarray(model.head(x))[[0, 1], classes]

    step = 1e-2
    gradients = np.stack(
        [
            (scores(features.at[..., c].add(step)) - scores(features.at[..., c].add(-step))) / (2 * step)
            for c in range(features.shape[-1])
        ],
        axis=-1,
    )
    expected = np.maximum((gradients[:, None, None] * np.asarray(features)).sum(-1), 0)
    peak = expected.max((1, 2), keepdims=True)
    assert maps.shape == (2, 4, 4)
    np.testing.assert_allclose(maps, expected / np.where(peak, peak, 1), atol=0.02)


def test_map_without_evidence_is_zero(network: Network, weights: Weights) -> None:
    silent = jax.tree.map(np.copy, weights)
    silent.params["head"]["kernel"] = -np.abs(silent.params["head"]["kernel"])
    images = np.full((1, 64, 64, 3), 90, np.uint8)
    maps = grad_cam(network, silent, images, np.array([2]))
    np.testing.assert_array_equal(maps["stage4"], np.zeros((1, 2, 2)))
