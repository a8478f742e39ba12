"""Command lines of ``labelers``, of any words: exit status 0, 1 or 2, no traceback, and one line where it fails."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelers import LabelTable, Vocabulary, write_table
from labelers.cli import main
from tests.fuzz import budget

pytestmark = pytest.mark.filterwarnings("error")

COMMANDS = ["list", "run", "explain", "score", "noise", "fly", "--help", "-h"]
OPTIONS = [
    *(
        "--json",
        "--labeler",
        "--set",
        "-o",
        "--output",
        "--format",
        "--text-column",
        "--id-column",
        "--jobs",
        "--text",
        "--file",
        "-",
    ),
    *(
        "--gold",
        "--truth",
        "--js",
        "--labeler=keywords",
        "--format=chexpert",
        "--jobs=1",
        "--text=No edema.",
        "-oc.json",
        "--",
        "--no",
    ),
]
VALUES = [
    *(
        "context",
        "keywords",
        "contxt",
        "json:dumps",
        "math:pi",
        "os:getcwd",
        "builtins:dict",
        "builtins:type",
        "sys:exit",
        "a.b:C",
        ".:x",
        ":",
    ),
    *("labelers.builtin.context:Context", "tests.hostile.refusals:Words", "tests.hostile.refusals:snapshot", "vocabulary=chest"),
    *(
        "vocabulary=own.yaml",
        "vocabulary=",
        "=x",
        "a=b",
        "long",
        "wide",
        "chexpert",
        "1",
        "0",
        "-1",
        "1e3",
        "²",
        "9" * 5000,
        "reports",
        "images",
    ),
    *(
        "r.csv",
        "r.jsonl",
        "texts",
        "absent.csv",
        "gold.csv",
        "labels.csv",
        "labels.parquet",
        "c.json",
        "out.csv",
        "out.parquet",
        "own.yaml",
    ),
    *(
        "new/out.csv",
        "texts/out.csv",
        "r.csv/out.csv",
        "x" * 300 + ".csv",
        ".",
        "..",
        "",
        "loop.csv",
        "pipe.csv",
        "a\nb.csv",
        "\x1b[2J",
        "\udcff",
    ),
    *("text", "report_id", "No edema.", "--text", "é" * 200 + ".csv"),
]
WORD = st.sampled_from(VALUES) | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), max_size=8)
PAIR = st.tuples(st.sampled_from(OPTIONS), WORD).map(list)
ARGV = st.tuples(
    st.sampled_from(COMMANDS) | WORD,
    st.lists(PAIR | st.lists(st.sampled_from(OPTIONS) | WORD, min_size=1, max_size=1), max_size=6),
).map(lambda drawn: [drawn[0], *(word for words in drawn[1] for word in words)])
RUN = st.tuples(
    st.just("run"),
    st.sampled_from(["r.csv", "r.jsonl", "texts", "absent.csv", "labels.csv", "labels.parquet", "pipe.csv", "loop.csv"]),
    st.sampled_from(["-oout.csv", "-oout.parquet", "-or.csv", "-onew/out.csv", "-oloop.csv", "-opipe.csv", "-o."]),
    st.sampled_from(["--labeler=tests.hostile.refusals:Words", "--labeler=keywords", "--labeler=sys:exit"]),
    st.sampled_from(
        [
            "--format=long",
            "--format=wide",
            "--format=chexpert",
            "--text-column=text",
            "--id-column=id",
            "--set=vocabulary=own.yaml",
        ]
    ),
).map(list)
SCORE = st.tuples(
    st.sampled_from(["score", "noise"]),
    st.sampled_from(["labels.csv", "labels.parquet", "r.csv", "own.yaml", "texts", "pipe.csv", "loop.csv", "out.csv"]),
    st.sampled_from(["gold.csv", "--gold=gold.csv", "--gold=r.csv", "labels.csv", "--gold=labels.csv", "--gold=loop.csv"]),
    st.sampled_from(["--json", "-oc.json", "-ogold.csv", "-onew/c.json", "-o."]),
).map(list)


@pytest.fixture(scope="module")
def place(folder: Path) -> Path:
    here = folder / "command lines"
    (here / "texts").mkdir(parents=True)
    (here / "loop.csv").symlink_to("loop.csv")
    os.mkfifo(here / "pipe.csv")
    return here


@cache
def inputs() -> dict[str, bytes]:
    table = LabelTable.from_states(["a", "b"], Vocabulary.of(["Edema"]), np.array([[1], [0]]), "me")
    with tempfile.TemporaryDirectory() as folder:
        for suffix in (".csv", ".parquet"):
            write_table(table, Path(folder) / f"labels{suffix}")
        tables = {file.name: file.read_bytes() for file in Path(folder).iterdir()}
    return {
        **tables,
        "texts/a.txt": b"No edema.",
        "r.csv": b"report_id,text\na,No edema.\nb,Fracture\n",
        "r.jsonl": b'{"id": 1, "text": "No edema."}\n',
        "gold.csv": b"report_id,Edema\na,0\nb,1\n",
        "own.yaml": b"findings: [{name: Edema, terms: [edema]}]",
    }


def read_by(argv: list[str]) -> set[str]:
    """The files that a command line names other than as its output."""
    words = [word for before, word in pairwise(["", *argv]) if before not in ("-o", "--output") and not word.startswith("-o")]
    return {name for name in inputs() if any(word in (name, f"--gold={name}") for word in words)}


def run(argv: list[str], typed: bytes) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    stdin = io.TextIOWrapper(io.BytesIO(typed))
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr("sys.stdin", stdin)
        try:
            status = main(argv)
        except SystemExit as stop:
            status = int(stop.code or 0)
    return status, out.getvalue(), err.getvalue()


@budget(4)
@given(argv=ARGV | RUN | SCORE, typed=st.binary(max_size=20) | st.just(b"No edema."))
def test_a_command_line_of_any_words(place: Path, argv: list[str], typed: bytes) -> None:
    for name, content in inputs().items():
        (place / name).write_bytes(content)
    with contextlib.chdir(place):
        status, out, err = run(argv, typed)
    assert status in (0, 1, 2)
    assert "Traceback" not in err
    assert "internal error" not in err
    if status:
        assert out == ""
        assert len(err.splitlines()) == 1
    for name in read_by(argv):
        assert (place / name).read_bytes() == inputs()[name], "no input is written over"
    assert not list(place.rglob("*.part"))


@budget(0.3)
@given(text=st.text(st.characters(exclude_characters="\0"), max_size=50))
def test_explain_of_any_text(text: str) -> None:
    assert run(["explain", f"--text={text}", "--json"], b"")[0] == 0
