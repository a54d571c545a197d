"""NIH ChestX-ray14's tables, in every form in which they are handed around.

Source: Wang et al. 2017 (labels, boxes, official split); the quirks below were each seen in the genuine files.
"""

import gzip
import importlib.util
import os
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlib.data.folders import find_images, first_file, require_folder, search_places
from cxrlib.data.splits import assert_patient_disjoint, read_split_list
from cxrlib.data.studies import BOX_COLUMNS, TABLE_COLUMNS, Studies, empty_boxes
from cxrlib.errors import CxrError
from cxrlib.findings import NIH_FINDINGS, NO_FINDING, canonical

BOX_FRAME = 1024  # NIH drew its boxes on the 1024 x 1024 files, whatever the detector's size was
OLDEST = 100  # 16 ages of the 2017 table lie between 101 and 414

# Header field -> our name. The three header styles differ in the last four fields and in Gender/Sex.
_FIELDS = {
    "Image Index": "image",
    "Finding Labels": "labels",
    "Follow-up #": "follow_up",
    "Patient ID": "patient",
    "Patient Age": "age",
    "Patient Gender": "sex",
    "Patient Sex": "sex",
    "View Position": "view",
    "OriginalImage[Width": "detector_width",
    "OriginalImageWidth": "detector_width",
    "Height]": "detector_height",
    "OriginalImageHeight": "detector_height",
}
_NEEDED = ("image", "labels", "follow_up", "patient", "age", "sex", "view", "detector_width", "detector_height")


