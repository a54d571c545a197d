"""Chapter 4's exercises and questions."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cxrlib.course.compare import as_array, compare
from cxrlib.course.exercise import Exercise, Question, Verdict, wrong
from cxrlib.models.vit import Attention


def _numbers(*shape: int, seed: int = 4) -> torch.Tensor:
    """Repeatable random numbers; no size repeats within one checker, so that a swapped axis shows."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _check_row(row) -> Verdict:
    q_d = torch.tensor([2.0, 1.0, 0.0, -1.0])
    k_Nd = torch.tensor([[1.0, 0.0, 3.0, 0.0], [2.0, 2.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]])
    scores_N = k_Nd @ q_d
    shares_N = (scores_N / 2).softmax(0)
    given = as_array(row)
    in_per_cent = given is not None and given.shape == (3,) and abs(given.sum() - 100) < 1
    return compare(
        row,
        shares_N,
        what="the three shares, to two decimals",
        causes={
            "the scores were not divided by the square root of d = 4, which is 2": scores_N.softmax(0),
            "the scores were divided by d = 4, not by its square root": (scores_N / 4).softmax(0),
            "the scores were divided by their sum: the exponential is missing": scores_N / scores_N.sum(),
            "the exponentials were not divided by their sum": (scores_N / 2).exp(),
            "these are the scaled scores: the softmax is still to come": scores_N / 2,
            "these are per cent, not shares of 1": given if in_per_cent else 100 * shares_N,
        },
        note="The second token takes five sixths of the row, though its score is only three times the first one's.",
        rtol=0.0,
        atol=0.0061,
    )


def _check_attend(attend) -> Verdict:
    q, k, v = 2 * _numbers(2, 4, seed=1), 2 * _numbers(5, 4, seed=2), _numbers(5, 3, seed=3)
    scores = q @ k.T
    shares = (scores / 2).softmax(-1)
    verdict = compare(
        attend(q, k, v),
        shares @ v,
        what="2 queries over 5 tokens with d = 4 and values of 3 numbers",
        causes={
            "the scale is missing: divide the scores by the square root of d": scores.softmax(-1) @ v,
            "the scores were divided by d, not by its square root": (scores / 4).softmax(-1) @ v,
            "the scale uses the number of tokens, not the length d of a key": (scores / 5**0.5).softmax(-1) @ v,
            "the softmax runs over the queries (rows); it must run over the keys, the last axis": (scores / 2).softmax(0) @ v,
            "the softmax runs over all scores at once; each row must sum to 1": (scores / 2).flatten().softmax(0).view(2, 5) @ v,
            "the scale came after the softmax; it belongs inside": scores.softmax(-1) / 2 @ v,
            "these are the shares: mix the values with them": shares,
            "the softmax is missing: raw scores mixed the values": (scores / 2) @ v,
        },
    )
    if not verdict.passed:
        return verdict
    q, k, v = _numbers(3, 2, 6, 4, seed=5), _numbers(3, 2, 5, 4, seed=6), _numbers(3, 2, 5, 7, seed=7)
    expected = (q @ k.transpose(-2, -1) / 2).softmax(-1) @ v
    try:
        got = attend(q, k, v)
    except (RuntimeError, ValueError, IndexError) as error:
        return wrong(
            expected="the same function to work with leading axes: q [3, 2, 6, 4], k [3, 2, 5, 4], v [3, 2, 5, 7]",
            got=f"{type(error).__name__}: {str(error).splitlines()[0][:120]}",
            cause="leading axes: `.T` turns all axes round, `.transpose(-2, -1)` only the last two",
        )
    return compare(
        got,
        expected,
        what="the same with leading axes for batch and heads",
        otherwise="leading axes: count axes from the end (-1, -2), never from the front",
        note="This is the whole formula. The fused kernel gives the same numbers.",
    )


def _check_heads(split_heads) -> Verdict:
    b, n, h, d = 2, 5, 3, 4
    x = _numbers(b, n, h * d)
    return compare(
        split_heads(x, h),
        torch.stack([x[..., i * d : (i + 1) * d] for i in range(h)], dim=1),
        what="2 images, 3 heads, 5 tokens, 4 numbers per head",
        causes={
            "right shape, wrong numbers: reshaped straight to [B, H, N, d], which mixes numbers of different tokens in one head; "
            "cut D first, then swap axes": x.reshape(b, h, n, d),
            "the heads and the tokens are still to be swapped: this is [B, N, H, d]": x.reshape(b, n, h, d),
            "each head took every third number; a head is a run of d neighbouring numbers": x.reshape(b, n, d, h).permute(0, 3, 1, 2),
            "the last two axes are swapped: this is [B, H, d, N]": x.reshape(b, n, h, d).permute(0, 2, 3, 1),
        },
        note="Head h of token n is x[n, h*d : (h+1)*d]: no number has left its token.",
    )


