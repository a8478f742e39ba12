"""Sentences + vocabulary -> phrases with character offsets, in one pass of an automaton over a whole batch of sentences."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, NamedTuple

import ahocorasick_rs
import numpy as np
from numpy.typing import NDArray

from labelers.spelling import Spelling
from labelers.types import ATTRIBUTES
from labelers.vocabulary import Lexicon, Target

__all__ = ["GROUPS", "Kinds", "Lists", "Matcher", "Phrase", "Tokens", "normalize"]

_GROUPS = ("stop", "hard", "contrast", "separator", "conjunction", "turn", "cause", "joiner", "verb", "opener", "affirming")
GROUPS = {name: 1 << bit for bit, name in enumerate((*_GROUPS, "colon", "neutral"))}
"""Groups of the grammar resource -> bit."""

_BETWEEN = "\x01"
"""Stands between the sentences of a batch; no phrase holds it, and it is no part of a word."""


@dataclass(frozen=True, slots=True)
class Phrase:
    """What one phrase means to each stage.

    Attributes:
        targets: What it says of findings; None where it is no term.
        anatomy: Anatomical classes.
        observations: Classes of observations.
        cues: Positions in the list of cues.
        grammar: Groups of the grammar resource, such as ``"stop"``.
        attributes: Side, severity and change that it tells, as positions in the values of ``ATTRIBUTES``.
    """

    targets: tuple[Target, ...] | None = None
    anatomy: tuple[str, ...] = ()
    observations: tuple[str, ...] = ()
    cues: tuple[int, ...] = ()
    grammar: frozenset[str] = frozenset()
    attributes: tuple[int, int, int] = (0, 0, 0)


class Lists(NamedTuple):
    """Many short lists of numbers in one array: list i is ``values[first[i] : first[i + 1]]``."""

    first: NDArray[np.int64]
    values: NDArray[np.int64]

    @classmethod
    def of(cls, lists: Sequence[Sequence[int]]) -> Lists:
        """Join lists."""
        first = np.concatenate([[0], np.cumsum([len(one) for one in lists])]).astype(np.int64)
        return cls(first, np.fromiter(chain.from_iterable(lists), np.int64, int(first[-1])))

    def gather(self, which: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the values of the lists asked for, (M,), and for each the position in ``which`` that it comes from, (M,)."""
        count = self.first[which + 1] - self.first[which]
        owner = np.repeat(np.arange(len(which)), count)
        within = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
        return self.values[self.first[which][owner] + within], owner


@dataclass(frozen=True, eq=False)
class Kinds:
    """What the phrases of an automaton mean, as arrays over them.

    Attributes:
        groups: Groups of the grammar, as bits of ``GROUPS``, int64.
        term: It is a term, be it one that only keeps others from matching.
        names: It says something of findings.
        anatomy, observed, cued: It is a word of anatomy, an observation, a cue.
        targets: What each says, as positions in ``every_target``.
        anatomies, observations: The classes of each, as positions in the two lists of classes.
        cues: The cues of each phrase, in order.
        attributes: Side, severity and change, (P, 3) int8.
        every_target: All targets.
        classes: All classes of anatomy and of observations.
    """

    groups: NDArray[np.int64]
    term: NDArray[np.bool_]
    names: NDArray[np.bool_]
    anatomy: NDArray[np.bool_]
    observed: NDArray[np.bool_]
    cued: NDArray[np.bool_]
    targets: Lists
    anatomies: Lists
    observations: Lists
    cues: list[tuple[int, ...]]
    attributes: NDArray[np.int8]
    every_target: list[Target]
    classes: tuple[list[str], list[str]]

    @classmethod
    def of(cls, phrases: Sequence[Phrase], others: Sequence[Target] = ()) -> Kinds:
        """Number what the phrases mean; ``others`` are targets that no phrase names by itself."""
        every = list(dict.fromkeys([t for p in phrases for t in p.targets or ()] + list(others)))
        classes = (sorted({c for p in phrases for c in p.anatomy}), sorted({c for p in phrases for c in p.observations}))
        number = {target: k for k, target in enumerate(every)}
        anatomies, observations = ({name: k for k, name in enumerate(names)} for names in classes)

        def flags(test: Callable[[Phrase], Any]) -> NDArray[np.bool_]:
            return np.array([bool(test(phrase)) for phrase in phrases], bool)

        return cls(
            groups=np.array([sum(GROUPS[g] for g in phrase.grammar) for phrase in phrases], np.int64),
            term=flags(lambda phrase: phrase.targets is not None),
            names=flags(lambda phrase: phrase.targets),
            anatomy=flags(lambda phrase: phrase.anatomy),
            observed=flags(lambda phrase: phrase.observations),
            cued=flags(lambda phrase: phrase.cues),
            targets=Lists.of([[number[t] for t in dict.fromkeys(phrase.targets or ())] for phrase in phrases]),
            anatomies=Lists.of([[anatomies[c] for c in phrase.anatomy] for phrase in phrases]),
            observations=Lists.of([[observations[c] for c in phrase.observations] for phrase in phrases]),
            cues=[phrase.cues for phrase in phrases],
            attributes=np.array([phrase.attributes for phrase in phrases], np.int8).reshape(-1, len(ATTRIBUTES)),
            every_target=every,
            classes=classes,
        )


