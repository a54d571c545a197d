"""`python -m cxrlib download nih OUT`: the 42 GiB of NIH ChestX-ray14 in a folder that `prepare` reads.

The twelve archives of images and the four tables come from NIH's own public links (`nih_files.csv` beside this module),
one after the other, each by `cxrlib.data.transfer`: a broken transfer goes on where it was. An archive that is whole is
unpacked to OUT/images_001/images/ and so on, noted, and removed, so that the disk holds the images once.

Checksums. NIH publishes an MD5 of each archive (FAQ_CHESTXRAY.pdf, question 7), and those are enforced. It publishes none
of the tables; the list has SHA-256s that were computed from genuine copies, as its head says, and they are enforced too. A
file of another list (`--files`) whose checksum is blank cannot be checked the first time: its checksums are then computed and
written to OUT/checksums.json like all others', and every later run compares what lies in OUT with them.

Two disks. OUT/images_001 to images_012 may be made beforehand as links to folders elsewhere; see `cxrlib.data.store` for the
other half of it.
"""

import csv
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import filelock
from tqdm import tqdm

from cxrlib.data.disks import check_space, make_folder
from cxrlib.data.transfer import Source, bytes_kept, checksums, fetch
from cxrlib.data.unpack import count, unpack
from cxrlib.errors import CxrError
from cxrlib.io import read_json, write_json

NIH_FILES = Path(__file__).with_name("nih_files.csv")
ARCHIVES = (".tar.gz", ".tgz", ".tar")
CHEXPERT = (
    "CheXpert comes only to those who register: accept Stanford's agreement at "
    "https://stanfordaimi.azurewebsites.net/datasets/8cbd9ed4-2eb9-4565-affc-111cf4f7ebe2 (CheXpert-v1.0-small, 11 GB, is enough "
    "for 224 px), unpack what you are given, and run python -m cxrlib prepare CheXpert-v1.0-small STORE"
)


