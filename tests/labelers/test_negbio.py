"""The labelers "negbio" and "bioc".

The tests marked ``real`` need NegBio, installed from its repository, and an English spaCy pipeline; elsewhere they are skipped.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from labelers import registry
from labelers._negbio import parsers, rules
from labelers._negbio.cleaning import LONGEST, clean, pieces
from labelers._negbio.rules import Named, Verdict
from labelers._negbio.scheme import Place, Scheme, with_heart
from labelers._negbio.universal import Edge, Token, universal
from labelers.builtin import negbio
from labelers.builtin.bioc import BioC
from labelers.cli import main
from labelers.errors import InputError, UsageError
from labelers.io import read_table
from labelers.registry import create, listing
from labelers.run import reports_for
from labelers.testing import check_labeler
from labelers.types import NEGATIVE, POSITIVE, STATES, UNCERTAIN, LabelTable, Report, Vocabulary
from labelers.vocabulary import load_vocabulary

PIPELINES = [p.name for p in importlib.metadata.entry_points(group="spacy_models") if p.name.startswith("en_")]
LACKING = [name for name in ("negbio", "bioc", "networkx", "ply", "tqdm", "spacy") if importlib.util.find_spec(name) is None]
real = pytest.mark.skipif(bool(LACKING) or not PIPELINES, reason=f"needs NegBio and a spaCy pipeline: {rules.INSTALL}")


def tokens(table: str) -> list[Token]:
    """Read a parse: WORD/TAG/LABEL/HEAD with heads counted from 1, 0 at the root, and the lemma behind a fifth slash."""
    found = []
    start = 0
    for i, cell in enumerate(table.split()):
        text, tag, label, head, *lemma = cell.split("/")
        found.append(
            Token(start, start + len(text), text, lemma[0] if lemma else text, tag, label, int(head) - 1 if int(head) else i)
        )
        start += len(text) + 1
    return found


def edges(table: str) -> set[str]:
    words, found = universal(tokens(table))
    return {f"{e.label}({words[e.governor].text},{words[e.dependant].text})" for e in found if e.label != "punct"}


PARSES = {
    # The dependencies of NegBio's own test of its parser (tests/negbio/pipeline2/test_parse_results.py of its second edition).
    "no/DT/det/2 evidence/NN/ROOT/0 of/IN/prep/2 focal/JJ/amod/5 infiltrate/NN/pobj/3 ,/,/punct/5 effusion/NN/conj/5 or/CC/cc/7 "
    "pneumothorax/NN/conj/7 ././punct/2": "neg(evidence,no) case(infiltrate,of) amod(infiltrate,focal) nmod:of(evidence,infiltrate) "
    "nmod:of(evidence,effusion) conj:or(infiltrate,effusion) cc(infiltrate,or) nmod:of(evidence,pneumothorax) "
    "conj:or(infiltrate,pneumothorax)",
    # What "be" says is the head of its clause; what "there" introduces is a subject.
    "heart/NN/nsubj/2 is/VBZ/ROOT/0/be normal/JJ/acomp/2": "nsubj(normal,heart) cop(normal,is)",
    "size/NN/nsubj/2 is/VBZ/ROOT/0/be within/IN/prep/2 normal/JJ/amod/5 limits/NNS/pobj/3/limit": "nsubj(limits,size) cop(limits,is) "
    "case(limits,within) amod(limits,normal)",
    "this/DT/nsubj/3 may/MD/aux/3 be/VB/ROOT/0 a/DT/det/5 mass/NN/attr/3": "nsubj(mass,this) aux(mass,may) cop(mass,be) det(mass,a)",
    "there/EX/expl/2 is/VBZ/ROOT/0/be no/DT/det/4 effusion/NN/attr/2": "expl(is,there) nsubj(is,effusion) neg(effusion,no)",
    "heart/NN/nsubj/2 appears/VBZ/ROOT/0/appear normal/JJ/acomp/2": "nsubj(appears,heart) xcomp(appears,normal)",
    # "without evidence of", as the rules for it are written.
    "clear/JJ/ROOT/0 without/IN/prep/1 evidence/NN/pobj/2 of/IN/prep/3 edema/NN/pobj/4": "case(evidence,without) "
    "nmod:without(clear,evidence) case(edema,of) nmod:of(evidence,edema)",
    "without/IN/ROOT/0 edema/NN/pobj/1 or/CC/cc/2 mass/NN/conj/2": "case(edema,without) cc(edema,or) conj:or(edema,mass)",
    # NegBio's "rule out" and "cannot", each as its patterns have it.
    "we/PRP/nsubj/4 can/MD/aux/4 not/RB/neg/4 rule/VB/ROOT/0 out/RP/prt/4 edema/NN/dobj/4": "nsubj(rule,we) aux(rule,can) "
    "neg(rule,not) nmod:out(rule,edema) case(edema,out)",
    "this/DT/nsubj/3 is/VBZ/auxpass/3/be excluded/VBN/ROOT/0/exclude by/IN/agent/3 ct/NN/pobj/4": "nsubj(excluded,this) "
    "auxpass(excluded,is) case(ct,by) nmod:agent(excluded,ct)",
    # The pairs that say "and not".
    "scar/NN/ROOT/0 rather/RB/advmod/3 than/IN/prep/1 edema/NN/pobj/3": "advmod(edema,rather) cc(edema,than) conj:negcc(scar,edema)",
    "scar/NN/ROOT/0 but/CC/cc/1 not/RB/neg/4 edema/NN/conj/1": "cc(scar,but) neg(edema,not) conj:negcc(scar,edema)",
    "scar/NN/ROOT/0 versus/IN/prep/1 edema/NN/pobj/2": "cc(edema,versus) conj:versus(scar,edema)",
    # What holds of the first conjunct holds of the others; a subject of its own stays.
    "mass/NN/nsubjpass/3 was/VBD/auxpass/3/be seen/VBN/ROOT/0/see and/CC/cc/3 resolved/VBN/conj/3/resolve": "nsubjpass(seen,mass) "
    "auxpass(seen,was) cc(seen,and) conj:and(seen,resolved) nsubjpass(resolved,mass)",
    "in/IN/ROOT/0 base/NN/pobj/1": "case(base,in)",
    "mass/NN/ROOT/0 in/IN/prep/1 apex/NN/pobj/2 and/CC/cc/2 in/IN/conj/2 base/NN/pobj/5": "case(apex,in) nmod:in(mass,apex) "
    "cc(apex,and) case(base,in) conj:and(apex,base) nmod:in(mass,base)",
    # "due to", whose first word the rules look for, in both of spaCy's shapes; and a clause behind a preposition.
    "it/PRP/nsubj/3 may/MD/aux/3 be/VB/ROOT/0 due/IN/prep/3 to/IN/pcomp/4 edema/NN/pobj/4": "nsubj(due,it) aux(due,may) cop(due,be) "
    "case(edema,to) nmod:to(due,edema)",
    "mass/NN/ROOT/0 due/IN/prep/1 to/IN/pcomp/2 edema/NN/pobj/3": "advmod(mass,due) case(edema,to) nmod:to(due,edema)",
    "clear/JJ/ROOT/0 without/IN/prep/1 showing/VBG/pcomp/2/show edema/NN/dobj/3": "mark(showing,without) advcl(clear,showing) "
    "dobj(showing,edema)",
    "question/NN/ROOT/0 of/IN/prep/1 showing/VBG/pcomp/2/show": "mark(showing,of) acl(question,showing)",
    "mass/NN/ROOT/0 that/WDT/nsubj/3 grew/VBD/relcl/1/grow": "nsubj(grew,that) acl:relcl(mass,grew)",
}


@pytest.mark.parametrize("table", PARSES)
def test_a_parse_becomes_the_dependencies_that_the_patterns_expect(table: str) -> None:
    assert edges(table) == set(PARSES[table].split())


def test_cannot_is_one_word() -> None:
    parse = [
        Token(0, 5, "edema", "edema", "NN", "nsubjpass", 4),
        Token(6, 9, "can", "can", "MD", "aux", 4),
        Token(9, 12, "not", "not", "RB", "neg", 4),
        Token(13, 15, "be", "be", "VB", "auxpass", 4),
        Token(16, 24, "excluded", "exclude", "VBN", "ROOT", 4),
    ]
    words, found = universal(parse)
    assert [(w.text, w.lemma, w.start, w.end) for w in words][1] == ("cannot", "cannot", 6, 12)
    assert found == [Edge(3, 0, "nsubjpass"), Edge(3, 1, "aux"), Edge(3, 2, "auxpass")]


def test_any_tree_becomes_a_graph_without_double_edges() -> None:
    random = np.random.default_rng(0)
    labels = [
        "ROOT",
        "prep",
        "pobj",
        "pcomp",
        "conj",
        "cc",
        "attr",
        "acomp",
        "nsubj",
        "expl",
        "dobj",
        "prt",
        "det",
        "agent",
        "punct",
    ]
    lemmas = ["be", "no", "rule", "out", "to", "than", "rather", "versus", "edema", "but", "not"]
    for _ in range(500):
        size = int(random.integers(1, 12))
        order = random.permutation(size)
        heads = {int(order[0]): int(order[0])} | {int(order[k]): int(order[random.integers(k)]) for k in range(1, size)}
        parse = [
            Token(
                2 * i,
                2 * i + 1,
                str(random.choice(lemmas)),
                str(random.choice(lemmas)),
                "IN",
                str(random.choice(labels)),
                heads[i],
            )
            for i in range(size)
        ]
        words, found = universal(parse)
        pairs = [(e.governor, e.dependant) for e in found]
        assert len(set(pairs)) == len(pairs)
        assert all(0 <= k < len(words) for pair in pairs for k in pair)
        assert all(governor != dependant for governor, dependant in pairs)
        reached = set(range(len(words))) - {e.dependant for e in found}
        for _ in words:
            reached |= {e.dependant for e in found if e.governor in reached}
        assert reached == set(range(len(words)))  # no circle hangs in the air


def test_no_words_are_no_graph() -> None:
    assert universal([]) == ([], [])


@pytest.mark.parametrize(
    ("given", "text", "word", "span"),
    [
        ("Effusion and/or EDEMA", "effusion or edema", "edema", (16, 21)),
        ("Effusion/edema", "effusion or edema", "edema", (9, 14)),
        ("No   effusion..\n Edema.", "no effusion. edema.", "edema", (17, 22)),
        ("none,edema", "none, edema", "edema", (5, 10)),
        ("3.5 cm,2 cm 1/2 edema", "3.5 cm,2 cm 1/2 edema", "edema", (16, 21)),
        ("\u0130 \ud83d edema", "\u0130 \ufffd edema", "edema", (4, 9)),
    ],
)
def test_a_cleaned_sentence_leads_back_to_the_report(given: str, text: str, word: str, span: tuple[int, int]) -> None:
    cleaned = clean(given)
    assert cleaned.text == text
    assert cleaned.span(text.index(word), text.index(word) + len(word)) == span
    assert given[slice(*span)].lower() == word


@pytest.mark.parametrize("text", ["", "one two", "edema " * 1000, "x" * 5000, " " * 3000])
def test_pieces_are_short_and_leave_nothing_out(text: str) -> None:
    spans = pieces(text)
    assert "".join(text[a:b] for a, b in spans) == text
    assert all(b - a <= LONGEST for a, b in spans)
    assert all(text[b - 1] == " " for _, b in spans[:-1]) or " " not in text


@pytest.fixture
def scheme() -> Scheme:
    return Scheme(load_vocabulary().vocabulary)


def states(table: LabelTable, row: int = 0) -> dict[str, str]:
    return {
        name: STATES[code]
        for name, code in zip(table.vocabulary.names, table.state[row], strict=True)
        if STATES[code] != "unmentioned"
    }


def test_places_merge_as_the_chexpert_labeler_merges_them(scheme: Scheme) -> None:
    assert len(scheme.vocabulary) == 14
    places = [
        [
            Place("Edema", 5, 9, NEGATIVE, "b"),
            Place("Edema", 1, 3, UNCERTAIN, "a"),
            Place("Airspace Opacity", 1, 3, NEGATIVE, "a"),
        ],
        [Place("Edema", 5, 9, NEGATIVE, "b"), Place("Edema", 1, 3, POSITIVE, "a"), Place("Edema", 1, 2, UNCERTAIN, "a")],
        [Place("Support Devices", 0, 1, POSITIVE, "a"), Place("Fracture", 0, 1, NEGATIVE, "a")],
        [Place("No Finding", 0, 1, POSITIVE, "a")],
        [],
        None,
    ]
    table = scheme.table(list("abcdef"), places, "s", "1")
    assert [states(table, row) for row in range(6)] == [
        {"Edema": "uncertain", "Lung Opacity": "negative"},
        {"Edema": "positive"},
        {"Support Devices": "positive", "Fracture": "negative", "No Finding": "positive"},
        {},
        {"No Finding": "positive"},
        {},
    ]
    edema = scheme.vocabulary.index("Edema")
    assert [place["start"] for place in table.evidence.at(edema)] == [1, 5]
    assert [place["cue"] for place in table.evidence.at(edema)] == ["a", "b"]
    assert table.uncertainty[1, edema] > table.uncertainty[2, scheme.vocabulary.index("Support Devices")]  # the same probability
    assert len(table.evidence) == 8  # "No Finding" has no places


def test_what_a_file_says_of_the_whole_report_stands(scheme: Scheme) -> None:
    table = scheme.table(
        ["a"], [[Place("Edema", 0, 1, POSITIVE, "a")]], "s", "1", [{"Edema": UNCERTAIN, "Airspace Opacity": POSITIVE}]
    )
    assert states(table) == {"Edema": "uncertain", "Lung Opacity": "positive"}


def test_heart_failure_is_an_uncertain_large_heart() -> None:
    place = Place("Edema", 3, 6, POSITIVE, "mention")
    assert with_heart(place, "CHF") == (place, place._replace(observation="Cardiomegaly", state=UNCERTAIN))
    assert with_heart(place, "edema") == (place,)
    assert with_heart(place._replace(state=NEGATIVE), "chf") == (place._replace(state=NEGATIVE),)


def test_a_vocabulary_without_any_of_the_observations_is_refused() -> None:
    with pytest.raises(UsageError, match="expected one of No Finding, Enlarged"):
        Scheme(Vocabulary.of(["Scoliosis"]))


# --- BioC files ---


def annotation(offset: object, length: object, observation: str | None = "Edema", **infons: str) -> str:
    named = {} if observation is None else {"observation": observation}
    keys = "".join(f'<infon key="{key}">{value}</infon>' for key, value in {**named, **infons}.items())
    return f'<annotation id="0">{keys}<location offset="{offset}" length="{length}"/><text>x</text></annotation>'


def document(name: str, *passages: str, **infons: str) -> str:
    keys = "".join(f'<infon key="CheXpert/{key.replace("_", " ")}">{value}</infon>' for key, value in infons.items())
    return f"<document><id>{name}</id>{keys}{''.join(passages)}</document>"


def passage(offset: object, text: str, *annotations: str) -> str:
    return f"<passage><offset>{offset}</offset><text>{text}</text>{''.join(annotations)}</passage>"


def collection(tmp_path: Path, *documents: str, head: str = '<?xml version="1.0" encoding="utf-8"?>\n') -> Path:
    path = tmp_path / "out.neg.xml"
    path.write_text(f"{head}<collection><source/><date/><key/>{''.join(documents)}</collection>", encoding="utf-8")
    return path


def test_negbios_output_becomes_labels(tmp_path: Path) -> None:
    path = collection(
        tmp_path,
        document(
            "r1",
            passage(0, "é no edema.", annotation(5, 5, negation="True")),
            passage(12, "chf?", annotation(12, 3, uncertainty="True")),
        ),
        document(
            "r2", passage(0, "opacity", annotation(0, 7, "Airspace Opacity")), Airspace_Opacity="Uncertain", Unheard="Positive"
        ),
        document("r3", passage(0, "  ")),
        head='<?xml version="1.0" encoding="utf-8"?>\n<!DOCTYPE collection SYSTEM "BioC.dtd">\n',
    )
    output = tmp_path / "labels.parquet"
    assert main(["run", str(path), "--labeler", "bioc", "-o", str(output)]) == 0
    table = read_table(output)
    assert table.source == "negbio"
    assert list(table.report_ids) == ["r1", "r2", "r3"]
    assert states(table, 0) == {"Edema": "uncertain", "Cardiomegaly": "uncertain"}
    assert states(table, 1) == {"Lung Opacity": "uncertain"}
    assert states(table, 2) == {}
    edema = table.vocabulary.index("Edema")
    assert [(p["start"], p["end"], p["state"]) for p in table.evidence.at(edema)] == [(5, 10, "negative"), (12, 15, "uncertain")]


def test_places_count_in_the_text_that_is_handed_on(tmp_path: Path) -> None:
    sentences = "<passage><offset>2</offset><sentence><offset>3</offset><text>edema</text></sentence>{}</passage>"
    far = passage(10**9, "edema", annotation(10**9, 5))
    overlapping = passage(4, "edema", annotation(4, 5))
    path = collection(tmp_path, document("r", sentences.format(annotation(3, 5)), overlapping, far))
    labeler = BioC()
    (report,) = reports_for(labeler, path)
    table = labeler.label([report])
    found = table.evidence.at(table.vocabulary.index("Edema"))
    assert len(found) == 3
    assert {report.text[int(p["start"]) : int(p["end"])] for p in found} == {"edema"}
    assert len(report.text) < 1000


def test_a_folder_of_files_is_read_in_order(tmp_path: Path) -> None:
    for name in ("b", "a"):
        collection(tmp_path, document(name, passage(0, "x"))).rename(tmp_path / f"{name}.xml")
    assert [report.report_id for report in reports_for(BioC(), tmp_path)] == ["a", "b"]


def test_bioc_keeps_the_contract(tmp_path: Path) -> None:
    found = passage(0, "chf, no edema", annotation(0, 3), annotation(8, 5, negation="True"))
    path = collection(tmp_path, document("a", found), document("b", passage(0, "chf"), No_Finding="Positive"))
    check_labeler(BioC(), [report.text for report in reports_for(BioC(), path)])
    assert [line.missing for line in listing() if line.name == "bioc"] == [()]


SECRET = "SMITHJOHN"
BAD = {
    "outside": (document(SECRET, passage(0, SECRET, annotation(4, 9))), "document 1: expected annotations inside the text"),
    "before": (document(SECRET, passage(7, SECRET, annotation(3, 2))), "document 1: expected annotations inside the text"),
    "empty": (document(SECRET, passage(0, SECRET, annotation(3, 0))), "document 1: expected annotations inside the text"),
    "metamap": (
        document("a") + document(SECRET, passage(0, SECRET, annotation(0, 5, None, CUI="C1"))),
        "document 2: .*dner_chexpert",
    ),
    "unknown": (document(SECRET, passage(0, SECRET, annotation(0, 5, SECRET))), "document 1: .*dner_chexpert"),
    "no number": (document(SECRET, passage(SECRET, SECRET)), "document 1: expected whole numbers"),
    "no length": (document(SECRET, passage(0, SECRET, annotation(0, "-3"))), "document 1: expected whole numbers"),
    "no id": (document("", passage(0, SECRET)), "id"),
    "id twice": (document("r", passage(0, SECRET)) * 2, "report 2"),
    "cut off": (f"<document><id>{SECRET}</id>", "not well-formed XML"),
    "entity": (document("r", passage(0, "&unheard;")), "not well-formed XML"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_broken_file_is_refused_in_one_line_without_its_text(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body, expected = BAD[case]
    path = collection(tmp_path, body)
    assert main(["run", str(path), "--labeler", "bioc", "-o", str(tmp_path / "out.csv")]) == 1
    message = capsys.readouterr().err.strip()
    assert len(message.splitlines()) == 1
    assert SECRET not in message
    with pytest.raises(InputError, match=expected):
        list(reports_for(BioC(), path))
    assert not (tmp_path / "out.csv").exists()


def test_declared_entities_and_other_files_are_refused(tmp_path: Path) -> None:
    bomb = '<?xml version="1.0"?><!DOCTYPE collection [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>'
    with pytest.raises(InputError, match="declares entities"):
        list(reports_for(BioC(), collection(tmp_path, head=bomb)))
    other = tmp_path / "other.xml"
    other.write_text("<eCitation/>", encoding="utf-8")
    with pytest.raises(InputError, match="expected a BioC <collection>"):
        list(reports_for(BioC(), other))
    with pytest.raises(InputError, match="declares an encoding"):
        list(reports_for(BioC(), collection(tmp_path, head='<?xml version="1.0" encoding="klingon"?>')))
    with pytest.raises(InputError, match="found none; check the path"):
        list(reports_for(BioC(), tmp_path / "absent.xml"))
    with pytest.raises(UsageError, match="leave out --id-column"):
        list(reports_for(BioC(), collection(tmp_path), id_column="id"))


# --- the labeler, with stand-ins for what it drives ---


class FakeRules:
    """Names edema, which "no" before it denies."""

    def __init__(self, patterns: str) -> None:
        self.sentences: list[str] = []

    def named(self, text: str) -> list[Named]:
        self.sentences.append(text)
        return [Named("Edema", i, i + 5) for i in range(len(text)) if text.startswith("edema", i)]

    def judge(self, words: Any, edges: Any, named: list[Named]) -> list[Verdict]:
        return [Verdict(NEGATIVE, "negation:7") if "no" in words else Verdict(POSITIVE, "mention") for _ in named]


@pytest.fixture
def driven(monkeypatch: pytest.MonkeyPatch) -> negbio.NegBio:
    monkeypatch.setattr(negbio, "Rules", FakeRules)
    monkeypatch.setattr(negbio, "load_parser", lambda model: lambda text: (text.split(), []))
    return negbio.NegBio()


def test_places_stand_in_the_report_as_given(driven: negbio.NegBio) -> None:
    text = "HISTORY: Edema.\n\nFINDINGS:  No  EDEMA. \n\nIMPRESSION: Effusion/edema."
    table = driven.label([Report("a", text), Report("b", "HISTORY: edema"), Report("c", "")])
    found = table.evidence.at(table.vocabulary.index("Edema"))
    assert [(text[int(p["start"]) : int(p["end"])], p["state"], p["cue"]) for p in found] == [
        ("EDEMA", "negative", "negation:7"),
        ("edema", "positive", "mention"),
    ]
    assert [states(table, row) for row in range(3)] == [{"Edema": "positive"}, {}, {}]


def test_a_sentence_is_analysed_once_within_bounds(driven: negbio.NegBio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(negbio, "MEMORY", 2)
    seen = driven._rules.sentences  # type: ignore[attr-defined]
    driven.label([Report("a", "Edema.\nEdema.\nNo edema.")])
    assert seen == ["edema.", "no edema."]
    driven.label([Report("b", "Some edema.\nNo edema.")])
    assert seen[2:] == ["some edema.", "no edema."]  # forgotten when it was full
    assert len(driven._known) == 2


def test_what_cannot_be_parsed_is_uncertain_and_silent(
    driven: negbio.NegBio, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(text: str) -> Any:
        raise ValueError(text)

    driven._parse = fail
    table = driven.label([Report("a", f"{SECRET} edema.")])
    (place,) = table.evidence.at(table.vocabulary.index("Edema"))
    assert (place["state"], place["cue"]) == ("uncertain", "unparsed")
    assert SECRET not in capsys.readouterr().err + caplog.text


def test_the_labeler_keeps_the_contract(driven: negbio.NegBio) -> None:
    check_labeler(driven, ["No edema. " * 500, "edema" * 900])


def test_where_negbio_is_absent_it_is_listed_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed = registry._installed
    monkeypatch.setattr(registry, "_installed", lambda package: package != "negbio" and installed(package))
    (line,) = [line for line in listing() if line.name == "negbio"]
    assert line.broken is None
    assert "negbio" in line.missing
    assert "git+https://github.com/ncbi-nlp/NegBio" in line.remedy
    assert main(["run", "absent.csv", "--labeler", "negbio", "-o", "out.csv"]) == 2
    message = capsys.readouterr().err.strip()
    assert len(message.splitlines()) == 1
    assert "pip install" in message


def test_where_only_the_package_is_absent_the_rules_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="needs NegBio, which is not installed"):
        rules.Rules()


def test_an_incomplete_negbio_and_unknown_patterns_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "_package", lambda: tmp_path)
    with pytest.raises(UsageError, match=r"pre_negation_uncertainty\.txt: missing from the installed NegBio"):
        rules.Rules()
    with pytest.raises(UsageError, match="unknown set of patterns 'chexprt': did you mean chexpert"):
        rules.Rules("chexprt")


# --- parsers ---


def pipelines(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(parsers, "BLLIP", Path("/nowhere/at/all"))
    points = [SimpleNamespace(name=name) for name in names]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points if group == "spacy_models" else [])


def test_the_largest_common_pipeline_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    pipelines(monkeypatch, "de_core_news_sm", "en_other", "en_core_web_sm", "en_core_web_md")
    assert parsers._installed() == "en_core_web_md"
    pipelines(monkeypatch, "en_z", "en_a")
    assert parsers._installed() == "en_a"


def test_without_any_parser_it_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pipelines(monkeypatch, "de_core_news_sm")
    with pytest.raises(UsageError, match="found neither; run pip install spacy && python -m spacy download en_core_web_sm"):
        parsers.load_parser()


@pytest.mark.parametrize("error", [OSError, ValueError, ImportError])
def test_a_pipeline_that_cannot_be_loaded_is_named(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, exclude: list[str]) -> Any:
        raise error("a long story")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "spacy", module("spacy", load=load))
    with pytest.raises(UsageError, match=f"--set model=en_mine: cannot be loaded as a spaCy pipeline .{error.__name__}"):
        parsers.load_parser("en_mine")


@pytest.mark.parametrize(("pipes", "labels"), [(["tagger", "parser"], ["dobj"]), (["tagger", "parser", "lemmatizer"], ["obj"])])
def test_a_pipeline_of_another_kind_is_named(pipes: list[str], labels: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = SimpleNamespace(has_pipe=lambda name: name in pipes, get_pipe=lambda name: SimpleNamespace(labels=labels))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "spacy", module("spacy", load=lambda name, exclude: pipeline))
    with pytest.raises(UsageError, match="expected an English pipeline with tagger, parser"):
        parsers.load_parser("en_mine")


def test_without_spacy_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="needs spacy, which is not installed"):
        parsers.load_parser("en_core_web_sm")


def module(name: str, **members: Any) -> ModuleType:
    made = ModuleType(name)
    vars(made).update(members)
    return made


def node(index: int, form: str, pos: str, head: int, deprel: str, lemma: str | None = None) -> SimpleNamespace:
    return SimpleNamespace(index=index, form=form, pos=pos, head=head, deprel=deprel, lemma=lemma)


@pytest.fixture
def bllip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder in the layout of BLLIP's models, and stand-ins for NegBio's classes that read it and convert its trees."""
    (tmp_path / "model" / "parser").mkdir(parents=True)
    graph = [
        node(1, "No", "DT", 4, "neg"),
        node(2, "-LRB-", "-LRB-", 4, "punct", "-lrb-"),
        node(3, "large", "JJ", 4, "amod", "large"),
        node(4, "masses", "NNS", 0, "root"),
        node(6, "edema", "NN", 4, "conj:or", "edema"),
        node(6, "edema", "NN", 3, "dep", "edema"),
    ]

    class Lemmatizer:
        def map_tag(self, tag: str) -> str:
            return tag[0].lower()

        def lemmatize(self, word: str, pos: str) -> str:
            return f"{word}:{pos}"

    class Converter:
        def __init__(self, lemmatizer: Lemmatizer, universal: bool) -> None:
            assert universal

        def convert(self, tree: str) -> list[SimpleNamespace]:
            assert tree == "TREE"
            return graph

    class Parser:
        def __init__(self, model_dir: str) -> None:
            assert model_dir == str(tmp_path / "model")

        def parse(self, text: str) -> str | None:
            return "TREE" if text else None

    def adapt(form: str) -> str:
        return form.replace("-LRB-", "(")

    ptb2ud = module("ptb2ud", Lemmatizer=Lemmatizer, NegBioPtb2DepConverter=Converter, adapt_value=adapt)
    monkeypatch.setitem(sys.modules, "negbio.pipeline.ptb2ud", ptb2ud)
    monkeypatch.setitem(sys.modules, "negbio.pipeline.parse", module("parse", NegBioParser=Parser))
    return tmp_path / "model"


