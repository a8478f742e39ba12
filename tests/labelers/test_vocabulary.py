"""Vocabulary files: the shipped one, a user's own, and broken ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from labelers.builtin.context import Context
from labelers.cli import main
from labelers.errors import InputError, UsageError
from labelers.io.writing import CHEXPERT as CHEXPERT_COLUMNS
from labelers.io.writing import chexpert_states
from labelers.types import POSITIVE, STATES, UNCERTAIN, UNMENTIONED, LabelTable, Report
from labelers.vocabulary import BORDERLINE, PRESENT, load_vocabulary, plurals

CHEXPERT = """Cardiomegaly|Enlarged Cardiomediastinum|Lung Lesion|Lung Opacity|Edema|Consolidation|Pneumonia|Atelectasis|
Pneumothorax|Pleural Effusion|Pleural Other|Fracture|Support Devices|No Finding""".replace("\n", "").split("|")

PARENTS = {
    "Airspace Disease": "Lung Opacity",
    "Calcified Granuloma": "Granuloma (any)",
    "Catheter": "Support Devices",
    "Heart Failure": "Edema",
    "Implanted Device": "Support Devices",
    "Infiltrate": "Lung Opacity",
    "Interstitial Markings": "Lung Opacity",
    "Mass": "Lung Lesion",
    "Nodule": "Lung Lesion",
    "Pleural Thickening": "Pleural Other",
    "Pulmonary Congestion": "Edema",
    "Pulmonary Edema": "Edema",
    "Rib Fracture": "Fracture",
    "Scarring": "Lung Opacity",
    "Tube": "Support Devices",
}
"""What the 51 findings of the first version imply; files in use rely on it."""

ELSEWHERE = {
    "Subcutaneous Emphysema": "Emphysema/COPD",
    "Congenital Lobar Emphysema": "Emphysema/COPD",
    "Bulla": "Emphysema/COPD",
    "Calcified Granuloma": "Lung Lesion",
    "Mediastinal Mass": "Lung Lesion",
    "Chest Wall Mass": "Lung Lesion",
    "Bone Metastasis": "Lung Lesion",
    "Pericardial Effusion": "Pleural Effusion",
    "Pneumomediastinum": "Pneumothorax",
    "Pneumoperitoneum": "Pneumothorax",
    "Consolidation": "Lung Opacity",
    "Tuberculosis Sequelae": "Tuberculosis",
    "Supra-Aortic Elongation": "Aortic Tortuosity",
    "Kerley Lines": "Edema",
}
"""Findings and what they sound like but do not imply."""

P, N, X = "positive", "negative", "unmentioned"
SENTENCES: list[tuple[str, dict[str, str]]] = [
    ("Calcified granuloma in the left upper lobe.", {"Calcified Granuloma": P, "Nodule": X, "Multiple Nodules": X}),
    ("Multiple calcified granulomas.", {"Calcified Granuloma": P, "Multiple Nodules": X}),
    ("Multiple pulmonary nodules.", {"Multiple Nodules": P, "Nodule": P, "Lung Lesion": P}),
    ("A pulmonary nodule.", {"Multiple Nodules": X, "Nodule": P}),
    ("Miliary nodules in both lungs.", {"Miliary Pattern": P, "Nodule": P}),
    ("Subcutaneous emphysema of the left chest wall.", {"Subcutaneous Emphysema": P, "Emphysema": X, "Emphysema/COPD": X}),
    ("Bullous emphysema.", {"Bulla": P, "Emphysema": P, "Emphysema/COPD": P, "COPD": X}),
    ("COPD.", {"COPD": P, "Emphysema": X, "Emphysema/COPD": P}),
    ("Old healed rib fractures.", {"Healed Rib Fracture": P, "Healed Fracture": P, "Rib Fracture": P, "Acute Fracture": X}),
    ("There is an acute rib fracture.", {"Acute Fracture": P, "Rib Fracture": P, "Healed Fracture": X}),
    ("No acute fracture.", {"Fracture": N}),
    ("Healed fracture of the left clavicle.", {"Healed Fracture": P, "Clavicle Fracture": P, "Fracture": P}),
    ("Compression fracture of T12.", {"Vertebral Fracture": P, "Vertebral Compression/Deformity": P, "Fracture": P}),
    ("Loculated right pleural effusion.", {"Loculated Pleural Effusion": P, "Pleural Effusion": P}),
    ("The left effusion is loculated.", {"Loculated Pleural Effusion": P}),
    ("Large hydropneumothorax.", {"Hydropneumothorax": P, "Pneumothorax": P, "Pleural Effusion": P}),
    ("Anterior mediastinal mass.", {"Anterior Mediastinal Mass": P, "Mediastinal Mass": P, "Mass": P, "Pulmonary Mass": X}),
    ("Mass in the right upper lobe.", {"Pulmonary Mass": P, "Mass": P, "Mediastinal Mass": X}),
    ("Dual-lead pacemaker.", {"Dual-Chamber Device": P, "Pacemaker": P, "Implanted Device": P, "Single-Chamber Device": X}),
    ("Right internal jugular central venous catheter.", {"Jugular Central Venous Catheter": P, "Catheter": P}),
    ("Endotracheal and nasogastric tubes are in place.", {"Endotracheal Tube": P, "Enteric Tube": P, "Chest Tube": X}),
    ("No endotracheal tube.", {"Endotracheal Tube": N, "Tube": N, "Support Devices": N}),
    ("Free air under the diaphragm.", {"Pneumoperitoneum": P, "Diaphragm Elevation": X}),
    ("The descending thoracic aorta is tortuous.", {"Descending Aorta Elongation": P, "Aortic Tortuosity": P}),
    ("The aorta is calcified.", {"Aortic Calcification": P, "Aortic Atherosclerosis": P, "Aortic Enlargement": X}),
    ("The aorta is dilated.", {"Aortic Enlargement": P, "Aortic Aneurysm": X}),
    ("No pneumothorax, bibasilar atelectasis.", {"Pneumothorax": N, "Atelectasis": P, "Basal Atelectasis": P}),
    ("Linear atelectasis in the left base.", {"Linear Atelectasis": P, "Atelectasis": P}),
    ("Right upper lobe collapse.", {"Lobar Atelectasis": P, "Atelectasis": P}),
    ("Thickening of the minor fissure.", {"Minor Fissure Thickening": P, "Fissural Thickening": P, "Pleural Thickening": P}),
    ("Biapical pleural thickening.", {"Apical Pleural Thickening": P, "Pleural Thickening": P}),
    ("Calcified pleural plaques.", {"Calcified Pleural Plaque": P, "Pleural Plaque": P, "Pleural Calcification": P}),
    ("The trachea is midline.", {"Tracheal Deviation": N}),
    ("The trachea is deviated to the right.", {"Tracheal Deviation": P}),
    ("Median sternotomy wires are intact.", {"Sternotomy": P, "Surgical Clips/Wires": P}),
    ("No hilar lymphadenopathy.", {"Hilar Lymphadenopathy": N, "Lymphadenopathy": N, "Hilar Enlargement": N}),
    ("Aortic valve replacement.", {"Prosthetic Aortic Valve": P, "Prosthetic Heart Valve": P, "Prosthetic Mitral Valve": X}),
    ("Lytic lesion of the left humerus.", {"Lytic Bone Lesion": P, "Bone Lesion": P, "Lung Lesion": X}),
    ("Mitral annular calcification.", {"Heart Valve Calcification": P, "Aortic Calcification": X}),
    ("Left lower lobe bronchopneumonia.", {"Bronchopneumonia": P, "Pneumonia": P}),
    ("The left atrium is enlarged.", {"Left Atrial Enlargement": P, "Cardiomegaly": P}),
]

OWN = """
name: thyroid
version: 2
anatomy: {gland: [thyroid]}
observations: {big: [enlarged]}
findings:
  - {name: Goiter, terms: [goiter], patterns: [gland + big]}
