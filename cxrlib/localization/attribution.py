"""Maps that look into a model: attention, rollout, gradient-weighted attention, CAM, Grad-CAM and Grad-CAM++.

All have the signature of `maps.py`, and all return raw values: scale is taken out when boxes are drawn. Those that need a
gradient per finding take `wanted_BC` too: only those maps are made, and the others are NaN. Few images have more than two
boxed findings, so that a table of boxes costs two backward passes per batch and not fourteen.

Letters of shapes: B batch, C findings, S tokens, P patches, D width or channels, H heads, y x cells.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from cxrlib.errors import CxrError
from cxrlib.localization.explicit import explicit_forward, padded
from cxrlib.localization.maps import MAP_METHODS, MapMethod
from cxrlib.models import Clarity, CTran, LabelTokenViT, Query2Label, VisionTransformer
from cxrlib.models.timm_classifier import TimmClassifier


@torch.no_grad()
def class_attention(model: nn.Module, img_BIYX: Tensor, *, findings: int, names: Sequence[str] = ()) -> Tensor:
    """Where class tokens look: mean over heads and over the last layers.

    CLARiTy has a class token per finding and says itself how many layers are read (arXiv 2512.16700, eq. 1). A plain ViT has one
    token for all, so its map is the same for every finding; the last two thirds of its layers are read, rounded down: one of two.
    """
    if isinstance(model, Clarity):
        return model.maps(img_BIYX).attention_BCyx
    attention_LBHRN = model(img_BIYX, rows=1).attention_LBHRN
    last = max(2 * len(attention_LBHRN) // 3, 1)
    map_BP = attention_LBHRN[-last:, :, :, 0, 1:].mean(dim=(0, 2))
    return map_BP.unflatten(-1, model.grid)[:, None].expand(-1, findings, -1, -1)


def label_attention(model: nn.Module, img_BIYX: Tensor, *, findings: int, names: Sequence[str] = ()) -> Tensor:
    """Where each label token looks, as the model itself reports it (`model.maps`)."""
    return model.maps(img_BIYX)


def heatmap(model: nn.Module, img_BIYX: Tensor, *, findings: int, names: Sequence[str] = ()) -> Tensor:
    """SegmentCAM's heatmap H."""
    return model.maps(img_BIYX).heatmap_BCyx


def fused(model: nn.Module, img_BIYX: Tensor, *, findings: int, names: Sequence[str] = ()) -> Tensor:
    """CLARiTy's fused map: class attention within the foreground mask, A * S_f.

    Four cells to a side of a patch: attention and heatmap are resized before the heatmap is cut (see `Clarity.maps`), or the mask's
    outline would follow the patches. Finer costs memory, and was not tried (our decision).
    """
    return model.maps(img_BIYX, size=(4 * model.grid[0], 4 * model.grid[1])).fused_BCyx


@torch.no_grad()
def rollout(model: nn.Module, img_BIYX: Tensor, *, findings: int, names: Sequence[str] = ()) -> Tensor:
    """Attention rollout: the layers' maps multiplied, each with the identity added for the residual path.

    Per layer: mean over heads, plus the identity, rows scaled to sum to 1; then the product from the first layer to the last,
    of which the row of the finding's own token is read.

    Source: Abnar and Zuidema 2020, arXiv 2005.00928.
    """
    out = explicit_forward(model, img_BIYX)
    S = out.attention[-1].shape[-1]
    eye_SS = torch.eye(S, device=img_BIYX.device, dtype=img_BIYX.dtype)
    flow_BSS = eye_SS.expand(len(img_BIYX), S, S)
    for attention_BHSS in out.attention:
        layer_BSS = padded(attention_BHSS.mean(dim=1), S) + eye_SS
        flow_BSS = layer_BSS / layer_BSS.sum(dim=-1, keepdim=True) @ flow_BSS
    return _patches(flow_BSS[:, out.readers], out.first_patch, model)


