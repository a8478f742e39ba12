"""Label tables out and in: what is written is read back, and what is broken is named."""

from __future__ import annotations

import csv
import dataclasses
import errno
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labelers import InputError, LabelTable, UsageError, Vocabulary, read_gold, read_table, write_table
from labelers.io import CHEXPERT, atomic_path, chexpert_states, open_table
from labelers.types import ATTRIBUTES, NEGATIVE, POSITIVE, STATES, UNCERTAIN, UNMENTIONED, Evidence, Finding, binary_entropy

P, N, U, X = POSITIVE, NEGATIVE, UNCERTAIN, UNMENTIONED
VOCABULARY = Vocabulary(
    "small",
    "3",
    (Finding("No Finding"), Finding("Lung Opacity"), Finding("Infiltrate, left", "Lung Opacity"), Finding("Consolidation")),
)
CUES = ("no", "affirmed", 'hedge "may"')


class Writer:
    """What ``open_table`` needs of a labeler."""

    name, version, vocabulary = "me", "7", VOCABULARY


def make(ids: list[str], seed: int = 0) -> LabelTable:
    """A table of random states, probabilities and places; the last report is empty."""
    generator = np.random.default_rng(seed)
    shape = (len(ids), len(VOCABULARY))
    state = generator.integers(0, 4, shape).astype(np.int8)
    state[-1:] = X
    probability = np.where(state == X, 0.1, generator.random(shape)).astype(np.float32)
    uncertainty = np.where(state == P, 1.0, binary_entropy(probability)).astype(np.float32)
    mentioned = np.flatnonzero(state.ravel() != X)
    count = len(ids) if len(mentioned) else 0
    cell = np.sort(generator.choice(mentioned, count)) if count else mentioned
    start = generator.integers(0, 500, count).astype(np.int32)
    places = Evidence(
        cell=cell,
        start=start,
        end=start + 4,
        state=state.ravel()[cell],
        cue=generator.integers(0, len(CUES), count).astype(np.int32),
        cues=CUES,
    )
    return LabelTable(np.array(ids, object), VOCABULARY, state, probability, uncertainty, "me", "7", places)


IDS = ["a", "Ä, 2", '"q"', "4", "last"]
TABLE = make(IDS)
BLANK = LabelTable.from_states([""], VOCABULARY, np.full((1, 4), X), "me", version="7")


def write_sparse(table: LabelTable, path: Path) -> Path:
    with open_table(path, Writer, "long", BLANK) as writer:
        writer.write(table)
    return path


def write(table: LabelTable, path: Path, format: Any = "long") -> Path:
    write_table(table, path, format)
    return path


