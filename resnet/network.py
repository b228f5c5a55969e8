"""A ResNet as pure functions of its parameters and batch statistics."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from resnet.architecture import Architecture
from resnet.errors import UserError
from resnet.fields import check_field
from resnet.model import BatchNorm, Conv, ResNet, Rng
from resnet.ops.convolution import Lowering, resolve
from resnet.preprocessing import Preprocessing

LEAST_DEVIATION = 1.0  # of the 255 levels of a pixel: with a smaller one, an image shows nothing

ComputeDtype = Literal["auto", "float32", "bfloat16"]
Tree = dict[str, Any]  # names to arrays or to trees
Arranged = dict[str, list[jax.Array]]  # by the path of a module


class Weights(NamedTuple):
    """The weights of a network: nested dictionaries of float32 arrays, named like the modules."""

    params: Tree
    batch_stats: Tree

    def named(self) -> dict[str, np.ndarray]:
        """Returns all arrays by dotted names, such as `stage1.block1.norm1.mean`."""
        return {
            ".".join(key.key for key in path): np.asarray(leaf)
            for tree in self
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }

    @classmethod
    def from_named(cls, named: dict[str, np.ndarray]) -> "Weights":
        """Returns the weights that have these arrays: the inverse of `named`."""
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

    def __init__(
        self,
        architecture: Architecture,
        preprocessing: Preprocessing,
        num_classes: int,
        *,
        compute_dtype: ComputeDtype = "auto",
        convolution: Lowering = "auto",
        frozen: int = 0,
        freeze_norm: bool = False,
        stochastic_depth: float = 0.0,
    ) -> None:
        """Describes the network; it has no weights of its own.

        `compute_dtype` is the dtype of the convolutions: `auto` is bfloat16 on accelerators and float32 on
        CPU. There, bfloat16 is for the matrix products of the convolutions alone, as all else is slower in
        it. `convolution` says how they are computed, see `resnet.ops.convolution`. In training, norms keep
        their running statistics in the first `frozen` parts (1: the stem, 2: stage 1 too, ...), or
        everywhere with `freeze_norm`. `stochastic_depth` is the probability that training skips the last
        block for an image: Huang et al. 2016 (arXiv:1603.09382). It falls linearly towards the first block.

        Raises:
            UserError: there is no such `compute_dtype` or `convolution`, or blocks are to be skipped in a
                network without shortcuts.
        """
        check_field("compute_dtype", compute_dtype, "auto", choices=get_args(ComputeDtype))
        check_field("convolution", convolution, "auto", choices=get_args(Lowering))
        if stochastic_depth and not architecture.residual:
            raise UserError(
                f"config.model.stochastic_depth={stochastic_depth}: skips blocks by their shortcuts, but"
                " model.residual is false; expected 0, or a residual network"
            )
        self.architecture = architecture
        self.preprocessing = preprocessing
        self.num_classes = num_classes
        self._dtype = compute_dtype_here(compute_dtype)
        multiplies_on_cpu = jax.default_backend() == "cpu" and resolve(convolution) == "matmul"
        if self._dtype == jnp.bfloat16 and multiplies_on_cpu:
            self._dtype, convolution = jnp.dtype(jnp.float32), "bfloat16_matmul"
        self.convolution = convolution
        self._frozen = frozen
        self._freeze_norm = freeze_norm
        self._stochastic_depth = stochastic_depth
        self._views = 2 if preprocessing.test_time_flip else 1
        self._mean = np.asarray(preprocessing.mean, np.float32) * 255
        self._std = np.asarray(preprocessing.std, np.float32) * 255
        self._graph: nnx.GraphDef[ResNet]
        self._params: nnx.State
        self._batch_stats: nnx.State
        self._graph, self._params, self._batch_stats = _split(self.build(rng=None))

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the features that `apply` returns, in the order in which they are computed."""
        names = ["stem"]
        for stage, count in enumerate(self.architecture.blocks, start=1):
            names += [f"stage{stage}.block{block}" for block in range(1, count + 1)] + [f"stage{stage}"]
        return (*names, "pooled")

    def build(self, rng: Rng, convolution: Lowering | None = None) -> ResNet:
        """Returns the module itself. Its weights are drawn from `rng`, or are zeros without one."""
        return ResNet(
            num_classes=self.num_classes,
            lowering=convolution or self.convolution,
            dtype=self._dtype,
            frozen=self._frozen,
            freeze_norm=self._freeze_norm,
            stochastic_depth=self._stochastic_depth,
            rng=rng,
            **asdict(self.architecture),
        )

    def init(self, seed: int) -> Weights:
        """Returns the initial weights that `seed` draws, in host memory, the same on every backend."""
        model = self.build(np.random.default_rng(seed))
        return self._pure(model)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shape of every array of `Weights.named`."""
        blank = Weights(nnx.to_pure_dict(self._params), nnx.to_pure_dict(self._batch_stats))
        return {name: leaf.shape for name, leaf in blank.named().items()}

    def apply(
        self, weights: Weights, images: jax.Array, train: bool, key: jax.Array | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array], Tree]:
        """Runs the network on `images` [N, H, W, 3], uint8 or float, of range 0 to 255.

        Returns logits [N, classes] float32, the outputs of the stages (see `ResNet.__call__`) and the batch
        statistics. Only training (`train=True`) changes the statistics. With stochastic depth, training needs
        a random `key`; everything else ignores it.
        """
        model = self.merge(weights)
        logits, features = model(self.normalize(images), train, key)
        return logits, features, self._pure(model).batch_stats

    def arrange(self, weights: Weights, batch_shape: tuple[int, ...]) -> Arranged:
        """Prepares `weights` for many calls of `predict` on images of `batch_shape` [N, H, W, 3].

        On CPU, matrix products of small maps are several times faster for it.
        """
        model = self.merge(weights)
        modules = dict(_arrangeable(model))
        batch_shape = (self._views * batch_shape[0], *batch_shape[1:])
        for module in modules.values():
            if isinstance(module, Conv):
                module.input_shape = ()
        model(jnp.zeros(batch_shape), train=False)  # Only for the input shape that every convolution notes.
        return {path: module.arrange(model.dtype) for path, module in modules.items()}

    def predict(self, weights: Weights, arranged: Arranged, images: jax.Array) -> jax.Array:
        """Returns logits float32 [N, classes] of `images` [N, H, W, 3].

        `arranged` comes from `arrange` for these `weights` and for the shape of `images`. If it was made for
        another batch, it may fit and give wrong logits, which is not checked. It may be empty: then weights
        are used as they are.

        With `test_time_flip` they are the mean over an image and its mirror image (Krizhevsky et al. 2012,
        section 4.1, who average probabilities). They are divided by the temperature (Guo et al. 2017,
        arXiv:1706.04599, section 4.2), which makes the network more or less sure but changes no label.
        """
        model = self.merge(weights)
        for path, module in _arrangeable(model):
            module.arranged = nnx.data(arranged.get(path))
        if self._views > 1:  # side by side, so that a batch that is split over devices stays so
            images = jnp.stack([images, images[:, :, ::-1]], axis=1).reshape(-1, *images.shape[1:])
        logits, _ = model(self.normalize(images), train=False)
        return logits.reshape(-1, self._views, logits.shape[-1]).mean(1) / self.preprocessing.temperature

    def merge(self, weights: Weights) -> ResNet:
        """Returns the module itself with `weights`, which are arrays or tracers."""
        return nnx.merge(
            self._graph,
            _filled(self._params, weights.params),
            _filled(self._batch_stats, weights.batch_stats),
        )

    def normalize(self, images: jax.Array) -> jax.Array:
        """Normalises `images` [N, H, W, 3], RGB of range 0 to 255, as `preprocessing` says; float32."""
        images = images.astype(jnp.float32)
        standardize = self.preprocessing.standardize
        if standardize == "none":
            normalized = (images - self._mean) / self._std
        else:
            axes = (1, 2) if standardize == "channel" else (1, 2, 3)
            deviation = images.std(axes, keepdims=True)
            normalized = (images - images.mean(axes, keepdims=True)) / jnp.maximum(deviation, LEAST_DEVIATION)
        return normalized[..., ::-1] if self.preprocessing.channel_order == "bgr" else normalized

    @staticmethod
    def _pure(model: ResNet) -> Weights:
        _, params, batch_stats = _split(model)
        return Weights(nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats))


def _arrangeable(model: ResNet) -> Iterator[tuple[str, Conv | BatchNorm]]:
    for path, module in nnx.iter_modules(model):
        if isinstance(module, Conv | BatchNorm):
            yield ".".join(map(str, path)), module


def _split(model: ResNet) -> tuple[Any, Any, Any]:
    """Returns the graph of the module, its parameters and its batch statistics."""
    parts: tuple[Any, ...] = nnx.split(model, nnx.Param, nnx.BatchStat)
    graph, params, batch_stats = parts
    return graph, params, batch_stats


def _filled(state: nnx.State, values: Tree) -> nnx.State:
    state = jax.tree.map(lambda leaf: leaf, state)  # a copy: replacing is in place
    nnx.replace_by_pure_dict(state, values)
    return state


def compute_dtype_here(name: ComputeDtype) -> jnp.dtype:
    """Returns the dtype for which `name` stands on this machine's devices."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name)


def check_image_size(
    image_size: int, architecture: Architecture, field: str = "config.data.image_size"
) -> None:
    """Checks that an image is large enough for the strides of a network. `field` is what sets its size.

    Raises:
        UserError: its side has fewer pixels than the product of the strides.
    """
    least = 2**architecture.halvings
    if image_size < least:
        raise UserError(
            f"{field}={image_size}: the network halves an image {architecture.halvings} times;"
            f" expected at least {least} pixels a side"
        )
