"""Photographs a hand before a wall: camera, light, skin, shadows, noise.

Drawn at OVERSAMPLING times the image size and reduced, in linear light. Colour arrays have their
channels first until the very end.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from datasets.hand import RoundCones
from datasets.round_cones import Surface, draw

OVERSAMPLING = 2

# Back-of-hand skin from very light to very dark, sRGB; palms of all tones are nearer to PALM.
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
PALM = np.array([222, 166, 146]) / 255.0
NAIL_TINT = np.array([236, 190, 178]) / 255.0
# How far light creeps round into the shaded side of skin, per channel.
SKIN_WRAP = np.array([[0.42], [0.26], [0.2]], np.float32)


class _Picture(NamedTuple):
    """A hand in a square picture.

    palmar: float32 `[P, 3]`, the cones' palm sides in the picture's frame. material: `[P]`. scale:
    pixels per cm.
    """

    surface: Surface
    palmar: np.ndarray
    material: np.ndarray
    scale: float


class _Light(NamedTuple):
    """direction: float32 `[3]` towards the source. direct, ambient: linear RGB float32 `[3, 1]`."""

    direction: np.ndarray
    direct: np.ndarray
    ambient: np.ndarray


def _linear(srgb: np.ndarray) -> np.ndarray:
    return (np.asarray(srgb) ** 2.2).astype(np.float32)


def _rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """`[3, 3]`: turns about y, then x, then z (radians)."""
    (a, b, c), (sa, sb, sc) = np.cos([yaw, pitch, roll]), np.sin([yaw, pitch, roll])
    about_y = np.array([[a, 0, sa], [0, 1, 0], [-sa, 0, a]])
    about_x = np.array([[1, 0, 0], [0, b, -sb], [0, sb, b]])
    about_z = np.array([[c, -sc, 0], [sc, c, 0], [0, 0, 1]])
    return about_z @ about_x @ about_y


def sample_view(label: int, rng: np.random.Generator) -> np.ndarray:
    """Rotation `[3, 3]` from the hand's frame to that of a viewer who can tell the sign."""
    roll = rng.normal(0, 20) if rng.random() < 0.85 else rng.uniform(-85, 85)
    if label == 0:  # the O shows from the thumb's side
        yaw, pitch = -rng.uniform(57, 100), rng.normal(0, 8)
    else:
        yaw, pitch = rng.normal(0, 18), rng.normal(0, 12)
        most = 26 if label == 3 else 38  # further round, the thumb of a 3 hides
        yaw, pitch = min(max(yaw, -most), most), min(max(pitch, -28), 28)
        if rng.random() < 0.12:
            yaw += 180
    return _rotation(*np.radians([yaw, pitch, roll]))


def _take_aim(hand: RoundCones, view: np.ndarray, size: int, rng: np.random.Generator) -> _Picture:
    """The hand as a random camera sees it, in a `[size, size]` picture."""
    left = rng.random() < 0.5
    distance = rng.uniform(40, 90)  # cm
    field = rng.uniform(20, 34)  # cm that the picture spans at the hand
    place = rng.uniform(-0.03, 1.03, 2)  # of the free room; beyond 0 and 1 a hand touches the border

    to_picture = view.T * [-1 if left else 1, -1, 1]
    points = (np.stack([hand.start, hand.end]) - [0, 8, 0]) @ to_picture
    nearness = distance / np.maximum(distance - points[..., 2], 15)
    points[..., :2] *= nearness[..., None]
    radius = hand.radius * nearness.T

    inside = ~hand.is_arm
    reach = radius.T[:, inside, None]
    low = (points[:, inside, :2] - reach).min((0, 1))
    high = (points[:, inside, :2] + reach).max((0, 1))
    field = max(field, (high - low).max() * 1.06)
    points[..., :2] -= low - (field - (high - low)) * place
    scale = size / field
    surface = draw(points[0] * scale, points[1] * scale, radius * scale, hand.blend * scale, size)
    return _Picture(surface, (hand.palmar @ to_picture).astype(np.float32), hand.material, scale)


