"""What keeps class tokens apart.

Letters of shapes: Q layers, B batch, C findings, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def token_cosines(layers_QBCD: Tensor) -> Tensor:
    """Cosine between each two class tokens of an image: cosine_QBCC, float32, also where autocast would round it."""
    with torch.autocast(layers_QBCD.device.type, enabled=False):
        unit_QBCD = F.normalize(layers_QBCD.float(), dim=-1)
        return unit_QBCD @ unit_QBCD.transpose(-2, -1)


def orthogonal_tokens(layers_QBCD: Tensor, *, count: float | None = None) -> Tensor:
    """OCT: the squared cosine between two class tokens of an image, averaged over pairs, images and layers.

        loss = 1/q sum over layers of 1/(C (C-1)) sum over c != c' of cos(T_c, T_c')^2

    It is smallest, 0, where any two tokens are at right angles: each finding then has directions of its own. Right angles, not
    opposite ones: two findings may well be present together. It needs no label.

    Args:
        layers_QBCD: Class tokens after each of the last q layers.
        count: Images to divide by. None: those of this batch. A batch computed in parts divides each by the whole's.

    Returns:
        A scalar, float32, from 0 to 1. 0 for a single finding.

    Source: CLARiTy (arXiv 2512.16700), eq. 7; the summary says "toward zero cosine", the square is our reconstruction.
    """
    C = layers_QBCD.shape[2]
    if C < 2:
        return layers_QBCD.float().sum() * 0.0
    cosine_QBCC = token_cosines(layers_QBCD)
    others_CC = ~torch.eye(C, dtype=torch.bool, device=cosine_QBCC.device)
    squares_QB = (cosine_QBCC.square() * others_CC).sum(dim=(2, 3)) / (C * (C - 1))
    return squares_QB.mean(dim=0).sum() / (squares_QB.shape[1] if count is None else count)


def contrastive_tokens(layers_QBCD: Tensor, labels_BC: Tensor, *, count: float | None = None) -> Tensor:
    """CCT, the alternative: each present finding's token should be unlike the other tokens of its image.

        loss = 1/q sum over layers of mean over present (b, c) of - log( e^cos(T_c, T_c) / sum over c' of e^cos(T_c, T_c') )

    It falls until the other tokens point the opposite way, as far as C tokens can.

    Args:
        layers_QBCD: Class tokens after each of the last q layers.
        labels_BC: 1 where the finding is present; 0 and NaN add nothing.
        count: Present findings to divide by. None: those of this batch.

    Returns:
        A scalar, float32. 0 if no finding is present.

    Source: MCTformer+ (arXiv 2308.03005), its code's contrastive class-token loss; there the mean is taken per image first.
    """
    cosine_QBCC = token_cosines(layers_QBCD)
    share_QBC = cosine_QBCC.log_softmax(dim=-1).diagonal(dim1=2, dim2=3)
    present_BC = labels_BC == 1
    if count is None:
        count = present_BC.sum().clamp(min=1)
    return -(share_QBC * present_BC).sum() / (len(share_QBC) * count)
