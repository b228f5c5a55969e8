"""Photographs a hand: its place in the picture, what is behind it, and the light that falls on both.

The hand is drawn at OVERSAMPLING times the image size and then reduced, in linear light. Colour arrays have
their channels first until the very end.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from datasets.rendered.background import Background, sample_background
from datasets.rendered.camera import expose
from datasets.rendered.hand import ARM, PALM, SKIN, RoundCones
from datasets.rendered.pixels import OVERSAMPLING, clip, grid, reduce, shift, soften
from datasets.rendered.poses import THUMB, Sign
from datasets.rendered.round_cones import draw
from datasets.rendered.shading import Light, Picture, lit_hand, sample_light, sample_skin

CENTRE = np.array([0.0, 8.0, 0.0])  # of a hand, cm
VIEWS_TO_TRY = 6  # from odd ones to the front view, until all stretched digits are in sight
FAR_AWAY = 30  # cm; no shadow of the hand falls on a background farther behind


class Strength(NamedTuple):
    """How far the sides of a picture may go from the ordinary, 0 to 1.

    Attributes:
      sign: pose of the hand and view of it.
      place: size of the hand, and what the border cuts off.
      background, light, camera: as their names say.
    """

    sign: float
    place: float
    background: float
    light: float
    camera: float


def sample_strength(maximum: float, rng: np.random.Generator) -> Strength:
    """Draws the difficulty of a picture evenly from 0 to `maximum` and deals it out to its sides.

    Only one side gets all of it, the others less and less, in random order. Nobody could read a hand that is
    tiny, dark and blurred at once.
    """
    return Strength(*(maximum * rng.random() * rng.permutation(np.linspace(0, 1, 5))))


def _rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Returns the matrix `[3, 3]` that turns about y, then x, then z. Angles are in degrees."""
    angles = np.radians([yaw, pitch, roll])
    (a, b, c), (sa, sb, sc) = np.cos(angles), np.sin(angles)
    about_y = np.array([[a, 0, sa], [0, 1, 0], [-sa, 0, a]])
    about_x = np.array([[1, 0, 0], [0, b, -sb], [0, sb, b]])
    about_z = np.array([[c, -sc, 0], [sc, c, 0], [0, 0, 1]])
    return about_z @ about_x @ about_y


THUMB_UP = 55  # degrees of roll that turn a stretched thumb upwards
# Degrees of yaw up to which a viewer can still read a sign.
MAX_YAW = {1: 75, 2: 42, 3: 34, 4: 42, 5: 48}
MAX_YAW_OF_THUMB = 40  # alone


def _sample_yaw(sign: Sign, strength: float, rng: np.random.Generator) -> float:
    """Returns random degrees by which the hand is turned about its long axis."""
    if sign.label == 0:  # The ring is seen from the thumb's side. From the front it looks like a loose fist.
        if rng.random() > strength:
            return -rng.uniform(45, 108)
        kind = rng.random()
        if kind < 0.6:
            return -rng.uniform(12, 55)
        return rng.normal(0, 14) if kind < 0.9 else rng.uniform(20, 100)
    limit = MAX_YAW_OF_THUMB if sign.digits == (THUMB,) else MAX_YAW[sign.label]
    yaw = (0.2 + 0.5 * strength) * limit * rng.normal()
    yaw = min(max(yaw, -limit), limit)
    return yaw + 180 if rng.random() < 0.6 * strength else yaw


def _shows(hand: RoundCones, view: np.ndarray, digits: Sequence[int]) -> bool:
    """Returns whether the tips of these digits are in sight."""
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


