"""Slips of the pen are mended, other words are left alone, and places stay those of the text as given."""

from __future__ import annotations

import pytest

import labelers
from labelers.spelling import slips

WORDS = ("effusion", "effusions", "pneumothorax", "cardiomegaly", "atelectasis", "consolidation", "pleural", "structures")
SLIPS = slips(WORDS)


@pytest.mark.parametrize(
    ("slip", "word"),
    [
        ("efusion", "effusion"),
        ("pnuemothorax", "pneumothorax"),
        ("pneumothroax", "pneumothorax"),
        ("pnemothorax", "pneumothorax"),
        ("cardiomegally", "cardiomegaly"),
        ("atelectesis", "atelectasis"),
        ("consolidaton", "consolidation"),
        ("consollidation", "consolidation"),
    ],
)
def test_one_slip_is_mended(slip: str, word: str) -> None:
    assert SLIPS[slip] == word


@pytest.mark.parametrize("word", [*WORDS, "structure", "plural", "infusion", "diffusion", "effusio", "efusionx", "efuson", ""])
def test_other_words_are_left_alone(word: str) -> None:
    assert word not in SLIPS


def test_what_is_near_to_two_words_is_left_alone() -> None:
    assert "stinosis" not in slips(("stenosis", "stanosis"))


@pytest.mark.parametrize("text", ["Small left efusion and cardiomegally.", "A  pnuemothorax;\nno consollidation. Efusions-like"])
def test_places_are_those_of_the_text_as_given(text: str) -> None:
    """What is found in the text with slips covers the same words as in the text without."""
    right = text.lower()
    for slip, word in (("efusion", "effusion"), ("cardiomegally", "cardiomegaly"), ("pnuemo", "pneumo"), ("consoll", "consol")):
        right = right.replace(slip, word)
    given, mended = (labelers.label([t]) for t in (text, right))
    assert (given.state == mended.state).all()
    for i in range(len(given.evidence)):
        start, end = given.evidence.start[i], given.evidence.end[i]
        words = len(text[:start].split()), len(text[:end].split())
        assert words == (len(right[: mended.evidence.start[i]].split()), len(right[: mended.evidence.end[i]].split()))
        assert text[start:end].strip(" ,.;") == text[start:end]
