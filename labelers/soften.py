"""The assertions of the reports of one batch -> state, probability and uncertainty per finding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from labelers.types import NEGATIVE, POSITIVE, UNCERTAIN, UNMENTIONED, Evidence, LabelTable, Vocabulary, binary_entropy
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
    size = shape[0] * shape[1]
    cell = places.row * shape[1] + places.finding
    top = np.full(size, -1, np.int8)
    np.maximum.at(top, cell, places.rank)
    votes = np.zeros((3, size), bool)
    any_votes = np.zeros((3, size), bool)
    state = np.full(size, UNMENTIONED, np.int8)
    probability = np.full(size, UNMENTIONED_PROBABILITY)
    counted = places.rank == top[cell]
    direct = places.rank > GENERAL_RANK
    for code in (POSITIVE, NEGATIVE, UNCERTAIN):
        votes[code, cell[counted & (places.state == code)]] = True
        any_votes[code, cell[direct & (places.state == code)]] = True
    for code in (NEGATIVE, UNCERTAIN, POSITIVE):
        state[votes[code]] = code
    deciding = counted & (places.state == state[cell])
    best = np.full(size, -1.0)
    np.maximum.at(best, cell[deciding], places.probability[deciding])
    probability = np.where(best >= 0, best, probability)
    conflict = any_votes[POSITIVE] & any_votes[NEGATIVE]
    return state.reshape(shape), probability.reshape(shape), conflict.reshape(shape)


def _imply_parents(state: NDArray[np.int8], probability: NDArray[np.float64], lexicon: Lexicon) -> None:
    """Let children bear on their parents, in place, from the leaves up."""
    said = (state != UNMENTIONED).any(axis=0)
    for k, p in _links(lexicon.vocabulary):
        if not said[k]:
            continue
        said[p] = True
        present = state[:, k] == POSITIVE
        possible = (state[:, k] == UNCERTAIN) & (state[:, p] != POSITIVE)
        same = state[:, p] == state[:, k]
        raised = present | possible
        probability[raised, p] = np.where(same, np.maximum(probability[:, p], probability[:, k]), probability[:, k])[raised]
        state[raised, p] = state[raised, k]
        if k in lexicon.names_parent:
            denied = (state[:, k] == NEGATIVE) & (state[:, p] == UNMENTIONED)
            probability[denied, p] = probability[denied, k]
            state[denied, p] = NEGATIVE


@cache
def _links(vocabulary: Vocabulary) -> list[tuple[int, int]]:
    """Return (child, parent) columns, the deepest children first."""
    parents = [None if f.parent is None else vocabulary.index(f.parent) for f in vocabulary.findings]

    def depth(k: int | None) -> int:
        steps = 0
        while k is not None:
            k, steps = parents[k], steps + 1
        return steps

    return [(k, p) for k in sorted(range(len(parents)), key=depth, reverse=True) if (p := parents[k]) is not None]


def _with_parents(places: Places, lexicon: Lexicon) -> Places:
    """Add the places of children to their parents, on which they bear."""
    parent = np.full(len(lexicon.vocabulary), -1)
    for k, p in _links(lexicon.vocabulary):
        parent[k] = p
    denies = np.isin(np.arange(len(parent)), list(lexicon.names_parent))
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
    state: NDArray[np.int8], probability: NDArray[np.float64], read: NDArray[np.bool_], k: int, harmless: Iterable[int]
) -> None:
    """Set the column of "No Finding", in place; what is harmless does not stand against it."""
    others = np.delete(state, [k, *harmless], axis=1)
    chances = np.delete(probability, [k, *harmless], axis=1)
    present = (others == POSITIVE).any(axis=1) | (state[:, k] == NEGATIVE)
    possible = ((others == UNCERTAIN) & (chances >= POSSIBLE_FROM)).any(axis=1) | (state[:, k] == UNCERTAIN)
    own = np.where(np.isin(state[:, k], (NEGATIVE, UNCERTAIN)), probability[:, k], 1.0)
    asserted = np.where(np.isin(others, (POSITIVE, UNCERTAIN)), chances, 0.0).max(axis=1, initial=0.0)
    state[:, k] = np.select([~read, present, possible], [UNMENTIONED, NEGATIVE, UNCERTAIN], POSITIVE)
    probability[:, k] = np.select(
        [~read, present | possible], [UNMENTIONED_PROBABILITY, np.minimum(own, 1 - asserted)], NORMAL_PROBABILITY
    )


def _evidence(places: Places, shape: tuple[int, int], cues: tuple[str, ...]) -> Evidence:
    cell = places.row * shape[1] + places.finding
    keys = np.stack([cell, places.start, places.end, places.cue, places.state])
    order = np.unique(keys, axis=1, return_index=True)[1]  # two children of one parent may bring it the same place
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
