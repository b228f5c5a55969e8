"""A 3x3 convolution for few channels, such as the 16 of the networks for CIFAR-10.

Products over few channels are too thin for Winograd's algorithm: the time goes into moving pixels. XLA's own
convolution gathers the pixels of a window while it multiplies. Only its gradient for the kernel is slow.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from resnet.ops.pieces import piece_count, sum_pieces

MANY_CHANNELS = 32  # From this many input channels on, Winograd's products are thick enough to be faster.
PIECE_BYTES = 2**20  # The copies that its kernel gradient multiplies take six times as much.
SMALL_MAP = 8  # On maps with shorter sides, XLA's convolution is slow on CPU.


def suits_narrow(x: tuple[int, ...], kernel: tuple[int, ...], padding: int) -> bool:
    """Returns whether `narrow_3x3` applies to shapes `x` [N, H, W, C] and `kernel`, and pays off."""
    few_channels = x[-1] < MANY_CHANNELS
    return kernel[:2] == (3, 3) and padding == 1 and few_channels and min(x[1:3]) >= SMALL_MAP


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def narrow_3x3(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolves `x` [N, H, W, C] with `kernel` [3, 3, C, O], padding 1.

    Returns [N, out_h, out_w, O] with out_h = (H - 1) // stride + 1; out_w follows from W in the same way.
    """
    return _convolution(x, kernel, stride)


def _convolution(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _forward(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    # Behind the barrier, the gradient reads `x` from memory. XLA would compute it anew, back to the first
    # block of a stage, since all in between are additions.
    x = lax.optimization_barrier(x)
    return narrow_3x3(x, kernel, stride), (x, kernel)


def _backward(
    stride: int, residuals: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    gradient = lax.optimization_barrier(gradient)
    kernel_gradient = _kernel_gradient if stride == 1 else partial(_strided_kernel_gradient, stride=stride)
    return _input_gradient(gradient, kernel, x.shape, stride), kernel_gradient(x, gradient)


narrow_3x3.defvjp(_forward, _backward)


def _input_gradient(
    gradient: jax.Array, kernel: jax.Array, x_shape: tuple[int, ...], stride: int
) -> jax.Array:
    """Returns the gradient for the input, [N, H, W, C]: a plain convolution with the flipped kernel.

    The transpose that JAX derives is the same sum. But inside of a loop, XLA computes it pixel by pixel, and
    takes seventeen times as long.
    """
    if stride > 1:
        return _strided_input_gradient(gradient, kernel, x_shape, stride)
    # Without the barrier, XLA would make it the transpose again.
    return _convolution(gradient, lax.optimization_barrier(kernel[::-1, ::-1].swapaxes(2, 3)))


def _strided_input_gradient(
    gradient: jax.Array, kernel: jax.Array, x_shape: tuple[int, ...], stride: int
) -> jax.Array:
    """Returns what `_input_gradient` does, for `gradient` [N, out_h, out_w, O] of a strided convolution.

    A pixel of it belongs to a block of stride * stride pixels of the input. A block comes from the 2x2 pixels
    of `gradient` at and after its own, so that one convolution with a 2x2 kernel gives all blocks.
    """
    n, out_h, out_w, o = gradient.shape
    c = x_shape[-1]
    rows = jnp.stack(_taps_of_blocks(kernel, 0, stride))
    blocks = jnp.stack(_taps_of_blocks(rows, 2, stride), axis=1)  # [2, 2, stride, stride, C, O]
    pixels = lax.conv_general_dilated(
        gradient,
        lax.optimization_barrier(jnp.moveaxis(blocks, 5, 2).reshape(2, 2, o, -1)),
        window_strides=(1, 1),
        padding=((0, 1), (0, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    pixels = pixels.reshape(n, out_h, out_w, stride, stride, c).transpose(0, 1, 3, 2, 4, 5)
    return pixels.reshape(n, out_h * stride, out_w * stride, c)[:, : x_shape[1], : x_shape[2]]


def _taps_of_blocks(kernel: jax.Array, axis: int, stride: int) -> list[jax.Array]:
    """Returns the taps by which two neighbours in a row of the gradient reach the pixels of a block.

    For each of the two, `axis` of `kernel`, which is 3 long, becomes `stride` long, with zeros for the pixels
    that are out of its reach.
    """

    def taps_from(first: int) -> jax.Array:
        edges = [(0, 0, 0)] * kernel.ndim
        edges[axis] = (-first, first + stride - 3, 0)
        return lax.pad(kernel, jnp.zeros((), kernel.dtype), edges)

    return [taps_from(1), taps_from(1 - stride)]


def _kernel_gradient(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """Returns the gradient for the kernel, [3, 3, C, O], of `x` [N, H, W, C] and `gradient` [N, H, W, O].

    One product covers all nine taps: three columns of `x`, side by side, times three rows of `gradient`. That
    needs two thirds of the memory that patches of nine pixels take, and is a thicker product.
    """

    def piece_gradient(x: jax.Array, gradient: jax.Array) -> jax.Array:
        _, h, w, c = x.shape
        o = gradient.shape[-1]
        # Behind the barriers, the copies read padded arrays. Fused with the padding, they test every pixel.
        wide = lax.optimization_barrier(jnp.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0))))
        tall = lax.optimization_barrier(jnp.pad(gradient, ((0, 0), (1, 1), (0, 0), (0, 0))))
        columns = jnp.concatenate([wide[:, :, j : j + w] for j in range(3)], axis=-1)
        rows = jnp.concatenate([tall[:, 2 - i : 2 - i + h] for i in range(3)], axis=-1)
        product = columns.reshape(-1, 3 * c).T @ rows.reshape(-1, 3 * o)
        return product.reshape(3, c, 3, o).transpose(2, 0, 1, 3)

    zeros = jnp.zeros((3, 3, x.shape[-1], gradient.shape[-1]), x.dtype)
    return sum_pieces(piece_gradient, zeros, x, gradient, count=piece_count(x, PIECE_BYTES))


def _strided_kernel_gradient(x: jax.Array, gradient: jax.Array, stride: int) -> jax.Array:
    """Returns what `_kernel_gradient` does, for `gradient` [N, out_h, out_w, O] of a strided convolution."""
    _, out_h, out_w, o = gradient.shape
    padded = lax.optimization_barrier(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))))
    last_row, last_column = (stride * (size - 1) + 1 for size in (out_h, out_w))
    columns = [padded[:, :, j : j + last_column : stride] for j in range(3)]
    # Two concatenations of three are many times faster on CPU than one of nine.
    columns = lax.optimization_barrier(jnp.concatenate(columns, axis=-1))
    patches = jnp.concatenate([columns[:, i : i + last_row : stride] for i in range(3)], axis=-1)
    product = patches.reshape(-1, 9 * x.shape[-1]).T @ gradient.reshape(-1, o)
    return product.reshape(3, 3, -1, o)
