"""The labeler "keywords": the floor that every other labeler is measured against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from labelers.assertions import load_cues
from labelers.mentions import Clauses, Matcher, named_places
from labelers.sections import split_report
from labelers.soften import FINDINGS_RANK, Places, soften
from labelers.types import NEGATIVE, POSITIVE, LabelTable, Report, Vocabulary
from labelers.vocabulary import ABNORMAL, BORDERLINE, PRESENT, load_vocabulary

__all__ = ["Keywords"]

MENTIONED_PROBABILITY = 0.75
"""P(present) of a finding that is named, whatever is said of it."""


class Keywords:
    """Lexicon alone: every finding that a report names is positive; a floor for comparison."""

    name = "keywords"
    version = "1"

    def __init__(self, vocabulary: str = "chest") -> None:
        """Compile the vocabulary.

        Args:
            vocabulary: Name of a shipped vocabulary or path of a vocabulary file.
        """
        self._lexicon = load_vocabulary(vocabulary)
        self.vocabulary: Vocabulary = self._lexicon.vocabulary
        self._matcher = Matcher.of(self._lexicon, load_cues().phrases)

    def label(self, reports: Sequence[Report]) -> LabelTable:
        """Label reports; a row depends on its own report alone."""
        spans = [(row, start, end) for row, report in enumerate(reports) for _, start, end in split_report(report.text)]
        tokens = self._matcher.tokens([reports[row].text[start:end] for row, start, end in spans])
        found = [
            (row, target.finding, offset + place.start, offset + place.end, NEGATIVE if target.role == ABNORMAL else POSITIVE)
            for (row, offset, _), listed in zip(spans, tokens, strict=True)
            for place in named_places(Clauses(listed), self._lexicon)
            for target in dict.fromkeys(place.targets)
            if target.role in (PRESENT, BORDERLINE, ABNORMAL)
        ]
        columns = np.array(found, np.int64).reshape(-1, 5).T
        state = columns[4].astype(np.int8)
        places = Places(
            row=columns[0],
            finding=columns[1],
            start=columns[2],
            end=columns[3],
            state=state,
            probability=np.where(state == POSITIVE, MENTIONED_PROBABILITY, 1 - MENTIONED_PROBABILITY),
            cue=np.zeros(len(found), np.int64),
            rank=np.full(len(found), FINDINGS_RANK, np.int8),
        )
        read = np.isin(np.arange(len(reports)), [row for row, _, _ in spans])
        ids = [report.report_id for report in reports]
        return soften(ids, read, places, ("mention",), self._lexicon, self.name, self.version)
