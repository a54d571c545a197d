"""Looking at image files one by one: damage, odd sizes and pixel modes, inverted films."""

import concurrent.futures
import os
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cxrlib.data.checks import ERROR, NOTE, WARNING, Complaint, some
from cxrlib.data.images import DICOM_SUFFIXES, decode, read_size
from cxrlib.data.nih import BOX_FRAME
from cxrlib.data.polarity import looks_inverted
from cxrlib.errors import CxrError


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
        # With `full` too: Pillow decodes some files that lack their end.
        if not _has_its_end(path):
            raise CxrError(f"{path.name} is cut off: copy or download it again")
        if not full:
            return Look(path.name, (width, height), mode, "", False)
        decoded = decode(path)
        # The detector works on a thumbnail anyway, and a coarse reduction is cheap.
        small = np.asarray(decoded.image.reduce(max(1, min(decoded.image.size) // 64)))
        return Look(path.name, decoded.image.size, decoded.mode, "", frontal and looks_inverted(small))
    except CxrError as error:
        return Look(path.name, None, "", str(error), False)


def check_files(
    paths: list[Path],
    lateral: list[bool],
    *,
    full: bool,
    is_nih: bool,
    workers: int,
    tick: Callable[[], None],
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
                f"films that look inverted, bone black and air white: {len(inverted)} "
                f"({some(inverted, limit=10)})",
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
            Complaint(
                NOTE,
                f"the files are {usual[0]} x {usual[1]}, smaller copies of NIH's; boxes stay in "
                f"{BOX_FRAME}-pixel space",
            )
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
