"""Labels that already exist: the layouts of data sets, layouts of one's own, what is refused, and the reading of a labeler's own files."""

from __future__ import annotations

import csv
import gzip
import importlib.resources
import importlib.util
import io
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from labelers import InputError, LabelTable, Report, UsageError, Vocabulary, create, read_table
from labelers.cli import main
from labelers.crosswalk import load_crosswalk
from labelers.io import CHEXPERT
from labelers.registry import FileLabeler
from labelers.run import BATCH, reports_for
from labelers.testing import check_labeler
from labelers.types import NEGATIVE, POSITIVE, STATES, UNCERTAIN, UNMENTIONED, binary_entropy

MARKER = "Xylophonist"
"""Planted in cells and ids; no message may hold it."""
LAYOUTS = sorted(
    entry.name.removesuffix(".yaml") for entry in (importlib.resources.files("labelers.resources") / "layouts").iterdir()
)
VALUES = {"1.0": "positive", "0.0": "negative", "-1.0": "uncertain", "": "unmentioned"}
THIS = __name__

Cli = Callable[..., tuple[int, str]]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Give a function that runs a command line and returns its exit status and what it said on standard error."""

    def run(*argv: str | Path) -> tuple[int, str]:
        status = main([str(text) for text in argv])
        return status, capsys.readouterr().err

    return run


def write(path: Path, rows: Sequence[Sequence[str]]) -> Path:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def table_of(path: Path, **options: str) -> LabelTable:
    labeler = create("table", options)
    return labeler.label(list(reports_for(labeler, path)))


def states(table: LabelTable, finding: str) -> list[str]:
    return [STATES[code] for code in table.state[:, table.vocabulary.index(finding)]]


def mimic(path: Path, studies: int = 40) -> tuple[Path, dict[str, dict[str, str]]]:
    """Write a file as MIMIC-CXR-JPG has it, with every value in it; return what it says."""
    generator = np.random.default_rng(3)
    names = sorted(CHEXPERT)
    said = {
        str(50_000_000 + i): dict(zip(names, generator.choice(["1.0", "0.0", "-1.0", ""], 14).tolist(), strict=True))
        for i in range(studies)
    }
    rows = [[str(10_000_000 + i), study, *cells.values()] for i, (study, cells) in enumerate(said.items())]
    return write(path, [["subject_id", "study_id", *names], *rows]), said


def layout(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# --- shipped layouts -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_keeps_the_contract(name: str) -> None:
    labeler = create("table", {"layout": name})
    labels = [line.rpartition(": ")[0] for line in ("Cardiomegaly: positive", "cardiomegaly: positive")]
    known = next(label for label in labels if label in {link.label for link in _crosswalk(name)})
    check_labeler(labeler, [f"{known}: positive", f"{known}: uncertain", f"{known}: negative", "", f"{known}: unmentioned"])


def _crosswalk(name: str) -> tuple[object, ...]:
    return load_crosswalk(name if name in ("nih", "padchest") else "chexpert").links


def test_sources_are_different() -> None:
    sources = {create("table", {"layout": name}).name for name in LAYOUTS}
    assert len(sources) == len(LAYOUTS)
    assert "table" not in sources


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_mimic_through_the_command_line(tmp_path: Path, cli: Cli, suffix: str) -> None:
    path, said = mimic(tmp_path / f"mimic-cxr-2.0.0-chexpert{suffix}", BATCH + 40)
    out = tmp_path / "mimic.parquet"
    status, err = cli("run", path, "--labeler", "table", "--set", "layout=mimic-cxr-jpg", "-o", out)
    assert (status, err) == (0, f"labeled {len(said):,} reports with 'mimic-cxr-jpg-chexpert' -> {out}\n")
    table = read_table(out)
    assert table.source == "mimic-cxr-jpg-chexpert"
    assert table.report_ids.tolist() == list(said)
    for name in ("Edema", "Fracture", "No Finding", "Support Devices"):
        assert states(table, name) == [VALUES[cells[name]] for cells in said.values()], (
            "names that stand at a root, nothing above"
        )
    assert states(table, "Hydropneumothorax").count("positive") == 0, "an effusion with air in it is not implied by either"
    again = tmp_path / "again.parquet"
    assert cli("run", path, "--labeler", "table", "--set", "layout=mimic-cxr-jpg", "--jobs", "2", "-o", again)[0] == 0
    assert out.read_bytes() == again.read_bytes()


def test_probabilities_are_those_of_the_states(tmp_path: Path) -> None:
    table = table_of(mimic(tmp_path / "chexpert.csv")[0], layout="mimic-cxr-jpg")
    by_state = np.array([0.95, 0.05, 0.5, 0.1], np.float32)
    np.testing.assert_array_equal(table.probability, by_state[table.state])
    np.testing.assert_allclose(table.uncertainty, binary_entropy(table.probability), atol=1e-6)


def test_what_a_scheme_cannot_tell_is_not_in_the_vocabulary(tmp_path: Path) -> None:
    table = table_of(mimic(tmp_path / "chexpert.csv")[0], layout="mimic-cxr-jpg")
    assert "Scoliosis" not in table.vocabulary
    assert "Nodule" in table.vocabulary, "Lung Lesion denied denies it"
    radiologist = create("table", {"layout": "mimic-cxr-jpg-radiologist"})
    assert set(CHEXPERT) <= set(radiologist.vocabulary.names)


def test_mimic_radiologist_columns(tmp_path: Path) -> None:
    names = ["Airspace Opacity" if name == "Lung Opacity" else name for name in CHEXPERT]
    rows = [["study_id", *names], ["50000000", *("1.0" if name == "Airspace Opacity" else "" for name in names)]]
    table = table_of(write(tmp_path / "mimic-cxr-2.1.0-test-set-labeled.csv", rows), layout="mimic-cxr-jpg-radiologist")
    assert (states(table, "Lung Opacity"), states(table, "Edema")) == (["positive"], ["unmentioned"])


CHEXPERT_HEAD = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT]


def chexpert_row(path: str, **said: str) -> list[str]:
    return [
        f"CheXpert-v1.0/train/{path}",
        "Female",
        "68",
        "Frontal",
        "AP",
        *(said.get(n.replace(" ", "_"), "") for n in CHEXPERT),
    ]


def test_images_of_one_study_are_one_row(tmp_path: Path) -> None:
    rows = [
        chexpert_row("patient00001/study1/view1_frontal.jpg", Edema="1.0"),
        chexpert_row("patient00002/study1/view1_frontal.jpg", Edema="-1.0", Lung_Lesion="0.0"),
        chexpert_row("patient00001/study1/view2_lateral.jpg", Edema="1"),
        chexpert_row("patient00001/study2/view1_frontal.jpg"),
    ]
    table = table_of(write(tmp_path / "train.csv", [CHEXPERT_HEAD, *rows]), layout="chexpert")
    assert table.report_ids.tolist() == ["patient00001/study1", "patient00002/study1", "patient00001/study2"]
    assert states(table, "Edema") == ["positive", "uncertain", "unmentioned"]
    assert states(table, "Lung Lesion") == states(table, "Nodule") == ["unmentioned", "negative", "unmentioned"]


def test_images_of_one_study_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    rows = [
        chexpert_row("patient00001/study1/view1_frontal.jpg", Edema="1.0"),
        chexpert_row("patient00002/study1/view1_frontal.jpg"),
        chexpert_row("patient00001/study1/view2_lateral.jpg", Edema="0.0"),
    ]
    path = write(tmp_path / "train.csv", [CHEXPERT_HEAD, *rows])
    with pytest.raises(InputError, match=r"train.csv, line 4: other labels than line 2, which has the same id; correct one"):
        table_of(path, layout="chexpert")


@pytest.mark.parametrize(
    ("file", "given", "right"),
    [
        ("mimic-cxr-2.0.0-negbio.csv.gz", "mimic-cxr-jpg", "mimic-cxr-jpg-negbio"),
        ("mimic-cxr-2.0.0-chexpert.csv", "mimic-cxr-jpg-negbio", "mimic-cxr-jpg"),
        ("mimic-cxr-2.1.0-test-set-labeled.csv", "mimic-cxr-jpg", "mimic-cxr-jpg-radiologist"),
        ("train_visualCheXbert.csv", "chexpert", "visualchexbert"),
        ("train_cheXbert.csv", "chexpert", "chexbert"),
        ("valid.csv", "chexpert", "chexpert-radiologist"),
        ("train.csv", "chexpert-radiologist", "chexpert"),
        ("impression_fixed.json", "chexpert-plus", "chexpert-plus-impression"),
        ("report_fixed.json", "chexpert-plus-findings", "chexpert-plus"),
    ],
)
def test_a_file_of_another_labeler_in_the_same_columns_is_refused(tmp_path: Path, file: str, given: str, right: str) -> None:
    with pytest.raises(UsageError, match=rf"its name says .*give --set layout={right}, or say .* --set source=NAME"):
        table_of(tmp_path / file, layout=given)
    with pytest.raises(InputError, match="no such file"):
        table_of(tmp_path / file, layout=given, source="mine")
    with pytest.raises(InputError, match="no such file"):
        table_of(tmp_path / file, layout=right)


def test_every_layout_that_another_names_exists() -> None:
    for name in LAYOUTS:
        assert set(create("table", {"layout": name})._layout.other_files.values()) <= set(LAYOUTS)  # type: ignore[attr-defined]


def test_chexpert_plus_is_json_by_lines(tmp_path: Path) -> None:
    rows = [
        {
            "path_to_image": "train/patient00003/study2/view1_frontal.jpg",
            **dict.fromkeys(CHEXPERT),
            "Edema": 1.0,
            "Fracture": 0.0,
        },
        {"path_to_image": "train/patient00003/study2/view2_lateral.jpg", **dict.fromkeys(CHEXPERT), "Edema": 1, "Fracture": 0},
        {"path_to_image": "valid/patient64541/study1/view1_frontal.jpg", **dict.fromkeys(CHEXPERT, float("nan")), "Edema": -1.0},
    ]
    path = tmp_path / "report_fixed.json"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8")
    table = table_of(path, layout="chexpert-plus")
    assert table.source == "chexpert-plus-report"
    assert table.report_ids.tolist() == ["patient00003/study2", "patient64541/study1"]
    assert (states(table, "Edema"), states(table, "Fracture")) == (["positive", "uncertain"], ["negative", "unmentioned"])


def test_nih_lists_deny_nothing(tmp_path: Path) -> None:
    rows = [
        ["Image Index", "Finding Labels"],
        ["1.png", "Effusion|Pleural_Thickening"],
        ["2.png", "No Finding"],
        ["3.png", "Edema"],
    ]
    table = table_of(write(tmp_path / "Data_Entry_2017_v2020.csv", rows), layout="nih")
    assert table.report_ids.tolist() == ["1.png", "2.png", "3.png"]
    assert states(table, "Pleural Effusion") == ["positive", "unmentioned", "unmentioned"]
    assert states(table, "Pulmonary Edema") == states(table, "Edema") == ["unmentioned", "unmentioned", "positive"]
    assert states(table, "No Finding") == ["unmentioned", "positive", "unmentioned"]
    assert not np.isin(table.state, (NEGATIVE, UNCERTAIN)).any()
    assert not {"Pneumoperitoneum", "Subcutaneous Emphysema", "Aortic Tortuosity"} & set(table.vocabulary.names), "of NIH-CXR-LT"


def test_padchest_lists(tmp_path: Path, cli: Cli) -> None:
    rows = [
        ["", "StudyID", "Report", "Labels"],
        ["0", "s1", MARKER, "['pleural effusion', ' nodule', '']"],
        ["1", "s2", MARKER, "nan"],
        ["2", "s3", MARKER, "[]"],
        ["3", "s1", MARKER, "[\"nodule\",  'pleural effusion']"],
        ["4", "s4", MARKER, "['normal', nan]"],
    ]
    path, out = write(tmp_path / "padchest.csv.gz", rows), tmp_path / "labels.csv"
    status, err = cli("run", path, "--labeler", "table", "--set", "layout=padchest", "-o", out)
    assert (status, err) == (0, f"labeled 4 reports (2 of them empty: every finding unmentioned) with 'padchest' -> {out}\n")
    table = read_table(out)
    assert table.report_ids.tolist() == ["s1", "s2", "s3", "s4"]
    assert states(table, "Nodule") == states(table, "Pleural Effusion") == ["positive", *["unmentioned"] * 3]
    assert states(table, "No Finding") == [*["unmentioned"] * 3, "positive"]
    assert "negative" not in out.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def data_sets() -> Path:
    spec = importlib.util.find_spec("torchxrayvision")
    if spec is None or spec.origin is None:
        pytest.skip("torchxrayvision (extra openi), which ships label files of data sets, is not installed")
    return Path(spec.origin).parent / "data"


def head(source: Path, target: Path, columns: Sequence[str], rows: int) -> list[dict[str, str]]:
    """Copy some columns of the first rows, and return them."""
    with gzip.open(source, "rt", encoding="utf-8", newline="") as file:
        found = [{name: row[name] for name in columns} for row in islice(csv.DictReader(file), rows)]
    write(target, [list(columns), *(list(row.values()) for row in found)])
    return found


def test_the_real_file_of_chexpert(data_sets: Path, tmp_path: Path) -> None:
    rows = head(data_sets / "chexpert_train.csv.gz", tmp_path / "chexpert.csv", ["Path", *CHEXPERT], 5000)
    want = {"/".join(row["Path"].split("/")[2:4]): row for row in rows}
    table = table_of(tmp_path / "chexpert.csv", layout="chexpert")
    assert table.report_ids.tolist() == list(want)
    for name in CHEXPERT:
        assert states(table, name) == [VALUES[row[name]] for row in want.values()]


def test_the_real_file_of_nih(data_sets: Path, tmp_path: Path) -> None:
    rows = head(data_sets / "Data_Entry_2017_v2020.csv.gz", tmp_path / "nih.csv", ["Image Index", "Finding Labels"], 5000)
    table = table_of(tmp_path / "nih.csv", layout="nih")
    for theirs, ours in {"Effusion": "Pleural Effusion", "Pneumothorax": "Pneumothorax", "No Finding": "No Finding"}.items():
        assert [said == "positive" for said in states(table, ours)] == [theirs in row["Finding Labels"] for row in rows]


def test_the_real_file_of_padchest(data_sets: Path, tmp_path: Path) -> None:
    name = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz"
    rows = head(data_sets / name, tmp_path / "padchest.csv", ["StudyID", "Labels"], 5000)
    want = {row["StudyID"]: "cardiomegaly" in row["Labels"] for row in rows}
    table = table_of(tmp_path / "padchest.csv", layout="padchest")
    assert dict(zip(table.report_ids, (said == "positive" for said in states(table, "Cardiomegaly")), strict=True)) == want
    assert sum(want.values()) > 100


# --- layouts of one's own --------------------------------------------------------------------------------------------------------------

WIDE = """
source: second-reader
id: {columns: [hospital, number], separator: "-"}
columns: {Pleural Effusion: fluid, Nodule: nodule}
values: {yes!: positive, no!: negative, maybe: uncertain, "": unmentioned}
probability: {positive: 0.8, unmentioned: 0.02}
"""


def test_a_wide_table_in_our_own_findings(tmp_path: Path) -> None:
    rows = [["number", "hospital", "fluid", "nodule"], ["1", "a", "yes!", " no! "], ["2", "a", "maybe", ""], ["1", "b", "", ""]]
    table = table_of(write(tmp_path / "own.csv", rows), layout=str(layout(tmp_path / "own.yaml", WIDE)))
    assert table.source == "second-reader"
    assert table.report_ids.tolist() == ["a-1", "a-2", "b-1"]
    assert states(table, "Pleural Effusion") == ["positive", "uncertain", "unmentioned"]
    assert states(table, "Nodule") == states(table, "Multiple Nodules") == ["negative", "unmentioned", "unmentioned"]
    assert "Edema" not in table.vocabulary
    assert set(np.unique(table.probability).tolist()) == {np.float32(p) for p in (0.8, 0.05, 0.5, 0.02)}


def test_source_and_id_column_can_be_given(tmp_path: Path, cli: Cli) -> None:
    rows = [["number", "hospital", "fluid", "nodule", "mine"], ["1", "a", "yes!", "", "x"]]
    path, own, out = write(tmp_path / "own.csv", rows), layout(tmp_path / "own.yaml", WIDE), tmp_path / "out.csv"
    options = ("--set", f"layout={own}", "--set", "source=third", "--id-column", "mine")
    assert cli("run", path, "--labeler", "table", *options, "-o", out)[0] == 0
    table = read_table(out)
    assert (table.source, table.report_ids.tolist()) == ("third", ["x"])


def test_a_layout_may_extend_another_with_a_crosswalk_beside_it(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    walk = "name: ours\nsource: us\ncount: 2\nlabels:\n  Erguss: {exact: Pleural Effusion}\n  Herd: {broader: [Nodule, Mass]}\n"
    layout(tmp_path / "folder" / "walk.yaml", walk)
    base = 'source: base\ncrosswalk: walk.yaml\nid: nummer\nlist: {column: Befunde, separator: ";"}\n'
    layout(tmp_path / "folder" / "base.yaml", base)
    own = layout(
        tmp_path / "own.yaml", "extends: folder/base.yaml\nsource: own\ncolumns: [Erguss]\nvalues: {1: positive, 0: negative}\n"
    )
    rows = [["nummer", "Befunde", "Erguss"], ["1", "Herd; Erguss", "0"], ["2", "", "1"]]
    path = write(tmp_path / "own.csv", rows)
    lists, columns = table_of(path, layout=str(tmp_path / "folder" / "base.yaml")), table_of(path, layout=str(own))
    assert (lists.source, columns.source) == ("base", "own")
    assert states(lists, "Pleural Effusion") == ["positive", "unmentioned"]
    assert states(columns, "Pleural Effusion") == ["negative", "positive"]
    assert "Nodule" not in lists.vocabulary, "a lump denies or names neither"
    assert "Nodule" not in columns.vocabulary


def test_findings_of_a_vocabulary_of_ones_own(tmp_path: Path) -> None:
    words = layout(tmp_path / "words.yaml", "extends: chest\nname: own\nversion: '1'\nfindings:\n- name: Swan\n  terms: [swan]\n")
    own = layout(tmp_path / "own.yaml", "source: own\nid: id\ncolumns: [Swan]\nvalues: {1: positive, 0: negative}\n")
    path = write(tmp_path / "own.csv", [["id", "Swan"], ["a", "1"]])
    table = table_of(path, layout=str(own), vocabulary=str(words))
    assert (table.vocabulary.names, states(table, "Swan")) == (("Swan",), ["positive"])
    with pytest.raises(InputError, match="key 'columns': expected labels of 'chest', got 'Swan'; correct the layout file"):
        create("table", {"layout": str(own)})


@pytest.mark.parametrize("dtype", ["float64", "Int8", "string", "category"])
def test_parquet_in_any_type(tmp_path: Path, dtype: str) -> None:
    frame = pd.DataFrame({"study_id": np.array([50_000_001.0, 50_000_002.0, 50_000_003.0]), **dict.fromkeys(CHEXPERT, None)})
    frame["Edema"] = pd.Series([1.0, np.nan, -1.0])
    frame["Fracture"] = pd.Series([0.0, 1.0, np.nan])
    text = {1.0: "1.0", 0.0: "0.0", -1.0: "-1.0"}
    for name in ("Edema", "Fracture"):
        frame[name] = (frame[name].map(text) if dtype in ("string", "category") else frame[name]).astype(dtype)
    frame.to_parquet(tmp_path / "chexpert.parquet")
    table = table_of(tmp_path / "chexpert.parquet", layout="mimic-cxr-jpg")
    assert table.report_ids.tolist() == ["50000001", "50000002", "50000003"]
    assert states(table, "Edema") == ["positive", "unmentioned", "uncertain"]
    assert states(table, "Fracture") == ["negative", "positive", "unmentioned"]


GOOD = "source: own\nid: id\ncrosswalk: chexpert\ncolumns: [Edema]\nvalues: {1: positive}\n"
BROKEN = [
    ("source: [", "line 2", "not YAML"),
    ("- a", "the file", "a mapping with keys among"),
    (GOOD + "colour: red", "key 'colour'", "keys among columns, crosswalk"),
    (GOOD.replace("source: own\n", ""), "the file", "the key 'source'"),
    (GOOD.replace("id: id\n", ""), "the file", "the key 'id'"),
    (GOOD.replace("own", "3"), "key 'source'", "the name of a labeler"),
    (GOOD.replace("id: id", "id: 3"), "key 'id'", "the name of a column, or a mapping"),
    (GOOD.replace("id: id", "id: {columns: [a], colour: red}"), "key 'id'", "the name of a column, or a mapping"),
    (GOOD.replace("id: id", "id: {columns: a}"), "key 'id', columns", "a list of names"),
    (GOOD.replace("id: id", "id: {columns: [a], pattern: '('}"), "key 'id', pattern", "a regular expression"),
    (GOOD.replace("id: id", "id: {columns: [a], separator: 3}"), "key 'id'", "words under separator"),
    (GOOD.replace("chexpert", "[a]"), "key 'crosswalk'", "the name of a cross-walk"),
    (GOOD.replace("[Edema]", "[Edma]"), "key 'columns'", "labels of 'chexpert', got 'Edma'"),
    (GOOD.replace("[Edema]", "{Edma: a}"), "key 'columns'", "labels of 'chexpert', got 'Edma'"),
    (GOOD.replace("[Edema]", "[]"), "key 'columns'", "a list of names"),
    (GOOD.replace("[Edema]", "{}"), "key 'columns'", "one label or more"),
    (GOOD.replace("[Edema]", "[Edema, Edema]"), "key 'columns'", "each name once"),
    (GOOD.replace("[Edema]", "{Edema: 3}"), "key 'columns'", "a mapping from words to words"),
    (GOOD.replace("values: {1: positive}", ""), "key 'values'", "a mapping from the values"),
    (GOOD.replace("{1: positive}", "{1: present}"), "key 'values', '1'", "one of positive, negative"),
    (GOOD.replace("{1: positive}", "{yes: positive}"), "key 'values'", "numbers and words (quote yes"),
    (GOOD.replace("{1: positive}", "{1: positive, '1.0': negative}"), "key 'values', '1.0'", "each value once"),
    (GOOD + "list: {column: a, separator: b}", "the file", "either the key 'columns' with 'values', or the key 'list'"),
    (GOOD + "without: [Edema]", "key 'without'", "it beside 'list' only"),
    (GOOD + "merge: maybe", "key 'merge'", "true or false"),
    (GOOD + "probability: {positive: 2}", "key 'probability', 'positive'", "a number from 0 to 1"),
    (GOOD + "probability: {present: 1}", "key 'probability'", "a mapping with keys among positive"),
    (GOOD + "other_files: [a]", "key 'other_files'", "a mapping from words to words"),
    (GOOD + "extends: 3", "key 'extends'", "the name of a layout"),
    ("source: a\nid: id\nlist: {column: a}", "key 'list'", "the keys column, and separator or format"),
    ("source: a\nid: id\nlist: {column: a, separator: ''}", "key 'list'", "the keys column, and separator or format"),
    ("source: a\nid: id\nlist: {column: a, format: json}", "key 'list', format", "python"),
    ("source: a\nid: id\nlist: {column: a, separator: ;}\nwithout: [Edma]", "key 'without'", "labels of 'chest', got 'Edma'"),
]


@pytest.mark.parametrize(("text", "where", "what"), BROKEN)
def test_a_broken_layout_is_refused(tmp_path: Path, text: str, where: str, what: str) -> None:
    path = layout(tmp_path / "own.yaml", text)
    with pytest.raises(InputError) as caught:
        create("table", {"layout": str(path)})
    message = str(caught.value)
    assert str(path) in message
    assert where in message
    assert what in message
    assert "\n" not in message


def test_layouts_that_extend_each_other_are_refused(tmp_path: Path) -> None:
    layout(tmp_path / "a.yaml", "extends: b.yaml")
    layout(tmp_path / "b.yaml", "extends: a.yaml")
    with pytest.raises(InputError, match=r"key 'extends': expected layouts that end somewhere, got a circle"):
        create("table", {"layout": str(tmp_path / "a.yaml")})


def test_unknown_names() -> None:
    with pytest.raises(UsageError, match=r"unknown layout 'mimic': did you mean.*known: chexbert, chexpert, .*padchest"):
        create("table", {"layout": "mimic"})
    with pytest.raises(UsageError, match="needs the option 'layout'"):
        create("table")
    with pytest.raises(InputError, match=r"nowhere.yaml: No such file or directory; give the path of a layout file"):
        create("table", {"layout": "nowhere.yaml"})


# --- data that are refused -------------------------------------------------------------------------------------------------------------

HEAD = "id,Edema,Fracture\n"
REFUSED: dict[str, tuple[str, str]] = {
    "a value of another layout": (f"{HEAD}a,1,\nb,{MARKER},\n", "line 3, column 'Edema': expected one of 1.0, nothing, got"),
    "the column of ids in its place": (f"{HEAD}1,{MARKER},0\n", "line 2, column 'Edema': expected one of"),
    "a number that is none of them": (f"{HEAD}a,1,2\n", "line 2, column 'Fracture': expected one of"),
    "a missing column": (
        f"id,Edema\n{MARKER},1\n",
        "expected the columns Fracture, which are missing; the columns are: id, Edema",
    ),
    "no header": (f"{MARKER} was seen on the left.,1,0\n", "expected the columns id, Edema, Fracture"),
    "a row that is short": (f"{HEAD}{MARKER},1\n", "line 2: expected 3 fields as in the header, got 2"),
    "an empty id": (f"{HEAD} ,1,\n", "line 2: the report id is empty"),
    "an id twice": (
        f"{HEAD}{MARKER},1,\n{MARKER},1,\n",
        "line 3: the report id of line 2 again; remove one, or choose a layout with merge: true",
    ),
    "an open quote": (f'{HEAD}"{MARKER},1,\n', "row that starts in line 2: not a CSV row"),
    "nothing": ("", "expected a header in the first line"),
    "no row": (HEAD, "expected one report or more, found none"),
    "a NUL": (f"{HEAD}{MARKER}\0,1,\n", "line 2: a NUL character"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_bad_data_are_refused_by_file_and_row(tmp_path: Path, cli: Cli, case: str, suffix: str) -> None:
    text, message = REFUSED[case]
    own = layout(tmp_path / "own.yaml", GOOD.replace("[Edema]", "[Edema, Fracture]").replace("}", ", '': unmentioned}"))
    path, out = tmp_path / f"labels{suffix}", tmp_path / "out.parquet"
    path.write_bytes(gzip.compress(text.encode()) if suffix == ".csv.gz" else text.encode())
    status, err = cli("run", path, "--labeler", "table", "--set", f"layout={own}", "-o", out)
    assert status == 1
    assert str(path) in err
    assert message in err
    assert err.count("\n") == 1
    assert MARKER not in err
    assert not out.exists()


def write_bytes(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv.gz", b"id,Edema\na,1\n", "not a whole gzip file (BadGzipFile); fetch it again"),
        ("a.csv.gz", gzip.compress(b"id,Edema\na,1\n")[:-4], "not a whole gzip file (EOFError); fetch it again"),
        ("a.csv.gz", gzip.compress(b"id,Edema\n" + b"x" * 2**23), "line 2: expected a report of at most"),
        ("a.csv.gz", gzip.compress(b"id,Edema\n\xff\xfe,1\n"), "line 2: bytes that are not UTF-8"),
        ("a.csv", b"id,Edema\n\xff\xfe,1\n", "line 2: bytes that are not UTF-8"),
        ("a.parquet", b"PAR1", "not a readable Parquet file"),
        ("a.json", b'[{"id": "a", "Edema": 1}]', "line 1: expected a JSON object, got a list"),
        ("a.json", b'{"id": "a", "Edema": [1]}', "line 1: expected text or numbers under the keys id, Edema"),
        ("a.json", b'{"id": "a"}', "line 1: expected the columns Edema, which are missing"),
        ("a.jsonl", b'{"id": "a", "id": "b"}', "line 1: two keys of an object have one name"),
        ("a.jsonl", b"\xff", "line 1: bytes that are not UTF-8"),
        ("a.xlsx", b"PK", "expected a .csv, .csv.gz, .parquet, .jsonl or .json (lines) file, got '.xlsx'"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    own = layout(tmp_path / "own.yaml", GOOD)
    with pytest.raises(InputError) as caught:
        table_of(write_bytes(tmp_path / name, data), layout=str(own))
    assert message in str(caught.value)


def test_utf_16_in_gzip(tmp_path: Path) -> None:
    path = write_bytes(tmp_path / "a.csv.gz", gzip.compress("id;Edema\né;1\n".encode("utf-16")))
    assert table_of(path, layout=str(layout(tmp_path / "own.yaml", GOOD))).report_ids.tolist() == ["é"]


def test_parquet_of_nested_columns_is_refused(tmp_path: Path) -> None:
    pd.DataFrame({"id": ["a"], "Edema": [[1]]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(InputError, match="rows 1 to 1: expected text or numbers in the column 'Edema'; write it as text"):
        table_of(tmp_path / "a.parquet", layout=str(layout(tmp_path / "own.yaml", GOOD)))


@pytest.mark.parametrize(
    ("name", "cell", "message"),
    [
        ("nih", f"Effusion|{MARKER}", "line 2, column 'Finding Labels': expected labels of the cross-walk 'nih', got 1 others"),
        ("nih", "Tortuous Aorta", "got 1 others"),
        ("padchest", f"['{MARKER}']", "column 'Labels': expected labels of the cross-walk 'padchest', got 1 others"),
        ("padchest", MARKER, "line 2, column 'Labels': expected a list such as ['a', 'b']"),
        ("padchest", "['nodule'] + ['mass']", "line 2, column 'Labels': expected a list such as ['a', 'b']"),
        ("padchest", "['nodule' 'mass']", "line 2, column 'Labels': expected a list such as ['a', 'b']"),
    ],
)
def test_lists_of_other_labels_are_refused(tmp_path: Path, name: str, cell: str, message: str) -> None:
    columns = {"nih": ["Image Index", "Finding Labels"], "padchest": ["StudyID", "Labels"]}[name]
    with pytest.raises(InputError) as caught:
        table_of(write(tmp_path / "a.csv", [columns, [MARKER, cell]]), layout=name)
    assert message in str(caught.value)
    assert MARKER not in str(caught.value)


def test_an_id_that_is_not_of_the_pattern_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [CHEXPERT_HEAD, chexpert_row(f"{MARKER}.jpg")])
    with pytest.raises(InputError) as caught:
        table_of(path, layout="chexpert")
    assert "line 2, column Path: expected an id like (patient[0-9]+)/(study[0-9]+)/, got another" in str(caught.value)
    assert MARKER not in str(caught.value)


def test_a_text_that_is_no_record_is_refused() -> None:
    with pytest.raises(InputError, match="expected lines LABEL: STATE"):
        create("table", {"layout": "nih"}).label([Report("a", MARKER)])


def test_what_belongs_to_text_is_refused(tmp_path: Path, cli: Cli) -> None:
    path, out = mimic(tmp_path / "chexpert.csv")[0], tmp_path / "out.csv"
    options = ("--labeler", "table", "--set", "layout=mimic-cxr-jpg")
    status, err = cli("run", path, *options, "--text-column", "Edema", "-o", out)
    assert status == 2
    assert "the labeler 'mimic-cxr-jpg-chexpert' reads files of its own" in err
    assert "leave out --text-column" in err
    status, err = cli("explain", "--text", MARKER, *options)
    assert status == 2
    assert "the labeler 'table' reads files of its own and no text; use labelers run FILE" in err
    assert MARKER not in err
    assert not out.exists()


# --- a labeler's own reading -----------------------------------------------------------------------------------------------------------


class Records:
    """Reads lines of a file as records; the tests name it by its path."""

    name = "records"
    version = "1"
    vocabulary = Vocabulary.of(["Edema"])

    def read(self, path: Path, id_column: str | None) -> Iterator[Report]:
        """Yield one record a line."""
        for line in path.read_text(encoding="utf-8").splitlines():
            if line == "fail":
                raise RuntimeError(MARKER)
            yield Report(*line.split("=")) if "=" in line else Report(line, "")

    def label(self, reports: Sequence[Report]) -> LabelTable:
        """Find edema in 1."""
        state = np.array([[POSITIVE if report.text == "1" else UNMENTIONED] for report in reports], np.int8).reshape(-1, 1)
        return LabelTable.from_states([report.report_id for report in reports], self.vocabulary, state, self.name)


def test_own_reading_is_streamed(tmp_path: Path) -> None:
    own = layout(tmp_path / "own.yaml", GOOD)
    path = write(tmp_path / "a.csv", [["id", "Edema"], *(["a", "1"], ["b", "broken"])])
    labeler = create("table", {"layout": str(own)})
    assert isinstance(labeler, FileLabeler)
    records = reports_for(labeler, path)
    assert next(records) == Report("a", "Edema: positive")
    with pytest.raises(InputError, match="line 3"):
        next(records)


@pytest.mark.parametrize(
    ("text", "status", "message"),
    [
        ("a=1\nb\nc=0", 0, "labeled 3 reports (1 of them empty: every finding unmentioned) with 'records'"),
        (f"{MARKER}=1\nb=0\n{MARKER}=1", 1, "report 3: the report id of report 1 again; ids must be unique"),
        ("a=1\n=1", 1, "report 2: the report id is empty"),
        ("a=1\nfail", 1, "the labeler 'records' failed with RuntimeError when it read this"),
    ],
)
def test_own_reading_of_another_labeler(tmp_path: Path, cli: Cli, text: str, status: int, message: str) -> None:
    path = layout(tmp_path / "records.txt", text)
    got, err = cli("run", path, "--labeler", f"{THIS}:Records", "-o", tmp_path / "out.parquet")
    assert got == status
    assert message in err
    assert MARKER not in err
    assert (tmp_path / "out.parquet").exists() == (status == 0)


def test_own_reading_of_no_file(tmp_path: Path, cli: Cli) -> None:
    status, err = cli("run", tmp_path / "nowhere", "--labeler", f"{THIS}:Records", "-o", tmp_path / "out.csv")
    assert (status, err.count("\n")) == (1, 1)
    assert "nowhere: cannot be read (No such file or directory)" in err


@pytest.mark.slow
def test_own_reading_on_ray(tmp_path: Path, cli: Cli) -> None:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray (extra ray) is not installed")
    path, said = mimic(tmp_path / "chexpert.csv", BATCH + 5)
    options = ("--labeler", "table", "--set", "layout=mimic-cxr-jpg")
    assert cli("run", path, *options, "-o", tmp_path / "local.parquet")[0] == 0
    status, err = cli("run", path, *options, "--engine", "ray", "-o", tmp_path / "ray.parquet")
    assert status == 0, err
    assert (tmp_path / "local.parquet").read_bytes() == (tmp_path / "ray.parquet").read_bytes()
    assert len(read_table(tmp_path / "ray.parquet")) == len(said)
