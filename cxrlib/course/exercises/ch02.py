"""Exercises and questions of chapter 2: labels, leakage and honest baselines."""

from fractions import Fraction
from typing import Any

import numpy as np

from cxrlib.course.compare import as_array, compare, describe
from cxrlib.course.exercise import Exercise, Question, Verdict, right, wrong

# --- warm-up: lift ---------------------------------------------------------------------------------------------------


def _check_lift(answer: Any) -> Verdict:
    """200 films: 50 with an effusion, 24 with consolidation, 15 with both. Expected 50 * 24 / 200 = 6, so lift 2.5."""
    if callable(answer):
        return wrong(expected="a number", got="a function", cause="`lift` should hold the result, not a function")
    return compare(
        answer,
        2.5,
        what="the lift of effusion and consolidation",
        causes={
            "this is the share of effusion films that show consolidation, not yet divided by how common "
            "consolidation is": 15 / 50,
            "this is the share of consolidation films that show an effusion, not yet divided by how common "
            "effusion is": 15 / 24,
            "this is how many films you would expect with both; lift is observed over expected": 6.0,
            "the fraction is upside down: observed over expected, not expected over observed": 6 / 15,
            "the counts were used where shares are meant: divide each by the 200 films": 15 / (50 * 24),
            "this is the share of films with both; divide it by the product of the two shares": 15 / 200,
        },
        note="Fifteen seen, six expected: the two meet two and a half times as often as by chance.",
        rtol=1e-3,
    )


LIFT = Exercise(
    id="ch02.lift",
    title="Lift from four counts",
    prompt="Of 200 films 50 show an effusion, 24 a consolidation and 15 both. What is the lift of the pair?",
    answer="lift",
    check=_check_lift,
    hints=(
        "How many films would show both if the two had nothing to do with each other?",
        "Turn the three counts into shares of 200, and put them into equation (2).",
        "Observed 15/200, divided by the product of 50/200 and 24/200.",
    ),
    stub="lift = ...  # a number\n",
    solution="lift = (15 / 200) / ((50 / 200) * (24 / 200))\n",
    alternatives=(
        "expected = 200 * (50 / 200) * (24 / 200)\nlift = 15 / expected\n",
        "lift = (15 / 50) / (24 / 200)\n",
    ),
    mutants={
        "not yet divided by how common consolidation is": "lift = 15 / 50\n",
        "not yet divided by how common effusion is": "lift = 15 / 24\n",
        "films you would expect": "lift = 50 * 24 / 200\n",
        "upside down": "lift = (50 * 24 / 200) / 15\n",
        "divide each by the 200 films": "lift = 15 / (50 * 24)\n",
    },
    level="warm-up",
    minutes=3,
)

# --- warm-up: the AUROC of five scores -------------------------------------------------------------------------------


def _check_five(answer: Any) -> Verdict:
    """Positives .8 and .5; negatives .6, .5 and .2. Pairs won: 3 + (1 + 1/2) of 6."""
    if callable(answer):
        return wrong(expected="a number", got="a function", cause="`auroc_of_five` should hold the number you counted")
    return compare(
        answer,
        4.5 / 6,
        what="the AUROC of the five scores",
        causes={
            "the tied pair (0.5 against 0.5) was counted as lost; it is worth a half": 4 / 6,
            "the tied pair (0.5 against 0.5) was counted as won; it is worth a half": 5 / 6,
            "this is the number of pairs won; divide by the number of pairs": 4.5,
            "the negatives were counted as winning: a positive should score higher": 1.5 / 6,
            "the pairs won were divided by all 10 pairs of films; only a positive with a negative makes a pair": 4.5 / 10,
            "the pairs won were divided by the five films; divide by the six pairs": 4.5 / 5,
        },
        note="Four pairs won, one tied, one lost.",
        rtol=2e-3,
    )


