"""The words of the phantom's hospitals: one YAML file a hospital, loaded once and checked.

Every file has the same keys. ``rates`` says how far the reports are from the pictures, ``habits`` how the hospital writes, all as
probabilities. Phrases are sentences with fields in braces (``FIELDS``); conditions may stand before them: ``[acute !many]`` keeps a
phrase for lesions that are acute and not several (``TAGS``). A noun phrase begins with an article where it takes one, with ``+``
where it is a plural; ``{a}`` is the phrase with its article, ``{np}`` without. ``{post}`` is where a comparison with the study
before may stand.

A new hospital is one more file, and one more row in ``cases.HOSPITALS``.
"""

from __future__ import annotations

import importlib.resources
import re
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from hybridpt.data._phantom.cases import FINDINGS, HOSPITALS, KINDS, SEVERITIES, ZONES

__all__ = ["FIELDS", "GROUPS", "TAGS", "Change", "Habits", "Layout", "Phrases", "Rates", "Remark", "Style", "Words", "styles"]

CHANGES = ("new", "unchanged", "larger", "smaller")
VIEWS = ("PA", "AP", "LATERAL")
LOOKS = ("bilateral", "uneven", "many", "possible")
TAGS = frozenset((*SEVERITIES, *ZONES, *CHANGES, *VIEWS, *LOOKS, *(kind for kinds in KINDS.values() for kind in kinds)))
"""What a condition may ask for: severity, zone, change, views of the study, kind; on both sides, more on one of them, several, in doubt."""
GROUPS: Mapping[str, tuple[str, ...]] = {
    "devices": ("Tube", "Catheter", "Implanted Device"),
    "heart": ("Cardiomegaly",),
    "lungs": ("Consolidation", "Edema", "Atelectasis", "Mass", "Nodule", "Calcified Granuloma", "Emphysema/COPD"),
    "pleura": ("Pleural Effusion", "Pneumothorax"),
    "middle": ("Hiatal Hernia",),
    "bones": ("Rib Fracture", "Scoliosis"),
}
"""What a report speaks of in one go; the order of the groups is the hospital's."""
FIELDS: Mapping[str, str] = {
    "a": "the noun phrase with its article",
    "np": "the noun phrase without it",
    "is": "is or are, by the noun phrase",
    "has": "has or have",
    "post": "where a comparison with the study before may end the sentence",
    "side": "right, left or bilateral, or how the hospital writes them",
    "greater": "the side that has more, of two",
    "lesser": "the other one",
    "on": "on which side",
    "where": "lung field or lobe",
    "lung": "which lung",
    "base": "base of which lung",
    "angle": "which costophrenic angle",
    "size": "small, moderate or large",
    "grade": "mild, moderate or severe",
    "gradely": "mildly, moderately or severely",
    "mm": "size as read, in mm",
    "cm": "the same in cm",
    "a_mm": "the same in mm, with unit and article",
    "a_cm": "the same in cm",
    "degrees": "Cobb's angle as read",
    "ratio": "cardiothoracic ratio",
    "n": "how many, as a word",
    "term": "what a denial calls the finding",
    "list": "several of these",
    "first": "the first of two findings in one sentence, with its article",
    "second": "the second one",
    "gap": "what stands for something taken out",
    "man": "man or woman",
    "sex": "M or F",
    "symptom": "why the picture was asked for",
    "asked": "what the ward wants to know",
    "past": "what the patient once had",
}
_SIDES = ("right", "left", "bilateral")
_PARTS = ("technique", "indication", "comparison", "findings", "impression")
_PICTURES = ("PA", "AP", "PA LATERAL", "AP AP")
_KEYS: Mapping[str, tuple[str, ...]] = {
    "sides": _SIDES,
    "places": ("on", "base", "angle", "lung", *ZONES),
    "views": _PICTURES,
    "openers": _PICTURES,
    "indications": ("texts", "PA", "AP", "asked", "past"),
    "comparisons": ("first", "later", "past"),
}
_CONDITIONS = re.compile(r"\[([^\]]+)\] ")


