"""Masks under the protocol of the boxes: thresholds fitted on one half of the patients, Dice and distance on the other.

    sweep = sweep_masks(pairs, maps, phantom_masks("COHORT"))
    fitted = cross_fit(sweep, objective="dice")
    score(fitted.matched)                       Dice, IoU and Hausdorff distance by finding, with intervals
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlib.errors import CxrError
from cxrlib.localization.boxes import LEVELS, Frame
from cxrlib.localization.masks import cut_mask, hausdorff, sweep_mask
from cxrlib.localization.matching import XYXY
from cxrlib.localization.protocol import Sweep
from cxrlib.localization.shapes import mask_box
from cxrlib.localization.stream import ImageMaps
from cxrlib.phantom.cohort import read_masks

MEASURES = ("dice", "mask iou", "hausdorff 95")


def sweep_masks(
    pairs: pd.DataFrame,
    maps: Iterable[ImageMaps],
    mask_of: Callable[[str, str], np.ndarray],
    *,
    levels: tuple[float, ...] = LEVELS,
    square: int | None = None,
    distances: bool = True,
) -> Sweep:
    """Compares maps with drawn masks at every threshold, image by image.

    Args:
        pairs: What is scored: image, finding, patient; each pair once.
        maps: The maps, in any order; others are not looked at.
        mask_of: `(image, finding) -> bool [Y, X]` in original pixels: `phantom_masks`, or `Annotations.mask`.
        levels: Thresholds.
        square: Side of the model's square in pixels; see `boxes.upsample`.
        distances: Whether to take Hausdorff distances too (95th percentile, as a share of the image's diagonal), which costs
            some 0.1 s per pair and threshold at 1,024 pixels. Without them they are NaN.

    Returns:
        A sweep with the measures `MEASURES`, for `cross_fit(..., objective="dice")`. It holds no boxes.

    Raises:
        CxrError: A pair has no map or an empty mask, or occurs twice.
    """
    wanted = {image: list(rows.itertuples()) for image, rows in pairs.drop_duplicates(["image", "finding"]).groupby("image", sort=False)}
    if sum(map(len, wanted.values())) < len(pairs):
        raise CxrError("an image and finding are to be scored twice: give each pair once")
    rows, values = [], []
    for item in maps:
        for pair in wanted.pop(item.image, []):
            if pair.finding not in item.findings:
                raise CxrError(f"{pair.image} has a true mask of {pair.finding} but no map of it: add it, or leave the finding out")
            mask_YX = mask_of(pair.image, pair.finding)
            if not mask_YX.any():
                raise CxrError(f"the true mask of {pair.finding} on {pair.image} is empty: leave the pair out")
            map_yx = np.asarray(item.map_Cyx)[item.findings.index(pair.finding)]
            worth = sweep_mask(map_yx, mask_YX, levels=levels, square=square)
            far_T = _distances(map_yx, mask_YX, levels, square) if distances else np.full(len(levels), np.nan)
            values.append(np.stack([worth.dice_T, worth.iou_T, far_T], axis=1))
            rows.append((pair.image, pair.finding, *mask_box(mask_YX), str(pair.patient), mask_YX.mean(), 1))
    if wanted:
        raise CxrError(f"{len(wanted)} images with true masks have no map (such as {next(iter(wanted))}): make maps for all of them")
    table = pd.DataFrame(rows, columns=["image", "finding", *XYXY, "patient", "share", "predicted"])
    return Sweep(table, np.stack(values, axis=1), tuple(levels), MEASURES, pd.DataFrame())


def phantom_masks(cohort: str | Path) -> Callable[[str, str], np.ndarray]:
    """The exact lesion masks of a phantom cohort.

    Raises:
        CxrError: When asked for a lesion that is not there.
    """
    folder = Path(cohort) / "masks"

    def mask_of(image: str, finding: str) -> np.ndarray:
        path = folder / f"{Path(image).stem}.npz"
        lesions = read_masks(path)[0] if path.is_file() else {}
        if finding not in lesions:
            raise CxrError(f"{folder} has no mask of {finding} for {image}")
        return lesions[finding]

    return mask_of


def _distances(map_yx: np.ndarray, mask_YX: np.ndarray, levels: tuple[float, ...], square: int | None) -> np.ndarray:
    height, width = mask_YX.shape
    diagonal = float(np.hypot(height, width))
    cuts = (cut_mask(map_yx, Frame(width, height), level=level, square=square) for level in levels)
    return np.array([hausdorff(cut, mask_YX, percentile=95, spacing=1 / diagonal) for cut in cuts])
