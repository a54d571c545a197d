"""Anatomical priors: the table of structures, regions, sources, the store beside the images, moving with them, and the check."""

import json
import re

import numpy as np
import pytest
import torch
from tiny_store import tiny_store
from torch import nn

import cxrlib  # noqa: F401  (before torchxrayvision: see cxrlib._compat)
from cxrlib.cli import main
from cxrlib.data import ImageStore, prepare, read_nih
from cxrlib.data.augment import Ranges, affine_matrices, warp
from cxrlib.errors import CxrError
from cxrlib.findings import CHEXPERT_11, CHEXPERT_COMPETITION, NIH_FINDINGS
from cxrlib.phantom import STRUCTURES, draw, write_cohort
from cxrlib.priors import (
    PriorStore,
    Rule,
    make_priors,
    move_boxes,
    move_regions,
    phantom_source,
    pspnet_source,
    region,
    rule_of,
    rules,
    template,
    template_source,
    to_patches,
)
from cxrlib.priors.check import check_priors, check_template, share_inside
from cxrlib.priors.moving import resize_matrix
from cxrlib.priors.sources import PSPNET_FILE, find_pspnet, load_pspnet, segment, shrink


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """A phantom cohort of 40 images and its store at the same size."""
    folder = tmp_path_factory.mktemp("cohort") / "phantom"
    write_cohort(folder, n=40, size=64, seed=3, prevalence="enriched", progress=False)
    return folder, prepare(read_nih(folder), folder.parent / "store", size=64)


# The table and the regions


def test_every_finding_has_a_rule_and_cardiomegaly_is_not_in_the_lungs():
    assert tuple(rules()) == NIH_FINDINGS
    assert all(set(rule.structures) <= set(STRUCTURES) for rule in rules().values())
    assert rule_of("Cardiomegaly").structures == ("Heart", "Mediastinum")
    assert rule_of("Pleural Effusion") == rule_of("Effusion") and rule_of("Effusion").grow_down > 0
    assert all(rule_of(finding) for finding in CHEXPERT_COMPETITION)
    assert all(rule_of(finding) for finding in CHEXPERT_11)  # and of none beyond them: a fracture may lie anywhere
    assert rule_of("Lung Lesion") == rule_of("Mass") and rule_of("Enlarged Cardiomediastinum") == rule_of("Cardiomegaly")
    with pytest.raises(CxrError, match="finding_structures.csv"):
        rule_of("Support Devices")


def test_region_by_hand():
    heart, spine = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
    heart[10, 4] = True
    spine[4:16, 12] = True
    structures = {"Heart": heart, "Spine": spine}
    assert np.array_equal(region(structures, Rule(("Heart",), 0.0, 0.0, "all")), heart)
    # 0.1 of 20 pixels is 2: the disc of radius 2 has 13 pixels.
    grown = region(structures, Rule(("Heart",), 0.1, 0.0, "all"))
    assert grown.sum() == 13 and grown[8, 4] and grown[10, 6] and not grown[12, 6]
    down = region(structures, Rule(("Heart",), 0.0, 0.15, "all"))
    assert np.array_equal(np.argwhere(down)[:, 0], [10, 11, 12, 13]) and down.sum() == 4
    both = region(structures, Rule(("Heart", "Spine"), 0.0, 0.0, "lower"))
    assert np.flatnonzero(both.any(axis=1)).tolist() == list(range(10, 16))  # rows 4 to 15, so from 10 on
    assert not region(structures, Rule(("Aorta",), 0.1, 0.1, "lower")).any()


def test_template_is_a_rough_chest():
    size = 100
    structures = template(size)
    assert set(structures) <= set(STRUCTURES)
    heart, left, right = structures["Heart"], structures["Left Lung"], structures["Right Lung"]
    assert np.argwhere(heart)[:, 1].mean() > 50 and np.argwhere(left)[:, 1].mean() > 65 > 35 > np.argwhere(right)[:, 1].mean()
    for finding, rule in rules().items():
        assert 0.1 < region(structures, rule).mean() < 0.75, finding  # neither nothing nor everything
    assert template(size) is structures


