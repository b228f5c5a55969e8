"""Images that are nearly the same: near duplicates, twins across splits, nearest neighbours.

The distance between two images is the root mean square of their difference over all pixels and channels, in
grey levels from 0 to 255.
"""

from collections.abc import Iterator

import numpy as np

TWIN_DISTANCE = 12.0  # grey levels; closer images are regarded as shots of one burst
BLOCK = 1024  # images along a side of the part of the distance matrix that is in memory at a time


def nearest(images: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds the nearest reference of every image.

    Args:
      images: uint8 `[N, H, W, 3]`.
      references: uint8 `[M, H, W, 3]`, at least one.

    Returns: indices of the references, int `[N]`, and distances to them, float64 `[N]`.
    """
    best = np.full(len(images), np.inf)
    index = np.zeros(len(images), int)
    for rows, columns, distances in _distance_blocks(images, references):
        column = distances.argmin(1)
        closest = distances[np.arange(len(column)), column]
        index[rows] = np.where(closest < best[rows], column + columns.start, index[rows])
        best[rows] = np.minimum(closest, best[rows])
    return index, _exact_distances(images, references[index])


def has_twin(images: np.ndarray, references: np.ndarray, distance: float = TWIN_DISTANCE) -> np.ndarray:
    """Returns, bool `[N]`, whether `images` uint8 `[N, H, W, 3]` have a reference within `distance`."""
    return nearest(images, references)[1] <= distance


def close_pairs(
    images: np.ndarray, others: np.ndarray | None = None, distance: float = TWIN_DISTANCE
) -> list[tuple[int, int, float]]:
    """Lists the pairs of `images[i]` and `others[j]` within `distance`, the closest first.

    Without `others` the pairs are among `images` themselves. Every pair is listed once, with i < j.

    Returns: tuples (i, j, distance).
    """
    is_one_set = others is None
    others = images if others is None else others
    candidates = [np.empty((0, 2), int)]
    for rows, columns, distances in _distance_blocks(images, others):
        # These distances are rounded, so look a level farther. The exact distances decide.
        candidates.append(np.argwhere(distances <= distance + 1) + np.array([rows.start, columns.start]))
    left, right = np.concatenate(candidates).T
    if is_one_set:
        left, right = left[left < right], right[left < right]
    exact = _exact_distances(images[left], others[right])
    order = [k for k in np.argsort(exact, kind="stable") if exact[k] <= distance]
    return [(int(left[k]), int(right[k]), float(exact[k])) for k in order]


def _distance_blocks(images: np.ndarray, others: np.ndarray) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """Yields blocks of the distance matrix, float32, with their rows and columns.

    They come from matrix products of centred pixels, which are fast and right within a fraction of a grey
    level.
    """
    for row in range(0, len(images), BLOCK):
        rows = slice(row, min(row + BLOCK, len(images)))
        a = _centred(images[rows])
        for column in range(0, len(others), BLOCK):
            columns = slice(column, min(column + BLOCK, len(others)))
            b = _centred(others[columns])
            squares = (a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * (a @ b.T)
            yield rows, columns, np.sqrt(np.maximum(squares, 0) / a.shape[1])


def _centred(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float32) - 127.5


def _exact_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the distances between `a[i]` and `b[i]`, float64 `[N]`."""
    result = np.empty(len(a))
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        result[i] = np.sqrt(np.mean((x.astype(np.float64) - y) ** 2))
    return result
