"""The store: the same bytes however made, broken images named, kills survived, damage refused."""

import errno
import importlib
import json
import os
import pickle
import shutil
import signal

import numpy as np
import pytest
from nih_folder import ROWS, film, write_nih
from PIL import Image

import cxrlib.data.journal as journal_module
from cxrlib.cli import main
from cxrlib.data import ImageStore, prepare, read_nih
from cxrlib.data.frames import to_original, to_store
from cxrlib.data.timing import as_json, as_rows, bench_reading, bench_store
from cxrlib.errors import CxrError
from cxrlib.io import read_json, write_json

# By its name: the package carries the function `prepare` under the same name.
prepare_module = importlib.import_module("cxrlib.data.prepare")
REAL_DECODE_BLOCK = prepare_module.decode_block
FILES = ("images.u8", "index.csv", "boxes.csv", "store.json")


def bytes_of(folder) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.fixture
def small_blocks(monkeypatch):
    """Two images a block, so that six images are three blocks."""
    monkeypatch.setattr(prepare_module, "BLOCK", 2)


@pytest.fixture
def studies(tmp_path):
    return read_nih(write_nih(tmp_path / "nih"))


def test_what_a_store_holds(studies, tmp_path):
    store = prepare(studies, tmp_path / "store", size=32)
    assert (store.n, store.size, len(store), store.source, store.generation) == (6, 32, 6, "nih", "v2020")
    assert store.images_NYX.shape == (6, 32, 32) and store.images_NYX.dtype == np.uint8
    for row, name in enumerate(store.table["image"]):
        expected = Image.open(tmp_path / "nih" / "images" / name).resize((32, 32), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(store.image(row), expected)
    np.testing.assert_array_equal(store.labels_NC, studies.labels_NC())
    kept = store.table[list(studies.table.columns)]
    assert kept.astype(object).fillna("?").equals(studies.table.astype(object).fillna("?"))
    assert store.boxes.equals(studies.boxes) and store.patients.tolist() == ["2", "1", "1", "3", "4", "5"]
    assert store.where(split="test").tolist() == [3, 5] and store.left_out == []
    assert not (tmp_path / "store" / "journal.jsonl").exists()
    with pytest.raises(CxrError, match="no split is called 'train'"):
        store.where(split="train")


def test_the_same_bytes_for_any_number_of_workers(studies, tmp_path, small_blocks):
    (tmp_path / "nih" / "images" / ROWS[2][0]).write_bytes(b"broken")
    one = prepare(studies, tmp_path / "one", size=24)
    three = prepare(studies, tmp_path / "three", size=24, workers=3)
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "three") and one.sha256 == three.sha256
    assert one.n == 5


