"""A vocabulary file -> the findings and the words that name them."""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from labelers.errors import InputError, unknown_name
from labelers.io.text import decode
from labelers.types import Finding, Vocabulary

__all__ = [
    "ABNORMAL",
    "BORDERLINE",
    "DENIED",
    "PRESENT",
    "UNAFFECTED",
    "Lexicon",
    "Target",
    "decode_yaml",
    "load_vocabulary",
    "normal_phrase",
    "plurals",
]

PRESENT, BORDERLINE, DENIED, UNAFFECTED, ABNORMAL = range(5)
"""What a phrase says of a finding: it is there; it is borderline; it is denied ("heart is normal"); it is denied where the
phrase is negated ("no acute disease"); something abnormal is there, which contradicts No Finding."""

NO_FINDING = "No Finding"
_KEYS = {
    "extends",
    "name",
    "version",
    "anatomy",
    "observations",
    "findings",
    "shared",
    "normal",
    "unaffected",
    "abnormal",
    "ignored",
}
_PHRASE_KEYS = ("terms", "patterns", "borderline", "borderline_terms")
_FLAGS = ("chronic", "names_parent", "harmless")
_FINDING_KEYS = {"name", "parent", *_FLAGS, *_PHRASE_KEYS}
_SHARED_KEYS = {"terms", "patterns", "findings"}
_NORMAL_KEYS = {"terms", "patterns", "denies", "affirms"}
DEEPEST = 10
"""Brackets within brackets in a vocabulary file at the most; libyaml's own recursion ends the program at some ten thousand."""
LONGEST_PHRASE = 1000
"""Characters of a word or phrase in a vocabulary file at the most."""


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """What a matched phrase says of one finding.

    Attributes:
        finding: Column of the finding.
        role: PRESENT, BORDERLINE, DENIED, UNAFFECTED or ABNORMAL.
        affirms: The finding is No Finding and the wording supports it (the opposite of what the role does to the others).
    """

    finding: int
    role: int
    affirms: bool = False


@dataclass(frozen=True)
class Lexicon:
    """A vocabulary with its matching knowledge; phrases are lower case with single spaces.

    Attributes:
        vocabulary: The findings.
        terms: Phrase -> what it says; an empty tuple keeps shorter phrases inside it from matching.
        anatomy: Phrase -> anatomical classes.
        observations: Phrase -> classes of observations.
        patterns: (anatomical class, class of observation) -> what both in one clause say.
        chronic: Columns of findings that persist once acquired.
        names_parent: Columns of findings whose denial denies the parent where nothing else is said of it.
        no_finding: Column of "No Finding", or None.
        harmless: Columns of what is no abnormality (a nipple's shadow), so that it does not contradict "No Finding".
    """

    vocabulary: Vocabulary
    terms: Mapping[str, tuple[Target, ...]]
    anatomy: Mapping[str, tuple[str, ...]]
    observations: Mapping[str, tuple[str, ...]]
    patterns: Mapping[tuple[str, str], tuple[Target, ...]]
    chronic: frozenset[int]
    names_parent: frozenset[int]
    no_finding: int | None
    harmless: frozenset[int] = frozenset()

    def synonyms(self, finding: int) -> list[str]:
        """Return the phrases that name a finding by themselves, in the order of the files and without the plurals made of them."""
        phrases = [p for p, targets in self.terms.items() if any(t.finding == finding and t.role in _NAMING for t in targets)]
        made = {form for phrase in phrases for form in forms(phrase)[1:]}
        return [phrase for phrase in phrases if phrase not in made]


_NAMING = (PRESENT, BORDERLINE)


