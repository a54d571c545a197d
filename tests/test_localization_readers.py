"""Other people's boxes and masks: hand-made files of every form, pycocotools where it is there, and the genuine files."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxrlib.errors import CxrError
from cxrlib.localization.matching import XYXY, match, overlaps
from cxrlib.localization.readers import consensus, read_annotations, read_vindr
from cxrlib.localization.shapes import decode_rle, mask_box, polygon_mask


def write(path: Path, content) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


# --- run lengths ---

SIX = np.array([[mark == "#" for mark in row] for row in "...... .##... .####. ..###. ...... ......".split()])


def test_run_lengths_go_down_the_columns():
    mask = decode_rle({"size": [3, 2], "counts": [1, 2, 0, 1, 2]})
    assert mask.tolist() == [[False, True], [True, False], [True, False]]
    # Columns of SIX: 0 empty; 1 has rows 1-2; 2 rows 1-3; 3 rows 2-3; 4 rows 2-3; 5 empty.
    runs = [7, 2, 5 - 1, 3, 5 - 1, 2, 4, 2, 8]
    assert np.array_equal(decode_rle({"size": [6, 6], "counts": runs}), SIX)


def test_compressed_run_lengths_by_hand():
    """'0' is 0 and '1' to '?' are 1 to 15; 16 needs two digits; from the fourth run on the run two before is taken off."""
    assert decode_rle({"size": [2, 3], "counts": "132"}).T.ravel().tolist() == [False] + [True] * 3 + [False] * 2
    # runs 1 2 3 1: the last is stored as 1 - 2 = -1, 31 in five bits with the sign bit set: chr(31 + 48) = 'O'
    assert decode_rle({"size": [7, 1], "counts": "123O"})[:, 0].tolist() == [False, True, True, False, False, False, True]
    # 16 is 10000 in binary, and alone its top bit would read as a minus sign: digits 16 (+32: goes on) and 0
    assert not decode_rle({"size": [4, 4], "counts": "`0"}).any()
    assert decode_rle({"size": [2320, 2828], "counts": "PVWX6"}).sum() == 0  # an empty mask of CheXlocalize


def test_run_lengths_are_pycocotools():
    coco = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    for share in (0.02, 0.5, 0.97):
        mask = rng.random((23, 17)) < share
        code = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert np.array_equal(decode_rle({"size": code["size"], "counts": code["counts"].decode()}), mask)


@pytest.mark.parametrize(
    "rle, message",
    [
        ({"size": [3, 2], "counts": [1, 2]}, "add up to 3 pixels, the mask has 3 x 2"),
        ({"size": [3, 2], "counts": [8, -2]}, "size or its code is wrong"),
        ({"size": [3, 2], "counts": "1 2"}, "does not occur"),
        ({"size": [3, 2], "counts": "`"}, "ends in the middle"),
        ({"counts": "1"}, "needs size"),
    ],
)
def test_broken_run_lengths_are_refused(rle, message):
    with pytest.raises(CxrError, match=message):
        decode_rle(rle)


# --- polygons ---


def test_a_polygon_covers_the_pixels_whose_centres_it_holds():
    square = polygon_mask([[[2, 1], [5, 1], [5, 4], [2, 4]]], width=6, height=6)
    assert square.sum() == 9 and mask_box(square).tolist() == [2, 1, 5, 4]
    assert np.array_equal(square, polygon_mask([[2, 1, 5, 1, 5, 4, 2, 4]], width=6, height=6))  # COCO's flat form
    triangle = polygon_mask([[[0, 0], [6, 6], [0, 6]]], width=6, height=6)
    assert np.array_equal(triangle | np.eye(6, dtype=bool), np.tril(np.ones((6, 6), bool)))  # centres on the edge itself: either


def test_polygons_equal_matplotlibs():
    from matplotlib.path import Path as Outline

    rng = np.random.default_rng(0)
    y, x = np.mgrid[:19, :23] + 0.5
    for _ in range(30):
        corners = rng.uniform(-4, 26, (rng.integers(3, 6), 2))
        if len(corners) > 3:  # convex, since crossing outlines are filled by another rule there
            from scipy.spatial import ConvexHull

            corners = corners[ConvexHull(corners).vertices]
        inside = Outline(corners).contains_points(np.stack([x.ravel(), y.ravel()], axis=1)).reshape(x.shape)
        assert np.array_equal(polygon_mask([corners.tolist()], width=23, height=19), inside)


def test_a_hole_an_empty_mask_and_bad_polygons():
    bow = polygon_mask([[[0, 0], [6, 0], [6, 6], [0, 6], [0, 0], [2, 2], [2, 4], [4, 4], [4, 2], [2, 2]]], width=6, height=6)
    assert bow.sum() == 32 and not bow[3, 3]
    assert np.isnan(mask_box(np.zeros((3, 3), bool))).all()
    for polygon in ([[1, 1], [2, 2]], [[1, 1], [2, 2], [np.nan, 3]], ["a", "b", "c"], [1, 2, 3]):
        with pytest.raises(CxrError, match="polygon"):
            polygon_mask([polygon], width=6, height=6)


# --- files of every form ---


def test_chestx_det(tmp_path):
    polygon = [[10, 20], [40, 20], [40, 60], [10, 60]]
    path = write(tmp_path / "a.json", [
        {"file_name": "1.png", "syms": ["Pleural Thickening", "Calcification", "Calcification"], "boxes": [[10, 20, 40, 60], [0, 0, 5, 5], [8, 8, 9, 9]],
         "polygons": [polygon, [[0, 0], [5, 0], [5, 5], [0, 5]], [[8, 8], [9, 8], [9, 9], [8, 9]]]},
        {"file_name": "2.png", "syms": [], "boxes": [], "polygons": []},
    ])  # fmt: skip
    read = read_annotations(path)
    assert read.boxes["finding"].tolist() == ["Pleural_Thickening", "Calcification", "Calcification"] and len(read.frames) == 2
    assert mask_box(read.mask("1.png", "Pleural_Thickening")).tolist() == [10, 20, 40, 60]
    assert read.mask("1.png", "Calcification").sum() == 26
    assert len(read.truth(findings=("Calcification",)).boxes) == 2
    with pytest.raises(CxrError, match="no mask of Mass"):
        read.mask("1.png", "Mass")


def test_chexlocalize_sizes_are_height_by_width(tmp_path):
    code = {"size": [3, 2], "counts": [1, 2, 0, 1, 2]}
    empty = {"size": [3, 2], "counts": [6]}
    read = read_annotations(write(tmp_path / "s.json", {"patient1_study1_view1_frontal": {"Pleural Effusion": code, "Edema": empty, "Lung Lesion": code}}))
    assert read.frames[["width", "height"]].to_numpy().tolist() == [[2, 3]]
    assert read.boxes["finding"].tolist() == ["Effusion", "Lung Lesion"] and read.boxes[XYXY].to_numpy()[0].tolist() == [0, 0, 2, 3]
    assert read.mask("patient1_study1_view1_frontal", "Effusion").shape == (3, 2)
    drawn = {"p": {"img_size": [6, 9], "Cardiomegaly": [[[2.0, 1.0], [8.0, 1.0], [8.0, 4.0], [2.0, 4.0]]]}}
    read = read_annotations(write(tmp_path / "p.json", drawn))
    assert read.boxes[XYXY].to_numpy().tolist() == [[2, 1, 8, 4]] and read.frames["width"].tolist() == [9]


def test_coco(tmp_path):
    content = {
        "categories": [{"id": 7, "name": "Mass"}, {"id": 9, "name": "PulmonaryTuberculosis"}],
        "images": [{"id": 1, "file_name": "a/1.png", "width": 9, "height": 6}],
        "annotations": [
            {"image_id": 1, "category_id": 7, "bbox": [1, 2, 3.5, 2], "segmentation": [[1, 2, 4, 2, 4, 4, 1, 4]]},
            {"image_id": 1, "category_id": 7, "bbox": [0, 0, 1, 1], "segmentation": {"size": [6, 9], "counts": [0, 1, 53]}, "iscrowd": 1},
            {"image_id": 1, "category_id": 9, "bbox": [0, 0, 9, 6]},
        ],
    }
    read = read_annotations(write(tmp_path / "c.json", content))
    assert read.boxes[XYXY].to_numpy().tolist() == [[1, 2, 4.5, 4], [0, 0, 1, 1], [0, 0, 9, 6]]
    assert read.mask("a/1.png", "Mass").sum() == 7
    content["annotations"][0]["category_id"] = 8
    with pytest.raises(CxrError, match="no whole COCO json"):
        read_annotations(write(tmp_path / "c.json", content))


VINDR = """image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max
a,No finding,14,R1,,,,
a,Pleural effusion,10,R2,100,100,200,200
a,Pleural effusion,10,R3,110,100,210,200
a,Pleural effusion,10,R3,500,500,600,600
b,Pulmonary fibrosis,13,R1,10,10,20,30
"""


def test_vindr_and_its_several_readers(tmp_path):
    path = write(tmp_path / "v.csv", VINDR)
    agreed = read_annotations(path)
    assert agreed.boxes[["image", "finding", *XYXY, "readers"]].to_numpy().tolist() == [["a", "Effusion", 105.0, 100.0, 205.0, 200.0, 2]]
    every = read_vindr(path, at_least=1)
    assert every.boxes["reader"].tolist() == ["R2", "R3", "R3", "R1"] and every.boxes["finding"].tolist()[-1] == "Fibrosis"
    with pytest.raises(CxrError, match="how large its images are"):
        agreed.truth()
    assert len(read_vindr(path, sizes={"a": (900, 800), "b": (50, 50)}).truth().boxes) == 1


def test_one_readers_two_boxes_are_never_merged():
    boxes = pd.DataFrame({"image": "a", "finding": "Mass", "x0": 0.0, "y0": 0.0, "x1": [10.0, 9, 10], "y1": 10.0, "reader": ["R1", "R1", "R2"]})
    merged = consensus(boxes, at_least=2)
    assert len(merged) == 1 and merged["readers"].tolist() == [2] and merged["x1"].tolist() == [10.0]


def test_rsna(tmp_path):
    path = write(tmp_path / "r.csv", "patientId,x,y,width,height,Target\nu,,,,,0\nv,264.0,152.0,213.0,379.0,1\nv,264.0,152.0,213.0,379.0,1\n")
    read = read_annotations(path)
    assert read.boxes.to_numpy().tolist() == [["v", "Pneumonia", 264.0, 152.0, 477.0, 531.0]] and len(read.frames) == 2


def test_nihs_own_table(tmp_path):
    path = write(tmp_path / "BBox_List_2017.csv", "Image Index,Finding Label,Bbox [x,y,w,h],,,\n00000013_005.png,Infiltrate,60,200,90,100\n")
    read = read_annotations(path)
    assert read.boxes.to_numpy().tolist() == [["00000013_005.png", "Infiltration", 60.0, 200.0, 150.0, 300.0]]


@pytest.mark.parametrize("content, message", [("{", "cannot be read as json"), ("{}", "no json of"), ("[]", "no json of"), ("[1]", "no json of")])
def test_json_of_no_known_form(tmp_path, content, message):
    with pytest.raises(CxrError, match=message):
        read_annotations(write(tmp_path / "x.json", content))
    with pytest.raises(CxrError, match="does not exist"):
        read_annotations(tmp_path / "none.json")


# --- genuine files ---


def test_genuine_chestx_det_polygons_agree_with_its_boxes(real_folder):
    """Polygon -> mask -> box is the box that was stored, wherever the file's own corners say the same.

    Its outlines have spikes thinner than a pixel, in which no pixel has its centre, so a mask may miss the last pixels of
    some. That this is all that differs shows on a grid eight times as fine: the differences are then an eighth.
    """
    path = real_folder / "peers" / "chestx_det" / "ChestX_Det_train.json"
    read = read_annotations(path)
    assert (len(read.frames), len(read.boxes)) == (3025, 7905)
    off, off_fine, iou = [], [], []
    for entry in json.loads(path.read_text())[::12]:
        for box, polygon in zip(entry["boxes"], entry["polygons"]):
            corners = np.array(polygon, float)
            if not np.array_equal([*corners.min(axis=0), *corners.max(axis=0)], box):
                continue  # 2 % of the polygons do not reach their own box
            drawn = mask_box(polygon_mask([polygon], width=1024, height=1024))
            off.append(np.abs(drawn - box).max())
            iou.append(overlaps(drawn, box)[0][0])
            start = corners.min(axis=0) - 1
            width, height = (int(side) + 9 for side in 8 * (corners.max(axis=0) - start))
            fine = mask_box(polygon_mask([8 * (corners - start)], width=width, height=height)) / 8 + np.tile(start, 2)
            off_fine.append(np.abs(fine - box).max())
    off, off_fine, iou = np.array(off), np.array(off_fine), np.array(iou)
    assert len(off) == 627
    assert np.mean(off <= 1) > 0.93 and np.percentile(iou, 1) > 0.96 and iou.min() > 0.89
    assert np.mean(off_fine <= 0.5) > 0.99


def test_genuine_coco(real_folder):
    [path] = (real_folder / "formats" / "tbx11k_test_data").rglob("TBX11K_train.json")
    read = read_annotations(path)
    truth = read.truth()
    assert len(truth.boxes) == 3 and set(truth.images) == {"tb/tb0005.png", "tb/tb0007.png", "health/h0001.png"}
    assert match(truth.boxes, truth.boxes[["image", "finding", *XYXY]]).values_MQ[:, 8].all()


def packaged(name: str) -> Path:
    spec = importlib.util.find_spec("torchxrayvision")
    if spec is None:
        pytest.skip("torchxrayvision is not installed: its copies of VinDr's and RSNA's tables are read here")
    return Path(spec.submodule_search_locations[0]) / "data" / name


def test_the_genuine_tables_of_vindr_and_rsna():
    every = read_vindr(packaged("vinbigdata-train.csv.gz"), at_least=1)
    assert len(every.frames) == 15000 and len(every.boxes) == 36096 and every.boxes.groupby("image")["reader"].nunique().max() == 3
    rsna = read_annotations(packaged("kaggle_stage_2_train_labels.csv.zip"))
    assert len(rsna.frames) == 26684 and rsna.boxes["image"].nunique() == 6012
    assert len(rsna.truth().boxes) == len(rsna.boxes)
