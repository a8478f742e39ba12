"""Readers of reports, tables and gold, given anything; and whatever was written comes back."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelers import STATES, InputError, LabelTable, Report, Vocabulary, read_gold, read_reports, read_table, write_table
from labelers.io import chexpert_states, open_table
from labelers.io.reports import LONGEST
from labelers.types import Evidence, Finding, binary_entropy
from tests.fuzz import budget

pytestmark = pytest.mark.filterwarnings("error")

# --- bytes --------------------------------------------------------------------------------------------------------------------

TOKENS = [
    *(
        b",",
        b";",
        b"\t",
        b"|",
        b'"',
        b'""',
        b"\n",
        b"\r\n",
        b"\r",
        b"\0",
        b" ",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\xfe\xff",
        b"\xff",
        b"\xc3",
    ),
    *(
        b"id",
        b"text",
        b"report_id",
        b"finding",
        b"state",
        b"positive",
        b"Edema",
        b"Edema:state",
        b"1",
        b"0",
        b"1.0",
        b"-1.0",
        b"nan",
        b"1e999",
    ),
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b"null",
        b"true",
        b'{"id": 1, "text": "a"}',
        b"\\ud800",
        b"<",
        b">",
        b"&a;",
        b"<a>",
        b"</a>",
        b"<!DOCTYPE a>",
    ),
]


@st.composite
def mutated(draw: st.DrawFn, whole: bytes) -> bytes:
    """A whole file with a few pieces cut out, doubled, overwritten or put in."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(0, 4))):
        at, length = draw(st.integers(0, len(data))), draw(st.integers(0, 64))
        piece = draw(st.one_of(st.sampled_from(TOKENS), st.binary(max_size=16), st.just(bytes(data[at : at + length]) * 2)))
        data[at : at + draw(st.sampled_from([0, len(piece), length, len(data)]))] = piece
    return bytes(data)


def anything(whole: bytes) -> st.SearchStrategy[bytes]:
    return st.one_of(mutated(whole), st.lists(st.sampled_from(TOKENS), max_size=40).map(b"".join), st.binary(max_size=200))


