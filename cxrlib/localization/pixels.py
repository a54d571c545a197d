"""The pixels of boxed images, for maps and for overlays: from a store, or from a data set's folder, decoded for the occasion."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from cxrlib.data.prepare import prepare
from cxrlib.data.store import ImageStore
from cxrlib.data.studies import Studies
from cxrlib.errors import CxrError

OVERLAY_SIZE = 256


@contextlib.contextmanager
def pixels_of(studies: Studies, images: Sequence[str], *, size: int | None = None) -> Iterator[ImageStore | None]:
    """A store that holds these images, for as long as the block lasts.

    Args:
        studies: What `truth.open_data` gave.
        images: The wanted images.
        size: Side in pixels; None: a store's own, or `OVERLAY_SIZE`.

    Yields:
        The data's own store, or a temporary one of these images; None if the data has no image files at all.

    Raises:
        CxrError: The store has another size, or an image is missing or broken.
    """
    if (studies.root / "store.json").is_file():
        store = ImageStore.open(studies.root)
        if size is not None and store.size != size:
            raise CxrError(f"the store holds images of {store.size} px, the run reads {size} px: prepare with that --size")
        yield store
        return
    rows = np.flatnonzero(studies.table["image"].isin(set(images)))
    if (studies.table["path"].iloc[rows] == "").all():
        yield None
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        store = prepare(studies.subset(rows), Path(scratch) / "store", size=size or OVERLAY_SIZE)
        if store.left_out:
            image, reason = store.left_out[0]
            raise CxrError(f"{len(store.left_out)} of the boxed images cannot be read (such as {image}: {reason}): mend the data first")
        yield store
