"""Chapter 14's exercises and questions."""

import math

import numpy as np

from cxrlib.course.compare import as_array, compare
from cxrlib.course.exercise import Exercise, Question, Verdict, wrong

_H = np.array([[0.9, 0.2, 0.4, 0.1], [0.5, 0.8, 0.0, 0.3], [0.7, 0.1, 0.6, 0.2]])
_M = np.array([[0.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]])


def _check_outside(area_and_outside) -> Verdict:
    import torch

    area, outside = _H.mean(), (_H * (1 - _M)).mean()
    return compare(
        area_and_outside(torch.tensor(_H), torch.tensor(_M)),
        [area, outside],
        what="area, then confinement, of a heatmap of 3 by 4 patches",
        causes={
            "the two are exchanged: area comes first": [outside, area],
            "confinement counts what is bright outside: multiply by 1 - M": [area, (_H * _M).mean()],
            "the sums were not divided by the number of patches": [_H.sum(), (_H * (1 - _M)).sum()],
            "confinement was divided by the patches outside: here by all of them": [area, (_H * (1 - _M)).sum() / (1 - _M).sum()],
            "confinement was divided by the map's own brightness: a dimmer map must cost less": [
                area,
                (_H * (1 - _M)).sum() / _H.sum(),
            ],
            "the heatmap was cut first: these losses read H itself": [(_H >= 0.5).mean(), ((_H >= 0.5) * (1 - _M)).mean()],
        },
        note="Area asks how much, confinement how much of it in the wrong place.",
    )


def _distances(kind: str = "euclid") -> np.ndarray:
    inside = np.argwhere(_M > 0)
    out = np.zeros_like(_M)
    for y, x in np.ndindex(*_M.shape):
        away = np.abs(inside - [y, x])
        out[y, x] = (away.sum(1) if kind == "city" else np.hypot(*away.T)).min()
    return out


def _check_proximity(proximity) -> Verdict:
    import torch

    diagonal = math.hypot(*_M.shape)
    delta = _distances() / diagonal

    def mean(weights, distances):
        return (weights * distances).sum() / weights.sum()

    other = np.zeros_like(_M)
    outside = np.argwhere(_M == 0)
    for y, x in np.ndindex(*_M.shape):
        other[y, x] = np.hypot(*(outside - [y, x]).T).min() / diagonal
    middle = np.argwhere(_M > 0).mean(0)
    centre = np.array([[math.hypot(y - middle[0], x - middle[1]) for x in range(4)] for y in range(3)]) / diagonal
    return compare(
        proximity(torch.tensor(_H), torch.tensor(_M)),
        mean(_H, delta),
        what="the proximity loss of a heatmap of 3 by 4 patches with a region of three",
        causes={
            "the distances are in patches: divide them by the map's diagonal": mean(_H, delta) * diagonal,
            "the mean ran over patches: weigh by brightness, and divide by the sum of H": (_H * delta).mean(),
            "the sum was not divided by the sum of H": (_H * delta).sum(),
            "rows and columns were added: take the straight line": mean(_H, _distances("city") / diagonal),
            "this is the distance to the outside: it should be 0 within the region": mean(_H, other),
            "this is the distance to the region's middle: the nearest patch of the region counts": mean(_H, centre),
            "each patch outside cost the same: that is a confinement, not a distance": mean(_H, 1 - _M),
        },
        otherwise="for each patch find the nearest patch of the region; then average these distances, weighted by H",
        note="Halve the heatmap and ask again: nothing changes.",
    )


def _soft(x):
    return np.log1p(np.exp(x))


