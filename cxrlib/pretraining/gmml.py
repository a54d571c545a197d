"""GMML: group-masked model learning (Atito, Awais and Kittler 2022, arXiv 2205.14986; code: Sara-Ahmed/GMML).

Rectangles of an image are overwritten, by noise or by another image, and the network paints back what was there. To do so
it must learn what chests look like. No label is read. LT-ViT starts from an encoder that was trained this way.

    rectangles -> block_mask -> corrupt -> Gmml: encoder and Decoder -> l1_on_corrupted

Letters of shapes: B batch, I input channels, Y X pixels, y x rows and columns of patches, R rectangles, P patches, D width.
"""

import numpy as np
import torch
from torch import Tensor, nn

from cxrlib.models.vit import VisionTransformer

RECTANGLES = 160
"""Drawn for each image. Covering three quarters of it takes about 80; among 5,000 images the greediest took 138."""


def rectangles(draws_BR4: Tensor, *, size: tuple[int, int], align: int = 1, largest: float = 0.3) -> Tensor:
    """Random rectangles on a grid of `align` pixels: the corner anywhere, each side from 1 cell to `largest` of the image's.

    What would leave the image is cut off at its edge.

    Args:
        draws_BR4: Uniform numbers in [0, 1): top, left, height, width.
        size: (Y, X) of the image; multiples of `align`.
        align: 1 for any pixel (the published default); the patch size for whole patches.
        largest: Longest side as a share of the image's.

    Returns:
        box_BR4, int64: y0, x0, y1, x1 in pixels, half-open.

    Source: GMML_drop_rand_patches of the published code; there a patch-aligned corner never reaches the last patches.
    """
    cells_2 = torch.tensor(size) // align
    longest_2 = (cells_2 * largest).long().clamp(min=1)
    start_BR2 = (draws_BR4[..., :2] * cells_2).long()
    side_BR2 = 1 + (draws_BR4[..., 2:] * longest_2).long()
    return torch.cat([start_BR2, torch.minimum(start_BR2 + side_BR2, cells_2)], dim=-1) * align


