"""The floor counts as many multiply-adds as were published, and as our own convolutions have."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from benchmarks.floor import forward_multiply_adds, multiply_adds
from configs import default
from training.network import make_network


@pytest.mark.parametrize(
    ("depth", "count"),
    # Published counts of torchvision's models at 224 pixels and 1000 classes.
    [(18, 1_814_073_344), (34, 3_663_761_408), (50, 4_089_184_256), (101, 7_801_405_440)],
)
def test_published_counts(depth: int, count: int) -> None:
    assert forward_multiply_adds(depth, 224, 1000)[0] == count


@pytest.mark.parametrize(("depth", "image_size"), [(50, 64), (18, 33), (34, 50)])
def test_the_count_equals_that_of_our_own_convolutions(depth: int, image_size: int) -> None:
    config = default.get_config()
    config.model.depth = depth
    config.model.convolution = "lax"
    network = make_network(config, 6)
    images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    jaxpr = jax.make_jaxpr(lambda images: network.apply(network.init(0), images, train=False)[0])(images)
    assert forward_multiply_adds(depth, image_size, 6)[0] == _count_multiply_adds(jaxpr.jaxpr)


def _count_multiply_adds(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            total += equation.outvars[0].aval.size * kernel[0] * kernel[1] * kernel[2]
        elif equation.primitive.name == "dot_general":
            total += equation.outvars[0].aval.size * equation.invars[0].aval.shape[-1]
        for parameter in equation.params.values():
            if hasattr(parameter, "jaxpr"):
                total += _count_multiply_adds(parameter.jaxpr)
    return total


def test_a_training_step_is_three_passes_without_the_first_input_gradient() -> None:
    forward, stem = forward_multiply_adds(50, 64, 6)
    assert stem == 32 * 32 * 49 * 3 * 64
    assert multiply_adds("inference", 50, 64, 6) == forward
    assert multiply_adds("train", 50, 64, 6) == 3 * forward - stem
