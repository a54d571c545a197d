"""Chapter 5's exercises and questions."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from cxrlib.course.compare import compare
from cxrlib.course.exercise import Exercise, Question, Verdict, wrong


def _check_layer_norm(layer_norm) -> Verdict:
    # eps is large on purpose, so that its place in the formula shows in the result.
    x_ND = np.array([[1.0, 3.0, 3.0, 9.0], [0.0, 2.0, -2.0, 4.0], [5.0, 5.5, 4.0, 7.0]])
    gain_D, bias_D, eps = np.array([1.0, 2.0, 0.5, 1.5]), np.array([0.0, 0.1, -0.2, 0.3]), 0.5

    def by_hand(axis=-1, ddof=0, root=np.sqrt, inside=True):
        centred = x_ND - x_ND.mean(axis, keepdims=True)
        var = x_ND.var(axis, ddof=ddof, keepdims=True)
        scale = root(var + eps) if inside else root(var) + eps
        return gain_D * centred / scale + bias_D

    right_ND = by_hand()
    return compare(
        layer_norm(torch.tensor(x_ND), torch.tensor(gain_D), torch.tensor(bias_D), eps),
        right_ND,
        what="LayerNorm of three tokens of width 4 with eps 0.5",
        causes={
            "the variance was divided by D - 1: LayerNorm divides by D (torch: unbiased=False)": by_hand(ddof=1),
            "the statistics run over the tokens: each token is normalised alone, over its D numbers": by_hand(axis=0),
            "the centred values were divided by the variance, not by its square root": by_hand(root=lambda v: v),
            "eps was added to the standard deviation: it belongs inside the root": by_hand(inside=False),
            "gain and bias are missing": (right_ND - bias_D) / gain_D,
            "the mean was not taken away": gain_D * x_ND / np.sqrt(x_ND.var(-1, keepdims=True) + eps) + bias_D,
        },
        note="Every token now has mean 0 and spread 1 before gain and bias, whatever its length was.",
    )


def _check_ceiling(bag_ceiling) -> Verdict:
    cases = ((0.15, 0.15), (0.20, 0.05), (0.0, 0.0), (0.1, 0.4))

    def row(formula, share=lambda both, none: both + (1 - both - none) / 2):
        values = []
        for both, none in cases:
            ones = share(both, none)
            values.append(formula(both / ones, none / (1 - ones)))
        return np.array(values)

    def right_formula(a, b):
        return a + (1 - a) * b + (1 - a) * (1 - b) / 2

    return compare(
        [bag_ceiling(both, none) for both, none in cases],
        row(right_formula),
        what="the AUROC of counting black apices, for four mixtures",
        causes={
            "ties are missing: a pair with equal counts is worth one half": row(lambda a, b: a + (1 - a) * b),
            "ties count as wins: a pair with equal counts is worth only one half": row(lambda a, b: 1.0),
            "shares of all films were used: divide by the share of films with that label": np.array(
                [right_formula(both, none) for both, none in cases]
            ),
            "half of all films were taken to be ones: it is both + (1 - both - none) / 2": row(
                right_formula, share=lambda both, none: 0.5
            ),
        },
        note="No network that lets each patch vote alone can pass this number, however wide it is.",
    )


def _check_first_wrong(first_wrong_layer) -> Verdict:
    generator = torch.Generator().manual_seed(11)
    theirs = [torch.randn(5, 8, generator=generator) for _ in range(4)]
    limit, dust = 1e-3, 5e-6  # rounding that is no fault

    def copy(*changes):
        mine = [layer.clone() for layer in theirs]
        mine[1] += dust
        for layer, rows, amount in changes:
            mine[layer][rows] += amount
        return mine

    one = (2, 3)  # a single number of the 40
    cases = (
        copy((2, one, -0.01), (3, slice(None), 0.5)),
        copy((2, one, 0.01), (3, slice(None), 0.5)),
        copy(),
        copy((0, slice(None), 0.01), (3, slice(None), 0.5)),
    )
    answers = [first_wrong_layer(mine, theirs, limit) for mine in cases]
    return compare(
        [0 if answer is None else answer for answer in answers],
        [3, 3, 0, 1],
        what="the first wrong layer of four copies (0: none)",
        causes={
            "layers are counted from 1: 0 is kept for 'none'": [2, 2, 0, 0],
            "the mean error hides one wrong number among many: take the largest": [4, 4, 0, 1],
            "the sign was kept: a negative difference is an error too, take abs() first": [4, 3, 0, 1],
            "the largest or last error was reported: the first one above the limit is where the fault sits": [4, 4, 0, 4],
            "rounding was taken for a fault: compare with the limit, not with zero": [2, 2, 2, 1],
        },
        rtol=0,
        atol=0.1,
        otherwise="walk through the layers in order, and stop at the first whose largest absolute difference exceeds limit",
        note="The first wrong layer is where to read the code; all later ones only inherit.",
    )


def _check_layer(encoder_layer) -> Verdict:
    generator = torch.Generator().manual_seed(5)
    x_ND = torch.randn(5, 6, generator=generator, dtype=torch.float64) * 2 + 1
    mix_NN = torch.rand(5, 5, generator=generator, dtype=torch.float64).softmax(-1)
    weight_DD = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    gain1_D, gain2_D = (1 + torch.rand(6, generator=generator, dtype=torch.float64) for _ in range(2))

    def norm1(x):
        return F.layer_norm(x, (6,), weight=gain1_D)

    def norm2(x):
        return F.layer_norm(x, (6,), weight=gain2_D)

    def attend(x):
        return mix_NN @ x

    def think(x):
        return F.gelu(x @ weight_DD)

    mid = x_ND + attend(norm1(x_ND))
    expected = mid + think(norm2(mid))
    post = norm1(x_ND + attend(x_ND))
    silent = attend(norm1(x_ND))
    shared = mid + think(norm1(mid))
    outside = x_ND + norm1(attend(x_ND))
    given = x_ND.clone()
    got = encoder_layer(x_ND, norm1, attend, norm2, think)
    if not torch.equal(given, x_ND):
        return wrong(
            expected="a new tensor, with the input left as it was",
            got="an input that was changed in place",
            cause="`x += ...` writes into the caller's tensor: write `x = x + ...`",
        )
    return compare(
        got,
        expected,
        what="one pre-norm encoder layer on 5 tokens of width 6",
        causes={
            "this is the post-norm layer of 2017: here the norm stands inside the branch, not on the stream": (
                norm2(post + think(post))
            ),
            "the norm acts on what the branch returns: it belongs before the branch": outside + norm2(think(outside)),
            "the attention branch replaced the stream: its residual addition is missing": silent + think(norm2(silent)),
            "the MLP branch replaced the stream: its residual addition is missing": think(norm2(mid)),
            "one norm serves both branches: the second branch has a norm of its own, norm2": shared,
            "the MLP read the layer's input: it must read the stream after attention has added to it": (
                mid + think(norm2(x_ND))
            ),
            "the MLP branch was added to the layer's input: what attention had added was lost": x_ND + think(norm2(mid)),
            "the branches read the stream without a norm": (x_ND + attend(x_ND)) + think(x_ND + attend(x_ND)),
            "the order is turned round: attention first, then the MLP": (
                (x_ND + think(norm2(x_ND))) + attend(norm1(x_ND + think(norm2(x_ND))))
            ),
        },
        note="Two additions per layer, and nothing ever overwrites the stream.",
    )


def _count(image, patch, channels, width, depth, classes, *, tokens=1, bias=1, norms=2, final=1, square=False):
    """The right count, or with a changed argument one of the wrong ones."""
    grid = (image[0] // patch) * (image[0] // patch if square else image[1] // patch)
    D = width
    embed = channels * patch**2 * D + bias * D
    layer = 12 * D * D + bias * 9 * D + norms * 2 * D
    return embed + D + (grid + tokens) * D + depth * layer + final * 2 * D + classes * D + bias * classes


def _check_count(count_parameters) -> Verdict:
    cases = (((48, 32), 8, 1, 24, 2, 5), ((224, 224), 16, 3, 384, 12, 0))

    def row(**change):
        return np.array([_count(*case, **change) for case in cases])

    expected = row()
    pixels = np.array([_count(*case) - (case[2] - 1) * case[1] ** 2 * case[3] for case in cases])
    one_layer = np.array([_count(case[0], case[1], case[2], case[3], 1, case[5]) for case in cases])
    return compare(
        [count_parameters(*case) for case in cases],
        expected,
        what="parameters of the mu model (48 by 32 pixels, 5 classes) and of ViT-S/16 without a head",
        causes={
            "the biases are missing: every linear map has one number per output": row(bias=0),
            "D numbers are missing: the class token is a parameter, and it has a position too": row(tokens=0),
            "a LayerNorm has a gain and a bias for each of D numbers, and a layer has two LayerNorms": row(norms=1),
            "the LayerNorm after the last layer is missing": row(final=0),
            "a square image was assumed: count patches along both sides": row(square=True),
            "the channels are missing: a patch of a colour image holds 3 times as many numbers": pixels,
            "only one layer was counted": one_layer,
        },
        rtol=0,
        atol=0.5,
        note="21,665,664 for ViT-S/16, and 98 % of it lies in the 12 layers.",
    )


def _resampled(pos, grid, *, mode="bicubic", antialias=True, keep=1, turned=False, flat=False):
    side = math.isqrt(pos.shape[1] - 1)
    cls, patches = pos[:, :1], pos[:, 1:]
    if flat:
        picture = patches.reshape(1, -1, side, side)
    else:
        picture = patches.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    size = grid[::-1] if turned else grid
    picture = F.interpolate(picture, size=tuple(size), mode=mode, antialias=antialias, align_corners=False)
    patches = picture.reshape(1, grid[0] * grid[1], -1) if flat else picture.flatten(2).transpose(1, 2)
    return torch.cat([cls, patches], dim=1) if keep else patches


def _check_resize(fit_to_grid) -> Verdict:
    generator = torch.Generator().manual_seed(7)
    pos = torch.randn(1, 1 + 16, 6, generator=generator)
    state = {"pos_embed": pos, "cls_token": torch.randn(1, 1, 6, generator=generator)}
    before = pos.clone()
    grid = (3, 5)
    fitted = fit_to_grid(dict(state), grid)
    if not torch.equal(before, pos):
        return wrong(
            expected="the given state dict left as it was",
            got="its pos_embed was changed in place",
            cause="the positions were written into the given tensor: build a new one",
        )
    if not isinstance(fitted, dict) or "cls_token" not in fitted or "pos_embed" not in fitted:
        return wrong(
            expected="a state dict with the same names",
            got=f"a {type(fitted).__name__}" + (f" with {sorted(fitted)}" if isinstance(fitted, dict) else ""),
            cause="return the whole state dict with one entry replaced: state | {'pos_embed': ...}",
        )
    whole = F.interpolate(pos.transpose(1, 2), size=16, mode="linear", align_corners=False).transpose(1, 2)
    return compare(
        fitted["pos_embed"],
        _resampled(pos, grid),
        what="positions of a 4 by 4 grid resampled to 3 rows and 5 columns, class token in front",
        causes={
            "the first positions were kept and the rest cut off: a patch then gets the place of another": pos[:, :16],
            "the class token's position was resampled with the others: it has no place in the image": whole,
            "the class token's position is lost: put it back in front": _resampled(pos, grid, keep=0),
            "rows and columns are swapped: the grid is (rows, columns)": _resampled(pos, grid, turned=True),
            "width and place were mixed by a reshape: move D in front of the grid with permute": _resampled(
                pos, grid, flat=True
            ),
            "bilinear in place of bicubic: timm uses bicubic": _resampled(pos, grid, mode="bilinear"),
            "antialias is off: timm switches it on, which matters when the grid shrinks": _resampled(
                pos, grid, antialias=False
            ),
        },
        note="The same as timm's own resampling, so its weights fit any image size.",
        atol=1e-5,
    )


_SETUP = "import math\n\nimport numpy as np\nimport torch\nimport torch.nn.functional as F\n"

_NORM = """\
def layer_norm(x_ND, gain_D, bias_D, eps):
    mean_N1 = x_ND.mean(dim=-1, keepdim=True)
    var_N1 = ((x_ND - mean_N1) ** 2).mean(dim=-1, keepdim=True)
    return gain_D * (x_ND - mean_N1) / torch.sqrt(var_N1 + eps) + bias_D
