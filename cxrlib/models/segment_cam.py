"""SegmentCAM: which patches are foreground, and what they alone say about each finding (CLARiTy, arXiv 2512.16700, 3.4-3.5).

The paper names three heads on the patch tokens (heatmap, feature, classification), a threshold, and foreground and background
logits. Which layers the heads have is in no source at hand. The default is a reconstruction: the three heads of BAS (Wu et al.
2022, "Background activation suppression", arXiv 2112.00580), with as many convolutions as the published parameters and FLOPs leave
room for. It was fitted to those counts, so that it meets them proves nothing; `LAYOUTS` holds others that meet them as well.

Letters of shapes: B batch, C findings, D width, y x rows and columns of patches, G positive (image, finding) pairs.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from cxrlib.errors import CxrError


class Layout(NamedTuple):
    """The convolutions of the three heads, each as (kernel size, channels as a share of D, or "C" for one per finding)."""

    feature: tuple
    classify: tuple
    heatmap: tuple | None
    """None: no head of its own; the heatmap is the sigmoid of what the classification head says at each patch."""


LAYOUTS: dict[str, Layout] = {
    "bas": Layout(feature=((3, 1), (3, 1)), classify=((3, 1), (3, 1), (1, "C")), heatmap=((3, "C"),)),
    "bottleneck": Layout(feature=((3, 1),) * 4, classify=((1, 1 / 2), (1, "C")), heatmap=((3, "C"),)),
    "shared": Layout(feature=((3, 1),) * 4, classify=((3, "C"),), heatmap=None),
    "shared_bottleneck": Layout(feature=((3, 1),) * 4, classify=((1, 1 / 2), (1, "C")), heatmap=None),
    "shared_wide": Layout(feature=((3, 1),) * 4, classify=((1, 2 / 3), (3, "C")), heatmap=None),
    "pointwise": Layout(feature=((1, 1), (1, 1)), classify=((1, 1), (1, 1), (1, "C")), heatmap=((1, "C"),)),
}
"""Heads whose counts come near the published ones at width 384. "bas" is the default; the others are as likely by count, but for
the last: "pointwise" is "bas" without neighbours, for small grids (our decision). Four 3 x 3 convolutions in a row see 9 patches
across, which is little of 32 and most of 12."""
MASKS = ("straight", "soft")


class SegmentCAMOutput(NamedTuple):
    """What the module returns. Its arity never changes; what was not asked for is None."""

    heatmap_BCyx: Tensor
    """H, from 0 to 1: how much each patch looks like foreground."""
    foreground_BCyx: Tensor
    """S_f: 1 where H reaches the threshold, else 0 (with mask "soft": H itself)."""
    foreground_logits_BC: Tensor
    """What the foreground says."""
    full_logits_BC: Tensor
    """What all patches say."""
    background_logits_G: Tensor | None = None
    """What is left to say once the foreground is blanked out, for each positive pair, in the order of `positive_BC.nonzero()`."""


def straight_through(heatmap: Tensor, threshold: float) -> Tensor:
    """1 where the heatmap reaches the threshold, else 0; the gradient passes as if nothing had been cut.

    A step has no slope to learn from. So the value is the step's and the slope is the identity's:
    S = [H >= t] + H - sg[H], where sg stops the gradient.

    Source: Bengio, Leonard and Courville (2013, arXiv 1308.3432), section 4; that CLARiTy uses it is our assumption.
    """
    return (heatmap >= threshold).to(heatmap.dtype) + (heatmap - heatmap.detach())


def frozen(layers: nn.Module, x: Tensor) -> Tensor:
    """The layers as they are now, as constants: a gradient passes through to `x` and stops at their weights.

    BAS copies its layers in every forward pass for this. Calling them with detached weights needs no copy.
    """
    return functional_call(layers, {name: weight.detach() for name, weight in layers.named_parameters()}, (x,))


class SegmentCAM(nn.Module):
    """Heatmap, mask, foreground and background logits from a map of patch tokens (arXiv 2512.16700, eq. 10-17; a reconstruction).

        H = sigmoid(heatmap(X))                      S_f = [H >= t]
        K = classify(feature(X))                     foreground logit = mean over patches of K * S_f, + b
        background logit = mean over patches of classify'(feature'(sg[X] * (1 - S_f))), + b'

    where ' marks weights held constant and sg a stopped gradient: the background can only change the mask. The mask acts after
    the convolutions in the foreground, since the published FLOPs leave no room for one pass of them per finding. The last
    convolution's bias b stands outside the mask: a finding without foreground scores b, its log-odds before looking.

    Args:
        width: D, the length of a patch token.
        findings: C.
        layout: A name of `LAYOUTS`.
        threshold: t.
        mask: "straight": S_f is 0 or 1, with the gradient of H. "soft": S_f is H itself, as in BAS.
        mean_over: "image": the mean runs over all patches, as in BAS, so a larger foreground says more. "foreground": over the
            foreground alone.

    Raises:
        CxrError: An option is unknown, or the threshold is not between 0 and 1.
    """

    def __init__(
        self,
        *,
        width: int = 384,
        findings: int = 14,
        layout: str = "bas",
        threshold: float = 0.5,
        mask: str = "straight",
        mean_over: str = "image",
    ):
        super().__init__()
        for what, value, known in (
            ("layout", layout, LAYOUTS), ("mask", mask, MASKS), ("mean", mean_over, ("image", "foreground"))
        ):  # fmt: skip
            if value not in known:
                raise CxrError(f"SegmentCAM has no {what} {value!r}: choose one of {', '.join(known)}")
        if not 0 < threshold < 1:
            raise CxrError(f"the threshold {threshold} is not between 0 and 1: a heatmap has no other values")
        self.threshold, self.mask, self.mean_over = threshold, mask, mean_over
        plan = LAYOUTS[layout]
        self.feature = _head(plan.feature, width, width, findings)
        self.classify = _head(plan.classify, width, self.feature[-2].out_channels, findings)
        self.heatmap = _head(plan.heatmap, width, width, findings) if plan.heatmap else None
        self.bias = nn.Parameter(torch.zeros(findings))
        self.classify[-1].bias = None  # it stands outside the mask, as `bias`
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """He's normals before each ReLU; no evidence at first (K = 0); a mask that starts open (our decisions).

        Open for thresholds up to about .7: H starts at sigmoid(1) = .73. Layouts without a heatmap head start open only until the
        bias is set to the findings' prevalence (`Clarity.start_at`); then H is the prevalence, and the mask starts shut.
        """
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.classify[-1].weight)
        if self.heatmap is not None:
            nn.init.normal_(self.heatmap[-1].weight, std=0.005)
            nn.init.ones_(self.heatmap[-1].bias)

    def forward(self, map_BDyx: Tensor, positive_BC: Tensor | None = None) -> SegmentCAMOutput:
        """One pass.

        Args:
            map_BDyx: Patch tokens, laid out as the image.
            positive_BC: True for the pairs whose background logit is wanted: those whose finding is present. None: none.
        """
        evidence_BCyx = self.classify(self.feature(map_BDyx))
        if self.heatmap is None:
            heatmap_BCyx = (evidence_BCyx + self.bias[:, None, None]).sigmoid()
        else:
            heatmap_BCyx = self.heatmap(map_BDyx).sigmoid()
        mask_BCyx = heatmap_BCyx if self.mask == "soft" else straight_through(heatmap_BCyx, self.threshold)
        foreground_BC = (evidence_BCyx * mask_BCyx).mean(dim=(2, 3))
        if self.mean_over == "foreground":
            patches = mask_BCyx[0, 0].numel()
            foreground_BC = foreground_BC / mask_BCyx.mean(dim=(2, 3)).clamp(min=1 / patches)
        return SegmentCAMOutput(
            heatmap_BCyx,
            mask_BCyx,
            foreground_BC + self.bias,
            evidence_BCyx.mean(dim=(2, 3)) + self.bias,
            None if positive_BC is None else self.background(map_BDyx, mask_BCyx, positive_BC),
        )

    def background(self, map_BDyx: Tensor, mask_BCyx: Tensor, positive_BC: Tensor) -> Tensor:
        """The logit of each positive pair's own finding when its foreground is blanked out: [G], one batch for all pairs."""
        image_G, finding_G = positive_BC.nonzero(as_tuple=True)
        rest_Gyx = 1 - mask_BCyx[image_G, finding_G]
        blanked_GDyx = map_BDyx.detach()[image_G] * rest_Gyx[:, None]
        evidence_GCyx = frozen(self.classify, frozen(self.feature, blanked_GDyx))
        evidence_Gyx = evidence_GCyx[torch.arange(len(finding_G), device=finding_G.device), finding_G]
        return evidence_Gyx.mean(dim=(1, 2)) + self.bias.detach()[finding_G]


def _head(plan: tuple, width: int, channels: int, findings: int) -> nn.Sequential:
    """Convolutions of one head, with a ReLU after each but one that gives a value per finding."""
    layers: list[nn.Module] = []
    for kernel, share in plan:
        out = findings if share == "C" else round(width * share)
        layers.append(nn.Conv2d(channels, out, kernel, padding=kernel // 2))
        if share != "C":
            layers.append(nn.ReLU())
        channels = out
    return nn.Sequential(*layers)
