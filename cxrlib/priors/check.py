"""How well regions hold what radiologists marked: the share of each box that lies inside its finding's region.

A region that cuts off boxes teaches a model to look away; one that covers the whole film teaches nothing. Both numbers are shown.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from cxrlib.data.frames import to_store
from cxrlib.data.nih import packaged_tables
from cxrlib.data.store import ImageStore
from cxrlib.priors.regions import region, rule_of
from cxrlib.priors.store import PriorStore
from cxrlib.priors.template import template


class Coverage(NamedTuple):
    """One finding's boxes against its regions."""

    finding: str
    boxes: int
    inside: float
    """Share of a box's area that lies in the region, averaged over boxes."""
    whole: float
    """Share of boxes of which at least 95 % lie inside."""
    region: float
    """Share of the image that the region takes up: what `inside` would be for a box anywhere."""


def share_inside(box: np.ndarray, region_SS: np.ndarray) -> float:
    """How much of a box (xyxy in pixels of the region, need not be whole) lies in the region. NaN outside the image."""
    cover = []
    for low, high, size in ((box[1], box[3], region_SS.shape[0]), (box[0], box[2], region_SS.shape[1])):
        start = np.arange(size)
        cover.append((np.minimum(high, start + 1) - np.maximum(low, start)).clip(min=0))
    rows, columns = cover
    area = rows.sum() * columns.sum()
    return float(rows @ region_SS @ columns / area) if area > 0 else float("nan")


def check_priors(priors: PriorStore, store: ImageStore) -> list[Coverage]:
    """Every box of a store against its own image's region."""
    frame = store.table.reset_index().set_index("image")
    shares: dict[str, list[tuple[float, float]]] = {}
    for image, finding, *box in store.boxes[["image", "finding", "x0", "y0", "x1", "y1"]].itertuples(index=False):
        if finding not in priors.findings:
            continue
        row = frame.loc[image]
        place = to_store(np.array(box, float), width=int(row["width"]), height=int(row["height"]), size=store.size)
        region_SS = priors.regions([int(row["index"])], [finding])[0, 0].numpy()
        share = share_inside(place * priors.size / store.size, region_SS)
        shares.setdefault(finding, []).append((share, float(region_SS.mean())))
    return [_summary(finding, shares[finding]) for finding in priors.findings if finding in shares]


def check_template(size: int = 128) -> list[Coverage]:
    """The template against all of NIH's boxes, from the tables inside the torchxrayvision package. It needs no image."""
    boxes = packaged_tables().boxes
    results = []
    for finding, rows in boxes.groupby("finding", sort=False):
        region_SS = region(template(size), rule_of(str(finding)))
        places = rows[["x0", "y0", "x1", "y1"]].to_numpy() * size / 1024
        results.append(_summary(str(finding), [(share_inside(box, region_SS), float(region_SS.mean())) for box in places]))
    return results


def _summary(finding: str, pairs: list[tuple[float, float]]) -> Coverage:
    share, area = np.array(pairs).T
    return Coverage(finding, len(share), float(np.nanmean(share)), float((share >= 0.95).mean()), float(area.mean()))


def as_table(results: list[Coverage]) -> pd.DataFrame:
    """The results as a table with a row a finding."""
    return pd.DataFrame(results, columns=list(Coverage._fields))
