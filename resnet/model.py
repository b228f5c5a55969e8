"""Deep residual networks (He et al. 2015, arXiv:1512.03385) as Flax NNX modules."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from resnet.architecture import BOTTLENECK_EXPANSION, Architecture
from resnet.arranged import arrange_kernel, conv2d_arranged
from resnet.convolution import Lowering, conv2d
from resnet.pooling import average_pool_2x2, max_pool_3x3

# Initial values are drawn by NumPy: at once, where XLA would compile a program for every shape, and with
# the same bits on every backend. None gives zeros, for weights that are about to be loaded.
Rng = np.random.Generator | None


def _normal(rng: Rng, std: float, shape: tuple[int, ...]) -> np.ndarray:
    if rng is None:
        return np.zeros(shape, np.float32)  # Takes no memory until it is written to.
    values = rng.standard_normal(shape, np.float32)
    values *= np.float32(std)
    return values


class Conv(nnx.Module):
    """A convolution of k x k with padding (k - 1) / 2; He-normal initialisation, fan out.

    He et al. 2015b (arXiv:1502.01852), section 2.2. With `groups`, each sees its share of the channels.
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
        if bias:
            self.bias = nnx.Param(np.zeros(out_features, np.float32))
        self.stride = stride
        self.groups = groups
        self.has_bias = bias
        self.lowering = lowering
        self.padding = (kernel_size - 1) // 2
        self.input_shape: tuple[int, ...] | None = None  # Noted at a call where it is not None.
        self.arranged = nnx.data(None)

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.input_shape is not None:
            self.input_shape = x.shape
        if self.arranged is None:
            y = conv2d(x, self.kernel[...].astype(x.dtype), **self._settings)
        else:
            y = conv2d_arranged(x, self.arranged, self.kernel.shape, **self._settings)
        return y + self.bias[...].astype(x.dtype) if self.has_bias else y

    def arrange(self, dtype: jnp.dtype) -> list[jax.Array]:
        """What `arranged` takes for many predictions from inputs of the shape that was noted."""
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
    """Batch normalisation over N, H and W (Ioffe & Szegedy 2015, arXiv:1502.03167), statistics in float32.

    The running statistics move by `1 - momentum` at each training step; the running variance takes the
    unbiased estimate, as PyTorch's does and the paper's algorithm 2 has it.
    """

    def __init__(
        self,
        features: int,
        *,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        zero_init_scale: bool = False,
    ) -> None:
        first_scale = np.zeros if zero_init_scale else np.ones
        self.scale = nnx.Param(first_scale(features, np.float32))
        self.bias = nnx.Param(np.zeros(features, np.float32))
        self.mean = nnx.BatchStat(np.zeros(features, np.float32))
        self.var = nnx.BatchStat(np.ones(features, np.float32))
        self.momentum = momentum
        self.epsilon = epsilon
        self.arranged = nnx.data(None)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if not train:
            factor, offset = self.arrange() if self.arranged is None else self.arranged
            return (x * factor + offset).astype(x.dtype)
        y, mean, var = _normalize_batch(x, self.scale[...], self.bias[...], self.epsilon)
        count = x.size // x.shape[-1]
        unbiased = var * (count / max(count - 1, 1))
        self.mean[...] = self.momentum * self.mean[...] + (1 - self.momentum) * mean
        self.var[...] = self.momentum * self.var[...] + (1 - self.momentum) * unbiased
        return y

    def arrange(self, dtype: jnp.dtype = jnp.float32) -> list[jax.Array]:
        """Factor and offset, float32 [C], that normalise by the running statistics."""
        del dtype
        return _factor_and_offset(
            self.mean[...], self.var[...], self.scale[...], self.bias[...], self.epsilon
        )


