"""Slips of the pen in the long words of a vocabulary, which no list of synonyms can hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

__all__ = ["slips"]

SHORTEST = 8
"""Letters of the shortest word that is mended; a slip in a shorter one may be another word ("plural", "pleural")."""

_WORD = re.compile(rf"[a-z]{{{SHORTEST},}}")
_VOWELS = "aeiouy"


def slips(words: Iterable[str]) -> dict[str, str]:
    """Return the misspellings of long words that are one slip away from one of them and from no other, with what is meant.

    A slip is a letter left out or doubled, two neighbours swapped, or one vowel for another: most of the misspellings of single words that
    Damerau counted (Commun. ACM 1964;7:171-6), without those that would reach another word of English.

    Args:
        words: All words that are spelled correctly, in lower case.
    """
    known = set(words)
    meant: dict[str, str | None] = {}
    for word in sorted(known):
        if _WORD.fullmatch(word):
            for slip in set(_slips(word)) - known:
                meant[slip] = None if slip in meant else word
    return {slip: word for slip, word in meant.items() if word is not None}


def _slips(word: str) -> Iterator[str]:
    for i, letter in enumerate(word):
        before, behind = word[:i], word[i + 1 :]
        yield before + letter + letter + behind
        if behind:  # without its last letter "structures" is another word
            yield before + behind
            yield before + behind[0] + letter + behind[1:]
        if letter in _VOWELS:
            yield from (before + other + behind for other in _VOWELS)
