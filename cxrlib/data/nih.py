"""NIH ChestX-ray14, in every form in which it is handed around: tables, boxes, official split, images.

Source: Wang et al. 2017 (labels, boxes, official split).
"""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlib.data.folders import find_images, first_file, require_folder, search_places
from cxrlib.data.nih_tables import read_boxes, read_label_table
from cxrlib.data.splits import assert_patient_disjoint, read_split_list
from cxrlib.data.studies import TABLE_COLUMNS, Studies, empty_boxes
from cxrlib.errors import CxrError
from cxrlib.findings import NIH_FINDINGS

BOX_FRAME = 1024  # NIH drew its boxes on the 1024 x 1024 files, whatever the detector's size was


def read_nih(
    folder: str | os.PathLike,
    *,
    labels: str | os.PathLike | None = None,
    metadata: str | os.PathLike | None = None,
) -> Studies:
    """Reads an NIH-layout folder: ChestX-ray14 itself, a part of it, or a phantom cohort.

    The label table, the boxes and the split lists are looked for in `folder`, `folder/metadata` and
    `folder/splits`, then in the same three places of `metadata`. Where both generations of labels are there,
    v2020 is taken, and a note says so. If there are images, the table is cut down to them, and a note says
    so; without any image the whole table is kept.

    Args:
        folder: The data set's folder, with `images/` or `images_001/images/` to `images_012/images/`.
        labels: The label table to read, where the choice above is not the wanted one.
        metadata: A second folder to look for tables in.

    Returns:
        Studies with the source "nih" ("phantom" if a `phantom.json` is there) and the generation "2017",
        "v2020" or "kaggle".

    Raises:
        CxrError: No table is found, a label is unknown, rows contradict each other, or the official split has
            a patient on both sides.
    """
    root = require_folder(folder)
    places = search_places(root, metadata)
    is_phantom = (root / "phantom.json").is_file()
    label_file, notes = choose_labels(root, places, labels)
    table, generation, more = read_label_table(label_file)
    notes += [f"labels: generation {generation}, from {label_file.name}", *more]

    box_file = first_file(places, "BBox_List*.csv", "BBox_List*.csv.gz")
    boxes = read_boxes(box_file) if box_file else empty_boxes()
    if not box_file:
        notes.append("no BBox_List_2017.csv was found: the studies have no boxes")
    if not is_phantom:
        table["width"] = table["height"] = BOX_FRAME
    else:
        table["width"], table["height"] = table["detector_width"], table["detector_height"]

    table["split"], more = _official_split(table, places)
    notes += more
    table["path"], kept, more = _locate(table, root)
    notes += more
    table = table[[*TABLE_COLUMNS, *NIH_FINDINGS]]
    studies = Studies(
        table=table[kept].reset_index(drop=True),
        boxes=boxes[boxes["image"].isin(set(table["image"][kept]))].reset_index(drop=True),
        findings=NIH_FINDINGS,
        source="phantom" if is_phantom else "nih",
        generation=generation,
        root=root,
        notes=tuple(notes),
    )
    against = len(contradicted_boxes(studies))
    if against:
        more = (f"{against} of {len(studies.boxes)} boxes contradict their image's labels",)
        studies = Studies(**{**vars(studies), "notes": studies.notes + more})
    return studies


def contradicted_boxes(studies: Studies) -> pd.DataFrame:
    """The boxes whose finding their image's labels lack: none in v2020, 188 of 984 with the 2017 labels."""
    if not len(studies.boxes):
        return studies.boxes
    row_of_image = pd.Series(np.arange(len(studies)), index=studies.table["image"])
    rows = row_of_image.reindex(studies.boxes["image"]).to_numpy()
    columns = [studies.findings.index(finding) for finding in studies.boxes["finding"]]
    known = ~np.isnan(rows)
    labels = np.full(len(rows), np.nan)
    labels[known] = studies.labels_NC()[rows[known].astype(int), np.array(columns)[known]]
    return studies.boxes[labels == 0]


