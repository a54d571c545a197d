"""Whole runs of the mu recipe: learning, resuming, refusing."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from same_bits import assert_same_tensors
from tiny_store import FINDINGS, tiny_store

from cxrlib import recipes
from cxrlib.data.augment import Ranges
from cxrlib.errors import CxrError
from cxrlib.training import loop, objectives, train
from cxrlib.training.checkpoint import read_tensors
from cxrlib.training.setup import setup

MU = dataclasses.replace(recipes.mu(), epochs=3)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return tiny_store(tmp_path_factory.mktemp("data")).folder


@pytest.fixture(scope="module")
def whole(store, tmp_path_factory) -> Path:
    """A run of MU that nothing interrupted."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("runs") / "whole"
    train(MU, store, out, device="cpu")
    return out


CLOCK = ("seconds", "time", "images_per_s", "data_wait", "mfu")  # no two runs take the same time


def events(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    curve = [line for line in lines if line["event"] not in ("start", "stop")]  # who worked on it, and when, may differ
    return [{key: value for key, value in line.items() if key not in CLOCK} for line in curve]


def assert_same_run(a: Path, b: Path) -> None:
    """Weights, averaged weights, optimizer state, best weights, log: all bitwise equal."""
    assert_same_tensors(a, b)
    assert events(a) == events(b)


def test_a_run_learns_what_is_there_to_learn(store, tmp_path):
    """Training beats chance by far on squares that any model should find; on shuffled labels it could not."""
    recipe = dataclasses.replace(MU, epochs=40, lr=5e-3, ema=0.8, ranges=Ranges(), patience=40)
    result = train(recipe, store, tmp_path / "run", device="cpu")
    assert result["best_macro_auroc"] > 0.9
    losses = [line["loss"] for line in events(tmp_path / "run")  if line["event"] == "epoch"]
    assert losses[-1] < 0.6 * losses[0]


def test_the_run_folder_says_what_made_it(whole, store):
    made = json.loads((whole / "run.json").read_text())
    meta = json.loads((store / "store.json").read_text())
    assert made["recipe"]["name"] == "mu" and made["recipe"]["seed"] == 0
    assert made["data"]["sha256"] == meta["sha256"] and made["data"]["findings"] == list(FINDINGS)
    assert made["versions"]["torch"] == torch.__version__ and "commit" in made
    held = {line.split(",")[1] for line in (whole / "validation.csv").read_text().splitlines()[1:]}
    assert held
    result = json.loads((whole / "result.json").read_text())
    assert result["epochs"] == 3 and result["steps"] == events(whole)[-1]["step"]


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(whole, store, tmp_path):
    train(MU, store, tmp_path / "again", device="cpu")
    assert_same_run(whole, tmp_path / "again")
    train(dataclasses.replace(MU, seed=1), store, tmp_path / "other", device="cpu")
    with pytest.raises(AssertionError):
        assert_same_run(whole, tmp_path / "other")


@pytest.mark.parametrize("stop", [1, 3, 4, 7])
def test_a_run_that_dies_at_any_step_goes_on_to_the_same_bits(whole, store, tmp_path, monkeypatch, stop):
    """Four steps make an epoch: the stops are before any checkpoint, in mid-epoch, at an epoch's last step, and later."""
    real, calls = loop.train_step, 0

    def dies(*args, **options):
        nonlocal calls
        if calls == stop:
            raise RuntimeError("power cut")
        calls += 1
        return real(*args, **options)

    monkeypatch.setattr(loop, "train_step", dies)
    with pytest.raises(RuntimeError, match="power cut"):
        train(MU, store, tmp_path / "run", device="cpu", checkpoint_steps=2)
    monkeypatch.setattr(loop, "train_step", real)
    torch.rand(17)  # whatever the global generator did in between must not matter
    train(MU, store, tmp_path / "run", device="cpu", checkpoint_steps=2)
    assert_same_run(whole, tmp_path / "run")


def test_a_death_between_the_last_step_and_the_validation_repeats_the_validation(whole, store, tmp_path, monkeypatch):
    real = loop.validate
    monkeypatch.setattr(loop, "validate", lambda run: (_ for _ in ()).throw(RuntimeError("power cut")))
    with pytest.raises(RuntimeError, match="power cut"):
        train(MU, store, tmp_path / "run", device="cpu", checkpoint_steps=1)
    monkeypatch.setattr(loop, "validate", real)
    train(MU, store, tmp_path / "run", device="cpu")
    assert_same_run(whole, tmp_path / "run")


def command(recipe: recipes.Recipe, store: Path, out: Path, *extra: str) -> list[str]:
    words = [sys.executable, "-m", "cxrlib", "train", recipe.name, "--data", str(store), "--out", str(out)]
    return [*words, "--epochs", str(recipe.epochs), "--device", "cpu", *extra]


ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_goes_on_to_the_same_bits(store, tmp_path, how):
    recipe = dataclasses.replace(MU, epochs=20)
    run = tmp_path / "killed"
    process = subprocess.Popen(
        command(recipe, store, run, "--checkpoint-steps", "1"), env=ONE_THREAD, stdout=subprocess.PIPE, text=True
    )
    while not (run / "last.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(float(np.random.default_rng().uniform(0, 0.4)))  # any step will do: a seed would test one for ever
    process.send_signal(how)
    said = process.communicate()[0]
    assert not (run / "result.json").exists(), "the run was over before the signal came: give it more epochs"
    if how == signal.SIGTERM:
        assert process.returncode == 128 + signal.SIGTERM
        assert "the same command goes on from here" in said
    else:
        assert process.returncode == -signal.SIGKILL
    again = subprocess.run(command(recipe, store, run), env=ONE_THREAD, capture_output=True, text=True)
    assert again.returncode == 0 and "going on with" in again.stdout, again.stderr
    torch.set_num_threads(1)
    train(recipe, store, tmp_path / "whole", device="cpu")
    assert_same_run(tmp_path / "whole", run)
    assert not list(run.glob(".*.part"))


def test_a_finished_run_says_so_and_changes_nothing(whole, store, capsys):
    before = {path.name: path.read_bytes() for path in whole.iterdir() if path.is_file()}
    train(MU, store, whole, device="cpu")
    assert "is finished" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in whole.iterdir() if path.is_file()} == before


def test_another_recipe_or_other_data_are_refused(whole, store, tmp_path):
    with pytest.raises(CxrError, match="recipe batch = 16, now it is 8"):
        train(dataclasses.replace(MU, batch=8), store, whole, device="cpu")
    other = tiny_store(tmp_path / "other", seed=5).folder
    with pytest.raises(CxrError, match="data sha256"):
        train(MU, other, whole, device="cpu")
    with pytest.raises(CxrError, match="32 px, the recipe cpu reads 96 px.*--size 96"):
        train(recipes.cpu(), store, tmp_path / "run", device="cpu")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(CxrError, match="not empty and holds no run"):
        train(MU, store, tmp_path / "full", device="cpu")


def test_a_loss_that_is_not_a_number_stops_the_run_and_spares_the_last_good_state(store, tmp_path, monkeypatch):
    real, calls = objectives.masked_bce, 0

    def poisoned(*args, **options):
        nonlocal calls
        calls += 1
        return real(*args, **options) * (float("nan") if calls == 6 else 1.0)

    monkeypatch.setattr(objectives, "masked_bce", poisoned)
    with pytest.raises(CxrError, match="the loss is nan .* at step 6, .*last good state"):
        train(MU, store, tmp_path / "run", device="cpu", checkpoint_steps=1)
    tensors, progress = read_tensors(tmp_path / "run" / "last.safetensors")
    assert progress["step"] == 5 and all(torch.isfinite(value).all() for value in tensors.values())


def test_early_stopping_stops_after_the_patience_and_a_resumed_run_agrees(store, tmp_path, monkeypatch):
    recipe, real = dataclasses.replace(MU, epochs=6, patience=2), loop.end_epoch
    scores = [0.6, 0.7, 0.7, 0.65, 0.6, 0.9]
    monkeypatch.setattr(loop, "validate", lambda run: (scores[run.progress.epoch], 3))
    result = train(recipe, store, tmp_path / "run", device="cpu")
    assert (result["best_epoch"], result["epochs"], result["stopped_early"]) == (2, 4, True)

    def dies(run, seconds):  # in the epoch that uses up the patience
        if run.progress.epoch == 3:
            raise RuntimeError("power cut")
        real(run, seconds)

    monkeypatch.setattr(loop, "end_epoch", dies)
    with pytest.raises(RuntimeError, match="power cut"):
        train(recipe, store, tmp_path / "resumed", device="cpu")
    monkeypatch.setattr(loop, "end_epoch", real)
    again = train(recipe, store, tmp_path / "resumed", device="cpu")
    assert (again["best_epoch"], again["epochs"], again["stopped_early"]) == (2, 4, True)
    assert_same_run(tmp_path / "run", tmp_path / "resumed")


@pytest.mark.filterwarnings("error")
def test_a_validation_without_any_score_is_nan_over_none(store, tmp_path, monkeypatch):
    run = setup(MU, store, tmp_path / "run", device="cpu", devices=1)
    monkeypatch.setattr(loop, "auroc", lambda scores, labels: np.full(3, np.nan))
    score, defined = loop.validate(run)
    assert np.isnan(score) and defined == 0


def test_a_full_disk_keeps_what_was_saved(store, tmp_path, monkeypatch):
    real, calls = os.fsync, 0

    def full(handle):
        nonlocal calls
        calls += 1
        if calls > 8:
            raise OSError(28, "No space left on device")
        return real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CxrError, match="no space left"):
        train(MU, store, tmp_path / "run", device="cpu", checkpoint_steps=1)
    monkeypatch.setattr(os, "fsync", real)
    _, progress = read_tensors(tmp_path / "run" / "last.safetensors")
    assert progress["step"] >= 1
    train(MU, store, tmp_path / "run", device="cpu")
    assert (tmp_path / "run" / "result.json").exists()


