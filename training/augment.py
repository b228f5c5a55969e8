"""Random augmentation of training images on the device: crop, geometry, policy, light, colour, noise."""

from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from datasets.rendered.pixels import interpolation
from resnet.errors import UserError
from training.boxes import random_boxes
from training.crops import random_crop, random_resized_crop
from training.draws import Draw
from training.policies import apply_policy

# Sides of the grids of random colours that are enlarged and added up to a texture: from slow gradients
# to cells of two pixels in a 64x64 image.
TEXTURE_CELLS = (2, 4, 8, 16, 32)


def grown(value: float, progress: float | jax.Array, ramp: float) -> float | jax.Array:
    """Returns `value` after a share `progress` of the training: it grows from 0 until that share is `ramp`.

    So easy images come first, as in progressive learning (Tan & Le 2021, arXiv:2104.00298, section 4).
    """
    return value * jnp.minimum(progress / ramp, 1) if ramp else value


def size_after_crop(data: ConfigDict) -> int | None:
    """Returns the side to which `augment` crops stored images, or None if they are stored at that size."""
    return data.image_size if data.store_size else None


def augment(
    key: jax.Array,
    images: jax.Array,
    config: ConfigDict,
    progress: float | jax.Array = 1.0,
    *,
    size: int | None = None,
) -> jax.Array:
    """Changes every one of `images` uint8 [N, S, S, 3 or 4] at random; strengths from `config.augment`.

    A fourth channel is the matte: 255 where a pixel shows the object, 0 where it shows the background.
    Returns float32 [N, size, size, 3] of range 0 to 255; `size` is S if it is not given. First comes a random
    crop. Geometry is a single bilinear resampling with extended edges. After it and a policy, the object may
    be put before another background, mixed with a texture (as in PixMix, Hendrycks et al. 2022,
    arXiv:2112.05135), and changed in exposure, colour and noise. Cutout (DeVries & Taylor 2017,
    arXiv:1708.04552) and random erasing come last.

    Background, texture, exposure, colour, noise and cutout happen to a share of the images alone. That share
    grows with `progress`, the share of the training that is done; see `grown`.

    Raises:
        UserError: no crop brings the images to `size`, or they are too small for it.
    """
    geometry, mirror, appearance, chosen = jax.random.split(key, 4)
    images = _crop(jax.random.fold_in(key, Draw.CROP), images, config, size or images.shape[1])
    images = images.astype(jnp.float32)
    if config.rotation or config.scale or config.translation or config.perspective:
        images = _resample(images, _random_projection(geometry, len(images), config))
    if config.flip:
        flipped = jax.random.bernoulli(mirror, config.flip, (len(images), 1, 1, 1))
        images = jnp.where(flipped, images[:, :, ::-1], images)
    if config.policy != "none":
        images = apply_policy(jax.random.fold_in(key, Draw.POLICY), images, config)
    images, matte = images[..., :3], images[..., 3:] / 255
    if config.appearance:
        share = grown(config.appearance, progress, config.ramp)
        changes = jax.random.bernoulli(chosen, share, (len(images), 1, 1, 1))
        images = jnp.where(changes, _change_appearance(appearance, images, matte, config), images)
    return _erase(jax.random.fold_in(key, Draw.ERASING), images, config.erasing) if config.erasing else images


def _crop(key: jax.Array, images: jax.Array, config: ConfigDict, size: int) -> jax.Array:
    """Crops `images` [N, S, S, C] to `size`, after adding zeros around them (He et al. 2015, section 4.2)."""
    pad, stored = config.pad, images.shape[1]
    if pad:
        images = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    if config.resized_crop:
        return random_resized_crop(key, images, size, config.resized_crop)
    if pad and stored + 2 * pad >= size:
        return random_crop(key, images, size)
    if stored != size:
        raise UserError(
            f"config.data.store_size={stored}: nothing crops images of this size to data.image_size={size};"
            " expected augment.resized_crop above 0, or enough of augment.pad, or the same two sizes"
        )
    return images


def _change_appearance(key: jax.Array, images: jax.Array, matte: jax.Array, config: ConfigDict) -> jax.Array:
    behind, before, colour, noise, hole = jax.random.split(key, 5)
    if config.background and matte.size:
        images = _replace_background(behind, images, matte, config.background)
    if config.veil:
        share_key, texture_key = jax.random.split(before)
        share = config.veil * _mostly_small(share_key, len(images))
        images += share * (_texture(texture_key, images.shape) - images)
    images = _jitter_colours(colour, images, config)
    if config.noise:
        images = _add_noise(noise, images, config.noise)
    return _cut_out(hole, images, config.cutout) if config.cutout else images


