"""Light on a hand: skin and its creases, nails, sleeves, and the shadows of fingers on each other.

Colour arrays have their channels first.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from datasets.rendered.hand import BAND, NAIL, PALM, SKIN, SLEEVE, RoundCones
from datasets.rendered.pixels import OVERSAMPLING, clip, linear, reduce, repeat, shift, smooth_noise, soften
from datasets.rendered.round_cones import Surface

# Skin on the back of the hand from very light to very dark, sRGB. All palms are nearer to PALM_TONE.
SKIN_TONES = (
    np.array(
        [
            [242, 207, 188],
            [228, 180, 152],
            [208, 152, 118],
            [176, 120, 86],
            [134, 86, 60],
            [98, 62, 46],
            [72, 48, 38],
        ]
    )
    / 255.0
)
PALM_TONE = np.array([222, 166, 146]) / 255.0
NAIL_TINT = np.array([236, 190, 178]) / 255.0
# How far light gets round into the shaded side of skin: red, green, blue.
SKIN_WRAP = np.array([[0.42], [0.26], [0.2]], np.float32)

# The three main creases of a palm, cm in the hand's frame: around the ball of the thumb, and two across.
PALM_CREASES = (
    ((2.9, 6.6), (1.7, 6.0), (0.7, 5.0), (0.2, 3.6), (0.5, 2.0)),
    ((2.9, 6.6), (1.5, 6.4), (-0.4, 5.6), (-2.4, 4.4)),
    ((-3.4, 6.1), (-1.6, 6.5), (0.2, 7.2), (1.4, 8.5)),
)
CREASE_MAP_STEP = 0.125  # cm
CREASE_MAP_ORIGIN = np.array([-4.5, 1.0])  # cm


class Picture(NamedTuple):
    """A hand in a square picture.

    Attributes:
      surface: what of the hand is visible.
      hand: the cones in the hand's own frame.
      palmar: float32 `[P, 3]`, directions of the cones' palm sides in the frame of the picture.
      start, end: float32 `[P, 2]` pixels, of the cones.
      scale: pixels per cm.
      to_picture: `[3, 3]`, from the frame of the hand to the frame of the picture.
      origin: `[2]` pixels, where the picture shows the point `centre` of the hand.
      centre: `[3]` cm, in the frame of the hand.
      distance: cm from that point to the camera.
    """

    surface: Surface
    hand: RoundCones
    palmar: np.ndarray
    start: np.ndarray
    end: np.ndarray
    scale: float
    to_picture: np.ndarray
    origin: np.ndarray
    centre: np.ndarray
    distance: float


class Light(NamedTuple):
    """A main source, a weaker one that casts no shadow, and light from everywhere.

    Attributes:
      direction: float32 `[3]`, towards the main source.
      direct: linear RGB float32 `[3, 1]`, of the main source.
      fill_direction: float32 `[3]`, towards the weaker source.
      fill: linear RGB float32 `[3, 1]`, of the weaker source.
      ambient: linear RGB float32 `[3, 1]`, from everywhere.
    """

    direction: np.ndarray
    direct: np.ndarray
    fill_direction: np.ndarray
    fill: np.ndarray
    ambient: np.ndarray


def _towards(azimuth: float, height: float) -> np.ndarray:
    """Returns the unit vector, float32 `[3]`, of two angles in degrees.

    An azimuth of -90 is from above, a height of 90 from the camera.
    """
    azimuth, height = np.radians([azimuth, height])
    flat = np.cos(height)
    return np.array([np.cos(azimuth) * flat, np.sin(azimuth) * flat, np.sin(height)], np.float32)


def sample_light(strength: float, rng: np.random.Generator) -> Light:
    """Returns a random light: a lamp, a window or a flash, a weaker source and ambient light.

    The higher `strength`, 0 to 1, the lower the lamp may stand and the blacker its shadows may be.
    """
    warmth, tint = rng.normal(0, 0.09), rng.normal(0, 0.02)
    exposure = rng.uniform(0.85, 1.15)
    ambient, fill = rng.uniform(0.35 - 0.2 * strength, 0.65), rng.uniform(0, 1) ** 2 * 0.5
    direct = exposure * (1 - ambient) * np.array([[1 + warmth], [1 + tint], [1 - warmth]])
    everywhere = exposure * ambient * np.array([[1 - 0.3 * warmth], [1], [1 + 0.3 * warmth]])
    other = rng.normal(0, 0.15)
    filling = exposure * fill * np.array([[1 + other], [1], [1 - other]])
    return Light(
        _towards(rng.normal(-90, 65), rng.uniform(45 - 25 * strength, 82)),
        direct.astype(np.float32),
        _towards(rng.uniform(-180, 180), rng.uniform(0, 60)),
        filling.astype(np.float32),
        everywhere.astype(np.float32),
    )


def sample_skin(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sRGB colours `[3]` of the back of a hand and of its palm, of any tone."""
    tone = rng.uniform(0, len(SKIN_TONES) - 1)
    at = np.arange(len(SKIN_TONES))
    back = np.array([np.interp(tone, at, channel) for channel in SKIN_TONES.T])
    back = back * (1 + rng.normal(0, 0.05) + rng.normal(0, [0.03, 0.03, 0.05]))
    paler = (0.12 + 0.28 * tone / at[-1]) * rng.uniform(0.7, 1.2)
    return back, back + (PALM_TONE - back) * paler


