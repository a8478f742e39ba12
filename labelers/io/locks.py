"""One writer at a time: a lock that the operating system takes back when its process ends, however it ends."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from labelers.errors import InputError

__all__ = ["lock", "remove_if_free"]

PAUSE = 0.05
"""Seconds between two attempts."""
UNKNOWN = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
"""What a file system answers that knows no locks."""

_held: set[int] = set()
"""Descriptors of the locks of this process."""


@contextlib.contextmanager
def lock(path: Path, refusal: str, patience: float = 0.0) -> Iterator[None]:
    """Hold a lock for the length of a block; it ends with the block or with the process, be it by ``kill -9``.

    The lock is ``flock`` on a file, which is made for it and removed at the end; one that a killed process left is taken over. On
    network file systems the server decides (NFS 4, Lustre mounted with ``flock``: also between machines; NFS mounted with ``nolock``:
    on one machine only). Where there are no such locks at all, and on Windows, nobody is refused.

    Args:
        path: The file of the lock; its folder must exist.
        refusal: What to say if another process holds it.
        patience: Seconds to wait for that process.

    Raises:
        InputError: Another process, or another block of this one, holds the lock.
        OSError: The file cannot be made.
    """
    descriptor = _claim(path, time.monotonic() + patience)
    if descriptor is None:
        raise InputError(refusal)
    _held.add(descriptor)
    try:
        yield
    finally:
        if descriptor in _held:  # not in a forked child
            _held.remove(descriptor)
            with contextlib.suppress(OSError):
                if _stands(path, descriptor):
                    path.unlink()
            os.close(descriptor)


def remove_if_free(path: Path) -> bool | None:
    """Remove a file whose lock nobody holds any more.

    Returns:
        Whether it was free and is gone; None where the file system or the operating system cannot tell.
    """
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return True
    except OSError:
        return None
    try:
        free = _flock(descriptor)
        if free and _stands(path, descriptor):
            path.unlink()
    finally:
        os.close(descriptor)
    return free


def _claim(path: Path, deadline: float) -> int | None:
    """Return a descriptor of the locked file, or None if another process kept it until the deadline."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        taken = _flock(descriptor) is not False
        if taken and _stands(path, descriptor):
            return descriptor
        os.close(descriptor)
        if not taken:  # else its former holder has just removed it
            if time.monotonic() >= deadline:
                return None
            time.sleep(PAUSE)


def _flock(descriptor: int) -> bool | None:
    """Lock without waiting; None where nobody knows of locks."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return None if error.errno in UNKNOWN else False
    return True


def _stands(path: Path, descriptor: int) -> bool:
    """Whether the file is still the one under its name."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _let_go() -> None:
    """Close a parent's locks in its forked child, which would otherwise hold them for as long as it lives."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_let_go)
