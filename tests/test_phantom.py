"""The phantom's pictures: what each finding does, and that masks and boxes are exact."""

import time

import numpy as np
import pytest

from cxrlib.errors import CxrError
from cxrlib.findings import NIH_FINDINGS
from cxrlib.phantom import STRUCTURES, draw
from cxrlib.phantom.drawing import build_scene, cardiothoracic_ratio, mask_box
from cxrlib.phantom.grid import FIELD_CM
from cxrlib.phantom.projection import optical_depth

SIZE = 112
# Added to a fixed chest: nothing else moves, so pictures with and without can be compared pixel by pixel.
LOCAL = (
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Pleural_Thickening",
    "Hernia",
)
BRIGHTER = ("Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Consolidation", "Pleural_Thickening")


def depth(seed: int, **how) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    scene = build_scene(seed, size=SIZE, **how)
    return optical_depth(scene), {f: np.logical_or.reduce(parts) for f, parts in scene.lesions.items()}


def test_same_seed_same_picture_and_another_seed_another():
    a, b, c = draw(3, size=48), draw(3, size=48), draw(4, size=48)
    assert np.array_equal(a.image_YX, b.image_YX)
    assert not np.array_equal(a.image_YX, c.image_YX)


@pytest.mark.parametrize("finding", NIH_FINDINGS)
def test_masks_are_there_and_boxes_are_their_exact_extent(finding):
    for seed in (1, 2):
        phantom = draw(seed, size=96, findings=[finding], view=("PA", "AP")[seed % 2], sex="FM"[seed % 2])
        mask = phantom.lesion_masks[finding]
        assert set(phantom.lesion_masks) == {finding} and mask.any() and mask.dtype == bool
        extent = mask_box(mask)
        boxes = np.array(phantom.boxes[finding])
        assert (*boxes[:, :2].min(0), *boxes[:, 2:].max(0)) == extent
        for x0, y0, x1, y1 in boxes.astype(int):
            inside = mask[y0:y1, x0:x1]  # every side of a box touches its lesion
            assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()


@pytest.mark.parametrize("finding", LOCAL)
def test_a_local_finding_changes_matter_only_at_its_mask(finding):
    for seed in (11, 12, 13):
        without, _ = depth(seed, drain=False)
        with_it, masks = depth(seed, findings=[finding], drain=False)
        change = np.abs(with_it - without)
        if (
            finding == "Pneumothorax"
        ):  # the lung that is left holds more tissue: an even, slight rise elsewhere
            change = np.where(change < 0.35, 0, change)
        total = change.sum()
        assert total > 0
        margin = int(np.ceil(0.9 / (FIELD_CM / SIZE)))
        grown = np.zeros_like(masks[finding])
        ys, xs = np.nonzero(masks[finding])
        for dy in range(-margin, margin + 1):
            for dx in range(-margin, margin + 1):
                grown[np.clip(ys + dy, 0, SIZE - 1), np.clip(xs + dx, 0, SIZE - 1)] = True
        # Soft edges fade below the mask's threshold; what lies farther than 9 mm from it is a few per cent
        # at most.
        share = 0.25 if finding in ("Infiltration", "Pneumonia") else 0.03
        assert change[~grown].sum() <= share * total, (seed, change[~grown].sum() / total)


@pytest.mark.parametrize("finding", BRIGHTER)
def test_opacities_attenuate(finding):
    for seed in (5, 6):
        without, _ = depth(seed, drain=False)
        with_it, masks = depth(seed, findings=[finding], drain=False)
        assert (with_it - without)[masks[finding]].mean() > 0.03


def test_pneumothorax_is_dark_without_markings_and_emphysema_is_dark():
    scene, other = (
        build_scene(7, size=SIZE, findings=["Pneumothorax"], drain=False),
        build_scene(7, size=SIZE, drain=False),
    )
    mask = np.logical_or.reduce(scene.lesions["Pneumothorax"])
    assert scene.vessels[mask].sum() == 0 < other.vessels[mask].sum()
    assert np.median((optical_depth(scene) - optical_depth(other))[mask]) < -0.05
    sick, well = depth(8, findings=["Emphysema"])[0], build_scene(8, size=SIZE)
    lungs = well.anatomy["Left Lung"] | well.anatomy["Right Lung"]
    assert (sick - optical_depth(well))[lungs].mean() < -0.15


def test_hernia_holds_gas_and_fluid():
    without, _ = depth(9)
    with_it, masks = depth(9, findings=["Hernia"], severity={"Hernia": 0.8})
    change = (with_it - without)[masks["Hernia"]]
    assert change.min() < -0.3 and change.max() > 0.15


