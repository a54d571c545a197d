"""CLARiTy: a ViT with a token per finding; maps equal to loops; weights of a plain ViT; what SegmentCAM's gradients may reach."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import cxrlib  # noqa: F401  (before timm: see cxrlib._compat)
import timm
from cxrlib.errors import CxrError
from cxrlib.models import Clarity, VisionTransformer, build_model
from cxrlib.models.clarity import ClassPool
from cxrlib.models.cost import macs, parameters
from cxrlib.models.segment_cam import LAYOUTS, SegmentCAM, frozen, straight_through
from cxrlib.models.weights import load_encoder, load_safetensors, load_timm

SIZES = {"image_size": (48, 32), "patch_size": 8, "in_channels": 1, "width": 24, "depth": 4, "heads": 3}


def randomise(model: nn.Module, seed: int = 0, std: float = 0.05) -> nn.Module:
    """Gives every parameter, zero-started ones too, a random value: nothing can agree by being zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    return model.eval()


def tiny(**options) -> Clarity:
    return randomise(Clarity(num_classes=5, **(SIZES | options)), std=0.15)


def images(n: int = 2, seed: int = 1) -> torch.Tensor:
    return torch.randn(n, 1, 48, 32, generator=torch.Generator().manual_seed(seed))


# Size


@pytest.mark.parametrize("size, backbone", [(224, 21_675_648), (512, 21_993_600)])
def test_parameters_are_the_published_ones(size, backbone):
    with torch.device("meta"):
        model = Clarity(image_size=size)
    cam, head = parameters(model.segment_cam), parameters(model.head)
    assert parameters(model) - cam - head == backbone
    assert cam == 5_363_740 and head == 14 * 384 + 14 + 14
    if size == 224:
        assert 24.65 <= 100 * cam / backbone < 24.75 and 24.65 <= 100 * (cam + head) / backbone < 24.8


@pytest.mark.parametrize(
    "layout, count",
    [("bas", 5_363_740), ("bottleneck", 5_434_972), ("shared", 5_358_350), ("shared_bottleneck", 5_386_574), ("shared_wide", 5_440_782)],
)
def test_every_layout_has_the_count_that_it_was_enumerated_with(layout, count):
    with torch.device("meta"):
        assert parameters(SegmentCAM(layout=layout)) == count
    assert {"bas", "bottleneck", "shared", "shared_bottleneck", "shared_wide"} == set(LAYOUTS) - {"pointwise"}  # whose counts are its own


