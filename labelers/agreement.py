"""How good labels are, finding by finding: scores of a LabelTable against gold, and how far several tables agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelers.errors import InputError
from labelers.io.reading import Gold
from labelers.metrics import average_precision, expected_calibration_error, f1, log_loss
from labelers.types import NEGATIVE, POSITIVE, STATES, UNMENTIONED, LabelTable
from labelers.votes import SILENT, Votes, collect_votes

__all__ = ["Agreement", "FindingScore", "PairAgreement", "Scores", "agreement", "align", "score", "shared_errors"]

MACRO_POSITIVES = 5
"""A finding counts in the macro figures from this many gold positives."""
NO_FINDING = "No Finding"
MEASURES = ("precision", "recall", "f1", "auprc", "nll", "ece")


@dataclass(frozen=True)
class FindingScore:
    """Scores of one finding: state ``positive`` against gold, and the probability's AUPRC, NLL (nats) and ECE."""

    finding: str
    known: int
    positives: int
    predicted: int
    true_positives: int
    precision: float
    recall: float
    f1: float
    auprc: float
    nll: float
    ece: float


@dataclass(frozen=True)
class Scores:
    """Scores of a table.

    Attributes:
        reports: Ids that stand in both the table and the gold.
        without_label: Ids of the gold that the table lacks.
        findings: One entry a finding that both have, in the gold's order.
        macro: Unweighted mean over findings with five positives or more, No Finding left out; the precision of a finding that
            was never predicted counts as 0. All nan without such a finding.
        micro: Precision, recall and F1 over all cells, No Finding left out.
    """

    reports: int
    without_label: int
    findings: tuple[FindingScore, ...]
    macro: dict[str, float] = field(default_factory=dict)
    micro: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for JSON, nan as None."""
        return {
            "reports": self.reports,
            "without_label": self.without_label,
            "findings": {s.finding: {k: _plain(v) for k, v in asdict(s).items() if k != "finding"} for s in self.findings},
            "macro": {k: _plain(v) for k, v in self.macro.items()},
            "micro": {k: _plain(v) for k, v in self.micro.items()},
        }


def _plain(value: float) -> float | None:
    return None if value != value else value


def align(table: LabelTable, gold: Gold) -> tuple[tuple[str, ...], NDArray[np.int8], NDArray[np.float32], NDArray[np.float32]]:
    """Cut table and gold to the reports and findings that both have.

    Returns:
        The K common findings in the gold's order, the states (R, K), the probabilities (R, K) and the truth (R, K; nan where
        not judged) of the R common reports.

    Raises:
        InputError: No report, or no finding, stands in both.
    """
    row = {report_id: r for r, report_id in enumerate(table.report_ids)}
    pairs = [(row[i], g) for g, i in enumerate(gold.report_ids) if i in row]
    if not pairs:
        raise InputError(
            f"labels and gold share no report id ({len(table)} against {len(gold.report_ids)}); check that both use the same ids"
        )
    names = tuple(n for n in gold.findings if n in table.vocabulary)
    if not names:
        raise InputError(
            f"labels and gold share no finding; the gold has {', '.join(gold.findings[:5])} ..., "
            f"the labels have {', '.join(table.vocabulary.names[:5])} ...; rename the gold's columns"
        )
    r, g = (np.array(p) for p in zip(*pairs, strict=True))
    columns = np.array([table.vocabulary.index(n) for n in names])
    truth = gold.truth[np.ix_(g, np.array([gold.findings.index(n) for n in names]))]
    return names, table.state[np.ix_(r, columns)], table.probability[np.ix_(r, columns)], truth


def score(table: LabelTable, gold: Gold) -> Scores:
    """Score a table against gold on the reports and findings that both have.

    Raises:
        InputError: They share no report or no finding.
    """
    names, state, probability, truth = align(table, gold)
    findings = tuple(_score_finding(n, state[:, k], probability[:, k], truth[:, k]) for k, n in enumerate(names))
    counted = [s for s in findings if s.finding != NO_FINDING]
    enough = [s for s in counted if s.positives >= MACRO_POSITIVES]
    macro = {m: float(np.mean([np.nan_to_num(getattr(s, m)) for s in enough])) if enough else np.nan for m in MEASURES}
    sums = [sum(getattr(s, n) for s in counted) for n in ("true_positives", "predicted", "positives")]
    micro = dict(zip(("precision", "recall", "f1"), f1(*sums), strict=True))
    return Scores(len(state), len(gold.report_ids) - len(state), findings, macro, micro)


def _score_finding(
    name: str, state: NDArray[np.int8], probability: NDArray[np.float32], truth: NDArray[np.float32]
) -> FindingScore:
    known = ~np.isnan(truth)
    y, p, said = truth[known], probability[known], state[known] == POSITIVE
    hits = int(y[said].sum())
    precision, recall, f1_score = f1(hits, int(said.sum()), int(y.sum()))
    return FindingScore(
        finding=name,
        known=int(known.sum()),
        positives=int(y.sum()),
        predicted=int(said.sum()),
        true_positives=hits,
        precision=precision,
        recall=recall,
        f1=f1_score,
        auprc=average_precision(y, p),
        nll=log_loss(y, p),
        ece=expected_calibration_error(y, p),
    )


@dataclass(frozen=True)
class PairAgreement:
    """How far two labelers agree on one finding, over the reports that both have.

    Attributes:
        labelers: The two.
        finding: The finding.
        reports: Reports that both looked at.
        overlap: Share of them of which both said something.
        conflict: Share of them in which one says positive and the other negative.
        kappa: Cohen's kappa of the four states; nan where either never varies.
    """

    labelers: tuple[str, str]
    finding: str
    reports: int
    overlap: float
    conflict: float
    kappa: float


@dataclass(frozen=True)
class Agreement:
    """How far several tables agree.

    Attributes:
        coverage: By labeler and finding, the share of its reports of which it said something.
        pairs: One entry a pair of labelers and finding that both have.
        conflicts: Reports in which some labeler says positive and another negative: (id, findings), those with most first.
    """

    coverage: dict[str, dict[str, float]]
    pairs: tuple[PairAgreement, ...]
    conflicts: tuple[tuple[str, tuple[str, ...]], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for JSON, nan as None."""
        return {
            "coverage": self.coverage,
            "pairs": [{**asdict(pair), "kappa": _plain(pair.kappa)} for pair in self.pairs],
            "conflicts": [{"report_id": report_id, "findings": list(findings)} for report_id, findings in self.conflicts],
        }


