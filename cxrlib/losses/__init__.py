"""Losses: one function per equation. Each computes in float32, whatever the precision of the model.

Those of labels are in this file; `tokens`, `masks` and `background` hold CLARiTy's, `clarity` their sum.

Letters of shapes: B batch, C findings.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cxrlib.losses.background import background_suppression
from cxrlib.losses.masks import area_constraint, distance_maps, mask_confinement, mask_proximity
from cxrlib.losses.tokens import contrastive_tokens, orthogonal_tokens

__all__ = [
    "area_constraint",
    "asymmetric_loss",
    "background_suppression",
    "contrastive_tokens",
    "distance_maps",
    "mask_confinement",
    "mask_proximity",
    "masked_bce",
    "orthogonal_tokens",
]


def masked_bce(logits_BC: Tensor, labels_BC: Tensor, *, count: Tensor | float | None = None) -> Tensor:
    """Binary cross-entropy, averaged over the labels that are known.

    Each finding is its own yes-or-no question, so an image may have several or none. A label that nobody gave is NaN: it
    adds nothing to the loss and nothing to the gradient.

        loss = - sum over known (b, c) of [ y log p + (1 - y) log(1 - p) ] / count,   p = sigmoid(logit)

    Args:
        logits_BC: One logit per image and finding.
        labels_BC: 0, 1 or NaN (unknown); anything between is a soft label.
        count: What to divide by. None: the known labels of this batch. A batch that is computed in parts divides each
            part by the count of the whole, so that the parts add up to the loss of the whole.

    Returns:
        A scalar, float32. 0 if no label is known.

    Source: Goodfellow, Bengio and Courville (2016), eq. 6.19 ff.; leaving unknown labels out is our decision for NaN.
    """
    known_BC = ~labels_BC.isnan()
    # The NaN must go before the arithmetic: NaN times zero is NaN, in the gradient too.
    target_BC = torch.where(known_BC, labels_BC, 0.0).float()
    loss_BC = F.binary_cross_entropy_with_logits(logits_BC.float(), target_BC, reduction="none")
    if count is None:
        count = known_BC.sum().clamp(min=1)
    return (loss_BC * known_BC).sum() / count


def asymmetric_loss(
    logits_BC: Tensor, labels_BC: Tensor, *, gamma_neg: float = 2.0, gamma_pos: float = 0.0, count: Tensor | float | None = None
) -> Tensor:
    """Cross-entropy in which easy absences count less: most labels are 0, and most of those are soon learnt.

        loss = - sum over known (b, c) of [ y (1 - p)^g+ log p + (1 - y) p^g- log(1 - p) ] / count,   p = sigmoid(logit)

    Args:
        logits_BC: One logit per image and finding.
        labels_BC: 0, 1 or NaN (unknown: left out).
        gamma_neg: g-, the power for absent findings. Both powers 0 give `masked_bce`.
        gamma_pos: g+, the power for present findings.
        count: What to divide by; see `masked_bce`.

    Returns:
        A scalar, float32. 0 if no label is known.

    Source: Ridnik et al. (2021, arXiv 2009.14119), without their probability shift; Query2Label (arXiv 2107.10834) uses
    these two powers.
    """
    known_BC = ~labels_BC.isnan()
    target_BC, logits_BC = torch.where(known_BC, labels_BC, 0.0).float(), logits_BC.float()
    present_BC = (1 - logits_BC.sigmoid()) ** gamma_pos * F.logsigmoid(logits_BC)
    absent_BC = logits_BC.sigmoid() ** gamma_neg * F.logsigmoid(-logits_BC)
    loss_BC = -(target_BC * present_BC + (1 - target_BC) * absent_BC)
    if count is None:
        count = known_BC.sum().clamp(min=1)
    return (loss_BC * known_BC).sum() / count
