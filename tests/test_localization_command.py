"""`python -m cxrlib localize`: from a run, from saved boxes and from saved maps to tables and overlays, on small phantoms."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from cxrlib import recipes
from cxrlib.cli import main
from cxrlib.data import ImageStore, prepare, read_nih
from cxrlib.localization.mask_protocol import MEASURES
from cxrlib.localization.matching import XYXY
from cxrlib.localization.published import COMPARABLE, published, published_rows
from cxrlib.localization.report import as_text
from cxrlib.localization.truth import open_data, truth_of
from cxrlib.phantom import write_cohort
from cxrlib.training.checkpoint import BEST
from cxrlib.training.runs import start_or_resume

FAST = ["--resamples", "20", "--seeds", "2"]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A cohort of phantoms, its store, and a run of random weights on it: what is scored does not matter here."""
    root = tmp_path_factory.mktemp("localize")
    write_cohort(root / "cohort", n=100, size=32, seed=1, prevalence="enriched", progress=False)
    store = prepare(read_nih(root / "cohort"), root / "store", size=32)
    recipe = recipes.mu()
    start_or_resume(root / "run", recipe, store)
    torch.manual_seed(0)
    model = recipe.build(len(store.findings))
    torch.nn.init.normal_(model.head.weight)
    save_file(model.state_dict(), root / "run" / BEST)
    return root


def localize(*words) -> int:
    return main(["localize", *map(str, words), *FAST])


@pytest.fixture(scope="module")
def truth(places):
    return truth_of(open_data(places / "store"))


def test_a_run_gives_every_table_and_the_overlays(places, truth, capsys):
    assert localize(places / "run", "--method", "grad_cam", "class_attention", "centre") == 0
    printed = capsys.readouterr().out
    out = places / "run" / "localization" / "test"
    assert printed.startswith("synthetic images") and f"written to {out}" in printed
    assert (out / "localization.txt").read_text() in printed
    for row in ("grad_cam  ", "grad_cam, oracle", "class_attention  ", "centre  ", "Blind box  ", "Blind box, halves", "Random map", "Ceiling of a 14"):
        assert f"\n{row}" in printed, row
    assert "Published" not in printed  # those are NIH's boxes, these are phantoms'
    table = pd.read_csv(out / "localization.csv")
    ceiling = table[table["row"].eq("Ceiling of a 32 x 32 grid") & table["group"].eq("macro") & table["measure"].eq("mean iou")]["value"].item()
    assert ceiling == pytest.approx(1)  # boxes of 32-pixel images are made of its pixels
    worth = pd.read_csv(out / "worth.csv")
    assert len(worth) == len(truth.boxes)
    finding = worth["finding"].iloc[0]
    cell = table[table["row"].eq("grad_cam") & table["group"].eq(finding) & table["measure"].eq("mean iou")]["value"].item()
    assert cell == pytest.approx(worth[worth["finding"] == finding]["mean iou"].mean(), abs=1e-5)
    stored = json.loads((out / "localization.json").read_text())
    assert stored["methods"] == ["grad_cam", "class_attention", "centre"] and stored["data"]["source"] == "phantom"
    thresholds = json.loads((out / "thresholds.json").read_text())
    assert [item["split"] for item in thresholds] == [f"seed {seed}, half {half}" for seed in (0, 1) for half in "AB"]
    assert not set(thresholds[0]["patients"]) & set(thresholds[1]["patients"])
    assert (out / "overlays.png").read_bytes().startswith(b"\x89PNG")


