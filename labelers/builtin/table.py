"""The labeler "table": labels that already exist, in the files of data sets or in any wide table that a layout describes."""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import numpy as np

from labelers.crosswalk import Crosswalk, Link, from_scheme, load_crosswalk
from labelers.errors import InputError, UsageError, unknown_name
from labelers.io.reports import rows_of_columns
from labelers.io.text import decode
from labelers.types import NEGATIVE, POSITIVE, STATES, UNMENTIONED, LabelTable, Report, Vocabulary, binary_entropy
from labelers.vocabulary import decode_yaml, load_vocabulary

__all__ = ["Table"]

PROBABILITY = {"positive": 0.95, "negative": 0.05, "uncertain": 0.5, "unmentioned": 0.1}
"""P(present) of a state where the layout gives none: a guess, until a channel is measured."""
MEMORY = 2**16
"""Distinct rows whose reading is kept."""
_KEYS = {
    *("extends", "source", "crosswalk", "id", "merge", "columns", "values"),
    *("list", "without", "probability", "other_files"),
}
_ITEM = r"""'[^']*'|"[^"]*"|nan"""
_PYTHON_LIST = re.compile(rf"\[\s*(?:(?:{_ITEM})\s*(?:,\s*(?:{_ITEM})\s*)*)?\]")


class Table:
    """Labels that already exist: the label files of data sets (layout=NAME), or any wide table (layout=FILE.yaml)."""

    name: str = "table"
    version = "1"

    def __init__(self, layout: str, vocabulary: str = "chest", source: str | None = None) -> None:
        """Read the layout.

        Args:
            layout: Name of a shipped layout (a file of ``resources/layouts``, whose head in chexpert.yaml tells the keys), or path of
                a file of your own ending in .yaml or .yml.
            vocabulary: Name of a shipped vocabulary or path of a vocabulary file.
            source: Whose labels these are, where it is not the layout's ``source``; the labeler's name and the table's source.

        Raises:
            UsageError: No shipped layout or vocabulary has that name.
            InputError: The file is missing or broken; the message names file, key and remedy.
        """
        self._findings = _findings(vocabulary)
        self._layout = _Reader(layout, self._findings).read()
        self._given = bool(source)
        self.name = source or self._layout.source
        labels = self._layout.crosswalk.labels
        self._said = {f"{label}: {word}": (j, code) for j, label in enumerate(labels) for code, word in enumerate(STATES)}
        self.vocabulary: Vocabulary = self._in_our_findings([]).vocabulary

    def read(self, path: Path, id_column: str | None) -> Iterator[Report]:
        """Yield one record a report; its text is a line ``LABEL: STATE`` for each label that is not unmentioned.

        Args:
            path: A .csv, .csv.gz, .parquet, .jsonl or .json (lines) file.
            id_column: Column that holds the id as it is, instead of what the layout says of it.

        Raises:
            InputError: A column is missing, a cell is none of the values that the layout names, an id is empty or not of the
                layout's pattern, or several rows have one id and are not to be merged or contradict each other; the message names
                file, row and column.
            UsageError: The file's name says that it is of another layout.
        """
        layout = self._layout
        self._check_name(path)
        keys = layout.id_columns if id_column is None else (id_column,)
        key_of = layout.key if id_column is None else "".join
        record = lru_cache(MEMORY)(layout.record)
        seen: dict[str, tuple[str, str]] = {}
        for where, cells in rows_of_columns(path, (*keys, *layout.cells), "choose the layout of this file by --set layout=NAME"):
            try:
                key, text = key_of(cells[: len(keys)]), record(cells[len(keys) :])
            except _Unreadable as error:
                raise InputError(f"{path}, {where}, {error}; correct it, or describe it in a layout of your own") from None
            if not key.strip():
                raise InputError(f"{path}, {where}: the report id is empty; give every row an id")
            if key not in seen:
                seen[key] = where, text
                yield Report(key, text)
            elif not layout.merge:
                raise InputError(
                    f"{path}, {where}: the report id of {seen[key][0]} again; remove one, or choose a layout with merge: true"
                )
            elif seen[key][1] != text:
                raise InputError(f"{path}, {where}: other labels than {seen[key][0]}, which has the same id; correct one of them")

    def label(self, reports: Sequence[Report]) -> LabelTable:
        """Label records of ``read``.

        Raises:
            InputError: A text is no such record.
        """
        number: dict[str, int] = {}
        rows = np.array([number.setdefault(report.text, len(number)) for report in reports], np.int64)
        table = self._in_our_findings(list(number))
        # from_scheme and the entropy take longer than all else, and rows repeat
        by_state = np.array(self._layout.probability, np.float32)
        state = table.state[rows]
        return LabelTable(
            report_ids=np.array([report.report_id for report in reports], object),
            vocabulary=table.vocabulary,
            state=state,
            probability=by_state[state],
            uncertainty=binary_entropy(by_state)[state],
            source=self.name,
            version=self.version,
        )

    def _in_our_findings(self, texts: Sequence[str]) -> LabelTable:
        layout = self._layout
        state = np.full((len(texts), len(layout.crosswalk.links)), UNMENTIONED, np.int8)
        for row, text in enumerate(texts):
            for line in text.split("\n") if text.strip() else ():
                if line not in self._said:
                    raise InputError(
                        "a record: expected lines LABEL: STATE with the labels of the layout; read it by labelers run"
                    )
                column, code = self._said[line]
                state[row, column] = code
        return from_scheme([""] * len(texts), state, layout.crosswalk, self._findings, layout.denying, layout.probability)

    def _check_name(self, path: Path) -> None:
        """Files of several labelers have the same columns, and only their names tell them apart."""
        words = re.split("[^a-z0-9]+", path.name.lower())
        for word, layout in () if self._given else self._layout.other_files.items():
            if word in words:
                raise UsageError(
                    f"{path}: its name says '{word}', so it is not of the labeler '{self.name}'; give --set layout={layout}, "
                    "or say whose labels these are by --set source=NAME"
                )