def test_regions_hold_the_phantoms_lesions():
    """The phantom draws lesions without knowing this table; the table should still hold them."""
    inside: dict[str, list[float]] = {}
    for seed, findings in enumerate([("Mass", "Effusion"), ("Nodule", "Cardiomegaly"), ("Pneumothorax",), ("Infiltration", "Hernia")] * 2):
        phantom = draw(seed, size=96, findings=findings)
        for finding, mask_YX in phantom.lesion_masks.items():
            region_YX = region(phantom.anatomy, rule_of(finding))
            inside.setdefault(finding, []).append((mask_YX & region_YX).sum() / mask_YX.sum())
    assert len(inside) == 7
    assert {finding: min(shares) for finding, shares in inside.items() if min(shares) < 0.8} == {}


# The store


def test_phantom_priors_are_the_exact_anatomy(cohort, tmp_path):
    folder, store = cohort
    priors = make_priors(store, tmp_path / "priors", source="phantom", structures_of=phantom_source(store, 64, folder), size=64)
    from cxrlib.phantom import read_masks

    for row in (0, 17, 39):
        _, anatomy = read_masks(folder / "masks" / (store.table["image"].iloc[row][:-4] + ".npz"))
        for finding in ("Cardiomegaly", "Effusion", "Hernia"):
            expected = region(anatomy, rule_of(finding))
            assert np.array_equal(priors.regions([row], [finding])[0, 0].numpy().astype(bool), expected)
    several = priors.regions([5, 2], ["Mass", "Cardiomegaly"])
    assert several.shape == (2, 2, 64, 64) and several.dtype == torch.uint8
    assert torch.equal(several[1, 0], priors.regions([2])[0, store.findings.index("Mass")])
    assert not torch.equal(several[0], several[1])


def test_template_priors_take_one_images_room(tmp_path):
    store = tiny_store(tmp_path, n=30)
    priors = make_priors(store, tmp_path / "priors", source="template", structures_of=template_source(store, 32), size=32)
    assert (tmp_path / "priors" / "regions.bits").stat().st_size == priors.meta["regions"] * 32 * 32 // 8
    every = priors.regions(np.arange(30))
    assert every.shape == (30, 3, 32, 32) and (every == every[:1]).all()
    assert np.array_equal(every[7, 2].numpy().astype(bool), region(template(32), rule_of("Hernia")))
    assert priors.meta["store"] == store.sha256 and priors.source == "template"


def test_priors_are_made_once_and_refused_when_they_do_not_fit(tmp_path):
    store = tiny_store(tmp_path / "a", n=30)
    other = tiny_store(tmp_path / "b", n=30, seed=1)
    out = tmp_path / "priors"
    make_priors(store, out, source="template", structures_of=template_source(store, 32), size=32)
    before = (out / "priors.json").read_text()

    def never(rows):
        raise AssertionError("made again")

    make_priors(store, out, source="template", structures_of=never, size=32)
    assert (out / "priors.json").read_text() == before
    with pytest.raises(CxrError, match="another source, size or rules"):
        make_priors(store, out, source="template", structures_of=never, size=64)
    with pytest.raises(CxrError, match="another image store"):
        PriorStore.open(out, other)
    with pytest.raises(CxrError, match="no region for Mass"):
        empty = PriorStore.open(out)
        empty.findings = ("Nodule",)
        empty.regions([0], ["Mass"])
    with pytest.raises(CxrError, match="multiple of 8"):
        make_priors(store, tmp_path / "odd", source="template", structures_of=never, size=30)
    with pytest.raises(CxrError, match="no finished priors"):
        PriorStore.open(tmp_path / "nowhere")


