"""A hand's flesh, what it wears, and the forearm, as round cones about posed bones.

Centimetres in the frame of `datasets.skeleton`: a right hand, x towards the thumb, y towards the
fingers, z out of the palm, the wrist at the origin.
"""

from typing import NamedTuple

import numpy as np

from datasets.poses import EXTENDED, Pose, sample_pose
from datasets.skeleton import Bones, sample_bones, unit

SKIN, NAIL, SLEEVE, BAND = range(4)  # materials; a band is a watch's, a bracelet or a ring
ARM, PALM = -1, 0  # limbs; the digits are 1 (index) to 4 (little) and 5 (thumb)
THUMB = 5


class RoundCones(NamedTuple):
    """P spheres swept along straight lines, the radius changing linearly, painted in order.

    start, end: `[P, 3]` cm. radius: `[P, 2]` cm at start and end. palmar: `[P, 3]` unit vectors
    towards the palm side of the bone. material: `[P]` SKIN, NAIL, SLEEVE or BAND. blend: `[P]` cm, how
    deep the surface runs smoothly into what was painted before. limb: `[P]` ARM, PALM or a digit.
    bends: `[P, 2]` bool, whether skin folds over a joint at start and end.
    """

    start: np.ndarray
    end: np.ndarray
    radius: np.ndarray
    palmar: np.ndarray
    material: np.ndarray
    blend: np.ndarray
    limb: np.ndarray
    bends: np.ndarray


class _Flesh:
    """Collects round cones."""

    def __init__(self) -> None:
        self.rows: list[tuple] = []

    def add(
        self, a, b, ra, rb, palmar=(0.0, 0.0, 1.0), blend=0.32, material=SKIN, limb=PALM, bends=(False, False)
    ):
        self.rows.append((*a, *b, ra, rb, *palmar, blend, material, limb, *bends))

    def cones(self) -> RoundCones:
        t = np.array(self.rows, np.float64)
        start, end, radius, palmar = t[:, 0:3], t[:, 3:6], t[:, 6:8], t[:, 8:11]
        material, limb = t[:, 12].astype(int), t[:, 13].astype(int)
        return RoundCones(start, end, radius, palmar, material, t[:, 11], limb, t[:, 14:16] > 0)


