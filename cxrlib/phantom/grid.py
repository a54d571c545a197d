"""The canvas: a square grid in centimetres, and the few operations that every shape is made with.

x points to the right of the image (the patient's left), y points down, the origin is the image's centre.
All thicknesses are in centimetres along the beam.
"""

import functools
from typing import NamedTuple

import numpy as np
from scipy import ndimage

FIELD_CM = 37.0
"""Side of the square field of view. A 35 x 43 cm film squeezed to a square, as NIH's images are, spans
about this."""


class Grid(NamedTuple):
    """Pixel centres in centimetres.

    Fields:
        size: Pixels per side.
        pitch: Centimetres per pixel.
        x_1X: Row vector of x.
        y_Y1: Column vector of y.
    """

    size: int
    pitch: float
    x_1X: np.ndarray
    y_Y1: np.ndarray

    def column(self, x_cm: float) -> int:
        """The column that holds x, clipped into the image."""
        return int(min(max((x_cm + FIELD_CM / 2) / self.pitch, 0), self.size))

    row = column


@functools.lru_cache(maxsize=8)
def grid(size: int) -> Grid:
    """The grid of `size` x `size` pixels; made once per size."""
    pitch = FIELD_CM / size
    axis = ((np.arange(size) + 0.5) * pitch - FIELD_CM / 2).astype(np.float32)
    axis.setflags(write=False)
    return Grid(size, pitch, axis[None, :], axis[:, None])


def half_chord(d2: np.ndarray) -> np.ndarray:
    """sqrt(1 - d2) inside the unit shape and 0 outside: the depth profile of an ellipsoid or a tube."""
    t = np.asarray(1.0 - d2)
    np.maximum(t, 0.0, out=t)
    return np.sqrt(t, out=t)


def ramp(value: np.ndarray, start: float, end: float) -> np.ndarray:
    """A smooth step from 0 at `start` to 1 at `end` (cubic); `start` may be the larger."""
    t = np.asarray((value - start) * np.float32(1.0 / (end - start)))
    np.maximum(t, 0.0, out=t)
    np.minimum(t, 1.0, out=t)
    out = t * -2.0
    out += 3.0
    out *= t
    out *= t
    return out


def ellipse_d2(g: Grid, x: float, y: float, rx: float, ry: float, angle: float = 0.0) -> np.ndarray:
    """Squared distance from an ellipse's centre in units of its radii: 1 on the outline.

    Args:
        g: The grid.
        x: Centre, cm.
        y: Centre, cm.
        rx: Radius along the ellipse's first axis, cm.
        ry: Radius along its second axis, cm.
        angle: Turn of the first axis, radians, clockwise on the screen.

    Returns:
        float32 [Y, X].
    """
    dx, dy = g.x_1X - np.float32(x), g.y_Y1 - np.float32(y)
    if angle == 0.0:
        return (dx / np.float32(rx)) ** 2 + (dy / np.float32(ry)) ** 2
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return ((c * dx + s * dy) / np.float32(rx)) ** 2 + ((c * dy - s * dx) / np.float32(ry)) ** 2


def splat(g: Grid, x_P: np.ndarray, y_P: np.ndarray, volume_P: np.ndarray) -> np.ndarray:
    """Puts small volumes (cm3) at points, shared between the four nearest pixels, and returns thickness in
    cm.

    A tube is a row of such points, blurred to its width afterwards. Matter is conserved, so overlaps add up.

    Args:
        g: The grid.
        x_P: Points, cm.
        y_P: Points, cm.
        volume_P: cm3 at each point.

    Returns:
        float32 [Y, X].
    """
    n = g.size
    column = (x_P + FIELD_CM / 2) / g.pitch - 0.5
    row = (y_P + FIELD_CM / 2) / g.pitch - 0.5
    c0, r0 = np.floor(column).astype(np.int64), np.floor(row).astype(np.int64)
    keep = (c0 >= 0) & (r0 >= 0) & (c0 < n - 1) & (r0 < n - 1)
    c0, r0 = c0[keep], r0[keep]
    fc, fr, v = column[keep] - c0, row[keep] - r0, volume_P[keep] / g.pitch**2
    at = r0 * n + c0
    index = np.concatenate([at, at + 1, at + n, at + n + 1])
    weight = np.concatenate([v * (1 - fr) * (1 - fc), v * (1 - fr) * fc, v * fr * (1 - fc), v * fr * fc])
    return np.bincount(index, weight, n * n).reshape(n, n).astype(np.float32)


def blur(image_YX: np.ndarray, sigma_px: float) -> np.ndarray:
    """A Gaussian blur, cut at 2.5 sigma; nothing below 0.4 pixels, which the pixels themselves blur."""
    if sigma_px < 0.4:
        return image_YX
    return ndimage.gaussian_filter(image_YX, sigma_px, mode="nearest", truncate=2.5)


@functools.lru_cache(maxsize=64)
def _taps(out: int, knots: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices [4, out] and cubic B-spline weights [4, out] that stretch `knots` values over `out` pixels."""
    at = (np.arange(out) + 0.5) / out * (knots - 3)
    base = np.floor(at).astype(np.int64)
    f = (at - base).astype(np.float32)
    w = np.stack(
        [(1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3]
    ) / np.float32(6)
    return base[None] + np.arange(4)[:, None], w.astype(np.float32)


def stretch(low_JI: np.ndarray, size: int) -> np.ndarray:
    """A coarse field spread smoothly (cubic B-spline) over size x size pixels. No BLAS, so the same bytes
    on any thread count."""
    index, weight = _taps(size, low_JI.shape[1])
    wide = sum(low_JI[:, index[k]] * weight[k][None, :] for k in range(4))
    index, weight = _taps(size, low_JI.shape[0])
    out = wide.take(index[0], axis=0)
    out *= weight[0][:, None]
    for k in range(1, 4):
        part = wide.take(index[k], axis=0)
        part *= weight[k][:, None]
        out += part
    return out


def cloud(rng: np.random.Generator, size: int, scale_cm: float) -> np.ndarray:
    """A smooth random field of about unit variance whose blobs are about `scale_cm` wide, float32 [Y, X]."""
    knots = max(4, round(FIELD_CM / scale_cm)) + 3
    low = rng.standard_normal((knots, knots), dtype=np.float32)
    return stretch(low, size) * np.float32(1.9)
