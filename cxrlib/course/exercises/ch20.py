"""Chapter 20's exercises and questions."""

import numpy as np
from scipy import stats

from cxrlib.course.compare import compare
from cxrlib.course.exercise import Exercise, Question, Verdict, right, wrong

SETUP = "import math\n\nimport numpy as np\nfrom scipy import stats\n"

PLACES = ("run.json", "result.json", "evaluation", "store", "person")
RESTS = {
    "seed and commit": "run.json",
    "which epoch was kept": "result.json",
    "AUROC of each finding": "evaluation",
    "sex of each test image": "store",
    "who should use it": "person",
}

EVIDENCE = (
    "run.json        recipe clarity_cpu, seed 1; data: phantom, 8,000 images; no start weights",
    "logits.json     teacher convnextv2_base; its start weights: convnextv2_base.fcmae_ft_in22k_in1k, cc-by-nc-4.0",
    "validation.csv  images of patients that are neither in training nor in test; they chose epoch 5",
    "auroc.json      macro 0.821, 95 % interval 0.811 to 0.831 from bootstrap samples of patients",
    "subgroups.csv   F 0.83 (0.81 to 0.84), M 0.81 (0.80 to 0.83), under 18: 31 images, no AUROC",
    "calibration.csv findings in 12 % of the test images on average; mean calibration error 0.03",
    "localization    fused map: mean IoU 0.17; box that never looks: 0.25",
)
CARD = {
    1: "Made from 8,000 synthetic radiographs. Nothing here says anything about patients.",
    2: "Macro AUROC 0.821. Trained again with another seed, it will lie in 0.811 to 0.831 (95 % interval).",
    3: "The epoch was chosen on validation patients. No patient is in two parts.",
    4: "Licence: Apache-2.0. Free for any use, commercial ones too.",
    5: "Women 0.83 (0.81 to 0.84), men 0.81 (0.80 to 0.83).",
    6: "Under 18: not defined, 31 images.",
    7: "The maps can be shown as explanations: they find lesions better than a box that never looks.",
    8: "A score of 0.3 is a chance of about 0.3 here, and not where findings are rarer.",
}
FALSE = frozenset({2, 4, 7})
_HONEST = {
    1: "line 1 is what run.json says, and says what it is worth",
    3: "line 3 is what validation.csv shows; look for a claim that no file bears out",
    5: "line 5 repeats subgroups.csv and claims nothing more",
    6: "line 6 is honest: too few to say anything, and it says so",
    8: "line 8 claims calibration for this test set alone, and 0.03 bears it out",
}
_LIE = {
    2: "a lie stands yet: an interval from samples of patients was used for another kind of chance",
    4: "a lie stands yet: follow what the model was made from, one generation up",
    7: "a lie stands yet: a number was left out that knows nothing and does better",
}


def _check_rests(rests) -> Verdict:
    if not isinstance(rests, dict) or set(rests) != set(RESTS):
        return wrong(expected=f"a dictionary with the five lines {', '.join(RESTS)}", got=repr(rests)[:90], cause="a line is missing or misspelt")
    for line, place in RESTS.items():
        given = rests[line]
        if given == place:
            continue
        if given not in PLACES:
            return wrong(expected=f"one of {', '.join(PLACES)} for each line", got=f"{line!r}: {given!r}", cause="this line is not answered yet")
        causes = {
            "seed and commit": "seed and commit were fixed before the first step, and stand in the file that is written before it",
            "which epoch was kept": "that is known only once the training has ended: result.json",
            "AUROC of each finding": "the test is scored after the training, by another command; result.json knows the validation score alone",
            "sex of each test image": "the predictions name images and patients; who they are is in the table of the images",
            "who should use it": "no file knows what a model is for: a person must say it",
        }
        return wrong(expected=f"where {line!r} stands", got=given, cause=causes[line])
    return right("Four of five lines can be written by a program, and so they should be: a program does not round in its own favour.")


