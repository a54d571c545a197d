"""What a model costs: its parameters, and the multiplications of one forward pass.

    cost(LabelTokenViT(n2=4))  ->  Cost(parameters=21676430, macs=4706663424)

Both are counted, not measured: they say nothing about the time that a machine takes. The counter that does that is
`python -m cxrlib bench`.
"""

import copy
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cxrlib.errors import CxrError


class Cost(NamedTuple):
    """A model's size and its work for one image."""

    parameters: int
    """Numbers that training adjusts or that are stored with them."""
    macs: int
    """Multiply-accumulates of one forward pass over one image."""

    def __str__(self) -> str:
        return f"{self.parameters / 1e6:.2f} M parameters, {self.macs / 1e9:.4g} G multiply-accumulates per image"


def parameters(model: nn.Module) -> int:
    """The count of a model's parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def macs(model: nn.Module, *, image_size: int | tuple[int, int] | None = None) -> int:
    """Multiply-accumulates (MACs) of one forward pass over one image, with no maps asked for.

    Counted are the convolutions, the linear maps and both products of attention; one MAC is two floating-point operations
    (FLOPs) of torch's counter. Not counted is what is done once per value: norms, softmax, GELU, sums, and the label heads
    (C x D products). So ViT-S/16 at 224 px has 4.598 G. Other counters say more of the same model: with one operation per
    value of each softmax and GELU it is 4.605 G, with five per value of each LayerNorm (fvcore) 4.608 G.

    The model runs on torch's meta device, where tensors have a shape and no contents: nothing is computed, and attention
    falls apart into the two products that it stands for. On a CPU the fused kernel hides them, and torch's counter returns
    8 % too little for the same model without a word.

    Args:
        model: It is not changed.
        image_size: Side of the image in pixels, or (height, width). None: the model's own `image_size`.

    Raises:
        CxrError: The size is not known, or the model holds no convolution that tells the image's channels.
    """
    image_size = getattr(model, "image_size", None) if image_size is None else image_size
    if image_size is None:
        raise CxrError("this model does not say which images it reads: pass image_size=")
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    convolution = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if convolution is None:
        raise CxrError("this model has no convolution, so it does not say how many channels an image has")
    ghost = copy.deepcopy(model).to("meta").eval().requires_grad_(False)
    img_BIYX = torch.zeros(1, convolution.in_channels, height, width, device="meta")
    with FlopCounterMode(display=False) as counter:
        ghost(img_BIYX)
    return counter.get_total_flops() // 2


def cost(model: nn.Module, *, image_size: int | tuple[int, int] | None = None) -> Cost:
    """Parameters and MACs of a model; see `parameters` and `macs`."""
    return Cost(parameters(model), macs(model, image_size=image_size))
