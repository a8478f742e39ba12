"""The labeler "context": lexicon, clause grammar and cues."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from labelers.assertions import GENERAL_CUES, Assertions, Reader
from labelers.cues import load_cues
from labelers.sections import IMPRESSION, split_reports
from labelers.soften import FINDINGS_RANK, GENERAL_RANK, IMPRESSION_RANK, Places, soften
from labelers.types import LabelTable, Report, Vocabulary
from labelers.vocabulary import load_vocabulary

__all__ = ["Context"]

MEMORY = 200_000
"""Distinct sentences whose analysis is kept; the memory is emptied when it is full."""


class Context:
    """Lexicon and clause grammar: negation, hedging, history and statements of normality, each mention with its cue."""

    name = "context"
    version = "1"

    def __init__(self, vocabulary: str = "chest") -> None:
        """Compile the vocabulary and the cues.

        Args:
            vocabulary: Name of a shipped vocabulary or path of a vocabulary file.
        """
        self._lexicon = load_vocabulary(vocabulary)
        self.vocabulary: Vocabulary = self._lexicon.vocabulary
        self._reader = Reader(self._lexicon, load_cues())
        self._general = np.array([name in GENERAL_CUES for name in self._reader.cue_names], bool)
        self._forget()

    def label(self, reports: Sequence[Report]) -> LabelTable:
        """Label reports; a row depends on its own report alone."""
        texts, row, kind, offset, _ = split_reports([report.text for report in reports])
        numbers = self._analyse(texts)
        count = self._first[numbers + 1] - self._first[numbers]
        sentence = np.repeat(np.arange(len(numbers)), count)
        within = np.arange(len(sentence)) - np.repeat(np.cumsum(count) - count, count)
        found = Assertions(*(column[self._first[numbers][sentence] + within] for column in self._kept))
        rank = np.where(kind == IMPRESSION, IMPRESSION_RANK, FINDINGS_RANK)[sentence]
        places = Places(
            row=row[sentence],
            finding=found.finding,
            start=found.start + offset[sentence],
            end=found.end + offset[sentence],
            state=found.state,
            probability=found.probability,
            cue=found.cue,
            rank=np.where(self._general[found.cue], GENERAL_RANK, rank).astype(np.int8),
            attributes=found.attributes,
        )
        read = np.isin(np.arange(len(reports)), row)  # a report of history alone says nothing of the picture
        ids = [report.report_id for report in reports]
        return soften(ids, read, places, self._reader.cue_names, self._lexicon, self.name, self.version)

    def _forget(self) -> None:
        """Empty the memory: sentence -> number; what the sentences assert, one after another; where each of them begins."""
        self._number: dict[str, int] = {}
        self._kept = self._reader.read([])
        self._first = np.zeros(1, np.int64)

    def _analyse(self, sentences: list[str]) -> NDArray[np.int64]:
        """Return the number of each sentence, analysing the distinct ones that are new."""
        fresh = [sentence for sentence in dict.fromkeys(sentences) if sentence not in self._number]
        if fresh and len(self._number) + len(fresh) > MEMORY:
            self._forget()
            fresh = list(dict.fromkeys(sentences))
        if fresh:
            known = len(self._number)
            found = self._reader.read(fresh)
            ends = np.searchsorted(found.sentence, np.arange(len(fresh)), "right")
            self._kept = self._kept.followed_by(found)
            self._first = np.append(self._first, self._first[-1] + ends)
            self._number.update(zip(fresh, range(known, known + len(fresh)), strict=True))
        number = self._number
        return np.fromiter((number[sentence] for sentence in sentences), np.int64, len(sentences))
