"""From maps to boxes to a table: where does a model look, and how good is that?

The way of a map:

    maps.py, attribution.py   where maps come from: `MAP_METHODS`, one signature (explicit.py: attention written out)
    boxes.py                  a map becomes boxes: upsample, threshold, largest component
    stream.py                 image by image, so that memory stays flat; maps that others saved
    protocol.py               patient-disjoint halves; thresholds fitted on one and scored on the other
    matching.py, scores.py    one row per true box; accuracy, intervals, paired differences
    masks.py                  Dice, IoU and Hausdorff distance, where masks were drawn

What it is held against:

    truth.py, predictions.py  true and predicted boxes, and the checks that they must pass
    blind.py                  a box that sees no image, and the best box on a grid of patches
    published.py              what others report, with source and comparability
    readers.py, shapes.py     other people's boxes, polygons and run lengths

What is written: report.py (tables), sheet.py (overlays), cli.py (`python -m cxrlib localize`).
"""

from cxrlib.localization.blind import blind_boxes, blind_boxes_left_out, grid_boxes, grid_table
from cxrlib.localization.boxes import LEVELS, Frame, find_boxes, largest_components, two_level_boxes, unit, upsample
from cxrlib.localization.masks import cut_mask, dice, hausdorff, mask_iou, sweep_mask
from cxrlib.localization.matching import Matched, match, overlaps
from cxrlib.localization.protocol import Sweep, Thresholds, cross_fit, halves, oracle, sweep_of
from cxrlib.localization.scores import Scores, paired_difference, score, score_by_size
from cxrlib.localization.stream import ImageMaps, candidates
from cxrlib.localization.truth import Truth, open_data, truth_of

__all__ = [
    "LEVELS",
    "Frame",
    "ImageMaps",
    "Matched",
    "Scores",
    "Sweep",
    "Thresholds",
    "Truth",
    "blind_boxes",
    "blind_boxes_left_out",
    "candidates",
    "cross_fit",
    "cut_mask",
    "dice",
    "find_boxes",
    "grid_boxes",
    "grid_table",
    "halves",
    "hausdorff",
    "largest_components",
    "mask_iou",
    "match",
    "open_data",
    "oracle",
    "overlaps",
    "paired_difference",
    "score",
    "score_by_size",
    "sweep_mask",
    "sweep_of",
    "truth_of",
    "two_level_boxes",
    "unit",
    "upsample",
]