def _check_background(background_loss) -> Verdict:
    import torch

    back = torch.tensor([-1.0, 0.5, 2.0, -3.0], dtype=torch.float64, requires_grad=True)
    full = torch.tensor([1.0, 2.5, 1.5, -3.0], dtype=torch.float64, requires_grad=True)
    b, f = back.detach().numpy(), full.detach().numpy()
    ratio, keep = _soft(b) / _soft(f), b <= f
    got = background_loss(back, full)
    verdict = compare(
        got,
        (ratio * keep).sum() / 4,
        what="the loss of four present pairs, one of which the gate leaves out and one of which is on its edge",
        causes={
            "the gate is missing: where the background says more than the whole, the pair adds nothing": ratio.mean(),
            "the ratio was capped at 1, not set to 0: such a pair would still count": np.minimum(ratio, 1).mean(),
            "equality was stopped: an empty mask has both logits equal, and must still be taught": (ratio * (b < f)).sum() / 4,
            "the mean ran over the pairs that passed the gate: divide by all present pairs": (ratio * keep).sum() / keep.sum(),
            "the ratio is upside down: background over whole": (_soft(f) / _soft(b) * keep).sum() / 4,
            "the logits were divided as they are: a ratio needs positive numbers, so softplus first": (b / f * keep).sum() / 4,
            "sigmoid in place of softplus: it stops growing, and a loud foreground earns nothing more": (
                (1 / (1 + np.exp(-b))) / (1 / (1 + np.exp(-f))) * keep
            ).sum()
            / 4,
            "relu in place of softplus: a negative background would be taken for a silent one": (
                np.maximum(b, 0) / np.where(f > 0, f, 1e-8) * keep
            ).sum()
            / 4,
            "the pairs were added up: take their mean": (ratio * keep).sum(),
        },
        rtol=1e-6,
    )
    if not verdict.passed:
        return verdict
    if not getattr(got, "requires_grad", False):
        return wrong(expected="a loss with a gradient in the background logits", got="none", cause="the background logits were detached")
    got.backward()
    if back.grad is None or as_array(back.grad).max() <= 0:
        return wrong(expected="a gradient in the background logits", got="none", cause="the background logits were detached")
    if full.grad is not None and as_array(full.grad).any():
        return wrong(
            expected="no gradient in the full logits",
            got="the right value, and a gradient there",
            cause="detach the denominator: the ratio would also fall by raising the whole image's logit without end",
        )
    return compare(got, (ratio * keep).sum() / 4, what="the loss", note="Two of the three tricks are in it. The third, frozen layers, was chapter 13's.")


def _check_rent(rent) -> Verdict:
    cases = ((-1.2, -0.8, 1.0, 1.0), (0.5, 3.0, 2.0, 1.0), (-4.0, -3.0, 0.5, 2.0))

    def row(formula):
        return np.array([formula(*case) for case in cases])

    def sig(x):
        return 1 / (1 + math.exp(-x))

    return compare(
        [rent(*case) for case in cases],
        row(lambda lb, lt, a, w: a / w * _soft(lt) / sig(lb)),
        what="the least evidence that keeps a patch open, for three pairs of logits and of weights",
        causes={
            "the weights are exchanged: a dearer area raises the rent": row(lambda lb, lt, a, w: w / a * _soft(lt) / sig(lb)),
            "the weights are missing": row(lambda lb, lt, a, w: _soft(lt) / sig(lb)),
            "the fraction is upside down": row(lambda lb, lt, a, w: a / w * sig(lb) / _soft(lt)),
            "the derivative of softplus is the sigmoid: the background's part is sigmoid(l_b)": row(
                lambda lb, lt, a, w: a / w * _soft(lt) / _soft(lb)
            ),
            "the two logits are exchanged: the denominator belongs to the whole image": row(
                lambda lb, lt, a, w: a / w * _soft(lb) / sig(lt)
            ),
            "the denominator is softplus of the full logit, not the logit": row(lambda lb, lt, a, w: a / w * lt / sig(lb)),
        },
        note="The number of patches is not in it: 224 and 512 pixels ask the same rent.",
    )


_OUTSIDE = "def area_and_outside(H_yx, M_yx):\n    return float(H_yx.mean()), float((H_yx * (1 - M_yx)).mean())\n"

_PROXIMITY = (
    "def proximity(H_yx, M_yx):\n"
    "    rows, columns = H_yx.shape\n"
    "    place_P2 = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).double()\n"
    "    away_PP = torch.cdist(place_P2, place_P2[M_yx.flatten() > 0])\n"
    "    delta_P = away_PP.min(dim=1).values / (rows**2 + columns**2) ** 0.5\n"
    "    H_P = H_yx.flatten()\n"
    "    return (H_P * delta_P).sum() / H_P.sum()\n"
)

_BACKGROUND = (
    "def background_loss(background_G, full_G):\n"
    "    full_G = full_G.detach()\n"
    "    ratio_G = F.softplus(background_G) / F.softplus(full_G)\n"
    "    return torch.where(background_G <= full_G, ratio_G, 0.0).mean()\n"
)

_RENT = (
    "def rent(background_logit, full_logit, area_weight, background_weight):\n"
    "    slope = 1 / (1 + math.exp(-background_logit))\n"
    "    return area_weight / background_weight * math.log1p(math.exp(full_logit)) / slope\n"
)

_SETUP = "import math\nimport numpy as np\nimport torch\nimport torch.nn.functional as F\n"

