"""Reports in: CSV, Parquet, JSONL, a folder of .txt files, Open-I XML in a folder or a .tgz; one at a time, never all at once."""

from __future__ import annotations

import csv
import gzip
import json
import re
import tarfile
import xml.etree.ElementTree as ElementTree
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from labelers.errors import InputError, shown_columns
from labelers.types import Report

__all__ = ["read_reports", "rows_of_csv"]

TEXT_COLUMNS = ("text", "report", "report_text")
ID_COLUMNS = ("report_id", "study_id", "id")
csv.field_size_limit(2**31 - 1)


def read_reports(path: str | Path, text_column: str | None = None, id_column: str | None = None) -> Iterator[Report]:
    """Yield the reports of a file or folder in their order.

    Args:
        path: A .csv, .parquet, .jsonl, .tgz or .tar.gz file, or a folder of .txt or .xml files. In an archive or folder of
            Open-I XML the id is ``uId/@id`` and every section stands under its own header.
        text_column: Column (or JSON key) of the text; by default the first of text, report, report_text.
        id_column: Column of the id; by default the first of report_id, study_id, id.

    Raises:
        InputError: The file is missing or of an unknown kind, a column is missing, bytes are not UTF-8, a row or an XML
            file is broken, or an id stands twice. The message names file and row.
    """
    path = Path(path)
    return _unique(_reports(path, text_column, id_column), path)


def _reports(path: Path, text_column: str | None, id_column: str | None) -> Iterator[tuple[str, Report]]:
    """Yield (where it stands, report)."""
    name = path.name.lower()
    if path.is_dir():
        return _from_folder(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; give a CSV, Parquet, JSONL, .tgz or folder of reports")
    if name.endswith((".tgz", ".tar.gz")):
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
            _check_id(report.report_id, f"{path}, {where}")
            if report.report_id in seen:
                raise InputError(
                    f"{path}, {where}: the report id of {seen[report.report_id]} again; ids must be unique, remove or rename one"
                )
            seen[report.report_id] = where
            yield report
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror or type(error).__name__}); check the file and its permissions"
        ) from None


