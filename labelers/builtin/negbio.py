"""The labeler "negbio": the installed NegBio, its phrases and patterns, on a parse by BLLIP or spaCy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from labelers._negbio.cleaning import clean, pieces
from labelers._negbio.parsers import load_parser
from labelers._negbio.rules import INSTALL, Rules, Verdict
from labelers._negbio.scheme import Place, Scheme, with_heart
from labelers.sections import split_reports
from labelers.types import UNCERTAIN, LabelTable, Report, Vocabulary
from labelers.vocabulary import load_vocabulary

__all__ = ["NegBio"]

MEMORY = 100_000
"""Distinct sentences whose analysis is kept; the memory is emptied when it is full."""
UNPARSED = "unparsed"
"""Cue of a mention whose sentence could not be parsed; nobody knows then whether it is denied."""


class NegBio:
    """NegBio as installed from its repository: its phrases and patterns, on a parse by BLLIP or spaCy.

    Peng et al., NegBio: a high-performance tool for negation and uncertainty detection in radiology reports, AMIA 2018 Informatics
    Summit (arXiv 1712.05898); the phrases and the default patterns are those of Irvin et al., CheXpert, AAAI 2019 (arXiv 1901.07031),
    which NegBio holds. It judges their fourteen observations, in findings and impression alike.
    """

    name = "negbio"
    version = "1"
    requires: ClassVar[dict[str, str]] = dict.fromkeys(("negbio", "bioc", "networkx", "ply", "tqdm"), INSTALL)

    def __init__(self, vocabulary: str = "chest", patterns: str = "chexpert", model: str = "") -> None:
        """Load NegBio and the parser.

        Args:
            vocabulary: Name of a shipped vocabulary or path of a vocabulary file; the findings that NegBio judges are taken from it.
            patterns: NegBio's patterns: ``chexpert`` (in three steps, which its guide recommends) or ``negbio`` (its first).
            model: Folder of a BLLIP model, or name or folder of an English spaCy pipeline; by default BLLIP's model where NegBio
                keeps it, else an installed spaCy pipeline.

        Raises:
            UsageError: NegBio or the parser is not there, or an option has a value that is not known.
        """
        self._scheme = Scheme(load_vocabulary(vocabulary).vocabulary)
        self.vocabulary: Vocabulary = self._scheme.vocabulary
        self._rules = Rules(patterns)
        self._parse = load_parser(model)
        self._known: dict[str, tuple[Place, ...]] = {}

    def label(self, reports: Sequence[Report]) -> LabelTable:
        """Label reports; a row depends on its own report alone."""
        found = split_reports([report.text for report in reports])
        places: list[list[Place] | None] = [None] * len(reports)
        for sentence, row, start in zip(found.text, found.row.tolist(), found.start.tolist(), strict=True):
            said = [p._replace(start=p.start + start, end=p.end + start) for p in self._sentence(sentence)]
            places[row] = [*(places[row] or ()), *said]
        return self._scheme.table([report.report_id for report in reports], places, self.name, self.version)

    def _sentence(self, sentence: str) -> tuple[Place, ...]:
        if sentence not in self._known:
            if len(self._known) >= MEMORY:
                self._known.clear()
            self._known[sentence] = self._analyse(sentence)
        return self._known[sentence]

    def _analyse(self, sentence: str) -> tuple[Place, ...]:
        return tuple(
            place._replace(start=place.start + start, end=place.end + start)
            for start, end in pieces(sentence)
            for place in self._judged(sentence[start:end])
        )

    def _judged(self, piece: str) -> list[Place]:
        cleaned = clean(piece)
        named = self._rules.named(cleaned.text)
        if not named:
            return []
        try:
            verdicts = self._rules.judge(*self._parse(cleaned.text), named)
        except Exception:  # NegBio logs the sentence and goes on as if it were asserted; neither is right here
            verdicts = [Verdict(UNCERTAIN, UNPARSED)] * len(named)
        return [
            place
            for one, verdict in zip(named, verdicts, strict=True)
            for place in with_heart(
                Place(one.observation, *cleaned.span(one.start, one.end), *verdict), cleaned.text[one.start : one.end]
            )
        ]
