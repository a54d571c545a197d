"""From maps to boxes to a table: where does a model look, and how good is that?

    boxes.py        a map becomes boxes: upsample, threshold, largest component
    matching.py     true boxes beside predicted ones: one row per true box
    scores.py       accuracy at each IoU and IoBB, with intervals and paired differences
    masks.py        Dice, IoU and Hausdorff distance of masks
    protocol.py     patient-disjoint halves; thresholds fitted on one half and scored on the other
    blind.py        what a box that sees no image reaches, and what a grid of patches can reach at best
    readers.py      box and mask sets of other people, in one form
"""
