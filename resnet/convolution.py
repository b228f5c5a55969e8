"""One 2-D convolution with two lowerings (DESIGN D2).

`lax` is XLA's own convolution, the right choice on accelerators. `matmul` turns a convolution into matrix
products, which XLA's CPU backend runs many times faster than its convolution:

- 3x3, stride 1: Winograd's F(2x2, 3x3), 2.25 times fewer multiplications;
- a few channels, as in the stem: patches and one product;
- anything else, 1x1 and maps of at most 2x2 pixels too: one product for each tap of the kernel.
"""

from collections.abc import Callable
from functools import partial
from math import isqrt, prod
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

Lowering = Literal["auto", "lax", "matmul"]

Product = Callable[[jax.Array, jax.Array], jax.Array]  # of [M, C] and [C, O] to [M, O]

FEW_CHANNELS = 16  # Below it a product over one tap's channels is too thin to be fast.
FEW_ROWS = 32  # Up to so many output pixels, reading the weights is what a product costs.
ONE_PRODUCT_ROWS = 64  # Up to so many, one product of patches beats many small ones.


def conv2d(
    x: jax.Array, kernel: jax.Array, *, stride: int, padding: int, lowering: Lowering = "auto"
) -> jax.Array:
    """Convolves `x` [N, H, W, C] with `kernel` [k, k, C, O], zero-padded alike on all four sides.

    Returns [N, (H + 2 padding - k) // stride + 1, likewise for W, O] in the dtype of `x`. `auto` is
    `matmul` on CPU and `lax` elsewhere. Both lowerings agree within float32 rounding.
    """
    return _conv2d(x, kernel, stride, padding, _resolve(lowering))


def _resolve(lowering: Lowering) -> Literal["lax", "matmul"]:
    if lowering != "auto":
        return lowering
    return "matmul" if jax.default_backend() == "cpu" else "lax"