@pytest.mark.parametrize("size, plain, published", [(224, 4.9233, 5.99), (512, 32.2723, 37.84)])
def test_work_is_the_published_one(size, plain, published):
    """FLOPs as the paper's counter (fvcore) seems to count: MACs, 5 per value of a LayerNorm, 4 per value of a bilinear resize."""
    with torch.device("meta"):
        model, bare = Clarity(image_size=size), Clarity(image_size=size, segment_cam=False)
    assert macs(bare) / 1e9 == pytest.approx(plain, abs=5e-5)
    tokens = 14 + (size // 16) ** 2
    norms = sum(isinstance(module, nn.LayerNorm) for module in model.modules()) * tokens * 384 * 5
    resizes = 2 * 14 * size * size * 4  # attention and heatmap, to the image's size
    assert (macs(model) + norms + resizes) / 1e9 == pytest.approx(published, abs=0.005)


# Class tokens


def test_state_dict_is_timms_plus_own_parts():
    ours = Clarity().state_dict()
    theirs = timm.create_model("vit_small_patch16_224", num_classes=0).state_dict()
    own = Clarity().own_parts()
    assert [name for name in ours if name not in own] == list(theirs)
    assert {name for name in theirs if ours[name].shape != theirs[name].shape} == {"cls_token", "pos_embed"}


def test_with_one_class_token_the_features_are_timms_dino_vits():
    donor = randomise(timm.create_model("vit_small_patch16_224.dino", num_classes=0))
    model = Clarity(num_classes=1, token_noise=0.0).eval()
    load_encoder(model, donor.state_dict(), source="timm")
    img_BIYX = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(model(img_BIYX).tokens_BND, donor.forward_features(img_BIYX))


def test_class_attention_equals_the_rows_of_the_explicit_map():
    model, img_BIYX = tiny(attention_layers=3), images()
    x_BND, rows = model.embed(img_BIYX), []
    for block in model.blocks:
        qkv = block.attn.qkv(block.norm1(x_BND)).reshape(2, 29, 3, 3, 8).permute(2, 0, 3, 1, 4)
        map_BHNN = (qkv[0] @ qkv[1].transpose(-2, -1) / 8**0.5).softmax(dim=-1)
        rows.append(map_BHNN)
        x_BND = block(x_BND)[0]
    by_hand = torch.stack(rows)[1:].mean(dim=(0, 2))[:, :5, 5:]  # the last 3 of 4 layers; heads; class rows; patch columns
    attention_BCyx = model(img_BIYX, maps=True).attention_BCyx
    assert attention_BCyx.shape == (2, 5, 6, 4)
    assert (attention_BCyx.flatten(2) - by_hand).abs().max() < 1e-6
    assert (attention_BCyx.flatten(2).std(dim=-1) > 1e-4).all()  # there was something to compare


def test_asking_for_more_changes_nothing_else():
    model, img_BIYX = tiny(), images()
    positive_BC = torch.tensor([[True, False, True, False, False], [False, False, False, False, True]])
    plain = model(img_BIYX)
    asked = model(img_BIYX, maps=True, layers=True, positive_BC=positive_BC)
    optional = ("attention_BCyx", "layers_QBCD", "background_logits_G")
    for name in plain._fields:
        if name in optional:
            assert getattr(plain, name) is None and getattr(asked, name) is not None
        else:
            assert torch.equal(getattr(plain, name), getattr(asked, name)), name
    assert asked.background_logits_G.shape == (3,) and asked.layers_QBCD.shape == (2, 2, 5, 24)


def test_kept_class_tokens_are_those_after_the_last_layers():
    model, img_BIYX = tiny(token_layers=3), images()
    x_BND, after = model.embed(img_BIYX), []
    for block in model.blocks:
        x_BND = block(x_BND)[0]
        after.append(x_BND[:, :5])
    assert torch.equal(model(img_BIYX, layers=True).layers_QBCD, torch.stack(after[1:]))


def test_permuting_the_findings_permutes_tokens_logits_and_maps():
    model, order = tiny(), torch.tensor([3, 0, 4, 1, 2])
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["cls_token"] = state["cls_token"][:, order]
    state["pos_embed"][:, :5] = state["pos_embed"][:, order]
    last = ("head.weight", "head.scale", "head.bias", "segment_cam.bias", "segment_cam.classify.4.weight")
    for name in (*last, "segment_cam.heatmap.0.weight", "segment_cam.heatmap.0.bias"):
        state[name] = state[name][order]
    twin = tiny()
    twin.load_state_dict(state)
    a, b = model(images(), maps=True, layers=True), twin(images(), maps=True, layers=True)
    torch.testing.assert_close(b.tokens_BND[:, :5], a.tokens_BND[:, order])
    torch.testing.assert_close(b.tokens_BND[:, 5:], a.tokens_BND[:, 5:])
    torch.testing.assert_close(b.layers_QBCD, a.layers_QBCD[:, :, order])
    for name in ("logits_BC", "class_logits_BC", "foreground_logits_BC", "attention_BCyx", "heatmap_BCyx", "foreground_BCyx"):
        assert (getattr(a, name) - getattr(a, name)[:, order]).abs().max() > 1e-4, name  # the order matters
        torch.testing.assert_close(getattr(b, name), getattr(a, name)[:, order])


# Pooling


def test_attention_pooling_by_hand():
    pool = ClassPool(findings=2, width=3)
    with torch.no_grad():
        pool.weight.copy_(torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, -1.0]]).log1p().nan_to_num(neginf=-1e9))
        pool.scale.copy_(torch.tensor([2.0, 3.0]))
        pool.bias.copy_(torch.tensor([0.5, -1.0]))
    tokens_BCD = torch.tensor([[[3.0, 6.0, 0.0], [4.0, 8.0, 100.0]]])
    # Finding 0: the plain mean 3, times 2, plus 0.5. Finding 1: weights 3/4, 1/4, 0: 5, times 3, less 1.
    torch.testing.assert_close(pool(tokens_BCD), torch.tensor([[6.5, 14.0]]))


def test_attention_pooling_starts_as_the_mean_and_the_mean_stays_one():
    attention, mean = ClassPool(findings=3, width=8), ClassPool(findings=3, width=8, pool="mean")
    tokens_BCD = torch.randn(2, 3, 8)
    assert torch.equal(attention(tokens_BCD), mean(tokens_BCD))
    torch.testing.assert_close(mean(tokens_BCD), tokens_BCD.mean(-1) * 8**0.5)
    assert [name for name, _ in mean.named_parameters()] == ["scale", "bias"] and "weight" not in mean.state_dict()


