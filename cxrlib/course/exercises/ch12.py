"""Chapter 12's exercises and questions."""

import numpy as np
from scipy.ndimage import distance_transform_cdt, distance_transform_edt

from cxrlib.course.compare import as_array, compare
from cxrlib.course.exercise import Exercise, Question, Verdict, wrong


def _check_patches(on_patches) -> Verdict:
    region_YX = np.zeros((12, 20), dtype=bool)
    region_YX[3, 6] = region_YX[4:12, 13:17] = True
    region_YX[9, 0] = region_YX[2, 10] = True
    cells = region_YX.reshape(3, 4, 5, 4)
    got = as_array(on_patches(region_YX, 4))
    return compare(
        None if got is None else got.astype(float),
        cells.any(axis=(1, 3)).astype(float),
        what="patches of 4 by 4 pixels that touch a region of 12 by 20 pixels, as 3 rows and 5 columns",
        causes={
            "a patch was counted only where all of it lies inside: any part is enough": cells.all(axis=(1, 3)).astype(float),
            "a patch was counted where at least half of it lies inside: any part is enough": (cells.mean(axis=(1, 3)) >= 0.5) * 1.0,
            "a patch was judged by one of its pixels: any part is enough": region_YX[2::4, 2::4].astype(float),
            "a patch was judged by its first pixel: any part is enough": region_YX[::4, ::4].astype(float),
            "these are the parts that lie inside, not yes or no": cells.mean(axis=(1, 3)),
            "the pixels were cut into pieces that are no patches: rows and columns were mixed by the reshape": region_YX.reshape(
                3, 5, 4, 4
            )
            .any(axis=(2, 3))
            .astype(float),
        },
        note="The price: on a coarse grid the region grows by up to a patch on each side.",
    )


def _corners(box):
    x0, y0, x1, y1 = box
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], float)


def _around(points_42):
    return np.concatenate([points_42.min(axis=0), points_42.max(axis=0)])


def _check_box(move_box) -> Verdict:
    box = (12.0, 30.0, 40.0, 46.0)
    turn = np.deg2rad(14)
    matrix = np.array([[np.cos(turn), -np.sin(turn), 9.0], [np.sin(turn), np.cos(turn), -5.0]]) * np.array([0.8, 0.8, 1.0])
    A, b, corners = matrix[:, :2], matrix[:, 2], _corners(box)
    back = (corners - b) @ np.linalg.inv(A).T
    return compare(
        move_box(box, matrix),
        _around(back),
        what="the box (12, 30, 40, 46), moved by a turn of 14 degrees, a scale and a shift",
        causes={
            "the matrix was applied to the box as it is: it leads from new to old, and a box goes from old to new": _around(
                corners @ A.T + b
            ),
            "only two corners were moved: after a turn the other two stick out furthest": np.concatenate([back[0], back[2]]),
            "the inverse of A was applied before the offset was taken off: x_old - b comes first": _around(
                corners @ np.linalg.inv(A).T - b
            ),
            "the offset was left out": _around(corners @ np.linalg.inv(A).T),
            "the offset was added, not taken off": _around((corners + b) @ np.linalg.inv(A).T),
            "A was transposed, not inverted: that undoes the turn, but not the scale": _around((corners - b) @ A),
            "x and y are exchanged in the result": _around(back)[[1, 0, 3, 2]],
        },
        note="The upright box around a turned box is a little too large. It holds what it held.",
    )