def _check_lies(false_lines) -> Verdict:
    try:
        given = {int(number) for number in false_lines}
    except (TypeError, ValueError):
        return wrong(expected="a set of line numbers", got=repr(false_lines)[:60], cause="give numbers in braces, such as {1, 2, 3}")
    if given == FALSE:
        return right("None of the three is a wrong number. A card lies most easily in the sentence beside a right one.")
    expected = "the three lines that the evidence contradicts"
    got = f"lines {', '.join(map(str, sorted(given))) or 'none'}"
    if strange := given - set(CARD):
        return wrong(expected=expected, got=got, cause=f"the card has no line {min(strange)}")
    if honest := given - FALSE:
        return wrong(expected=expected, got=got, cause=_HONEST[min(honest)])
    return wrong(expected=expected, got=got, cause=_LIE[min(FALSE - given)])


def _check_shift(at_prevalence) -> Verdict:
    p = np.array([0.05, 0.3, 0.5, 0.82, 0.97])
    before, after = 0.118, 0.0248
    odds, ratio = p / (1 - p), after / (1 - after) * (1 - before) / before

    def from_odds(odds):
        return odds / (1 + odds)

    return compare(
        np.asarray(at_prevalence(p.copy(), before, after), float),
        from_odds(odds * ratio),
        what="five probabilities at another prevalence",
        causes={
            "chances were multiplied: it is the odds p / (1 - p) that scale": p * after / before,
            "the odds were scaled by the ratio of prevalences: take the ratio of their odds": from_odds(odds * after / before),
            "the ratio is turned round: from before to after": from_odds(odds / ratio),
            "these are odds: turn them back into probabilities": odds * ratio,
            "the logit moved by the difference of prevalences: it moves by the difference of their logits": from_odds(
                odds * np.exp(after - before)
            ),
        },
        rtol=1e-6,
        note="The order of the films stays, and so does the AUROC. Only what a number means has moved.",
    )


def _check_seed(new_seed_interval) -> Verdict:
    cases = ((0.7798, 0.7804, 0.7711), (0.8968, 0.8891, 0.8850), (0.687, 0.759, 0.783, 0.751))

    def by(half):
        return np.array([[np.mean(s) - half(np.array(s)), np.mean(s) + half(np.array(s))] for s in cases])

    def t_of(s, q=0.975, less=1):
        return stats.t.ppf(q, len(s) - less)

    return compare(
        np.array([[float(x) for x in new_seed_interval(list(case))] for case in cases]),
        by(lambda s: t_of(s) * s.std(ddof=1) * np.sqrt(1 + 1 / len(s))),
        what="low and high for one new seed, in three cases",
        causes={
            "that is the interval of the mean: one new seed spreads as the seeds do, and the mean is uncertain besides": by(
                lambda s: t_of(s) * s.std(ddof=1) / np.sqrt(len(s))
            ),
            "the mean of the stored seeds was taken as known: its own uncertainty adds 1/S under the root": by(lambda s: t_of(s) * s.std(ddof=1)),
            "1.96 is for a spread that is known; from few seeds take Student's t with S - 1 degrees of freedom": by(
                lambda s: 1.96 * s.std(ddof=1) * np.sqrt(1 + 1 / len(s))
            ),
            "the spread was divided by S, not S - 1": by(lambda s: t_of(s) * s.std() * np.sqrt(1 + 1 / len(s))),
            "one tail was cut at 5 %: a 95 % interval leaves 2.5 % on each side": by(
                lambda s: t_of(s, 0.95) * s.std(ddof=1) * np.sqrt(1 + 1 / len(s))
            ),
        },
        rtol=1e-6,
        note="From three seeds this interval is wide. That is not the formula's fault: three trainings tell little about a fourth.",
    )


