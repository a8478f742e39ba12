"""LabelTables and gold in; every row is checked, and a broken one is named by file and row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from labelers.errors import InputError
from labelers.io.reports import ID_COLUMNS, rows_of_csv
from labelers.io.writing import CHEXPERT, METADATA_KEY, SCHEMA_VERSION
from labelers.types import STATES, UNMENTIONED, Evidence, Finding, LabelTable, Vocabulary

__all__ = ["Gold", "read_gold", "read_table"]

LONG_COLUMNS = ("report_id", "finding", "state", "probability", "uncertainty", "source")
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


def read_gold(path: str | Path) -> Gold:
    """Read a gold CSV: an id column (report_id, study_id or id), then one column a finding holding 1, 0 or nothing.

    Raises:
        InputError: Another value in a cell, an id twice, no id column, or no finding.
    """
    path = Path(path)
    header, rows, lines = _read_csv(path)
    name = next((n for n in ID_COLUMNS if n in header), None)
    if name is None:
        raise InputError(f"{path}: expected an id column ({', '.join(ID_COLUMNS)}), the first columns are: {', '.join(header[:8])}")
    key = header.index(name)
    columns = [c for c in range(len(header)) if c != key]
    if not columns or not rows:
        raise InputError(f"{path}: expected one row a report and one column a finding, found {len(rows)} rows, {len(columns)} findings")
    values = {"1": 1.0, "0": 0.0, "": np.nan, "1.0": 1.0, "0.0": 0.0}
    truth = np.empty((len(rows), len(columns)), np.float32)
    for r, row in enumerate(rows):
        for k, c in enumerate(columns):
            value = values.get(row[c].strip())
            if value is None:
                raise InputError(f"{path}, line {lines[r]}, column '{header[c]}': expected 1, 0 or nothing; correct the cell")
            truth[r, k] = value
    ids = _unique_ids([row[key] for row in rows], path, lines)
    return Gold(ids, tuple(header[c] for c in columns), truth)


def read_table(path: str | Path) -> LabelTable:
    """Read a LabelTable: long Parquet or CSV, wide, or CheXpert's layout, told apart by their columns.

    Cells that a sparse file leaves out are unmentioned, with the probabilities that its metadata give.

    Raises:
        InputError: The file cannot be read, holds several labelers, an unknown state or finding, a probability outside
            [0, 1], or a cell twice.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such label table; write one with 'labelers run'")
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path)
    if path.suffix.lower() == ".csv":
        return _read_csv_table(path)
    raise InputError(f"{path}: expected a label table that ends in .parquet or .csv, got '{path.suffix}'")


def _read_csv(path: Path) -> tuple[list[str], list[list[str]], list[int]]:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    rows = rows_of_csv(path)
    _, header = next(rows)
    body = list(rows)
    return header, [row for _, row in body], [line for line, _ in body]


def _unique_ids(ids: Sequence[str], path: Path, lines: Sequence[int]) -> NDArray[np.object_]:
    seen: dict[str, int] = {}
    for report_id, line in zip(ids, lines, strict=True):
        if report_id in seen:
            raise InputError(f"{path}, row {line}: the report id of row {seen[report_id]} again; ids must be unique, remove one")
        seen[report_id] = line
    return np.asarray(ids, object)


def _read_parquet(path: Path) -> LabelTable:
    try:
        data = pq.read_table(path)
    except (pa.ArrowException, OSError):
        raise InputError(f"{path}: not a readable Parquet file; write it again") from None
    names = data.column_names
    if not set(LONG_COLUMNS) <= set(names):
        columns = {n: ["" if v is None else str(v) for v in data.column(n).to_pylist()] for n in names}
        return _read_one_row_a_report(path, names, columns, list(range(1, data.num_rows + 1)))
    metadata = json.loads((data.schema.metadata or {}).get(METADATA_KEY, b"{}"))
    if metadata.get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
        raise InputError(
            f"{path}: expected schema version {SCHEMA_VERSION}, got {metadata['schema_version']}; write the table with this version"
        )
    columns = {n: data.column(n).to_numpy(zero_copy_only=False) for n in ("probability", "uncertainty")}
    for n in ("report_id", "finding", "state", "source"):
        columns[n] = _decoded(data.column(n))
    evidence = data.column("evidence").combine_chunks() if "evidence" in names else None
    return _assemble(path, columns, metadata, np.arange(1, data.num_rows + 1), _arrow_places(evidence))


def _decoded(column: pa.ChunkedArray) -> NDArray[np.object_]:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return np.asarray(column.to_numpy(zero_copy_only=False), object)