def _check_distance(distance_map) -> Verdict:
    region_yx = np.zeros((5, 9), dtype=bool)
    region_yx[1, 2] = region_yx[3:5, 6] = True
    straight = distance_transform_edt(~region_yx)
    h, w = region_yx.shape
    y, x = np.mgrid[:h, :w]
    middle = np.argwhere(region_yx).mean(axis=0)
    return compare(
        distance_map(region_yx),
        straight / np.hypot(h, w),
        what="the distance map of a region of three patches on 5 rows and 9 columns",
        causes={
            "the distances are in patches: divide by the diagonal of the grid": straight,
            "the distances are not straight but counted in steps along rows and columns": distance_transform_cdt(
                ~region_yx, metric="taxicab"
            )
            / np.hypot(h, w),
            "diagonal steps were counted as one: take the straight line": distance_transform_cdt(~region_yx, metric="chessboard")
            / np.hypot(h, w),
            "the square root is missing": straight**2 / np.hypot(h, w),
            "inside and outside are exchanged: inside is 0": distance_transform_edt(region_yx) / np.hypot(h, w),
            "divided by the height plus the width, not by the diagonal": straight / (h + w),
            "divided by the largest distance: then a region that nearly fills the film looks as bad as one that does not": straight
            / straight.max(),
            "this is the distance to the middle of the region, not to its nearest patch": np.hypot(y - middle[0], x - middle[1])
            / np.hypot(h, w),
        },
        note="In chapter 14 a heatmap's light is weighed with it.",
    )


def _check_region(my_region) -> Verdict:
    heart, spine, lung = (np.zeros((20, 30), dtype=bool) for _ in range(3))
    heart[8:12, 12:17] = True
    spine[2:18, 15:17] = True
    lung[3:9, 3:7] = True
    structures = {"Heart": heart, "Spine": spine, "Left Lung": lung}
    names = ("Heart", "Weasand", "Spine")
    union = heart | spine
    away = distance_transform_edt(~union)
    got = as_array(my_region(structures, names, 0.1))
    if got is not None and got.shape == union.shape and got.dtype.kind != "b" and not np.isin(got, (0, 1)).all():
        return wrong(
            expected="a boolean mask of 20 by 30 pixels",
            got=f"numbers up to {got.max():.3g}",
            cause="these are distances: compare them with the radius to get the mask",
        )
    both = heart & spine
    return compare(
        None if got is None else got.astype(float),
        (away <= 2).astype(float),
        what="heart and spine on 20 by 30 pixels, grown by 0.1 of the height; the oesophagus is asked for and missing",
        causes={
            "nothing was grown": union.astype(float),
            "the radius is a share of the width: take the height": (away <= 3).astype(float),
            "pixels at exactly the radius were left out: at most that far away": (away < 2).astype(float),
            "grown to a square: all pixels within a straight distance make a disc": (
                distance_transform_cdt(~union, metric="chessboard") <= 2
            ).astype(float),
            "all structures were united, not only the named ones": (distance_transform_edt(~(union | lung)) <= 2).astype(float),
            "only the pixels common to all structures were taken: unite them": (distance_transform_edt(~both) <= 2).astype(float),
            "only one of the structures was used: unite them all": (distance_transform_edt(~heart) <= 2).astype(float),
            "only the last structure was used: unite them all": (distance_transform_edt(~spine) <= 2).astype(float),
        },
        note="The library's own `region` also grows downwards, and can keep the lower half only.",
    )


def _rows(low, high, size):
    start = np.arange(size)
    return np.clip(np.minimum(high, start + 1) - np.maximum(low, start), 0, None)


