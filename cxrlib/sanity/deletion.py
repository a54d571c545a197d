"""Deletion and insertion: if the map is right about what matters, taking away its best places must cost the score most.

Deletion replaces the highest pixels first by a film without detail, the baseline, and follows the score down: a small area
under the curve is good. Insertion starts from the baseline and puts the highest pixels back first: a large area is good.

The baseline decides as much as the map. A blurred film keeps light and dark and takes edges away; a film of the mean grey
is unlike any film that the model ever saw. So each table says which one it used, and stands beside a random map.

Source: Petsiuk et al. 2018, arXiv 1806.07421, section 4.2 (softmax of the named class; here a sigmoid).
"""

from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from cxrlib.data.augment import normalise, to_float
from cxrlib.errors import CxrError
from cxrlib.localization.boxes import Frame, upsample

BASELINES = ("blur", "mean")
BLUR = 1 / 12
"""Width (sigma) of the blur, as a share of the film's side: what is narrower than some 8 cm is gone."""


class Curve(NamedTuple):
    """Probability against the share of pixels that were taken away, or put back."""

    share_K: np.ndarray
    score_K: np.ndarray

    @property
    def area(self) -> float:
        """Area under the curve (trapezoids), from 0 to 1."""
        return float(np.trapezoid(self.score_K, self.share_K))


def baseline_of(image_YX: np.ndarray, kind: str = "blur") -> np.ndarray:
    """The film without detail: blurred, or all of one grey, uint8 [Y, X].

    Raises:
        CxrError: There is no such baseline.
    """
    image_YX = np.asarray(image_YX)
    if kind == "blur":
        return gaussian_filter(image_YX.astype(np.float32), BLUR * max(image_YX.shape), mode="nearest").round().astype(np.uint8)
    if kind == "mean":
        return np.full_like(image_YX, round(float(image_YX.mean())))
    raise CxrError(f"there is no baseline {kind!r}: choose one of {', '.join(BASELINES)}")


def pixel_order(map_yx: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Pixels from the map's highest to its lowest, as flat indices; of equal ones the first in row order."""
    heat_YX = upsample(map_yx, Frame(shape[1], shape[0]), size=max(shape))
    return np.argsort(-heat_YX.ravel(), kind="stable")


def mixtures(image_YX: np.ndarray, other_YX: np.ndarray, order: np.ndarray, *, steps: int) -> np.ndarray:
    """`image` with more and more of its pixels, in the given order, taken from `other`: uint8 [steps + 1, Y, X]."""
    rank_YX = np.empty(order.size, np.int64)
    rank_YX[order] = np.arange(order.size)
    cut_K11 = np.linspace(0, order.size, steps + 1).round().astype(int)[:, None, None]
    return np.where(rank_YX.reshape(image_YX.shape) < cut_K11, other_YX, image_YX)


@torch.no_grad()
def curves(model: nn.Module, image_YX: np.ndarray, map_yx: np.ndarray, *, finding: int, recipe, baseline: str = "blur", steps: int = 16) -> tuple[Curve, Curve]:
    """The deletion and the insertion curve of one map of one film.

    Args:
        model: In eval mode.
        image_YX: uint8.
        map_yx: Any scale, any grid.
        finding: Which of the model's outputs is followed.
        recipe: How grey values become input.
        baseline: One of `BASELINES`.
        steps: Points on each curve, less one.
    """
    order, empty_YX = pixel_order(map_yx, image_YX.shape), baseline_of(image_YX, baseline)
    films = np.concatenate([mixtures(image_YX, empty_YX, order, steps=steps), mixtures(empty_YX, image_YX, order, steps=steps)])
    logits_BC = model(normalise(to_float(torch.from_numpy(films)), mean=recipe.mean, std=recipe.std)).logits_BC
    score = logits_BC[:, finding].sigmoid().double().numpy()
    share_K = np.linspace(0, 1, steps + 1)
    return Curve(share_K, score[: steps + 1]), Curve(share_K, score[steps + 1 :])


def areas(model: nn.Module, images_MYX: np.ndarray, maps_Myx: np.ndarray, finding_M: np.ndarray, *, recipe, baseline: str = "blur", steps: int = 16) -> np.ndarray:
    """Area under deletion and under insertion for each pair, float64 [M, 2]."""
    both = (
        curves(model, image_YX, map_yx, finding=int(c), recipe=recipe, baseline=baseline, steps=steps)
        for image_YX, map_yx, c in zip(images_MYX, maps_Myx, finding_M, strict=True)
    )
    return np.array([[deletion.area, insertion.area] for deletion, insertion in both])
