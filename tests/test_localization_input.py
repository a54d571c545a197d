"""Bad input to the scorer: one clear line each, and no table. And maps that stream through without piling up."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest

from cxrlib.data import read_nih
from cxrlib.errors import CxrError
from cxrlib.localization.boxes import Frame
from cxrlib.localization.matching import XYXY
from cxrlib.localization.predictions import read_predictions
from cxrlib.localization.stream import ImageMaps, candidates, read_maps
from cxrlib.localization.truth import check_boxes, truth_of
from nih_folder import ROWS, write_nih

BOXED = ("00000003_000.png", "Infiltration")


@pytest.fixture
def folder(tmp_path):
    """NIH's layout with images of 1,024-px frames, six of them, one boxed; here a few boxes more."""
    where = write_nih(tmp_path / "nih", images=False)
    lines = ["Image Index,Finding Label,Bbox [x,y,w,h],,,", "00000003_000.png,Infiltrate,100.5,200.25,300.75,80.5"]
    (where / "BBox_List_2017.csv").write_text("\n".join(lines) + "\n")
    return where


@pytest.fixture
def truth(folder):
    return truth_of(read_nih(folder))


def write(path, text: str):
    path.write_text(text)
    return path


GOOD = "image,finding,x0,y0,x1,y1\n00000003_000.png,Infiltration,90,200,400,290\n"


def test_a_good_table_is_read(tmp_path, truth):
    boxes, notes = read_predictions(write(tmp_path / "b.csv", GOOD), truth)
    assert boxes[["image", "finding"]].to_numpy().tolist() == [list(BOXED)] and boxes[XYXY].to_numpy().tolist() == [[90, 200, 400, 290]]
    assert notes == []


def test_other_peoples_column_names_are_known(tmp_path, truth):
    text = GOOD.replace("image,finding,x0,y0,x1,y1", "image_id,label,x_min,y_min,x_max,y_max").replace("Infiltration", "Infiltrate")
    boxes, _ = read_predictions(write(tmp_path / "b.csv", text), truth)
    assert boxes["finding"].tolist() == ["Infiltration"]


