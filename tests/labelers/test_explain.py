"""What `labelers explain` shows: the page keeps the text whatever it holds, marks what the evidence says, and runs nothing."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import labelers.explain
from labelers import InputError, LabelTable, Report, Vocabulary
from labelers.cli import main
from labelers.explain import LISTED, ROWS, SIGNS, page, places_of, segments, tell
from labelers.types import NEGATIVE, POSITIVE, UNCERTAIN, UNMENTIONED, Evidence

MARKER = "Xylophonist"
"""Planted in texts; nothing but the page and standard output may hold it."""
RULES = (
    ("Edema", r"edema", POSITIVE, "plain"),
    ("Pleural Effusion", r"(small )?pleural effusion", POSITIVE, "plain"),
    ("Pleural Other", r"pleural effusion", POSITIVE, "plain"),
    ("Pneumothorax", r"no [^.]*pneumothorax", NEGATIVE, 'no "<b>" & so on'),
    ("Fracture", r"possible [^.]*fracture", UNCERTAIN, "may\x1b\u202e"),
    ("Nodule", r"fracture or nodule", UNCERTAIN, "may\x1b\u202e"),
)
CUES = tuple(dict.fromkeys(cue for *_, cue in RULES))


class Words:
    """Knows a few words; its places overlap, and one of its cues is hostile."""

    name = "words"
    version = "1"
    vocabulary = Vocabulary.of([finding for finding, *_ in RULES])

    def label(self, reports: Sequence[Report]) -> LabelTable:
        width = len(RULES)
        found = [
            (row * width + k, m.start(), m.end(), state, CUES.index(cue))
            for row, report in enumerate(reports)
            for k, (_, pattern, state, cue) in enumerate(RULES)
            for m in re.finditer(pattern, report.text, re.IGNORECASE)
        ]
        cell, start, end, state, cue = np.array(found, np.int64).reshape(-1, 5).T
        codes = np.full((len(reports), width), UNMENTIONED)
        codes.ravel()[cell] = state
        table = LabelTable.from_states([r.report_id for r in reports], self.vocabulary, codes, self.name)
        evidence = Evidence(cell, start.astype(np.int32), end.astype(np.int32), state.astype(np.int8), cue.astype(np.int32), CUES)
        return LabelTable(**{**vars(table), "evidence": evidence})


class Outside(Words):
    """Gives a place that lies outside the text."""

    def label(self, reports: Sequence[Report]) -> LabelTable:
        table = super().label(reports)
        return LabelTable(**{**vars(table), "evidence": Evidence(**{**vars(table.evidence), "end": table.evidence.end + 99})})


class Quoting(Words):
    """Fails and quotes the text."""

    def label(self, reports: Sequence[Report]) -> LabelTable:
        raise ValueError(reports[0].text)


WORDS = f"{__name__}:Words"
TEXT = (
    "FINDINGS: Small pleural effusion. No edema or pneumothorax.\r\n\tPossible rib fracture or nodule.\n\n"
    "<script>alert('x')</script> & <a href=\"#\" class='place'>edema</a> &amp; &#0; <!-- edema -->"
)
HOSTILE = (
    TEXT,
    "",
    " \n",
    "\n\nedema\n\n",
    "edema\r\redema\r\n",
    "no \x00 edema, \x1b[31m no \ud83d or \udcff pneumothorax \u202e turned \u2066 and \u200f so \ufeff\ufffe",
    "]]> --> </div></body> </a> edema \" ' ` {text} {0} %s",
    "\u05d0\u05d3\u05de\u05d4 edema \u0639\u0631\u0628\u064a, 胸部 edema, e\u0301dema \U0001f600",
    "</style><style>@import url(//x)</style><img src=x onerror=alert(1)> edema",
)


class Page(HTMLParser):
    """Reads a page as a browser would: its elements, the text's code points, and the places that are marked in it."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.marked: list[tuple[int, int, dict[str, str]]] = []
        self.rows: list[list[str]] = []
        self._open: list[str] = []
        self._depth = 0
        self._place: tuple[int, dict[str, str]] | None = None
        self.feed(html)
        self.close()
        assert self._open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.elements.append((tag, given))
        if tag == "meta":
            return
        self._open.append(tag)
        if given.get("id") == "text":
            self._depth = len(self._open)
        elif self._depth and tag == "a":
            self._place = len(self.text), given
        elif self._depth:
            assert (tag, given["class"]) == ("span", "unshown")
            self.text += chr(int(given["data-code"], 16))
        elif tag == "tr":
            self.rows.append([])
        elif tag == "td":
            self.rows[-1].append("")
        elif given.get("class") == "unshown" and "td" in self._open:
            self.rows[-1][-1] += chr(int(given["data-code"], 16))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if self._place and tag == "a":
            self.marked.append((self._place[0], len(self.text), self._place[1]))
            self._place = None
        if len(self._open) < self._depth:
            self._depth = 0

    def handle_data(self, data: str) -> None:
        if self._depth:
            self.text += data
        elif "td" in self._open:
            self.rows[-1][-1] += data


