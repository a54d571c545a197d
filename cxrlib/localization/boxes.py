"""A map becomes boxes: upsample, scale to 0..1, cut at a threshold, frame the largest connected component.

The order matters. A grid of 14 x 14 patches that is thresholded before it is upsampled gives boxes in steps of 73
pixels of a 1024-pixel film, and most nodules are smaller than that.

Everything is in the pixels of the original image: a map covers the square that the model saw, and `data.frames` says
where the image lies in that square. So the map is read at the original's own pixels, and padding never counts.

Letters: K boxes per map, T thresholds, S side of the model's square.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from cxrlib.data.frames import fit
from cxrlib.errors import CxrError

MASK_LEVELS: tuple[float, ...] = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""Thresholds at which a map becomes a mask: .05 to .95. Kept when boxes got lower ones: the stored tables of Dice were made at them."""

LEVELS: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, *MASK_LEVELS)
"""Thresholds that are tried for boxes: those of masks, and four below. Our decision; no paper states its grid.

The four are for maps that are sharp inside a mask, such as attention times foreground: only near zero is the mask's edge the box.
They were added after a look at validation patients (CLARiTy at 192 px, seed 0), whose hearts were found in part only.
"""

WANG_LEVELS: tuple[float, ...] = (60 / 255, 180 / 255)
"""The two levels of the original NIH paper, whose maps had 256 grey values (Wang et al. 2017; from memory)."""
WANG_COUNT = 3
"""It drew one to three boxes per map."""


class Frame(NamedTuple):
    """The original image that a map belongs to, in pixels."""

    width: int
    height: int


class Found(NamedTuple):
    """What was found in one map, in original pixels."""

    boxes_TK4: np.ndarray
    """Half-open x0, y0, x1, y1 for each threshold, the largest component first; NaN where there is no more."""
    peak_2: np.ndarray
    """x, y of the map's maximum (the centre of that pixel); NaN for a constant map."""


def upsample(map_yx: np.ndarray, frame: Frame, *, square: int | None = None, size: int = 1024) -> np.ndarray:
    """A map read at the pixels of the original image: bilinear between the centres of its cells, flat beyond them.

    For a square image this is `torch.nn.functional.interpolate(..., mode="bilinear", align_corners=False)`.

    Args:
        map_yx: The map [y, x] over the model's square.
        frame: Width and height of the original image.
        square: Side of the model's square in pixels, for the rounding of its padding; None: no rounding.
        size: The longer side of the result. A larger original is read at so many points; a smaller one at its own
            pixels. So a film of 3,000 pixels costs no more than one of 1,024, and its boxes are exact to 3 pixels.

    Returns:
        float32 [Y, X].

    Raises:
        CxrError: The map is not two-dimensional, is empty, or holds NaN or infinity.
    """
    map_yx = np.asarray(map_yx, np.float32)
    if map_yx.ndim != 2 or not map_yx.size:
        raise CxrError(f"a map has two axes [y, x] and at least one cell, this one has the shape {map_yx.shape}")
    if not np.isfinite(map_yx).all():
        raise CxrError(f"a map holds {int((~np.isfinite(map_yx)).sum())} values that are NaN or infinite: find out where they arise")
    rows, columns = _grid_of(frame, size)
    side = square or size
    place = fit(frame.width, frame.height, side)
    low_y, high_y, weight_Y = _between(rows, place.y, place.height, side, map_yx.shape[0])
    low_x, high_x, weight_X = _between(columns, place.x, place.width, side, map_yx.shape[1])
    weight_Y1 = weight_Y[:, None]
    rows_Yx = map_yx[low_y] * (1 - weight_Y1) + map_yx[high_y] * weight_Y1
    return np.take(rows_Yx, low_x, axis=1) * (1 - weight_X) + np.take(rows_Yx, high_x, axis=1) * weight_X


def unit(heat_YX: np.ndarray) -> np.ndarray | None:
    """Scales a map to 0..1 (min-max); None if it is constant: it then points nowhere."""
    low, high = heat_YX.min(), heat_YX.max()
    return (heat_YX - low) / (high - low) if high > low else None


