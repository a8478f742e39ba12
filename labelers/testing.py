"""The contract of a labeler as a public test: call ``check_labeler`` from the tests of your own package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import cache

import numpy as np

from labelers.registry import FileLabeler, Labeler
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

HEAVY = (
    *("torch", "torchvision", "lightning", "pytorch_lightning", "transformers", "timm"),
    *("tensorflow", "keras", "jax", "flax", "spacy", "vllm", "ray"),
)
"""What importing a labeler's module must not load: the labeler imports it when it runs."""
MODULES = 300
"""Modules that importing a labeler's module may load beyond those that ``labelers`` has loaded."""
_IMPORT = """
import importlib, json, sys
import labelers.testing
known = set(sys.modules)
importlib.import_module(sys.argv[1])
print()
print(json.dumps(sorted(set(sys.modules) - known)))
"""


def check_labeler(labeler: Labeler, texts: Sequence[str] = ()) -> None:
    """Check that a labeler keeps the contract, all of it.

    - It is deterministic: labeling again changes nothing.
    - A report's labels do not depend on the batch that it is in; a batch may be empty.
    - Every finding of its vocabulary is judged for every report, one row a report in the order given; the table bears its name,
      version and vocabulary.
    - Probabilities and uncertainties lie in [0, 1], and the uncertainty is no less than the probability's entropy.
    - Evidence is sorted by cell, lies inside the text, and names a state and a cue.
    - Empty and hostile texts are survived, and an empty text is unmentioned throughout.
    - Its module is cheap to import: in a fresh interpreter that loads none of ``HEAVY``, and at most ``MODULES`` modules more than
      ``labelers`` itself.

    A labeler that reads files of its own (``FileLabeler``) understands no free text: it is tried on an empty record and on the
    ``texts`` given, which are to be records as its ``read`` yields them.

    Args:
        labeler: The labeler, ready to run.
        texts: Further texts to try it on.

    Raises:
        AssertionError: A part of the contract is broken; the message says which, and the number of the text (from 0; the samples
            come first, then ``texts``).
    """
    assert isinstance(labeler, Labeler), "expected the attributes name, version, vocabulary and the method label(reports)"
    assert len(labeler.vocabulary), "expected a vocabulary with one finding or more"
    samples = SAMPLES[:1] if isinstance(labeler, FileLabeler) else SAMPLES
    reports = [Report(f"r{i}", text) for i, text in enumerate([*samples, *texts])]
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
    _check_import(type(labeler).__module__)


@cache  # a test may check one labeler on many texts
def _check_import(module: str) -> None:
    if module == "__main__":  # of a notebook or a script: nobody imports it
        return
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT, module],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": _path()},
    )
    assert done.returncode == 0, (
        f"expected the module '{module}' to be imported in a fresh interpreter, got: {_last_line(done.stderr)}"
    )
    loaded = json.loads(done.stdout.splitlines()[-1])
    heavy = sorted({name.partition(".")[0] for name in loaded} & set(HEAVY))
    assert not heavy, f"expected the module '{module}' to load no heavy library when it is imported, got {', '.join(heavy)}"
    assert len(loaded) <= MODULES, (
        f"expected the module '{module}' to load at most {MODULES} modules when it is imported, got {len(loaded)}; import libraries "
        "inside the functions that use them"
    )


def _path() -> str:
    return os.pathsep.join(folder or os.getcwd() for folder in sys.path)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["nothing was said"])[-1]


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
