"""Decodes every image once, into a store of raw bytes that training reads at memory speed.

The images are taken in blocks, in the table's order. Workers decode blocks; this process alone writes, one
block after the other, and notes each in a journal once its bytes are on disk. So the store is the same for
any number of workers, memory stays flat, and after a kill the journal says exactly which bytes to keep.
"""

import contextlib
import functools
import hashlib
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from cxrlib.data.folders import read_folder
from cxrlib.data.frames import fit
from cxrlib.data.disks import check_space, make_folder
from cxrlib.data.images import decode
from cxrlib.data.journal import Journal, Kept
from cxrlib.data.polarity import looks_inverted
from cxrlib.data.store import FORMAT_VERSION, ImageStore, finish_store
from cxrlib.data.studies import Studies
from cxrlib.errors import CxrError
from cxrlib.workers import in_order

BLOCK = 64  # images; at 512 px a block is 16 MiB, of which two a worker are in memory at most
TABLE_BYTES = 400  # an image in journal and index while both are there; 165 with short names, and paths may be long
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
    out = make_folder(out)
    job = _job(studies, size, invert)
    if (out / "store.json").exists():
        store = ImageStore.open(out, verify="quick")
        if store.meta["job"] != job:
            raise CxrError(
                f"{out} holds a store of other images or settings: remove it, or name another folder"
            )
        mended = _count_mended(studies, store, invert)
        if mended:
            images = "image" if mended == 1 else "images"
            raise CxrError(
                f"{mended} {images} left out before can be read now: remove {out} and prepare again"
            )
        return store

    n, place = len(studies), _place_of_pixels(out)
    with Journal(out, job, size, progress=progress) as journal:
        needs = Counter({place: n * size * size - journal.bytes_done})
        needs[out.resolve()] += n * TABLE_BYTES
        check_space(needs, advice="or name a folder on another disk")
        todo = range(len(journal.blocks), -(-n // BLOCK))
        tasks = (_items(studies, invert, start=index * BLOCK, stop=(index + 1) * BLOCK) for index in todo)
        work = functools.partial(decode_block, size=size)
        bar = tqdm(
            total=n, initial=min(n, len(journal.blocks) * BLOCK), unit="image", desc="prepare",
            disable=not progress, file=sys.stderr,
        )  # fmt: skip
        with bar, contextlib.closing(in_order(work, tasks, workers=min(workers, max(1, len(todo))))) as results:
            for index, (block, kept, left_out) in zip(todo, results, strict=True):
                first = index * BLOCK
                journal.append(
                    block,
                    [item._replace(row=item.row + first) for item in kept],
                    [(row + first, reason) for row, reason in left_out],
                )
                bar.update(min(BLOCK, n - first))
        finish_store(out, studies, journal.blocks, job=job, size=size)
        journal.remove()
    return ImageStore.open(out, verify="quick")


def _place_of_pixels(out: Path) -> Path:
    """The folder that images.u8 lies in; it may be a link to another disk."""
    place = Path(os.path.realpath(out / "images.u8")).parent
    if not place.is_dir():
        raise CxrError(f"{out / 'images.u8'} is a link into {place}, which is no folder: mount that disk or make the folder")
    return place


def _items(studies: Studies, invert: str, *, start: int = 0, stop: int | None = None) -> list[Item]:
    """Rows `start` to `stop` of the table as tasks: made block by block, since all of them would fill memory."""
    part = studies.table[["path", "width", "height", "view"]].iloc[start:stop]
    return [
        # The detector of inverted films knows frontal views alone.
        Item(
            path=str(studies.root / path) if path else "",
            width=int(width),
            height=int(height),
            invert="never" if invert == "auto" and view == "lateral" else invert,
        )
        for path, width, height, view in part.itertuples(index=False)
    ]


def _count_mended(studies: Studies, store: ImageStore, invert: str) -> int:
    """How many images that a finished store left out can be decoded by now. The hash of the job need not
    show it: a mended file is often as long as the damaged one."""
    rows = np.flatnonzero(studies.table["image"].isin({image for image, _ in store.left_out}))
    count = 0
    for item in _items(studies.subset(rows), invert) if len(rows) else ():
        with contextlib.suppress(CxrError):
            _decode_one(item, store.size)
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
        "--uncertain", choices=("nan", "ones", "zeros", "mixed"), default="nan",
        help="CheXpert's -1 becomes this; mixed: 1 for Atelectasis and Edema, 0 for the rest"
    )
    parser.add_argument("--views", choices=("all", "frontal"), default="all", help="frontal leaves lateral films out")
    parser.add_argument(
        "--invert", choices=INVERT, default="never", help="turn over images with inverted polarity"
    )
    parser.add_argument(
        "--verify", action="store_true", help="read the finished store once more and check every byte (seconds per GB)"
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
    if args.views == "frontal":
        frontal = np.flatnonzero(studies.table["view"].ne("lateral"))
        echo(f"note: {len(studies.table) - len(frontal)} lateral films are left out")
        studies = studies.subset(frontal)
    try:
        store = prepare(
            studies, args.out, size=args.size, workers=args.workers, invert=args.invert, progress=True
        )
    except KeyboardInterrupt:
        echo("stopped: run the same command again to go on; what was finished is kept")
        return 130
    if args.verify:
        ImageStore.open(args.out, verify="full")
        echo("every checksum of the store holds")
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
