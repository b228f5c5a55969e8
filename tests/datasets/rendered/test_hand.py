"""Hands show their digits, counted on the silhouettes of random ones."""

import numpy as np
import pytest

from datasets.rendered.hand import sample_hand
from datasets.rendered.poses import WAYS, Sign, sample_pose, sample_sign
from datasets.rendered.round_cones import FAR, draw
from datasets.rendered.skeleton import sample_bones


def silhouette(sign: Sign, seed: int, yaw: float) -> np.ndarray:
    """Draws a random hand, bool `[256, 256]`, 30 cm wide, its palm to the viewer but for `yaw` degrees."""
    hand = sample_hand(sign, 0.5, np.random.default_rng(seed))
    c, s = np.cos(np.radians(yaw)), np.sin(np.radians(yaw))
    turn = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    scale = 256 / 30
    start, end = ((points @ turn.T * [1, -1, 1] + [15, 22, 0]) * scale for points in (hand.start, hand.end))
    return draw(start, end, hand.radius * scale, hand.blend * scale, size=256).depth > FAR


def count_digits(mask: np.ndarray) -> int:
    """Counts how often arcs around the palm's centre enter the hand, and returns the most frequent count."""
    counts = []
    for radius in np.linspace(6.3, 8.2, 9):
        angle = np.radians(np.linspace(-35, 215, 720))
        x, y = 15 + radius * np.cos(angle), 22 - (5.5 + radius * np.sin(angle))
        on = mask[(y * 256 / 30).astype(int), (x * 256 / 30).astype(int)]
        counts.append(int((np.diff(on.astype(int)) == 1).sum()))
    return int(np.bincount(counts).argmax())


def has_hole(mask: np.ndarray) -> bool:
    """Returns whether there is wall that is cut off from the border of the picture."""
    wall = ~np.pad(mask, 1)
    outside = np.zeros_like(wall)
    outside[0] = True
    while True:
        grown = outside.copy()
        for axis in (0, 1):
            for step in (1, -1):
                grown |= np.roll(outside, step, axis)
        grown &= wall
        if (grown == outside).all():
            return bool((wall & ~outside).sum() > 20)
        outside = grown


def ways(label: int) -> list[Sign]:
    return [Sign(label, digits) for digits in WAYS[label]]


@pytest.mark.parametrize("sign", [sign for label in range(1, 6) for sign in ways(label)], ids=str)
def test_a_sign_stretches_as_many_digits_as_it_says(sign: Sign):
    assert len(sign.digits) == sign.label
    counts = [count_digits(silhouette(sign, seed, yaw=0)) for seed in range(24)]
    # Not all of them, as some people keep their fingers together.
    assert np.mean([count == sign.label for count in counts]) > 0.55


def test_every_way_to_show_a_sign_is_drawn_as_often_as_it_says():
    rng = np.random.default_rng(0)
    drawn = [sample_sign(4, rng).digits for _ in range(400)]
    assert set(drawn) == {(1, 2, 3, 4), (1, 2, 3, 5)}
    assert drawn.count((1, 2, 3, 5)) / len(drawn) == pytest.approx(WAYS[4][1, 2, 3, 5], abs=0.06)


def little_finger_stumps(sign: Sign) -> np.ndarray:
    """Returns for random hands how much of the little finger's first bone is seen from behind, 0 to 1."""
    shares = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        knuckle, joint = sample_pose(sign, sample_bones(rng), 0.5, rng).fingers[3, :2]
        shares.append(np.hypot(*(joint - knuckle)[:2]) / np.linalg.norm(joint - knuckle))
    return np.array(shares)


def test_a_little_finger_that_is_folded_alone_leaves_a_stump():
    assert np.mean(little_finger_stumps(Sign(4, (1, 2, 3, 5))) > 0.7) > 0.5
    assert np.mean(little_finger_stumps(Sign(3, (1, 2, 3))) > 0.7) < 0.1


def test_a_zero_is_closed_to_a_ring():
    rings = [has_hole(silhouette(Sign(0, ()), seed, yaw=-80)) for seed in range(12)]
    assert np.mean(rings) >= 0.8


@pytest.mark.parametrize("sign", [Sign(1, (1,)), Sign(3, (1, 2, 5))], ids=str)
def test_a_zero_alone_is_a_ring(sign: Sign):
    assert not any(has_hole(silhouette(sign, seed, yaw=0)) for seed in range(4))
