"""Deep residual networks (He et al. 2015, arXiv:1512.03385) as Flax NNX modules."""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from resnet.convolution import Lowering, arrange_kernel, conv2d, conv2d_arranged
from resnet.pooling import max_pool_3x3

# Blocks per stage and kind of block: He et al. 2015, table 1.
STAGES: dict[int, tuple[tuple[int, ...], Literal["basic", "bottleneck"]]] = {
    18: ((2, 2, 2, 2), "basic"),
    34: ((3, 4, 6, 3), "basic"),
    50: ((3, 4, 6, 3), "bottleneck"),
    101: ((3, 4, 23, 3), "bottleneck"),
    152: ((3, 8, 36, 3), "bottleneck"),
}
BOTTLENECK_EXPANSION = 4

Variant = Literal["v1", "v1.5"]

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
    """A bias-free convolution of k x k with padding (k - 1) / 2; He-normal initialisation, fan out.

    He et al. 2015b (arXiv:1502.01852), section 2.2.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int,
        stride: int = 1,
        *,
        lowering: Lowering,
        rng: Rng,
    ) -> None:
        shape = (kernel_size, kernel_size, in_features, out_features)
        std = (2 / (kernel_size**2 * out_features)) ** 0.5
        self.kernel = nnx.Param(_normal(rng, std, shape))
        self.stride = stride
        self.lowering = lowering
        self.padding = (kernel_size - 1) // 2
        self.input_shape: tuple[int, ...] = ()
        self.arranged = nnx.data(None)

    def __call__(self, x: jax.Array) -> jax.Array:
        self.input_shape = x.shape
        if self.arranged is not None:
            return conv2d_arranged(x, self.arranged, self.kernel.shape, **self._settings)
        return conv2d(x, self.kernel[...].astype(x.dtype), **self._settings)

    def arrange(self, dtype: jnp.dtype) -> list[jax.Array]:
        """What `arranged` takes for many predictions from inputs of the shape that was seen last."""
        return arrange_kernel(self.kernel[...].astype(dtype), self.input_shape, **self._settings)

    @property
    def _settings(self) -> dict[str, Any]:
        return {"stride": self.stride, "padding": self.padding, "lowering": self.lowering}


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


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions and a shortcut: He et al. 2015, figure 5 left."""

    def __init__(
        self,
        in_features: int,
        features: int,
        stride: int,
        *,
        variant: Variant,
        residual: bool,
        zero_init_last: bool,
        lowering: Lowering,
        rng: Rng,
    ) -> None:
        del variant  # v1 and v1.5 differ in bottleneck blocks alone.
        self.conv1 = Conv(in_features, features, 3, stride, lowering=lowering, rng=rng)
        self.norm1 = BatchNorm(features)
        self.conv2 = Conv(features, features, 3, lowering=lowering, rng=rng)
        self.norm2 = BatchNorm(features, zero_init_scale=zero_init_last)
        self.shortcut = Shortcut(in_features, features, stride, residual=residual, lowering=lowering, rng=rng)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = nnx.relu(self.norm1(self.conv1(x), train))
        y = self.norm2(self.conv2(y), train)
        return nnx.relu(self.shortcut(x, y, train))


class BottleneckBlock(nnx.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut: He et al. 2015, figure 5 right.

    `v1` strides in the first 1x1, as the paper and Keras do; `v1.5` in the 3x3, as torchvision does.
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        stride: int,
        *,
        variant: Variant,
        residual: bool,
        zero_init_last: bool,
        lowering: Lowering,
        rng: Rng,
    ) -> None:
        out_features = features * BOTTLENECK_EXPANSION
        first, middle = (stride, 1) if variant == "v1" else (1, stride)
        self.conv1 = Conv(in_features, features, 1, first, lowering=lowering, rng=rng)
        self.norm1 = BatchNorm(features)
        self.conv2 = Conv(features, features, 3, middle, lowering=lowering, rng=rng)
        self.norm2 = BatchNorm(features)
        self.conv3 = Conv(features, out_features, 1, lowering=lowering, rng=rng)
        self.norm3 = BatchNorm(out_features, zero_init_scale=zero_init_last)
        self.shortcut = Shortcut(
            in_features, out_features, stride, residual=residual, lowering=lowering, rng=rng
        )

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = nnx.relu(self.norm1(self.conv1(x), train))
        y = nnx.relu(self.norm2(self.conv2(y), train))
        y = self.norm3(self.conv3(y), train)
        return nnx.relu(self.shortcut(x, y, train))


