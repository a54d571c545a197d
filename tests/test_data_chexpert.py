"""CheXpert's tables: policies for uncertain labels, views, and rows that are odd in the genuine file."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrlib.data import ImageStore, prepare, read_chexpert, read_folder
from cxrlib.errors import CxrError
from cxrlib.findings import CHEXPERT_OBSERVATIONS

HEADER = "Path,Sex,Age,Frontal/Lateral,AP/PA," + ",".join(CHEXPERT_OBSERVATIONS)


def write_chexpert(folder: Path, *, root: str = "CheXpert-v1.0-small") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    blanks = "," * 11
    rows = [
        # The number of the view says nothing: view1 of the second study is a lateral.
        f"{root}/train/patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,0.0,-1.0{blanks}",
        f"{root}/train/patient00002/study5/view1_lateral.jpg,Male,0,Lateral,,,,1.0{blanks}",
        f"{root}/train/patient00002/study5/view2_frontal.jpg,Unknown,90,Frontal,LL,,,-1.0{blanks}",
    ]
    (folder / "train.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    valid = f"{root}/valid/patient64541/study1/view1_frontal.jpg,Male,73,Frontal,PA,0.0,1.0,1.0" + ",0.0" * 11
    (folder / "valid.csv").write_text(f"{HEADER}\n{valid}\n")
    return folder


@pytest.mark.parametrize("root", ["CheXpert-v1.0-small", "CheXpert-v1.0"])
def test_reading_under_either_root(tmp_path, root):
    studies = read_folder(write_chexpert(tmp_path, root=root))
    table = studies.table
    assert table["image"][0] == "train/patient00001/study1/view1_frontal.jpg"
    assert table["patient"].tolist() == ["patient00001", "patient00002", "patient00002", "patient64541"]
    assert table["view"].tolist() == ["AP", "lateral", "LL", "PA"]
    assert table["split"].tolist() == ["train_val"] * 3 + ["test"]
    assert table["follow_up"].tolist() == [1, 5, 5, 1]
    assert table["age"].tolist() == [68, 0, 90, 73] and any(
        "age 0, which is kept" in note for note in studies.notes
    )
    assert table["sex"].fillna("?").tolist() == ["F", "M", "?", "M"]
    assert studies.source == "chexpert" and len(studies.boxes) == 0


@pytest.mark.parametrize(("policy", "value"), [("nan", np.nan), ("ones", 1.0), ("zeros", 0.0)])
def test_policies_for_uncertain_labels(tmp_path, policy, value):
    column = read_chexpert(write_chexpert(tmp_path), uncertain=policy).table["Cardiomegaly"]
    np.testing.assert_array_equal(column, [value, 1, value, 1])


def test_a_policy_per_observation_and_blanks(tmp_path):
    write_chexpert(tmp_path)
    table = read_chexpert(tmp_path, uncertain={"Cardiomegaly": "ones"}, blank="nan").table
    np.testing.assert_array_equal(table["Cardiomegaly"], [1, 1, 1, 1])
    np.testing.assert_array_equal(table["Enlarged Cardiomediastinum"], [0, np.nan, np.nan, 1])
    assert read_chexpert(tmp_path).table["Enlarged Cardiomediastinum"].tolist() == [0, 0, 0, 1]
    for wrong in ("maybe", {"Cardiomegaly": "maybe"}, {"Heart": "ones"}):
        with pytest.raises(CxrError, match="policy|observation"):
            read_chexpert(tmp_path, uncertain=wrong)


def test_only_the_images_that_are_there(tmp_path):
    write_chexpert(tmp_path)
    path = tmp_path / "train/patient00002/study5/view2_frontal.jpg"
    path.parent.mkdir(parents=True)
    Image.new("L", (20, 16), 7).save(path)
    studies = read_chexpert(tmp_path)
    assert studies.table["path"].tolist() == ["train/patient00002/study5/view2_frontal.jpg"]
    assert any("1 of the table's 4 images" in note for note in studies.notes)


def test_a_value_outside_of_the_code_is_refused(tmp_path):
    write_chexpert(tmp_path)
    text = (tmp_path / "train.csv").read_text()
    (tmp_path / "train.csv").write_text(text.replace("1.0,0.0,-1.0", "1.0,0.5,-1.0"))
    with pytest.raises(CxrError, match="0.5 under Enlarged Cardiomediastinum"):
        read_chexpert(tmp_path)


@pytest.mark.skipif(
    importlib.util.find_spec("torchxrayvision") is None, reason="torchxrayvision is not installed"
)
def test_the_table_that_torchxrayvision_carries():
    folder = Path(next(iter(importlib.util.find_spec("torchxrayvision").submodule_search_locations))) / "data"
    studies = read_chexpert(folder)
    table = studies.table
    assert len(table) == 223_414 and table["patient"].nunique() == 64_540
    frontal = table["view"] != "lateral"
    assert int(frontal.sum()) == 191_027
    assert int((frontal & table["view"].isin(["LL", "RL"])).sum()) == 17
    assert int(table["sex"].isna().sum()) == 1 and int((table["age"] == 0).sum()) == 3


def test_a_store_keeps_unknown_labels_and_the_files_own_size(tmp_path):
    folder = write_chexpert(tmp_path / "chexpert")
    for name in read_chexpert(folder).table["image"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.linspace(0, 255, 390 * 320).reshape(320, 390).astype(np.uint8)).save(folder / name)
    studies = read_chexpert(folder, blank="nan")
    store = prepare(studies, tmp_path / "store", size=64, invert="auto")
    np.testing.assert_array_equal(store.labels_NC, studies.labels_NC())
    assert np.isnan(store.labels_NC).any() and store.findings == CHEXPERT_OBSERVATIONS
    assert store.table[["width", "height"]].drop_duplicates().to_numpy().tolist() == [[390, 320]]
    assert not store.table["inverted"][1]  # a lateral view is never judged
    assert (store.image(0)[:5] == 0).all()  # 64 x 53 in the middle: five black rows above


def test_the_mixed_policy_and_frontal_films_alone(tmp_path, capsys):
    """Uncertain is present for Atelectasis and Edema, absent for the rest; `--views frontal` leaves the lateral film out."""
    folder = tmp_path / "raw"
    write_chexpert(folder)
    rows = (folder / "train.csv").read_text().splitlines()
    odd = dict.fromkeys(CHEXPERT_OBSERVATIONS, "-1.0").values()
    rows.append("CheXpert-v1.0-small/train/patient00003/study1/view1_frontal.jpg,Male,40,Frontal,PA," + ",".join(odd))
    (folder / "train.csv").write_text("\n".join(rows) + "\n")
    for line in [*rows[1:], (folder / "valid.csv").read_text().splitlines()[1]]:
        path = folder / line.split(",")[0].split("/", 1)[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 32), dtype=np.uint8)).save(path)
    from cxrlib.cli import main

    status = main(["prepare", str(folder), str(tmp_path / "store"), "--size", "32", "--workers", "1", "--uncertain", "mixed", "--views", "frontal"])
    assert status == 0 and "1 lateral films are left out" in capsys.readouterr().out
    table = ImageStore.open(tmp_path / "store").table
    assert table["view"].tolist() == ["AP", "LL", "PA", "PA"]
    uncertain = table[table["patient"] == "patient00003"].iloc[0]
    assert [name for name in CHEXPERT_OBSERVATIONS if uncertain[name] == 1] == ["Edema", "Atelectasis"]
    assert all(uncertain[name] == 0 for name in CHEXPERT_OBSERVATIONS if name not in ("Edema", "Atelectasis"))
