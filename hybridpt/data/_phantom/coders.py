"""The hospitals' own label files: what coders made of a study, at known rates of error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hybridpt.data._phantom.cases import FINDINGS, HOSPITALS, SEVERITIES, Case
from hybridpt.data._phantom.draws import Draws
from hybridpt.data._phantom.reports import Statement
from labelers.io import write_table
from labelers.types import STATES, LabelTable, Vocabulary

__all__ = ["CODERS", "PROBABILITY", "SOURCE", "Coder", "code", "write_labels"]

SOURCE = "coders"
PROBABILITY: Mapping[str, float] = {"positive": 0.95, "negative": 0.05, "uncertain": 0.5, "unmentioned": 0.1}
"""P(present) that the file gives for each state: what it sounds like, not what it is worth."""
_STREAM = (2, 1)  # the keys before and behind the number of the study: its report's stream, and a branch of it


@dataclass(frozen=True, slots=True)
class Coder:
    """How a hospital's coders work.

    Attributes:
        looks: At the picture; else at the report.
        rates: Chances of the states, in the order of ``STATES``, given what they look at: ``absent`` or the severity in the
            picture, or the state in the report.
    """

    looks: bool
    rates: Mapping[str, tuple[float, float, float, float]]


CODERS: Mapping[str, Coder] = {
    # They read the report and slip now and then.
    "north": Coder(
        looks=False,
        rates={
            "positive": (0.955, 0.010, 0.015, 0.020),
            "negative": (0.008, 0.952, 0.0, 0.040),
            "uncertain": (0.120, 0.050, 0.800, 0.030),
            "unmentioned": (0.0, 0.0, 0.0, 1.0),
        },
    ),
    # They list what the report calls present, so what is not listed is not known.
    "south": Coder(
        looks=False,
        rates={
            "positive": (0.930, 0.0, 0.0, 0.070),
            "negative": (0.012, 0.0, 0.0, 0.988),
            "uncertain": (0.350, 0.0, 0.0, 0.650),
            "unmentioned": (0.002, 0.0, 0.0, 0.998),
        },
    ),
    # They look at the picture and fill in every cell.
    "west": Coder(
        looks=True,
        rates={
            "absent": (0.030, 0.955, 0.015, 0.0),
            "subtle": (0.700, 0.180, 0.120, 0.0),
            "moderate": (0.920, 0.040, 0.040, 0.0),
            "obvious": (0.980, 0.010, 0.010, 0.0),
        },
    ),
}
"""The coders of the hospitals that give labels; every row sums to one."""


def code(case: Case, seed: int, statements: Sequence[Statement]) -> dict[str, str] | None:
    """Return the state that a hospital's coders give every finding of a study.

    Args:
        case: The study.
        seed: Seed of the set, 0 or more.
        statements: What its report says, as ``write_report`` returned it; not looked at where the coders look at pictures.

    Returns:
        One of ``labelers.STATES`` for each of ``FINDINGS``, in their order; None where the hospital gives no labels.
    """
    hospital = case.patient.dataset
    if not HOSPITALS[hospital].labels:
        return None
    coder = CODERS[hospital]
    draws = Draws(seed, _STREAM[0], case.index, _STREAM[1])
    seen = _truth(case) if coder.looks else {s.finding: s.state for s in statements}
    return {finding: STATES[draws.weighted(coder.rates[seen[finding]])] for finding in FINDINGS}


def _truth(case: Case) -> dict[str, str]:
    return {**dict.fromkeys(FINDINGS, "absent"), **{lesion.finding: SEVERITIES[lesion.severity] for lesion in case.lesions}}


def write_labels(path: str | Path, rows: Iterable[tuple[str, Mapping[str, str]]]) -> None:
    """Write a label file in the wide layout: per study and finding the probability and the state.

    Args:
        path: Ends in .csv or .parquet.
        rows: Id of each study, and what ``code`` returned for it.

    Raises:
        InputError: The file cannot be written.
        UsageError: Another suffix.
    """
    studies = list(rows)
    states = np.array([[STATES.index(labels[finding]) for finding in FINDINGS] for _, labels in studies], np.int8)
    table = LabelTable.from_states(
        [study for study, _ in studies],
        Vocabulary.of(FINDINGS, name="phantom"),
        states.reshape(len(studies), len(FINDINGS)),
        SOURCE,
        probability=[PROBABILITY[state] for state in STATES],
    )
    write_table(table, path, "wide")