def block_mask(box_BR4: Tensor, share_B: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Lays rectangle after rectangle until at least `share_B` of the pixels is covered.

    On the device that the rectangles are on: a processor paints them, one after the other; a GPU would have to wait for that,
    and multiplies matrices instead. Both give the same mask.

    Args:
        box_BR4: At most 255 rectangles per image, see `rectangles`.
        share_B: Share of the pixels to cover. Should all rectangles not suffice, they are all laid.
        size: (Y, X) of the image.

    Returns:
        mask_BYX, bool: True where corrupted.
    """
    wanted_B = (share_B.double() * size[0] * size[1]).ceil().long()
    if box_BR4.device.type == "cpu":
        return painted_mask(box_BR4, wanted_B, size=size)
    return multiplied_mask(box_BR4, wanted_B, size=size)


def painted_mask(box_BR4: Tensor, wanted_B: Tensor, *, size: tuple[int, int]) -> Tensor:
    """`block_mask` in one round of painting.

    `first` is the number of the first rectangle that covers a pixel: painting from the last to the first leaves it. After
    rectangle k, the pixels with first <= k are covered; so k is the smallest number that at least n pixels do not exceed.

    Args:
        box_BR4, size: As there.
        wanted_B: How many pixels to cover, int64.

    Returns:
        mask_BYX, bool.
    """
    (B, R, _), (Y, X) = box_BR4.shape, size
    first_BYX = np.full((B, Y, X), R, np.uint8)  # R: no rectangle covers the pixel
    for first_YX, box_R4 in zip(first_BYX, box_BR4.tolist()):
        for number in range(R - 1, -1, -1):
            y0, x0, y1, x1 = box_R4[number]
            first_YX[y0:y1, x0:x1] = number
    numbers = R + 1
    image_B11 = np.arange(B)[:, None, None]
    pixels_BR = np.bincount((first_BYX + numbers * image_B11).ravel(), minlength=B * numbers).reshape(B, numbers)
    last_B = (pixels_BR.cumsum(axis=1) < wanted_B.numpy()[:, None]).sum(axis=1).clip(max=R - 1)
    return torch.from_numpy(first_BYX <= last_B[:, None, None])


def multiplied_mask(box_BR4: Tensor, wanted_B: Tensor, *, size: tuple[int, int]) -> Tensor:
    """`block_mask` as a few products of matrices, without a loop over rectangles.

    A pixel is covered if some rectangle spans both its row and its column: the product of the two tables counts how many do.
    The number of the last rectangle is found by halving, all images at once.

    Args:
        box_BR4, wanted_B, size: As in `painted_mask`.

    Returns:
        mask_BYX, bool, the same as `painted_mask`'s.
    """
    (_, R, _), (Y, X) = box_BR4.shape, size
    number_R, y_Y, x_X = (torch.arange(n, device=box_BR4.device) for n in (R, Y, X))
    y0_BR1, x0_BR1, y1_BR1, x1_BR1 = (side_BR[..., None] for side_BR in box_BR4.unbind(dim=-1))
    row_BRY = ((y0_BR1 <= y_Y) & (y_Y < y1_BR1)).float()
    column_BRX = ((x0_BR1 <= x_X) & (x_X < x1_BR1)).float()

    def covered(last_B: Tensor) -> Tensor:
        laid_BRY = row_BRY * (number_R <= last_B[:, None])[..., None]
        return laid_BRY.mT @ column_BRX > 0.5

    low_B, high_B = torch.zeros_like(wanted_B), torch.full_like(wanted_B, R - 1)
    for _ in range((R - 1).bit_length()):
        middle_B = (low_B + high_B) // 2
        enough_B = covered(middle_B).sum(dim=(1, 2)) >= wanted_B
        low_B, high_B = torch.where(enough_B, low_B, middle_B + 1), torch.where(enough_B, middle_B, high_B)
    return covered(low_B)


def corrupt(
    img_BIYX: Tensor,
    *,
    share: tuple[float, float] = (0.5, 0.75),
    alien_chance: float = 0.5,
    alien_share: float = 0.3,
    align: int = 1,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Corrupts each image, either with noise or with blocks of another image of the batch.

    Noise is N(0, 1), the scale of normalised images. The published code tosses a coin per image: noise on a share of its
    pixels drawn from `share`, or, starting again from the clean image, an alien's content on `alien_share` of them.

    Args:
        img_BIYX: Normalised images.
        share: Least and largest share of pixels under noise; uniform between.
        alien_chance: Chance that an image gets alien blocks instead of noise.
        alien_share: Share of pixels under alien blocks.
        align: See `rectangles`.
        generator: Where the random numbers come from. None: torch's global one.

    Returns:
        (corrupted_BIYX, mask_BYX): the mask is True where corrupted.

    Source: GMML_replace_list of the published code. There a view may be its own alien; here never (our decision).
    """
    B, size = len(img_BIYX), tuple(img_BIYX.shape[-2:])
    draws_B3 = torch.rand(B, 3, generator=generator)
    alien_B = (draws_B3[:, 0] < alien_chance) & (B > 1)
    noise_share_B = share[0] + (share[1] - share[0]) * draws_B3[:, 1]
    donor_B = (torch.arange(B) + 1 + (draws_B3[:, 2] * (B - 1)).long()) % B
    box_BR4 = rectangles(torch.rand(B, RECTANGLES, 4, generator=generator), size=size, align=align)
    share_B = torch.where(alien_B, alien_share, noise_share_B)
    mask_BYX = block_mask(box_BR4.to(img_BIYX.device), share_B.to(img_BIYX.device), size=size)

    noise_BIYX = torch.randn(img_BIYX.shape, generator=generator, device=generator.device if generator else img_BIYX.device)
    alien_B, donor_B = alien_B.to(img_BIYX.device), donor_B.to(img_BIYX.device)
    filling_BIYX = torch.where(alien_B[:, None, None, None], img_BIYX[donor_B], noise_BIYX.to(img_BIYX))
    return torch.where(mask_BYX[:, None], filling_BIYX, img_BIYX), mask_BYX


def l1_on_corrupted(painted_BIYX: Tensor, clean_BIYX: Tensor, mask_BYX: Tensor) -> Tensor:
    """Mean absolute error over the corrupted pixels alone.

        loss = sum over corrupted (b, y, x) and i of |painted - clean| / (I * number of corrupted pixels)

    What was left clean is in plain sight: painting it back teaches nothing.

    Source: `drop_only` of the published code.
    """
    error_BYX = (painted_BIYX.float() - clean_BIYX.float()).abs().mean(dim=1)
    return (error_BYX * mask_BYX).sum() / mask_BYX.sum().clamp(min=1)


def kept_layers(depth: int) -> tuple[int, ...]:
    """The layers whose outputs the decoder reads, counted from 1: 6, 8, 10, 12 of 12, and their like in other depths."""
    return tuple(sorted({max(round(depth * layer / 12), 1) for layer in (6, 8, 10, 12)}))


class Decoder(nn.Module):
    """Three times (linear, GELU) on each patch, then a linear map to the patch's pixels.

    It is light on purpose: what the encoder leaves undone, the decoder cannot do. The published code ends with a transposed
    convolution whose stride is its kernel; that is one linear map per patch, and computed so it is many times faster on a CPU.
    """

    def __init__(self, *, grid: tuple[int, int], patch_size: int, in_channels: int, width: int):
        super().__init__()
        self.grid, self.patch_size, self.in_channels = grid, patch_size, in_channels
        self.mlp = nn.Sequential(*(layer for _ in range(3) for layer in (nn.Linear(width, width), nn.GELU())))
        self.paint = nn.Linear(width, in_channels * patch_size**2)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, patches_BPD: Tensor) -> Tensor:
        (rows, columns), p, I = self.grid, self.patch_size, self.in_channels
        pixels_ByxIpq = self.paint(self.mlp(patches_BPD)).reshape(-1, rows, columns, I, p, p)
        return pixels_ByxIpq.permute(0, 3, 1, 4, 2, 5).reshape(-1, I, rows * p, columns * p)


class Gmml(nn.Module):
    """Encoder and decoder: corrupted images in, painted images out.

    The decoder reads the mean of several layers' outputs, each after the encoder's last norm: middle layers must then hold
    what is in the image too, and not only the last.

    Args:
        encoder: Any `VisionTransformer` without a head.
        in_channels: Channels of its input.
    """

    def __init__(self, encoder: VisionTransformer, *, in_channels: int):
        super().__init__()
        self.encoder = encoder
        width = encoder.cls_token.shape[-1]
        self.decoder = Decoder(grid=encoder.grid, patch_size=encoder.patch_size, in_channels=in_channels, width=width)
        self.kept = kept_layers(len(encoder.blocks))

    def forward(self, corrupted_BIYX: Tensor) -> Tensor:
        x_BND = self.encoder.embed(corrupted_BIYX)
        read_BND = torch.zeros_like(x_BND)
        for layer, block in enumerate(self.encoder.blocks, start=1):
            x_BND, _ = block(x_BND)
            if layer in self.kept:
                read_BND = read_BND + self.encoder.norm(x_BND)
        return self.decoder(read_BND[:, 1:] / len(self.kept))  # without the class token
