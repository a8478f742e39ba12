"""Places that name findings -> side, severity and change, where the text says so."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from labelers.clauses import Clauses, Places
from labelers.mentions import GROUPS
from labelers.types import ATTRIBUTES

__all__ = ["attributes_of"]

_BILATERAL = ATTRIBUTES["side"].index("bilateral")
_JOINS = GROUPS["joiner"] | GROUPS["conjunction"]


def attributes_of(clauses: Clauses, places: Places) -> NDArray[np.int8]:
    """Return side, severity and change of places, (N, 3), as positions in ``ATTRIBUTES``; 0 where nothing is said.

    What the phrase itself says counts first, then the nearest word before it in its part of the sentence, then the nearest behind it,
    no other finding lying between; else a part that follows and names no finding ("effusion, unchanged"), or the other side of an
    "or". "Right and left effusions" are bilateral.
    """
    phrase, part = clauses.tokens.phrase, clauses.part_of
    out = np.zeros((len(places.token), len(ATTRIBUTES)), np.int8)
    if not len(out):
        return out
    names = np.zeros(len(phrase), bool)
    names[places.token] = True
    named_part = np.zeros(len(clauses.parts.first), bool)
    named_part[part[names]] = True
    here, inverse = np.unique(places.token, return_inverse=True)
    # Numbers of the finding tokens before and behind each; words beyond those belong to them.
    before = np.append(-1, here[:-1])
    behind = np.append(here[1:], len(phrase))
    for k, name in enumerate(ATTRIBUTES):
        value = clauses.kinds.attributes[phrase, k]
        said = np.flatnonzero(value)
        # "The heart is increased in size" tells of no change: there the word is the finding.
        own = clauses.kinds.observed[phrase[here]] if name == "change" else np.zeros(len(here), bool)
        found = np.where(own, 0, value[here])
        for side, bound in ((-1, before), (1, behind)):
            at = np.searchsorted(said, here, "right" if side > 0 else "left") + min(side, 0)
            there = (at >= 0) & (at < len(said)) & (found == 0)
            token = said[np.where(there, at, 0)] if len(said) else np.zeros(len(here), np.int64)
            near = there & (part[token] == part[here]) & ((token > bound) if side < 0 else (token < bound))
            found[near] = value[token[near]]
        whole = _by_part(value, clauses, name == "side")
        found = _from_beside(found, part[here], whole, named_part, clauses, name == "side")
        out[:, k] = found[inverse]
    return out


def _by_part(value: NDArray[np.int8], clauses: Clauses, both: bool) -> NDArray[np.int8]:
    """Return what each part says of one attribute: its first word, or all its sides together."""
    first = clauses.parts.first
    if both:
        return np.bitwise_or.reduceat(value, first)  # left 1, right 2, bilateral 3
    place = np.where(value > 0, np.arange(len(value)), len(value))
    return np.append(value, 0)[np.minimum.reduceat(place, first)].astype(np.int8)


def _from_beside(
    found: NDArray[np.int8],
    part: NDArray[np.int64],
    whole: NDArray[np.int8],
    named: NDArray[np.bool_],
    clauses: Clauses,
    both: bool,
) -> NDArray[np.int8]:
    """Complete the attribute of finding tokens from the parts beside theirs."""
    parts = clauses.parts
    behind, same = parts.beside(part, 1)
    trails = same & (found == 0) & ~named[behind] & (parts.opened_by[behind] & GROUPS["hard"] == 0)
    found = np.where(trails, whole[behind], found)
    before, same = parts.beside(part, -1)
    joined = same & (parts.opened_by[part] & _JOINS != 0)
    if both:
        leads = joined & (found > 0) & (found < _BILATERAL) & ~named[before] & ~parts.observed[before]
        found = np.where(leads, found | whole[before], found)
        alternative = joined & (found == 0) & (parts.opened_by[part] & GROUPS["joiner"] != 0)
        found = np.where(alternative, whole[before], found)
    return found
