"""Chapter 11's exercises and questions."""

import numpy as np

from cxrlib.course.compare import compare
from cxrlib.course.exercise import Exercise, Question, Verdict


def _check_parameters(pool_parameters) -> Verdict:
    cases = ((14, 384), (5, 24), (3, 64))

    def row(formula):
        return np.array([formula(C, D) for C, D in cases])

    return compare(
        [pool_parameters(C, D) for C, D in cases],
        row(lambda C, D: C * D + 2 * C),
        what="numbers that attention pooling learns: 14 findings at width 384, 5 at width 24, 3 at width 64",
        causes={
            "the scales are missing: each finding has one": row(lambda C, D: C * D + C),
            "scales and biases are missing": row(lambda C, D: C * D),
            "one scale and one bias were shared: each finding has its own": row(lambda C, D: C * D + 2),
            "weights were shared by all findings: each has its own": row(lambda C, D: D + 2 * C),
            "weights were taken for a square map of the token: they do not depend on the film": row(lambda C, D: D * D + D),
            "these are the plain mean's: attention pooling has weights too": row(lambda C, D: 2 * C),
        },
        rtol=0,
        atol=0.5,
        note="A linear map per finding has one number per finding less. Pooling pays it for the scale.",
    )


def _cosines(layers_QBCD: np.ndarray) -> np.ndarray:
    unit = layers_QBCD / np.linalg.norm(layers_QBCD, axis=-1, keepdims=True)
    return unit @ np.swapaxes(unit, -1, -2)


def _check_oct(oct_loss) -> Verdict:
    import torch

    layers_QBCD = np.random.default_rng(3).normal(size=(3, 2, 4, 5)) + 0.5
    C, cosine = 4, _cosines(layers_QBCD)
    off = ~np.eye(C, dtype=bool)
    products = layers_QBCD @ np.swapaxes(layers_QBCD, -1, -2)
    flat = np.transpose(layers_QBCD, (0, 2, 1, 3))
    return compare(
        oct_loss(torch.tensor(layers_QBCD)),
        (cosine**2)[..., off].mean(),
        what="the loss of 3 layers, 2 films, 4 class tokens of width 5",
        causes={
            "the cosines were not squared: opposites would then be best": cosine[..., off].mean(),
            "absolute values were taken: a reading of the paper as well, but eq. 7 here squares": np.abs(cosine)[..., off].mean(),
            "a token's cosine with itself was counted: it is 1 whatever you do": (cosine**2).mean(),
            "the diagonal was left out of the sum, but its cells were counted": (cosine**2 * off).sum((-1, -2)).mean() / C**2,
            "products were taken, not cosines: divide each token by its length": (products**2)[..., off].mean(),
            "layers or films were added up: take their mean": (cosine**2)[..., off].mean(-1).mean(0).sum(),
            "layers were added up: divide by q": (cosine**2)[..., off].mean((1, 2)).sum(),
            "only the last layer was read": (cosine[-1] ** 2)[..., off].mean(),
            "tokens of different films were compared: keep to one film at a time": (
                _cosines(flat) ** 2
            )[..., ~np.eye(2, dtype=bool)].mean(),
        },
        note="Each pair counts once or twice: the mean is the same.",
    )


def _softmax(scores, axis):
    weights = np.exp(scores - scores.max(axis, keepdims=True))
    return weights / weights.sum(axis, keepdims=True)


