"""Decodes every image once, into a store of raw bytes that training reads at memory speed.

The images are taken in blocks, in the table's order. Workers decode blocks; this process alone writes, one
block after the other, and notes each in a journal once its bytes are on disk. So the store is the same for
any number of workers, memory stays flat, and after a kill the journal says exactly which bytes to keep.
"""

import collections
import concurrent.futures
import hashlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from cxrlib.data.folders import read_folder
from cxrlib.data.frames import fit
from cxrlib.data.images import decode
from cxrlib.data.journal import Journal, Kept, check_space
from cxrlib.data.polarity import looks_inverted
from cxrlib.data.store import FORMAT_VERSION, ImageStore, finish_store
from cxrlib.data.studies import Studies
from cxrlib.errors import CxrError

BLOCK = 64  # images; at 512 px a block is 16 MiB, so a few in flight cost little memory
INVERT = ("never", "auto", "always")


class Item(NamedTuple):
    """One image to decode: its file, its boxes' frame (0 x 0: the file's own), what `invert` does to it."""

    path: str
    width: int
    height: int
    invert: str


def prepare(
    studies: Studies,
    out: str | os.PathLike,
    *,
    size: int,
    workers: int = 1,
    invert: str = "never",
    progress: bool = False,
) -> ImageStore:
    """Writes a store of all images of `studies`, or finishes one that was begun.

    An image that cannot be decoded is left out; its name and the reason are in `ImageStore.left_out`.
    Resizing is Pillow's antialiased bilinear filter, the same to the pixel as torchvision's: no ringing
    beside bones and markers, as a filter with negative lobes would draw. Non-square images are padded: see
    `cxrlib.data.frames`.

    Args:
        studies: From a reader. Every row must have a file.
        out: The folder to write. If it holds a store begun with the same input and settings, that one is
            finished.
        size: Side of the stored images in pixels.
        workers: Processes that decode. The bytes written do not depend on it.
        invert: "never", "always", or "auto": turn over the images that look inverted (see
            `cxrlib.data.polarity`).
        progress: Show a bar on stderr.

    Returns:
        The finished store.

    Raises:
        CxrError: There is nothing to do, no space, another store in `out`, a worker died, or the store in
            `out` left out images that can be read by now.
    """
    if invert not in INVERT:
        raise CxrError(f"invert={invert!r} is unknown: use one of {', '.join(INVERT)}")
    if size < 8 or workers < 1:
        raise CxrError(
            f"size is {size} and workers is {workers}: use a size of 8 or more and 1 worker or more"
        )
    if not len(studies) or (studies.table["path"] == "").all():
        raise CxrError(
            f"no image of the table lies in {studies.root}: put images/ there, or run doctor on it"
        )
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    job = _job(studies, size, invert)
    if (out / "store.json").exists():
        store = ImageStore.open(out, verify="quick")
        if store.meta["job"] != job:
            raise CxrError(
                f"{out} holds a store of other images or settings: remove it, or name another folder"
            )
        mended = _count_mended(studies, _items(studies, invert), store)
        if mended:
            images = "image" if mended == 1 else "images"
            raise CxrError(
                f"{mended} {images} left out before can be read now: remove {out} and prepare again"
            )
        return store

    items = _items(studies, invert)
    blocks = [items[start : start + BLOCK] for start in range(0, len(items), BLOCK)]
    with Journal(out, job, size) as journal:
        check_space(out, (len(items) * size * size) - journal.bytes_done)
        todo = range(len(journal.blocks), len(blocks))
        bar = tqdm(
            total=len(items), initial=len(journal.blocks) * BLOCK, unit="image", desc="prepare",
            disable=not progress, file=sys.stderr,
        )  # fmt: skip
        with bar:
            results = _decode_all((blocks[index] for index in todo), size, min(workers, max(1, len(todo))))
            for index, (pixels, kept, left_out) in zip(todo, results, strict=True):
                first = index * BLOCK
                journal.append(
                    pixels,
                    [item._replace(row=item.row + first) for item in kept],
                    [(row + first, reason) for row, reason in left_out],
                )
                bar.update(len(blocks[index]))
        finish_store(out, studies, journal.blocks, job=job, size=size)
        journal.remove()
    return ImageStore.open(out, verify="quick")


def _items(studies: Studies, invert: str) -> list[Item]:
    return [
        # The detector of inverted films knows frontal views alone.
        Item(
            path=str(studies.root / path) if path else "",
            width=int(width),
            height=int(height),
            invert="never" if invert == "auto" and view == "lateral" else invert,
        )
        for path, width, height, view in studies.table[["path", "width", "height", "view"]].itertuples(
            index=False
        )
    ]


def _count_mended(studies: Studies, items: list[Item], store: ImageStore) -> int:
    """How many images that a finished store left out can be decoded by now. The hash of the job need not
    show it: a mended file is often as long as the damaged one."""
    left_out = {image for image, _ in store.left_out}
    again = [item for image, item in zip(studies.table["image"], items, strict=True) if image in left_out]
    count = 0
    for item in again:
        try:
            _decode_one(item, store.size)
        except CxrError:
            continue
        count += 1
    return count


def decode_block(items: list[Item], size: int) -> tuple[bytes, list[Kept], list[tuple[int, str]]]:
    """Decodes one block.

    Returns:
        The pixels of the good images one after the other, what is to be noted about each, and `(row, reason)`
        for each image that is left out; rows are counted within the block.
    """
    pixels, kept, left_out = [], [], []
    for row, item in enumerate(items):
        try:
            image, file_size, mode, inverted, frame = _decode_one(item, size)
        except CxrError as error:
            left_out.append((row, str(error)))
            continue
        pixels.append(image.tobytes())
        kept.append(Kept(row, *frame, *file_size, mode, inverted))
    return b"".join(pixels), kept, left_out