def agreement(tables: Sequence[LabelTable]) -> Agreement:
    """Compare tables with each other.

    Args:
        tables: Two or more, one a labeler, over one vocabulary (``votes.common_findings``).
    """
    votes = collect_votes(tables)
    state = votes.state
    coverage: dict[str, dict[str, float]] = {}
    for s, labeler in enumerate(votes.labelers):
        looked, said = (state[s] != SILENT).sum(axis=0), (state[s] < UNMENTIONED).sum(axis=0)
        coverage[labeler] = {name: float(a / n) for name, a, n in zip(votes.findings, said, looked, strict=True) if n}
    pairs = [pair for one, other in combinations(range(len(tables)), 2) for pair in _pairs(votes, one, other)]
    against = (state == POSITIVE).any(axis=0) & (state == NEGATIVE).any(axis=0)
    count = against.sum(axis=1)
    worst = np.argsort(-count, kind="stable")[: int((count > 0).sum())]
    conflicts = tuple(
        (str(votes.report_ids[r]), tuple(votes.findings[k] for k in np.flatnonzero(against[r]))) for r in worst.tolist()
    )
    return Agreement(coverage, tuple(pairs), conflicts)


def _pairs(votes: Votes, one: int, other: int) -> list[PairAgreement]:
    tables = _cross_tables(votes.state[one], votes.state[other])
    names = (votes.labelers[one], votes.labelers[other])
    found = []
    for finding, counts in zip(votes.findings, tables, strict=True):
        n = counts.sum()
        if n:
            conflict = counts[POSITIVE, NEGATIVE] + counts[NEGATIVE, POSITIVE]
            overlap = counts[:UNMENTIONED, :UNMENTIONED].sum()
            found.append(PairAgreement(names, finding, int(n), float(overlap / n), float(conflict / n), _kappa(counts)))
    return found


def _cross_tables(one: NDArray[np.int8], other: NDArray[np.int8]) -> NDArray[np.float64]:
    """Count pairs of states by finding where both looked: (N, K) twice -> (K, 4, 4)."""
    size = SILENT + 1
    code = one.astype(np.int64) * size + other
    counts = np.array([np.bincount(column, minlength=size * size).reshape(size, size) for column in code.T], np.float64)
    return counts.reshape(-1, size, size)[:, : len(STATES), : len(STATES)]


def _kappa(counts: NDArray[np.float64]) -> float:
    n = counts.sum()
    expected = float(counts.sum(axis=1) @ counts.sum(axis=0)) / n**2
    return float("nan") if expected >= 1 else (float(np.trace(counts)) / n - expected) / (1 - expected)


def shared_errors(votes: Votes, truth: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return how much more alike two labelers are than their channels explain: 0 for independent errors, 1 for one labeler twice.

    Cohen's kappa inside each finding and truth, pooled by adding up what was observed and what was expected.

    Args:
        votes: The states of S labelers for N reports and K findings.
        truth: 1, 0, or nan where not judged, (N, K).

    Returns:
        A symmetric matrix with ones on its diagonal, (S, S); nan for two that share no judged report.
    """
    size = len(votes.labelers)
    shared = np.eye(size)
    for one, other in combinations(range(size), 2):
        seen = chance = total = 0.0
        for y in (0, 1):
            judged = truth == y
            counts = _cross_tables(
                np.where(judged, votes.state[one], SILENT).astype(np.int8),
                np.where(judged, votes.state[other], SILENT).astype(np.int8),
            )
            n = counts.sum(axis=(1, 2))
            seen += float(np.trace(counts, axis1=1, axis2=2).sum())
            chance += float(((counts.sum(axis=2) * counts.sum(axis=1)).sum(axis=1) / np.maximum(n, 1)).sum())
            total += float(n.sum())
        shared[one, other] = shared[other, one] = (seen - chance) / (total - chance) if total > chance else np.nan
    return shared
