"""A comparison's maps: scored once, averaged over seeds, subtracted from the reference, and shown."""

import dataclasses

import numpy as np
import pytest

import cxrlib  # noqa: F401  (before timm: see cxrlib._compat)
from cxrlib import comparison, comparison_maps, recipes
from cxrlib.comparisons import COMPARISONS, Comparison, Row
from cxrlib.data import prepare, read_nih
from cxrlib.errors import CxrError
from cxrlib.localization.protocol import cross_fit, sweep_of
from cxrlib.localization.runs import load_run, maps_of_model
from cxrlib.localization.scores import score
from cxrlib.localization.stream import candidates
from cxrlib.phantom import write_cohort

MU = dataclasses.replace(recipes.mu(), epochs=1)
ALONE = {"proximity": 0.0, "confinement": 0.0, "teacher": 0.0}
SMALL = Comparison(
    "small", "Two tiny models", "Which looks better?",
    (
        Row("vit", "[CLS] ViT", MU, maps=("class_attention",)),
        Row("clarity", "CLARiTy", dataclasses.replace(MU, model="clarity", losses=ALONE), "", ("fused", "heatmap")),
    ),
    "vit", ("python -m cxrlib compare small --data STORE --out FOLDER",), ("vit", "class_attention"),
)  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_cohort(folder / "cohort", n=150, size=32, seed=5, prevalence="enriched", progress=False)
    return prepare(read_nih(folder / "cohort"), folder / "store", size=32)


@pytest.fixture(scope="module")
def out(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    for seed in (0, 1):
        for row in SMALL.rows:
            comparison.train_row(row, seed, data=store.folder, out=folder, device="cpu")
    return folder


@pytest.fixture(scope="module")
def result(store, out):
    return comparison.gather(SMALL, out, (0, 1), data=store.folder)


def test_the_table_holds_what_the_maps_are_worth(store, out, result):
    table, truth = result["localization"], comparison_maps.test_truth(store.folder)
    assert table["boxes"] == len(truth.boxes) and [row["method"] for row in table["rows"]] == [
        "class_attention", "fused", "heatmap", "blind", "random", "centre", "lungs", "edges", "ceiling",
    ]  # fmt: skip
    model, recipe, findings = load_run(out / "runs" / "clarity-seed1")
    images = list(dict.fromkeys(truth.boxes["image"]))
    maps = maps_of_model(model, store, images, method="heatmap", findings=findings, mean=recipe.mean, std=recipe.std)
    alone = score(cross_fit(sweep_of(candidates(truth.boxes, maps, square=32), truth.boxes)).matched, resamples=0)
    row = table["rows"][2]
    assert row["macro_by_seed"]["mean iou"][1] == pytest.approx(alone.at("macro", "mean iou")[0], abs=1e-4)
    for row in table["rows"][:3]:
        value, low, high = row["scores"]["macro"]["mean iou"]
        assert low < value < high and value == pytest.approx(np.mean(row["macro_by_seed"]["mean iou"]), abs=2e-4)
    reference, fused = table["rows"][:2]
    assert "difference" not in reference
    gap = fused["scores"]["macro"]["mean iou"][0] - reference["scores"]["macro"]["mean iou"][0]
    assert fused["difference"]["mean iou"][0] == pytest.approx(gap, abs=2e-4)
    assert fused["difference"]["mean iou"][1] < gap < fused["difference"]["mean iou"][2]
    ceiling = table["rows"][-1]["scores"]["macro"]["mean iou"][0]
    assert all(row["scores"]["macro"]["mean iou"][0] < ceiling for row in table["rows"][:-1])


def test_maps_are_scored_once(out, store, monkeypatch):
    monkeypatch.setattr(comparison_maps, "load_run", lambda *_: pytest.fail("scored again"))
    comparison_maps.localize_row(SMALL.rows[0], out / "runs" / "vit-seed0", comparison_maps.test_truth(store.folder), data=store.folder, device="cpu")


def test_the_text_and_the_page_show_every_row(result):
    import sys
    from pathlib import Path

    text = comparison.as_text(result)
    sys.path.insert(0, str(Path(__file__).parents[1] / "chapters" / "_ext"))
    try:
        from course_book import comparison_markdown
    finally:
        sys.path.pop(0)
    page = "\n".join(comparison_markdown(result))
    for row in result["localization"]["rows"]:
        assert row["words"] in text and row["words"] in page
        assert f"{row['scores']['macro']['iou>0.1'][0]:.3f}" in page


def test_unscored_or_other_boxes_are_refused(store, out, tmp_path):
    truth = comparison_maps.test_truth(store.folder)
    with pytest.raises(CxrError, match="no scored maps yet"):
        comparison_maps.gather_maps(SMALL, lambda row, seed: tmp_path / "nothing", (0,), data=store.folder)
    path = out / "runs" / "vit-seed0" / "localization" / "comparison" / "class_attention.npz"
    fewer = dataclasses.replace(truth, boxes=truth.boxes.iloc[1:].reset_index(drop=True))
    with pytest.raises(CxrError, match="other boxes"):
        comparison_maps.read_maps_of(path, fewer)


def test_the_ladder_changes_one_thing_at_a_time():
    ladder = COMPARISONS["clarity_ladder"]()
    whole = ladder.rows[0]
    assert whole.name == ladder.reference == ladder.reference_maps[0]
    for row in (*ladder.rows[1:5], *COMPARISONS["clarity_helpers"]().rows[1:]):
        one, other = whole.recipe.to_json(), row.recipe.to_json()
        changed = [key for key in one if one[key] != other[key]] + (["start"] if row.start != whole.start else [])
        assert len(changed) == 1, row.name
    assert all(row.recipe.epochs == whole.recipe.epochs and row.recipe.batch == whole.recipe.batch for row in ladder.rows)
