"""Whether a process is at work in a run folder: the system says so, by a lock that is gone as soon as the process is."""

import errno
import os
import weakref
from pathlib import Path

from cxrlib.errors import CxrError

NAME = ".lock"


class Lock:
    """A lock that is held for as long as the object lives."""

    def __init__(self, handle: int) -> None:
        weakref.finalize(self, os.close, handle)


_HELD: weakref.WeakValueDictionary[Path, Lock] = weakref.WeakValueDictionary()
"""This process's own locks: it may begin again in a folder where it was interrupted, in a notebook for example."""


def hold(folder: Path) -> Lock | None:
    """Takes the lock of a run folder. A kill frees it too.

    A scheduler may start a job again before the old one is quite dead, and two processes would spoil one another's files.

    Returns:
        The lock; None where the file system knows no locks.

    Raises:
        CxrError: Another process holds it.
    """
    path = folder.resolve() / NAME
    if path in _HELD:
        return _HELD[path]
    handle = None
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        free = _take(handle)
    except OSError:
        free = None
    if free:
        _HELD[path] = lock = Lock(handle)
        return lock
    if handle is not None:
        os.close(handle)
    if free is None:
        return None
    raise CxrError(f"another process is training in {folder}: wait until it has ended, or choose another --out")


def is_held(folder: Path) -> bool | None:
    """Whether a process holds a run folder; None if nobody can tell, because the file system knows no locks."""
    path = folder.resolve() / NAME
    if path in _HELD:
        return True
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False  # runs of older versions have no lock, and none of them is running now
    except OSError:
        return None
    try:
        free = _take(handle)
    except OSError:
        return None
    finally:
        os.close(handle)
    return None if free is None else not free


def _take(handle: int) -> bool | None:
    """Whether the lock could be taken; None where the system has none of this kind."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True