FIVE = Exercise(
    id="ch02.five",
    title="The AUROC of five scores, by hand",
    prompt="Scores 0.8, 0.6, 0.5, 0.5, 0.2; the first and the third film are positive. Count the pairs on paper.",
    answer="auroc_of_five",
    check=_check_five,
    hints=(
        "A pair is one positive with one negative. How many pairs are there?",
        "Take each positive in turn. Against each negative it gets 1 if it scores higher, 1/2 if equal, 0 if lower.",
        "0.8 wins all three. 0.5 meets 0.6, 0.5 and 0.2. Add up, divide by six.",
    ),
    stub="auroc_of_five = ...  # a number\n",
    solution="auroc_of_five = (3 + 1.5) / 6\n",
    alternatives=(
        "scores, truth = [0.8, 0.6, 0.5, 0.5, 0.2], [1, 0, 1, 0, 0]\n"
        "auroc_of_five = np.mean([(a > b) + (a == b) / 2\n"
        "                         for a, y in zip(scores, truth) if y\n"
        "                         for b, z in zip(scores, truth) if not z])\n",
        "auroc_of_five = 0.75\n",
    ),
    mutants={
        "counted as lost": "auroc_of_five = 4 / 6\n",
        "counted as won": "auroc_of_five = 5 / 6\n",
        "divide by the number of pairs": "auroc_of_five = 4.5\n",
        "negatives were counted as winning": "auroc_of_five = 0.25\n",
        "only a positive with a negative": "auroc_of_five = 0.45\n",
    },
    setup="import numpy as np\n",
    level="warm-up",
    minutes=4,
)

# --- core: a split by patient ----------------------------------------------------------------------------------------

_PATIENTS = np.array(["7", "31", "7", "12", "12", "90", "7", "12", "31", "8", "7", "55", "55", "4", "7", "102", "63", "63", "9"])


def _as_rows(part: Any, n: int) -> np.ndarray | None:
    """Row numbers from an index array, a list or a boolean mask; None if it is none of these."""
    rows = as_array(part)
    if rows is None or rows.ndim != 1:
        return None
    if rows.dtype.kind == "b":
        return np.flatnonzero(rows) if len(rows) == n else None
    if rows.dtype.kind == "f" and not np.array_equal(rows, np.round(rows)):
        return None
    return rows.astype(int)


def _check_split(answer: Any) -> Verdict:
    if not callable(answer):
        return wrong(expected="a function", got=f"a {type(answer).__name__}", cause="define `split_patients(...)`")
    big = np.random.default_rng(5).geometric(0.25, size=400)
    many = np.repeat(np.array([f"{i:04d}" for i in range(400)]), big)
    many = many[np.random.default_rng(6).permutation(len(many))]
    for patients in (_PATIENTS, many):
        n = len(patients)
        for seed in (0, 1, 2):
            result = answer(patients, 0.25, seed)
            if result is None:
                return wrong(
                    expected="two arrays of row numbers", got="None", cause="the function returns nothing: a `return` is missing"
                )
            if not isinstance(result, (tuple, list)) or len(result) != 2:
                return wrong(
                    expected="two things: (train, test)", got=f"a {type(result).__name__}", cause="return train, test"
                )
            train, test = (_as_rows(part, n) for part in result)
            if train is None or test is None:
                return wrong(
                    expected="two arrays of row numbers",
                    got="something else",
                    cause="patient ids were returned in place of row numbers: np.flatnonzero turns a mask into rows",
                )
            if set(train.tolist()) - set(range(n)) or set(test.tolist()) - set(range(n)):
                return wrong(
                    expected=f"row numbers from 0 to {n - 1}",
                    got="numbers outside that range",
                    cause="patient numbers were returned in place of row numbers",
                )
            if set(train.tolist()) & set(test.tolist()):
                return wrong(expected="no row twice", got="rows in both parts", cause="a row stands in train and in test")
            shared = set(patients[train].tolist()) & set(patients[test].tolist())
            if shared:
                return wrong(
                    expected="no patient in both parts",
                    got=f"{len(shared)} of {len(set(patients.tolist()))} patients in both",
                    cause="the images were drawn, not the patients: draw among the distinct patient ids",
                )
            if len(train) + len(test) != n:
                return wrong(
                    expected=f"all {n} rows in one part or the other",
                    got=f"{len(train) + len(test)} rows",
                    cause="some rows are lost: each patient must bring all of their images along",
                )
            if not len(train) or not len(test):
                return wrong(expected="two parts with something in them", got="an empty part", cause="one side got no patient")
    train, test = (_as_rows(part, n) for part in answer(many, 0.25, 0))
    share = len(set(many[test].tolist())) / len(set(many.tolist()))
    images = len(test) / n
    if min(abs(share - 0.25), abs(images - 0.25)) > 0.03:
        cause = "the fraction is wrong: `fraction` is the part that is held out for the test"
        if min(abs(share - 0.75), abs(images - 0.75)) <= 0.03:
            cause = "the parts are swapped: return train first, then test"
        return wrong(expected="about a quarter in test", got=f"{share:.0%} of patients", cause=cause)
    again = _as_rows(answer(many, 0.25, 0)[1], n)
    if not np.array_equal(np.sort(test), np.sort(again)):
        return wrong(
            expected="the same split for the same seed",
            got="two different splits",
            cause="the seed is not used: np.random.default_rng(seed)",
        )
    other = _as_rows(answer(many, 0.25, 1)[1], n)
    if np.array_equal(np.sort(test), np.sort(other)):
        return wrong(
            expected="another seed to give another split",
            got="the same split for seeds 0 and 1",
            cause="the patients are taken in the order of their numbers, or the seed is fixed inside: shuffle them with `seed`",
        )
    return right("No patient is on both sides, nothing is lost, and the seed decides.")


