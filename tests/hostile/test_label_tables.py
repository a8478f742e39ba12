"""Label tables, gold and channels with something wrong in them: read right where there is one way to read them, else refused."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labelers import LabelTable, Vocabulary, read_channels, write_table
from labelers.io.writing import METADATA_KEY
from labelers.types import Evidence, Finding
from tests.hostile.refusals import BEFORE, BOMB, MARKER, Cli, on_a_disk_of, refuses, runner, snapshot

pytestmark = pytest.mark.filterwarnings("error")
LAYOUTS = [(format, suffix) for format in ("long", "wide", "chexpert") for suffix in (".csv", ".parquet")]
IDS = [f"{i:03d}" for i in range(40)]
TRUTH = np.arange(40) % 3 == 0
SAID = np.where(np.arange(40) % 7 == 0, 3, np.where(TRUTH, 0, 1))
"""What the labeler says of Edema and Fracture alike: right, and nothing of every seventh report."""

Row = dict[str, Any]
Edit = Callable[[list[Row]], object]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return runner(capsys)


def make_table() -> LabelTable:
    vocabulary = Vocabulary("small", "1", (Finding("Edema"), Finding("Fracture")))
    table = LabelTable.from_states(IDS, vocabulary, np.stack([SAID, SAID], axis=1), "reader")
    cells = np.flatnonzero(table.state.ravel() != 3)
    one = np.ones(len(cells), np.int32)
    places = Evidence(cells, 0 * one, 5 * one, table.state.ravel()[cells], 0 * one, ("no",))
    return LabelTable(**{**vars(table), "evidence": places})


def make_gold(path: Path, edit: Edit | None = None, **form: Any) -> Path:
    gold: list[Row] = [{"report_id": i, "Edema": str(int(y)), "Fracture": str(int(y))} for i, y in zip(IDS, TRUTH, strict=True)]
    if edit is not None:
        edit(gold)
    return write_rows(path, gold, None, **form)


def write_rows(path: Path, rows: list[Row], metadata: dict[bytes, bytes] | None, **form: Any) -> Path:
    """Write rows as CSV, or as Parquet of whatever types the values have."""
    if path.suffix == ".parquet":
        columns = {name: [row.get(name) for row in rows] for name in rows[0]}
        pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)
        return path
    text = io.StringIO()
    writer = csv.writer(text, **form)
    writer.writerow(rows[0])
    writer.writerows(row.values() for row in rows)
    path.write_bytes(text.getvalue().encode())
    return path


def make_labels(folder: Path, layout: tuple[str, str], edit: Edit | None = None, metadata: Edit | None = None) -> Path:
    """Write the table, and once more with its rows, or its metadata, edited."""
    format, suffix = layout
    path = folder / f"labels{suffix}"
    write_table(make_table(), path, format)  # type: ignore[arg-type]
    if suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            rows: list[Row] = list(csv.DictReader(file))
        stored = None
    else:
        rows, stored = pq.read_table(path).to_pylist(), dict(pq.read_schema(path).metadata or {})
    if edit is not None:
        edit(rows)
    if metadata is not None and stored is not None:
        body = [json.loads(stored[METADATA_KEY])]
        metadata(body)
        stored[METADATA_KEY] = json.dumps(body[0]).encode()
    return write_rows(path, rows, stored)


def command(name: str, labels: Path, gold: Path) -> list[object]:
    if name == "score":
        return ["score", labels, gold, "--json"]
    return ["noise", labels, "--gold", gold, "-o", labels.parent / "channels.json"]


def set_(row: int, **values: Any) -> Edit:
    """Edit: change cells of one row; of the column and not of the cell where the type would change."""
    return lambda rows: rows[row].update(values)


def all_(**values: Any) -> Edit:
    return lambda rows: [row.update(values) for row in rows]


def columns(name: str, change: Callable[[Any], Any]) -> Edit:
    return lambda rows: [row.update({name: change(row[name])}) for row in rows]


def again(rows: list[Row]) -> None:
    rows.append(dict(rows[0]))


# --- read right ---------------------------------------------------------------------------------------------------------------


def expected_score(cli: Cli, folder: Path) -> dict[str, Any]:
    status, out, _ = cli(*command("score", make_labels(folder, ("wide", ".csv")), make_gold(folder / "gold.csv")))
    assert status == 0
    return dict(json.loads(out)["findings"])


@pytest.mark.parametrize("layout", LAYOUTS, ids="".join)
def test_every_layout_scores_and_measures_alike(cli: Cli, tmp_path: Path, layout: tuple[str, str]) -> None:
    known = ("known", "positives", "predicted", "true_positives", "precision", "recall", "f1")
    expected = {f: {k: s[k] for k in known} for f, s in expected_score(cli, tmp_path).items()}
    assert expected["Edema"]["recall"] == pytest.approx(12 / 14)
    labels, gold = make_labels(tmp_path, layout), make_gold(tmp_path / "gold.csv")
    status, out, err = cli(*command("score", labels, gold))
    assert (status, err) == (0, "")
    assert {f: {k: s[k] for k in known} for f, s in json.loads(out)["findings"].items()} == expected
    assert cli(*command("noise", labels, gold))[0] == 0
    (channels,) = read_channels(tmp_path / "channels.json").channels.values()
    assert channels["*"]["Edema"].counts.tolist() == [[0, 22, 0, 4], [12, 0, 0, 2]]


READ_TABLE: dict[str, tuple[tuple[str, str], Edit | None, Edit | None]] = {
    "vocabulary of another version": (
        ("long", ".parquet"),
        None,
        lambda m: m[0]["vocabulary"].update(version="2", hash="0" * 16),
    ),
    "vocabulary of another name": (("long", ".parquet"), None, lambda m: m[0]["vocabulary"].update(name="other")),
    "labeler of another version": (("long", ".parquet"), None, lambda m: m[0].update(labeler_version="7")),
    "no metadata of ours": (("long", ".parquet"), None, lambda m: m[0].clear()),
    "findings in another order": (("long", ".csv"), lambda rows: rows.reverse(), None),
    "probabilities as text": (("long", ".parquet"), columns("probability", str), None),
    "spaces around a state": (("long", ".csv"), columns("state", lambda s: f" {s} "), None),
    "no evidence": (("long", ".csv"), lambda rows: [row.pop("evidence") for row in rows], None),
    "null evidence": (("long", ".parquet"), all_(evidence=None), None),
    "columns of others, 5,000 of them": (
        ("long", ".csv"),
        lambda rows: (
            [row.update({f"c{i}": "" for i in range(5000)}) for row in rows[:1]]
            and [r.update({f"c{i}": "x" for i in range(5000)}) for r in rows[1:]]
        ),
        None,
    ),
    "evidence of wide integers in another order": (
        ("long", ".parquet"),
        columns("evidence", lambda places: [{k: p[k] for k in ("cue", "state", "end", "start")} for p in places]),
        None,
    ),
    "whole numbers with a point": (
        ("chexpert", ".csv"),
        columns("Edema", lambda v: v.replace("1.0", "1").replace("0.0", "0")),
        None,
    ),
    "integers": (("chexpert", ".parquet"), columns("Edema", lambda v: None if v is None else int(v)), None),
}


@pytest.mark.parametrize("case", READ_TABLE)
def test_a_table_that_is_odd_and_clear_is_read_right(cli: Cli, tmp_path: Path, case: str) -> None:
    """Tables and gold meet by the names of findings: a vocabulary of another version or hash is none of their business."""
    layout, edit, metadata = READ_TABLE[case]
    gold = make_gold(tmp_path / "gold.csv")
    scores = [cli(*command("score", make_labels(tmp_path, layout, *edits), gold)) for edits in ((), (edit, metadata))]
    assert scores[1][0] == 0, scores[1][2]
    assert scores[0] == scores[1]


GOLD_READ: dict[str, Callable[[Path], Path]] = {
    "semicolons": lambda folder: make_gold(folder / "g.csv", delimiter=";"),
    "tabs": lambda folder: make_gold(folder / "g.csv", delimiter="\t"),
    "all quoted": lambda folder: make_gold(folder / "g.csv", quoting=csv.QUOTE_ALL),
    "with a point and spaces": lambda folder: make_gold(folder / "g.csv", columns("Edema", lambda v: f" {v}.0 ")),
    "byte order mark": lambda folder: recoded(make_gold(folder / "g.csv"), "utf-8-sig"),
    "UTF-16": lambda folder: recoded(make_gold(folder / "g.csv"), "utf-16"),
    "old Mac line ends": lambda folder: make_gold(folder / "g.csv", lineterminator="\r"),
    "ugly name": lambda folder: make_gold(folder / "na me\n\u202eü\U0001f600.csv"),
}


def recoded(path: Path, encoding: str) -> Path:
    path.write_bytes(path.read_bytes().decode().encode(encoding))
    return path


@pytest.mark.parametrize("case", GOLD_READ)
def test_gold_that_is_odd_and_clear_is_read_right(cli: Cli, tmp_path: Path, case: str) -> None:
    expected = expected_score(cli, tmp_path)
    status, out, err = cli(*command("score", make_labels(tmp_path, ("wide", ".csv")), GOLD_READ[case](tmp_path)))
    assert (status, err) == (0, "")
    assert json.loads(out)["findings"] == expected


@pytest.mark.parametrize("name", ["score", "noise"])
def test_what_labels_and_gold_have_not_in_common_is_said(cli: Cli, tmp_path: Path, name: str) -> None:
    def others(rows: list[Row]) -> None:
        for row in rows:
            row.update({"Odema": "1", "Fracutre": "0"})
        rows[0]["report_id"] = "elsewhere"

    labels, gold = make_labels(tmp_path, ("long", ".parquet")), make_gold(tmp_path / "gold.csv", others)
    status, out, err = cli(*command(name, labels, gold))
    assert status == 0
    first, *others_said = err.splitlines()
    assert first == "labelers: 2 of the gold's findings are not among those of 'reader' and are left out: Odema, Fracutre"
    assert bool(others_said) == (name == "noise")
    if name == "score":
        assert json.loads(out)["without_label"] == 1


# --- refused ------------------------------------------------------------------------------------------------------------------


def place(**changes: Any) -> dict[str, Any]:
    return {"start": 0, "end": 5, "state": "positive", "cue": "no", **changes}


def evidence(*places: Any) -> Edit:
    """Edit: the evidence of the sixth row, in the type of either layout."""

    def edit(rows: list[Row]) -> None:
        as_text = isinstance(rows[0]["evidence"], str)
        rows[5]["evidence"] = json.dumps(list(places)) if as_text else list(places)

    return edit


EVERY, LONG, WIDE, CHEXPERT = LAYOUTS, LAYOUTS[:2], LAYOUTS[2:4], LAYOUTS[4:]
CSV, PARQUET = [LONG[0]], [LONG[1]]
SIXTH = ("row 6", "line 7")
"""Where the sixth row stands in Parquet and in CSV."""

REFUSED: dict[str, tuple[list[tuple[str, str]], Edit, tuple[str, ...]]] = {
    "row twice": (LONG, again, ("stand in an earlier row",)),
    "id twice": (WIDE + CHEXPERT, again, ("41|line 42", "unique")),
    "id empty": (EVERY, set_(5, report_id=""), ("|".join(SIXTH), "id is empty")),
    "id blank": (EVERY, set_(5, report_id=" \t"), ("|".join(SIXTH), "id is empty")),
    "id null": ([x for x in LAYOUTS if x[1] == ".parquet"], set_(5, report_id=None), ("row 6", "id is empty")),
    "ids with nan": (
        [x for x in LAYOUTS if x[1] == ".parquet"],
        lambda rows: [r.update(report_id=float("nan") if r is rows[5] else 1.0) for r in rows],
        ("whole numbers", "'report_id'"),
    ),
    "ids in lists": ([x for x in LAYOUTS if x[1] == ".parquet"], columns("report_id", lambda i: [i]), ("'report_id'",)),
    "NUL in an id": (EVERY, set_(5, report_id="a\0"), ("NUL",)),
    "NUL for a state": (LONG, set_(5, state="\0"), ("NUL",)),
    "unknown state": (LONG, set_(5, state=MARKER), ("|".join(SIXTH), "'state'", "positive, negative, uncertain, unmentioned")),
    "state in capitals": (LONG, set_(5, state="Positive"), ("|".join(SIXTH), "'state'")),
    "state empty": (LONG, set_(5, state=""), ("|".join(SIXTH), "'state'")),
    "states as numbers": (PARQUET, all_(state=1), ("row 1", "'state'")),
    "unknown state, wide": (WIDE, set_(5, **{"Edema:state": MARKER}), ("|".join(SIXTH), "'Edema:state'")),
    "unknown value, chexpert": ([CHEXPERT[0]], set_(5, Edema="2.0"), ("line 7", "'Edema'", "1.0, 0.0, -1.0 or nothing")),
    "unknown number, chexpert": ([CHEXPERT[1]], set_(5, Edema=0.5), ("row 6", "'Edema'", "1.0, 0.0, -1.0 or nothing")),
    "words, chexpert": ([CHEXPERT[0]], set_(5, Edema=MARKER), ("line 7", "'Edema'")),
    "too probable": (LONG, set_(5, probability=1.0001), ("|".join(SIXTH), "'probability'", "[0, 1]")),
    "less than impossible": (LONG, set_(5, probability=-1e-9), ("|".join(SIXTH), "'probability'", "[0, 1]")),
    "probability nan": (LONG, set_(5, probability=float("nan")), ("|".join(SIXTH), "'probability'")),
    "probability infinite": (LONG, set_(5, probability=float("inf")), ("|".join(SIXTH), "'probability'", "[0, 1]")),
    "probability beyond float32": (LONG, set_(5, probability=1e300), ("|".join(SIXTH), "'probability'", "[0, 1]")),
    "probability in words": (CSV, set_(5, probability=MARKER), ("line 7", "'probability'", "number")),
    "probability with a comma": (CSV, set_(5, probability="0,5"), ("line 7", "'probability'", "number")),
    "probability empty": (CSV, set_(5, probability=""), ("line 7", "'probability'", "number")),
    "probability null": (PARQUET, set_(5, probability=None), ("row 6", "'probability'", "number")),
    "probabilities in words": (PARQUET, all_(probability="high"), ("numbers in the column 'probability'",)),
    "probabilities as dates": (
        PARQUET,
        all_(probability=pa.scalar(1, pa.date32()).as_py()),
        ("numbers in the column 'probability'",),
    ),
    "too uncertain": (LONG, set_(5, uncertainty=2), ("|".join(SIXTH), "'uncertainty'", "[0, 1]")),
    "too probable, wide": (WIDE, set_(5, Edema=1.5), ("|".join(SIXTH), "'Edema'", "[0, 1]")),
    "probability nan, wide": (WIDE, set_(5, Edema=float("nan")), ("|".join(SIXTH), "'Edema'")),
    "two labelers": (LONG, set_(5, source="other"), ("2 sources", "one file a labeler")),
    "a finding misspelt": (CSV, set_(5, finding="Fracutre"), ("line 7", "does not stand for every one of the 40")),
    "a finding unknown": (PARQUET, set_(5, finding="Odema"), ("row 6", "not in the table's vocabulary")),
    "findings with spaces": (CSV, columns("finding", lambda f: f + " "), ("expected findings named in words",)),
    "findings with line ends": (CSV, columns("finding", lambda f: MARKER + "\n" + f), ("expected findings named in words",)),
    "findings named like columns": (CSV, columns("finding", lambda f: f + ":state"), ("expected findings named in words",)),
    "evidence no JSON": (CSV, set_(5, evidence=f"[{MARKER}"), ("line 7", "'evidence'", "JSON list")),
    "evidence a record": (CSV, set_(5, evidence='{"start": 1}'), ("line 7", "'evidence'")),
    "evidence a number": (CSV, set_(5, evidence="3"), ("line 7", "'evidence'")),
    "evidence 100,000 lists deep": (CSV, set_(5, evidence="[" * 100_000), ("line 7", "'evidence'")),
    "evidence of 5,000 digits": (CSV, set_(5, evidence='[{"start": ' + "1" * 5000 + "}]"), ("line 7", "'evidence'")),
    "evidence in words": (PARQUET, all_(evidence=MARKER), ("lists of places in the column 'evidence'",)),
    "evidence of lists": (PARQUET, all_(evidence=[["a"]]), ("lists of places in the column 'evidence'",)),
    "place before the text": (LONG, evidence(place(start=-1)), ("'evidence'",)),
    "place that ends before it begins": (LONG, evidence(place(start=5, end=4)), ("'evidence'",)),
    "place of nothing": (LONG, evidence(place(start=5)), ("'evidence'",)),
    "place beyond any text": (LONG, evidence(place(end=2**31)), ("'evidence'",)),
    "place with half a sign": (CSV, evidence(place(start=0.5)), ("line 7", "'evidence'")),
    "place as text": (CSV, evidence(place(start="0")), ("line 7", "'evidence'")),
    "place without an end": (LONG, evidence({"start": 0, "state": "positive", "cue": "no"}), ("'evidence'",)),
    "place of an unknown state": (LONG, evidence(place(state=MARKER)), ("'evidence'",)),
    "place that mentions nothing": (LONG, evidence(place(state="unmentioned")), ("'evidence'",)),
    "place with a number for a cue": (CSV, evidence(place(cue=3)), ("line 7", "'evidence'")),
}


@pytest.mark.parametrize("name", ["score", "noise"])
@pytest.mark.parametrize(
    ("case", "layout"), [pytest.param(c, x, id=f"{c}, {x[0]}{x[1]}") for c, (layouts, *_) in REFUSED.items() for x in layouts]
)
def test_a_broken_table_is_refused(cli: Cli, tmp_path: Path, name: str, case: str, layout: tuple[str, str]) -> None:
    _, edit, parts = REFUSED[case]
    labels, gold = make_labels(tmp_path, layout, edit), make_gold(tmp_path / "gold.csv")
    (tmp_path / "channels.json").write_bytes(BEFORE)
    err = refuses(cli, tmp_path, command(name, labels, gold), (str(labels),))
    for part in parts:
        assert any(way in err for way in part.split("|")), err


def circle(body: list[Any]) -> None:
    body[0]["vocabulary"]["findings"] = [{"name": "Edema", "parent": "Fracture"}, {"name": "Fracture", "parent": "Edema"}]


def deep(body: list[Any]) -> None:
    nested: list[Any] = []
    for _ in range(500):
        nested = [nested]
    body[0]["unmentioned"] = {"probability": nested, "uncertainty": nested}


METADATA: dict[str, tuple[Callable[[list[Any]], object], str]] = {
    "a list": (lambda m: m.insert(0, []), "the metadata are broken"),
    "another schema": (lambda m: m[0].update(schema_version=2), "expected schema version 1"),
    "parents that are no names": (lambda m: m[0].update(parents=[1]), "the metadata are broken"),
    "parents in one word": (lambda m: m[0].update(parents="abc"), "the metadata are broken"),
    "no vocabulary in it": (lambda m: m[0].update(vocabulary=3), "the vocabulary in the metadata is broken"),
    "a finding without a name": (lambda m: m[0]["vocabulary"]["findings"].append({"parent": None}), "vocabulary in the metadata"),
    "a finding that is a number": (
        lambda m: m[0]["vocabulary"]["findings"].append({"name": 1, "parent": None}),
        "vocabulary in the",
    ),
    "a finding that is a list": (
        lambda m: m[0]["vocabulary"]["findings"].append({"name": [], "parent": None}),
        "vocabulary in the",
    ),
    "a finding twice": (lambda m: m[0]["vocabulary"]["findings"].append({"name": "Edema", "parent": None}), "vocabulary in the"),
    "a parent that is none": (lambda m: m[0]["vocabulary"]["findings"][0].update(parent="Mass"), "vocabulary in the metadata"),
    "parents in a circle": (circle, "vocabulary in the metadata"),
    "a hash that is a number": (lambda m: m[0]["vocabulary"].update(hash=5), "vocabulary in the metadata"),
    "blank values in words": (lambda m: m[0].update(unmentioned="none"), "the values of unmentioned cells"),
    "blank values too many": (
        lambda m: m[0].update(unmentioned={"probability": [0.1] * 3, "uncertainty": [0.1] * 3}),
        "values of unm",
    ),
    "blank values beyond one": (
        lambda m: m[0].update(unmentioned={"probability": [2, 2], "uncertainty": [1, 1]}),
        "values of unm",
    ),
    "blank values beyond numbers": (
        lambda m: m[0].update(unmentioned={"probability": [10**400] * 2, "uncertainty": [0, 0]}),
        "the values of unmentioned cells",
    ),
    "blank values 500 lists deep": (deep, "the values of unmentioned cells"),
}


@pytest.mark.parametrize("case", METADATA)
def test_broken_metadata_are_refused(cli: Cli, tmp_path: Path, case: str) -> None:
    edit, message = METADATA[case]
    labels = make_labels(tmp_path, ("long", ".parquet"), None, edit)
    refuses(cli, tmp_path, command("score", labels, make_gold(tmp_path / "gold.csv")), (str(labels), message))


@pytest.mark.parametrize("raw", [b"{", b"[" * 100_000, b"\xff", b"null", b'{"vocabulary": ' + b"1" * 5000 + b"}"], ids=range(5))
def test_metadata_that_are_no_json_are_refused(cli: Cli, tmp_path: Path, raw: bytes) -> None:
    labels = make_labels(tmp_path, ("long", ".parquet"))
    pq.write_table(pq.read_table(labels).replace_schema_metadata({METADATA_KEY: raw}), labels)
    refuses(cli, tmp_path, command("score", labels, make_gold(tmp_path / "gold.csv")), (str(labels), "metadata are broken"))


# --- files that are no tables, and code in them -------------------------------------------------------------------------------


FILES: dict[str, tuple[str, bytes | None, tuple[str, ...]]] = {
    "pickle as Parquet": ("t.parquet", BOMB, ("not a readable Parquet",)),
    "pickle as CSV": ("t.csv", BOMB, ("line 1",)),
    "pickle": ("t.pkl", BOMB, ("'.pkl'",)),
    "CSV as Parquet": ("t.parquet", b"report_id,Edema\na,1.0\n", ("not a readable Parquet",)),
    "empty Parquet": ("t.parquet", b"", ("not a readable Parquet",)),
    "cut Parquet": ("t.parquet", b"PAR1" + bytes(99), ("not a readable Parquet",)),
    "empty CSV": ("t.csv", b"", ("expected a header",)),
    "header alone": ("t.csv", b"report_id,Edema\n", ("share no report id",)),
    "reports instead of labels": ("t.csv", b"report_id,text\na," + MARKER.encode(), ("expected a label table",)),
    "Latin-1": ("t.csv", b"report_id,Edema\nJ\xfcrgen,1.0\n", ("line 2", "UTF-8")),
    "NUL in the header": ("t.csv", b"report_id\0,Edema\n", ("line 1", "NUL")),
    "column twice": ("t.csv", b"report_id,Edema,Edema\na,1.0,0.0\n", ("two columns", "(Edema)")),
    "ragged": ("t.csv", b"report_id,Edema\na\n", ("line 2", "expected 2 fields")),
    "quote left open": ("t.csv", b'report_id,Edema\na,"1.0\n', ("line 2", "quotes")),
    "no id": ("t.csv", b"key,Edema\na,1.0\n", ("'report_id'", "key, Edema")),
    "a folder": ("t.csv", None, ("it is a folder",)),
    "a folder of Parquet": ("t.parquet", None, ("it is a folder",)),
}


@pytest.mark.parametrize("name", ["score", "noise"])
@pytest.mark.parametrize("case", FILES)
def test_what_is_no_table_is_refused(cli: Cli, tmp_path: Path, name: str, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file, content, parts = FILES[case]
    monkeypatch.chdir(tmp_path)
    if content is None:
        (tmp_path / file).mkdir()
    else:
        (tmp_path / file).write_bytes(content)
    gold = make_gold(tmp_path / "gold.csv")
    refuses(cli, tmp_path, command(name, tmp_path / file, gold), parts)


def test_a_pickle_in_the_metadata_of_a_table_is_not_loaded(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CVE-2023-47248 (pyarrow before 14.0.1), in every column of a table, and beside pandas' own metadata."""
    monkeypatch.chdir(tmp_path)
    labels, gold = make_labels(tmp_path, ("long", ".parquet")), make_gold(tmp_path / "gold.csv")
    expected = cli(*command("score", labels, gold))
    pickled = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": BOMB}
    data = pq.read_table(labels)
    schema = pa.schema([field.with_metadata(pickled) for field in data.schema], {b"pandas": BOMB, **data.schema.metadata})
    pq.write_table(data.cast(schema), labels)
    before = snapshot(tmp_path)
    assert cli(*command("score", labels, gold)) == expected
    assert snapshot(tmp_path) == before


