"""Synthetic chest radiographs from geometry and physics: anatomy, lesions, projection, cohorts.

A phantom teaches the method and says nothing about patients.
"""

from cxrlib.phantom.cohort import images_per_second, read_masks, write_cohort
from cxrlib.phantom.drawing import STRUCTURES, Phantom, draw
from cxrlib.phantom.labels import cohort_labels

__all__ = [
    "STRUCTURES",
    "Phantom",
    "cohort_labels",
    "draw",
    "images_per_second",
    "read_masks",
    "write_cohort",
]
