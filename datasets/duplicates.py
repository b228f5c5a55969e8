"""Images that are nearly the same: distances between pixels, twins across splits, nearest neighbours.

The distance of two images is the root mean square of their difference over all pixels and channels, in
grey levels of 0 to 255.
"""

from collections.abc import Iterator

import numpy as np

TWIN_DISTANCE = 12.0  # grey levels RMS: closer images are taken for shots of one burst
BLOCK = 1024  # images on a side of the distance matrix at a time


def nearest(images: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The index int [N] and the distance float64 [N] of each image's nearest reference.

    `images` and `references` are uint8 [N, H, W, 3] and [M, H, W, 3], M at least 1.
    """
    best = np.full(len(images), np.inf)
    index = np.zeros(len(images), int)
    for rows, columns, distances in _distance_blocks(images, references):
        found = distances.argmin(1)
        closest = distances[np.arange(len(found)), found]
        index[rows] = np.where(closest < best[rows], found + columns.start, index[rows])
        best[rows] = np.minimum(closest, best[rows])
    return index, _exact(images, references[index])


def has_twin(images: np.ndarray, references: np.ndarray, distance: float = TWIN_DISTANCE) -> np.ndarray:
    """Whether each of `images` uint8 [N, H, W, 3] has a reference within `distance`; bool [N]."""
    return nearest(images, references)[1] <= distance


def close_pairs(
    images: np.ndarray, others: np.ndarray | None = None, distance: float = TWIN_DISTANCE
) -> list[tuple[int, int, float]]:
    """All (i, j, distance) of `images[i]` and `others[j]` within `distance`, the closest first.

    Without `others`, pairs among `images` themselves, each once, i < j.
    """
    among = others is None
    others = images if among else others
    candidates = [np.empty((0, 2), int)]
    for rows, columns, distances in _distance_blocks(images, others):
        # A level more than asked for, as these distances are rounded; exact ones decide.
        candidates.append(np.argwhere(distances <= distance + 1) + np.array([rows.start, columns.start]))
    left, right = np.concatenate(candidates).T
    if among:
        left, right = left[left < right], right[left < right]
    exact = _exact(images[left], others[right])
    order = [k for k in np.argsort(exact, kind="stable") if exact[k] <= distance]
    return [(int(left[k]), int(right[k]), float(exact[k])) for k in order]


def _distance_blocks(images: np.ndarray, others: np.ndarray) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """Yields blocks of the matrix of distances, float32, with their rows and columns.

    Matrix products of centred pixels: fast, and within a fraction of a grey level.
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


def _exact(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The distance float64 [N] of `a[i]` and `b[i]`."""
    result = np.empty(len(a))
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        result[i] = np.sqrt(np.mean((x.astype(np.float64) - y) ** 2))
    return result
