"""Chapter 7's exercises and questions."""

import numpy as np

from cxrlib.course.compare import as_array, compare
from cxrlib.course.exercise import Exercise, Question, Verdict, wrong


def _check_parameters(extra_parameters) -> Verdict:
    cases = ((14, 384), (5, 20), (3, 64))

    def row(formula):
        return np.array([formula(C, D) for C, D in cases])

    return compare(
        [extra_parameters(C, D) for C, D in cases],
        row(lambda C, D: C * D + C * (D + 1)),
        what="parameters for 14 labels at width 384, 5 at width 20, and 3 at width 64",
        causes={
            "the heads have no bias: each head is a linear map to one number, with one bias": row(lambda C, D: 2 * C * D),
            "the tokens are missing: each finding brings a vector of its own": row(lambda C, D: C * (D + 1)),
            "the heads are missing: each finding turns its token into a logit": row(lambda C, D: C * D),
            "one head was shared by all findings: each has its own": row(lambda C, D: C * D + D + 1),
            "label tokens were given positions: a label has no place in the image": row(lambda C, D: 3 * C * D + C),
            "each head was taken for a map from a token to all findings: it makes one number": row(
                lambda C, D: C * D + C * (D + 1) * C
            ),
        },
        rtol=0,
        atol=0.5,
        note="The blocks add nothing: labels use the weights that the image uses.",
    )


def _right_mask(N: int, C: int) -> np.ndarray:
    may = np.ones((N + C, N + C), dtype=bool)
    may[:N, N:] = False
    return may


def _check_mask(may_read) -> Verdict:
    N, C = 5, 3
    right_MM = _right_mask(N, C)
    label = np.arange(N + C) >= N
    alone = right_MM & ~np.outer(label, label)
    got = as_array(may_read(N, C))
    if got is not None and got.shape == right_MM.shape and got.dtype.kind != "b":
        return wrong(
            expected="a table of True and False",
            got=f"numbers of type {got.dtype}",
            cause="attention adds a float mask to the scores: only a boolean mask says who may read",
        )
    return compare(
        got,
        right_MM,
        what="who may read whom among 5 image tokens and 3 labels, as 8 rows that ask and 8 columns that are asked",
        causes={
            "rows and columns are exchanged: a row is the token that asks": right_MM.T,
            "True and False are exchanged: here True means may read": ~right_MM,
            "the labels cannot read each other: eq. 2 lets every label read every label": alone,
            "a label reads only itself among the labels: eq. 2 lets it read them all": alone | np.eye(N + C, dtype=bool),
            "nothing is blind: image rows must not see label columns": np.ones_like(right_MM),
            "this is the mask of a text model, where each token reads those before it": np.tril(np.ones_like(right_MM)),
            "the labels were put first: the image tokens come first here": _right_mask(C, N).T,
        },
        note="One blind block of N by C cells. The rest is an ordinary encoder layer.",
    )


def _attend(q, k, v, scale):
    scores = q @ k.T * scale
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


