"""NIH's label table in its three styles, and its boxes. Each quirk was seen in a genuine file."""

import gzip
import os
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlib.data.studies import BOX_COLUMNS
from cxrlib.errors import CxrError
from cxrlib.findings import NIH_FINDINGS, NO_FINDING, canonical

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
_NEEDED = (
    "image",
    "labels",
    "follow_up",
    "patient",
    "age",
    "sex",
    "view",
    "detector_width",
    "detector_height",
)


def read_label_table(path: str | os.PathLike) -> tuple[pd.DataFrame, str, list[str]]:
    """Reads one `Data_Entry` table of any generation.

    Args:
        path: The table, `.csv` or `.csv.gz`.

    Returns:
        `(table, generation, notes)`. The table has the columns of `Studies.table` except `path`, `split`,
        `width` and `height`, and `detector_width`, `detector_height` besides.

    Raises:
        CxrError: A column is missing, a row is broken, or a label is unknown.
    """
    path = Path(path)
    header = _first_line(path).split(",")
    names = [_FIELDS.get(field.strip().strip('"'), f"unused_{index}") for index, field in enumerate(header)]
    missing = [name for name in _NEEDED if name not in names]
    if missing:
        raise CxrError(
            f"{path} is not an NIH label table (no column for {', '.join(missing)}): check the file"
        )
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

    The header of the one copy names nine columns over six values (`Bbox [x,y,w,h],,,`), the other six: so the
    header is skipped and the six values are taken by their place.

    Raises:
        CxrError: A value is no number, a box has no area, or a finding is unknown.
    """
    path = Path(path)
    raw = _read_csv(path, ["image", "finding", "x", "y", "w", "h"], ("image", "finding", "x", "y", "w", "h"))
    number = raw[["x", "y", "w", "h"]].apply(pd.to_numeric, errors="coerce")
    bad = number.isna().any(axis=1) | (number["w"] <= 0) | (number["h"] <= 0)
    if bad.any():
        line = int(np.flatnonzero(bad)[0]) + 2
        raise CxrError(
            f"line {line} of {path} is not a box (four numbers, width and height above 0): correct it"
        )
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
        raise CxrError(
            f"{path} cannot be read as a table ({str(error).strip()}): download it again"
        ) from None
    return raw[list(wanted)].apply(lambda column: column.astype(object).fillna("").str.strip())


def _ages(text: pd.Series) -> tuple[pd.Series, list[str]]:
    parts = text.str.extract(r"^(\d+)([YMDymd]?)$")
    per_year = parts[1].str.upper().map({"Y": 1.0, "": 1.0, "M": 12.0, "D": 365.25})
    age = pd.to_numeric(parts[0], errors="coerce") / per_year
    notes = []
    unreadable, too_old = age.isna(), age > OLDEST
    if unreadable.any():
        notes.append(
            f"{int(unreadable.sum())} ages cannot be read (such as {text[unreadable].iloc[0]!r}): unknown"
        )
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
            raise CxrError(
                f"{images[codes == index].iloc[0]} in {path} is labelled {string!r}: remove one of the two"
            )
        for name in names:
            if name != NO_FINDING:
                try:
                    rows[index, NIH_FINDINGS.index(canonical(name))] = 1.0
                except CxrError as error:
                    raise CxrError(f"{images[codes == index].iloc[0]} in {path}: {error}") from None
    return pd.DataFrame(rows[codes], columns=list(NIH_FINDINGS))
