"""Mentions + cues -> what each place asserts: state, graded probability, and the cue that decided."""

from __future__ import annotations

import importlib.resources
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import yaml

from labelers.mentions import Clauses, NamedPlace, Part, Phrase
from labelers.types import NEGATIVE, POSITIVE, UNCERTAIN, Assertion
from labelers.vocabulary import ABNORMAL, BORDERLINE, DENIED, UNAFFECTED, Lexicon, Target, normal_phrase

__all__ = ["GENERAL_CUES", "Cue", "CueSet", "assert_places", "load_cues"]

POSITIVE_FROM = 0.75
"""A graded statement is positive from this probability on, else uncertain."""
ADJACENT = 16
"""A cue that reaches an adjacent mention allows a word or two between, this many code points."""
BACKWARD_PLACES = 64
"""A cue behind them reaches this many places of one part at most."""
BACKWARD_PARTS = 8
"""A cue behind a list ("A, B and C are not seen") reaches over this many parts of the clause at most."""

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
    return CueSet(tuple(cues), phrases, base)


def _add_cue(item: Mapping[str, Any], fillers: Mapping[str, Sequence[str]], cues: list[Cue], phrases: dict[str, Phrase]) -> None:
    keys = {"cue": "", "effect": "", "probability": 0.0, "scope": "", "reach": "", "chronic": 0.0}
    cues.append(Cue(*(item.get(key, default) for key, default in keys.items())))
    for phrase in item["phrases"]:
        for text in _filled(phrase, fillers):
            known = phrases.get(text, Phrase())
            if len(cues) - 1 not in known.cues:
                phrases[text] = replace(known, cues=(*known.cues, len(cues) - 1))


