"""The noise model of a labeler: P(state | truth), finding by finding, estimated from gold.

A channel is a 2 x 4 matrix, row 0 for absent and row 1 for present, columns in the order of ``STATES``, rows summing to one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from labelers.agreement import NO_FINDING, align
from labelers.errors import InputError
from labelers.io.files import atomic_path
from labelers.io.reading import Gold
from labelers.io.text import decode
from labelers.types import POSITIVE, STATES, LabelTable

__all__ = ["ALL_DATASETS", "Channel", "ChannelSet", "channel_information", "estimate_channels", "read_channels"]

VERSION = 1
ALL_DATASETS = "*"
TRUTHS = ("reports", "images")
"""What gold was read from."""
PRIOR_ROWS = 16.0
"""Weight of the labeler's mean row, in gold rows: raw counts explode on rare findings, the mean alone is as bad."""
FLOOR = 1e-3
"""Smallest entry, so that no state ever proves a truth."""


@dataclass(frozen=True, eq=False)
class Channel:
    """P(state | truth) of one labeler and finding.

    Attributes:
        matrix: Rows absent, present; columns by ``STATES``; rows sum to one, entries at least ``FLOOR``, (2, 4) float64.
        low: Lower end of the 95 % interval of each entry, (2, 4).
        high: Upper end, (2, 4).
        counts: Gold rows behind it, by truth and state, (2, 4) int64.
    """

    matrix: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    counts: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ChannelSet:
    """The content of a CHANNELS.json.

    Attributes:
        channels: By labeler, data set ("*" for all) and finding.
        prior: P(present) by finding; kept apart because gold may be enriched.
        refused: By labeler and finding, why no channel was kept.
        truth: What the gold was read from: ``reports`` (the channel measures the labeler) or ``images`` (also what reports omit).
    """

    channels: Mapping[str, Mapping[str, Mapping[str, Channel]]]
    prior: Mapping[str, float]
    refused: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    truth: str = "reports"

    def find(self, labeler: str, dataset: str, finding: str) -> Channel | None:
        """Return the channel of a labeler for a finding: the data set's own, else that of all data sets, else None."""
        by_dataset = self.channels.get(labeler, {})
        return by_dataset.get(dataset, {}).get(finding) or by_dataset.get(ALL_DATASETS, {}).get(finding)

    def write(self, path: str | Path) -> None:
        """Write CHANNELS.json, whole or not at all."""
        body = {
            "version": VERSION,
            "states": list(STATES),
            "truth": self.truth,
            "channels": {
                labeler: {dataset: {f: _to_json(c) for f, c in by_finding.items()} for dataset, by_finding in by_dataset.items()}
                for labeler, by_dataset in self.channels.items()
            },
            "refused": {labeler: dict(reasons) for labeler, reasons in self.refused.items()},
            "prior": dict(self.prior),
        }
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


def _to_json(channel: Channel) -> dict[str, Any]:
    return {
        "matrix": channel.matrix.round(6).tolist(),
        "low": channel.low.round(6).tolist(),
        "high": channel.high.round(6).tolist(),
        "counts": channel.counts.tolist(),
    }


def read_channels(path: str | Path) -> ChannelSet:
    """Read a CHANNELS.json.

    Raises:
        InputError: No such file, no JSON, another version or order of states, or a matrix that is no channel.
    """
    path = Path(path)
    try:
        body = json.loads(decode(path.read_bytes(), path))
        version, states, truth = body["version"], list(body["states"]), body.get("truth", TRUTHS[0])
        channels = {
            labeler: {d: {f: _from_json(c) for f, c in by_finding.items()} for d, by_finding in by_dataset.items()}
            for labeler, by_dataset in body["channels"].items()
        }
        prior = {str(f): float(p) for f, p in body["prior"].items()}
        refused = {labeler: {f: str(r) for f, r in reasons.items()} for labeler, reasons in body.get("refused", {}).items()}
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); write it with 'labelers noise'") from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise InputError(
            f"{path}: expected the channels that 'labelers noise' writes, found another layout; write it again"
        ) from None
    if version != VERSION or states != list(STATES):
        raise InputError(f"{path}: expected version {VERSION} with the states {', '.join(STATES)}, got another; write it again")
    if truth not in TRUTHS:
        raise InputError(f"{path}, truth: expected {' or '.join(TRUTHS)}; write it again")
    for labeler, by_dataset in channels.items():
        for by_finding in by_dataset.values():
            for finding, channel in by_finding.items():
                if not _is_channel(channel):
                    raise InputError(
                        f"{path}, {labeler}, {finding}: expected a 2 x 4 matrix of positive numbers whose rows sum to one; write it again"
                    )
    for finding, p in prior.items():
        if not 0 <= p <= 1:
            raise InputError(f"{path}, prior of {finding}: expected a number in [0, 1]; write it again")
    return ChannelSet(channels, prior, refused, truth)


