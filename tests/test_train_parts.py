"""The pieces of training: loss, learning rate, augmentation, the order of images, recipes."""

import dataclasses
import math
import signal

import numpy as np
import pytest
import torch

from cxrlib import recipes
from cxrlib.data.augment import DRAWS, Ranges, adjust_grey, affine_matrices, augment, normalise, to_float, warp
from cxrlib.data.feed import epoch_draws, epoch_order, training_batches
from cxrlib.errors import CxrError
from cxrlib.losses import masked_bce
from cxrlib.recipes import Recipe
from cxrlib.training.optim import make_ema, make_optimizer, set_lr, warmup_cosine
from cxrlib.training.signals import Signals
from cxrlib.training.start import start_head_at_prevalence, start_weights


def test_masked_bce_equals_a_loop_over_the_known_labels():
    logits_BC = torch.tensor([[0.3, -2.0, 40.0], [-35.0, 1.1, 0.0]], requires_grad=True)
    labels_BC = torch.tensor([[1.0, math.nan, 0.0], [0.0, 0.3, math.nan]])
    total, count = 0.0, 0
    for logit, label in zip(logits_BC.flatten().double().tolist(), labels_BC.flatten().tolist()):
        if not math.isnan(label):
            total += label * math.log1p(math.exp(-logit)) + (1 - label) * (logit + math.log1p(math.exp(-logit)))
            count += 1
    loss = masked_bce(logits_BC, labels_BC)
    assert count == 4 and loss.item() == pytest.approx(total / count, rel=1e-6)
    loss.backward()
    assert torch.isfinite(logits_BC.grad).all()
    assert logits_BC.grad[0, 1] == 0 and logits_BC.grad[1, 2] == 0 and logits_BC.grad[0, 0] != 0


def test_masked_bce_of_no_known_label_is_zero_with_zero_gradient():
    logits_BC = torch.ones(2, 3, requires_grad=True)
    loss = masked_bce(logits_BC, torch.full((2, 3), math.nan))
    loss.backward()
    assert loss.item() == 0 and (logits_BC.grad == 0).all()


def test_parts_of_a_batch_add_up_to_the_whole():
    torch.manual_seed(0)
    logits_BC, labels_BC = torch.randn(7, 3), (torch.rand(7, 3) > 0.5).float()
    labels_BC[1:3, 0] = math.nan
    count = (~labels_BC.isnan()).sum()
    parts = sum(masked_bce(logits_BC[i : i + 3], labels_BC[i : i + 3], count=count) for i in range(0, 7, 3))
    assert parts.item() == pytest.approx(masked_bce(logits_BC, labels_BC).item(), rel=1e-6)


def test_warmup_cosine_climbs_turns_and_ends_at_the_floor():
    rates = [warmup_cosine(step, steps=50, warmup=9, peak=2.0, floor=0.5) for step in range(51)]
    assert rates[:2] == pytest.approx([0.2, 0.4]) and rates[8] == pytest.approx(1.8)
    assert max(rates) == rates[9] == pytest.approx(2.0)
    assert all(a > b for a, b in zip(rates[9:], rates[10:])) and rates[50] == pytest.approx(0.5)
    # half-way down the cosine lies the mean of peak and floor
    assert warmup_cosine(15, steps=20, warmup=10, peak=2.0, floor=0.5) == pytest.approx(1.25)
    assert warmup_cosine(0, steps=1, warmup=0, peak=1.0) == 1.0


