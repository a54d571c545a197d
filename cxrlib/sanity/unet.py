"""A small U-Net that was shown the exact masks: the ceiling that a dedicated segmenter sets.

It is told where every lesion is; the models above it in the table were told only *that* there is one. What it reaches on the
same films says how much of the distance to 1 is the film's fault and how much the map's. Trained on phantoms' masks only.

Source: Ronneberger et al. 2015, arXiv 1505.04597; smaller, padded, with group norm; Dice loss of Milletari et al. 2016,
arXiv 1606.04797 (our decision: masks are a hundredth of the film, and a plain pixel loss begins with "nowhere").

Letters: B batch, C findings, D channels, Y X pixels.
"""

import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cxrlib.data.augment import to_float


class UNet(nn.Module):
    """Three times down, three times up, with what was seen on the way down handed across.

    Args:
        findings: C, one mask each.
        width: Channels at full size; they double with each step down.
        depth: Steps down. The side of the film must be a multiple of 2 to this power.
    """

    def __init__(self, *, findings: int = 14, width: int = 8, depth: int = 3):
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(_double(a, b) for a, b in zip([1, *widths[:-1]], widths))
        self.up = nn.ModuleList(_double(a + b, b) for a, b in zip(widths[:0:-1], widths[-2::-1]))
        self.head = nn.Conv2d(width, findings, 1)
        nn.init.constant_(self.head.bias, -4.0)  # a lesion covers a hundredth of a film

    def forward(self, img_BIYX: Tensor) -> Tensor:
        """Logits [B, C, Y, X]."""
        kept, x = [], img_BIYX
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else F.max_pool2d(x, 2))
            kept.append(x)
        for block, across in zip(self.up, kept[-2::-1]):
            x = block(torch.cat([F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False), across], dim=1))
        return self.head(x)


def _double(before: int, after: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (before, after):
        layers += [nn.Conv2d(width, after, 3, padding=1, bias=False), nn.GroupNorm(1 if after < 16 else 4, after), nn.ReLU()]
    return nn.Sequential(*layers)


def segmentation_loss(logits_BCYX: Tensor, mask_BCYX: Tensor) -> Tensor:
    """Cross-entropy of pixels, plus 1 - Dice of each finding over the batch (findings that no film of the batch has do not count)."""
    entropy = F.binary_cross_entropy_with_logits(logits_BCYX, mask_BCYX)
    probability = logits_BCYX.sigmoid()
    both_C = (probability * mask_BCYX).sum(dim=(0, 2, 3))
    total_C = probability.sum(dim=(0, 2, 3)) + mask_BCYX.sum(dim=(0, 2, 3))
    there_C = mask_BCYX.amax(dim=(0, 2, 3)) > 0
    dice_C = 2 * both_C / total_C.clamp(min=1e-6)
    return entropy + (1 - dice_C[there_C]).mean() if there_C.any() else entropy


def fit_unet(images_NYX: np.ndarray, masks, rows: np.ndarray, *, findings: int, seconds: float = 150, width: int = 8, batch: int = 16, lr: float = 4e-3, seed: int = 0, steps: int | None = None) -> UNet:
    """Trains a U-Net on exact masks, for a number of steps or of seconds.

    Args:
        images_NYX: uint8.
        masks: `row -> bool [C, Y, X]`.
        rows: The films to learn from.
        findings: C.
        seconds: Stop after about so long, if `steps` is None: the result then depends on the machine.
        width, batch, lr: As usual; the learning rate falls to zero along a cosine.
        seed: Of the first weights and the order.
        steps: Stop after exactly so many.
    """
    torch.manual_seed(seed)
    net = UNet(findings=findings, width=width).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=1e-4)
    rng, start, step, done = np.random.default_rng(seed), time.monotonic(), 0, 0.0
    while done < 1:
        optimizer.param_groups[0]["lr"] = lr * min(1.0, (step + 1) / 20) * 0.5 * (1 + np.cos(np.pi * done))
        chosen = rng.choice(rows, batch)
        img_BYX = torch.from_numpy(np.stack([images_NYX[row] for row in chosen]))
        mask_BCYX = torch.from_numpy(np.stack([masks(row) for row in chosen])).float()
        loss = segmentation_loss(net(prepare_input(img_BYX)), mask_BCYX)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        step += 1
        done = step / steps if steps is not None else (time.monotonic() - start) / seconds
    return net.eval()


def prepare_input(img_BYX: Tensor) -> Tensor:
    """Grey bytes as the U-Net reads them: [B, 1, Y, X] around 0."""
    return (to_float(img_BYX) - 0.5) / 0.25


@torch.no_grad()
def unet_maps(net: UNet, images_BYX: np.ndarray) -> np.ndarray:
    """Probability of each finding at each pixel, float32 [B, C, Y, X]: a map like any other."""
    return net(prepare_input(torch.from_numpy(np.ascontiguousarray(images_BYX)))).sigmoid().numpy()
