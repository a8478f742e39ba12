"""The command line: what it writes, its exit status, its one line of complaint, and that it repeats no report."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import labelers.console
from labelers import read_channels, read_table
from labelers.cli import main
from labelers.run import BATCH
from labelers.types import STATES, UNMENTIONED

MARKER = "Xylophonist"
"""Planted in every text and id; nothing that fails may print it."""
SCRIPT = Path(sys.executable).with_name("labelers")

PLUGIN = '''
from __future__ import annotations
import dataclasses, os, signal, time
from collections.abc import Sequence
import numpy as np
from labelers import LabelTable, Report, Vocabulary
from labelers.types import Evidence

class Base:
    """A labeler of the tests."""
    name = "base"
    version = "1"
    vocabulary = Vocabulary.of(["Edema"])

    def label(self, reports: Sequence[Report]) -> LabelTable:
        ids = [r.report_id for r in reports]
        return LabelTable.from_states(ids, self.vocabulary, np.full((len(ids), 1), 3), self.name)

class Quoting(Base):
    """Fails and quotes the text."""
    def label(self, reports):
        for report in reports:
            if report.text:
                raise ValueError(f"cannot read {report.report_id}: {report.text}")
        return super().label(reports)

class QuotingAlways(Base):
    """Fails on an empty report too."""
    def label(self, reports):
        raise KeyError(f"cannot read {reports}")

class Losing(Base):
    """Forgets a report."""
    def label(self, reports):
        return super().label(reports[1:] if len(reports) > 1 else reports)

class Dying(Base):
    """Is killed."""
    def label(self, reports):
        if any(r.text for r in reports):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().label(reports)

class Slow(Base):
    """Takes its time."""
    def label(self, reports):
        if any(r.text for r in reports):
            time.sleep(60)
        return super().label(reports)

class Telling(Base):
    """Two mentions of their own probability."""
    def label(self, reports):
        table = super().label(reports)
        kinds = (np.array([9, 0], np.int32), np.array([14, 5], np.int32), np.array([0, 2], np.int8), np.array([1, 0], np.int32))
        places = Evidence(np.zeros(2, np.int64), *kinds, cues=("may", "sure"), probability=np.array([0.9, 0.4], np.float32))
        return dataclasses.replace(table, evidence=places) if reports[0].text else table
'''


@pytest.fixture
def plugin(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "plugin_of_cli_test.py").write_text(PLUGIN, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return "plugin_of_cli_test"


Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a command in this process: exit status, standard output, standard error."""

    def run(*argv: object) -> tuple[int, str, str]:
        try:
            status = main([str(a) for a in argv])
        except SystemExit as stop:
            status = int(stop.code or 0)
        out, err = capsys.readouterr()
        return status, out, err

    return run


def reports_csv(path: Path, texts: list[str]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["report_id", "text"], *([f"r{i}", t] for i, t in enumerate(texts))])
    return path


TEXTS = [
    "No pleural effusion.",
    "",
    "Small left pleural effusion. Heart size is normal.",
    "Possible pneumonia.\nNo pneumothorax.",
]


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    return reports_csv(tmp_path / "reports.csv", TEXTS)


def test_list(cli: Cli) -> None:
    status, out, err = cli("list")
    assert (status, err) == (0, "")
    header, *lines = out.splitlines()
    column = header.index("what it does")
    names = [line.split()[0] for line in lines]
    assert names == sorted(names)
    assert {"context", "keywords", "table"} <= set(names)
    assert all(line[column - 1] == " " != line[column] for line in lines), "aligned"
    status, out, _ = cli("list", "--json")
    entry = json.loads(out)[0]
    assert set(entry) == {"name", "version", "summary", "origin", "needs", "options", "missing", "remedy", "broken"}


