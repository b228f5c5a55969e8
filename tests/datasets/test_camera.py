"""A camera's picture of a scene, and the matte that goes with it."""

import numpy as np

from datasets.camera import expose


def edge(size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """A white half before a dark one: linear light `[3, S, S]` and the matte of the white half `[S, S]`."""
    matte = np.zeros((size, size), np.float32)
    matte[:, size // 2 :] = 1
    return 0.05 + 0.5 * np.repeat(matte[None], 3, 0), matte


def test_a_picture_and_its_matte_are_bytes_of_the_same_size():
    image, matte = expose(*edge(48), np.random.default_rng(0))
    assert image.shape == (48, 48, 3)
    assert matte.shape == (48, 48)
    assert image.dtype == matte.dtype == np.uint8
    assert image.flags.c_contiguous


def test_a_camera_keeps_what_is_bright_bright():
    for seed in range(40):
        image, _ = expose(*edge(), np.random.default_rng(seed))
        assert image[:, 40:].mean() > image[:, :24].mean() + 40


def test_a_matte_is_as_blurred_as_its_picture():
    steepest = []
    for seed in range(60):
        image, matte = expose(*edge(), np.random.default_rng(seed))
        rows = np.stack([image.mean((0, 2)), matte.mean(0)])
        contrast = rows[:, -16:].mean(1) - rows[:, :16].mean(1)
        steepest.append(np.diff(rows).max(1) / contrast)
    of_images, of_mattes = np.array(steepest).T
    assert of_mattes.min() < 0.35 < 0.8 < of_mattes.max()
    assert np.corrcoef(of_images, of_mattes)[0, 1] > 0.6