def _check_memory(map_mib) -> Verdict:
    def mib(rows, **kw):
        return map_mib(batch=2, layers=12, heads=6, tokens=1025, rows=rows, **kw)

    values = 2 * 12 * 6 * 1025
    got = [mib(1025), mib(14)]
    return compare(
        got,
        [values * 1025 * 4 / 2**20, values * 14 * 4 / 2**20],
        what="MiB of 2 images, 12 layers, 6 heads, 1025 tokens: all rows, then 14 rows",
        causes={
            "all rows are counted whatever `rows` says": [values * 1025 * 4 / 2**20] * 2,
            "a MiB is 2**20 bytes; 10**6 is a megabyte (MB)": [values * 1025 * 4 / 1e6, values * 14 * 4 / 1e6],
            "numbers were counted, not bytes: a float32 takes 4": [values * 1025 / 2**20, values * 14 / 2**20],
            "each head has a map of its own: the heads are missing": [values * 1025 * 4 / 6 / 2**20, values * 14 * 4 / 6 / 2**20],
            "each layer has a map of its own: the layers are missing": [
                values * 1025 * 4 / 12 / 2**20,
                values * 14 * 4 / 12 / 2**20,
            ],
            "only the chosen rows were squared: a row is still as long as all tokens": [
                values * 1025 * 4 / 2**20,
                2 * 12 * 6 * 14 * 14 * 4 / 2**20,
            ],
        },
        note="Fourteen rows, one per finding as in later chapters, cost 14/1025 of the whole.",
    )


class _Watch(TorchDispatchMode):
    """Notes whether any operation returned a tensor whose last two axes are both `tokens` long."""

    def __init__(self, tokens: int):
        super().__init__()
        self.tokens, self.square = tokens, False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for item in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(item, torch.Tensor) and item.shape[-2:] == (self.tokens, self.tokens):
                self.square = True
        return out


def _check_class_row(class_row) -> Verdict:
    b, n, h, d = 2, 7, 3, 5
    state = torch.random.get_rng_state()
    attention = Attention(width=h * d, heads=h)
    torch.random.set_rng_state(state)
    with torch.no_grad():
        for i, parameter in enumerate(attention.parameters()):
            parameter.copy_(_numbers(*parameter.shape, seed=20 + i) * 0.4)
        x = _numbers(b, n, h * d)
        q, k, _ = attention.qkv(x).reshape(b, n, 3, h, d).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / d**0.5
        expected = scores.softmax(-1)[:, :, 0]
        with _Watch(n) as watch:
            got = class_row(attention, x)
        verdict = compare(
            got,
            expected,
            what="row 0 of the map, [B, H, N] = [2, 3, 7]",
            causes={
                "this is column 0, how much each token looks at the class token; row 0 is where the class token looks": scores.softmax(-1)[
                    ..., 0
                ],
                "the softmax ran over column 0: queries and keys are swapped": scores[..., 0].softmax(-1),
                "the scale 1/sqrt(d) is missing": (scores * d**0.5).softmax(-1)[:, :, 0],
                "the scale uses the width D, not the head width d": (scores * d**0.5 / (h * d) ** 0.5).softmax(-1)[:, :, 0],
                "the softmax is missing": scores[:, :, 0],
                "the class token's own share is left out; it is part of the row": scores[:, :, 0, 1:].softmax(-1),
                "the row has an axis of length 1 too many: [B, H, 1, N]": expected[:, :, None],
                "the heads were averaged; each head has a row of its own": expected.mean(1),
            },
            note="One row, at 1/N of the cost of the map. CLARiTy reads 14 rows this way.",
        )
    if verdict.passed and watch.square:
        return wrong(
            expected="the right row without the rest of the map",
            got="the right row, taken from a whole [.., 7, 7] map",
            cause="the whole N x N map was built: keep only query 0 before the product with the keys",
        )
    return verdict


