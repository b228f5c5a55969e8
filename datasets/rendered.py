"""Rendered hand signs 0-5: a data source that needs no files.

Every image is one random hand (`datasets.hand`) in front of one random wall, drawn at twice the
image size and reduced. `python -m datasets.rendered OUT.png` writes a labelled sheet of 60.
"""

import os
import subprocess
import sys
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from datasets.hand import RoundCones, sample_hand
from datasets.round_cones import Surface, draw
from datasets.types import Dataset, Split
from errors import UserError

CLASS_NAMES = ("0", "1", "2", "3", "4", "5")
TRAIN, TEST = 0, 1
IMAGE_SIZES = (16, 512)  # smallest, largest

OVERSAMPLING = 2
IMAGES_WORTH_A_PROCESS = 100  # a process takes about as long to start as 30 images

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
SKIN_WRAP = np.array([0.42, 0.26, 0.2], np.float32)


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
    """direction: float32 `[3]` towards the source. direct, ambient: linear RGB float32 `[3]`."""

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


def _sample_view(label: int, rng: np.random.Generator) -> np.ndarray:
    """Rotation `[3, 3]` from the hand's frame to the viewer's."""
    roll = rng.normal(0, 20) if rng.random() < 0.85 else rng.uniform(-85, 85)
    if label == 0:  # the O shows from the thumb's side
        yaw, pitch = -rng.uniform(50, 100), rng.normal(0, 9)
    else:
        yaw, pitch = rng.normal(0, 20), rng.normal(0, 12)
        yaw, pitch = min(max(yaw, -48), 48), min(max(pitch, -28), 28)
        if rng.random() < 0.12:
            yaw += 180
    return _rotation(*np.radians([yaw, pitch, roll]))


def _photograph(hand: RoundCones, label: int, size: int, rng: np.random.Generator) -> _Picture:
    """The hand as a random camera sees it, in a `[size, size]` picture."""
    view = _sample_view(label, rng)
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


def _enlarge(image: np.ndarray, size: int) -> np.ndarray:
    weights = _interpolation(size, len(image))
    return weights @ image @ weights.T


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
    return _enlarge(rng.standard_normal((cells, cells), np.float32), size)


def _sample_light(rng: np.random.Generator) -> _Light:
    azimuth, height = np.radians(rng.normal(-90, 60)), np.radians(rng.uniform(28, 70))
    flat = np.cos(height)
    direction = np.array([np.cos(azimuth) * flat, np.sin(azimuth) * flat, np.sin(height)], np.float32)
    warmth, tint = rng.normal(0, 0.07), rng.normal(0, 0.015)
    ambient, exposure = rng.uniform(0.25, 0.6), rng.uniform(0.85, 1.15)
    return _Light(
        direction,
        direct=(exposure * (1 - ambient) * np.array([1 + warmth, 1 + tint, 1 - warmth])).astype(np.float32),
        ambient=(exposure * ambient * np.array([1 - 0.3 * warmth, 1, 1 + 0.3 * warmth])).astype(np.float32),
    )


def _occlusion(picture: _Picture, light: _Light) -> tuple[np.ndarray, np.ndarray]:
    """What share of the source's light and of the ambient light reaches the hand, `[H, W]` each."""
    depth = picture.surface.depth * np.float32(1 / picture.scale)  # cm
    across = light.direction[:2] / light.direction[2]
    coarse = depth[::OVERSAMPLING, ::OVERSAMPLING]
    shadow = np.zeros_like(coarse)
    for step in np.float32([0.5, 1.0, 1.6, 2.4, 3.4]):
        above = _shift(coarse, -across * step * picture.scale / OVERSAMPLING) - coarse - step
        # Fingers are not walls: light passes behind what stands far above.
        np.maximum(shadow, np.minimum(above * 1.5, 1) * (above < 3.2), out=shadow)

    # Creases lie deeper than their surroundings (Luft et al. 2006, unsharp masking of the depth).
    depth = np.maximum(depth, -4)
    crease = np.zeros_like(depth)
    for radius, strength in ((0.2, 0.8), (0.6, 0.4)):
        deeper = _soften(depth, radius * picture.scale) - depth
        crease += np.minimum(np.maximum(deeper, 0), 1.6) * np.float32(strength)
    return 1 - 0.8 * _enlarge(shadow, len(depth)), 1 / (1 + crease)


