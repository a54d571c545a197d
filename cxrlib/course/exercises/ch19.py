"""Chapter 19's exercises and questions."""

import itertools

import numpy as np
from scipy import stats

from cxrlib.course.compare import compare
from cxrlib.course.exercise import Exercise, Question, Verdict

SETUP = "import itertools\nimport math\n\nimport numpy as np\nfrom scipy import stats\n"


def _check_points(points_and_share) -> Verdict:
    cases = ((0.35, 0.28), (0.208, 0.101), (0.12, 0.15))

    def both(points, share):
        return np.array([[points(a, b), share(a, b)] for a, b in cases])

    right = both(lambda a, b: 100 * (a - b), lambda a, b: 100 * (a - b) / a)
    return compare(
        np.array([[float(x) for x in points_and_share(*case)] for case in cases]),
        right,
        what="points and per cent of three losses",
        causes={
            "the share is of what is left: take it of the whole model's score": both(
                lambda a, b: 100 * (a - b), lambda a, b: 100 * (a - b) / b
            ),
            "the sign is turned round: a loss is the whole less the rest, so that a gain comes out negative": -right,
            "both are a hundred times too small: points and per cent": right / 100,
            "the two are swapped: points first": right[:, ::-1],
        },
        rtol=1e-6,
        note="From 0.35, a loss of 21 points and one of 21 per cent end at 0.14 and at 0.28. A table must say which it means.",
    )


def _check_chances(two_errors) -> Verdict:
    rng = np.random.default_rng(19)
    S, R = 4, 500
    patients_R = rng.normal(0, 0.02, R)
    a_S, b_S = np.array([0.212, 0.198, 0.221, 0.187]), np.array([0.176, 0.171, 0.190, 0.149])
    a_SR = a_S[:, None] + patients_R + rng.normal(0, 0.006, (S, R))
    b_SR = b_S[:, None] + 0.8 * patients_R + rng.normal(0, 0.006, (S, R))
    gap_S, gap_SR = a_S - b_S, a_SR - b_SR
    value, seeds, patients = gap_S.mean(), gap_S.std(ddof=1) / np.sqrt(S), gap_SR.mean(axis=0).std()
    unpaired = np.sqrt((a_S.var(ddof=1) + b_S.var(ddof=1)) / S)
    return compare(
        np.array([float(x) for x in two_errors(a_S, b_S, a_SR, b_SR)]),
        [value, seeds, patients],
        what="difference, standard error over seeds, standard error over patients",
        causes={
            "the seeds were not paired: both rows share each seed, so take the spread of their differences": [value, unpaired, patients],
            "the spread was divided by S, not S - 1: with few seeds that is far too small": [value, gap_S.std() / np.sqrt(S), patients],
            "that is the spread of one seed; the mean of S seeds has it divided by the root of S": [value, gap_S.std(ddof=1), patients],
            "the resamples' spread is the standard error already: do not divide by the root of R": [value, seeds, patients / np.sqrt(R)],
            "average over the seeds before you take the spread over resamples: here one seed's own chance is still in it": [
                value, seeds, gap_SR.std(axis=1).mean(),
            ],
            "all S times R numbers were thrown together: seeds and patients are two questions": [value, seeds, gap_SR.std()],
            "the difference has the wrong sign: first row less second": [-value, seeds, patients],
        },
        rtol=1e-2,
        atol=1e-6,
        note="Two errors, two questions. More films shrink the second; only more training shrinks the first.",
    )  # fmt: skip


def _check_shapley(shapley) -> Verdict:
    parts = ("mask", "pool", "start")
    scores = {(): 0.10, ("mask",): 0.22, ("pool",): 0.19, ("start",): 0.13, ("mask", "pool"): 0.25, ("mask", "start"): 0.27,
              ("pool", "start"): 0.20, ("mask", "pool", "start"): 0.34}  # fmt: skip
    worth = {frozenset(key): value for key, value in scores.items()}
    everything = frozenset(parts)

    def without(part):
        return [frozenset(some) for k in range(3) for some in itertools.combinations([p for p in parts if p != part], k)]

    def by_orders(part):
        gains = []
        for order in itertools.permutations(parts):
            before = frozenset(order[: order.index(part)])
            gains.append(worth[before | {part}] - worth[before])
        return np.mean(gains)

    got = shapley(dict(worth), parts)
    if not isinstance(got, dict) or set(got) != set(parts):
        return Verdict(False, "a dictionary with one number for each part", repr(got)[:80], "return {part: share, ...} for the parts given")
    right = np.array([by_orders(part) for part in parts])
    return compare(
        np.array([float(got[part]) for part in parts]),
        right,
        what="the shares of three parts",
        causes={
            "that is leave-one-out: the gain of joining last only; average over all orders": [
                worth[everything] - worth[everything - {part}] for part in parts
            ],
            "that is the gain of joining first only; average over all orders": [
                worth[frozenset({part})] - worth[frozenset()] for part in parts
            ],
            "every set was counted alike: average over orders, in which first and last places come more often": [
                np.mean([worth[some | {part}] - worth[some] for some in without(part)]) for part in parts
            ],
            "the gains were summed over the orders: divide by how many there are": 6 * right,
            "the sign is turned round: with the part less without it": -right,
        },
        rtol=1e-6,
        note="The shares add up to what all parts are worth together. Leave-one-out's numbers need not.",
    )


