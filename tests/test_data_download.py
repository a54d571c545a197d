"""The download: every way in which a transfer can fail is made to happen, by a server on this machine that breaks on purpose."""

import errno
import hashlib
import http.server
import io
import json
import re
import signal
import socket
import subprocess
import sys
import tarfile
import textwrap
import threading
import time
from pathlib import Path

import pytest

from cxrlib.cli import main
from cxrlib.data import download as download_module
from cxrlib.data import transfer
from cxrlib.data.download import CHEXPERT, download, read_files
from cxrlib.data.transfer import Source, fetch
from cxrlib.data.unpack import count, unpack
from cxrlib.errors import CxrError
from cxrlib.io import read_json

BODY = bytes(range(256)) * 4000  # 1,024,000 bytes, no two neighbouring pieces alike


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` with an ETag each. `plan` says, request by request, what goes wrong; an empty plan means nothing does."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {"a.bin": BODY}
        self.plan: list[str] = []
        self.asked: list[dict[str, str]] = []
        self.etags = True
        self.pause = 0.0
        self.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"

    def handle_error(self, request, address):  # a client that was killed is no news
        pass


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):  # noqa: N802  (http.server's name)
        server: Server = self.server
        server.asked.append(dict(self.headers))
        step, _, amount = (server.plan.pop(0) if server.plan else "").partition(" ")
        if self.path.startswith("/moved/"):  # as Box does, to an address that serves for a short time
            self.send_response(302)
            self.send_header("Location", server.url + self.path.removeprefix("/moved/"))
            self.end_headers()
            return
        body = server.files.get(self.path.strip("/"))
        if step == "status":
            code, _, after = amount.partition(" ")
            self.send_response(int(code))
            if after:
                self.send_header("Retry-After", after)
            self.end_headers()
            return
        if body is None:
            self.send_error(404)
            return
        if step == "page":
            self.reply(200, b"<html>log in here</html>", {"Content-Type": "text/html; charset=utf-8"}, None)
            return
        etag = '"' + hashlib.md5(body).hexdigest() + '"'
        headers = {"ETag": etag} if server.etags else {}
        start, wanted = 0, re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        fresh = self.headers.get("If-Range", etag) == etag or step == "blind"  # blind: knows Range, not If-Range
        if wanted and fresh and step != "whole":
            start = int(wanted[1])
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.end_headers()
                return
            shift = 100 if step == "shifted" else 0
            headers["Content-Range"] = f"bytes {start - shift}-{len(body) - 1}/{len(body)}"
            self.reply(206, body[start - shift :], headers, None)
            return
        if step == "rot":
            body = b"x" + body[1:]
        self.reply(200, body, headers, int(amount) if step in ("break", "whole") and amount else None)

    def reply(self, status: int, body: bytes, headers: dict[str, str], stop: int | None) -> None:
        """Sends `body`, or its first `stop` bytes under the Content-Length of all of it."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        for at in range(0, len(body[:stop]), 1 << 16):
            self.wfile.write(body[:stop][at : at + (1 << 16)])
            time.sleep(self.server.pause)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(transfer, "PAUSE_S", 0.001)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield running
        running.shutdown()


def source_of(server, name="a.bin", **changes) -> Source:
    body = server.files[name]
    checksum = "md5:" + hashlib.md5(body).hexdigest()
    return Source(name, len(body), checksum, server.url + name)._replace(**changes)


def only_file(folder):
    """The folder's one file: no part and no note were left behind."""
    (file,) = folder.iterdir()
    return file


def test_a_whole_file(server, tmp_path):
    ticks = []
    found = fetch(source_of(server), tmp_path / "a.bin", tick=ticks.append)
    assert only_file(tmp_path).read_bytes() == BODY and sum(ticks) == len(BODY)
    assert found == {"md5": hashlib.md5(BODY).hexdigest(), "sha256": hashlib.sha256(BODY).hexdigest()}
    assert len(server.asked) == 1 and "Range" not in server.asked[0]


@pytest.mark.parametrize("etags", [True, False])
def test_a_broken_connection_goes_on_where_it_broke(server, tmp_path, etags):
    server.plan, server.etags, ticks = ["break 300000"], etags, []
    fetch(source_of(server), tmp_path / "a.bin", tick=ticks.append)
    assert only_file(tmp_path).read_bytes() == BODY and sum(ticks) == len(BODY) and min(ticks) > 0
    assert server.asked[1]["Range"] == "bytes=300000-" and ("If-Range" in server.asked[1]) == etags


def test_a_redirected_address_is_resumed_too(server, tmp_path):
    server.plan = ["", "break 300000"]
    fetch(source_of(server, url=server.url + "moved/a.bin"), tmp_path / "a.bin")
    assert only_file(tmp_path).read_bytes() == BODY
    assert [asked.get("Range") for asked in server.asked] == [None, None, "bytes=300000-", "bytes=300000-"]


def test_tries_count_from_the_last_progress_and_the_next_run_goes_on(server, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "TRIES", 2)
    server.plan = ["status 503", "break 100000", "status 503", "status 503 0"]
    with pytest.raises(CxrError, match="a.bin did not come, 2 times in a row .*503 Service Unavailable.*; 0.1 MB of 1.0 MB are kept"):
        fetch(source_of(server), tmp_path / "a.bin")
    fetch(source_of(server), tmp_path / "a.bin")
    assert server.asked[-1]["Range"] == "bytes=100000-" and only_file(tmp_path).read_bytes() == BODY


def test_503_twice_is_waited_for(server, tmp_path, monkeypatch):
    waits, said = [], []
    monkeypatch.setattr(transfer, "_sleep", waits.append)
    server.plan = ["status 503", "status 503 7"]
    fetch(source_of(server), tmp_path / "a.bin", say=said.append)
    assert len(said) == 2 and said[1].endswith("answered 503 Service Unavailable; next try in 7 s")
    assert only_file(tmp_path).read_bytes() == BODY and waits == [0.001, 7.0]


def test_pauses_grow_to_a_minute(server, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(transfer, "_sleep", waits.append)
    monkeypatch.setattr(transfer, "PAUSE_S", 2.0)
    server.plan = ["status 502"] * 8
    with pytest.raises(CxrError, match="502"):
        fetch(source_of(server), tmp_path / "a.bin")
    assert waits == [2, 4, 8, 16, 32, 60, 60]


def test_a_server_that_ignores_range_begins_anew(server, tmp_path):
    server.plan, ticks = ["break 300000", "whole 500000", "whole"], []
    fetch(source_of(server), tmp_path / "a.bin", tick=ticks.append)
    assert only_file(tmp_path).read_bytes() == BODY and sum(ticks) == len(BODY)
    assert [asked.get("Range") for asked in server.asked] == [None, "bytes=300000-", "bytes=500000-"]


def test_a_server_that_ignores_range_and_always_breaks_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "TRIES", 3)
    server.plan = ["whole 300000"] * 50
    with pytest.raises(CxrError, match="3 times in a row .the connection broke off after 300000 of 1024000 bytes"):
        fetch(source_of(server), tmp_path / "a.bin")
    assert len(server.asked) == 4


@pytest.mark.parametrize("step", ["", "blind", "whole"])
def test_a_file_that_changes_between_two_tries_is_never_a_mixture(server, tmp_path, step):
    new = BODY[::-1]
    old = source_of(server)
    server.plan = ["break 300000"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transfer, "TRIES", 0)
        with pytest.raises(CxrError, match="300000 of 1024000"):
            fetch(old, tmp_path / "a.bin")
    server.files["a.bin"], server.plan = new, [step]
    fetch(source_of(server, checksum=""), tmp_path / "a.bin")  # no checksum that would find a mixture afterwards
    assert only_file(tmp_path).read_bytes() == new


def test_without_any_version_the_checksum_finds_the_mixture(server, tmp_path):
    server.etags, new = False, BODY[::-1]
    server.plan = ["break 300000"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transfer, "TRIES", 0)
        with pytest.raises(CxrError):
            fetch(source_of(server), tmp_path / "a.bin")
    server.files["a.bin"] = new
    fetch(source_of(server), tmp_path / "a.bin")
    assert only_file(tmp_path).read_bytes() == new
    assert [asked.get("Range") for asked in server.asked] == [None, "bytes=300000-", None]  # joined, refused, in one piece


def test_a_piece_from_another_place_is_not_joined(server, tmp_path):
    server.plan = ["break 300000", "shifted"]
    fetch(source_of(server), tmp_path / "a.bin")
    assert only_file(tmp_path).read_bytes() == BODY and "Range" not in server.asked[-1]


def test_a_part_longer_than_the_servers_file_begins_anew(server, tmp_path):
    server.etags = False
    server.plan = ["break 300000"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transfer, "TRIES", 0)
        with pytest.raises(CxrError):
            fetch(source_of(server), tmp_path / "a.bin")
    server.files["a.bin"] = BODY[:200_000]
    fetch(source_of(server), tmp_path / "a.bin")
    assert only_file(tmp_path).read_bytes() == BODY[:200_000]


def test_a_wrong_checksum_leaves_nothing_behind(server, tmp_path):
    wrong = source_of(server, checksum="sha256:" + "0" * 64)
    with pytest.raises(CxrError, match=f"a.bin has the SHA256 {hashlib.sha256(BODY).hexdigest()} instead of 000.*same command again"):
        fetch(wrong, tmp_path / "a.bin")
    assert list(tmp_path.iterdir()) == [] and len(server.asked) == 1
    server.plan = ["rot"]  # damaged on the way, with all its bytes
    with pytest.raises(CxrError, match="has the MD5"):
        fetch(source_of(server), tmp_path / "a.bin")
    fetch(source_of(server), tmp_path / "a.bin")
    assert only_file(tmp_path).read_bytes() == BODY


def test_another_length_than_the_lists_is_said_before_anything_is_fetched(server, tmp_path):
    with pytest.raises(CxrError, match="has 1024000 bytes under the address of a.bin, and the list of files says 7"):
        fetch(source_of(server, size=7), tmp_path / "a.bin")
    assert list(tmp_path.iterdir()) == []


def test_a_page_instead_of_the_file_costs_nothing_that_was_kept(server, tmp_path):
    server.plan = ["break 300000", "page"]
    with pytest.raises(CxrError, match="answers with a web page instead of a.bin"):
        fetch(source_of(server), tmp_path / "a.bin")
    fetch(source_of(server), tmp_path / "a.bin")
    assert server.asked[-1]["Range"] == "bytes=300000-" and only_file(tmp_path).read_bytes() == BODY


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_dead_link_is_said_at_once(server, tmp_path, status):
    server.plan = [f"status {status}"]
    with pytest.raises(CxrError, match=f"answered {status} .* for a.bin .*look for a newer list of files"):
        fetch(source_of(server), tmp_path / "a.bin")
    assert len(server.asked) == 1


def test_no_network_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "PAUSE_S", 0.001)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(CxrError, match=r"a did not come, 8 times in a row .127.0.0.1:\d+: Connection refused.: check the network"):
        fetch(Source("a", None, "", f"http://127.0.0.1:{port}/a"), tmp_path / "a")
    with pytest.raises(CxrError, match="no http or https address"):
        fetch(Source("a", None, "", "file:///etc/hostname"), tmp_path / "a")


def test_a_silent_server_is_a_timeout(tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "TRIES", 1)
    monkeypatch.setattr(transfer, "TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        with pytest.raises(CxrError, match="no answer within"):
            fetch(Source("a", None, "", f"http://127.0.0.1:{deaf.getsockname()[1]}/a"), tmp_path / "a")


def test_a_full_disk_keeps_what_came(server, tmp_path, monkeypatch):
    class Full(io.FileIO):
        def write(self, data):
            if self.tell() > 250_000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    monkeypatch.setattr(transfer, "open", lambda path, mode: Full(path, mode) if mode == "ab" else open(path, mode), raising=False)
    with pytest.raises(CxrError, match="the disk of .* is full: free some space and run the same command again"):
        fetch(source_of(server), tmp_path / "a.bin")
    monkeypatch.undo()
    server.asked.clear()
    fetch(source_of(server), tmp_path / "a.bin")
    assert int(server.asked[0]["Range"][6:-1]) > 250_000 and only_file(tmp_path).read_bytes() == BODY


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_kill_9_in_the_middle_and_the_same_command_again(server, tmp_path):
    server.pause = 0.02
    program = textwrap.dedent(f"""
        import pathlib
        from cxrlib.data.transfer import Source, fetch
        fetch(Source{tuple(source_of(server))!r}, pathlib.Path({str(tmp_path / "a.bin")!r}))
    """)
    child = subprocess.Popen([sys.executable, "-c", program])
    part = tmp_path / "a.bin.part"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (part.exists() and part.stat().st_size > 200_000):
        time.sleep(0.005)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    left = part.stat().st_size
    assert 200_000 < left < len(BODY) and not (tmp_path / "a.bin").exists()
    server.pause = 0
    fetch(source_of(server), tmp_path / "a.bin")
    assert server.asked[-1]["Range"] == f"bytes={left}-" and only_file(tmp_path).read_bytes() == BODY


# ---- the whole data set -------------------------------------------------------------------------------------------------


def archive_of(members: dict[str, bytes], **changes) -> bytes:
    """A tar.gz; `changes` go into every member's header."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in changes.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))
    return raw.getvalue()


IMAGES = {f"images/0000000{number}_000.png": bytes([number]) * (1000 + number) for number in range(1, 6)}


@pytest.fixture
def listed(server, tmp_path):
    """Two archives and two tables, as a list of files; the checksum of one table is not known."""
    members = list(IMAGES.items())
    server.files = {
        "Data_Entry_2017_v2020.csv": b"table",
        "test_list.txt": b"00000005_000.png",
        "images_001.tar.gz": archive_of(dict(members[:2])),
        "images_002.tar.gz": archive_of(dict(members[2:])),
    }
    lines = ["# a mirror", "name,bytes,checksum,url"]
    for name, body in server.files.items():
        checksum = "" if name == "test_list.txt" else "md5:" + hashlib.md5(body).hexdigest()
        lines.append(f"{name},{len(body) if checksum else ''},{checksum},{server.url}{name}")
    path = tmp_path / "files.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def images_in(out) -> dict[str, bytes]:
    return {f"images/{path.name}": path.read_bytes() for path in out.glob("images_*/images/*")}


def test_the_command_downloads_unpacks_and_checks(server, listed, tmp_path, capsys):
    out = tmp_path / "nih"
    command = ["download", "nih", str(out), "--files", str(listed)]
    assert main(command) == 0
    assert "4 files, 5 images unpacked, all checksums hold" in capsys.readouterr().out
    assert images_in(out) == IMAGES and (out / "images_002" / "images" / "00000003_000.png").exists()
    assert not list(out.glob("*.tar.gz")) and not list(out.rglob("*.part*"))
    noted = read_json(out / "checksums.json")
    assert noted["test_list.txt"]["sha256"] == hashlib.sha256(b"00000005_000.png").hexdigest()
    assert (noted["images_001.tar.gz"]["files"], noted["images_001.tar.gz"]["unpacked_bytes"]) == (2, 2003)

    server.asked.clear()
    assert main(command) == 0 and server.asked == []  # all is there, and was looked at
    (out / "test_list.txt").write_bytes(b"00000004_000.png")
    assert main(command) == 2
    assert "is not the file that was downloaded before" in capsys.readouterr().err
    (out / "test_list.txt").unlink()
    (out / "images_001" / "images" / "00000001_000.png").unlink()  # one lost image: its archive comes again
    assert main(command) == 0 and images_in(out) == IMAGES and len(server.asked) == 2
    (out / "Data_Entry_2017_v2020.csv").write_text("changed")
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "is not the file of the list" in said.splitlines()[-1] and said.splitlines()[-1].startswith("cxrlib: ")


def test_a_file_that_changed_at_a_source_without_checksums_is_noticed(server, listed, tmp_path):
    out = tmp_path / "nih"
    download(out, files=read_files(listed))
    (out / "test_list.txt").unlink()
    server.files["test_list.txt"] = b"another list"
    with pytest.raises(CxrError, match="not the file that was downloaded before .*or its entry in checksums.json to accept it"):
        download(out, files=read_files(listed))
    noted = read_json(out / "checksums.json")
    del noted["test_list.txt"]
    (out / "checksums.json").write_text(json.dumps(noted))
    assert download(out, files=read_files(listed))["test_list.txt"]["bytes"] == 12


def test_one_archive_alone_and_kept(server, listed, tmp_path, capsys):
    out = tmp_path / "nih"
    command = ["download", "nih", str(out), "--files", str(listed), "--keep-archives", "--only"]
    assert main([*command, "images_7"]) == 2
    assert "choose among images_001, images_002" in capsys.readouterr().err
    assert main([*command, "images_002"]) == 0
    assert len(images_in(out)) == 3 and [path.name for path in out.glob("*.gz")] == ["images_002.tar.gz"]
    assert (out / "test_list.txt").exists() and not (out / "images_001").exists()
    server.asked.clear()
    assert main(command[:-1]) == 0 and images_in(out) == IMAGES and len(server.asked) == 1


def test_a_kill_while_unpacking_costs_no_file_twice(server, listed, tmp_path, monkeypatch):
    out, written = tmp_path / "nih", []
    real = download_module.unpack

    def killed(archive, into, **others):
        real(archive, into, **others)
        (into / "images" / "00000002_000.png").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(download_module, "unpack", killed)
    assert main(["download", "nih", str(out), "--files", str(listed)]) == 130
    monkeypatch.undo()
    before = (out / "images_001" / "images" / "00000001_000.png").stat().st_ino
    monkeypatch.setattr("cxrlib.data.unpack.shutil.copyfileobj", lambda a, b, n: (written.append(b.name), b.write(a.read())))
    download(out, files=read_files(listed))
    assert images_in(out) == IMAGES and (out / "images_001" / "images" / "00000001_000.png").stat().st_ino == before
    assert [Path(name).name for name in written] == [f"0000000{number}_000.png.part" for number in (2, 3, 4, 5)]


BAD_TARS = {
    "climbs out": (dict(name="images/../../evil.png"), "would write outside"),
    "link": (dict(type=tarfile.SYMTYPE, linkname="/etc/passwd", size=0), "would write outside"),
    "inner link": (dict(type=tarfile.SYMTYPE, linkname="other.png", size=0), "neither a file nor a folder"),
    "device": (dict(type=tarfile.CHRTYPE, size=0), "would write outside"),
    "pipe": (dict(type=tarfile.FIFOTYPE, size=0), "would write outside"),
}


@pytest.mark.parametrize("bad", BAD_TARS)
def test_a_member_that_would_leave_the_folder_is_refused(tmp_path, bad):
    changes, message = BAD_TARS[bad]
    archive = tmp_path / "in" / "images_001.tar.gz"
    archive.parent.mkdir()
    archive.write_bytes(archive_of({"images/a.png": b"abc"}, **changes))
    with pytest.raises(CxrError, match=f"{message}.*do not trust this archive"):
        unpack(archive, tmp_path / "in" / "images_001")
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == [archive]


def test_an_absolute_name_stays_below_the_folder(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(archive_of({"/images/a.png": b"abc"}))
    assert unpack(tmp_path / "a.tar.gz", tmp_path / "a") == (1, 3)
    assert (tmp_path / "a" / "images" / "a.png").read_bytes() == b"abc"


def test_a_damaged_archive_is_one_line(tmp_path):
    whole = archive_of({"images/a.png": bytes(range(256)) * 999})
    for name, data in (("cut", whole[: len(whole) // 2]), ("text", b"no archive" * 99), ("rot", whole[:400] + b"\0" * 99 + whole[499:])):
        (tmp_path / f"{name}.tar.gz").write_bytes(data)
        with pytest.raises(CxrError, match=f"{name}.tar.gz is damaged or no tar archive"):
            unpack(tmp_path / f"{name}.tar.gz", tmp_path / name)
        assert count(tmp_path / name) == (0, 0)


def test_a_disk_that_fills_while_unpacking(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "a.tar.gz").write_bytes(archive_of(IMAGES))
    monkeypatch.setattr("cxrlib.data.unpack.shutil.copyfileobj", full)
    with pytest.raises(CxrError, match="is full at file 1 of a.tar.gz: free some space"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "a")
    assert count(tmp_path / "a") == (0, 0)


def test_too_little_space_is_said_before_the_first_byte(server, listed, tmp_path, monkeypatch):
    class Usage:
        free = 45_000_000_000

    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage)
    with pytest.raises(CxrError, match=r"nih needs 50.6. GB and its disk has 45.00 GB free: free some space"):
        download(tmp_path / "nih")  # NIH's own list: the images, and room for the largest archive
    with pytest.raises(CxrError, match=r"needs 91.5"):
        download(tmp_path / "nih", keep_archives=True)
    Usage.free = 0
    with pytest.raises(CxrError, match="0.00 GB free"):
        download(tmp_path / "nih", files=read_files(listed))
    assert server.asked == []


def test_a_second_disk_by_a_link(server, listed, tmp_path):
    out, other = tmp_path / "nih", tmp_path / "other_disk"
    out.mkdir()
    (out / "images_002").symlink_to(other)
    with pytest.raises(CxrError, match="images_002 is a link to .*other_disk, which is no folder: mount that disk"):
        download(out, files=read_files(listed))
    other.mkdir()
    download(out, files=read_files(listed))
    assert len(list((other / "images").iterdir())) == 3 and images_in(out) == IMAGES
    server.asked.clear()
    download(out, files=read_files(listed))
    assert server.asked == []


def test_two_downloads_never_write_one_folder(server, listed, tmp_path):
    server.plan, server.pause = [""], 0.3
    out = tmp_path / "nih"
    first = threading.Thread(target=download, args=(out,), kwargs=dict(files=read_files(listed)))
    first.start()
    while not server.asked:
        time.sleep(0.005)
    with pytest.raises(CxrError, match="another download is writing"):
        download(out, files=read_files(listed))
    first.join()
    assert images_in(out) == IMAGES


def test_bad_lists_are_one_line(tmp_path):
    path = tmp_path / "files.csv"
    for text, message in (
        ("a,b\n1,2\n", "is no list of files"), ("", "is no list of files"),
        ("name,bytes,checksum,url\n../a,1,,http://x\n", "plain file name"), ("name,bytes,checksum,url\na,many,,http://x\n", "a number"),
        ("name,bytes,checksum,url\na,1,md5:12,http://x\n", "write md5"), ("name,bytes,checksum,url\na,1,crc:12,http://x\n", "write md5"),
    ):  # fmt: skip
        path.write_text(text)
        with pytest.raises(CxrError, match=message):
            read_files(path)
    with pytest.raises(CxrError, match="cannot be read"):
        read_files(tmp_path / "nowhere.csv")


def test_nihs_own_list():
    files = read_files()
    archives = [source for source in files if source.name.endswith(".tar.gz")]
    assert [source.name for source in archives] == [f"images_{number:03d}.tar.gz" for number in range(1, 13)]
    assert len(files) == 16 and len({source.url for source in files}) == len({source.checksum for source in files}) == 16
    assert sum(source.size for source in files) == pytest.approx(42 * 2**30, rel=0.001)  # the 42 GB that everybody writes
    assert all(source.url.startswith("https://nihcc.") and source.checksum for source in files)


def test_the_lists_checksums_are_those_of_genuine_tables(real_folder, tmp_path):
    import gzip

    known = {source.name: source for source in read_files()}
    folder = real_folder / "nih"
    for name, data in {
        "train_val_list.txt": (folder / "splits" / "train_val_list.txt").read_bytes(),
        "test_list.txt": (folder / "splits" / "test_list.txt").read_bytes(),
        "BBox_List_2017.csv": gzip.decompress((folder / "metadata" / "BBox_List_2017.csv.gz").read_bytes()),
        # This copy's header differs from NIH's present one in a single word.
        "Data_Entry_2017_v2020.csv": gzip.decompress((folder / "metadata" / "Data_Entry_2017_v2020.csv.gz").read_bytes()).replace(
            b"Patient Gender", b"Patient Sex", 1
        ),
    }.items():
        assert (len(data), "sha256:" + hashlib.sha256(data).hexdigest()) == (known[name].size, known[name].checksum)


def test_chexpert_is_one_line(capsys, tmp_path):
    assert main(["download", "chexpert"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and CHEXPERT in said and "register" in said
    (tmp_path / "file").touch()
    assert main(["download", "nih", str(tmp_path / "file")]) == 2
    assert "is a file: name a folder to write to" in capsys.readouterr().err
    assert main(["download", "nih", str(tmp_path / "file" / "inner")]) == 2
    assert "cannot be made" in capsys.readouterr().err
    assert main(["download", "nih"]) == 2
    assert "needs a folder to write to" in capsys.readouterr().err
