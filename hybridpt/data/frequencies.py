"""Whether labels and channels belong together: what has no channel, and expected against observed frequencies of the states."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from hybridpt.data.labels import JoinedLabels
from labelers.channel import Channel, ChannelSet
from labelers.types import STATES

__all__ = [
    "Comparison",
    "Contradiction",
    "Gap",
    "channel_gaps",
    "compare",
    "contradictions",
    "expected_states",
    "fitted_prevalence",
]

ERROR_RATE = 0.01
"""Chance that a data set which follows its channels gets a warning, over all comparisons of a run."""
EFFECT = 0.2
"""Differences below this many units of Cohen's h, a "small" one (Statistical Power Analysis, 1988), are trifles however sure."""
PRIOR_WEIGHT = 16.0
"""Rows that a channel's estimate counts for beyond its gold, as in ``labelers.channel``."""


SHOWN = 5
"""Names listed in a message at the most."""


@dataclass(frozen=True)
class Gap:
    """The findings of a labeler that have no channel in any data set.

    Attributes:
        labeler: Who labelled.
        missing: Their names.
        known: How many findings the labeler judges.
    """

    labeler: str
    missing: tuple[str, ...]
    known: int

    def __str__(self) -> str:
        names = ", ".join(self.missing[:SHOWN]) + (", ..." if len(self.missing) > SHOWN else "")
        return f"no channel of '{self.labeler}' for {len(self.missing)} of its {self.known} findings ({names})"

    @property
    def complete(self) -> bool:
        """Whether the labeler has no channel at all."""
        return len(self.missing) == self.known


def channel_gaps(labels: JoinedLabels, channels: ChannelSet, dataset: NDArray[np.object_]) -> list[Gap]:
    """Return the gaps of the labelers that have some; arguments as of ``contradictions``."""
    gaps = []
    for s, labeler in enumerate(labels.labelers):
        known = [f for k, f in enumerate(labels.findings) if labels.looked[:, s, k].any()]
        missing = tuple(f for f in known if all(channels.find(labeler, d, f) is None for d in set(dataset)))
        if missing:
            gaps.append(Gap(labeler, missing, len(known)))
    return gaps


@dataclass(frozen=True)
class Comparison:
    """Observed frequencies of the states against those that channel and prior imply.

    Attributes:
        expected: Shares in the order of ``STATES``, (4,).
        observed: The same of the data set, (4,).
        p: Chance of so great a difference if the data set follows the channel, in [0, 1].
        effect: Cohen's h of the state that differs most, in [0, pi].
    """

    expected: NDArray[np.float64]
    observed: NDArray[np.float64]
    p: float
    effect: float


@dataclass(frozen=True)
class Contradiction:
    """A finding whose states in a data set contradict the channel.

    Attributes:
        labeler: Who labelled.
        dataset: Where.
        finding: What.
        studies: How many were compared.
        comparison: Expected and observed.
        prior: The prior of the finding.
        prevalence: A prevalence under which the channel would explain the states, or None where none does.
    """

    labeler: str
    dataset: str
    finding: str
    studies: int
    comparison: Comparison
    prior: float
    prevalence: float | None

    def __str__(self) -> str:
        shares = (
            ", ".join(f"{s} {p:.1%}" for s, p in zip(STATES, row, strict=True))
            for row in (self.comparison.expected, self.comparison.observed)
        )
        why = (
            "no prevalence explains that: its reports are of another kind than the gold's"
            if self.prevalence is None
            else f"a prevalence of {self.prevalence:.2f} instead of {self.prior:.2f} would explain it"
        )
        return f"'{self.finding}' (expected {next(shares)}; observed {next(shares)} in {self.studies:,} studies; {why})"


def expected_states(matrix: NDArray[np.float64], prior: float) -> NDArray[np.float64]:
    """Shares of the states that a channel (2, 4) implies at a prevalence in [0, 1]: (4,)."""
    return np.asarray((1 - prior) * matrix[0] + prior * matrix[1], np.float64)


