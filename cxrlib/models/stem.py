"""A convolutional stem: "Early convolutions help transformers see better" (Xiao et al. 2021, arXiv 2106.14881)."""

import math

from torch import Tensor, nn

from cxrlib.errors import CxrError


class ConvStem(nn.Module):
    """Halves the image with 3 x 3 convolutions until one pixel is left per patch, then maps to the width.

    It replaces the single convolution of `PatchEmbed`. GroupNorm takes the place of the paper's BatchNorm, so that a
    batch of one gives the same answer as a batch of many (our decision).

    Args:
        patch_size: Pixels per patch side; a power of two, at least 2.
        in_channels: Channels of the image.
        width: D, the length of a token.

    Raises:
        CxrError: The patch size is no power of two, or the width is too small to halve that often.
    """

    def __init__(self, *, patch_size: int = 16, in_channels: int = 3, width: int = 384):
        super().__init__()
        halvings = int(math.log2(patch_size)) if patch_size > 1 else 0
        if patch_size < 2 or 2**halvings != patch_size:
            raise CxrError(f"a convolutional stem halves the image, so the patch size must be 2, 4, 8, ..., not {patch_size}")
        if width % (8 * 2 ** (halvings - 1)):
            raise CxrError(f"width {width} must be a multiple of {8 * 2 ** (halvings - 1)} for patches of {patch_size} px")
        layers: list[nn.Module] = []
        channels = in_channels
        for halving in range(halvings):
            wider = width // 2 ** (halvings - 1 - halving)
            layers += [
                nn.Conv2d(channels, wider, kernel_size=3, stride=2, padding=1, bias=False),
                nn.GroupNorm(8, wider),
                nn.ReLU(inplace=True),
            ]
            channels = wider
        self.stem = nn.Sequential(*layers)
        self.proj = nn.Conv2d(width, width, kernel_size=1)

    def forward(self, img_BIYX: Tensor) -> Tensor:
        return self.proj(self.stem(img_BIYX)).flatten(2).transpose(1, 2)  # [B, P, D], patches in row order
