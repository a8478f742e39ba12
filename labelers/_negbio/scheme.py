"""What NegBio says of observations, report by report -> a table of our findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelers.crosswalk import from_scheme, load_crosswalk
from labelers.errors import UsageError
from labelers.soften import CONFLICT
from labelers.types import NEGATIVE, POSITIVE, UNCERTAIN, UNMENTIONED, Evidence, LabelTable, Vocabulary

__all__ = ["Place", "Scheme", "with_heart"]

NO_FINDING = "No Finding"
_HARMLESS = "Support Devices"
_ALIASES = {"Airspace Opacity": "Lung Opacity"}
_HEART_FAILURE = ("chf", "heart failure")


class Place(NamedTuple):
    """A place of a report where an observation is named: [start, end) in code points, a state's code and the cue's name."""

    observation: str
    start: int
    end: int
    state: int
    cue: str


class Scheme:
    """The CheXpert labeler's fourteen observations, which NegBio's phrases find, and our findings.

    Attributes:
        vocabulary: Those findings that an observation tells of; finer ones could only be denied and are unknown.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Lay out the cross-walk.

        Args:
            vocabulary: The findings to choose from.

        Raises:
            UsageError: None of the observations means any of them.
        """
        self._crosswalk = load_crosswalk("chexpert", vocabulary)
        self._given = vocabulary
        self._column = {label: k for k, label in enumerate(self._crosswalk.labels)}
        said = {state: self._findings(state) for state in (POSITIVE, NEGATIVE)}
        self.vocabulary = said[POSITIVE].vocabulary
        if not len(self.vocabulary):
            raise UsageError(
                f"the vocabulary '{vocabulary.name}' has no finding of NegBio's: expected one of {', '.join(self._column)}"
            )
        self._bears = {state: table.state == state for state, table in said.items()}

    def __contains__(self, observation: str) -> bool:
        return _ALIASES.get(observation, observation) in self._column

    def _findings(self, state: int) -> LabelTable:
        """Say each label alone in our findings."""
        size = len(self._column)
        alone = np.where(np.eye(size, dtype=bool), state, UNMENTIONED)
        return from_scheme([str(k) for k in range(size)], alone, self._crosswalk, self._given)

    def table(
        self,
        report_ids: Sequence[str],
        places: Sequence[Sequence[Place] | None],
        source: str,
        version: str,
        stated: Sequence[Mapping[str, int]] = (),
    ) -> LabelTable:
        """Merge the places of each report as the CheXpert labeler does.

        Positive counts over uncertain, and uncertain over negative. "No Finding" is positive where nothing but devices is
        positive or uncertain, and otherwise unmentioned; the phrases that NegBio keeps under that name are of abnormalities that
        have no observation of their own.

        Args:
            report_ids: R ids.
            places: The places of each report, None where there was nothing to read.
            source: Name of the labeler.
            version: Version of the labeler.
            stated: For each report the labels that its file gives to the whole of it; they stand in place of the merged ones.
        """
        named = [(row, place) for row, found in enumerate(places) for place in found or ()]
        row = np.array([r for r, _ in named], np.int64)
        column = np.array([self._column[_ALIASES.get(p.observation, p.observation)] for _, p in named], np.int64)
        state = np.array([p.state for _, p in named], np.int8)
        shape = (len(report_ids), len(self._column))
        labels = np.full(shape, UNMENTIONED, np.int8)
        for code in (NEGATIVE, UNCERTAIN, POSITIVE):
            labels[row[state == code], column[state == code]] = code
        empty, harmless = self._column[NO_FINDING], self._column[_HARMLESS]
        abnormal = np.isin(labels, (POSITIVE, UNCERTAIN))
        abnormal[:, harmless] = False
        read = np.array([found is not None for found in places], bool)
        labels[:, empty] = np.where(read & ~abnormal.any(axis=1), POSITIVE, UNMENTIONED)
        for r, given in enumerate(stated):
            for label, code in given.items():
                labels[r, self._column[_ALIASES.get(label, label)]] = code
        table = from_scheme(report_ids, labels, self._crosswalk, self._given)
        kept = np.flatnonzero(column != empty)
        evidence = self._evidence(row[kept], column[kept], state[kept], [named[i][1] for i in kept])
        return replace(
            table,
            uncertainty=_raised(table, evidence),
            source=source,
            version=version,
            evidence=evidence,
            vocabulary=self.vocabulary,
        )

    def _evidence(
        self, row: NDArray[np.int64], column: NDArray[np.int64], state: NDArray[np.int8], places: Sequence[Place]
    ) -> Evidence:
        """Give each place to the findings that its label bears on."""
        bears = np.where((state == NEGATIVE)[:, None], self._bears[NEGATIVE][column], self._bears[POSITIVE][column])
        place, finding = np.nonzero(bears)
        start = np.array([p.start for p in places], np.int32)[place]
        end = np.array([p.end for p in places], np.int32)[place]
        cues, cue = np.unique(np.array([p.cue for p in places], np.str_), return_inverse=True)
        cell = row[place] * len(self.vocabulary) + finding
        keys = np.stack([cell, start, end, state[place], cue[place]])
        cell, start, end, said, cue = np.unique(keys, axis=1) if len(cell) else keys
        return Evidence(
            cell=cell,
            start=start.astype(np.int32),
            end=end.astype(np.int32),
            state=said.astype(np.int8),
            cue=cue.astype(np.int32),
            cues=tuple(str(name) for name in cues),
        )


def with_heart(place: Place, words: str) -> tuple[Place, ...]:
    """Add what the CheXpert labeler takes heart failure to say: where it is not denied, the heart may be enlarged.

    Args:
        place: A place.
        words: What stands there.
    """
    if place.state == NEGATIVE or words.lower() not in _HEART_FAILURE:
        return (place,)
    return (place, place._replace(observation="Cardiomegaly", state=UNCERTAIN))


def _raised(table: LabelTable, evidence: Evidence) -> NDArray[np.float32]:
    """Raise the uncertainty where places contradict."""
    size = table.state.size
    positive, negative = (np.bincount(evidence.cell[evidence.state == code], minlength=size) > 0 for code in (POSITIVE, NEGATIVE))
    conflict = (positive & negative).reshape(table.state.shape)
    return np.where(conflict, table.uncertainty + CONFLICT * (1 - table.uncertainty), table.uncertainty).astype(np.float32)
