"""What survives a kill: the pixels written so far, and a journal that says which of them count."""

import errno
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from cxrlib.errors import CxrError


class Kept(NamedTuple):
    """What the index adds to the table about one image: its frame, its file, whether it was turned over."""

    row: int
    width: int
    height: int
    file_width: int
    file_height: int
    mode: str
    inverted: bool


class Journal:
    """`images.u8` and the journal of its finished blocks: the part of the store that survives a kill.

    Each line of the journal is one block: how many images, their SHA-256, what to note about them, and what
    was left out. A line is written after the block's bytes are on disk, so bytes without a line are cut off
    on the next run.
    """

    def __init__(self, out: Path, job: str, size: int, *, progress: bool = False) -> None:
        self.path, self.images = out / "journal.jsonl", out / "images.u8"
        self.out, self.job, self.image_bytes = out, job, size * size
        self.blocks: list[dict] = []
        self.progress = progress

    @property
    def bytes_done(self) -> int:
        return sum(block["n"] for block in self.blocks) * self.image_bytes

    def __enter__(self) -> "Journal":
        self._journal = open(self.path, "a+b")
        self._lock()
        self._pixels = open(self.images, "a+b")
        self._journal.seek(0)
        lines = self._journal.read().split(b"\n")[
            :-1
        ]  # a last line without its end was being written at the kill
        good = 0
        if lines and _parse(lines[0]) is not None:
            if _parse(lines[0]).get("job") != self.job:
                raise CxrError(
                    f"{self.out} holds a store begun with other images or settings: remove it, or name "
                    "another"
                )
            good = len(lines[0]) + 1
            self._pixels.seek(0)
            check = tqdm(
                lines[1:], unit="block", desc="check what is there", disable=not (self.progress and lines[1:]), file=sys.stderr
            )
            for line in check:
                block = _parse(line)
                if block is None:
                    break
                if (
                    hashlib.sha256(self._pixels.read(block["n"] * self.image_bytes)).hexdigest()
                    != block["sha256"]
                ):
                    break
                self.blocks.append(block)
                good += len(line) + 1
        self._journal.truncate(good)
        self._pixels.truncate(self.bytes_done)
        if not good:
            self._write_line({"job": self.job})
        return self

    def __exit__(self, *_: object) -> None:
        self._pixels.close()
        self._journal.close()

    def append(self, pixels: bytes, kept: list[Kept], left_out: list[tuple[int, str]]) -> None:
        try:
            self._pixels.write(pixels)
            self._pixels.flush()
            os.fsync(self._pixels.fileno())
            block = {
                "n": len(kept),
                "sha256": hashlib.sha256(pixels).hexdigest(),
                "kept": [list(item) for item in kept],
                "left_out": [list(item) for item in left_out],
            }
            self._write_line(block)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise CxrError(
                f"the disk of {self.out} is full after {sum(block['n'] for block in self.blocks)} images: "
                "free some space "
                "and run the same command again; what was finished is kept"
            ) from None
        self.blocks.append(block)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def _write_line(self, value: dict) -> None:
        self._journal.write(json.dumps(value).encode() + b"\n")
        self._journal.flush()
        os.fsync(self._journal.fileno())

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # Windows: nothing warns of a second run there
            return
        try:
            fcntl.flock(self._journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CxrError(
                f"another prepare is writing {self.out}: wait for it, or name another folder"
            ) from None


def _parse(line: bytes) -> dict | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
