"""Metrics of one binary finding: scores against truth, optionally with a weight a row (numpy, no dependencies).

Every function takes ``truth`` (N,) of 0 and 1 and ``score`` (N,), and returns a float; nan where the metric is not defined
because one class is missing, never an error, so that a finding with no known positive costs nobody their table.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["average_precision", "expected_calibration_error", "f1", "log_loss", "roc_auc"]

EPSILON = 1e-7
"""Probabilities are kept this far from 0 and 1 before a logarithm."""


def average_precision(truth: ArrayLike, score: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Area under the precision-recall curve by the step rule, ties taken together.

    Equals scikit-learn's ``average_precision_score``.

    Args:
        truth: 0 or 1, (N,).
        score: Any real number, higher means more likely present, (N,).
        weight: Non-negative weight a row, (N,); one each by default.

    Returns:
        A number in [0, 1]; nan without a positive, or where a score is nan.
    """
    tp, fp = _cumulative(truth, score, weight)
    if not len(tp) or tp[-1] == 0:
        return float("nan")
    precision = tp / np.maximum(tp + fp, np.finfo(float).tiny)
    return float(np.sum(np.diff(tp, prepend=0.0) * precision) / tp[-1])


def roc_auc(truth: ArrayLike, score: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Area under the ROC curve by trapezoids, ties counted one half; nan where a class is missing or a score is nan."""
    tp, fp = _cumulative(truth, score, weight)
    if not len(tp) or tp[-1] == 0 or fp[-1] == 0:
        return float("nan")
    heights = (tp + np.append(0.0, tp[:-1])) / 2
    return float(np.sum(np.diff(fp, prepend=0.0) * heights) / (tp[-1] * fp[-1]))


def log_loss(truth: ArrayLike, probability: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Mean negative log-likelihood in nats; nan for no rows.

    Args:
        truth: 0 or 1, (N,).
        probability: P(present) in [0, 1], kept ``EPSILON`` away from both ends, (N,).
        weight: Non-negative weight a row, (N,).
    """
    y, p, w = _rows(truth, probability, weight)
    if w.sum() == 0:
        return float("nan")
    p = np.clip(p, EPSILON, 1 - EPSILON)
    return float(np.average(-np.where(y > 0, np.log(p), np.log1p(-p)), weights=w))


def expected_calibration_error(
    truth: ArrayLike, probability: ArrayLike, bins: int = 15, weight: ArrayLike | None = None
) -> float:
    """Expected calibration error over equal-width bins (Guo et al. 2017, arXiv 1706.04599); nan for no rows.

    Args:
        truth: 0 or 1, (N,).
        probability: P(present) in [0, 1], (N,).
        bins: Number of bins that divide [0, 1].
        weight: Non-negative weight a row, (N,).
    """
    y, p, w = _rows(truth, probability, weight)
    if w.sum() == 0:
        return float("nan")
    index = np.clip((p * bins).astype(np.int64), 0, bins - 1)
    gap = np.bincount(index, weights=w * (y - p), minlength=bins)
    return float(np.abs(gap).sum() / w.sum())


def f1(true_positive: float, predicted: float, actual: float) -> tuple[float, float, float]:
    """Return (precision, recall, F1) from counts; nan where nothing was predicted, or nothing is there."""
    precision = true_positive / predicted if predicted else float("nan")
    recall = true_positive / actual if actual else float("nan")
    score = 2 * true_positive / (predicted + actual) if predicted + actual else float("nan")
    return precision, recall, score


def _rows(truth: ArrayLike, score: ArrayLike, weight: ArrayLike | None) -> tuple[NDArray[np.float64], ...]:
    y = np.asarray(truth, np.float64).ravel()
    s = np.asarray(score, np.float64).ravel()
    w = np.ones_like(y) if weight is None else np.asarray(weight, np.float64).ravel()
    if not y.shape == s.shape == w.shape:
        raise ValueError(f"truth, score and weight need one shape, got {y.shape}, {s.shape}, {w.shape}")
    return y, s, w


def _cumulative(truth: ArrayLike, score: ArrayLike, weight: ArrayLike | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return weighted true and false positives at every distinct threshold, highest score first; none where a score is nan."""
    y, s, w = _rows(truth, score, weight)
    order = np.argsort(-s, kind="stable")
    if len(s) and np.isnan(s[order[-1]]):  # sorted last; it is at no threshold
        return np.zeros(0), np.zeros(0)
    last = np.append(np.diff(s[order]) != 0, True)[: len(s)]
    tp = np.cumsum(w[order] * y[order])[last]
    fp = np.cumsum(w[order] * (1 - y[order]))[last]
    return tp, fp
