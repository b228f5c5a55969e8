"""One 2-D convolution with two lowerings.

`lax` is XLA's own convolution, the right choice on accelerators. `matmul` turns a convolution into matrix
products, which XLA's CPU backend runs many times faster than its convolution:

- 3x3, stride 1: Winograd's F(2x2, 3x3), 2.25 times fewer multiplications;
- a few channels, as in the stem: patches and one product;
- groups: patches and a product for each group;
- anything else, 1x1 and maps of at most 2x2 pixels too: one product for each tap of the kernel.
"""

from functools import partial
from math import isqrt
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from resnet.winograd import Product, suits_winograd, winograd_3x3

Lowering = Literal["auto", "lax", "matmul"]

FEW_CHANNELS = 16  # Below it a product over one tap's channels is too thin to be fast.


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
    return _conv2d(x, kernel, stride, padding, groups, resolve(lowering))


def resolve(lowering: Lowering) -> Literal["lax", "matmul"]:
    """What `lowering` comes to on the default device."""
    if lowering != "auto":
        return lowering
    return "matmul" if jax.default_backend() == "cpu" else "lax"


# Traced once for each shape rather than for each layer.
@partial(jax.jit, static_argnames=("stride", "padding", "groups", "lowering"))
def _conv2d(
    x: jax.Array,
    kernel: jax.Array,
    stride: int,
    padding: int,
    groups: int,
    lowering: Literal["lax", "matmul"],
) -> jax.Array:
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
    if suits_winograd(x.shape, kernel.shape, stride, padding):
        return winograd_3x3(x, kernel)
    if x.shape[-1] < FEW_CHANNELS:
        return patches_product(x, flat(kernel), kernel.shape[0], stride, padding)
    return tap_products(x, taps(kernel), stride, padding)


def output_size(size: int, k: int, stride: int, padding: int) -> int:
    """The rows or columns that a window of `k` gives over `size` of them, padded at both ends."""
    return (size + 2 * padding - k) // stride + 1


def flat(kernel: jax.Array) -> jax.Array:
    """[k * k * C, O], as the patches are laid out."""
    return kernel.reshape(-1, kernel.shape[-1])


def taps(kernel: jax.Array) -> list[jax.Array]:
    """The k * k matrices [C, O] of `kernel` [k, k, C, O], row by row."""
    return jnp.unstack(kernel.reshape(-1, *kernel.shape[2:]))


def tap_products(
    x: jax.Array, weights: list[jax.Array], stride: int, padding: int, product: Product = jnp.matmul
) -> jax.Array:
    """One product for each tap of the kernel, over the outputs for which it does not fall on padding.

    Nothing is copied into patches, and nothing is multiplied by padding: of a 2x2 map that is 20 of 36.
    """
    _, h, w, c = x.shape
    k = isqrt(len(weights))
    out_h, out_w = (output_size(size, k, stride, padding) for size in (h, w))
    phases = _stride_phases(x, stride, (0, -h % stride), (0, -w % stride), fill=0.0)
    products = []
    for tap, matrix in enumerate(weights):
        (top, bottom), (left, right) = (
            _reach(offset - padding, stride, size, out)
            for offset, size, out in ((tap // k, h, out_h), (tap % k, w, out_w))
        )
        if top >= bottom or left >= right:
            continue
        row, column = stride * top + tap // k - padding, stride * left + tap % k - padding
        seen = phases[row % stride][column % stride][:, row // stride :, column // stride :]
        seen = seen[:, : bottom - top, : right - left]
        outputs = product(seen.reshape(-1, c), matrix).reshape(*seen.shape[:3], -1)
        edges = ((0, 0), (top, out_h - bottom), (left, out_w - right), (0, 0))
        products.append(jnp.pad(outputs, edges))
    return sum(products)


def _reach(offset: int, stride: int, size: int, out_size: int) -> tuple[int, int]:
    """The range of outputs `o` whose pixel `stride * o + offset` lies in a map of `size`."""
    return max(0, -(offset // stride)), min(out_size, (size - 1 - offset) // stride + 1)


def patches_product(
    x: jax.Array, weights: jax.Array, k: int, stride: int, padding: int, product: Product = jnp.matmul
) -> jax.Array:
    """One product of the patches [N * out_h * out_w, k * k * C] and the `flat` kernel."""
    patches = jnp.concatenate(strided_windows(x, k, stride, padding, fill=0.0), axis=-1)
    return product(patches.reshape(-1, patches.shape[-1]), weights).reshape(*patches.shape[:3], -1)


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
    _, h, w, _ = x.shape
    out_h, out_w = (output_size(size, k, stride, padding) for size in (h, w))
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