# --- gold ---------------------------------------------------------------------------------------------------------------------

GOLD: dict[str, tuple[Edit, tuple[str, ...]]] = {
    "a two": (set_(5, Edema="2"), ("line 7", "'Edema'", "1, 0 or nothing")),
    "a half": (set_(5, Edema="0.5"), ("line 7", "'Edema'", "1, 0 or nothing")),
    "minus one": (set_(5, Edema="-1"), ("line 7", "'Edema'", "1, 0 or nothing")),
    "words": (set_(5, Edema=MARKER), ("line 7", "'Edema'", "1, 0 or nothing")),
    "nan": (set_(5, Edema="nan"), ("line 7", "'Edema'")),
    "id twice": (again, ("line 42", "line 2", "unique")),
    "id empty": (set_(5, report_id=""), ("line 7", "id is empty")),
    "id blank": (set_(5, report_id="  "), ("line 7", "id is empty")),
    "a column of words": (lambda rows: [row.update(comment=MARKER) for row in rows], ("line 2", "'comment'")),
    "other ids": (columns("report_id", lambda i: MARKER + i), ("share no report id", "(40 against 40)")),
    "ids that lost their zeros": (
        lambda rows: rows.__setitem__(slice(None), [{**r, "report_id": str(int(r["report_id"]))} for r in rows[:9]]),
        ("share no report id",),
    ),
    "no finding of the labels": (
        lambda rows: [row.update({"Goiter": row.pop("Edema"), "Mass": row.pop("Fracture")}) for row in rows],
        ("share no finding", "Goiter, Mass", "Edema, Fracture"),
    ),
    "no finding": (lambda rows: [(row.pop("Edema"), row.pop("Fracture")) for row in rows], ("one column a finding",)),
    "no id": (
        lambda rows: [row.update(key=row.pop("report_id")) for row in rows],
        ("expected an id column", "Edema, Fracture, key"),
    ),
    "ids in bytes of another column": (
        lambda rows: [row.update({"": ""}) or row.update({" ": ""}) for row in rows],
        ("no name",),
    ),
}


