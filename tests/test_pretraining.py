"""GMML and DINO: each equation against loops, whole runs that die and go on, and the way into every model."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from same_bits import assert_same_tensors
from safetensors.torch import load_file
from tiny_store import tiny_store
from torch import nn

from cxrlib import cli
from cxrlib.data.store import ImageStore
from cxrlib.errors import CxrError
from cxrlib.models import build_model
from cxrlib.models.cost import macs
from cxrlib.models.vit import VisionTransformer
from cxrlib.models.weights import start_from
from cxrlib.pretraining import loop, pretrain, recipes
from cxrlib.pretraining.clock import Clock, cosine
from cxrlib.pretraining.dino import Dino, class_token, dino_loss, entropies, follow, next_centre
from cxrlib.pretraining.gmml import Gmml, block_mask, corrupt, kept_layers, l1_on_corrupted, multiplied_mask, rectangles
from cxrlib.pretraining.methods import METHODS, DinoMethod
from cxrlib.pretraining.views import View, blur, crop, crop_boxes, draw_view
from cxrlib.training.checkpoint import read_tensors
from cxrlib.training.start import start_weights


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def numbers(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# GMML: corruption


@pytest.mark.parametrize(("align", "size"), [(1, (20, 33)), (4, (20, 32)), (8, (16, 24))])
def test_rectangles_lie_in_the_image_on_the_grid_and_are_no_longer_than_told(align, size):
    draws_BR4 = torch.rand(50, 40, 4, generator=numbers(0))
    draws_BR4[0, 0], draws_BR4[0, 1] = 0.0, 1 - 1e-7  # the ends of the range
    box_BR4 = rectangles(draws_BR4, size=size, align=align, largest=0.3)
    assert (box_BR4 % align == 0).all()
    y0, x0, y1, x1 = box_BR4.unbind(-1)
    assert (y0 >= 0).all() and (x0 >= 0).all() and (y1 > y0).all() and (x1 > x0).all()
    assert (y1 <= size[0]).all() and (x1 <= size[1]).all()
    for lower, upper, side in ((y0, y1, size[0]), (x0, x1, size[1])):
        longest = max(math.floor(0.3 * (side // align)), 1) * align
        assert (upper - lower).max() == longest  # reached, not passed
        assert lower.min() == 0 and upper.max() == side  # every place can be hit


def test_the_mask_is_the_one_that_laying_rectangles_until_enough_gives():
    """GMML's loop: while too few pixels are covered, cover another rectangle."""
    size, R = (14, 11), 60
    box_BR4 = rectangles(torch.rand(9, R, 4, generator=numbers(1)), size=size)
    share_B = torch.tensor([0.0, 0.1, 0.3, 0.5, 0.62, 0.75, 0.9, 1.0, 0.5])
    mask_BYX = block_mask(box_BR4, share_B, size=size)
    wanted_B = (share_B.double() * size[0] * size[1]).ceil().long()
    assert torch.equal(multiplied_mask(box_BR4, wanted_B, size=size), mask_BYX)  # what a GPU computes
    for b in range(9):
        covered = np.zeros(size, bool)
        used = 0
        while covered.sum() < max(float(share_B[b]) * size[0] * size[1], 1) and used < R:
            y0, x0, y1, x1 = box_BR4[b, used].tolist()
            covered[y0:y1, x0:x1] = True
            used += 1
        assert np.array_equal(mask_BYX[b].numpy(), covered), b


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a GPU masks by multiplying, a processor by painting")
def test_a_gpu_masks_the_same_pixels():
    box_BR4 = rectangles(torch.rand(9, 60, 4, generator=numbers(1)), size=(96, 96))
    share_B = torch.linspace(0, 1, 9)
    assert torch.equal(block_mask(box_BR4.cuda(), share_B.cuda(), size=(96, 96)).cpu(), block_mask(box_BR4, share_B, size=(96, 96)))


def test_the_share_of_corrupted_pixels_is_the_drawn_one_and_a_last_rectangle():
    """At least the share is covered, and at most one rectangle (0.3 by 0.3) more."""
    share_B = 0.5 + 0.25 * torch.rand(300, generator=numbers(2))
    box_BR4 = rectangles(torch.rand(300, 160, 4, generator=numbers(3)), size=(96, 96))
    over_B = block_mask(box_BR4, share_B, size=(96, 96)).float().mean(dim=(1, 2)) - share_B
    assert over_B.min() >= 0 and over_B.max() < 0.09 and over_B.max() > 0.01


