"""How long scoring takes: for the bench, and for whoever changes it.

    python -m cxrlib.localization.timing
"""

import resource
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from cxrlib.findings import BOXED_FINDINGS
from cxrlib.localization.boxes import LEVELS
from cxrlib.localization.protocol import cross_fit, sweep_of
from cxrlib.localization.scores import score
from cxrlib.localization.stream import ImageMaps, candidates


class ScoringTimes(NamedTuple):
    """Seconds of processor time, in one thread, for maps of 32 x 32 upsampled to 1,024 x 1,024."""

    images: int
    pairs: int
    """True boxes: the pairs of an image and a finding that are scored."""
    boxes_s: float
    """Every pair's map to boxes at all thresholds."""
    fit_s: float
    """All thresholds of all halves of 5 seeds, and the scores of each."""
    bootstrap_s: float
    """1,000 resamples of patients of the whole table."""
    peak_mib: float
    """The most memory that the process has held, imports included. It does not grow with the images."""


def time_scoring(*, images: int = 880, findings: int = 8, grid: int = 32, size: int = 1024, seed: int = 0) -> ScoringTimes:
    """Times the whole way from maps to a table on made-up maps and boxes, as many as NIH has.

    Args:
        images: Boxed images.
        findings: Maps per image. All are handed over; as in NIH's set about one in eight has a true box and is scored.
        grid: Cells along each side of a map.
        size: Pixels along each side of the image.
        seed: Of boxes and maps.
    """
    rng = np.random.default_rng(seed)
    names = BOXED_FINDINGS[:findings]
    rows = []
    for index in range(images):
        # NIH: 984 boxes on 880 images, of 726 patients.
        for finding in rng.choice(names, 1 + (rng.random() < 984 / 880 - 1), replace=False):
            x, y = rng.uniform(0, 0.7 * size, 2)
            rows.append((f"{index}.png", str(finding), x, y, x + rng.uniform(0.05, 0.3) * size, y + 0.2 * size, str(index * 726 // 880)))
    truth = pd.DataFrame(rows, columns=["image", "finding", "x0", "y0", "x1", "y1", "patient"]).assign(width=size, height=size)

    def maps() -> Iterator[ImageMaps]:
        for index in range(images):
            yield ImageMaps(f"{index}.png", names, rng.random((findings, grid, grid), np.float32))

    start = time.process_time()
    boxes = candidates(truth, maps(), levels=LEVELS, size=size)
    boxes_s = time.process_time() - start
    start = time.process_time()
    fitted = cross_fit(sweep_of(boxes, truth))
    fit_s = time.process_time() - start
    start = time.process_time()
    score(fitted.matched, resamples=1000)
    bootstrap_s = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)
    return ScoringTimes(images, len(truth), boxes_s, fit_s, bootstrap_s, peak)


if __name__ == "__main__":
    for name, value in time_scoring()._asdict().items():
        print(f"{name:<12}{value:.1f}" if isinstance(value, float) else f"{name:<12}{value}")
