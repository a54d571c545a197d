"""Which structures a finding can lie in, and the region that they make.

The table `finding_structures.csv` is data, to be read and argued about: one row a finding, its structures, by how much their
union grows (`grow`, a share of the image's side, all ways; `grow_down`, further down only), and which part of it counts ("all", or
"lower": the lower half of the union's height).

Letters of shapes: Y X pixels, C findings.
"""

import csv
import functools
from importlib import resources
from typing import NamedTuple

import numpy as np
from scipy.ndimage import distance_transform_edt

from cxrlib.errors import CxrError
from cxrlib.findings import CHEXPERT_TO_NIH, canonical
from cxrlib.phantom.drawing import STRUCTURES


class Rule(NamedTuple):
    """How a finding's region is made from structures."""

    structures: tuple[str, ...]
    """Names of `STRUCTURES`."""
    grow: float
    """Growth in all directions, as a share of the image's side: outlines are never exact, and a finding may cross them."""
    grow_down: float
    """Further growth downwards: fluid fills the angle below the lung that a film shows."""
    part: str
    """"all", or "lower"."""


SAME_PLACE = CHEXPERT_TO_NIH | {
    "Enlarged Cardiomediastinum": "Cardiomegaly",
    "Lung Opacity": "Infiltration",
    "Lung Lesion": "Mass",
    "Pleural Other": "Pleural_Thickening",
}
"""CheXpert's observation -> the NIH finding whose region it has. Not the same finding: the same place (our decision)."""


@functools.cache
def rules() -> dict[str, Rule]:
    """The table: finding -> rule, for the 14 NIH findings.

    Source: CLARiTy (arXiv 2512.16700) took regions that a language model proposed; its list is not public, so this one is our
    decision, from what each finding is.
    """
    text = resources.files("cxrlib.priors").joinpath("finding_structures.csv").read_text(encoding="utf-8")
    table = {}
    for row in csv.DictReader(text.splitlines()):
        rule = Rule(tuple(row["structures"].split("|")), float(row["grow"]), float(row["grow_down"]), row["part"])
        unknown = [name for name in rule.structures if name not in STRUCTURES]
        if unknown or rule.part not in ("all", "lower"):
            raise CxrError(f"finding_structures.csv: {row['finding']} has {unknown or rule.part}: correct the row")
        table[row["finding"]] = rule
    return table


def rule_of(finding: str) -> Rule:
    """The rule of a finding, by NIH's name or CheXpert's.

    Raises:
        CxrError: There is none: nobody has said where that finding may lie.
    """
    try:
        return rules()[canonical(SAME_PLACE.get(finding, finding))]
    except CxrError:
        raise CxrError(f"no region is known for {finding!r}: add a row to finding_structures.csv, or leave the finding out") from None


def grow(mask_YX: np.ndarray, radius: float) -> np.ndarray:
    """Every pixel within `radius` pixels of the mask, in a straight line."""
    if radius <= 0 or not mask_YX.any():
        return mask_YX
    return distance_transform_edt(~mask_YX) <= radius


def grow_down(mask_YX: np.ndarray, rows: int) -> np.ndarray:
    """The mask, and the `rows` pixels below each of its own."""
    grown_YX = mask_YX.copy()
    for step in range(1, rows + 1):
        grown_YX[step:] |= mask_YX[:-step]
    return grown_YX


def region(structures: dict[str, np.ndarray], rule: Rule) -> np.ndarray:
    """The region of one finding in one image.

    Args:
        structures: Structure -> bool [Y, X]. A structure that is missing adds nothing.
        rule: From `rules`.

    Returns:
        bool [Y, X]. Empty if none of the structures is there.
    """
    size = next(iter(structures.values())).shape[0]
    union_YX = np.zeros_like(next(iter(structures.values())), dtype=bool)
    for name in rule.structures:
        if name in structures:
            union_YX |= structures[name]
    if rule.part == "lower" and union_YX.any():
        rows = np.flatnonzero(union_YX.any(axis=1))
        union_YX[: (rows[0] + rows[-1] + 1) // 2] = False
    return grow_down(grow(union_YX, rule.grow * size), round(rule.grow_down * size))


def distinct(findings: tuple[str, ...]) -> tuple[tuple[Rule, ...], tuple[int, ...]]:
    """The different rules among the findings, and which of them each finding has: several findings share a region."""
    each = [rule_of(finding) for finding in findings]
    different = tuple(dict.fromkeys(each))
    return different, tuple(different.index(rule) for rule in each)