def _check_id(report_id: str, where: str) -> None:
    if not report_id:
        raise InputError(f"{where}: the report id is empty; give every report an id of its own")
    try:
        report_id.encode()
    except UnicodeEncodeError:
        raise InputError(f"{where}: the report id holds half a character (a lone surrogate); correct the id") from None


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
    """Yield (number of the row's first line, fields) of a CSV, header first.

    The separator is the first of comma, semicolon, tab and bar that stands outside quotes in the header; a byte order mark and
    spaces around the header's names are dropped.

    Raises:
        InputError: The file is empty, a column stands twice, a row has another number of fields than the header, or bytes
            are not UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            head = file.readline()
            if not head.strip():
                raise InputError(f"{path}: expected a header in the first line, it is empty; write the column names first")
            bare = re.sub('"[^"]*"', "", head)
            delimiter = next((d for d in ",;\t|" if d in bare), ",")
            file.seek(0)
            yield from _checked_rows(csv.reader(file, delimiter=delimiter, strict=True), path)
    except UnicodeDecodeError:
        raise InputError(f"{path}, line {_undecodable_line(path)}: bytes that are not UTF-8; save the file as UTF-8") from None
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror or type(error).__name__}); check the file and its permissions"
        ) from None


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
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise InputError(f"{path}: two columns of the header have one name ({shown_columns(twice)}); rename one")


def _undecodable_line(path: Path) -> int:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return 0


def _from_csv(path: Path, text_column: str | None, id_column: str | None) -> Iterator[tuple[str, Report]]:
    rows = rows_of_csv(path)
    _, header = next(rows)
    text = header.index(_column(text_column, TEXT_COLUMNS, header, path, "text"))
    key = header.index(_column(id_column, ID_COLUMNS, header, path, "id"))
    for line, row in rows:
        yield f"line {line}", Report(row[key], row[text])


def _from_parquet(path: Path, text_column: str | None, id_column: str | None) -> Iterator[tuple[str, Report]]:
    try:
        with pq.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            _check_header(columns, path)
            text = _column(text_column, TEXT_COLUMNS, columns, path, "text")
            key = _column(id_column, ID_COLUMNS, columns, path, "id")
            first = 1
            for batch in file.iter_batches(columns=list(dict.fromkeys([key, text]))):
                where = f"{path}, rows {first} to {first + len(batch) - 1}"
                pairs = zip(_strings(batch, key, where), _strings(batch, text, where), strict=True)
                for row, (i, t) in enumerate(pairs, start=first):
                    yield f"row {row}", Report(i or "", t or "")
                first += len(batch)
    except (pa.ArrowException, OSError):
        raise InputError(f"{path}: not a readable Parquet file; write it again") from None


def _strings(batch: pa.RecordBatch, column: str, where: str) -> list[str | None]:
    try:
        return list(batch.column(column).cast(pa.string()).to_pylist())
    except pa.ArrowException:
        raise InputError(f"{where}: expected strings in the column '{column}'; convert it to UTF-8 strings") from None
    except UnicodeDecodeError:
        raise InputError(f"{where}, column '{column}': bytes that are not UTF-8; write the file again as UTF-8") from None


def _from_jsonl(path: Path, text_column: str | None, id_column: str | None) -> Iterator[tuple[str, Report]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                record = json.loads(line.decode("utf-8-sig"))
            except UnicodeDecodeError:
                raise InputError(f"{where}: bytes that are not UTF-8; save the file as UTF-8") from None
            except (json.JSONDecodeError, RecursionError):
                raise InputError(f"{where}: not a JSON value; write one object a line") from None
            if not isinstance(record, dict):
                raise InputError(f"{where}: expected a JSON object with a text and an id, got a {type(record).__name__}")
            text = record[_column(text_column, TEXT_COLUMNS, list(record), where, "text")]
            key = record[_column(id_column, ID_COLUMNS, list(record), where, "id")]
            if not isinstance(text, str | None) or not isinstance(key, str | int) or isinstance(key, bool):
                raise InputError(f"{where}: expected a string text and a string or integer id; correct the types")
            yield f"line {number}", Report(str(key), text or "")


def _from_folder(path: Path) -> Iterator[tuple[str, Report]]:
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in (".txt", ".xml") and p.is_file())
    suffixes = {p.suffix.lower() for p in files}
    if len(suffixes) != 1:
        found = "none" if not files else "both"
        raise InputError(f"{path}: expected a folder of .txt files or a folder of Open-I .xml files, found {found}")
    for file in files:
        where = str(file.relative_to(path))
        if file.suffix.lower() == ".xml":
            with file.open("rb") as stream:
                yield where, _open_i(stream, f"{path}, {where}")
            continue
        try:
            yield where, Report(file.stem, file.read_bytes().decode("utf-8-sig"))
        except UnicodeDecodeError:
            line = _undecodable_line(file)
            raise InputError(f"{file}, line {line}: bytes that are not UTF-8; save the file as UTF-8") from None


def _from_archive(path: Path) -> Iterator[tuple[str, Report]]:
    found = False
    try:
        with gzip.open(path) as content, tarfile.open(fileobj=content, mode="r|") as archive:
            for member in archive:
                if not member.isfile() or not member.name.lower().endswith(".xml"):
                    continue
                stream = archive.extractfile(member)
                if stream is not None:
                    found = True
                    yield member.name, _open_i(stream, f"{path}, {member.name}")
            while content.read(2**20):  # tarfile takes a cut header for the end; gzip's own length and checksum do not
                pass
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise InputError(f"{path}: not a whole .tgz archive ({type(error).__name__}); fetch it again") from None
    if not found:
        raise InputError(f"{path}: expected Open-I .xml files in the archive, found none")


def _open_i(stream: IO[bytes], where: str) -> Report:
    """Read one Open-I report; its sections become one text, each under its header, so that offsets have something to count in."""
    try:
        root = ElementTree.parse(stream).getroot()
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
