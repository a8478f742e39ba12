"""Report text -> sections and sentences, as spans of code points."""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

__all__ = ["FINDINGS", "IMPRESSION", "SILENT", "Section", "sentences", "split_report", "split_sections"]

FINDINGS, IMPRESSION, SILENT = range(3)
"""Kinds of sections: findings (and whatever stands under no header), impression, and what never gives a label: history,
indication, comparison, technique."""

_HEADERS = {
    FINDINGS: "findings, finding, report, final report, chest, body of report, results, observations, description, discussion",
    IMPRESSION: """impression, impressions, conclusion, conclusions, opinion, summary, assessment, diagnosis, interpretation,
        wet read, findings and impression, findings/impression, impression/recommendation, final impression, final diagnosis""",
    SILENT: """indication, indications, history, clinical history, clinical information, clinical indication, clinical data,
        clinical, clinical question, clinical statement, reason for exam, reason for examination, reason for study, reason,
        reason for this examination, patient history, medical history, medical condition, underlying medical condition,
        admitting diagnosis, comparison, comparisons, comparison study, technique, exam, examination, procedure,
        procedure comments, type of examination, study, views, exam type, date, date of exam, notification, recommendation,
        recommendations, signed, dictated by, electronically signed by""",
}
_KIND = {" ".join(name.split()): kind for kind, names in _HEADERS.items() for name in names.split(",")}
_LONGEST_HEADER = max(map(len, _KIND)) + 8
_ALONE = re.compile(r"^[^\S\n]*+([A-Za-z][A-Za-z/ \t]{3,40}?)[^\S\n]*$", re.MULTILINE)
_BLANK = re.compile(r"\S[^\S\n]*\n[^\S\n]*\n")
_STARTS = ".;:)]\n"


class Section(NamedTuple):
    """A stretch of a report under one header: kind, and [start, end) of its body in code points."""

    kind: int
    start: int
    end: int


def split_sections(text: str) -> list[Section]:
    """Cut a report into its sections; text under no header counts as findings.

    A silent section ends at the first blank line after its first words, since what follows is a paragraph of its own; a silent
    header in the middle of a line of findings or impression ends with its sentence.
    """
    sections: list[Section] = []
    kind, start, named = FINDINGS, 0, False
    for (first, last, found), (following, *_) in pairwise([*_headers(text), (len(text), len(text), SILENT)]):
        _close(sections, text, kind, start, first)
        inside_line = text[max(0, first - 4) : first].strip(" \t")[-1:] not in ("", "\n")
        if found == SILENT and named and kind != SILENT and inside_line:
            stop = text.find(". ", last, following)
            sections.append(Section(SILENT, last, following if stop < 0 else stop + 2))
            start = sections[-1].end
        else:
            kind, start, named = found, last, True
    _close(sections, text, kind, start, len(text))
    return sections


def _headers(text: str) -> list[tuple[int, int, int]]:
    """Return (start, end, kind) of the headers: known names before a colon or alone on a line."""
    found: list[tuple[int, int, int]] = []
    colon = text.find(":")
    while colon >= 0:
        low = max(0, colon - _LONGEST_HEADER)
        line = text.rfind("\n", low, colon)
        header = _header_before(text[max(low, line + 1) : colon], line >= 0 or low == 0)
        if header is not None:
            found.append((colon - header[0], colon + 1, header[1]))
        colon = text.find(":", colon + 1)
    for match in _ALONE.finditer(text):
        kind = _KIND.get(" ".join(match[1].lower().split()))
        if kind is not None:
            found.append((match.start(), match.end(), kind))
    found.sort()
    return found


@lru_cache(maxsize=1 << 14)
def _header_before(piece: str, at_start: bool) -> tuple[int, int] | None:
    """Return (length, kind) of the header at the end of a piece of a line, at the start of a sentence or in capitals anywhere."""
    begin = 1 + max(map(piece.rfind, _STARTS))
    words = piece[begin:].split()
    at_start |= begin > 0
    for n in range(len(words)):
        name = " ".join(words[n:])
        kind = _KIND.get(name.lower())
        if kind is not None and ((n == 0 and at_start) or name.isupper()):
            start = piece.rindex(words[n], begin) if n == len(words) - 1 else piece.index(words[n], begin)
            return len(piece) - start, kind
    return None


def _close(sections: list[Section], text: str, kind: int, start: int, end: int) -> None:
    if kind == SILENT:
        blank = _BLANK.search(text, start, end)
        if blank is None:
            sections.append(Section(SILENT, start, end))
            return
        sections.append(Section(SILENT, start, blank.end()))
        kind, start = FINDINGS, blank.end()
    if start < end and not text[start:end].isspace():
        sections.append(Section(kind, start, end))


# Where a sentence may end: after its final punctuation, at a semicolon-free line end, or at a list number.
# A run of punctuation is looked at from its first sign behind a word alone and never given back, so that a line of a million dots
# takes no longer than any other.
_END = re.compile(
    r"""[.!?\n](?:
        (?<=\n)
        | (?:(?<=[^\s.!?].)|(?<=\s[.!?].)|(?<=\A[.!?].)) [.!?]*+ ["')\]]*+ (?=\s|$)
        | (?<=[a-z]{2}\.)(?=[A-Z])
    )""",
    re.VERBOSE,
)
_ABBREVIATIONS = frozenset({"dr", "drs", "mr", "mrs", "ms", "st", "vs", "approx", "e.g", "i.e", "cf", "fig", "a.m", "p.m"})
_LIST_ITEM = re.compile(r"[ \t\r]*(?:\(?\d{1,2}[.)]\s|[-*•·]\s|\n)")
_LINE_WRAP = 50
"""A line of fewer characters was ended by its author, not wrapped."""


def sentences(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """Return the [start, end) of the sentences of a stretch of text, without the space around them."""
    spans: list[tuple[int, int]] = []
    begin = line = start
    for match in _END.finditer(text, start, end):
        at = match.end()
        last = text[at - 1]
        if last == "\n":
            ends = _line_ends(text, line, match.start(), end)
            line = at
        else:  # behind a word that is longer than any abbreviation a full stop ends the sentence
            ends = last != "." or (at - 8 >= begin and text[at - 8 : at - 1].isalpha()) or _full_stop_ends(text, begin, at, end)
        if ends:
            first = begin + 1 if text[begin] == " " else begin
            if last == "\n" or text[first].isspace():
                _append(spans, text, begin, at)
            else:  # as nearly always, one space before the sentence and none behind it
                spans.append((first, at))
            begin = at
    _append(spans, text, begin, end)
    return spans


def _append(spans: list[tuple[int, int]], text: str, begin: int, end: int) -> None:
    """Add a stretch without the space around it, if there is anything else in it."""
    while begin < end and text[begin].isspace():
        begin += 1
    while begin < end and text[end - 1].isspace():
        end -= 1
    if begin < end:
        spans.append((begin, end))


def _full_stop_ends(text: str, begin: int, at: int, end: int) -> bool:
    """Say whether a full stop that ends at ``at`` ends the sentence that begins at ``begin``."""
    tail = text[max(begin, at - 9) : at - 1]
    words = tail.split()
    if not words:
        return True
    word = words[-1].lower().strip("(")
    if (
        len(words) == 1
        and (word.isdigit() or (len(word) == 1 and word.isalpha()))
        and not text[begin : max(begin, at - 9)].strip()
    ):
        return False
    if word == "no":
        return not text[at:end][:3].strip().isdigit()
    return word not in _ABBREVIATIONS


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
