"""Votes of known truth: labelers with known channels, siblings that copy each other, reports that are hard for all, and silence.

What estimators are held against: the generator knows the posterior that the states allow, so that an estimate can be compared with the
best that anybody could say, and not only with the truth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labelers.types import STATES
from labelers.votes import SILENT, Votes

__all__ = ["Simulation", "simulate_votes"]

SPREAD = 30.0
"""How alike a labeler's findings are: weight of its own mean row in the Dirichlet that each finding's row is drawn from."""
SMALLEST = 1e-3
"""Smallest entry of a channel."""


@dataclass(frozen=True, eq=False)
class Simulation:
    """Votes and what is known of them.

    Attributes:
        votes: The states of S labelers for N reports and K findings.
        truth: 1 present, 0 absent, (N, K) float32.
        posterior: P(present) given the states of that report and finding, with everything about the generator known, (N, K).
        channels: P(state | truth), over easy and hard reports, (S, K, 2, 4).
        prevalence: P(present), (K,).
    """

    votes: Votes
    truth: NDArray[np.float32]
    posterior: NDArray[np.float64]
    channels: NDArray[np.float64]
    prevalence: NDArray[np.float64]


def simulate_votes(
    reports: int,
    seed: int,
    *,
    findings: int = 14,
    labelers: int = 5,
    shared: float = 0.0,
    hard: float = 0.0,
    silent: float = 0.0,
    prevalence: tuple[float, float] = (0.01, 0.3),
    spread: float = SPREAD,
) -> Simulation:
    """Draw votes.

    Every labeler has a sensitivity in [.6, .9], false findings in [.01, .06] and its own use of the four states, which vary by finding. The
    last labeler is a sibling of the one before it: it says the same for a share of the cells, and else judges by itself.

    Args:
        reports: N.
        seed: Of everything.
        findings: K, with prevalences evenly spaced in the logarithm.
        labelers: S, two or more.
        shared: Share of the cells in which the sibling copies, in [0, 1].
        hard: How much of what the labelers know is lost on the harder half of the reports, in [0, 1); the easier half makes up for it.
        silent: Share of the reports that each labeler does not look at, in [0, 1).
        prevalence: Lowest and highest.
        spread: How alike a labeler's findings are, in reports.
    """
    rng = np.random.default_rng(seed)
    rate = rng.permutation(np.geomspace(*prevalence, findings))
    own = np.array([_channels(rng, findings, spread) for _ in range(labelers)])  # (S, K, 2, 4)
    blurred = (1 - hard) * own + hard * own.mean(axis=2, keepdims=True)
    sharp = np.maximum(2 * own - blurred, SMALLEST / 10)
    levels = [sharp / sharp.sum(axis=3, keepdims=True), blurred] if hard else [own]
    truth = rng.random((reports, findings)) < rate
    level = rng.integers(0, len(levels), reports)
    state = np.stack([_draw(rng, np.stack(levels)[level, s], truth) for s in range(labelers)])
    copies = rng.random((reports, findings)) < shared
    state[-1] = np.where(copies, state[-2], state[-1])
    state[np.repeat(rng.random((labelers, reports, 1)) < silent, findings, axis=2)] = SILENT
    joint = np.mean([_likelihood(channels, state, shared) for channels in levels], axis=0)
    present, absent = rate * joint[..., 1], (1 - rate) * joint[..., 0]
    channels = np.mean(levels, axis=0)
    channels[-1] = shared * channels[-2] + (1 - shared) * channels[-1]
    votes = Votes(
        np.array([f"R{i}" for i in range(reports)], object),
        tuple(f"labeler{s}" for s in range(labelers)),
        tuple(f"finding{k}" for k in range(findings)),
        state,
    )
    return Simulation(votes, truth.astype(np.float32), present / (present + absent), channels, rate)


def _channels(rng: np.random.Generator, findings: int, spread: float) -> NDArray[np.float64]:
    """One labeler's channels: its mean rows, and each finding's drawn around them; (K, 2, 4)."""
    sensitivity, unsure = rng.uniform(0.6, 0.9), rng.uniform(0.03, 0.1)
    wrong, denied = rng.uniform(0.01, 0.06), rng.uniform(0.2, 0.6)
    missed = 1 - sensitivity - unsure
    present = [sensitivity, 0.2 * missed, unsure, 0.8 * missed]
    absent = [wrong, denied, unsure / 3, 1 - wrong - denied - unsure / 3]
    rows = np.array([[rng.dirichlet(spread * np.array(row) + 0.05) for row in (absent, present)] for _ in range(findings)])
    rows = np.maximum(rows, SMALLEST)
    return np.asarray(rows / rows.sum(axis=2, keepdims=True), np.float64)


def _draw(rng: np.random.Generator, channels: NDArray[np.float64], truth: NDArray[np.bool_]) -> NDArray[np.int8]:
    """Draw states by the channel of each report and finding: (N, K, 2, 4) and (N, K) -> (N, K)."""
    rows = np.take_along_axis(channels, truth[..., None, None].astype(np.int64), axis=2)[:, :, 0]
    above = rng.random(truth.shape)[..., None] > np.cumsum(rows, axis=2)
    return np.asarray(above.sum(axis=2).clip(0, len(STATES) - 1), np.int8)


def _likelihood(channels: NDArray[np.float64], state: NDArray[np.int8], shared: float) -> NDArray[np.float64]:
    """P(the states of all labelers | truth), (N, K, 2), what silent ones would have said summed out."""
    finding = np.arange(state.shape[2])
    said = np.concatenate([channels, np.ones((*channels.shape[:3], 1))], axis=3)
    each = [said[s][finding, :, state[s]] for s in range(len(state))]  # (N, K, 2)
    alone = np.prod(each[:-2], axis=0) if len(each) > 2 else np.ones_like(each[0])
    one, other = state[-2], state[-1]
    copied = (
        said[-2][finding, :, np.where(one == SILENT, other, one)]
        * ((one == other) | (one == SILENT) | (other == SILENT))[..., None]
    )
    return np.asarray(alone * (shared * copied + (1 - shared) * each[-2] * each[-1]), np.float64)
