"""Batch normalisation by the statistics of the batch, and for GPUs its gradient in two passes."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

# A sum over fewer pixels is one kernel of a GPU. One over more would keep most of its processors waiting.
FEW_PIXELS = 2048

Normalized = tuple[jax.Array, jax.Array, jax.Array]


class _Saved(NamedTuple):
    """What the gradient needs of the forward pass."""

    x: jax.Array
    mean: jax.Array
    var: jax.Array
    scale: jax.Array


# Under `jit` it is traced once for each shape instead of once for each layer. This saves a quarter of the
# time before compilation.
@partial(jax.jit, static_argnames=("epsilon", "two_passes"))
def normalize_batch(
    x: jax.Array, scale: jax.Array, bias: jax.Array, *, epsilon: float, two_passes: bool
) -> Normalized:
    """Returns `x` [..., C] normalised by its own mean and biased variance, and these two, float32 [C].

    Ioffe & Szegedy 2015 (arXiv:1502.03167), algorithm 1. With `two_passes` the gradient reads the maps twice,
    which is faster on a GPU, and none passes through the mean and the variance that are returned. Otherwise
    JAX derives it, which is faster on a CPU. Both agree within rounding.
    """
    if two_passes:
        return _normalize(x, scale, bias, epsilon)
    wide = x.astype(jnp.float32)
    axes = tuple(range(x.ndim - 1))
    return _by_moments(x, scale, bias, jnp.mean(wide, axes), jnp.mean(wide * wide, axes), epsilon=epsilon)


def factor_and_offset(
    mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array, *, epsilon: float
) -> list[jax.Array]:
    """Returns the float32 [C] by which maps are multiplied, and the one that is added after that."""
    factor = scale * lax.rsqrt(var + epsilon)
    return [factor, bias - mean * factor]


def _by_moments(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    mean: jax.Array,
    mean_square: jax.Array,
    *,
    epsilon: float,
) -> Normalized:
    var = jnp.maximum(mean_square - mean * mean, 0.0)
    factor, offset = factor_and_offset(mean, var, scale, bias, epsilon=epsilon)
    return (x * factor + offset).astype(x.dtype), mean, var


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalize(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> Normalized:
    return _forward(x, scale, bias, epsilon)[0]


def _forward(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> tuple[Normalized, _Saved]:
    wide = x.astype(jnp.float32)
    count = x.size // x.shape[-1]
    mean, mean_square = (total / count for total in sums_over_pixels(wide, wide * wide))
    normalized = _by_moments(x, scale, bias, mean, mean_square, epsilon=epsilon)
    return normalized, _Saved(x, *normalized[1:], scale)


def _backward(epsilon: float, saved: _Saved, gradients: Normalized) -> Normalized:
    """Returns the gradients of `x`, scale and bias: section 3 of the paper."""
    x, mean, var, scale = saved
    inverse = lax.rsqrt(var + epsilon)

    def widen(x: jax.Array, of_y: jax.Array) -> tuple[jax.Array, jax.Array]:
        return (x.astype(jnp.float32) - mean) * inverse, of_y.astype(jnp.float32)

    normalized, of_y = widen(x, gradients[0])
    of_bias, of_scale = sums_over_pixels(of_y, of_y * normalized)
    # Computed again: without the barrier, XLA would write both maps in float32 and read them again.
    normalized, of_y = widen(*lax.optimization_barrier((x, gradients[0])))
    count = x.size // x.shape[-1]
    of_x = scale * inverse * (of_y - (of_bias + normalized * of_scale) / count)
    return of_x.astype(x.dtype), of_scale, of_bias


_normalize.defvjp(_forward, _backward)


def sums_over_pixels(*maps: jax.Array) -> tuple[jax.Array, ...]:
    """Sums each of `maps`, float32 [N, ..., C] of one shape, over all axes but the last.

    They are summed in the same pass, which XLA does not find by itself. Many pixels are summed image by image
    first, which spreads the work over the processors of a GPU.
    """
    first = maps[0]
    if first.size // first.shape[-1] >= FEW_PIXELS:
        maps = _reduce(maps, range(1, first.ndim - 1))
        maps = lax.optimization_barrier(maps)  # XLA would make one sum of the two again.
    return _reduce(maps, range(maps[0].ndim - 1))


def _reduce(maps: tuple[jax.Array, ...], axes: range) -> tuple[jax.Array, ...]:
    zeros = tuple(jnp.float32(0) for _ in maps)
    return tuple(lax.reduce(maps, zeros, lambda a, b: tuple(map(jnp.add, a, b)), tuple(axes)))