def sample_view(sign: Sign, hand: RoundCones, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Returns the rotation `[3, 3]` from the hand's frame to the frame of a viewer who can read its sign.

    At `strength` 0 the hand is upright and seen from the front. Up to 1 there are steep views, views of the
    back, and any roll.
    """
    for oddness in np.linspace(strength, 0, VIEWS_TO_TRY):
        kind = rng.random()
        if kind < 0.4 * oddness:
            roll = rng.uniform(-95, 95) if kind > 0.06 * oddness else rng.uniform(-180, 180)
        else:
            roll = (10 + 20 * oddness) * rng.normal() + (THUMB_UP if sign.digits == (THUMB,) else 0)
        pitch = (6 + 8 * oddness) * rng.normal()
        view = _rotation(_sample_yaw(sign, oddness, rng), min(max(pitch, -28), 28), roll)
        if _shows(hand, view, sign.digits):
            break
    return view


def _field(
    hand: RoundCones, low: np.ndarray, high: np.ndarray, *, strength: float, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """Returns the corner `[2]` and the side of the square, cm, that the picture shows.

    `low` and `high`, `[P, 2]`, are the boxes of the cones. At `strength` 0 the hand is whole and takes 0.6 to
    0.9 of the picture. At 1 it takes a third up to all of it, and in close-ups its wrist and palm may lie
    outside.
    """
    close_up = rng.random() < 0.3 * strength
    shown = hand.limb > PALM if close_up else hand.limb != ARM
    low, high = low[shown].min(0), high[shown].max(0)
    fill = rng.uniform(0.85, 1.03) if close_up else rng.uniform(0.6 - 0.28 * strength, 0.9 + 0.1 * strength)
    side = (high - low).max() / fill
    free = side - (high - low)
    # Where `place` is below 0 or above 1, the hand reaches beyond the border.
    beyond = 0.03 * strength * fill
    place = rng.uniform(-beyond, 1 + beyond, 2)
    return low - free * place, side


def frame_hand(
    hand: RoundCones, view: np.ndarray, size: int, *, strength: float, rng: np.random.Generator
) -> Picture:
    """Draws the hand as a random camera sees it, in a picture of `size` pixels along a side."""
    left = rng.random() < 0.5
    distance = np.exp(rng.uniform(np.log(26), np.log(100)))  # cm
    to_picture = view.T * [-1 if left else 1, -1, 1]
    points = (np.stack([hand.start, hand.end]) - CENTRE) @ to_picture
    nearness = distance / np.maximum(distance - points[..., 2], 15)
    points[..., :2] *= nearness[..., None]
    radius = hand.radius * nearness.T

    reach = radius.T[..., None]
    low, high = (points[..., :2] - reach).min(0), (points[..., :2] + reach).max(0)
    corner, side = _field(hand, low, high, strength=strength, rng=rng)
    points[..., :2] -= corner
    scale = size / side
    points *= scale
    surface = draw(points[0], points[1], radius * scale, hand.blend * scale, size=size)
    return Picture(
        surface=surface,
        hand=hand,
        palmar=(hand.palmar @ to_picture).astype(np.float32),
        start=points[0, :, :2].astype(np.float32),
        end=points[1, :, :2].astype(np.float32),
        scale=scale,
        to_picture=to_picture,
        origin=-corner * scale,
        centre=CENTRE,
        distance=distance,
    )


def _lit_background(coverage: np.ndarray, background: Background, scale: float, light: Light) -> np.ndarray:
    """Returns the light from the background with the hand's shadow on it, linear RGB float32 `[3, S, S]`.

    `coverage`, `[S, S]`, is how much of a pixel the hand covers, 0 to 1. `scale` is in pixels per cm.
    """
    light_in = light.direct * (light.direction[2] * 0.5 + 0.5)
    light_in = light_in + light.fill * (light.fill_direction[2] * 0.5 + 0.5) + light.ambient
    if background.distance > FAR_AWAY:
        return background.reflectance * light_in[..., None]
    behind = background.distance
    across = light.direction[:2] / light.direction[2]
    shadow = soften(shift(coverage, -across * behind * scale), (0.3 + 0.07 * behind) * scale)
    # Near the hand the wall also loses some of the ambient light.
    nearby = soften(coverage, 1.8 * scale) * np.float32(0.5 / (1 + behind / 3))
    lost = light.direct[..., None] * (light.direction[2] * 0.5 + 0.5) * shadow * np.float32(0.8)
    return background.reflectance * (light_in[..., None] - lost - light.ambient[..., None] * nearby)


def _shade(size: int, rng: np.random.Generator) -> np.ndarray:
    """Returns the share of light, `[S, S]`, that something outside the picture lets through.

    It may be the frame of a window, a head or a shelf.
    """
    x, y = grid(size)
    angle = rng.uniform(0, 2 * np.pi)
    line = np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y - np.float32(rng.uniform(-0.7, 0.7))
    edge = clip(line * np.float32(np.exp(rng.uniform(0, 3))) + 0.5, 0, 1)
    return 1 - np.float32(rng.uniform(0.2, 0.65)) * edge


def photograph(
    hand: RoundCones, view: np.ndarray, size: int, *, strength: Strength, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Takes a random photograph of a hand that is turned by `view` `[3, 3]`.

    Handedness, place, distance, light, skin, clothes, background and camera are drawn from `rng`.

    Returns: the picture, sRGB uint8 `[size, size, 3]`, and its matte, uint8 `[size, size]`: 255 where a pixel
    is all hand or arm, 0 where it is all background.
    """
    picture = frame_hand(hand, view, size * OVERSAMPLING, strength=strength.place, rng=rng)
    light, skin = sample_light(strength.light, rng), sample_skin(rng)
    lit = reduce(lit_hand(picture, light, skin, rng))
    coverage = reduce((picture.surface.part >= 0).astype(np.float32))
    background = sample_background(size, skin[0], strength.background, rng)
    behind = _lit_background(coverage, background, picture.scale / OVERSAMPLING, light)
    scene = lit + behind * (1 - coverage)
    return _taken(scene, coverage, strength, rng)


def photograph_room(size: int, *, strength: Strength, rng: np.random.Generator) -> np.ndarray:
    """Takes a random photograph as `photograph` does, of a background without a hand.

    Returns: the picture, sRGB uint8 `[size, size, 3]`.
    """
    light, skin = sample_light(strength.light, rng), sample_skin(rng)
    nothing = np.zeros((size, size), np.float32)
    scene = _lit_background(nothing, sample_background(size, skin[0], strength.background, rng), 1.0, light)
    return _taken(scene, nothing, strength, rng)[0]


def _taken(
    scene: np.ndarray, coverage: np.ndarray, strength: Strength, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Casts a shadow on some scenes, and returns the picture that the camera takes, and its matte."""
    if rng.random() < 0.3 * strength.light:
        scene = scene * _shade(scene.shape[-1], rng)
    return expose(scene, coverage, strength.camera, rng)