def corrupted_batch(**options) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    img_BIYX = torch.randn(200, 2, 32, 24, generator=numbers(4)) * 0.1 + torch.arange(200)[:, None, None, None] * 10
    return img_BIYX, *corrupt(img_BIYX, generator=numbers(5), **options)


def test_what_the_mask_leaves_out_is_untouched_and_the_given_images_too():
    img_BIYX, corrupted_BIYX, mask_BYX = corrupted_batch()
    same_BIYX = corrupted_BIYX == img_BIYX
    assert same_BIYX[~mask_BYX[:, None].expand_as(same_BIYX)].all()
    assert not same_BIYX[mask_BYX[:, None].expand_as(same_BIYX)].any()
    again = torch.randn(200, 2, 32, 24, generator=numbers(4)) * 0.1 + torch.arange(200)[:, None, None, None] * 10
    assert torch.equal(img_BIYX, again)


def test_an_image_gets_noise_on_half_to_three_quarters_or_an_alien_on_three_tenths():
    """The images have levels 0, 10, 20, ...: a corrupted pixel near one of them is an alien's, the same for the whole image."""
    img_BIYX, corrupted_BIYX, mask_BYX = corrupted_batch()
    aliens = 0
    for b in range(200):
        values = corrupted_BIYX[b][:, mask_BYX[b]]
        share = float(mask_BYX[b].float().mean())
        if values.mean().abs() < 0.5 and values.std() > 0.8:  # N(0, 1)
            assert 0.5 <= share < 0.75 + 0.1
        else:
            aliens += 1
            donor = round(float(values.mean()) / 10)
            assert donor != b and torch.equal(values, img_BIYX[donor][:, mask_BYX[b]])
            assert 0.3 <= share < 0.3 + 0.1
    assert 75 < aliens < 125  # a coin, 200 times: within 3.5 standard deviations


def test_noise_only_and_aliens_only():
    img_BIYX, corrupted_BIYX, mask_BYX = corrupted_batch(alien_chance=0.0, share=(0.2, 0.2))
    noise = corrupted_BIYX[mask_BYX[:, None].expand_as(img_BIYX)]
    assert abs(float(noise.mean())) < 0.02 and abs(float(noise.std()) - 1) < 0.02
    assert mask_BYX.float().mean(dim=(1, 2)).min() >= 0.2
    _, corrupted_BIYX, mask_BYX = corrupted_batch(alien_chance=1.0, alien_share=0.6)
    assert mask_BYX.float().mean(dim=(1, 2)).min() >= 0.6
    alone_1IYX = torch.full((1, 1, 16, 16), 50.0)  # no other image: noise
    values = corrupt(alone_1IYX, alien_chance=1.0, generator=numbers(6))[0]
    assert (values != 50).any()


def test_patch_aligned_corruption_spares_or_covers_whole_patches():
    img_BIYX = torch.zeros(40, 1, 32, 48)
    _, mask_BYX = corrupt(img_BIYX, align=8, generator=numbers(7))
    share_ByX = mask_BYX.float().reshape(40, 4, 8, 6, 8).mean(dim=(2, 4))
    assert set(share_ByX.unique().tolist()) == {0.0, 1.0}
    _, mask_BYX = corrupt(img_BIYX, align=1, generator=numbers(7))
    assert len(mask_BYX.float().reshape(40, 4, 8, 6, 8).mean(dim=(2, 4)).unique()) > 2


# GMML: loss, decoder


def test_l1_on_corrupted_pixels_in_loops():
    painted, clean = torch.randn(3, 2, 5, 4, generator=numbers(8)), torch.randn(3, 2, 5, 4, generator=numbers(9))
    mask_BYX = torch.rand(3, 5, 4, generator=numbers(10)) < 0.6
    total = count = 0.0
    for b in range(3):
        for i in range(2):
            for y in range(5):
                for x in range(4):
                    if mask_BYX[b, y, x]:
                        total += abs(float(painted[b, i, y, x]) - float(clean[b, i, y, x]))
                        count += 1
    assert float(l1_on_corrupted(painted, clean, mask_BYX)) == pytest.approx(total / count, rel=1e-6)


def test_clean_pixels_get_no_gradient():
    painted = torch.randn(2, 1, 4, 4, requires_grad=True)
    mask_BYX = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask_BYX[1, 2, 3] = True
    l1_on_corrupted(painted, torch.zeros(2, 1, 4, 4), mask_BYX).backward()
    assert (painted.grad != 0).nonzero().tolist() == [[1, 0, 2, 3]]


