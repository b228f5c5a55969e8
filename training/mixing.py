"""Mixing the images of a batch with each other: mixup and CutMix."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from training.boxes import Boxes
from training.draws import Draw


def mix(
    key: jax.Array, images: jax.Array, targets: jax.Array, config: ConfigDict
) -> tuple[jax.Array, jax.Array]:
    """Mixes every image of a batch with the one before it, and their targets in the same shares.

    `images` are float32 [N, H, H, 3], `targets` float32 [N, classes]; `config.mixup` and `config.cutmix` are
    alpha of the distribution Beta(alpha, alpha) that the image's share is drawn from, 0 for none. With both,
    a coin decides for each batch. `key` may be the one that `augment` took.

    Mixup (Zhang et al. 2018, arXiv:1710.09412, section 2) is a weighted mean. CutMix (Yun et al. 2019,
    arXiv:1905.04899, section 3.1) puts a rectangle of the other image in place. As in the authors' code and
    in torchvision, a batch has one share and one rectangle.
    """
    if not (config.mixup or config.cutmix):
        return images, targets
    coin, share_key, centre_key = jax.random.split(jax.random.fold_in(key, Draw.MIXING), 3)
    is_mixup = jax.random.bernoulli(coin) if config.mixup and config.cutmix else bool(config.mixup)
    alpha = jnp.where(is_mixup, config.mixup, config.cutmix)
    share = jax.random.beta(share_key, alpha, alpha)
    box = _rectangle(centre_key, images.shape[1], 1 - share)
    weights = jnp.where(is_mixup, share, ~box.mask(images.shape[1]))
    share = weights.mean()
    # Batches are shuffled, so the image before is any image. In a reversed batch it could be the same one.
    images = weights * images + (1 - weights) * jnp.roll(images, 1, axis=0)
    return images, share * targets + (1 - share) * jnp.roll(targets, 1, axis=0)


def _rectangle(key: jax.Array, size: int, area: jax.Array) -> Boxes:
    """Draws one box of `area`, a share of the image, of the same shape; the border may clip it."""
    half = (size * jnp.sqrt(area) / 2).astype(jnp.int32)
    top, left = jax.random.randint(key, (2, 1), 0, size) - half
    side = jnp.reshape(2 * half, 1)
    return Boxes(top, left, side, side)
