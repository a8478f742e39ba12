"""Manifests as spreadsheets, databases and other people write them, and files that do not belong together."""

from __future__ import annotations

import io
import json
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from hybridpt.checkpoint import read_checkpoint
from hybridpt.data.manifest import read_manifest
from labelers import LabelTable, Vocabulary, read_table
from labelers.errors import InputError
from labelers.io import write_table
from tests.hostile.hybrid import Hybrid, lines_of, make_hybrid, one_error

HEADER = "image,study_id,patient_id,dataset,split,view,age,sex,report"
BODY = [
    "images/a.png,s1,p1,nih,train,PA,63,M,Heart size is normal.",
    'images/ü b.png,s2,p2,nih,val,,,,"Two lines,\nand ""quotes""."',
    "images/c.png,s3,p3,mimic,test,AP,7.5,F,",
]
PLAIN = "\n".join([HEADER, *BODY]) + "\n"


def frame() -> pd.DataFrame:
    return pd.read_csv(io.StringIO(PLAIN), dtype=str, keep_default_na=False)


def separated(by: str) -> bytes:
    return frame().to_csv(index=False, sep=by).encode()


def parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def wide(columns: int) -> bytes:
    extra = pd.DataFrame(np.zeros((3, columns), np.int8), columns=[f"c{i}" for i in range(columns)])
    return pd.concat([extra, frame()], axis=1).to_csv(index=False).encode()


DIALECTS: dict[str, tuple[str, bytes]] = {
    "as it should be": ("manifest.csv", PLAIN.encode()),
    "a capital suffix": ("MANIFEST.CSV", PLAIN.encode()),
    "byte order mark": ("manifest.csv", b"\xef\xbb\xbf" + PLAIN.encode()),
    "UTF-16": ("manifest.csv", PLAIN.encode("utf-16")),
    "semicolons": ("manifest.csv", separated(";")),
    "tabs": ("manifest.csv", separated("\t")),
    "bars": ("manifest.csv", separated("|")),
    "Windows line ends": ("manifest.csv", frame().to_csv(index=False, lineterminator="\r\n").encode()),
    "every field in quotes": ("manifest.csv", frame().to_csv(index=False, quoting=1).encode()),
    "spaces around the names of columns": ("manifest.csv", PLAIN.replace(HEADER, HEADER.replace(",", " , ")).encode()),
    "empty lines": ("manifest.csv", PLAIN.replace("images/c", "\n\nimages/c").encode()),
    "no line end at the end": ("manifest.csv", PLAIN.rstrip().encode()),
    "10,000 columns more": ("manifest.csv", wide(10_000)),
    "columns in another order": ("manifest.csv", frame()[frame().columns[::-1]].to_csv(index=False).encode()),
    "Parquet": ("manifest.parquet", parquet(pa.Table.from_pandas(frame()))),
    "Parquet with dictionaries": ("manifest.parquet", parquet(pa.Table.from_pandas(frame().astype("category")))),
    "Parquet with missing values": ("manifest.parquet", parquet(pa.Table.from_pandas(frame().replace("", None)))),
    "Parquet with a column of lists besides": (
        "manifest.parquet",
        parquet(pa.Table.from_pandas(frame()).append_column("embedding", [[[1.0]] * 3])),
    ),
}  # fmt: skip


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_gives_the_same_table(tmp_path: Path, dialect: str) -> None:
    name, content = DIALECTS[dialect]
    (tmp_path / name).write_bytes(content)
    expected = frame()
    expected["image"] = [str(tmp_path / image) for image in expected["image"]]
    table = read_manifest(tmp_path / name)
    pd.testing.assert_frame_equal(table[list(expected)], expected, check_dtype=False)


def test_numbers_of_parquet_are_the_ids_that_other_files_hold(tmp_path: Path) -> None:
    """A column of whole numbers with a gap is a column of real numbers in pandas: 7 must not become 7.0."""
    table = frame().assign(study_id=[1, 2, 3], patient_id=[7.0, 8.0, 9.0], age=[63, np.nan, 7.5])
    table.to_parquet(tmp_path / "manifest.parquet")
    read = read_manifest(tmp_path / "manifest.parquet")
    assert read["study_id"].tolist() == ["1", "2", "3"]
    assert read["patient_id"].tolist() == ["7", "8", "9"]
    assert read["age"].tolist() == ["63", "", "7.5"]


