"""Chapter 17's exercises and questions."""

import numpy as np

from cxrlib.course.compare import compare
from cxrlib.course.exercise import Exercise, Question, Verdict

SETUP = "import numpy as np\n"


def _check_overlap(iou_iobb) -> Verdict:
    pairs = (
        ((2.0, 2.0, 4.0, 4.0), (1.0, 1.0, 5.0, 4.0)),
        ((0.0, 0.0, 6.0, 5.0), (1.0, 1.0, 5.0, 4.0)),
        ((0.5, 1.0, 2.5, 6.0), (1.0, 3.0, 5.0, 5.5)),
        ((0.0, 0.0, 2.0, 3.0), (3.0, 4.0, 6.0, 5.0)),
    )

    def table(*, plus=0.0, clip=True, whole=False, divide="predicted", swap=False, sum_only=False):
        rows = []
        for predicted, true in pairs:
            a, b = (np.array(box) for box in ((true, predicted) if swap else (predicted, true)))
            if whole:
                a, b = np.trunc(a), np.trunc(b)
            sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]) + plus
            inside = np.prod(np.maximum(sides, 0) if clip else sides)
            area_a, area_b = (np.prod(box[2:] - box[:2] + plus) for box in (a, b))
            union = area_a + area_b - (0 if sum_only else inside)
            rows.append((inside / union, inside / {"predicted": area_a, "true": area_b, "union": union}[divide]))
        return np.array(rows)

    return compare(
        [[float(value) for value in iou_iobb(predicted, true)] for predicted, true in pairs],
        table(),
        what="IoU and IoBB of four predicted boxes with their true ones",
        causes={
            "IoBB was divided by the true box: BB is the detected box, the predicted one": table(divide="true"),
            "one was added to each side: boxes are half-open, from 1 to 5 is 4 wide": table(plus=1.0),
            "sides of boxes that do not meet are negative, and two negatives make an area: clip each side at 0": table(clip=False),
            "the shared part was counted twice in the union: take it off once": table(sum_only=True),
            "the coordinates were cut to whole pixels: boxes are float": table(whole=True),
        },
        note="A small box inside the lesion has IoBB 1 whatever it misses.",
    )


def _check_accuracy(macro_accuracy) -> Verdict:
    iou_M = np.array([0.5, 0.7, 0.2, 0.9, np.nan, 0.4, 0.5, 0.6, 0.1, 0.3, 0.55])
    finding_M = np.array(["Mass", "Mass", "Mass", "Nodule", "Nodule", "Nodule", "Nodule", "Edema", "Mass", "Mass", "Nodule"])
    levels = (0.1, 0.3, 0.5)

    def table(*, equal=False, micro=False, drop=False, mean_iou=False):
        iou, names = (iou_M[~np.isnan(iou_M)], finding_M[~np.isnan(iou_M)]) if drop else (np.nan_to_num(iou_M), finding_M)
        rows = []
        for T in levels:
            right = iou >= T if equal else iou > T
            right = iou * right if mean_iou else right
            rows.append(right.mean() if micro else np.mean([right[names == name].mean() for name in np.unique(names)]))
        return np.array(rows)

    return compare(
        [float(macro_accuracy(iou_M, finding_M, T)) for T in levels],
        table(),
        what="macro accuracy of eleven boxes of three findings at T = .1, .3 and .5",
        causes={
            "a box at exactly T was counted: the rule is strictly greater": table(equal=True),
            "all boxes were averaged at once: average within each finding first, so that the frequent one does not drown the rest": table(micro=True),
            "the missing box was left out: where nothing was found, a lesion was missed": table(drop=True),
            "the IoU was averaged where it is above T: count boxes, each as 1 or 0": table(mean_iou=True),
            "the missing box was left out and equality counted: both go against the rule": table(drop=True, equal=True),
        },
        note="Two lines, and three ways to be flattered by them.",
    )


