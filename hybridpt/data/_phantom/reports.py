"""Write the phantom's reports: what the radiologist of a hospital says of a study, which is not always what is in the picture."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hybridpt.data._phantom.cases import FINDINGS, KINDS, SEVERITIES, SIDES, SIZES, Case, Lesion
from hybridpt.data._phantom.draws import Draws
from hybridpt.data._phantom.lesions import sides
from hybridpt.data._phantom.words import GROUPS, Change, Phrases, Remark, Style, Words, styles

__all__ = ["Statement", "styles", "write_report"]

_REPORTS = 2  # first key of the streams

INVENTED = (0.7, 0.3, 0.0)
"""Chances of the severities of what is called and is not there: nobody invents the obvious."""
KEPT = 0.85
"""Chance that a finding is denied by name although a remark has denied it already, where the hospital's file allows that."""
LEFTOVER = 0.6
"""Chance that what is called wrongly is what the study before had, if it had it."""
BEFORE = 0.4
"""Chance that a change stands before the noun, where it may stand before or behind."""
UNEVEN = 0.75
"""Two sides are called uneven where the lesser has less than this share of the greater."""
READING = 0.07
"""Share by which a reading in mm or degrees may be off."""
ENDINGS = {"acute": 0.8, "also": 0.3, "steady": 0.3, "resolved": 0.35}
"""Chances in an impression: no acute disease, where nothing is found and otherwise; no change; what has resolved."""
BODY = ("findings", "impression", "")
"""The parts that speak of the picture, and get typing errors; those of a report without headers have no name."""

_CHEST = frozenset((*GROUPS["lungs"], *GROUPS["pleura"]))
_REGIONS = (frozenset(GROUPS["devices"]), _CHEST | {"Cardiomegaly"}, frozenset(GROUPS["bones"]))  # a sentence keeps to one
_MIDLINE = frozenset(("Cardiomegaly", "Emphysema/COPD", "Hiatal Hernia", "Tube"))
_WEIGHT = (  # what an impression names first
    "Pneumothorax",
    "Tube",
    "Consolidation",
    "Edema",
    "Pleural Effusion",
    "Mass",
    "Nodule",
    "Rib Fracture",
    "Atelectasis",
    "Cardiomegaly",
    "Catheter",
    "Implanted Device",
    "Emphysema/COPD",
    "Hiatal Hernia",
    "Scoliosis",
    "Calcified Granuloma",
)
_MINOR = frozenset(_WEIGHT[8:]) | {"Tube"}
_PEOPLE = {"M": ("man", "male"), "F": ("woman", "female")}
_LONG_WORD = re.compile(r"[A-Za-z]{5,}")
_AN = re.compile(r"[aeiou]|8|1[18]\b|[SX]-|E[A-Z]|I[A-Z]")


@dataclass(frozen=True, slots=True)
class Statement:
    """What a report says of one finding.

    Attributes:
        finding: One of ``FINDINGS``.
        state: ``positive``, ``negative``, ``uncertain`` or ``unmentioned``.
        omitted: Present in the picture and neither stated nor hedged.
        hedged: Stated as possible, whether present or not.
        overcalled: Stated as present and not in the picture.
        resolved: Denied by saying that what the study before had is gone.
        lesion: What is described: the true lesion, an invented one, or the one that is gone; None when nothing is described.
    """

    finding: str
    state: str
    omitted: bool = False
    hedged: bool = False
    overcalled: bool = False
    resolved: bool = False
    lesion: Lesion | None = None


def write_report(case: Case, seed: int) -> tuple[str, tuple[Statement, ...]]:
    """Write the report of a study.

    Args:
        case: The study.
        seed: Seed of the set, 0 or more.

    Returns:
        The text, and what its findings and impression say of every finding in the order of ``FINDINGS``. Indication and
        comparison are drawn without looking at the truth and count for nothing. Empty text and no statements where the
        hospital gives none.
    """
    style = styles().get(case.patient.dataset)
    if style is None:
        return "", ()
    draws = Draws(seed, _REPORTS, case.index)
    statements = _decide(case, style, draws)
    parts = _compose(case, style, statements, draws)
    typed = [(name, _mistype(text, style.habits.typos, draws) if name in BODY else text) for name, text in parts]
    return _lay_out(typed, style), statements