def _filled(phrase: str, fillers: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the phrases that a phrase with a place like <adverb> stands for: without it, and with each word of that list."""
    for name, words in fillers.items():
        if f"<{name}>" in phrase:
            return [text for word in ("", *words) for text in _filled(phrase.replace(f"<{name}>", word), fillers)]
    return [normal_phrase(phrase)]


@dataclass(slots=True)
class _Reading:
    """The cues that reach one place."""

    denial: Cue | None = None
    denial_part: int = 0
    grade: Cue | None = None
    history: Cue | None = None
    alternatives: Cue | None = None


@dataclass(slots=True)
class _Scope:
    """The cues that are open while a sentence is read from left to right."""

    denial: Cue | None = None
    denial_part: int = 0
    grade: Cue | None = None
    grade_part: int = 0
    grade_unused: bool = False
    history: Cue | None = None
    history_end: int = 0

    def close(self) -> None:
        """End every cue."""
        self.denial = self.grade = self.history = None

    def open(self, cue: Cue, part: int, joined: bool, end: int) -> None:
        """Take up a cue of the given part, which an "or" may have joined to the one before; the cue's phrase ends at end."""
        if cue.effect == "affirmed":
            self.close()
        elif cue.effect == "negative":
            self.denial, self.denial_part = cue, part
        elif cue.effect == "historical":
            self.history, self.history_end = cue, end
        else:
            if self.denial is not None and part > self.denial_part and not joined:
                self.denial = None
            unused = self.grade if self.grade_unused and self.grade_part == part else None
            if unused is not None and unused.probability < cue.probability:
                return  # "may be consistent with": the weaker word decides
            self.grade, self.grade_part, self.grade_unused = cue, part, True

    def read(self, reading: _Reading, start: int) -> None:
        """Note the open cues for a place that starts at the given code point."""
        far = self.history is not None and self.history.reach == "adjacent" and start - self.history_end > ADJACENT
        reading.denial, reading.denial_part, reading.grade = self.denial, self.denial_part, self.grade
        reading.history = None if far else self.history

    def spend(self) -> None:
        """End the cues that reach one place only."""
        self.grade_unused = False
        open_cues = (self.denial, self.grade, self.history)
        kept = (None if cue is not None and cue.reach in ("next", "adjacent") else cue for cue in open_cues)
        self.denial, self.grade, self.history = kept


def assert_places(clauses: Clauses, places: list[NamedPlace], lexicon: Lexicon, cues: CueSet) -> list[Assertion]:
    """Decide what each place of one sentence asserts.

    Args:
        clauses: The tokens of the sentence.
        places: The places that say something of findings, in the order of their tokens.
        lexicon: The vocabulary.
        cues: The cue resource.

    Returns:
        One assertion a place and finding, offsets in the sentence; places that assert nothing are left out.
    """
    readings = _read_forward(clauses, places, cues)
    _read_backward(clauses, places, cues, readings)
    out = []
    for place, reading in zip(places, readings, strict=True):
        for target in dict.fromkeys(place.targets):
            decided = _decide(target, reading, lexicon, cues)
            if decided is not None:
                out.append(Assertion(target.finding, place.start, place.end, *decided))
    return out


def _read_forward(clauses: Clauses, places: list[NamedPlace], cues: CueSet) -> list[_Reading]:
    readings = [_Reading() for _ in places]
    scope = _Scope()
    k = 0
    last = {clauses.part_of[place.token]: place.token for place in places}
    for i, token in enumerate(clauses.tokens):
        p = clauses.part_of[i]
        part = clauses.parts[p]
        if part.opener == i:
            _enter_part(clauses.parts, p, scope)
        for c in token.phrase.cues:
            precedes = k > 0 and clauses.part_of[places[k - 1].token] == p
            if _goes_forward(cues.cues[c], precedes, last.get(p, -1) > i):
                scope.open(cues.cues[c], p, "joiner" in part.opened_by, token.end)
        first = k
        while k < len(places) and places[k].token == i:
            scope.read(readings[k], places[k].start)
            k += 1
        if k > first:
            scope.spend()
    return readings


def _goes_forward(cue: Cue, precedes: bool, follows: bool) -> bool:
    """Say whether a cue looks forward, given whether its part names a finding before it and behind it."""
    if cue.scope == "forward_first":
        return follows or not precedes
    if cue.scope == "backward_first":
        return follows and not precedes
    return cue.scope in ("forward", "both")


def _enter_part(parts: list[Part], p: int, scope: _Scope) -> None:
    """Close what does not reach beyond a separator; a hedge passes a comma only towards "or" or "and"."""
    groups = parts[p].opened_by
    if parts[p].clause != parts[p - 1].clause or "turn" in groups:
        scope.close()
        return
    if "cause" in groups:
        scope.denial = None
    elif scope.grade is not None and scope.grade.reach != "list":
        joined = parts[p].listed or bool(groups & {"joiner", "conjunction"})
        if not joined and any(part.named for part in parts[max(scope.grade_part, p - 2) : p]):
            scope.grade = None


def _read_backward(clauses: Clauses, places: list[NamedPlace], cues: CueSet, readings: list[_Reading]) -> None:
    by_part: list[list[int]] = [[] for _ in clauses.parts]
    for k, place in enumerate(places):
        by_part[clauses.part_of[place.token]].append(k)
    for i, token in enumerate(clauses.tokens):
        p = clauses.part_of[i]
        for c in token.phrase.cues:
            cue = cues.cues[c]
            if cue.scope == "alternatives":
                _mark_alternatives(cue, p, by_part, readings)
                continue
            n = bisect_left(by_part[p], i, key=lambda k: places[k].token)
            here = by_part[p][max(0, n - BACKWARD_PLACES) : n]
            follows = bool(by_part[p]) and places[by_part[p][-1]].token > i
            if not _goes_forward(cue, bool(here), follows) or cue.scope == "both" or _answers(clauses, i, cue):
                for k in _reached(clauses.parts, p, here, by_part, cue):
                    _apply(cue, readings[k], clauses.parts[p], p)


def _answers(clauses: Clauses, i: int, cue: Cue) -> bool:
    """Say whether a denial stands alone behind a colon ("Pneumothorax: No.")."""
    part = clauses.parts[clauses.part_of[i]]
    return cue.effect == "negative" and "colon" in part.opened_by and part.members == [i]


def _mark_alternatives(cue: Cue, p: int, by_part: list[list[int]], readings: list[_Reading]) -> None:
    """Mark the findings on both sides of an "or"."""
    before, after = by_part[p - 1] if p else [], by_part[p]
    if before and after:
        readings[before[-1]].alternatives = readings[after[0]].alternatives = cue


def _reached(parts: list[Part], p: int, here: list[int], by_part: list[list[int]], cue: Cue) -> list[int]:
    """Return the places before a backward cue: those of its part, then those of a list that leads up to it."""
    if cue.reach == "part":
        return here
    if cue.reach and here:
        return here[-1:]
    out = list(here)
    for q in range(p - 1, max(-1, p - BACKWARD_PARTS), -1):
        if (parts[q].clause != parts[p].clause and out) or "hard" in parts[q + 1].opened_by or not by_part[q]:
            break
        if out and (parts[q].cued or parts[q].groups & {"verb", "opener"}):
            break
        out += by_part[q][-1 if cue.reach else -BACKWARD_PLACES :]
        if cue.reach:
            break
    return out


def _apply(cue: Cue, reading: _Reading, part: Part, p: int) -> None:
    """Let a cue that stands behind a place bear on it; p is the number of the cue's part."""
    if cue.effect == "negative":
        reading.denial = cue
    elif cue.effect == "affirmed":
        reading.denial = None
    elif cue.effect == "historical":
        reading.history = cue
    else:
        if reading.denial_part < p and not part.listed and "joiner" not in part.opened_by:
            reading.denial = None  # a hedge of its own: "no effusion, and pneumonia cannot be excluded"
        if reading.grade is None or cue.probability < reading.grade.probability:
            reading.grade = cue


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
