"""The assertions of the reports of one batch -> state, probability and uncertainty per finding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelers.types import NEGATIVE, POSITIVE, STATES, UNCERTAIN, UNMENTIONED, Evidence, LabelTable, Vocabulary, binary_entropy
from labelers.vocabulary import Lexicon

__all__ = ["FINDINGS_RANK", "GENERAL_RANK", "IMPRESSION_RANK", "UNMENTIONED_PROBABILITY", "Places", "soften"]

UNMENTIONED_PROBABILITY = 0.05
"""P(present) of a finding that a report does not mention, before any noise model."""
NORMAL_PROBABILITY = 0.95
"""P(No Finding) of a report that asserts nothing abnormal."""
POSSIBLE_FROM = 0.25
"""An uncertain finding stands against "No Finding" from this probability on; a borderline heart size does not."""
CONFLICT = 0.3
"""Share of the way to 1 by which a conflict between places raises the uncertainty."""

GENERAL_RANK, FINDINGS_RANK, IMPRESSION_RANK = range(3)
"""Ranks of places; a place of the general rank makes a general statement ("lungs are clear") and gives way to every other."""


@dataclass(frozen=True)
class Places:
    """The assertions of a batch as parallel arrays of length N, in any order.

    Attributes:
        row: Row of the report, int64.
        finding: Column of the finding, int64.
        start: First code point in the report, int64.
        end: One past the last, int64.
        state: POSITIVE, NEGATIVE or UNCERTAIN, int8.
        probability: P(present) in [0, 1], float64.
        cue: Index into the cue names, int64.
        rank: GENERAL_RANK, FINDINGS_RANK or IMPRESSION_RANK, int8.
        attributes: Side, severity and change, (N, 3) int8; None where the labeler tells none.
    """

    row: NDArray[np.int64]
    finding: NDArray[np.int64]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    state: NDArray[np.int8]
    probability: NDArray[np.float64]
    cue: NDArray[np.int64]
    rank: NDArray[np.int8]
    attributes: NDArray[np.int8] | None = None


def soften(
    report_ids: Sequence[str],
    read: NDArray[np.bool_],
    places: Places,
    cues: tuple[str, ...],
    lexicon: Lexicon,
    source: str,
    version: str,
) -> LabelTable:
    """Merge the places of each report into one label per finding.

    The impression counts over the findings section, and statements about a finding over general ones; inside what counts,
    positive counts over uncertain and uncertain over negative. A positive or uncertain child raises its parent; a negative one
    that names its parent makes an unmentioned parent negative. "No Finding" is positive where a report was read and nothing is
    positive or uncertain.

    Args:
        report_ids: R ids.
        read: Whether a report has any text, (R,).
        places: The assertions of all reports.
        cues: Names of the cues that ``places.cue`` counts in.
        lexicon: The vocabulary of K findings.
        source: Name of the labeler.
        version: Version of the labeler.
    """
    vocabulary = lexicon.vocabulary
    shape = (len(report_ids), len(vocabulary))
    state, probability, conflict = _merge(places, shape)
    _imply_parents(state, probability, lexicon)
    if lexicon.no_finding is not None:
        _no_finding(state, probability, read, lexicon.no_finding, lexicon.harmless)
    uncertainty = np.full(shape, binary_entropy(np.array(UNMENTIONED_PROBABILITY)), np.float32)
    said = probability != UNMENTIONED_PROBABILITY
    uncertainty[said] = binary_entropy(probability[said])
    uncertainty = np.where(conflict, uncertainty + CONFLICT * (1 - uncertainty), uncertainty).astype(np.float32)
    return LabelTable(
        report_ids=np.asarray(report_ids, object),
        vocabulary=vocabulary,
        state=state,
        probability=probability.astype(np.float32),
        uncertainty=uncertainty,
        source=source,
        version=version,
        evidence=_evidence(_with_parents(places, lexicon), shape, cues),
    )


def _merge(places: Places, shape: tuple[int, int]) -> tuple[NDArray[np.int8], NDArray[np.float64], NDArray[np.bool_]]:
    """Return state, probability and whether places conflict, each (R, K)."""
    cells, cell = np.unique(places.row * shape[1] + places.finding, return_inverse=True)
    top = np.full(len(cells), -1, np.int8)
    np.maximum.at(top, cell, places.rank)
    counted = places.rank == top[cell]
    direct = places.rank > GENERAL_RANK
    merged = np.full(len(cells), UNMENTIONED, np.int8)
    conflict = np.ones(len(cells), bool)
    for code in (NEGATIVE, UNCERTAIN, POSITIVE):
        merged[cell[counted & (places.state == code)]] = code
        if code != UNCERTAIN:
            conflict &= np.bincount(cell[direct & (places.state == code)], minlength=len(cells)) > 0
    deciding = counted & (places.state == merged[cell])
    best = np.zeros(len(cells))
    np.maximum.at(best, cell[deciding], places.probability[deciding])
    return (
        _dense(shape, cells, merged, np.full(1, UNMENTIONED, np.int8)),
        _dense(shape, cells, best, np.full(1, UNMENTIONED_PROBABILITY)),
        _dense(shape, cells, conflict, np.zeros(1, bool)),
    )


def _dense(shape: tuple[int, int], cells: NDArray[np.int64], values: NDArray[Any], blank: NDArray[Any]) -> NDArray[Any]:
    out = np.repeat(blank, shape[0] * shape[1])
    out[cells] = values
    return out.reshape(shape)


@dataclass(frozen=True)
class _Tree:
    """The parents of a vocabulary's findings as arrays of length K: column (-1 for none), and how many are above; the most of these."""

    parent: NDArray[np.int64]
    depth: NDArray[np.int64]
    deepest: int


