"""Vocabulary files: the shipped one, a user's own, and broken ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from labelers.builtin.context import Context
from labelers.errors import InputError, UsageError
from labelers.types import POSITIVE, Report
from labelers.vocabulary import load_vocabulary, plurals

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
]


def test_shipped_vocabulary() -> None:
    lexicon = load_vocabulary("chest")
    vocabulary = lexicon.vocabulary
    assert len(vocabulary) == 51
    assert list(vocabulary.names[:14]) == CHEXPERT
    assert {f.name: f.parent for f in vocabulary.findings if f.parent} == PARENTS
    named = {target.finding for targets in lexicon.terms.values() for target in targets}
    assert named == set(range(51))


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