@pytest.mark.parametrize(("depth", "kept"), [(12, (6, 8, 10, 12)), (24, (12, 16, 20, 24)), (4, (2, 3, 4)), (2, (1, 2)), (1, (1,))])
def test_kept_layers(depth, kept):
    assert kept_layers(depth) == kept


def tiny_gmml(in_channels: int = 2, depth: int = 4) -> Gmml:
    torch.manual_seed(11)
    encoder = VisionTransformer(
        image_size=(16, 24), patch_size=8, in_channels=in_channels, num_classes=0, width=24, depth=depth, heads=3
    )
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.3)
    return Gmml(encoder, in_channels=in_channels).eval()


def test_the_decoder_reads_the_mean_of_normed_layers_without_the_class_token():
    """Written from the formula; and the last linear map is the published transposed convolution."""
    model, img_BIYX = tiny_gmml(), torch.randn(3, 2, 16, 24, generator=numbers(12))
    outputs = []
    for block in model.encoder.blocks:
        block.register_forward_hook(lambda module, given, out: outputs.append(out[0]))
    painted_BIYX = model(img_BIYX)
    norm = model.encoder.norm
    normed = [nn.functional.layer_norm(outputs[k - 1], (24,), norm.weight, norm.bias, 1e-6) for k in (2, 3, 4)]
    patches_BPD = (sum(normed) / 3)[:, 1:]
    for layer in (0, 2, 4):
        linear = model.decoder.mlp[layer]
        patches_BPD = nn.functional.gelu(patches_BPD @ linear.weight.T + linear.bias)
    paint = nn.ConvTranspose2d(24, 2, 8, 8)
    paint.weight.data = model.decoder.paint.weight.T.reshape(24, 2, 8, 8)  # [D, I, p, p]
    paint.bias.data.zero_()
    expected = paint(patches_BPD.transpose(1, 2).reshape(3, 24, 2, 3))
    bias_Ipq = model.decoder.paint.bias.reshape(2, 8, 8)
    torch.testing.assert_close(painted_BIYX, expected + bias_Ipq.repeat(1, 2, 3), rtol=1e-4, atol=1e-5)


def test_every_parameter_of_encoder_and_decoder_learns():
    model, img_BIYX = tiny_gmml(), torch.randn(3, 2, 16, 24, generator=numbers(13))
    model(img_BIYX).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


# Views


def test_a_crop_is_the_box_resized():
    """Boxes on whole pixels at their own size are copied; a whole image halves to the means of four pixels."""
    img_B1YX = torch.rand(2, 1, 12, 10, generator=numbers(14))
    cut = crop(img_B1YX, torch.tensor([[2.0, 1.0, 6.0, 6.0], [5.0, 4.0, 6.0, 6.0]]), side=6)
    torch.testing.assert_close(cut[0, 0], img_B1YX[0, 0, 2:8, 1:7])
    torch.testing.assert_close(cut[1, 0], img_B1YX[1, 0, 5:11, 4:10])
    square = img_B1YX[:, :, :10]
    half = crop(square, torch.tensor([[0.0, 0.0, 10.0, 10.0]] * 2), side=5)
    torch.testing.assert_close(half, nn.functional.avg_pool2d(square, 2))


def test_crop_boxes_keep_their_share_and_stay_inside():
    draws_B4 = torch.rand(2000, 4, generator=numbers(15))
    y0, x0, height, width = crop_boxes(draws_B4, scale=(0.1, 0.4), size=(40, 50)).unbind(1)
    share = height * width / 2000
    assert share.min() > 0.1 - 1e-4 and share.max() < 0.4 + 1e-4 and 0.24 < share.mean() < 0.26
    assert y0.min() >= 0 and (y0 + height).max() <= 40 + 1e-4 and (x0 + width).max() <= 50 + 1e-4
    ratio = (width / 50) / (height / 40)
    assert ratio.max() <= 4 / 3 + 1e-4 and ratio.min() >= 3 / 4 - 1e-4 and ratio.max() > 1.3 and ratio.min() < 0.77