def gradient_attention(
    model: nn.Module, img_BIYX: Tensor, *, findings: int, names: Sequence[str] = (), wanted_BC: Tensor | None = None
) -> Tensor:
    """Gradient-weighted attention: only attention that raises the finding's logit counts.

    Per layer: attention times the logit's gradient with respect to it, negative products set to 0, mean over heads; then R
    becomes R + that @ R, starting from the identity.

    Source: Chefer et al. 2021, arXiv 2103.15679, eq. 5 and 6 (for self-attention; without the LRP rules of their earlier paper).
    """
    with torch.enable_grad():
        # The image carries the gradient, so that a model whose weights are frozen has one too.
        out = explicit_forward(model, img_BIYX.detach().requires_grad_())
        S = out.attention[-1].shape[-1]
        readers_C = torch.tensor(out.readers, device=img_BIYX.device)
        rows_BCS = torch.full((*out.logits_BC.shape, S), float("nan"), device=img_BIYX.device, dtype=img_BIYX.dtype)
        for rows_b, chosen_b in _rounds(out.logits_BC, wanted_BC):
            logits = out.logits_BC[rows_b, chosen_b].sum()
            gradients = torch.autograd.grad(logits, out.attention, retain_graph=True, allow_unused=True)
            relevance_bSS = torch.eye(S, device=img_BIYX.device, dtype=img_BIYX.dtype).expand(len(rows_b), S, S)
            for attention_BHSS, gradient_BHSS in zip(out.attention, gradients):
                if gradient_BHSS is None:  # a layer that this logit does not hear of
                    continue
                layer_bSS = padded((attention_BHSS[rows_b].detach() * gradient_BHSS[rows_b]).clamp(min=0).mean(dim=1), S)
                relevance_bSS = relevance_bSS + layer_bSS @ relevance_bSS
            rows_BCS[rows_b, chosen_b] = relevance_bSS[torch.arange(len(rows_b)), readers_C[chosen_b]]
    return _patches(rows_BCS, out.first_patch, model)


@torch.no_grad()
def cam(model: nn.Module, img_BIYX: Tensor, *, findings: int, names: Sequence[str] = ()) -> Tensor:
    """Class activation map: the classifier's weights applied to every cell in place of the pooled feature.

    On a CNN with global average pooling the map's mean is the logit (Zhou et al. 2016, arXiv 1512.04150, eq. 2). On a ViT the
    weights were trained on class or label tokens and are lent to the patches: nothing promises that this means anything,
    which is why it is measured.

    Raises:
        CxrError: The CNN's head is no linear map of averaged features, so that it has no CAM.
    """
    if not isinstance(model, VisionTransformer):
        map_BDyx, logits_BC = _record(model, img_BIYX, _feature_module(model))
        linear = _classifier(model)
        map_BCyx = torch.einsum("bdyx,cd->bcyx", map_BDyx, linear.weight)
        bias = 0 if linear.bias is None else linear.bias
        if map_BCyx.mean(dim=(2, 3)).shape != logits_BC.shape or not torch.allclose(map_BCyx.mean(dim=(2, 3)) + bias, logits_BC, rtol=1e-3, atol=1e-3):
            raise CxrError("this CNN's head is not a linear map of its averaged features, so it has no CAM: use grad_cam")
        return map_BCyx
    tokens_BND = model(img_BIYX).tokens_BND
    patches_BPD = tokens_BND[:, -model.grid[0] * model.grid[1] :]
    if isinstance(model, LabelTokenViT) and model.norm_twice:
        patches_BPD = model.norm(patches_BPD)
    weight_CD = model.head.scale[:, None] * model.head.weight.softmax(dim=-1) if isinstance(model, Clarity) else model.head.weight
    return (patches_BPD @ weight_CD.T).transpose(1, 2).unflatten(-1, model.grid)


def grad_cam(
    model: nn.Module, img_BIYX: Tensor, *, findings: int, names: Sequence[str] = (), wanted_BC: Tensor | None = None
) -> Tensor:
    """Grad-CAM: channels weighted by the mean gradient of the finding's logit, summed, negative values set to 0.

    On a ViT the channels are those of the patch tokens as the last attention layer reads them (its `norm1`): behind it,
    patches no longer reach a class token. CLARiTy's score has a second half, SegmentCAM's foreground logit, which reads the
    patches behind that layer too: of that half little is seen here.

    Source: Selvaraju et al. 2017, arXiv 1610.02391, eq. 1 and 2.
    """
    return _gradient_maps(model, img_BIYX, lambda map_BDyx, gradient_BDyx: gradient_BDyx.mean(dim=(2, 3)), wanted_BC)


