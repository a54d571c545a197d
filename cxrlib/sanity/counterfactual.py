"""The same patient without the finding: does the score fall, and does the map move?

With a phantom the question has an exact answer. The same seed draws the same body, pose, noise, marker and devices with the
finding and without it. What is left is a film with everything but the lesion: a "marker-only" image. A map that still lights
the place where the lesion was has not seen it.

The same can be done to a cue: four films, with and without the finding, with and without a drain. They take the score apart
into what the finding adds and what the cue adds.

Letters: M twins (or fours), Y X pixels.
"""

import zlib
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from cxrlib.data.augment import normalise, to_float
from cxrlib.errors import CxrError
from cxrlib.findings import canonical
from cxrlib.localization.maps import map_method
from cxrlib.phantom.drawing import draw
from cxrlib.sanity.agreement import rank_correlation
from cxrlib.sanity.habit import inside_share

CUE_THRESHOLD = 6
"""Grey values by which a cue must change a pixel to count as drawn there; the film's noise is the same on both."""


class Twins(NamedTuple):
    """M patients, each drawn with a finding and without it."""

    with_MYX: np.ndarray
    without_MYX: np.ndarray
    """uint8. Where nothing was displaced, they differ in the lesion alone."""
    mask_MYX: np.ndarray
    """Where the lesion is on the first."""
    seed_M: np.ndarray


def draw_twins(finding: str, *, seeds, size: int = 96, severity: float | None = 0.7, drain: bool | None = False, view: str = "PA") -> Twins:
    """Draws patients twice.

    Args:
        finding: What only the first of each two has.
        seeds: One per patient; their sex alternates and their age goes from 25 to 80 with the seed.
        size: Pixels per side.
        severity: 0 (subtle) to 1 (plain); None: by chance.
        drain: On both alike. None would let the drain depend on the finding, as it does by nature.
        view: "PA" or "AP".

    Raises:
        CxrError: The finding has no lesion of its own on any of the films.
    """
    finding = canonical(finding)
    first, second, masks = [], [], []
    for seed in seeds:
        person = {"size": size, "view": view, "sex": "MF"[seed % 2], "age": 25 + seed * 7 % 55, "drain": bool(drain)}
        strength = None if severity is None else {finding: severity}
        ill = draw(seed, findings=(finding,), severity=strength, **person)
        first.append(ill.image_YX)
        second.append(draw(seed, **person).image_YX)
        masks.append(ill.lesion_masks.get(finding, np.zeros((size, size), bool)))
    if not any(mask.any() for mask in masks):
        raise CxrError(f"the phantom drew no mask of {finding} on these films: take another finding or a larger size")
    return Twins(np.stack(first), np.stack(second), np.stack(masks), np.asarray(seeds))


class Moved(NamedTuple):
    """What happened when the lesion was taken away. Arrays [M]."""

    logit_with_M: np.ndarray
    logit_without_M: np.ndarray
    inside_with_M: np.ndarray
    """Share of the map inside the lesion."""
    inside_without_M: np.ndarray
    """Share of the other film's map inside the place where the lesion was."""
    alike_M: np.ndarray
    """Rank correlation of the two maps; 1: the map did not notice. NaN where one of them is constant."""
    area_M: np.ndarray
    """The lesion's share of the film."""


def moved(model: nn.Module, twins: Twins, *, method: str, finding: int, findings: int, recipe) -> Moved:
    """Logits and maps of both films of each patient.

    Args:
        model: In eval mode.
        twins: As drawn.
        method: A name of `MAP_METHODS`.
        finding: Which of the model's outputs.
        findings: How many it has.
        recipe: How grey values become input.
    """
    (with_logit, with_map), (without_logit, without_map) = (
        look(model, films, method=method, finding=finding, findings=findings, recipe=recipe) for films in (twins.with_MYX, twins.without_MYX)
    )
    alike_M = np.array([rank_correlation(a, b) for a, b in zip(with_map, without_map)])
    insides = [inside_share(maps, twins.mask_MYX) for maps in (with_map, without_map)]
    return Moved(with_logit, without_logit, *insides, alike_M, twins.mask_MYX.mean(axis=(1, 2)))


