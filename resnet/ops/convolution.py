"""A 2-D convolution with several lowerings, which are ways to compute the same result.

`lax` is XLA's own convolution. On an NVIDIA GPU that is cuDNN's, which no CUDA graph of XLA holds.

`patches` is for GPUs, where launches take longer than the arithmetic of small maps. A 1x1 convolution is one
product. Others are cut into patches and multiplied once, as long as the patches stay in the cache of the GPU.
Larger ones are left to `lax`. Without cuDNN, the whole training step is one CUDA graph.

`matmul` is for CPUs. It turns a convolution into matrix products, which XLA's CPU backend runs many times
faster than its convolution:

- 3x3 with fewer than 32 input channels, on maps of 8x8 pixels and more, has products too thin to be fast. It
  uses XLA's convolution after all, with a kernel gradient of its own.
- Other 3x3 with stride 1 use Winograd's F(2x2, 3x3), with 2.25 times fewer multiplications.
- Inputs with few channels, such as the stem's, are cut into patches and multiplied once.
- Grouped convolutions are cut into patches and multiplied once for each group.
- All others, including 1x1 and maps of at most 2x2 pixels, use one product for each tap, which is one of the
  k * k positions in the kernel.

`bfloat16_matmul` is the same with products of numbers rounded to bfloat16, and all else in float32. It is for
CPUs with AMX.
"""

from functools import partial
from math import isqrt
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from resnet.ops.narrow import narrow_3x3, suits_narrow
from resnet.ops.products import Product, bfloat16_product
from resnet.ops.winograd import suits_winograd, winograd_3x3

Lowering = Literal["auto", "lax", "matmul", "bfloat16_matmul", "patches"]
Resolved = Literal["lax", "matmul", "bfloat16_matmul", "patches"]

# Patches of up to this size stay in the L2 cache: an A100 has 40 MB of it, an H100 has 50 MB.
CACHED_BYTES = 40 * 10**6
FEW_CHANNELS = 16  # With fewer input channels, the product for one tap is too thin to be fast.


def conv2d(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int,
    padding: int,
    groups: int = 1,
    lowering: Lowering = "auto",
) -> jax.Array:
    """Convolves `x` [N, H, W, C] with `kernel` [k, k, C / groups, O].

    All four sides of `x` are padded with `padding` zeros. The result is [N, out_h, out_w, O] in the dtype of
    `x`, where out_h = (H + 2 padding - k) // stride + 1 and out_w follows from W in the same way. The
    lowering `auto` is `matmul` on CPU, `patches` on a GPU and `lax` elsewhere. All agree within the rounding
    of the dtype.
    """
    return _conv2d(x, kernel, stride=stride, padding=padding, groups=groups, lowering=resolve(lowering))


def resolve(lowering: Lowering) -> Resolved:
    """Returns the lowering that `auto` stands for on the default device, and any other as it is."""
    if lowering != "auto":
        return lowering
    by_backend: dict[str, Resolved] = {"cpu": "matmul", "gpu": "patches"}
    return by_backend.get(jax.default_backend(), "lax")


def suits_patches(
    x: tuple[int, ...], kernel: tuple[int, ...], stride: int, padding: int, itemsize: int
) -> bool:
    """Returns whether `patches` pays off for shapes `x` [N, H, W, C] and `kernel`, in bytes of `itemsize`."""
    n, h, w, c = x
    k = kernel[0]
    pixels = n * output_size(h, k, stride, padding) * output_size(w, k, stride, padding)
    return k == 1 or pixels * k * k * c * itemsize <= CACHED_BYTES


# Under `jit` it is traced once for each shape instead of once for each layer.
@partial(jax.jit, static_argnames=("stride", "padding", "groups", "lowering"))
def _conv2d(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int,
    padding: int,
    groups: int,
    lowering: Resolved,
) -> jax.Array:
    if lowering == "patches" and not suits_patches(x.shape, kernel.shape, stride, padding, x.dtype.itemsize):
        lowering = "lax"
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
        return _grouped_patches_product(x, kernel, stride=stride, padding=padding, groups=groups)
    if lowering == "patches" and kernel.shape[0] > 1:
        return patches_product(x, flat(kernel), k=kernel.shape[0], stride=stride, padding=padding)
    if suits_narrow(x.shape, kernel.shape, padding):
        return narrow_3x3(x, kernel, stride)
    product = product_of(lowering)
    if suits_winograd(x.shape, kernel.shape, stride, padding):
        return winograd_3x3(x, kernel, product)
    if x.shape[-1] < FEW_CHANNELS:
        return patches_product(
            x, flat(kernel), k=kernel.shape[0], stride=stride, padding=padding, product=product
        )
    return tap_products(x, taps(kernel), stride=stride, padding=padding, product=product)


def product_of(lowering: Resolved) -> Product:
    """Returns the matrix product that a lowering uses."""
    return bfloat16_product if lowering == "bfloat16_matmul" else jnp.matmul


def output_size(size: int, k: int, stride: int, padding: int) -> int:
    """Returns how many rows (or columns) a convolution gives for `size` of them, padded at both ends."""
    return (size + 2 * padding - k) // stride + 1


def flat(kernel: jax.Array) -> jax.Array:
    """Reshapes `kernel` [k, k, C, O] to [k * k * C, O], the order in which patches hold their pixels."""
    return kernel.reshape(-1, kernel.shape[-1])


