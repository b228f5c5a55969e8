"""The layers of a network with their shapes, parameters and multiply-adds, without running it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from resnet.model import BatchNorm, Conv, Linear
from resnet.network import Network


class Layer(NamedTuple):
    """A layer; `output_shape` leaves out the batch, `multiply_adds` are those of one image."""

    name: str
    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int


def list_layers(network: Network) -> list[Layer]:
    """Returns the layers of `network` in the order in which they run.

    Parameters are the arrays that training changes, which leaves out running statistics. Multiply-adds are
    counted for convolutions and the head; pooling, normalisation and additions are left out, as is usual.
    """
    # XLA's convolution has the same layers and is traced several times faster.
    model = network.build(rng=None, convolution="lax")
    layers: list[Layer] = []
    _record_calls(model, "", layers.append)
    side = network.preprocessing.image_size
    _, features = jax.eval_shape(
        lambda images: model(images, train=False),
        jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32),
    )
    if network.architecture.max_pool != "none":
        after_stem = sum(layer.name.startswith("stem") for layer in layers)
        layers.insert(after_stem, Layer("max_pool", features["stem"].shape[1:], 0, 0))
    layers.insert(-1, Layer("mean_pool", features["pooled"].shape[1:], 0, 0))
    return layers


class _Recorded(nnx.Module):
    """A layer that reports its calls."""

    def __init__(self, layer: nnx.Module, name: str, report: Callable[[Layer], None]) -> None:
        self.layer = layer
        self.name = name
        self.report = report

    def __call__(self, x: jax.Array, *args: bool) -> jax.Array:
        y = self.layer(x, *args)
        parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(self.layer, nnx.Param)))
        # Every weight of a kernel is used once for every output position.
        positions = y.size // y.shape[-1]
        kernel = self.layer.kernel.size if isinstance(self.layer, Conv | Linear) else 0
        self.report(Layer(self.name, y.shape[1:], parameters, kernel * positions))
        return y


def _record_calls(module: nnx.Module, prefix: str, report: Callable[[Layer], None]) -> None:
    for name, child in list(vars(module).items()):
        if isinstance(child, Conv | BatchNorm | Linear):
            setattr(module, name, _Recorded(child, f"{prefix}{name}", report))
        elif isinstance(child, nnx.Module):
            _record_calls(child, f"{prefix}{name}.", report)