def _check_threshold(fit_thresholds) -> Verdict:
    rng = np.random.default_rng(17)
    levels_T = np.array([0.2, 0.35, 0.5, 0.65, 0.8])
    finding_M = np.array(["Mass", "Nodule", "Effusion"])[rng.integers(0, 3, 60)]
    best = {"Mass": 1, "Nodule": 4, "Effusion": 2}
    worth_TM = np.array([[1 - 0.15 * abs(t - best[name]) for name in finding_M] for t in range(5)])
    worth_TM += rng.normal(0, 0.02, worth_TM.shape)
    rows = np.arange(0, 60, 2)
    others = np.arange(1, 60, 2)
    # The other half likes other thresholds: who fits on it, or on everything, is found out.
    worth_TM[0, others] += 1.5 * (finding_M[others] == "Mass")
    worth_TM[3, others] += 1.5 * (finding_M[others] == "Nodule")
    worth_TM[4, others] += 1.5 * (finding_M[others] == "Effusion")
    names = ("Effusion", "Mass", "Nodule")

    def fitted(mine, *, pick=np.argmax, together=False, index=False):
        result = []
        for name in names:
            use = mine if together else mine[finding_M[mine] == name]
            place = pick(worth_TM[:, use].mean(axis=1))
            result.append(place if index else levels_T[place])
        return np.array(result, float)

    got = fit_thresholds(worth_TM.copy(), finding_M.copy(), levels_T.copy(), rows.copy())
    single = worth_TM[:, rows].max(axis=1).argmax()
    return compare(
        [float(got[name]) for name in names],
        fitted(rows),
        what="thresholds of Effusion, Mass and Nodule",
        causes={
            "all boxes were used: fit on the rows that you were given, the rest is for scoring": fitted(np.arange(60)),
            "the other half was fitted: the rows say which boxes may be seen": fitted(others),
            "one threshold was fitted for all findings: each has its own": fitted(rows, together=True),
            "the worst threshold was taken: the largest mean worth is wanted": fitted(rows, pick=np.argmin),
            "these are places in the list of levels: return the level itself": fitted(rows, index=True),
            "the best single box decided: average over the finding's boxes first": np.full(3, levels_T[single]),
        },
        note="Three numbers. They are all that the scored half may know of the other.",
    )


def _check_blind(blind_choice) -> Verdict:
    rng = np.random.default_rng(4)
    patient_M = np.array(["p", "p", "q", "r", "r", "r", "s", "t", "p", "u", "u", "q"])
    iou_KM = rng.uniform(0, 0.5, (6, 12))
    for k, name in enumerate("pqrstu"):  # each patient has a box of his own that fits him and hardly anyone else
        iou_KM[k, patient_M == name] += 0.9 + 0.02 * k
    iou_KM[3, 0] = 1.6  # and this one box of p fits another candidate better than his own

    def chosen(others):
        return np.array([iou_KM[:, others(m)].mean(axis=1).argmax() for m in range(len(patient_M))], float)

    everyone = chosen(lambda m: np.ones(len(patient_M), bool))
    by_box = chosen(lambda m: np.arange(len(patient_M)) != m)
    own = chosen(lambda m: patient_M == patient_M[m])
    return compare(
        np.asarray(blind_choice(iou_KM.copy(), patient_M.copy()), float),
        chosen(lambda m: patient_M != patient_M[m]),
        what="the candidate that each of twelve boxes is given",
        causes={
            "nobody was left out: the box was fitted on the lesion that it is scored on": everyone,
            "one box was left out, and its patient's other films stayed in: leave the patient out": by_box,
            "it was fitted on the patient himself: fit on all others": own,
            "the best candidate for each box alone was taken: that is an oracle": iou_KM.argmax(axis=0).astype(float),
            "the worst candidate was taken": np.array([iou_KM[:, patient_M != patient_M[m]].mean(axis=1).argmin() for m in range(12)], float),
        },
        rtol=0,
        atol=0.1,
        otherwise="for one box, write down by hand which boxes are of other patients, and average those columns",
        note="This is the row that every table of this book has.",
    )


