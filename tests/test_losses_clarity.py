"""CLARiTy's losses: values worked by hand, the formulas in loops, the sign of the gradient, and what it must not reach."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from cxrlib.errors import CxrError
from cxrlib.losses import (
    area_constraint,
    background_suppression,
    contrastive_tokens,
    distance_maps,
    mask_confinement,
    mask_proximity,
    masked_bce,
    orthogonal_tokens,
)
from cxrlib.losses.clarity import Counts, Weights, clarity_forward, clarity_terms, weighted_sum
from cxrlib.losses.distilled import distilled_bce

LABELS_BC = torch.tensor([[1.0, 0.0, float("nan")], [1.0, 1.0, 0.0]])


def heatmaps(seed: int = 0) -> torch.Tensor:
    return torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def regions(seed: int = 1) -> torch.Tensor:
    return (torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(seed)) < 0.3).float()


# Orthogonal and contrastive class tokens


def test_orthogonal_tokens_by_hand():
    # Three tokens in the plane: at 0, 90 and 45 degrees. Squared cosines of the pairs: 0, 1/2, 1/2. Mean: 1/3.
    layer = torch.tensor([[[2.0, 0.0], [0.0, 5.0], [3.0, 3.0]]])
    assert orthogonal_tokens(layer[None]).item() == pytest.approx(1 / 3)
    # A second layer with all tokens alike: 1. The mean of both: 2/3.
    assert orthogonal_tokens(torch.stack([layer, torch.ones(1, 3, 2)])).item() == pytest.approx(2 / 3)


def test_orthogonal_tokens_equal_loops():
    layers_QBCD = torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    total = 0.0
    for q in range(3):
        for b in range(2):
            for c in range(4):
                for other in range(4):
                    if other != c:
                        s, t = layers_QBCD[q, b, c], layers_QBCD[q, b, other]
                        total += float(s @ t / (s.norm() * t.norm())) ** 2
    assert orthogonal_tokens(layers_QBCD).item() == pytest.approx(total / (3 * 2 * 4 * 3), rel=1e-5)
    parts = sum(orthogonal_tokens(layers_QBCD[:, b : b + 1], count=2) for b in range(2))
    torch.testing.assert_close(parts, orthogonal_tokens(layers_QBCD))


def test_orthogonal_tokens_are_pushed_to_right_angles_from_either_side():
    for angle, sign in ((60.0, 1.0), (120.0, -1.0)):
        other = torch.tensor([math.cos(math.radians(angle)), math.sin(math.radians(angle))])
        layers_QBCD = torch.stack([torch.tensor([1.0, 0.0]), other])[None, None].requires_grad_()
        orthogonal_tokens(layers_QBCD).backward()
        # Descending moves the second token along the first one: against it below 90 degrees, with it above.
        assert math.copysign(1.0, layers_QBCD.grad[0, 0, 1, 0].item()) == sign
    right = torch.eye(4)[None, None].requires_grad_()
    loss = orthogonal_tokens(right)
    loss.backward()
    assert loss.item() == 0 and right.grad.abs().max() == 0
    assert orthogonal_tokens(torch.randn(2, 3, 1, 4)).item() == 0  # one finding has no pair


def test_contrastive_tokens_by_hand():
    # Tokens at 0, 90 and 180 degrees: cosines of the first 1, 0, -1; of the second 0, 1, 0.
    layers_QBCD = torch.tensor([[[[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]]])
    first = -math.log(math.e / (math.e + 1 + 1 / math.e))
    second = -math.log(math.e / (math.e + 2))
    one, two = torch.tensor([[1.0, 0.0, float("nan")]]), torch.tensor([[1.0, 1.0, 0.0]])
    assert contrastive_tokens(layers_QBCD, one).item() == pytest.approx(first)
    assert contrastive_tokens(layers_QBCD, two).item() == pytest.approx((first + second) / 2)
    assert contrastive_tokens(layers_QBCD, torch.zeros(1, 3)).item() == 0


def test_contrastive_tokens_want_opposites_where_orthogonal_ones_want_right_angles():
    right = torch.eye(3)[None, None].requires_grad_()
    contrastive_tokens(right, torch.tensor([[1.0, 0.0, 0.0]])).backward()
    assert right.grad[0, 0, 1, 0] > 0  # descending turns the second token away from the first, beyond 90 degrees


def test_token_losses_do_not_lose_digits_under_autocast():
    layers_QBCD = torch.randn(2, 2, 6, 24, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = orthogonal_tokens(layers_QBCD), contrastive_tokens(layers_QBCD, torch.ones(2, 6))
    assert low[0].dtype == low[1].dtype == torch.float32
    assert torch.equal(low[0], orthogonal_tokens(layers_QBCD))
    assert torch.equal(low[1], contrastive_tokens(layers_QBCD, torch.ones(2, 6)))


# Distance maps and the three mask losses


def test_distance_maps_by_hand():
    region = torch.zeros(1, 1, 3, 4)
    region[0, 0, 0, 0] = 1
    distance = distance_maps(region)[0, 0]
    assert distance[0, 0] == 0
    assert distance[0, 3].item() == pytest.approx(3 / 5)  # the diagonal of 3 x 4 is 5
    assert distance[2, 1].item() == pytest.approx(math.sqrt(5) / 5)


def test_distance_maps_equal_scipys():
    region = (torch.rand(3, 2, 9, 7, generator=torch.Generator().manual_seed(0)) < 0.08).float()
    region[0, 0], region[0, 1] = 0, 1  # none, and all
    ours = distance_maps(region)
    for b in range(3):
        for c in range(2):
            if region[b, c].any():
                expected = distance_transform_edt(region[b, c].numpy() == 0) / math.hypot(9, 7)
                np.testing.assert_allclose(ours[b, c], expected, atol=1e-6)
    assert (ours[0, 0] == 1).all() and (ours[0, 1] == 0).all()


def test_mask_losses_by_hand():
    # One row of four patches; the region is the first two. The diagonal is sqrt(17).
    heatmap = torch.tensor([[[[0.2, 0.6, 0.4, 0.8]]]])
    region = torch.tensor([[[[1.0, 1.0, 0.0, 0.0]]]])
    distance = distance_maps(region)
    torch.testing.assert_close(distance, torch.tensor([[[[0.0, 0.0, 1.0, 2.0]]]]) / math.sqrt(17))
    assert mask_proximity(heatmap, distance).item() == pytest.approx((0.4 * 1 + 0.8 * 2) / math.sqrt(17) / 2.0, rel=1e-5)
    assert mask_confinement(heatmap, region).item() == pytest.approx((0.4 + 0.8) / 4)
    assert area_constraint(heatmap, torch.tensor([[1.0]])).item() == pytest.approx(0.5)


def test_mask_losses_equal_loops():
    heatmap, region = heatmaps(), regions()
    distance = distance_maps(region)
    far = outside = area = present = 0.0
    for b in range(2):
        for c in range(3):
            H, M, d = (x[b, c].detach().flatten().tolist() for x in (heatmap, region, distance))
            far += sum(h * x for h, x in zip(H, d)) / sum(H)
            outside += sum(h * (1 - m) for h, m in zip(H, M)) / 20
            if LABELS_BC[b, c] == 1:
                area, present = area + sum(H) / 20, present + 1
    assert mask_proximity(heatmap, distance).item() == pytest.approx(far / 6, rel=1e-5)
    assert mask_confinement(heatmap, region).item() == pytest.approx(outside / 6, rel=1e-5)
    assert present == 3 and area_constraint(heatmap, LABELS_BC).item() == pytest.approx(area / 3, rel=1e-5)


def test_parts_of_a_batch_add_up():
    heatmap, region = heatmaps(), regions()
    distance = distance_maps(region)
    parts = [slice(0, 1), slice(1, 2)]
    for whole, part in (
        (mask_proximity(heatmap, distance), lambda s: mask_proximity(heatmap[s], distance[s], count=6)),
        (mask_confinement(heatmap, region), lambda s: mask_confinement(heatmap[s], region[s], count=6)),
        (area_constraint(heatmap, LABELS_BC), lambda s: area_constraint(heatmap[s], LABELS_BC[s], count=3)),
    ):
        torch.testing.assert_close(sum(part(s) for s in parts), whole)


def test_mask_losses_are_zero_at_their_ideal_map():
    region = regions()
    ideal = (region * 0.7).requires_grad_()
    assert mask_proximity(ideal, distance_maps(region)).item() == 0
    assert mask_confinement(ideal, region).item() == 0
    assert area_constraint(torch.zeros(2, 3, 5, 4), LABELS_BC).item() == 0
    assert area_constraint(heatmaps(), torch.zeros(2, 3)).item() == 0


def test_mask_losses_push_the_right_way():
    heatmap, region = heatmaps(), regions()
    distance = distance_maps(region)
    mask_proximity(heatmap, distance).backward()
    mean_far = (heatmap * distance).sum((2, 3)) / heatmap.sum((2, 3))
    farther = distance > mean_far[..., None, None] + 1e-4
    assert (heatmap.grad[farther] > 0).all() and (heatmap.grad[distance == 0] < 0).all()  # dim far away, brighten inside
    torch.testing.assert_close((heatmap * heatmap.grad).sum((2, 3)), torch.zeros(2, 3), atol=1e-6, rtol=0)  # not dimmer as a whole

    heatmap = heatmaps()
    mask_confinement(heatmap, region).backward()
    assert (heatmap.grad[region == 0] > 0).all() and (heatmap.grad[region == 1] == 0).all()

    heatmap = heatmaps()
    area_constraint(heatmap, LABELS_BC).backward()
    present = LABELS_BC == 1
    assert (heatmap.grad[present] > 0).all() and (heatmap.grad[~present] == 0).all()


# Background suppression


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_background_suppression_by_hand():
    background, full = torch.tensor([-1.0, 0.5, 2.0]), torch.tensor([1.0, 2.0, 1.5])
    # The third pair's background says more than the whole: the gate leaves it out, and it still counts in the mean.
    by_hand = (softplus(-1.0) / softplus(1.0) + softplus(0.5) / softplus(2.0)) / 3
    assert background_suppression(background, full).item() == pytest.approx(by_hand, rel=1e-6)
    assert background_suppression(background, full, count=6).item() == pytest.approx(by_hand / 2, rel=1e-6)


def test_background_suppression_has_no_gradient_in_its_denominator_and_none_beyond_its_gate():
    background, full = torch.tensor([-1.0, 2.0], requires_grad=True), torch.tensor([1.0, 1.5], requires_grad=True)
    background_suppression(background, full).backward()
    assert full.grad is None
    assert background.grad[0].item() == pytest.approx(1 / (1 + math.e) / softplus(1.0) / 2, rel=1e-5)  # lower is better
    assert background.grad[1] == 0


def test_an_empty_mask_still_gets_a_gradient():
    """Then background and whole are the same, but for rounding; only this term can open the mask again."""
    full = torch.tensor([-1.0, 2.0, 2.0])
    background = (full + torch.tensor([0.0, 2e-4, 0.1])).requires_grad_()
    background_suppression(background, full).backward()
    assert (background.grad[:2] > 0).all() and background.grad[2] == 0


def test_background_suppression_nears_zero_as_the_background_falls_silent():
    values = [background_suppression(torch.tensor([b]), torch.tensor([1.0])).item() for b in (0.9, 0.0, -3.0, -30.0)]
    assert values == sorted(values, reverse=True) and values[-1] < 1e-6 < values[0] < 1
    assert background_suppression(torch.zeros(0), torch.zeros(0)).item() == 0


def test_rare_findings_do_not_break_the_ratio():
    """Both logits far below zero: softplus is tiny there, and the ratio must stay a number."""
    background = torch.tensor([-40.0], requires_grad=True)
    loss = background_suppression(background, torch.tensor([-30.0]))
    loss.backward()
    assert 0 <= loss.item() < 1 and torch.isfinite(background.grad).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_loss_computes_in_float32(dtype):
    heatmap, region = heatmaps().detach().to(dtype), regions().to(dtype)
    distance, layers = distance_maps(region), torch.randn(2, 2, 3, 8).to(dtype)
    values = {
        "oct": (orthogonal_tokens(layers), orthogonal_tokens(layers.float())),
        "cct": (contrastive_tokens(layers, LABELS_BC), contrastive_tokens(layers.float(), LABELS_BC)),
        "prx": (mask_proximity(heatmap, distance), mask_proximity(heatmap.float(), distance)),
        "cnf": (mask_confinement(heatmap, region), mask_confinement(heatmap.float(), region.float())),
        "ac": (area_constraint(heatmap, LABELS_BC), area_constraint(heatmap.float(), LABELS_BC)),
        "bas": tuple(background_suppression(x, x + 1) for x in (heatmap.flatten(), heatmap.flatten().float())),
    }
    for name, (low, full) in values.items():
        assert low.dtype == torch.float32, name
        if name != "bas":  # there x + 1 itself was rounded
            torch.testing.assert_close(low, full, msg=name)


# The sum


def tiny_clarity(**options):
    from cxrlib.models import Clarity

    torch.manual_seed(0)
    sizes = {"image_size": (40, 32), "patch_size": 8, "in_channels": 1, "width": 24, "depth": 3, "heads": 3}
    model = Clarity(num_classes=3, **sizes, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    return model


IMAGES_BIYX = torch.randn(2, 1, 40, 32, generator=torch.Generator().manual_seed(5))


def test_sum_of_all_terms():
    weights = Weights(
        full=0.7, orthogonal=0.1, contrastive=0.2, proximity=0.3, confinement=0.4, area=0.5, background=0.6, teacher=0.25
    )
    out = clarity_forward(tiny_clarity(), IMAGES_BIYX, LABELS_BC, weights)
    teacher_BC = torch.randn(2, 3)
    terms = clarity_terms(out, LABELS_BC, regions(), teacher_BC, weights=weights)
    assert set(terms) == {"class_tokens", "foreground", *Weights._fields} - {"teacher"}
    plain = sum(terms[name].item() for name in ("class_tokens", "foreground")) + 0.7 * terms["full"].item()
    tokens = 0.1 * terms["orthogonal"].item() + 0.2 * terms["contrastive"].item()
    masks = sum(w * terms[n].item() for n, w in zip(("proximity", "confinement", "area", "background"), (0.3, 0.4, 0.5, 0.6)))
    assert masks > 0.1
    assert weighted_sum(terms, weights).item() == pytest.approx(plain + tokens + masks, rel=1e-5)
    assert weighted_sum(terms, weights, ramp=0.5).item() == pytest.approx(plain + tokens + masks / 2, rel=1e-5)


def test_terms_of_weight_zero_are_not_computed():
    off = Weights(full=0, orthogonal=0, proximity=0, confinement=0, area=0, background=0)
    out = clarity_forward(tiny_clarity(), IMAGES_BIYX, LABELS_BC, off)
    assert out.layers_QBCD is None and out.background_logits_G is None
    assert set(clarity_terms(out, LABELS_BC, weights=off)) == {"class_tokens", "foreground"}
    bare = clarity_forward(tiny_clarity(segment_cam=False), IMAGES_BIYX, LABELS_BC, Weights())
    assert set(clarity_terms(bare, LABELS_BC)) == {"class_tokens", "orthogonal"}
    with pytest.raises(CxrError, match="priors"):
        clarity_terms(clarity_forward(tiny_clarity(), IMAGES_BIYX, LABELS_BC, Weights()), LABELS_BC)


def test_parts_add_up_to_the_gradient_of_the_whole():
    model, weights, region = tiny_clarity(), Weights(contrastive=0.5), regions()
    whole = weighted_sum(clarity_terms(clarity_forward(model, IMAGES_BIYX, LABELS_BC, weights), LABELS_BC, region, weights=weights), weights)
    whole.backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    for b in range(2):
        part, counts = slice(b, b + 1), Counts.of(LABELS_BC)
        out = clarity_forward(model, IMAGES_BIYX[part], LABELS_BC[part], weights)
        weighted_sum(clarity_terms(out, LABELS_BC[part], region[part], weights=weights, counts=counts), weights).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-6, rtol=1e-4, msg=name)


def test_a_teachers_part_of_the_target():
    logits, labels, teacher = torch.tensor([[0.3, -1.2]]), torch.tensor([[1.0, float("nan")]]), torch.tensor([[0.8, 2.0]])
    p, q = torch.tensor(0.3).sigmoid(), torch.tensor(0.8).sigmoid()
    by_hand = 0.7 * -p.log() + 0.3 * -(q * p.log() + (1 - q) * (1 - p).log())
    torch.testing.assert_close(distilled_bce(logits, labels, teacher, share=0.3), by_hand)
    torch.testing.assert_close(distilled_bce(logits, labels, teacher, share=0.0), masked_bce(logits, labels))


def test_descending_the_mask_terms_confines_the_heatmap():
    """A short descent on one batch: less than half as much of the heatmap outside its region as at the start."""
    model, region = tiny_clarity(), torch.zeros(2, 3, 5, 4)
    region[:, :, 1:3, 1:3] = 1
    weights = Weights()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    outside = []
    for _ in range(25):
        out = clarity_forward(model, IMAGES_BIYX, LABELS_BC, weights)
        outside.append(mask_confinement(out.heatmap_BCyx, region).item())
        weighted_sum(clarity_terms(out, LABELS_BC, region, weights=weights), weights).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert outside[-1] < 0.5 * outside[0]