def read_files(path: str | os.PathLike = NIH_FILES) -> list[Source]:
    """A list of files to download: CSV with the columns name, bytes, checksum, url; lines that begin with # are passed over.

    Raises:
        CxrError: The list cannot be read, or a row is wrong.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CxrError(f"the list of files {path} cannot be read ({error}): check its name") from None
    if not rows or not {"name", "bytes", "checksum", "url"} <= set(rows[0]):
        raise CxrError(f"{path} is no list of files: it needs the columns name, bytes, checksum, url and at least one row")
    sources = []
    for row in rows:
        name, size, checksum = row["name"] or "", row["bytes"] or "", row["checksum"] or ""
        digits = {"md5": 32, "sha256": 64, "": 0}.get(checksum.partition(":")[0])
        if name in ("", ".", "..") or Path(name).name != name or "\\" in name or (size and not size.isdigit()):
            raise CxrError(f"{path} has a row with the name {name!r} and {size!r} bytes: give a plain file name and a number")
        if digits != len(checksum.partition(":")[2]):
            raise CxrError(f"{path} has the checksum {checksum!r} for {name}: write md5:... or sha256:... or nothing")
        sources.append(Source(name, int(size) if size else None, checksum, row["url"] or ""))
    return sources


def download(
    out: str | os.PathLike,
    *,
    files: Sequence[Source] | None = None,
    only: Sequence[str] = (),
    keep_archives: bool = False,
    progress: bool = False,
) -> dict[str, dict]:
    """Downloads and unpacks a data set, or finishes or checks one that was begun.

    Args:
        out: The folder; made if needed.
        files: What to fetch; None for NIH ChestX-ray14.
        only: Archives to fetch, such as "images_001"; the tables come in any case. Empty for all.
        keep_archives: Do not remove an archive once it is unpacked. Twice the space.
        progress: Show a bar on stderr.

    Returns:
        What OUT/checksums.json says: for each file its bytes, md5 and sha256; for an unpacked archive also `files` and
        `unpacked_bytes`.

    Raises:
        CxrError: Too little space, another download at work in `out`, a link of `out` that leads nowhere, or what `fetch` and
            `unpack` raise.
    """
    out = make_folder(out)
    chosen = _choose(list(files if files is not None else read_files()), only)
    try:
        with filelock.FileLock(out / ".download.lock", timeout=0):
            return _download(out, chosen, keep_archives, progress)
    except filelock.Timeout:
        raise CxrError(f"another download is writing {out}: wait for it, or name another folder") from None


def _download(out: Path, chosen: list[Source], keep_archives: bool, progress: bool) -> dict[str, dict]:
    noted = read_json(out / "checksums.json") if (out / "checksums.json").exists() else {}
    for folder in filter(None, map(_folder, chosen)):
        if (out / folder).is_symlink() and not (out / folder).is_dir():
            raise CxrError(
                f"{out / folder} is a link to {os.readlink(out / folder)}, which is no folder: mount that disk or make the folder"
            )
    todo = [source for source in chosen if (out / source.name).exists() or not _is_unpacked(out, source, noted)]
    _check_space(out, todo, keep_archives)
    missing = [source for source in todo if not (out / source.name).exists()]
    kept = sum(bytes_kept(out / source.name) for source in missing)
    total = sum(source.size or 0 for source in missing)
    with tqdm(
        total=total or None, initial=kept, unit="B", unit_scale=True, disable=not progress, file=sys.stderr, smoothing=0.02
    ) as bar:
        for source in todo:
            target = out / source.name
            bar.set_description(source.name)
            if target.exists():
                _compare(target, source, noted.get(source.name, {}), checksums(target))
            else:
                found = fetch(source, target, tick=bar.update, say=lambda line: bar.write(line, file=sys.stderr))
                _compare(target, source, noted.get(source.name, {}), found)
                noted[source.name] = {"bytes": target.stat().st_size, **found}
            noted.setdefault(source.name, {"bytes": target.stat().st_size, **checksums(target)})
            if _folder(source) and not _is_unpacked(out, source, noted):
                with tqdm(
                    total=target.stat().st_size, unit="B", unit_scale=True, desc="unpacking", leave=False, disable=not progress
                ) as inner:
                    number, size = unpack(target, out / _folder(source), tick=inner.update)
                noted[source.name] |= {"files": number, "unpacked_bytes": size}
            write_json(out / "checksums.json", noted)
            if _folder(source) and not keep_archives:
                target.unlink()
    return noted


def _choose(sources: list[Source], only: Sequence[str]) -> list[Source]:
    names = [_folder(source) for source in sources if _folder(source)]
    only = [name.split(".tar")[0] for name in only]
    unknown = [name for name in only if name not in names]
    if unknown:
        raise CxrError(f"there is no archive {unknown[0]!r}: choose among {', '.join(names)}")
    return [source for source in sources if not only or not _folder(source) or _folder(source) in only]


def _folder(source: Source) -> str:
    """Where an archive is unpacked: images_001 for images_001.tar.gz; "" for a table."""
    for ending in ARCHIVES:
        if source.name.endswith(ending):
            return source.name.removesuffix(ending)
    return ""


def _is_unpacked(out: Path, source: Source, noted: dict) -> bool:
    """Whether an archive was unpacked before and as many files and bytes are still there."""
    note = noted.get(source.name, {})
    return "files" in note and count(out / _folder(source)) == (note["files"], note["unpacked_bytes"])


def _compare(target: Path, source: Source, note: dict, found: dict[str, str]) -> None:
    kind, _, wanted = source.checksum.partition(":")
    if wanted and found[kind] != wanted.lower():
        raise CxrError(
            f"{target} is not the file of the list (its {kind.upper()} is {found[kind]}, not {wanted.lower()}): remove it and "
            "run the same command again"
        )
    if note and found["sha256"] != note["sha256"]:
        raise CxrError(
            f"{target} is not the file that was downloaded before (its SHA-256 is {found['sha256']}, and checksums.json says "
            f"{note['sha256']}): remove the file to fetch it again, or its entry in checksums.json to accept it"
        )


def _check_space(out: Path, todo: list[Source], keep_archives: bool) -> None:
    """Refuses to begin where a disk has too little space. Unpacked, PNGs take as much as their archive and some cluster ends."""
    needs, archive = Counter(), 0
    for source in todo:
        size = source.size or 0
        arriving = 0 if (out / source.name).exists() else size - bytes_kept(out / source.name)
        folder = _folder(source)
        if not folder:
            needs[out] += arriving
            continue
        place = out / folder if (out / folder).is_dir() else out
        needs[place] += max(0, round(1.03 * size) - count(out / folder)[1])
        if keep_archives:
            needs[out] += arriving
        else:
            archive = max(archive, arriving)
    needs[out] += archive
    check_space(
        needs, advice="name a folder on another disk, or make links such as images_007 in the folder that lead to a second disk"
    )


def add_parser(subparsers) -> None:
    """Adds the command `download`."""
    parser = subparsers.add_parser(
        "download", help="fetch a data set; the same command goes on with a broken transfer",
        description="Fetches NIH ChestX-ray14 (45 GB) and unpacks it. The same command goes on with a broken transfer and "
        "checks one that is complete.",
    )  # fmt: skip
    parser.add_argument("dataset", choices=("nih", "chexpert"), help="chexpert: says how to get it")
    parser.add_argument("out", nargs="?", help="folder to write to")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="ARCHIVE", help="these archives alone, such as images_001 (2 GB), and the tables"
    )
    parser.add_argument("--files", metavar="CSV", help="another list of files, such as a mirror's: name, bytes, checksum, url")
    parser.add_argument("--keep-archives", action="store_true", help="do not remove an archive once it is unpacked")


def run(args, echo: Callable[[str], None] = print) -> int:
    """Runs `download`. Exit code 0; 130 when stopped."""
    if args.dataset == "chexpert":
        raise CxrError(CHEXPERT)
    if args.out is None:
        raise CxrError("download nih needs a folder to write to: python -m cxrlib download nih OUT")
    files = read_files(args.files) if args.files else None
    try:
        noted = download(args.out, files=files, only=args.only, keep_archives=args.keep_archives, progress=True)
    except KeyboardInterrupt:
        echo("stopped: run the same command again to go on; what came is kept")
        return 130
    images = sum(note.get("files", 0) for note in noted.values())
    echo(f"{args.out}: {len(noted)} files, {images} images unpacked, all checksums hold; next: python -m cxrlib doctor {args.out}")
    return 0
