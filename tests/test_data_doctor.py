"""The doctor: each thing that can be wrong is said, with its cure, and decides the exit code."""

import numpy as np
import pytest
from nih_folder import ROWS, film, label_table, write_nih
from PIL import Image
from test_data_chexpert import write_chexpert

from cxrlib.cli import main
from cxrlib.data import prepare, read_nih
from cxrlib.data.check_files import look_at
from cxrlib.data.checks import ERROR, NOTE, WARNING
from cxrlib.data.doctor import examine
from cxrlib.errors import CxrError


@pytest.fixture
def folder(tmp_path):
    """A folder with nothing to complain about: names, sizes, labels, boxes and splits all agree."""
    rows = tuple((image, labels, int(image[9:12]), *rest) for image, labels, _, *rest in ROWS)
    return write_nih(tmp_path / "nih", size=1024, rows=rows)


def said(folder, level: str, **options) -> str:
    return "\n".join(f"{c.what} -> {c.mend}" for c in examine(folder, **options) if c.level == level)


def test_a_sound_folder(folder, capsys):
    for full in (False, True):
        assert said(folder, ERROR, full=full) == said(folder, WARNING, full=full) == ""
    assert main(["doctor", str(folder), "--full"]) == 0
    assert "nothing to mend" in capsys.readouterr().out


def cut_off(folder):
    path = folder / "images" / ROWS[0][0]
    path.write_bytes(path.read_bytes()[:-200])


def empty_file(folder):
    (folder / "images" / ROWS[0][0]).write_bytes(b"")


def odd_size(folder):
    film(1024, 0).crop((0, 0, 1024, 700)).save(folder / "images" / ROWS[0][0])


def older_labels(folder):
    (folder / "Data_Entry_2017_v2020.csv").unlink()
    rows = tuple((row[0], "No Finding", *row[2:]) if row[0] == "00000003_000.png" else row for row in ROWS)
    (folder / "Data_Entry_2017.csv").write_bytes(label_table("2017", rows).encode())


def one_patient_in_two_splits(folder):
    (folder / "train_val_list.txt").write_text("00000001_000.png\n00000002_000.png\n00000004_000.png")
    (folder / "test_list.txt").write_text("00000001_001.png\n00000003_000.png\n00000005_000.png")


def one_image_in_two_splits(folder):
    with open(folder / "test_list.txt", "a") as file:
        file.write("\n00000002_000.png")


def box_in_training(folder):
    (folder / "train_val_list.txt").write_text("\n".join(row[0] for row in ROWS[:5]))
    (folder / "test_list.txt").write_text(ROWS[5][0])


def box_outside(folder):
    with open(folder / "BBox_List_2017.csv", "a") as file:
        file.write("00000003_000.png,Pleural_Thickening,900,10,200,50\n")


def another_patients_image(folder):
    path = folder / "Data_Entry_2017_v2020.csv"
    path.write_text(path.read_text().replace("Hernia,0,4,", "Hernia,0,44,"))


def unknown_label(folder):
    path = folder / "Data_Entry_2017_v2020.csv"
    path.write_text(path.read_text().replace("Hernia", "Hernea"))


def some_of_the_twelve(folder):
    for number in (1, 2, 3, 5):
        (folder / f"images_{number:03d}").mkdir()
        film(1024, number).save(folder / f"images_{number:03d}" / f"0000000{number}_009.png")


def other_names(folder):
    for path in sorted((folder / "images").iterdir()):
        path.rename(path.with_name("film_" + path.name))


ERRORS = {
    cut_off: "00000002_000.png is cut off -> copy or download it again",
    empty_file: "00000002_000.png is empty (0 bytes) -> copy or download it again",
    odd_size: "1 files have another size than 1024 x 1024 (00000002_000.png: 1024 x 700)",
    older_labels: (
        "1 of 1 boxes contradict their image's labels (2017 table) -> use NIH's newer table, "
        "Data_Entry_2017_v2020.csv"
    ),
    one_patient_in_two_splits: (
        "1 patients are in train_val_list.txt and in test_list.txt (such as patient 1)"
    ),
    one_image_in_two_splits: "1 images are in both",
    box_in_training: (
        "1 images with boxes are in train_val (00000003_000.png) -> use NIH's official split lists"
    ),
    box_outside: "1 boxes reach outside of their image (00000003_000.png)",
    another_patients_image: "1 rows give an image to another patient than its name does (00000004_000.png)",
    unknown_label: "'Hernea' is none of the 14 NIH findings",
    some_of_the_twelve: "only 4 of NIH's 12 image folders are there, images_004, images_006",
    other_names: (
        "none of the table's 6 images is here, though 6 image files are (such as film_00000001_000.png)"
    ),
}


@pytest.mark.parametrize("spoil", ERRORS, ids=lambda spoil: spoil.__name__)
def test_what_must_be_mended(folder, spoil, capsys):
    spoil(folder)
    assert ERRORS[spoil] in said(folder, ERROR)
    assert main(["doctor", str(folder)]) == 1
    out = capsys.readouterr().out
    assert "mend: " in out and "to mend" in out