def _check_pool(pooled) -> Verdict:
    import torch

    generator = np.random.default_rng(4)
    tokens_BCD, v_CD = generator.normal(size=(2, 3, 5)), generator.normal(size=(3, 5)) * 1.5
    s_C, b_C = np.array([2.0, -1.0, 3.0]), np.array([0.5, 0.0, -0.7])

    def logits(alpha_CD, s=s_C, b=b_C):
        return s * (alpha_CD * tokens_BCD).sum(-1) + b

    alpha_CD = _softmax(v_CD, -1)
    return compare(
        pooled(*(torch.tensor(part) for part in (tokens_BCD, v_CD, s_C, b_C))),
        logits(alpha_CD),
        what="logits of 2 films and 3 findings with tokens of width 5",
        causes={
            "one softmax ran over all weights: each finding has one of its own, over D": logits(
                _softmax(v_CD.reshape(-1), 0).reshape(3, 5)
            ),
            "the softmax ran over the findings: it runs over D": logits(_softmax(v_CD, 0)),
            "v was used as it is, without a softmax: then it is a linear map": logits(v_CD),
            "the scale is missing": logits(alpha_CD, s=1.0),
            "the bias is missing": logits(alpha_CD, b=0.0),
            "the bias was scaled: it is added last": s_C * ((alpha_CD * tokens_BCD).sum(-1) + b_C),
            "the weighted numbers were averaged, not added: the weights sum to 1 already": s_C * (alpha_CD * tokens_BCD).mean(-1) + b_C,
            "the softmax was taken of the tokens: the weights are learnt, and the same for every film": s_C
            * (_softmax(tokens_BCD, -1) * tokens_BCD).sum(-1)
            + b_C,
        },
        note="With v = 0 it is the plain mean.",
    )


def _check_push(oct_push) -> Verdict:
    import torch

    tokens_CD = np.random.default_rng(5).normal(size=(4, 3)) + 0.4
    C = len(tokens_CD)
    length = np.linalg.norm(tokens_CD, axis=-1, keepdims=True)
    unit = tokens_CD / length
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, 0)
    gradient = cosine @ unit - (cosine**2).sum(1, keepdims=True) * unit
    push = -4 / (C * (C - 1)) * gradient / length
    got = oct_push(torch.tensor(tokens_CD))
    return compare(
        got,
        push,
        what="the direction in which 4 tokens of width 3 move",
        causes={
            "the sign is wrong: descent goes against the gradient": -push,
            "each pair was counted once: it stands twice in the sum": push / 2,
            "the 2 of the square's derivative, or the second of each pair, is missing": push / 4,
            "the length of the token is missing: a long token turns less": push * length,
            "the pull along the token itself was not taken off: a cosine does not feel lengths": -4
            / (C * (C - 1))
            * (cosine @ unit)
            / length,
            "the mean over pairs is missing": push * C * (C - 1),
        },
        note="At right angles all cosines are 0, and so is the push. For exact copies the two parts cancel.",
    )


_PARAMETERS = "def pool_parameters(findings, width):\n    return findings * width + 2 * findings\n"

_OCT = (
    "def oct(layers_QBCD):\n"
    "    unit = layers_QBCD / layers_QBCD.norm(dim=-1, keepdim=True)\n"
    "    square = (unit @ unit.transpose(-2, -1)) ** 2\n"
    "    C = square.shape[-1]\n"
    "    off = ~torch.eye(C, dtype=torch.bool)\n"
    "    return square[..., off].mean()\n"
)

_POOL = (
    "def pooled(tokens_BCD, v_CD, s_C, b_C):\n"
    "    alpha_CD = v_CD.softmax(dim=-1)\n"
    "    return s_C * (alpha_CD * tokens_BCD).sum(dim=-1) + b_C\n"
)

_PUSH = (
    "def oct_push(tokens_CD):\n"
    "    C = len(tokens_CD)\n"
    "    length = tokens_CD.norm(dim=-1, keepdim=True)\n"
    "    unit = tokens_CD / length\n"
    "    cosine = unit @ unit.T\n"
    "    cosine.fill_diagonal_(0)\n"
    "    gradient = cosine @ unit - (cosine**2).sum(dim=1, keepdim=True) * unit\n"
    "    return -4 / (C * (C - 1)) * gradient / length\n"
)

_SETUP = "import numpy as np\nimport torch\nimport torch.nn.functional as F\n"

