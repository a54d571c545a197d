"""Metrics against their oracles, and what must hold for any input."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from cxrlib.errors import CxrError
from cxrlib.metrics import (
    auroc,
    average_precision,
    bootstrap_by_patient,
    calibration,
    iou_xyxy,
    macro,
    macro_interval,
    roc_points,
)


def made_up(seed: int, *, n: int = 211, classes: int = 3, levels: int | None = None):
    """Scores (with ties if `levels` is given), targets with gaps, and patients with one to many images."""
    rng = np.random.default_rng(seed)
    targets_NC = (rng.random((n, classes)) < np.linspace(0.5, 0.1, classes)).astype(float)
    scores_NC = rng.normal(size=(n, classes)) + targets_NC
    if levels:
        scores_NC = np.round(scores_NC * levels / 6)
    targets_NC[rng.random(targets_NC.shape) < 0.15] = np.nan
    return scores_NC, targets_NC, rng.integers(0, n // 4, n) ** 2


@pytest.mark.parametrize("levels", [None, 2, 9, 40])
@pytest.mark.parametrize("seed", range(5))
def test_auroc_and_average_precision_equal_scikit_learn(seed, levels):
    scores_NC, targets_NC, _ = made_up(seed, levels=levels)
    for ours, theirs in ((auroc, roc_auc_score), (average_precision, average_precision_score)):
        known = ~np.isnan(targets_NC)
        expected = [theirs(targets_NC[known[:, c], c], scores_NC[known[:, c], c]) for c in range(3)]
        np.testing.assert_allclose(ours(scores_NC, targets_NC), expected, rtol=0, atol=1e-12)
        assert ours(scores_NC[:, 1], targets_NC[:, 1]) == pytest.approx(expected[1], abs=1e-12)


def test_auroc_by_hand():
    # Positives 3 and 2, negatives 2 and 1: of four pairs three are right and one is a tie.
    assert auroc(np.array([3, 2, 2, 1]), np.array([1, 1, 0, 0])) == 0.875


@pytest.mark.parametrize("seed", range(5))
def test_auroc_cares_for_order_alone(seed):
    scores_NC, targets_NC, _ = made_up(seed, levels=9)
    value_C = auroc(scores_NC, targets_NC)
    np.testing.assert_array_equal(auroc(np.exp(scores_NC / 3) - 7, targets_NC), value_C)
    np.testing.assert_allclose(auroc(-scores_NC, targets_NC), 1 - value_C, atol=1e-12)
    np.testing.assert_allclose(auroc(scores_NC, 1 - targets_NC), 1 - value_C, atol=1e-12)
    order = np.random.default_rng(seed).permutation(len(scores_NC))
    np.testing.assert_array_equal(auroc(scores_NC[order], targets_NC[order]), value_C)


def test_undefined_is_nan_and_never_zero():
    scores_NC = np.arange(8.0).reshape(4, 2)
    targets_NC = np.array([[1, 0], [1, 0], [np.nan, 0], [1, 1]])
    values = auroc(scores_NC, targets_NC)
    assert np.isnan(values[0]) and values[1] == 1 and values.dtype == np.float64
    assert macro(values) == (1.0, 1)
    assert np.isnan(macro(np.array([np.nan]))[0]) and macro(np.array([np.nan]))[1] == 0
    assert average_precision(scores_NC, targets_NC).tolist() == [1, 1]
    assert np.isnan(average_precision(np.arange(3.0), np.zeros(3)))
    assert np.isnan(auroc(np.zeros(0), np.zeros(0)))


@pytest.mark.parametrize(
    ("scores", "targets", "what"),
    [
        ([0.1, np.nan], [0, 1], "1 scores are NaN"),
        ([0.1, 0.2], [0, 2], "targets must be"),
        ([0.1, 0.2], [0, 0.5], "targets must be"),
        ([0.1, 0.2, 0.3], [0, 1], "one shape"),
    ],
)
def test_bad_input_is_refused(scores, targets, what):
    with pytest.raises(CxrError, match=what):
        auroc(np.array(scores), np.array(targets))


@pytest.mark.parametrize("levels", [None, 3])
def test_roc_points(levels):
    scores_NC, targets_NC, _ = made_up(3, levels=levels)
    score, target = scores_NC[:, 0], targets_NC[:, 0]
    points = roc_points(score, target)
    known = ~np.isnan(target)
    false_positive, true_positive, thresholds = roc_curve(
        target[known], score[known], drop_intermediate=False
    )
    np.testing.assert_allclose(points.false_positive_rate, false_positive, atol=1e-12)
    np.testing.assert_allclose(points.true_positive_rate, true_positive, atol=1e-12)
    np.testing.assert_array_equal(points.thresholds, thresholds)
    area = np.trapezoid(points.true_positive_rate, points.false_positive_rate)
    assert area == pytest.approx(auroc(score, target), abs=1e-12)


def test_a_published_networks_predictions(real_folder):
    folder = real_folder / "peers" / "jrzech_chexnet_dev_half"
    scores, labels = (pd.read_csv(folder / f"{name}_dev_half.csv") for name in ("preds", "labels"))
    expected = pd.read_csv(folder / "expected_auc_sklearn_dev_half.csv")
    assert (scores["Image Index"] == labels["Image Index"]).all() and len(scores) == 11_236
    scores_NC, targets_NC = scores.iloc[:, 1:].to_numpy(float), labels.iloc[:, 1:].to_numpy(float)
    values = auroc(scores_NC, targets_NC)
    np.testing.assert_allclose(values, expected["auc_sklearn"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        average_precision(scores_NC, targets_NC), expected["ap_sklearn"], rtol=0, atol=1e-12
    )
    assert macro(values)[0] == pytest.approx(0.833516953637006, abs=1e-12) and macro(values)[1] == 14
    interval = bootstrap_by_patient(scores_NC, targets_NC, labels["Image Index"].str[:8], resamples=200)
    assert ((interval.low < values) & (values < interval.high)).all() and (interval.undefined == 0).all()
    width = dict(zip(expected["label"], interval.high - interval.low))
    assert width["Hernia"] > width["Effusion"]  # 28 positives against 1,464


@pytest.mark.parametrize("metric", [auroc, average_precision])
@pytest.mark.parametrize("levels", [None, 4])
def test_the_fast_bootstrap_equals_repeating_rows(metric, levels):
    scores_NC, targets_NC, patients_N = made_up(8, n=90, levels=levels)
    fast = bootstrap_by_patient(scores_NC, targets_NC, patients_N, metric=metric, resamples=130, seed=5)
    slow = bootstrap_by_patient(
        scores_NC, targets_NC, patients_N, metric=lambda s, t: metric(s, t), resamples=130, seed=5
    )
    for ours, theirs in zip(fast, slow):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)
    assert np.nanstd(fast.samples_RC, axis=0).min() > 0


@pytest.mark.parametrize("metric", [auroc, average_precision])
def test_an_infinite_score_is_a_score(metric):
    scores_N1, targets_N1 = np.array([[np.inf], [0], [1], [2]]), np.array([[0], [0], [1], [1.0]])
    fast, slow = (
        bootstrap_by_patient(scores_N1, targets_N1, np.arange(4), metric=m, resamples=40)
        for m in (metric, lambda s, t: metric(s, t))
    )
    np.testing.assert_allclose(fast.samples_RC, slow.samples_RC, rtol=0, atol=1e-12)
    assert auroc(scores_N1, targets_N1)[0] == 0.5


def test_bootstrap_counts_what_is_undefined():
    scores_N1, patients_N = np.arange(6.0)[:, None], np.array(list("aabbcc"))
    targets_N1 = np.array([[0], [0], [0], [0], [0], [1.0]])  # one positive patient of three
    interval = bootstrap_by_patient(scores_N1, targets_N1, patients_N, resamples=4000, seed=1)
    # Without c: (2/3)^3. With c alone: both of its images, so it is defined.
    assert interval.undefined[0] / 4000 == pytest.approx(8 / 27, abs=0.03)
    assert np.isnan(interval.samples_RC).sum() == interval.undefined[0] and interval.low[0] == 1
    never = bootstrap_by_patient(scores_N1, np.zeros((6, 1)), patients_N, resamples=20)
    assert np.isnan([never.value[0], never.low[0], never.high[0]]).all() and never.undefined[0] == 20


def test_bootstrap_draws_patients_not_images():
    # Copying every image ten times within its patient adds no information, so the interval must stay what it
    # was.
    scores_NC, targets_NC, _ = made_up(2, n=80)
    patients_N = np.arange(80)
    one = bootstrap_by_patient(scores_NC, targets_NC, patients_N, resamples=300)
    many = bootstrap_by_patient(
        *(np.repeat(a, 10, axis=0) for a in (scores_NC, targets_NC, patients_N)), resamples=300
    )
    np.testing.assert_allclose(one.low, many.low, atol=1e-12)
    np.testing.assert_allclose(one.high, many.high, atol=1e-12)


def test_macro_interval():
    scores_NC, targets_NC, patients_N = made_up(4)
    interval = bootstrap_by_patient(scores_NC, targets_NC, patients_N, resamples=100)
    mean = macro_interval(interval)
    assert mean.value == pytest.approx(macro(auroc(scores_NC, targets_NC))[0])
    np.testing.assert_allclose(mean.samples_RC[:, 0], np.nanmean(interval.samples_RC, axis=1))
    assert mean.low < mean.value < mean.high and mean.high - mean.low < (interval.high - interval.low).max()


def test_calibration():
    probability = np.array([0.0, 0.05, 0.15, 0.15, 1.0, 0.9, 0.3])
    target = np.array([0, 1, 0, 1, 1, 1, np.nan])
    result = calibration(probability, target, bins=10)
    # Bins (0, .1]: gap |.5 - .025|; (.1, .2]: |.5 - .15|; (.8, .9]: |1 - .9|; (.9, 1]: 0.
    assert result.ece == pytest.approx((2 * 0.475 + 2 * 0.35 + 0.1 + 0) / 6)
    assert result.count.tolist() == [2, 2, 0, 0, 0, 0, 0, 0, 1, 1]
    assert np.isnan(result.frequency[2]) and result.frequency[1] == 0.5
    rng = np.random.default_rng(0)
    p = rng.random(40_000)
    assert calibration(p, (rng.random(40_000) < p).astype(float)).ece < 0.015
    assert calibration(p, (rng.random(40_000) < p**3).astype(float)).ece > 0.2
    with pytest.raises(CxrError, match="sigmoid"):
        calibration(np.array([1.5]), np.array([1]))


def test_iou_against_pycocotools():
    mask = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(6)
    corners = rng.uniform(0, 100, (12, 2, 2))
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    expected = mask.iou(xywh[:5], xywh[5:], [0] * 7)
    np.testing.assert_allclose(iou_xyxy(boxes[:5], boxes[5:]), expected, atol=1e-12)


def test_iou_by_hand():
    a = [[0, 0, 4, 2], [10, 10, 10, 12]]
    b = [[2, 0, 6, 2], [4, 0, 5, 2], [0, 0, 4, 2], [10, 10, 10, 12]]
    np.testing.assert_allclose(
        iou_xyxy(a, b), [[4 / 12, 0, 1, 0], [0, 0, 0, np.nan]]
    )  # half-open: touching is no overlap
    assert iou_xyxy(np.zeros((0, 4)), b).shape == (0, 4)


def test_iou_of_genuine_detections(real_folder):
    table = pd.read_csv(
        real_folder / "peers" / "ibzzo_detection" / "expected_iou_iobb_pycocotools.csv"
    ).dropna()
    p, g = (table[[f"{k}x", f"{k}y", f"{k}w", f"{k}h"]].to_numpy() for k in "pg")
    p, g = (np.concatenate([box[:, :2], box[:, :2] + box[:, 2:]], axis=1) for box in (p, g))
    np.testing.assert_allclose(np.diag(iou_xyxy(p, g)), table["iou"], atol=1e-9)