def _check_two_calls(one_way) -> Verdict:
    import torch

    generator = np.random.default_rng(7)
    N, C, d = 5, 3, 4
    q_x, k_x, v_x = generator.normal(size=(3, N, d)) * 1.5
    q_t, k_t, v_t = generator.normal(size=(3, C, d)) * 1.5
    k, v, s = np.concatenate([k_x, k_t]), np.concatenate([v_x, v_t]), d**-0.5

    def pair(image=None, label=None):
        image = _attend(q_x, k_x, v_x, s) if image is None else image
        label = _attend(q_t, k, v, s) if label is None else label
        return np.concatenate([image, label])

    got = one_way(*(torch.tensor(part) for part in (q_x, k_x, v_x, q_t, k_t, v_t)))
    if not isinstance(got, (tuple, list)) or len(got) != 2:
        return wrong(
            expected="a pair: the image's outputs [5, 4] and the labels' outputs [3, 4]",
            got="nothing" if got is None else f"a {type(got).__name__}",
            cause="return both streams, the image first: `return image, labels`",
        )
    parts = [as_array(part) for part in got]
    if any(part is None or part.ndim != 2 for part in parts) or parts[0].shape[1] != parts[1].shape[1]:
        return compare(parts[0], pair()[:N], what="the image's outputs")
    return compare(
        np.concatenate(parts),
        pair(),
        what="the image's 5 outputs above the labels' 3",
        causes={
            "the scores were not divided by the root of d": np.concatenate([_attend(q_x, k_x, v_x, 1), _attend(q_t, k, v, 1)]),
            "the scores were divided by d: eq. 1 and 2 divide by its root": np.concatenate(
                [_attend(q_x, k_x, v_x, 1 / d), _attend(q_t, k, v, 1 / d)]
            ),
            "the image read the labels: its keys and values are the image's alone": pair(image=_attend(q_x, k, v, s)),
            "the labels did not read each other: join the labels' keys and values to the image's": pair(
                label=_attend(q_t, k_x, v_x, s)
            ),
            "the labels did not read the image": pair(label=_attend(q_t, k_t, v_t, s)),
            "two softmaxes were added: one label has one softmax over image and labels together": pair(
                label=_attend(q_t, k_x, v_x, s) + _attend(q_t, k_t, v_t, s)
            ),
            "keys and values were joined in different orders: column j of both must be the same token": pair(
                label=_attend(q_t, k, np.concatenate([v_t, v_x]), s)
            ),
            "the two streams are exchanged: return the image first": np.concatenate([_attend(q_t, k, v, s), _attend(q_x, k_x, v_x, s)]),
        },
        note="Two calls, no mask: each runs on the fused kernel.",
    )


def _check_share(share_and_area) -> Verdict:
    map_yx = np.array([[0.02, 0.10], [0.30, 0.05], [0.04, 0.09]])
    mask_YX = np.zeros((24, 16), dtype=bool)
    mask_YX[6:15, 3:12] = True
    rows, columns = map_yx.shape
    cells = mask_YX.reshape(rows, 8, columns, 8)
    inside_yx, area = cells.mean((1, 3)), mask_YX.mean()
    total = map_yx.sum()
    scrambled = mask_YX.reshape(rows, columns, 8, 8).mean((2, 3))
    return compare(
        share_and_area(map_yx, mask_YX),
        [(map_yx * inside_yx).sum() / total, area],
        what="share of the attention inside the lesion, and the lesion's share of the film",
        causes={
            "the map was not divided by its sum: it leaves out class token and labels, so it sums to less than 1": [
                (map_yx * inside_yx).sum(),
                area,
            ],
            "a touched patch was counted whole: count the part of it that lies inside": [
                (map_yx * (inside_yx > 0)).sum() / total,
                area,
            ],
            "a patch was counted by its middle pixel: count the part of it that lies inside": [
                (map_yx * mask_YX[4::8, 4::8]).sum() / total,
                area,
            ],
            "the mask was cut into pieces that are no patches: rows and columns were mixed by the reshape": [
                (map_yx * scrambled).sum() / total,
                area,
            ],
            "the weights were averaged over the patches inside, not added up": [
                (map_yx * inside_yx).sum() / total / inside_yx.sum(),
                area,
            ],
            "the area is a count of pixels: divide by the pixels of the film": [
                (map_yx * inside_yx).sum() / total,
                mask_YX.sum(),
            ],
        },
        note="Their ratio is 1 for a map that looks everywhere alike. Only what is above 1 was looked for.",
    )


def _macs(N, C, D, layers, *, linear=12, products=2, rows=None, columns=None, factor=1):
    columns = N + C if columns is None else columns
    rows = C * columns if rows is None else rows
    return factor * layers * (C * linear * D * D + products * rows * D)


