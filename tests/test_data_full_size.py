"""What must hold at 112,120 images, rehearsed with a few thousand tiny ones: linear time, flat memory, kills, second disks.

`python -m cxrlib.data.rehearsal 112120` is the same at full size.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from nih_folder import write_nih

from cxrlib.cli import main
from cxrlib.data import ImageStore, prepare, read_nih
from cxrlib.data.disks import check_space
from cxrlib.data.rehearsal import measure, write_folder
from cxrlib.errors import CxrError

FILES = ("images.u8", "index.csv", "boxes.csv", "store.json")


@pytest.mark.skipif(sys.platform == "win32", reason="measures resident memory as Unix tells it")
@pytest.mark.timeout(180)
def test_four_times_the_images_cost_four_times_the_time_and_no_more_memory():
    n = 500
    few, many = (measure(count, size=224, side=16) for count in (n, 4 * n))
    for name in ("read the tables, find the files", "prepare", "an epoch of random batches"):
        # Linear would be 4, quadratic 16. Processor time of one process, so that a busy machine does not matter much.
        assert many[name]["cpu_s"] < 8 * few[name]["cpu_s"] + 0.2, name
    # 1500 images more are 75 MB of pixels more. What may grow is the table: far less than 4 KB an image.
    more_mib = many["prepare"]["peak_mib"] - few["prepare"]["peak_mib"]
    assert more_mib < 25, f"{more_mib} MiB more"


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(other for child in children for other in family(int(child)))]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for left-over processes in /proc")
@pytest.mark.timeout(180)
def test_kill_9_of_the_command_leaves_no_worker_and_the_same_command_ends_with_the_same_bytes(tmp_path):
    write_folder(tmp_path / "nih", 3000)
    command = [sys.executable, "-m", "cxrlib", "prepare", str(tmp_path / "nih"), str(tmp_path / "store"), "--size", "224", "--workers", "2"]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = tmp_path / "store" / "journal.jsonl"
    while child.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") > 4):
        time.sleep(0.002)
    alive = family(child.pid)
    child.kill()
    assert child.wait() == -signal.SIGKILL and not (tmp_path / "store" / "store.json").exists()
    blocks = journal.read_bytes().count(b"\n") - 1
    assert 4 <= blocks < 47 and len(alive) >= 4  # the command, the fork server, two workers
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2] for pid in alive[1:]):
        assert time.monotonic() < deadline, "workers outlive their command"
        time.sleep(0.05)

    decoded = []
    module = sys.modules["cxrlib.data.prepare"]
    real = module.decode_block
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "decode_block", lambda items, size: (decoded.append(len(items)), real(items, size))[1])
        assert main([*command[3:-1], "1", "--verify"]) == 0
    assert len(decoded) == 47 - blocks  # nothing that was finished is done again
    prepare(read_nih(tmp_path / "nih"), tmp_path / "whole", size=224)
    for name in FILES:
        assert (tmp_path / "store" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_verify_reads_every_byte(tmp_path, capsys):
    folder = write_nih(tmp_path / "nih")
    command = ["prepare", str(folder), str(tmp_path / "store"), "--size", "24", "--workers", "1"]
    assert main(command) == 0
    assert main([*command, "--verify"]) == 0
    assert "every checksum of the store holds" in capsys.readouterr().out
    damaged = bytearray((tmp_path / "store" / "images.u8").read_bytes())
    damaged[1000] ^= 1
    (tmp_path / "store" / "images.u8").write_bytes(damaged)
    assert main([*command, "--verify"]) == 2
    assert "of images.u8 was changed" in capsys.readouterr().err


def test_images_on_a_second_disk_by_links(tmp_path):
    folder = write_nih(tmp_path / "nih", twelve=True)
    whole = prepare(read_nih(folder), tmp_path / "whole", size=24)
    (tmp_path / "disk2").mkdir()
    for part in (2, 5, 11):
        name = f"images_{part:03d}"
        shutil.move(folder / name, tmp_path / "disk2" / name)
        (folder / name).symlink_to(tmp_path / "disk2" / name)
    store = prepare(read_nih(folder), tmp_path / "store", size=24)
    assert store.n == 6 and store.sha256 == whole.sha256
    assert (tmp_path / "store" / "images.u8").read_bytes() == (tmp_path / "whole" / "images.u8").read_bytes()


def test_the_stores_pixels_on_another_disk_by_a_link(tmp_path):
    studies, out, disk = read_nih(write_nih(tmp_path / "nih")), tmp_path / "store", tmp_path / "disk2"
    out.mkdir()
    (out / "images.u8").symlink_to(disk / "pixels.u8")
    with pytest.raises(CxrError, match="images.u8 is a link into .*disk2, which is no folder: mount that disk"):
        prepare(studies, out, size=24)
    disk.mkdir()
    store = prepare(studies, out, size=24)
    assert (disk / "pixels.u8").stat().st_size == 6 * 24 * 24 and (out / "images.u8").is_symlink()
    whole = prepare(studies, tmp_path / "whole", size=24)
    assert store.sha256 == whole.sha256
    np.testing.assert_array_equal(ImageStore.open(out, verify="full").images_NYX, whole.images_NYX)


def test_every_disk_is_asked_for_its_share(tmp_path, monkeypatch):
    folders = [tmp_path / name for name in ("a", "b", "c")]
    devices, free = dict(zip(folders, (1, 2, 1))), {folders[0]: 100, folders[1]: 50}
    real = os.stat

    class Stat:
        def __init__(self, device):
            self.st_dev = device

    monkeypatch.setattr("cxrlib.data.disks.os.stat", lambda path, **o: Stat(devices[path]) if path in devices else real(path, **o))
    monkeypatch.setattr("cxrlib.data.disks.shutil.disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, free[path]))
    check_space({folders[0]: 60, folders[1]: 50, folders[2]: 40}, advice="or stop")
    with pytest.raises(CxrError, match="a needs 0.00 GB and its disk has 0.00 GB free: free some space, or stop"):
        check_space({folders[0]: 60, folders[1]: 50, folders[2]: 41}, advice="or stop")
    with pytest.raises(CxrError, match="b needs"):
        check_space({folders[0]: 60, folders[1]: 51}, advice="or stop")
