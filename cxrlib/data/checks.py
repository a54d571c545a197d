"""What can be wrong with a data folder: each check returns what it found, in words, with the way to mend it.

The doctor (`cxrlib.data.doctor`) runs them all. Unlike the readers, a check never stops at the first problem.
"""

import concurrent.futures
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from cxrlib.data.folders import find_images
from cxrlib.data.images import DICOM_SUFFIXES, decode, read_size
from cxrlib.data.nih import BOX_FRAME
from cxrlib.data.polarity import looks_inverted
from cxrlib.errors import CxrError

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
            f"only {len(there)} of NIH's 12 image folders are there, {some(missing, limit=12)} missing or empty",
            "download and unpack the missing archives; or, if a part is meant, move its images into one folder images/",
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
        return [Complaint(ERROR, what, "put the images into images/, under the names that the table gives them")]
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
                f"{len(twice)} images lie in two places ({some(f'{kept} and {ignored}' for _, kept, ignored in twice)})",
                "remove one of the two; until then the first is used",
            )
        )
    return complaints


def check_names(table: pd.DataFrame) -> list[Complaint]:
    """NIH's file names carry the patient's number and a running number: the first must agree with the table."""
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
            Complaint(NOTE, f"the follow-up number differs from the file's suffix in {shifted} rows: order visits by the table")
        )
    return complaints


def check_boxes(table: pd.DataFrame, boxes: pd.DataFrame, *, generation: str, is_phantom: bool) -> list[Complaint]:
    """Boxes against labels, splits and the frame they lie in."""
    complaints = []
    row_of_image = {name: row for row, name in enumerate(table["image"])}
    known = boxes[boxes["image"].isin(row_of_image)]
    if len(known) < len(boxes):
        complaints.append(Complaint(NOTE, f"{len(boxes) - len(known)} of {len(boxes)} boxes are of images outside the table"))
    rows = known["image"].map(row_of_image).to_numpy(int)
    label = np.array([table[finding].iat[row] for row, finding in zip(rows, known["finding"])])
    if (label == 0).any():
        older = generation != "v2020"
        complaints.append(
            Complaint(
                ERROR,
                f"{int((label == 0).sum())} of {len(known)} boxes contradict their image's labels ({generation} table)",
                "use NIH's newer table, Data_Entry_2017_v2020.csv, which agrees with all boxes"
                if older
                else "download the label table and the box table again",
            )
        )
    in_training = known["image"][table["split"].to_numpy()[rows] == "train_val"].unique()
    if len(in_training):
        complaints.append(
            Complaint(NOTE, f"{len(in_training)} images with boxes are in train_val, as phantoms have: train on labels only")
            if is_phantom
            else Complaint(
                ERROR,
                f"{len(in_training)} images with boxes are in train_val ({some(in_training)})",
                "use NIH's official split lists, in which every image with a box is in test; else localization "
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
                f"NIH's boxes are in pixels of the {BOX_FRAME} x {BOX_FRAME} files: undo any rescaling of the box table",
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
                        f"{len(patients)} patients are in {first} and in {second} (such as patient {some(patients)}), "
                        f"and {len(images)} images are in both",
                        "split by patient (cxrlib.data.split_by_patient), or use NIH's official lists: scores would be too good",
                    )
                )
    return complaints


def patient_of_name(image: str) -> str:
    """The patient's number in an NIH file name, or the whole name where it is no NIH name."""
    match = _NIH_NAME.match(image)
    return str(int(match.group(1))) if match else image


class Look(NamedTuple):
    """What a look at one file gave: its size and mode, or a complaint about it."""

    name: str
    size: tuple[int, int] | None
    mode: str
    fault: str
    is_inverted: bool


