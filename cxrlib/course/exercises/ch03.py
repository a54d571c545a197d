"""Chapter 3's exercises and questions: patches and positions."""

import torch
import torch.nn.functional as F

from cxrlib.course.compare import compare
from cxrlib.course.exercise import Exercise, Question, Verdict, right, wrong
from cxrlib.models.vit import VisionTransformer


def _check_count(tokens) -> Verdict:
    y, x, size = 512, 384, 16  # a portrait film: 32 rows and 24 columns of patches
    return compare(
        tokens(y, x, size),
        1 + (y // size) * (x // size),
        what=f"the tokens of a {y} by {x} image cut into {size}-pixel patches",
        causes={
            "the class token was forgotten": (y // size) * (x // size),
            "only the height was divided: a square image was assumed": 1 + (y // size) ** 2,
            "only the width was divided: a square image was assumed": 1 + (x // size) ** 2,
            "pixels were divided by the patch's side, not by its area": 1 + y * x // size,
        },
        note="Attention compares each of them with each.",
    )


COUNT = Exercise(
    id="ch03.count",
    title="Count the tokens",
    prompt="Write `tokens(y, x, size)`: how many tokens, the class token among them, enter the encoder for an image of "
    "y by x pixels cut into square patches of `size` pixels?",
    answer="tokens",
    check=_check_count,
    hints=(
        "How many patches fit along one side?",
        "Rows and columns are counted separately: the film need not be square.",
        "Rows times columns, and one more that belongs to no patch.",
    ),
    stub="def tokens(y, x, size):\n    raise NotImplementedError  # your line here\n",
    solution="def tokens(y, x, size):\n    return 1 + (y // size) * (x // size)\n",
    alternatives=("def tokens(y, x, size):\n    return len([(r, c) for r in range(0, y, size) for c in range(0, x, size)]) + 1\n",),
    mutants={
        "class token was forgotten": "def tokens(y, x, size):\n    return (y // size) * (x // size)\n",
        "only the height": "def tokens(y, x, size):\n    return 1 + (y // size) ** 2\n",
        "not by its area": "def tokens(y, x, size):\n    return 1 + y * x // size\n",
    },
    level="warm-up",
    minutes=3,
)


def _check_cut(cut) -> Verdict:
    size = 4
    img_BIYX = torch.arange(2 * 3 * 8 * 12.0).reshape(2, 3, 8, 12)  # every number occurs once
    B, rows, columns, ink = 2, 2, 3, 3 * size * size
    right_BPK = F.unfold(img_BIYX, size, stride=size).transpose(1, 2)
    split = img_BIYX.reshape(B, 3, rows, size, columns, size)  # B I r y c x
    got = cut(img_BIYX.clone(), size)
    return compare(
        got,
        right_BPK,
        what="the pixels of each patch, [B, P, I * size * size]",
        causes={
            "the axes were never moved: a reshape alone takes strips of rows, not squares": img_BIYX.reshape(B, rows * columns, ink),
            "the patches are in column order: down first, then right": split.permute(0, 4, 2, 1, 3, 5).reshape(B, -1, ink),
            "inside each patch the channel comes last; a convolution's weights have it first": split.permute(0, 2, 4, 3, 5, 1).reshape(
                B, -1, ink
            ),
            "inside each patch rows and columns are swapped": split.permute(0, 2, 4, 1, 5, 3).reshape(B, -1, ink),
            "the last two axes are in unfold's order [B, K, P]: pixels before patches": right_BPK.transpose(1, 2),
        },
        note="Now `cut(img, 16) @ proj.weight.flatten(1).T + proj.bias` is the patch embedding.",
    )


CUT = Exercise(
    id="ch03.cut",
    title="Cut an image into patches",
    prompt="Write `cut(img_BIYX, size)` that returns the pixels of each patch, [B, P, I * size * size], without `unfold` and "
    "without a convolution. Patches in row order; inside a patch first the channel, then y, then x.",
    answer="cut",
    check=_check_cut,
    hints=(
        "A reshape can split one axis into two: Y into (rows, size), X into (columns, size).",
        "After the split there are six axes: B I r y c x. Which order do you want before you merge them?",
        "permute(0, 2, 4, 1, 3, 5) gives B r c I y x; then merge r with c, and I with y and x.",
    ),
    stub="def cut(img_BIYX, size):\n    raise NotImplementedError  # split, permute, merge\n",
    solution=(
        "def cut(img_BIYX, size):\n"
        "    B, I, Y, X = img_BIYX.shape\n"
        "    split = img_BIYX.reshape(B, I, Y // size, size, X // size, size)  # B I r y c x\n"
        "    return split.permute(0, 2, 4, 1, 3, 5).reshape(B, -1, I * size * size)  # B r c I y x, merged\n"
    ),
    alternatives=(
        "def cut(img_BIYX, size):\n"
        "    B, I, Y, X = img_BIYX.shape\n"
        "    squares = [\n"
        "        img_BIYX[:, :, y : y + size, x : x + size].flatten(1)\n"
        "        for y in range(0, Y, size) for x in range(0, X, size)\n"
        "    ]\n"
        "    return torch.stack(squares, dim=1)\n",
        "def cut(img_BIYX, size):\n"
        "    tiles = img_BIYX.unfold(2, size, size).unfold(3, size, size)  # B I r c y x\n"
        "    return torch.einsum('bircyx->brciyx', tiles).flatten(3).flatten(1, 2)\n",
    ),
    mutants={
        "axes were never moved": "def cut(img_BIYX, size):\n    B, I, Y, X = img_BIYX.shape\n"
        "    return img_BIYX.reshape(B, (Y // size) * (X // size), I * size * size)\n",
        "column order": "def cut(img_BIYX, size):\n    B, I, Y, X = img_BIYX.shape\n"
        "    s = img_BIYX.reshape(B, I, Y // size, size, X // size, size)\n"
        "    return s.permute(0, 4, 2, 1, 3, 5).reshape(B, -1, I * size * size)\n",
        "channel comes last": "def cut(img_BIYX, size):\n    B, I, Y, X = img_BIYX.shape\n"
        "    s = img_BIYX.reshape(B, I, Y // size, size, X // size, size)\n"
        "    return s.permute(0, 2, 4, 3, 5, 1).reshape(B, -1, I * size * size)\n",
        "pixels before patches": "def cut(img_BIYX, size):\n    return torch.nn.functional.unfold(img_BIYX, size, stride=size)\n",
    },
    setup="import torch\n",
    level="core",
    minutes=12,
)


def _touched(box, side, rows, columns) -> list[int]:
    """Patches that share area with a box, by asking each patch: slow, plain, and right."""
    tall, wide = side / rows, side / columns
    x0, y0, x1, y1 = box
    return [
        r * columns + c
        for r in range(rows)
        for c in range(columns)
        if x0 < (c + 1) * wide and x1 > c * wide and y0 < (r + 1) * tall and y1 > r * tall
    ]


def _check_touched(touched) -> Verdict:
    # An edge on a border, an inner box, and a box wider than one patch; 5 rows and 4 columns, so that no axis can be swapped.
    cases = [(250.0, 210.0, 500.0, 600.0), (30.0, 820.0, 90.0, 870.0), (600.0, 390.0, 990.0, 410.0)]
    side, rows, columns = 1000, 5, 4
    for box in cases:
        expected = _touched(box, side, rows, columns)
        result = touched(box, side, rows, columns)
        if result is None:
            return compare(None, expected, what="the numbers of the touched patches")
        got = sorted(int(number) for number in result)
        closed = _touched((*box[:2], box[2] + 1e-9, box[3] + 1e-9), side, rows, columns)
        tall, wide = side / rows, side / columns
        wrongs = {
            "a box that ends exactly on a border does not touch the patch beyond it: boxes are half-open": closed,
            "patches are numbered along the rows: number = row * columns + column": sorted(
                (n % columns) * rows + n // columns for n in expected
            ),
            "these are token numbers: the class token, number 0 of the tokens, is no patch": [n + 1 for n in expected],
            "x and y are swapped: a box is (x0, y0, x1, y1), and rows go with y": _touched(
                (box[1], box[0], box[3], box[2]), side, rows, columns
            ),
            "only the patch of the box's centre was taken": [
                int((box[1] + box[3]) / 2 // tall) * columns + int((box[0] + box[2]) / 2 // wide)
            ],
        }
        if got != expected:
            cause = next((cause for cause, value in wrongs.items() if got == value), None)
            return wrong(
                expected=f"patches {expected} for the box {box} on {rows} rows and {columns} columns",
                got=f"patches {got}",
                cause=cause or "draw the grid on paper, 250 wide and 200 tall a patch, and put the box on it",
            )
    return right("Add 1 to each, for the class token, and you have the tokens that hold the lesion.")


TOUCHED = Exercise(
    id="ch03.touched",
    title="Which tokens hold the lesion?",
    prompt="Write `touched(box, side, rows, columns)`: the sorted numbers of the patches that share some area with a box "
    "(x0, y0, x1, y1; half-open) in an image of `side` by `side` pixels, cut into rows by columns patches. The class token is "
    "not counted.",
    answer="touched",
    check=_check_touched,
    hints=(
        "How tall and how wide is one patch, in the pixels of the box?",
        "The first row touched is floor(y0 / tall). The last row touched is *before* ceil(y1 / tall).",
        "rows: range(floor(y0 / tall), ceil(y1 / tall)); columns the same with x; number = row * columns + column.",
    ),
    stub="def touched(box, side, rows, columns):\n    raise NotImplementedError  # a list of patch numbers\n",
    solution=(
        "def touched(box, side, rows, columns):\n"
        "    x0, y0, x1, y1 = box\n"
        "    tall, wide = side / rows, side / columns\n"
        "    return [\n"
        "        row * columns + column\n"
        "        for row in range(math.floor(y0 / tall), math.ceil(y1 / tall))\n"
        "        for column in range(math.floor(x0 / wide), math.ceil(x1 / wide))\n"
        "    ]\n"
    ),
    alternatives=(
        "def touched(box, side, rows, columns):\n"
        "    x0, y0, x1, y1 = (int(v) for v in box)\n"
        "    mask = torch.zeros(1, 1, side, side)\n"
        "    mask[..., y0:y1, x0:x1] = 1\n"
        "    grid = torch.nn.functional.max_pool2d(mask, (side // rows, side // columns))\n"
        "    return grid.flatten().nonzero().flatten()\n",
    ),
    mutants={
        "half-open": "def touched(box, side, rows, columns):\n    x0, y0, x1, y1 = box\n    t, w = side / rows, side / columns\n"
        "    return [r * columns + c for r in range(int(y0 // t), int(y1 // t) + 1) for c in range(int(x0 // w), int(x1 // w) + 1)]\n",
        "numbered along the rows": "def touched(box, side, rows, columns):\n    x0, y0, x1, y1 = box\n"
        "    t, w = side / rows, side / columns\n"
        "    return sorted(c * rows + r for r in range(int(y0 // t), math.ceil(y1 / t)) for c in range(int(x0 // w), math.ceil(x1 / w)))\n",
        "token numbers": "def touched(box, side, rows, columns):\n    x0, y0, x1, y1 = box\n    t, w = side / rows, side / columns\n"
        "    return [1 + r * columns + c for r in range(int(y0 // t), math.ceil(y1 / t)) for c in range(int(x0 // w), math.ceil(x1 / w))]\n",
        "centre": "def touched(box, side, rows, columns):\n    x0, y0, x1, y1 = box\n    t, w = side / rows, side / columns\n"
        "    return [int((y0 + y1) / 2 // t) * columns + int((x0 + x1) / 2 // w)]\n",
    },
    setup="import math\nimport torch\n",
    level="core",
    minutes=10,
)


def _resample(pos_1ND: torch.Tensor, old, new, *, mode: str = "bicubic") -> torch.Tensor:
    """The right answer, and with another mode a wrong one."""
    grid_1Dyx = pos_1ND[:, 1:].reshape(1, *old, -1).permute(0, 3, 1, 2)
    grid_1Dyx = F.interpolate(grid_1Dyx, size=new, mode=mode, antialias=mode != "nearest")
    return torch.cat([pos_1ND[:, :1], grid_1Dyx.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def _check_resample(resample) -> Verdict:
    old, new, D = (3, 5), (7, 10), 4
    pos_1ND = torch.randn(1, 1 + 15, D, generator=torch.Generator().manual_seed(0))
    right_1ND = _resample(pos_1ND, old, new)
    scrambled = pos_1ND[:, 1:].reshape(1, D, *old)
    scrambled = F.interpolate(scrambled, size=new, mode="bicubic", antialias=True).reshape(1, D, -1).transpose(1, 2)
    line = F.interpolate(pos_1ND[:, 1:].transpose(1, 2), size=70, mode="linear").transpose(1, 2)
    tilted = _resample(pos_1ND, (5, 3), new)
    return compare(
        resample(pos_1ND.clone(), old, new),
        right_1ND,
        what="positions resampled from 3 by 5 to 7 by 10 patches",
        causes={
            "the class token's position was lost: it must come first, unchanged": right_1ND[:, 1:],
            "the positions were stretched along the list, not over the grid: the end of one row runs into the next": torch.cat(
                [pos_1ND[:, :1], line], dim=1
            ),
            "a reshape put the width before the grid without moving the axes: use permute": torch.cat([pos_1ND[:, :1], scrambled], 1),
            "rows and columns of the old grid are swapped": tilted,
            "bilinear, not bicubic, interpolation was used": _resample(pos_1ND, old, new, mode="bilinear"),
        },
        note="This is what `fit_positions` does, and timm's `resample_abs_pos_embed`.",
        atol=1e-5,
    )


RESAMPLE = Exercise(
    id="ch03.resample",
    title="Positions for a larger film",
    prompt="Write `resample(pos_1ND, old, new)`: positions of a class token and an old = (rows, columns) grid of patches, "
    "resampled bicubically (antialias=True) to the new grid. The class token's position stays as it is.",
    answer="resample",
    check=_check_resample,
    hints=(
        "Take the first row off; it belongs to no place. Put it back at the end.",
        "`F.interpolate` wants pictures [1, D, rows, columns]: reshape to the grid first, then move D to the front.",
        "reshape(1, *old, -1).permute(0, 3, 1, 2), interpolate, permute(0, 2, 3, 1).flatten(1, 2), torch.cat.",
    ),
    stub="def resample(pos_1ND, old, new):\n    raise NotImplementedError  # [1, 1 + rows * columns, D] in and out\n",
    solution=(
        "def resample(pos_1ND, old, new):\n"
        "    cls_11D, grid_1PD = pos_1ND[:, :1], pos_1ND[:, 1:]\n"
        "    picture = grid_1PD.reshape(1, *old, -1).permute(0, 3, 1, 2)  # [1, D, rows, columns]\n"
        '    picture = F.interpolate(picture, size=new, mode="bicubic", antialias=True)\n'
        "    return torch.cat([cls_11D, picture.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)\n"
    ),
    alternatives=(
        "def resample(pos_1ND, old, new):\n"
        "    columns = [\n"
        "        F.interpolate(pos_1ND[0, 1:, d].reshape(1, 1, *old), size=new, mode='bicubic', antialias=True).flatten()\n"
        "        for d in range(pos_1ND.shape[-1])\n"
        "    ]\n"
        "    return torch.cat([pos_1ND[0, :1], torch.stack(columns, dim=1)])[None]\n",
    ),
    mutants={
        "class token's position was lost": "def resample(pos_1ND, old, new):\n"
        "    p = pos_1ND[:, 1:].reshape(1, *old, -1).permute(0, 3, 1, 2)\n"
        "    return F.interpolate(p, size=new, mode='bicubic', antialias=True).permute(0, 2, 3, 1).flatten(1, 2)\n",
        "along the list": "def resample(pos_1ND, old, new):\n"
        "    line = F.interpolate(pos_1ND[:, 1:].transpose(1, 2), size=new[0] * new[1], mode='linear').transpose(1, 2)\n"
        "    return torch.cat([pos_1ND[:, :1], line], dim=1)\n",
        "use permute": "def resample(pos_1ND, old, new):\n    D = pos_1ND.shape[-1]\n"
        "    p = F.interpolate(pos_1ND[:, 1:].reshape(1, D, *old), size=new, mode='bicubic', antialias=True)\n"
        "    return torch.cat([pos_1ND[:, :1], p.reshape(1, D, -1).transpose(1, 2)], dim=1)\n",
        "bilinear": "def resample(pos_1ND, old, new):\n"
        "    p = pos_1ND[:, 1:].reshape(1, *old, -1).permute(0, 3, 1, 2)\n"
        "    p = F.interpolate(p, size=new, mode='bilinear', antialias=True).permute(0, 2, 3, 1).flatten(1, 2)\n"
        "    return torch.cat([pos_1ND[:, :1], p], dim=1)\n",
    },
    setup="import torch\nimport torch.nn.functional as F\n",
    level="core",
    minutes=12,
)


def _stirred_vit() -> VisionTransformer:
    """A tiny ViT whose weights are large enough that the order of its patches matters."""
    vit = VisionTransformer(image_size=(32, 24), patch_size=8, in_channels=1, num_classes=0, width=20, depth=2, heads=4)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return vit.eval()


def _encode(vit: VisionTransformer, x_BND: torch.Tensor) -> torch.Tensor:
    for block in vit.blocks:
        x_BND, _ = block(x_BND)
    return vit.norm(x_BND)


@torch.no_grad()
def _check_order(order_gap) -> Verdict:
    vit = _stirred_vit()
    img_BIYX = torch.randn(2, 1, 32, 24, generator=torch.Generator().manual_seed(4))
    order_P = torch.tensor([7, 3, 11, 0, 5, 9, 1, 10, 2, 8, 6, 4])
    x_BPD = vit.patch_embed(img_BIYX)
    cls_B1D = vit.cls_token.expand(2, -1, -1)
    plain_BND = _encode(vit, torch.cat([cls_B1D, x_BPD], 1) + vit.pos_embed)
    mixed_BND = _encode(vit, torch.cat([cls_B1D, x_BPD[:, order_P]], 1) + vit.pos_embed)
    gap_BND = (plain_BND - mixed_BND).abs()
    got = order_gap(vit, img_BIYX.clone(), order_P.clone())
    value = float(got) if getattr(got, "ndim", 0) == 0 and got is not None else None
    if value is not None and value < 1e-4:
        return wrong(
            expected=f"about {gap_BND[:, 0].max():.3g} with this model, whose positions are not zero",
            got=f"{value:.2g}",
            cause="each position travelled with its patch: shuffle the patch tokens before the positions are added, not after",
        )
    return compare(
        got,
        gap_BND[:, 0].max(),
        what="the largest change in the class token's output",
        causes={
            "all tokens were compared; patch tokens change places, so only the class token can be compared": gap_BND.max(),
            "the mean change was taken, not the largest": gap_BND[:, 0].mean(),
        },
        note="Set the model's positions to zero, and the gap is rounding error.",
        rtol=1e-3,
    )


ORDER = Exercise(
    id="ch03.gap",
    title="Measure a model's sense of order",
    prompt="Write `order_gap(model, img_BIYX, order_P)`: embed the image's patches, shuffle the patch tokens by order_P, and "
    "return the largest absolute change of the class token's output. The places keep their positions.",
    answer="order_gap",
    check=_check_order,
    hints=(
        "You need the encoder twice: once on the tokens as they are, once on the shuffled ones.",
        "`model.patch_embed(img)` gives [B, P, D]. Index its second axis with order_P, then do what `embed` does.",
        "Class token in front, + model.pos_embed, each block (`x, _ = block(x)`), model.norm; compare [:, 0]; .abs().max().",
    ),
    stub="def order_gap(model, img_BIYX, order_P):\n    raise NotImplementedError  # one number\n",
    solution=(
        "def order_gap(model, img_BIYX, order_P):\n"
        "    def class_output(x_BPD):\n"
        "        cls_B1D = model.cls_token.expand(len(x_BPD), -1, -1)\n"
        "        x_BND = torch.cat([cls_B1D, x_BPD], dim=1) + model.pos_embed\n"
        "        for block in model.blocks:\n"
        "            x_BND, _ = block(x_BND)\n"
        "        return model.norm(x_BND)[:, 0]\n\n"
        "    x_BPD = model.patch_embed(img_BIYX)\n"
        "    return (class_output(x_BPD) - class_output(x_BPD[:, order_P])).abs().max()\n"
    ),
    alternatives=(
        "def order_gap(model, img_BIYX, order_P):\n"
        "    size, (rows, columns) = model.patch_size, model.grid\n"
        "    pixels = torch.nn.functional.unfold(img_BIYX, size, stride=size)[:, :, order_P]\n"
        "    shuffled = torch.nn.functional.fold(pixels, model.image_size, size, stride=size)\n"
        "    return (model(img_BIYX).tokens_BND[:, 0] - model(shuffled).tokens_BND[:, 0]).abs().max().item()\n",
    ),
    mutants={
        "position travelled with its patch": "def order_gap(model, img_BIYX, order_P):\n"
        "    def run(x):\n        for block in model.blocks:\n            x, _ = block(x)\n        return model.norm(x)[:, 0]\n"
        "    x = model.embed(img_BIYX)\n    y = torch.cat([x[:, :1], x[:, 1:][:, order_P]], 1)\n"
        "    return (run(x) - run(y)).abs().max()\n",
        "all tokens were compared": "def order_gap(model, img_BIYX, order_P):\n"
        "    def run(x):\n        x = torch.cat([model.cls_token.expand(len(x), -1, -1), x], 1) + model.pos_embed\n"
        "        for block in model.blocks:\n            x, _ = block(x)\n        return model.norm(x)\n"
        "    x = model.patch_embed(img_BIYX)\n    return (run(x) - run(x[:, order_P])).abs().max()\n",
        "mean change": "def order_gap(model, img_BIYX, order_P):\n"
        "    def run(x):\n        x = torch.cat([model.cls_token.expand(len(x), -1, -1), x], 1) + model.pos_embed\n"
        "        for block in model.blocks:\n            x, _ = block(x)\n        return model.norm(x)[:, 0]\n"
        "    x = model.patch_embed(img_BIYX)\n    return (run(x) - run(x[:, order_P])).abs().mean()\n",
    },
    setup="import torch\n",
    level="stretch",
    minutes=15,
)

EXERCISES = (COUNT, CUT, TOUCHED, RESAMPLE, ORDER)

QUESTIONS = (
    Question(
        id="ch03.pairs",
        prompt="You halve the patch side, from 16 to 8 pixels. How many times as many pairs of tokens does attention compare?",
        unit="times as many",
        why="Half the side is four times the patches, and pairs grow with the square of the tokens.",
        close=0.1,
    ),
    Question(
        id="ch03.nodules",
        prompt="On a 14 by 14 grid, for what share of NIH's nodule boxes does the best box of whole patches overlap by more than half?",
        unit="%",
        why="A nodule is about as large as a patch, and it seldom lies exactly on one.",
    ),
    Question(
        id="ch03.shuffle",
        prompt="Positions are zero and the film's patches are shuffled. What happens to the class token's output?",
        choices={"a": "it changes completely", "b": "it changes a little", "c": "it does not change"},
        why="Attention is a weighted sum over the tokens, and a sum does not know the order of its terms.",
    ),
    Question(
        id="ch03.place",
        prompt="A reader finds nodules patch by patch. You add a learned position to each token. What do its hits do?",
        choices={
            "a": "nothing clear: a nodule looks the same everywhere",
            "b": "they rise clearly",
            "c": "they fall clearly: the position blurs the pixels' numbers",
        },
        why="The same grey disc is a nodule in the lung, and gas or bone elsewhere; the token now says where it is.",
    ),
    Question(
        id="ch03.mirror",
        prompt="Positions learnt from films alone: which places grow alike to a place in the right lung?",
        choices={
            "a": "its neighbours only",
            "b": "its neighbours, and the same place in the other lung",
            "c": "all places of its row",
        },
        why="Nobody told the model that a chest has two lungs; patches that brighten together get positions that are alike.",
    ),
    Question(
        id="ch03.size",
        prompt="Patches of 8, 16 and 32 pixels: which picture will the shares of nodules found give?",
        choices={
            "a": "8 clearly before 16, and 16 clearly before 32",
            "b": "32 clearly last; 8 and 16 too close to call",
            "c": "16 clearly first: a nodule fits one such patch",
            "d": "none of these",
        },
        why="This reader sees one token at a time: a large patch makes it learn the nodule again at each offset.",
    ),
)