class Fours(NamedTuple):
    """M patients drawn four times: with and without the finding, with and without the cue."""

    film_22MYX: np.ndarray
    """uint8, indexed by finding (0 without, 1 with), then cue."""
    lesion_MYX: np.ndarray
    cue_MYX: np.ndarray
    """Where the cue is: pixels that it changes on the films without the finding (for a marker, both letters' places)."""


def draw_fours(finding: str = "Pneumothorax", *, seeds, size: int = 96, severity: float | None = 0.7, cue: str = "drain") -> Fours:
    """Draws patients with and without a finding, each with and without a cue.

    Args:
        finding: The finding.
        seeds: One per patient.
        size: Pixels per side.
        severity: See `draw_twins`.
        cue: "drain": a chest drain or none. "marker": the side marker is an R (the cue) or an L.

    Raises:
        CxrError: There is no such cue.
    """
    settings = {"drain": ({"drain": False}, {"drain": True}), "marker": ({"drain": False, "marker": "L"}, {"drain": False, "marker": "R"})}
    if cue not in settings:
        raise CxrError(f"there is no cue {cue!r}: choose one of {', '.join(settings)}")
    finding = canonical(finding)
    films, lesions, cues = [], [], []
    for seed in seeds:
        person = {"size": size, "sex": "MF"[seed % 2], "age": 25 + seed * 7 % 55}
        strength = None if severity is None else {finding: severity}
        four = [[draw(seed, findings=names, severity=strength if names else None, **person, **way) for way in settings[cue]] for names in ((), (finding,))]
        films.append([[film.image_YX for film in row] for row in four])
        lesions.append(four[1][0].lesion_masks[finding])
        change_YX = np.abs(four[0][1].image_YX.astype(int) - four[0][0].image_YX)
        cues.append(change_YX > CUE_THRESHOLD)
    return Fours(np.moveaxis(np.array(films), 0, 2), np.stack(lesions), np.stack(cues))


class Effects(NamedTuple):
    """What the four kinds of film say."""

    logit_22: np.ndarray
    """Mean over patients, indexed by finding, then cue."""
    of_finding: float
    """How much the finding alone raises the logit."""
    of_cue: float
    """How much the cue alone does. Of a model that looks at the finding: nothing."""


def effects(model: nn.Module, fours: Fours, *, finding: int, recipe) -> tuple[np.ndarray, Effects]:
    """Takes the score of a finding apart.

    Returns:
        Logits [2, 2, M], indexed by finding, cue, patient; and what their means say.
    """
    logit_22M = np.stack([[_logits(model, films, recipe)[:, finding] for films in row] for row in fours.film_22MYX])
    mean_22 = logit_22M.mean(axis=2)
    return logit_22M, Effects(mean_22, float(mean_22[1, 0] - mean_22[0, 0]), float(mean_22[0, 1] - mean_22[0, 0]))


def look(model: nn.Module, films_MYX: np.ndarray, *, method: str, finding: int, findings: int, recipe) -> tuple[np.ndarray, np.ndarray]:
    """Logit [M] and map [M, y, x] of one finding on each film."""
    logits, maps = [], []
    for start in range(0, len(films_MYX), 16):
        part_MYX = films_MYX[start : start + 16]
        img_BIYX = normalise(to_float(torch.from_numpy(np.ascontiguousarray(part_MYX))), mean=recipe.mean, std=recipe.std)
        # The noise of the random map goes by name: no two films may share it, and the same film must have the same.
        names = [f"{zlib.crc32(film_YX.tobytes())}" for film_YX in part_MYX]
        made_BCyx = map_method(method).make(model, img_BIYX, findings=findings, names=names)
        maps.append(made_BCyx[:, finding].detach().float().numpy())
        logits.append(_logits(model, part_MYX, recipe)[:, finding])
    return np.concatenate(logits), np.concatenate(maps)


@torch.no_grad()
def _logits(model: nn.Module, films_MYX: np.ndarray, recipe) -> np.ndarray:
    return model(normalise(to_float(torch.from_numpy(np.ascontiguousarray(films_MYX))), mean=recipe.mean, std=recipe.std)).logits_BC.numpy()