def _uniform(key: jax.Array, shape: tuple[int, ...], strength: float) -> jax.Array:
    return jax.random.uniform(key, shape, minval=-strength, maxval=strength)


def _mostly_small(key: jax.Array, count: int) -> jax.Array:
    """Draws numbers from 0 to 1, one per image, [N, 1, 1, 1]. Half of them are below an eighth."""
    return jax.random.uniform(key, (count, 1, 1, 1)) ** 3


def _random_projection(key: jax.Array, count: int, config: ConfigDict) -> jax.Array:
    """Draws projections [N, 3, 3] that map output to input pixels.

    Both are homogeneous: (row, column, 1), where -1 to 1 is the whole image.
    """
    rotation, scale, translation, perspective = jax.random.split(key, 4)
    angle = _uniform(rotation, (count,), np.deg2rad(config.rotation))
    # Uniform in the logarithm, so that enlarging by a factor is as likely as shrinking by it.
    zoom = jnp.exp(_uniform(scale, (count,), np.log1p(config.scale)))
    cosine, sine = jnp.cos(angle) / zoom, jnp.sin(angle) / zoom
    shift = _uniform(translation, (count, 2), 2 * config.translation)
    tilt = _uniform(perspective, (count, 2), config.perspective)
    rows = jnp.stack([cosine, -sine, shift[:, 0]], axis=-1)
    columns = jnp.stack([sine, cosine, shift[:, 1]], axis=-1)
    depth = jnp.concatenate([tilt, jnp.ones((count, 1))], axis=-1)
    return jnp.stack([rows, columns, depth], axis=1)


def _resample(images: jax.Array, projection: jax.Array) -> jax.Array:
    """Samples `images` [N, H, W, C] bilinearly at the `projection` [N, 3, 3] of every pixel; extends edges.

    For 32 images of 64x64 it takes 4 ms of CPU time; the affine part alone takes `dm_pix` 126 ms.
    """
    n, h, w, _ = images.shape
    row, column = jnp.meshgrid(_pixel_centres(h), _pixel_centres(w), indexing="ij")
    grid = jnp.stack([row, column, jnp.ones_like(row)]).reshape(3, h * w)
    source = projection @ grid
    row = jnp.clip((source[:, 0] / source[:, 2] + 1) * h / 2 - 0.5, 0, h - 1)
    column = jnp.clip((source[:, 1] / source[:, 2] + 1) * w / 2 - 0.5, 0, w - 1)
    top, left = jnp.floor(row), jnp.floor(column)
    down, right = (row - top)[..., None], (column - left)[..., None]
    top, left = top.astype(jnp.int32), left.astype(jnp.int32)
    bottom, further = jnp.minimum(top + 1, h - 1), jnp.minimum(left + 1, w - 1)
    flat = images.reshape(n, h * w, -1)

    def at(row: jax.Array, column: jax.Array) -> jax.Array:
        return jnp.take_along_axis(flat, (row * w + column)[..., None], axis=1)

    upper = at(top, left) * (1 - right) + at(top, further) * right
    lower = at(bottom, left) * (1 - right) + at(bottom, further) * right
    return (upper * (1 - down) + lower * down).reshape(images.shape)


def _pixel_centres(size: int) -> jax.Array:
    return (jnp.arange(size, dtype=jnp.float32) + 0.5) * (2 / size) - 1


def _replace_background(key: jax.Array, images: jax.Array, matte: jax.Array, probability: float) -> jax.Array:
    """Replaces the background of `images` [N, H, W, 3] by a random texture; `matte` [N, H, W, 1] stays."""
    chosen, texture = jax.random.split(key)
    replaced = jax.random.bernoulli(chosen, probability, (len(images), 1, 1, 1))
    return jnp.where(replaced, images * matte + _texture(texture, images.shape) * (1 - matte), images)


