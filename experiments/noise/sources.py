"""Labelers with known noise: how often they miss and invent, by what, and what they say of each study."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from patients import FINDINGS, Patients

from labelers.channel import ALL_DATASETS, Channel, ChannelSet
from labelers.types import NEGATIVE, POSITIVE, STATES, UNCERTAIN, UNMENTIONED

LEVELS = {"light": (0.08, 0.02), "medium": (0.20, 0.06), "strong": (0.33, 0.12)}
"""Share of the findings that are missed, and of the absent ones that are invented, by most of the labels; others vary around it by finding."""
KINDS = ("class-conditional", "image-dependent", "correlated")
LABELERS = ("rules", "second", "coder")
"""``rules`` reads 95 % of the studies; ``coder``, who errs a third as often, the other 5 % and 10 % of those of ``rules``; ``second``,
as good as ``rules``, reads those 10 % too, or all that ``rules`` reads where errors are correlated."""
SPREAD = 0.35
"""Standard deviation, between findings, of the log of a rate."""
HEDGED, INVENTED_HEDGED = 0.15, 0.25
"""Share of what is seen, and of what is invented, that is called uncertain."""
DENIED_MISS, DENIED = 0.3, 0.4
"""Share of what is missed, and of what is absent, that is denied and not passed over."""
BY_SEVERITY = (1.6, 0.9, 0.35)
"""How much more often than on average the subtle, the moderate and the obvious is missed, where noise depends on the image."""
BY_COMPANY = (0.6, 1.5)
"""How much more often something is invented beside no other finding, and beside one."""
COPIED = 0.6
"""Share of the cells in which ``second`` repeats ``rules``, where errors are correlated."""
CARELESS = (0.5, 1.5)
"""How much more often than on average is erred in one half of the studies and in the other, by all labelers, where errors are correlated."""


@dataclass(frozen=True)
class Noise:
    """The rates of one world of labelers.

    Attributes:
        kind: One of ``KINDS``.
        miss: P(missed | present), (S, K).
        invent: P(invented | absent), (S, K).
    """

    kind: str
    miss: NDArray[np.float64]
    invent: NDArray[np.float64]


def draw_noise(level: str, kind: str, rng: np.random.Generator) -> Noise:
    """Draw the rates of the three labelers."""
    miss, invent = LEVELS[level]
    skill = np.array([1, 1, 1 / 3])[:, None]
    vary = np.exp(rng.normal(0, SPREAD, (2, len(LABELERS), len(FINDINGS))))
    return Noise(kind, np.clip(miss * skill * vary[0], 0, 0.6), np.clip(invent * skill * vary[1], 0, 0.35))


def looked(studies: int, kind: str) -> NDArray[np.bool_]:
    """Return who reads which of the training studies, (S, N)."""
    place = np.arange(studies) / studies
    rules, both = place < 0.95, (place >= 0.85) & (place < 0.95)
    return np.stack([rules, rules if kind == "correlated" else both, place >= 0.85])


def speak(noise: Noise, patients: Patients, rng: np.random.Generator) -> NDArray[np.int8]:
    """Let every labeler read every study: codes of ``STATES``, (S, N, K)."""
    truth, shape = patients.truth, (len(LABELERS), *patients.truth.shape)
    miss, invent = _rates(noise, patients, rng)
    erred = rng.random(shape) < np.where(truth, miss, invent)
    called = truth ^ erred
    share = np.where(called, np.where(truth, HEDGED, INVENTED_HEDGED), np.where(truth, DENIED_MISS, DENIED))
    first = rng.random(shape) < share
    state = np.where(called, np.where(first, UNCERTAIN, POSITIVE), np.where(first, NEGATIVE, UNMENTIONED)).astype(np.int8)
    if noise.kind == "correlated":
        copied = rng.random(truth.shape) < COPIED
        state[1] = np.where(copied, state[0], state[1])
    return state


def _rates(noise: Noise, patients: Patients, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Chances to miss and to invent, each (S, N, K), whose means over the studies are the rates."""
    truth = patients.truth
    by_miss, by_invent = np.ones(truth.shape), np.ones(truth.shape)
    if noise.kind == "image-dependent":
        by_miss = np.where(truth, np.array(BY_SEVERITY)[np.maximum(patients.severity, 0)], 1.0)
        others = truth.sum(axis=1, keepdims=True) - truth > 0
        by_invent = np.where(others, BY_COMPANY[1], BY_COMPANY[0])
    if noise.kind == "correlated":
        by_miss = by_invent = np.array(CARELESS)[rng.integers(2, size=(len(truth), 1))] * np.ones(truth.shape)
    by_miss = by_miss / _mean(by_miss, truth)
    by_invent = by_invent / _mean(by_invent, ~truth)
    return np.clip(noise.miss[:, None] * by_miss, 0, 1), np.clip(noise.invent[:, None] * by_invent, 0, 1)


def _mean(values: NDArray[np.float64], where: NDArray[np.bool_]) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = (values * where).sum(axis=0) / np.maximum(where.sum(axis=0), 1)
    return np.where(mean > 0, mean, 1)


def state_chances(miss: ArrayLike, invent: ArrayLike) -> NDArray[np.float64]:
    """Return P(state | truth) of a labeler that misses and invents so often, (...) to (..., 2, 4)."""
    missed, invented = np.asarray(miss, np.float64), np.asarray(invent, np.float64)
    matrix = np.empty((*missed.shape, 2, len(STATES)))
    for row, called, hedged, denied in ((0, invented, INVENTED_HEDGED, DENIED), (1, 1 - missed, HEDGED, DENIED_MISS)):
        matrix[..., row, POSITIVE], matrix[..., row, UNCERTAIN] = called * (1 - hedged), called * hedged
        matrix[..., row, NEGATIVE], matrix[..., row, UNMENTIONED] = (1 - called) * denied, (1 - called) * (1 - denied)
    return matrix


def true_channels(noise: Noise, factor: float = 1.0) -> ChannelSet:
    """Return the channels of the labelers, with all rates of error multiplied by a factor."""
    miss = np.clip(noise.miss * factor, 1e-3, 0.9)
    invent = np.clip(noise.invent * factor, 1e-3, 0.9)
    matrix = state_chances(miss, invent)
    if noise.kind == "correlated":
        matrix[1] = COPIED * matrix[0] + (1 - COPIED) * matrix[1]
    none = np.zeros((2, len(STATES)), np.int64)
    channels = {
        name: {ALL_DATASETS: {finding: Channel(m, m, m, none) for finding, m in zip(FINDINGS, matrix[s], strict=True)}}
        for s, name in enumerate(LABELERS)
    }
    return ChannelSet(channels, {}, truth="images")