def load_vocabulary(name_or_path: str = "chest") -> Lexicon:
    """Load a vocabulary with its synonyms and patterns.

    Args:
        name_or_path: Name of a shipped vocabulary, or path of a user's file ending in .yaml or .yml. Such a file may add to a
            shipped vocabulary with ``extends: NAME``: what it defines comes on top, and a finding that it names again has more
            synonyms.

    Raises:
        UsageError: No shipped vocabulary has that name.
        InputError: The file is missing or broken; the message names file, line or key, and the remedy.
    """
    if name_or_path.lower().endswith((".yaml", ".yml")):
        try:
            text = decode(Path(name_or_path).read_bytes(), name_or_path)
        except OSError as error:
            raise InputError(f"{name_or_path}: {error.strerror}; give the path of a vocabulary file") from None
        return _Reader(name_or_path).read(text)
    if name_or_path not in _shipped():
        raise unknown_name("vocabulary", name_or_path, _shipped())
    return _Reader(name_or_path).read(_shipped()[name_or_path].read_text(encoding="utf-8"))


def _shipped() -> dict[str, Traversable]:
    folder = importlib.resources.files("labelers.resources") / "vocabulary"
    return {entry.name.removesuffix(".yaml"): entry for entry in folder.iterdir() if entry.name.endswith(".yaml")}


@cache
def _shipped_data(name: str) -> dict[str, Any]:
    """Parse a shipped vocabulary; the caller must not change it."""
    return _Reader(name).checked(_shipped()[name].read_text(encoding="utf-8"))


def plurals(phrase: str) -> list[str]:
    """Return the regular plurals of a phrase's last word."""
    if re.search(r"[^aeiou]y$", phrase):
        return [phrase[:-1] + "ies"]
    if phrase.endswith("sis"):
        return [phrase[:-2] + "es"]
    if phrase.endswith("thorax"):
        return [phrase[:-2] + "aces"]
    if phrase.endswith("s") and not phrase.endswith("ss"):
        return []
    if phrase.endswith(("x", "ch", "sh", "ss")):
        return [phrase + "es"]
    if phrase.endswith("um"):
        return [phrase + "s", phrase[:-2] + "a"]
    return [phrase + "s"]


_BRITISH = {
    r"edema": "oedema",
    r"h(em[ao])": r"ha\1",
    r"esoph": "oesoph",
    r"tumor": "tumour",
    r"ischem": "ischaem",
    r"anem": "anaem",
    r"fiber": "fibre",
    r"center": "centre",
    r"caliber": "calibre",
    r"(de|under)?mineraliz": r"\1mineralis",
    r"gray": "grey",
}
"""Pieces of words as they are spelled in America -> in Britain."""


def forms(phrase: str) -> list[str]:
    """Return a phrase with its regular plurals, each as it is spelled on both sides of the Atlantic."""
    out = [phrase, *plurals(phrase)]
    return list(dict.fromkeys([*out, *(form for one in out if (form := _british(one)) != one)]))


def _british(phrase: str) -> str:
    for american, british in _BRITISH.items():
        phrase = re.sub(american, british, phrase)
    return phrase