def test_the_mean_reads_tokens_before_the_norm():
    model, img_BIYX = tiny(pool="mean", segment_cam=False), images()
    x_BND = model.embed(img_BIYX)
    for block in model.blocks:
        x_BND = block(x_BND)[0]
    by_hand = x_BND[:, :5].mean(dim=-1) * model.head.scale + model.head.bias
    torch.testing.assert_close(model(img_BIYX).logits_BC, by_hand)


# SegmentCAM


def test_score_is_the_mean_of_both_logits_and_of_class_tokens_alone_without_the_module():
    both, alone = tiny(), tiny(segment_cam=False)
    out = both(images())
    torch.testing.assert_close(out.logits_BC, (out.class_logits_BC + out.foreground_logits_BC) / 2)
    out = alone(images(), maps=True, positive_BC=torch.ones(2, 5, dtype=torch.bool))
    assert torch.equal(out.logits_BC, out.class_logits_BC)
    assert all(getattr(out, n) is None for n in ("heatmap_BCyx", "foreground_BCyx", "foreground_logits_BC", "background_logits_G"))


def test_segment_cam_equals_loops():
    cam = randomise(SegmentCAM(width=6, findings=3, threshold=0.5), std=0.3)
    map_BDyx = torch.randn(2, 6, 5, 4, generator=torch.Generator().manual_seed(2))
    positive_BC = torch.tensor([[False, True, True], [True, False, False]])
    out = cam(map_BDyx, positive_BC)
    heat, feature, classify, last = cam.heatmap[0], cam.feature, cam.classify, cam.classify[4]

    def convolve(x_Dyx, layer):
        weight, padding = layer.weight, layer.padding[0]
        padded = F.pad(x_Dyx, [padding] * 4)
        size = weight.shape[-1]
        result = torch.zeros(weight.shape[0], 5, 4)
        for o in range(weight.shape[0]):
            for row in range(5):
                for column in range(4):
                    result[o, row, column] = (weight[o] * padded[:, row : row + size, column : column + size]).sum()
        return result if layer.bias is None else result + layer.bias[:, None, None]

    def evidence(x_Dyx):
        for layer in (feature[0], feature[2], classify[0], classify[2]):
            x_Dyx = convolve(x_Dyx, layer).relu()
        return convolve(x_Dyx, last)

    background = []
    for b in range(2):
        heatmap, K = torch.sigmoid(convolve(map_BDyx[b], heat)), evidence(map_BDyx[b])
        for c in range(3):
            torch.testing.assert_close(out.heatmap_BCyx[b, c], heatmap[c])
            mask = torch.tensor([[1.0 if heatmap[c, y, x] >= 0.5 else 0.0 for x in range(4)] for y in range(5)])
            assert torch.equal(out.foreground_BCyx[b, c].detach(), mask) and 0 < mask.sum() < 20
            torch.testing.assert_close(out.foreground_logits_BC[b, c], (K[c] * mask).sum() / 20 + cam.bias[c])
            torch.testing.assert_close(out.full_logits_BC[b, c], K[c].sum() / 20 + cam.bias[c])
            if positive_BC[b, c]:
                background.append(evidence(map_BDyx[b] * (1 - mask))[c].sum() / 20 + cam.bias[c])
    torch.testing.assert_close(out.background_logits_G, torch.stack(background))


def test_straight_through_has_the_steps_value_and_the_identitys_slope():
    heatmap = torch.tensor([0.1, 0.5, 0.3, 0.9], requires_grad=True)
    mask = straight_through(heatmap, 0.5)
    assert mask.tolist() == [0.0, 1.0, 0.0, 1.0]  # reaching the threshold is enough; the values are exact
    (mask * torch.tensor([2.0, -3.0, 5.0, 7.0])).sum().backward()
    assert heatmap.grad.tolist() == [2.0, -3.0, 5.0, 7.0]


