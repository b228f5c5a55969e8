"""Smaller images early in training, whose steps cost less.

What a network learns from small images serves it on larger ones: progressive resizing (Howard 2018,
https://www.fast.ai/posts/2018-04-30-dawnbench-fastai.html; Tan & Le 2021, arXiv:2104.00298, section 4).
"""

from typing import Any

import jax
from ml_collections import ConfigDict


def early_steps(total: int, config: ConfigDict) -> int:
    """Returns how many of `total` steps have smaller images."""
    return round(config.augment.early_share * total) if config.augment.early_size else 0


def image_size_of_step(step: int, total: int, config: ConfigDict) -> int:
    """Returns the side in pixels of the images that the step after `step` of `total` learns from."""
    is_early = step < early_steps(total, config)
    return int(config.augment.early_size if is_early else config.data.image_size)


def image_sizes(config: ConfigDict) -> tuple[int, ...]:
    """Returns the sides in pixels of the images that a training learns from, in their order."""
    sizes = (config.augment.early_size, config.data.image_size)
    return sizes if sizes[0] else sizes[1:]


def settings_of_step(config: ConfigDict, image_size: int) -> dict[str, Any]:
    """Returns what the program of a step that learns from images of `image_size` is made from."""
    return {"config": config.to_dict(), "image_size": image_size}


def at_size(images: jax.Array, size: int) -> jax.Array:
    """Returns `images` float32 [N, S, S, C] at [N, size, size, C]."""
    n, _, _, channels = images.shape
    return jax.image.resize(images, (n, size, size, channels), "linear")


def steps_left(step: int, total: int, config: ConfigDict) -> float:
    """Returns what is left of `total` steps after `step`, counted in steps at the size of the last one.

    The time of a step is taken to grow with the number of pixels. `config` has all fields of the run.
    """
    small = max(early_steps(total, config) - step, 0)
    large = total - step - small
    return small + large * (config.data.image_size / config.augment.early_size) ** 2 if small else large
