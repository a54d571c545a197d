"""`python -m cxrlib doctor FOLDER`: what is missing, broken or surprising, and how to mend it."""

import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from cxrlib.data.check_files import check_files
from cxrlib.data.checks import (
    ERROR,
    NOTE,
    WARNING,
    Complaint,
    check_boxes,
    check_names,
    check_patients,
    check_presence,
    check_twelve_folders,
    patient_of_name,
    some,
)
from cxrlib.data.chexpert import chexpert_tables, read_chexpert
from cxrlib.data.folders import find_images, first_file, require_folder, search_places
from cxrlib.data.nih import BOX_FRAME, choose_labels
from cxrlib.data.nih_tables import read_boxes, read_label_table
from cxrlib.data.splits import read_split_list
from cxrlib.data.store import ImageStore
from cxrlib.errors import CxrError


def examine(
    folder: str | os.PathLike,
    *,
    metadata: str | os.PathLike | None = None,
    against: tuple[str | os.PathLike, ...] = (),
    full: bool = False,
    workers: int = 1,
    progress: bool = False,
) -> list[Complaint]:
    """Runs every check that fits the folder: NIH's layout, a phantom, CheXpert, or a store.

    Args:
        folder: What to look at.
        metadata: A second folder in which NIH's tables may lie.
        against: Stores or lists of image names. One of them must share no patient with this folder's images;
            several must share none with each other.
        full: Decode every image instead of looking at its header and its end.
        workers: Threads.
        progress: Show a bar on stderr.

    Returns:
        All complaints, errors first.

    Raises:
        CxrError: The folder does not exist, `against` names something that is neither a store nor a list, or there
            is no worker.
    """
    if workers < 1:
        raise CxrError(f"workers is {workers}: ask for 1 or more")
    root = require_folder(folder)
    if (root / "store.json").is_file() or (root / "journal.jsonl").is_file():
        complaints, table = _examine_store(root)
    else:
        read = _examine_chexpert if chexpert_tables(root) else _examine_nih
        complaints, table, is_nih = read(root, metadata)
        paths, lateral = _files(root, table)
        with tqdm(
            total=len(paths), unit="image", desc="doctor", disable=not progress, file=sys.stderr
        ) as bar:
            complaints += check_files(
                paths, lateral, full=full, is_nih=is_nih, workers=workers, tick=bar.update
            )
    if against:
        complaints += _examine_against(root, table, tuple(map(Path, against)))
    order = (ERROR, WARNING, NOTE)
    return sorted(complaints, key=lambda complaint: order.index(complaint.level))


def _files(root: Path, table: pd.DataFrame | None) -> tuple[list[Path], list[bool]]:
    """The table's files (without a table, all that lie here), and whether each is a lateral view."""
    if table is not None and "path" in table:  # CheXpert's reader has looked for them
        here = table[table["path"] != ""]
        return [root / path for path in here["path"]], here["view"].eq("lateral").tolist()
    found, _ = find_images(root)
    names = [name for name in table["image"] if name in found] if table is not None else list(found)
    return [root / found[name] for name in names], [False] * len(names)


def _examine_store(root: Path) -> tuple[list[Complaint], pd.DataFrame | None]:
    try:
        store = ImageStore.open(root, verify="full")
    except CxrError as error:
        what, _, mend = str(error).rpartition(": ")
        return [Complaint(ERROR, what, mend)], None
    complaints = [
        Complaint(NOTE, f"a store of {store.n} images of {store.size} x {store.size}; every checksum holds")
    ]
    if store.left_out:
        names = some((image for image, _ in store.left_out), limit=10)
        complaints.append(
            Complaint(
                WARNING,
                f"{len(store.left_out)} images were left out ({names})",
                "mend them, and prepare again",
            )
        )
    parts = _split_parts(store.table)
    return complaints + check_patients(parts), store.table


def _examine_chexpert(root: Path, metadata: object) -> tuple[list[Complaint], pd.DataFrame | None, bool]:
    try:
        studies = read_chexpert(root)
    except CxrError as error:
        return [_from_error(error)], None, False
    complaints = [Complaint(NOTE, note) for note in studies.notes]
    if (studies.table["path"] == "").all():
        complaints.append(
            Complaint(
                ERROR,
                "no image of the table is here",
                "unpack CheXpert's train/ and valid/ beside the tables",
            )
        )
    return complaints + check_patients(_split_parts(studies.table)), studies.table, False


def _examine_nih(root: Path, metadata: object) -> tuple[list[Complaint], pd.DataFrame | None, bool]:
    is_phantom = (root / "phantom.json").is_file()
    complaints = [] if is_phantom else check_twelve_folders(root)
    places = search_places(root, metadata)
    try:
        file, notes = choose_labels(root, places, None)
        table, generation, more = read_label_table(file)
    except CxrError as error:
        return [*complaints, _from_error(error)], None, not is_phantom
    complaints += [
        Complaint(NOTE, note)
        for note in (f"labels: generation {generation}, from {file.name}", *notes, *more)
    ]
    frame = ("detector_width", "detector_height") if is_phantom else (BOX_FRAME, BOX_FRAME)
    for name, value in zip(("width", "height"), frame):
        table[name] = table[value] if is_phantom else value
    complaints += [] if is_phantom else check_names(table)
    complaints += check_presence(table, root)
    complaints += _examine_splits(table, places)

    box_file = first_file(places, "BBox_List*.csv", "BBox_List*.csv.gz")
    if box_file is None:
        mend = "put NIH's BBox_List_2017.csv into the folder"
        complaints.append(
            Complaint(WARNING, "there is no table of boxes: localization cannot be scored", mend)
        )
    else:
        try:
            boxes = read_boxes(box_file)
            complaints += check_boxes(table, boxes, generation=generation, is_phantom=is_phantom)
        except CxrError as error:
            complaints.append(_from_error(error))
    return complaints, table, not is_phantom


