"""Writing one long file block by block, so that a kill costs a block and not a night."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from cxrlib.errors import CxrError


def write_blocks(
    path: Path, *, job: str, count: int, make: Callable[[int], tuple[bytes, dict[str, Any]]], done: Callable[[int], None] = lambda number: None
) -> list[dict[str, Any]]:
    """Writes blocks 0 to count - 1 to `path`, or goes on where a killed call stopped.

    The blocks grow in PATH.part. PATH.journal notes each one's checksum once its bytes are on disk; what it does not note, or
    what no longer has that checksum, is made again. At the end PATH.part takes PATH's place.

    Args:
        path: The file.
        job: Names the settings. An unfinished file of another job is refused.
        count: Number of blocks.
        make: Block number -> (its bytes, what else to note about it).
        done: Called with each number, made now or before.

    Returns:
        For each block what `make` noted, and its "sha256" and "bytes".

    Raises:
        CxrError: Another process is writing the file, or began it with other settings.
    """
    part, journal = path.with_name(path.name + ".part"), path.with_name(path.name + ".journal")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path), open(part, "a+b") as data, open(journal, "a+b") as log:
        notes = _read_good(part, data, log, job)
        for number in range(len(notes)):
            done(number)
        for number in range(len(notes), count):
            block, note = make(number)
            _to_disk(data, block)
            notes.append(note | {"sha256": hashlib.sha256(block).hexdigest(), "bytes": len(block)})
            _to_disk(log, json.dumps(notes[-1]).encode() + b"\n")
            done(number)
        data.close()
        os.replace(part, path)
    journal.unlink()
    return notes


def check_blocks(path: Path, notes: list[dict[str, Any]]) -> str | None:
    """What is wrong with a file that `write_blocks` wrote, or None."""
    if not path.is_file():
        return f"{path.name} is missing"
    expected, there = sum(note["bytes"] for note in notes), path.stat().st_size
    if there != expected:
        return f"{path.name} has {there} bytes instead of {expected}"
    with open(path, "rb") as file:
        for number, note in enumerate(notes):
            if hashlib.sha256(file.read(note["bytes"])).hexdigest() != note["sha256"]:
                return f"block {number} of {path.name} was changed"
    return None


def _read_good(part: Path, data: BinaryIO, log: BinaryIO, job: str) -> list[dict[str, Any]]:
    """The blocks of an earlier call that are whole; what lies behind them is cut off."""
    log.seek(0)
    lines = log.read().split(b"\n")[:-1]  # a last line without its end was being written at the kill
    if lines and lines[0] != job.encode():
        raise CxrError(f"{part} was begun with other settings: remove it and {part.stem}.journal, or name another folder")
    notes, length = [], len(job) + 1
    data.seek(0)
    for line in lines[1:]:
        try:
            note = json.loads(line)
            whole = hashlib.sha256(data.read(note["bytes"])).hexdigest() == note["sha256"]
        except (ValueError, KeyError, TypeError):
            break
        if not whole:
            break
        notes.append(note)
        length += len(line) + 1
    data.truncate(sum(note["bytes"] for note in notes))
    log.truncate(length if lines else 0)
    if not lines:
        _to_disk(log, job.encode() + b"\n")
    return notes


def _to_disk(file: BinaryIO, content: bytes) -> None:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Holds PATH.lock, which the system frees even if this process is killed."""
    lock = path.with_name(path.name + ".lock")
    try:
        held = FileLock(lock, timeout=0).acquire()
    except Timeout:
        raise CxrError(f"another process is writing {path}: wait for it, or name another folder") from None
    with held:
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                lock.unlink()
