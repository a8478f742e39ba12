"""Writing files so that nobody ever sees half of one."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

from labelers.errors import InputError
from labelers.io.locks import lock, remove_if_free

__all__ = ["atomic_path", "check_readable", "remove_leftovers"]

NAME_KEPT = 40
"""Characters of a file's name that its temporary neighbour bears; a name may be as long as the file system lets it be."""


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary neighbour of ``path`` to write to; it takes the place of ``path`` if the block ends without an error.

    Missing folders are made, and go again with the temporary file after an error. What a killed process left of an earlier attempt
    is removed.

    Raises:
        InputError: The folder is no folder or cannot be written; ``path`` itself is a folder or a device; another process is writing
            it; the disk is full.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: expected a file name to write to, it is a folder; give a name inside it")
    if path.exists() and not path.is_file():  # to replace /dev/null would be the end of it
        raise InputError(f"{path}: expected a file name to write to, it is a device or a pipe; give the name of a file")
    mark = _mark(path)
    temporary = path.with_name(f"{mark}{secrets.token_hex(4)}.part")
    missing = [folder for folder in path.parents if not folder.exists()]
    there = path.parents[len(missing)]
    if not there.is_dir():
        raise InputError(f"{path}: cannot be written, since {there} is no folder; give a name inside a folder")
    written = False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        busy = f"{path}: another process is writing it; wait until it ends, or give another name"
        if not remove_leftovers(path.parent, mark):
            raise InputError(busy)
        # The lock tells a file that is being written from one that a killed process left. Windows does not rename an open file.
        with contextlib.nullcontext() if sys.platform == "win32" else lock(temporary, busy):
            yield temporary
            os.replace(temporary, path)
        written = True
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else type(error).__name__  # Arrow's own words name the temporary file
        raise InputError(f"{path}: cannot be written ({reason}); nothing was left behind") from None
    finally:
        if not written:
            with contextlib.suppress(OSError):  # never made
                temporary.unlink()
            with contextlib.suppress(OSError):  # never made, or somebody else has put a file there
                for folder in missing:
                    folder.rmdir()


def remove_leftovers(folder: Path, mark: str = ".") -> bool:
    """Remove the temporary files in a folder that killed processes left; False if one of them is still being written.

    Args:
        folder: Where to look; not in the folders within it.
        mark: Beginning of the names.
    """
    pattern = re.compile(re.escape(mark) + r".*[0-9a-f]{8}\.part", re.DOTALL)
    found = [folder / name for name in os.listdir(folder) if pattern.fullmatch(name)]
    return False not in [remove_if_free(path) for path in found]


def _mark(path: Path) -> str:
    """Beginning of the names of a file's temporary neighbours; the number tells long names apart that begin alike."""
    return f".{path.name[:NAME_KEPT]}.{zlib.crc32(os.fsencode(path.name)):08x}"


def check_readable(path: Path) -> None:
    """Raise the OSError of a file that may not be read; what unpacks it would call it a broken one."""
    with path.open("rb"):
        pass
