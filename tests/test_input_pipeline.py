"""Order, batches and augmentation: what an epoch shows of each image, and how it changes them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

import input_pipeline
from configs import default
from datasets.types import Split
from errors import UserError
from input_pipeline import (
    augment,
    augmentation_key,
    check_visible_devices,
    epoch_permutation,
    evaluation_batches,
    make_mesh,
    put_on_devices,
    steps_per_epoch,
    training_batch,
)

# Compiling takes nearly all of these tests' time: little optimisation makes it several times faster.
quick_jit = partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
)


def numbered_split(count: int) -> Split:
    """Images whose every pixel is their number, with labels that are ten times that."""
    images = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 4, 4, 3)).copy()
    return Split(images, 10 * np.arange(count, dtype=np.int32))


# Order and batches


def test_permutations_depend_on_seed_and_epoch_alone() -> None:
    orders = {(s, e): np.asarray(epoch_permutation(s, e, 50)) for s in (0, 1) for e in (0, 1, 2)}
    for order in orders.values():
        np.testing.assert_array_equal(np.sort(order), np.arange(50))
    assert len({tuple(order) for order in orders.values()}) == len(orders)
    np.testing.assert_array_equal(epoch_permutation(1, 2, 50), orders[1, 2])
    np.testing.assert_array_equal(jax.jit(epoch_permutation, static_argnums=2)(1, 2, 50), orders[1, 2])


def test_augmentation_draws_differ_from_those_of_the_order_and_between_seeds() -> None:
    keys = [augmentation_key(seed) for seed in (0, 1)] + [jax.random.key(seed) for seed in (0, 1)]
    assert len({tuple(np.asarray(jax.random.key_data(key))) for key in keys}) == 4


def test_an_epoch_shows_each_image_once_and_drops_the_remainder_alone() -> None:
    split, batch_size = numbered_split(23), 5
    mesh = make_mesh(batch_size)
    device_split = put_on_devices(split, mesh)
    permutation = epoch_permutation(3, 0, 23)
    batch = jax.jit(partial(training_batch, batch_size=batch_size, mesh=mesh))
    steps = steps_per_epoch(split, batch_size)
    assert steps == 4
    seen = []
    for index in range(steps):
        images, labels = batch(device_split, permutation, index)
        assert images.shape == (5, 4, 4, 3)
        assert images.dtype == jnp.uint8
        numbers = np.asarray(images)[:, 0, 0, 0]
        np.testing.assert_array_equal(images, split.images[numbers])
        np.testing.assert_array_equal(labels, split.labels[numbers])
        seen.extend(numbers)
    np.testing.assert_array_equal(seen, permutation[:20])


def test_steps_per_epoch_needs_a_full_batch() -> None:
    assert steps_per_epoch(numbered_split(7), 7) == 1
    with pytest.raises(
        UserError, match=r"^config\.batch_size=8: larger than the 7 training images; expected at most"
    ):
        steps_per_epoch(numbered_split(7), 8)


def test_mesh_needs_a_batch_that_divides_over_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices() * 3)
    count = len(jax.local_devices())
    with pytest.raises(
        UserError,
        match=rf"^config\.batch_size={count + 1}: does not divide over {count} devices;"
        rf" expected a multiple of {count}$",
    ):
        make_mesh(count + 1)
    assert make_mesh(2 * count).shape == {input_pipeline.BATCH_AXIS: count}


def test_more_gpus_than_there_are_is_an_error() -> None:
    check_visible_devices("")
    with pytest.raises(UserError, match=r"^config\.gpu\.visible_devices=0,1: names 2 GPUs, but JAX sees 0;"):
        check_visible_devices("0,1")


@pytest.mark.parametrize(("count", "shape"), [(7, (3, 3)), (6, (2, 3)), (2, (1, 3)), (0, (0, 3))])
def test_evaluation_batches_hold_every_image_once(count: int, shape: tuple[int, int]) -> None:
    images = numbered_split(count).images + 1
    batches = evaluation_batches(images, 3)
    assert batches.shape == (*shape, 4, 4, 3)
    assert batches.dtype == np.uint8
    flat = batches.reshape(-1, 4, 4, 3)
    np.testing.assert_array_equal(flat[:count], images)
    assert not flat[count:].any()


# Augmentation


def strengths(**fields: float) -> ConfigDict:
    """The augmentation with everything off but `fields`."""
    config = default.get_config().augment
    config.update(dict.fromkeys(config, 0.0))
    config.update(fields)
    return config


def augmented(images: np.ndarray, seed: int = 0, **fields: float) -> np.ndarray:
    result = quick_jit(partial(augment, config=strengths(**fields)))(jax.random.key(seed), images)
    assert result.dtype == jnp.float32
    assert result.shape == images.shape
    return np.asarray(result)


def random_images(n: int, low: int = 0, high: int = 256, size: tuple[int, int] = (6, 6)) -> np.ndarray:
    return np.random.default_rng(0).integers(low, high, (n, *size, 3), np.uint8)


def test_strengths_of_zero_change_nothing() -> None:
    images = random_images(5)
    np.testing.assert_array_equal(augmented(images), images)


@pytest.mark.parametrize("probability", [0.3, 1.0])
def test_flip_mirrors_the_configured_share(probability: float) -> None:
    images = random_images(400)
    result = augmented(images, flip=probability)
    flipped = (result == images[:, :, ::-1]).all((1, 2, 3))
    assert (flipped | (result == images).all((1, 2, 3))).all()
    assert abs(flipped.mean() - probability) <= 4 * np.sqrt(probability * (1 - probability) / 400)


def test_brightness_shifts_an_image_by_one_amount() -> None:
    images = random_images(200, 60, 190)
    shift = augmented(images, brightness=0.2) - images
    amount = shift.mean((1, 2, 3))
    np.testing.assert_allclose(shift, np.broadcast_to(amount[:, None, None, None], shift.shape), atol=1e-3)
    assert 0.9 * 51 < amount.max() <= 51.001
    assert -51.001 <= amount.min() < 0.9 * -51


def test_contrast_scales_about_the_mean_of_the_image() -> None:
    images = random_images(200, 90, 160)
    result = augmented(images, contrast=0.5)
    mean = images.mean((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(result.mean((1, 2, 3), keepdims=True), mean, rtol=1e-5)
    factor = result.std((1, 2, 3), keepdims=True) / images.std((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(result, mean + (images - mean) * factor, atol=1e-2)
    assert 0.5 <= factor.min() < 0.55
    assert 1.45 < factor.max() <= 1.5001


def test_channel_gain_scales_every_channel_by_its_own() -> None:
    images = random_images(200, 60, 190)
    gain = augmented(images, channel_gain=0.2) / images
    each = gain[:, :1, :1]
    np.testing.assert_allclose(gain, np.broadcast_to(each, gain.shape), rtol=1e-5)
    assert 0.8 <= each.min() < 0.82
    assert 1.18 < each.max() <= 1.2001
    assert (np.ptp(each, axis=3) > 1e-4).all()


def test_colours_stay_in_range() -> None:
    images = random_images(50)
    result = augmented(images, brightness=1.0, contrast=1.0, channel_gain=1.0)
    assert result.min() == 0
    assert result.max() == 255


def test_cutout_greys_a_square_that_the_border_may_clip() -> None:
    images = random_images(300, 0, 100, size=(16, 16))
    result = augmented(images, cutout=0.25)
    cut = (result == 127.5).all(3)
    np.testing.assert_array_equal(result[~cut], images[~cut])
    whole = 0
    for mask in cut:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert mask.sum() == len(rows) * len(columns)
        for side in (rows, columns):
            assert 2 <= len(side) <= 4
            assert len(side) == 4 or side[0] == 0 or side[-1] == 15
        whole += mask.sum() == 16
    assert whole > 100
    # Centres are uniform: the middle of the image is covered as often as its area says.
    assert abs(cut[:, 8, 8].mean() - 1 / 16) < 4 * np.sqrt(1 / 16 / 300)


# Geometry


def bilinear(image: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Samples `image` [H, W, C] at positions in pixels from the first one's centre, edges extended."""
    h, w, _ = image.shape
    row, column = np.clip(row, 0, h - 1), np.clip(column, 0, w - 1)
    weights_of_rows = np.maximum(0, 1 - abs(row[..., None] - np.arange(h)))
    weights_of_columns = np.maximum(0, 1 - abs(column[..., None] - np.arange(w)))
    return np.einsum("ijh,ijw,hwc->ijc", weights_of_rows, weights_of_columns, image.astype(np.float64))


