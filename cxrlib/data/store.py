"""The image store: raw uint8 images in one file, their table beside it, and checksums over all of it.

* images.u8: [N, size, size] bytes, row by row, no header.
* index.csv: the studies table, row i of it for image i, with the file's size and mode, and whether it was
  turned over.
* boxes.csv: boxes in original pixels (`width` x `height` of index.csv).
* store.json: format version, size, n, findings, source, notes, a SHA-256 per block of images, and what was
  left out.

How large. A byte a pixel, and about 200 bytes an image for the table:

    images                          at 224 px    at 512 px
    NIH ChestX-ray14, 112,120          5.6 GB      29.4 GB
    CheXpert, 224,316                 11.3 GB      58.8 GB

Where it does not fit in memory. Opening a store reads nothing of images.u8. The system keeps as much of it in memory as there is
room for, one copy for all training processes of a machine, and gives pages up when others need them. With room for all of it,
an epoch after the first reads no disk. With less, each batch asks for its images at once (`cxrlib.data.pixels`), so that random
reading goes as fast as the disk does (`python -m cxrlib bench` measures it), and far slower from a spinning or a network disk;
training's report of its waiting for data shows it. Then copy the store to a local SSD first, or prepare a smaller size.

Where it does not fit on one disk. The genuine films may be spread: images_001 to images_012 of an NIH folder may be links to
folders on other disks. Of the store, only images.u8 is large; make a link of that name in the empty folder before `prepare`, to
a file on any other disk that need not exist yet, and everything else stays where it is. One images.u8 cannot be spread over two
disks; that is the file system's task. `prepare` asks the disks for their free space before it begins.
"""

import hashlib
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlib.data.pixels import Pixels
from cxrlib.data.studies import BOX_COLUMNS, Studies, rows_in_split
from cxrlib.errors import CxrError
from cxrlib.io import atomic_write, read_json, sha256_of, write_json

FORMAT_VERSION = 1
_TEXT = ("image", "path", "patient", "view", "split", "sex", "mode")


class ImageStore:
    """A finished store, opened for reading.

    Attributes:
        images_NYX: uint8 memmap [N, size, size].
        pixels: The same, for whole images by their rows; a lost file is an error, not the end of the process.
        table: The studies table; row i belongs to image i.
        boxes: Boxes in original pixels.
        findings: Names of the columns of `labels_NC`.
        labels_NC: float32 [N, C] with 1, 0 and NaN.
        size, n: Side of an image in pixels, and how many there are.
        left_out: `(image, reason)` of every image that could not be decoded.
        sha256: One hash that names the data: pixels, table and boxes.
        meta: All of store.json.
    """

    def __init__(self, folder: Path, meta: dict) -> None:
        self.folder, self.meta = folder, meta
        self.size, self.n = int(meta["size"]), int(meta["n"])
        self.findings: tuple[str, ...] = tuple(meta["findings"])
        self.sha256: str = meta["sha256"]
        self.left_out: list[tuple[str, str]] = [(image, reason) for image, reason in meta["left_out"]]
        self.table = _read_index(folder / "index.csv")
        # As text first: the float parser of older pandas is off by a last digit now and then.
        self.boxes = pd.read_csv(folder / "boxes.csv", dtype=object)
        self.boxes[list(BOX_COLUMNS[2:])] = self.boxes[list(BOX_COLUMNS[2:])].astype(float)
        self.table[list(self.findings)] = self.table[list(self.findings)].astype(float)
        self.labels_NC = self.table[list(self.findings)].to_numpy(np.float32)
        shape = (self.n, self.size, self.size)
        # numpy cannot map an empty file, and a store whose every image was broken is empty.
        self.pixels = Pixels(folder / "images.u8", shape)
        self.images_NYX = (
            np.memmap(folder / "images.u8", np.uint8, "r", shape=shape)
            if self.n
            else np.zeros(shape, np.uint8)
        )

    @classmethod
    def open(cls, folder: str | os.PathLike, verify: str = "quick") -> "ImageStore":
        """Opens a store.

        Args:
            folder: What `prepare` wrote.
            verify: "quick" checks sizes, tables and the first and last block of images; "full" checks every
                byte (about a second per GB); "none" checks sizes only.

        Raises:
            CxrError: The folder is no store, the store is unfinished, of another version, or damaged.
        """
        if verify not in ("quick", "full", "none"):
            raise CxrError(f"verify={verify!r} is unknown: use quick, full or none")
        folder = Path(folder)
        if not (folder / "store.json").is_file():
            if (folder / "journal.jsonl").is_file():
                raise CxrError(f"the store {folder} is unfinished: run the same prepare command again")
            raise CxrError(
                f"{folder} is not a store (no store.json): make one with python -m cxrlib prepare FOLDER "
                f"{folder}"
            )
        meta = read_json(folder / "store.json")
        if meta.get("format") != FORMAT_VERSION:
            raise CxrError(
                f"the store {folder} has the format {meta.get('format')}, and this cxrlib reads "
                f"{FORMAT_VERSION}: "
                "prepare it again"
            )
        _check(folder, meta, verify)
        store = cls(folder, meta)
        if len(store.table) != store.n:
            raise CxrError(
                f"the store {folder} is damaged (index.csv has {len(store.table)} rows, not {store.n}): "
                "remake it"
            )
        return store

    def __len__(self) -> int:
        return self.n

    def __reduce__(self):
        # A memmap pickles as a copy of all its bytes; a data-loading worker must open the file itself
        # instead.
        return type(self).open, (self.folder, "none")

    def image(self, index: int) -> np.ndarray:
        """Image `index` as its own uint8 array [Y, X]."""
        return np.array(self.images_NYX[index])

    def where(self, *, split: str | None = None) -> np.ndarray:
        """Row numbers of the images in `split` ("train_val" or "test"), or of all images for None."""
        return rows_in_split(self.table, split)

    @property
    def patients(self) -> np.ndarray:
        """Patient of each image, as an array of str [N]."""
        return self.table["patient"].to_numpy()

    @property
    def source(self) -> str:
        """Where the images come from: "nih", "chexpert" or "phantom"."""
        return self.meta["source"]

    @property
    def generation(self) -> str:
        """Which generation of the label table was read."""
        return self.meta["generation"]