def test_the_background_trains_only_the_mask():
    model = tiny()
    model.train()
    model(images(), positive_BC=torch.ones(2, 5, dtype=torch.bool)).background_logits_G.sum().backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    # Patch tokens reach the mask through the heatmap alone, so the trunk is reached, through it.
    assert not any(name.startswith(("segment_cam.feature", "segment_cam.classify", "segment_cam.bias", "head.")) for name in reached)
    assert {"segment_cam.heatmap.0.weight", "segment_cam.heatmap.0.bias", "blocks.0.attn.qkv.weight"} <= reached

    map_BDyx = torch.randn(1, 24, 6, 4, requires_grad=True)
    mask_BCyx = torch.full((1, 5, 6, 4), 0.5, requires_grad=True)
    model.segment_cam.background(map_BDyx, mask_BCyx, torch.ones(1, 5, dtype=torch.bool)).sum().backward()
    assert map_BDyx.grad is None and mask_BCyx.grad.abs().sum() > 0


def test_frozen_layers_follow_their_weights_and_copy_nothing():
    layer = nn.Linear(2, 1, bias=False)
    x = torch.tensor([[1.0, 2.0]], requires_grad=True)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 4.0]]))
    frozen(layer, x).sum().backward()
    assert layer.weight.grad is None and x.grad.tolist() == [[3.0, 4.0]]
    with torch.no_grad():
        layer.weight.mul_(2)
    assert frozen(layer, x).item() == 22.0  # the weights of now, not a copy of then


def test_background_is_nothing_without_positives_and_ignores_the_other_findings():
    cam = randomise(SegmentCAM(width=6, findings=3), std=0.3)
    map_BDyx = torch.randn(2, 6, 5, 4)
    none = cam(map_BDyx, torch.zeros(2, 3, dtype=torch.bool)).background_logits_G
    assert none.shape == (0,) and none.sum() == 0
    every = cam(map_BDyx, torch.ones(2, 3, dtype=torch.bool)).background_logits_G.reshape(2, 3)
    some_BC = torch.tensor([[False, True, False], [True, False, True]])
    torch.testing.assert_close(cam(map_BDyx, some_BC).background_logits_G, every[some_BC])


def test_open_and_shut_masks():
    cam = randomise(SegmentCAM(width=6, findings=3), std=0.3)
    map_BDyx, every = torch.randn(2, 6, 5, 4), torch.ones(2, 3, dtype=torch.bool)
    with torch.no_grad():
        cam.heatmap[0].weight.zero_()
        cam.heatmap[0].bias.fill_(2.0)
    out = cam(map_BDyx, every)
    torch.testing.assert_close(out.foreground_logits_BC, out.full_logits_BC)
    empty = cam(torch.zeros_like(map_BDyx), None).full_logits_BC
    torch.testing.assert_close(out.background_logits_G.reshape(2, 3), empty)  # all is foreground: what a blank image says
    with torch.no_grad():
        cam.heatmap[0].bias.fill_(-2.0)
    out = cam(map_BDyx, every)
    torch.testing.assert_close(out.foreground_logits_BC, cam.bias.expand(2, 3))  # no foreground: the log-odds before looking
    torch.testing.assert_close(out.background_logits_G.reshape(2, 3), out.full_logits_BC)


def test_mean_over_the_foreground_does_not_grow_with_it():
    cam = randomise(SegmentCAM(width=6, findings=3, mean_over="foreground"), std=0.3)
    map_BDyx = torch.randn(2, 6, 5, 4, generator=torch.Generator().manual_seed(3))
    out, K = cam(map_BDyx), cam.classify(cam.feature(map_BDyx))
    inside = out.foreground_BCyx > 0.5
    for b in range(2):
        for c in range(3):
            torch.testing.assert_close(out.foreground_logits_BC[b, c], K[b, c][inside[b, c]].mean() + cam.bias[c])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pool, mask", [("attention", "straight"), ("mean", "soft")])
