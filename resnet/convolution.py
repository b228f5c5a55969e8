"""One 2-D convolution with two lowerings (DESIGN D2).

`lax` is XLA's own convolution, the right choice on accelerators. `matmul` turns a convolution into matrix
products, which XLA's CPU backend runs many times faster than its convolution:

- groups: a product for each group, over patches;
- 1x1: one product over pixels;
- 3x3, stride 1: Winograd's F(2x2, 3x3), 2.25 times fewer multiplications; on maps of at most 2x2
  pixels, where every output sees every input, a product over the flattened map instead;
- anything else: patches and one product.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

Lowering = Literal["auto", "lax", "matmul"]


def conv2d(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int,
    padding: int,
    groups: int = 1,
    lowering: Lowering = "auto",
) -> jax.Array:
    """Convolves `x` [N, H, W, C] with `kernel` [k, k, C / groups, O], zero-padded alike on all four sides.

    Returns [N, (H + 2 padding - k) // stride + 1, likewise for W, O] in the dtype of `x`. `auto` is
    `matmul` on CPU and `lax` elsewhere. Both lowerings agree within float32 rounding.
    """
    if lowering == "auto":
        lowering = "matmul" if jax.default_backend() == "cpu" else "lax"
    if lowering == "lax":
        return lax.conv_general_dilated(
            x,
            kernel,
            window_strides=(stride, stride),
            padding=((padding, padding), (padding, padding)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )
    if groups > 1:
        return _grouped_patches_product(x, kernel, stride, padding, groups)
    if kernel.shape[:2] == (1, 1) and padding == 0:
        return _pointwise(x[:, ::stride, ::stride], kernel)
    if kernel.shape[:2] == (3, 3) and stride == padding == 1:
        if max(x.shape[1:3]) <= 2:
            return _whole_map_3x3(x, kernel)
        return winograd_3x3(x, kernel)
    return _patches_product(x, kernel, stride, padding)


def _pointwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    n, h, w, c = x.shape
    return (x.reshape(n * h * w, c) @ kernel[0, 0]).reshape(n, h, w, -1)


def _whole_map_3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """3x3 convolution of a map of at most 2x2 pixels: one product for each output pixel.

    The kernel's taps that fall on padding are never multiplied: 4 of 9 remain on a 2x2 map, 1 of 9 on 1x1.
    """
    n, h, w, c = x.shape
    flat = x.reshape(n, h * w * c)
    pixels = [
        flat @ kernel[1 - i : 1 - i + h, 1 - j : 1 - j + w].reshape(h * w * c, -1)
        for i in range(h)
        for j in range(w)
    ]
    return jnp.stack(pixels, axis=1).reshape(n, h, w, -1)


def _patches_product(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    n, h, w, c = x.shape
    k = kernel.shape[0]
    out_h, out_w = ((size + 2 * padding - k) // stride + 1 for size in (h, w))
    patches = jnp.concatenate(strided_windows(x, k, stride, padding, fill=0.0), axis=-1).reshape(
        n * out_h * out_w, k * k * c
    )
    return (patches @ kernel.reshape(k * k * c, -1)).reshape(n, out_h, out_w, -1)


def _grouped_patches_product(
    x: jax.Array, kernel: jax.Array, stride: int, padding: int, groups: int
) -> jax.Array:
    """One product for each group, in a batch: group g sees channels, and gives outputs, g-th in order."""
    windows = jnp.stack(strided_windows(x, kernel.shape[0], stride, padding, fill=0.0))
    taps, n, out_h, out_w, c = windows.shape
    patches = windows.reshape(taps, n * out_h * out_w, groups, c // groups)
    weights = kernel.reshape(taps, c // groups, groups, -1)
    return jnp.einsum("tpgc,tcgo->pgo", patches, weights).reshape(n, out_h, out_w, -1)


def strided_windows(x: jax.Array, k: int, stride: int, padding: int, fill: float) -> list[jax.Array]:
    """The k*k shifted and strided views of `x` [N, H, W, C], row by row, each [N, out_h, out_w, C].

    The map is first cut into its stride*stride phases, so that every view is a plain slice, whose
    transpose is a plain pad; XLA's CPU backend is slow at strided slices and their transposes.
    """
    n, h, w, c = x.shape
    out_h, out_w = ((size + 2 * padding - k) // stride + 1 for size in (h, w))
    phase_h, phase_w = (size + (k - 1) // stride for size in (out_h, out_w))
    # A negative upper padding drops rows and columns that no window reaches.
    edges = [
        (0, 0, 0),
        (padding, phase_h * stride - h - padding, 0),
        (padding, phase_w * stride - w - padding, 0),
        (0, 0, 0),
    ]
    padded = lax.pad(x, jnp.asarray(fill, x.dtype), edges)
    phases = padded.reshape(n, phase_h, stride, phase_w, stride, c)
    return [
        phases[:, i // stride :, i % stride, j // stride :, j % stride][:, :out_h, :out_w]
        for i in range(k)
        for j in range(k)
    ]


@jax.custom_vjp
def winograd_3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """3x3 convolution, stride 1, padding 1, of `x` [N, H, W, C] with `kernel` [3, 3, C, O] -> [N, H, W, O].

    Winograd's minimal filtering F(2x2, 3x3): Lavin & Gray 2016, "Fast Algorithms for Convolutional
    Neural Networks", section 4.1. Sixteen products over the 4x4 transform of every 2x2 output tile.
    The derivative is the transposed algorithm, with the input transform computed again rather than
    kept: it is four times the size of `x`.
    """
    _, h, w, _ = x.shape
    products = [d @ u for d, u in zip(_transform_input(x), _transform_kernel(kernel), strict=True)]
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
