"""Reading a batch of images out of a store's file, in any order, at the speed of the disk where memory does not hold them."""

import mmap
from collections.abc import Iterator, Sequence

import numpy as np


def gather(images_NYX: np.ndarray, rows: Sequence[int] | np.ndarray) -> np.ndarray:
    """The images at `rows`, copied into an array of their own [len(rows), Y, X].

    The same as `images_NYX[rows]`, but the system is told beforehand which pages will be wanted, and fetches those of the whole
    batch from the disk at once. Without that it meets one missing page after the other, and waits for each: where the pages
    are not in memory, that took six to eleven times as long (our measurement; `python -m cxrlib bench` repeats it). Where they are,
    the telling costs a few thousandths of a millisecond.

    Args:
        images_NYX: `ImageStore.images_NYX`, or any array.
        rows: Row numbers.
    """
    file, rows = getattr(images_NYX, "base", None), np.asarray(rows)
    is_ours = isinstance(file, mmap.mmap) and hasattr(mmap, "MADV_WILLNEED")
    if is_ours and len(rows) and 0 <= rows.min() and rows.max() < len(images_NYX):  # numpy has a better word for wrong rows
        for start, length in page_ranges(rows, images_NYX[0].nbytes):
            file.madvise(mmap.MADV_WILLNEED, start, length)
    return np.ascontiguousarray(images_NYX[rows])


def page_ranges(rows: Sequence[int] | np.ndarray, image_bytes: int) -> Iterator[tuple[int, int]]:
    """(first byte, length) of each row's part of the file; the first byte is the beginning of a page, as the system wants it."""
    for row in rows:
        start = int(row) * image_bytes
        aligned = start - start % mmap.PAGESIZE
        yield aligned, start + image_bytes - aligned