@pytest.mark.parametrize("name", ["score", "noise"])
@pytest.mark.parametrize("case", GOLD)
def test_broken_gold_is_refused(cli: Cli, tmp_path: Path, name: str, case: str) -> None:
    edit, parts = GOLD[case]
    gold = make_gold(tmp_path / "gold.csv", edit)
    refuses(cli, tmp_path, command(name, make_labels(tmp_path, ("long", ".parquet")), gold), parts)


@pytest.mark.parametrize(
    ("file", "content", "part"),
    [
        ("g.csv", b"", "expected a header"),
        ("g.csv", b"report_id,Edema\n", "one row a report"),
        ("g.csv", b"report_id,Edema\na,1\nb\n", "line 3"),
        ("g.csv", b'report_id,Edema\na,"1\n', "line 2"),
        ("g.csv", b"report_id,Edema\nJ\xfcrgen,1\n", "line 2: bytes that are not UTF-8"),
        ("g.csv", b"report_id,Edema,Edema\na,1,0\n", "two columns"),
        ("g.csv", BOMB, "line 1"),
        ("g.parquet", b"PAR1\xff", "line 1"),
        ("g.csv", None, "it is a folder"),
        ("absent.csv", ..., "no such file"),
    ],
    ids=["empty", "header", "ragged", "open quote", "Latin-1", "column twice", "pickle", "Parquet", "folder", "absent"],
)
def test_what_is_no_gold_is_refused(
    cli: Cli, tmp_path: Path, file: str, content: Any, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is None:
        (tmp_path / file).mkdir()
    elif content is not ...:
        (tmp_path / file).write_bytes(content)
    refuses(cli, tmp_path, command("score", make_labels(tmp_path, ("long", ".csv")), tmp_path / file), (file, part))


# --- where the channels go ----------------------------------------------------------------------------------------------------

OUTPUTS: dict[str, tuple[str, tuple[str, ...], int]] = {
    "the gold": ("gold.csv", ("another file than the tables and the gold",), 2),
    "the table": ("labels.csv", ("another file than the tables and the gold",), 2),
    "the gold, by a link": ("link.json", ("another file than the tables and the gold",), 2),
    "a folder": ("folder", ("it is a folder",), 1),
    "a device": ("null.json", ("device or a pipe",), 1),
    "behind a file": ("gold.csv/c.json", ("gold.csv is no folder",), 1),
    "a name too long": ("n" * 256, ("File name too long",), 1),
}


@pytest.mark.parametrize("case", OUTPUTS)
def test_channels_go_over_nothing_that_was_read(cli: Cli, tmp_path: Path, case: str) -> None:
    output, parts, status = OUTPUTS[case]
    labels, gold = make_labels(tmp_path, ("long", ".csv")), make_gold(tmp_path / "gold.csv")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.json").symlink_to("gold.csv")
    (tmp_path / "null.json").symlink_to(os.devnull)
    refuses(cli, tmp_path, ["noise", labels, "--gold", gold, "-o", tmp_path / output], parts, status)


def test_a_disk_that_is_full_leaves_the_channels_that_were_there(cli: Cli, tmp_path: Path) -> None:
    labels, gold = make_labels(tmp_path, ("long", ".csv")), make_gold(tmp_path / "gold.csv")
    (tmp_path / "channels.json").write_bytes(BEFORE)

    refuses(
        on_a_disk_of(99, cli), tmp_path, command("noise", labels, gold), ("channels.json", "cannot be written (File too large)")
    )


def test_two_tables_of_one_labeler_are_refused(cli: Cli, tmp_path: Path) -> None:
    labels, gold = make_labels(tmp_path, ("long", ".parquet")), make_gold(tmp_path / "gold.csv")
    argv = ["noise", labels, labels, "--gold", gold, "-o", tmp_path / "channels.json"]
    refuses(cli, tmp_path, argv, ("two tables are by the labeler 'reader'",))