_SPLIT_STUB = '''def split_patients(patients_N, fraction, seed):
    """Row numbers (train, test); about `fraction` of the patients in test, no patient in both."""
    raise NotImplementedError
'''

_SPLIT_SOLUTION = '''def split_patients(patients_N, fraction, seed):
    distinct = np.unique(patients_N)
    shuffled = np.random.default_rng(seed).permutation(distinct)
    held = shuffled[: round(fraction * len(distinct))]
    is_test = np.isin(patients_N, held)
    return np.flatnonzero(~is_test), np.flatnonzero(is_test)
'''

SPLIT = Exercise(
    id="ch02.split",
    title="A split in which no patient is on both sides",
    prompt="Write split_patients(patients_N, fraction, seed): row numbers (train, test) with no patient in both.",
    answer="split_patients",
    check=_check_split,
    hints=(
        "What is it that should be drawn at random: the rows, or something that the rows share?",
        "Shuffle the distinct patient ids, hold out the first part of them, then ask for each row whether its patient is held.",
        "np.unique gives the ids, np.random.default_rng(seed).permutation shuffles them, np.isin makes the mask of rows.",
    ),
    stub=_SPLIT_STUB,
    solution=_SPLIT_SOLUTION,
    alternatives=(
        # sets and lists, whole patients until there are enough images
        '''def split_patients(patients_N, fraction, seed):
    rows_of = {}
    for row, patient in enumerate(patients_N):
        rows_of.setdefault(patient, []).append(row)
    order = sorted(rows_of)
    np.random.default_rng(seed).shuffle(order)
    test = []
    while len(test) < fraction * len(patients_N):
        test += rows_of[order.pop()]
    train = [row for patient in order for row in rows_of[patient]]
    return train, test
''',
        # a coin per patient, boolean masks
        '''def split_patients(patients_N, fraction, seed):
    distinct, number_N = np.unique(patients_N, return_inverse=True)
    rank = np.argsort(np.random.default_rng(seed).random(len(distinct)))
    held = np.zeros(len(distinct), bool)
    held[rank[: int(np.ceil(fraction * len(distinct)))]] = True
    return ~held[number_N], held[number_N]
''',
    ),
    mutants={
        "the images were drawn, not the patients": '''def split_patients(patients_N, fraction, seed):
    order = np.random.default_rng(seed).permutation(len(patients_N))
    cut = round(fraction * len(patients_N))
    return order[cut:], order[:cut]
''',
        "must bring all of their images along": '''def split_patients(patients_N, fraction, seed):
    distinct, first = np.unique(patients_N, return_index=True)
    order = np.random.default_rng(seed).permutation(len(distinct))
    cut = round(fraction * len(distinct))
    return first[order[cut:]], first[order[:cut]]
''',
        "the seed is not used": '''def split_patients(patients_N, fraction, seed):
    distinct = np.unique(patients_N)
    held = np.random.default_rng().permutation(distinct)[: round(fraction * len(distinct))]
    is_test = np.isin(patients_N, held)
    return np.flatnonzero(~is_test), np.flatnonzero(is_test)
''',
        "the seed is fixed inside": '''def split_patients(patients_N, fraction, seed):
    distinct = np.unique(patients_N)
    held = distinct[: round(fraction * len(distinct))]
    is_test = np.isin(patients_N, held)
    return np.flatnonzero(~is_test), np.flatnonzero(is_test)
''',
        "the parts are swapped": '''def split_patients(patients_N, fraction, seed):
    distinct = np.unique(patients_N)
    held = np.random.default_rng(seed).permutation(distinct)[: round(fraction * len(distinct))]
    is_test = np.isin(patients_N, held)
    return np.flatnonzero(is_test), np.flatnonzero(~is_test)
''',
        "patient ids were returned": '''def split_patients(patients_N, fraction, seed):
    shuffled = np.random.default_rng(seed).permutation(np.unique(patients_N))
    cut = round(fraction * len(shuffled))
    return shuffled[cut:], shuffled[:cut]
''',
    },
    setup="import numpy as np\n",
    level="core",
    minutes=10,
)