def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(whole, store, tmp_path, monkeypatch):
    real, calls = loop.train_step, 0

    def dies(*args, **options):
        nonlocal calls
        calls += 1
        if calls > 6:
            raise RuntimeError("power cut")
        return real(*args, **options)

    monkeypatch.setattr(loop, "train_step", dies)
    with pytest.raises(RuntimeError):
        train(MU, store, tmp_path / "run", device="cpu", checkpoint_steps=1)
    monkeypatch.setattr(loop, "train_step", real)
    last = tmp_path / "run" / "last.safetensors"
    last.write_bytes(last.read_bytes()[:1000])
    train(MU, store, tmp_path / "run", device="cpu")
    assert_same_run(whole, tmp_path / "run")


def test_a_batch_in_parts_takes_the_same_step(store, tmp_path):
    plain = dataclasses.replace(MU, epochs=1, drop_path=0.0)
    train(plain, store, tmp_path / "one", device="cpu")
    train(dataclasses.replace(plain, micro_batch=5), store, tmp_path / "parts", device="cpu")
    one, parts = events(tmp_path / "one"), events(tmp_path / "parts")
    assert parts[-1]["loss"] == pytest.approx(one[-1]["loss"], rel=1e-5)


TWO_PROCESSES = """
import dataclasses, sys
from cxrlib import cli, recipes
real = recipes.mu
def mu():
    "mu without what is random inside the model: each process would draw its own."
    return dataclasses.replace(real(), drop_path=0.0)
recipes.RECIPES["mu"] = mu
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.timeout(120)  # two interpreters that import torch: about 10 s
def test_two_processes_take_the_steps_of_one(store, tmp_path):
    (tmp_path / "script.py").write_text(TWO_PROCESSES)
    losses = []
    for devices in ("1", "2"):
        words = command(dataclasses.replace(MU, epochs=1), store, tmp_path / devices, "--devices", devices)
        done = subprocess.run(
            [sys.executable, str(tmp_path / "script.py"), *words[3:]], capture_output=True, text=True,
            env=ONE_THREAD | {"PYTHONPATH": str(Path(loop.__file__).parents[2])},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert json.loads((tmp_path / devices / "result.json").read_text())["processes"] == int(devices)
        losses.append([line["loss"] for line in events(tmp_path / devices) if "loss" in line])
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


def test_weights_of_a_run_start_another(whole, store, tmp_path):
    """A run that begins with best.safetensors and does nothing to it scores what the first run scored."""
    recipe = dataclasses.replace(MU, weights=str(whole / "best.safetensors"), epochs=1, lr=0.0, min_lr=0.0)
    train(recipe, store, tmp_path / "run", device="cpu")
    first, second = read_tensors(whole / "best.safetensors")[0], read_tensors(tmp_path / "run" / "best.safetensors")[0]
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-6, atol=1e-7)
    made = json.loads((tmp_path / "run" / "run.json").read_text())
    assert len(made["weights_sha256"]) == 64


def test_validation_patients_are_in_no_other_set(whole, store):
    import pandas as pd

    table = pd.read_csv(store / "index.csv", dtype=str)
    held = pd.read_csv(whole / "validation.csv", dtype=str)
    held_rows = table["image"].isin(held["image"])
    assert set(table["split"][held_rows]) == {"train_val"}
    assert not set(table["patient"][held_rows]) & set(table["patient"][~held_rows])
