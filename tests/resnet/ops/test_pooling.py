"""The max-pool and its derivative against their definitions."""

import jax
import numpy as np
import pytest

from resnet.ops.pooling import max_pool_3x3


def pool_and_gradient(x: jax.Array, upstream: jax.Array) -> tuple[jax.Array, jax.Array]:
    value, transpose = jax.vjp(max_pool_3x3, x)
    return value, *transpose(upstream)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (5, 5), (6, 9), (7, 4)])
@pytest.mark.parametrize(("low", "high"), [(-9999, 9999), (-9999, -1), (0, 3)])
def test_max_pool_and_its_gradient(size: tuple[int, int], low: int, high: int) -> None:
    """Negative maps would show padding by zeros. A range of few integers makes many windows have ties."""
    rng = np.random.default_rng(0)
    x = rng.integers(low, high, (2, *size, 3)).astype(np.float32)
    shape = (2, (size[0] + 1) // 2, (size[1] + 1) // 2, 3)
    upstream = rng.standard_normal(shape, np.float32)
    value, gradient = jax.jit(pool_and_gradient)(x, upstream)

    expected = np.zeros(shape)
    expected_gradient = np.zeros(x.shape)
    for n, i, j, c in np.ndindex(shape):
        top, left = max(2 * i - 1, 0), max(2 * j - 1, 0)
        window = x[n, top : 2 * i + 2, left : 2 * j + 2, c]
        row, column = np.unravel_index(window.argmax(), window.shape)
        expected[n, i, j, c] = window.max()
        expected_gradient[n, top + row, left + column, c] += upstream[n, i, j, c]
    assert value.shape == shape
    np.testing.assert_array_equal(value, expected)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-6)


def test_not_a_number_is_passed_on() -> None:
    x = np.zeros((1, 6, 6, 1), np.float32)
    x[0, 2, 2] = np.nan
    assert np.isnan(max_pool_3x3(x)[0, :, :, 0]).tolist() == [[False] * 3, [False, True, False], [False] * 3]