EXERCISES = (
    Exercise(
        id="ch14.outside",
        title="How much, and where",
        prompt="Write `area_and_outside(H_yx, M_yx)`: the area loss (eq. 16) and the confinement loss (eq. 15) of one present finding.",
        answer="area_and_outside",
        check=_check_outside,
        hints=(
            "Both are plain means over all patches.",
            "The area is the mean of H. For the other, only what lies outside M may count.",
            "1 - M is 1 outside. Multiply, then take the mean over all patches.",
        ),
        stub="def area_and_outside(H_yx, M_yx):\n    raise NotImplementedError  # return area, confinement\n",
        solution=_OUTSIDE,
        alternatives=(
            "def area_and_outside(H_yx, M_yx):\n"
            "    H, M = np.asarray(H_yx), np.asarray(M_yx)\n"
            "    return H.sum() / H.size, H[M == 0].sum() / H.size\n",
        ),
        mutants={
            "exchanged": "def area_and_outside(H_yx, M_yx):\n    return float((H_yx * (1 - M_yx)).mean()), float(H_yx.mean())\n",
            "multiply by 1 - M": _OUTSIDE.replace("(1 - M_yx)", "M_yx"),
            "not divided": _OUTSIDE.replace(".mean()", ".sum()"),
            "patches outside": _OUTSIDE.replace("(H_yx * (1 - M_yx)).mean()", "H_yx[M_yx == 0].mean()"),
            "own brightness": _OUTSIDE.replace("(H_yx * (1 - M_yx)).mean()", "(H_yx * (1 - M_yx)).sum() / H_yx.sum()"),
            "cut first": "def area_and_outside(H_yx, M_yx):\n    H_yx = (H_yx >= 0.5).double()\n    return float(H_yx.mean()), float((H_yx * (1 - M_yx)).mean())\n",
        },
        setup=_SETUP,
        level="warm-up",
        minutes=4,
    ),
    Exercise(
        id="ch14.proximity",
        title="How far from home",
        prompt="Write `proximity(H_yx, M_yx)`: eq. 14 for one map. Distances are straight lines between patches, as a share of the map's diagonal.",
        answer="proximity",
        check=_check_proximity,
        hints=(
            "For each patch: the distance to the nearest patch of the region, 0 within it.",
            "torch.cdist gives all distances between two lists of places. Divide by sqrt(rows^2 + columns^2).",
            "Then the mean of these distances with H as weights: sum(H delta) / sum(H).",
        ),
        stub="def proximity(H_yx, M_yx):\n    raise NotImplementedError  # your lines here\n",
        solution=_PROXIMITY,
        alternatives=(
            "def proximity(H_yx, M_yx):\n"
            "    from scipy.ndimage import distance_transform_edt\n"
            "\n"
            "    H, M = np.asarray(H_yx), np.asarray(M_yx)\n"
            "    return np.average(distance_transform_edt(M == 0) / np.hypot(*M.shape), weights=H)\n",
        ),
        mutants={
            "distances are in patches": _PROXIMITY.replace(" / (rows**2 + columns**2) ** 0.5", ""),
            "weigh by brightness": _PROXIMITY.replace("(H_P * delta_P).sum() / H_P.sum()", "(H_P * delta_P).mean()"),
            "not divided by the sum of H": _PROXIMITY.replace(" / H_P.sum()", ""),
            "straight line": _PROXIMITY.replace("> 0])", "> 0], p=1)"),
            "distance to the outside": _PROXIMITY.replace("> 0])", "== 0])"),
            "region's middle": _PROXIMITY.replace("place_P2[M_yx.flatten() > 0]", "place_P2[M_yx.flatten() > 0].mean(dim=0, keepdim=True)"),
            "cost the same": "def proximity(H_yx, M_yx):\n    return (H_yx * (1 - M_yx)).sum() / H_yx.sum()\n",
        },
        setup=_SETUP,
        level="core",
        minutes=12,
    ),
    Exercise(
        id="ch14.background",
        title="The ratio, with its gate",
        prompt=(
            "Write `background_loss(background_G, full_G)`: eq. 17 over G present pairs, gate and stopped gradient included. A pair whose "
            "background says as much as the whole still counts."
        ),
        answer="background_loss",
        check=_check_background,
        hints=(
            "Softplus of both, then the ratio. Which of the two may be taught?",
            "detach() the full logits. Where the background says more than the whole, the ratio is replaced by 0.",
            "torch.where(background_G <= full_G, ratio_G, 0.0), then the mean over all G pairs.",
        ),
        stub="def background_loss(background_G, full_G):\n    raise NotImplementedError  # your lines here\n",
        solution=_BACKGROUND,
        alternatives=(
            "def background_loss(background_G, full_G):\n"
            "    total = 0.0\n"
            "    for l_b, l_tot in zip(background_G, full_G.detach()):\n"
            "        if l_b <= l_tot:\n"
            "            total = total + torch.log1p(torch.exp(l_b)) / torch.log1p(torch.exp(l_tot))\n"
            "    return total / len(background_G)\n",
        ),
        mutants={
            "gate is missing": _BACKGROUND.replace("torch.where(background_G <= full_G, ratio_G, 0.0)", "ratio_G"),
            "capped at 1": _BACKGROUND.replace("torch.where(background_G <= full_G, ratio_G, 0.0)", "ratio_G.clamp(max=1)"),
            "equality was stopped": _BACKGROUND.replace("<=", "<"),
            "passed the gate": _BACKGROUND.replace(
                "torch.where(background_G <= full_G, ratio_G, 0.0)", "ratio_G[background_G <= full_G]"
            ),
            "upside down": _BACKGROUND.replace("F.softplus(background_G) / F.softplus(full_G)", "F.softplus(full_G) / F.softplus(background_G)"),
            "softplus first": _BACKGROUND.replace("F.softplus(background_G) / F.softplus(full_G)", "background_G / full_G"),
            "sigmoid in place": _BACKGROUND.replace("F.softplus", "torch.sigmoid"),
            "added up": _BACKGROUND.replace(".mean()", ".sum()"),
            "detach the denominator": _BACKGROUND.replace("    full_G = full_G.detach()\n", ""),
            "background logits were detached": _BACKGROUND.replace("ratio_G = F", "background_G = background_G.detach()\n    ratio_G = F"),
        },
        setup=_SETUP,
        level="core",
        minutes=12,
    ),
    Exercise(
        id="ch14.rent",
        title="The rent of a patch",
        prompt=(
            "Write `rent(background_logit, full_logit, area_weight, background_weight)`: the evidence at which area and background pull a "
            "patch equally hard, for one present pair inside its region and a linear head."
        ),
        answer="rent",
        check=_check_rent,
        hints=(
            "Write down both slopes in one mask value S_p: the area's, and the background's.",
            "Area: weight / P. Background: weight times (slope of softplus at l_b) times (-K_p / P), over softplus(l_tot).",
            "Set the sum of both to zero and solve for K_p. The slope of softplus is the sigmoid.",
        ),
        stub="def rent(background_logit, full_logit, area_weight, background_weight):\n    raise NotImplementedError  # one number\n",
        solution=_RENT,
        alternatives=(
            "def rent(background_logit, full_logit, area_weight, background_weight):\n"
            "    l_b = torch.tensor(float(background_logit), requires_grad=True)\n"
            "    ratio = F.softplus(l_b) / F.softplus(torch.tensor(float(full_logit)))\n"
            "    ratio.backward()\n"
            "    return area_weight / (background_weight * l_b.grad.item())\n",
        ),
        mutants={
            "weights are exchanged": _RENT.replace("area_weight / background_weight *", "background_weight / area_weight *"),
            "weights are missing": _RENT.replace("area_weight / background_weight * ", ""),
            "fraction is upside down": _RENT.replace("math.log1p(math.exp(full_logit)) / slope", "slope / math.log1p(math.exp(full_logit))"),
            "derivative of softplus": _RENT.replace("1 / (1 + math.exp(-background_logit))", "math.log1p(math.exp(background_logit))"),
            "two logits are exchanged": _RENT.replace("-background_logit", "-FULL").replace("math.exp(full_logit)", "math.exp(background_logit)").replace("FULL", "full_logit"),
            "not the logit": _RENT.replace("math.log1p(math.exp(full_logit))", "full_logit"),
        },
        setup=_SETUP,
        level="stretch",
        minutes=15,
    ),
)

