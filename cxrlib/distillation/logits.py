"""The logit store: what a teacher says of every view that a student will see.

* logits.f16: [E, N, C], 16-bit floats, epoch by epoch, in the order of the training rows.
* logits.json: format, teacher, whose work is in it, findings, the image stores' hashes, what fixes the views, checksums. Written last.

TinyViT keeps the largest few of a softmax's thousand values. Fourteen separate sigmoids are few enough to be kept whole.

Letters of shapes: E epochs, N training images, C findings, B batch, K draws per image.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from cxrlib.blocks import check_blocks, write_blocks
from cxrlib.data.augment import Ranges, augment, to_float
from cxrlib.data.feed import epoch_draws
from cxrlib.data.store import ImageStore
from cxrlib.distillation.teacher import Teacher
from cxrlib.errors import CxrError
from cxrlib.io import read_json, write_json

FORMAT_VERSION = 1
BLOCK = 256  # views


def views_of(store: ImageStore, rows: np.ndarray, *, seed: int, epochs: int, ranges: Ranges) -> dict[str, Any]:
    """What fixes the views: stored with the logits, and compared before a student reads them.

    The draws themselves are hashed, not only their seed: another version of the random generator would make other views.
    """
    draws = hashlib.sha256()
    for epoch in range(epochs):
        draws.update(epoch_draws(len(rows), seed=seed, epoch=epoch).tobytes())
    return {
        "store": store.sha256,
        "rows": hashlib.sha256(np.asarray(rows, np.int64).tobytes()).hexdigest(),
        "n": len(rows),
        "seed": seed,
        "epochs": epochs,
        "ranges": ranges._asdict(),
        "draws": draws.hexdigest(),
    }


class LogitStore:
    """Finished logits, opened for reading.

    Attributes:
        findings: Names along C.
        meta: All of logits.json.
    """

    def __init__(self, folder: Path, meta: dict[str, Any], rows: np.ndarray) -> None:
        self.folder, self.meta, self.findings = folder, meta, tuple(meta["findings"])
        shape = (meta["views"]["epochs"], meta["views"]["n"], len(self.findings))
        self._logits_ENC = np.memmap(folder / "logits.f16", np.float16, "r", shape=shape)
        self._place = np.full(int(max(rows)) + 1, -1)
        self._place[rows] = np.arange(len(rows))

    @classmethod
    def open(
        cls, folder: str | os.PathLike, store: ImageStore, rows: np.ndarray, *, seed: int, epochs: int, ranges: Ranges
    ) -> "LogitStore":
        """Opens logits, and makes sure that they are of the very views that a run will make.

        Args:
            folder: What `make_logits` wrote.
            store: The student's images.
            rows: The rows that it trains on.
            seed, epochs, ranges: Of its recipe.

        Raises:
            CxrError: The folder holds no finished logits, they are damaged, or are of other views.
        """
        folder = Path(folder)
        meta = _read(folder)
        # A run of fewer epochs sees the same views as far as it goes; their draws are hashed together, so all are made here.
        given, wanted = meta["views"], views_of(store, rows, seed=seed, epochs=meta["views"]["epochs"], ranges=ranges)
        for name, what in (
            ("store", "other images"), ("rows", "other training rows"), ("n", "other training rows"), ("seed", "another seed"),
            ("ranges", "another augmentation"), ("draws", "other random draws"),
        ):  # fmt: skip
            if given[name] != wanted[name]:
                raise CxrError(f"the logits {folder} are of {what} than this run's: make them again with its recipe and seed")
        if given["epochs"] < epochs:
            raise CxrError(f"the logits {folder} cover {given['epochs']} epochs, this run has {epochs}: make them again for as many")
        return cls(folder, meta, np.asarray(rows))

    def logits(self, epoch: int, rows_B: np.ndarray, findings: tuple[str, ...] | None = None) -> Tensor:
        """The teacher's logits_BC, float32, for the views of some images in one epoch.

        Args:
            epoch: From 0.
            rows_B: Row numbers of the image store, each one a training row.
            findings: Which, in which order. None: all.

        Raises:
            CxrError: The teacher was not asked about a finding, or a row is none of the training rows.
        """
        missing = [name for name in findings or () if name not in self.findings]
        if missing:
            raise CxrError(f"the teacher of {self.folder} knows nothing of {missing[0]}: train one that does, or leave it out")
        rows_B = np.asarray(rows_B)
        if not (rows_B < len(self._place)).all() or (self._place[rows_B] < 0).any():
            raise CxrError(f"the logits {self.folder} do not cover these rows: they are of the training rows alone")
        logits_BC = np.asarray(self._logits_ENC[epoch, self._place[rows_B]], np.float32)
        columns = slice(None) if findings is None else [self.findings.index(name) for name in findings]
        return torch.from_numpy(logits_BC[:, columns])


def make_logits(
    store: ImageStore,
    out: str | os.PathLike,
    teacher: Teacher,
    *,
    rows: np.ndarray,
    seed: int,
    epochs: int,
    ranges: Ranges,
    images: ImageStore | None = None,
    batch: int = 64,
    device: str = "cpu",
    progress: bool = False,
) -> dict[str, Any]:
    """Shows the teacher every view of every epoch, and stores what it says; or finishes what a killed call began.

    Args:
        store: The student's images.
        out: The folder to write.
        teacher: From `load_teacher`.
        rows: The rows that the student will train on.
        seed, epochs, ranges: Of the student's recipe.
        images: The same images at the teacher's size, if that is not the student's. A view is the same whatever the size.
        batch: Images that the teacher sees at once.
        device: Where the teacher is.
        progress: Show a bar.

    Returns:
        What logits.json says.

    Raises:
        CxrError: The sizes or images do not match, the folder holds other logits, or the teacher's logits are not finite.
    """
    out, rows, images = Path(out), np.asarray(rows), store if images is None else images
    if images.size != teacher.recipe.image_size:
        raise CxrError(
            f"the teacher reads {teacher.recipe.image_size} px and the store holds {images.size} px: prepare the same folder with "
            f"--size {teacher.recipe.image_size}, and name that store as --images"
        )
    if list(images.table["image"]) != list(store.table["image"]):
        raise CxrError("the teacher's store holds other images than the student's: prepare both from the same folder")
    meta = {
        "format": FORMAT_VERSION,
        "teacher": {"name": teacher.name, "sha256": teacher.sha256, "store": images.sha256},
        "findings": list(teacher.findings),
        "views": views_of(store, rows, seed=seed, epochs=epochs, ranges=ranges),
    }
    if (out / "logits.json").is_file():
        made = _read(out)
        if any(made[name] != value for name, value in meta.items()):
            raise CxrError(f"{out} holds the logits of another teacher or of other views: remove it, or name another folder")
        return made
    each = -(-len(rows) // BLOCK)

    def block(number: int) -> tuple[bytes, dict]:
        epoch, first = number // each, number % each * BLOCK
        chosen = np.arange(first, min(first + BLOCK, len(rows)))
        draws_BK = torch.from_numpy(epoch_draws(len(rows), seed=seed, epoch=epoch)[chosen])
        parts = []
        for part in np.array_split(np.arange(len(chosen)), -(-len(chosen) // batch)):
            img_BYX = torch.from_numpy(images.pixels[rows[chosen[part]]]).to(device)
            img_BIYX, _ = augment(to_float(img_BYX), draws_BK[part].to(device), ranges)
            parts.append(teacher.logits(img_BIYX).cpu())
        logits_BC = torch.cat(parts)
        if not torch.isfinite(logits_BC).all():
            raise CxrError("the teacher says things that are no numbers: its weights are damaged, or its training failed")
        return logits_BC.clamp(-60000, 60000).numpy().astype(np.float16).tobytes(), {}  # 16 bits end at 65504

    with tqdm(total=epochs * each, unit="block", desc="teach", disable=not progress) as bar:
        job = hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()
        blocks = write_blocks(out / "logits.f16", job=job, count=epochs * each, make=block, done=lambda number: bar.update())
    meta["blocks"] = blocks
    if teacher.origins is not None:
        meta["origins"] = [list(origin) for origin in teacher.origins]
    meta["sha256"] = _name_of(meta)
    write_json(out / "logits.json", meta)
    return meta


def _read(folder: Path) -> dict[str, Any]:
    """logits.json, once every checksum was compared."""
    if not (folder / "logits.json").is_file():
        raise CxrError(f"{folder} holds no finished logits: make them with python -m cxrlib teach")
    meta = read_json(folder / "logits.json")
    if meta.get("format") != FORMAT_VERSION:
        raise CxrError(f"the logits {folder} have the format {meta.get('format')}, this cxrlib reads {FORMAT_VERSION}: make them again")
    wrong = "logits.json was changed" if meta.get("sha256") != _name_of(meta) else check_blocks(folder / "logits.f16", meta["blocks"])
    if wrong:
        raise CxrError(f"the logits {folder} are damaged ({wrong}): remove the folder and make them again")
    return meta


def _name_of(meta: dict[str, Any]) -> str:
    """The hash that names the logits: of all that logits.json says but the hash itself."""
    rest = {name: value for name, value in meta.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