def test_a_blur_is_a_gaussian_of_its_image_s_own_width():
    img_B1YX = torch.zeros(2, 1, 17, 17)
    img_B1YX[:, 0, 8, 8] = 1
    out = blur(img_B1YX, torch.tensor([0.7, 1.6]))
    for b, sigma in enumerate((0.7, 1.6)):
        weights = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(-5, 6)]
        for y, x in ((8, 8), (8, 9), (6, 9), (10, 5)):
            expected = weights[y - 3] * weights[x - 3] / sum(weights) ** 2
            assert float(out[b, 0, y, x]) == pytest.approx(expected, abs=1e-6)


def test_views_are_never_mirrored_and_are_a_function_of_the_seed():
    """A ramp that brightens to the right does so in every view."""
    img_B1YX = torch.linspace(0, 1, 32).expand(64, 1, 32, 32)
    view = View(16, (0.2, 1.0), jitter=0.3, jitter_chance=0.8, blur_chance=0.5)
    torch.manual_seed(3)
    out = draw_view(img_B1YX, view)
    assert out.shape == (64, 1, 16, 16) and out.min() >= 0 and out.max() <= 1
    assert (out[:, 0, :, 8:].mean(dim=(1, 2)) > out[:, 0, :, :8].mean(dim=(1, 2))).all()
    torch.manual_seed(3)
    assert torch.equal(draw_view(img_B1YX, view), out)
    plain = draw_view(img_B1YX, View(32, (1.0, 1.0), jitter_chance=0, blur_chance=0))
    assert plain[0, 0, 0].diff().min() > -1e-6  # only cropped: 4:3 at most


def test_cosine_in_numbers():
    """Momentum of DINO (arXiv 2104.14294, section 3.1): from 0.996 to 1; half way at half time."""
    for step, expected in ((0, 0.996), (50, 0.998), (100, 1.0)):
        assert cosine(Clock(step, 100, 10), 0.996, 1.0) == pytest.approx(expected, abs=1e-12)
    assert cosine(Clock(25, 100, 10), 0.996, 1.0) == pytest.approx(1 - 0.004 * (math.cos(math.pi / 4) + 1) / 2, abs=1e-12)
    assert cosine(Clock(25, 100, 10), 0.04, 0.4) < 0.04 + 0.36 * 0.25  # slow at first


# DINO: equations


def softmax(values: list[float]) -> list[float]:
    top = max(values)
    powers = [math.exp(value - top) for value in values]
    return [power / sum(powers) for power in powers]


def test_dino_loss_in_loops():
    """Algorithm 1 of arXiv 2104.14294, written out for 2 views of the teacher and 4 of the student."""
    V, G, B, K, student_temp, teacher_temp = 4, 2, 3, 5, 0.1, 0.04
    student_VBK, teacher_GBK = 0.2 * torch.randn(V, B, K, generator=numbers(16)), 0.2 * torch.randn(G, B, K, generator=numbers(17))
    centre_K = 0.1 * torch.randn(K, generator=numbers(18))
    total = pairs = 0.0
    for g in range(G):
        for v in range(V):
            if v == g:
                continue
            pairs += 1
            for b in range(B):
                answer = softmax([(float(teacher_GBK[g, b, k]) - float(centre_K[k])) / teacher_temp for k in range(K)])
                said = softmax([float(student_VBK[v, b, k]) / student_temp for k in range(K)])
                total += -sum(p * math.log(q) for p, q in zip(answer, said)) / B
    loss = dino_loss(student_VBK, teacher_GBK, centre_K, student_temp=student_temp, teacher_temp=teacher_temp)
    assert pairs == 6 and float(loss) == pytest.approx(total / pairs, rel=1e-5)


def test_no_gradient_reaches_the_teacher():
    student_VBK = torch.randn(3, 2, 4, requires_grad=True)
    teacher_GBK = torch.randn(2, 2, 4, requires_grad=True)
    dino_loss(student_VBK, teacher_GBK, torch.zeros(4), student_temp=0.1, teacher_temp=0.04).backward()
    assert teacher_GBK.grad is None and (student_VBK.grad.abs().sum(dim=(1, 2)) > 0).all()


def test_the_centre_in_loops():
    """Eq. 4: c <- m c + (1 - m) (1 / B) sum over images of the teacher's logits."""
    centre_K, teacher_BK = torch.randn(4, generator=numbers(19)), torch.randn(6, 4, generator=numbers(20))
    for k in range(4):
        expected = 0.9 * float(centre_K[k]) + 0.1 * sum(float(teacher_BK[b, k]) for b in range(6)) / 6
        assert float(next_centre(centre_K, teacher_BK.mean(dim=0), 0.9)[k]) == pytest.approx(expected, rel=1e-5)


