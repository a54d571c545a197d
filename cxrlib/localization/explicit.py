"""A forward pass that writes its attention out, so that it can be multiplied (rollout) and differentiated (Chefer).

The models compute attention with a fused kernel that never stores a map. Here the same weights do the same sums with the
maps as ordinary tensors; a test holds that the logits agree. LT-ViT becomes one sequence, [image; labels], with a mask that
says who reads whom.

Letters of shapes: B batch, C findings, N tokens of the image, S all tokens (N, or N + C with labels), D width, H heads, d
head width, P patches.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from cxrlib.errors import CxrError
from cxrlib.models import Clarity, LabelTokenViT, VisionTransformer
from cxrlib.models.lt_vit import merge_heads, split_heads


class Explicit(NamedTuple):
    """Logits and the attention they came from."""

    logits_BC: Tensor
    """The class tokens' logits. For CLARiTy these are its class logits, without SegmentCAM's half."""
    attention: list[Tensor]
    """[B, H, S, S] per layer, in the graph of the logits. Layers that labels have not yet entered have S = N."""
    readers: list[int]
    """For each finding, the token whose row is its own."""
    first_patch: int
    """Where the patches start in the sequence."""


def explicit_forward(model: nn.Module, img_BIYX: Tensor) -> Explicit:
    """Runs a plain ViT, LT-ViT or CLARiTy with its attention written out.

    Raises:
        CxrError: The model is none of these.
    """
    if type(model) not in (VisionTransformer, LabelTokenViT, Clarity):
        raise CxrError(f"the attention of a {type(model).__name__} cannot be written out: use a ViT, LT-ViT or CLARiTy")
    x_BSD = model.embed(img_BIYX)
    N = x_BSD.shape[1]
    is_lt = isinstance(model, LabelTokenViT)
    maps = []
    layers = model.blocks[: model.n1 + model.n2] if is_lt else model.blocks
    for layer, block in enumerate(layers):
        if is_lt and layer == model.n1:
            x_BSD = torch.cat([x_BSD, model.label_tokens.expand(len(x_BSD), -1, -1)], dim=1)
        allowed_SS = _who_reads_whom(model, N, x_BSD.shape[1], x_BSD.device) if is_lt and layer >= model.n1 else None
        q_BHSd, k_BHSd, v_BHSd = split_heads(block.attn, block.norm1(x_BSD))
        scores_BHSS = q_BHSd @ k_BHSd.transpose(-2, -1) * q_BHSd.shape[-1] ** -0.5
        if allowed_SS is not None:
            scores_BHSS = scores_BHSS.masked_fill(~allowed_SS, float("-inf"))
        maps.append(scores_BHSS.softmax(dim=-1))
        x_BSD = x_BSD + merge_heads(block.attn, maps[-1] @ v_BHSd)
        x_BSD = x_BSD + block.mlp(block.norm2(x_BSD))
    if is_lt:
        t_BCD = model.norm(x_BSD[:, N:])
        logits_BC = model.head(model.norm(t_BCD) if model.norm_twice else t_BCD)
        return Explicit(logits_BC, maps, list(range(N, x_BSD.shape[1])), 1)
    if isinstance(model, Clarity):
        C = model.findings
        return Explicit(model.head((x_BSD if model.pool == "mean" else model.norm(x_BSD))[:, :C]), maps, list(range(C)), C)
    logits_BC = model.head(model.norm(x_BSD)[:, 0])
    return Explicit(logits_BC, maps, [0] * logits_BC.shape[1], 1)


def _who_reads_whom(model: LabelTokenViT, N: int, S: int, device: torch.device) -> Tensor:
    """bool [S, S]: row reads column. LT-ViT's one-way flow and its ablations as one mask."""
    allowed_SS = torch.ones(S, S, dtype=torch.bool, device=device)
    if model.label_block.flow == "one-way":
        allowed_SS[:N, N:] = False
    if model.label_block.label_attention == "none":
        allowed_SS[N:, N:] = False
    if model.label_block.label_attention == "self":
        allowed_SS[N:, N:] = torch.eye(S - N, dtype=torch.bool, device=device)
    return allowed_SS


def padded(map_BSS: Tensor, S: int) -> Tensor:
    """A layer's map as [B, S, S]: tokens that were not there yet read nothing and are read by nobody."""
    missing = S - map_BSS.shape[-1]
    return nn.functional.pad(map_BSS, (0, missing, 0, missing))
