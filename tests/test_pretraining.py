"""GMML and DINO: each equation against loops, whole runs that die and go on, and the way into every model."""

import dataclasses
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_store import tiny_store
from torch import nn

from cxrlib import cli
from cxrlib.errors import CxrError
from cxrlib.models.vit import VisionTransformer
from cxrlib.models.weights import start_from
from cxrlib.pretraining import loop, pretrain, recipes
from cxrlib.pretraining.clock import Clock, cosine
from cxrlib.pretraining.gmml import Decoder, Gmml, block_mask, corrupt, kept_layers, l1_on_corrupted, rectangles
from cxrlib.pretraining.views import View, blur, crop, crop_boxes, draw_view
from cxrlib.training.checkpoint import read_tensors


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
    for b in range(9):
        covered = np.zeros(size, bool)
        used = 0
        while covered.sum() < max(float(share_B[b]) * size[0] * size[1], 1) and used < R:
            y0, x0, y1, x1 = box_BR4[b, used].tolist()
            covered[y0:y1, x0:x1] = True
            used += 1
        assert np.array_equal(mask_BYX[b].numpy(), covered), b


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
    normed = [nn.functional.layer_norm(outputs[k - 1], (24,), model.encoder.norm.weight, model.encoder.norm.bias, 1e-6) for k in (2, 3, 4)]
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
