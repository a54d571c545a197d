"""Maps that look into a model, each against loops or against what it must be by its definition, on tiny models."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cxrlib.errors import CxrError
from cxrlib.localization import attribution, maps
from cxrlib.localization.explicit import explicit_forward
from cxrlib.localization.maps import MAP_METHODS, map_method, random_maps
from cxrlib.models import MODELS, Clarity, LabelTokenViT, VisionTransformer

SIZES = {"image_size": (24, 16), "patch_size": 8, "in_channels": 1, "num_classes": 3, "width": 12, "depth": 3, "heads": 2}


def build(name: str, **options) -> nn.Module:
    torch.manual_seed(3)
    model = MODELS[name](**SIZES, **options).eval()
    for parameter in model.parameters():  # nothing may be zero: an untrained head would give maps of zeros
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.3)
    return model


def images(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 1, 24, 16, generator=torch.Generator().manual_seed(0))


class TinyCNN(nn.Module):
    """Two convolutions, global average pooling and a linear head."""

    def __init__(self, pooled: bool = True):
        super().__init__()
        torch.manual_seed(1)
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, stride=4), nn.ReLU(), nn.Conv2d(4, 5, 3, padding=1))
        self.pooled, self.head = pooled, nn.Linear(5, 3)

    def forward(self, img_BIYX):
        map_BDyx = self.features(img_BIYX)
        return self.head(map_BDyx.mean(dim=(2, 3)) if self.pooled else map_BDyx.amax(dim=(2, 3)))


KINDS = [("vit", {}), ("clarity", {}), ("clarity", {"pool": "mean"}), ("lt_vit", {"n2": 2}), ("lt_vit", {"n2": 1, "flow": "joint"}),
         ("lt_vit", {"n1": 0, "n2": 2, "label_attention": "self"}), ("lt_vit", {"n2": 2, "label_attention": "none", "norm_twice": False})]  # fmt: skip


@pytest.mark.parametrize("name, options", KINDS)
def test_the_written_out_forward_gives_the_models_logits(name, options):
    model, img = build(name, **options), images()
    out, explicit = model(img), explicit_forward(model, img)
    expected = out.class_logits_BC if name == "clarity" else out.logits_BC
    torch.testing.assert_close(explicit.logits_BC, expected, rtol=1e-4, atol=1e-5)
    for attention in explicit.attention:
        torch.testing.assert_close(attention.sum(dim=-1), torch.ones(attention.shape[:-1]))


def test_the_written_out_attention_is_the_models_own():
    model, img = build("vit"), images()
    own = model(img, rows=7).attention_LBHRN
    torch.testing.assert_close(torch.stack(explicit_forward(model, img).attention), own, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", MAP_METHODS)
@pytest.mark.parametrize("name", [name for name in MODELS if name != "timm"])  # timm's have a test of their own
def test_every_method_that_fits_gives_one_finite_map_per_finding(name, method):
    model = build(name)
    if not attribution.fits(method, model):
        with pytest.raises(CxrError, match=f"{method} does not fit a {type(model).__name__}"):
            map_method(method).make(model, images(), findings=3)
        return
    map_BCyx = map_method(method).make(model, images(6), findings=3, names=list("abcdef"))
    grid = (12, 8) if method == "fused" else (3, 2)  # the fused map is cut on cells of a quarter of a patch's side
    assert map_BCyx.shape == (6, 3, *grid) and torch.isfinite(map_BCyx).all()
    assert not map_BCyx.requires_grad
    # Grad-CAM++ may cut everything off at 0, which random weights sometimes bring about; so may a foreground mask.
    if MAP_METHODS[method].needs_model and method not in ("fused", "heatmap", "grad_cam_pp"):
        assert map_BCyx.flatten(2).std(dim=-1).max() > 0


def test_maps_of_a_batch_are_the_maps_of_its_images():
    for name, method in (("vit", "grad_cam"), ("lt_vit", "gradient_attention"), ("clarity", "rollout"), ("vit", "cam")):
        model, img = build(name), images(3)
        make = map_method(method).make
        one_by_one = torch.cat([make(model, one[None], findings=3) for one in img])
        torch.testing.assert_close(make(model, img, findings=3), one_by_one, rtol=1e-4, atol=1e-6)


def test_class_attention_of_a_vit_by_a_loop():
    model, img = build("vit"), images()
    attention = model(img, rows=1).attention_LBHRN
    expected = torch.zeros(2, 6)
    for layer in (1, 2):  # two thirds of three layers
        for head in range(2):
            expected += attention[layer, :, head, 0, 1:] / 4
    ours = attribution.class_attention(model, img, findings=3)
    torch.testing.assert_close(ours[:, 1].flatten(1), expected)
    assert (ours[:, 0] == ours[:, 2]).all()


@pytest.mark.parametrize("name, options", KINDS[:2])
def test_rollout_by_a_loop(name, options):
    model, img = build(name, **options), images()
    out = explicit_forward(model, img)
    for b in range(2):
        flow = np.eye(out.attention[0].shape[-1])
        for attention in out.attention:
            layer = attention[b].mean(dim=0).detach().numpy() + np.eye(len(flow))
            flow = (layer / layer.sum(axis=1, keepdims=True)) @ flow
        for c in range(3):
            row = flow[c, 3:] if name == "clarity" else flow[0, 1:]
            ours = attribution.rollout(model, img, findings=3)[b, c].flatten()
            np.testing.assert_allclose(ours, row, rtol=1e-4, atol=1e-6)


def test_rollout_of_lt_vit_adds_what_the_image_tokens_had_read_before():
    """With label rows that read the image uniformly in the one label layer, the map is the mean of the image's own rollout."""
    model, img = build("lt_vit", n2=1, label_attention="none"), images()
    with torch.no_grad():
        block = model.blocks[2]
        block.attn.qkv.weight[:12] = 0  # queries
        block.attn.qkv.bias[:12] = 0
    out = explicit_forward(model, img)
    flow = torch.eye(7).expand(2, 7, 7)
    for attention in out.attention[:2]:
        layer = attention.mean(dim=1) + torch.eye(7)
        flow = layer / layer.sum(dim=-1, keepdim=True) @ flow
    expected = flow.mean(dim=1)[:, 1:] / 2  # half of the row is the residual path of the label itself
    torch.testing.assert_close(attribution.rollout(model, img, findings=3)[:, 0].flatten(1), expected, rtol=1e-4, atol=1e-6)