def test_damaged_priors_are_refused(tmp_path):
    store = tiny_store(tmp_path, n=30)
    out = tmp_path / "priors"
    make_priors(store, out, source="template", structures_of=template_source(store, 32), size=32)
    good_bits, good_meta = (out / "regions.bits").read_bytes(), (out / "priors.json").read_text()
    (out / "regions.bits").write_bytes(good_bits[:40] + bytes([good_bits[40] ^ 1]) + good_bits[41:])
    with pytest.raises(CxrError, match="block 0 of regions.bits was changed"):
        PriorStore.open(out)
    (out / "regions.bits").write_bytes(good_bits[:-1])
    with pytest.raises(CxrError, match="bytes instead of"):
        PriorStore.open(out)
    (out / "regions.bits").write_bytes(good_bits)
    (out / "priors.json").write_text(json.dumps(json.loads(good_meta) | {"store": store.sha256[::-1]}))
    with pytest.raises(CxrError, match="priors.json was changed"):
        PriorStore.open(out)
    (out / "priors.json").write_text(good_meta)
    PriorStore.open(out, store)


def test_a_killed_call_is_finished_by_the_next(tmp_path):
    store = tiny_store(tmp_path, n=150)  # three blocks
    rng = np.random.default_rng(0)
    masks = rng.random((150, 32, 32)) < 0.2
    asked = []

    def source(rows, stop_at=None):
        asked.append(rows[0])
        if rows[0] == stop_at:
            raise KeyboardInterrupt
        return [{"Left Lung": masks[row], "Mediastinum": masks[row]} for row in rows]

    whole = make_priors(store, tmp_path / "whole", source="pspnet", structures_of=source, size=32)
    asked.clear()
    with pytest.raises(KeyboardInterrupt):
        make_priors(store, tmp_path / "cut", source="pspnet", structures_of=lambda rows: source(rows, 128), size=32)
    with pytest.raises(CxrError, match="no finished priors"):
        PriorStore.open(tmp_path / "cut")
    with pytest.raises(CxrError, match="other settings"):
        make_priors(store, tmp_path / "cut", source="phantom", structures_of=source, size=32)
    with open(tmp_path / "cut" / "regions.bits.part", "ab") as file:
        file.write(b"half a block")
    asked.clear()
    again = make_priors(store, tmp_path / "cut", source="pspnet", structures_of=source, size=32)
    assert asked == [128] and again.meta == whole.meta
    assert (tmp_path / "cut" / "regions.bits").read_bytes() == (tmp_path / "whole" / "regions.bits").read_bytes()
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == ["priors.json", "regions.bits"]


def test_an_empty_region_is_replaced_by_the_templates_and_counted(tmp_path):
    store = tiny_store(tmp_path, n=30)
    nothing = {name: np.zeros((32, 32), bool) for name in STRUCTURES}
    lungs = nothing | {"Left Lung": template(32)["Left Lung"]}
    priors = make_priors(
        store, tmp_path / "priors", source="pspnet", size=32, structures_of=lambda rows: [nothing if row == 3 else lungs for row in rows]
    )
    found = priors.regions([3, 4]).numpy().astype(bool)
    mass, hernia = store.findings.index("Mass"), store.findings.index("Hernia")
    assert np.array_equal(found[0, mass], region(template(32), rule_of("Mass")))
    assert np.array_equal(found[1, mass], region(lungs, rule_of("Mass")))
    assert np.array_equal(found[1, hernia], region(template(32), rule_of("Hernia")))  # lungs tell nothing of a hernia
    assert priors.replaced == 2 + 29  # both regions of one image, the hernia's of the others


def test_another_phantoms_anatomy_is_refused(cohort, tmp_path):
    folder, store = cohort
    write_cohort(tmp_path / "other", n=40, size=64, seed=4, progress=False)
    with pytest.raises(CxrError, match="not the image in the store"):
        phantom_source(store, 64, tmp_path / "other")
    with pytest.raises(CxrError, match="no phantom cohort"):
        phantom_source(store, 64, tmp_path)
    with pytest.raises(CxrError, match="only phantoms"):
        phantom_source(tiny_store(tmp_path / "real", n=30), 64, folder)


