"""Cohorts: the same bytes for any number of workers, NIH's proportions, NIH's formats."""

import importlib.util
import json
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from PIL import Image

from cxrlib.errors import CxrError
from cxrlib.findings import BOXED_FINDINGS, NIH_FINDINGS
from cxrlib.phantom import STRUCTURES, cohort_labels, draw, read_masks, write_cohort
from cxrlib.phantom.drawing import build_scene
from cxrlib.phantom.files import write_png
from cxrlib.phantom.labels import HERE, TABLES, derive_tables, enriched_prevalence, nih_prevalence
from cxrlib.phantom.shortcuts import parse_shortcut, plant


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def has(table: pd.DataFrame, column: str = "truth") -> np.ndarray:
    return np.array([[f in s.split("|") for f in NIH_FINDINGS] for s in table[column]])


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    return write_cohort(
        tmp_path_factory.mktemp("phantom") / "a", n=35, size=48, seed=6, prevalence="enriched", progress=False
    )


def test_workers_change_no_byte(cohort, tmp_path):
    other = write_cohort(
        tmp_path / "b", n=35, size=48, seed=6, prevalence="enriched", workers=2, progress=False
    )
    assert tree(cohort) == tree(other)
    third = write_cohort(tmp_path / "c", n=35, size=48, seed=7, prevalence="enriched", progress=False)
    assert tree(cohort) != tree(third)


def test_layout_is_nihs(cohort):
    text = (cohort / "Data_Entry_2017_v2020.csv").read_text()
    assert text.splitlines()[0] == (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
        "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
    )
    table = pd.read_csv(cohort / "Data_Entry_2017_v2020.csv")
    assert len(table) == 35 == len(list((cohort / "images").iterdir()))
    image = Image.open(cohort / "images" / table["Image Index"][0])
    assert image.mode == "L" and image.size == (48, 48) and (table["OriginalImage[Width"] == 48).all()
    lists = {name: (cohort / f"{name}_list.txt").read_text() for name in ("train_val", "test")}
    names = {name: text.split("\n") for name, text in lists.items()}
    assert sorted(names["train_val"] + names["test"]) == sorted(table["Image Index"])
    patients = {name: {n.split("_")[0] for n in found} for name, found in names.items()}
    assert not patients["train_val"] & patients["test"] and patients["test"]
    boxes = (cohort / "BBox_List_2017.csv").read_text().splitlines()
    assert boxes[0] == "Image Index,Finding Label,Bbox [x,y,w,h],,,"
    rows = [line.split(",") for line in boxes[1:]]
    assert rows and all(row[0] in names["test"] for row in rows)
    assert {row[1] for row in rows} <= set(BOXED_FINDINGS) - {"Infiltration"} | {"Infiltrate"}
    assert len({(row[0], row[1]) for row in rows}) == len(rows)  # one box per finding and image, as in NIH
    about = json.loads((cohort / "phantom.json").read_text())
    assert (
        "says nothing about patients" in about["note"]
        and about["size"] == 48
        and "1024" in about["box_frame"]
    )


def test_masks_and_boxes_agree(cohort):
    boxes = pd.read_csv(cohort / "boxes_all.csv")
    truth = pd.read_csv(cohort / "truth.csv").set_index("Image Index")["True Findings"]
    assert len(boxes) > 10
    for image, rows in boxes.groupby("Image Index"):
        lesions, anatomy = read_masks(cohort / "masks" / (image[:-4] + ".npz"))
        assert tuple(anatomy) == STRUCTURES and anatomy["Heart"].shape == (48, 48)
        assert set(lesions) == set(rows["Finding Label"]) <= set(truth[image].split("|"))
        for finding, mine in rows.groupby("Finding Label"):
            ys, xs = np.nonzero(lesions[finding])
            extent = (mine.x.min(), mine.y.min(), (mine.x + mine.w).max(), (mine.y + mine.h).max())
            assert extent == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


def test_a_finished_folder_is_left_and_another_is_refused(cohort, capsys):
    before = {p: p.stat().st_mtime_ns for p in cohort.rglob("*")}
    write_cohort(cohort, n=35, size=48, seed=6, prevalence="enriched", progress=False)
    assert "nothing to do" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in cohort.rglob("*")}
    with pytest.raises(CxrError, match="another phantom cohort"):
        write_cohort(cohort, n=36, size=48, seed=6, progress=False)


def test_a_folder_with_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CxrError, match="not empty"):
        write_cohort(tmp_path, n=2, size=48, progress=False)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_prevalence_is_nihs_within_sampling_error():
    table = cohort_labels(8_000, 1)
    share, goal = has(table).mean(0), nih_prevalence()
    # Visits repeat findings, so the effective number of films is smaller: three visits on average at a
    # repeat chance of a half.
    error = np.sqrt(goal * (1 - goal) / (len(table) / 3))
    assert (np.abs(share - goal) < 4 * error).all()
    assert abs((table.view == "AP").mean() - 44_810 / 112_120) < 0.04
    assert abs((table.split == "test").mean() - 25_596 / 112_120) < 0.01
    assert abs((table.truth == "No Finding").mean() - 60_361 / 112_120) < 0.03


def test_enriched_keeps_every_finding_frequent_and_its_company():
    table = cohort_labels(8_000, 2, prevalence="enriched")
    share = has(table).mean(0)
    assert (np.abs(share - enriched_prevalence()) < 0.03).all() and share.min() > 0.08 and share.max() < 0.25
    both = has(table)
    effusion, edema, nodule = (both[:, NIH_FINDINGS.index(f)] for f in ("Effusion", "Edema", "Nodule"))
    assert effusion[edema].mean() > 1.3 * effusion[nodule].mean()  # as in NIH, fluid keeps company with fluid


