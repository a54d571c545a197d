"""Writing files so that a kill or a full disk never leaves a half-written one."""

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cxrlib.errors import CxrError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a write fails with on a full disk, at the end of a quota, and at a limit on the size of a file (`ulimit -f`)."""


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "w", **open_kwargs: Any) -> Iterator[Any]:
    """Opens a temporary file beside `path`, and renames it over `path` when the block ends without an error.

    Readers see the old file or the new one, never a part of it. The bytes are on disk before the rename.

    Args:
        path: The file to write. Its folder is made if needed.
        mode: "w" or "wb".
        **open_kwargs: Passed to `open`; text is UTF-8 with `\\n` line ends unless said otherwise.

    Yields:
        The open file.

    Raises:
        CxrError: The disk or a quota is full. The old file, if any, is untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if "b" not in mode:
        open_kwargs = {"encoding": "utf-8", "newline": "\n"} | open_kwargs
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, mode, **open_kwargs) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes private files; a result is as readable as any other file of its owner.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(name)
        if isinstance(error, OSError) and error.errno in FULL:
            raise CxrError(
                f"no space left while writing {path}: free some space and run the same command again; "
                "what was finished before is kept"
            ) from error
        raise


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes `value` as indented JSON, atomically. NaN is refused: JSON has none, so write null instead."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_write(path) as file:
        file.write(text + "\n")


def read_json(path: str | os.PathLike) -> Any:
    """Reads a JSON file.

    Raises:
        CxrError: The file is missing or is not JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CxrError(f"{path} does not exist: check the folder's name") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CxrError(f"{path} is not valid JSON ({error}): remake it or restore it from a copy") from None


def sha256_of(path: str | os.PathLike, *, chunk: int = 1 << 20) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits, read in chunks so that memory stays flat."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(chunk):
            digest.update(block)
    return digest.hexdigest()
