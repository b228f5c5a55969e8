"""Draws round cones into a depth map with normals, as a camera on +z sees them."""

from typing import NamedTuple

import numpy as np

FAR = np.float32(-1e4)  # depth where there is no surface


class Surface(NamedTuple):
    """The visible surface, pixel by pixel.

    Attributes:
      depth: float32 `[H, W]`, pixels towards the viewer; FAR where there is no surface.
      normal: float32 `[3, H, W]`, x right, y down, z towards the viewer.
      part: intp `[H, W]`, index of the foremost cone, -1 where there is none.
    """

    depth: np.ndarray
    normal: np.ndarray
    part: np.ndarray


def draw(start: np.ndarray, end: np.ndarray, radius: np.ndarray, blend: np.ndarray, *, size: int) -> Surface:
    """Draws P cones into a square picture.

    A round cone is a family of spheres. Along a line of sight its surface is the largest value of
    z(t) + sqrt(r(t)^2 - distance(t)^2) for t in [0, 1]. This is concave in t, so the answer is the stationary
    point, clipped. All cones are computed at once, each over its bounding box.

    Args:
      start, end: `[P, 3]` pixels, x right, y down, z towards the viewer.
      radius: `[P, 2]` pixels, at start and end.
      blend: `[P]` pixels, the depth over which a surface flows into others (log-sum-exp in place of the
        maximum).
      size: pixels along a side of the picture.
    """
    low, width, height = _boxes(start, end, radius, size)
    # One entry for every cone and every pixel of its box.
    cells = width * height
    cone = np.repeat(np.arange(len(start)), cells)
    row, column = _places(width, cells)
    constants = np.repeat(_constants(start, end - start, radius, low), cells, axis=1)
    left, top, dx, dy, slant, ra2, g2, flat, lift = constants

    # r(t)^2 - distance(t)^2 = g0 + 2 t g1 - t^2 g2
    qx, qy = column.astype(np.float32) + left, row.astype(np.float32) + top
    g1 = qx * dx + qy * dy + slant
    g0 = ra2 - qx * qx - qy * qy
    peak = np.sqrt(np.maximum(g0 + g1 * g1 * flat, 0))
    t = np.minimum(np.maximum((g1 + peak * lift) * flat, 0), 1)
    bulge = g0 + t * (2 * g1 - g2 * t)

    hit = np.flatnonzero(bulge > 0)
    cone = cone[hit]
    pixel = (low[:, 1][cone] + row[hit]) * size + low[:, 0][cone] + column[hit]
    az, dz = start[:, 2], (end - start)[:, 2]
    z = np.sqrt(bulge[hit]) + t[hit] * dz.astype(np.float32)[cone] + az.astype(np.float32)[cone]
    return _merge(z, pixel, cone, blend.astype(np.float32)[cone], size=size)


def _boxes(
    start: np.ndarray, end: np.ndarray, radius: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the bounding boxes of the cones within the picture, int32.

    They are the first pixels, `[P, 2]`, the widths `[P]` and the heights `[P]`.
    """
    low = np.minimum(start[:, :2] - radius[:, :1], end[:, :2] - radius[:, 1:])
    high = np.maximum(start[:, :2] + radius[:, :1], end[:, :2] + radius[:, 1:])
    low = np.clip(np.floor(low), 0, size).astype(np.int32)
    width, height = (np.clip(np.ceil(high), 0, size).astype(np.int32) - low).T
    return low, width, height


def _places(width: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns row and column, within their boxes, of all pixels of all boxes.

    `width` and `cells`, `[P]`, are the widths of the boxes and their numbers of pixels.
    """
    first = np.cumsum(cells, dtype=np.int32) - cells
    spot = np.arange(cells.sum(), dtype=np.int32) - np.repeat(first, cells)
    widths = np.repeat(width, cells)
    row = spot // widths
    return row, spot - row * widths


def _constants(start: np.ndarray, run: np.ndarray, radius: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Returns what the equations of `draw` need of every cone, float32 `[9, P]`.

    `run`, `[P, 3]`, leads from start to end. `low`, `[P, 2]`, is the first pixel of the box.
    """
    (ax, ay, _), (dx, dy, dz) = start.T, run.T
    ra, dr = radius[:, 0], radius[:, 1] - radius[:, 0]
    g2 = dx * dx + dy * dy - dr * dr
    steep = np.maximum(g2, 1e-2)  # keeps a cone finite that is seen end on
    lift = dz / np.sqrt(1 + dz * dz / steep)
    left, top = low[:, 0] + 0.5 - ax, low[:, 1] + 0.5 - ay
    return np.array([left, top, dx, dy, ra * dr, ra * ra, g2, 1 / steep, lift], np.float32)


def _merge(z: np.ndarray, pixel: np.ndarray, cone: np.ndarray, blend: np.ndarray, *, size: int) -> Surface:
    """Returns the smooth foremost surface of K samples.

    Their depths, flat pixel indices, cones and blends are `[K]`.
    """
    foremost = np.full(size * size, FAR, np.float32)
    np.maximum.at(foremost, pixel, z)
    behind = z - foremost[pixel]
    part = np.full(size * size, -1)
    top = behind == 0
    part[pixel[top]] = cone[top]
    share = np.exp(behind / blend)
    total = np.bincount(pixel, share, size * size)
    mean_blend = np.bincount(pixel, share * blend, size * size)
    total = np.maximum(total, 1)
    depth = foremost + (mean_blend / total * np.log(total)).astype(np.float32)
    depth = depth.reshape(size, size)
    return Surface(depth, _normals(depth), part.reshape(size, size))


def _slope(depth: np.ndarray) -> np.ndarray:
    """Returns the slope along the last axis.

    It is the central difference. Beside a jump it is the one-sided difference that stays on the surface.
    """
    step = np.diff(depth, axis=-1, prepend=FAR, append=FAR)
    before, after = step[..., :-1], step[..., 1:]
    inside = np.where(np.abs(before) < np.abs(after), before, after)
    return np.where(np.abs(after - before) < 3, 0.5 * (before + after), inside)


def _normals(depth: np.ndarray) -> np.ndarray:
    """Returns the unit normals `[3, H, W]` of a surface of depth `[H, W]`."""
    right, down = _slope(depth), _slope(depth.T).T
    length = 1 / np.sqrt(right * right + down * down + 1)
    return np.stack([-right * length, -down * length, length])
