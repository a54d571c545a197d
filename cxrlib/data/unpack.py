"""Unpacking an archive of images that came over the network: safely, and going on where a kill stopped it."""

import errno
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

from cxrlib.errors import CxrError


def unpack(archive: Path, into: Path, *, tick: Callable[[int], object] = lambda n: None) -> tuple[int, int]:
    """Unpacks a tar archive, compressed or not.

    Each file appears under its name by a rename, once it is whole; so after a kill, files that are there with the
    right length are passed over.

    Args:
        archive: The archive.
        into: The folder for its members; it may be a link to a folder on another disk.
        tick: Called with the number of bytes of the archive that were read since the last call.

    Returns:
        How many files the archive holds, and their bytes.

    Raises:
        CxrError: A member would lie outside of `into` or is neither file nor folder, the archive is damaged, or the disk
            is full.
    """
    if not hasattr(tarfile, "data_filter"):
        raise CxrError("this Python cannot unpack archives safely: update it to 3.11.4 or later")
    into.mkdir(parents=True, exist_ok=True)
    places: list[Path] = []
    total = read = 0
    try:
        with open(archive, "rb") as raw, tarfile.open(fileobj=raw) as tar:
            for member in tar:
                safe = tarfile.data_filter(member, str(into))  # refuses absolute paths, "..", links and devices outside
                tar.members = []  # tarfile would remember every member
                place = into / safe.name
                if safe.isdir():
                    place.mkdir(parents=True, exist_ok=True)
                elif safe.isreg():
                    places.append(place)
                    _write(tar, member, place)
                    total += member.size
                else:
                    raise CxrError(
                        f"{archive.name} holds {member.name!r}, which is neither a file nor a folder: do not trust this "
                        "archive; remove it and download it from its original source"
                    )
                tick(raw.tell() - read)
                read = raw.tell()
            while tar.fileobj.read(1 << 20):  # to the end: gzip's own checksum comes last
                pass
    except tarfile.FilterError as error:
        raise CxrError(
            f"{archive.name} would write outside of {into} ({_line(error)}): do not trust this archive; remove it and "
            "download it from its original source"
        ) from None
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise _damaged(archive, places, error) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CxrError(
                f"the disk of {into} is full at file {len(places)} of {archive.name}: free some space and run the same "
                "command again; what was unpacked is kept"
            ) from None
        if error.errno is None:  # gzip's own complaints
            raise _damaged(archive, places, error) from None
        raise
    return len(places), total


def count(folder: Path) -> tuple[int, int]:
    """How many files lie in a folder and below it, and their bytes; files that are being written aside."""
    files = total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            if not name.endswith(".part"):
                files, total = files + 1, total + os.stat(os.path.join(place, name)).st_size
    return files, total


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, place: Path) -> None:
    if place.is_file() and place.stat().st_size == member.size:
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(place.name + ".part")
    try:
        with tar.extractfile(member) as source, open(part, "wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
        os.replace(part, place)
    finally:
        part.unlink(missing_ok=True)


def _damaged(archive: Path, places: list[Path], error: Exception) -> CxrError:
    for place in places:  # nobody knows which of them are wrong, and a file of the right length would be passed over later
        place.unlink(missing_ok=True)
    return CxrError(f"{archive.name} is damaged or no tar archive ({_line(error)}): remove it and run the same command again")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
