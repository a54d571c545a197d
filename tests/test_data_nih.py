"""NIH's tables in every generation, their boxes and splits, images in one folder or in twelve."""

import gzip
import importlib.util

import numpy as np
import pytest
from nih_folder import BOXES, ROWS, film, label_table, write_nih

from cxrlib.data import read_folder, read_nih
from cxrlib.data.nih import contradicted_boxes, packaged_tables, read_boxes
from cxrlib.errors import CxrError
from cxrlib.findings import NIH_FINDINGS


@pytest.mark.parametrize("generation", ["2017", "v2020", "v2020-sex", "kaggle"])
def test_every_generation_gives_the_same_table(tmp_path, generation):
    studies = read_nih(write_nih(tmp_path, generation=generation))
    table = studies.table.set_index("image")
    assert studies.generation == generation.removesuffix("-sex") and studies.source == "nih"
    assert studies.findings == NIH_FINDINGS and studies.labels_NC().dtype == np.float32
    assert table.index.tolist() == [row[0] for row in ROWS]  # the table's order, not the names'
    assert table["patient"].tolist() == ["2", "1", "1", "3", "4", "5"]
    assert table["follow_up"].tolist() == [0, 0, 7, 0, 0, 0]
    assert table["sex"].tolist() == ["M", "F", "F", "M", "F", "M"]
    assert table["view"].tolist() == ["PA", "PA", "AP", "PA", "PA", "AP"]
    assert table["split"].tolist() == ["train_val"] * 3 + ["test", "train_val", "test"]
    positives = [{name for name in NIH_FINDINGS if table.loc[image, name] == 1} for image in table.index]
    assert positives == [set(row[1].split("|")) - {"No Finding"} for row in ROWS]
    assert studies.labels_NC().sum() == 6


@pytest.mark.parametrize("generation", ["2017", "kaggle"])
def test_ages_with_units(tmp_path, generation):
    studies = read_nih(write_nih(tmp_path, generation=generation))
    ages = studies.table["age"].to_numpy()
    np.testing.assert_allclose(ages[[0, 1, 3, 5]], [81, 58, 1.5, 1 / 365.25])
    assert np.isnan(ages[4])
    assert any("1 ages are above 100 (up to 414)" in note for note in studies.notes)


def test_both_generations_beside_each_other_read_the_newer(tmp_path):
    write_nih(tmp_path)
    (tmp_path / "Data_Entry_2017.csv").write_bytes(label_table("2017").encode())
    studies = read_nih(tmp_path)
    assert studies.generation == "v2020" and any("was not read" in note for note in studies.notes)
    assert read_nih(tmp_path, labels=tmp_path / "Data_Entry_2017.csv").generation == "2017"


def test_gzipped_tables_in_another_folder(tmp_path):
    folder, other = write_nih(tmp_path / "images_only"), tmp_path / "tables"
    (other / "splits").mkdir(parents=True)
    (other / "metadata").mkdir()
    for name in ("Data_Entry_2017_v2020.csv", "BBox_List_2017.csv"):
        with gzip.open(other / "metadata" / f"{name}.gz", "wb") as file:
            file.write((folder / name).read_bytes())
        (folder / name).unlink()
    for name in ("train_val_list.txt", "test_list.txt"):
        (folder / name).rename(other / "splits" / name)
    with pytest.raises(CxrError, match="--metadata"):
        read_nih(folder)
    studies = read_folder(folder, metadata=other)
    assert len(studies) == 6 and len(studies.boxes) == 1 and len(studies.where(split="test")) == 2


@pytest.mark.parametrize(
    "header", ["Image Index,Finding Label,Bbox [x,y,w,h],,,", "Image Index,Finding Label,x,y,w,h"]
)
@pytest.mark.parametrize("tail", ["", ",,,"])
def test_both_box_headers(tmp_path, header, tail):
    (tmp_path / "boxes.csv").write_text(f"{header}\n{BOXES}{tail}\n")
    box = read_boxes(tmp_path / "boxes.csv").iloc[0]
    assert (box["image"], box["finding"]) == ("00000003_000.png", "Infiltration")
    assert box[["x0", "y0", "x1", "y1"]].tolist() == [100.5, 200.25, 401.25, 280.75]


