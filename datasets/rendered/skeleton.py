"""The bones of a hand: their sizes, and their places for given joint angles.

Lengths are in centimetres, here those of an average adult. The hand is a right hand and its wrist the origin:
x points towards the thumb, y from the wrist towards the fingers, z out of the palm. A viewer on +z looks
into the palm.
"""

from typing import NamedTuple

import numpy as np

# Rows: index, middle, ring and little finger. The last length ends at the centre of the fingertip's ball.
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

    Attributes:
      knuckles: `[4, 3]`, places of the fingers' first joints.
      phalanges: `[4, 3]`, lengths of the fingers' bones.
      radii: `[4, 4]`, of the flesh at the fingers' joints.
      thumb_root: `[3]`, place of the thumb's first joint.
      thumb_bones: `[3]`, lengths of the thumb's bones.
      thumb_radii: `[4]`, of the flesh at the thumb's joints.
      thickness, width: of the hand, relative to the average.
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
    """Returns a random person's bones, from a child's short round fingers to long thin ones."""

    def near_one(spread: float, shape: int | tuple[int, ...] = ()) -> np.ndarray:
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
    """Returns vectors `[..., C]` divided by their lengths."""
    return v / np.sqrt(np.einsum("...c,...c->...", v, v))[..., None]


def finger_joints(bones: Bones, flexion: np.ndarray, abduction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns where the fingers are.

    Args:
      bones: sizes of the hand.
      flexion: `[4, 3]` rad, of the joints, out of the palm.
      abduction: `[4]` rad, of the fingers, towards the thumb.

    Returns: the joints from knuckle to tip, `[4, 4, 3]` cm, and unit vectors towards the palm side of the
    phalanges, `[4, 3, 3]`.
    """
    bend = np.cumsum(flexion, axis=1)[..., None]
    ahead = np.stack([np.sin(abduction), np.cos(abduction), 0 * abduction], -1)[:, None]
    out = np.array([0.0, 0.0, 1.0])
    along = np.cos(bend) * ahead + np.sin(bend) * out
    palmar = np.cos(bend) * out - np.sin(bend) * ahead
    steps = np.concatenate([bones.knuckles[:, None], along * bones.phalanges[..., None]], axis=1)
    return np.cumsum(steps, axis=1), palmar


def thumb_joints(bones: Bones, along: np.ndarray) -> np.ndarray:
    """Returns the joints of the thumb, `[4, 3]` cm, from its root in the wrist to the ball of its tip.

    The three bones run along the unit vectors `along` `[3, 3]`.
    """
    return np.cumsum(np.vstack([bones.thumb_root, along * bones.thumb_bones[:, None]]), axis=0)


def reach(joints: np.ndarray, lengths: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Moves a chain of joints `[J, 3]` so that its end reaches `target` `[3]`. Its root stays.

    The bones keep their `lengths` `[J - 1]`. FABRIK (Aristidou and Lasenby 2011, section 4).
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
