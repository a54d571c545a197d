"""One radiograph from its file, as 8-bit grey with bright bone, whatever the file is like."""

import io
import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from cxrlib.errors import CxrError

DICOM_SUFFIXES = frozenset({".dcm", ".dicom"})
# What Pillow and zlib raise for a damaged file; a DecompressionBombError is an Exception of its own.
_DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, zlib.error, struct.error)


class Decoded(NamedTuple):
    """A decoded radiograph.

    Attributes:
        image: Pillow image in mode "L", bright where the film is (bone bright).
        mode: How the file stores its pixels: a Pillow mode such as "L", "RGBA" or "I;16", or "MONOCHROME1"
            and its like.
    """

    image: Image.Image
    mode: str


def decode(path: str | os.PathLike) -> Decoded:
    """Reads a PNG, JPEG or DICOM file as 8-bit grey.

    * RGB, RGBA and palette images whose channels are equal give that channel; coloured ones give their
      luminance (ITU-R 601). Transparent pixels are laid on black.
    * 16-bit files are scaled by the smallest of 8, 10, 12, 14 and 16 bits that holds their largest value, so
      that 12-bit data in a 16-bit file keeps its contrast. No per-image stretching of the histogram.
    * DICOM: modality LUT or rescale, then the VOI LUT or window of the file, if it has one; MONOCHROME1 is
      turned over. The lower end of a window becomes 0 and its upper end 255, whether the image reaches them
      or not. A VOI LUT, or negative values without a window, are scaled by the image's own range.

    Args:
        path: The file.

    Raises:
        CxrError: The file is missing, empty, cut off, not an image, or shows nothing; the message starts with
            its name.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CxrError(f"{path.name} cannot be read ({error.strerror or error}): copy it again") from None
    if not data:
        raise CxrError(f"{path.name} is empty (0 bytes): copy or download it again")
    try:
        decoded = _decode_dicom(data) if path.suffix.lower() in DICOM_SUFFIXES else _decode_picture(data)
    except CxrError as error:
        raise CxrError(f"{path.name}: {error}") from None
    except (*_DECODING_ERRORS, Image.DecompressionBombError) as error:
        raise CxrError(f"{path.name} is damaged or cut off ({error}): copy or download it again") from None
    darkest, brightest = decoded.image.getextrema()
    if darkest == brightest:
        raise CxrError(f"{path.name} shows nothing, every pixel is {darkest}: copy or download it again")
    return decoded


def read_size(path: str | os.PathLike) -> tuple[int, int, str]:
    """Width, height and pixel mode from the file's header alone, without decoding (fast, and blind to a
    damaged rest).

    Raises:
        CxrError: The file is missing, empty, or has no readable header.
    """
    path = Path(path)
    try:
        if path.stat().st_size == 0:
            raise CxrError(f"{path.name} is empty (0 bytes): copy or download it again")
        if path.suffix.lower() in DICOM_SUFFIXES:
            return _read_dicom_size(path)
        with Image.open(path) as image:
            return *image.size, image.mode
    except (*_DECODING_ERRORS, Image.DecompressionBombError) as error:
        raise CxrError(f"{path.name} is not a readable image ({error}): copy or download it again") from None


def to_uint8(values: np.ndarray) -> np.ndarray:
    """Grey values of up to 16 bits as uint8 [Y, X], scaled by the smallest usual bit depth that holds the
    largest value.

    Raises:
        CxrError: A value is negative or above 65535.
    """
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise CxrError(
            f"its grey values lie in {low}..{high}, outside of 16 bits: convert it to 8 or 16 bits"
        )
    bits = next(bits for bits in (8, 10, 12, 14, 16) if high < 2**bits)
    if bits == 8:
        return values.astype(np.uint8)
    # Rounded, not shifted: the brightest value of the depth must become 255.
    return np.rint(values.astype(np.float32) * (255 / (2**bits - 1))).astype(np.uint8)


def _decode_picture(data: bytes) -> Decoded:
    try:
        image = Image.open(io.BytesIO(data))
        if image.format == "PNG":
            # Pillow's load() passes over the checksums of the chunks: zeros in the middle of a file come out
            # as a picture. verify() reads them, and leaves an image that must be opened again.
            image.verify()
            image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        # Its own message names a memory address, which would differ from run to run.
        raise OSError("it does not begin as an image does") from None
    mode = image.mode
    image.load()
    if mode == "L" and "transparency" not in image.info:
        return Decoded(image, mode)
    if mode == "1":
        return Decoded(image.convert("L"), mode)
    if mode.startswith("I"):
        return Decoded(Image.fromarray(to_uint8(np.asarray(image))), mode)
    if mode == "F":
        raise CxrError("its pixels are floating-point numbers of unknown range: convert it to 8 or 16 bits")
    if mode in ("LA", "RGBA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        if rgba.getextrema()[3] != (255, 255):
            rgba = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
        return Decoded(_one_channel(rgba.convert("RGB")), mode)
    return Decoded(_one_channel(image.convert("RGB")), mode)


def _one_channel(image: Image.Image) -> Image.Image:
    red, green, blue = image.split()
    # Luminance weights round: a grey image must come out with the very values that it has.
    same = red.tobytes() == green.tobytes() == blue.tobytes()
    return red if same else image.convert("L")


def _pydicom():
    try:
        import pydicom
    except ImportError:
        raise CxrError("reading DICOM needs pydicom: pip install 'cxrlib[dicom]'") from None
    return pydicom


def _read_dicom_size(path: Path) -> tuple[int, int, str]:
    pydicom = _pydicom()
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True)
        return int(header.Columns), int(header.Rows), str(header.PhotometricInterpretation)
    except Exception as error:  # of many kinds, as in decoding
        raise CxrError(f"{path.name} is not a readable DICOM ({_line(error)}): export it again") from None


def _decode_dicom(data: bytes) -> Decoded:
    _pydicom()  # says what to install
    try:
        return _decode_dataset(data)
    except CxrError:
        raise
    except Exception as error:
        # pydicom and its decoders raise many kinds, and each means: this file cannot be read. Empty or odd
        # attributes fail as late as the rescale and the window, so all of the decoding is watched.
        raise CxrError(
            f"pydicom cannot decode it ({_line(error)}): export it again, or install pydicom's decoders"
        ) from None


def _decode_dataset(data: bytes) -> Decoded:
    import pydicom
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    dataset = pydicom.dcmread(io.BytesIO(data))
    mode = str(dataset.PhotometricInterpretation)
    values = dataset.pixel_array
    if values.ndim == 3 and values.shape[-1] in (3, 4):
        if values.dtype != np.uint8:
            raise CxrError(f"its colours are {values.dtype}, not 8 bits: export it as grey, or with 8 bits")
        return Decoded(_one_channel(Image.fromarray(np.ascontiguousarray(values[..., :3]))), mode)
    if values.ndim != 2:
        raise CxrError(f"it holds {values.shape[0]} frames: export the one that is wanted")
    values = apply_voi_lut(apply_modality_lut(values, dataset), dataset).astype(np.float64)
    ends = _output_range(dataset, values)
    if ends is None:
        grey = to_uint8(np.rint(values))
    else:
        black, white = ends
        # A negative slope puts white below black; the division then turns both signs.
        grey = np.rint((values - black) * (255 / (white - black))).clip(0, 255).astype(np.uint8)
    return Decoded(Image.fromarray(255 - grey if mode == "MONOCHROME1" else grey), mode)


def _output_range(dataset, values: np.ndarray) -> tuple[float, float] | None:
    """What becomes black and white: the values that the DICOM file's VOI LUT or window puts out; None where
    neither is given and the bit depth says it.

    A window's range is the one that pydicom's `apply_windowing` puts its ends at: all values that the file
    could store, rescaled. The image's own range would not do: an image that fills only part of the window
    would be stretched, and the window undone.

    Args:
        dataset: The pydicom dataset.
        values: Its pixels [Y, X] after the modality and the VOI transformations.
    """
    own = float(values.min()), max(float(values.max()), float(values.min()) + 1e-9)
    if dataset.get("VOILUTSequence"):
        return own
    if dataset.get("WindowCenter") is None or dataset.get("WindowWidth") is None:
        return own if own[0] < 0 else None  # negative values have no bit depth to go by
    bits, signed = dataset.BitsStored, dataset.PixelRepresentation == 1
    if dataset.get("ModalityLUTSequence"):
        bits, signed = dataset.ModalityLUTSequence[0].LUTDescriptor[2], False
    low = -(2 ** (bits - 1)) if signed else 0
    ends = float(low), float(low + 2**bits - 1)
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    if slope is not None and intercept is not None:
        ends = ends[0] * float(slope) + float(intercept), ends[1] * float(slope) + float(intercept)
    return ends


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
