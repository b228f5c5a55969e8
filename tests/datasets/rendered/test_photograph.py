"""Photographs of hands: where they are in the picture, how hard they are, and the view of them."""

import numpy as np

from datasets.rendered import photograph
from datasets.rendered.hand import ARM, sample_hand
from datasets.rendered.poses import Sign, sample_sign


def boxes(strength: float) -> np.ndarray:
    """Returns the boxes of hands without their arms, `[120, 2, 2]`: low and high, x and y, 0 to 1."""
    result = []
    for seed in range(120):
        rng = np.random.default_rng(seed)
        sign = sample_sign(seed % 6, rng)
        hand = sample_hand(sign, strength, rng)
        view = photograph.sample_view(sign, hand, strength, rng)
        picture = photograph.frame_hand(hand, view, 128, strength=strength, rng=rng)
        joints = np.concatenate([points[hand.limb != ARM] for points in (picture.start, picture.end)])
        flesh = 0.8 * picture.scale  # of fingers, which reach furthest
        result.append([joints.min(0) - flesh, joints.max(0) + flesh])
    return np.array(result) / 128


def test_at_strength_0_hands_are_whole_and_large():
    low, high = boxes(0.0).transpose(1, 0, 2)
    assert low.min() > -0.02
    assert high.max() < 1.02
    span = (high - low).max(1)
    assert 0.5 < span.min() < 0.62
    assert 0.8 < span.max() < 0.95
    # Anywhere in the picture.
    assert np.abs(low + high - 1).max() > 0.3


def test_strength_makes_some_hands_small_and_crops_some():
    low, high = boxes(1.0).transpose(1, 0, 2)
    span, cropped = (high - low).max(1), ((low < -0.1) | (high > 1.1)).any(1)
    assert 0.02 < (span < 0.45).mean() < 0.4
    assert 0.05 < cropped.mean() < 0.4


def test_easy_pictures_stay_frequent_however_varied_all_are():
    rng = np.random.default_rng(0)
    hardest = np.array([max(photograph.sample_strength(0.6, rng)) for _ in range(600)])
    np.testing.assert_allclose(np.quantile(hardest, [0, 1 / 3, 2 / 3, 1]), [0, 0.2, 0.4, 0.6], atol=0.04)


def test_no_picture_is_hard_in_every_way():
    rng = np.random.default_rng(0)
    assert max(sum(photograph.sample_strength(1.0, rng)) for _ in range(600)) <= 2.5


def test_a_viewer_from_whom_fingers_hide_each_other_moves_on(monkeypatch):
    sign = Sign(4, (1, 2, 3, 4))
    hand = sample_hand(sign, 0.5, np.random.default_rng(0))
    yaws = iter([90, -90, 0])
    monkeypatch.setattr(photograph, "_sample_yaw", lambda sign, strength, rng: next(yaws))
    view = photograph.sample_view(sign, hand, 0.5, np.random.default_rng(0))
    assert view[2, 2] > 0.8  # the palm's normal points at the viewer