def rotated(image: np.ndarray, angle: float, zoom: float, shift: tuple[float, float]) -> np.ndarray:
    """`image` [S, S, C] turned about its centre, enlarged, and sampled `shift` pixels away."""
    size = len(image)
    i, j = np.indices((size, size)) - (size - 1) / 2
    row = (np.cos(angle) * i - np.sin(angle) * j) / zoom + shift[0]
    column = (np.sin(angle) * i + np.cos(angle) * j) / zoom + shift[1]
    return bilinear(image, row + (size - 1) / 2, column + (size - 1) / 2)


def resampled(images: np.ndarray, matrix: list[list[float]]) -> np.ndarray:
    affine = np.broadcast_to(np.float32(matrix), (len(images), 2, 3))
    return np.asarray(quick_jit(input_pipeline._resample)(images.astype(np.float32), affine))


def test_resampling_in_place() -> None:
    images = random_images(2, size=(5, 8))
    np.testing.assert_allclose(resampled(images, [[1, 0, 0], [0, 1, 0]]), images, atol=1e-3)


def test_translation_by_whole_pixels_extends_the_edges() -> None:
    images = random_images(2, size=(5, 8))
    found = resampled(images, [[1, 0, 2 * 2 / 5], [0, 1, -3 * 2 / 8]])
    extended = np.pad(images, ((0, 0), (0, 2), (3, 0), (0, 0)), mode="edge")
    np.testing.assert_allclose(found, extended[:, 2:, :8], atol=1e-2)


