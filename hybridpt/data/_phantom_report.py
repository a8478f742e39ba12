"""Write the phantom's reports: what the radiologist of a hospital says of a study, which is not always what is in the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hybridpt.data._phantom_case import FINDINGS, Case, Lesion, generator
from hybridpt.data._phantom_words import (
    BONES,
    COMPARISONS,
    DENIALS,
    INDICATIONS,
    LUNGS,
    NORMAL,
    NOUNS,
    STATEMENTS,
    SUMMARIES,
    TERMS,
)

__all__ = ["Statement", "write_report"]

# How far a report is from the picture, each a probability. Present findings, by severity (subtle, moderate, obvious):
OMITTED = {"north": (0.35, 0.10, 0.02), "south": (0.50, 0.18, 0.05)}  # not stated; then denied or left out like an absent one
HEDGED = {"north": (0.35, 0.15, 0.04), "south": (0.25, 0.10, 0.03)}  # of those stated
# Absent findings:
OVERCALLED = {"north": 0.015, "south": 0.03}  # stated as present
HEDGED_ABSENT = {"north": 0.03, "south": 0.02}  # stated as possible
DENIED = {  # of the rest, stated as absent; what remains is not mentioned
    "north": {"Cardiomegaly": 0.80, "Pleural Effusion": 0.85, "Pneumothorax": 0.75, "Nodule": 0.25},
    "south": {"Cardiomegaly": 0.60, "Pleural Effusion": 0.55, "Pneumothorax": 0.35, "Nodule": 0.10},
}
# Habits of style, without any bearing on truth:
LISTED = {"north": 0.65, "south": 0.35}  # two or more denials joined in one list
WITHOUT_HEADERS = 0.15  # of the reports from the south

LAYOUT = {
    "north": ("INDICATION: ", "COMPARISON: ", "FINDINGS: ", "IMPRESSION: "),
    "south": ("Clinical information: ", "Comparison: ", "Findings: ", "Conclusion: "),
}
GRADES = ("mild", "moderate", "severe")
GRADELY = ("mildly", "moderately", "severely")
SIZES = ("small", "moderate", "large")


@dataclass(frozen=True, slots=True)
class Statement:
    """What a report says of one finding.

    Attributes:
        finding: One of ``FINDINGS``.
        state: ``positive``, ``negative``, ``uncertain`` or ``unmentioned``.
        omitted: Present in the picture and neither stated nor hedged.
        hedged: Stated as possible, whether present or not.
        overcalled: Stated as present and not in the picture.
        lesion: What is described: the true lesion, or an invented one; None when nothing is described.
    """

    finding: str
    state: str
    omitted: bool
    hedged: bool
    overcalled: bool
    lesion: Lesion | None


def write_report(case: Case, seed: int) -> tuple[str, tuple[Statement, ...]]:
    """Write the report of a study.

    Returns:
        The text, and what it says of every finding in the order of ``FINDINGS``. Indication and comparison are drawn without
        looking at the study and say nothing of it.
    """
    rng = generator(seed, 1, case.index, 1, 1)
    present = {lesion.finding: lesion for lesion in case.lesions}
    statements = tuple(_decide(finding, present.get(finding), case, rng) for finding in FINDINGS)
    return _lay_out(case, statements, rng), statements


def _decide(finding: str, lesion: Lesion | None, case: Case, rng: np.random.Generator) -> Statement:
    style = case.patient.dataset
    omission, hedge, overcall, denial = rng.random(4)
    if lesion is not None and omission >= OMITTED[style][lesion.severity]:
        hedged = bool(hedge < HEDGED[style][lesion.severity])
        return Statement(finding, "uncertain" if hedged else "positive", False, hedged, False, lesion)
    if lesion is None and overcall < OVERCALLED[style] + HEDGED_ABSENT[style]:
        overcalled = bool(overcall < OVERCALLED[style])
        invented = _invent(finding, rng)
        return Statement(finding, "positive" if overcalled else "uncertain", False, not overcalled, overcalled, invented)
    state = "negative" if denial < DENIED[style][finding] else "unmentioned"
    return Statement(finding, state, lesion is not None, False, False, None)


def _invent(finding: str, rng: np.random.Generator) -> Lesion:
    side = "" if finding == "Cardiomegaly" else str(rng.choice(["left", "right"]))
    return Lesion(finding, side, 0.51 if finding == "Cardiomegaly" else float(rng.uniform(0.015, 0.04)), 0)


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def _fields(lesion: Lesion, case: Case, rng: np.random.Generator) -> dict[str, str]:
    """The values of a sentence's fields for one lesion."""
    mm = max(3, round(lesion.size * case.patient.thorax_mm + float(rng.normal(0, 0.7))))
    true = case.nodule if lesion in case.lesions else None
    zone = true.zone if true is not None else _pick(("upper", "mid", "lower"), rng)
    fields = {
        "grade": GRADES[lesion.severity],
        "gradely": GRADELY[lesion.severity],
        "size": SIZES[lesion.severity] if lesion.severity or rng.random() < 0.6 else "tiny",
        "side": lesion.side,
        "where": "on both sides" if lesion.side == "bilateral" else f"on the {lesion.side}",
        "s": "s" if lesion.side == "bilateral" else "",
        "mm": str(mm),
        "zone": zone,
        "ratio": f"{lesion.size:.2f}",
    }
    noun = _pick(NOUNS[case.patient.dataset][lesion.finding], rng).format_map(fields)
    plural = noun.endswith("effusions")
    vowel = noun[0] in "aeiou8" or noun.startswith(("11 ", "18 "))
    article = "" if plural else "an " if vowel else "a "
    return {**fields, "np": noun, "a": article + noun, "is_": "are" if plural else "is"}