def _read_csv_table(path: Path) -> LabelTable:
    header, rows, lines = _read_csv(path)
    columns = dict(zip(header, zip(*rows, strict=True), strict=True)) if rows else {n: () for n in header}
    if not set(LONG_COLUMNS) <= set(header):
        return _read_one_row_a_report(path, header, columns, lines)
    typed: dict[str, Any] = {n: np.array(columns[n], object) for n in ("report_id", "finding", "state", "source")}
    for name in ("probability", "uncertainty"):
        typed[name] = _floats(columns[name], path, name, lines)
    places = [] if "evidence" not in header else _json_places(columns["evidence"], path, lines)
    typed["finding"][typed["finding"] == ""] = None
    return _assemble(path, typed, {}, np.array(lines, np.int64), places)


def _floats(values: Sequence[str], path: Path, column: str, lines: Sequence[int]) -> NDArray[np.float32]:
    result = np.empty(len(values), np.float32)
    for i, value in enumerate(values):
        try:
            result[i] = float(value) if value else np.nan
        except ValueError:
            raise InputError(f"{path}, row {lines[i]}, column '{column}': expected a number; correct the cell") from None
    return result


_Place = tuple[int, int, int, str, str]  # row, start, end, state, cue


def _arrow_places(evidence: pa.ListArray | None) -> list[_Place]:
    if evidence is None or len(evidence) == 0:
        return []
    offsets = evidence.offsets.to_numpy()
    rows = np.repeat(np.arange(len(evidence)), np.diff(offsets))
    places = evidence.flatten()
    parts = [places.field(name).to_pylist() for name in ("start", "end", "state", "cue")]
    return list(zip(rows.tolist(), *parts, strict=True))


def _json_places(cells: Sequence[str], path: Path, lines: Sequence[int]) -> list[_Place]:
    places: list[_Place] = []
    for row, cell in enumerate(cells):
        try:
            for place in json.loads(cell or "[]"):
                places.append((row, int(place["start"]), int(place["end"]), str(place["state"]), str(place["cue"])))
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{path}, row {lines[row]}, column 'evidence': expected a JSON list of places; correct the cell") from None
    return places


def _assemble(
    path: Path, columns: dict[str, Any], metadata: dict[str, Any], lines: NDArray[np.int64], places: list[_Place]
) -> LabelTable:
    """Turn checked long rows into the dense table."""
    ids, report = _codes(columns["report_id"])
    named = np.array([f is not None for f in columns["finding"]], bool)
    vocabulary = _vocabulary(metadata, columns["finding"][named], path)
    finding = np.array([_column_of(vocabulary, f, path, line) for f, line in zip(columns["finding"], lines, strict=True)], np.int64)
    state = np.array([_state_of(s, path, line) for s, line in zip(columns["state"], lines, strict=True)], np.int8)
    _check_unit_interval(columns, named, path, lines)
    width = len(vocabulary)
    cell = report * width + finding
    _check_cells_once(cell[named], lines[named], path)
    blank = metadata.get("unmentioned") or {"probability": [BLANK_PROBABILITY] * width, "uncertainty": [_BLANK_UNCERTAINTY] * width}
    dense_state = np.full((len(ids), width), UNMENTIONED, np.int8)
    dense_state.ravel()[cell[named]] = state[named]
    dense = {}
    for name in ("probability", "uncertainty"):
        dense[name] = np.tile(np.asarray(blank[name], np.float32), (len(ids), 1))
        dense[name].ravel()[cell[named]] = columns[name][named]
    sources, _ = _codes(columns["source"])
    if len(sources) > 1:
        raise InputError(f"{path}: expected the table of one labeler, found {len(sources)} sources; write one file a labeler")
    return LabelTable(
        report_ids=np.asarray(ids, object),
        vocabulary=vocabulary,
        state=dense_state,
        probability=dense["probability"],
        uncertainty=dense["uncertainty"],
        source=sources[0] if sources else str(metadata.get("labeler", path.stem)),
        version=str(metadata.get("labeler_version", "1")),
        evidence=_evidence(places, cell),
        parents=tuple(metadata.get("parents", ())),
    )


_BLANK_UNCERTAINTY = float(-(BLANK_PROBABILITY * np.log2(BLANK_PROBABILITY) + (1 - BLANK_PROBABILITY) * np.log2(1 - BLANK_PROBABILITY)))


def _codes(values: Sequence[str]) -> tuple[list[str], NDArray[np.int64]]:
    """Return the distinct values in order of first appearance, and the code of each value."""
    codes: dict[str, int] = {}
    coded = np.fromiter((codes.setdefault(v, len(codes)) for v in values), np.int64, len(values))
    return list(codes), coded


