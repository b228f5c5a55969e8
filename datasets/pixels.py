"""Small operations on square pictures, float32 `[..., S, S]`, that the renderer is made of."""

from functools import lru_cache

import numpy as np

OVERSAMPLING = 2  # a hand is drawn at this multiple of the picture's size, then reduced


def linear(srgb: np.ndarray) -> np.ndarray:
    """sRGB values 0-1 as linear light, float32."""
    return (np.asarray(srgb) ** 2.2).astype(np.float32)


def clip(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """`np.clip` without its overhead, which counts for pictures this small."""
    return np.minimum(np.maximum(image, low), high)


def shift(image: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """`[S, S]` moved by `[x, y]` pixels (right, down), its border repeated."""
    pixels, last = np.arange(len(image)), len(image) - 1
    dx, dy = np.rint(offset).astype(int)
    across = np.minimum(np.maximum(pixels - dx, 0), last)
    down = np.minimum(np.maximum(pixels - dy, 0), last)
    return image.take(down, 0).take(across, 1)


@lru_cache(256)
def interpolation(size: int, cells: int) -> np.ndarray:
    """`[size, cells]`: weights that enlarge a row of cells linearly to a row of pixels."""
    at = (np.arange(size) + 0.5) * cells / size - 0.5
    return np.maximum(1 - np.abs(at.clip(0, cells - 1)[:, None] - np.arange(cells)), 0).astype(np.float32)


@lru_cache(8)
def _distances(size: int) -> np.ndarray:
    return np.abs(np.arange(size)[:, None] - np.arange(size))


def soften(image: np.ndarray, radius: float) -> np.ndarray:
    """Gaussian blur of `[..., S, S]`, standard deviation `radius` pixels, borders kept."""
    size = image.shape[-1]
    bell = np.exp(-0.5 * (np.arange(size, dtype=np.float32) / np.float32(max(radius, 0.3))) ** 2)
    weights = bell.take(_distances(size))
    weights /= weights.sum(1, keepdims=True)
    return weights @ image @ weights.T


def smooth_noise(size: int, cells: int | tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """`[size, size]`: standard normal values on a grid of cells (down, across), interpolated linearly."""
    rows, columns = (cells, cells) if isinstance(cells, int) else cells
    noise = rng.standard_normal((rows, columns), np.float32)
    return interpolation(size, rows) @ noise @ interpolation(size, columns).T


def reduce(image: np.ndarray) -> np.ndarray:
    """The mean of each block of OVERSAMPLING by OVERSAMPLING pixels of `[..., H, W]`."""
    n = OVERSAMPLING
    return sum(image[..., y::n, x::n] for y in range(n) for x in range(n)) * np.float32(n**-2)


def repeat(image: np.ndarray) -> np.ndarray:
    """Each pixel of `[H, W]` OVERSAMPLING times in both directions: undoes `reduce`."""
    return image.repeat(OVERSAMPLING, 0).repeat(OVERSAMPLING, 1)


@lru_cache(8)
def grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """x `[1, S]` and y `[S, 1]` of the pixels' centres, -1 to 1, right and down."""
    centre = ((np.arange(size, dtype=np.float32) + 0.5) * 2 / size - 1).astype(np.float32)
    return centre[None], centre[:, None]