def _occlusion(picture: Picture, light: Light, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns the shares of the main source's light and of ambient light that reach the hand, `[H, W]`."""
    depth = picture.surface.depth * np.float32(1 / picture.scale)  # cm
    scale = picture.scale / OVERSAMPLING
    across = light.direction[:2] / light.direction[2]
    coarse = depth[::OVERSAMPLING, ::OVERSAMPLING]
    shadow = np.zeros_like(coarse)
    for step in np.array([0.5, 1.0, 1.6, 2.4, 3.4], np.float32):
        above = shift(coarse, -across * step * scale) - coarse - step
        # Fingers are not walls: light passes behind a finger that is far above.
        np.maximum(shadow, np.minimum(above * 1.5, 1) * (above < 3.2), out=shadow)
    shadow = soften(shadow, 0.15 * scale)

    # Creases lie deeper than their surroundings: Luft et al. 2006, unsharp masking of the depth.
    depth = np.maximum(depth, -4)
    coarse = reduce(depth)
    crease = np.zeros_like(depth)
    strong = rng.uniform(0.7, 1.7)
    for radius, strength in ((0.2, 0.9), (0.7, 0.45)):
        deeper = repeat(soften(coarse, radius * scale)) - depth
        crease += np.minimum(np.maximum(deeper, 0), 1.6) * np.float32(strength * strong)
    return 1 - np.float32(rng.uniform(0.6, 0.9)) * repeat(shadow), 1 / (1 + crease)


@lru_cache(1)
def _palm_crease_map() -> np.ndarray:
    """Returns a map of the palm, float32 `[90, 80]`, rows along y: 1 in a crease, 0 far from any."""
    rows, columns = np.mgrid[0:90, 0:80]
    place = np.stack([columns, rows], -1) * CREASE_MAP_STEP + CREASE_MAP_ORIGIN
    nearest = np.full(rows.shape, np.inf)
    for crease in PALM_CREASES:
        for a, b in zip(np.array(crease[:-1]), np.array(crease[1:]), strict=True):
            t = np.clip((place - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)[..., None]
            nearest = np.minimum(nearest, np.linalg.norm(place - a - t * (b - a), axis=-1))
    return np.exp(-((nearest / 0.16) ** 2)).astype(np.float32)


def _creases(
    picture: Picture, covered: np.ndarray, part: np.ndarray, *, facing: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Returns the share of light that the folds of the skin leave, `[K]`, at K covered pixels.

    `facing`, `[K]`, is 1 where the palm's side shows and -1 where the back shows.
    """
    hand = picture.hand
    dark = np.zeros(len(covered), np.float32)
    digit = np.flatnonzero(((hand.limb > PALM) & (hand.material == SKIN)).take(part))
    dark[digit] = _joint_creases(
        picture, covered.take(digit), part.take(digit), facing=facing.take(digit), rng=rng
    )
    palm = np.flatnonzero((hand.limb == PALM).take(part) & (facing > 0.2))
    dark[palm] = _palm_creases(picture, covered.take(palm), rng)
    return 1 - dark


def _joint_creases(
    picture: Picture, covered: np.ndarray, bone: np.ndarray, *, facing: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Returns how dark the creases over the joints of digits are, float32 `[K]`, at K pixels of digits.

    There are lines on the palm's side and broad wrinkles on the back.
    """
    hand, size = picture.hand, len(picture.surface.depth)
    row, column = np.divmod(covered, size)
    lengths = np.linalg.norm(hand.end - hand.start, axis=1).astype(np.float32)
    run = picture.end - picture.start
    steep = np.maximum((run * run).sum(1), 1.0)
    x = column + np.float32(0.5) - picture.start[:, 0].take(bone)
    y = row + np.float32(0.5) - picture.start[:, 1].take(bone)
    t = (x * run[:, 0].take(bone) + y * run[:, 1].take(bone)) / steep.take(bone)
    length = lengths.take(bone)
    starts, ends = np.where(hand.bends, 0, 99).T.astype(np.float32)
    ends = np.where(hand.bends[:, 0] | ~hand.bends[:, 1], ends, 0)
    first = np.where(hand.bends[:, 1] & ~hand.bends[:, 0], 0, 99).astype(np.float32)
    away = np.minimum(np.abs(t) * length + starts.take(bone), np.abs(1 - t) * length + ends.take(bone))
    inside = np.minimum(away, np.abs(t - np.float32(0.46)) * length + first.take(bone))
    line = np.exp(-((inside / np.float32(0.14)) ** 2)) * clip(facing * 2, 0, 1)
    wrinkle = np.exp(-((away / np.float32(0.35)) ** 2)) * clip(facing * -2, 0, 1)
    return line * np.float32(rng.uniform(0, 0.4)) + wrinkle * np.float32(rng.uniform(0, 0.25))


def _palm_creases(picture: Picture, covered: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns how dark the creases of the palm are, float32 `[K]`, at K pixels of the palm."""
    stretch, strength = 1 + rng.normal(0, 0.04, 2), np.float32(rng.uniform(0, 0.4))
    row, column = np.divmod(covered, len(picture.surface.depth))
    depth = picture.surface.depth.take(covered) / picture.scale
    nearness = picture.distance / (picture.distance - depth)
    flat = np.stack([column, row], 1) - picture.origin
    flat = flat / (nearness * picture.scale)[:, None]
    place = flat @ picture.to_picture[:2, :2].T + depth[:, None] * picture.to_picture[:2, 2]
    place = place + picture.centre[:2]
    place = (place * stretch - CREASE_MAP_ORIGIN) / CREASE_MAP_STEP
    creases = _palm_crease_map()
    at = clip(np.rint(place), 0, np.array(creases.shape[::-1]) - 1).astype(int)
    return creases[at[:, 1], at[:, 0]] * strength


def _contacts(picture: Picture, rng: np.random.Generator) -> np.ndarray:
    """Returns the share of light, `[H, W]`, that is left where one digit lies against another."""
    limb = np.append(picture.hand.limb, PALM).astype(np.int8).take(picture.surface.part)
    line = np.zeros(limb.shape, np.float32)
    across = (limb[:, 1:] != limb[:, :-1]) & (limb[:, 1:] > PALM) & (limb[:, :-1] > PALM)
    down = (limb[1:] != limb[:-1]) & (limb[1:] > PALM) & (limb[:-1] > PALM)
    line[:, 1:] += across
    line[:, :-1] += across
    line[1:] += down
    line[:-1] += down
    line = np.minimum(line, 1)
    return 1 - np.float32(rng.uniform(0.1, 0.6)) * line


def _reflectance(
    picture: Picture,
    part: np.ndarray,
    facing: np.ndarray,
    *,
    skin: tuple[np.ndarray, np.ndarray],
    rng: np.random.Generator,
) -> np.ndarray:
    """Returns the colours of skin, nails, sleeve and bands, linear RGB float32 `[3, K]`, at K pixels."""
    back, palm = skin
    nail = back + (NAIL_TINT - back) * rng.uniform(0.2, 0.6)
    if rng.random() < 0.06:  # polish
        nail = rng.uniform(0.05, 0.95, 3)
    sleeve = rng.uniform(0.05, 0.95) * np.clip(rng.normal(1, 0.3, 3), 0.2, 1.6)
    band = rng.uniform(0.05, 0.95) * np.clip(rng.normal(1, 0.15, 3), 0.3, 1.5)
    hand = picture.hand
    colours = np.zeros((2, 4, 3))  # on the back and on the palm's side, by material
    colours[:, SKIN] = back, palm
    colours[:, NAIL], colours[:, SLEEVE], colours[:, BAND] = nail, sleeve, band
    outside, inside = np.moveaxis(linear(colours.clip(0.01, 1)).take(hand.material, 1), -1, 1)
    # Blood makes fingertips and knuckles redder.
    flush = np.where((hand.limb > PALM) & (hand.material == SKIN), rng.uniform(0, 0.22), 0)
    flush = 1 - flush * np.where(hand.bends[:, 1], 0.4, 1) * np.array([[0.1], [1], [0.9]])
    outside, inside = outside * flush.astype(np.float32), inside * flush.astype(np.float32)
    inward = clip(facing * 0.9 + 0.5, 0, 1)
    return outside.take(part, 1) + (inside - outside).take(part, 1) * inward


def lit_hand(
    picture: Picture, light: Light, skin: tuple[np.ndarray, np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    """Returns the light from the hand, linear RGB float32 `[3, H, W]`, black where there is no hand.

    It follows Lambert's law, but reaches round into the shaded side, furthest in red, as light does in skin.
    `skin` is what `sample_skin` returns.
    """
    part = picture.surface.part
    size, covered = part.shape[0], np.flatnonzero(part >= 0)
    source, openness = _occlusion(picture, light, rng)
    openness = openness * _contacts(picture, rng)
    source, openness, part = source.take(covered), openness.take(covered), part.take(covered)
    normal = picture.surface.normal.reshape(3, -1).take(covered, 1)
    facing = (normal * picture.palmar.T.take(part, 1)).sum(0)
    diffuse = np.maximum((light.direction @ normal + SKIN_WRAP) / (1 + SKIN_WRAP), 0) * source
    fill = np.maximum((light.fill_direction @ normal + SKIN_WRAP) / (1 + SKIN_WRAP), 0)
    sky = 0.88 - np.float32(rng.uniform(0, 0.25)) * normal[1]
    halfway = light.direction + np.array([0, 0, 1], np.float32)
    shine = np.maximum(halfway / np.sqrt(halfway @ halfway) @ normal, 0) ** np.float32(rng.uniform(8, 36))
    gloss = np.float32(rng.uniform(0, 1) ** 2 * 0.2) * shine * source * light.direct
    mottled = 1 + rng.uniform(0.01, 0.1) * smooth_noise(size // OVERSAMPLING, 9, rng)
    mottled += rng.uniform(0, 0.06) * smooth_noise(size // OVERSAMPLING, 28, rng)
    colour = _reflectance(picture, part, facing, skin=skin, rng=rng) * repeat(mottled).take(covered)
    colour = colour * _creases(picture, covered, part, facing=facing, rng=rng)
    image = np.zeros((3, size * size), np.float32)
    lit = diffuse * light.direct + fill * light.fill + sky * light.ambient
    image[:, covered] = (colour * lit + gloss) * openness
    return image.reshape(3, size, size)
