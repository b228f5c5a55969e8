"""Smaller images early in training, whose steps cost less."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from ml_collections import ConfigDict


def at_early_size(
    function: Callable[[jax.Array], Any], images: jax.Array, config: ConfigDict, progress: float | jax.Array
) -> Any:
    """Returns `function` of `images` float32 [N, S, S, C], which early in training are made smaller first.

    Until a share `early_share` of the training is done, their side is `early_size` pixels; `config` is
    `config.augment`, `progress` the share that is done. What a network learns from small images serves it on
    larger ones: progressive resizing (Howard 2018, https://www.fast.ai/posts/2018-04-30-dawnbench-fastai.html;
    Tan & Le 2021, arXiv:2104.00298, section 4). `function` is compiled for both sizes.
    """
    size = config.early_size
    if not size:
        return function(images)
    n, _, _, channels = images.shape
    return lax.cond(
        progress < config.early_share,
        lambda: function(jax.image.resize(images, (n, size, size, channels), "linear")),
        lambda: function(images),
    )


def steps_left(step: int, total: int, config: ConfigDict) -> float:
    """Returns what is left of `total` steps after `step`, counted in steps at the size of the last one.

    The time of a step is taken to grow with the number of pixels. `config` has all fields of the run.
    """
    small = max(config.augment.early_share * total - step, 0.0)
    large = total - step - small
    return small + large * (config.data.image_size / config.augment.early_size) ** 2 if small else large
