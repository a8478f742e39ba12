"""The records that the stages hand to each other, and the table in memory."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy

import labelers
from labelers import InputError, LabelTable, Report, Vocabulary
from labelers.cli import main
from labelers.errors import shown_columns, unknown_name
from labelers.types import NEGATIVE, POSITIVE, STATES, UNCERTAIN, UNMENTIONED, Evidence, Finding, binary_entropy

NAMES = Vocabulary.of(["Edema", "Pneumothorax"])


def table(ids: list[str], states: list[list[int]], **changes: Any) -> LabelTable:
    return dataclasses.replace(LabelTable.from_states(ids, NAMES, np.array(states).reshape(-1, 2), "me"), **changes)


def evidence(cells: list[int], cues: list[str], probability: list[float] | None = None) -> Evidence:
    names = tuple(dict.fromkeys(cues))
    count = len(cells)
    return Evidence(
        cell=np.array(cells, np.int64),
        start=np.arange(count, dtype=np.int32),
        end=np.arange(5, count + 5, dtype=np.int32),
        state=np.zeros(count, np.int8),
        cue=np.array([names.index(c) for c in cues], np.int32),
        cues=names,
        probability=None if probability is None else np.array(probability, np.float32),
    )


def test_codes_are_indices_of_states() -> None:
    codes = {"positive": POSITIVE, "negative": NEGATIVE, "uncertain": UNCERTAIN, "unmentioned": UNMENTIONED}
    assert {name: STATES.index(name) for name in codes} == codes


@given(st.floats(0, 1))
def test_binary_entropy(p: float) -> None:
    assert binary_entropy(np.array([p]))[0] == pytest.approx(entropy([p, 1 - p], base=2), abs=1e-6)


def test_binary_entropy_at_the_ends() -> None:
    values = binary_entropy(np.array([0.0, 0.5, 1.0], np.float32))
    assert values.tolist() == [0.0, 1.0, 0.0]
    assert values.dtype == np.float32


def test_vocabulary() -> None:
    vocabulary = Vocabulary("v", "1", (Finding("Lung Opacity"), Finding("Infiltrate", "Lung Opacity")))
    assert vocabulary.names == ("Lung Opacity", "Infiltrate")
    assert vocabulary.index("Infiltrate") == 1
    assert "Infiltrate" in vocabulary
    assert "Edema" not in vocabulary
    assert len(vocabulary) == 2
    assert vocabulary.digest != dataclasses.replace(vocabulary, findings=vocabulary.findings[:1], digest="").digest
    with pytest.raises(KeyError):
        vocabulary.index("Edema")


def test_vocabulary_refuses_a_name_twice_and_an_unknown_parent() -> None:
    with pytest.raises(InputError, match="'Edema' stands twice"):
        Vocabulary.of(["Edema", "Mass", "Edema"])
    with pytest.raises(InputError, match="parent 'Opacity' of 'Mass'"):
        Vocabulary("v", "1", (Finding("Mass", "Opacity"),))


def test_from_states_gives_each_state_its_probability() -> None:
    made = table(["a", "b"], [[POSITIVE, NEGATIVE], [UNCERTAIN, UNMENTIONED]])
    assert made.probability == pytest.approx(np.array([[0.95, 0.05], [0.5, 0.1]]))
    assert made.probability.dtype == made.uncertainty.dtype == np.float32
    assert made.uncertainty[1, 0] == 1
    assert made.state.dtype == np.int8


def test_a_table_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"probability has the shape \(1, 2\)"):
        table(["a", "b"], [[0, 0], [0, 0]], probability=np.zeros((1, 2), np.float32))


def test_rows_hold_every_cell_with_its_evidence() -> None:
    rows = list(table(["a", "b"], [[0, 1], [3, 3]], evidence=evidence([0, 0, 1], ["x", "y", "x"])).rows())
    assert [(r["report_id"], r["finding"], r["state"]) for r in rows] == [
        ("a", "Edema", "positive"),
        ("a", "Pneumothorax", "negative"),
        ("b", "Edema", "unmentioned"),
        ("b", "Pneumothorax", "unmentioned"),
    ]
    assert rows[0]["evidence"] == [
        {"start": 0, "end": 5, "state": "positive", "cue": "x"},
        {"start": 1, "end": 6, "state": "positive", "cue": "y"},
    ]
    assert rows[2]["evidence"] == []


def test_concatenate_moves_evidence_with_its_rows() -> None:
    one = table(["a"], [[0, 3]], evidence=evidence([0], ["x"], [0.9]))
    other = table(["b", "c"], [[3, 3], [3, 1]], evidence=evidence([3], ["y"], [0.1]))
    both = LabelTable.concatenate([one, table([], []), dataclasses.replace(other, evidence=evidence([3], ["y"]))])
    assert both.report_ids.tolist() == ["a", "b", "c"]
    assert [row["evidence"] for row in both.rows()][5] == [{"start": 0, "end": 5, "state": "positive", "cue": "y"}]
    assert both.evidence.cell.tolist() == [0, 5]
    assert both.evidence.probability is None, "one part tells none"
    told = LabelTable.concatenate([one, table([], []), other]).evidence.probability
    assert told is not None
    assert told == pytest.approx([0.9, 0.1])


@pytest.mark.parametrize("change", [{"source": "you"}, {"version": "2"}, {"vocabulary": Vocabulary.of(["Edema", "Mass"])}])
def test_concatenate_refuses_unlike_tables(change: dict[str, Any]) -> None:
    one = table(["a"], [[0, 0]])
    with pytest.raises(ValueError, match="one labeler, one version and one vocabulary"):
        LabelTable.concatenate([one, dataclasses.replace(one, **change)])
    with pytest.raises(ValueError, match="one table or more"):
        LabelTable.concatenate([])


def test_a_table_prints_counts_and_no_ids() -> None:
    shown = repr(table(["Xylophonist"], [[0, 3]]))
    assert shown == "LabelTable(1 reports x 2 findings by 'me': 1 positive, 0 negative, 0 uncertain, 1 unmentioned)"


def test_label_from_python() -> None:
    made = labelers.label(["No effusion. Xylophonist.", Report("mine", "")], labeler="context")
    assert made.report_ids.tolist() == ["0", "mine"]
    assert STATES[made.state[0, made.vocabulary.index("Pleural Effusion")]] == "negative"
    assert repr(made).startswith("LabelTable(2 reports x ")
    assert "Xylophonist" not in repr(made) + str(made)


def test_label_refuses_a_single_string_and_an_unknown_labeler() -> None:
    with pytest.raises(TypeError, match="put it into a list"):
        labelers.label("No effusion.")
    with pytest.raises(labelers.UsageError, match="did you mean context"):
        labelers.label(["No effusion."], labeler="contxt")


def test_exported_names_are_the_public_ones() -> None:
    imported_for_typing = {"annotations", "Sequence"}
    public = {n for n, value in vars(labelers).items() if not n.startswith("_") and not inspect.ismodule(value)}
    assert set(labelers.__all__) == public - imported_for_typing
    assert len(set(labelers.__all__)) == len(labelers.__all__)


def test_unknown_name_offers_the_nearest_and_limits_the_list() -> None:
    assert "did you mean keywords? known: context, keywords" in str(unknown_name("labeler", "keyword", ["keywords", "context"]))
    assert str(unknown_name("labeler", "x", [])).endswith("known: none")
    many = str(unknown_name("finding", "finding 7x", [f"finding {i}" for i in range(200)]))
    assert "did you mean finding 7" in many
    assert many.endswith("200 are known")


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["id", "Report Text", "Granuloma (any)", ""], "id, Report Text, Granuloma (any), "),
        (["StudyID", "Befund"], "StudyID, Befund"),
        (["pid", "radiology.notes"], "pid, radiology.notes"),
        (["nr", "reportText"], "nr, reportText"),
        (["studyid", "befund"], "studyid, befund"),
        (["id", "No effusion."], None),
        (["s50414267", "effusion"], None),
        (["id", "heart size is within limits"], None),
        (["id", "x" * 41], None),
        (["id", "a\nb"], None),
        (["CXR1", "Small left effusion"], None),
        (["David", "Normal"], None),
        (["Candida", "Ideal study"], None),
        (["Maria Lopez", "note patient rotated"], None),
        ([], None),
    ],
)
def test_a_header_that_looks_like_a_row_is_not_shown(names: list[str], shown: str | None) -> None:
    got = shown_columns(names)
    assert got == shown if shown else got.startswith("not shown, since ")
    if not shown:
        assert not any(name in got for name in names)
        assert not any(name in shown_columns(names, [name]) for name in names)


def test_a_file_without_a_header_is_told_so_and_no_word_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "h.csv"
    for rows in ('CXR1,"Small left effusion"\nCXR2,"No acute disease."\n', "Lopez,Lopez\nx,y\n"):
        path.write_text(rows)
        assert main(["run", str(path), "--labeler", "context", "-o", str(tmp_path / "o.csv")]) == 1
        told = capsys.readouterr().err
        assert "look like no header (is the header missing?)" in told
        assert "effusion" not in told
        assert "Lopez" not in told