@pytest.mark.parametrize("line", ["a.png,Mass,1,2,3,", "a.png,Mass,1,2,x,4", "a.png,Mass,1,2,0,4"])
def test_a_box_without_numbers_is_refused(tmp_path, line):
    (tmp_path / "boxes.csv").write_text(f"header\n{BOXES}\n{line}\n")
    with pytest.raises(CxrError, match="line 3 .*not a box"):
        read_boxes(tmp_path / "boxes.csv")


def test_twelve_folders_read_like_one(tmp_path):
    flat, twelve = read_nih(write_nih(tmp_path / "a")), read_nih(write_nih(tmp_path / "b", twelve=True))
    assert flat.table.drop(columns="path").equals(twelve.table.drop(columns="path"))
    assert flat.table["path"][2] == "images/00000001_001.png"
    assert twelve.table["path"][2] == "images_003/images/00000001_001.png"
    assert any("6 images have no row" in note for note in twelve.notes)


def test_a_part_of_the_images_cuts_the_table_and_says_so(tmp_path):
    write_nih(tmp_path)
    (tmp_path / "images" / "00000003_000.png").unlink()
    (tmp_path / "images" / "._00000001_000.png").write_bytes(b"what macOS leaves behind")
    studies = read_nih(tmp_path)
    assert len(studies) == 5 and len(studies.boxes) == 0
    assert any("5 of the table's 6 images are here" in note for note in studies.notes)
    whole = read_nih(write_nih(tmp_path / "none", images=False))
    assert len(whole) == 6 and (whole.table["path"] == "").all() and len(whole.boxes) == 1


def test_an_image_in_two_places_is_noted(tmp_path):
    write_nih(tmp_path, twelve=True)
    film(64, 7).save(tmp_path / "images_012" / "images" / "00000001_000.png")
    assert any(
        "images_002/images/00000001_000.png and in images_012" in note for note in read_nih(tmp_path).notes
    )


def test_repeated_rows(tmp_path):
    studies = read_nih(write_nih(tmp_path / "same", rows=(*ROWS, ROWS[1])))
    assert len(studies) == 6 and any("repeated word for word" in note for note in studies.notes)
    other = (ROWS[1][0], "Mass", *ROWS[1][2:])
    with pytest.raises(CxrError, match="two different rows for 00000001_000.png"):
        read_nih(write_nih(tmp_path / "other", rows=(*ROWS, other)))


@pytest.mark.parametrize("labels", ["Pneumonitis", "Mass|", "No Finding|Mass", ""])
def test_unknown_or_impossible_labels_are_refused(tmp_path, labels):
    with pytest.raises(CxrError, match="00000009_000.png|line 8"):
        read_nih(write_nih(tmp_path, rows=(*ROWS, ("00000009_000.png", labels, 0, 9, "050Y", "M", "PA"))))


def test_a_patient_or_an_image_on_both_sides_of_the_split_is_refused(tmp_path):
    write_nih(tmp_path)
    (tmp_path / "test_list.txt").write_text("00000003_000.png\n00000001_001.png")
    (tmp_path / "train_val_list.txt").write_text("00000001_000.png\n00000002_000.png")
    with pytest.raises(CxrError, match="1 patients have images in two splits .*patient 1 "):
        read_nih(tmp_path)
    (tmp_path / "train_val_list.txt").write_text("00000003_000.png")
    with pytest.raises(CxrError, match="00000003_000.png is in train_val_list.txt and in test_list.txt"):
        read_nih(tmp_path)


def test_labels_that_contradict_boxes_are_counted(tmp_path):
    rows = tuple((row[0], "No Finding", *row[2:]) if row[0] == "00000003_000.png" else row for row in ROWS)
    studies = read_nih(write_nih(tmp_path, generation="2017", rows=rows))
    assert contradicted_boxes(studies)["image"].tolist() == ["00000003_000.png"]
    assert "1 of 1 boxes contradict their image's labels" in studies.notes