BAD = {
    "an empty file": ("", "is empty"),
    "a header alone": ("image,finding,x0,y0,x1,y1\n", "is empty"),
    "a missing column": (GOOD.replace("x1", "xx"), "lacks the columns x1"),
    "a missing class": (GOOD.replace("Infiltration", "Mass"), "has nothing for Infiltration"),
    "an unknown finding": (GOOD.replace("Infiltration", "Infiltratoin"), "'Infiltratoin' is none of the 14 NIH findings"),
    "an unknown image": (GOOD + "nobody.png,Infiltration,1,2,3,4\n", r"1 images of .* are not in the data \(such as nobody.png\)"),
    "a repeated row": (GOOD + GOOD.splitlines()[1] + "\n", "1 predicted boxes are there twice"),
    "no number": (GOOD.replace("290", "n/a"), "line 2 .* has no number under y1"),
    "NaN": (GOOD.replace("290", "nan"), "line 2 .* has no number under y1"),
    "infinity": (GOOD.replace("290", "inf"), "a coordinate that is no number"),
    "no area": (GOOD.replace("400", "90"), "have no area"),
    "corners swapped": (GOOD.replace("400", "80"), "have no area"),
    "outside": (GOOD.replace("400", "1100"), r"reach outside of their image \(the first: Infiltration on 00000003_000.png, 90, 200, 1100, 290\)"),
    "left of it": (GOOD.replace("90,", "-9,"), "reach outside of their image"),
    "mixed frames": (
        "image,finding,x0,y0,x1,y1,width,height\n00000003_000.png,Infiltration,90,200,400,290,1024,1024\n"
        "00000003_000.png,Infiltration,20,40,80,60,224,224\n",
        r"1 boxes of .* are in another frame than the data's \(the first: 00000003_000.png has the width 1024, the file says 224\)",
    ),
    "a small frame": (
        "image,finding,x0,y0,x1,y1\n" + "".join(f"00000003_000.png,Infiltration,{k},4,224,{200 + k}\n" for k in range(12)),
        r"smaller frame \(none reaches beyond 224\), the images have 1024 pixels",
    ),
    "shares": (
        "image,finding,x0,y0,x1,y1\n" + "".join(f"00000003_000.png,Infiltration,.{k},0.1,1,0.5\n" for k in range(1, 12)),
        "seem to be shares of the image",
    ),
    "no image name": (GOOD.replace("00000003_000.png", ""), "line 2 .* lacks an image or a finding"),
    "no box that counts": ("image,finding,x0,y0,x1,y1\n00000001_000.png,Infiltration,1,2,300,400\n", "no box for any image and finding"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_tables_of_boxes_end_with_one_line(tmp_path, truth, case):
    text, message = BAD[case]
    with pytest.raises(CxrError, match=message) as caught:
        read_predictions(write(tmp_path / "b.csv", text), truth)
    assert "\n" not in str(caught.value)


def test_a_binary_or_absent_file(tmp_path, truth):
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00\x81" * 9)
    with pytest.raises(CxrError, match="cannot be read as a table"):
        read_predictions(tmp_path / "b.csv", truth)
    with pytest.raises(CxrError, match="does not exist"):
        read_predictions(tmp_path / "none.csv", truth)


def test_boxes_of_a_smaller_square_are_carried_to_the_original(tmp_path, truth):
    path = write(tmp_path / "b.csv", "image,finding,x0,y0,x1,y1\n00000003_000.png,Infiltration,28,56,112,224\n")
    boxes, _ = read_predictions(path, truth, frame=224)
    np.testing.assert_allclose(boxes[XYXY].to_numpy(), [[128, 256, 512, 1024]])
    with pytest.raises(CxrError, match="beyond the 112 x 112 pixels"):
        read_predictions(path, truth, frame=112)


def test_labels_of_2017_with_boxes_of_v2020_are_refused(tmp_path):
    rows = [row if row[0] != BOXED[0] else (row[0], "Pleural_Thickening", *row[2:]) for row in ROWS]
    old = write_nih(tmp_path / "old", generation="2017", images=False, rows=rows)
    with pytest.raises(CxrError, match=r"1 of 1 boxes contradict the 2017 labels \(such as 00000003_000.png\): use Data_Entry_2017_v2020"):
        truth_of(read_nih(old))


def test_true_boxes_that_are_wrong_are_refused(folder):
    box = folder / "BBox_List_2017.csv"
    text = box.read_text()
    box.write_text(text.replace("300.75", "1000"))
    with pytest.raises(CxrError, match="1 true boxes reach outside"):
        truth_of(read_nih(folder))
    box.write_text(text + text.splitlines()[1] + "\n")
    with pytest.raises(CxrError, match="1 true boxes are there twice"):
        truth_of(read_nih(folder))


def test_a_split_or_a_choice_of_findings_without_boxes(folder):
    studies = read_nih(folder)
    with pytest.raises(CxrError, match="train_val split has no boxes"):
        truth_of(studies, split="train_val")
    with pytest.raises(CxrError, match="has no boxes to score against"):
        truth_of(studies, findings=("Mass",))
    assert len(truth_of(studies, split=None).boxes) == 1


def test_boxes_may_touch_the_border_within_a_pixel():
    boxes = pd.DataFrame([("a", "Mass", -0.4, 0, 64.6, 64, 64, 64)], columns=["image", "finding", *XYXY, "width", "height"])
    check_boxes(boxes, "predicted")


# --- maps ---


def maps_of(image=BOXED[0], findings=("Infiltration", "Mass"), value=None, **options) -> ImageMaps:
    map_Cyx = np.random.default_rng(0).random((len(findings), 4, 4)) if value is None else value
    return ImageMaps(image, findings, map_Cyx, **options)


def test_maps_become_candidates_at_every_level(truth):
    table = candidates(truth.boxes, [maps_of("00000001_000.png"), maps_of()], levels=(0.3, 0.6))
    assert table["image"].eq(BOXED[0]).all() and table["finding"].eq(BOXED[1]).all() and table["level"].tolist() == [0.3, 0.6]
    assert (table["x1"] > table["x0"]).all()


NAN = np.full((1, 4, 4), np.nan)


@pytest.mark.parametrize(
    "maps, message",
    [
        ([], r"1 of 1 images with true boxes have no map \(such as 00000003_000.png\)"),
        ([maps_of(findings=("Mass",))], "has a true box of Infiltration but no map of it"),
        ([maps_of(findings=("Infiltration",), value=NAN)], "Infiltration on 00000003_000.png: a map holds 16 values that are NaN"),
        ([maps_of(frame=Frame(1024, 512))], r"for an image of 1024 x 512 pixels \(width x height\), the data says 1024 x 1024"),
        ([maps_of(), maps_of()], "two sets of maps for 00000003_000.png"),
        ([maps_of(value=np.zeros((2, 0, 4)))], "at least one cell"),
    ],
)
def test_bad_maps_end_with_one_line(truth, maps, message):
    with pytest.raises(CxrError, match=message):
        candidates(truth.boxes, maps)


def save(folder, name="00000003_000", **arrays):
    folder.mkdir(exist_ok=True)
    np.savez(folder / f"{name}.npz", **({"maps": np.random.default_rng(0).random((1, 4, 4)), "findings": ["Infiltration"]} | arrays))
    return folder


def test_saved_maps_are_read(tmp_path, truth):
    folder = save(tmp_path / "maps", frame=[1024, 1024])
    save(folder, "00000001_000", findings=["Mass"])  # no true box: not looked at
    [item] = read_maps(folder, truth)
    assert item.image == BOXED[0] and item.findings == ("Infiltration",) and item.frame == (1024, 1024)


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"findings": ["Mass"]}, "has a true box of Infiltration but no map of it"),
        ({"findings": ["Lump"]}, "'Lump' is none"),
        ({"maps": np.zeros((4, 4))}, r"must be \[C, y, x\]"),
        ({"maps": np.zeros((2, 4, 4)), "findings": ["Infiltration", "Infiltrate"]}, "names a finding twice"),
        ({"cxr_dims": [1024, 2048]}, "1024 x 2048 pixels .width x height., the data says 1024 x 1024"),
        ({"findings": np.array(["Infiltration", None], dtype=object)}, "cannot be read"),
    ],
)
def test_bad_saved_maps_end_with_one_line(tmp_path, truth, arrays, message):
    with pytest.raises(CxrError, match=message):
        candidates(truth.boxes, read_maps(save(tmp_path / "maps", **arrays), truth))


def test_maps_without_arrays_folders_without_maps_and_names_of_nobody(tmp_path, truth):
    with pytest.raises(CxrError, match="holds no .npz"):
        read_maps(tmp_path, truth)
    np.savez(tmp_path / "00000003_000.npz", map=np.zeros((1, 2, 2)))
    with pytest.raises(CxrError, match="lacks the array maps, findings"):
        list(read_maps(tmp_path, truth))
    save(tmp_path, "stranger")
    with pytest.raises(CxrError, match="1 images .* not in the data .such as stranger.npz"):
        read_maps(tmp_path, truth)


def test_memory_does_not_grow_with_the_number_of_images(truth):
    def peak(count: int) -> int:
        names = [f"{k}.png" for k in range(count)]
        boxes = pd.concat([truth.boxes.assign(image=name) for name in names], ignore_index=True)
        maps = (maps_of(name, ("Infiltration",), np.random.default_rng(0).random((1, 8, 8))) for name in names)
        tracemalloc.start()
        try:
            candidates(boxes, maps, levels=(0.5,), size=256)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(2)  # imports
    assert peak(60) < peak(3) + 2**20  # a map at 256 x 256 is a quarter of that; what is kept per image is a row
