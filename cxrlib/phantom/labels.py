"""Which findings a cohort has: label sets, views, ages and visits in the proportions of the real NIH table.

Three small tables of counts ship beside this file. `derive_tables` makes them anew from NIH's
`Data_Entry_2017_v2020.csv`, of which the torchxrayvision package carries a copy.
"""

import functools
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlib.errors import CxrError
from cxrlib.findings import NIH_FINDINGS, NO_FINDING
from cxrlib.io import atomic_write

HERE = Path(__file__).parent
CELLS = ("PA_F", "PA_M", "AP_F", "AP_M")
TABLES = ("nih_label_sets.csv", "nih_ages.csv", "nih_visits.csv")
STAY = 0.5
"""Chance that a visit repeats the findings of the visit before; else it draws anew, which leaves the
proportions as they are."""
MOST_VISITS = 12
"""Visits of one patient are cut here (NIH has up to 184), lest one patient fill a small cohort."""
TEST_FRACTION = 25_596 / 112_120
"""NIH's official test list, as a share of all images."""


def derive_tables(data_entry: str | Path) -> dict[str, pd.DataFrame]:
    """Counts of label sets, ages and visits in NIH's table (v2020).

    Args:
        data_entry: `Data_Entry_2017_v2020.csv`, gzipped or not.

    Returns:
        File name -> table, as they ship here.
    """
    table = pd.read_csv(data_entry)
    sex = table["Patient Gender" if "Patient Gender" in table else "Patient Sex"]
    cell = table["View Position"] + "_" + sex
    names = table["Finding Labels"].map(lambda s: "|".join(sorted(s.split("|"))))
    sets = pd.crosstab(names, cell).reindex(columns=list(CELLS), fill_value=0)
    sets = sets.loc[sorted(sets.index, key=lambda s: (-int(sets.loc[s].sum()), s))]
    ages = pd.crosstab((table["Patient Age"] // 5 * 5).rename("age_from"), cell).reindex(
        columns=list(CELLS), fill_value=0
    )
    visits = table.groupby("Patient ID").size().value_counts().sort_index()
    return {
        TABLES[0]: sets.rename_axis("labels", axis=0).rename_axis(None, axis=1).reset_index(),
        TABLES[1]: ages.rename_axis(None, axis=1).reset_index(),
        TABLES[2]: pd.DataFrame({"images": visits.index, "patients": visits.to_numpy()}),
    }


def write_tables(data_entry: str | Path, out: str | Path = HERE) -> None:
    """Writes the three tables of counts."""
    for name, table in derive_tables(data_entry).items():
        with atomic_write(Path(out) / name) as file:
            table.to_csv(file, index=False, lineterminator="\n")


@functools.cache
def _tables() -> tuple[pd.DataFrame, np.ndarray, pd.DataFrame, pd.DataFrame]:
    sets, ages, visits = (pd.read_csv(HERE / name) for name in TABLES)
    member = np.zeros((len(sets), len(NIH_FINDINGS)), np.float64)
    for i, labels in enumerate(sets["labels"]):
        for name in labels.split("|"):
            if name != NO_FINDING:
                member[i, NIH_FINDINGS.index(name)] = 1.0
    return sets, member, ages, visits


def nih_prevalence() -> np.ndarray:
    """Share of NIH's images that have each finding, float64 [C]."""
    sets, member, _, _ = _tables()
    count = sets[list(CELLS)].to_numpy().sum(1)
    return count @ member / count.sum()


def enriched_prevalence() -> np.ndarray:
    """The goal of `prevalence="enriched"`: 0.10 plus a third of NIH's share, so from 10 % (Hernia) to 16 %
    (Infiltration)."""
    return 0.10 + nih_prevalence() / 3


@functools.cache
def set_weights(prevalence: str) -> np.ndarray:
    """How often each real label set is drawn, per view and sex, float64 [sets, 4]; sums to 1.

    "enriched" multiplies each set by one factor per finding in it, found by iterating until every finding
    reaches its goal and a quarter of the images have none (raking). Sets keep their real company: only
    their frequencies change.
    """
    sets, member, _, _ = _tables()
    count = sets[list(CELLS)].to_numpy(np.float64)
    if prevalence == "nih":
        return count / count.sum()
    if prevalence != "enriched":
        raise CxrError(f"prevalence {prevalence!r} is neither 'nih' nor 'enriched'")
    w = count.sum(1) / count.sum()
    none = member.sum(1) == 0
    goal = enriched_prevalence()
    for _ in range(300):
        for c in range(len(NIH_FINDINGS)):
            has = member[:, c] > 0
            p = w[has].sum()
            w = np.where(has, w * goal[c] / p, w * (1 - goal[c]) / (1 - p))
        p = w[none].sum()
        w = np.where(none, w * 0.25 / p, w * 0.75 / (1 - p))
    return count / count.sum(1, keepdims=True) * w[:, None]


def check_seed(seed: int) -> None:
    """Raises `CxrError` for a negative seed, which NumPy does not take."""
    if seed < 0:
        raise CxrError(f"seed {seed} is negative: give 0 or more")


def cohort_labels(n: int, seed: int, *, prevalence: str = "nih", label_noise: float = 0.0) -> pd.DataFrame:
    """Draws a cohort's table without drawing its images.

    Args:
        n: Images.
        seed: Of the cohort.
        prevalence: "nih", or "enriched" so that rare findings are frequent enough for a small cohort.
        label_noise: Chance that a positive label is lost. False positives are added at the rate that keeps
            each finding's share.

    Returns:
        One row per image: image, patient, follow_up, age, sex, view, split ("train_val"/"test"), truth
            (findings drawn)
        and labels (findings written), both as "A|B" or "No Finding".

    Raises:
        CxrError: n, the seed, the noise or the prevalence is out of range.
    """
    if n < 1:
        raise CxrError(f"a cohort of {n} images is empty: ask for at least 1")
    if not 0 <= label_noise < 1:
        raise CxrError(f"label noise {label_noise} is not in [0, 1)")
    check_seed(seed)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    sets, member, ages, visits = _tables()
    weights = set_weights(prevalence)
    by_sex = {sex: weights[:, [i for i, c in enumerate(CELLS) if c.endswith(sex)]] for sex in "FM"}
    male = by_sex["M"].sum()
    flat = {sex: np.cumsum(w.ravel()) / w.sum() for sex, w in by_sex.items()}
    visit_p = visits["patients"].to_numpy() / visits["patients"].sum()
    visit_cdf = np.cumsum(visit_p)

    rows = []
    patient = 0
    while len(rows) < n:
        patient += 1
        sex = "M" if rng.random() < male else "F"
        count = min(
            int(visits["images"].iloc[min(np.searchsorted(visit_cdf, rng.random()), len(visits) - 1)]),
            MOST_VISITS,
        )
        age = None
        chosen = None
        for visit in range(min(count, n - len(rows))):
            if chosen is None or rng.random() >= STAY:
                chosen = min(int(np.searchsorted(flat[sex], rng.random(), side="right")), flat[sex].size - 1)
            index, view = chosen // 2, ("PA", "AP")[chosen % 2]
            if age is None:
                p = ages[f"{view}_{sex}"].to_numpy(np.float64)
                age = int(
                    ages["age_from"].iloc[
                        int(np.searchsorted(np.cumsum(p) / p.sum(), rng.random(), side="right"))
                    ]
                )
                age += int(rng.integers(0, 5))
            elif rng.random() < 0.3:
                age += 1
            rows.append((f"{patient:08d}_{visit:03d}.png", patient, visit, age, sex, view, index))
    table = pd.DataFrame(rows, columns=["image", "patient", "follow_up", "age", "sex", "view", "set"])

    truth = member[table["set"]] > 0
    written = truth.copy()
    if label_noise:
        share = truth.mean(0)
        add = np.where(share < 1, label_noise * share / np.maximum(1 - share, 1e-9), 0)
        chance = rng.random(truth.shape)
        written = np.where(truth, chance >= label_noise, chance < add)
    table["truth"] = [_join(row) for row in truth]
    table["labels"] = [_join(row) for row in written]

    order = rng.permutation(patient) + 1
    size = table.groupby("patient").size()
    filled = np.cumsum(size.loc[order].to_numpy())
    test = set(order[: int(np.searchsorted(filled, TEST_FRACTION * n)) + 1]) if patient > 1 else set()
    table["split"] = np.where(table["patient"].isin(test), "test", "train_val")
    return table.drop(columns="set")


def _join(row: np.ndarray) -> str:
    return "|".join(name for name, on in zip(NIH_FINDINGS, row, strict=True) if on) or NO_FINDING
