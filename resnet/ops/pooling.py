"""Max-pooling and mean-pooling.

The derivative of this max-pool consists of selections. That of XLA's own is a scatter, which is slow on CPU.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from resnet.ops.convolution import strided_windows


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def max_pool_3x3(x: jax.Array, padding: int = 1, fill: float = -jnp.inf) -> jax.Array:
    """Takes the maximum of 3x3 windows of `x` [N, H, W, C] with stride 2.

    Returns [N, out_h, out_w, C] with out_h = (H + 2 padding - 3) // 2 + 1; out_w follows from W in the same
    way. The padding holds `fill`. Where several pixels of a window share its maximum, the derivative goes to
    the first of them, as in PyTorch.
    """
    return _max_and_tap(x, padding, fill)[0]


def _max_and_tap(x: jax.Array, padding: int, fill: float) -> tuple[jax.Array, jax.Array]:
    """Returns the maxima and their positions in the windows, int8, 0 to 8 row by row."""
    maximum, *others = strided_windows(x, 3, stride=2, padding=padding, fill=fill)
    tap = jnp.zeros(maximum.shape, jnp.int8)
    for index, window in enumerate(others, start=1):
        tap = jnp.where(window > maximum, jnp.int8(index), tap)
        maximum = jnp.maximum(maximum, window)  # Passes NaN on, which a selection would lose.
    return maximum, tap


def _forward(x: jax.Array, padding: int, fill: float) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    maximum, tap = _max_and_tap(x, padding, fill)
    return maximum, (tap, x)  # Only the shape of `x` is read, so XLA does not keep its values.


def _backward(
    padding: int, fill: float, residuals: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array]:
    tap, x = residuals
    window_gradients = [jnp.where(tap == index, gradient, 0) for index in range(9)]
    windows = partial(strided_windows, k=3, stride=2, padding=padding, fill=0.0)
    return jax.linear_transpose(windows, x)(window_gradients)


max_pool_3x3.defvjp(_forward, _backward)


def average_pool_2x2(x: jax.Array) -> jax.Array:
    """Takes the mean of 2x2 windows of `x` [N, H, W, C] with stride 2: [N, (H + 1) // 2, (W + 1) // 2, C].

    Windows that reach over an odd edge average only the pixels inside the map, as in the networks of He et
    al. 2018 (arXiv:1812.01187).
    """
    n, h, w, c = x.shape
    half_h, half_w = (h + 1) // 2, (w + 1) // 2
    padded = jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)))
    total = padded.reshape(n, half_h, 2, half_w, 2, c).sum((2, 4))
    rows = np.minimum(2, h - 2 * np.arange(half_h))
    columns = np.minimum(2, w - 2 * np.arange(half_w))
    return total / (rows[:, None] * columns)[..., None].astype(x.dtype)