def test_only_a_full_look_sees_damage_inside(folder):
    path = folder / "images" / ROWS[0][0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x55
    path.write_bytes(bytes(data))
    assert said(folder, ERROR) == ""
    assert "00000002_000.png is damaged" in said(folder, ERROR, full=True)


def test_what_is_to_be_thought_about(folder):
    images = folder / "images"
    film(1024, 9).save(images / "00000777_000.png")
    (images / ROWS[0][0]).unlink()
    path = images / ROWS[1][0]
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    (folder / "images_extra").mkdir()
    film(1024, 2).save(folder / "images_extra" / ROWS[2][0])
    (folder / "BBox_List_2017.csv").unlink()
    (folder / "test_list.txt").unlink()
    warnings = said(folder, WARNING, full=True)
    for what in (
        "1 of the table's 6 rows have no image here (00000002_000.png)",
        "1 images have no row in the label table (00000777_000.png)",
        "1 images lie in two places (images/00000001_001.png and images_extra/00000001_001.png)",
        "films that look inverted, bone black and air white: 1 (00000001_000.png)",
        "there is no table of boxes",
        "there is no test_list.txt",
    ):
        assert what in warnings
    assert said(folder, ERROR, full=True) == ""
    assert main(["doctor", str(folder), "--full"]) == 0


def test_notes_on_pixel_modes(folder):
    images = folder / "images"
    Image.open(images / ROWS[0][0]).convert("RGBA").save(images / ROWS[0][0])
    Image.fromarray(np.asarray(Image.open(images / ROWS[1][0])).astype(np.uint16) * 16).save(
        images / ROWS[1][0]
    )
    notes = said(folder, NOTE)
    assert "1 files are RGBA: read as grey (00000002_000.png)" in notes
    assert "1 files have 16 bits: scaled to 8 when they are read (00000001_000.png)" in notes


def test_images_without_any_table_are_looked_at_too(folder):
    (folder / "Data_Entry_2017_v2020.csv").unlink()
    cut_off(folder)
    errors = said(folder, ERROR)
    assert "no label table" in errors and "is cut off" in errors


def test_against_other_stores_and_lists(folder, tmp_path):
    studies = read_nih(folder)
    prepare(studies.subset(studies.where(split="train_val")), tmp_path / "train", size=32)
    prepare(studies.subset(studies.where(split="test")), tmp_path / "test", size=32)
    (tmp_path / "mine.txt").write_text("00000001_777.png\n00000009_000.png")
    assert said(folder, ERROR, against=(tmp_path / "train", tmp_path / "test")) == ""
    assert "1 patients are in" in said(folder, ERROR, against=(tmp_path / "train", tmp_path / "mine.txt"))
    assert "3 patients are in" in said(folder, ERROR, against=(tmp_path / "train",))
    assert said(tmp_path / "test", ERROR, against=(tmp_path / "train",)) == ""
    with pytest.raises(CxrError, match="neither a store nor a list"):
        examine(folder, against=(tmp_path / "nowhere",))


def test_a_store(folder, tmp_path):
    (folder / "images" / ROWS[0][0]).write_bytes(b"")
    prepare(read_nih(folder), tmp_path / "store", size=32)
    assert said(tmp_path / "store", ERROR) == ""
    assert "1 images were left out (00000002_000.png)" in said(tmp_path / "store", WARNING)
    with open(tmp_path / "store" / "images.u8", "r+b") as file:
        file.write(b"\x01\x02\x03")
    assert "block 0 of images.u8 was changed" in said(tmp_path / "store", ERROR)
    (tmp_path / "store" / "store.json").unlink()
    (tmp_path / "store" / "journal.jsonl").write_text("")
    assert "unfinished" in said(tmp_path / "store", ERROR)


def test_a_chexpert_folder(tmp_path):
    folder = write_chexpert(tmp_path)
    assert "no image of the table is here" in said(folder, ERROR)
    path = folder / "train/patient00002/study5/view2_frontal.jpg"
    path.parent.mkdir(parents=True)
    film(64, 1).save(path)
    assert said(folder, ERROR) == ""
    path.write_bytes(path.read_bytes()[:-100])
    assert "view2_frontal.jpg is cut off" in said(folder, ERROR)


def test_a_phantom_may_have_boxes_in_training(folder):
    (folder / "phantom.json").write_text("{}")
    box_in_training(folder)
    assert said(folder, ERROR) == ""
    assert "1 images with boxes are in train_val, as phantoms have" in said(folder, NOTE)


def test_the_genuine_folder(real_folder):
    complaints = examine(real_folder / "nih")
    assert [c for c in complaints if c.level == ERROR] == []
    notes = "\n".join(c.what for c in complaints)
    assert "generation v2020" in notes and "5 files are RGBA" in notes and "24106 rows" in notes


@pytest.mark.parametrize("tail", ["zeros", "zeros and an end", "no end"])
def test_full_notices_a_png_whose_tail_is_lost(folder, tail):
    path = folder / "images" / ROWS[0][0]
    film(64, 4).save(path)  # one chunk of pixels: no later chunk that Pillow would miss
    data = path.read_bytes()
    if tail == "no end":
        data = data[:-12]  # all pixels are there, and Pillow reads them; what followed nobody knows
    else:
        end = data[-12:] if tail == "zeros and an end" else b""
        data = data[: len(data) // 2].ljust(len(data) - len(end), b"\0") + end
    path.write_bytes(data)
    assert f"{path.name} is" in said(folder, ERROR, full=True).split(" -> ")[0]


def test_a_dicom_that_is_none_is_a_complaint(tmp_path):
    pytest.importorskip("pydicom")
    (tmp_path / "film.dcm").write_bytes(b"no film at all" * 40)
    for full in (False, True):
        look = look_at(tmp_path / "film.dcm", full=full)
        assert look.size is None and look.fault.startswith("film.dcm is not a readable DICOM")