EXERCISES = (
    Exercise(
        id="ch17.overlap",
        title="Two ratios of two boxes",
        prompt="Write iou_iobb(predicted, true) for two boxes x0, y0, x1, y1: the pair (IoU, IoBB).",
        answer="iou_iobb",
        check=_check_overlap,
        hints=(
            "Both ratios have the same top: the shared area. Where does it begin, where does it end?",
            "It begins at the larger of the two starts and ends at the smaller of the two ends, on each axis; never below 0.",
            "width = max(0, min(predicted[2], true[2]) - max(predicted[0], true[0])), and so for the height.",
        ),
        stub="def iou_iobb(predicted, true):\n    raise NotImplementedError  # your lines here\n",
        solution=(
            "def iou_iobb(predicted, true):\n"
            "    width = max(0, min(predicted[2], true[2]) - max(predicted[0], true[0]))\n"
            "    height = max(0, min(predicted[3], true[3]) - max(predicted[1], true[1]))\n"
            "    area = (predicted[2] - predicted[0]) * (predicted[3] - predicted[1])\n"
            "    true_area = (true[2] - true[0]) * (true[3] - true[1])\n"
            "    shared = width * height\n"
            "    return shared / (area + true_area - shared), shared / area\n"
        ),
        alternatives=(
            "def iou_iobb(predicted, true):\n"
            "    a, b = np.asarray(predicted, float), np.asarray(true, float)\n"
            "    inside = np.clip(np.minimum(a, b)[2:] - np.maximum(a, b)[:2], 0, None).prod()\n"
            "    size_a, size_b = (a[2:] - a[:2]).prod(), (b[2:] - b[:2]).prod()\n"
            "    return np.array([inside / (size_a + size_b - inside), inside / size_a])\n",
        ),
        mutants={
            "divided by the true box": (
                "def iou_iobb(predicted, true):\n"
                "    a, b = np.asarray(predicted, float), np.asarray(true, float)\n"
                "    inside = np.clip(np.minimum(a, b)[2:] - np.maximum(a, b)[:2], 0, None).prod()\n"
                "    size_a, size_b = (a[2:] - a[:2]).prod(), (b[2:] - b[:2]).prod()\n"
                "    return inside / (size_a + size_b - inside), inside / size_b\n"
            ),
            "one was added": (
                "def iou_iobb(predicted, true):\n"
                "    a, b = np.asarray(predicted, float), np.asarray(true, float)\n"
                "    inside = np.clip(np.minimum(a, b)[2:] - np.maximum(a, b)[:2] + 1, 0, None).prod()\n"
                "    size_a, size_b = (a[2:] - a[:2] + 1).prod(), (b[2:] - b[:2] + 1).prod()\n"
                "    return inside / (size_a + size_b - inside), inside / size_a\n"
            ),
            "clip each side": (
                "def iou_iobb(predicted, true):\n"
                "    a, b = np.asarray(predicted, float), np.asarray(true, float)\n"
                "    inside = (np.minimum(a, b)[2:] - np.maximum(a, b)[:2]).prod()\n"
                "    size_a, size_b = (a[2:] - a[:2]).prod(), (b[2:] - b[:2]).prod()\n"
                "    return inside / (size_a + size_b - inside), inside / size_a\n"
            ),
            "counted twice": (
                "def iou_iobb(predicted, true):\n"
                "    a, b = np.asarray(predicted, float), np.asarray(true, float)\n"
                "    inside = np.clip(np.minimum(a, b)[2:] - np.maximum(a, b)[:2], 0, None).prod()\n"
                "    size_a, size_b = (a[2:] - a[:2]).prod(), (b[2:] - b[:2]).prod()\n"
                "    return inside / (size_a + size_b), inside / size_a\n"
            ),
        },
        setup=SETUP,
        level="warm-up",
        minutes=5,
    ),
    Exercise(
        id="ch17.accuracy",
        title="Macro accuracy, without flattery",
        prompt="Write macro_accuracy(iou_M, finding_M, T): the mean over findings of the share of boxes that are right.",
        answer="macro_accuracy",
        check=_check_accuracy,
        hints=(
            "Decide three things: what a NaN counts as, what IoU = T counts as, and over what you average first.",
            "NaN means that nothing was found: the lesion was missed. np.nan_to_num, or a comparison, which is False for NaN.",
            "np.mean([(iou_M[finding_M == name] > T).mean() for name in np.unique(finding_M)])",
        ),
        stub="def macro_accuracy(iou_M, finding_M, T):\n    raise NotImplementedError  # your lines here\n",
        solution=(
            "def macro_accuracy(iou_M, finding_M, T):\n"
            "    right_M = np.nan_to_num(iou_M) > T  # nothing found is a miss\n"
            "    return np.mean([right_M[finding_M == name].mean() for name in np.unique(finding_M)])\n"
        ),
        alternatives=(
            "def macro_accuracy(iou_M, finding_M, T):\n"
            "    counts = {}\n"
            "    for iou, name in zip(iou_M, finding_M):\n"
            "        hits, boxes = counts.get(name, (0, 0))\n"
            "        counts[name] = (hits + bool(iou > T), boxes + 1)\n"
            "    return sum(hits / boxes for hits, boxes in counts.values()) / len(counts)\n",
        ),
        mutants={
            "strictly greater": (
                "def macro_accuracy(iou_M, finding_M, T):\n"
                "    right = np.nan_to_num(iou_M) >= T\n"
                "    return np.mean([right[finding_M == name].mean() for name in np.unique(finding_M)])\n"
            ),
            "within each finding first": (
                "def macro_accuracy(iou_M, finding_M, T):\n    return (np.nan_to_num(iou_M) > T).mean()\n"
            ),
            "missing box was left out": (
                "def macro_accuracy(iou_M, finding_M, T):\n"
                "    known = ~np.isnan(iou_M)\n"
                "    right, names = iou_M[known] > T, finding_M[known]\n"
                "    return np.mean([right[names == name].mean() for name in np.unique(names)])\n"
            ),
            "count boxes": (
                "def macro_accuracy(iou_M, finding_M, T):\n"
                "    iou = np.nan_to_num(iou_M)\n"
                "    worth = np.where(iou > T, iou, 0)\n"
                "    return np.mean([worth[finding_M == name].mean() for name in np.unique(finding_M)])\n"
            ),
        },
        setup=SETUP,
        level="core",
        minutes=10,
    ),
    Exercise(
        id="ch17.threshold",
        title="Fit on one half",
        prompt="Write fit_thresholds(worth_TM, finding_M, levels_T, rows): a dict finding -> the level with the largest mean worth on rows.",
        answer="fit_thresholds",
        check=_check_threshold,
        hints=(
            "Which columns of worth_TM may you look at, and which of those for one finding?",
            "mine = rows[finding_M[rows] == name] are the columns; average over them, then take the best row.",
            "levels_T[worth_TM[:, mine].mean(axis=1).argmax()]",
        ),
        stub="def fit_thresholds(worth_TM, finding_M, levels_T, rows):\n    raise NotImplementedError  # your lines here\n",
        solution=(
            "def fit_thresholds(worth_TM, finding_M, levels_T, rows):\n"
            "    thresholds = {}\n"
            "    for name in np.unique(finding_M[rows]):\n"
            "        mine = rows[finding_M[rows] == name]\n"
            "        thresholds[name] = levels_T[worth_TM[:, mine].mean(axis=1).argmax()]\n"
            "    return thresholds\n"
        ),
        alternatives=(
            "def fit_thresholds(worth_TM, finding_M, levels_T, rows):\n"
            "    seen, names = worth_TM[:, rows], finding_M[rows]\n"
            "    best = {name: max(range(len(levels_T)), key=lambda t: seen[t][names == name].sum()) for name in set(names)}\n"
            "    return {str(name): float(levels_T[t]) for name, t in best.items()}\n",
        ),
        mutants={
            "all boxes were used": (
                "def fit_thresholds(worth_TM, finding_M, levels_T, rows):\n"
                "    return {n: levels_T[worth_TM[:, finding_M == n].mean(axis=1).argmax()] for n in np.unique(finding_M)}\n"
            ),
            "each has its own": (
                "def fit_thresholds(worth_TM, finding_M, levels_T, rows):\n"
                "    best = levels_T[worth_TM[:, rows].mean(axis=1).argmax()]\n"
                "    return {n: best for n in np.unique(finding_M)}\n"
            ),
            "return the level itself": (
                "def fit_thresholds(worth_TM, finding_M, levels_T, rows):\n"
                "    f = finding_M[rows]\n"
                "    return {n: worth_TM[:, rows[f == n]].mean(axis=1).argmax() for n in np.unique(f)}\n"
            ),
            "the worst threshold": (
                "def fit_thresholds(worth_TM, finding_M, levels_T, rows):\n"
                "    f = finding_M[rows]\n"
                "    return {n: levels_T[worth_TM[:, rows[f == n]].mean(axis=1).argmin()] for n in np.unique(f)}\n"
            ),
        },
        setup=SETUP,
        level="core",
        minutes=10,
    ),
    Exercise(
        id="ch17.blind",
        title="The blind box, leaving the patient out",
        prompt="Write blind_choice(iou_KM, patient_M): for each box, the candidate with the largest mean IoU over all other patients' boxes.",
        answer="blind_choice",
        check=_check_blind,
        hints=(
            "For box m: which columns may the choice look at?",
            "Those of other patients: patient_M != patient_M[m]. Then a mean over columns and an argmax over candidates.",
            "A patient's boxes all get the same candidate, so one choice per patient is enough.",
        ),
        stub="def blind_choice(iou_KM, patient_M):\n    raise NotImplementedError  # your lines here\n",
        solution=(
            "def blind_choice(iou_KM, patient_M):\n"
            "    chosen_M = np.empty(len(patient_M), int)\n"
            "    for patient in np.unique(patient_M):\n"
            "        others = patient_M != patient\n"
            "        chosen_M[~others] = iou_KM[:, others].mean(axis=1).argmax()\n"
            "    return chosen_M\n"
        ),
        alternatives=(
            "def blind_choice(iou_KM, patient_M):\n"
            "    other_MM = patient_M[:, None] != patient_M[None]\n"
            "    mean_KM = iou_KM @ other_MM / other_MM.sum(axis=0)\n"
            "    return mean_KM.argmax(axis=0)\n",
        ),
        mutants={
            "nobody was left out": (
                "def blind_choice(iou_KM, patient_M):\n    return np.full(len(patient_M), iou_KM.mean(axis=1).argmax())\n"
            ),
            "leave the patient out": (
                "def blind_choice(iou_KM, patient_M):\n"
                "    M = len(patient_M)\n"
                "    return np.array([np.delete(iou_KM, m, axis=1).mean(axis=1).argmax() for m in range(M)])\n"
            ),
            "that is an oracle": "def blind_choice(iou_KM, patient_M):\n    return iou_KM.argmax(axis=0)\n",
            "fit on all others": (
                "def blind_choice(iou_KM, patient_M):\n"
                "    return np.array([iou_KM[:, patient_M == p].mean(axis=1).argmax() for p in patient_M])\n"
            ),
        },
        setup=SETUP,
        level="stretch",
        minutes=12,
    ),
)

