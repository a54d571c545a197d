"""How fast PNGs become a store, and how fast the store is read: for `python -m cxrlib bench`.

    python -m cxrlib.data.timing --films FOLDER --out FILE

takes these readings alone, with genuine 1024-pixel films if you name a folder of them.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from cxrlib.data.folders import find_images
from cxrlib.data.images import decode
from cxrlib.data.pixels import Pixels
from cxrlib.data.prepare import prepare
from cxrlib.data.studies import Studies, empty_boxes
from cxrlib.errors import CxrError
from cxrlib.findings import NIH_FINDINGS
from cxrlib.io import write_json


class StoreTimes(NamedTuple):
    """Times per image on one core.

    Attributes:
        png_ms: Milliseconds to read, decode and resize one PNG.
        store_ms: Milliseconds to read one image from the store, in random order, its bytes in the page cache.
        prepare_ms: Milliseconds per image of `prepare` with one worker, hashing and writing to disk included.
        prepare_cpu_ms: The same in processor time, which another program's work changes little.
        ratio: `png_ms / store_ms`.
        images: How many images were measured.
        png_kib: Mean size of the PNG files in KiB.
    """

    png_ms: float
    store_ms: float
    prepare_ms: float
    prepare_cpu_ms: float
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
        start, cpu = time.perf_counter(), time.process_time()
        store = prepare(studies, Path(scratch) / "store", size=size)
        prepare_s, prepare_cpu_s = time.perf_counter() - start, time.process_time() - cpu
        png_s = min(_time(lambda: [_resized(root / path, size) for _, path in names]) for _ in range(repeats))
        rounds = max(1, 2000 // store.n)
        order = np.concatenate([np.random.default_rng(0).permutation(store.n) for _ in range(rounds)])
        store_s = min(_time(lambda: [store.image(index) for index in order]) for _ in range(repeats)) / rounds
        kib = float(np.mean([(root / path).stat().st_size for _, path in names]) / 1024)
    png_ms, store_ms, prepare_ms, cpu_ms = (seconds / len(names) * 1e3 for seconds in (png_s, store_s, prepare_s, prepare_cpu_s))
    return StoreTimes(png_ms, store_ms, prepare_ms, cpu_ms, png_ms / store_ms, len(names), kib)


class ReadTimes(NamedTuple):
    """Milliseconds per image of random batches, as training reads them, from a file far larger than a processor's cache.

    Attributes:
        memory_ms: Its pages are in memory.
        memory_cpu_ms: The same in processor time.
        disk_ms: None of its pages is; NaN where the system cannot be asked to forget them (it can on Linux). A temporary
            folder that lies in memory would make this another reading of memory.
        plain_disk_ms: The same through a memory map, indexed by numpy: one missing page after the other.
        images: Images in the file.
        read: How many of them were read.
    """

    memory_ms: float
    memory_cpu_ms: float
    disk_ms: float
    plain_disk_ms: float
    images: int
    read: int


def bench_reading(*, size: int = 224, n: int = 8192, read: int = 1024, batch: int = 64, repeats: int = 5) -> ReadTimes:
    """Measures random batches from a store's pixels.

    Args:
        size: Side of an image.
        n: Images in the file; 8192 of 224 pixels are 411 MB.
        read: How many are read, each once, in random order.
        batch: Images at once.
        repeats: Median of so many passes.
    """
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        path = Path(scratch) / "images.u8"
        with open(path, "wb") as file:
            for start in range(0, n, 256):
                file.write(rng.bytes(min(256, n - start) * size * size))
            file.flush()
            os.fsync(file.fileno())

        def one_pass(images_NYX: Pixels | np.ndarray, rows: np.ndarray) -> tuple[float, float]:
            cpu, wall = time.process_time(), time.perf_counter()
            for start in range(0, len(rows), batch):
                np.ascontiguousarray(images_NYX[rows[start : start + batch]])
            return (time.perf_counter() - wall) / len(rows) * 1e3, (time.process_time() - cpu) / len(rows) * 1e3

        memory, cold, plain = [], [], []
        for _ in range(repeats):
            rows = rng.permutation(n)[:read]
            # A map keeps its pages in memory, so it must be closed before the system can be asked to forget them.
            plain.append(one_pass(np.memmap(path, np.uint8, "r", shape=(n, size, size)), rows)[0] if _forget(path) else np.nan)
            pixels = Pixels(path, (n, size, size))
            cold.append(one_pass(pixels, rows)[0] if _forget(path) else np.nan)
            one_pass(pixels, rows)
            memory.append(one_pass(pixels, rows))
    wall, cpu = (statistics.median(readings) for readings in zip(*memory))
    return ReadTimes(wall, cpu, statistics.median(cold), statistics.median(plain), n, min(n, read))


def _forget(path: Path) -> bool:
    """Asks the system to drop a file's pages from memory; whether it can be asked."""
    if not hasattr(os, "posix_fadvise"):
        return False
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def as_json(reading: ReadTimes) -> dict[str, float | int | None]:
    """The readings with None for what was not measured: JSON has no NaN."""
    return {name: None if value != value else value for name, value in reading._asdict().items()}


def as_rows(store: dict, reading: dict) -> list[tuple[str, str, str, str]]:
    """What was measured, as (what, reading, goal, how)."""
    asked = reading["disk_ms"] is not None
    disk = f"{reading['disk_ms']:.3f} ms" if asked else "not measured"
    return [
        ("prepare, per 1024-px PNG and core", f"{store['prepare_cpu_ms']:.1f} ms", "at most 25 ms",
         f"processor time, to 224 px, {store['images']} files of {store['png_kib']:.0f} KiB; {store['prepare_ms']:.1f} ms in all"),
        ("random batches from the store, pages in memory", f"{reading['memory_ms']:.3f} ms", "at most 0.15 ms",
         f"per 224-px image, {reading['read']} of {reading['images']}; {reading['memory_cpu_ms']:.3f} ms of processor time"),
        ("  pages not in memory", disk, "at most 0.15 ms",
         f"{reading['plain_disk_ms']:.3f} ms through a memory map" if asked else "this system cannot be asked to forget pages"),
    ]  # fmt: skip


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


def main() -> None:
    """Measures and prints."""
    from cxrlib.bench import machine

    parser = argparse.ArgumentParser(prog="python -m cxrlib.data.timing", description=__doc__.splitlines()[0])
    parser.add_argument("--films", metavar="FOLDER", help="1024-px PNGs to decode, instead of drawn ones")
    parser.add_argument("--out", metavar="FILE", help="also write the readings as JSON")
    args = parser.parse_args()
    store, reading = bench_store(args.films, n=96)._asdict(), as_json(bench_reading())
    for what, value, goal, how in as_rows(store, reading):
        print(f"{what:<50}{value:>14}  (goal: {goal})  {how}")
    if args.out:
        films = "drawn, as noisy as NIH's" if args.films is None else "genuine films"
        write_json(args.out, {"machine": machine("cpu"), "films": films, "store": store, "reading": reading})


if __name__ == "__main__":
    main()
