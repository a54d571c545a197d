"""The cohort's two binary files, written fast and always with the same bytes: a grey PNG and a bundle of
masks."""

import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np


def write_png(path: Path, image_YX: np.ndarray) -> None:
    """Writes an 8-bit grey PNG. Rows are stored as differences from the row above, then run-length and
    Huffman coded.

    Pillow tries every filter on every row, which takes longer than the drawing of some organs.
    """
    height, width = image_YX.shape
    rows = np.empty((height, width + 1), np.uint8)
    rows[:, 0] = 2  # PNG's filter "up"
    rows[0, 1:] = image_YX[0]
    np.subtract(image_YX[1:], image_YX[:-1], out=rows[1:, 1:])
    packer = zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_RLE)
    data = packer.compress(rows.tobytes()) + packer.flush()
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for kind, body in (
            (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
            (b"IDAT", data),
            (b"IEND", b""),
        ):
            file.write(
                struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
            )


def write_masks(path: Path, masks: dict[str, np.ndarray]) -> None:
    """Writes masks as an `.npz` that `numpy.load` reads: `names` and `bits`, one bit per pixel, rows padded
    to whole bytes."""
    arrays = {"names": np.array(list(masks)), "bits": np.packbits(np.stack(list(masks.values())), axis=-1)}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as bundle:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy")  # dated 1980, so that no clock changes the bytes
            entry.compress_type = zipfile.ZIP_DEFLATED
            with bundle.open(entry, "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
