"""The labeler "context": lexicon, clause grammar and cues."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from labelers.assertions import GENERAL_CUES, assert_places, load_cues
from labelers.mentions import Clauses, Matcher, named_places
from labelers.sections import IMPRESSION, split_report
from labelers.soften import FINDINGS_RANK, IMPRESSION_RANK, Places, soften
from labelers.types import LabelTable, Report, Vocabulary
from labelers.vocabulary import load_vocabulary

__all__ = ["Context"]

MEMORY = 200_000
"""Distinct sentences whose analysis is kept; the memory is emptied when it is full."""

_Analysis = tuple[tuple[int, int, int, int, float, int, bool], ...]


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
        self._memory: dict[str, _Analysis] = {}

    def label(self, reports: Sequence[Report]) -> LabelTable:
        """Label reports; a row depends on its own report alone."""
        spans = [split_report(report.text) for report in reports]
        cut = [[report.text[start:end] for _, start, end in found] for report, found in zip(reports, spans, strict=True)]
        analysed = self._analyse(sentence for pieces in cut for sentence in pieces)
        found: list[tuple[int, int, int, int, int, float, int, int]] = []
        for row, (pieces, places) in enumerate(zip(cut, spans, strict=True)):
            for sentence, (kind, offset, _) in zip(pieces, places, strict=True):
                rank = IMPRESSION_RANK if kind == IMPRESSION else FINDINGS_RANK
                for finding, start, end, state, probability, cue, general in analysed[sentence]:
                    found.append((row, finding, offset + start, offset + end, state, probability, cue, 0 if general else rank))
        columns: list[tuple[float, ...]] = list(zip(*found, strict=True)) if found else [()] * 8
        places_ = Places(
            row=np.array(columns[0], np.int64),
            finding=np.array(columns[1], np.int64),
            start=np.array(columns[2], np.int64),
            end=np.array(columns[3], np.int64),
            state=np.array(columns[4], np.int8),
            probability=np.array(columns[5], np.float64),
            cue=np.array(columns[6], np.int64),
            rank=np.array(columns[7], np.int8),
        )
        read = np.array([bool(report.text.strip()) for report in reports], bool)
        ids = [report.report_id for report in reports]
        return soften(ids, read, places_, self._cue_names, self.vocabulary, self.name, self.version)

    def _analyse(self, sentences: Iterable[str]) -> dict[str, _Analysis]:
        """Return the analysis of each distinct sentence, from memory where it was seen before."""
        distinct = dict.fromkeys(sentences)
        fresh = [sentence for sentence in distinct if sentence not in self._memory]
        if len(self._memory) + len(fresh) > MEMORY:
            self._memory.clear()
            fresh = list(distinct)
        analysed = dict(self._memory) if False else self._memory
        for sentence, tokens in zip(fresh, self._matcher.tokens(fresh), strict=True):
            clauses = Clauses(tokens)
            assertions = assert_places(clauses, named_places(clauses, self._lexicon), self._lexicon, self._cues)
            analysed[sentence] = tuple(
                (a.finding, a.start, a.end, a.state, a.probability, self._cue_index[a.cue], a.cue in GENERAL_CUES) for a in assertions
            )
        return analysed
