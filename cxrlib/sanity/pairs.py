"""What is tested: films with a finding whose place is known, and any method's maps of them.

Letters: M pairs of a film and a finding, Y X pixels, y x cells of a map.
"""

import dataclasses
from pathlib import Path

import numpy as np
from torch import nn

from cxrlib.data.store import ImageStore
from cxrlib.errors import CxrError
from cxrlib.findings import NIH_FINDINGS
from cxrlib.localization.runs import maps_of_model
from cxrlib.phantom.belongs import check_belongs
from cxrlib.phantom.cohort import read_masks


@dataclasses.dataclass(frozen=True)
class Pairs:
    """M films, each with one finding that is on it.

    Attributes:
        row_M: Row of the film in the store.
        image_M: Its name.
        patient_M: Whose it is.
        finding_M: Name of the finding.
        mask_MYX: Where it was drawn, bool, in the store's pixels.
    """

    row_M: np.ndarray
    image_M: np.ndarray
    patient_M: np.ndarray
    finding_M: np.ndarray
    mask_MYX: np.ndarray

    def __len__(self) -> int:
        return len(self.row_M)


def lesion_pairs(
    store: ImageStore,
    cohort: str | Path,
    *,
    rows: np.ndarray,
    per_finding: int = 20,
    findings: tuple[str, ...] = NIH_FINDINGS,
    smallest: float = 0.0,
    seed: int = 0,
) -> Pairs:
    """Draws films for each finding from a phantom cohort, one film per patient and finding, with the exact masks.

    Args:
        store: Prepared from the cohort at its own size.
        cohort: The cohort's folder, with `masks/`.
        rows: Rows of the store to draw from: a split, mostly.
        per_finding: At most so many films of each finding.
        findings: Which.
        smallest: Leave out lesions below this share of the film. A mask that the grey values never show is no truth.
        seed: Of the draw.

    Raises:
        CxrError: There are no masks, they are another cohort's, or they have another size than the store.
    """
    folder = Path(cohort) / "masks"
    if not folder.is_dir():
        raise CxrError(f"{cohort} has no masks: give the folder of a phantom cohort")
    check_belongs(cohort, store)
    rng = np.random.default_rng(seed)
    names, patients = store.table["image"].to_numpy(), store.patients.astype(str)
    picked: list[tuple[int, str, np.ndarray]] = []
    for finding in findings:
        if finding not in store.findings:
            continue
        has = rows[store.labels_NC[rows, store.findings.index(finding)] == 1]
        seen: set[str] = set()
        count = 0
        for row in rng.permutation(has):
            if count == per_finding:
                break
            if patients[row] in seen:
                continue
            mask_YX = read_masks(folder / f"{Path(names[row]).stem}.npz")[0].get(finding)
            if mask_YX is None or mask_YX.mean() <= smallest:
                continue
            if mask_YX.shape != (store.size, store.size):
                raise CxrError(f"masks of {mask_YX.shape[0]} px do not fit a store of {store.size} px: prepare it at the cohort's size")
            picked.append((int(row), finding, mask_YX))
            seen.add(patients[row])
            count += 1
    if not picked:
        raise CxrError("none of these films has a finding with a mask: choose other rows or findings")
    row_M = np.array([row for row, *_ in picked])
    masks = np.stack([mask for *_, mask in picked])
    return Pairs(row_M, names[row_M].astype(str), patients[row_M], np.array([finding for _, finding, _ in picked]), masks)


def maps_of_pairs(model: nn.Module | None, store: ImageStore, pairs: Pairs, *, method: str, recipe, findings: tuple[str, ...]) -> np.ndarray:
    """One map for each pair, by any method of `cxrlib.localization`: float32 [M, y, x].

    Args:
        model: Trained, in eval mode.
        store: The films.
        pairs: What to look at.
        method: A name of `MAP_METHODS`.
        recipe: How grey values become input.
        findings: The model's outputs, in order.
    """
    images = list(dict.fromkeys(pairs.image_M))
    made = maps_of_model(model, store, images, method=method, findings=findings, mean=recipe.mean, std=recipe.std)
    by_image = {item.image: item.map_Cyx for item in made}
    return np.stack([by_image[image][findings.index(finding)] for image, finding in zip(pairs.image_M, pairs.finding_M)]).astype(np.float32)
