"""Chapter 10's exercises and questions."""

import numpy as np

from cxrlib.course.compare import compare
from cxrlib.course.exercise import Exercise, Question, Verdict, wrong


def _check_parameters(class_token_parameters) -> Verdict:
    cases = ((14, 384), (5, 24), (1, 64))

    def row(formula):
        return np.array([formula(C, D) for C, D in cases])

    return compare(
        [class_token_parameters(C, D) for C, D in cases],
        row(lambda C, D: 2 * (C - 1) * D),
        what="more parameters than a ViT with one [CLS]: 14 findings at width 384, 5 at width 24, 1 at width 64",
        causes={
            "the [CLS] token is gone: one of the tokens takes its place": row(lambda C, D: 2 * C * D),
            "positions were forgotten: each class token has one": row(lambda C, D: (C - 1) * D),
            "[CLS] was not taken off, and positions were forgotten": row(lambda C, D: C * D),
            "[CLS] was taken off the tokens but not off the positions": row(lambda C, D: (2 * C - 1) * D),
            "heads were counted: only tokens and positions are asked for": row(lambda C, D: 3 * (C - 1) * D),
        },
        rtol=0,
        atol=0.5,
        note="With one finding it is 0: then it is a ViT.",
    )


def _squares(seed: int = 10) -> np.ndarray:
    """Attention of 4 layers, 3 heads, 2 class tokens and 6 patches."""
    scores_LHNN = np.random.default_rng(seed).normal(size=(4, 3, 8, 8)) * 1.5
    weights_LHNN = np.exp(scores_LHNN)
    return weights_LHNN / weights_LHNN.sum(-1, keepdims=True)


def _check_maps(class_maps) -> Verdict:
    import torch

    square_LHNN, C, last, grid = _squares(), 2, 3, (3, 2)

    def shaped(map_CP):
        return map_CP.reshape(C, *grid)

    def block(layers):
        return square_LHNN[layers, :, :C, C:]

    right_CP = block(slice(-last, None)).mean((0, 1))
    return compare(
        class_maps(torch.tensor(square_LHNN), C, last, grid),
        shaped(right_CP),
        what="maps of 2 findings on a grid of 3 by 2, from the last 3 of 4 layers with 3 heads",
        causes={
            "the first layers were read: the last ones are wanted": shaped(block(slice(0, last)).mean((0, 1))),
            "one layer alone was read: the mean is over several": shaped(block(slice(-last, -last + 1)).mean((0, 1))),
            "only the last layer was read": shaped(block(slice(-1, None)).mean((0, 1))),
            "all layers were read": shaped(block(slice(None)).mean((0, 1))),
            "rows and columns are exchanged: a row is the token that looks": shaped(
                square_LHNN[-last:, :, C:, :C].mean((0, 1)).T
            ),
            "the slice begins one column late or early: C class tokens stand in front, not one": shaped(
                square_LHNN[-last:, :, :C, 1:-1].mean((0, 1))
            ),
            "rows were rescaled to sum to 1: equation 1 leaves them as they are": shaped(
                right_CP / right_CP.sum(-1, keepdims=True)
            ),
            "heads and layers were added up, not averaged": shaped(block(slice(-last, None)).sum((0, 1))),
            "layers were added up: divide by their number": shaped(block(slice(-last, None)).mean(1).sum(0)),
            "the grid was filled column by column: patches stand in row order": right_CP.reshape(C, *grid[::-1]).transpose(0, 2, 1),
        },
        note="The sum of a map is what its finding left for the image.",
    )