def grad_cam_pp(
    model: nn.Module, img_BIYX: Tensor, *, findings: int, names: Sequence[str] = (), wanted_BC: Tensor | None = None
) -> Tensor:
    """Grad-CAM++: as Grad-CAM, but only positive gradients count, each weighted so that several small objects weigh as one large.

    Source: Chattopadhyay et al. 2018, arXiv 1710.11063, eq. 19, with the exponential as the last function, whose powers of
    the first derivative are then the higher derivatives.
    """

    def weights(map_BDyx: Tensor, gradient_BDyx: Tensor) -> Tensor:
        total_BD11 = map_BDyx.sum(dim=(2, 3), keepdim=True)
        below = 2 * gradient_BDyx**2 + total_BD11 * gradient_BDyx**3
        # Where nothing flows, 0 / 0: such a cell has no say.
        alpha_BDyx = torch.where(below != 0, gradient_BDyx**2 / torch.where(below != 0, below, torch.ones_like(below)), torch.zeros_like(below))
        return (alpha_BDyx * gradient_BDyx.clamp(min=0)).sum(dim=(2, 3))

    return _gradient_maps(model, img_BIYX, weights, wanted_BC)


def _gradient_maps(
    model: nn.Module, img_BIYX: Tensor, weigh: Callable[[Tensor, Tensor], Tensor], wanted_BC: Tensor | None
) -> Tensor:
    with torch.enable_grad():
        features, logits_BC = _record(model, img_BIYX.detach().requires_grad_(), _feature_module(model))
        all_BDyx = _as_image(features.detach(), model)
        map_BCyx = torch.full((*logits_BC.shape, *all_BDyx.shape[2:]), float("nan"), device=img_BIYX.device, dtype=all_BDyx.dtype)
        for rows_b, chosen_b in _rounds(logits_BC, wanted_BC):
            gradient = torch.autograd.grad(logits_BC[rows_b, chosen_b].sum(), features, retain_graph=True)[0]
            map_bDyx, gradient_bDyx = all_BDyx[rows_b], _as_image(gradient, model)[rows_b]
            map_BCyx[rows_b, chosen_b] = torch.einsum("bd,bdyx->byx", weigh(map_bDyx, gradient_bDyx), map_bDyx).clamp(min=0)
    return map_BCyx