def test_entropies_tell_the_two_collapses():
    log_k = math.log(8)
    uniform, same = torch.full((5, 8), 1 / 8), torch.eye(8)[[2] * 5]
    assert [float(value) for value in entropies(uniform)] == pytest.approx([log_k, log_k])
    assert [float(value) for value in entropies(same)] == pytest.approx([0, 0], abs=1e-9)
    assert [float(value) for value in entropies(torch.eye(8))] == pytest.approx([0, log_k], abs=1e-6)  # what is wanted


def tiny_dino() -> Dino:
    torch.manual_seed(21)
    encoder = VisionTransformer(image_size=(16, 24), patch_size=8, in_channels=1, num_classes=0, width=24, depth=2, heads=3)
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.3)
    return Dino(encoder, hidden=10, bottleneck=6, prototypes=7).eval()


def test_logits_are_cosines_with_the_prototypes():
    head, x_BD = tiny_dino().head, torch.randn(3, 24, generator=numbers(22))
    prototypes_KE = head.last_KE.detach()
    x_BE, logits_BK = head.mlp(x_BD).detach(), head(x_BD).detach()
    for b in range(3):
        for k in range(7):
            dot = sum(float(x_BE[b, e]) * float(prototypes_KE[k, e]) for e in range(6))
            length = float(x_BE[b].norm()) * float(prototypes_KE[k].norm())
            assert float(logits_BK[b, k]) == pytest.approx(dot / length, abs=1e-5)


def test_the_class_token_at_the_encoder_s_own_size_and_at_another():
    model = tiny_dino()
    img_BIYX = torch.randn(2, 1, 16, 24, generator=numbers(23))
    torch.testing.assert_close(class_token(model.encoder, img_BIYX), model.encoder(img_BIYX).logits_BC)
    from timm.layers import resample_abs_pos_embed

    small = VisionTransformer(image_size=8, patch_size=8, in_channels=1, num_classes=0, width=24, depth=2, heads=3).eval()
    positions = resample_abs_pos_embed(model.encoder.pos_embed, new_size=[1, 1], old_size=[2, 3], num_prefix_tokens=1)
    small.load_state_dict(model.encoder.state_dict() | {"pos_embed": positions})
    torch.testing.assert_close(class_token(model.encoder, img_BIYX[:, :, :8, 8:16]), small(img_BIYX[:, :, :8, 8:16]).logits_BC)


def test_views_of_two_sizes_go_through_one_student_in_order():
    model = tiny_dino()
    large, small = torch.randn(4, 1, 16, 24, generator=numbers(24)), torch.randn(6, 1, 8, 16, generator=numbers(25))
    logits = model(large, small)
    torch.testing.assert_close(logits[:4], model(large))
    torch.testing.assert_close(logits[4:], model(small))


def test_the_teacher_starts_as_the_student_and_follows_it_in_loops():
    recipe = dataclasses.replace(recipes.get("dino", "mu"), prototypes=7)
    student, teacher = DinoMethod(recipe).build(recipe.build())
    names = dict(student.named_parameters())
    assert set(names) == {name for name, _ in teacher.named_parameters()}
    assert all(torch.equal(value, names[name]) for name, value in teacher.named_parameters())
    assert not any(value.requires_grad for value in teacher.parameters())
    before = {name: value.clone() for name, value in teacher.named_parameters()}
    with torch.no_grad():
        for value in student.parameters():
            value.add_(1.0)
    follow(teacher, student, 0.9)
    for name, value in teacher.named_parameters():
        torch.testing.assert_close(value, 0.9 * before[name] + 0.1 * names[name])


def dino_answers(images_NYX: np.ndarray, steps: int, **changes) -> tuple[float, float]:
    """A few steps of DINO on a mu model; returns the last `entropies` over log K."""
    recipe = dataclasses.replace(recipes.get("dino", "mu"), drop_path=0.0, frozen_epochs=0, **changes)
    fabric = Fabric(accelerator="cpu", devices=1)
    torch.manual_seed(0)
    encoder = recipe.build()
    start_weights(encoder, recipe.init)
    method = DinoMethod(recipe)
    student, teacher = method.build(encoder)
    student, optimizer = fabric.setup(student, torch.optim.AdamW(student.parameters(), lr=recipe.lr))
    for step in range(steps):
        torch.manual_seed(step)
        img_B1YX = torch.from_numpy(images_NYX[torch.randperm(len(images_NYX))[:16].numpy()])[:, None].float() / 255
        loss, noted = method.loss(fabric, student, teacher, img_B1YX, Clock(step, 10**6, 10**6))
        fabric.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(student, teacher, Clock(step, 10**6, 10**6))
    return tuple(float(noted[name]) / math.log(recipe.prototypes) for name in ("answer_entropy", "mean_answer_entropy"))


