"""LabelTables out: long Parquet and CSV, wide, and CheXpert's own layout (contract of the label table)."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from labelers.errors import UsageError
from labelers.io.files import atomic_path
from labelers.types import ATTRIBUTES, NEGATIVE, POSITIVE, STATES, UNCERTAIN, UNMENTIONED, LabelTable, Vocabulary

__all__ = ["CHEXPERT", "PLACE", "SCHEMA_VERSION", "SourceOf", "TableWriter", "chexpert_states", "open_table", "write_table"]

Format = Literal["long", "wide", "chexpert"]
SCHEMA_VERSION = 1
METADATA_KEY = b"hybridpt"

CHEXPERT = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Lesion",
    "Lung Opacity",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
"""The 14 names in the order of the CheXpert labeler's output (Irvin et al. 2019, arXiv 1901.07031)."""
CHEXPERT_VALUES = {POSITIVE: "1.0", NEGATIVE: "0.0", UNCERTAIN: "-1.0", UNMENTIONED: ""}

PLACE = pa.struct([("start", pa.int32()), ("end", pa.int32()), ("state", pa.string()), ("cue", pa.string())])
TOLD_PLACE = pa.struct([*PLACE, *((name, pa.string()) for name in ATTRIBUTES)])
"""A place of a labeler that also tells side, severity and change; "" where it found none."""
_LONG = pa.schema(
    [
        ("report_id", pa.string()),
        ("finding", pa.dictionary(pa.int32(), pa.string())),
        ("state", pa.dictionary(pa.int8(), pa.string())),
        ("probability", pa.float32()),
        ("uncertainty", pa.float32()),
        ("source", pa.dictionary(pa.int8(), pa.string())),
        ("evidence", pa.list_(PLACE)),
    ]
)
_TOLD = _LONG.set(_LONG.get_field_index("evidence"), pa.field("evidence", pa.list_(TOLD_PLACE)))


def chexpert_states(table: LabelTable) -> NDArray[np.int8]:
    """States of the 14 CheXpert names, (R, 14) int8.

    The names hold what CheXpert's mention lists hold: a name is positive where it or a finding below it is, else uncertain
    where one is, else negative where one is. CheXpert's own tree is not applied.
    """
    rank = np.array([3, 1, 2, 0], np.int8)  # a positive outweighs an uncertain, that a negative, that silence
    state_of_rank = np.argsort(rank).astype(np.int8)
    findings = table.vocabulary.findings
    result = np.full((len(table), len(CHEXPERT)), UNMENTIONED, np.int8)
    for column, name in enumerate(CHEXPERT):
        members = [k for k in range(len(findings)) if name in _lineage(table.vocabulary, k)]
        if members:
            result[:, column] = state_of_rank[rank[table.state[:, members]].max(axis=1)]
    return result


def _lineage(vocabulary: Vocabulary, column: int) -> Iterator[str]:
    """Yield the name of a finding and of all above it."""
    name: str | None = vocabulary.findings[column].name
    while name is not None:
        yield name
        name = vocabulary.findings[vocabulary.index(name)].parent


