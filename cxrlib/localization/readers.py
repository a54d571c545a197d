"""Boxes and masks that others drew, in one form: ChestX-Det, CheXlocalize, VinDr, RSNA and any COCO json.

`read_annotations(path)` looks at the file and takes the reader that fits. Findings get NIH's names where they mean the same,
and keep their own names otherwise: nothing is forced into a class that it is not.
"""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxrlib.data.nih import BOX_FRAME
from cxrlib.data.nih_tables import read_boxes
from cxrlib.data.studies import BOX_COLUMNS
from cxrlib.errors import CxrError
from cxrlib.findings import canonical
from cxrlib.localization.matching import XYXY
from cxrlib.localization.shapes import decode_rle, mask_box, polygon_mask
from cxrlib.localization.truth import Truth, check_boxes
from cxrlib.metrics import iou_xyxy

_SAME = {"pulmonary fibrosis": "Fibrosis"}  # VinDr's name for what NIH calls Fibrosis


@dataclasses.dataclass(frozen=True)
class Annotations:
    """What was drawn on a set of images.

    Attributes:
        boxes: image, finding, x0, y0, x1, y1 (half-open, original pixels) and, where several people read an image, reader.
        frames: image, width, height of every image of the set; 0 where the file does not say.
        source: The set's name.
        shapes: (image, finding) -> what its mask is made of; empty if the set has boxes only.
    """

    boxes: pd.DataFrame
    frames: pd.DataFrame
    source: str
    shapes: dict[tuple[str, str], Callable[[], np.ndarray]] = dataclasses.field(default_factory=dict)

    def mask(self, image: str, finding: str) -> np.ndarray:
        """The mask of one finding on one image, bool [Y, X]; decoded when asked for, so that a set costs no memory.

        Raises:
            CxrError: The set has none.
        """
        if (image, finding) not in self.shapes:
            raise CxrError(f"{self.source} has no mask of {finding} on {image}")
        return self.shapes[image, finding]()

    def truth(self, *, findings: tuple[str, ...] | None = None, patients: dict[str, str] | None = None) -> Truth:
        """The boxes as what predictions are scored against.

        Args:
            findings: Only these.
            patients: Image -> patient. Without it each image counts as a patient of its own, which makes intervals too
                narrow where patients have several.

        Raises:
            CxrError: There are no such boxes, or a box is wrong, or the image sizes are not known.
        """
        boxes = self.boxes if findings is None else self.boxes[self.boxes["finding"].isin(findings)]
        if not len(boxes):
            raise CxrError(f"{self.source} has no boxes to score against: check --findings")
        full = boxes.reset_index(drop=True).join(self.frames.set_index("image")[["width", "height"]], on="image")
        if full["width"].eq(0).any():
            raise CxrError(f"{self.source} does not say how large its images are, and boxes can only be scored in a known frame")
        full["patient"] = [str((patients or {}).get(image, image)) for image in full["image"]]
        check_boxes(full, "true")
        return Truth(full, frozenset(self.frames["image"]), self.source, f"{self.source}, {len(self.frames):,} images")


def read_annotations(path: str | os.PathLike) -> Annotations:
    """Reads a file of boxes or masks with the reader that fits it.

    Raises:
        CxrError: The file cannot be read, or is of no known form.
    """
    path = Path(path)
    if not path.is_file():
        raise CxrError(f"{path} does not exist: check its name")
    if path.suffix == ".json":
        content = _json(path)
        if isinstance(content, list) and content and isinstance(content[0], dict) and "syms" in content[0]:
            return read_chestx_det(path)
        if isinstance(content, dict) and {"images", "annotations"} <= set(content):
            return read_coco(path)
        if isinstance(content, dict) and content and all(isinstance(value, dict) for value in content.values()):
            return read_chexlocalize(path)
        raise CxrError(f"{path} is no json of ChestX-Det, CheXlocalize or COCO: check the file")
    names = set(_csv(path, nrows=1).columns)
    if "rad_id" in names:
        return read_vindr(path)
    if {"patientId", "Target"} <= names:
        return read_rsna(path)
    boxes = read_boxes(path)
    return Annotations(boxes, _frames(boxes["image"].unique(), BOX_FRAME, BOX_FRAME), "nih")