EXERCISES = (
    Exercise(
        id="ch11.parameters",
        title="What pooling costs",
        prompt="Write `pool_parameters(findings, width)`: the numbers that `ClassPool` learns with attention pooling.",
        answer="pool_parameters",
        check=_check_parameters,
        hints=(
            "Three things are learnt: weights, a scale, a bias.",
            "A finding has one weight for each number of its token.",
            "C times D weights, C scales, C biases.",
        ),
        stub="def pool_parameters(findings, width):\n    raise NotImplementedError  # your line here\n",
        solution=_PARAMETERS,
        alternatives=(
            "def pool_parameters(findings, width):\n"
            "    from cxrlib.models.clarity import ClassPool\n"
            "    return sum(p.numel() for p in ClassPool(findings=findings, width=width).parameters())\n",
        ),
        mutants={
            "scales are missing": _PARAMETERS.replace("2 * findings", "findings"),
            "scales and biases are missing": _PARAMETERS.replace(" + 2 * findings", ""),
            "were shared: each finding has its own": _PARAMETERS.replace("2 * findings", "2"),
            "weights were shared": _PARAMETERS.replace("findings * width", "width"),
            "plain mean's": _PARAMETERS.replace("findings * width + ", ""),
        },
        setup=_SETUP,
        level="warm-up",
        minutes=4,
    ),
    Exercise(
        id="ch11.oct",
        title="Equation 7",
        prompt="Write `oct(layers_QBCD)`: equation 7, averaged over pairs, films and layers.",
        answer="oct",
        check=_check_oct,
        hints=(
            "A cosine is a product of two tokens of length 1.",
            "All cosines of a film are one matrix product. Square them, and leave out each token with itself.",
            "unit @ unit.transpose(-2, -1); a boolean mask ~torch.eye(C, dtype=torch.bool); a mean.",
        ),
        stub="def oct(layers_QBCD):\n    raise NotImplementedError  # your lines here\n",
        solution=_OCT,
        alternatives=(
            "def oct(layers_QBCD):\n"
            "    unit = F.normalize(layers_QBCD, dim=-1)\n"
            "    C = unit.shape[-2]\n"
            "    gram = torch.einsum('qbcd,qbed->qbce', unit, unit)\n"
            "    return (gram - torch.eye(C)).square().sum(dim=(-1, -2)).mean() / (C * (C - 1))\n",
            "def oct(layers_QBCD):\n"
            "    total, count = 0.0, 0\n"
            "    for layer in layers_QBCD:\n"
            "        for tokens in layer:\n"
            "            for i in range(len(tokens)):\n"
            "                for j in range(i):\n"
            "                    total, count = total + F.cosine_similarity(tokens[i], tokens[j], dim=0) ** 2, count + 1\n"
            "    return total / count\n",
        ),
        mutants={
            "not squared": _OCT.replace(" ** 2", ""),
            "absolute values": _OCT.replace("(unit @ unit.transpose(-2, -1)) ** 2", "(unit @ unit.transpose(-2, -1)).abs()"),
            "with itself was counted": _OCT.replace("square[..., off]", "square"),
            "its cells were counted": _OCT.replace("square[..., off].mean()", "(square * off).mean()"),
            "products were taken": _OCT.replace(" / layers_QBCD.norm(dim=-1, keepdim=True)", ""),
            "layers were added up": _OCT.replace("square[..., off].mean()", "square[..., off].mean(dim=(1, 2)).sum()"),
            "only the last layer": _OCT.replace("square[..., off]", "square[-1][..., off]"),
        },
        setup=_SETUP,
        level="core",
        minutes=10,
    ),
    Exercise(
        id="ch11.pool",
        title="Equations 8 and 9",
        prompt="Write `pooled(tokens_BCD, v_CD, s_C, b_C)`: the logits [B, C] of attention pooling.",
        answer="pooled",
        check=_check_pool,
        hints=(
            "Each finding has weights over the D numbers of its own token, and they sum to 1.",
            "A softmax over the last axis of v, times the tokens, added up over D.",
            "Then the scale, then the bias; both have one number per finding and broadcast over films.",
        ),
        stub="def pooled(tokens_BCD, v_CD, s_C, b_C):\n    raise NotImplementedError  # your lines here\n",
        solution=_POOL,
        alternatives=(
            "def pooled(tokens_BCD, v_CD, s_C, b_C):\n"
            "    weights = v_CD.exp() / v_CD.exp().sum(1, keepdim=True)\n"
            "    return torch.einsum('bcd,cd,c->bc', tokens_BCD, weights, s_C) + b_C\n",
        ),
        mutants={
            "one softmax ran over all": _POOL.replace("v_CD.softmax(dim=-1)", "v_CD.flatten().softmax(dim=0).view_as(v_CD)"),
            "over the findings": _POOL.replace("softmax(dim=-1)", "softmax(dim=0)"),
            "without a softmax": _POOL.replace("v_CD.softmax(dim=-1)", "v_CD"),
            "scale is missing": _POOL.replace("s_C * ", ""),
            "bias is missing": _POOL.replace(" + b_C", ""),
            "averaged, not added": _POOL.replace(".sum(dim=-1)", ".mean(dim=-1)"),
            "softmax was taken of the tokens": _POOL.replace("v_CD.softmax", "tokens_BCD.softmax"),
        },
        setup=_SETUP,
        level="core",
        minutes=8,
    ),
    Exercise(
        id="ch11.push",
        title="The push, by hand",
        prompt=(
            "Write `oct_push(tokens_CD)` without autograd: minus the gradient of equation 7 for the tokens of one film and one "
            "layer."
        ),
        answer="oct_push",
        check=_check_push,
        hints=(
            "The derivative of a square is twice the cosine times the cosine's own gradient.",
            "Token c stands in the pairs (c, c') and (c', c): another factor of 2. Divide by C (C - 1).",
            "With the diagonal of the cosines set to 0: cosine @ unit, less the sum of squared cosines times unit, over the length.",
        ),
        stub="def oct_push(tokens_CD):\n    raise NotImplementedError  # your lines here\n",
        solution=_PUSH,
        alternatives=(
            "def oct_push(tokens_CD):\n"
            "    C, push = len(tokens_CD), torch.zeros_like(tokens_CD)\n"
            "    for c in range(C):\n"
            "        here = tokens_CD[c] / tokens_CD[c].norm()\n"
            "        for other in range(C):\n"
            "            if other != c:\n"
            "                there = tokens_CD[other] / tokens_CD[other].norm()\n"
            "                cosine = here @ there\n"
            "                push[c] -= 4 * cosine * (there - cosine * here) / tokens_CD[c].norm() / (C * (C - 1))\n"
            "    return push\n",
        ),
        mutants={
            "sign is wrong": _PUSH.replace("-4 /", "4 /"),
            "counted once": _PUSH.replace("-4 /", "-2 /"),
            "2 of the square": _PUSH.replace("-4 /", "-1 /"),
            "length of the token is missing": _PUSH.replace("gradient / length", "gradient"),
            "along the token itself": _PUSH.replace(" - (cosine**2).sum(dim=1, keepdim=True) * unit", ""),
            "mean over pairs is missing": _PUSH.replace("-4 / (C * (C - 1))", "-4"),
        },
        setup=_SETUP,
        level="stretch",
        minutes=15,
    ),
)

