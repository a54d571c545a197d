"""A rehearsal of a full-size data set with tiny images: does anything grow faster than the number of images?

    python -m cxrlib.data.rehearsal 112120

It writes so many 8 x 8 PNGs in NIH's layout, and takes them the way of the genuine ones: reader, `prepare`, opening,
a patient split, an epoch of random batches. For each step it prints the processor time of this process and the largest memory
so far. Pixels cost next to nothing here; what is left is the bookkeeping, whose cost a full data set pays too.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from cxrlib.data.feed import training_batches
from cxrlib.data.nih import read_nih
from cxrlib.data.prepare import prepare
from cxrlib.data.splits import split_by_patient
from cxrlib.data.store import ImageStore
from cxrlib.findings import NIH_FINDINGS, NO_FINDING

PER_PATIENT = 3.64  # images, as in NIH: 112,120 of 30,805 patients


def write_folder(folder: Path, n: int, *, side: int = 8) -> None:
    """n PNGs of side x side in images_001/images to images_012/images, with a label table, split lists and a box for each 128th."""
    rng = np.random.default_rng(0)
    names, rows, boxes = [], [], ["Image Index,Finding Label,Bbox [x,y,w,h],,,"]
    folders = [folder / f"images_{part:03d}" / "images" for part in range(1, 13)]
    for place in folders:
        place.mkdir(parents=True)
    kinds = []  # a few pictures, written again and again: drawing them is not what is measured
    for value in range(7):
        grey = rng.integers(value, 200 + value, (side, side)).astype(np.uint8)
        path = folder / f".kind{value}.png"
        Image.fromarray(grey).save(path)
        kinds.append(path.read_bytes())
        path.unlink()
    for index in range(n):
        patient = int(index / PER_PATIENT) + 1
        name = f"{patient:08d}_{index % 1000:03d}.png"
        label = (NO_FINDING, *NIH_FINDINGS)[index % 15]
        (folders[index * 12 // n] / name).write_bytes(kinds[index % 7])
        names.append(name)
        rows.append(f"{name},{label},{index % 5},{patient},{20 + index % 70},{'MF'[patient % 2]},PA,2500,2048,0.168,0.168")
        if index % 128 == 0 and label != NO_FINDING:
            boxes.append(f"{name},{label},100.5,200.25,300.75,80.5")
    header = (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Sex,View Position,"
        "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
    )
    (folder / "Data_Entry_2017_v2020.csv").write_text("\n".join([header, *rows]) + "\n")
    (folder / "BBox_List_2017.csv").write_text("\n".join(boxes) + "\n")
    test = [int(name[:8]) % 5 == 0 for name in names]
    for split, wanted in (("train_val", False), ("test", True)):
        (folder / f"{split}_list.txt").write_text("\n".join(name for name, held in zip(names, test) if held == wanted))


def rehearse(n: int, *, size: int = 8, side: int = 8, workers: int = 1) -> dict[str, dict[str, float]]:
    """Runs every step in this process.

    Args:
        n: Images.
        size: Side of the stored images.
        side: Side of the PNGs.
        workers: Of `prepare`.

    Returns:
        For each step `cpu_s`, `wall_s` (in seconds) and `peak_mib`, the largest resident memory of this process so far.
    """
    import resource  # not on Windows

    steps: dict[str, dict[str, float]] = {}

    def step(name: str, work):
        cpu, wall = time.process_time(), time.perf_counter()
        result = work()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
        steps[name] = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall, "peak_mib": peak}
        return result

    root = Path(tempfile.mkdtemp(prefix="rehearsal."))
    try:
        step("start", lambda: None)
        step("write the PNGs and tables", lambda: write_folder(root / "nih", n, side=side))
        studies = step("read the tables, find the files", lambda: read_nih(root / "nih"))
        step("prepare", lambda: prepare(studies, root / "store", size=size, workers=workers))
        step("prepare again: all is there", lambda: prepare(studies, root / "store", size=size, workers=workers))
        del studies
        store = step("open, quick check", lambda: ImageStore.open(root / "store"))
        step("open, every byte checked", lambda: ImageStore.open(root / "store", verify="full"))
        rows = store.where(split="train_val")
        step("patient split", lambda: split_by_patient(store.table.iloc[rows].reset_index(drop=True), 0.1, 0))
        step("an epoch of random batches", lambda: _epoch(store, rows))
        if store.n != n:
            raise RuntimeError(f"{n - store.n} images were left out")
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return steps


def _epoch(store: ImageStore, rows: np.ndarray) -> None:
    for _ in training_batches(store.pixels, store.labels_NC, rows, batch=min(256, len(rows)), seed=0, epoch=0):
        pass


def measure(n: int, *, size: int = 8, side: int = 8, workers: int = 1) -> dict[str, dict[str, float]]:
    """`rehearse` in a process of its own, whose largest memory is nobody else's."""
    command = [sys.executable, "-m", "cxrlib.data.rehearsal", str(n), "--json"]
    command += ["--size", str(size), "--side", str(side), "--workers", str(workers)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ).stdout)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m cxrlib.data.rehearsal", description=__doc__.splitlines()[0])
    parser.add_argument("images", type=int, help="how many: 112120 for NIH ChestX-ray14, 224316 for CheXpert")
    parser.add_argument("--size", type=int, default=8, help="side of the stored images")
    parser.add_argument("--side", type=int, default=8, help="side of the PNGs")
    parser.add_argument("--workers", type=int, default=1, help="of prepare")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    steps = rehearse(args.images, size=args.size, side=args.side, workers=args.workers)
    if args.json:
        print(json.dumps(steps))
        return
    print(f"{args.images} PNGs of {args.side} x {args.side}, stored as {args.size} x {args.size}")
    for name, told in steps.items():
        print(f"{name:<34}{told['cpu_s']:8.1f} s of processor, {told['wall_s']:8.1f} s in all, peak {told['peak_mib']:7.0f} MiB")


if __name__ == "__main__":
    main()
