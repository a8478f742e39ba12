"""The labeler "context": lexicon, clause grammar and cues."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from labelers.assertions import GENERAL_CUES, assert_places, load_cues
from labelers.mentions import Clauses, Matcher, named_places
from labelers.sections import IMPRESSION, split_report
from labelers.soften import FINDINGS_RANK, GENERAL_RANK, IMPRESSION_RANK, Places, soften
from labelers.types import LabelTable, Report, Vocabulary
from labelers.vocabulary import load_vocabulary

__all__ = ["Context"]

MEMORY = 200_000
"""Distinct sentences whose analysis is kept; the memory is emptied when it is full."""

_PLACE = np.dtype(
    [
        ("finding", np.int32),
        ("start", np.int32),
        ("end", np.int32),
        ("state", np.int8),
        ("probability", np.float64),
        ("cue", np.int16),
        ("general", np.bool_),
    ]
)


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
        self._cues = load_cues()
        self._matcher = Matcher.of(self._lexicon, self._cues.phrases)
        self._cue_names = tuple(dict.fromkeys([*self._cues.base, *(cue.name for cue in self._cues.cues)]))
        self._cue_index = {name: k for k, name in enumerate(self._cue_names)}
        self._forget()

    def label(self, reports: Sequence[Report]) -> LabelTable:
        """Label reports; a row depends on its own report alone."""
        texts: list[str] = []
        where: list[tuple[int, int, int]] = []
        for number, report in enumerate(reports):
            text = report.text
            for section, start, end in split_report(text):
                texts.append(text[start:end])
                where.append((number, start, section))
        numbers = self._analyse(texts)
        row, offset, kind = np.array(where, np.int64).reshape(-1, 3).T
        count = self._count[numbers]
        sentence = np.repeat(np.arange(len(numbers)), count)
        within = np.arange(len(sentence)) - np.repeat(np.cumsum(count) - count, count)
        found = self._places[self._first[numbers][sentence] + within]
        rank = np.where(kind == IMPRESSION, IMPRESSION_RANK, FINDINGS_RANK)[sentence]
        places = Places(
            row=row[sentence],
            finding=found["finding"].astype(np.int64),
            start=found["start"] + offset[sentence],
            end=found["end"] + offset[sentence],
            state=found["state"],
            probability=found["probability"],
            cue=found["cue"].astype(np.int64),
            rank=np.where(found["general"], GENERAL_RANK, rank).astype(np.int8),
        )
        read = np.isin(np.arange(len(reports)), row)  # a report of history alone says nothing of the picture
        ids = [report.report_id for report in reports]
        return soften(ids, read, places, self._cue_names, self._lexicon, self.name, self.version)

    def _forget(self) -> None:
        """Empty the memory: sentence -> number; per number the first of its places and their count; the places."""
        self._number: dict[str, int] = {}
        self._first = np.zeros(1024, np.int64)
        self._count = np.zeros(1024, np.int64)
        self._places = np.zeros(4096, _PLACE)
        self._used = 0

    def _analyse(self, sentences: list[str]) -> NDArray[np.int64]:
        """Return the number of each sentence, analysing the distinct ones that are new."""
        fresh = [sentence for sentence in dict.fromkeys(sentences) if sentence not in self._number]
        if fresh and len(self._number) + len(fresh) > MEMORY:
            self._forget()
            fresh = list(dict.fromkeys(sentences))
        for sentence, tokens in zip(fresh, self._matcher.tokens(fresh), strict=True):
            clauses = Clauses(tokens)
            assertions = assert_places(clauses, named_places(clauses, self._lexicon), self._lexicon, self._cues)
            cue = self._cue_index
            self._remember(
                sentence,
                [(a.finding, a.start, a.end, a.state, a.probability, cue[a.cue], a.cue in GENERAL_CUES) for a in assertions],
            )
        number = self._number
        return np.array([number[sentence] for sentence in sentences], np.int64)

    def _remember(self, sentence: str, rows: list[tuple[int, int, int, int, float, int, bool]]) -> None:
        number, end = len(self._number), self._used + len(rows)
        if number == len(self._first):
            self._first = np.concatenate([self._first, np.zeros_like(self._first)])
            self._count = np.concatenate([self._count, np.zeros_like(self._count)])
        while end > len(self._places):
            self._places = np.concatenate([self._places, np.zeros_like(self._places)])
        self._number[sentence] = number
        self._first[number], self._count[number] = self._used, len(rows)
        if rows:
            self._places[self._used : end] = rows
        self._used = end
