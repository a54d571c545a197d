"""Masks as others store them: COCO's run lengths and polygons. Written out here, so that no compiled package is needed."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cxrlib.errors import CxrError


def decode_rle(rle: dict[str, Any]) -> np.ndarray:
    """A mask from COCO's run-length encoding.

    Runs alternate between 0 and 1, beginning with 0, and go down the columns. `counts` is a list of them, or a string
    in which each run is a number in base 32 (least digit first, bit 5 of a character says that another digit follows, bit 4
    of the last one is the sign), from the third run on less the run before the last.

    Args:
        rle: {"size": [height, width], "counts": list or str}.

    Returns:
        bool [height, width].

    Raises:
        CxrError: The runs do not fill the mask, or the text is no such code.
    """
    try:
        height, width = (int(side) for side in rle["size"])
        counts = rle["counts"]
    except (KeyError, TypeError, ValueError):
        raise CxrError("a run-length code needs size [height, width] and counts: check the file") from None
    runs = np.asarray(_runs(counts) if isinstance(counts, str | bytes) else counts, np.int64)
    if (runs < 0).any() or runs.sum() != height * width:
        raise CxrError(f"run lengths add up to {int(runs.sum())} pixels, the mask has {height} x {width}: its size or its code is wrong")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def polygon_mask(polygons: Sequence[Any], *, width: int, height: int) -> np.ndarray:
    """A mask from polygons: every pixel whose centre lies in one of them (even-odd rule within each).

    Corners are points between pixels, as half-open boxes are: the polygon (2, 1), (5, 1), (5, 4), (2, 4) covers the
    pixels of the box 2, 1, 5, 4.

    Args:
        polygons: Each a list of [x, y], or a flat list x, y, x, y, ... as in COCO.
        width: Of the mask.
        height: Of the mask.

    Returns:
        bool [height, width].

    Raises:
        CxrError: A polygon has fewer than three corners or a corner that is no number.
    """
    mask_YX = np.zeros((height, width), bool)
    for polygon in polygons:
        try:
            corners_M2 = np.asarray(polygon, np.float64).reshape(-1, 2)
        except ValueError:
            raise CxrError("a polygon is neither a list of [x, y] nor x, y, x, y, ...: check the file") from None
        if len(corners_M2) < 3 or not np.isfinite(corners_M2).all():
            raise CxrError(f"a polygon has {len(corners_M2)} usable corners, and needs three: check the file")
        mask_YX |= _inside(corners_M2, width, height)
    return mask_YX


def mask_box(mask_YX: np.ndarray) -> np.ndarray:
    """The half-open box x0, y0, x1, y1 around all of a mask; NaN for an empty one."""
    if not mask_YX.any():
        return np.full(4, np.nan)
    columns, rows = np.flatnonzero(mask_YX.any(axis=0)), np.flatnonzero(mask_YX.any(axis=1))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)


def _inside(corners_M2: np.ndarray, width: int, height: int) -> np.ndarray:
    """Even-odd rule by toggling: where an edge crosses the middle of a row, everything to the right of it changes sides."""
    # Only the rectangle around the polygon is worked on: most polygons are small.
    left, top = np.clip(np.floor(corners_M2.min(axis=0)), 0, [width, height]).astype(int)
    right, bottom = np.clip(np.ceil(corners_M2.max(axis=0)), [left, top], [width, height]).astype(int)
    # Each edge from its upper to its lower end, and the rows whose middle y + 0.5 lies in [upper, lower): half-open, so that a
    # corner is counted for one of its two edges.
    ends_M22 = np.stack([corners_M2, np.roll(corners_M2, -1, axis=0)], axis=1)
    downward = ends_M22[:, 0, 1] <= ends_M22[:, 1, 1]
    upper_M2, lower_M2 = (np.where(downward[:, None], ends_M22[:, a], ends_M22[:, b]) for a, b in ((0, 1), (1, 0)))
    first = np.clip(np.ceil(upper_M2[:, 1] - 0.5), top, bottom).astype(int)
    count = np.maximum(np.clip(np.ceil(lower_M2[:, 1] - 0.5), top, bottom).astype(int) - first, 0)
    edge = np.repeat(np.arange(len(count)), count)
    rows = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    (x0, y0), (x1, y1) = upper_M2[edge].T, lower_M2[edge].T
    x = x0 + (rows + 0.5 - y0) * ((x1 - x0) / (y1 - y0))
    toggles_YX = np.zeros((bottom - top, right - left + 1), np.int32)
    np.add.at(toggles_YX, (rows - top, np.clip(np.ceil(x - 0.5).astype(int) - left, 0, right - left)), 1)
    mask_YX = np.zeros((height, width), bool)
    mask_YX[top:bottom, left:right] = np.cumsum(toggles_YX[:, :-1], axis=1) % 2 == 1
    return mask_YX


def _runs(text: str | bytes) -> list[int]:
    """The runs of a compressed code."""
    codes = text.encode() if isinstance(text, str) else text
    runs: list[int] = []
    value = shift = 0
    for code in codes:
        digit = code - 48
        if not 0 <= digit < 64:
            raise CxrError(f"{chr(code)!r} does not occur in a run-length code: check the file")
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise CxrError("a run-length code ends in the middle of a number: check the file")
    return runs