def _between(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    return a * (1 - t) + b * t


def _add_arm(flesh: _Flesh, bones: Bones, rng: np.random.Generator) -> None:
    bend, tilt = np.radians(rng.normal(0, [12, 16]))
    down = unit(np.array([np.sin(bend), -np.cos(bend), np.sin(tilt)]))
    side = unit(np.array([np.cos(bend), np.sin(bend), 0.0]))
    thin = bones.thickness * rng.uniform(0.85, 1.08)
    flat = bones.width * rng.uniform(0.9, 1.1)
    elbow = down * 45

    def add(at: float, radius: float, reach: float, elbow_radius: float, blend: float, material: int) -> None:
        """A flat tube that starts `at` cm below the wrist."""
        for s in (-1, 0, 1):
            start = np.array([0, 0.6, -0.1]) + down * at + 1.1 * flat * s * side
            end = start + (elbow + 1.5 * s * side - start) * reach
            flesh.add(start, end, radius * thin, elbow_radius * thin, (0, 0, 1), blend, material, ARM)

    add(0.0, 1.6, 1.0, 3.8, 0.5, SKIN)
    if rng.random() < 0.38:
        wide = rng.uniform(0, 1) ** 2
        add(rng.uniform(1.0, 11), 2.2 + 0.9 * wide, 1.0, 4.2 + 1.5 * wide, 0.6, SLEEVE)
    if rng.random() < 0.1:
        add(rng.uniform(1.0, 3.2), 1.95, rng.uniform(0.008, 0.05), 2.05, 0.2, BAND)


def _add_palm(flesh: _Flesh, bones: Bones, thumb: np.ndarray) -> None:
    thick, wide = bones.thickness, bones.width
    for knuckle, radius in zip(bones.knuckles, (1.25, 1.2, 1.18, 1.1), strict=True):
        flesh.add(knuckle * [0.5, 0.12, 1], knuckle * [1, 0.95, 1], 1.5 * thick, radius * thick)
    # Heel of the hand, its outer edge, and the pad across the knuckles.
    flesh.add((-1.5 * wide, 1.3, 0.1), (1.2 * wide, 1.3, 0.1), 1.6 * thick, 1.6 * thick)
    flesh.add((-1.9 * wide, 2.0, 0.5), (-2.9 * wide, 6.2, 0.3), 1.45 * thick, 1.2 * thick)
    k = bones.knuckles
    flesh.add(k[0] + [0, -0.5, 0.15], k[3] + [0, -0.2, 0.15], 1.05 * thick, 0.95 * thick)
    root, joint = thumb[0], thumb[1]
    flesh.add(root, joint, bones.thumb_radii[0], bones.thumb_radii[1])
    flesh.add((0.8, 2.7, 0.6), _between(root, joint, 0.7), 1.45 * thick, 1.25 * thick)
    # The skin between the thumb and the index finger.
    for on_thumb, on_index in ((0.35, 0.55), (0.6, 0.72), (0.8, 0.82)):
        a, b = _between(root, joint, on_thumb), _between(root, k[0], on_index)
        flesh.add(a, b, 0.85 * thick, 0.85 * thick)


def _add_webs(flesh: _Flesh, bones: Bones, pose: Pose) -> None:
    """The skin between neighbouring fingers."""
    for i in range(3):
        for t, radius, blend in ((0.08, 0.8, 0.4), (0.32, 0.6, 0.2)):
            a, b = (_between(pose.fingers[n, 0], pose.fingers[n, 1], t) for n in (i, i + 1))
            radius *= bones.thickness
            flesh.add(a, b, radius, radius, pose.palmar[i, 0], blend)


def _add_digit(
    flesh: _Flesh, joints: np.ndarray, radii: np.ndarray, palmar: np.ndarray, limb: int, nail: float
) -> None:
    """A finger or the free part of the thumb; `nail` is how far its nail reaches beyond the tip's centre."""
    for j in range(1 if limb == THUMB else 0, 3):
        blend = 0.12 if j == 0 else 0.07
        bends = (j > 0, j < 2)
        flesh.add(joints[j], joints[j + 1], radii[j], radii[j + 1], palmar[j], blend, SKIN, limb, bends)
    along = unit(joints[3] - joints[2])
    tip, radius = joints[3], radii[3]
    bed = tip - palmar[2] * (radius * 0.42)
    low, high = bed - along * radius * 0.9, bed + along * radius * nail
    flesh.add(low, high, 0.68 * radius, 0.62 * radius, palmar[2], 0.03, NAIL, limb)


def stretched_digits(label: int) -> tuple[int, ...]:
    """The digits that a sign stretches."""
    fingers = tuple(i + 1 for i in range(4) if EXTENDED[label][i])
    return (*fingers, THUMB) if label in (3, 5) else fingers


def sample_hand(label: int, strength: float, rng: np.random.Generator) -> RoundCones:
    """A random person's right hand showing the sign `label`, 0 to 5, the forearm leaving at -y.

    The higher `strength`, 0 to 1, the odder the pose may be.
    """
    bones = sample_bones(rng)
    pose = sample_pose(label, bones, strength, rng)
    fingers, thumb = pose.fingers, pose.thumb
    flesh = _Flesh()
    _add_arm(flesh, bones, rng)
    _add_palm(flesh, bones, thumb)
    _add_webs(flesh, bones, pose)
    nail = 0.35 if rng.random() < 0.85 else rng.uniform(0.4, 1.3)
    for i in (3, 2, 1, 0):
        _add_digit(flesh, fingers[i], bones.radii[i], pose.palmar[i], i + 1, nail)
    if rng.random() < 0.1:
        i, at = rng.integers(0, 4), rng.uniform(0.5, 0.7)
        start, end = (_between(fingers[i, 0], fingers[i, 1], t) for t in (at, at + rng.uniform(0.02, 0.12)))
        radius = 1.06 * bones.radii[i, :2].mean()
        flesh.add(start, end, radius, radius, pose.palmar[i, 0], 0.03, BAND, i + 1)

    # The thumb's pad faces the fingers: across its own bend, or the index finger when straight.
    along = unit(np.diff(thumb, axis=0))
    inward = bones.knuckles[1] + [0, -3.0, 2.5] - thumb[2]
    pad = unit(inward - along * (along * inward).sum(-1, keepdims=True))
    _add_digit(flesh, thumb, bones.thumb_radii, pad, THUMB, nail)
    return flesh.cones()
