"""Composite labels: what they say, how they are drawn, the store they are written to, and how far labels tell one another."""

import itertools

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxrlib.cli import main
from cxrlib.composites import ALIKE, FIVE, KINDS, PLAIN, Composite, candidates, column, draw, label_only_auroc, with_composites
from cxrlib.data import ImageStore, Studies, prepare
from cxrlib.data.studies import empty_boxes
from cxrlib.errors import CxrError
from cxrlib.findings import NIH_FINDINGS
from cxrlib.io import sha256_of


def made_labels(n: int, seed: int = 0) -> np.ndarray:
    """Fourteen findings that go together a little: float32 [n, 14]."""
    rng = np.random.default_rng(seed)
    common_N1 = rng.normal(size=(n, 1))
    return (rng.normal(size=(n, 14)) + 0.7 * common_N1 > np.linspace(1.0, 1.4, 14)).astype(np.float32)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> ImageStore:
    """150 images of 70 patients with NIH's findings; two blocks and a rest, one image that cannot be read, boxes of two findings."""
    folder, n = tmp_path_factory.mktemp("composites"), 150
    (folder / "raw").mkdir()
    rng = np.random.default_rng(4)
    for i in range(n):
        Image.fromarray(rng.integers(0, 255, (9, 9), dtype=np.uint8)).save(folder / "raw" / f"{i:03d}.png")
    (folder / "raw" / "007.png").write_bytes(b"no image")
    table = pd.DataFrame({"image": [f"{i:03d}.png" for i in range(n)]})
    table["path"], table["patient"] = table["image"], [f"p{min(i // 2, 69)}" for i in range(n)]
    table = table.assign(follow_up=0, age=50.0, sex="F", view="PA", width=9, height=9)
    table["split"] = ["test" if i % 10 < 2 else "train_val" for i in range(n)]
    table[list(NIH_FINDINGS)] = made_labels(n).astype(float)
    table.loc[20, "Effusion"] = np.nan
    boxes = empty_boxes()
    boxes.loc[0] = ["011.png", "Effusion", 1.0, 2.0, 5.5, 6.0]
    boxes.loc[1] = ["012.png", "Mass", 0.0, 2.0, 3.0, 4.0]
    return prepare(Studies(table, boxes, NIH_FINDINGS, "nih", "v2020", folder / "raw"), folder / "store", size=9)


def test_each_kind_says_what_its_words_say():
    three = np.array(list(itertools.product((0, 1), repeat=3)), np.float32)
    a, b, c = (three[:, i] == 1 for i in range(3))
    by_hand = {
        "X and Y": a & b,
        "X or Y": a | b,
        "exactly one of X and Y": a ^ b,
        "X without Y": a & ~b,
        "X or Y or Z": a | b | c,
        "at least two of X and Y and Z": (a & b) | (a & c) | (b & c),
    }
    for words, count, truth in KINDS:
        parts = ("X", "Y", "Z")[:count]
        made = Composite(words.format(*parts), parts, truth)
        assert (column(made, three, ("X", "Y", "Z")) == by_hand.pop(made.name)).all()
    assert not by_hand


def test_a_composite_is_unknown_where_a_part_is():
    either = Composite("X or Y", ("X", "Y"), KINDS[1][2])
    labels = np.array([[1, 0, 5], [np.nan, 1, 5], [0, 0, 5]], np.float32)
    np.testing.assert_array_equal(column(either, labels, ("X", "Y", "Z")), [1, np.nan, 0])


def test_without_has_both_orders_and_the_others_one():
    count = [len(kind) for kind in candidates(("P", "Q", "R", "S"))]
    assert count == [6, 6, 6, 12, 4, 4]


def test_the_draw_is_frequent_enough_unlike_and_of_all_kinds():
    labels_NC = made_labels(900)
    chosen = draw(labels_NC, PLAIN, count=48, seed=3, band=(0.05, 0.4))
    names = [composite.name for composite in chosen]
    assert len(set(names)) == 48 and not any("," in name for name in names)
    columns = np.stack([column(composite, labels_NC, PLAIN) for composite in chosen], axis=1)
    assert columns.mean(axis=0).min() >= 0.05 and columns.mean(axis=0).max() <= 0.4
    alike = np.abs(np.corrcoef(np.concatenate([labels_NC, columns], axis=1).T))
    assert (alike - np.eye(len(alike))).max() <= ALIKE + 1e-6  # so no copy and no complement
    kinds = [sum(words.split("{}")[1] in name for name in names) for words in ("{} without {}", "exactly one of {} and {}")]
    assert kinds[0] == 8 and sum("at least two" in name for name in names) == 8


