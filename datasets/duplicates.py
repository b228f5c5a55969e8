"""Images that are nearly the same: near duplicates, twins across splits, nearest neighbours.

The distance between two images is the root mean square of their difference over all pixels and channels, in
grey levels from 0 to 255.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from datasets.digests import pixel_digests
from datasets.threads import map_in_threads

TWIN_DISTANCE = 12.0  # grey levels; closer images are regarded as shots of one burst
SIDE = 8  # blocks along a side of a thumbnail
PIXELS = 2**14  # values of an image that are multiplied at a time
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
    result = np.zeros(len(images), bool)
    for rows, _, _ in close_pairs(images, references, distance):
        result[rows] = True
    return result


def close_pairs(
    images: np.ndarray, others: np.ndarray | None = None, distance: float = TWIN_DISTANCE
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields the pairs of `images[i]` and `others[j]` within `distance`, block by block: i, j, distances.

    Without `others` the pairs are among `images` themselves. Every pair comes once, with i < j. One block
    is kept at a time, because the pairs of many images that are alike would fill the memory.

    Thumbnails tell most pairs apart, as in `twin_groups`.
    """
    second = images if others is None else others
    columns = [(part, _thumbnails(second[part], SIDE)[0]) for part in _slices(len(second))]
    for rows in _slices(len(images)):
        thumbnails = _thumbnails(images[rows], SIDE)[0]
        for part, other_thumbnails in columns:
            if others is None and part.start < rows.start:
                continue
            is_near = _near_thumbnails(thumbnails, other_thumbnails, distance)
            if others is None and part.start == rows.start:
                is_near = np.triu(is_near, 1)
            if is_near.any():
                left, right = (np.arange(p.start, p.stop) for p in (rows, part))
                i, j, exact = _exact_pairs(is_near, (images, left), (second, right), distance)
                yield left[i], right[j], exact


def twin_groups(images: np.ndarray, distance: float = TWIN_DISTANCE) -> np.ndarray:
    """Returns the group of each image, int `[N]`, for `images` uint8 `[N, H, W, 3]`.

    Two images within `distance` are in one group, and so are images that a chain of such pairs connects.
    Groups are numbered from 0, in the order in which they first occur.

    Thumbnails of block means rule out most pairs. By Jensen's inequality two thumbnails are at most
    as far apart as their images, so no pair is missed.
    """
    _, firsts, copies = np.unique(pixel_digests(images), return_index=True, return_inverse=True)
    chunks = map_in_threads(lambda places: _thumbnails(images[firsts[places]], SIDE), _slices(len(firsts)))
    thumbnails, levels = map(np.concatenate, zip(*chunks, strict=True))
    order = np.argsort(levels)
    different = _Different(images, firsts[order], thumbnails[order], levels[order], _Groups(len(order)))
    if distance > 0:
        for rows in _slices(len(order)):
            for columns in _slices(len(order), rows.start):
                # The mean level is a thumbnail of one pixel, and further columns are brighter still.
                if levels[order[columns.start]] - levels[order[rows.stop - 1]] > distance + 1:
                    break
                _join_twins(different, rows, columns, distance)
    group_of_first = np.empty(len(order), int)
    group_of_first[order] = different.groups.of
    _, first_places, numbers = np.unique(group_of_first[copies], return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first_places))[numbers]


class _Groups:
    """Groups of items 0 to `count - 1`, at first of one item each; `of` is the group of each item."""

    def __init__(self, count: int) -> None:
        self.of = np.arange(count)
        self._members = [[item] for item in range(count)]

    def join(self, first: int, second: int) -> None:
        """Makes the groups of two items one."""
        large, small = self.of[first], self.of[second]
        if large == small:
            return
        if len(self._members[large]) < len(self._members[small]):
            large, small = small, large
        self.of[self._members[small]] = large
        self._members[large] += self._members[small]
        self._members[small] = []


class _Different(NamedTuple):
    """Images of which no two are equal, `images[places]`, the darkest first, and what is known of them."""

    images: np.ndarray
    places: np.ndarray
    thumbnails: np.ndarray
    levels: np.ndarray
    groups: _Groups


