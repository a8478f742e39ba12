"""How far the states of labelers that looked at one report add up: a logarithmic opinion pool, fitted on gold.

Independent witnesses multiply their likelihood ratios. Labelers that read one report do not: they repeat each other. The pool raises
each ratio to an exponent (Genest and Zidek 1986, Stat. Sci. 1:114) that depends on who else looked: of two that say the same each gets a
half where both spoke, and one where it spoke alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelers.rows import PRIOR_ROWS
from labelers.rules import LARGEST_EXPONENT, GoldCells, regress
from labelers.votes import SILENT, Tally

__all__ = ["Pool", "fit_pool"]

ALL_SETS = 6
"""Labelers up to which every set of them is fitted; of more, the sets that occur."""
PULL = 50.0
"""Weight of the pull towards equal shares, 1 / variance: too little gold leaves a mean of the ratios, which understates."""


@dataclass(frozen=True, eq=False)
class Pool:
    """What a set of labelers says together: the sum of their log-likelihood ratios, each times its exponent.

    Attributes:
        exponents: For each set of two labelers or more the exponent in [0, 1.5] of each of them; one that looked alone has 1.
        strongest: By finding how far the evidence of several may go towards absent (not above 0) and present (not below 0), in nats: a
            state that no gold row of the other truth has shows no more than that there were so many rows, those of the prior among them.
    """

    exponents: Mapping[frozenset[str], Mapping[str, float]]
    strongest: Mapping[str, tuple[float, float]]

    def of(self, labelers: Sequence[str]) -> tuple[float, ...]:
        """Return the exponents of labelers that looked together, in their order; equal shares for a set that nobody fitted."""
        if len(labelers) < 2:
            return (1.0,) * len(labelers)
        fitted = self.exponents.get(frozenset(labelers), {})
        return tuple(fitted.get(name, 1 / len(labelers)) for name in labelers)

    def to_json(self) -> dict[str, Any]:
        """Return plain types for CHANNELS.json."""
        return {
            "exponents": [{name: round(a, 6) for name, a in each.items()} for each in self.exponents.values()],
            "strongest": {finding: [round(x, 6) for x in ends] for finding, ends in self.strongest.items()},
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Pool:
        """Read back what ``to_json`` wrote; what is no pool raises KeyError, TypeError, AttributeError or ValueError."""
        exponents = [{str(name): float(a) for name, a in each.items()} for each in body["exponents"]]
        strongest = {str(finding): (float(low), float(high)) for finding, (low, high) in body["strongest"].items()}
        if not all(0 <= a <= LARGEST_EXPONENT for each in exponents for a in each.values()):
            raise ValueError("an exponent out of its range")
        if not all(low <= 0 <= high for low, high in strongest.values()):
            raise ValueError("ends on one side of zero")
        return cls({frozenset(each): each for each in exponents}, strongest)


def fit_pool(votes: Tally, labelers: Sequence[str], findings: Sequence[str], told: NDArray[np.bool_]) -> Pool:
    """Fit the exponents of every set of labelers to the gold rows that all of them judged, the others taken for silent.

    Each row is judged by channels without itself, so that an exponent does not trust what was learned from that row.

    Args:
        votes: Counts of the patterns of S labelers' states, for K findings.
        labelers: S names.
        findings: K names.
        told: Where a labeler has a channel, (S, K); elsewhere it counts as one that did not look.
    """
    gold = GoldCells(votes)
    weight, truth, prior, evidence, states, finding = gold.cells()
    evidence = evidence * told.T[finding]
    exponents: dict[frozenset[str], dict[str, float]] = {}
    for members in _sets(votes):
        rows = ((states != SILENT) & told.T[finding])[:, members].all(axis=1)
        start = np.full(len(members), 1 / len(members))
        bounds = [(0.0, LARGEST_EXPONENT)] * len(members)
        fitted = regress(evidence[rows][:, members], prior[rows], truth[rows], weight[rows], start, bounds, PULL)
        names = [labelers[s] for s in members]
        exponents[frozenset(names)] = dict(zip(names, map(float, fitted), strict=True))
    low, high = -np.log1p(gold.present + PRIOR_ROWS), np.log1p(gold.known - gold.present + PRIOR_ROWS)
    return Pool(exponents, {name: (float(a), float(b)) for name, a, b in zip(findings, low, high, strict=True)})


def _sets(votes: Tally) -> Iterator[list[int]]:
    """Sets of two labelers or more, of many labelers those that looked at one report."""
    size = votes.states.shape[1]
    if size <= ALL_SETS:
        for count in range(2, size + 1):
            yield from map(list, combinations(range(size), count))
        return
    seen = (votes.unjudged.sum(axis=0) + votes.judged.sum(axis=(0, 1))) > 0
    for looked in np.unique(votes.states[seen] != SILENT, axis=0):
        if looked.sum() > 1:
            yield [int(s) for s in np.flatnonzero(looked)]
