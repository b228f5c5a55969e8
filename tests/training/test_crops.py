"""Random crops: each a part of its image, resized as Pillow does."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tests.quick_compilation import quick_jit
from training.boxes import random_boxes
from training.crops import RATIOS, random_crop, random_resized_crop, resizing_weights


def random_images(n: int, size: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, channels), np.uint8)


def test_a_random_crop_is_a_part_of_its_image_and_every_place_is_equally_likely() -> None:
    image = np.arange(49, dtype=np.uint8).reshape(1, 7, 7, 1)
    crop = quick_jit(partial(random_crop, size=5))
    crops = np.asarray(crop(jax.random.key(0), image.repeat(2000, 0)))
    assert crops.dtype == np.uint8
    rows, columns = np.divmod(crops[:, 0, 0, 0], 7)
    for crop, row, column in zip(crops, rows, columns, strict=True):
        np.testing.assert_array_equal(crop, image[0, row : row + 5, column : column + 5])
    counts = np.bincount(rows * 3 + columns, minlength=9)
    assert len(counts) == 9
    np.testing.assert_allclose(counts / 2000, 1 / 9, atol=4 * np.sqrt(8 / 81 / 2000))


def test_a_crop_of_all_pixels_is_the_image() -> None:
    images, key = random_images(3, 6), jax.random.key(0)
    np.testing.assert_array_equal(quick_jit(partial(random_crop, size=6))(key, images), images)
    crop = quick_jit(partial(random_resized_crop, size=6, smallest=1.0, ratios=(1.0, 1.0)))
    whole = crop(key, images)
    np.testing.assert_allclose(whole, images, atol=1e-3)


@pytest.mark.parametrize(("size", "resized"), [(48, 20), (24, 24), (16, 40)])
def test_a_resized_crop_equals_that_of_pillow(size: int, resized: int) -> None:
    images, key = random_images(30, size), jax.random.key(2)
    crop = quick_jit(partial(random_resized_crop, size=resized, smallest=0.08))
    bounds = {"areas": (0.08, 1), "ratios": RATIOS, "largest": size}
    boxes, _ = quick_jit(partial(random_boxes, count=30, size=size, **bounds))(key)
    crops = np.asarray(crop(key, images))
    assert crops.dtype == np.float32
    for image, result, *box in zip(images, crops, *map(np.asarray, boxes), strict=True):
        top, left, height, width = map(int, box)
        part = Image.fromarray(image).crop((left, top, left + width, top + height))
        expected = np.asarray(part.resize((resized, resized), Image.Resampling.BILINEAR))
        # Pillow rounds twice: after the columns and after the rows.
        np.testing.assert_allclose(result, expected, atol=1.01)
        assert abs(result - expected).mean() < 0.4


def test_a_matte_is_cropped_with_its_image() -> None:
    images = random_images(10, 20, channels=4)
    images[..., 3] = images[..., 0]
    crops = quick_jit(partial(random_resized_crop, size=12, smallest=0.1))(jax.random.key(0), images)
    np.testing.assert_allclose(crops[..., 3], crops[..., 0], atol=1e-3)


@pytest.mark.parametrize(("length", "resized"), [(12, 3), (5, 9), (1, 4)])
def test_weights_add_up_to_one_and_see_nothing_outside_of_the_crop(length: int, resized: int) -> None:
    weigh = quick_jit(partial(resizing_weights, size=16, resized=resized))
    weights = np.asarray(weigh(jnp.array([2]), jnp.array([length])))[0]
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-6)
    assert not weights[:, :2].any()
    assert not weights[:, 2 + length :].any()


def test_every_image_has_a_crop_of_its_own_that_the_key_fixes() -> None:
    images = random_images(1, 16).repeat(8, 0)
    for crop in (partial(random_crop, size=4), partial(random_resized_crop, size=8, smallest=0.1)):
        crops, again, others = (np.asarray(quick_jit(crop)(jax.random.key(i), images)) for i in (0, 0, 1))
        assert len(np.unique(crops, axis=0)) > 5
        np.testing.assert_array_equal(crops, again)
        assert (crops != others).any()