def _sentence(template: str, fields: Mapping[str, str]) -> str:
    text = template.format_map(fields)
    return text[0].upper() + text[1:]


def _lay_out(case: Case, statements: Sequence[Statement], rng: np.random.Generator) -> str:
    style = case.patient.dataset
    fields = {s.finding: _fields(s.lesion, case, rng) for s in statements if s.lesion is not None}
    findings = " ".join(_findings(style, statements, fields, rng))
    summary = " ".join(_summary(style, statements, fields, rng))
    indication, comparison = _pick(INDICATIONS[style], rng), _pick(COMPARISONS[style], rng)
    if style == "south" and rng.random() < WITHOUT_HEADERS:
        return f"{findings}\n{summary}"
    parts = [indication, comparison, findings, summary]
    if style == "south" and rng.random() < 0.5:
        parts[1] = ""
    return "\n".join(header + part for header, part in zip(LAYOUT[style], parts, strict=True) if part)


def _findings(
    style: str, statements: Sequence[Statement], fields: Mapping[str, Mapping[str, str]], rng: np.random.Generator
) -> list[str]:
    """The sentences of the findings section, in a random order."""
    denied = [s.finding for s in statements if s.state == "negative" and s.finding in TERMS[style]]
    listed = denied if len(denied) > 1 and rng.random() < LISTED[style] else []
    sentences = [
        _sentence(_pick(STATEMENTS[style][s.finding][s.state], rng), fields.get(s.finding, {}))
        for s in statements
        if s.state != "unmentioned" and s.finding not in listed
    ]
    if listed:
        sentences.append(_denial(style, listed, rng))
    sentences += [_pick(options, rng) for options in (LUNGS[style], BONES[style]) if rng.random() < 0.6]
    sentences = sentences or [_pick(LUNGS[style], rng)]
    return [sentences[i] for i in rng.permutation(len(sentences))]


def _denial(style: str, findings: Sequence[str], rng: np.random.Generator) -> str:
    terms = [TERMS[style][finding] for finding in rng.permutation(list(findings)).tolist()]
    names = f"{', '.join(terms[:-1])} or {terms[-1]}"
    return _pick(DENIALS[style], rng).format(names)


def _summary(
    style: str, statements: Sequence[Statement], fields: Mapping[str, Mapping[str, str]], rng: np.random.Generator
) -> list[str]:
    """The impression: every finding that was stated or hedged, or a phrase for a normal picture."""
    stated = [s for s in statements if s.state in ("positive", "uncertain")]
    if not stated:
        return [_pick(NORMAL[style], rng)]
    return [_sentence(_pick(SUMMARIES[style][s.state], rng), fields[s.finding]) for s in stated]