def _check_macs(extra_macs) -> Verdict:
    cases = ((197, 14, 384, 4), (37, 5, 64, 2), (1025, 14, 384, 4))

    def row(**change):
        return np.array([_macs(*case, **change) for case in cases], dtype=float)

    def each(change):
        return np.array([_macs(*case, **change(*case)) for case in cases], dtype=float)

    return compare(
        [extra_macs(*case) for case in cases],
        row(),
        what="MACs that labels add, at 224 pixels, in the chapter's small model, and at 512 pixels",
        causes={
            "this is the masked form: two calls leave out the blind block": each(
                lambda N, C, D, layers: {"rows": (N + C) ** 2 - N**2}
            ),
            "the labels' own columns are missing: a label reads the image and all labels": each(
                lambda N, C, D, layers: {"columns": N}
            ),
            "attention has two products: scores, and the mixture of values": row(products=1),
            "only one layer was counted": each(lambda N, C, D, layers: {"factor": 1 / layers}),
            "the MLP is missing: each label passes it as well": row(linear=4),
            "attention's four maps are missing: queries, keys, values and the last map": row(linear=8),
            "operations were counted: one MAC is a multiplication and an addition together": row(factor=2),
            "attention's products are missing: only the linear maps were counted": row(products=0),
        },
        rtol=1e-9,
        atol=0.5,
        otherwise="count for one label in one layer: its linear maps, then its row of scores and of values",
        note="At 512 pixels the labels add less in proportion: the image has grown, the labels have not.",
    )


_PARAMETERS = "def extra_parameters(labels, width):\n    return labels * width + labels * (width + 1)\n"

_MASK = (
    "def may_read(images, labels):\n"
    "    may = torch.ones(images + labels, images + labels, dtype=torch.bool)\n"
    "    may[:images, images:] = False\n"
    "    return may\n"
)

_TWO_CALLS = (
    "def one_way(q_x, k_x, v_x, q_t, k_t, v_t):\n"
    "    scale = q_x.shape[-1] ** -0.5\n"
    "    image = (q_x @ k_x.T * scale).softmax(-1) @ v_x\n"
    "    k, v = torch.cat([k_x, k_t]), torch.cat([v_x, v_t])\n"
    "    return image, (q_t @ k.T * scale).softmax(-1) @ v\n"
)

_SHARE = (
    "def share_and_area(map_yx, mask_YX):\n"
    "    rows, columns = map_yx.shape\n"
    "    Y, X = mask_YX.shape\n"
    "    inside_yx = mask_YX.reshape(rows, Y // rows, columns, X // columns).mean(axis=(1, 3))\n"
    "    return (map_yx * inside_yx).sum() / map_yx.sum(), mask_YX.mean()\n"
)

_MACS = (
    "def extra_macs(images, labels, width, layers):\n"
    "    linear = 12 * width * width\n"
    "    products = 2 * (images + labels) * width\n"
    "    return layers * labels * (linear + products)\n"
)

_SETUP = "import numpy as np\nimport torch\nimport torch.nn.functional as F\n"

