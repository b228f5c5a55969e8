"""Grad-CAM: maps of the image regions that raise the score of a class.

Selvaraju et al. 2017 (arXiv:1610.02391).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resnet.model import ResNet
from resnet.network import Network, Weights

# Images in one call. Memory limits it, as the gradient keeps all that lies between the stage and the logits.
BATCH_SIZE = 8


def grad_cam(
    network: Network,
    weights: Weights,
    images: np.ndarray,
    classes: np.ndarray,
    *,
    stages: Sequence[str] = ("stage4",),
) -> dict[str, np.ndarray]:
    """Returns a map of the evidence for `classes`, int [N], in `images`, uint8 [N, H, W, 3].

    The result has an array for each of `stages`, float32 [N, h, w], where h and w are the size of the stage's
    output. To compute a map, the channels of the output are weighted by the mean gradient of the class's
    logit with respect to them and summed, and negative sums become zero (equations 1 and 2). The map is then
    divided by its maximum, so that values are 0 to 1. A map without any positive sum is all zeros.
    """
    batch_maps = jax.jit(partial(_batch_maps, network, stages=stages))
    batches = []
    for start in range(0, len(images), BATCH_SIZE):
        batch = images[start : start + BATCH_SIZE]
        missing = BATCH_SIZE - len(batch)  # Padding gives all batches one shape, so that XLA compiles once.
        padded = np.pad(batch, ((0, missing), (0, 0), (0, 0), (0, 0)))
        padded_classes = np.pad(classes[start : start + BATCH_SIZE], (0, missing))
        maps = batch_maps(weights, padded, padded_classes)
        batches.append({stage: np.asarray(values)[: len(batch)] for stage, values in maps.items()})
    return {stage: _scaled(np.concatenate([maps[stage] for maps in batches])) for stage in stages}


def _batch_maps(
    network: Network, weights: Weights, images: jax.Array, classes: jax.Array, *, stages: Sequence[str]
) -> dict[str, jax.Array]:
    """Returns the maps of a batch before they are divided by their maxima."""

    def class_scores(offsets: dict[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
        model = network.merge(weights)
        for stage, offset in offsets.items():
            _add_to_output(model, stage, offset)
        logits, features = model(network.normalize(images), train=False)
        return jnp.take_along_axis(logits, classes[:, None], 1).sum(), features

    outputs = jax.eval_shape(lambda: network.apply(weights, images, train=False)[1])
    # Adding zeros to an output changes nothing, and the gradient with respect to them is that of the output.
    zeros = {stage: jnp.zeros(outputs[stage].shape, outputs[stage].dtype) for stage in stages}
    gradients, features = jax.grad(class_scores, has_aux=True)(zeros)
    maps = {}
    for stage, gradient in gradients.items():
        channel_weights = gradient.astype(jnp.float32).mean((1, 2), keepdims=True)
        maps[stage] = jax.nn.relu((channel_weights * features[stage].astype(jnp.float32)).sum(-1))
    return maps


def _add_to_output(model: ResNet, stage: str, offset: jax.Array) -> None:
    """Replaces a stage of `model` by one that adds `offset` to its output."""
    original: Callable[..., tuple[jax.Array, dict]] = getattr(model, stage)

    def with_offset(*arguments: Any) -> tuple[jax.Array, dict]:
        output, block_outputs = original(*arguments)
        return output + offset, block_outputs

    setattr(model, stage, with_offset)


def _scaled(maps: np.ndarray) -> np.ndarray:
    highest = maps.max((1, 2), keepdims=True)
    return np.divide(maps, highest, out=np.zeros_like(maps), where=highest > 0)