def _is_channel(channel: Channel) -> bool:
    """Whether every part is 2 x 4 and finite, and the rows of the matrix are distributions without a zero (nan is none)."""
    m, low, high, counts = channel.matrix, channel.low, channel.high, channel.counts
    shaped = all(part.shape == (2, 4) and np.isfinite(part).all() for part in (m, low, high, counts))
    return shaped and bool((m > 0).all() and (m <= 1).all() and (np.abs(m.sum(axis=1) - 1) <= 1e-3).all() and (counts >= 0).all())


def _from_json(body: dict[str, Any]) -> Channel:
    return Channel(
        np.array(body["matrix"], np.float64),
        np.array(body["low"], np.float64),
        np.array(body["high"], np.float64),
        np.array(body["counts"], np.int64),
    )


def estimate_channels(tables: list[LabelTable], gold: Gold, truth: str = "reports") -> ChannelSet:
    """Estimate the channel of each table's labeler from gold.

    Each row is a posterior mean under a Dirichlet prior centred on the labeler's mean row over findings with the weight of
    ``PRIOR_ROWS`` gold rows. A channel in which ``positive`` is no likelier when the finding is present is refused.

    Args:
        tables: One table a labeler.
        gold: A few hundred judged reports.
        truth: What the gold was read from, ``reports`` or ``images``.

    Raises:
        InputError: Two tables of one labeler, or a table that shares no report or finding with the gold.
    """
    channels: dict[str, dict[str, dict[str, Channel]]] = {}
    refused: dict[str, dict[str, str]] = {}
    for table in tables:
        if table.source in channels:
            raise InputError(f"two tables are by the labeler '{table.source}'; give each labeler one table")
        names, state, _, y = align(table, gold)
        counts = count_states(state, y)
        kept, reasons = _channels_of(names, counts)
        channels[table.source] = {ALL_DATASETS: kept}
        refused[table.source] = reasons
    return ChannelSet(channels, gold_prior(gold), refused, truth)


def count_states(state: NDArray[np.int8], truth: NDArray[np.float32]) -> NDArray[np.int64]:
    """Count gold cells by finding, truth and state: (R, K) and (R, K) with nan -> (K, 2, 4)."""
    counts = np.zeros((state.shape[1], 2, len(STATES)), np.int64)
    for y in (0, 1):
        for s in range(len(STATES)):
            counts[:, y, s] = ((truth == y) & (state == s)).sum(axis=0)
    return counts


def gold_prior(gold: Gold) -> dict[str, float]:
    """P(present) by finding with Jeffreys' prior, over the judged rows."""
    present = np.nansum(gold.truth, axis=0)
    known = (~np.isnan(gold.truth)).sum(axis=0)
    return {n: round(float((p + 0.5) / (k + 1)), 6) for n, p, k in zip(gold.findings, present, known, strict=True)}


def _channels_of(names: tuple[str, ...], counts: NDArray[np.int64]) -> tuple[dict[str, Channel], dict[str, str]]:
    mean = _mean_rows(names, counts)
    kept: dict[str, Channel] = {}
    refused: dict[str, str] = {}
    for name, n in zip(names, counts, strict=True):
        weight = n + PRIOR_ROWS * mean
        matrix = raise_to_floor(weight / weight.sum(axis=1, keepdims=True))
        if matrix[1, POSITIVE] <= matrix[0, POSITIVE]:
            refused[name] = "'positive' is no likelier when the finding is present"
            continue
        low, high = _intervals(weight)
        kept[name] = Channel(matrix, np.minimum(low, matrix), np.maximum(high, matrix), n)
    return kept, refused


def raise_to_floor(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Raise small entries to ``FLOOR`` and scale the others down, so that rows keep their sum of one: (R, 4) -> (R, 4)."""
    low = np.zeros(matrix.shape, bool)
    while True:
        rest = np.where(low, 0.0, matrix)
        scale = (1 - FLOOR * low.sum(axis=1, keepdims=True)) / rest.sum(axis=1, keepdims=True)
        below = ~low & (rest * scale < FLOOR)
        if not below.any():
            return np.where(low, FLOOR, rest * scale)
        low |= below


def _mean_rows(names: tuple[str, ...], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """The labeler's mean row over findings, (2, 4); No Finding is left out, it is no finding."""
    pooled = counts[[k for k, n in enumerate(names) if n != NO_FINDING] or slice(None)].sum(axis=0)
    weight = pooled + 0.5
    return np.asarray(weight / weight.sum(axis=1, keepdims=True), np.float64)


def _intervals(weight: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """95 % intervals of a Dirichlet's entries, each marginally a beta."""
    rest = weight.sum(axis=1, keepdims=True) - weight
    return betaincinv(weight, rest, 0.025), betaincinv(weight, rest, 0.975)


def channel_information(matrix: NDArray[np.float64], prior: float) -> float:
    """Mutual information in bits between truth and state.

    Args:
        matrix: A channel, (2, 4).
        prior: P(present), in [0, 1].

    Returns:
        A number in [0, 1]: 0 for a state that tells nothing, the entropy of the prior for a perfect labeler.
    """
    joint = np.array([1 - prior, prior])[:, None] * matrix
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(joint > 0, joint * (np.log2(matrix) - np.log2(joint.sum(axis=0))), 0.0)
    return float(terms.sum())
