"""The bones of a hand: their sizes, and where joint angles put them.

Lengths are centimetres of an average adult hand. The hand is a right hand in the frame
x: towards the thumb, y: from the wrist towards the fingers, z: out of the palm; the wrist is the
origin. A viewer on +z looks into the palm.
"""

from typing import NamedTuple

import numpy as np

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
THUMB_ROOT = np.array([1.8, 2.2, 0.7])
THUMB_BONES = np.array([4.4, 3.3, 2.1])  # metacarpal, proximal, distal
THUMB_RADII = np.array([1.55, 1.15, 1.02, 0.78])


class Bones(NamedTuple):
    """Sizes of one person's hand, cm.

    knuckles: `[4, 3]`, phalanges: `[4, 3]`, radii: `[4, 4]` of the flesh at a finger's joints.
    thumb_root: `[3]`, thumb_bones: `[3]`, thumb_radii: `[4]`. thickness, width: of the hand, 1 on average.
    """

    knuckles: np.ndarray
    phalanges: np.ndarray
    radii: np.ndarray
    thumb_root: np.ndarray
    thumb_bones: np.ndarray
    thumb_radii: np.ndarray
    thickness: float
    width: float


def sample_bones(rng: np.random.Generator) -> Bones:
    """A random person's: from a child's short round fingers to long thin ones."""

    def near_one(spread, shape=()):
        return np.clip(rng.normal(1.0, spread, shape), 1 - 2.2 * spread, 1 + 2.2 * spread)

    thickness, reach = 1.04 * near_one(0.12), near_one(0.08)
    # Broad palms carry thick fingers.
    width, length = near_one(0.05) * thickness**0.4, near_one(0.06)
    taper = rng.normal(0, 0.05) * np.linspace(1, -1, 4)  # of the fingers towards their tips
    palm = np.array([width, length, thickness])
    return Bones(
        knuckles=KNUCKLES * palm,
        phalanges=PHALANGES * reach * near_one(0.04, (4, 1)) * near_one(0.03, (4, 3)),
        radii=RADII * thickness * near_one(0.03, (4, 1)) * (near_one(0.03, (1, 4)) + taper),
        thumb_root=THUMB_ROOT * palm,
        thumb_bones=THUMB_BONES * reach * near_one(0.05, 3),
        thumb_radii=THUMB_RADII * thickness * (near_one(0.03, 4) + taper),
        thickness=float(thickness),
        width=float(width),
    )


def unit(v: np.ndarray) -> np.ndarray:
    """`[..., C]` divided by their lengths."""
    return v / np.sqrt(np.einsum("...c,...c->...", v, v))[..., None]


def finger_joints(bones: Bones, flexion: np.ndarray, abduction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Joints `[4, 4, 3]` (knuckle to tip) and palm-side directions of the phalanges `[4, 3, 3]`.

    flexion: `[4, 3]` rad, of each joint out of the palm. abduction: `[4]` rad, towards the thumb.
    """
    bend = np.cumsum(flexion, axis=1)[..., None]
    ahead = np.stack([np.sin(abduction), np.cos(abduction), 0 * abduction], -1)[:, None]
    out = np.array([0.0, 0.0, 1.0])
    along = np.cos(bend) * ahead + np.sin(bend) * out
    palmar = np.cos(bend) * out - np.sin(bend) * ahead
    steps = np.concatenate([bones.knuckles[:, None], along * bones.phalanges[..., None]], axis=1)
    return np.cumsum(steps, axis=1), palmar


def thumb_joints(bones: Bones, along: np.ndarray) -> np.ndarray:
    """Joints `[4, 3]` of the thumb, from its root in the wrist to the ball of its tip.

    along: `[3, 3]`, unit vectors of its three bones.
    """
    return np.cumsum(np.vstack([bones.thumb_root, along * bones.thumb_bones[:, None]]), axis=0)


def reach(joints: np.ndarray, lengths: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Moves a chain of joints `[J, 3]` so that its end reaches the target, its root fixed.

    FABRIK (Aristidou and Lasenby 2011, section 4).
    """
    root, joints = joints[0].copy(), joints.copy()
    for _ in range(4):
        joints[-1] = target
        for j in range(len(lengths) - 1, -1, -1):
            joints[j] = joints[j + 1] + lengths[j] * unit(joints[j] - joints[j + 1])
        joints[0] = root
        for j in range(len(lengths)):
            joints[j + 1] = joints[j] + lengths[j] * unit(joints[j + 1] - joints[j])
    return joints
