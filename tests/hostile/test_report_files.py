"""Report files of every kind crossed with what goes wrong with files: read right where there is one way to read them, else refused."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labelers import Report, read_table, write_table
from labelers.io.reports import LONGEST
from labelers.types import STATES
from tests.hostile.refusals import BEFORE, BOMB, MARKER, Cli, Words, digest, on_a_disk_of, refuses, runner, snapshot

pytestmark = pytest.mark.filterwarnings("error")
LABELER = "tests.hostile.refusals:Words"
SCRIPT = Path(sys.executable).with_name("labelers")
M = MARKER.encode()
REPORTS = [Report("007", "Mild edema, no fracture."), Report("b", 'The "edema"; with\ttabs | and bars, is gone.')]

Make = Callable[[Path], Path]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return runner(capsys)


# --- makers of files ----------------------------------------------------------------------------------------------------------


def file(name: str, content: bytes) -> Make:
    def make(folder: Path) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    return make


def folder_of(files: dict[str, bytes], name: str = "in") -> Make:
    def make(folder: Path) -> Path:
        (folder / name).mkdir()
        for relative, content in files.items():
            file(relative, content)(folder / name)
        return folder / name

    return make


def then(make: Make, change: Callable[[Path], object]) -> Make:
    """Make an input, then change it."""

    def both(folder: Path) -> Path:
        path = make(folder)
        change(path)
        return path

    return both


def parquet(**columns: object) -> Make:
    def make(folder: Path) -> Path:
        pq.write_table(pa.table(columns), folder / "r.parquet")
        return folder / "r.parquet"

    return make


def rows(reports: list[Report] = REPORTS, head: tuple[str, str] = ("report_id", "text"), **form: Any) -> str:
    text = io.StringIO()
    writer = csv.writer(text, **form)
    writer.writerow(head)
    writer.writerows([r.report_id, r.text] for r in reports)
    return text.getvalue()


def jsonl(reports: list[Report] = REPORTS, **form: Any) -> str:
    return "".join(json.dumps({"id": r.report_id, "text": r.text}, **form) + "\n" for r in reports)


def xml(identifier: str, text: str = "Mild edema.") -> bytes:
    return f'<a><uId id="{identifier}"/><AbstractText Label="FINDINGS">{text}</AbstractText></a>'.encode()


def tgz(*members: tuple[tarfile.TarInfo | str, bytes], name: str = "r.tgz", format: int = tarfile.PAX_FORMAT) -> Make:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=format, compresslevel=1) as archive:
        for member, data in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file(name, buffer.getvalue())


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.devmajor, info.devminor = kind, target, 1, 5
    return info


XML_READ = [Report("CXR1", "FINDINGS: Mild edema.")]

# --- read right ---------------------------------------------------------------------------------------------------------------

UGLY = "na me\n\u202eü\U0001f600"
"""A name of a file: a space, a line end, a sign that turns the direction of writing, an umlaut and an emoji."""
WIDE_HEAD = "report_id,text," + ",".join(f"c{i}".translate(str.maketrans("0123456789", "abcdefghij")) for i in range(9_998))


def link_inside(path: Path) -> None:
    (path / "b.txt").symlink_to(path / "deep" / "b.txt")


READ: dict[str, tuple[Make, list[Report]]] = {
    "csv": (file("r.csv", rows().encode()), REPORTS),
    "csv, suffix in capitals": (file("R.CSV", rows().encode()), REPORTS),
    "csv, ugly name": (file(f"{UGLY}/{UGLY}.csv", rows().encode()), REPORTS),
    "csv, byte order mark": (file("r.csv", rows().encode("utf-8-sig")), REPORTS),
    "csv, UTF-16": (file("r.csv", rows().encode("utf-16")), REPORTS),
    "csv, UTF-16, big-endian, tabs": (file("r.csv", b"\xfe\xff" + rows(delimiter="\t").encode("utf-16-be")), REPORTS),
    "csv, Unix line ends": (file("r.csv", rows(lineterminator="\n").encode()), REPORTS),
    "csv, old Mac line ends": (file("r.csv", rows(lineterminator="\r").encode()), REPORTS),
    "csv, doubled line ends": (file("r.csv", rows(lineterminator="\r\r\n").encode()), REPORTS),
    "csv, no last line end": (file("r.csv", rows().rstrip().encode()), REPORTS),
    "csv, semicolons": (file("r.csv", rows(delimiter=";").encode()), REPORTS),
    "csv, tabs": (file("r.csv", rows(delimiter="\t").encode()), REPORTS),
    "csv, bars": (file("r.csv", rows(delimiter="|").encode()), REPORTS),
    "csv, all quoted": (file("r.csv", rows(quoting=csv.QUOTE_ALL).encode()), REPORTS),
    "csv, spaces in the header": (file("r.csv", rows(head=(" report_id ", "text\t")).encode()), REPORTS),
    "csv, one column without a name": (file("r.csv", b"id,text,\n007,Mild edema.,\n"), [Report("007", "Mild edema.")]),
    "csv, 10,000 columns": (
        file("r.csv", f"{WIDE_HEAD}\n007,Mild edema.{',' * 9_998}\n".encode()),
        [Report("007", "Mild edema.")],
    ),
    "csv, line ends and quotes in a text": (
        file("r.csv", rows([Report("a", 'Mild\r\n"edema"\n\n.')]).encode()),
        [Report("a", 'Mild\r\n"edema"\n\n.')],
    ),
    "csv, ids that programs change": (
        file(
            "r.csv",
            rows([Report(i, "Edema") for i in ("NA", "nan", "null", " 7", "7 ", "7", "07", "1e5", "=1+1", "a\nb")]).encode(),
        ),
        [Report(i, "Edema") for i in ("NA", "nan", "null", " 7", "7 ", "7", "07", "1e5", "=1+1", "a\nb")],
    ),
    "csv, texts that programs drop": (
        file("r.csv", b"id,text\na,NA\nb,nan\nc, \nd,\n"),
        [Report("a", "NA"), Report("b", "nan"), Report("c", " "), Report("d", "")],
    ),
    "parquet, large strings": (
        parquet(id=pa.array(["007", "b"], pa.large_string()), text=pa.array([r.text for r in REPORTS], pa.large_string())),
        REPORTS,
    ),
    "parquet, ids stored as floats": (
        parquet(id=[7.0, 1e15, 12345678901.0], text=["Edema", "a", "b"]),
        [Report("7", "Edema"), Report("1000000000000000", "a"), Report("12345678901", "b")],
    ),
    "parquet, integer ids and a null text": (
        parquet(id=[7, 2**62], text=["Edema", None]),
        [Report("7", "Edema"), Report(str(2**62), "")],
    ),
    "parquet, ids with zeros and spaces": (parquet(id=["007", " 7"], text=["a", "b"]), [Report("007", "a"), Report(" 7", "b")]),
    "parquet, 3,000 rows in groups of 7": (
        then(
            parquet(id=["a"], text=["b"]),
            lambda p: pq.write_table(pa.table({"id": range(3000), "text": ["Edema"] * 3000}), p, row_group_size=7),
        ),
        [Report(str(i), "Edema") for i in range(3000)],
    ),
    "jsonl": (file("r.jsonl", jsonl().encode()), REPORTS),
    "jsonl, not escaped, mark, Windows line ends": (
        file("r.jsonl", jsonl(ensure_ascii=False).replace("\n", "\r\n\r\n").encode("utf-8-sig")),
        REPORTS,
    ),
    "jsonl, UTF-16": (file("r.jsonl", jsonl().encode("utf-16")), REPORTS),
    "jsonl, null text and integer id": (file("r.jsonl", b'{"id": 7, "text": null}'), [Report("7", "")]),
    "jsonl, half an emoji": (file("r.jsonl", b'{"id": "a", "text": "\\ud83d edema"}'), [Report("a", "\ud83d edema")]),
    "jsonl, line separators of Unicode": (
        file("r.jsonl", '{"id": "a", "text": "x\u2028y\x85"}\n'.encode()),
        [Report("a", "x\u2028y\x85")],
    ),
    "txt": (folder_of({"007.txt": REPORTS[0].text.encode(), "b.TXT": REPORTS[1].text.encode()}), REPORTS),
    "txt, mark, UTF-16, deep": (
        folder_of({"007.txt": REPORTS[0].text.encode("utf-8-sig"), "x/y/b.txt": REPORTS[1].text.encode("utf-16")}),
        REPORTS,
    ),
    "txt, ugly names": (folder_of({f"{UGLY}.txt": b"edema"}, UGLY), [Report(UGLY, "edema")]),
    "txt, Windows line ends": (folder_of({"a.txt": b"Mild\r\nedema\r\n"}), [Report("a", "Mild\r\nedema\r\n")]),
    "txt, a link to a file of the folder": (
        then(
            folder_of({"deep/b.txt": b"edema", "deep/c.pdf": b"%PDF"}), lambda p: (p / "a.txt").symlink_to(p / "deep" / "b.txt")
        ),
        [Report("a", "edema"), Report("b", "edema")],
    ),
    "txt, the folder is a link": (
        lambda parent: then(folder_of({"a.txt": b"edema"}), lambda p: (parent / "l").symlink_to(p))(parent).with_name("l"),
        [Report("a", "edema")],
    ),
    "xml": (folder_of({"a.xml": xml("CXR1")}), XML_READ),
    "xml, Latin-1 that says so": (
        folder_of(
            {"a.xml": b'<?xml version="1.0" encoding="latin-1"?>' + xml("CXR1", "H\xfcft edema").decode().encode("latin-1")}
        ),
        [Report("CXR1", "FINDINGS: Hüft edema")],
    ),
    "xml, UTF-16": (folder_of({"a.xml": xml("CXR1").decode().encode("utf-16")}), XML_READ),
    "xml, comments, CDATA, entities of XML": (
        folder_of({"a.xml": xml("CXR1", "<![CDATA[<Mild>]]> <!-- no --> &lt;edema&gt; &#x41;")}),
        [Report("CXR1", "FINDINGS: <Mild> <edema> A")],
    ),
    "xml, 100,000 tags deep": (folder_of({"a.xml": xml("CXR1", "<b>" * 100_000 + "Mild edema." + "</b>" * 100_000)}), XML_READ),
    "tgz": (tgz(("a.xml", xml("CXR1")), ("README", b"none")), XML_READ),
    "tgz, other suffix, ugly name": (tgz((f"{UGLY}.xml", xml("CXR1")), name=f"{UGLY}.tar.gz"), XML_READ),
    "tgz, names out of the root": (
        tgz(("../../out.xml", xml("CXR1")), ("/tmp/hostile-out.xml", xml("CXR2")), ("..", b"x")),
        [*XML_READ, Report("CXR2", "FINDINGS: Mild edema.")],
    ),
    "tgz, GNU's long names": (tgz((f"{'d/' * 200}a.xml", xml("CXR1")), format=tarfile.GNU_FORMAT), XML_READ),
    "tgz, images beside the reports": (tgz(("a.png", bytes(2 * LONGEST)), ("a.xml", xml("CXR1"))), XML_READ),
}


@pytest.mark.parametrize("case", READ)
def test_what_can_be_read_in_one_way_is_read_right(cli: Cli, tmp_path: Path, case: str) -> None:
    """Ids, texts (by hash) and their order are those of the reports; and reading changes nothing in the folder."""
    make, reports = READ[case]
    (tmp_path / "in").mkdir()
    source = make(tmp_path / "in")
    before = snapshot(tmp_path / "in")
    status, out, err = cli("run", source, "--labeler", LABELER, "-o", tmp_path / "t.csv")
    assert (status, out) == (0, ""), err
    assert err.count("\n") == 1
    assert f"labeled {len(reports):,} reports" in err
    write_table(Words().label(reports), tmp_path / "expected.csv")
    assert (tmp_path / "t.csv").read_bytes() == (tmp_path / "expected.csv").read_bytes()
    assert snapshot(tmp_path / "in") == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["expected.csv", "in", "t.csv"]


# --- refused ------------------------------------------------------------------------------------------------------------------

LAUGHS = (
    '<!DOCTYPE l [<!ENTITY l0 "lol">'
    + "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
    + ']><a><uId id="a"/><AbstractText>&l9;</AbstractText></a>'
).encode()
OUTSIDE = f'<!DOCTYPE a [<!ENTITY e SYSTEM "file://{__file__}">]><a><uId id="a"/><AbstractText>&e;</AbstractText></a>'.encode()
PARAMETER = f'<!DOCTYPE a [<!ENTITY % e SYSTEM "file://{__file__}"> %e;]><a><uId id="a"/></a>'.encode()


def packed(content: bytes) -> bytes:
    return gzip.compress(content, 1)


def end_of_tar(member: bytes) -> bytes:
    return gzip.decompress(tgz(("a.xml", member))(Path(tempfile.mkdtemp())).read_bytes())


def leads_out(name: str, target: str) -> Callable[[Path], None]:
    def link(path: Path) -> None:
        target_path = path.parent / target
        file(f"{target}/x.txt" if name == "out" else target, M)(path.parent)
        (path / name).symlink_to(target_path)

    return link


def long_names(count: int) -> bytes:
    """A tar of GNU long-name headers alone, each about the next: tarfile follows them by recursion."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1
    return packed((info.tobuf(tarfile.GNU_FORMAT) + b"a".ljust(512, b"\0")) * count)