def test_bllips_tree_becomes_words_and_edges(bllip: Path) -> None:
    parse = parsers.load_parser(str(bllip))
    words, found = parse("No (large masses or edema")
    assert [(w.text, w.lemma, w.start, w.end) for w in words] == [
        ("No", "no:d", 0, 2),
        ("(", "-lrb-", 3, 4),
        ("large", "large", 4, 9),
        ("masses", "masses:n", 10, 16),
        ("edema", "edema", 20, 25),
    ]
    assert found == [Edge(3, 0, "neg"), Edge(3, 1, "punct"), Edge(3, 2, "amod"), Edge(3, 4, "conj:or"), Edge(2, 4, "dep")]
    with pytest.raises(ValueError, match="no parse"):
        parse("")


def test_bllips_model_is_found_where_negbio_keeps_it(bllip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipelines(monkeypatch, "en_core_web_sm")
    monkeypatch.setattr(parsers, "BLLIP", bllip)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert parsers.load_parser()("No (large masses or edema")[1]


def test_a_bllip_that_cannot_start_is_told_in_one_line(bllip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "negbio.pipeline.parse", module("parse"))
    with pytest.raises(UsageError, match=r"BLLIP cannot be started \(AttributeError\); it needs Java") as caught:
        parsers.load_parser(str(bllip))
    assert "\n" not in str(caught.value)


# --- the real NegBio ---


@pytest.fixture(scope="module")
def installed() -> negbio.NegBio:
    return negbio.NegBio()


SENTENCES = {
    "No focal consolidation, pleural effusion, or pneumothorax.": {
        "Consolidation": "negative",
        "Pleural Effusion": "negative",
        "Pneumothorax": "negative",
    },
    "There is no evidence of edema.": {"Edema": "negative"},
    "Lungs are clear without effusion.": {"Pleural Effusion": "negative"},
    "Pneumonia cannot be excluded.": {"Pneumonia": "uncertain"},
    "We cannot rule out pneumonia.": {"Pneumonia": "uncertain"},
    "Heart size is normal.": {"Cardiomegaly": "negative"},
    "Possible pneumonia.": {"Pneumonia": "uncertain"},
    "There is a small pleural effusion.": {"Pleural Effusion": "positive"},
    "The opacity represents scar rather than atelectasis.": {"Lung Opacity": "positive", "Atelectasis": "negative"},
    "The effusion is no longer seen.": {"Pleural Effusion": "negative"},
    "Scoliosis.": {},
    "Pleural scarring is absent, pericardial effusion.": {},
}


@real
@pytest.mark.parametrize("text", SENTENCES)
def test_what_negbio_says_of_a_sentence(installed: negbio.NegBio, text: str) -> None:
    found = states(installed.label([Report("a", text)]))
    found.pop("No Finding", None)
    assert {k: v for k, v in found.items() if k in SENTENCES[text] or SENTENCES[text]} == SENTENCES[text]


def parsed(installed: negbio.NegBio) -> list[tuple[str, list[Token], list[Edge]]]:
    return [(text.lower(), *installed._parse(text.lower())) for text in SENTENCES]


def compiled(patterns: str) -> list[Any]:
    ngrex = importlib.import_module("negbio.ngrex")
    folder, *files = rules.PATTERNS[patterns]
    return [p for file in files for p in ngrex.load(str(rules._package() / folder / file))]


@real
@pytest.mark.parametrize("patterns", ["chexpert", "negbio"])
def test_the_search_along_edges_finds_what_negbios_own_search_finds(installed: negbio.NegBio, patterns: str) -> None:
    found = 0
    for _, words, edges in parsed(installed):
        graph = rules._graph(words, edges)
        for pattern in compiled(patterns):
            theirs = sorted(str(m._nodes) for m in pattern.finditer(graph))
            ours = sorted(str(m._nodes) for m in rules._Pattern(pattern, "").finditer(graph))
            assert ours == theirs
            found += len(ours)
    assert found > 10


@real
@pytest.mark.parametrize("patterns", ["chexpert", "negbio"])
def test_the_verdicts_are_those_of_negbios_own_detector(
    installed: negbio.NegBio, patterns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    semgraph = importlib.import_module("negbio.neg.semgraph")
    monkeypatch.setattr(semgraph, "nx", SimpleNamespace(DiGraph=rules._graphs()))  # with today's name for the nodes, as above
    classify = importlib.import_module("negbio.chexpert.stages.classify")
    folder, *files = rules.PATTERNS[patterns]
    paths = [str(rules._package() / folder / file) for file in files]
    detector = (classify.ModifiedDetector if patterns == "chexpert" else classify.neg_detector.Detector)(*paths)
    mine = rules.Rules(patterns)
    for text, words, edges in parsed(installed):
        named = mine.named(text)
        theirs: dict[tuple[int, int], set[str]] = {}
        for name, _, span in detector.detect(as_bioc(words, edges), [(n.start, n.end) for n in named]):
            theirs.setdefault(span, set()).add(name)
        for one, verdict in zip(named, mine.judge(words, edges, named), strict=True):
            marks = {m for (a, b), found in theirs.items() if a <= one.start and one.end <= b for m in found}
            assert verdict.state == (NEGATIVE if "negation" in marks else UNCERTAIN if marks else POSITIVE)


def as_bioc(words: list[Token], edges: list[Edge]) -> SimpleNamespace:
    """Give a sentence the shape of BioC that NegBio's loader of graphs reads."""

    def word(i: int, w: Token) -> SimpleNamespace:
        location = SimpleNamespace(offset=w.start, length=w.end - w.start)
        return SimpleNamespace(
            id=f"T{i}", text=w.text, infons={"tag": w.tag, "lemma": w.lemma}, get_total_location=lambda: location
        )

    def relation(k: int, e: Edge) -> SimpleNamespace:
        roles = [("governor", e.governor), ("dependant", e.dependant)]
        nodes = [SimpleNamespace(role=role, refid=f"T{i}") for role, i in roles]
        return SimpleNamespace(id=f"R{k}", nodes=nodes, infons={"dependency": e.label})

    relations = [relation(k, e) for k, e in enumerate(edges)]
    return SimpleNamespace(offset=0, annotations=[word(i, w) for i, w in enumerate(words)], relations=relations)


@real
def test_the_real_labeler_keeps_the_contract(installed: negbio.NegBio) -> None:
    check_labeler(installed, list(SENTENCES))
    places = installed.label([Report(str(i), text) for i, text in enumerate(SENTENCES)]).evidence
    files = {cue.partition(":")[0] for cue in places.cues}
    assert files <= {"mention", "negation", "pre_negation_uncertainty", "post_negation_uncertainty"}
    assert all(cue == "mention" or cue.partition(":")[2].isdecimal() for cue in places.cues)


@real
@pytest.mark.slow
def test_worker_processes_label_the_same(tmp_path: Path) -> None:
    path = tmp_path / "reports.csv"
    rows = "".join(f'r{i},"{text}"\n' for i, text in enumerate(list(SENTENCES) * 100))
    path.write_text(f"report_id,text\n{rows}", encoding="utf-8")
    outputs = [tmp_path / f"{jobs}.csv" for jobs in (1, 2)]
    for jobs, output in enumerate(outputs, start=1):
        assert main(["run", str(path), "--labeler", "negbio", "--jobs", str(jobs), "-o", str(output)]) == 0
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


@real
def test_negbios_first_patterns_can_be_chosen() -> None:
    labeler = create("negbio", {"patterns": "negbio", "model": PIPELINES[0]})
    table = labeler.label([Report("a", "Findings suggestive of pneumonia. No effusion.")])
    assert states(table) == {"Pneumonia": "uncertain", "Pleural Effusion": "negative"}