def read_chestx_det(path: str | os.PathLike) -> Annotations:
    """ChestX-Det (Lian et al. 2021): boxes and one polygon each, on 1024 x 1024 copies of NIH's images."""
    rows, shapes = [], {}
    entries = _json(Path(path))
    for entry in entries:
        image = str(entry["file_name"])
        if not len(entry["syms"]) == len(entry["boxes"]) == len(entry["polygons"]):
            raise CxrError(f"{image} in {path} has {len(entry['syms'])} findings for {len(entry['boxes'])} boxes: download it again")
        for name, box, polygon in zip(entry["syms"], entry["boxes"], entry["polygons"]):
            rows.append((image, our_name(name), *box))
            shapes.setdefault((image, our_name(name)), []).append(polygon)
    makers = {key: _polygons(value, BOX_FRAME, BOX_FRAME) for key, value in shapes.items()}
    return Annotations(_boxes(rows), _frames([str(entry["file_name"]) for entry in entries], BOX_FRAME, BOX_FRAME), "chestx-det", makers)


def read_chexlocalize(path: str | os.PathLike) -> Annotations:
    """CheXlocalize (Saporta et al. 2022): masks as run lengths (`gt_segmentations_*.json`), or polygons (`gt_annotations_*.json`).

    Both files give sizes as height x width; the `cxr_dims` of that project's heatmaps is width x height, the other way round.
    An image is named as there, `patient64541_study1_view1_frontal`. Its boxes are those around whole masks.
    """
    rows, shapes, frames = [], {}, []
    for image, entry in _json(Path(path)).items():
        height, width = entry.get("img_size") or next(iter(entry.values()))["size"]
        frames.append((image, int(width), int(height)))
        for name, value in entry.items():
            if name == "img_size":
                continue
            finding = our_name(name)
            if isinstance(value, dict):
                make = _rle(value)
            else:
                make = _polygons(value, int(width), int(height))
            box = mask_box(make())
            if np.isnan(box).any():
                continue  # drawn by nobody: the file holds an empty mask for every finding
            rows.append((image, finding, *box))
            shapes[image, finding] = make
    return Annotations(_boxes(rows), pd.DataFrame(frames, columns=["image", "width", "height"]), "chexlocalize", shapes)


def read_vindr(path: str | os.PathLike, *, at_least: int = 2, iou: float = 0.5, sizes: dict[str, tuple[int, int]] | None = None) -> Annotations:
    """VinDr-CXR's training table: three readers per image, each with boxes of their own.

    Args:
        path: The csv with image_id, class_name, rad_id, x_min, y_min, x_max, y_max.
        at_least: A box counts if so many readers drew it; the mean of theirs is taken. 1: every reader's boxes are kept
            as they are, with the column `reader`.
        iou: Overlap from which two readers' boxes are the same finding.
        sizes: Image -> (width, height): the table does not have them.
    """
    table = _csv(Path(path))
    _need(table, ("image_id", "class_name", "rad_id", "x_min", "y_min", "x_max", "y_max"), path)
    drawn = table[table["x_min"].notna()]
    boxes = _boxes(list(zip(drawn["image_id"], drawn["class_name"].map(our_name), drawn["x_min"], drawn["y_min"], drawn["x_max"], drawn["y_max"])))
    boxes["reader"] = drawn["rad_id"].to_numpy()
    if at_least > 1:
        boxes = consensus(boxes, at_least=at_least, iou=iou)
    names = table["image_id"].unique()
    frames = pd.DataFrame([(name, *(sizes or {}).get(name, (0, 0))) for name in names], columns=["image", "width", "height"])
    return Annotations(boxes, frames, "vindr")


def consensus(boxes: pd.DataFrame, *, at_least: int = 2, iou: float = 0.5) -> pd.DataFrame:
    """Merges several readers' boxes of one finding on one image.

    Boxes are taken from large to small; each joins the first group whose mean box it overlaps by `iou` and which has no box
    of its reader yet, or opens one. Groups of `at_least` readers become their mean box.

    Returns:
        image, finding, x0, y0, x1, y1, readers (how many drew it).
    """
    rows = []
    for (image, finding), mine in boxes.groupby(["image", "finding"], sort=False):
        xyxy = mine[XYXY].to_numpy(float)
        order = np.argsort(-(xyxy[:, 2:] - xyxy[:, :2]).prod(axis=1), kind="stable")
        groups: list[list[int]] = []
        who = mine["reader"].to_numpy()
        for index in order:
            for group in groups:
                if who[index] not in who[group] and iou_xyxy(xyxy[index], xyxy[group].mean(axis=0))[0, 0] >= iou:
                    group.append(index)
                    break
            else:
                groups.append([index])
        rows += [(image, finding, *xyxy[group].mean(axis=0), len(group)) for group in groups if len(group) >= at_least]
    return _boxes([row[:6] for row in rows]).assign(readers=[row[6] for row in rows])