def read_nih(
    folder: str | os.PathLike,
    *,
    labels: str | os.PathLike | None = None,
    metadata: str | os.PathLike | None = None,
) -> Studies:
    """Reads an NIH-layout folder: ChestX-ray14 itself, a part of it, or a phantom cohort.

    The label table, the boxes and the split lists are looked for in `folder`, `folder/metadata` and `folder/splits`, then
    in the same three places of `metadata`. Where both generations of labels are there, v2020 is taken, and a note says so.
    If there are images, the table is cut down to them, and a note says so; without any image the whole table is kept.

    Args:
        folder: The data set's folder, with `images/` or `images_001/images/` to `images_012/images/`.
        labels: The label table to read, where the choice above is not the wanted one.
        metadata: A second folder to look for tables in.

    Returns:
        Studies with the source "nih" ("phantom" if a `phantom.json` is there) and the generation "2017", "v2020" or "kaggle".

    Raises:
        CxrError: No table is found, a label is unknown, rows contradict each other, or the official split has a patient
            on both sides.
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


def read_label_table(path: str | os.PathLike) -> tuple[pd.DataFrame, str, list[str]]:
    """Reads one `Data_Entry` table of any generation.

    Args:
        path: The table, `.csv` or `.csv.gz`.

    Returns:
        `(table, generation, notes)`. The table has the columns of `Studies.table` except `path`, `split`, `width` and
        `height`, and `detector_width`, `detector_height` besides.

    Raises:
        CxrError: A column is missing, a row is broken, or a label is unknown.
    """
    path = Path(path)
    header = _first_line(path).split(",")
    names = [_FIELDS.get(field.strip().strip('"'), f"unused_{index}") for index, field in enumerate(header)]
    missing = [name for name in _NEEDED if name not in names]
    if missing:
        raise CxrError(f"{path} is not an NIH label table (no column for {', '.join(missing)}): check the file")
    raw = _read_csv(path, names, _NEEDED)
    notes: list[str] = []
    if raw["labels"].eq("").any() or raw["image"].eq("").any():
        row = int(np.flatnonzero(raw["labels"].eq("") | raw["image"].eq(""))[0]) + 2
        raise CxrError(f"line {row} of {path} lacks an image name or its labels: download the table again")

    repeated = raw.duplicated()
    if repeated.any():
        notes.append(f"{int(repeated.sum())} rows are repeated word for word, and were read once")
        raw = raw[~repeated].reset_index(drop=True)
    if raw["image"].duplicated().any():
        name = raw["image"][raw["image"].duplicated()].iloc[0]
        raise CxrError(f"{path} has two different rows for {name}: remove the wrong one")

    suffixed = raw["age"].str.contains("[A-Za-z]", regex=True)
    if "OriginalImageWidth" in [field.strip() for field in header]:
        generation = "kaggle"
    elif header[-1].strip() == "" or suffixed.mean() > 0.5:
        generation = "2017"
    else:
        generation = "v2020"

    age, more = _ages(raw["age"])
    notes += more
    sex = raw["sex"].str.upper().str[:1]
    sex = sex.where(sex.isin(["M", "F"]))
    if sex.isna().any():
        notes.append(f"{int(sex.isna().sum())} rows have a sex other than M or F, read as unknown")
    table = pd.DataFrame(
        {
            "image": raw["image"],
            "patient": _plain_numbers(raw["patient"]),
            "follow_up": _whole(raw["follow_up"], "Follow-up #", path),
            "age": age,
            "sex": sex.astype(object),
            "view": raw["view"].str.upper().astype(object),
            "detector_width": _whole(raw["detector_width"], "OriginalImage width", path),
            "detector_height": _whole(raw["detector_height"], "OriginalImage height", path),
        }
    )
    positives = _positives(raw["labels"], raw["image"], path)
    return pd.concat([table, positives], axis=1), generation, notes


def read_boxes(path: str | os.PathLike) -> pd.DataFrame:
    """Reads NIH's table of boxes: x, y, width, height in; half-open x0, y0, x1, y1 out, in 1024-pixel space.

    The header of the one copy names nine columns over six values (`Bbox [x,y,w,h],,,`), the other six: so the header
    is skipped and the six values are taken by their place.

    Raises:
        CxrError: A value is no number, a box has no area, or a finding is unknown.
    """
    path = Path(path)
    raw = _read_csv(path, ["image", "finding", "x", "y", "w", "h"], ("image", "finding", "x", "y", "w", "h"))
    number = raw[["x", "y", "w", "h"]].apply(pd.to_numeric, errors="coerce")
    bad = number.isna().any(axis=1) | (number["w"] <= 0) | (number["h"] <= 0)
    if bad.any():
        line = int(np.flatnonzero(bad)[0]) + 2
        raise CxrError(f"line {line} of {path} is not a box (four numbers, width and height above 0): correct it")
    spelling = {name: canonical(name) for name in raw["finding"].unique()}
    return pd.DataFrame(
        {
            "image": raw["image"],
            "finding": raw["finding"].map(spelling).astype(object),
            "x0": number["x"],
            "y0": number["y"],
            "x1": number["x"] + number["w"],
            "y1": number["y"] + number["h"],
        }
    )[list(BOX_COLUMNS)]


def contradicted_boxes(studies: Studies) -> pd.DataFrame:
    """The boxes whose finding the image's labels do not have. In v2020 there are none, with the 2017 labels 188 of 984."""
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
    """The whole NIH table (v2020, 112,120 rows) and the 984 boxes, from the installed torchxrayvision package.

    No image and no split list comes with them: `path` and `split` are "" everywhere. NIH drew all boxed images from its
    test list.

    Raises:
        CxrError: torchxrayvision is not installed.
    """
    # find_spec locates the package without running it: importing it costs seconds, and only its tables are wanted.
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
    other = first_file(places, "Data_Entry*.csv", "Data_Entry*.csv.gz", "*sample_labels*.csv", "*sample_labels*.csv.gz")
    chosen = newest or other
    if chosen is None:
        raise CxrError(
            f"no label table (Data_Entry_2017_v2020.csv) lies in {root}: put it there, or name its folder with --metadata"
        )
    older = [path.name for place in places for path in place.glob("Data_Entry*") if "v2020" not in path.name]
    return chosen, [f"{older[0]} is there too, and was not read"] if newest and older else []


def _first_line(path: Path) -> str:
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig") as file:
            return file.readline().rstrip("\r\n")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise CxrError(f"{path} cannot be read as a table ({error}): download it again") from None


