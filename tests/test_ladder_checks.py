"""The two closer looks at the ladder's runs: hand-worked pieces, and the whole on two tiny models."""

import dataclasses
import functools
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import cxrlib  # noqa: F401  (before timm: see cxrlib._compat)
from cxrlib import comparison, comparison_maps, ladder_checks, recipes, token_company
from cxrlib.comparisons import Row
from cxrlib.data import prepare, read_nih
from cxrlib.errors import CxrError
from cxrlib.metrics import auroc
from cxrlib.phantom import write_cohort
from cxrlib.priors import make_priors, phantom_source

NAMES = ("clarity", "clarity_no_priors")


def test_lift_by_hand():
    nan = float("nan")
    labels_NC = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 1, 1], [nan, 1, 0]])
    # without the unknown row: a in 3 of 5, b in 3 of 5, both in 2 of 5; chance 9/25
    assert token_company.lift(labels_NC, 0, 1) == pytest.approx((2 / 5) / (9 / 25))
    assert token_company.lift(labels_NC, 0, 2) == pytest.approx((1 / 5) / (3 / 5 * 1 / 5))
    assert np.isnan(token_company.lift(labels_NC * [1, 1, 0], 0, 2))


def test_shared_by_hand():
    maps_BCP = torch.tensor([[[3.0, 1.0, 0.0], [30.0, 10.0, 0.0], [0.0, 0.0, 5.0], [1.0, 1.0, 2.0], [0.0, 0.0, 0.0]]])
    value_K = token_company.shared(maps_BCP, [0, 0, 0, 0], [1, 2, 3, 4])[0]
    assert value_K[:3].tolist() == pytest.approx([1.0, 0.0, 0.5])  # the same but for scale; apart; 1/4 + 1/4 + 0
    assert torch.isnan(value_K[3])


def test_rank_correlation_by_hand():
    assert ladder_checks.rank_correlation([1, 2, 3, 4], [0.1, 5.0, 6.0, 100.0]) == pytest.approx(1)
    assert ladder_checks.rank_correlation([1, 2, 3, 4], [4, 3, 1, 2]) == pytest.approx(1 - 6 * (9 + 1 + 4 + 4) / (4 * 15))
    assert np.isnan(ladder_checks.rank_correlation([1, 1, 1], [1, 2, 3]))


