"""Mentions + cues -> what each place asserts: state, graded probability, and the cue that decided."""

from __future__ import annotations

import importlib.resources
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from labelers.attributes import attributes_of
from labelers.clauses import Clauses, Patterns, named_places
from labelers.mentions import GROUPS, Matcher, Phrase
from labelers.types import ATTRIBUTES, NEGATIVE, POSITIVE, UNCERTAIN
from labelers.vocabulary import ABNORMAL, BORDERLINE, DENIED, UNAFFECTED, Lexicon, Target, normal_phrase

__all__ = ["GENERAL_CUES", "Assertions", "Cue", "CueSet", "Reader", "load_cues"]

POSITIVE_FROM = 0.75
"""A graded statement is positive from this probability on, else uncertain."""
ADJACENT = 16
"""A cue that reaches an adjacent mention allows a word or two between, this many code points."""
BACKWARD_PLACES = 64
"""A cue behind them reaches this many places of one part at most."""
BACKWARD_PARTS = 8
"""A cue behind a list ("A, B and C are not seen") reaches over this many parts of the clause at most."""

_SEVERITY, _CHANGE = (list(ATTRIBUTES).index(name) for name in ("severity", "change"))
_RESOLVED = ATTRIBUTES["change"].index("resolved")

AFFIRMED, NORMAL, NO_ABNORMALITY, BORDERLINE_CUE = "affirmed", "normal", "no abnormality", "borderline"
GENERAL_CUES = frozenset({NORMAL, NO_ABNORMALITY})
"""Cues of statements about an organ or the whole chest; they give way to any statement about the finding itself."""


@dataclass(frozen=True, slots=True)
class Cue:
    """One entry of the cue resource.

    Attributes:
        name: Its name in evidence.
        effect: negative, uncertain, positive (graded), affirmed (ends a denial), historical or base (wording without a cue).
        probability: P(finding present) that it conveys.
        scope: forward, backward, forward_first, backward_first, both or alternatives.
        reach: next (one mention), adjacent (one that follows at once), part (not beyond its part of the clause), list (across
            the commas of a list) or empty.
        chronic: Probability where the finding persists once acquired (historical cues).
    """

    name: str
    effect: str
    probability: float
    scope: str
    reach: str = ""
    chronic: float = 0.0


@dataclass(frozen=True)
class CueSet:
    """The cues, the phrases that carry them and the words of grammar."""

    cues: tuple[Cue, ...]
    phrases: Mapping[str, Phrase]
    base: Mapping[str, float]


@cache
def load_cues() -> CueSet:
    """Load the shipped cue resource; it is the same for every vocabulary."""
    folder = importlib.resources.files("labelers.resources") / "cues"
    files = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".yaml")), key=lambda entry: entry.name)
    data = {file.name: yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader) for file in files}
    grammar = data.pop("grammar.yaml")
    attributes = data.pop("attributes.yaml")
    base = grammar.pop("base")
    fillers = grammar.pop("fillers")
    phrases: dict[str, Phrase] = {}
    for group, words in grammar.items():
        for text in words:
            form = text if text.startswith(" ") else normal_phrase(text)
            known = phrases.get(form, Phrase())
            phrases[form] = replace(known, grammar=known.grammar | {group})
    cues: list[Cue] = []
    for file in data.values():
        for item in file["cues"]:
            _add_cue(item, fillers, cues, phrases)
    _add_attributes(attributes, fillers, phrases)
    return CueSet(tuple(cues), phrases, base)


def _add_cue(item: Mapping[str, Any], fillers: Mapping[str, Sequence[str]], cues: list[Cue], phrases: dict[str, Phrase]) -> None:
    keys = {"cue": "", "effect": "", "probability": 0.0, "scope": "", "reach": "", "chronic": 0.0}
    cues.append(Cue(*(item.get(key, default) for key, default in keys.items())))
    told = (0, 0, ATTRIBUTES["change"].index(item.get("change", "")))
    for phrase in item["phrases"]:
        for text in _filled(phrase, fillers):
            known = phrases.get(text, Phrase(attributes=told))
            if len(cues) - 1 not in known.cues:
                phrases[text] = replace(known, cues=(*known.cues, len(cues) - 1))


def _add_attributes(
    attributes: Mapping[str, Mapping[str, Sequence[str]]], fillers: Mapping[str, Sequence[str]], phrases: dict[str, Phrase]
) -> None:
    for k, (name, values) in enumerate(ATTRIBUTES.items()):
        for value, listed in attributes[name].items():
            for text in (text for phrase in listed for text in _filled(phrase, fillers)):
                known = phrases.get(text, Phrase())
                codes = [*known.attributes]
                codes[k] = values.index(value)
                phrases[text] = replace(known, attributes=(codes[0], codes[1], codes[2]))


