"""Chapter 1's exercises and questions."""

import numpy as np

from cxrlib.course.compare import as_array, compare
from cxrlib.course.exercise import Exercise, Question, Verdict, wrong

_LAYERS = ((0.2, 3.0), (0.5, 1.5), (0.05, 7.0))


def _check_transmitted(transmitted) -> Verdict:
    depth = sum(mu * t for mu, t in _LAYERS)
    return compare(
        transmitted(list(_LAYERS)),
        np.exp(-depth),
        what="the share of light behind three layers",
        causes={
            "that is the optical depth itself: the exponential is missing": depth,
            "the sign: light must fall with thickness": np.exp(depth),
            "shares of light multiply, they do not add: add inside the exponential": sum(np.exp(-m * t) for m, t in _LAYERS),
            "a share per centimetre was subtracted, but each centimetre takes a share of what is left": 1 - depth,
        },
        note="Order does not matter: a radiograph cannot tell which layer came first.",
    )


_VALUES_YX = np.linspace(-0.4, 4.6, 15).reshape(3, 5)


def _check_to_grey(to_grey) -> Verdict:
    low, high = 0.9, 3.1
    share = (_VALUES_YX - low) / (high - low)
    right = np.rint(255 * np.clip(share, 0, 1))
    got = to_grey(_VALUES_YX.copy(), low, high)
    wrapped = (np.trunc(255 * share).astype(int) % 256).astype(np.uint8)
    verdict = compare(
        got,
        right,
        what="the greys of a 3 by 5 film in the window 0.9 to 3.1",
        causes={
            "values outside the window wrapped around: clip before turning them into bytes": wrapped,
            "the values were cut down, not rounded to the nearest": np.floor(255 * np.clip(share, 0, 1)),
            "the film is scaled by its own range: low and high were not used": np.rint(
                255 * (_VALUES_YX - _VALUES_YX.min()) / np.ptp(_VALUES_YX)
            ),
            "the result runs from 0 to 1: the factor of 255 is missing": np.clip(share, 0, 1),
            "black and white are exchanged": 255 - right,
        },
        note="NIH did this once for every film. What it clipped, nobody can bring back.",
    )
    array = as_array(got)
    if verdict.passed and array.dtype != np.uint8:
        return wrong(
            expected="an array of type uint8",
            got=f"an array of type {array.dtype}",
            cause="the values are right, the type is not: the last step is .astype(np.uint8)",
        )
    return verdict


def _mask() -> np.ndarray:
    mask_YX = np.zeros((48, 32), dtype=bool)
    mask_YX[30:41, 5:9] = True
    mask_YX[36, 9:14] = True
    return mask_YX


def _check_box_of(box_of) -> Verdict:
    x0, y0, x1, y1 = 5.0, 30.0, 14.0, 41.0
    return compare(
        box_of(_mask()),
        np.array([x0, y0, x1, y1]),
        what="the box x0, y0, x1, y1 of a mask in a 48 by 32 film",
        causes={
            "x and y are exchanged: x counts columns, the second axis": np.array([y0, x0, y1, x1]),
            "x1 and y1 are the last true pixels: a half-open box ends one further": np.array([x0, y0, x1 - 1, y1 - 1]),
            "that is x, y, width, height, as NIH's table has it: add to get the far corner": np.array(
                [x0, y0, x1 - x0, y1 - y0]
            ),
        },
        note="Width is x1 - x0, with no +1, and moving to another size is one multiplication.",
    )


_FILM_YX = (np.arange(12 * 18).reshape(12, 18) ** 2 % 97).astype(np.float64)


def _check_shrink(shrink) -> Verdict:
    def blocks(axes):
        return _FILM_YX.reshape(4, 3, 6, 3).mean(axis=axes)

    right = blocks((1, 3))
    return compare(
        shrink(_FILM_YX.copy(), 3),
        right,
        what="a 12 by 18 film shrunk three times",
        causes={
            "one pixel of each block was kept: that is aliasing": _FILM_YX[::3, ::3],
            "the blocks were added up, not averaged": right * 9,
            "the averaged axes are not those inside a block: reshape to (4, 3, 6, 3) and average axes 1 and 3": (
                _FILM_YX.reshape(3, 4, 3, 6).mean(axis=(0, 2))
            ),
        },
        note="Fine stripes come out as even grey, as they should.",
    )


