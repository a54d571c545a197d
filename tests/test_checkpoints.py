"""Small checkpoints: what they say of themselves is true, and the smallest can be trained again."""

import dataclasses

import pytest
import torch
from tiny_store import tiny_store

import cxrlib  # noqa: F401  (before timm: see cxrlib._compat)
from cxrlib import checkpoints, cli, recipes
from cxrlib.errors import CxrError
from cxrlib.io import read_json, write_json
from cxrlib.models.weights import read_safetensors
from cxrlib.recipes import Recipe


def test_every_checkpoint_loads_and_says_what_made_it():
    assert "clarity_phantom" in checkpoints.names() and "clarity_mu" in checkpoints.names()
    for name in checkpoints.names():
        made = checkpoints.about(name)
        model, recipe, findings = checkpoints.load(name)
        assert not model.training and len(findings) == len(made["findings"]) and recipe.seed == made["seed"]
        img_BIYX = torch.rand(2, len(recipe.mean), recipe.image_size, recipe.image_size)
        with torch.no_grad():
            assert model(img_BIYX).logits_BC.shape == (2, len(findings))
        assert made["command"].startswith("python -m cxrlib ") and len(made["data"]["sha256"]) == 64
        assert 0 <= made["test_macro_auroc"]["auroc"] <= 1
        assert (checkpoints.folder() / name / "model.safetensors").stat().st_size < checkpoints.LARGEST
        text = (checkpoints.folder() / name / "checkpoint.json").read_text()
        assert "/tmp" not in text and "/home" not in text and "/work" not in text


def test_the_smallest_is_what_its_command_gives(tmp_path):
    """The same phantoms, the same command: the same weights, but for rounding that differs between processors."""
    made = checkpoints.about("clarity_mu")
    cohort, store, run = (str(tmp_path / name) for name in ("COHORT", "STORE", "RUN"))
    for line in made["command"].split(" && "):
        words = [{"COHORT": cohort, "STORE": store, "RUN": run}.get(word, word) for word in line.split()[3:]]
        assert cli.main(words) == 0
    assert read_json(f"{store}/store.json")["source"] == "phantom"
    again = read_json(f"{run}/run.json")
    assert again["data"]["sha256"] == made["data"]["sha256"]
    assert Recipe.from_json(again["recipe"]) == Recipe.from_json(made["recipe"])
    ours, theirs = read_safetensors(f"{run}/best.safetensors"), read_safetensors(checkpoints.folder() / "clarity_mu" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-3, rtol=1e-3, msg=name)
    start = recipes.get("mu")
    torch.manual_seed(made["seed"])
    untrained = dataclasses.replace(start, model="clarity").build(len(made["findings"])).state_dict()
    assert any((ours[name] - untrained[name]).abs().max() > 0.01 for name in ours)  # the tolerance tells trained from untrained


def test_export_wants_a_finished_and_scored_run(tmp_path):
    store = tiny_store(tmp_path)
    run = tmp_path / "run"
    assert cli.main(["train", "mu", "--data", str(store.folder), "--out", str(run), "--epochs", "1", "--device", "cpu"]) == 0
    with pytest.raises(CxrError, match="evaluate it"):
        checkpoints.export(run, "mine", command="python -m cxrlib train mu", out=tmp_path)
    assert cli.main(["evaluate", str(run), "--split", "test"]) == 0
    target = checkpoints.export(run, "mine", command="python -m cxrlib train mu", out=tmp_path)
    made = read_json(target / "checkpoint.json")
    assert made["test_macro_auroc"] == read_json(run / "evaluation" / "test" / "auroc.json")["macro"]


def test_a_changed_file_or_another_name_is_refused(tmp_path, monkeypatch):
    with pytest.raises(CxrError, match="no checkpoint 'clarity_moo': there are .*clarity_mu"):
        checkpoints.load("clarity_moo")
    made = checkpoints.about("clarity_mu")
    write_json(tmp_path / "clarity_mu" / "checkpoint.json", made)
    (tmp_path / "clarity_mu" / "model.safetensors").write_bytes(b"0")
    monkeypatch.setattr(checkpoints, "folder", lambda: tmp_path)
    with pytest.raises(CxrError, match="was changed"):
        checkpoints.load("clarity_mu")