# Traced once for each shape rather than for each layer.
@partial(jax.jit, static_argnames=("stride", "padding", "lowering"))
def _conv2d(
    x: jax.Array, kernel: jax.Array, stride: int, padding: int, lowering: Literal["lax", "matmul"]
) -> jax.Array:
    if lowering == "lax":
        return lax.conv_general_dilated(
            x,
            kernel,
            window_strides=(stride, stride),
            padding=((padding, padding), (padding, padding)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
    if _suits_winograd(x.shape, kernel.shape, stride, padding):
        return winograd_3x3(x, kernel)
    if x.shape[-1] < FEW_CHANNELS:
        return _patches_product(x, _flat(kernel), kernel.shape[0], stride, padding)
    return _tap_products(x, _taps(kernel), stride, padding)


# A kernel that serves many predictions is put once for all into the form in which products take it.


def arrange_kernel(
    kernel: jax.Array, x_shape: tuple[int, ...], *, stride: int, padding: int, lowering: Lowering = "auto"
) -> list[jax.Array]:
    """`kernel` [k, k, C, O] as `conv2d_arranged` takes it for an `x` of `x_shape`."""
    if _resolve(lowering) == "lax":
        return [kernel]
    match _arrangement(x_shape, kernel.shape, stride, padding):
        case "winograd":
            matrices = _transform_kernel(kernel)
        case "patches":
            matrices = [_flat(kernel)]
        case "taps":
            matrices = _taps(kernel)
    if _output_pixels(x_shape, kernel.shape[0], stride, padding) <= FEW_ROWS:
        return [matrix.T for matrix in matrices]
    return matrices


def conv2d_arranged(
    x: jax.Array,
    arranged: list[jax.Array],
    kernel_shape: tuple[int, ...],
    *,
    stride: int,
    padding: int,
    lowering: Lowering = "auto",
) -> jax.Array:
    """`conv2d` of `x` with what `arrange_kernel` made of a kernel of `kernel_shape`."""
    if _resolve(lowering) == "lax":
        return conv2d(x, arranged[0], stride=stride, padding=padding, lowering="lax")
    few = _output_pixels(x.shape, kernel_shape[0], stride, padding) <= FEW_ROWS
    product = _product_from_the_left if few else jnp.matmul
    match _arrangement(x.shape, kernel_shape, stride, padding):
        case "winograd":
            return _winograd_products(x, arranged, product)
        case "patches":
            return _patches_product(x, arranged[0], kernel_shape[0], stride, padding, product)
        case "taps":
            return _tap_products(x, arranged, stride, padding, product)


def _arrangement(
    x_shape: tuple[int, ...], kernel_shape: tuple[int, ...], stride: int, padding: int
) -> Literal["winograd", "patches", "taps"]:
    k = kernel_shape[0]
    one_product_is_best = k > 1 and _output_pixels(x_shape, k, stride, padding) <= ONE_PRODUCT_ROWS
    if one_product_is_best or x_shape[-1] < FEW_CHANNELS:
        return "patches"
    return "winograd" if _suits_winograd(x_shape, kernel_shape, stride, padding) else "taps"


def _output_pixels(x_shape: tuple[int, ...], k: int, stride: int, padding: int) -> int:
    n, h, w, _ = x_shape
    return n * prod((size + 2 * padding - k) // stride + 1 for size in (h, w))


def _product_from_the_left(x: jax.Array, transposed: jax.Array) -> jax.Array:
    """`x` [M, C] times the transpose of `transposed` [O, C], without rearranging the larger of the two.

    The barriers keep XLA from turning it back into the product that it looks like.
    """
    return lax.optimization_barrier(transposed @ lax.optimization_barrier(x.T)).T


def _suits_winograd(x: tuple[int, ...], kernel: tuple[int, ...], stride: int, padding: int) -> bool:
    return kernel[:2] == (3, 3) and stride == padding == 1 and max(x[1:3]) > 2


def _flat(kernel: jax.Array) -> jax.Array:
    """[k * k * C, O], as the patches are laid out."""
    return kernel.reshape(-1, kernel.shape[-1])


def _taps(kernel: jax.Array) -> list[jax.Array]:
    """The k * k matrices [C, O] of `kernel` [k, k, C, O], row by row."""
    return jnp.unstack(kernel.reshape(-1, *kernel.shape[2:]))


def _tap_products(
    x: jax.Array, taps: list[jax.Array], stride: int, padding: int, product: Product = jnp.matmul
) -> jax.Array:
    """One product for each tap of the kernel, over the outputs for which it does not fall on padding.

    Nothing is copied into patches, and nothing is multiplied by padding: of a 2x2 map that is 20 of 36.
    """
    _, h, w, c = x.shape
    k = isqrt(len(taps))
    out_h, out_w = ((size + 2 * padding - k) // stride + 1 for size in (h, w))
    phases = _stride_phases(x, stride, (0, -h % stride), (0, -w % stride), fill=0.0)
    products = []
    for tap, weights in enumerate(taps):
        (top, bottom), (left, right) = (
            _reach(offset - padding, stride, size, out)
            for offset, size, out in ((tap // k, h, out_h), (tap % k, w, out_w))
        )
        if top >= bottom or left >= right:
            continue
        row, column = stride * top + tap // k - padding, stride * left + tap % k - padding
        seen = phases[row % stride][column % stride][:, row // stride :, column // stride :]
        seen = seen[:, : bottom - top, : right - left]
        outputs = product(seen.reshape(-1, c), weights).reshape(*seen.shape[:3], -1)
        edges = ((0, 0), (top, out_h - bottom), (left, out_w - right), (0, 0))
        products.append(jnp.pad(outputs, edges))
    return sum(products)


def _reach(offset: int, stride: int, size: int, out_size: int) -> tuple[int, int]:
    """The range of outputs `o` whose pixel `stride * o + offset` lies in a map of `size`."""
    return max(0, -(offset // stride)), min(out_size, (size - 1 - offset) // stride + 1)


def _patches_product(
    x: jax.Array, weights: jax.Array, k: int, stride: int, padding: int, product: Product = jnp.matmul
) -> jax.Array:
    patches = jnp.concatenate(strided_windows(x, k, stride, padding, fill=0.0), axis=-1)
    return product(patches.reshape(-1, patches.shape[-1]), weights).reshape(*patches.shape[:3], -1)


def strided_windows(x: jax.Array, k: int, stride: int, padding: int, fill: float) -> list[jax.Array]:
    """The k*k shifted and strided views of `x` [N, H, W, C], row by row, each [N, out_h, out_w, C].

    The map is first cut into its stride*stride phases, so that every view is a plain slice, whose
    transpose is a plain pad; XLA's CPU backend is slow at strided slices and their transposes.
    """
    _, h, w, _ = x.shape
    out_h, out_w = ((size + 2 * padding - k) // stride + 1 for size in (h, w))
    phase_h, phase_w = (size + (k - 1) // stride for size in (out_h, out_w))
    # A negative upper padding drops rows and columns that no window reaches.
    phases = _stride_phases(
        x,
        stride,
        (padding, phase_h * stride - h - padding),
        (padding, phase_w * stride - w - padding),
        fill,
    )
    return [
        phases[i % stride][j % stride][:, i // stride :, j // stride :][:, :out_h, :out_w]
        for i in range(k)
        for j in range(k)
    ]


def _stride_phases(
    x: jax.Array, stride: int, pad_h: tuple[int, int], pad_w: tuple[int, int], fill: float
) -> list[list[jax.Array]]:
    """Every `stride`th row and column of the padded `x` [N, H, W, C], from each of the first `stride` on."""
    edges = [(0, 0, 0), (*pad_h, 0), (*pad_w, 0), (0, 0, 0)]
    padded = lax.pad(x, jnp.asarray(fill, x.dtype), edges)
    n, h, w, c = padded.shape
    phases = padded.reshape(n, h // stride, stride, w // stride, stride, c)
    return [[phases[:, :, i, :, j] for j in range(stride)] for i in range(stride)]


@jax.custom_vjp
def winograd_3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """3x3 convolution, stride 1, padding 1, of `x` [N, H, W, C] with `kernel` [3, 3, C, O] -> [N, H, W, O].

    Winograd's minimal filtering F(2x2, 3x3): Lavin & Gray 2016, "Fast Algorithms for Convolutional
    Neural Networks", section 4.1. Sixteen products over the 4x4 transform of every 2x2 output tile.
    The derivative is the transposed algorithm, with the input transform computed again rather than
    kept: it is four times the size of `x`.
    """
    return _winograd_products(x, _transform_kernel(kernel))


def _winograd_products(
    x: jax.Array, transformed: list[jax.Array], product: Product = jnp.matmul
) -> jax.Array:
    _, h, w, _ = x.shape
    products = [product(d, u) for d, u in zip(_transform_input(x), transformed, strict=True)]
    return _transform_output(products, x.shape)[:, :h, :w]


def _winograd_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple]:
    return winograd_3x3(x, kernel), (x, kernel)


def _winograd_backward(residuals: tuple, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    products = _transform_output_transposed(gradient)
    kernel_gradient = _transform_kernel_transposed(
        [d.T @ p for d, p in zip(_transform_input(x), products, strict=True)]
    )
    input_gradient = _transform_input_transposed(
        [p @ u.T for p, u in zip(products, _transform_kernel(kernel), strict=True)], x.shape
    )
    return input_gradient, kernel_gradient


winograd_3x3.defvjp(_winograd_forward, _winograd_backward)


# The one-dimensional transforms of F(2, 3) and their transposes; the two-dimensional ones nest them.
# Each takes and returns a list of arrays rather than one stacked array: XLA then fuses a transform into
# one loop per product, with no concatenation.


def _input_1d(d0, d1, d2, d3) -> list[jax.Array]:
    return [d0 - d2, d1 + d2, d2 - d1, d1 - d3]


def _kernel_1d(g0, g1, g2) -> list[jax.Array]:
    return [g0, (g0 + g1 + g2) / 2, (g0 - g1 + g2) / 2, g2]


def _kernel_1d_transposed(u0, u1, u2, u3) -> list[jax.Array]:
    return [u0 + (u1 + u2) / 2, (u1 - u2) / 2, (u1 + u2) / 2 + u3]


def _output_1d(m0, m1, m2, m3) -> list[jax.Array]:
    return [m0 + m1 + m2, m1 - m2 - m3]


def _output_1d_transposed(y0, y1) -> list[jax.Array]:
    return [y0, y0 + y1, y0 - y1, -y1]


def _input_1d_transposed(t0, t1, t2, t3, axis: int) -> list[jax.Array]:
    """Adds up the overlapping 4-pixel tiles: gives the even and the odd pixels along `axis`."""

    def shift(t: jax.Array, by: int) -> jax.Array:
        edges = [(0, 0, 0)] * t.ndim
        edges[axis] = (by, -by, 0)
        return lax.pad(t, jnp.zeros((), t.dtype), edges)

    return [t1 - t2 + t3 - shift(t3, 1), t1 + t2 - t0 + shift(t0, -1)]


def _transform_input(x: jax.Array) -> list[jax.Array]:
    """16 arrays [N * tiles, C] of `x` [N, H, W, C], zero-padded to an even size and by one pixel around."""
    n, h, w, c = x.shape
    tiles_h, tiles_w = (h + 1) // 2, (w + 1) // 2
    padded = jnp.pad(x, ((0, 0), (1, 2 * tiles_h - h + 1), (1, 2 * tiles_w - w + 1), (0, 0)))
    rows = _input_1d(*(padded[:, i : i + 2 * tiles_h - 1 : 2] for i in range(4)))
    return [
        tile.reshape(n * tiles_h * tiles_w, c)
        for row in rows
        for tile in _input_1d(*(row[:, :, j : j + 2 * tiles_w - 1 : 2] for j in range(4)))
    ]


def _transform_input_transposed(tiles: list[jax.Array], shape: tuple[int, ...]) -> jax.Array:
    n, h, w, c = shape
    tiles = [t.reshape(n, (h + 1) // 2, (w + 1) // 2, c) for t in tiles]
    columns = [_input_1d_transposed(*tiles[4 * i : 4 * i + 4], axis=2) for i in range(4)]
    even_columns, odd_columns = (
        _input_1d_transposed(*(pair[parity] for pair in columns), axis=1) for parity in range(2)
    )
    return _interleave(
        [
            [even_columns[0], odd_columns[0]],
            [even_columns[1], odd_columns[1]],
        ]
    )[:, :h, :w]


def _transform_kernel(kernel: jax.Array) -> list[jax.Array]:
    """16 arrays [C, O] of `kernel` [3, 3, C, O]."""
    return [u for row in _kernel_1d(*kernel) for u in _kernel_1d(*row)]


def _transform_kernel_transposed(u: list[jax.Array]) -> jax.Array:
    rows = [_kernel_1d_transposed(*u[4 * i : 4 * i + 4]) for i in range(4)]
    columns = [_kernel_1d_transposed(*column) for column in zip(*rows, strict=True)]
    return jnp.stack([jnp.stack([columns[j][i] for j in range(3)]) for i in range(3)])


def _transform_output(products: list[jax.Array], shape: tuple[int, ...]) -> jax.Array:
    """[N, H, W, O], H and W rounded up to even, of 16 arrays [N * tiles, O]."""
    n, h, w, _ = shape
    columns = [_output_1d(*products[j::4]) for j in range(4)]
    pixels = [_output_1d(*row) for row in zip(*columns, strict=True)]
    tile_shape = (n, (h + 1) // 2, (w + 1) // 2, -1)
    return _interleave([[pixel.reshape(tile_shape) for pixel in row] for row in pixels])


def _transform_output_transposed(gradient: jax.Array) -> list[jax.Array]:
    _, h, w, o = gradient.shape
    even = jnp.pad(gradient, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)))
    rows = _output_1d_transposed(even[:, 0::2], even[:, 1::2])
    return [p.reshape(-1, o) for row in rows for p in _output_1d_transposed(row[:, :, 0::2], row[:, :, 1::2])]


def _interleave(pixels: list[list[jax.Array]]) -> jax.Array:
    """[N, 2 h, 2 w, C] from the 2x2 pixels, each [N, h, w, C], of every tile."""
    n, h, w, c = pixels[0][0].shape
    rows = [jnp.stack(row, axis=3) for row in pixels]
    return jnp.stack(rows, axis=2).reshape(n, 2 * h, 2 * w, c)