def test_every_variant_trains_every_parameter(layout, pool, mask):
    model = tiny(layout=layout, pool=pool, mask=mask)
    model.train()
    positive_BC = torch.zeros(2, 5, dtype=torch.bool)
    positive_BC[0, 3] = True
    out = model(images(), positive_BC=positive_BC)
    (out.logits_BC.square().sum() + out.background_logits_G.sum()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    assert not list(model.segment_cam.buffers())  # no running statistics that the background could leak into


def test_soft_mask_is_the_heatmap():
    out = tiny(mask="soft")(images())
    assert torch.equal(out.foreground_BCyx, out.heatmap_BCyx)


def test_maps():
    model, img_BIYX = tiny(), images()
    out, maps = model(img_BIYX, maps=True), model.maps(img_BIYX)
    assert torch.equal(maps.attention_BCyx, out.attention_BCyx) and torch.equal(maps.heatmap_BCyx, out.heatmap_BCyx)
    assert torch.equal(maps.foreground_BCyx, (out.heatmap_BCyx >= 0.5).float()) and maps.fused_BCyx.requires_grad is False
    assert torch.equal(maps.fused_BCyx, maps.attention_BCyx * maps.foreground_BCyx)
    assert 0 < maps.foreground_BCyx.mean() < 1
    large = model.maps(img_BIYX, size=(48, 32))
    by_hand = F.interpolate(out.heatmap_BCyx, (48, 32), mode="bilinear")
    assert torch.equal(large.foreground_BCyx, (by_hand >= 0.5).float())  # resized first, then cut
    assert large.fused_BCyx.shape == (2, 5, 48, 32)
    assert not torch.equal(large.foreground_BCyx, F.interpolate(maps.foreground_BCyx, (48, 32)))
    bare = tiny(segment_cam=False).maps(img_BIYX)
    assert torch.equal(bare.fused_BCyx, bare.attention_BCyx) and bare.heatmap_BCyx is None and bare.foreground_BCyx is None


def test_threshold_decides_the_mask_of_training_and_of_maps():
    low, high = tiny(threshold=0.3), tiny(threshold=0.7)
    assert low(images()).foreground_BCyx.mean() > high(images()).foreground_BCyx.mean()
    assert low.maps(images()).foreground_BCyx.mean() > high.maps(images()).foreground_BCyx.mean()


def test_first_prediction_is_the_prevalence():
    torch.manual_seed(0)
    model = Clarity(num_classes=5, **SIZES)
    logits_C = torch.tensor([-3.0, -1.0, -2.0, 0.5, -4.0])
    model.start_at(logits_C)
    torch.testing.assert_close(model(images()).logits_BC.detach(), logits_C.expand(2, 5), atol=1e-4, rtol=0)
    assert model(images()).foreground_BCyx.mean() > 0.9  # the mask starts open


# Weights


def test_all_class_tokens_start_as_the_donors_class_token():
    donor = randomise(VisionTransformer(num_classes=3, **SIZES))
    torch.manual_seed(0)
    model = Clarity(num_classes=5, token_noise=0.0, **SIZES)
    start = {name: model.state_dict()[name].clone() for name in model.own_parts()}
    load_encoder(model, donor.state_dict(), source="donor")
    for c in range(5):
        assert torch.equal(model.cls_token[0, c], donor.cls_token[0, 0])
        assert torch.equal(model.pos_embed[0, c], donor.pos_embed[0, 0])
    assert torch.equal(model.pos_embed[0, 5:], donor.pos_embed[0, 1:])
    assert torch.equal(model.blocks[2].mlp.fc1.weight, donor.blocks[2].mlp.fc1.weight)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in start.items())  # own parts as they were

    noisy = Clarity(num_classes=5, token_noise=0.5, **SIZES)
    load_encoder(noisy, donor.state_dict(), source="donor")
    apart = noisy.cls_token - donor.cls_token
    assert 0.3 < apart.std() < 0.7 and not torch.equal(apart[0, 0], apart[0, 1])
    assert torch.equal(noisy.pos_embed, model.pos_embed)


def test_a_run_is_resampled_to_another_size(tmp_path):
    from safetensors.torch import save_file
    from timm.layers import resample_abs_pos_embed

    small = tiny()
    save_file(small.state_dict(), tmp_path / "small.safetensors")
    large = Clarity(num_classes=5, **(SIZES | {"image_size": (48, 64)}))
    with pytest.raises(CxrError, match="class tokens"):
        load_safetensors(Clarity(num_classes=4, **SIZES), tmp_path / "small.safetensors")
    square = randomise(Clarity(num_classes=5, **(SIZES | {"image_size": 32})))
    save_file(square.state_dict(), tmp_path / "square.safetensors")
    load_safetensors(large, tmp_path / "square.safetensors")
    assert torch.equal(large.pos_embed[:, :5], square.pos_embed[:, :5])
    expected = resample_abs_pos_embed(square.pos_embed[:, 5:], new_size=[6, 8], num_prefix_tokens=0)
    torch.testing.assert_close(large.pos_embed[:, 5:], expected)
    assert torch.equal(large.segment_cam.bias, square.segment_cam.bias)
    load_safetensors(tiny(), tmp_path / "small.safetensors")


