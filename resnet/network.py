"""A ResNet as pure functions of its parameters and statistics."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from errors import UserError
from resnet.architecture import Architecture
from resnet.model import BatchNorm, Conv, ResNet, Rng

LEAST_DEVIATION = 1.0  # of the 255 levels of a pixel: below, an image shows nothing
Tree = dict  # of names to arrays or trees
Arranged = dict[str, list[jax.Array]]  # by the path of a module


class Weights(NamedTuple):
    """What a network has learned: nested dictionaries of float32 arrays, named like the modules."""

    params: Tree
    batch_stats: Tree

    def named(self) -> dict[str, np.ndarray]:
        """All arrays by dotted names, such as `stage1.block1.norm1.mean`."""
        return {
            ".".join(key.key for key in path): np.asarray(leaf)
            for tree in self
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }

    @classmethod
    def from_named(cls, named: dict[str, np.ndarray]) -> "Weights":
        """The weights whose `named` is `named`."""
        weights = cls({}, {})
        for name, leaf in named.items():
            *parents, last = name.split(".")
            node = weights.batch_stats if last in ("mean", "var") else weights.params
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = leaf
        return weights


class Network:
    """The functional core of a `ResNet`: `apply` is pure, and weights are ordinary pytrees."""

    def __init__(self, config: ConfigDict, num_classes: int) -> None:
        """Fixes the architecture of `config.model`, and the normalisation of `config.data`."""
        self._config = config
        self._num_classes = num_classes
        self._views = 2 if config.test_time_flip else 1
        self._temperature = config.temperature
        self._standardize = config.data.standardize
        self._mean = np.asarray(config.data.mean, np.float32) * 255
        self._std = np.asarray(config.data.std, np.float32) * 255
        self._reversed = config.data.channel_order == "bgr"
        self._graph, self._params, self._batch_stats = nnx.split(
            self.build(rng=None), nnx.Param, nnx.BatchStat
        )

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the features that `apply` returns, in the order in which they are computed."""
        blocks = Architecture.from_config(self._config.model).blocks
        names = ["stem"]
        for stage, count in enumerate(blocks, start=1):
            names += [f"stage{stage}.block{block}" for block in range(1, count + 1)] + [f"stage{stage}"]
        return (*names, "pooled")

    def build(self, rng: Rng) -> ResNet:
        """The module itself, its weights drawn from `rng`, or zeros without one."""
        model = self._config.model
        return ResNet(
            num_classes=self._num_classes,
            lowering=model.convolution,
            dtype=compute_dtype(self._config.compute_dtype),
            frozen=self._config.finetune.frozen,
            freeze_norm=self._config.finetune.freeze_norm,
            rng=rng,
            **asdict(Architecture.from_config(model)),
        )

    def init(self, seed: int) -> Weights:
        """Returns the initial weights of `seed`, in host memory: the same on every device."""
        model = self.build(np.random.default_rng(seed))
        return self._pure(model)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each array of `Weights.named`."""
        blank = Weights(nnx.to_pure_dict(self._params), nnx.to_pure_dict(self._batch_stats))
        return {name: leaf.shape for name, leaf in blank.named().items()}

    def apply(
        self, weights: Weights, images: jax.Array, train: bool
    ) -> tuple[jax.Array, dict[str, jax.Array], Tree]:
        """Runs the network on `images` [N, H, W, 3], uint8 or float, of range 0 to 255.

        Returns logits [N, classes] float32, the stages' outputs (see `ResNet.__call__`) and the batch
        statistics, which only `train` moves.
        """
        model = self.merge(weights)
        logits, features = model(self.normalize(images), train)
        return logits, features, self._pure(model).batch_stats

    def arrange(self, weights: Weights, batch_shape: tuple[int, ...]) -> Arranged:
        """`weights` in the form in which `predict` takes them, for images of `batch_shape` [N, H, W, 3].

        Done once for many batches: on CPU, products of small maps are then several times faster.
        """
        model = self.merge(weights)
        modules = dict(_arrangeable(model))
        batch_shape = (self._views * batch_shape[0], *batch_shape[1:])
        for module in modules.values():
            if isinstance(module, Conv):
                module.input_shape = ()
        model(jnp.zeros(batch_shape), train=False)  # Notes the shape that each convolution sees, no more.
        return {path: module.arrange(model.dtype) for path, module in modules.items()}

    def predict(self, weights: Weights, arranged: Arranged, images: jax.Array) -> jax.Array:
        """Logits float32 [N, classes] of `images` as `apply` takes them, by what `arrange` returned.

        With `config.test_time_flip` they are the mean over each image and its mirror image (Krizhevsky et al.
        2012, section 4.1, there of probabilities). They are divided by `config.temperature` (Guo et al. 2017,
        arXiv:1706.04599, section 4.2), which changes how sure the network is but no label.
        """
        model = self.merge(weights)
        for path, module in _arrangeable(model):
            module.arranged = nnx.data(arranged[path])
        if self._views > 1:  # side by side, so that a batch that is split over devices stays so
            images = jnp.stack([images, images[:, :, ::-1]], axis=1).reshape(-1, *images.shape[1:])
        logits, _ = model(self.normalize(images), train=False)
        return logits.reshape(-1, self._views, logits.shape[-1]).mean(1) / self._temperature

    def merge(self, weights: Weights) -> ResNet:
        """The module itself with `weights`, arrays or tracers: what `apply` calls."""
        return nnx.merge(
            self._graph,
            _filled(self._params, weights.params),
            _filled(self._batch_stats, weights.batch_stats),
        )

    def normalize(self, images: jax.Array) -> jax.Array:
        """`images` [N, H, W, 3], RGB of range 0 to 255, as `config.data` has them normalised, float32."""
        images = images.astype(jnp.float32)
        if self._standardize == "none":
            normalized = (images - self._mean) / self._std
        else:
            axes = (1, 2) if self._standardize == "channel" else (1, 2, 3)
            deviation = images.std(axes, keepdims=True)
            normalized = (images - images.mean(axes, keepdims=True)) / jnp.maximum(deviation, LEAST_DEVIATION)
        return normalized[..., ::-1] if self._reversed else normalized

    @staticmethod
    def _pure(model: ResNet) -> Weights:
        _, params, batch_stats = nnx.split(model, nnx.Param, nnx.BatchStat)
        return Weights(nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats))


def _arrangeable(model: ResNet) -> Iterator[tuple[str, Conv | BatchNorm]]:
    for path, module in nnx.iter_modules(model):
        if isinstance(module, Conv | BatchNorm):
            yield ".".join(map(str, path)), module


def _filled(state: nnx.State, values: Tree) -> nnx.State:
    state = jax.tree.map(lambda leaf: leaf, state)  # a copy: replacing is in place
    nnx.replace_by_pure_dict(state, values)
    return state


def compute_dtype(name: str) -> jnp.dtype:
    """The dtype that `config.compute_dtype` stands for on this machine's devices."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name)


def check_image_size(image_size: int) -> None:
    """Checks that an image is as large as the strides of a ResNet, 32 pixels in all.

    Raises:
        UserError: the side is below 32 pixels.
    """
    if image_size < 32:
        raise UserError(
            f"config.data.image_size={image_size}: the network halves an image five times; expected at"
            " least 32 pixels a side"
        )