QUESTIONS = (
    Question(
        id="ch17.half",
        prompt="A predicted box has an IoU of exactly 0.5. Is it right at T = 0.5?",
        choices={"a": "yes", "b": "no", "c": "half"},
        why="The rule of the NIH paper is strictly greater. A paper that counts equality gets another table.",
    ),
    Question(
        id="ch17.grid",
        prompt="NIH's nodules, boxes whose sides are moved to the nearest line of a 14 x 14 grid: what share has IoU above .5?",
        unit="of all nodules",
        why="A cell of 14 x 14 is 73 pixels of the film, and the median nodule's box is 70 pixels wide.",
    ),
    Question(
        id="ch17.fitted",
        prompt="Thresholds fitted on the scored boxes instead of the other half: with which number of patients does that flatter most?",
        choices={"a": "with few", "b": "with many", "c": "equally with all"},
        why="A threshold fitted on a handful of boxes fits these boxes; one fitted on hundreds fits the finding.",
    ),
    Question(
        id="ch17.floor",
        prompt="Phantoms, macro accuracy at T = .5: which row is highest?",
        choices={"a": "gradient-weighted attention", "b": "rollout", "c": "the blind box"},
        why="A map that is bright near a lesion is not yet a box that fits it.",
    ),
    Question(
        id="ch17.pointing",
        prompt="What does a random point score in the pointing game, macro over findings?",
        unit="of all games",
        why="The share of the film that boxes cover, averaged over the findings: large ones are easy to hit.",
    ),
)