# --- core: AUROC from pairs ------------------------------------------------------------------------------------------


def _pair_value(scores: np.ndarray, truth: np.ndarray, tie: Fraction = Fraction(1, 2)) -> float:
    """The AUROC by exact counting of pairs, with another worth of a tie on demand; NaN where undefined."""
    positives, negatives = scores[truth == 1], scores[truth == 0]
    if not len(positives) or not len(negatives):
        return float("nan")
    won = sum((Fraction(1) if a > b else tie if a == b else Fraction(0)) for a in positives for b in negatives)
    return float(won / (len(positives) * len(negatives)))


def _check_auroc(answer: Any) -> Verdict:
    if not callable(answer):
        return wrong(expected="a function", got=f"a {type(answer).__name__}", cause="define `auroc_by_pairs(...)`")
    scores = np.array([0.9, 0.7, 0.7, 0.7, 0.4, 0.3, 0.1])
    truth = np.array([1, 1, 0, 1, 0, 0, 1])
    expected = _pair_value(scores, truth)
    verdict = compare(
        answer(scores.copy(), truth.copy()),
        expected,
        what="the AUROC of seven scores with ties",
        causes={
            "tied pairs are counted as won (>=); a tie is worth a half": _pair_value(scores, truth, Fraction(1)),
            "tied pairs are counted as lost (>); a tie is worth a half": _pair_value(scores, truth, Fraction(0)),
            "the sign is turned round: a pair is won where the positive scores higher": 1 - expected,
            "the pairs are added up but not divided by their number": expected * 12,
            "this is the share of right answers at a threshold of 0.5; the AUROC needs no threshold": float(
                np.mean((scores > 0.5) == truth)
            ),
            "divided by all pairs of films; only a positive with a negative makes a pair": expected * 12 / 21,
        },
    )
    if not verdict.passed:
        return verdict
    rng = np.random.default_rng(3)
    many, labels = rng.integers(0, 12, 301) / 8.0, (rng.random(301) < 0.2).astype(float)
    verdict = compare(answer(many.copy(), labels.copy()), _pair_value(many, labels), what="the AUROC of 301 scores with ties")
    if not verdict.passed:
        return verdict
    for labels, name in ((np.zeros(4), "no positive"), (np.ones(4), "no negative")):
        got = as_array(answer(np.array([0.4, 0.1, 0.2, 0.9]), labels))
        if got is None or got.ndim != 0 or not np.isnan(float(got)):
            value = "None" if got is None else describe(got)
            cause = "an undefined AUROC is NaN"
            if got is not None and got.ndim == 0 and float(got) in (0.0, 0.5, 1.0):
                cause = f"an undefined AUROC was given the value {float(got):g}, which would enter the macro mean; it is NaN"
            return wrong(expected=f"NaN with {name}", got=value, cause=cause)
    scores, truth = np.array([0.8, 0.9, 0.3, 0.5, 0.6, 0.2]), np.array([1, np.nan, 0, 1, 0, np.nan])
    known = ~np.isnan(truth)
    return compare(
        answer(scores.copy(), truth.copy()),
        _pair_value(scores[known], truth[known]),
        what="the AUROC where two of six labels are unknown (NaN)",
        causes={
            "films with an unknown label were counted as negatives; leave them out": _pair_value(
                scores, np.nan_to_num(truth, nan=0.0)
            ),
            "films with an unknown label were counted as positives; leave them out": _pair_value(
                scores, np.nan_to_num(truth, nan=1.0)
            ),
            "the unknown labels spread into the result; leave those films out": np.nan,
        },
        note="Ties are worth a half, unknown labels take no part, and what is undefined stays NaN.",
    )


_AUROC_STUB = '''def auroc_by_pairs(scores_N, targets_N):
    """Share of (positive, negative) pairs that are in the right order. Targets are 1, 0 or NaN (unknown)."""
    raise NotImplementedError
'''

