"""Costs: equal to sums written by hand, to the last multiplication, and to the published additions of LT-ViT."""

import pytest
import torch
from torch import nn

import cxrlib  # noqa: F401  (before timm: see cxrlib._compat)
import timm
from cxrlib.errors import CxrError
from cxrlib.models import CTran, LabelTokenViT, Query2Label, VisionTransformer
from cxrlib.models.cost import cost, macs, parameters

D, L, C = 384, 12, 14


def vit_by_hand(size: int) -> int:
    """Embedding, then per layer: q, k, v and the projection (4 D^2), the MLP (8 D^2), and both products of attention."""
    P = (size // 16) ** 2
    N = P + 1
    return P * 3 * 16 * 16 * D + L * (N * 4 * D * D + N * 8 * D * D + 2 * N * N * D)


def build(kind: type[nn.Module], **options) -> nn.Module:
    """A model of full size that takes no memory."""
    with torch.device("meta"):
        return kind(**options)


@pytest.mark.parametrize("size, giga", [(224, 4.598), (512, 31.749)])
def test_a_plain_vit_equals_the_formula(size, giga):
    model = build(VisionTransformer, image_size=size, num_classes=0)
    assert macs(model) == vit_by_hand(size)
    assert round(macs(model) / 1e9, 3) == giga
    assert macs(build(VisionTransformer, image_size=size)) == vit_by_hand(size) + C * D  # with its linear head


def test_what_other_counters_add_is_told_rightly():
    N = 197
    softmax_and_gelu, norms = L * (6 * N * N + N * 4 * D), (2 * L + 1) * N * D * 5
    assert f"{(vit_by_hand(224) + softmax_and_gelu) / 1e9:.3f} G" in macs.__doc__
    assert f"{(vit_by_hand(224) + norms) / 1e9:.3f} G" in macs.__doc__


def test_timms_model_of_the_same_size_costs_the_same():
    with torch.device("meta"):
        theirs = timm.create_model("vit_small_patch16_224", num_classes=14)
    ours = build(VisionTransformer)
    assert cost(theirs, image_size=224) == cost(ours) == (21_665_664 + C * (D + 1), vit_by_hand(224) + C * D)


@pytest.mark.parametrize("n2, percent", [(2, 1.18), (4, 2.35), (6, 3.53), (8, 4.70), (10, 5.88), (12, 7.06)])
def test_lt_vit_adds_as_much_as_published(n2, percent):
    plain, model = build(VisionTransformer, num_classes=0), build(LabelTokenViT, n2=n2)
    assert parameters(model) - parameters(plain) == 10_766
    assert macs(model) - macs(plain) == n2 * (C * 12 * D * D + 2 * C * (197 + C) * D)
    assert round(100 * (macs(model) / macs(plain) - 1), 2) == percent


def test_lt_vits_options_are_counted_whether_fused_or_written_out():
    plain = macs(build(VisionTransformer, num_classes=0))
    both = {option: macs(build(LabelTokenViT, n2=4, label_attention=option)) for option in ("full", "self", "none")}
    assert both["self"] == both["full"]  # written out, it computes the label-label products before it hides them
    assert both["full"] - both["none"] == 4 * 2 * C * C * D
    joint = macs(build(LabelTokenViT, n2=4, flow="joint"))
    assert joint - plain == 4 * (C * 12 * D * D + 2 * ((197 + C) ** 2 - 197**2) * D)


def test_c_tran_equals_the_formula():
    M = 196 + C
    assert macs(build(CTran)) == vit_by_hand(224) + 3 * (M * (4 + 2) * D * D + 2 * M * M * D)


@pytest.mark.parametrize("talks", [False, True])
def test_query2label_equals_the_formula(talks):
    encoder = 196 * 12 * D * D + 2 * 196 * 196 * D
    cross = (2 * C + 2 * 196) * D * D + 2 * C * 196 * D + C * 8 * D * D
    own = (4 * C * D * D + 2 * C * C * D) if talks else 0
    model = build(Query2Label, label_self_attention=talks)
    assert macs(model) == vit_by_hand(224) + 196 * D * D + encoder + 2 * (cross + own)


def test_counting_leaves_the_model_as_it_was():
    model = LabelTokenViT(image_size=(24, 16), patch_size=8, in_channels=1, width=12, depth=3, heads=3, stem="patch").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    counted = cost(model)
    assert counted.macs > 0 and "M parameters" in str(counted) and "per image" in str(counted)
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert macs(LabelTokenViT(image_size=(24, 16), patch_size=8, width=12, depth=3, heads=3)) > counted.macs  # 3 channels


def test_a_model_that_does_not_say_what_it_reads_gets_one_clear_line():
    with pytest.raises(CxrError, match="pass image_size="):
        macs(nn.Linear(3, 2))
    with pytest.raises(CxrError, match="no convolution"):
        macs(nn.Linear(3, 2), image_size=8)