def _check_seeds(seeds_needed) -> Verdict:
    cases = ((0.012, 0.02), (0.02, 0.02), (0.03, 0.01), (0.004, 0.02))

    def smallest(half_width):
        return np.array([next(s for s in range(2, 2000) if half_width(s, spread) <= gap) for spread, gap in cases], float)

    return compare(
        np.array([float(seeds_needed(*case)) for case in cases]),
        smallest(lambda s, spread: stats.t.ppf(0.975, s - 1) * spread / np.sqrt(s)),
        what="the number of seeds in four cases",
        causes={
            "1.96 is for a spread that is known; from few seeds take Student's t with S - 1 degrees of freedom": smallest(
                lambda s, spread: 1.96 * spread / np.sqrt(s)
            ),
            "one tail was cut at 5 %: a 95 % interval leaves 2.5 % on each side": smallest(
                lambda s, spread: stats.t.ppf(0.95, s - 1) * spread / np.sqrt(s)
            ),
            "S seeds leave S - 1 degrees of freedom": smallest(lambda s, spread: stats.t.ppf(0.975, s) * spread / np.sqrt(s)),
            "the spread of a mean of S seeds is smaller by the root of S, not by S": smallest(
                lambda s, spread: stats.t.ppf(0.975, s - 1) * spread / s
            ),
        },
        rtol=0,
        atol=0.1,
        note="A spread as large as the gap needs seven seeds. Three seeds settle only what is plain to see.",
    )


