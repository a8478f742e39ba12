"""Cross-walks: what the labels of each data set mean, and tables from one to the other."""

from __future__ import annotations

import ast
import csv
import gzip
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from labelers.builtin.context import Context
from labelers.cli import main
from labelers.crosswalk import RELATIONS, from_scheme, listed, load_crosswalk, to_scheme
from labelers.errors import InputError, UsageError
from labelers.io.writing import CHEXPERT, chexpert_states
from labelers.types import NEGATIVE, POSITIVE, STATES, UNCERTAIN, UNMENTIONED, Finding, LabelTable, Report, Vocabulary
from labelers.vocabulary import load_vocabulary

VOCABULARY = load_vocabulary("chest").vocabulary
SCHEMES = {  # labels, and those without counterpart
    "chexpert": (14, set()),
    "nih": (20, set()),
    "cxr_lt": (46, set()),
    "padchest": (197, {"exclude", "suboptimal study", "unchanged"}),
    "vindr_cxr": (28, {"Other lesion", "Other diseases"}),
    "vindr_pcxr": (51, {"Other lesion", "Other disease"}),
    "dlilp": (85, {"suboptimal study"}),
}


def above(name: str) -> set[str]:
    """Return a finding and all that it implies."""
    found = {name}
    parent = VOCABULARY.findings[VOCABULARY.index(name)].parent
    while parent is not None:
        found.add(parent)
        parent = VOCABULARY.findings[VOCABULARY.index(parent)].parent
    return found


def test_no_scheme_is_left_out() -> None:
    folder = Path(str(importlib.util.find_spec("labelers.resources").submodule_search_locations[0])) / "crosswalks"  # type: ignore[union-attr,index]
    assert {path.stem for path in folder.glob("*.yaml")} == set(SCHEMES)
    assert all(path.read_text(encoding="utf-8").count("Source: ") == 1 for path in folder.glob("*.yaml"))


@pytest.mark.parametrize("name", SCHEMES)
def test_every_label_is_mapped_or_says_why_not(name: str) -> None:
    crosswalk = load_crosswalk(name)
    count, without = SCHEMES[name]
    assert (crosswalk.name, len(crosswalk.labels), len(set(crosswalk.labels))) == (name, count, count)
    assert {link.label for link in crosswalk.links if not link.relations()} == without
    assert all(bool(link.reason) == (link.label in without) for link in crosswalk.links)


@pytest.mark.parametrize("name", SCHEMES)
def test_relations_agree_with_the_tree(name: str) -> None:
    """If ours implies theirs and theirs implies ours', then ours implies ours' in the tree, and never the reverse."""
    for link in load_crosswalk(name).links:
        for finding in link.broader:
            assert link.exact not in above(finding), f"{link.label}: {finding} counts with {link.exact} already"
            assert link.exact is None or finding not in above(link.exact), f"{link.label}: {finding} holds more than {link.exact}"
        for finding in link.narrower:
            assert not above(finding) & set(link.implied_by), f"{link.label}: {finding} would mean the same"


@pytest.mark.parametrize("name", SCHEMES)
def test_there_and_back(name: str) -> None:
    crosswalk = load_crosswalk(name)
    size = len(crosswalk.labels)
    state = np.where(np.eye(size, dtype=bool), POSITIVE, UNMENTIONED)
    ours = from_scheme([str(i) for i in range(size)], state, crosswalk)
    theirs = to_scheme(ours, crosswalk)
    for i, link in enumerate(crosswalk.links):
        present = {ours.vocabulary.names[k] for k in np.flatnonzero(ours.state[i] == POSITIVE)}
        assert present == set().union(*(above(finding) for finding in link.implies))
        if link.exact is not None:
            assert theirs.state[i, theirs.vocabulary.index(link.label)] == POSITIVE
    assert not (ours.state == NEGATIVE).any()
    assert ours.source == name


