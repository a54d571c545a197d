"""Augmentation of a batch: one affine matrix per image, brightness and contrast, on the device that trains.

The matrices are returned, so that masks and boxes can be moved by the very same ones. Chests are never mirrored: the
heart lies on the left, and a mirrored film is another diagnosis.

Letters of shapes: B batch, I channels, Y X pixels, K draws per image.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

DRAWS = 6
"""How many uniform numbers one image's augmentation needs: rotation, scale, shift in x and y, brightness, contrast."""


class Ranges(NamedTuple):
    """How far an augmentation may go. All zero: the image stays as it is."""

    rotation: float = 0.0
    """Largest rotation, degrees, either way."""
    scale: float = 0.0
    """Largest change of size: 0.1 draws a factor between 1/1.1 and 1.1."""
    shift: float = 0.0
    """Largest shift along x and y, as a share of the side."""
    brightness: float = 0.0
    """Largest amount added to the grey values, which run from 0 to 1."""
    contrast: float = 0.0
    """Largest change of contrast about the image's mean: 0.2 draws a factor between 1/1.2 and 1.2."""


def affine_matrices(draws_BK: Tensor, ranges: Ranges, *, size: tuple[int, int]) -> Tensor:
    """Where each output pixel comes from: input (x, y) = matrix @ (x, y, 1), in pixels.

    The frame has its origin at the top-left corner of the image; the centre of the first pixel is (0.5, 0.5). Rotation and
    scale keep the image's centre where it is, then the shift is added.

    Args:
        draws_BK: Uniform numbers in [0, 1). Columns 0 to 3 are used. One half means "no change".
        ranges: The limits.
        size: (Y, X), height and width of the image.

    Returns:
        matrix_B23, float32.
    """
    u_BK = draws_BK.float() * 2 - 1  # [-1, 1)
    height, width = size
    angle_B = u_BK[:, 0] * math.radians(ranges.rotation)
    factor_B = (1 + ranges.scale) ** u_BK[:, 1]
    cos_B, sin_B = angle_B.cos() / factor_B, angle_B.sin() / factor_B
    rotation_B22 = torch.stack([cos_B, -sin_B, sin_B, cos_B], dim=1).reshape(-1, 2, 2)
    centre_2 = torch.tensor([width / 2, height / 2], device=u_BK.device)
    shift_B2 = u_BK[:, 2:4] * ranges.shift * torch.tensor([width, height], device=u_BK.device)
    offset_B2 = centre_2 - torch.einsum("bij,bj->bi", rotation_B22, centre_2 + shift_B2)
    return torch.cat([rotation_B22, offset_B2[:, :, None]], dim=2)


def warp(img_BIYX: Tensor, matrix_B23: Tensor, *, mode: str = "bilinear") -> Tensor:
    """Moves each image by its matrix (see `affine_matrices`). What comes from outside the image is 0.

    Args:
        img_BIYX: Float images, or masks.
        matrix_B23: Output pixel to input pixel.
        mode: "bilinear", or "nearest" for masks that must stay 0 and 1.
    """
    height, width = img_BIYX.shape[-2:]
    # grid_sample counts from -1 to 1 across the image: g = 2 x / width - 1, on both sides of the equation.
    size_2 = torch.tensor([width, height], dtype=matrix_B23.dtype, device=matrix_B23.device)
    linear_B22 = matrix_B23[:, :, :2] * size_2 / size_2[:, None]
    offset_B2 = (2 * matrix_B23[:, :, 2] + matrix_B23[:, :, :2] @ size_2) / size_2 - 1
    theta_B23 = torch.cat([linear_B22, offset_B2[:, :, None]], dim=2)
    grid_BYX2 = F.affine_grid(theta_B23, list(img_BIYX.shape), align_corners=False)
    return F.grid_sample(img_BIYX, grid_BYX2.to(img_BIYX.dtype), mode=mode, padding_mode="zeros", align_corners=False)


def adjust_grey(img_BIYX: Tensor, draws_BK: Tensor, ranges: Ranges) -> Tensor:
    """Contrast about each image's own mean, then brightness, by columns 4 and 5 of the draws; the result stays in [0, 1]."""
    u_BK = draws_BK.float() * 2 - 1
    brightness_B111 = (u_BK[:, 4] * ranges.brightness)[:, None, None, None]
    contrast_B111 = ((1 + ranges.contrast) ** u_BK[:, 5])[:, None, None, None]
    mean_B111 = img_BIYX.mean(dim=(1, 2, 3), keepdim=True)
    return ((img_BIYX - mean_B111) * contrast_B111 + mean_B111 + brightness_B111).clamp(0, 1)


def augment(img_BIYX: Tensor, draws_BK: Tensor, ranges: Ranges) -> tuple[Tensor, Tensor]:
    """One augmented view of each image, and the matrices that moved them.

    Args:
        img_BIYX: Float images with grey values from 0 to 1.
        draws_BK: `DRAWS` uniform numbers per image, which fix the view. They are arguments, not drawn in here, so that a run
            can be repeated exactly.
        ranges: The limits.

    Returns:
        (images, matrix_B23).
    """
    matrix_B23 = affine_matrices(draws_BK, ranges, size=tuple(img_BIYX.shape[-2:]))
    return adjust_grey(warp(img_BIYX, matrix_B23), draws_BK, ranges), matrix_B23


def to_float(img_BYX: Tensor) -> Tensor:
    """Grey bytes to [B, 1, Y, X] floats from 0 to 1."""
    return img_BYX[:, None].float() / 255


def normalise(img_BIYX: Tensor, *, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(grey - mean) / std for each channel the model reads; one grey channel is repeated to as many as `mean` has."""
    mean_I11 = torch.tensor(mean, device=img_BIYX.device)[:, None, None]
    std_I11 = torch.tensor(std, device=img_BIYX.device)[:, None, None]
    return (img_BIYX - mean_I11) / std_I11