def find_boxes(
    map_yx: np.ndarray,
    frame: Frame,
    *,
    levels: tuple[float, ...] = LEVELS,
    count: int = 1,
    square: int | None = None,
    size: int = 1024,
) -> Found:
    """The boxes around the `count` largest components of a map, for every threshold at once.

    The map is upsampled and scaled to 0..1 once. At each level, pixels at or above it that touch by a side form
    components (as in `scipy.ndimage.label`); of equally large ones the upper, then the left, comes first.

    Args:
        map_yx: The map [y, x] over the model's square.
        frame: Width and height of the original image.
        levels: Thresholds in (0, 1], as shares of the way from the map's minimum to its maximum.
        count: Boxes per threshold, K.
        square: Side of the model's square in pixels; see `upsample`.
        size: See `upsample`.

    Raises:
        CxrError: The map cannot be upsampled, or a level is out of range.
    """
    if not levels or not all(0 < level <= 1 for level in levels):
        raise CxrError(f"thresholds must lie above 0 and at most at 1, not {levels}: they are shares of the map's range")
    boxes_TK4 = np.full((len(levels), count, 4), np.nan)
    heat_YX = unit(upsample(map_yx, frame, square=square, size=size))
    if heat_YX is None:
        return Found(boxes_TK4, np.full(2, np.nan))
    # One small integer per pixel, how many levels it reaches: comparing bytes is cheap, and every level needs it.
    reached_YX = np.zeros(heat_YX.shape, np.uint8 if len(levels) < 256 else np.uint16)
    for level in levels:
        reached_YX += heat_YX >= np.float32(level)
    scale = np.array([frame.width / heat_YX.shape[1], frame.height / heat_YX.shape[0]])
    masks = (reached_YX > rank for rank in range(len(levels)))
    boxes_TK4[np.argsort(levels, kind="stable")] = _largest_of_each(masks, len(levels), count=count) * np.tile(scale, 2)
    return Found(boxes_TK4, _peak(heat_YX) * scale)


def two_level_boxes(map_yx: np.ndarray, frame: Frame, *, square: int | None = None, size: int = 1024) -> np.ndarray:
    """The boxes of Wang et al. 2017: the components at two fixed levels together, no more than three.

    Nothing is tuned. Which boxes it kept where there were more is not stated: here the larger ones (our decision).

    Returns:
        [3, 4] in original pixels, NaN where there are fewer.
    """
    found = find_boxes(map_yx, frame, levels=WANG_LEVELS, count=WANG_COUNT, square=square, size=size)
    boxes_K4 = found.boxes_TK4.reshape(-1, 4)
    area_K = np.nan_to_num((boxes_K4[:, 2] - boxes_K4[:, 0]) * (boxes_K4[:, 3] - boxes_K4[:, 1]))
    return boxes_K4[np.argsort(-area_K, kind="stable")[:WANG_COUNT]]


def largest_components(mask_YX: np.ndarray, *, count: int = 1) -> np.ndarray:
    """Boxes around the largest components of a mask, the largest first.

    Args:
        mask_YX: bool [Y, X].
        count: At most so many.

    Returns:
        float64 [k, 4], k from 0 to `count`: half-open x0, y0, x1, y1 in pixels of the mask.
    """
    boxes_K4 = _largest_of_each([mask_YX], 1, count=count)[0]
    return boxes_K4[~np.isnan(boxes_K4[:, 0])]


RUNS_AT_ONCE = 2**18
"""Runs are joined when so many have come together: a map that is all noise would fill the memory otherwise."""


def _largest_of_each(masks: Iterable[np.ndarray], masks_T: int, *, count: int) -> np.ndarray:
    """Boxes around the largest components of several masks of one shape, float64 [T, K, 4], NaN where there is no more.

    The masks are taken apart into runs, the stretches of true pixels within a row. Runs of neighbouring rows that overlap
    are joined. A map has a few runs per row, so this is some ten times faster than labelling pixels, with the same
    result. The masks of all thresholds are joined in one go, as if they lay below one another with an empty row between
    them: on a small image it is the number of calls that costs.
    """
    boxes_TK4 = np.full((masks_T, count, 4), np.nan)
    waiting, first, runs = [], 0, 0
    for t, mask_YX in enumerate(masks):
        waiting.append(_runs_of(mask_YX))
        runs += len(waiting[-1][0])
        if t == masks_T - 1 or runs > RUNS_AT_ONCE:
            _join(waiting, mask_YX.shape, boxes_TK4[first : t + 1])
            waiting, first, runs = [], t + 1, 0
    return boxes_TK4