def test_layer_decay_slows_lower_layers_and_spares_norms_and_positions_from_weight_decay():
    model = recipes.mu().build(3)
    optimizer = make_optimizer(model, weight_decay=0.1, layer_decay=0.5)
    set_lr(optimizer, 1.0)
    rate, decay = {}, {}
    names = {id(p): name for name, p in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            rate[names[id(parameter)]], decay[names[id(parameter)]] = group["lr"], group["weight_decay"]
    assert set(rate) == set(names.values())
    assert rate["head.weight"] == 1.0
    assert rate["blocks.1.attn.qkv.weight"] == 2 * rate["blocks.0.attn.qkv.weight"]
    assert rate["blocks.0.attn.qkv.weight"] == 2 * rate["patch_embed.proj.weight"] == 2 * rate["pos_embed"]
    assert decay["pos_embed"] == decay["cls_token"] == decay["norm.weight"] == decay["head.bias"] == 0
    assert decay["head.weight"] == decay["blocks.0.mlp.fc1.weight"] == 0.1


def test_ema_follows_its_formula():
    model = torch.nn.Linear(2, 1, bias=False)
    ema = make_ema(model, 0.8)
    expected = model.weight.detach().clone()
    for step in range(1, 30):
        with torch.no_grad():
            model.weight += torch.tensor([[1.0, -0.5]]) * step
        ema.update(model, step=step)
        decay = min(0.8, 1 - step ** (-2 / 3)) if step > 1 else 0.0
        expected = decay * expected + (1 - decay) * model.weight.detach()
    assert torch.isfinite(ema.module.weight).all() and not torch.equal(ema.module.weight, model.weight)
    torch.testing.assert_close(ema.module.weight, expected, rtol=1e-5, atol=1e-5)


def test_no_augmentation_changes_nothing():
    torch.manual_seed(0)
    img_BIYX, draws_BK = torch.rand(3, 1, 10, 14), torch.rand(3, DRAWS)
    out, matrix_B23 = augment(img_BIYX, draws_BK, Ranges())
    torch.testing.assert_close(out, img_BIYX, atol=1e-5, rtol=0)
    torch.testing.assert_close(matrix_B23, torch.tensor([[1.0, 0, 0], [0, 1, 0]]).expand(3, 2, 3), atol=1e-5, rtol=0)
    half, _ = augment(img_BIYX, torch.full((3, DRAWS), 0.5), Ranges(20, 0.3, 0.2, 0.2, 0.3))
    torch.testing.assert_close(half, img_BIYX, atol=1e-5, rtol=0)


def test_warp_equals_a_loop_over_pixels():
    """Each output pixel's centre is carried by the matrix into the input, and read there by bilinear interpolation."""
    torch.manual_seed(1)
    height, width = 9, 13
    img_BIYX = torch.rand(2, 1, height, width, dtype=torch.float64)
    draws_BK = torch.rand(2, DRAWS)
    matrix_B23 = affine_matrices(draws_BK, Ranges(25, 0.3, 0.15), size=(height, width)).double()
    out = warp(img_BIYX, matrix_B23)
    assert (out > 0).float().mean() > 0.5  # the test would say nothing if all came from outside

    def pixel(b, y, x):
        return float(img_BIYX[b, 0, y, x]) if 0 <= y < height and 0 <= x < width else 0.0

    for b in range(2):
        for y in range(height):
            for x in range(width):
                at_x, at_y = (matrix_B23[b] @ torch.tensor([x + 0.5, y + 0.5, 1.0], dtype=torch.float64)).tolist()
                left, top = math.floor(at_x - 0.5), math.floor(at_y - 0.5)
                fx, fy = at_x - 0.5 - left, at_y - 0.5 - top
                expected = sum(
                    wy * wx * pixel(b, top + dy, left + dx)
                    for dy, wy in ((0, 1 - fy), (1, fy))
                    for dx, wx in ((0, 1 - fx), (1, fx))
                )
                assert float(out[b, 0, y, x]) == pytest.approx(expected, abs=1e-5)


def test_matrices_say_what_the_draws_mean():
    """In a 20 wide and 10 high image: shift alone, scale alone, rotation alone, each by hand."""
    ends = torch.full((1, DRAWS), 0.5)
    ends[0, 2] = 1.0  # the whole shift to the right: an output pixel at x comes from x - 2
    shift = affine_matrices(ends, Ranges(shift=0.1), size=(10, 20))
    torch.testing.assert_close(shift[0], torch.tensor([[1.0, 0, -2.0], [0, 1, 0]]))
    ends = torch.full((1, DRAWS), 0.5)
    ends[0, 1] = 1.0  # enlarged twofold about the centre (10, 5): the corner comes from half-way to the centre
    scale = affine_matrices(ends, Ranges(scale=1.0), size=(10, 20))
    torch.testing.assert_close(scale[0] @ torch.tensor([0.0, 0.0, 1.0]), torch.tensor([5.0, 2.5]))
    ends = torch.full((1, DRAWS), 0.5)
    ends[0, 0] = 1.0  # a quarter turn about the centre
    turn = affine_matrices(ends, Ranges(rotation=90), size=(10, 20))
    torch.testing.assert_close(turn[0] @ torch.tensor([14.0, 5.0, 1.0]), torch.tensor([10.0, 9.0]), atol=1e-4, rtol=0)


def test_masks_move_with_the_image_and_chests_are_never_mirrored():
    torch.manual_seed(2)
    draws_BK = torch.rand(64, DRAWS)
    matrix_B23 = affine_matrices(draws_BK, recipes.cpu().ranges, size=(24, 24))
    assert (torch.linalg.det(matrix_B23[:, :, :2]) > 0).all()
    mask_BIYX = torch.zeros(64, 1, 24, 24)
    mask_BIYX[:, :, 6:14, 8:20] = 1
    moved = warp(mask_BIYX, matrix_B23, mode="nearest")
    assert set(moved.unique().tolist()) == {0.0, 1.0}
    soft, _ = augment(mask_BIYX, draws_BK, recipes.cpu().ranges._replace(brightness=0, contrast=0))
    assert ((soft > 0.5).float() == moved).float().mean() > 0.97


def test_grey_is_adjusted_about_each_image_s_own_mean():
    img_BIYX = torch.stack([torch.full((1, 2, 2), 0.3), torch.tensor([[[0.2, 0.4], [0.4, 0.6]]])])
    draws_BK = torch.full((2, DRAWS), 0.5)
    draws_BK[0, 4] = 1.0
    draws_BK[1, 5] = 1.0
    out = adjust_grey(img_BIYX, draws_BK, Ranges(brightness=0.1, contrast=0.5))
    torch.testing.assert_close(out[0], torch.full((1, 2, 2), 0.4))
    torch.testing.assert_close(out[1], torch.tensor([[[0.1, 0.4], [0.4, 0.7]]]))


def test_bytes_become_normalised_channels():
    img_BYX = torch.tensor([[[0, 255, 51]]], dtype=torch.uint8)
    out = normalise(to_float(img_BYX), mean=(0.5, 0.4, 0.2), std=(0.25, 0.2, 0.1))
    assert out.shape == (1, 3, 1, 3)
    torch.testing.assert_close(out[0, :, 0, 2], torch.tensor([-1.2, -1.0, 0.0]))


def test_an_epoch_is_a_function_of_seed_and_number_only():
    assert np.array_equal(epoch_order(50, seed=3, epoch=2), epoch_order(50, seed=3, epoch=2))
    assert not np.array_equal(epoch_order(50, seed=3, epoch=2), epoch_order(50, seed=3, epoch=3))
    assert not np.array_equal(epoch_draws(9, seed=3, epoch=2), epoch_draws(9, seed=4, epoch=2))
    assert epoch_draws(9, seed=3, epoch=2).shape == (9, DRAWS)


def test_processes_share_a_global_batch_and_a_resumed_epoch_goes_on_in_the_middle():
    images_NYX = np.arange(23, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8)
    labels_NC = np.arange(46, dtype=np.float32).reshape(23, 2)
    labels_NC[4] = np.nan
    rows = np.arange(1, 23)
    one = list(training_batches(images_NYX, labels_NC, rows, batch=6, seed=1, epoch=0))
    assert [len(b.img_BYX) for b in one] == [6, 6, 6]
    seen = torch.cat([b.img_BYX[:, 0, 0] for b in one]).tolist()
    assert len(set(seen)) == 18 and 0 not in seen
    assert sum(b.known for b in one) == 36 - 2 * (4 in seen)
    later = list(training_batches(images_NYX, labels_NC, rows, batch=6, seed=1, epoch=0, start=2))
    assert len(later) == 1 and torch.equal(later[0].img_BYX, one[2].img_BYX) and torch.equal(later[0].draws_BK, one[2].draws_BK)
    two = [list(training_batches(images_NYX, labels_NC, rows, batch=6, seed=1, epoch=0, rank=r, world=2)) for r in (0, 1)]
    for whole, first, second in zip(one, *two):
        assert first.known == second.known == whole.known
        both = sorted(first.img_BYX[:, 0, 0].tolist() + second.img_BYX[:, 0, 0].tolist())
        assert both == sorted(whole.img_BYX[:, 0, 0].tolist())
    few = list(training_batches(images_NYX, labels_NC, rows, batch=100, seed=1, epoch=0))
    assert len(few) == 1 and len(few[0].img_BYX) == 22


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_shipped_recipe_builds_and_survives_json(name):
    recipe = recipes.get(name)
    assert recipe.name == name
    assert Recipe.from_json(recipe.to_json()) == recipe
    with torch.device("meta"):
        model = recipe.build(14)
        size = recipe.image_size
        out = model(torch.empty(2, len(recipe.mean), size, size))
    assert out.logits_BC.shape == (2, 14)
    assert len(recipe.mean) == len(recipe.std)
    text = recipes.RECIPES[name].__doc__
    assert f"train {name} --data" in text and "Cost:" in text and "Expected:" in text


def test_every_field_of_a_recipe_has_its_help_under_it():
    text = recipes.field_help()
    assert set(text) == {field.name for field in dataclasses.fields(Recipe)}
    assert all(len(words) > 10 and words.endswith(".") for words in text.values())


def test_recipes_refuse_nonsense():
    with pytest.raises(CxrError, match="there is no recipe 'gpu': choose one of mu, cpu"):
        recipes.get("gpu")
    with pytest.raises(CxrError, match="--batch"):
        dataclasses.replace(recipes.mu(), batch=0)
    with pytest.raises(CxrError, match="not one of this version"):
        Recipe.from_json({"name": "mu"})


def test_the_head_starts_at_each_finding_s_share_of_the_known_labels():
    model = recipes.mu().build(3)
    torch.nn.init.normal_(model.head.weight)
    labels_NC = np.array([[1, 0, np.nan]] * 3 + [[0, 0, np.nan]] * 5, dtype=np.float32)
    start_head_at_prevalence(model, labels_NC)
    shares = model(torch.randn(2, 1, 32, 32)).logits_BC.sigmoid()
    expected = torch.tensor([4 / 10, 1 / 10, 1 / 2])  # one image of each kind is added, so that no share is 0 or 1
    torch.testing.assert_close(shares, expected.expand(2, 3))


def test_the_fan_start_scales_each_linear_map_by_its_fans():
    torch.manual_seed(0)
    model = dataclasses.replace(recipes.mu(), width=48).build(3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    start_weights(model, "timm")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    start_weights(model, "fan")
    for name, fans in {"blocks.0.mlp.fc1": 48 + 192, "blocks.1.attn.qkv": 48 + 144, "blocks.1.attn.proj": 96}.items():
        assert model.get_parameter(f"{name}.weight").std().item() == pytest.approx((2 / fans) ** 0.5, rel=0.1)
    assert model.pos_embed.std().item() == pytest.approx(0.2, rel=0.1)
    assert model.cls_token.std().item() == pytest.approx(0.2, rel=0.5)
    with pytest.raises(CxrError, match="choose timm or fan"):
        start_weights(model, "zeros")


def test_a_signal_that_reached_every_process_keeps_its_number():
    class TwoProcesses:
        world_size, device = 2, "cpu"

        @staticmethod
        def all_reduce(noted, reduce_op):  # both processes have noted the same
            return getattr(torch, reduce_op)(torch.stack([noted, noted]))

    signals = Signals()
    assert not signals.caught(TwoProcesses)
    signals.number = signal.SIGTERM
    assert signals.caught(TwoProcesses) and signals.number == signal.SIGTERM