def _softmax(scores):
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def _check_strip(strip) -> Verdict:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    generator = np.random.default_rng(11)
    H, N, d, C = 3, 9, 4, 2
    q, k = generator.normal(size=(2, H, N, d)) * 1.5
    with FlopCounterMode(display=False) as counter:
        got = strip(torch.tensor(q), torch.tensor(k), C)
    scores = q[:, :C] @ k.transpose(0, 2, 1)
    right = _softmax(scores / d**0.5)[..., C:].mean(0)
    verdict = compare(
        got,
        right,
        what="class-to-patch weights of 2 class tokens over 7 patches, mean of 3 heads",
        causes={
            "the scores were not divided by the root of d": _softmax(scores)[..., C:].mean(0),
            "the scores were divided by d: it should be its root": _softmax(scores / d)[..., C:].mean(0),
            "the softmax ran over the patches alone: class tokens compete for the same weight": _softmax(
                scores[..., C:] / d**0.5
            ).mean(0),
            "the scores were averaged over heads before the softmax": _softmax(scores.mean(0) / d**0.5)[:, C:],
            "heads were added up, not averaged": _softmax(scores / d**0.5)[..., C:].sum(0),
            "queries and keys are exchanged: the class token asks": _softmax(k[:, :C] @ q.transpose(0, 2, 1) / d**0.5)[
                ..., C:
            ].mean(0),
            "the columns of class tokens were kept": _softmax(scores / d**0.5).mean(0),
        },
        note="Class rows cost C/N of the square.",
    )
    if verdict.passed and counter.get_total_flops() > 2 * H * C * N * d:
        return wrong(
            expected=f"{H * C * N * d} multiplications: the class tokens' rows and no other",
            got=f"{counter.get_total_flops() // 2}",
            cause="the whole square was computed first: take the class tokens' queries before you multiply",
        )
    return verdict


def _lift(map_Myx, inside_Myx):
    share_M = (map_Myx * inside_Myx).sum((1, 2)) / map_Myx.sum((1, 2))
    return share_M.sum() / inside_Myx.mean((1, 2)).sum()


def _other(map_Myx, finding_M, shift=-1):
    other_Myx = map_Myx.copy()
    for c in np.unique(finding_M):
        mine = np.flatnonzero(finding_M == c)
        other_Myx[mine] = map_Myx[np.roll(mine, shift)]
    return other_Myx


def _check_habit(habit_and_found) -> Verdict:
    generator = np.random.default_rng(12)
    finding_M = np.array([2, 0, 2, 0, 2, 0, 0])
    map_Myx = generator.random((7, 3, 2)) ** 3
    inside_Myx = (generator.random((7, 3, 2)) < 0.4) * generator.random((7, 3, 2))
    inside_Myx[:, 1, 0] += 0.3  # no lesion is empty
    own, habit = _lift(map_Myx, inside_Myx), _lift(_other(map_Myx, finding_M), inside_Myx)

    def pair(remains):
        return [remains, own - remains]

    def mean_lift(m):
        return ((m * inside_Myx).sum((1, 2)) / m.sum((1, 2)) / inside_Myx.mean((1, 2))).mean()

    other_Myx = _other(map_Myx, finding_M)
    unscaled = (other_Myx * inside_Myx).sum() / inside_Myx.mean((1, 2)).sum()
    own_unscaled = (map_Myx * inside_Myx).sum() / inside_Myx.mean((1, 2)).sum()
    return compare(
        habit_and_found(map_Myx, inside_Myx, finding_M),
        pair(habit),
        what="habit and found of 7 pairs, 4 with one finding and 3 with another",
        causes={
            "the map of the pair before was taken: the next one is wanted": pair(_lift(_other(map_Myx, finding_M, 1), inside_Myx)),
            "the next pair's map was taken whatever its finding": pair(_lift(np.roll(map_Myx, -1, 0), inside_Myx)),
            "lesions were swapped along with the maps, so nothing was swapped": pair(own),
            "the lift itself was returned: found is what is lost": [habit, own],
            "the two are exchanged: habit first": [own - habit, habit],
            "lifts of single pairs were averaged: divide the sums, or small lesions rule": [
                mean_lift(other_Myx),
                mean_lift(map_Myx) - mean_lift(other_Myx),
            ],
            "maps were not divided by their sums: they sum to less than 1": [unscaled, own_unscaled - unscaled],
        },
        note="A map that is the same for every film has found nothing, however high its lift.",
    )