@pytest.mark.parametrize("size", [6, 7])
def test_quarter_and_half_turns(size: int) -> None:
    images = random_images(2, size=(size, size))
    turned = resampled(images, [[0, -1, 0], [1, 0, 0]])
    np.testing.assert_allclose(turned, np.rot90(images, -1, axes=(1, 2)), atol=1e-2)
    turned = resampled(images, [[-1, 0, 0], [0, -1, 0]])
    np.testing.assert_allclose(turned, np.rot90(images, 2, axes=(1, 2)), atol=1e-2)


def test_any_turn_zoom_and_shift_equals_numpy() -> None:
    image = random_images(1, size=(9, 9))
    angle, zoom, shift = 0.4, 1.7, (1.3, -0.6)
    cosine, sine = np.cos(angle) / zoom, np.sin(angle) / zoom
    found = resampled(image, [[cosine, -sine, shift[0] * 2 / 9], [sine, cosine, shift[1] * 2 / 9]])
    np.testing.assert_allclose(found[0], rotated(image[0], angle, zoom, shift), atol=1e-2)


def draws(**fields: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Angles, zooms and shifts of 500 draws, read from their matrices."""
    affine = input_pipeline._random_affine(jax.random.key(0), 500, strengths(**fields))
    matrix = np.asarray(affine, np.float64)
    np.testing.assert_allclose(matrix[:, 0, 0], matrix[:, 1, 1])
    np.testing.assert_allclose(matrix[:, 0, 1], -matrix[:, 1, 0])
    return (
        np.arctan2(matrix[:, 1, 0], matrix[:, 0, 0]),
        1 / np.hypot(matrix[:, 0, 0], matrix[:, 1, 0]),
        matrix[:, :, 2],
    )


def test_strengths_bound_the_geometry() -> None:
    angle, zoom, shift = draws(rotation=30.0)
    assert 0.95 * np.pi / 6 < angle.max() < 1.0001 * np.pi / 6
    assert 0.95 * np.pi / 6 < -angle.min() < 1.0001 * np.pi / 6
    np.testing.assert_allclose(zoom, 1, rtol=1e-6)
    assert not shift.any()

    angle, zoom, shift = draws(scale=0.5)
    assert 1.45 < zoom.max() < 1.5001
    assert 1.45 < 1 / zoom.min() < 1.5001
    assert not angle.any()
    assert not shift.any()

    angle, zoom, shift = draws(translation=0.1)
    # A tenth of the image's side, which is 2 long here.
    assert 0.19 < shift.max() < 0.2001
    assert 0.19 < -shift.min() < 0.2001
    assert (shift[:, 0] != shift[:, 1]).all()
    assert not angle.any()


def test_geometry_of_an_augmented_image_is_that_of_its_draw() -> None:
    images = random_images(3, size=(9, 9))
    fields = {"rotation": 40.0, "scale": 0.3, "translation": 0.2}
    found = augmented(images, seed=5, **fields)
    key = jax.random.split(jax.random.key(5), 4)[0]
    for image, matrix, result in zip(
        images, input_pipeline._random_affine(key, 3, strengths(**fields)), found, strict=True
    ):
        angle, zoom = np.arctan2(matrix[1, 0], matrix[0, 0]), 1 / np.hypot(matrix[0, 0], matrix[1, 0])
        expected = rotated(image, angle, zoom, (matrix[0, 2] * 4.5, matrix[1, 2] * 4.5))
        np.testing.assert_allclose(result, expected, atol=2e-2)


# Draws


EVERYTHING = {
    "flip": 0.5, "rotation": 15.0, "scale": 0.15, "translation": 0.1,
    "brightness": 0.15, "contrast": 0.2, "channel_gain": 0.1, "cutout": 0.2,
}  # fmt: skip


def test_every_strength_is_covered() -> None:
    assert set(EVERYTHING) == set(default.get_config().augment)


@pytest.mark.parametrize("name", [name for name in EVERYTHING if name != "flip"])
def test_images_of_a_batch_have_draws_of_their_own(name: str) -> None:
    images = np.repeat(random_images(1, 60, 190, size=(16, 16)), 4, axis=0)
    result = augmented(images, **{name: EVERYTHING[name]})
    assert len({image.tobytes() for image in result}) == 4


def test_a_key_fixes_every_bit() -> None:
    images = random_images(4, size=(16, 16))
    first, again, other = (augmented(images, seed, **EVERYTHING) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first, again)
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
