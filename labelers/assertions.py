"""Mentions + cues -> what each place asserts: state, graded probability, and the cue that decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelers.attributes import attributes_of
from labelers.clauses import Clauses, Patterns, named_places
from labelers.cues import Cue, CueSet
from labelers.mentions import Matcher
from labelers.scope import Reach
from labelers.types import ATTRIBUTES, NEGATIVE, POSITIVE, UNCERTAIN
from labelers.vocabulary import ABNORMAL, BORDERLINE, DENIED, UNAFFECTED, Lexicon, Target

__all__ = ["GENERAL_CUES", "Assertions", "Reader"]

POSITIVE_FROM = 0.75
"""A graded statement is positive from this probability on, else uncertain."""
ADJACENT = 16
"""A cue that reaches an adjacent mention allows a word or two between, this many code points."""

_SEVERITY, _CHANGE = (list(ATTRIBUTES).index(name) for name in ("severity", "change"))
_RESOLVED = ATTRIBUTES["change"].index("resolved")

AFFIRMED, NORMAL, NO_ABNORMALITY, BORDERLINE_CUE = "affirmed", "normal", "no abnormality", "borderline"
GENERAL_CUES = frozenset({NORMAL, NO_ABNORMALITY})
"""Cues of statements about an organ or the whole chest; they give way to any statement about the finding itself."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """The cues that reach one place."""

    denial: Cue | None = None
    grade: Cue | None = None
    history: Cue | None = None
    alternatives: Cue | None = None


class Assertions(NamedTuple):
    """What the places of a batch of sentences assert, as arrays of length N in the order of the sentences.

    Attributes:
        sentence: Number of the sentence, int64.
        finding: Column of the finding, int64.
        start: First code point in the sentence, int64.
        end: One past the last, int64.
        state: POSITIVE, NEGATIVE or UNCERTAIN, int8.
        probability: P(present) in [0, 1], float64.
        cue: Position in ``Reader.cue_names``, int64.
        attributes: Side, severity and change, (N, 3) int8, as positions in the values of ``ATTRIBUTES``.
    """

    sentence: NDArray[np.int64]
    finding: NDArray[np.int64]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    state: NDArray[np.int8]
    probability: NDArray[np.float64]
    cue: NDArray[np.int64]
    attributes: NDArray[np.int8]

    def followed_by(self, others: Assertions) -> Assertions:
        """Return these and then others, whose sentences keep their own numbers."""
        pairs: Any = zip(self, others, strict=True)
        return Assertions(*(np.concatenate(pair) for pair in pairs))


class Reader:
    """Reads sentences: finds the phrases of a vocabulary and of the cues, and decides what each place asserts.

    Attributes:
        cue_names: Names of the cues.
    """

    def __init__(self, lexicon: Lexicon, cues: CueSet) -> None:
        """Compile vocabulary and cues together."""
        self.matcher = Matcher.of(lexicon, cues.phrases)
        self.patterns = Patterns(self.matcher, lexicon.patterns)
        self.cue_names = tuple(dict.fromkeys([*cues.base, *(cue.name for cue in cues.cues)]))
        self._lexicon = lexicon
        self._cues = cues
        self._decided: dict[tuple[int, ...], tuple[int, float, int]] = {}

    def read(self, sentences: Sequence[str]) -> Assertions:
        """Return what sentences assert; places that assert nothing are left out."""
        clauses = Clauses(self.matcher.tokens(sentences), self.matcher.kinds)
        places = named_places(clauses, self.patterns)
        named, place = np.unique(places.token, return_inverse=True)
        reach = Reach(clauses, named, self._cues.cues)
        reach.read()
        denial, grade, history, alternatives, ended = (column[place] for column in reach.columns())
        cues = self._cues.cues
        adjacent = np.array([cue.reach == "adjacent" for cue in cues] + [False])  # the last one is "no cue", -1
        history = np.where(adjacent[history] & (places.start - ended > ADJACENT), -1, history)
        code, probability, cue = self._decide(places.target, denial, grade, history, alternatives)
        told = attributes_of(clauses, places)
        # A finding that is not there has no severity, and no change but that it has gone.
        absent = code == NEGATIVE
        told[absent, _SEVERITY] = 0
        told[absent & (told[:, _CHANGE] != _RESOLVED), _CHANGE] = 0
        asserted = code >= 0
        finding = np.array([target.finding for target in self.matcher.kinds.every_target], np.int64)
        return Assertions(
            sentence=clauses.tokens.sentence[places.token[asserted]],
            finding=finding[places.target[asserted]],
            start=places.start[asserted],
            end=places.end[asserted],
            state=code[asserted].astype(np.int8),
            probability=probability[asserted],
            cue=cue[asserted],
            attributes=told[asserted],
        )

    def _decide(self, *columns: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
        """Decide each distinct combination of a target and the cues that reach it once."""
        size = len(self._cues.cues) + 1
        key = columns[0]
        for column in columns[1:]:
            key = key * size + column + 1
        first, which = np.unique(key, return_index=True, return_inverse=True)[1:]
        decided = [self._decide_one(combination) for combination in zip(*(c[first].tolist() for c in columns), strict=True)]
        state, probability, cue = zip(*decided, strict=True) if decided else ((), (), ())
        return np.array(state, np.int64)[which], np.array(probability, np.float64)[which], np.array(cue, np.int64)[which]

    def _decide_one(self, combination: tuple[int, ...]) -> tuple[int, float, int]:
        """Return (state, probability, cue) of a target under cues; the state is -1 where nothing is asserted."""
        known = self._decided.get(combination)
        if known is None:
            target, *numbers = combination
            reading = _Reading(*(None if n < 0 else self._cues.cues[n] for n in numbers))
            decided = _decide(self.matcher.kinds.every_target[target], reading, self._lexicon, self._cues)
            known = (-1, 0.0, 0) if decided is None else (*decided[:2], self.cue_names.index(decided[2]))
            self._decided[combination] = known
        return known


def _decide(target: Target, reading: _Reading, lexicon: Lexicon, cues: CueSet) -> tuple[int, float, str] | None:
    """Return (state, probability, cue) of one finding at one place, or None where nothing is asserted."""
    base = cues.base
    if target.role == DENIED:
        if reading.denial is not None:
            return None
        return (POSITIVE, 1 - base[NORMAL], NORMAL) if target.affirms else (NEGATIVE, base[NORMAL], NORMAL)
    if target.role == UNAFFECTED:
        if reading.denial is None:
            return None
        p = base[NO_ABNORMALITY]
        return (POSITIVE, 1 - p, NO_ABNORMALITY) if target.affirms else (NEGATIVE, p, NO_ABNORMALITY)
    state, probability, cue = _graded(target, reading, lexicon, cues)
    if target.role == ABNORMAL or target.affirms:
        if state == NEGATIVE:
            return None
        if target.role == ABNORMAL:
            return (NEGATIVE if state == POSITIVE else UNCERTAIN), 1 - probability, cue
    return state, probability, cue


def _graded(target: Target, reading: _Reading, lexicon: Lexicon, cues: CueSet) -> tuple[int, float, str]:
    denial, grade, history = reading.denial, reading.grade, reading.history
    if denial is not None:
        hedged = grade is not None and grade.probability < 0.9
        return NEGATIVE, max(denial.probability, 0.12 if hedged else 0.0), denial.name
    if history is not None and not (grade is not None and target.finding in lexicon.chronic):
        if target.finding in lexicon.chronic:
            return POSITIVE, history.chronic, history.name
        return NEGATIVE, history.probability, history.name
    if reading.alternatives is not None and (grade is None or grade.probability > reading.alternatives.probability):
        grade = reading.alternatives
    if target.role == BORDERLINE:
        return UNCERTAIN, cues.base[BORDERLINE_CUE], BORDERLINE_CUE
    if grade is None:
        return POSITIVE, cues.base[AFFIRMED], AFFIRMED
    return (POSITIVE if grade.probability >= POSITIVE_FROM else UNCERTAIN), grade.probability, grade.name