def test_a_shorter_draw_begins_a_longer_one_and_the_seed_matters():
    labels_NC = made_labels(900)
    names = [[c.name for c in draw(labels_NC, PLAIN, count=k, seed=s)] for k, s in ((12, 0), (40, 0), (12, 1))]
    assert names[1][:12] == names[0] != names[2]


def test_too_many_are_refused():
    with pytest.raises(CxrError, match=r"only \d+ composites of these 3 findings"):
        draw(made_labels(300)[:, :3], ("P", "Q", "R"), count=200, seed=0)


def test_five_thirteen_and_more_are_nested(store, tmp_path):
    stores = {count: with_composites(store.folder, tmp_path / str(count), count=count) for count in (5, 13, 14, 30)}
    assert stores[5].findings == FIVE == ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion")
    assert set(NIH_FINDINGS) - set(stores[13].findings) == {"Hernia"}
    assert sorted(stores[14].findings) == sorted(NIH_FINDINGS)
    for fewer, more in itertools.pairwise((5, 13, 14, 30)):
        assert stores[more].findings[:fewer] == stores[fewer].findings
        np.testing.assert_array_equal(stores[more].labels_NC[:, :fewer], stores[fewer].labels_NC)
    assert len({one.sha256 for one in (*stores.values(), store)}) == 5


def test_the_new_store_is_whole_and_has_the_same_images(store, tmp_path):
    made = with_composites(store.folder, tmp_path / "out", count=25, seed=2)
    assert ImageStore.open(tmp_path / "out", verify="full").sha256 == made.sha256
    assert sha256_of(made.folder / "images.u8") == sha256_of(store.folder / "images.u8")
    assert made.n == store.n == 149 and len(made.findings) == made.labels_NC.shape[1] == 25
    for name in ("image", "patient", "split", "path", "file_width", "mode", "inverted", "view", "width"):
        assert made.table[name].equals(store.table[name]), name
    effusion = [store.findings.index("Effusion"), made.findings.index("Effusion")]
    np.testing.assert_array_equal(made.labels_NC[:, effusion[1]], store.labels_NC[:, effusion[0]])
    assert np.isnan(made.labels_NC[:, effusion[1]]).sum() == 1
    rows = {name: store.labels_NC[:, store.findings.index(name)] for name in NIH_FINDINGS}
    either = next(name for name in made.findings if name.count(" or ") == 1 and "Effusion" not in name)
    first, second = either.split(" or ")
    np.testing.assert_array_equal(made.labels_NC[:, made.findings.index(either)], np.maximum(rows[first], rows[second]))
    assert "11 of the 25 labels are composites of the findings, drawn with seed 2" in made.meta["notes"]
    assert len(made.boxes) == 2 and len(with_composites(store.folder, tmp_path / "five", count=5).boxes) == 1


def test_the_same_command_opens_and_another_is_refused(store, tmp_path):
    first = with_composites(store.folder, tmp_path / "out", count=16)
    assert with_composites(store.folder, tmp_path / "out", count=16).sha256 == first.sha256
    with pytest.raises(CxrError, match="holds another store"):
        with_composites(store.folder, tmp_path / "out", count=17)
    with pytest.raises(CxrError, match="ask for at least 1"):
        with_composites(store.folder, tmp_path / "none", count=0)
    with pytest.raises(CxrError, match="has no finding 'Infiltration'"):
        with_composites(with_composites(store.folder, tmp_path / "5", count=5).folder, tmp_path / "six", count=6)