def _findings(vocabulary: str) -> Vocabulary:
    return (
        load_vocabulary(vocabulary).vocabulary
        if vocabulary.lower().endswith((".yaml", ".yml"))
        else _shipped_findings(vocabulary)
    )


@cache  # who has several label files makes several labelers
def _shipped_findings(vocabulary: str) -> Vocabulary:
    return load_vocabulary(vocabulary).vocabulary


class _Unreadable(ValueError):
    """What is wrong with a row, without the row's words."""


@dataclass(frozen=True)
class _Layout:
    """What a layout file says.

    Attributes:
        source: Whose labels these are.
        crosswalk: The labels that the file can tell of, and what they mean.
        id_columns: Columns that the id is made of.
        separator: What joins them, and the groups of the pattern.
        pattern: Its groups are the id, or None.
        merge: Whether rows of one id that say the same are one.
        cells: Columns that tell the labels: one a label, or the one list.
        values: Meaning of the cells, state codes; empty for a list.
        split: A list's cell -> labels, or None.
        probability: P(present) of each state.
        other_files: Words in the names of files that are not of this layout, with theirs.
    """

    source: str
    crosswalk: Crosswalk
    id_columns: tuple[str, ...]
    separator: str
    pattern: re.Pattern[str] | None
    merge: bool
    cells: tuple[str, ...]
    values: Mapping[str, int]
    split: Callable[[str], list[str]] | None
    probability: tuple[float, ...]
    other_files: Mapping[str, str]

    @property
    def denying(self) -> bool:
        return NEGATIVE in self.values.values()

    def key(self, cells: tuple[str, ...]) -> str:
        text = self.separator.join(cells)
        if self.pattern is None:
            return text
        found = self.pattern.search(text)
        if found is None:
            raise _Unreadable(f"column {', '.join(self.id_columns)}: expected an id like {self.pattern.pattern}, got another")
        return self.separator.join(group or "" for group in found.groups()) if found.groups() else found[0]

    def record(self, cells: tuple[str, ...]) -> str:
        codes = self._states(cells) if self.split is None else self._listed(cells[0])
        return "\n".join(
            f"{label}: {STATES[code]}" for label, code in zip(self.crosswalk.labels, codes, strict=True) if code != UNMENTIONED
        )

    def _states(self, cells: tuple[str, ...]) -> list[int]:
        codes = [self.values.get(_value(cell), -1) for cell in cells]
        if -1 in codes:
            known = ", ".join(value or "nothing" for value in self.values)
            raise _Unreadable(f"column '{self.cells[codes.index(-1)]}': expected one of {known}, got something else")
        return codes

    def _listed(self, cell: str) -> list[int]:
        assert self.split is not None
        try:
            named = {label.strip() for label in self.split(cell)} - {""}
        except ValueError:
            raise _Unreadable(f"column '{self.cells[0]}': expected a list such as ['a', 'b'], got something else") from None
        unknown = len(named.difference(self.crosswalk.labels))
        if unknown:
            raise _Unreadable(
                f"column '{self.cells[0]}': expected labels of the cross-walk '{self.crosswalk.name}', got {unknown} others"
            )
        return [POSITIVE if label in named else UNMENTIONED for label in self.crosswalk.labels]


