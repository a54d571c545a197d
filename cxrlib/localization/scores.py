"""Scores of a localization table: per finding, macro, by lesion size, with intervals and paired differences.

Two summaries of the whole curve are given under their own names: "mean iou" (the mean IoU of the boxes) and "mean
accuracy" (the mean of the accuracies at T = .1 to .7). The summary of the CLARiTy paper, MSLI, is defined in no source that
we could find, so nothing here is called that.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from cxrlib.errors import CxrError
from cxrlib.findings import BOXED_FINDINGS
from cxrlib.localization.matching import XYXY, Matched

SIZES: dict[str, tuple[float, float]] = {"below 1 %": (0, 0.01), "1 to 5 %": (0.01, 0.05), "5 % and more": (0.05, np.inf)}
"""Lesion sizes, as shares of the image's area. Our decision: NIH's boxes fall into them as 15, 38 and 47 %."""
MEAN_OVER = tuple(f"iou>{t:g}" for t in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7))
"""The thresholds of Wang et al. (2017), over which "mean accuracy" is taken."""


class Scores(NamedTuple):
    """Scores with 95 % intervals. The first G rows are groups; the last is their mean."""

    groups: tuple[str, ...]
    """G names, and "macro" (mean over the defined groups) at the end."""
    measures: tuple[str, ...]
    """Q names: those of the table, and "mean accuracy" where there are accuracies."""
    boxes_G: np.ndarray
    """True boxes in each group; for macro, all."""
    value_GQ: np.ndarray
    """NaN where undefined."""
    low_GQ: np.ndarray
    high_GQ: np.ndarray
    samples_RGQ: np.ndarray
    """The value in each resample; paired between any two tables of the same true boxes and seed."""
    defined: int
    """Groups that macro is taken over."""

    def at(self, group: str, measure: str) -> tuple[float, float, float]:
        """Value, low and high of one cell."""
        place = self.groups.index(group), self.measures.index(measure)
        return tuple(float(array[place]) for array in (self.value_GQ, self.low_GQ, self.high_GQ))


def score(
    matched: Matched,
    *,
    findings: tuple[str, ...] = BOXED_FINDINGS,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Scores:
    """Accuracy per finding and macro, with percentile intervals from a bootstrap over patients.

    Args:
        matched: One row per true box.
        findings: The groups, in this order. A finding without a true box is NaN, and macro leaves it out.
        resamples: Bootstrap samples of patients; 0: no intervals.
        seed: Of the resampling.
        level: Share of the resamples inside an interval.

    Raises:
        CxrError: A true box has another finding than those.
    """
    strange = set(matched.rows["finding"]) - set(findings)
    if strange:
        raise CxrError(f"there are true boxes of {', '.join(sorted(strange))}, which is none of the findings to be scored")
    return _grouped(matched, pd.Categorical(matched.rows["finding"], findings), resamples, seed, level)


def score_by_size(matched: Matched, *, resamples: int = 1000, seed: int = 0, level: float = 0.95) -> Scores:
    """The same by lesion size. Its last row is the mean over sizes, not over findings."""
    share = matched.rows["share"].to_numpy()
    size = np.full(len(share), None, object)
    for name, (low, high) in SIZES.items():
        size[(share >= low) & (share < high)] = name
    return _grouped(matched, pd.Categorical(size, list(SIZES)), resamples, seed, level)


class Difference(NamedTuple):
    """Macro score of one method minus another's, on the same resamples of patients."""

    measure: str
    value: float
    low: float
    high: float