_PARAMETERS = "def class_token_parameters(findings, width):\n    return 2 * (findings - 1) * width\n"

_MAPS = (
    "def class_maps(square_LHNN, findings, last, grid):\n"
    "    map_CP = square_LHNN[-last:, :, :findings, findings:].mean(dim=(0, 1))\n"
    "    return map_CP.reshape(findings, *grid)\n"
)

_STRIP = (
    "def strip(q_HNd, k_HNd, findings):\n"
    "    scores_HCN = q_HNd[:, :findings] @ k_HNd.transpose(-2, -1) / q_HNd.shape[-1] ** 0.5\n"
    "    return scores_HCN.softmax(dim=-1)[..., findings:].mean(dim=0)\n"
)

_HABIT = (
    "def habit_and_found(map_Myx, inside_Myx, finding_M):\n"
    "    def lift(map_Myx):\n"
    "        share_M = (map_Myx * inside_Myx).sum(axis=(1, 2)) / map_Myx.sum(axis=(1, 2))\n"
    "        return share_M.sum() / inside_Myx.mean(axis=(1, 2)).sum()\n"
    "\n"
    "    other_Myx = map_Myx.copy()\n"
    "    for c in np.unique(finding_M):\n"
    "        mine = np.flatnonzero(finding_M == c)\n"
    "        other_Myx[mine] = map_Myx[np.roll(mine, -1)]\n"
    "    return lift(other_Myx), lift(map_Myx) - lift(other_Myx)\n"
)

_SETUP = "import numpy as np\nimport torch\nimport torch.nn.functional as F\n"

