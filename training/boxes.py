"""Random rectangles of pixels in square images: what a crop keeps, what is erased, what CutMix replaces."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

# How often torchvision draws a rectangle again that does not fit.
ATTEMPTS = 10


class Boxes(NamedTuple):
    """A rectangle for each of N images, in whole pixels, int32 [N]."""

    top: jax.Array
    left: jax.Array
    height: jax.Array
    width: jax.Array

    def mask(self, size: int) -> jax.Array:
        """Returns which pixels of images of side `size` lie inside: bool [N, size, size, 1]."""
        pixel = jnp.arange(size)
        rows = (pixel >= self.top[:, None]) & (pixel < (self.top + self.height)[:, None])
        columns = (pixel >= self.left[:, None]) & (pixel < (self.left + self.width)[:, None])
        return (rows[:, :, None] & columns[:, None, :])[..., None]


def random_boxes(
    key: jax.Array,
    count: int,
    size: int,
    *,
    areas: tuple[float, float],
    ratios: tuple[float, float],
    largest: int,
) -> tuple[Boxes, jax.Array]:
    """Draws boxes in `count` images of side `size`, and returns them and which were found: bool [N].

    The area, as a share of the image, is uniform within `areas`. The ratio of height to width is uniform in
    its logarithm within `ratios`. Boxes are drawn until one has no side of more than `largest` pixels. If
    none of `ATTEMPTS` fits, the box is the whole image. All places in the image are equally likely.

    This is the sampling of torchvision's RandomResizedCrop and RandomErasing, with all attempts at once.
    """
    shape_key, place_key = jax.random.split(key)
    in_areas, in_ratios = jax.random.uniform(shape_key, (2, count, ATTEMPTS))
    area = size**2 * (areas[0] + (areas[1] - areas[0]) * in_areas)
    ratio = ratios[0] * (ratios[1] / ratios[0]) ** in_ratios
    heights = jnp.round(jnp.sqrt(area * ratio)).astype(jnp.int32)
    widths = jnp.round(jnp.sqrt(area / ratio)).astype(jnp.int32)
    fits = (jnp.minimum(heights, widths) > 0) & (jnp.maximum(heights, widths) <= largest)
    first, exists = fits.argmax(axis=1)[:, None], fits.any(axis=1)
    height, width = (
        jnp.where(exists, jnp.take_along_axis(sides, first, axis=1)[:, 0], size)
        for sides in (heights, widths)
    )
    down, across = jax.random.uniform(place_key, (2, count))
    top = (down * (size - height + 1)).astype(jnp.int32)
    left = (across * (size - width + 1)).astype(jnp.int32)
    return Boxes(top, left, height, width), exists
