"""Backgrounds for a hand: walls, rooms, cloth, people.

They are reflectances, linear RGB float32 `[3, S, S]`. The light that falls on the hand falls on them too.
"""

from typing import NamedTuple

import numpy as np

from datasets.rendered.pixels import clip, grid, linear, smooth_noise, soften


class Background(NamedTuple):
    """What stands behind a hand.

    Attributes:
      reflectance: linear RGB float32 `[3, S, S]`.
      distance: cm behind the hand; inf for a far room.
    """

    reflectance: np.ndarray
    distance: float


def _plain(colour: np.ndarray, size: int) -> np.ndarray:
    """Returns a picture of one colour, given as sRGB `[3]`."""
    return np.broadcast_to(linear(np.clip(colour, 0.02, 1))[:, None, None], (3, size, size))


def _any_colour(rng: np.random.Generator) -> np.ndarray:
    """Returns a random sRGB colour `[3]`, mostly dull, sometimes vivid."""
    hue = rng.uniform(0, 1, 3)
    vivid = rng.uniform(0, 1) ** 2.5 * 1.4
    return np.clip(rng.uniform(0.1, 0.95) * (1 + vivid * (hue - hue.mean())), 0.02, 1)


def _wall_colour(rng: np.random.Generator) -> np.ndarray:
    """Returns the sRGB colour `[3]` of a wall, mostly nearly white."""
    if rng.random() < 0.62:
        return rng.uniform(0.6, 0.97) * (1 + rng.normal(0, [0.04, 0.02, 0.05]))
    return _any_colour(rng)


def _half_plane(size: int, rng: np.random.Generator, blur: float = 1.0) -> np.ndarray:
    """Draws 0 on one side of a random line and 1 on the other, `[S, S]`, with an edge `blur` pixels wide."""
    x, y = grid(size)
    # Most edges in rooms are vertical or horizontal.
    angle = rng.integers(0, 4) * np.pi / 2 + (
        rng.normal(0, 0.1) if rng.random() < 0.6 else rng.uniform(0, np.pi)
    )
    line = np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y - np.float32(rng.uniform(-0.8, 0.8))
    return clip(line * np.float32(size / 2 / blur) + 0.5, 0, 1)


def _surfaces(size: int, rng: np.random.Generator) -> np.ndarray:
    """Draws a wall that meets others, a table, a door or a shelf."""
    colour = _wall_colour(rng)
    room = _plain(colour, size)
    for _ in range(rng.integers(1, 4)):
        other = colour * rng.uniform(0.5, 1.25) if rng.random() < 0.5 else _any_colour(rng)
        side = _half_plane(size, rng, rng.uniform(0.7, 4))
        room = room + (_plain(other, size) - room) * side
    return room


def _shape(size: int, x0: float, y0: float, half: np.ndarray, *, angle: float, is_round: bool) -> np.ndarray:
    """Draws a box or an ellipse with half axes `half` `[2]`: 1 inside, 0 outside, `[S, S]`."""
    x, y = grid(size)
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u, v = (x - np.float32(x0)), (y - np.float32(y0))
    across, down = np.abs(u * c + v * s) / np.float32(half[0]), np.abs(v * c - u * s) / np.float32(half[1])
    if is_round:
        return clip((1.1 - across * across - down * down) * 5, 0, 1)
    return clip((1.04 - np.maximum(across, down)) * 12, 0, 1)


def _clutter(size: int, rng: np.random.Generator) -> np.ndarray:
    """Draws furniture, windows and things: boxes and blobs of many colours, more or less out of focus."""
    room = _surfaces(size, rng)
    for _ in range(rng.integers(3, 16)):
        half = np.exp(rng.uniform(np.log(0.06), np.log(0.7), 2))
        angle = rng.normal(0, 0.12) if rng.random() < 0.6 else rng.uniform(0, np.pi)
        x, y = rng.uniform(-1.1, 1.1, 2)
        inside = _shape(size, x, y, half, angle=angle, is_round=rng.random() < 0.35)
        colour = linear(_any_colour(rng)) * np.float32(rng.choice([1.0, 1.0, 1.0, 1.6]))
        room = room + (colour[:, None, None] - room) * inside
    return soften(room, rng.uniform(0.3, 3.5) * size / 64)


