"""Decoding films of every kind, telling damaged ones, fitting into squares, spotting inverted ones."""

import numpy as np
import pytest
from nih_folder import film
from PIL import Image

from cxrlib.data.frames import fit, to_original, to_store
from cxrlib.data.images import decode, read_size, to_uint8
from cxrlib.data.polarity import chest_likeness, looks_inverted
from cxrlib.errors import CxrError

RAMP = np.add.outer(np.arange(30), 2 * np.arange(40)).astype(np.uint8)  # 30 high, 40 wide, 0..107


def saved(folder, image: Image.Image, name: str = "film.png", **options):
    image.save(folder / name, **options)
    return folder / name


def pixels(path) -> np.ndarray:
    return np.asarray(decode(path).image)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_grey_files_keep_their_very_values(tmp_path, mode):
    path = saved(tmp_path, Image.fromarray(RAMP).convert(mode))
    np.testing.assert_array_equal(pixels(path), RAMP)
    assert decode(path).mode == mode and read_size(path) == (40, 30, mode)


def test_transparent_pixels_lie_on_black(tmp_path):
    rgba = np.dstack([RAMP] * 3 + [np.full_like(RAMP, 255)])
    rgba[:10, :, 3] = 0
    expected = RAMP.copy()
    expected[:10] = 0
    np.testing.assert_array_equal(pixels(saved(tmp_path, Image.fromarray(rgba))), expected)


def test_colour_becomes_luminance(tmp_path):
    rgb = np.zeros((4, 6, 3), np.uint8)
    rgb[:2, :, 0], rgb[2:, :, 1] = 200, 200
    grey = pixels(saved(tmp_path, Image.fromarray(rgb)))
    assert abs(int(grey[0, 0]) - 0.299 * 200) <= 1 and abs(int(grey[3, 0]) - 0.587 * 200) <= 1


@pytest.mark.parametrize(
    ("highest", "depth"), [(255, 8), (256, 10), (1023, 10), (4095, 12), (16383, 14), (65535, 16)]
)
def test_deeper_files_are_scaled_by_their_bit_depth(tmp_path, highest, depth):
    deep = np.linspace(0, highest, 1200).reshape(30, 40).round().astype(np.uint16)
    grey = pixels(saved(tmp_path, Image.fromarray(deep)))
    np.testing.assert_allclose(grey, deep * (255 / (2**depth - 1)), atol=0.51)


def test_values_beyond_16_bits_are_refused():
    with pytest.raises(CxrError, match="outside of 16 bits"):
        to_uint8(np.array([[0, 70000]]))


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("keep", [0.0, 0.001, 0.3, 0.9])
def test_a_file_cut_off_anywhere_is_named(tmp_path, suffix, keep):
    path = saved(tmp_path, film(200, 1), f"broken.{suffix}")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(CxrError, match=rf"broken\.{suffix} is (empty|damaged|cut off).*download it again"):
        decode(path)


def test_flipped_bytes_are_noticed(tmp_path):
    path = saved(tmp_path, film(200, 2))
    data = path.read_bytes()
    for position in np.linspace(200, len(data) - 60, 25).astype(int):
        path.write_bytes(data[:position] + bytes([data[position] ^ 0x55]) + data[position + 1 :])
        with pytest.raises(CxrError, match="damaged"):
            decode(path)


@pytest.mark.parametrize(
    ("content", "what"), [(b"", "empty"), (b"<html>404</html>", "damaged"), (None, "cannot be read")]
)
def test_what_is_no_image(tmp_path, content, what):
    path = tmp_path / "page.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CxrError, match=f"page.png.*{what}"):
        decode(path)


def test_a_png_of_zeros_at_the_end_is_noticed(tmp_path):
    path = saved(tmp_path, film(64, 4))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2].ljust(len(data), b"\0"))
    with pytest.raises(CxrError, match=r"film\.png is damaged or cut off"):
        decode(path)


def test_an_image_that_shows_nothing_is_refused(tmp_path):
    with pytest.raises(CxrError, match="every pixel is 17"):
        decode(saved(tmp_path, Image.new("L", (20, 20), 17)))