def test_without_a_method_all_that_fit_are_in_one_table(places, capsys):
    assert localize(places / "run", "--out", places / "all", "--data", places / "cohort", "--findings", *findings_with_two(places)) == 0
    printed = capsys.readouterr().out
    for name in ("class_attention", "rollout", "gradient_attention", "cam", "grad_cam", "grad_cam_pp", "centre", "random", "lungs", "edges"):
        assert f"\n{name}  " in printed, name
    assert "label_attention" not in printed and "fused" not in printed
    # The cohort has masks, so there are two columns more; its store has none unless it is told where they are.
    assert "pointing     dice     hd95" in printed
    table = pd.read_csv(places / "all" / "localization.csv").query("group == 'macro'").set_index(["row", "measure"])["value"]
    for row in ("class_attention", "Blind box", "Random map", "Ceiling of a 32 x 32 grid"):
        assert 0 < table[row, "dice"] <= 1 and 0 <= table[row, "hausdorff 95"] < 1, row
    assert table["Ceiling of a 32 x 32 grid", "dice"] > table["Random map", "dice"] and ("class_attention, oracle", "dice") not in table
    assert localize(places / "run", "--method", "centre", "--masks", places / "store", "--out", places / "no") == 2
    assert "has no folder `masks`: give a phantom cohort" in capsys.readouterr().err


def test_masks_of_another_cohort_are_refused(places, tmp_path, capsys):
    write_cohort(tmp_path / "other", n=40, size=32, seed=77, prevalence="enriched", progress=False)
    assert localize(places / "run", "--method", "centre", "--masks", tmp_path / "other", "--out", tmp_path / "no") == 2
    assert "name the cohort that the store was prepared from" in capsys.readouterr().err


def findings_with_two(places) -> list[str]:
    counts = truth_of(open_data(places / "store")).boxes["finding"].value_counts()
    return list(counts.index[:2])


def test_the_true_boxes_score_one(places, truth, capsys):
    truth.boxes[["image", "finding", *XYXY]].to_csv(places / "perfect.csv", index=False)
    assert localize("--boxes", places / "perfect.csv", "--data", places / "cohort", "--out", places / "perfect") == 0
    table = pd.read_csv(places / "perfect" / "localization.csv")
    mine = table[table["row"].eq("perfect") & table["group"].eq("macro") & ~table["measure"].isin(["pointing", *MEASURES])]
    assert (mine["value"] == 1).all() and (mine["low"] == 1).all()
    assert not (places / "perfect" / "thresholds.json").exists()
    dice = table[table["row"].eq("perfect") & table["group"].eq("macro") & table["measure"].eq("dice")]["value"].item()
    assert 0.5 < dice < 1  # even the true box is larger than the lesion in it


def save_maps(folder, truth):
    """Maps that are 1 in the true box, over a grid of 32 x 32: they must score almost 1."""
    folder.mkdir()
    for image, rows in truth.boxes.groupby("image"):
        maps = np.zeros((len(rows), 32, 32))
        for map_yx, (x0, y0, x1, y1) in zip(maps, rows[XYXY].to_numpy(int)):
            map_yx[y0:y1, x0:x1] = 1
        np.savez(folder / f"{image[:-4]}.npz", maps=maps, findings=rows["finding"].to_numpy(str), frame=[32, 32])


def test_saved_maps_of_the_truth_score_one_at_a_threshold_that_was_never_told(places, truth, capsys):
    save_maps(places / "good maps", truth)
    assert localize("--maps", places / "good maps", "--data", places / "store", "--out", places / "from maps") == 0
    table = pd.read_csv(places / "from maps" / "localization.csv")
    macro = table[table["row"].eq("good maps") & table["group"].eq("macro")].set_index("measure")["value"]
    assert macro["iou>0.9"] == 1 and macro["pointing"] == 1
    assert localize("--maps", places / "good maps", "--data", places / "store", "--out", places / "two", "--two-level") == 0
    assert "two fixed levels, up to three boxes" in capsys.readouterr().out