def test_masks_may_be_absent_and_missing(tmp_path: Path) -> None:
    """Nothing that trains reads a mask, so a path that leads nowhere costs nothing; one that leads out of the folder is refused."""
    frame().assign(mask_lungs=["masks/a.png", "", "masks/absent.png"]).to_csv(tmp_path / "manifest.csv", index=False)
    assert read_manifest(tmp_path / "manifest.csv")["mask_lungs"].tolist() == ["masks/a.png", "", "masks/absent.png"]


# what is refused, through the command line


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory: pytest.TempPathFactory) -> Hybrid:
    return make_hybrid(tmp_path_factory.mktemp("hybrid") / "data")


@pytest.fixture(scope="module")
def fitted(hybrid: Hybrid, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fitted") / "run"
    assert hybrid.run("fit", folder) == 0
    return folder


Change = Callable[[pd.DataFrame], pd.DataFrame]


def cell(row: int, **values: str) -> Change:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        for name, value in values.items():
            table.loc[row, name] = value
        return table

    return change


def column(**values: Any) -> Change:
    return lambda table: table.assign(**values)


def like(row: int, other: int, *names: str) -> Change:
    """Give a row what another one holds."""

    def change(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[row, list(names)] = table.loc[other, list(names)].to_numpy()
        return table

    return change


def clash(table: pd.DataFrame) -> pd.DataFrame:
    """The same number for two patients of two hospitals."""
    table.loc[4, ["patient_id", "dataset"]] = [table.loc[0, "patient_id"], "another"]
    return table


CONTENTS: dict[str, tuple[Change, str]] = {
    "no image": (cell(3, image=""), "row 4: the column 'image' is empty"),
    "no study": (cell(3, study_id=""), "row 4: the column 'study_id' is empty"),
    "no patient": (cell(3, patient_id="   "), "row 4: the column 'patient_id' is empty"),
    "no data set": (cell(3, dataset=""), "row 4: the column 'dataset' is empty"),
    "no split": (cell(3, split=""), "row 4: the column 'split' is empty"),
    "an unknown split": (cell(3, split="secret"), "row 4: expected a split of train, val, test"),
    "a split in capitals": (column(split="Train"), r"row 1: expected a split of train, val, test.*\(48 such rows\)"),
    "a split too few": (lambda t: t[t["split"] != "val"], "expected images in the split 'val', found none"),
    "no split to train on": (lambda t: t[t["split"] != "train"], "expected images in the split 'train', found none"),
    "a patient with a space behind": (cell(3, patient_id="p4 "), "row 4: spaces around what the column 'patient_id' holds"),
    "a NUL in an id": (cell(3, study_id="se\0cret"), "NUL"),
    "an unknown sex": (column(sex="secret"), r"row 1: expected the sex M, F or nothing.*\(48 such rows\)"),
    "a negative age": (cell(3, age="-3"), "row 4: expected an age of 0 to 130 years or nothing"),
    "an age in words": (cell(3, age="secret"), "row 4: expected an age"),
    "an age that is no number": (cell(3, age="nan"), "row 4: expected an age"),
    "an age in days": (cell(3, age="21900"), "row 4: expected an age"),
    "an image twice": (like(3, 1, "image"), "row 4: the image of an earlier row again"),
    "an image twice, spelt otherwise": (cell(3, image="./images/../images//1.png"), "row 4: the image of an earlier row again"),
    "a patient in two splits": (like(4, 0, "patient_id"), "row 5: its patient is in the splits 'train' and 'val'"),
    "a study in two splits": (like(4, 0, "study_id"), "row 5: its study is in the splits 'train' and 'val'"),
    "patients of two hospitals with one number": (clash, "or give patients of two data sets that only share a number ids of their own"),
    "an absolute path": (cell(3, image="/etc/secret.png"), "row 4: the path in the column 'image' leads out of the manifest's folder"),
    "a path upwards": (cell(3, image="images/../../secret.png"), "row 4: the path in the column 'image' leads out"),
    "a path upwards and back under a like name": (cell(3, image="../data-secret/3.png"), "row 4: the path in the column 'image' leads out"),
    "a mask outside": (column(mask_heart="../secret.png"), r"row 1: the path in the column 'mask_heart' leads out.*\(48 such rows\)"),
    "no column of patients": (lambda t: t.drop(columns="patient_id"), "missing: patient_id; add them"),
    "no rows": (lambda t: t[:0], "expected one row an image, found none"),
}  # fmt: skip


def refused(hybrid: Hybrid, folder: Path, manifest: Path, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A fit on a manifest ends with one line and status 1, and leaves nothing behind."""
    before = manifest.read_bytes() if manifest.is_file() else None
    assert hybrid.run("fit", folder, "--data.manifest", manifest) == 1
    line = one_error(capsys)
    assert re.search(message, line), line
    assert "secret" not in line.replace(str(manifest), "")
    assert not [p for p in folder.rglob("*") if p.is_file()]
    assert before == (manifest.read_bytes() if manifest.is_file() else None)


@pytest.mark.parametrize("case", CONTENTS)
def test_a_manifest_that_says_what_cannot_be_is_refused_by_row(
    hybrid: Hybrid, tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change, message = CONTENTS[case]
    table = pd.read_csv(hybrid.data.manifest, dtype=str, keep_default_na=False)
    table["patient_id"] = "secret" + table["patient_id"]
    change(table.assign(age="", sex="")).to_csv(tmp_path / "manifest.csv", index=False)
    refused(hybrid, tmp_path / "run", tmp_path / "manifest.csv", message, capsys)


SECRET = PLAIN.replace("p1", "secret1")
FILES: dict[str, tuple[str, bytes | None, str]] = {
    "not there": ("manifest.csv", None, "no such manifest; write a CSV with the columns"),
    "zero bytes": ("manifest.csv", b"", "expected a header in the first line, it is empty"),
    "the header alone": ("manifest.csv", HEADER.encode(), "expected one row an image, found none"),
    "UTF-16 cut short": ("manifest.csv", SECRET.encode("utf-16")[:-3], "manifest.csv"),
    "Latin 1": ("manifest.csv", SECRET.encode("latin-1"), r"(line|row).*not UTF-8"),
    "bytes of nothing": ("manifest.csv", bytes(3000), "manifest.csv"),
    "a column twice": ("manifest.csv", SECRET.replace("view", "split").encode(), "two columns of the header have one name"),
    "a field too few": ("manifest.csv", SECRET.replace(",Heart size is normal.", "").encode(), "expected 9 fields as in the header, got 8"),
    "a field too many": ("manifest.csv", SECRET.replace("normal.", "normal, no secret.").encode(), "expected 9 fields as in the header, got 10"),
    "a quote that is never closed": ("manifest.csv", SECRET.replace("Heart", '"Heart').encode(), "not a CSV row|expected 9 fields"),
    "another suffix": ("manifest.txt", SECRET.encode(), "expected a manifest that ends in .csv or .parquet, got '.txt'"),
    "a spreadsheet": ("manifest.xlsx", b"PK\x03\x04secret", "expected a manifest that ends in .csv or .parquet, got '.xlsx'"),
    "a spreadsheet named .csv": ("manifest.csv", b"PK\x03\x04\x14\x00\x06\xff\xfe", "UTF-8"),
    "text named .parquet": ("manifest.parquet", SECRET.encode(), "not a readable Parquet file"),
    "Parquet cut short": ("manifest.parquet", DIALECTS["Parquet"][1][:-200], "not a readable Parquet file"),
    "Parquet named .csv": ("manifest.csv", DIALECTS["Parquet"][1], "UTF-8|NUL|header"),
    "Parquet with a column twice": (
        "manifest.parquet",
        parquet(pa.table([pa.array(["a.png"])] * 6, names=["image", "study_id", "patient_id", "dataset", "split", "split"])),
        "two columns have one name",
    ),
    "Parquet with lists where ids should be": (
        "manifest.parquet",
        parquet(pa.Table.from_pandas(frame().assign(patient_id=[["secret"]] * 3))),
        "expected text or numbers in the column 'patient_id'",
    ),
    "Parquet with bytes that are no text": (
        "manifest.parquet",
        parquet(pa.Table.from_pandas(frame().assign(report=[b"\xff\xfesecret"] * 3))),
        "expected text or numbers in the column 'report'",
    ),
    "Parquet without an id": (
        "manifest.parquet",
        parquet(pa.Table.from_pandas(frame().assign(study_id=["s1", None, "s3"]))),
        "row 2: the column 'study_id' is empty",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_no_manifest_is_refused(
    hybrid: Hybrid, tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name, content, message = FILES[case]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    refused(hybrid, tmp_path / "run", tmp_path / name, message, capsys)


def test_a_folder_is_no_manifest(hybrid: Hybrid, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "manifest.csv").mkdir()
    refused(hybrid, tmp_path / "run", tmp_path / "manifest.csv", "manifest.csv: a folder; write a CSV", capsys)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can take its own permission away")
@pytest.mark.parametrize("name", ["manifest.csv", "manifest.parquet"])
def test_a_manifest_without_permission_says_so(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / name
        path.write_bytes(DIALECTS["Parquet" if name.endswith("parquet") else "as it should be"][1])
        path.chmod(0)
        try:
            os.seteuid(65_534)
            with pytest.raises(InputError, match=r"Permission denied|cannot be read"):
                read_manifest(path)
        finally:
            os.seteuid(0)


def test_neither_labels_nor_reports_is_nothing_to_train_on(
    hybrid: Hybrid, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pd.read_csv(hybrid.data.manifest).drop(columns="report").to_csv(hybrid.data.root / "silent.csv", index=False)
    arguments = ["--data.manifest", hybrid.data.root / "silent.csv", "--data.labels", "null"]
    assert hybrid.run("fit", tmp_path / "run", *arguments) == 1
    assert "neither labels nor reports to train on" in one_error(capsys)


# files that do not belong together


def labels(hybrid: Hybrid, **changes: Any) -> LabelTable:
    return replace(read_table(hybrid.data.root / "labels.parquet"), **changes)


def vocabulary(hybrid: Hybrid, version: str) -> Vocabulary:
    known = labels(hybrid).vocabulary
    return Vocabulary(known.name, version, known.findings)


def written(folder: Path, *tables: LabelTable) -> str:
    """Write label tables, and return them as the command line takes them."""
    paths = [folder / f"{i}.parquet" for i in range(len(tables))]
    for path, table in zip(paths, tables, strict=True):
        write_table(table, path)
    return json.dumps([str(p) for p in paths])


def strangers(table: LabelTable) -> LabelTable:
    return replace(table, report_ids=np.array([f"secret{i}" for i in range(len(table))], object))


def other_channels(hybrid: Hybrid, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    body = json.loads((hybrid.data.root / "channels.json").read_text(encoding="utf-8"))
    change(body)
    (folder / "channels.json").write_text(json.dumps(body), encoding="utf-8")
    return folder / "channels.json"


def renamed_labeler(body: dict[str, Any]) -> None:
    body["channels"] = {"another": body["channels"]["context"]}


def renamed_findings(body: dict[str, Any]) -> None:
    body["channels"]["context"] = {"*": {"Pneumonia": next(iter(body["channels"]["context"]["*"].values()))}}


Arguments = Callable[[Hybrid, Path], list[object]]

JOINS: dict[str, tuple[Arguments, str]] = {
    "labels of other studies": (
        lambda h, p: ["--data.labels", written(p, strangers(labels(h)))],
        r"share no study \(48 ids against 48 studies\); check that both use the same ids",
    ),
    "labels bound to a data set that is not there": (
        lambda h, p: ["--data.labels", f"nih={h.data.root / 'labels.parquet'}"],
        "bound to the data set 'nih', which the manifest lacks; it has: hospital",
    ),
    "the same labels twice": (
        lambda h, p: ["--data.labels", written(p, labels(h), labels(h))],
        "two tables of 'context' label the same 48 images; give one of them",
    ),
    "labels of two versions of a vocabulary": (
        lambda h, p: ["--data.labels", written(p, labels(h), labels(h, vocabulary=vocabulary(h, "0.9"), source="older"))],
        "name version 0.9 of the vocabulary 'chest', others version",
    ),
    "fused labels beside a parent": (
        lambda h, p: ["--data.labels", written(p, labels(h), labels(h, source="fused", parents=("context",)))],
        "the fused labels 'fused' were made of 'context', which is given too",
    ),
    "an unknown finding": (
        lambda h, p: ["--data.findings", '["Nodulle"]'],
        "no label table knows the finding 'Nodulle'; the tables know: ",
    ),
    "channels of another labeler": (
        lambda h, p: ["--data.channels", other_channels(h, p, renamed_labeler)],
        r"no channel of 'context' for 2 of its 2 findings \(Pleural Effusion, Cardiomegaly\); measure one with 'labelers noise'",
    ),
    "channels of other findings": (
        lambda h, p: ["--data.channels", other_channels(h, p, renamed_findings)],
        "no channel of 'context' for 2 of its 2 findings",
    ),
    "labels in a folder": (
        lambda h, p: ["--data.labels", json.dumps([str(h.data.root)])],
        "label table.*write one with 'labelers run'",
    ),
    "channels that are labels": (lambda h, p: ["--data.channels", h.data.root / "labels.parquet"], "labels.parquet"),
}


@pytest.mark.parametrize("case", JOINS)
def test_files_that_do_not_belong_together_stop_a_fit(
    hybrid: Hybrid, tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, message = JOINS[case]
    words = arguments(hybrid, tmp_path)
    capsys.readouterr()
    assert hybrid.run("fit", tmp_path / "run", *words) == 1
    line = one_error(capsys)
    assert re.search(message, line), line
    assert "secret" not in line
    assert not [p for p in (tmp_path / "run").rglob("*") if p.is_file()]


def test_a_study_id_of_two_data_sets_needs_bound_labels(
    hybrid: Hybrid, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.read_csv(hybrid.data.manifest)
    second = table[:6].assign(dataset="north", patient_id=[f"n{i}" for i in range(6)])
    for i in range(6):
        (hybrid.data.root / "images" / f"n{i}.png").write_bytes((hybrid.data.root / "images" / f"{i}.png").read_bytes())
    pd.concat([table, second.assign(image=[f"images/n{i}.png" for i in range(6)])]).to_csv(
        hybrid.data.root / "two.csv", index=False
    )
    arguments = ["--data.manifest", hybrid.data.root / "two.csv"]
    assert hybrid.run("fit", tmp_path / "unbound", *arguments) == 1
    assert "hold a study id that two data sets use; bind the file to one of them with DATASET=PATH" in one_error(capsys)
    bound = f"hospital={hybrid.data.root / 'labels.parquet'}"
    arguments += ["--data.labels", bound]
    assert hybrid.run("fit", tmp_path / "gold", *arguments) == 1
    assert "the gold hold a study id that two data sets use" in one_error(capsys)
    assert hybrid.run("fit", tmp_path / "bound", *arguments, "--data.gold", f"hospital={hybrid.data.gold}") == 0


def rows_of(table: LabelTable, count: int) -> LabelTable:
    return LabelTable.from_states(list(table.report_ids[:count]), table.vocabulary, table.state[:count], table.source)


def test_labels_and_gold_that_meet_in_part_are_counted(
    hybrid: Hybrid, fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = rows_of(labels(hybrid), 40)
    half = replace(half, report_ids=np.array([*half.report_ids[:37], "x1", "x2", "x3"], object))
    gold = pd.read_csv(hybrid.data.gold)[10:]
    pd.concat([gold, gold[:2].assign(report_id=["y1", "y2"])]).to_csv(tmp_path / "gold.csv", index=False)
    arguments = ["--data.labels", written(tmp_path, half), "--data.gold", tmp_path / "gold.csv"]
    capsys.readouterr()
    assert hybrid.run("test", tmp_path / "test", "--ckpt_path", fitted / "best.ckpt", *arguments) == 0
    notes = lines_of(capsys, "note:")
    assert notes == [
        "hybridpt: note: labels of 'context': 37 of 48 studies met, 3 of 40 ids not in the manifest",
        "hybridpt: note: the gold: 38 of 48 studies met, 2 of 40 ids not in the manifest",
    ]


def test_files_that_meet_in_full_are_not_worth_a_word(hybrid: Hybrid, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert hybrid.run("fit", tmp_path / "run") == 0
    assert not lines_of(capsys, "hybridpt:")


GOLD: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], str]] = {
    "of other studies": (lambda g: g.assign(report_id="secret" + g["report_id"]), "the gold and the manifest share no study"),
    "of other findings": (lambda g: g.set_axis(["report_id", "Edema", "Nodule"], axis=1), "the gold judges none of the findings"),
    "of training studies alone": (lambda g: g[:4], "judges none of the 8 images that are tested"),
    "that judges nothing": (lambda g: g.assign(**{"Pleural Effusion": "", "Cardiomegaly": ""}), "judges none of the 8 images"),
}


@pytest.mark.parametrize("case", GOLD)
def test_gold_that_judges_nothing_of_the_test_is_refused(
    hybrid: Hybrid, fitted: Path, tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change, message = GOLD[case]
    change(pd.read_csv(hybrid.data.gold)).to_csv(tmp_path / "gold.csv", index=False)
    arguments = ["--ckpt_path", fitted / "best.ckpt", "--data.gold", tmp_path / "gold.csv"]
    capsys.readouterr()
    assert hybrid.run("test", tmp_path / "test", *arguments) == 1
    line = one_error(capsys)
    assert message in line
    assert "secret" not in line
    assert not (tmp_path / "test" / "results.csv").exists()


def test_gold_never_trains(hybrid: Hybrid, fitted: Path, tmp_path: Path) -> None:
    """Gold of validation and test studies, turned into its opposite, changes no bit of the weights: a fit calibrates on it alone."""
    gold = pd.read_csv(hybrid.data.gold)
    gold[["Pleural Effusion", "Cardiomegaly"]] = 1 - gold[["Pleural Effusion", "Cardiomegaly"]]
    gold.to_csv(tmp_path / "gold.csv", index=False)
    assert hybrid.run("fit", tmp_path / "run", "--data.gold", tmp_path / "gold.csv") == 0
    mine, theirs = (read_checkpoint(f / "last.ckpt")["state_dict"] for f in (tmp_path / "run", fitted))
    assert {n for n in theirs if not torch.equal(mine[n], theirs[n])} <= {n for n in theirs if n.startswith("calibration.")}


def test_findings_without_a_channel_are_named(hybrid: Hybrid, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert hybrid.run("fit", tmp_path / "run", "--data.findings", '["Pleural Effusion", "Edema", "Nodule"]') == 0
    (note,) = lines_of(capsys, "note:")
    assert "no channel of 'context' for 2 of its 3 findings (Edema, Nodule)" in note


@pytest.mark.parametrize("prior", [0.0, 1.0])
def test_a_prior_of_certainty_does_not_start_a_model_at_infinity(hybrid: Hybrid, tmp_path: Path, prior: float) -> None:
    def certain(body: dict[str, Any]) -> None:
        body["prior"]["Cardiomegaly"] = prior

    arguments = ["--data.channels", other_channels(hybrid, tmp_path, certain)]
    assert hybrid.run("fit", tmp_path / "run", *arguments) == 0
    assert np.isfinite(pd.read_csv(tmp_path / "run" / "metrics.csv")["val/criterion"].dropna()).all()


def test_a_data_set_that_contradicts_its_channel_is_warned_of(
    hybrid: Hybrid, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Labels in which what was negative is left unmentioned, as in a hospital that writes what is abnormal alone."""
    table = labels(hybrid)
    silent = LabelTable.from_states(
        list(table.report_ids), table.vocabulary, np.where(table.state == 1, 3, table.state), table.source
    )
    capsys.readouterr()
    assert hybrid.run("fit", tmp_path / "run", "--data.labels", written(tmp_path, silent)) == 0
    (warning,) = lines_of(capsys, "warning:")
    assert "the labels of 'context' in the data set 'hospital' contradict its channel for 2 of 2 findings" in warning
    assert "expected positive" in warning
    assert "observed positive" in warning
    assert "negative 0.0%" in warning
    assert "in 32 studies" in warning
    assert "no prevalence explains that" in warning