def _read_csv(path: Path, names: list[str], wanted: tuple[str, ...]) -> pd.DataFrame:
    """Columns by their place, below a header that is skipped; every value a stripped string."""
    # By place alone: headers of these files may have more fields than their rows (2017 labels, boxes).
    places = sorted(names.index(name) for name in wanted)
    try:
        raw = pd.read_csv(
            path,
            header=None,
            skiprows=1,
            names=[names[place] for place in places],
            usecols=places,
            dtype=str,
            keep_default_na=False,
            index_col=False,
            encoding="utf-8-sig",
        )
    except (OSError, EOFError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise CxrError(f"{path} cannot be read as a table ({str(error).strip()}): download it again") from None
    return raw[list(wanted)].apply(lambda column: column.astype(object).fillna("").str.strip())


def _ages(text: pd.Series) -> tuple[pd.Series, list[str]]:
    parts = text.str.extract(r"^(\d+)([YMDymd]?)$")
    per_year = parts[1].str.upper().map({"Y": 1.0, "": 1.0, "M": 12.0, "D": 365.25})
    age = pd.to_numeric(parts[0], errors="coerce") / per_year
    notes = []
    unreadable, too_old = age.isna(), age > OLDEST
    if unreadable.any():
        notes.append(f"{int(unreadable.sum())} ages cannot be read (such as {text[unreadable].iloc[0]!r}): unknown")
    if too_old.any():
        notes.append(f"{int(too_old.sum())} ages are above {OLDEST} (up to {age.max():g}): read as unknown")
    return age.where(~too_old).astype(float), notes


def _plain_numbers(text: pd.Series) -> pd.Series:
    """Patient ids without their padding, so that "00000013" and "13" are one patient."""
    plain = text.str.lstrip("0")
    return plain.where(plain.ne(""), text.where(text.eq(""), "0")).astype(object)


def _whole(text: pd.Series, name: str, path: Path) -> pd.Series:
    number = pd.to_numeric(text, errors="coerce")
    if number.isna().any():
        line = int(np.flatnonzero(number.isna())[0]) + 2
        raise CxrError(f"line {line} of {path} has no whole number under {name}: download the table again")
    return number.astype(np.int64)


def _positives(labels: pd.Series, images: pd.Series, path: Path) -> pd.DataFrame:
    # 112,120 rows hold some 840 different strings, so each string is taken apart once.
    codes, strings = pd.factorize(labels)
    rows = np.zeros((len(strings), len(NIH_FINDINGS)), dtype=float)
    for index, string in enumerate(strings):
        names = [name.strip() for name in string.split("|")]
        if NO_FINDING in names and len(names) > 1:
            raise CxrError(f"{images[codes == index].iloc[0]} in {path} is labelled {string!r}: remove one of the two")
        for name in names:
            if name != NO_FINDING:
                try:
                    rows[index, NIH_FINDINGS.index(canonical(name))] = 1.0
                except CxrError as error:
                    raise CxrError(f"{images[codes == index].iloc[0]} in {path}: {error}") from None
    return pd.DataFrame(rows[codes], columns=list(NIH_FINDINGS))


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
            raise CxrError(f"{table['image'][both].iloc[0]} is in train_val_list.txt and in test_list.txt: "
                           "download both lists again")
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
    notes = [f"{name} lies in {kept} and in {ignored}: the first is used" for name, kept, ignored in twice[:5]]
    if len(twice) > 5:
        notes.append(f"{len(twice) - 5} more images lie in two places")
    strangers = sorted(set(found) - set(table["image"]))
    if strangers:
        notes.append(f"{len(strangers)} images have no row in the label table and are left out (such as {strangers[0]})")
    if not present.any():
        notes.append("no image of the table lies here: the table is kept whole, without paths")
        return pd.Series("", index=table.index, dtype=object), np.ones(len(table), bool), notes
    if not present.all():
        notes.append(f"{int(present.sum())} of the table's {len(table)} images are here: the table is cut down to them")
    return paths.fillna(""), present, notes
