"""Masks under the protocol of the boxes: thresholds fitted on one half of the patients, Dice and distance on the other.

    sweep = sweep_masks(pairs, maps, phantom_masks("COHORT"))
    fitted = cross_fit(sweep, objective="dice")
    score(fitted.matched)                       Dice, IoU and Hausdorff distance by finding, with intervals

`cross_fit_masks` gives the same and takes distances only where a fitted threshold needs them; `masks_of_boxes` scores the
inside of boxes as if it were a mask.
"""

import dataclasses

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlib.errors import CxrError
from cxrlib.localization.boxes import MASK_LEVELS, Frame, unit, upsample
from cxrlib.localization.masks import border, border_distance, dice, hausdorff, mask_iou, sweep_mask
from cxrlib.localization.matching import XYXY, Matched
from cxrlib.localization.protocol import MASK_OBJECTIVE, SEEDS, CrossFitted, Sweep, cross_fit
from cxrlib.localization.shapes import mask_box
from cxrlib.localization.stream import ImageMaps
from cxrlib.phantom.cohort import read_masks

MEASURES = ("dice", "mask iou", "hausdorff 95")


def sweep_masks(
    pairs: pd.DataFrame,
    maps: Iterable[ImageMaps],
    mask_of: Callable[[str, str], np.ndarray],
    *,
    levels: tuple[float, ...] = MASK_LEVELS,
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
        distances: Whether to take Hausdorff distances too (95th percentile, as a share of the image's diagonal), at every
            threshold. Without them they are NaN; `cross_fit_masks` takes those that count.

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


def cross_fit_masks(
    pairs: pd.DataFrame,
    maps: Callable[[], Iterable[ImageMaps]],
    mask_of: Callable[[str, str], np.ndarray],
    *,
    square: int | None = None,
    seeds: int = SEEDS,
) -> CrossFitted:
    """Masks cut at thresholds that were fitted for Dice on the other half of the patients.

    As `cross_fit(sweep_masks(...), objective="dice")`, but a distance is taken only at the few thresholds that a fit chose.

    Args:
        pairs: As for `sweep_masks`.
        maps: Gives the maps, each time it is called: they are gone through twice.
        mask_of: As for `sweep_masks`.
        square: As for `sweep_masks`.
        seeds: Draws of halves.
    """
    sweep = sweep_masks(pairs, maps(), mask_of, square=square, distances=False)
    chosen_TM = np.zeros(sweep.values_TMQ.shape[:2], bool)
    patient_M, finding_M = sweep.rows["patient"].astype(str), sweep.rows["finding"]
    for thresholds in cross_fit(sweep, seeds=seeds, objective=MASK_OBJECTIVE).thresholds:
        scored_M = ~patient_M.isin(thresholds.patients)
        level_M = finding_M.map(thresholds.values).to_numpy(float)
        chosen_TM |= np.isclose(np.array(sweep.levels)[:, None], level_M) & scored_M.to_numpy()
    row_of = {pair: row for row, pair in enumerate(zip(sweep.rows["image"], sweep.rows["finding"]))}
    values_TMQ = sweep.values_TMQ.copy()
    for item in maps():
        for finding, map_yx in zip(item.findings, item.map_Cyx):
            row = row_of.get((item.image, finding))
            if row is None:
                continue
            levels = np.flatnonzero(chosen_TM[:, row])
            far = _distances(map_yx, mask_of(item.image, finding), tuple(sweep.levels[t] for t in levels), square)
            values_TMQ[levels, row, MEASURES.index("hausdorff 95")] = far
    return cross_fit(dataclasses.replace(sweep, values_TMQ=values_TMQ), seeds=seeds, objective=MASK_OBJECTIVE)


def masks_of_boxes(pairs: pd.DataFrame, predicted: pd.DataFrame, mask_of: Callable[[str, str], np.ndarray]) -> Matched:
    """The inside of predicted boxes as a mask: what a method reaches that draws no more than boxes.

    A pixel belongs to a box if its centre does. Without a box the mask is empty: Dice 0, no distance.

    Args:
        pairs: As for `sweep_masks`.
        predicted: image, finding, x0, y0, x1, y1; several of a pair are taken together.
        mask_of: As for `sweep_masks`.
    """
    boxes_of = {key: rows[XYXY].to_numpy(float) for key, rows in predicted.dropna(subset=XYXY).groupby(["image", "finding"])}
    rows, values = [], []
    for pair in pairs.itertuples():
        true_YX = mask_of(pair.image, pair.finding)
        mine = boxes_of.get((pair.image, pair.finding), np.zeros((0, 4)))
        drawn_YX = np.zeros(true_YX.shape, bool)
        for x0, y0, x1, y1 in np.ceil(mine - 0.5).clip(0).astype(int):
            drawn_YX[y0:y1, x0:x1] = True
        far = hausdorff(drawn_YX, true_YX, percentile=95, spacing=1 / float(np.hypot(*true_YX.shape)))
        values.append((dice(drawn_YX, true_YX), mask_iou(drawn_YX, true_YX), far))
        rows.append((pair.image, pair.finding, *mask_box(true_YX), str(pair.patient), true_YX.mean(), len(mine)))
    table = pd.DataFrame(rows, columns=["image", "finding", *XYXY, "patient", "share", "predicted"])
    return Matched(table, np.array(values), MEASURES)


def phantom_masks(cohort: str | Path) -> Callable[[str, str], np.ndarray]:
    """The exact lesion masks of a phantom cohort, each image's read once and kept at one bit per pixel.

    Raises:
        CxrError: The folder has no masks; or, when asked for it, a lesion is not there.
    """
    folder = Path(cohort) / "masks"
    if not folder.is_dir():
        raise CxrError(f"{cohort} has no folder `masks`: give a phantom cohort, as `python -m cxrlib phantom` writes it")
    kept: dict[str, dict[str, tuple[np.ndarray, int]]] = {}

    def mask_of(image: str, finding: str) -> np.ndarray:
        if image not in kept:
            path = folder / f"{Path(image).stem}.npz"
            lesions = read_masks(path)[0] if path.is_file() else {}
            kept[image] = {name: (np.packbits(mask, axis=-1), mask.shape[1]) for name, mask in lesions.items()}
        if finding not in kept[image]:
            raise CxrError(f"{folder} has no mask of {finding} for {image}")
        bits, width = kept[image][finding]
        return np.unpackbits(bits, axis=-1, count=width).astype(bool)

    return mask_of


def _distances(map_yx: np.ndarray, mask_YX: np.ndarray, levels: tuple[float, ...], square: int | None) -> np.ndarray:
    height, width = mask_YX.shape
    true = border(mask_YX)
    heat_YX = unit(upsample(map_yx, Frame(width, height), square=square, size=max(height, width)))
    if heat_YX is None:
        return np.full(len(levels), np.nan)
    far = [border_distance(border(heat_YX >= np.float32(level)), true, percentile=95) for level in levels]
    return np.array(far) / float(np.hypot(height, width))
