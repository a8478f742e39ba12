"""What a labeler reads in one text, shown to a person: a page of its own, coloured text on a terminal, plain lines in a pipe."""

from __future__ import annotations

import html
import itertools
import re
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from labelers.errors import InputError, UsageError
from labelers.io.files import atomic_path
from labelers.types import LabelTable

__all__ = ["Segment", "check_page_name", "page", "places_of", "segments", "tell", "write_page"]

Place = Mapping[str, Any]
"""finding, state, probability, start, end, cue; what else the evidence tells (side, severity, change) under names of its own."""

SIGNS = {"positive": "+", "uncertain": "?", "negative": "\N{MINUS SIGN}"}
"""The states by rank: where places overlap, the first of these gives the colour; each has a sign for those who see no colour."""
_MEANING = {"positive": "said to be there", "uncertain": "left open", "negative": "said to be absent"}
_TERMINAL = {
    "positive": "underline white on #bb5566",
    "uncertain": "underline black on #ddaa33",
    "negative": "underline white on #004488",
}
_SIGNS_OF_TERMINAL = {**SIGNS, "negative": "-"}
NAMED = ("finding", "state", "probability", "start", "end", "cue")
LISTED = 8
"""Places that a stretch of text tells of by itself; the others stand in the table."""
ROWS = 1000
"""Rows of the table on a terminal."""
WORDS = 80
"""Characters of the text that a row of the page's table repeats at the most, so that the page stays as long as text and places."""

_UNSHOWN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufdd0-\ufdef"
    "\ufeff\ufff9-\ufffb\ufffe\uffff\U000e0000-\U000e007f]"
)
"""Characters that no page can hold, that cannot be seen, that steer a terminal, or that turn the order of what stands beside them."""


def places_of(table: LabelTable) -> list[dict[str, Any]]:
    """Return the places behind the labels of a table's only report, in the order of the text.

    A place is a mapping of ``finding``, ``state``, ``probability``, ``start``, ``end``, ``cue`` and whatever else its evidence
    tells. Where the labeler gives a mention no probability of its own it is that of the finding.
    """
    e, findings = table.evidence, table.vocabulary.names
    probability = table.probability[0, e.cell] if e.probability is None else e.probability
    cells, first = np.unique(e.cell, return_index=True)
    places = [
        {"finding": findings[cell], "state": row["state"], "probability": round(float(probability[i]), 4), **row}
        for cell, start in zip(cells.tolist(), first.tolist(), strict=True)
        for i, row in enumerate(e.at(cell), start)
    ]
    return sorted(places, key=lambda place: (place["start"], place["end"]))


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of the text that is covered by the same places from end to end.

    Attributes:
        start: Its first code point.
        end: One past its last.
        places: Positions of the places that cover it in their list; no more than ``LISTED`` of them.
        count: How many cover it.
        states: Their states, in the order of ``SIGNS``.
        opening: States of those that begin here, in that order.
    """

    start: int
    end: int
    places: tuple[int, ...]
    count: int
    states: tuple[str, ...]
    opening: tuple[str, ...]


def segments(places: Sequence[Place], length: int) -> Iterator[Segment]:
    """Cut a text where a place begins or ends; there are at most two segments a place and one more, whatever overlaps.

    Args:
        places: As ``places_of`` gives them.
        length: Code points of the text.

    Raises:
        InputError: A place is empty or lies outside the text.
    """
    opening: defaultdict[int, list[int]] = defaultdict(list)
    closing: defaultdict[int, list[int]] = defaultdict(list)
    for number, place in enumerate(places):
        if not 0 <= place["start"] < place["end"] <= length:
            raise InputError(
                f"the labeler gave a place from {place['start']:,} to {place['end']:,} in a text of {length:,} characters; "
                "mend it with labelers.testing.check_labeler"
            )
        opening[place["start"]].append(number)
        closing[place["end"]].append(number)
    covering: OrderedDict[int, None] = OrderedDict()  # unlike a dict's, its first items are found at once after many were deleted
    states: Counter[str] = Counter()
    for start, end in itertools.pairwise(sorted({0, length, *opening, *closing})):
        for number in closing.get(start, ()):
            del covering[number]
            states[places[number]["state"]] -= 1
        begins = opening.get(start, ())
        for number in begins:
            covering[number] = None
            states[places[number]["state"]] += 1
        new = {places[number]["state"] for number in begins}
        yield Segment(
            start,
            end,
            tuple(itertools.islice(covering, LISTED)),
            len(covering),
            tuple(state for state in SIGNS if states[state]),
            tuple(state for state in SIGNS if state in new),
        )


# --- a page ---------------------------------------------------------------------------------------------------------------------

# Paul Tol's high-contrast and, for dark screens, medium-contrast colours: told apart by colour-blind people, and in grey.
_STYLE = """
:root { color-scheme: light dark; --back: #fff; --fore: #1a1a1a; --faint: #595959; --line: #ccc;
  --positive: #bb5566; --on-positive: #fff; --uncertain: #ddaa33; --on-uncertain: #000; --negative: #004488; --on-negative: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --back: #161616; --fore: #eee; --faint: #aaa; --line: #444;
    --positive: #ee99aa; --on-positive: #000; --uncertain: #eecc66; --on-uncertain: #000; --negative: #6699cc; --on-negative: #000; }
}
body { margin: 2rem auto; max-width: 70rem; padding: 0 1rem; background: var(--back); color: var(--fore);
  font: 1rem/1.6 system-ui, sans-serif; }
