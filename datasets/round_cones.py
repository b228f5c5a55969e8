"""Draws round cones into a depth map with normals, the way a camera on +z sees them."""

from typing import NamedTuple

import numpy as np

FAR = np.float32(-1e4)  # depth of a pixel that no surface covers


class Surface(NamedTuple):
    """The visible surface, pixel by pixel.

    depth: float32 `[H, W]`, towards the viewer, in pixels; FAR where there is none. normal: float32
    `[3, H, W]`, x right, y down, z towards the viewer. part: intp `[H, W]`, the foremost cone's
    index, -1 where there is none.
    """

    depth: np.ndarray
    normal: np.ndarray
    part: np.ndarray


def draw(start: np.ndarray, end: np.ndarray, radius: np.ndarray, blend: np.ndarray, size: int) -> Surface:
    """Draws P cones, in pixels, x right, y down, z towards the viewer, into a square picture.

    start, end: `[P, 3]`; radius: `[P, 2]` at start and end; blend: `[P]`, the depth over which a
    cone's surface flows into others (log-sum-exp in place of the maximum).

    A round cone is a family of spheres, and along a ray of sight its surface is the largest of
    z(t) + sqrt(r(t)^2 - distance(t)^2) over t in [0, 1]. That is concave in t, so the stationary
    point, clipped, is the answer. All cones are evaluated at once, each over its bounding box.
    """
    low = np.minimum(start[:, :2] - radius[:, :1], end[:, :2] - radius[:, 1:])
    high = np.maximum(start[:, :2] + radius[:, :1], end[:, :2] + radius[:, 1:])
    low = np.clip(np.floor(low), 0, size).astype(np.int32)
    width, height = (np.clip(np.ceil(high), 0, size).astype(np.int32) - low).T
    cells = width * height

    # One entry per cone and pixel of its box.
    (ax, ay, az), (dx, dy, dz) = start.T, (end - start).T
    ra, dr = radius[:, 0], radius[:, 1] - radius[:, 0]
    first = np.cumsum(cells, dtype=np.int32) - cells
    cone = np.repeat(np.arange(len(start)), cells)
    spot = np.arange(len(cone), dtype=np.int32) - np.repeat(first, cells)
    widths = np.repeat(width, cells)
    row = spot // widths
    column = spot - row * widths
    g2 = dx * dx + dy * dy - dr * dr
    steep = np.maximum(g2, 1e-2)  # keeps a cone seen end on finite
    constants = [
        low[:, 0] + 0.5 - ax,
        low[:, 1] + 0.5 - ay,
        dx,
        dy,
        ra * dr,
        ra * ra,
        g2,
        1 / steep,
    ]
    constants += [dz / np.sqrt(1 + dz * dz / steep)]
    left, top, dx, dy, slant, ra2, g2, flat, lift = np.repeat(np.float32(constants), cells, axis=1)

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
    z = np.sqrt(bulge[hit]) + t[hit] * np.float32(dz)[cone] + np.float32(az)[cone]
    return _merge(z, pixel, cone, np.float32(blend)[cone], size)


def _merge(z: np.ndarray, pixel: np.ndarray, cone: np.ndarray, blend: np.ndarray, size: int) -> Surface:
    """The smooth foremost surface of K samples: depth, flat pixel index, cone, blend: `[K]`."""
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
    """Central difference along the last axis; beside a jump, the one-sided one on the surface."""
    step = np.diff(depth, axis=-1, prepend=FAR, append=FAR)
    before, after = step[..., :-1], step[..., 1:]
    inside = np.where(np.abs(before) < np.abs(after), before, after)
    return np.where(np.abs(after - before) < 3, 0.5 * (before + after), inside)


def _normals(depth: np.ndarray) -> np.ndarray:
    right, down = _slope(depth), _slope(depth.T).T
    length = 1 / np.sqrt(right * right + down * down + 1)
    return np.stack([-right * length, -down * length, length])