@cache
def _tree(vocabulary: Vocabulary) -> _Tree:
    parent = np.array([-1 if f.parent is None else vocabulary.index(f.parent) for f in vocabulary.findings], np.int64)
    depth, above = np.zeros(len(parent), np.int64), parent
    while (above >= 0).any():
        depth += above >= 0
        above = np.where(above >= 0, parent[above], -1)
    return _Tree(parent, depth, int(depth.max(initial=0)))


def _imply_parents(states: NDArray[np.int8], probabilities: NDArray[np.float64], lexicon: Lexicon) -> None:
    """Let children bear on their parents, in place, from the leaves up."""
    tree, width = _tree(lexicon.vocabulary), states.shape[1]
    denies = _flags(width, lexicon.names_parent)
    state, probability = states.reshape(-1), probabilities.reshape(-1)
    for level in range(tree.deepest, 0, -1):
        said = np.flatnonzero(state != UNMENTIONED)
        child = said[tree.depth[said % width] == level]
        parent = child + tree.parent[child % width] - child % width
        for code in (POSITIVE, UNCERTAIN, NEGATIVE):
            bears = state[child] == code
            if code == UNCERTAIN:
                bears &= state[parent] != POSITIVE
            elif code == NEGATIVE:
                bears &= denies[child % width] & (state[parent] == UNMENTIONED)
            raised = parent[bears]
            probability[raised[state[raised] != code]] = 0.0
            state[raised] = code
            np.maximum.at(probability, raised, probability[child[bears]])


def _flags(width: int, columns: Iterable[int]) -> NDArray[np.bool_]:
    out = np.zeros(width, bool)
    out[list(columns)] = True
    return out


def _with_parents(places: Places, lexicon: Lexicon) -> Places:
    """Add the places of children to their parents, on which they bear."""
    parent = _tree(lexicon.vocabulary).parent
    denies = _flags(len(parent), lexicon.names_parent)
    place, finding = np.arange(len(places.row)), places.finding
    levels = [(place, finding)]
    while len(place):
        bears = (parent[finding] >= 0) & ((places.state[place] != NEGATIVE) | denies[finding])
        place, finding = place[bears], parent[finding[bears]]
        levels.append((place, finding))
    place = np.concatenate([one for one, _ in levels])
    return Places(
        row=places.row[place],
        finding=np.concatenate([one for _, one in levels]),
        start=places.start[place],
        end=places.end[place],
        state=places.state[place],
        probability=places.probability[place],
        cue=places.cue[place],
        rank=places.rank[place],
        attributes=None if places.attributes is None else places.attributes[place],
    )


def _no_finding(
    states: NDArray[np.int8], probabilities: NDArray[np.float64], read: NDArray[np.bool_], k: int, harmless: Iterable[int]
) -> None:
    """Set the column of "No Finding", in place; what is harmless does not stand against it."""
    count, width = states.shape
    state, chance = states[:, k], probabilities[:, k]
    cells = np.flatnonzero((states == POSITIVE) | (states == UNCERTAIN))
    cells = cells[~_flags(width, [k, *harmless])[cells % width]]
    row, said, p = cells // width, states.reshape(-1)[cells], probabilities.reshape(-1)[cells]
    present, possible = state == NEGATIVE, state == UNCERTAIN
    own = np.where(present | possible, chance, 1.0)
    present[row[said == POSITIVE]] = True
    possible[row[(said == UNCERTAIN) & (p >= POSSIBLE_FROM)]] = True
    asserted = np.zeros(count)
    np.maximum.at(asserted, row, p)
    states[:, k] = np.select([~read, present, possible], [UNMENTIONED, NEGATIVE, UNCERTAIN], POSITIVE)
    probabilities[:, k] = np.select(
        [~read, present | possible], [UNMENTIONED_PROBABILITY, np.minimum(own, 1 - asserted)], NORMAL_PROBABILITY
    )


def _evidence(places: Places, shape: tuple[int, int], cues: tuple[str, ...]) -> Evidence:
    cell = places.row * shape[1] + places.finding
    keys = _joined([cell, places.start, places.end, places.cue * len(STATES) + places.state])
    order = np.lexsort(keys[::-1])
    # Two children of one parent may bring it the same place.
    new = np.any([np.diff(key[order], prepend=-1) != 0 for key in keys], axis=0)
    order = order[new]
    used, codes = np.unique(places.cue, return_inverse=True)
    return Evidence(
        cell=cell[order],
        start=places.start[order].astype(np.int32),
        end=places.end[order].astype(np.int32),
        state=places.state[order],
        cue=codes[order].astype(np.int32),
        cues=tuple(cues[c] for c in used),
        probability=places.probability[order].astype(np.float32),
        attributes=None if places.attributes is None else places.attributes[order],
    )


def _joined(keys: Sequence[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """Join keys of a sort into as few as 63 bits hold, which is faster to sort by; the first counts most."""
    out, size = [keys[0]], int(keys[0].max(initial=0)) + 1
    for key in keys[1:]:
        span = int(key.max(initial=0)) + 1
        if size * span < 2**63:
            out[-1], size = out[-1] * span + key, size * span
        else:
            out.append(key)
            size = span
    return out
