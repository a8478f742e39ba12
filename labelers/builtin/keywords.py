"""The labeler "keywords": the floor that every other labeler is measured against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from labelers.clauses import Clauses, Patterns, named_places
from labelers.cues import load_cues
from labelers.mentions import Matcher
from labelers.sections import split_reports
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
        self._patterns = Patterns(self._matcher, self._lexicon.patterns)

    def label(self, reports: Sequence[Report]) -> LabelTable:
        """Label reports; a row depends on its own report alone."""
        texts, row, _, offset, _ = split_reports([report.text for report in reports])
        tokens = self._matcher.tokens(texts)
        found = named_places(Clauses(tokens, self._matcher.kinds), self._patterns)
        targets = self._matcher.kinds.every_target
        mentions = np.array([target.role in (PRESENT, BORDERLINE, ABNORMAL) for target in targets], bool)[found.target]
        token, start, end, target = (column[mentions] for column in found)
        sentence = tokens.sentence[token]
        finding = np.array([target.finding for target in targets], np.int64)[target]
        against = np.array([target.role == ABNORMAL for target in targets], bool)[target]
        places = Places(
            row=row[sentence],
            finding=finding,
            start=start + offset[sentence],
            end=end + offset[sentence],
            state=np.where(against, NEGATIVE, POSITIVE).astype(np.int8),
            probability=np.where(against, 1 - MENTIONED_PROBABILITY, MENTIONED_PROBABILITY),
            cue=np.zeros(len(token), np.int64),
            rank=np.full(len(token), FINDINGS_RANK, np.int8),
        )
        read = np.isin(np.arange(len(reports)), row)
        ids = [report.report_id for report in reports]
        return soften(ids, read, places, ("mention",), self._lexicon, self.name, self.version)
