"""Side, severity and change that a text tells of a finding, place by place."""

from __future__ import annotations

import numpy as np
import pytest

import labelers
from labelers.assertions import Reader
from labelers.cues import load_cues
from labelers.types import ATTRIBUTES
from labelers.vocabulary import load_vocabulary

READER = Reader(load_vocabulary(), load_cues())

CASES = [
    ("Small left pleural effusion.", "Pleural Effusion", "left", "mild", ""),
    ("Pleural effusion on the right.", "Pleural Effusion", "right", "", ""),
    ("Pleural effusion, right.", "Pleural Effusion", "right", "", ""),
    ("Right and left pleural effusions.", "Pleural Effusion", "bilateral", "", ""),
    ("Bilateral pleural effusions, left greater than right.", "Pleural Effusion", "bilateral", "", ""),
    ("Pleural effusions, left greater than right.", "Pleural Effusion", "bilateral", "", ""),
    ("Bibasilar atelectasis.", "Atelectasis", "bilateral", "", ""),
    ("Atelectasis in the left lower lobe.", "Atelectasis", "left", "", ""),
    ("Right basilar atelectasis or infiltrate.", "Infiltrate", "right", "", ""),
    ("Left effusion with atelectasis.", "Atelectasis", "", "", ""),
    ("Left effusion, right pneumothorax.", "Pneumothorax", "right", "", ""),
    ("Left effusion, right pneumothorax.", "Pleural Effusion", "left", "", ""),
    ("Elevation of the right hemidiaphragm.", "Diaphragm Elevation", "right", "", ""),
    ("Large hiatal hernia.", "Hiatal Hernia", "", "severe", ""),
    ("The heart is mildly enlarged.", "Cardiomegaly", "", "mild", ""),
    ("Mild to moderate cardiomegaly.", "Cardiomegaly", "", "moderate", ""),
    ("There is a trace effusion.", "Pleural Effusion", "", "minimal", ""),
    ("Severe emphysema.", "Emphysema/COPD", "", "severe", ""),
    ("Effusion, which is large.", "Pleural Effusion", "", "severe", ""),
    ("Stable cardiomegaly.", "Cardiomegaly", "", "", "stable"),
    ("Small effusion, unchanged.", "Pleural Effusion", "", "mild", "stable"),
    ("No change in the effusion.", "Pleural Effusion", "", "", "stable"),
    ("The effusion has not significantly changed.", "Pleural Effusion", "", "", "stable"),
    ("New right pneumothorax.", "Pneumothorax", "right", "", "new"),
    ("Interval development of edema.", "Edema", "", "", "new"),
    ("Pleural effusion, not present on the prior study.", "Pleural Effusion", "", "", "new"),
    ("Worsening consolidation.", "Consolidation", "", "", "worse"),
    ("The pneumothorax has increased.", "Pneumothorax", "", "", "worse"),
    ("Interval decrease in the left effusion.", "Pleural Effusion", "left", "", "better"),
    ("The pneumothorax has nearly resolved.", "Pneumothorax", "", "", "better"),
    ("The right pneumothorax has resolved.", "Pneumothorax", "right", "", "resolved"),
    ("No new effusion.", "Pleural Effusion", "", "", ""),
    ("No large left effusion.", "Pleural Effusion", "left", "", ""),
    ("The heart is increased in size.", "Cardiomegaly", "", "", ""),
    ("Heart size is mildly increased.", "Cardiomegaly", "", "mild", ""),
]


@pytest.mark.parametrize(("text", "finding", *ATTRIBUTES), CASES)
def test_attributes(text: str, finding: str, side: str, severity: str, change: str) -> None:
    found = READER.read([text])
    mine = found.finding == load_vocabulary().vocabulary.index(finding)
    assert mine.any()
    told = {tuple(values[code] for values, code in zip(ATTRIBUTES.values(), row, strict=True)) for row in found.attributes[mine]}
    assert told == {(side, severity, change)}


def test_they_depend_on_their_own_sentence_alone() -> None:
    texts = [case[0] for case in CASES]
    together = READER.read(texts)
    for n, text in enumerate(texts):
        assert np.array_equal(READER.read([text]).attributes, together.attributes[together.sentence == n])


def test_they_are_told_with_the_evidence() -> None:
    table = labelers.label(["Small left pleural effusion. No pneumothorax."])
    effusion, pneumothorax = (table.evidence.at(table.vocabulary.index(n)) for n in ("Pleural Effusion", "Pneumothorax"))
    assert {name: effusion[0][name] for name in ATTRIBUTES} == {"side": "left", "severity": "mild", "change": ""}
    assert {name: pneumothorax[0][name] for name in ATTRIBUTES} == dict.fromkeys(ATTRIBUTES, "")
    assert ATTRIBUTES.keys().isdisjoint(
        labelers.label(["effusion"], labeler="keywords").evidence.at(table.vocabulary.index("Pleural Effusion"))[0]
    )
