"""Maps to boxes and masks, on drawings small enough to check by eye, and against scipy, torch and scikit-learn."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.distance import directed_hausdorff

from cxrlib.data.frames import to_original
from cxrlib.errors import CxrError
from cxrlib.localization.boxes import (
    LEVELS,
    WANG_LEVELS,
    Frame,
    find_boxes,
    largest_components,
    two_level_boxes,
    unit,
    upsample,
)
from cxrlib.localization.masks import cut_mask, dice, hausdorff, mask_iou, sweep_mask


def drawing(text: str) -> np.ndarray:
    """A mask from rows of . and #."""
    return np.array([[mark == "#" for mark in row] for row in text.split()])


TWO_PARTS = drawing("""
    .##...
    .##..#
    ......
    ...##.
    ..###.
    ......""")


def test_the_largest_of_two_components_is_framed():
    assert largest_components(TWO_PARTS).tolist() == [[2, 3, 5, 5]]
    assert largest_components(TWO_PARTS, count=5).tolist() == [[2, 3, 5, 5], [1, 0, 3, 2], [5, 1, 6, 2]]


def test_components_touch_by_sides_and_not_by_corners():
    corner = drawing("""
        ##....
        ##....
        ..###.
        ..###.
        ......
        ......""")
    assert largest_components(corner).tolist() == [[2, 2, 5, 4]]
    corner[2, 1] = True  # now the two share a side
    assert largest_components(corner).tolist() == [[0, 0, 5, 4]]


def test_of_equal_components_the_upper_left_comes_first():
    assert largest_components(drawing("#.# ... #.#")).tolist() == [[0, 0, 1, 1]]


def test_one_pixel_nothing_and_everything():
    one = np.zeros((6, 6), bool)
    assert largest_components(one).shape == (0, 4)
    one[5, 3] = True
    assert largest_components(one).tolist() == [[3, 5, 4, 6]]
    assert largest_components(~np.zeros((6, 4), bool)).tolist() == [[0, 0, 4, 6]]


def by_scipy(mask_YX: np.ndarray) -> np.ndarray:
    labels, count = ndimage.label(mask_YX)
    if not count:
        return np.zeros((0, 4))
    best = np.bincount(labels.ravel())[1:].argmax()
    rows, columns = ndimage.find_objects(labels)[best]
    return np.array([[columns.start, rows.start, columns.stop, rows.stop]], float)


@pytest.mark.parametrize("share", [0.1, 0.4, 0.55, 0.6, 0.8])
def test_runs_give_what_scipy_labels(share):
    rng = np.random.default_rng(int(share * 100))
    for _ in range(150):
        mask = rng.random((rng.integers(1, 15), rng.integers(1, 15))) < share
        assert np.array_equal(largest_components(mask), by_scipy(mask)), mask


def test_a_spiral_is_one_component():
    spiral = drawing("""
        ######
        .....#
        ####.#
        #..#.#
        #....#
        ######""")
    assert largest_components(spiral).tolist() == [[0, 0, 6, 6]]


