"""Slips of the pen in the long words of a vocabulary, which no list of synonyms can hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

__all__ = ["Spelling"]

SHORTEST = 8
"""Letters of the shortest word that is mended; a slip in a shorter one may be another word ("plural", "pleural")."""

_WORD = re.compile(rf"[a-z]{{{SHORTEST - 1},}}")
_VOWELS = "aeiouy"


class Spelling:
    """Mends words that are one slip away from one word of a list and from no other.

    A slip is a letter left out or doubled, two neighbours swapped, or one vowel for another: most of the misspellings of single words that
    Damerau counted (Commun. ACM 1964;7:171-6), without those that would reach another word of English.

    Args:
        words: All words that are spelled correctly, in lower case; the long ones are mended to.
    """

    def __init__(self, words: Iterable[str]) -> None:
        known = set(words)
        meant: dict[str, str | None] = {}
        for word in sorted(known):
            if len(word) >= SHORTEST and _WORD.fullmatch(word):
                for slip in set(_slips(word)) - known:
                    meant[slip] = None if slip in meant else word  # as near to another word: not mended
        self._meant = {slip: word for slip, word in meant.items() if word is not None}

    def mend(self, text: str) -> tuple[str, NDArray[np.int64], NDArray[np.int64]]:
        """Return a text with its slips mended, and how far places in it have moved.

        Args:
            text: Lower case.

        Returns:
            The mended text; where in it the mended words begin, (M,); and by how many places what lies behind the first 0, 1, ..., M
            of these places lies further on in the text as given, (M + 1,).
        """
        slips = self._meant.keys() & set(_WORD.findall(text))
        if not slips:
            return text, np.zeros(0, np.int64), np.zeros(1, np.int64)
        pattern = re.compile(rf"(?<!\w)(?:{'|'.join(sorted(slips))})(?!\w)")
        found = [(match.start(), match[0]) for match in pattern.finditer(text)]
        moved = np.concatenate([[0], np.cumsum([len(slip) - len(self._meant[slip]) for _, slip in found])]).astype(np.int64)
        starts = np.array([start for start, _ in found], np.int64) - moved[:-1]
        return pattern.sub(lambda match: self._meant[match[0]], text), starts, moved


def _slips(word: str) -> Iterator[str]:
    for i, letter in enumerate(word):
        before, behind = word[:i], word[i + 1 :]
        yield before + letter + letter + behind
        if behind:  # without its last letter "structures" is another word
            yield before + behind
            yield before + behind[0] + letter + behind[1:]
        if letter in _VOWELS:
            yield from (before + other + behind for other in _VOWELS)
