"""Work on a batch in pieces, one after the other, so that what is computed from a piece stays in the cache.

A piece takes every `count`-th image. So where the images of an array are spread over devices, each device has
a share of every piece.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax

Total = TypeVar("Total")


def piece_count(x: jax.Array, piece_bytes: int) -> int:
    """Returns the number of equal pieces into which `x` [N, ...] is cut to have at most `piece_bytes` each.

    A piece holds at least one image.
    """
    n = x.shape[0]
    fitting = (count for count in range(1, n + 1) if n % count == 0 and x.nbytes <= count * piece_bytes)
    return next(fitting, n)


def map_pieces(function: Callable[[jax.Array], jax.Array], x: jax.Array, *, count: int) -> jax.Array:
    """Applies `function` to `x` [N, ...] in `count` pieces; it must treat each image by itself."""
    return scan_pieces(lambda total, piece: (total, function(piece)), (), x, count=count)[1]


def sum_pieces(
    function: Callable[..., jax.Array], zeros: jax.Array, *arrays: jax.Array, count: int
) -> jax.Array:
    """Returns the sum of what `function` returns for `count` pieces of `arrays`, which looks like `zeros`."""
    if count == 1:
        return function(*arrays)
    return lax.fori_loop(0, count, lambda i, total: total + function(*_piece(arrays, i, count)), zeros)


def scan_pieces(
    function: Callable[..., tuple[Total, jax.Array]], total: Total, *arrays: jax.Array, count: int
) -> tuple[Total, jax.Array]:
    """Goes through `arrays`, each [N, ...], in `count` pieces.

    `function` takes the total so far and a piece of each array, and returns the new total and an array
    [N / count, ...]. The result is the last total and all these arrays together, [N, ...].
    """
    if count == 1:
        return function(total, *arrays)
    result = jax.eval_shape(function, total, *_piece(arrays, 0, count))[1]
    outputs = jnp.zeros((result.shape[0], count, *result.shape[1:]), result.dtype)

    def body(i: jax.Array, carry: tuple[Total, jax.Array]) -> tuple[Total, jax.Array]:
        total, output = function(carry[0], *_piece(arrays, i, count))
        return total, lax.dynamic_update_index_in_dim(carry[1], output, i, axis=1)

    total, outputs = lax.fori_loop(0, count, body, (total, outputs))
    return total, outputs.reshape(-1, *result.shape[1:])


def _piece(arrays: tuple[jax.Array, ...], i: jax.Array | int, count: int) -> list[jax.Array]:
    pieces = [array.reshape(-1, count, *array.shape[1:]) for array in arrays]
    return [lax.dynamic_index_in_dim(array, i, axis=1, keepdims=False) for array in pieces]
