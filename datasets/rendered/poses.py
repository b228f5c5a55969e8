"""Poses of a hand that shows a sign, in the many ways that people have.

0 is a ring of thumb and fingers, or a fist. The others stretch as many digits as they say; which ones is a
matter of where people learned to count.
"""

from typing import NamedTuple

import numpy as np

from datasets.rendered.skeleton import Bones, finger_joints, reach, thumb_joints, unit

INDEX, MIDDLE, RING, LITTLE, THUMB = 1, 2, 3, 4, 5  # digits

# Which digits people stretch for a sign, and how often each way is drawn. SIGNS has only the first ways.
# Drawing the others more often costs accuracy there: with a quarter of the 3s drawn without the thumb, a
# network takes many a 2 for a 3.
WAYS = {
    0: {(): 1.0},
    1: {(INDEX,): 0.96, (THUMB,): 0.04},
    2: {(INDEX, MIDDLE): 0.92, (INDEX, THUMB): 0.08},
    3: {(INDEX, MIDDLE, THUMB): 0.88, (INDEX, MIDDLE, RING): 0.12},
    4: {(INDEX, MIDDLE, RING, LITTLE): 0.78, (INDEX, MIDDLE, RING, THUMB): 0.22},
    5: {(INDEX, MIDDLE, RING, LITTLE, THUMB): 1.0},
}


class Sign(NamedTuple):
    """A number from 0 to 5, and the `digits` that are stretched to show it, in ascending order."""

    label: int
    digits: tuple[int, ...]

    @property
    def fingers(self) -> int:
        """How many fingers are stretched, beginning with the index finger, the thumb not counted."""
        return len(self.digits) - self.thumb

    @property
    def thumb(self) -> bool:
        """Whether the thumb is stretched."""
        return THUMB in self.digits


def sample_sign(label: int, rng: np.random.Generator) -> Sign:
    """Returns a random one of the ways to show `label`, 0 to 5."""
    ways = list(WAYS[label])
    return Sign(label, ways[rng.choice(len(ways), p=list(WAYS[label].values()))])


# Degrees of flexion at the three joints of a folded finger, in three kinds of fist.
TIGHT, LOOSE, HOOKED = np.array([[86.0, 105, 60], [64, 92, 42], [38, 106, 62]])
# The same for fingers that meet the thumb in a wide ring, in a narrow one and in a beak.
WIDE, NARROW, BEAK = np.array([[50.0, 54, 30], [68, 72, 36], [70, 38, 20]])
# The same for a little finger that is folded alone. Beside a stretched ring finger, hardly anybody bends its
# knuckle far: seen from behind, its first bone stands off like a stump.
ALONE = np.array([5.0, 100, 52])
FIST_ABDUCTION = np.array([3.0, -1, 2, 7])  # degrees: folded fingers lie close and point at the thumb's root

# How people hold a thumb that the sign does not stretch, and how often.
AT_REST = {
    "across": 0.45,  # over the folded fingers
    "beside": 0.17,  # along the index finger
    "ajar": 0.10,  # a little away from the hand, bent
    "tucked": 0.08,  # under the folded fingers
    "meeting": 0.20,  # its tip on the tip of the first folded finger
}


class Pose(NamedTuple):
    """Places of all joints.

    Attributes:
      fingers: `[4, 4, 3]` cm, index to little finger, joints from knuckle to tip.
      palmar: `[4, 3, 3]` unit vectors towards the palm side of the phalanges.
      thumb: `[4, 3]` cm, from its root to its tip.
    """

    fingers: np.ndarray
    palmar: np.ndarray
    thumb: np.ndarray


def _stretched(sign: Sign, rng: np.random.Generator) -> np.ndarray:
    """Returns the degrees of flexion `[4, 3]` of stretched fingers."""
    straight = np.array([5.0, 6.0, 4.0]) + rng.normal(0, [8, 4, 3]) + rng.normal(0, [4.5, 5, 3], (4, 3))
    if sign.fingers > 2:  # A half-open hand is common. The little finger bends first.
        relaxed = rng.uniform(0, 1) ** 2 * 16
        straight += relaxed * np.array([1.0, 1.5, 0.8]) * np.array([[0.6], [0.8], [1], [1.2]])
    else:
        straight += rng.uniform(0, 1) ** 3 * np.array([8, 14, 8])
    return np.maximum(straight, [-14, -3, -5])


