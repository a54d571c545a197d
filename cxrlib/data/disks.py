"""Asking the disks for room before the work begins."""

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
