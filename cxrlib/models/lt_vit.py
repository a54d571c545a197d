"""LT-ViT: label tokens inside the Vision Transformer (Marikkar et al. 2023, arXiv 2311.07263).

The image runs through a plain ViT and never learns that there are labels. After `N1` layers one token per finding joins: it
asks the image, layer by layer, through the very weights that the image tokens use. Built in chapter 7; where the tokens
enter and whether they talk to each other is the matter of chapter 8.

Letters of shapes: B batch, I input channels, Y X pixels, y x rows and columns of patches, N image tokens (class token and
patches), C findings, M tokens that a label may read (N + C, or N), D width, H heads, d head width, K layers with labels.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cxrlib.errors import CxrError
from cxrlib.models.heads import LabelHeads
from cxrlib.models.vit import Attention, Block, VisionTransformer

LABEL_ATTENTION = ("full", "self", "none")
FLOWS = ("one-way", "joint")


class LTViTOutput(NamedTuple):
    """What one forward pass returns. Its arity never changes; what was not asked for is None."""

    logits_BC: Tensor
    """One logit per finding, before the sigmoid."""
    tokens_BND: Tensor
    """The image's tokens after the last LayerNorm: the class token first, then the patches in row order."""
    labels_BCD: Tensor
    """The label tokens as the heads read them."""
    attention_KBHCM: Tensor | None = None
    """Where each label looked, in each layer with labels, if maps were asked for: the image tokens first, then labels."""