def test_resampled_means_are_those_of_the_copied_rows():
    known_MK = np.array([[1.0, np.nan], [2.0, 4.0], [6.0, 8.0]])
    weights_RP, patient_M = np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 3.0]]), np.array([0, 0, 1])
    assert token_company._resampled(known_MK, patient_M, weights_RP).tolist() == [[3.0, 6.0], [1.5, 4.0], [6.0, 8.0]]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A cohort with its regions, and the runs of two models. The third is a copy of the first."""
    folder = tmp_path_factory.mktemp("checks")
    write_cohort(folder / "cohort", n=180, size=32, seed=5, prevalence="enriched", progress=False)
    store = prepare(read_nih(folder / "cohort"), folder / "store", size=32)
    make_priors(store, folder / "priors", source="phantom", structures_of=phantom_source(store, 32, folder / "cohort"), size=32)
    recipe = dataclasses.replace(recipes.mu(), epochs=1, model="clarity", losses={"proximity": 0.0, "confinement": 0.0, "teacher": 0.0})
    for seed, name in enumerate(NAMES):
        row = Row(name, name, recipe, "", ladder_checks.MAPS)
        comparison.train_row(row, seed, data=store.folder, out=folder / "out", device="cpu")
        (folder / "out" / "runs" / f"{name}-seed{seed}").rename(folder / "out" / "runs" / f"{name}-seed0")
    shutil.copytree(folder / "out" / "runs" / "clarity-seed0", folder / "out" / "runs" / "clarity_cct-seed0")
    return folder, store


@pytest.fixture(scope="module")
def result(world):
    folder, store = world
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_company, "ENOUGH", 2)  # few images have both
        return ladder_checks.gather(folder / "out", data=store.folder, priors=folder / "priors", seeds=(0,), resamples=100)


def test_each_finding_has_its_difference_and_boxed_ones_their_region(world, result):
    folder, store = world
    lines = {line["finding"]: line for line in result["without_regions"]["findings"]}
    files = [np.load(folder / "out" / "runs" / f"{name}-seed0" / "evaluation" / "test" / "predictions.npz") for name in NAMES]
    values = [auroc(file["logits_NC"], file["labels_NC"]) for file in files]
    for c, finding in enumerate(files[0]["findings"]):
        one = lines[str(finding)]["auroc"]
        if np.isnan(values[0][c]):
            assert one["difference"] is None
        else:
            assert one["difference"] == pytest.approx(values[0][c] - values[1][c], abs=1e-4) and one["by_seed"] == [one["difference"]]
            assert one["low"] <= one["high"]
    assert sum(line["auroc"]["difference"] is not None for line in lines.values()) > 7
    boxed = [line for line in lines.values() if "maps" in line]
    assert {line["finding"] for line in boxed} == set(comparison_maps.test_truth(store.folder).boxes["finding"])
    assert all(0.5 < line["inside"] <= 1 and 0 < line["region"] < 0.7 and 0 < line["fills"] < 1 for line in boxed)
    fills = {line["finding"]: line["fills"] for line in boxed}
    assert fills["Cardiomegaly"] == max(fills.values())
    rank = result["without_regions"]["ranks"]["inside"]
    gains = [line["maps"]["fused"]["mean iou"]["difference"] for line in boxed]
    assert rank["value"] == pytest.approx(ladder_checks.rank_correlation([line["inside"] for line in boxed], gains), abs=1e-3)


def test_a_model_beside_its_own_copy_differs_in_nothing(world, result):
    folder, _ = world
    groups = result["company"]["groups"]
    assert groups["company"]["pairs"] + groups["others"]["pairs"] == len(result["company"]["pairs"]) > 10
    for group in groups.values():
        for key in token_company.MEASURES:
            one = group[key]
            if key == "fused" and one["first"] is None:  # no foreground at all, after one epoch
                continue
            assert one["difference"] == one["low"] == one["high"] == 0 and one["first"] == one["second"]
    with np.load(folder / "out" / "runs" / "clarity-seed0" / "evaluation" / "test" / "predictions.npz") as file:
        names, labels_NC, logits_NC = list(file["findings"]), file["labels_NC"], file["logits_NC"]
    pair = next(pair for pair in result["company"]["pairs"] if pair["auroc"][0] is not None)
    a, b = (names.index(name) for name in pair["pair"])
    assert pair["images"] == int(((labels_NC[:, a] == 1) & (labels_NC[:, b] == 1)).sum()) >= 2
    ways = [auroc(logits_NC[labels_NC[:, other] == 1, one], labels_NC[labels_NC[:, other] == 1, one]) for one, other in ((a, b), (b, a))]
    assert pair["auroc"][0] == pytest.approx(np.mean(ways), abs=1e-4)


def test_the_results_page_shows_both(result):
    sys.path.insert(0, str(Path(__file__).parents[1] / "chapters" / "_ext"))
    try:
        from course_book import checks_markdown
    finally:
        sys.path.pop(0)
    page = "\n".join(checks_markdown(result))
    auroc_of = {line["finding"]: line["auroc"] for line in result["without_regions"]["findings"]}
    assert f"{auroc_of['Effusion']['difference']:+.3f} (" in page and "| Pleural Thickening |" in page
    assert f"| {result['company']['groups']['company']['pairs']} | {result['company']['groups']['company']['cosine']['first']:.3f}, " in page


def test_the_command_writes_both_tables_and_names_a_missing_run(world, tmp_path, capsys, monkeypatch):
    folder, store = world
    monkeypatch.setattr(token_company, "ENOUGH", 2)
    monkeypatch.setattr(ladder_checks, "gather", functools.partial(ladder_checks.gather, resamples=20))
    options = ["--data", str(store.folder), "--priors", str(folder / "priors")]
    assert ladder_checks.main([str(tmp_path / "checks"), str(folder / "out"), *options, "--seeds", "0"]) == 0
    assert json.loads((tmp_path / "checks" / "checks.json").read_text())["name"] == "clarity_checks"
    assert "Cardiomegaly" in (tmp_path / "checks" / "table.txt").read_text()
    assert ladder_checks.main([str(tmp_path / "more"), str(folder / "out"), *options]) == 2
    assert "was not scored yet" in capsys.readouterr().err and not (tmp_path / "more").exists()
    with pytest.raises(CxrError, match="clarity-seed7 was not scored"):
        token_company.run_of(folder / "out", "clarity", 7)