def _folded(sign: Sign, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Returns the degrees of flexion `[4, 3]` of folded fingers."""
    tight = sign.thumb and sign.fingers < 2  # Beside the thumb, half-open fingers would count.
    fold = TIGHT + (LOOSE - TIGHT) * rng.uniform(-0.1, 0.3 if tight else 1)
    if rng.random() < 0.2 * strength and not tight:
        fold = fold + (HOOKED - fold) * rng.uniform(0.3, 1)
    fold = fold + rng.normal(0, [4, 4, 8]) + rng.normal(0, [5, 5, 6], (4, 3))
    if _folds_little_finger_alone(sign):
        fold[3] += (ALONE - fold[3]) * rng.uniform(0, 1) ** 0.5
    elif 0 < sign.fingers < 4:  # A stretched finger pulls its neighbour along.
        fold[sign.fingers] -= rng.uniform(0, 1) ** 2 * np.array([20, 8, 4])
    return np.minimum(fold, [94, 112, 72])


def _folds_little_finger_alone(sign: Sign) -> bool:
    """Returns whether the little finger is folded without the thumb that could keep it down."""
    return sign.thumb and sign.fingers == 3


def _meeting(sign: Sign, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Returns the degrees of flexion `[4, 3]` of fingers that meet the thumb tip to tip."""
    if sign.label == 0:
        ring = WIDE + (NARROW - WIDE) * rng.uniform(-0.1, 1)
    else:  # well away from the stretched fingers
        ring = NARROW + (LOOSE - NARROW) * rng.uniform(0, 1)
    if sign.label == 0 and rng.random() < 0.2 * strength:
        ring = ring + (BEAK - ring) * rng.uniform(0.2, 0.8)
    fan = rng.normal(1, 4) * np.arange(4)[:, None] * np.array([1, 1, 0.5])
    return ring + fan + rng.normal(0, [3, 4, 5]) + rng.normal(0, [2.5, 3, 3], (4, 3))


def _abduction(sign: Sign, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Returns the degrees `[4]` by which stretched fingers turn towards the thumb.

    The fingers are close together up to widely spread.
    """
    if sign.fingers > 2:
        openness = rng.uniform(0.1 - 0.4 * strength, 1.35) + rng.normal(0, 0.2, 3)
        if rng.random() < 0.1:  # two pairs of fingers with a gap between them
            openness[1] += 0.8
            openness[[0, 2]] = -0.2
        if rng.random() < 0.3:  # A little finger may stand as far out as a thumb.
            openness[2] *= rng.uniform(1.2, 2.6)
        gaps = np.maximum(openness, -0.35) * np.array([10, 10, 12.5])
        middle = rng.normal(1, 2.5)
        return middle + np.array([gaps[0], 0, -gaps[1], -gaps[1] - gaps[2]])
    # The V is between the two stretched fingers.
    opening = rng.uniform(-4, 8) if rng.random() < 0.4 * strength else rng.uniform(8, 38)
    heading = rng.normal(2, 4) if sign.fingers > 1 else rng.normal(4, 5)
    return heading + np.array([0.55, -0.45, 0, 0]) * opening


def _in_plane(angle: np.ndarray, lift: np.ndarray) -> np.ndarray:
    """Returns unit vectors `[3, 3]` at `angle` degrees from the fingers towards the thumb's side.

    `lift` is how far they rise out of the palm.
    """
    angle = np.radians(angle)
    return unit(np.stack([np.sin(angle), np.cos(angle), lift], -1))


def _thumb(
    hold: str,
    first: int,
    *,
    bones: Bones,
    fingers: np.ndarray,
    palmar: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Returns the joints `[4, 3]` of a thumb that is held as `hold` says.

    `first` is the first folded finger, 0 to 3; `fingers` and `palmar` are those of a `Pose`.
    """
    if hold in ("wide", "out", "close", "beside", "ajar"):
        return thumb_joints(bones, _free_thumb(hold, rng))
    if hold in ("tucked", "folded"):
        along, target = _thumb_in_palm(hold, bones, rng)
    else:
        along, target = _thumb_on_fingers(
            hold, first, bones.thickness, fingers=fingers, palmar=palmar, rng=rng
        )
    return reach(thumb_joints(bones, along), bones.thumb_bones, target)


def _free_thumb(hold: str, rng: np.random.Generator) -> np.ndarray:
    """Returns the directions `[3, 3]` of the bones of a thumb that touches nothing."""
    if hold == "wide":  # so that nobody takes it for one that rests
        angle = rng.uniform(48, 76) + np.array([0, rng.uniform(-6, 8), rng.uniform(-10, 12)])
        return _in_plane(angle, rng.uniform(-0.05, 0.35) * np.array([1.0, 0.7, 0.3]))
    if hold == "out":
        angle = rng.uniform(28, 68) + np.array([0, rng.uniform(-8, 10), rng.uniform(-20, 16)])
        return _in_plane(angle, rng.uniform(-0.05, 0.45) * np.array([1.0, 0.7, 0.3]))
    if hold == "close":  # stretched, near the index finger
        angle = rng.uniform(24, 32) - np.array([0, rng.uniform(2, 14), rng.uniform(4, 18)])
        return _in_plane(angle, rng.uniform(0.05, 0.35) * np.array([1.0, 0.4, 0.1]))
    if hold == "beside":
        bend = np.cumsum([rng.uniform(15, 28), -rng.uniform(8, 24), -rng.uniform(0, 32)])
        return _in_plane(bend, rng.uniform(0.1, 0.4) * np.array([1.0, 0.3, -0.2]))
    bend = np.cumsum([rng.uniform(22, 40), -rng.uniform(6, 24), -rng.uniform(20, 60)])
    return _in_plane(bend, rng.uniform(0.1, 0.45) * np.array([1.0, 0.4, 0.0]))


def _thumb_in_palm(hold: str, bones: Bones, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first directions `[3, 3]` of the bones and the target `[3]` of the tip."""
    if hold == "tucked":
        along = unit(np.array([[0.0, 0.8, 0.6], [-0.7, 0.6, 0.0], [-0.85, 0.35, -0.2]]))
        target = np.array([rng.uniform(-2.2, 0.4), rng.uniform(5.2, 7.2), 0]) * bones.width
        target[2] = 1.75 * bones.thickness
    else:  # into the palm of a 4
        along = unit(np.array([[0.0, 0.85, 0.5], [-0.75, 0.55, -0.1], [-0.85, 0.35, -0.3]]))
        target = np.array([rng.uniform(-3.2, 1.8), rng.uniform(5.2, 8.6), 0]) * bones.width
        target[2] = rng.uniform(1.7, 2.3) * bones.thickness
    return along, target


def _thumb_on_fingers(
    hold: str,
    first: int,
    thickness: float,
    *,
    fingers: np.ndarray,
    palmar: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first directions `[3, 3]` of the bones and the target `[3]` of the tip."""
    if hold == "meeting":
        along = unit(np.array([[0.30, 0.35, 0.9], [0.0, 0.6, 0.8], [-0.05, 0.85, 0.5]]))
        last = min(first + 2, 4)
        touch = fingers[first:last, 3].mean(0)
        apart = 1.3 * thickness + (rng.uniform(0, 1.4) if rng.random() < 0.3 else 0)
        target = touch + palmar[first, 2] * apart + rng.normal(0, 0.25, 3)
    else:  # across
        along = unit(np.array([[0.2, 0.6, 0.75], [-0.5, 0.65, 0.55], [-0.85, 0.5, 0.1]]))
        over = min(first + int(rng.integers(0, 2)), 3)
        place = rng.uniform(0.1, 1.1)
        target = fingers[over, 1] * (1 - place) + fingers[over, 2] * place
        target = target - palmar[over, 1] * 1.6 * thickness
        target[0] += rng.uniform(-0.8, 0.9)
    return along, target


def sample_pose(sign: Sign, bones: Bones, strength: float, rng: np.random.Generator) -> Pose:
    """Returns a random pose in which a person with these bones shows `sign`.

    The higher `strength`, 0 to 1, the likelier is a pose that few people choose.
    """
    extended = np.arange(4) < sign.fingers
    if sign.thumb and sign.fingers < 2:
        hold = "wide"
    elif sign.thumb:
        hold = "close" if sign.label == 5 and rng.random() < 0.25 * strength else "out"
    elif sign.fingers == 4:
        hold = "folded"
    elif sign.fingers == 0:
        hold = "across" if rng.random() < 0.2 * strength else "meeting"
    elif sign.fingers == 3:  # The thumb keeps the little finger down.
        hold = "across" if rng.random() < 0.3 else "meeting"
    else:
        hold = rng.choice(list(AT_REST), p=list(AT_REST.values()))
    meets = hold == "meeting"
    folded = _meeting(sign, strength, rng) if meets else _folded(sign, strength, rng)
    flexion = np.where(extended[:, None], _stretched(sign, rng), folded)
    fist = FIST_ABDUCTION * (0.4 if meets else 1) + rng.normal(0, 1.5, 4)
    spread = _abduction(sign, strength, rng)
    abduction = np.where(extended, spread, fist)
    if _folds_little_finger_alone(sign):  # The straighter its knuckle, the farther it stands off.
        aside = spread[3] - rng.uniform(0, 20)
        abduction[3] = np.interp(flexion[3, 0], [ALONE[0], TIGHT[0]], [aside, fist[3]])
    fingers, palmar = finger_joints(bones, np.radians(flexion), np.radians(abduction))
    thumb = _thumb(hold, sign.fingers % 4, bones=bones, fingers=fingers, palmar=palmar, rng=rng)
    return Pose(fingers, palmar, thumb)
