"""Rules that turn what several labelers say into P(present), and how each is fitted to counts of patterns of states."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from labelers.latent import LatentModel, Structure, fit
from labelers.rows import mean_row, posterior_rows
from labelers.types import NEGATIVE, POSITIVE, STATES, UNCERTAIN
from labelers.votes import SILENT, Tally

__all__ = ["FLOORS", "KINDS", "LARGEST_EXPONENT", "GoldCells", "Latent", "Product", "Rule", "fit_product", "regress"]

LARGEST_EXPONENT = 1.5
RIDGE = 1e-2
"""Weight of the pull of fitted coefficients towards their start, in squared units a fit."""


class Rule(Protocol):
    """A way from patterns of states to P(present)."""

    def posterior(self, states: NDArray[np.int8]) -> NDArray[np.float64]:
        """Return P(present) of patterns (P, S), (K, P)."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return the fitted numbers."""
        ...


@dataclass(frozen=True, eq=False)
class Latent:
    """The posterior of a latent class model."""

    model: LatentModel

    def posterior(self, states: NDArray[np.int8]) -> NDArray[np.float64]:
        """Return P(present) of patterns (P, S), (K, P)."""
        return self.model.posterior(states)

    def to_json(self) -> dict[str, Any]:
        """Return the fitted numbers."""
        return {
            "groups": [list(group) for group in self.model.groups],
            "weight": self.model.weight.tolist(),
            "tables": [table.tolist() for table in self.model.tables],
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Latent:
        """Read back what ``to_json`` wrote."""
        groups = tuple(tuple(int(s) for s in group) for group in body["groups"])
        tables = tuple(np.maximum(np.array(table, np.float64), 1e-12) for table in body["tables"])
        return cls(LatentModel(groups, np.maximum(np.array(body["weight"], np.float64), 1e-12), tables))


@dataclass(frozen=True, eq=False)
class Product:
    """Prior times the product of the labelers' likelihood ratios, each to a power, with a free intercept.

    Attributes:
        llr: log P(state | present) - log P(state | absent), 0 for ``SILENT``, (K, S, 5).
        prior: Log-odds of present, (K,).
        exponents: One a labeler, (S,).
        intercept: Added to the log-odds.
    """

    llr: NDArray[np.float64]
    prior: NDArray[np.float64]
    exponents: NDArray[np.float64]
    intercept: float = 0.0

    def posterior(self, states: NDArray[np.int8]) -> NDArray[np.float64]:
        """Return P(present) of patterns (P, S), (K, P)."""
        return _sigmoid(self.prior[:, None] + self.intercept + np.tensordot(self.exponents, self.evidence(states), 1))

    def evidence(self, states: NDArray[np.int8]) -> NDArray[np.float64]:
        """Return the log-likelihood ratios of each labeler before its power, (S, K, P)."""
        return np.array([self.llr[:, s, states[:, s]] for s in range(states.shape[1])])

    def to_json(self) -> dict[str, Any]:
        """Return the fitted numbers."""
        return {
            "llr": self.llr.tolist(),
            "prior": self.prior.tolist(),
            "exponents": self.exponents.tolist(),
            "intercept": self.intercept,
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Product:
        """Read back what ``to_json`` wrote."""
        llr, prior, exponents = (np.array(body[name], np.float64) for name in ("llr", "prior", "exponents"))
        return cls(llr, prior, exponents, float(body["intercept"]))


@dataclass(frozen=True, eq=False)
class Mean:
    """The mean of what each labeler's state says by itself, over the labelers that looked."""

    llr: NDArray[np.float64]
    prior: NDArray[np.float64]

    def posterior(self, states: NDArray[np.int8]) -> NDArray[np.float64]:
        """Return P(present) of patterns (P, S), (K, P)."""
        each = np.array([_sigmoid(self.prior[:, None] + self.llr[:, s, states[:, s]]) for s in range(states.shape[1])])
        looked = (states != SILENT).T[:, None, :]
        mean = (each * looked).sum(axis=0) / np.maximum(looked.sum(axis=0), 1)
        return np.asarray(np.where(looked.any(axis=0), mean, _sigmoid(self.prior)[:, None]), np.float64)

    def to_json(self) -> dict[str, Any]:
        """Return the fitted numbers."""
        return {"llr": self.llr.tolist(), "prior": self.prior.tolist()}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Mean:
        """Read back what ``to_json`` wrote."""
        return cls(np.array(body["llr"], np.float64), np.array(body["prior"], np.float64))


@dataclass(frozen=True, eq=False)
class Vote:
    """A vote calibrated on gold: the shares of positive, negative and uncertain among the labelers that looked, and the prior.

    Attributes:
        coefficients: Of one, prior log-odds, and the three shares, (5,).
        prior: Log-odds of present, (K,).
    """

    coefficients: NDArray[np.float64]
    prior: NDArray[np.float64]

    def posterior(self, states: NDArray[np.int8]) -> NDArray[np.float64]:
        """Return P(present) of patterns (P, S), (K, P)."""
        shared = self.coefficients[0] + _shares(states) @ self.coefficients[2:]
        return _sigmoid(self.coefficients[1] * self.prior[:, None] + shared[None])

    def to_json(self) -> dict[str, Any]:
        """Return the fitted numbers."""
        return {"coefficients": self.coefficients.tolist(), "prior": self.prior.tolist()}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Vote:
        """Read back what ``to_json`` wrote."""
        return cls(np.array(body["coefficients"], np.float64), np.array(body["prior"], np.float64))


def _shares(states: NDArray[np.int8]) -> NDArray[np.float64]:
    looked = np.maximum((states != SILENT).sum(axis=1, keepdims=True), 1)
    counts = np.stack([(states == code).sum(axis=1) for code in (POSITIVE, NEGATIVE, UNCERTAIN)], axis=1)
    return np.asarray(counts / looked, np.float64)


def _sigmoid(logit: Any) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-np.clip(logit, -700, 700))), np.float64)


