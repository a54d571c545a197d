"""LT-ViT: the image never feels the labels, the labels follow eq. 2 as written in loops, and every option does what it says."""

import math

import pytest
import torch
from torch import nn

import cxrlib  # noqa: F401  (before timm: see cxrlib._compat)
import timm
from cxrlib.errors import CxrError
from cxrlib.models import LabelTokenViT, VisionTransformer, build_model
from cxrlib.models.heads import LabelHeads
from cxrlib.models.lt_vit import LabelBlock
from cxrlib.models.vit import Block

SIZES = {"image_size": (24, 16), "patch_size": 8, "in_channels": 1, "width": 12, "depth": 4, "heads": 3}


def randomise(model: nn.Module, seed: int = 0, scale: float = 0.3) -> nn.Module:
    """Gives every parameter, zero-started ones too, a random value: nothing can agree by being zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model.eval()


def images(count: int = 2, size: tuple[int, int] = (24, 16)) -> torch.Tensor:
    return torch.randn(count, 1, *size, generator=torch.Generator().manual_seed(7))


def plain_twin(model: LabelTokenViT, **sizes) -> VisionTransformer:
    """The plain ViT with the same image weights."""
    plain = VisionTransformer(num_classes=0, **sizes).eval()
    state = {name: value for name, value in model.state_dict().items() if name not in model.own_parts()}
    plain.load_state_dict(state, strict=True)
    return plain


@torch.no_grad()
def attend_by_hand(attn, queries_QD, readable):
    """softmax(q k^T / sqrt(d)) v in loops: `readable(i)` lists the normed tokens that query i may read."""
    D, H = queries_QD.shape[1], attn.heads
    d = D // H
    wq, wk, wv = attn.qkv.weight.split(D)
    bq, bk, bv = attn.qkv.bias.split(D)
    out = torch.zeros(len(queries_QD), D)
    maps = [[None] * H for _ in queries_QD]
    for i, token in enumerate(queries_QD):
        tokens = readable(i)
        for h in range(H):
            part = slice(h * d, (h + 1) * d)
            q = wq[part] @ token + bq[part]
            scores = [float(q @ (wk[part] @ other + bk[part])) / math.sqrt(d) for other in tokens]
            top = max(scores)
            weights = [math.exp(score - top) for score in scores]
            maps[i][h] = [weight / sum(weights) for weight in weights]
            for weight, other in zip(maps[i][h], tokens):
                out[i, part] += weight * (wv[part] @ other + bv[part])
    return out @ attn.proj.weight.T + attn.proj.bias, maps


@pytest.mark.parametrize("label_attention", ["full", "self", "none"])
@pytest.mark.parametrize("flow", ["one-way", "joint"])
def test_a_layer_equals_eq_1_and_eq_2_in_loops(label_attention, flow):
    block = randomise(Block(width=12, heads=3))
    x_ND, t_CD = torch.randn(5, 12), torch.randn(4, 12)
    x_B, t_B, rows_B = LabelBlock(label_attention=label_attention, flow=flow)(block, x_ND[None], t_CD[None], maps=True)

    x_normed, t_normed = block.norm1(x_ND), block.norm1(t_CD)
    heard = {
        "full": lambda i: [*x_normed, *t_normed],
        "self": lambda i: [*x_normed, t_normed[i]],
        "none": lambda i: [*x_normed],
    }[label_attention]
    mixed_ND, _ = attend_by_hand(block.attn, x_normed, lambda i: [*x_normed, *t_normed] if flow == "joint" else [*x_normed])
    read_CD, maps = attend_by_hand(block.attn, t_normed, heard)
    for own, stream, read in ((x_B[0], x_ND, mixed_ND), (t_B[0], t_CD, read_CD)):
        after = stream + read
        after = after + block.mlp(block.norm2(after))
        torch.testing.assert_close(own, after, atol=1e-5, rtol=1e-5)
    for i in range(4):
        for h in range(3):
            expected = torch.zeros(rows_B.shape[-1])
            places = [*range(5), 5 + i] if label_attention == "self" else range(len(maps[i][h]))
            for place, weight in zip(places, maps[i][h]):
                expected[place] = weight
            torch.testing.assert_close(rows_B[0, h, i], expected, atol=1e-5, rtol=1e-5)


def test_a_layer_equals_an_unchanged_block_with_a_mask():
    """The definition in one call: a plain block on [image; labels] whose image rows are blind to the label columns."""
    block = randomise(Block(width=12, heads=3))
    x_BND, t_BCD = torch.randn(2, 5, 12), torch.randn(2, 4, 12)
    both = torch.cat([x_BND, t_BCD], dim=1)
    may_read = torch.ones(9, 9, dtype=torch.bool)
    may_read[:5, 5:] = False
    normed = block.norm1(both)
    q, k, v = block.attn.qkv(normed).reshape(2, 9, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
    weights = (q @ k.transpose(-2, -1) / 2).masked_fill(~may_read, float("-inf")).softmax(-1)
    both = both + block.attn.proj((weights @ v).transpose(1, 2).reshape(2, 9, 12))
    both = both + block.mlp(block.norm2(both))
    x_after, t_after, rows = LabelBlock()(block, x_BND, t_BCD, maps=True)
    torch.testing.assert_close(torch.cat([x_after, t_after], dim=1), both, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(rows, weights[:, :, 5:], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("n1,n2", [(n1, n2) for n1 in range(4) for n2 in range(1, 5 - n1)])
@pytest.mark.parametrize("label_attention", ["full", "self", "none"])
def test_the_image_stream_is_the_plain_vits_bit_for_bit(n1, n2, label_attention):
    model = randomise(LabelTokenViT(num_classes=5, n1=n1, n2=n2, label_attention=label_attention, **SIZES))
    with torch.no_grad():
        for maps in (False, True):
            assert torch.equal(model(images(), maps=maps).tokens_BND, plain_twin(model, **SIZES)(images()).tokens_BND)


def test_the_image_stream_is_the_plain_vits_bit_for_bit_at_full_size():
    model = randomise(LabelTokenViT(), scale=0.05)
    img_BIYX = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(model(img_BIYX).tokens_BND, plain_twin(model)(img_BIYX).tokens_BND)


@pytest.mark.parametrize("flow", ["one-way", "joint"])
def test_no_image_token_has_a_gradient_towards_a_label(flow):
    model = randomise(LabelTokenViT(num_classes=5, n2=2, flow=flow, **SIZES))
    output = model(images())
    # The labels take part in the graph through a term whose gradient is known to be zero.
    total = output.tokens_BND.square().sum() + 0.0 * output.logits_BC.sum()
    (gradient,) = torch.autograd.grad(total, model.label_tokens)
    if flow == "one-way":
        assert torch.equal(gradient, torch.zeros_like(gradient))
    else:
        assert gradient.abs().max() > 1e-4


def test_permuting_labels_permutes_logits_and_maps():
    model = randomise(LabelTokenViT(num_classes=5, n2=3, **SIZES))
    order = torch.tensor([3, 0, 4, 1, 2])
    with torch.no_grad():
        before, maps_before = model(images()), model.maps(images())
        for parameter, axis in ((model.label_tokens, 1), (model.head.weight, 0), (model.head.bias, 0)):
            parameter.copy_(parameter.index_select(axis, order))
        after, maps_after = model(images()), model.maps(images())
    torch.testing.assert_close(after.logits_BC, before.logits_BC[:, order], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(maps_after, maps_before[:, order], atol=1e-6, rtol=1e-5)
    assert (before.logits_BC[:, order] - before.logits_BC).abs().max() > 1e-2


def test_labels_talk_only_if_they_may():
    def others_feel(label_attention):
        model = randomise(LabelTokenViT(num_classes=5, n2=3, label_attention=label_attention, **SIZES))
        with torch.no_grad():
            before = model(images()).logits_BC
            model.label_tokens[0, 2] += torch.linspace(-1, 1, 12)  # no constant: a LayerNorm would not notice it
            change_C = (model(images()).logits_BC - before).abs().amax(dim=0)
        return change_C

    assert (others_feel("full") > 1e-5).all()
    for label_attention in ("self", "none"):
        change_C = others_feel(label_attention)
        assert change_C[2] > 0 and change_C[[0, 1, 3, 4]].max() == 0


def test_maps_are_the_labels_rows_without_class_token_and_labels():
    model = randomise(LabelTokenViT(num_classes=5, n2=2, **SIZES))
    with torch.no_grad():
        attention_KBHCM, map_BCyx = model(images(), maps=True).attention_KBHCM, model.maps(images())
    assert attention_KBHCM.shape == (2, 2, 3, 5, 1 + 6 + 5) and map_BCyx.shape == (2, 5, 3, 2)
    torch.testing.assert_close(attention_KBHCM.sum(-1), torch.ones(2, 2, 3, 5))
    for c in range(5):
        for row in range(3):
            for column in range(2):
                weights = [float(attention_KBHCM[k, 1, h, c, 1 + 2 * row + column]) for k in range(2) for h in range(3)]
                assert float(map_BCyx[1, c, row, column]) == pytest.approx(sum(weights) / 6, abs=1e-6)


def test_asking_for_maps_changes_no_score():
    model = randomise(LabelTokenViT(num_classes=5, n2=2, **SIZES))
    with torch.no_grad():
        assert torch.equal(model(images()).logits_BC, model(images(), maps=True).logits_BC)
        assert model(images()).attention_KBHCM is None


def test_the_final_norm_is_applied_once_or_twice():
    model = randomise(LabelTokenViT(num_classes=5, **SIZES))
    with torch.no_grad():
        twice = model(images()).labels_BCD
        model.norm_twice = False
        torch.testing.assert_close(model.norm(model(images()).labels_BCD), twice)


def test_each_label_has_a_linear_head_of_its_own():
    heads, tokens_BCD = randomise(LabelHeads(findings=3, width=4)), torch.randn(2, 3, 4)
    logits_BC = heads(tokens_BCD)
    for b in range(2):
        for c in range(3):
            assert float(logits_BC[b, c]) == pytest.approx(float(tokens_BCD[b, c] @ heads.weight[c] + heads.bias[c]), abs=1e-6)


@pytest.mark.parametrize("size,name", [(224, "ltvit_small_patch16_224"), (512, "ltvit_small_patch16_512")])
def test_timm_builds_it_with_its_options(size, name):
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=13, n2=2, n1=9, label_attention="self", flow="joint")
        extra = sum(p.numel() for p in timm.create_model(name, num_classes=14).parameters()) - sum(
            p.numel() for p in VisionTransformer(image_size=size, num_classes=0).parameters()
        )
    assert (model.n1, model.n2, model.grid) == (9, 2, (size // 16, size // 16))
    assert (model.label_block.label_attention, model.label_block.flow) == ("self", "joint")
    assert model.label_tokens.shape == (1, 13, 384)
    assert extra == 10_766  # 14 tokens of 384 and 14 heads of 385


def test_as_published_the_labels_join_after_eight_of_twelve_layers():
    with torch.device("meta"):
        model = LabelTokenViT()
    assert (model.n1, model.n2) == (8, 4)


def test_layers_after_the_labels_are_not_trained():
    model = LabelTokenViT(num_classes=5, n1=1, n2=2, **SIZES)
    model(images()).logits_BC.sum().backward()
    assert not any(parameter.requires_grad for parameter in model.blocks[3].parameters())
    without = [name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None]
    assert without == []


@pytest.mark.parametrize(
    "options,words",
    [
        ({"n1": 3, "n2": 2}, "do not fit a depth of 4"),
        ({"n2": 0}, "n2 from 1"),
        ({"label_attention": "some"}, "choose one of full, self, none"),
        ({"flow": "back"}, "choose one of one-way, joint"),
    ],
)
def test_wrong_options_get_one_clear_line(options, words):
    with pytest.raises(CxrError, match=words):
        LabelTokenViT(num_classes=5, **options, **SIZES)


def test_a_recipes_model_and_its_options_are_checked():
    assert build_model("lt_vit", {"n2": 1}, num_classes=3, **SIZES).n2 == 1
    with pytest.raises(CxrError, match="no option 'n3'.*n1, n2, label_attention, flow, token_std, norm_twice"):
        build_model("lt_vit", {"n3": 1}, num_classes=3, **SIZES)
    with pytest.raises(CxrError, match="choose one of vit, lt_vit, "):
        build_model("lt", {}, num_classes=3, **SIZES)
