"""What a network is made of: one row a layer, counted from shapes without running it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from resnet.model import BatchNorm, Conv, Linear
from resnet.network import Network


class Layer(NamedTuple):
    """A row of the summary; `output_shape` is without the batch, `multiply_adds` are for one image."""

    name: str
    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int


def summarize(config: ConfigDict, num_classes: int) -> list[Layer]:
    """The layers of the network of `config`, in the order in which they run.

    Parameters are those that training changes: running statistics are none. Multiply-adds are those of
    convolutions and of the head; pooling, normalisation and additions are left out, as is usual.
    """
    config = config.copy_and_resolve_references()
    config.model.convolution = "lax"  # The same layers; traces several times faster.
    model = Network(config, num_classes).build(rng=None)
    layers: list[Layer] = []
    _record_calls(model, "", layers.append)
    side = config.data.image_size
    _, features = jax.eval_shape(
        lambda images: model(images, train=False),
        jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32),
    )
    if config.model.max_pool != "none":
        after_stem = sum(layer.name.startswith("stem") for layer in layers)
        layers.insert(after_stem, Layer("max_pool", features["stem"].shape[1:], 0, 0))
    layers.insert(-1, Layer("mean_pool", features["pooled"].shape[1:], 0, 0))
    return layers


class _Recorded(nnx.Module):
    """A layer that reports each of its calls."""

    def __init__(self, layer: nnx.Module, name: str, report: Callable[[Layer], None]) -> None:
        self.layer = layer
        self.name = name
        self.report = report

    def __call__(self, x: jax.Array, *args: bool) -> jax.Array:
        y = self.layer(x, *args)
        parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(self.layer, nnx.Param)))
        # Every weight of a kernel meets every output position once.
        positions = y.size // y.shape[-1]
        kernel = 0 if isinstance(self.layer, BatchNorm) else self.layer.kernel.size
        self.report(Layer(self.name, y.shape[1:], parameters, kernel * positions))
        return y


def _record_calls(module: nnx.Module, prefix: str, report: Callable[[Layer], None]) -> None:
    for name, child in list(vars(module).items()):
        if isinstance(child, Conv | BatchNorm | Linear):
            setattr(module, name, _Recorded(child, f"{prefix}{name}", report))
        elif isinstance(child, nnx.Module):
            _record_calls(child, f"{prefix}{name}.", report)
