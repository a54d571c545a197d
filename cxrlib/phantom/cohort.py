"""A phantom cohort on disk: an NIH-layout folder, with exact masks beside it.

OUT/images/00000001_000.png ...      mode L
OUT/masks/00000001_000.npz ...       lesions and anatomy, one bit per pixel (see `read_masks`)
OUT/Data_Entry_2017_v2020.csv        NIH's table, generation v2020; its labels carry the label noise, if any
OUT/BBox_List_2017.csv               boxes of the 8 boxed findings on test images, in NIH's own spelling
OUT/boxes_all.csv                    boxes of every lesion on every image
OUT/truth.csv                        what was drawn: findings without noise, devices, cardiothoracic ratio
OUT/train_val_list.txt, test_list.txt
OUT/phantom.json                     settings; written last, so it marks a finished folder
"""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from tqdm import tqdm

from cxrlib.errors import CxrError
from cxrlib.findings import NO_FINDING
from cxrlib.io import read_json, write_json
from cxrlib.phantom.drawing import STRUCTURES, draw
from cxrlib.phantom.files import write_masks, write_png
from cxrlib.phantom.grid import FIELD_CM
from cxrlib.phantom.labels import check_seed, cohort_labels
from cxrlib.phantom.shortcuts import parse_shortcut, plant
from cxrlib.phantom.tables import write_tables
from cxrlib.workers import in_order

VERSION = 6
"""Raised whenever the same settings would draw other bytes."""
SENTENCE = "A phantom teaches the method and says nothing about patients."
BATCH = 16
"""Images per task. It changes only how work is shared, never what is drawn."""


