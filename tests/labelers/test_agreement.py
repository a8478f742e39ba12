"""Scores of a table against gold, worked out by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from labelers import Gold, InputError, LabelTable, Vocabulary, score
from labelers.agreement import align
from labelers.types import NEGATIVE, POSITIVE, UNCERTAIN, UNMENTIONED

P, N, U, X = POSITIVE, NEGATIVE, UNCERTAIN, UNMENTIONED
NAN = math.nan


def table(findings: list[str], states: list[list[int]], ids: list[str] | None = None) -> LabelTable:
    ids = [str(i) for i in range(len(states))] if ids is None else ids
    return LabelTable.from_states(ids, Vocabulary.of(findings), np.array(states), "me", probability=(0.9, 0.1, 0.5, 0.2))


def gold(findings: list[str], truth: list[list[float]], ids: list[str] | None = None) -> Gold:
    ids = [str(i) for i in range(len(truth))] if ids is None else ids
    return Gold(np.array(ids, object), tuple(findings), np.array(truth, np.float32))


def test_one_finding_by_hand() -> None:
    truth = [[1.0], [1.0], [1.0], [0.0], [0.0], [NAN]]
    scores = score(table(["Edema"], [[P], [U], [N], [P], [X], [P]]), gold(["Edema"], truth))
    edema = scores.findings[0]
    assert (edema.known, edema.positives, edema.predicted, edema.true_positives) == (5, 3, 2, 1)
    assert (edema.precision, edema.recall, edema.f1) == pytest.approx((1 / 2, 1 / 3, 2 / 5))
    # scores .9 .5 .1 | .9 .2: at .9 one of two, at .5 two of three, at .1 three of five
    assert edema.auprc == pytest.approx((1 / 2 + 2 / 3 + 3 / 5) / 3)
    assert edema.nll == pytest.approx(-(math.log(0.9 * 0.5 * 0.1 * 0.1 * 0.8)) / 5, rel=1e-5)
    # one bin holds both .9 (one true: gap .8); .5 -> .5, .1 -> .9, .2 -> .2
    assert edema.ece == pytest.approx((0.8 + 0.5 + 0.9 + 0.2) / 5, rel=1e-5)
    assert scores.reports == 6


def test_rows_are_matched_by_id_and_columns_by_name() -> None:
    labels = table(["Mass", "Edema"], [[N, P], [N, N], [N, P]], ["c", "a", "unread"])
    truth = gold(["Edema", "Fracture"], [[0.0, 1.0], [1.0, 1.0], [1.0, 1.0]], ["a", "c", "missing"])
    names, state, probability, y = align(labels, truth)
    assert names == ("Edema",)
    assert state.tolist() == [[N], [P]]
    assert probability[:, 0] == pytest.approx([0.1, 0.9])
    assert y.tolist() == [[0], [1]]
    scores = score(labels, truth)
    assert (scores.reports, scores.without_label) == (2, 1)
    assert scores.findings[0].f1 == 1


def test_macro_counts_findings_with_five_positives_and_micro_all_both_without_no_finding() -> None:
    names = ["No Finding", "Edema", "Mass", "Fracture"]
    truth = np.zeros((10, 4))
    truth[:9, 0] = truth[:5, 1] = truth[:4, 2] = truth[:6, 3] = 1
    states = np.full((10, 4), N)
    states[5:, 0] = P  # would spoil everything if it counted
    states[:5, 1] = P  # perfect
    states[9:, 2] = P  # useless, but too rare for the macro figures
    # Fracture is never predicted: its precision counts as 0
    scores = score(table(names, states.tolist()), gold(names, truth.tolist()))
    by_name = {s.finding: s for s in scores.findings}
    assert math.isnan(by_name["Fracture"].precision)
    assert scores.macro["precision"] == pytest.approx((1 + 0) / 2)
    assert scores.macro["recall"] == pytest.approx((1 + 0) / 2)
    assert scores.macro["f1"] == pytest.approx((1 + 0) / 2)
    assert scores.macro["auprc"] == pytest.approx((1 + 0.6) / 2)
    assert scores.macro["nll"] == pytest.approx((by_name["Edema"].nll + by_name["Fracture"].nll) / 2)
    assert scores.micro["precision"] == pytest.approx(5 / 6)
    assert scores.micro["recall"] == pytest.approx(5 / 15)
    assert scores.micro["f1"] == pytest.approx(2 * 5 / (6 + 15))


def test_what_is_not_defined_is_null_in_json() -> None:
    scores = score(table(["Edema", "Mass"], [[N, N]]), gold(["Edema", "Mass"], [[NAN, 0.0]]))
    body = json.loads(json.dumps(scores.to_dict(), allow_nan=False))
    assert body["findings"]["Edema"] == {
        "known": 0,
        "positives": 0,
        "predicted": 0,
        "true_positives": 0,
        **dict.fromkeys(("precision", "recall", "f1", "auprc", "nll", "ece")),
    }
    assert body["findings"]["Mass"]["auprc"] is None
    assert body["findings"]["Mass"]["nll"] == pytest.approx(-math.log(0.9))
    assert body["macro"] == dict.fromkeys(("precision", "recall", "f1", "auprc", "nll", "ece"))
    assert body["micro"] == dict.fromkeys(("precision", "recall", "f1"))


def test_nothing_in_common_is_an_error() -> None:
    labels = table(["Edema"], [[P]], ["Xylophonist"])
    with pytest.raises(InputError, match=r"share no report id \(1 against 1\)"):
        score(labels, gold(["Edema"], [[1.0]], ["b"]))
    with pytest.raises(InputError, match="share no finding; the gold has Oedema"):
        score(labels, gold(["Oedema"], [[1.0]], ["Xylophonist"]))
