"""Splits in which no patient is on both sides."""

import math
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlib.data.studies import Studies
from cxrlib.errors import CxrError


def split_by_patient(
    studies: Studies | pd.DataFrame, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Holds out about `fraction` of the images, whole patients at a time.

    Patients are drawn in a random order until the held-out part has the wanted number of images, so its size
    is right to within one patient. The draw depends on the set of patients and the seed, not on the order of
    the rows.

    Args:
        studies: Studies, or any table with a `patient` column.
        fraction: Share of the images to hold out, in (0, 1).
        seed: Any whole number.

    Returns:
        `(rest, held)`: two sorted arrays of row numbers which together are all rows.

    Raises:
        CxrError: `fraction` is out of range, or there are too few patients to fill both sides.
    """
    if not 0 < fraction < 1:
        raise CxrError(f"the held-out fraction is {fraction}: it must lie between 0 and 1")
    table = studies.table if isinstance(studies, Studies) else studies
    patients, patient_of_row = np.unique(table["patient"].to_numpy().astype(str), return_inverse=True)
    if len(patients) < 2:
        raise CxrError(f"a split by patient needs two patients or more, and the table has {len(patients)}")
    order = np.random.default_rng(seed).permutation(len(patients))
    images_so_far = np.cumsum(np.bincount(patient_of_row)[order])
    wanted = math.floor(fraction * len(table) + 0.5)
    # At least one patient on either side, however small the table.
    count = int(np.clip(np.searchsorted(images_so_far, wanted) + 1, 1, len(patients) - 1))
    is_held = np.isin(patient_of_row, order[:count])
    rest, held = np.flatnonzero(~is_held), np.flatnonzero(is_held)
    assert_patient_disjoint(table, {"rest": rest, "held out": held})
    return rest, held


def assert_patient_disjoint(table: pd.DataFrame, parts: dict[str, np.ndarray]) -> None:
    """Checks that no patient has images in two of the parts.

    Args:
        table: A table with a `patient` column.
        parts: Name of each part -> row numbers.

    Raises:
        CxrError: A patient is in two parts; the message names one and says how many there are.
    """
    seen: dict[str, str] = {}
    patients = table["patient"].to_numpy()
    shared: dict[str, tuple[str, str]] = {}
    for name, rows in parts.items():
        for patient in sorted(set(patients[rows].tolist())):
            if patient in seen:
                shared[patient] = (seen[patient], name)
            else:
                seen[patient] = name
    if shared:
        patient, (first, second) = next(iter(shared.items()))
        raise CxrError(
            f"{len(shared)} patients have images in two splits (patient {patient} is in {first} and in "
            f"{second}): "
            "scores would be too good; split by patient, or use the official lists"
        )


def read_split_list(path: Path) -> list[str]:
    """The image names in a split file, one a line; the last line may lack its line end.

    Raises:
        CxrError: A name occurs twice, or the file is empty or not UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CxrError(
            f"{path} cannot be read as a list of names ({error.reason}): download it again, or save it as "
            "UTF-8"
        ) from None
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise CxrError(f"{path} names no image: download it again")
    if len(set(names)) != len(names):
        twice = next(name for index, name in enumerate(sorted(names)) if sorted(names)[index - 1] == name)
        raise CxrError(f"{path} names {twice} twice: download it again")
    return names
