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
