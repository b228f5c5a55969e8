"""All lowerings of the convolution against its definition in NumPy, in float64."""

import itertools
import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from jax import lax
from jax.lax import fori_loop

import resnet.model
import resnet.ops.narrow
import resnet.ops.winograd
from resnet.model import ResNet
from resnet.ops.arranged import arrange_kernel, conv2d_arranged
from resnet.ops.convolution import conv2d, strided_windows
from tests.command_line import run_program
from tests.quick_compilation import quick_jit

LOWERINGS = ("lax", "matmul", "patches")


def windows(x: np.ndarray, k: int, stride: int, padding: int, *, fill: float = 0.0) -> np.ndarray:
    """Returns the pixels that every output reads: [N, out_h, out_w, C, k, k]."""
    padded = np.pad(x, ((0, 0), (padding,) * 2, (padding,) * 2, (0, 0)), constant_values=fill)
    return np.lib.stride_tricks.sliding_window_view(padded, (k, k), axis=(1, 2))[:, ::stride, ::stride]


def convolve(x: np.ndarray, kernel: np.ndarray, stride: int, padding: int) -> np.ndarray:
    return np.einsum("nhwcij,ijco->nhwo", windows(x, len(kernel), stride, padding), kernel, optimize=True)


def gradients(
    x: np.ndarray, kernel: np.ndarray, stride: int, padding: int, *, upstream: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    k = len(kernel)
    n, h, w, c = x.shape
    _, out_h, out_w, _ = upstream.shape
    padded = np.zeros((n, h + 2 * padding, w + 2 * padding, c))
    for i, j in itertools.product(range(k), repeat=2):
        rows, columns = slice(i, i + stride * out_h, stride), slice(j, j + stride * out_w, stride)
        padded[:, rows, columns][:, :out_h, :out_w] += upstream @ kernel[i, j].T
    kernel_gradient = np.einsum("nhwcij,nhwo->ijco", windows(x, k, stride, padding), upstream, optimize=True)
    return padded[:, padding : padding + h, padding : padding + w], kernel_gradient


def value_and_gradients(
    x: np.ndarray, kernel: np.ndarray, stride: int, padding: int, *, upstream: np.ndarray, lowering: str
) -> list[np.ndarray]:
    def compute(x: jax.Array, kernel: jax.Array, upstream: jax.Array) -> tuple[jax.Array, ...]:
        value, transpose = jax.vjp(
            lambda x, kernel: conv2d(x, kernel, stride=stride, padding=padding, lowering=lowering), x, kernel
        )
        return value, *transpose(upstream)

    return [np.asarray(result) for result in quick_jit(compute)(x, kernel, upstream)]


def check_in_float64(
    x_shape: tuple[int, int, int, int],
    out_features: int,
    *,
    k: int,
    stride: int,
    padding: int,
    lowering: str,
    seed: int = 0,
) -> None:
    """Compares value and both gradients of a convolution of random arrays with NumPy."""
    rng = np.random.default_rng(seed)
    x, kernel = rng.standard_normal(x_shape), rng.standard_normal((k, k, x_shape[-1], out_features))
    value = convolve(x, kernel, stride, padding)
    upstream = rng.standard_normal(value.shape)
    expected = (value, *gradients(x, kernel, stride, padding, upstream=upstream))

    with jax.enable_x64(True):
        results = value_and_gradients(x, kernel, stride, padding, upstream=upstream, lowering=lowering)
    for name, a, b in zip(("value", "input gradient", "kernel gradient"), results, expected, strict=True):
        assert a.dtype == np.float64
        assert a.shape == b.shape
        message = f"{name} of {lowering}, kernel {k}, stride {stride}, {x.shape[1]}x{x.shape[2]}"
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-11 * max(1, abs(b).max()), err_msg=message)


# Shrinking a failure would compile hundreds of shapes.
@settings(max_examples=8, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    k=st.sampled_from([1, 3, 7]),
    stride=st.sampled_from([1, 2]),
    h=st.integers(1, 11),
    w=st.integers(1, 11),
    n=st.integers(1, 3),
    c=st.integers(1, 4),
    o=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_shape(k: int, stride: int, h: int, w: int, n: int, c: int, o: int, seed: int) -> None:
    for lowering in LOWERINGS:
        check_in_float64(
            (n, h, w, c), o, k=k, stride=stride, padding=(k - 1) // 2, lowering=lowering, seed=seed
        )


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (2, 2), (2, 3), (3, 2), (3, 3), (1, 5), (6, 3)])
def test_3x3_around_the_smallest_maps(size: tuple[int, int]) -> None:
    check_in_float64((2, *size, 3), 4, k=3, stride=1, padding=1, lowering="matmul")