def split_heads(attn: Attention, x_BND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of an attention layer, each [B, H, N, d]."""
    B, N, D = x_BND.shape
    return attn.qkv(x_BND).reshape(B, N, 3, attn.heads, D // attn.heads).permute(2, 0, 3, 1, 4).unbind(0)


def merge_heads(attn: Attention, mixed_BHNd: Tensor) -> Tensor:
    """The heads side by side again, and mixed by the layer's last linear map: [B, N, D]."""
    B, H, N, d = mixed_BHNd.shape
    return attn.proj(mixed_BHNd.transpose(1, 2).reshape(B, N, H * d))


def label_rows(q_BHCd: Tensor, k_BHMd: Tensor, label_attention: str) -> Tensor:
    """The labels' rows of attention, written out: [B, H, C, M].

    Args:
        q_BHCd: The labels' queries.
        k_BHMd: Keys of the image tokens, followed by those of the labels unless `label_attention` is "none".
        label_attention: "full": a label reads the image and every label. "self": the image and itself. "none": the image.
    """
    scores_BHCM = q_BHCd @ k_BHMd.transpose(-2, -1) * q_BHCd.shape[-1] ** -0.5
    if label_attention == "self":
        C, M = scores_BHCM.shape[-2:]
        others_CC = ~torch.eye(C, dtype=torch.bool, device=q_BHCd.device)
        scores_BHCM = scores_BHCM.masked_fill(F.pad(others_CC, (M - C, 0)), float("-inf"))
    return scores_BHCM.softmax(dim=-1)


class LabelBlock:
    """How image and label tokens pass one ordinary encoder block together (eq. 1 and 2).

    It owns no weight: both streams use the block's own norms, projections and MLP. Eq. 1 is the plain block on the image.
    Eq. 2 lets the labels' queries read [image; labels]. Written as two attention calls, neither needs a mask, so both stay on
    torch's fused kernel.
    """

    def __init__(self, *, label_attention: str = "full", flow: str = "one-way"):
        if label_attention not in LABEL_ATTENTION:
            raise CxrError(f"there is no label attention {label_attention!r}: choose one of {', '.join(LABEL_ATTENTION)}")
        if flow not in FLOWS:
            raise CxrError(f"there is no flow {flow!r}: choose one of {', '.join(FLOWS)}")
        self.label_attention, self.flow = label_attention, flow

    def attend(
        self, attn: Attention, x_BND: Tensor, t_BCD: Tensor, maps: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Eq. 1 and 2 on normed tokens: what the image reads, what the labels read, and the labels' rows of attention.

        A step of its own, so that keys and values are gone before the MLP makes the largest tensors of a layer.
        """
        qx_BHNd, kx_BHNd, vx_BHNd = split_heads(attn, x_BND)
        qt_BHCd, kt_BHCd, vt_BHCd = split_heads(attn, t_BCD)
        k_BHMd, v_BHMd = torch.cat([kx_BHNd, kt_BHCd], dim=2), torch.cat([vx_BHNd, vt_BHCd], dim=2)

        # Eq. 1: the image reads the image. Joint flow, an ablation, lets it read the labels too.
        if self.flow == "joint":
            mixed_BHNd = F.scaled_dot_product_attention(qx_BHNd, k_BHMd, v_BHMd)
        else:
            mixed_BHNd = F.scaled_dot_product_attention(qx_BHNd, kx_BHNd, vx_BHNd)

        # Eq. 2: the labels read the image and one another.
        if self.label_attention == "none":
            k_BHMd, v_BHMd = kx_BHNd, vx_BHNd
        rows_BHCM = label_rows(qt_BHCd, k_BHMd, self.label_attention) if maps or self.label_attention == "self" else None
        if self.label_attention == "self":
            read_BHCd = rows_BHCM @ v_BHMd  # C rows only, so written out it costs next to nothing
        else:
            read_BHCd = F.scaled_dot_product_attention(qt_BHCd, k_BHMd, v_BHMd)
        return merge_heads(attn, mixed_BHNd), merge_heads(attn, read_BHCd), rows_BHCM if maps else None

    def __call__(
        self, block: Block, x_BND: Tensor, t_BCD: Tensor, maps: bool = False
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """One layer: (image tokens, label tokens, the labels' attention [B, H, C, M] if asked for)."""
        mixed_BND, read_BCD, rows_BHCM = self.attend(block.attn, block.norm1(x_BND), block.norm1(t_BCD), maps)
        x_BND = x_BND + block.drop_path(mixed_BND)
        x_BND = x_BND + block.drop_path(block.mlp(block.norm2(x_BND)))
        t_BCD = t_BCD + block.drop_path(read_BCD)
        t_BCD = t_BCD + block.drop_path(block.mlp(block.norm2(t_BCD)))
        return x_BND, t_BCD, rows_BHCM


class LabelTokenViT(VisionTransformer):
    """LT-ViT: N1 plain layers, then N2 layers in which one token per finding reads the image.

    Args:
        num_classes: C, the findings, one token and one head each.
        n2: Layers with label tokens, the last ones. None: a third of the depth (4 of 12, as published).
        n1: Layers before them. None: the rest. n1 + n2 may be less than the depth: the last layers then run on the image
            alone, and the labels are finished earlier.
        label_attention: "full" (the paper), "self" (a label reads itself and the image) or "none" (the image only).
        flow: "one-way" (the paper) or "joint": image tokens read the labels as well.
        token_std: Standard deviation of the label tokens' first values. 0.2 as in the code that is probably the authors' (a
            reconstruction). Chapter 8 compares it with 0.02.
        norm_twice: The final LayerNorm is applied to a label token twice, as in the code that is probably the authors'
            (a reconstruction; False applies it once).
        **sizes: See `VisionTransformer`.

    Raises:
        CxrError: The layers do not fit the depth, or an option is unknown.
    """

    def __init__(
        self,
        *,
        num_classes: int = 14,
        n1: int | None = None,
        n2: int | None = None,
        label_attention: str = "full",
        flow: str = "one-way",
        token_std: float = 0.2,
        norm_twice: bool = True,
        **sizes,
    ):
        super().__init__(num_classes=0, **sizes)
        depth, width = len(self.blocks), self.cls_token.shape[-1]
        if n2 is None:
            n2 = max(depth // 3, 1) if n1 is None else depth - n1
        self.n1 = depth - n2 if n1 is None else n1
        self.n2 = n2
        if self.n1 < 0 or self.n2 < 1 or self.n1 + self.n2 > depth:
            raise CxrError(
                f"{self.n1} layers before the label tokens and {self.n2} with them do not fit a depth of {depth}: "
                "choose n1 from 0, n2 from 1, together at most the depth"
            )
        for block in self.blocks[self.n1 + self.n2 :]:
            block.requires_grad_(False)  # no label reads what these make, so no loss could ever train them
        self.label_block = LabelBlock(label_attention=label_attention, flow=flow)
        self.norm_twice = norm_twice
        self.label_tokens = nn.Parameter(torch.empty(1, num_classes, width))
        nn.init.trunc_normal_(self.label_tokens, std=token_std)
        self.head = LabelHeads(findings=num_classes, width=width)

    def forward(self, img_BIYX: Tensor, maps: bool = False) -> LTViTOutput:
        x_BND = self.embed(img_BIYX)
        t_BCD = self.label_tokens.expand(len(x_BND), -1, -1)
        rows = []
        for layer, block in enumerate(self.blocks):
            if self.n1 <= layer < self.n1 + self.n2:
                x_BND, t_BCD, rows_BHCM = self.label_block(block, x_BND, t_BCD, maps)
                rows.append(rows_BHCM)
            else:
                x_BND, _ = block(x_BND)
        t_BCD = self.norm(t_BCD)
        if self.norm_twice:
            t_BCD = self.norm(t_BCD)
        return LTViTOutput(self.head(t_BCD), self.norm(x_BND), t_BCD, torch.stack(rows) if maps else None)

    @torch.no_grad()
    def maps(self, img_BIYX: Tensor) -> Tensor:
        """Where each label looks in the image: its attention to the patches, averaged over heads and layers with labels.

        Returns:
            map_BCyx. The weights that fall on the class token and on labels are left out, so a map sums to at most 1.
        """
        attention_KBHCM = self(img_BIYX, maps=True).attention_KBHCM
        patches = self.grid[0] * self.grid[1]
        map_BCP = attention_KBHCM.mean(dim=(0, 2))[:, :, 1 : 1 + patches]
        return map_BCP.unflatten(-1, self.grid)

    def own_parts(self) -> set[str]:
        """Names of the parameters that a plain ViT's weights do not have; they keep their random start."""
        return {"label_tokens", "head.weight", "head.bias"}

    def no_weight_decay(self) -> set[str]:
        """Names that weight decay must leave alone: positions, the class token and the label tokens."""
        return super().no_weight_decay() | {"label_tokens"}

    def group_matcher(self, coarse: bool = False) -> dict:
        """As the ViT's; the label tokens belong to the layer that they enter before."""
        groups = super().group_matcher(coarse)
        blocks = [(r"^blocks\.(\d+)", None), (r"^label_tokens", (self.n1,)), (r"^norm", (99999,))]
        return groups | {"blocks": blocks}