QUESTIONS = (
    Question(
        id="ch14.dimmer",
        prompt="A heatmap becomes half as bright everywhere. Which of the three, proximity, confinement, area, do not change?",
        choices={"a": "none: all three halve", "b": "proximity", "c": "confinement and area"},
        why="Proximity is a mean weighted by brightness: a common factor cancels. The other two are sums of brightness.",
    ),
    Question(
        id="ch14.alone",
        prompt="Each loss alone, until nothing moves. Which of them leaves a mask that fits the lesion with an IoU above one half?",
        choices={"a": "background suppression alone", "b": "all but area", "c": "none of the four"},
        why="Each is satisfied by something silly: the whole region, nothing at all, or everything that says anything.",
    ),
    Question(
        id="ch14.marker",
        prompt="Area and background suppression alone, with telling evidence at a marker in the film's corner. Does the mask take the marker?",
        choices={"a": "no: area shuts it", "b": "yes"},
        why="These two look at evidence only. That a marker is no lung, only anatomy can say.",
    ),
    Question(
        id="ch14.weight",
        prompt="The area's weight rises to eight times the background's. What is left of the mask?",
        choices={"a": "a smaller part of the lesion", "b": "nothing", "c": "the same: the lesion's evidence is far above the rest"},
        why="The rent has then risen above what the best patch has to offer.",
    ),
    Question(
        id="ch14.dead",
        prompt="The facts' losses from the first step, evidence still at nothing. After 450 steps the mask is",
        choices={"a": "the lesion: the labels teach the evidence, and the evidence opens the mask", "b": "empty", "c": "the region"},
        why="With an empty mask the foreground logit is a constant. So the labels teach no evidence, and without evidence nothing opens the mask.",
    ),
)
