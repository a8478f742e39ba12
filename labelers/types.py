"""What the stages of labeling hand to each other: frozen records, and one columnar table of labels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from labelers.errors import InputError

__all__ = [
    "ATTRIBUTES",
    "NEGATIVE",
    "POSITIVE",
    "STATES",
    "UNCERTAIN",
    "UNMENTIONED",
    "Evidence",
    "Finding",
    "LabelTable",
    "Mention",
    "Report",
    "Vocabulary",
    "binary_entropy",
]

STATES = ("positive", "negative", "uncertain", "unmentioned")
"""The four states; a state's code is its index here, and every array of states uses it."""
POSITIVE, NEGATIVE, UNCERTAIN, UNMENTIONED = range(4)
ATTRIBUTES = {
    "side": ("", "left", "right", "bilateral"),
    "severity": ("", "minimal", "mild", "moderate", "severe"),
    "change": ("", "new", "worse", "stable", "better", "resolved"),
}
"""What a text may tell of a finding besides its state, with the values; "" where it tells nothing. A value's code is its position."""


@dataclass(frozen=True, slots=True)
class Report:
    """One report as it was given; offsets of evidence count code points of ``text``."""

    report_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding of a vocabulary.

    Attributes:
        name: Its name in every table.
        parent: The finding that its presence implies, or None at a root.
    """

    name: str
    parent: str | None = None


@dataclass(frozen=True)
class Vocabulary:
    """An ordered set of findings; their order is the column order of dense tables.

    Attributes:
        name: Name of the resource or file that it came from.
        version: Version given in that file.
        findings: The findings, each name once, parents among them.
        digest: Hash of the whole definition (synonyms included); computed from the findings when left empty.

    Raises:
        InputError: A finding stands twice, has a name that no table can hold, a parent that is no finding, or itself above it.
    """

    name: str
    version: str
    findings: tuple[Finding, ...]
    digest: str = ""
    _index: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        index = {finding.name: k for k, finding in enumerate(self.findings)}
        if len(index) != len(self.findings):
            seen: set[str] = set()
            twice = next(f.name for f in self.findings if f.name in seen or seen.add(f.name))  # type: ignore[func-returns-value]
            raise InputError(f"vocabulary '{self.name}': the finding '{twice}' stands twice; remove one")
        for finding in self.findings:
            if not _is_name(finding.name):
                raise InputError(
                    f"vocabulary '{self.name}': expected the name of a finding in words, on one line and without space around it "
                    f"(and neither 'report_id' nor NAME:state, which name columns), got {finding.name!r}; rename it"
                )
            if finding.parent is not None and finding.parent not in index:
                raise InputError(
                    f"vocabulary '{self.name}': the parent '{finding.parent}' of '{finding.name}' is not a finding of it; "
                    "add it or correct the name"
                )
        object.__setattr__(self, "_index", index)
        self._check_circles()
        if not self.digest:
            pairs = json.dumps([[f.name, f.parent] for f in self.findings])
            object.__setattr__(self, "digest", hashlib.sha256(pairs.encode()).hexdigest()[:16])

    def _check_circles(self) -> None:
        rooted: set[str] = set()
        for finding in self.findings:
            path: dict[str, None] = {}
            name: str | None = finding.name
            while name is not None and name not in rooted:
                if name in path:
                    raise InputError(
                        f"vocabulary '{self.name}': '{finding.name}', key 'parent': expected parents that end at a root, got a circle; "
                        "correct one"
                    )
                path[name] = None
                name = self.findings[self._index[name]].parent
            rooted |= path.keys()

    def __len__(self) -> int:
        return len(self.findings)

    def __contains__(self, name: object) -> bool:
        return name in self._index

    @property
    def names(self) -> tuple[str, ...]:
        """The findings' names in order."""
        return tuple(finding.name for finding in self.findings)

    def index(self, name: str) -> int:
        """Return the column of a finding.

        Raises:
            KeyError: The vocabulary has no finding of that name.
        """
        return self._index[name]

    @classmethod
    def of(cls, names: Sequence[str], name: str = "custom") -> Vocabulary:
        """Build a flat vocabulary (no parents, no synonyms) from names alone."""
        return cls(name=name, version="1", findings=tuple(Finding(n) for n in names))


