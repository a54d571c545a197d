"""Chapter 8's exercises and questions."""

import numpy as np
import torch

from cxrlib.course.compare import compare
from cxrlib.course.exercise import Exercise, Question, Verdict

SETUP = "import numpy as np\nimport torch\nimport torch.nn.functional as F\n"


def _check_price(label_macs) -> Verdict:
    cases = ((5, 1, 10, 24), (14, 4, 197, 384), (100, 3, 37, 64))

    def bill(formula):
        return np.array([formula(*case) for case in cases], dtype=float)

    return compare(
        [label_macs(*case) for case in cases],
        bill(lambda c, k, n, d: k * c * (12 * d * d + 2 * (n + c) * d)),
        what="the extra multiplications in three models",
        causes={
            "labels read labels too: each product runs over N + C tokens": bill(lambda c, k, n, d: k * c * (12 * d * d + 2 * n * d)),
            "attention has two products, queries with keys and weights with values": bill(
                lambda c, k, n, d: k * c * (12 * d * d + (n + c) * d)
            ),
            "the MLP is missing: a layer's linear maps are 4 D² for attention and 8 D² for the MLP": bill(
                lambda c, k, n, d: k * c * (4 * d * d + 2 * (n + c) * d)
            ),
            "every layer with labels costs this much: multiply by the layers": bill(
                lambda c, k, n, d: c * (12 * d * d + 2 * (n + c) * d)
            ),
            "only the labels' own work is extra: the image's tokens run anyway": bill(
                lambda c, k, n, d: k * (n + c) * (12 * d * d + 2 * (n + c) * d)
            ),
        },
        rtol=1e-9,
        note="27 million for fourteen labels in one layer of ViT-S: 0.6 % of the whole.",
    )


def _check_listen(labels_read) -> Verdict:
    generator = torch.Generator().manual_seed(8)
    C, N, d = 3, 5, 4
    q_Cd = 1.5 * torch.randn(C, d, generator=generator)
    k_Md, v_Md = (torch.randn(N + C, d, generator=generator) for _ in range(2))

    def by_hand(mode, *, scale=d**-0.5, first=False, after=False):
        scores_CM = q_Cd @ k_Md.T * scale
        may_CM = torch.ones(C, N + C, dtype=torch.bool)
        labels = slice(0, C) if first else slice(N, N + C)
        if mode != "full":
            may_CM[:, labels] = torch.eye(C, dtype=torch.bool) if mode == "self" else False
        if after:
            return (scores_CM.softmax(-1) * may_CM) @ v_Md
        return scores_CM.masked_fill(~may_CM, float("-inf")).softmax(-1) @ v_Md

    modes = ("full", "self", "none")

    def all_modes(**wrong):
        return torch.stack([by_hand(mode, **wrong) for mode in modes])

    right = all_modes()
    full = torch.stack([by_hand("full")] * 3)
    swapped = torch.stack([by_hand("full"), by_hand("none"), by_hand("self")])
    same = torch.stack([by_hand("full"), by_hand("none"), by_hand("none")])
    return compare(
        torch.stack([torch.as_tensor(labels_read(q_Cd, k_Md, v_Md, mode), dtype=torch.float32) for mode in modes]),
        right,
        what="what three labels take home from five image tokens, in the three modes",
        causes={
            "the weights were cut after the softmax: their rows no longer sum to 1; forbid before it": all_modes(after=True),
            "the scores were not divided by the root of d": all_modes(scale=1.0),
            "the first C keys were taken for the labels: labels come last": all_modes(first=True),
            "the mode changes nothing: self and none forbid columns of labels": full,
            "self and none are swapped: with self a label may read itself": swapped,
            "self equals none here: with self a label keeps its own column": same,
        },
        note="Three rows of a square decide what a label may know.",
    )