def read(text: str, labeler: Words | None = None) -> tuple[Page, list[dict[str, Any]]]:
    table = (labeler or Words()).label([Report("", text)])
    written = page(text, table).encode().decode()
    return Page(written), places_of(table)


@pytest.mark.parametrize("text", HOSTILE)
def test_the_text_comes_back_and_its_tags_do_not_live(text: str) -> None:
    read_page, places = read(text)
    assert read_page.text == text
    tags = {tag for tag, _ in read_page.elements}
    assert tags <= {"html", "head", "meta", "title", "style", "body", "h1", "p", "ul", "li", "div", "span", "a"} | {
        "table",
        "caption",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
    }
    assert [tag for tag, _ in read_page.elements].count("style") == 1
    names = {name for _, given in read_page.elements for name in given}
    assert names <= {"lang", "charset", "http-equiv", "content", "name", "id", "dir", "class", "href", "title", "scope"} | {
        "data-sign",
        "data-code",
    }
    assert all(given["href"].startswith("#") for _, given in read_page.elements if "href" in given)
    assert len(read_page.rows) == (1 + len(places) if places else 0)


@given(st.text(st.characters() | st.sampled_from("<>&\"'\r\n\x00\u202e\ud800"), max_size=60))
def test_any_text_comes_back(text: str) -> None:
    read_page, _ = read(text + " edema " + text)
    assert read_page.text == text + " edema " + text


def test_nothing_is_fetched() -> None:
    written = page(TEXT, Words().label([Report("", TEXT)]))
    assert "default-src 'none'" in written
    assert not re.search(r"https?:|@import|<link|<script|url\(|src=", written)
    assert "prefers-color-scheme: dark" in written


def test_marks_and_rows_are_the_evidence() -> None:
    read_page, places = read(TEXT)
    assert len(places) == 8
    covered = [{n for n, p in enumerate(places) if p["start"] <= i < p["end"]} for i in range(len(TEXT))]
    marked: dict[int, dict[str, str]] = {i: given for start, end, given in read_page.marked for i in range(start, end)}
    for i, numbers in enumerate(covered):
        assert (i in marked) == bool(numbers)
        if not numbers:
            continue
        given, states = marked[i], {places[n]["state"] for n in numbers}
        first = next(state for state in SIGNS if state in states)
        assert given["class"].split()[:2] == ["place", first]
        assert ("several" in given["class"]) == (len(states) > 1)
        told = given["title"].split("\n")
        assert len(told) == len(numbers)
        for n in numbers:
            assert any(line.startswith(f"{places[n]['finding']}: {places[n]['state']}, P = ") for line in told)
    ids = [given["id"] for _, given in read_page.elements if "id" in given]
    assert len(ids) == len(set(ids))
    assert {given["href"][1:] for _, given in read_page.elements if "href" in given} <= set(ids), "every link leads somewhere"
    header, *rows = read_page.rows
    assert header == []
    for place, row in zip(places, rows, strict=True):
        assert row == [
            f"{place['start']} to {place['end']}",
            TEXT[place["start"] : place["end"]],
            place["finding"],
            f"{SIGNS[place['state']]} {place['state']}",
            f"{place['probability']:.4g}",
            place["cue"],
        ]


def test_every_place_has_its_sign_where_it_begins() -> None:
    read_page, places = read(TEXT)
    signs = {start: given["data-sign"] for start, _, given in read_page.marked if "data-sign" in given}
    assert set(signs) == {place["start"] for place in places}
    assert all(SIGNS[place["state"]] in signs[place["start"]] for place in places)


