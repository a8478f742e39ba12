"""Sentences + vocabulary -> phrases with character offsets, for a whole batch of sentences at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelers.spelling import slips
from labelers.types import ATTRIBUTES
from labelers.vocabulary import Lexicon, Target
from labelers.words import Lexemes, cut

__all__ = ["GROUPS", "Kinds", "Lists", "Matcher", "Phrase", "Tokens"]

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
    """What the phrases of a matcher mean, as arrays over them.

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
        phrase: Position of the phrase in the matcher.
        start: First code point in the sentence as given.
        end: One past the last.
    """

    sentence: NDArray[np.int64]
    phrase: NDArray[np.int64]
    start: NDArray[np.int64]
    end: NDArray[np.int64]


CHUNK = 1 << 20
"""Code points that are cut into words at once, unless one sentence alone has more."""


class Matcher:
    """Finds the phrases of a vocabulary and, where given, of the cues.

    Attributes:
        kinds: What the phrases mean, by position.
    """

    def __init__(self, phrases: Mapping[str, Phrase], others: Sequence[Target] = ()) -> None:
        """Compile phrases.

        Args:
            phrases: Phrase in normal form -> what it means.
            others: Targets that no phrase names by itself, but a pattern.
        """
        meanings = list(phrases.values())
        self.kinds = Kinds.of(meanings, others)
        text = _BETWEEN.join([*phrases, ""])
        listed = cut(text)
        pieces = [text[a:b] for a, b in zip(listed.start.tolist(), listed.end.tolist(), strict=True)]
        words = list(dict.fromkeys(piece for piece in pieces if piece != _BETWEEN))
        self._lexemes = Lexemes(words, slips(words))
        self._trie = _Trie(len(words))
        number = {word: n for n, word in enumerate(words)}
        spelled: list[int] = []
        phrase = 0
        for piece in pieces:
            if piece == _BETWEEN:
                self._trie.add(spelled, phrase)
                spelled, phrase = [], phrase + 1
            else:
                spelled.append(number[piece])
        self._trie.close()

    @classmethod
    def of(cls, lexicon: Lexicon, cues: Mapping[str, Phrase] | None = None) -> Matcher:
        """Compile a vocabulary, with cues and grammar where given."""
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
        length = np.fromiter(map(len, sentences), np.int64, len(sentences)) + 1
        chunks = np.flatnonzero(np.diff(np.cumsum(length) // CHUNK, append=-1)) + 1
        found = [self._tokens(sentences[a:b], length[a:b], a) for a, b in pairwise([0, *chunks.tolist()]) if a < b]
        return Tokens(*(np.concatenate(column) for column in zip(*found, strict=True))) if found else Tokens(*_NOTHING)

    def _tokens(self, sentences: Sequence[str], length: NDArray[np.int64], first: int) -> Tokens:
        words = cut(_BETWEEN.join(sentences) + _BETWEEN)
        phrase, begin, count = self._trie.longest(self._lexemes.numbers(words))
        following = np.searchsorted(begin, begin + count).tolist()  # the first one that begins where this one has ended
        taken, k = [], 0
        while k < len(following):
            taken.append(k)
            k = following[k]
        kept = np.array(taken, np.int64)
        phrase, begin, end = phrase[kept], words.start[begin[kept]], words.end[(begin + count)[kept] - 1]
        base = np.cumsum(length) - length
        sentence = np.searchsorted(base, begin, "right") - 1
        return Tokens(sentence + first, phrase, begin - base[sentence], end - base[sentence])


_NOTHING = (np.zeros(0, np.int64),) * 4


class _Trie:
    """Phrases as sequences of numbers of words, to be followed from all places of a text at once.

    Args:
        words: How many words there are.
    """

    def __init__(self, words: int) -> None:
        self._words = words
        self._edges: dict[tuple[int, int], int] = {}
        self._ends: list[int] = [-1]

    def add(self, words: Sequence[int], phrase: int) -> None:
        """Add a phrase; of two that are the same words the first stays."""
        state = 0
        for word in words:
            state = self._edges.setdefault((state, word), len(self._ends))
            if state == len(self._ends):
                self._ends.append(-1)
        if self._ends[state] < 0 and state:
            self._ends[state] = phrase

    def close(self) -> None:
        """Turn the edges into sorted arrays."""
        key = np.array([state * self._words + word for state, word in self._edges], np.int64)
        order = np.argsort(key)
        self._key, self._next = key[order], np.array(list(self._edges.values()), np.int64)[order]
        self._end = np.array(self._ends, np.int64)
        self._inner = np.zeros(len(self._end), bool)
        self._inner[[state for state, _ in self._edges]] = True
        self._first = np.zeros(self._words, np.int64)  # most words of a text are looked up here alone
        begins = self._key < self._words
        self._first[self._key[begins]] = self._next[begins]

    def longest(self, words: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return the longest phrase that begins at each word where one does, that word's place, and its number of words."""
        phrase, count = np.full(len(words), -1), np.zeros(len(words), np.int64)
        place = np.flatnonzero(words >= 0)
        state = self._first[words[place]]
        place, state = place[state > 0], state[state > 0]
        depth = 1
        while len(place):
            ends = self._end[state] >= 0
            phrase[place[ends]], count[place[ends]] = self._end[state[ends]], depth
            goes_on = self._inner[state] & (place + depth < len(words))
            place, state = place[goes_on], state[goes_on]
            key = state * self._words + words[place + depth]
            at = np.minimum(np.searchsorted(self._key, key), len(self._key) - 1)
            there = (self._key[at] == key) & (words[place + depth] >= 0)
            place, state, depth = place[there], self._next[at[there]], depth + 1
        found = np.flatnonzero(phrase >= 0)
        return phrase[found], found, count[found]


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
