"""What several labelers say of the same reports and findings, as one array of states, and how often each pattern of states occurs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from labelers.crosswalk import Crosswalk, from_scheme, load_crosswalk, shipped_crosswalks
from labelers.errors import InputError, shown_names
from labelers.io.reading import Gold
from labelers.types import NEGATIVE, STATES, UNMENTIONED, LabelTable

__all__ = ["SILENT", "Patterns", "Tally", "Votes", "collect_votes", "common_findings", "find_patterns", "gold_truth", "tally"]

SILENT = len(STATES)
"""Code of a labeler that did not look: its table lacks the report or the finding. It counts as no evidence at all."""


@dataclass(frozen=True, eq=False)
class Votes:
    """The states that S labelers gave N reports and K findings.

    Attributes:
        report_ids: Every report of any table, in the order in which they are first met, (N,) of str.
        labelers: The S sources.
        findings: The K findings.
        state: Codes of ``STATES``, or ``SILENT``, (S, N, K) int8.
    """

    report_ids: NDArray[np.object_]
    labelers: tuple[str, ...]
    findings: tuple[str, ...]
    state: NDArray[np.int8]

    def part(self, rows: slice) -> Votes:
        """Return the votes on some of the reports."""
        return Votes(self.report_ids[rows], self.labelers, self.findings, self.state[:, rows])


def common_findings(tables: Sequence[LabelTable]) -> list[LabelTable]:
    """Bring tables to one vocabulary: the labels of a data set become our findings by the shipped cross-walk that has them all.

    Args:
        tables: One table a labeler.

    Returns:
        The tables in the order given, mapped where their findings are the labels of a cross-walk's scheme and those of another
        table are not.

    Raises:
        InputError: Two tables are by one labeler, one was fused from another, or a table shares no finding with any other, as it is
            or mapped.
    """
    sources = [table.source for table in tables]
    for source in sources:
        if sources.count(source) > 1:
            raise InputError(f"two tables are by the labeler '{source}'; give each labeler one table")
    for table in tables:
        parent = next((source for source in sources if source in table.parents), None)
        if parent is not None:
            raise InputError(f"the table of '{table.source}' was made from that of '{parent}'; leave one of the two out")
    if len({table.vocabulary.names for table in tables}) <= 1:
        return list(tables)
    mapped = [_mapped(table, [other for other in tables if other is not table]) for table in tables]
    for k, table in enumerate(mapped):
        names = {name for other in mapped[:k] + mapped[k + 1 :] for name in other.vocabulary.names}
        if not names & set(table.vocabulary.names):
            raise InputError(
                f"the table of '{table.source}' shares no finding with the others (its own are "
                f"{shown_names(list(table.vocabulary.names))}), and no cross-walk has them; rename them, or leave the table out"
            )
    return mapped


def _mapped(table: LabelTable, others: Sequence[LabelTable]) -> LabelTable:
    """The table, or what it is by the cross-walk under which it shares the most findings with the others, if that is more."""
    known = {name for other in others for name in other.vocabulary.names}
    names = set(table.vocabulary.names)
    if names <= known:
        return table
    best = table
    for scheme in shipped_crosswalks():
        crosswalk = load_crosswalk(scheme)
        if names <= set(crosswalk.labels):
            mapped = _in_our_findings(table, crosswalk)
            if len(known & set(mapped.vocabulary.names)) > len(known & set(best.vocabulary.names)):
                best = mapped
    return best


def _in_our_findings(table: LabelTable, crosswalk: Crosswalk) -> LabelTable:
    state = np.full((len(table), len(crosswalk.links)), UNMENTIONED, np.int8)
    for column, label in enumerate(crosswalk.labels):
        if label in table.vocabulary:
            state[:, column] = table.state[:, table.vocabulary.index(label)]
    denying = bool((table.state == NEGATIVE).any())
    return replace(
        from_scheme(list(table.report_ids), state, crosswalk, denying=denying), source=table.source, version=table.version
    )


def collect_votes(tables: Sequence[LabelTable], findings: Sequence[str] | None = None) -> Votes:
    """Put the tables' states side by side.

    Args:
        tables: One table a labeler, over one vocabulary (``common_findings``).
        findings: The findings wanted, by default all that stand in two tables or more (in all, where there is one table).
    """
    if findings is None:
        count: dict[str, int] = {}
        for table in tables:
            for name in table.vocabulary.names:
                count[name] = count.get(name, 0) + 1
        findings = [name for name, n in count.items() if n >= min(2, len(tables))]
    ids = tables[0].report_ids
    same = all(len(t) == len(ids) and (t.report_ids == ids).all() for t in tables)
    row: dict[object, int] = {}
    if not same:
        for table in tables:
            for report_id in table.report_ids:
                row.setdefault(report_id, len(row))
        ids = np.array(list(row), object)
    state = np.full((len(tables), len(ids), len(findings)), SILENT, np.int8)
    for s, table in enumerate(tables):
        theirs = [(k, table.vocabulary.index(name)) for k, name in enumerate(findings) if name in table.vocabulary]
        if not theirs:
            continue
        to, column = (np.array(part) for part in zip(*theirs, strict=True))
        rows = slice(None) if same else np.fromiter((row[i] for i in table.report_ids), np.int64, len(table))
        for t, c in zip(to, column, strict=True):  # column by column: no copy of the whole table
            state[s, rows, t] = table.state[:, c]
    return Votes(ids, tuple(t.source for t in tables), tuple(findings), state)


def gold_truth(votes: Votes, gold: Gold) -> NDArray[np.float32]:
    """Return the truth of the votes' reports and findings: 1 present, 0 absent, nan not judged, (N, K) float32.

    Raises:
        InputError: Gold and labels share no report, or no finding.
    """
    row = {report_id: r for r, report_id in enumerate(votes.report_ids)}
    pairs = [(row[i], g) for g, i in enumerate(gold.report_ids) if i in row]
    columns = [(k, gold.findings.index(name)) for k, name in enumerate(votes.findings) if name in gold.findings]
    if not pairs:
        raise InputError(
            f"labels and gold share no report id ({len(row)} against {len(gold.report_ids)}); check that both use the same ids"
        )
    if not columns:
        raise InputError(
            f"labels and gold share no finding; the gold has {shown_names(list(gold.findings))}, the labels have "
            f"{shown_names(list(votes.findings))}; rename the gold's columns"
        )
    truth = np.full(votes.state.shape[1:], np.nan, np.float32)
    r, g = (np.array(p) for p in zip(*pairs, strict=True))
    k, c = (np.array(p) for p in zip(*columns, strict=True))
    truth[np.ix_(r, k)] = gold.truth[np.ix_(g, c)]
    return truth


@dataclass(frozen=True, eq=False)
class Patterns:
    """The distinct patterns of states among reports and findings.

    Attributes:
        states: One pattern a row, codes of ``STATES`` or ``SILENT``, (P, S) int8.
        index: Which pattern each report and finding has, (N, K) int32.
    """

    states: NDArray[np.int8]
    index: NDArray[np.int32]


def find_patterns(state: NDArray[np.int8]) -> Patterns:
    """Number the patterns of states: (S, N, K) -> at most 5 ** S patterns."""
    labelers = len(state)
    code = np.zeros(state.shape[1:], np.int64)
    for s in range(labelers):
        code = code * (SILENT + 1) + state[s]
    if (SILENT + 1) ** labelers <= 4_000_000:
        used = np.flatnonzero(np.bincount(code.ravel(), minlength=1))
        number = np.zeros((used[-1] + 1) if len(used) else 1, np.int32)
        number[used] = np.arange(len(used))
        index = number[code]
    else:
        used, inverse = np.unique(code, return_inverse=True)
        index = inverse.reshape(code.shape).astype(np.int32)
    digits = np.empty((len(used), labelers), np.int8)
    rest = used.copy()
    for s in reversed(range(labelers)):
        rest, digits[:, s] = np.divmod(rest, SILENT + 1)
    return Patterns(digits, index)


@dataclass(frozen=True, eq=False)
class Tally:
    """How often each pattern of states occurs, finding by finding.

    Attributes:
        states: The patterns, (P, S) int8.
        unjudged: Reports without gold, (K, P) float64.
        judged: Reports with gold, by truth absent and present, (K, 2, P) float64.
    """

    states: NDArray[np.int8]
    unjudged: NDArray[np.float64]
    judged: NDArray[np.float64]


def tally(patterns: Patterns, truth: NDArray[np.float32], rows: NDArray[np.bool_] | None = None) -> Tally:
    """Count the patterns.

    Args:
        patterns: Of N reports and K findings.
        truth: 1, 0, or nan where not judged, (N, K).
        rows: The reports that count, (N,); all by default.
    """
    size = len(patterns.states)
    chosen = slice(None) if rows is None else rows
    index, y = patterns.index[chosen], truth[chosen]
    k = index.shape[1]
    counts = np.zeros((k, 3, size))
    for column in range(k):
        kind = np.where(np.isnan(y[:, column]), 2, np.nan_to_num(y[:, column])).astype(np.int64)
        counts[column] = np.bincount(kind * size + index[:, column], minlength=3 * size).reshape(3, size)
    return Tally(patterns.states, counts[:, 2], counts[:, :2])