def _texture(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Draws surfaces [N, H, W, 3], 0 to 255: a colour, smooth noise of several scales, a straight edge."""
    n, h, w, _ = shape
    base, tint, cells, edge = jax.random.split(key, 4)
    base = jax.random.uniform(base, (n, 1, 1, 1), minval=-0.1, maxval=1.1)
    # Most surfaces are nearly grey, a few have a strong colour.
    base += 0.7 * _mostly_small(tint, n) * _uniform(jax.random.fold_in(tint, 0), (n, 1, 1, 3), 1)

    def noise(i: int, side: int) -> jax.Array:
        strength_key, grid_key, colour_key = jax.random.split(jax.random.fold_in(cells, i), 3)
        strength = 0.4 * _mostly_small(strength_key, n)
        grid = jax.random.normal(grid_key, (n, side, side))
        colour = 1 + _uniform(colour_key, (n, 1, 1, 3), 0.5)
        smooth = interpolation(h, side) @ grid @ interpolation(w, side).T
        return strength * colour * smooth[..., None]

    angle_key, offset_key, step_key = jax.random.split(edge, 3)
    angle = jax.random.uniform(angle_key, (n, 1, 1), maxval=2 * np.pi)
    across = jnp.cos(angle) * _pixel_centres(w) + jnp.sin(angle) * _pixel_centres(h)[:, None]
    side_of_edge = across > _uniform(offset_key, (n, 1, 1), 1.4)
    step = side_of_edge[..., None] * _uniform(step_key, (n, 1, 1, 3), 0.5)
    noises = (noise(i, side) for i, side in enumerate(TEXTURE_CELLS))
    return 255 * jnp.clip(reduce(jnp.add, noises, base + step), 0, 1)


def _jitter_colours(key: jax.Array, images: jax.Array, config: ConfigDict) -> jax.Array:
    brightness, contrast, gain, saturation, levels = jax.random.split(key, 5)
    n = len(images)
    if config.saturation:
        # From grey through the original colours to stronger ones.
        factor = 1 + _uniform(saturation, (n, 1, 1, 1), config.saturation)
        grey = images.mean(axis=-1, keepdims=True)
        images = grey + (images - grey) * factor
    if config.channel_gain:
        images = images * (1 + _uniform(gain, (n, 1, 1, 3), config.channel_gain))
    if config.contrast:
        mean = images.mean(axis=(1, 2, 3), keepdims=True)
        images = mean + (images - mean) * (1 + _uniform(contrast, (n, 1, 1, 1), config.contrast))
    if config.brightness:
        images = images + 255 * _uniform(brightness, (n, 1, 1, 1), config.brightness)
    images = jnp.clip(images, 0, 255)
    return _move_levels(levels, images, config.levels) if config.levels else images


def _move_levels(key: jax.Array, images: jax.Array, strength: float) -> jax.Array:
    """Bends the tone curve by a power; moves black up and white down by up to `strength` of the range."""
    power, range_key, place = jax.random.split(key, 3)
    n = len(images)
    exponent = jnp.exp(_uniform(power, (n, 1, 1, 1), strength))
    span = 1 - strength * _mostly_small(range_key, n)
    black = (1 - span) * jax.random.uniform(place, (n, 1, 1, 1))
    return 255 * (black + span * (images / 255) ** exponent)


def _add_noise(key: jax.Array, images: jax.Array, strength: float) -> jax.Array:
    """Adds uniform noise to every value, at most `strength` of the range either way."""
    strength_key, noise_key = jax.random.split(key)
    most = 255 * strength * _mostly_small(strength_key, len(images))
    return jnp.clip(images + most * _uniform(noise_key, images.shape, 1), 0, 255)


def _cut_out(key: jax.Array, images: jax.Array, side: float) -> jax.Array:
    """Sets a square of `side` (share of the image), centred anywhere, to middle grey."""
    n, h, w, _ = images.shape
    centre = jax.random.uniform(key, (2, n, 1, 1))
    rows = jnp.abs(jnp.arange(h)[None, :, None] + 0.5 - centre[0] * h) <= side * h / 2
    columns = jnp.abs(jnp.arange(w)[None, None, :] + 0.5 - centre[1] * w) <= side * w / 2
    return jnp.where((rows & columns)[..., None], 127.5, images)


def _erase(key: jax.Array, images: jax.Array, probability: float) -> jax.Array:
    """Sets a random rectangle of a share of the images to middle grey (Zhong et al. 2017, arXiv:1708.04896).

    Areas and ratios are those of torchvision's RandomErasing. Middle grey is what a data.mean of 0.5 turns
    into 0.
    """
    n, size = images.shape[:2]
    chosen, box_key = jax.random.split(key)
    boxes, exists = random_boxes(box_key, n, size, areas=(0.02, 0.33), ratios=(0.3, 3.3), largest=size - 1)
    erased = exists & jax.random.bernoulli(chosen, probability, (n,))
    return jnp.where(boxes.mask(size) & erased[:, None, None, None], 127.5, images)
