"""The cue resource -> cues, the phrases that carry them, and the words of grammar and of attributes."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from labelers.errors import InputError
from labelers.mentions import GROUPS, Phrase
from labelers.types import ATTRIBUTES
from labelers.vocabulary import decode_yaml, line_of, normal_phrase

__all__ = ["Cue", "CueSet", "load_cues", "read_cues"]


@dataclass(frozen=True, slots=True)
class Cue:
    """One entry of the cue resource.

    Attributes:
        name: Its name in evidence.
        effect: negative, uncertain, positive (graded), affirmed (ends a denial), historical or base (wording without a cue).
        probability: P(finding present) that it conveys.
        scope: forward, backward, forward_first, backward_first, both or alternatives.
        reach: next (one mention), adjacent (one that follows at once), part (not beyond its part of the clause), list (across
            the commas of a list), statement (a denial of a statement that may be a denial itself) or empty.
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


_EFFECTS = ("negative", "uncertain", "positive", "affirmed", "historical")
_SCOPES = ("forward", "backward", "forward_first", "backward_first", "both", "alternatives")
_REACHES = ("next", "adjacent", "part", "list", "statement")
_BASE = ("affirmed", "normal", "no abnormality", "borderline")
_WORDS: dict[str, Sequence[str]] = {"effect": _EFFECTS, "scope": _SCOPES, "reach": _REACHES, "change": ATTRIBUTES["change"][1:]}
_NEEDED = ("cue", "effect", "probability", "scope", "phrases")
_GRAMMAR, _ATTRIBUTES = "grammar.yaml", "attributes.yaml"


@cache
def load_cues() -> CueSet:
    """Load the shipped cue resource; it is the same for every vocabulary."""
    folder = importlib.resources.files("labelers.resources") / "cues"
    files = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".yaml")), key=lambda entry: entry.name)
    return read_cues({file.name: file.read_text(encoding="utf-8") for file in files})


def read_cues(texts: Mapping[str, str]) -> CueSet:
    """Read the files of a cue resource.

    Args:
        texts: Name of each file -> its YAML; ``grammar.yaml`` and ``attributes.yaml`` are among them, all others list cues.

    Raises:
        InputError: One of them is broken; the message names file, line and remedy.
    """
    data = {name: _checked(name, decode_yaml(text, name, "cue")) for name, text in texts.items()}
    grammar, attributes = data.pop(_GRAMMAR), data.pop(_ATTRIBUTES)
    fillers = grammar["fillers"]
    phrases: dict[str, Phrase] = {}
    for group in (key for key in grammar if key in GROUPS):
        for text in grammar[group]:
            form = text if text.startswith(" ") else normal_phrase(text)
            known = phrases.get(form, Phrase())
            phrases[form] = replace(known, grammar=known.grammar | {group})
    cues: list[Cue] = []
    for file in data.values():
        for item in file["cues"]:
            _add_cue(item, fillers, cues, phrases)
    _add_attributes(attributes, fillers, phrases)
    return CueSet(tuple(cues), phrases, grammar["base"])


def _checked(file: str, data: object) -> dict[str, Any]:
    """Return what a file holds, once it is all that is needed of that file."""
    if file == _GRAMMAR:
        out = _mapping(file, "the file", data, (*GROUPS, "base", "fillers"))
        for group in GROUPS:
            _phrases(file, out, group)
        for name, value in _mapping(file, "base", out["base"], _BASE, out, "base").items():
            _probability(file, out["base"], name, value)
        for name in _mapping(file, "fillers", out["fillers"], None, out, "fillers"):
            _phrases(file, out["fillers"], name)
        return out
    if file == _ATTRIBUTES:
        out = _mapping(file, "the file", data, tuple(ATTRIBUTES))
        for name, values in ATTRIBUTES.items():
            for value in _mapping(file, name, out[name], (), out, name, values[1:]):
                _phrases(file, out[name], value)
        return out
    out = _mapping(file, "the file", data, ("cues",))
    if not isinstance(out["cues"], list):
        raise _error(file, "key 'cues'", "a list of cues", out, "cues")
    for n, item in enumerate(out["cues"]):
        cue = _mapping(file, f"cue {n + 1}", item, _NEEDED, out["cues"], n, ("reach", "change", "chronic"))
        for key, words in _WORDS.items():
            if key in cue and cue[key] not in words:
                raise _error(file, f"key '{key}'", f"one of {', '.join(words)}", cue, key)
        if not isinstance(cue["cue"], str):
            raise _error(file, "key 'cue'", 'a name in words (quote "no")', cue, "cue")
        for key in ("probability", "chronic"):
            _probability(file, cue, key, cue.get(key, 0.0))
        _phrases(file, cue, "phrases")
    return out


def _error(file: str, where: str, expected: str, data: object = None, key: object = None) -> InputError:
    return InputError(f"{file}: {line_of(data, key)}{where}: expected {expected}; correct the cue file")


def _mapping(
    file: str,
    where: str,
    value: object,
    needed: Sequence[str] | None,
    data: object = None,
    key: object = None,
    allowed: Sequence[str] = (),
) -> dict[str, Any]:
    """Return a mapping that has the keys that are needed, where they are given, and no others but those allowed."""
    if not isinstance(value, dict):
        raise _error(file, where, f"a mapping, got {type(value).__name__}", data, key)
    if needed is not None:
        unknown = [name for name in value if name not in (*needed, *allowed)]
        if unknown:
            raise _error(file, f"{where}, key '{unknown[0]}'", f"a key among {', '.join((*needed, *allowed))}", value, unknown[0])
        missing = [name for name in needed if name not in value]
        if missing:
            raise _error(file, where, f"the key '{missing[0]}'", value)
    return value


def _phrases(file: str, data: Mapping[str, Any], key: str) -> None:
    if not isinstance(data[key], list):
        raise _error(file, f"key '{key}'", "a list of phrases", data, key)
    for n, phrase in enumerate(data[key]):
        if not isinstance(phrase, str) or not phrase.strip():
            raise _error(file, f"key '{key}'", "phrases in words (quote yes, no and numbers)", data[key], n)


def _probability(file: str, data: object, key: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise _error(file, f"key '{key}'", "a number from 0 to 1", data, key)


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
