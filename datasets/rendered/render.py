"""Renders one picture of a hand that shows a sign from 0 to 5, from nothing but a few numbers.

Every picture is a random hand (`hand.py`), photographed in a random place and light (`photograph.py`).
"""

from typing import Any

import numpy as np

from datasets.rendered.hand import sample_hand
from datasets.rendered.photograph import photograph, photograph_room, sample_strength, sample_view
from datasets.rendered.poses import sample_sign
from resnet.errors import UserError

CLASS_NAMES = ("0", "1", "2", "3", "4", "5")
TRAIN, TEST, ROOMS = 0, 1, 2  # streams of random numbers
IMAGE_SIZES = (16, 512)  # smallest and largest, pixels along a side


def render(
    label: int, index: int, seed: int, *, image_size: int = 64, stream: int = TRAIN, variety: float = 1.0
) -> np.ndarray:
    """Returns one picture, uint8 `[image_size, image_size, 3]`. See `render_with_matte`."""
    return render_with_matte(label, index, seed, image_size=image_size, stream=stream, variety=variety)[0]


def render_with_matte(
    label: int, index: int, seed: int, *, image_size: int = 64, stream: int = TRAIN, variety: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Returns a picture of a hand that shows `label`, and its matte.

    The same arguments always give the same picture.

    Args:
      label: the sign, 0 to 5.
      index: number of the picture within the stream.
      seed: of the random numbers.
      image_size: pixels along a side, within IMAGE_SIZES.
      stream: TRAIN or TEST, which share no random numbers.
      variety: how far a picture may go from an ordinary photograph, 0 to 1. An ordinary one shows a whole
        hand, upright, its palm (of a 0: its ring) towards the viewer, before a plain wall. The difficulty is
        drawn evenly from 0 to `variety`, so easy, middling and hard pictures are equally frequent. Hands and
        skins vary fully at any value.

    Returns: the picture, RGB uint8 `[image_size, image_size, 3]`, and the matte, uint8
    `[image_size, image_size]`: 255 where a pixel is all hand or arm, 0 where it is all background.

    Raises: UserError for an argument out of its range.
    """
    check_whole_number("label", label, 0, len(CLASS_NAMES) - 1)
    for name, value in (("index", index), ("seed", seed), ("stream", stream)):
        check_whole_number(name, value, 0)
    check_whole_number("image_size", image_size, *IMAGE_SIZES)
    check_share("variety", variety)
    rng = np.random.default_rng([seed, stream, index])
    strength = sample_strength(variety, rng)
    sign = sample_sign(label, rng)
    hand = sample_hand(sign, strength.sign, rng)
    view = sample_view(sign, hand, strength.sign, rng)
    return photograph(hand, view, image_size, strength=strength, rng=rng)


def render_room(index: int, seed: int, *, image_size: int = 64) -> np.ndarray:
    """Returns a picture without a hand, uint8 `[image_size, image_size, 3]`: a wall, a room, things in it.

    The same arguments always give the same picture.

    Raises: UserError for an argument out of its range.
    """
    for name, value in (("index", index), ("seed", seed)):
        check_whole_number(name, value, 0)
    check_whole_number("image_size", image_size, *IMAGE_SIZES)
    rng = np.random.default_rng([seed, ROOMS, index])
    strength = sample_strength(1.0, rng)._replace(background=1.0)  # Plain walls alone would be too easy.
    return photograph_room(image_size, strength=strength, rng=rng)


def render_range(
    start: int, stop: int, *, seed: int, image_size: int, stream: int, variety: float
) -> np.ndarray:
    """Returns pictures `start` up to `stop` of a stream, uint8 `[N, image_size, image_size, 4]`.

    The channels are red, green, blue and the matte. Picture `i` shows the sign `i % 6`.
    """
    images = np.empty((stop - start, image_size, image_size, 4), np.uint8)
    for i in range(start, stop):
        image, matte = render_with_matte(
            i % len(CLASS_NAMES), i, seed, image_size=image_size, stream=stream, variety=variety
        )
        images[i - start, ..., :3], images[i - start, ..., 3] = image, matte
    return images


def check_whole_number(name: str, value: Any, low: int, high: int | None = None) -> None:
    """Raises UserError unless `value` is a whole number from `low` to `high`, or without end if None."""
    is_whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not is_whole or value < low or (high is not None and value > high):
        limits = f", {low} or more" if high is None else f" from {low} to {high}"
        raise UserError(f"{name}={value}: expected a whole number{limits}")


def check_share(name: str, value: Any) -> None:
    """Raises UserError unless `value` is a number from 0 to 1."""
    is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= 1:
        raise UserError(f"{name}={value}: expected a number from 0 to 1")
