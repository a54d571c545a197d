"""Chapter 18's exercises and questions."""

import numpy as np
from scipy.stats import rankdata

from cxrlib.course.compare import compare
from cxrlib.course.exercise import Exercise, Question, Verdict

SETUP = "import numpy as np\n"


def _check_area(area) -> Verdict:
    curves = ([0.9, 0.5, 0.2, 0.1], [0.3, 0.8, 0.8, 0.6, 0.1, 0.1], [1.0, 0.0])

    def each(rule):
        return np.array([rule(np.array(curve)) for curve in curves])

    return compare(
        np.array([float(area(list(curve))) for curve in curves]),
        each(lambda y: (y[1:] + y[:-1]).mean() / 2),
        what="the areas under three curves of different lengths",
        causes={
            "the ends count only half: this is the plain mean of all points": each(np.mean),
            "this is the sum of the trapezoids: each is 1 / (points - 1) wide": each(lambda y: (y[1:] + y[:-1]).sum() / 2),
            "the width of a step is 1 / (points - 1), not 1 / points": each(lambda y: (y[1:] + y[:-1]).sum() / 2 / len(y)),
            "each step took its left end only": each(lambda y: y[:-1].mean()),
            "each step took its right end only": each(lambda y: y[1:].mean()),
        },
        note="An area of 0.5 says little alone: beside it belongs the area of a random map on the same film.",
    )


def _delete(image_YX, map_YX, empty_YX, share, *, order=-1, least=False, both=False):
    flat = np.argsort(order * map_YX.ravel(), kind="stable")
    count = round(share * flat.size)
    chosen = flat[-count:] if least and count else flat[:count]
    out = image_YX.copy()
    out.ravel()[chosen] = 0 if both else empty_YX.ravel()[chosen]
    return out


def _check_delete(delete) -> Verdict:
    rng = np.random.default_rng(18)
    image, empty = rng.integers(1, 99, (3, 5)), rng.integers(100, 199, (3, 5))
    map_yx = rng.permutation(15).reshape(3, 5) / 7
    shares = (0.2, 0.6)
    before = image.copy()
    got = np.stack([np.asarray(delete(image, map_yx, empty, share)) for share in shares])
    if not np.array_equal(image, before):
        return compare(
            image, before, what="the film that was handed in, afterwards", otherwise="the film that was handed in was written into: work on a copy"
        )

    def each(**wrong):
        return np.stack([_delete(image, map_yx, empty, share, **wrong) for share in shares])

    kept = np.stack([np.where(_delete(image, map_yx, empty, share) == image, empty, image) for share in shares])
    cut = np.stack([np.where(map_yx >= share * map_yx.max(), empty, image) for share in shares])
    return compare(
        got,
        each(),
        what="a film of 3 by 5 pixels without its highest fifth, and without three fifths",
        causes={
            "the lowest pixels went first: sort from high to low": each(order=1),
            "what should stay was replaced, and what should go stayed: this is insertion": kept,
            "pixels were set to black: the baseline has a value for each pixel": each(both=True),
            "share was taken for a threshold on the map's values: it is a share of the pixels": cut,
        },
        otherwise="rank all pixels by the map, take the first share of them, and put the baseline's pixels there",
        note="The order alone counts: a map and its square give the same curve.",
    )


def _check_ranks(rank_correlation) -> Verdict:
    rng = np.random.default_rng(5)
    a = rng.integers(0, 6, (3, 4)).astype(float)
    b = np.exp(a + rng.integers(-2, 3, (3, 4)))
    pairs = ((a, b), (a, a**3), (b, -a))

    def pearson(x, y):
        x, y = x - x.mean(), y - y.mean()
        return (x * y).sum() / np.sqrt((x**2).sum() * (y**2).sum())

    def each(ranks):
        return np.array([pearson(ranks(x.ravel()), ranks(y.ravel())) for x, y in pairs])

    def rows(x, y):
        return np.mean([pearson(rankdata(p), rankdata(q)) for p, q in zip(x, y) if np.ptp(p) and np.ptp(q)])

    return compare(
        np.array([float(rank_correlation(x, y)) for x, y in pairs]),
        each(rankdata),
        what="Spearman's correlation of three pairs of maps of 3 by 4 cells, some with ties",
        causes={
            "these are the correlations of the values: take ranks first": each(lambda x: x),
            "equal cells got different ranks: ties share their mean rank (scipy.stats.rankdata)": each(lambda x: np.argsort(np.argsort(x, kind="stable")).astype(float)),
            "np.argsort gives places, not ranks": each(lambda x: np.argsort(x, kind="stable").astype(float)),
            "ranks were taken within each row: a map is one list of cells": np.array([rows(x, y) for x, y in pairs]),
            "the sign was lost": np.abs(each(rankdata)),
        },
        note="A map and its cube have the correlation 1: only the order is compared.",
    )