EXERCISES = (
    Exercise(
        id="ch10.parameters",
        title="What the tokens cost",
        prompt=(
            "Write `class_token_parameters(findings, width)`: how many numbers class tokens and their positions add to a ViT "
            "that has one [CLS]. The head is not counted."
        ),
        answer="class_token_parameters",
        check=_check_parameters,
        hints=(
            "How many tokens more than the ViT has are there? [CLS] is gone.",
            "Each of them is a vector of its own, and has a position of its own.",
            "Two vectors of D numbers for each finding but one.",
        ),
        stub="def class_token_parameters(findings, width):\n    raise NotImplementedError  # your line here\n",
        solution=_PARAMETERS,
        alternatives=(
            "def class_token_parameters(findings, width):\n"
            "    from cxrlib.models import Clarity, VisionTransformer\n"
            "    sizes = dict(image_size=16, patch_size=8, in_channels=1, width=width, depth=1, heads=1)\n"
            "    model = Clarity(num_classes=findings, segment_cam=False, **sizes)\n"
            "    plain = VisionTransformer(num_classes=0, **sizes)\n"
            "    return sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in model.head.parameters()) - sum(\n"
            "        p.numel() for p in plain.parameters()\n"
            "    )\n",
        ),
        mutants={
            "takes its place": _PARAMETERS.replace("(findings - 1)", "findings"),
            "positions were forgotten": _PARAMETERS.replace("2 * ", ""),
            "not off the positions": _PARAMETERS.replace("2 * (findings - 1)", "(2 * findings - 1)"),
            "heads were counted": _PARAMETERS.replace("2 * ", "3 * "),
        },
        setup=_SETUP,
        level="warm-up",
        minutes=4,
    ),
    Exercise(
        id="ch10.maps",
        title="Equation 1",
        prompt=(
            "Write `class_maps(square_LHNN, findings, last, grid)`: the maps [C, y, x] from the squares of all layers. Class "
            "tokens stand first; `grid` is (rows, columns)."
        ),
        answer="class_maps",
        check=_check_maps,
        hints=(
            "Four things are cut or averaged: layers, heads, rows, columns.",
            "Keep the last layers, the rows of the class tokens, and the columns of the patches.",
            "square[-last:, :, :findings, findings:], a mean over the first two axes, then the grid.",
        ),
        stub="def class_maps(square_LHNN, findings, last, grid):\n    raise NotImplementedError  # your lines here\n",
        solution=_MAPS,
        alternatives=(
            "def class_maps(square_LHNN, findings, last, grid):\n"
            "    total = 0\n"
            "    for square_HNN in list(square_LHNN)[-last:]:\n"
            "        total = total + square_HNN.mean(dim=0)[:findings, findings:] / last\n"
            "    return total.unflatten(-1, grid)\n",
        ),
        mutants={
            "first layers": _MAPS.replace("[-last:", "[:last"),
            "one layer alone": _MAPS.replace("[-last:,", "[-last,").replace("dim=(0, 1)", "dim=0"),
            "all layers": _MAPS.replace("[-last:,", "[:,"),
            "rows and columns are exchanged": _MAPS.replace(":findings, findings:]", "findings:, :findings]").replace(
                ".reshape", ".T.reshape"
            ),
            "one column late or early": _MAPS.replace("findings:]", "1:-1]"),
            "rescaled": _MAPS.replace("return map_CP", "map_CP = map_CP / map_CP.sum(dim=1, keepdim=True)\n    return map_CP"),
            "added up, not averaged": _MAPS.replace(".mean(", ".sum("),
            "column by column": _MAPS.replace("map_CP.reshape(findings, *grid)", "map_CP.reshape(findings, grid[1], grid[0]).transpose(1, 2)"),
        },
        setup=_SETUP,
        level="core",
        minutes=8,
    ),
    Exercise(
        id="ch10.strip",
        title="The strip alone",
        prompt=(
            "Write `strip(q_HNd, k_HNd, findings)`: one layer's class-to-patch weights [C, P], averaged over heads, without "
            "computing any other row."
        ),
        answer="strip",
        check=_check_strip,
        hints=(
            "A row of attention needs one query and all keys.",
            "Take the class tokens' queries first. The softmax runs over all columns; the patches' are cut out after it.",
            "q[:, :findings] @ k.transpose(-2, -1), divided by the root of d; softmax; [..., findings:]; mean over heads.",
        ),
        stub="def strip(q_HNd, k_HNd, findings):\n    raise NotImplementedError  # your lines here\n",
        solution=_STRIP,
        alternatives=(
            "def strip(q_HNd, k_HNd, findings):\n"
            "    from cxrlib.models.vit import attention_rows\n"
            "    return attention_rows(q_HNd[None], k_HNd[None], findings)[0, :, :, findings:].mean(dim=0)\n",
            "def strip(q_HNd, k_HNd, findings):\n"
            "    scores = torch.einsum('hcd,hnd->hcn', q_HNd[:, :findings] * q_HNd.shape[-1] ** -0.5, k_HNd)\n"
            "    return torch.softmax(scores, 2).mean(0)[:, findings:]\n",
        ),
        mutants={
            "not divided": _STRIP.replace(" / q_HNd.shape[-1] ** 0.5", ""),
            "divided by d": _STRIP.replace(" ** 0.5", ""),
            "patches alone": _STRIP.replace("scores_HCN.softmax(dim=-1)[..., findings:]", "scores_HCN[..., findings:].softmax(dim=-1)"),
            "before the softmax": _STRIP.replace(".softmax(dim=-1)[..., findings:].mean(dim=0)", ".mean(dim=0).softmax(dim=-1)[..., findings:]"),
            "queries and keys are exchanged": _STRIP.replace("q_HNd[:, :findings] @ k_HNd", "k_HNd[:, :findings] @ q_HNd"),
            "columns of class tokens": _STRIP.replace("[..., findings:]", ""),
            "whole square": (
                "def strip(q_HNd, k_HNd, findings):\n"
                "    square = (q_HNd @ k_HNd.transpose(-2, -1) / q_HNd.shape[-1] ** 0.5).softmax(dim=-1)\n"
                "    return square[:, :findings, findings:].mean(dim=0)\n"
            ),
        },
        setup=_SETUP,
        level="core",
        minutes=10,
    ),
    Exercise(
        id="ch10.habit",
        title="Habit",
        prompt=(
            "Write `habit_and_found(map_Myx, inside_Myx, finding_M)`: give each pair the map of the next pair with the same "
            "finding (the last one that of the first); return the lift that remains, and what is lost."
        ),
        answer="habit_and_found",
        check=_check_habit,
        hints=(
            "Write the lift first: the sum of the shares inside over the sum of the areas.",
            "For each finding, the positions of its pairs; their maps, moved round by one.",
            "np.roll(mine, -1) puts the next one in each place. The lesions stay where they are.",
        ),
        stub="def habit_and_found(map_Myx, inside_Myx, finding_M):\n    raise NotImplementedError  # your lines here\n",
        solution=_HABIT,
        alternatives=(
            "def habit_and_found(map_Myx, inside_Myx, finding_M):\n"
            "    finding, next_of = list(finding_M), []\n"
            "    for m, c in enumerate(finding):\n"
            "        later = [n for n in range(m + 1, len(finding)) if finding[n] == c]\n"
            "        next_of.append(later[0] if later else finding.index(c))\n"
            "    areas = sum(inside.mean() for inside in inside_Myx)\n"
            "    own = sum((a * b).sum() / a.sum() for a, b in zip(map_Myx, inside_Myx)) / areas\n"
            "    habit = sum((map_Myx[n] * b).sum() / map_Myx[n].sum() for n, b in zip(next_of, inside_Myx)) / areas\n"
            "    return habit, own - habit\n",
        ),
        mutants={
            "pair before": _HABIT.replace("np.roll(mine, -1)", "np.roll(mine, 1)"),
            "whatever its finding": _HABIT.replace("    for c in np.unique(finding_M):\n", "    for c in [0]:\n").replace(
                "np.flatnonzero(finding_M == c)", "np.arange(len(finding_M))"
            ),
            "nothing was swapped": _HABIT.replace("np.roll(mine, -1)", "mine"),
            "found is what is lost": _HABIT.replace("lift(map_Myx) - lift(other_Myx)", "lift(map_Myx)"),
            "not divided by their sums": _HABIT.replace(" / map_Myx.sum(axis=(1, 2))", ""),
        },
        setup=_SETUP,
        level="stretch",
        minutes=12,
    ),
)