def _is_name(name: object) -> bool:
    """Whether a finding's name survives every layout of a table, in which it names columns too."""
    return (
        isinstance(name, str)
        and bool(name)
        and name.isprintable()
        and name == name.strip()
        and name != "report_id"
        and not name.endswith(":state")
    )


@dataclass(frozen=True, slots=True)
class Mention:
    """A place where a text names a finding: column of the finding, and [start, end) in code points."""

    finding: int
    start: int
    end: int


@dataclass(frozen=True)
class Evidence:
    """The places behind the labels of one table, as parallel arrays sorted by ``cell``.

    Attributes:
        cell: Position in the table, row of the report x number of findings + column, (E,) int64.
        start: First code point, (E,) int32.
        end: One past the last code point, (E,) int32.
        state: State code at that place, (E,) int8.
        cue: Index into ``cues``, (E,) int32.
        cues: The distinct cue names.
        probability: P(finding present) that the wording at that place conveys, (E,) float32, or None where the labeler, or the
            file that the table came from, tells none.
        attributes: Side, severity and change at that place as positions in the values of ``ATTRIBUTES``, (E, 3) int8, 0 where nothing
            is said; None where the labeler tells none.
    """

    cell: NDArray[np.int64]
    start: NDArray[np.int32]
    end: NDArray[np.int32]
    state: NDArray[np.int8]
    cue: NDArray[np.int32]
    cues: tuple[str, ...] = ()
    probability: NDArray[np.float32] | None = None
    attributes: NDArray[np.int8] | None = None

    @classmethod
    def empty(cls) -> Evidence:
        """Evidence of a labeler that keeps none."""
        return cls(
            np.empty(0, np.int64),
            np.empty(0, np.int32),
            np.empty(0, np.int32),
            np.empty(0, np.int8),
            np.empty(0, np.int32),
        )

    def __len__(self) -> int:
        return len(self.cell)

    def at(self, cell: int) -> list[dict[str, int | str]]:
        """Return the places behind one cell as ``{start, end, state, cue}`` and, where the labeler tells them, ``ATTRIBUTES``."""
        low, high = np.searchsorted(self.cell, [cell, cell + 1])
        return [
            {
                "start": int(self.start[i]),
                "end": int(self.end[i]),
                "state": STATES[self.state[i]],
                "cue": self.cues[self.cue[i]],
                **self.told(i),
            }
            for i in range(low, high)
        ]

    def told(self, place: int) -> dict[str, str]:
        """Return side, severity and change at one place, "" where nothing is said; nothing at all where the labeler tells none."""
        if self.attributes is None:
            return {}
        codes = self.attributes[place].tolist()
        return {name: values[code] for (name, values), code in zip(ATTRIBUTES.items(), codes, strict=True)}


def binary_entropy(probability: NDArray[np.floating]) -> NDArray[np.float32]:
    """Entropy in bits of a Bernoulli variable, elementwise; 0 at 0 and 1, 1 at one half."""
    p = np.asarray(probability, np.float64)
    q = 1.0 - p
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -(np.where(p > 0, p * np.log2(p), 0.0) + np.where(q > 0, q * np.log2(q), 0.0))
    return np.asarray(entropy, np.float32)