def _vocabulary(metadata: dict[str, Any], findings: Sequence[str], path: Path) -> Vocabulary:
    if "vocabulary" not in metadata:
        return Vocabulary.of(_codes(findings)[0], name=path.stem)
    stored = metadata["vocabulary"]
    return Vocabulary(
        name=stored["name"],
        version=stored["version"],
        findings=tuple(Finding(f["name"], f["parent"]) for f in stored["findings"]),
        digest=stored["hash"],
    )


def _column_of(vocabulary: Vocabulary, finding: str | None, path: Path, line: int) -> int:
    if finding is None:
        return 0
    if finding not in vocabulary:
        raise InputError(f"{path}, row {line}: the finding '{finding}' is not in the table's vocabulary; remove the row or mend the metadata")
    return vocabulary.index(finding)


def _state_of(state: str, path: Path, line: int) -> int:
    if state not in STATES:
        raise InputError(f"{path}, row {line}: expected a state of {', '.join(STATES)}, got another; correct the cell")
    return STATES.index(state)


def _check_unit_interval(columns: dict[str, Any], named: NDArray[np.bool_], path: Path, lines: NDArray[np.int64]) -> None:
    for name in ("probability", "uncertainty"):
        values = columns[name]
        bad = named & ~((values >= 0) & (values <= 1))
        if bad.any():
            raise InputError(f"{path}, row {lines[bad][0]}, column '{name}': expected a number in [0, 1], got another; correct the cell")


def _check_cells_once(cells: NDArray[np.int64], lines: NDArray[np.int64], path: Path) -> None:
    order = np.argsort(cells, kind="stable")
    again = np.flatnonzero(np.diff(cells[order]) == 0)
    if len(again):
        first, second = lines[order[again[0]]], lines[order[again[0] + 1]]
        raise InputError(f"{path}, row {second}: the report and finding of row {first} again; remove one")


def _evidence(places: list[_Place], cell: NDArray[np.int64]) -> Evidence:
    if not places:
        return Evidence.empty()
    row, start, end, state, cue = zip(*places, strict=True)
    cells = cell[np.array(row)]
    order = np.argsort(cells, kind="stable")
    cues, codes = _codes(cue)
    return Evidence(
        cell=cells[order],
        start=np.array(start, np.int32)[order],
        end=np.array(end, np.int32)[order],
        state=np.array([STATES.index(s) for s in state], np.int8)[order],
        cue=codes.astype(np.int32)[order],
        cues=tuple(cues),
    )


def _read_one_row_a_report(path: Path, header: Sequence[str], columns: dict[str, Sequence[str]], lines: Sequence[int]) -> LabelTable:
    """Read the wide layout or CheXpert's."""
    if "report_id" not in header:
        raise InputError(f"{path}: expected a label table with the column 'report_id', the first columns are: {', '.join(header[:8])}")
    ids = _unique_ids(list(columns["report_id"]), path, lines)
    wide = [n for n in header if n + ":state" in header]
    if wide:
        state = np.array([[_state_of(s, path, i) for s, i in zip(columns[n + ":state"], lines, strict=True)] for n in wide], np.int8).T
        table = LabelTable.from_states(ids.tolist(), Vocabulary.of(wide, path.stem), state.reshape(len(ids), len(wide)), path.stem)
        probability = np.stack([_floats(columns[n], path, n, lines) for n in wide], axis=1)
        named = np.ones(len(ids), bool)
        for n, values in zip(wide, probability.T, strict=True):
            _check_unit_interval({"probability": values, "uncertainty": np.zeros(len(ids))}, named, path, np.array(lines, np.int64))
        return LabelTable(ids, table.vocabulary, table.state, probability, table.uncertainty, path.stem)
    names = [n for n in header if n in CHEXPERT]
    if not names:
        raise InputError(f"{path}: expected a label table (long, wide or CheXpert's columns), the first columns are: {', '.join(header[:8])}")
    codes = {"1.0": 0, "1": 0, "0.0": 1, "0": 1, "-1.0": 2, "-1": 2, "": 3}
    state = np.empty((len(ids), len(names)), np.int8)
    for k, n in enumerate(names):
        for r, value in enumerate(columns[n]):
            if value not in codes:
                raise InputError(f"{path}, row {lines[r]}, column '{n}': expected 1.0, 0.0, -1.0 or nothing; correct the cell")
            state[r, k] = codes[value]
    return LabelTable.from_states(ids.tolist(), Vocabulary.of(names, path.stem), state, path.stem)
