"""Writes a network as StableHLO: a program for CPUs, NVIDIA GPUs and TPUs that needs JAX alone."""

from dataclasses import replace
from importlib.util import find_spec

import jax
import jax.numpy as jnp
from jax import export

from resnet.architecture import Architecture
from resnet.errors import UserError
from resnet.network import Network, Weights
from resnet.preprocessing import Preprocessing

PLATFORMS = ("cpu", "cuda", "tpu")


def stablehlo_program(
    architecture: Architecture, preprocessing: Preprocessing, num_classes: int, weights: Weights
) -> bytes:
    """Returns the bytes from which `jax.export.deserialize` makes a program, with `weights` inside.

    The program takes pictures as uint8 [N, S, S, 3] in RGB, for any N, and gives a dictionary of `logits` and
    `probabilities`, float32 [N, classes]. The convolutions are XLA's own, for each platform to lower. The
    temperature of `preprocessing` has to be in the head already.

    Raises:
        UserError: the package flatbuffers is not installed, or the network has no head.
    """
    if not num_classes:
        raise UserError(
            "--format=stablehlo: these weights have no head and so no classes; expected a classifier"
        )
    if find_spec("flatbuffers") is None:
        raise UserError(
            "--format=stablehlo: JAX needs the package flatbuffers; install it: pip install flatbuffers"
        )
    network = Network(
        architecture,
        replace(preprocessing, temperature=1.0),
        num_classes,
        compute_dtype="float32",
        convolution="lax",
    )
    side = preprocessing.image_size
    images = jax.ShapeDtypeStruct(export.symbolic_shape(f"N, {side}, {side}, 3"), jnp.uint8)

    @jax.jit
    def predict(images: jax.Array) -> dict[str, jax.Array]:
        logits = network.predict(weights, {}, images)
        return {"logits": logits, "probabilities": jax.nn.softmax(logits)}

    return bytes(export.export(predict, platforms=PLATFORMS)(images).serialize())