_AUROC_SOLUTION = '''def auroc_by_pairs(scores_N, targets_N):
    positives, negatives = scores_N[targets_N == 1], scores_N[targets_N == 0]
    if len(positives) == 0 or len(negatives) == 0:
        return np.nan
    gap = positives[:, None] - negatives[None, :]
    return np.mean((gap > 0) + 0.5 * (gap == 0))
'''


def _auroc_with(body: str) -> str:
    return "def auroc_by_pairs(scores_N, targets_N):\n" + body


AUROC = Exercise(
    id="ch02.auroc",
    title="AUROC from its definition",
    prompt="Write auroc_by_pairs(scores_N, targets_N): equation (3), NaN where undefined, unknown labels left out.",
    answer="auroc_by_pairs",
    check=_check_auroc,
    hints=(
        "First make two short arrays: the scores of the positives and those of the negatives. NaN is neither.",
        "positives[:, None] against negatives[None, :] compares every pair at once.",
        "Return np.nan if either array is empty; else the mean of (gap > 0) plus one half of (gap == 0).",
    ),
    stub=_AUROC_STUB,
    solution=_AUROC_SOLUTION,
    alternatives=(
        # two loops in plain Python
        _auroc_with(
            """    won = pairs = 0
    for a, y in zip(scores_N, targets_N):
        for b, z in zip(scores_N, targets_N):
            if y == 1 and z == 0:
                pairs += 1
                won += 1.0 if a > b else 0.5 if a == b else 0.0
    return won / pairs if pairs else float("nan")
"""
        ),
        # mid-ranks
        _auroc_with(
            """    from scipy.stats import rankdata
    known = ~np.isnan(targets_N)
    scores, truth = scores_N[known], targets_N[known] == 1
    n_pos, n_neg = truth.sum(), (~truth).sum()
    if n_pos * n_neg == 0:
        return np.nan
    return (rankdata(scores)[truth].sum() - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg)
"""
        ),
    ),
    mutants={
        "counted as won": _auroc_with(
            """    positives, negatives = scores_N[targets_N == 1], scores_N[targets_N == 0]
    if len(positives) == 0 or len(negatives) == 0:
        return np.nan
    return np.mean(positives[:, None] >= negatives[None, :])
"""
        ),
        "counted as lost": _auroc_with(
            """    positives, negatives = scores_N[targets_N == 1], scores_N[targets_N == 0]
    if len(positives) == 0 or len(negatives) == 0:
        return np.nan
    return np.mean(positives[:, None] > negatives[None, :])
"""
        ),
        "given the value 0": _auroc_with(
            """    positives, negatives = scores_N[targets_N == 1], scores_N[targets_N == 0]
    if len(positives) == 0 or len(negatives) == 0:
        return 0.0
    gap = positives[:, None] - negatives[None, :]
    return np.mean((gap > 0) + 0.5 * (gap == 0))
"""
        ),
        "counted as negatives": _auroc_with(
            """    positives, negatives = scores_N[targets_N == 1], scores_N[targets_N != 1]
    if len(positives) == 0 or len(negatives) == 0:
        return np.nan
    gap = positives[:, None] - negatives[None, :]
    return np.mean((gap > 0) + 0.5 * (gap == 0))
"""
        ),
        "the sign is turned round": _auroc_with(
            """    positives, negatives = scores_N[targets_N == 1], scores_N[targets_N == 0]
    if len(positives) == 0 or len(negatives) == 0:
        return np.nan
    gap = negatives[:, None] - positives[None, :]
    return np.mean((gap > 0) + 0.5 * (gap == 0))
"""
        ),
    },
    setup="import numpy as np\n",
    level="core",
    minutes=12,
)

# --- stretch: resampling patients ------------------------------------------------------------------------------------