# PSPNet


class Tiny(nn.Module):
    """Stands in for the network: structure k is where grey is above k / 16. TorchXRayVision's own code loads it."""

    def __init__(self, classes: int):
        super().__init__()
        self.classify = nn.Conv2d(3, classes, 1)

    def forward(self, x):
        return self.classify(x)


@pytest.fixture
def pspnet(tmp_path, monkeypatch):
    from torchxrayvision.baseline_models import chestx_det

    network = Tiny(14)
    with torch.no_grad():
        network.classify.weight.zero_()
        network.classify.weight[:, 0, 0, 0] = 0.229
        network.classify.bias.copy_(0.485 - torch.arange(14) / 16 - 1 / 64)
    state = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}  # as DataParallel saves it
    torch.save(state, tmp_path / PSPNET_FILE)
    monkeypatch.setattr(chestx_det, "pspnet", Tiny)
    return tmp_path / PSPNET_FILE


def test_pspnet_through_torchxrayvisions_own_code(pspnet):
    model = load_pspnet(find_pspnet(pspnet))
    img_BYX = torch.zeros(2, 64, 64, dtype=torch.uint8)
    img_BYX[0, :, 32:] = 128  # just over one half
    found = segment(model, img_BYX, 32)
    assert list(found[0]) == list(STRUCTURES) and found[0]["Heart"].shape == (32, 32)
    for k, name in enumerate(STRUCTURES):
        bright = 128 / 255 > k / 16 + 1 / 64
        assert found[0][name][:, 20:].all() == bright and found[0][name][:, 20:].any() == bright, name
        assert not found[1][name].any()


def test_pspnet_priors(pspnet, tmp_path):
    store = tiny_store(tmp_path, n=30)
    priors = make_priors(store, tmp_path / "priors", source="pspnet", structures_of=pspnet_source(store, 32, pspnet), size=32)
    img_YX = torch.from_numpy(store.image(4))
    by_hand = region(segment(load_pspnet(pspnet), img_YX[None], 32)[0], rule_of("Mass"))
    assert np.array_equal(priors.regions([4], ["Mass"])[0, 0].numpy().astype(bool), by_hand)
    assert 0.01 < by_hand.mean() < 0.99


