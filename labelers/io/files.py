"""Writing files so that nobody ever sees half of one."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from labelers.errors import InputError

__all__ = ["atomic_path"]


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary neighbour of ``path`` to write to; it takes the place of ``path`` if the block ends without an error.

    Raises:
        InputError: The folder does not exist, is no folder, or cannot be written; ``path`` itself is a folder; the disk is full.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: expected a file name to write to, it is a folder; give a name inside it")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or type(error).__name__}); nothing was left behind"
        ) from None
    finally:
        with contextlib.suppress(OSError):  # already in place, or never made
            temporary.unlink()