def _colours(picture: _Picture, part: np.ndarray, normal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Linear RGB reflectance of skin, nails and sleeve, float32 `[K, 3]`, at K covered pixels."""
    tone = rng.uniform(0, len(SKIN_TONES) - 1)
    at = np.arange(len(SKIN_TONES))
    back = np.array([np.interp(tone, at, channel) for channel in SKIN_TONES.T])
    back = back * (1 + rng.normal(0, [0.03, 0.03, 0.05]))
    paler = (0.12 + 0.28 * tone / at[-1]) * rng.uniform(0.7, 1.2)
    palm = back + (PALM - back) * paler
    nail = back + (NAIL_TINT - back) * rng.uniform(0.25, 0.6)
    sleeve = rng.uniform(0.05, 0.9) * np.clip(rng.normal(1, 0.25, 3), 0.3, 1.5)

    outside = _linear(np.stack([back, nail, sleeve]).clip(0.01, 1))[picture.material]
    inside = _linear(np.stack([palm, nail, sleeve]).clip(0.01, 1))[picture.material]
    facing = np.einsum("kc,kc->k", normal, picture.palmar[part])
    inward = np.minimum(np.maximum(facing * 0.9 + 0.5, 0), 1)[:, None]
    return outside[part] + (inside - outside)[part] * inward


def _lit_hand(picture: _Picture, light: _Light, rng: np.random.Generator) -> np.ndarray:
    """Linear RGB light from the hand, float32 `[H, W, 3]`, black elsewhere.

    Lambert's law, wrapped round the shaded side, furthest in red, as light does inside skin.
    """
    part = picture.surface.part
    size, covered = part.shape[0], part >= 0
    source, openness = (reach[covered][:, None] for reach in _occlusion(picture, light))
    normal, part = picture.surface.normal[covered], part[covered]
    facing = (normal @ light.direction)[:, None]
    diffuse = np.maximum((facing + SKIN_WRAP) / (1 + SKIN_WRAP), 0) * source
    sky = 0.88 - 0.12 * normal[:, 1:2]
    halfway = light.direction + np.float32([0, 0, 1])
    shine = np.maximum(normal @ (halfway / np.sqrt(halfway @ halfway)), 0)[:, None]
    gloss = np.float32(rng.uniform(0, 0.07)) * shine**16 * source * light.direct
    mottled = 1 + rng.uniform(0.01, 0.09) * _smooth_noise(size, 9, rng)
    mottled += rng.uniform(0, 0.06) * _smooth_noise(size, 28, rng)
    colour = _colours(picture, part, normal, rng) * mottled[covered][:, None]
    image = np.zeros((size, size, 3), np.float32)
    image[covered] = (colour * (diffuse * light.direct + sky * light.ambient) + gloss) * openness
    return image


def _lit_wall(coverage: np.ndarray, scale: float, light: _Light, rng: np.random.Generator) -> np.ndarray:
    """Linear RGB light from a wall, float32 `[S, S, 3]`, with the shadow of a hand.

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
    light_in = light.direct * (light.direction[2] * 0.5 + 0.5) * (1 - shadow[..., None])
    light_in += light.ambient * (1 - nearby[..., None])
    return colour * light_in * np.maximum(1 + falloff + texture, 0.1)[..., None]


def _reduce(image: np.ndarray) -> np.ndarray:
    """The mean of each block of OVERSAMPLING by OVERSAMPLING pixels."""
    return sum(
        image[y::OVERSAMPLING, x::OVERSAMPLING] for y in range(OVERSAMPLING) for x in range(OVERSAMPLING)
    ) * np.float32(OVERSAMPLING**-2)


def _expose(light: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a camera makes of linear light `[S, S, 3]`: slightly blurred and noisy, sRGB uint8."""
    light = np.moveaxis(_soften(np.moveaxis(light, -1, 0), rng.uniform(0.3, 0.65)), 0, -1)
    grain = np.float32(rng.uniform(0.002, 0.016))
    noise = grain * rng.standard_normal(light.shape, np.float32)
    image = np.minimum(np.maximum(light, 0), 1) ** np.float32(1 / 2.2) + noise
    return np.rint(np.minimum(np.maximum(image, 0), 1) * 255).astype(np.uint8)


def _check(field: str, value: object, low: int, high: int | None = None) -> None:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):
        expected = (
            f"a whole number, {low} or more" if high is None else f"a whole number from {low} to {high}"
        )
        raise UserError(f"{field}: found {value!r}; expected {expected}; set {field} to such a number")


def render(label: int, index: int, seed: int, image_size: int = 64, stream: int = TRAIN) -> np.ndarray:
    """One picture of a hand showing `label`, uint8 `[image_size, image_size, 3]`, RGB.

    It depends on nothing but the arguments: image `index` of a `seed` and a `stream` (TRAIN or
    TEST) is always the same. Raises UserError for a label outside 0-5 or a negative number.
    """
    _check("label", label, 0, len(CLASS_NAMES) - 1)
    for field, value in (("index", index), ("seed", seed), ("stream", stream)):
        _check(field, value, 0)
    _check("image_size", image_size, *IMAGE_SIZES)
    rng = np.random.default_rng([seed, stream, index])
    hand = sample_hand(label, rng)
    picture = _photograph(hand, label, image_size * OVERSAMPLING, rng)
    light = _sample_light(rng)
    shown = _reduce(_lit_hand(picture, light, rng))
    coverage = _reduce((picture.surface.part >= 0).astype(np.float32))
    wall = _lit_wall(coverage, picture.scale / OVERSAMPLING, light, rng)
    return _expose(shown + wall * (1 - coverage[..., None]), rng)


def _render_range(stream: int, start: int, stop: int, seed: int, image_size: int) -> np.ndarray:
    images = np.empty((stop - start, image_size, image_size, 3), np.uint8)
    for i in range(start, stop):
        images[i - start] = render(i % len(CLASS_NAMES), i, seed, image_size, stream)
    return images


def _render_aside(*range_of_images: int) -> subprocess.Popen:
    """A process of its own that writes the bytes of `_render_range` to its standard output.

    Not a multiprocessing pool: forking is unsafe once JAX runs, and spawning would import the
    caller's main module, JAX and all, in every worker.
    """
    command = [sys.executable, "-m", "datasets.rendered", "--range", *map(str, range_of_images)]
    # One thread each: the matrices are small.
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    root = Path(__file__).resolve().parent.parent
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, cwd=root)


def _split(stream: int, count: int, seed: int, image_size: int, workers: int) -> Split:
    labels = np.arange(count, dtype=np.int32) % len(CLASS_NAMES)
    if workers == 1:
        return Split(_render_range(stream, 0, count, seed, image_size), labels)
    bounds = np.linspace(0, count, workers + 1).astype(int)
    helpers = [_render_aside(stream, a, b, seed, image_size) for a, b in pairwise(bounds)]
    outputs = [helper.communicate()[0] for helper in helpers]
    for helper in helpers:
        if helper.returncode:
            raise RuntimeError(f"a rendering process failed with exit code {helper.returncode}")
    images = np.frombuffer(bytearray().join(outputs), np.uint8)
    return Split(images.reshape(count, image_size, image_size, 3), labels)


def load(
    seed: int = 0,
    train_size: int = 1080,
    test_size: int = 120,
    image_size: int = 64,
    workers: int | None = None,
) -> Dataset:
    """Rendered training and test images, uint8 `[N, image_size, image_size, 3]`; label `i % 6`.

    Image i of a seed and split is the same however many are asked for and however many worker
    processes draw them (by default one a core, fewer for few images), and the two splits share no
    random numbers. Raises UserError for a size or seed that is not a whole number in range.
    """
    _check("data.seed", seed, 0)
    _check("data.train_size", train_size, 1)
    _check("data.test_size", test_size, 1)
    _check("data.image_size", image_size, *IMAGE_SIZES)
    if workers is None:
        workers = min(os.cpu_count() or 1, 16)
    splits = []
    for stream, count in ((TRAIN, train_size), (TEST, test_size)):
        useful = max(1, min(workers, count // IMAGES_WORTH_A_PROCESS))
        splits.append(_split(stream, count, seed, image_size, useful))
    return Dataset(*splits, CLASS_NAMES)


def sheet(seed: int = 0, per_class: int = 10, enlarge: int = 2) -> Image.Image:
    """A contact sheet: one labelled row a class, the pixels enlarged without smoothing."""
    margin, side = 28, 64 * enlarge
    page = Image.new("RGB", (margin + per_class * side, len(CLASS_NAMES) * side), "white")
    pen = ImageDraw.Draw(page)
    for label, name in enumerate(CLASS_NAMES):
        pen.text((8, label * side + side // 2 - 10), name, "black", font_size=20)
        for i in range(per_class):
            image = Image.fromarray(render(label, i * len(CLASS_NAMES) + label, seed))
            enlarged = image.resize((side, side), Image.Resampling.NEAREST)
            page.paste(enlarged, (margin + i * side, label * side))
    return page


if __name__ == "__main__":
    if sys.argv[1:2] == ["--range"]:
        sys.stdout.buffer.write(_render_range(*map(int, sys.argv[2:])).tobytes())
    elif len(sys.argv) == 2:
        sheet().save(sys.argv[1], optimize=True)
    else:
        sys.exit("usage: python -m datasets.rendered OUT.png")
