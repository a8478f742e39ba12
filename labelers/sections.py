"""Report text -> sections and sentences, as spans of code points."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["FINDINGS", "IMPRESSION", "SILENT", "Section", "sentences", "split_report", "split_sections"]

FINDINGS, IMPRESSION, SILENT = range(3)
"""Kinds of sections: findings (and whatever stands under no header), impression, and what never gives a label: history,
indication, comparison, technique."""

_HEADERS = {
    FINDINGS: ("findings", "finding", "report", "chest", "body of report", "results", "observations", "description"),
    IMPRESSION: ("impression", "impressions", "conclusion", "conclusions", "opinion", "summary", "assessment", "diagnosis", "interpretation",
                 "findings and impression", "findings/impression", "impression/recommendation", "wet read"),
    SILENT: ("indication", "indications", "history", "clinical history", "clinical information", "clinical indication", "reason for exam",
             "reason for examination", "reason for study", "reason", "reason for this examination", "patient history", "medical history",
             "comparison", "comparisons", "comparison study", "technique", "exam", "examination", "procedure", "type of examination", "study",
             "views", "exam type", "date", "date of exam", "notification", "recommendation", "recommendations", "signed", "dictated by", "final report",
             "medical condition", "clinical data", "clinical", "provisional findings impression", "electronically signed by", "procedure comments"),
}  # fmt: skip
_KIND = {name: kind for kind, names in _HEADERS.items() for name in names}
_ALTERNATIVES = "|".join(sorted((re.escape(name).replace(r"\ ", r"[ \t]+") for name in _KIND), key=len, reverse=True))
# A header stands at the start of a line or of a sentence before a colon, or alone on its line.
_HEADER = re.compile(
    rf"(?:^[ \t]*|(?<=[.;:\])])[ \t]+)(?P<name>{_ALTERNATIVES})(?:[ \t]*:|[ \t]*$)|(?<=\s)(?P<upper>(?-i:[A-Z/ ]{{6,40}}))[ \t]*:",
    re.IGNORECASE | re.MULTILINE,
)
_BLANK = re.compile(r"\S[ \t]*\n[ \t]*\n")


@dataclass(frozen=True, slots=True)
class Section:
    """A stretch of a report under one header: kind, and [start, end) of its body in code points."""

    kind: int
    start: int
    end: int


def split_sections(text: str) -> list[Section]:
    """Cut a report into its sections; text under no header counts as findings.

    A silent section ends at the first blank line after its first words, since what follows is a paragraph of its own.
    """
    sections: list[Section] = []
    kind, start = FINDINGS, 0
    for match in _HEADER.finditer(text):
        name = match["name"] or match["upper"].strip()
        found = _KIND.get(" ".join(name.lower().split()))
        if found is None:
            continue
        _close(sections, text, kind, start, match.start())
        kind, start = found, match.end()
    _close(sections, text, kind, start, len(text))
    return sections


def _close(sections: list[Section], text: str, kind: int, start: int, end: int) -> None:
    if kind == SILENT:
        blank = _BLANK.search(text, start, end)
        if blank is not None:
            sections.append(Section(SILENT, start, blank.end()))
            kind, start = FINDINGS, blank.end()
    if start < end and not text[start:end].isspace():
        sections.append(Section(kind, start, end))


# Where a sentence may end: after its final punctuation, at a semicolon-free line end, or at a list number.
_END = re.compile(r"[.!?]+[\"')\]]*(?=\s|$)|(?<=[a-z]{2})\.(?=[A-Z])|\n")
_ABBREVIATION = re.compile(r"(?:\b(?:dr|drs|mr|mrs|ms|st|vs|approx|resp|e\.g|i\.e|cf|ca|no|fig|incl|prev|a\.m|p\.m|[a-z])\.)$", re.IGNORECASE)
_MARKER = re.compile(r"(?:^|\s)\(?(?:\d{1,2}|[a-z])[.)]$", re.IGNORECASE)
_LIST_ITEM = re.compile(r"\s*(?:\(?\d{1,2}[.)]\s|[-*•·]\s|\n)")
_LINE_WRAP = 50
"""A line of fewer characters was ended by its author, not wrapped."""


def sentences(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """Return the [start, end) of the sentences of a stretch of text, without the space around them."""
    spans: list[tuple[int, int]] = []
    begin = line = start
    for match in _END.finditer(text, start, end):
        at = match.end()
        if match[0] == "\n":
            ends = _line_ends(text, line, match.start(), end)
            line = at
        else:
            ends = _full_stop_ends(text, begin, at, end)
        if ends:
            _append(spans, text, begin, at)
            begin = at
    _append(spans, text, begin, end)
    return spans


def _append(spans: list[tuple[int, int]], text: str, begin: int, end: int) -> None:
    piece = text[begin:end]
    body = piece.strip()
    if body:
        first = begin + len(piece) - len(piece.lstrip())
        spans.append((first, first + len(body)))


def _full_stop_ends(text: str, begin: int, at: int, end: int) -> bool:
    if text[at - 1] != ".":
        return True
    tail = text[max(begin, at - 8) : at]
    if _MARKER.search(tail) and not text[begin : at - 3].strip():
        return False
    abbreviation = _ABBREVIATION.search(tail)
    if abbreviation is None or (len(abbreviation[0]) == 2 and at - begin > 2 and text[at - 3] != " "):
        return True
    following = text[at : at + 3].lstrip()
    return len(abbreviation[0]) > 2 and abbreviation[0].lower() == "no." and following[:1].isupper()


def _line_ends(text: str, line: int, at: int, end: int) -> bool:
    if _LIST_ITEM.match(text, at + 1, end):
        return True
    before = text[line:at].rstrip()
    after = text[at + 1 : at + 40].lstrip()
    return len(before) < _LINE_WRAP and after[:1].isupper()


def split_report(text: str) -> list[tuple[int, int, int]]:
    """Return (kind, start, end) of every sentence outside silent sections, in the order of the text."""
    return [
        (section.kind, start, end)
        for section in split_sections(text)
        if section.kind != SILENT
        for start, end in sentences(text, section.start, section.end)
    ]
