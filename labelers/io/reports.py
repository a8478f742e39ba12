"""Reports in: CSV, Parquet, JSONL, a folder of .txt files, Open-I XML in a folder or a .tgz; one at a time, never all at once."""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import os
import re
import tarfile
import xml.etree.ElementTree as ElementTree
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol, TextIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from labelers.errors import InputError, UsageError, shown_columns
from labelers.io.files import check_readable
from labelers.io.text import NUL, decode, not_text, open_text, undecodable
from labelers.types import Report

__all__ = ["LONGEST", "checked_reports", "id_strings", "read_reports", "rows_of_columns", "rows_of_csv"]

TEXT_COLUMNS = ("text", "report", "report_text")
ID_COLUMNS = ("report_id", "study_id", "id")
LONGEST = 2**22
"""Characters of a report, and bytes of a file that is one, at the most: beyond that a quote was left open, or the file is a bomb."""
BATCH_ROWS = 1024
"""Rows of a Parquet file that are in memory at a time."""
csv.field_size_limit(2**31 - 1)


def read_reports(path: str | Path, text_column: str | None = None, id_column: str | None = None) -> Iterator[Report]:
    """Yield the reports of a file or folder in their order.

    Args:
        path: A .csv, .parquet, .jsonl, .tgz or .tar.gz file, or a folder of .txt or .xml files. In an archive or folder of
            Open-I XML the id is ``uId/@id`` and every section stands under its own header.
        text_column: Column (or JSON key) of the text; by default the first of text, report, report_text.
        id_column: Column of the id; by default the first of report_id, study_id, id.

    Raises:
        InputError: The file is missing or of an unknown kind, a column is missing, bytes are no text, a row or an XML
            file is broken, a report is longer than ``LONGEST``, a link leads out of the folder, or an id stands twice. The
            message names file and row.
        UsageError: A column for reports that stand in no columns.
    """
    path = Path(path)
    return _unique(_reports(path, text_column, id_column), path)


def checked_reports(reports: Iterable[Report], path: Path) -> Iterator[Report]:
    """Yield reports that a labeler has read by itself, held to what holds for all: ids that are there, once each, and text.

    Raises:
        InputError: Likewise; the message names the file and the number of the report in it.
    """
    return _unique(((f"report {number}", report) for number, report in enumerate(reports, start=1)), path)


def _reports(path: Path, text_column: str | None, id_column: str | None) -> Iterator[tuple[str, Report]]:
    """Yield (where it stands, report)."""
    name = path.name.lower()
    archive = name.endswith((".tgz", ".tar.gz"))
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; give a CSV, Parquet, JSONL, .tgz or folder of reports")
    if (archive or path.is_dir()) and (text_column is not None or id_column is not None):
        raise UsageError(
            f"{path}: --text-column and --id-column are for reports in columns, a folder or archive has none; leave them out"
        )
    if path.is_dir():
        return _from_folder(path)
    if not path.is_file():
        raise InputError(f"{path}: expected a file or folder, it is a device or a pipe; write the reports into a file")
    if archive:
        return _from_archive(path)
    if name.endswith(".csv"):
        return _from_csv(path, text_column, id_column)
    if name.endswith(".parquet"):
        return _from_parquet(path, text_column, id_column)
    if name.endswith(".jsonl"):
        return _from_jsonl(path, text_column, id_column)
    raise InputError(
        f"{path}: expected .csv, .parquet, .jsonl, .tgz, .tar.gz or a folder of .txt or .xml files, got '{path.suffix}'"
    )


def _unique(reports: Iterable[tuple[str, Report]], path: Path) -> Iterator[Report]:
    seen: dict[str, str] = {}
    try:
        for where, report in reports:
            _check(report, f"{path}, {where}")
            if report.report_id in seen:
                raise InputError(
                    f"{path}, {where}: the report id of {seen[report.report_id]} again; ids must be unique, remove or rename one"
                )
            seen[report.report_id] = where
            yield report
    except OSError as error:
        raise InputError(
            f"{error.filename or path}: cannot be read ({error.strerror or type(error).__name__}); check the file and its permissions"
        ) from None