EXERCISES = (
    Exercise(
        id="ch07.parameters",
        title="What labels cost in memory",
        prompt=(
            "Write `extra_parameters(labels, width)`: how many numbers the label tokens and their heads add to a ViT without "
            "a head."
        ),
        answer="extra_parameters",
        check=_check_parameters,
        hints=(
            "Two things are new: a token for each finding, and a head for each finding.",
            "A token is one vector as long as any token. A head is a linear map from such a vector to one number.",
            "A linear map from D numbers to one has D weights and one bias.",
        ),
        stub="def extra_parameters(labels, width):\n    raise NotImplementedError  # your line here\n",
        solution=_PARAMETERS,
        alternatives=(
            "def extra_parameters(labels, width):\n"
            "    from cxrlib.models import LabelTokenViT\n"
            "    model = LabelTokenViT(\n"
            "        image_size=16, patch_size=8, in_channels=1, num_classes=labels, width=width, depth=1, heads=1\n"
            "    )\n"
            "    return sum(p.numel() for name, p in model.named_parameters() if name in model.own_parts())\n",
        ),
        mutants={
            "no bias": _PARAMETERS.replace("(width + 1)", "width"),
            "tokens are missing": "def extra_parameters(labels, width):\n    return labels * (width + 1)\n",
            "heads are missing": "def extra_parameters(labels, width):\n    return labels * width\n",
            "one head was shared": _PARAMETERS.replace("labels * (width + 1)", "width + 1"),
            "given positions": _PARAMETERS.replace("return labels * width", "return 2 * labels * width"),
            "to all findings": _PARAMETERS.replace("labels * (width + 1)", "labels * (width + 1) * labels"),
        },
        setup=_SETUP,
        level="warm-up",
        minutes=4,
    ),
    Exercise(
        id="ch07.mask",
        title="Who may read whom",
        prompt=(
            "Write `may_read(images, labels)`: a boolean table with a row for each token that asks and a column for each that "
            "is asked, image tokens first, then labels. True where eq. 1 and 2 let the row read the column."
        ),
        answer="may_read",
        check=_check_mask,
        hints=(
            "Start with a square full of True. Which block is blind?",
            "The rows of the blind block are the image's. Its columns are the labels'.",
            "torch.ones(..., dtype=torch.bool), then set one slice of rows and one slice of columns to False.",
        ),
        stub="def may_read(images, labels):\n    raise NotImplementedError  # a square of images + labels\n",
        solution=_MASK,
        alternatives=(
            "def may_read(images, labels):\n"
            "    is_label = torch.arange(images + labels) >= images\n"
            "    return is_label[:, None] | ~is_label[None, :]\n",
            "def may_read(images, labels):\n"
            "    return [[asks >= images or asked < images for asked in range(images + labels)] for asks in range(images + labels)]\n",
        ),
        mutants={
            "rows and columns are exchanged": _MASK.replace("may[:images, images:]", "may[images:, :images]"),
            "True and False are exchanged": _MASK.replace("return may", "return ~may"),
            "cannot read each other": _MASK.replace("may[:images, images:]", "may[:, images:]"),
            "only itself": _MASK.replace("may[:images, images:] = False", "may[:, images:] = False").replace(
                "return may", "return may | torch.eye(images + labels, dtype=torch.bool)"
            ),
            "nothing is blind": _MASK.replace("    may[:images, images:] = False\n", ""),
            "text model": _MASK.replace("return may", "return torch.ones_like(may).tril()"),
            "labels were put first": _MASK.replace("may[:images, images:]", "may[labels:, :labels]"),
            "float mask": _MASK.replace("return may", "return may.float()"),
        },
        setup=_SETUP,
        level="core",
        minutes=8,
    ),
    Exercise(
        id="ch07.two_calls",
        title="Two calls instead of a mask",
        prompt=(
            "Write `one_way(q_x, k_x, v_x, q_t, k_t, v_t)`: one head of eq. 1 and 2 without a mask. Queries, keys and values of "
            "the image are [N, d], those of the labels [C, d]. Return the image's outputs and the labels' outputs."
        ),
        answer="one_way",
        check=_check_two_calls,
        hints=(
            "Eq. 1 is ordinary attention on the image. It needs the first three arguments only.",
            "In eq. 2 the labels' queries meet a longer list of keys: the image's, then the labels'.",
            "Join keys and values in the same order with torch.cat; then softmax over the last axis of q k^T / sqrt(d).",
        ),
        stub="def one_way(q_x, k_x, v_x, q_t, k_t, v_t):\n    raise NotImplementedError  # return image, labels\n",
        solution=_TWO_CALLS,
        alternatives=(
            "def one_way(q_x, k_x, v_x, q_t, k_t, v_t):\n"
            "    image = F.scaled_dot_product_attention(q_x[None], k_x[None], v_x[None])[0]\n"
            "    k, v = torch.cat([k_x, k_t])[None], torch.cat([v_x, v_t])[None]\n"
            "    return image, F.scaled_dot_product_attention(q_t[None], k, v)[0]\n",
            "def one_way(q_x, k_x, v_x, q_t, k_t, v_t):\n"
            "    N = len(q_x)\n"
            "    q, k, v = torch.cat([q_x, q_t]), torch.cat([k_x, k_t]), torch.cat([v_x, v_t])\n"
            "    scores = q @ k.T / k.shape[-1] ** 0.5\n"
            "    scores[:N, N:] = float('-inf')\n"
            "    out = scores.softmax(-1) @ v\n"
            "    return out[:N], out[N:]\n",
        ),
        mutants={
            "not divided": _TWO_CALLS.replace("q_x.shape[-1] ** -0.5", "1.0"),
            "divided by d": _TWO_CALLS.replace("** -0.5", "** -1"),
            "image read the labels": _TWO_CALLS.replace(
                "image = (q_x @ k_x.T * scale).softmax(-1) @ v_x",
                "image = (q_x @ torch.cat([k_x, k_t]).T * scale).softmax(-1) @ torch.cat([v_x, v_t])",
            ),
            "did not read each other": _TWO_CALLS.replace("torch.cat([k_x, k_t]), torch.cat([v_x, v_t])", "k_x, v_x"),
            "did not read the image": _TWO_CALLS.replace("torch.cat([k_x, k_t]), torch.cat([v_x, v_t])", "k_t, v_t"),
            "two softmaxes": _TWO_CALLS.replace(
                "return image, (q_t @ k.T * scale).softmax(-1) @ v",
                "read = (q_t @ k_x.T * scale).softmax(-1) @ v_x\n    return image, read + (q_t @ k_t.T * scale).softmax(-1) @ v_t",
            ),
            "different orders": _TWO_CALLS.replace("torch.cat([v_x, v_t])", "torch.cat([v_t, v_x])"),
            "streams are exchanged": _TWO_CALLS.replace(
                "return image, (q_t @ k.T * scale).softmax(-1) @ v", "return (q_t @ k.T * scale).softmax(-1) @ v, image"
            ),
            "return both": _TWO_CALLS.replace("return image, (q_t", "return (q_t"),
        },
        setup=_SETUP,
        level="core",
        minutes=12,
    ),
    Exercise(
        id="ch07.share",
        title="Inside the lesion",
        prompt=(
            "Write `share_and_area(map_yx, mask_YX)`: the share of a map's weight that falls inside the lesion, and the share "
            "of the film that the lesion covers. A patch counts by the part of it that lies inside."
        ),
        answer="share_and_area",
        check=_check_share,
        hints=(
            "First find for each patch which part of its pixels lies inside the mask.",
            "Cut the mask as chapter 3 cuts an image: reshape to (rows, pixels, columns, pixels), then average over the pixels.",
            "Multiply the map by these parts, add up, and divide by the sum of the map.",
        ),
        stub="def share_and_area(map_yx, mask_YX):\n    raise NotImplementedError  # return share, area\n",
        solution=_SHARE,
        alternatives=(
            "def share_and_area(map_yx, mask_YX):\n"
            "    high, wide = (len(mask_YX) // len(map_yx), mask_YX.shape[1] // map_yx.shape[1])\n"
            "    per_pixel_YX = np.kron(map_yx, np.ones((high, wide)))\n"
            "    return per_pixel_YX[mask_YX].sum() / per_pixel_YX.sum(), mask_YX.sum() / mask_YX.size\n",
        ),
        mutants={
            "not divided by its sum": _SHARE.replace(" / map_yx.sum()", ""),
            "counted whole": _SHARE.replace("map_yx * inside_yx", "map_yx * (inside_yx > 0)"),
            "middle pixel": _SHARE.replace("map_yx * inside_yx", "map_yx * mask_YX[4::8, 4::8]"),
            "no patches": _SHARE.replace("(rows, Y // rows, columns, X // columns)", "(rows, columns, Y // rows, X // columns)").replace(
                "axis=(1, 3)", "axis=(2, 3)"
            ),
            "averaged over the patches": _SHARE.replace("/ map_yx.sum()", "/ map_yx.sum() / inside_yx.sum()"),
            "count of pixels": _SHARE.replace("mask_YX.mean()", "mask_YX.sum()"),
        },
        setup=_SETUP,
        level="core",
        minutes=12,
    ),
    Exercise(
        id="ch07.macs",
        title="What labels cost in time",
        prompt=(
            "Write `extra_macs(images, labels, width, layers)`: the MACs that label tokens add, in two calls without a mask, "
            "with an MLP four times as wide as the tokens. Leave out the heads."
        ),
        answer="extra_macs",
        check=_check_macs,
        hints=(
            "The image's work is unchanged. Count what one label does in one layer.",
            "Its linear maps: queries, keys and values 3 D D, the last map D D, the MLP twice 4 D D.",
            "Its row of scores meets every key it may read, D products each; mixing the values costs as much again.",
        ),
        stub="def extra_macs(images, labels, width, layers):\n    raise NotImplementedError  # a whole number\n",
        solution=_MACS,
        alternatives=(
            "def extra_macs(images, labels, width, layers):\n"
            "    D, total = width, 0\n"
            "    for _ in range(layers):\n"
            "        for _ in range(labels):\n"
            "            total += 3 * D * D + D * D + 4 * D * D + 4 * D * D\n"
            "            total += (images + labels) * D + (images + labels) * D\n"
            "    return total\n",
        ),
        mutants={
            "masked form": (
                "def extra_macs(images, labels, width, layers):\n"
                "    square = (images + labels) ** 2 - images**2\n"
                "    return layers * (12 * labels * width**2 + 2 * square * width)\n"
            ),
            "own columns are missing": _MACS.replace("(images + labels)", "images"),
            "two products": _MACS.replace("2 * (images", "(images"),
            "only one layer": _MACS.replace("layers * labels", "labels"),
            "MLP is missing": _MACS.replace("12 * width", "4 * width"),
            "four maps are missing": _MACS.replace("12 * width", "8 * width"),
            "operations were counted": _MACS.replace("return layers", "return 2 * layers"),
            "products are missing": _MACS.replace("(linear + products)", "linear"),
        },
        setup=_SETUP,
        level="stretch",
        minutes=12,
    ),
)