def nudged_logits(model, img, layer: int, where: tuple, step: float) -> torch.Tensor:
    """Class 1's logit if one entry of one layer's attention is changed: attention done by hand, no autograd."""
    from cxrlib.models.lt_vit import merge_heads, split_heads

    x = model.embed(img)
    for index, block in enumerate(model.blocks):
        q, k, v = split_heads(block.attn, block.norm1(x))
        attention = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)
        if index == layer:
            attention = attention.clone()
            attention[where] += step
        x = x + merge_heads(block.attn, attention @ v)
        x = x + block.mlp(block.norm2(x))
    return model.head(model.norm(x)[:, 0])[0, 1]


@torch.no_grad()
def test_gradient_attention_by_finite_differences():
    """Two layers, one image: every gradient by nudging the attention, then Chefer's recursion in loops."""
    torch.manual_seed(0)
    model = VisionTransformer(**SIZES | {"depth": 2}).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    img = images(1).double()
    attention = [layer[0] for layer in explicit_forward(model, img).attention]
    relevance = np.eye(7)
    for layer in range(2):
        weighted = np.zeros((7, 7))
        for h in range(2):
            for i in range(7):
                for j in range(7):
                    up, down = (nudged_logits(model, img, layer, (0, h, i, j), step) for step in (1e-5, -1e-5))
                    weighted[i, j] += max(0.0, float(attention[layer][h, i, j] * (up - down) / 2e-5)) / 2
        relevance = relevance + weighted @ relevance
    ours = attribution.gradient_attention(model, img, findings=3)[0, 1].flatten()
    np.testing.assert_allclose(ours, relevance[0, 1:], rtol=1e-5, atol=1e-9)


def test_cam_of_a_cnn_averages_to_the_logit():
    model, img = TinyCNN().eval(), images()
    map_BCyx = attribution.cam(model, img, findings=3)
    torch.testing.assert_close(map_BCyx.mean(dim=(2, 3)) + model.head.bias, model(img))
    value = sum(model.head.weight[2, d] * model.features(img)[1, d, 3, 0] for d in range(5))
    torch.testing.assert_close(map_BCyx[1, 2, 3, 0], value)
    with pytest.raises(CxrError, match="no CAM: use grad_cam"):
        attribution.cam(TinyCNN(pooled=False).eval(), img, findings=3)


