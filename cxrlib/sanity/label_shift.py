"""Another clinic: the same films, other frequencies. What a score owes to which findings keep company.

AUROC compares films with a finding to films without it. If its neighbour is among the first more often than among the
second, a model that sees only the neighbour scores too. Reweighting the test films, so that the two are independent, takes
that away and leaves every film as it is.

Letters: N images, C findings.
"""

import numpy as np

from cxrlib.errors import CxrError


def independent_weights(labels_NC: np.ndarray, a: int, b: int) -> np.ndarray:
    """Weights of images under which findings a and b are independent, with the frequency of each as it was: [N].

    Each image with (y_a, y_b) weighs p(y_a) p(y_b) / p(y_a, y_b).

    Raises:
        CxrError: A label is unknown, or one of the four kinds of image is missing: no weight can make it up.
    """
    y_N2 = _known(labels_NC[:, [a, b]])
    share_22 = np.array([[np.mean((y_N2 == (i, j)).all(axis=1)) for j in (0, 1)] for i in (0, 1)])
    if (share_22 == 0).any():
        raise CxrError("an image of one of the four kinds (a and b, a alone, b alone, neither) is missing: take more images")
    target_22 = np.outer(share_22.sum(axis=1), share_22.sum(axis=0))
    return (target_22 / share_22)[y_N2[:, 0].astype(int), y_N2[:, 1].astype(int)]


def prevalence_weights(labels_N: np.ndarray, prevalence: float) -> np.ndarray:
    """Weights of images under which one finding has another prevalence: [N], with mean 1.

    Raises:
        CxrError: The prevalence is not between 0 and 1, or images of one kind are missing.
    """
    y_N = _known(labels_N)
    share = y_N.mean()
    if not 0 < prevalence < 1 or not 0 < share < 1:
        raise CxrError(f"a prevalence of {share:.3g} cannot be turned into {prevalence:.3g}: both must lie between 0 and 1")
    return np.where(y_N == 1, prevalence / share, (1 - prevalence) / (1 - share))


def resampled(weight_N: np.ndarray, *, count: int | None = None, seed: int = 0) -> np.ndarray:
    """Indices of images drawn by weight, with replacement: a test set of another clinic, for scores that take no weights."""
    weight_N = np.asarray(weight_N, np.float64)
    return np.random.default_rng(seed).choice(len(weight_N), count or len(weight_N), p=weight_N / weight_N.sum())


def weighted_auroc(score_N: np.ndarray, label_N: np.ndarray, weight_N: np.ndarray) -> float:
    """AUROC of weighted images: the weight of the pairs in which the positive scores higher, ties half; NaN if a kind is missing."""
    score_N, weight_N = np.asarray(score_N, np.float64), np.asarray(weight_N, np.float64)
    is_N = _known(label_N) == 1
    order = np.unique(score_N, return_inverse=True)[1]
    positive_G, negative_G = (np.bincount(order[kind], weights=weight_N[kind], minlength=order.max() + 1) for kind in (is_N, ~is_N))
    total = positive_G.sum() * negative_G.sum()
    below_G = np.cumsum(negative_G) - negative_G
    return float((positive_G * (below_G + negative_G / 2)).sum() / total) if total > 0 else float("nan")


def predictive_value(score_N: np.ndarray, label_N: np.ndarray, weight_N: np.ndarray, *, cut: float) -> float:
    """Of the weight that scores at or above `cut`, the share that has the finding; NaN if nothing does."""
    called_N = np.asarray(score_N) >= cut
    total = weight_N[called_N].sum()
    return float(weight_N[called_N & (_known(label_N) == 1)].sum() / total) if total > 0 else float("nan")


def _known(labels: np.ndarray) -> np.ndarray:
    labels = np.asarray(labels, np.float64)
    if not np.isin(labels, (0, 1)).all():
        raise CxrError("label shift needs labels of 0 and 1: leave out images whose label is unknown")
    return labels
