"""Texts -> words as numbers, for whole batches of text at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Lexemes", "Words", "code_points", "cut"]

_BASE = 0x9E3779B97F4A7C15
_INVERSE = pow(_BASE, -1, 2**64)
_HYPHENS = (0x2D, 0x2010, 0x2011)
_APOSTROPHE, _CURLED = 0x27, 0x2019

Ints = NDArray[np.int64]


class Words(NamedTuple):
    """The words of a text and its signs, in order: runs of letters and digits, and every other sign that is no space.

    Attributes:
        start: First code point, int64.
        end: One past the last.
        key: Number of the word, equal for equal words in lower case, uint64.
    """

    start: Ints
    end: Ints
    key: NDArray[np.uint64]


def cut(text: str) -> Words:
    """Cut a text into words.

    Hyphens and slashes inside words are spaces, as are other hyphens but those between spaces or in a row (dashes); a curled
    apostrophe is a straight one.
    """
    lower = text.lower()
    if len(lower) != len(text):
        lower = "".join(low if len(low := c.lower()) == 1 else c for c in text)
    codes, word, space = _kinds(lower)
    if not len(codes):
        return Words(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.uint64))
    hyphen = np.isin(codes, _HYPHENS) if codes.dtype != np.uint8 else codes == _HYPHENS[0]
    inside = hyphen | (codes == 0x2F)
    inside &= _before(word) & _behind(word)
    dash = hyphen & ((_before(space) & _behind(space)) | _before(hyphen) | _behind(hyphen))
    sign = ~(word | space | inside | (hyphen & ~dash))
    start = np.flatnonzero(sign | (word & ~_before(word)))
    end = np.flatnonzero(sign | (word & ~_behind(word))) + 1
    # The number is a polynomial in the code points; sums over a word are differences of sums over the text.
    power, inverse = _powers(len(codes))
    total = np.zeros(len(codes) + 1, np.uint64)
    np.cumsum((codes.astype(np.uint64) + 1) * power, out=total[1:])
    return Words(start, end, (total[end] - total[start]) * inverse[start])


def _kinds(text: str) -> tuple[NDArray[np.uint8] | NDArray[np.uint32], NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the code points, and of each whether it is a letter or digit, and whether it is a space."""
    codes = code_points(text)
    if codes.dtype == np.uint8:
        return codes, _LETTER[codes], _SPACE[codes]
    codes = np.where(codes == _CURLED, np.uint32(_APOSTROPHE), codes)
    low = np.minimum(codes, 127)
    letter, space = _LETTER[low], _SPACE[low]
    high = np.flatnonzero(codes >= 128)
    distinct, which = np.unique(codes[high], return_inverse=True)
    signs = [chr(code) for code in distinct.tolist()]
    letter[high] = np.array([sign.isalnum() for sign in signs], bool)[which]
    space[high] = np.array([sign.isspace() for sign in signs], bool)[which]
    return codes, letter, space


def code_points(text: str) -> NDArray[np.uint8] | NDArray[np.uint32]:
    """Return the code points of a text, read-only: uint8 where all of them are ASCII, else uint32."""
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), np.uint8)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


_LETTER = np.array([chr(code).isalnum() for code in range(128)])
_SPACE = np.array([chr(code).isspace() for code in range(128)])


def _before(flags: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return for each place the flag of the one before it."""
    return np.concatenate([[False], flags[:-1]])


def _behind(flags: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.concatenate([flags[1:], [False]])


def _powers(count: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return the first powers of the base and of its inverse, modulo 2^64."""
    global _known_powers
    if len(_known_powers[0]) < count:
        size = 1 << (count - 1).bit_length()
        _known_powers = (_series(_BASE, size), _series(_INVERSE, size))
    return _known_powers[0][:count], _known_powers[1][:count]


def _series(factor: int, count: int) -> NDArray[np.uint64]:
    factors = np.full(count, factor, np.uint64)
    factors[0] = 1
    return np.cumprod(factors)


_known_powers = (_series(_BASE, 1 << 16), _series(_INVERSE, 1 << 16))


class Lexemes:
    """Words that are known, by number, and misspellings of them.

    Args:
        words: The words in lower case; a word's number is its position.
        slips: Misspelling -> word.
    """

    def __init__(self, words: Sequence[str], slips: Mapping[str, str]) -> None:
        number = {word: n for n, word in enumerate(words)}
        self._words = _Table(words, range(len(words)))
        self._slips = _Table(list(slips), [number[word] for word in slips.values()])

    def numbers(self, words: Words) -> Ints:
        """Return the number of each word, -1 for those that are not known."""
        length = words.end - words.start
        out = self._words.find(words.key, length)
        other = np.flatnonzero((out < 0) & (length >= self._slips.shortest))
        out[other] = self._slips.find(words.key[other], length[other])
        return out


class _Table:
    """A sorted table from the keys of words to numbers; a key of another length is another word's."""

    def __init__(self, words: Sequence[str], numbers: Sequence[int]) -> None:
        found = cut("\n".join(["", *words, ""]))  # a dash is one between spaces
        key, length = found.key, found.end - found.start
        if len(key) != len(words):
            raise ValueError("expected words as cut() makes them")
        order = np.argsort(key)
        self.shortest = int(length.min(initial=1 << 30))
        self._key, self._length, self._number = key[order], length[order], np.array(numbers, np.int64)[order]

    def find(self, key: NDArray[np.uint64], length: Ints) -> Ints:
        """Return the numbers of keys, -1 where there is none."""
        if not len(self._key):
            return np.full(len(key), -1)
        at = np.minimum(np.searchsorted(self._key, key), len(self._key) - 1)
        return np.where((self._key[at] == key) & (self._length[at] == length), self._number[at], -1)
