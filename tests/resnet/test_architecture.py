"""The family: parameter counts that others published, and what each variant computes, in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from resnet.architecture import BOTTLENECK_DEPTHS, CHOICES, STAGES, Architecture
from resnet.errors import UserError
from resnet.model import Block, ResNet, Shortcut, SqueezeExcitation
from resnet.ops.pooling import average_pool_2x2, max_pool_3x3

KERAS_V2 = {
    "variant": "v2",
    "max_pool": "zero_padded",
    "stride_in": "last_block",
    "conv_bias": True,
    "norm_epsilon": 1.001e-5,
}
SMALL = {"stem": "3x3", "max_pool": "none"}


@pytest.mark.parametrize(
    ("depth", "options", "classes", "count"),
    [
        # Counted by torchvision for its own networks.
        (50, {"widen": 2}, 1000, 68_883_240),
        (101, {"widen": 2}, 1000, 126_886_696),
        (50, {"widen": 2, "groups": 32}, 1000, 25_028_904),
        (101, {"widen": 4, "groups": 32}, 1000, 88_791_336),
        (101, {"widen": 4, "groups": 64}, 1000, 83_455_272),
        # Counted by timm for resnet18d, resnet50c, resnet50d, seresnet50 and resnetv2_50.
        (18, {"stem": "deep", "shortcut": "average_pool"}, 1000, 11_708_744),
        (50, {"stem": "deep"}, 1000, 25_576_264),
        (50, {"stem": "deep", "shortcut": "average_pool"}, 1000, 25_576_264),
        (50, {"squeeze": 16}, 1000, 28_088_024),
        (50, {"variant": "v2"}, 1000, 25_549_352),
        # Counted by Keras for ResNet50V2 and ResNet101V2, trainable ones.
        (50, KERAS_V2, 1000, 25_568_360),
        (101, KERAS_V2, 1000, 44_577_896),
    ],
)
def test_parameter_counts_to_the_last_one(depth: int, options: dict, classes: int, count: int) -> None:
    assert parameters(depth, options, classes) == count
    assert 0.7 * count < Architecture(depth, **options).least_parameters() < count


@pytest.mark.parametrize(
    ("depth", "options", "millions"),
    [
        # He et al. 2015, table 6.
        (20, {"width": 16, "shortcut": "zero_pad"}, "0.27"),
        (32, {"width": 16, "shortcut": "zero_pad"}, "0.46"),
        (44, {"width": 16, "shortcut": "zero_pad"}, "0.66"),
        (56, {"width": 16, "shortcut": "zero_pad"}, "0.85"),
        (110, {"width": 16, "shortcut": "zero_pad"}, "1.7"),
        # He et al. 2016, table 4.
        (164, {"width": 16, "variant": "v2"}, "1.7"),
        # Zagoruyko & Komodakis 2016, table 4.
        (40, {"width": 64, "stem_width": 16, "variant": "v2"}, "8.9"),
        (16, {"width": 128, "stem_width": 16, "variant": "v2"}, "11.0"),
        (28, {"width": 160, "stem_width": 16, "variant": "v2"}, "36.5"),
    ],
)
def test_parameter_counts_for_small_images_as_the_papers_round_them(
    depth: int, options: dict, millions: str
) -> None:
    decimals = len(millions.split(".")[1])
    assert f"{parameters(depth, SMALL | options, 10) / 1e6:.{decimals}f}" == millions


def parameters(depth: int, options: dict, classes: int) -> int:
    model = nnx.eval_shape(lambda: ResNet(depth, classes, rng=None, **options))
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def test_every_depth_is_among_the_choices() -> None:
    assert CHOICES["depth"] == tuple(sorted(STAGES))
    bottlenecks = tuple(depth for depth in sorted(STAGES) if Architecture(depth).bottleneck)
    assert bottlenecks == BOTTLENECK_DEPTHS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 42}, "depth=42: expected one of 16, 18, 20"),
        ({"width": 0}, "width=0: out of range, expected 1 to 65536"),
        ({"width": "64"}, "width='64': expected a whole number"),
        ({"depth": 18, "groups": 4}, "groups=4: needs blocks of three convolutions"),
        ({"depth": 34, "widen": 2}, "widen=2: needs blocks of three convolutions"),
        ({"groups": 48}, "groups=48: does not divide width x widen = 64"),
        ({"stride_in": "last_block"}, "is the layout of pre-activation"),
        ({"stem": "5x5"}, "expected one of 7x7, deep, 3x3"),
    ],
)
def test_networks_that_there_cannot_be(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Architecture(**changes)


@pytest.mark.parametrize(
    ("options", "size", "sides"),
    [
        (SMALL, 32, [32, 32, 16, 8, 4]),
        ({"stem": "3x3"}, 64, [32, 32, 16, 8, 4]),
        ({"stem": "deep"}, 64, [16, 16, 8, 4, 2]),
        ({"shortcut": "average_pool"}, 70, [18, 18, 9, 5, 3]),
        ({"max_pool": "unpadded"}, 224, [55, 55, 28, 14, 7]),
        (KERAS_V2, 224, [56, 28, 14, 7, 7]),
    ],
)
@pytest.mark.parametrize("depth", [18, 50])
def test_sizes_of_the_stages(depth: int, options: dict, size: int, sides: list[int]) -> None:
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)
    options = {**options, "width": 4, "lowering": "lax", "rng": None}
    _, features = jax.eval_shape(lambda x: ResNet(depth, 6, **options)(x, train=False), images)
    names = ("stem", "stage1", "stage2", "stage3", "stage4")
    assert [features[name].shape[1] for name in names] == sides


def test_shortcut_of_zeros() -> None:
    x = np.random.default_rng(0).standard_normal((2, 5, 5, 3), np.float32)
    options = {"lowering": "lax", "rng": None}
    found = Shortcut(3, 8, 2, Architecture(20, shortcut="zero_pad"), **options)(x, False)
    np.testing.assert_array_equal(found[..., :3], x[:, ::2, ::2])
    assert found.shape == (2, 3, 3, 8)
    assert not found[..., 3:].any()


def test_stem_of_resnet_c() -> None:
    model = ResNet(50, 6, stem="deep", rng=None)
    convs = [model.stem_conv1, model.stem_conv2, model.stem_conv]
    assert [conv.kernel.shape for conv in convs] == [(3, 3, 3, 32), (3, 3, 32, 32), (3, 3, 32, 64)]
    assert [conv.stride for conv in convs] == [2, 1, 1]


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (1, 1)])
def test_average_pool_counts_the_pixels_that_there_are(size: tuple[int, int]) -> None:
    x = np.random.default_rng(0).standard_normal((2, *size, 3), np.float32)
    h, w = size
    expected = [[x[:, i : i + 2, j : j + 2].mean((1, 2)) for j in range(0, w, 2)] for i in range(0, h, 2)]
    np.testing.assert_allclose(average_pool_2x2(x), np.moveaxis(expected, 2, 0), atol=1e-6)


def test_max_pools_differ_at_the_edge() -> None:
    x = -1.0 - np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    assert max_pool_3x3(x)[0, :, :, 0].tolist() == [[-1, -2], [-5, -6]]
    assert max_pool_3x3(x, fill=0.0)[0, :, :, 0].tolist() == [[0, 0], [0, -6]]
    assert max_pool_3x3(x, padding=0)[0, :, :, 0].tolist() == [[-1]]


def test_squeeze_and_excitation() -> None:
    rng = np.random.default_rng(0)
    gate = SqueezeExcitation(8, 4, rng=rng)
    gate.expand.bias[...] = rng.standard_normal(8, np.float32)
    x = rng.standard_normal((2, 3, 3, 8), np.float32)
    inner = np.maximum(x.mean((1, 2)) @ gate.reduce.kernel[...], 0)
    weights = 1 / (1 + np.exp(-(inner @ gate.expand.kernel[...] + gate.expand.bias[...])))
    np.testing.assert_allclose(gate(x), x * weights[:, None, None], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("in_features", [8, 4])
def test_preactivation_block(in_features: int) -> None:
    """He et al. 2016, figure 4 (e); a projection sees the activated input, an identity the raw one."""
    rng = np.random.default_rng(0)
    architecture = Architecture(50, variant="v2")
    block = Block(in_features, 2, 1, architecture, lowering="lax", rng=rng)
    x = rng.standard_normal((2, 4, 4, in_features), np.float32)
    first = nnx.relu(block.norm1(x, False))
    y = block.conv1(first)
    y = block.conv2(nnx.relu(block.norm2(y, False)))
    y = block.conv3(nnx.relu(block.norm3(y, False)))
    shortcut = x if in_features == 8 else block.shortcut.conv(first)
    np.testing.assert_allclose(block(x, False), y + shortcut, atol=1e-6)
