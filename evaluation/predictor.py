"""Predictions of a network on a split: one jitted pass, every image counted once."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh

from datasets.lazy_images import Images
from datasets.types import Split
from devices.mesh import by_batch, own_rows, put_own_rows, replicated
from evaluation.scores import accuracy_and_loss
from input_pipeline import evaluation_batches
from resnet.network import Arranged, Network, Weights

Predictor = Callable[[Weights, Images], np.ndarray]


def make_predictor(network: Network, batch_size: int, mesh: Mesh) -> Predictor:
    """Returns a function of weights and images uint8 [N, H, W, 3] that gives logits float32 [N, classes].

    All batches have one size, so that it compiles once. Their rows are split over `mesh`, of which every host
    loads its own. All hosts have the logits.
    """
    by_row, rows = by_batch(mesh), own_rows(mesh, batch_size)

    @partial(jax.jit, static_argnums=1, out_shardings=replicated(mesh))
    def arrange(weights: Weights, batch_shape: tuple[int, ...]) -> Arranged:
        return network.arrange(weights, batch_shape)

    @partial(jax.jit, out_shardings=replicated(mesh))
    def logits_of_batch(weights: Weights, arranged: Arranged, images: jax.Array) -> jax.Array:
        return network.predict(weights, arranged, images)

    def predict(weights: Weights, images: Images) -> np.ndarray:
        shape = (batch_size, *images.shape[1:])
        arranged = arrange(weights, shape)
        logits = []
        for own in evaluation_batches(images, batch_size, rows):
            batch = put_own_rows(own, by_row, shape)
            logits.append(np.asarray(logits_of_batch(weights, arranged, batch)))
        return np.concatenate(logits)[: len(images)]

    return predict


def evaluate(predict: Predictor, weights: Weights, split: Split) -> dict[str, float]:
    """Returns `accuracy` (top-1, a share) and `loss` (mean cross-entropy, nats) of `weights` on `split`."""
    return accuracy_and_loss(predict(weights, split.images), split.labels)


def evaluate_seeds(
    predict: Predictor, weights_by_seed: Sequence[Weights], split: Split
) -> list[dict[str, float]]:
    """Returns `evaluate` on `split` for the weights of every seed."""
    return [evaluate(predict, weights, split) for weights in weights_by_seed]
