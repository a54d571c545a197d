"""What lies in a data folder: the images, wherever they were unpacked, and the tables."""

import os
from collections.abc import Iterable
from pathlib import Path

from cxrlib.data.studies import Studies
from cxrlib.errors import CxrError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".dcm", ".dicom"})


def image_folders(folder: Path) -> list[Path]:
    """Where NIH images may lie: `images/`, `images_001/images/` (or `images_001/`) to 12, and `folder`."""
    parts = sorted(path for path in folder.glob("images*") if path.is_dir())
    nested = [part / "images" if (part / "images").is_dir() else part for part in parts]
    return [*nested, folder]


def find_images(folder: Path) -> tuple[dict[str, str], list[tuple[str, str, str]]]:
    """Finds every image file in an NIH-layout folder.

    Args:
        folder: The data set's folder.

    Returns:
        A dictionary from file name to path below `folder` (forward slashes), and a list of `(name, kept,
        ignored)` for names that lie in two places.
    """
    found: dict[str, str] = {}
    twice: list[tuple[str, str, str]] = []
    for place in image_folders(folder):
        prefix = "" if place == folder else place.relative_to(folder).as_posix() + "/"
        with os.scandir(place) as entries:
            # A leading dot marks what macOS and rsync leave behind, never an image.
            names = sorted(
                entry.name
                for entry in entries
                if not entry.name.startswith(".")
                and os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES
            )
        for name in names:
            if name in found:
                twice.append((name, found[name], prefix + name))
            else:
                found[name] = prefix + name
    return found, twice


def search_places(folder: Path, metadata: str | os.PathLike | None) -> list[Path]:
    """Where tables may lie: `folder`, its `metadata/` and `splits/`, then the same three of the metadata
    folder.

    Raises:
        CxrError: The metadata folder does not exist.
    """
    roots = [folder]
    if metadata is not None:
        if not Path(metadata).is_dir():
            raise CxrError(f"the metadata folder {metadata} does not exist: check its name")
        roots.append(Path(metadata))
    return [place for root in roots for place in (root, root / "metadata", root / "splits") if place.is_dir()]


def first_file(places: Iterable[Path], *patterns: str) -> Path | None:
    """The first file that matches the first pattern in any place, else the second pattern, and so on."""
    for pattern in patterns:
        for place in places:
            matches = sorted(
                path for path in place.glob(pattern) if path.is_file() and not path.name.startswith(".")
            )
            if matches:
                return matches[0]
    return None


def require_folder(folder: str | os.PathLike) -> Path:
    """`folder` as a path.

    Raises:
        CxrError: It does not exist or is not a folder.
    """
    path = Path(folder)
    if not path.exists():
        raise CxrError(f"{path} does not exist: check the folder's name")
    if not path.is_dir():
        raise CxrError(f"{path} is a file: give the folder that holds it")
    return path


def read_folder(
    folder: str | os.PathLike, *, metadata: str | os.PathLike | None = None, uncertain: str = "nan"
) -> Studies:
    """Reads a folder with the reader that fits it: CheXpert where there is a `train.csv`, NIH's layout
    otherwise.

    Args:
        folder: The data set's folder.
        metadata: A second folder in which NIH's tables may lie.
        uncertain: What CheXpert's -1 becomes; see `read_chexpert`.

    Raises:
        CxrError: The folder does not exist, or holds no table that a reader knows.
    """
    from cxrlib.data.chexpert import chexpert_tables, read_chexpert
    from cxrlib.data.nih import read_nih

    path = require_folder(folder)
    if chexpert_tables(path):
        return read_chexpert(path, uncertain=uncertain)
    return read_nih(path, metadata=metadata)