@pytest.mark.parametrize("name", SCHEMES)
def test_each_finding_raises_the_labels_that_it_implies(name: str) -> None:
    crosswalk = load_crosswalk(name)
    size = len(VOCABULARY)
    state = np.where(np.eye(size, dtype=bool), POSITIVE, UNMENTIONED)
    theirs = to_scheme(LabelTable.from_states([str(k) for k in range(size)], VOCABULARY, state, "me"), crosswalk)
    assert theirs.vocabulary.names == tuple(link.label for link in crosswalk.links if link.implied_by)
    for k, finding in enumerate(VOCABULARY.names):
        expected = {link.label for link in crosswalk.links if above(finding) & set(link.implied_by)}
        assert {theirs.vocabulary.names[j] for j in np.flatnonzero(theirs.state[k] == POSITIVE)} == expected


def column(table: LabelTable, name: str) -> list[str]:
    return [STATES[s] for s in table.state[:, table.vocabulary.index(name)]]


def test_labels_of_reports_in_the_words_of_a_data_set() -> None:
    texts = [
        "Left upper lobe nodule.",
        "No nodule.",
        "Possible nodule.",
        "Lungs are clear.",
        "Calcified granuloma.",
        "Old rib fractures.",
        "No lung lesion.",
    ]
    table = Context().label([Report(str(i), text) for i, text in enumerate(texts)])
    vindr = to_scheme(table, load_crosswalk("vindr_cxr"))
    assert (vindr.vocabulary.name, vindr.source, len(vindr)) == ("vindr_cxr", "context", len(texts))
    assert column(vindr, "Nodule/Mass")[:3] == ["positive", "negative", "uncertain"], (
        "no nodule denies the lesion that it implies"
    )
    assert column(vindr, "Calcification")[4] == "positive"
    assert column(vindr, "Rib fracture") == ["unmentioned"] * 5 + ["positive", "unmentioned"]
    assert "Other lesion" not in vindr.vocabulary
    place = vindr.evidence.at(5 * len(vindr.vocabulary) + vindr.vocabulary.index("Rib fracture"))
    assert {(p["start"], p["end"], p["state"]) for p in place} == {(0, 17, "positive")}
    nodule, lesion = table.vocabulary.index("Nodule"), vindr.vocabulary.index("Nodule/Mass")
    assert vindr.probability[2, lesion] == table.probability[2, nodule]
    assert vindr.uncertainty[2, lesion] == table.uncertainty[2, nodule]


def test_denied_findings_deny_no_label_that_holds_more() -> None:
    vocabulary = Vocabulary.of(["Lung Cyst", "Bulla"])
    table = LabelTable.from_states(["1"], vocabulary, np.full((1, 2), NEGATIVE), "me")
    assert column(to_scheme(table, load_crosswalk("vindr_cxr")), "Lung cyst") == ["unmentioned"]


def test_chexpert_agrees_with_the_layout_of_that_name() -> None:
    texts = ["Nodule.", "No effusion. Port.", "Possible pneumonia.", "Normal chest.", "Scarring.", "Healed clavicle fracture."]
    table = Context().label([Report(str(i), text) for i, text in enumerate(texts)])
    theirs = to_scheme(table, load_crosswalk("chexpert"))
    layout = chexpert_states(table)
    for j, name in enumerate(CHEXPERT):
        assert theirs.state[:, theirs.vocabulary.index(name)].tolist() == layout[:, j].tolist()


def test_a_users_own_child_counts_with_its_parent() -> None:
    vocabulary = Vocabulary("own", "1", (Finding("Nodule"), Finding("Spiculated Nodule", "Nodule")))
    table = LabelTable.from_states(["1"], vocabulary, np.array([[UNMENTIONED, POSITIVE]]), "me")
    theirs = to_scheme(table, load_crosswalk("nih"))
    assert (theirs.vocabulary.names, column(theirs, "Nodule")) == (("Nodule",), ["positive"])


