"""Are the maps true: each test of maps against what it must say of a case whose answer is known."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from torch import nn

from cxrlib.errors import CxrError
from cxrlib.models import LabelTokenViT, VisionTransformer
from cxrlib.models.vit import ViTOutput
from cxrlib.recipes import mu
from cxrlib.sanity import counterfactual, label_shift
from cxrlib.sanity.agreement import rank_correlation, top_overlap
from cxrlib.sanity.deletion import Curve, baseline_of, curves, mixtures, pixel_order
from cxrlib.sanity.habit import another_patients, cell_parts, habit, inside_share
from cxrlib.sanity.randomize import randomized, shuffled, stages
from cxrlib.sanity.shortcut import auroc_by_strength, looks

SIZES = {"image_size": 32, "patch_size": 8, "in_channels": 1, "num_classes": 3, "width": 12, "depth": 3, "heads": 2}


class Brightness(nn.Module):
    """A classifier that is wholly known: finding c is the mean grey of quarter c of the film."""

    grid = (4, 4)

    def forward(self, img_BIYX):
        half = img_BIYX.shape[-1] // 2
        quarters = [img_BIYX[:, 0, y : y + half, x : x + half].mean(dim=(1, 2)) for y in (0, half) for x in (0, half)]
        return ViTOutput(torch.stack(quarters, dim=1), None, None)


def test_rank_correlation_is_spearmans_with_ties_and_has_no_opinion_on_a_constant():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, (4, 6)), rng.integers(0, 5, (4, 6))
    assert rank_correlation(a, b) == pytest.approx(spearmanr(a.ravel(), b.ravel()).statistic)
    assert rank_correlation(a, 3 * a + 7) == pytest.approx(1) and rank_correlation(a, -a) == pytest.approx(-1)
    assert np.isnan(rank_correlation(a, np.ones_like(b)))
    with pytest.raises(CxrError, match="one shape"):
        rank_correlation(a, b.T)
    with pytest.raises(CxrError, match="NaN"):
        rank_correlation(a, np.full(a.shape, np.nan))


def test_top_overlap_by_hand():
    a, b = np.zeros((2, 5)), np.zeros((2, 5))
    a[0, :2], b[0, 1:3] = 1, 1
    assert top_overlap(a, b, share=0.2) == pytest.approx(1 / 3)  # cells 0 1 against 1 2
    assert top_overlap(a, a, share=0.2) == 1 and np.isnan(top_overlap(a, np.zeros((2, 5))))
    with pytest.raises(CxrError, match="share"):
        top_overlap(a, b, share=0)


def test_stages_go_from_the_head_to_the_entrance_and_hold_every_parameter_once():
    model = LabelTokenViT(n2=2, **SIZES)
    parts = stages(model)
    assert list(parts) == ["head", "norm", "blocks.2", "blocks.1", "blocks.0", "patch_embed", "tokens"]
    names = [name for part in parts.values() for name in part]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters()) and "label_tokens" in parts["tokens"]


def test_shuffling_keeps_each_tensors_numbers_and_leaves_the_model_and_the_rest_alone():
    torch.manual_seed(0)
    model = VisionTransformer(**SIZES)
    nn.init.normal_(model.head.weight)
    before = {name: value.clone() for name, value in model.named_parameters()}
    for part, net in randomized(model, order="alone", seed=1):
        for name, value in net.named_parameters():
            torch.testing.assert_close(value.flatten().sort().values, before[name].flatten().sort().values, rtol=0, atol=0)
            assert torch.equal(value, before[name]) or name in stages(model)[part]
    last = dict(list(randomized(model, seed=1))[-1][1].named_parameters())
    assert not torch.equal(last["head.weight"], before["head.weight"]) and not torch.equal(last["blocks.0.attn.qkv.weight"], before["blocks.0.attn.qkv.weight"])
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    again = shuffled(model, ("head.weight",), seed=1)
    assert torch.equal(again.head.weight, shuffled(model, ("head.weight",), seed=1).head.weight)
    with pytest.raises(CxrError, match="order"):
        next(randomized(model, order="upwards"))
    with pytest.raises(CxrError, match="no parameter"):
        shuffled(model, ("tail.weight",), seed=0)


def test_mixtures_by_hand():
    image, other = np.arange(6, dtype=np.uint8).reshape(2, 3), np.full((2, 3), 9, np.uint8)
    order = pixel_order(np.array([[0.0, 0, 1], [0, 0, 2]]), (2, 3))
    assert order.tolist()[:2] == [5, 2]
    films = mixtures(image, other, order, steps=3)
    assert films[0].tolist() == image.tolist() and films[-1].tolist() == other.tolist()
    assert films[1].tolist() == [[0, 1, 9], [3, 4, 9]]


def test_deletion_and_insertion_know_the_right_map_from_the_wrong_one():
    rng = np.random.default_rng(0)
    image = rng.integers(90, 110, (32, 32), dtype=np.uint8)
    image[:16, :16] += 100
    right, wrong = np.zeros((4, 4)), np.zeros((4, 4))
    right[:2, :2], wrong[2:, 2:] = 1, 1
    recipe = mu()
    areas = {}
    for name, map_yx in (("right", right), ("wrong", wrong)):
        deletion, insertion = curves(Brightness(), image, map_yx, finding=0, recipe=recipe, baseline="mean", steps=8)
        assert deletion.score_K[0] == pytest.approx(insertion.score_K[-1]) and deletion.score_K[-1] == pytest.approx(insertion.score_K[0])
        areas[name] = deletion.area, insertion.area
    assert areas["right"][0] < areas["wrong"][0] and areas["right"][1] > areas["wrong"][1]
    assert Curve(np.array([0, 0.5, 1]), np.array([1.0, 0, 0])).area == pytest.approx(0.25)


def test_baselines():
    image = np.zeros((24, 24), np.uint8)
    image[8:16, 8:16] = 240
    assert np.unique(baseline_of(image, "mean")).tolist() == [round(image.mean())]
    blurred = baseline_of(image, "blur")
    assert blurred.max() < 240 and abs(float(blurred.mean()) - image.mean()) < 2
    with pytest.raises(CxrError, match="baseline"):
        baseline_of(image, "black")


def test_share_inside_by_hand():
    mask = np.zeros((1, 4, 6), bool)
    mask[0, :2, :3] = True  # the upper left cell of 2 x 2, and half of the next
    map_yx = np.array([[[3.0, 1], [1, 1]]])  # after its lowest is taken off, all weight is in the first cell
    np.testing.assert_allclose(inside_share(map_yx, mask), [1.0])
    np.testing.assert_allclose(cell_parts(mask, (2, 3)), [[[1, 0.5, 0], [0, 0, 0]]])
    np.testing.assert_allclose(inside_share(np.ones((1, 2, 2)), mask), mask.mean())  # a constant map weighs all alike
    with pytest.raises(CxrError, match="whole cells"):
        cell_parts(mask, (3, 3))


def test_strangers_have_the_same_finding_and_another_patient():
    finding = np.array(["Mass"] * 5 + ["Nodule"] * 2)
    patient = np.array(["a", "a", "b", "c", "d", "e", "e"])
    other = another_patients(finding, patient)
    assert (finding[other[:5]] == "Mass").all() and (patient[other[:5]] != patient[:5]).all()
    assert other[5:].tolist() == [-1, -1]


def test_habit_is_what_a_fixed_map_has_and_found_is_what_a_true_map_adds():
    rng = np.random.default_rng(0)
    masks, count = np.zeros((40, 24, 24), bool), 40
    for mask in masks:
        y, x = rng.integers(0, 4, 2) * 6
        mask[y : y + 6, x : x + 6] = True
    finding, patient = np.array(["Mass"] * count), np.array([f"p{i}" for i in range(count)])
    fixed = np.broadcast_to(rng.random((4, 4)), (count, 4, 4))
    assert habit(fixed, masks, finding, patient, resamples=50).found == (0, 0, 0)
    true = habit(cell_parts(masks, (4, 4)), masks, finding, patient, resamples=200)
    assert true.own[0] == pytest.approx(16) and true.found[1] > 8 and true.habit[0] < 4
    with pytest.raises(CxrError, match="two patients"):
        habit(fixed[:1], masks[:1], finding[:1], patient[:1])


def test_twins_differ_by_the_lesion_and_fours_by_finding_and_drain():
    twins = counterfactual.draw_twins("Mass", seeds=(1, 2), size=64)
    change = np.abs(twins.with_MYX.astype(int) - twins.without_MYX)
    inside = change[twins.mask_MYX].mean()
    assert inside > 5 and inside > 5 * change[~twins.mask_MYX].mean()
    fours = counterfactual.draw_fours(seeds=(1, 2), size=64)
    assert fours.film_22MYX.shape == (2, 2, 2, 64, 64) and fours.lesion_MYX.any(axis=(1, 2)).all()
    assert 0 < fours.cue_MYX.mean() < 0.1
    marked = counterfactual.draw_fours(seeds=(1,), size=64, cue="marker")
    assert marked.cue_MYX[0][:16, :16].any() and marked.cue_MYX[0][:16, -16:].any() and not marked.cue_MYX[0][20:].any()
    with pytest.raises(CxrError, match="no cue"):
        counterfactual.draw_fours(seeds=(1,), cue="tattoo")
    same = np.abs(fours.film_22MYX[1, 1].astype(int) - fours.film_22MYX[1, 0])
    assert same[~fours.cue_MYX].mean() < 1  # with the finding the drain lies in the same place


def test_effects_and_moves_of_a_model_that_is_known():
    twins = counterfactual.draw_twins("Mass", seeds=range(4), size=32, severity=1.0)
    result = counterfactual.moved(Brightness(), twins, method="edges", finding=0, findings=4, recipe=mu())
    assert result.alike_M.shape == (4,) and (result.alike_M > 0.5).all()
    quarter = (twins.with_MYX.astype(float) - twins.without_MYX)[:, :16, :16].mean(axis=(1, 2)) / 255 / 0.25
    np.testing.assert_allclose(result.logit_with_M - result.logit_without_M, quarter, atol=1e-5)
    assert counterfactual.moved(Brightness(), twins, method="centre", finding=0, findings=4, recipe=mu()).alike_M.tolist() == pytest.approx([1] * 4)
    fours = counterfactual.draw_fours(seeds=range(3), size=32)
    logits, found = counterfactual.effects(Brightness(), fours, finding=0, recipe=mu())
    means = fours.film_22MYX[..., :16, :16].mean(axis=(2, 3, 4)) / 255 / 0.25
    assert found.of_finding == pytest.approx(means[1, 0] - means[0, 0], abs=1e-4)
    assert logits.shape == (2, 2, 3) and found.of_cue == pytest.approx(means[0, 1] - means[0, 0], abs=1e-4)


def test_where_a_map_of_a_shortcut_looks():
    lesion, cue = np.zeros((1, 8, 8), bool), np.zeros((1, 8, 8), bool)
    lesion[0, :2, :2], cue[0, 6:, 6:] = True, True
    map_yx = np.zeros((1, 4, 4))
    map_yx[0, 3, 3] = 1
    assert looks(map_yx, lesion, cue) == (0, 16)
    assert looks(map_yx, lesion, cue | lesion).cue == 16  # what is both counts as lesion
    with pytest.raises(CxrError, match="no lesion or no cue"):
        looks(map_yx, lesion, lesion)


def test_auroc_by_strength_is_that_of_films_drawn_so():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 2, 30)) + np.array([[0, 2], [0.5, 2.5]])[..., None]  # the cue counts four times the finding
    values = auroc_by_strength(logits, (1, 0.95, 0.5, 0.05, 0))
    assert (np.diff(values) < 0).all() and values[0] > 0.9 and values[-1] < 0.2
    assert values[0] == pytest.approx(roc_auc_score([0] * 30 + [1] * 30, [*logits[0, 0], *logits[1, 1]]))
    assert values[2] == pytest.approx(roc_auc_score([0] * 60 + [1] * 60, logits.ravel()))


def test_weights_make_two_findings_independent_and_keep_each_frequency():
    rng = np.random.default_rng(0)
    a = rng.random(500) < 0.3
    labels = np.stack([a, rng.random(500) < 0.2 + 0.5 * a, rng.random(500) < 0.5], axis=1).astype(float)
    weight = label_shift.independent_weights(labels, 0, 1)
    assert weight.mean() == pytest.approx(1)
    shares = [np.average(labels[:, c], weights=weight) for c in (0, 1)]
    np.testing.assert_allclose(shares, labels[:, :2].mean(axis=0))
    assert np.average(labels[:, 0] * labels[:, 1], weights=weight) == pytest.approx(shares[0] * shares[1])
    only_neighbour = labels[:, 1]  # a score that sees the neighbour alone
    assert label_shift.weighted_auroc(only_neighbour, labels[:, 0], np.ones(500)) > 0.7
    assert label_shift.weighted_auroc(only_neighbour, labels[:, 0], weight) == pytest.approx(0.5)
    with pytest.raises(CxrError, match="missing"):
        label_shift.independent_weights(labels[labels[:, 0] == labels[:, 1]], 0, 1)
    with pytest.raises(CxrError, match="unknown"):
        label_shift.independent_weights(np.where(labels == 1, np.nan, labels), 0, 1)


def test_weighted_auroc_is_sklearns_and_prevalence_moves_the_predictive_value_alone():
    rng = np.random.default_rng(1)
    score, label, weight = rng.integers(0, 12, 300) / 12, (rng.random(300) < 0.4).astype(float), rng.random(300)
    assert label_shift.weighted_auroc(score, label, weight) == pytest.approx(roc_auc_score(label, score, sample_weight=weight))
    rare = label_shift.prevalence_weights(label, 0.05)
    assert np.average(label, weights=rare) == pytest.approx(0.05)
    assert label_shift.weighted_auroc(score, label, rare) == pytest.approx(roc_auc_score(label, score))
    better = score + label
    assert label_shift.predictive_value(better, label, rare, cut=0.9) < label_shift.predictive_value(better, label, np.ones(300), cut=0.9)
    assert np.isnan(label_shift.predictive_value(score, label, rare, cut=5)) and np.isnan(label_shift.weighted_auroc(score, np.ones(300), weight))
    drawn = label_shift.resampled(rare, count=4000, seed=0)
    assert label[drawn].mean() == pytest.approx(0.05, abs=0.015)
    with pytest.raises(CxrError, match="prevalence"):
        label_shift.prevalence_weights(label, 1.0)
