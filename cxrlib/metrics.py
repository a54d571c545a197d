"""Scores of classifiers and boxes. An undefined score is NaN: a 0 would pull means down in silence."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.stats import rankdata

from cxrlib.errors import CxrError


def auroc(scores_NC: np.ndarray, targets_NC: np.ndarray) -> np.ndarray | float:
    """Area under the ROC curve: the chance that a positive scores above a negative, a tie counting one half.

    Computed from ranks (Mann-Whitney U), which is exact with ties.

    Args:
        scores_NC: Any real scores, [N, C] or [N]; only their order matters.
        targets_NC: 1, 0 or NaN, of the same shape. A NaN row is left out of its class.

    Returns:
        float64 [C], or a float for 1-D input; NaN where a class lacks positives or negatives.

    Raises:
        CxrError: Shapes differ, a score is NaN, or a target is none of 1, 0 and NaN.
    """
    return _per_class(_auroc_1d, scores_NC, targets_NC)


def average_precision(scores_NC: np.ndarray, targets_NC: np.ndarray) -> np.ndarray | float:
    """Area under the precision-recall steps: the sum over thresholds of (gain in recall) x (precision there).

    Ties share a threshold, as in scikit-learn. Arguments and result as in `auroc`; NaN only where a class
    lacks positives.
    """
    return _per_class(_average_precision_1d, scores_NC, targets_NC)


def macro(values_C: np.ndarray) -> tuple[float, int]:
    """Mean over the classes whose value is defined, and how many those are: `(NaN, 0)` if none is."""
    defined = np.asarray(values_C, np.float64)
    defined = defined[~np.isnan(defined)]
    return (float(defined.mean()) if len(defined) else float("nan")), len(defined)


class RocPoints(NamedTuple):
    """The corners of a ROC curve, from (0, 0) to (1, 1); positive means at or above the threshold."""

    false_positive_rate: np.ndarray
    true_positive_rate: np.ndarray
    thresholds: np.ndarray


def roc_points(scores_N: np.ndarray, targets_N: np.ndarray) -> RocPoints:
    """The ROC curve of one class, one point for each distinct score.

    Returns:
        Points whose trapezoidal area is `auroc`; rates are NaN where a class is missing.
    """
    scores_NC, targets_NC = _checked(scores_N, targets_N)
    score, target = _defined(scores_NC[:, 0], targets_NC[:, 0])
    values, group = np.unique(-score, return_inverse=True)
    hits = np.concatenate([[0], np.cumsum(np.bincount(group, weights=target, minlength=len(values)))])
    alarms = np.concatenate([[0], np.cumsum(np.bincount(group, weights=1 - target, minlength=len(values)))])
    with np.errstate(invalid="ignore"):
        return RocPoints(alarms / alarms[-1], hits / hits[-1], np.concatenate([[np.inf], -values]))


class Calibration(NamedTuple):
    """How far predicted probabilities are from observed frequencies.

    Attributes:
        ece: Expected calibration error: the mean over images of |frequency - mean probability| in the image's
            bin.
        edges: Bin edges [bins + 1].
        probability: Mean predicted probability per bin, NaN where a bin is empty.
        frequency: Share of positives per bin, NaN where a bin is empty.
        count: Images per bin.
    """

    ece: float
    edges: np.ndarray
    probability: np.ndarray
    frequency: np.ndarray
    count: np.ndarray


def calibration(probabilities_N: np.ndarray, targets_N: np.ndarray, *, bins: int = 15) -> Calibration:
    """Expected calibration error of one class, in bins of equal width over [0, 1].

    Source: Guo et al. 2017, Eq 3, for a binary label: the probability of the positive class takes the place
    of the confidence.

    Raises:
        CxrError: A probability lies outside of [0, 1].
    """
    scores_NC, targets_NC = _checked(probabilities_N, targets_N)
    probability, target = _defined(scores_NC[:, 0], targets_NC[:, 0])
    if len(probability) and (probability.min() < 0 or probability.max() > 1):
        raise CxrError("calibration needs probabilities in [0, 1]: apply a sigmoid to the logits first")
    edges = np.linspace(0, 1, bins + 1)
    # Bins are (a, b], and the first takes 0 too.
    index = np.clip(np.searchsorted(edges, probability, side="left") - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(index, weights=probability, minlength=bins) / count
        frequency = np.bincount(index, weights=target, minlength=bins) / count
    gap = np.abs(frequency - mean)
    ece = float(np.sum(gap[count > 0] * count[count > 0]) / count.sum()) if count.sum() else float("nan")
    return Calibration(ece, edges, mean, frequency, count)


class Interval(NamedTuple):
    """A value with a bootstrap interval.

    Attributes:
        value: On all images, [C].
        low: Lower percentile over the resamples in which the value is defined, [C].
        high: Upper percentile, [C].
        undefined: Number of resamples in which it is not defined, [C]. Many of them: the interval means
            little.
        samples_RC: The value of each resample, [R, C].
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    undefined: np.ndarray
    samples_RC: np.ndarray


