"""The contract of a labeler as a public test: call ``check_labeler`` from the tests of your own package."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from labelers.registry import Labeler
from labelers.types import ATTRIBUTES, UNMENTIONED, LabelTable, Report, binary_entropy

__all__ = ["check_labeler"]

SAMPLES = (
    "",
    "   \n\t ",
    "No pleural effusion or pneumothorax. Heart size is normal.",
    "FINDINGS: Small left pleural effusion.\nIMPRESSION: Possible early pneumonia.",
    "Lungs are clear.",
    "effusion " * 2000,
    "\x00\ufffe\U0001f600 İ ﬁne e\u0301ffusion \u202e no",
    "1. No change.\r\n2. ___ XXXX [**Name**].",
    "Half an emoji \ud83d, as JSON can hold it: no effusion",
)


def check_labeler(labeler: Labeler, texts: Sequence[str] = ()) -> None:
    """Check that a labeler keeps the contract of the label table.

    It is deterministic; a report's labels do not depend on its batch; every finding of its vocabulary is judged for every
    report; probabilities and uncertainties lie in [0, 1]; evidence is sorted by cell and lies inside the text; empty and hostile
    texts are survived, and an empty text is unmentioned throughout.

    Args:
        labeler: The labeler, ready to run.
        texts: Further texts to try it on.

    Raises:
        AssertionError: A part of the contract is broken; the message says which, and the number of the text.
    """
    assert isinstance(labeler, Labeler), "expected the attributes name, version, vocabulary and the method label(reports)"
    assert len(labeler.vocabulary), "expected a vocabulary with one finding or more"
    reports = [Report(f"r{i}", text) for i, text in enumerate([*SAMPLES, *texts])]
    table = _label_all(labeler, reports)
    assert table.source == labeler.name, f"expected the table's source to be '{labeler.name}', got '{table.source}'"
    assert table.version == labeler.version, f"expected the table's version to be '{labeler.version}', got '{table.version}'"
    assert table.vocabulary == labeler.vocabulary, "expected the table's vocabulary to be the labeler's"
    assert list(table.report_ids) == [r.report_id for r in reports], "expected one row a report, in the order given"
    assert labeler.label([]).state.shape == (0, len(labeler.vocabulary)), "expected an empty table for no reports"
    _check_values(table)
    _check_evidence(table, reports)
    _check_same(table, labeler.label(reports), "labeling again")
    _check_same(table, LabelTable.concatenate([labeler.label([r]) for r in reports]), "labeling one at a time")
    for r, report in enumerate(reports):
        if not report.text.strip():
            assert (table.state[r] == UNMENTIONED).all(), f"text {r} is empty, expected every finding to be unmentioned"


def _label_all(labeler: Labeler, reports: Sequence[Report]) -> LabelTable:
    try:
        return labeler.label(reports)
    except Exception as error:
        raise AssertionError(f"expected hostile texts to be survived, got {type(error).__name__}") from error


def _check_values(table: LabelTable) -> None:
    assert table.state.dtype == np.int8, f"expected states as int8, got {table.state.dtype}"
    assert ((table.state >= 0) & (table.state <= UNMENTIONED)).all(), "expected codes of STATES"
    for name in ("probability", "uncertainty"):
        values = getattr(table, name)
        assert values.dtype == np.float32, f"expected {name} as float32, got {values.dtype}"
        assert ((values >= 0) & (values <= 1)).all(), f"expected every {name} in [0, 1]"
    floor = binary_entropy(table.probability)
    assert (table.uncertainty >= floor - 1e-4).all(), "expected an uncertainty of at least the probability's entropy in bits"


def _check_evidence(table: LabelTable, reports: Sequence[Report]) -> None:
    e = table.evidence
    for name in ("cell", "start", "end", "state", "cue", "probability"):
        values = getattr(e, name)
        assert values is None or values.shape == e.cell.shape, f"expected one {name} a place of evidence"
    assert (np.diff(e.cell) >= 0).all(), "expected evidence sorted by cell"
    assert ((e.cell >= 0) & (e.cell < table.state.size)).all(), "expected evidence for cells of the table"
    assert ((e.state >= 0) & (e.state < UNMENTIONED)).all(), "expected evidence to be positive, negative or uncertain"
    assert ((e.cue >= 0) & (e.cue < len(e.cues))).all(), "expected evidence to name one of its cues"
    if e.probability is not None:
        assert ((e.probability >= 0) & (e.probability <= 1)).all(), "expected every probability of evidence in [0, 1]"
    if e.attributes is not None:
        assert e.attributes.shape == (len(e), len(ATTRIBUTES)), f"expected {', '.join(ATTRIBUTES)} of every place of evidence"
        most = [len(values) for values in ATTRIBUTES.values()]
        assert ((e.attributes >= 0) & (e.attributes < most)).all(), (
            "expected attributes to be positions in the values of ATTRIBUTES"
        )
    rows = e.cell // max(len(table.vocabulary), 1)
    for i, r in enumerate(rows):
        length = len(reports[r].text)
        assert 0 <= e.start[i] < e.end[i] <= length, (
            f"text {r}: evidence [{e.start[i]}, {e.end[i]}) outside its {length} code points"
        )


def _check_same(one: LabelTable, other: LabelTable, what: str) -> None:
    assert list(one.report_ids) == list(other.report_ids), f"{what} changed the rows"
    for name in ("state", "probability", "uncertainty"):
        same = (getattr(one, name) == getattr(other, name)).all(axis=1)
        assert same.all(), f"{what} changed the {name} of text {int(np.flatnonzero(~same)[0])}"
    for name in ("cell", "start", "end", "state"):
        assert np.array_equal(getattr(one.evidence, name), getattr(other.evidence, name)), f"{what} changed the evidence"
    a, b = one.evidence.attributes, other.evidence.attributes
    assert (a is None) == (b is None), f"{what} changed whether side, severity and change are told"
    assert a is None or b is None or np.array_equal(a, b), f"{what} changed side, severity or change"
    cues = [[e.cues[c] for c in e.cue] for e in (one.evidence, other.evidence)]
    assert cues[0] == cues[1], f"{what} changed the cues"
