"""CLARiTy's whole loss, term by term.

Letters of shapes: B batch, C findings, y x rows and columns of patches.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from cxrlib.errors import CxrError
from cxrlib.losses import (
    area_constraint,
    background_suppression,
    contrastive_tokens,
    distance_maps,
    mask_confinement,
    mask_proximity,
    masked_bce,
    orthogonal_tokens,
)
from cxrlib.losses.distilled import distilled_bce
from cxrlib.models.clarity import Clarity, ClarityOutput


MASK_TERMS = ("proximity", "confinement", "area", "background")


class Weights(NamedTuple):
    """How much each term counts; 0 switches it off. The paper's values are in no source at hand: these are our start."""

    full: float = 1.0
    """Cross-entropy of SegmentCAM's logits without a mask: see `clarity_terms`."""
    orthogonal: float = 0.1
    contrastive: float = 0.0
    proximity: float = 1.0
    confinement: float = 1.0
    area: float = 1.0
    background: float = 1.0
    teacher: float = 0.5
    """kappa: the teacher's part of the targets, where there is a teacher."""


    def without_masks(self) -> "Weights":
        """The same with the mask terms off."""
        return self._replace(**dict.fromkeys(MASK_TERMS, 0.0))


class Counts(NamedTuple):
    """What the terms of a part of a batch are divided by, so that parts and processes add up: counts of the whole batch."""

    known: float
    """Known labels."""
    images: float
    present: float
    """Known labels that are 1; at least 1."""

    @classmethod
    def of(cls, labels_BC: Tensor) -> "Counts":
        """The counts of a batch that is computed as a whole."""
        known = float((~labels_BC.isnan()).sum())
        return cls(max(known, 1.0), float(len(labels_BC)), max(float((labels_BC == 1).sum()), 1.0))


def clarity_forward(model: Clarity, img_BIYX: Tensor, labels_BC: Tensor, weights: Weights) -> ClarityOutput:
    """A forward pass that computes just what the terms need. `model` may be wrapped (DDP, Fabric)."""
    tokens = bool(weights.orthogonal or weights.contrastive)
    return model(img_BIYX, layers=tokens, positive_BC=labels_BC == 1 if weights.background else None)


def clarity_terms(
    out: ClarityOutput,
    labels_BC: Tensor,
    region_BCyx: Tensor | None = None,
    teacher_BC: Tensor | None = None,
    *,
    weights: Weights = Weights(),
    counts: Counts | None = None,
) -> dict[str, Tensor]:
    """Every term that is switched on, before its weight.

        L = L_cls(class tokens) + L_cls(foreground) + l_f L_cls(full) + l_o OCT + l_c CCT + l_p PRX + l_n CNF + l_a AC + l_b BAS

    L_cls(full), the cross-entropy of SegmentCAM's logits without a mask, is BAS's (its first score), not named in CLARiTy's
    summary. Without it the heads learn from the foreground alone: once the mask of a finding is empty they learn nothing, what
    they say stays nothing, and no gradient can open the mask again.

    Args:
        out: From `clarity_forward`. Without SegmentCAM it has no heatmap, and the mask terms fall away.
        labels_BC: 0, 1 or NaN (unknown).
        region_BCyx: Each finding's anatomy on the grid of patches, moved as the image was. Needed by PRX and CNF.
        teacher_BC: A teacher's logits for this very view, or None.
        weights: A term of weight 0 is not computed.
        counts: Of the whole batch, if this is a part of one.

    Returns:
        Name -> scalar: "class_tokens", "foreground", then the names of `Weights`.

    Raises:
        CxrError: A term that needs the anatomy is on and there is none.

    Source: CLARiTy (arXiv 2512.16700), sections 3.2 to 3.5; that all terms are simply added is a reconstruction.
    """
    counts = Counts.of(labels_BC) if counts is None else counts

    def classification(logits_BC: Tensor) -> Tensor:
        if teacher_BC is None:
            return masked_bce(logits_BC, labels_BC, count=counts.known)
        return distilled_bce(logits_BC, labels_BC, teacher_BC, share=weights.teacher, count=counts.known)

    terms = {"class_tokens": classification(out.class_logits_BC)}
    if weights.orthogonal:
        terms["orthogonal"] = orthogonal_tokens(out.layers_QBCD, count=counts.images)
    if weights.contrastive:
        terms["contrastive"] = contrastive_tokens(out.layers_QBCD, labels_BC, count=counts.present)
    if out.heatmap_BCyx is None:
        return terms
    terms["foreground"] = classification(out.foreground_logits_BC)
    if weights.full:
        terms["full"] = classification(out.full_logits_BC)
    if (weights.proximity or weights.confinement) and region_BCyx is None:
        raise CxrError("proximity and confinement need the findings' regions: make priors for the store, or set their weights to 0")
    pairs = counts.images * labels_BC.shape[1]
    if weights.proximity:
        terms["proximity"] = mask_proximity(out.heatmap_BCyx, distance_maps(region_BCyx), count=pairs)
    if weights.confinement:
        terms["confinement"] = mask_confinement(out.heatmap_BCyx, region_BCyx, count=pairs)
    if weights.area:
        terms["area"] = area_constraint(out.heatmap_BCyx, labels_BC, count=counts.present)
    if weights.background:
        full_G = out.full_logits_BC[labels_BC == 1]
        terms["background"] = background_suppression(out.background_logits_G, full_G, count=counts.present)
    return terms


def weighted_sum(terms: dict[str, Tensor], weights: Weights, *, ramp: float = 1.0) -> Tensor:
    """The scalar to go down.

    Args:
        terms: From `clarity_terms`.
        weights: The same as there.
        ramp: From 0 to 1, a factor on the four mask terms, by which they grow in (our decision).
    """
    factors = {"class_tokens": 1.0, "foreground": 1.0} | weights._asdict()
    return torch.stack([factors[name] * (ramp if name in MASK_TERMS else 1.0) * term for name, term in terms.items()]).sum()