def _runs_of(mask_YX: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Start and end of every run, [start, end), counting along rows that are one false pixel longer than the mask's."""
    height, width = mask_YX.shape
    stride = width + 1  # the false column at the end of each row: no run crosses into the next
    flat = np.zeros(height * stride + 1, bool)  # and one false pixel at the front
    flat[1:].reshape(height, stride)[:, :-1] = mask_YX
    turns = np.flatnonzero(flat[1:] != flat[:-1])
    return turns[::2], turns[1::2]


def _join(runs: list[tuple[np.ndarray, np.ndarray]], shape: tuple[int, int], boxes_TK4: np.ndarray) -> None:
    """Joins the runs of T masks to components, and writes the boxes of each mask's largest into `boxes_TK4`."""
    height, stride = shape[0], shape[1] + 1
    below_one = (height + 1) * stride  # how far down the next mask lies
    starts, ends = (np.concatenate([run[side] + t * below_one for t, run in enumerate(runs)]) for side in (0, 1))
    if not len(starts):
        return
    # Runs in the row below that overlap run i are the ones from first[i] to beyond[i].
    first = np.searchsorted(ends, starts + stride, side="right")
    beyond = np.searchsorted(starts, ends + stride, side="left")
    touching = np.maximum(beyond - first, 0)
    begin = np.append(0, np.cumsum(touching))
    below = np.arange(begin[-1]) + np.repeat(first - begin[:-1], touching)
    links = sparse.csr_array((np.ones(len(below), np.int8), below, begin), shape=(len(starts),) * 2)
    parts, part = connected_components(links, directed=False)
    area = np.bincount(part, weights=ends - starts, minlength=parts)
    first_run, last_run = np.full(parts, len(starts)), np.zeros(parts, np.int64)
    np.minimum.at(first_run, part, np.arange(len(starts)))
    np.maximum.at(last_run, part, np.arange(len(starts)))
    left, right = np.full(parts, stride), np.zeros(parts, np.int64)
    np.minimum.at(left, part, starts % stride)
    np.maximum.at(right, part, (ends - 1) % stride + 1)
    mask_of = starts[first_run] // below_one
    order = np.lexsort((first_run, -area, mask_of))
    place = np.arange(parts) - np.searchsorted(mask_of[order], mask_of[order])  # 0 for each mask's largest, then 1, ...
    best = order[place < boxes_TK4.shape[1]]
    top, bottom = (starts[run[best]] % below_one // stride for run in (first_run, last_run))
    boxes_TK4[mask_of[best], place[place < boxes_TK4.shape[1]]] = np.stack([left[best], top, right[best], bottom + 1], axis=1)


def _grid_of(frame: Frame, size: int) -> tuple[int, int]:
    """Rows and columns at which the original is read."""
    longer = max(frame.width, frame.height)
    if min(frame.width, frame.height) < 1 or size < 1:
        raise CxrError(f"an image of {frame.width} x {frame.height} pixels has no frame: check its width and height")
    if longer <= size:
        return frame.height, frame.width
    return tuple(max(1, round(side * size / longer)) for side in (frame.height, frame.width))


def _between(points: int, start: float, length: float, side: float, cells: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each point along an axis of the image: the two cells it lies between, and the weight of the second."""
    in_square = start + (np.arange(points) + 0.5) * (length / points)
    place = np.clip(in_square * (cells / side) - 0.5, 0, cells - 1)
    low = np.minimum(place.astype(np.int64), max(cells - 2, 0))
    return low, np.minimum(low + 1, cells - 1), (place - low).astype(np.float32)


def _peak(heat_YX: np.ndarray) -> np.ndarray:
    """The maximal pixel nearest to the middle of all maximal pixels, as x, y of its centre.

    Several pixels share the maximum where a map's best cell lies at the border, or in a prior that is 1 on all of a
    lung; the first of them would be a corner.
    """
    y, x = np.nonzero(heat_YX == heat_YX.max())
    nearest = np.argmin((y - y.mean()) ** 2 + (x - x.mean()) ** 2)
    return np.array([x[nearest] + 0.5, y[nearest] + 0.5])