def write_dicom(path, values: np.ndarray, *, photometric: str, bits: int, **attributes) -> None:
    pydicom = pytest.importorskip("pydicom")
    from pydicom.uid import ExplicitVRLittleEndian

    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", "1.2.3"
    dataset = pydicom.Dataset()
    dataset.file_meta = meta
    dataset.Rows, dataset.Columns = values.shape[:2]
    dataset.PhotometricInterpretation, dataset.PixelRepresentation = photometric, 0
    dataset.SamplesPerPixel = values.shape[2] if values.ndim == 3 else 1
    if values.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsStored, dataset.HighBit, dataset.BitsAllocated = bits, bits - 1, 8 * values.itemsize
    dataset.PixelData = values.tobytes()
    for name, value in attributes.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)


@pytest.mark.parametrize("bits", [8, 12])
def test_dicom_polarity_and_depth(tmp_path, bits):
    values = (
        np.linspace(0, 2**bits - 1, 1200).reshape(30, 40).round().astype(np.uint16 if bits > 8 else np.uint8)
    )
    grey = {}
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        write_dicom(tmp_path / f"{photometric}.dcm", values, photometric=photometric, bits=bits)
        grey[photometric] = pixels(tmp_path / f"{photometric}.dcm").astype(int)
        assert read_size(tmp_path / f"{photometric}.dcm") == (40, 30, photometric)
    np.testing.assert_array_equal(grey["MONOCHROME1"], 255 - grey["MONOCHROME2"])
    np.testing.assert_allclose(grey["MONOCHROME2"], values * (255 / (2**bits - 1)), atol=0.51)


def test_dicom_window_and_rescale(tmp_path):
    values = np.linspace(0, 4095, 1200).reshape(30, 40).round().astype(np.uint16)
    write_dicom(
        tmp_path / "a.dcm", values, photometric="MONOCHROME2", bits=12,
        WindowCenter=1000, WindowWidth=1000, RescaleSlope=1, RescaleIntercept=-500,
    )  # fmt: skip
    grey = pixels(tmp_path / "a.dcm")
    assert (grey[values <= 1000] == 0).all() and (
        grey[values >= 2001] == 255
    ).all()  # 500..1500 after the rescale
    np.testing.assert_allclose(grey[abs(values.astype(int) - 1500) < 4], 127.5, atol=2)


@pytest.mark.parametrize(
    ("photometric", "slope"), [("MONOCHROME2", 1), ("MONOCHROME1", 1), ("MONOCHROME2", -2)]
)
def test_a_window_that_the_image_does_not_fill_is_not_stretched(tmp_path, photometric, slope):
    values = np.linspace(1250, 1750, 1200).reshape(30, 40).round().astype(np.uint16)
    there = slope * values.astype(float) - 100
    middle = slope * 1500 - 100
    write_dicom(
        tmp_path / "a.dcm", values, photometric=photometric, bits=12,
        WindowCenter=middle, WindowWidth=2000, RescaleSlope=slope, RescaleIntercept=-100,
    )  # fmt: skip
    share = (there - (middle - 0.5)) / 1999 + 0.5  # DICOM PS3.3 C.11.2.1.2.1
    assert 0.2 < share.min() and share.max() < 0.8
    expected = 255 * (1 - share if photometric == "MONOCHROME1" else share)
    np.testing.assert_allclose(pixels(tmp_path / "a.dcm"), expected, atol=0.51)


def test_a_signed_window_keeps_the_range_of_its_bits(tmp_path):
    values = np.linspace(-100, 100, 1200).reshape(30, 40).round().astype(np.int16)
    window = {"WindowCenter": 0.5, "WindowWidth": 401}
    write_dicom(
        tmp_path / "a.dcm", values, photometric="MONOCHROME2", bits=12, PixelRepresentation=1, **window
    )
    np.testing.assert_allclose(pixels(tmp_path / "a.dcm"), 255 * (values / 400 + 0.5), atol=0.51)
    # Without a window, negative values have only their own range.
    write_dicom(tmp_path / "b.dcm", values, photometric="MONOCHROME2", bits=12, PixelRepresentation=1)
    np.testing.assert_allclose(pixels(tmp_path / "b.dcm"), 255 * (values / 200 + 0.5), atol=0.51)


def test_what_is_no_dicom_is_named_by_its_header_too(tmp_path):
    pytest.importorskip("pydicom")
    (tmp_path / "a.dcm").write_bytes(b"no film at all" * 40)
    with pytest.raises(CxrError, match=r"^a\.dcm is not a readable DICOM \(.+\): export it again$"):
        read_size(tmp_path / "a.dcm")


