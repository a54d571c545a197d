"""A store of small made-up images that a model can learn from: a bright square per finding, in a place of its own."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from cxrlib.data import ImageStore, Studies, prepare
from cxrlib.data.studies import empty_boxes

FINDINGS = ("Mass", "Nodule", "Hernia")


def tiny_studies(folder: Path, *, n: int = 120, size: int = 32, seed: int = 0, source: str = "nih") -> Studies:
    """n images of n / 2 patients; one in four patients is in the test split; some labels are unknown."""
    rng = np.random.default_rng(seed)
    labels_NC = (rng.random((n, len(FINDINGS))) < (0.4, 0.3, 0.2)).astype(float)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for i in range(n):
        img_YX = rng.normal(90, 20, (size, size))
        for c, present in enumerate(labels_NC[i]):
            if present:
                y, x = 3 + 8 * c, 4 + 7 * ((c + 1) % 3)
                img_YX[y : y + 6, x : x + 5] += 90
        Image.fromarray(img_YX.clip(0, 255).astype(np.uint8)).save(folder / "images" / f"{i:04d}.png")
    labels_NC[rng.random(labels_NC.shape) < 0.05] = np.nan
    patient = [f"p{i // 2:03d}" for i in range(n)]
    table = pd.DataFrame(
        {
            "image": [f"{i:04d}.png" for i in range(n)],
            "path": [f"images/{i:04d}.png" for i in range(n)],
            "patient": patient,
            "follow_up": [i % 2 for i in range(n)],
            "age": 50.0,
            "sex": "F",
            "view": "PA",
            "split": ["test" if i // 2 % 4 == 0 else "train_val" for i in range(n)],
            "width": size,
            "height": size,
        }
    )
    table[list(FINDINGS)] = labels_NC
    return Studies(table, empty_boxes(), FINDINGS, source, "v2020", folder)


def tiny_store(folder: Path, **options) -> ImageStore:
    """`tiny_studies`, prepared into folder/store."""
    studies = tiny_studies(folder / "raw", **options)
    return prepare(studies, folder / "store", size=int(options.get("size", 32)))
