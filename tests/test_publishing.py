"""Publishing: the folder gives the run's own numbers, the card says what the run says, and a file that differs is not kept."""

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from sklearn.metrics import roc_auc_score
from tiny_store import FINDINGS, tiny_studies

import cxrlib  # noqa: F401  (before timm: see cxrlib._compat)
from cxrlib import cli, evaluation, publishing, recipes
from cxrlib.data import ImageStore, prepare
from cxrlib.errors import CxrError
from cxrlib.io import read_json, sha256_of, write_json
from cxrlib.licences import UNKNOWN, Origin, licence_for, origins_of, teacher_origins
from cxrlib.localization.runs import load_run
from cxrlib.models import build_model
from cxrlib.models.weights import read_safetensors
from cxrlib.predict import predict
from cxrlib.publishing import card as card_module
from cxrlib.publishing import export as export_module
from cxrlib.publishing import hub
from cxrlib.publishing.export import TOLERANCE, export
from cxrlib.publishing.facts import command_of
from cxrlib.publishing.hub import Preprocessing
from cxrlib.training import train
from cxrlib.training import cli as train_cli

RECIPE = dataclasses.replace(recipes.mu(), epochs=1, lr=1e-3)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A trained and evaluated run on 400 images of women and men, two views, ages, three of them unknown."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("published")
    studies = tiny_studies(folder / "raw", n=400, source="phantom")
    person = studies.table["patient"].str[1:].astype(int)
    sex = np.where(person % 3 == 0, "M", "F")
    table = studies.table.assign(sex=sex, age=20.0 + person % 60, view=np.where(person % 25 == 0, "AP", "PA"))
    table.loc[table.index % 100 == 1, ["sex", "age"]] = np.nan
    store = prepare(dataclasses.replace(studies, table=table), folder / "a private place", size=32)
    train(RECIPE, store.folder, folder / "run", device="cpu")
    assert cli.main(["evaluate", str(folder / "run"), "--split", "test", "--resamples", "50", "--device", "cpu"]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("hub") / "model"
    assert cli.main(["publish", str(run), str(out), "--resamples", "50"]) == 0
    return out


def test_a_published_model_gives_the_runs_logits_bit_by_bit(run, folder):
    model, findings, preprocessing = publishing.load(folder)
    theirs, recipe, names = load_run(run)
    store = ImageStore.open(read_json(run / "run.json")["store"])
    img_BYX = torch.from_numpy(np.array(store.images_NYX[:7]))
    expected_NC = predict(theirs, store.images_NYX, np.arange(7), recipe=recipe)
    with torch.inference_mode():
        given_BC = model(preprocessing(img_BYX)).logits_BC
    assert not model.training and findings == names == FINDINGS
    assert np.array_equal(given_BC.numpy(), expected_NC) and np.ptp(expected_NC, axis=0).min() > 0
    for wrong in (img_BYX.float(), img_BYX[:, :16]):
        with pytest.raises(CxrError, match="uint8 images"):
            preprocessing(wrong)


def test_the_card_says_what_the_run_says_and_nothing_of_this_machine(run, folder):
    text = (folder / "README.md").read_text()
    scored, made = read_json(run / "evaluation" / "test" / "auroc.json"), read_json(run / "run.json")
    front = yaml.safe_load(text.split("---")[1])
    assert front["license"] == "apache-2.0" and "synthetic" in front["tags"] and front["library_name"] == "cxrlib"
    assert front["model-index"][0]["results"][0]["metrics"][0]["value"] == pytest.approx(scored["macro"]["auroc"], abs=1e-4)
    assert evaluation.SYNTHETIC[1:] in text and made["data"]["sha256"] in text and made["commit"] in text
    for row in scored["findings"]:
        assert f"| {row['finding']} | {row['positives']} | {row['auroc']:.3f} ({row['low']:.3f} to {row['high']:.3f}) |" in text
    store = ImageStore.open(made["store"])
    held = set(pd.read_csv(run / "validation.csv")["image"])
    for name, part in (
        ("training", store.table[(store.table["split"] == "train_val") & ~store.table["image"].isin(held)]),
        ("test", store.table[store.table["split"] == "test"]),
    ):
        assert f"| {name} | {len(part)} | {part['patient'].nunique()} |" in text
    assert "A person must say so here" in text and "Not measured" in text
    for file in (path for path in folder.rglob("*") if path.is_file()):
        kept = file.read_bytes()
        assert str(run.parent).encode() not in kept and b"a private place" not in kept
    assert sorted(path.name for path in folder.rglob("*.csv")) == ["auroc.csv", "calibration.csv", "subgroups.csv"]


def test_the_hubs_own_reader_accepts_the_front_matter(folder):
    from huggingface_hub import ModelCard

    data = ModelCard.load(folder / "README.md").data
    assert data.license == "apache-2.0" and data.eval_results[0].metric_type == "roc_auc"


def test_subgroups_equal_scikit_learn_on_their_images(run, folder):
    with np.load(run / "evaluation" / "test" / "predictions.npz") as kept:
        logits_NC, labels_NC, images = kept["logits_NC"], kept["labels_NC"], kept["images"]
    table = ImageStore.open(read_json(run / "run.json")["store"]).table.set_index("image").loc[images]
    stored = pd.read_csv(folder / "evaluation" / "subgroups.csv").set_index(["by", "group", "finding"])
    compared = 0
    for by, group, mine in (
        ("sex", "F", table["sex"] == "F"), ("sex", "M", table["sex"] == "M"), ("view", "PA", table["view"] == "PA"),
        ("age", "40 to 59", (table["age"] >= 40) & (table["age"] < 60)), ("age", "60 and over", table["age"] >= 60),
    ):  # fmt: skip
        values = []
        for c, finding in enumerate(FINDINGS):
            label_N = labels_NC[mine.to_numpy(), c]
            row, known = stored.loc[by, group, finding], ~np.isnan(label_N)
            assert (row["positives"], row["negatives"]) == ((label_N == 1).sum(), (label_N == 0).sum())
            if min(row["positives"], row["negatives"]) < 10:
                assert np.isnan(row["auroc"])
                continue
            expected = roc_auc_score(label_N[known], logits_NC[mine.to_numpy(), c][known])
            assert row["auroc"] == pytest.approx(expected, abs=1e-6) and row["low"] <= row["auroc"] <= row["high"]
            values.append(expected)
            compared += 1
        assert stored.loc[by, group, "macro"]["images"] == mine.sum()
    assert compared >= 8
    unknown, rare = stored.loc["sex", "unknown", "macro"], stored.loc["view", "AP", "macro"]
    assert unknown["images"] == table["sex"].isna().sum() > 0 and rare["images"] == (table["view"] == "AP").sum() > 0
    assert np.isnan(unknown["auroc"]) and np.isnan(rare["auroc"])
    assert "Too few to say anything: " in (folder / "README.md").read_text()


def test_macros_of_groups_are_over_the_findings_that_they_share():
    """Finding 2 is too rare in group b: leaving it in group a's mean would compare different things."""
    rng = np.random.default_rng(3)
    n = 300
    groups_N = np.array(["a", "b", "c"])[np.minimum(np.arange(n) // 140, 2)]  # 140, 140, 20
    targets_NC = (rng.random((n, 3)) < 0.4).astype(float)
    targets_NC[140:, 2] = 0
    targets_NC[140:145, 2] = 1
    scores_NC = targets_NC * (0.5, 1.0, 5.0) + rng.normal(size=(n, 3))
    table = publishing.subgroup_aurocs(scores_NC, targets_NC, np.arange(n) // 2, groups_N, ("x", "y", "z"), resamples=30).set_index(["group", "finding"])
    for group, rows in (("a", slice(0, 140)), ("b", slice(140, 280))):
        each = [roc_auc_score(targets_NC[rows, c], scores_NC[rows, c]) for c in range(2)]
        assert table.loc[group, "macro"]["auroc"] == pytest.approx(np.mean(each), abs=1e-12)
        assert table.loc[group, "macro"]["findings"] == 2
    assert table.loc["a", "z"]["auroc"] > 0.95 and np.isnan(table.loc["b", "z"]["auroc"])
    assert table.loc["c"]["auroc"].isna().all() and table.loc["c", "macro"]["findings"] == 0  # and it did not empty the others' list
    with pytest.raises(CxrError, match="do not fit together"):
        publishing.subgroup_aurocs(scores_NC, targets_NC, np.arange(5), groups_N, ("x", "y", "z"))


def copy_of(run: Path, to: Path, *, without: str = "") -> Path:
    """The run's files in another place, but one."""
    for file in run.rglob("*"):
        if file.is_file() and str(file.relative_to(run)) != without:
            (to / file.relative_to(run)).parent.mkdir(parents=True, exist_ok=True)
            (to / file.relative_to(run)).write_bytes(file.read_bytes())
    return to


@pytest.mark.parametrize(
    ("without", "says"),
    [("evaluation/test/auroc.json", "never evaluated on test.*evaluate .* --split test"), ("result.json", "is not finished"), ("best.safetensors", "no best.safetensors yet")],
)  # fmt: skip
def test_a_run_without_scores_is_refused_with_the_command_to_give(run, tmp_path, without, says):
    with pytest.raises(CxrError, match=says):
        publishing.publish(copy_of(run, tmp_path / "run", without=without), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_scores_of_other_weights_another_store_and_a_full_folder_are_refused(run, tmp_path):
    other = copy_of(run, tmp_path / "run")
    torch.manual_seed(5)
    state = read_safetensors(other / "best.safetensors")
    from safetensors.torch import save_file

    save_file(state | {"head.bias": state["head.bias"] + 0.2}, other / "best.safetensors")
    with pytest.raises(CxrError, match="of other weights than its best ones"):
        publishing.publish(other, tmp_path / "out")
    with pytest.raises(CxrError, match="is gone.*--data"):
        publishing.publish(run, tmp_path / "out", data=tmp_path / "nowhere")
    small = prepare(tiny_studies(tmp_path / "raw", n=8), tmp_path / "small", size=32)
    with pytest.raises(CxrError, match="is not the one that the run was trained on"):
        publishing.publish(run, tmp_path / "out", data=small.folder)
    with pytest.raises(CxrError, match="is not empty"):
        publishing.publish(run, tmp_path / "raw")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, CxrError("no space left")])
def test_an_interrupted_publish_leaves_nothing(run, tmp_path, monkeypatch, error):
    def stop(*args, **kwargs):
        assert list(tmp_path.glob(".out.*.part/model.safetensors"))  # the weights are already written
        raise error

    monkeypatch.setattr(hub, "card", stop)
    with pytest.raises((KeyboardInterrupt, CxrError)):
        publishing.publish(run, tmp_path / "out", resamples=5)
    assert not list(tmp_path.iterdir())


def test_loading_is_strict(folder, tmp_path):
    from safetensors.torch import save_file

    broken = copy_of(folder, tmp_path / "broken")
    config, state = read_json(broken / "config.json"), read_safetensors(broken / "model.safetensors")
    save_file(state | {"head.bias": state["head.bias"] + 1}, broken / "model.safetensors")
    with pytest.raises(CxrError, match="was changed"):
        publishing.load(broken)
    for wrong, says in (
        ({name: tensor for name, tensor in state.items() if name != "norm.bias"}, "norm.bias is missing"),
        (state | {"extra": torch.zeros(2)}, "extra is unknown"),
        (state | {"pos_embed": torch.zeros(1, 5, 24)}, "pos_embed is"),  # resampling would hide that
    ):
        save_file(wrong, broken / "model.safetensors")
        write_json(broken / "config.json", config | {"sha256": sha256_of(broken / "model.safetensors")})
        with pytest.raises(CxrError, match=says):
            publishing.load(broken)
    write_json(broken / "config.json", {key: value for key, value in config.items() if key != "patch_size"} | {"sha256": sha256_of(broken / "model.safetensors")})
    with pytest.raises(CxrError, match="lacks 'patch_size'"):
        publishing.load(broken)
    with pytest.raises(CxrError, match="no published model"):
        publishing.load(tmp_path)


def test_a_persons_words_and_a_localization_table_enter_the_card(run, tmp_path):
    mine = copy_of(run, tmp_path / "run")
    rows = [("Class attention", "other half", "macro", 9, measure, 0.25, 0.125, 0.375) for measure in ("iou>0.1", "iou>0.5")]
    columns = ["row", "how", "group", "boxes", "measure", "value", "low", "high"]
    (mine / "localization" / "test").mkdir(parents=True)
    pd.DataFrame(rows, columns=columns).to_csv(mine / "localization" / "test" / "localization.csv", index=False)
    (tmp_path / "words.md").write_text("For teaching in our course.")
    assert cli.main(["publish", str(mine), str(tmp_path / "out"), "--words", str(tmp_path / "words.md"), "--resamples", "5"]) == 0
    text = (tmp_path / "out" / "README.md").read_text()
    assert "For teaching in our course." in text and "Not written yet" not in text
    assert "| Class attention | other half | 0.250 (0.125 to 0.375) | not defined | 0.250 (0.125 to 0.375) |" in text


def test_a_card_with_undefined_scores_says_so(run, tmp_path):
    facts = hub.gather(run, model=load_run(run)[0], resamples=5)
    rows = [row | ({"auroc": None, "low": None, "high": None, "reason": "no image with it"} if row["finding"] == "Hernia" else {}) for row in facts.scored["findings"]]
    empty = {"auroc": None, "low": None, "high": None, "defined": 0}
    text = card_module.card(dataclasses.replace(facts, scored=facts.scored | {"findings": rows, "macro": empty}))
    assert "not defined: no image with it" in text and "Never scored, because the test images do not tell: Hernia." in text
    assert "model-index" not in text and "nan" not in text.lower().replace("finance", "")


def run_json(folder: Path, *, weights: str = "", teacher: str = "", source: str = "phantom", **more) -> Path:
    write_json(folder / "run.json", {"recipe": {"weights": weights, "teacher": teacher}, "data": {"source": source}} | more)
    return folder


def test_licences_are_followed_through_weights_and_teachers_and_never_guessed(tmp_path):
    start = run_json(tmp_path / "start", weights="convnextv2_base.fcmae_ft_in22k_in1k")
    (start / "best.safetensors").write_bytes(b"weights")
    sha = sha256_of(start / "best.safetensors")
    assert [origin.licence for origin in origins_of(start)] == ["cc-by-nc-4.0"]
    tuned = run_json(tmp_path / "tuned", weights=str(start / "best.safetensors"), weights_sha256=sha, source="nih")
    parts = {origin.part: origin for origin in origins_of(tuned)}
    assert parts["start weights of the start weights"].licence == "cc-by-nc-4.0" and parts["data of the start weights"].name == "phantom"
    assert licence_for("nih", origins_of(tuned)).licence == "cc-by-nc-4.0"
    # The same through a teacher's logits.
    meta = {"teacher": {"name": "convnextv2_base"}, "sha256": "ab", "origins": [list(origin) for origin in teacher_origins(start)]}
    write_json(tmp_path / "logits" / "logits.json", meta)
    student = run_json(tmp_path / "student", teacher=str(tmp_path / "logits"), teacher_sha256="ab")
    verdict = licence_for("phantom", origins_of(student))
    assert verdict.licence == "cc-by-nc-4.0" and "start weights of the teacher (convnextv2_base)" in verdict.why
    # What cannot be read is unknown: other logits by now, logits of an older version, a file that lies around, a name unknown to timm.
    for unknown in (
        run_json(tmp_path / "s2", teacher=str(tmp_path / "logits"), teacher_sha256="cd"),
        run_json(tmp_path / "s3", teacher=str(tmp_path / "no such folder")),
        run_json(tmp_path / "s4", weights=str(start / "best.safetensors"), weights_sha256="00"),
        run_json(tmp_path / "s5", weights="no_such_model.at_all"),
    ):
        assert [origin.licence for origin in origins_of(unknown)] == [UNKNOWN]
        assert str(tmp_path) not in origins_of(unknown)[0].name and licence_for("nih", origins_of(unknown)).name == UNKNOWN
    assert licence_for("nih", [Origin("start weights", "vit_small_patch16_224.dino", "apache-2.0")]).licence == "apache-2.0"
    assert licence_for("chexpert", []).name == "non-commercial-research" and licence_for("elsewhere", []).name == UNKNOWN


@pytest.mark.parametrize(
    "words",
    ["mu --epochs 3 --seed 4", "mu --model clarity --loss proximity=0 --option segment_cam=false", "clarity_cpu --lr 0.001 --loss area=0.5",
     "lt_cpu --findings Mass,Hernia --option n2=3 --option label_attention=none", "cpu --weights vit_small_patch16_224.dino"],
)  # fmt: skip
def test_the_cards_command_trains_the_same_recipe(words, monkeypatch):
    def recipe_of(line: str):
        parser = argparse.ArgumentParser()
        train_cli.add_parser(parser.add_subparsers())
        caught = []
        monkeypatch.setattr("cxrlib.training.train", lambda recipe, *args, **kwargs: caught.append(recipe) or {})
        train_cli.run(parser.parse_args(line.split()))
        return caught[0]

    recipe = recipe_of(f"train {words} --data S --out R")
    said = command_of(recipe)
    assert recipe_of(said.removeprefix("python -m cxrlib ")) == recipe and "config.json" not in said
    assert "with other drop_path: see config.json" in command_of(dataclasses.replace(recipe, drop_path=0.3))


KINDS = {
    "lt_vit": ("lt_vit", {"label_attention": "self"}, True),
    "clarity": ("clarity", {"mean_over": "foreground"}, True),
    "timm": ("timm", {"name": "test_convnext"}, False),
}


def random_model(kind: str, options: dict, **sizes) -> torch.nn.Module:
    """A model whose logits depend on the image."""
    torch.manual_seed(0)
    model = build_model(kind, options, drop_path=0.1, **sizes).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and ("head" in name or "classify" in name):
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def export_and_compare(model: torch.nn.Module, out: Path, *, size: int, maps: bool, batch: int) -> dict[str, str]:
    """Exports, runs a batch of another size than any that was tried, compares with torch; the file's metadata."""
    onnxruntime = pytest.importorskip("onnxruntime")
    seen = Preprocessing(size, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    made = export(model, out, findings=tuple("abcde"), preprocessing=seen, maps=maps)
    assert made.difference <= TOLERANCE and made.outputs == ("logits", "maps")[: 1 + maps]
    session = onnxruntime.InferenceSession(made.path, providers=["CPUExecutionProvider"])
    img_BYX = torch.randint(0, 256, (batch, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    given = session.run(None, {"images": img_BYX.numpy()})
    with torch.inference_mode():
        expected_BC = model(seen(img_BYX)).logits_BC
        assert expected_BC.std(dim=0).min() > 1e-3  # the images are told apart
        np.testing.assert_allclose(given[0], expected_BC, atol=TOLERANCE, rtol=0)
        if maps:
            looked = model.maps(seen(img_BYX))
            np.testing.assert_allclose(given[1], looked if torch.is_tensor(looked) else looked.fused_BCyx, atol=TOLERANCE, rtol=0)
    assert session.get_inputs()[0].shape == ["batch", size, size]
    return session.get_modelmeta().custom_metadata_map


@pytest.mark.parametrize("name", KINDS)
def test_onnx_says_what_torch_says_whatever_the_batch(name, tmp_path):
    kind, options, maps = KINDS[name]
    model = random_model(kind, options, image_size=32, patch_size=8, in_channels=3, num_classes=5, width=24, depth=2, heads=3)
    facts = export_and_compare(model, tmp_path / "m.onnx", size=32, maps=maps, batch=7)
    assert facts["findings"] == '["a", "b", "c", "d", "e"]' and "/ 255" in facts["preprocessing"]


def test_a_vit_of_full_size_exports(tmp_path):
    model = random_model("vit", {}, image_size=224, patch_size=16, in_channels=3, num_classes=5, width=384, depth=12, heads=6)
    export_and_compare(model, tmp_path / "m.onnx", size=224, maps=False, batch=2)
    assert (tmp_path / "m.onnx").stat().st_size > 80e6


def test_a_file_that_differs_is_not_kept(folder, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    model, findings, preprocessing = publishing.load(folder)
    real = export_module._to_onnx

    def other(wrapped, *args):
        proto = real(wrapped, *args)
        wrapped.model.head.bias.data += 3 * TOLERANCE
        return proto

    monkeypatch.setattr(export_module, "_to_onnx", other)
    with pytest.raises(CxrError, match="differs from torch by 3.0e-04.*nothing was written"):
        export(model, tmp_path / "m.onnx", findings=findings, preprocessing=preprocessing)
    assert not list(tmp_path.iterdir())


def test_export_from_the_command_line(run, folder, tmp_path, capsys, monkeypatch):
    pytest.importorskip("onnxruntime")
    assert cli.main(["export", str(run), str(tmp_path / "m.onnx")]) == 0
    assert "largest difference from torch, batches of 1 and 3: " in capsys.readouterr().out
    for words, says in (
        ([str(folder), str(tmp_path / "m.onnx"), "--maps"], "no map of its own"),
        ([str(folder), str(tmp_path / "m.bin")], "does not end in .onnx"),
        ([str(tmp_path), str(tmp_path / "n.onnx")], "is no run folder"),
    ):
        assert cli.main(["export", *words]) == 2 and says in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert cli.main(["export", str(folder), str(tmp_path / "n.onnx")]) == 2
    assert "pip install 'cxrlib[export]'" in capsys.readouterr().err and not (tmp_path / "n.onnx").exists()