def packaged_tables() -> Studies:
    """The whole NIH table (v2020, 112,120 rows) and the 984 boxes, from the installed torchxrayvision
    package.

    No image and no split list comes with them: `path` and `split` are "" everywhere. NIH drew all boxed
    images from its test list.

    Raises:
        CxrError: torchxrayvision is not installed.
    """
    # find_spec locates the package without running it: importing it costs seconds, and only its tables are
    # wanted.
    spec = importlib.util.find_spec("torchxrayvision")
    if spec is None or not spec.submodule_search_locations:
        raise CxrError("torchxrayvision is not installed: pip install torchxrayvision")
    return read_nih(Path(next(iter(spec.submodule_search_locations))) / "data")


def choose_labels(root: Path, places: list[Path], labels: str | os.PathLike | None) -> tuple[Path, list[str]]:
    """The label table to read, v2020 before any other, and notes about tables that were passed over."""
    if labels is not None:
        if not Path(labels).is_file():
            raise CxrError(f"the label table {labels} does not exist: check its name")
        return Path(labels), []
    newest = first_file(places, "Data_Entry*v2020*.csv", "Data_Entry*v2020*.csv.gz")
    other = first_file(
        places, "Data_Entry*.csv", "Data_Entry*.csv.gz", "*sample_labels*.csv", "*sample_labels*.csv.gz"
    )
    chosen = newest or other
    if chosen is None:
        raise CxrError(
            f"no label table (Data_Entry_2017_v2020.csv) lies in {root}: put it there, or name its folder "
            "with --metadata"
        )
    older = [path.name for place in places for path in place.glob("Data_Entry*") if "v2020" not in path.name]
    return chosen, [f"{older[0]} is there too, and was not read"] if newest and older else []


def _official_split(table: pd.DataFrame, places: list[Path]) -> tuple[pd.Series, list[str]]:
    split = pd.Series("", index=table.index, dtype=object)
    notes = []
    known = set(table["image"])
    for name in ("train_val", "test"):
        file = first_file(places, f"{name}_list.txt")
        if file is None:
            notes.append(f"no {name}_list.txt was found: the official split is incomplete")
            continue
        names = read_split_list(file)
        rows = table["image"].isin(set(names))
        both = rows & split.ne("")
        if both.any():
            raise CxrError(
                f"{table['image'][both].iloc[0]} is in train_val_list.txt and in test_list.txt: "
                "download both lists again"
            )
        split[rows] = name
        absent = len(names) - int(rows.sum())
        if absent:
            example = next(image for image in names if image not in known)
            notes.append(f"{absent} names of {file.name} are not in the label table (such as {example})")
    outside = int(split.eq("").sum())
    if 0 < outside < len(table):
        notes.append(f"{outside} images of the table are in neither split list")
    assert_patient_disjoint(table, {name: np.flatnonzero(split == name) for name in ("train_val", "test")})
    return split, notes


def _locate(table: pd.DataFrame, root: Path) -> tuple[pd.Series, np.ndarray, list[str]]:
    found, twice = find_images(root)
    paths = table["image"].map(found).astype(object)
    present = paths.notna().to_numpy()
    notes = [
        f"{name} lies in {kept} and in {ignored}: the first is used" for name, kept, ignored in twice[:5]
    ]
    if len(twice) > 5:
        notes.append(f"{len(twice) - 5} more images lie in two places")
    strangers = sorted(set(found) - set(table["image"]))
    if strangers:
        notes.append(
            f"{len(strangers)} images have no row in the label table and are left out (such as "
            f"{strangers[0]})"
        )
    if not present.any():
        notes.append("no image of the table lies here: the table is kept whole, without paths")
        return pd.Series("", index=table.index, dtype=object), np.ones(len(table), bool), notes
    if not present.all():
        notes.append(
            f"{int(present.sum())} of the table's {len(table)} images are here: the table is cut down to them"
        )
    return paths.fillna(""), present, notes
