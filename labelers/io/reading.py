"""LabelTables and gold in; every row is checked, and a broken one is named by file and row."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from labelers.errors import InputError, shown_columns
from labelers.io.files import check_readable
from labelers.io.reports import ID_COLUMNS, id_strings, rows_of_csv
from labelers.io.text import NUL, not_text
from labelers.io.writing import CHEXPERT, CHEXPERT_VALUES, METADATA_KEY, PLACE, SCHEMA_VERSION, TOLD_PLACE
from labelers.types import ATTRIBUTES, STATES, UNMENTIONED, Evidence, Finding, LabelTable, Vocabulary, binary_entropy

__all__ = ["Gold", "read_gold", "read_table"]

LONG_COLUMNS = ("report_id", "finding", "state", "probability", "uncertainty", "source")
_STATE_CODES = {state: code for code, state in enumerate(STATES)}
_PLACE_CODES = {state: code for state, code in _STATE_CODES.items() if code != UNMENTIONED}
_ONE_STATE = f"a state of {', '.join(STATES)}"
_NO_ID = ": the report id is empty; give every report an id of its own"
BLANK_PROBABILITY = 0.1
"""P(present) of an unmentioned cell where a file says none."""


@dataclass(frozen=True, eq=False)
class Gold:
    """Truth that somebody judged.

    Attributes:
        report_ids: R ids, each once.
        findings: K names.
        truth: 1 present, 0 absent, nan not judged, (R, K) float32.
    """

    report_ids: NDArray[np.object_]
    findings: tuple[str, ...]
    truth: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class _Column:
    """A column of texts: the distinct ones in the order in which they first stand, and which each row has.

    Long tables repeat themselves, and a text is looked at once: millions of rows cost no millions of strings.
    """

    codes: NDArray[np.integer[Any]]
    values: NDArray[np.object_]

    @classmethod
    def of(cls, texts: NDArray[np.object_]) -> _Column:
        codes, values = pd.factorize(texts)
        return cls(codes, np.asarray(values, object))

    def texts(self) -> NDArray[np.object_]:
        return np.asarray(self.values[self.codes], object)

    def where(self, holds: Callable[[str], bool]) -> NDArray[np.bool_]:
        """Rows whose text has a property."""
        return np.asarray(np.array([holds(text) for text in self.values], bool)[self.codes])


@dataclass(frozen=True, eq=False)
class _File:
    """Columns of a file as text, and where each row stands: the number of its first line in a CSV, of the row in Parquet."""

    path: Path
    columns: Mapping[str, _Column]
    lines: Sequence[int]
    unit: str

    @property
    def names(self) -> list[str]:
        return list(self.columns)

    def fail(self, bad: NDArray[np.bool_], message: str) -> None:
        """Raise for the first bad row, if any."""
        if bad.any():
            raise InputError(f"{self.path}, {self.unit} {self.lines[int(np.argmax(bad))]}{message}")


def read_gold(path: str | Path) -> Gold:
    """Read a gold CSV: an id column (report_id, study_id or id), then one column a finding holding 1, 0 or nothing.

    Raises:
        InputError: Another value in a cell, an id twice, no id column, or no finding.
    """
    _check_file(Path(path), "file", "give a gold CSV")
    file = _read_csv(Path(path))
    key = next((n for n in ID_COLUMNS if n in file.columns), None)
    if key is None:
        raise InputError(
            f"{path}: expected an id column ({', '.join(ID_COLUMNS)}), the columns are: {shown_columns(file.names)}; rename one"
        )
    findings = tuple(n for n in file.names if n != key)
    if not findings or not len(file.lines):
        raise InputError(
            f"{path}: expected one row a report and one column a finding, found {len(file.lines)} and {len(findings)}"
        )
    values = {"1": 1.0, "0": 0.0, "": np.nan, "1.0": 1.0, "0.0": 0.0}
    truth = [_mapped(file, n, values, np.float32, "1, 0 or nothing") for n in findings]
    return Gold(_unique_ids(file, key), findings, np.stack(truth, axis=1))


def read_table(path: str | Path, evidence: bool = True) -> LabelTable:
    """Read a LabelTable: long Parquet or CSV, wide, or CheXpert's layout, told apart by their columns.

    Cells that a sparse file leaves out are unmentioned, with the probabilities that its metadata give. The vocabulary is the
    file's own, of whatever version and hash: tables, gold and channels meet by the names of findings.

    Args:
        path: Ends in .parquet or .csv.
        evidence: Whether the places behind the labels are wanted; most of a large file is places.

    Raises:
        InputError: The file cannot be read, holds several labelers, an unknown state or finding, a probability outside
            [0, 1], or a cell twice.
    """
    path = Path(path)
    _check_file(path, "label table", "write one with 'labelers run'")
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path, evidence)
    if path.suffix.lower() != ".csv":
        raise InputError(f"{path}: expected a label table that ends in .parquet or .csv, got '{path.suffix}'")
    file = _read_csv(path)
    if not set(LONG_COLUMNS) <= set(file.names):
        return _one_row_a_report(file)
    _check_ids(file, "report_id")
    _check_dense(file)
    numbers = {n: _numbers(file, n) for n in ("probability", "uncertainty")}
    places = _json_places(file) if evidence and "evidence" in file.columns else _Places.of([])
    return _assemble(file, numbers, file.columns["finding"].where(bool), {}, places)


def _check_file(path: Path, what: str, advice: str) -> None:
    if not path.is_file():
        found = f"expected a {what}, it is a folder or a device" if path.exists() else f"no such {what}"
        raise InputError(f"{path}: {found}; {advice}")


def _read_csv(path: Path) -> _File:
    rows = rows_of_csv(path)
    _, header = next(rows)
    body = list(rows)
    cells = np.array([row for _, row in body], object).reshape(len(body), len(header))
    lines = [line for line, _ in body]
    return _File(path, {name: _Column.of(column) for name, column in zip(header, cells.T, strict=True)}, lines, "line")


def _read_parquet(path: Path, evidence: bool) -> LabelTable:
    check_readable(path)
    try:
        with pq.ParquetFile(path) as parquet:
            metadata, fields = parquet.metadata, parquet.schema_arrow
        ids = [f.name for f in fields if f.name == "report_id" and pa.types.is_string(f.type)]
        with pq.ParquetFile(path, metadata=metadata, read_dictionary=ids) as parquet:
            data = parquet.read([n for n in fields.names if evidence or n != "evidence"])
    except (pa.ArrowException, OSError, ValueError):  # ValueError: names of columns that are not UTF-8
        raise InputError(f"{path}: not a readable Parquet file; write it again") from None
    names = data.column_names
    if len(set(names)) < len(names):
        raise InputError(f"{path}: two columns have one name; rename one")
    long = set(LONG_COLUMNS) <= set(names)
    texts = ("report_id", "finding", "state", "source") if long else names
    columns = {n: _text(data.column(n), path, n) for n in texts if n != "report_id"}
    columns.update({n: _ids(data.column(n), path) for n in texts if n == "report_id"})
    file = _File(path, columns, range(1, data.num_rows + 1), "row")
    if not long:
        return _one_row_a_report(file)
    _check_ids(file, "report_id")
    stored = _metadata(data.schema.metadata or {}, path)
    numbers = {n: _floats(data.column(n), path, n) for n in ("probability", "uncertainty")}
    named = ~data.column("finding").is_null().to_numpy(zero_copy_only=False)
    places = _arrow_places(data.column("evidence"), path) if "evidence" in names else _Places.of([])
    return _assemble(file, numbers, named, stored, places)


def _metadata(raw: Mapping[bytes, bytes], path: Path) -> dict[str, Any]:
    try:
        metadata = json.loads(raw.get(METADATA_KEY, b"{}"))
        version, parents = metadata.get("schema_version", SCHEMA_VERSION), metadata.get("parents", [])
        if not isinstance(parents, list) or not all(isinstance(p, str) for p in parents):
            raise TypeError
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise InputError(f"{path}: the metadata are broken; write the table again") from None
    if version != SCHEMA_VERSION:
        raise InputError(f"{path}: expected schema version {SCHEMA_VERSION}, got another; write the table with this version")
    return dict(metadata)


def _text(column: pa.ChunkedArray, path: Path, name: str) -> _Column:
    try:
        codes, values = _dictionary(column)
    except (pa.ArrowException, UnicodeDecodeError):
        raise InputError(f"{path}: expected text or numbers in the column '{name}'; write the table again") from None
    texts = _in_order(codes, values)
    if NUL in "".join(texts.values):
        raise not_text(f"{path}, column '{name}'")
    return texts


def _in_order(codes: NDArray[np.integer[Any]], values: NDArray[np.object_]) -> _Column:
    """Bring texts into the order in which rows have them; a file may name one twice, or one that no row has."""
    first = np.full(len(values), len(codes))
    first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1, dtype=np.int32)  # the last to be set is the first row
    order = np.argsort(first, kind="stable")[: np.count_nonzero(first < len(codes))]
    again, kept = pd.factorize(values[order])
    number = np.zeros(len(values), np.int32)
    number[order] = again
    return _Column(number[codes], np.asarray(kept, object))


def _dictionary(column: pa.ChunkedArray) -> tuple[NDArray[np.integer[Any]], NDArray[np.object_]]:
    """Texts of the rows as positions in a list of texts; -1, the last of them, is "" and stands for null."""
    if column.type not in (pa.dictionary(pa.int32(), pa.string()), pa.dictionary(pa.int8(), pa.string())):
        column = column.cast(pa.string()).dictionary_encode()
    column = column.unify_dictionaries()
    texts = column.chunk(0).dictionary.fill_null("").to_pylist() if column.num_chunks else []
    codes = [chunk.indices.fill_null(-1).to_numpy(zero_copy_only=False) for chunk in column.chunks]
    return np.concatenate(codes) if codes else np.empty(0, np.int64), np.array([*texts, ""], object)


def _ids(column: pa.ChunkedArray, path: Path) -> _Column:
    try:
        return _text(column if pa.types.is_dictionary(column.type) else id_strings(column), path, "report_id")
    except pa.ArrowException:
        raise InputError(f"{path}: expected text or whole numbers in the column 'report_id'; write the table again") from None


def _floats(column: pa.ChunkedArray, path: Path, name: str) -> NDArray[np.float32]:
    try:
        return np.asarray(column.cast(pa.float32()).to_numpy(zero_copy_only=False), np.float32)
    except pa.ArrowException:
        raise InputError(f"{path}: expected numbers in the column '{name}'; write the table again") from None


def _numbers(file: _File, name: str) -> NDArray[np.float32]:
    column = file.columns[name]
    with np.errstate(over="ignore"):  # beyond float32 is infinite
        values = pd.to_numeric(pd.Series(column.values), errors="coerce").to_numpy(np.float64).astype(np.float32)
    file.fail((np.isnan(values) & (column.values != ""))[column.codes], f", column '{name}': expected a number; correct the cell")
    return np.asarray(values[column.codes])


def _mapped(
    file: _File, name: str, values: Mapping[str, float], dtype: Any, expected: str, rows: NDArray[np.bool_] | None = None
) -> NDArray[Any]:
    """Turn the texts of a column into numbers by a mapping; a text outside it is an error, in the rows that count."""
    column = file.columns[name]
    stripped = [str(text).strip() for text in column.values]
    strange = np.array([text not in values for text in stripped], bool)
    if strange.any():
        bad = strange[column.codes]
        file.fail(bad if rows is None else bad & rows, f", column '{name}': expected {expected}; correct the cell")
    return np.asarray(np.array([values.get(text, 0) for text in stripped], dtype)[column.codes])


def _check_ids(file: _File, name: str) -> None:
    column = file.columns[name]
    if not all(map(str.strip, column.values)):
        file.fail(column.where(lambda text: not text.strip()), _NO_ID)


def _unique_ids(file: _File, name: str) -> NDArray[np.object_]:
    column = file.columns[name]
    _check_ids(file, name)
    if len(column.values) < len(column.codes):
        again = pd.Series(column.codes).duplicated().to_numpy()
        first = file.lines[int(np.argmax(column.codes == column.codes[again][0]))]
        file.fail(again, f": the report id of {file.unit} {first} again; ids must be unique, remove one")
    return column.values


@dataclass(frozen=True, eq=False)
class _Places:
    """Evidence as parallel arrays: row in the file, start, end, code of the state, cue; attributes as in ``Evidence``."""

    row: NDArray[np.int64]
    start: NDArray[np.int32]
    end: NDArray[np.int32]
    state: NDArray[np.int8]
    cue: NDArray[np.object_]
    attributes: NDArray[np.int8] | None

    @classmethod
    def of(cls, places: list[tuple[int, int, int, int, str]], told: list[tuple[int, ...]] | None = None) -> _Places:
        row, start, end, state, cue = zip(*places, strict=True) if places else ((),) * 5
        return cls(
            np.array(row, np.int64),
            np.array(start, np.int32),
            np.array(end, np.int32),
            np.array(state, np.int8),
            np.array(cue, object),
            np.array(told, np.int8) if told else None,
        )


def _arrow_places(column: pa.ChunkedArray, path: Path) -> _Places:
    broken = InputError(f"{path}: expected lists of places in the column 'evidence'; write the table again")
    try:
        # Tables of other labelers, and earlier ones, tell no side, severity and change.
        told = pa.types.is_list(column.type) and column.type.value_type.num_fields > PLACE.num_fields
        kind = pa.list_(TOLD_PLACE if told else PLACE)
        evidence = pa.concat_arrays(column.cast(kind).chunks) if column.num_chunks else pa.array([], kind)
    except pa.ArrowException:
        raise broken from None
    places, lengths = evidence.flatten(), evidence.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    start, end = (places.field(n).fill_null(-1).to_numpy(zero_copy_only=False) for n in ("start", "end"))
    states = _codes(places.field("state"), STATES[:UNMENTIONED])
    nowhere = (start == 0) & (end == 0)  # a source of a fused table, which is no place in the text
    if (start < 0).any() or ((end <= start) & ~nowhere).any() or (states < 0).any():
        raise broken
    cue = np.asarray(places.field("cue").fill_null("").to_numpy(zero_copy_only=False), object)
    attributes = None
    if told:
        columns = [_codes(places.field(name), values) for name, values in ATTRIBUTES.items()]
        if any((codes < 0).any() for codes in columns):
            raise broken
        attributes = np.stack(columns, axis=1)
    held = np.flatnonzero(lengths)
    return _Places(np.repeat(held, lengths[held]), start, end, states, cue, attributes)


def _codes(column: pa.Array, values: Sequence[str]) -> NDArray[np.int8]:
    """Positions of strings in a list of values, -1 for others."""
    encoded = column.fill_null("").dictionary_encode()
    known = {value: code for code, value in enumerate(values)}
    codes = np.array([known.get(s, -1) for s in encoded.dictionary.to_pylist()], np.int8)
    return np.asarray(codes[encoded.indices.to_numpy(zero_copy_only=False)])


def _json_places(file: _File) -> _Places:
    places: list[tuple[int, int, int, int, str]] = []
    told: list[tuple[int, ...]] = []
    cells = file.columns["evidence"].texts()
    for row in np.flatnonzero((cells != "[]") & (cells != "")):
        try:
            for place in json.loads(cells[row]):
                start, end, state, cue = (place[n] for n in ("start", "end", "state", "cue"))
                if (
                    type(start) is not int
                    or type(end) is not int
                    or not (0 <= start < end < 2**31 or start == end == 0)
                    or not isinstance(cue, str)
                ):
                    raise ValueError
                places.append((int(row), start, end, _PLACE_CODES[state], cue))
                if ATTRIBUTES.keys() <= place.keys():
                    told.append(tuple(values.index(place[name]) for name, values in ATTRIBUTES.items()))
        except (ValueError, KeyError, TypeError, RecursionError):
            message = ", column 'evidence': expected a JSON list of places; correct the cell"
            file.fail(np.arange(len(file.lines)) == row, message)
    return _Places.of(places, told if len(told) == len(places) else None)


def _assemble(
    file: _File,
    numbers: Mapping[str, NDArray[np.float32]],
    named: NDArray[np.bool_],
    metadata: Mapping[str, Any],
    places: _Places,
) -> LabelTable:
    """Turn long rows into the dense table; rows that name no finding stand for a report of which nothing is said."""
    ids, finding = file.columns["report_id"].values, file.columns["finding"]
    vocabulary = _vocabulary(metadata, finding.values[pd.unique(finding.codes[named])], file.path)
    cell = file.columns["report_id"].codes * np.int64(len(vocabulary))
    cell += _finding_columns(file, named, vocabulary)
    state = _mapped(file, "state", _STATE_CODES, np.int8, _ONE_STATE, named)
    for name, values in numbers.items():
        file.fail(named & ~((values >= 0) & (values <= 1)), f", column '{name}': expected a number in [0, 1]; correct the cell")
    at = cell if named.all() else cell[named]
    _check_once(file, at, named, len(ids) * len(vocabulary))
    dense = _blank(metadata, len(ids), len(vocabulary), file.path)
    for name, values in {"state": state, **numbers}.items():
        dense[name].ravel()[at] = values if at is cell else values[named]
    sources = file.columns["source"].values
    if len(sources) > 1:
        raise InputError(
            f"{file.path}: expected the table of one labeler, found {len(sources)} sources; write one file a labeler"
        )
    return LabelTable(
        report_ids=np.asarray(ids, object),
        vocabulary=vocabulary,
        state=dense["state"],
        probability=dense["probability"],
        uncertainty=dense["uncertainty"],
        source=str(sources[0]) if len(sources) else str(metadata.get("labeler", file.path.stem)),
        version=str(metadata.get("labeler_version", "1")),
        evidence=_evidence(places, cell),
        parents=tuple(metadata.get("parents", ())),
    )


def _vocabulary(metadata: Mapping[str, Any], findings: NDArray[np.object_], path: Path) -> Vocabulary:
    if "vocabulary" not in metadata:
        return _named([str(f) for f in findings], path)
    stored = metadata["vocabulary"]
    try:
        name, version, digest = (stored[n] for n in ("name", "version", "hash"))
        if not all(isinstance(text, str) for text in (name, version, digest)):
            raise TypeError
        return Vocabulary(name, version, tuple(Finding(f["name"], f["parent"]) for f in stored["findings"]), digest)
    except (KeyError, TypeError, InputError):
        raise InputError(f"{path}: the vocabulary in the metadata is broken; write the table again") from None


def _named(findings: list[str], path: Path) -> Vocabulary:
    """Build a vocabulary from the names in a file, which are not repeated where they are none: they may be anything."""
    try:
        return Vocabulary.of(findings, name=path.stem)
    except InputError:
        raise InputError(
            f"{path}: expected findings named in words, on one line and without space around the name (neither 'report_id' nor "
            "NAME:state), found another name; correct it"
        ) from None


def _finding_columns(file: _File, named: NDArray[np.bool_], vocabulary: Vocabulary) -> NDArray[np.int32]:
    column = file.columns["finding"]
    strange = column.where(lambda name: name not in vocabulary)
    file.fail(named & strange, ": its finding is not in the table's vocabulary; remove the row, or write the table again")
    found = [vocabulary.index(name) if name in vocabulary else 0 for name in column.values]
    return np.asarray(np.array(found, np.int32)[column.codes])


def _check_once(file: _File, at: NDArray[np.int64], named: NDArray[np.bool_], cells: int) -> None:
    """Check that no cell stands twice: ``at`` has those of the named rows."""
    seen = np.zeros(cells, bool)
    seen[at] = True
    if np.count_nonzero(seen) < len(at):
        again = np.zeros(len(named), bool)
        again[named] = pd.Series(at).duplicated().to_numpy()
        file.fail(again, ": its report and finding stand in an earlier row too; remove one")


def _check_dense(file: _File) -> None:
    """A CSV says no vocabulary, so it must hold every finding for every report: a misspelt one is not a new one."""
    reports = len(file.columns["report_id"].values)
    named, codes = file.columns["finding"].where(bool), file.columns["finding"].codes
    count = np.bincount(codes, minlength=1)[codes]
    rarest = count.min(initial=reports, where=named)  # the likeliest to be misspelt
    file.fail(
        named & (count < reports) & (count == rarest),
        f": its finding does not stand for every one of the {reports} reports, and the file names no vocabulary; correct the name, or add the rows",
    )


def _blank(metadata: Mapping[str, Any], reports: int, findings: int, path: Path) -> dict[str, NDArray[Any]]:
    """Dense arrays in which everything is unmentioned."""
    probability = np.full(findings, BLANK_PROBABILITY, np.float32)
    stored = metadata.get("unmentioned") or {"probability": probability, "uncertainty": binary_entropy(probability)}
    dense: dict[str, NDArray[Any]] = {"state": np.full((reports, findings), UNMENTIONED, np.int8)}
    try:
        for name in ("probability", "uncertainty"):
            row = np.asarray(stored[name], np.float32)
            if row.shape != (findings,) or not ((row >= 0) & (row <= 1)).all():
                raise ValueError
            dense[name] = np.tile(row, (reports, 1))
    except (ValueError, KeyError, TypeError, OverflowError):
        raise InputError(f"{path}: the values of unmentioned cells in the metadata are broken; write the table again") from None
    return dense


def _evidence(places: _Places, cell: NDArray[np.int64]) -> Evidence:
    cells = cell[places.row]
    order = np.argsort(cells, kind="stable")
    codes, cues = pd.factorize(places.cue)
    return Evidence(
        cell=cells[order],
        start=places.start[order],
        end=places.end[order],
        state=places.state[order],
        cue=codes.astype(np.int32)[order],
        cues=tuple(str(c) for c in cues),
        attributes=None if places.attributes is None else places.attributes[order],
    )


def _one_row_a_report(file: _File) -> LabelTable:
    """Read the wide layout or CheXpert's."""
    if "report_id" not in file.columns:
        raise InputError(
            f"{file.path}: expected a label table with the column 'report_id', the columns are: {shown_columns(file.names)}; "
            "write one with 'labelers run'"
        )
    ids = _unique_ids(file, "report_id").tolist()
    wide = [n for n in file.names if n + ":state" in file.columns]
    names = wide or [n for n in file.names if n in CHEXPERT]
    if not names:
        raise InputError(
            f"{file.path}: expected a label table (long, wide or CheXpert's), the columns are: {shown_columns(file.names)}; "
            "write one with 'labelers run'"
        )
    read: Callable[[str], NDArray[Any]] = _wide_states(file) if wide else _chexpert_states(file)
    vocabulary = _named(names, file.path)
    table = LabelTable.from_states(ids, vocabulary, np.stack([read(n) for n in names], axis=1), file.path.stem)
    return _with_probability(table, file) if wide else table


def _wide_states(file: _File) -> Callable[[str], NDArray[Any]]:
    return lambda n: _mapped(file, n + ":state", _STATE_CODES, np.int8, _ONE_STATE)


def _chexpert_states(file: _File) -> Callable[[str], NDArray[Any]]:
    codes = {text: state for state, value in CHEXPERT_VALUES.items() for text in (value, value.removesuffix(".0"))}
    return lambda n: _mapped(file, n, codes, np.int8, "1.0, 0.0, -1.0 or nothing")


def _with_probability(table: LabelTable, file: _File) -> LabelTable:
    columns = []
    for name in table.vocabulary.names:
        values = _numbers(file, name)
        file.fail(~((values >= 0) & (values <= 1)), f", column '{name}': expected a number in [0, 1]; correct the cell")
        columns.append(values)
    probability = np.stack(columns, axis=1)
    return LabelTable(table.report_ids, table.vocabulary, table.state, probability, binary_entropy(probability), table.source)