def finish_store(out: Path, studies: Studies, blocks: Sequence[dict], *, job: str, size: int) -> None:
    """Writes index.csv, boxes.csv and, last, store.json, which makes the folder a store.

    Args:
        out: The folder, with a complete images.u8.
        studies: What was prepared.
        blocks: The journal's blocks, each with n, sha256, kept and left_out.
        job: The hash of input and settings.
        size: Side of the images.
    """
    kept = pd.DataFrame(
        [item for block in blocks for item in block["kept"]],
        columns=["row", "width", "height", "file_width", "file_height", "mode", "inverted"],
    )
    table = studies.table.iloc[kept["row"].to_numpy(int)].reset_index(drop=True)
    for name in ("width", "height", "file_width", "file_height", "mode"):
        table[name] = kept[name]
    table["inverted"] = kept["inverted"].astype(int)
    for finding in studies.findings:
        table[finding] = table[finding].astype("Int8")  # written as 1, 0 and nothing
    boxes = studies.boxes[studies.boxes["image"].isin(set(table["image"]))]
    hashes = {}
    for name, frame in (("index.csv", table), ("boxes.csv", boxes)):
        with atomic_write(out / name) as file:
            frame.to_csv(file, index=False, lineterminator="\n")
        hashes[name] = sha256_of(out / name)
    images = studies.table["image"].tolist()
    meta = {
        "format": FORMAT_VERSION,
        "size": size,
        "n": len(table),
        "findings": list(studies.findings),
        "source": studies.source,
        "generation": studies.generation,
        "notes": list(studies.notes),
        "resize": "Pillow antialiased bilinear, longer side to size, padded with black",
        "job": job,
        "files": hashes,
        "blocks": [{"n": block["n"], "sha256": block["sha256"]} for block in blocks],
        "left_out": [[images[row], reason] for block in blocks for row, reason in block["left_out"]],
    }
    meta["sha256"] = _name_of(meta)
    write_json(out / "store.json", meta)


def _name_of(meta: dict) -> str:
    """The hash that names the data: of all blocks' and tables' hashes, so that no pixel need be read."""
    parts = [meta["format"], meta["size"], meta["n"], meta["findings"], meta["files"], meta["blocks"]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _check(folder: Path, meta: dict, verify: str) -> None:
    def damaged(what: str) -> CxrError:
        return CxrError(f"the store {folder} is damaged ({what}): remove it and prepare it again")

    absent = {
        "size",
        "n",
        "findings",
        "files",
        "blocks",
        "left_out",
        "sha256",
        "job",
        "source",
        "generation",
    } - set(meta)
    if absent:
        raise damaged(f"store.json lacks {', '.join(sorted(absent))}")
    for name in ("images.u8", "index.csv", "boxes.csv"):
        if not (folder / name).is_file():
            raise damaged(f"{name} is missing")
    image_bytes = meta["size"] ** 2
    expected, there = meta["n"] * image_bytes, (folder / "images.u8").stat().st_size
    if there != expected or sum(block["n"] for block in meta["blocks"]) != meta["n"]:
        raise damaged(f"images.u8 has {there} bytes instead of {expected}")
    if verify == "none":
        return
    for name, digest in meta["files"].items():
        if sha256_of(folder / name) != digest:
            raise damaged(f"{name} was changed")
    if _name_of(meta) != meta["sha256"]:
        raise damaged("store.json was changed")
    last = len(meta["blocks"]) - 1
    with open(folder / "images.u8", "rb") as file:
        for index, block in enumerate(meta["blocks"]):
            length = block["n"] * image_bytes
            if verify == "quick" and index not in (0, last):
                file.seek(length, io.SEEK_CUR)
            elif hashlib.sha256(file.read(length)).hexdigest() != block["sha256"]:
                raise damaged(f"block {index} of images.u8 was changed")


def _read_index(path: Path) -> pd.DataFrame:
    blank = {"sex": [""]} | _numbers(path)
    table = pd.read_csv(path, dtype=dict.fromkeys(_TEXT, object), keep_default_na=False, na_values=blank)
    table["inverted"] = table["inverted"].astype(bool)
    return table


def _numbers(path: Path) -> dict[str, list[str]]:
    """Blank means NaN in the number columns, and the empty string in the text columns."""
    with open(path, encoding="utf-8") as file:
        names = file.readline().rstrip("\n").split(",")
    return {name: [""] for name in names if name not in _TEXT}