def _shift(image: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """The image moved by `[x, y]` pixels (right, down), its border repeated."""
    pixels, last = np.arange(len(image)), len(image) - 1
    dx, dy = np.rint(offset).astype(int)
    across = np.minimum(np.maximum(pixels - dx, 0), last)
    down = np.minimum(np.maximum(pixels - dy, 0), last)
    return image.take(down, 0).take(across, 1)


@lru_cache(64)
def _interpolation(size: int, cells: int) -> np.ndarray:
    """`[size, cells]`: weights that enlarge a row of cells linearly to a row of pixels."""
    at = (np.arange(size) + 0.5) * cells / size - 0.5
    return np.maximum(1 - np.abs(at.clip(0, cells - 1)[:, None] - np.arange(cells)), 0).astype(np.float32)


@lru_cache(8)
def _distances(size: int) -> np.ndarray:
    return np.abs(np.arange(size)[:, None] - np.arange(size))


def _soften(image: np.ndarray, radius: float) -> np.ndarray:
    """Gaussian blur of float32 `[..., S, S]`, standard deviation `radius` pixels, borders kept."""
    size = image.shape[-1]
    bell = np.exp(-0.5 * (np.arange(size, dtype=np.float32) / np.float32(max(radius, 0.3))) ** 2)
    weights = bell.take(_distances(size))
    weights /= weights.sum(1, keepdims=True)
    return weights @ image @ weights.T


def _smooth_noise(size: int, cells: int, rng: np.random.Generator) -> np.ndarray:
    weights = _interpolation(size, cells)
    return weights @ rng.standard_normal((cells, cells), np.float32) @ weights.T


def _sample_light(rng: np.random.Generator) -> _Light:
    azimuth, height = np.radians(rng.normal(-90, 60)), np.radians(rng.uniform(28, 70))
    flat = np.cos(height)
    direction = np.array([np.cos(azimuth) * flat, np.sin(azimuth) * flat, np.sin(height)], np.float32)
    warmth, tint = rng.normal(0, 0.07), rng.normal(0, 0.015)
    ambient, exposure = rng.uniform(0.25, 0.6), rng.uniform(0.85, 1.15)
    direct = exposure * (1 - ambient) * np.array([[1 + warmth], [1 + tint], [1 - warmth]])
    everywhere = exposure * ambient * np.array([[1 - 0.3 * warmth], [1], [1 + 0.3 * warmth]])
    return _Light(direction, direct.astype(np.float32), everywhere.astype(np.float32))


def _reduce(image: np.ndarray) -> np.ndarray:
    """The mean of each block of OVERSAMPLING by OVERSAMPLING pixels of `[..., H, W]`."""
    n = OVERSAMPLING
    return sum(image[..., y::n, x::n] for y in range(n) for x in range(n)) * np.float32(n**-2)


def _repeat(image: np.ndarray) -> np.ndarray:
    """Each pixel of `[H, W]` OVERSAMPLING times in both directions: undoes `_reduce`."""
    return image.repeat(OVERSAMPLING, 0).repeat(OVERSAMPLING, 1)


def _occlusion(picture: _Picture, light: _Light) -> tuple[np.ndarray, np.ndarray]:
    """What share of the source's light and of the ambient light reaches the hand, `[H, W]` each."""
    depth = picture.surface.depth * np.float32(1 / picture.scale)  # cm
    scale = picture.scale / OVERSAMPLING
    across = light.direction[:2] / light.direction[2]
    coarse = depth[::OVERSAMPLING, ::OVERSAMPLING]
    shadow = np.zeros_like(coarse)
    for step in np.float32([0.5, 1.0, 1.6, 2.4, 3.4]):
        above = _shift(coarse, -across * step * scale) - coarse - step
        # Fingers are not walls: light passes behind what stands far above.
        np.maximum(shadow, np.minimum(above * 1.5, 1) * (above < 3.2), out=shadow)
    shadow = _soften(shadow, 0.15 * scale)

    # Creases lie deeper than their surroundings (Luft et al. 2006, unsharp masking of the depth).
    depth = np.maximum(depth, -4)
    coarse = _reduce(depth)
    crease = np.zeros_like(depth)
    for radius, strength in ((0.2, 0.8), (0.6, 0.4)):
        deeper = _repeat(_soften(coarse, radius * scale)) - depth
        crease += np.minimum(np.maximum(deeper, 0), 1.6) * np.float32(strength)
    return 1 - 0.8 * _repeat(shadow), 1 / (1 + crease)


def _colours(picture: _Picture, part: np.ndarray, normal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Linear RGB reflectance of skin, nails and sleeve, float32 `[3, K]`, at K covered pixels."""
    tone = rng.uniform(0, len(SKIN_TONES) - 1)
    at = np.arange(len(SKIN_TONES))
    back = np.array([np.interp(tone, at, channel) for channel in SKIN_TONES.T])
    back = back * (1 + rng.normal(0, [0.03, 0.03, 0.05]))
    paler = (0.12 + 0.28 * tone / at[-1]) * rng.uniform(0.7, 1.2)
    palm = back + (PALM - back) * paler
    nail = back + (NAIL_TINT - back) * rng.uniform(0.25, 0.6)
    sleeve = rng.uniform(0.05, 0.9) * np.clip(rng.normal(1, 0.25, 3), 0.3, 1.5)

    outside = _linear(np.stack([back, nail, sleeve], 1).clip(0.01, 1)).take(picture.material, 1)
    inside = _linear(np.stack([palm, nail, sleeve], 1).clip(0.01, 1)).take(picture.material, 1)
    facing = (normal * picture.palmar.T.take(part, 1)).sum(0)
    inward = np.minimum(np.maximum(facing * 0.9 + 0.5, 0), 1)
    return outside.take(part, 1) + (inside - outside).take(part, 1) * inward


def _lit_hand(picture: _Picture, light: _Light, rng: np.random.Generator) -> np.ndarray:
    """Linear RGB light from the hand, float32 `[3, H, W]`, black elsewhere.

    Lambert's law, wrapped round the shaded side, furthest in red, as light does inside skin.
    """
    part = picture.surface.part
    size, covered = part.shape[0], np.flatnonzero(part >= 0)
    part = part.take(covered)
    source, openness = (reach.take(covered) for reach in _occlusion(picture, light))
    normal = picture.surface.normal.reshape(3, -1).take(covered, 1)
    diffuse = np.maximum((light.direction @ normal + SKIN_WRAP) / (1 + SKIN_WRAP), 0) * source
    sky = 0.88 - 0.12 * normal[1]
    halfway = light.direction + np.float32([0, 0, 1])
    shine = np.maximum(halfway / np.sqrt(halfway @ halfway) @ normal, 0) ** 16
    gloss = rng.uniform(0, 0.07) * shine * source * light.direct
    mottled = 1 + rng.uniform(0.01, 0.09) * _smooth_noise(size // OVERSAMPLING, 9, rng)
    mottled += rng.uniform(0, 0.06) * _smooth_noise(size // OVERSAMPLING, 28, rng)
    colour = _colours(picture, part, normal, rng) * _repeat(mottled).take(covered)
    image = np.zeros((3, size * size), np.float32)
    image[:, covered] = (colour * (diffuse * light.direct + sky * light.ambient) + gloss) * openness
    return image.reshape(3, size, size)


def _lit_wall(coverage: np.ndarray, scale: float, light: _Light, rng: np.random.Generator) -> np.ndarray:
    """Linear RGB light from a wall, float32 `[3, S, S]`, with the shadow of a hand.

    coverage: how much of each pixel the hand covers, `[S, S]`, 0 to 1; scale: its pixels per cm.
    """
    size = coverage.shape[0]
    if rng.random() < 0.7:
        colour = rng.uniform(0.72, 0.95) * (1 + rng.normal(0, [0.03, 0.015, 0.04]))
    else:
        hue = rng.uniform(0, 1, 3)
        colour = rng.uniform(0.2, 0.85) * (1 + rng.uniform(0, 0.65) * (hue - hue.mean()))
    colour = _linear(np.clip(colour, 0.03, 1))

    centre = np.linspace(-1, 1, size, dtype=np.float32)
    slope = rng.normal(0, 0.1, 2).astype(np.float32)
    vignette = np.float32(rng.uniform(0, 0.12))
    falloff = slope[0] * centre + slope[1] * centre[:, None] - vignette * (centre**2 + centre[:, None] ** 2)
    texture = rng.uniform(0, 0.05) * _smooth_noise(size, 5, rng)
    texture += rng.uniform(0, 0.03) * _smooth_noise(size, 40, rng)
    if rng.random() < 0.15:  # the edge of a table, a door or a shelf
        angle, offset = rng.uniform(0, np.pi), rng.uniform(-0.9, 0.9)
        line = np.cos(angle) * centre + np.sin(angle) * centre[:, None] - offset
        texture += np.float32(rng.uniform(-0.45, 0.3)) * np.clip(line * size / 3, 0, 1)

    behind = rng.uniform(2, 22)  # cm
    across = light.direction[:2] / light.direction[2]
    shadow = _soften(_shift(coverage, -across * behind * scale), (0.3 + 0.07 * behind) * scale)
    shadow = shadow * np.float32(rng.uniform(0.3, 1))
    # Near the hand the wall also loses some of the light from everywhere.
    nearby = _soften(coverage, 1.8 * scale) * np.float32(0.5 / (1 + behind / 3))
    direct, ambient = light.direct[..., None], light.ambient[..., None]
    light_in = direct * (light.direction[2] * 0.5 + 0.5) * (1 - shadow) + ambient * (1 - nearby)
    return colour[:, None, None] * light_in * np.maximum(1 + falloff + texture, 0.1)


def _expose(light: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A camera's picture of linear light `[3, S, S]`: a little blur and noise, sRGB uint8 `[S, S, 3]`."""
    light = _soften(light, rng.uniform(0.3, 0.65))
    grain = np.float32(rng.uniform(0.002, 0.016))
    noise = grain * rng.standard_normal(light.shape, np.float32)
    image = np.minimum(np.maximum(light, 0), 1) ** np.float32(1 / 2.2) + noise
    image = np.rint(np.minimum(np.maximum(image, 0), 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(image, 0, -1))


def photograph(hand: RoundCones, view: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A random photograph of a hand turned by `view` `[3, 3]`, sRGB uint8 `[size, size, 3]`.

    Handedness, place, distance, light, skin, sleeve, wall, shadow, blur and noise come from `rng`.
    """
    picture = _take_aim(hand, view, size * OVERSAMPLING, rng)
    light = _sample_light(rng)
    shown = _reduce(_lit_hand(picture, light, rng))
    coverage = _reduce((picture.surface.part >= 0).astype(np.float32))
    wall = _lit_wall(coverage, picture.scale / OVERSAMPLING, light, rng)
    return _expose(shown + wall * (1 - coverage), rng)
