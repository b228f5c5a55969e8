"""Grad-CAM: where in an image the score of a class comes from (Selvaraju et al. 2017, arXiv:1610.02391)."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from resnet.model import ResNet
from resnet.network import Network, Weights

BATCH_SIZE = 8  # images at a time: the gradient keeps what lies between stage and logits


def grad_cam(
    network: Network,
    weights: Weights,
    images: np.ndarray,
    classes: np.ndarray,
    stages: Sequence[str] = ("stage4",),
) -> dict[str, np.ndarray]:
    """For each of `stages` maps float32 [N, h, w] of what speaks for `classes` int [N] in `images`.

    `images` are uint8 [N, H, W, 3]; h and w are those of the stage's output; values are 0 to 1. A map is
    the sum of the output's channels, each weighted by the mean gradient of the class' logit with respect
    to it, negative sums cut off (equations 1 and 2), divided by its maximum. One without any positive sum
    is all zeros.
    """

    @jax.jit
    def maps_of_batch(weights: Weights, images: jax.Array, classes: jax.Array) -> dict[str, jax.Array]:
        def class_scores(added: dict[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
            # The gradient with respect to zeros added to an output is that with respect to the output.
            model = network.merge(weights)
            for stage, zeros in added.items():
                _add_to_output(model, stage, zeros)
            logits, features = model(network.normalize(images), train=False)
            return jnp.take_along_axis(logits, classes[:, None], 1).sum(), features

        outputs = jax.eval_shape(lambda: network.apply(weights, images, train=False)[1])
        zeros = {stage: jnp.zeros(outputs[stage].shape, outputs[stage].dtype) for stage in stages}
        gradients, features = jax.grad(class_scores, has_aux=True)(zeros)
        maps = {}
        for stage, gradient in gradients.items():
            channel_weights = gradient.astype(jnp.float32).mean((1, 2), keepdims=True)
            maps[stage] = jax.nn.relu((channel_weights * features[stage].astype(jnp.float32)).sum(-1))
        return maps

    batches = []
    for start in range(0, len(images), BATCH_SIZE):
        batch = images[start : start + BATCH_SIZE]
        missing = BATCH_SIZE - len(batch)  # One shape, so that it compiles once.
        padded = np.pad(batch, ((0, missing), (0, 0), (0, 0), (0, 0)))
        padded_classes = np.pad(classes[start : start + BATCH_SIZE], (0, missing))
        maps = maps_of_batch(weights, padded, padded_classes)
        batches.append({stage: np.asarray(values)[: len(batch)] for stage, values in maps.items()})
    return {stage: _scaled(np.concatenate([maps[stage] for maps in batches])) for stage in stages}


def _add_to_output(model: ResNet, stage: str, added: jax.Array) -> None:
    original: Callable[[jax.Array, bool], tuple[jax.Array, dict]] = getattr(model, stage)

    def with_added(x: jax.Array, train: bool) -> tuple[jax.Array, dict]:
        output, of_blocks = original(x, train)
        return output + added, of_blocks

    setattr(model, stage, with_added)


def _scaled(maps: np.ndarray) -> np.ndarray:
    highest = maps.max((1, 2), keepdims=True)
    return np.divide(maps, highest, out=np.zeros_like(maps), where=highest > 0)