def _check_shared(shared_macro) -> Verdict:
    value_GC = np.array([[0.81, 0.90, 0.62, 0.75], [0.78, 0.86, 0.99, 0.71], [0.84, 0.88, 0.57, 0.93]])
    positives_GC = np.array([[30, 22, 14, 12], [25, 11, 3, 10], [41, 10, 18, 60]])
    negatives_GC = np.array([[70, 78, 86, 88], [35, 49, 57, 50], [39, 70, 62, 7]])
    cases = ((10, slice(None)), (5, slice(None)), (50, slice(None)), (10, slice(0, 1)))

    def answers(rule):
        return np.array([x for fewest, g in cases for x in rule(value_GC[g], positives_GC[g], negatives_GC[g], fewest)])

    def mean(values):
        return values.mean() if len(values) else np.nan

    def shared(value, positives, negatives, fewest):
        kept = (np.minimum(positives, negatives) >= fewest).all(axis=0)
        return [mean(row[kept]) for row in value]

    def own(value, positives, negatives, fewest):
        return [mean(row[keep]) for row, keep in zip(value, np.minimum(positives, negatives) >= fewest)]

    def one_kind(value, positives, negatives, fewest):
        kept = (positives >= fewest).all(axis=0)
        return [mean(row[kept]) for row in value]

    def more(value, positives, negatives, fewest):
        kept = (np.minimum(positives, negatives) > fewest).all(axis=0)
        return [mean(row[kept]) for row in value]

    def images(value, positives, negatives, fewest):
        kept = (positives + negatives >= fewest).all(axis=0)
        return [mean(row[kept]) for row in value]

    got = [x for fewest, g in cases for x in np.asarray(shared_macro(value_GC[g].copy(), positives_GC[g].copy(), negatives_GC[g].copy(), fewest), float)]
    return compare(
        np.array(got),
        answers(shared),
        what="macro AUROC of each group, in four cases",
        causes={
            "each group has findings of its own: means over different findings cannot be compared": answers(own),
            "a finding needs enough images without it, too": answers(one_kind),
            "at least so many: exactly as many are enough": answers(more),
            "images with and without were added up: an AUROC needs enough of each": answers(images),
            "where no finding is left there is no number: NaN, not 0": np.nan_to_num(answers(shared)),
        },
        rtol=1e-9,
        note="The library does so too (cxrlib.publishing.subgroup_aurocs), and leaves groups aside that would empty the list.",
    )


