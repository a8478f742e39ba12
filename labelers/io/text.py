"""Bytes that are text: UTF-8, or UTF-16 where a byte order mark says so; anything else is named, and never guessed."""

from __future__ import annotations

import codecs
import gzip
import io
from pathlib import Path
from typing import BinaryIO, TextIO, cast

from labelers.errors import InputError

__all__ = ["NUL", "decode", "not_text", "open_text", "undecodable"]

NUL = "\0"
"""Stands in no text; a file that holds it is damaged (zeros after a power cut), UTF-16 without its mark, or no text at all."""
_CHUNK = 2**16


def _encoding(start: bytes) -> str:
    return "utf-16" if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"


def decode(data: bytes, where: str | Path) -> str:
    """Decode the bytes of a whole file; a byte order mark is dropped.

    Args:
        data: The bytes.
        where: What an error calls them.

    Raises:
        InputError: They are neither UTF-8 nor UTF-16 with a byte order mark, or hold a NUL; the message names the line.
    """
    try:
        text = data.decode(_encoding(data))
    except UnicodeDecodeError as error:
        raise _not_utf8(where, 1 + _lines_before(error)) from None
    nul = text.find(NUL)
    if nul >= 0:
        raise not_text(f"{where}, line {text.count(chr(10), 0, nul) + 1}")
    return text


def open_text(path: Path, newline: str) -> TextIO:
    """Open a text file, or one in gzip (.gz), for reading; a ``UnicodeDecodeError`` is to be turned into ``undecodable``'s error."""
    with _open_bytes(path) as file:
        start = file.read(2)
    return io.TextIOWrapper(_open_bytes(path), encoding=_encoding(start), newline=newline)


def _open_bytes(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if path.suffix.lower() == ".gz" else path.open("rb")


def undecodable(path: Path) -> InputError:
    """Build the error for a text file whose bytes are not what they should be, with the line of the first of them."""
    line = 1
    with _open_bytes(path) as file:
        chunk = file.read(_CHUNK)
        decoder = codecs.getincrementaldecoder(_encoding(chunk))()
        while chunk:
            try:
                line += decoder.decode(chunk).count("\n")
            except UnicodeDecodeError as error:
                line += _lines_before(error)
                break
            chunk = file.read(_CHUNK)
    return _not_utf8(path, line)


def not_text(where: str | Path) -> InputError:
    """Build the error for a NUL."""
    return InputError(f"{where}: a NUL character, which no text holds; the file is damaged or no text: save it as UTF-8")


def _not_utf8(where: str | Path, line: int) -> InputError:
    return InputError(f"{where}, line {line}: bytes that are not UTF-8; save the file as UTF-8")


def _lines_before(error: UnicodeDecodeError) -> int:
    return error.object[: error.start].decode(error.encoding, "replace").count("\n")
