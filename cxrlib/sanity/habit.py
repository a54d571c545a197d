"""Habit: what a map scores that was made from another patient's film.

A finding has its usual places, and a map may point there whatever the film shows. What another patient's map scores on this
lesion is habit. Only what the film's own map adds was found (chapter 7).

Letters: M pairs, R resamples, y x cells.
"""

from typing import NamedTuple

import numpy as np

from cxrlib.errors import CxrError


class Habit(NamedTuple):
    """Lifts, each with the ends of its 95 % interval over patients: (value, low, high)."""

    own: tuple[float, float, float]
    """Share of the map inside the lesion, over the lesion's share of the film; 1 is what a map that knows nothing has."""
    habit: tuple[float, float, float]
    """The same with another patient's map of the same finding."""
    found: tuple[float, float, float]
    """The difference, paired."""


def inside_share(map_Myx: np.ndarray, mask_MYX: np.ndarray) -> np.ndarray:
    """Share of each map's weight that falls inside the lesion, [M].

    A cell counts by the part of it that lies inside. A map's lowest value is taken off first, so that its scale says nothing;
    a constant map weighs every cell alike.
    """
    map_Myx = np.asarray(map_Myx, np.float64)
    weight_Myx = map_Myx - map_Myx.min(axis=(1, 2), keepdims=True)
    flat = weight_Myx.max(axis=(1, 2)) == 0
    weight_Myx[flat] = 1.0
    part_Myx = cell_parts(mask_MYX, map_Myx.shape[1:])
    return (weight_Myx * part_Myx).sum(axis=(1, 2)) / weight_Myx.sum(axis=(1, 2))


def cell_parts(mask_MYX: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Which part of each cell lies inside the mask, float64 [M, y, x].

    Raises:
        CxrError: The cells are no whole number of pixels.
    """
    count, height, width = mask_MYX.shape
    rows, columns = grid
    if height % rows or width % columns:
        raise CxrError(f"a mask of {height} x {width} pixels cannot be cut into {rows} x {columns} whole cells")
    return mask_MYX.reshape(count, rows, height // rows, columns, width // columns).mean(axis=(2, 4))


def another_patients(finding_M: np.ndarray, patient_M: np.ndarray) -> np.ndarray:
    """For each pair the index of a pair of the same finding and another patient, [M]; -1 where there is none.

    Half a list away, so that no map is used twice when all patients differ.
    """
    other_M = np.full(len(finding_M), -1)
    for finding in np.unique(finding_M):
        mine = np.flatnonzero(finding_M == finding)
        for place, index in enumerate(mine):
            turned = np.roll(mine, -place - max(len(mine) // 2, 1))
            strangers = turned[patient_M[turned] != patient_M[index]]
            if len(strangers):
                other_M[index] = strangers[0]
    return other_M


def habit(map_Myx: np.ndarray, mask_MYX: np.ndarray, finding_M: np.ndarray, patient_M: np.ndarray, *, resamples: int = 1000, seed: int = 0) -> Habit:
    """Own lift, habit and their difference over all pairs that have a stranger.

    Raises:
        CxrError: No pair has one.
    """
    other_M = another_patients(finding_M, patient_M)
    keep = other_M >= 0
    if not keep.any():
        raise CxrError("the habit control needs two patients with the same finding: give more films")
    mask_MYX = mask_MYX[keep]
    own_M, stranger_M = inside_share(map_Myx[keep], mask_MYX), inside_share(map_Myx[other_M[keep]], mask_MYX)
    area_M = mask_MYX.mean(axis=(1, 2))
    patients, index_M = np.unique(patient_M[keep], return_inverse=True)
    rng = np.random.default_rng(seed)
    drawn_RP = rng.integers(0, len(patients), (resamples, len(patients)))
    weight_RM = np.stack([np.ones(len(patients)), *(np.bincount(drawn, minlength=len(patients)) for drawn in drawn_RP)])[:, index_M]
    area_R = weight_RM @ area_M
    with np.errstate(invalid="ignore"):
        own_R, stranger_R = weight_RM @ own_M / area_R, weight_RM @ stranger_M / area_R
    return Habit(*(_interval(values_R) for values_R in (own_R, stranger_R, own_R - stranger_R)))


def _interval(values_R: np.ndarray) -> tuple[float, float, float]:
    """The first is the value; the others are resamples."""
    if len(values_R) == 1:
        return float(values_R[0]), float("nan"), float("nan")
    low, high = np.nanpercentile(values_R[1:], [2.5, 97.5])
    return float(values_R[0]), float(low), float(high)
