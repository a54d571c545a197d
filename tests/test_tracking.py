"""Runs as they are listed, compared and shown in TensorBoard; a run folder says which machine made it."""

import dataclasses
import errno
import json
import math
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_store import tiny_store

from cxrlib import cli, recipes
from cxrlib.errors import CxrError
from cxrlib.pretraining import pretrain
from cxrlib.pretraining import recipes as pretraining_recipes
from cxrlib.tracking.compare import differences, settings
from cxrlib.tracking.events import EventFile, scalars
from cxrlib.tracking.folders import find_runs, read_tracked
from cxrlib.tracking.table import COLUMNS, row_of, sort_runs
from cxrlib.training import loop, train
from cxrlib.training.lock import hold, is_held
from cxrlib.training.machine import machine
from cxrlib.training.runs import Log

MU = dataclasses.replace(recipes.mu(), epochs=3)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return tiny_store(tmp_path_factory.mktemp("data"), n=72).folder


@pytest.fixture(scope="module")
def runs(store, tmp_path_factory) -> Path:
    """plain (evaluated), deep/other, pre, died (in its second epoch), broken (run.json cut short), lost (no run.json)."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("runs")
    train(MU, store, out / "plain", device="cpu")
    assert cli.main(["evaluate", str(out / "plain"), "--split", "test", "--resamples", "20"]) == 0
    train(dataclasses.replace(MU, seed=1, lr=1e-3, epochs=2), store, out / "deep" / "other", device="cpu")
    pretrain(dataclasses.replace(pretraining_recipes.get("gmml", "mu"), epochs=2), store, out / "pre", device="cpu")
    real, calls = loop.train_step, 0

    def dies(*args, **options):
        nonlocal calls
        calls += 1
        if calls == 4:  # two steps make an epoch
            raise RuntimeError("power cut")
        return real(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_step", dies)
        with pytest.raises(RuntimeError):
            train(MU, store, out / "died", device="cpu")
    shutil.copytree(out / "plain", out / "broken")
    text = (out / "broken" / "run.json").read_text()
    (out / "broken" / "run.json").write_text(text[: len(text) // 2])
    shutil.copytree(out / "plain", out / "lost")
    (out / "lost" / "run.json").unlink()
    return out


def by_name(folder: Path) -> dict:
    return {run.name: run for run in find_runs([folder])}


def test_every_run_below_a_folder_is_found_and_read(runs, store):
    found = by_name(runs)
    assert list(found) == ["broken", "deep/other", "died", "lost", "plain", "pre"]
    plain, row = found["plain"], row_of(found["plain"])
    result = json.loads((runs / "plain" / "result.json").read_text())
    scored = json.loads((runs / "plain" / "evaluation" / "test" / "auroc.json").read_text())
    meta = json.loads((store / "store.json").read_text())
    assert (row["recipe"], row["model"], row["seed"], row["epochs"], row["of"]) == ("mu", "vit", 0, 3, 3)
    assert row["data"] == meta["sha256"][:8] and row["source"] == "nih" and row["state"] == "finished"
    assert plain.best == result["best_macro_auroc"] and plain.best_epoch == result["best_epoch"]
    assert plain.test == tuple(scored["macro"][name] for name in ("auroc", "low", "high"))
    assert plain.test_findings["Mass"] == scored["findings"][0]["auroc"]
    assert row["minutes"] == pytest.approx(result["seconds"] / 60)
    assert row["commit"] == json.loads((runs / "plain" / "run.json").read_text())["commit"]
    other = found["deep/other"]
    assert (other.recipe["seed"], other.epochs, other.recipe["epochs"]) == (1, 2, 2) and math.isnan(other.test[0])
    pre = row_of(found["pre"])
    assert (pre["model"], pre["state"], pre["epochs"], pre["validation"]) == ("gmml", "finished", 2, None)


def test_a_run_that_ended_too_soon_has_died_and_damage_is_one_line(runs):
    found = by_name(runs)
    assert found["died"].state == "died" and found["died"].epochs == 1
    assert found["broken"].state == "damaged" and "not valid JSON" in found["broken"].fault
    assert found["lost"].state == "damaged" and "run.json does not exist" in found["lost"].fault


@pytest.mark.parametrize(
    ("file", "text"),
    [("run.json", "[]"), ("run.json", '{"recipe": {"name": "mu"}}'), ("result.json", "{}"), ("result.json", "3"),
     ("run.json", "\udcff"), ("log.jsonl", "\udcff"), ("evaluation/test/auroc.json", '{"macro": 1}')],
)  # fmt: skip
def test_whatever_is_wrong_with_a_folder_does_not_stop_the_listing(runs, tmp_path, file, text):
    shutil.copytree(runs / "plain", tmp_path / "run")
    (tmp_path / "run" / file).write_bytes(text.encode(errors="surrogateescape"))
    run = read_tracked(tmp_path / "run", "run")
    assert run.state == "damaged" and run.fault and "\n" not in run.fault


def test_a_process_that_holds_the_folder_is_running_and_no_other_may_begin(runs, store, tmp_path):
    """The lock is free as soon as the process is gone, even by kill -9."""
    run = tmp_path / "run"
    shutil.copytree(runs / "died", run)
    script = "import fcntl, sys, time; file = open(sys.argv[1], 'a'); fcntl.flock(file, fcntl.LOCK_EX); print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", script, str(run / ".lock")], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        assert read_tracked(run, "run").state == "running"
        with pytest.raises(CxrError, match="another process is training"):
            train(MU, store, run, device="cpu")
    finally:
        holder.kill()
        holder.wait()
    assert read_tracked(run, "run").state == "died"
    assert train(MU, store, run, device="cpu")["epochs"] == 3
    assert read_tracked(run, "run").state == "finished"


def test_a_file_system_without_locks_hinders_no_training_and_the_state_is_left_open(runs, store, tmp_path, monkeypatch):
    import fcntl

    def none(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    shutil.copytree(runs / "died", tmp_path / "run")
    monkeypatch.setattr(fcntl, "flock", none)
    assert read_tracked(tmp_path / "run", "run").state == "unfinished"
    assert train(MU, store, tmp_path / "run", device="cpu")["epochs"] == 3


def test_a_process_may_begin_again_where_it_was_interrupted(tmp_path):
    first, second = hold(tmp_path), hold(tmp_path)
    assert first is second and is_held(tmp_path)
    del first, second
    assert is_held(tmp_path) is False and is_held(tmp_path / "nowhere") is False


def test_the_last_start_or_stop_tells_a_stopped_run_from_a_dead_one(runs, tmp_path):
    shutil.copytree(runs / "died", tmp_path / "run")
    log = Log(tmp_path / "run" / "log.jsonl", keep={"step": 3, "epoch": 1})
    log.write(event="stop", step=3, signal=15)
    del log
    assert read_tracked(tmp_path / "run", "run").state == "stopped"
    Log(tmp_path / "run" / "log.jsonl", keep={"step": 3, "epoch": 1}).start(3)
    assert read_tracked(tmp_path / "run", "run").state == "died"


def test_a_resumed_log_keeps_who_worked_on_it_and_drops_the_steps_that_come_again(tmp_path):
    log = Log(tmp_path / "log.jsonl")
    log.start(0)
    for step in (50, 100, 150):
        log.write(event="step", step=step, loss=1.0 / step)
    log.write(event="epoch", epoch=1, step=160, loss=0.5)
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"event": "st')  # killed in the middle of a line
    again = Log(tmp_path / "log.jsonl", keep={"step": 120, "epoch": 0})
    again.start(120)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["event"], line["step"]) for line in lines] == [("start", 0), ("step", 50), ("step", 100), ("start", 120)]
    assert lines[0]["processes"] == 1 and lines[0]["cpus"] >= 1 and "commit" in lines[0]
    assert abs(lines[-1]["time"] - time.time()) < 60
    Log(tmp_path / "log.jsonl")  # from the beginning: no checkpoint had been written
    assert [json.loads(line)["event"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == ["start", "start"]


def test_the_machine_is_described_without_its_name(runs):
    import platform

    made = json.loads((runs / "plain" / "run.json").read_text())["machine"]
    assert made == machine() | {"processes": 1}
    assert set(made) == {"system", "cpu", "cpus", "memory_gib", "gpus", "processes"}
    assert platform.node() not in json.dumps(made) or len(platform.node()) < 4  # a short name may be part of a word
    assert made["memory_gib"] is None or made["memory_gib"] > 0


def test_speed_and_machine_are_those_of_the_log(runs, tmp_path, capsys):
    """A run that moved: the last start says where it is; its speed is the median of what the steps have noted."""
    shutil.copytree(runs / "plain", tmp_path / "run")
    gpus = {"processes": 2, "gpus": ["Some GPU", "Some GPU"], "cpu": "Some CPU"}
    added = [{"event": "step", "step": step, "loss": 1.0, "images_per_s": rate} for step, rate in ((1, 10.0), (2, 400.0), (3, 500.0), (4, None))]
    with open(tmp_path / "run" / "log.jsonl", "a") as file:
        file.writelines(json.dumps(line) + "\n" for line in [*added, {"event": "start", "step": 3} | gpus])
    row = row_of(read_tracked(tmp_path / "run", "run"))
    assert row["images_per_s"] == 400 and row["machine"] == "2 x Some GPU"
    result = json.loads((runs / "plain" / "result.json").read_text())
    assert row_of(by_name(runs)["plain"])["images_per_s"] == result["images_per_s"]  # fewer than 50 steps: none was logged


def test_the_table_has_a_line_for_each_run_and_sorts(runs, capsys):
    assert cli.main(["runs", str(runs), "--sort", "validation"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7 and lines[0].split()[:4] == ["name", "state", "recipe", "model"]
    found = by_name(runs)
    scored = [run for run in found.values() if not math.isnan(run.best)]
    expected = sorted(scored, key=lambda run: -run.best)
    assert [line.split()[0] for line in lines[1:4]] == [run.name for run in expected]
    assert [line.split()[0] for line in lines[-2:]] == ["broken", "lost"] and "damaged:" in lines[-1]
    assert f"{found['plain'].best:.3f}" in next(line for line in lines if line.startswith("plain"))
    for column in COLUMNS:
        assert len(sort_runs(list(found.values()), column)) == 6
    assert [run.recipe["seed"] for run in sort_runs([found["deep/other"], found["plain"]], "seed")] == [0, 1]


def test_json_holds_the_same_rows(runs, capsys):
    assert cli.main(["runs", str(runs / "plain"), str(runs / "deep"), str(runs / "broken"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == ["broken", "other", "plain"] and rows[2]["validation"] == by_name(runs)["plain"].best
    assert rows[0]["state"] == "damaged" and rows[0]["fault"] and rows[1]["test"] is None


def test_a_run_named_twice_is_listed_once_and_equal_names_are_told_apart(runs, tmp_path):
    shutil.copytree(runs / "plain", tmp_path / "plain")
    found = find_runs([runs / "plain", runs / "plain", tmp_path / "plain"])
    assert len(found) == 2 and len({run.name for run in found}) == 2


def test_what_differs_is_shown_and_what_is_the_same_is_not(runs, capsys):
    found = by_name(runs)
    differ = differences([found["plain"], found["deep/other"]])
    assert differ["recipe.seed"] == [0, 1] and differ["recipe.lr"] == [3e-3, 1e-3] and differ["recipe.epochs"] == [3, 2]
    assert set(differ) - {"commit"} == {"recipe.seed", "recipe.lr", "recipe.epochs"}  # one machine, one store; a file may change
    other = dataclasses.replace(found["plain"], made=found["plain"].made | {"commit": "x", "recipe": MU.to_json() | {"options": {"a": 1}}})
    assert list(differences([found["plain"], other])) == ["recipe.options.a", "commit"]  # parts in their order
    assert cli.main(["runs", str(runs / "plain"), str(runs / "deep" / "other"), str(runs / "broken"), "--compare"]) == 0
    said = capsys.readouterr().out
    assert "recipe.lr" in said and "0.003" in said and "recipe.width" not in said and "left out, damaged: broken" in said
    assert f"{found['plain'].test[0]:.3f} ({found['plain'].test[1]:.3f} to" in said and "test AUROC Mass" in said
    assert cli.main(["runs", str(runs / "plain"), "--compare"]) == 2
    assert "it takes two" in capsys.readouterr().err


def test_an_older_run_without_new_fields_does_not_differ_in_them(runs, tmp_path):
    shutil.copytree(runs / "plain", tmp_path / "old")
    made = json.loads((tmp_path / "old" / "run.json").read_text())
    del made["machine"], made["recipe"]["teacher"]
    (tmp_path / "old" / "run.json").write_text(json.dumps(made))
    old = read_tracked(tmp_path / "old", "old")
    assert old.state == "finished" and settings(old)["recipe.teacher"] == ""
    assert not [name for name in differences([old, by_name(runs)["plain"]]) if not name.startswith("machine")]


def test_the_picture_is_drawn(runs, tmp_path, capsys):
    assert cli.main(["runs", str(runs), "--picture", str(tmp_path / "curves.png")]) == 0
    pixels_YX = np.asarray(Image.open(tmp_path / "curves.png").convert("L"))
    assert 600 < pixels_YX.shape[1] < 1100 and (pixels_YX < 128).sum() > 2000
    assert cli.main(["runs", str(runs), "--picture", str(tmp_path / "curves.jpg")]) == 2
    assert cli.main(["runs", str(runs / "broken"), "--picture", str(tmp_path / "none.png")]) == 2
    assert "no curve to draw" in capsys.readouterr().err


def test_bad_input_is_one_line(runs, tmp_path, capsys):
    for arguments, told in [
        ([str(tmp_path / "nowhere")], "is no folder"), ([str(tmp_path)], "there is no run"),
        ([str(runs), "--sort", "colour"], "no column 'colour'"), ([str(runs), "--json", "--compare"], "choose one"),
    ]:  # fmt: skip
        assert cli.main(["runs", *arguments]) == 2
        said = capsys.readouterr().err
        assert told in said and said.count("\n") == 1


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself reads."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    read = accumulator.EventAccumulator(str(folder))
    read.Reload()
    return {tag: [(point.step, point.value) for point in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def test_event_files_hold_the_log(runs, tmp_path):
    pytest.importorskip("tensorboard")
    assert cli.main(["runs", str(runs), "--tensorboard", str(tmp_path)]) == 0
    shown, epochs = curves(tmp_path / "plain"), by_name(runs)["plain"].events("epoch")
    assert shown["validation/macro_auroc"] == [(line["step"], pytest.approx(line["val_macro_auroc"])) for line in epochs]
    assert shown["epoch/loss"] == [(line["step"], pytest.approx(line["loss"])) for line in epochs]
    assert curves(tmp_path / "pre") and curves(tmp_path / "deep" / "other") and not (tmp_path / "broken").exists()
    assert cli.main(["runs", str(runs), "--tensorboard", str(tmp_path)]) == 0
    assert cli.main(["runs", str(runs), "--tensorboard", str(tmp_path)]) == 0
    assert curves(tmp_path / "plain") == shown and len(list((tmp_path / "plain").iterdir())) == 2  # not a point twice


def test_a_step_s_numbers_become_curves_and_nulls_do_not():
    line = {"event": "step", "step": 50, "loss": 0.5, "lr": 1e-3, "grad_norm": None, "images_per_s": 80, "mfu": None,
            "data_wait": 0.25, "entropy": 2.0, "time": 12.5}  # fmt: skip
    expected = {"train/loss": 0.5, "train/lr": 1e-3, "speed/images_per_s": 80, "speed/data_wait": 0.25, "train/entropy": 2.0}
    assert scalars(line) == expected
    assert scalars({"event": "start", "step": 0, "cpus": 2}) == {}


def test_a_resumed_run_has_one_curve(tmp_path):
    """Also for a TensorBoard that has read the first file already and looks on, which EventAccumulator stands for."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = tmp_path / "board"
    log = Log(tmp_path / "log.jsonl", tensorboard=board)
    for step in (50, 100, 150):
        log.write(event="step", step=step, loss=1.0 + step, lr=0.1)
    looking = accumulator.EventAccumulator(str(board)).Reload()
    assert [point.step for point in looking.Scalars("train/loss")] == [50, 100, 150]
    (board / "events.out.tfevents.123.elsewhere").write_bytes(b"")  # somebody else's file stays
    again = Log(tmp_path / "log.jsonl", keep={"step": 100, "epoch": 0}, tensorboard=board)
    again.write(event="step", step=150, loss=7.0, lr=0.1)
    again.write(event="step", step=200, loss=8.0, lr=0.1)
    expected = [(50, 51.0), (100, 101.0), (150, 7.0), (200, 8.0)]
    assert curves(board)["train/loss"] == expected and len(list(board.iterdir())) == 3
    looking.Reload()
    assert [(point.step, point.value) for point in looking.Scalars("train/loss")] == expected


