"""One large file over HTTP: it survives broken connections, kills and full disks, and is checked before it counts.

Bytes go to NAME.part. Beside it, NAME.part.json notes which version of the file they belong to (ETag, date, size),
so that any later run can ask for the rest alone (`Range`), and only of that same version (`If-Range`). A server that
ignores `Range`, or whose file has changed, sends the whole file, and the transfer begins anew. NAME appears by a
rename, once size and checksum hold.

Why our own code: pooch, which this project would otherwise use, checks checksums but begins every broken transfer
at its first byte again, which with archives of 4 GB may mean never to finish.
"""

import errno
import hashlib
import http.client
import os
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from time import sleep as _sleep
from typing import NamedTuple
from urllib.parse import urlsplit

from cxrlib import __version__
from cxrlib.errors import CxrError
from cxrlib.io import read_json, write_json

TRIES = 8  # without one new byte; a connection that breaks after some progress may break as often as it likes
PAUSE_S = 2.0  # before the second try; doubled each time, up to a minute
TIMEOUT_S = 60.0
_PASSING = {408, 425, 429, 500, 502, 503, 504}  # HTTP statuses that another try may mend


class Source(NamedTuple):
    """A file to fetch: its name, length in bytes (None: not known), `md5:...` or `sha256:...` ("": not known), URL."""

    name: str
    size: int | None
    checksum: str
    url: str


class _BrokenError(Exception):
    """One connection failed; another may do better. `wait` is what the server asked for, in seconds."""

    def __init__(self, what: str, wait: float = 0.0) -> None:
        super().__init__(what)
        self.wait = wait


def fetch(
    source: Source,
    target: Path,
    *,
    tick: Callable[[int], object] = lambda n: None,
    say: Callable[[str], object] = lambda line: None,
) -> dict[str, str]:
    """Fetches one file, or the rest of it, and checks it.

    Args:
        source: What to fetch.
        target: Where it goes. Its folder must exist.
        tick: Called with the number of bytes that came; a negative number where bytes had to be given up.
        say: Called with a line before each pause.

    Returns:
        The file's checksums, as `checksums` gives them.

    Raises:
        CxrError: The server does not have the file, has another one, or cannot be reached; the disk is full; the
            checksum is wrong. What came is kept, except after a wrong checksum.
    """
    if urlsplit(source.url).scheme not in ("http", "https"):
        raise CxrError(f"{source.url!r} of {source.name} is no http or https address: correct the list of files")
    part = target.with_name(target.name + ".part")
    for last in (False, True):
        joined = _receive(source, part, tick, say)
        found = checksums(part)
        wrong = _mismatch(source, part.stat().st_size, found)
        if not wrong:
            break
        _forget(part, tick)
        # Joined pieces that do not fit may be of two versions: once more in one piece. Otherwise it is the source.
        if last or not joined:
            raise CxrError(
                f"{source.name} {wrong}: it was damaged on the way or is another file now; what came was removed: "
                "run the same command again"
            )
    os.replace(part, target)
    _note_of(part).unlink(missing_ok=True)
    return found


def checksums(path: Path) -> dict[str, str]:
    """{"md5": ..., "sha256": ...} of a file, in one reading."""
    digests = {"md5": hashlib.md5(usedforsecurity=False), "sha256": hashlib.sha256()}
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            for digest in digests.values():
                digest.update(block)
    return {name: digest.hexdigest() for name, digest in digests.items()}


def bytes_kept(target: Path) -> int:
    """How many bytes of `target` an earlier run left behind."""
    return _kept(target.with_name(target.name + ".part"))[0]


def _mismatch(source: Source, size: int, found: dict[str, str]) -> str:
    if source.size is not None and size != source.size:
        return f"has {size} bytes instead of {source.size}"
    kind, _, wanted = source.checksum.partition(":")
    if wanted and found[kind] != wanted.lower():
        return f"has the {kind.upper()} {found[kind]} instead of {wanted.lower()}"
    return ""


def _receive(source: Source, part: Path, tick: Callable[[int], object], say: Callable[[str], object]) -> bool:
    """Connects until `part` is whole. Whether it was joined from more than one piece."""
    best, idle = _kept(part)[0], 0
    while True:
        try:
            return _connect(source, part, tick)
        except _BrokenError as broken:
            problem = broken
        have = _kept(part)[0]
        # Against the most that ever came: a server without Range may break at the same byte for ever.
        best, idle = (have, 0) if have > best else (best, idle + 1)
        if idle >= TRIES:
            whole = f" of {_amount(source.size)}" if source.size else ""
            raise CxrError(
                f"{source.name} did not come, {TRIES} times in a row ({problem}): check the network and run the same "
                f"command again; {_amount(have)}{whole} are kept"
            )
        pause = max(min(PAUSE_S * 2 ** max(idle - 1, 0), 30 * PAUSE_S), problem.wait)
        say(f"{source.name}: {problem}; next try in {pause:.0f} s")
        _sleep(pause)


