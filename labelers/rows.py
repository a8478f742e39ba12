"""Rows of a channel, P(state | truth) of one finding, estimated from counts: empirical Bayes over the findings of a labeler."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

__all__ = ["FLOOR", "PRIOR_ROWS", "intervals", "mean_row", "posterior_rows", "raise_to_floor"]

PRIOR_ROWS = 16.0
"""Weight of the labeler's mean row, in gold rows: raw counts explode on rare findings, the mean alone is as bad."""
FLOOR = 1e-3
"""Smallest entry, so that no state ever proves a truth."""
DRAWS = 1000
"""Draws behind an interval."""
WEIGHTS = np.geomspace(2.0, 200.0, 16)
"""Weights of the mean row that are thought possible: how alike findings are is itself uncertain."""
WIDTH = 1.0
"""Standard deviation of the log weight around ``PRIOR_ROWS``, before any count."""


def mean_row(pooled: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a labeler's mean row over findings from its pooled counts by truth and state: (2, 4) -> (2, 4), rows sum to one."""
    weight = pooled + 0.5
    return np.asarray(weight / weight.sum(axis=-1, keepdims=True), np.float64)


def posterior_rows(counts: NDArray[np.float64], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return posterior means under a Dirichlet prior centred on the mean row with the weight of ``PRIOR_ROWS`` rows.

    Args:
        counts: Gold rows by state, (..., 4).
        mean: The mean row, which may be broadcast, (..., 4).
    """
    weight = counts + PRIOR_ROWS * mean
    return raise_to_floor(weight / weight.sum(axis=-1, keepdims=True))


def raise_to_floor(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Raise small entries to ``FLOOR`` and scale the others down, so that rows keep their sum of one: (..., 4) -> (..., 4)."""
    low = np.zeros(matrix.shape, bool)
    while True:
        rest = np.where(low, 0.0, matrix)
        scale = (1 - FLOOR * low.sum(axis=-1, keepdims=True)) / rest.sum(axis=-1, keepdims=True)
        below = ~low & (rest * scale < FLOOR)
        if not below.any():
            return np.where(low, FLOOR, rest * scale)
        low |= below


def intervals(counts: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return 95 % credible intervals of a labeler's rows under one truth.

    The rows are Dirichlet around a mean row with some weight. Neither the mean nor the weight is known: both are drawn from what the
    counts of all findings leave possible, so that a rare finding has the interval of findings in general, not one too narrow.

    Args:
        counts: Gold rows by finding and state, (K, 4).

    Returns:
        Lower and upper ends, (K, 4) each; deterministic.
    """
    seen = counts.sum(axis=1)
    log_weight = np.empty(len(WEIGHTS))
    means = np.empty((len(WEIGHTS), counts.shape[1]))
    for i, weight in enumerate(WEIGHTS):
        alike = 1 / (1 + np.maximum(seen - 1, 0) / (weight + 1))  # rows of one finding are less than as many rows of any
        means[i] = (counts * alike[:, None]).sum(axis=0) + 0.5
        prior = weight * means[i] / means[i].sum()
        each = gammaln(weight) - gammaln(weight + seen) + (gammaln(prior + counts) - gammaln(prior)).sum(axis=1)
        log_weight[i] = each.sum() - ((np.log(weight) - np.log(PRIOR_ROWS)) / WIDTH) ** 2 / 2
    chance = np.exp(log_weight - log_weight.max())
    rng = np.random.default_rng(0)
    drawn = rng.choice(len(WEIGHTS), DRAWS, p=chance / chance.sum())
    mean = rng.standard_gamma(means[drawn])
    prior = WEIGHTS[drawn, None] * mean / mean.sum(axis=1, keepdims=True)
    rows = rng.standard_gamma(counts[None] + prior[:, None] + 1e-9)
    low, high = np.quantile(rows / rows.sum(axis=2, keepdims=True), [0.025, 0.975], axis=0)
    return low, high
