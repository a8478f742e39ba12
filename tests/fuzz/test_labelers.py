"""Built-in labelers, given anything: the contract of ``check_labeler``, and that blanks behind a text change nothing."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from functools import cache
from types import FrameType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelers import Labeler, LabelTable, Report, create
from labelers.cues import load_cues
from labelers.testing import check_labeler
from labelers.vocabulary import load_vocabulary
from tests.fuzz import budget

pytestmark = pytest.mark.filterwarnings("error")

LEXICON, CUES = load_vocabulary(), load_cues()
TERMS, ANATOMY, OBSERVATIONS = (sorted(words) for words in (LEXICON.terms, LEXICON.anatomy, LEXICON.observations))
SAID = sorted(text for text, phrase in CUES.phrases.items() if phrase.cues)
GRAMMAR = sorted(text for text, phrase in CUES.phrases.items() if phrase.grammar)
HEADERS = [
    *("FINDINGS:", "Findings\n", "IMPRESSION:", "impression\n", "HISTORY:", "Clinical indication:", "COMPARISON:", "TECHNIQUE\n"),
    *("FINDINGS AND IMPRESSION:", "Exam:", "Chest:", "history", "findings", "Technique", "REASON FOR EXAM: "),
]
PUNCTUATION = [
    ". ",
    ".",
    ", ",
    "; ",
    ": ",
    "\n",
    "\n\n",
    "\r\n",
    " \n \n",
    "? ",
    "...",
    " - ",
    "/",
    "1. ",
    "\n2) ",
    "(",
    ") ",
    '"',
    "\t",
    " ",
]
NOISE = [
    "",
    " ",
    "3.5 cm",
    "No. 3",
    "Dr. X",
    "___",
    "İ",
    "ﬁ",
    "e\u0301",
    "\u00a0",
    "\u2028",
    "\0",
    "\ud83d",
    "\U0001f600",
    "aX.Bb",
    "T12",
]

WORD = (
    st.sampled_from(TERMS)
    | st.sampled_from(ANATOMY)
    | st.sampled_from(OBSERVATIONS)
    | st.sampled_from(SAID)
    | st.sampled_from(GRAMMAR)
)
CASES: list[Callable[[str], str]] = [str, str.upper, str.capitalize, str.title]
CASED = st.tuples(WORD, st.sampled_from(CASES)).map(lambda pair: pair[1](pair[0]))
SENTENCE = st.lists(CASED | st.sampled_from(NOISE), min_size=1, max_size=10).map(" ".join)
GRAMMATICAL = st.lists(SENTENCE | st.sampled_from(HEADERS) | st.sampled_from(PUNCTUATION), max_size=10).map("".join)
"""Texts of the vocabulary's and the cues' own words, in any order, under headers and with any punctuation."""
ANYTHING = (
    st.text(max_size=80)
    | st.text(st.characters(), max_size=30)
    | st.lists(st.sampled_from([*PUNCTUATION, *NOISE, *HEADERS])).map("".join)
)
BLANKS = st.lists(st.sampled_from([" ", "\n", "\r\n", "\t", "\u00a0"]), min_size=1, max_size=3).map("".join)


@cache
def labeler(name: str) -> Labeler:
    return create(name)


@pytest.mark.parametrize("name", ["context", "keywords"])
@budget(0.25)
@given(texts=st.lists(GRAMMATICAL | ANYTHING, max_size=6))
def test_the_contract_holds_for_any_texts(name: str, texts: list[str]) -> None:
    check_labeler(labeler(name), texts)


def said(table: LabelTable, row: int) -> tuple[list[float], list[float], list[object]]:
    evidence = [
        places for r in list(table.rows())[row * len(table.vocabulary) :][: len(table.vocabulary)] if (places := r["evidence"])
    ]
    return table.probability[row].tolist(), table.uncertainty[row].tolist(), evidence


@pytest.mark.parametrize("name", ["context", "keywords"])
@budget(1)
@given(text=GRAMMATICAL | ANYTHING, blanks=BLANKS)
def test_blanks_behind_a_text_change_nothing(name: str, text: str, blanks: str) -> None:
    table = labeler(name).label([Report("a", text), Report("b", text + blanks)])
    np.testing.assert_array_equal(table.state[0], table.state[1])
    assert said(table, 0) == said(table, 1)


@pytest.mark.parametrize("name", ["context", "keywords"])
@budget(1)
@given(text=GRAMMATICAL)
def test_places_are_phrases_and_not_parts_of_words(name: str, text: str) -> None:
    """A place begins and ends with a word, or with the sign that its phrase begins or ends with."""
    evidence = labeler(name).label([Report("a", text)]).evidence
    for start, end in zip(evidence.start, evidence.end, strict=True):
        assert not text[start].isspace()
        assert not text[end - 1].isspace()
        for left, right in ((start - 1, start), (end - 1, end)):
            if left >= 0 and right < len(text):
                assert not (text[left].isalnum() and text[right].isalnum())


def steps_and_memory(name: str, text: str) -> tuple[int, int]:
    """Count the lines of Python that labeling a text runs, and the most bytes that it holds at once."""
    reports, steps = [Report("a", text)], 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal steps
        steps += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        labeler(name).label(reports)
    finally:
        sys.settrace(before)
    tracemalloc.start()
    try:
        labeler(name).label(reports)
        return steps, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


PIECES = st.sampled_from(
    [*PUNCTUATION, *NOISE, *HEADERS, "\n \t", "1.", "a.", "?!)", "no ", "heart, ", "or ", "(", "no heart enlarged "]
)


@pytest.mark.parametrize("name", ["context", "keywords"])
@budget(0.1)
@given(piece=GRAMMATICAL | ANYTHING | st.lists(PIECES | CASED, min_size=1, max_size=3).map("".join))
def test_work_grows_no_faster_than_the_text(name: str, piece: str) -> None:
    """A text of eight times the length takes eight times the steps and the memory, not sixty-four times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("labelers.builtin.context.MEMORY", 0)  # no sentence is known from before
        times = 1 + 2000 // (1 + len(piece))
        labeler(name).label([Report("a", piece * times * 8)])
        steps, memory = steps_and_memory(name, piece * times)
        more_steps, more_memory = steps_and_memory(name, piece * times * 8)
    assert more_steps <= 12 * steps + 10_000
    assert more_memory <= 12 * memory + (1 << 20)