_SPLIT_QKV = """    B, N, D = x_BND.shape
    qkv_3BHNd = attention.qkv(x_BND).reshape(B, N, 3, attention.heads, -1).permute(2, 0, 3, 1, 4)
    q_BHNd, k_BHNd, v_BHNd = qkv_3BHNd.unbind(0)
"""

EXERCISES = (
    Exercise(
        id="ch04.row",
        title="One row on paper",
        prompt="A query (2, 1, 0, -1) meets three keys. Work out the three shares of its row, with the scale, to two decimals.",
        answer="row",
        check=_check_row,
        hints=(
            "First the three dot products. They are whole numbers.",
            "d is the length of the query, 4. Divide each dot product by its square root.",
            "The scaled scores are 1, 3 and 0. Raise e to each, and divide by the sum, which is about 23.8.",
        ),
        stub="row = ...  # for example [0.2, 0.3, 0.5]\n",
        solution="row = [0.11, 0.84, 0.04]\n",
        alternatives=(
            "import torch\n\nq = torch.tensor([2.0, 1, 0, -1])\nk = torch.tensor([[1.0, 0, 3, 0], [2, 2, 1, 0], [0, 1, 0, 1]])\n"
            "row = (k @ q / 4**0.5).softmax(0)\n",
            "import math\n\nparts = [math.exp(s) for s in (1, 3, 0)]\nrow = [round(p / sum(parts), 3) for p in parts]\n",
        ),
        mutants={
            "not divided by the square root": "row = [0.018, 0.980, 0.002]\n",
            "divided by d = 4": "row = [0.23, 0.63, 0.14]\n",
            "exponential is missing": "row = [0.25, 0.75, 0.0]\n",
            "not divided by their sum": "row = [2.718, 20.086, 1.0]\n",
            "softmax is still to come": "row = [1, 3, 0]\n",
            "per cent": "row = [11.4, 84.4, 4.2]\n",
        },
        level="warm-up",
        minutes=6,
    ),
    Exercise(
        id="ch04.attend",
        title="Attention in a few lines",
        prompt="Write `attend(q, k, v)` from the formula, for any leading axes, without torch's fused kernel.",
        answer="attend",
        check=_check_attend,
        hints=(
            "Three steps: scores, shares, mixture. Say the shape of each before you write it.",
            "Scores are [.., queries, keys]: q times k with its last two axes swapped, times d ** -0.5.",
            "shares = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1); one product is left.",
        ),
        stub="def attend(q, k, v):\n    raise NotImplementedError  # scores, shares, mixture\n",
        solution=(
            "def attend(q, k, v):\n    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5\n"
            "    return scores.softmax(dim=-1) @ v\n"
        ),
        alternatives=(
            "import math\nimport torch\n\n\ndef attend(q, k, v):\n"
            "    scores = torch.einsum('...md,...nd->...mn', q, k) / math.sqrt(k.shape[-1])\n"
            "    parts = (scores - scores.amax(-1, keepdim=True)).exp()\n"
            "    return torch.einsum('...mn,...nw->...mw', parts / parts.sum(-1, keepdim=True), v)\n",
            "def attend(q, k, v):\n    q = q / q.shape[-1] ** 0.5\n    return (q @ k.mT).softmax(-1) @ v\n",
        ),
        mutants={
            "scale is missing": "def attend(q, k, v):\n    return (q @ k.transpose(-2, -1)).softmax(-1) @ v\n",
            "divided by d": "def attend(q, k, v):\n    return (q @ k.transpose(-2, -1) / q.shape[-1]).softmax(-1) @ v\n",
            "number of tokens": "def attend(q, k, v):\n    return (q @ k.transpose(-2, -1) / k.shape[-2] ** 0.5).softmax(-1) @ v\n",
            "over the queries": "def attend(q, k, v):\n    return (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-2) @ v\n",
            "scale came after": "def attend(q, k, v):\n    return (q @ k.transpose(-2, -1)).softmax(-1) / q.shape[-1] ** 0.5 @ v\n",
            "these are the shares": "def attend(q, k, v):\n    return (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)\n",
            "leading axes": "def attend(q, k, v):\n    return (q @ k.T / q.shape[-1] ** 0.5).softmax(1) @ v\n",
        },
        level="core",
        minutes=12,
    ),
    Exercise(
        id="ch04.heads",
        title="Split into heads",
        prompt="Write `split_heads(x_BND, heads)`: cut each token's D numbers into heads, and return [B, H, N, d].",
        answer="split_heads",
        check=_check_heads,
        hints=(
            "No number may leave its token. Which axis is cut, and which only moves?",
            "Cut the last axis: [B, N, H, d]. That is a reshape. Then the heads must come before the tokens.",
            "x_BND.reshape(B, N, heads, D // heads), and then swap axes 1 and 2.",
        ),
        stub="def split_heads(x_BND, heads):\n    raise NotImplementedError  # returns [B, H, N, d]\n",
        solution=(
            "def split_heads(x_BND, heads):\n    B, N, D = x_BND.shape\n"
            "    return x_BND.reshape(B, N, heads, D // heads).transpose(1, 2)\n"
        ),
        alternatives=(
            "import torch\n\n\ndef split_heads(x_BND, heads):\n    return torch.stack(x_BND.chunk(heads, dim=-1), dim=1)\n",
            "def split_heads(x_BND, heads):\n    return x_BND.unflatten(-1, (heads, -1)).permute(0, 2, 1, 3)\n",
        ),
        mutants={
            "mixes numbers of different tokens": (
                "def split_heads(x_BND, heads):\n    B, N, D = x_BND.shape\n    return x_BND.reshape(B, heads, N, D // heads)\n"
            ),
            "still to be swapped": (
                "def split_heads(x_BND, heads):\n    B, N, D = x_BND.shape\n    return x_BND.reshape(B, N, heads, D // heads)\n"
            ),
            "every third number": (
                "def split_heads(x_BND, heads):\n    B, N, D = x_BND.shape\n"
                "    return x_BND.reshape(B, N, D // heads, heads).permute(0, 3, 1, 2)\n"
            ),
            "last two axes are swapped": (
                "def split_heads(x_BND, heads):\n    B, N, D = x_BND.shape\n"
                "    return x_BND.reshape(B, N, heads, D // heads).permute(0, 2, 3, 1)\n"
            ),
        },
        level="core",
        minutes=10,
    ),
    Exercise(
        id="ch04.memory",
        title="What the map would cost",
        prompt="Write `map_mib(*, batch, layers, heads, tokens, rows)`: MiB of float32 for `rows` rows of every map.",
        answer="map_mib",
        check=_check_memory,
        hints=(
            "Count the numbers first: how many maps, how many rows in each, how long is a row?",
            "A row is as long as there are tokens. A float32 takes 4 bytes.",
            "batch * layers * heads * rows * tokens * 4 bytes; a MiB is 2**20 of them.",
        ),
        stub="def map_mib(*, batch, layers, heads, tokens, rows):\n    raise NotImplementedError  # MiB of float32\n",
        solution=(
            "def map_mib(*, batch, layers, heads, tokens, rows):\n    return batch * layers * heads * rows * tokens * 4 / 2**20\n"
        ),
        alternatives=(
            "import torch\n\n\ndef map_mib(*, batch, layers, heads, tokens, rows):\n"
            "    maps = torch.empty(batch, layers, heads, rows, tokens, device='meta')\n"
            "    return maps.numel() * maps.element_size() / 1024 / 1024\n",
        ),
        mutants={
            "all rows are counted": (
                "def map_mib(*, batch, layers, heads, tokens, rows):\n    return batch * layers * heads * tokens**2 * 4 / 2**20\n"
            ),
            "10**6 is a megabyte": (
                "def map_mib(*, batch, layers, heads, tokens, rows):\n    return batch * layers * heads * rows * tokens * 4 / 1e6\n"
            ),
            "numbers were counted": (
                "def map_mib(*, batch, layers, heads, tokens, rows):\n    return batch * layers * heads * rows * tokens / 2**20\n"
            ),
            "heads are missing": (
                "def map_mib(*, batch, layers, heads, tokens, rows):\n    return batch * layers * rows * tokens * 4 / 2**20\n"
            ),
            "only the chosen rows were squared": (
                "def map_mib(*, batch, layers, heads, tokens, rows):\n    return batch * layers * heads * rows**2 * 4 / 2**20\n"
            ),
        },
        level="core",
        minutes=6,
    ),
    Exercise(
        id="ch04.class_row",
        title="The class token's row alone",
        prompt="Write `class_row(attention, x_BND)`: row 0 of every head's map, [B, H, N], without building any N x N tensor.",
        answer="class_row",
        check=_check_class_row,
        hints=(
            "Row 0 belongs to query 0. All keys are needed, the values are not.",
            "Split attention.qkv(x_BND) as the class does, then keep q_BHNd[:, :, :1] before the product.",
            "attention_rows(q, k, rows) does the sum; what is left is an axis of length 1.",
        ),
        stub="def class_row(attention, x_BND):\n    raise NotImplementedError  # [B, H, N]\n",
        solution="def class_row(attention, x_BND):\n" + _SPLIT_QKV + "    return attention_rows(q_BHNd, k_BHNd, 1)[:, :, 0]\n",
        alternatives=(
            "def class_row(attention, x_BND):\n    return attention(x_BND, rows=1)[1].squeeze(2)\n",
            "def class_row(attention, x_BND):\n" + _SPLIT_QKV + "    scores_BHN = (q_BHNd[:, :, :1] * k_BHNd).sum(-1)\n"
            "    return (scores_BHN / k_BHNd.shape[-1] ** 0.5).softmax(-1)\n",
        ),
        mutants={
            "whole N x N map was built": (
                "def class_row(attention, x_BND):\n" + _SPLIT_QKV + "    return attention_rows(q_BHNd, k_BHNd, N)[:, :, 0]\n"
            ),
            "this is column 0": (
                "def class_row(attention, x_BND):\n" + _SPLIT_QKV + "    return attention_rows(q_BHNd, k_BHNd, N)[..., 0]\n"
            ),
            "queries and keys are swapped": (
                "def class_row(attention, x_BND):\n" + _SPLIT_QKV + "    return attention_rows(k_BHNd, q_BHNd, 1)[:, :, 0]\n"
            ),
            "is missing": (
                "def class_row(attention, x_BND):\n" + _SPLIT_QKV
                + "    return (q_BHNd[:, :, :1] @ k_BHNd.transpose(-2, -1)).softmax(-1)[:, :, 0]\n"
            ),
            "not the head width d": (
                "def class_row(attention, x_BND):\n" + _SPLIT_QKV
                + "    return (q_BHNd[:, :, :1] @ k_BHNd.transpose(-2, -1) / D**0.5).softmax(-1)[:, :, 0]\n"
            ),
            "own share is left out": (
                "def class_row(attention, x_BND):\n" + _SPLIT_QKV
                + "    return attention_rows(q_BHNd, k_BHNd[:, :, 1:], 1)[:, :, 0]\n"
            ),
            "an axis of length 1 too many": (
                "def class_row(attention, x_BND):\n" + _SPLIT_QKV + "    return attention_rows(q_BHNd, k_BHNd, 1)\n"
            ),
        },
        setup="from cxrlib.models.vit import attention_rows\n",
        level="stretch",
        minutes=15,
    ),
)  # fmt: skip

