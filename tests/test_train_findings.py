"""Which findings a run learns: 5 or 13 of CheXpert's, or any list, through the same code."""

import json

import numpy as np
import pytest
from PIL import Image

from cxrlib import cli
from cxrlib.findings import CHEXPERT_COMPETITION, CHEXPERT_OBSERVATIONS, FINDING_GROUPS, NO_FINDING, parse_findings
from cxrlib.models.weights import read_safetensors


@pytest.fixture(scope="module")
def chexpert(tmp_path_factory):
    """A CheXpert folder of 64 frontal films of 32 patients, one in four in the official validation set; nobody has a fracture."""
    folder, rng = tmp_path_factory.mktemp("chexpert"), np.random.default_rng(0)
    header = "Path,Sex,Age,Frontal/Lateral,AP/PA," + ",".join(CHEXPERT_OBSERVATIONS)
    rows = {"train": [header], "valid": [header]}
    for i in range(64):
        part = "valid" if i // 2 % 4 == 0 else "train"
        path = f"{part}/patient{i // 2:05d}/study{i % 2 + 1}/view1_frontal.jpg"
        labels = [rng.choice(["1.0", "0.0", "-1.0", ""], p=[0.4, 0.3, 0.1, 0.2]) for _ in CHEXPERT_OBSERVATIONS]
        labels[CHEXPERT_OBSERVATIONS.index("Fracture")] = "0.0"
        rows[part].append(f"CheXpert-v1.0-small/{path},Female,60,Frontal,AP,{','.join(labels)}")
        (folder / path).parent.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 255, (40, 36), dtype=np.uint8)).save(folder / path)
    for part, lines in rows.items():
        (folder / f"{part}.csv").write_text("\n".join(lines) + "\n")
    store = folder.parent / f"{folder.name}-store"
    assert cli.main(["prepare", str(folder), str(store), "--size", "32"]) == 0
    return store


@pytest.mark.parametrize("group,count", [("chexpert5", 5), ("chexpert13", 13)])
@pytest.mark.parametrize("model", ["lt_vit", "vit"])
def test_chexperts_5_and_13_labels_through_the_same_code(chexpert, tmp_path, capsys, group, count, model):
    out = str(tmp_path / "run")
    words = ["train", "mu", "--model", model, "--findings", group, "--data", str(chexpert), "--out", out, "--device", "cpu"]
    assert cli.main([*words, "--epochs", "1"]) == 0
    state = read_safetensors(tmp_path / "run" / "best.safetensors")
    assert len(state["head.weight"]) == count
    if model == "lt_vit":
        assert state["label_tokens"].shape[1] == count
    capsys.readouterr()
    assert cli.main(["evaluate", out, "--split", "test", "--resamples", "20"]) == 0
    table = capsys.readouterr().out
    scored = json.loads((tmp_path / "run" / "evaluation" / "test" / "auroc.json").read_text())
    assert [row["finding"] for row in scored["findings"]] == list(FINDING_GROUPS[group])
    if count == 13:  # Fracture has no positive: no number, and not a 0 in the mean
        fracture = next(row for row in scored["findings"] if row["finding"] == "Fracture")
        assert fracture["auroc"] is None and scored["macro"]["defined"] == 12
        assert "no image with it" in table and "macro over 12 of 13" in table


def test_the_columns_that_are_learnt_are_those_that_were_named(chexpert, tmp_path):
    """A run on two findings, named in another order, is scored against their own labels."""
    names = ("Edema", "Cardiomegaly")
    words = ["--data", str(chexpert), "--out", str(tmp_path / "run"), "--device", "cpu", "--epochs", "1"]
    assert cli.main(["train", "mu", "--findings", ",".join(names), *words]) == 0
    assert cli.main(["evaluate", str(tmp_path / "run"), "--resamples", "20"]) == 0
    from cxrlib.data import ImageStore

    store = ImageStore.open(chexpert)
    rows = store.where(split="test")
    with np.load(tmp_path / "run" / "evaluation" / "test" / "predictions.npz") as file:
        expected_NC = store.labels_NC[rows][:, [store.findings.index(name) for name in names]]
        np.testing.assert_array_equal(file["labels_NC"], expected_NC)
        assert tuple(file["findings"]) == names


def test_an_unknown_finding_ends_with_one_line(chexpert, tmp_path, capsys):
    words = ["train", "mu", "--findings", "Edema,Broken heart", "--data", str(chexpert), "--out", str(tmp_path / "run")]
    assert cli.main([*words, "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert "no finding 'Broken heart'" in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_options_reach_the_model_and_wrong_ones_do_not_pass(chexpert, tmp_path, capsys):
    words = ["train", "mu", "--model", "lt_vit", "--data", str(chexpert), "--device", "cpu", "--epochs", "1"]
    assert cli.main([*words, "--option", "n2=2", "--option", "label_attention=none", "--out", str(tmp_path / "run")]) == 0
    recipe = json.loads((tmp_path / "run" / "run.json").read_text())["recipe"]
    assert (recipe["model"], recipe["options"]) == ("lt_vit", {"n2": 2, "label_attention": "none"})
    assert cli.main([*words, "--option", "n3=2", "--out", str(tmp_path / "other")]) == 2
    assert "no option 'n3'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main([*words, "--option", "n2", "--out", str(tmp_path / "other")])


def test_groups_of_findings():
    assert parse_findings("chexpert5") == CHEXPERT_COMPETITION
    assert len(FINDING_GROUPS["chexpert13"]) == 13 and NO_FINDING not in FINDING_GROUPS["chexpert13"]
    assert parse_findings("Mass, Nodule") == ("Mass", "Nodule")