def _check_fair(fair_difference) -> Verdict:
    rng = np.random.default_rng(4)
    patients_R = rng.normal(0, 0.02, 400)  # which patients were drawn moves both models alike
    a_SR = 0.80 + patients_R + rng.normal(0, 0.003, (3, 400)) + np.array([[0.004], [0.0], [-0.001]])
    b_SR = 0.79 + patients_R + rng.normal(0, 0.003, (3, 400))
    a_S, b_S = np.array([0.806, 0.801, 0.797]), np.array([0.792, 0.789, 0.790])
    paired_R = a_SR.mean(axis=0) - b_SR.mean(axis=0)
    value = a_S.mean() - b_S.mean()

    def ends(samples, tails=(2.5, 97.5)):
        return np.percentile(samples, tails)

    own_a, own_b = ends(a_SR.mean(axis=0)), ends(b_SR.mean(axis=0))
    spread = paired_R.std() / np.sqrt(len(paired_R))
    return compare(
        np.array([float(x) for x in fair_difference(a_S, b_S, a_SR, b_SR)]),
        np.array([value, *ends(paired_R)]),
        what="difference, lower and upper end",
        causes={
            "each model's own interval was taken and the ends subtracted: subtract column by column first, then take percentiles": [
                value, own_a[0] - own_b[1], own_a[1] - own_b[0],
            ],
            "the ends were subtracted like to like: percentiles of a difference are not differences of percentiles": [
                value, *(own_a - own_b),
            ],
            "the resamples were sorted for each model alone, which takes them apart: column r must stay column r": [
                value, *ends(np.sort(a_SR.mean(axis=0)) - np.sort(b_SR.mean(axis=0))),
            ],
            "the seeds were not averaged first: this is the interval of a single seed's difference": [value, *ends(a_SR - b_SR)],
            "the percentiles are 5 and 95: that is a 90 % interval": [value, *ends(paired_R, (5, 95))],
            "a standard error of the mean was used: the resamples' own spread is the answer": [
                value, value - 1.96 * spread, value + 1.96 * spread,
            ],
            "the difference has the wrong sign: first model less second": [-value, *ends(-paired_R)],
        },
        rtol=1e-6,
        note="Paired, the patients' luck cancels: the interval is several times narrower than either model's own.",
    )  # fmt: skip


def _check_heard(heard) -> Verdict:
    reads = np.zeros((5, 5), bool)
    for reader, spoken in ((0, 1), (1, 2), (2, 3), (4, 4), (3, 0)):
        reads[reader, spoken] = True
    rounds = (1, 2, 3, 4)

    def spread(n2, *, shift=-1, transpose=False, stay=True, eye=True, inplace=False):
        table = (reads.T if transpose else reads).astype(int)
        knows = np.eye(5, dtype=bool) if eye else np.zeros((5, 5), bool)
        for _ in range(max(n2 + shift, 0)):
            if inplace:
                for i in range(5):
                    knows[i] |= (table[i] @ knows.astype(int)) > 0
            else:
                fresh = (table @ knows.astype(int)) > 0
                knows = knows | fresh if stay else fresh
        return knows

    def all_rounds(**wrong):
        return np.stack([spread(n2, **wrong) for n2 in rounds]).astype(int)

    return compare(
        np.stack([np.asarray(heard(reads, n2)).astype(int) for n2 in rounds]),
        all_rounds(),
        what="who can have heard of whose look, for one to four layers",
        causes={
            "one round too many: in the first layer the others have not looked yet": all_rounds(shift=0),
            "the square is transposed: row i says whom label i reads": all_rounds(transpose=True),
            "what was known is forgotten: the residual stream keeps it": all_rounds(stay=False),
            "nobody looked: after the first layer each label knows its own film": all_rounds(eye=False),
            "news ran through several labels within one layer: all read what was said before the layer": all_rounds(inplace=True),
        },
        rtol=0,
        atol=0.1,
        otherwise="draw the chain 0 reads 1 reads 2 on paper, and mark after each layer who knows what",
        note="With everyone reading everyone, two layers are enough for all to hear of all.",
    )