def taps(kernel: jax.Array) -> list[jax.Array]:
    """Splits `kernel` [k, k, C, O] into its k * k taps, matrices [C, O], row by row."""
    return list(jnp.unstack(kernel.reshape(-1, *kernel.shape[2:])))


def tap_products(
    x: jax.Array, weights: list[jax.Array], *, stride: int, padding: int, product: Product = jnp.matmul
) -> jax.Array:
    """Convolves `x` [N, H, W, C] with a kernel given as its `taps`, with one product for each tap.

    A product covers only the outputs for which its tap lies inside the map. So nothing is copied into
    patches, and nothing is multiplied by padding, which saves 20 of the 36 products of a pixel and a tap on a
    2x2 map.
    """
    _, h, w, c = x.shape
    k = isqrt(len(weights))
    out_h, out_w = (output_size(size, k, stride, padding) for size in (h, w))
    phases = _stride_phases(x, stride, pad_h=(0, -h % stride), pad_w=(0, -w % stride), fill=0.0)
    products = []
    for tap, matrix in enumerate(weights):
        (top, bottom), (left, right) = (
            _reach(offset - padding, stride, size, out)
            for offset, size, out in ((tap // k, h, out_h), (tap % k, w, out_w))
        )
        if top >= bottom or left >= right:
            continue
        row, column = stride * top + tap // k - padding, stride * left + tap % k - padding
        pixels = phases[row % stride][column % stride][:, row // stride :, column // stride :]
        pixels = pixels[:, : bottom - top, : right - left]
        outputs = product(pixels.reshape(-1, c), matrix).reshape(*pixels.shape[:3], -1)
        edges = ((0, 0), (top, out_h - bottom), (left, out_w - right), (0, 0))
        products.append(jnp.pad(outputs, edges))
    first, *others = products
    return sum(others, start=first)


def _reach(offset: int, stride: int, size: int, out_size: int) -> tuple[int, int]:
    """Returns the range of outputs `o` whose pixel, `stride * o + offset`, lies in a map of `size`."""
    return max(0, -(offset // stride)), min(out_size, (size - 1 - offset) // stride + 1)


def patches_product(
    x: jax.Array, weights: jax.Array, *, k: int, stride: int, padding: int, product: Product = jnp.matmul
) -> jax.Array:
    """Multiplies the patches of `x`, [N * out_h * out_w, k * k * C], by a `flat` kernel."""
    windows = strided_windows(x, k, stride=stride, padding=padding, fill=0.0)
    # Row by row: a GPU finds out for each number which of the arrays it comes from.
    rows = [jnp.concatenate(windows[i : i + k], axis=-1) for i in range(0, k * k, k)]
    patches = jnp.concatenate(rows, axis=-1)
    return product(patches.reshape(-1, patches.shape[-1]), weights).reshape(*patches.shape[:3], -1)


def _grouped_patches_product(
    x: jax.Array, kernel: jax.Array, *, stride: int, padding: int, groups: int
) -> jax.Array:
    """Multiplies patches and kernel once for each group, in one batched product.

    The g-th group reads the g-th share of the input channels and gives the g-th share of the outputs.
    """
    windows = jnp.stack(strided_windows(x, kernel.shape[0], stride=stride, padding=padding, fill=0.0))
    tap_count, n, out_h, out_w, c = windows.shape
    patches = windows.reshape(tap_count, n * out_h * out_w, groups, c // groups)
    weights = kernel.reshape(tap_count, c // groups, groups, -1)
    return jnp.einsum("tpgc,tcgo->pgo", patches, weights).reshape(n, out_h, out_w, -1)


def strided_windows(x: jax.Array, k: int, *, stride: int, padding: int, fill: float) -> list[jax.Array]:
    """Returns the k * k shifted and strided views of `x` [N, H, W, C], row by row.

    View (i, j) is [N, out_h, out_w, C] and holds what tap (i, j) of a kernel reads. All sides of `x` are
    padded with `fill`. The map is first cut into its stride * stride phases, so that every view is a plain
    slice and its transpose a plain pad. XLA's CPU backend is slow at strided slices and their transposes.
    """
    _, h, w, _ = x.shape
    out_h, out_w = (output_size(size, k, stride, padding) for size in (h, w))
    phase_h, phase_w = (size + (k - 1) // stride for size in (out_h, out_w))
    # Negative padding at the end drops rows and columns that no window reaches.
    phases = _stride_phases(
        x,
        stride,
        pad_h=(padding, phase_h * stride - h - padding),
        pad_w=(padding, phase_w * stride - w - padding),
        fill=fill,
    )
    return [
        phases[i % stride][j % stride][:, i // stride :, j // stride :][:, :out_h, :out_w]
        for i in range(k)
        for j in range(k)
    ]


def _stride_phases(
    x: jax.Array, stride: int, *, pad_h: tuple[int, int], pad_w: tuple[int, int], fill: float
) -> list[list[jax.Array]]:
    """Cuts the padded `x` [N, H, W, C] into phases.

    Phase [i][j] holds every `stride`-th row, beginning with row i, and every `stride`-th column, beginning
    with column j.
    """
    edges = [(0, 0, 0), (*pad_h, 0), (*pad_w, 0), (0, 0, 0)]
    padded = lax.pad(x, jnp.asarray(fill, x.dtype), edges)
    n, h, w, c = padded.shape
    phases = padded.reshape(n, h // stride, stride, w // stride, stride, c)
    return [[phases[:, :, i, :, j] for j in range(stride)] for i in range(stride)]
