"""Cues + clauses -> which cues reach which of the places that name findings."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from labelers.clauses import Clauses
from labelers.cues import Cue
from labelers.mentions import GROUPS

__all__ = ["Reach"]

BACKWARD_PLACES = 64
"""A cue behind them reaches this many places of one part at most."""
BACKWARD_PARTS = 8
"""A cue behind a list ("A, B and C are not seen") reaches over this many parts of the clause at most."""


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


class Reach:
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
            denied = self.denial[k] >= 0 and self._cues[self.denial[k]].reach == "statement"
            self.denial[k], self.denial_part[k] = -1 if denied else c, p
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