def _check_resample(answer: Any) -> Verdict:
    if not callable(answer):
        return wrong(expected="a function", got=f"a {type(answer).__name__}", cause="define `resample_patients(...)`")
    patients = _PATIENTS
    distinct, size_of = np.unique(patients, return_counts=True)
    size = dict(zip(distinct.tolist(), size_of.tolist()))
    seen_twice, kinds, lengths = False, set(), set()
    for seed in range(12):
        rows = as_array(answer(patients, np.random.default_rng(seed)))
        if rows is None or rows.ndim != 1 or rows.dtype.kind not in "iu":
            got = "None" if rows is None else describe(rows)
            return wrong(
                expected="one array of row numbers",
                got=got,
                cause="rows are wanted, each as often as its patient was drawn: patient ids, masks and None are not rows",
            )
        if len(rows) and (rows.min() < 0 or rows.max() >= len(patients)):
            return wrong(expected=f"rows 0 to {len(patients) - 1}", got=describe(rows), cause="these are not row numbers")
        count = np.bincount(rows, minlength=len(patients))
        draws = 0
        for patient in distinct:
            own = count[patients == patient]
            if own.min() != own.max():
                return wrong(
                    expected="all images of a patient equally often",
                    got=f"the images of patient {patient} {own.tolist()} times",
                    cause="the images were drawn, not the patients: a patient brings all of their images each time",
                )
            draws += int(own[0])
        seen_twice |= bool(count.max() > 1)
        kinds.add(tuple(count.tolist()))
        lengths.add(draws)
    if not seen_twice:
        return wrong(
            expected="some patients twice, some not at all",
            got="no patient more than once",
            cause="drawn without replacement, or a patient drawn twice was kept once (np.isin forgets how often)",
        )
    if lengths != {len(distinct)}:
        return wrong(
            expected=f"{len(distinct)} patients drawn, as many as there are",
            got=f"{sorted(lengths)[0]} to {sorted(lengths)[-1]} patients drawn",
            cause="the number of draws is wrong: draw as many patients as there are distinct patients",
        )
    if len(kinds) == 1:
        return wrong(
            expected="another sample from another generator",
            got="the same sample for twelve generators",
            cause="`rng` is not used",
        )
    assert sum(size.values()) == len(patients)
    return right("Whole patients come and go, and the number of images changes from sample to sample: as it should.")


_RESAMPLE_SOLUTION = '''def resample_patients(patients_N, rng):
    distinct = np.unique(patients_N)
    drawn = rng.choice(distinct, size=len(distinct), replace=True)
    return np.concatenate([np.flatnonzero(patients_N == patient) for patient in drawn])
'''

RESAMPLE = Exercise(
    id="ch02.resample",
    title="One bootstrap sample of patients",
    prompt="Write resample_patients(patients_N, rng): the row numbers of one bootstrap sample of whole patients.",
    answer="resample_patients",
    check=_check_resample,
    hints=(
        "What was drawn independently when the data were collected: films, or people?",
        "Draw as many patients as there are, with replacement; then list the rows of each drawn patient, twice if drawn twice.",
        "rng.choice(distinct, len(distinct)) draws; np.flatnonzero(patients_N == p) gives rows; np.concatenate joins them.",
    ),
    stub='''def resample_patients(patients_N, rng):
    """Row numbers of a bootstrap sample: patients drawn with replacement, each with all of their images."""
    raise NotImplementedError
''',
    solution=_RESAMPLE_SOLUTION,
    alternatives=(
        '''def resample_patients(patients_N, rng):
    distinct, number_N = np.unique(patients_N, return_inverse=True)
    times = np.bincount(rng.integers(0, len(distinct), len(distinct)), minlength=len(distinct))
    return np.repeat(np.arange(len(patients_N)), times[number_N])
''',
    ),
    mutants={
        "the images were drawn, not the patients": '''def resample_patients(patients_N, rng):
    return rng.integers(0, len(patients_N), len(patients_N))
''',
        "np.isin forgets how often": '''def resample_patients(patients_N, rng):
    distinct = np.unique(patients_N)
    drawn = rng.choice(distinct, size=len(distinct), replace=True)
    return np.flatnonzero(np.isin(patients_N, drawn))
''',
        "the number of draws is wrong": '''def resample_patients(patients_N, rng):
    distinct = np.unique(patients_N)
    drawn = rng.choice(distinct, size=len(patients_N), replace=True)
    return np.concatenate([np.flatnonzero(patients_N == patient) for patient in drawn])
''',
        "`rng` is not used": '''def resample_patients(patients_N, rng):
    distinct = np.unique(patients_N)
    rng = np.random.default_rng(0)
    drawn = rng.choice(distinct, size=len(distinct), replace=True)
    return np.concatenate([np.flatnonzero(patients_N == patient) for patient in drawn])
''',
        "rows are wanted": '''def resample_patients(patients_N, rng):
    distinct = np.unique(patients_N)
    return rng.choice(distinct, size=len(distinct), replace=True)
''',
    },
    setup="import numpy as np\n",
    level="stretch",
    minutes=12,
)

