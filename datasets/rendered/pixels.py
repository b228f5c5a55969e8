"""Small operations on square pictures, float32 `[..., S, S]`, of which the renderer is made."""

from functools import lru_cache

import numpy as np

OVERSAMPLING = 2  # a hand is drawn at this multiple of the picture's size and then reduced


def linear(srgb: np.ndarray) -> np.ndarray:
    """Converts sRGB values 0-1 to linear light, float32."""
    return (np.asarray(srgb) ** 2.2).astype(np.float32)


def clip(image: np.ndarray, low: float, high: float | np.ndarray) -> np.ndarray:
    """Does what `np.clip` does, without the overhead that counts in pictures this small."""
    return np.minimum(np.maximum(image, low), high)


def shift(image: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Moves `[S, S]` by `offset` `[2]` pixels (right, down) and repeats its border."""
    pixels, last = np.arange(len(image)), len(image) - 1
    dx, dy = np.rint(offset).astype(int)
    across = np.minimum(np.maximum(pixels - dx, 0), last)
    down = np.minimum(np.maximum(pixels - dy, 0), last)
    return image.take(down, 0).take(across, 1)


@lru_cache(256)
def interpolation(size: int, cells: int) -> np.ndarray:
    """Returns the weights, `[size, cells]`, that enlarge a row of cells linearly to a row of pixels."""
    at = (np.arange(size) + 0.5) * cells / size - 0.5
    return np.maximum(1 - np.abs(at.clip(0, cells - 1)[:, None] - np.arange(cells)), 0).astype(np.float32)


@lru_cache(8)
def _distances(size: int) -> np.ndarray:
    """Returns the distances between the pixels of a row, `[S, S]`."""
    return np.abs(np.arange(size)[:, None] - np.arange(size))


def soften(image: np.ndarray, radius: float) -> np.ndarray:
    """Blurs `[..., S, S]` with a Gaussian of standard deviation `radius` pixels.

    Near the border the weights are normalised, so that nothing gets darker there.
    """
    size = image.shape[-1]
    bell = np.exp(-0.5 * (np.arange(size, dtype=np.float32) / np.float32(max(radius, 0.3))) ** 2)
    weights = bell.take(_distances(size))
    weights /= weights.sum(1, keepdims=True)
    return weights @ image @ weights.T


def smooth_noise(size: int, cells: int | tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Returns noise `[size, size]`: standard normal values on a grid of cells, interpolated linearly.

    `cells` is the number of cells along a side, or the numbers down and across.
    """
    rows, columns = (cells, cells) if isinstance(cells, int) else cells
    noise = rng.standard_normal((rows, columns), np.float32)
    return interpolation(size, rows) @ noise @ interpolation(size, columns).T


def reduce(image: np.ndarray) -> np.ndarray:
    """Reduces `[..., H, W]` by the mean of each block of OVERSAMPLING by OVERSAMPLING pixels."""
    n = OVERSAMPLING
    total = np.asarray(sum(image[..., y::n, x::n] for y in range(n) for x in range(n)))
    return total * np.float32(n**-2)


def repeat(image: np.ndarray) -> np.ndarray:
    """Enlarges `[H, W]` to the size before `reduce`, by repeating pixels in both directions."""
    return image.repeat(OVERSAMPLING, 0).repeat(OVERSAMPLING, 1)


@lru_cache(8)
def grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the coordinates of the pixels' centres, -1 to 1: x `[1, S]` to the right, y `[S, 1]` down."""
    centre = ((np.arange(size, dtype=np.float32) + 0.5) * 2 / size - 1).astype(np.float32)
    return centre[None], centre[:, None]