def _examine_splits(table: pd.DataFrame, places: list[Path]) -> list[Complaint]:
    """Fills `table["split"]`, and complains about lists that are missing, incomplete or overlapping."""
    complaints = []
    parts: dict[str, dict[str, str]] = {}
    patient_of_image = dict(zip(table["image"], table["patient"]))
    split = pd.Series("", index=table.index, dtype=object)
    for name in ("train_val", "test"):
        file = first_file(places, f"{name}_list.txt")
        if file is None:
            mend = "put NIH's two official lists into the folder, so that your scores can be compared"
            complaints.append(Complaint(WARNING, f"there is no {name}_list.txt", mend))
            continue
        try:
            names = read_split_list(file)
        except CxrError as error:
            complaints.append(_from_error(error))
            continue
        unknown = [image for image in names if image not in patient_of_image]
        if unknown:
            what = f"{len(unknown)} names of {file.name} are not in the label table ({some(unknown)})"
            complaints.append(Complaint(WARNING, what, "check that the list and the table belong together"))
        parts[file.name] = {image: patient_of_image.get(image, patient_of_name(image)) for image in names}
        split[table["image"].isin(set(names))] = name
    table["split"] = split
    outside = np.flatnonzero(split == "")
    if len(parts) == 2 and len(outside):
        what = (
            f"{len(outside)} images of the table are in neither list ({some(table['image'].iloc[outside])})"
        )
        complaints.append(
            Complaint(WARNING, what, "use complete lists; until then these images belong to no split")
        )
    return complaints + check_patients(parts)


def _examine_against(root: Path, table: pd.DataFrame | None, others: tuple[Path, ...]) -> list[Complaint]:
    parts = {str(path): _members(path) for path in others}
    if len(others) == 1:
        if table is None:
            return []
        found, _ = find_images(root)
        here = table[table["image"].isin(set(found))] if found else table
        parts[str(root)] = dict(zip(here["image"], here["patient"]))
    return check_patients(parts)


def _members(path: Path) -> dict[str, str]:
    """{image: patient} of a store or of a list of names."""
    if path.is_dir():
        table = ImageStore.open(path, verify="quick").table
        return dict(zip(table["image"], table["patient"]))
    if path.is_file():
        return {name: patient_of_name(name) for name in read_split_list(path)}
    raise CxrError(f"{path} is neither a store nor a list of image names: check the name after --against")


def _split_parts(table: pd.DataFrame) -> dict[str, dict[str, str]]:
    chosen = {name: table[table["split"] == name] for name in ("train_val", "test")}
    return {name: dict(zip(part["image"], part["patient"])) for name, part in chosen.items()}


def _from_error(error: CxrError) -> Complaint:
    what, _, mend = str(error).rpartition(": ")
    return Complaint(ERROR, what or mend, mend if what else "")


def add_parser(subparsers) -> None:
    """Adds the command `doctor`."""
    parser = subparsers.add_parser(
        "doctor", help="say what is missing, broken or surprising in a data folder"
    )
    parser.add_argument("folder", help="NIH-layout, CheXpert or phantom folder, or a store")
    parser.add_argument("--metadata", help="another folder with the tables and split lists")
    parser.add_argument(
        "--against", nargs="+", default=[], metavar="STORE_OR_LIST",
        help=(
            "stores or lists of image names: one must share no patient with this folder, several none "
            "with each other"
        ),
    )  # fmt: skip
    parser.add_argument(
        "--full", action="store_true", help="decode every image (slow), and look for inverted films"
    )
    parser.add_argument("--workers", type=int, default=max(1, os.cpu_count() or 1), help="threads")
    parser.set_defaults(run=run)


def run(args) -> int:
    """Prints the complaints. Exit code 1 if something must be mended, else 0."""
    complaints = examine(
        args.folder,
        metadata=args.metadata,
        against=tuple(args.against),
        full=args.full,
        workers=args.workers,
        progress=True,
    )
    for complaint in complaints:
        print(f"{complaint.level:<8} {complaint.what}")
        if complaint.mend:
            print(f"         mend: {complaint.mend}")
    errors, warnings = (
        sum(complaint.level == level for complaint in complaints) for level in (ERROR, WARNING)
    )
    if errors:
        print(f"\n{args.folder}: {errors} to mend, {warnings} to think about")
        return 1
    print(f"\n{args.folder}: nothing to mend, {warnings} to think about")
    if not args.full:
        print("(headers and ends of the files were looked at; --full decodes every image)")
    return 0