def test_broken_images_are_left_out_by_name(studies, tmp_path):
    images = tmp_path / "nih" / "images"
    cut = (images / ROWS[0][0]).read_bytes()
    (images / ROWS[0][0]).write_bytes(cut[: len(cut) // 2])
    (images / ROWS[3][0]).unlink()  # the one with a box
    film(64, 0).resize((64, 30)).save(images / ROWS[5][0])
    store = prepare(studies, tmp_path / "store", size=32)
    assert [name for name, _ in store.left_out] == [ROWS[0][0], ROWS[3][0], ROWS[5][0]]
    reasons = [reason for _, reason in store.left_out]
    assert (
        "damaged or cut off" in reasons[0]
        and "cannot be read" in reasons[1]
        and "64 x 30, another shape" in reasons[2]
    )
    assert store.table["image"].tolist() == [ROWS[row][0] for row in (1, 2, 4)] and len(store.boxes) == 0
    np.testing.assert_array_equal(store.labels_NC, studies.labels_NC()[[1, 2, 4]])
    expected = Image.open(images / ROWS[4][0]).resize((32, 32), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(store.image(2), expected)


def test_a_png_of_zeros_at_the_end_is_left_out_by_name(studies, tmp_path):
    path = tmp_path / "nih" / "images" / ROWS[1][0]
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2].ljust(len(data), b"\0"))
    store = prepare(studies, tmp_path / "store", size=32)
    assert [name for name, _ in store.left_out] == [ROWS[1][0]] and store.n == 5


def test_a_mended_file_of_equal_length_is_noticed(studies, tmp_path):
    images, out = tmp_path / "nih" / "images", tmp_path / "store"
    whole = {row: (images / ROWS[row][0]).read_bytes() for row in (1, 3)}
    for row, data in whole.items():
        (images / ROWS[row][0]).write_bytes(bytes(len(data)))
    first = prepare(studies, out, size=32)
    assert first.n == 4 and prepare(studies, out, size=32).sha256 == first.sha256  # nothing mended yet
    (images / ROWS[3][0]).write_bytes(whole[3])
    with pytest.raises(CxrError, match="^1 image left out before can be read now: remove .*store and"):
        prepare(studies, out, size=32)
    (images / ROWS[1][0]).write_bytes(whole[1])
    with pytest.raises(CxrError, match="^2 images left out before"):
        prepare(studies, out, size=32)
    shutil.rmtree(out)
    assert prepare(studies, out, size=32).n == 6


def test_a_store_of_broken_images_alone_is_empty_and_opens(studies, tmp_path):
    for row in ROWS:
        (tmp_path / "nih" / "images" / row[0]).write_bytes(b"")
    store = prepare(studies, tmp_path / "store", size=32)
    assert store.n == 0 and len(store.left_out) == 6 and store.labels_NC.shape == (0, 14)


def killed_after(studies, out, syncs: int) -> bool:
    """Runs prepare in a child that kills itself with SIGKILL at its n-th fsync; whether it died of it."""
    child = os.fork()
    if child == 0:
        try:
            real, count = os.fsync, 0

            def fsync(handle):
                nonlocal count
                count += 1
                if count == syncs:
                    os.kill(os.getpid(), signal.SIGKILL)
                real(handle)

            os.fsync = fsync
            prepare(studies, out, size=24)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork to be killed in the middle")
def test_a_kill_at_any_moment_loses_nothing_and_changes_nothing(studies, tmp_path, small_blocks):
    (tmp_path / "nih" / "images" / ROWS[2][0]).write_bytes(b"broken")
    prepare(studies, tmp_path / "whole", size=24)
    died = 0
    # Each sync is one of: the journal's head, a block's pixels, a block's line (three times), index, boxes,
    # store.json.
    for syncs in range(1, 12):
        out = tmp_path / f"killed_{syncs}"
        if not killed_after(studies, out, syncs):
            break
        died += 1
        with pytest.raises(CxrError, match="unfinished: run the same prepare"):
            ImageStore.open(out)
        prepare(studies, out, size=24)
        assert bytes_of(out) == bytes_of(tmp_path / "whole")
    assert died == 10


def test_finished_blocks_are_not_decoded_again(studies, tmp_path, small_blocks, monkeypatch):
    out, decoded = tmp_path / "store", []
    real = prepare_module.decode_block

    def stops_at_the_third(items, size):
        decoded.append(len(items))
        if len(decoded) == 3:
            raise KeyboardInterrupt
        return real(items, size)

    monkeypatch.setattr(prepare_module, "decode_block", stops_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        prepare(studies, out, size=24)
    prepare(studies, out, size=24)
    assert len(decoded) == 4  # two blocks, the one that was stopped, and that one again
    prepare(studies, out, size=24)
    assert len(decoded) == 4


def test_a_torn_journal_or_torn_pixels_are_mended(studies, tmp_path, small_blocks):
    prepare(studies, tmp_path / "whole", size=24)
    out = tmp_path / "torn"
    assert killed_after(studies, out, 6)
    journal = (out / "journal.jsonl").read_bytes()
    (out / "journal.jsonl").write_bytes(journal + b'{"n": 2, "sha')
    with open(out / "images.u8", "r+b") as file:  # the second block's pixels never reached the disk
        file.seek(24 * 24 * 2 + 5)
        file.write(b"\x00\xff\x00")
    prepare(studies, out, size=24)
    assert bytes_of(out) == bytes_of(tmp_path / "whole")


def test_another_job_does_not_touch_a_store(studies, tmp_path, small_blocks):
    out = tmp_path / "store"
    assert killed_after(studies, out, 4)
    with pytest.raises(CxrError, match="begun with other images or settings"):
        prepare(studies, out, size=25)
    first = prepare(studies, out, size=24)
    for other in (dict(size=25), dict(size=24, invert="always")):
        with pytest.raises(CxrError, match="other images or settings"):
            prepare(studies, out, **other)
    with pytest.raises(CxrError, match="other images or settings"):
        prepare(studies.subset(np.arange(5)), out, size=24)
    assert ImageStore.open(out, verify="full").sha256 == first.sha256


def test_a_full_disk_is_one_line_and_keeps_what_was_finished(studies, tmp_path, small_blocks, monkeypatch):
    out, writes = tmp_path / "store", []
    prepare(studies, tmp_path / "whole", size=24)

    class Full:
        """A file on a disk that fills up after two blocks."""

        def __init__(self, file):
            self.file = file

        def write(self, data):
            writes.append(len(data))
            if len(writes) > 2:
                self.file.write(data[:100])
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(data)

        def __getattr__(self, name):
            return getattr(self.file, name)

    def opened(path, *args, **kwargs):
        file = open(path, *args, **kwargs)
        return Full(file) if str(path).endswith("store/images.u8") else file

    monkeypatch.setattr(journal_module, "open", opened, raising=False)
    with pytest.raises(CxrError, match="full after 4 images: free some space and run the same command again"):
        prepare(studies, out, size=24)
    monkeypatch.delattr(journal_module, "open")
    prepare(studies, out, size=24)
    assert bytes_of(out) == bytes_of(tmp_path / "whole")


def test_too_little_space_is_said_before_the_work(studies, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(CxrError, match="needs .* GB and its disk has"):
        prepare(studies, tmp_path / "store", size=32)


def flip(path, position: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(bytes(data))


def edit(path, **values) -> None:
    write_json(path, read_json(path) | values)


DAMAGES = {
    "first block": (lambda out: flip(out / "images.u8", 7), "block 0 of images.u8 was changed"),
    "last block": (lambda out: flip(out / "images.u8", -1), "block 2 of images.u8 was changed"),
    "short": (lambda out: os.truncate(out / "images.u8", 24 * 24 * 6 - 1), "has 3455 bytes instead of 3456"),
    "table": (lambda out: flip(out / "index.csv", -2), "index.csv was changed"),
    "boxes": (lambda out: (out / "boxes.csv").write_text("image\n"), "boxes.csv was changed"),
    "missing": (lambda out: (out / "boxes.csv").unlink(), "boxes.csv is missing"),
    "version": (lambda out: edit(out / "store.json", format=99), "has the format 99"),
    "findings": (lambda out: edit(out / "store.json", findings=["Mass"]), "store.json was changed"),
    "not JSON": (lambda out: os.truncate(out / "store.json", 50), "not valid JSON"),
    "no list": (lambda out: (out / "store.json").write_text('{"format": 1}'), "store.json lacks blocks"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_store_is_refused(studies, tmp_path, small_blocks, damage):
    out = tmp_path / "store"
    prepare(studies, out, size=24)
    spoil, message = DAMAGES[damage]
    spoil(out)
    with pytest.raises(CxrError, match=message) as caught:
        ImageStore.open(out)
    assert "\n" not in str(caught.value)


def test_only_a_full_check_sees_the_middle(studies, tmp_path, small_blocks):
    out = tmp_path / "store"
    prepare(studies, out, size=24)
    ImageStore.open(out, verify="full")
    flip(out / "images.u8", 24 * 24 * 3)
    ImageStore.open(out, verify="quick")
    with pytest.raises(CxrError, match="block 1 of images.u8 was changed"):
        ImageStore.open(out, verify="full")
    with pytest.raises(CxrError, match="is not a store"):
        ImageStore.open(tmp_path)


def test_boxes_stay_in_nihs_pixels_for_smaller_copies(studies, tmp_path):
    store = prepare(studies, tmp_path / "store", size=32)
    row = store.table.iloc[3]
    assert (row["width"], row["height"], row["file_width"], row["file_height"]) == (1024, 1024, 64, 64)
    box = store.boxes[["x0", "y0", "x1", "y1"]].to_numpy()
    inside = to_store(box, width=row["width"], height=row["height"], size=store.size)
    np.testing.assert_allclose(inside, box / 32)
    np.testing.assert_allclose(
        to_original(inside, width=row["width"], height=row["height"], size=store.size), box
    )


def test_an_oblong_image_is_padded_and_boxes_follow(tmp_path):
    folder = write_nih(tmp_path / "nih")
    (folder / "phantom.json").write_text("{}")  # a phantom's table states its own size
    table = folder / "Data_Entry_2017_v2020.csv"
    table.write_text(table.read_text().replace("2682,2749", "80,50"))
    for row in ROWS:
        grey = np.full((50, 80), 100, np.uint8)
        grey[10:30, 40:60] = 200
        Image.fromarray(grey).save(folder / "images" / row[0])
    store = prepare(read_nih(folder), tmp_path / "store", size=40)
    image = store.image(0)
    assert (image[:7] == 0).all() and (image[-7:] == 0).all() and (image[8:32] >= 99).all()
    x0, y0, x1, y1 = to_store([40, 10, 60, 30], width=80, height=50, size=40)
    bright = np.argwhere(image > 150)
    assert bright.min(axis=0).tolist() == [y0, x0] and (bright.max(axis=0) + 1).tolist() == [y1, x1]


def killed_in_the_second_block(items, size):
    """Stands in for `decode_block` in a worker, which the system kills when memory runs out."""
    if os.path.basename(items[0].path) == ROWS[2][0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return REAL_DECODE_BLOCK(items, size)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_worker_is_said_and_costs_no_finished_block(studies, tmp_path, small_blocks, monkeypatch):
    monkeypatch.setattr(prepare_module, "decode_block", killed_in_the_second_block)
    with pytest.raises(CxrError, match="a worker process was killed .*run the same command again"):
        prepare(studies, tmp_path / "store", size=24, workers=2)
    monkeypatch.undo()
    monkeypatch.setattr(prepare_module, "BLOCK", 2)
    store = prepare(studies, tmp_path / "store", size=24)
    assert store.sha256 == prepare(studies, tmp_path / "whole", size=24).sha256


@pytest.mark.parametrize(
    ("invert", "turned"), [("never", []), ("auto", [ROWS[1][0]]), ("always", [row[0] for row in ROWS])]
)
def test_the_switch_for_inverted_films(tmp_path, invert, turned):
    folder = write_nih(tmp_path / "nih")
    path = folder / "images" / ROWS[1][0]
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    plain = prepare(read_nih(folder), tmp_path / "plain", size=32)
    store = prepare(read_nih(folder), tmp_path / "store", size=32, invert=invert)
    assert store.table["image"][store.table["inverted"]].tolist() == turned
    for row, name in enumerate(store.table["image"]):
        np.testing.assert_array_equal(
            store.image(row), 255 - plain.image(row) if name in turned else plain.image(row)
        )


def test_a_store_travels_to_a_worker_as_its_path(studies, tmp_path):
    store = prepare(studies, tmp_path / "store", size=128)
    message = pickle.dumps(store)
    assert len(message) < 1000
    np.testing.assert_array_equal(pickle.loads(message).images_NYX, store.images_NYX)


def test_a_folder_without_images_and_bad_settings(tmp_path):
    studies = read_nih(write_nih(tmp_path / "nih", images=False))
    with pytest.raises(CxrError, match="no image of the table"):
        prepare(studies, tmp_path / "store", size=32)
    (tmp_path / "file").touch()
    with pytest.raises(CxrError, match="file is a file: name a folder"):
        prepare(read_nih(write_nih(tmp_path / "nih3")), tmp_path / "file", size=32)
    for wrong in (dict(size=0), dict(size=32, workers=0), dict(size=32, invert="maybe")):
        with pytest.raises(CxrError):
            prepare(read_nih(write_nih(tmp_path / "nih2")), tmp_path / "store", **wrong)


def test_the_command(tmp_path, capsys):
    folder = write_nih(tmp_path / "nih")
    command = ["prepare", str(folder), str(tmp_path / "store"), "--size", "32", "--workers", "1"]
    assert main(command) == 0
    assert "6 images of 32 x 32, 0 left out" in capsys.readouterr().out
    (folder / "images" / ROWS[1][0]).write_bytes(b"")
    command[2] = str(tmp_path / "second")
    assert main(command) == 3
    assert f"left out: {ROWS[1][0]}: {ROWS[1][0]} is empty" in capsys.readouterr().out
    assert main([*command, "--allow-broken"]) == 0
    assert main(["prepare", str(tmp_path / "nowhere"), str(tmp_path / "third")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_reading_the_store_is_at_least_50_times_faster_than_png():
    # A ratio, because both sides slow down together on a busy machine; `python -m cxrlib bench` prints the times.
    times = bench_store(n=6)
    assert times.ratio >= 50
    # The goal is 25 ms a 1024-px file and core, and a quiet machine needs 12. Processor time doubles where two programs share a
    # core's caches, and six files pay for the first import of each decoder: four times the goal still tells a slip of ten.
    assert times.prepare_cpu_ms <= 100 and times.prepare_ms >= times.prepare_cpu_ms * 0.5


def test_random_batches_are_read_in_a_fraction_of_a_millisecond():
    times = bench_reading(n=1024, read=512, repeats=3)
    # The goal is 0.15 ms an image, and a quiet machine needs 0.012 of processor time; the factor four is for a busy one.
    assert 0 < times.memory_cpu_ms <= 0.6 and times.memory_ms > 0 and (times.images, times.read) == (1024, 512)
    assert (times.disk_ms > 0 and times.plain_disk_ms > 0) or not hasattr(os, "posix_fadvise")
    rows = as_rows(bench_store(n=2)._asdict(), as_json(times._replace(disk_ms=float("nan"), plain_disk_ms=float("nan"))))
    assert rows[2][1] == "not measured" and rows[1][1] == f"{times.memory_ms:.3f} ms"


def test_genuine_dicoms(real_folder, tmp_path):
    pytest.importorskip("pydicom")
    names = {"00000001_000.dcm": "1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm"}
    names["00000002_000.dcm"] = "Fake_MONOHR1.dcm"
    rows = tuple((name, "No Finding", 0, number, "050Y", "F", "PA") for number, name in enumerate(names, 1))
    folder = write_nih(tmp_path / "nih", rows=rows, images=False)
    for name, genuine in names.items():
        shutil.copy(real_folder / "formats" / genuine, folder / "images" / name)
    store = prepare(read_nih(folder), tmp_path / "store", size=224)
    assert store.table["mode"].tolist() == ["MONOCHROME2", "MONOCHROME1"] and store.left_out == []
    # The second file is the first with another tag; turning over and resizing do not commute to the last grey
    # level.
    np.testing.assert_allclose(store.image(1).astype(int), 255 - store.image(0).astype(int), atol=1)


def test_genuine_films(real_folder, tmp_path):
    studies = read_nih(real_folder / "nih")
    some = studies.subset(np.flatnonzero(np.arange(203) % 6 == 0))
    store = prepare(some, tmp_path / "store", size=224)
    assert store.n == len(some) == 34 and store.left_out == []
    mini = read_nih(real_folder / "nih_mini256", metadata=real_folder / "nih")
    mini = prepare(mini.subset(np.arange(0, 1508, 8)), tmp_path / "mini", size=64)
    assert mini.n == 189 and mini.left_out == []
    assert (mini.table["file_width"] == 256).all() and (mini.table["width"] == 1024).all()
    assert json.loads((tmp_path / "mini" / "store.json").read_text())["sha256"] == mini.sha256
