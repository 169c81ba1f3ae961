"""Folders of unfinished work, which the next start deletes if their process was killed."""

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from service.errors import StoreFull, StoreUnavailable


@contextlib.contextmanager
def scratch_folder(parent: Path, prefix: str, mode: int = 0o700) -> Iterator[Path]:
    """Yield a new folder `<prefix><random>`, deleted at the end if it is still there.

    It is locked as long as this process lives, by which `sweep` knows that it is in use. Blocks;
    safe from any thread.
    """
    while True:
        folder = parent / f"{prefix}{secrets.token_hex(8)}"
        folder.mkdir(mode=mode)
        lock = os.open(folder, os.O_RDONLY)
        with contextlib.suppress(OSError):  # a file system without locks: `sweep` leaves it, too
            fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            break
        os.close(lock)  # swept before it was locked
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


@contextlib.contextmanager
def store_errors(folder: str) -> Iterator[None]:
    """Raise StoreFull where a folder's disk is full, StoreUnavailable where it is read-only."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StoreFull(
                f"the disk of {folder} is full; delete models, or enlarge it"
            ) from error
        if error.errno in {errno.EROFS, errno.EACCES, errno.EPERM}:
            raise StoreUnavailable(
                f"{folder} may not be written ({error.strerror}); mount it writable, for the user "
                "of the server"
            ) from error
        raise


def sweep(parent: Path, prefixes: Sequence[str]) -> int:
    """Delete the scratch folders of processes that have ended; return how many there were."""
    n = 0
    for prefix in prefixes:
        for folder in parent.glob(f"{prefix}*"):
            with contextlib.suppress(OSError):
                lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
                    n += 1
                finally:
                    os.close(lock)
    return n
