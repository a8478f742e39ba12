"""How the places of one report become one label per finding."""

from __future__ import annotations

import numpy as np
import pytest

from labelers.soften import FINDINGS_RANK, GENERAL_RANK, IMPRESSION_RANK, UNMENTIONED_PROBABILITY, Places, soften
from labelers.types import NEGATIVE, POSITIVE, STATES, UNCERTAIN, UNMENTIONED, LabelTable, binary_entropy
from labelers.vocabulary import load_vocabulary

LEXICON = load_vocabulary()
F, IMP, G = FINDINGS_RANK, IMPRESSION_RANK, GENERAL_RANK
Place = tuple[str, int, float, int]


def merged(*places: Place, read: bool = True) -> LabelTable:
    index = [LEXICON.vocabulary.index(name) for name, *_ in places]
    n = len(places)
    table = Places(
        row=np.zeros(n, np.int64),
        finding=np.array(index, np.int64),
        start=np.arange(n, dtype=np.int64),
        end=np.arange(1, n + 1, dtype=np.int64),
        state=np.array([p[1] for p in places], np.int8),
        probability=np.array([p[2] for p in places], np.float64),
        cue=np.zeros(n, np.int64),
        rank=np.array([p[3] for p in places], np.int8),
    )
    return soften(["r"], np.array([read]), table, ("affirmed",), LEXICON, "test", "1")


CASES: list[tuple[list[Place], str, str, float]] = [
    ([], "Edema", "unmentioned", UNMENTIONED_PROBABILITY),
    ([("Atelectasis", POSITIVE, 0.95, F)], "Atelectasis", "positive", 0.95),
    ([("Atelectasis", POSITIVE, 0.8, F), ("Atelectasis", POSITIVE, 0.95, F)], "Atelectasis", "positive", 0.95),
    ([("Atelectasis", POSITIVE, 0.95, F), ("Atelectasis", NEGATIVE, 0.02, F)], "Atelectasis", "positive", 0.95),
    ([("Atelectasis", UNCERTAIN, 0.5, F), ("Atelectasis", NEGATIVE, 0.02, F)], "Atelectasis", "uncertain", 0.5),
    ([("Atelectasis", POSITIVE, 0.95, F), ("Atelectasis", NEGATIVE, 0.02, IMP)], "Atelectasis", "negative", 0.02),
    ([("Atelectasis", UNCERTAIN, 0.5, F), ("Atelectasis", POSITIVE, 0.95, IMP)], "Atelectasis", "positive", 0.95),
    ([("Atelectasis", POSITIVE, 0.95, F), ("Atelectasis", NEGATIVE, 0.03, G)], "Atelectasis", "positive", 0.95),
    ([("Nodule", POSITIVE, 0.95, F)], "Lung Lesion", "positive", 0.95),
    ([("Nodule", POSITIVE, 0.8, F), ("Lung Lesion", POSITIVE, 0.95, F)], "Lung Lesion", "positive", 0.95),
    ([("Nodule", POSITIVE, 0.95, F), ("Lung Lesion", NEGATIVE, 0.02, F)], "Lung Lesion", "positive", 0.95),
    ([("Nodule", UNCERTAIN, 0.5, F)], "Lung Lesion", "uncertain", 0.5),
    ([("Nodule", UNCERTAIN, 0.5, F), ("Lung Lesion", POSITIVE, 0.95, F)], "Lung Lesion", "positive", 0.95),
    ([("Nodule", NEGATIVE, 0.02, F)], "Lung Lesion", "negative", 0.02),
    ([("Nodule", NEGATIVE, 0.02, IMP), ("Lung Lesion", POSITIVE, 0.95, F)], "Lung Lesion", "positive", 0.95),
    ([("Calcified Granuloma", NEGATIVE, 0.02, F)], "Granuloma (any)", "unmentioned", UNMENTIONED_PROBABILITY),
    ([("Lung Lesion", POSITIVE, 0.95, F)], "Nodule", "unmentioned", UNMENTIONED_PROBABILITY),
    ([("Consolidation", POSITIVE, 0.95, F)], "Lung Opacity", "unmentioned", UNMENTIONED_PROBABILITY),
    ([("Edema", NEGATIVE, 0.02, F)], "No Finding", "positive", 0.95),
    ([("Edema", POSITIVE, 0.95, F)], "No Finding", "negative", 0.05),
    ([("Edema", UNCERTAIN, 0.5, F)], "No Finding", "uncertain", 0.5),
    ([("Cardiomegaly", UNCERTAIN, 0.2, F)], "No Finding", "positive", 0.95),
    ([("No Finding", POSITIVE, 0.96, G), ("Edema", POSITIVE, 0.95, F)], "No Finding", "negative", 0.05),
    ([("No Finding", NEGATIVE, 0.05, F)], "No Finding", "negative", 0.05),
]


@pytest.mark.parametrize(("places", "finding", "state", "probability"), CASES)
def test_merge(places: list[Place], finding: str, state: str, probability: float) -> None:
    table = merged(*places)
    k = LEXICON.vocabulary.index(finding)
    assert STATES[table.state[0, k]] == state
    assert table.probability[0, k] == pytest.approx(probability, abs=1e-6)


def test_unread_report_is_unmentioned() -> None:
    assert (merged(read=False).state == UNMENTIONED).all()


def test_conflict_raises_uncertainty_above_the_entropy() -> None:
    k = LEXICON.vocabulary.index("Edema")
    plain = merged(("Edema", POSITIVE, 0.95, F))
    conflict = merged(("Edema", POSITIVE, 0.95, F), ("Edema", NEGATIVE, 0.02, F))
    assert plain.uncertainty[0, k] == pytest.approx(binary_entropy(np.array([0.95]))[0], abs=1e-6)
    assert plain.uncertainty[0, k] < conflict.uncertainty[0, k] <= 1


def test_evidence_is_sorted_and_reaches_the_parent() -> None:
    table = merged(("Nodule", POSITIVE, 0.95, F), ("Edema", NEGATIVE, 0.02, IMP), ("Nodule", NEGATIVE, 0.02, F))
    assert (np.diff(table.evidence.cell) >= 0).all()
    places = table.evidence.at(LEXICON.vocabulary.index("Lung Lesion"))
    assert [place["state"] for place in places] == ["positive", "negative"]