QUESTIONS = (
    Question(
        id="ch10.rest",
        prompt="A class token's map sums to less than 1. Where is the rest?",
        choices={"a": "rounding", "b": "on the class tokens", "c": "in the layers that were not read"},
        why="The softmax runs over all columns. What a class token gives to class tokens, itself too, no patch receives.",
    ),
    Question(
        id="ch10.share",
        prompt="ViT-S/16 at 512 pixels with 14 class tokens: what share of all stored attention weights does equation 1 use, in per cent?",
        unit="per cent",
        why="14 rows of 1,038, and eight layers of twelve.",
        close=0.3,
    ),
    Question(
        id="ch10.copies",
        prompt="Five class tokens are copied from one, without noise. How many different maps come out before training?",
        unit="maps",
        why="Equal tokens at equal positions ask equal questions in every layer.",
        close=0.0,
    ),
    Question(
        id="ch10.alone",
        prompt="Mean AUROC over four findings when each is asked alone, the other class tokens removed, against all fourteen together:",
        choices={"a": "the same within a hundredth", "b": "lower", "c": "higher"},
        why="Patches and other class tokens read every class token, so the road is open. This model makes little use of it.",
    ),
    Question(
        id="ch10.depth",
        prompt="A model of two layers. Whose hottest patch hits the mark more often?",
        choices={"a": "the last layer's alone", "b": "the mean of both layers", "c": "no difference"},
        why="After the first layer the news of a mark is no longer only in its own patch.",
    ),
    Question(
        id="ch10.swap",
        prompt="What part of the excess over 1 of CLARiTy's maps is habit: what another patient's map scores as well?",
        choices={"a": "nearly nothing", "b": "part", "c": "nearly all"},
        why="A finding has its usual places. Only what the film's own map adds was found on that film.",
    ),
)