QUESTIONS = (
    Question(
        id="ch11.alike",
        prompt="Two class tokens are exactly alike. How strong is the push of equation 7 that parts them?",
        unit="per radian",
        why="The loss is at its top there, and a top is flat. Something else must break the tie: noise, or labels.",
        close=0.0,
    ),
    Question(
        id="ch11.rest",
        prompt="Three free tokens under CCT, all present. At which angle to each other do they come to rest, in degrees?",
        unit="degrees",
        why="Three directions cannot all be opposite. As far apart as they can be is a star.",
        close=0.05,
    ),
    Question(
        id="ch11.open",
        prompt="Fourteen copies on phantoms, 60 steps with OCT at a tenth. Their mean cosine then:",
        choices={"a": "still above .9", "b": "between .2 and .9", "c": "below .2"},
        why="Off the top of the hill the push is strong, and nothing in the labels holds the tokens together.",
    ),
    Question(
        id="ch11.norm",
        prompt="Plain means over D of 500 different tokens behind a LayerNorm: how far apart, in standard deviations of their numbers?",
        unit="standard deviations",
        why="A LayerNorm takes each token's mean off.",
        close=0.05,
    ),
    Question(
        id="ch11.company",
        prompt="Two marks that keep company in training, scored where they do not. Which order of mean AUROC, over three seeds?",
        choices={
            "a": "labels alone ahead of OCT and CCT",
            "b": "OCT and CCT ahead of labels alone",
            "c": "no difference: marks are marks",
        },
        why="Labels that hardly ever disagree leave two tokens free to be one. A loss that parts them makes room for a second answer.",
    ),
)
