"""Predicted boxes of other people's models, read from a CSV file.

    image,finding,x0,y0,x1,y1
    00000003_000.png,Infiltration,100.5,200.25,401.25,280.75

Coordinates are half-open and in the pixels of the original image (1024 x 1024 for NIH). Columns may also be called image_id,
label, x_min, y_min, x_max, y_max. Optional: `confidence`; `width` and `height` of the frame that a box is given in, which are
then checked; `peak_x` and `peak_y`, the map's maximum, for the pointing game.
"""

import os
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlib.data.frames import to_original
from cxrlib.errors import CxrError
from cxrlib.localization.matching import XYXY
from cxrlib.localization.truth import Truth, canonical_findings, check_boxes, check_findings, check_images, is_no_finding

_NAMES = {
    "image_id": "image", "image index": "image", "label": "finding", "finding label": "finding", "class_name": "finding",
    "x_min": "x0", "y_min": "y0", "x_max": "x1", "y_max": "y1", "xmin": "x0", "ymin": "y0", "xmax": "x1", "ymax": "y1",
    "score": "confidence",
}  # fmt: skip
_NEEDED = ("image", "finding", *XYXY)
_NUMBERS = (*XYXY, "confidence", "width", "height", "peak_x", "peak_y")
SUSPICIOUS = 10
"""So many boxes must tell the same story before a frame is called wrong."""


def read_predictions(path: str | os.PathLike, truth: Truth, *, frame: int | None = None) -> tuple[pd.DataFrame, list[str]]:
    """Reads predicted boxes and checks them against the data.

    Args:
        path: The CSV file.
        truth: What they will be scored against.
        frame: Side of the square that the boxes are given in (224, for example); None: original pixels.

    Returns:
        `(boxes, notes)`: image, finding, x0, y0, x1, y1 (and peak_x, peak_y, confidence if there), in original pixels,
        clipped to the image; only those for true boxes of the data.

    Raises:
        CxrError: The file cannot be read, lacks a column or a finding, names an image or a finding that is not there,
            repeats a row, or has a box that is no box, lies outside of its image or is in another frame.
    """
    boxes = _table(Path(path))
    notes = []
    empty = is_no_finding(boxes["finding"])
    if empty.any():
        notes.append(f"{int(empty.sum())} rows of No Finding were left out: they have no box")
        boxes = boxes[~empty].reset_index(drop=True)
    boxes["finding"] = canonical_findings(boxes["finding"], str(path))
    check_images(boxes["image"], truth, str(path))
    check_findings(set(boxes["finding"]), truth, str(path))
    keys = truth.boxes[["image", "finding", "width", "height"]].drop_duplicates(["image", "finding"])
    joined = boxes.merge(keys, on=["image", "finding"], how="inner", suffixes=("_given", ""))
    if len(joined) < len(boxes):
        notes.append(f"{len(boxes) - len(joined)} boxes are for findings that have no true box on their image, and were not scored")
    if not len(joined):
        raise CxrError(f"{path} has no box for any image and finding with a true box: check the image names and --split")
    if frame is None:
        _check_frame(joined, path)
    else:
        joined = _from_square(joined, frame)
    check_boxes(joined, "predicted")
    size = joined[["width", "height"] * 2].to_numpy(float)
    joined[XYXY] = np.clip(joined[XYXY].to_numpy(float), 0, size)
    if joined.duplicated(["image", "finding"]).any():
        most = int(joined.groupby(["image", "finding"]).size().max())
        notes.append(f"up to {most} boxes per image and finding: the best of them counts, which flatters")
    kept = ["image", "finding", *XYXY, *(name for name in ("confidence", "peak_x", "peak_y") if name in joined)]
    return joined[kept], notes


def _table(path: Path) -> pd.DataFrame:
    try:
        raw = pd.read_csv(path, dtype=object, skipinitialspace=True, encoding="utf-8-sig")
    except FileNotFoundError:
        raise CxrError(f"{path} does not exist: check its name") from None
    except pd.errors.EmptyDataError:
        raise CxrError(f"{path} is empty: it should hold one predicted box per line below a header") from None
    except (ValueError, OSError) as error:
        raise CxrError(f"{path} cannot be read as a table ({str(error).strip()}): save it as CSV") from None
    raw.columns = [_NAMES.get(name.strip().lower(), name.strip().lower()) for name in raw.columns]
    missing = [name for name in _NEEDED if name not in raw]
    if missing:
        raise CxrError(f"{path} lacks the columns {', '.join(missing)}: a table of boxes has {', '.join(_NEEDED)}")
    if not len(raw):
        raise CxrError(f"{path} is empty: it should hold one predicted box per line below its header")
    for name in (set(_NUMBERS) & set(raw.columns)) - {None}:
        number = pd.to_numeric(raw[name], errors="coerce")
        bad = number.isna() if name in XYXY else number.isna() & raw[name].notna()
        if bad.any():
            raise CxrError(f"line {int(np.flatnonzero(bad)[0]) + 2} of {path} has no number under {name}: leave out boxes that were not found")
        raw[name] = number.astype(float)
    if raw[["image", "finding"]].isna().any(axis=None):
        line = int(np.flatnonzero(raw[["image", "finding"]].isna().any(axis=1))[0]) + 2
        raise CxrError(f"line {line} of {path} lacks an image or a finding: correct it")
    return raw


def _check_frame(boxes: pd.DataFrame, path: str | os.PathLike) -> None:
    """Refuses boxes that are plainly not in the pixels of the original image."""
    for side in ("width", "height"):
        if f"{side}_given" in boxes:
            other = boxes[f"{side}_given"].notna() & boxes[f"{side}_given"].ne(boxes[side])
            if other.any():
                row = boxes[other].iloc[0]
                raise CxrError(
                    f"{int(other.sum())} boxes of {path} are in another frame than the data's (the first: {row['image']} has the {side} "
                    f"{row[side]:g}, the file says {row[f'{side}_given']:g}): give all boxes in original pixels, or use --frame"
                )
    far = (boxes[["x1", "y1"]].to_numpy(float) / boxes[["width", "height"]].to_numpy(float)).max(axis=1)
    largest = float(boxes[["x1", "y1"]].to_numpy(float).max())
    original = float(boxes[["width", "height"]].to_numpy(float).max())
    if len(boxes) >= SUSPICIOUS and far.max() < 0.55:
        kind = "shares of the image" if largest <= 1 else f"the pixels of a smaller frame (none reaches beyond {largest:g})"
        raise CxrError(
            f"the boxes of {path} seem to be {kind}, the images have {original:g} pixels: multiply them up, or give --frame SIDE"
        )


def _from_square(boxes: pd.DataFrame, frame: int) -> pd.DataFrame:
    boxes = boxes.copy()
    if (boxes[["x1", "y1"]].to_numpy(float) > frame + 1).any():
        raise CxrError(f"a box reaches beyond the {frame} x {frame} pixels of --frame: give the side of the square that the boxes are in")
    corners = [XYXY] + ([["peak_x", "peak_y", "peak_x", "peak_y"]] if "peak_x" in boxes else [])
    for names in corners:
        columns = [names.index(name) for name in dict.fromkeys(names)]
        given = boxes[names].to_numpy(float)
        original = [
            to_original(row, width=int(w), height=int(h), size=frame) for row, w, h in zip(given, boxes["width"], boxes["height"])
        ]
        boxes[list(dict.fromkeys(names))] = np.array(original)[:, columns]
    return boxes
