"""Scoring a run: the table's numbers, what is undefined, and the files."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score
from tiny_store import FINDINGS, tiny_store

from cxrlib import cli, evaluation, recipes
from cxrlib.data import ImageStore
from cxrlib.errors import CxrError
from cxrlib.evaluation import SYNTHETIC, evaluate
from cxrlib.predict import predict
from cxrlib.training import train


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("evaluated")
    store = tiny_store(folder, source="phantom")
    train(dataclasses.replace(recipes.mu(), epochs=1), store.folder, folder / "run", device="cpu")
    return folder / "run"


@pytest.fixture(scope="module")
def scored(run):
    return evaluate(run, resamples=50)


def test_every_auroc_equals_scikit_learn_on_the_test_images(run, scored):
    store = ImageStore.open(run.parent / "store")
    rows = np.flatnonzero(store.table["split"] == "test")
    assert list(scored.images) == list(store.table["image"].iloc[rows])
    expected = []
    for c in range(len(FINDINGS)):
        known = ~np.isnan(store.labels_NC[rows, c])
        expected.append(roc_auc_score(store.labels_NC[rows, c][known], scored.logits_NC[known, c]))
    np.testing.assert_allclose(scored.table["auroc"], expected, atol=1e-12)
    assert scored.macro[0] == pytest.approx(np.mean(expected), abs=1e-12)
    assert (scored.table["low"] <= scored.table["auroc"]).all() and (scored.table["auroc"] <= scored.table["high"]).all()


def test_predictions_do_not_depend_on_the_batch_and_leave_the_model_in_its_mode(run):
    store = ImageStore.open(run.parent / "store")
    recipe = recipes.mu()
    torch.manual_seed(0)
    model = recipe.build(3).train()  # drop path is on in training mode: predictions must not see it
    torch.nn.init.normal_(model.head.weight)
    one = predict(model, store.images_NYX, np.array([5, 2, 9]), recipe=recipe, batch=1)
    all_at_once = predict(model, store.images_NYX, np.array([5, 2, 9]), recipe=recipe)
    assert model.training and one.shape == (3, 3)
    np.testing.assert_allclose(one, all_at_once, atol=1e-5)
    assert np.ptp(one, axis=0).min() > 0


def test_the_files_agree_with_one_another(run, scored):
    out = run / "evaluation" / "test"
    assert cli.main(["evaluate", str(run), "--resamples", "50"]) == 0
    table = pd.read_csv(out / "auroc.csv")
    np.testing.assert_allclose(table["auroc"], scored.table["auroc"], atol=1e-6)
    stored = json.loads((out / "auroc.json").read_text())
    assert stored["macro"]["auroc"] == scored.macro[0] and stored["data"]["source"] == "phantom"
    arrays = np.load(out / "predictions.npz", allow_pickle=False)
    np.testing.assert_array_equal(arrays["logits_NC"], scored.logits_NC)
    csv = pd.read_csv(out / "predictions.csv", dtype={"image": str, "patient": str})
    np.testing.assert_allclose(csv[list(FINDINGS)], 1 / (1 + np.exp(-scored.logits_NC)), rtol=1e-4)
    np.testing.assert_array_equal(csv["label Mass"].isna(), np.isnan(scored.labels_NC[:, 0]))
    assert (out / "auroc.png").read_bytes().startswith(b"\x89PNG")
    text = (out / "auroc.txt").read_text()
    assert text.startswith(SYNTHETIC) and f"{scored.macro[0]:.3f}" in text


def test_an_undefined_finding_is_a_dash_with_its_reason_and_the_macro_says_over_how_many(run):
    store = ImageStore.open(run.parent / "store")
    labels_NC = np.array(store.labels_NC[:40])
    labels_NC[:, 0], labels_NC[:, 1] = 0, np.nan
    logits_NC = np.random.default_rng(0).normal(size=(40, 3))
    table, macro = evaluation.score(logits_NC, labels_NC, store.patients[:40], FINDINGS, resamples=20)
    assert list(table["auroc"].isna()) == [True, True, False]
    assert list(table["reason"]) == ["no image with it", "no image with a known label", ""]
    made = evaluation.Evaluation(
        table, macro, 1, ("header",), tuple(store.table["image"][:40]), tuple(store.patients[:40]), logits_NC, labels_NC, {}
    )
    text = evaluation.as_text(made)
    assert "–  undefined: no image with it" in text and "macro over 1 of 3" in text
    assert macro[0] == pytest.approx(table["auroc"][2])
    words = [label.get_text() for label in evaluation.draw(made).axes[0].texts]
    assert "undefined: no image with it" in words
    nothing = dataclasses.replace(
        made, table=table.assign(auroc=np.nan, low=np.nan, high=np.nan), macro=(np.nan,) * 3, defined=0
    )
    assert "macro over 0 of 3" in evaluation.as_text(nothing)
    evaluation.draw(nothing)


def test_the_picture_names_every_finding_with_its_positives(scored):
    axes = evaluation.draw(scored).axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[0] == f"Mass  (n = {int(np.nansum(scored.labels_NC[:, 0]))})"
    assert labels[-1] == "Macro over 3 of 3"
    assert SYNTHETIC in axes.get_title(loc="left")


def test_the_validation_split_is_the_run_s_own(run):
    held = set(pd.read_csv(run / "validation.csv", dtype=str)["image"])
    assert set(evaluate(run, split="validation", resamples=5).images) == held


def test_scores_of_another_store_say_so_and_lie_apart(run, tmp_path, monkeypatch):
    other = tiny_store(tmp_path / "other", n=100, seed=3)
    monkeypatch.chdir(other.folder)  # "." has no name of its own
    assert cli.main(["evaluate", str(run), "--data", ".", "--resamples", "5"]) == 0
    stored = json.loads((run / "evaluation" / f"test-store-{other.sha256[:8]}" / "auroc.json").read_text())
    assert stored["data"]["sha256"] == other.sha256 and stored["data"]["images"] == 100
    assert stored["trained_on"] == json.loads((run / "run.json").read_text())["data"] != stored["data"]
    folders = set((run / "evaluation").iterdir())
    assert cli.main(["evaluate", str(run), "--data", str(run.parent / "store"), "--resamples", "5"]) == 0
    assert set((run / "evaluation").iterdir()) <= folders | {run / "evaluation" / "test"}  # the run's own store, by name


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused(run):
    with pytest.raises(CxrError, match="no CUDA device"):
        evaluate(run, device="cuda", resamples=5)


def test_evaluation_refuses_what_does_not_fit(run, tmp_path):
    with pytest.raises(CxrError, match="no run folder"):
        evaluate(tmp_path)
    with pytest.raises(CxrError, match="24 px, the run reads 32 px"):
        evaluate(run, data=tiny_store(tmp_path / "small", n=24, size=24).folder)
    other = evaluate(run, data=tiny_store(tmp_path / "other", seed=3).folder, resamples=5)
    assert any("not from the store" in line for line in other.header) and SYNTHETIC not in other.header