EXERCISES = (
    Exercise(
        id="ch08.price",
        title="The price of labels",
        prompt="Write label_macs(labels, layers, tokens, width): the extra multiplications of equation 1.",
        answer="label_macs",
        check=_check_price,
        hints=(
            "Ask first what one label does in one layer, then multiply.",
            "Its linear maps are 12 D². It has one row of N + C scores, and mixes N + C values.",
            "layers * labels * (12 * width**2 + 2 * (... + ...) * width)",
        ),
        stub="def label_macs(labels, layers, tokens, width):\n    raise NotImplementedError  # your line here\n",
        solution=(
            "def label_macs(labels, layers, tokens, width):\n"
            "    return layers * labels * (12 * width**2 + 2 * (tokens + labels) * width)\n"
        ),
        alternatives=(
            "def label_macs(labels, layers, tokens, width):\n"
            "    one = 3 * width * width + width * width + 2 * 4 * width * width\n"
            "    one += (tokens + labels) * width + (tokens + labels) * width\n"
            "    return sum(one for _ in range(labels * layers))\n",
        ),
        mutants={
            "labels read labels too": (
                "def label_macs(labels, layers, tokens, width):\n"
                "    return layers * labels * (12 * width**2 + 2 * tokens * width)\n"
            ),
            "two products": (
                "def label_macs(labels, layers, tokens, width):\n"
                "    return layers * labels * (12 * width**2 + (tokens + labels) * width)\n"
            ),
            "multiply by the layers": (
                "def label_macs(labels, layers, tokens, width):\n"
                "    return labels * (12 * width**2 + 2 * (tokens + labels) * width)\n"
            ),
            "the MLP is missing": (
                "def label_macs(labels, layers, tokens, width):\n"
                "    return layers * labels * (4 * width**2 + 2 * (tokens + labels) * width)\n"
            ),
        },
        setup=SETUP,
        level="warm-up",
        minutes=4,
    ),
    Exercise(
        id="ch08.listen",
        title="Three ways to listen",
        prompt="Write labels_read(q_Cd, k_Md, v_Md, mode) for one head; mode is full, self or none.",
        answer="labels_read",
        check=_check_listen,
        hints=(
            "All three are one attention with a different set of columns that a row may read.",
            "The labels' columns are the last C. What may not be read gets minus infinity before the softmax.",
            'A boolean may_CM of ones; for self its last C columns are torch.eye(C), for none they are False.',
        ),
        stub="def labels_read(q_Cd, k_Md, v_Md, mode):\n    raise NotImplementedError  # your lines here\n",
        solution=(
            "def labels_read(q_Cd, k_Md, v_Md, mode):\n"
            "    C, M = len(q_Cd), len(k_Md)\n"
            "    scores_CM = q_Cd @ k_Md.T / q_Cd.shape[1] ** 0.5\n"
            "    may_CM = torch.ones(C, M, dtype=torch.bool)\n"
            '    if mode != "full":\n'
            '        may_CM[:, M - C :] = torch.eye(C, dtype=torch.bool) if mode == "self" else False\n'
            '    return scores_CM.masked_fill(~may_CM, float("-inf")).softmax(dim=-1) @ v_Md\n'
        ),
        alternatives=(
            "def labels_read(q_Cd, k_Md, v_Md, mode):\n"
            "    C, N = len(q_Cd), len(k_Md) - len(q_Cd)\n"
            "    taken = []\n"
            "    for c in range(C):\n"
            '        columns = list(range(N)) + {"full": list(range(N, N + C)), "self": [N + c], "none": []}[mode]\n'
            "        scores = k_Md[columns] @ q_Cd[c] / q_Cd.shape[1] ** 0.5\n"
            "        taken.append(torch.softmax(scores, 0) @ v_Md[columns])\n"
            "    return torch.stack(taken)\n",
        ),
        mutants={
            "cut after the softmax": (
                "def labels_read(q_Cd, k_Md, v_Md, mode):\n"
                "    C, M = len(q_Cd), len(k_Md)\n"
                "    weights = (q_Cd @ k_Md.T / q_Cd.shape[1] ** 0.5).softmax(-1)\n"
                '    if mode != "full":\n'
                '        weights[:, M - C :] *= torch.eye(C) if mode == "self" else 0\n'
                "    return weights @ v_Md\n"
            ),
            "not divided": (
                "def labels_read(q_Cd, k_Md, v_Md, mode):\n"
                "    C, M = len(q_Cd), len(k_Md)\n"
                "    may = torch.ones(C, M, dtype=torch.bool)\n"
                '    if mode != "full":\n'
                '        may[:, M - C :] = torch.eye(C, dtype=torch.bool) if mode == "self" else False\n'
                '    return (q_Cd @ k_Md.T).masked_fill(~may, float("-inf")).softmax(-1) @ v_Md\n'
            ),
            "the first C keys": (
                "def labels_read(q_Cd, k_Md, v_Md, mode):\n"
                "    C, M = len(q_Cd), len(k_Md)\n"
                "    may = torch.ones(C, M, dtype=torch.bool)\n"
                '    if mode != "full":\n'
                '        may[:, :C] = torch.eye(C, dtype=torch.bool) if mode == "self" else False\n'
                '    return (q_Cd @ k_Md.T / q_Cd.shape[1] ** 0.5).masked_fill(~may, float("-inf")).softmax(-1) @ v_Md\n'
            ),
            "keeps its own column": (
                "def labels_read(q_Cd, k_Md, v_Md, mode):\n"
                "    C = len(q_Cd)\n"
                '    if mode != "full":\n'
                "        k_Md, v_Md = k_Md[:-C], v_Md[:-C]\n"
                "    return (q_Cd @ k_Md.T / q_Cd.shape[1] ** 0.5).softmax(-1) @ v_Md\n"
            ),
        },
        setup=SETUP,
        level="core",
        minutes=12,
    ),
    Exercise(
        id="ch08.fair",
        title="A fair difference",
        prompt="Write fair_difference(a_S, b_S, a_SR, b_SR): difference of the means over seeds, and its 95 % interval.",
        answer="fair_difference",
        check=_check_fair,
        hints=(
            "Column r of both tables holds the same patients. What can be done column by column?",
            "Average over the seeds first, subtract the two rows of R numbers, and only then take percentiles.",
            "np.percentile(a_SR.mean(axis=0) - ..., [2.5, 97.5])",
        ),
        stub="def fair_difference(a_S, b_S, a_SR, b_SR):\n    raise NotImplementedError  # your lines here\n",
        solution=(
            "def fair_difference(a_S, b_S, a_SR, b_SR):\n"
            "    difference_R = np.mean(a_SR, axis=0) - np.mean(b_SR, axis=0)\n"
            "    low, high = np.percentile(difference_R, [2.5, 97.5])\n"
            "    return np.mean(a_S) - np.mean(b_S), low, high\n"
        ),
        alternatives=(
            "def fair_difference(a_S, b_S, a_SR, b_SR):\n"
            "    gap = (np.asarray(a_SR) - np.asarray(b_SR)).sum(0) / len(a_SR)\n"
            "    return [float((np.asarray(a_S) - np.asarray(b_S)).mean()), np.quantile(gap, 0.025), np.quantile(gap, 0.975)]\n",
        ),
        mutants={
            "subtract column by column first": (
                "def fair_difference(a_S, b_S, a_SR, b_SR):\n"
                "    a = np.percentile(np.mean(a_SR, axis=0), [2.5, 97.5])\n"
                "    b = np.percentile(np.mean(b_SR, axis=0), [2.5, 97.5])\n"
                "    return np.mean(a_S) - np.mean(b_S), a[0] - b[1], a[1] - b[0]\n"
            ),
            "not averaged first": (
                "def fair_difference(a_S, b_S, a_SR, b_SR):\n"
                "    low, high = np.percentile(np.asarray(a_SR) - np.asarray(b_SR), [2.5, 97.5])\n"
                "    return np.mean(a_S) - np.mean(b_S), low, high\n"
            ),
            "5 and 95": (
                "def fair_difference(a_S, b_S, a_SR, b_SR):\n"
                "    low, high = np.percentile(np.mean(a_SR, axis=0) - np.mean(b_SR, axis=0), [5, 95])\n"
                "    return np.mean(a_S) - np.mean(b_S), low, high\n"
            ),
            "wrong sign": (
                "def fair_difference(a_S, b_S, a_SR, b_SR):\n"
                "    low, high = np.percentile(np.mean(b_SR, axis=0) - np.mean(a_SR, axis=0), [2.5, 97.5])\n"
                "    return np.mean(b_S) - np.mean(a_S), low, high\n"
            ),
        },
        setup=SETUP,
        level="core",
        minutes=12,
    ),
    Exercise(
        id="ch08.heard",
        title="How far news travels",
        prompt="Write heard(reads_CC, n2): whose look at the film can have reached whom after n2 layers with labels.",
        answer="heard",
        check=_check_heard,
        hints=(
            "Keep a square: what each label knows. How does it look after the first layer?",
            "After the first layer it is the identity. In each later layer a label adds what those it reads knew before.",
            "knows = knows | ((reads @ knows) > 0), n2 - 1 times, with integers in the product.",
        ),
        stub="def heard(reads_CC, n2):\n    raise NotImplementedError  # your lines here\n",
        solution=(
            "def heard(reads_CC, n2):\n"
            "    reads_CC = np.asarray(reads_CC, bool)\n"
            "    knows_CC = np.eye(len(reads_CC), dtype=bool)  # after the first layer: its own look\n"
            "    for _ in range(n2 - 1):\n"
            "        knows_CC = knows_CC | ((reads_CC.astype(int) @ knows_CC.astype(int)) > 0)\n"
            "    return knows_CC\n"
        ),
        alternatives=(
            "def heard(reads_CC, n2):\n"
            "    C = len(reads_CC)\n"
            "    knows = [{i} for i in range(C)]\n"
            "    for _ in range(n2 - 1):\n"
            "        knows = [mine.union(*(knows[j] for j in range(C) if reads_CC[i][j])) for i, mine in enumerate(knows)]\n"
            "    return np.array([[j in mine for j in range(C)] for mine in knows])\n",
        ),
        mutants={
            "one round too many": (
                "def heard(reads_CC, n2):\n"
                "    knows = np.eye(len(reads_CC), dtype=int)\n"
                "    for _ in range(n2):\n"
                "        knows = ((knows + np.asarray(reads_CC, int) @ knows) > 0).astype(int)\n"
                "    return knows > 0\n"
            ),
            "transposed": (
                "def heard(reads_CC, n2):\n"
                "    knows = np.eye(len(reads_CC), dtype=int)\n"
                "    for _ in range(n2 - 1):\n"
                "        knows = ((knows + np.asarray(reads_CC, int).T @ knows) > 0).astype(int)\n"
                "    return knows > 0\n"
            ),
            "forgotten": (
                "def heard(reads_CC, n2):\n"
                "    return np.linalg.matrix_power(np.asarray(reads_CC, int), n2 - 1) > 0\n"
            ),
            "within one layer": (
                "def heard(reads_CC, n2):\n"
                "    knows = np.eye(len(reads_CC), dtype=bool)\n"
                "    for _ in range(n2 - 1):\n"
                "        for i, row in enumerate(np.asarray(reads_CC, bool)):\n"
                "            knows[i] |= knows[row].any(axis=0)\n"
                "    return knows\n"
            ),
        },
        setup=SETUP,
        level="stretch",
        minutes=15,
    ),
)

