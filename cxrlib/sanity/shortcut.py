"""A model that learnt a cue: where does its map look, and what is its score worth when the cue is gone?

`write_cohort(shortcut="drain:Pneumothorax:0.95")` plants a drain beside nearly every pneumothorax. Test cohorts with other
strengths give the same films' score under other habits of treating. `counterfactual.effects` then takes one film's score
apart.

Letters: M films, K cohorts.
"""

from typing import NamedTuple

import numpy as np

from cxrlib.data.store import ImageStore
from cxrlib.errors import CxrError
from cxrlib.metrics import auroc
from cxrlib.predict import predict
from cxrlib.sanity.habit import inside_share


class Looks(NamedTuple):
    """Where maps of films with finding and cue look, as lifts: share of the map inside, over the area."""

    lesion: float
    cue: float


def looks(map_Myx: np.ndarray, lesion_MYX: np.ndarray, cue_MYX: np.ndarray) -> Looks:
    """Lift on the lesion and on the cue. Pixels that are both count as lesion.

    Raises:
        CxrError: No film shows one of them.
    """
    cue_MYX = cue_MYX & ~lesion_MYX
    if not (lesion_MYX.any() and cue_MYX.any()):
        raise CxrError("these films show no lesion or no cue: draw them with both")
    return Looks(*(float(inside_share(map_Myx, mask).sum() / mask.mean(axis=(1, 2)).sum()) for mask in (lesion_MYX, cue_MYX)))


def auroc_by_cohort(model, recipe, stores_K: dict[str, ImageStore], *, finding: str, findings: tuple[str, ...]) -> dict[str, float]:
    """AUROC of a finding on the test split of each cohort.

    Raises:
        CxrError: A cohort has films of another size.
    """
    out = {}
    for name, store in stores_K.items():
        if store.size != recipe.image_size:
            raise CxrError(f"the store {name} holds images of {store.size} px, the run reads {recipe.image_size} px")
        rows = np.asarray(store.where(split="test"))
        logits_NC = predict(model, store.images_NYX, rows, recipe=recipe)
        out[name] = float(auroc(logits_NC[:, findings.index(finding)], store.labels_NC[rows, store.findings.index(finding)]))
    return out
