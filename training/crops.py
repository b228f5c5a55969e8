"""Random crops of training images on the device."""

import jax
import jax.numpy as jnp
from jax import lax

from training.boxes import random_boxes

# The ratios of the sides of a crop: Szegedy et al. 2015 (arXiv:1409.4842), section 6.
RATIOS = (3 / 4, 4 / 3)


def random_crop(key: jax.Array, images: jax.Array, size: int) -> jax.Array:
    """Cuts a square of `size` pixels out of every one of `images` [N, H, W, C].

    All places are equally likely. Returns [N, size, size, C] of the same dtype.
    """
    n, height, width, channels = images.shape
    last = jnp.array([height - size, width - size])
    corners = jax.random.randint(key, (n, 2), 0, last + 1)

    def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
        return lax.dynamic_slice(image, (*corner, 0), (size, size, channels))

    return jax.vmap(crop)(images, corners)


def random_resized_crop(
    key: jax.Array, images: jax.Array, size: int, smallest: float, ratios: tuple[float, float] = RATIOS
) -> jax.Array:
    """Cuts a random rectangle out of every one of `images` [N, S, S, C] and resizes it to `size`.

    The rectangle has between `smallest` and 1 of the area (Szegedy et al. 2015, arXiv:1409.4842, section 6).
    It is drawn as in torchvision's RandomResizedCrop: if ten draws do not fit, it is the whole image.

    Returns float32 [N, size, size, C], resized bilinearly. Shrinking is antialiased as in Pillow: each pixel
    is a weighted mean of all that it covers. Rows and columns are resized apart, in two matrix products.
    """
    n, side = images.shape[:2]
    boxes, _ = random_boxes(key, n, side, areas=(smallest, 1), ratios=ratios, largest=side)
    rows = resizing_weights(boxes.top, boxes.height, side, size)
    columns = resizing_weights(boxes.left, boxes.width, side, size)
    images = images.astype(jnp.float32)
    # Accelerators would round pixels to 8 or 11 bits.
    images = jnp.einsum("noi,niwc->nowc", rows, images, precision="highest")
    return jnp.einsum("noi,nhic->nhoc", columns, images, precision="highest")


def resizing_weights(start: jax.Array, length: jax.Array, size: int, resized: int) -> jax.Array:
    """Returns the weights [N, resized, size] that resize a part of a line of `size` pixels to `resized`.

    The parts begin at pixel `start` [N] and have `length` [N] pixels. Weights fall linearly with the
    distance, to zero at one pixel of the line or of the result, whichever is larger. Pixels outside the part
    have none.
    """
    start, length = start[:, None, None], length[:, None, None]
    scale = length / resized
    pixels = jnp.arange(size) + 0.5
    centres = start + (jnp.arange(resized) + 0.5)[:, None] * scale
    weights = jnp.maximum(1 - jnp.abs(pixels - centres) / jnp.maximum(scale, 1), 0)
    weights = jnp.where((pixels > start) & (pixels < start + length), weights, 0)
    return weights / weights.sum(axis=-1, keepdims=True)
