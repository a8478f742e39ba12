"""A latent class model of what several labelers say: which truth lies behind a pattern of states, and who shares errors with whom.

Dawid and Skene (1979) let each labeler err by itself given the truth. Two things break that, and each has its part here. Labelers that
descend from one another repeat each other's errors: they form a **group**, which has one joint channel. And a report that is hard for
one is hard for all: the truth splits into **classes**, some easy, some hard, inside each of which the groups err by themselves.
The model is fitted to all reports, those with gold counted under their truth, by maximum a posteriori expectation-maximization on
the counts of patterns of states, so that its cost does not grow with the number of reports.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from labelers.rows import PRIOR_ROWS
from labelers.types import POSITIVE, STATES, UNCERTAIN
from labelers.votes import SILENT, Tally

__all__ = ["Group", "LatentModel", "Structure", "fit", "search"]

Group = tuple[int, ...]
CLASS_ROWS = 1.0
"""Weight of an even split of a truth into its classes, in reports."""
HARDER = 0.3
"""How far the start of each further class is drawn from the first towards labelers that tell nothing."""
MOST_CLASSES = 3
"""Classes a truth at the most."""
LARGEST_GROUP = 3
"""Labelers a group at the most: a joint channel of four would have 256 cells a row."""
TOLERANCE = 1e-7
"""Iterations end when the log-likelihood of a report gains less, in nats."""
ITERATIONS, SEARCH_ITERATIONS = 400, 60
STANDARD_ERRORS = 2.0
"""A richer structure is taken when its held-out log-likelihood is better by so many standard errors."""


@dataclass(frozen=True)
class Structure:
    """What a model may express.

    Attributes:
        groups: The labelers of each group, every labeler in one.
        classes: Number of classes a truth.
    """

    groups: tuple[Group, ...]
    classes: int = 1


@dataclass(frozen=True, eq=False)
class LatentModel:
    """A fitted model of K findings with G groups and C classes a truth.

    Attributes:
        groups: The labelers of each group.
        weight: P(class); the first half of the 2 C classes are absent, the second present, (K, 2 C) float64, rows sum to one.
        tables: By group P(states of its g labelers | class), the last labeler's state running fastest, (K, 2 C, 4 ** g) float64.
    """

    groups: tuple[Group, ...]
    weight: NDArray[np.float64]
    tables: tuple[NDArray[np.float64], ...]

    @property
    def classes(self) -> int:
        """Number of classes a truth."""
        return int(self.weight.shape[1]) // 2

    @property
    def prior(self) -> NDArray[np.float64]:
        """P(present) by finding, (K,)."""
        return np.asarray(self.weight[:, self.classes :].sum(axis=1), np.float64)

    def log_joint(self, states: NDArray[np.int8]) -> NDArray[np.float64]:
        """Return log P(class, pattern) of patterns (P, S), (K, 2 C, P); what ``SILENT`` labelers would have said is summed out."""
        total = np.repeat(np.log(self.weight)[:, :, None], len(states), axis=2)
        for group, table in zip(self.groups, self.tables, strict=True):
            total += np.log(table @ _cells(len(group)).T)[:, :, _codes(states, group)]
        return total

    def log_truth(self, states: NDArray[np.int8]) -> NDArray[np.float64]:
        """Return log P(truth, pattern), absent and present, (K, 2, P)."""
        joint = self.log_joint(states)
        return _log_sum(joint.reshape(len(joint), 2, self.classes, -1), axis=2)

    def posterior(self, states: NDArray[np.int8]) -> NDArray[np.float64]:
        """Return P(present | pattern), (K, P)."""
        absent, present = self.log_truth(states).transpose(1, 0, 2)
        return np.asarray(1 / (1 + np.exp(np.clip(absent - present, -700, 700))), np.float64)

    def evidence(self, states: NDArray[np.int8]) -> NDArray[np.float64]:
        """Return by group what it says by itself, log P(its states | present) - log P(its states | absent), (G, K, P) in nats."""
        share = self.weight.reshape(len(self.weight), 2, self.classes)
        share = share / share.sum(axis=2, keepdims=True)
        out = []
        for group, table in zip(self.groups, self.tables, strict=True):
            rows = (share[..., None] * table.reshape(len(table), 2, self.classes, -1)).sum(axis=2) @ _cells(len(group)).T
            out.append(np.log(rows[:, 1] / rows[:, 0])[:, _codes(states, group)])
        return np.array(out)

    def channel(self, labeler: int) -> NDArray[np.float64]:
        """Return P(state | truth) of one labeler, (K, 2, 4)."""
        share = self.weight.reshape(len(self.weight), 2, self.classes)
        share = share / share.sum(axis=2, keepdims=True)
        for group, table in zip(self.groups, self.tables, strict=True):
            if labeler in group:
                others = tuple(3 + i for i, member in enumerate(group) if member != labeler)
                full = table.reshape(len(table), 2, self.classes, *(len(STATES),) * len(group))
                return np.asarray((share[..., None] * full.sum(axis=others)).sum(axis=2), np.float64)
        raise KeyError(labeler)


def _log_sum(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    top = values.max(axis=axis, keepdims=True)
    return np.asarray((top + np.log(np.exp(values - top).sum(axis=axis, keepdims=True))).squeeze(axis), np.float64)


def _codes(states: NDArray[np.int8], group: Group) -> NDArray[np.int64]:
    """Number what a group says in each pattern, in base five: (P, S) -> (P,)."""
    code = np.zeros(len(states), np.int64)
    for labeler in group:
        code = code * (SILENT + 1) + states[:, labeler]
    return code


def _cells(size: int) -> NDArray[np.float64]:
    """Which cells of a joint channel agree with what a group says, some of it silent: (5 ** size, 4 ** size) of 0 and 1."""
    one = np.vstack([np.eye(len(STATES)), np.ones(len(STATES))])
    cells: NDArray[np.float64] = np.ones((1, 1))
    for _ in range(size):
        cells = np.asarray(np.kron(cells, one), np.float64)
    return cells


def fit(tally: Tally, structure: Structure, iterations: int = ITERATIONS, start: LatentModel | None = None) -> LatentModel:
    """Fit a model.

    The gold rows start it, or, where there are none, the share of positive states. The prior is fitted to the reports without gold, since
    gold may be enriched, unless there are none.

    Args:
        tally: Counts of patterns.
        structure: Groups and classes.
        iterations: At the most.
        start: A model of that structure to go on from.
    """
    return _Fit(tally, structure).run(iterations, start)


class _Fit:
    def __init__(self, tally: Tally, structure: Structure) -> None:
        seen = (tally.unjudged.sum(axis=0) + tally.judged.sum(axis=(0, 1))) > 0
        self.states = tally.states[seen]
        self.unjudged, self.judged = tally.unjudged[:, seen], tally.judged[:, :, seen]
        self.structure = structure
        self.total = max(self.unjudged.sum() + self.judged.sum(), 1.0)
        self.free = bool(self.unjudged.sum())
        self.spread = []
        for group in structure.groups:
            codes = _codes(self.states, group)
            self.spread.append(np.eye((SILENT + 1) ** len(group))[codes])

    def run(self, iterations: int, start: LatentModel | None) -> LatentModel:
        model, before = start or self._start(), -np.inf
        for _ in range(iterations):
            counts, likelihood = self._expect(model)
            if likelihood - before < TOLERANCE * self.total:
                break
            before = likelihood
            model = self._maximize(counts, model)
        return model

    def _start(self) -> LatentModel:
        """Channels from the gold rows or, without gold, from how many labelers say positive; further classes tell less."""
        size = self.structure.classes
        counts = self.judged
        if not counts.sum():
            share = _positive_share(self.states)
            counts = self.unjudged[:, None] * np.stack([1 - share, share])
        groups = self.structure.groups
        flat = tuple(np.full((len(counts), 2, len(STATES) ** len(g)), float(len(STATES)) ** -len(g)) for g in groups)
        prior = counts.sum(axis=2) + 0.5
        blank = LatentModel(groups, prior / prior.sum(axis=1, keepdims=True), flat)
        one = self._maximize(counts, blank)
        tables = []
        for table in one.tables:
            told = table.mean(axis=1, keepdims=True)
            harder = [(1 - HARDER) ** c * table + (1 - (1 - HARDER) ** c) * told for c in range(size)]
            tables.append(np.stack(harder, axis=2).reshape(len(table), 2 * size, -1))
        weight = np.repeat(blank.weight, size, axis=1) / size
        return LatentModel(groups, weight, tuple(tables))

    def _expect(self, model: LatentModel) -> tuple[NDArray[np.float64], float]:
        """Return the expected counts by class, (K, 2 C, P), and the log-likelihood of all reports."""
        joint = model.log_joint(self.states)
        k, classes, patterns = joint.shape
        top = joint.max(axis=1, keepdims=True)
        p = np.exp(joint - top)
        both = p.sum(axis=1, keepdims=True)
        by_truth = p.reshape(k, 2, classes // 2, patterns)
        one = np.maximum(by_truth.sum(axis=2, keepdims=True), 1e-300)
        counts = self.unjudged[:, None] * p / both + (self.judged[:, :, None] * by_truth / one).reshape(k, classes, patterns)
        likelihood = (self.unjudged * (np.log(both) + top)[:, 0]).sum() + (self.judged * (np.log(one[:, :, 0]) + top)).sum()
        return counts, float(likelihood)

    def _maximize(self, counts: NDArray[np.float64], model: LatentModel) -> LatentModel:
        tables = []
        for table, spread, group in zip(model.tables, self.spread, self.structure.groups, strict=True):
            said = counts @ spread  # (K, 2 C, 5 ** g)
            said[..., -1] = 0  # a group that is silent tells nothing of its channel
            cells = _cells(len(group))
            full = table * ((said / (table @ cells.T)) @ cells)
            mean = full.sum(axis=0) + 2 / full.shape[2]
            mean /= mean.sum(axis=1, keepdims=True)
            full = full + PRIOR_ROWS * mean
            tables.append(full / full.sum(axis=2, keepdims=True))
        return LatentModel(self.structure.groups, self._weights(counts, model), tuple(tables))

    def _weights(self, counts: NDArray[np.float64], model: LatentModel) -> NDArray[np.float64]:
        """P(class): P(truth) from the reports without gold, the split of a truth into classes from all."""
        k, classes, _ = counts.shape
        split = counts.sum(axis=2).reshape(k, 2, classes // 2) + 2 * CLASS_ROWS / classes
        truth = split.sum(axis=2)
        if self.free:
            p = np.exp(model.log_truth(self.states))
            truth = (self.unjudged[:, None] * p / p.sum(axis=1, keepdims=True)).sum(axis=2)
        truth = truth + 0.5
        weight = split / split.sum(axis=2, keepdims=True) * (truth / truth.sum(axis=1, keepdims=True))[..., None]
        return np.asarray(weight.reshape(k, classes), np.float64)


def _positive_share(states: NDArray[np.int8]) -> NDArray[np.float64]:
    """How much the labelers lean to positive in each pattern, kept away from 0 and 1: (P, S) -> (P,)."""
    looked = (states != SILENT).sum(axis=1)
    leaning = (states == POSITIVE).sum(axis=1) + 0.5 * (states == UNCERTAIN).sum(axis=1)
    return np.asarray(np.clip(leaning / np.maximum(looked, 1), 0.02, 0.98), np.float64)


def search(
    folds: Sequence[Tally], least_groups: int = 1, most_classes: int = MOST_CLASSES
) -> tuple[Structure, list[tuple[Structure, float]]]:
    """Find who shares errors with whom, and whether some reports are harder than others, by held-out likelihood.

    It starts with independent labelers and one class a truth. Each step joins the two groups, or adds the class, that raises the
    log-likelihood of the held-out half most, until nothing raises it by ``STANDARD_ERRORS``.

    Args:
        folds: Counts of the two halves of the reports, over the same patterns.
        least_groups: Groups that must remain: three, where no gold tells the truth.
        most_classes: Classes a truth at the most: one, where no gold tells which truth a class belongs to.

    Returns:
        The structure, and each structure on the way with its held-out log-likelihood a report and finding, in nats.
    """
    labelers = folds[0].states.shape[1]
    best = Structure(tuple((s,) for s in range(labelers)))
    score = _held_out(folds, best)
    path = [(best, float(_mean(folds, score)))]
    while True:
        tried = [(structure, _held_out(folds, structure)) for structure in _richer(best, least_groups, most_classes)]
        gains = [(*_gain(folds, new, score), structure, new) for structure, new in tried]
        gains = [gain for gain in gains if gain[0] > STANDARD_ERRORS * gain[1]]
        if not gains:
            return best, path
        _, _, best, score = max(gains, key=lambda gain: gain[0])
        path.append((best, float(_mean(folds, score))))


def _richer(structure: Structure, least_groups: int, most_classes: int) -> Iterator[Structure]:
    if len(structure.groups) > least_groups:
        for one, other in combinations(structure.groups, 2):
            if len(one) + len(other) <= LARGEST_GROUP:
                rest = [group for group in structure.groups if group not in (one, other)]
                yield Structure(tuple(sorted([*rest, tuple(sorted(one + other))])), structure.classes)
    if structure.classes < most_classes:
        yield Structure(structure.groups, structure.classes + 1)


def _held_out(folds: Sequence[Tally], structure: Structure) -> NDArray[np.float64]:
    """Log-likelihood of each pattern under the model that the other half gave: (2 halves, K, 3 kinds of truth, P)."""
    out = []
    for held, other in ((0, 1), (1, 0)):
        model = fit(folds[other], structure, SEARCH_ITERATIONS)
        by_truth = model.log_truth(folds[held].states)
        out.append(np.concatenate([by_truth, _log_sum(by_truth, 1)[:, None]], axis=1))
    return np.array(out)


def _weights_of(folds: Sequence[Tally]) -> NDArray[np.float64]:
    return np.array([np.concatenate([f.judged, f.unjudged[:, None]], axis=1) for f in folds])


def _mean(folds: Sequence[Tally], score: NDArray[np.float64]) -> float:
    weight = _weights_of(folds)
    return float((weight * score).sum() / weight.sum())


def _gain(folds: Sequence[Tally], new: NDArray[np.float64], old: NDArray[np.float64]) -> tuple[float, float]:
    """The rise of the held-out log-likelihood and its standard error."""
    weight, difference = _weights_of(folds), new - old
    total = float((weight * difference).sum())
    return total, float(np.sqrt((weight * (difference - total / weight.sum()) ** 2).sum()))
