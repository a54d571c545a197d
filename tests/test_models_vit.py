"""The ViT: equal to timm's, to loops written from the formulas, and strict about its input."""

import math

import pytest
import torch
from torch import nn

import cxrlib  # noqa: F401  (before timm: see cxrlib._compat)
import timm
from cxrlib.errors import CxrError
from cxrlib.models import VisionTransformer
from cxrlib.models.vit import Attention, Block, PatchEmbed, attention_rows
from cxrlib.models.weights import fit_positions, load_safetensors, load_strict, load_timm


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Gives every parameter, zero-started ones too, a random value: nothing can agree by being zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model.eval()


@pytest.mark.parametrize("size", [224, 512])
def test_logits_equal_timms_vit_small(size):
    ours = VisionTransformer(image_size=size).eval()
    theirs = randomise(timm.create_model("vit_small_patch16_224", num_classes=14))  # 224: positions are resampled for 512
    load_strict(ours, fit_positions(theirs.state_dict(), ours.grid), source="timm")
    if size != 224:
        theirs.set_input_size((size, size))  # timm's own resampling
    img_BIYX = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert (ours(img_BIYX).logits_BC - theirs(img_BIYX)).abs().max() < 1e-5


def test_state_dict_keys_and_shapes_equal_timms():
    ours = VisionTransformer(num_classes=14).state_dict()
    theirs = timm.create_model("vit_small_patch16_224", num_classes=14).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
    assert list(ours) == list(theirs)


