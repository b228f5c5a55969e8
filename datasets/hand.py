"""An articulated hand: bones posed by joint angles, flesh as round cones.

Lengths are centimetres of an average adult hand. The hand is a right hand in the frame
x: towards the thumb, y: from the wrist towards the fingers, z: out of the palm; the wrist is the
origin. A viewer on +z looks into the palm.
"""

from typing import NamedTuple

import numpy as np

SKIN, NAIL, SLEEVE = range(3)

# Index, middle, ring, little finger. A distal length ends at the centre of the fingertip's ball.
KNUCKLES = np.array([[2.6, 9.0, 0.0], [0.7, 9.3, -0.25], [-1.2, 8.8, -0.2], [-2.9, 7.8, 0.1]])
PHALANGES = np.array([[4.1, 2.5, 1.75], [4.6, 2.9, 1.85], [4.2, 2.7, 1.8], [3.3, 2.0, 1.55]])
RADII = np.array(
    [
        [1.0, 0.90, 0.78, 0.64],
        [1.0, 0.92, 0.80, 0.66],
        [0.95, 0.86, 0.75, 0.62],
        [0.84, 0.74, 0.65, 0.54],
    ]
)
SPREAD = np.radians([11.0, 1.0, -9.0, -21.0])  # at a comfortable spread
THUMB_ROOT = np.array([1.8, 2.2, 0.7])
THUMB_BONES = np.array([4.4, 3.3, 2.1])  # metacarpal, proximal, distal
THUMB_RADII = np.array([1.55, 1.15, 1.02, 0.78])

EXTENDED = {  # fingers that a sign stretches, index to little
    0: (False, False, False, False),
    1: (True, False, False, False),
    2: (True, True, False, False),
    3: (True, True, False, False),
    4: (True, True, True, True),
    5: (True, True, True, True),
}


class RoundCones(NamedTuple):
    """P spheres swept along straight lines, the radius changing linearly, painted in order.

    start, end: `[P, 3]` cm. radius: `[P, 2]` cm at start and end. palmar: `[P, 3]` unit vectors
    towards the palm side of the bone. material: `[P]` SKIN, NAIL or SLEEVE. blend: `[P]` cm, how
    deep the surface runs smoothly into what was painted before. is_arm: `[P]` bool.
    """

    start: np.ndarray
    end: np.ndarray
    radius: np.ndarray
    palmar: np.ndarray
    material: np.ndarray
    blend: np.ndarray
    is_arm: np.ndarray


class _Flesh:
    """Collects round cones."""

    def __init__(self) -> None:
        self.rows: list[tuple] = []

    def add(self, a, b, ra, rb, palmar=(0.0, 0.0, 1.0), blend=0.32, material=SKIN, is_arm=False):
        self.rows.append((*a, *b, ra, rb, *palmar, material, blend, is_arm))

    def cones(self) -> RoundCones:
        t = np.array(self.rows, np.float64)
        return RoundCones(
            t[:, 0:3],
            t[:, 3:6],
            t[:, 6:8],
            t[:, 8:11],
            t[:, 11].astype(int),
            t[:, 12],
            t[:, 13] > 0,
        )


class _Bones(NamedTuple):
    """Sizes of one person's hand, cm."""

    knuckles: np.ndarray
    phalanges: np.ndarray
    radii: np.ndarray
    thumb_root: np.ndarray
    thumb_bones: np.ndarray
    thumb_radii: np.ndarray
    thickness: float
    width: float


def _sample_bones(rng: np.random.Generator) -> _Bones:
    def near_one(spread, shape=()):
        return np.clip(rng.normal(1.0, spread, shape), 1 - 2.2 * spread, 1 + 2.2 * spread)

    width, length, thickness, reach = (
        near_one(0.06),
        near_one(0.05),
        1.04 * near_one(0.1),
        near_one(0.07),
    )
    palm = np.array([width, length, thickness])
    return _Bones(
        knuckles=KNUCKLES * palm,
        phalanges=PHALANGES * reach * near_one(0.03, (4, 1)) * near_one(0.03, (4, 3)),
        radii=RADII * thickness * near_one(0.03, (4, 1)) * near_one(0.03, (1, 4)),
        thumb_root=THUMB_ROOT * palm,
        thumb_bones=THUMB_BONES * reach * near_one(0.04, 3),
        thumb_radii=THUMB_RADII * thickness * near_one(0.03, 4),
        thickness=float(thickness),
        width=float(width),
    )


