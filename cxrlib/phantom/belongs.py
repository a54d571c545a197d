"""Is this cohort the one that a store was prepared from? Images of any two cohorts have the same names, so pixels must tell."""

from pathlib import Path

import numpy as np
from PIL import Image

from cxrlib.data.store import ImageStore
from cxrlib.errors import CxrError

LOOKED_AT = 4
"""Images that are compared. Two cohorts of different seeds share none."""


def check_belongs(cohort: str | Path, store: ImageStore) -> None:
    """Compares a few images, spread over the store, with the cohort's.

    Args:
        cohort: A folder that `python -m cxrlib phantom` wrote.
        store: Prepared from it, it is hoped.

    Raises:
        CxrError: The store's images are no phantoms, the folder is no cohort, or another one.
    """
    folder = Path(cohort)
    if store.source != "phantom":
        raise CxrError(f"the store's images are {store.source}'s, and only phantoms come with their anatomy and exact masks: take a store of phantoms, or, for priors, --source pspnet or template")
    if not (folder / "phantom.json").is_file():
        raise CxrError(f"{folder} is no phantom cohort (no phantom.json): name the folder that the store was prepared from")
    for row in np.unique(np.linspace(0, store.n - 1, min(store.n, LOOKED_AT)).round().astype(int)):
        path = folder / "images" / store.table["image"].iloc[row]
        if not path.is_file():
            raise CxrError(f"{path} does not exist: name the cohort that the store was prepared from, with its images")
        drawn_YX = np.asarray(Image.open(path).resize((store.size,) * 2, Image.Resampling.BILINEAR))
        if not np.array_equal(drawn_YX, store.image(row)):
            raise CxrError(f"{path.name} of {folder} is not the image in the store: name the cohort that the store was prepared from")
