"""Searches every byte of files for words that must not be there, in whatever form a program may have written them."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pyarrow.parquet as pq

BLOCK = 32_768
"""Bytes of a block in wandb's files, each of whose records begins with a header of 7 bytes."""


def forms(word: str) -> dict[str, bytes]:
    """Return a word as the bytes that may stand for it."""
    plain = word.encode()
    found = {
        "UTF-8": plain,
        "lower case": word.lower().encode(),
        "upper case": word.upper().encode(),
        "UTF-16 little": word.encode("utf-16-le"),
        "UTF-16 big": word.encode("utf-16-be"),
        "UTF-32": word.encode("utf-32-le"),
        "Latin-1": word.encode("latin-1"),
        "JSON": json.dumps(word)[1:-1].encode(),
        "Python's ascii": ascii(word)[1:-1].encode(),
        "URL": quote(word).encode(),
        "hex": plain.hex().encode(),
        "HEX": plain.hex().upper().encode(),
        "tokens": (np.frombuffer(plain, np.uint8).astype(np.int64) + 1).tobytes(),
    }
    for offset in range(3):  # base64 of a text that holds the word depends on where it stands in it
        first, last = -(-offset * 8 // 6), (offset + len(plain)) * 8 // 6
        found[f"base64 {offset}"] = base64.b64encode(bytes(offset) + plain)[first:last]
    return found


def contents(name: str, data: bytes, depth: int = 0) -> Iterator[tuple[str, bytes]]:
    """Yield a file's bytes, and those of everything packed in it, with a name for each."""
    yield name, data
    if depth > 3:
        return
    for kind, unpacked in _unpacked(data):
        yield from contents(f"{name}!{kind}", unpacked, depth + 1)


def _unpacked(data: bytes) -> Iterator[tuple[str, bytes]]:
    if data[:2] == b"PK" and zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            yield "names", "\n".join(archive.namelist()).encode()
            for member in archive.namelist():
                yield member, archive.read(member)
    for magic, unpack in ((b"\x1f\x8b", gzip.decompress), (b"BZh", bz2.decompress), (b"\xfd7zXZ", lzma.decompress)):
        if data.startswith(magic):
            yield "unpacked", unpack(data)
    if data[:4] == b"PAR1":
        table = pq.read_table(io.BytesIO(data))
        yield "table", "\n".join(str(v) for c in table.columns for v in c.unique().to_pylist()).encode()
    if data[:4] == b":W&B":
        yield "records", _wandb(data[7:])
    if data[:4] == b"\x89PNG":
        for match in re.finditer(rb"(?:zTXt|iTXt|IDAT)(.*?)(?=....(?:IDAT|IEND|tEXt|zTXt|iTXt))", data, re.DOTALL):
            yield from _inflated(match.group(1))
    for match in re.finditer(rb"\x78[\x01\x9c\xda]", data[:64]):
        yield from _inflated(data[match.start() :])


def _inflated(data: bytes) -> Iterator[tuple[str, bytes]]:
    try:
        yield "inflated", zlib.decompressobj().decompress(data)
    except zlib.error:
        return


def _wandb(data: bytes) -> bytes:
    """Join the records of a wandb file, so that no word is cut in two by the header of a block."""
    body, position = b"", 0
    while position + 7 <= len(data):
        left = BLOCK - (position + 7) % BLOCK  # the file's own header belongs to the first block
        if left < 7:
            position += left
            continue
        length = int.from_bytes(data[position + 4 : position + 6], "little")
        body += data[position + 7 : position + 7 + length]
        position += 7 + length
    return body


def leaks(root: Path, words: dict[str, str]) -> list[str]:
    """Return where below a folder a word stands, in file names and in files.

    Args:
        root: The folder.
        words: What to look for, by what it is.
    """
    found = []
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        parts = [("name", name.encode())]
        if path.is_file() and not path.is_symlink():
            parts += contents(name, path.read_bytes())
        for kind, word in words.items():
            for form, needle in forms(word).items():
                found += [f"{part}: {kind} as {form}" for part, data in parts if needle in data]
    return found