class Phrases:
    """Phrases to choose from, some of them only for lesions of a certain look.

    Args:
        texts: Each may begin with conditions in brackets: tags that must hold, or with ``!`` must not.

    Raises:
        ValueError: An unknown condition or field.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = tuple(texts)
        self._parsed = [_parse(text) for text in texts]
        self._asked = frozenset(tag for asked, barred, _ in self._parsed for tag in asked | barred)
        self._memory: dict[frozenset[str], tuple[str, ...]] = {}

    def __len__(self) -> int:
        return len(self.texts)

    def __iter__(self) -> Iterator[str]:
        return (text for _, _, text in self._parsed)

    def fitting(self, tags: frozenset[str]) -> tuple[str, ...]:
        """Return the phrases whose conditions hold, without their conditions."""
        key = tags & self._asked
        if key not in self._memory:
            self._memory[key] = tuple(text for asked, barred, text in self._parsed if asked <= key and not barred & key)
        return self._memory[key]


def _parse(text: str) -> tuple[frozenset[str], frozenset[str], str]:
    found = _CONDITIONS.match(text)
    words = found[1].split() if found else []
    body = text[found.end() :] if found else text
    asked, barred = (frozenset(w.lstrip("!") for w in words if w.startswith("!") == no) for no in (False, True))
    wrong = sorted((asked | barred) - TAGS) + sorted(
        {name for _, name, _, _ in string.Formatter().parse(body) if name} - set(FIELDS)
    )
    if wrong:
        raise ValueError(f"'{text}': '{wrong[0]}' is neither a condition nor a field; correct the word")
    return asked, barred, body


@dataclass(frozen=True, slots=True)
class Rates:
    """How far the reports of one hospital are from the pictures, for one finding.

    Attributes:
        omitted: Of the present, neither stated nor hedged, by severity; then denied or left out like an absent one, but the
            obvious is never denied.
        hedged: Of the present that are not omitted, stated as possible, by severity.
        overcalled: Of the absent, stated as present.
        hedged_absent: Of the absent, stated as possible.
        denied: Of the rest, stated as absent; what remains is not mentioned.
    """

    omitted: tuple[float, float, float]
    hedged: tuple[float, float, float]
    overcalled: float
    hedged_absent: float
    denied: float


@dataclass(frozen=True, slots=True)
class Habits:
    """How a hospital writes, as probabilities that have no bearing on what is stated.

    Attributes:
        typos: A typing error in a word of five letters or more.
        gaps: A word taken out of the findings by the de-identification.
        listed: Two or more denials joined in one list.
        tailed: That list hung on the sentence before it.
        joined: Two findings that follow each other told in one sentence.
        compared: What became of a lesion since the study before is told.
        resolved: A finding of the study before that is gone is said to be gone.
        advised: Advice follows a finding in the impression.
        passed_over: A minor finding is left out of the impression.
        opened: The findings begin with the views.
        headerless: No headers, and neither history nor comparison.
    """

    typos: float
    gaps: float
    listed: float
    tailed: float
    joined: float
    compared: float
    resolved: float
    advised: float
    passed_over: float
    opened: float
    headerless: float


@dataclass(frozen=True, slots=True)
class Layout:
    """Parts of a report in order as (name, header), what stands before and between them, and how often a part is left out."""

    opening: str
    between: str
    numbered: bool
    parts: tuple[tuple[str, str], ...]
    left_out: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Change:
    """Words for one change since the study before: adjectives before the noun, and what may end the sentence."""

    before: tuple[str, ...]
    after: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Words:
    """How a hospital words one finding, its family's phrases included.

    Attributes:
        nouns: Noun phrases.
        terms: What a denial calls it.
        positive: Sentences that state it; ``uncertain``, ``negative`` and ``resolved`` accordingly.
        summary: Phrases of the impression for a stated one, ``doubt`` for a possible one.
        advice: What may follow in the impression.
        changes: Words for its changes.
    """

    nouns: Phrases
    terms: tuple[str, ...]
    positive: Phrases
    uncertain: Phrases
    negative: Phrases
    resolved: Phrases
    summary: Phrases
    doubt: Phrases
    advice: Phrases
    changes: Mapping[str, Change]


@dataclass(frozen=True, slots=True)
class Remark:
    """A sentence about an organ or the whole chest, which may deny several findings.

    Attributes:
        group: Where it stands.
        chance: How often it is made where it may be.
        denies: What it denies; it is made only where the report denies all of these.
        unless: What the report must not state or hedge.
        keeps: What it denies and a list of denials may name again.
        otherwise: It speaks of the rest: some of what it would deny is stated, all else is denied.
        texts: The sentences.
    """

    group: str
    chance: float
    texts: tuple[str, ...]
    denies: frozenset[str] = frozenset()
    unless: frozenset[str] = frozenset()
    keeps: frozenset[str] = frozenset()
    otherwise: bool = False


@dataclass(frozen=True, slots=True)
class Style:
    """How one hospital writes its reports; attributes are the keys of its file."""

    name: str
    gap: str
    habits: Habits
    rates: Mapping[str, Rates]
    layout: Layout
    orders: tuple[tuple[str, ...], ...]
    lists: tuple[str, ...]
    conjunction: str
    denials: tuple[str, ...]
    tails: tuple[str, ...]
    joins: tuple[str, ...]
    swallowed: re.Pattern[str]
    sides: Mapping[str, tuple[str, ...]]
    places: Mapping[str, Mapping[str, str]]
    sizes: tuple[tuple[str, ...], ...]
    grades: tuple[tuple[str, ...], ...]
    gradely: tuple[tuple[str, ...], ...]
    numbers: tuple[str, ...]
    views: Mapping[str, tuple[str, ...]]
    openers: Mapping[str, tuple[str, ...]]
    indications: Mapping[str, tuple[str, ...]]
    comparisons: Mapping[str, tuple[str, ...]]
    remarks: tuple[Remark, ...]
    acute: Remark
    normal: tuple[str, ...]
    steady: tuple[str, ...]
    findings: Mapping[str, Words]


@cache
def styles() -> Mapping[str, Style]:
    """Return the style of every hospital that gives text.

    Raises:
        ValueError: A file lacks a key, has one too many, or holds a rate, condition or field that cannot be.
    """
    return {name: _load(name) for name, hospital in HOSPITALS.items() if hospital.text}


def _load(name: str) -> Style:
    text = (importlib.resources.files(__name__) / f"{name}.yaml").read_text(encoding="utf-8")
    data = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    try:
        return _style(name, data)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"words/{name}.yaml: {error}") from error


def _style(name: str, data: dict[str, Any]) -> Style:
    families, rates, words = (data.pop(key) for key in ("families", "rates", "findings"))
    _check_keys("rates", rates, FINDINGS)
    _check_keys("findings", words, FINDINGS)
    for key, expected in _KEYS.items():
        _check_keys(key, data[key], expected)
    return Style(
        name=name,
        habits=Habits(**{habit: _chance(value) for habit, value in data.pop("habits").items()}),
        rates={finding: _rates(**rates[finding]) for finding in FINDINGS},
        layout=_layout(**data.pop("layout")),
        orders=tuple(_order(order) for order in data.pop("orders")),
        swallowed=re.compile(rf"\b(?:{'|'.join(data.pop('swallowed'))})\b"),
        remarks=tuple(_remark(**remark) for remark in data.pop("remarks")),
        acute=_remark(**data.pop("acute")),
        findings={finding: _words(families[words[finding].pop("family")], **words[finding]) for finding in FINDINGS},
        **{key: _frozen(value) for key, value in data.items()},
    )


def _check_keys(what: str, found: Iterable[str], expected: Iterable[str]) -> None:
    odd = sorted(set(found) ^ set(expected))
    if odd:
        raise ValueError(f"{what}: '{odd[0]}' is missing or unknown")


def _chance(value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"expected a probability, got {value}")
    return float(value)


def _rates(omitted: list[float], hedged: list[float], **others: float) -> Rates:
    if sorted(omitted, reverse=True) != omitted or sorted(hedged, reverse=True) != hedged:
        raise ValueError(f"what is more severe must not be omitted or hedged more often: {omitted}, {hedged}")
    first, second, third = map(_chance, omitted)
    subtle, moderate, obvious = map(_chance, hedged)
    return Rates((first, second, third), (subtle, moderate, obvious), **{name: _chance(rate) for name, rate in others.items()})


def _layout(parts: list[list[str]], **others: Any) -> Layout:
    _check_keys("layout", (name for name, _ in parts), _PARTS)
    return Layout(parts=tuple((name, header) for name, header in parts), **others)


def _order(groups: list[str]) -> tuple[str, ...]:
    _check_keys("orders", groups, GROUPS)
    return tuple(groups)


def _remark(texts: list[str], group: str = "", chance: float = 1.0, otherwise: bool = False, **findings: list[str]) -> Remark:
    for name in findings:
        _check_keys(name, {*findings[name], *FINDINGS}, FINDINGS)
    sets = {name: frozenset(some) for name, some in findings.items()}
    return Remark(group=group, chance=_chance(chance), texts=_frozen(texts), otherwise=otherwise, **sets)


def _words(family: dict[str, Any], nouns: list[str], terms: list[str], advice: list[str], **own: list[str]) -> Words:
    """Join the phrases of a finding with those of its family."""
    _check_keys("phrases", own, ("positive", "uncertain", "negative", "resolved"))
    states = {state: Phrases((*family[state], *own[state])) for state in own}
    _check_keys("changes", family["changes"], CHANGES)
    return Words(
        nouns=Phrases(nouns),
        terms=tuple(terms),
        advice=Phrases(advice),
        summary=Phrases(family["summary"]),
        doubt=Phrases(family["doubt"]),
        changes={name: Change(*map(_frozen, (change["before"], change["after"]))) for name, change in family["changes"].items()},
        **states,
    )


def _frozen(value: Any) -> Any:
    """Turn lists into tuples, at any depth; the phrases of plain lists are checked as all others."""
    if isinstance(value, dict):
        return {key: _frozen(one) for key, one in value.items()}
    if isinstance(value, list):
        return tuple(_frozen(one) for one in value)
    if isinstance(value, str):
        _parse(value)
    return value
