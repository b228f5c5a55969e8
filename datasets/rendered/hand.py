"""The flesh of a hand and its forearm, and what they wear, as round cones around posed bones.

Lengths are in centimetres, in the frame of `skeleton.py`: a right hand with the wrist at the origin, x
towards the thumb, y towards the fingers, z out of the palm.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from datasets.rendered.poses import THUMB, Pose, Sign, sample_pose
from datasets.rendered.skeleton import Bones, sample_bones, unit

SKIN, NAIL, SLEEVE, BAND = range(4)  # materials; a band is a watch strap, a bracelet or a ring
ARM, PALM = -1, 0  # limbs besides the digits


class RoundCones(NamedTuple):
    """P spheres, swept along straight lines while their radius changes linearly.

    Attributes:
      start, end: `[P, 3]` cm, of the lines.
      radius: `[P, 2]` cm, at start and end.
      palmar: `[P, 3]` unit vectors towards the palm side of the bone.
      material: `[P]` SKIN, NAIL, SLEEVE or BAND.
      blend: `[P]` cm, the depth over which a surface runs smoothly into others.
      limb: `[P]` ARM, PALM or a digit.
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
        self,
        start: Sequence[float] | np.ndarray,
        end: Sequence[float] | np.ndarray,
        start_radius: float,
        end_radius: float,
        *,
        palmar: Sequence[float] | np.ndarray = (0.0, 0.0, 1.0),
        blend: float = 0.32,
        material: int = SKIN,
        limb: int = PALM,
        bends: tuple[bool, bool] = (False, False),
    ) -> None:
        """Adds a cone, in the units of `RoundCones`."""
        self.rows.append((*start, *end, start_radius, end_radius, *palmar, blend, material, limb, *bends))

    def cones(self) -> RoundCones:
        """Returns all cones added so far."""
        t = np.array(self.rows, np.float64)
        start, end, radius, palmar = t[:, 0:3], t[:, 3:6], t[:, 6:8], t[:, 8:11]
        material, limb = t[:, 12].astype(int), t[:, 13].astype(int)
        return RoundCones(start, end, radius, palmar, material, t[:, 11], limb, t[:, 14:16] > 0)


