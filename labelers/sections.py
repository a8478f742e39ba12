"""Report texts -> sections and sentences, as spans of code points, for whole batches of texts at once."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from functools import cached_property, lru_cache
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelers.words import code_points

__all__ = ["FINDINGS", "IMPRESSION", "SILENT", "Section", "Sentences", "split_report", "split_reports", "split_sections"]

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
_ALONE = re.compile(r"[A-Za-z][A-Za-z/ \t]{3,40}")
_LONGEST_ALONE = 41
_STARTS = ".;:)]\n"

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


class Section(NamedTuple):
    """A stretch of a report under one header: kind, and [start, end) of its body in code points."""

    kind: int
    start: int
    end: int


class Sentences(NamedTuple):
    """The sentences of a batch of texts outside silent sections, in the order of the texts, as arrays of length N.

    Attributes:
        text: The sentences themselves, a list.
        row: Number of the text, from 0, int64.
        kind: FINDINGS or IMPRESSION, int64.
        start: First code point in the text, int64.
        end: One past the last, int64; there is no space around a sentence.
    """

    text: list[str]
    row: Ints
    kind: Ints
    start: Ints
    end: Ints


def split_reports(texts: Sequence[str]) -> Sentences:
    """Cut reports into sentences; what a text gives depends on itself alone."""
    if not texts:
        return Sentences([], *(np.zeros(0, np.int64) for _ in range(4)))
    page = _Page(texts)
    sections = _cut_sections(page)
    section, start, end = _cut_sentences(page, sections)
    text = [page.text[a:b] for a, b in zip(start.tolist(), end.tolist(), strict=True)]
    row = sections.row[section]
    return Sentences(text, row, sections.kind[section], start - page.first[row], end - page.first[row])


def split_report(text: str) -> list[tuple[int, int, int]]:
    """Return (kind, start, end) of every sentence of one report outside silent sections, in the order of the text."""
    return list(zip(*(column.tolist() for column in split_reports([text])[2:]), strict=True))


def split_sections(text: str) -> list[Section]:
    """Cut a report into its sections; text under no header counts as findings.

    A silent section ends at the first blank line after its first words, since what follows is a paragraph of its own; a silent
    header in the middle of a line of findings or impression ends with its sentence.
    """
    page = _Page([text])
    found: list[Section] = []
    columns = (column.tolist() for column in _cut_sections(page)[1:])
    for kind, silent, start, end in zip(*columns, strict=True):
        if silent >= 0:
            found.append(Section(SILENT, silent - _MARGIN, start - _MARGIN))
        if not page.text[start:end].isspace() and start < end:
            found.append(Section(kind, start - _MARGIN, end - _MARGIN))
    return found


_MARGIN = 4
"""Line feeds before the first text, so that there is always something to look back at."""
_SIGN, _FEED, _SPACE, _CLOSER, _LOWER, _UPPER, _ITEM, _OTHER = (1 << bit for bit in range(8))
_CLASSES = {
    **{_SIGN: ".!?", _FEED: "\n", _CLOSER: "\"')]", _ITEM: "0123456789(-*"},
    **{_LOWER: string.ascii_lowercase, _UPPER: string.ascii_uppercase},
    _SPACE: [chr(code) for code in range(128) if chr(code).isspace()],
}
_LETTER = _LOWER | _UPPER
_CLASS = bytes(sum(bit for bit, signs in _CLASSES.items() if chr(code) in signs) for code in range(128)) + bytes([_OTHER] * 128)


class _Page:
    """Texts one behind another with line feeds between them.

    Attributes:
        text: All of it.
        codes: Its code points.
        classes: The classes of each, as bits.
        first: Where each text begins.
        end: Where each text ends.
        feeds: Where the line feeds are, those between the texts among them.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.text = "\n" * _MARGIN + "\n".join(texts) + "\n"
        length = np.fromiter(map(len, texts), np.int64, len(texts))
        self.end = np.cumsum(length + 1) - 1 + _MARGIN
        self.first = self.end - length
        self.codes = code_points(self.text)
        self.classes = self._classes()
        self.feeds = np.flatnonzero(self.codes == ord("\n"))

    def _classes(self) -> NDArray[np.uint8]:
        if self.codes.dtype == np.uint8:
            return np.frombuffer(self.codes.tobytes().translate(_CLASS), np.uint8)
        low = np.minimum(self.codes, 128).astype(np.uint8)
        classes = np.frombuffer(low.tobytes().translate(_CLASS), np.uint8).copy()
        high = np.flatnonzero(low == 128)
        distinct, which = np.unique(self.codes[high], return_inverse=True)
        classes[high] |= np.array([_SPACE * chr(code).isspace() for code in distinct.tolist()], np.uint8)[which]
        return classes

    def holds(self, classes: int, at: Ints) -> Flags:
        """Say whether the signs at some places are of one of the classes."""
        there: Flags = self.classes[at] & classes != 0
        return there

    @cached_property
    def _words(self) -> tuple[Ints, Ints]:
        """Where the stretches without a space begin and end."""
        space = self.classes & _SPACE != 0
        steps = np.flatnonzero(space[1:] != space[:-1]) + 1
        return np.append(steps[::2], len(self.codes)), np.append(0, steps[1::2])

    def line_start(self, at: int) -> int:
        """Return where the line begins that a place is on."""
        return self.text.rfind("\n", 0, at) + 1

    def strip(self, start: Ints, end: Ints) -> tuple[Ints, Ints]:
        """Return stretches without the space around them; one of spaces alone begins where it ends or behind that."""
        start = start + (self.holds(_SPACE, start) & (start < end))
        end = end - (self.holds(_SPACE, end - 1) & (start < end))
        more = np.flatnonzero(self.holds(_SPACE, start) & (start < end))
        if len(more):
            begins = self._words[0]
            start[more] = begins[np.searchsorted(begins, start[more])]
        more = np.flatnonzero(self.holds(_SPACE, end - 1) & (start < end))
        if len(more):
            ends = self._words[1]
            end[more] = ends[np.searchsorted(ends, end[more], "right") - 1]
        return start, end

    @cached_property
    def lines(self) -> tuple[Ints, Ints]:
        """Where the words of each line begin and end; that of number k lies behind the line feed of that number."""
        return self.strip(self.feeds[:-1] + 1, self.feeds[1:])

    @cached_property
    def blank_lines(self) -> Flags:
        """Whether there is nothing but space on a line."""
        first, last = self.lines
        return first >= last


