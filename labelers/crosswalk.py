"""Label schemes of data sets and our findings: which label means which finding, and tables from one to the other."""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources.abc import Traversable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelers.errors import InputError, shown_names, unknown_name
from labelers.io.text import decode
from labelers.types import NEGATIVE, POSITIVE, UNCERTAIN, UNMENTIONED, Evidence, Finding, LabelTable, Vocabulary
from labelers.vocabulary import decode_yaml, load_vocabulary

__all__ = ["RELATIONS", "Crosswalk", "Link", "from_scheme", "listed", "load_crosswalk", "shipped_crosswalks", "to_scheme"]

RELATIONS = ("exact", "broader", "narrower")
"""What a label of theirs is to a finding of ours: the same; it holds more, so that ours implies theirs; it holds less."""
_NONE = "none"
_KEYS = {"name", "source", "count", "labels"}


@dataclass(frozen=True, slots=True)
class Link:
    """What one label of a scheme means.

    Attributes:
        label: The label as the data set spells it.
        exact: Our finding that means the same, or None.
        broader: Findings of ours that imply the label, which holds more than any of them.
        narrower: Findings of ours that the label implies, since it holds less.
        reason: Why nothing of ours corresponds; empty where something does.
    """

    label: str
    exact: str | None = None
    broader: tuple[str, ...] = ()
    narrower: tuple[str, ...] = ()
    reason: str = ""

    @property
    def implied_by(self) -> tuple[str, ...]:
        """Our findings whose presence means that the label holds."""
        return (*self._same, *self.broader)

    @property
    def implies(self) -> tuple[str, ...]:
        """Our findings that are present where the label holds."""
        return (*self._same, *self.narrower)

    @property
    def _same(self) -> tuple[str, ...]:
        return () if self.exact is None else (self.exact,)

    def relations(self) -> dict[str, tuple[str, ...]]:
        """Return the findings of each relation, without the empty ones, in the order of ``RELATIONS``."""
        return {name: found for name, found in zip(RELATIONS, (self._same, self.broader, self.narrower), strict=True) if found}


