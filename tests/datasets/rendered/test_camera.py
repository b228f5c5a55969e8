"""A camera's picture of a scene, and the matte that goes with it."""

import numpy as np

from datasets.rendered.camera import expose


def edge(size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Returns linear light `[3, S, S]`, dark on the left and white on the right, and the matte `[S, S]`."""
    matte = np.zeros((size, size), np.float32)
    matte[:, size // 2 :] = 1
    return 0.05 + 0.5 * np.repeat(matte[None], 3, 0), matte


def test_a_picture_and_its_matte_are_bytes_of_the_same_size():
    image, matte = expose(*edge(48), 1.0, np.random.default_rng(0))
    assert image.shape == (48, 48, 3)
    assert matte.shape == (48, 48)
    assert image.dtype == matte.dtype == np.uint8
    assert image.flags.c_contiguous


def test_a_camera_keeps_what_is_bright_bright():
    for seed in range(40):
        image, _ = expose(*edge(), seed % 3 / 2, np.random.default_rng(seed))
        assert image[:, 40:].mean() > image[:, :24].mean() + 40


def test_a_matte_is_as_blurred_as_its_picture():
    steepest = []
    for seed in range(60):
        image, matte = expose(*edge(), 1.0, np.random.default_rng(seed))
        rows = np.stack([image.mean((0, 2)), matte.mean(0)])
        contrast = rows[:, -16:].mean(1) - rows[:, :16].mean(1)
        steepest.append(np.diff(rows).max(1) / contrast)
    images, mattes = np.array(steepest).T
    assert mattes.min() < 0.35 < 0.8 < mattes.max()
    assert np.corrcoef(images, mattes)[0, 1] > 0.6


def test_at_strength_0_the_camera_is_a_good_one():
    def unevenness_and_sharpness(strength: float) -> np.ndarray:
        """Returns `[2, 60]`: unevenness of the dark wall, grey levels, and steepest step of the matte."""
        pictures = [expose(*edge(), strength, np.random.default_rng(seed)) for seed in range(60)]
        walls = [image[8:56, 4:24].astype(float) for image, _ in pictures]
        departures = [np.abs(wall - wall.mean((0, 1))).max() for wall in walls]
        return np.array([departures, [np.diff(matte.mean(0)).max() / 255 for _, matte in pictures]])

    good, bad = unevenness_and_sharpness(0.0), unevenness_and_sharpness(1.0)
    assert good[0].max() < 20 < 25 < bad[0].max()
    assert good[1].min() > 0.5 > 0.35 > bad[1].min()
