"""Photographs a hand: where it is in the picture, what is behind it, and which light falls on both.

Drawn at OVERSAMPLING times the image size and reduced, in linear light. Colour arrays have their
channels first until the very end.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from datasets.background import Background, sample_background
from datasets.camera import expose
from datasets.hand import ARM, PALM, SKIN, RoundCones, stretched_digits
from datasets.pixels import OVERSAMPLING, clip, grid, reduce, shift, soften
from datasets.round_cones import draw
from datasets.shading import Light, Picture, lit_hand, sample_light, sample_skin

CENTRE = np.array([0.0, 8.0, 0.0])  # of a hand, cm
VIEWS_TO_TRY = 6  # each nearer to the front, until all that a sign stretches is in sight


class Strength(NamedTuple):
    """How far each side of a picture may go from the ordinary, 0 to 1.

    sign: pose of the hand and view of it; place: its size and what the border cuts off.
    """

    sign: float
    place: float
    background: float
    light: float
    camera: float


def sample_strength(most: float, rng: np.random.Generator) -> Strength:
    """A picture's difficulty, as likely to be low as high, up to `most`, dealt to its sides in random order.

    One side alone gets it in full: a hand that is tiny, dark and blurred at once nobody can read.
    """
    return Strength(*(most * rng.random() * rng.permutation(np.linspace(0, 1, 5))))


def _rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """`[3, 3]`: turns about y, then x, then z (degrees)."""
    angles = np.radians([yaw, pitch, roll])
    (a, b, c), (sa, sb, sc) = np.cos(angles), np.sin(angles)
    about_y = np.array([[a, 0, sa], [0, 1, 0], [-sa, 0, a]])
    about_x = np.array([[1, 0, 0], [0, b, -sb], [0, sb, b]])
    about_z = np.array([[c, -sc, 0], [sc, c, 0], [0, 0, 1]])
    return about_z @ about_x @ about_y


# How far round a viewer still tells the sign, degrees of yaw. A 1 shows from everywhere.
MOST_YAW = {1: 75, 2: 42, 3: 34, 4: 42, 5: 48}


def _sample_yaw(label: int, strength: float, rng: np.random.Generator) -> float:
    if label == 0:  # the ring shows from the thumb's side; from the front it looks like a loose fist
        if rng.random() > strength:
            return -rng.uniform(45, 108)
        kind = rng.random()
        if kind < 0.6:
            return -rng.uniform(12, 55)
        return rng.normal(0, 14) if kind < 0.9 else rng.uniform(20, 100)
    most = MOST_YAW[label]
    yaw = (0.2 + 0.5 * strength) * most * rng.normal()
    yaw = min(max(yaw, -most), most)
    return yaw + 180 if rng.random() < 0.6 * strength else yaw


def _shows(hand: RoundCones, view: np.ndarray, digits: Sequence[int]) -> bool:
    """Whether the tips of these digits are in sight."""
    start, end = hand.start @ view.T, hand.end @ view.T
    distal = (hand.material == SKIN) & hand.bends[:, 0] & ~hand.bends[:, 1] & np.isin(hand.limb, digits)
    tips, run = end[distal][:, None], end - start
    along = ((tips - start)[..., :2] * run[:, :2]).sum(-1) / np.maximum((run[:, :2] ** 2).sum(-1), 0.01)
    along = clip(along, 0, 1)[..., None]
    beyond = tips - start - run * along
    radius = hand.radius[:, 0] + (hand.radius[:, 1] - hand.radius[:, 0]) * along[..., 0]
    covered = (beyond[..., :2] ** 2).sum(-1) < (radius + 0.25) ** 2
    others = hand.limb != hand.limb[distal][:, None]
    return not (covered & others & (beyond[..., 2] < 0)).any()


def sample_view(label: int, hand: RoundCones, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Rotation `[3, 3]` from the hand's frame to that of a viewer who can tell the sign `label`.

    With `strength`, 0 to 1, it goes from the front and upright to steep views, the back, and any roll.
    """
    for most in np.linspace(strength, 0, VIEWS_TO_TRY):
        kind = rng.random()
        if kind < 0.4 * most:
            roll = rng.uniform(-95, 95) if kind > 0.06 * most else rng.uniform(-180, 180)
        else:
            roll = (10 + 20 * most) * rng.normal()
        pitch = (6 + 8 * most) * rng.normal()
        view = _rotation(_sample_yaw(label, most, rng), min(max(pitch, -28), 28), roll)
        if _shows(hand, view, stretched_digits(label)):
            break
    return view


