"""Reports with the sections and sentences that a reader sees in them; each was written for this file."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelers.sections import FINDINGS, IMPRESSION, SILENT, sentences, split_report, split_sections

MIMIC = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___ year old woman with cough  // pneumonia?

 TECHNIQUE:  Chest PA and lateral

 COMPARISON:  None.

 FINDINGS:

 Heart size is normal.  There is no focal
 consolidation or effusion.

 IMPRESSION:

 No acute process.
"""

REPORTS = [
    ("Lungs are clear. Heart is normal.", [(FINDINGS, "Lungs are clear."), (FINDINGS, "Heart is normal.")]),
    ("FINDINGS: Clear lungs. IMPRESSION: Normal.", [(FINDINGS, "Clear lungs."), (IMPRESSION, "Normal.")]),
    ("Findings: Clear lungs.\nimpression: Normal.", [(FINDINGS, "Clear lungs."), (IMPRESSION, "Normal.")]),
    (
        "INDICATION: Effusion.\nCOMPARISON: None.\nFINDINGS: Clear.\nIMPRESSION: Normal.",
        [(FINDINGS, "Clear."), (IMPRESSION, "Normal.")],
    ),
    ("HISTORY: Effusion.", []),
    ("HISTORY: Effusion.\n\nThe lungs are clear.", [(FINDINGS, "The lungs are clear.")]),
    ("IMPRESSION\nNormal chest.", [(IMPRESSION, "Normal chest.")]),
    ("FINDINGS: Comparison: old film. Heart is large.", [(FINDINGS, "Heart is large.")]),
    ("Impression: 1. Edema. 2. No effusion.", [(IMPRESSION, "1. Edema."), (IMPRESSION, "2. No effusion.")]),
    ("LUNGS: Clear.\nHEART: Normal.", [(FINDINGS, "LUNGS: Clear."), (FINDINGS, "HEART: Normal.")]),
    (
        MIMIC,
        [
            (FINDINGS, "Heart size is normal."),
            (FINDINGS, "There is no focal\n consolidation or effusion."),
            (IMPRESSION, "No acute process."),
        ],
    ),
    ("", []),
    (" \n ", []),
]

SENTENCES = [
    ("A nodule of 1.5 cm. No effusion.", ["A nodule of 1.5 cm.", "No effusion."]),
    ("Seen by Dr. Smith today. Clear.", ["Seen by Dr. Smith today.", "Clear."]),
    ("Atelectasis vs. infiltrate.", ["Atelectasis vs. infiltrate."]),
    ("No effusion.Heart is normal.", ["No effusion.", "Heart is normal."]),
    ("lungs are clear. no effusion.", ["lungs are clear.", "no effusion."]),
    ("No pleural\neffusion is seen.", ["No pleural\neffusion is seen."]),
    ("Heart size normal\nLungs clear", ["Heart size normal", "Lungs clear"]),
    ("1) Edema\n2) No effusion", ["1) Edema", "2) No effusion"]),
    ("Findings are\n- edema\n- effusion", ["Findings are", "- edema", "- effusion"]),
    ("One.\n\nTwo", ["One.", "Two"]),
    ("Is there effusion? No!", ["Is there effusion?", "No!"]),
    ("Since the film No. 3 the effusion grew.", ["Since the film No. 3 the effusion grew."]),
    ("Pneumothorax: No. Heart is normal.", ["Pneumothorax: No.", "Heart is normal."]),
]


@pytest.mark.parametrize(("text", "expected"), REPORTS)
def test_report(text: str, expected: list[tuple[int, str]]) -> None:
    assert [(kind, text[start:end]) for kind, start, end in split_report(text)] == expected


@pytest.mark.parametrize(("text", "expected"), SENTENCES)
def test_sentences(text: str, expected: list[str]) -> None:
    assert [text[start:end] for start, end in sentences(text, 0, len(text))] == expected


@given(st.text(st.sampled_from("aA .:\n-1\tFINDGS\u00a0"), max_size=80))
def test_spans_are_ordered_and_inside(text: str) -> None:
    last = 0
    for section in split_sections(text):
        assert last <= section.start <= section.end <= len(text)
        assert section.kind in (FINDINGS, IMPRESSION, SILENT)
        last = section.end
    last = 0
    for _, start, end in split_report(text):
        assert last <= start < end <= len(text)
        assert text[start:end] == text[start:end].strip()
        last = end
