"""Activation checkpointing: a layer's inner values are thrown away and computed again when the gradient needs them.

It costs about a third more time (one more forward pass) and saves most of the memory of a step: only the tokens between two
layers are kept. Weights, results and the names in a checkpoint stay as they are.

Source: Chen et al. (2016), arXiv 1604.06174.
"""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from cxrlib.errors import CxrError
from cxrlib.models.lt_vit import LabelBlock
from cxrlib.models.vit import Block


class RecomputedBlock(Block):
    """An encoder layer that forgets its inner values."""

    def forward(self, *inputs, **options):
        if not torch.is_grad_enabled():
            return super().forward(*inputs, **options)
        return checkpoint(super().forward, *inputs, use_reentrant=False, **options)


class RecomputedLabelBlock(LabelBlock):
    """The same for a layer of image and label tokens."""

    def __call__(self, *inputs, **options):
        if not torch.is_grad_enabled():
            return super().__call__(*inputs, **options)
        return checkpoint(super().__call__, *inputs, use_reentrant=False, **options)


def recompute_layers(model: nn.Module) -> None:
    """Makes every encoder layer of a model forget its inner values, in place.

    The layers change their class, not their names or weights, so copies (the averaged weights) and checkpoints are not touched.

    Raises:
        CxrError: The model has no layers that can be computed again.
    """
    if hasattr(model, "net") and hasattr(model.net, "set_grad_checkpointing"):  # timm's own models
        model.net.set_grad_checkpointing(True)
        return
    blocks = [module for module in model.modules() if type(module) is Block]
    if not blocks:
        raise CxrError(f"a {type(model).__name__} has no encoder layers of ours to compute again: leave --recompute out")
    for block in blocks:
        block.__class__ = RecomputedBlock
    if isinstance(getattr(model, "label_block", None), LabelBlock):
        model.label_block.__class__ = RecomputedLabelBlock