"""

BROKEN = [
    ("findings: [", "line 2", "not YAML"),
    ("- a\n- b", "the file", "expected a mapping"),
    ("findings: []", "key 'findings'", "one finding or more"),
    ("findings: [{name: A}]\ncolour: red", "key 'colour'", "expected a key among"),
    ("findings: [{name: A, synonym: [b]}]", "key 'synonym'", "expected a key among"),
    ("findings: [{name: A, terms: b}]", "'A', key 'terms'", "expected a list"),
    ("findings: [{name: A, terms: [no]}]", "'A', key 'terms'", "phrases in words"),
    ("findings: [{terms: [b]}]", "findings, entry 1", "'name'"),
    ("findings: [{name: A, chronic: 3}]", "'A', key 'chronic'", "true or false"),
    ("findings: [{name: A, patterns: [heart + big]}]", "'A', key 'patterns'", "ANATOMY + OBSERVATION"),
    ("findings: [{name: A, parent: B}]", "parent 'B'", "not a finding"),
    ("findings: [{name: A}, {name: A}]", "'A'", "stands twice"),
    ("findings: [{name: A, parent: A}]", "'A', key 'parent'", "circle"),
    ("findings: [{name: A}]\nnormal: [{denies: [B]}]", "key 'denies'", "'B'"),
    ("findings: [{name: A}]\nanatomy: [x]", "key 'anatomy'", "mapping"),
    ("extends: chst", "key 'extends'", "a shipped vocabulary (chest), got 'chst'"),
    ("extends: [chest]", "key 'extends'", "a shipped vocabulary (chest), got list"),
    ("extends: chest\nfindings: [{name: Goiter, parent: Mass}]", "'Goiter', key 'parent'", "'chest' defines this finding"),
    ("extends: chest\nfindings: [{name: Goiter, chronic: true}]", "'Goiter', key 'chronic'", "terms, patterns"),
    ("extends: chest\nfindings: [{name: A}, {name: A}]", "'A'", "stands twice"),
    ("extends: chest\nfindings: [{name: A, parent: Goitre}]", "parent 'Goitre'", "not a finding"),
    ("extends: chest\nfindings: [{name: A, patterns: [heart + struck]}]", "'A', key 'patterns'", "ANATOMY + OBSERVATION"),
    ("extends: chest\nshared: [{findings: [B], terms: [b]}]", "shared, entry 1", "'B'"),
]


LINES = [
    ("findings:\n  - name: A\n    synonym: [b]", 3),
    ("findings:\n  - name: A\n    terms:\n      - b\n      - no", 5),
    ("findings:\n  - name: A\n  - terms: [b]", 3),
    ("findings:\n  - name: A\n  - B", 3),
    ("findings: [{name: A}]\ncolour: red", 2),
    ("findings: [{name: A}]\nnormal:\n  - denies:\n      - A\n      - B", 5),
    ("findings: [{name: A}]\nnormal:\n  - denies: [A]\n  - denied: [A]", 4),
    ("findings: [{name: A}]\nanatomy:\n  heart: heart", 3),
    ("findings: [{name: A}]\n\nobservations: [x]", 3),
    ("anatomy: {heart: [heart]}\nfindings:\n- name: A\n  patterns:\n  - heart + big", 5),
    ("extends: chest\nfindings:\n- name: Goiter\n  chronic: true", 4),
    ("name: own\nextends: chst", 2),
    ("findings: [{name: A}]\nshared:\n- {findings: [A]}\n- 3", 4),
]


@pytest.mark.parametrize(("text", "line"), LINES)
def test_what_is_refused_is_told_with_its_line(text: str, line: int, tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=f"broken.yaml: line {line}: .*; correct the vocabulary file"):
        load_vocabulary(str(path))


@pytest.fixture(scope="module")
def labeler() -> Context:
    return Context()


def test_shipped_vocabulary() -> None:
    lexicon = load_vocabulary("chest")
    vocabulary = lexicon.vocabulary
    size = len(vocabulary)
    assert size == 278
    assert list(vocabulary.names[:14]) == CHEXPERT
    assert not [f.name for f in vocabulary.findings[:14] if f.parent]
    assert {f.name: f.parent for f in vocabulary.findings if f.name in PARENTS} == PARENTS
    named = {target.finding for targets in lexicon.terms.values() for target in targets if target.role == PRESENT}
    assert named == set(range(size))
    assert all(len(lexicon.synonyms(k)) for k in range(size))


VOCABULARY = load_vocabulary("chest").vocabulary


def lineage(name: str) -> list[str]:
    above: list[str] = []
    parent = VOCABULARY.findings[VOCABULARY.index(name)].parent
    while parent is not None:
        above.append(parent)
        assert len(above) < len(VOCABULARY), "a circle"
        parent = VOCABULARY.findings[VOCABULARY.index(parent)].parent
    return above


def test_tree() -> None:
    lexicon = load_vocabulary("chest")
    vocabulary = lexicon.vocabulary
    for finding in vocabulary.findings:
        assert "No Finding" not in [finding.name, *lineage(finding.name)][1:]
    for name, other in ELSEWHERE.items():
        assert other not in lineage(name)
        assert vocabulary.index(other) >= 0
    for k in lexicon.harmless:
        parents = lineage(vocabulary.names[k])
        assert all(vocabulary.index(parent) in lexicon.harmless for parent in parents), "what implies an abnormality is one"
    for k in lexicon.names_parent:
        assert vocabulary.findings[k].parent is not None


def test_every_term_names_its_finding(labeler: Context) -> None:
    lexicon = load_vocabulary("chest")
    for role, expected in ((PRESENT, POSITIVE), (BORDERLINE, UNCERTAIN)):
        pairs = [(term, t.finding) for term, targets in lexicon.terms.items() for t in targets if t.role == role]
        table = labeler.label([Report(str(i), f"There is {term}.") for i, (term, _) in enumerate(pairs)])
        missed = [(term, lexicon.vocabulary.names[k]) for i, (term, k) in enumerate(pairs) if table.state[i, k] != expected]
        assert pairs
        assert missed == []


@pytest.mark.parametrize(("text", "expected"), SENTENCES, ids=[text[:50] for text, _ in SENTENCES])
def test_qualifiers_change_the_finding(labeler: Context, text: str, expected: dict[str, str]) -> None:
    table = labeler.label([Report("1", text)])
    assert {name: STATES[table.state[0, table.vocabulary.index(name)]] for name in expected} == expected


@pytest.mark.parametrize(
    ("finding", "column"),
    [
        ("Ground-Glass Opacity", "Lung Opacity"),
        ("Fibrotic Band", "Lung Opacity"),
        ("Miliary Pattern", "Lung Lesion"),
        ("Central Vascular Redistribution", "Edema"),
        ("Port Catheter", "Support Devices"),
        ("Healed Rib Fracture", "Fracture"),
        ("Mediastinal Widening", "Enlarged Cardiomediastinum"),
        ("Calcified Pleural Plaque", "Pleural Other"),
        ("Viral Pneumonia", "Pneumonia"),
        ("Consolidation", "Consolidation"),
        ("Subcutaneous Emphysema", None),
        ("Calcified Granuloma", None),
        ("Bone Lesion", None),
        ("Aortic Aneurysm", None),
    ],
)
def test_a_fine_finding_goes_to_the_name_that_holds_its_mention(finding: str, column: str | None) -> None:
    vocabulary = load_vocabulary("chest").vocabulary
    state = [[POSITIVE if name == finding else UNMENTIONED for name in vocabulary.names]]
    table = LabelTable.from_states(["1"], vocabulary, np.array(state), "me")
    assert [CHEXPERT_COLUMNS[k] for k in np.flatnonzero(chexpert_states(table)[0] == POSITIVE)] == [column] * bool(column)


def test_digest_covers_synonyms(tmp_path: Path) -> None:
    digests = set()
    for k, term in enumerate(("goiter", "struma")):
        path = tmp_path / f"{k}.yaml"
        path.write_text(OWN.replace("[goiter]", f"[{term}]"))
        digests.add(load_vocabulary(str(path)).vocabulary.digest)
    assert len(digests) == 2


def test_own_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "own.yml"
    path.write_text(OWN)
    labeler = Context(str(path))
    table = labeler.label([Report("1", "The thyroid is enlarged."), Report("2", "No goiter.")])
    assert (table.vocabulary.name, table.vocabulary.version) == ("thyroid", "2")
    assert (table.state[:, 0] == POSITIVE).tolist() == [True, False]


EXTENDED = """
extends: chest
name: ours
anatomy: {gland: [thyroid gland]}
ignored: [struma ovarii]
findings:
  - {name: Goiter, terms: [struma], patterns: [gland + enlarged]}
  - {name: Substernal Goiter, parent: Goiter, names_parent: true, chronic: true, terms: [plunging goiter, breast tissue]}