class Tokens(NamedTuple):
    """The phrases found in S sentences, in the order of the text and without overlaps, as arrays of length N.

    Attributes:
        sentence: Number of the sentence, from 0, int64.
        phrase: Position of the phrase in the automaton.
        start: First code point in the sentence as given.
        end: One past the last.
    """

    sentence: NDArray[np.int64]
    phrase: NDArray[np.int64]
    start: NDArray[np.int64]
    end: NDArray[np.int64]


_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
"""Half a character, which JSON can hold and the automaton cannot."""
_SPACE = re.compile(r"[\s\-\u2010\u2011](?:(?<=[^\S ])\s*|(?<=\ )\s+|(?<=\w[-\u2010\u2011])(?=\w))")

Origin = Callable[[NDArray[np.int64]], NDArray[np.int64]]


def normalize(text: str) -> tuple[str, Origin]:
    """Bring a text into the form that matching uses.

    Returns:
        Lower case with runs of white space, and hyphens inside words, as one space; and a function that gives the place in the text
        of places in this form, for whole arrays of them.
    """
    lower = text.lower()
    if len(lower) != len(text):
        lower = "".join(low if len(low := c.lower()) == 1 else c for c in text)
    if not lower.isascii():
        lower = _LONE_SURROGATE.sub("\ufffd", lower)
    found = [match.span() for match in _SPACE.finditer(lower)]
    if not found:
        return lower, lambda places: places
    spans = np.array(found, np.int64)
    shrunk = np.concatenate([[0], np.cumsum(spans[:, 1] - spans[:, 0] - 1)])
    at = spans[:, 0] - shrunk[:-1]
    return _SPACE.sub(" ", lower), lambda places: places + shrunk[np.searchsorted(at, places)]