class _Sections(NamedTuple):
    """What stands under the headers of a page, the beginnings of texts among them, as arrays.

    Attributes:
        row: Number of the text.
        kind: FINDINGS or IMPRESSION.
        silent: Where a silent stretch begins, which ends at ``start``; -1 for none.
        start: First code point of what is not silent.
        end: One past the last.
    """

    row: Ints
    kind: Ints
    silent: Ints
    start: Ints
    end: Ints


def _cut_sections(page: _Page) -> _Sections:
    first, last, kind = _headers(page)
    count = len(page.first)
    # The beginning of a text is a header of findings without a name.
    order = np.argsort(np.concatenate([page.first, first]), kind="stable")
    named = order >= count
    first, last = (np.concatenate([page.first, column])[order] for column in (first, last))
    kind = np.concatenate([np.full(count, FINDINGS), kind])[order]
    row = np.cumsum(~named) - 1
    end = np.append(first[1:], 0)
    closing = np.append(~named[1:], True)
    end[closing] = page.end
    # A silent header inside a line interrupts the section before it for one sentence.
    inside = (kind == SILENT) & named & _inside_line(page, first)
    before = np.maximum.accumulate(np.where(inside, 0, np.arange(len(kind))))
    inside &= named[before] & (kind[before] != SILENT)
    silent, start = np.where(kind == SILENT, last, -1), last.copy()
    for k in np.flatnonzero(inside).tolist():
        stop = page.text.find(". ", int(last[k]), int(end[k]))
        start[k] = end[k] if stop < 0 else stop + 2
    whole = np.flatnonzero((kind == SILENT) & ~inside)
    start[whole] = _paragraph_ends(page, last[whole], end[whole])
    kind = np.where(inside, kind[before], np.where(kind == SILENT, FINDINGS, kind))
    return _Sections(row, kind, silent, start, end)


def _headers(page: _Page) -> tuple[Ints, Ints, Ints]:
    """Return start, end and kind of the headers: known names before a colon or alone on a line."""
    colon = np.flatnonzero(page.codes == ord(":"))
    top = page.first[np.searchsorted(page.first, colon, "right") - 1]
    low = np.maximum(top, colon - _LONGEST_HEADER)
    line = page.feeds[np.searchsorted(page.feeds, colon) - 1] + 1
    at_start = (line > low) | (low == top)
    pieces = [page.text[a:b] for a, b in zip(np.maximum(low, line).tolist(), colon.tolist(), strict=True)]
    found = chain.from_iterable(map(_header_before, pieces, at_start.tolist()))
    length, kind = np.fromiter(found, np.int64, 2 * len(pieces)).reshape(-1, 2).T
    there = length > 0
    alone, alone_kind = _headers_alone(page)
    return (
        np.concatenate([(colon - length)[there], page.feeds[alone] + 1]),
        np.concatenate([colon[there] + 1, page.feeds[alone + 1]]),
        np.concatenate([kind[there], alone_kind]),
    )


