"""C-Tran: labels and image in one transformer, each reading the other (Lanchantin et al. 2021, arXiv 2011.14027).

A rival of LT-ViT. Label tokens meet the *finished* image tokens in an encoder of their own, and attention runs both ways:
labels change what the image tokens say. While training, some labels of each image are told and the others asked, so the
model learns how findings go together; at inference all are asked, or those that a reader knows already are told.

The paper's image tokens are a ResNet-101's feature map. Here they are our ViT's patch tokens after its last LayerNorm, so
that all rivals stand on the same backbone (our decision). The class token stays behind: the paper has none.

Letters of shapes: B batch, I input channels, Y X pixels, y x rows and columns of patches, N image tokens, P patches,
C findings, M tokens that a label may read (P + C), D width, H heads.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from cxrlib.errors import CxrError
from cxrlib.losses import masked_bce
from cxrlib.models.heads import LabelHeads
from cxrlib.models.vit import VisionTransformer


class CTranOutput(NamedTuple):
    """What one forward pass returns. Its arity never changes; what was not asked for is None."""

    logits_BC: Tensor
    """One logit per finding, before the sigmoid."""
    tokens_BND: Tensor
    """The ViT's tokens after its last LayerNorm: the class token first, then the patches in row order."""
    labels_BCD: Tensor
    """The label tokens as the heads read them."""
    attention_BHCM: Tensor | None = None
    """Where each label looked in the last layer, if maps were asked for: the patches first, then the labels."""


class CTran(VisionTransformer):
    """A ViT, and behind it an encoder over its patches and one token per finding.

    Args:
        num_classes: C, the findings.
        label_layers: Layers of that encoder (the paper: 3).
        label_heads: Its attention heads (the paper: 4). They must divide the width.
        ff_ratio: Hidden width of its feed-forward part over D (the official code: 1).
        dropout: In that encoder, while training (the paper: 0.1).
        **sizes: See `VisionTransformer`.

    Raises:
        CxrError: The sizes do not fit together.
    """

    def __init__(
        self,
        *,
        num_classes: int = 14,
        label_layers: int = 3,
        label_heads: int = 4,
        ff_ratio: float = 1.0,
        dropout: float = 0.1,
        **sizes,
    ):
        super().__init__(num_classes=0, **sizes)
        width = self.cls_token.shape[-1]
        if width % label_heads:
            raise CxrError(f"width {width} cannot be split into {label_heads} label heads: choose a divisor as label_heads")
        if label_layers < 1:
            raise CxrError(f"C-Tran needs at least one layer with labels, not {label_layers}")
        self.label_embed = nn.Embedding(num_classes, width)
        # Row 0, "unknown", is zero and stays so: a vector common to all labels would only shift their embeddings.
        self.state_embed = nn.Embedding(3, width, padding_idx=0)
        self.label_norm = nn.LayerNorm(width)
        self.label_layers = nn.ModuleList(
            nn.TransformerEncoderLayer(  # its default is the paper's: ReLU, LayerNorm after each sum
                width, label_heads, dim_feedforward=int(width * ff_ratio), dropout=dropout, batch_first=True
            )
            for _ in range(label_layers)
        )
        self.head = LabelHeads(findings=num_classes, width=width)
        for embedding in (self.label_embed, self.state_embed):  # as the official code draws them
            nn.init.uniform_(embedding.weight, -(width**-0.5), width**-0.5)
        with torch.no_grad():
            self.state_embed.weight[0] = 0

    def forward(self, img_BIYX: Tensor, known_BC: Tensor | None = None, maps: bool = False) -> CTranOutput:
        """Scores every finding.

        Args:
            img_BIYX: Images.
            known_BC: Findings that are told: 0 absent, 1 present, NaN unknown. None: nothing is told.
            maps: Also return where the labels looked.
        """
        x_BND = self.embed(img_BIYX)
        for block in self.blocks:
            x_BND, _ = block(x_BND)
        x_BND = self.norm(x_BND)

        t_BCD = self.label_embed.weight.expand(len(x_BND), -1, -1)
        if known_BC is not None:
            t_BCD = t_BCD + self.state_embed(states(known_BC))
        P = x_BND.shape[1] - 1
        h_BMD = self.label_norm(torch.cat([x_BND[:, 1:], t_BCD], dim=1))
        for layer in self.label_layers:
            entered_BMD, h_BMD = h_BMD, layer(h_BMD)
        attention_BHCM = None
        if maps:  # the layer keeps its weights to itself, so the labels' rows are computed once more
            last, asking_BCD = self.label_layers[-1].self_attn, entered_BMD[:, P:]
            _, attention_BHCM = last(asking_BCD, entered_BMD, entered_BMD, average_attn_weights=False)
        labels_BCD = h_BMD[:, P:]
        return CTranOutput(self.head(labels_BCD), x_BND, labels_BCD, attention_BHCM)

    @torch.no_grad()
    def maps(self, img_BIYX: Tensor) -> Tensor:
        """Where each label looks in the image: the last layer's attention to the patches, averaged over heads.

        Returns:
            map_BCyx. The weights that fall on labels are left out, so a map sums to at most 1.
        """
        map_BCM = self(img_BIYX, maps=True).attention_BHCM.mean(dim=1)
        return map_BCM[:, :, : self.grid[0] * self.grid[1]].unflatten(-1, self.grid)

    def own_parts(self) -> set[str]:
        """Names of the parameters that a plain ViT's weights do not have; they keep their random start."""
        return own_names(self, "label_", "state_", "head.")

    def no_weight_decay(self) -> set[str]:
        """Names that weight decay must leave alone: positions, the class token, and the labels' embeddings."""
        return super().no_weight_decay() | {"label_embed.weight", "state_embed.weight"}

    # `group_matcher` is the ViT's: timm puts names that it does not match into the last group, with the head.