@contextlib.contextmanager
def open_table(
    path: str | Path, labeler: Any, format: Format = "long", blank: LabelTable | None = None, told: bool = False
) -> Iterator[TableWriter]:
    """Open a file for the tables of one labeler; it appears under its name only when the block ends without an error.

    Args:
        path: Ends in .parquet or .csv.
        labeler: Anything with ``vocabulary``, ``name`` and ``version``.
        format: ``long`` (one row a report and finding), ``wide`` (one row a report) or ``chexpert``.
        blank: The labels of one empty text. With it, long Parquet leaves out unmentioned cells that equal it.
        told: Evidence has side, severity and change; so it has where ``blank`` has them.

    Raises:
        UsageError: Another suffix.
        InputError: The file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in (".parquet", ".csv"):
        raise UsageError(f"{path}: the output must end in .parquet or .csv, got '{path.suffix}'")
    with atomic_path(path) as temporary:
        told |= blank is not None and blank.evidence.attributes is not None
        writer = TableWriter(temporary, path.suffix.lower() == ".parquet", labeler, format, blank, told)
        try:
            yield writer
        finally:
            writer.close()


def write_table(table: LabelTable, path: str | Path, format: Format = "long") -> None:
    """Write one table whole, dense (every cell a row); raises as ``open_table``."""
    with open_table(path, SourceOf(table), format, told=table.evidence.attributes is not None) as writer:
        writer.write(table)


class SourceOf:
    """What a file says of where its labels come from, taken from a table."""

    def __init__(self, table: LabelTable) -> None:
        self.name, self.version, self.vocabulary, self.parents = table.source, table.version, table.vocabulary, table.parents


class TableWriter:
    """Writes the tables of one labeler one after another; made by ``open_table``.

    Attributes:
        encode: Turns tables of this labeler and vocabulary into the bytes that ``append`` takes; other processes can do that part.
    """

    def __init__(self, path: Path, parquet: bool, labeler: Any, format: Format, blank: LabelTable | None, told: bool) -> None:
        self._labeler = labeler
        self._blank = blank if parquet and format == "long" else None
        self.encode = _Encoder(labeler.vocabulary, parquet, format, self._blank, _TOLD if told else _LONG)
        self._parquet: pq.ParquetWriter | None = None
        self._hand = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None
        self._file = None if parquet else path.open("w", encoding="utf-8", newline="")
        if self._file is not None:
            csv.writer(self._file).writerow(self.encode.header())
        else:
            schema = self.encode.schema().with_metadata({METADATA_KEY: json.dumps(self._metadata()).encode()})
            counted = [name for name in schema.names if name != "evidence"]  # nobody looks for places by their least and greatest
            self._parquet = pq.ParquetWriter(path, schema, compression="zstd", write_statistics=counted)

    def write(self, table: LabelTable) -> None:
        """Append the rows of a table of this labeler and vocabulary; Parquet is written while the caller makes the next table.

        A failure to write is raised by the next call, or by ``close``.
        """
        if self._parquet is None:
            self.append(self.encode(table))
            return
        rows = self.encode.arrow(table)
        self._wait()
        self._pending = self._hand.submit(self._parquet.write_table, rows)

    def _wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def append(self, rows: bytes) -> None:
        """Append rows that ``encode`` has made."""
        self._wait()
        if self._parquet is not None:
            with pa.ipc.open_stream(rows) as stream:
                self._parquet.write_table(stream.read_all())
        elif self._file is not None:
            self._file.write(rows.decode("utf-8"))

    def close(self) -> None:
        """Finish the file."""
        try:
            self._wait()
        finally:
            self._hand.shutdown()
            if self._parquet is not None:
                self._parquet.close()
        if self._file is not None:
            self._file.close()

    def _metadata(self) -> dict[str, Any]:
        blank = self._blank
        return {
            "schema_version": SCHEMA_VERSION,
            "labeler": self._labeler.name,
            "labeler_version": self._labeler.version,
            "parents": list(getattr(self._labeler, "parents", ())),
            "vocabulary": {
                "name": self._labeler.vocabulary.name,
                "version": self._labeler.vocabulary.version,
                "hash": self._labeler.vocabulary.digest,
                "findings": [{"name": f.name, "parent": f.parent} for f in self._labeler.vocabulary.findings],
            },
            "unmentioned": None
            if blank is None
            else {
                "probability": [float(p) for p in blank.probability[0]],
                "uncertainty": [float(u) for u in blank.uncertainty[0]],
            },
        }


@dataclass(frozen=True, eq=False)
class _Encoder:
    """Turns tables into rows of one file: an Arrow stream for Parquet, text for CSV."""

    vocabulary: Vocabulary
    parquet: bool
    format: Format
    blank: LabelTable | None
    long: pa.Schema

    def __call__(self, table: LabelTable) -> bytes:
        if not self.parquet:
            self._check(table)
            text = io.StringIO(newline="")
            csv.writer(text).writerows(self._rows(table))
            return text.getvalue().encode("utf-8")
        rows = self.arrow(table)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema) as stream:
            stream.write_table(rows)
        return bytes(sink.getvalue().to_pybytes())

    def _check(self, table: LabelTable) -> None:
        if table.vocabulary != self.vocabulary:
            raise ValueError("the table's vocabulary is not the writer's")

    def header(self) -> list[str]:
        if self.format == "long":
            return list(_LONG.names)
        if self.format == "chexpert":
            return ["report_id", *CHEXPERT]
        return ["report_id", *(name + suffix for name in self.vocabulary.names for suffix in ("", ":state"))]

    def schema(self) -> pa.Schema:
        if self.format == "long":
            return self.long
        text, number = pa.string(), pa.float32()
        types = {"report_id": text}
        return pa.schema([(n, types.get(n, text if n.endswith(":state") else number)) for n in self.header()])

    def _rows(self, table: LabelTable) -> Iterator[list[str]]:
        if self.format == "chexpert":
            for report_id, states in zip(table.report_ids, chexpert_states(table), strict=True):
                yield [report_id, *(CHEXPERT_VALUES[int(s)] for s in states)]
        elif self.format == "wide":
            for report_id, states, values in zip(table.report_ids, table.state, table.probability, strict=True):
                cells = ((f"{p:.6g}", STATES[s]) for p, s in zip(values, states, strict=True))
                yield [report_id, *(text for cell in cells for text in cell)]
        else:
            for row in table.rows():
                numbers = [f"{row[n]:.9g}" for n in ("probability", "uncertainty")]
                yield [
                    *(str(row[n]) for n in ("report_id", "finding", "state")),
                    *numbers,
                    table.source,
                    json.dumps(row["evidence"]),
                ]

    def arrow(self, table: LabelTable) -> pa.Table:
        """The rows of a Parquet file."""
        self._check(table)
        if self.format == "long":
            return _arrow_long(table, self.blank, self.long)
        columns: list[pa.Array] = [pa.array(table.report_ids, pa.string())]
        if self.format == "chexpert":
            values = np.array([1.0, 0.0, -1.0, np.nan], np.float32)[chexpert_states(table)]
            columns += [pa.array(column, pa.float32(), from_pandas=True) for column in values.T]
        else:
            for k in range(len(table.vocabulary)):
                columns += [
                    pa.array(table.probability[:, k]),
                    _strings(STATES, table.state[:, k]),
                ]
        return pa.Table.from_arrays(columns, schema=self.schema())


def _arrow_long(table: LabelTable, blank: LabelTable | None, schema: pa.Schema) -> pa.Table:
    """Build the long rows; without the unmentioned cells that equal ``blank``'s, and one row of nulls for a report that has no other."""
    width = len(table.vocabulary)
    if blank is None:
        kept = np.ones(table.state.shape, bool)
    else:
        kept = (table.state != UNMENTIONED) | (table.probability != blank.probability) | (table.uncertainty != blank.uncertainty)
        kept.ravel()[table.evidence.cell] = True
    bare = ~np.asarray(kept.any(axis=1))
    kept[bare, 0] = True
    cells = np.flatnonzero(kept.ravel())
    row, column = cells // width, cells % width
    null = bare[row]

    def floats(values: NDArray[np.float32]) -> pa.Array:
        return pa.array(values.ravel()[cells], pa.float32(), mask=null)

    states = pa.array(table.state.ravel()[cells], pa.int8())
    findings = pa.array(column.astype(np.int32), pa.int32(), mask=null)
    sources = pa.array(np.zeros(len(cells), np.int8))
    return pa.Table.from_arrays(
        [
            _strings(table.report_ids, row),
            pa.DictionaryArray.from_arrays(findings, pa.array(table.vocabulary.names, pa.string())),
            pa.DictionaryArray.from_arrays(states, pa.array(STATES)),
            floats(table.probability),
            floats(table.uncertainty),
            pa.DictionaryArray.from_arrays(sources, pa.array([table.source])),
            _arrow_evidence(table, cells, schema.field("evidence").type.value_type),
        ],
        schema=schema,
    )


def _arrow_evidence(table: LabelTable, cells: NDArray[np.int64], place: pa.StructType) -> pa.ListArray:
    e = table.evidence
    bounds = np.searchsorted(e.cell, cells)
    offsets = np.append(bounds, len(e)).astype(np.int32)
    told = np.zeros((len(e), len(ATTRIBUTES)), np.int8) if e.attributes is None else e.attributes
    columns = [
        pa.array(e.start, pa.int32()),
        pa.array(e.end, pa.int32()),
        _strings(STATES, e.state),
        _strings(e.cues, e.cue),
        *(_strings(values, codes) for values, codes in zip(ATTRIBUTES.values(), told.T, strict=True)),
    ]
    places = pa.StructArray.from_arrays(columns[: place.num_fields], fields=list(place))
    return pa.ListArray.from_arrays(pa.array(offsets), places)


def _strings(values: Sequence[str] | NDArray[Any], codes: NDArray[np.integer[Any]]) -> pa.Array:
    """Return the value that each code stands for."""
    return pa.array(values, pa.string()).take(pa.array(codes))
