"""Mattes by colour, on pictures whose hand is known."""

import numpy as np
import pytest

from datasets.matte import skin_mattes

SKINS = ([224, 172, 140], [190, 130, 100], [110, 70, 52])


def before_a_wall(skin: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns a picture of a forearm and a hand before an unevenly lit, warm wall with a shadow, and where
    the hand is, bool.
    """
    rows, columns = np.indices((64, 64)) / 63
    light = 1 - 0.25 * rows - 0.15 * columns
    light[20:30, 30:60] *= 0.6
    warm = 1 + 0.06 * columns
    wall = np.stack([205 * warm, 200 + 0 * rows, 190 + 0 * rows], -1) * light[..., None]
    hand = (np.hypot(rows - 0.5, columns - 0.4) < 0.2) | ((abs(columns - 0.4) < 0.08) & (rows > 0.5))
    noise = np.random.default_rng(0).normal(0, 2, wall.shape)
    shading = 1 - 0.5 * rows[..., None]
    return np.clip(np.where(hand[..., None], np.multiply(skin, shading), wall) + noise, 0, 255).astype(
        np.uint8
    ), hand


@pytest.mark.parametrize("skin", SKINS)
def test_the_hand_is_separated_from_its_wall_and_shadow(skin: list[int]) -> None:
    image, hand = before_a_wall(skin)
    matte = skin_mattes(image[None])
    assert matte.dtype == np.uint8
    assert matte.shape == (1, 64, 64)
    assert (matte[0][hand] > 200).mean() > 0.98
    assert (matte[0][~hand] < 50).mean() > 0.98


def test_each_image_has_a_wall_of_its_own() -> None:
    pictures = [before_a_wall(skin)[0] for skin in SKINS]
    together = skin_mattes(np.stack(pictures))
    for picture, matte in zip(pictures, together, strict=True):
        np.testing.assert_allclose(matte, skin_mattes(picture[None])[0], atol=1)


def test_one_colour_all_over_is_no_hand() -> None:
    plain = np.broadcast_to(
        np.uint8([[0, 0, 0], [255, 255, 255], [40, 80, 200]])[:, None, None], (3, 32, 32, 3)
    )
    assert not skin_mattes(plain).any()