def _check_share(share) -> Verdict:
    region_YX = np.zeros((10, 16), dtype=bool)
    region_YX[2:7, 3:9] = True
    boxes = ((5.25, 4.5, 11.0, 8.25), (-3.0, 1.5, 4.5, 3.25), (3.5, 2.5, 8.0, 6.5))

    def right(box, region=region_YX):
        rows, columns = _rows(box[1], box[3], region.shape[0]), _rows(box[0], box[2], region.shape[1])
        return rows @ region @ columns / (rows.sum() * columns.sum())

    def whole(box):
        x0, y0, x1, y1 = box
        y, x = np.mgrid[: region_YX.shape[0], : region_YX.shape[1]]
        touched = (x + 1 > x0) & (x < x1) & (y + 1 > y0) & (y < y1)
        return (touched & region_YX).sum() / touched.sum()

    def rounded(box):
        x0, y0, x1, y1 = (max(0, int(v)) for v in box)
        return region_YX[y0:y1, x0:x1].mean()

    def off_film(box):
        rows, columns = _rows(box[1], box[3], 10), _rows(box[0], box[2], 16)
        return rows @ region_YX @ columns / ((box[2] - box[0]) * (box[3] - box[1]))

    def of_region(box):
        rows, columns = _rows(box[1], box[3], 10), _rows(box[0], box[2], 16)
        return rows @ region_YX @ columns / region_YX.sum()

    def area(box):
        rows, columns = _rows(box[1], box[3], 10), _rows(box[0], box[2], 16)
        return rows @ region_YX @ columns

    def exchanged(box):
        rows, columns = _rows(box[0], box[2], 10), _rows(box[1], box[3], 16)
        return rows @ region_YX @ columns / max(rows.sum() * columns.sum(), 1e-9)

    return compare(
        [share(box, region_YX) for box in boxes],
        [right(box) for box in boxes],
        what="shares inside of three boxes with parts of pixels; the second hangs over the film's left edge",
        causes={
            "every touched pixel was counted whole: count the part that the box covers": [whole(box) for box in boxes],
            "the box was cut to whole pixels: count parts of pixels": [rounded(box) for box in boxes],
            "what hangs over the film's edge was counted as outside: leave it out of the box's area": [off_film(box) for box in boxes],
            "divided by the region's area: the question is about the box": [of_region(box) for box in boxes],
            "this is an area, not a share": [area(box) for box in boxes],
            "x and y are exchanged: x runs along columns": [exchanged(box) for box in boxes],
        },
        note="Two short vectors and one product: no loop over pixels.",
    )


_PATCHES = (
    "def on_patches(region_YX, patch):\n"
    "    Y, X = region_YX.shape\n"
    "    return region_YX.reshape(Y // patch, patch, X // patch, patch).any(axis=(1, 3))\n"
)

_BOX = (
    "def move_box(box, matrix):\n"
    "    x0, y0, x1, y1 = box\n"
    "    corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])\n"
    "    moved = np.linalg.solve(matrix[:, :2], (corners - matrix[:, 2]).T).T\n"
    "    return [*moved.min(axis=0), *moved.max(axis=0)]\n"
)

_DISTANCE = (
    "def distance_map(region_yx):\n"
    "    h, w = region_yx.shape\n"
    "    y, x = np.mgrid[:h, :w]\n"
    "    inside = np.argwhere(region_yx)\n"
    "    square = (y[..., None] - inside[:, 0]) ** 2 + (x[..., None] - inside[:, 1]) ** 2\n"
    "    return np.sqrt(square.min(axis=-1)) / np.hypot(h, w)\n"
)

_REGION = (
    "def my_region(structures, names, grow):\n"
    "    union = np.any([structures[name] for name in names if name in structures], axis=0)\n"
    "    return distance_transform_edt(~union) <= grow * union.shape[0]\n"
)

_SHARE = (
    "def share(box, region_YX):\n"
    "    x0, y0, x1, y1 = box\n"
    "    Y, X = region_YX.shape\n"
    "    rows = np.clip(np.minimum(y1, np.arange(Y) + 1) - np.maximum(y0, np.arange(Y)), 0, None)\n"
    "    columns = np.clip(np.minimum(x1, np.arange(X) + 1) - np.maximum(x0, np.arange(X)), 0, None)\n"
    "    return rows @ region_YX @ columns / (rows.sum() * columns.sum())\n"
)

_SETUP = "import numpy as np\nfrom scipy.ndimage import distance_transform_edt\n"