EXERCISES = (
    Exercise(
        id="ch19.points",
        title="Points or per cent",
        prompt="Write points_and_share(whole, without): the loss in points (hundredths), and in per cent of the whole model's score.",
        answer="points_and_share",
        check=_check_points,
        hints=(
            "Both begin with the whole less what is left.",
            "Points are hundredths of the score itself. Per cent ask: of what?",
            "return 100 * (whole - without), 100 * (whole - without) / ...",
        ),
        stub="def points_and_share(whole, without):\n    raise NotImplementedError  # your lines here\n",
        solution=(
            "def points_and_share(whole, without):\n"
            "    loss = whole - without\n"
            "    return 100 * loss, 100 * loss / whole\n"
        ),
        alternatives=("def points_and_share(whole, without):\n    return [100 * whole - 100 * without, 100 - 100 * without / whole]\n",),
        mutants={
            "share is of what is left": (
                "def points_and_share(whole, without):\n    return 100 * (whole - without), 100 * (whole - without) / without\n"
            ),
            "sign is turned round": (
                "def points_and_share(whole, without):\n    return 100 * (without - whole), 100 * (without - whole) / whole\n"
            ),
            "hundred times too small": "def points_and_share(whole, without):\n    return whole - without, (whole - without) / whole\n",
        },
        setup=SETUP,
        level="warm-up",
        minutes=3,
    ),
    Exercise(
        id="ch19.chances",
        title="Two kinds of chance",
        prompt=(
            "Write two_errors(a_S, b_S, a_SR, b_SR): the mean difference of two rows, its standard error over seeds, and its standard "
            "error over patients."
        ),
        answer="two_errors",
        check=_check_chances,
        hints=(
            "Seed s is the same in both rows, and resample r holds the same patients in both. Subtract before anything else.",
            "Over seeds: the spread (ddof=1) of S differences, divided by the root of S. Over patients: the spread of R numbers.",
            "gap_SR = a_SR - b_SR; then gap_SR.mean(axis=0).std()",
        ),
        stub="def two_errors(a_S, b_S, a_SR, b_SR):\n    raise NotImplementedError  # your lines here\n",
        solution=(
            "def two_errors(a_S, b_S, a_SR, b_SR):\n"
            "    gap_S, gap_SR = np.subtract(a_S, b_S), np.subtract(a_SR, b_SR)\n"
            "    return gap_S.mean(), gap_S.std(ddof=1) / len(gap_S) ** 0.5, gap_SR.mean(axis=0).std()\n"
        ),
        alternatives=(
            "def two_errors(a_S, b_S, a_SR, b_SR):\n"
            "    gaps = [float(a - b) for a, b in zip(a_S, b_S)]\n"
            "    mean = sum(gaps) / len(gaps)\n"
            "    seeds = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / (len(gaps) - 1) / len(gaps))\n"
            "    patients = np.mean(a_SR, axis=0) - np.mean(b_SR, axis=0)\n"
            "    return [mean, seeds, np.std(patients, ddof=1)]\n",
        ),
        mutants={
            "seeds were not paired": (
                "def two_errors(a_S, b_S, a_SR, b_SR):\n"
                "    seeds = ((np.var(a_S, ddof=1) + np.var(b_S, ddof=1)) / len(a_S)) ** 0.5\n"
                "    return np.mean(a_S) - np.mean(b_S), seeds, np.subtract(a_SR, b_SR).mean(axis=0).std()\n"
            ),
            "not S - 1": (
                "def two_errors(a_S, b_S, a_SR, b_SR):\n"
                "    gap_S = np.subtract(a_S, b_S)\n"
                "    return gap_S.mean(), gap_S.std() / len(gap_S) ** 0.5, np.subtract(a_SR, b_SR).mean(axis=0).std()\n"
            ),
            "spread of one seed": (
                "def two_errors(a_S, b_S, a_SR, b_SR):\n"
                "    gap_S = np.subtract(a_S, b_S)\n"
                "    return gap_S.mean(), gap_S.std(ddof=1), np.subtract(a_SR, b_SR).mean(axis=0).std()\n"
            ),
            "do not divide by the root of R": (
                "def two_errors(a_S, b_S, a_SR, b_SR):\n"
                "    gap_S, gap_R = np.subtract(a_S, b_S), np.subtract(a_SR, b_SR).mean(axis=0)\n"
                "    return gap_S.mean(), gap_S.std(ddof=1) / len(gap_S) ** 0.5, gap_R.std() / len(gap_R) ** 0.5\n"
            ),
            "two questions": (
                "def two_errors(a_S, b_S, a_SR, b_SR):\n"
                "    gap_S = np.subtract(a_S, b_S)\n"
                "    return gap_S.mean(), gap_S.std(ddof=1) / len(gap_S) ** 0.5, np.subtract(a_SR, b_SR).std()\n"
            ),
        },
        setup=SETUP,
        level="core",
        minutes=12,
    ),
    Exercise(
        id="ch19.shapley",
        title="Shares that add up",
        prompt=(
            "Write shapley(worth, parts): for each part, its gain on joining, averaged over all orders of joining. worth maps a frozenset "
            "of parts to a score."
        ),
        answer="shapley",
        check=_check_shapley,
        hints=(
            "Three parts have six orders. In each, a part joins after some others: what does the score gain?",
            "itertools.permutations(parts); the set before a part is frozenset(order[:place]).",
            "gain = worth[before | {part}] - worth[before], summed per part and divided by the number of orders",
        ),
        stub="def shapley(worth, parts):\n    raise NotImplementedError  # your lines here\n",
        solution=(
            "def shapley(worth, parts):\n"
            "    orders = list(itertools.permutations(parts))\n"
            "    share = dict.fromkeys(parts, 0.0)\n"
            "    for order in orders:\n"
            "        for place, part in enumerate(order):\n"
            "            before = frozenset(order[:place])\n"
            "            share[part] += (worth[before | {part}] - worth[before]) / len(orders)\n"
            "    return share\n"
        ),
        alternatives=(
            "def shapley(worth, parts):\n"
            "    n, share = len(parts), {}\n"
            "    for part in parts:\n"
            "        others = [other for other in parts if other != part]\n"
            "        share[part] = sum(\n"
            "            math.factorial(k) * math.factorial(n - 1 - k) / math.factorial(n)\n"
            "            * (worth[frozenset(some) | {part}] - worth[frozenset(some)])\n"
            "            for k in range(n) for some in itertools.combinations(others, k)\n"
            "        )\n"
            "    return share\n",
        ),
        mutants={
            "leave-one-out": (
                "def shapley(worth, parts):\n"
                "    whole = frozenset(parts)\n"
                "    return {part: worth[whole] - worth[whole - {part}] for part in parts}\n"
            ),
            "joining first only": (
                "def shapley(worth, parts):\n    return {part: worth[frozenset({part})] - worth[frozenset()] for part in parts}\n"
            ),
            "every set was counted alike": (
                "def shapley(worth, parts):\n"
                "    share = {}\n"
                "    for part in parts:\n"
                "        sets = [some for some in worth if part not in some]\n"
                "        share[part] = float(np.mean([worth[some | {part}] - worth[some] for some in sets]))\n"
                "    return share\n"
            ),
            "summed over the orders": (
                "def shapley(worth, parts):\n"
                "    share = dict.fromkeys(parts, 0.0)\n"
                "    for order in itertools.permutations(parts):\n"
                "        for place, part in enumerate(order):\n"
                "            before = frozenset(order[:place])\n"
                "            share[part] += worth[before | {part}] - worth[before]\n"
                "    return share\n"
            ),
        },
        setup=SETUP,
        level="core",
        minutes=12,
    ),
    Exercise(
        id="ch19.seeds",
        title="How many seeds?",
        prompt=(
            "Write seeds_needed(spread, gap): the smallest number of seeds, two or more, whose 95 % interval of the mean difference reaches "
            "no further than gap to each side. spread: standard deviation of the difference from seed to seed."
        ),
        answer="seeds_needed",
        check=_check_seeds,
        hints=(
            "Half the width of the interval of a mean of S numbers: a factor times the spread over the root of S.",
            "The factor is Student's t, 97.5 %, with S - 1 degrees of freedom: stats.t.ppf(0.975, S - 1). It falls with S too.",
            "Try S = 2, 3, 4, ... until stats.t.ppf(0.975, S - 1) * spread / S**0.5 <= gap",
        ),
        stub="def seeds_needed(spread, gap):\n    raise NotImplementedError  # your lines here\n",
        solution=(
            "def seeds_needed(spread, gap):\n"
            "    seeds = 2\n"
            "    while stats.t.ppf(0.975, seeds - 1) * spread / seeds**0.5 > gap:\n"
            "        seeds += 1\n"
            "    return seeds\n"
        ),
        alternatives=(
            "def seeds_needed(spread, gap):\n"
            "    S = np.arange(2, 5000)\n"
            "    return int(S[stats.t.isf(0.025, S - 1) * spread / np.sqrt(S) <= gap][0])\n",
        ),
        mutants={
            "1.96 is for a spread that is known": (
                "def seeds_needed(spread, gap):\n"
                "    seeds = 2\n"
                "    while 1.96 * spread / seeds**0.5 > gap:\n"
                "        seeds += 1\n"
                "    return seeds\n"
            ),
            "one tail": (
                "def seeds_needed(spread, gap):\n"
                "    seeds = 2\n"
                "    while stats.t.ppf(0.95, seeds - 1) * spread / seeds**0.5 > gap:\n"
                "        seeds += 1\n"
                "    return seeds\n"
            ),
            "not by S": (
                "def seeds_needed(spread, gap):\n"
                "    seeds = 2\n"
                "    while stats.t.ppf(0.975, seeds - 1) * spread / seeds > gap:\n"
                "        seeds += 1\n"
                "    return seeds\n"
            ),
        },
        setup=SETUP,
        level="stretch",
        minutes=10,
    ),
)

QUESTIONS = (
    Question(
        id="ch19.twins",
        prompt="Two parts read the same sign. Taking both away costs much. What does an ablation, one at a time, say of them?",
        choices={"a": "each costs about half of it", "b": "each costs next to nothing", "c": "each costs all of it"},
        why="While one twin is there, the other is hardly missed. One-at-a-time removal cannot see twins.",
    ),
    Question(
        id="ch19.chance",
        prompt="The difference in mean IoU, over the rungs: which standard error is larger, over patients or over seeds?",
        choices={"a": "over patients", "b": "over seeds"},
        why="Hundreds of patients average out; three trainings hardly do.",
    ),
    Question(
        id="ch19.agree",
        prompt="Four parts were taken away or exchanged. For which of them does mean IoU fall with every seed?",
        choices={"a": "SegmentCAM only", "b": "the anatomy losses only", "c": "all four", "d": "none"},
        why="An interval over patients says nothing about another training.",
    ),
    Question(
        id="ch19.region",
        prompt="Without the losses that know anatomy, which finding's fused map loses most?",
        choices={"a": "Cardiomegaly", "b": "Pneumothorax", "c": "Nodule", "d": "another"},
        why="A region tells where a finding may be. It tells most where it is small.",
    ),
)
