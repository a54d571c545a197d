"""CheXpert's tables (Irvin et al. 2019); each odd row below was seen in the genuine train.csv."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlib.data.folders import require_folder
from cxrlib.data.studies import TABLE_COLUMNS, Studies, empty_boxes
from cxrlib.errors import CxrError
from cxrlib.findings import CHEXPERT_OBSERVATIONS

UNCERTAIN = {"nan": np.nan, "ones": 1.0, "zeros": 0.0}
MIXED = dict.fromkeys(CHEXPERT_OBSERVATIONS, "zeros") | {"Atelectasis": "ones", "Edema": "ones"}
"""The usual policy: "uncertain" means present for the two findings where that predicted best (Irvin et al. 2019, table 3)."""
_SPLIT_OF_FILE = {"train.csv": "train_val", "valid.csv": "test"}


def chexpert_tables(folder: Path) -> dict[str, Path]:
    """The CheXpert tables in `folder`: {"train_val": ..., "test": ...}, as far as they are there."""
    found = {}
    for name, split in _SPLIT_OF_FILE.items():
        for candidate in (name, f"{name}.gz", f"chexpert_{name}", f"chexpert_{name}.gz"):
            if (folder / candidate).is_file():
                found.setdefault(split, folder / candidate)
    return found


def read_chexpert(
    folder: str | os.PathLike, *, uncertain: str | Mapping[str, str] = "nan", blank: str = "zeros"
) -> Studies:
    """Reads a CheXpert folder (`CheXpert-v1.0` or `CheXpert-v1.0-small`): `train.csv`, `valid.csv` and their
    images.

    `train.csv` becomes the split "train_val"; `valid.csv`, the 234 images that three radiologists read and on
    which results are reported, becomes "test". Frontal or lateral is taken from its column, not from the
    file's name; the view is "lateral", or what the AP/PA column says: PA, AP and, in 17 frontal rows, LL or
    RL. The sex `Unknown` becomes NaN. The age 0 is kept, since it may be an infant's, and noted:
    de-identification may have written it too.

    Args:
        folder: The folder that holds the tables.
        uncertain: What -1 becomes: "nan" (left out of loss and metric), "ones" or "zeros"; "mixed", see `MIXED`; or a policy per
            observation, such as {"Atelectasis": "ones", "Edema": "ones"}, with "nan" for those that it does
            not name.
        blank: What an unmentioned observation becomes: "zeros" (as in Irvin et al.) or "nan".

    Returns:
        Studies with the source and generation "chexpert" and the 14 observations as findings.

    Raises:
        CxrError: There is no table, a policy is unknown, or a value is none of 1, 0, -1 and blank.
    """
    root = require_folder(folder)
    policy = _policies(uncertain)
    if blank not in ("zeros", "nan"):
        raise CxrError(f"blank={blank!r} is unknown: use 'zeros' or 'nan'")
    files = chexpert_tables(root)
    if not files:
        raise CxrError(
            f"neither train.csv nor valid.csv lies in {root}: give the folder CheXpert-v1.0 or -small"
        )
    notes = [f"uncertain labels become {uncertain}, unmentioned ones become {blank}"]
    parts = []
    for split, path in files.items():
        part, more = _read_table(path, split, policy, blank)
        parts.append(part)
        notes += more
    for split, name in (("train_val", "train.csv"), ("test", "valid.csv")):
        if split not in files:
            notes.append(f"there is no {name}: the split {split!r} is empty")
    table = pd.concat(parts, ignore_index=True)
    table["path"], kept = _locate(table["image"], root, notes)
    return Studies(
        table=table[[*TABLE_COLUMNS, *CHEXPERT_OBSERVATIONS]][kept].reset_index(drop=True),
        boxes=empty_boxes(),
        findings=CHEXPERT_OBSERVATIONS,
        source="chexpert",
        generation="chexpert",
        root=root,
        notes=tuple(notes),
    )


def _policies(uncertain: str | Mapping[str, str]) -> dict[str, float]:
    if uncertain == "mixed":
        uncertain = MIXED
    wanted = (
        dict.fromkeys(CHEXPERT_OBSERVATIONS, uncertain) if isinstance(uncertain, str) else dict(uncertain)
    )
    for name, policy in wanted.items():
        if name not in CHEXPERT_OBSERVATIONS:
            raise CxrError(f"{name!r} is no CheXpert observation: use {', '.join(CHEXPERT_OBSERVATIONS)}")
        if policy not in UNCERTAIN:
            raise CxrError(f"the policy {policy!r} for uncertain labels is unknown: use nan, ones or zeros, or mixed for all")
    return {name: UNCERTAIN[wanted.get(name, "nan")] for name in CHEXPERT_OBSERVATIONS}


def _read_table(
    path: Path, split: str, policy: dict[str, float], blank: str
) -> tuple[pd.DataFrame, list[str]]:
    try:
        raw = pd.read_csv(path, dtype={"Path": str, "Sex": str, "Frontal/Lateral": str, "AP/PA": str})
    except (OSError, EOFError, ValueError) as error:
        raise CxrError(
            f"{path} cannot be read as a table ({str(error).strip()}): download it again"
        ) from None
    needed = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT_OBSERVATIONS]
    missing = [name for name in needed if name not in raw]
    if missing:
        raise CxrError(f"{path} is not a CheXpert table (no column {', '.join(missing)}): check the file")
    notes = []
    # The root's name differs between the full and the small release; what follows it does not.
    image = raw["Path"].str.replace(r"^CheXpert[^/]*/", "", regex=True).astype(object)
    patient = image.str.extract(r"(patient\d+)")[0]
    study = image.str.extract(r"study(\d+)")[0]
    if patient.isna().any() or study.isna().any():
        bad = raw["Path"][patient.isna() | study.isna()].iloc[0]
        raise CxrError(f"{path} has a path without a patient or study number ({bad!r}): download it again")

    frontal = raw["Frontal/Lateral"].eq("Frontal")
    if not raw["Frontal/Lateral"].isin(["Frontal", "Lateral"]).all():
        raise CxrError(f"{path} has rows that are neither Frontal nor Lateral: download it again")
    view = raw["AP/PA"].fillna("").astype(object).where(frontal, "lateral")
    odd = frontal & ~raw["AP/PA"].isin(["AP", "PA"])
    if odd.any():
        notes.append(
            f"{int(odd.sum())} frontal rows of {path.name} have a view other than AP or PA, and keep it"
        )
    sex = raw["Sex"].str[:1].where(raw["Sex"].isin(["Male", "Female"])).astype(object)
    if sex.isna().any():
        notes.append(f"{int(sex.isna().sum())} rows of {path.name} have an unknown sex")
    age = pd.to_numeric(raw["Age"], errors="coerce").astype(float)
    if age.eq(0).any():
        notes.append(f"{int(age.eq(0).sum())} rows of {path.name} have the age 0, which is kept")

    labels = {}
    for name in CHEXPERT_OBSERVATIONS:
        value = pd.to_numeric(raw[name], errors="coerce").to_numpy(float, copy=True)
        strange = (np.isnan(value) & raw[name].notna().to_numpy()) | ~np.isin(value, (1, 0, -1)) & ~np.isnan(
            value
        )
        if strange.any():
            raise CxrError(
                f"{path} has {raw[name][strange].iloc[0]} under {name}: only 1, 0, -1 and blank are known"
            )
        unmentioned = np.isnan(value)
        value[value == -1] = policy[name]
        value[unmentioned] = 0.0 if blank == "zeros" else np.nan
        labels[name] = value
    table = pd.DataFrame(
        {
            "image": image,
            "patient": patient.astype(object),
            "follow_up": study.astype(np.int64),
            "age": age,
            "sex": sex,
            "view": view,
            "split": split,
            "width": np.int64(0),
            "height": np.int64(0),
            **labels,
        }
    )
    return table, notes


def _locate(image: pd.Series, root: Path, notes: list[str]) -> tuple[pd.Series, np.ndarray]:
    """Paths below the root, and the rows to keep: those with a file, or all if there is no file."""
    present = np.zeros(len(image), bool)
    if (root / "train").is_dir() or (root / "valid").is_dir():
        present = np.fromiter((os.path.exists(root / name) for name in image), bool, len(image))
    if not present.any():
        notes.append("no image of the table lies here: the table is kept whole, without paths")
        return pd.Series("", index=image.index, dtype=object), np.ones(len(image), bool)
    if not present.all():
        notes.append(
            f"{int(present.sum())} of the table's {len(image)} images are here: the table is cut down to them"
        )
    return image, present