# --- stretch: intersection over box ----------------------------------------------------------------------------------


def _overlaps(a_M4: np.ndarray, b_K4: np.ndarray, plus: float = 0.0, clamp: bool = True) -> np.ndarray:
    low = np.maximum(a_M4[:, None, :2], b_K4[None, :, :2])
    high = np.minimum(a_M4[:, None, 2:], b_K4[None, :, 2:])
    side = high - low + plus
    return np.prod(np.maximum(side, 0) if clamp else side, axis=-1)


def _areas(boxes: np.ndarray, plus: float = 0.0) -> np.ndarray:
    return np.prod(boxes[:, 2:] - boxes[:, :2] + plus, axis=-1)


def _check_iobb(answer: Any) -> Verdict:
    if not callable(answer):
        return wrong(expected="a function", got=f"a {type(answer).__name__}", cause="define `iobb(...)`")
    predicted = np.array([[6.0, 4.0, 30.0, 20.0], [0.5, 0.25, 3.0, 4.75]])
    drawn = np.array([[14.0, 10.0, 38.0, 28.0], [1.0, 1.0, 2.5, 3.0], [40.0, 25.0, 47.0, 31.0]])
    overlap = _overlaps(predicted, drawn)
    own, other = _areas(predicted)[:, None], _areas(drawn)[None, :]
    expected = overlap / own
    whole = (predicted.astype(int), drawn.astype(int))
    return compare(
        answer(predicted.copy(), drawn.copy()),
        expected,
        what="the IoBB of two predicted and three drawn boxes",
        causes={
            "boxes are half-open: width is x1 - x0, without + 1": _overlaps(predicted, drawn, 1.0)
            / _areas(predicted, 1.0)[:, None],
            "this divides by the drawn box; IoBB divides by the predicted one": overlap / other,
            "this is IoU: it divides by the union; IoBB divides by the predicted box": overlap / (own + other - overlap),
            "boxes that do not meet have two negative sides, whose product is positive: clamp each side at 0": _overlaps(
                predicted, drawn, clamp=False
            )
            / own,
            "the coordinates were cut to whole pixels; keep them as floats": _overlaps(*whole) / _areas(whole[0])[:, None],
            "this is the area of the overlap; divide it by the area of the predicted box": overlap,
            "the matrix lies on its side: predicted boxes are the rows [M, K]": expected.T,
        },
        note="A tiny box inside a big one gets an IoBB of 1: high IoBB is cheap, which is why IoU is the stricter test.",
        rtol=1e-6,
        atol=1e-9,
    )


_IOBB_HEAD = "def iobb(predicted_M4, drawn_K4):\n"