EXERCISES = (
    Exercise(
        id="ch01.transmitted",
        title="What gets through",
        prompt="Write `transmitted(layers)`: the share of light that gets through (coefficient per cm, thickness in cm) pairs.",
        answer="transmitted",
        check=_check_transmitted,
        hints=(
            "What adds up: the light, or what stands in its way?",
            "Add coefficient times thickness over the layers: that is the optical depth.",
            "The share is `np.exp` of minus that sum.",
        ),
        stub="def transmitted(layers):\n    raise NotImplementedError  # your line here\n",
        solution="def transmitted(layers):\n    return np.exp(-sum(mu * t for mu, t in layers))\n",
        alternatives=(
            "def transmitted(layers):\n    light = 1.0\n    for mu, t in layers:\n        light *= np.exp(-mu * t)\n    return light\n",
            "def transmitted(layers):\n    mu, t = np.array(layers).T\n    return float(np.exp(-(mu @ t)))\n",
        ),
        mutants={
            "exponential is missing": "def transmitted(layers):\n    return sum(mu * t for mu, t in layers)\n",
            "the sign": "def transmitted(layers):\n    return np.exp(sum(mu * t for mu, t in layers))\n",
            "multiply": "def transmitted(layers):\n    return sum(np.exp(-mu * t) for mu, t in layers)\n",
            "of what is left": "def transmitted(layers):\n    return 1 - sum(mu * t for mu, t in layers)\n",
        },
        setup="import numpy as np",
        level="warm-up",
        minutes=3,
    ),
    Exercise(
        id="ch01.to_grey",
        title="A window that gives bytes",
        prompt="Write `to_grey(values, low, high)`: equation 2, rounded to the nearest whole number, as uint8.",
        answer="to_grey",
        check=_check_to_grey,
        hints=(
            "Three steps: scale, clip, convert. Which of them must come last?",
            "`np.clip` keeps the scaled values between 0 and 1; then multiply by 255.",
            "Round with `np.rint` and convert with `.astype(np.uint8)` at the very end.",
        ),
        stub="def to_grey(values, low, high):\n    raise NotImplementedError  # your lines here\n",
        solution=(
            "def to_grey(values, low, high):\n"
            "    grey = 255 * np.clip((values - low) / (high - low), 0, 1)\n"
            "    return np.rint(grey).astype(np.uint8)\n"
        ),
        alternatives=(
            "def to_grey(values, low, high):\n"
            "    inside = np.minimum(np.maximum(values, low), high)\n"
            "    return ((inside - low) * (255 / (high - low)) + 0.5).astype(np.uint8)\n",
            "def to_grey(values, low, high):\n"
            "    return np.interp(values, [low, high], [0, 255]).round().astype('uint8')\n",
        ),
        mutants={
            "wrapped around": (
                "def to_grey(values, low, high):\n"
                "    return np.trunc((values - low) / (high - low) * 255).astype(int).astype(np.uint8)\n"
            ),
            "cut down": (
                "def to_grey(values, low, high):\n"
                "    return (255 * np.clip((values - low) / (high - low), 0, 1)).astype(np.uint8)\n"
            ),
            "low and high were not used": (
                "def to_grey(values, low, high):\n"
                "    return np.rint(255 * (values - values.min()) / np.ptp(values)).astype(np.uint8)\n"
            ),
            "factor of 255": "def to_grey(values, low, high):\n    return np.clip((values - low) / (high - low), 0, 1)\n",
            "the type is not": (
                "def to_grey(values, low, high):\n"
                "    return np.rint(255 * np.clip((values - low) / (high - low), 0, 1))\n"
            ),
        },
        setup="import numpy as np",
        minutes=8,
    ),
    Exercise(
        id="ch01.box_of",
        title="A box from a mask",
        prompt="Write `box_of(mask_YX)`: the half-open box x0, y0, x1, y1 of the true pixels, as four floats.",
        answer="box_of",
        check=_check_box_of,
        hints=(
            "Which rows hold a true pixel, and which columns?",
            "`mask_YX.any(axis=0)` says it for each column; `np.flatnonzero` gives their numbers.",
            "x comes from the columns; the far corner is the last number plus one.",
        ),
        stub="def box_of(mask_YX):\n    raise NotImplementedError  # your lines here\n",
        solution=(
            "def box_of(mask_YX):\n"
            "    rows = np.flatnonzero(mask_YX.any(axis=1))\n"
            "    columns = np.flatnonzero(mask_YX.any(axis=0))\n"
            "    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)\n"
        ),
        alternatives=(
            "def box_of(mask_YX):\n"
            "    y, x = np.nonzero(mask_YX)\n"
            "    return np.array([x.min(), y.min(), x.max() + 1, y.max() + 1], dtype=float)\n",
        ),
        mutants={
            "exchanged": (
                "def box_of(mask_YX):\n    x, y = np.nonzero(mask_YX)\n    return x.min(), y.min(), x.max() + 1, y.max() + 1\n"
            ),
            "one further": (
                "def box_of(mask_YX):\n    y, x = np.nonzero(mask_YX)\n    return x.min(), y.min(), x.max(), y.max()\n"
            ),
            "width, height": (
                "def box_of(mask_YX):\n"
                "    y, x = np.nonzero(mask_YX)\n"
                "    return x.min(), y.min(), x.max() + 1 - x.min(), y.max() + 1 - y.min()\n"
            ),
        },
        setup="import numpy as np",
        minutes=10,
    ),
    Exercise(
        id="ch01.shrink",
        title="Shrink by averaging",
        prompt="Write `shrink(img_YX, factor)`: average blocks of factor by factor pixels, without loops over pixels.",
        answer="shrink",
        check=_check_shrink,
        hints=(
            "A reshape can give every block axes of its own.",
            "Split each axis in two: which block, and where in the block.",
            "Reshape to (Y // f, f, X // f, f): two of the four axes are then averaged away.",
        ),
        stub="def shrink(img_YX, factor):\n    raise NotImplementedError  # your lines here\n",
        solution=(
            "def shrink(img_YX, factor):\n"
            "    Y, X = img_YX.shape\n"
            "    return img_YX.reshape(Y // factor, factor, X // factor, factor).mean(axis=(1, 3))\n"
        ),
        alternatives=(
            "def shrink(img_YX, factor):\n"
            "    shifted = [img_YX[i::factor, j::factor] for i in range(factor) for j in range(factor)]\n"
            "    return sum(shifted) / factor**2\n",
            "def shrink(img_YX, factor):\n"
            "    import torch\n"
            "    x = torch.as_tensor(img_YX)[None, None]\n"
            "    return torch.nn.functional.avg_pool2d(x, factor)[0, 0]\n",
        ),
        mutants={
            "aliasing": "def shrink(img_YX, factor):\n    return img_YX[::factor, ::factor]\n",
            "added up": (
                "def shrink(img_YX, factor):\n"
                "    Y, X = img_YX.shape\n"
                "    return img_YX.reshape(Y // factor, factor, X // factor, factor).sum(axis=(1, 3))\n"
            ),
            "axes are not those inside": (
                "def shrink(img_YX, factor):\n"
                "    Y, X = img_YX.shape\n"
                "    return img_YX.reshape(factor, Y // factor, factor, X // factor).mean(axis=(0, 2))\n"
            ),
        },
        setup="import numpy as np",
        level="stretch",
        minutes=10,
    ),
)

QUESTIONS = (
    Question(
        id="ch01.heart_side",
        prompt="The heart lies mostly in the patient's left chest. On which side of the picture is it?",
        choices={"a": "more on the left of the picture", "b": "more on the right of the picture"},
        why="You face the patient, so the patient's left is on your right.",
    ),
    Question(
        id="ch01.nodule",
        prompt="One more centimetre of tissue, over the lung or behind the heart: where does the optical depth rise more?",
        choices={"a": "over the lung", "b": "behind the heart", "c": "the same"},
        why="Inside the exponential thicknesses only add up, whatever else is in the way.",
    ),
    Question(
        id="ch01.stripes",
        prompt="Stripes of one black and one white pixel; every second pixel is dropped. What comes out?",
        choices={"a": "even grey", "b": "all black or all white", "c": "the same stripes"},
        why="Every kept pixel comes from the same stripe.",
    ),
    Question(
        id="ch01.ap",
        prompt="By what factor is the cardiothoracic ratio of the AP film larger, on average?",
        unit="times",
        why="The heart is farther from the detector, and the breath is shallower.",
        close=0.05,
    ),
)