class _Loader(yaml.CSafeLoader):
    """Builds no objects of Python's, and takes neither of two values that one key has, nor mappings merged by ``<<``."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge" or (isinstance(key, yaml.ScalarNode) and key.value in seen):
                raise yaml.constructor.ConstructorError(None, None, "one key twice, or the key <<", key.start_mark)
            seen.add(str(key.value))
        return dict(super().construct_mapping(node, deep))

    def mapping(self, node: yaml.MappingNode) -> Mapped:
        """Build a mapping that knows where its keys stand."""
        out = Mapped(self.construct_mapping(node, deep=True))
        marks = [key.start_mark for key, _ in node.value]
        out.lines = {name: mark.line + 1 for name, mark in zip(out, marks, strict=True)}
        return out

    def sequence(self, node: yaml.SequenceNode) -> Listed:
        """Build a list that knows where its entries stand."""
        out = Listed(self.construct_sequence(node, deep=True))
        out.lines = dict(enumerate(entry.start_mark.line + 1 for entry in node.value))
        return out


class Mapped(dict[Any, Any]):
    """A mapping of a YAML file, with the line of each key."""

    lines: dict[Any, int]


class Listed(list[Any]):
    """A list of a YAML file, with the line of each entry by its position."""

    lines: dict[Any, int]


Mapped.__name__, Listed.__name__ = "dict", "list"  # what an error calls them
_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.mapping)
_Loader.add_constructor("tag:yaml.org,2002:seq", _Loader.sequence)


def line_of(data: object, key: object = None) -> str:
    """Return "line N: " for a key or position of what ``decode_yaml`` gave, or for its first one; "" where there is none."""
    lines: dict[Any, int] = getattr(data, "lines", {})
    line = lines.get(key, next(iter(lines.values()), 0) if key is None else 0)
    return f"line {line}: " if line else ""


def decode_yaml(text: str, path: str, what: str) -> object:
    """Read YAML that a user wrote: plain data, each key once, no deep nesting and no endless words.

    Args:
        text: The YAML.
        path: What an error calls the file.
        what: Kind of file, such as ``"vocabulary"``, for the remedy.

    Raises:
        InputError: It is not such YAML; the message names file and line.
    """
    try:
        _check_shape(text, path, what)
        return yaml.load(text, Loader=_Loader)
    except InputError:
        raise
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"{path}, line {line}: not YAML ({error.problem}); correct the syntax") from None
    except Exception:  # a tag such as !!int or !!timestamp before other words raises whatever int() and the like do
        raise InputError(f"{path}: not YAML; correct the syntax") from None


def _check_shape(text: str, path: str, what: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST or (isinstance(event, yaml.ScalarEvent) and len(event.value) > LONGEST_PHRASE):
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise InputError(
                f"{path}: line {line}: expected phrases of at most {LONGEST_PHRASE} characters, at most {DEEPEST} brackets or "
                f"indentations deep; correct the {what} file"
            )


@dataclass
class _Reader:
    """Reads one file, and the shipped one that it extends before it; every complaint names the file."""

    path: str
    names: dict[str, int] = field(default_factory=dict)
    terms: dict[str, set[Target]] = field(default_factory=dict)
    patterns: dict[tuple[str, str], set[Target]] = field(default_factory=dict)
    anatomy: dict[str, tuple[str, ...]] = field(default_factory=dict)
    observations: dict[str, tuple[str, ...]] = field(default_factory=dict)
    classes: tuple[set[str], set[str]] = field(default_factory=lambda: (set(), set()))

    def read(self, text: str) -> Lexicon:
        data = self.checked(text)
        layers = [data] if "extends" not in data else [_shipped_data(self._extended(data)), data]
        findings = self._merged(layers)
        self.names = {finding.name: k for k, finding in enumerate(findings)}
        entries = [entry for layer in layers for entry in layer.get("findings", [])]
        for layer in layers:
            self._classes(layer, "anatomy", 0)
            self._classes(layer, "observations", 1)
        for layer in layers:  # a later layer's terms win over the phrases that an earlier one ignores
            for entry in layer.get("findings", []):
                self._finding_rules(self.names[entry["name"]], entry)
            self._shared(layer)
            self._normal(layer)
        vocabulary = self._vocabulary(layers, findings)
        flagged = {key: frozenset(self.names[entry["name"]] for entry in entries if entry.get(key)) for key in _FLAGS}
        return Lexicon(
            vocabulary=vocabulary,
            terms={phrase: tuple(sorted(targets)) for phrase, targets in self.terms.items()},
            anatomy=self.anatomy,
            observations=self.observations,
            patterns={pair: tuple(sorted(targets)) for pair, targets in self.patterns.items()},
            chronic=flagged["chronic"],
            names_parent=flagged["names_parent"],
            no_finding=self.names.get(NO_FINDING),
            harmless=flagged["harmless"],
        )

    def checked(self, text: str) -> dict[str, Any]:
        """Parse the file and check what can be told of it alone."""
        data = self._mapping(decode_yaml(text, self.path, "vocabulary"), "the file", _KEYS)
        self._check_findings(data)
        return data

    def _error(self, where: str, expected: str, data: object = None, key: object = None) -> InputError:
        """Return the complaint about a key or entry of a part of the file."""
        return InputError(f"{self.path}: {line_of(data, key)}{where}: expected {expected}; correct the vocabulary file")

    def _extended(self, data: Mapping[str, Any]) -> str:
        name, known = data["extends"], sorted(_shipped())
        if not isinstance(name, str) or name not in known:
            got = f"'{name}'" if isinstance(name, str) else type(name).__name__
            raise self._error("key 'extends'", f"a shipped vocabulary ({', '.join(known)}), got {got}", data, "extends")
        return name

    def _mapping(self, value: object, where: str, keys: set[str], data: object = None, key: object = None) -> dict[str, Any]:
        if not isinstance(value, dict):
            expected = f"a mapping with keys among {', '.join(sorted(keys))}, got {type(value).__name__}"
            raise self._error(where, expected, data, key)
        unknown = [str(key) for key in value if key not in keys]
        if unknown:
            raise self._error(f"{where}, key '{unknown[0]}'", f"a key among {', '.join(sorted(keys))}", value, unknown[0])
        return value

    def _list(self, data: Mapping[str, Any], key: str, where: str) -> list[Any]:
        value = data.get(key, [])
        if not isinstance(value, list):
            raise self._error(f"{where}key '{key}'", f"a list, got {type(value).__name__}", data, key)
        return value

    def _phrases(self, data: Mapping[str, Any], key: str, where: str) -> list[str]:
        phrases = []
        for n, phrase in enumerate(self._list(data, key, where)):
            if not isinstance(phrase, str) or not phrase.strip():
                expected = f"phrases in words (quote yes, no and numbers), got {type(phrase).__name__}"
                raise self._error(f"{where}key '{key}'", expected, data[key], n)
            phrases.append(normal_phrase(phrase))
        return phrases

    def _check_findings(self, data: Mapping[str, Any]) -> None:
        entries = self._list(data, "findings", "")
        if not entries and "extends" not in data:
            raise self._error("key 'findings'", "a list of one finding or more", data, "findings")
        for k, entry in enumerate(entries, start=1):
            entry = self._mapping(entry, f"findings, entry {k}", _FINDING_KEYS, entries, k - 1)
            name, parent = entry.get("name"), entry.get("parent")
            if not isinstance(name, str) or not isinstance(parent, str | None):
                expected = "'name' (and 'parent', where given) in words"
                raise self._error(f"findings, entry {k}", expected, entries, k - 1)
            for key in _FLAGS:
                if not isinstance(entry.get(key, False), bool):
                    raise self._error(f"findings, '{name}', key '{key}'", "true or false", entry, key)

    def _merged(self, layers: list[dict[str, Any]]) -> tuple[Finding, ...]:
        """Return the findings of all layers; one that a later layer names again keeps its place and its parent."""
        known: set[str] = set()
        findings = []
        for layer in layers:
            for entry in layer.get("findings", []):
                name = entry["name"]
                if name not in known:
                    findings.append(Finding(name, entry.get("parent")))
                    continue
                changed = [key for key in ("parent", *_FLAGS) if key in entry]
                if changed:
                    raise self._error(
                        f"findings, '{name}', key '{changed[0]}'",
                        f"{', '.join(_PHRASE_KEYS)} alone, since '{layers[0].get('name')}' defines this finding already",
                        entry,
                        changed[0],
                    )
            known |= {finding.name for finding in findings}
        return tuple(findings)

    def _vocabulary(self, layers: list[dict[str, Any]], findings: tuple[Finding, ...]) -> Vocabulary:
        data = layers[-1]
        name = data.get("name", Path(self.path).stem)
        version = data.get("version", "1")
        if not isinstance(name, str) or not isinstance(version, str | int | float):
            raise self._error("keys 'name' and 'version'", "words", data, "version" if isinstance(name, str) else "name")
        content = data if len(layers) == 1 else layers
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
        try:
            return Vocabulary(name, str(version), findings, digest)
        except InputError as error:
            raise InputError(f"{self.path}: {error}") from None

    def _classes(self, data: Mapping[str, Any], key: str, kind: int) -> None:
        groups = data.get(key, {})
        if not isinstance(groups, dict):
            raise self._error(f"key '{key}'", "a mapping from class to phrases", data, key)
        out = (self.anatomy, self.observations)[kind]
        for name in groups:
            if not isinstance(name, str):
                expected = f"classes in words (quote yes, no and numbers), got {type(name).__name__}"
                raise self._error(f"key '{key}'", expected, groups, name)
            self.classes[kind].add(name)
            for phrase in self._phrases(groups, name, f"{key}, "):
                for form in dict.fromkeys((phrase, _british(phrase))):
                    if name not in out.get(form, ()):
                        out[form] = (*out.get(form, ()), name)

    def _add(
        self, rule: Mapping[str, Any], where: str, targets: Iterable[Target], terms: str = "terms", patterns: str = "patterns"
    ) -> None:
        targets = set(targets)
        for phrase in self._phrases(rule, terms, where):
            for form in forms(phrase):
                self.terms.setdefault(form, set()).update(targets)
        for n, pattern in enumerate(self._phrases(rule, patterns, where)):
            pair = tuple(part.strip() for part in pattern.split("+"))
            if len(pair) != 2 or pair[0] not in self.classes[0] or pair[1] not in self.classes[1]:
                expected = "'ANATOMY + OBSERVATION', both classes of this file"
                raise self._error(f"{where}key '{patterns}'", expected, rule[patterns], n)
            self.patterns.setdefault((pair[0], pair[1]), set()).update(targets)

    def _finding_rules(self, k: int, entry: Mapping[str, Any]) -> None:
        where = f"findings, '{entry['name']}', "
        affirms = entry["name"] == NO_FINDING
        self._add(entry, where, [Target(k, PRESENT, affirms)])
        self._add(entry, where, [Target(k, BORDERLINE)], "borderline_terms", "borderline")

    def _shared(self, data: Mapping[str, Any]) -> None:
        for n, rule in enumerate(self._list(data, "shared", ""), start=1):
            rule = self._mapping(rule, f"shared, entry {n}", _SHARED_KEYS, data["shared"], n - 1)
            self._add(
                rule,
                f"shared, entry {n}, ",
                [Target(k, PRESENT) for k in self._columns(rule, "findings", f"shared, entry {n}, ")],
            )

    def _normal(self, data: Mapping[str, Any]) -> None:
        for key, role in (("normal", DENIED), ("unaffected", UNAFFECTED)):
            for n, rule in enumerate(self._list(data, key, ""), start=1):
                where = f"{key}, entry {n}, "
                rule = self._mapping(rule, f"{key}, entry {n}", _NORMAL_KEYS, data[key], n - 1)
                denied = [Target(k, role) for k in self._columns(rule, "denies", where)]
                affirmed = [Target(k, role, affirms=True) for k in self._columns(rule, "affirms", where)]
                self._add(rule, where, denied + affirmed)
        no_finding = self.names.get(NO_FINDING)
        self._add(data, "", [Target(no_finding, ABNORMAL)] if no_finding is not None else [], "abnormal")
        for phrase in self._phrases(data, "ignored", ""):
            for form in forms(phrase):
                self.terms[form] = set()

    def _columns(self, rule: Mapping[str, Any], key: str, where: str) -> list[int]:
        names = self._list(rule, key, where)
        for n, name in enumerate(names):
            if not isinstance(name, str) or name not in self.names:
                got = f"'{name}'" if isinstance(name, str) else type(name).__name__
                raise self._error(f"{where}key '{key}'", f"names of findings of this file, got {got}", names, n)
        return [self.names[name] for name in names]


def normal_phrase(phrase: str) -> str:
    """Bring a phrase of a resource into the form that matching uses: lower case, hyphens inside words and space as one space."""
    return re.sub(r"\s+", " ", re.sub(r"(?<=\w)-(?=\w)", " ", phrase.lower())).strip()
