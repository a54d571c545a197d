"""Where a pixel of the original lies in the store: the one place that knows how images are fitted into
squares.

Our decision: the whole image is scaled so that its longer side fills the square, and the rest is padded with
black, in equal parts on both sides. A crop would lose lung bases, and squeezing would change the ratio of
heart to chest. NIH's images are square, so nothing is padded there.
"""

from typing import NamedTuple

import numpy as np


class Fit(NamedTuple):
    """How an image lies in a square: its scaled size, and the place of its top-left corner."""

    width: int
    height: int
    x: int
    y: int


def fit(width: int, height: int, size: int) -> Fit:
    """The place of a `width` x `height` image within a `size` x `size` store image, in whole store pixels."""
    longer = max(width, height)
    # At least one pixel, so that an absurdly thin image still has a scale.
    scaled = [max(1, (2 * side * size + longer) // (2 * longer)) for side in (width, height)]
    return Fit(scaled[0], scaled[1], (size - scaled[0]) // 2, (size - scaled[1]) // 2)


def to_store(boxes: np.ndarray, *, width: int, height: int, size: int) -> np.ndarray:
    """Boxes in original pixels -> boxes in store pixels.

    Args:
        boxes: float xyxy, half-open, [..., 4].
        width: Width of the original frame (1024 for NIH, also where the files are smaller copies).
        height: Its height.
        size: Side of the store's images.

    Returns:
        float64 xyxy, [..., 4], neither rounded nor clipped.
    """
    scale, offset = _scale_and_offset(width, height, size)
    return np.asarray(boxes, np.float64) * scale + offset


def to_original(boxes: np.ndarray, *, width: int, height: int, size: int) -> np.ndarray:
    """Boxes in store pixels -> boxes in original pixels: the inverse of `to_store`."""
    scale, offset = _scale_and_offset(width, height, size)
    return (np.asarray(boxes, np.float64) - offset) / scale


def _scale_and_offset(width: int, height: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    # Each axis has its own scale, because the scaled size was rounded to whole pixels: so the map is exact.
    place = fit(width, height, size)
    scale = [place.width / width, place.height / height]
    return np.array(scale * 2), np.array([place.x, place.y] * 2, dtype=np.float64)