QUESTIONS = (
    Question(
        id="ch04.hot",
        prompt="The temperature goes to infinity. What becomes of the row?",
        choices={
            "a": "the best token takes all",
            "b": "every token gets the same share",
            "c": "all shares go to zero",
        },
        why="Scores divided by a huge number are all zero, and equal scores give equal shares: mean pooling.",
    ),
    Question(
        id="ch04.spread",
        prompt="Two random vectors of 64 numbers, each of mean 0 and spread 1. What is the spread of their dot product?",
        unit="(standard deviation)",
        why="Variances of independent terms add: 64 terms of variance 1 give 64, whose root is 8.",
    ),
    Question(
        id="ch04.reshape",
        prompt="`reshape(B, H, N, d)` gives the right shape at once. What of the numbers?",
        choices={
            "a": "the same as with the swap of axes",
            "b": "other numbers, and torch raises an error",
            "c": "other numbers, and nothing complains",
        },
        why="A reshape keeps the order in memory, and in memory a token's numbers lie together: only a swap of axes reorders.",
    ),
    Question(
        id="ch04.grow",
        prompt="From 224 to 512 pixels the tokens go from 197 to 1025. By which factor does the N x N map grow?",
        unit="times",
        why="Tokens grow 5.2 times, and the map by the square of that.",
    ),
    Question(
        id="ch04.knob",
        prompt="One attention layer must report on two tokens at once. The width stays the same. How does the error go with 1, 2, 4, 8 heads?",
        choices={
            "a": "it falls a little with every doubling",
            "b": "it falls to almost nothing from 1 to 2, then stays",
            "c": "it is the same for all: the number of weights is the same",
        },
        why="One head makes one mixture per token. Two places need two mixtures; more heads have nothing left to do.",
    ),
)