def _check(report: Report, where: str) -> None:
    if not report.report_id.strip():
        raise InputError(f"{where}: the report id is empty; give every report an id of its own")
    try:
        report.report_id.encode()
    except UnicodeEncodeError:
        raise InputError(f"{where}: the report id holds half a character (a lone surrogate); correct the id") from None
    if NUL in report.text or NUL in report.report_id:
        raise not_text(where)
    _check_length(len(report.text), where, "characters")


def _check_length(length: int, where: str, unit: str) -> None:
    if length > LONGEST:
        raise InputError(
            f"{where}: expected a report of at most {LONGEST:,} {unit}, got {length:,}; it is no report, or a quote was left open"
        )


def _column(given: str | None, defaults: Sequence[str], columns: Sequence[str], where: str | Path, what: str) -> str:
    """Choose a column; the option's name stands in the error."""
    if given is not None:
        if given in columns:
            return given
        expected = f"the {what} column '{given}'"
    else:
        for name in defaults:
            if name in columns:
                return name
        expected = f"a {what} column ({', '.join(defaults)})"
    raise InputError(f"{where}: expected {expected}, the columns are: {shown_columns(columns)}; name it with --{what}-column")


def rows_of_csv(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of the row's first line, fields) of a CSV, or of one in gzip (.gz), header first.

    The separator is the first of comma, semicolon, tab and bar that stands outside quotes in the header; a byte order mark (of
    UTF-8 or UTF-16) and spaces around the header's names are dropped.

    Raises:
        InputError: The file is empty, a column stands twice, a row has another number of fields than the header, or bytes
            are no text.
    """
    try:
        with open_text(path, newline="") as file:
            head = file.readline(LONGEST)
            if not head.strip():
                raise InputError(f"{path}: expected a header in the first line, it is empty; write the column names first")
            bare = re.sub('"[^"]*"', "", head)
            delimiter = next((d for d in ",;\t|" if d in bare), ",")
            file.seek(0)
            yield from _checked_rows(csv.reader(_without_nul(_lines(file, path), path), delimiter=delimiter, strict=True), path)
    except UnicodeDecodeError:
        raise undecodable(path) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: not a whole gzip file ({type(error).__name__}); fetch it again") from None
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror or type(error).__name__}); check the file and its permissions"
        ) from None


def _lines(file: TextIO, path: Path) -> Iterable[str]:
    """The lines; one that was packed is no longer than a report may be, since a small file can unpack to an endless one."""
    return _bounded(file, path) if path.suffix.lower() == ".gz" else file


def _bounded(file: TextIO, path: Path) -> Iterator[str]:
    number = 0
    while line := file.readline(LONGEST + 1):
        number += 1
        _check_length(len(line), f"{path}, line {number}", "characters")
        yield line


def _without_nul(lines: Iterable[str], path: Path) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        if NUL in line:
            raise not_text(f"{path}, line {number}")
        yield line


class _Reader(Protocol):
    line_num: int

    def __iter__(self) -> Iterator[list[str]]: ...


def _checked_rows(reader: _Reader, path: Path) -> Iterator[tuple[int, list[str]]]:
    header: list[str] | None = None
    first = 1
    try:
        for row in reader:
            if header is None:
                header = row = [name.strip() for name in row]
                _check_header(header, path)
            elif row and len(row) != len(header):
                raise InputError(
                    f"{path}, line {first}: expected {len(header)} fields as in the header, got {len(row)}; "
                    "quote fields that hold the separator or a line end"
                )
            if row:
                yield first, row
            first = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}, row that starts in line {first}: not a CSV row ({error}); check its quotes") from None


def _check_header(names: Sequence[str], path: Path) -> None:
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice == [""]:
        raise InputError(f"{path}: two columns of the header have no name; name them or remove them")
    if twice:
        raise InputError(f"{path}: two columns of the header have one name ({shown_columns(names, twice)}); rename one")


def _from_csv(path: Path, text_column: str | None, id_column: str | None) -> Iterator[tuple[str, Report]]:
    rows = rows_of_csv(path)
    _, header = next(rows)
    text = header.index(_column(text_column, TEXT_COLUMNS, header, path, "text"))
    key = header.index(_column(id_column, ID_COLUMNS, header, path, "id"))
    for line, row in rows:
        yield f"line {line}", Report(row[key], row[text])


def _from_parquet(path: Path, text_column: str | None, id_column: str | None) -> Iterator[tuple[str, Report]]:
    check_readable(path)
    try:
        with pq.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            _check_header(columns, path)
            text = _column(text_column, TEXT_COLUMNS, columns, path, "text")
            key = _column(id_column, ID_COLUMNS, columns, path, "id")
            first = 1
            for batch in file.iter_batches(BATCH_ROWS, columns=list(dict.fromkeys([key, text]))):
                where = f"{path}, rows {first} to {first + len(batch) - 1}"
                pairs = zip(_ids(batch, key, where), _texts(batch, text, where), strict=True)
                for row, (i, t) in enumerate(pairs, start=first):
                    yield f"row {row}", Report(i or "", t or "")
                first += len(batch)
    except InputError:
        raise
    except (pa.ArrowException, OSError, ValueError):  # ValueError: names of columns that are not UTF-8
        raise InputError(f"{path}: not a readable Parquet file; write it again") from None


def id_strings(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Turn ids into strings, null where there is none; whole numbers that were stored as floats keep their digits.

    Raises:
        pa.ArrowException: Neither strings nor numbers, or a float that is no whole number, such as nan.
    """
    return (column.cast(pa.int64()) if pa.types.is_floating(column.type) else column).cast(pa.string())


def _ids(batch: pa.RecordBatch, column: str, where: str) -> list[str | None]:
    try:
        return list(id_strings(batch.column(column)).to_pylist())
    except pa.ArrowException:
        raise InputError(
            f"{where}: expected strings or whole numbers in the column '{column}'; write the ids as strings"
        ) from None
    except UnicodeDecodeError:
        raise _strings_not_utf8(column, where) from None


def _texts(batch: pa.RecordBatch, column: str, where: str) -> list[str | None]:
    values = batch.column(column)
    wrong = InputError(f"{where}: expected strings in the column '{column}'; name another with --text-column")
    if pa.types.is_primitive(values.type) or pa.types.is_decimal(values.type):
        raise wrong
    try:
        return list(values.cast(pa.string()).to_pylist())
    except pa.ArrowException:
        raise wrong from None
    except UnicodeDecodeError:
        raise _strings_not_utf8(column, where) from None


def _strings_not_utf8(column: str, where: str) -> InputError:
    return InputError(f"{where}, column '{column}': bytes that are not UTF-8; write the file again as UTF-8")


def _from_jsonl(path: Path, text_column: str | None, id_column: str | None) -> Iterator[tuple[str, Report]]:
    try:
        with open_text(path, newline="\n") as file:
            for number, line in enumerate(file, start=1):
                if not line.isspace():
                    yield f"line {number}", _from_json(line, text_column, id_column, f"{path}, line {number}")
    except UnicodeDecodeError:
        raise undecodable(path) from None


def _from_json(line: str, text_column: str | None, id_column: str | None, where: str) -> Report:
    record = _json_object(line, where)
    text = record[_column(text_column, TEXT_COLUMNS, list(record), where, "text")]
    key = record[_column(id_column, ID_COLUMNS, list(record), where, "id")]
    if not isinstance(text, str | None) or not isinstance(key, str | int) or isinstance(key, bool):
        raise InputError(f"{where}: expected a string text and a string or integer id; correct the types")
    return Report(str(key), text or "")


def _json_object(line: str, where: str) -> dict[str, Any]:
    if NUL in line:
        raise not_text(where)
    try:
        record = json.loads(line.removeprefix("\ufeff"), object_pairs_hook=_object)
    except _KeyTwice:
        raise InputError(f"{where}: two keys of an object have one name; remove one") from None
    except (ValueError, RecursionError):
        raise InputError(f"{where}: not a JSON value; write one object a line") from None
    if not isinstance(record, dict):
        raise InputError(f"{where}: expected a JSON object, got a {type(record).__name__}; write one object a line")
    return record


class _KeyTwice(ValueError):
    """A JSON object has one key twice, and nobody can know which value is meant."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise _KeyTwice
    return record


def _from_folder(path: Path) -> Iterator[tuple[str, Report]]:
    files = sorted(_files_in(path))
    suffixes = {p.suffix.lower() for p in files}
    if len(suffixes) != 1:
        found = "none" if not files else "both"
        raise InputError(f"{path}: expected a folder of .txt files or a folder of Open-I .xml files, found {found}")
    for file in files:
        name = str(file.relative_to(path))
        where = f"{path}, {name}"
        _check_length(file.stat().st_size, where, "bytes")
        data = file.read_bytes()
        yield name, _open_i(data, where) if file.suffix.lower() == ".xml" else Report(file.stem, decode(data, where))


def _files_in(root: Path) -> Iterator[Path]:
    """Yield the .txt and .xml files below a folder, and leave none out in silence: a link out of the folder is an error."""

    def stop(error: OSError) -> NoReturn:
        raise error

    real = os.path.realpath(root)
    for folder, subfolders, names in os.walk(root, onerror=stop):
        reports = [Path(folder, name) for name in names if name.lower().endswith((".txt", ".xml"))]
        for path in (*reports, *(Path(folder, name) for name in subfolders)):
            if path.is_symlink() and os.path.commonpath([real, os.path.realpath(path)]) != real:
                raise InputError(
                    f"{root}, {path.relative_to(root)}: a link that leads out of the folder; put the file itself there"
                )
        for path in reports:
            if not path.is_file():
                raise InputError(
                    f"{root}, {path.relative_to(root)}: expected a file, it is a link to nothing or a device; remove it"
                )
        yield from reports


class _Metered:
    """A stream from which no more than ``left`` bytes can be read, so that nothing small unpacks to something endless."""

    def __init__(self, file: gzip.GzipFile, path: Path) -> None:
        self._file, self._path, self.left = file, path, LONGEST

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self.left -= len(data)
        if self.left < 0:
            raise InputError(f"{self._path}: more than {LONGEST:,} bytes that belong to no file of the archive; fetch it again")
        return data


def _from_archive(path: Path) -> Iterator[tuple[str, Report]]:
    """Read the members one after another in memory; nothing is unpacked, so a member's name leads nowhere."""
    found = False
    check_readable(path)
    try:
        with gzip.open(path) as unpacked:
            content = _Metered(unpacked, path)
            with tarfile.open(fileobj=content, mode="r|") as archive:  # type: ignore[call-overload]  # it only reads
                for member in archive:
                    content.left = LONGEST + member.size
                    if member.name.lower().endswith(".xml") and not member.isdir():
                        found = True
                        yield member.name, _from_member(archive, member, f"{path}, {member.name}")
            while content.read(2**20):  # tarfile takes a cut header for the end; gzip's own length and checksum do not
                pass
    except InputError:
        raise
    except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a whole .tgz archive ({type(error).__name__}); fetch it again") from None
    if not found:
        raise InputError(f"{path}: expected Open-I .xml files in the archive, found none")


def _from_member(archive: tarfile.TarFile, member: tarfile.TarInfo, where: str) -> Report:
    stream = archive.extractfile(member) if member.isfile() else None
    if stream is None:
        raise InputError(f"{where}: expected a file, it is a link or a device; pack the archive with the files themselves")
    _check_length(member.size, where, "bytes")
    return _open_i(stream.read(), where)


def _open_i(data: bytes, where: str) -> Report:
    """Read one Open-I report; its sections become one text, each under its header, so that offsets have something to count in."""
    if b"<!DOCTYPE" in data.replace(b"\0", b""):  # UTF-16 has a NUL beside each of these letters, other encodings none
        raise InputError(
            f"{where}: a document type (<!DOCTYPE ...>), which Open-I's reports have not and which can declare entities; remove it"
        )
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise InputError(f"{where}: not well-formed XML (line {error.position[0]}); fetch it again") from None
    except (LookupError, ValueError):
        raise InputError(f"{where}: expected XML in UTF-8, it declares an encoding that cannot be read; convert it") from None
    identifier = root.find(".//uId")
    if identifier is None or not identifier.get("id"):
        raise InputError(f"{where}: expected an Open-I report with uId/@id, found none")
    sections = ((node.get("Label") or "", "".join(node.itertext())) for node in root.iter("AbstractText"))
    lines = [f"{label.upper()}: {' '.join(text.split())}" for label, text in sections if text.strip()]
    return Report(str(identifier.get("id")), "\n".join(lines))


def rows_of_columns(path: Path, columns: Sequence[str], advice: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield (where a row stands, its cells of some columns as text) of a table that holds no reports.

    Numbers of Parquet and JSON become text, and nothing (null, nan) the empty text.

    Args:
        path: A .csv, .csv.gz, .parquet, .jsonl or .json file; the latter two hold one JSON object a line.
        columns: Names of columns, or keys.
        advice: What to do where one is missing.

    Raises:
        InputError: The file is missing or broken, or a column is; the message names file and row.
    """
    name = path.name.lower()
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a .csv, .csv.gz, .parquet, .jsonl or .json (lines) file")
    if name.endswith((".csv", ".csv.gz")):
        return _cells_of_csv(path, columns, advice)
    if name.endswith(".parquet"):
        return _cells_of_parquet(path, columns, advice)
    if name.endswith((".jsonl", ".json")):
        return _cells_of_json(path, columns, advice)
    raise InputError(f"{path}: expected a .csv, .csv.gz, .parquet, .jsonl or .json (lines) file, got '{path.suffix}'")


def _check_columns(wanted: Sequence[str], found: Sequence[str], where: str | Path, advice: str) -> None:
    missing = [name for name in wanted if name not in found]
    if missing:
        raise InputError(
            f"{where}: expected the columns {', '.join(missing)}, which are missing; the columns are: {shown_columns(found)}; {advice}"
        )


def _cells_of_csv(path: Path, columns: Sequence[str], advice: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    rows = rows_of_csv(path)
    _, header = next(rows)
    _check_columns(columns, header, path, advice)
    places = [header.index(name) for name in columns]
    for line, row in rows:
        yield f"line {line}", tuple([row[place] for place in places])


def _cells_of_parquet(path: Path, columns: Sequence[str], advice: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    check_readable(path)
    names = list(dict.fromkeys(columns))
    first = 1
    try:
        with pq.ParquetFile(path) as file:
            _check_header(file.schema_arrow.names, path)
            _check_columns(columns, file.schema_arrow.names, path, advice)
            for batch in file.iter_batches(BATCH_ROWS, columns=names):
                where = f"{path}, rows {first} to {first + len(batch) - 1}"
                cells = {name: _strings(batch.column(name), name, where) for name in names}
                for row, values in enumerate(zip(*(cells[name] for name in columns), strict=True), start=first):
                    yield f"row {row}", values
                first += len(batch)
    except InputError:
        raise
    except (pa.ArrowException, OSError, ValueError):
        raise InputError(f"{path}: not a readable Parquet file; write it again") from None


def _strings(values: pa.Array, column: str, where: str) -> list[str]:
    try:
        if pa.types.is_floating(values.type):
            values = pc.if_else(pc.is_nan(values), None, values)
            with contextlib.suppress(pa.ArrowInvalid):  # whole numbers that were stored as floats keep their digits
                values = values.cast(pa.int64())
        return [text or "" for text in values.cast(pa.string()).to_pylist()]
    except pa.ArrowException:
        raise InputError(f"{where}: expected text or numbers in the column '{column}'; write it as text") from None
    except UnicodeDecodeError:
        raise _strings_not_utf8(column, where) from None


def _cells_of_json(path: Path, columns: Sequence[str], advice: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    try:
        with open_text(path, newline="\n") as file:
            for number, line in enumerate(file, start=1):
                if not line.isspace():
                    where = f"{path}, line {number}"
                    record = _json_object(line, where)
                    _check_columns(columns, list(record), where, advice)
                    values = [record[name] for name in columns]
                    if not all(isinstance(value, str | int | float | None) for value in values):
                        raise InputError(
                            f"{where}: expected text or numbers under the keys {', '.join(columns)}; correct the types"
                        )
                    yield f"line {number}", tuple(["" if value is None or value != value else str(value) for value in values])
    except UnicodeDecodeError:
        raise undecodable(path) from None
