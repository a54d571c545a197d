"""Random views of an image for pre-training: a crop, a little more or less light and contrast, sometimes a blur.

No view is mirrored. GMML and DINO mirror half of theirs; a mirrored chest has its heart on the wrong side, and a network
that starts from such views was told that sides do not matter. Solarisation (DINO) is left out: it turns the bright half
of the grey scale over, and an inverted film is another kind of image. Hue and saturation have no meaning in grey.

Letters of shapes: B batch, Y X pixels.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cxrlib.data.augment import Ranges, adjust_grey

RATIO = 4 / 3
"""A crop is at most this much longer than wide, or wider than long, before it is made square."""


class View(NamedTuple):
    """How a view is drawn."""

    size: int
    """Side of the view, in pixels."""
    scale: tuple[float, float]
    """Least and largest share of the image's area that a crop keeps."""
    jitter: float = 0.1
    """Largest change of brightness, and of contrast, see `cxrlib.data.augment.Ranges`."""
    jitter_chance: float = 0.3
    """Chance that a view is changed so."""
    blur_chance: float = 0.1
    """Chance that a view is blurred."""


def crop_boxes(draws_B4: Tensor, *, scale: tuple[float, float], size: tuple[int, int]) -> Tensor:
    """Random crops: area share uniform in `scale`, ratio of the sides uniform on a log scale up to `RATIO`, place uniform.

    A crop that would be longer than the image is shortened to it (torchvision draws anew instead).

    Args:
        draws_B4: Uniform numbers in [0, 1): area, ratio, top, left.
        size: (Y, X) of the images.

    Returns:
        box_B4, float: y0, x0, height, width, in pixels.
    """
    share_B = scale[0] + (scale[1] - scale[0]) * draws_B4[:, 0]
    ratio_B = torch.exp((2 * draws_B4[:, 1] - 1) * math.log(RATIO))
    side_B2 = torch.stack([(share_B / ratio_B).sqrt(), (share_B * ratio_B).sqrt()], dim=1).clamp(max=1)
    corner_B2 = draws_B4[:, 2:] * (1 - side_B2)
    return torch.cat([corner_B2, side_B2], dim=1) * draws_B4.new_tensor([*size, *size])


def crop(img_B1YX: Tensor, box_B4: Tensor, *, side: int) -> Tensor:
    """Cuts a box out of each image and resizes it, bilinearly, to a square."""
    Y, X = img_B1YX.shape[-2:]
    y0_B, x0_B, height_B, width_B = box_B4.unbind(1)
    zero_B = torch.zeros_like(y0_B)
    # grid_sample counts from -1 to 1 across the image: the crop's -1 is x0, its 1 is x0 + width.
    theta_B6 = torch.stack(
        [width_B / X, zero_B, (2 * x0_B + width_B) / X - 1, zero_B, height_B / Y, (2 * y0_B + height_B) / Y - 1], dim=1
    )
    grid_BYX2 = F.affine_grid(theta_B6.unflatten(1, (2, 3)), [len(img_B1YX), 1, side, side], align_corners=False)
    return F.grid_sample(img_B1YX, grid_BYX2, mode="bilinear", padding_mode="border", align_corners=False)


def blur(img_B1YX: Tensor, sigma_B: Tensor) -> Tensor:
    """Blurs each image with a Gaussian of its own width, in pixels; rows, then columns."""
    reach = min(math.ceil(3 * float(sigma_B.max())), min(img_B1YX.shape[-2:]) - 1)
    offset_K = torch.arange(-reach, reach + 1, device=img_B1YX.device)
    kernel_BK = torch.exp(-0.5 * (offset_K / sigma_B[:, None]) ** 2)
    kernel_BK = kernel_BK / kernel_BK.sum(dim=1, keepdim=True)
    img_1BYX = F.pad(img_B1YX.transpose(0, 1), (reach, reach, reach, reach), mode="reflect")
    img_1BYX = F.conv2d(img_1BYX, kernel_BK[:, None, None, :], groups=len(img_B1YX))  # one group, one image
    return F.conv2d(img_1BYX, kernel_BK[:, None, :, None], groups=len(img_B1YX)).transpose(0, 1)


def draw_view(img_B1YX: Tensor, view: View) -> Tensor:
    """One random view of each image, by torch's global generator.

    The blur's width is uniform between 0.1 and 2 pixels of a 224-pixel view, as published, and scaled to other sizes.

    Args:
        img_B1YX: Grey values from 0 to 1.

    Returns:
        [B, 1, size, size], grey values from 0 to 1.
    """
    draws_B9 = torch.rand(len(img_B1YX), 9).to(img_B1YX.device)  # drawn on the CPU: the same views on every device
    box_B4 = crop_boxes(draws_B9[:, :4], scale=view.scale, size=tuple(img_B1YX.shape[-2:]))
    out_B1YX = crop(img_B1YX, box_B4, side=view.size)
    grey_B2 = torch.where(draws_B9[:, 4:5] < view.jitter_chance, draws_B9[:, 5:7], 0.5)  # one half: no change
    grey_B6 = F.pad(grey_B2, (4, 0))  # columns 4 and 5 are brightness and contrast
    out_B1YX = adjust_grey(out_B1YX, grey_B6, Ranges(brightness=view.jitter, contrast=view.jitter))
    blurred = draws_B9[:, 7] < view.blur_chance
    if blurred.any():
        sigma_B = (0.1 + 1.9 * draws_B9[:, 8]) * view.size / 224
        out_B1YX[blurred] = blur(out_B1YX[blurred], sigma_B[blurred])
    return out_B1YX