def paired_difference(a: Matched, b: Matched, measure: str, **options) -> Difference:
    """How much better `a` is than `b`, with an interval from the same resamples of the same patients.

    Two overlapping intervals say little about a difference, because both methods see the same hard images; this does.

    Args:
        a: One method's table.
        b: The other's, of the same true boxes.
        measure: For example "iou>0.5".
        **options: As for `score`.

    Raises:
        CxrError: The tables are of different true boxes.
    """
    keys = ["image", "finding", *XYXY]
    if not a.rows[keys].equals(b.rows[keys]):
        raise CxrError("two methods can only be compared on the same true boxes: score both on the same data")
    first, second = score(a, **options), score(b, **options)
    place = first.measures.index(measure)
    sample_R = first.samples_RGQ[:, -1, place] - second.samples_RGQ[:, -1, place]
    sample_R = sample_R[~np.isnan(sample_R)]
    level = options.get("level", 0.95)
    low, high = np.percentile(sample_R, [50 * (1 - level), 50 * (1 + level)]) if len(sample_R) else (np.nan, np.nan)
    return Difference(measure, float(first.value_GQ[-1, place] - second.value_GQ[-1, place]), float(low), float(high))


def _grouped(matched: Matched, group_M: pd.Categorical, resamples: int, seed: int, level: float) -> Scores:
    values_MQ = matched.values_MQ
    patients, patient_M = np.unique(matched.rows["patient"].to_numpy().astype(str), return_inverse=True)
    shape = (len(patients), len(group_M.categories), values_MQ.shape[1])
    known_MQ = ~np.isnan(values_MQ)
    sums_PGQ, counts_PGQ = np.zeros(shape), np.zeros(shape)
    place = (patient_M, group_M.codes)
    np.add.at(sums_PGQ, place, np.where(known_MQ, values_MQ, 0))
    np.add.at(counts_PGQ, place, known_MQ)
    boxes_G = np.bincount(group_M.codes, minlength=shape[1])
    # A table of masks has no accuracies.
    mean_over = [matched.measures.index(name) for name in MEAN_OVER if name in matched.measures]

    def scores_of(weights_RP: np.ndarray) -> np.ndarray:
        """[R, G + 1, Q + 1]: mean accuracy is added as a measure, and macro as a group."""
        flat = (len(weights_RP), *shape[1:])
        with np.errstate(invalid="ignore"):
            each_RGQ = (weights_RP @ sums_PGQ.reshape(len(patients), -1) / (weights_RP @ counts_PGQ.reshape(len(patients), -1))).reshape(flat)
        if mean_over:
            each_RGQ = np.concatenate([each_RGQ, each_RGQ[:, :, mean_over].mean(axis=2, keepdims=True)], axis=2)
        defined = ~np.isnan(each_RGQ)
        with np.errstate(invalid="ignore"):
            macro_RQ = np.where(defined, each_RGQ, 0).sum(axis=1) / defined.sum(axis=1)
        return np.concatenate([each_RGQ, macro_RQ[:, None]], axis=1)

    value_GQ = scores_of(np.ones((1, len(patients))))[0]
    rng = np.random.default_rng(seed)
    samples = []
    for start in range(0, resamples, 100):
        count = min(100, resamples - start)
        drawn = rng.integers(0, len(patients), (count, len(patients))) + np.arange(count)[:, None] * len(patients)
        samples.append(scores_of(np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(float)))
    samples_RGQ = np.concatenate(samples) if samples else np.zeros((0, *value_GQ.shape))
    low_GQ, high_GQ = _percentiles(samples_RGQ, level)
    return Scores(
        groups=(*map(str, group_M.categories), "macro"),
        measures=(*matched.measures, *(["mean accuracy"] if mean_over else [])),
        boxes_G=np.append(boxes_G, len(values_MQ)),
        value_GQ=value_GQ,
        low_GQ=low_GQ,
        high_GQ=high_GQ,
        samples_RGQ=samples_RGQ,
        defined=int((boxes_G > 0).sum()),
    )


def _percentiles(samples_RGQ: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Percentiles over the resamples in which a value is defined."""
    bounds = np.full((2, *samples_RGQ.shape[1:]), np.nan)
    some = (~np.isnan(samples_RGQ)).any(axis=0) if len(samples_RGQ) else np.zeros(samples_RGQ.shape[1:], bool)
    if some.any():
        bounds[:, some] = np.nanpercentile(samples_RGQ[:, some], [50 * (1 - level), 50 * (1 + level)], axis=0)
    return bounds[0], bounds[1]