def _value(text: str) -> str:
    """A cell in one spelling: 1, 1.0 and " 1.00" are the same."""
    try:
        return repr(float(text))
    except ValueError:
        return text.strip()


def _python_list(cell: str) -> list[str]:
    if cell.strip() in ("", "nan"):
        return []
    if not _PYTHON_LIST.fullmatch(cell.strip()):
        raise ValueError("not a list of Python's")
    return [item[1:-1] for item in re.findall(_ITEM, cell) if item != "nan"]


def _shipped() -> dict[str, Traversable]:
    folder = importlib.resources.files("labelers.resources") / "layouts"
    return {entry.name.removesuffix(".yaml"): entry for entry in folder.iterdir() if entry.name.endswith(".yaml")}


@dataclass
class _Reader:
    """Reads a layout and those that it extends; every complaint names the file."""

    path: str
    vocabulary: Vocabulary

    def read(self) -> _Layout:
        data = self._data(self.path, ())
        for key in ("source", "id"):
            if key not in data:
                raise self._error("the file", f"the key '{key}'")
        if ("columns" in data) == ("list" in data):
            raise self._error("the file", "either the key 'columns' with 'values', or the key 'list'")
        if not isinstance(data["source"], str) or not data["source"].strip():
            raise self._error("key 'source'", "the name of a labeler")
        if not isinstance(data.get("merge", False), bool):
            raise self._error("key 'merge'", "true or false")
        columns, separator, pattern = self._id(data["id"])
        crosswalk = self._crosswalk(data)
        split: Callable[[str], list[str]] | None = None
        values: dict[str, int] = {}
        if "list" in data:
            cell, split = self._list(data["list"])
            cells: tuple[str, ...] = (cell,)
            crosswalk = self._restricted(crosswalk, set(self._without(data, crosswalk)), keep=False)
        else:
            named = self._columns(data)
            crosswalk = self._restricted(crosswalk, set(named), keep=True)
            cells = tuple(named[label] for label in crosswalk.labels)
            values = self._values(data)
        return _Layout(
            source=data["source"],
            crosswalk=crosswalk,
            id_columns=columns,
            separator=separator,
            pattern=pattern,
            merge=data.get("merge", False),
            cells=cells,
            values=values,
            split=split,
            probability=self._probability(data.get("probability", {})),
            other_files={word.lower(): layout for word, layout in self._words(data, "other_files").items()},
        )

    def _data(self, name: str, above: tuple[str, ...]) -> dict[str, Any]:
        """The keys of a layout, those of the one that it extends below its own."""
        if name.lower().endswith((".yaml", ".yml")):
            try:
                text = decode(Path(name).read_bytes(), name)
            except OSError as error:
                raise InputError(f"{name}: {error.strerror}; give the path of a layout file") from None
        elif name in _shipped():
            text = _shipped()[name].read_text(encoding="utf-8")
        else:
            raise unknown_name("layout", name, _shipped())
        self.path = name
        data = decode_yaml(text, name, "layout")
        if not isinstance(data, dict):
            raise self._error("the file", f"a mapping with keys among {', '.join(sorted(_KEYS))}")
        unknown = [str(key) for key in data if key not in _KEYS]
        if unknown:
            raise self._error(f"key '{unknown[0]}'", f"keys among {', '.join(sorted(_KEYS))}")
        if isinstance(data.get("crosswalk"), str):
            data["crosswalk"] = self._beside(name, data["crosswalk"])
        if "extends" not in data:
            return data
        base = data.pop("extends")
        if not isinstance(base, str):
            raise self._error("key 'extends'", "the name of a layout")
        base = self._beside(name, base)
        if base in (*above, name):
            raise self._error("key 'extends'", "layouts that end somewhere, got a circle")
        inherited = self._data(base, (*above, name))
        self.path = name
        out = {"list", "without"} if "columns" in data else {"columns", "values"} if "list" in data else set()
        return {key: value for key, value in inherited.items() if key not in out} | data

    @staticmethod
    def _beside(name: str, other: str) -> str:
        """A file is named as seen from the file that names it."""
        return str(Path(name).parent / other) if other.lower().endswith((".yaml", ".yml")) else other

    def _error(self, where: str, expected: str) -> InputError:
        return InputError(f"{self.path}: {where}: expected {expected}; correct the layout file")

    def _words(self, data: Mapping[str, Any], key: str) -> dict[str, str]:
        found = data.get(key, {})
        if not isinstance(found, dict) or not all(isinstance(w, str) and w for pair in found.items() for w in pair):
            raise self._error(f"key '{key}'", "a mapping from words to words (quote yes, no and numbers)")
        return found

    def _names(self, found: object, where: str) -> tuple[str, ...]:
        if not isinstance(found, list) or not found or not all(isinstance(name, str) and name for name in found):
            raise self._error(where, "a list of names (quote yes, no and numbers)")
        if len(set(found)) < len(found):
            raise self._error(where, "each name once")
        return tuple(found)

    def _id(self, found: object) -> tuple[tuple[str, ...], str, re.Pattern[str] | None]:
        if isinstance(found, str):
            return (found,), "/", None
        if not isinstance(found, dict) or "columns" not in found or not found.keys() <= {"columns", "separator", "pattern"}:
            raise self._error("key 'id'", "the name of a column, or a mapping with the keys columns, separator and pattern")
        separator, pattern = found.get("separator", "/"), found.get("pattern")
        if not isinstance(separator, str) or not isinstance(pattern, str | None):
            raise self._error("key 'id'", "words under separator and pattern")
        try:
            compiled = None if pattern is None else re.compile(pattern)
        except re.error as error:
            raise self._error("key 'id', pattern", f"a regular expression ({error})") from None
        return self._names(found["columns"], "key 'id', columns"), separator, compiled

    def _crosswalk(self, data: Mapping[str, Any]) -> Crosswalk:
        if "crosswalk" in data:
            if not isinstance(data["crosswalk"], str):
                raise self._error("key 'crosswalk'", "the name of a cross-walk or of a file")
            return load_crosswalk(data["crosswalk"], self.vocabulary)
        links = tuple(Link(name, exact=name) for name in self.vocabulary.names)
        return Crosswalk(self.vocabulary.name, self.path, links)

    def _restricted(self, crosswalk: Crosswalk, labels: set[str], keep: bool) -> Crosswalk:
        """The cross-walk of the labels that the file can tell of: what is unknown is not unmentioned."""
        return replace(crosswalk, links=tuple(link for link in crosswalk.links if (link.label in labels) == keep))

    def _known(self, names: Sequence[str], crosswalk: Crosswalk, where: str) -> None:
        unknown = [name for name in names if name not in crosswalk.labels]
        if unknown:
            raise self._error(where, f"labels of '{crosswalk.name}', got '{unknown[0]}'")

    def _without(self, data: Mapping[str, Any], crosswalk: Crosswalk) -> tuple[str, ...]:
        if "without" not in data:
            return ()
        names = self._names(data["without"], "key 'without'")
        self._known(names, crosswalk, "key 'without'")
        return names

    def _columns(self, data: Mapping[str, Any]) -> dict[str, str]:
        if "without" in data:
            raise self._error("key 'without'", "it beside 'list' only; leave the columns out")
        found = data["columns"]
        named = self._words(data, "columns") if isinstance(found, dict) else {n: n for n in self._names(found, "key 'columns'")}
        self._known(list(named), self._crosswalk(data), "key 'columns'")
        if not named:
            raise self._error("key 'columns'", "one label or more")
        return named

    def _values(self, data: Mapping[str, Any]) -> dict[str, int]:
        found = data.get("values")
        if not isinstance(found, dict) or not found:
            raise self._error("key 'values'", "a mapping from the values of cells to states")
        values: dict[str, int] = {}
        for value, state in found.items():
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                raise self._error("key 'values'", "numbers and words (quote yes, no, true, false and null)")
            if state not in STATES:
                raise self._error(f"key 'values', '{value}'", f"one of {', '.join(STATES)}")
            if _value(str(value)) in values:
                raise self._error(f"key 'values', '{value}'", "each value once (1 and 1.0 are the same)")
            values[_value(str(value))] = STATES.index(state)
        return values

    def _list(self, found: object) -> tuple[str, Callable[[str], list[str]]]:
        if (
            not isinstance(found, dict)
            or set(found) not in ({"column", "separator"}, {"column", "format"})
            or not all(isinstance(word, str) and word for word in found.values())
        ):
            raise self._error("key 'list'", "the keys column, and separator or format")
        if "separator" in found:
            separator = found["separator"]
            return found["column"], lambda cell: cell.split(separator)
        if found["format"] != "python":
            raise self._error("key 'list', format", "python")
        return found["column"], _python_list

    def _probability(self, found: object) -> tuple[float, ...]:
        if not isinstance(found, dict) or not found.keys() <= PROBABILITY.keys():
            raise self._error("key 'probability'", f"a mapping with keys among {', '.join(STATES)}")
        for state, value in found.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise self._error(f"key 'probability', '{state}'", "a number from 0 to 1")
        return tuple(float((PROBABILITY | found)[state]) for state in STATES)
