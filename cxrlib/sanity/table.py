"""Every method and every test in one table.

One row per method. What each column asks:

    head, all           does the map change when the head, or everything, is destroyed? Rank correlation with the trained model's
                        map; low is good, 1 means that nothing learnt was shown
    own, habit, found   share of the map inside the lesion over the lesion's area; another patient's map; the difference
    deletion, insertion area under the curves (deletion low, insertion high), by the stated baseline
    gone                lift left at the place of a lesion that was taken away, as a share of the lift with it: near
                        1 the map did not notice
    dice, hausdorff     the map cut at a threshold that was fitted on other patients

Random, centre, lungs and edges look at no model. A method that does not beat them has shown nothing.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from cxrlib.data.store import ImageStore
from cxrlib.errors import CxrError
from cxrlib.localization.cli import fitting_methods
from cxrlib.localization.maps import map_method
from cxrlib.localization.mask_protocol import sweep_masks
from cxrlib.localization.protocol import cross_fit
from cxrlib.localization.scores import score
from cxrlib.localization.stream import ImageMaps
from cxrlib.sanity.agreement import rank_correlation
from cxrlib.sanity.counterfactual import Twins, moved
from cxrlib.sanity.deletion import areas
from cxrlib.sanity.habit import habit
from cxrlib.sanity.pairs import Pairs, maps_of_pairs
from cxrlib.sanity.randomize import shuffled, stages

COLUMNS = ("head", "all", "own", "habit", "found", "found_low", "found_high", "deletion", "insertion", "gone", "dice", "dice_low", "dice_high", "iou", "hausdorff")
SEGMENTER = "U-Net on masks"


@dataclasses.dataclass(frozen=True)
class Material:
    """What the tests look at.

    Attributes:
        store: The films.
        pairs: Films with a finding whose mask is known.
        twins: Finding -> patients drawn with it and without it.
        baseline: Of deletion and insertion.
        steps: Points on each curve.
        resamples: Bootstrap samples of patients.
    """

    store: ImageStore
    pairs: Pairs
    twins: dict[str, Twins]
    baseline: str = "blur"
    steps: int = 12
    resamples: int = 1000


def sanity_table(model: nn.Module, recipe, findings: tuple[str, ...], material: Material, *, methods: Sequence[str] | None = None, others: dict[str, nn.Module] | None = None, seed: int = 0, done: Callable[[str], None] = lambda name: None) -> pd.DataFrame:
    """All tests of all methods on one trained model.

    Args:
        model: In eval mode.
        recipe: How grey values become input.
        findings: The model's outputs.
        material: Films, twins and settings.
        methods: Names of `MAP_METHODS`; None: all that fit the model.
        others: Name -> another model of the same kind, such as one of another seed, or one that was taught nonsense.
        seed: Of the shuffling.
        done: Called with each method's name.

    Returns:
        One row per method: method, `COLUMNS`, and "like NAME" for each other model: rank correlation with its maps. NaN where a test does not apply: a map that looks at no model cannot
        change with it.
    """
    rows = []
    parts = stages(model)
    destroyed = {
        "head": shuffled(model, tuple(name for part in heads(parts) for name in parts[part]), seed=seed),
        "all": shuffled(model, tuple(name for names in parts.values() for name in names), seed=seed),
    }
    compared = destroyed | {f"like {name}": net for name, net in (others or {}).items()}
    for method in methods or fitting_methods(model):
        looks = map_method(method).needs_model
        map_Myx = _finite(maps_of_pairs(model, material.store, material.pairs, method=method, recipe=recipe, findings=findings), method)
        row: dict[str, object] = {"method": method}
        for name, net in compared.items():
            other_Myx = maps_of_pairs(net, material.store, material.pairs, method=method, recipe=recipe, findings=findings) if looks else None
            row[name] = mean_agreement(map_Myx, other_Myx) if looks else math.nan
        row |= scores_of_maps(map_Myx, material)
        finding_M = np.array([findings.index(name) for name in material.pairs.finding_M])
        films = np.stack([material.store.image(row_index) for row_index in material.pairs.row_M])
        row["deletion"], row["insertion"] = areas(model, films, map_Myx, finding_M, recipe=recipe, baseline=material.baseline, steps=material.steps).mean(axis=0)
        row["gone"] = _gone(model, recipe, findings, material, method)
        rows.append(row)
        done(method)
    return pd.DataFrame(rows)[["method", *COLUMNS, *(name for name in compared if name not in destroyed)]]


def heads(parts: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The parts that answer: all above the last norm (CLARiTy has two of them), or the first where there is no norm."""
    names = tuple(parts)
    return names[: max(1, names.index("norm"))] if "norm" in names else names[:1]