def test_a_phantoms_boxes_are_in_its_own_pixels(tmp_path):
    write_nih(tmp_path)
    (tmp_path / "phantom.json").write_text("{}")
    studies = read_nih(tmp_path)
    assert studies.source == "phantom"
    assert studies.table[["width", "height"]].iloc[0].tolist() == [2682, 2749]  # what the table states


def test_a_file_that_is_no_table_is_refused(tmp_path):
    write_nih(tmp_path)
    (tmp_path / "Data_Entry_2017_v2020.csv").write_text("name,label\na,b\n")
    with pytest.raises(CxrError, match="not an NIH label table"):
        read_nih(tmp_path)
    with pytest.raises(CxrError, match="does not exist"):
        read_nih(tmp_path / "nowhere")


POSITIVES = {  # train_val, test; NIH v2020
    "Atelectasis": (8280, 3279), "Cardiomegaly": (1707, 1069), "Effusion": (8659, 4658), "Infiltration": (13782, 6112),
    "Mass": (4034, 1748), "Nodule": (4708, 1623), "Pneumonia": (876, 555), "Pneumothorax": (2637, 2665),
    "Consolidation": (2852, 1815), "Edema": (1378, 925), "Emphysema": (1423, 1093), "Fibrosis": (1251, 435),
    "Pleural_Thickening": (2242, 1143), "Hernia": (141, 86),
}  # fmt: skip
BOXES_PER_FINDING = {
    "Atelectasis": 180, "Cardiomegaly": 146, "Effusion": 153, "Infiltration": 123, "Mass": 85, "Nodule": 79,
    "Pneumonia": 120, "Pneumothorax": 98,
}  # fmt: skip


@pytest.mark.skipif(
    importlib.util.find_spec("torchxrayvision") is None, reason="torchxrayvision is not installed"
)
def test_the_whole_table_that_torchxrayvision_carries():
    studies = packaged_tables()
    assert len(studies) == 112_120 and studies.table["patient"].nunique() == 30_805
    assert studies.generation == "v2020" and len(contradicted_boxes(studies)) == 0
    sums = studies.table[list(NIH_FINDINGS)].sum()
    assert {name: int(sums[name]) for name in NIH_FINDINGS} == {
        name: sum(pair) for name, pair in POSITIVES.items()
    }
    assert int((studies.labels_NC().sum(axis=1) == 0).sum()) == 50_500 + 9_861
    assert studies.boxes["finding"].value_counts().to_dict() == BOXES_PER_FINDING
    assert studies.boxes["image"].nunique() == 880
    assert (studies.table["age"].min(), studies.table["age"].max()) == (0, 95)


def test_the_official_split(real_folder, tmp_path):
    studies = read_nih(tmp_path, metadata=real_folder / "nih")
    parts = {split: studies.table.iloc[studies.where(split=split)] for split in ("train_val", "test")}
    assert {split: len(part) for split, part in parts.items()} == {"train_val": 86_524, "test": 25_596}
    assert {split: part["patient"].nunique() for split, part in parts.items()} == {
        "train_val": 28_008,
        "test": 2_797,
    }
    for name, counts in POSITIVES.items():
        assert tuple(int(parts[split][name].sum()) for split in ("train_val", "test")) == counts
    assert set(studies.boxes["image"]) <= set(parts["test"]["image"])


def test_the_real_folders(real_folder):
    studies = read_nih(real_folder / "nih")
    assert len(studies) == 203 and studies.table["patient"].nunique() == 191
    assert studies.boxes["image"].nunique() == 32
    mini = read_nih(real_folder / "nih_mini256", metadata=real_folder / "nih")
    assert (len(mini.where(split="train_val")), len(mini.where(split="test"))) == (1320, 188)
    assert mini.table["patient"].nunique() == 1204 and (mini.table["width"] == 1024).all()


def test_the_kaggle_excerpt(real_folder, tmp_path):
    studies = read_nih(tmp_path, labels=real_folder / "nih" / "metadata" / "kaggle_sample_labels.EXCERPT.csv")
    assert studies.generation == "kaggle" and studies.table["age"].tolist() == [60, 57, 77, 79, 55]