def _rounds(logits_BC: Tensor, wanted_BC: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows of the batch and one finding for each: every wanted pair once, in as few backward passes as there are findings to
    the image that has most. Images do not mix in a model, so each may have another finding's logit in the same sum."""
    wanted = torch.ones(logits_BC.shape, dtype=torch.bool) if wanted_BC is None else wanted_BC.cpu()
    turn_BC = wanted.cumsum(dim=1) * wanted  # 1 for an image's first wanted finding, 2 for its second, ...
    for turn in range(1, int(turn_BC.max()) + 1):
        rows_b, chosen_b = torch.nonzero(turn_BC == turn, as_tuple=True)
        yield rows_b.to(logits_BC.device), chosen_b.to(logits_BC.device)


def _record(model: nn.Module, img_BIYX: Tensor, module: nn.Module) -> tuple[Tensor, Tensor]:
    """What a module puts out the first time that it is called in a forward pass, and the logits."""
    kept: list[Tensor] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    try:
        out = model(img_BIYX)
    finally:
        handle.remove()
    return kept[0], getattr(out, "logits_BC", out)


def _feature_module(model: nn.Module) -> nn.Module:
    """Where the last spatial features can be read."""
    if isinstance(model, CTran | Query2Label):
        return model.norm  # their own layers read these tokens
    if isinstance(model, LabelTokenViT):
        return model.blocks[model.n1 + model.n2 - 1].norm1  # called for the image first, then for the labels
    if isinstance(model, VisionTransformer):
        return model.blocks[-1].norm1
    net = model.net if isinstance(model, TimmClassifier) else model
    if hasattr(net, "features") and not hasattr(net, "feature_info"):
        return net.features
    if getattr(net, "feature_info", None):
        return net.get_submodule(net.feature_info[-1]["module"])
    raise CxrError(f"where a {type(model).__name__} has its last features is not known: it needs a part called `features`, or to be timm's")


def _classifier(model: nn.Module) -> nn.Linear:
    linear = model.get_classifier() if hasattr(model, "get_classifier") else getattr(model, "head", None)
    if not isinstance(linear, nn.Linear):
        raise CxrError(f"the head of a {type(model).__name__} is no single linear map, so it has no CAM: use grad_cam")
    return linear


def _as_image(value: Tensor, model: nn.Module) -> Tensor:
    """Patch tokens as [B, D, y, x]; a CNN's features as they are."""
    if value.ndim == 4:
        return value
    if not isinstance(model, VisionTransformer):
        raise CxrError(f"the last features of this {type(model).__name__} are no map [B, channels, y, x]: use a convolutional network, or our own ViT")
    patches = model.grid[0] * model.grid[1]
    return value[:, -patches:].transpose(1, 2).unflatten(-1, model.grid)


def _patches(rows_BCS: Tensor, first: int, model: nn.Module) -> Tensor:
    patches = model.grid[0] * model.grid[1]
    return rows_BCS[:, :, first : first + patches].unflatten(-1, model.grid)


def _is_plain(model: nn.Module) -> bool:
    return type(model) is VisionTransformer


def _has_segment_cam(model: nn.Module) -> bool:
    return isinstance(model, Clarity) and model.segment_cam is not None


_FITS: dict[str, Callable[[nn.Module], bool]] = {
    "fused": _has_segment_cam,
    "heatmap": _has_segment_cam,
    "class_attention": lambda model: _is_plain(model) or isinstance(model, Clarity),
    "label_attention": lambda model: isinstance(model, LabelTokenViT | CTran | Query2Label),
    "rollout": lambda model: _is_plain(model) or isinstance(model, Clarity | LabelTokenViT),
    "gradient_attention": lambda model: _is_plain(model) or isinstance(model, Clarity | LabelTokenViT),
    "cam": lambda model: not isinstance(model, CTran | Query2Label | TimmClassifier),  # few of timm's heads are plain enough
    "grad_cam": lambda model: True,
    "grad_cam_pp": lambda model: True,
}


def fits(name: str, model: nn.Module) -> bool:
    """Whether a method can look into this kind of model; one without a model fits all."""
    return _FITS.get(name, lambda _model: True)(model)


def _checked(name: str, make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The method with one clear line in place of a failure deep inside."""

    def checked(model: nn.Module, img_BIYX: Tensor, **options) -> Tensor:
        if not fits(name, model):
            raise CxrError(f"the map method {name} does not fit a {type(model).__name__}: choose one of {', '.join(n for n in MAP_METHODS if fits(n, model))}")
        return make(model, img_BIYX, **options)

    return checked


for _name, _make, _text in (
    ("fused", fused, "CLARiTy's class attention within the foreground"),
    ("heatmap", heatmap, "SegmentCAM's heatmap"),
    ("class_attention", class_attention, "where class tokens look"),
    ("label_attention", label_attention, "where label tokens look"),
    ("rollout", rollout, "attention multiplied through the layers"),
    ("gradient_attention", gradient_attention, "attention that raises the logit (Chefer 2021)"),
    ("cam", cam, "the classifier's weights on every cell"),
    ("grad_cam", grad_cam, "channels weighted by their gradient"),
    ("grad_cam_pp", grad_cam_pp, "the same, with Grad-CAM++'s weights"),
):
    MAP_METHODS[_name] = MapMethod(_checked(_name, _make), _text, by_gradient=_name in ("gradient_attention", "grad_cam", "grad_cam_pp"))
