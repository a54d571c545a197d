"""Asking for a folder and for room on its disk before the work begins."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from cxrlib.errors import CxrError


def check_space(needs: Mapping[Path, int], *, advice: str) -> None:
    """Refuses to begin where a disk has too little space.

    Args:
        needs: Bytes to be written below each folder. Folders on one disk are added up.
        advice: What to do, for the end of the error's line.

    Raises:
        CxrError: A disk has fewer bytes free than needed; the line says how many of both.
    """
    by_disk: dict[int, list[Path]] = {}
    for folder in needs:
        by_disk.setdefault(os.stat(folder).st_dev, []).append(folder)
    for folders in by_disk.values():
        needed, free = sum(needs[folder] for folder in folders), shutil.disk_usage(folders[0]).free
        if needed > free:
            raise CxrError(
                f"{min(folders)} needs {needed / 1e9:.2f} GB and its disk has {free / 1e9:.2f} GB free: free some space, {advice}"
            )


def make_folder(folder: str | os.PathLike) -> Path:
    """Makes a folder to write to, if it is not there.

    Raises:
        CxrError: A file of that name is there, or the system refuses.
    """
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise CxrError(f"{path} is a file: name a folder to write to")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CxrError(f"the folder {path} cannot be made ({error.strerror}): name another one") from None
    return path
