"""C-Tran and Query2Label: equal to loops written from their equations, and each as open or closed as its paper says."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from tiny_store import tiny_store
from torch import Tensor, nn

import cxrlib  # noqa: F401  (before timm: see cxrlib._compat)
from cxrlib import cli, recipes
from cxrlib.errors import CxrError
from cxrlib.losses import asymmetric_loss, masked_bce
from cxrlib.models import CTran, Query2Label, VisionTransformer, build_model
from cxrlib.models.c_tran import c_tran_loss, reveal, states
from cxrlib.models.cost import parameters
from cxrlib.models.query2label import query2label_loss
from cxrlib.training import loop, train
from cxrlib.training.checkpoint import read_tensors
from cxrlib.training.objectives import OBJECTIVES, Part

SIZES = {"image_size": (24, 16), "patch_size": 8, "in_channels": 1, "width": 12, "depth": 2, "heads": 3}
NAN = float("nan")


def randomise(model: nn.Module, seed: int = 0, scale: float = 0.3) -> nn.Module:
    """Gives every parameter, zero-started ones too, a random value: nothing can agree by being zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model.eval()


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 1, 24, 16, generator=torch.Generator().manual_seed(7))


def both(**options) -> list[nn.Module]:
    return [randomise(kind(num_classes=5, **options, **SIZES)) for kind in (CTran, Query2Label)]


# The pieces of a post-norm transformer, one token at a time.


def normed_by_hand(norm: nn.LayerNorm, x_D: Tensor) -> Tensor:
    mean = sum(x_D) / len(x_D)
    variance = sum((x - mean) ** 2 for x in x_D) / len(x_D)
    return torch.stack([(x - mean) / (variance + norm.eps) ** 0.5 for x in x_D]) * norm.weight + norm.bias


def read_by_hand(attn: nn.MultiheadAttention, asking_D: Tensor, keys: list[Tensor], values: list[Tensor]):
    """One query's softmax(q k^T / sqrt(d)) v, and its weights per head."""
    D, H = attn.embed_dim, attn.num_heads
    d = D // H
    (wq, wk, wv), (bq, bk, bv) = attn.in_proj_weight.split(D), attn.in_proj_bias.split(D)
    out, maps = torch.zeros(D), []
    for h in range(H):
        part = slice(h * d, (h + 1) * d)
        q = wq[part] @ asking_D + bq[part]
        weights = [math.exp(float(q @ (wk[part] @ key + bk[part])) / math.sqrt(d)) for key in keys]
        maps.append([weight / sum(weights) for weight in weights])
        for weight, value in zip(maps[h], values):
            out[part] += weight * (wv[part] @ value + bv[part])
    return attn.out_proj.weight @ out + attn.out_proj.bias, maps


def encoder_layer_by_hand(layer: nn.TransformerEncoderLayer, tokens: list[Tensor]) -> tuple[list[Tensor], list]:
    """x <- LN(x + Att(x)); x <- LN(x + W2 ReLU(W1 x)), and everybody's weights."""
    after, maps = [], []
    for token in tokens:
        read, weights = read_by_hand(layer.self_attn, token, tokens, tokens)
        x = normed_by_hand(layer.norm1, token + read)
        thought = layer.linear2.weight @ (layer.linear1.weight @ x + layer.linear1.bias).clamp(min=0) + layer.linear2.bias
        after.append(normed_by_hand(layer.norm2, x + thought))
        maps.append(weights)
    return after, maps