def own_names(model: nn.Module, *prefixes: str) -> set[str]:
    """The names of a model's parameters that begin with one of the prefixes."""
    return {name for name, _ in model.named_parameters() if name.startswith(prefixes)}


def states(known_BC: Tensor) -> Tensor:
    """The row of the state embedding for each label: 0 unknown (NaN), 1 absent, 2 present (a soft label: 0.5 and more)."""
    return torch.where(known_BC.isnan(), 0, 1 + (known_BC >= 0.5).long())


def reveal(labels_BC: Tensor, *, most: float = 0.75) -> Tensor:
    """Draws which labels are told: in each image a number between 0 and three quarters of those known, and which ones.

    The number is drawn uniformly, then so many labels without preference. The draw comes from torch's global generator, which
    the training loop seeds with (seed, step): a run that is resumed draws the same.

    Returns:
        known_BC: the labels told, and NaN for the others, which are asked.

    Source: Lanchantin et al. (2021), "label mask training": at least a quarter of the labels is asked, as the official code
    draws it. There the share is of all labels; here of those that somebody gave, for NIH and CheXpert leave some open.
    """
    given_BC = ~labels_BC.isnan()
    highest_B1 = (given_BC.sum(dim=1, keepdim=True) * most).floor()
    number_B1 = (torch.rand_like(highest_B1) * (highest_B1 + 1)).floor()
    lot_BC = torch.rand(labels_BC.shape, device=labels_BC.device).masked_fill(~given_BC, 2.0)  # 2: behind all others
    place_BC = lot_BC.argsort(dim=1).argsort(dim=1)
    return labels_BC.masked_fill(place_BC >= number_B1, float("nan"))


def c_tran_loss(model: nn.Module, img_BIYX: Tensor, labels_BC: Tensor, count: Tensor | float | None = None) -> Tensor:
    """Label mask training: tell some labels, and score the answers for the others (Lanchantin et al. 2021).

    Args:
        model: A `CTran`.
        img_BIYX: Images.
        labels_BC: 0, 1 or NaN (nobody knows: neither told nor scored).
        count: What the sum is divided by. None: the labels that were asked. The training loop gives the known labels of the
            whole batch, told ones too, so that its parts add up: a loss about a third lower, which Adam does not notice. (The
            official code divides by nothing.)

    Returns:
        A scalar, float32.
    """
    known_BC = reveal(labels_BC)
    asked_BC = labels_BC.masked_fill(~known_BC.isnan(), float("nan"))
    return masked_bce(model(img_BIYX, known_BC).logits_BC, asked_BC, count=count)
