"""AUROC by sex, age and view, with intervals over patients: does the model serve everybody alike?

Letters of shapes: N images, C findings.
"""

import numpy as np
import pandas as pd

from cxrlib.errors import CxrError
from cxrlib.metrics import auroc, bootstrap_by_patient, macro_interval

AGES: tuple[tuple[float, float, str], ...] = (
    (0, 18, "under 18"), (18, 40, "18 to 39"), (40, 60, "40 to 59"), (60, np.inf, "60 and over"),
)  # fmt: skip
"""From (years, included), to (not included), name. Our decision."""
FEWEST = 10
"""Positives, and negatives, that a finding must have in a group to be scored there. Our decision: with fewer, one patient moves
the AUROC by more than a tenth of its way."""
UNKNOWN = "unknown"


def subgroups_of(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """The groups that each image of a studies table belongs to.

    Args:
        table: With the columns sex, age and view (see `cxrlib.data.studies`).

    Returns:
        {"sex", "age", "view": names [N]}; "unknown" where the table has none.
    """
    ages = table["age"].to_numpy(float)
    age_N = np.full(len(table), UNKNOWN, object)
    for low, high, name in AGES:
        age_N[(ages >= low) & (ages < high)] = name
    given = {"sex": table["sex"], "view": table["view"]}
    named = {key: values.where(values.notna() & (values != ""), UNKNOWN).to_numpy(object) for key, values in given.items()}
    return {"sex": named["sex"], "age": age_N, "view": named["view"]}


def subgroup_aurocs(
    scores_NC: np.ndarray,
    targets_NC: np.ndarray,
    patients_N: np.ndarray,
    groups_N: np.ndarray,
    findings: tuple[str, ...],
    *,
    fewest: int = FEWEST,
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """AUROC of each finding in each group, and the macro over the findings that all groups share.

    A finding is scored in a group that has at least `fewest` images with it and as many without. Means over different findings
    cannot be compared, so the macro is over the findings that are scored in every group; a group in which fewer than half of the
    findings can be scored is too small, has no macro, and is not asked (our decisions).

    Args:
        scores_NC: The model's scores; only their order matters.
        targets_NC: 1, 0 or NaN.
        patients_N: Patient of each image. Whole patients are drawn for the intervals.
        groups_N: Name of each image's group.
        findings: Names along C.
        fewest: See above.
        resamples: Bootstrap samples of the patients of a group.
        seed: Of the bootstrap.

    Returns:
        One row per group and finding, then the group's row "macro": group, finding, images, patients, positives, negatives,
        findings (how many the value is over), auroc, low, high. NaN where a group has too few of either kind.

    Raises:
        CxrError: The lengths differ.
    """
    scores_NC, targets_NC = np.asarray(scores_NC, np.float64), np.asarray(targets_NC, np.float64)
    patients_N, groups_N = np.asarray(patients_N).astype(str), np.asarray(groups_N).astype(str)
    if not len(scores_NC) == len(targets_NC) == len(patients_N) == len(groups_N) or scores_NC.shape[1:] != (len(findings),):
        raise CxrError(
            f"scores {scores_NC.shape}, targets {targets_NC.shape}, {len(patients_N)} patients, {len(groups_N)} groups and "
            f"{len(findings)} findings do not fit together: give one row per image and one column per finding"
        )
    names = sorted(set(groups_N), key=lambda name: (name == UNKNOWN, _place(name), name))
    positives_GC = np.array([(targets_NC[groups_N == name] == 1).sum(axis=0) for name in names]).reshape(len(names), -1)
    negatives_GC = np.array([(targets_NC[groups_N == name] == 0).sum(axis=0) for name in names]).reshape(len(names), -1)
    enough_GC = np.minimum(positives_GC, negatives_GC) >= fewest
    large_G = enough_GC.sum(axis=1) >= max(1, len(findings) / 2)
    shared_C = enough_GC[large_G].all(axis=0) if large_G.any() else np.zeros(len(findings), bool)
    rows = []
    for g, name in enumerate(names):
        mine = groups_N == name
        about = {"group": name, "images": int(mine.sum()), "patients": len(set(patients_N[mine]))}
        value_C, low_C, high_C = (np.full(len(findings), np.nan) for _ in range(3))
        overall, scored = (np.nan, np.nan, np.nan), np.flatnonzero(enough_GC[g])
        if len(scored):
            each = bootstrap_by_patient(
                scores_NC[mine][:, scored], targets_NC[mine][:, scored], patients_N[mine], metric=auroc, resamples=resamples, seed=seed
            )
            value_C[scored], low_C[scored], high_C[scored] = each.value, each.low, each.high
            kept = shared_C[scored]
            if large_G[g] and kept.any():
                macro = macro_interval(
                    each._replace(value=each.value[kept], samples_RC=each.samples_RC[:, kept])
                )
                overall = (float(macro.value), float(macro.low), float(macro.high))
        for c, finding in enumerate(findings):
            counts = {"positives": int(positives_GC[g, c]), "negatives": int(negatives_GC[g, c]), "findings": int(enough_GC[g, c])}
            rows.append(about | {"finding": finding} | counts | {"auroc": value_C[c], "low": low_C[c], "high": high_C[c]})
        totals = {"positives": int(positives_GC[g].sum()), "negatives": int(negatives_GC[g].sum())}
        totals["findings"] = int(shared_C.sum()) if large_G[g] else 0
        rows.append(about | {"finding": "macro"} | totals | dict(zip(("auroc", "low", "high"), overall)))
    columns = ["group", "finding", "images", "patients", "positives", "negatives", "findings", "auroc", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def _place(name: str) -> int:
    """Ages in their order, everything else by name."""
    return next((place for place, (_, _, age) in enumerate(AGES) if age == name), 0)
