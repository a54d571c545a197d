"""Masks under the protocol: sweep, cross-fit, scores by finding, and a phantom cohort's own masks."""

import numpy as np
import pandas as pd
import pytest

from cxrlib.errors import CxrError
from cxrlib.localization.boxes import Frame
from cxrlib.localization.mask_protocol import MEASURES, phantom_masks, sweep_masks
from cxrlib.localization.masks import cut_mask, dice, hausdorff
from cxrlib.localization.protocol import cross_fit
from cxrlib.localization.scores import score
from cxrlib.localization.stream import ImageMaps

LEVELS = (0.2, 0.5, 0.8)


def example(images: int = 8):
    rng = np.random.default_rng(0)
    masks, maps, rows = {}, [], []
    for k in range(images):
        mask = np.zeros((20, 24), bool)
        y, x = rng.integers(0, 12, 2)
        mask[y : y + 6, x : x + 8] = True
        masks[f"{k}", "Mass"] = mask
        maps.append(ImageMaps(f"{k}", ("Nodule", "Mass"), np.stack([rng.random((20, 24)), mask + 0.3 * rng.random((20, 24))])))
        rows.append((f"{k}", "Mass", f"p{k // 2}"))
    return pd.DataFrame(rows, columns=["image", "finding", "patient"]), maps, lambda image, finding: masks[image, finding]


def test_each_threshold_is_worth_what_cutting_there_gives():
    pairs, maps, mask_of = example()
    sweep = sweep_masks(pairs, iter(maps), mask_of, levels=LEVELS)
    for t, level in enumerate(LEVELS):
        cut = cut_mask(maps[3].map_Cyx[1], Frame(24, 20), level=level)
        mask = mask_of("3", "Mass")
        assert sweep.values_TMQ[t, 3, 0] == pytest.approx(dice(cut, mask))
        np.testing.assert_allclose(sweep.values_TMQ[t, 3, 2] * np.hypot(20, 24), hausdorff(cut, mask, percentile=95))
    assert sweep.rows["share"].tolist() == [48 / 480] * 8


def test_masks_are_cross_fitted_and_scored_like_boxes():
    pairs, maps, mask_of = example()
    fitted = cross_fit(sweep_masks(pairs, maps, mask_of, levels=LEVELS), seeds=2, objective="dice")
    assert {item.values["Mass"] for item in fitted.thresholds} <= {0.5, 0.8} and fitted.matched.measures == MEASURES
    scored = score(fitted.matched, findings=("Mass", "Nodule"), resamples=30)
    value, low, high = scored.at("macro", "dice")
    assert low <= value <= high <= 1 and value > 0.9 and scored.at("Mass", "hausdorff 95")[0] < 0.1
    assert scored.measures == MEASURES and np.isnan(scored.at("Nodule", "dice")[0])
    with pytest.raises(CxrError, match="no objective 'mean accuracy' for dice"):
        cross_fit(sweep_masks(pairs, maps, mask_of, levels=LEVELS, distances=False), seeds=1)


def test_what_is_missing_is_named():
    pairs, maps, mask_of = example()
    with pytest.raises(CxrError, match=r"1 images with true masks have no map \(such as 7\)"):
        sweep_masks(pairs, maps[:7], mask_of)
    with pytest.raises(CxrError, match="scored twice"):
        sweep_masks(pd.concat([pairs, pairs]), maps, mask_of)
    with pytest.raises(CxrError, match="true mask of Edema but no map"):
        sweep_masks(pairs.assign(finding="Edema"), maps, mask_of)
    with pytest.raises(CxrError, match="Mass on 0 is empty"):
        sweep_masks(pairs, maps, lambda image, finding: np.zeros((20, 24), bool))


def test_phantoms_have_exact_masks(tmp_path):
    from cxrlib.data import read_nih
    from cxrlib.data.nih_tables import read_boxes
    from cxrlib.localization.shapes import mask_box
    from cxrlib.phantom import write_cohort

    write_cohort(tmp_path / "c", n=12, size=32, seed=3, prevalence="enriched", progress=False)
    boxes = read_boxes(tmp_path / "c" / "boxes_all.csv").groupby(["image", "finding"])
    mask_of = phantom_masks(tmp_path / "c")
    assert len(boxes) > 5 and set(read_nih(tmp_path / "c").table["image"]) >= {image for image, _ in boxes.groups}
    for (image, finding), rows in boxes:
        around = [rows["x0"].min(), rows["y0"].min(), rows["x1"].max(), rows["y1"].max()]
        assert mask_box(mask_of(image, finding)).tolist() == around
    with pytest.raises(CxrError, match="no mask of Lump for 00000001_000.png"):
        mask_of("00000001_000.png", "Lump")


def test_distances_are_taken_where_a_threshold_was_fitted_and_are_the_same_ones():
    from cxrlib.localization.mask_protocol import cross_fit_masks

    pairs, maps, mask_of = example()
    whole = cross_fit(sweep_masks(pairs, maps, mask_of), seeds=2, objective="dice")
    quick = cross_fit_masks(pairs, lambda: iter(maps), mask_of, seeds=2)
    np.testing.assert_array_equal(quick.matched.values_MQ, whole.matched.values_MQ)
    assert quick.thresholds == whole.thresholds and not np.isnan(quick.matched.values_MQ).any()


def test_the_border_tree_gives_the_distance_of_every_pixel():
    from scipy import ndimage

    from cxrlib.localization.masks import hausdorff

    rng = np.random.default_rng(0)
    for percentile in (100, 95):
        for share in (0.02, 0.3, 0.8):
            a, b = rng.random((2, 17, 23)) < share
            a[3, 4] = b[9, 20] = True
            edges = [mask & ~ndimage.binary_erosion(mask) for mask in (a, b)]
            worst = [np.percentile(ndimage.distance_transform_edt(~other)[mine], percentile) for mine, other in (edges, edges[::-1])]
            assert hausdorff(a, b, percentile=percentile) == pytest.approx(max(worst), abs=1e-12)


def test_a_box_counts_as_its_inside():
    from cxrlib.localization.mask_protocol import masks_of_boxes

    mask_YX = np.zeros((6, 6), bool)
    mask_YX[1:5, 1:3] = True
    pairs = pd.DataFrame([("a", "Mass", "1"), ("b", "Mass", "2")], columns=["image", "finding", "patient"])
    predicted = pd.DataFrame([("a", "Mass", 1, 2.6, 3.4, 5), ("b", "Mass", *[np.nan] * 4)], columns=["image", "finding", "x0", "y0", "x1", "y1"])
    matched = masks_of_boxes(pairs, predicted, lambda image, finding: mask_YX)
    # From 2.6 on, the centres of rows 3 and 4 are inside; up to 3.4, those of columns 1 and 2: 4 of the mask's 8 pixels.
    assert matched.values_MQ[0, :2].tolist() == [2 * 4 / 12, 4 / 8] and matched.values_MQ[0, 2] == pytest.approx(2 / np.hypot(6, 6))
    assert matched.values_MQ[1, 0] == 0 and np.isnan(matched.values_MQ[1, 2]) and matched.rows["predicted"].tolist() == [1, 0]
