"""The loss of classification: softmax or sigmoid cross-entropy, label smoothing, weights of the classes."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from resnet.errors import UserError

# Least share of a mixed image with which its class counts as present in it, for the sigmoid loss. timm's
# `--bce-target-thresh` in the published settings of A2.
LEAST_SHARE = 0.2


def class_weights(
    labels: np.ndarray, num_classes: int, kind: Literal["none", "balanced"]
) -> np.ndarray | None:
    """Returns the weight of every class in the loss, float32 [classes], or None if `kind` is `none`.

    `kind` is `config.loss.class_weights`, `labels` int [N] are those of the training images. `balanced`
    gives a class with n of the N images the weight N / (classes * n), as scikit-learn does. Then the mean
    weight of an image is 1.

    Raises:
        UserError: a class has no image to train on.
    """
    if kind == "none":
        return None
    counts = np.bincount(labels, minlength=num_classes)
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        raise UserError(
            f"config.loss.class_weights=balanced: {len(empty)} of {num_classes} classes have no training"
            f" image, the first is number {empty[0]}; expected one of each class, or class_weights none"
        )
    return (len(labels) / (num_classes * counts)).astype(np.float32)


def classification_loss(
    logits: jax.Array,
    targets: jax.Array,
    *,
    name: Literal["softmax", "sigmoid"],
    smoothing: float = 0.0,
    weights: jax.Array | np.ndarray | None = None,
) -> jax.Array:
    """Returns the mean loss of a batch, float32 [].

    `logits` are float32 [N, classes]. `targets` are float32 [N, classes], one-hot or mixed from several
    images, and not smoothed yet. `weights` float32 [classes] come from `class_weights`.

    `softmax` is the cross-entropy with label smoothing of Szegedy et al. 2016 (arXiv:1512.00567), section 7.
    With weights it is that of `torch.nn.CrossEntropyLoss`: divided by the sum of the weights of the batch.

    `sigmoid` takes each class by itself, and the mean over them: Wightman et al. 2021 (arXiv:2110.00476),
    section 2. As there, every class that was mixed into an image is fully present, if its share is above 0.2.
    With weights, the loss of an image counts by the weight of its class.
    """
    if name == "sigmoid":
        present = (targets > LEAST_SHARE).astype(targets.dtype)
        losses = optax.sigmoid_binary_cross_entropy(logits, optax.smooth_labels(present, smoothing)).mean(-1)
        if weights is None:
            return losses.mean()
        return jnp.average(losses, weights=jnp.sum(targets * weights, -1))
    smoothed = optax.smooth_labels(targets, smoothing)
    if weights is None:
        return optax.softmax_cross_entropy(logits, smoothed).mean()
    losses = optax.softmax_cross_entropy(logits, smoothed * weights)
    return jnp.sum(losses) / jnp.sum(targets * weights)