def test_edema_fibrosis_and_atelectasis_leave_their_signs():
    healthy, edema = build_scene(14, size=SIZE), build_scene(14, size=SIZE, findings=["Edema"])
    both = [m for m in edema.lesions["Edema"]]
    assert len(both) == 2 and all(
        optical_depth(edema)[m].mean() > optical_depth(healthy)[m].mean() + 0.1 for m in both
    )
    assert edema.shape.upper_vessels > healthy.shape.upper_vessels
    fibrosis = build_scene(14, size=SIZE, findings=["Fibrosis"], severity={"Fibrosis": 0.8})
    mask = np.logical_or.reduce(fibrosis.lesions["Fibrosis"])
    rough = [np.abs(np.diff(optical_depth(s), axis=0))[mask[1:]].mean() for s in (fibrosis, healthy)]
    assert rough[0] > 1.15 * rough[1]
    collapsed = build_scene(14, size=SIZE, findings=["Atelectasis"], severity={"Atelectasis": 0.9})
    lost = np.array(healthy.shape.dome_y) - np.array(collapsed.shape.dome_y)
    assert lost.max() > 1.5 and lost.min() == 0  # one dome rises


def test_heart_is_wider_than_half_the_chest_only_in_cardiomegaly():
    for seed in range(6):
        for view in ("PA", "AP"):
            how = dict(size=SIZE, view=view, sex="FM"[seed % 2], age=20 + 12 * seed)
            assert cardiothoracic_ratio(draw(seed, **how).anatomy) < 0.5
            assert cardiothoracic_ratio(draw(seed, findings=["Cardiomegaly"], **how).anatomy) > 0.5


def test_severity_orders_how_much_changes():
    for finding in ("Effusion", "Mass", "Nodule", "Consolidation", "Pneumothorax"):
        area = [
            draw(21, size=96, findings=[finding], severity={finding: s}).lesion_masks[finding].sum()
            for s in (0.0, 1.0)
        ]
        change = [
            np.abs(
                depth(21, findings=[finding], severity={finding: s}, drain=False)[0]
                - depth(21, drain=False)[0]
            ).sum()
            for s in (0, 1)
        ]
        assert change[1] > change[0] and (finding == "Consolidation" or area[1] > area[0])


def widest_cm(finding: str, seed: int, *, size: int = 160) -> float:
    boxes = draw(seed, size=size, findings=[finding]).boxes[finding]
    return max(max(x1 - x0, y1 - y0) for x0, y0, x1, y1 in boxes) * FIELD_CM / size


def test_nodules_are_at_most_3_cm_and_masses_more():
    for seed in range(4):
        # 3 cm, magnified by up to 10 % on the film, and a pixel at each end
        assert widest_cm("Nodule", seed) <= 3.7
        assert widest_cm("Mass", seed) > 3.0


def test_anatomy_lies_where_it_should():
    phantom = draw(2, size=96)
    assert tuple(phantom.anatomy) == STRUCTURES
    centre = {name: np.argwhere(mask).mean(0) for name, mask in phantom.anatomy.items()}
    for pair in ("Lung", "Clavicle", "Scapula", "Hilus Pulmonis"):
        assert (
            centre[f"Right {pair}"][1] < 48 < centre[f"Left {pair}"][1]
        )  # the patient's right is the image's left
    assert centre["Heart"][1] > centre["Spine"][1] and centre["Weasand"][0] < centre["Heart"][0]
    assert centre["Left Clavicle"][0] < centre["Left Lung"][0] < centre["Facies Diaphragmatica"][0]
    lungs = phantom.anatomy["Left Lung"] | phantom.anatomy["Right Lung"]
    assert 0.15 < lungs.mean() < 0.5
    grey = phantom.image_YX.astype(float)
    assert grey[lungs].mean() + 40 < grey[phantom.anatomy["Mediastinum"]].mean()


def test_the_same_film_at_another_size():
    small, large = draw(5, size=64, findings=["Mass"]), draw(5, size=128, findings=["Mass"])
    x = np.array(small.boxes["Mass"]) * 2 - np.array(large.boxes["Mass"])
    assert np.abs(x).max() <= 2
    halved = large.image_YX.reshape(64, 2, 64, 2).mean((1, 3))
    assert np.corrcoef(halved.ravel(), small.image_YX.ravel())[0, 1] > 0.98


def test_bad_arguments_say_what_to_do():
    for wrong in (dict(findings=["Cold"]), dict(view="LL"), dict(sex="x"), dict(age=-1), dict(size=8)):
        with pytest.raises(CxrError):
            draw(0, **wrong)


def test_drawing_is_not_absurdly_slow():
    draw(0)
    start = time.process_time()
    for seed in range(4):
        draw(seed)
    assert (
        time.process_time() - start
    ) / 4 < 0.4  # an image takes about 0.015 s of CPU time; this catches a blunder
