"""Metrics of each finding, with intervals from resampled patients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hybridpt.evaluation.table import Row
from labelers.metrics import average_precision, expected_calibration_error, log_loss, roc_auc

__all__ = ["METRICS", "classification_rows"]

RESAMPLES = 200
DEFINED = 0.95
"""Share of the resamples in which a metric must be defined for its interval to be given; with fewer, as for one positive, it would lie."""
LARGEST = {"auprc": 1.0, "auroc": 1.0, "nll": np.inf, "ece": 1.0, "prevalence": 1.0}
MACRO_METRICS = ("auprc", "auroc", "nll", "ece")

Metric = Callable[[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]], float]


def _prevalence(truth: NDArray[np.float64], score: NDArray[np.float64], weight: NDArray[np.float64]) -> float:
    return float(np.average(truth, weights=weight)) if weight.sum() else float("nan")


METRICS: dict[str, Metric] = {
    "auprc": lambda y, p, w: average_precision(y, p, w),
    "auroc": lambda y, p, w: roc_auc(y, p, w),
    "nll": lambda y, p, w: log_loss(y, p, w),
    "ece": lambda y, p, w: expected_calibration_error(y, p, weight=w),
    "prevalence": _prevalence,
}


def classification_rows(
    truth: NDArray[np.float32],
    probability: NDArray[np.float32],
    patient: NDArray[np.int64],
    findings: tuple[str, ...],
    about: Row,
    seed: int = 0,
) -> list[Row]:
    """Score N studies on K findings; a finding without known truth gets nan, never an error.

    Args:
        truth: 1 present, 0 absent, nan not known, (N, K).
        probability: P(present), (N, K).
        patient: Number of the patient of each study, (N,); intervals resample patients, since a patient's studies resemble
            each other.
        findings: K names.
        about: What the rows share; finding, metric, value, low, high and n are filled in.
        seed: Seed of the resampling.

    Returns:
        One row a finding and metric with a 95 % interval (nan where too few resamples define the metric), then ``macro``, the mean over
        the findings where the metric is defined. The interval is the percentile one less the bias of the bootstrap (Efron & Tibshirani
        1993, chapter 10): patients who are drawn twice raise AUPRC and ECE, and the mean over findings would keep that bias while it
        narrows the spread.
    """
    judged = ~np.isnan(truth).all(axis=1)
    truth, probability = truth[judged], probability[judged]
    weights = _weights(np.unique(patient[judged], return_inverse=True)[1], seed)
    values = np.full((len(METRICS), len(weights), len(findings)), np.nan)
    for k in range(len(findings)):
        known = ~np.isnan(truth[:, k])
        y, p = truth[known, k].astype(np.float64), probability[known, k].astype(np.float64)
        for m, metric in enumerate(METRICS.values()):
            values[m, :, k] = [metric(y, p, w[known]) for w in weights]
    known_counts = (~np.isnan(truth)).sum(axis=0)
    rows = []
    for m, name in enumerate(METRICS):
        for k, finding in enumerate(findings):
            rows.append(_row(about, finding, name, values[m, :, k], int(known_counts[k])))
        if name in MACRO_METRICS:
            rows.append(_row(about, "macro", name, _mean(values[m]), len(truth)))
    return rows


def _weights(patient: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """How often each study counts: once, then by drawing as many patients as there are, with replacement; (1 + RESAMPLES, N)."""
    number = int(patient.max()) + 1 if len(patient) else 0
    whole = np.ones((1, len(patient)))
    if not number:
        return whole
    draws = np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), size=RESAMPLES)
    return np.concatenate([whole, draws[:, patient]])


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the findings that are defined on the whole set, (R, K) to (R,)."""
    defined = values[:, ~np.isnan(values[0])]
    counts = (~np.isnan(defined)).sum(axis=1)
    return np.where(counts > 0, np.nansum(defined, axis=1) / np.maximum(counts, 1), np.nan)


def _row(about: Row, finding: str, metric: str, values: NDArray[np.float64], n: int) -> Row:
    resampled = values[1:][~np.isnan(values[1:])]
    enough = len(values) > 1 and len(resampled) >= DEFINED * (len(values) - 1)
    low, high = np.nan, np.nan
    if enough:
        bias = resampled.mean() - values[0]
        low, high = (max(0.0, float(end - bias)) for end in np.quantile(resampled, [0.025, 0.975]))
    return about._replace(finding=finding, metric=metric, value=float(values[0]), low=low, high=min(high, LARGEST[metric]), n=n)
