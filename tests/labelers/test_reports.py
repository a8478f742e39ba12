"""Reports in: every kind of file and folder, and for every way of being broken the one line that says where and what to do."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labelers import InputError, Report, read_reports

MARKER = "Xylophonist"
"""Planted in texts and ids; no error may repeat it."""
TWO = [Report("a", "No effusion."), Report("b", "Mild edema.")]


def xml(identifier: str, *sections: tuple[str, str]) -> bytes:
    body = "".join(f'<AbstractText Label="{label}">{text}</AbstractText>' for label, text in sections)
    return f'<eCitation><uId id="{identifier}"/><Abstract>{body}</Abstract></eCitation>'.encode()


def tgz(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def read(path: Path, **columns: str) -> list[Report]:
    return list(read_reports(path, **columns))


def fails(path: Path, *parts: str, **columns: str) -> str:
    """Reading fails with one line that holds every part and no word of a report."""
    with pytest.raises(InputError) as caught:
        read(path, **columns)
    message = str(caught.value)
    for part in (str(path), *parts):
        assert part in message
    assert MARKER not in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(b"report_id,text\na,No effusion.\nb,Mild edema.\n", TWO, id="plain"),
        pytest.param(b"\xef\xbb\xbfreport_id,text\na,No effusion.\nb,Mild edema.\n", TWO, id="byte order mark"),
        pytest.param(b'\xef\xbb\xbf"report_id","text"\na,No effusion.\nb,Mild edema.\n', TWO, id="mark before a quote"),
        pytest.param(b"report_id;text\na;No effusion.\nb;Mild edema.\n", TWO, id="semicolon"),
        pytest.param(b"report_id\ttext\na\tNo effusion.\nb\tMild edema.\n", TWO, id="tab"),
        pytest.param(b"report_id|text\na|No effusion.\nb|Mild edema.\n", TWO, id="bar"),
        pytest.param(b'report_id;text;"size, cm"\na;No effusion.;\nb;Mild edema.;3\n', TWO, id="comma inside a quoted name"),
        pytest.param(b"report_id,text\r\na,No effusion.\r\nb,Mild edema.\r\n", TWO, id="CRLF"),
        pytest.param(b"text, report_id\nNo effusion.,a\nMild edema.,b", TWO, id="space in the header, no last line end"),
        pytest.param(b"study_id,report\n\na,No effusion.\n\nb,Mild edema.\n", TWO, id="blank lines, other names"),
        pytest.param(b'id,text\na,"No ""large"" effusion, none."\n', [Report("a", 'No "large" effusion, none.')], id="quotes"),
        pytest.param(b'id,text\r\na,"No\r\neffusion.\n"\r\n', [Report("a", "No\r\neffusion.\n")], id="line ends inside quotes"),
        pytest.param(b"id,text\na,\n", [Report("a", "")], id="empty text"),
        pytest.param("id,text\nä,Erguß\n".encode("utf-16"), [Report("ä", "Erguß")], id="UTF-16 with its mark"),
        pytest.param("id,text\nä,Ergu\u00df \U0001f600.\n".encode(), [Report("ä", "Erguß \U0001f600.")], id="Unicode"),
    ],
)
def test_csv(tmp_path: Path, content: bytes, expected: list[Report]) -> None:
    path = tmp_path / "r.csv"
    path.write_bytes(content)
    assert read(path) == expected


def test_columns_by_name_come_before_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("id,text,accession,body\na,wrong,b,right\n", encoding="utf-8")
    assert read(path, text_column="body", id_column="accession") == [Report("b", "right")]


@pytest.mark.parametrize(
    ("ids", "texts"),
    [
        (pa.array(["a", "b"]), pa.array(["No effusion.", "Mild edema."])),
        (pa.array(["a", "b"], pa.large_string()), pa.array(["No effusion.", "Mild edema."], pa.large_string())),
        (pa.array(["a", "b"]).dictionary_encode(), pa.array(["No effusion.", "Mild edema."]).dictionary_encode()),
        (pa.array([b"a", b"b"]), pa.array([b"No effusion.", b"Mild edema."])),
    ],
    ids=["string", "large_string", "dictionary", "binary"],
)
def test_parquet_types(tmp_path: Path, ids: pa.Array, texts: pa.Array) -> None:
    pq.write_table(pa.table({"id": ids, "text": texts}), tmp_path / "r.parquet")
    assert read(tmp_path / "r.parquet") == TWO


def test_parquet_integer_ids_and_null_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [7, 8], "text": ["No effusion.", None]}), tmp_path / "r.parquet")
    assert read(tmp_path / "r.parquet") == [Report("7", "No effusion."), Report("8", "")]


def test_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"id": "a", "text": "No effusion."}\r\n\n{"text": null, "id": 3, "other": [1]}')
    assert read(path) == [Report("a", "No effusion."), Report("3", "")]


def test_folder_of_txt(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b.TXT").write_bytes(b"\xef\xbb\xbfMild edema.")
    (tmp_path / "a.txt").write_bytes(b"No effusion.")
    (tmp_path / "notes.pdf").write_bytes(b"%PDF")
    assert read(tmp_path) == TWO


OPEN_I = {
    "ecgen/1.xml": xml("CXR1", ("INDICATION", "Cough"), ("FINDINGS", "No effusion.\n  <b>Clear</b> lungs."), ("IMPRESSION", "")),
    "ecgen/2.xml": xml("CXR2"),
}
OPEN_I_READ = [Report("CXR1", "INDICATION: Cough\nFINDINGS: No effusion. Clear lungs."), Report("CXR2", "")]


def test_open_i_folder_and_archive_read_alike(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "ecgen").mkdir(parents=True)
    for name, data in OPEN_I.items():
        (folder / name).write_bytes(data)
    for name in ("r.tgz", "r.tar.gz"):
        (tmp_path / name).write_bytes(tgz({"ecgen/README": b"none", **OPEN_I}))
        assert read(tmp_path / name) == OPEN_I_READ
    assert read(folder) == OPEN_I_READ


def test_open_i_is_read_whole(open_i: Path) -> None:
    start = time.monotonic()
    reports = read(open_i)
    assert time.monotonic() - start < 20
    with tarfile.open(open_i) as archive:
        files = [n for n in archive.getnames() if n.endswith(".xml")]
    assert len(reports) == len(files) == 3955
    assert {r.report_id for r in reports} == {f"CXR{Path(n).stem}" for n in files}
    assert sum("FINDINGS: " in r.text or "IMPRESSION: " in r.text for r in reports) > 3900


def csv_file(content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "r.csv").write_bytes(content)
        return folder / "r.csv"

    return make


def file(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def folder(**files: bytes) -> Callable[[Path], Path]:
    def make(parent: Path) -> Path:
        for name, data in files.items():
            (parent / name.replace("_", ".")).write_bytes(data)
        return parent

    return make


def parquet(**columns: object) -> Callable[[Path], Path]:
    def make(parent: Path) -> Path:
        pq.write_table(pa.table(columns), parent / "r.parquet")
        return parent / "r.parquet"

    return make


M = MARKER.encode()
BROKEN: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "no text column": (
        csv_file(b"id,body,age\na," + M + b",3\n"),
        ("text, report, report_text", "id, body, age", "--text-column"),
    ),
    "no id column": (csv_file(b"key,text\na," + M + b"\n"), ("report_id, study_id, id", "key, text", "--id-column")),
    "no header": (csv_file(b"1234," + M + b" shows no effusion.\n"), ("expected a text column", "header missing")),
    "no header, ids alike": (csv_file(M + b"." + b"," + M + b".\n"), ("two columns", "rename")),
    "not UTF-8": (csv_file(b"id,text\na," + M + b"\nb,Erg\xfc\xdf\n"), ("line 3", "UTF-8")),
    "not UTF-8 after a line end in quotes": (csv_file(b'id,text\na,"x\n\n' + M + b'"\nb,\xfc\n'), ("line 5", "UTF-8")),
    "UTF-16 without a mark": (csv_file("id,text\na,b\n".encode("utf-16-le")), ("line 1", "NUL", "UTF-8")),
    "id twice": (csv_file(b'id,text\n%b,"x\ny"\nb,z\n%b,x\n' % (M, M)), ("line 5", "line 2", "unique")),
    "empty id": (csv_file(b"id,text\n,x\n"), ("line 2", "id is empty")),
    "ragged": (csv_file(b"id,text\na,b\nc,d," + M + b"\n"), ("line 3", "expected 2 fields", "got 3", "quote")),
    "ragged after a line end in quotes": (csv_file(b'id,text\na,"b\nc"\n' + M + b"\n"), ("line 4", "got 1")),
    "open quote": (csv_file(b'id,text\na,b\nc,"' + M + b"\nd,e\n"), ("line 3", "quotes")),
    "text after a quote": (csv_file(b'id,text\na,"b" ' + M + b"\n"), ("line 2", "quotes")),
    "column twice": (csv_file(b"id,text,text\na,b,c\n"), ("two columns", "(text)")),
    "empty file": (csv_file(b""), ("expected a header",)),
    "mark alone": (csv_file(b"\xef\xbb\xbf\n"), ("expected a header",)),
    "JSON line": (file("r.jsonl", b'{"id": 1, "text": "a"}\n{"id": 2, "text": "' + M + b"\n"), ("line 2", "JSON")),
    "JSON too deep": (file("r.jsonl", b"[" * 100_000), ("line 1", "JSON")),
    "JSON list": (file("r.jsonl", b'["' + M + b'"]\n'), ("line 1", "got a list")),
    "JSON without text": (file("r.jsonl", b'{"id": 1, "text": "a"}\n{"id": 2, "body": "b"}\n'), ("line 2", "id, body")),
    "JSON text that is none": (file("r.jsonl", b'{"id": 1, "text": ["' + M + b'"]}\n'), ("line 1", "string text")),
    "JSON id that is none": (file("r.jsonl", b'{"id": true, "text": "a"}\n'), ("line 1", "integer id")),
    "JSON half a character": (file("r.jsonl", b'{"id": "\\ud800", "text": "a"}\n'), ("line 1", "surrogate")),
    "JSON not UTF-8": (file("r.jsonl", b'{"id": 1, "text": "a"}\n{"id": 2, "text": "\xff"}\n'), ("line 2", "UTF-8")),
    "not Parquet": (file("r.parquet", b"PAR1" + M), ("Parquet",)),
    "Parquet without text": (parquet(id=["a"], body=[MARKER]), ("id, body", "--text-column")),
    "Parquet of lists": (parquet(id=["a"], text=[[MARKER]]), ("rows 1 to 1", "'text'")),
    "Parquet with a null id": (parquet(id=["a", None], text=["b", "c"]), ("row 2", "id is empty")),
    "Parquet with an id twice": (parquet(id=["a", MARKER, MARKER], text=["b", "c", "d"]), ("row 3", "row 2")),
    "mixed folder": (folder(a_txt=M, b_xml=xml("1")), (".txt", ".xml", "found both")),
    "empty folder": (folder(a_pdf=b"x"), ("found none",)),
    "text not UTF-8": (folder(a_txt=M + b"\n\xff"), ("a.txt", "line 2", "UTF-8")),
    "broken XML": (folder(a_xml=xml("1"), b_xml=b"<a>\n<" + M + b"</a>"), ("b.xml", "line 2", "XML")),
    "XML in an unknown encoding": (folder(a_xml=b'<?xml version="1.0" encoding="foo-9"?><a/>'), ("a.xml", "encoding")),
    "XML of something else": (folder(a_xml=b"<a>" + M + b"</a>"), ("a.xml", "uId/@id")),
    "XML with an id twice": (folder(a_xml=xml(MARKER), b_xml=xml(MARKER)), ("b.xml", "a.xml", "unique")),
    "archive of something else": (file("r.tgz", tgz({"a.txt": M})), ("found none",)),
    "archive with broken XML": (file("r.tgz", tgz({"x/a.xml": b"<" + M})), ("x/a.xml", "XML")),
    "no archive": (file("r.tgz", M), ("not a whole .tgz",)),
    "wrong suffix": (file("r.docx", M), (".csv, .parquet, .jsonl, .tgz", "'.docx'")),
    "no such file": (lambda parent: parent / "absent.csv", ("no such file",)),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_input_is_named(tmp_path: Path, case: str) -> None:
    make, parts = BROKEN[case]
    fails(make(tmp_path), *parts)


def test_a_given_column_that_is_missing(tmp_path: Path) -> None:
    path = csv_file(b"id,text\na,b\n")(tmp_path)
    fails(path, "text column 'body'", "id, text", "--text-column", text_column="body")


def test_a_column_twice_in_parquet(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"])] * 3, names=["id", "text", "text"])
    pq.write_table(table, tmp_path / "r.parquet")
    fails(tmp_path / "r.parquet", "two columns", "text")


def test_parquet_whose_strings_are_not_utf8(tmp_path: Path) -> None:
    data = [None, pa.py_buffer(np.array([0, 2], np.int32).tobytes()), pa.py_buffer(b"\xff\xfe")]
    pq.write_table(pa.table({"id": ["a"], "text": pa.Array.from_buffers(pa.string(), 1, data)}), tmp_path / "r.parquet")
    fails(tmp_path / "r.parquet", "'text'", "UTF-8")


def test_every_truncation_of_an_archive_is_noticed(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(97, 123, (20, 400), np.uint8)
    whole = tgz({f"{i}.xml": xml(f"CXR{i}", ("FINDINGS", row.tobytes().decode())) for i, row in enumerate(noise)})
    path = tmp_path / "r.tgz"
    for length in range(0, len(whole), 41):
        path.write_bytes(whole[:length])
        fails(path, "not a whole .tgz")
    path.write_bytes(whole)
    assert len(read(path)) == 20


def test_a_damaged_and_an_empty_archive_are_noticed(tmp_path: Path) -> None:
    whole = bytearray(tgz({"1.xml": xml("CXR1", ("FINDINGS", "x" * 500))}))
    whole[-6] ^= 0xFF  # in the length that gzip keeps at the end
    (tmp_path / "r.tgz").write_bytes(whole)
    fails(tmp_path / "r.tgz", "not a whole .tgz")
    (tmp_path / "r.tgz").write_bytes(gzip.compress(b""))
    fails(tmp_path / "r.tgz", "not a whole .tgz")


def test_truncated_and_damaged_parquet(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    texts = [f"{MARKER} {i}" for i in range(5000)]
    pq.write_table(pa.table({"id": [str(i) for i in range(5000)], "text": texts}), path, compression="zstd")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    fails(path, "Parquet", "write it again")
    middle = bytearray(whole)
    middle[100:2000] = bytes(1900)
    path.write_bytes(middle)
    fails(path, "Parquet", "write it again")


def test_a_file_that_cannot_be_opened_is_not_blamed_on_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = file("r.jsonl", json.dumps({"id": "a", "text": "b"}).encode())(tmp_path)
    reports = read_reports(path)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"r\.jsonl: cannot be read \(Permission denied\)"):
        list(reports)


def test_reports_are_read_one_at_a_time(tmp_path: Path) -> None:
    path = csv_file(b"id,text\n" + b"".join(b"%d,x\n" % i for i in range(100_000)) + b"7,again\n")(tmp_path)
    reports = read_reports(path)
    assert next(reports) == Report("0", "x")
    with pytest.raises(InputError, match="line 100002: the report id of line 9 again"):
        list(reports)
