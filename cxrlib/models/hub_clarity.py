"""Registers CLARiTy with timm: after `import cxrlib.models`, `timm.create_model("clarity_small_patch16_224")` works."""

from timm.models import register_model

from cxrlib.models.clarity import Clarity
from cxrlib.models.hub import _build


@register_model
def clarity_mu(pretrained: bool = False, **given) -> Clarity:
    """CLARiTy for tests: 48 x 32 pixels, patches of 8, width 24, 3 layers."""
    settings = {"image_size": (48, 32), "patch_size": 8, "in_channels": 1, "width": 24, "depth": 3, "heads": 3}
    return _build(pretrained, None, settings, given, Clarity)


@register_model
def clarity_tiny_patch16_224(pretrained: bool = False, **given) -> Clarity:
    """CLARiTy on ViT-Ti/16. Pretrained: timm's ImageNet-21k weights, fine-tuned (Apache-2.0); the heads are random."""
    return _build(pretrained, "vit_tiny_patch16_224.augreg_in21k_ft_in1k", {"width": 192, "heads": 3}, given, Clarity)


@register_model
def clarity_small_patch16_224(pretrained: bool = False, **given) -> Clarity:
    """CLARiTy-S-16-224: ViT-S/16, 14 class tokens. Pretrained: DINO on ImageNet (Apache-2.0); the heads are random."""
    return _build(pretrained, "vit_small_patch16_224.dino", {}, given, Clarity)


@register_model
def clarity_small_patch16_512(pretrained: bool = False, **given) -> Clarity:
    """CLARiTy-S-16-512. Pretrained: DINO's 224-px weights with resampled positions; the heads are random."""
    return _build(pretrained, "vit_small_patch16_224.dino", {"image_size": 512}, given, Clarity)