def _decode_one(item: Item, size: int) -> tuple[Image.Image, tuple[int, int], str, bool, tuple[int, int]]:
    if not item.path:
        raise CxrError("its file is missing")
    image, mode = decode(item.path)
    frame = (item.width, item.height) if item.width else image.size
    # A copy at another resolution is welcome, but boxes would not fit one that was cropped or padded.
    if abs(image.width * frame[1] - image.height * frame[0]) > max(image.size) * max(frame) / min(image.size):
        name = os.path.basename(item.path)
        raise CxrError(
            f"{name} is {image.width} x {image.height}, another shape than its boxes' frame {frame[0]} x "
            f"{frame[1]}: "
            "download the original again"
        )
    place = fit(*frame, size)
    small = image.resize((place.width, place.height), Image.Resampling.BILINEAR)
    inverted = item.invert == "always" or (item.invert == "auto" and looks_inverted(np.asarray(small)))
    if inverted:
        small = small.point([255 - value for value in range(256)])
    if small.size != (size, size):
        square = Image.new("L", (size, size), 0)
        square.paste(small, (place.x, place.y))
        small = square
    return small, image.size, mode, inverted, frame


def _decode_all(blocks: Iterator[list[Item]], size: int, workers: int) -> Iterator[tuple]:
    """`decode_block` of each block in order. At most two blocks a worker are in flight: memory stays flat."""
    if workers == 1:
        for block in blocks:
            yield decode_block(block, size)
        return
    # Not fork: this process may run threads (torch, a notebook), and a forked child can inherit a lock that
    # nobody frees.
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload([__name__])  # imported once, and inherited by every worker
    pool = concurrent.futures.ProcessPoolExecutor(workers, mp_context=context, initializer=_become_worker)
    try:
        waiting: collections.deque = collections.deque()
        for block in blocks:
            waiting.append(pool.submit(decode_block, block, size))
            if len(waiting) >= 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise CxrError(
            "a worker process was killed (out of memory?): run the same command again, with fewer workers; "
            "what was finished is kept"
        ) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _become_worker() -> None:
    # Ctrl-C reaches every process of the terminal; the parent alone answers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A pool's workers outlive a parent that was killed with -9, and keep their memory, unless they watch it.
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _job(studies: Studies, size: int, invert: str) -> str:
    """A hash that tells a store that may be finished from another one: of the settings, the tables and the
    length of every image file. Not of what is in the files, which would mean to read all of them, nor of
    their dates, which change when a folder is copied: an image replaced by one of equal length goes
    unnoticed, unless it had been left out (see `_count_mended`)."""
    digest = hashlib.sha256(f"{FORMAT_VERSION} {size} {invert} {BLOCK} {studies.findings}\n".encode())
    digest.update(studies.table.to_csv(index=False, lineterminator="\n").encode())
    digest.update(studies.boxes.to_csv(index=False, lineterminator="\n").encode())
    for path in studies.table["path"]:
        try:
            length = os.stat(studies.root / path).st_size if path else -1
        except OSError:
            length = -1
        digest.update(f"{length} ".encode())
    return digest.hexdigest()


def add_parser(subparsers) -> None:
    """Adds the command `prepare`."""
    parser = subparsers.add_parser("prepare", help="decode a data set once, into a store that training reads")
    parser.add_argument("folder", help="NIH-layout, CheXpert or phantom folder")
    parser.add_argument(
        "out", help="folder to write the store to; run the same command again to finish a broken run"
    )
    parser.add_argument(
        "--size", type=int, default=224, help="side of the stored images in pixels (default 224)"
    )
    parser.add_argument("--workers", type=int, default=max(1, os.cpu_count() or 1), help="decoding processes")
    parser.add_argument("--metadata", help="another folder with the tables and split lists")
    parser.add_argument(
        "--uncertain", choices=("nan", "ones", "zeros"), default="nan", help="CheXpert's -1 becomes this"
    )
    parser.add_argument(
        "--invert", choices=INVERT, default="never", help="turn over images with inverted polarity"
    )
    parser.add_argument(
        "--allow-broken", action="store_true", help="exit with 0 even if images had to be left out"
    )
    parser.set_defaults(run=run)


def run(args, echo: Callable[[str], None] = print) -> int:
    """Runs `prepare`. Exit code 0; 3 if images were left out of an otherwise whole store; 130 when stopped."""
    studies = read_folder(args.folder, metadata=args.metadata, uncertain=args.uncertain)
    for note in studies.notes:
        echo(f"note: {note}")
    try:
        store = prepare(
            studies, args.out, size=args.size, workers=args.workers, invert=args.invert, progress=True
        )
    except KeyboardInterrupt:
        echo("stopped: run the same command again to go on; what was finished is kept")
        return 130
    for image, reason in store.left_out:
        echo(f"left out: {image}: {reason}")
    turned = int(store.table["inverted"].sum())
    if turned:
        echo(f"turned over: {turned} images (the column `inverted` of index.csv names them)")
    echo(
        f"{args.out}: {store.n} images of {store.size} x {store.size}, {len(store.left_out)} left out, "
        f"data {store.sha256}"
    )
    return 3 if store.left_out and not args.allow_broken else 0