def _finger_angles(label: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, bool]:
    """Flexion `[4, 3]` and abduction `[4]`, radians, and whether curled fingers meet the thumb."""
    straight = np.array([4.0, 6.0, 4.0]) + rng.normal(0, [7, 4, 3]) + rng.normal(0, [3.5, 4, 3], (4, 3))
    straight = np.maximum(straight, [-12, -2, -4])
    if label in (4, 5):  # a half-open hand is common, and the little finger bends first
        straight += rng.uniform(0, 9) * np.array([1.0, 1.6, 0.8]) * np.array([[0.6], [0.8], [1], [1.2]])
    fist = np.array([80.0, 102.0, 52.0]) + rng.normal(0, [5, 5, 7]) + rng.normal(0, [3, 3, 4], (4, 3))
    meeting = np.array([57.0, 58.0, 32.0]) + rng.normal(0, [4, 5, 5])
    meeting = meeting + np.array([[0], [1], [1], [-2]]) + rng.normal(0, [2, 2, 3], (4, 3))
    pinched = label == 0 or (label == 1 and rng.random() < 0.15)

    extended = np.array(EXTENDED[label])
    flexion = np.where(extended[:, None], straight, meeting if pinched else fist)
    openness = rng.uniform(0.1, 1.35) if label in (4, 5) else rng.uniform(0.45, 1.3)
    abduction = SPREAD * openness + np.radians(rng.normal(0, 2, 4))
    if label in (2, 3):  # the V opens at the two stretched fingers
        opening = np.radians(rng.uniform(9, 32))
        abduction[:2] = np.radians(rng.normal(2, 3)) + np.array([0.55, -0.45]) * opening
    # Curled fingers close up and point at the thumb's root.
    abduction = np.where(extended, abduction, np.radians([3.0, -1, 2, 7]) * (0.4 if pinched else 1))
    return np.radians(flexion), abduction, pinched


