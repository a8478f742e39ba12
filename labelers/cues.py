"""The cue resource -> cues, the phrases that carry them, and the words of grammar and of attributes."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import yaml

from labelers.mentions import Phrase
from labelers.types import ATTRIBUTES
from labelers.vocabulary import normal_phrase

__all__ = ["Cue", "CueSet", "load_cues"]


@dataclass(frozen=True, slots=True)
class Cue:
    """One entry of the cue resource.

    Attributes:
        name: Its name in evidence.
        effect: negative, uncertain, positive (graded), affirmed (ends a denial), historical or base (wording without a cue).
        probability: P(finding present) that it conveys.
        scope: forward, backward, forward_first, backward_first, both or alternatives.
        reach: next (one mention), adjacent (one that follows at once), part (not beyond its part of the clause), list (across
            the commas of a list) or empty.
        chronic: Probability where the finding persists once acquired (historical cues).
    """

    name: str
    effect: str
    probability: float
    scope: str
    reach: str = ""
    chronic: float = 0.0


@dataclass(frozen=True)
class CueSet:
    """The cues, the phrases that carry them and the words of grammar."""

    cues: tuple[Cue, ...]
    phrases: Mapping[str, Phrase]
    base: Mapping[str, float]


@cache
def load_cues() -> CueSet:
    """Load the shipped cue resource; it is the same for every vocabulary."""
    folder = importlib.resources.files("labelers.resources") / "cues"
    files = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".yaml")), key=lambda entry: entry.name)
    data = {file.name: yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader) for file in files}
    grammar = data.pop("grammar.yaml")
    attributes = data.pop("attributes.yaml")
    base = grammar.pop("base")
    fillers = grammar.pop("fillers")
    phrases: dict[str, Phrase] = {}
    for group, words in grammar.items():
        for text in words:
            form = text if text.startswith(" ") else normal_phrase(text)
            known = phrases.get(form, Phrase())
            phrases[form] = replace(known, grammar=known.grammar | {group})
    cues: list[Cue] = []
    for file in data.values():
        for item in file["cues"]:
            _add_cue(item, fillers, cues, phrases)
    _add_attributes(attributes, fillers, phrases)
    return CueSet(tuple(cues), phrases, base)


def _add_cue(item: Mapping[str, Any], fillers: Mapping[str, Sequence[str]], cues: list[Cue], phrases: dict[str, Phrase]) -> None:
    keys = {"cue": "", "effect": "", "probability": 0.0, "scope": "", "reach": "", "chronic": 0.0}
    cues.append(Cue(*(item.get(key, default) for key, default in keys.items())))
    told = (0, 0, ATTRIBUTES["change"].index(item.get("change", "")))
    for phrase in item["phrases"]:
        for text in _filled(phrase, fillers):
            known = phrases.get(text, Phrase(attributes=told))
            if len(cues) - 1 not in known.cues:
                phrases[text] = replace(known, cues=(*known.cues, len(cues) - 1))


def _add_attributes(
    attributes: Mapping[str, Mapping[str, Sequence[str]]], fillers: Mapping[str, Sequence[str]], phrases: dict[str, Phrase]
) -> None:
    for k, (name, values) in enumerate(ATTRIBUTES.items()):
        for value, listed in attributes[name].items():
            for text in (text for phrase in listed for text in _filled(phrase, fillers)):
                known = phrases.get(text, Phrase())
                codes = [*known.attributes]
                codes[k] = values.index(value)
                phrases[text] = replace(known, attributes=(codes[0], codes[1], codes[2]))


def _filled(phrase: str, fillers: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the phrases that a phrase with a place like <adverb> stands for: without it, and with each word of that list."""
    for name, words in fillers.items():
        if f"<{name}>" in phrase:
            return [text for word in ("", *words) for text in _filled(phrase.replace(f"<{name}>", word), fillers)]
    return [normal_phrase(phrase)]
