"""Augmentation: how images change, by how much, and that each has draws of its own."""

from collections.abc import Callable
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import default
from resnet.errors import UserError
from tests.quick_compilation import quick_jit
from training import augment as augment_module
from training.augment import augment
from training.draws import Draw


def strengths(**fields: float | str) -> ConfigDict:
    """The augmentation with everything off but `fields`."""
    config = default.get_config().augment
    config.update({name: type(value)(0) for name, value in config.items() if not name.startswith("policy")})
    config.appearance = 1.0
    config.update(fields)
    return config


@cache
def compiled(size: int | None, **fields: float | str) -> Callable[..., jax.Array]:
    return quick_jit(partial(augment, config=strengths(**fields), size=size))


def augmented(
    images: np.ndarray, seed: int = 0, *, size: int | None = None, **fields: float | str
) -> np.ndarray:
    result = compiled(size, **fields)(jax.random.key(seed), images)
    assert result.dtype == jnp.float32
    assert result.shape == (len(images), *([size] * 2 if size else images.shape[1:3]), 3)
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
    gains = gain[:, :1, :1]
    np.testing.assert_allclose(gain, np.broadcast_to(gains, gain.shape), rtol=1e-5)
    assert 0.8 <= gains.min() < 0.82
    assert 1.18 < gains.max() <= 1.2001
    assert (np.ptp(gains, axis=3) > 1e-4).all()


def test_colours_stay_in_range() -> None:
    images = random_images(50)
    result = augmented(images, brightness=1.0, contrast=1.0, channel_gain=1.0)
    assert result.min() == 0
    assert result.max() == 255