EXERCISES = (
    Exercise(
        id="ch12.patches",
        title="A region on patches",
        prompt="Write `on_patches(region_YX, patch)`: which patches of `patch` by `patch` pixels have any part in the region.",
        answer="on_patches",
        check=_check_patches,
        hints=(
            "Cut the mask as chapter 3 cuts an image: rows of patches, rows of pixels, columns of patches, columns of pixels.",
            "reshape(Y // patch, patch, X // patch, patch) puts the pixels of a patch on axes 1 and 3.",
            "Now ask for each patch whether any of its pixels is True: .any over those two axes.",
        ),
        stub="def on_patches(region_YX, patch):\n    raise NotImplementedError  # a boolean grid\n",
        solution=_PATCHES,
        alternatives=(
            "def on_patches(region_YX, patch):\n"
            "    import torch\n"
            "    import torch.nn.functional as F\n"
            "    return F.max_pool2d(torch.tensor(region_YX)[None, None].float(), patch)[0, 0].bool()\n",
        ),
        mutants={
            "all of it lies inside": _PATCHES.replace(".any(", ".all("),
            "at least half": _PATCHES.replace(".any(axis=(1, 3))", ".mean(axis=(1, 3)) >= 0.5"),
            "first pixel": "def on_patches(region_YX, patch):\n    return region_YX[::patch, ::patch]\n",
            "one of its pixels": "def on_patches(region_YX, patch):\n    return region_YX[patch // 2 :: patch, patch // 2 :: patch]\n",
            "not yes or no": _PATCHES.replace(".any(", ".mean("),
            "no patches": _PATCHES.replace("(Y // patch, patch, X // patch, patch).any(axis=(1, 3))", "(Y // patch, X // patch, patch, patch).any(axis=(2, 3))"),
        },
        setup=_SETUP,
        level="warm-up",
        minutes=5,
    ),
    Exercise(
        id="ch12.box",
        title="Move a box",
        prompt=(
            "Write `move_box(box, matrix)`: the new upright box (x0, y0, x1, y1) of one box, for a matrix of 2 by 3 that leads "
            "from new pixels to old ones."
        ),
        answer="move_box",
        check=_check_box,
        hints=(
            "A box has four corners. Move each of them, then draw the upright box around them.",
            "From x_old = A x_new + b follows x_new = A^-1 (x_old - b).",
            "np.linalg.inv(matrix[:, :2]), and then the smallest and largest x and y of the four moved corners.",
        ),
        stub="def move_box(box, matrix):\n    raise NotImplementedError  # return x0, y0, x1, y1\n",
        solution=_BOX,
        alternatives=(
            "def move_box(box, matrix):\n"
            "    import torch\n"
            "    from cxrlib.priors import move_boxes\n"
            "    return move_boxes(torch.tensor([box], dtype=torch.float64), torch.tensor(matrix))[0]\n",
            "def move_box(box, matrix):\n"
            "    back = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))\n"
            "    points = np.array([back @ (x, y, 1) for x in box[::2] for y in box[1::2]])\n"
            "    return points[:, 0].min(), points[:, 1].min(), points[:, 0].max(), points[:, 1].max()\n",
        ),
        mutants={
            "applied to the box as it is": _BOX.replace(
                "np.linalg.solve(matrix[:, :2], (corners - matrix[:, 2]).T).T", "corners @ matrix[:, :2].T + matrix[:, 2]"
            ),
            "only two corners": _BOX.replace("return [*moved.min(axis=0), *moved.max(axis=0)]", "return [*moved[0], *moved[2]]"),
            "before the offset": _BOX.replace("(corners - matrix[:, 2]).T).T", "corners.T).T - matrix[:, 2]"),
            "offset was left out": _BOX.replace("(corners - matrix[:, 2])", "corners"),
            "added, not taken off": _BOX.replace("corners - matrix", "corners + matrix"),
            "transposed, not inverted": _BOX.replace(
                "np.linalg.solve(matrix[:, :2], (corners - matrix[:, 2]).T).T", "(corners - matrix[:, 2]) @ matrix[:, :2]"
            ),
            "exchanged in the result": _BOX.replace("moved.min(axis=0), *moved.max(axis=0)", "moved.min(axis=0)[::-1], *moved.max(axis=0)[::-1]"),
        },
        setup=_SETUP,
        level="core",
        minutes=12,
    ),
    Exercise(
        id="ch12.distance",
        title="How far",
        prompt=(
            "Write `distance_map(region_yx)`: for each patch the straight distance to the nearest patch of the region, as a share "
            "of the grid's diagonal."
        ),
        answer="distance_map",
        check=_check_distance,
        hints=(
            "Inside it is 0. Outside, look at every patch of the region and keep the nearest.",
            "np.argwhere lists the region's patches. Their squared distance is rows squared plus columns squared.",
            "Take the smallest, then its root, then divide by np.hypot(h, w).",
        ),
        stub="def distance_map(region_yx):\n    raise NotImplementedError  # the same shape as region_yx\n",
        solution=_DISTANCE,
        alternatives=(
            "def distance_map(region_yx):\n"
            "    return distance_transform_edt(~region_yx) / np.sqrt(region_yx.shape[0] ** 2 + region_yx.shape[1] ** 2)\n",
            "def distance_map(region_yx):\n"
            "    import torch\n"
            "    from cxrlib.losses.masks import distance_maps\n"
            "    return distance_maps(torch.tensor(region_yx)[None, None].float())[0, 0]\n",
        ),
        mutants={
            "in patches": _DISTANCE.replace(" / np.hypot(h, w)", ""),
            "in steps": _DISTANCE.replace(") ** 2 + (x", ") + abs(x").replace("square = (y", "square = abs(y").replace(
                "inside[:, 1]) ** 2", "inside[:, 1])"
            ).replace("np.sqrt(square.min(axis=-1))", "square.min(axis=-1)"),
            "counted as one": _DISTANCE.replace(
                "(y[..., None] - inside[:, 0]) ** 2 + (x[..., None] - inside[:, 1]) ** 2",
                "np.maximum(abs(y[..., None] - inside[:, 0]), abs(x[..., None] - inside[:, 1])) ** 2",
            ),
            "square root is missing": _DISTANCE.replace("np.sqrt(square.min(axis=-1))", "square.min(axis=-1)"),
            "are exchanged": _DISTANCE.replace("np.argwhere(region_yx)", "np.argwhere(~region_yx)"),
            "height plus the width": _DISTANCE.replace("np.hypot(h, w)", "(h + w)"),
            "largest distance": _DISTANCE.replace("np.hypot(h, w)", "np.sqrt(square.min(axis=-1)).max()"),
            "to the middle": _DISTANCE.replace("np.argwhere(region_yx)", "np.argwhere(region_yx).mean(axis=0, keepdims=True)"),
        },
        setup=_SETUP,
        level="core",
        minutes=12,
    ),
    Exercise(
        id="ch12.region",
        title="A region from a rule",
        prompt=(
            "Write `my_region(structures, names, grow)`: unite the named structures, those that are there, and add every pixel at "
            "most `grow` times the image's height away."
        ),
        answer="my_region",
        check=_check_region,
        hints=(
            "First the union: a pixel is in if any of the named masks has it. A name that is missing adds nothing.",
            "distance_transform_edt(~union) gives, for each pixel, how far the union is.",
            "A pixel is in where that distance is at most grow * union.shape[0].",
        ),
        stub="def my_region(structures, names, grow):\n    raise NotImplementedError  # a boolean mask\n",
        solution=_REGION,
        alternatives=(
            "def my_region(structures, names, grow):\n"
            "    from cxrlib.priors import Rule, region\n"
            "    return region(structures, Rule(tuple(names), grow, 0.0, 'all'))\n",
            "def my_region(structures, names, grow):\n"
            "    union = sum(structures[name].astype(int) for name in names if name in structures) > 0\n"
            "    radius = grow * len(union)\n"
            "    grown = union.copy()\n"
            "    y, x = np.mgrid[: union.shape[0], : union.shape[1]]\n"
            "    for row, column in np.argwhere(union):\n"
            "        grown |= (y - row) ** 2 + (x - column) ** 2 <= radius**2 + 1e-9\n"
            "    return grown\n",
        ),
        mutants={
            "nothing was grown": _REGION.replace("distance_transform_edt(~union) <= grow * union.shape[0]", "union"),
            "share of the width": _REGION.replace("union.shape[0]", "union.shape[1]"),
            "left out": _REGION.replace("<=", "<"),
            "to a square": _REGION.replace(
                "distance_transform_edt(~union) <= grow * union.shape[0]",
                "np.lib.stride_tricks.sliding_window_view(np.pad(union, 2), (5, 5)).any(axis=(2, 3))",
            ),
            "all structures were united": _REGION.replace("[structures[name] for name in names if name in structures]", "list(structures.values())"),
            "common to all": _REGION.replace("np.any(", "np.all("),
            "these are distances": _REGION.replace(" <= grow * union.shape[0]", ""),
        },
        setup=_SETUP,
        level="core",
        minutes=10,
    ),
    Exercise(
        id="ch12.share",
        title="Part of a pixel",
        prompt=(
            "Write `share(box, region_YX)`: which share of the box's area, as far as it lies on the film, is inside the region. "
            "Count parts of pixels."
        ),
        answer="share",
        check=_check_share,
        hints=(
            "Pixel i covers the interval from i to i + 1. Which part of it does the box cover along x?",
            "min(x1, i + 1) - max(x0, i), but not below 0. The same for rows. A pixel's part is the product of both.",
            "With vectors rows [Y] and columns [X]: rows @ region_YX @ columns is the area inside, and rows.sum() * columns.sum() all of it.",
        ),
        stub="def share(box, region_YX):\n    raise NotImplementedError  # a number from 0 to 1\n",
        solution=_SHARE,
        alternatives=(
            "def share(box, region_YX):\n    from cxrlib.priors.check import share_inside\n    return share_inside(np.array(box), region_YX)\n",
            "def share(box, region_YX):\n"
            "    x0, y0, x1, y1 = box\n"
            "    inside = total = 0.0\n"
            "    for y in range(region_YX.shape[0]):\n"
            "        for x in range(region_YX.shape[1]):\n"
            "            part = max(0.0, min(x1, x + 1) - max(x0, x)) * max(0.0, min(y1, y + 1) - max(y0, y))\n"
            "            total += part\n"
            "            inside += part * region_YX[y, x]\n"
            "    return inside / total\n",
        ),
        mutants={
            "counted whole": _SHARE.replace("    return", "    rows, columns = np.ceil(rows), np.ceil(columns)\n    return"),
            "whole pixels": (
                "def share(box, region_YX):\n"
                "    x0, y0, x1, y1 = (max(0, int(value)) for value in box)\n"
                "    return region_YX[y0:y1, x0:x1].mean()\n"
            ),
            "film's edge": _SHARE.replace("(rows.sum() * columns.sum())", "((x1 - x0) * (y1 - y0))"),
            "region's area": _SHARE.replace("(rows.sum() * columns.sum())", "region_YX.sum()"),
            "not a share": _SHARE.replace(" / (rows.sum() * columns.sum())", ""),
            "are exchanged": _SHARE.replace("x0, y0, x1, y1 = box", "y0, x0, y1, x1 = box"),
        },
        setup=_SETUP,
        level="stretch",
        minutes=15,
    ),
)

QUESTIONS = (
    Question(
        id="ch12.even",
        prompt="A map is equally bright everywhere. What share of its light falls outside the finding's region, in per cent?",
        unit="per cent",
        why="A region covers less than half of the film, and that of the heart or of a hernia far less.",
        close=0.15,
    ),
    Question(
        id="ch12.heart",
        prompt="Of what share of NIH's Cardiomegaly boxes do at least 95 % lie inside the template's region, in per cent?",
        unit="per cent",
        why="A heart is round. The corners of the box around it lie outside every region that is shaped like a heart.",
        close=0.2,
    ),
    Question(
        id="ch12.stale",
        prompt="Films move with the recipe's usual strength. Which region holds more of the lesions?",
        choices={
            "a": "the exact one, left behind, by far",
            "b": "about the same",
            "c": "the template, which looks at no image",
        },
        why="An exact region is tight, so a small move carries lesions over its edge. The template is wide enough to forgive.",
    ),
    Question(
        id="ch12.lie",
        prompt="A patch shows a lesion but lies outside its region. With a confinement weight of 4, how bright is it after training?",
        unit="of 1",
        why="The slope of -log H + 4 H is zero at H = 1/4, however clear the evidence.",
        close=0.05,
    ),
)
