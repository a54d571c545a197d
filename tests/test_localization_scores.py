"""Matching, scores, intervals, halves and thresholds, on boxes whose overlaps can be counted by hand."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from cxrlib.data.nih import packaged_tables
from cxrlib.errors import CxrError
from cxrlib.findings import BOXED_FINDINGS
from cxrlib.localization import blind
from cxrlib.localization.matching import XYXY, match, mean_of, overlaps
from cxrlib.localization.protocol import (
    Thresholds,
    blind_cross,
    cross_fit,
    halves,
    oracle,
    sweep_of,
)
from cxrlib.localization.scores import paired_difference, score, score_by_size
from cxrlib.localization.truth import truth_of
from cxrlib.metrics import iou_xyxy


@pytest.fixture(scope="module")
def nih_studies():
    return packaged_tables()


def table(*rows, columns=("image", "finding", *XYXY)) -> pd.DataFrame:
    return pd.DataFrame([row[: len(columns)] for row in rows], columns=list(columns))


def truth_table(*rows, side=6) -> pd.DataFrame:
    """Rows of (image, finding, x0, y0, x1, y1, patient)."""
    return table(*rows, columns=("image", "finding", *XYXY, "patient")).assign(width=side, height=side)


# --- overlaps: hand-drawn on 6 x 6 ---


@pytest.mark.parametrize(
    "predicted, true, iou, iobb",
    [
        ((1, 1, 4, 4), (1, 1, 4, 4), 1, 1),  # the same
        ((1, 1, 4, 4), (2, 2, 5, 5), 4 / 14, 4 / 9),  # 2 x 2 of 9 + 9 - 4
        ((0, 0, 3, 6), (3, 0, 6, 6), 0, 0),  # touching
        ((0, 0, 2, 2), (4, 4, 6, 6), 0, 0),  # apart
        ((2, 2, 3, 3), (0, 0, 6, 6), 1 / 36, 1),  # one pixel inside everything
        ((0, 0, 6, 6), (2, 2, 3, 3), 1 / 36, 1 / 36),
        ((0.5, 0.5, 2.5, 1.5), (1, 0, 2, 2), 1 / 3, 1 / 2),  # fractions of a pixel
        ((-3, -3, 3, 3), (0, 0, 3, 3), 9 / 36, 9 / 36),  # reaching outside of the image
        ((np.nan,) * 4, (0, 0, 3, 3), 0, 0),  # nothing was found
        ((1, 1, 1, 4), (0, 0, 3, 3), 0, np.nan),  # a predicted box without area
        ((1, 1, 1, 4), (2, 2, 2, 2), np.nan, np.nan),  # neither has any
    ],
)
def test_overlaps_by_hand(predicted, true, iou, iobb):
    got = overlaps([predicted], [true])
    np.testing.assert_allclose(np.concatenate(got), [iou, iobb], rtol=1e-12, equal_nan=True)


def random_boxes(rng, count: int) -> np.ndarray:
    corners = np.sort(rng.uniform(0, 50, (count, 2, 2)), axis=1)
    return corners.reshape(count, 4)


def test_overlaps_have_the_properties_of_overlaps():
    rng = np.random.default_rng(0)
    a, b = random_boxes(rng, 200), random_boxes(rng, 200)
    iou, iobb = overlaps(a, b)
    assert ((0 <= iou) & (iou <= iobb + 1e-15) & (iobb <= 1 + 1e-15)).all()
    np.testing.assert_allclose(overlaps(b, a)[0], iou, rtol=1e-12)  # symmetric; IoBB is not
    assert not np.allclose(overlaps(b, a)[1], iobb)
    np.testing.assert_allclose(overlaps(a, a), 1)
    for moved in (overlaps(a + [3, -7, 3, -7], b + [3, -7, 3, -7]), overlaps(a * 4, b * 4)):
        np.testing.assert_allclose(moved, [iou, iobb], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(np.diag(iou_xyxy(a, b)), iou, rtol=1e-12)


def test_overlaps_are_pycocotools():
    mask = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(1)
    a, b = random_boxes(rng, 100), random_boxes(rng, 100)
    xywh = [np.concatenate([box[:, :2], box[:, 2:] - box[:, :2]], axis=1) for box in (a, b)]
    iou = np.diag(mask.iou(xywh[0], xywh[1], [0] * 100))
    iobb = np.diag(mask.iou(xywh[0], xywh[1], [1] * 100))  # "crowd": the union is the detected box
    np.testing.assert_allclose(overlaps(a, b), [iou, iobb], atol=1e-9)


def test_stored_overlaps_of_pycocotools_on_nih_boxes(real_folder):
    folder = real_folder / "peers" / "ibzzo_detection"
    stored = pd.read_csv(folder / "expected_iou_iobb_pycocotools.csv").dropna(subset="iou")
    assert len(stored) == 46
    boxes = [stored[[f"{kind}{side}" for side in "xywh"]].to_numpy(float) for kind in "pg"]
    ours = overlaps(*(np.concatenate([box[:, :2], box[:, :2] + box[:, 2:]], axis=1) for box in boxes))
    np.testing.assert_allclose(ours, stored[["iou", "iobb"]].to_numpy().T, atol=1e-9)


def test_stored_accuracies_of_another_implementation(real_folder, tmp_path, nih_studies):
    """From the submission file and NIH's box table to the whole table, with our reader and our matching."""
    from cxrlib.localization.predictions import read_predictions

    folder = real_folder / "peers" / "ibzzo_detection"
    expected = pd.read_csv(folder / "expected_localization_accuracy.csv").set_index("label")
    submitted = pd.read_csv(folder / "submission.csv")
    rows = np.flatnonzero(nih_studies.table["image"].isin(submitted["image_id"]))
    truth = truth_of(nih_studies.subset(rows), split=None)
    assert len(truth.boxes) == expected.at["ALL", "n_gt"]
    with pytest.raises(CxrError, match="2 predicted boxes are there twice"):  # so they are, in the genuine file
        read_predictions(folder / "submission.csv", truth)
    submitted.drop_duplicates(["image_id", "label", "x_min", "y_min"]).to_csv(tmp_path / "boxes.csv", index=False)
    predicted, notes = read_predictions(tmp_path / "boxes.csv", truth)
    assert any("rows of No Finding" in note for note in notes)
    scored = score(match(truth.boxes, predicted), resamples=0)
    for finding in BOXED_FINDINGS:
        row = expected.loc[finding]
        assert scored.boxes_G[scored.groups.index(finding)] == row["n_gt"]
        ours = {f"T_IoU_{t:g}": scored.at(finding, f"iou>{t:g}")[0] for t in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)}
        ours |= {f"T_IoBB_{t:g}": scored.at(finding, f"iobb>{t:g}")[0] for t in (0.1, 0.25, 0.5, 0.75, 0.9)}
        ours["mean_best_iou_missing_as_0"] = scored.at(finding, "mean iou")[0]
        for name, value in ours.items():
            assert value == pytest.approx(row[name], abs=1e-9), (finding, name)