def bootstrap_by_patient(
    scores_NC: np.ndarray,
    targets_NC: np.ndarray,
    patients_N: np.ndarray,
    *,
    metric: Callable = auroc,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap in which whole patients are drawn, since images of one patient are not
    independent.

    A resample gives each patient a whole-number weight, so nothing is copied: for `auroc` and
    `average_precision` the images are sorted once, and a resample is one product with the patients' weights.
    Any other metric is called on the repeated rows, which is slow.

    Args:
        scores_NC: [N, C].
        targets_NC: [N, C], 1, 0 or NaN.
        patients_N: Patient of each image, [N].
        metric: A function `(scores_NC, targets_NC) -> [C]`.
        resamples: Number of resamples.
        seed: Of the resampling; the same for every class, so that differences between classes are paired.
        level: Share of the resamples inside the interval.

    Raises:
        CxrError: As `auroc`; or the number of patients is not the number of images.
    """
    scores_NC, targets_NC = _checked(scores_NC, targets_NC)
    patients, patient_N = np.unique(np.asarray(patients_N).astype(str), return_inverse=True)
    if len(patient_N) != len(scores_NC):
        raise CxrError(
            f"there are {len(patient_N)} patients for {len(scores_NC)} images: give one patient per image"
        )
    rng = np.random.default_rng(seed)
    samples_RC = np.full((resamples, scores_NC.shape[1]), np.nan)
    fast = {auroc: _weighted_auroc, average_precision: _weighted_average_precision}.get(metric)
    groups = (
        [_Groups(*column, patient_N, len(patients)) for column in zip(scores_NC.T, targets_NC.T)]
        if fast
        else []
    )
    chunk = 100  # resamples at once: 6,000 positives x 2 x 100 weights are 10 MB
    for start in range(0, resamples, chunk):
        count = min(chunk, resamples - start)
        drawn = rng.integers(0, len(patients), (count, len(patients)))
        flat = drawn + np.arange(count)[:, None] * len(patients)
        weights_RP = np.bincount(flat.ravel(), minlength=flat.size).reshape(drawn.shape)
        if fast:
            weights_PR = weights_RP.T.astype(np.float64)
            samples_RC[start : start + count] = np.stack(
                [fast(group, weights_PR) for group in groups], axis=1
            )
        else:
            for row, weights_P in enumerate(weights_RP, start):
                rows = np.repeat(np.arange(len(patient_N)), weights_P[patient_N])
                samples_RC[row] = metric(scores_NC[rows], targets_NC[rows])
    value = np.asarray(metric(scores_NC, targets_NC), np.float64)
    low, high = _percentiles(samples_RC, level)
    return Interval(value, low, high, np.isnan(samples_RC).sum(axis=0), samples_RC)


def macro_interval(interval: Interval, *, level: float = 0.95) -> Interval:
    """The interval of the macro mean, from the same resamples: in each, the mean over the classes defined in
    it.

    Returns:
        An interval of 0-dimensional arrays, with `samples_RC` [R, 1].
    """
    defined = ~np.isnan(interval.samples_RC)
    count_R = defined.sum(axis=1)
    with np.errstate(invalid="ignore"):
        mean_R1 = (np.where(defined, interval.samples_RC, 0).sum(axis=1) / count_R)[:, None]
    low, high = _percentiles(mean_R1, level)
    return Interval(np.float64(macro(interval.value)[0]), low[0], high[0], np.isnan(mean_R1).sum(), mean_R1)


def iou_xyxy(a_M4: np.ndarray, b_K4: np.ndarray) -> np.ndarray:
    """Intersection over union of every box in `a` with every box in `b`.

    Args:
        a_M4: float xyxy, half-open (a box from 3 to 5 is 2 wide), [M, 4].
        b_K4: The same, [K, 4].

    Returns:
        float64 [M, K]; NaN where both boxes have no area.
    """
    a, b = np.asarray(a_M4, np.float64).reshape(-1, 4), np.asarray(b_K4, np.float64).reshape(-1, 4)
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inside = np.clip(high - low, 0, None).prod(axis=2)
    area_a, area_b = ((box[:, 2:] - box[:, :2]).clip(0).prod(axis=1) for box in (a, b))
    union = area_a[:, None] + area_b[None, :] - inside
    with np.errstate(invalid="ignore"):
        return inside / union


def _auroc_1d(score: np.ndarray, target: np.ndarray) -> float:
    positives = target == 1
    n_pos, n_neg = int(positives.sum()), int((~positives).sum())
    if not n_pos or not n_neg:
        return float("nan")
    above = rankdata(score)[positives].sum() - n_pos * (n_pos + 1) / 2
    return float(above / (n_pos * n_neg))


def _average_precision_1d(score: np.ndarray, target: np.ndarray) -> float:
    if not target.sum():
        return float("nan")
    values, group = np.unique(-score, return_inverse=True)
    hits = np.bincount(group, weights=target, minlength=len(values))
    flagged = np.cumsum(np.bincount(group, minlength=len(values)))
    return float(np.sum(hits * np.cumsum(hits) / flagged) / target.sum())


class _Groups:
    """One class's images sorted once, as counts per patient: what a weighted AUROC or AP needs.

    Attributes:
        positives_GP: Positives of each patient at each of the G distinct positive scores, ascending.
        negatives_KP: Negatives of each patient, K = 2G + 1: row 2g lies strictly between positive scores g -
            1 and g, row 2g + 1 is tied with positive score g.
    """

    def __init__(self, score: np.ndarray, target: np.ndarray, patient: np.ndarray, n_patients: int) -> None:
        is_pos, is_neg = target == 1, target == 0
        values, group = np.unique(score[is_pos], return_inverse=True)
        place = np.searchsorted(values, score[is_neg], side="left")
        # A guard behind all values: a negative above every positive is tied with nothing, not even if it is inf.
        tied = np.append(values, np.nan)[place] == score[is_neg]
        self.positives_GP = _counts(group, patient[is_pos], len(values), n_patients)
        self.negatives_KP = _counts(2 * place + tied, patient[is_neg], 2 * len(values) + 1, n_patients)


def _counts(rows: np.ndarray, columns: np.ndarray, n_rows: int, n_columns: int) -> sparse.csr_array:
    ones = np.ones(len(rows))
    return sparse.csr_array(sparse.coo_array((ones, (rows, columns)), shape=(n_rows, n_columns)))


def _weighted_auroc(groups: _Groups, weights_PR: np.ndarray) -> np.ndarray:
    positive_GR = groups.positives_GP @ weights_PR
    negative_KR = groups.negatives_KP @ weights_PR
    below_GR = np.cumsum(negative_KR, axis=0)[:-1:2] + negative_KR[1::2] / 2
    with np.errstate(invalid="ignore"):
        return (positive_GR * below_GR).sum(axis=0) / (positive_GR.sum(axis=0) * negative_KR.sum(axis=0))


def _weighted_average_precision(groups: _Groups, weights_PR: np.ndarray) -> np.ndarray:
    positive_GR = groups.positives_GP @ weights_PR
    negative_KR = groups.negatives_KP @ weights_PR
    hits_GR = np.cumsum(positive_GR[::-1], axis=0)[::-1]
    alarms_GR = np.cumsum(negative_KR[::-1], axis=0)[::-1][1::2]  # tied with the positive score, or above it
    flagged_GR = hits_GR + alarms_GR
    precision_GR = np.divide(hits_GR, flagged_GR, out=np.zeros_like(hits_GR), where=flagged_GR > 0)
    with np.errstate(invalid="ignore"):
        return (positive_GR * precision_GR).sum(axis=0) / positive_GR.sum(axis=0)


def _percentiles(samples_RC: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    tails = [50 * (1 - level), 50 * (1 + level)]
    bounds = np.full((2, samples_RC.shape[1]), np.nan)
    for column, sample in enumerate(samples_RC.T):
        defined = sample[~np.isnan(sample)]
        if len(defined):
            bounds[:, column] = np.percentile(defined, tails)
    return bounds[0], bounds[1]


def _per_class(function: Callable, scores: np.ndarray, targets: np.ndarray) -> np.ndarray | float:
    is_1d = np.ndim(scores) == 1
    scores_NC, targets_NC = _checked(scores, targets)
    values = np.array([function(*_defined(*column)) for column in zip(scores_NC.T, targets_NC.T)], np.float64)
    return float(values[0]) if is_1d else values


def _defined(score: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    known = ~np.isnan(target)
    return score[known], target[known]


def _checked(scores: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores, targets = np.asarray(scores, np.float64), np.asarray(targets, np.float64)
    if scores.shape != targets.shape or scores.ndim not in (1, 2):
        raise CxrError(
            f"scores {scores.shape} and targets {targets.shape} must have one shape, [N, C] or [N]"
        )
    if np.isnan(scores).any():
        raise CxrError(
            f"{int(np.isnan(scores).sum())} scores are NaN: find out where the model's output went wrong"
        )
    if not (np.isnan(targets) | (targets == 0) | (targets == 1)).all():
        raise CxrError("targets must be 1, 0 or NaN: threshold soft labels first")
    return (scores[:, None], targets[:, None]) if scores.ndim == 1 else (scores, targets)
