"""Convolution kernels prepared for many predictions with the same weights.

The matrix products of `resnet.ops.convolution` reshape, transform and transpose a kernel before they use it.
An arranged kernel has been through this already, so that many batches share the work.
"""

from math import prod
from typing import Literal

import jax
from jax import lax

from resnet.ops.convolution import (
    FEW_CHANNELS,
    Lowering,
    conv2d,
    flat,
    output_size,
    patches_product,
    product_of,
    resolve,
    tap_products,
    taps,
)
from resnet.ops.narrow import suits_narrow
from resnet.ops.winograd import suits_winograd, transform_kernel, winograd_products

FEW_ROWS = 32  # With so few output pixels, a product spends its time on reading the weights.
ONE_PRODUCT_ROWS = 64  # With so few output pixels, one product of patches beats many small products.


def arrange_kernel(
    kernel: jax.Array,
    x_shape: tuple[int, ...],
    *,
    stride: int,
    padding: int,
    groups: int = 1,
    lowering: Lowering = "auto",
) -> list[jax.Array]:
    """Prepares `kernel` [k, k, C / groups, O] for inputs of `x_shape` [N, H, W, C].

    Returns what `conv2d_arranged` expects for the same settings: one array, or one matrix for each product.
    """
    if not _is_prepared(x_shape, kernel.shape, padding, groups=groups, lowering=lowering):
        return [kernel]
    match _arrangement(x_shape, kernel.shape, stride, padding):
        case "winograd":
            matrices = transform_kernel(kernel)
        case "patches":
            matrices = [flat(kernel)]
        case "taps":
            matrices = taps(kernel)
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
    groups: int = 1,
    lowering: Lowering = "auto",
) -> jax.Array:
    """Computes `conv2d` of `x` [N, H, W, C] with a kernel that `arrange_kernel` has prepared.

    `kernel_shape` is the shape [k, k, C / groups, O] that the kernel had before.
    """
    if not _is_prepared(x.shape, kernel_shape, padding, groups=groups, lowering=lowering):
        return conv2d(x, arranged[0], stride=stride, padding=padding, groups=groups, lowering=lowering)
    few = _output_pixels(x.shape, kernel_shape[0], stride, padding) <= FEW_ROWS
    product = _product_from_the_left if few else product_of(resolve(lowering))
    match _arrangement(x.shape, kernel_shape, stride, padding):
        case "winograd":
            return winograd_products(x, arranged, product)
        case "patches":
            return patches_product(
                x, arranged[0], k=kernel_shape[0], stride=stride, padding=padding, product=product
            )
        case "taps":
            return tap_products(x, arranged, stride=stride, padding=padding, product=product)


def _is_prepared(
    x_shape: tuple[int, ...], kernel_shape: tuple[int, ...], padding: int, *, groups: int, lowering: Lowering
) -> bool:
    """Returns whether the kernel is read by plain products, which are what it can be prepared for."""
    plain_products = groups == 1 and not suits_narrow(x_shape, kernel_shape, padding)
    return resolve(lowering) in ("matmul", "bfloat16_matmul") and plain_products


def _arrangement(
    x_shape: tuple[int, ...], kernel_shape: tuple[int, ...], stride: int, padding: int
) -> Literal["winograd", "patches", "taps"]:
    k = kernel_shape[0]
    one_product_is_best = k > 1 and _output_pixels(x_shape, k, stride, padding) <= ONE_PRODUCT_ROWS
    if one_product_is_best or x_shape[-1] < FEW_CHANNELS:
        return "patches"
    return "winograd" if suits_winograd(x_shape, kernel_shape, stride, padding) else "taps"


def _output_pixels(x_shape: tuple[int, ...], k: int, stride: int, padding: int) -> int:
    n, h, w, _ = x_shape
    return n * prod(output_size(size, k, stride, padding) for size in (h, w))


def _product_from_the_left(x: jax.Array, transposed: jax.Array) -> jax.Array:
    """Multiplies `x` [M, C] by the transpose of `transposed` [O, C], with the weights as the left factor.

    With few rows in `x` this reads the large matrix in the order in which it lies in memory. The barriers
    keep XLA from simplifying it to the ordinary product.
    """
    return lax.optimization_barrier(transposed @ lax.optimization_barrier(x.T)).T