def _labels(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    a = rng.random(count) < 0.3
    return a.astype(float), (rng.random(count) < 0.15 + 0.5 * a).astype(float)


def _check_weights(weights) -> Verdict:
    cases = [_labels(1, 40), _labels(2, 57)]

    def each(rule):
        return np.concatenate([[rule(a, b, i, j) for i, j in zip(a, b)] for a, b in cases])

    def share(a, b, i, j):
        return np.mean((a == i) & (b == j))

    return compare(
        np.concatenate([np.asarray(weights(a.copy(), b.copy()), float) for a, b in cases]),
        each(lambda a, b, i, j: np.mean(a == i) * np.mean(b == j) / share(a, b, i, j)),
        what="the weights of the films of two test sets",
        causes={
            "the ratio is upside down: wanted share over share that is there": each(lambda a, b, i, j: share(a, b, i, j) / np.mean(a == i) / np.mean(b == j)),
            "this makes all four kinds equally frequent: each finding would change its own frequency too": each(lambda a, b, i, j: 0.25 / share(a, b, i, j)),
            "each weight is one over how frequent its kind is: the wanted share is missing": each(lambda a, b, i, j: 1 / share(a, b, i, j)),
            "this is the wanted share alone: divide by the share that is there": each(lambda a, b, i, j: np.mean(a == i) * np.mean(b == j)),
            "films without b all got the same weight: a film without b may have a or not": each(
                lambda a, b, i, j: np.mean(a == i) * np.mean(b == j) / share(a, b, i, j) if j else 1.0
            ),
        },
        note="No film changed, and none was thrown away. Only how much each one counts.",
    )


def _weighted(score, label, weight):
    score, label, weight = (np.asarray(x, float).ravel() for x in (score, label, weight))
    positive, negative = label == 1, label == 0
    wins = (score[positive][:, None] > score[negative]) + 0.5 * (score[positive][:, None] == score[negative])
    pair = weight[positive][:, None] * weight[negative]
    return (wins * pair).sum() / pair.sum()


def _check_strength(auroc_at) -> Verdict:
    rng = np.random.default_rng(9)
    logit = rng.normal(size=(2, 2, 6)).round(1) + np.array([[0.0, 1.5], [0.6, 2.0]])[..., None]
    strengths = (0.9, 0.5, 0.2)
    finding, cue = np.broadcast_to([[[0]], [[1]]], (2, 2, 6)), np.broadcast_to([[[0], [1]]], (2, 2, 6))

    def each(label=finding, weigh=lambda s: np.where(finding == cue, s, 1 - s)):
        return np.array([_weighted(logit, label, weigh(s)) for s in strengths])

    return compare(
        np.array([float(auroc_at(logit.copy(), s)) for s in strengths]),
        each(),
        what="the AUROC of a finding in clinics whose drains tell the truth in 90, 50 and 20 % of the films",
        causes={
            "the films of the disagreeing kinds count 1 - strength, not strength": each(weigh=lambda s: np.where(finding == cue, 1 - s, s)),
            "all films count the same: strength is not used": each(weigh=lambda s: np.ones_like(logit)),
            "the drain was scored instead of the finding: the first axis is the finding": each(label=cue),
            "only films with a drain were weighted: films without one agree or disagree as well": each(
                weigh=lambda s: np.where(cue == 1, np.where(finding == 1, s, 1 - s), 0.5)
            ),
            "every pair of films counted once: a pair counts by the product of its two weights": np.array(
                [_weighted(logit, finding, np.where(finding == cue, s, 1 - s) >= 0.5) for s in strengths]
            ),
        },
        note="One set of films, every clinic: that is what a counterfactual buys.",
    )


_AREA = "def area(scores):\n    scores = np.asarray(scores)\n    return ((scores[1:] + scores[:-1]) / 2).mean()\n"

_DELETE = (
    "def delete(image_YX, map_YX, empty_YX, share):\n"
    "    order = np.argsort(-map_YX.ravel())\n"
    "    gone = order[: round(share * order.size)]\n"
    "    out = image_YX.copy()\n"
    "    out.ravel()[gone] = empty_YX.ravel()[gone]\n"
    "    return out\n"
)

_RANKS = (
    "def spearman(a_yx, b_yx):\n"
    "    from scipy.stats import rankdata\n"
    "    a, b = rankdata(a_yx.ravel()), rankdata(b_yx.ravel())\n"
    "    a, b = a - a.mean(), b - b.mean()\n"
    "    return (a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum())\n"
)

_WEIGHTS = (
    "def weights(a, b):\n"
    "    out = np.empty(len(a))\n"
    "    for i in (0, 1):\n"
    "        for j in (0, 1):\n"
    "            here = (a == i) & (b == j)\n"
    "            out[here] = (a == i).mean() * (b == j).mean() / here.mean()\n"
    "    return out\n"
)

_STRENGTH = (
    "def auroc_at(logit_22M, strength):\n"
    "    wins = total = 0.0\n"
    "    for i in (0, 1):  # the cue on the film with the finding\n"
    "        for j in (0, 1):  # the cue on the film without\n"
    "            weight = (strength if i == 1 else 1 - strength) * (strength if j == 0 else 1 - strength)\n"
    "            with_M1, without_M = logit_22M[1, i][:, None], logit_22M[0, j]\n"
    "            wins += weight * ((with_M1 > without_M) + 0.5 * (with_M1 == without_M)).sum()\n"
    "            total += weight * logit_22M.shape[2] ** 2\n"
    "    return wins / total\n"
)

EXERCISES = (
    Exercise(
        id="ch18.area",
        title="The area under a deletion curve",
        prompt="Write `area(scores)`: the area under a curve whose points stand at equal distances from 0 to 1, by trapezoids.",
        answer="area",
        check=_check_area,
        hints=(
            "K points make K - 1 trapezoids.",
            "A trapezoid's height is the mean of its two ends, its width is 1 / (K - 1).",
            "K - 1 heights, each times 1 / (K - 1): that is their mean.",
        ),
        stub="def area(scores):\n    raise NotImplementedError  # one number\n",
        solution=_AREA,
        alternatives=(
            "def area(scores):\n    return np.trapezoid(scores, np.linspace(0, 1, len(scores)))\n",
            "def area(scores):\n    y = list(scores)\n    return (sum(y) - (y[0] + y[-1]) / 2) / (len(y) - 1)\n",
        ),
        mutants={
            "plain mean": "def area(scores):\n    return np.mean(scores)\n",
            "sum of the trapezoids": _AREA.replace(".mean()", ".sum()"),
            "not 1 / points": _AREA.replace(".mean()", ".sum() / len(scores)"),
            "left end": "def area(scores):\n    return np.mean(scores[:-1])\n",
            "right end": "def area(scores):\n    return np.mean(scores[1:])\n",
        },
        setup=SETUP,
        level="warm-up",
        minutes=4,
    ),
    Exercise(
        id="ch18.delete",
        title="Take the best away",
        prompt=(
            "Write `delete(image_YX, map_YX, empty_YX, share)`: a copy of the film in which the `share` of its pixels that the map "
            "puts highest are those of the baseline `empty_YX`. The map has a value for each pixel."
        ),
        answer="delete",
        check=_check_delete,
        hints=(
            "How many pixels go? Which ones come first in the map's order?",
            "np.argsort of the flattened map, turned so that the highest come first.",
            "Copy the film; at the first round(share * pixels) places of that order, write the baseline's pixels.",
        ),
        stub="def delete(image_YX, map_YX, empty_YX, share):\n    raise NotImplementedError  # return a new film\n",
        solution=_DELETE,
        alternatives=(
            "def delete(image_YX, map_YX, empty_YX, share):\n"
            "    rank_YX = (-map_YX).ravel().argsort().argsort().reshape(map_YX.shape)\n"
            "    return np.where(rank_YX < round(share * map_YX.size), empty_YX, image_YX)\n",
        ),
        mutants={
            "lowest pixels went first": _DELETE.replace("-map_YX", "map_YX"),
            "this is insertion": _DELETE.replace("image_YX.copy()", "empty_YX.copy()").replace("= empty_YX.ravel()[gone]", "= image_YX.ravel()[gone]"),
            "set to black": _DELETE.replace("empty_YX.ravel()[gone]", "0"),
            "threshold on the map": "def delete(image_YX, map_YX, empty_YX, share):\n    return np.where(map_YX >= share * map_YX.max(), empty_YX, image_YX)\n",
            "work on a copy": _DELETE.replace("image_YX.copy()", "image_YX"),
        },
        setup=SETUP,
        level="core",
        minutes=8,
    ),
    Exercise(
        id="ch18.ranks",
        title="How alike are two maps?",
        prompt="Write `spearman(a_yx, b_yx)`: the correlation of the ranks of two maps' cells. Equal cells share their mean rank.",
        answer="spearman",
        check=_check_ranks,
        hints=(
            "Forget the values: write down each cell's place in the order, then correlate the places.",
            "scipy.stats.rankdata gives ranks in which ties share their mean.",
            "Correlation: take the mean off both lists, then sum of products over the root of the product of the sums of squares.",
        ),
        stub="def spearman(a_yx, b_yx):\n    raise NotImplementedError  # one number from -1 to 1\n",
        solution=_RANKS,
        alternatives=(
            "def spearman(a_yx, b_yx):\n    from scipy.stats import spearmanr\n    return spearmanr(a_yx.ravel(), b_yx.ravel()).statistic\n",
            "def spearman(a_yx, b_yx):\n"
            "    def ranks(x):\n"
            "        x = x.ravel()\n"
            "        return (x[:, None] > x).sum(1) + ((x[:, None] == x).sum(1) - 1) / 2\n"
            "    return np.corrcoef(ranks(a_yx), ranks(b_yx))[0, 1]\n",
        ),
        mutants={
            "take ranks first": "def spearman(a_yx, b_yx):\n    return np.corrcoef(a_yx.ravel(), b_yx.ravel())[0, 1]\n",
            "ties share": _RANKS.replace("from scipy.stats import rankdata", "rankdata = lambda x: np.argsort(np.argsort(x, kind='stable')).astype(float)"),
            "places, not ranks": _RANKS.replace("from scipy.stats import rankdata", "rankdata = lambda x: np.argsort(x, kind='stable').astype(float)"),
            "sign was lost": _RANKS.replace("return (a * b).sum()", "return abs((a * b).sum())"),
        },
        setup=SETUP,
        level="core",
        minutes=10,
    ),
    Exercise(
        id="ch18.weights",
        title="Two findings that no longer keep company",
        prompt=(
            "Write `weights(a, b)`: for two lists of labels 0 and 1, a weight for each film under which a and b are independent and "
            "each is as frequent as before."
        ),
        answer="weights",
        check=_check_weights,
        hints=(
            "There are four kinds of film: both, a alone, b alone, neither. All films of a kind weigh the same.",
            "How frequent is each kind? How frequent would it be if a and b were independent?",
            "Weight = p(a) p(b) / p(a and b), with the film's own values of a and b.",
        ),
        stub="def weights(a, b):\n    raise NotImplementedError  # one weight for each film\n",
        solution=_WEIGHTS,
        alternatives=(
            "def weights(a, b):\n"
            "    table = np.array([[np.mean((a == i) & (b == j)) for j in (0, 1)] for i in (0, 1)])\n"
            "    ratio = np.outer(table.sum(1), table.sum(0)) / table\n"
            "    return ratio[a.astype(int), b.astype(int)]\n",
        ),
        mutants={
            "upside down": _WEIGHTS.replace("(a == i).mean() * (b == j).mean() / here.mean()", "here.mean() / (a == i).mean() / (b == j).mean()"),
            "equally frequent": _WEIGHTS.replace("(a == i).mean() * (b == j).mean()", "0.25"),
            "wanted share is missing": _WEIGHTS.replace("(a == i).mean() * (b == j).mean()", "1"),
            "wanted share alone": _WEIGHTS.replace(" / here.mean()", ""),
        },
        setup=SETUP,
        level="core",
        minutes=10,
    ),
    Exercise(
        id="ch18.strength",
        title="Every clinic from four films",
        prompt=(
            "Write `auroc_at(logit_22M, strength)`: the AUROC of the finding where the cue tells the truth with the chance `strength`. "
            "The logits are indexed by finding (0, 1), cue (0, 1) and patient; a film on which both agree weighs `strength`, "
            "another 1 - `strength`."
        ),
        answer="auroc_at",
        check=_check_strength,
        hints=(
            "AUROC is the share of pairs, one film with the finding and one without, in which the first scores higher.",
            "A pair counts by the product of its two films' weights; a tie counts half.",
            "Loop over the cue of the first film and the cue of the second: four groups of pairs, each with one weight.",
        ),
        stub="def auroc_at(logit_22M, strength):\n    raise NotImplementedError  # one number\n",
        solution=_STRENGTH,
        alternatives=(
            "def auroc_at(logit_22M, strength):\n"
            "    from sklearn.metrics import roc_auc_score\n"
            "    finding, cue, _ = np.indices(logit_22M.shape)\n"
            "    weight = np.where(finding == cue, strength, 1 - strength)\n"
            "    return roc_auc_score(finding.ravel(), logit_22M.ravel(), sample_weight=weight.ravel())\n",
        ),
        mutants={
            "not strength": _STRENGTH.replace("strength if i == 1 else 1 - strength", "1 - strength if i == 1 else strength").replace("strength if j == 0 else 1 - strength", "1 - strength if j == 0 else strength"),
            "strength is not used": _STRENGTH.replace("weight = (", "weight = 1  # ("),
            "drain was scored": _STRENGTH.replace("logit_22M[1, i][:, None], logit_22M[0, j]", "logit_22M[i, 1][:, None], logit_22M[j, 0]"),
        },
        setup=SETUP,
        level="stretch",
        minutes=15,
    ),
)

QUESTIONS = (
    Question(
        id="ch18.head",
        prompt="The head's weights are shuffled, and nothing else. What becomes of the label's attention map?",
        choices={"a": "it is as good as random", "b": "it changes in part", "c": "it stays exactly as it was"},
        why="Attention is computed before the head. It cannot know what the head makes of it.",
    ),
    Question(
        id="ch18.deletion",
        prompt="Which map has the largest insertion area, on average?",
        choices={"a": "the exact mask of the lesion", "b": "gradient-weighted attention", "c": "a bump in the middle of every film"},
        why="The score rises when much of the chest comes back early. A compact bump in the middle brings back the chest; a mask brings back a lesion without a chest around it.",
    ),
    Question(
        id="ch18.twins",
        prompt="The lesion is taken away and nothing else. What share of the label map's excess over chance stays at the empty place?",
        choices={"a": "less than a fifth", "b": "between a fifth and four fifths", "c": "more than four fifths"},
        why="A map points at usual places with the lesion or without it. Only what goes away with the lesion was about the lesion.",
    ),
    Question(
        id="ch18.cue",
        prompt="A model was trained where nearly every pneumothorax had the cue. What is its AUROC where the cue tells the truth in only one film of twenty?",
        unit="AUROC",
        why="It had learnt the cue. Where the cue lies, so does the model.",
        close=0.15,
    ),
    Question(
        id="ch18.company",
        prompt="Hernia's AUROC is computed once more with films weighted so that hernia and fibrosis are independent. What happens?",
        choices={"a": "it rises by more than 0.02", "b": "it stays within 0.02", "c": "it falls by more than 0.02"},
        why="Without its company, only the finding's own signs are left to score with.",
    ),
)