# --- matching ---


def test_right_means_strictly_greater():
    truth = truth_table(("a", "Mass", 0, 0, 4, 4, "p"))
    matched = match(truth, table(("a", "Mass", 0, 0, 2, 4)))  # IoU is exactly 0.5
    worth = dict(zip(matched.measures, matched.values_MQ[0]))
    assert worth["iou>0.4"] == 1 and worth["iou>0.5"] == 0 and worth["mean iou"] == 0.5 and worth["iobb>0.9"] == 1


def test_only_boxes_of_the_same_image_and_finding_count_and_the_best_of_several():
    truth = truth_table(("a", "Mass", 0, 0, 2, 2, "p"), ("a", "Nodule", 0, 0, 2, 2, "p"), ("b", "Mass", 0, 0, 2, 2, "q"))
    predicted = table(("b", "Nodule", 0, 0, 2, 2), ("a", "Mass", 3, 3, 5, 5), ("a", "Mass", 0, 0, 2, 1))
    matched = match(truth, predicted)
    assert matched.values_MQ[:, matched.measures.index("mean iou")].tolist() == [0.5, 0, 0]
    assert matched.rows["predicted"].tolist() == [2, 0, 0]


def test_the_pointing_game_is_played_once_per_image_and_finding():
    truth = truth_table(("a", "Mass", 0, 0, 2, 2, "p"), ("a", "Mass", 4, 4, 6, 6, "p"), ("b", "Mass", 0, 0, 2, 2, "q"))
    predicted = table(("a", "Mass", 0, 0, 6, 6), ("b", "Mass", 0, 0, 6, 6)).assign(peak_x=[5.0, 2.0], peak_y=[4.0, 1.0])
    pointing = match(truth, predicted).values_MQ[:, -1]
    assert pointing[0] == 1 and np.isnan(pointing[1])  # in the second box of image a
    assert pointing[2] == 0  # x = 2 lies just outside of a half-open box from 0 to 2
    assert np.isnan(match(truth, predicted.drop(columns=["peak_x", "peak_y"])).values_MQ[:, -1]).all()
    no_peak = predicted.assign(peak_x=np.nan, peak_y=np.nan)  # a constant map
    assert match(truth, no_peak).values_MQ[0, -1] == 0


