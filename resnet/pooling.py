"""Max-pooling whose derivative is selects, where that of XLA's own is a scatter."""

from functools import partial

import jax
import jax.numpy as jnp

from resnet.convolution import strided_windows


@jax.custom_vjp
def max_pool_3x3(x: jax.Array) -> jax.Array:
    """3x3 maximum, stride 2, padding 1, of `x` [N, H, W, C] -> [N, (H + 1) // 2, (W + 1) // 2, C].

    The derivative goes to the first of the pixels that share a window's maximum, as PyTorch's does.
    """
    return _max_and_tap(x)[0]


_windows = partial(strided_windows, k=3, stride=2, padding=1)


def _max_and_tap(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The maxima, and which pixel of its window each is, 0 to 8 row by row, as int8."""
    maximum, *others = _windows(x, fill=-jnp.inf)
    tap = jnp.zeros(maximum.shape, jnp.int8)
    for index, window in enumerate(others, start=1):
        tap = jnp.where(window > maximum, jnp.int8(index), tap)
        maximum = jnp.maximum(maximum, window)  # Hands NaN on, where a select would lose it.
    return maximum, tap


def _forward(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    maximum, tap = _max_and_tap(x)
    return maximum, (tap, x)  # `x` for its shape alone; unread, it is not kept.


def _backward(residuals: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array]:
    tap, x = residuals
    into_windows = [jnp.where(tap == index, gradient, 0) for index in range(9)]
    return jax.linear_transpose(partial(_windows, fill=0.0), x)(into_windows)


max_pool_3x3.defvjp(_forward, _backward)