def test_a_file_without_some_of_the_own_parts_is_refused(tmp_path):
    from safetensors.torch import save_file

    state = tiny().state_dict()
    del state["segment_cam.bias"]
    save_file(state, tmp_path / "cut.safetensors")
    with pytest.raises(CxrError, match="segment_cam.bias is missing"):
        load_safetensors(tiny(), tmp_path / "cut.safetensors")


def test_timms_weights_load_by_name(tmp_path, monkeypatch):
    """timm reads a file of the real name and shape that this test writes, in place of the hub's."""
    from safetensors.torch import save_file

    donor = randomise(timm.create_model("vit_small_patch16_224", num_classes=0))
    save_file(donor.state_dict(), tmp_path / "model.safetensors")
    create = timm.create_model
    overlay = {"file": str(tmp_path / "model.safetensors"), "num_classes": 0}
    monkeypatch.setattr(timm, "create_model", lambda name, **k: create(name, pretrained_cfg_overlay=overlay, **k))
    model = Clarity(image_size=64, token_noise=0.0)
    load_timm(model, "vit_small_patch16_224.dino")
    assert torch.equal(model.cls_token, donor.cls_token.expand(1, 14, 384))
    assert torch.equal(model.blocks[7].mlp.fc1.weight, donor.blocks[7].mlp.fc1.weight)


def test_registered_with_timm_and_buildable_by_recipes():
    assert {"clarity_mu", "clarity_tiny_patch16_224", "clarity_small_patch16_224", "clarity_small_patch16_512"} <= set(
        timm.list_models("clarity*")
    )
    with torch.device("meta"):
        model = timm.create_model("clarity_small_patch16_512", num_classes=14, drop_path_rate=0.1)
    assert model.grid == (32, 32) and model.attention_layers == 8 and model.token_layers == 8
    assert timm.create_model("clarity_mu", num_classes=3, threshold=0.4)(images()).logits_BC.shape == (2, 3)
    built = build_model("clarity", {"pool": "mean", "segment_cam": False}, num_classes=3, **SIZES)
    assert built.pool == "mean" and built.segment_cam is None
    with pytest.raises(CxrError, match="no option"):
        build_model("clarity", {"poool": "mean"}, num_classes=3, **SIZES)


def test_layer_decay_covers_every_parameter():
    from timm.optim import param_groups_layer_decay

    model = tiny()
    groups = param_groups_layer_decay(model, weight_decay=0.1, layer_decay=0.5, no_weight_decay_list=model.no_weight_decay())
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    assert len(scale) == len(list(model.parameters()))
    assert scale[id(model.cls_token)] < scale[id(model.blocks[3].mlp.fc1.weight)]
    assert scale[id(model.segment_cam.bias)] == scale[id(model.head.weight)] == 1


@pytest.mark.parametrize(
    "options, says",
    [
        ({"attention_layers": 5}, "choose from 1 to 4"),
        ({"token_layers": 0}, "choose from 1 to 4"),
        ({"pool": "max"}, "choose one of attention, mean"),
        ({"layout": "unet"}, "choose one of bas"),
        ({"mask": "hard"}, "choose one of straight, soft"),
        ({"threshold": 1.0}, "not between 0 and 1"),
        ({"mean_over": "box"}, "choose one of image, foreground"),
    ],
)
def test_bad_options_get_one_clear_line(options, says):
    with pytest.raises(CxrError, match=says) as caught:
        tiny(**options)
    assert "\n" not in str(caught.value)


def test_stacked_explicit_attention_gives_the_same_scores_and_maps():
    """The rival of the bench: it costs more and says the same."""
    from cxrlib.bench_clarity import stacked
    from cxrlib.stopwatch import peak_bytes

    model, img_BIYX = tiny(), images()
    out, (logits_BC, attention_BCyx) = model(img_BIYX, maps=True), stacked(model, img_BIYX)
    torch.testing.assert_close(logits_BC, out.logits_BC)
    torch.testing.assert_close(attention_BCyx, out.attention_BCyx, atol=1e-6, rtol=1e-5)
    with torch.inference_mode():
        large = Clarity(num_classes=5, **(SIZES | {"image_size": 160, "depth": 8})).eval()
        img_BIYX = torch.randn(1, 1, 160, 160)
        ours, theirs = peak_bytes(lambda: large(img_BIYX, maps=True)), peak_bytes(lambda: stacked(large, img_BIYX))
        assert ours < theirs / 6  # eight layers of whole maps against one layer's rows