# --- scores ---


def example():
    truth = truth_table(
        ("a", "Mass", 0, 0, 4, 4, "p"), ("b", "Mass", 0, 0, 4, 4, "q"), ("c", "Nodule", 0, 0, 1, 1, "q"), side=40
    )  # fmt: skip
    predicted = table(("a", "Mass", 0, 0, 4, 3), ("c", "Nodule", 0, 0, 1, 1))
    return match(truth, predicted)


def test_macro_is_the_mean_over_findings_and_not_over_boxes():
    scored = score(example(), findings=("Mass", "Nodule", "Hernia"))
    assert scored.at("Mass", "iou>0.5")[0] == 0.5 and scored.at("Nodule", "iou>0.5")[0] == 1
    assert np.isnan(scored.at("Hernia", "iou>0.5")[0]) and scored.defined == 2
    assert scored.at("macro", "iou>0.5")[0] == 0.75
    assert scored.at("macro", "mean iou")[0] == pytest.approx((0.375 + 1) / 2)
    assert scored.at("Mass", "mean accuracy")[0] == pytest.approx(0.5)  # IoU .75 passes all seven, the miss none
    assert np.isnan(scored.at("macro", "pointing")).all()
    assert scored.boxes_G.tolist() == [2, 1, 0, 3]


def test_a_finding_that_is_not_scored_is_refused():
    with pytest.raises(CxrError, match="true boxes of Nodule"):
        score(example(), findings=("Mass",))


def test_the_bootstrap_draws_patients_and_equals_a_loop():
    matched = example()
    scored = score(matched, findings=("Mass", "Nodule"), resamples=40, seed=3)
    rng = np.random.default_rng(3)
    drawn_RP = rng.integers(0, 2, (40, 2))  # the patients are p and q
    for sample, drawn in zip(scored.samples_RGQ, drawn_RP):
        rows = np.concatenate([np.flatnonzero(matched.rows["patient"] == "pq"[patient]) for patient in drawn])
        for g, finding in enumerate(("Mass", "Nodule")):
            mine = rows[matched.rows["finding"].to_numpy()[rows] == finding]
            expected = matched.values_MQ[mine, 4].mean() if len(mine) else np.nan
            np.testing.assert_allclose(sample[g, 4], expected)
        np.testing.assert_allclose(sample[2, 4], np.nanmean(sample[:2, 4]))