def _between(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    """Returns the point at share `t` of the way from `a` to `b`."""
    return a * (1 - t) + b * t


def _add_arm(flesh: _Flesh, bones: Bones, rng: np.random.Generator) -> None:
    """Adds the forearm, sometimes with a sleeve or a band."""
    bend, tilt = np.radians(rng.normal(0, [12, 16]))
    down = unit(np.array([np.sin(bend), -np.cos(bend), np.sin(tilt)]))
    side = unit(np.array([np.cos(bend), np.sin(bend), 0.0]))
    thin = bones.thickness * rng.uniform(0.85, 1.08)
    flat = bones.width * rng.uniform(0.9, 1.1)
    elbow = down * 45

    def add_tube(
        at: float, radius: float, reach: float, elbow_radius: float, *, blend: float, material: int
    ) -> None:
        """Adds a flat tube that starts `at` cm below the wrist and ends at share `reach` of the way on."""
        for s in (-1, 0, 1):
            start = np.array([0, 0.6, -0.1]) + down * at + 1.1 * flat * s * side
            end = start + (elbow + 1.5 * s * side - start) * reach
            radii = radius * thin, elbow_radius * thin
            flesh.add(start, end, *radii, blend=blend, material=material, limb=ARM)

    add_tube(0.0, 1.6, 1.0, 3.8, blend=0.5, material=SKIN)
    if rng.random() < 0.38:
        wide = rng.uniform(0, 1) ** 2
        at = rng.uniform(1.0, 11)
        add_tube(at, 2.2 + 0.9 * wide, 1.0, 4.2 + 1.5 * wide, blend=0.6, material=SLEEVE)
    if rng.random() < 0.1:
        at, reach = rng.uniform(1.0, 3.2), rng.uniform(0.008, 0.05)
        add_tube(at, 1.95, reach, 2.05, blend=0.2, material=BAND)


def _add_palm(flesh: _Flesh, bones: Bones, thumb: np.ndarray) -> None:
    """Adds the palm, the ball of the thumb, and the skin between thumb and index finger."""
    thick, wide = bones.thickness, bones.width
    for knuckle, radius in zip(bones.knuckles, (1.25, 1.2, 1.18, 1.1), strict=True):
        flesh.add(knuckle * [0.5, 0.12, 1], knuckle * [1, 0.95, 1], 1.5 * thick, radius * thick)
    # The heel of the hand, its outer edge, and the pad across the knuckles.
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
    """Adds the skin between neighbouring fingers."""
    for i in range(3):
        for t, radius, blend in ((0.08, 0.8, 0.4), (0.32, 0.6, 0.2)):
            a, b = (_between(pose.fingers[n, 0], pose.fingers[n, 1], t) for n in (i, i + 1))
            radius *= bones.thickness
            flesh.add(a, b, radius, radius, palmar=pose.palmar[i, 0], blend=blend)


def _add_digit(
    flesh: _Flesh, joints: np.ndarray, radii: np.ndarray, palmar: np.ndarray, *, limb: int, nail: float
) -> None:
    """Adds a finger or the free part of the thumb.

    Args:
      flesh: the cones so far.
      joints: `[4, 3]` cm, from root to tip.
      radii: `[4]` cm, at the joints.
      palmar: `[3, 3]` unit vectors towards the palm side of the bones.
      limb: number of the digit.
      nail: how far the nail reaches beyond the tip's centre, relative to the radius there.
    """
    for j in range(1 if limb == THUMB else 0, 3):
        blend = 0.12 if j == 0 else 0.07
        bends = (j > 0, j < 2)
        ends = joints[j], joints[j + 1], radii[j], radii[j + 1]
        flesh.add(*ends, palmar=palmar[j], blend=blend, limb=limb, bends=bends)
    along = unit(joints[3] - joints[2])
    tip, radius = joints[3], radii[3]
    bed = tip - palmar[2] * (radius * 0.42)
    low, high = bed - along * radius * 0.9, bed + along * radius * nail
    nail_radii = 0.68 * radius, 0.62 * radius
    flesh.add(low, high, *nail_radii, palmar=palmar[2], blend=0.03, material=NAIL, limb=limb)


def _add_ring(flesh: _Flesh, bones: Bones, pose: Pose, rng: np.random.Generator) -> None:
    """Adds a ring on a random finger."""
    i, at = int(rng.integers(0, 4)), rng.uniform(0.5, 0.7)
    root, joint = pose.fingers[i, :2]
    start, end = (_between(root, joint, t) for t in (at, at + rng.uniform(0.02, 0.12)))
    radius = 1.06 * bones.radii[i, :2].mean()
    flesh.add(start, end, radius, radius, palmar=pose.palmar[i, 0], blend=0.03, material=BAND, limb=i + 1)


def sample_hand(sign: Sign, strength: float, rng: np.random.Generator) -> RoundCones:
    """Returns a random person's right hand that shows `sign`. The forearm leaves at -y.

    The higher `strength`, 0 to 1, the odder the pose may be.
    """
    bones = sample_bones(rng)
    pose = sample_pose(sign, bones, strength, rng)
    fingers, thumb = pose.fingers, pose.thumb
    flesh = _Flesh()
    _add_arm(flesh, bones, rng)
    _add_palm(flesh, bones, thumb)
    _add_webs(flesh, bones, pose)
    nail = 0.35 if rng.random() < 0.85 else rng.uniform(0.4, 1.3)
    for i in (3, 2, 1, 0):
        _add_digit(flesh, fingers[i], bones.radii[i], pose.palmar[i], limb=i + 1, nail=nail)
    if rng.random() < 0.1:
        _add_ring(flesh, bones, pose, rng)

    # The pad of the thumb faces the fingers.
    along = unit(np.diff(thumb, axis=0))
    inward = bones.knuckles[1] + [0, -3.0, 2.5] - thumb[2]
    pad = unit(inward - along * (along * inward).sum(-1, keepdims=True))
    _add_digit(flesh, thumb, bones.thumb_radii, pad, limb=THUMB, nail=nail)
    return flesh.cones()
