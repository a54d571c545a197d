"""From NIH's names to CheXpert's: scoring a model on films that another labeller labelled.

Seven findings carry the same name in both (`CHEXPERT_TO_NIH`). The same name is not the same label: other software, other
rules for "possible", another hospital. What is not named in both is left out, and said so.

`write_chexpert_layout` writes a phantom cohort as CheXpert writes its own, so that the way can be walked without CheXpert.
"""

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlib.data.store import ImageStore
from cxrlib.data.studies import Studies
from cxrlib.errors import CxrError
from cxrlib.findings import (
    CHEXPERT_OBSERVATIONS,
    CHEXPERT_TO_NIH,
    NO_FINDING,
    canonical,
)
from cxrlib.io import atomic_write
from cxrlib.metrics import bootstrap_by_patient, macro_interval

NIH_TO_CHEXPERT = {ours: theirs for theirs, ours in CHEXPERT_TO_NIH.items()}


def shared(findings: tuple[str, ...], observations: tuple[str, ...] = CHEXPERT_OBSERVATIONS) -> tuple[tuple[int, int], ...]:
    """Columns that mean the same: (place among the model's outputs, place among CheXpert's observations).

    Raises:
        CxrError: They share nothing.
    """
    ours = [canonical(name) for name in findings]
    found = tuple((ours.index(to), observations.index(name)) for name, to in CHEXPERT_TO_NIH.items() if to in ours and name in observations)
    if not found:
        raise CxrError(f"none of {', '.join(findings)} is among CheXpert's observations: there is nothing to score")
    return found


def transfer_table(logits_NC: np.ndarray, findings: tuple[str, ...], labels_NO: np.ndarray, patients_N: np.ndarray, *, observations: tuple[str, ...] = CHEXPERT_OBSERVATIONS, resamples: int = 1000) -> pd.DataFrame:
    """AUROC of an NIH-trained model on CheXpert's labels, finding by finding, and macro over the shared ones.

    Args:
        logits_NC: The model's, on CheXpert's films.
        findings: Its outputs.
        labels_NO: CheXpert's labels, 1, 0 or NaN, in the order of `observations`.
        patients_N: For the bootstrap.
        observations: Names of the columns of `labels_NO`.
        resamples: Bootstrap samples of patients.

    Returns:
        finding, observation, positives, negatives, unknown, auroc, low, high; the last row is "macro".
    """
    pairs = shared(findings, observations)
    scores, truth = logits_NC[:, [c for c, _ in pairs]], labels_NO[:, [o for _, o in pairs]]
    each = bootstrap_by_patient(scores, truth, patients_N, resamples=resamples)
    overall = macro_interval(each)
    table = pd.DataFrame(
        {
            "finding": [findings[c] for c, _ in pairs],
            "observation": [observations[o] for _, o in pairs],
            "positives": (truth == 1).sum(axis=0),
            "negatives": (truth == 0).sum(axis=0),
            "unknown": np.isnan(truth).sum(axis=0),
            "auroc": each.value,
            "low": each.low,
            "high": each.high,
        }
    )
    last = {"finding": "macro", "observation": f"{len(pairs)} shared", "auroc": float(overall.value), "low": float(overall.low), "high": float(overall.high)}
    return pd.concat([table, pd.DataFrame([last])], ignore_index=True)


def write_chexpert_layout(store: ImageStore, studies: Studies, out: str | os.PathLike, *, uncertain: float = 0.0, missed: float = 0.0, seed: int = 0) -> Path:
    """Writes a phantom cohort in CheXpert's layout and names, with a labeller of its own habits.

    OUT/train.csv, OUT/valid.csv, and OUT/train|valid/patientNNNNN/studyN/view1_frontal.png. What CheXpert does not name is not
    written; what it names and the phantom does not draw stays blank.

    Args:
        store: The cohort's store, for labels and order.
        studies: The cohort as read, for its files.
        out: A folder to make.
        uncertain: Chance that a finding that is there is written as -1.
        missed: Chance that it is left blank.
        seed: Of both.

    Raises:
        CxrError: The cohort is no phantom, or the folder holds something: genuine films are not written under false names.
    """
    out = Path(out)
    if store.source != "phantom":
        raise CxrError("only phantoms are written in CheXpert's layout: genuine films keep their names")
    if out.exists() and any(out.iterdir()):
        raise CxrError(f"{out} is not empty: name a folder to make")
    rng = np.random.default_rng(seed)
    path_of = dict(zip(studies.table["image"], studies.table["path"]))
    sex, view = {"F": "Female", "M": "Male"}, {"PA": "PA", "AP": "AP"}
    rows: dict[str, list[dict]] = {"train": [], "valid": []}
    for record, label_C in zip(store.table.to_dict("records"), store.labels_NC):
        part = "valid" if record["split"] == "test" else "train"
        place = f"{part}/patient{int(record['patient']):05d}/study{int(record['follow_up']) + 1}/view1_frontal.png"
        row = {"Path": f"CheXpert-v1.0-small/{place}", "Sex": sex.get(record["sex"], "Unknown"), "Age": int(record["age"]), "Frontal/Lateral": "Frontal", "AP/PA": view[record["view"]]}
        row |= dict.fromkeys(CHEXPERT_OBSERVATIONS)
        for name, to in CHEXPERT_TO_NIH.items():
            if label_C[store.findings.index(to)] == 1:
                chance = rng.random()
                row[name] = None if chance < missed else -1.0 if chance < missed + uncertain else 1.0
        if not label_C.any():
            row[NO_FINDING] = 1.0
        rows[part].append(row)
        (out / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(studies.root / path_of[record["image"]], out / place)
    for part, table in rows.items():
        if not table:  # a split without a film has no table
            continue
        with atomic_write(out / f"{part}.csv") as file:
            pd.DataFrame(table).to_csv(file, index=False, lineterminator="\n")
    return out