# Traced once for each shape rather than for each layer, which saves a quarter of the time before compiling.
@partial(jax.jit, static_argnames="epsilon")
def _normalize_batch(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`x` [..., C] normalised by its own moments, and these."""
    mean, var = _batch_moments(x)
    factor, offset = _factor_and_offset(mean, var, scale, bias, epsilon)
    return (x * factor + offset).astype(x.dtype), mean, var


def _factor_and_offset(
    mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> list[jax.Array]:
    factor = scale * jax.lax.rsqrt(var + epsilon)
    return [factor, bias - mean * factor]


def _batch_moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance of each channel of `x` [..., C], in float32, in one pass over `x`."""
    x = x.astype(jnp.float32)
    axes = tuple(range(x.ndim - 1))
    mean = jnp.mean(x, axes)
    return mean, jnp.maximum(jnp.mean(x * x, axes) - mean * mean, 0.0)


class Block(nnx.Module):
    """A residual block: convolutions with their norms, and a shortcut around them.

    Two 3x3 convolutions (basic: He et al. 2015, figure 5 left), or 1x1, 3x3 and 1x1 (bottleneck, right).
    Convolution i and norm i are `conv{i}` and `norm{i}`; with pre-activation the norm comes first.
    """

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
        """`features` are those of the stage before the expansion of bottlenecks by 4."""
        a = architecture
        if a.bottleneck:
            out_features, inner = features * BOTTLENECK_EXPANSION, features * a.widen
            first, middle = (stride, 1) if a.variant == "v1" else (1, stride)
            convs = [(inner, 1, first, 1), (inner, 3, middle, a.groups), (out_features, 1, 1, 1)]
        else:
            out_features = features
            convs = [(features, 3, stride, 1), (features, 3, 1, 1)]
        self.depth = len(convs)
        self.preactivation = a.preactivation
        width = in_features
        starts_as_identity = a.zero_init_last and a.residual  # A plain network would be dead for good.
        for i, (out, kernel_size, conv_stride, groups) in enumerate(convs, start=1):
            last = i == len(convs)
            conv = Conv(
                width,
                out,
                kernel_size,
                conv_stride,
                groups=groups,
                bias=last and a.preactivation and a.conv_bias,
                zero_init=last and a.preactivation and starts_as_identity,
                lowering=lowering,
                rng=rng,
            )
            norm = BatchNorm(
                width if a.preactivation else out,
                epsilon=a.norm_epsilon,
                zero_init_scale=last and starts_as_identity and not a.preactivation,
            )
            setattr(self, f"conv{i}", conv)
            setattr(self, f"norm{i}", norm)
            width = out
        self.shortcut = Shortcut(in_features, out_features, stride, a, lowering=lowering, rng=rng)
        self.squeezes = a.squeeze > 0
        if self.squeezes:
            self.squeeze = SqueezeExcitation(out_features, a.squeeze, rng=rng)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if self.preactivation:
            x, y = self._preactivated_branches(x, train)
        else:
            y = self.conv1(x)
            for i in range(1, self.depth):
                y = nnx.relu(getattr(self, f"norm{i}")(y, train))
                y = getattr(self, f"conv{i + 1}")(y)
            y = getattr(self, f"norm{self.depth}")(y, train)
            x = self.shortcut(x, train)
        if self.squeezes:
            y = self.squeeze(y)
        y = y if x is None else y + x
        return y if self.preactivation else nnx.relu(y)

    def _preactivated_branches(self, x: jax.Array, train: bool) -> tuple[jax.Array | None, jax.Array]:
        """The shortcut's output and the residual: He et al. 2016, figure 4 (e).

        A projection sees what the first convolution sees, an identity the block's own input.
        """
        y = nnx.relu(self.norm1(x, train))
        x = self.shortcut(y if self.shortcut.projects else x, train)
        y = self.conv1(y)
        for i in range(2, self.depth + 1):
            y = nnx.relu(getattr(self, f"norm{i}")(y, train))
            y = getattr(self, f"conv{i}")(y)
        return x, y


class Shortcut(nnx.Module):
    """What a block adds to its output: its input, brought to the output's shape where that differs.

    `Architecture.shortcut` says how. None without `residual`: the plain network that He et al. 2015 compare
    against. Where the stride is at a stage's end, the map alone shrinks there: pixels are skipped.
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
                self.norm = BatchNorm(out_features, epsilon=a.norm_epsilon)

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
    """Scales each channel of `x` [N, H, W, C] by a gate computed from all channels' means.

    Hu et al. 2018 (arXiv:1709.01507), section 3: C / `reduction` channels in between, both with biases.
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
    """`x` [N, C] -> [N, out_features] in float32."""

    def __init__(self, in_features: int, out_features: int, *, std: float = 0.01, rng: Rng) -> None:
        self.kernel = nnx.Param(_normal(rng, std, (in_features, out_features)))
        self.bias = nnx.Param(np.zeros(out_features, np.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x.astype(jnp.float32) @ self.kernel[...] + self.bias[...]


class ResNet(nnx.Module):
    """A residual network: stem, stages of blocks, global average pool, linear head.

    Attributes `stem_conv`, `stem_norm`, `stage1`, `stage2`, ... with `block1`, `block2`, ... inside,
    `final_norm` with pre-activation (which leaves out `stem_norm`), and `head`. A deep stem has
    `stem_conv1`, `stem_norm1`, `stem_conv2` and `stem_norm2` before `stem_conv`.
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
        rng: Rng,
        **options: object,
    ) -> None:
        """Builds the network of `Architecture(depth, **options)`.

        `dtype` is what convolutions compute in; parameters, statistics and logits are float32. In the
        first `frozen` parts (1: the stem, 2: and stage 1, ...), or everywhere with `freeze_norm`, norms use
        and keep their running statistics in training too.
        """
        self.architecture = a = Architecture(depth, **options)
        self.dtype = dtype
        self.frozen = frozen
        self.freeze_norm = freeze_norm
        build = {"lowering": lowering, "rng": rng}
        width = a.stem_width or a.width
        if a.stem == "deep":
            self.stem_conv1 = Conv(3, width // 2, 3, 2, **build)
            self.stem_norm1 = BatchNorm(width // 2, epsilon=a.norm_epsilon)
            self.stem_conv2 = Conv(width // 2, width // 2, 3, **build)
            self.stem_norm2 = BatchNorm(width // 2, epsilon=a.norm_epsilon)
        in_features, kernel_size, stride = {
            "7x7": (3, 7, 2),
            "deep": (width // 2, 3, 1),
            "3x3": (3, 3, 1),
        }[a.stem]
        bias = a.preactivation and a.conv_bias
        self.stem_conv = Conv(in_features, width, kernel_size, stride, bias=bias, **build)
        if not a.preactivation:
            self.stem_norm = BatchNorm(width, epsilon=a.norm_epsilon)
        in_features = width
        for stage, count in enumerate(a.blocks, start=1):
            features = a.width * 2 ** (stage - 1)
            sequence = Sequence()
            for index in range(1, count + 1):
                block = Block(in_features, features, a.stride(stage, index), a, **build)
                setattr(sequence, f"block{index}", block)
                in_features = features * (BOTTLENECK_EXPANSION if a.bottleneck else 1)
            sequence.count = count
            setattr(self, f"stage{stage}", sequence)
        if a.preactivation:
            self.final_norm = BatchNorm(in_features, epsilon=a.norm_epsilon)
        self.head = Linear(in_features, num_classes, rng=rng)

    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Normalised `images` [N, H, W, 3] to logits [N, classes] and every stage's output.

        The dictionary has `stem` (after the max-pool), every block, such as `stage1.block2`, and every
        stage, such as `stage1`, [N, h, w, c] in the compute dtype, and `pooled` [N, c] in float32. With
        `train`, batch statistics normalise and the running ones are updated.
        """
        train = train and not self.freeze_norm
        x = self._stem(images.astype(self.dtype), train and self.frozen < 1)
        features = {"stem": x}
        stages = len(self.architecture.blocks)
        for stage in range(1, stages + 1):
            x, blocks = getattr(self, f"stage{stage}")(x, train and self.frozen < stage + 1)
            features |= {f"stage{stage}.{name}": y for name, y in blocks.items()}
            features[f"stage{stage}"] = x
        if self.architecture.preactivation:
            x = nnx.relu(self.final_norm(x, train and self.frozen < stages + 1))
        features["pooled"] = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        return self.head(features["pooled"]), features

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
        # ReLU after the pool, with which it commutes: it then has a quarter of the pixels.
        return x if a.preactivation else nnx.relu(x)


class Sequence(nnx.Module):
    """The blocks of a stage, one after the other: attributes `block1`, `block2`, ..."""

    count: int

    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The last block's output, and each block's by its name."""
        outputs = {}
        for index in range(1, self.count + 1):
            outputs[f"block{index}"] = x = getattr(self, f"block{index}")(x, train)
        return x, outputs
