"""What is behind a rendered hand."""

import numpy as np

from datasets.rendered.background import sample_background

SKIN = np.array([0.8, 0.6, 0.5])


def test_backgrounds_reflect_light_and_stand_behind_the_hand():
    for seed in range(60):
        background = sample_background(64, SKIN, seed % 3 / 2, np.random.default_rng(seed))
        assert background.reflectance.shape == (3, 64, 64)
        assert background.reflectance.dtype == np.float32
        assert background.reflectance.min() >= 0
        assert background.reflectance.max() < 3
        assert background.distance > 0


def test_backgrounds_are_plain_and_busy_light_and_dark():
    many = [sample_background(64, SKIN, 1.0, np.random.default_rng(seed)).reflectance for seed in range(80)]
    contrast = np.array([wall.std((1, 2)).mean() / wall.mean() for wall in many])
    assert (contrast < 0.15).mean() > 0.1
    assert (contrast > 0.4).mean() > 0.1
    brightness = np.array([wall.mean() for wall in many])
    assert brightness.min() < 0.1
    assert brightness.max() > 0.6


def test_at_strength_0_there_is_a_plain_wall_nearby():
    many = [sample_background(64, SKIN, 0.0, np.random.default_rng(seed)) for seed in range(60)]
    # Light falls on it unevenly.
    assert all(wall.reflectance.std((1, 2)).mean() < 0.4 * wall.reflectance.mean() for wall in many)
    assert all(wall.distance < 30 for wall in many)


def test_the_same_random_numbers_make_the_same_background():
    first, again = (sample_background(64, SKIN, 1.0, np.random.default_rng(3)).reflectance for _ in range(2))
    np.testing.assert_array_equal(first, again)