def test_nothing_in_common() -> None:
    table = LabelTable.from_states(["1"], Vocabulary.of(["Struma"]), np.full((1, 1), POSITIVE), "me")
    assert to_scheme(table, load_crosswalk("nih")).state.shape == (1, 0)


def test_lists_deny_nothing() -> None:
    crosswalk = load_crosswalk("padchest")
    state = listed([["callus rib fracture", " pneumonia", ""], [], ["normal"]], crosswalk)
    table = from_scheme(["1", "2", "3"], state, crosswalk)
    present = [{table.vocabulary.names[k] for k in np.flatnonzero(row == POSITIVE)} for row in table.state]
    assert present == [{"Healed Rib Fracture", "Rib Fracture", "Fracture", "Pneumonia"}, set(), {"No Finding"}]
    assert set(np.unique(table.state)) == {POSITIVE, UNMENTIONED}
    parents = {f.name: f.parent for f in table.vocabulary.findings}
    assert (parents["Healed Rib Fracture"], parents["Rib Fracture"]) == ("Rib Fracture", "Fracture")
    assert listed([], crosswalk).shape == (0, 197)
    with pytest.raises(InputError, match="'padchest': expected the labels of this scheme, got 1 others: pnemonia"):
        listed([["pnemonia"]], crosswalk)


def test_denied_labels_deny_what_implies_them() -> None:
    crosswalk = load_crosswalk("vindr_cxr")
    state = np.full((2, len(crosswalk.labels)), UNMENTIONED)
    state[0, crosswalk.labels.index("Nodule/Mass")] = NEGATIVE
    state[1, crosswalk.labels.index("Rib fracture")] = UNCERTAIN
    state[1, crosswalk.labels.index("Lung tumor")] = NEGATIVE
    table = from_scheme(["1", "2"], state, crosswalk, denying=True)
    assert column(table, "Multiple Nodules") == column(table, "Nodule") == ["negative", "unmentioned"]
    assert column(table, "Lung Lesion") == ["unmentioned", "unmentioned"], "it holds more than nodules and masses"
    assert column(table, "Fracture") == column(table, "Rib Fracture") == ["unmentioned", "uncertain"]
    assert column(table, "Lepidic Adenocarcinoma") == ["unmentioned", "negative"]
    assert "Multiple Nodules" not in from_scheme(["1", "2"], state, crosswalk).vocabulary
    with pytest.raises(ValueError, match="expected \\(1, 28\\)"):
        from_scheme(["1"], state, crosswalk)