@dataclass(frozen=True, eq=False)
class LabelTable:
    """What one labeler says of R reports and K findings, dense.

    Attributes:
        report_ids: One id a row, each once, (R,) of str.
        vocabulary: The K findings; one that the labeler cannot judge is not in it (unknown is not unmentioned).
        state: Codes of ``STATES``, (R, K) int8.
        probability: P(present), also for negative and unmentioned cells, (R, K) float32 in [0, 1].
        uncertainty: Binary entropy of the probability in bits, raised where mentions conflict, (R, K) float32 in [0, 1].
        source: Name of the labeler.
        version: Version of the labeler.
        evidence: The places behind the labels; empty for labelers that read no text.
        parents: For a fused table, the sources it was made of.
    """

    report_ids: NDArray[np.object_]
    vocabulary: Vocabulary
    state: NDArray[np.int8]
    probability: NDArray[np.float32]
    uncertainty: NDArray[np.float32]
    source: str
    version: str = "1"
    evidence: Evidence = field(default_factory=Evidence.empty)
    parents: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape = (len(self.report_ids), len(self.vocabulary))
        for name in ("state", "probability", "uncertainty"):
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} has the shape {getattr(self, name).shape}, expected (reports, findings) = {shape}")

    @classmethod
    def from_states(
        cls,
        report_ids: Sequence[str],
        vocabulary: Vocabulary,
        state: NDArray[np.integer],
        source: str,
        probability: Sequence[float] = (0.95, 0.05, 0.5, 0.1),
        version: str = "1",
    ) -> LabelTable:
        """Build a table from states alone, each state with one probability.

        Args:
            report_ids: R ids.
            vocabulary: K findings.
            state: Codes of ``STATES``, (R, K).
            source: Name of the labeler.
            probability: P(present) for each of the four states, in the order of ``STATES``.
            version: Version of the labeler.
        """
        codes = np.asarray(state, np.int8)
        values = np.asarray(probability, np.float32)[codes]
        return cls(
            report_ids=np.asarray(report_ids, object),
            vocabulary=vocabulary,
            state=codes,
            probability=values,
            uncertainty=binary_entropy(values),
            source=source,
            version=version,
        )

    def __len__(self) -> int:
        return len(self.report_ids)

    def __repr__(self) -> str:
        counts = np.bincount(self.state.ravel().astype(np.int64), minlength=4)
        states = ", ".join(f"{n} {s}" for n, s in zip(counts, STATES, strict=True))
        return f"LabelTable({len(self)} reports x {len(self.vocabulary)} findings by '{self.source}': {states})"

    def rows(self) -> Iterator[dict[str, object]]:
        """Yield the rows of the long form, one a report and finding, evidence included."""
        width = len(self.vocabulary)
        held = set(self.evidence.cell.tolist())
        for r, report_id in enumerate(self.report_ids):
            for k, name in enumerate(self.vocabulary.names):
                yield {
                    "report_id": report_id,
                    "finding": name,
                    "state": STATES[self.state[r, k]],
                    "probability": float(self.probability[r, k]),
                    "uncertainty": float(self.uncertainty[r, k]),
                    "source": self.source,
                    "evidence": self.evidence.at(r * width + k) if r * width + k in held else [],
                }

    @classmethod
    def concatenate(cls, tables: Sequence[LabelTable]) -> LabelTable:
        """Join tables of one labeler and one vocabulary, rows in the order given.

        Raises:
            ValueError: No tables, or tables of different labelers or vocabularies.
        """
        if not tables:
            raise ValueError("concatenate needs one table or more")
        first = tables[0]
        for table in tables[1:]:
            if (table.source, table.version, table.vocabulary) != (first.source, first.version, first.vocabulary):
                raise ValueError("concatenate needs tables of one labeler, one version and one vocabulary")
        return cls(
            report_ids=np.concatenate([t.report_ids for t in tables]),
            vocabulary=first.vocabulary,
            state=np.concatenate([t.state for t in tables]),
            probability=np.concatenate([t.probability for t in tables]),
            uncertainty=np.concatenate([t.uncertainty for t in tables]),
            source=first.source,
            version=first.version,
            evidence=_concatenate_evidence(tables),
            parents=first.parents,
        )


def _concatenate_evidence(tables: Sequence[LabelTable]) -> Evidence:
    cues: dict[str, int] = {}
    offset = 0
    parts: list[Evidence] = []
    for table in tables:
        e = table.evidence
        codes = np.array([cues.setdefault(c, len(cues)) for c in e.cues], np.int32)
        parts.append(replace(e, cell=e.cell + offset, cue=codes[e.cue] if len(e) else e.cue))
        offset += table.state.size
    places = [p for p in parts if len(p)]
    told = [p.probability for p in places if p.probability is not None]
    attributes = [p.attributes for p in places if p.attributes is not None]
    return Evidence(
        cell=np.concatenate([p.cell for p in parts]),
        start=np.concatenate([p.start for p in parts]),
        end=np.concatenate([p.end for p in parts]),
        state=np.concatenate([p.state for p in parts]),
        cue=np.concatenate([p.cue for p in parts]),
        cues=tuple(cues),
        probability=np.concatenate(told) if places and len(told) == len(places) else None,
        attributes=np.concatenate(attributes) if places and len(attributes) == len(places) else None,
    )