@lru_cache(maxsize=1 << 14)
def _header_before(piece: str, at_start: bool) -> tuple[int, int]:
    """Return (length, kind) of the header at the end of a piece of a line, at the start of a sentence or in capitals anywhere.

    The length is 0 where there is none.
    """
    begin = 1 + max(map(piece.rfind, _STARTS))
    words = piece[begin:].split()
    at_start |= begin > 0
    for n in range(len(words)):
        name = " ".join(words[n:])
        kind = _KIND.get(name.lower())
        if kind is not None and ((n == 0 and at_start) or name.isupper()):
            start = piece.rindex(words[n], begin) if n == len(words) - 1 else piece.index(words[n], begin)
            return len(piece) - start, kind
    return 0, 0


def _headers_alone(page: _Page) -> tuple[Ints, Ints]:
    """Return the numbers of the lines that hold a header alone, and their kinds."""
    first, last = page.lines
    length = last - first
    lines = np.flatnonzero((length > 0) & (length <= _LONGEST_ALONE) & page.holds(_LETTER, last - 1))
    pieces = [page.text[a:b] for a, b in zip(first[lines].tolist(), last[lines].tolist(), strict=True)]
    kind = np.fromiter(map(_header_alone, pieces), np.int64, len(pieces))
    return lines[kind >= 0], kind[kind >= 0]


@lru_cache(maxsize=1 << 14)
def _header_alone(line: str) -> int:
    """Return the kind of the header that a line is, -1 where it is none."""
    return _KIND.get(" ".join(line.lower().split()), -1) if _ALONE.fullmatch(line) else -1


def _inside_line(page: _Page, first: Ints) -> Flags:
    """Say of headers whether something stands before them on their line, at most three blanks away."""
    signs = page.codes[first[:, None] - np.arange(1, _MARGIN + 1)]
    nearest = signs[np.arange(len(first)), ((signs != 32) & (signs != 9)).argmax(axis=1)]
    return ~np.isin(nearest, (32, 9, 10))


def _paragraph_ends(page: _Page, start: Ints, end: Ints) -> Ints:
    """Return where the first paragraphs of stretches end: behind the first blank line after a word, else where the stretch ends."""
    blank = page.blank_lines
    above = np.flatnonzero(blank[1:] & ~blank[:-1])
    if not len(above):
        return end
    at = np.searchsorted(page.lines[1][above] - 1, start)
    there = at < len(above)
    stop = page.feeds[above[np.where(there, at, 0)] + 2] + 1
    return np.where(there & (stop <= end), stop, end)


# A sentence may end after its final punctuation, or at a line end.
_RUN = re.compile(r"""[.!?]++["')\]]*+""")
_ABBREVIATIONS = frozenset({"dr", "drs", "mr", "mrs", "ms", "st", "vs", "approx", "e.g", "i.e", "cf", "fig", "a.m", "p.m"})
_LIST_ITEM = re.compile(r"[ \t\r]*(?:\(?\d{1,2}[.)]\s|[-*•·]\s|\n)")
_LINE_WRAP = 50
"""A line of fewer characters was ended by its author, not wrapped."""
_LOOK_AHEAD = 40
"""The line end is followed by the next word within fewer characters."""
# The last three letters of words that a full stop may belong to, by their last five bits; 0 for none.
_SHORT = np.zeros((32, 32, 32), bool)
for _word in (*_ABBREVIATIONS, "no"):
    _SHORT[tuple(ord(sign) & 31 for sign in _word.rjust(3, "@")[-3:])] = True


def _cut_sentences(page: _Page, sections: _Sections) -> tuple[Ints, Ints, Ints]:
    """Return section, start and end of the sentences, without the space around them."""
    at, section = _boundaries(page, sections)
    # A section's sentences lie between its boundaries; the last one runs to its end.
    begin = np.append(sections.start[:1], at)[: len(at)]
    new = np.flatnonzero(np.diff(section, prepend=-1))
    begin[new] = sections.start[section[new]]
    every = np.arange(len(sections.start))
    last = np.append(at, 0)[np.searchsorted(section, every, "right") - 1]
    last = np.maximum(last, sections.start)
    rest = np.flatnonzero(last < sections.end)
    section, begin, end = (np.concatenate(pair) for pair in ((section, rest), (begin, last[rest]), (at, sections.end[rest])))
    start, end = page.strip(begin, end)
    kept = np.flatnonzero(start < end)
    kept = kept[np.argsort(start[kept], kind="stable")]
    return section[kept], start[kept], end[kept]


