"""The metrics against scikit-learn, closed forms and a slow loop."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as reference

from labelers.metrics import EPSILON, average_precision, expected_calibration_error, f1, log_loss, roc_auc

Rows = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]


@st.composite
def rows(draw: st.DrawFn) -> Rows:
    """Truth, score with many ties, weight with zeros."""
    count = draw(st.integers(2, 40))
    truth = draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))
    score = draw(st.lists(st.integers(0, 8), min_size=count, max_size=count))
    weight = draw(st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=count, max_size=count))
    return np.array(truth), np.array(score) / 8, np.array(weight)


def both_classes(truth: NDArray[np.int64], weight: NDArray[np.float64]) -> bool:
    return bool(weight[truth == 1].sum() > 0 and weight[truth == 0].sum() > 0)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(average_precision, reference.average_precision_score), (roc_auc, reference.roc_auc_score)],
    ids=["average precision", "ROC AUC"],
)
@given(data=rows())
def test_ranking_against_scikit_learn(ours: Callable[..., float], theirs: Callable[..., float], data: Rows) -> None:
    truth, score, weight = data
    for w in (None, weight):
        weights = np.ones(len(truth)) if w is None else w
        if both_classes(truth, weights):
            assert ours(truth, score, w) == pytest.approx(theirs(truth, score, sample_weight=weights), abs=1e-9)
        elif ours is roc_auc or not weights[truth == 1].sum():
            assert math.isnan(ours(truth, score, w))


@given(data=rows())
def test_log_loss_against_scikit_learn(data: Rows) -> None:
    truth, score, weight = data
    clipped = np.clip(score, EPSILON, 1 - EPSILON)
    assert log_loss(truth, score) == pytest.approx(reference.log_loss(truth, clipped, labels=[0, 1]))
    if weight.sum():
        expected = reference.log_loss(truth, clipped, labels=[0, 1], sample_weight=weight)
        assert log_loss(truth, score, weight) == pytest.approx(expected)


def slow_ece(truth: NDArray[np.int64], probability: NDArray[np.float64], weight: NDArray[np.float64], bins: int) -> float:
    total = 0.0
    for b in range(bins):
        inside = [i for i, p in enumerate(probability) if b / bins <= p < (b + 1) / bins or (b == bins - 1 and p == 1.0)]
        mass = sum(weight[i] for i in inside)
        if mass:
            observed = sum(weight[i] * truth[i] for i in inside) / mass
            said = sum(weight[i] * probability[i] for i in inside) / mass
            total += mass * abs(observed - said)
    return float(total / weight.sum())


@given(data=rows(), bins=st.sampled_from([1, 4, 16]))
def test_ece_against_a_slow_loop(data: Rows, bins: int) -> None:
    truth, probability, weight = data
    ones = np.ones(len(truth))
    assert expected_calibration_error(truth, probability, bins) == pytest.approx(slow_ece(truth, probability, ones, bins))
    if weight.sum():
        slow = slow_ece(truth, probability, weight, bins)
        assert expected_calibration_error(truth, probability, bins, weight) == pytest.approx(slow)


def test_closed_forms() -> None:
    assert average_precision([1, 0, 1, 0], [4, 3, 2, 1]) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision([1, 0, 0, 0], [0, 0, 0, 0]) == pytest.approx(0.25), "all tied: the prevalence"
    assert roc_auc([1, 0], [0.5, 0.5]) == 0.5
    assert roc_auc([1, 1, 0, 0], [4, 2, 3, 1]) == 0.75
    assert log_loss([1, 0], [0.5, 0.5]) == pytest.approx(math.log(2))
    assert log_loss([1], [0.0]) == pytest.approx(-math.log(EPSILON)), "finite at a certain mistake"
    assert expected_calibration_error([1, 1, 0, 0], [0.5] * 4) == 0
    assert expected_calibration_error([0, 0], [1.0, 1.0]) == 1


def test_f1_from_counts() -> None:
    assert f1(3, 4, 6) == pytest.approx((0.75, 0.5, 0.6))
    assert f1(3, 4, 6)[2] == pytest.approx(reference.f1_score([1] * 6 + [0], [1] * 3 + [0] * 3 + [1]))
    precision, recall, score = f1(0, 0, 2)
    assert (math.isnan(precision), recall, score) == (True, 0, 0)
    assert all(math.isnan(value) for value in f1(0, 0, 0))


@pytest.mark.parametrize(
    ("metric", "truth", "score"),
    [
        (average_precision, [0, 0], [0.1, 0.2]),
        (average_precision, [], []),
        (roc_auc, [0, 0], [0.1, 0.2]),
        (roc_auc, [1, 1], [0.1, 0.2]),
        (roc_auc, [], []),
        (log_loss, [], []),
        (expected_calibration_error, [], []),
    ],
)
def test_what_is_not_defined_is_nan_without_a_warning(metric: Callable[..., float], truth: list[int], score: list[float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(metric(truth, score))


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="one shape"):
        roc_auc([1, 0], [0.5])


def test_a_score_that_is_not_known_has_no_rank() -> None:
    truth, score = [1, 0, 1], [math.nan, 0.2, 0.3]
    for metric in (average_precision, roc_auc, log_loss, expected_calibration_error):
        with np.errstate(invalid="ignore"):
            assert math.isnan(metric(truth, score))