# 8 and 40 channels: XLA's own convolution, and Winograd's.
@pytest.mark.parametrize("shape", [(6, 9, 10, 8), (5, 8, 9, 8), (6, 9, 10, 40), (5, 7, 8, 40)])
def test_large_batches_are_worked_on_in_pieces(
    shape: tuple[int, int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    image_bytes = 8 * np.prod(shape[1:])
    monkeypatch.setattr(resnet.ops.narrow, "PIECE_BYTES", 2 * image_bytes)
    monkeypatch.setattr(resnet.ops.winograd, "PIECE_BYTES", 2 * image_bytes)
    counts = []
    monkeypatch.setattr(lax, "fori_loop", lambda *loop: counts.append(loop[1]) or fori_loop(*loop))
    check_in_float64(shape, 4, k=3, stride=1, padding=1, lowering="matmul")
    assert set(counts) == {3 if shape[0] == 6 else 5}  # Pieces are equal: 5 images make 5 pieces.


def test_pieces_leave_images_on_their_devices() -> None:
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }
    result = run_program("-m", "tests.resnet.ops.pieces_on_devices", environment=environment)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(("k", "stride", "padding"), [(3, 1, 0), (3, 2, 0), (1, 1, 1), (5, 3, 2), (2, 2, 0)])
def test_kernels_and_paddings_that_no_resnet_has(k: int, stride: int, padding: int) -> None:
    for lowering in LOWERINGS:
        check_in_float64((2, 7, 8, 3), 2, k=k, stride=stride, padding=padding, lowering=lowering)


@pytest.mark.parametrize(
    ("batch", "size", "channels", "k", "stride", "expected"),
    [
        (32, 16, 64, 3, 1, True),  # stage 1 of ResNet-50 at 64x64
        (32, 64, 3, 7, 2, True),  # its stem
        (256, 16, 64, 3, 1, False),
        (256, 4, 256, 3, 1, True),
        (256, 224, 3, 7, 2, False),
        (256, 56, 64, 3, 1, False),
        (256, 56, 256, 1, 1, True),  # One product reads the map itself.
    ],
)
def test_patches_are_for_maps_whose_patches_stay_in_the_cache(
    batch: int, size: int, channels: int, k: int, stride: int, expected: bool
) -> None:
    x = jax.ShapeDtypeStruct((batch, size, size, channels), jnp.bfloat16)
    kernel = jax.ShapeDtypeStruct((k, k, channels, 64), jnp.bfloat16)
    options = {"stride": stride, "padding": k // 2, "lowering": "patches"}
    program = str(jax.make_jaxpr(partial(conv2d, **options))(x, kernel))
    assert ("dot_general" in program, "conv_general_dilated" in program) == (expected, not expected)


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize(("k", "stride", "groups"), [(3, 1, 2), (3, 2, 3), (1, 1, 6)])
def test_groups_are_convolutions_side_by_side(k: int, stride: int, groups: int, lowering: str) -> None:
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((2, 7, 6, 6)), rng.standard_normal((k, k, 6 // groups, 12))
    parts = zip(np.split(x, groups, -1), np.split(kernel, groups, -1), strict=True)
    expected = np.concatenate([convolve(*part, stride, k // 2) for part in parts], axis=-1)
    options = {"stride": stride, "padding": k // 2, "groups": groups, "lowering": lowering}
    with jax.enable_x64(True):
        output = quick_jit(partial(conv2d, **options))(x, kernel)
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-12 * abs(expected).max())


@pytest.fixture(scope="module")
def convolutions() -> set[tuple[int, int, int, int]]:
    """Returns (kernel, stride, padding, map size) of ResNet-18 and 50 for images of 64 and 224 pixels."""
    shapes = set()

    def record(
        x: jax.Array, kernel: jax.Array, *, stride: int, padding: int, groups: int, lowering: str
    ) -> jax.Array:
        assert groups == 1
        assert x.shape[1] == x.shape[2]
        shapes.add((kernel.shape[0], stride, padding, x.shape[1]))
        return conv2d(x, kernel, stride=stride, padding=padding, lowering="lax")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resnet.model, "conv2d", record)
        for depth, variant, size in itertools.product((18, 50), ("v1", "v1.5"), (64, 224)):
            images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
            network = ResNet(depth, 6, width=8, variant=variant, rng=None)
            jax.eval_shape(lambda x, network=network: network(x, train=False)[0], images)
    return shapes


def test_every_convolution_of_resnet_18_and_50(convolutions: set[tuple[int, int, int, int]]) -> None:
    assert {(7, 2, 3, 64), (7, 2, 3, 224), (3, 1, 1, 2), (3, 2, 1, 56), (1, 2, 0, 4)} <= convolutions
    for k, stride, padding, size in sorted(convolutions):
        check_in_float64((1, size, size, 3), 2, k=k, stride=stride, padding=padding, lowering="matmul")


@given(
    k=st.sampled_from([1, 3, 7]),
    stride=st.sampled_from([1, 2]),
    size=st.sampled_from([(1, 1), (2, 2), (4, 3), (7, 7), (12, 9)]),
    n=st.sampled_from([1, 5]),
    c=st.sampled_from([3, 16, 64]),
    lowering=st.sampled_from(LOWERINGS),
)
@settings(max_examples=25, deadline=None, phases=[Phase.explicit, Phase.generate])
def test_arranged_kernel_gives_the_same(
    k: int, stride: int, size: tuple[int, int], n: int, c: int, lowering: str
) -> None:
    """Covers few and many output pixels, few channels, Winograd's transform and XLA's own convolution."""
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((n, *size, c)), rng.standard_normal((k, k, c, 5))
    options = {"stride": stride, "padding": (k - 1) // 2, "lowering": lowering}
    arranged = arrange_kernel(jnp.asarray(kernel, jnp.float32), x.shape, **options)
    output = quick_jit(lambda x, arranged: conv2d_arranged(x, arranged, kernel.shape, **options))(
        x.astype(np.float32), arranged
    )
    expected = convolve(x, kernel, stride, (k - 1) // 2)
    np.testing.assert_allclose(output, expected, atol=2e-5 * k * c**0.5)


@pytest.mark.parametrize(("k", "stride", "size"), [(1, 2, 9), (3, 1, 2), (3, 1, 8), (3, 2, 8), (7, 2, 16)])
def test_float32_lowerings_agree_within_rounding(k: int, stride: int, size: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, size, size, 64), np.float32)
    kernel = rng.standard_normal((k, k, 64, 32), np.float32)
    expected = convolve(x.astype(np.float64), kernel.astype(np.float64), stride, (k - 1) // 2)
    for lowering in LOWERINGS:
        options = {"stride": stride, "padding": (k - 1) // 2, "lowering": lowering}
        output = quick_jit(partial(conv2d, **options))(x, kernel)
        assert output.dtype == jnp.float32
        np.testing.assert_allclose(output, expected, rtol=0, atol=3e-6 * abs(expected).max())


@pytest.mark.parametrize(
    ("k", "stride", "size"), [(1, 1, 4), (1, 2, 9), (3, 1, 2), (3, 1, 8), (3, 2, 8), (7, 2, 16)]
)
def test_products_of_bfloat16_are_exact_for_numbers_that_it_holds(k: int, stride: int, size: int) -> None:
    """Small whole numbers, and the halves and quarters of them in Winograd's transform."""
    rng = np.random.default_rng(0)
    padding = (k - 1) // 2
    x, kernel = (
        rng.integers(-2, 3, shape).astype(np.float32) for shape in ((2, size, size, 64), (k, k, 64, 8))
    )
    value = convolve(x.astype(np.float64), kernel, stride, padding)
    upstream = rng.integers(-2, 3, value.shape).astype(np.float32)
    expected = (value, *gradients(x, kernel, stride, padding, upstream=upstream))
    results = value_and_gradients(x, kernel, stride, padding, upstream=upstream, lowering="bfloat16_matmul")
    for a, b in zip(results, expected, strict=True):
        assert a.dtype == np.float32
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("k", "size"), [(1, 4), (3, 2), (3, 8), (7, 16)])
def test_products_of_bfloat16_round_what_they_multiply(k: int, size: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, size, size, 64), np.float32)
    kernel = rng.standard_normal((k, k, 64, 8), np.float32)
    value = convolve(x.astype(np.float64), kernel, 1, (k - 1) // 2)
    upstream = rng.standard_normal(value.shape, np.float32)
    expected = (value, *gradients(x, kernel, 1, (k - 1) // 2, upstream=upstream))
    results = value_and_gradients(x, kernel, 1, (k - 1) // 2, upstream=upstream, lowering="bfloat16_matmul")
    errors = [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(results, expected, strict=True)]
    assert 1e-3 < errors[0] < 1e-2
    assert 1e-3 < errors[1] < 1e-2
    assert errors[2] < 1e-5  # The gradient for the kernel is a product of float32.


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_result_has_the_dtype_of_the_input(lowering: str) -> None:
    x = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.bfloat16)
    for k, stride in itertools.product((1, 3, 7), (1, 2)):
        kernel = jax.ShapeDtypeStruct((k, k, 3, 2), jnp.bfloat16)

        def convolution(x: jax.Array, kernel: jax.Array, k: int = k, stride: int = stride) -> jax.Array:
            return conv2d(x, kernel, stride=stride, padding=(k - 1) // 2, lowering=lowering)

        assert jax.eval_shape(convolution, x, kernel).dtype == jnp.bfloat16


def primitives(x_shape: tuple[int, ...], kernel_shape: tuple[int, ...], padding: int) -> str:
    x, kernel = np.zeros(x_shape, np.float32), np.zeros(kernel_shape, np.float32)
    return str(jax.make_jaxpr(lambda x: conv2d(x, kernel, stride=1, padding=padding))(x))


def test_auto_is_products_on_cpu_and_gpu_and_lax_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for backend, has_convolution in {"cpu": False, "gpu": False, "tpu": True}.items():
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        assert ("conv_general_dilated" in primitives((1, 8, 8, 3), (7, 7, 3, 2), 3)) is has_convolution


# Few channels


@pytest.mark.parametrize(
    ("size", "stride"), [((8, 8), 1), ((9, 12), 1), ((8, 10), 2), ((9, 11), 2), ((10, 8), 3)]
)
def test_3x3_with_few_channels(size: tuple[int, int], stride: int) -> None:
    check_in_float64((2, *size, 5), 4, k=3, stride=stride, padding=1, lowering="matmul")


@pytest.mark.parametrize(("c", "o", "stride"), [(16, 16, 1), (16, 32, 2)])
def test_few_channels_agree_with_lax_within_float32_rounding(c: int, o: int, stride: int) -> None:
    """The layers of the networks for CIFAR-10."""
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((4, 16, 16, c), np.float32), rng.standard_normal((3, 3, c, o), np.float32)
    upstream = rng.standard_normal((4, 16 // stride, 16 // stride, o), np.float32)

    def value_and_gradients(lowering: str) -> tuple[jax.Array, ...]:
        options = {"stride": stride, "padding": 1, "lowering": lowering}
        value, transpose = jax.vjp(partial(conv2d, **options), x, kernel)
        return value, *transpose(upstream)

    results = (quick_jit(partial(value_and_gradients, lowering))() for lowering in ("lax", "matmul"))
    for a, b in zip(*results, strict=True):
        assert a.dtype == b.dtype == jnp.float32
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * abs(b).max())


def test_only_few_channels_on_larger_maps_use_xlas_convolution_on_cpu() -> None:
    assert "conv_general_dilated" in primitives((1, 8, 8, 16), (3, 3, 16, 32), 1)
    assert "conv_general_dilated" not in primitives((1, 8, 8, 32), (3, 3, 32, 32), 1)
    assert "conv_general_dilated" not in primitives((1, 7, 8, 16), (3, 3, 16, 16), 1)


def test_gradients_of_several_networks_at_once_are_those_of_each() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 2, 8, 8, 4), np.float32)
    kernel = rng.standard_normal((2, 3, 3, 4, 3), np.float32)

    def gradients(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
        def loss(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return (conv2d(x, kernel, stride=1, padding=1, lowering="matmul") ** 2).sum()

        return jax.grad(loss, (0, 1))(x, kernel)

    together = quick_jit(jax.vmap(gradients))(x, kernel)
    alone = [quick_jit(gradients)(*pair) for pair in zip(x, kernel, strict=True)]
    for a, b in zip(together, zip(*alone, strict=True), strict=True):
        np.testing.assert_allclose(a, np.stack(b), rtol=0, atol=1e-5 * abs(a).max())


# Windows


@pytest.mark.parametrize(("k", "stride", "padding"), [(3, 2, 1), (7, 2, 3), (3, 1, 0), (3, 3, 1), (2, 2, 0)])
@pytest.mark.parametrize("size", [(7, 8), (8, 7), (9, 9)])
def test_strided_windows(k: int, stride: int, padding: int, size: tuple[int, int]) -> None:
    x = np.random.default_rng(0).standard_normal((2, *size, 3), np.float32)
    views = quick_jit(lambda x: strided_windows(x, k, stride=stride, padding=padding, fill=-5.0))(x)
    expected = np.moveaxis(windows(x, k, stride, padding, fill=-5.0), (4, 5), (0, 1))
    np.testing.assert_array_equal(np.stack(views), expected.reshape(k * k, *views[0].shape))
