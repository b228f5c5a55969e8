"""Rendered signs: the same picture for the same numbers."""

import numpy as np
import pytest

from datasets.rendered import dataset
from datasets.rendered.render import render, render_range, render_room, render_with_matte
from resnet.errors import UserError
from tests.datasets.errors import error_line


def test_a_matte_shows_where_the_hand_is():
    data = dataset.load(seed=5, train_size=60, test_size=6)
    for split in (data.train, data.test):
        assert split.mattes.shape == split.images.shape[:3]
        assert split.mattes.dtype == np.uint8
    mattes = data.train.mattes / 255
    assert (mattes.max((1, 2)) > 0.9).all()
    assert 0.15 < mattes.mean() < 0.6
    # A picture changes most where the hand ends, and there the matte changes too.
    across = np.abs(np.diff(data.train.images.astype(float), axis=2)).mean(-1)
    edge = np.abs(np.diff(mattes, axis=2))
    assert across[edge > 0.3].mean() > 3 * across[edge < 0.01].mean()


def test_the_label_alone_changes_the_picture():
    signs = [render(label, 7, seed=0) for label in range(6)]
    assert len({sign.tobytes() for sign in signs}) == 6


def test_a_picture_shows_the_same_hand_at_any_size():
    for index in range(12):
        small, large = (render(5, index, 0, image_size=size).astype(float) for size in (64, 128))
        reduced = large.reshape(64, 2, 64, 2, 3).mean((1, 3))
        assert np.abs(small - reduced).mean() < 9  # grey levels; noise differs


@pytest.mark.parametrize("label", [-1, 6, 2.0, "3", True])
def test_a_label_outside_the_classes_is_refused(label):
    error_line(lambda: render(label, 0, 0), f"label={label}: expected a whole number from 0 to 5")


def test_a_range_holds_pictures_with_their_mattes():
    images = render_range(4, 7, seed=3, image_size=32, stream=1, variety=0.5)
    for i, expected in enumerate(images, start=4):
        image, matte = render_with_matte(i % 6, i, 3, image_size=32, stream=1, variety=0.5)
        np.testing.assert_array_equal(expected[..., :3], image)
        np.testing.assert_array_equal(expected[..., 3], matte)


def test_rooms_are_pictures_of_their_own() -> None:
    rooms = np.stack([render_room(i, 0, image_size=32) for i in range(12)])
    assert (rooms.dtype, rooms.shape) == (np.uint8, (12, 32, 32, 3))
    assert len(np.unique(rooms, axis=0)) == 12
    np.testing.assert_array_equal(rooms[5], render_room(5, 0, image_size=32))
    with pytest.raises(UserError, match=r"^index=-1: expected a whole number"):
        render_room(-1, 0)
