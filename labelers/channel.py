"""The noise model of a labeler: P(state | truth), finding by finding, estimated from gold, or from agreement where there is none.

A channel is a 2 x 4 matrix, row 0 for absent and row 1 for present, columns in the order of ``STATES``, rows summing to one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelers.agreement import NO_FINDING, align
from labelers.errors import InputError
from labelers.fusion import Fusion, fit_fusion
from labelers.io.files import atomic_path
from labelers.io.reading import Gold
from labelers.io.text import decode
from labelers.latent import LatentModel, Structure, fit
from labelers.pool import Pool, fit_pool
from labelers.rows import intervals, mean_row, posterior_rows, raise_to_floor
from labelers.rules import Latent
from labelers.types import POSITIVE, STATES, LabelTable
from labelers.votes import SILENT, Tally, Votes, collect_votes, find_patterns, gold_truth, tally

__all__ = ["ALL_DATASETS", "Channel", "ChannelSet", "channel_information", "estimate_channels", "read_channels"]

VERSION = 1
ALL_DATASETS = "*"
TRUTHS = ("reports", "images", "agreement")
"""What the truth was read from; the last where nobody judged it, and it was inferred from the labelers' agreement."""
RESAMPLES = 60
"""Resampled sets of reports behind the intervals of channels without gold."""
RESAMPLE_ITERATIONS = 30


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
        truth: What the gold was read from: ``reports`` (the channel measures the labeler) or ``images`` (also what reports omit);
            ``agreement`` without gold.
        fusion: How the labelers' states are joined, where there are several.
        pool: How far their channels add up where several looked; None without gold, or for one labeler.
    """

    channels: Mapping[str, Mapping[str, Mapping[str, Channel]]]
    prior: Mapping[str, float]
    refused: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    truth: str = "reports"
    fusion: Fusion | None = None
    pool: Pool | None = None

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
                labeler: {
                    d: {f: _to_json(c, self.prior.get(f)) for f, c in by_finding.items()} for d, by_finding in by_dataset.items()
                }
                for labeler, by_dataset in self.channels.items()
            },
            "refused": {labeler: dict(reasons) for labeler, reasons in self.refused.items()},
            "prior": dict(self.prior),
            "fusion": None if self.fusion is None else self.fusion.to_json(),
            "pool": None if self.pool is None else self.pool.to_json(),
        }
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


def _to_json(channel: Channel, prior: float | None) -> dict[str, Any]:
    return {
        "matrix": channel.matrix.round(6).tolist(),
        "low": channel.low.round(6).tolist(),
        "high": channel.high.round(6).tolist(),
        "counts": channel.counts.tolist(),
        "bits": None if prior is None else round(channel_information(channel.matrix, prior), 6),
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
        fusion = None if body.get("fusion") is None else Fusion.from_json(body["fusion"])
        pool = None if body.get("pool") is None else Pool.from_json(body["pool"])
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); write it with 'labelers noise'") from None
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        raise InputError(
            f"{path}: expected the channels that 'labelers noise' writes, found another layout; write it again"
        ) from None
    if version != VERSION or states != list(STATES):
        raise InputError(f"{path}: expected version {VERSION} with the states {', '.join(STATES)}, got another; write it again")
    if truth not in TRUTHS:
        raise InputError(f"{path}, truth: expected one of {', '.join(TRUTHS)}; write it again")
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
    return ChannelSet(channels, prior, refused, truth, fusion, pool)


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


def estimate_channels(tables: Sequence[LabelTable], gold: Gold | None, truth: str = "reports") -> ChannelSet:
    """Estimate the channel of each table's labeler, and how several of them are best joined.

    With gold each row is a posterior mean under a Dirichlet prior centred on the labeler's mean row over findings with the weight of
    ``PRIOR_ROWS`` gold rows, and a channel in which ``positive`` is no likelier when the finding is present is refused. Without gold
    the truth is inferred from the agreement of three labelers or more (Dawid and Skene 1979), siblings found and joined; nothing in
    the data can show that the rest do not share errors too.

    Args:
        tables: One table a labeler, over one vocabulary (``votes.common_findings``).
        gold: A few hundred judged reports; None to go by agreement.
        truth: What the gold was read from, ``reports`` or ``images``.

    Raises:
        InputError: Two tables of one labeler, a table that shares no report or finding with the gold, or fewer than three tables
            without gold.
    """
    sources = [table.source for table in tables]
    for source in sources:
        if sources.count(source) > 1:
            raise InputError(f"two tables are by the labeler '{source}'; give each labeler one table")
    if gold is None:
        return _from_agreement(tables)
    channels: dict[str, dict[str, dict[str, Channel]]] = {}
    refused: dict[str, dict[str, str]] = {}
    for table in tables:
        names, state, _, y = align(table, gold)
        channels[table.source], refused[table.source] = {}, {}
        channels[table.source][ALL_DATASETS], refused[table.source] = _channels_of(names, count_states(state, y))
    fusion = pool = None
    if len(tables) > 1:
        votes = collect_votes(tables, [name for name in gold.findings if any(name in table.vocabulary for table in tables)])
        judged = gold_truth(votes, gold)
        fusion = fit_fusion(votes, judged)
        told = [[name in channels[labeler][ALL_DATASETS] for name in votes.findings] for labeler in votes.labelers]
        pool = fit_pool(tally(find_patterns(votes.state), judged), votes.labelers, votes.findings, np.array(told, bool))
    return ChannelSet(channels, gold_prior(gold), refused, truth, fusion, pool)


def _from_agreement(tables: Sequence[LabelTable]) -> ChannelSet:
    votes = collect_votes(tables)
    fusion = fit_fusion(votes, None)
    assert isinstance(fusion.rule, Latent)
    model = fusion.rule.model
    drawn = _resampled(votes, model)
    channels: dict[str, dict[str, dict[str, Channel]]] = {}
    refused: dict[str, dict[str, str]] = {}
    nothing = np.zeros((2, len(STATES)), np.int64)
    for s, labeler in enumerate(votes.labelers):
        matrices = raise_to_floor(model.channel(s))
        low, high = np.quantile([one.channel(s) for one in drawn], [0.025, 0.975], axis=0)
        kept: dict[str, Channel] = {}
        refused[labeler] = {}
        for k, name in enumerate(votes.findings):
            if (votes.state[s, :, k] == SILENT).all():
                continue
            if matrices[k, 1, POSITIVE] <= matrices[k, 0, POSITIVE]:
                refused[labeler][name] = "'positive' is no likelier when the finding is present"
                continue
            ends = np.minimum(low[k], matrices[k]), np.maximum(high[k], matrices[k])
            kept[name] = Channel(matrices[k], *ends, nothing)
        channels[labeler] = {ALL_DATASETS: kept}
    prior = {name: round(float(p), 6) for name, p in zip(votes.findings, model.prior, strict=True)}
    return ChannelSet(channels, prior, refused, TRUTHS[2], fusion)


def _resampled(votes: Votes, model: LatentModel) -> list[LatentModel]:
    """Models of reports drawn with replacement, each started from the model of all."""
    patterns = find_patterns(votes.state)
    counts = tally(patterns, np.full(patterns.index.shape, np.nan, np.float32))
    rng = np.random.default_rng(0)
    reports = counts.unjudged.sum(axis=1)
    out = []
    for _ in range(RESAMPLES):
        drawn = np.array([rng.multinomial(int(n), row / n) for n, row in zip(reports, counts.unjudged, strict=True)])
        again = Tally(counts.states, drawn.astype(np.float64), counts.judged)
        out.append(fit(again, Structure(model.groups, model.classes), RESAMPLE_ITERATIONS, model))
    return out


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
    pooled = counts[[k for k, n in enumerate(names) if n != NO_FINDING] or slice(None)].sum(axis=0)  # that is no finding
    matrices = posterior_rows(counts.astype(np.float64), mean_row(pooled))
    ends = [intervals(counts[:, y].astype(np.float64)) for y in (0, 1)]
    low, high = (np.stack([end[side] for end in ends], axis=1) for side in (0, 1))
    kept: dict[str, Channel] = {}
    refused: dict[str, str] = {}
    for k, name in enumerate(names):
        matrix = matrices[k]
        if matrix[1, POSITIVE] <= matrix[0, POSITIVE]:
            refused[name] = "'positive' is no likelier when the finding is present"
            continue
        kept[name] = Channel(matrix, np.minimum(low[k], matrix), np.maximum(high[k], matrix), counts[k])
    return kept, refused


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
