"""Pooling: the maximum, whose derivative is selects where that of XLA's own is a scatter, and the mean."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from resnet.convolution import strided_windows


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def max_pool_3x3(x: jax.Array, padding: int = 1, fill: float = -jnp.inf) -> jax.Array:
    """3x3 maximum, stride 2, of `x` [N, H, W, C] -> [N, (H + 2 padding - 3) // 2 + 1, likewise for W, C].

    The derivative goes to the first of the pixels that share a window's maximum, as PyTorch's does.
    """
    return _max_and_tap(x, padding, fill)[0]


def _max_and_tap(x: jax.Array, padding: int, fill: float) -> tuple[jax.Array, jax.Array]:
    """The maxima, and which pixel of its window each is, 0 to 8 row by row, as int8."""
    maximum, *others = strided_windows(x, 3, 2, padding, fill)
    tap = jnp.zeros(maximum.shape, jnp.int8)
    for index, window in enumerate(others, start=1):
        tap = jnp.where(window > maximum, jnp.int8(index), tap)
        maximum = jnp.maximum(maximum, window)  # Hands NaN on, where a select would lose it.
    return maximum, tap


def _forward(x: jax.Array, padding: int, fill: float) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    maximum, tap = _max_and_tap(x, padding, fill)
    return maximum, (tap, x)  # `x` for its shape alone; unread, it is not kept.


def _backward(
    padding: int, fill: float, residuals: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array]:
    tap, x = residuals
    into_windows = [jnp.where(tap == index, gradient, 0) for index in range(9)]
    windows = partial(strided_windows, k=3, stride=2, padding=padding, fill=0.0)
    return jax.linear_transpose(windows, x)(into_windows)


max_pool_3x3.defvjp(_forward, _backward)


def average_pool_2x2(x: jax.Array) -> jax.Array:
    """2x2 mean, stride 2, of `x` [N, H, W, C] -> [N, (H + 1) // 2, (W + 1) // 2, C].

    At an odd edge it is the mean of the pixels that there are, as in the networks of He et al. 2018.
    """
    n, h, w, c = x.shape
    half_h, half_w = (h + 1) // 2, (w + 1) // 2
    padded = jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)))
    total = padded.reshape(n, half_h, 2, half_w, 2, c).sum((2, 4))
    rows = np.minimum(2, h - 2 * np.arange(half_h))
    columns = np.minimum(2, w - 2 * np.arange(half_w))
    return total / (rows[:, None] * columns)[..., None].astype(x.dtype)