h1 { font-size: 1.4rem; }
#about, #legend { color: var(--faint); }
#legend { list-style: none; padding: 0; }
#text { white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: plaintext; line-height: 1.9;
  border: 1px solid var(--line); border-radius: .3rem; padding: 1rem; }
.place { border-radius: .2rem; padding: .1em .2em; color: inherit; text-decoration: none; print-color-adjust: exact; }
.place[data-sign]::before { content: attr(data-sign); font-weight: bold; margin-inline-end: .15em; }
.positive { background: var(--positive); color: var(--on-positive); }
.uncertain { background: var(--uncertain); color: var(--on-uncertain); }
.negative { background: var(--negative); color: var(--on-negative); }
.several { text-decoration: underline double; }
.place:focus, :target { outline: 3px solid var(--fore); outline-offset: 1px; }
.unshown { color: var(--faint); border: 1px dotted; font-size: .75em; }
.place .unshown { color: inherit; }
.unshown::before { content: "U+" attr(data-code); }
table { border-collapse: collapse; width: 100%; }
caption { text-align: start; font-weight: bold; padding: 1rem 0 .5rem; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .6rem; text-align: start; vertical-align: top; }
td a { color: inherit; }
"""
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>What {labeler} reads</title>
<style>{style}</style>
</head>
<body>
<h1>What {labeler} reads</h1>
<p id="about">{about}</p>
<ul id="legend">
{legend}
</ul>
<div id="text" dir="auto">{text}</div>
{table}
</body>
</html>
"""


def page(text: str, table: LabelTable) -> str:
    """Build one HTML page that needs nothing outside it: the text with its places marked, a legend, and a table of the places.

    The text stands in the element ``text``, code point by code point; what a page cannot hold or show is an empty element
    there whose ``data-code`` is its number in hexadecimal. Nothing in the text or in what the labeler says acts as HTML.

    Args:
        text: The text that was labeled.
        table: Its labels, one row.
    """
    places = places_of(table)
    pieces: list[str] = []
    numbers: dict[int, int] = {}  # where a segment begins -> its number
    for number, segment in enumerate(segments(places, len(text)), start=1):
        numbers[segment.start] = number
        pieces.append(_piece(number, segment, places, text[segment.start : segment.end]))
    return _PAGE.format(
        style=_STYLE,
        labeler=_attribute(table.source),
        about=_content(
            f"Labeler {table.source}, version {table.version}; vocabulary {table.vocabulary.name}, version {table.vocabulary.version}. "
            "This page holds the text that was read: if that is a report, treat the page like one."
        ),
        legend=_legend(places),
        text="".join(pieces),
        table=_page_table(text, places, numbers),
    )


def check_page_name(path: Path) -> None:
    """Refuse a page under a name that no browser would open.

    Raises:
        UsageError: It does not end in .html.
    """
    if path.suffix.lower() != ".html":
        raise UsageError(f"{path}: the page must end in .html, got '{path.suffix}'")


def write_page(path: Path, text: str, table: LabelTable) -> None:
    """Write the page of a text and its labels (one row).

    Raises:
        UsageError: The name does not end in .html.
        InputError: The file cannot be written, or a place lies outside the text.
    """
    check_page_name(path)
    with atomic_path(path) as temporary:
        temporary.write_bytes(page(text, table).encode())


def _content(text: str) -> str:
    """Escape what stands between tags."""
    escaped = html.escape(text, quote=False).replace("\r", "&#13;")  # a browser would make a line feed of a bare one
    return _UNSHOWN.sub(lambda c: f'<span class="unshown" data-code="{ord(c[0]):04X}"></span>', escaped)


def _attribute(text: str) -> str:
    """Escape what stands in an attribute, where nothing can be marked."""
    return html.escape(_visible(text))