def test_centring_and_sharpening_together_prevent_both_collapses(store):
    """Fig. 7 of the paper on a mu model. Without centring one prototype wins for every image; without sharpening (a teacher
    as flat as temperature 1 makes it) every answer is uniform; with both, the answers are neither."""
    images_NYX = np.array(ImageStore.open(store).images_NYX)
    both, mean = dino_answers(images_NYX, 30, lr=3e-3)
    assert 0.1 < both < 0.9 and mean >= both - 1e-6
    no_centre, mean = dino_answers(images_NYX, 30, lr=3e-3, centre_momentum=1.0)
    assert no_centre < 0.01 and mean < 0.01
    flat, _ = dino_answers(images_NYX, 30, lr=3e-3, teacher_temp_start=1.0, teacher_temp=1.0)
    assert flat > 0.99


def test_the_teacher_s_temperature_warms_up_along_a_line():
    recipe = dataclasses.replace(recipes.get("dino", "mu"), teacher_temp_start=0.04, teacher_temp=0.07, teacher_temp_epochs=3.0)
    method = DinoMethod(recipe)
    got = [method.teacher_temp(Clock(step, 100, 10)) for step in (0, 15, 30, 99)]
    assert got == pytest.approx([0.04, 0.055, 0.07, 0.07])


# Whole runs


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return tiny_store(tmp_path_factory.mktemp("data"), n=60).folder


MU = {method: dataclasses.replace(recipes.get(method, "mu"), epochs=3) for method in ("gmml", "dino")}


