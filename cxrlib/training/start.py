"""The weights that a run begins with."""

import numpy as np
import torch
from torch import nn

from cxrlib.errors import CxrError


@torch.no_grad()
def start_weights(model: nn.Module, init: str) -> None:
    """Draws a ViT's random first weights.

    "timm" leaves the model as it was built: normals of 0.02, made for wide models and hundreds of epochs. "fan" scales each
    linear map by its fans (Glorot and Bengio 2010, eq. 16), and draws positions and class token ten times larger (0.2; our
    decision, from trying it: a small ViT on phantoms then learns within its first hundreds of steps).

    Raises:
        CxrError: There is no such start.
    """
    if init not in ("timm", "fan"):
        raise CxrError(f"there is no start {init!r}: choose timm or fan")
    if init == "timm":
        return
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    for name in ("pos_embed", "cls_token"):  # a convolutional network has neither
        if hasattr(model, name):
            nn.init.normal_(getattr(model, name), std=0.2)


@torch.no_grad()
def start_head_at_prevalence(model: nn.Module, labels_NC: np.ndarray) -> None:
    """Starts the head so that the first prediction is each finding's share among the training images, whatever the image.

    Without it the first epoch is spent on learning that most findings are rare (Lin et al. 2017, arXiv 1708.02002,
    section 3.3).

    Args:
        model: Its `head` is linear.
        labels_NC: The training labels: 0, 1 or NaN.
    """
    known_C = (~np.isnan(labels_NC)).sum(axis=0)
    share_C = (np.nansum(labels_NC, axis=0) + 1) / (known_C + 2)  # never 0 or 1
    model.head.weight.zero_()
    model.head.bias.copy_(torch.from_numpy(np.log(share_C / (1 - share_C))))