def test_boxes_of_another_set_are_scored_from_its_file_alone(tmp_path, capsys):
    square = [[2, 2], [9, 2], [9, 9], [2, 9]]
    entries = [{"file_name": f"{k}.png", "syms": ["Mass"], "boxes": [[2, 2, 9, 9]], "polygons": [square]} for k in range(4)]
    (tmp_path / "set.json").write_text(json.dumps(entries))
    (tmp_path / "mine.csv").write_text("image,finding,x0,y0,x1,y1\n" + "".join(f"{k}.png,Mass,2,2,9,9\n" for k in range(3)))
    assert localize("--boxes", tmp_path / "mine.csv", "--data", tmp_path / "set.json", "--out", tmp_path / "out") == 0
    assert "0.750" in capsys.readouterr().out
    assert not (tmp_path / "out" / "overlays.png").exists()


WRONG = {
    "nothing to score": ([], "give one of RUN, --boxes CSV and --maps FOLDER"),
    "two things to score": (["run", "--boxes", "b.csv"], "give one of RUN"),
    "no data": (["--boxes", "b.csv"], "--data (where the true boxes are) and --out"),
    "no run": (["nowhere"], "is no run folder"),
    "an unknown method": (["run", "--method", "gradcam"], "no map method 'gradcam'"),
    "a method that does not fit": (["run", "--method", "fused"], "the map method fused does not fit a VisionTransformer"),
    "a method without a run": (["--maps", "m", "--data", "store", "--method", "cam", "--out", "x"], "--method says how maps are made of a run"),
    "a frame for maps": (["--maps", "m", "--data", "store", "--out", "x", "--frame", "9"], "--frame belongs to --boxes"),
    "a split without boxes": (["run", "--split", "train_val"], "train_val split has no boxes"),
    "no file": (["--boxes", "none.csv", "--data", "store", "--out", "x"], "none.csv does not exist"),
    "an empty file": (["--boxes", "empty.csv", "--data", "store", "--out", "x"], "is empty"),
    "boxes of another size": (["run", "--size", "2"], "--size at least 8"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_bad_commands_end_with_one_line_and_write_nothing(places, tmp_path, capsys, monkeypatch, case):
    words, message = WRONG[case]
    monkeypatch.chdir(places)
    (places / "empty.csv").write_text("")
    before = sorted(path for path in places.rglob("*"))
    assert main(["localize", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert sorted(path for path in places.rglob("*")) == before


def test_a_store_of_another_size_is_refused(places, capsys):
    prepare(read_nih(places / "cohort"), places / "store16", size=16)
    assert localize(places / "run", "--data", places / "store16", "--method", "cam", "--out", places / "x") == 2
    assert "prepare with that --size" in capsys.readouterr().err
    assert not (places / "x").exists()
    assert ImageStore.open(places / "store16").size == 16


# --- published rows ---


def test_published_numbers_name_their_source_and_comparability():
    table = published()
    assert not table.isna().any(axis=None) and set(table["comparable"]) <= set(COMPARABLE)
    assert table["value"].between(0, 1).all() and not table.duplicated(["method", "finding", "measure"]).any()
    wang = table[table["method"].str.startswith("Wang 2017, ResNet-50 (ChestX-ray8)")].set_index(["finding", "measure"])["value"]
    assert wang["Cardiomegaly", "iou>0.1"] == 0.9383 and wang["Pneumothorax", "iou>0.7"] == 0.0204
    assert wang["Nodule", "iobb>0.5"] == 0.0126 and wang["macro", "iou>0.5"] == pytest.approx(0.0615, abs=1e-4)
    row = published_rows(("iou>0.1", "iou>0.5", "iou>0.7")).set_index("method").loc["CLARiTy-S-16-512"]
    assert (row["iou>0.1"], row["iou>0.5"]) == (0.81, 0.318) and np.isnan(row["iou>0.7"]) and row["comparable"] == "nearly"


def test_nothing_is_called_msli():
    import inspect

    from cxrlib.localization import matching, report, scores

    assert "MSLI" not in " ".join(matching.measure_names()) and not published()["measure"].str.contains("MSLI").any()
    assert "msli" not in inspect.getsource(report).lower() and "nothing here is called that" in scores.__doc__
    assert callable(as_text)