def _visible(text: str) -> str:
    """Write what is not shown, or steers a terminal, as Python writes a character that it does not print."""
    return _UNSHOWN.sub(lambda c: repr(c[0])[1:-1], text)


def _piece(number: int, segment: Segment, places: Sequence[Place], words: str) -> str:
    if not segment.places:
        return _content(words)
    told = [_told(places[place]) for place in segment.places]
    if segment.count > len(told):
        told.append(f"and {segment.count - len(told):,} more places, see the table")
    kinds = f"place {segment.states[0]}{' several' if len(segment.states) > 1 else ''}"
    sign = "".join(SIGNS[state] for state in segment.opening)
    marked = f' data-sign="{sign}"' if sign else ""
    return (
        f'<a class="{kinds}" id="s{number}" href="#p{segment.places[0] + 1}"{marked} title="{_attribute(chr(10).join(told))}">'
        f"{_content(words)}</a>"
    )


def _told(place: Place) -> str:
    more = "".join(f", {key} {place[key]}" for key in place if key not in NAMED and place[key] != "")
    return f"{place['finding']}: {place['state']}, P = {place['probability']:.4g}, cue {place['cue']}{more}"


def _legend(places: Sequence[Place]) -> str:
    count = Counter(place["state"] for place in places)
    items = [
        f'<li><span class="place {state}" data-sign="{sign}">{state}</span> {_MEANING[state]} (places: {count[state]:,})</li>'
        for state, sign in SIGNS.items()
    ]
    items.append(
        '<li><span class="several">doubly underlined</span> where places of different states overlap; every state has its sign where '
        "it begins</li>"
    )
    return "\n".join(items)


def _page_table(text: str, places: Sequence[Place], numbers: Mapping[int, int]) -> str:
    if not places:
        return "<p>Nothing was found in this text.</p>"
    further = _further(places)
    heads = "".join(f'<th scope="col">{_content(n)}</th>' for n in ("place", "words", *NAMED[:3], "cue", *further))
    rows = []
    for number, place in enumerate(places):
        where = f"{place['start']:,} to {place['end']:,}"
        state = place["state"]
        cells = (
            f'<a href="#s{numbers[place["start"]]}">{where}</a>',
            _content(_shortened(text[place["start"] : place["end"]])),
            _content(place["finding"]),
            f'<span class="place {state}">{SIGNS[state]} {state}</span>',
            f"{place['probability']:.4g}",
            *(_content(str(place.get(key, ""))) for key in ("cue", *further)),
        )
        rows.append(f'<tr id="p{number + 1}">' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    listed = "\n".join(rows)
    return (
        f"<table>\n<caption>Every place, counted in code points from 0</caption>\n<thead><tr>{heads}</tr></thead>\n"
        f"<tbody>\n{listed}\n</tbody>\n</table>"
    )


def _shortened(words: str) -> str:
    return words if len(words) <= WORDS else words[:WORDS] + "\N{HORIZONTAL ELLIPSIS}"


def _further(places: Sequence[Place]) -> list[str]:
    """What the evidence tells beyond what every place has, in its order; not what it leaves empty everywhere."""
    return list(dict.fromkeys(key for place in places for key in place if key not in NAMED and place[key] != ""))


# --- standard output ------------------------------------------------------------------------------------------------------------


def tell(text: str, places: Sequence[Place]) -> None:
    """Print what was read: on a terminal the coloured text and the first rows of the table, in a pipe every row as plain text.

    Args:
        text: The text that was labeled.
        places: As ``places_of`` gives them.
    """
    console = Console()
    heads = [*NAMED, *_further(places)]
    rows = ([_visible(str(place.get(key, ""))) for key in heads] for place in places)
    if not console.is_terminal:
        print("\n".join(_aligned([heads, *rows])))
        return
    console.print(_coloured(text, places, console.encoding), soft_wrap=True)
    table = Table(*heads)
    for row in itertools.islice(rows, ROWS):
        table.add_row(*map(Text, row))
    console.print(table)
    if len(places) > ROWS:
        console.print(f"and {len(places) - ROWS:,} more of {len(places):,} places; --json gives all of them", highlight=False)


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)).rstrip()


def _coloured(text: str, places: Sequence[Place], encoding: str) -> Text:
    shown = Text()
    for segment in segments(places, len(text)):
        words = _visible(text[segment.start : segment.end]).encode(encoding, "backslashreplace").decode(encoding)
        sign = "".join(_SIGNS_OF_TERMINAL[state] for state in segment.opening)
        shown.append(sign + words, _TERMINAL[segment.states[0]] if segment.states else None)
    return shown
