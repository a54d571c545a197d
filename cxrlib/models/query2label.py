"""Query2Label: one question per finding to a finished image (Liu et al. 2021, arXiv 2107.10834).

A rival of LT-ViT. The ViT runs to its end. Then each finding's query reads the finished tokens in a small decoder:
cross-attention only, so the image never learns of the labels, and by default the labels never learn of one another.

The backbone is our ViT, as for all rivals, in place of the paper's convolutional or windowed ones. Its patch tokens carry
positions from their first layer on, so the paper's sine positions are left out. The class token stays behind. Both are our
decisions.

Letters of shapes: B batch, I input channels, Y X pixels, y x rows and columns of patches, N image tokens, P patches,
C findings, D width, H heads.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cxrlib.errors import CxrError
from cxrlib.losses import asymmetric_loss, masked_bce
from cxrlib.models.c_tran import own_names
from cxrlib.models.heads import LabelHeads
from cxrlib.models.vit import VisionTransformer

LOSSES = ("bce", "asymmetric")


class Query2LabelOutput(NamedTuple):
    """What one forward pass returns. Its arity never changes; what was not asked for is None."""

    logits_BC: Tensor
    """One logit per finding, before the sigmoid."""
    tokens_BND: Tensor
    """The ViT's tokens after its last LayerNorm: the class token first, then the patches in row order."""
    labels_BCD: Tensor
    """The label tokens as the heads read them."""
    attention_BHCP: Tensor | None = None
    """Where each label looked in the last decoder layer, if maps were asked for: the patches in row order."""


class DecoderLayer(nn.Module):
    """Labels ask the image and think, each alone: attend, add, normalise; think, add, normalise.

    `torch.nn.TransformerDecoderLayer` without its self-attention, which the official code removes by default, and with the
    queries added anew in each layer, as DETR does (Carion et al. 2020, arXiv 2005.12872, appendix A.3).
    """

    def __init__(self, *, width: int, heads: int, hidden: int, dropout: float, self_attention: bool):
        super().__init__()
        if self_attention:
            self.self_attn = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
            self.norm1 = nn.LayerNorm(width)
        self.talks = self_attention
        self.cross_attn = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)
        self.norm3 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, t_BCD: Tensor, query_BCD: Tensor, image_BPD: Tensor, maps: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """One layer: (label tokens, their attention to the patches [B, H, C, P] if asked for)."""
        if self.talks:
            asking_BCD = t_BCD + query_BCD
            heard_BCD, _ = self.self_attn(asking_BCD, asking_BCD, t_BCD, need_weights=False)
            t_BCD = self.norm1(t_BCD + self.dropout(heard_BCD))
        asking_BCD = t_BCD + query_BCD
        seen_BCD, _ = self.cross_attn(asking_BCD, image_BPD, image_BPD, need_weights=False)
        map_BHCP = None
        if maps:  # once more, with the weights written out: asking for maps must not change the logits' last bits
            _, map_BHCP = self.cross_attn(asking_BCD, image_BPD, image_BPD, average_attn_weights=False)
        t_BCD = self.norm2(t_BCD + self.dropout(seen_BCD))
        thought_BCD = self.linear2(self.dropout(F.relu(self.linear1(t_BCD))))
        return self.norm3(t_BCD + self.dropout(thought_BCD)), map_BHCP


