"""What moves the weights: the learning rate over time, the parameter groups, AdamW, and the average of the weights."""

import math

import torch
from timm.optim import param_groups_layer_decay
from timm.utils import ModelEmaV3
from torch import nn


def warmup_cosine(step: int, *, steps: int, warmup: int, peak: float, floor: float = 0.0) -> float:
    """The learning rate of a step: a straight line up from nearly 0 to `peak`, then half a cosine down to `floor`.

    Adam's first estimates of the gradient's size are poor, hence small steps at first; small steps at the end let the
    weights settle.

    Args:
        step: From 0 to steps - 1.
        steps: Steps of the whole run.
        warmup: Steps of the line. The step number `warmup` is the first at the peak.
        peak: The largest learning rate.
        floor: The learning rate that the last step comes near to.

    Source: Goyal et al. (2017, arXiv 1706.02677), section 2.2, and Loshchilov and Hutter (2017, arXiv 1608.03983), eq. 5.
    """
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(steps - warmup, 1)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * done))


def make_optimizer(model: nn.Module, *, weight_decay: float, layer_decay: float) -> torch.optim.AdamW:
    """AdamW over timm's parameter groups.

    Two rules make the groups. Biases, norms, positions and the class token have no weight decay. The learning rate of a
    layer is multiplied by `layer_decay` once for every layer above it: pretrained early layers are general and should
    move little (Clark et al. 2020, arXiv 2003.10555, section 3.1; BEiT and MAE use it for ViTs).

    Args:
        model: It answers `no_weight_decay()` and `group_matcher()` as timm's models do.
        weight_decay: Decoupled decay (Loshchilov and Hutter 2019, arXiv 1711.05101).
        layer_decay: 1 gives every layer the same rate, as one wants when training from scratch.
    """
    groups = param_groups_layer_decay(
        model, weight_decay=weight_decay, no_weight_decay_list=model.no_weight_decay(), layer_decay=layer_decay
    )
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.999), fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of a step; each group scales it by its own layer's factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def make_ema(model: nn.Module, decay: float) -> ModelEmaV3:
    """A second set of weights that follows the first: ema <- d ema + (1 - d) weights, after every step.

    It averages over about the last 1 / (1 - d) steps and so removes their noise. d grows from 0 at the start
    (d = 1 - (step)^(-2/3), at most `decay`), or the random first weights would linger.

    Source: Polyak and Juditsky (1992); timm's ModelEmaV3.
    """
    return ModelEmaV3(model, decay=decay, use_warmup=True)
