"""Batch norm and its gradient against formulas in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet.ops.batch_norm import FEW_PIXELS, normalize_batch, sums_over_pixels

EPSILON = 1e-3


def plain_norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """The textbook's, which JAX differentiates."""
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return (x - mean) / jnp.sqrt(var + EPSILON) * scale + bias


def draw(shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """Returns maps that are not centred, scale, bias and the gradient of the output."""
    rng = np.random.default_rng(0)
    x = 3 + 2 * rng.standard_normal(shape)
    return x, rng.standard_normal(shape[-1]), rng.standard_normal(shape[-1]), rng.standard_normal(shape)


@pytest.mark.parametrize("two_passes", [True, False])
@pytest.mark.parametrize("shape", [(4, 3, 3, 5), (8, 16, 16, 3), (3, 1, 1, 4)], ids=str)
def test_the_output_and_all_gradients_are_the_textbooks(shape: tuple[int, ...], two_passes: bool) -> None:
    x, scale, bias, of_y = draw(shape)
    with jax.enable_x64(True):
        expected, derive = jax.vjp(plain_norm, x, scale, bias)
        expected_gradients = derive(jnp.asarray(of_y))
    arrays = [np.float32(array) for array in (x, scale, bias)]
    norm = partial(normalize_batch, epsilon=EPSILON, two_passes=two_passes)
    (y, mean, var), derive = jax.vjp(norm, *arrays)
    gradients = derive((np.float32(of_y), jnp.zeros_like(mean), jnp.zeros_like(var)))
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(mean, x.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(var, x.var((0, 1, 2)), rtol=1e-4)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        size = np.abs(expected_gradient).max()
        np.testing.assert_allclose(gradient, expected_gradient, rtol=0, atol=2e-5 * size)


@pytest.mark.parametrize("two_passes", [True, False])
def test_maps_in_bfloat16_give_gradients_in_bfloat16_and_statistics_in_float32(two_passes: bool) -> None:
    x, scale, bias, of_y = draw((4, 4, 4, 8))
    rounded = jnp.bfloat16(x)
    norm = partial(normalize_batch, epsilon=EPSILON, two_passes=two_passes)
    (y, mean, _), derive = jax.vjp(norm, rounded, np.float32(scale), np.float32(bias))
    of_x, of_scale, _ = derive((jnp.bfloat16(of_y), jnp.zeros_like(mean), jnp.zeros_like(mean)))
    assert (y.dtype, of_x.dtype) == (jnp.bfloat16, jnp.bfloat16)
    assert (mean.dtype, of_scale.dtype) == (jnp.float32, jnp.float32)
    np.testing.assert_allclose(mean, np.float64(rounded).mean((0, 1, 2)), rtol=1e-5)


@pytest.mark.parametrize("shape", [(4, 3, 3, 5), (8, 16, 16, 3)], ids=["few pixels", "many pixels"])
def test_several_maps_are_summed_in_one_pass(shape: tuple[int, ...]) -> None:
    maps = [np.float32(draw(shape)[0]), np.float32(draw(shape)[3])]
    assert (np.prod(shape[:-1]) >= FEW_PIXELS) == (shape[0] == 8)
    for found, array in zip(sums_over_pixels(*maps), maps, strict=True):
        np.testing.assert_allclose(found, np.float64(array).sum((0, 1, 2)), rtol=1e-4, atol=1e-3)