def test_missing_or_damaged_weights_are_one_clear_line(pspnet, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(CxrError, match=f"{PSPNET_FILE} .273 MB. to that place, or use the source template"):
        find_pspnet()
    with pytest.raises(CxrError, match="must be called"):
        (tmp_path / "weights.pth").write_bytes(b"")
        find_pspnet(tmp_path / "weights.pth")
    digest = __import__("hashlib").sha256(b"not weights").hexdigest()
    pspnet.write_bytes(b"not weights")
    with pytest.raises(CxrError, match=digest) as caught:
        load_pspnet(pspnet)
    assert "\n" not in str(caught.value)


def test_pspnet_expects_the_structures_of_the_table():
    from torchxrayvision.baseline_models.chestx_det import PSPNet

    assert tuple(PSPNet.targets) == STRUCTURES


# Moving


def test_image_regions_and_boxes_move_together():
    """A bright rectangle in the image, its mask and its box, all moved: they must still lie on one another."""
    size = 128
    boxes = torch.tensor([[30.0, 44.0, 62.0, 60.0], [70.0, 80.0, 90.0, 112.0]])
    draws_BK = torch.tensor([[0.9, 0.2, 0.7, 0.4, 0.5, 0.5], [0.1, 0.8, 0.3, 0.6, 0.5, 0.5]])
    matrix_B23 = affine_matrices(draws_BK, Ranges(rotation=12, scale=0.2, shift=0.08), size=(size, size))
    img_BIYX = torch.zeros(2, 1, size, size)
    for b, (x0, y0, x1, y1) in enumerate(boxes.int().tolist()):
        img_BIYX[b, 0, y0:y1, x0:x1] = 1
    moved = warp(img_BIYX, matrix_B23) > 0.5
    small = torch.nn.functional.avg_pool2d(img_BIYX, 2)  # regions are kept at half the image's size
    region_moved = move_regions(small, matrix_B23, image=size)[:, 0].repeat_interleave(2, 1).repeat_interleave(2, 2) > 0.5
    for b in range(2):
        both, either = (moved[b, 0] & region_moved[b]).sum(), (moved[b, 0] | region_moved[b]).sum()
        assert both / either > 0.88
        still = img_BIYX[b, 0] > 0.5
        assert (still & moved[b, 0]).sum() / (still | moved[b, 0]).sum() < 0.7  # it did move
        rows, columns = moved[b, 0].nonzero(as_tuple=True)
        seen = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
        torch.testing.assert_close(move_boxes(boxes[b : b + 1], matrix_B23[b])[0], seen, atol=1.5, rtol=0)


def test_a_matrix_for_a_smaller_map_of_the_same_scene():
    matrix_B23 = torch.tensor([[[0.9, -0.1, 12.0], [0.1, 0.9, -4.0]]])
    small = resize_matrix(matrix_B23, image=96, size=24)
    point = torch.tensor([40.0, 64.0, 1.0])
    expected = (matrix_B23[0] @ point) / 4
    torch.testing.assert_close(small[0] @ torch.tensor([10.0, 16.0, 1.0]), expected)


def test_no_augmentation_moves_nothing():
    regions = (torch.rand(2, 3, 16, 16) < 0.5).to(torch.uint8)
    matrix_B23 = affine_matrices(torch.full((2, 6), 0.5), Ranges(rotation=10, scale=0.1, shift=0.1), size=(64, 64))
    assert torch.equal(move_regions(regions, matrix_B23, image=64), regions.float())
    boxes = torch.tensor([[1.5, 2.0, 30.0, 40.0]])
    torch.testing.assert_close(move_boxes(boxes, matrix_B23[0]), boxes)


def test_a_patch_that_touches_a_region_is_in_it():
    regions = torch.zeros(1, 1, 8, 8)
    regions[0, 0, 2, 3] = 1
    assert to_patches(regions, (4, 2))[0, 0].tolist() == [[0, 0], [1, 0], [0, 0], [0, 0]]


def test_shrinking_a_mask():
    mask = np.zeros((8, 8), bool)
    mask[:4, :4], mask[7, 7] = True, True
    assert np.array_equal(shrink(mask, 2), [[True, False], [False, False]])
    assert shrink(mask, 8) is mask


# The check


def test_share_of_a_box_inside_by_hand():
    region_SS = np.zeros((10, 10))
    region_SS[:, :5] = 1
    assert share_inside(np.array([3.0, 2.0, 7.0, 4.0]), region_SS) == pytest.approx(0.5)
    assert share_inside(np.array([4.5, 2.5, 6.5, 3.0]), region_SS) == pytest.approx(0.25)
    assert share_inside(np.array([-4.0, 0.0, 2.0, 10.0]), region_SS) == 1.0  # what lies outside the image is not counted
    assert np.isnan(share_inside(np.array([11.0, 0.0, 12.0, 1.0]), region_SS))


def test_check_of_phantom_priors(cohort, tmp_path):
    folder, store = cohort
    priors = make_priors(store, tmp_path / "exact", source="phantom", structures_of=phantom_source(store, 64, folder))
    exact = {row.finding: row for row in check_priors(priors, store)}
    assert sum(row.boxes for row in exact.values()) == len(store.boxes) > 5
    mean = np.mean([row.inside for row in exact.values()])
    priors = make_priors(store, tmp_path / "template", source="template", structures_of=template_source(store, 64))
    rough = check_priors(priors, store)
    assert mean > 0.85 and all(0 < row.region < 1 for row in rough)
    nowhere = make_priors(
        store, tmp_path / "corner", source="pspnet",
        structures_of=lambda rows: [{name: np.eye(64, 64, 60, dtype=bool) for name in STRUCTURES} for _ in rows],
    )  # fmt: skip
    assert np.nanmean([row.inside for row in check_priors(nowhere, store)]) < 0.1


def test_check_of_the_template_on_nihs_own_boxes():
    """All 984 boxes, from the tables inside torchxrayvision: what the template is worth, as a number."""
    results = {row.finding: row for row in check_template()}
    assert sum(row.boxes for row in results.values()) == 984 and len(results) == 8
    assert {finding for finding, row in results.items() if row.inside < 0.9} <= {"Cardiomegaly"}
    assert all(row.inside > row.region + 0.2 for row in results.values())  # better than a box anywhere


def test_command_line(cohort, tmp_path, capsys):
    folder, store = cohort
    data, out = str(folder.parent / "store"), str(tmp_path / "priors")
    assert main(["priors", "make", data, out, "--source", "phantom", "--phantom", str(folder), "--size", "32"]) == 0
    assert main(["priors", "check", out, data]) == 0
    shown = capsys.readouterr().out
    assert "regions of 14 findings for 40 images, source phantom" in shown and re.search(r"Effusion +\d+ +[01]\.\d\d", shown)
    assert main(["priors", "check"]) == 0
    shown = capsys.readouterr().out
    assert "looks at no image" in shown and re.search(r"Atelectasis +180 ", shown)
    assert main(["priors", "make", data, str(tmp_path / "p"), "--source", "phantom"]) == 2
    assert "needs --phantom" in capsys.readouterr().err
    assert main(["priors", "make", data, str(tmp_path / "p"), "--source", "pspnet", "--weights", str(tmp_path / PSPNET_FILE)]) == 2
    error = capsys.readouterr().err
    assert "download" in error and error.count("\n") == 1 and not (tmp_path / "p").exists()
    ImageStore.open(data)


def test_command_line_says_how_many_regions_the_template_replaced(cohort, tmp_path, capsys, monkeypatch):
    folder, store = cohort
    whole = phantom_source(store, 32, folder)

    def with_gaps(store, size, phantom):
        """Nothing at all is found in the second image, and no structure of a hernia in the fourth."""
        hernia = rule_of("Hernia").structures

        def structures(rows):
            found = whole(rows)
            found[1] = {name: np.zeros_like(mask) for name, mask in found[1].items()}
            found[3] = {name: mask & (name not in hernia) for name, mask in found[3].items()}
            return found

        return structures

    monkeypatch.setattr("cxrlib.priors.cli.phantom_source", with_gaps)
    data, out = str(folder.parent / "store"), str(tmp_path / "priors")
    assert main(["priors", "make", data, out, "--source", "phantom", "--phantom", str(folder), "--size", "32"]) == 0
    priors = PriorStore.open(out, store)
    # All regions of the second image; of the fourth the hernia's and the heart's, which share their structures.
    assert priors.replaced == len(priors.meta["rules"]) + 2
    assert f"note: {priors.replaced} empty regions were replaced by the template's" in capsys.readouterr().out


def test_real_boxes_and_the_template(real_folder, tmp_path):
    """Genuine NIH images, their own boxes, through the same store and the same check."""
    studies = read_nih(real_folder / "nih_mini256", metadata=real_folder / "nih")
    studies = studies.subset(np.flatnonzero(studies.table["image"].isin(studies.boxes["image"])))
    store = prepare(studies, tmp_path / "store", size=64)
    priors = make_priors(store, tmp_path / "priors", source="template", structures_of=template_source(store, 64))
    results = check_priors(priors, store)
    assert sum(row.boxes for row in results) == len(store.boxes) >= 32
    assert np.mean([row.inside for row in results]) > 0.75