def test_run_writes_a_table_and_counts_empty_reports(cli: Cli, reports: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "labels.parquet"
    status, out, err = cli("run", reports, "--labeler", "context", "-o", output)
    assert (status, out) == (0, "")
    assert err == f"labeled 4 reports (1 of them empty: every finding unmentioned) with 'context' -> {output}\n"
    table = read_table(output)
    assert table.report_ids.tolist() == ["r0", "r1", "r2", "r3"]
    assert (table.state[1] == UNMENTIONED).all()
    effusion = table.vocabulary.index("Pleural Effusion")
    assert [STATES[s] for s in table.state[:, effusion]] == ["negative", "unmentioned", "positive", "unmentioned"]


@pytest.mark.parametrize("format", ["long", "wide", "chexpert"])
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_every_format_holds_the_same_states(cli: Cli, reports: Path, tmp_path: Path, format: str, suffix: str) -> None:
    assert cli("run", reports, "-o", tmp_path / "long.parquet")[0] == 0
    assert cli("run", reports, "-o", tmp_path / f"t{suffix}", "--format", format)[0] == 0
    long, other = read_table(tmp_path / "long.parquet"), read_table(tmp_path / f"t{suffix}")
    same = [n for n in other.vocabulary.names if n in long.vocabulary and (format != "chexpert" or n == "Pleural Effusion")]
    columns = [[t.vocabulary.index(n) for n in same] for t in (long, other)]
    np.testing.assert_array_equal(long.state[:, columns[0]], other.state[:, columns[1]])
    assert same


def test_two_processes_write_the_same_bytes(cli: Cli, tmp_path: Path) -> None:
    source = reports_csv(tmp_path / "many.csv", [TEXTS[i % 4] for i in range(2 * BATCH + 7)])
    for suffix in (".parquet", ".csv"):
        for jobs in (1, 2):
            assert cli("run", source, "--labeler", "keywords", "-o", tmp_path / f"{jobs}{suffix}", "--jobs", jobs)[0] == 0
        assert (tmp_path / f"1{suffix}").read_bytes() == (tmp_path / f"2{suffix}").read_bytes()


def test_open_i_through_the_command_line(cli: Cli, open_i: Path, tmp_path: Path) -> None:
    start = time.monotonic()
    status, _, err = cli("run", open_i, "-o", tmp_path / "t.parquet")
    assert status == 0
    assert "labeled 3,955 reports" in err
    assert len(read_table(tmp_path / "t.parquet")) == 3955
    assert time.monotonic() - start < 60


def test_progress_in_a_pipe(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelers.console, "SECONDS", 0)
    source = reports_csv(tmp_path / "many.csv", [""] * (BATCH + 1))
    _, _, err = cli("run", source, "--labeler", "keywords", "-o", tmp_path / "t.csv", "--format", "chexpert")
    assert err.splitlines()[:2] == ["1,024 reports", "1,025 reports"]


def test_options_reach_the_labeler(cli: Cli, reports: Path, tmp_path: Path) -> None:
    status, _, err = cli("run", reports, "-o", tmp_path / "t.csv", "--set", "vocabulary=absent")
    assert status == 2
    assert "absent" in err


def test_explain(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "Small left pleural effusion. No pneumothorax."
    status, out, err = cli("explain", "--text", text, "--labeler", "context", "--json")
    assert (status, err) == (0, "")
    places = json.loads(out)
    assert all(
        list(p) == ["finding", "state", "probability", "start", "end", "cue", "side", "severity", "change"] for p in places
    )
    found = {p["finding"]: (p["state"], text[p["start"] : p["end"]]) for p in places}
    assert found["Pleural Effusion"] == ("positive", "pleural effusion")
    assert found["Pneumothorax"] == ("negative", "pneumothorax")
    assert [p["start"] for p in places] == sorted(p["start"] for p in places)
    (tmp_path / "t.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert cli("explain", "--file", tmp_path / "t.txt", "--json")[1] == out
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert cli("explain", "-", "--json")[1] == out
    plain = cli("explain", "--text", text)[1]
    assert plain.split()[:6] == ["finding", "state", "probability", "start", "end", "cue"]
    assert len(plain.splitlines()) == 1 + len(places)
    assert json.loads(cli("explain", "--text", "", "--json")[1]) == []


def test_explain_gives_the_probability_of_the_mention_where_it_is_told(cli: Cli, plugin: str) -> None:
    _, out, _ = cli("explain", "--text", "Edema or edema", "--labeler", f"{plugin}:Telling", "--json")
    assert [(p["start"], p["probability"], p["cue"]) for p in json.loads(out)] == [(0, 0.4, "may"), (9, 0.9, "sure")]


@pytest.fixture
def labeled(cli: Cli, tmp_path: Path) -> tuple[Path, Path]:
    """A label table and gold with seven positives that the labeler finds, three that it misses, and a rare finding."""
    texts = ["Small pleural effusion."] * 7 + ["Lungs are clear."] * 13
    source = reports_csv(tmp_path / "reports.csv", texts)
    assert cli("run", source, "--labeler", "context", "-o", tmp_path / "labels.parquet")[0] == 0
    rows: list[list[Any]] = [
        ["report_id", "Pleural Effusion", "Pneumothorax"],
        *([f"r{i}", int(i < 10), ""] for i in range(20)),
        ["other", 1, 1],
    ]
    with (tmp_path / "gold.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return tmp_path / "labels.parquet", tmp_path / "gold.csv"


def test_score(cli: Cli, labeled: tuple[Path, Path]) -> None:
    status, out, err = cli("score", *labeled, "--json")
    assert (status, err) == (0, "")
    body = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert (body["reports"], body["without_label"]) == (20, 1)
    assert body["findings"]["Pleural Effusion"]["precision"] == 1
    assert body["findings"]["Pleural Effusion"]["recall"] == 0.7
    assert body["findings"]["Pneumothorax"]["auprc"] is None
    assert body["macro"]["recall"] == body["micro"]["recall"] == 0.7


def test_score_in_a_pipe_is_plain_aligned_text(cli: Cli, labeled: tuple[Path, Path]) -> None:
    _, out, _ = cli("score", *labeled)
    header, *lines = out.splitlines()
    assert header.split() == ["finding", "known", "positives", "precision", "recall", "F1", "AUPRC", "NLL", "ECE"]
    rows = {line[: header.index("known")].strip(): line[header.index("known") :].split() for line in lines[:-1] if line.strip()}
    assert rows["Pleural Effusion"][:5] == ["20", "10", "1.000", "0.700", "0.824"]
    assert rows["Pneumothorax"][2:] == ["-"] * 6
    assert {"macro", "micro"} <= set(rows)
    assert out.isascii()
    assert lines[-1] == "20 reports scored; 1 of the gold have no label"


def test_noise(cli: Cli, tmp_path: Path) -> None:
    truth = [int(i < 40) for i in range(100)]
    files: dict[str, list[list[Any]]] = {
        "reader": [["report_id", "Edema", "Fracture"], *([i, 1.0 if y else 0.0, 0.0 if y else 1.0] for i, y in enumerate(truth))],
        "gold": [["report_id", "Edema", "Fracture"], *([i, y, y] for i, y in enumerate(truth))],
    }
    for name, rows in files.items():
        with (tmp_path / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(rows)
    given = [tmp_path / "reader.csv", "--gold", tmp_path / "gold.csv", "--truth", "images"]
    status, out, err = cli("noise", *given, "-o", tmp_path / "channels.json")
    assert status == 0
    header, line = out.splitlines()
    assert header.split()[:3] == ["labeler", "finding", "gold"]
    assert line.split()[:3] == ["reader", "Edema", "40/60"]
    assert line.index("40/60") == header.index("gold")
    assert out.isascii()
    assert err.splitlines() == [
        "labelers: no channel for 'reader' and 'Fracture': 'positive' is no likelier when the finding is present",
        f"labelers: channels of reader -> {tmp_path / 'channels.json'}, {tmp_path / 'channels.png'}",
    ]
    assert (tmp_path / "channels.png").read_bytes().startswith(b"\x89PNG")
    channels = read_channels(tmp_path / "channels.json")
    assert channels.truth == "images"
    channel = channels.find("reader", "anywhere", "Edema")
    assert channel is not None
    assert channel.counts.tolist() == [[0, 60, 0, 0], [40, 0, 0, 0]]


# --- what fails ---------------------------------------------------------------------------------------------------------------


def planted(folder: Path) -> dict[str, Path]:
    """Broken inputs of every kind, the marker in each text and id."""
    folder.mkdir()
    row = f"{MARKER},no {MARKER}\n"
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for i in range(50):
            noise = np.random.default_rng(i).integers(97, 123, 200, np.uint8).tobytes().decode()
            data = f'<a><uId id="{MARKER}{i}"/><AbstractText Label="FINDINGS">{MARKER} {noise}</AbstractText></a>'.encode()
            info = tarfile.TarInfo(f"{i}.xml")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    files: dict[str, bytes] = {
        "column.csv": f"id,body\n{row}".encode(),
        "headerless.csv": f"12345,no {MARKER}.\n".encode(),
        "utf8.csv": f"id,text\n{row}".encode() + b"b,\xff\n",
        "twice.csv": f"id,text\n{row}{row}".encode(),
        "ragged.csv": f"id,text\n{row}{MARKER}\n".encode(),
        "quote.csv": f'id,text\n{row}b,"{MARKER}\n'.encode(),
        "columns.csv": f"id,text,text\n{row}".encode(),
        "empty.csv": b"",
        "header.csv": b"id,text\n",
        "late.csv": ("id,text\n" + "".join(f"{i},{MARKER}\n" for i in range(3 * BATCH)) + "x\n").encode(),
        "cut.tgz": archive.getvalue()[:-900],
        "line.jsonl": f'{{"id": "{MARKER}", "text": "a"}}\n{{"id": "{MARKER}\n'.encode(),
        "wrong.docx": MARKER.encode(),
        "mixed/a.txt": MARKER.encode(),
        "mixed/b.xml": MARKER.encode(),
        "xml/a.xml": f"<a>{MARKER}".encode(),
    }
    for name, data in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    pq.write_table(pa.table({"id": [MARKER] * 9, "text": [MARKER] * 9}), folder / "whole.parquet")
    (folder / "cut.parquet").write_bytes((folder / "whole.parquet").read_bytes()[:-9])
    names = [*files, "whole.parquet", "cut.parquet", "absent.csv", "mixed", "xml"]
    return {name: folder / name for name in names if not name.startswith(("mixed/", "xml/"))}


WHAT_IS_SAID: dict[str, tuple[str, ...]] = {
    "column.csv": ("id, body", "--text-column"),
    "headerless.csv": ("expected a text column", "header missing"),
    "utf8.csv": ("line 3", "UTF-8"),
    "twice.csv": ("line 3", "line 2", "unique"),
    "ragged.csv": ("line 3", "expected 2 fields"),
    "quote.csv": ("line 3", "quotes"),
    "columns.csv": ("two columns", "rename"),
    "empty.csv": ("expected a header",),
    "header.csv": ("expected one report or more",),
    "late.csv": (f"line {3 * BATCH + 2}", "expected 2 fields"),
    "cut.tgz": ("not a whole .tgz", "fetch it again"),
    "line.jsonl": ("line 2", "JSON"),
    "wrong.docx": (".docx",),
    "whole.parquet": ("row 2", "row 1", "unique"),
    "cut.parquet": ("Parquet", "write it again"),
    "absent.csv": ("no such file",),
    "mixed": ("found both",),
    "xml": ("a.xml", "XML"),
}


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
@pytest.mark.parametrize("case", WHAT_IS_SAID)
def test_bad_reports(cli: Cli, tmp_path: Path, case: str, suffix: str) -> None:
    source = planted(tmp_path / "in")[case]
    output = tmp_path / "out" / f"t{suffix}"
    output.parent.mkdir()
    output.write_bytes(b"before")
    status, out, err = cli("run", source, "--labeler", "keywords", "-o", output)
    assert (status, out) == (1, "")
    assert err.startswith("labelers: error: ")
    assert err.count("\n") == 1
    for part in (str(source), *WHAT_IS_SAID[case]):
        assert part in err
    assert MARKER not in err
    assert [p.name for p in output.parent.iterdir()] == [output.name]
    assert output.read_bytes() == b"before"


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        ((), ("COMMAND",)),
        (("fly",), ("invalid choice: 'fly'",)),
        (("run",), ("required", "reports")),
        (("run", "IN"), ("required", "-o/--output")),
        (("run", "IN", "-o", "OUT", "--labeler", "contxt"), ("unknown labeler 'contxt'", "did you mean context", "keywords")),
        (("run", "IN", "-o", "OUT", "--labeler", "no.such:Class"), ("no.such:Class", "cannot be imported")),
        (("run", "IN", "-o", "OUT", "--set", "vocabluary=x"), ("'vocabluary'", "did you mean vocabulary")),
        (("run", "IN", "-o", "OUT", "--set", "vocabulary"), ("expected KEY=VALUE",)),
        (("run", "IN", "-o", "OUT.xlsx"), (".parquet or .csv", "'.xlsx'")),
        (("run", "IN", "-o", "OUT", "--jobs", "0"), ("--jobs", "whole number from 1, got '0'")),
        (("run", "IN", "-o", "OUT", "--jobs", "two"), ("--jobs", "'two'")),
        (("run", "IN", "-o", "OUT", "--format", "tall"), ("--format", "'tall'", "chexpert")),
        (("run", "IN", "-o", "OUT", "--jbos=2"), ("unknown options: --jbos",)),
        (("run", "IN", "-o", "IN"), ("expected another file than the reports",)),
        (("explain",), ("--text", "--file", "required")),
        (("explain", "--text", "a", "--file", "IN"), ("not allowed with",)),
        (("explain", "--text", "no", MARKER), ("expected --text",)),
        (("explain", "--text", "no", "-", MARKER), ("not allowed",)),
        (("score", "IN", "IN", MARKER), ("more arguments than expected",)),
        (("score", "IN"), ("required", "gold")),
        (("noise", "IN", "--truth", "images", "-o", "OUT"), ("--truth", "--gold")),
        (("noise", "IN", "--gold", "IN", "-o", "OUT.png"), ("OUT.png", ".json")),
        (("noise", "IN", "--gold", "IN", "-o", "OUT", "--truth", "guess"), ("--truth", "'guess'")),
    ],
)
def test_wrong_use(cli: Cli, reports: Path, tmp_path: Path, argv: tuple[str, ...], parts: tuple[str, ...]) -> None:
    before = reports.read_bytes()
    words = {"IN": str(reports), "OUT": str(tmp_path / "t.csv"), "OUT.xlsx": str(tmp_path / "t.xlsx")}
    status, out, err = cli(*(words.get(word, word) for word in argv))
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    for part in parts:
        assert part in err
    assert MARKER not in err
    assert [p.name for p in tmp_path.iterdir()] == ["reports.csv"]
    assert reports.read_bytes() == before


@pytest.mark.parametrize(
    ("labeler", "jobs"),
    [("Quoting", 1), ("Quoting", 2), ("QuotingAlways", 1), ("Losing", 1), ("Losing", 2), ("Dying", 2)],
)
def test_a_labeler_that_fails_is_not_repeated(cli: Cli, tmp_path: Path, plugin: str, labeler: str, jobs: int) -> None:
    source = reports_csv(tmp_path / "reports.csv", [MARKER] * 3)
    command = ["run", source, "--labeler", f"{plugin}:{labeler}", "-o", tmp_path / "t.parquet", "--jobs", jobs]
    status, out, err = cli(*command)
    assert (status, out) == (1, "")
    assert err.count("\n") == 1
    expected = {
        "Quoting": "the labeler 'base' failed with ValueError on reports 1 to 3",
        "QuotingAlways": "the labeler 'base' failed with KeyError on an empty report",
        "Losing": "gave other reports than reports 1 to 3",
        "Dying": "a worker process was killed",
    }
    assert expected[labeler] in err
    assert MARKER not in err
    assert [p.name for p in tmp_path.iterdir()] == ["reports.csv"]


def test_explain_of_a_labeler_that_fails(cli: Cli, plugin: str) -> None:
    status, out, err = cli("explain", "--text", MARKER, "--labeler", f"{plugin}:Quoting")
    assert (status, out) == (1, "")
    assert "failed with ValueError on the text" in err
    assert MARKER not in err


def test_explain_of_bad_files(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(MARKER.encode() + b"\xff")
    for given, part in ((tmp_path / "t.txt", "UTF-8"), (tmp_path / "absent", "cannot be read"), (tmp_path, "cannot be read")):
        status, out, err = cli("explain", "--file", given)
        assert (status, out) == (1, "")
        assert str(given) in err
        assert part in err
        assert err.count("\n") == 1
        assert MARKER not in err


def test_tables_and_gold_that_do_not_fit(cli: Cli, labeled: tuple[Path, Path], tmp_path: Path) -> None:
    table, gold = labeled
    (tmp_path / "others.csv").write_text(f"report_id,Pleural Effusion\n{MARKER},1\n", encoding="utf-8")
    (tmp_path / "words.csv").write_text(f"report_id,Pleural Effusion\nr1,{MARKER}\n", encoding="utf-8")
    cases: list[tuple[list[Any], str]] = [
        (["score", table, tmp_path / "others.csv"], "share no report id (20 against 1)"),
        (["score", table, tmp_path / "words.csv"], "line 2, column 'Pleural Effusion': expected 1, 0 or nothing"),
        (["score", tmp_path / "absent.parquet", gold], "no such label table"),
        (["score", table, tmp_path / "absent.csv"], "no such file"),
        (["noise", table, table, "--gold", gold, "-o", tmp_path / "c.json"], "two tables are by the labeler 'context'"),
        (["noise", table, "--gold", tmp_path / "others.csv", "-o", tmp_path / "c.json"], "share no report id"),
        (["noise", table, "--gold", gold, "-o", tmp_path], "it is a folder"),
    ]
    before = sorted(tmp_path.iterdir())
    for argv, part in cases:
        status, out, err = cli(*argv)
        assert (status, out) == (1, "")
        assert part in err
        assert err.count("\n") == 1
        assert MARKER not in err
    assert sorted(tmp_path.iterdir()) == before


def test_an_unforeseen_error_shows_where_and_not_what(cli: Cli, reports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError(MARKER)

    monkeypatch.setattr("labelers.cli.read_gold", broken)
    monkeypatch.setattr("labelers.cli.read_table", lambda _: None)
    status, _, err = cli("score", reports, reports)
    assert status == 1
    assert "internal error (ZeroDivisionError)" in err
    assert "in broken" in err
    assert MARKER not in err


# --- the real program ---------------------------------------------------------------------------------------------------------


def script(*argv: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SCRIPT, *map(str, argv)], capture_output=True, text=True, timeout=60, check=False, **options)


def test_the_console_script(tmp_path: Path) -> None:
    source = reports_csv(tmp_path / "reports.csv", TEXTS)
    done = script("run", source, "-o", tmp_path / "t.parquet", "--jobs", 2, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("labeled 4 reports")
    assert len(read_table(tmp_path / "t.parquet")) == 4
    assert script("run", source, "-o", tmp_path / "t.tsv").returncode == 2
    failed = script("run", tmp_path / "absent.csv", "-o", tmp_path / "t.csv")
    assert failed.returncode == 1
    assert failed.stderr.count("\n") == 1


def test_as_a_module_and_from_a_pipe() -> None:
    command = [sys.executable, "-m", "labelers", "explain", "-", "--json"]
    done = subprocess.run(command, input="No edema.", capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert {p["state"] for p in json.loads(done.stdout)} == {"negative"}


def test_a_reader_that_leaves_early_is_no_traceback() -> None:
    read, write = os.pipe()
    os.close(read)
    for argv in (["list"], ["list", "--json"]):
        done = subprocess.run([SCRIPT, *argv], stdout=write, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
        assert done.stderr == ""
        assert done.returncode == 1
    os.close(write)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_stopped_leaves_nothing(tmp_path: Path, plugin: str, how: signal.Signals) -> None:
    source = reports_csv(tmp_path / "reports.csv", [MARKER])
    command = [str(SCRIPT), "run", str(source), "--labeler", f"{plugin}:Slow", "-o", str(tmp_path / "t.parquet")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 30
        while not list(tmp_path.glob(".t.parquet*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.2)
        process.send_signal(how)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert err == "labelers: error: interrupted; nothing half-written was left behind\n"
    assert [p.name for p in tmp_path.iterdir()] == ["reports.csv"]
