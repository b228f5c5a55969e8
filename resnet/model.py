"""Deep residual networks (He et al. 2015, arXiv:1512.03385) as Flax NNX modules."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from resnet.architecture import BOTTLENECK_EXPANSION, Architecture
from resnet.ops.arranged import arrange_kernel, conv2d_arranged
from resnet.ops.batch_norm import factor_and_offset, normalize_batch
from resnet.ops.convolution import Lowering, conv2d, resolve
from resnet.ops.pooling import average_pool_2x2, max_pool_3x3

# NumPy draws the initial values: immediately, where XLA would compile a program for every shape, and with the
# same bits on every backend. None gives zeros, for weights that are about to be loaded.
Rng = np.random.Generator | None


def _normal(rng: Rng, std: float, shape: tuple[int, ...]) -> np.ndarray:
    if rng is None:
        return np.zeros(shape, np.float32)  # These take no memory until they are written to.
    values = rng.standard_normal(shape, np.float32)
    values *= np.float32(std)
    return values


class Conv(nnx.Module):
    """A k x k convolution with padding (k - 1) / 2.

    Kernels start as He-normal by fan-out: He et al. 2015b (arXiv:1502.01852), section 2.2. With `groups`,
    each group of outputs reads its own share of the input channels.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int,
        stride: int = 1,
        *,
        groups: int = 1,
        bias: bool = False,
        zero_init: bool = False,
        lowering: Lowering,
        rng: Rng,
    ) -> None:
        shape = (kernel_size, kernel_size, in_features // groups, out_features)
        std = 0.0 if zero_init else (2 * groups / (kernel_size**2 * out_features)) ** 0.5
        self.kernel = nnx.Param(_normal(rng, std, shape))
        self.kernel_shape = shape
        if bias:
            self.bias = nnx.Param(np.zeros(out_features, np.float32))
        self.stride = stride
        self.groups = groups
        self.has_bias = bias
        self.lowering = lowering
        self.padding = (kernel_size - 1) // 2
        # Set to () to have the next call record the shape of its input, which `arrange` needs.
        self.input_shape: tuple[int, ...] | None = None
        # The kernel prepared for many predictions, as `arrange` returns it, or None.
        self.arranged: list[jax.Array] | None = nnx.data(None)

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.input_shape is not None:
            self.input_shape = x.shape
        if self.arranged is None:
            y = conv2d(x, self.kernel[...].astype(x.dtype), **self._settings)
        else:
            y = conv2d_arranged(x, self.arranged, self.kernel_shape, **self._settings)
        return y + self.bias[...].astype(x.dtype) if self.has_bias else y

    def arrange(self, dtype: jnp.dtype) -> list[jax.Array]:
        """Prepares the kernel in `dtype` for many predictions from inputs of `input_shape`."""
        assert self.input_shape is not None, "a call has to record the shape of its input first"
        return arrange_kernel(self.kernel[...].astype(dtype), self.input_shape, **self._settings)

    @property
    def _settings(self) -> dict[str, Any]:
        return {
            "stride": self.stride,
            "padding": self.padding,
            "groups": self.groups,
            "lowering": self.lowering,
        }


class BatchNorm(nnx.Module):
    """Batch normalisation over N, H and W, with statistics in float32.

    Ioffe & Szegedy 2015 (arXiv:1502.03167). The running statistics move by `1 - momentum` at each training
    step. The running variance uses the unbiased estimate, as in algorithm 2 of the paper and in PyTorch.
    """

    def __init__(
        self,
        features: int,
        *,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        zero_init_scale: bool = False,
        lowering: Lowering = "auto",
    ) -> None:
        initial_scale = np.zeros if zero_init_scale else np.ones
        self.scale = nnx.Param(initial_scale(features, np.float32))
        self.bias = nnx.Param(np.zeros(features, np.float32))
        self.mean = nnx.BatchStat(np.zeros(features, np.float32))
        self.var = nnx.BatchStat(np.ones(features, np.float32))
        self.momentum = momentum
        self.epsilon = epsilon
        self.lowering = lowering
        # Factor and offset for many predictions, as `arrange` returns them, or None.
        self.arranged: list[jax.Array] | None = nnx.data(None)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if not train:
            factor, offset = self.arrange() if self.arranged is None else self.arranged
            return (x * factor + offset).astype(x.dtype)
        y, mean, var = normalize_batch(
            x,
            self.scale[...],
            self.bias[...],
            epsilon=self.epsilon,
            two_passes=resolve(self.lowering) == "patches",
        )
        count = x.size // x.shape[-1]
        unbiased = var * (count / max(count - 1, 1))
        self.mean[...] = self.momentum * self.mean[...] + (1 - self.momentum) * mean
        self.var[...] = self.momentum * self.var[...] + (1 - self.momentum) * unbiased
        return y

    def arrange(self, dtype: jnp.dtype = jnp.float32) -> list[jax.Array]:
        """Returns factor and offset, float32 [C], that normalise by the running statistics.

        `dtype` is there to match `Conv.arrange`: norms compute in float32 whatever it is.
        """
        del dtype
        return factor_and_offset(
            self.mean[...], self.var[...], self.scale[...], self.bias[...], epsilon=self.epsilon
        )


class _ConvShape(NamedTuple):
    """The shape of a convolution inside a block."""

    out_features: int
    kernel_size: int
    stride: int = 1
    groups: int = 1


def _block_convolutions(features: int, stride: int, architecture: Architecture) -> list[_ConvShape]:
    """Returns the convolutions of a block in the order in which they run."""
    if not architecture.bottleneck:
        return [_ConvShape(features, 3, stride), _ConvShape(features, 3)]
    inner = features * architecture.widen
    first_stride, middle_stride = (stride, 1) if architecture.variant == "v1" else (1, stride)
    return [
        _ConvShape(inner, 1, first_stride),
        _ConvShape(inner, 3, middle_stride, architecture.groups),
        _ConvShape(features * BOTTLENECK_EXPANSION, 1),
    ]


class Block(nnx.Module):
    """A residual block: convolutions with their norms, and a shortcut around them.

    A basic block has two 3x3 convolutions, a bottleneck has 1x1, 3x3 and 1x1: He et al. 2015, figure 5, left
    and right. Convolution and norm number i are the attributes `conv{i}` and `norm{i}`. The norm follows the
    convolution, or precedes it with pre-activation.
    """

    conv1: Conv
    norm1: BatchNorm

    def __init__(
        self,
        in_features: int,
        features: int,
        stride: int,
        architecture: Architecture,
        *,
        lowering: Lowering,
        rng: Rng,
    ) -> None:
        """Draws the weights of the block from `rng`.

        `features` is the width of the stage. Bottlenecks have four times as many output channels.
        """
        shapes = _block_convolutions(features, stride, architecture)
        self.depth = len(shapes)
        self.preactivation = architecture.preactivation
        # The order in which the parts are built is the order in which their weights are drawn.
        self._add_convolutions(in_features, shapes, architecture, lowering=lowering, rng=rng)
        out_features = shapes[-1].out_features
        self.shortcut = Shortcut(in_features, out_features, stride, architecture, lowering=lowering, rng=rng)
        self.squeezes = architecture.squeeze > 0
        if self.squeezes:
            self.squeeze = SqueezeExcitation(out_features, architecture.squeeze, rng=rng)

    def _add_convolutions(
        self,
        in_features: int,
        shapes: list[_ConvShape],
        architecture: Architecture,
        *,
        lowering: Lowering,
        rng: Rng,
    ) -> None:
        a = architecture
        # Without a shortcut, a block that starts at zero would pass on neither signal nor gradient.
        starts_as_identity = a.zero_init_last and a.residual
        for i, shape in enumerate(shapes, start=1):
            last = i == len(shapes)
            conv = Conv(
                in_features,
                shape.out_features,
                shape.kernel_size,
                shape.stride,
                groups=shape.groups,
                bias=last and a.preactivation and a.conv_bias,
                zero_init=last and a.preactivation and starts_as_identity,
                lowering=lowering,
                rng=rng,
            )
            norm = BatchNorm(
                in_features if a.preactivation else shape.out_features,
                epsilon=a.norm_epsilon,
                zero_init_scale=last and starts_as_identity and not a.preactivation,
                lowering=lowering,
            )
            setattr(self, f"conv{i}", conv)
            setattr(self, f"norm{i}", norm)
            in_features = shape.out_features

    def __call__(self, x: jax.Array, train: bool, residual_scale: jax.Array | None = None) -> jax.Array:
        """Returns the output for `x` [N, H, W, C]; `residual_scale` [N, 1, 1, 1] is for stochastic depth."""
        branches = self._preactivated_branches if self.preactivation else self._branches
        y, shortcut = branches(x, train)
        if self.squeezes:
            y = self.squeeze(y)
        if residual_scale is not None:
            y = (y * residual_scale).astype(y.dtype)
        if shortcut is not None:
            y = y + shortcut
        return y if self.preactivation else nnx.relu(y)

    def _branches(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array | None]:
        """Returns the residual and the output of the shortcut: He et al. 2015, figure 5."""
        y = self.conv1(x)
        for i in range(1, self.depth):
            y = nnx.relu(getattr(self, f"norm{i}")(y, train))
            y = getattr(self, f"conv{i + 1}")(y)
        y = getattr(self, f"norm{self.depth}")(y, train)
        return y, self.shortcut(x, train)

    def _preactivated_branches(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array | None]:
        """Returns the residual and the output of the shortcut: He et al. 2016, figure 4 (e).

        A projection reads the same values as the first convolution, an identity reads the input of the block.
        """
        y = nnx.relu(self.norm1(x, train))
        shortcut = self.shortcut(y if self.shortcut.projects else x, train)
        y = self.conv1(y)
        for i in range(2, self.depth + 1):
            y = nnx.relu(getattr(self, f"norm{i}")(y, train))
            y = getattr(self, f"conv{i}")(y)
        return y, shortcut


class Shortcut(nnx.Module):
    """The input of a block, brought to the shape of the output to which it is added.

    `Architecture.shortcut` says how. Without `Architecture.residual` the result is None: this is the plain
    network with which He et al. 2015 compare theirs. Where the last block of a stage has the stride, its
    shortcut only skips pixels.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        stride: int,
        architecture: Architecture,
        *,
        lowering: Lowering,
        rng: Rng,
    ) -> None:
        a = architecture
        self.residual = a.residual
        self.stride = stride
        self.more_features = out_features - in_features
        changes = self.more_features != 0 or (stride != 1 and a.stride_in == "first_block")
        self.projects = a.residual and changes and a.shortcut != "zero_pad"
        self.averages = a.shortcut == "average_pool" and stride != 1
        self.normalizes = not a.preactivation
        if self.projects:
            conv_stride = 1 if self.averages else stride
            bias = a.conv_bias and not self.normalizes
            self.conv = Conv(in_features, out_features, 1, conv_stride, bias=bias, lowering=lowering, rng=rng)
            if self.normalizes:
                self.norm = BatchNorm(out_features, epsilon=a.norm_epsilon, lowering=lowering)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array | None:
        if not self.residual:
            return None
        if self.projects:
            x = self.conv(average_pool_2x2(x) if self.averages else x)
            return self.norm(x, train) if self.normalizes else x
        if self.stride > 1:
            x = x[:, :: self.stride, :: self.stride]
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, self.more_features))) if self.more_features else x


class SqueezeExcitation(nnx.Module):
    """Scales each channel of `x` [N, H, W, C] by a gate that is computed from the means of all channels.

    Hu et al. 2018 (arXiv:1709.01507), section 3. The layer in between has C / `reduction` channels. Both
    layers have biases.
    """

    def __init__(self, features: int, reduction: int, *, rng: Rng) -> None:
        inner = max(features // reduction, 1)
        self.reduce = Linear(features, inner, std=(2 / features) ** 0.5, rng=rng)
        self.expand = Linear(inner, features, std=(1 / inner) ** 0.5, rng=rng)

    def __call__(self, x: jax.Array) -> jax.Array:
        means = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        gates = nnx.sigmoid(self.expand(nnx.relu(self.reduce(means))))
        return x * gates[:, None, None].astype(x.dtype)


class Linear(nnx.Module):
    """A linear layer: maps `x` [N, C] to [N, out_features] in float32."""

    def __init__(self, in_features: int, out_features: int, *, std: float = 0.01, rng: Rng) -> None:
        self.kernel = nnx.Param(_normal(rng, std, (in_features, out_features)))
        self.bias = nnx.Param(np.zeros(out_features, np.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x.astype(jnp.float32) @ self.kernel[...] + self.bias[...]


class ResNet(nnx.Module):
    """A residual network: stem, stages of blocks, global average pool and linear head.

    The attributes are `stem_conv`, `stem_norm`, the stages `stage1`, `stage2`, ... with `block1`, `block2`,
    ... inside, and `head`. A deep stem has `stem_conv1`, `stem_norm1`, `stem_conv2` and `stem_norm2` before
    `stem_conv`. With pre-activation there is a `final_norm` before the pool and no `stem_norm`.
    """

    def __init__(
        self,
        depth: int = 50,
        num_classes: int = 1000,
        *,
        lowering: Lowering = "auto",
        dtype: jnp.dtype = jnp.float32,
        frozen: int = 0,
        freeze_norm: bool = False,
        stochastic_depth: float = 0.0,
        rng: Rng,
        **options: Any,
    ) -> None:
        """Builds the network of `Architecture(depth, **options)` with weights drawn from `rng`.

        Convolutions compute in `dtype`. Parameters, statistics and logits are float32. In the first `frozen`
        parts (1 is the stem, 2 adds stage 1, ...) the norms use and keep their running statistics in training
        too, with `freeze_norm` all of them do. `stochastic_depth` is the probability that training skips the
        last block for an image; see `_residual_scales`.
        """
        self.architecture = Architecture(depth, **options)
        self.dtype = dtype
        self.frozen = frozen
        self.freeze_norm = freeze_norm
        self.stochastic_depth = stochastic_depth
        # The order in which the parts are built is the order in which their weights are drawn.
        self._add_stem(lowering, rng)
        out_features = self._add_stages(lowering, rng)
        if self.architecture.preactivation:
            epsilon = self.architecture.norm_epsilon
            self.final_norm = BatchNorm(out_features, epsilon=epsilon, lowering=lowering)
        self.head = Linear(out_features, num_classes, rng=rng)

    def _add_stem(self, lowering: Lowering, rng: Rng) -> None:
        a = self.architecture
        width = a.stem_width or a.width
        conv = partial(Conv, lowering=lowering, rng=rng)
        norm = partial(BatchNorm, epsilon=a.norm_epsilon, lowering=lowering)
        if a.stem == "deep":
            self.stem_conv1 = conv(3, width // 2, 3, 2)
            self.stem_norm1 = norm(width // 2)
            self.stem_conv2 = conv(width // 2, width // 2, 3)
            self.stem_norm2 = norm(width // 2)
        in_features, kernel_size, stride = {
            "7x7": (3, 7, 2),
            "deep": (width // 2, 3, 1),
            "3x3": (3, 3, 1),
        }[a.stem]
        self.stem_conv = conv(in_features, width, kernel_size, stride, bias=a.preactivation and a.conv_bias)
        if not a.preactivation:
            self.stem_norm = norm(width)

    def _add_stages(self, lowering: Lowering, rng: Rng) -> int:
        """Adds all stages and returns the number of channels of the last one."""
        a = self.architecture
        in_features = a.stem_width or a.width
        for stage, count in enumerate(a.blocks, start=1):
            features = a.width * 2 ** (stage - 1)
            blocks = []
            for index in range(1, count + 1):
                stride = a.stride(stage, index)
                blocks.append(Block(in_features, features, stride, a, lowering=lowering, rng=rng))
                in_features = a.channels(stage)
            setattr(self, f"stage{stage}", Sequence(blocks))
        return in_features

    def __call__(
        self, images: jax.Array, train: bool, key: jax.Array | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns logits, float32 [N, classes], and features of normalised `images` [N, H, W, 3].

        The features by name are the outputs of `stem` (after the max-pool), of every block, such as
        `stage1.block2`, and of every stage, such as `stage1`, [N, h, w, c] in the compute dtype, and
        `pooled`, float32 [N, c]. With `train`, norms use the statistics of the batch and update their running
        statistics, and `key` draws the blocks that stochastic depth skips.
        """
        residual_scales = self._residual_scales(len(images), key) if train else {}
        train = train and not self.freeze_norm
        x = self._stem(images.astype(self.dtype), train and self.frozen < 1)
        features = {"stem": x}
        stages = len(self.architecture.blocks)
        for stage in range(1, stages + 1):
            x, blocks = getattr(self, f"stage{stage}")(
                x, train and self.frozen < stage + 1, residual_scales.get(stage)
            )
            features |= {f"stage{stage}.{name}": y for name, y in blocks.items()}
            features[f"stage{stage}"] = x
        if self.architecture.preactivation:
            x = nnx.relu(self.final_norm(x, train and self.frozen < stages + 1))
        features["pooled"] = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        return self.head(features["pooled"]), features

    def _residual_scales(self, count: int, key: jax.Array | None) -> dict[int, jax.Array]:
        """Draws the factors of the residuals of `count` images, [blocks, N, 1, 1, 1] for every stage.

        Stochastic depth: Huang et al. 2016 (arXiv:1603.09382), section 3. Block l of L survives with
        probability 1 - l / L * `stochastic_depth`, drawn for each image. As in torchvision, what survives is
        divided by that probability, so that evaluation needs no factor. Frozen stages skip nothing.
        """
        if not self.stochastic_depth:
            return {}
        assert key is not None, "stochastic depth needs a random key in training"
        blocks = self.architecture.blocks
        total = sum(blocks)
        survival = (1 - self.stochastic_depth * np.arange(1, total + 1) / total).astype(np.float32)[:, None]
        scales = jax.random.bernoulli(key, survival, (total, count)) / survival
        stages = jnp.split(scales[..., None, None, None], np.cumsum(blocks)[:-1])
        return {stage: scale for stage, scale in enumerate(stages, start=1) if self.frozen < stage + 1}

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        a = self.architecture
        if a.stem == "deep":
            x = nnx.relu(self.stem_norm1(self.stem_conv1(x), train))
            x = nnx.relu(self.stem_norm2(self.stem_conv2(x), train))
        x = self.stem_conv(x)
        if not a.preactivation:
            x = self.stem_norm(x, train)
        match a.max_pool:
            case "padded":
                x = max_pool_3x3(x)
            case "zero_padded":
                x = max_pool_3x3(x, fill=0.0)
            case "unpadded":
                x = max_pool_3x3(x, padding=0)
        # ReLU and max-pool commute. After the pool, ReLU has only a quarter of the pixels.
        return x if a.preactivation else nnx.relu(x)


class Sequence(nnx.Module):
    """The blocks of a stage, one after the other, as attributes `block1`, `block2`, ..."""

    def __init__(self, blocks: list[Block]) -> None:
        self.count = len(blocks)
        for index, block in enumerate(blocks, start=1):
            setattr(self, f"block{index}", block)

    def __call__(
        self, x: jax.Array, train: bool, residual_scales: jax.Array | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the output of the last block, and the outputs of all blocks by name.

        `residual_scales` [blocks, N, 1, 1, 1] are for stochastic depth.
        """
        outputs = {}
        for index in range(1, self.count + 1):
            scale = None if residual_scales is None else residual_scales[index - 1]
            outputs[f"block{index}"] = x = getattr(self, f"block{index}")(x, train, scale)
        return x, outputs