EXERCISES = (
    Exercise(
        id="ch20.rests",
        title="What does each line rest on?",
        prompt="Say for each line of a card where it stands: run.json, result.json, evaluation, store, or person.",
        answer="rests",
        check=_check_rests,
        hints=(
            "When is each known: before the first step, after the last, when the test is scored, or never by a program?",
            "run.json is written first. result.json when training ends. evaluation by another command. The store holds the images' table.",
            "Two lines are settled before or during training, one by evaluate, one by the store, one by nobody but you.",
        ),
        stub="rests = {\n" + "".join(f'    "{line}": None,\n' for line in RESTS) + "}\n",
        solution="rests = {\n" + "".join(f'    "{line}": "{place}",\n' for line, place in RESTS.items()) + "}\n",
        alternatives=(f"rests = dict(zip({list(RESTS)!r}, {list(RESTS.values())!r}))\n",),
        mutants={
            "known only once the training has ended": f"rests = {RESTS | {'which epoch was kept': 'run.json'}!r}\n",
            "knows the validation score alone": f"rests = {RESTS | {'AUROC of each finding': 'result.json'}!r}\n",
            "who they are is in the table": f"rests = {RESTS | {'sex of each test image': 'evaluation'}!r}\n",
            "a person must say it": f"rests = {RESTS | {'who should use it': 'run.json'}!r}\n",
        },
        setup=SETUP,
        level="warm-up",
        minutes=3,
    ),
    Exercise(
        id="ch20.lies",
        title="A card that lies",
        prompt="Three of the eight lines are contradicted by the evidence. Give their numbers as a set.",
        answer="false_lines",
        check=_check_lies,
        hints=(
            "Do not look for a wrong number. Look for a sentence that says more than its number.",
            "One line mistakes patients for seeds, one forgets a grandparent, one leaves out a rival.",
            "Line 2 is one of them. Follow logits.json and localization to the others.",
        ),
        stub="false_lines = set()  # the numbers of three lines\n",
        solution="false_lines = {2, 4, 7}\n",
        alternatives=("false_lines = [7, 4, 2]\n",),
        mutants={
            "another kind of chance": "false_lines = {4, 7}\n",
            "one generation up": "false_lines = {2, 7}\n",
            "knows nothing and does better": "false_lines = (2, 4)\n",
            "too few to say anything": "false_lines = {2, 4, 6}\n",
            "claims calibration for this test set alone": "false_lines = {2, 4, 7, 8}\n",
        },
        setup=SETUP,
        level="core",
        minutes=8,
    ),
    Exercise(
        id="ch20.shift",
        title="The same score in another clinic",
        prompt="Write at_prevalence(probability, before, after): what a calibrated probability becomes where the finding is rarer.",
        answer="at_prevalence",
        check=_check_shift,
        hints=(
            "Odds, not chances: p / (1 - p).",
            "The odds are multiplied by odds(after) / odds(before). Then turn them back: o / (1 + o).",
            "odds = p / (1 - p) * (after / (1 - after)) / (before / (1 - before))",
        ),
        stub="def at_prevalence(probability, before, after):\n    raise NotImplementedError  # your lines here\n",
        solution=(
            "def at_prevalence(probability, before, after):\n"
            "    odds = probability / (1 - probability) * (after / (1 - after)) / (before / (1 - before))\n"
            "    return odds / (1 + odds)\n"
        ),
        alternatives=(
            "def at_prevalence(probability, before, after):\n"
            "    logit = lambda p: np.log(p) - np.log1p(-p)\n"
            "    return 1 / (1 + np.exp(-(logit(probability) + logit(after) - logit(before))))\n",
        ),
        mutants={
            "chances were multiplied": "def at_prevalence(probability, before, after):\n    return probability * after / before\n",
            "ratio of their odds": (
                "def at_prevalence(probability, before, after):\n"
                "    odds = probability / (1 - probability) * after / before\n"
                "    return odds / (1 + odds)\n"
            ),
            "turned round": (
                "def at_prevalence(probability, before, after):\n"
                "    odds = probability / (1 - probability) * (before / (1 - before)) / (after / (1 - after))\n"
                "    return odds / (1 + odds)\n"
            ),
            "back into probabilities": (
                "def at_prevalence(probability, before, after):\n"
                "    return probability / (1 - probability) * (after / (1 - after)) / (before / (1 - before))\n"
            ),
        },
        setup=SETUP,
        level="core",
        minutes=8,
    ),
    Exercise(
        id="ch20.seed",
        title="Where will a new seed land?",
        prompt="Write new_seed_interval(scores): low and high of a 95 % interval for one more seed, from the scores of S stored seeds.",
        answer="new_seed_interval",
        check=_check_seed,
        hints=(
            "Two things are uncertain: where the next seed falls around the mean, and where the mean is.",
            "Their variances add: s squared, and s squared over S. The factor is Student's t with S - 1 degrees of freedom.",
            "half = stats.t.ppf(0.975, S - 1) * s * (1 + 1 / S) ** 0.5, with s from ddof=1",
        ),
        stub="def new_seed_interval(scores):\n    raise NotImplementedError  # your lines here\n",
        solution=(
            "def new_seed_interval(scores):\n"
            "    S, mean = len(scores), np.mean(scores)\n"
            "    half = stats.t.ppf(0.975, S - 1) * np.std(scores, ddof=1) * (1 + 1 / S) ** 0.5\n"
            "    return mean - half, mean + half\n"
        ),
        alternatives=(
            "def new_seed_interval(scores):\n"
            "    S, mean = len(scores), sum(scores) / len(scores)\n"
            "    spread = math.sqrt(sum((x - mean) ** 2 for x in scores) / (S - 1))\n"
            "    return list(stats.t.interval(0.95, S - 1, loc=mean, scale=spread * math.sqrt((S + 1) / S)))\n",
        ),
        mutants={
            "interval of the mean": (
                "def new_seed_interval(scores):\n"
                "    half = stats.t.ppf(0.975, len(scores) - 1) * np.std(scores, ddof=1) / len(scores) ** 0.5\n"
                "    return np.mean(scores) - half, np.mean(scores) + half\n"
            ),
            "taken as known": (
                "def new_seed_interval(scores):\n"
                "    half = stats.t.ppf(0.975, len(scores) - 1) * np.std(scores, ddof=1)\n"
                "    return np.mean(scores) - half, np.mean(scores) + half\n"
            ),
            "1.96 is for a spread that is known": (
                "def new_seed_interval(scores):\n"
                "    half = 1.96 * np.std(scores, ddof=1) * (1 + 1 / len(scores)) ** 0.5\n"
                "    return np.mean(scores) - half, np.mean(scores) + half\n"
            ),
            "not S - 1": (
                "def new_seed_interval(scores):\n"
                "    half = stats.t.ppf(0.975, len(scores) - 1) * np.std(scores) * (1 + 1 / len(scores)) ** 0.5\n"
                "    return np.mean(scores) - half, np.mean(scores) + half\n"
            ),
        },
        setup=SETUP,
        level="core",
        minutes=8,
    ),
    Exercise(
        id="ch20.shared",
        title="Means over the same findings",
        prompt=(
            "Write shared_macro(auroc_GC, positives_GC, negatives_GC, fewest): the macro AUROC of each group over the findings that have at "
            "least `fewest` images with and without in every group; NaN if there is none."
        ),
        answer="shared_macro",
        check=_check_shared,
        hints=(
            "First a table of truths, groups by findings: is this AUROC worth having?",
            "A finding stays if it is true in every row: .all(axis=0).",
            "kept = (np.minimum(positives_GC, negatives_GC) >= fewest).all(axis=0)",
        ),
        stub="def shared_macro(auroc_GC, positives_GC, negatives_GC, fewest):\n    raise NotImplementedError  # your lines here\n",
        solution=(
            "def shared_macro(auroc_GC, positives_GC, negatives_GC, fewest):\n"
            "    kept = (np.minimum(positives_GC, negatives_GC) >= fewest).all(axis=0)\n"
            "    return auroc_GC[:, kept].mean(axis=1) if kept.any() else np.full(len(auroc_GC), np.nan)\n"
        ),
        alternatives=(
            "def shared_macro(auroc_GC, positives_GC, negatives_GC, fewest):\n"
            "    groups, findings = range(len(auroc_GC)), range(len(auroc_GC[0]))\n"
            "    kept = [c for c in findings if all(min(positives_GC[g][c], negatives_GC[g][c]) >= fewest for g in groups)]\n"
            "    return [sum(auroc_GC[g][c] for c in kept) / len(kept) if kept else math.nan for g in groups]\n",
        ),
        mutants={
            "findings of its own": (
                "def shared_macro(auroc_GC, positives_GC, negatives_GC, fewest):\n"
                "    enough = np.minimum(positives_GC, negatives_GC) >= fewest\n"
                "    return [a[e].mean() if e.any() else np.nan for a, e in zip(auroc_GC, enough)]\n"
            ),
            "enough images without it": (
                "def shared_macro(auroc_GC, positives_GC, negatives_GC, fewest):\n"
                "    kept = (positives_GC >= fewest).all(axis=0)\n"
                "    return auroc_GC[:, kept].mean(axis=1)\n"
            ),
            "exactly as many are enough": (
                "def shared_macro(auroc_GC, positives_GC, negatives_GC, fewest):\n"
                "    kept = (np.minimum(positives_GC, negatives_GC) > fewest).all(axis=0)\n"
                "    return auroc_GC[:, kept].mean(axis=1) if kept.any() else np.full(len(auroc_GC), np.nan)\n"
            ),
            "NaN, not 0": (
                "def shared_macro(auroc_GC, positives_GC, negatives_GC, fewest):\n"
                "    kept = (np.minimum(positives_GC, negatives_GC) >= fewest).all(axis=0)\n"
                "    return auroc_GC[:, kept].mean(axis=1) if kept.any() else np.zeros(len(auroc_GC))\n"
            ),
        },
        setup=SETUP,
        level="stretch",
        minutes=10,
    ),
)

QUESTIONS = (
    Question(
        id="ch20.lots",
        prompt="Patients are dealt into 20 groups by lot. How far apart are the best and the worst group's macro AUROC?",
        choices={"a": "less than 0.02", "b": "0.02 to 0.05", "c": "more than 0.05"},
        why="The best and the worst of many small groups are far apart with no cause at all. An interval says how far.",
    ),
    Question(
        id="ch20.clinic",
        prompt="Of the films called Cardiomegaly here, four in five have it. And where it is as rare as in NIH's table?",
        choices={"a": "four in five, since the AUROC is the same", "b": "about half", "c": "about one in ten"},
        why="AUROC does not know how frequent a finding is. What a positive call is worth does.",
    ),
    Question(
        id="ch20.again",
        prompt="The same command, the same seed, another day, this machine. The macro AUROC is ...",
        choices={"a": "the same to three digits", "b": "somewhere in the patients' interval", "c": "another one in each run"},
        why="The seed fixes every draw. What is left is rounding, which differs between processors.",
    ),
)