def _filled(phrase: str, fillers: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the phrases that a phrase with a place like <adverb> stands for: without it, and with each word of that list."""
    for name, words in fillers.items():
        if f"<{name}>" in phrase:
            return [text for word in ("", *words) for text in _filled(phrase.replace(f"<{name}>", word), fillers)]
    return [normal_phrase(phrase)]


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
        reach = _Reach(clauses, named, self._cues.cues)
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


class _Scope:
    """The cues that are open while a sentence is read from left to right, by number; -1 for none."""

    __slots__ = ("denial", "denial_part", "grade", "grade_part", "grade_unused", "history", "history_end")

    def __init__(self) -> None:
        self.denial = self.grade = self.history = -1
        self.denial_part = self.grade_part = self.history_end = 0
        self.grade_unused = False

    def close(self) -> None:
        """End every cue."""
        self.denial = self.grade = self.history = -1


class _Reach:
    """Which cues reach the tokens that name findings, in all sentences of a batch that hold a cue.

    Args:
        clauses: The sentences.
        named: The tokens that name findings, in order, (M,).
        cues: The cues.
    """

    def __init__(self, clauses: Clauses, named: NDArray[np.int64], cues: Sequence[Cue]) -> None:
        parts, tokens, kinds = clauses.parts, clauses.tokens, clauses.kinds
        self._cues = cues
        self._named = named
        self._cues_of = kinds.cues
        # Only sentences with both cues and findings are read token by token; the others are most of them.
        cued = kinds.cued[tokens.phrase]
        both = np.zeros((2, int(tokens.sentence.max(initial=-1)) + 1), bool)
        both[0, tokens.sentence[cued]] = True
        both[1, tokens.sentence[named]] = True
        told = (both[0] & both[1])[tokens.sentence]
        names = np.zeros(len(cued), bool)
        names[named] = True
        opens = np.zeros(len(cued), bool)
        opens[parts.first] = True
        self._events = np.flatnonzero(told & (cued | names | opens)).tolist()
        self._cued_events = np.flatnonzero(told & cued).tolist()
        self._is_named, self._is_cued, self._opens = names.tolist(), cued.tolist(), opens.tolist()
        self._phrase, self._end = tokens.phrase.tolist(), tokens.end.tolist()
        self._part, self._sentence = clauses.part_of.tolist(), parts.sentence.tolist()
        self._clause, self._opened, self._groups = parts.clause.tolist(), parts.opened_by.tolist(), parts.groups.tolist()
        self._part_cued, self._part_named = parts.cued.tolist(), parts.named.tolist()
        self._listed = parts.listed.tolist()
        bounds = np.searchsorted(named, np.append(parts.first, len(cued)))
        self._from, self._to = bounds[:-1].tolist(), bounds[1:].tolist()
        self._tokens = named.tolist()
        members = np.append(np.cumsum(clauses.member), 0)
        last = np.append(parts.first[1:], len(cued)) - 1
        self._members = (members[last] - members[parts.first - 1]).tolist()
        count = len(named)
        self.denial, self.grade, self.history, self.alternatives = ([-1] * count for _ in range(4))
        self.denial_part, self.history_end = [0] * count, [0] * count

    def columns(self) -> tuple[NDArray[np.int64], ...]:
        """Return denial, grade, history and alternatives by number, -1 for none, and where the history ended, each (M,)."""
        lists = (self.denial, self.grade, self.history, self.alternatives, self.history_end)
        return tuple(np.array(column, np.int64) for column in lists)

    def read(self) -> None:
        """Let cues reach what follows them, then what stands before them."""
        self._forward()
        self._backward()

    def _forward(self) -> None:
        scope, sentence, k = _Scope(), -1, 0
        for i in self._events:
            p = self._part[i]
            if self._opens[i]:
                if self._sentence[p] != sentence:
                    scope, sentence = _Scope(), self._sentence[p]
                elif self._opened[p]:
                    self._enter(p, scope)
                k = self._from[p]
            if self._is_cued[i]:
                for c in self._cues_of[self._phrase[i]]:
                    follows = k < self._to[p] and self._tokens[self._to[p] - 1] > i
                    if _goes_forward(self._cues[c], k > self._from[p], follows):
                        self._open(scope, c, p, self._end[i])
            if self._is_named[i]:
                self._note(scope, k)
                k += 1

    def _enter(self, p: int, scope: _Scope) -> None:
        """Close what does not reach beyond a separator; a hedge passes a comma only towards "or" or "and"."""
        groups = self._opened[p]
        if self._clause[p] != self._clause[p - 1] or groups & _TURN:
            scope.close()
        elif groups & _CAUSE:
            scope.denial = -1
        elif scope.grade >= 0 and self._cues[scope.grade].reach != "list":
            joined = self._listed[p] or groups & _JOINED
            if not joined and any(self._part_named[max(scope.grade_part, p - 2) : p]):
                scope.grade = -1

    def _open(self, scope: _Scope, c: int, p: int, end: int) -> None:
        """Take up a cue of a part, which an "or" may have joined to the one before; the cue's phrase ends at ``end``."""
        cue = self._cues[c]
        if cue.effect == "affirmed":
            scope.close()
        elif cue.effect == "negative":
            scope.denial, scope.denial_part = c, p
        elif cue.effect == "historical":
            scope.history, scope.history_end = c, end
        else:
            if scope.denial >= 0 and p > scope.denial_part and not self._opened[p] & _JOINER:
                scope.denial = -1
            unused = scope.grade >= 0 and scope.grade_unused and scope.grade_part == p
            if unused and self._cues[scope.grade].probability < cue.probability:
                return  # "may be consistent with": the weaker word decides
            scope.grade, scope.grade_part, scope.grade_unused = c, p, True

    def _note(self, scope: _Scope, k: int) -> None:
        """Note the open cues for a token that names findings, and end those that reach one place only."""
        self.denial[k], self.denial_part[k], self.grade[k] = scope.denial, scope.denial_part, scope.grade
        self.history[k], self.history_end[k] = scope.history, scope.history_end
        scope.grade_unused = False
        if scope.denial >= 0 and self._cues[scope.denial].reach in _ONCE:
            scope.denial = -1
        if scope.grade >= 0 and self._cues[scope.grade].reach in _ONCE:
            scope.grade = -1
        if scope.history >= 0 and self._cues[scope.history].reach in _ONCE:
            scope.history = -1

    def _backward(self) -> None:
        for i in self._cued_events:
            p = self._part[i]
            for c in self._cues_of[self._phrase[i]]:
                cue = self._cues[c]
                if cue.scope == "alternatives":
                    self._mark_alternatives(c, p)
                    continue
                n = bisect_left(self._tokens, i, self._from[p], self._to[p])
                here = range(max(self._from[p], n - BACKWARD_PLACES), n)
                follows = self._to[p] > self._from[p] and self._tokens[self._to[p] - 1] > i
                if not _goes_forward(cue, bool(here), follows) or cue.scope == "both" or self._answers(p, cue):
                    for k in self._reached(p, here, cue):
                        self._apply(c, k, p)

    def _answers(self, p: int, cue: Cue) -> bool:
        """Say whether a denial stands alone behind a colon ("Pneumothorax: No.")."""
        return cue.effect == "negative" and bool(self._opened[p] & _COLON) and self._members[p] == 1

    def _mark_alternatives(self, c: int, p: int) -> None:
        """Mark the findings on both sides of an "or"."""
        before = p > 0 and self._sentence[p - 1] == self._sentence[p] and self._to[p - 1] > self._from[p - 1]
        if before and self._to[p] > self._from[p]:
            self.alternatives[self._to[p - 1] - 1] = self.alternatives[self._from[p]] = c

    def _reached(self, p: int, here: range, cue: Cue) -> list[int]:
        """Return the tokens before a backward cue: those of its part, then those of a list that leads up to it."""
        if cue.reach == "part":
            return list(here)
        if cue.reach and here:
            return [here[-1]]
        out = list(here)
        for q in range(p - 1, p - BACKWARD_PARTS, -1):
            if q < 0 or self._sentence[q] != self._sentence[p]:
                break
            if self._to[q] == self._from[q]:
                if out or self._part_cued[q] or self._groups[q] & _PREDICATE or self._opened[q + 1] & _HARD:
                    break
                continue  # "effusions (left greater than right) have resolved"
            if (self._clause[q] != self._clause[p] and out) or self._opened[q + 1] & _HARD:
                break
            if out and (self._part_cued[q] or self._groups[q] & _PREDICATE):
                break
            first = self._to[q] - 1 if cue.reach else max(self._from[q], self._to[q] - BACKWARD_PLACES)
            out += range(first, self._to[q])
            if cue.reach:
                break
        return out

    def _apply(self, c: int, k: int, p: int) -> None:
        """Let a cue that stands behind a token bear on it; p is the number of the cue's part."""
        cue = self._cues[c]
        if cue.effect == "negative":
            self.denial[k], self.denial_part[k] = c, p
        elif cue.effect == "affirmed":
            self.denial[k] = -1
        elif cue.effect == "historical":
            self.history[k], self.history_end[k] = c, _NEAR
        else:
            if self.denial_part[k] < p and not self._listed[p] and not self._opened[p] & _JOINER:
                self.denial[k] = -1  # a hedge of its own: "no effusion, and pneumonia cannot be excluded"
            if self.grade[k] < 0 or cue.probability < self._cues[self.grade[k]].probability:
                self.grade[k] = c


_JOINER, _TURN, _CAUSE, _COLON, _HARD = (GROUPS[name] for name in ("joiner", "turn", "cause", "colon", "hard"))
_JOINED = GROUPS["joiner"] | GROUPS["conjunction"]
_PREDICATE = GROUPS["verb"] | GROUPS["opener"]
_ONCE = ("next", "adjacent")
_NEAR = 2**62
"""Where a history ended that stands behind its finding: never too far from it."""


def _goes_forward(cue: Cue, precedes: bool, follows: bool) -> bool:
    """Say whether a cue looks forward, given whether its part names a finding before it and behind it."""
    if cue.scope == "forward_first":
        return follows or not precedes
    if cue.scope == "backward_first":
        return follows and not precedes
    return cue.scope in ("forward", "both")


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