def _finger_joints(
    bones: _Bones, flexion: np.ndarray, abduction: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Joints `[4, 4, 3]` (knuckle to tip) and palm-side directions of the phalanges `[4, 3, 3]`."""
    bend = np.cumsum(flexion, axis=1)[..., None]
    ahead = np.stack([np.sin(abduction), np.cos(abduction), 0 * abduction], -1)[:, None]
    out = np.array([0.0, 0.0, 1.0])
    along = np.cos(bend) * ahead + np.sin(bend) * out
    palmar = np.cos(bend) * out - np.sin(bend) * ahead
    steps = np.concatenate([bones.knuckles[:, None], along * bones.phalanges[..., None]], axis=1)
    return np.cumsum(steps, axis=1), palmar


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.sqrt(np.einsum("...c,...c->...", v, v))[..., None]


def _reach(joints: np.ndarray, lengths: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Moves a chain of joints `[J, 3]` so that its end reaches the target, its root fixed.

    FABRIK (Aristidou and Lasenby 2011, section 4).
    """
    root, joints = joints[0].copy(), joints.copy()
    for _ in range(4):
        joints[-1] = target
        for j in range(len(lengths) - 1, -1, -1):
            joints[j] = joints[j + 1] + lengths[j] * _unit(joints[j] - joints[j + 1])
        joints[0] = root
        for j in range(len(lengths)):
            joints[j + 1] = joints[j] + lengths[j] * _unit(joints[j + 1] - joints[j])
    return joints


def _thumb_joints(
    label: int,
    bones: _Bones,
    fingers: np.ndarray,
    palmar: np.ndarray,
    pinched: bool,
    rng: np.random.Generator,
) -> np.ndarray:
    """Joints `[4, 3]` of the thumb from its root in the wrist to the ball of its tip."""
    if label in (3, 5):
        angle = np.radians(rng.uniform(30, 62) + np.array([0, rng.uniform(-4, 10), rng.uniform(-16, 14)]))
        lift = rng.uniform(0.0, 0.35) * np.array([1.0, 0.7, 0.3])
        along = _unit(np.stack([np.sin(angle), np.cos(angle), lift], -1))
        target = None
    elif pinched:
        along = _unit(np.array([[0.30, 0.35, 0.9], [0.0, 0.6, 0.8], [-0.05, 0.85, 0.5]]))
        tips, inside = fingers[:, 3], palmar[:, 2]
        first = 1 if label == 1 else 0
        touch = tips[first : first + 2].mean(0) + inside[first] * 1.3 * bones.thickness
        target = touch + rng.normal(0, 0.15, 3)
    elif label == 4:
        along = _unit(np.array([[-0.05, 0.85, 0.5], [-0.8, 0.5, -0.2], [-0.85, 0.35, -0.3]]))
        target = np.array([rng.uniform(-3.0, -1.0), rng.uniform(6.0, 7.9), 0]) * bones.width
        target[2] = 1.95 * bones.thickness
    else:
        along = _unit(np.array([[0.2, 0.6, 0.75], [-0.5, 0.65, 0.55], [-0.85, 0.5, 0.1]]))
        over = 1 if label == 1 else 2
        place = rng.uniform(0.35, 1.1)
        target = fingers[over, 1] * (1 - place) + fingers[over, 2] * place
        target = target - palmar[over, 1] * 1.65 * bones.thickness
        target[0] += rng.uniform(-0.9, 0.7)
    joints = np.cumsum(np.vstack([bones.thumb_root, along * bones.thumb_bones[:, None]]), axis=0)
    return joints if target is None else _reach(joints, bones.thumb_bones, target)


def _between(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    return a * (1 - t) + b * t


def _add_arm(flesh: _Flesh, bones: _Bones, rng: np.random.Generator) -> None:
    bend, tilt = np.radians(rng.normal(0, [9, 10]))
    down = _unit(np.array([np.sin(bend), -np.cos(bend), np.sin(tilt)]))
    side = _unit(np.array([np.cos(bend), np.sin(bend), 0.0]))
    thin = bones.thickness * rng.uniform(0.9, 1.05)
    wrist, elbow = np.array([0, 0.6, -0.1]), down * 45
    for s in (-1, 1):
        start, end = wrist + 1.1 * s * side, elbow + 2.4 * s * side
        flesh.add(start, end, 1.62 * thin, 3.7 * thin, blend=0.5, is_arm=True)
    if rng.random() < 0.22:
        cuff = rng.uniform(2.5, 11)
        for s in (-1, 1):
            at = down * cuff + 1.3 * s * side
            end = elbow + 2.5 * s * side
            flesh.add(at, end, 2.5 * thin, 4.6 * thin, blend=0.3, material=SLEEVE, is_arm=True)


def _add_palm(flesh: _Flesh, bones: _Bones, thumb: np.ndarray) -> None:
    thick, wide = bones.thickness, bones.width
    for knuckle, radius in zip(bones.knuckles, (1.25, 1.2, 1.18, 1.1), strict=True):
        flesh.add(knuckle * [0.5, 0.12, 1], knuckle * [1, 0.95, 1], 1.5 * thick, radius * thick)
    # Heel of the hand, its outer edge, and the pad across the knuckles.
    flesh.add((-1.5 * wide, 1.3, 0.1), (1.2 * wide, 1.3, 0.1), 1.6 * thick, 1.6 * thick)
    flesh.add((-1.9 * wide, 2.0, 0.5), (-2.9 * wide, 6.2, 0.3), 1.45 * thick, 1.2 * thick)
    k = bones.knuckles
    flesh.add(k[0] + [0, -0.5, 0.1], k[3] + [0, -0.2, 0.1], 1.0 * thick, 0.95 * thick)
    root, joint = thumb[0], thumb[1]
    flesh.add(root, joint, bones.thumb_radii[0], bones.thumb_radii[1])
    flesh.add((0.8, 2.7, 0.6), _between(root, joint, 0.7), 1.45 * thick, 1.25 * thick)
    # The skin between the thumb and the index finger.
    for on_thumb, on_index in ((0.35, 0.55), (0.6, 0.72), (0.8, 0.82)):
        a, b = _between(root, joint, on_thumb), _between(root, k[0], on_index)
        flesh.add(a, b, 0.85 * thick, 0.85 * thick)


def _add_digit(flesh: _Flesh, joints: np.ndarray, radii: np.ndarray, palmar: np.ndarray, skip: int) -> None:
    for j in range(skip, 3):
        blend = 0.12 if j == 0 else 0.07
        flesh.add(joints[j], joints[j + 1], radii[j], radii[j + 1], palmar[j], blend)
    along = _unit(joints[3] - joints[2])
    tip, radius, back = joints[3], radii[3], -palmar[2]
    nail = tip + back * (radius * 0.42)
    flesh.add(
        nail - along * radius * 0.9,
        nail + along * radius * 0.35,
        0.68 * radius,
        0.62 * radius,
        palmar[2],
        0.03,
        NAIL,
    )


def sample_hand(label: int, rng: np.random.Generator) -> RoundCones:
    """A random person's right hand showing the sign `label`, 0 to 5, the forearm leaving at -y."""
    bones = _sample_bones(rng)
    flexion, abduction, pinched = _finger_angles(label, rng)
    fingers, palmar = _finger_joints(bones, flexion, abduction)
    thumb = _thumb_joints(label, bones, fingers, palmar, pinched, rng)

    flesh = _Flesh()
    _add_arm(flesh, bones, rng)
    _add_palm(flesh, bones, thumb)
    # The skin between neighbouring fingers.
    for i in range(3):
        for t in (0.08, 0.32):
            a, b = (_between(fingers[n, 0], fingers[n, 1], t) for n in (i, i + 1))
            flesh.add(a, b, 0.62 * bones.thickness, 0.62 * bones.thickness, palmar[i, 0], 0.15)
    for i in (3, 2, 1, 0):
        _add_digit(flesh, fingers[i], bones.radii[i], palmar[i], skip=0)

    # The thumb's pad faces the fingers: across its own bend, or the index finger when straight.
    along = _unit(np.diff(thumb, axis=0))
    inward = bones.knuckles[1] + [0, -3.0, 2.5] - thumb[2]
    pad = _unit(inward - along * (along * inward).sum(-1, keepdims=True))
    _add_digit(flesh, thumb, bones.thumb_radii, pad, skip=1)
    return flesh.cones()