def in_parquet(**columns: object) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def in_tar(format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for name, data in (("ä" * 90 + "/1.xml", XML), ("2.xml", XML.replace(b"CXR1", b"CXR2")), ("readme", b"none")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


XML = b'<?xml version="1.0" encoding="utf-8"?>\n<a><uId id="CXR1"/><AbstractText Label="FINDINGS">No edema.</AbstractText></a>'
CSV = b'report_id,text\r\na,"No ""edema"", none."\r\nb,Fracture\r\n'
JSONL = b'{"id": "a", "text": "No edema."}\n{"id": 2, "text": null}\n'
PARQUET = in_parquet(id=["a", "b"], text=["No edema.", None], other=[[1], None])

REPORT_FILES: dict[str, tuple[str, st.SearchStrategy[bytes]]] = {
    "csv": ("r.csv", anything(CSV)),
    "csv, UTF-16": ("r.csv", anything(CSV.decode().encode("utf-16"))),
    "jsonl": ("r.jsonl", anything(JSONL)),
    "parquet": ("r.parquet", anything(PARQUET)),
    "txt": ("texts/a.txt", anything(b"No edema.\n")),
    "xml": ("xmls/a.xml", anything(XML)),
    "tgz, the archive": (
        "r.tgz",
        st.sampled_from([in_tar(), in_tar(tarfile.GNU_FORMAT)]).flatmap(mutated).map(lambda t: gzip.compress(t, 1)),
    ),
    "tgz, the compressed": ("r.tgz", anything(gzip.compress(in_tar(), 9, mtime=0))),
}


def result_or_error(read: Callable[[], Any]) -> Any:
    """What a reader gives, or None for an error in one line."""
    try:
        return read()
    except InputError as error:
        message = str(error)
    assert "\n" not in message
    return None


@pytest.mark.parametrize("kind", REPORT_FILES)
@budget(1)
@given(data=st.data())
def test_reports_of_anything(folder: Path, kind: str, data: st.DataObject) -> None:
    name, content = REPORT_FILES[kind]
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(data.draw(content))
    reports = result_or_error(lambda: list(read_reports(folder / name.split("/")[0])))
    for report in reports or ():
        assert report.report_id.strip()
        assert "\0" not in report.report_id + report.text
        assert len(report.text) <= LONGEST
    assert len({r.report_id for r in reports or ()}) == len(reports or ())


# --- tables and gold of anything ----------------------------------------------------------------------------------------------


def small_table() -> LabelTable:
    vocabulary = Vocabulary("small", "1", (Finding("Lung Opacity"), Finding("Edema", "Lung Opacity")))
    table = LabelTable.from_states(["a", "b"], vocabulary, np.array([[0, 1], [2, 3]]), "me")
    kinds = [np.array(values, np.int32) for values in ([0, 3], [4, 9], [0, 1])]
    places = Evidence(np.array([0, 1]), kinds[0], kinds[1], np.array([0, 1], np.int8), kinds[2], ("no", "may"))
    return LabelTable(**{**vars(table), "evidence": places})


def written(format: Any, suffix: str, folder: Path) -> bytes:
    write_table(small_table(), folder / f"small{suffix}", format)
    return (folder / f"small{suffix}").read_bytes()


def check_table(table: LabelTable) -> None:
    e, size = table.evidence, table.state.size
    assert len(set(table.report_ids)) == len(table)
    assert ((table.state >= 0) & (table.state < len(STATES))).all()
    for values in (table.probability, table.uncertainty):
        assert values.dtype == np.float32
        assert ((values >= 0) & (values <= 1)).all()
    assert (np.diff(e.cell) >= 0).all()
    assert ((e.cell >= 0) & (e.cell < size)).all()
    assert ((e.start >= 0) & (e.start < e.end)).all()
    assert ((e.state >= 0) & (e.state < 3)).all()
    assert len(list(table.rows())) == size


@pytest.mark.parametrize("format", ["long", "wide", "chexpert"])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@budget(1)
@given(data=st.data())
def test_tables_of_anything(folder: Path, suffix: str, format: str, data: st.DataObject) -> None:
    (folder / f"t{suffix}").write_bytes(data.draw(anything(written(format, suffix, folder))))
    table = result_or_error(lambda: read_table(folder / f"t{suffix}"))
    if table is not None:
        check_table(table)


@budget(1)
@given(content=anything(b"report_id,Edema,Fracture\na,1,0\nb,,1.0\n"))
def test_gold_of_anything(folder: Path, content: bytes) -> None:
    (folder / "gold.csv").write_bytes(content)
    gold = result_or_error(lambda: read_gold(folder / "gold.csv"))
    if gold is not None:
        assert gold.truth.shape == (len(gold.report_ids), len(gold.findings))
        assert (np.isnan(gold.truth) | np.isin(gold.truth, (0, 1))).all()


COLUMN = st.one_of(
    st.lists(st.none() | st.text(max_size=5), min_size=2, max_size=2),
    st.lists(st.none() | st.sampled_from(["a", "b", "Edema", "positive", "uncertain", "me", "[]"]), min_size=2, max_size=2),
    st.lists(st.none() | st.floats() | st.floats(0, 1), min_size=2, max_size=2),
    st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=2),
    st.lists(st.none() | st.booleans() | st.just(True), min_size=2, max_size=2),
    st.lists(st.none() | st.binary(max_size=5), min_size=2, max_size=2),
    st.lists(st.none() | st.dates(), min_size=2, max_size=2),
    st.lists(
        st.none()
        | st.lists(
            st.fixed_dictionaries(
                {
                    "start": st.integers(-1, 9),
                    "end": st.integers(0, 9),
                    "state": st.sampled_from([*STATES, "x"]),
                    "cue": st.text(max_size=3),
                }
            ),
            max_size=2,
        ),
        min_size=2,
        max_size=2,
    ),
)


@pytest.mark.parametrize("layout", ["long", "wide", "chexpert", "reports"])
@budget(1)
@given(data=st.data())
def test_parquet_of_any_types(folder: Path, layout: str, data: st.DataObject) -> None:
    names = {
        "long": ["report_id", "finding", "state", "probability", "uncertainty", "source", "evidence"],
        "wide": ["report_id", "Edema", "Edema:state"],
        "chexpert": ["report_id", "Edema", "No Finding"],
        "reports": ["report_id", "text"],
    }[layout]
    values = data.draw(st.fixed_dictionaries(dict.fromkeys(names, COLUMN)))
    pq.write_table(pa.table({name: pa.array(column) for name, column in values.items()}), folder / "any.parquet")
    if layout == "reports":
        result_or_error(lambda: list(read_reports(folder / "any.parquet")))
    else:
        table = result_or_error(lambda: read_table(folder / "any.parquet"))
        if table is not None:
            check_table(table)


# --- there and back -----------------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
ID = TEXT.filter(str.strip)
NAME = TEXT.map(str.strip).filter(lambda n: n.isprintable() and n not in ("", "report_id") and not n.endswith(":state"))
REPORTS = st.lists(st.builds(Report, ID, TEXT), min_size=1, max_size=5, unique_by=lambda r: r.report_id)


@budget(2)
@given(
    reports=REPORTS,
    delimiter=st.sampled_from(",;\t|"),
    all_quoted=st.booleans(),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_csv_of_any_cells_is_read_back(
    folder: Path, reports: list[Report], delimiter: str, all_quoted: bool, encoding: str
) -> None:
    with (folder / "back.csv").open("w", encoding=encoding, newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL if all_quoted else csv.QUOTE_MINIMAL)
        writer.writerows([("text", "id"), *((r.text, r.report_id) for r in reports)])
    assert list(read_reports(folder / "back.csv")) == reports


@budget(1)
@given(reports=REPORTS, ascii_only=st.booleans(), encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
def test_jsonl_and_parquet_of_any_cells_are_read_back(
    folder: Path, reports: list[Report], ascii_only: bool, encoding: str
) -> None:
    lines = [json.dumps({"id": r.report_id, "text": r.text}, ensure_ascii=ascii_only) for r in reports]
    with (folder / "back.jsonl").open("w", encoding=encoding, newline="") as file:
        file.write("\n".join(lines))
    pq.write_table(pa.table({"id": [r.report_id for r in reports], "text": [r.text for r in reports]}), folder / "back.parquet")
    assert list(read_reports(folder / "back.jsonl")) == reports
    assert list(read_reports(folder / "back.parquet")) == reports


@st.composite
def tables(draw: st.DrawFn, names: st.SearchStrategy[str] = NAME) -> LabelTable:
    """Any table: findings of any name, with parents, states and probabilities that have nothing to do with each other, places."""
    found = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    parents = [draw(st.none() | st.sampled_from(found[:k])) if k else None for k in range(len(found))]
    vocabulary = Vocabulary(draw(TEXT), draw(TEXT), tuple(map(Finding, found, parents)))
    ids = draw(st.lists(ID, min_size=1, max_size=4, unique=True))
    shape = (len(ids), len(found))
    size = len(ids) * len(found)

    def floats() -> np.ndarray[Any, Any]:
        return np.array(draw(st.lists(st.floats(0, 1, width=32), min_size=size, max_size=size)), np.float32).reshape(shape)

    places = sorted(
        draw(st.lists(st.tuples(st.integers(0, size - 1), st.integers(0, 99), st.integers(1, 99), st.integers(0, 2)), max_size=4))
    )
    cell, start, length, state = np.array(places, np.int64).reshape(-1, 4).T
    cues = tuple(draw(st.lists(TEXT, min_size=len(places), max_size=len(places), unique=True)))
    kinds = (
        start.astype(np.int32),
        (start + length).astype(np.int32),
        state.astype(np.int8),
        np.arange(len(places), dtype=np.int32),
    )
    return LabelTable(
        report_ids=np.array(ids, object),
        vocabulary=vocabulary,
        state=np.array(draw(st.lists(st.integers(0, 3), min_size=size, max_size=size)), np.int8).reshape(shape),
        probability=floats(),
        uncertainty=floats(),
        source=draw(TEXT),
        version=draw(TEXT),
        evidence=Evidence(cell, *kinds, cues=cues),
        parents=tuple(draw(st.lists(TEXT, max_size=2))),
    )


def rows(table: LabelTable, *left_out: str) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in left_out} for row in table.rows()]


@budget(2)
@given(table=tables())
def test_a_long_table_comes_back_whole(folder: Path, table: LabelTable) -> None:
    write_table(table, folder / "back.csv")
    assert rows(read_table(folder / "back.csv")) == rows(table)
    blank = LabelTable.from_states([""], table.vocabulary, np.full((1, len(table.vocabulary)), 3), table.source)
    write_table(table, folder / "dense.parquet")
    labeler = SimpleNamespace(name=table.source, version=table.version, vocabulary=table.vocabulary, parents=table.parents)
    with open_table(folder / "sparse.parquet", labeler, "long", blank) as writer:
        writer.write(table)
    for name in ("dense", "sparse"):
        back = read_table(folder / f"{name}.parquet")
        assert rows(back) == rows(table)
        for part in ("vocabulary", "version", "parents"):
            assert getattr(back, part) == getattr(table, part)


@budget(1)
@given(table=tables())
def test_a_wide_table_comes_back_but_for_what_it_cannot_hold(folder: Path, table: LabelTable) -> None:
    for suffix in (".csv", ".parquet"):
        write_table(table, folder / f"wide{suffix}", "wide")
        back = read_table(folder / f"wide{suffix}")
        assert back.report_ids.tolist() == table.report_ids.tolist()
        assert back.vocabulary.names == table.vocabulary.names
        np.testing.assert_array_equal(back.state, table.state)
        np.testing.assert_allclose(back.probability, table.probability, rtol=1e-5)
        np.testing.assert_array_equal(back.uncertainty, binary_entropy(back.probability))


@budget(0.5)
@given(table=tables(st.sampled_from(["Edema", "Lung Opacity", "No Finding", "Goiter"])))
def test_chexperts_layout_comes_back_with_its_states(folder: Path, table: LabelTable) -> None:
    for suffix in (".csv", ".parquet"):
        write_table(table, folder / f"chexpert{suffix}", "chexpert")
        back = read_table(folder / f"chexpert{suffix}")
        assert back.report_ids.tolist() == table.report_ids.tolist()
        np.testing.assert_array_equal(back.state, chexpert_states(table))
