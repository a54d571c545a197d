"""Results gathered over seeds: means, provenance, and no trace of the machine."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_store import tiny_store

from cxrlib import cli, recipes, results
from cxrlib.training import train


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("gathered")
    store = tiny_store(folder, source="phantom").folder
    for seed in (0, 1):
        train(dataclasses.replace(recipes.mu(), seed=seed, epochs=1), store, folder / f"run{seed}", device="cpu")
        assert cli.main(["evaluate", str(folder / f"run{seed}"), "--resamples", "20"]) == 0
    return [folder / "run0", folder / "run1"]


def test_seeds_are_averaged_and_the_table_says_how_many(runs, tmp_path, capsys):
    words = ["--title", "A table", "--command", "python -m cxrlib train mu --data STORE --out RUN"]
    assert results.main([str(tmp_path / "out"), *map(str, runs), *words]) == 0
    text = (tmp_path / "out" / "table.txt").read_text()
    stored = json.loads((tmp_path / "out" / "result.json").read_text())
    macros = [json.loads((run / "evaluation/test/auroc.json").read_text())["macro"]["auroc"] for run in runs]
    assert stored["over_seeds"]["macro_mean"] == pytest.approx(np.mean(macros)) and stored["seeds"] == [0, 1]
    assert "mean of 2 seeds" in text and f"{np.mean(macros):.3f}" in text and "synthetic images" in text
    everything = text + json.dumps(stored)
    assert str(runs[0].parent) not in everything and "/tmp" not in everything
    assert len(stored["data"]["sha256"]) == 64 and stored["runs"][1]["threads"] == 1


def test_runs_that_differ_in_more_than_the_seed_are_not_averaged(runs, tmp_path, capsys):
    assert results.main([str(tmp_path / "out"), str(runs[0]), str(runs[0]), "--title", "x"]) == 2
    assert "seeds [0, 0]" in capsys.readouterr().err
    other = tmp_path / "other"
    train(dataclasses.replace(recipes.mu(), seed=2, epochs=1, lr=1e-4), runs[0].parent / "store", other, device="cpu")
    cli.main(["evaluate", str(other), "--resamples", "20"])
    assert results.main([str(tmp_path / "out"), str(runs[0]), str(other), "--title", "x"]) == 2
    assert "more than the seed" in capsys.readouterr().err


def changed(file: Path, **fields) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def test_runs_from_other_weights_are_not_averaged(runs, tmp_path, capsys):
    """The name of a weights file stays the same when its contents change."""
    copies = [Path(shutil.copytree(run, tmp_path / run.name)) for run in runs]
    for run, digest in zip(copies, "ab"):
        changed(run / "run.json", weights_sha256=digest * 64)
    assert results.main([str(tmp_path / "out"), *map(str, copies), "--title", "x"]) == 2
    assert "more than the seed" in capsys.readouterr().err
    changed(copies[1] / "run.json", weights_sha256="a" * 64)
    assert results.main([str(tmp_path / "out"), *map(str, copies), "--title", "x"]) == 0


def test_a_run_without_a_macro_is_refused_in_one_line(runs, tmp_path, capsys):
    copy = Path(shutil.copytree(runs[0], tmp_path / "run"))
    none = {"auroc": None, "low": None, "high": None, "defined": 0}
    changed(copy / "evaluation/test/auroc.json", macro=none)
    assert results.main([str(tmp_path / "out"), str(copy), "--title", "x"]) == 2
    said = capsys.readouterr().err
    assert "no macro AUROC on the test split" in said and said.count("\n") == 1