QUESTIONS = (
    Question(
        id="ch07.blind",
        prompt="ViT-S/16 at 224 pixels has 197 image tokens. With 14 labels, what share of the square is blind, in per cent?",
        unit="per cent",
        why="The blind block has 197 times 14 cells, and the square 211 times 211.",
        close=0.15,
    ),
    Question(
        id="ch07.change",
        prompt="All label tokens are replaced by others. How many of the image's 7 outputs change?",
        unit="outputs",
        why="No image row reads a label column, in any layer. So nothing of a label can get into the image.",
        close=0.0,
    ),
    Question(
        id="ch07.cost",
        prompt="14 labels in the last 4 of 12 layers. By how much do the MACs of ViT-S/16 at 224 pixels grow?",
        choices={"a": "about 0.05 %, as the parameters", "b": "about 2 %", "c": "about 7 %", "d": "about 33 %"},
        why="14 more tokens beside 197 are 7 %, but only in a third of the layers.",
    ),
    Question(
        id="ch07.compare",
        prompt="Same recipe, same seed. Which macro AUROC is higher on the validation patients?",
        choices={
            "a": "LT-ViT's, by more than 0.02",
            "b": "neither: they lie within 0.02",
            "c": "the [CLS] ViT's, by more than 0.02",
        },
        why="One seed on a few hundred films decides little. That is what the interval is for.",
    ),
    Question(
        id="ch07.swap",
        prompt="A map made from one film is laid over the lesion of another with the same finding. What remains of its excess inside the lesion?",
        choices={
            "a": "nearly nothing: the map found that one lesion",
            "b": "part of it",
            "c": "nearly all: the label looks at the same place in every film",
        },
        why="A finding has its usual places. A map earns trust only for what it adds to them on its own film.",
    ),
)