class Query2Label(VisionTransformer):
    """A ViT, and behind it an encoder layer and a decoder that asks once per finding.

    Args:
        num_classes: C, the findings.
        encoder_layers: Layers over the patches between ViT and decoder (the official code: 1).
        decoder_layers: Layers in which the queries read the patches (the official code: 2).
        label_heads: Attention heads of both (the official code: 4). They must divide the width.
        ff_ratio: Hidden width of their feed-forward parts over D (the official code: 8192 for 2048).
        dropout: In both, while training (the official code: 0.1).
        label_self_attention: Whether labels read one another as well (the official code's default: no).
        loss: "bce", which all models here are compared with, or "asymmetric", the paper's.
        **sizes: See `VisionTransformer`.

    Raises:
        CxrError: The sizes do not fit together, or there is no such loss.
    """

    def __init__(
        self,
        *,
        num_classes: int = 14,
        encoder_layers: int = 1,
        decoder_layers: int = 2,
        label_heads: int = 4,
        ff_ratio: float = 4.0,
        dropout: float = 0.1,
        label_self_attention: bool = False,
        loss: str = "bce",
        **sizes,
    ):
        super().__init__(num_classes=0, **sizes)
        width = self.cls_token.shape[-1]
        if width % label_heads:
            raise CxrError(f"width {width} cannot be split into {label_heads} label heads: choose a divisor as label_heads")
        if encoder_layers < 0 or decoder_layers < 1:
            raise CxrError(f"{encoder_layers} encoder and {decoder_layers} decoder layers: choose from 0 and from 1 up")
        if loss not in LOSSES:
            raise CxrError(f"there is no loss {loss!r}: choose one of {', '.join(LOSSES)}")
        self.loss = loss
        hidden = int(width * ff_ratio)
        self.label_proj = nn.Linear(width, width)  # the paper's 1 x 1 convolution
        self.label_encoder = nn.ModuleList(
            nn.TransformerEncoderLayer(width, label_heads, dim_feedforward=hidden, dropout=dropout, batch_first=True)
            for _ in range(encoder_layers)
        )
        self.label_queries = nn.Parameter(torch.randn(1, num_classes, width))
        self.label_decoder = nn.ModuleList(
            DecoderLayer(width=width, heads=label_heads, hidden=hidden, dropout=dropout, self_attention=label_self_attention)
            for _ in range(decoder_layers)
        )
        self.label_norm = nn.LayerNorm(width)
        self.head = LabelHeads(findings=num_classes, width=width)
        for part in (self.label_encoder, self.label_decoder):
            for parameter in part.parameters():
                if parameter.ndim > 1:
                    nn.init.xavier_uniform_(parameter)

    def forward(self, img_BIYX: Tensor, maps: bool = False) -> Query2LabelOutput:
        x_BND = self.embed(img_BIYX)
        for block in self.blocks:
            x_BND, _ = block(x_BND)
        x_BND = self.norm(x_BND)

        image_BPD = self.label_proj(x_BND[:, 1:])
        for layer in self.label_encoder:
            image_BPD = layer(image_BPD)
        query_BCD = self.label_queries.expand(len(x_BND), -1, -1)
        t_BCD, last = torch.zeros_like(query_BCD), len(self.label_decoder) - 1
        for number, layer in enumerate(self.label_decoder):
            t_BCD, map_BHCP = layer(t_BCD, query_BCD, image_BPD, maps and number == last)
        t_BCD = self.label_norm(t_BCD)
        return Query2LabelOutput(self.head(t_BCD), x_BND, t_BCD, map_BHCP)

    @torch.no_grad()
    def maps(self, img_BIYX: Tensor) -> Tensor:
        """Where each label looks in the image: the last decoder layer's attention, averaged over heads.

        Returns:
            map_BCyx. Each map sums to 1.
        """
        return self(img_BIYX, maps=True).attention_BHCP.mean(dim=1).unflatten(-1, self.grid)

    def own_parts(self) -> set[str]:
        """Names of the parameters that a plain ViT's weights do not have; they keep their random start."""
        return own_names(self, "label_", "head.")

    def no_weight_decay(self) -> set[str]:
        """Names that weight decay must leave alone: positions, the class token and the labels' queries."""
        return super().no_weight_decay() | {"label_queries"}

    # `group_matcher` is the ViT's: timm puts names that it does not match into the last group, with the head.


def query2label_loss(model: nn.Module, img_BIYX: Tensor, labels_BC: Tensor, count: Tensor | float | None = None) -> Tensor:
    """Binary cross-entropy, or the paper's asymmetric loss, as the model was built for; see `cxrlib.losses`."""
    loss = asymmetric_loss if model.loss == "asymmetric" else masked_bce
    return loss(model(img_BIYX).logits_BC, labels_BC, count=count)
