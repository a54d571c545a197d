"""What can be wrong with a data folder: each check returns what it found, in words, with the way to mend it.

The doctor (`cxrlib.data.doctor`) runs them all. Unlike the readers, a check never stops at the first problem.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from cxrlib.data.folders import find_images
from cxrlib.data.nih import BOX_FRAME

ERROR, WARNING, NOTE = "ERROR", "WARNING", "note"
_NIH_NAME = re.compile(r"^(\d{8})_(\d{3})\.png$")
_ARCHIVES = 12


class Complaint(NamedTuple):
    """Something a check found.

    Attributes:
        level: ERROR (must be mended), WARNING (decide whether it matters) or NOTE (good to know).
        what: What is wrong, in one sentence.
        mend: What to do about it; "" for a note.
    """

    level: str
    what: str
    mend: str = ""


def some(names: Iterable[str], *, limit: int = 3) -> str:
    """A few of the names, for a message."""
    names = list(names)
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def check_twelve_folders(folder: Path) -> list[Complaint]:
    """NIH's images come in 12 archives, `images_001` to `images_012`: all of them must be there, or none."""
    wanted = [f"images_{number:03d}" for number in range(1, _ARCHIVES + 1)]
    there = [name for name in wanted if (folder / name).is_dir() and any((folder / name).iterdir())]
    missing = [name for name in wanted if name not in there]
    if not there or not missing:
        return []
    return [
        Complaint(
            ERROR,
            f"only {len(there)} of NIH's 12 image folders are there, {some(missing, limit=12)} missing or "
            "empty",
            f"python -m cxrlib download nih {folder} fetches the missing ones; or, if a part is meant, move its "
            "images into one folder images/",
        )
    ]


def check_presence(table: pd.DataFrame, folder: Path) -> list[Complaint]:
    """Rows without an image, images without a row, and images in two places."""
    found, twice = find_images(folder)
    rows = set(table["image"])
    absent = [name for name in table["image"] if name not in found]
    strangers = sorted(set(found) - rows)
    complaints = []
    if not set(found) & rows:
        what = f"none of the table's {len(table)} images is here"
        if found:
            what += f", though {len(found)} image files are (such as {strangers[0]})"
        return [
            Complaint(ERROR, what, "put the images into images/, under the names that the table gives them")
        ]
    if absent:
        complaints.append(
            Complaint(
                WARNING,
                f"{len(absent)} of the table's {len(table)} rows have no image here ({some(absent)})",
                "nothing, if a part of the data set is meant: the rows are left out; else download the rest",
            )
        )
    if strangers:
        complaints.append(
            Complaint(
                WARNING,
                f"{len(strangers)} images have no row in the label table ({some(strangers)})",
                "remove them, or give the table that describes them; until then they are left out",
            )
        )
    if twice:
        complaints.append(
            Complaint(
                WARNING,
                f"{len(twice)} images lie in two places "
                f"({some(f'{kept} and {ignored}' for _, kept, ignored in twice)})",
                "remove one of the two; until then the first is used",
            )
        )
    return complaints


def check_names(table: pd.DataFrame) -> list[Complaint]:
    """NIH's file names begin with the patient's number, which must agree with the table."""
    parts = table["image"].str.extract(_NIH_NAME)
    named = parts[0].notna()
    other = named & (parts[0].str.lstrip("0") != table["patient"])
    complaints = []
    if other.any():
        complaints.append(
            Complaint(
                ERROR,
                f"{int(other.sum())} rows give an image to another patient than its name does "
                f"({some(table['image'][other])})",
                "download the label table again: a split by patient would leak",
            )
        )
    shifted = int((named & (pd.to_numeric(parts[1]) != table["follow_up"])).sum())
    if shifted:
        complaints.append(
            Complaint(
                NOTE,
                f"the follow-up number differs from the file's suffix in {shifted} rows: order visits by "
                "the table",
            )
        )
    return complaints


def check_boxes(
    table: pd.DataFrame, boxes: pd.DataFrame, *, generation: str, is_phantom: bool
) -> list[Complaint]:
    """Boxes against labels, splits and the frame they lie in."""
    complaints = []
    row_of_image = {name: row for row, name in enumerate(table["image"])}
    known = boxes[boxes["image"].isin(row_of_image)]
    if len(known) < len(boxes):
        complaints.append(
            Complaint(
                NOTE, f"{len(boxes) - len(known)} of {len(boxes)} boxes are of images outside the table"
            )
        )
    rows = known["image"].map(row_of_image).to_numpy(int)
    label = np.array([table[finding].iat[row] for row, finding in zip(rows, known["finding"])])
    if (label == 0).any():
        older = generation != "v2020"
        complaints.append(
            Complaint(
                ERROR,
                f"{int((label == 0).sum())} of {len(known)} boxes contradict their image's labels "
                f"({generation} table)",
                "use NIH's newer table, Data_Entry_2017_v2020.csv, which agrees with all boxes"
                if older
                else "download the label table and the box table again",
            )
        )
    in_training = known["image"][table["split"].to_numpy()[rows] == "train_val"].unique()
    if len(in_training):
        complaints.append(
            Complaint(
                NOTE,
                f"{len(in_training)} images with boxes are in train_val, as phantoms have: train on labels "
                "only",
            )
            if is_phantom
            else Complaint(
                ERROR,
                f"{len(in_training)} images with boxes are in train_val ({some(in_training)})",
                "use NIH's official split lists, in which every image with a box is in test; else "
                "localization "
                "is scored on training images",
            )
        )
    width, height = (table[name].to_numpy()[rows] for name in ("width", "height"))
    outside = (known["x0"] < 0) | (known["y0"] < 0) | (known["x1"] > width + 1) | (known["y1"] > height + 1)
    if outside.any():
        complaints.append(
            Complaint(
                ERROR,
                f"{int(outside.sum())} boxes reach outside of their image ({some(known['image'][outside])})",
                f"NIH's boxes are in pixels of the {BOX_FRAME} x {BOX_FRAME} files: undo any rescaling of "
                "the box table",
            )
        )
    return complaints


def check_patients(parts: Mapping[str, Mapping[str, str]]) -> list[Complaint]:
    """No image and no patient may be in two parts.

    Args:
        parts: Name of the part -> {image: patient}.
    """
    complaints = []
    names = list(parts)
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            images = sorted(set(parts[first]) & set(parts[second]))
            patients = sorted(set(parts[first].values()) & set(parts[second].values()))
            if patients:
                complaints.append(
                    Complaint(
                        ERROR,
                        f"{len(patients)} patients are in {first} and in {second} (such as patient "
                        f"{some(patients)}), "
                        f"and {len(images)} images are in both",
                        "split by patient (cxrlib.data.split_by_patient), or use NIH's official lists: "
                        "scores would be too good",
                    )
                )
    return complaints


def patient_of_name(image: str) -> str:
    """The patient's number in an NIH file name, or the whole name where it is no NIH name."""
    match = _NIH_NAME.match(image)
    return str(int(match.group(1))) if match else image
