"""Batches out of a store's file, with plain reads: the right images, whatever their size and order. Lost files: test_survival.py."""

import numpy as np
import pytest

from cxrlib.data.pixels import Pixels


@pytest.mark.parametrize("size", [7, 64, 100])
def test_the_same_as_indexing(tmp_path, size):
    images = np.random.default_rng(0).integers(0, 255, (9, size, size)).astype(np.uint8)
    images.tofile(tmp_path / "images.u8")
    pixels = Pixels(tmp_path / "images.u8", images.shape)
    assert len(pixels) == 9 and pixels.shape == images.shape and pixels.dtype == np.uint8
    for rows in (np.array([8, 0, 3]), np.array([5]), np.array([2, 2]), np.arange(9), np.array([], np.int64)):
        got = pixels[rows]
        np.testing.assert_array_equal(got, images[rows])
        assert type(got) is np.ndarray and got.flags.c_contiguous and got.flags.writeable


@pytest.mark.parametrize("row", [4, -1])
def test_a_row_beyond_the_file_is_an_error(tmp_path, row):
    np.zeros((4, 64, 64), np.uint8).tofile(tmp_path / "images.u8")
    with pytest.raises(IndexError, match=f"row {row} of 4 images"):
        Pixels(tmp_path / "images.u8", (4, 64, 64))[np.array([0, row])]
