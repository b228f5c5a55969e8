"""Winograd's 3x3 convolution: matrix products with 2.25 times fewer multiplications."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from resnet.ops.pieces import map_pieces, piece_count, scan_pieces
from resnet.ops.products import Product

# The transforms of a piece take some ten times its size, and stay in the cache that all cores share.
PIECE_BYTES = 4 * 2**20


def suits_winograd(x: tuple[int, ...], kernel: tuple[int, ...], stride: int, padding: int) -> bool:
    """Returns whether Winograd's algorithm applies and pays off: 3x3, stride 1, and more than 2x2 pixels."""
    return kernel[:2] == (3, 3) and stride == padding == 1 and max(x[1:3]) > 2


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def winograd_3x3(x: jax.Array, kernel: jax.Array, product: Product = jnp.matmul) -> jax.Array:
    """Convolves `x` [N, H, W, C] with `kernel` [3, 3, C, O], stride 1, padding 1; returns [N, H, W, O].

    This is Winograd's minimal filtering F(2x2, 3x3): Lavin & Gray 2016, "Fast Algorithms for Convolutional
    Neural Networks", section 4.1. Every tile of 2x2 outputs comes from 4x4 inputs, whose transform has 16
    values. Each of these has a product of its own. The derivative is the transposed algorithm. It computes
    the input transform again instead of keeping it, as that is four times the size of `x`. Of its products,
    those for the kernel are always plain ones.
    """
    return winograd_products(x, transform_kernel(kernel), product)


def winograd_products(x: jax.Array, transformed: list[jax.Array], product: Product = jnp.matmul) -> jax.Array:
    """Computes `winograd_3x3` of `x` with a kernel that `transform_kernel` has transformed."""

    def convolve(piece: jax.Array) -> jax.Array:
        _, h, w, _ = piece.shape
        products = [product(d, u) for d, u in zip(_transform_input(piece), transformed, strict=True)]
        return _transform_output(products, piece.shape)[:, :h, :w]

    return map_pieces(convolve, x, count=piece_count(x, PIECE_BYTES))


def _winograd_forward(x: jax.Array, kernel: jax.Array, product: Product) -> tuple[jax.Array, tuple]:
    return winograd_3x3(x, kernel, product), (x, kernel)


def _winograd_backward(
    product: Product, residuals: tuple, gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    transformed = transform_kernel(kernel)

    def gradients(
        total: list[jax.Array], x: jax.Array, gradient: jax.Array
    ) -> tuple[list[jax.Array], jax.Array]:
        products = _transform_output_transposed(gradient)
        inputs = _transform_input(x)
        total = [t + d.T @ p for t, d, p in zip(total, inputs, products, strict=True)]
        outputs = [product(p, u.T) for p, u in zip(products, transformed, strict=True)]
        return total, _transform_input_transposed(outputs, x.shape)

    zeros = [jnp.zeros_like(u) for u in transformed]
    total, input_gradient = scan_pieces(gradients, zeros, x, gradient, count=piece_count(x, PIECE_BYTES))
    return input_gradient, _transform_kernel_transposed(total)


winograd_3x3.defvjp(_winograd_forward, _winograd_backward)


# The one-dimensional transforms of F(2, 3) and their transposes. The two-dimensional ones nest them.
# They work on lists of arrays instead of one stacked array, so that XLA fuses a transform into one loop for
# each product, with no concatenation.


def _input_1d(d0: jax.Array, d1: jax.Array, d2: jax.Array, d3: jax.Array) -> list[jax.Array]:
    return [d0 - d2, d1 + d2, d2 - d1, d1 - d3]


def _kernel_1d(g0: jax.Array, g1: jax.Array, g2: jax.Array) -> list[jax.Array]:
    return [g0, (g0 + g1 + g2) / 2, (g0 - g1 + g2) / 2, g2]


def _kernel_1d_transposed(u0: jax.Array, u1: jax.Array, u2: jax.Array, u3: jax.Array) -> list[jax.Array]:
    return [u0 + (u1 + u2) / 2, (u1 - u2) / 2, (u1 + u2) / 2 + u3]


def _output_1d(m0: jax.Array, m1: jax.Array, m2: jax.Array, m3: jax.Array) -> list[jax.Array]:
    return [m0 + m1 + m2, m1 - m2 - m3]


def _output_1d_transposed(y0: jax.Array, y1: jax.Array) -> list[jax.Array]:
    return [y0, y0 + y1, y0 - y1, -y1]


def _input_1d_transposed(
    t0: jax.Array, t1: jax.Array, t2: jax.Array, t3: jax.Array, *, axis: int
) -> list[jax.Array]:
    """Adds up overlapping tiles of four pixels; returns the even and the odd pixels along `axis`."""

    def shift(t: jax.Array, by: int) -> jax.Array:
        edges = [(0, 0, 0)] * t.ndim
        edges[axis] = (by, -by, 0)
        return lax.pad(t, jnp.zeros((), t.dtype), edges)

    return [t1 - t2 + t3 - shift(t3, 1), t1 + t2 - t0 + shift(t0, -1)]


def _transform_input(x: jax.Array) -> list[jax.Array]:
    """Transforms `x` [N, H, W, C] into 16 arrays [N * tiles, C].

    `x` is padded with zeros to an even size, and by one pixel on all sides.
    """
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
    tiles = [tile.reshape(n, (h + 1) // 2, (w + 1) // 2, c) for tile in tiles]
    columns = [_input_1d_transposed(*tiles[4 * i : 4 * i + 4], axis=2) for i in range(4)]
    even, odd = (_input_1d_transposed(*(pair[parity] for pair in columns), axis=1) for parity in range(2))
    return _interleave([[even[0], odd[0]], [even[1], odd[1]]])[:, :h, :w]


def transform_kernel(kernel: jax.Array) -> list[jax.Array]:
    """Transforms `kernel` [3, 3, C, O] into 16 matrices [C, O]."""
    return [u for row in _kernel_1d(*kernel) for u in _kernel_1d(*row)]


def _transform_kernel_transposed(u: list[jax.Array]) -> jax.Array:
    rows = [_kernel_1d_transposed(*u[4 * i : 4 * i + 4]) for i in range(4)]
    columns = [_kernel_1d_transposed(*column) for column in zip(*rows, strict=True)]
    return jnp.stack([jnp.stack([columns[j][i] for j in range(3)]) for i in range(3)])


def _transform_output(products: list[jax.Array], shape: tuple[int, ...]) -> jax.Array:
    """Transforms 16 arrays [N * tiles, O] into [N, H, W, O], H and W rounded up to even numbers."""
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
    """Assembles [N, 2 h, 2 w, C] from the 2x2 pixels of all tiles, four arrays [N, h, w, C]."""
    n, h, w, c = pixels[0][0].shape
    rows = [jnp.stack(row, axis=3) for row in pixels]
    return jnp.stack(rows, axis=2).reshape(n, 2 * h, 2 * w, c)
