"""DINO: self-distillation with no labels (Caron et al. 2021, arXiv 2104.14294; code: facebookresearch/dino).

A student sees many views of an image, large and small. A teacher sees the two large ones. The student shall say of every view
what the teacher says of another. The teacher is the student's own average over time, so nobody knows the answer beforehand;
two devices keep both from agreeing on nothing: centring keeps one answer from winning always, sharpening keeps all answers
from becoming equal.

Letters of shapes: B batch, I input channels, Y X pixels, y x rows and columns of patches, V views, G views of the teacher, N
tokens, D width, E bottleneck, K prototypes (the answers).
"""

import copy

import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from cxrlib.models.vit import VisionTransformer


def sharpened(teacher_BK: Tensor, centre_K: Tensor, temperature: float) -> Tensor:
    """The teacher's answer, softmax((t - c) / tau_t): centred, and sharp because tau_t is small (eq. 1 and Algorithm 1)."""
    return ((teacher_BK.float() - centre_K) / temperature).softmax(dim=-1)


def dino_loss(
    student_VBK: Tensor, teacher_GBK: Tensor, centre_K: Tensor, *, student_temp: float, teacher_temp: float
) -> Tensor:
    """Cross-entropy between the teacher's answer on one view and the student's on another (eq. 2 and 3, Algorithm 1).

        loss = mean over views g of the teacher, views v != g, and images of - sum_k P_t(g)_k log P_s(v)_k

    The published code takes the mean over the pairs of views, eq. 3 the sum; the learning rates are made for the mean.

    Args:
        student_VBK: The student's logits. The first G views are those that the teacher saw too.
        teacher_GBK: The teacher's.
        centre_K: See `next_centre`.
        student_temp: tau_s.
        teacher_temp: tau_t, smaller.
    """
    answer_GBK = sharpened(teacher_GBK, centre_K, teacher_temp).detach()
    log_VBK = (student_VBK.float() / student_temp).log_softmax(dim=-1)
    terms = [
        -(answer_BK * log_VBK[v]).sum(dim=-1).mean()
        for g, answer_BK in enumerate(answer_GBK)
        for v in range(len(log_VBK))
        if v != g
    ]
    return torch.stack(terms).mean()


def next_centre(centre_K: Tensor, mean_K: Tensor, momentum: float) -> Tensor:
    """The centre follows the mean of the teacher's logits: c <- m c + (1 - m) mean (eq. 4)."""
    return momentum * centre_K + (1 - momentum) * mean_K


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """The teacher's weights follow the student's: theta_t <- lambda theta_t + (1 - lambda) theta_s (section 3.1)."""
    for theirs, ours in zip(teacher.parameters(), student.parameters(), strict=True):
        theirs.mul_(momentum).add_(ours, alpha=1 - momentum)


def entropies(answer_BK: Tensor) -> tuple[Tensor, Tensor]:
    """Two numbers that tell a collapse: (mean entropy of the answers, entropy of the mean answer), in nats.

    Both near log K: every answer is the uniform one. Both near 0: every image gets the same single answer.
    """

    def entropy(p_BK: Tensor) -> Tensor:
        return -(p_BK * p_BK.clamp(min=1e-12).log()).sum(dim=-1)

    return entropy(answer_BK).mean(), entropy(answer_BK.mean(dim=0))


class ProjectionHead(nn.Module):
    """Three linear maps with GELU between, the length of the result set to 1, and a last layer of K unit vectors.

    Logit k is thus the cosine between the image and prototype k. (The published last layer is weight-normed with its gain
    fixed at 1, which is the same; its recipe for ViT-S lets the gain learn.)
    """

    def __init__(self, *, width: int, hidden: int, bottleneck: int, prototypes: int):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        self.last_KE = nn.Parameter(torch.empty(prototypes, bottleneck))
        nn.init.normal_(self.last_KE)
        for module in self.mlp:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x_BD: Tensor) -> Tensor:
        x_BE = F.normalize(self.mlp(x_BD), dim=-1)
        return x_BE @ F.normalize(self.last_KE, dim=-1).T


def class_token(encoder: VisionTransformer, img_BIYX: Tensor) -> Tensor:
    """The class token after the last norm, for images of any size that patches tile: positions are resampled to it."""
    positions_1ND, grid = encoder.pos_embed, tuple(side // encoder.patch_size for side in img_BIYX.shape[-2:])
    if grid != encoder.grid:
        positions_1ND = resample_abs_pos_embed(
            positions_1ND, new_size=list(grid), old_size=list(encoder.grid), num_prefix_tokens=1
        )
    x_BPD = encoder.patch_embed(img_BIYX)
    x_BND = torch.cat([encoder.cls_token.expand(len(x_BPD), -1, -1), x_BPD], dim=1) + positions_1ND
    for block in encoder.blocks:
        x_BND, _ = block(x_BND)
    return encoder.norm(x_BND)[:, 0]


class Dino(nn.Module):
    """Encoder and projection head: the student, and the teacher too."""

    def __init__(self, encoder: VisionTransformer, *, hidden: int, bottleneck: int, prototypes: int):
        super().__init__()
        self.encoder = encoder
        width = encoder.cls_token.shape[-1]
        self.head = ProjectionHead(width=width, hidden=hidden, bottleneck=bottleneck, prototypes=prototypes)

    def forward(self, *views: Tensor) -> Tensor:
        """logits_VBK. Each argument holds several views of the batch, one after the other, all of one size."""
        cls_VBD = torch.cat([class_token(self.encoder, img_BIYX) for img_BIYX in views])
        return self.head(cls_VBD)


class Teacher(Dino):
    """A copy of the student that no gradient reaches, without drop path, and the centre."""

    def __init__(self, student: Dino, plain_encoder: VisionTransformer):
        nn.Module.__init__(self)
        self.encoder = plain_encoder
        self.encoder.load_state_dict(student.encoder.state_dict())
        self.head = copy.deepcopy(student.head)
        self.register_buffer("centre_K", torch.zeros(len(self.head.last_KE)))
        self.requires_grad_(False)