def test_cam_of_a_vit_lends_the_heads_to_the_patches():
    img = images()
    model = build("vit")
    expected = model.head(model(img).tokens_BND[:, 1:]) - model.head.bias
    torch.testing.assert_close(attribution.cam(model, img, findings=3).flatten(2).transpose(1, 2), expected)
    model = build("clarity")
    patch = model(img).tokens_BND[:, 3:][:, 4]
    own = torch.stack([model.head(patch[:, None].expand(-1, 3, -1))[:, c] - model.head.bias[c] for c in range(3)], dim=1)
    torch.testing.assert_close(attribution.cam(model, img, findings=3)[:, :, 2, 0], own)
    model = build("lt_vit")
    patch = model.norm(model(img).tokens_BND[:, 1:])[:, 5]
    expected = model.head(patch[:, None].expand(-1, 3, -1)) - model.head.bias
    torch.testing.assert_close(attribution.cam(model, img, findings=3)[:, :, 2, 1], expected)


def test_grad_cam_of_a_pooled_cnn_is_cam_without_its_negative_values():
    """The gradient of the logit is weight / cells everywhere, so Grad-CAM is CAM / cells, cut at 0 (Selvaraju et al., appendix A)."""
    model, img = TinyCNN().eval(), images()
    cam = attribution.cam(model, img, findings=3)
    torch.testing.assert_close(attribution.grad_cam(model, img, findings=3), (cam / cam[0, 0].numel()).clamp(min=0), rtol=1e-4, atol=1e-6)


def test_grad_cam_pp_by_loops():
    model, img = TinyCNN(pooled=False).eval(), images(1)
    features = model.features(img).detach().requires_grad_()
    for c in range(3):
        (gradient,) = torch.autograd.grad(model.head(features.amax(dim=(2, 3)))[0, c], features)
        expected = np.zeros(features.shape[2:])
        for d in range(5):
            a, g = features[0, d].detach().numpy(), gradient[0, d].numpy()
            weight = 0.0
            for y in range(a.shape[0]):
                for x in range(a.shape[1]):
                    below = 2 * g[y, x] ** 2 + a.sum() * g[y, x] ** 3
                    weight += (g[y, x] ** 2 / below if below else 0) * max(g[y, x], 0)
            expected += weight * a
        ours = attribution.grad_cam_pp(model, img, findings=3)[0, c]
        np.testing.assert_allclose(ours, np.maximum(expected, 0), rtol=1e-4, atol=1e-5)


def test_grad_cam_of_a_vit_by_finite_differences():
    """Each channel's weight is how the logit moves if that channel moves alike in all patches, over their number."""
    model, img = build("vit").double(), images(1).double()
    norm1 = model.blocks[-1].norm1
    ours = attribution.grad_cam(model, img, findings=3)[0, 2].flatten()
    features = norm1(model.blocks[1](model.blocks[0](model.embed(img))[0])[0])[0, 1:].detach()

    def logit(d: int, step: float) -> float:
        def nudge(_module, _inputs, output):
            output = output.clone()
            output[:, 1:, d] += step
            return output

        handle = norm1.register_forward_hook(nudge)
        with torch.no_grad():
            value = float(model(img).logits_BC[0, 2])
        handle.remove()
        return value

    weights = np.array([(logit(d, 1e-5) - logit(d, -1e-5)) / 2e-5 / 6 for d in range(12)])
    np.testing.assert_allclose(ours, np.maximum(features.numpy() @ weights, 0), rtol=1e-5, atol=1e-8)
    assert ours.max() > 0


def test_grad_cam_of_lt_vit_reads_the_layer_that_its_labels_read_last():
    model = build("lt_vit", n1=1, n2=1)
    assert attribution._feature_module(model) is model.blocks[1].norm1
    kept, _ = attribution._record(model, images(), model.blocks[1].norm1)
    assert kept.shape == (2, 7, 12)  # the image's tokens, not the labels'


def test_grad_cam_reads_timms_cnns():
    import timm

    model = timm.create_model("resnet10t", num_classes=3, in_chans=1).eval()
    img = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    cam = attribution.cam(model, img, findings=3)
    assert cam.shape == (1, 3, 2, 2)
    torch.testing.assert_close(attribution.grad_cam(model, img, findings=3), (cam / 4).clamp(min=0), rtol=1e-3, atol=1e-5)
    teacher = MODELS["timm"](name="resnet10t", num_classes=3, in_channels=1).eval()
    teacher.net = model
    torch.testing.assert_close(map_method("grad_cam").make(teacher, img, findings=3), attribution.grad_cam(model, img, findings=3))
    assert not attribution.fits("cam", teacher) and not attribution.fits("rollout", teacher)
    with pytest.raises(CxrError, match="are no map"):
        attribution._as_image(torch.zeros(1, 5, 4), teacher)
    with pytest.raises(CxrError, match="has its last features is not known"):
        attribution.grad_cam(nn.Sequential(nn.Flatten(), nn.Linear(64 * 64, 3)), img, findings=3)


