"""Registers the models with timm: after `import cxrlib.models`, `timm.create_model("cxr_vit_small_patch16_224")` works."""

from timm.models import register_model

from cxrlib.models.lt_vit import LabelTokenViT
from cxrlib.models.vit import VisionTransformer
from cxrlib.models.weights import load_timm


def _build(
    pretrained: bool, pretrained_from: str | None, settings: dict, given: dict, kind: type[VisionTransformer] = VisionTransformer
) -> VisionTransformer:
    """Builds a ViT from our defaults and timm's argument names, and loads timm's weights if asked to."""
    # timm passes these to every model; here they carry nothing.
    for name in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        given.pop(name, None)
    ours = {"img_size": "image_size", "in_chans": "in_channels", "drop_path_rate": "drop_path", "embed_dim": "width"}
    settings = settings | {ours.get(name, name): value for name, value in given.items()}
    model = kind(**settings)
    if pretrained:
        if pretrained_from is None:
            raise RuntimeError("this size has no published weights: pass pretrained=False")
        load_timm(model, pretrained_from)
    return model


@register_model
def cxr_vit_mu(pretrained: bool = False, **given) -> VisionTransformer:
    """A ViT for tests: 48 x 32 pixels, patches of 8, width 24, 2 layers. Trains in seconds, and every axis differs."""
    settings = {"image_size": (48, 32), "patch_size": 8, "in_channels": 1, "width": 24, "depth": 2, "heads": 3}
    return _build(pretrained, None, settings, given)


@register_model
def cxr_vit_tiny_patch16_224(pretrained: bool = False, **given) -> VisionTransformer:
    """ViT-Ti/16: width 192, 12 layers, 3 heads. Pretrained: timm's ImageNet-21k weights, fine-tuned (Apache-2.0)."""
    return _build(pretrained, "vit_tiny_patch16_224.augreg_in21k_ft_in1k", {"width": 192, "heads": 3}, given)


@register_model
def cxr_vit_small_patch16_224(pretrained: bool = False, **given) -> VisionTransformer:
    """ViT-S/16: width 384, 12 layers, 6 heads. Pretrained: DINO on ImageNet (Apache-2.0), through timm."""
    return _build(pretrained, "vit_small_patch16_224.dino", {}, given)


@register_model
def cxr_vit_small_patch16_512(pretrained: bool = False, **given) -> VisionTransformer:
    """ViT-S/16 at 512 px. Pretrained: DINO's 224-px weights with resampled positions."""
    return _build(pretrained, "vit_small_patch16_224.dino", {"image_size": 512}, given)


@register_model
def ltvit_mu(pretrained: bool = False, **given) -> LabelTokenViT:
    """LT-ViT for tests: `cxr_vit_mu` with label tokens in its last layer."""
    settings = {"image_size": (48, 32), "patch_size": 8, "in_channels": 1, "width": 24, "depth": 2, "heads": 3}
    return _build(pretrained, None, settings, given, LabelTokenViT)


@register_model
def ltvit_tiny_patch16_224(pretrained: bool = False, **given) -> LabelTokenViT:
    """LT-ViT on ViT-Ti/16. Pretrained: timm's ImageNet-21k image stream, fine-tuned (Apache-2.0); label tokens are random."""
    return _build(pretrained, "vit_tiny_patch16_224.augreg_in21k_ft_in1k", {"width": 192, "heads": 3}, given, LabelTokenViT)


@register_model
def ltvit_small_patch16_224(pretrained: bool = False, **given) -> LabelTokenViT:
    """LT-ViT on ViT-S/16, as published: N1 = 8, N2 = 4. Pretrained: DINO's image stream; label tokens are random."""
    return _build(pretrained, "vit_small_patch16_224.dino", {}, given, LabelTokenViT)


@register_model
def ltvit_small_patch16_512(pretrained: bool = False, **given) -> LabelTokenViT:
    """LT-ViT on ViT-S/16 at 512 px. Pretrained: DINO's 224-px image stream with resampled positions."""
    return _build(pretrained, "vit_small_patch16_224.dino", {"image_size": 512}, given, LabelTokenViT)
