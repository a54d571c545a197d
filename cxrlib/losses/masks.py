"""Where a heatmap may be bright: near its finding's anatomy, inside it, and not everywhere.

Letters of shapes: B batch, C findings, y x rows and columns of patches.
"""

import torch
from torch import Tensor


def distance_maps(region_BCyx: Tensor) -> Tensor:
    """How far each patch lies from its finding's region, as a share of the map's diagonal: 0 inside, 1 where no region is.

    The exact Euclidean distance between patch centres, one axis after the other: the nearest patch along the row, then the best
    of the rows. On a grid of patches that is cheap enough to be made anew for every augmented batch, where it runs.

    Args:
        region_BCyx: 1 inside, 0 outside.

    Returns:
        distance_BCyx, float32, from 0 to 1.

    Source: CLARiTy (arXiv 2512.16700), the distance in its mask proximity loss; the unit is our decision, so that sizes compare.
    """
    height, width = region_BCyx.shape[-2:]
    rows, columns = (torch.arange(n, dtype=torch.float32, device=region_BCyx.device) for n in (height, width))
    far = float(height**2 + width**2)
    outside_BCyx = torch.where(region_BCyx > 0.5, 0.0, far)
    along_BCyx = (outside_BCyx[..., None, :] + (columns[:, None] - columns).square()).amin(dim=-1)
    square_BCyx = (along_BCyx[..., None, :, :] + (rows[:, None] - rows).square()[..., None]).amin(dim=-2)
    return (square_BCyx / far).clamp(max=1).sqrt()


def mask_proximity(heatmap_BCyx: Tensor, distance_BCyx: Tensor, *, count: float | None = None) -> Tensor:
    """PRX: how far from its anatomy a heatmap's brightness lies, on average.

        loss = mean over (b, c) of  sum over patches of H delta / (sum over patches of H)

    A mean weighted by brightness: making the whole map dimmer does not lower it, moving it nearer does.

    Args:
        heatmap_BCyx: H, from 0 to 1.
        distance_BCyx: delta, from `distance_maps`.
        count: Pairs of image and finding to divide by. None: those of this batch.

    Returns:
        A scalar, float32, from 0 to 1. 0 where all brightness lies inside.

    Source: CLARiTy (arXiv 2512.16700), section 3.4; the formula is a reconstruction.
    """
    heatmap_BCyx, distance_BCyx = heatmap_BCyx.float(), distance_BCyx.float()
    far_BC = (heatmap_BCyx * distance_BCyx).sum(dim=(2, 3)) / (heatmap_BCyx.sum(dim=(2, 3)) + 1e-6)
    return far_BC.sum() / (far_BC.numel() if count is None else count)


def mask_confinement(heatmap_BCyx: Tensor, region_BCyx: Tensor, *, count: float | None = None) -> Tensor:
    """CNF: how much of the map is bright outside its anatomy.

        loss = mean over (b, c) and patches of H (1 - M)

    Args:
        heatmap_BCyx: H, from 0 to 1.
        region_BCyx: M, 1 inside, 0 outside.
        count: Pairs of image and finding to divide by. None: those of this batch.

    Returns:
        A scalar, float32, from 0 to 1. 0 where nothing is bright outside.

    Source: CLARiTy (arXiv 2512.16700), section 3.4; the formula is a reconstruction.
    """
    outside_BC = (heatmap_BCyx.float() * (1 - region_BCyx.float())).mean(dim=(2, 3))
    return outside_BC.sum() / (outside_BC.numel() if count is None else count)


def area_constraint(heatmap_BCyx: Tensor, labels_BC: Tensor, *, count: float | None = None) -> Tensor:
    """AC: how much of the map is bright, for the findings that are present.

        loss = mean over present (b, c) of the mean over patches of H

    Alone it would put out every light; against `background_suppression`, which wants nothing telling left outside, it makes the
    foreground as small as it can be. The heatmap of an absent finding is left alone: it has no size to be right or wrong.

    Args:
        heatmap_BCyx: H, from 0 to 1.
        labels_BC: 1 where the finding is present; 0 and NaN add nothing.
        count: Present findings to divide by. None: those of this batch.

    Returns:
        A scalar, float32, from 0 to 1. 0 if no finding is present.

    Source: CLARiTy (arXiv 2512.16700), section 3.4, and BAS (arXiv 2112.00580); the formula is a reconstruction.
    """
    present_BC = labels_BC == 1
    area_BC = heatmap_BCyx.float().mean(dim=(2, 3))
    if count is None:
        count = present_BC.sum().clamp(min=1)
    return (area_BC * present_BC).sum() / count