def test_frozen_weights_still_have_gradient_maps():
    model = build("vit").requires_grad_(False)
    assert attribution.grad_cam(model, images(), findings=3).max() > 0
    assert attribution.gradient_attention(model, images(), findings=3).max() > 0


@pytest.mark.parametrize("method", [name for name in MAP_METHODS if MAP_METHODS[name].by_gradient])
@pytest.mark.parametrize("name", ["vit", "clarity", "lt_vit"])
def test_only_the_wanted_maps_are_made_and_they_are_the_same(name, method):
    model, img = build(name), images(3)
    wanted_BC = torch.tensor([[True, False, True], [False, False, False], [False, True, False]])
    make = map_method(method).make
    all_BCyx = make(model, img, findings=3)
    some_BCyx = make(model, img, findings=3, wanted_BC=wanted_BC)
    torch.testing.assert_close(some_BCyx[wanted_BC], all_BCyx[wanted_BC])
    assert some_BCyx[~wanted_BC].isnan().all() and not all_BCyx.isnan().any()


def test_clarity_and_label_maps_are_the_models_own():
    model, img = build("clarity"), images()
    own = model.maps(img)
    attention, heat = (F.interpolate(one, (12, 8), mode="bilinear") for one in (own.attention_BCyx, own.heatmap_BCyx))
    model.segment_cam.threshold = float(heat.median())  # some of each finding's heatmap is cut off, after it was resized
    fused = attention * (heat >= model.segment_cam.threshold)
    assert 0 < (fused > 0).float().mean() < 1 and torch.equal(attribution.fused(model, img, findings=3), fused)
    assert torch.equal(attribution.heatmap(model, img, findings=3), own.heatmap_BCyx)
    assert torch.equal(attribution.class_attention(model, img, findings=3), own.attention_BCyx)
    label_model = build("lt_vit")
    assert torch.equal(attribution.label_attention(label_model, img, findings=3), label_model.maps(img))
    assert not attribution.fits("fused", Clarity(**SIZES, segment_cam=False)) and not attribution.fits("rollout", LabelTokenViT)


# --- maps without a model ---


def test_centre_peaks_in_the_middle():
    map_yx = maps.centre(None, images(1), findings=2)[0, 1]
    assert map_yx.shape == (14, 14) and map_yx.argmax() in (90, 91, 104, 105)
    torch.testing.assert_close(map_yx, map_yx.flip(0).flip(1))


def test_random_maps_hang_on_the_name_alone():
    one = maps.random(None, images(), findings=2, names=["a", "b"])
    other = maps.random(None, images(), findings=2, names=["b", "a"])
    assert torch.equal(one[0], other[1]) and not torch.equal(one[0], one[1]) and not torch.equal(one[0, 0], one[0, 1])
    import pandas as pd

    [item] = random_maps(pd.DataFrame({"image": ["a"], "finding": ["Mass"]}))
    assert item.map_Cyx.shape == (1, 14, 14) and len(np.unique(item.map_Cyx)) > 190


def test_edges_are_where_grey_values_change():
    img = torch.zeros(1, 1, 56, 56)
    img[:, :, :, 28:] = 1
    map_yx = maps.edges(None, img, findings=1)[0, 0]
    assert set(map_yx.argmax(dim=1).tolist()) <= {6, 7} and map_yx[:, :5].max() == 0 and map_yx[3, 6] == pytest.approx(4 / 4)
    rotated = maps.edges(None, img.transpose(2, 3), findings=1)[0, 0]
    torch.testing.assert_close(rotated, map_yx.T)


def test_lungs_are_left_and_right_of_the_middle():
    map_yx = maps.lungs(None, torch.zeros(1, 1, 96, 96), findings=1)[0, 0]
    assert map_yx[6, 3] == 1 and map_yx[6, 10] == 1 and map_yx[6, 6:8].max() < 1 and map_yx[0].max() < 0.5 and map_yx[13].max() < 0.5


def test_an_unknown_method_is_named():
    with pytest.raises(CxrError, match="no map method 'gradcam': choose one of centre"):
        map_method("gradcam")