QUESTIONS = (
    Question(
        id="ch08.hundred",
        prompt="By how much do ViT-S/16's multiplications grow with 100 labels in four layers?",
        unit="per cent",
        why="Seven times the labels, and a little more: the part in which labels read labels grows with their square.",
        close=0.03,
    ),
    Question(
        id="ch08.hearsay",
        prompt="N2 = 1, full label attention. Label B alone is shown another film. Which other labels' outputs change?",
        choices={"a": "all of them", "b": "those whose queries attend to B", "c": "none"},
        why="Within a layer everybody reads what was there before the layer, and B had not looked yet.",
    ),
    Question(
        id="ch08.joint",
        prompt="100 labels beside 37 image tokens, joint flow in three of four layers. How far do the patch tokens move?",
        unit="per cent of their length",
        why="Most of what an image token may read is then a label.",
    ),
    Question(
        id="ch08.rungs",
        prompt="Which is best on the validation patients: late, early and talking, or early and silent?",
        choices={"a": "late, N2 = 1", "b": "early, N2 = 3, talking", "c": "early, N2 = 3, silent"},
        why="The gap between late and early is large; the one between talking and silent is about as large as a seed's luck.",
    ),
    Question(
        id="ch08.talk",
        prompt="Three seeds, test patients: what is label-label attention worth?",
        choices={"a": "it helps with every seed", "b": "the seeds disagree", "c": "it harms with every seed"},
        why="Look at the seeds one by one before you look at a mean.",
    ),
    Question(
        id="ch08.start",
        prompt="From a GMML start, three seeds: does the [CLS] ViT still lead LT-ViT?",
        choices={"a": "yes, with every seed", "b": "the seeds disagree", "c": "no: LT-ViT leads with every seed, or ties"},
        why="A label can only look as well as there is something to look at.",
    ),
    Question(
        id="ch08.place",
        prompt="From a GMML start, three seeds: labels in the last layer only against labels in all four.",
        choices={"a": "the last layer alone is worse with every seed", "b": "the seeds disagree", "c": "it is better with every seed"},
        why="With a finished backbone, one look at finished features may be all that a label needs.",
    ),
)
