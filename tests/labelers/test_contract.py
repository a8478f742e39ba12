"""The plugin contract as a test: built-in labelers keep it, and each way of breaking it is called by its name."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from labelers import LabelTable, Report, Vocabulary, create
from labelers.registry import listing
from labelers.testing import check_labeler
from labelers.types import NEGATIVE, POSITIVE, UNMENTIONED, Evidence

VOCABULARY = Vocabulary.of(["Pleural Effusion", "Pneumothorax"])


class Honest:
    """A tiny labeler that keeps the contract: a word, and "No" before it."""

    name: ClassVar[str] = "honest"
    version: ClassVar[str] = "1"
    vocabulary = VOCABULARY

    def label(self, reports: Sequence[Report]) -> LabelTable:
        state = np.full((len(reports), 2), UNMENTIONED)
        places = []
        for r, report in enumerate(reports):
            for k, word in enumerate(("effusion", "pneumothorax")):
                start = report.text.find(word)
                if start >= 0:
                    state[r, k] = NEGATIVE if "No" in report.text[:start] else POSITIVE
                    places.append((2 * r + k, start, start + len(word), state[r, k], 0))
        cell, first, last, code, cue = np.array(places, np.int64).reshape(-1, 5).T
        kinds = (first.astype(np.int32), last.astype(np.int32), code.astype(np.int8), cue.astype(np.int32))
        ids = [report.report_id for report in reports]
        table = LabelTable.from_states(ids, self.vocabulary, state, "honest")
        return dataclasses.replace(table, evidence=Evidence(cell, *kinds, cues=("word",)))


Break = Callable[[LabelTable, Sequence[Report]], LabelTable]


def breaking(change: Break) -> Honest:
    """An honest labeler whose tables are changed afterwards."""

    class Broken(Honest):
        def label(self, reports: Sequence[Report]) -> LabelTable:
            return change(super().label(reports), reports)

    return Broken()


def field(**values: Any) -> Break:
    return lambda table, _: dataclasses.replace(table, **{n: v(table) if callable(v) else v for n, v in values.items()})


def places(**values: Any) -> Break:
    def change(table: LabelTable, _: Sequence[Report]) -> LabelTable:
        made = {n: v(table.evidence) for n, v in values.items()}
        return dataclasses.replace(table, evidence=dataclasses.replace(table.evidence, **made))

    return change


def first_row(values: Any, value: float) -> Any:
    copy = values.copy()
    copy[:1] = value
    return copy


def reversed_rows(table: LabelTable, _: Sequence[Report]) -> LabelTable:
    return dataclasses.replace(table, report_ids=table.report_ids[::-1])


def by_batch(table: LabelTable, reports: Sequence[Report]) -> LabelTable:
    probability = np.full_like(table.probability, 0.5 if len(reports) > 1 else 0.4)
    return dataclasses.replace(table, probability=probability, uncertainty=np.ones_like(probability))


class Fickle(Honest):
    calls = 0

    def label(self, reports: Sequence[Report]) -> LabelTable:
        self.calls += 1
        table = super().label(reports)
        return dataclasses.replace(table, uncertainty=np.full_like(table.uncertainty, 1 - self.calls / 1000))


class Fragile(Honest):
    def label(self, reports: Sequence[Report]) -> LabelTable:
        for report in reports:
            report.text.encode("ascii")
        return super().label(reports)


class Silent:
    """No method ``label``."""

    name, version, vocabulary = "silent", "1", VOCABULARY


class Ignorant(Honest):
    vocabulary = Vocabulary.of([])


class ByTurns(Honest):
    """Its evidence depends on how many reports it has seen."""

    calls = 0

    def label(self, reports: Sequence[Report]) -> LabelTable:
        table = super().label(reports)
        self.calls += 1
        return dataclasses.replace(table, evidence=dataclasses.replace(table.evidence, cues=(f"word {self.calls}",)))


BROKEN: dict[str, tuple[Any, str]] = {
    "no labeler": (Silent(), "expected the attributes name, version, vocabulary and the method label"),
    "no finding": (Ignorant(), "one finding or more"),
    "source": (breaking(field(source="other")), "source to be 'honest', got 'other'"),
    "version": (breaking(field(version="0")), "version to be '1', got '0'"),
    "vocabulary": (breaking(field(vocabulary=Vocabulary.of(["A", "B"]))), "vocabulary to be the labeler's"),
    "order": (breaking(reversed_rows), "one row a report, in the order given"),
    "state codes": (breaking(field(state=lambda t: t.state + np.int8(3))), "codes of STATES"),
    "state type": (breaking(field(state=lambda t: t.state.astype(np.int64))), "states as int8, got int64"),
    "probability type": (breaking(field(probability=lambda t: t.probability.astype(float))), "probability as float32"),
    "probability above one": (breaking(field(probability=lambda t: t.probability + 1)), "every probability in"),
    "probability nan": (breaking(field(probability=lambda t: first_row(t.probability, np.nan))), "every probability in"),
    "uncertainty above one": (breaking(field(uncertainty=lambda t: t.uncertainty + 2)), "every uncertainty in"),
    "uncertainty too low": (breaking(field(uncertainty=lambda t: t.uncertainty * 0)), "at least the probability's entropy"),
    "evidence unsorted": (breaking(places(cell=lambda e: e.cell[::-1])), "sorted by cell"),
    "evidence beyond the text": (breaking(places(end=lambda e: e.end + 100_000)), "outside its .* code points"),
    "evidence of nothing": (breaking(places(end=lambda e: e.start)), "outside its .* code points"),
    "evidence beyond the table": (breaking(places(cell=lambda e: e.cell + 1000)), "cells of the table"),
    "evidence of unequal length": (breaking(places(cue=lambda e: e.cue[1:])), "one cue a place"),
    "evidence without a cue": (breaking(places(cues=lambda e: ())), "name one of its cues"),
    "evidence unmentioned": (breaking(places(state=lambda e: e.state * 0 + 3)), "positive, negative or uncertain"),
    "evidence too probable": (breaking(places(probability=lambda e: e.start + np.float32(2))), "probability of evidence"),
    "empty text": (breaking(field(state=lambda t: first_row(t.state, POSITIVE))), "labeling one at a time|text 0 is empty"),
    "depends on the batch": (breaking(by_batch), "labeling one at a time changed the probability of text 0"),
    "not deterministic": (Fickle(), "labeling again changed the uncertainty of text 0"),
    "cues not deterministic": (ByTurns(), "labeling again changed the cues"),
    "fails": (Fragile(), "hostile texts to be survived, got UnicodeEncodeError"),
}


BUILTIN = [line for line in listing() if line.origin.startswith("labelers.builtin.")]


@pytest.mark.parametrize("name", [line.name for line in BUILTIN if not line.missing and not line.options])
def test_built_in_labelers_keep_the_contract(name: str) -> None:
    check_labeler(
        create(name), ["Xylophonist. Small effusion, no pneumothorax.", "IMPRESSION: 1. Possible pneumonia.\n2. Lines."]
    )


@pytest.mark.parametrize("name", [line.name for line in BUILTIN if line.needs or line.options])
def test_labelers_that_need_something_are_held_to_the_contract_by_their_own_tests(name: str) -> None:
    assert "check_labeler(" in Path(__file__).with_name(f"test_{name}.py").read_text(encoding="utf-8")


def test_an_honest_labeler_passes() -> None:
    check_labeler(Honest(), ["No effusion."])


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_labeler_fails_by_name(case: str) -> None:
    labeler, message = BROKEN[case]
    with pytest.raises(AssertionError, match=message):
        check_labeler(labeler)


def test_a_further_text_that_is_empty_must_be_unmentioned() -> None:
    def change(table: LabelTable, reports: Sequence[Report]) -> LabelTable:
        rows = [r.text == "\u2003" for r in reports]
        state = np.where(np.array(rows, bool)[:, None], np.int8(NEGATIVE), table.state)
        return dataclasses.replace(table, state=state)

    check_labeler(breaking(change))
    with pytest.raises(AssertionError, match="text 9 is empty"):
        check_labeler(breaking(change), ["\u2003"])


class Own(Honest):
    """Has a name of its own, as a labeler of several layouts has."""

    def __init__(self, name: str) -> None:
        self.name = name  # type: ignore[misc]

    def label(self, reports: Sequence[Report]) -> LabelTable:
        return dataclasses.replace(super().label(reports), source=self.name)


def test_an_instance_may_have_a_name_of_its_own() -> None:
    check_labeler(Own("somebody"))
    with pytest.raises(AssertionError, match="source to be 'honest', got 'somebody'"):
        check_labeler(breaking(field(source="somebody")))


class Records(Honest):
    """Reads its own files, and no free text."""

    def read(self, path: Path, id_column: str | None) -> Iterator[Report]:
        yield Report("a", "effusion=1")

    def label(self, reports: Sequence[Report]) -> LabelTable:
        assert all(report.text in ("", "effusion=1", "effusion=0") for report in reports)
        rows = [[POSITIVE if report.text == "effusion=1" else UNMENTIONED, UNMENTIONED] for report in reports]
        return LabelTable.from_states([r.report_id for r in reports], self.vocabulary, np.reshape(rows, (-1, 2)), "honest")


class Careless(Records):
    """Takes an empty record for a finding."""

    def label(self, reports: Sequence[Report]) -> LabelTable:
        table = super().label(reports)
        return dataclasses.replace(table, state=np.where(table.state == UNMENTIONED, np.int8(NEGATIVE), table.state))


def test_a_labeler_that_reads_its_own_files_is_tried_on_records_alone() -> None:
    check_labeler(Records(), ["effusion=1", "effusion=0"])
    with pytest.raises(AssertionError, match="hostile texts to be survived, got AssertionError"):
        check_labeler(Records(), ["There is an effusion."])
    with pytest.raises(AssertionError, match="text 0 is empty"):
        check_labeler(Careless())


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import torch", "to load no heavy library when it is imported, got torch"),
        ("import sys, types\nsys.modules.update((f'm{i}', types.ModuleType('m')) for i in range(400))", "at most 300 modules"),
        ("raise RuntimeError('no licence')", "in a fresh interpreter, got: RuntimeError: no licence"),
    ],
)
def test_a_module_that_is_not_cheap_to_import_fails_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, message: str
) -> None:
    (tmp_path / "torch.py").write_text("", encoding="utf-8")  # stands for the real one, which takes seconds
    name = f"costly_{len(code)}"
    (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    costly = type("Costly", (Honest,), {"__module__": name})
    with pytest.raises(AssertionError, match=message):
        check_labeler(costly())
    assert name not in sys.modules, "it is imported elsewhere"
