"""Where sentences name findings, with exact offsets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelers.clauses import find_mentions
from labelers.cues import load_cues
from labelers.mentions import Matcher
from labelers.vocabulary import load_vocabulary

LEXICON = load_vocabulary()
MATCHER = Matcher.of(LEXICON, load_cues().phrases)

CASES: list[tuple[str, set[tuple[str, str]]]] = [
    ("Large effusion.", {("Pleural Effusion", "effusion")}),
    ("Bilateral pleural effusions.", {("Pleural Effusion", "pleural effusions")}),
    ("PLEURAL\n  EFFUSION", {("Pleural Effusion", "PLEURAL\n  EFFUSION")}),
    ("air-space disease", {("Airspace Disease", "air-space disease")}),
    ("İ effusion", {("Pleural Effusion", "effusion")}),
    ("\U0001f600 Effusion\u00a0", {("Pleural Effusion", "Effusion")}),
    ("effusional", set()),
    ("massive hemorrhage", {("Pulmonary Hemorrhage", "hemorrhage")}),
    ("pericardial effusion", {("Pericardial Effusion", "pericardial effusion")}),
    ("subcutaneous emphysema", {("Subcutaneous Emphysema", "subcutaneous emphysema")}),
    ("breast mass", {("Breast Mass", "breast mass")}),
    (
        "compression fracture",
        {(name, "compression fracture") for name in ("Vertebral Compression/Deformity", "Vertebral Fracture", "Fracture")},
    ),
    ("heart is mildly enlarged", {("Cardiomegaly", "heart is mildly enlarged")}),
    ("enlargement of the heart", {("Cardiomegaly", "enlargement of the heart")}),
    ("hemidiaphragms are flattened", {("Flattened Diaphragm", "hemidiaphragms are flattened")}),
    ("blunting of the right costophrenic angle", {("Blunted Costophrenic Angle", "blunting of the right costophrenic angle")}),
    ("heart is normal; aorta is enlarged", {("Aortic Enlargement", "aorta is enlarged")}),
    ("large mediastinal mass", {("Mass", "mediastinal mass"), ("Mediastinal Mass", "mediastinal mass")}),
    ("hazy pneumothoraces", {("Lung Opacity", "hazy"), ("Pneumothorax", "pneumothoraces")}),
    ("interstitial edema", {("Pulmonary Edema", "interstitial edema")}),
    ("hyperinflation", {("Hyperinflation", "hyperinflation")}),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_mentions(text: str, expected: set[tuple[str, str]]) -> None:
    names = LEXICON.vocabulary.names
    assert {(names[m.finding], text[m.start : m.end]) for m in find_mentions(text, MATCHER, LEXICON)} == expected


@given(st.lists(st.text(st.one_of(st.characters(), st.sampled_from("no effusion-\x01\n ")), max_size=60), max_size=5))
def test_one_pass_over_many_sentences_equals_one_pass_each(texts: list[str]) -> None:
    tokens = MATCHER.tokens(texts)
    for n, text in enumerate(texts):
        alone, mine = MATCHER.tokens([text]), tokens.sentence == n
        assert all((a == b[mine]).all() and len(a) == mine.sum() for a, b in zip(alone[1:], tokens[1:], strict=True))


@given(st.lists(st.sampled_from(["heart", "is", "large", "and", ",", "effusion", "no", "\n", "-"]), max_size=30).map(" ".join))
def test_tokens_do_not_overlap(text: str) -> None:
    tokens = MATCHER.tokens([text])
    assert (tokens.start < tokens.end).all()
    assert (tokens.start[1:] >= tokens.end[:-1]).all()
    assert (tokens.end <= len(text)).all()