def test_spelling_of_padchest_and_nih() -> None:
    package = importlib.util.find_spec("torchxrayvision")
    if package is None or package.origin is None:
        pytest.skip("torchxrayvision, which ships the label files, is not installed")
    folder = Path(package.origin).parent / "data"
    with gzip.open(folder / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz", "rt") as file:
        lists = {row["Labels"] for row in csv.DictReader(file) if row["Labels"].startswith("[")}
    parsed = [ast.literal_eval(text.replace("nan", "''")) for text in lists]
    state = listed(parsed, load_crosswalk("padchest"))
    unseen = {load_crosswalk("padchest").labels[k] for k in np.flatnonzero(~(state == POSITIVE).any(axis=0))}
    assert unseen == {"hemothorax", "viral pneumonia", "COVID 19", "COVID 19 uncertain"}
    with gzip.open(folder / "Data_Entry_2017_v2020.csv.gz", "rt") as file:
        texts = {row["Finding Labels"] for row in csv.DictReader(file)}
    state = listed([text.split("|") for text in texts], load_crosswalk("nih"))
    assert (state == POSITIVE).any(axis=0).tolist() == [True] * 15 + [False] * 5


GOOD = "name: own\nsource: me\ncount: 1\nlabels:\n  a: {exact: Nodule}\n"
BROKEN = [
    ("labels: [", "line 2", "not YAML"),
    ("- a", "the file", "a mapping"),
    (GOOD + "colour: red", "key 'colour'", "the keys count, labels, name, source"),
    (GOOD.replace("source: me\n", ""), "key 'source'", "the keys count"),
    (GOOD.replace("source: me", "source: [3]"), "keys 'name' and 'source'", "words"),
    (GOOD.replace("count: 1", "count: 2"), "key 'count'", "the number of labels, 1, got 2"),
    (GOOD.replace("  a: {exact: Nodule}\n", "  []"), "key 'labels'", "a mapping"),
    (GOOD.replace("  a:", "  3:"), "key 'labels'", "labels in words"),
    (GOOD.replace("  a:", "  report_id:"), "key 'labels'", "got 'report_id'; rename it"),
    (GOOD + "  a: {exact: Mass}", "line 6", "one key twice"),
    (GOOD.replace("{exact: Nodule}", "Nodule"), "labels, 'a'", "a mapping with keys among"),
    (GOOD.replace("{exact: Nodule}", "{}"), "labels, 'a'", "a mapping with keys among"),
    (GOOD.replace("exact", "equals"), "labels, 'a', key 'equals'", "a relation among exact, broader, narrower and none"),
    (GOOD.replace("Nodule", "Nodul"), "labels, 'a', key 'exact'", "got 'Nodul'"),
    (GOOD.replace("Nodule", "[[Nodule]]"), "labels, 'a', key 'exact'", "got list"),
    (GOOD.replace("Nodule", "[]"), "labels, 'a', key 'exact'", "one finding or more"),
    (GOOD.replace("Nodule", "[Nodule, Mass]"), "labels, 'a', key 'exact'", "one finding"),
    (GOOD.replace("Nodule", "Nodule, broader: Nodule"), "labels, 'a'", "each finding under one relation"),
    (GOOD.replace("exact: Nodule", "none: ''"), "labels, 'a', key 'none'", "a reason in words"),
    (GOOD.replace("exact: Nodule", "none: why, exact: Nodule"), "labels, 'a', key 'none'", "no relation beside it"),
]


@pytest.mark.parametrize(("text", "where", "what"), BROKEN)
def test_broken_file_is_refused(tmp_path: Path, text: str, where: str, what: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        load_crosswalk(str(path))
    message = str(error.value)
    assert str(path) in message
    assert where in message
    assert what in message


def test_own_file(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(GOOD.replace("Nodule", "Struma"))
    with pytest.raises(InputError, match="'Struma'"):
        load_crosswalk(str(path))
    assert load_crosswalk(str(path), Vocabulary.of(["Struma"])).links[0].exact == "Struma"
    with pytest.raises(UsageError, match="did you mean padchest"):
        load_crosswalk("padchst")
    with pytest.raises(InputError, match="cross-walk file"):
        load_crosswalk(str(tmp_path / "absent.yaml"))


@pytest.mark.parametrize("name", SCHEMES)
def test_command_prints_a_crosswalk(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert main(["vocabulary", "--to", name, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    crosswalk = load_crosswalk(name)
    assert list(dict.fromkeys(row["label"] for row in rows)) == list(crosswalk.labels)
    assert {row["relation"] for row in rows} <= {*RELATIONS, "none"}
    assert all(bool(row["findings"]) != bool(row["reason"]) for row in rows)
    assert main(["vocabulary", "--to", name]) == 0
    out = capsys.readouterr().out
    assert f"{len(crosswalk.labels)} labels of " in out
    assert f"without counterpart: {len(SCHEMES[name][1])}" in out


def test_command_with_another_vocabulary(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("findings: [{name: Nodule, terms: [nodule]}]")
    assert main(["vocabulary", "--to", "nih", "--set", f"vocabulary={path}", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["label"]: row["findings"] for row in rows if row["findings"]} == {"Nodule": ["Nodule"]}
    assert {row["reason"] for row in rows if not row["findings"]} == {"its findings are not in this vocabulary"}