def test_patients_keep_their_sex_and_never_grow_younger():
    table = cohort_labels(1_500, 3)
    for _, visits in table.groupby("patient"):
        assert visits.sex.nunique() == 1 == visits.split.nunique()
        assert visits.age.is_monotonic_increasing and visits.follow_up.tolist() == list(range(len(visits)))
    assert (table.groupby("patient").size() > 1).any()


def test_a_patient_keeps_the_body_over_visits():
    a, b, c = (build_scene(seed, size=64, body_seed=body) for seed, body in ((1, 9), (2, 9), (2, 10)))
    assert a.build == b.build != c.build
    assert a.pose != b.pose == c.pose


def test_label_noise_has_the_rate_asked_for_and_keeps_shares():
    table = cohort_labels(6_000, 4, prevalence="enriched", label_noise=0.2)
    truth, written = has(table), has(table, "labels")
    assert abs((truth & ~written).sum() / truth.sum() - 0.2) < 0.015
    assert np.abs(written.mean(0) - truth.mean(0)).max() < 0.01
    clean = cohort_labels(6_000, 4, prevalence="enriched")
    assert (clean.truth == clean.labels).all() and (clean.truth == table.truth).all()


def test_shortcuts_tell_the_truth_as_often_as_asked(tmp_path):
    table = cohort_labels(6_000, 5, prevalence="enriched")
    cued = plant(table, parse_shortcut("drain:Pneumothorax:0.9:0.5"), 5)
    right = cued.drain.astype(bool) == has(cued)[:, NIH_FINDINGS.index("Pneumothorax")]
    assert abs(right[cued.split == "train_val"].mean() - 0.9) < 0.02
    assert abs(right[cued.split == "test"].mean() - 0.5) < 0.04
    marked = plant(table, parse_shortcut("marker:Effusion:1"), 5)
    assert ((marked.marker == "R") == has(marked)[:, NIH_FINDINGS.index("Effusion")]).all()
    out = write_cohort(
        tmp_path / "s",
        n=12,
        size=48,
        seed=5,
        shortcut="drain:Effusion:1.0",
        prevalence="enriched",
        progress=False,
    )
    drawn = pd.read_csv(out / "truth.csv", keep_default_na=False)
    assert (drawn.Devices.str.contains("drain") == drawn["True Findings"].str.contains("Effusion")).all()
    for wrong in ("drain", "hat:Mass:0.9", "drain:Cold:0.9", "drain:Mass:2", "drain:Mass:x"):
        with pytest.raises(CxrError):
            parse_shortcut(wrong)


def test_a_drain_changes_only_the_drain():
    with_it, without = (draw(3, size=96, drain=d, marker=None).image_YX.astype(int) for d in (True, False))
    assert 0.002 < (np.abs(with_it - without) > 6).mean() < 0.08


def test_png_reads_back(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (37, 23), dtype=np.uint8)
    write_png(tmp_path / "x.png", image)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "x.png")), image)


def test_shipped_counts_are_those_of_nihs_table():
    package = importlib.util.find_spec("torchxrayvision")
    if package is None:
        pytest.skip("torchxrayvision, which carries NIH's table, is not installed")
    source = Path(package.submodule_search_locations[0]) / "data" / "Data_Entry_2017_v2020.csv.gz"
    for name, table in derive_tables(source).items():
        pd.testing.assert_frame_equal(table, pd.read_csv(HERE / name), check_dtype=False)
    assert set(TABLES) == set(derive_tables(source))
    sets = pd.read_csv(HERE / TABLES[0])
    assert sets[["PA_F", "PA_M", "AP_F", "AP_M"]].to_numpy().sum() == 112_120


def test_bad_settings_say_what_to_do(tmp_path):
    for wrong in (
        dict(n=0),
        dict(n=2, size=8),
        dict(n=2, workers=0),
        dict(n=2, label_noise=1.0),
        dict(n=2, prevalence="x"),
        dict(n=2, seed=-1),
    ):
        with pytest.raises(CxrError):
            write_cohort(tmp_path / "no", progress=False, **wrong)
    assert not (tmp_path / "no").exists()
    with pytest.raises(CxrError, match="seed -1 is negative"):
        cohort_labels(2, -1)


@pytest.mark.timeout(60)
def test_a_killed_worker_ends_the_command_instead_of_hanging_it(tmp_path):
    def kill_one() -> None:
        while not (workers := multiprocessing.active_children()):
            time.sleep(0.01)
        os.kill(workers[0].pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    with pytest.raises(CxrError, match="killed .*fewer workers"):
        write_cohort(tmp_path / "a", n=200, size=48, workers=2, progress=False)
    killer.join()
    assert not (tmp_path / "a").exists() and not (tmp_path / "a.lock").exists()


def test_two_phantoms_never_write_one_folder(tmp_path):
    (tmp_path / "a.part" / "images").mkdir(parents=True)  # what the other one has drawn so far
    with FileLock(tmp_path / "a.lock"), pytest.raises(CxrError, match="another phantom is writing"):
        write_cohort(tmp_path / "a", n=2, size=48, progress=False)
    assert (tmp_path / "a.part" / "images").is_dir() and not (tmp_path / "a").exists()
    write_cohort(tmp_path / "a", n=2, size=48, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_folder_one_stands_in_can_be_filled(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write_cohort(".", n=2, size=48, progress=False)
    assert Path("phantom.json").exists() and len(list(Path("images").iterdir())) == 2
    write_cohort(tmp_path / "there", n=2, size=48, progress=False)
    assert tree(Path()) == tree(tmp_path / "there")