def read_masks(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Reads one image's masks.

    Args:
        path: A file of the cohort's `masks/`: arrays `names` ("lesion/Mass", "anatomy/Heart", ...) and
            `bits`, uint8 [masks, Y, ceil(X/8)] as `numpy.packbits` packs rows.

    Returns:
        (finding -> bool [Y, X], structure -> bool [Y, X]).
    """
    with np.load(path, allow_pickle=False) as file:
        names, bits = file["names"], file["bits"]
    masks = np.unpackbits(bits, axis=-1, count=bits.shape[1]).astype(bool)
    found = {str(name): mask for name, mask in zip(names, masks, strict=True)}
    return tuple(
        {name.removeprefix(kind): mask for name, mask in found.items() if name.startswith(kind)}
        for kind in ("lesion/", "anatomy/")
    )


def _write_one(job: dict) -> dict:
    """Draws and writes one image with its masks. Depends on the job alone, so on no other image and no
    worker."""
    phantom = draw(
        np.random.SeedSequence(job["seed"], spawn_key=(1, job["index"])),
        size=job["size"],
        findings=() if job["truth"] == NO_FINDING else job["truth"].split("|"),
        view=job["view"],
        sex=job["sex"],
        age=job["age"],
        body_seed=np.random.SeedSequence(job["seed"], spawn_key=(2, job["patient"])),
        drain=job["drain"],
        marker=job["marker"],
    )
    out = Path(job["out"])
    write_png(out / "images" / job["image"], phantom.image_YX)
    masks = {f"lesion/{f}": m for f, m in phantom.lesion_masks.items()}
    masks |= {f"anatomy/{s}": phantom.anatomy[s] for s in STRUCTURES}
    write_masks(out / "masks" / (job["image"][:-4] + ".npz"), masks)
    return {
        "image": job["image"],
        "boxes": phantom.boxes,
        "devices": "|".join(phantom.meta["devices"]),
        "cardiothoracic_ratio": round(phantom.meta["cardiothoracic_ratio"], 4),
    }


def _write_batch(jobs: list[dict]) -> list[dict]:
    return [_write_one(job) for job in jobs]


def write_cohort(
    out: str | Path,
    *,
    n: int,
    size: int = 224,
    seed: int = 0,
    workers: int = 1,
    label_noise: float = 0.0,
    shortcut: str | None = None,
    prevalence: str = "nih",
    progress: bool = True,
) -> Path:
    """Draws a cohort and writes it as an NIH-layout folder. The same arguments give the same bytes for any
    `workers`.

    (On one machine with one set of library versions; another processor may round the last bit of an
    exponential otherwise.)
    Nothing half-done is ever called finished: the folder grows as OUT.part and takes its place when it is
    whole. OUT.lock, held meanwhile, keeps a second phantom from the same folder.

    Args:
        out: The folder to make. A finished one with the same settings is left as it is.
        n: Images.
        size: Pixels per side. Boxes are in these pixels (NIH's own are in 1024).
        seed: Of everything.
        workers: Processes.
        label_noise: See `cohort_labels`.
        shortcut: A planted cue, "KIND:FINDING:STRENGTH[:TEST_STRENGTH]"; see `shortcuts.parse_shortcut`.
        prevalence: "nih" or "enriched".
        progress: Show a bar with the time left.

    Returns:
        The folder.

    Raises:
        CxrError: An argument is out of range, the folder holds something else, another phantom is writing it,
            or a worker was killed.
    """
    out = Path(out)
    if not 32 <= size <= 2048:
        raise CxrError(f"size {size} is not between 32 and 2048 pixels")
    if workers < 1:
        raise CxrError(f"{workers} workers cannot work: give at least 1")
    check_seed(seed)
    cue = parse_shortcut(shortcut)
    settings = {
        "format": "cxrlib phantom cohort",
        "version": VERSION,
        "note": SENTENCE,
        "n": n,
        "size": size,
        "seed": seed,
        "prevalence": prevalence,
        "label_noise": label_noise,
        "shortcut": shortcut,
        "pixel_spacing_mm": round(10 * FIELD_CM / size, 6),
        "box_frame": f"pixels of the written images, {size} x {size}; NIH's own boxes are in 1024 x 1024",
        "box_rule": "BBox_List_2017.csv: the 8 boxed findings on test images, the largest lesion of each; "
        "boxes_all.csv: every lesion",
    }
    if _is_there(out, settings):
        return out
    table = plant(cohort_labels(n, seed, prevalence=prevalence, label_noise=label_noise), cue, seed)
    place = Path(os.path.abspath(out))  # OUT may be ".", which has no name
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with _alone(place):
            if not _is_there(out, settings):  # another phantom may have finished it just now
                _write_part(place, table, settings, workers=workers, progress=progress)
    except OSError as error:
        raise CxrError(
            f"could not write {out} ({error.strerror}): free some space or choose another folder"
        ) from error
    return out


def _is_there(out: Path, settings: dict) -> bool:
    """Whether this very cohort is finished. Anything else in the folder is refused."""
    if (out / "phantom.json").exists():
        if read_json(out / "phantom.json") == settings:
            held = f"{settings['n']} images at {settings['size']} px"
            print(f"{out} already holds this cohort ({held}): nothing to do")
            return True
        raise CxrError(f"{out} holds another phantom cohort: choose another folder or delete this one")
    if out.exists() and any(out.iterdir()):
        raise CxrError(
            f"{out} is not empty: choose a new folder (an unfinished cohort lies in {out}.part and is redone)"
        )
    return False


@contextlib.contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Holds PLACE.lock, which the system frees even if this process is killed, and removes it at the end."""
    lock = place.with_name(place.name + ".lock")
    try:
        held = FileLock(lock, timeout=0).acquire()
    except Timeout:
        raise CxrError(f"another phantom is writing {place}: wait for it, or choose another folder") from None
    with held:
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # Windows keeps a file that is open
                lock.unlink()


def _write_part(place: Path, table: pd.DataFrame, settings: dict, *, workers: int, progress: bool) -> None:
    """Draws the cohort into PLACE.part and moves it to its place."""
    n, size = settings["n"], settings["size"]
    part = place.with_name(place.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    (part / "images").mkdir(parents=True)
    (part / "masks").mkdir()
    columns = ["image", "truth", "view", "sex", "age", "patient", "drain", "marker"]
    jobs = [
        dict(zip(columns, row, strict=True))
        | {"index": i, "seed": settings["seed"], "size": size, "out": str(part)}
        for i, row in enumerate(table[columns].itertuples(index=False))
    ]
    batches = [jobs[i : i + BATCH] for i in range(0, n, BATCH)]
    results: list[dict] = []
    with (
        tqdm(total=n, desc="phantom", unit="image", disable=not progress) as bar,
        contextlib.closing(in_order(_write_batch, batches, workers=workers)) as drawn,
    ):
        for batch in drawn:
            results += batch
            bar.update(len(batch))
    write_tables(part, table, results, size)
    write_json(part / "phantom.json", settings)
    if not place.exists():
        part.rename(place)
        return
    # The folder is there, empty, and may be where a shell stands: it is filled, its mark of completion last.
    for path in sorted(part.iterdir(), key=lambda path: path.name == "phantom.json"):
        path.rename(place / path.name)
    part.rmdir()


def images_per_second(*, size: int = 224, n: int = 64, seed: int = 0) -> float:
    """Images drawn and written per second by this process alone, with PNGs and masks, after a warm-up; for
    `bench`."""
    with tempfile.TemporaryDirectory() as folder:
        write_cohort(Path(folder) / "warm", n=4, size=size, seed=seed + 1, progress=False)
        start = time.perf_counter()
        write_cohort(Path(folder) / "timed", n=n, size=size, seed=seed, progress=False)
        return n / (time.perf_counter() - start)