def segmenter_row(map_of: Callable[[np.ndarray], np.ndarray], findings: tuple[str, ...], material: Material) -> pd.DataFrame:
    """The row of a segmenter: the tests that need no classifier.

    Args:
        map_of: uint8 films [B, Y, X] -> a map of each finding, [B, C, y, x].
        findings: Names of its C maps.
        material: Films, twins and settings.
    """

    def maps(films_MYX: np.ndarray, finding_M) -> np.ndarray:
        made = [map_of(films_MYX[start : start + 16]) for start in range(0, len(films_MYX), 16)]
        return np.concatenate(made)[np.arange(len(films_MYX)), [findings.index(name) for name in finding_M]]

    films = np.stack([material.store.image(row) for row in material.pairs.row_M])
    row = {"method": SEGMENTER} | scores_of_maps(maps(films, material.pairs.finding_M), material)
    ratios = []
    for finding, twins in material.twins.items():
        pairs = [maps(films_MYX, [finding] * len(films_MYX)) for films_MYX in (twins.with_MYX, twins.without_MYX)]
        ratios.append(_remains(*(_lift(map_Myx, twins) for map_Myx in pairs)))
    row["gone"] = float(np.nanmean(ratios)) if ratios else math.nan
    return pd.DataFrame([row]).reindex(columns=["method", *COLUMNS])


def scores_of_maps(map_Myx: np.ndarray, material: Material) -> dict[str, float]:
    """The tests that need maps alone: own lift, habit, what was found, Dice, IoU and Hausdorff distance."""
    pairs = material.pairs
    control = habit(map_Myx, pairs.mask_MYX, pairs.finding_M, pairs.patient_M, resamples=material.resamples)
    out = {"own": control.own[0], "habit": control.habit[0]}
    out |= dict(zip(("found", "found_low", "found_high"), control.found))
    masks = score(_cross_fitted(map_Myx, pairs), findings=tuple(dict.fromkeys(pairs.finding_M)), resamples=material.resamples)
    out |= dict(zip(("dice", "dice_low", "dice_high"), masks.at("macro", "dice")))
    out["iou"], out["hausdorff"] = masks.at("macro", "mask iou")[0], masks.at("macro", "hausdorff 95")[0]
    return out


def mean_agreement(map_Myx: np.ndarray, other_Myx: np.ndarray) -> float:
    """Mean rank correlation of maps, pair by pair; a map that became constant has forgotten everything, and counts as 0."""
    values = np.array([rank_correlation(a, b) for a, b in zip(map_Myx, other_Myx)])
    return float(np.nan_to_num(values).mean())


def _cross_fitted(map_Myx: np.ndarray, pairs: Pairs):
    table = pd.DataFrame({"image": pairs.image_M, "finding": pairs.finding_M, "patient": pairs.patient_M})
    mask_of = {key: mask_YX for key, mask_YX in zip(zip(pairs.image_M, pairs.finding_M), pairs.mask_MYX)}
    maps = []
    for image in dict.fromkeys(pairs.image_M):
        mine = np.flatnonzero(pairs.image_M == image)
        maps.append(ImageMaps(image, tuple(pairs.finding_M[mine]), map_Myx[mine]))
    sweep = sweep_masks(table, maps, lambda image, finding: mask_of[image, finding])
    return cross_fit(sweep, objective="dice", seeds=1).matched