@dataclass(frozen=True, eq=False)
class GoldCells:
    """Gold rows as every fit needs them, with each row's own count taken out of what is used to judge it.

    A channel that was estimated from a row knows that row, so exponents fitted on both at once trust it too much.

    Attributes:
        tally: Counts of patterns of S labelers' states, for K findings.
        counts: Gold rows by finding, labeler, truth and state, (K, S, 2, 4).
        present: Those in which the finding is present, (K,).
        known: All of them, (K,).
    """

    tally: Tally
    counts: NDArray[np.float64] = field(init=False)
    present: NDArray[np.float64] = field(init=False)
    known: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        states, judged = self.tally.states, self.tally.judged
        one = np.eye(SILENT + 1)[:, : len(STATES)]
        counts = np.stack([judged @ one[states[:, s]] for s in range(states.shape[1])], axis=1)  # (K, S, 2, 4)
        object.__setattr__(self, "counts", counts)
        object.__setattr__(self, "present", judged[:, 1].sum(axis=1))
        object.__setattr__(self, "known", judged.sum(axis=(1, 2)))

    @property
    def prior(self) -> NDArray[np.float64]:
        """Log-odds of present with Jeffreys' prior, (K,)."""
        return np.asarray(np.log(self.present + 0.5) - np.log(self.known - self.present + 0.5), np.float64)

    def llr(self) -> NDArray[np.float64]:
        """Log-likelihood ratio of each state, 0 for silence, (K, S, 5)."""
        rows = np.stack([posterior_rows(self.counts[:, s], self._mean(s)) for s in range(self.counts.shape[1])], axis=1)
        ratio = np.log(rows[:, :, 1]) - np.log(rows[:, :, 0])
        return np.concatenate([ratio, np.zeros((*ratio.shape[:2], 1))], axis=2)

    def _mean(self, labeler: int) -> NDArray[np.float64]:
        return mean_row(self.counts[:, labeler].sum(axis=0))

    def cells(
        self,
    ) -> tuple[
        NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.int8], NDArray[np.int64]
    ]:
        """The judged cells as (weight, truth, leave-one-out prior, leave-one-out evidence (cells, S), states (cells, S), finding)."""
        finding, truth, pattern = np.nonzero(self.tally.judged)
        weight = self.tally.judged[finding, truth, pattern]
        states = self.tally.states[pattern]
        present = self.present[finding] - truth
        prior = np.log(present + 0.5) - np.log(self.known[finding] - 1 - present + 0.5)
        evidence = np.zeros(states.shape)
        for s in range(states.shape[1]):
            looked = states[:, s] != SILENT
            code = np.where(looked, states[:, s], 0)
            one = self.counts[finding, s]  # (cells, 2, 4)
            one[np.arange(len(one)), truth, code] -= looked
            rows = posterior_rows(one, self._mean(s))
            ratio = np.log(rows[:, 1]) - np.log(rows[:, 0])
            evidence[:, s] = np.where(looked, ratio[np.arange(len(ratio)), code], 0.0)
        return weight, truth.astype(np.float64), prior, evidence, states, finding


