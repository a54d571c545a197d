"""The true boxes that a model is scored against, and the checks that they and predicted boxes must pass.

Each check ends with one line that says what is wrong. A score on a wrong frame or a wrong label table looks plausible, and
that is the danger.
"""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from cxrlib.data.folders import read_folder
from cxrlib.data.nih import contradicted_boxes
from cxrlib.data.nih_tables import read_boxes
from cxrlib.data.store import ImageStore
from cxrlib.data.studies import Studies
from cxrlib.errors import CxrError
from cxrlib.findings import NO_FINDING, canonical
from cxrlib.localization.matching import XYXY

SLACK = 1.0
"""Pixels by which a box may stick out of its image before it is refused: annotation tools round."""


@dataclasses.dataclass(frozen=True)
class Truth:
    """True boxes and where they come from.

    Attributes:
        boxes: image, finding, x0, y0, x1, y1 (original pixels, half-open), patient, width, height of the image.
        images: Every image of the data set, boxed or not: a predicted box must belong to one of them.
        source: "nih", "phantom", ...
        name: What was read, in words.
    """

    boxes: pd.DataFrame
    images: frozenset[str]
    source: str
    name: str


def open_data(data: str | os.PathLike, *, metadata: str | os.PathLike | None = None) -> Studies:
    """The studies of a store or of a data set's folder."""
    if not (Path(data) / "store.json").is_file():
        return read_folder(data, metadata=metadata)
    store = ImageStore.open(data)
    return Studies(store.table, store.boxes, store.findings, store.source, store.generation, Path(data))


def truth_of(
    studies: Studies, *, split: str | None = "test", findings: tuple[str, ...] | None = None, boxes: str | os.PathLike | None = None
) -> Truth:
    """The checked true boxes of a split.

    Args:
        studies: The data set.
        split: "test", "train_val", or None for all images.
        findings: Only these; None: all that have boxes.
        boxes: Another table of boxes in NIH's format, such as a phantom cohort's `boxes_all.csv`.

    Raises:
        CxrError: There is no box, a box is wrong, or the labels are older than the boxes.
    """
    table = studies.table
    in_split = table.iloc[studies.where(split=split)] if split else table
    given = read_boxes(boxes) if boxes is not None else studies.boxes
    mine = given[given["image"].isin(set(in_split["image"]))]
    if findings is not None:
        mine = mine[mine["finding"].isin(findings)]
    where = f"the {split} split" if split else "the data"
    if not len(mine):
        raise CxrError(f"{where} has no boxes to score against: give a data set with a BBox_List_2017.csv, or another --split")
    against = contradicted_boxes(dataclasses.replace(studies, boxes=mine))
    if len(against) and studies.generation in ("2017", "kaggle"):
        raise CxrError(
            f"{len(against)} of {len(mine)} boxes contradict the {studies.generation} labels (such as {against['image'].iloc[0]}): "
            "use Data_Entry_2017_v2020.csv, which the boxes belong to"
        )
    frames = table.set_index("image")[["patient", "width", "height"]]
    full = mine.reset_index(drop=True).join(frames, on="image")
    unknown = full["width"].eq(0) | full["height"].eq(0)
    for row in np.flatnonzero(unknown):
        full.loc[row, ["width", "height"]] = _size_of(studies, full.at[row, "image"])
    check_boxes(full, "true")
    return Truth(full, frozenset(table["image"]), studies.source, f"{where}, {studies.source} ({studies.generation} labels)")


def check_boxes(boxes: pd.DataFrame, kind: str) -> None:
    """Refuses boxes that are no boxes, lie outside of their image, or are there twice.

    Args:
        boxes: image, finding, x0, y0, x1, y1, width, height. Rows of NaN coordinates (no box found) may be there.
        kind: "true" or "predicted", for the message.
    """
    xyxy = boxes[XYXY].to_numpy(float)
    drawn = ~np.isnan(xyxy).all(axis=1)

    def refuse(bad: np.ndarray, what: str, cure: str) -> None:
        if bad.any():
            row = boxes.iloc[int(np.flatnonzero(bad)[0])]
            values = ", ".join(f"{value:g}" for value in row[XYXY])
            raise CxrError(f"{int(bad.sum())} {kind} boxes {what} (the first: {row['finding']} on {row['image']}, {values}): {cure}")

    refuse(drawn & ~np.isfinite(xyxy).all(axis=1), "have a coordinate that is no number", "correct or remove them")
    refuse(drawn & (xyxy[:, 2:] <= xyxy[:, :2]).any(axis=1), "have no area", "give x0 < x1 and y0 < y1")
    size_M2 = boxes[["width", "height"]].to_numpy(float)
    outside = (xyxy[:, :2] < -SLACK).any(axis=1) | (xyxy[:, 2:] > size_M2 + SLACK).any(axis=1)
    refuse(drawn & outside, "reach outside of their image", "give them in the pixels of the original image")
    refuse(drawn & boxes.duplicated(["image", "finding", *XYXY]).to_numpy(), "are there twice", "remove the repeated rows")


def check_images(names: pd.Series, truth: Truth, what: str) -> None:
    """Refuses names of images that the data set does not have."""
    unknown = pd.unique(names[~names.isin(truth.images)])
    if len(unknown):
        raise CxrError(f"{len(unknown)} images of {what} are not in the data (such as {unknown[0]}): give the data they belong to")


def check_findings(given: set[str], truth: Truth, what: str) -> None:
    """Refuses predictions that leave out a whole finding."""
    missing = [finding for finding in dict.fromkeys(truth.boxes["finding"]) if finding not in given]
    if missing:
        raise CxrError(
            f"{what} has nothing for {', '.join(missing)}, which has true boxes: add it, or leave it out of the score with --findings"
        )


def canonical_findings(names: pd.Series, what: str) -> pd.Series:
    """Names as this library spells them.

    Raises:
        CxrError: A name is no finding.
    """
    try:
        spelling = {name: canonical(str(name)) for name in names.unique()}
    except CxrError as error:
        raise CxrError(f"{what}: {error}") from None
    return names.map(spelling).astype(object)


def is_no_finding(names: pd.Series) -> pd.Series:
    """Rows that stand for no finding at all: their boxes, if any, are placeholders."""
    return names.astype(str).str.strip().str.lower().str.replace("_", " ").eq(NO_FINDING.lower())


def _size_of(studies: Studies, image: str) -> tuple[int, int]:
    """Width and height of an image file, read from its header alone."""
    path = studies.table.loc[studies.table["image"].eq(image), "path"].iloc[0]
    if not path:
        raise CxrError(f"the size of {image} is not known, and its file is not here: prepare the data into a store first")
    with Image.open(studies.root / path) as file:
        return file.size