def same(one: LabelTable, other: LabelTable) -> None:
    """Equal in all that the long form holds, bit by bit."""
    assert one.report_ids.tolist() == other.report_ids.tolist()
    assert one.vocabulary.names == other.vocabulary.names
    for name in ("state", "probability", "uncertainty"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert getattr(one, name).dtype == getattr(other, name).dtype
    assert one.source == other.source
    assert [row["evidence"] for row in one.rows()] == [row["evidence"] for row in other.rows()]


@pytest.mark.parametrize("name", ["t.parquet", "t.csv", "T.CSV"])
def test_long_round_trip(tmp_path: Path, name: str) -> None:
    same(read_table(write(TABLE, tmp_path / name)), TABLE)


def test_sparse_parquet_equals_dense_csv(tmp_path: Path) -> None:
    sparse = write_sparse(TABLE, tmp_path / "t.parquet")
    assert pq.read_metadata(sparse).num_rows < TABLE.state.size
    same(read_table(sparse), read_table(write(TABLE, tmp_path / "t.csv")))


@pytest.mark.parametrize("name", ["t.parquet", "t.csv"])
def test_side_severity_and_change_survive(tmp_path: Path, name: str) -> None:
    e = TABLE.evidence
    codes = np.stack([np.arange(len(e)) % len(values) for values in ATTRIBUTES.values()], axis=1).astype(np.int8)
    told = dataclasses.replace(TABLE, evidence=dataclasses.replace(e, attributes=codes))
    read = read_table(write(told, tmp_path / name))
    same(read, told)
    assert read.evidence.attributes is not None
    assert read.evidence.attributes.dtype == np.int8
    places = [place for row in read.rows() for place in row["evidence"]]
    assert len(places) == len(e)
    assert all(ATTRIBUTES.keys() <= place.keys() for place in places)


@pytest.mark.parametrize("name", ["t.parquet", "t.csv"])
def test_a_table_can_be_read_without_its_places(tmp_path: Path, name: str) -> None:
    read = read_table(write(TABLE, tmp_path / name), evidence=False)
    assert len(TABLE.evidence)
    same(read, dataclasses.replace(TABLE, evidence=Evidence.empty()))


def shuffled(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The same texts in two chunks, with a dictionary that has them in another order, one twice and one that no row has."""
    texts = column.to_pylist()
    known = sorted({text for text in texts if text is not None}, reverse=True)
    values = pa.array(["nobody\0", *known, known[0]])
    last = len(known) + 1
    codes = [None if t is None else last if t == known[0] and i % 2 else 1 + known.index(t) for i, t in enumerate(texts)]
    half = len(codes) // 2
    parts = [pa.DictionaryArray.from_arrays(pa.array(part, pa.int32()), values) for part in (codes[:half], codes[half:])]
    return pa.chunked_array(parts)


@pytest.mark.parametrize("column", ["report_id", "finding", "state", "source"])
def test_rows_are_read_in_their_order_whatever_the_dictionary(column: str, tmp_path: Path) -> None:
    data = pq.read_table(write_sparse(TABLE, tmp_path / "t.parquet"))
    data = data.set_column(data.column_names.index(column), column, shuffled(data.column(column)))
    pq.write_table(data, tmp_path / "t.parquet", row_group_size=4)
    same(read_table(tmp_path / "t.parquet"), TABLE)


@pytest.mark.parametrize("tables", [1, 3])
def test_a_parquet_file_that_cannot_be_written_is_said(tables: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pyarrow.parquet.ParquetWriter.write_table", full)

    def write_all() -> None:
        with open_table(tmp_path / "t.parquet", Writer) as writer:
            for _ in range(tables):
                writer.write(TABLE)

    with pytest.raises(InputError, match=r"t.parquet.*No space left"):
        write_all()
    assert not list(tmp_path.iterdir())


def test_a_table_whose_places_tell_another_side_is_refused(tmp_path: Path) -> None:
    e = dataclasses.replace(TABLE.evidence, attributes=np.ones((len(TABLE.evidence), 3), np.int8))
    path = write(dataclasses.replace(TABLE, evidence=e), tmp_path / "t.csv")
    path.write_text(path.read_text(encoding="utf-8").replace('""left""', '""upside down""', 1), encoding="utf-8")
    with pytest.raises(InputError, match="column 'evidence': expected a JSON list of places"):
        read_table(path)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ids=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1), min_size=1, unique=True),
    seed=st.integers(0),
)
def test_any_ids_and_values_survive(tmp_path: Path, ids: list[str], seed: int) -> None:
    table = make([f"{i}." for i in ids], seed)
    same(read_table(write_sparse(table, tmp_path / "t.parquet")), table)
    same(read_table(write(table, tmp_path / "t.csv")), table)


def test_sparse_keeps_what_differs_from_the_blank(tmp_path: Path) -> None:
    odd = dataclasses.replace(TABLE, probability=np.where(TABLE.state == X, np.float32(0.3), TABLE.probability))
    same(read_table(write_sparse(odd, tmp_path / "t.parquet")), odd)


def test_schema_and_types(tmp_path: Path) -> None:
    schema = pq.read_schema(write_sparse(TABLE, tmp_path / "t.parquet"))
    place = pa.struct([("start", pa.int32()), ("end", pa.int32()), ("state", pa.string()), ("cue", pa.string())])
    expected = {
        "report_id": pa.string(),
        "finding": pa.string(),
        "state": pa.string(),
        "probability": pa.float32(),
        "uncertainty": pa.float32(),
        "source": pa.string(),
        "evidence": pa.list_(place),
    }
    assert schema.names == list(expected)
    for name, kind in expected.items():
        found = schema.field(name).type
        assert (found.value_type if pa.types.is_dictionary(found) else found) == kind
    assert pa.types.is_dictionary(schema.field("finding").type)
    assert pa.types.is_dictionary(schema.field("state").type)


def test_a_report_without_a_row_of_its_own_has_one_of_null(tmp_path: Path) -> None:
    rows = pq.read_table(write_sparse(TABLE, tmp_path / "t.parquet")).to_pylist()
    last = [row for row in rows if row["report_id"] == "last"]
    assert last == [
        {
            "report_id": "last",
            "finding": None,
            "state": "unmentioned",
            "probability": None,
            "uncertainty": None,
            "source": "me",
            "evidence": [],
        }
    ]
    assert all(row["finding"] is not None for row in rows if row["report_id"] != "last")


def test_metadata(tmp_path: Path) -> None:
    fused = dataclasses.replace(TABLE, parents=("context", "negbio"))
    path = write(fused, tmp_path / "t.parquet")
    metadata = json.loads(pq.read_schema(path).metadata[b"hybridpt"])
    assert metadata["schema_version"] == 1
    assert (metadata["labeler"], metadata["labeler_version"]) == ("me", "7")
    assert metadata["parents"] == ["context", "negbio"]
    assert metadata["vocabulary"]["hash"] == VOCABULARY.digest
    back = read_table(path)
    assert back.parents == ("context", "negbio")
    assert back.version == "7"
    assert back.vocabulary == VOCABULARY, "parents, name, version and hash"


def test_csv_long_is_dense_with_evidence_as_json(tmp_path: Path) -> None:
    with write(TABLE, tmp_path / "t.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == TABLE.state.size
    assert [json.loads(row["evidence"]) for row in rows] == [row["evidence"] for row in TABLE.rows()]


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_wide_round_trip(tmp_path: Path, suffix: str) -> None:
    back = read_table(write(TABLE, tmp_path / f"wide{suffix}", "wide"))
    assert back.report_ids.tolist() == IDS
    assert back.vocabulary.names == VOCABULARY.names
    np.testing.assert_array_equal(back.state, TABLE.state)
    if suffix == ".parquet":
        np.testing.assert_array_equal(back.probability, TABLE.probability)
    np.testing.assert_allclose(back.probability, TABLE.probability, rtol=1e-5)
    np.testing.assert_allclose(back.uncertainty, binary_entropy(TABLE.probability), atol=1e-4)
    assert back.source == "wide", "a wide file tells no labeler, its name has to do"


def test_wide_columns(tmp_path: Path) -> None:
    write(TABLE, tmp_path / "t.parquet", "wide")
    expected = ["report_id", *(n + s for n in VOCABULARY.names for s in ("", ":state"))]
    assert pq.read_schema(tmp_path / "t.parquet").names == expected


def test_chexpert_layout(tmp_path: Path) -> None:
    state = np.array([[N, X, P, X], [X, N, U, X], [P, X, X, P], [X, X, N, U], [X, X, X, N]])
    table = LabelTable.from_states(["a", "b", "c", "d", "e"], VOCABULARY, state, "me")
    lines = write(table, tmp_path / "t.csv", "chexpert").read_text(encoding="utf-8").splitlines()
    assert lines[0] == (
        "report_id,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Lesion,Lung Opacity,Edema,Consolidation,"
        "Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
    )
    assert lines[1:] == [
        "a,0.0,,,,1.0,,,,,,,,,",  # an infiltrate is an opacity
        "b,,,,,-1.0,,,,,,,,,",  # what may be there outweighs what is not
        "c,1.0,,,,,,1.0,,,,,,,",  # consolidation does not set Lung Opacity
        "d,,,,,0.0,,-1.0,,,,,,,",
        "e,,,,,,,0.0,,,,,,,",
    ]


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_chexpert_round_trip(tmp_path: Path, suffix: str) -> None:
    back = read_table(write(TABLE, tmp_path / f"t{suffix}", "chexpert"))
    assert back.vocabulary.names == CHEXPERT
    np.testing.assert_array_equal(back.state, chexpert_states(TABLE))


def test_chexpert_as_others_write_it(tmp_path: Path) -> None:
    """CheXpert's and MIMIC's own files name other columns too, and some tools write 1 for 1.0."""
    path = tmp_path / "t.csv"
    path.write_text("report_id,subject,Edema,Fracture\na,x,1,-1\nb,y,0,\n", encoding="utf-8")
    back = read_table(path)
    assert back.vocabulary.names == ("Edema", "Fracture")
    assert back.state.tolist() == [[P, U], [N, X]]


def test_chexpert_ranks_positive_over_uncertain_over_negative_over_silence() -> None:
    pairs = [(a, b) for a in range(4) for b in range(4)]
    table = LabelTable.from_states([str(p) for p in pairs], VOCABULARY, np.array([[X, a, b, X] for a, b in pairs]), "me")
    folded = chexpert_states(table)[:, CHEXPERT.index("Lung Opacity")]
    order = [P, U, N, X]
    assert folded.tolist() == [min(pair, key=order.index) for pair in pairs]


def test_a_table_without_reports(tmp_path: Path) -> None:
    empty = LabelTable.from_states([], VOCABULARY, np.zeros((0, 4), np.int8), "me")
    assert read_table(write(empty, tmp_path / "t.parquet")).state.shape == (0, 4)
    assert len(read_table(write(empty, tmp_path / "t.csv"))) == 0


def test_parquet_in_a_folder_named_like_a_partition(tmp_path: Path) -> None:
    same(read_table(write(TABLE, tmp_path / "source=other" / "t.parquet")), TABLE)


def test_parquet_of_plain_types_without_metadata(tmp_path: Path) -> None:
    """What pandas or DuckDB write after a filter: no dictionaries, doubles, no metadata, no evidence."""
    columns: dict[str, Any] = {
        "report_id": pa.array([3, 4], pa.int64()),
        "finding": pa.array(["Edema", None], pa.large_string()),
        "state": pa.array(["positive", None]),
        "probability": pa.array([0.75, None], pa.float64()),
        "uncertainty": pa.array([0.5, None], pa.float64()),
        "source": ["x", "x"],
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    back = read_table(tmp_path / "t.parquet")
    assert back.report_ids.tolist() == ["3", "4"]
    assert back.state.tolist() == [[P], [X]]
    assert back.probability[0, 0] == 0.75


LONG = "report_id,finding,state,probability,uncertainty,source,evidence\n"
GOOD = "a,Edema,positive,0.9,0.1,me,[]\n"
BROKEN_CSV: dict[str, tuple[str, tuple[str, ...]]] = {
    "unknown state": (LONG + GOOD + "b,Edema,Xylophonist,0.9,0.1,me,[]\n", ("line 3", "'state'", ", ".join(STATES))),
    "too probable": (LONG + GOOD + "b,Edema,positive,1.5,0.1,me,[]\n", ("line 3", "'probability'", "[0, 1]")),
    "less than nothing": (LONG + "b,Edema,positive,0.5,-0.1,me,[]\n", ("line 2", "'uncertainty'", "[0, 1]")),
    "nan": (LONG + "b,Edema,positive,nan,0.1,me,[]\n", ("line 2", "'probability'", "number")),
    "no number": (LONG + "b,Edema,positive,Xylophonist,0.1,me,[]\n", ("line 2", "'probability'", "number")),
    "no probability": (LONG + "b,Edema,positive,,0.1,me,[]\n", ("line 2", "'probability'", "number")),
    "cell twice": (LONG + GOOD + "b,Edema,negative,0.9,0.1,me,[]\n" + GOOD, ("line 4", "earlier row", "remove one")),
    "two sources": (LONG + GOOD + "b,Edema,positive,0.9,0.1,you,[]\n", ("2 sources", "one file a labeler")),
    "empty id": (LONG + GOOD + ",Edema,positive,0.9,0.1,me,[]\n", ("line 3", "id is empty")),
    "evidence no JSON": (LONG + "a,Edema,positive,0.9,0.1,me,[Xylophonist\n", ("line 2", "'evidence'")),
    "evidence no place": (LONG + 'a,Edema,positive,0.9,0.1,me,"[{""start"": 1}]"\n', ("line 2", "'evidence'")),
    "evidence no list": (LONG + "a,Edema,positive,0.9,0.1,me,3\n", ("line 2", "'evidence'")),
    "evidence from nowhere": (
        LONG + 'a,Edema,positive,0.9,0.1,me,"[{""start"": -1, ""end"": 2, ""state"": ""positive"", ""cue"": ""no""}]"\n',
        ("line 2", "'evidence'"),
    ),
    "ragged": (LONG + "a,Edema\n", ("line 2", "expected 7 fields")),
    "no table": ("key,text\na,Xylophonist\n", ("'report_id'", "key, text", "labelers run")),
    "reports": ("report_id,text\na,Xylophonist\n", ("long, wide or CheXpert", "report_id, text")),
    "chexpert id twice": ("report_id,Edema\nXylophonist,1.0\nb,\nXylophonist,0.0\n", ("line 4", "line 2", "unique")),
    "chexpert value": ("report_id,Edema\na,1.0\nb,2.0\n", ("line 3", "'Edema'", "1.0, 0.0, -1.0 or nothing")),
    "wide state": ("report_id,Edema,Edema:state\na,0.9,maybe\n", ("line 2", "'Edema:state'")),
    "wide probability": ("report_id,Edema,Edema:state\na,,positive\n", ("line 2", "'Edema'", "[0, 1]")),
    "empty file": ("", ("expected a header",)),
}


@pytest.mark.parametrize("case", BROKEN_CSV)
def test_broken_csv_is_named(tmp_path: Path, case: str) -> None:
    content, parts = BROKEN_CSV[case]
    path = tmp_path / "t.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_table(path)
    message = str(caught.value)
    for part in (str(path), *parts):
        assert part in message
    assert "Xylophonist" not in message


def changed(**changes: Any) -> Callable[[pa.Table], pa.Table]:
    """Replace whole columns of the written table."""

    def change(data: pa.Table) -> pa.Table:
        for name, value in changes.items():
            column = pa.array([value] * len(data)) if isinstance(value, str | float) else value
            data = data.set_column(data.column_names.index(name), name, column)
        return data

    return change


def with_metadata(edit: Callable[[dict[str, Any]], None]) -> Callable[[pa.Table], pa.Table]:
    def change(data: pa.Table) -> pa.Table:
        metadata = json.loads(data.schema.metadata[b"hybridpt"])
        edit(metadata)
        return data.replace_schema_metadata({b"hybridpt": json.dumps(metadata)})

    return change


BROKEN_PARQUET: dict[str, tuple[Callable[[pa.Table], pa.Table], str]] = {
    "finding outside the vocabulary": (changed(finding="Edema"), "row 1: its finding is not in the table's vocabulary"),
    "unknown state": (changed(state="maybe"), "row 1, column 'state': expected a state of positive"),
    "too probable": (changed(probability=1.5), "row 1, column 'probability': expected a number in \\[0, 1\\]"),
    "nan": (changed(uncertainty=float("nan")), "row 1, column 'uncertainty': expected a number in \\[0, 1\\]"),
    "probability as words": (changed(probability="high"), "expected numbers in the column 'probability'"),
    "ids in lists": (changed(report_id=pa.array([["a"]] * 20)), "expected text or whole numbers in the column 'report_id'"),
    "evidence as text": (changed(evidence="none"), "expected lists of places in the column 'evidence'"),
    "row twice": (lambda data: pa.concat_tables([data, data]), "row 21: its report and finding stand in an earlier row"),
    "column twice": (lambda data: data.append_column("state", data.column("state")), "two columns have one name"),
    "metadata no JSON": (lambda data: data.replace_schema_metadata({b"hybridpt": b"{"}), "the metadata are broken"),
    "metadata no object": (lambda data: data.replace_schema_metadata({b"hybridpt": b"[]"}), "the metadata are broken"),
    "parents no list": (with_metadata(lambda m: m.update(parents=3)), "the metadata are broken"),
    "other version": (with_metadata(lambda m: m.update(schema_version=2)), "expected schema version 1"),
    "vocabulary broken": (
        with_metadata(lambda m: m.update(vocabulary={"name": "x"})),
        "the vocabulary in the metadata is broken",
    ),
    "vocabulary without the parent": (
        with_metadata(lambda m: m["vocabulary"]["findings"].pop(1)),
        "the vocabulary in the metadata is broken",
    ),
    "blank of another width": (
        with_metadata(lambda m: m.update(unmentioned={"probability": [0.1], "uncertainty": [0.1]})),
        "the values of unmentioned cells",
    ),
    "blank of nothing": (with_metadata(lambda m: m.update(unmentioned={"probability": None})), "the values of unmentioned cells"),
}


@pytest.mark.parametrize("case", BROKEN_PARQUET)
def test_broken_parquet_is_named(tmp_path: Path, case: str) -> None:
    change, message = BROKEN_PARQUET[case]
    path = write(TABLE, tmp_path / "t.parquet")
    pq.write_table(change(pq.read_table(path)), path)
    with pytest.raises(InputError, match=f"t.parquet.*{message}"):
        read_table(path)


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such label table"):
        read_table(tmp_path / "t.parquet")
    for name, message in (("t.parquet", "not a readable Parquet file"), ("t.json", r"\.parquet or \.csv, got '\.json'")):
        (tmp_path / name).write_bytes(b"PAR1 and more")
        with pytest.raises(InputError, match=message):
            read_table(tmp_path / name)


def test_gold(tmp_path: Path) -> None:
    path = tmp_path / "gold.csv"
    path.write_bytes(b"\xef\xbb\xbfEdema,study_id,Mass\r\n1,a,\r\n0,b,1.0\r\n,c, 0\r\n")
    gold = read_gold(path)
    assert gold.findings == ("Edema", "Mass")
    assert gold.report_ids.tolist() == ["a", "b", "c"]
    np.testing.assert_array_equal(gold.truth, np.array([[1, np.nan], [0, 1], [np.nan, 0]], np.float32))


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("report_id,Edema\na,1\nb,Xylophonist\n", ("line 3", "'Edema'", "1, 0 or nothing")),
        ("report_id,Edema\na,-1\n", ("line 2", "1, 0 or nothing")),
        ("report_id,Edema\nXylophonist,1\nb,0\nXylophonist,1\n", ("line 4", "line 2", "unique")),
        ("report_id,Edema\n,1\n", ("line 2", "id is empty")),
        ("key,Edema\na,1\n", ("report_id, study_id, id", "key, Edema")),
        ("Xylophonist shows no effusion.,1\na,1\n", ("expected an id column", "not shown")),
        ("report_id\na\n", ("1 and 0",)),
        ("report_id,Edema\n", ("0 and 1",)),
    ],
)
def test_broken_gold_is_named(tmp_path: Path, content: str, parts: tuple[str, ...]) -> None:
    path = tmp_path / "gold.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_gold(path)
    message = str(caught.value)
    for part in (str(path), *parts):
        assert part in message
    assert "Xylophonist" not in message


@pytest.mark.parametrize("name", ["t.parquet", "t.csv"])
def test_a_failure_leaves_the_folder_as_it_was(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"what was there before")

    def interrupted() -> None:
        with open_table(tmp_path / name, Writer, "long", BLANK) as writer:
            writer.write(TABLE)
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        interrupted()
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"what was there before"


def test_outputs_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UsageError, match=r"must end in \.parquet or \.csv, got '\.tsv'"):
        write_table(TABLE, tmp_path / "t.tsv")
    with pytest.raises(InputError, match="it is a folder"):
        write_table(TABLE, tmp_path / "folder.csv")
    with pytest.raises(InputError, match="cannot be written"):
        write_table(TABLE, tmp_path / "file" / "t.csv")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.csv"]


def test_atomic_path_removes_what_a_killed_process_left_of_this_file_alone(tmp_path: Path) -> None:
    """Two names whose first forty characters are equal are two files; one is being written while the other is."""
    one, other = (tmp_path / f"{'x' * 50}{end}.csv" for end in "ab")
    for path in (one, other):
        with atomic_path(path) as temporary:
            temporary.write_text("half", encoding="utf-8")
            os.link(
                temporary, temporary.with_name(temporary.name[:-13] + "00000000.part")
            )  # the same file stays behind, without a lock
    assert len(list(tmp_path.glob(".*.part"))) == 2
    with atomic_path(one) as temporary:
        temporary.write_text("new", encoding="utf-8")
        with atomic_path(other) as neighbour:
            neighbour.write_text("new", encoding="utf-8")
    assert (one.read_text(encoding="utf-8"), other.read_text(encoding="utf-8")) == ("new", "new")
    assert sorted(tmp_path.iterdir()) == [one, other]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no flock")
def test_atomic_path_refuses_a_file_that_is_being_written(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    with atomic_path(path) as temporary:
        temporary.write_text("first", encoding="utf-8")
        with pytest.raises(InputError, match=r"t.csv: another process is writing it"), atomic_path(path):
            pass
    assert path.read_text(encoding="utf-8") == "first"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no flock")
def test_where_a_file_system_knows_no_locks_nobody_is_refused_and_nothing_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    path = tmp_path / "t.csv"
    with atomic_path(path) as first, atomic_path(path) as second:
        first.write_text("first", encoding="utf-8")
        second.write_text("second", encoding="utf-8")
    assert path.read_text(encoding="utf-8") == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_path_says_when_the_disk_is_full(tmp_path: Path) -> None:
    def full() -> None:
        with atomic_path(tmp_path / "t.csv") as temporary:
            temporary.write_text("half", encoding="utf-8")
            raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match=r"t\.csv: cannot be written \(No space left on device\)"):
        full()
    assert not list(tmp_path.iterdir())


def test_a_writer_refuses_the_table_of_another_vocabulary(tmp_path: Path) -> None:
    other = LabelTable.from_states(["a"], Vocabulary.of(["Edema"]), np.array([[P]]), "me")

    def mixed() -> None:
        with open_table(tmp_path / "t.csv", Writer) as writer:
            writer.write(other)

    with pytest.raises(ValueError, match="vocabulary"):
        mixed()
    assert not list(tmp_path.iterdir())


def test_a_finding_that_the_csv_holds_for_some_reports_only_is_refused(tmp_path: Path) -> None:
    """A CSV names no vocabulary, so a misspelt finding can be told only by the reports that lack it."""
    path = tmp_path / "labels.csv"
    table = LabelTable.from_states(["a", "b"], Vocabulary.of(["Edema", "Nodule"]), np.array([[0, 1], [1, 0]]), "one")
    write_table(table, path)
    path.write_text(path.read_text(encoding="utf-8").replace("b,Nodule", "b,Noduel"), encoding="utf-8")
    with pytest.raises(InputError, match="does not stand for every one of the 2 reports"):
        read_table(path)
