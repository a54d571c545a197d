"""Rows that every localization table needs: what no image at all reaches, and what a grid of patches cannot exceed.

Findings have their places: a heart is where hearts are. The best single box per finding, the same for every image, reaches
a macro accuracy of .15 at IoU > .5 on NIH's boxes; a method below that has shown nothing. And a box made of whole patches
cannot hug a nodule that is smaller than a patch, whatever the model knows.
"""

import numpy as np
import pandas as pd

from cxrlib.errors import CxrError
from cxrlib.localization.matching import XYXY, overlaps
from cxrlib.metrics import iou_xyxy

COARSE = 16
"""The search begins with the boxes of a 16 x 16 grid over the image."""
STEPS = (1 / 32, 1 / 64, 1 / 128)
"""Then one or two sides are moved by these shares of the image for as long as that helps."""
MOVES = np.array([move for move in np.ndindex(3, 3, 3, 3) if 1 <= sum(m != 1 for m in move) <= 2]) - 1


def blind_boxes(truth: pd.DataFrame, fitted_on: pd.DataFrame) -> pd.DataFrame:
    """For each true box, the box of its finding with the largest mean IoU on `fitted_on`.

    Boxes are compared as shares of their image's width and height, so frames may differ.

    Args:
        truth: Where boxes are wanted: image, finding, width, height.
        fitted_on: Where they come from: the same with x0, y0, x1, y1.

    Returns:
        image, finding, x0, y0, x1, y1; no row for a finding that `fitted_on` lacks.
    """
    best = {finding: _best_box(_shares(rows)) for finding, rows in fitted_on.groupby("finding")}
    return _placed(truth, [best.get(finding) for finding in truth["finding"]])


def blind_boxes_left_out(truth: pd.DataFrame) -> pd.DataFrame:
    """As `blind_boxes`, with each patient's box fitted on all other patients (leave one patient out)."""
    boxes: list[np.ndarray | None] = [None] * len(truth)
    patient_M, finding_M = truth["patient"].to_numpy(), truth["finding"].to_numpy()
    coarse_K4 = _coarse_boxes()
    for finding in pd.unique(truth["finding"]):
        mine = np.flatnonzero(finding_M == finding)
        shares_M4 = _shares(truth.iloc[mine])
        iou_KM = _coarse_iou(shares_M4)
        total_K = iou_KM.sum(axis=1)
        for patient in pd.unique(patient_M[mine]):
            others = patient_M[mine] != patient
            if others.any():
                # The sum over the others is the whole sum less this patient's: nothing is computed twice.
                start = coarse_K4[(total_K - iou_KM[:, ~others].sum(axis=1)).argmax()]
                box = _climb(start, shares_M4[others])
                for row in mine[~others]:
                    boxes[row] = box
    return _placed(truth, boxes)


def grid_boxes(boxes_M4: np.ndarray, widths_M: np.ndarray, heights_M: np.ndarray, *, grid: int, rule: str) -> np.ndarray:
    """For each true box, a box of whole cells of a grid x grid division of its image.

    Args:
        boxes_M4: True boxes.
        widths_M: Width of each one's image.
        heights_M: Its height.
        grid: Cells along each side.
        rule: "nearest" moves each side to the nearest grid line; it is how the ceilings that others quote were made (.24
            of NIH's nodules at 14 x 14 and .87 at 32 x 32 have IoU > .5). "best" is the box with the largest IoU of
            all, so the true ceiling; for small lesions it is higher. Each side of the best one is a grid line next to
            the true side: further out only the union grows, further in the intersection shrinks by a larger share than
            the union. So 16 candidates are enough.

    Returns:
        float64 [M, 4] in the same pixels; with "nearest" a box may have no area, and none is then drawn (NaN).
    """
    boxes_M4 = np.asarray(boxes_M4, np.float64)
    cell_M4 = np.stack([widths_M, heights_M] * 2, axis=1).astype(float) / grid
    # A side within a billionth of a grid line lies on it: 0.3 / 0.1 is not 3 in floating point.
    in_cells = boxes_M4 / cell_M4
    near = np.round(in_cells)
    in_cells = np.where(np.abs(in_cells - near) < 1e-9, near, in_cells)
    if rule == "nearest":
        empty = (near[:, 2:] <= near[:, :2]).any(axis=1)
        return np.where(empty[:, None], np.nan, near * cell_M4)
    if rule != "best":
        raise CxrError(f"there is no rule {rule!r} for boxes on a grid: use nearest or best")
    best, best_iou = np.full_like(boxes_M4, np.nan), np.full(len(boxes_M4), -1.0)
    for corner in np.ndindex(2, 2, 2, 2):
        candidate = np.where(np.array(corner), np.ceil(in_cells), np.floor(in_cells)) * cell_M4
        with np.errstate(invalid="ignore"):
            iou = np.nan_to_num(overlaps(candidate, boxes_M4)[0], nan=-1.0)
        better = (iou > best_iou) & ((candidate[:, 2:] > candidate[:, :2]).all(axis=1))
        best[better], best_iou[better] = candidate[better], iou[better]
    return best


