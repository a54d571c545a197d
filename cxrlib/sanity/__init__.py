"""Are the maps true? Tests that a map must pass before anybody believes it.

    agreement.py        how alike two maps are
    randomize.py        weights destroyed from the head down: does the map notice? (Adebayo 2018)
    labels.py           a model that was taught nonsense: are its maps different?
    deletion.py         the map's best places taken away or put back: does the score follow? (Petsiuk 2018)
    counterfactual.py   the same patient without the lesion, without the drain: does the map move?
    habit.py            another patient's map on this lesion
    shortcut.py         a cue was learnt: where does the map look, and what is the score worth without it?
    label_shift.py      the same films with other frequencies
    transfer.py         NIH's names on CheXpert's labels
    unet.py             the ceiling: a segmenter that was shown the masks
    pairs.py, table.py  films with known lesions; every method and every test in one table
    cli.py, gather.py   `python -m cxrlib sanity`, and its tables side by side

All of it needs to know where a lesion is and what the film would be without it, so all of it works on phantoms. A phantom
teaches the method and says nothing about patients.

`labels` and `shortcut` are commands too (`python -m cxrlib.sanity.labels`), so they are imported by their own names.
"""

from cxrlib.sanity.agreement import rank_correlation, top_overlap
from cxrlib.sanity.counterfactual import draw_fours, draw_twins, effects, look, moved
from cxrlib.sanity.deletion import areas, baseline_of, curves
from cxrlib.sanity.habit import another_patients, habit, inside_share
from cxrlib.sanity.label_shift import (
    independent_weights,
    predictive_value,
    prevalence_weights,
    resampled,
    weighted_auroc,
)
from cxrlib.sanity.pairs import Pairs, lesion_pairs, maps_of_pairs
from cxrlib.sanity.randomize import randomized, shuffled, stages
from cxrlib.sanity.table import Material, sanity_table, segmenter_row
from cxrlib.sanity.transfer import shared, transfer_table, write_chexpert_layout
from cxrlib.sanity.unet import UNet, fit_unet, unet_maps

__all__ = [
    "Material",
    "Pairs",
    "UNet",
    "another_patients",
    "areas",
    "baseline_of",
    "curves",
    "draw_fours",
    "draw_twins",
    "effects",
    "fit_unet",
    "habit",
    "independent_weights",
    "inside_share",
    "lesion_pairs",
    "look",
    "maps_of_pairs",
    "moved",
    "predictive_value",
    "prevalence_weights",
    "randomized",
    "rank_correlation",
    "resampled",
    "sanity_table",
    "segmenter_row",
    "shared",
    "shuffled",
    "stages",
    "top_overlap",
    "transfer_table",
    "unet_maps",
    "weighted_auroc",
    "write_chexpert_layout",
]