class Shortcut(nnx.Module):
    """Adds a block's input to its output: identity, or a 1x1 projection where the shape changes.

    He et al. 2015, section 3.3, option B. Without `residual` it passes the block's output on alone: the
    plain network that the paper compares against.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        stride: int,
        *,
        residual: bool,
        lowering: Lowering,
        rng: Rng,
    ) -> None:
        self.residual = residual
        self.projects = residual and (stride != 1 or in_features != out_features)
        if self.projects:
            self.conv = Conv(in_features, out_features, 1, stride, lowering=lowering, rng=rng)
            self.norm = BatchNorm(out_features)

    def __call__(self, x: jax.Array, y: jax.Array, train: bool) -> jax.Array:
        if not self.residual:
            return y
        return y + (self.norm(self.conv(x), train) if self.projects else x)


class Linear(nnx.Module):
    """`x` [N, C] -> logits [N, classes] in float32."""

    def __init__(self, in_features: int, out_features: int, *, rng: Rng) -> None:
        self.kernel = nnx.Param(_normal(rng, 0.01, (in_features, out_features)))
        self.bias = nnx.Param(np.zeros(out_features, np.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x.astype(jnp.float32) @ self.kernel[...] + self.bias[...]


class ResNet(nnx.Module):
    """A residual network: stem, four stages of blocks, global average pool, linear head.

    Attributes `stem_conv`, `stem_norm`, `stage1` ... `stage4` with `block1`, `block2`, ... inside, `head`.
    """

    def __init__(
        self,
        depth: int = 50,
        num_classes: int = 1000,
        *,
        width: int = 64,
        variant: Variant = "v1.5",
        residual: bool = True,
        zero_init_last: bool = False,
        lowering: Lowering = "auto",
        dtype: jnp.dtype = jnp.float32,
        rng: Rng,
    ) -> None:
        """Builds the network of `depth` (a key of `STAGES`), its first stage `width` channels wide.

        `dtype` is what convolutions compute in; parameters, statistics and logits are float32.
        """
        blocks, kind = STAGES[depth]
        block_type, expansion = (
            (BasicBlock, 1) if kind == "basic" else (BottleneckBlock, BOTTLENECK_EXPANSION)
        )
        self.dtype = dtype
        self.stem_conv = Conv(3, width, 7, 2, lowering=lowering, rng=rng)
        self.stem_norm = BatchNorm(width)
        in_features = width
        for stage, count in enumerate(blocks, start=1):
            features = width * 2 ** (stage - 1)
            sequence = Sequence()
            for index in range(1, count + 1):
                block = block_type(
                    in_features,
                    features,
                    stride=2 if index == 1 and stage > 1 else 1,
                    variant=variant,
                    residual=residual,
                    zero_init_last=zero_init_last,
                    lowering=lowering,
                    rng=rng,
                )
                setattr(sequence, f"block{index}", block)
                in_features = features * expansion
            sequence.count = count
            setattr(self, f"stage{stage}", sequence)
        self.head = Linear(in_features, num_classes, rng=rng)

    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Normalised `images` [N, H, W, 3] to logits [N, classes] and every stage's output.

        The dictionary has `stem` (after the max-pool), `stage1` ... `stage4` [N, h, w, c] in the
        compute dtype and `pooled` [N, c] in float32. With `train`, batch statistics normalise and the
        running ones are updated.
        """
        x = images.astype(self.dtype)
        # ReLU after the pool, with which it commutes: it then has a quarter of the pixels.
        x = nnx.relu(max_pool_3x3(self.stem_norm(self.stem_conv(x), train)))
        features = {"stem": x}
        for stage in ("stage1", "stage2", "stage3", "stage4"):
            x = getattr(self, stage)(x, train)
            features[stage] = x
        features["pooled"] = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        return self.head(features["pooled"]), features


class Sequence(nnx.Module):
    """The blocks of a stage, one after the other: attributes `block1`, `block2`, ..."""

    count: int

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for index in range(1, self.count + 1):
            x = getattr(self, f"block{index}")(x, train)
        return x