def test_where_files_cannot_be_linked_they_are_copied(store, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr("os.link", refuse)
    made = with_composites(store.folder, tmp_path / "out", count=2)
    assert (made.folder / "images.u8").stat().st_nlink == 1
    assert ImageStore.open(tmp_path / "out", verify="full").findings == FIVE[:2]


def test_labels_that_settle_one_another_score_one_and_free_ones_half():
    rng = np.random.default_rng(0)
    labels_NC = (rng.random((600, 5)) < 0.4).astype(np.float32)
    labels_NC[:, 2] = labels_NC[:, 0] * labels_NC[:, 1]
    labels_NC[rng.random(600) < 0.1, 4] = np.nan
    told_C = label_only_auroc(labels_NC, np.arange(600) // 3)
    assert told_C[2] > 0.999  # and: a sum above a threshold, which a linear rule can draw
    assert 0.6 < told_C[0] < 0.95  # told in part by the conjunction
    assert abs(told_C[3] - 0.5) < 0.08 and abs(told_C[4] - 0.5) < 0.08


def test_patients_are_never_on_both_sides():
    # Labels known by heart per patient would be found by a split over images: pure noise, the same in every image of a patient.
    rng = np.random.default_rng(1)
    per_patient = (rng.random((40, 12)) < 0.5).astype(np.float32)
    told_C = label_only_auroc(np.repeat(per_patient, 10, axis=0), np.repeat(np.arange(40), 10))
    assert told_C.mean() < 0.6


def test_a_label_that_never_varies_and_a_lone_one_are_undefined():
    labels_NC = made_labels(120)[:, :3]
    labels_NC[:, 1] = 0
    told_C = label_only_auroc(labels_NC, np.arange(120))
    assert np.isnan(told_C[1]) and np.isfinite(told_C[[0, 2]]).all()
    assert np.isnan(label_only_auroc(labels_NC[:, :1], np.arange(120))).all()


def test_the_command_writes_a_store_and_a_table(store, tmp_path, capsys):
    assert main(["composites", str(store.folder), str(tmp_path / "out"), "--labels", "16", "--seed", "5"]) == 0
    out = capsys.readouterr().out
    assert len(ImageStore.open(tmp_path / "out").findings) == 16
    assert "AUROC from the other labels alone" in out and "149 images, 16 labels" in out
    assert main(["composites", str(tmp_path), str(tmp_path / "no"), "--labels", "16"]) == 2
    assert "is not a store" in capsys.readouterr().err


def test_the_study_puts_stores_together(store, tmp_path, monkeypatch):
    """Two tiny stores, two seeds: the shared labels are scored alike, and talking is the difference of two rows."""
    import dataclasses

    from cxrlib import comparison, comparisons, composites_study, recipes
    from cxrlib.metrics import auroc, macro

    mu = dataclasses.replace(recipes.mu(), image_size=9, patch_size=3, epochs=1)
    rows = tuple(
        comparisons.Row(name, name, dataclasses.replace(mu, model=model, options=options))
        for name, model, options in (("lt_vit", "lt_vit", {}), ("lt_vit_none", "lt_vit", {"label_attention": "none"}))
    )
    small = dataclasses.replace(comparisons.label_counts(), rows=rows, reference="lt_vit")
    monkeypatch.setattr(composites_study, "label_counts", lambda: small)
    folders = []
    for count in (16, 3):
        data = with_composites(store.folder, tmp_path / f"store{count}", count=count).folder
        folders.append(tmp_path / f"out{count}")
        for seed in (0, 1):
            for row in rows:
                comparison.train_row(row, seed, data=data, out=folders[-1], device="cpu")
        comparison.write(comparison.gather(small, folders[-1], (0, 1)), folders[-1] / "label_counts")
    result = composites_study.gather(folders, resamples=50)
    three, sixteen = result["counts"]
    assert (three["labels"], sixteen["labels"], result["shared"]) == (3, 16, list(PLAIN[:3]))
    assert three["rows"][0]["all"] == three["rows"][0]["shared"]
    for seed in (0, 1):
        with np.load(folders[0] / "runs" / f"lt_vit_none-seed{seed}" / "evaluation" / "test" / "predictions.npz") as file:
            by_hand = macro(auroc(file["logits_NC"][:, :3], file["labels_NC"][:, :3]))[0]
        assert sixteen["rows"][1]["shared"]["by_seed"][seed] == pytest.approx(by_hand)
    talk, (heard, silent) = sixteen["talk"]["all"], sixteen["rows"]
    assert talk["difference"] == pytest.approx(heard["all"]["macro"] - silent["all"]["macro"])
    assert talk["low"] <= talk["high"] and len(sixteen["label_only"]) == 16
    assert "talking is worth" in composites_study.as_text(result)
    assert composites_study.main([str(tmp_path / "no"), str(tmp_path / "nothing")]) == 2