@pytest.mark.parametrize("grid, side", [((3, 3), 12), ((5, 4), 20), ((1, 1), 7), ((14, 14), 96)])
def test_upsampling_a_square_image_is_torchs(grid, side):
    map_yx = np.random.default_rng(0).normal(size=grid).astype(np.float32)
    ours = upsample(map_yx, Frame(side, side))
    torchs = torch.nn.functional.interpolate(torch.from_numpy(map_yx)[None, None], size=(side, side), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(ours, torchs[0, 0].numpy(), atol=1e-5)


def test_the_fast_sweep_equals_upsampling_to_full_size_and_labelling_every_pixel():
    rng = np.random.default_rng(3)
    for sigma, grid in ((0, 7), (1.2, 14)):
        noise = rng.random((grid, grid))
        map_yx = (ndimage.gaussian_filter(noise, sigma) if sigma else noise).astype(np.float32)
        heat_YX = unit(upsample(map_yx, Frame(200, 200)))
        slow = np.array([by_scipy(heat_YX >= np.float32(level))[0] for level in LEVELS])
        assert np.array_equal(find_boxes(map_yx, Frame(200, 200)).boxes_TK4[:, 0], slow)


def test_levels_may_come_in_any_order():
    map_yx = np.random.default_rng(0).random((6, 5))
    up, down = (find_boxes(map_yx, Frame(30, 30), levels=levels).boxes_TK4 for levels in ((0.2, 0.5, 0.9), (0.9, 0.5, 0.2)))
    assert np.array_equal(up, down[::-1])


def test_upsampling_comes_before_the_threshold():
    """One hot cell of 6 x 6 on 60 x 60 pixels: the bump that bilinear interpolation makes, not the 10-pixel cell."""
    map_yx = np.zeros((6, 6))
    map_yx[2, 3] = 1.0
    box = find_boxes(map_yx, Frame(60, 60), levels=(0.5,)).boxes_TK4[0, 0]
    # Its middle is (35, 25). Along an axis it falls by a tenth per pixel: 4.5 px out it is .58 of the top, 5.5 px out .47.
    assert box.tolist() == [30, 20, 40, 30]
    wide = find_boxes(map_yx, Frame(60, 60), levels=(0.1,)).boxes_TK4[0, 0]  # 8.5 px out it is .16, 9.5 px out .05
    assert wide.tolist() == [26, 16, 44, 34]


def test_scale_and_shift_of_a_map_change_nothing():
    map_yx = np.random.default_rng(1).random((5, 7))
    one, other = find_boxes(map_yx, Frame(64, 64)), find_boxes(8 * map_yx - 4, Frame(64, 64))
    np.testing.assert_array_equal(one.boxes_TK4, other.boxes_TK4)


def test_a_constant_map_points_nowhere():
    found = find_boxes(np.full((4, 4), 0.3), Frame(64, 64))
    assert np.isnan(found.boxes_TK4).all() and np.isnan(found.peak_2).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_map_with_nan_is_refused(value):
    map_yx = np.zeros((4, 4))
    map_yx[1, 2] = value
    with pytest.raises(CxrError, match="1 values that are NaN or infinite"):
        find_boxes(map_yx, Frame(64, 64))


def test_thresholds_out_of_range_are_refused():
    with pytest.raises(CxrError, match="above 0"):
        find_boxes(np.eye(3), Frame(9, 9), levels=(0.0,))


def test_the_peak_is_the_brightest_cell():
    map_yx = np.zeros((6, 6))
    map_yx[4, 1] = 2.0
    x, y = find_boxes(map_yx, Frame(60, 60)).peak_2
    assert 10 <= x < 20 and 40 <= y < 50
    map_yx[:] = 0
    map_yx[0, 5] = 1  # the corner cell is flat beyond its centre: the middle of that plateau, not the image's corner
    x, y = find_boxes(map_yx, Frame(60, 60)).peak_2
    assert (x, y) == (57.5, 2.5)


@pytest.mark.parametrize("width, height", [(60, 40), (40, 60), (101, 67)])
def test_boxes_of_an_oblong_image_lie_where_the_store_put_it(width, height):
    """A padded image: a hot cell is found at the original's own pixels, and padding never counts."""
    square = 24
    map_yx = np.zeros((12, 12))
    map_yx[5, 7] = 1.0
    found = find_boxes(map_yx, Frame(width, height), levels=(0.5,), square=square)
    expected = to_original([14, 10, 16, 12], width=width, height=height, size=square)  # cell (5, 7) in store pixels
    np.testing.assert_allclose(found.boxes_TK4[0, 0], expected, atol=1.5)
    map_yx[:] = 0
    map_yx[0 if width > height else 5, 5 if width > height else 0] = 100.0  # in the padding
    map_yx[6, 6] = 1.0
    x, y = find_boxes(map_yx, Frame(width, height), levels=(0.5,), square=square).peak_2
    np.testing.assert_allclose([x, y], [13 / 24 * max(width, height) - max(0, height - width) / 2,
                                        13 / 24 * max(width, height) - max(0, width - height) / 2], atol=3)  # fmt: skip


def test_a_large_original_is_read_at_fewer_points_and_its_box_scaled_up():
    map_yx = np.zeros((8, 8))
    map_yx[2:4, 3:7] = 1
    small = find_boxes(map_yx, Frame(256, 256), levels=(0.5,), size=256).boxes_TK4
    large = find_boxes(map_yx, Frame(2560, 2560), levels=(0.5,), size=256).boxes_TK4
    np.testing.assert_allclose(large, 10 * small)


def test_wangs_two_levels_give_up_to_three_boxes():
    map_yx = np.zeros((10, 10))
    map_yx[1:5, 1:5], map_yx[2, 2], map_yx[7:9, 7:9] = 0.4, 1.0, 0.9
    boxes = two_level_boxes(map_yx, Frame(100, 100))
    assert boxes.shape == (3, 4) and not np.isnan(boxes).any()
    at_low = find_boxes(map_yx, Frame(100, 100), levels=WANG_LEVELS, count=2).boxes_TK4[0]
    assert boxes[0].tolist() == at_low[0].tolist()  # the larger region at the low level
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    assert (np.diff(areas) <= 0).all()


# --- masks ---


def test_dice_and_iou_by_hand():
    other = np.roll(TWO_PARTS, 1, axis=1)
    both = int((TWO_PARTS & other).sum())
    assert both == 5  # two in the square, three in the L
    assert dice(TWO_PARTS, other) == pytest.approx(10 / 20)
    assert mask_iou(TWO_PARTS, other) == pytest.approx(5 / 15)
    assert dice(TWO_PARTS, TWO_PARTS) == mask_iou(TWO_PARTS, TWO_PARTS) == 1


def test_masks_that_are_empty_have_no_score():
    empty = np.zeros((6, 6), bool)
    assert np.isnan([dice(empty, empty), mask_iou(empty, empty), hausdorff(empty, TWO_PARTS), hausdorff(TWO_PARTS, empty)]).all()
    assert dice(empty, TWO_PARTS) == 0


def test_hausdorff_is_scipys_on_the_borders_and_symmetric():
    rng = np.random.default_rng(5)
    for _ in range(20):
        a, b = (ndimage.binary_dilation(rng.random((17, 13)) < 0.03, iterations=2) for _ in range(2))
        if not (a.any() and b.any()):
            continue
        edges = [np.argwhere(mask & ~ndimage.binary_erosion(mask)) for mask in (a, b)]
        expected = max(directed_hausdorff(*edges)[0], directed_hausdorff(*edges[::-1])[0])
        assert hausdorff(a, b) == pytest.approx(expected) == hausdorff(b, a)
    assert hausdorff(TWO_PARTS, TWO_PARTS) == 0


def test_hausdorff_of_a_moved_pixel_is_the_distance():
    a, b = np.zeros((9, 9), bool), np.zeros((9, 9), bool)
    a[1, 1], b[4, 5] = True, True
    assert hausdorff(a, b) == 5 and hausdorff(a, b, spacing=0.5) == 2.5


def test_masks_of_two_shapes_are_refused():
    with pytest.raises(CxrError, match="one shape"):
        dice(np.zeros((3, 4), bool), np.zeros((4, 3), bool))


def test_the_mask_sweep_equals_cutting_at_each_level():
    rng = np.random.default_rng(0)
    map_yx, mask_YX = rng.random((5, 6)), ndimage.binary_dilation(rng.random((40, 48)) < 0.01, iterations=4)
    sweep = sweep_mask(map_yx, mask_YX, levels=(0.7, 0.2, 0.5))
    for level, d, i in zip(*sweep):
        cut = cut_mask(map_yx, Frame(48, 40), level=level)
        assert (d, i) == (pytest.approx(dice(cut, mask_YX)), pytest.approx(mask_iou(cut, mask_YX)))