@dataclass
class Matcher:
    """One automaton over the phrases of a vocabulary and, where given, of the cues.

    Attributes:
        phrases: Phrase in normal form -> what it means.
        others: Targets that no phrase names by itself, but a pattern.
        kinds: What the phrases mean, by position.
    """

    phrases: Mapping[str, Phrase]
    others: Sequence[Target] = ()
    kinds: Kinds = field(init=False, repr=False)
    _automaton: ahocorasick_rs.AhoCorasick = field(init=False, repr=False)
    _words: tuple[NDArray[np.bool_], NDArray[np.bool_]] = field(init=False, repr=False)
    _spelling: Spelling = field(init=False, repr=False)

    def __post_init__(self) -> None:
        texts = list(self.phrases)
        self._automaton = ahocorasick_rs.AhoCorasick(texts, implementation=ahocorasick_rs.Implementation.DFA)
        self._words = (np.array([t[0].isalnum() for t in texts], bool), np.array([t[-1].isalnum() for t in texts], bool))
        self.kinds = Kinds.of(list(self.phrases.values()), self.others)
        self._spelling = Spelling(word for text in texts for word in text.split())

    @classmethod
    def of(cls, lexicon: Lexicon, cues: Mapping[str, Phrase] | None = None) -> Matcher:
        """Compile a vocabulary, with cues and grammar where given, into one automaton."""
        phrases = dict(cues or {})
        blank = Phrase()
        for text, targets in lexicon.terms.items():
            known = phrases.get(text, blank)
            # "No effusion, old fracture": the first word of a term goes on to end a denial.
            first = phrases.get(text.partition(" ")[0], blank).grammar & {"affirming"}
            phrases[text] = replace(known, targets=targets, grammar=known.grammar | first)
        for text, anatomy in lexicon.anatomy.items():
            phrases[text] = replace(phrases.get(text, blank), anatomy=anatomy)
        for text, observations in lexicon.observations.items():
            phrases[text] = replace(phrases.get(text, blank), observations=observations)
        words = {text: phrase.attributes for text, phrase in (cues or {}).items() if any(phrase.attributes)}
        for text in words:
            phrases[text] = replace(phrases[text], observations=phrases[text].observations or _at_end(text, lexicon.observations))
        for text in {**lexicon.terms, **lexicon.anatomy, **lexicon.observations}:
            if text not in words:
                phrases[text] = replace(phrases[text], attributes=_inside(text, words))
        return cls(phrases, [target for targets in lexicon.patterns.values() for target in targets])

    def tokens(self, sentences: Sequence[str]) -> Tokens:
        """Find the phrases of each sentence: whole words, the leftmost first, the longest where several begin."""
        length = np.fromiter(map(len, sentences), np.int64, len(sentences))
        base = np.cumsum(length + 1) - (length + 1)
        form, origin = normalize(_BETWEEN.join(sentences) + _BETWEEN)
        form, mended, moved = self._spelling.mend(form)
        phrase, start, end = self._whole_words(form)
        start, end = (places + moved[np.searchsorted(mended, places)] for places in (start, end - 1))
        start, end = origin(start), origin(end) + 1
        sentence = np.searchsorted(base, start, "right") - 1
        return Tokens(sentence, phrase, start - base[sentence], end - base[sentence])

    def _whole_words(self, text: str) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return phrase, start and end of the matches that begin and end with a word, without those that overlap an earlier one."""
        found = self._automaton.find_matches_as_indexes(text, overlapping=True)
        phrase, start, end = np.fromiter(chain.from_iterable(found), np.int64, 3 * len(found)).reshape(-1, 3).T
        word = _in_words(text)
        left, right = self._words
        whole = ~(left[phrase] & (start > 0) & word[start - 1]) & ~(right[phrase] & word[end])
        phrase, start, end = phrase[whole], start[whole], end[whole]
        order = np.lexsort((-end, start))
        last, kept = 0, []
        for k, first, stop in zip(order.tolist(), start[order].tolist(), end[order].tolist(), strict=True):
            if first >= last:
                kept.append(k)
                last = stop
        return phrase[kept], start[kept], end[kept]


def _at_end(text: str, observations: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the classes of the observation that a phrase ends with, which it hides: "slightly increased"."""
    words = text.split()
    return next((observations[end] for n in range(1, len(words)) if (end := " ".join(words[n:])) in observations), ())


def _inside(text: str, words: Mapping[str, tuple[int, int, int]]) -> tuple[int, int, int]:
    """Return side and severity that the words of a phrase tell: "left hilum", "mild prominence"."""
    told = [words[word] for word in text.split() if word in words]
    side = 0
    for one, _, _ in told:
        side |= one  # left and right are bilateral
    return side, max((degree for _, degree, _ in told), default=0), 0


_ASCII_WORD = np.array([chr(code).isalnum() for code in range(128)])


def _in_words(text: str) -> NDArray[np.bool_]:
    """Say of every code point whether it is a letter or digit."""
    if text.isascii():
        return _ASCII_WORD[np.frombuffer(text.encode("ascii"), np.uint8)]
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    out = _ASCII_WORD[np.minimum(codes, 127)]
    high = np.flatnonzero(codes >= 128)
    distinct, which = np.unique(codes[high], return_inverse=True)
    out[high] = np.array([chr(code).isalnum() for code in distinct.tolist()], bool)[which]
    return out