"""

_CEILING = """\
def bag_ceiling(both, none):
    ones = both + (1 - both - none) / 2
    a = both / ones
    b = none / (1 - ones)
    return a + (1 - a) * b + (1 - a) * (1 - b) / 2
"""

_FIRST = """\
def first_wrong_layer(mine, theirs, limit):
    for number, (a, b) in enumerate(zip(mine, theirs), start=1):
        if (a - b).abs().max() > limit:
            return number
    return 0
"""

_LAYER = """\
def encoder_layer(x_ND, norm1, attend, norm2, think):
    x_ND = x_ND + attend(norm1(x_ND))
    return x_ND + think(norm2(x_ND))
"""

_COUNT = """\
def count_parameters(image, patch, channels, width, depth, classes):
    D = width
    patches = (image[0] // patch) * (image[1] // patch)
    embed = channels * patch**2 * D + D
    tokens = D + (patches + 1) * D
    norm = 2 * D
    attention = (3 * D * D + 3 * D) + (D * D + D)
    mlp = (4 * D * D + 4 * D) + (4 * D * D + D)
    layer = norm + attention + norm + mlp
    return embed + tokens + depth * layer + norm + classes * D + classes
"""

_FIT = """\
def fit_to_grid(state, grid):
    pos = state["pos_embed"]
    side = math.isqrt(pos.shape[1] - 1)
    cls, patches = pos[:, :1], pos[:, 1:]
    picture = patches.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    picture = F.interpolate(picture, size=grid, mode="bicubic", antialias=True, align_corners=False)
    return state | {"pos_embed": torch.cat([cls, picture.flatten(2).transpose(1, 2)], dim=1)}
"""


def _layer_with(first: str, second: str) -> str:
    return f"def encoder_layer(x_ND, norm1, attend, norm2, think):\n    {first}\n    {second}\n"


EXERCISES = (
    Exercise(
        id="ch05.layernorm",
        title="LayerNorm from its formula",
        prompt="Write `layer_norm(x_ND, gain_D, bias_D, eps)` with means, squares and one root.",
        answer="layer_norm",
        check=_check_layer_norm,
        hints=(
            "Each token is treated alone: which axis holds its D numbers?",
            "Take the mean over the last axis with keepdim=True, then the mean of the squared differences.",
            "Divide the centred values by torch.sqrt(variance + eps); then gain, then bias.",
        ),
        stub="def layer_norm(x_ND, gain_D, bias_D, eps):\n    raise NotImplementedError  # your lines here\n",
        solution=_NORM,
        alternatives=(
            "def layer_norm(x_ND, gain_D, bias_D, eps):\n"
            "    return F.layer_norm(x_ND, x_ND.shape[-1:], gain_D, bias_D, eps)\n",
            "def layer_norm(x_ND, gain_D, bias_D, eps):\n"
            "    rows = []\n"
            "    for token in np.asarray(x_ND):\n"
            "        rows.append((token - token.mean()) / math.sqrt(token.var() + eps))\n"
            "    return np.stack(rows) * np.asarray(gain_D) + np.asarray(bias_D)\n",
        ),
        mutants={
            "divided by D - 1": _NORM.replace(
                "((x_ND - mean_N1) ** 2).mean(dim=-1, keepdim=True)", "x_ND.var(dim=-1, keepdim=True)"
            ),
            "run over the tokens": _NORM.replace("dim=-1", "dim=0"),
            "not by its square root": _NORM.replace("torch.sqrt(var_N1 + eps)", "(var_N1 + eps)"),
            "inside the root": _NORM.replace("torch.sqrt(var_N1 + eps)", "(torch.sqrt(var_N1) + eps)"),
            "gain and bias are missing": _NORM.replace("gain_D * ", "").replace(" + bias_D", ""),
            "mean was not taken away": _NORM.replace("gain_D * (x_ND - mean_N1)", "gain_D * x_ND"),
        },
        setup=_SETUP,
        level="warm-up",
        minutes=5,
    ),
    Exercise(
        id="ch05.ceiling",
        title="The ceiling of a bag",
        prompt=(
            "Write `bag_ceiling(both, none)`: the AUROC of counting black apices when a share `both` of the films has two, a "
            "share `none` has no black apex, the rest has one, and the drain's side is a coin's throw."
        ),
        answer="bag_ceiling",
        check=_check_ceiling,
        hints=(
            "A one has two black apices or one; a zero has one or none. What share of the ones has two?",
            "The share of ones is both + (1 - both - none) / 2. Divide both by it, and none by the rest.",
            "With a and b these two shares: a one wins with a + (1 - a) * b; it ties when both films have a single black apex.",
        ),
        stub="def bag_ceiling(both, none):\n    raise NotImplementedError  # a number between 0 and 1\n",
        solution=_CEILING,
        alternatives=(
            "def bag_ceiling(both, none):\n"
            "    single = 1 - both - none\n"
            "    ones = {2: both, 1: single / 2}\n"
            "    zeros = {1: single / 2, 0: none}\n"
            "    won = sum(p * q * ((i > j) + 0.5 * (i == j)) for i, p in ones.items() for j, q in zeros.items())\n"
            "    return won / (sum(ones.values()) * sum(zeros.values()))\n",
        ),
        mutants={
            "ties are missing": _CEILING.replace(" + (1 - a) * (1 - b) / 2", ""),
            "ties count as wins": _CEILING.replace("(1 - b) / 2", "(1 - b)"),
            "shares of all films": _CEILING.replace("both / ones", "both").replace("none / (1 - ones)", "none"),
            "half of all films": _CEILING.replace("ones = both + (1 - both - none) / 2", "ones = 0.5"),
        },
        setup=_SETUP,
        level="core",
        minutes=8,
    ),
    Exercise(
        id="ch05.layer",
        title="One encoder layer",
        prompt=(
            "Write `encoder_layer(x_ND, norm1, attend, norm2, think)`: the pre-norm layer of equations 2 and 3, from its "
            "four parts. Each part is a function from [N, D] to [N, D]."
        ),
        answer="encoder_layer",
        check=_check_layer,
        hints=(
            "Two additions. What stands on the left of each plus sign is the stream itself.",
            "The second branch reads the stream after the first has added to it, through a norm of its own.",
            "First line: the stream plus attend(norm1(stream)). The second line has the same shape with the other two parts.",
        ),
        stub=(
            "def encoder_layer(x_ND, norm1, attend, norm2, think):\n    raise NotImplementedError  # two lines are enough\n"
        ),
        solution=_LAYER,
        alternatives=(
            "def encoder_layer(x_ND, norm1, attend, norm2, think):\n"
            "    for norm, branch in ((norm1, attend), (norm2, think)):\n"
            "        x_ND = x_ND + branch(norm(x_ND))\n"
            "    return x_ND\n",
            "def encoder_layer(x_ND, norm1, attend, norm2, think):\n"
            "    mixed = torch.add(attend(norm1(x_ND)), x_ND)\n"
            "    return torch.add(mixed, think(norm2(mixed)))\n",
        ),
        mutants={
            "post-norm layer of 2017": _layer_with(
                "x_ND = norm1(x_ND + attend(x_ND))", "return norm2(x_ND + think(x_ND))"
            ),
            "acts on what the branch returns": _layer_with(
                "x_ND = x_ND + norm1(attend(x_ND))", "return x_ND + norm2(think(x_ND))"
            ),
            "attention branch replaced the stream": _layer_with(
                "x_ND = attend(norm1(x_ND))", "return x_ND + think(norm2(x_ND))"
            ),
            "MLP branch replaced the stream": _layer_with(
                "x_ND = x_ND + attend(norm1(x_ND))", "return think(norm2(x_ND))"
            ),
            "one norm serves both": _layer_with(
                "x_ND = x_ND + attend(norm1(x_ND))", "return x_ND + think(norm1(x_ND))"
            ),
            "read the layer's input": _layer_with(
                "mixed = x_ND + attend(norm1(x_ND))", "return mixed + think(norm2(x_ND))"
            ),
            "added to the layer's input": _layer_with(
                "mixed = x_ND + attend(norm1(x_ND))", "return x_ND + think(norm2(mixed))"
            ),
            "without a norm": _layer_with("x_ND = x_ND + attend(x_ND)", "return x_ND + think(x_ND)"),
            "order is turned round": _layer_with("x_ND = x_ND + think(norm2(x_ND))", "return x_ND + attend(norm1(x_ND))"),
            "caller's tensor": _layer_with("x_ND += attend(norm1(x_ND))", "return x_ND + think(norm2(x_ND))"),
        },
        setup=_SETUP,
        level="core",
        minutes=10,
    ),
    Exercise(
        id="ch05.count",
        title="Count any ViT",
        prompt=(
            "Write `count_parameters(image, patch, channels, width, depth, classes)` for an image (height, width) in pixels, "
            "an MLP four times as wide as the tokens, and a head that is absent when classes is 0."
        ),
        answer="count_parameters",
        check=_check_count,
        hints=(
            "Go through the table of this chapter row by row: stem, class token, positions, layers, last norm, head.",
            "A linear map from a to b holds a * b + b numbers; a LayerNorm holds 2 * D.",
            "A layer is 12 * D * D for the matrices, 9 * D for their biases and 4 * D for its two norms.",
        ),
        stub=(
            "def count_parameters(image, patch, channels, width, depth, classes):\n"
            "    raise NotImplementedError  # image is (height, width)\n"
        ),
        solution=_COUNT,
        alternatives=(
            "def count_parameters(image, patch, channels, width, depth, classes):\n"
            "    linear = lambda a, b: (a + 1) * b\n"
            "    tokens = 1 + (image[0] * image[1]) // patch**2\n"
            "    layer = linear(width, 3 * width) + linear(width, width) + linear(width, 4 * width)\n"
            "    layer += linear(4 * width, width) + 2 * (2 * width)\n"
            "    stem = linear(channels * patch * patch, width)\n"
            "    return stem + width * (tokens + 1) + depth * layer + 2 * width + linear(width, classes)\n",
            "def count_parameters(image, patch, channels, width, depth, classes):\n"
            "    from cxrlib.models.vit import VisionTransformer\n"
            "    model = VisionTransformer(\n"
            "        image_size=image, patch_size=patch, in_channels=channels, width=width,\n"
            "        depth=depth, heads=1, num_classes=classes,\n"
            "    )\n"
            "    return sum(parameter.numel() for parameter in model.parameters())\n",
        ),
        mutants={
            "biases are missing": (
                "def count_parameters(image, patch, channels, width, depth, classes):\n"
                "    D, P = width, (image[0] // patch) * (image[1] // patch)\n"
                "    return channels * patch**2 * D + D + (P + 1) * D + depth * (12 * D * D + 4 * D) + 2 * D + classes * D\n"
            ),
            "it has a position too": _COUNT.replace("(patches + 1) * D", "patches * D"),
            "two LayerNorms": _COUNT.replace("norm + attention + norm + mlp", "norm + attention + mlp"),
            "after the last layer": _COUNT.replace("depth * layer + norm +", "depth * layer +"),
            "square image was assumed": _COUNT.replace("image[1] // patch", "image[0] // patch"),
            "channels are missing": _COUNT.replace("channels * patch**2", "patch**2"),
            "only one layer": _COUNT.replace("depth * layer", "layer"),
        },
        setup=_SETUP,
        level="core",
        minutes=10,
    ),
    Exercise(
        id="ch05.firstwrong",
        title="The first wrong layer",
        prompt=(
            "Write `first_wrong_layer(mine, theirs, limit)`: from two lists of tensors, one per layer, the number (from 1) of the "
            "first layer where any number differs by more than `limit`; 0 if there is none."
        ),
        answer="first_wrong_layer",
        check=_check_first_wrong,
        hints=(
            "Walk through both lists together, in order.",
            "For one layer: the largest absolute difference, compared with the limit.",
            "enumerate(zip(mine, theirs), start=1), and return inside the loop; after the loop return 0.",
        ),
        stub="def first_wrong_layer(mine, theirs, limit):\n    raise NotImplementedError  # 1, 2, ... or 0\n",
        solution=_FIRST,
        alternatives=(
            "def first_wrong_layer(mine, theirs, limit):\n"
            "    wrong = [bool(((a - b).abs() > limit).any()) for a, b in zip(mine, theirs)]\n"
            "    return wrong.index(True) + 1 if any(wrong) else 0\n",
        ),
        mutants={
            "counted from 1": _FIRST.replace("start=1", "start=0"),
            "mean error hides": _FIRST.replace(".max()", ".mean()"),
            "sign was kept": _FIRST.replace(".abs()", ""),
            "largest or last": (
                "def first_wrong_layer(mine, theirs, limit):\n"
                "    errors = [float((a - b).abs().max()) for a, b in zip(mine, theirs)]\n"
                "    return errors.index(max(errors)) + 1 if max(errors) > limit else 0\n"
            ),
            "rounding was taken": _FIRST.replace("(a - b).abs().max() > limit", "not torch.equal(a, b)"),
        },
        setup=_SETUP,
        level="core",
        minutes=8,
    ),
    Exercise(
        id="ch05.resize",
        title="Weights for another image size",
        prompt=(
            "Write `fit_to_grid(state, grid)`: return a timm state dict whose `pos_embed`, learnt on a square grid, is "
            "resampled to `grid` = (rows, columns), bicubic and antialiased, with the class token's position untouched."
        ),
        answer="fit_to_grid",
        check=_check_resize,
        hints=(
            "pos_embed is [1, 1 + P, D]. Which of its rows has no place in the image?",
            "Lay the P rows out as a picture [1, D, rows, columns]: reshape to the grid first, then permute.",
            "F.interpolate(picture, size=grid, mode='bicubic', antialias=True), flatten back, and concatenate row 0 in front.",
        ),
        stub="def fit_to_grid(state, grid):\n    raise NotImplementedError  # return a new state dict\n",
        solution=_FIT,
        alternatives=(
            "def fit_to_grid(state, grid):\n"
            "    from timm.layers import resample_abs_pos_embed\n"
            "    fitted = dict(state)\n"
            "    fitted['pos_embed'] = resample_abs_pos_embed(state['pos_embed'], new_size=list(grid), num_prefix_tokens=1)\n"
            "    return fitted\n",
            "def fit_to_grid(state, grid):\n"
            "    from cxrlib.models.weights import fit_positions\n"
            "    return fit_positions(state, tuple(grid))\n",
        ),
        mutants={
            "cut off": (
                "def fit_to_grid(state, grid):\n"
                "    return state | {'pos_embed': state['pos_embed'][:, : 1 + grid[0] * grid[1]]}\n"
            ),
            "no place in the image": (
                "def fit_to_grid(state, grid):\n"
                "    pos = state['pos_embed'].transpose(1, 2)\n"
                "    pos = F.interpolate(pos, size=1 + grid[0] * grid[1], mode='linear', align_corners=False)\n"
                "    return state | {'pos_embed': pos.transpose(1, 2)}\n"
            ),
            "put it back in front": _FIT.replace(
                "torch.cat([cls, picture.flatten(2).transpose(1, 2)], dim=1)", "picture.flatten(2).transpose(1, 2)"
            ),
            "rows and columns": _FIT.replace("size=grid", "size=grid[::-1]"),
            "mixed by a reshape": _FIT.replace(
                "patches.reshape(1, side, side, -1).permute(0, 3, 1, 2)", "patches.reshape(1, -1, side, side)"
            ).replace("picture.flatten(2).transpose(1, 2)", "picture.reshape(1, grid[0] * grid[1], -1)"),
            "bilinear": _FIT.replace("bicubic", "bilinear"),
            "antialias is off": _FIT.replace("antialias=True, ", ""),
            "whole state dict": _FIT.replace('state | {"pos_embed": ', "(").replace("dim=1)}", "dim=1))"),
        },
        setup=_SETUP,
        level="stretch",
        minutes=20,
    ),
)

QUESTIONS = (
    Question(
        id="ch05.norms",
        prompt="Twelve layers at their random start. Where is the gradient of the last layer's MLP larger?",
        choices={"a": "pre-norm", "b": "post-norm", "c": "alike, within a tenth"},
        why="The norm after the last pre-norm layer divides by a stream that has grown, and so divides the gradient.",
    ),
    Question(
        id="ch05.alone",
        prompt="One of 7 tokens is changed. How many of the MLP's 7 outputs change?",
        unit="outputs",
        why="The two linear maps act on the last axis only. Tokens meet in attention and nowhere else.",
        close=0.0,
    ),
    Question(
        id="ch05.depth",
        prompt="Which ordering of AUROC do you expect after the same 220 steps?",
        choices={
            "a": "bag < 1 layer < 2 layers < 4 layers, in even steps",
            "b": "bag = 1 layer < 2 layers = 4 layers, within 0.1",
            "c": "bag < 1 layer = 2 layers = 4 layers, within 0.1",
            "d": "no such order",
        },
        why="A look-up takes two steps: one layer finds the drain, the next looks where it points.",
    ),
    Question(
        id="ch05.params",
        prompt="How many million parameters has ViT-S/16 (D = 384, 12 layers) without its head?",
        unit="million",
        why="12 layers of 12 times 384 squared make 21.2 million; all the rest together is less than half a million.",
        close=0.05,
    ),
    Question(
        id="ch05.cost",
        prompt="The image's side grows from 224 to 512 pixels. By what factor do the multiplications grow?",
        choices={"a": "about 2.3", "b": "about 5.2", "c": "about 6.9", "d": "about 27"},
        why="The linear maps grow with the tokens, 5.2 times; only the attention products grow with their square.",
    ),
    Question(
        id="ch05.eps",
        prompt="eps is 1e-5 in place of 1e-6. By how much does the first LayerNorm change a token whose spread is 0.02?",
        choices={"a": "one part in a million", "b": "about 1 %", "c": "about 10 %", "d": "it doubles"},
        why="The change is the difference of the two eps over twice the variance, and 0.02 squared is only 0.0004.",
    ),
    Question(
        id="ch05.renamed",
        prompt="Layer 1's MLP is renamed in the file, and strict=False lets it pass. What does the AUROC do?",
        choices={
            "a": "falls to 0.5: the model is broken",
            "b": "moves by less than 0.1: hard to notice",
            "c": "is not defined: loading raises an error",
            "d": "falls, but stays above 0.6",
        },
        why="The stream carries the other branches past the broken one. The quietest damage lives longest.",
    ),
)
