"""What ``labelers vocabulary`` shows: a vocabulary as a tree, and a cross-walk from a data set's labels to it."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from labelers.crosswalk import Crosswalk
from labelers.types import Vocabulary
from labelers.vocabulary import Lexicon

__all__ = ["crosswalk_rows", "crosswalk_table", "tree_rows", "tree_table"]


def tree_rows(lexicon: Lexicon) -> list[dict[str, Any]]:
    """Return the findings as ``{finding, parent, depth, synonyms}``, children right behind their parent, else in the file's order.

    The synonyms are the phrases that name the finding by themselves, without plurals.
    """
    below: dict[str | None, list[str]] = {}
    for finding in lexicon.vocabulary.findings:
        below.setdefault(finding.parent, []).append(finding.name)
    rows: list[dict[str, Any]] = []
    waiting: list[tuple[str, str | None, int]] = [(name, None, 0) for name in reversed(below[None])]
    while waiting:
        name, parent, depth = waiting.pop()
        synonyms = lexicon.synonyms(lexicon.vocabulary.index(name))
        rows.append({"finding": name, "parent": parent, "depth": depth, "synonyms": synonyms})
        waiting += [(child, name, depth + 1) for child in reversed(below.get(name, []))]
    return rows


def tree_table(rows: list[dict[str, Any]]) -> Table:
    """Lay out the rows of ``tree_rows``: children indented, and the number of synonyms."""
    table = Table("finding", "synonyms")
    for row in rows:
        table.add_row(Text("  " * row["depth"] + row["finding"]), Text(str(len(row["synonyms"]))))
    return table


def crosswalk_rows(crosswalk: Crosswalk, vocabulary: Vocabulary) -> list[dict[str, Any]]:
    """Return a cross-walk as ``{label, relation, findings, reason}``, one row a label and relation, in the scheme's order.

    Findings that the vocabulary lacks are left out; a label that nothing is left of has the relation ``none``.
    """
    rows = []
    for link in crosswalk.links:
        known = {relation: [name for name in names if name in vocabulary] for relation, names in link.relations().items()}
        kept = {relation: names for relation, names in known.items() if names}
        reason = link.reason or ("" if kept else "its findings are not in this vocabulary")
        rows += [
            {"label": link.label, "relation": relation, "findings": names, "reason": reason}
            for relation, names in (kept or {"none": []}).items()
        ]
    return rows


def crosswalk_table(rows: list[dict[str, Any]], crosswalk: Crosswalk) -> Table:
    """Lay out the rows of ``crosswalk_rows``; the caption says where the labels stand and which have no counterpart."""
    table = Table("their label", "relation", "our findings")
    for row in rows:
        table.add_row(Text(row["label"]), Text(row["relation"]), Text(", ".join(row["findings"]) or row["reason"]))
    lacking = [row["label"] for row in rows if row["relation"] == "none"]
    table.caption = Text(
        f"{len(crosswalk.links)} labels of {crosswalk.source}; without counterpart: {len(lacking)}"
        + (f" ({', '.join(lacking)})" if lacking else ""),
        justify="left",
    )
    return table
