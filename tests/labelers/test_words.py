"""Texts are cut into words as a slow reading of the rules would cut them, and equal words have equal numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelers.words import Lexemes, cut

SIGNS = "-\u2010\u2011"
TEXTS = st.text(st.one_of(st.characters(), st.sampled_from("ab- /\u2010.,'\u2019_\n\x01İ")), max_size=40)


def slowly(text: str) -> list[tuple[int, int]]:
    """The words of a text, letter by letter."""
    lower = [c.lower() if len(c.lower()) == 1 else c for c in text]

    def at(i: int) -> str:
        return lower[i] if 0 <= i < len(lower) else ""

    found: list[tuple[int, int]] = []
    for i, sign in enumerate(lower):
        if sign.isalnum():
            begun = found and found[-1][1] == i and at(i - 1).isalnum()
            found[-1:] = [(found[-1][0], i + 1)] if begun else [*found[-1:], (i, i + 1)]
        elif sign.isspace() or (sign in (*SIGNS, "/") and at(i - 1).isalnum() and at(i + 1).isalnum()):
            continue
        elif sign in SIGNS:
            near = [n for n in (at(i - 1), at(i + 1)) if n]
            if (len(near) == 2 and all(n.isspace() for n in near)) or any(n in SIGNS for n in near):
                found.append((i, i + 1))
        else:
            found.append((i, i + 1))
    return found


@given(TEXTS)
def test_words_are_those_of_the_rules(text: str) -> None:
    words = cut(text)
    assert list(zip(words.start.tolist(), words.end.tolist(), strict=True)) == slowly(text)


@given(TEXTS)
def test_equal_words_and_no_others_have_equal_numbers(text: str) -> None:
    words = cut(text)
    spelled = [text[a:b] for a, b in zip(words.start.tolist(), words.end.tolist(), strict=True)]
    spelled = ["".join(c.lower() if len(c.lower()) == 1 else c for c in word).replace("\u2019", "'") for word in spelled]
    keys = dict(zip(spelled, words.key.tolist(), strict=True))
    assert len(set(keys.values())) == len(keys)
    assert [keys[word] for word in spelled] == words.key.tolist()


def test_a_word_has_the_same_number_wherever_it_stands() -> None:
    text = "effusion " * 100_000
    assert np.unique(cut(text).key).tolist() == cut("No Effusion.").key[1:2].tolist()


def test_known_words_misspelled_ones_and_others() -> None:
    lexemes = Lexemes(["effusion", ",", "-", "no"], {"efusion": "effusion"})
    assert lexemes.numbers(cut("No efusion, effusion - effusions?")).tolist() == [3, 0, 1, 0, 2, -1, -1]


def test_what_is_no_word_cannot_be_known() -> None:
    with pytest.raises(ValueError, match="expected words"):
        Lexemes(["two words"], {})
