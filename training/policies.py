"""TrivialAugment and RandAugment on the device: operations of Pillow, drawn at random for every image.

Compared with Pillow, which torchvision calls, values differ by at most one grey level; see
tests/peers/test_recipes.py.
"""

from enum import IntEnum
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from ml_collections import ConfigDict

LEVELS = 31  # magnitudes are counted from 0 to 30


class Operation(IntEnum):
    """What may happen to an image, in the order of torchvision."""

    IDENTITY = 0
    SHEAR_X = 1
    SHEAR_Y = 2
    TRANSLATE_X = 3
    TRANSLATE_Y = 4
    ROTATE = 5
    BRIGHTNESS = 6
    COLOR = 7
    CONTRAST = 8
    SHARPNESS = 9
    POSTERIZE = 10
    SOLARIZE = 11
    AUTO_CONTRAST = 12
    EQUALIZE = 13


class Strongest(NamedTuple):
    """The strength of every operation at the highest magnitude, 30."""

    shear: float  # pixels across per pixel along
    translation: float  # pixels
    rotation: float  # degrees
    enhancement: float  # change of the factor of brightness, colour, contrast and sharpness, which is 1
    posterization: float  # bits that are dropped
    solarization: float = 255  # grey levels from white down that are inverted


def strongest_of(policy: str, size: int) -> Strongest:
    """Returns the strengths of a `policy`, trivial or rand, for images of side `size`.

    They are those of TrivialAugmentWide (Müller & Hutter 2021, arXiv:2103.10158, table 1) and of RandAugment
    (Cubuk et al. 2020, arXiv:1909.13719, section 4), as in torchvision.
    """
    if policy == "trivial":
        return Strongest(0.99, 32, 135, 0.99, 6)
    return Strongest(0.3, 150 / 331 * size, 30, 0.9, 4)


def apply_policy(key: jax.Array, images: jax.Array, config: ConfigDict) -> jax.Array:
    """Applies the policy of `config` to `images` float32 [N, H, H, 3 or 4], which it rounds to 0, 1, ... 255.

    `config.policy` is trivial: one operation of one of 31 magnitudes for each image; or rand:
    `config.policy_operations` operations in a row, all of magnitude `config.policy_magnitude` (0 to 30). Half
    of the shears, translations, rotations and enhancements go the other way. A fourth channel, the matte,
    follows the geometry alone. Returns whole numbers in float32, of the same shape.
    """
    n, size = images.shape[:2]
    is_trivial = config.policy == "trivial"
    strongest = strongest_of(config.policy, size)

    def one_operation(i: jax.Array, images: jax.Array) -> jax.Array:
        which, level, sign = jax.random.split(jax.random.fold_in(key, i), 3)
        operation = jax.random.randint(which, (n,), 0, len(Operation))
        if is_trivial:
            magnitude = jax.random.randint(level, (n,), 0, LEVELS).astype(jnp.float32)
        else:
            magnitude = jnp.full(n, config.policy_magnitude, jnp.float32)
        strength = strength_of(operation, magnitude, strongest)
        is_signed = (operation >= Operation.SHEAR_X) & (operation <= Operation.SHARPNESS)
        other_way = is_signed & jax.random.bernoulli(sign, shape=(n,))
        return apply_operations(images, operation, jnp.where(other_way, -strength, strength))

    count = 1 if is_trivial else config.policy_operations
    return lax.fori_loop(0, count, one_operation, jnp.round(images))


def strength_of(operation: jax.Array, magnitude: jax.Array, strongest: Strongest) -> jax.Array:
    """Returns the strength float32 [N] of each `operation` [N] at a `magnitude` [N] of 0 to 30."""
    shear, translation, rotation, enhancement, posterization, solarization = strongest
    table = [0, shear, shear, translation, translation, rotation, *4 * [enhancement]]
    table += [posterization, solarization, 0, 0]
    # Divided here, thresholds of solarize are exact. XLA would multiply by a rounded 1/30.
    return jnp.array(np.array(table) / (LEVELS - 1), jnp.float32)[operation] * magnitude


def apply_operations(images: jax.Array, operation: jax.Array, strength: jax.Array) -> jax.Array:
    """Applies to each image its `operation` [N] in a `strength` [N]; see `Strongest` for the units.

    `images` are float32 [N, H, W, 3 or 4] of whole numbers, 0 to 255, as is the result.

    As a branch each, all 14 operations would be computed for every image. But there are three kinds of them,
    each of which is one pass over the batch:

    - geometric: one resampling, by an affine map of each image's own;
    - enhancements: one blend with a degenerate image: black, grey, its mean, or smooth;
    - tones: arithmetic on single values, for which equalize looks up each value's rank.

    All three read the same images. One after the other, XLA on a CPU would compute a pass again for each use.
    """
    resampled = _resample_nearest(images, _affine_maps(operation, strength, *images.shape[1:3]))
    operation, strength = operation[:, None, None, None], strength[:, None, None, None]
    images = images[..., :3]
    pixels = jnp.where(
        operation <= Operation.ROTATE,
        resampled[..., :3],
        jnp.where(
            operation <= Operation.SHARPNESS,
            _enhance(images, operation, strength),
            _move_tones(images, operation, strength),
        ),
    )
    return jnp.concatenate([pixels, resampled[..., 3:]], axis=-1)