def _boundaries(page: _Page, sections: _Sections) -> tuple[Ints, Ints]:
    """Return where sentences end inside sections, and in which.

    Nearly all signs and line ends are judged on arrays; what needs a look at the words around it is asked one by one.
    """
    sign = np.flatnonzero(page.classes & (_SIGN | _FEED) != 0)
    section = np.searchsorted(sections.start, sign, "right") - 1
    inside = (section >= 0) & (sign < sections.end[section])
    sign, section = sign[inside], section[inside]
    is_feed = page.holds(_FEED, sign)
    stop, ends, asked = sign + 1, np.zeros(len(sign), bool), np.zeros(len(sign), bool)
    feeds = np.flatnonzero(is_feed)
    ends[feeds], asked[feeds] = _judge_feeds(page, sign[feeds], sections.start[section[feeds]], sections.end[section[feeds]])
    signs = np.flatnonzero(~is_feed)
    stop[signs], ends[signs], asked[signs] = _judge_signs(page, sign[signs], sections.end[section[signs]])
    known = np.maximum.accumulate(np.where(ends, stop, 0))
    latest = 0
    for k in np.flatnonzero(asked).tolist():
        start, end, at = int(sections.start[section[k]]), int(sections.end[section[k]]), int(stop[k])
        if is_feed[k]:
            ends[k] = _line_ends(page.text, max(start, page.line_start(at - 1)), at - 1, end)
        else:
            ends[k] = _full_stop_ends(page.text, max(start, int(known[k]), latest), at, end)
        if ends[k]:
            latest = at
    return stop[ends], section[ends]


def _judge_signs(page: _Page, at: Ints, end: Ints) -> tuple[Ints, Flags, Flags]:
    """Return where runs of final punctuation that begin with these signs end, whether they end a sentence, and whether to ask.

    A run is looked at from its first sign behind a word alone, or else from its second one.
    """
    before, behind = at - 1, at + 1
    after_sign = page.holds(_SIGN, before)
    opens = np.where(after_sign, page.holds(_SPACE, at - 2), ~page.holds(_SPACE, before))
    last = behind == end
    ends = opens & (last | page.holds(_SPACE, behind))
    stop = behind.copy()
    for k in np.flatnonzero(opens & ~last & page.holds(_SIGN | _CLOSER, behind)).tolist():
        run = _RUN.match(page.text, int(at[k]), int(end[k]))
        if run is not None and (run.end() == end[k] or page.classes[run.end()] & _SPACE):
            stop[k], ends[k] = run.end(), True
    in_words = page.holds(_LOWER, before) & page.holds(_LOWER, at - 2) & page.holds(_UPPER, behind)
    ends |= in_words & ~last & (page.codes[at] == ord("."))
    asked = ends & (page.codes[stop - 1] == ord(".")) & _may_be_short(page, stop - 1)
    return stop, ends & ~asked, asked


def _may_be_short(page: _Page, at: Ints) -> Flags:
    """Say of full stops whether they may belong to an abbreviation or a number before them, judged by three signs."""
    letters = [np.where(page.holds(_LETTER, at - n), page.codes[at - n] & 31, 0) for n in (3, 2, 1)]
    short: Flags = (letters[1] == 0) | (letters[2] == 0) | _SHORT[tuple(letters)]
    return short


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
        return not text[at : min(at + 3, end)].strip().isdigit()
    return word not in _ABBREVIATIONS


def _judge_feeds(page: _Page, at: Ints, start: Ints, end: Ints) -> tuple[Flags, Flags]:
    """Return whether these line feeds end a sentence, and whether to ask; one behind a section's last word need not."""
    if not len(at):
        return np.zeros(0, bool), np.zeros(0, bool)
    first, last = page.lines
    line = np.searchsorted(page.feeds, at)  # the one behind the line feed
    follows = np.minimum.accumulate(np.where(page.blank_lines, len(page.codes), first)[::-1])[::-1][line]
    inside = follows < end
    bare = page.feeds[line + 1] == at + 1
    opening = page.classes[np.where(inside, follows, 0)]
    asked = inside & ~bare & (page.blank_lines[line] | (opening & (_ITEM | _OTHER) != 0))
    length = last[line - 1] - np.maximum(start, page.feeds[line - 1] + 1)
    short = page.blank_lines[line - 1] | (length < _LINE_WRAP)
    new = short & (opening & _UPPER != 0) & (follows - at < _LOOK_AHEAD)
    return inside & ~asked & (bare | new), asked


def _line_ends(text: str, line: int, at: int, end: int) -> bool:
    """Say whether the line feed at ``at`` ends a sentence, whose line begins at ``line``."""
    if _LIST_ITEM.match(text, at + 1, end):
        return True
    before = text[line:at].rstrip()
    after = text[at + 1 : at + _LOOK_AHEAD].lstrip()
    return len(before) < _LINE_WRAP and after[:1].isupper()
