"""TrivialAugment and RandAugment: each operation against Pillow's, and which ones are drawn."""

from collections.abc import Callable
from functools import cache, partial

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image, ImageEnhance, ImageOps

from tests.quick_compilation import quick_jit
from training.policies import Operation, apply_operations, apply_policy, strength_of, strongest_of

SIZE = 24
apply = quick_jit(apply_operations)


def pictures() -> np.ndarray:
    """Returns uint8 [8, S, S, 3] of all kinds of histograms, some smooth, one of a single value."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (8, SIZE, SIZE, 3))
    ramp = np.linspace(20, 220, SIZE)[:, None, None] + rng.normal(0, 8, (SIZE, SIZE, 3))
    images = [noise[0], noise[1] // 4 + 90, noise[2] // 128 * 255, ramp, ramp[::-1] // 2, noise[5] ** 2 / 255]
    images += [np.full((SIZE, SIZE, 3), 77), np.where(noise[7] > 128, ramp, 250)]
    return np.stack(images).clip(0, 255).astype(np.uint8)


def affine(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST)


PILLOW = {
    Operation.IDENTITY: lambda image, _: image,
    Operation.SHEAR_X: lambda image, s: affine(image, 1, s, 0, 0, 1, 0),
    Operation.SHEAR_Y: lambda image, s: affine(image, 1, 0, 0, s, 1, 0),
    Operation.TRANSLATE_X: lambda image, s: affine(image, 1, 0, -int(s), 0, 1, 0),
    Operation.TRANSLATE_Y: lambda image, s: affine(image, 1, 0, 0, 0, 1, -int(s)),
    Operation.ROTATE: lambda image, s: image.rotate(s),
    Operation.BRIGHTNESS: lambda image, s: ImageEnhance.Brightness(image).enhance(1 + s),
    Operation.COLOR: lambda image, s: ImageEnhance.Color(image).enhance(1 + s),
    Operation.CONTRAST: lambda image, s: ImageEnhance.Contrast(image).enhance(1 + s),
    Operation.SHARPNESS: lambda image, s: ImageEnhance.Sharpness(image).enhance(1 + s),
    Operation.POSTERIZE: lambda image, s: ImageOps.posterize(image, 8 - round(s)),
    Operation.SOLARIZE: lambda image, s: ImageOps.solarize(image, 255 - s),
    Operation.AUTO_CONTRAST: lambda image, _: ImageOps.autocontrast(image),
    Operation.EQUALIZE: lambda image, _: ImageOps.equalize(image),
}
STRENGTHS = {
    **dict.fromkeys((Operation.SHEAR_X, Operation.SHEAR_Y), (0.13, 0.99, -0.5)),
    **dict.fromkeys((Operation.TRANSLATE_X, Operation.TRANSLATE_Y), (3.7, -9.9, 32.0)),
    Operation.ROTATE: (13.5, -31.3, 90.0, 121.5),
    **dict.fromkeys(range(Operation.BRIGHTNESS, Operation.POSTERIZE), (0.297, 0.99, -0.5, -0.99)),
    Operation.POSTERIZE: (0.0, 1.2, 6.0),
    Operation.SOLARIZE: (0.0, 17.0, 93.5, 255.0),
}


@pytest.mark.parametrize("operation", Operation)
def test_operations_equal_those_of_pillow(operation: Operation) -> None:
    images = pictures()
    for strength in STRENGTHS.get(operation, (0.0,)):
        result = apply(np.float32(images), np.full(8, operation), np.full(8, strength, np.float32))
        peers = np.stack([PILLOW[operation](Image.fromarray(image), strength) for image in images])
        difference = abs(np.asarray(result) - peers)
        if operation <= Operation.ROTATE:
            # Where a pixel falls on the border between two others, rounding decides.
            assert (difference.any(-1)).mean() < 0.005
        else:
            assert difference.max() <= 1
            # Pillow's floats fall one short of some whole numbers.
            assert (difference > 0).mean() < 0.06


def test_each_image_has_its_own_operation_and_its_matte_follows_the_geometry_alone() -> None:
    image = pictures()[3].astype(np.float32)
    with_matte = np.concatenate([image, image[..., :1]], axis=-1)[None].repeat(14, 0)
    strength = np.float32([0, 0.5, 0.5, 5, 5, 30, 0.5, 0.5, 0.5, 0.5, 3, 100, 0, 0])
    result = np.asarray(apply(with_matte, np.arange(14), strength))
    for operation in Operation:
        alone = apply(image[None], np.array([operation]), strength[operation : operation + 1])
        np.testing.assert_array_equal(result[operation, ..., :3], alone[0])
        is_geometric = Operation.SHEAR_X <= operation <= Operation.ROTATE
        matte = result[operation, ..., 0] if is_geometric else image[..., 0]
        np.testing.assert_array_equal(result[operation, ..., 3], matte)


@cache
def compiled(policy: str, operations: int) -> Callable[..., jax.Array]:
    fields = {"policy": policy, "policy_operations": operations, "policy_magnitude": 9.0}
    return quick_jit(partial(apply_policy, config=ConfigDict(fields)))


def applied(images: np.ndarray, seed: int = 0, policy: str = "trivial", operations: int = 2) -> np.ndarray:
    return np.asarray(compiled(policy, operations)(jax.random.key(seed), images))


def changes_of(image: np.ndarray, strengths: dict[Operation, list[float]]) -> dict[Operation, set[bytes]]:
    """Returns for each operation what it may make of `image` [S, S, 3]."""
    pairs = [(name, strength) for name, values in strengths.items() for strength in values]
    names, values = map(np.array, zip(*pairs, strict=True))
    results = np.asarray(apply(np.float32(image)[None].repeat(len(pairs), 0), names, np.float32(values)))
    changes: dict[Operation, set[bytes]] = {name: set() for name in strengths}
    for (name, _), result in zip(pairs, results, strict=True):
        changes[name].add(result.tobytes())
    return changes


def test_rand_draws_all_operations_equally_often_and_both_directions() -> None:
    image = pictures()[3]
    magnitude = np.full(14, 9, np.float32)
    strength = np.asarray(strength_of(np.arange(14), magnitude, strongest_of("rand", SIZE)))
    signed = range(Operation.SHEAR_X, Operation.POSTERIZE)
    directions = {name: [strength[name], -strength[name]][: 1 + (name in signed)] for name in Operation}
    changes = changes_of(image, directions)
    count = 700
    results = applied(np.float32(image)[None].repeat(count, 0), policy="rand", operations=1)
    seen = [result.tobytes() for result in results]
    for name, expected in changes.items():
        assert len(expected) == len(directions[name])
        for change in expected:
            share = 1 / 14 / len(expected)
            assert abs(seen.count(change) / count - share) < 4 * np.sqrt(share / count), name


def test_trivial_draws_every_magnitude() -> None:
    results = applied(np.full((4000, 4, 4, 3), 100, np.float32))
    # Of a uniform image only brightness, posterize, solarize and empty corners change the centre.
    values = set(np.unique(results[:, 2, 2]))
    levels = np.arange(31) / 30
    brightness = {np.floor(100 * (1 + sign * 0.99 * level)) for level in levels for sign in (1, -1)}
    assert len(brightness) > 55
    assert brightness <= {value + off for value in values for off in (-1, 0, 1)}
    assert values <= {value + off for value in brightness for off in (-1, 0, 1)} | {0, 64, 96, 155}


def test_operations_in_a_row_are_drawn_apart() -> None:
    images = np.float32(pictures()[3])[None].repeat(300, 0)
    once, twice = (applied(images, policy="rand", operations=count) for count in (1, 2))
    # 14 operations, nine of which go two ways: 23 in all, but nearly as many pairs as there are images.
    assert len({image.tobytes() for image in once}) <= 23
    assert len({image.tobytes() for image in twice}) > 100


def test_a_key_fixes_the_policy_and_values_are_rounded_first() -> None:
    images = pictures().astype(np.float32)
    first, again, others = applied(images), applied(images + 0.3), applied(images, seed=1)
    np.testing.assert_array_equal(first, again)
    assert (first != others).any()