def look_at(path: Path, *, full: bool, frontal: bool = True) -> Look:
    """Looks at one file: header and end of file, or with `full` all of it."""
    try:
        width, height, mode = read_size(path)
        if not full:
            if not _has_its_end(path):
                raise CxrError(f"{path.name} is cut off: copy or download it again")
            return Look(path.name, (width, height), mode, "", False)
        decoded = decode(path)
        # The detector works on a thumbnail anyway, and a coarse reduction is cheap.
        small = np.asarray(decoded.image.reduce(max(1, min(decoded.image.size) // 64)))
        return Look(path.name, decoded.image.size, decoded.mode, "", frontal and looks_inverted(small))
    except CxrError as error:
        return Look(path.name, None, "", str(error), False)


def check_files(
    paths: list[Path], lateral: list[bool], *, full: bool, is_nih: bool, workers: int, tick: Callable[[], None]
) -> list[Complaint]:
    """Damaged files, odd sizes and modes, and, with `full`, inverted films.

    Args:
        paths: The files.
        lateral: Whether each is a lateral view, of which the polarity is not judged.
        full: Decode every file.
        is_nih: Whether the files should be 1024 x 1024.
        workers: Threads; Pillow decodes outside of Python's lock.
        tick: Called once per file.
    """
    looks = []
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        for look in pool.map(lambda job: look_at(job[0], full=full, frontal=not job[1]), zip(paths, lateral)):
            looks.append(look)
            tick()
    complaints = [Complaint(ERROR, *_cut(look.fault)) for look in looks if look.fault][:20]
    damaged = sum(bool(look.fault) for look in looks)
    if damaged > 20:
        complaints.append(Complaint(ERROR, f"{damaged - 20} more files are damaged", "download them again"))
    good = [look for look in looks if look.size]
    complaints += _check_sizes(good, is_nih=is_nih)
    modes = Counter(look.mode for look in good)
    for mode, count in sorted(modes.items()):
        names = [look.name for look in good if look.mode == mode]
        if mode not in ("L", "MONOCHROME2"):
            what = _MODES.get(mode, f"{{}} files have the pixel mode {mode}").format(count)
            complaints.append(Complaint(NOTE, f"{what} ({some(names)})"))
    inverted = [look.name for look in good if look.is_inverted]
    if inverted:
        complaints.append(
            Complaint(
                WARNING,
                f"films that look inverted, bone black and air white: {len(inverted)} ({some(inverted, limit=10)})",
                "look at them; prepare --invert auto turns over those that look so",
            )
        )
    return complaints


_MODES = {
    "RGBA": "{} files are RGBA: read as grey",
    "RGB": "{} files are RGB: read as grey",
    "I;16": "{} files have 16 bits: scaled to 8 when they are read",
    "P": "{} files have a palette: read as grey",
    "MONOCHROME1": "{} DICOM files are MONOCHROME1: turned over when they are read",
}


def _check_sizes(looks: list[Look], *, is_nih: bool) -> list[Complaint]:
    by_size = defaultdict(list)
    for look in looks:
        by_size[look.size].append(look.name)
    if not is_nih or not by_size:
        return []
    usual = max(by_size, key=lambda size: len(by_size[size]))
    complaints = []
    if usual != (BOX_FRAME, BOX_FRAME):
        complaints.append(
            Complaint(NOTE, f"the files are {usual[0]} x {usual[1]}, smaller copies of NIH's; boxes stay in {BOX_FRAME}-pixel space")
        )
    odd = sorted(name for size, names in by_size.items() if size != usual for name in names)
    if odd:
        sizes = some(f"{width} x {height}" for width, height in by_size if (width, height) != usual)
        complaints.append(
            Complaint(
                ERROR if any(width != height for width, height in by_size) else WARNING,
                f"{len(odd)} files have another size than {usual[0]} x {usual[1]} ({some(odd)}: {sizes})",
                "download them again: NIH's files are all square",
            )
        )
    return complaints


def _cut(fault: str) -> tuple[str, str]:
    what, _, mend = fault.rpartition(": ")
    return what, mend


def _has_its_end(path: Path) -> bool:
    """Whether a PNG or JPEG ends as it should; a download that broke off does not."""
    suffix = path.suffix.lower()
    if suffix in DICOM_SUFFIXES:
        return True
    with open(path, "rb") as file:
        file.seek(-min(64, os.path.getsize(path)), os.SEEK_END)
        tail = file.read()
    return b"IEND" in tail if suffix == ".png" else b"\xff\xd9" in tail
