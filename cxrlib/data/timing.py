"""How fast the store is read, beside decoding and resizing PNGs: for `python -m cxrlib bench`."""

import os
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from cxrlib.data.folders import find_images
from cxrlib.data.images import decode
from cxrlib.data.prepare import prepare
from cxrlib.data.studies import Studies, empty_boxes
from cxrlib.errors import CxrError
from cxrlib.findings import NIH_FINDINGS


class StoreTimes(NamedTuple):
    """Times per image on one core.

    Attributes:
        png_ms: Milliseconds to read, decode and resize one PNG.
        store_ms: Milliseconds to read one image from the store, in random order, its bytes in the page cache.
        prepare_ms: Milliseconds per image of `prepare` with one worker, hashing and writing to disk included.
        ratio: `png_ms / store_ms`.
        images: How many images were measured.
        png_kib: Mean size of the PNG files in KiB.
    """

    png_ms: float
    store_ms: float
    prepare_ms: float
    ratio: float
    images: int
    png_kib: float


def bench_store(
    folder: str | os.PathLike | None = None, *, size: int = 224, n: int = 32, repeats: int = 3
) -> StoreTimes:
    """Measures the store against PNGs.

    Args:
        folder: A folder of 1024-pixel PNGs (or one with `images/`); None draws some that compress as NIH's
            do.
        size: Side of the store's images.
        n: How many PNGs.
        repeats: The fastest of so many passes counts: anything slower was another program's doing.

    Raises:
        CxrError: The folder has no images.
    """
    # Windows cannot remove a file that is still mapped.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        root = Path(folder) if folder is not None else Path(scratch) / "png"
        if folder is None:
            _draw_pngs(root, n)
        names = sorted(find_images(root)[0].items())[:n]
        if not names:
            raise CxrError(f"{root} holds no image to measure: give a folder of PNGs")
        studies = _bare_studies(root, names)
        start = time.perf_counter()
        store = prepare(studies, Path(scratch) / "store", size=size)
        prepare_s = time.perf_counter() - start
        png_s = min(_time(lambda: [_resized(root / path, size) for _, path in names]) for _ in range(repeats))
        rounds = max(1, 2000 // store.n)
        order = np.concatenate([np.random.default_rng(0).permutation(store.n) for _ in range(rounds)])
        store_s = min(_time(lambda: [store.image(index) for index in order]) for _ in range(repeats)) / rounds
        kib = float(np.mean([(root / path).stat().st_size for _, path in names]) / 1024)
    png_ms, store_ms = png_s / len(names) * 1e3, store_s / len(names) * 1e3
    return StoreTimes(png_ms, store_ms, prepare_s / len(names) * 1e3, png_ms / store_ms, len(names), kib)


def _resized(path: Path, size: int) -> np.ndarray:
    return np.asarray(decode(path).image.resize((size, size), Image.Resampling.BILINEAR))


def _time(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _draw_pngs(folder: Path, n: int) -> None:
    """Smooth shapes under film grain: 1024 x 1024, and about 400 KiB as PNG, as NIH's files are."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(n):
        smooth = Image.fromarray(rng.uniform(20, 235, (9, 9)).astype(np.float32)).resize(
            (1024, 1024), Image.Resampling.BICUBIC
        )
        grey = np.asarray(smooth) + rng.normal(0, 0.8, (1024, 1024))
        Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(folder / "images" / f"{index:04d}.png")


def _bare_studies(root: Path, names: list[tuple[str, str]]) -> Studies:
    table = pd.DataFrame(names, columns=["image", "path"])
    table["patient"] = table["image"]
    for column, value in dict(
        follow_up=0, age=np.nan, sex=np.nan, view="", split="", width=0, height=0
    ).items():
        table[column] = value
    table[list(NIH_FINDINGS)] = np.nan
    return Studies(table, empty_boxes(), NIH_FINDINGS, "timing", "none", root)
