"""The bytes of a store's images, read with plain reads.

A memory map reads as fast where its pages are in memory; where they are not, it waits for one after the other, while here the
disk hears of the whole batch at once. And when the file under a map shrinks or its disk is lost, the system kills the process
without a word. A read that fails can say so.
"""

import os
import threading
import weakref
from pathlib import Path

import numpy as np

from cxrlib.errors import CxrError


class Pixels:
    """images_NYX of a store for code that reads whole images by their row numbers, and may run for days.

    Args:
        path: The store's images.u8.
        shape: (N, Y, X).
    """

    def __init__(self, path: Path, shape: tuple[int, int, int]) -> None:
        self.path, self.shape, self.dtype = path, shape, np.dtype(np.uint8)
        self._handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, self._handle)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """The images of some rows, a copy: uint8 [B, Y, X].

        Raises:
            CxrError: The file has lost them.
        """
        out_BYX = np.empty((len(rows), *self.shape[1:]), np.uint8)
        size = self.shape[1] * self.shape[2]
        bytes_ = memoryview(out_BYX.reshape(-1))
        rows = np.asarray(rows).tolist()
        outside = [row for row in rows if not 0 <= row < len(self)]
        if outside:
            raise IndexError(f"row {outside[0]} of {len(self)} images")
        if hasattr(os, "posix_fadvise"):  # the disk may fetch the whole batch at once, instead of one image after the other
            for row in rows:
                os.posix_fadvise(self._handle, row * size, size, os.POSIX_FADV_WILLNEED)
        for place, row in enumerate(rows):
            try:
                got = self._read(bytes_[place * size : (place + 1) * size], row * size)
            except OSError as error:
                raise self._lost(f"{error.strerror} at image {row}") from error
            if got != size:
                raise self._lost(f"it ends within image {row} of {len(self)}")
        return out_BYX

    def _read(self, into: memoryview, offset: int) -> int:
        """How many bytes came; fewer only at the end of the file."""
        done = 0
        while done < len(into):
            if hasattr(os, "preadv"):  # no shared position: safe in threads and in forked processes
                got = os.preadv(self._handle, [into[done:]], offset + done)
            else:
                with self._lock:
                    os.lseek(self._handle, offset + done, os.SEEK_SET)
                    part = os.read(self._handle, len(into) - done)
                got = len(part)
                into[done : done + got] = part
            if not got:
                break
            done += got
        return done

    def _lost(self, what: str) -> CxrError:
        return CxrError(
            f"{self.path} can no longer be read ({what}): the store was changed or its disk is lost; put it back, or prepare "
            "it again, and give the same command: a run goes on from its last saved state"
        )
