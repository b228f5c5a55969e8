"""Flax: its own `nnx.Conv`, `nnx.BatchNorm` and `nnx.max_pool`, in a jitted step with donated state."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from benchmarks.peers import CLASSES, Case, Contestant

SplitModel = tuple[nnx.GraphDef, nnx.State, nnx.State]  # structure, parameters, the rest
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class Block(nnx.Module):
    """A basic (two 3x3) or bottleneck (1x1, 3x3, 1x1) block with its shortcut."""

    def __init__(
        self,
        in_features: int,
        features: int,
        stride: int,
        bottleneck: bool,
        *,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ) -> None:
        conv = partial(nnx.Conv, use_bias=False, dtype=dtype, rngs=rngs)
        norm = partial(nnx.BatchNorm, momentum=0.9, epsilon=1e-5, dtype=dtype, rngs=rngs)
        if bottleneck:
            out_features = 4 * features
            convs = [
                conv(in_features, features, (1, 1)),
                conv(features, features, (3, 3), strides=stride, padding=1),
                conv(features, out_features, (1, 1)),
            ]
        else:
            out_features = features
            convs = [
                conv(in_features, features, (3, 3), strides=stride, padding=1),
                conv(features, features, (3, 3), padding=1),
            ]
        self.convs = nnx.List(convs)
        self.norms = nnx.List([norm(conv.out_features) for conv in convs])
        self.projects = stride != 1 or in_features != out_features
        if self.projects:
            self.projection = conv(in_features, out_features, (1, 1), strides=stride)
            self.projection_norm = norm(out_features)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            y = norm(conv(y))
            if index + 1 < len(self.convs):
                y = nnx.relu(y)
        if self.projects:
            x = self.projection_norm(self.projection(x))
        return nnx.relu(x + y)


class ResNet(nnx.Module):
    """A v1.5 ResNet, from normalised images [N, H, W, 3] to logits [N, CLASSES]."""

    def __init__(self, depth: int, *, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        self.stem = nnx.Conv(3, 64, (7, 7), strides=2, padding=3, use_bias=False, dtype=dtype, rngs=rngs)
        self.stem_norm = nnx.BatchNorm(64, momentum=0.9, epsilon=1e-5, dtype=dtype, rngs=rngs)
        bottleneck = depth >= 50
        blocks, in_features = [], 64
        for stage, count in enumerate(BLOCKS[depth]):
            for index in range(count):
                stride = 2 if stage and not index else 1
                features = 64 * 2**stage
                blocks.append(Block(in_features, features, stride, bottleneck, dtype=dtype, rngs=rngs))
                in_features = features * (4 if bottleneck else 1)
        self.blocks = nnx.List(blocks)
        self.head = nnx.Linear(in_features, CLASSES, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.stem_norm(self.stem(x)))
        x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for block in self.blocks:
            x = block(x)
        return self.head(jnp.mean(x, axis=(1, 2))).astype(jnp.float32)


def make(name: str, case: Case) -> Contestant:
    """Builds the contestant: `nnx.split` once and plain `jax.jit`, which is the fastest way to run NNX."""
    from benchmarks.peers.ours import peak_device_memory

    state = jax.jit(lambda: nnx.split(_build(case), nnx.Param, ...))()
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state[1]))
    images, labels = jax.device_put((case.normalized_images(), case.labels()))
    run = _training(state, images, labels) if case.task == "train" else _prediction(state, images)
    return Contestant(run, parameters, jax.devices()[0].device_kind, peak_device_memory)


def _training(state: SplitModel, images: jax.Array, labels: jax.Array) -> Callable[[int], None]:
    graph, params, rest = state
    optimizer = optax.adam(1e-3)
    opt_state = optimizer.init(params)

    def loss_of(params: nnx.State, rest: nnx.State) -> tuple[jax.Array, nnx.State]:
        model = nnx.merge(graph, params, rest, copy=True)
        loss = optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()
        return loss, nnx.state(model, nnx.Not(nnx.Param))

    @partial(jax.jit, donate_argnums=(0, 1, 2))
    def train_step(params: nnx.State, rest: nnx.State, opt_state: optax.OptState) -> tuple[Any, ...]:
        (loss, rest), gradients = jax.value_and_grad(loss_of, has_aux=True)(params, rest)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), rest, opt_state, loss

    def run(steps: int) -> None:
        nonlocal params, rest, opt_state
        for _ in range(steps):
            params, rest, opt_state, loss = train_step(params, rest, opt_state)
        jax.block_until_ready((params, rest, opt_state, loss))

    return run


def _prediction(state: SplitModel, images: jax.Array) -> Callable[[int], None]:
    graph, params, rest = state

    @jax.jit
    def logits(params: nnx.State, rest: nnx.State, images: jax.Array) -> jax.Array:
        model = nnx.merge(graph, params, rest, copy=True)
        model.eval()
        return model(images)

    def run(steps: int) -> None:
        for _ in range(steps):
            logits(params, rest, images).block_until_ready()

    return run


def _build(case: Case) -> ResNet:
    return ResNet(case.depth, dtype=jnp.dtype(case.dtype), rngs=nnx.Rngs(0))
