"""How thresholds are fitted: on one half of the patients, for scores on the other.

NIH's 880 boxed images are all in its test list, so there is no validation set with boxes: whoever tunes anything on boxes
tunes on test images. The usual way out is to split them in half (CLARiTy does so; its split is not published). Here the
halves share no patient, hold equally many boxes of each finding, and both directions are used: fit on A and score B, fit
on B and score A. So each box is scored once per seed, with thresholds that never saw its patient. The draw is repeated
with 5 seeds, because one half alone is off by some .04 at 95 %.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlib.errors import CxrError
from cxrlib.io import read_json, write_json
from cxrlib.localization.boxes import LEVELS
from cxrlib.localization.matching import XYXY, Matched, match, mean_of
from cxrlib.localization.scores import MEAN_OVER, score

SEEDS = 5
OBJECTIVES = ("mean accuracy", "mean iou")
"""What a threshold for boxes maximises: the mean accuracy over IoU > .1 to .7 (default; our decision), or the mean IoU."""
MASK_OBJECTIVE = "dice"
"""What a threshold for masks maximises."""


def halves(boxes: pd.DataFrame, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits true boxes by patient into two halves that hold equally many boxes of each finding, as far as possible.

    Patients are taken in a random order, those with most boxes first, and each goes where it evens out the findings.

    Args:
        boxes: One row per true box: patient, finding.
        seed: Of the order.

    Returns:
        Row numbers of half A and of half B.

    Raises:
        CxrError: There are fewer than two patients.
    """
    patients, patient_M = np.unique(boxes["patient"].to_numpy().astype(str), return_inverse=True)
    if len(patients) < 2:
        raise CxrError(f"halves need boxes of at least two patients, here are {len(patients)}: thresholds cannot be fitted")
    findings, finding_M = np.unique(boxes["finding"].to_numpy().astype(str), return_inverse=True)
    count_PC = np.zeros((len(patients), len(findings)))
    np.add.at(count_PC, (patient_M, finding_M), 1)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(patients))
    order = order[np.argsort(-count_PC[order].sum(axis=1), kind="stable")]
    balance_C, in_a = np.zeros(len(findings)), np.zeros(len(patients), bool)
    for patient in order:
        # A goes up by this patient's boxes or B does; the tie of two empty halves is broken by a coin.
        excess = balance_C @ count_PC[patient]
        in_a[patient] = excess < 0 or (excess == 0 and rng.random() < 0.5)
        balance_C += count_PC[patient] if in_a[patient] else -count_PC[patient]
    if in_a.all() or not in_a.any():
        in_a[order[-1]] = ~in_a[order[-1]]
    return np.flatnonzero(in_a[patient_M]), np.flatnonzero(~in_a[patient_M])


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """One threshold per finding, with the memory of what it was fitted on.

    Attributes:
        values: Finding -> threshold.
        split: Name of the split that they were fitted on, such as "seed 3, half A".
        patients: Patients of that split. Their boxes must not be scored with these thresholds.
        objective: What was maximised.
        oracle: Fitted on the very boxes that are scored, to see what perfect thresholds would give.
    """

    values: dict[str, float]
    split: str
    patients: tuple[str, ...]
    objective: str
    oracle: bool = False

    def save(self, path: str | Path) -> None:
        """Writes them as JSON."""
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> "Thresholds":
        """Reads what `save` wrote.

        Raises:
            CxrError: The file holds something else.
        """
        try:
            stored = read_json(path)
            return cls(**stored | {"patients": tuple(stored["patients"]), "values": dict(stored["values"])})
        except (TypeError, KeyError, ValueError) as error:
            raise CxrError(f"{path} does not hold thresholds ({error}): fit them again") from None


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A method's worth at every threshold: what fitting and scoring need, without a map.

    Attributes:
        rows: One row per true box, as in `Matched`.
        values_TMQ: What each is worth at each threshold.
        levels: The T thresholds.
        measures: Names of the Q measures.
        boxes: Candidate boxes: image, finding, level, x0, y0, x1, y1, peak_x, peak_y.
    """

    rows: pd.DataFrame
    values_TMQ: np.ndarray
    levels: tuple[float, ...]
    measures: tuple[str, ...]
    boxes: pd.DataFrame

    def fit(self, rows: np.ndarray, *, split: str, objective: str = OBJECTIVES[0], oracle: bool = False) -> Thresholds:
        """Fits one threshold per finding on some true boxes.

        Of several equally good thresholds the middle one is taken. A finding without a box among them gets the
        threshold that is best for all of them together.

        Args:
            rows: Row numbers of the true boxes to fit on.
            split: Their name.
            objective: One of `OBJECTIVES`, or `MASK_OBJECTIVE` for a sweep of masks.
            oracle: Say so if the same boxes are to be scored.

        Raises:
            CxrError: There is nothing to fit on, or no such objective.
        """
        wanted = MEAN_OVER if objective == OBJECTIVES[0] else (objective,)
        if not set(wanted) <= set(self.measures) or objective not in (*OBJECTIVES, MASK_OBJECTIVE):
            raise CxrError(f"there is no objective {objective!r} for {', '.join(self.measures)}: choose another")
        if not len(rows):
            raise CxrError(f"the split {split!r} has no box to fit thresholds on")
        columns = [self.measures.index(name) for name in wanted]
        worth_TM = self.values_TMQ[:, rows][:, :, columns].mean(axis=2)
        finding_M = self.rows["finding"].to_numpy()[rows]
        values = {}
        for finding in dict.fromkeys(self.rows["finding"]):
            mine = finding_M == finding
            worth_T = worth_TM[:, mine if mine.any() else slice(None)].mean(axis=1)
            best = np.flatnonzero(worth_T >= worth_T.max() - 1e-12)
            values[str(finding)] = float(self.levels[best[len(best) // 2]])
        patients = tuple(sorted(set(self.rows["patient"].iloc[rows].astype(str))))
        return Thresholds(values, split, patients, objective, oracle)

    def score_rows(self, thresholds: Thresholds, rows: np.ndarray) -> np.ndarray:
        """values_MQ of some true boxes under some thresholds.

        Raises:
            CxrError: The thresholds were fitted on a patient that is scored, and are not called an oracle; or they lack
                a finding or have a value that was not tried.
        """
        shared = set(self.rows["patient"].iloc[rows].astype(str)) & set(thresholds.patients)
        if shared and not thresholds.oracle:
            raise CxrError(
                f"the thresholds of {thresholds.split!r} were fitted on {len(shared)} of the patients that are to be scored: score the "
                "other half, or call them an oracle"
            )
        return self.values_TMQ[self._level_of(thresholds, rows), rows]

    def predicted(self, thresholds: Thresholds) -> pd.DataFrame:
        """The boxes that the thresholds choose: image, finding, x0, y0, x1, y1, peak_x, peak_y."""
        levels = self.boxes["finding"].map(thresholds.values)
        return self.boxes[np.isclose(self.boxes["level"], levels)].drop(columns="level").reset_index(drop=True)

    def _level_of(self, thresholds: Thresholds, rows: np.ndarray) -> np.ndarray:
        findings = self.rows["finding"].iloc[rows]
        missing = set(findings) - set(thresholds.values)
        if missing:
            raise CxrError(f"the thresholds of {thresholds.split!r} have none for {', '.join(sorted(missing))}: fit them again")
        places = {}
        for finding, value in thresholds.values.items():
            near = np.flatnonzero(np.isclose(self.levels, value))
            if not len(near):
                raise CxrError(f"the threshold {value:g} of {finding} is none of those that were tried: fit them again on these maps")
            places[finding] = int(near[0])
        return findings.map(places).to_numpy(int)


def sweep_of(boxes: pd.DataFrame, truth: pd.DataFrame, *, levels: tuple[float, ...] = LEVELS) -> Sweep:
    """Scores candidate boxes at every threshold.

    Args:
        boxes: image, finding, level, x0, y0, x1, y1, peak_x, peak_y, as `cxrlib.localization.stream` makes them.
        truth: True boxes with patient, width, height.
        levels: The thresholds, all of which `boxes` has.
    """
    tables = [match(truth, boxes[boxes["level"] == level].drop(columns="level")) for level in levels]
    values_TMQ = np.stack([table.values_MQ for table in tables])
    return Sweep(tables[0].rows, values_TMQ, tuple(levels), tables[0].measures, boxes)


@dataclasses.dataclass(frozen=True)
class CrossFitted:
    """Scores in which no box was judged with thresholds that saw its patient.

    Attributes:
        matched: Mean over the seeds, row by row.
        macro_HQ: Macro scores of each half of each seed alone, for comparison with papers that report one half.
        measures: Names of the columns of `macro_HQ`.
        thresholds: Those of each half of each seed.
    """

    matched: Matched
    macro_HQ: np.ndarray
    measures: tuple[str, ...]
    thresholds: tuple[Thresholds, ...] = ()


def cross_fit(sweep: Sweep, *, seeds: int = SEEDS, objective: str = OBJECTIVES[0]) -> CrossFitted:
    """Thresholds from one half for the other, both ways, for each seed."""
    fitted: list[Thresholds] = []

    def values(fit_rows: np.ndarray, score_rows: np.ndarray, name: str) -> np.ndarray:
        fitted.append(sweep.fit(fit_rows, split=name, objective=objective))
        return sweep.score_rows(fitted[-1], score_rows)

    return dataclasses.replace(cross(sweep.rows, values, sweep.measures, seeds=seeds), thresholds=tuple(fitted))


def cross(rows: pd.DataFrame, values, measures: tuple[str, ...], *, seeds: int = SEEDS) -> CrossFitted:
    """Any fit on one half scored on the other, both ways, for each seed.

    Args:
        rows: One row per true box.
        values: `(fit_rows, score_rows, name of the fitted half) -> values_MQ` of `score_rows`.
        measures: Names of the Q measures.
        seeds: How many draws of halves.
    """
    tables, halves_macro = [], []
    for seed in range(seeds):
        parts = halves(rows, seed=seed)
        values_MQ = np.full((len(rows), len(measures)), np.nan)
        for name, fit_rows, score_rows in (("A", *parts), ("B", *parts[::-1])):
            values_MQ[score_rows] = values(fit_rows, score_rows, f"seed {seed}, half {name}")
            part = Matched(rows.iloc[score_rows].reset_index(drop=True), values_MQ[score_rows], measures)
            summary = score(part, findings=tuple(dict.fromkeys(rows["finding"])), resamples=0)
            halves_macro.append(summary.value_GQ[-1])
        tables.append(Matched(rows, values_MQ, measures))
    return CrossFitted(mean_of(tables), np.array(halves_macro), summary.measures)


def first_boxes(sweep: Sweep, fitted: CrossFitted) -> pd.DataFrame:
    """The boxes that the first seed's thresholds choose, each image's with those of the half it is not in."""
    first, second = (sweep.predicted(thresholds) for thresholds in fitted.thresholds[:2])
    patient_of = sweep.rows.drop_duplicates("image").set_index("image")["patient"].astype(str)
    in_first = patient_of.isin(fitted.thresholds[0].patients)
    parts = [second[second["image"].map(in_first)], first[~first["image"].map(in_first).astype(bool)]]
    return pd.concat(parts, ignore_index=True)


def oracle(sweep: Sweep, *, objective: str = OBJECTIVES[0]) -> Matched:
    """Thresholds fitted on the very boxes that are scored: too good, and called so."""
    everything = np.arange(len(sweep.rows))
    best = sweep.fit(everything, split="oracle: all boxes", objective=objective, oracle=True)
    return Matched(sweep.rows, sweep.score_rows(best, everything), sweep.measures)


def blind_cross(truth: pd.DataFrame, *, seeds: int = SEEDS) -> CrossFitted:
    """The class-fixed box under the very same halves."""
    from cxrlib.localization.blind import blind_boxes

    truth = truth.reset_index(drop=True)

    def values(fit_rows: np.ndarray, score_rows: np.ndarray, _: str) -> np.ndarray:
        mine = truth.iloc[score_rows]
        return match(mine, blind_boxes(mine, truth.iloc[fit_rows])).values_MQ

    whole = match(truth, truth[["image", "finding"]].assign(**dict.fromkeys(XYXY, np.nan)).drop_duplicates(["image", "finding"]))
    return cross(whole.rows, values, whole.measures, seeds=seeds)
