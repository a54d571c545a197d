"""Batches out of a store's file: the right images, and pages that are asked for in time."""

import mmap

import numpy as np
import pytest

from cxrlib.data.gather import gather, page_ranges


@pytest.mark.parametrize("size", [7, 64, 100])
def test_the_same_as_indexing(tmp_path, size):
    images = np.random.default_rng(0).integers(0, 255, (9, size, size)).astype(np.uint8)
    images.tofile(tmp_path / "images.u8")
    mapped = np.memmap(tmp_path / "images.u8", np.uint8, "r", shape=images.shape)
    assert isinstance(mapped.base, mmap.mmap)  # what `gather` looks for; numpy could change it
    for rows in (np.array([8, 0, 3]), np.array([5]), np.arange(9), np.array([], np.int64)):
        got = gather(mapped, rows)
        np.testing.assert_array_equal(got, images[rows])
        np.testing.assert_array_equal(gather(images, rows), images[rows])
        assert type(got) is np.ndarray and got.flags.c_contiguous and got.flags.writeable
        assert not np.shares_memory(got, mapped)


def test_ranges_begin_at_pages_and_hold_the_images():
    for image_bytes in (49, mmap.PAGESIZE, 224 * 224):
        for row, (start, length) in zip((0, 3, 10), page_ranges(np.array([0, 3, 10]), image_bytes), strict=True):
            assert start % mmap.PAGESIZE == 0 and 0 <= row * image_bytes - start < mmap.PAGESIZE
            assert start + length == (row + 1) * image_bytes


@pytest.mark.skipif(not hasattr(mmap, "MADV_WILLNEED"), reason="this system takes no advice on pages")
def test_a_row_beyond_the_file_is_numpys_error(tmp_path):
    np.zeros((4, 64, 64), np.uint8).tofile(tmp_path / "images.u8")
    mapped = np.memmap(tmp_path / "images.u8", np.uint8, "r", shape=(4, 64, 64))
    with pytest.raises(IndexError):
        gather(mapped, np.array([4]))
    assert gather(mapped, np.array([-1])).shape == (1, 64, 64)