def test_a_patch_is_one_linear_map_of_its_pixels():
    embed = randomise(PatchEmbed(patch_size=4, in_channels=2, width=5))
    img_BIYX = torch.randn(1, 2, 8, 12)
    x_BPD = embed(img_BIYX)
    assert x_BPD.shape == (1, 6, 5)
    for row in range(2):
        for column in range(3):
            pixels = img_BIYX[0, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            for d in range(5):
                by_hand = (embed.proj.weight[d] * pixels).sum() + embed.proj.bias[d]
                torch.testing.assert_close(x_BPD[0, 3 * row + column, d], by_hand)


def test_attention_equals_loops_written_from_the_formula():
    attention = randomise(Attention(width=12, heads=3))
    x_BND = torch.randn(2, 5, 12)
    out_BND, map_BHRN = attention(x_BND, rows=5)
    weight, bias = attention.qkv.weight.detach(), attention.qkv.bias.detach()
    d = 4
    for b in range(2):
        mixed = torch.zeros(5, 12)
        for h in range(3):
            rows = slice(h * d, (h + 1) * d)
            q, k, v = (
                torch.stack([weight[part * 12 : part * 12 + 12][rows] @ x + bias[part * 12 : part * 12 + 12][rows] for x in x_BND[b]])
                for part in range(3)
            )
            for i in range(5):
                scores = [float(q[i] @ k[j]) / math.sqrt(d) for j in range(5)]
                total = sum(math.exp(s) for s in scores)
                for j in range(5):
                    share = math.exp(scores[j]) / total
                    assert abs(share - map_BHRN[b, h, i, j].item()) < 1e-6
                    mixed[i, rows] += share * v[j]
        torch.testing.assert_close(out_BND[b], mixed @ attention.proj.weight.T + attention.proj.bias)


def test_asking_for_rows_changes_nothing_else():
    model = randomise(VisionTransformer(image_size=(48, 32), patch_size=8, in_channels=1, width=24, depth=3, heads=3))
    img_BIYX = torch.randn(2, 1, 48, 32)
    plain, with_rows = model(img_BIYX), model(img_BIYX, rows=4)
    assert torch.equal(plain.logits_BC, with_rows.logits_BC) and torch.equal(plain.tokens_BND, with_rows.tokens_BND)
    assert plain.attention_LBHRN is None and with_rows.attention_LBHRN.shape == (3, 2, 3, 4, 25)
    torch.testing.assert_close(with_rows.attention_LBHRN.sum(-1), torch.ones(3, 2, 3, 4))
    torch.testing.assert_close(model(img_BIYX, rows=25).attention_LBHRN[..., :4, :], with_rows.attention_LBHRN)


def test_uniform_queries_look_everywhere_alike():
    map_BHRN = attention_rows(torch.zeros(1, 1, 7, 4), torch.randn(1, 1, 7, 4), rows=7)
    torch.testing.assert_close(map_BHRN, torch.full((1, 1, 7, 7), 1 / 7))


def test_block_adds_to_its_input():
    block = Block(width=12, heads=3)
    for layer in (block.attn.proj, block.mlp.fc2):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    x_BND = torch.randn(2, 5, 12)
    assert torch.equal(block(x_BND)[0], x_BND)  # two branches that say nothing leave the stream as it was


def test_gradients_reach_every_parameter():
    for stem in ("patch", "conv"):
        model = VisionTransformer(image_size=(48, 32), patch_size=8, in_channels=1, width=64, depth=2, heads=4, stem=stem)
        nn.init.normal_(model.head.weight)
        model(torch.randn(2, 1, 48, 32)).logits_BC.square().sum().backward()
        silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert silent == []


def test_drop_path_only_acts_in_training():
    model = randomise(VisionTransformer(image_size=32, patch_size=8, in_channels=1, width=24, depth=4, heads=3, drop_path=0.9))
    img_BIYX = torch.randn(4, 1, 32, 32)
    assert torch.equal(model(img_BIYX).logits_BC, model(img_BIYX).logits_BC)
    model.train()
    assert not torch.equal(model(img_BIYX).logits_BC, model(img_BIYX).logits_BC)


@pytest.mark.parametrize(
    "build, says",
    [
        (lambda: VisionTransformer(image_size=100), "do not tile"),
        (lambda: VisionTransformer(width=25, heads=3, patch_size=16), "heads"),
        (lambda: VisionTransformer(stem="resnet"), "choose one of patch, conv"),
        (lambda: VisionTransformer(patch_size=14, image_size=224, stem="conv"), "patch size must be"),
        (lambda: VisionTransformer(image_size=32, patch_size=8, width=24, depth=1, heads=3)(torch.zeros(1, 3, 32, 40)), "resize"),
    ],
)
def test_bad_sizes_get_one_clear_line(build, says):
    with pytest.raises(CxrError, match=says) as caught:
        build()
    assert "\n" not in str(caught.value)


def test_registered_with_timm():
    model = timm.create_model("cxr_vit_mu", num_classes=5, drop_path_rate=0.1)
    assert model(torch.zeros(2, 1, 48, 32)).logits_BC.shape == (2, 5)
    assert timm.create_model("cxr_vit_small_patch16_512", num_classes=14).grid == (32, 32)
    assert {"cxr_vit_mu", "cxr_vit_small_patch16_224"} <= set(timm.list_models("cxr_*"))


def test_timms_layer_decay_understands_the_model():
    from timm.optim import param_groups_layer_decay

    model = timm.create_model("cxr_vit_mu", num_classes=3)
    groups = param_groups_layer_decay(model, weight_decay=0.1, layer_decay=0.5, no_weight_decay_list=model.no_weight_decay())
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert len(scale) == len(list(model.parameters()))
    assert scale[id(model.pos_embed)] < scale[id(model.blocks[0].mlp.fc1.weight)] < scale[id(model.blocks[1].mlp.fc1.weight)]
    assert scale[id(model.head.weight)] == 1 and decay[id(model.pos_embed)] == 0 and decay[id(model.head.weight)] == 0.1


def test_weights_load_strictly(tmp_path):
    from safetensors.torch import save_file

    model = randomise(timm.create_model("cxr_vit_mu", num_classes=3))
    save_file(model.state_dict(), tmp_path / "good.safetensors")
    twin = timm.create_model("cxr_vit_mu", num_classes=3)
    load_safetensors(twin, tmp_path / "good.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), twin.state_dict().values()))

    state = model.state_dict()
    state["extra"] = state.pop("norm.bias")
    save_file(state, tmp_path / "bad.safetensors")
    with pytest.raises(CxrError, match="norm.bias is missing; extra is unknown"):
        load_safetensors(twin, tmp_path / "bad.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "good.safetensors").read_bytes()[:100])
    with pytest.raises(CxrError, match="damaged"):
        load_safetensors(twin, tmp_path / "cut.safetensors")
    with pytest.raises(CxrError, match="convert"):
        load_safetensors(twin, tmp_path / "weights.pth")
    with pytest.raises(CxrError, match="num_classes|head.weight is"):
        load_safetensors(timm.create_model("cxr_vit_mu", num_classes=4), tmp_path / "good.safetensors")


def test_timm_weights_come_through_timms_own_loader(tmp_path, monkeypatch):
    """timm reads a file of the real name and shape that this test writes, in place of the hub's."""
    from safetensors.torch import save_file

    donor = randomise(timm.create_model("vit_small_patch16_224", num_classes=0))
    save_file(donor.state_dict(), tmp_path / "model.safetensors")
    create = timm.create_model
    overlay = {"file": str(tmp_path / "model.safetensors"), "num_classes": 0}
    monkeypatch.setattr(timm, "create_model", lambda name, **k: create(name, pretrained_cfg_overlay=overlay, **k))
    model = VisionTransformer(image_size=64, num_classes=14)
    load_timm(model, "vit_small_patch16_224.dino")
    assert torch.equal(model.blocks[7].mlp.fc1.weight, donor.blocks[7].mlp.fc1.weight)
    assert torch.equal(model.pos_embed, fit_positions(donor.state_dict(), (4, 4))["pos_embed"])


def test_unknown_timm_name_is_one_clear_line():
    with pytest.raises(CxrError, match="check the name"):
        load_timm(VisionTransformer(image_size=32, patch_size=16, width=24, depth=1, heads=3), "vit_gigantic_patch1_7")