def _decide(case: Case, style: Style, draws: Draws) -> tuple[Statement, ...]:
    """Draw what is said of every finding, the same number of times whatever comes of it."""
    present = {lesion.finding: lesion for lesion in case.lesions}
    gone = {lesion.finding: lesion for lesion in case.resolved}
    thorough = draws.uniform()  # who denies a rare finding of the lungs denies the usual ones too
    statements = []
    for finding in FINDINGS:
        omission, doubt, call, denial = (draws.uniform() for _ in range(4))
        stream = draws.below(1 << 53)
        if finding in _CHEST:
            denial = thorough
        rates, lesion, old = style.rates[finding], present.get(finding), gone.get(finding)
        if lesion is not None and omission >= rates.omitted[lesion.severity]:
            hedged = doubt < rates.hedged[lesion.severity]
            made = Statement(finding, "uncertain" if hedged else "positive", hedged=hedged, lesion=lesion)
        elif lesion is None and call < rates.overcalled + rates.hedged_absent:
            called = call < rates.overcalled
            invented = _invent(finding, old, Draws(stream))
            made = Statement(
                finding, "positive" if called else "uncertain", hedged=not called, overcalled=called, lesion=invented
            )
        elif old is not None and doubt < style.habits.resolved:
            made = Statement(finding, "negative", resolved=True, lesion=old)
        else:
            obvious = lesion is not None and lesion.severity == len(SEVERITIES) - 1  # overlooked, maybe, but not denied
            state = "negative" if denial < rates.denied and not obvious else "unmentioned"
            made = Statement(finding, state, omitted=lesion is not None)
        statements.append(made)
    return tuple(statements)


def _invent(finding: str, old: Lesion | None, draws: Draws) -> Lesion:
    """Draw a lesion that is not in the picture, or take up the one that the study before had."""
    severity = draws.weighted(INVENTED)
    size = draws.uniform(*SIZES[finding][severity])
    if old is not None and draws.chance(LEFTOVER):
        return replace(old, severity=severity, size=size, change="smaller" if severity < old.severity else "unchanged")
    side = "" if finding in _MIDLINE else "bilateral" if finding == "Edema" else draws.pick(SIDES)
    kinds = KINDS.get(finding, {"": 1.0})
    kind = tuple(kinds)[draws.weighted(tuple(kinds.values()))]
    return Lesion(finding, severity, size, side, place=(draws.uniform(0.15, 0.88), 0.5, 0.0), kind=kind)


def _compose(case: Case, style: Style, statements: Sequence[Statement], draws: Draws) -> list[tuple[str, str]]:
    """Return the parts of a report, name and text, before any typing error."""
    writer = _Writer(case, style, statements, draws)
    impression, findings = writer.impression(), writer.findings()
    if draws.chance(style.habits.headerless):
        return [("", findings), ("", impression)]
    texts = {
        "technique": _sentence(draws.pick(style.views[" ".join(case.views)]), gap=style.gap),
        "indication": _indication(case, style, draws),
        "comparison": _comparison(case, style, draws),
        "findings": findings,
        "impression": impression,
    }
    left_out = style.layout.left_out
    return [(name, texts[name]) for name, _ in style.layout.parts if not (name in left_out and draws.chance(left_out[name]))]


def _indication(case: Case, style: Style, draws: Draws) -> str:
    words = style.indications
    who = {"man": draws.pick(_PEOPLE[case.patient.sex]), "sex": case.patient.sex}
    drawn = {name: draws.pick(words[name]) for name in ("asked", "past")}
    return _sentence(draws.pick(words["texts"]), symptom=draws.pick(words[case.views[0]]), gap=style.gap, **who, **drawn)


def _comparison(case: Case, style: Style, draws: Draws) -> str:
    words = style.comparisons
    return _sentence(draws.pick(words["later" if case.visit else "first"]), past=draws.pick(words["past"]), gap=style.gap)


def _sentence(template: str, **fields: str) -> str:
    return _capital(template.format_map(fields))


