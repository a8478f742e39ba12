"""Reports with the sections and sentences that a reader sees in them; each was written for this file."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelers import sections
from labelers.sections import FINDINGS, IMPRESSION, SILENT, split_reports, split_sections

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
    found = split_reports([text])
    assert list(zip(found.kind.tolist(), found.text, strict=True)) == expected


@pytest.mark.parametrize(("text", "expected"), SENTENCES)
def test_sentences(text: str, expected: list[str]) -> None:
    assert split_reports([text]).text == expected


@pytest.mark.parametrize(("text", "expected"), REPORTS)
def test_windows_line_ends_change_no_section(text: str, expected: list[tuple[int, str]]) -> None:
    found = split_reports([text.replace("\n", "\r\n")])
    got = [(kind, sentence.replace("\r\n", "\n")) for kind, sentence in zip(found.kind.tolist(), found.text, strict=True)]
    assert got == expected


PIECES = [
    *(
        "FINDINGS:",
        "findings\n",
        "Impression:",
        "HISTORY:",
        "TECHNIQUE\n",
        "wet read",
        ":",
        ": ",
        ".",
        ". ",
        "...",
        "?",
        "! ",
        '." ',
        ") ",
    ),
    *(
        "\n",
        "\n\n",
        " \n",
        "\r\n",
        "\t",
        " ",
        "  ",
        "\u00a0",
        "\u2028",
        "\x0b",
        "-",
        "•",
        "1.",
        "\n2) ",
        "(3) ",
        "no. ",
        "No. 4",
        "Dr.",
        "vs.",
    ),
    *(
        "e.g.",
        "a.",
        "x",
        "heart is normal",
        "Lungs clear",
        "effusion",
        "ab.Cd",
        "chest.",
        "most.",
        "İ",
        "ß",
        "\ud83d",
        "\U0001f600",
        "\0",
    ),
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=25).map("".join) | st.text(
    st.sampled_from("aA .:\n-1\tFINDGS\u00a0"), max_size=80
)


@given(TEXTS)
def test_spans_are_ordered_and_inside(text: str) -> None:
    last = 0
    for section in split_sections(text):
        assert last <= section.start <= section.end <= len(text)
        assert section.kind in (FINDINGS, IMPRESSION, SILENT)
        last = section.end
    last = 0
    found = split_reports([text])
    for sentence, start, end in zip(found.text, found.start.tolist(), found.end.tolist(), strict=True):
        assert last <= start < end <= len(text)
        assert text[start:end] == sentence == sentence.strip()
        last = end


@given(TEXTS)
def test_every_word_outside_silent_sections_and_headers_is_in_a_sentence(text: str) -> None:
    found = split_reports([text])
    spoken = [text[section.start : section.end] for section in split_sections(text) if section.kind != SILENT]
    assert "".join("".join(found.text).split()) == "".join("".join(spoken).split())


@given(st.lists(TEXTS, max_size=6))
def test_a_text_is_cut_alike_alone_and_among_others(texts: list[str]) -> None:
    found = split_reports(texts)
    rows = list(zip(*(column.tolist() for column in found[1:]), strict=True))
    alone = [split_reports([text]) for text in texts]
    assert rows == [
        (row, *rest) for row, one in enumerate(alone) for _, *rest in zip(*(column.tolist() for column in one[1:]), strict=True)
    ]


def test_many_signs_and_line_ends_are_asked_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is judged one by one is judged once for each sign, however the signs stand together."""
    asked = 0

    def counted(function: Callable[..., bool]) -> Callable[..., bool]:
        def call(*arguments: object) -> bool:
            nonlocal asked
            asked += 1
            return function(*arguments)

        return call

    monkeypatch.setattr(sections, "_full_stop_ends", counted(sections._full_stop_ends))
    monkeypatch.setattr(sections, "_line_ends", counted(sections._line_ends))
    for piece in (". ", "1. ", "a.", "...", "\n", "\n1. ", " \n\t", "Dr. ", "x.\n", "?.!", '."', "İ\n"):
        asked = 0
        found = split_reports([piece * 2000])
        assert asked <= 2000 * len(piece)
        assert len(found.text) <= 2000 * len(piece)
