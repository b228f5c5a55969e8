"""A convolution's kernel in the form in which products take it, for many predictions by the same weights."""

from math import prod
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from resnet.convolution import (
    FEW_CHANNELS,
    Lowering,
    conv2d,
    flat,
    output_size,
    patches_product,
    resolve,
    tap_products,
    taps,
)
from resnet.winograd import suits_winograd, transform_kernel, winograd_products

FEW_ROWS = 32  # Up to so many output pixels, reading the weights is what a product costs.
ONE_PRODUCT_ROWS = 64  # Up to so many, one product of patches beats many small ones.


def arrange_kernel(
    kernel: jax.Array,
    x_shape: tuple[int, ...],
    *,
    stride: int,
    padding: int,
    groups: int = 1,
    lowering: Lowering = "auto",
) -> list[jax.Array]:
    """`kernel` [k, k, C / groups, O] as `conv2d_arranged` takes it for an `x` of `x_shape`."""
    if resolve(lowering) == "lax" or groups > 1:
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
    """`conv2d` of `x` with what `arrange_kernel` made of a kernel of `kernel_shape`."""
    if resolve(lowering) == "lax" or groups > 1:
        return conv2d(x, arranged[0], stride=stride, padding=padding, groups=groups, lowering=lowering)
    few = _output_pixels(x.shape, kernel_shape[0], stride, padding) <= FEW_ROWS
    product = _product_from_the_left if few else jnp.matmul
    match _arrangement(x.shape, kernel_shape, stride, padding):
        case "winograd":
            return winograd_products(x, arranged, product)
        case "patches":
            return patches_product(x, arranged[0], kernel_shape[0], stride, padding, product)
        case "taps":
            return tap_products(x, arranged, stride, padding, product)


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
    """`x` [M, C] times the transpose of `transposed` [O, C], without rearranging the larger of the two.

    The barriers keep XLA from turning it back into the product that it looks like.
    """
    return lax.optimization_barrier(transposed @ lax.optimization_barrier(x.T)).T