def regress(
    features: NDArray[np.float64],
    offset: NDArray[np.float64],
    truth: NDArray[np.float64],
    weight: NDArray[np.float64],
    start: NDArray[np.float64],
    bounds: Sequence[tuple[float | None, float | None]],
    ridge: float = RIDGE,
) -> NDArray[np.float64]:
    """Logistic regression with an offset, bounds, and a pull towards the start of weight ``ridge`` in squared units a fit."""

    def loss(b: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        z = offset + features @ b
        pull = b - start
        value = (weight * (np.logaddexp(0, z) - truth * z)).sum() + ridge / 2 * pull @ pull
        return float(value), features.T @ (weight * (_sigmoid(z) - truth)) + ridge * pull

    return np.asarray(minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x, np.float64)


def _fit_product(gold: GoldCells) -> Product:
    weight, truth, prior, evidence, _, _ = gold.cells()
    labelers = evidence.shape[1]
    features = np.column_stack([np.ones(len(truth)), evidence])
    start = np.r_[0.0, np.full(labelers, 1 / max(labelers, 1))]
    b = regress(features, prior, truth, weight, start, [(None, None), *[(0.0, LARGEST_EXPONENT)] * labelers])
    return Product(gold.llr(), gold.prior, b[1:], float(b[0]))


def fit_product(votes: Tally) -> Product:
    """Fit the product with exponents in [0, 1.5] and a free intercept to the gold rows, each judged by channels without itself."""
    return _fit_product(GoldCells(votes))


def _plain_product(gold: GoldCells) -> Product:
    return Product(gold.llr(), gold.prior, np.ones(gold.counts.shape[1]))


def _best_single(gold: GoldCells) -> Product:
    weight, truth, prior, evidence, _, _ = gold.cells()
    losses = [(weight * (np.logaddexp(0, z) - truth * z)).sum() for z in (prior[:, None] + evidence).T]
    return Product(gold.llr(), gold.prior, np.eye(len(losses))[int(np.argmin(losses))])


def _fit_vote(gold: GoldCells) -> Vote:
    weight, truth, prior, _, states, _ = gold.cells()
    features = np.column_stack([np.ones(len(truth)), prior, _shares(states)])
    b = regress(features, np.zeros(len(truth)), truth, weight, np.array([0, 1, 1, -1, 0], np.float64), [(None, None)] * 5)
    return Vote(b, gold.prior)


def _dawid_skene(votes: Tally) -> Latent:
    labelers = votes.states.shape[1]
    blind = Tally(votes.states, votes.unjudged + votes.judged.sum(axis=1), np.zeros_like(votes.judged))
    return Latent(fit(blind, Structure(tuple((s,) for s in range(labelers)))))


FLOORS: Mapping[str, Callable[[Tally], Rule]] = {
    "calibrated vote": lambda votes: _fit_vote(GoldCells(votes)),
    "mean": lambda votes: Mean(GoldCells(votes).llr(), GoldCells(votes).prior),
    "best single labeler": lambda votes: _best_single(GoldCells(votes)),
    "plain product": lambda votes: _plain_product(GoldCells(votes)),
    "plain Dawid-Skene": _dawid_skene,
}
"""What a fused table must not fall behind, by name."""
KINDS: Mapping[str, type[Latent] | type[Product] | type[Mean] | type[Vote]] = {
    "latent classes": Latent,
    "product with exponents": Product,
    "calibrated vote": Vote,
    "mean": Mean,
    "best single labeler": Product,
    "plain product": Product,
    "plain Dawid-Skene": Latent,
}
