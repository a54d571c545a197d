"""Scores of masks, where somebody drew the finding itself and not a box around it: Dice, IoU, Hausdorff distance.

An undefined score is NaN: two empty masks have no Dice, and no distance exists from an empty mask.
"""

from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from cxrlib.errors import CxrError
from cxrlib.localization.boxes import MASK_LEVELS, Frame, unit, upsample


def dice(a_YX: np.ndarray, b_YX: np.ndarray) -> float:
    """2 |A and B| / (|A| + |B|); NaN if both are empty."""
    a, b = _pair(a_YX, b_YX)
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else float("nan")


def mask_iou(a_YX: np.ndarray, b_YX: np.ndarray) -> float:
    """|A and B| / |A or B|; NaN if both are empty."""
    a, b = _pair(a_YX, b_YX)
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else float("nan")


def hausdorff(a_YX: np.ndarray, b_YX: np.ndarray, *, percentile: float = 100.0, spacing: float = 1.0) -> float:
    """How far the one mask's border lies from the other's, at worst (or at a percentile), in both directions.

    A border pixel is one with a side neighbour outside of the mask (the image's edge counts as outside). Distances are
    Euclidean, between pixel centres.

    Args:
        a_YX: bool.
        b_YX: bool, of the same shape.
        percentile: 100 is the Hausdorff distance itself; 95 is less at the mercy of a single pixel. It is taken in each
            direction, and the larger counts.
        spacing: Length of a pixel: with millimetres, the result is in millimetres.

    Returns:
        NaN if either mask is empty.
    """
    a, b = _pair(a_YX, b_YX)
    if not a.any() or not b.any():
        return float("nan")
    return border_distance(border(a), border(b), percentile=percentile) * spacing


class Border(NamedTuple):
    """The border pixels of a mask, and a tree that finds the nearest of them. They are few beside the pixels of the image, so
    this is some thirty times faster than the distance of every pixel."""

    points_M2: np.ndarray
    tree: cKDTree


def border(mask_YX: np.ndarray) -> Border:
    """Row and column of each border pixel of a mask that is not empty."""
    around = np.zeros((mask_YX.shape[0] + 2, mask_YX.shape[1] + 2), bool)
    around[1:-1, 1:-1] = mask_YX
    inner_YX = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    points_M2 = np.argwhere(mask_YX & ~inner_YX).astype(float)
    return Border(points_M2, cKDTree(points_M2))


def border_distance(a: Border, b: Border, *, percentile: float = 100.0) -> float:
    """`hausdorff` of two borders, in pixels."""
    return float(max(np.percentile(other.tree.query(mine.points_M2)[0], percentile) for mine, other in ((a, b), (b, a))))


class MaskSweep(NamedTuple):
    """A map against a mask at each threshold."""

    levels: tuple[float, ...]
    dice_T: np.ndarray
    iou_T: np.ndarray


def sweep_mask(
    map_yx: np.ndarray, mask_YX: np.ndarray, *, levels: tuple[float, ...] = MASK_LEVELS, square: int | None = None
) -> MaskSweep:
    """Dice and IoU of a map cut at each threshold, from two histograms: no mask is made per threshold.

    Args:
        map_yx: The map over the model's square.
        mask_YX: The true mask in original pixels.
        levels: Thresholds in (0, 1].
        square: See `boxes.upsample`.

    Raises:
        CxrError: The map cannot be upsampled.
    """
    mask_YX = np.asarray(mask_YX, bool)
    frame = Frame(mask_YX.shape[1], mask_YX.shape[0])
    heat_YX = unit(upsample(map_yx, frame, square=square, size=max(frame)))
    order = np.argsort(levels, kind="stable")
    reached_YX = np.zeros(mask_YX.shape, np.int64)
    if heat_YX is not None:
        reached_YX = np.searchsorted(np.asarray(levels, np.float32)[order], heat_YX, side="right")
    both = np.bincount(reached_YX[mask_YX], minlength=len(levels) + 1)
    every = np.bincount(reached_YX.ravel(), minlength=len(levels) + 1)
    hit, cut = (np.cumsum(counts[::-1])[::-1][1:] for counts in (both, every))
    true = int(mask_YX.sum())
    dice_T, iou_T = np.empty(len(levels)), np.empty(len(levels))
    with np.errstate(invalid="ignore"):
        dice_T[order], iou_T[order] = 2 * hit / (cut + true), hit / (cut + true - hit)
    return MaskSweep(tuple(levels), dice_T, iou_T)


def cut_mask(map_yx: np.ndarray, frame: Frame, *, level: float, square: int | None = None) -> np.ndarray:
    """The map as a mask in original pixels: everything at or above `level` of its range; nothing for a constant map."""
    heat_YX = unit(upsample(map_yx, frame, square=square, size=max(frame)))
    return np.zeros((frame.height, frame.width), bool) if heat_YX is None else heat_YX >= np.float32(level)


def _pair(a_YX: np.ndarray, b_YX: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a_YX, bool), np.asarray(b_YX, bool)
    if a.shape != b.shape or a.ndim != 2:
        raise CxrError(f"two masks of one image must have one shape [Y, X], not {a.shape} and {b.shape}: resize one of them")
    return a, b