IOBB = Exercise(
    id="ch02.iobb",
    title="Intersection over the predicted box",
    prompt="Write iobb(predicted_M4, drawn_K4): overlap divided by the predicted box's own area, as a matrix [M, K].",
    answer="iobb",
    check=_check_iobb,
    hints=(
        "Only the denominator differs from IoU. Which box is 'the' box in Wang's IoBB?",
        "The overlap's corners are the larger of the two x0, y0 and the smaller of the two x1, y1; a negative side means no overlap.",
        "Put predicted_M4[:, None] against drawn_K4[None, :], clip the sides at 0, multiply, divide by the areas [:, None].",
    ),
    stub=_IOBB_HEAD
    + '''    """IoBB [M, K] of float half-open xyxy boxes."""
    raise NotImplementedError
''',
    solution=_IOBB_HEAD
    + """    low = np.maximum(predicted_M4[:, None, :2], drawn_K4[None, :, :2])
    high = np.minimum(predicted_M4[:, None, 2:], drawn_K4[None, :, 2:])
    overlap = np.prod(np.clip(high - low, 0, None), axis=-1)
    own = np.prod(predicted_M4[:, 2:] - predicted_M4[:, :2], axis=-1)
    return overlap / own[:, None]
""",
    alternatives=(
        _IOBB_HEAD
        + """    result = np.zeros((len(predicted_M4), len(drawn_K4)))
    for i, (ax0, ay0, ax1, ay1) in enumerate(predicted_M4):
        for j, (bx0, by0, bx1, by1) in enumerate(drawn_K4):
            width = max(0.0, min(ax1, bx1) - max(ax0, bx0))
            height = max(0.0, min(ay1, by1) - max(ay0, by0))
            result[i, j] = width * height / ((ax1 - ax0) * (ay1 - ay0))
    return result
""",
    ),
    mutants={
        "without + 1": _IOBB_HEAD
        + """    low = np.maximum(predicted_M4[:, None, :2], drawn_K4[None, :, :2])
    high = np.minimum(predicted_M4[:, None, 2:], drawn_K4[None, :, 2:])
    overlap = np.prod(np.clip(high - low + 1, 0, None), axis=-1)
    own = np.prod(predicted_M4[:, 2:] - predicted_M4[:, :2] + 1, axis=-1)
    return overlap / own[:, None]
""",
        "clamp each side": _IOBB_HEAD
        + """    low = np.maximum(predicted_M4[:, None, :2], drawn_K4[None, :, :2])
    high = np.minimum(predicted_M4[:, None, 2:], drawn_K4[None, :, 2:])
    overlap = np.prod(high - low, axis=-1)
    own = np.prod(predicted_M4[:, 2:] - predicted_M4[:, :2], axis=-1)
    return overlap / own[:, None]
""",
        "divides by the drawn box": _IOBB_HEAD
        + """    low = np.maximum(predicted_M4[:, None, :2], drawn_K4[None, :, :2])
    high = np.minimum(predicted_M4[:, None, 2:], drawn_K4[None, :, 2:])
    overlap = np.prod(np.clip(high - low, 0, None), axis=-1)
    return overlap / np.prod(drawn_K4[:, 2:] - drawn_K4[:, :2], axis=-1)
""",
        "this is IoU": _IOBB_HEAD
        + """    from cxrlib.metrics import iou_xyxy
    return iou_xyxy(predicted_M4, drawn_K4)
""",
        "keep them as floats": _IOBB_HEAD
        + """    predicted_M4, drawn_K4 = predicted_M4.astype(int), drawn_K4.astype(int)
    low = np.maximum(predicted_M4[:, None, :2], drawn_K4[None, :, :2])
    high = np.minimum(predicted_M4[:, None, 2:], drawn_K4[None, :, 2:])
    overlap = np.prod(np.clip(high - low, 0, None), axis=-1)
    own = np.prod(predicted_M4[:, 2:] - predicted_M4[:, :2], axis=-1)
    return overlap / own[:, None]
""",
    },
    setup="import numpy as np\n",
    level="stretch",
    minutes=12,
)

EXERCISES = (LIFT, FIVE, SPLIT, AUROC, RESAMPLE, IOBB)

QUESTIONS = (
    Question(
        id="ch02.confirmed",
        prompt="Of 100 films whose report was mined as 'pneumothorax', how many do radiologists confirm on a second look?",
        unit="of 100 films",
        why="The mined label is a clue about the film, not the truth about it.",
        close=0.15,
    ),
    Question(
        id="ch02.siblings",
        prompt="Images are split 80 : 20 at random. What percentage of the test images have a sibling (an image of the "
        "same patient) in training?",
        unit="per cent",
        why="Few patients have many films, and those few own most of the films.",
        close=0.1,
    ),
    Question(
        id="ch02.memory",
        prompt="What macro AUROC does a model reach under that split which knows the patient's other labels and nothing else?",
        unit="macro AUROC",
        why="No pixel was read. Whatever a network gains by recognising people looks just like skill.",
        close=0.06,
    ),
    Question(
        id="ch02.width",
        prompt="The interval of the macro AUROC, made by resampling patients: how wide is it beside one made by resampling "
        "images?",
        choices={
            "a": "narrower",
            "b": "the same, to within a tenth",
            "c": "about one and a half to two times as wide",
            "d": "more than three times as wide",
        },
        why="Films of one patient repeat each other, so they carry less information than as many films of strangers.",
    ),
    Question(
        id="ch02.blind",
        prompt="A box that is the same on every image of a finding: what macro accuracy does it reach at IoU > 0.5?",
        unit="macro accuracy",
        why="Nearly all of it is cardiomegaly: hearts are large and all lie in the same place.",
        close=0.3,
    ),
    Question(
        id="ch02.order",
        prompt="Raise the IoU threshold to 0.7. For which findings does the blind box still find more than one in ten?",
        choices={
            "a": "for none",
            "b": "for cardiomegaly alone",
            "c": "for the four large ones: cardiomegaly, pneumonia, infiltration, effusion",
            "d": "for all but nodules",
        },
        why="Overlap is a matter of size: the smaller a target, the fewer pixels an error may cost.",
    ),
)