@pytest.fixture(scope="module")
def whole(store, tmp_path_factory) -> dict[str, Path]:
    """A run of each method that nothing interrupted."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("runs")
    for method, recipe in MU.items():
        pretrain(recipe, store, out / method, device="cpu")
    return {method: out / method for method in MU}


CLOCK = ("seconds", "time", "images_per_s", "data_wait", "mfu")  # no two runs take the same time


def events(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    curve = [line for line in lines if line["event"] not in ("start", "stop")]  # who worked on it, and when, may differ
    return [{key: value for key, value in line.items() if key not in CLOCK} for line in curve]


def assert_same_run(a: Path, b: Path) -> None:
    assert_same_tensors(a, b, kept="encoder.safetensors")
    assert events(a) == events(b)


@pytest.mark.parametrize("method", MU)
def test_the_run_folder_says_what_made_it_and_the_loss_falls(whole, store, method):
    made = json.loads((whole[method] / "run.json").read_text())
    meta = json.loads((store / "store.json").read_text())
    assert made["recipe"]["method"] == method and made["recipe"]["seed"] == 0 and made["data"]["sha256"] == meta["sha256"]
    assert "commit" in made and made["versions"]["torch"] == torch.__version__
    result = json.loads((whole[method] / "result.json").read_text())
    losses = [line["loss"] for line in events(whole[method]) if line["event"] == "epoch"]
    assert result["epochs"] == 3 and result["steps"] == 3 * (result["images"] // 16) and result["loss"] == losses[-1]
    assert len(losses) == 3 and losses[-1] < losses[0]


@pytest.mark.parametrize(("method", "stop"), [("gmml", 1), ("gmml", 5), ("dino", 3), ("dino", 4)])
def test_a_run_that_dies_at_any_step_goes_on_to_the_same_bits(whole, store, tmp_path, monkeypatch, method, stop):
    real, calls = loop.step, 0

    def dies(*args):
        nonlocal calls
        if calls == stop:
            raise RuntimeError("power cut")
        calls += 1
        return real(*args)

    monkeypatch.setattr(loop, "step", dies)
    with pytest.raises(RuntimeError, match="power cut"):
        pretrain(MU[method], store, tmp_path / "run", device="cpu", checkpoint_steps=2)
    monkeypatch.setattr(loop, "step", real)
    torch.rand(17)  # whatever the global generator did in between must not matter
    pretrain(MU[method], store, tmp_path / "run", device="cpu")
    assert_same_run(whole[method], tmp_path / "run")


@pytest.mark.timeout(180)  # one interpreter that imports torch
def test_a_killed_process_goes_on_to_the_same_bits(store, tmp_path):
    recipe = dataclasses.replace(recipes.get("gmml", "mu"), epochs=12)
    words = ["pretrain", "gmml", "mu", "--data", str(store), "--out", str(tmp_path / "killed"), "--epochs", "12"]
    process = subprocess.Popen(
        [sys.executable, "-m", "cxrlib", *words, "--device", "cpu", "--checkpoint-steps", "1"],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while not (tmp_path / "killed" / "last.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(float(np.random.default_rng().uniform(0, 0.15)))  # any step will do: a seed would test one for ever
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "result.json").exists(), "the run was over before the signal came: give it more epochs"
    pretrain(recipe, store, tmp_path / "killed", device="cpu")
    pretrain(recipe, store, tmp_path / "whole", device="cpu")
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    assert not list((tmp_path / "killed").glob(".*.part"))


def test_a_run_that_is_told_to_stop_saves_and_says_how_to_go_on(whole, store, tmp_path, monkeypatch, capsys):
    real, calls = loop.step, 0

    def told(*args):
        nonlocal calls
        calls += 1
        if calls == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args)

    monkeypatch.setattr(loop, "step", told)
    words = ["pretrain", "dino", "mu", "--data", str(store), "--out", str(tmp_path / "run"), "--epochs", "3", "--device", "cpu"]
    assert cli.main(words) == 128 + signal.SIGTERM
    assert "stopped after step 4" in capsys.readouterr().out
    assert "read-ahead" not in {thread.name for thread in threading.enumerate()}
    monkeypatch.setattr(loop, "step", real)
    assert cli.main(words) == 0
    assert "going on with" in capsys.readouterr().out
    assert_same_run(whole["dino"], tmp_path / "run")
    before = (tmp_path / "run" / "last.safetensors").read_bytes()
    assert cli.main(words) == 0 and "is finished" in capsys.readouterr().out
    assert (tmp_path / "run" / "last.safetensors").read_bytes() == before


def test_a_loss_that_is_not_a_number_stops_the_run_and_spares_the_last_good_state(store, tmp_path, monkeypatch):
    from cxrlib.pretraining import methods

    real, calls = methods.l1_on_corrupted, 0

    def poisoned(*args):
        nonlocal calls
        calls += 1
        return real(*args) * (float("nan") if calls == 4 else 1.0)

    monkeypatch.setattr(methods, "l1_on_corrupted", poisoned)
    with pytest.raises(CxrError, match="the loss is nan .* at step 4, .*last good state"):
        pretrain(MU["gmml"], store, tmp_path / "run", device="cpu", checkpoint_steps=1)
    tensors, progress = read_tensors(tmp_path / "run" / "last.safetensors")
    assert progress["step"] == 3 and all(torch.isfinite(value).all() for value in tensors.values())


@pytest.mark.parametrize("method", MU)
def test_only_train_val_images_are_seen_and_all_of_them(store, tmp_path, monkeypatch, method):
    real, seen = loop.films, []

    def notes(run):
        for part in real(run):
            np.testing.assert_array_equal(part.img_BYX, run.store.images_NYX[part.rows])
            seen.extend(part.rows.tolist())
            yield part

    monkeypatch.setattr(loop, "films", notes)
    pretrain(dataclasses.replace(MU[method], epochs=1, batch=4), store, tmp_path / "run", device="cpu")
    table = ImageStore.open(store).table
    assert set(table["split"].iloc[seen]) == {"train_val"} and len(seen) == len(set(seen))
    assert len(seen) == (table["split"] == "train_val").sum() // 4 * 4


@pytest.mark.parametrize("method", MU)
def test_a_run_says_how_fast_it_was(whole, method):
    done = json.loads((whole[method] / "result.json").read_text())
    assert done["images_per_s"] > 0 and 0 <= done["data_wait"] < 1 and done["mfu"] is None  # a CPU has no MFU


@pytest.mark.parametrize(("name", "passes"), [("gmml", 2.0), ("dino", 2 + 2 / 3)])
def test_the_work_of_a_step_is_counted_over_all_views(name, passes):
    """Each large view costs what the encoder costs, and what comes after it; DINO's small ones cost what small images do."""
    recipe = recipes.get(name, "small_224")
    encoder = recipe.build()
    large = passes * macs(encoder)
    small = 8 * macs(dataclasses.replace(recipe, image_size=96).build()) if name == "dino" else 0
    method = METHODS[name](recipe)
    counted = method.macs(method.build(encoder)[0])
    assert 1.0 < counted / (large + small) < 1.05