def _field(
    hand: RoundCones, low: np.ndarray, high: np.ndarray, strength: float, rng: np.random.Generator
) -> tuple:
    """Corner `[2]` and side of the square, cm, that the picture shows.

    low, high: `[P, 2]`, the boxes of the cones. At `strength` 0 the hand is whole and takes 0.6 to 0.9 of
    the picture, at 1 a third up to all of it, and in close-ups its wrist and palm may lie outside.
    """
    close_up = rng.random() < 0.3 * strength
    shown = hand.limb > PALM if close_up else hand.limb != ARM
    low, high = low[shown].min(0), high[shown].max(0)
    fill = rng.uniform(0.85, 1.03) if close_up else rng.uniform(0.6 - 0.28 * strength, 0.9 + 0.1 * strength)
    side = (high - low).max() / fill
    free = side - (high - low)
    # Beyond 0 and 1 a hand touches the border.
    beyond = 0.03 * strength * fill
    place = rng.uniform(-beyond, 1 + beyond, 2)
    return low - free * place, side


def take_aim(
    hand: RoundCones, view: np.ndarray, size: int, strength: float, rng: np.random.Generator
) -> Picture:
    """The hand as a random camera sees it, in a `[size, size]` picture."""
    left = rng.random() < 0.5
    distance = np.exp(rng.uniform(np.log(26), np.log(100)))  # cm
    to_picture = view.T * [-1 if left else 1, -1, 1]
    points = (np.stack([hand.start, hand.end]) - CENTRE) @ to_picture
    nearness = distance / np.maximum(distance - points[..., 2], 15)
    points[..., :2] *= nearness[..., None]
    radius = hand.radius * nearness.T

    reach = radius.T[..., None]
    low, high = (points[..., :2] - reach).min(0), (points[..., :2] + reach).max(0)
    corner, side = _field(hand, low, high, strength, rng)
    points[..., :2] -= corner
    scale = size / side
    points *= scale
    surface = draw(points[0], points[1], radius * scale, hand.blend * scale, size)
    return Picture(
        surface,
        hand,
        (hand.palmar @ to_picture).astype(np.float32),
        points[0, :, :2].astype(np.float32),
        points[1, :, :2].astype(np.float32),
        scale,
        to_picture,
        -corner * scale,
        CENTRE,
        distance,
    )


def _lit_background(coverage: np.ndarray, background: Background, scale: float, light: Light) -> np.ndarray:
    """Linear RGB light from what is behind the hand, float32 `[3, S, S]`, with the hand's shadow.

    coverage: how much of each pixel the hand covers, `[S, S]`, 0 to 1; scale: its pixels per cm.
    """
    light_in = light.direct * (light.direction[2] * 0.5 + 0.5)
    light_in = light_in + light.fill * (light.fill_direction[2] * 0.5 + 0.5) + light.ambient
    if background.distance > 30:
        return background.reflectance * light_in[..., None]
    behind = background.distance
    across = light.direction[:2] / light.direction[2]
    shadow = soften(shift(coverage, -across * behind * scale), (0.3 + 0.07 * behind) * scale)
    # Near the hand the wall also loses some of the light from everywhere.
    nearby = soften(coverage, 1.8 * scale) * np.float32(0.5 / (1 + behind / 3))
    lost = light.direct[..., None] * (light.direction[2] * 0.5 + 0.5) * shadow * np.float32(0.8)
    return background.reflectance * (light_in[..., None] - lost - light.ambient[..., None] * nearby)


def _shade(size: int, rng: np.random.Generator) -> np.ndarray:
    """The light that something outside the picture leaves, `[S, S]`: a window's frame, a head, a shelf."""
    x, y = grid(size)
    angle = rng.uniform(0, 2 * np.pi)
    line = np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y - np.float32(rng.uniform(-0.7, 0.7))
    edge = clip(line * np.float32(np.exp(rng.uniform(0, 3))) + 0.5, 0, 1)
    return 1 - np.float32(rng.uniform(0.2, 0.65)) * edge


def photograph(
    hand: RoundCones, view: np.ndarray, size: int, strength: Strength, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A random photograph of a hand turned by `view` `[3, 3]`, sRGB uint8 `[size, size, 3]`, and its matte,
    uint8 `[size, size]`: how much of each pixel is hand or arm (255) and not background (0).

    Handedness, place, distance, light, skin, clothes, background and camera come from `rng`.
    """
    picture = take_aim(hand, view, size * OVERSAMPLING, strength.place, rng)
    light, skin = sample_light(strength.light, rng), sample_skin(rng)
    shown = reduce(lit_hand(picture, light, skin, rng))
    coverage = reduce((picture.surface.part >= 0).astype(np.float32))
    background = sample_background(size, skin[0], strength.background, rng)
    behind = _lit_background(coverage, background, picture.scale / OVERSAMPLING, light)
    scene = shown + behind * (1 - coverage)
    if rng.random() < 0.3 * strength.light:
        scene = scene * _shade(size, rng)
    return expose(scene, coverage, strength.camera, rng)