def test_difference_of_a_method_with_itself_is_nothing_and_with_a_blind_one_is_paired():
    rng = np.random.default_rng(0)
    boxes = random_boxes(rng, 60)
    truth = truth_table(*[(f"i{k}", "Mass", *box, f"p{k // 2}") for k, box in enumerate(boxes)], side=50)
    good = match(truth, truth[["image", "finding", *XYXY]])
    half = truth[["image", "finding", *XYXY]].assign(x1=(truth["x0"] + truth["x1"]) / 2)
    poor = match(truth, half)
    options = {"findings": ("Mass",), "resamples": 200}
    assert paired_difference(good, good, "mean iou", **options)[1:] == (0, 0, 0)
    difference = paired_difference(good, poor, "mean iou", **options)
    assert difference.value == pytest.approx(0.5) and difference.low == pytest.approx(0.5) and difference.high == pytest.approx(0.5)
    with pytest.raises(CxrError, match="same true boxes"):
        paired_difference(good, match(truth.iloc[1:], half), "mean iou", **options)


def test_lesion_sizes():
    truth = truth_table(("a", "Mass", 0, 0, 10, 10, "p"), ("a", "Mass", 0, 0, 9, 9, "p"), ("b", "Mass", 0, 0, 30, 30, "q"), side=100)
    scored = score_by_size(match(truth, truth[["image", "finding", *XYXY]]), resamples=0)
    assert dict(zip(scored.groups, scored.boxes_G)) == {"below 1 %": 1, "1 to 5 %": 1, "5 % and more": 1, "macro": 3}


# --- NIH's own boxes: what no image, and no finer grid, can do ---


@pytest.fixture(scope="module")
def nih_truth(nih_studies) -> pd.DataFrame:
    truth = truth_of(nih_studies, split=None).boxes
    assert (len(truth), truth["image"].nunique(), truth["patient"].nunique()) == (984, 880, 726)
    return truth


def test_the_class_fixed_box_reaches_its_published_row(nih_truth):
    """20 random halves of the images: macro accuracy at T = .1 to .7 within one standard deviation of the known row."""
    rows = []
    for seed in range(20):
        fitted_on, scored_on = blind.random_halves_of_images(nih_truth, seed=seed)
        scored = score(match(scored_on, blind.blind_boxes(scored_on, fitted_on)), resamples=0)
        rows.append([scored.at("macro", f"iou>{t:g}")[0] for t in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)] + [scored.at("macro", "mean iou")[0]])
    mean = np.mean(rows, axis=0)
    known = np.array([0.503, 0.352, 0.258, 0.197, 0.153, 0.099, 0.048, 0.193])
    spread = np.array([0.031, 0.018, 0.015, 0.011, 0.008, 0.008, 0.005, 0.008])
    assert (np.abs(mean - known) <= spread).all(), mean.round(3)
    np.testing.assert_allclose(np.std(rows, axis=0, ddof=1), spread, atol=0.004)


@pytest.mark.parametrize("grid, nodule, mass", [(14, 0.241, 0.682), (16, 0.380, 0.706), (32, 0.873, 0.976)])
def test_grid_ceilings(nih_truth, grid, nodule, mass):
    scored = {rule: score(match(nih_truth, blind.grid_table(nih_truth, grid=grid, rule=rule)), resamples=0) for rule in ("nearest", "best")}
    assert scored["nearest"].at("Nodule", "iou>0.5")[0] == pytest.approx(nodule, abs=5e-4)
    assert scored["nearest"].at("Mass", "iou>0.5")[0] == pytest.approx(mass, abs=5e-4)
    # Moving sides to the nearest line is not the best that a grid can do.
    assert (scored["best"].value_GQ[:, scored["best"].measures.index("mean iou")] >= scored["nearest"].value_GQ[:, 14]).all()
    assert scored["best"].at("Nodule", "iou>0.5")[0] > nodule