def test_training_writes_the_curves_while_it_runs_and_a_resumed_run_has_them_once(store, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    real, calls, shown = loop.end_epoch, 0, {}

    def looks(run, seconds):
        nonlocal calls, shown
        calls += 1
        if calls == 3:  # two epochs are behind, the third is not in the log
            shown = curves(tmp_path / "run" / "tensorboard")
            raise RuntimeError("power cut")
        real(run, seconds)

    monkeypatch.setattr(loop, "end_epoch", looks)
    with pytest.raises(RuntimeError):
        train(MU, store, tmp_path / "run", device="cpu", tensorboard=True)
    assert [step for step, _ in shown["epoch/loss"]] == [2, 4]
    monkeypatch.setattr(loop, "end_epoch", real)
    words = ["train", "mu", "--epochs", "3", "--data", str(store), "--out", str(tmp_path / "run"), "--device", "cpu", "--tensorboard"]
    assert cli.main(words) == 0
    log = by_name(tmp_path)["run"].events("epoch")
    shown = curves(tmp_path / "run" / "tensorboard")
    assert shown["epoch/loss"] == [(line["step"], pytest.approx(line["loss"])) for line in log] and len(log) == 3


def test_an_event_file_does_not_name_the_computer(tmp_path):
    import platform

    pytest.importorskip("tensorboard")
    EventFile(tmp_path, [{"event": "step", "step": 1, "loss": 1.0}]).close()
    (file,) = tmp_path.iterdir()
    assert platform.node() not in file.name and platform.node().encode() not in file.read_bytes()


def test_without_tensorboard_the_line_names_the_extra(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    assert cli.main(["runs", str(runs), "--tensorboard", str(tmp_path)]) == 2
    assert "cxrlib[tracking]" in capsys.readouterr().err
