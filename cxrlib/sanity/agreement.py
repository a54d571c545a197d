"""How alike two maps are: by the order of their cells, and by which cells come first.

Both look at order alone, so it does not matter that one method's values are probabilities and another's are gradients.
"""

import math

import numpy as np
from scipy.stats import rankdata

from cxrlib.errors import CxrError

TOP = 0.1
"""Share of the cells that `top_overlap` compares."""


def rank_correlation(a_yx: np.ndarray, b_yx: np.ndarray) -> float:
    """Spearman's correlation of two maps, cell by cell: 1 for the same order, 0 for none in common, -1 for the reverse.

    Tied cells share their mean rank. A constant map has no order, so the result is NaN.

    Source: one of the measures of Adebayo et al. 2018, arXiv 1810.03292, section 4.
    """
    a, b = _pair(a_yx, b_yx)
    ranks = [rankdata(values) - (values.size + 1) / 2 for values in (a, b)]
    length = math.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum())
    return float((ranks[0] * ranks[1]).sum() / length) if length > 0 else float("nan")


def top_overlap(a_yx: np.ndarray, b_yx: np.ndarray, *, share: float = TOP) -> float:
    """IoU of the highest cells of two maps, `share` of all cells each; two orders without relation give share / (2 - share).

    Of equal cells the first in row order is taken. NaN for a constant map.
    """
    a, b = _pair(a_yx, b_yx)
    if not 0 < share <= 1:
        raise CxrError(f"the share of highest cells must lie above 0 and at most at 1, not {share}")
    if a.min() == a.max() or b.min() == b.max():
        return float("nan")
    count = max(1, round(share * a.size))
    first, second = (set(np.argsort(-values, kind="stable")[:count].tolist()) for values in (a, b))
    return len(first & second) / len(first | second)


def _pair(a_yx: np.ndarray, b_yx: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a_yx, np.float64), np.asarray(b_yx, np.float64)
    if a.shape != b.shape:
        raise CxrError(f"two maps are compared cell by cell, so {a.shape} and {b.shape} must be one shape: bring them to one grid first")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise CxrError("a map holds NaN or infinite values: find out where they arise")
    return a.ravel(), b.ravel()
