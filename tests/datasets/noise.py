"""Random images, and the distances between them by the definition."""

import numpy as np


def noise(count: int, seed: int = 0) -> np.ndarray:
    """Returns random images, uint8 `[count, 8, 8, 3]`, of levels 20 to 229."""
    return np.random.default_rng(seed).integers(20, 230, (count, 8, 8, 3), dtype=np.uint8)


def all_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the distances of all pairs, float64 `[len(a), len(b)]`, one by one."""
    return np.sqrt(((a[:, None].astype(float) - b[None]) ** 2).mean((2, 3, 4)))
