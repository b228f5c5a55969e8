"""The networks against counts from the literature and against a forward pass in NumPy, in float64."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from resnet.architecture import STAGES, Architecture
from resnet.errors import UserError
from resnet.layer_table import list_layers
from resnet.model import BatchNorm, Block, ResNet
from resnet.network import Network, Tree, Weights, check_image_size, compute_dtype_here
from resnet.preprocessing import Preprocessing
from tests.quick_compilation import quick_jit
from tests.resnet.networks import make_network


def network_of(**changes: Any) -> Network:
    """Returns a narrow ResNet-50 for six classes; `changes` are as for `make_network`."""
    # XLA's convolution compiles faster.
    return make_network(6, **{"depth": 50, "convolution": "lax"} | changes)


def random_images(n: int, h: int, w: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, h, w, 3), np.uint8)


def random_weights(network: Network, seed: int = 0) -> Weights:
    """Returns initial kernels with scales, biases and statistics that differ from 0 and 1."""
    rng = np.random.default_rng(seed)
    kinds = {"scale": (0.5, 1.5), "bias": (-0.5, 0.5), "mean": (-0.5, 0.5), "var": (0.5, 2.0)}

    def draw(path: tuple, leaf: np.ndarray) -> np.ndarray:
        name = path[-1].key
        return leaf if name == "kernel" else rng.uniform(*kinds[name], leaf.shape).astype(np.float32)

    return Weights(*(jax.tree_util.tree_map_with_path(draw, tree) for tree in network.init(seed)))


def run(
    network: Network, weights: Weights, images: np.ndarray, train: bool = False
) -> tuple[np.ndarray, Tree, Tree]:
    return jax.tree.map(np.asarray, quick_jit(partial(network.apply, train=train))(weights, images))


# The same network in NumPy, from the paper


def windows(x: np.ndarray, k: int, stride: int, padding: int, *, fill: float = 0.0) -> np.ndarray:
    padded = np.pad(x, ((0, 0), (padding,) * 2, (padding,) * 2, (0, 0)), constant_values=fill)
    return np.lib.stride_tricks.sliding_window_view(padded, (k, k), axis=(1, 2))[:, ::stride, ::stride]


def convolve(x: np.ndarray, kernel: np.ndarray, stride: int = 1) -> np.ndarray:
    pixels = windows(x, len(kernel), stride, (len(kernel) - 1) // 2)
    return np.einsum("nhwcij,ijco->nhwo", pixels, kernel.astype(np.float64), optimize=True)


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def normalize(x: np.ndarray, params: Tree, stats: Tree) -> np.ndarray:
    return (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * params["scale"] + params["bias"]


def forward(weights: Weights, images: np.ndarray, depth: int, variant: str) -> dict[str, np.ndarray]:
    """Returns the outputs of all stages and the logits; mean 0.5 and deviation 0.25 normalise the pixels."""
    blocks, kind = STAGES[depth]

    def convolve_and_normalize(x: np.ndarray, conv: str, norm: str, stride: int) -> np.ndarray:
        return normalize(convolve(x, p[conv]["kernel"], stride), p[norm], s[norm])

    x = (images / 255.0 - 0.5) / 0.25
    p, s = weights
    x = relu(convolve_and_normalize(x, "stem_conv", "stem_norm", 2))
    x = windows(x, 3, 2, 1, fill=-np.inf).max((4, 5))
    outputs = {"stem": x}
    for stage, count in enumerate(blocks, start=1):
        for block in range(1, count + 1):
            stride = 2 if block == 1 and stage > 1 else 1
            p, s = (tree[f"stage{stage}"][f"block{block}"] for tree in weights)
            if kind == "basic":
                strides = [stride, 1]
            else:
                strides = [stride, 1, 1] if variant == "v1" else [1, stride, 1]
            y = x
            for i, conv_stride in enumerate(strides, start=1):
                y = convolve_and_normalize(y, f"conv{i}", f"norm{i}", conv_stride)
                y = y if i == len(strides) else relu(y)
            if "shortcut" in p:
                p, s = p["shortcut"], s["shortcut"]
                x = convolve_and_normalize(x, "conv", "norm", stride)
            x = relu(x + y)
        outputs[f"stage{stage}"] = x
    outputs["pooled"] = x.mean((1, 2))
    head = weights.params["head"]
    return outputs | {"logits": outputs["pooled"] @ head["kernel"].astype(np.float64) + head["bias"]}


@pytest.mark.parametrize(
    ("depth", "variant", "convolution", "size"),
    [
        (18, "v1.5", "matmul", (64, 64)),
        (18, "v1.5", "matmul", (45, 37)),
        (18, "v1.5", "lax", (45, 37)),
        (50, "v1", "matmul", (45, 37)),
        (50, "v1", "lax", (64, 64)),
        (50, "v1.5", "matmul", (64, 64)),
        (50, "v1.5", "lax", (45, 37)),
    ],
)
def test_evaluation_equals_numpy(depth: int, variant: str, convolution: str, size: tuple[int, int]) -> None:
    network = network_of(depth=depth, variant=variant, convolution=convolution)
    weights = random_weights(network)
    images = random_images(2, *size)
    logits, features, _ = run(network, weights, images)
    expected = forward(weights, images, depth, variant)
    blocks = {
        f"stage{i}.block{j}" for i, count in enumerate(STAGES[depth][0], 1) for j in range(1, count + 1)
    }
    assert features.keys() | {"logits"} == expected.keys() | blocks
    for stage, count in enumerate(STAGES[depth][0], start=1):
        np.testing.assert_array_equal(features[f"stage{stage}.block{count}"], features[f"stage{stage}"])
    for name in expected:
        output = logits if name == "logits" else features[name]
        assert output.shape == expected[name].shape
        assert abs(output - expected[name]).max() < 1e-4 * abs(expected[name]).max(), name


def test_v1_and_v1_5_are_the_same_for_basic_blocks() -> None:
    networks = [network_of(depth=18, variant=variant) for variant in ("v1", "v1.5")]
    weights = random_weights(networks[0])
    images = random_images(1, 64, 64)
    programs = [
        str(jax.make_jaxpr(partial(network.apply, train=False))(weights, images)) for network in networks
    ]
    assert programs[0] == programs[1]


def test_full_size_resnet_50_has_one_result_for_both_lowerings() -> None:
    images = random_images(2, 64, 64)
    networks = [make_network(1000, depth=50, width=64, convolution=name) for name in ("matmul", "lax")]
    weights = random_weights(networks[0])
    (logits, features, _), (lax_logits, lax_features, _) = (
        run(network, weights, images) for network in networks
    )
    assert features["stage4"].shape == (2, 2, 2, 2048)
    assert abs(logits - lax_logits).max() < 1e-4 * abs(lax_logits).max()
    for name, expected in lax_features.items():
        assert abs(features[name] - expected).max() < 1e-4 * abs(expected).max(), name


# Architecture


@pytest.mark.parametrize(
    ("depth", "count"),
    # The counts of torchvision's networks.
    [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032), (101, 44_549_160), (152, 60_192_808)],
)
def test_parameter_counts(depth: int, count: int) -> None:
    model = ResNet(depth, 1000, rng=None)
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))) == count


@pytest.mark.parametrize(
    ("size", "sides"),
    [((64, 64), [(16, 16), (16, 16), (8, 8), (4, 4), (2, 2)]),
     ((224, 224), [(56, 56), (56, 56), (28, 28), (14, 14), (7, 7)]),
     ((45, 37), [(12, 10), (12, 10), (6, 5), (3, 3), (2, 2)]),
     ((32, 33), [(8, 9), (8, 9), (4, 5), (2, 3), (1, 2)])],
)  # fmt: skip
@pytest.mark.parametrize(("depth", "expansion"), [(18, 1), (50, 4)])
def test_shapes_of_the_features(depth: int, expansion: int, size: tuple[int, int], sides: list) -> None:
    images = jax.ShapeDtypeStruct((3, *size, 3), jnp.uint8)
    logits, features = jax.eval_shape(lambda x: ResNet(depth, 6, rng=None)(x, train=False), images)
    channels = [64, *(64 * expansion * 2**i for i in range(4))]
    names = ["stem", "stage1", "stage2", "stage3", "stage4"]
    expected = {name: (3, *side, c) for name, side, c in zip(names, sides, channels, strict=True)}
    shapes = {name: leaf.shape for name, leaf in features.items() if "block" not in name}
    assert shapes == expected | {"pooled": (3, channels[-1])}
    assert logits.shape == (3, 6)


def test_where_bottlenecks_stride() -> None:
    for variant, strides in {"v1": (2, 1, 1), "v1.5": (1, 2, 1)}.items():
        model = ResNet(50, 6, width=4, variant=variant, rng=None)
        for stage in (model.stage2, model.stage3, model.stage4):
            first, second = stage.block1, stage.block2
            assert (first.conv1.stride, first.conv2.stride, first.conv3.stride) == strides
            assert first.shortcut.conv.stride == 2
            assert (second.conv1.stride, second.conv2.stride, second.conv3.stride) == (1, 1, 1)
        assert model.stage1.block1.shortcut.conv.stride == 1


@pytest.mark.parametrize("variant", ["v1.5", "v2"])
def test_plain_network_lets_signals_through_from_the_start(variant: str) -> None:
    network = network_of(depth=18, residual=False, variant=variant)
    logits, _, _ = run(network, network.init(0), random_images(4, 32, 32), train=True)
    assert np.ptp(logits, axis=0).min() > 1e-3


@pytest.mark.parametrize("depth", [18, 50])
def test_plain_network_has_no_shortcuts(depth: int) -> None:
    networks = [network_of(depth=depth, residual=residual) for residual in (True, False)]
    residual, plain = (network.init(0) for network in networks)
    removed = 0
    for stage in range(1, 5):
        for block, params in residual.params[f"stage{stage}"].items():
            kept = plain.params[f"stage{stage}"][block]
            shortcut = params.pop("shortcut", {})
            removed += sum(leaf.size for leaf in jax.tree.leaves(shortcut))
            assert jax.tree.map(np.shape, kept) == jax.tree.map(np.shape, params)
    assert removed > 0

    plain_18 = Architecture(18, residual=False)
    block = Block(4, 4, 1, plain_18, lowering="lax", rng=np.random.default_rng(0))
    x = np.random.default_rng(0).standard_normal((2, 4, 4, 4), np.float32)
    expected = relu(block.norm2(block.conv2(relu(block.norm1(block.conv1(x), False))), False))
    np.testing.assert_allclose(block(x, False), expected, atol=1e-6)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("variant", ["v1.5", "v2"])
@pytest.mark.parametrize(("depth", "features"), [(18, 8), (50, 2)])
def test_zero_init_last_starts_blocks_as_the_identity(
    depth: int, features: int, variant: str, train: bool
) -> None:
    x = np.random.default_rng(0).standard_normal((2, 4, 4, 8), np.float32)
    for zero_init_last in (True, False):
        architecture = Architecture(depth, variant=variant, zero_init_last=zero_init_last)
        block = Block(8, features, 1, architecture, lowering="matmul", rng=np.random.default_rng(0))
        identity = x if variant == "v2" else relu(x)
        assert np.array_equal(block(x, train), identity) is zero_init_last


# Stochastic depth


def with_stochastic_depth(probability: float, **options: Any) -> Network:
    """Returns a narrow network without norms of the batch, which would make images depend on each other."""
    architecture = Architecture(18, width=4, zero_init_last=False)
    return Network(
        architecture,
        Preprocessing(),
        6,
        compute_dtype="float32",
        convolution="lax",
        stochastic_depth=probability,
        **{"freeze_norm": True} | options,
    )


def train(network: Network, weights: Weights, images: np.ndarray, seed: int = 0) -> tuple[np.ndarray, Tree]:
    """Returns logits and features in training, with the random key of `seed`."""
    apply = quick_jit(lambda w, x: network.apply(w, x, train=True, key=jax.random.key(seed))[:2])
    return jax.tree.map(np.asarray, apply(weights, images))


def test_stochastic_depth_skips_residuals_of_single_images_and_enlarges_the_others() -> None:
    count, probability = 200, 0.8
    network = with_stochastic_depth(probability)
    weights = random_weights(network)
    _, features = train(network, weights, random_images(count, 32, 32))
    model = network.merge(weights)
    for number, (stage, x) in {2: ("stage1", "stage1.block1"), 6: ("stage3", "stage3.block1")}.items():
        survival = 1 - number / 8 * probability
        x, y = features[x], features[stage]
        skipped = np.abs(x - y).max((1, 2, 3)) < 1e-4
        deviation = np.sqrt(survival * (1 - survival) / count)
        assert abs(skipped.mean() - (1 - survival)) < 4 * deviation
        enlarged = getattr(model, stage).block2(x, train=False, residual_scale=1 / survival)
        np.testing.assert_allclose(y[~skipped], enlarged[~skipped], rtol=1e-4, atol=1e-4)


def test_stochastic_depth_is_drawn_by_the_key_and_for_training_alone() -> None:
    network, plain = with_stochastic_depth(0.5), with_stochastic_depth(0.0)
    weights, images = random_weights(network), random_images(4, 32, 32)
    logits = [train(network, weights, images, seed)[0] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(logits[0], logits[1])
    assert not np.allclose(logits[0], logits[2])
    np.testing.assert_array_equal(run(network, weights, images)[0], run(plain, weights, images)[0])
    assert network.init(0).named().keys() == plain.init(0).named().keys()


def test_frozen_stages_skip_nothing() -> None:
    frozen, plain = with_stochastic_depth(0.9, frozen=4), with_stochastic_depth(0.0)
    weights, images = random_weights(frozen), random_images(4, 32, 32)
    (_, features), (_, expected) = (train(network, weights, images) for network in (frozen, plain))
    np.testing.assert_allclose(features["stage3"], expected["stage3"], rtol=1e-4, atol=1e-5)
    assert not np.allclose(features["stage4"], expected["stage4"])


def test_without_stochastic_depth_the_key_changes_no_program() -> None:
    network = with_stochastic_depth(0.0, freeze_norm=False)
    weights, images = network.init(0), random_images(1, 32, 32)
    programs = [
        str(jax.make_jaxpr(lambda w, x, key=key: network.apply(w, x, train=True, key=key))(weights, images))
        for key in (None, jax.random.key(0))
    ]
    assert programs[0] == programs[1]


def test_where_stochastic_depth_cannot_work() -> None:
    network = with_stochastic_depth(0.1)
    with pytest.raises(AssertionError, match="needs a random key"):
        network.apply(network.init(0), random_images(1, 32, 32), train=True)
    plain = Architecture(18, residual=False)
    with pytest.raises(UserError) as refused:
        Network(plain, Preprocessing(), 6, stochastic_depth=0.1)
    assert str(refused.value) == (
        "config.model.stochastic_depth=0.1: skips blocks by their shortcuts, but model.residual is false;"
        " expected 0, or a residual network"
    )


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"compute_dtype": "float16"}, "compute_dtype='float16': expected one of auto, float32, bfloat16"),
        ({"convolution": "cudnn"}, "convolution='cudnn': expected one of auto, lax, matmul, bfloat16_matmul"),
    ],
)
def test_arithmetic_that_there_is_not(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=f"^{line}"):
        Network(Architecture(18), Preprocessing(), 6, **settings)


# Batch normalisation


def test_batch_norm_and_its_running_statistics() -> None:
    rng = np.random.default_rng(0)
    norm = BatchNorm(5, momentum=0.8, epsilon=1e-3)
    norm.scale[...], norm.bias[...] = rng.uniform(0.5, 2, (2, 5)).astype(np.float32)
    params = {"scale": np.asarray(norm.scale[...]), "bias": np.asarray(norm.bias[...])}
    mean, var = np.zeros(5), np.ones(5)
    for _ in range(3):
        x = (3 * rng.standard_normal((4, 3, 2, 5)) + np.arange(5)).astype(np.float32)
        output = norm(x, train=True)
        pixels = x.reshape(-1, 5).astype(np.float64)
        expected = (x - pixels.mean(0)) / np.sqrt(pixels.var(0) + 1e-3) * params["scale"] + params["bias"]
        np.testing.assert_allclose(output, expected, atol=2e-5)
        mean = 0.8 * mean + 0.2 * pixels.mean(0)
        var = 0.8 * var + 0.2 * pixels.var(0, ddof=1)
    np.testing.assert_allclose(norm.mean[...], mean, rtol=1e-5)
    np.testing.assert_allclose(norm.var[...], var, rtol=1e-5)

    output = norm(x, train=False)
    np.testing.assert_allclose(
        output, (x - mean) / np.sqrt(var + 1e-3) * params["scale"] + params["bias"], atol=2e-5
    )
    np.testing.assert_allclose(norm.mean[...], mean, rtol=1e-5)


def test_batch_norm_of_a_single_value() -> None:
    norm = BatchNorm(3)
    x = np.full((1, 1, 1, 3), 7.0, np.float32)
    np.testing.assert_array_equal(norm(x, train=True), np.zeros((1, 1, 1, 3)))
    np.testing.assert_allclose(norm.var[...], 0.9, rtol=1e-6)


# The pure functions


def test_apply_is_pure_and_only_training_moves_the_statistics() -> None:
    network = network_of(depth=18, zero_init_last=False)
    weights, images = random_weights(network), random_images(4, 32, 32)
    before = jax.tree.map(np.copy, weights)
    evaluated, _, still = run(network, weights, images)
    trained, _, moved = run(network, weights, images, train=True)
    jax.tree.map(np.testing.assert_array_equal, weights, before)
    jax.tree.map(np.testing.assert_array_equal, still, weights.batch_stats)
    assert jax.tree.structure(moved) == jax.tree.structure(weights.batch_stats)
    assert not any(map(np.array_equal, jax.tree.leaves(moved), jax.tree.leaves(weights.batch_stats)))
    assert not np.allclose(evaluated, trained)
    again, _, _ = run(network, weights, images)
    np.testing.assert_array_equal(again, evaluated)

    x = (images / 255.0 - 0.5) / 0.25
    pixels = convolve(x, weights.params["stem_conv"]["kernel"], 2).reshape(-1, 4)
    stem = weights.batch_stats["stem_norm"]
    np.testing.assert_allclose(
        moved["stem_norm"]["mean"], 0.9 * stem["mean"] + 0.1 * pixels.mean(0), atol=1e-5
    )
    np.testing.assert_allclose(
        moved["stem_norm"]["var"], 0.9 * stem["var"] + 0.1 * pixels.var(0, ddof=1), rtol=1e-4
    )


def predictor(network: Network) -> Callable[[Weights, np.ndarray], jax.Array]:
    """Returns `network.predict` as a function of weights, which it prepares itself, and images."""
    return quick_jit(lambda w, x: network.predict(w, network.arrange(w, x.shape), x))


def test_predictions_are_means_over_the_image_and_its_mirror_image() -> None:
    network = network_of(depth=18, test_time_flip=True)
    weights, images = random_weights(network), random_images(3, 32, 32)
    predict = predictor(network)
    logits = predict(weights, images)
    one, mirrored = (run(network, weights, x)[0] for x in (images, images[:, :, ::-1]))
    np.testing.assert_allclose(logits, (one + mirrored) / 2, rtol=1e-4, atol=1e-5)
    assert np.abs(one - mirrored).min() > 1e-3
    np.testing.assert_allclose(predict(weights, images[:, :, ::-1].copy()), logits, rtol=1e-4, atol=1e-5)


def test_the_temperature_divides_the_logits_of_predictions_alone() -> None:
    network = network_of(depth=18, temperature=0.5)
    weights, images = random_weights(network), random_images(3, 32, 32)
    predicted = predictor(network)(weights, images)
    np.testing.assert_allclose(predicted, 2 * run(network, weights, images)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("depth", "convolution"), [(18, "matmul"), (50, "matmul"), (18, "lax")])
@pytest.mark.parametrize("batch", [1, 9])
def test_predict_gives_the_logits_of_apply(depth: int, convolution: str, batch: int) -> None:
    network = network_of(depth=depth, convolution=convolution)
    weights, images = random_weights(network), random_images(batch, 40, 48)
    expected, _, _ = run(network, weights, images)
    arranged = quick_jit(partial(network.arrange, batch_shape=images.shape))(weights)
    logits = quick_jit(network.predict)(weights, arranged, images)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_apply_takes_integers_and_floats_alike() -> None:
    network = network_of(depth=18)
    weights, images = random_weights(network), random_images(2, 32, 32)
    a, b = (run(network, weights, x)[0] for x in (images, images.astype(np.float32)))
    np.testing.assert_allclose(a, b, rtol=1e-6)


def test_normalization_comes_from_the_preprocessing() -> None:
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    network, reference = network_of(depth=18, mean=mean, std=std), network_of(depth=18)
    weights, images = random_weights(network), random_images(2, 32, 32)
    same_input = ((images / 255.0 - mean) / std * 0.25 + 0.5) * 255
    np.testing.assert_allclose(
        run(network, weights, images)[0], run(reference, weights, same_input.astype(np.float32))[0], atol=1e-5
    )


def test_initial_weights_follow_from_the_seed() -> None:
    network = network_of(depth=50, width=16)
    first, second, other = network.init(3), network.init(3), network.init(4)
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert not np.array_equal(first.params["stem_conv"]["kernel"], other.params["stem_conv"]["kernel"])
    assert all(isinstance(leaf, np.ndarray) and leaf.dtype == np.float32 for leaf in jax.tree.leaves(first))


@pytest.mark.parametrize(("standardize", "axes"), [("image", (1, 2, 3)), ("channel", (1, 2))])
def test_images_are_standardized_by_their_own_moments(standardize: str, axes: tuple[int, ...]) -> None:
    network = network_of(depth=18, standardize=standardize, channel_order="bgr", mean=(9.0,) * 3)
    images = random_images(3, 32, 32) // 2
    normalized = np.asarray(network.normalize(jnp.asarray(images)))
    x = images.astype(np.float64)
    expected = (x - x.mean(axes, keepdims=True)) / x.std(axes, keepdims=True)
    np.testing.assert_allclose(normalized, expected[..., ::-1], atol=1e-5)
    np.testing.assert_allclose(network.normalize(jnp.asarray(images * 2.0 + 3)), normalized, atol=1e-5)
    np.testing.assert_array_equal(network.normalize(jnp.full((1, 32, 32, 3), 7, jnp.uint8)), 0)


@pytest.mark.parametrize("zero_init_last", [True, False])
def test_initial_weights_are_he_normal(zero_init_last: bool) -> None:
    weights = network_of(depth=50, width=16, zero_init_last=zero_init_last).init(0)
    for path, leaf in jax.tree_util.tree_leaves_with_path(weights.params):
        names = [key.key for key in path]
        if names[-1] == "kernel":
            std = 0.01 if names[0] == "head" else np.sqrt(2 / (leaf.shape[0] ** 2 * leaf.shape[-1]))
            assert abs(leaf.std() / std - 1) < 5 / np.sqrt(2 * leaf.size), names
            assert abs(leaf.mean()) < 5 * std / np.sqrt(leaf.size), names
        else:
            last = names[-2:] == ["norm3", "scale"]
            expected = float(names[-1] == "scale" and not (last and zero_init_last))
            np.testing.assert_array_equal(leaf, np.full(leaf.shape, expected), err_msg=str(names))
    for path, leaf in jax.tree_util.tree_leaves_with_path(weights.batch_stats):
        np.testing.assert_array_equal(leaf, np.full(leaf.shape, float(path[-1].key == "var")))


def test_bfloat16_keeps_logits_and_statistics_in_float32() -> None:
    reference = network_of(depth=18)
    network = Network(reference.architecture, Preprocessing(), 6, compute_dtype="bfloat16", convolution="lax")
    weights, images = random_weights(network), random_images(4, 32, 32)
    logits, features, stats = run(network, weights, images, train=True)
    expected, _, expected_stats = run(reference, weights, images, train=True)
    assert logits.dtype == features["pooled"].dtype == np.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(stats)} == {np.dtype(np.float32)}
    stages = {leaf.dtype for name, leaf in features.items() if name != "pooled"}
    assert stages == {jnp.dtype(jnp.bfloat16)}
    assert abs(logits - expected).max() < 0.1 * abs(expected).max()
    np.testing.assert_allclose(stats["stem_norm"]["mean"], expected_stats["stem_norm"]["mean"], atol=0.02)


def test_on_a_cpu_bfloat16_is_for_products_alone() -> None:
    reference = network_of(depth=18)
    network = Network(reference.architecture, Preprocessing(), 6, compute_dtype="bfloat16")
    assert network.convolution == "bfloat16_matmul"
    weights, images = random_weights(network), random_images(4, 32, 32)
    logits, features, _ = run(network, weights, images, train=True)
    expected, _, _ = run(reference, weights, images, train=True)
    assert {leaf.dtype for leaf in jax.tree.leaves(features)} == {np.dtype(np.float32)}
    assert 1e-5 < abs(logits - expected).max() < 0.05 * abs(expected).max()
    batch = images[:2]
    arranged = network.arrange(weights, batch.shape)
    plain, _, _ = run(network, weights, batch, train=False)
    np.testing.assert_allclose(network.predict(weights, arranged, batch), plain, atol=0.02 * abs(plain).max())


def test_auto_computes_in_float32_on_cpu_and_bfloat16_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for backend, dtype in {"cpu": "float32", "gpu": "bfloat16", "tpu": "bfloat16"}.items():
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        assert compute_dtype_here("auto") == jnp.dtype(dtype)
        assert compute_dtype_here("float32") == jnp.float32


@pytest.mark.parametrize(
    ("architecture", "least"),
    [
        (Architecture(depth=50), 32),
        (Architecture(depth=50, variant="v2", stride_in="last_block"), 32),
        (Architecture(depth=18, stem="3x3", max_pool="none"), 8),
        (Architecture(depth=20, stem="3x3", max_pool="none"), 4),
    ],
)
def test_smallest_image(architecture: Architecture, least: int) -> None:
    check_image_size(least, architecture)
    with pytest.raises(UserError, match=rf"^config\.data\.image_size={least - 1}: .*at least {least} pixels"):
        check_image_size(least - 1, architecture)
    layers = list_layers(Network(architecture, Preprocessing(image_size=least), 3))
    assert [layer.output_shape[:2] for layer in layers if "conv" in layer.name][-1] == (1, 1)
