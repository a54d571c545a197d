"""What CLARiTy is trained with beside images and labels: regions, a teacher's logits, and weights that grow in.

Letters of shapes: B images of this part of a batch, C findings, I channels, Y X pixels.
"""

import dataclasses

import numpy as np
from torch import Tensor, nn

from cxrlib.data.feed import epoch_order
from cxrlib.distillation.logits import LogitStore
from cxrlib.losses.clarity import Counts, Weights, clarity_forward, clarity_terms, weighted_sum
from cxrlib.priors import PriorStore, move_regions, to_patches


def batch_rows(rows: np.ndarray, *, batch: int, seed: int, epoch: int, number: int, rank: int = 0, world: int = 1) -> np.ndarray:
    """Which rows of the store make up batch `number` of an epoch, in the order of `training_batches`' images.

    Args:
        rows: The images to train on.
        batch, seed, epoch, rank, world: As `training_batches` was called with.
        number: Of the batch within the epoch, from 0.
    """
    whole = epoch_order(len(rows), seed=seed, epoch=epoch)[number * batch : (number + 1) * batch]
    return rows[whole[rank::world]]


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

    def __call__(
        self,
        model: nn.Module,
        img_BIYX: Tensor,
        labels_BC: Tensor,
        *,
        rows_B: np.ndarray,
        matrix_B23: Tensor,
        epoch: int,
        done: float,
        counts: Counts | None = None,
    ) -> Tensor:
        """The scalar to go down.

        Args:
            model: CLARiTy, wrapped or not.
            img_BIYX: Augmented, normalised images.
            labels_BC: 0, 1 or NaN.
            rows_B: Their rows in the image store: see `batch_rows`.
            matrix_B23: What moved them, from `augment`.
            epoch: From 0.
            done: Epochs trained so far, with their fraction.
            counts: Of the whole batch, if this is a part of one.

        Raises:
            CxrError: Regions are needed and there are none, or a store does not cover these images or findings.
        """
        region_BCyx = teacher_BC = None
        if self.priors is not None:
            regions_BCSS = self.priors.regions(rows_B, self.findings).to(img_BIYX.device)
            region_BCyx = to_patches(move_regions(regions_BCSS, matrix_B23, image=self.image_size), self.grid)
        if self.teacher is not None:
            teacher_BC = self.teacher.logits(epoch, rows_B, self.findings).to(img_BIYX.device)
        ramp = 0.0
        if done >= self.wait_epochs:
            ramp = min((done - self.wait_epochs) / self.ramp_epochs, 1.0) if self.ramp_epochs else 1.0
        weights = self.weights if ramp else self.weights.without_masks()
        out = clarity_forward(model, img_BIYX, labels_BC, weights)
        terms = clarity_terms(out, labels_BC, region_BCyx, teacher_BC, weights=weights, counts=counts)
        return weighted_sum(terms, weights, ramp=ramp)
