"""A labeler in a package of its own: one word decides."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from labelers import LabelTable, Report, Vocabulary
from labelers.types import POSITIVE, UNMENTIONED, Evidence

__all__ = ["Word"]


class Word:
    """One word alone: a report that has it is positive, at the place where it stands first."""

    name = "word"
    version = "3.0"

    def __init__(self, word: str = "effusion", finding: str = "Pleural Effusion") -> None:
        """Take the options, ``--set word=WORD`` and ``--set finding=NAME``.

        Args:
            word: The word, whatever its case.
            finding: What it says is there.
        """
        self.vocabulary = Vocabulary.of([finding])
        self._pattern = re.compile(rf"\b{re.escape(word)}\b", re.IGNORECASE)

    def label(self, reports: Sequence[Report]) -> LabelTable:
        """Label reports; a row depends on its own report alone."""
        found = [self._pattern.search(report.text) for report in reports]
        state = np.array([UNMENTIONED if place is None else POSITIVE for place in found], np.int8).reshape(-1, 1)
        ids = [report.report_id for report in reports]
        table = LabelTable.from_states(ids, self.vocabulary, state, self.name, version=self.version)
        places = [(row, *place.span()) for row, place in enumerate(found) if place is not None]
        cell, start, end = np.array(places, np.int64).reshape(-1, 3).T
        evidence = Evidence(
            cell=cell,  # one finding: the cell of a row is the row
            start=start.astype(np.int32),
            end=end.astype(np.int32),
            state=np.full(len(places), POSITIVE, np.int8),
            cue=np.zeros(len(places), np.int32),
            cues=("word",),
        )
        return replace(table, evidence=evidence)