def test_the_best_grid_box_beats_every_box_of_the_grid():
    rng = np.random.default_rng(0)
    boxes = np.clip(random_boxes(rng, 40) / 50 * 6, 0, 6)
    boxes = boxes[(boxes[:, 2:] - boxes[:, :2]).min(axis=1) > 0.05]
    lines = np.arange(7.0)
    every = np.array([(x0, y0, x1, y1) for x0 in lines for y0 in lines for x1 in lines for y1 in lines if x0 < x1 and y0 < y1])
    best = blind.grid_boxes(boxes, np.full(len(boxes), 6), np.full(len(boxes), 6), grid=6, rule="best")
    np.testing.assert_allclose(overlaps(best, boxes)[0], iou_xyxy(boxes, every).max(axis=1), rtol=1e-12)
    with pytest.raises(CxrError, match="no rule"):
        blind.grid_boxes(boxes[:1], [6], [6], grid=6, rule="round")


def test_the_blind_box_left_out_never_saw_its_patient():
    rows = [(f"i{k}", "Mass", 10, 10, 30, 30, f"p{k}") for k in range(6)]
    truth = truth_table(*rows, ("odd", "Mass", 60, 60, 90, 90, "odd"), side=100)
    out = blind.blind_boxes_left_out(truth).set_index("image")
    np.testing.assert_allclose(out.loc["i0", XYXY].astype(float), [10, 10, 30, 30], atol=1)
    np.testing.assert_allclose(out.loc["odd", XYXY].astype(float), [10, 10, 30, 30], atol=1)
    alone = truth_table(("a", "Mass", 0, 0, 5, 5, "p"), ("b", "Mass", 0, 0, 5, 5, "p"))
    assert len(blind.blind_boxes_left_out(alone)) == 0  # nobody else to learn from


# --- halves and thresholds ---


@pytest.mark.parametrize("seed", range(5))
def test_halves_share_no_patient_and_no_finding_is_lopsided(nih_truth, seed):
    a, b = halves(nih_truth, seed=seed)
    assert sorted([*a, *b]) == list(range(984))
    patients = [set(nih_truth["patient"].iloc[rows]) for rows in (a, b)]
    assert not patients[0] & patients[1]
    counts = [nih_truth["finding"].iloc[rows].value_counts() for rows in (a, b)]
    assert (counts[0] - counts[1]).abs().max() <= 6, counts
    again = halves(nih_truth, seed=seed)
    assert np.array_equal(a, again[0]) and not np.array_equal(a, halves(nih_truth, seed=seed + 1)[0])


def test_halves_need_two_patients():
    with pytest.raises(CxrError, match="two patients"):
        halves(truth_table(("a", "Mass", 0, 0, 1, 1, "p")), seed=0)


LEVELS = (0.2, 0.5, 0.8)


def small_sweep(seed: int = 0, images: int = 24):
    """At level .5 the boxes of masses are right, at .8 those of nodules; at the others they are too large."""
    rng = np.random.default_rng(seed)
    rows, boxes = [], []
    for k in range(images):
        for finding, good in (("Mass", 0.5), ("Nodule", 0.8)):
            x, y = rng.uniform(0, 50, 2)
            rows.append((f"i{k}", finding, x, y, x + 20, y + 20, f"p{k // 2}"))
            for level in LEVELS:
                side = 20 if level == good else 45
                boxes.append((f"i{k}", finding, x, y, x + side, y + side, level, x + 1, y + 1))
    candidates = table(*boxes, columns=("image", "finding", *XYXY, "level", "peak_x", "peak_y"))
    return sweep_of(candidates, truth_table(*rows, side=100), levels=LEVELS)