def _gone(model, recipe, findings: tuple[str, ...], material: Material, method: str) -> float:
    """Mean over findings of `_remains`."""
    ratios = []
    for finding, twins in material.twins.items():
        result = moved(model, twins, method=method, finding=findings.index(finding), findings=len(findings), recipe=recipe)
        area = result.area_M.sum()
        ratios.append(_remains(result.inside_with_M.sum() / area, result.inside_without_M.sum() / area))
    return float(np.nanmean(ratios)) if ratios else math.nan


def _lift(map_Myx: np.ndarray, twins: Twins) -> float:
    from cxrlib.sanity.habit import inside_share

    return float(inside_share(map_Myx, twins.mask_MYX).sum() / twins.mask_MYX.mean(axis=(1, 2)).sum())


def _remains(with_lesion: float, without_lesion: float) -> float:
    return without_lesion / with_lesion if with_lesion > 0 else math.nan


def _finite(map_Myx: np.ndarray, method: str) -> np.ndarray:
    if not np.isfinite(map_Myx).all():
        raise CxrError(f"the maps of {method} hold NaN or infinite values: find out where they arise")
    return map_Myx


def as_text(table: pd.DataFrame, header: Sequence[str] = ()) -> str:
    """The table for a terminal."""
    lines = [*header, "", f"{'method':<20}{'head':>6}{'all':>6}{'own':>7}{'habit':>7}{'found (95 %)':>22}{'del.':>7}{'ins.':>7}{'gone':>6}{'Dice (95 %)':>21}{'IoU':>6}{'HD95':>6}"]
    for row in table.itertuples():
        found = f"{row.found:.2f} ({row.found_low:.2f} to {row.found_high:.2f})"
        dice = f"{row.dice:.2f} ({row.dice_low:.2f} to {row.dice_high:.2f})"
        numbers = [_number(value) for value in (row.head, row.all, row.own, row.habit, row.deletion, row.insertion, row.gone, row.iou, row.hausdorff)]
        head, every, own, habits, deleted, inserted, gone, iou, far = numbers
        lines.append(f"{row.method:<20}{head:>6}{every:>6}{own:>7}{habits:>7}{found:>22}{deleted:>7}{inserted:>7}{gone:>6}{dice:>21}{iou:>6}{far:>6}")
    for name in (name for name in table if name.startswith("like ")):
        lines += ["", f"rank correlation with the maps of the model {name.removeprefix('like ')!r}:"]
        lines += [f"  {method:<20}{value:6.2f}" for method, value in zip(table["method"], table[name]) if not math.isnan(value)]
    return "\n".join([*lines, "", *LEGEND]) + "\n"


LEGEND = (
    "head, all: rank correlation with the trained map once the head, or every weight, was shuffled (low is good)",
    "own, habit: share of the map inside the lesion over its area, by the film's own map and by another patient's; found: the difference",
    "del., ins.: area under deletion (low is good) and insertion (high is good)",
    "gone: lift at a lesion's place once it was taken away, over the lift with it (1: the map did not notice)",
    "Dice, IoU, HD95 (as a share of the diagonal): thresholds fitted on other patients",
)


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def twins_size(store: ImageStore, recipe) -> int:
    """Side of the twins' films: the store's, which must be the model's.

    Raises:
        CxrError: They differ.
    """
    if store.size != recipe.image_size:
        raise CxrError(f"the store holds images of {store.size} px, the run reads {recipe.image_size} px: prepare with that --size")
    return store.size


def masks_of_store(store: ImageStore, cohort: str | Path, findings: tuple[str, ...]) -> Callable[[int], np.ndarray]:
    """`row -> bool [C, Y, X]`: the exact masks of a film, empty where a finding is not on it."""
    from cxrlib.phantom.cohort import read_masks

    folder, names = Path(cohort) / "masks", store.table["image"].to_numpy()

    def masks(row: int) -> np.ndarray:
        out = np.zeros((len(findings), store.size, store.size), bool)
        for finding, mask_YX in read_masks(folder / f"{Path(names[row]).stem}.npz")[0].items():
            if finding in findings:
                out[findings.index(finding)] = mask_YX
        return out

    return masks