def _affine_maps(operation: jax.Array, strength: jax.Array, height: int, width: int) -> jax.Array:
    """Returns the maps [N, 2, 3] from the pixels (x, y, 1) of the result to those of the image.

    Shears leave the upper left corner in place and rotations, counter-clockwise, the centre.
    """

    def where(name: Operation, value: jax.Array) -> jax.Array:
        return jnp.where(operation == name, value, 0)

    angle = where(Operation.ROTATE, jnp.deg2rad(strength))
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    x, y = width / 2, height / 2
    # Whole pixels, as in torchvision.
    right, down = (
        where(name, jnp.trunc(strength)) for name in (Operation.TRANSLATE_X, Operation.TRANSLATE_Y)
    )
    to_x = [cosine, where(Operation.SHEAR_X, strength) - sine, x - x * cosine + y * sine - right]
    to_y = [where(Operation.SHEAR_Y, strength) + sine, cosine, y - x * sine - y * cosine - down]
    return jnp.stack([jnp.stack(to_x, axis=-1), jnp.stack(to_y, axis=-1)], axis=1)


def _resample_nearest(images: jax.Array, maps: jax.Array) -> jax.Array:
    """Returns the pixels of `images` [N, H, W, C] that `maps` [N, 2, 3] lead to, and zero outside of them."""
    n, height, width, channels = images.shape
    x, y = jnp.arange(width) + 0.5, jnp.arange(height)[:, None] + 0.5
    # No matrix product, which accelerators would round to fractions of a pixel that show.
    column, row = (
        jnp.floor(maps[:, i, 0, None, None] * x + maps[:, i, 1, None, None] * y + maps[:, i, 2, None, None])
        for i in (0, 1)
    )
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    index = jnp.where(inside, row * width + column, 0).astype(jnp.int32).reshape(n, -1, 1)
    pixels = jnp.take_along_axis(images.reshape(n, -1, channels), index, axis=1)
    return jnp.where(inside[..., None], pixels.reshape(images.shape), 0)


def _enhance(images: jax.Array, operation: jax.Array, strength: jax.Array) -> jax.Array:
    """Moves `images` [N, H, W, 3] away from a degenerate image, or towards it where `strength` is negative.

    `operation` and `strength` are [N, 1, 1, 1].
    """
    grey = _grey(images)
    mean = jnp.floor(grey.mean(axis=(1, 2, 3), keepdims=True) + 0.5)
    degenerate = jnp.where(operation == Operation.COLOR, grey, 0)
    degenerate = jnp.where(operation == Operation.CONTRAST, mean, degenerate)
    degenerate = jnp.where(operation == Operation.SHARPNESS, _smooth(images), degenerate)
    return jnp.floor(jnp.clip(degenerate + (1 + strength) * (images - degenerate), 0, 255))


def _grey(images: jax.Array) -> jax.Array:
    """Returns the luma [N, H, W, 1] of `images` [N, H, W, 3] (ITU-R BT.601), in whole numbers as Pillow's."""
    weights = jnp.array([19595, 38470, 7471])  # of 65536
    luma = (images.astype(jnp.int32) * weights).sum(axis=-1, keepdims=True)
    return ((luma + 32768) >> 16).astype(jnp.float32)


def _smooth(images: jax.Array) -> jax.Array:
    """Returns the mean of each pixel, counted five times, and its eight neighbours. The border stays."""
    rows = images[:, :-2] + images[:, 1:-1] + images[:, 2:]
    total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * images[:, 1:-1, 1:-1]
    return images.at[:, 1:-1, 1:-1].set(jnp.floor(total / 13 + 0.5))


def _move_tones(images: jax.Array, operation: jax.Array, strength: jax.Array) -> jax.Array:
    """Changes each value of `images` [N, H, W, 3] by itself; `operation` and `strength` are [N, 1, 1, 1]."""
    step = 2 ** jnp.round(strength)
    counts = _histograms(images)
    tones = {
        Operation.POSTERIZE: jnp.floor(images / step) * step,
        Operation.SOLARIZE: jnp.where(images < 255 - strength, images, 255 - images),
        Operation.AUTO_CONTRAST: _stretch(images, counts),
        Operation.EQUALIZE: _equalize(images, counts),
    }
    for name, values in tones.items():
        images = jnp.where(operation == name, values, images)
    return images


def _histograms(images: jax.Array) -> jax.Array:
    """Counts the values of each image and channel of `images` [N, H, W, 3]: int32 [N, 256, 3]."""

    def histogram(values: jax.Array) -> jax.Array:
        return jnp.zeros(256, jnp.int32).at[values].add(1, mode="promise_in_bounds")

    values = images.astype(jnp.int32).reshape(len(images), -1, 3)
    return jax.vmap(jax.vmap(histogram, in_axes=1, out_axes=1))(values)


def _stretch(images: jax.Array, counts: jax.Array) -> jax.Array:
    """Stretches the values linearly, so that the darkest of each channel becomes 0 and the brightest 255."""
    occurs = counts > 0
    lowest = occurs.argmax(axis=1)[:, None, None]
    highest = 255 - occurs[:, ::-1].argmax(axis=1)[:, None, None]
    stretched = jnp.floor((images - lowest) * 255 / (highest - lowest))
    return jnp.where(highest > lowest, stretched, images)


def _equalize(images: jax.Array, counts: jax.Array) -> jax.Array:
    """Replaces values by their rank within image and channel, so that all become about equally frequent."""
    below = jnp.cumsum(counts, axis=1) - counts
    # The pixels of the brightest value do not count, as in Pillow.
    step = below.max(axis=1, where=counts > 0, initial=0)[:, None, None] // 255
    values = images.astype(jnp.int32).reshape(len(images), -1, 3)
    rank = jnp.take_along_axis(below, values, axis=1).reshape(images.shape)
    # Quotients of floats are quicker than of integers, and exact for images of up to 2**24 pixels.
    equalized = jnp.floor((step // 2 + rank).astype(jnp.float32) / jnp.maximum(step, 1))
    return jnp.where(step > 0, jnp.minimum(equalized, 255), images)