def test_thresholds_are_fitted_per_finding_and_stored_with_their_split(tmp_path):
    sweep = small_sweep()
    a, b = halves(sweep.rows, seed=0)
    fitted = sweep.fit(a, split="seed 0, half A")
    assert fitted.values == {"Mass": 0.5, "Nodule": 0.8}
    assert set(fitted.patients) == set(sweep.rows["patient"].iloc[a])
    fitted.save(tmp_path / "thresholds.json")
    assert Thresholds.load(tmp_path / "thresholds.json") == fitted
    worth = sweep.score_rows(fitted, b)
    assert (worth[:, sweep.measures.index("mean iou")] == 1).all()
    chosen = sweep.predicted(fitted)
    assert len(chosen) == len(sweep.rows) and (chosen["x1"] - chosen["x0"]).max() == pytest.approx(20)


def test_scoring_what_was_fitted_on_is_refused_unless_it_is_called_an_oracle():
    sweep = small_sweep()
    a, b = halves(sweep.rows, seed=0)
    with pytest.raises(CxrError, match="fitted on .* of the patients that are to be scored"):
        sweep.score_rows(sweep.fit(a, split="half A"), a)
    with pytest.raises(CxrError, match="fitted on 1 of the patients"):
        sweep.score_rows(sweep.fit(a, split="half A"), np.append(b, a[0]))
    assert len(sweep.score_rows(sweep.fit(a, split="oracle: half A", oracle=True), a)) == len(a)
    assert oracle(sweep).values_MQ.shape == (len(sweep.rows), len(sweep.measures))


def test_thresholds_of_other_findings_or_levels_are_refused(tmp_path):
    sweep = small_sweep()
    a, b = halves(sweep.rows, seed=0)
    good = sweep.fit(a, split="half A")
    with pytest.raises(CxrError, match="none for Nodule"):
        sweep.score_rows(dataclasses.replace(good, values={"Mass": 0.5}), b)
    with pytest.raises(CxrError, match="none of those that were tried"):
        sweep.score_rows(dataclasses.replace(good, values={"Mass": 0.5, "Nodule": 0.33}), b)
    with pytest.raises(CxrError, match="no objective"):
        sweep.fit(a, split="half A", objective="luck")
    (tmp_path / "other.json").write_text('{"values": {}}')
    with pytest.raises(CxrError, match="does not hold thresholds"):
        Thresholds.load(tmp_path / "other.json")


def test_the_middle_of_equally_good_thresholds_is_taken_and_a_finding_not_seen_gets_the_common_one():
    sweep = small_sweep()
    flat = dataclasses.replace(sweep, values_TMQ=np.ones_like(sweep.values_TMQ))
    assert flat.fit(np.arange(4), split="x").values["Mass"] == 0.5
    masses = np.flatnonzero(sweep.rows["finding"] == "Mass")
    assert sweep.fit(masses, split="x").values["Nodule"] == 0.5


def test_cross_fitting_scores_every_box_out_of_sample():
    sweep = small_sweep()
    fitted = cross_fit(sweep, seeds=3)
    assert len(fitted.thresholds) == 6 and fitted.macro_HQ.shape[0] == 6
    assert not np.isnan(fitted.matched.values_MQ).any()
    assert score(fitted.matched, findings=("Mass", "Nodule"), resamples=0).at("macro", "mean iou")[0] == 1
    for first, second in zip(fitted.thresholds[::2], fitted.thresholds[1::2]):
        assert not set(first.patients) & set(second.patients)


def test_the_mean_over_seeds_is_taken_row_by_row():
    one = example()
    other = dataclasses.replace(one, values_MQ=np.zeros_like(one.values_MQ))
    np.testing.assert_array_equal(mean_of([one, other]).values_MQ, one.values_MQ / 2)


def test_blind_boxes_under_the_same_halves(nih_truth):
    crossed = blind_cross(nih_truth, seeds=1)
    scored = score(crossed.matched, resamples=0)
    assert abs(scored.at("macro", "iou>0.5")[0] - 0.153) < 0.016  # two standard deviations of one half
    assert not np.isnan(crossed.matched.values_MQ[:, :-1]).any()