def grid_table(truth: pd.DataFrame, *, grid: int, rule: str = "best") -> pd.DataFrame:
    """`grid_boxes` as a table of predicted boxes. An oracle: it sees the true boxes.

    Where an image has several true boxes of a finding, each is given its own.
    """
    boxes = truth[["image", "finding"]].copy()
    xyxy = truth[XYXY].to_numpy(float), truth["width"].to_numpy(), truth["height"].to_numpy()
    boxes[XYXY] = grid_boxes(*xyxy, grid=grid, rule=rule)
    return boxes


def random_halves_of_images(boxes: pd.DataFrame, *, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Half of the boxed images, drawn without regard to patients, and the other half.

    Only to compare with the published class-fixed box, which was made so. For anything else use `protocol.halves`.
    """
    images = pd.unique(boxes["image"])
    drawn = set(np.random.default_rng(seed).choice(images, len(images) // 2, replace=False))
    mine = boxes["image"].isin(drawn)
    return boxes[mine].reset_index(drop=True), boxes[~mine].reset_index(drop=True)


def _intervals() -> tuple[np.ndarray, np.ndarray]:
    """Where each of the 136 stretches between two lines of the coarse grid starts and ends."""
    lines = np.arange(COARSE + 1) / COARSE
    start, stop = np.triu_indices(len(lines), k=1)
    return lines[start], lines[stop]


def _coarse_boxes() -> np.ndarray:
    """All boxes of the coarse grid, as shares of the image, [18496, 4]: every pair of an x and a y interval."""
    start, stop = _intervals()
    x, y = (index.ravel() for index in np.meshgrid(np.arange(len(start)), np.arange(len(start)), indexing="ij"))
    return np.stack([start[x], start[y], stop[x], stop[y]], axis=1)


def _coarse_iou(shares_M4: np.ndarray) -> np.ndarray:
    """IoU of every coarse box with every true box, [18496, M]: overlaps along x and along y are computed once each."""
    start, stop = _intervals()
    along = [
        np.clip(np.minimum(stop[:, None], shares_M4[:, 2 + axis]) - np.maximum(start[:, None], shares_M4[:, axis]), 0, None)
        for axis in (0, 1)
    ]
    length = stop - start
    inside = along[0][:, None] * along[1][None]
    union = (length[:, None] * length)[..., None] + (shares_M4[:, 2:] - shares_M4[:, :2]).prod(axis=1) - inside
    return (inside / union).reshape(-1, len(shares_M4))


def _best_box(shares_M4: np.ndarray) -> np.ndarray:
    """The box with the largest mean IoU with `shares_M4`: the best coarse one, then its sides moved in small steps."""
    return _climb(_coarse_boxes()[_coarse_iou(shares_M4).mean(axis=1).argmax()], shares_M4)


def _climb(best: np.ndarray, shares_M4: np.ndarray) -> np.ndarray:
    value = iou_xyxy(best, shares_M4).mean()
    for step in STEPS:
        while True:
            near = best + step * MOVES
            near = near[(near[:, :2] < near[:, 2:]).all(axis=1) & (near >= 0).all(axis=1) & (near <= 1).all(axis=1)]
            means = iou_xyxy(near, shares_M4).mean(axis=1)
            if means.max() <= value + 1e-12:
                break
            best, value = near[means.argmax()], means.max()
    return best


def _shares(rows: pd.DataFrame) -> np.ndarray:
    """Boxes as shares of their image's width and height."""
    return rows[XYXY].to_numpy(float) / rows[["width", "height"] * 2].to_numpy(float)


def _placed(truth: pd.DataFrame, boxes: list[np.ndarray | None]) -> pd.DataFrame:
    """Boxes as shares -> boxes in each image's pixels, one per image and finding."""
    table = truth[["image", "finding"]].copy()
    shares = np.array([np.full(4, np.nan) if box is None else box for box in boxes]).reshape(-1, 4)
    table[XYXY] = shares * truth[["width", "height"] * 2].to_numpy(float)
    return table.dropna().drop_duplicates(["image", "finding"]).reset_index(drop=True)