def test_saturation_moves_colours_between_grey_and_twice_their_distance_from_it() -> None:
    images = random_images(200, 90, 160)
    result = augmented(images, saturation=1.0)
    grey = images.mean(-1, keepdims=True)
    np.testing.assert_allclose(result.mean(-1, keepdims=True), grey, rtol=1e-5)
    factor = (result - grey).std((1, 2, 3), keepdims=True) / (images - grey).std((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(result, grey + (images - grey) * factor, atol=1e-2)
    assert factor.min() < 0.05
    assert 1.9 < factor.max() <= 2.0001


def test_levels_keep_the_order_of_tones_and_move_black_and_white_at_most_so_far() -> None:
    ramp = np.repeat(np.linspace(0, 255, 16).round().astype(np.uint8), 3).reshape(1, 4, 4, 3)
    result = augmented(np.repeat(ramp, 400, axis=0), levels=0.6).reshape(400, 16, 3)
    np.testing.assert_array_equal(result[..., :1], result[..., 1:2])
    tones = result[..., 0]
    assert (np.diff(tones) > 0).all()
    black, white = tones[:, 0], tones[:, -1]
    assert 0.4 * 255 - 0.01 <= (white - black).min() < 0.5 * 255
    assert (black >= 0).all()
    assert black.max() > 0.3 * 255
    assert (white <= 255.001).all()
    assert white.min() < 0.7 * 255
    middle = (tones[:, 8] - black) / (white - black)
    power = np.log(middle) / np.log(ramp.reshape(16, 3)[8, 0] / 255)
    assert 0.95 * 0.6 < np.log(power).max() < 0.601
    assert 0.95 * 0.6 < -np.log(power).min() < 0.601


def test_noise_is_bounded_even_and_of_another_strength_for_every_image() -> None:
    images = np.full((400, 8, 8, 3), 128, np.uint8)
    change = augmented(images, noise=0.3) - images
    most = abs(change).max((1, 2, 3))
    assert 0.9 * 0.3 * 255 < most.max() <= 0.3 * 255 + 0.01
    assert np.median(most) < 0.25 * 0.3 * 255
    strongest = change[most.argmax()] / most.max()
    assert abs(strongest.mean()) < 0.2
    assert abs((strongest**2).mean() - 1 / 3) < 0.1  # as of an even distribution


def test_veil_mixes_in_at_most_the_configured_share() -> None:
    images = np.zeros((400, 8, 8, 3), np.uint8)
    result = augmented(images, veil=0.4)
    assert result.min() >= 0
    assert 0.3 * 255 < result.max() <= 0.4 * 255 + 0.01


def with_matte(images: np.ndarray, matte: np.ndarray) -> np.ndarray:
    return np.concatenate([images, np.broadcast_to(matte, (*images.shape[:3], 1)).astype(np.uint8)], axis=-1)


def test_background_is_replaced_around_what_the_matte_shows() -> None:
    images = random_images(400, size=(16, 16))
    matte = np.zeros((1, 16, 16, 1))
    matte[:, 4:12, 4:12] = 255
    result = augmented(with_matte(images, matte), background=0.7)
    np.testing.assert_array_equal(result[:, 4:12, 4:12], images[:, 4:12, 4:12])
    replaced = (result != images).any((1, 2, 3))
    assert abs(replaced.mean() - 0.7) < 4 * np.sqrt(0.7 * 0.3 / 400)
    outside = result[replaced][:, 0, 0]
    assert outside.min() < 5 < 250 < outside.max()
    assert (outside.std(0) > 50).all()
    # The old background leaves no trace.
    other = augmented(with_matte(255 - images, matte), background=0.7)
    np.testing.assert_array_equal(other[replaced][:, :4], result[replaced][:, :4])


def test_a_matte_half_shows_both() -> None:
    images = np.full((50, 4, 4, 3), 200, np.uint8)
    whole, half = (augmented(with_matte(images, np.full(1, m)), background=1.0) for m in (0, 128))
    np.testing.assert_allclose(half, 200 * 128 / 255 + whole * 127 / 255, atol=1e-3)


def test_a_matte_moves_with_its_image() -> None:
    images = random_images(20, 100, 256, size=(16, 16))
    matte = np.zeros((1, 16, 16, 1))
    matte[:, :8] = 255
    fields = {"rotation": 90.0, "translation": 0.2, "flip": 0.5}
    plain = augmented(images, **fields)
    moved = augmented(np.broadcast_to(matte, images.shape).astype(np.uint8), **fields)
    black, shown = (
        augmented(with_matte(pixels, matte), **fields, background=1.0)
        for pixels in (np.zeros_like(images), images)
    )
    hand, wall = moved > 254.99, moved < 0.01
    assert min(hand.mean(), wall.mean()) > 0.3
    np.testing.assert_allclose(shown[hand], plain[hand], atol=1e-1)
    np.testing.assert_allclose(shown[wall], black[wall], atol=1e-1)


def test_appearance_is_the_share_of_images_that_all_but_geometry_happens_to() -> None:
    images = random_images(400, 90, 160)
    result = augmented(images, flip=1.0, brightness=0.2, appearance=0.7)
    untouched = (result == images[:, :, ::-1]).all((1, 2, 3))
    assert abs(untouched.mean() - 0.3) < 4 * np.sqrt(0.7 * 0.3 / 400)


def test_the_share_grows_with_the_progress_of_the_training() -> None:
    images = random_images(400, 90, 160)
    config = strengths(brightness=0.2, appearance=0.8, ramp=0.5)
    change = quick_jit(partial(augment, config=config))
    for progress, share in ((0.0, 0.0), (0.25, 0.4), (0.5, 0.8), (1.0, 0.8)):
        changed = (change(jax.random.key(0), images, progress=progress) != images).any((1, 2, 3))
        assert abs(changed.mean() - share) <= 4 * np.sqrt(share * (1 - share) / 400)


def test_images_without_mattes_keep_their_background() -> None:
    images = random_images(5)
    np.testing.assert_array_equal(augmented(images, background=1.0), images)


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
    rows = [*matrix, [0, 0, 1]] if len(matrix) == 2 else matrix
    projection = np.broadcast_to(np.float32(rows), (len(images), 3, 3))
    return np.asarray(quick_jit(augment_module._resample)(images.astype(np.float32), projection))


def test_resampling_in_place() -> None:
    images = random_images(2, size=(5, 8))
    np.testing.assert_allclose(resampled(images, [[1, 0, 0], [0, 1, 0]]), images, atol=1e-3)


def test_translation_by_whole_pixels_extends_the_edges() -> None:
    images = random_images(2, size=(5, 8))
    actual = resampled(images, [[1, 0, 2 * 2 / 5], [0, 1, -3 * 2 / 8]])
    extended = np.pad(images, ((0, 0), (0, 2), (3, 0), (0, 0)), mode="edge")
    np.testing.assert_allclose(actual, extended[:, 2:, :8], atol=1e-2)


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
    actual = resampled(image, [[cosine, -sine, shift[0] * 2 / 9], [sine, cosine, shift[1] * 2 / 9]])
    np.testing.assert_allclose(actual[0], rotated(image[0], angle, zoom, shift), atol=1e-2)


def test_perspective_equals_numpy() -> None:
    image = random_images(1, size=(9, 9))
    actual = resampled(image, [[1, 0, 0], [0, 1, 0], [0.2, -0.3, 1]])
    i, j = np.indices((9, 9)) - 4.0
    depth = 1 + 0.2 * i / 4.5 - 0.3 * j / 4.5
    np.testing.assert_allclose(actual[0], bilinear(image[0], i / depth + 4, j / depth + 4), atol=1e-2)


def test_strength_bounds_the_perspective() -> None:
    projection = augment_module._random_projection(jax.random.key(0), 500, strengths(perspective=0.3))
    tilt = np.asarray(projection)[:, 2, :2]
    assert 0.29 < tilt.max() < 0.3001
    assert 0.29 < -tilt.min() < 0.3001
    np.testing.assert_array_equal(np.asarray(projection)[:, :2], np.broadcast_to(np.eye(3)[:2], (500, 2, 3)))


def draws(**fields: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Angles, zooms and shifts of 500 draws, read from their matrices."""
    projection = augment_module._random_projection(jax.random.key(0), 500, strengths(**fields))
    matrix = np.asarray(projection, np.float64)
    np.testing.assert_array_equal(matrix[:, 2], np.broadcast_to([0, 0, 1], (500, 3)))
    np.testing.assert_allclose(matrix[:, 0, 0], matrix[:, 1, 1])
    np.testing.assert_allclose(matrix[:, 0, 1], -matrix[:, 1, 0])
    return (
        np.arctan2(matrix[:, 1, 0], matrix[:, 0, 0]),
        1 / np.hypot(matrix[:, 0, 0], matrix[:, 1, 0]),
        matrix[:, :2, 2],
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
    actual = augmented(images, seed=5, **fields)
    key = jax.random.split(jax.random.key(5), 4)[0]
    for image, matrix, result in zip(
        images, augment_module._random_projection(key, 3, strengths(**fields)), actual, strict=True
    ):
        angle, zoom = np.arctan2(matrix[1, 0], matrix[0, 0]), 1 / np.hypot(matrix[0, 0], matrix[1, 0])
        expected = rotated(image, angle, zoom, (matrix[0, 2] * 4.5, matrix[1, 2] * 4.5))
        np.testing.assert_allclose(result, expected, atol=2e-2)


# Recipes


def test_padding_surrounds_the_image_with_black_before_the_crop() -> None:
    images = np.full((300, 6, 6, 3), 200, np.uint8)
    result = augmented(images, pad=2)
    assert set(np.unique(result)) == {0, 200}
    shown = (result == 200).all(-1)
    rows, columns = shown.any(2).sum(1), shown.any(1).sum(1)
    np.testing.assert_array_equal(shown.sum((1, 2)), rows * columns)
    # Shifts of -2 to 2 pixels, each as often as the others: 4, 5 or 6 pixels are left.
    for sides in (rows, columns):
        np.testing.assert_allclose(np.bincount(sides)[4:] / 300, [0.4, 0.4, 0.2], atol=0.12)


@pytest.mark.parametrize("crop", [{"pad": 1}, {"resized_crop": 0.1}])
def test_larger_images_are_cropped_to_the_size_of_the_network(crop: dict[str, float]) -> None:
    images = random_images(4, size=(16, 16))
    assert augmented(images, size=10, **crop).shape == (4, 10, 10, 3)


@pytest.mark.parametrize(("fields", "size"), [({}, 10), ({"pad": 2}, 24)])
def test_a_size_that_no_crop_gives_is_refused(fields: dict[str, int], size: int) -> None:
    with pytest.raises(UserError, match=rf"^config.data.store_size=16: .* data.image_size={size}; expected"):
        augmented(random_images(2, size=(16, 16)), size=size, **fields)


def test_a_resized_crop_shows_a_part_of_the_image_alone() -> None:
    ramp = np.linspace(0, 255, 32).round().astype(np.uint8)
    images = np.broadcast_to(ramp[:, None, None], (200, 32, 32, 3))
    rows = augmented(images, resized_crop=0.08)[:, :, 0, 0]
    assert (np.diff(rows) > -1e-3).all()
    assert rows[:, 0].max() > 100
    assert 30 < np.ptp(rows, axis=1).min() < 100


def test_a_policy_keeps_whole_numbers_and_moves_the_matte() -> None:
    images = with_matte(random_images(60, 100, 200, size=(16, 16)), np.full(1, 255))
    fields = {"policy": "rand", "policy_operations": 1, "policy_magnitude": 30.0}
    plain = augmented(images, **fields)
    np.testing.assert_array_equal(plain, np.round(plain))
    replaced = augmented(images, **fields, background=1.0)
    # What a shear, a shift or a turn brings in from outside is background.
    from_outside = (plain == 0).all(-1)
    assert 0.02 < from_outside.mean() < 0.5
    assert (replaced[from_outside] > 0).any(-1).mean() > 0.9


def test_erasing_greys_a_rectangle_in_its_share_of_the_images() -> None:
    images = random_images(400, 0, 100, size=(32, 32))
    result = augmented(images, erasing=0.25)
    erased = (result == 127.5).all(-1)
    np.testing.assert_array_equal(result[~erased], images[~erased])
    chosen = erased[erased.any((1, 2))]
    assert abs(len(chosen) / 400 - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 400)
    for mask in chosen:
        np.testing.assert_array_equal(mask, mask.any(1)[:, None] & mask.any(0))
    area = chosen.mean((1, 2))
    assert 0.015 < area.min() < 0.06
    assert 0.25 < area.max() < 0.35


@pytest.mark.parametrize("recipe", [{"erasing": 1.0}, {"resized_crop": 0.9}, {"pad": 1}])
def test_a_recipe_leaves_the_draws_of_the_others_as_they_are(recipe: dict[str, float]) -> None:
    columns = np.arange(16, dtype=np.uint8)[:, None] * 8
    images = np.broadcast_to(columns, (60, 16, 16, 3))
    plain, result = (augmented(images, flip=0.5, **fields) for fields in ({}, recipe))
    # By the direction in which most pixels grow brighter, whatever is erased or black around them.
    inner = (x[:, 2:-2, 2:-2, 0] for x in (plain, result))
    is_flipped, is_still_flipped = (np.sign(np.diff(pixels)).sum((1, 2)) < 0 for pixels in inner)
    assert 10 < is_flipped.sum() < 50
    np.testing.assert_array_equal(is_flipped, is_still_flipped)


# Draws


EVERYTHING = {
    "flip": 0.5, "rotation": 15.0, "scale": 0.15, "translation": 0.1,
    "brightness": 0.15, "contrast": 0.2, "channel_gain": 0.1, "cutout": 0.2,
    "perspective": 0.2, "background": 0.9, "veil": 0.5, "saturation": 0.5, "levels": 0.5, "noise": 0.2,
    "pad": 3, "resized_crop": 0.2, "policy": "rand", "erasing": 0.9,
}  # fmt: skip
NOT_OF_AN_IMAGE = {
    "appearance", "ramp", "policy_operations", "policy_magnitude", "mixup", "cutmix", "early_size",
    "early_share",
}  # fmt: skip


def test_every_strength_is_covered() -> None:
    assert set(EVERYTHING) == set(default.get_config().augment) - NOT_OF_AN_IMAGE


@pytest.mark.parametrize("name", [name for name in EVERYTHING if name not in ("flip", "background")])
def test_images_of_a_batch_have_draws_of_their_own(name: str) -> None:
    images = np.repeat(random_images(1, 60, 190, size=(16, 16)), 4, axis=0)
    result = augmented(images, **{name: EVERYTHING[name]})
    assert len({image.tobytes() for image in result}) == 4


def test_no_two_parts_draw_from_the_same_key() -> None:
    key = jax.random.key(0)
    keys = [*jax.random.split(key, 4), *(jax.random.fold_in(key, draw) for draw in Draw)]
    assert len(Draw) == 5
    assert len({tuple(map(int, jax.random.key_data(key))) for key in keys}) == 9


def test_a_key_fixes_every_bit() -> None:
    images = random_images(4, size=(16, 16))
    first, again, other = (augmented(images, seed, **EVERYTHING) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first, again)
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
