"""CLARiTy: a class token for every finding, and a module that separates foreground from background (arXiv 2512.16700).

The same ViT as before with C class tokens in place of one. Where finding c's token looks is a map of finding c. Built in
chapters 10 to 13. The paper's full text was not at hand: what its summary leaves open is a reconstruction, and is marked as one.

Letters of shapes: B batch, I input channels, Y X pixels, y x rows and columns of patches, P patches, C findings and class tokens,
N tokens (C + P, class tokens first), D width, H heads, Q kept layers, G positive (image, finding) pairs.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from cxrlib.errors import CxrError
from cxrlib.models.segment_cam import SegmentCAM
from cxrlib.models.vit import VisionTransformer

POOLS = ("attention", "mean")


class ClarityOutput(NamedTuple):
    """What one forward pass returns. Its arity never changes; what was not asked for, or is switched off, is None."""

    logits_BC: Tensor
    """The score: the mean of class-token and foreground logits; the former alone without SegmentCAM."""
    tokens_BND: Tensor
    """All tokens after the last LayerNorm: C class tokens first, then the patches in row order."""
    class_logits_BC: Tensor
    """What the class tokens say."""
    foreground_logits_BC: Tensor | None = None
    """What the foreground says (SegmentCAM)."""
    full_logits_BC: Tensor | None = None
    """What SegmentCAM says with no mask: what the background logit is compared with."""
    background_logits_G: Tensor | None = None
    """What SegmentCAM says without the foreground, for each positive pair, in the order of `positive_BC.nonzero()`."""
    heatmap_BCyx: Tensor | None = None
    """H, from 0 to 1 (SegmentCAM)."""
    foreground_BCyx: Tensor | None = None
    """S_f, the mask: H cut at the threshold (SegmentCAM); with mask="soft" H itself, where `Clarity.maps` cuts all the same."""
    attention_BCyx: Tensor | None = None
    """A, where each class token looks, if maps were asked for."""
    layers_QBCD: Tensor | None = None
    """The class tokens after each of the last q layers, if they were asked for."""


class ClarityMaps(NamedTuple):
    """The maps of every finding, from coarse to final."""

    attention_BCyx: Tensor
    """A: where the class token looks (eq. 1)."""
    heatmap_BCyx: Tensor | None
    """H: how much each place looks like foreground. None without SegmentCAM, as is the next."""
    foreground_BCyx: Tensor | None
    """S_f: 1 where H reaches the threshold, else 0."""
    fused_BCyx: Tensor
    """Xi = A * S_f, from which boxes are drawn. A itself without SegmentCAM."""


class ClassPool(nn.Module):
    """One logit from each class token: a weighted mean over its D numbers, scaled and shifted (arXiv 2512.16700, eq. 8-9).

        alpha_c = softmax over d of v_c          logit_c = s_c * sum over d of alpha_cd T_cd + b_c

    A plain mean ("GAP") asks every number of a token to rise for the finding. Weights let some of them answer for one sign and
    others for another. v starts at 0, which is the plain mean; s starts at sqrt(D), because a mean of D numbers varies by
    1 / sqrt(D).

    Source: the summary tells what the pooling is for, not its formula; this form is the lightest that does it (our decision).

    Args:
        findings: C.
        width: D.
        pool: "attention", or "mean" to leave v at 0.
    """

    def __init__(self, *, findings: int, width: int, pool: str = "attention"):
        super().__init__()
        if pool not in POOLS:
            raise CxrError(f"there is no pooling {pool!r}: choose one of {', '.join(POOLS)}")
        weight_CD = torch.zeros(findings, width)
        if pool == "attention":
            self.weight = nn.Parameter(weight_CD)
        else:
            self.register_buffer("weight", weight_CD, persistent=False)
        self.scale = nn.Parameter(torch.full((findings,), width**0.5))
        self.bias = nn.Parameter(torch.zeros(findings))

    def forward(self, tokens_BCD: Tensor) -> Tensor:
        mean_BC = (tokens_BCD * self.weight.softmax(dim=-1)).sum(dim=-1)
        return self.scale * mean_BC + self.bias


class Clarity(VisionTransformer):
    """A ViT with C class tokens and no other, class-to-patch attention, and SegmentCAM (arXiv 2512.16700, section 3).

    Args:
        num_classes: C, the findings, one class token each.
        attention_layers: p, the last layers whose attention makes the map. None: two thirds of the depth (8 of 12, published).
        token_layers: q, the last layers whose class tokens the orthogonality loss reads. None: two thirds of the depth.
        pool: "attention" or "mean": see `ClassPool`. The mean reads the tokens before the last LayerNorm, as MCTformer does:
            after it, a token's mean no longer depends on the token, but for the norm's own weights.
        segment_cam: Off, it leaves class tokens and their attention: score and fused map are then theirs alone.
        layout, threshold, mask, mean_over: See `SegmentCAM`.
        token_noise: Spread of the random numbers added to the class tokens when all of them start from one (see `adopt`).
        **sizes: See `VisionTransformer`.

    Raises:
        CxrError: The layers do not fit the depth, or an option is unknown.
    """

    def __init__(
        self,
        *,
        num_classes: int = 14,
        attention_layers: int | None = None,
        token_layers: int | None = None,
        pool: str = "attention",
        segment_cam: bool = True,
        layout: str = "bas",
        threshold: float = 0.5,
        mask: str = "straight",
        mean_over: str = "image",
        token_noise: float = 0.02,
        **sizes,
    ):
        super().__init__(num_classes=0, **sizes)
        depth, width = len(self.blocks), self.cls_token.shape[-1]
        two_thirds = max(2 * depth // 3, 1)
        self.attention_layers = two_thirds if attention_layers is None else attention_layers
        self.token_layers = two_thirds if token_layers is None else token_layers
        for name, layers in (("attention_layers", self.attention_layers), ("token_layers", self.token_layers)):
            if not 1 <= layers <= depth:
                raise CxrError(f"{name} is {layers}, the model has {depth} layers: choose from 1 to {depth}")
        self.findings, self.pool, self.token_noise = num_classes, pool, token_noise
        # The same names as a ViT's, with a row for each class token: with one finding they are a ViT's own.
        self.cls_token = nn.Parameter(torch.empty(1, num_classes, width))
        self.pos_embed = nn.Parameter(torch.empty(1, num_classes + self.grid[0] * self.grid[1], width))
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.head = ClassPool(findings=num_classes, width=width, pool=pool)
        self.segment_cam = None
        if pool == "mean" and not segment_cam:
            self.norm.requires_grad_(False)  # nothing that is scored reads normed tokens, and DDP wants a gradient for all
        if segment_cam:
            self.segment_cam = SegmentCAM(
                width=width, findings=num_classes, layout=layout, threshold=threshold, mask=mask, mean_over=mean_over
            )

    def forward(
        self, img_BIYX: Tensor, maps: bool = False, layers: bool = False, positive_BC: Tensor | None = None
    ) -> ClarityOutput:
        """One pass.

        Args:
            img_BIYX: Images.
            maps: Whether to read the class tokens' attention.
            layers: Whether to keep the class tokens of the last q layers.
            positive_BC: True for the pairs whose background logit is wanted.
        """
        C, depth = self.findings, len(self.blocks)
        x_BND = self.embed(img_BIYX)
        attention_BCP, kept = 0.0, []
        for layer, block in enumerate(self.blocks):
            read = maps and layer >= depth - self.attention_layers
            x_BND, rows_BHCN = block(x_BND, rows=C if read else 0)
            if read:  # eq. 1, summed as it comes, so that no more than one layer's rows is ever kept
                attention_BCP = attention_BCP + rows_BHCN[..., C:].mean(dim=1) / self.attention_layers
            if layers and layer >= depth - self.token_layers:
                kept.append(x_BND[:, :C])
        normed_BND = self.norm(x_BND)
        class_logits_BC = self.head(x_BND[:, :C] if self.pool == "mean" else normed_BND[:, :C])
        out = ClarityOutput(
            class_logits_BC,
            normed_BND,
            class_logits_BC,
            attention_BCyx=attention_BCP.unflatten(-1, self.grid) if maps else None,
            layers_QBCD=torch.stack(kept) if layers else None,
        )
        if self.segment_cam is None:
            return out
        map_BDyx = normed_BND[:, C:].transpose(1, 2).unflatten(-1, self.grid)
        cam = self.segment_cam(map_BDyx, positive_BC)
        return out._replace(
            logits_BC=(class_logits_BC + cam.foreground_logits_BC) / 2,
            foreground_logits_BC=cam.foreground_logits_BC,
            full_logits_BC=cam.full_logits_BC,
            background_logits_G=cam.background_logits_G,
            heatmap_BCyx=cam.heatmap_BCyx,
            foreground_BCyx=cam.foreground_BCyx,
        )

    @torch.no_grad()
    def maps(self, img_BIYX: Tensor, size: tuple[int, int] | None = None) -> ClarityMaps:
        """Class attention, heatmap, foreground and fused map of every finding, whether it is present or not.

        Args:
            img_BIYX: Images.
            size: (rows, columns) of the maps. None: the grid of patches. Otherwise attention and heatmap are resized
                (bilinear) before the threshold cuts, so that an outline need not follow the patches.
        """
        out = self(img_BIYX, maps=True)
        attention_BCyx, heatmap_BCyx = out.attention_BCyx, out.heatmap_BCyx
        if size is not None:
            attention_BCyx = F.interpolate(attention_BCyx, size, mode="bilinear", align_corners=False)
        if heatmap_BCyx is None:
            return ClarityMaps(attention_BCyx, None, None, attention_BCyx)
        if size is not None:
            heatmap_BCyx = F.interpolate(heatmap_BCyx, size, mode="bilinear", align_corners=False)
        foreground_BCyx = (heatmap_BCyx >= self.segment_cam.threshold).to(heatmap_BCyx.dtype)
        return ClarityMaps(attention_BCyx, heatmap_BCyx, foreground_BCyx, attention_BCyx * foreground_BCyx)

    def adopt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Fits the tokens and positions of other weights to this model; nothing else is changed.

        A plain ViT's one class token becomes the start of all C: each takes its value and its position, and a little noise
        (`token_noise`) tells them apart (as in MCTformer, arXiv 2203.02891, but for the noise). Patch positions of another
        image size are resampled.

        Args:
            state: A ViT's state dict, or a CLARiTy's, of square images of any size. It is not changed.

        Raises:
            CxrError: The state has several class tokens, and not as many as this model.
        """
        tokens_1CD, positions_1ND = state["cls_token"], state["pos_embed"]
        C, given = self.findings, tokens_1CD.shape[1]
        if given not in (1, C):
            raise CxrError(f"these weights have {given} class tokens, this model {C}: build it with the same findings")
        if positions_1ND.shape[1] != given + self.grid[0] * self.grid[1]:
            positions_1ND = resample_abs_pos_embed(positions_1ND, new_size=list(self.grid), num_prefix_tokens=given)
        if given != C:
            tokens_1CD = tokens_1CD.expand(-1, C, -1) + self.token_noise * torch.randn(1, C, tokens_1CD.shape[-1])
            positions_1ND = torch.cat([positions_1ND[:, :1].expand(-1, C, -1), positions_1ND[:, 1:]], dim=1)
        return state | {"cls_token": tokens_1CD, "pos_embed": positions_1ND}

    def own_parts(self) -> set[str]:
        """Names of the parameters that a plain ViT's weights do not have; they keep their random start."""
        return {name for name in self.state_dict() if name.startswith(("head.", "segment_cam."))}

    @torch.no_grad()
    def start_at(self, logits_C: Tensor) -> None:
        """Starts both heads so that the first prediction is near these logits, whatever the image."""
        self.head.weight.zero_()  # the plain mean: near 0 after a LayerNorm, and not quite so before it (pool="mean")
        self.head.bias.copy_(logits_C)
        if self.segment_cam is not None:
            self.segment_cam.classify[-1].weight.zero_()
            self.segment_cam.bias.copy_(logits_C)
