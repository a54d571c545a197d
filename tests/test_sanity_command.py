"""Are the maps true, on a cohort: nonsense labels, CheXpert's names, a U-Net, and the table of every method."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_store import tiny_store

from cxrlib import checkpoints, cli
from cxrlib.data import ImageStore, prepare, read_nih
from cxrlib.data.chexpert import read_chexpert
from cxrlib.errors import CxrError
from cxrlib.findings import CHEXPERT_OBSERVATIONS, NIH_FINDINGS
from cxrlib.phantom import write_cohort
from cxrlib.sanity import gather, labels, shortcut, transfer
from cxrlib.sanity.pairs import lesion_pairs
from cxrlib.sanity.table import (
    COLUMNS,
    SEGMENTER,
    Material,
    as_text,
    masks_of_store,
    segmenter_row,
)
from cxrlib.sanity.unet import UNet, fit_unet, segmentation_loss, unet_maps


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sanity")
    write_cohort(folder / "cohort", n=120, size=32, seed=3, prevalence="enriched", progress=False)
    return folder / "cohort", prepare(read_nih(folder / "cohort"), folder / "store", size=32)


@pytest.fixture(scope="module")
def trained(cohort):
    folder, store = cohort
    assert cli.main(["train", "mu", "--data", str(store.folder), "--out", str(folder.parent / "run"), "--epochs", "1"]) == 0
    return folder.parent / "run"


def test_labels_are_dealt_out_anew_and_only_in_train_val(tmp_path, capsys):
    store = tiny_store(tmp_path)
    assert labels.main([str(store.folder), str(tmp_path / "nonsense"), "--seed", "4"]) == 0
    other = ImageStore.open(tmp_path / "nonsense", verify="full")
    train, test = store.where(split="train_val"), store.where(split="test")
    np.testing.assert_array_equal(other.labels_NC[test], store.labels_NC[test])
    assert not np.array_equal(other.labels_NC[train], store.labels_NC[train], equal_nan=True)
    key = lambda rows: sorted(map(str, rows.tolist()))
    assert key(other.labels_NC[train]) == key(store.labels_NC[train])  # whole rows: company and frequency stay
    np.testing.assert_array_equal(other.images_NYX, store.images_NYX)
    assert other.sha256 != store.sha256 and any("dealt out anew" in note for note in other.meta["notes"])
    assert labels.main([str(store.folder), str(tmp_path / "nonsense")]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_masks_of_another_cohort_are_refused(cohort, tmp_path):
    """Its films have the same names, and a mask for most of them."""
    folder, store = cohort
    write_cohort(tmp_path / "other", n=120, size=32, seed=4, prevalence="enriched", progress=False)
    with pytest.raises(CxrError, match="of .*other is not the image in the store: name the cohort that the store was prepared from"):
        lesion_pairs(store, tmp_path / "other", rows=np.arange(store.n))


def test_pairs_are_of_one_film_per_patient_and_finding_and_carry_the_exact_mask(cohort):
    folder, store = cohort
    pairs = lesion_pairs(store, folder, rows=np.arange(store.n), per_finding=5, seed=1)
    counts = pd.Series(pairs.finding_M).value_counts()
    assert counts.max() <= 5 and len(counts) == 14
    assert not pd.DataFrame({"f": pairs.finding_M, "p": pairs.patient_M}).duplicated().any()
    for row, finding, mask in zip(pairs.row_M, pairs.finding_M, pairs.mask_MYX):
        assert store.labels_NC[row, store.findings.index(finding)] == 1 and mask.shape == (32, 32)
        np.testing.assert_array_equal(masks_of_store(store, folder, store.findings)(row)[store.findings.index(finding)], mask)
    with pytest.raises(CxrError, match="no masks"):
        lesion_pairs(store, folder / "images", rows=np.arange(store.n))
    with pytest.raises(CxrError, match="none of these films"):
        lesion_pairs(store, folder, rows=np.arange(0))


def test_a_cohort_in_chexperts_layout_comes_back_with_the_same_labels(cohort, tmp_path):
    folder, store = cohort
    out = transfer.write_chexpert_layout(store, read_nih(folder), tmp_path / "chexpert")
    studies = read_chexpert(out)
    assert len(studies.table) == store.n and (studies.table["path"] != "").all()
    there = prepare(studies, tmp_path / "store", size=32)
    for ours, theirs in transfer.shared(store.findings):
        assert CHEXPERT_OBSERVATIONS[theirs].replace("Pleural ", "") == store.findings[ours]
        assert there.labels_NC[:, theirs].sum() == store.labels_NC[:, ours].sum() > 0
    # A perfect model of NIH's findings is perfect here, until the other labeller misses some.
    order = there.table["image"].str.extract(r"patient(\d+)/study(\d+)").astype(int).apply(tuple, axis=1)
    mine = pd.Series(range(store.n), index=zip(store.table["patient"].astype(int), store.table["follow_up"].astype(int) + 1))
    logits = store.labels_NC[mine[list(order)].to_numpy()]
    table = transfer.transfer_table(logits, store.findings, there.labels_NC, there.patients, resamples=20)
    assert len(table) == 8 and (table["auroc"] == 1).all() and table["finding"].iloc[-1] == "macro"
    worse = transfer.write_chexpert_layout(store, read_nih(folder), tmp_path / "worse", missed=0.4, uncertain=0.2)
    for policy, low in (("nan", 0), ("zeros", 1)):
        read = read_chexpert(worse, uncertain=policy)
        assert np.nansum(read.labels_NC()[:, 2]) < store.labels_NC[:, 1].sum() and (np.isnan(read.labels_NC()).sum() == 0) == bool(low)
    with pytest.raises(CxrError, match="not empty"):
        transfer.write_chexpert_layout(store, read_nih(folder), worse)
    with pytest.raises(CxrError, match="nothing to score"):
        transfer.shared(("Mass", "Hernia"))


def test_genuine_films_are_not_written_under_false_names(tmp_path):
    store = tiny_store(tmp_path)
    with pytest.raises(CxrError, match="only phantoms"):
        transfer.write_chexpert_layout(store, None, tmp_path / "out")


def test_the_loss_of_masks_is_lowest_at_the_mask_and_counts_only_findings_that_are_there():
    mask = torch.zeros(2, 3, 8, 8)
    mask[0, 1, 2:5, 2:5] = 1
    right = segmentation_loss(20 * (2 * mask - 1), mask)
    assert right < 1e-3 < segmentation_loss(-20 * torch.ones_like(mask), mask)
    assert segmentation_loss(-20 * torch.ones_like(mask), torch.zeros_like(mask)) < 1e-3  # nothing there, nothing said


def test_a_unet_learns_where_squares_are():
    rng = np.random.default_rng(0)
    images, truth = rng.normal(80, 10, (60, 32, 32)), np.zeros((60, 2, 32, 32), bool)
    for i in range(60):
        for c, sign in enumerate((90, -60)):
            y, x = rng.integers(0, 24, 2)
            truth[i, c, y : y + 8, x : x + 8] = True
            images[i, y : y + 8, x : x + 8] += sign
    images = images.clip(0, 255).astype(np.uint8)
    net = fit_unet(images, lambda row: truth[row], np.arange(50), findings=2, steps=60, seed=0, width=8, batch=8)
    maps = unet_maps(net, images[50:])
    cut = maps > 0.5
    dice = 2 * (cut & truth[50:]).sum(axis=(0, 2, 3)) / (cut.sum(axis=(0, 2, 3)) + truth[50:].sum(axis=(0, 2, 3)))
    assert maps.shape == (10, 2, 32, 32) and (dice > 0.6).all()
    assert UNet(findings=3, width=4, depth=2)(torch.zeros(1, 1, 24, 16)).shape == (1, 3, 24, 16)


def test_a_map_that_is_the_mask_gets_the_best_row(cohort):
    folder, store = cohort
    pairs = lesion_pairs(store, folder, rows=np.arange(store.n), per_finding=4, findings=("Mass", "Effusion"), seed=0)
    of_film = {store.image(row).tobytes(): masks_of_store(store, folder, NIH_FINDINGS)(row) for row in pairs.row_M}
    material = Material(store, pairs, {}, resamples=20)
    row = segmenter_row(lambda films: np.stack([of_film[film.tobytes()] for film in films]).astype(np.float32), NIH_FINDINGS, material).iloc[0]
    assert row["dice"] == row["iou"] == 1 and row["hausdorff"] == 0 and row["found_low"] > 1 and np.isnan(row["head"])


def test_the_command_writes_one_row_per_method_and_one_for_the_unet(trained, cohort, capsys):
    folder, _ = cohort
    common = ["sanity", str(trained), "--cohort", str(folder), "--per-finding", "3", "--twins", "2", "--steps", "3", "--resamples", "20"]
    assert cli.main([*common, "--method", "class_attention", "gradient_attention", "centre", "--unet-steps", "2", "--split", "train_val", "--against", f"itself={trained}"]) == 0
    text = capsys.readouterr().out
    out = trained / "sanity" / "train_val"
    table = pd.read_csv(out / "sanity.csv").set_index("method")
    assert list(table.index) == ["class_attention", "gradient_attention", "centre", SEGMENTER] and list(table.columns) == [*COLUMNS, "like itself"]
    assert table["like itself"].iloc[:2].tolist() == pytest.approx([1, 1]) and table["like itself"].iloc[2:].isna().all()
    assert table.loc["class_attention", "head"] == pytest.approx(1)  # it never reads the head
    assert np.isnan(table.loc["centre", "all"]) and table.loc["centre", "found"] == 0 and table.loc["centre", "gone"] == pytest.approx(1)
    assert np.isnan(table.loc[SEGMENTER, "insertion"])
    stored = json.loads((out / "sanity.json").read_text())
    assert stored["rows"][2]["all"] is None and stored["notes"] == ["synthetic images: these numbers say nothing about patients"]
    made = [str(trained.parent / "gathered"), f"ViT={out}", f"again={out}", "--title", "t", "--command", "c"]
    assert gather.main(made) == 0 and gather.main([made[0], "nowhere=nothing", *made[3:]]) == 2
    result = json.loads((trained.parent / "gathered" / "result.json").read_text())
    assert [table["title"] for table in result["tables"]] == ["ViT", "again"] and result["tables"][0]["rows"] == stored["rows"]
    assert str(trained.parent) not in json.dumps(result)
    spec = importlib.util.spec_from_file_location("course_book", Path(__file__).parent.parent / "chapters" / "_ext" / "course_book.py")
    book = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(book)
    page = book.tables_markdown(result)
    assert page[0] == "## t" and sum(line.startswith("| centre | – |") for line in page) == 2
    assert (out / "sanity.txt").read_text() in text and SEGMENTER in as_text(table.reset_index())


def test_a_checkpoint_by_name_needs_images_and_a_place(capsys):
    name = next(iter(checkpoints.names()))
    assert cli.main(["sanity", name, "--cohort", "nowhere"]) == 2
    assert "is a checkpoint: say which images" in capsys.readouterr().err


def test_what_a_run_owes_to_drains_is_written(trained, tmp_path, capsys):
    assert shortcut.main([str(trained), "--out", str(tmp_path), "--patients", "3", "--method", "class_attention", "--command", "c"]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert [len(table["rows"]) for table in result["tables"]] == [5, 4, 1] and str(tmp_path) not in json.dumps(result)
    assert shortcut.main([str(trained), "--out", str(tmp_path), "--patients", "1"]) == 2 and "at least 2" in capsys.readouterr().err


@pytest.mark.parametrize(("extra", "message"), [(["--cohort", "nowhere"], "has no masks"), (["--twins", "1"], "at least 2"), (["--method", "magic"], "no map method"), (["--against", "seed"], "give a name and a run")])
def test_bad_input_is_one_line_and_nothing_is_written(trained, cohort, capsys, extra, message):
    out = trained / "never"
    assert cli.main(["sanity", str(trained), "--cohort", str(cohort[0]), "--out", str(out), *extra]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and not out.exists()
