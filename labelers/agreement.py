"""How good labels are: scores of a LabelTable against gold, finding by finding."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelers.errors import InputError
from labelers.io.reading import Gold
from labelers.metrics import average_precision, expected_calibration_error, f1, log_loss
from labelers.types import POSITIVE, LabelTable

__all__ = ["FindingScore", "Scores", "align", "score"]

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