def compare(counts: NDArray[np.int64], channel: Channel, prior: float) -> Comparison:
    """Compare the states of a data set with what channel and prior imply.

    A G-test of two samples (likelihood ratio, chi-square with three degrees of freedom): the counts, and the expected shares with
    the weight of the gold that they were estimated on. So the gold's own sampling error is allowed for.

    Args:
        counts: Studies of the data set by state, (4,), at least one.
        channel: P(state | truth), and the gold counts behind it.
        prior: P(present), in [0, 1].
    """
    expected = expected_states(channel.matrix, prior)
    rows = channel.counts.sum(axis=1) + PRIOR_WEIGHT
    gold = 1 / ((1 - prior) ** 2 / rows[0] + prior**2 / rows[1]) * expected
    pooled = (gold + counts) / (gold.sum() + counts.sum())
    g = sum(_deviance(sample, sample.sum() * pooled) for sample in (gold, counts.astype(np.float64)))
    observed = counts / counts.sum()
    return Comparison(expected, observed, float(chi2.sf(g, len(STATES) - 1)), _effect(expected, observed))


def _deviance(sample: NDArray[np.float64], fitted: NDArray[np.float64]) -> float:
    seen = sample > 0
    return float(2 * (sample[seen] * np.log(sample[seen] / fitted[seen])).sum())


def _effect(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    """Largest Cohen's h between the shares of two distributions."""
    return float(np.abs(2 * np.arcsin(np.sqrt(p)) - 2 * np.arcsin(np.sqrt(q))).max())


def fitted_prevalence(counts: NDArray[np.int64], matrix: NDArray[np.float64]) -> float:
    """Return the prevalence at which a channel (2, 4) makes the counts (4,) likeliest, on a grid of hundredths."""
    grid = np.linspace(0, 1, 101)
    shares = (1 - grid[:, None]) * matrix[0] + grid[:, None] * matrix[1]
    return float(grid[np.argmax(np.log(shares) @ counts)])


def contradictions(
    labels: JoinedLabels, channels: ChannelSet, dataset: NDArray[np.object_], study: NDArray[np.int64], rows: NDArray[np.bool_]
) -> list[Contradiction]:
    """Return what contradicts the channels, the greatest difference first.

    Args:
        labels: What the labelers say of N images.
        channels: What was measured of them; findings without channel or prior are passed over.
        dataset: Names of the data sets, (N,).
        study: Numbers of the studies, (N,); each counts once.
        rows: The images to look at, (N,) bool.
    """
    first = np.zeros(len(study), bool)
    first[np.unique(study, return_index=True)[1]] = True
    cells = _cells(labels, channels, dataset, first & rows)
    found = []
    for labeler, name, finding, counts, channel in cells:
        prior = channels.prior[finding]
        result = compare(counts, channel, prior)
        if result.p < ERROR_RATE / len(cells) and result.effect >= EFFECT:
            prevalence = fitted_prevalence(counts, channel.matrix)
            explained = _effect(expected_states(channel.matrix, prevalence), result.observed) < EFFECT
            found.append(
                Contradiction(labeler, name, finding, int(counts.sum()), result, prior, prevalence if explained else None)
            )
    return sorted(found, key=lambda c: -c.comparison.effect)


def _cells(
    labels: JoinedLabels, channels: ChannelSet, dataset: NDArray[np.object_], rows: NDArray[np.bool_]
) -> list[tuple[str, str, str, NDArray[np.int64], Channel]]:
    """Labeler, data set, finding, counts of the states (4,) and channel, wherever there is something to compare."""
    cells = []
    for name in sorted(set(dataset[rows])):
        for s, labeler in enumerate(labels.labelers):
            for k, finding in enumerate(labels.findings):
                seen = rows & (dataset == name) & labels.looked[:, s, k]
                channel = channels.find(labeler, name, finding)
                if channel is not None and finding in channels.prior and seen.any():
                    counts = np.bincount(labels.state[seen, s, k], minlength=len(STATES)).astype(np.int64)
                    cells.append((labeler, name, finding, counts, channel))
    return cells
