"""Mentions + cues -> what each place asserts: state, graded probability, and the cue that decided."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import yaml

from labelers.mentions import Clauses, NamedPlace, Phrase
from labelers.types import NEGATIVE, POSITIVE, UNCERTAIN, Assertion
from labelers.vocabulary import ABNORMAL, BORDERLINE, DENIED, UNAFFECTED, Lexicon, Target, normal_phrase

__all__ = ["GENERAL_CUES", "Cue", "CueSet", "assert_places", "load_cues"]

POSITIVE_FROM = 0.75
"""A graded statement is positive from this probability on, else uncertain."""
ADJACENT = 16
"""A cue that reaches an adjacent mention allows a word or two between, this many code points."""
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
        reach: next (one mention), adjacent (one mention that follows at once), part (not beyond its part of the clause) or empty.
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
    adverbs = grammar.pop("adverb")
    phrases: dict[str, Phrase] = {}
    for group, words in grammar.items():
        for text in words:
            form = text if text.startswith(" ") else normal_phrase(text)
            known = phrases.get(form, Phrase())
            phrases[form] = replace(known, grammar=known.grammar | {group})
    cues: list[Cue] = []
    for file in data.values():
        for item in file["cues"]:
            _add_cue(item, adverbs, cues, phrases)
    return CueSet(tuple(cues), phrases, base)


def _add_cue(item: Mapping[str, Any], adverbs: Sequence[str], cues: list[Cue], phrases: dict[str, Phrase]) -> None:
    keys = ("cue", "effect", "probability", "scope", "reach", "chronic")
    cues.append(Cue(*(item.get(key, default) for key, default in zip(keys, ("", "", 0.0, "", "", 0.0), strict=True))))
    for phrase in item["phrases"]:
        for adverb in ("", *adverbs) if "<adverb>" in phrase else ("",):
            text = normal_phrase(phrase.replace("<adverb>", adverb))
            known = phrases.get(text, Phrase())
            if len(cues) - 1 not in known.cues:
                phrases[text] = replace(known, cues=(*known.cues, len(cues) - 1))


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
    history: Cue | None = None
    history_end: int = 0

    def close(self) -> None:
        self.denial = self.grade = self.history = None

    def open(self, cue: Cue, part: int, joined: bool, end: int) -> None:
        if cue.effect == "affirmed":
            self.close()
        elif cue.effect == "negative":
            self.denial, self.denial_part = cue, part
        elif cue.effect == "historical":
            self.history, self.history_end = cue, end
        else:
            if self.denial is not None and part > self.denial_part and not joined:
                self.denial = None
            self.grade, self.grade_part = cue, part


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
    behind = _last_place_of_part(clauses, places)
    for i, token in enumerate(clauses.tokens):
        part = clauses.part[i]
        if clauses.members[part][0] == i and part > 0:
            _enter_part(clauses, part, scope)
        for c in token.phrase.cues:
            cue = cues.cues[c]
            if _goes_forward(cue, behind[part] > i, _names_before(clauses, places, i, k)):
                scope.open(cue, part, "joiner" in clauses.opened_by[part], token.end)
        first = k
        while k < len(places) and places[k].token == i:
            _take(scope, readings[k], places[k].start)
            k += 1
        if k > first:
            _spend(scope)
    return readings


def _last_place_of_part(clauses: Clauses, places: list[NamedPlace]) -> list[int]:
    last = [-1] * len(clauses.members)
    for place in places:
        last[clauses.part[place.token]] = place.token
    return last


def _names_before(clauses: Clauses, places: list[NamedPlace], i: int, k: int) -> bool:
    """Say whether a place stands before token i in its part; k is the number of places before token i."""
    return k > 0 and clauses.part[places[k - 1].token] == clauses.part[i]


def _goes_forward(cue: Cue, follows: bool, precedes: bool) -> bool:
    if cue.scope == "forward_first":
        return follows or not precedes
    if cue.scope == "backward_first":
        return not precedes
    return cue.scope in ("forward", "both")


def _enter_part(clauses: Clauses, part: int, scope: _Scope) -> None:
    groups = clauses.opened_by[part]
    if clauses.clause[part] != clauses.clause[part - 1] or "turn" in groups:
        scope.close()
    elif scope.grade is not None and "joiner" not in groups and not clauses.listed[part] and not _is_and(clauses, part):
        scope.grade = None if _names_something(clauses, scope.grade_part, part) else scope.grade


def _is_and(clauses: Clauses, part: int) -> bool:
    return "conjunction" in clauses.opened_by[part]


def _names_something(clauses: Clauses, first: int, part: int) -> bool:
    return any(clauses.tokens[i].phrase.targets for p in range(max(first, part - 2), part) for i in clauses.members[p])


def _take(scope: _Scope, reading: _Reading, start: int) -> None:
    history = scope.history
    if history is not None and history.reach == "adjacent" and start - scope.history_end > ADJACENT:
        history = None
    reading.denial, reading.denial_part, reading.grade, reading.history = scope.denial, scope.denial_part, scope.grade, history


def _spend(scope: _Scope) -> None:
    """Close the cues that reach one mention only."""
    if scope.denial is not None and scope.denial.reach:
        scope.denial = None
    if scope.grade is not None and scope.grade.reach:
        scope.grade = None
    if scope.history is not None and scope.history.reach:
        scope.history = None


def _read_backward(clauses: Clauses, places: list[NamedPlace], cues: CueSet, readings: list[_Reading]) -> None:
    by_part: list[list[int]] = [[] for _ in clauses.members]
    for k, place in enumerate(places):
        by_part[clauses.part[place.token]].append(k)
    for i, token in enumerate(clauses.tokens):
        part = clauses.part[i]
        for c in token.phrase.cues:
            cue = cues.cues[c]
            if cue.scope == "alternatives":
                _alternatives(cue, part, by_part, readings)
                continue
            if not clauses.listed[part] and "joiner" not in clauses.opened_by[part]:
                _end_earlier_denials(cue, part, by_part, readings)
            here = [k for k in by_part[part][:64] if places[k].token < i]
            follows = bool(by_part[part]) and places[by_part[part][-1]].token > i
            answer = cue.effect == "negative" and "colon" in clauses.opened_by[part] and clauses.members[part][1:] == [i]
            if answer or cue.scope in ("backward", "both") or (bool(here) and not _goes_forward(cue, follows, True)):
                for k in _reached(clauses, part, here, by_part, cue):
                    _apply(cue, readings[k])


def _end_earlier_denials(cue: Cue, part: int, by_part: list[list[int]], readings: list[_Reading]) -> None:
    """A hedge of its own ("no effusion, and pneumonia cannot be excluded") takes its part out of the denial before."""
    if cue.effect == "uncertain" and cue.scope == "backward":
        for k in by_part[part]:
            if readings[k].denial_part < part:
                readings[k].denial = None


def _alternatives(cue: Cue, part: int, by_part: list[list[int]], readings: list[_Reading]) -> None:
    """Mark the findings on both sides of an "or"."""
    before, after = by_part[part - 1] if part else [], by_part[part]
    if before and after:
        readings[before[-1]].alternatives = readings[after[0]].alternatives = cue


def _reached(clauses: Clauses, part: int, here: list[int], by_part: list[list[int]], cue: Cue) -> list[int]:
    """Return the places before a backward cue: those of its part, then those of a list that leads up to it."""
    if cue.reach == "part":
        return here
    if cue.reach and here:
        return here[-1:]
    out = list(here)
    for p in range(part - 1, max(-1, part - BACKWARD_PARTS), -1):
        if clauses.clause[p] != clauses.clause[part] and out:
            break
        if "hard" in clauses.opened_by[p + 1] or not by_part[p]:
            break
        if out and (clauses.has(p, "verb") or clauses.has(p, "opener") or _holds_cue(clauses, p)):
            break
        out += by_part[p][-1:] if cue.reach else by_part[p]
        if cue.reach:
            break
    return out


def _holds_cue(clauses: Clauses, part: int) -> bool:
    return any(clauses.tokens[i].phrase.cues for i in clauses.members[part][1:] or clauses.members[part])


def _apply(cue: Cue, reading: _Reading) -> None:
    if cue.effect == "negative":
        reading.denial = cue
    elif cue.effect == "affirmed":
        reading.denial = None
    elif cue.effect == "historical":
        reading.history = cue
    elif reading.grade is None or cue.probability < reading.grade.probability:
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