def _connect(source: Source, part: Path, tick: Callable[[int], object]) -> bool:
    """One connection, until the file is whole. Whether it went on with bytes that were there."""
    have, note = _kept(part)
    if have and (note["url"] != source.url or (note["size"] or have) < have):
        _forget(part, tick)
        have, note = 0, {}
    if have and have == note["size"]:
        return True
    host = urlsplit(source.url).netloc
    with _open(source, have, note, part, tick) as answer:
        length = answer.headers.get("Content-Length")
        size = int(length) + (have if answer.status == 206 else 0) if length else None
        # First of all, so that the page of a hotel's network does not cost what was kept.
        if "text/html" in answer.headers.get("Content-Type", ""):
            raise CxrError(
                f"{host} answers with a web page instead of {source.name}: the link may have expired, or a proxy is in the "
                "way; fetch the file with a browser into the same folder and run the same command again"
            )
        if answer.status == 206:
            _check_rest(answer, have, note, part, tick)
        if None not in (size, source.size) and size != source.size:
            raise CxrError(
                f"{host} has {size} bytes under the address of {source.name}, and the list of files says {source.size}: the "
                "file was changed or the link leads elsewhere; look for a newer list"
            )
        if answer.status != 206:  # the whole file: the first time, without Range, or because it has changed
            _forget(part, tick)
            have = 0
            version = {"etag": answer.headers.get("ETag"), "modified": answer.headers.get("Last-Modified")}
            write_json(_note_of(part), {"url": source.url, "size": size, **version})
        got = _copy(answer, part, tick)
    if size is not None and have + got < size:
        raise _BrokenError(f"the connection broke off after {have + got} of {size} bytes")
    return have > 0


def _open(source: Source, have: int, note: dict, part: Path, tick: Callable[[int], object]):
    headers = {"User-Agent": f"cxrlib/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        etag = note.get("etag") or ""
        version = note.get("modified") if etag.startswith("W/") else etag or note.get("modified")
        if version:  # a weak ETag may not stand in If-Range
            headers["If-Range"] = version
    try:
        return urllib.request.urlopen(urllib.request.Request(source.url, headers=headers), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        host = urlsplit(source.url).netloc
        if error.code == 416 and have:
            _forget(part, tick)
            raise _BrokenError("the server's file is shorter than what was kept") from None
        if error.code in _PASSING:
            after = error.headers.get("Retry-After", "")
            wait = min(float(after), 300.0) if after.isdigit() else 0.0
            raise _BrokenError(f"{host} answered {error.code} {error.reason}", wait) from None
        raise CxrError(
            f"{host} answered {error.code} {error.reason} for {source.name} ({source.url}): the link is no longer "
            "valid; look for a newer list of files, or fetch it with a browser into the same folder"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise CxrError(
                f"the certificate of {urlsplit(source.url).netloc} cannot be verified ({reason.verify_message}): set the "
                "clock, or name your proxy's certificates in SSL_CERT_FILE"
            ) from None
        raise _BrokenError(f"{urlsplit(source.url).netloc}: {_words(reason)}") from None


def _check_rest(answer, have: int, note: dict, part: Path, tick: Callable[[int], object]) -> None:
    """Gives up what was kept unless the 206 answer goes on exactly there, in the same version: some servers know
    Range and not If-Range."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
    other = [
        name for name, key in (("ETag", "etag"), ("Last-Modified", "modified"))
        if note.get(key) and answer.headers.get(name) and answer.headers[name] != note[key]
    ]  # fmt: skip
    size = note.get("size")
    if found is None or int(found[1]) != have or (size and found[2] not in ("*", str(size))) or other:
        _forget(part, tick)
        raise _BrokenError("the file was changed at its source, or the server sent another piece than was asked for")


def _copy(answer, part: Path, tick: Callable[[int], object]) -> int:
    got = 0
    with open(part, "ab") as file:
        while True:
            try:
                block = answer.read1(1 << 18)
            except (OSError, http.client.HTTPException) as error:
                raise _BrokenError(_words(error)) from None
            if not block:
                break
            try:
                file.write(block)
                file.flush()
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise CxrError(
                    f"the disk of {part.parent} is full: free some space and run the same command again; what came is kept"
                ) from None
            got += len(block)
            tick(len(block))
        os.fsync(file.fileno())
    return got


def _kept(part: Path) -> tuple[int, dict]:
    """The bytes in `part` and the note about their version; bytes without a note do not count."""
    try:
        return part.stat().st_size, read_json(_note_of(part))
    except (FileNotFoundError, CxrError):
        return 0, {}


def _forget(part: Path, tick: Callable[[int], object]) -> None:
    if part.exists():
        tick(-part.stat().st_size)
        part.unlink()
    _note_of(part).unlink(missing_ok=True)


def _note_of(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _words(error: object) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {TIMEOUT_S:.0f} s"
    return " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__


def _amount(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