def read_rsna(path: str | os.PathLike) -> Annotations:
    """RSNA's pneumonia challenge: boxes of lung opacity that may be pneumonia, read as Pneumonia, in 1024 x 1024 pixels."""
    table = _csv(Path(path))
    _need(table, ("patientId", "x", "y", "width", "height", "Target"), path)
    drawn = table[table["x"].notna()].drop_duplicates(["patientId", "x", "y", "width", "height"])
    x1, y1 = drawn["x"] + drawn["width"], drawn["y"] + drawn["height"]
    rows = zip(drawn["patientId"], ["Pneumonia"] * len(drawn), drawn["x"], drawn["y"], x1, y1)
    return Annotations(_boxes(list(rows)), _frames(table["patientId"].unique(), BOX_FRAME, BOX_FRAME), "rsna")


def read_coco(path: str | os.PathLike) -> Annotations:
    """Any COCO json: `bbox` is x, y, width, height; `segmentation` is polygons or run lengths."""
    content = _json(Path(path))
    try:
        images = {entry["id"]: (str(entry["file_name"]), int(entry["width"]), int(entry["height"])) for entry in content["images"]}
        names = {entry["id"]: our_name(str(entry["name"])) for entry in content["categories"]}
        rows, shapes = [], {}
        for entry in content["annotations"]:
            image, width, height = images[entry["image_id"]]
            finding = names[entry["category_id"]]
            x, y, w, h = entry["bbox"]
            rows.append((image, finding, x, y, x + w, y + h))
            drawn = entry.get("segmentation")
            if drawn:
                make = _rle(drawn) if isinstance(drawn, dict) else _polygons(drawn, width, height)
                shapes.setdefault((image, finding), []).append(make)
    except (KeyError, TypeError, ValueError) as error:
        raise CxrError(f"{path} is no whole COCO json ({type(error).__name__}: {error}): check the file") from None
    frames = pd.DataFrame(list(images.values()), columns=["image", "width", "height"])
    return Annotations(_boxes(rows), frames, "coco", {key: _union(value) for key, value in shapes.items()})


def our_name(name: str) -> str:
    """NIH's name of a finding where it has one; else the name as it stands."""
    plain = name.strip()
    if plain.lower() in _SAME:
        return _SAME[plain.lower()]
    try:
        return canonical(plain)
    except CxrError:
        return plain


def _boxes(rows: list[tuple]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=list(BOX_COLUMNS))
    table[XYXY] = table[XYXY].astype(float)
    return table


def _frames(images: Any, width: int, height: int) -> pd.DataFrame:
    return pd.DataFrame({"image": list(images), "width": width, "height": height})


def _polygons(polygons: list, width: int, height: int) -> Callable[[], np.ndarray]:
    return lambda: polygon_mask(polygons, width=width, height=height)


def _rle(code: dict) -> Callable[[], np.ndarray]:
    return lambda: decode_rle(code)


def _union(makers: list[Callable[[], np.ndarray]]) -> Callable[[], np.ndarray]:
    return lambda: np.logical_or.reduce([make() for make in makers])


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CxrError(f"{path} cannot be read as json ({error}): download it again") from None


def _csv(path: Path, **options: Any) -> pd.DataFrame:
    try:
        return pd.read_csv(path, encoding="utf-8-sig", **options)
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise CxrError(f"{path} cannot be read as a table ({str(error).strip()}): download it again") from None


def _need(table: pd.DataFrame, names: tuple[str, ...], path: str | os.PathLike) -> None:
    missing = [name for name in names if name not in table]
    if missing:
        raise CxrError(f"{path} lacks the columns {', '.join(missing)}: check the file")
