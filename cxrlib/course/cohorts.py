"""Phantom cohorts that chapters share: made once, kept in a cache, remade when they are stale or damaged."""

import contextlib
import hashlib
import io
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from cxrlib.errors import CxrError
from cxrlib.io import read_json, write_json

COHORTS: dict[str, dict[str, Any]] = {
    "tiny": {"n": 200, "size": 64, "seed": 1, "prevalence": "enriched"},
    "course": {"n": 2500, "size": 96, "seed": 2, "prevalence": "enriched"},
}
"""What `phantom.write_cohort` is called with. The store has the same size as the phantoms."""

_open: dict[str, Any] = {}


def cache_folder() -> Path:
    """Where cohorts are kept: the environment variable CXR_CACHE, or the platform's cache folder."""
    if os.environ.get("CXR_CACHE"):
        return Path(os.environ["CXR_CACHE"]).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "cxrlib"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "cxrlib"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cxrlib"


def cohort(name: str):
    """Opens a shared phantom cohort, making it first if need be.

    Args:
        name: "tiny" (200 images of 64 pixels) or "course" (2,500 images of 96 pixels, findings more frequent than
            in life). Both are phantoms: they teach the method and say nothing about patients.

    Returns:
        A `cxrlib.data.store.ImageStore`. The NIH-layout folder it was made from, with masks, is `cohort_folder(name)`.

    Raises:
        CxrError: There is no such cohort, or no room for it.
    """
    from cxrlib.data.store import ImageStore

    folder = cohort_folder(name)
    if name not in _open or _open[name][0] != folder:
        _open[name] = (folder, ImageStore.open(folder.parent / "store", verify="none"))
    return _open[name][1]


def cohort_folder(name: str) -> Path:
    """The folder of a cohort's NIH layout (images, tables, masks), made and checked first."""
    from filelock import FileLock  # torch needs it too, so it is always there

    if name not in COHORTS:
        raise CxrError(f"there is no cohort {name!r}: take one of {', '.join(COHORTS)}")
    root = cache_folder() / "cohorts"
    root.mkdir(parents=True, exist_ok=True)
    folder = root / f"{name}-{_key(COHORTS[name])}"
    with FileLock(root / f"{name}.lock"):  # two chapters may ask at the same time
        if not _is_whole(folder):
            for old in root.glob(f"{name}-*"):
                shutil.rmtree(old, ignore_errors=True)
            _make(folder, COHORTS[name])
    return folder / "nih"


def _key(parameters: dict[str, Any]) -> str:
    """A hash of what determines a cohort: its parameters, and the code that draws and stores it.

    A changed phantom therefore never meets an old cache.
    """
    import cxrlib

    digest = hashlib.sha256(repr(sorted(parameters.items())).encode())
    package = Path(cxrlib.__file__).parent
    for source in sorted([*package.glob("phantom/*.py"), *package.glob("phantom/*.csv"), *package.glob("data/*.py")]):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by relative path, but for the record itself and lock files."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != "made.json" and p.suffix != ".lock")
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(files)}


def _is_whole(folder: Path) -> bool:
    """Whether a cohort is there and every file has the checksum that was recorded when it was made."""
    try:
        return read_json(folder / "made.json")["files"] == _digests(folder)
    except (CxrError, KeyError, TypeError):
        return False


def _make(folder: Path, parameters: dict[str, Any]) -> None:
    """Draws the cohort and its store beside the final place, then moves both there in one step."""
    from cxrlib.data import prepare, read_nih
    from cxrlib.phantom import write_cohort

    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".making-"))
    try:
        # Progress bars would stand in the notebook's output on the first run, and not on the next.
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            write_cohort(temporary / "nih", **parameters)
            prepare(read_nih(temporary / "nih"), temporary / "store", size=parameters["size"])
        write_json(temporary / "made.json", {"parameters": parameters, "files": _digests(temporary)})
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