def _join_twins(different: _Different, rows: slice, columns: slice, distance: float) -> None:
    """Joins the groups of all pairs within `distance` in a block of the distance matrix."""
    groups = different.groups
    is_near = _near_thumbnails(different.thumbnails[rows], different.thumbnails[columns], distance)
    is_near &= groups.of[rows, None] != groups.of[columns]
    if not is_near.any():
        return
    _drop_distant(is_near, different, rows, columns, distance)
    # A group is joined with one neighbour at a time. What is one group by then needs no further look, so
    # nearly equal images take no longer.
    while is_near.any():
        row, column = np.flatnonzero(is_near.any(1)), np.flatnonzero(is_near.any(0))
        lefts = np.concatenate([row, is_near[:, column].argmax(0)]) + rows.start
        rights = np.concatenate([is_near[row].argmax(1), column]) + columns.start
        for left, right in zip(lefts, rights, strict=True):
            groups.join(left, right)
        is_near &= groups.of[rows, None] != groups.of[columns]


def _drop_distant(
    is_near: np.ndarray, different: _Different, rows: slice, columns: slice, distance: float
) -> None:
    """Leaves in `is_near`, bool `[rows, columns]`, the pairs whose images are within `distance`."""
    images, left, right = different.images, different.places[rows], different.places[columns]
    i, j, _ = _exact_pairs(is_near, (images, left), (images, right), distance)
    is_near[:] = False
    is_near[i, j] = True


def _exact_pairs(
    is_near: np.ndarray,
    left: tuple[np.ndarray, np.ndarray],
    right: tuple[np.ndarray, np.ndarray],
    distance: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns which pairs marked in `is_near`, bool `[N, M]`, are within `distance`.

    `left` and `right` are images and the places of N and M of them. The result is the indices into the
    places, and the distances.
    """
    (images, rows), (others, columns) = left, right
    if is_near.sum() > BLOCK:  # Then finer thumbnails are faster than pair after pair.
        a, b = _thumbnails(images[rows], 4 * SIDE)[0], _thumbnails(others[columns], 4 * SIDE)[0]
        is_near = is_near & _near_thumbnails(a, b, distance)
    i, j = np.nonzero(is_near)
    if len(i) > BLOCK:
        exact = _all_distances(images[rows], others[columns])[i, j]
    else:
        exact = _exact_distances(images[rows[i]], others[columns[j]])
    kept = exact <= distance
    return i[kept], j[kept], exact[kept]


def _thumbnails(images: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns thumbnails of `images`, float32 `[N, D]`, and their mean levels, float32 `[N]`.

    A thumbnail holds the means of `side` x `side` blocks, weighted so that the Euclidean distance of two is a
    lower bound of the distance of their images.
    """
    height, width, _ = images.shape[1:]
    rows, columns = (np.linspace(0, n, min(side, n) + 1).astype(int) for n in (height, width))
    areas = (np.diff(rows)[:, None] * np.diff(columns)).astype(np.float32)
    sums = np.add.reduceat(images, rows[:-1], axis=1, dtype=np.float32)
    sums = np.add.reduceat(sums, columns[:-1], axis=2)
    weights = np.sqrt(np.repeat(areas.ravel(), 3) / (3 * height * width))
    thumbnails = (sums / areas[:, :, None] - 127.5).reshape(len(images), -1) * weights
    return thumbnails, thumbnails @ weights


def _near_thumbnails(a: np.ndarray, b: np.ndarray, distance: float) -> np.ndarray:
    """Returns, bool `[N, M]`, which pairs of thumbnails may belong to images within `distance`."""
    # Products are rounded, so look a level farther.
    return _squared_distances(a, b) <= (distance + 1) ** 2


def _all_distances(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns the exact distances of all pairs, float64 `[N, M]`. Sums of whole numbers are not rounded."""
    a, b = images.reshape(len(images), -1), others.reshape(len(others), -1)
    squares = np.zeros((len(a), len(b)))
    for start in range(0, a.shape[1], PIXELS):
        parts = (pixels[:, start : start + PIXELS].astype(np.float64) for pixels in (a, b))
        squares += _squared_distances(*parts)
    return np.sqrt(squares / a.shape[1])


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the squared Euclidean distances of all pairs of rows `[N, M]`, but for rounding."""
    return (a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * (a @ b.T)


def _slices(count: int, start: int = 0) -> Iterator[slice]:
    """Yields slices of `BLOCK` items that make up `start` to `count`."""
    for first in range(start, count, BLOCK):
        yield slice(first, min(first + BLOCK, count))


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
            yield rows, columns, np.sqrt(np.maximum(_squared_distances(a, b), 0) / a.shape[1])


def _centred(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float32) - 127.5


def _exact_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the distances between `a[i]` and `b[i]`, float64 `[N]`."""
    result = np.empty(len(a))
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        result[i] = np.sqrt(np.mean((x.astype(np.float64) - y) ** 2))
    return result