def test_labels_do_not_matter(whole, store, tmp_path, monkeypatch):
    opened = ImageStore.open

    def without_labels(folder):
        store = opened(folder)
        store.labels_NC = None
        return store

    monkeypatch.setattr(ImageStore, "open", without_labels)
    pretrain(MU["gmml"], store, tmp_path / "run", device="cpu")
    assert_same_run(whole["gmml"], tmp_path / "run")


def test_what_is_wrong_is_one_line(whole, store, tmp_path, capsys):
    words = ["pretrain", "gmml", "mu", "--data", str(store), "--out", str(whole["gmml"]), "--epochs", "3"]
    wrong = {
        "recipe lr = 0.003, now it is 0.1": [*words, "--lr", "0.1"],
        "no field 'colour'": [*words, "--set", "colour=3"],
        "'x' is not of that kind": [*words, "--set", "depth=x"],
        "takes 2 numbers": [*words, "--set", "share=0.5"],
        "align 5 must divide": [*words, "--set", "align=5"],
        "no gmml recipe 'big'": ["pretrain", "gmml", "big", *words[3:]],
        "no pre-training 'mae'": ["pretrain", "mae", "mu", *words[3:]],
        "reads 96 px": ["pretrain", "gmml", "cpu", "--data", str(store), "--out", str(tmp_path / "run")],
        "is a pre-training, which scores nothing": ["evaluate", str(whole["gmml"])],
        "must tile them": ["pretrain", "dino", "mu", "--data", str(store), "--out", str(tmp_path / "run"), "--set", "local_size=12"],
    }
    for expected, arguments in wrong.items():
        assert cli.main(arguments) == 2, arguments
        said = capsys.readouterr().err
        assert expected in said and said.count("\n") == 1


# Into the models


@pytest.mark.parametrize("method", MU)
@pytest.mark.parametrize("kind", ["vit", "lt_vit", "c_tran", "query2label", "clarity"])
def test_the_encoder_starts_every_model_of_the_library(whole, method, kind):
    """Strictly: every tensor of the file is used, and only the model's own parts keep their start."""
    path = whole[method] / "encoder.safetensors"
    encoder = load_file(path)
    options = {"token_noise": 0.0} if kind == "clarity" else {}
    model = build_model(
        kind, options, image_size=32, patch_size=8, in_channels=1, num_classes=3, width=24, depth=2, heads=3, stem="patch"
    )
    fresh = start_from(model, str(path))
    state = model.state_dict()
    assert "head.weight" in fresh or kind == "clarity"
    for name, value in encoder.items():
        got = state[name]
        if kind == "clarity" and name in ("cls_token", "pos_embed"):
            got = torch.cat([got[:, :1], got[:, 3:]], dim=1) if name == "pos_embed" else got[:, :1]
        assert torch.equal(got, value), name
    assert set(state) - set(encoder) == fresh


def test_the_kept_encoder_is_gmml_s_own_and_dino_s_teacher(whole):
    for method, part in (("gmml", "model."), ("dino", "ema.")):
        state, _ = read_tensors(whole[method] / "last.safetensors")
        encoder, header = read_tensors(whole[method] / "encoder.safetensors")
        assert header["epoch"] == 3 and header["recipe"]["method"] == method
        for name, value in encoder.items():
            assert torch.equal(state[f"{part}encoder.{name}"], value)
    assert any(not torch.equal(state[f"model.encoder.{name}"], value) for name, value in encoder.items())


def test_a_run_may_start_from_weights(whole, store, tmp_path):
    recipe = dataclasses.replace(MU["dino"], weights=str(whole["gmml"] / "encoder.safetensors"), epochs=1, lr=0.0, min_lr=0.0)
    pretrain(recipe, store, tmp_path / "run", device="cpu")
    first, second = load_file(whole["gmml"] / "encoder.safetensors"), load_file(tmp_path / "run" / "encoder.safetensors")
    for name, value in first.items():
        torch.testing.assert_close(second[name], value)
    assert len(json.loads((tmp_path / "run" / "run.json").read_text())["weights_sha256"]) == 64
