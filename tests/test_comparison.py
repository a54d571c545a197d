"""Comparisons: rows and seeds are trained once, scores are paired by patient, and the table says what the runs say."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from tiny_store import tiny_store

from cxrlib import cli, comparison, comparisons, recipes
from cxrlib.comparisons import COMPARISONS, Comparison, Row
from cxrlib.errors import CxrError
from cxrlib.io import sha256_of
from cxrlib.metrics import auroc, macro
from cxrlib.models.weights import load_encoder
from cxrlib.pretraining.recipes import get

MU = dataclasses.replace(recipes.mu(), epochs=1)
PAIR = Comparison(
    "pair", "Two tiny models", "Which is better?",
    (Row("vit", "[CLS] ViT", MU), Row("lt_vit", "LT-ViT", dataclasses.replace(MU, model="lt_vit"))),
    "vit", ("python -m cxrlib compare pair --data STORE --out FOLDER",),
)  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tiny_store(tmp_path_factory.mktemp("data")).folder


@pytest.fixture(scope="module")
def out(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    for seed in (0, 1):
        for row in PAIR.rows:
            comparison.train_row(row, seed, data=store, out=folder, device="cpu")
    return folder


def test_the_table_holds_what_the_predictions_say(out):
    result = comparison.gather(PAIR, out, (0, 1))
    for row in result["rows"]:
        for seed, value in zip((0, 1), row["macro_by_seed"]):
            with np.load(out / "runs" / f"{row['row']}-seed{seed}" / "evaluation" / "test" / "predictions.npz") as file:
                assert value == pytest.approx(macro(auroc(file["logits_NC"], file["labels_NC"]))[0], abs=1e-12)
        assert row["macro"] == pytest.approx(np.mean(row["macro_by_seed"]))
        assert row["low"] < row["macro"] < row["high"]
    first, second = result["rows"]
    assert (first["difference"], first["difference_low"], first["difference_high"]) == (0, 0, 0)
    assert second["difference"] == pytest.approx(second["macro"] - first["macro"])
    assert second["difference_low"] < second["difference"] < second["difference_high"]
    assert second["parameters"] > 0 and second["macs"] > first["macs"]


def test_resamples_are_paired_and_averaged_over_seeds(out, tmp_path):
    """A row against itself differs by nothing in every resample; two seeds' resamples are their mean."""
    paths = [comparison.run_folder(out, PAIR.rows[0], seed) / "evaluation" / "test" / "predictions.npz" for seed in (0, 1)]
    both, again = comparison.score_row(paths, resamples=50), comparison.score_row(paths, resamples=50)
    assert np.array_equal(both.samples_R, again.samples_R)
    other = comparison.run_folder(out, PAIR.rows[1], 0) / "evaluation" / "test" / "predictions.npz"
    with np.load(paths[0]) as ours, np.load(other) as theirs:
        # Another row's scores on the same patients: the r-th resample of either holds the same patients, so a row that copies
        # the reference's scores differs from it by nothing.
        twin = dict(theirs) | {"logits_NC": ours["logits_NC"]}
    np.savez(tmp_path / "twin.npz", **twin)
    assert np.array_equal(comparison.score_row([tmp_path / "twin.npz"], resamples=50).samples_R,
                          comparison.score_row([paths[0]], resamples=50).samples_R)  # fmt: skip
    one, two = (comparison.score_row([path], resamples=50).samples_R for path in paths)
    np.testing.assert_allclose(both.samples_R, (one + two) / 2)
    assert np.std(one) > 0


def test_finished_rows_are_not_trained_again(out, store, capsys):
    row = PAIR.rows[0]
    before = (comparison.run_folder(out, row, 0) / "result.json").stat().st_mtime_ns
    comparison.train_row(row, 0, data=store, out=out, device="cpu")
    assert "nothing to do" in capsys.readouterr().out
    assert (comparison.run_folder(out, row, 0) / "result.json").stat().st_mtime_ns == before


def test_a_scoring_that_was_killed_half_way_is_done_again(out, store):
    row = PAIR.rows[0]
    last = comparison.run_folder(out, row, 0) / "evaluation" / "test" / "auroc.json"  # the file that is written last
    last.unlink()
    comparison.train_row(row, 0, data=store, out=out, device="cpu")
    assert last.exists() and comparison.gather(PAIR, out, (0, 1))["commits"]


