"""Hands show their digits, counted on the silhouettes of random ones."""

import numpy as np
import pytest

from datasets.rendered.hand import sample_hand
from datasets.rendered.round_cones import FAR, draw


def silhouette(label: int, seed: int, yaw: float) -> np.ndarray:
    """Draws a random hand, bool `[256, 256]`, 30 cm wide, its palm to the viewer but for `yaw` degrees."""
    hand = sample_hand(label, 0.5, np.random.default_rng(seed))
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


@pytest.mark.parametrize("label", [1, 2, 3, 4, 5])
def test_a_sign_stretches_as_many_digits_as_it_says(label):
    counts = [count_digits(silhouette(label, seed, yaw=0)) for seed in range(24)]
    # Not all of them, as some people keep their fingers together.
    assert np.mean([count == label for count in counts]) > 0.55


def test_a_zero_is_closed_to_a_ring():
    rings = [has_hole(silhouette(0, seed, yaw=-80)) for seed in range(12)]
    assert np.mean(rings) >= 0.8


@pytest.mark.parametrize("label", [1, 3])
def test_a_zero_alone_is_a_ring(label):
    assert not any(has_hole(silhouette(label, seed, yaw=0)) for seed in range(4))
