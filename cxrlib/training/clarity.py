"""What CLARiTy is trained with beside images and labels: regions, a teacher's logits, and weights that grow in.

Letters of shapes: B images of this part of a batch, C findings, I channels, Y X pixels.
"""

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from cxrlib.data.store import ImageStore

from cxrlib.distillation.logits import LogitStore
from cxrlib.errors import CxrError
from cxrlib.losses.clarity import Counts, Weights, clarity_forward, clarity_terms, weighted_sum
from cxrlib.priors import PriorStore, move_regions, to_patches
from cxrlib.recipes import Recipe

if TYPE_CHECKING:
    from cxrlib.training.objectives import Part

SCHEDULE = ("wait_epochs", "ramp_epochs")
"""What `Recipe.losses` may name beside the weights."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClarityObjective:
    """CLARiTy's loss of one part of a batch.

    The terms are in `cxrlib.losses.clarity`. This finds what they need for these very views: each image's regions, moved as
    the image was, and what the teacher said of the same view.
    """

    findings: tuple[str, ...]
    """Along C."""
    grid: tuple[int, int]
    """Rows and columns of patches."""
    image_size: int
    """Side of the image in pixels, in which the matrices count."""
    weights: Weights = Weights()
    priors: PriorStore | None = None
    """Needed unless proximity and confinement are off."""
    teacher: LogitStore | None = None
    wait_epochs: float = 5.0
    """Epochs without mask terms, while the heads learn from an open mask. A small weight would not do: Adam scales every gradient to
    its own size, and the heatmap, which nothing else moves at first, would be put out within an epoch (seen on toy images)."""
    ramp_epochs: float = 5.0
    """Epochs after these, over which the mask terms grow to their weights, in a straight line. 0: at once."""

    def __call__(self, model: nn.Module, img_BIYX: Tensor, labels_BC: Tensor, part: "Part") -> Tensor:
        """The scalar to go down.

        Args:
            model: CLARiTy, wrapped or not.
            img_BIYX: Augmented, normalised images.
            labels_BC: 0, 1 or NaN.
            part: Their rows, what moved them, how far training is, and the counts of the whole batch.

        Raises:
            CxrError: Regions are needed and there are none, or a store does not cover these images or findings.
        """
        region_BCyx = teacher_BC = None
        if self.priors is not None:
            regions_BCSS = self.priors.regions(part.rows_B, self.findings).to(img_BIYX.device)
            region_BCyx = to_patches(move_regions(regions_BCSS, part.matrix_B23, image=self.image_size), self.grid)
        if self.teacher is not None:
            teacher_BC = self.teacher.logits(int(part.done), part.rows_B, self.findings).to(img_BIYX.device)
        ramp = 0.0
        if part.done >= self.wait_epochs:
            ramp = min((part.done - self.wait_epochs) / self.ramp_epochs, 1.0) if self.ramp_epochs else 1.0
        weights = self.weights if ramp else self.weights.without_masks()
        out = clarity_forward(model, img_BIYX, labels_BC, weights)
        counts = Counts(part.known, part.images, part.present)
        terms = clarity_terms(out, labels_BC, region_BCyx, teacher_BC, weights=weights, counts=counts)
        return weighted_sum(terms, weights, ramp=ramp)


def clarity_objective(
    recipe: Recipe, store: ImageStore, findings: tuple[str, ...], train_rows: np.ndarray, *, grid: tuple[int, int]
) -> ClarityObjective:
    """The objective that a recipe describes, with its regions and its teacher's logits opened.

    Raises:
        CxrError: A loss is unknown, regions are needed and not given, or a store does not belong to these images and views.
    """
    for name, value in recipe.losses.items():
        if name not in (*Weights._fields, *SCHEDULE):
            raise CxrError(f"clarity has no loss {name!r}: choose among {', '.join((*Weights._fields, *SCHEDULE))}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf or (name == "teacher" and value > 1):
            raise CxrError(f"{name}={value} is no weight: give a number from 0 up (teacher: at most 1)")
    schedule = {name: float(value) for name, value in recipe.losses.items() if name in SCHEDULE}
    weights = Weights(**{name: float(value) for name, value in recipe.losses.items() if name not in SCHEDULE})
    if not recipe.options.get("segment_cam", True):
        weights = weights.without_masks()
    if (weights.proximity or weights.confinement) and not recipe.priors:
        raise CxrError(
            "clarity's proximity and confinement need each finding's region: make them once with python -m cxrlib priors make "
            "STORE PRIORS and give --priors PRIORS, or switch both off with --loss proximity=0 --loss confinement=0"
        )
    teacher = None
    if recipe.teacher:
        teacher = LogitStore.open(
            recipe.teacher, store, train_rows, seed=recipe.seed, epochs=recipe.epochs, ranges=recipe.ranges
        )
    return ClarityObjective(
        findings=findings,
        grid=grid,
        image_size=recipe.image_size,
        weights=weights,
        priors=PriorStore.open(recipe.priors, store) if recipe.priors and (weights.proximity or weights.confinement) else None,
        teacher=teacher,
        **schedule,
    )