def test_a_row_may_go_on_from_another_row_of_the_same_seed(out, store, tmp_path):
    row = PAIR.rows[0]
    further = dataclasses.replace(row, name="further", start=f"run:{row.name}")
    for seed in (0, 1):
        weights = comparison.started(further.start, seed, data=store, out=out, device="cpu")
        assert weights == comparison.run_folder(out, row, seed) / "best.safetensors" and weights.exists()
    shutil.copytree(out / "runs", tmp_path / "runs")
    comparison.train_row(further, 1, data=store, out=tmp_path, device="cpu")
    assert json.loads((comparison.run_folder(tmp_path, further, 1) / "run.json").read_text())["weights_sha256"] == sha256_of(weights)
    with pytest.raises(CxrError, match="vit-seed7 is not finished: run the comparison that trains vit with the same --out first"):
        comparison.train_row(further, 7, data=store, out=out, device="cpu")
    with pytest.raises(CxrError, match="vit-seed1 was trained on other images than .*: prepare both stores from one cohort"):
        comparison.train_row(further, 1, data=tiny_store(tmp_path / "other", n=50).folder, out=tmp_path, device="cpu")


def test_a_row_that_was_not_scored_is_named(out, tmp_path):
    with pytest.raises(CxrError, match="vit-seed7 was not scored yet"):
        comparison.gather(PAIR, out, (0, 7))


def test_rows_scored_on_other_images_are_refused(out, tmp_path):
    shutil.copytree(out, tmp_path / "pair")
    path = tmp_path / "pair" / "runs" / "lt_vit-seed1" / "evaluation" / "test" / "predictions.npz"
    with np.load(path) as file:
        arrays = dict(file)
    arrays["images"] = arrays["images"][::-1]
    np.savez(path, **arrays)
    with pytest.raises(CxrError, match="other images"):
        comparison.gather(PAIR, tmp_path / "pair", (0, 1))


def test_the_command_trains_and_writes_the_table(store, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(COMPARISONS, "pair", lambda: PAIR)
    assert cli.main(["compare", "pair", "--data", str(store), "--out", str(tmp_path), "--seeds", "3", "--device", "cpu"]) == 0
    text = (tmp_path / "pair" / "table.txt").read_text()
    assert text in capsys.readouterr().out and "LT-ViT" in text and "reference" in text
    assert json.loads((tmp_path / "pair" / "comparison.json").read_text())["seeds"] == [3]


@pytest.mark.parametrize("words,fault", [(["--seeds", "a"], "whole numbers"), (["--rows", "vit,none"], "no row 'none'")])
def test_wrong_words_get_one_clear_line(words, fault, store, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(COMPARISONS, "pair", lambda: PAIR)
    assert cli.main(["compare", "pair", "--data", str(store), "--out", str(tmp_path), *words]) == 2
    assert fault in capsys.readouterr().err


@pytest.mark.parametrize("name", list(COMPARISONS))
def test_every_comparison_is_sound(name):
    made = COMPARISONS[name]()
    names = [row.name for row in made.rows]
    assert made.name == name and len(set(names)) == len(names) and made.reference in names
    for row in made.rows:
        model = row.recipe.build(14)
        method, _, start = row.start.partition(":")
        if method == "run":  # the weights must fit the row, which would otherwise show only after the run before it
            (before,) = [other for make in COMPARISONS.values() for other in make().rows if other.name == start]
            assert load_encoder(model, before.recipe.build(14).state_dict(), source=start) == set()
        elif row.start:  # and so must an encoder
            fresh = load_encoder(model, get(method, start).build().state_dict(), source=start)
            assert "head.weight" in fresh
    assert any(f"compare {name} " in command for command in made.commands)


def test_rows_of_one_name_are_the_same_run_everywhere():
    seen = {}
    for make in COMPARISONS.values():
        for row in make().rows:
            known = seen.setdefault(row.name, (row.recipe, row.start))
            assert known == (row.recipe, row.start), f"{row.name} means two things"
    assert len(seen) > 10 and comparisons.rivals()[0].name == "vit"