def _article(text: str) -> str:
    return "an" if _AN.match(text) else "a"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _lay_out(parts: Sequence[tuple[str, str]], style: Style) -> str:
    headers = {"": "", **dict(style.layout.parts)}
    opening = style.layout.opening if parts[0][0] else ""
    return opening + style.layout.between.join(headers[name] + text for name, text in parts)


def _mistype(text: str, rate: float, draws: Draws) -> str:
    """Put typing errors into words of five letters or more, each with a chance of ``rate``."""
    return _LONG_WORD.sub(lambda found: _slip(found[0], draws) if draws.chance(rate) else found[0], text)


def _slip(word: str, draws: Draws) -> str:
    """Swap two letters, drop one or double one; never the first."""
    kind, at = draws.below(3), 1 + draws.below(len(word) - 2)
    if kind == 0 and word[at] != word[at + 1]:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return word[:at] + word[at + 1 :] if kind < 2 else word[:at] + word[at] + word[at:]


@dataclass(frozen=True, slots=True)
class _Told:
    """A statement with its words: the values of the fields, the tags for conditions, and the change to tell, if any."""

    statement: Statement
    lesion: Lesion
    words: Words
    fields: dict[str, str]
    tags: frozenset[str]
    change: Change | None


class _Writer:
    """Writes the findings and the impression of one report, no sentence twice."""

    def __init__(self, case: Case, style: Style, statements: Sequence[Statement], draws: Draws) -> None:
        self._case, self._style, self._draws = case, style, draws
        self._used: set[str] = set()
        self._denied = {s.finding for s in statements if s.state == "negative"}
        self._told = {s.finding: self._tell(s, s.lesion) for s in statements if s.lesion is not None}
        self._open = {s.finding for s in statements if s.state in ("positive", "uncertain")}
        self._left = [f for f in FINDINGS if f in self._denied and f not in self._told]
        self._tail: tuple[list[str], int] | None = None  # the last sentence that states something of the chest

    def findings(self) -> str:
        """Return the sentences of the findings section, group by group."""
        style, draws = self._style, self._draws
        groups: dict[str, list[str]] = {group: [] for group in draws.pick(style.orders)}
        self._state(groups)
        self._remark(groups)
        self._deny(groups)
        sentences = [sentence for some in groups.values() for sentence in some] or [self._filler()]
        if draws.chance(style.habits.opened):
            sentences.insert(0, self._plain(style.openers[" ".join(self._case.views)]))
        text = " ".join(sentences)
        return self._swallow(text) if draws.chance(style.habits.gaps) else text

    def impression(self) -> str:
        """Return what the report comes to, numbered where the hospital does so; to be asked for before the findings."""
        style, draws, calm = self._style, self._draws, self._style.acute.denies <= self._denied
        stated = [self._told[f] for f in _WEIGHT if f in self._open]
        kept = [t for t in stated if not (t.statement.finding in _MINOR and draws.chance(style.habits.passed_over))]
        if not calm:
            kept = kept or stated
        items = [self._sum_up(told) for told in kept]
        items += [
            self._say(t, t.words.resolved)
            for t in self._told.values()
            if t.statement.resolved and draws.chance(ENDINGS["resolved"])
        ]
        if calm and (draws.chance(ENDINGS["also"]) if kept else stated or draws.chance(ENDINGS["acute"])):
            items.append(self._plain(style.acute.texts))
            self._cover(style.acute)
        elif not kept:
            items.append(self._plain(style.normal))
        elif self._is_steady(kept) and draws.chance(ENDINGS["steady"]):
            items.append(self._plain(style.steady))
        if style.layout.numbered and len(items) > 1:
            return "\n".join(f"{number}. {item}" for number, item in enumerate(items, 1))
        return " ".join(items)

    def _tell(self, statement: Statement, lesion: Lesion) -> _Told:
        """Choose the words for a lesion, which the whole report keeps to."""
        style, draws = self._style, self._draws
        # Who doubts that it is there does not call it large.
        severity = min(lesion.severity, 1) if statement.state == "uncertain" else lesion.severity
        words = style.findings[statement.finding]
        change = None if statement.resolved else words.changes.get(lesion.change)
        if change is not None and not ((change.before or change.after) and draws.chance(style.habits.compared)):
            change = None
        side, zone = lesion.side or "bilateral", lesion.zone
        greater = sides(lesion)[0][0]
        size = lesion.size * draws.uniform(1 - READING, 1 + READING)
        mm, cm = f"{round(size)}", f"{size / 10:.1f}"
        fields = {
            "gap": style.gap,
            "side": draws.pick(style.sides[side]),
            "greater": greater,
            "lesser": "left" if greater == "right" else "right",
            "where": style.places[zone][side],
            "size": draws.pick(style.sizes[severity]),
            "grade": draws.pick(style.grades[severity]),
            "gradely": draws.pick(style.gradely[severity]),
            "mm": mm,
            "cm": cm,
            "a_mm": f"{_article(mm)} {mm} mm",
            "a_cm": f"{_article(cm)} {cm} cm",
            "ratio": f"{max(lesion.size, 0.51):.2f}",
            "degrees": str(max(10, 5 * round(size / 5))),
            "n": style.numbers[max(0, lesion.count - 2)],
            **{name: style.places[name][side] for name in ("on", "base", "angle", "lung")},
        }
        tags = {SEVERITIES[severity], lesion.kind, zone, *self._case.views}
        for tag, holds in (
            ("bilateral", lesion.side == "bilateral"),
            ("uneven", 0 < lesion.balance < UNEVEN),
            ("many", lesion.count > 1),
            ("possible", statement.state == "uncertain"),
            (lesion.change, change is not None),
        ):
            if holds:
                tags.add(tag)
        return _Told(statement, lesion, words, fields, frozenset(tags), change)

    def _say(self, told: _Told, phrases: Phrases) -> str:
        """Return a sentence about a lesion that the report does not hold yet."""
        fitting = phrases.fitting(told.tags)
        for _ in range(8):
            sentence = _capital(self._fill(self._draws.pick(fitting), told))
            if sentence.lower() not in self._used:
                break
        self._used.add(sentence.lower())
        return sentence

    def _fill(self, template: str, told: _Told) -> str:
        named = "{np}" in template or "{a}" in template
        before, post = self._change(told.change, told, named) if told.change and "{post}" in template else ("", "")
        fields = {**told.fields, "post": post}
        if named:
            np, a, plural = self._noun(told, before)
            fields.update({"np": np, "a": a, "is": "are" if plural else "is", "has": "have" if plural else "has"})
        return template.format_map(fields)

    def _change(self, change: Change, told: _Told, named: bool) -> tuple[str, str]:
        """Return words for the change since the study before: those before the noun, or those that end the sentence."""
        draws = self._draws
        if named and change.before and (not change.after or draws.chance(BEFORE)):
            return draws.pick(change.before) + " ", ""
        return "", draws.pick(change.after).format_map(told.fields) if change.after else ""

    def _noun(self, told: _Told, before: str = "") -> tuple[str, str, bool]:
        """Return a noun phrase without and with its article, and whether it is a plural."""
        text = self._draws.pick(told.words.nouns.fitting(told.tags)).format_map(told.fields)
        first, _, rest = text.partition(" ")
        if first == "+":
            number, _, noun = rest.partition(" ")
            many = f"{number} {before}{noun}" if number in self._style.numbers else before + rest
            return many, many, True
        if first in ("a", "an"):
            return before + rest, f"{_article(before + rest)} {before}{rest}", False
        return before + text, before + text, False

    def _state(self, groups: dict[str, list[str]]) -> None:
        """Add what is stated, hedged or gone; two findings that follow each other may share a sentence."""
        told = [(group, self._told[f]) for group in groups for f in GROUPS[group] if f in self._told]
        while told:
            group, first = told.pop(0)
            if told and self._may_join(first, told[0][1]) and self._draws.chance(self._style.habits.joined):
                groups[group].append(self._join(first, told.pop(0)[1]))
            else:
                groups[group].append(self._say(first, _phrases(first)))
            if first.statement.finding in _CHEST & self._open:
                self._tail = groups[group], len(groups[group]) - 1

    def _may_join(self, first: _Told, second: _Told) -> bool:
        both = {first.statement.finding, second.statement.finding}
        stated = first.statement.state == second.statement.state == "positive"
        return stated and any(both <= region for region in _REGIONS)

    def _join(self, first: _Told, second: _Told) -> str:
        _, one, plural = self._noun(first)
        _, other, _ = self._noun(second)
        return _sentence(self._draws.pick(self._style.joins), first=one, second=other, **{"is": "are" if plural else "is"})

    def _remark(self, groups: dict[str, list[str]]) -> None:
        """Add remarks about organs."""
        for remark in self._style.remarks:
            if self._may_remark(remark) and self._draws.chance(remark.chance):
                groups[remark.group].append(self._plain(remark.texts))
                self._cover(remark)

    def _cover(self, remark: Remark) -> None:
        """Strike what a remark denies from what is left to be denied."""
        self._left = [f for f in self._left if f not in remark.denies or (f in remark.keeps and self._draws.chance(KEPT))]

    def _may_remark(self, remark: Remark) -> bool:
        if remark.unless & self._open:
            return False
        if remark.otherwise:
            return bool(remark.denies & self._open) and remark.denies - self._open <= self._denied
        return remark.denies <= set(self._left)

    def _filler(self) -> str:
        """Return a remark that denies nothing, for a report that would say nothing."""
        return self._plain([t for r in self._style.remarks if not r.denies and r.group != "bones" for t in r.texts])

    def _plain(self, texts: Sequence[str]) -> str:
        return _sentence(self._draws.pick(texts), gap=self._style.gap)

    def _deny(self, groups: dict[str, list[str]]) -> None:
        """Add the denials, some of them as a list, which may hang on the last sentence about the chest."""
        style, draws, left = self._style, self._draws, self._left
        listed = [f for f in style.lists if f in left]
        if len(listed) < 2 or not (len(listed) > 3 or draws.chance(style.habits.listed)):
            listed = []
        for group, members in GROUPS.items():
            groups[group] += [self._negate(f) for f in members if f in left and f not in listed]
        if listed:
            terms = [draws.pick(style.findings[f].terms) for f in listed]
            names = f"{', '.join(terms[:-1])}{style.conjunction if len(terms) > 2 else ' or '}{terms[-1]}"
            if self._tail and draws.chance(style.habits.tailed):
                sentences, last = self._tail
                sentences[last] = sentences[last].removesuffix(".") + draws.pick(style.tails).format(list=names)
            else:
                groups["pleura"].append(_sentence(draws.pick(style.denials), list=names))

    def _negate(self, finding: str) -> str:
        words, tags = self._style.findings[finding], frozenset(self._case.views)
        template, term = self._draws.pick(words.negative.fitting(tags)), self._draws.pick(words.terms)
        return _sentence(template, term=term, ratio=f"{min(self._case.heart, 0.49):.2f}", gap=self._style.gap)

    def _sum_up(self, told: _Told) -> str:
        """Return what the impression says of one finding, advice included."""
        style, draws = self._style, self._draws
        text = self._say(told, told.words.summary if told.statement.state == "positive" else told.words.doubt)
        advice = [_capital(one.format_map(told.fields)) for one in told.words.advice.fitting(told.tags)]
        fresh = [one for one in advice if one not in self._used]
        if not fresh or not draws.chance(style.habits.advised):
            return text
        chosen = draws.pick(fresh)
        self._used.add(chosen)
        return f"{text} {chosen}"

    def _is_steady(self, kept: Sequence[_Told]) -> bool:
        same = all(t.statement.state == "positive" and t.lesion.change == "unchanged" for t in kept)
        return same and not any(t.statement.resolved for t in self._told.values())

    def _swallow(self, text: str) -> str:
        """Take one word out, as a de-identification does that is too eager."""
        found = list(self._style.swallowed.finditer(text))
        if not found:
            return text
        word = self._draws.pick(found)
        return text[: word.start()] + self._style.gap + text[word.end() :]


def _phrases(told: _Told) -> Phrases:
    """Return the phrases of the findings section for a statement."""
    if told.statement.resolved:
        return told.words.resolved
    return told.words.positive if told.statement.state == "positive" else told.words.uncertain
