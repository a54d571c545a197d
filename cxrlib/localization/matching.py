"""True boxes beside predicted ones: one row per true box, and what the prediction for it is worth.

The rule of Wang et al. (2017): the finding of a true box is given, so the only question is where. A predicted box of the
same image and finding is right at T if its IoU with the true box is strictly greater than T; in a second table, if its
IoBB (the share of the predicted box that lies in the true one) is.
"""

import dataclasses

import numpy as np
import pandas as pd

from cxrlib.data.studies import BOX_COLUMNS
from cxrlib.errors import CxrError

XYXY = list(BOX_COLUMNS[2:])
THRESHOLDS: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
IOBB_THRESHOLDS: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Those of Wang et al. 2017."""


def overlaps(a_M4: np.ndarray, b_M4: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """IoU and IoBB of box i of `a` (predicted) with box i of `b` (true), pair by pair.

    Args:
        a_M4: Predicted boxes, float half-open x0, y0, x1, y1; a row of NaN stands for no box.
        b_M4: True boxes.

    Returns:
        IoU [M] and IoBB [M]; 0 without a predicted box: nothing found is a miss, not a gap in the data. NaN where
        the boxes have no area that the ratio could be taken of.
    """
    a, b = np.asarray(a_M4, np.float64).reshape(-1, 4), np.asarray(b_M4, np.float64).reshape(-1, 4)
    missing = np.isnan(a).any(axis=1)
    low, high = np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:])
    inside = np.clip(high - low, 0, None).prod(axis=1)
    area_a, area_b = ((box[:, 2:] - box[:, :2]).clip(0).prod(axis=1) for box in (a, b))
    with np.errstate(invalid="ignore"):
        iou, iobb = inside / (area_a + area_b - inside), inside / area_a
    return np.where(missing, 0.0, iou), np.where(missing, 0.0, iobb)


@dataclasses.dataclass(frozen=True)
class Matched:
    """What each true box was worth: the one table from which every score is taken.

    Attributes:
        rows: One row per true box: image, finding, x0, y0, x1, y1, patient, share (of the image's area), predicted
            (how many boxes were predicted for its image and finding).
        values_MQ: Its worth under each measure; NaN where a measure does not apply.
        measures: Names of the Q measures: "iou>0.1" ..., "iobb>0.1" ..., "mean iou", "pointing".
    """

    rows: pd.DataFrame
    values_MQ: np.ndarray
    measures: tuple[str, ...]


def measure_names() -> tuple[str, ...]:
    """The measures of a `Matched` table, in order."""
    return (*(f"iou>{t:g}" for t in THRESHOLDS), *(f"iobb>{t:g}" for t in IOBB_THRESHOLDS), "mean iou", "pointing")


def match(truth: pd.DataFrame, predicted: pd.DataFrame) -> Matched:
    """Scores each true box against the boxes predicted for its image and finding.

    Where several were predicted, the best counts, for IoU and for IoBB separately: so more boxes can only help, and
    the table of a method that draws several says so.

    The pointing game (Zhang et al. 2016) asks whether the map's maximum lies in a true box of that finding, without a
    margin. An image with several true boxes of one finding is one game: it counts on the first of them.

    Args:
        truth: image, finding, x0, y0, x1, y1, patient, width, height; see `cxrlib.localization.truth`.
        predicted: image, finding, x0, y0, x1, y1 and, where maps are at hand, peak_x and peak_y; several rows per image
            and finding are allowed. A row whose box is NaN has a peak but no box.
    """
    truth = truth.reset_index(drop=True)
    keys = ["image", "finding"]
    pairs = truth[[*keys, *XYXY]].assign(row=np.arange(len(truth))).merge(predicted, on=keys, how="left", suffixes=("_true", ""))
    true_M4 = pairs[[f"{name}_true" for name in XYXY]].to_numpy(float)
    iou, iobb = overlaps(pairs[XYXY].to_numpy(float), true_M4)
    best = pd.DataFrame({"row": pairs["row"], "iou": iou, "iobb": iobb, "count": pairs["x0"].notna()})
    best = best.groupby("row").agg({"iou": "max", "iobb": "max", "count": "sum"})
    values = [best["iou"].to_numpy()[:, None] > THRESHOLDS, best["iobb"].to_numpy()[:, None] > IOBB_THRESHOLDS, best[["iou"]].to_numpy()]
    values_MQ = np.concatenate([*values, _pointing(truth, predicted)[:, None]], axis=1).astype(float)
    share = (truth["x1"] - truth["x0"]) * (truth["y1"] - truth["y0"]) / (truth["width"] * truth["height"])
    rows = truth[[*keys, *XYXY, "patient"]].assign(share=share, predicted=best["count"].to_numpy(int))
    return Matched(rows, values_MQ, measure_names())


def mean_of(tables: list[Matched]) -> Matched:
    """One table whose values are the mean over several, row by row: over seeds, for example."""
    first = tables[0]
    if any(not first.rows[["image", "finding", *XYXY]].equals(table.rows[["image", "finding", *XYXY]]) for table in tables):
        raise CxrError("only tables of the same true boxes in the same order can be averaged")
    return Matched(first.rows, np.mean([table.values_MQ for table in tables], axis=0), first.measures)


def _pointing(truth: pd.DataFrame, predicted: pd.DataFrame) -> np.ndarray:
    """1 if the peak lies in a true box of its finding, 0 if not; NaN on all but the first box of an image's finding."""
    hit_M = np.full(len(truth), np.nan)
    if "peak_x" not in predicted or not len(truth):
        return hit_M
    keys = ["image", "finding"]
    peaks = predicted.drop_duplicates(keys)[[*keys, "peak_x", "peak_y"]]
    both = truth[[*keys, *XYXY]].merge(peaks, on=keys, how="left")
    inside = (both["peak_x"] >= both["x0"]) & (both["peak_x"] < both["x1"]) & (both["peak_y"] >= both["y0"]) & (both["peak_y"] < both["y1"])
    any_M = inside.groupby([truth[key] for key in keys]).transform("any").to_numpy()
    is_first = ~truth.duplicated(keys).to_numpy()
    hit_M[is_first] = any_M[is_first]
    return hit_M