@torch.no_grad()
def test_c_tran_equals_its_equations_in_loops():
    model = randomise(CTran(num_classes=3, label_layers=2, label_heads=4, ff_ratio=1.5, **SIZES))
    known_C = torch.tensor([1.0, NAN, 0.0])
    out = model(images(1), known_C[None], maps=True)

    tokens = list(out.tokens_BND[0, 1:])  # the class token stays behind
    for c, row in enumerate((2, 0, 1)):  # present, unknown, absent
        tokens.append(model.label_embed.weight[c] + model.state_embed.weight[row])
    tokens = [normed_by_hand(model.label_norm, token) for token in tokens]
    for layer in model.label_layers:
        tokens, maps = encoder_layer_by_hand(layer, tokens)
    for c in range(3):
        torch.testing.assert_close(out.labels_BCD[0, c], tokens[6 + c], atol=1e-5, rtol=1e-5)
        logit = float(model.head.weight[c] @ tokens[6 + c] + model.head.bias[c])
        assert float(out.logits_BC[0, c]) == pytest.approx(logit, abs=1e-5)
        for h in range(4):
            torch.testing.assert_close(out.attention_BHCM[0, h, c], torch.tensor(maps[6 + c][h]), atol=1e-6, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("talks", [False, True])
def test_query2label_equals_its_equations_in_loops(talks):
    model = randomise(Query2Label(num_classes=3, label_heads=2, ff_ratio=1.5, label_self_attention=talks, **SIZES))
    out = model(images(1), maps=True)

    patches = [model.label_proj.weight @ token + model.label_proj.bias for token in out.tokens_BND[0, 1:]]
    for layer in model.label_encoder:
        patches, _ = encoder_layer_by_hand(layer, patches)
    queries = model.label_queries[0]
    labels = [torch.zeros(12) for _ in range(3)]
    for layer in model.label_decoder:
        if talks:
            asking = [label + query for label, query in zip(labels, queries)]
            heard = [read_by_hand(layer.self_attn, asks, asking, labels)[0] for asks in asking]
            labels = [normed_by_hand(layer.norm1, label + told) for label, told in zip(labels, heard)]
        read = [read_by_hand(layer.cross_attn, label + query, patches, patches) for label, query in zip(labels, queries)]
        labels = [normed_by_hand(layer.norm2, label + seen) for label, (seen, _) in zip(labels, read)]
        thoughts = [
            layer.linear2.weight @ (layer.linear1.weight @ label + layer.linear1.bias).clamp(min=0) + layer.linear2.bias
            for label in labels
        ]
        labels = [normed_by_hand(layer.norm3, label + thought) for label, thought in zip(labels, thoughts)]
    for c in range(3):
        finished = normed_by_hand(model.label_norm, labels[c])
        torch.testing.assert_close(out.labels_BCD[0, c], finished, atol=1e-5, rtol=1e-5)
        logit = float(model.head.weight[c] @ finished + model.head.bias[c])
        assert float(out.logits_BC[0, c]) == pytest.approx(logit, abs=1e-5)
        for h in range(2):
            torch.testing.assert_close(out.attention_BHCP[0, h, c], torch.tensor(read[c][1][h]), atol=1e-6, rtol=1e-5)


def test_parameters_are_as_many_as_the_papers_layers_have():
    def added(kind, **options):
        with torch.device("meta"):
            return parameters(kind(**options)) - parameters(VisionTransformer(num_classes=0))

    D, C = 384, 14
    attention, heads_and_labels = 4 * D * D + 4 * D, C * (D + 1) + C * D
    mlp = {hidden: 2 * D * hidden + hidden + D for hidden in (384, 1536, 8192)}
    assert added(CTran) == 3 * (attention + mlp[384] + 4 * D) + heads_and_labels + 3 * D + 2 * D
    assert round(added(CTran) / 1e6, 2) == 2.68
    for hidden, millions in ((1536, 5.48), (8192, 20.84)):
        counted = added(Query2Label, ff_ratio=hidden / D)
        assert counted == 3 * (attention + mlp[hidden] + 4 * D) + D * D + D + heads_and_labels + 2 * D
        assert round(counted / 1e6, 2) == millions


@torch.no_grad()
def test_the_image_stream_is_the_plain_vits_bit_for_bit():
    for model in both():
        plain = VisionTransformer(num_classes=0, **SIZES).eval()
        state = {name: value for name, value in model.state_dict().items() if name not in model.own_parts()}
        plain.load_state_dict(state, strict=True)
        assert torch.equal(model(images()).tokens_BND, plain(images()).tokens_BND)


@torch.no_grad()
def test_permuting_labels_permutes_logits_and_maps():
    order = torch.tensor([3, 0, 4, 1, 2])
    for model in both():
        before, maps_before = model(images()), model.maps(images())
        labels = (model.label_embed.weight, 0) if isinstance(model, CTran) else (model.label_queries, 1)
        for parameter, axis in (labels, (model.head.weight, 0), (model.head.bias, 0)):
            parameter.copy_(parameter.index_select(axis, order))
        torch.testing.assert_close(model(images()).logits_BC, before.logits_BC[:, order], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model.maps(images()), maps_before[:, order], atol=1e-6, rtol=1e-5)
        assert (before.logits_BC[:, order] - before.logits_BC).abs().max() > 1e-2


def test_image_tokens_feel_the_labels_in_c_tran_and_not_in_query2label():
    caught = {}
    for model, layer in zip(both(), ("label_layers", "label_encoder")):
        getattr(model, layer)[0].register_forward_hook(lambda _, __, out: caught.update(tokens=out))
        model(images())
        labels = model.label_embed.weight if isinstance(model, CTran) else model.label_queries
        patches = caught["tokens"][:, :6].square()[..., 0].sum()  # one feature: a whole normed token has a constant norm
        (gradient,) = torch.autograd.grad(patches, labels, allow_unused=True)
        if isinstance(model, CTran):
            assert gradient.abs().max() > 1e-5
        else:
            assert gradient is None


@torch.no_grad()
def test_labels_talk_in_c_tran_and_in_query2label_only_if_they_may():
    def others_feel(model: nn.Module, labels_CD: Tensor) -> Tensor:
        before = model(images()).logits_BC
        labels_CD[2] += torch.linspace(-1, 1, 12)  # no constant: a LayerNorm would not notice it
        return (model(images()).logits_BC - before).abs().amax(dim=0)

    c_tran, closed = both()
    assert (others_feel(c_tran, c_tran.label_embed.weight) > 1e-6).all()
    change_C = others_feel(closed, closed.label_queries[0])
    assert change_C[2] > 1e-5 and change_C[[0, 1, 3, 4]].max() == 0
    talking = randomise(Query2Label(num_classes=5, label_self_attention=True, **SIZES))
    assert (others_feel(talking, talking.label_queries[0]) > 1e-6).all()


@torch.no_grad()
def test_telling_c_tran_one_finding_changes_the_others():
    model = both()[0]
    assert torch.equal(CTran(num_classes=5, **SIZES).state_embed.weight[0], torch.zeros(12))  # unknown: nothing is added
    model.state_embed.weight[0] = 0
    nothing, unknown = model(images()), model(images(), torch.full((2, 5), NAN))
    assert torch.equal(nothing.logits_BC, unknown.logits_BC)
    told = torch.full((2, 5), NAN)
    told[0, 1] = 1.0
    change_BC = (model(images(), told).logits_BC - nothing.logits_BC).abs()
    assert (change_BC[0] > 1e-6).all() and change_BC[1].max() == 0
    assert (model(images(), 1 - told).logits_BC - model(images(), told).logits_BC)[0].abs().min() > 1e-6


def test_states_are_unknown_absent_present():
    assert states(torch.tensor([[NAN, 0.0, 1.0, 0.4, 0.5]])).tolist() == [[0, 1, 2, 1, 2]]


@torch.no_grad()
def test_maps_leave_the_labels_out_and_change_no_score():
    c_tran, q2l = both()
    for model in (c_tran, q2l):
        assert torch.equal(model(images()).logits_BC, model(images(), maps=True).logits_BC)
        attention = model(images(), maps=True)[-1]
        assert model(images())[-1] is None and attention.shape == (2, 4, 5, 11 if model is c_tran else 6)
        torch.testing.assert_close(attention.sum(-1), torch.ones(2, 4, 5))
        map_BCyx = model.maps(images())
        assert map_BCyx.shape == (2, 5, 3, 2)
        for row in range(3):
            for column in range(2):
                weights = [float(attention[1, h, 4, 2 * row + column]) for h in range(4)]
                assert float(map_BCyx[1, 4, row, column]) == pytest.approx(sum(weights) / 4, abs=1e-6)


def test_between_none_and_three_quarters_of_the_known_labels_are_told():
    torch.manual_seed(0)
    labels_BC = (torch.rand(4000, 9) > 0.6).float()
    labels_BC[:, 3] = NAN  # eight are left: 0 to 6 of them are told
    known_BC = reveal(labels_BC)
    told_BC = ~known_BC.isnan()
    assert not told_BC[:, 3].any() and torch.equal(known_BC[told_BC], labels_BC[told_BC])
    number, times = told_BC.sum(dim=1).unique(return_counts=True)
    assert number.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert (times / 4000 - 1 / 7).abs().max() < 0.03  # five standard errors
    share_C = told_BC.float().mean(dim=0)[[0, 1, 2, 4, 5, 6, 7, 8]]
    assert (share_C - 3 / 8).abs().max() < 0.04
    assert reveal(torch.tensor([[NAN, NAN], [1.0, NAN]])).isnan().all()  # three quarters of one label: none


def test_the_draw_follows_torchs_seed_alone():
    labels_BC = torch.ones(6, 9)
    draws = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        draws.append(reveal(labels_BC).isnan())
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_c_tran_is_scored_on_the_labels_it_was_not_told():
    model = randomise(CTran(num_classes=5, **SIZES))
    labels_BC = torch.tensor([[1.0, 0.0, NAN, 1.0, 0.0], [0.0, 0.0, 1.0, 0.0, 1.0]])
    torch.manual_seed(0)
    known_BC = reveal(labels_BC)
    assert 0 < (~known_BC.isnan()).sum() < 9
    with torch.no_grad():
        logits_BC = model(images(), known_BC).logits_BC
    total = asked = 0
    for b in range(2):
        for c in range(5):
            if not math.isnan(labels_BC[b, c]) and math.isnan(known_BC[b, c]):
                p = 1 / (1 + math.exp(-logits_BC[b, c]))
                total -= math.log(p if labels_BC[b, c] else 1 - p)
                asked += 1
    for count, divisor in ((None, asked), (9, 9)):
        torch.manual_seed(0)
        assert c_tran_loss(model, images(), labels_BC, count).item() == pytest.approx(total / divisor, rel=1e-5)


def test_asymmetric_loss_equals_its_formula_in_loops():
    logits_BC, labels_BC = torch.randn(3, 4) * 3, torch.tensor([[1.0, 0, 0, NAN], [0, 1, NAN, 0], [0, 0, 0, 1]])
    for gamma_neg, gamma_pos in ((2, 0), (3, 1), (0, 0)):
        total = known = 0
        for b in range(3):
            for c in range(4):
                if not math.isnan(labels_BC[b, c]):
                    p = 1 / (1 + math.exp(-logits_BC[b, c]))
                    total -= (1 - p) ** gamma_pos * math.log(p) if labels_BC[b, c] else p**gamma_neg * math.log(1 - p)
                    known += 1
        got = asymmetric_loss(logits_BC, labels_BC, gamma_neg=gamma_neg, gamma_pos=gamma_pos)
        assert got.item() == pytest.approx(total / known, rel=1e-5)
    torch.testing.assert_close(got, masked_bce(logits_BC, labels_BC))  # the last pair: both powers 0
    assert asymmetric_loss(torch.full((1, 2), 200.0), torch.tensor([[0.0, 1.0]])).isfinite()
    assert asymmetric_loss(logits_BC, torch.full((3, 4), NAN)) == 0


def test_query2label_learns_with_the_loss_it_was_built_for():
    labels_BC = (torch.rand(2, 5) > 0.5).float()
    for name, loss in (("bce", masked_bce), ("asymmetric", asymmetric_loss)):
        model = randomise(Query2Label(num_classes=5, loss=name, **SIZES))
        expected = loss(model(images()).logits_BC, labels_BC, count=7)
        torch.testing.assert_close(query2label_loss(model, images(), labels_BC, 7), expected)


@pytest.mark.parametrize("name", ["c_tran", "query2label"])
def test_every_parameter_is_trained_in_its_own_group(name):
    from timm.optim import param_groups_layer_decay

    model = build_model(name, {}, num_classes=5, **SIZES)
    model.head.weight.data.normal_()
    torch.manual_seed(1)
    labels_BC = (torch.rand(4, 5) > 0.5).float()
    part = Part(np.arange(4), torch.eye(2, 3).expand(4, 2, 3), 0.0, known=20.0, present=float(labels_BC.sum()), images=4.0)
    OBJECTIVES[name](model, images(4), labels_BC, part).backward()
    assert [key for key, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    if name == "c_tran":
        assert model.state_embed.weight.grad[0].abs().sum() == 0 and model.state_embed.weight.grad[1:].abs().sum() > 0

    groups = param_groups_layer_decay(model, weight_decay=0.1, layer_decay=0.5, no_weight_decay_list=model.no_weight_decay())
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    group_of = {names[id(parameter)]: group for group in groups for parameter in group["params"]}
    assert set(group_of) == set(names.values())
    assert all(group_of[key]["lr_scale"] == 1 for key in model.own_parts())
    assert group_of["blocks.0.attn.qkv.weight"]["lr_scale"] < group_of["blocks.1.attn.qkv.weight"]["lr_scale"] < 1
    embeddings = {"c_tran": {"label_embed.weight", "state_embed.weight"}, "query2label": {"label_queries"}}[name]
    assert all(group_of[key]["weight_decay"] == 0 for key in embeddings)
    assert group_of["head.weight"]["weight_decay"] == 0.1


@pytest.mark.parametrize(
    "build, words",
    [
        (lambda: CTran(label_heads=5, **SIZES), "5 label heads"),
        (lambda: CTran(label_layers=0, **SIZES), "at least one layer"),
        (lambda: Query2Label(label_heads=5, **SIZES), "5 label heads"),
        (lambda: Query2Label(decoder_layers=0, **SIZES), "from 1 up"),
        (lambda: Query2Label(loss="focal", **SIZES), "choose one of bce, asymmetric"),
    ],
)
def test_wrong_options_get_one_clear_line(build, words):
    with pytest.raises(CxrError, match=words) as caught:
        build()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name, options", [("c_tran", {}), ("query2label", {"loss": "asymmetric"})])
def test_a_run_that_dies_goes_on_to_the_same_bits(tmp_path, monkeypatch, name, options):
    """What was told, and what dropout left out, must come again when a step is done again."""
    store, recipe = tiny_store(tmp_path, n=80), dataclasses.replace(recipes.mu(), model=name, options=options)
    train(recipe, store.folder, tmp_path / "whole", device="cpu")
    real, calls = loop.train_step, []

    def dies(*args, **options):
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError("power cut")
        return real(*args, **options)

    monkeypatch.setattr(loop, "train_step", dies)
    with pytest.raises(RuntimeError, match="power cut"):
        train(recipe, store.folder, tmp_path / "cut", device="cpu", checkpoint_steps=1)
    monkeypatch.setattr(loop, "train_step", real)
    torch.rand(17)  # whatever the global generator did in between must not matter
    train(recipe, store.folder, tmp_path / "cut", device="cpu")
    for weights in ("last.safetensors", "best.safetensors"):
        left, right = (read_tensors(tmp_path / run / weights)[0] for run in ("whole", "cut"))
        assert set(left) == set(right) and all(torch.equal(left[key], right[key]) for key in left)
    assert cli.main(["evaluate", str(tmp_path / "cut"), "--split", "test", "--device", "cpu"]) == 0
