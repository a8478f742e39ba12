"""What each place asserts, with the cue that decided and the probability that the wording conveys."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from labelers.assertions import POSITIVE_FROM, Reader
from labelers.cues import load_cues
from labelers.types import NEGATIVE, POSITIVE, STATES, UNCERTAIN
from labelers.vocabulary import load_vocabulary

LEXICON = load_vocabulary()
CUES = load_cues()
READER = Reader(LEXICON, CUES)

CASES = [
    ("Effusion.", "Pleural Effusion", "positive", "affirmed"),
    ("No effusion.", "Pleural Effusion", "negative", "no"),
    ("Effusion is not identified.", "Pleural Effusion", "negative", "not seen"),
    ("Effusion has resolved.", "Pleural Effusion", "negative", "resolved"),
    ("No large effusion.", "Pleural Effusion", "negative", "limited denial"),
    ("No new effusion.", "Pleural Effusion", "negative", "no new"),
    ("Effusion is unlikely.", "Pleural Effusion", "negative", "unlikely"),
    ("Possible effusion.", "Pleural Effusion", "uncertain", "possible"),
    ("Effusion cannot be excluded.", "Pleural Effusion", "uncertain", "not excluded"),
    ("Cannot exclude effusion.", "Pleural Effusion", "uncertain", "cannot exclude"),
    ("Effusion versus scarring.", "Pleural Effusion", "uncertain", "versus"),
    ("Effusion versus scarring.", "Scarring", "uncertain", "versus"),
    ("Atelectasis or scarring.", "Scarring", "uncertain", "alternatives"),
    ("Likely effusion.", "Pleural Effusion", "positive", "likely"),
    ("Probable effusion.", "Pleural Effusion", "positive", "probable"),
    ("Opacity consistent with pneumonia.", "Pneumonia", "positive", "consistent with"),
    ("Opacity suspicious for pneumonia.", "Pneumonia", "uncertain", "suspicious for"),
    ("History of pneumonia.", "Pneumonia", "negative", "history of"),
    ("History of COPD.", "Emphysema/COPD", "positive", "history of"),
    ("Heart size is normal.", "Cardiomegaly", "negative", "normal"),
    ("Heart size is at the upper limits of normal.", "Cardiomegaly", "uncertain", "borderline"),
    ("No acute osseous abnormality.", "Fracture", "negative", "no abnormality"),
    ("No acute cardiopulmonary process.", "No Finding", "positive", "no abnormality"),
    ("No change in the effusion.", "Pleural Effusion", "positive", "affirmed"),
]


class Assertion(NamedTuple):
    finding: int
    start: int
    end: int
    state: int
    probability: float
    cue: str


def assertions(text: str) -> list[Assertion]:
    columns = READER.read([text])[1:7]  # without the attributes
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [Assertion(*rest, cue=READER.cue_names[cue]) for *rest, cue in rows]


@pytest.mark.parametrize(("text", "finding", "state", "cue"), CASES)
def test_cue(text: str, finding: str, state: str, cue: str) -> None:
    found = [a for a in assertions(text) if LEXICON.vocabulary.names[a.finding] == finding]
    assert {(STATES[a.state], a.cue) for a in found} == {(state, cue)}


def test_probability_follows_the_strength_of_the_words() -> None:
    texts = (
        "Effusion.",
        "Findings consistent with effusion.",
        "Likely effusion.",
        "Probable effusion.",
        "Suspected effusion.",
        "Possible effusion.",
        "Cannot exclude effusion.",
        "Effusion is unlikely.",
        "No definite effusion.",
        "No effusion.",
    )
    probabilities = [assertions(text)[0].probability for text in texts]
    assert probabilities == sorted(probabilities, reverse=True)
    assert len(set(probabilities)) == len(probabilities)


def test_states_agree_with_probabilities() -> None:
    for text, *_ in CASES:
        for a in assertions(text):
            assert a.state in (POSITIVE, NEGATIVE, UNCERTAIN)
            assert (a.state == POSITIVE) == (a.probability >= POSITIVE_FROM)
            assert a.state != NEGATIVE or a.probability <= 0.25


def test_every_cue_is_whole() -> None:
    scopes = {"forward", "backward", "forward_first", "backward_first", "both", "alternatives"}
    for cue in CUES.cues:
        assert isinstance(cue.name, str)
        assert cue.name
        assert cue.effect in {"negative", "uncertain", "positive", "affirmed", "historical"}
        assert cue.scope in scopes
        assert cue.reach in {"", "next", "adjacent", "part", "list", "statement"}
        assert 0 < cue.probability < 1
