"""The part of a report that describes the image, whole or in pieces, and what in it no image can show: how it compares with another."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from labelers.sections import FINDINGS, IMPRESSION, SILENT, split_reports, split_sections

__all__ = ["TextUnit", "contrastive_units", "report_text", "without_priors"]

TextUnit = Literal["report", "section", "sentence"]
"""What a report is drawn as: whole, its findings or its impression, or one of its sentences."""


def report_text(report: str) -> str:
    """Return findings and impression of a report without headers, history and comparison; "" for a report that has neither."""
    parts = (report[s.start : s.end] for s in split_sections(report) if s.kind != SILENT)
    return " ".join(word for part in parts for word in part.split())


def contrastive_units(reports: Sequence[str], unit: TextUnit) -> list[tuple[str, ...]]:
    """Cut findings and impression of each report into texts for a contrast with its image, without references to prior studies.

    Args:
        reports: N texts as they are in the manifest.
        unit: ``report`` gives one text, ``section`` findings and impression apart, ``sentence`` each distinct sentence.

    Returns:
        N tuples of distinct texts; empty where nothing describes the image.
    """
    cut = split_reports(reports)
    parts: list[list[tuple[int, str]]] = [[] for _ in reports]
    for text, row, kind in zip(cut.text, cut.row.tolist(), cut.kind.tolist(), strict=True):
        kept = without_priors(" ".join(text.split()))
        if kept:
            parts[row].append((kind, kept))
    if unit == "sentence":
        return [tuple(dict.fromkeys(_ITEM.sub("", text) for _, text in part)) for part in parts]
    kinds = ((FINDINGS, IMPRESSION),) if unit == "report" else ((FINDINGS,), (IMPRESSION,))
    joined = ([" ".join(text for kind, text in part if kind in wanted) for wanted in kinds] for part in parts)
    return [tuple(dict.fromkeys(text for text in texts if text)) for texts in joined]


_ITEM = re.compile(r"^(?:\(?\d{1,2}[.)]|[-*•])\s+")


def _any(words: str) -> str:
    return "(?:" + "|".join(words.replace(" ", r"\s+").split(",")) + ")"


_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_DAY = (
    r"(?:_{2,}|X{3,}|\[[^\]]{0,40}\]|\d{1,4}[/.-]\d{1,2}(?:[/.-]\d{1,4})?|(?:19|20)\d\d|yesterday|"
    rf"{_MONTH}\s+\d{{1,2}}(?:,?\s+\d{{4}})?|\d{{1,2}}\s+{_MONTH}(?:\s+\d{{4}})?|"
    r"(?:\d+|one|two|three|several)\s+(?:hours?|days?|weeks?|months?|years?)\s+(?:ago|earlier|prior|before))"
)
_OTHER = _any("most recent,prior,previous,earlier,last,older,preceding,outside")
_EXAM = _any(
    "study,studies,exams?,examinations?,radiographs?,radiography,films?,x-?rays?,images?,imaging,ct,cts,ct scans?,cxrs?,scans?,"
    "reports?"
)
_DATED = rf"(?:\s+(?:(?:of|from|dated|on|performed\s+on|at)\s+)?{_DAY}){{0,3}}"
_PRIOR = (
    rf"(?:(?:the|a|an|any|multiple)\s+)?(?:{_OTHER}(?:\s+\w+){{0,3}}?\s+{_EXAM}\b|{_OTHER}(?=\s*(?:[.,;]|$))|"
    rf"{_EXAM}(?=\s+(?:of|from|dated|on)\s+{_DAY})|{_DAY}){_DATED}"
)
_COMPARED = rf"(?:as\s+|when\s+|in\s+)?{_any('compared,comparing,comparison,comparison is made')}\s+(?:to|with)"
_LINK = rf"(?:{_COMPARED}|relative\s+to|similar\s+to|since|from|than(?:\s+on)?|on|in)"
_DEGREE = _any(
    "slightly,mildly,minimally,significantly,markedly,substantially,grossly,essentially,relatively,clearly,overall,likely,better,best"
)
_LINKING = _any("is,are,was,were,has,have,had,been,remains?,appears?,not")
_SHOWN = (
    "present,seen,noted,visible,visualized,demonstrated,identified,appreciated,evident,apparent,detected,described,reported,"
    "mentioned,found,observed"
)
_SINCE = _any(  # what ends a clause before a reference to another image
    "unchanged,stable,similar,constant,increased,decreased,larger,smaller,greater,less,more,worse,worsened,better,improved,"
    f"progressed,changed,new,newer,{_SHOWN},as"
)
_STILL = _any(
    "unchanged,stable,worse,worsened,improved,progressed,not changed,changed,new,as before,as previously,known,constant"
)
_MOVED = _any("increased,decreased,enlarged,grown,diminished,progressed,worsened,improved")
_SPAN = r"\s+(?:over|for)\s+(?:the\s+)?(?:(?:past|last)\s+)?(?:\d+|one|two|three|several|many)\s+(?:days?|weeks?|months?|years?)"
_RESPECT = r"(?:\s+in\s+(?:\w+\s+){0,2}?(?:size|extent|appearance|position|degree|severity|number|configuration|location))?"
_CLAUSE = rf"(?:,\s*|\b)(?:which\s+|that\s+|and\s+)?(?:{_LINKING}\s+){{0,4}}(?:{_DEGREE}\s+){{0,2}}"
_END = r"(?=\s*(?:[.,;:]|$))"

_NOTABLE = _any(
    "significant,relevant,appreciable,interval,interim,substantial,definite,notable,major,considerable,convincing,other,"
    "evidence of,evidence for,signs? of"
)
_THERE = r"(?:\bthere\s+(?:is|are|has\s+been|have\s+been)\s+)?"

_TOUCHED = re.compile(
    rf"\b(?:{_any('prior,previous,previously,earlier,last,compared,comparing,comparison,since,interval,interim,again,before,unchanged,stable,new,newly,known,constant')}"
    r"|persist\w*|worse\w*|improv\w*|enlarging|increasing|decreasing|progress\w*|resol(?:ved|ving|ution)|longer|remov(?:ed|al)|cleared"
    rf"|re-?demonstrat(?:ed|ion)|remains?|continue[ds]?|chang(?:e|es|ed))\b|(?:than|from|on|to)\s+{_DAY}|\bha(?:s|ve)\s+(?:\w+\s+){{0,2}}{_MOVED}\b",
    re.IGNORECASE,
)
_GONE = re.compile(  # of what is there no more, or of newness alone: without the comparison it would say something else
    r"\bno\s+longer\b|\bresol(?:ved|ving|ution)\b|\bremov(?:ed|al)\b|\bcleared\b|"
    r"\bcomparison\s+with\b.*\b(?:recommended|advised|suggested)\b|\b(?:recommend\w*|advise\w*|suggest\w*)\b.{0,120}?\bcompar|"
    r"\b(?:no|without|not|negative\s+for|free\s+of)\s+(?:(?!(?:but|however|with)\b)[\w/-]+,?\s+){0,8}?"
    r"(?:new|newly|worse\w*|improv\w*|progress\w*|(?:interval|interim)\s+(?!change))\b|"
    # of what another image does not show, or shows alone
    r"\b(?:not?|was|were|absent)\b(?:(?!\bchange)[^.;]){0,120}?\bpreviously\b|\bpreviously\s+(?:not|absent|no)\b|"
    rf"\bno\s+(?:[\w/-]+,?\s+){{1,8}}?{_any(_SHOWN)}\s+(?:on|in)\s+{_PRIOR}",
    re.IGNORECASE,
)
_REWRITTEN = tuple(
    (re.compile(pattern, re.IGNORECASE), instead)
    for pattern, instead in (
        (rf"\s*,?\s*\b{_COMPARED}\s+{_PRIOR}\s*,?", ""),
        (rf"\s*{_CLAUSE}{_SINCE}{_RESPECT}\s+{_LINK}\s+{_PRIOR}", ""),
        (rf"\s*,?\s*\b{_LINK}\s+{_PRIOR}", ""),
        (r"(?:,\s*)?(?:\b(?:placed|developed)\s+)?(?:\bin\s+)?\bthe\s+(?:interval|interim)\b", ""),
        (  # "changes of" are findings; before the next rule, which would take away what is denied and leave the denial
            rf"{_THERE}\b(?:no|without|little|absence\s+of)\s+(?:{_NOTABLE}\s+){{0,4}}"
            r"(?:change\b(?:\s+(?:in|of|to)\b)?|changes\b(?:\s+(?:in|to)\b|(?!\s+of\b)))",
            "",
        ),
        (rf"{_THERE}(?:\b(?:an?|the)\s+)?(?:\b(?:interval|interim)\s+\w+|\bdevelopment)\s+(?:of|in)\b", ""),
        (rf"\s*{_CLAUSE}{_STILL}{_SPAN}", ""),
        (rf"\s*\b(?:has|have)\s+(?:{_DEGREE}\s+){{0,2}}{_MOVED}{_RESPECT}{_END}", ""),
        (rf"\s*\b(?:dating|going)\s+back\s+to\s+(?:at\s+least\s+)?{_PRIOR}", ""),
        (rf"\s*{_CLAUSE}(?:(?:size|position)\s+)?{_STILL}{_RESPECT}{_END}", ""),
        (r"\bre-?demonstrated\b", "seen"),
        (r"\bre-?demonstration\s+of\b", ""),
        (r"\bremains\b|\bcontinues\s+to\s+be\b", "is"),
        (r"\bremain\b|\bcontinue\s+to\s+be\b", "are"),
        (
            r"\b(?:stable|unchanged|persist(?:ent|ing)|new(?:ly)?|worsening|worsened|improving|improved|enlarging|increasing|decreasing|"
            r"progressive|again|previously|known|interval|interim|continued)\b",
            "",
        ),
    )
)
_LEFT_OVER = re.compile(
    rf"\b(?:{_OTHER}\s+(?:\w+\s+){{0,3}}?{_EXAM}|compar\w+|since|interval|interim|unchanged|previously|before|changed)\b|\bnot\s*[.,;]?$",
    re.IGNORECASE,
)
_DANGLING = re.compile(
    r"(?:\s*(?:[,;:]|\b(?:which|that|and|but|is|are|was|were|has|have|had|been|in|on|to|of|from|as|the|an?|very|slightly|there)\b)){1,6}\s*(?=\.?$)",
    re.IGNORECASE,
)
_EMPTY = frozenset(
    re.findall(
        r"\w+",
        """a an and appearance appearances are as at be been but cardiac cardiomediastinal chest contour contours exam examination
    examinations extent finding findings for from has have heart hilar image images imaging in is it its lung lungs mediastinal
    mediastinum no of on or otherwise overall patient position pulmonary radiograph radiographic radiographs relevant remains silhouette
    size study that the there these this to was were which with acute appreciable significant slightly degree status""",
    )
)
"""Words that say nothing of a finding by themselves."""


def without_priors(sentence: str) -> str:
    """Take references to prior studies out of a sentence, for no image shows them (as Ramesh et al. 2022, arXiv 2210.06340).

    "Stable cardiomegaly, as compared to the prior study." becomes "Cardiomegaly."; a sentence that is about the comparison alone
    ("No significant interval change.") or that would say something else without it ("No new consolidation.", "The effusion has
    resolved.") goes. A sentence without such references stays as it is.

    Args:
        sentence: One sentence, its words one blank apart.

    Returns:
        What is left, "" for nothing.
    """
    if not _TOUCHED.search(sentence):
        return sentence
    if _GONE.search(sentence):
        return ""
    text = sentence
    for pattern, instead in _REWRITTEN:
        text = pattern.sub(instead, text)
    if text == sentence and not _LEFT_OVER.search(text):
        return sentence
    text = re.sub(r"\s+(?=[.,;:])|^[\s.,;:]+", "", " ".join(text.split()))
    text = _DANGLING.sub("", re.sub(r",(?=[.,;])", "", text)).strip()
    if _LEFT_OVER.search(text) or _EMPTY.issuperset(re.findall(r"[a-z]+", text.lower())):
        return ""
    return text[:1].upper() + text[1:]