@dataclass(frozen=True)
class Crosswalk:
    """A label scheme and what its labels mean.

    Attributes:
        name: Name of the scheme; the source of tables made from it.
        source: Where the list of labels stands.
        links: One a label, in the scheme's order.
    """

    name: str
    source: str
    links: tuple[Link, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The scheme's labels in order."""
        return tuple(link.label for link in self.links)


def load_crosswalk(name_or_path: str, vocabulary: Vocabulary | None = None) -> Crosswalk:
    """Load a cross-walk.

    Args:
        name_or_path: Name of a shipped cross-walk, or path of a user's file ending in .yaml or .yml.
        vocabulary: Its findings may be named, beside those of the shipped vocabulary "chest".

    Raises:
        UsageError: No shipped cross-walk has that name.
        InputError: The file is missing or broken (an unknown finding or relation, a label twice, a wrong count); the message
            names file, line or key, and the remedy.
    """
    known = set(_chest().names) | set(vocabulary.names if vocabulary is not None else ())
    if name_or_path.lower().endswith((".yaml", ".yml")):
        try:
            text = decode(Path(name_or_path).read_bytes(), name_or_path)
        except OSError as error:
            raise InputError(f"{name_or_path}: {error.strerror}; give the path of a cross-walk file") from None
    else:
        if name_or_path not in _shipped():
            raise unknown_name("cross-walk", name_or_path, _shipped())
        text = _shipped()[name_or_path].read_text(encoding="utf-8")
    return _Reader(name_or_path, known).read(text)


def shipped_crosswalks() -> tuple[str, ...]:
    """Return the names of the cross-walks that come with the package."""
    return tuple(sorted(_shipped()))


def _shipped() -> dict[str, Traversable]:
    folder = importlib.resources.files("labelers.resources") / "crosswalks"
    return {entry.name.removesuffix(".yaml"): entry for entry in folder.iterdir() if entry.name.endswith(".yaml")}


@cache
def _chest() -> Vocabulary:
    return load_vocabulary("chest").vocabulary


@dataclass
class _Reader:
    """Reads one file; every complaint names it."""

    path: str
    known: set[str]

    def read(self, text: str) -> Crosswalk:
        data = decode_yaml(text, self.path, "cross-walk")
        if not isinstance(data, dict):
            raise self._error("the file", f"a mapping with the keys {', '.join(sorted(_KEYS))}, got {type(data).__name__}")
        wrong = [str(key) for key in data if key not in _KEYS] + [key for key in sorted(_KEYS) if key not in data]
        if wrong:
            raise self._error(f"key '{wrong[0]}'", f"the keys {', '.join(sorted(_KEYS))}, each once")
        name, source, count, labels = data["name"], data["source"], data["count"], data["labels"]
        if not isinstance(name, str) or not isinstance(source, str):
            raise self._error("keys 'name' and 'source'", "words")
        if not isinstance(labels, dict) or not labels:
            raise self._error("key 'labels'", "a mapping from label to what it means")
        if count != len(labels):
            raise self._error("key 'count'", f"the number of labels, {len(labels)}, got {count}")
        links = tuple(self._link(label, meaning) for label, meaning in labels.items())
        try:
            Vocabulary.of([link.label for link in links])  # labels name columns of tables, as findings do
        except InputError as error:
            raise InputError(f"{self.path}: key 'labels': {error}") from None
        return Crosswalk(name, source, links)

    def _error(self, where: str, expected: str) -> InputError:
        return InputError(f"{self.path}: {where}: expected {expected}; correct the cross-walk file")

    def _link(self, label: object, meaning: object) -> Link:
        if not isinstance(label, str):
            raise self._error("key 'labels'", f"labels in words (quote yes, no and numbers), got {type(label).__name__}")
        where = f"labels, '{label}'"
        if not isinstance(meaning, dict) or not meaning:
            raise self._error(where, f"a mapping with keys among {', '.join(RELATIONS)}, or {_NONE}: REASON")
        unknown = [str(key) for key in meaning if key not in (*RELATIONS, _NONE)]
        if unknown:
            raise self._error(f"{where}, key '{unknown[0]}'", f"a relation among {', '.join(RELATIONS)} and {_NONE}")
        if _NONE in meaning:
            reason = meaning[_NONE]
            if len(meaning) > 1 or not isinstance(reason, str) or not reason.strip():
                raise self._error(f"{where}, key '{_NONE}'", "a reason in words, and no relation beside it")
            return Link(label, reason=reason)
        found = {relation: self._findings(meaning, relation, where) for relation in RELATIONS}
        if len(found["exact"]) > 1:
            raise self._error(f"{where}, key 'exact'", "one finding; a label that joins several is 'broader' than each")
        named = list(chain.from_iterable(found.values()))
        if len(set(named)) < len(named):
            raise self._error(where, "each finding under one relation")
        return Link(label, found["exact"][0] if found["exact"] else None, found["broader"], found["narrower"])

    def _findings(self, meaning: Mapping[str, Any], relation: str, where: str) -> tuple[str, ...]:
        names = meaning.get(relation, [])
        names = names if isinstance(names, list) else [names]
        if relation in meaning and not names:
            raise self._error(f"{where}, key '{relation}'", "one finding or more")
        for name in names:
            if not isinstance(name, str) or name not in self.known:
                got = f"'{name}'" if isinstance(name, str) else type(name).__name__
                raise self._error(f"{where}, key '{relation}'", f"names of findings of the vocabulary, got {got}")
        return tuple(names)


def _lineage(vocabulary: Vocabulary) -> NDArray[np.bool_]:
    """Return whether finding k implies finding p: it is p, or below p; (K, K), row k, column p."""
    size = len(vocabulary)
    implies = np.eye(size, dtype=bool)
    for k, finding in enumerate(vocabulary.findings):
        parent = finding.parent
        while parent is not None:
            p = vocabulary.index(parent)
            implies[k, p] = True
            parent = vocabulary.findings[p].parent
    return implies


def _columns(names: Iterable[str], vocabulary: Vocabulary) -> NDArray[np.bool_]:
    """Return which findings of a vocabulary are named, (K,)."""
    marked = np.zeros(len(vocabulary), bool)
    marked[[vocabulary.index(name) for name in names if name in vocabulary]] = True
    return marked


def to_scheme(table: LabelTable, crosswalk: Crosswalk) -> LabelTable:
    """Say our labels in the words of a data set.

    A label is positive (else uncertain) where a finding that implies it, or one below such a finding, is. It is negative where
    a finding that it implies is negative: the one that means the same, or one that holds more. Otherwise it is unmentioned:
    that each finding under a broader label is denied denies no label that holds more than them.

    Args:
        table: Labels of R reports and K findings.
        crosswalk: A scheme.

    Returns:
        A table of R reports and those labels of the scheme that a finding of this table implies, in the scheme's order; the
        probability is that of the finding that decided (for unmentioned, of the likeliest that implies the label), the
        evidence is that of the findings behind each label.
    """
    vocabulary = table.vocabulary
    lineage = _lineage(vocabulary)
    links = [link for link in crosswalk.links if _columns(link.implied_by, vocabulary).any()]
    implied_by = np.array([lineage[:, _columns(link.implied_by, vocabulary)].any(axis=1) for link in links], bool)
    implies = np.array([_columns(link.implies, vocabulary) for link in links], bool)
    implied_by, implies = (m.reshape(len(links), len(vocabulary)) for m in (implied_by, implies))
    shape = (len(table), len(links))
    state = np.full(shape, UNMENTIONED, np.int8)
    probability = np.zeros(shape, np.float32)
    uncertainty = np.zeros(shape, np.float32)
    rows = np.arange(len(table))
    rank = np.array([3, 0, 2, 0], np.float32)  # a positive outweighs an uncertain; the probability orders findings of one state
    for j in range(len(links)):
        up, down = np.flatnonzero(implied_by[j]), np.flatnonzero(implies[j])
        best = up[np.argmax(rank[table.state[:, up]] + table.probability[:, up], axis=1)]
        said = table.state[rows, best]
        state[:, j] = np.where(np.isin(said, (POSITIVE, UNCERTAIN)), said, UNMENTIONED)
        if len(down):
            denied = np.where(table.state[:, down] == NEGATIVE, table.probability[:, down], np.inf)
            negative = (state[:, j] == UNMENTIONED) & np.isfinite(denied).any(axis=1)
            state[negative, j] = NEGATIVE
            best = np.where(negative, down[np.argmin(denied, axis=1)], best)
        probability[:, j], uncertainty[:, j] = table.probability[rows, best], table.uncertainty[rows, best]
    return LabelTable(
        report_ids=table.report_ids,
        vocabulary=Vocabulary(crosswalk.name, "1", tuple(Finding(link.label) for link in links)),
        state=state,
        probability=probability,
        uncertainty=uncertainty,
        source=table.source,
        version=table.version,
        evidence=_evidence(table.evidence, len(vocabulary), implied_by, implies),
        parents=table.parents,
    )


def _evidence(evidence: Evidence, width: int, implied_by: NDArray[np.bool_], implies: NDArray[np.bool_]) -> Evidence:
    """Move places from findings to labels: a denial where the label implies the finding, all else where the finding implies it."""
    row, column = evidence.cell // width, evidence.cell % width
    bears = np.where((evidence.state == NEGATIVE)[:, None], implies.T[column], implied_by.T[column])
    place, label = np.nonzero(bears)
    cell = row[place] * len(implied_by) + label
    order = np.lexsort((evidence.end[place], evidence.start[place], cell))
    place = place[order]
    return replace(
        evidence,
        cell=cell[order],
        start=evidence.start[place],
        end=evidence.end[place],
        state=evidence.state[place],
        cue=evidence.cue[place],
        probability=None if evidence.probability is None else evidence.probability[place],
    )


def listed(lists: Sequence[Sequence[str]], crosswalk: Crosswalk) -> NDArray[np.int8]:
    """Read label lists, which name what is there and deny nothing (NIH, PadChest).

    Args:
        lists: The labels of R reports; space around a label is dropped, and empty labels with it.
        crosswalk: The scheme of L labels.

    Returns:
        ``positive`` for the labels that stand in a list and ``unmentioned`` for the others, (R, L).

    Raises:
        InputError: A label is none of the scheme's.
    """
    state = np.full((len(lists), len(crosswalk.links)), UNMENTIONED, np.int8)
    labels, codes = np.unique(np.array([label.strip() for label in chain.from_iterable(lists)], np.str_), return_inverse=True)
    columns = {label: column for column, label in enumerate(crosswalk.labels)}
    unknown = [str(label) for label in labels if label and label not in columns]
    if unknown:
        raise InputError(
            f"cross-walk '{crosswalk.name}': expected the labels of this scheme, got {len(unknown)} others: "
            f"{shown_names(unknown)}; correct them or choose the data set's own cross-walk"
        )
    column = np.array([columns.get(str(label), -1) for label in labels], np.int64)[codes]
    row = np.repeat(np.arange(len(lists)), np.fromiter(map(len, lists), np.int64, len(lists)))
    state[row[column >= 0], column[column >= 0]] = POSITIVE
    return state


def from_scheme(
    report_ids: Sequence[str],
    state: NDArray[np.integer],
    crosswalk: Crosswalk,
    vocabulary: Vocabulary | None = None,
    denying: bool = False,
    probability: Sequence[float] = (0.95, 0.05, 0.5, 0.1),
) -> LabelTable:
    """Say the labels of a data set in our findings.

    A positive (else uncertain) label makes the findings that it implies so: the one that means the same, those that hold more,
    and all above them. A negative label denies the finding that means the same, or, where none does, those that imply it, and all
    below them. What follows from no label is unmentioned; where labels contradict each other, positive counts over uncertain and
    uncertain over negative.

    Args:
        report_ids: R ids.
        state: State codes of the scheme's L labels, in its order, (R, L); ``listed`` makes them of lists.
        crosswalk: The scheme.
        vocabulary: The findings of the result, by default those of "chest".
        denying: The data set denies labels too (CheXpert, VinDr), so that the result has the findings that these can only deny.
        probability: P(present) for each of the four states, in the order of ``STATES``.

    Returns:
        A table of R reports and those findings that some label can tell of; its source is the scheme's name.

    Raises:
        ValueError: ``state`` has another shape.
    """
    if state.shape != (len(report_ids), len(crosswalk.links)):
        raise ValueError(f"state has the shape {state.shape}, expected {(len(report_ids), len(crosswalk.links))}")
    vocabulary = _chest() if vocabulary is None else vocabulary
    lineage = _lineage(vocabulary)
    raises = np.array([lineage[_columns(link.implies, vocabulary)].any(axis=0) for link in crosswalk.links])
    # Where one finding means the same, its denial is that of its own branch: no effusion tells nothing of what is below pneumothorax.
    denied = [link.implied_by if link.exact is None else (link.exact,) for link in crosswalk.links]
    denies = np.array([lineage[:, _columns(names, vocabulary)].any(axis=1) for names in denied])
    codes = np.full((len(report_ids), len(vocabulary)), UNMENTIONED, np.int8)
    for code, effect in ((NEGATIVE, denies), (UNCERTAIN, raises), (POSITIVE, raises)):
        codes[(state == code).astype(np.float32) @ effect.astype(np.float32) > 0] = code
    told = raises.any(axis=0) | (denies.any(axis=0) & denying)
    kept = {vocabulary.findings[k].name for k in np.flatnonzero(told)}
    findings = tuple(Finding(f.name, f.parent if f.parent in kept else None) for f in vocabulary.findings if f.name in kept)
    return LabelTable.from_states(
        report_ids, Vocabulary(vocabulary.name, vocabulary.version, findings), codes[:, told], crosswalk.name, probability
    )