def huge_header(kind: bytes) -> bytes:
    """A header of 64 MB that tarfile would read whole before the first member."""
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, 2**26
    return packed(info.tobuf(tarfile.GNU_FORMAT) + bytes(2**26))


def damaged(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-6] ^= 0xFF  # the length that gzip keeps at the end
    path.write_bytes(data)


def cut(share: float) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def pipe(name: str) -> Make:
    def make(folder: Path) -> Path:
        os.mkfifo(folder / name)
        return folder / name

    return make


def link(name: str, target: str) -> Make:
    def make(folder: Path) -> Path:
        (folder / name).symlink_to(target)
        return folder / name

    return make


LONG = b"x" * (LONGEST + 1)
NOISE = np.random.default_rng(0).integers(97, 123, 20_000, np.uint8).tobytes().decode()

REFUSED: dict[str, tuple[Make, tuple[str, ...]]] = {
    # CSV
    "csv, empty": (file("r.csv", b""), ("header", "empty")),
    "csv, mark alone": (file("r.csv", b"\xef\xbb\xbf"), ("header", "empty")),
    "csv, first line blank": (file("r.csv", b"\nid,text\n"), ("header", "empty")),
    "csv, header alone": (file("r.csv", b"id,text\n"), ("expected one report or more, found none",)),
    "csv, no header": (file("r.csv", b"12345," + M + b" has an edema.\n"), ("expected a text column", "header missing")),
    "csv, cut in a quoted text": (file("r.csv", b'id,text\na,b\nc,"' + M), ("row that starts in line 3", "quotes")),
    "csv, cut in a row": (file("r.csv", b"id,text\na,b\n" + M), ("line 3", "expected 2 fields", "got 1")),
    "csv, cut in a character": (file("r.csv", "id,text\na,b\nc,ü".encode()[:-1]), ("line 3", "UTF-8")),
    "csv, UTF-16 cut in a character": (file("r.csv", "id,text\na,b\nc,ü".encode("utf-16")[:-1]), ("line 3", "UTF-8")),
    "csv, UTF-16 without a mark": (file("r.csv", rows().encode("utf-16-le")), ("line 1", "NUL")),
    "csv, UTF-32": (file("r.csv", rows().encode("utf-32")), ("line 1", "NUL")),
    "csv, Latin-1": (file("r.csv", b"id,text\na,b\nc,Erg\xfc\xdf\n"), ("line 3", "UTF-8")),
    "csv, Windows' dash": (file("r.csv", b"id,text\na,\x96\n"), ("line 2", "UTF-8")),
    "csv, NUL in a text": (file("r.csv", b"id,text\na,ede\0ma\n"), ("line 2", "NUL", "damaged")),
    "csv, NUL in an id": (file("r.csv", b"id,text\na\0,edema\n"), ("line 2", "NUL")),
    "csv, zeros behind the last row": (file("r.csv", b"id,text\na,b\n" + bytes(4096)), ("line 3", "NUL", "damaged")),
    "csv, one field too many": (file("r.csv", b"id,text\na,b\nc,d," + M), ("line 3", "got 3", "quote")),
    "csv, other separator than the header": (file("r.csv", b"id,text\na;" + M), ("line 2", "expected 2 fields")),
    "csv, column twice": (file("r.csv", b"id,text,text\na,b,c\n"), ("two columns", "(text)")),
    "csv, two columns without a name": (file("r.csv", b"id,text,,\na,b,,\n"), ("no name", "remove them")),
    "csv, one of 10,000 columns twice": (file("r.csv", f"{WIDE_HEAD},ch\n".encode()), ("(ch)", "rename one")),
    "csv, 10,000 columns and no text": (
        file("r.csv", WIDE_HEAD.replace("text", "body").encode()),
        ("report_id, body, ca", "(10000 in all)"),
    ),
    "csv, other quotes": (file("r.csv", b"'id','text'\n'a','" + M + b"'\n"), ("'id', 'text'", "--text-column")),
    "csv, quotes behind backslashes": (file("r.csv", b'id,text\na,"no \\"' + M + b'\\" ."\n'), ("line 2", "quotes")),
    "csv, quote left open and closed much later": (
        file("r.csv", b'id,text\na,"' + LONG + b'"\n'),
        ("line 2", f"at most {LONGEST:,} characters", "quote"),
    ),
    "csv, id twice": (file("r.csv", b"id,text\n%b,x\nb,y\n%b,z\n" % (M, M)), ("line 4", "line 2", "unique")),
    "csv, no id": (file("r.csv", b"id,text\na,x\n,y\n"), ("line 3", "id is empty")),
    "csv, blank id": (file("r.csv", "id,text\na,x\n \u2003,y\n".encode()), ("line 3", "id is empty")),
    "csv, it is Parquet": (lambda p: parquet(id=["a"], text=[MARKER])(p).rename(p / "r.csv"), ("UTF-8",)),
    "csv, it is gzip": (file("r.csv", packed(rows().encode())), ("line 1", "UTF-8")),
    "csv, it is a pickle": (file("r.csv", BOMB), ("line 1",)),
    "csv, it is a folder": (folder_of({"a.csv": rows().encode()}, "r.csv"), ("folder of .txt", "found none")),
    "csv, it is a pipe": (pipe("r.csv"), ("device or a pipe",)),
    "csv, a link to nothing": (link("r.csv", "absent.csv"), ("no such file",)),
    "csv, a link to itself": (link("r.csv", "r.csv"), ("no such file",)),
    "csv, absent": (lambda folder: folder / "r.csv", ("no such file",)),
    # Parquet
    "parquet, empty": (file("r.parquet", b""), ("not a readable Parquet", "write it again")),
    "parquet, no rows": (parquet(id=pa.array([], pa.string()), text=pa.array([], pa.string())), ("found none",)),
    "parquet, cut": (then(parquet(id=range(99), text=[MARKER] * 99), cut(0.9)), ("not a readable Parquet",)),
    "parquet, it is CSV": (file("r.parquet", rows().encode()), ("not a readable Parquet",)),
    "parquet, it is a pickle": (file("r.parquet", BOMB), ("not a readable Parquet",)),
    "parquet, it is a folder": (folder_of({"part-0.parquet": b""}, "r.parquet"), ("folder of .txt", "found none")),
    "parquet, numbers as texts": (parquet(id=["a"], text=[1.5]), ("rows 1 to 1", "strings in the column 'text'")),
    "parquet, dates as texts": (parquet(id=["a"], text=pa.array([1], pa.date32())), ("strings in the column 'text'",)),
    "parquet, truths as texts": (parquet(id=["a"], text=[True]), ("strings in the column 'text'",)),
    "parquet, decimals as texts": (parquet(id=["a"], text=pa.array([1], pa.decimal128(9))), ("strings in the column 'text'",)),
    "parquet, lists as texts": (parquet(id=["a"], text=[[MARKER]]), ("strings in the column 'text'",)),
    "parquet, records as texts": (parquet(id=["a"], text=[{"a": MARKER}]), ("strings in the column 'text'",)),
    "parquet, lists as ids": (parquet(id=[[MARKER]], text=["a"]), ("column 'id'", "as strings")),
    "parquet, nan as an id": (parquet(id=[1.0, float("nan")], text=["a", "b"]), ("rows 1 to 2", "whole numbers", "'id'")),
    "parquet, a fraction as an id": (parquet(id=[1.5], text=["a"]), ("whole numbers", "'id'")),
    "parquet, null as an id": (parquet(id=["a", None], text=["b", "c"]), ("row 2", "id is empty")),
    "parquet, null among float ids": (parquet(id=[7.0, None], text=["b", "c"]), ("row 2", "id is empty")),
    "parquet, id twice": (parquet(id=[MARKER, MARKER], text=["a", "b"]), ("row 2", "row 1", "unique")),
    "parquet, NUL in a text": (parquet(id=["a"], text=["ede\0ma"]), ("row 1", "NUL")),
    "parquet, a text too long": (parquet(id=["a"], text=[LONG.decode()]), ("row 1", "at most")),
    "parquet, column twice": (
        then(
            parquet(id=["a"], text=["b"]),
            lambda p: pq.write_table(pa.Table.from_arrays([pa.array(["a"])] * 3, ["id", "text", "text"]), p),
        ),
        ("two columns", "(text)"),
    ),
    "parquet, no text": (parquet(id=["a"], body=[MARKER]), ("id, body", "--text-column")),
    # JSONL
    "jsonl, empty": (file("r.jsonl", b"\n\n"), ("found none",)),
    "jsonl, cut": (file("r.jsonl", b'{"id": 1, "text": "a"}\n{"id": 2, "text": "' + M), ("line 2", "not a JSON value")),
    "jsonl, one pretty array": (file("r.jsonl", json.dumps([{"id": 1}], indent=1).encode()), ("line 1", "not a JSON value")),
    "jsonl, a list": (file("r.jsonl", b'{"id": 1, "text": "a"}\n["' + M + b'"]'), ("line 2", "got a list")),
    "jsonl, a string": (file("r.jsonl", b'"' + M + b'"'), ("line 1", "got a str")),
    "jsonl, null": (file("r.jsonl", b"null"), ("line 1", "got a NoneType")),
    "jsonl, two values": (file("r.jsonl", b'{"id": 1, "text": "a"} {"id": 2, "text": "a"}'), ("line 1", "not a JSON value")),
    "jsonl, a number as text": (file("r.jsonl", b'{"id": 1, "text": 2}'), ("line 1", "a string text")),
    "jsonl, nan as id": (file("r.jsonl", b'{"id": NaN, "text": "a"}'), ("line 1", "integer id")),
    "jsonl, a float as id": (file("r.jsonl", b'{"id": 1.0, "text": "a"}'), ("line 1", "integer id")),
    "jsonl, true as id": (file("r.jsonl", b'{"id": true, "text": "a"}'), ("line 1", "integer id")),
    "jsonl, null as id": (file("r.jsonl", b'{"id": null, "text": "a"}'), ("line 1", "integer id")),
    "jsonl, 5,000 digits as id": (file("r.jsonl", b'{"id": %s, "text": "a"}' % (b"1" * 5000)), ("line 1", "not a JSON value")),
    "jsonl, half an emoji as id": (file("r.jsonl", b'{"id": "\\ud83d", "text": "a"}'), ("line 1", "surrogate")),
    "jsonl, id as number and as text": (
        file("r.jsonl", b'{"id": 1, "text": "a"}\n{"id": "1", "text": "b"}'),
        ("line 2", "line 1", "unique"),
    ),
    "jsonl, key twice": (file("r.jsonl", b'{"id": 1, "text": "a", "text": "' + M + b'"}'), ("line 1", "two keys")),
    "jsonl, no text": (file("r.jsonl", b'{"id": 1, "text": "a"}\n{"id": 2, "body": "b"}'), ("line 2", "id, body")),
    "jsonl, 100,000 lists deep": (file("r.jsonl", b"[" * 100_000), ("line 1", "not a JSON value")),
    "jsonl, NUL": (file("r.jsonl", b'{"id": 1, "text": "ede\0ma"}'), ("line 1", "NUL")),
    "jsonl, NUL behind a backslash": (file("r.jsonl", b'{"id": 1, "text": "ede\\u0000ma"}'), ("line 1", "NUL")),
    "jsonl, Latin-1": (file("r.jsonl", b'{"id": 1, "text": "a"}\n{"id": 2, "text": "\xfc"}'), ("line 2", "UTF-8")),
    # folders of .txt
    "txt, empty folder": (folder_of({}), ("found none",)),
    "txt, no text files": (folder_of({"a.docx": b"x"}), ("folder of .txt", "found none")),
    "txt, XML too": (folder_of({"a.txt": b"x", "b.xml": xml("1")}), ("found both",)),
    "txt, a file instead of the folder": (file("r.txt", M), ("a folder of .txt", "'.txt'")),
    "txt, Latin-1": (folder_of({"a.txt": b"x", "b/c.txt": b"\n\xfc"}), ("b/c.txt, line 2", "UTF-8")),
    "txt, NUL": (folder_of({"a.txt": b"x\n\0"}), ("a.txt, line 2", "NUL")),
    "txt, too long": (folder_of({"a.txt": LONG}), ("a.txt", f"at most {LONGEST:,} bytes")),
    "txt, one name twice": (folder_of({"x/a.txt": b"x", "y/a.txt": b"y"}), ("y/a.txt", "x/a.txt", "unique")),
    "txt, a link out": (then(folder_of({"a.txt": b"x"}), leads_out("b.txt", "secret.txt")), ("b.txt", "leads out")),
    "txt, a linked folder": (then(folder_of({"a.txt": b"x"}), leads_out("out", "elsewhere")), ("in, out", "leads out")),
    "txt, a link to nothing": (
        then(folder_of({"a.txt": b"x"}), lambda p: link("b.txt", "c.txt")(p)),
        ("b.txt", "link to nothing"),
    ),
    "txt, a link to itself": (
        then(folder_of({"a.txt": b"x"}), lambda p: link("b.txt", "b.txt")(p)),
        ("b.txt", "link to nothing"),
    ),
    "txt, a pipe": (then(folder_of({"a.txt": b"x"}), lambda p: pipe("b.txt")(p)), ("b.txt", "device")),
    "txt, a name that is no Unicode": (folder_of({os.fsdecode(b"\xff.txt"): b"x"}), ("half a character",)),
    # Open-I's XML
    "xml, empty file": (folder_of({"a.xml": b""}), ("a.xml", "not well-formed XML (line 1)")),
    "xml, cut": (folder_of({"a.xml": xml("1", MARKER)[:-9]}), ("a.xml", "not well-formed")),
    "xml, something else": (folder_of({"a.xml": b"<html>" + M + b"</html>"}), ("a.xml", "uId/@id")),
    "xml, an id without a value": (folder_of({"a.xml": xml("")}), ("a.xml", "uId/@id")),
    "xml, id twice": (folder_of({"a.xml": xml(MARKER), "b.xml": xml(MARKER)}), ("b.xml", "a.xml", "unique")),
    "xml, entities of entities": (folder_of({"a.xml": LAUGHS}), ("a.xml", "<!DOCTYPE")),
    "xml, entities in UTF-16": (folder_of({"a.xml": LAUGHS.decode().encode("utf-16")}), ("a.xml", "<!DOCTYPE")),
    "xml, an entity from another file": (folder_of({"a.xml": OUTSIDE}), ("a.xml", "<!DOCTYPE")),
    "xml, a parameter from another file": (folder_of({"a.xml": PARAMETER}), ("a.xml", "<!DOCTYPE")),
    "xml, unknown encoding": (folder_of({"a.xml": b'<?xml version="1.0" encoding="foo-9"?><a/>'}), ("a.xml", "encoding")),
    "xml, NUL": (folder_of({"a.xml": xml("1", "\0")}), ("a.xml", "not well-formed")),
    "xml, too long": (folder_of({"a.xml": xml("1", LONG.decode())}), ("a.xml", f"at most {LONGEST:,} bytes")),
    # Open-I's archive
    "tgz, empty": (file("r.tgz", b""), ("not a whole .tgz",)),
    "tgz, cut": (then(tgz(("a.xml", xml("1", NOISE)), ("b.xml", xml("2", NOISE))), cut(0.7)), ("not a whole .tgz",)),
    "tgz, damaged": (then(tgz(("a.xml", xml("1", NOISE))), damaged), ("not a whole .tgz",)),
    "tgz, no gzip": (file("r.tgz", M), ("not a whole .tgz",)),
    "tgz, no tar": (file("r.tgz", packed(M * 999)), ("not a whole .tgz",)),
    "tgz, a folder": (folder_of({"a.csv": b""}, "r.tgz"), ("found none",)),
    "tgz, no XML in it": (tgz(("a.txt", M)), (".xml files in the archive, found none",)),
    "tgz, broken XML": (tgz(("x/a.xml", b"<" + M)), ("x/a.xml", "not well-formed")),
    "tgz, entities of entities": (tgz(("a.xml", LAUGHS)), ("a.xml", "<!DOCTYPE")),
    "tgz, a symbolic link": (tgz((special("a.xml", tarfile.SYMTYPE, "/etc/passwd"), b"")), ("a.xml", "link or a device")),
    "tgz, a hard link": (
        tgz(("a.xml", xml("1")), (special("b.xml", tarfile.LNKTYPE, "a.xml"), b"")),
        ("b.xml", "link or a device", "files themselves"),
    ),
    "tgz, a device": (tgz((special("a.xml", tarfile.CHRTYPE), b"")), ("a.xml", "link or a device")),
    "tgz, a pipe": (tgz((special("a.xml", tarfile.FIFOTYPE), b"")), ("a.xml", "link or a device")),
    "tgz, a name that steers a terminal": (tgz(("\x1b[2J.xml", b"<")), ("\\x1b[2J.xml",)),
    "tgz, bomb in a report": (tgz(("a.xml", xml("1", "x" * 2**26))), ("a.xml", f"at most {LONGEST:,} bytes")),
    "tgz, bomb behind the end": (
        lambda folder: file("r.tgz", packed(end_of_tar(xml("1")) + bytes(2**26)))(folder),
        (f"more than {LONGEST:,} bytes", "no file of the archive"),
    ),
    "tgz, bomb in a long name": (file("r.tgz", huge_header(tarfile.GNUTYPE_LONGNAME)), ("no file of the archive",)),
    "tgz, bomb in a pax header": (file("r.tgz", huge_header(tarfile.XHDTYPE)), ("no file of the archive",)),
    "tgz, headers about headers": (file("r.tgz", long_names(5000)), ("not a whole .tgz archive (RecursionError)",)),
    # anything else
    "a suffix that is none of them": (file("r.docx", M), (".csv, .parquet, .jsonl, .tgz", "'.docx'")),
    "no suffix, a name of control signs": (file("\x1b[31m\n\u202e", M), ("\\x1b[31m", "expected .csv")),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused(cli: Cli, tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, parts = REFUSED[case]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    source = make(tmp_path / "in")
    (tmp_path / "t.parquet").write_bytes(BEFORE)
    start = time.monotonic()
    err = refuses(cli, tmp_path, ["run", source, "--labeler", LABELER, "-o", tmp_path / "t.parquet"], parts)
    assert time.monotonic() - start < 20
    assert str(tmp_path / "in") in err


@pytest.mark.parametrize("given", [("--text-column", "text"), ("--id-column", "id")], ids=["text column", "id column"])
@pytest.mark.parametrize("kind", ["txt", "xml", "tgz"])
def test_a_column_of_what_has_none_is_wrong_use(cli: Cli, tmp_path: Path, kind: str, given: tuple[str, str]) -> None:
    source = READ[kind][0](tmp_path)
    argv = ["run", source, "--labeler", LABELER, "-o", tmp_path / "t.csv", *given]
    refuses(cli, tmp_path, argv, ("--text-column and --id-column", "leave them out"), status=2)


def test_a_pickle_in_the_metadata_of_a_column_is_not_loaded(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CVE-2023-47248: pyarrow before 14.0.1 unpickled the extension type of a column on reading."""
    monkeypatch.chdir(tmp_path)
    pickled = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": BOMB}
    fields = [pa.field("id", pa.string()), pa.field("text", pa.string(), metadata=pickled)]
    pq.write_table(pa.table([["007"], ["Mild edema."]], schema=pa.schema(fields)), "r.parquet")
    status, _, err = cli("run", "r.parquet", "--labeler", LABELER, "-o", "t.csv")
    assert status == 0, err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.parquet", "t.csv"]


# --- a text of any kind for explain -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [b"No edema.", b"\xef\xbb\xbfNo edema.", "No edema.".encode("utf-16"), b"\xfe\xff" + "No edema.".encode("utf-16-be")],
    ids=["UTF-8", "mark", "UTF-16", "UTF-16, big-endian"],
)
def test_explain_reads_text(cli: Cli, tmp_path: Path, content: bytes) -> None:
    (tmp_path / UGLY).write_bytes(content)
    status, out, err = cli("explain", "--file", tmp_path / UGLY, "--json")
    assert (status, err) == (0, "")
    assert {(p["state"], p["start"], p["end"]) for p in json.loads(out)} == {("negative", 3, 8)}


EXPLAIN_REFUSED: dict[str, tuple[Make, tuple[str, ...]]] = {
    "Latin-1": (file("a.txt", M + b"\n\xfc"), ("a.txt, line 2", "UTF-8")),
    "NUL": (file("a.txt", M + b"\0"), ("a.txt, line 1", "NUL")),
    "cut in a character": (file("a.txt", "\nü".encode()[:-1]), ("a.txt, line 2", "UTF-8")),
    "pickle": (file("a.txt", BOMB), ("a.txt, line 1",)),
    "folder": (folder_of({"a.txt": M}), ("cannot be read (Is a directory)",)),
    "absent": (lambda folder: folder / "a.txt", ("cannot be read (No such file or directory)",)),
    "link to itself": (link("a.txt", "a.txt"), ("cannot be read (Too many levels of symbolic links)",)),
}


@pytest.mark.parametrize("case", EXPLAIN_REFUSED)
def test_explain_refuses_what_is_no_text(cli: Cli, tmp_path: Path, case: str) -> None:
    make, parts = EXPLAIN_REFUSED[case]
    refuses(cli, tmp_path, ["explain", "--file", make(tmp_path)], parts)


@pytest.mark.parametrize(
    ("typed", "part"),
    [
        (M + b"\n\xfc", "standard input, line 2: bytes that are not UTF-8"),
        (b"\0", "line 1: a NUL"),
        (None, "standard input is closed"),
    ],
    ids=["Latin-1", "NUL", "closed"],
)
def test_explain_refuses_what_is_typed_and_no_text(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: bytes | None, part: str
) -> None:
    monkeypatch.setattr("sys.stdin", None if typed is None else io.TextIOWrapper(io.BytesIO(typed)))
    refuses(cli, tmp_path, ["explain", "-"], (part,))


# --- huge ---------------------------------------------------------------------------------------------------------------------


def megabyte() -> str:
    """A report of 1 MB, no sentence of it twice."""
    found = ("pleural effusion", "pneumothorax", "edema", "consolidation", "nodule", "fracture")
    said = ("no", "a small", "possible")
    return "\n".join(f"There is {said[i % 3]} {found[i % 6]} measuring {i} mm in the left lung." for i in range(17_000))


HUGE: dict[str, Callable[[str], Make]] = {
    "csv": lambda text: file("r.csv", rows([Report("CXR1", text)]).encode()),
    "parquet": lambda text: parquet(id=["CXR1"], text=[text]),
    "jsonl": lambda text: file("r.jsonl", jsonl([Report("CXR1", text)]).encode()),
    "txt": lambda text: folder_of({"CXR1.txt": text.encode()}),
    "xml": lambda text: folder_of({"a.xml": xml("CXR1", text)}),
    "tgz": lambda text: tgz(("a.xml", xml("CXR1", text))),
}


@pytest.mark.parametrize("kind", HUGE)
def test_a_report_of_a_megabyte_is_read_whole(cli: Cli, tmp_path: Path, kind: str) -> None:
    text = megabyte()
    if kind in ("xml", "tgz"):  # Open-I's sections stand in one line each
        text = " ".join(text.split())
    source = HUGE[kind](text)(tmp_path)
    assert cli("run", source, "--labeler", LABELER, "-o", tmp_path / "t.parquet")[0] == 0
    whole = "FINDINGS: " + text if kind in ("xml", "tgz") else text
    assert read_table(tmp_path / "t.parquet").evidence.cues == (digest(whole),)


def test_a_report_of_a_megabyte_is_labeled_in_seconds(cli: Cli, tmp_path: Path) -> None:
    source = HUGE["csv"](megabyte())(tmp_path)
    assert source.stat().st_size > 10**6
    start = time.monotonic()
    status, _, err = cli("run", source, "--labeler", "context", "-o", tmp_path / "t.parquet")
    assert status == 0, err
    assert time.monotonic() - start < 30, "a second on an idle machine"
    table = read_table(tmp_path / "t.parquet")
    states = [STATES[table.state[0, table.vocabulary.index(n)]] for n in ("Pleural Effusion", "Nodule", "Edema")]
    assert states == ["negative", "positive", "uncertain"]
    assert len(table.evidence) > 17_000


SAME_AGAIN = (
    *(
        " ",
        "\n",
        " \n",
        "\r\n",
        "\t",
        "\u00a0",
        "\u2028",
        ".",
        ". ",
        "!",
        "?)",
        ".)",
        ":",
        ": ",
        ";",
        ",",
        "(",
        "[]",
        '"',
        "-",
        "a-",
        "1. ",
    ),
    *(
        "A",
        "AAAA AAAA\n",
        "İ",
        "e\u0301",
        "\U0001f600",
        "no ",
        "no or ",
        "effusion ",
        "effusion, ",
        "no effusion or ",
        "lungs, ",
        "lungs and ",
    ),
    *(
        "right lower lobe opacity ",
        "history of ",
        "effusion cannot be excluded ",
        "HISTORY: a\n\n",
        "FINDINGS: x HISTORY: ",
        "but ",
        "/",
    ),
)


def test_the_same_again_60_000_times_takes_no_longer_than_its_length(cli: Cli, tmp_path: Path) -> None:
    """One sign, word or phrase over and over, closed by something else: whatever looks ahead or back must not do so from everywhere."""
    texts = ["FINDINGS: x" + unit * (60_000 // len(unit)) + "a is seen." for unit in SAME_AGAIN]
    pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), tmp_path / "r.parquet")
    start = time.monotonic()
    assert cli("run", tmp_path / "r.parquet", "-o", tmp_path / "t.parquet")[0] == 0
    assert time.monotonic() - start < 30, "four seconds on an idle machine"


# --- permissions --------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Root may do everything, so for as long as the block lasts root is somebody else."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may write to, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


FORBIDDEN: dict[str, tuple[Make, str, tuple[str, ...]]] = {
    "csv": (file("r.csv", rows().encode()), "", ("r.csv: cannot be read (Permission denied)",)),
    "parquet": (parquet(id=["a"], text=["b"]), "", ("r.parquet: cannot be read (Permission denied)",)),
    "jsonl": (file("r.jsonl", jsonl().encode()), "", ("r.jsonl: cannot be read (Permission denied)",)),
    "tgz": (tgz(("a.xml", xml("1"))), "", ("r.tgz: cannot be read (Permission denied)",)),
    "a file of a folder": (folder_of({"a.txt": b"x", "b.txt": b"y"}), "b.txt", ("b.txt: cannot be read (Permission denied)",)),
    "an XML of a folder": (
        folder_of({"a.xml": xml("1"), "b.xml": xml("2")}),
        "b.xml",
        ("b.xml: cannot be read (Permission denied)",),
    ),
    "a folder": (folder_of({"a.txt": b"x"}), "", ("in: cannot be read (Permission denied)",)),
    "a folder of a folder": (folder_of({"a.txt": b"x", "c/b.txt": b"y"}), "c", ("c: cannot be read (Permission denied)",)),
}


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no permissions of that kind")
@pytest.mark.parametrize("case", FORBIDDEN)
def test_what_may_not_be_read_is_named_and_not_left_out(cli: Cli, open_folder: Path, case: str) -> None:
    make, forbidden, parts = FORBIDDEN[case]
    source = make(open_folder)
    (open_folder / "t.csv").write_bytes(BEFORE)
    locked = source / forbidden
    mode = locked.stat().st_mode
    locked.chmod(0)

    def command(*argv: object) -> tuple[int, str, str]:
        with as_nobody():
            return cli(*argv)

    try:
        refuses(command, open_folder, ["run", source, "--labeler", LABELER, "-o", open_folder / "t.csv"], parts)
    finally:
        locked.chmod(mode)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no permissions of that kind")
@pytest.mark.parametrize("output", ["locked/t.csv", "locked/t.parquet", "locked/new/t.csv"])
def test_what_may_not_be_written_is_named(cli: Cli, open_folder: Path, output: str) -> None:
    source = file("r.csv", rows().encode())(open_folder)
    (open_folder / "locked").mkdir()
    (open_folder / "locked" / "t.csv").write_bytes(BEFORE)
    (open_folder / "locked").chmod(0o555)

    def command(*argv: object) -> tuple[int, str, str]:
        with as_nobody():
            return cli(*argv)

    argv = ["run", source, "--labeler", LABELER, "-o", open_folder / output]
    refuses(command, open_folder, argv, (str(open_folder / output), "cannot be written (Permission denied)"))


# --- a full disk --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["long", "wide", "chexpert"])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_disk_that_is_full_at_any_byte_leaves_what_was_there(cli: Cli, tmp_path: Path, suffix: str, format: str) -> None:
    source = file("r.csv", rows([Report(str(i), f"edema {i}") for i in range(3000)]).encode())(tmp_path)
    output = tmp_path / f"t{suffix}"
    argv = ["run", source, "--labeler", LABELER, "-o", output, "--format", format]
    assert cli(*argv)[0] == 0
    whole = output.read_bytes()
    output.write_bytes(BEFORE)

    for size in (0, 1, len(whole) // 3, len(whole) // 2, len(whole) - 1):
        parts = (str(output), "cannot be written (File too large)", "nothing was left behind")
        refuses(on_a_disk_of(size, cli), tmp_path, argv, parts)
    assert on_a_disk_of(len(whole), cli)(*argv)[0] == 0
    assert output.read_bytes() == whole


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_standard_output_on_a_full_disk_is_one_line(unbuffered: str) -> None:
    command = [str(SCRIPT), "explain", "--text", f"{MARKER}, no edema."]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False, env=environment)
    assert done.stderr == "labelers: error: standard output: No space left on device; make room, or send it elsewhere\n"
    assert done.returncode == 1


# --- where the output goes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "output", ["new/deeper/t.csv", f"{UGLY}/{UGLY}.csv", f"{'n' * 251}.csv", "T.CSV"], ids=["folders", "ugly", "long", "capitals"]
)
def test_any_name_will_do_for_the_output(cli: Cli, tmp_path: Path, output: str) -> None:
    source = file("r.csv", rows().encode())(tmp_path)
    assert cli("run", source, "--labeler", LABELER, "-o", tmp_path / output)[0] == 0
    assert len(read_table(tmp_path / output)) == 2
    assert snapshot(tmp_path).keys() == {"r.csv", output, *(str(p) for p in list(Path(output).parents)[:-1])}


def test_an_output_that_is_a_link_leaves_what_it_leads_to(cli: Cli, tmp_path: Path) -> None:
    source = file("r.csv", rows().encode())(tmp_path)
    (tmp_path / "old.csv").write_bytes(BEFORE)
    (tmp_path / "t.csv").symlink_to(tmp_path / "old.csv")
    assert cli("run", source, "--labeler", LABELER, "-o", tmp_path / "t.csv")[0] == 0
    assert (tmp_path / "old.csv").read_bytes() == BEFORE
    assert len(read_table(tmp_path / "t.csv")) == 2


OUTPUTS: dict[str, tuple[str, tuple[str, ...], int]] = {
    "the input": ("r.csv", ("another file than the reports",), 2),
    "the input, by a link": ("link.csv", ("another file than the reports",), 2),
    "the input, by another way": ("folder.csv/../r.csv", ("another file than the reports",), 2),
    "another suffix": ("t.tsv", (".parquet or .csv", "'.tsv'"), 2),
    "no suffix": ("t", (".parquet or .csv", "''"), 2),
    "a folder": ("folder.csv", ("it is a folder",), 1),
    "the folder itself": (".", (".parquet or .csv",), 2),
    "behind a file": ("r.csv/t.csv", ("r.csv is no folder",), 1),
    "far behind a file": ("r.csv/new/t.csv", ("r.csv is no folder",), 1),
    "a device": ("null.csv", ("device or a pipe",), 1),
    "a pipe": ("pipe.csv", ("device or a pipe",), 1),
    "a name too long": (f"{'n' * 252}.csv", ("File name too long",), 1),
    "a path too long": ("n/" * 3000 + "t.csv", ("File name too long",), 1),
    "a name that steers a terminal": ("\x1b[2J\n.tsv", ("\\x1b[2J .tsv",), 2),
}


@pytest.mark.parametrize("case", OUTPUTS)
def test_outputs_that_cannot_be(cli: Cli, tmp_path: Path, case: str) -> None:
    output, parts, status = OUTPUTS[case]
    source = file("r.csv", rows().encode())(tmp_path)
    folder_of({"a.csv": BEFORE}, "folder.csv")(tmp_path)
    for make in (link("link.csv", "r.csv"), link("null.csv", os.devnull), pipe("pipe.csv")):
        make(tmp_path)
    refuses(cli, tmp_path, ["run", source, "--labeler", LABELER, "-o", f"{tmp_path}/{output}"], parts, status)


def test_folders_that_were_made_for_the_output_go_again_with_it(cli: Cli, tmp_path: Path) -> None:
    source = file("r.csv", b"id,text\na,b\nc\n")(tmp_path)
    argv = ["run", source, "--labeler", LABELER, "-o", tmp_path / "new" / "deeper" / "t.csv"]
    refuses(cli, tmp_path, argv, ("line 3",))
