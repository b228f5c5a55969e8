"""Convolutions in pieces leave images on the devices where they are.

A program of its own, as the number of devices is fixed when JAX starts; `test_convolution.py` runs it on two.
"""

import re
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from resnet.ops.convolution import conv2d


def gradients(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    output, transpose = jax.vjp(partial(conv2d, stride=1, padding=1, lowering="matmul"), x, kernel)
    return transpose(output)


def compiled(shape: tuple[int, int, int, int]) -> str:
    mesh = jax.make_mesh((2,), ("images",), axis_types=(jax.sharding.AxisType.Auto,))
    x = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("images")))
    kernel = jax.ShapeDtypeStruct((3, 3, shape[-1], shape[-1]), jnp.float32)
    return jax.jit(gradients).lower(x, kernel).compile().as_text()


if __name__ == "__main__":
    # XLA's own convolution with 8 channels, Winograd's with 64: both are worked on in pieces.
    for shape in ((96, 32, 32, 8), (96, 16, 16, 64)):
        program = compiled(shape)
        assert "while" in program
        assert not re.search("all-gather|all-to-all|collective-permute", program)