@pytest.mark.parametrize("text", ["Edema. No pneumothorax.", "Possible fracture or nodule"])
def test_what_else_the_evidence_tells_is_shown(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at = Evidence.at

    def more(self: Evidence, cell: int) -> list[dict[str, Any]]:
        return [{**row, "side": "left" if cell == 0 else "", "change": "<new>", "severity": ""} for row in at(self, cell)]

    monkeypatch.setattr(Evidence, "at", more)
    read_page, places = read(text)
    assert all(list(place)[6:] == ["side", "change", "severity"] for place in places)
    sides = ["left" if place["finding"] == "Edema" else "" for place in places]
    told = [line for _, _, given in read_page.marked for line in given["title"].split("\n")]
    for place, side, row in zip(places, sides, read_page.rows[1:], strict=True):
        assert row[6:] == ([side, "<new>"] if any(sides) else ["<new>"]), "no column for what is said nowhere"
        end = f"{', side left' if side else ''}, change <new>"
        assert any(line.startswith(f"{place['finding']}: ") and line.endswith(end) for line in told)
    tell(text, places)
    heads = capsys.readouterr().out.splitlines()[0].split()
    assert heads[6:] == (["side", "change"] if any(sides) else ["change"])


# --- size -----------------------------------------------------------------------------------------------------------------------


def nested(count: int) -> list[dict[str, Any]]:
    """Places each inside the one before: as many overlap as there are."""
    base = {"finding": "Edema", "state": "positive", "probability": 0.9, "cue": "plain"}
    return [{**base, "start": i, "end": 2 * count - i} for i in range(count)]


def test_segments_are_at_most_two_a_place_and_list_a_few() -> None:
    places = nested(3000)
    found = list(segments(places, 6000))
    assert len(found) == 5999
    assert max(len(s.places) for s in found) == LISTED
    assert max(s.count for s in found) == 3000
    assert [s.start for s in found[1:]] == [s.end for s in found[:-1]]
    assert (found[0].start, found[-1].end) == (0, 6000)


def test_a_page_grows_with_text_and_places() -> None:
    def length(times: int) -> int:
        return len(page(TEXT * times, Words().label([Report("", TEXT * times)])))

    one, two, three = (length(n) for n in (500, 1000, 1500))
    assert three - two < 1.05 * (two - one)


@pytest.mark.slow
def test_a_megabyte(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.txt").write_text(TEXT * (2**20 // len(TEXT) + 1), encoding="utf-8", newline="")
    assert main(["explain", "--file", str(tmp_path / "t.txt"), "--labeler", WORDS]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert main(["explain", "--file", str(tmp_path / "t.txt"), "--labeler", WORDS, "--html", str(tmp_path / "t.html")]) == 0
    read_page = Page((tmp_path / "t.html").read_bytes().decode())
    assert read_page.text == (tmp_path / "t.txt").read_bytes().decode()
    assert len(read_page.rows) == len(lines) == 1 + 8 * (2**20 // len(TEXT) + 1)


# --- a terminal -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run `explain` on what seems a terminal; returns what was printed."""

    def run(text: str, encoding: str = "utf-8") -> str:
        raw = io.BytesIO()
        out = io.TextIOWrapper(raw, encoding)
        monkeypatch.setattr("sys.stdout", out)
        monkeypatch.setattr(
            labelers.explain, "Console", lambda: Console(file=out, force_terminal=True, color_system="truecolor", width=200)
        )
        assert main(["explain", f"--text={text}", "--labeler", WORDS]) == 0
        out.flush()
        return raw.getvalue().decode(encoding)

    return run


def plain(shown: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", shown)


def test_a_terminal_shows_the_text_in_colour_and_the_table(terminal: Callable[..., str]) -> None:
    shown = terminal("No edema or pneumothorax.\nPossible fracture.")
    assert plain(shown).startswith("-No +edema or pneumothorax.\n?Possible fracture.\n")
    for colour in ("187;85;102", "0;68;136", "221;170;51"):
        assert f"48;2;{colour}" in shown
    assert all(word in plain(shown) for word in ("finding", "probability", "Fracture", "uncertain"))


def test_a_text_cannot_steer_the_terminal(terminal: Callable[..., str]) -> None:
    shown = plain(terminal("edema \x1b]0;x\x07 \u202e \ud83d possible fracture [bold]"))
    assert shown.startswith("+edema \\x1b]0;x\\x07 \\u202e \\ud83d ?possible fracture [bold]\n")
    assert "may\\x1b\\u202e" in shown
    assert "\x1b" not in shown


def test_a_terminal_of_few_characters(terminal: Callable[..., str]) -> None:
    assert plain(terminal("edema \u2265 2 cm", "latin-1")).startswith("+edema \\u2265 2 cm\n")


def test_a_terminal_shows_the_first_rows(terminal: Callable[..., str]) -> None:
    shown = plain(terminal("edema " * (ROWS + 234)))
    assert shown.count("Edema ") == ROWS
    assert "and 234 more of 1,234 places; --json gives all of them" in shown
    assert "more of" not in plain(terminal("edema " * ROWS))


# --- the command ----------------------------------------------------------------------------------------------------------------


def test_every_source_gives_the_same_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"{MARKER}: no edema."
    (tmp_path / "t.txt").write_text(text, encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    pages = []
    for source in (["--text", text], ["--file", str(tmp_path / "t.txt")], ["-"]):
        written = tmp_path / "new folder" / f"{len(pages)}.html"
        assert main(["explain", *source, "--labeler", WORDS, "--html", str(written)]) == 0
        assert capsys.readouterr() == ("", f"explained the text with 'words' (places: 1) -> {written}\n")
        pages.append(written.read_bytes())
    assert MARKER.encode() in pages[0]
    assert len(set(pages)) == 1
    assert len(list((tmp_path / "new folder").iterdir())) == 3


@pytest.mark.parametrize("labeler", ["context", "keywords"])
def test_the_shipped_labelers(labeler: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "Small left pleural effusion. No pneumothorax. Possible early pneumonia. Lungs are clear."
    given = ["explain", "--text", text, "--labeler", labeler]
    assert main([*given, "--html", str(tmp_path / "t.html")]) == 0
    assert main([*given, "--json"]) == 0
    places = json.loads(capsys.readouterr().out)
    read_page = Page((tmp_path / "t.html").read_text(encoding="utf-8"))
    assert read_page.text == text
    assert [row[2] for row in read_page.rows[1:]] == [place["finding"] for place in places]
    assert places


@pytest.mark.parametrize(
    ("html", "labeler", "status", "parts"),
    [
        ("t.htm", "Words", 2, ("t.htm", "must end in .html", "'.htm'")),
        ("t", "Words", 2, ("must end in .html",)),
        ("folder.html", "Words", 1, ("folder.html", "it is a folder", "give a name inside it")),
        ("in.html/t.html", "Words", 1, ("is no folder",)),
        ("in.html", "Words", 2, ("expected another file than the text",)),
        ("t.html", "Quoting", 1, ("failed with ValueError on the text",)),
        ("t.html", "Outside", 1, ("a place from 19 to 123 in a text of 25", "check_labeler")),
    ],
)
def test_errors(
    html: str, labeler: str, status: int, parts: Sequence[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.html").write_text(f"{MARKER}, small edema.", encoding="utf-8")
    (tmp_path / "folder.html").mkdir()
    before = sorted(tmp_path.rglob("*"))
    given = ["--file", str(tmp_path / "in.html"), "--labeler", f"{__name__}:{labeler}"]
    assert main(["explain", *given, "--html", str(tmp_path / html)]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert all(part in err for part in parts), err
    assert MARKER not in err
    assert sorted(tmp_path.rglob("*")) == before


def test_json_and_a_page_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["explain", "--text", MARKER, "--json", "--html", "t.html"])
    assert MARKER not in capsys.readouterr().err


def test_a_place_outside_the_text_is_refused() -> None:
    for start, end in ((-1, 3), (2, 2), (3, 2), (0, 9)):
        place = {"finding": "Edema", "state": "positive", "probability": 0.9, "start": start, "end": end, "cue": ""}
        with pytest.raises(InputError, match="check_labeler"):
            list(segments([place], 5))