def _person(size: int, skin: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws the person who holds the hand up: clothes, a neck and a face, out of focus."""
    room = _surfaces(size, rng) if rng.random() < 0.5 else _clutter(size, rng)
    x, top, big = rng.normal(0, 0.6), rng.uniform(-0.9, 0.6), rng.uniform(0.3, 0.75)
    clothes, hair = linear(_any_colour(rng)), linear(_any_colour(rng) * [0.5, 0.4, 0.35])
    # The face is farther from the lamp. Before one as bright as itself, the hand could not be seen.
    face = linear(np.clip(skin * rng.uniform(0.5, 0.85), 0.02, 1))
    parts = [
        (hair, 0.0, -0.12, 0.66, 0.82, True),
        (face, 0.0, 0.75, 0.3, 0.55, False),
        (clothes, 0.0, 2.6, 1.5, 1.6, True),
        (face, 0.0, 0.06, 0.52, 0.72, True),
        (hair, 0.0, -0.72, 0.5, 0.25, True),
    ]
    for colour, dx, dy, wide, high, is_round in parts:
        half = np.array([wide, high]) * big
        x0, y0, angle = x + dx * big, top + dy * big, rng.normal(0, 0.06)
        inside = _shape(size, x0, y0, half, angle=angle, is_round=is_round)
        room = room + (colour[:, None, None] - room) * inside
    if rng.random() < 0.4:  # stripes or a print
        room = room * (1 + np.float32(rng.uniform(0.05, 0.3)) * _waves(size, rng))
    return soften(room, rng.uniform(0.4, 2.5) * size / 64)


def _waves(size: int, rng: np.random.Generator) -> np.ndarray:
    """Draws stripes at a random angle, wavy or straight, soft or sharp, -1 to 1, `[S, S]`."""
    x, y = grid(size)
    angle, count = rng.uniform(0, np.pi), np.exp(rng.uniform(np.log(2), np.log(16)))
    phase = np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y
    phase = phase + np.float32(rng.uniform(0, 0.06)) * smooth_noise(size, 6, rng)
    sharpness = np.float32(np.exp(rng.uniform(0, 2)))
    return np.tanh(np.sin(phase * np.float32(count * np.pi) + np.float32(rng.uniform(0, 6.3))) * sharpness)


def _pattern(size: int, rng: np.random.Generator) -> np.ndarray:
    """Draws wood, stripes, checks, tiles, folds of cloth or a carpet."""
    colour = _wall_colour(rng)
    kind = rng.integers(0, 4)
    strength = np.float32(rng.uniform(0.05, 0.5))
    if kind == 0:  # wood, whose grain runs along one direction
        cells = (int(rng.integers(16, 48)), int(rng.integers(2, 6)))
        relief: np.ndarray = smooth_noise(size, cells, rng) * np.float32(0.6)
        relief = relief if rng.random() < 0.5 else relief.T
        colour = np.array([0.6, 0.42, 0.28]) * rng.uniform(0.5, 1.5) if rng.random() < 0.6 else colour
    elif kind == 1:
        relief = _waves(size, rng)
    elif kind == 2:
        relief = _waves(size, rng) * _waves(size, rng)
    else:
        relief = smooth_noise(size, int(rng.integers(3, 12)), rng) + smooth_noise(size, 32, rng) * 0.5
    room = _plain(colour, size)
    other = _plain(_any_colour(rng) if rng.random() < 0.4 else colour * 0.4, size)
    return soften(room + (other - room) * clip(strength * (relief + 1) * 0.5, 0, 1), 0.5 * size / 64)


def sample_background(size: int, skin: np.ndarray, strength: float, rng: np.random.Generator) -> Background:
    """Draws a random background: a plain wall or a busy one.

    Args:
      size: pixels along a side.
      skin: `[3]`, sRGB, the colour of the hand in front of it.
      strength: 0 to 1; the higher, the likelier is a busy background.
      rng: source of all random numbers.
    """
    busy = rng.random() < 1.2 * strength
    kind = rng.choice(5, p=[0.28, 0.34, 0.18, 0.17, 0.03]) + 1 if busy else 0
    distance = rng.uniform(2, 25)
    if kind == 0:
        room = _plain(_wall_colour(rng), size)
    elif kind == 1:
        room = _surfaces(size, rng)
    elif kind == 2:
        room, distance = _clutter(size, rng), np.inf
    elif kind == 3:
        room = _pattern(size, rng)
    elif kind == 4:
        room, distance = _person(size, skin, rng), rng.uniform(8, 60)
    else:  # the colour of skin, as wood, an arm or a face close by may have
        room = _plain(skin * rng.uniform(0.8, 1.2) * (1 + rng.normal(0, 0.06, 3)), size)
    x, y = grid(size)
    slope = rng.normal(0, 0.14, 2).astype(np.float32)
    uneven = slope[0] * x + slope[1] * y + np.float32(rng.uniform(0, 0.08)) * smooth_noise(size, 5, rng)
    uneven = uneven + np.float32(rng.uniform(0, 0.04)) * smooth_noise(size, 40, rng)
    if rng.random() < 0.3 * strength:  # another lamp, a window or a corner in the shade
        uneven = uneven + np.float32(rng.uniform(-0.5, 0.4)) * _half_plane(size, rng, rng.uniform(5, 40))
    return Background(room * np.maximum(1 + uneven, 0.1), distance)