"""


@pytest.fixture
def extended(tmp_path: Path) -> str:
    path = tmp_path / "ours.yaml"
    path.write_text(EXTENDED)
    return str(path)


def test_a_file_adds_to_the_shipped_vocabulary(extended: str) -> None:
    chest, ours = load_vocabulary("chest"), load_vocabulary(extended)
    assert ours.vocabulary.names == (*chest.vocabulary.names, "Substernal Goiter")
    assert (ours.vocabulary.name, ours.vocabulary.version) == ("ours", "1")
    assert ours.vocabulary.digest != chest.vocabulary.digest
    goiter, plunging = (ours.vocabulary.index(name) for name in ("Goiter", "Substernal Goiter"))
    assert ours.synonyms(goiter) == [*chest.synonyms(goiter), "struma"]
    assert plunging in ours.names_parent & ours.chronic
    assert (goiter in ours.chronic) == (goiter in chest.chronic)
    labeler = Context(extended)
    texts = [
        "The thyroid gland is enlarged.",
        "Struma.",
        "Plunging goiter.",
        "Breast tissue.",
        "Struma ovarii.",
        "Heart is enlarged.",
    ]
    table = labeler.label([Report(str(i), text) for i, text in enumerate(texts)])
    present = table.state == POSITIVE
    assert present[:, goiter].tolist() == [True, True, True, True, False, False]
    assert present[:, plunging].tolist() == [False, False, True, True, False, False], "its own term wins over what chest ignores"
    assert present[5, 0]


def test_an_empty_extension_is_the_shipped_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "same.yaml"
    path.write_text("extends: chest\n")
    chest, same = load_vocabulary("chest"), load_vocabulary(str(path))
    assert (same.terms, same.patterns, same.vocabulary.findings) == (chest.terms, chest.patterns, chest.vocabulary.findings)
    assert same.no_finding == chest.no_finding


def test_shipped_vocabulary_is_unharmed_by_extensions(extended: str) -> None:
    before = load_vocabulary("chest").vocabulary.digest
    load_vocabulary(extended)
    assert load_vocabulary("chest").vocabulary.digest == before


@pytest.mark.parametrize(("text", "where", "what"), BROKEN)
def test_broken_file_is_refused(tmp_path: Path, text: str, where: str, what: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        load_vocabulary(str(path))
    message = str(error.value)
    assert str(path) in message
    assert where in message
    assert what in message
    assert "\n" not in message


def test_unknown_and_missing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean chest"):
        load_vocabulary("chst")
    with pytest.raises(InputError, match=r"absent\.yaml"):
        load_vocabulary(str(tmp_path / "absent.yaml"))
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9")
    with pytest.raises(InputError, match="UTF-8"):
        load_vocabulary(str(tmp_path / "latin.yaml"))


@pytest.mark.parametrize(
    ("singular", "plural"),
    [
        ("effusion", "effusions"),
        ("opacity", "opacities"),
        ("mass", "masses"),
        ("metastasis", "metastases"),
        ("pneumothorax", "pneumothoraces"),
        ("prosthesis", "prostheses"),
        ("airway", "airways"),
    ],
)
def test_plurals(singular: str, plural: str) -> None:
    assert plural in plurals(singular)


def test_command_shows_the_tree(capsys: pytest.CaptureFixture[str], extended: str) -> None:
    assert main(["vocabulary"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 279
    at = next(k for k, line in enumerate(lines) if line.split()[:2] == ["Lung", "Lesion"])
    assert lines[at + 1].startswith("   Nodule ")
    assert lines[at + 2].startswith("     Multiple Nodules ")
    assert main(["vocabulary", "--set", f"vocabulary={extended}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = next(k for k, line in enumerate(lines) if line.split()[0] == "Goiter")
    assert lines[at + 1].split() == ["Substernal", "Goiter", "2"]


def test_command_gives_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vocabulary", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    lexicon = load_vocabulary("chest")
    assert {row["finding"]: row["parent"] for row in rows} == {f.name: f.parent for f in lexicon.vocabulary.findings}
    assert [row["depth"] for row in rows] == [len(lineage(row["finding"])) for row in rows]
    assert "collapsed lung" in next(row for row in rows if row["finding"] == "Atelectasis")["synonyms"]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--set", "vocabulary=chst"], 2, "did you mean chest"),
        (["--set", "vocabluary=chest"], 2, "did you mean vocabulary"),
        (["--set", "vocabulary=absent.yaml"], 1, "absent.yaml"),
        (["--to", "padchst"], 2, "did you mean padchest"),
        (["--to", "absent.yaml"], 1, "absent.yaml"),
    ],
)
def test_command_refuses(capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, message: str) -> None:
    assert main(["vocabulary", *arguments]) == status
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