def test_an_empty_rescale_is_named(tmp_path):
    write_dicom(
        tmp_path / "a.dcm", RAMP, photometric="MONOCHROME2", bits=8, RescaleSlope=None, RescaleIntercept=None
    )
    with pytest.raises(CxrError, match="a.dcm: pydicom cannot decode it"):
        decode(tmp_path / "a.dcm")


def test_colours_of_16_bits_are_refused(tmp_path):
    colours = np.dstack([RAMP.astype(np.uint16) * 500] * 3)
    write_dicom(tmp_path / "a.dcm", colours, photometric="RGB", bits=16)
    with pytest.raises(CxrError, match="a.dcm: its colours are uint16, not 8 bits"):
        decode(tmp_path / "a.dcm")


def test_a_damaged_dicom_is_named(tmp_path):
    pytest.importorskip("pydicom")
    write_dicom(tmp_path / "a.dcm", RAMP, photometric="MONOCHROME2", bits=8)
    (tmp_path / "a.dcm").write_bytes((tmp_path / "a.dcm").read_bytes()[:-300])
    with pytest.raises(CxrError, match="a.dcm: pydicom cannot decode it"):
        decode(tmp_path / "a.dcm")


def test_genuine_odd_files(real_folder):
    pytest.importorskip("pydicom")
    folder = real_folder / "formats"
    first = pixels(folder / "1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm").astype(int)
    np.testing.assert_array_equal(pixels(folder / "Fake_MONOHR1.dcm"), 255 - first)
    assert decode(folder / "16747_3_1.jpg").image.size == (1036, 885)
    assert decode(folder / "tbx11k_test_data/imgs/tb/tb0005.png").image.mode == "L"


@pytest.mark.parametrize(("width", "height"), [(1024, 1024), (390, 320), (320, 389), (1000, 37), (5, 4000)])
@pytest.mark.parametrize("size", [224, 31])
def test_boxes_come_back_from_the_store_frame(width, height, size):
    rng = np.random.default_rng(width + size)
    boxes = rng.uniform(0, 1, (50, 4)) * np.tile([width, height], 2)
    there = to_store(boxes, width=width, height=height, size=size)
    np.testing.assert_allclose(
        to_original(there, width=width, height=height, size=size), boxes, atol=1e-9 * max(width, height)
    )
    place = fit(width, height, size)
    whole = to_store([0, 0, width, height], width=width, height=height, size=size)
    assert whole.tolist() == pytest.approx([place.x, place.y, place.x + place.width, place.y + place.height])
    assert max(place.width, place.height) == size and min(place[:2]) >= 1 and min(place[2:]) >= 0


def test_inverted_films(real_folder):
    names = sorted((real_folder / "nih" / "images").glob("*.png"))
    small = {name.name: np.asarray(decode(name).image.reduce(16)) for name in names[::4]} | {
        "00017625_000.png": np.asarray(
            decode(real_folder / "nih" / "images" / "00017625_000.png").image.reduce(16)
        )
    }
    assert [name for name, grey in small.items() if looks_inverted(grey)] == ["00017625_000.png"]
    turned = [looks_inverted(255 - grey) for name, grey in small.items() if name != "00017625_000.png"]
    assert np.mean(turned) >= 0.98


def test_polarity_of_a_drawn_film_and_of_nothing():
    grey = np.asarray(film(64, 3))
    assert not looks_inverted(grey) and looks_inverted(255 - grey)
    # Not exactly: Pillow rounds the thumbnail to whole grey levels.
    assert chest_likeness(255 - grey) == pytest.approx(-chest_likeness(grey), abs=1e-3)
    assert chest_likeness(np.full((64, 64), 9, np.uint8)) == 0


def test_resizing_is_torchvisions_antialiased_filter(tmp_path):
    torch = pytest.importorskip("torch")
    grey = film(200, 5)
    ours = np.asarray(grey.resize((56, 56), Image.Resampling.BILINEAR)).astype(int)
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(np.asarray(grey).astype(np.float32))[None, None],
        (56, 56),
        mode="bilinear",
        antialias=True,
    )[0, 0]
    assert (
        np.abs(ours - theirs.numpy()).max() <= 1
    )  # Pillow rounds to whole grey levels between its two passes


def test_a_transparent_palette(tmp_path):
    picture = Image.fromarray(RAMP).convert("P")
    path = saved(tmp_path, picture, transparency=int(np.asarray(picture)[0, 0]))
    assert pixels(path)[0, 0] == 0 and pixels(path)[29, 39] == RAMP[29, 39]
