"""Regions and boxes, moved as an augmented image was.

Letters of shapes: B batch, C findings, S side of a region, y x rows and columns of patches.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cxrlib.data.augment import warp


def resize_matrix(matrix_B23: Tensor, *, image: int, size: int) -> Tensor:
    """The matrix of an image of `image` pixels a side, for a map of the same scene with `size` pixels a side."""
    scale_3 = torch.tensor([1.0, 1.0, size / image], dtype=matrix_B23.dtype, device=matrix_B23.device)
    return matrix_B23 * scale_3  # rotation and scale have no unit; the offset is in pixels


def move_regions(regions_BCSS: Tensor, matrix_B23: Tensor, *, image: int) -> Tensor:
    """Moves regions by the very matrices that moved their images; what comes from outside the image is in no region.

    Args:
        regions_BCSS: 0 and 1.
        matrix_B23: From `cxrlib.data.augment.augment`: output pixel to input pixel, in pixels of the image.
        image: The image's side in pixels.

    Returns:
        Float 0 and 1, [B, C, S, S].
    """
    matrix_B23 = resize_matrix(matrix_B23, image=image, size=regions_BCSS.shape[-1])
    return warp(regions_BCSS.float(), matrix_B23, mode="nearest")


def to_patches(regions_BCSS: Tensor, grid: tuple[int, int]) -> Tensor:
    """Regions on the grid of patches: a patch is in where any part of it is, as it may show something at the edge."""
    return F.adaptive_max_pool2d(regions_BCSS.float(), grid)


def move_boxes(boxes_M4: Tensor, matrix_23: Tensor) -> Tensor:
    """Boxes of one image, moved as the image was: the smallest upright box around each one's four moved corners.

    Args:
        boxes_M4: xyxy, half-open, pixels of the image.
        matrix_23: Output pixel to input pixel, as for `warp`; boxes go the other way.
    """
    x0, y0, x1, y1 = boxes_M4.unbind(dim=1)
    corners_M42 = torch.stack([torch.stack([x0, x1, x1, x0], 1), torch.stack([y0, y0, y1, y1], 1)], dim=2)
    inverse_22 = torch.linalg.inv(matrix_23[:, :2].to(boxes_M4.dtype))
    moved_M42 = (corners_M42 - matrix_23[:, 2].to(boxes_M4.dtype)) @ inverse_22.T
    return torch.cat([moved_M42.amin(dim=1), moved_M42.amax(dim=1)], dim=1)
