"""The phantom's files keep their contracts: one seed gives one set, whatever the jobs, interruptions and folders."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hybridpt.data import phantom as module
from hybridpt.data._phantom.cases import FINDINGS, HOSPITALS, SIZES, UNITS, draw_patients
from hybridpt.data.labels import join_labels
from hybridpt.data.manifest import read_manifest
from hybridpt.data.phantom import Phantom
from labelers.errors import InputError, UsageError
from labelers.io import read_table
from labelers.io.locks import lock

STUDIES, SIZE = 200, 48


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("phantom") / "set"
    Phantom(studies=STUDIES, size=SIZE, seed=3).write(root)
    return root


def read(root: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(root / name, keep_default_na=False)


def digests(root: Path) -> dict[str, str]:
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_equal_parameters_give_equal_bytes_whatever_the_jobs(tmp_path: Path) -> None:
    for name, jobs, seed in (("one", 1, 1), ("two", 2, 1), ("other", 1, 2)):
        Phantom(studies=20, size=32, seed=seed, jobs=jobs).write(tmp_path / name)
    one, two, other = (digests(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    assert one["truth.csv"] != other["truth.csv"]
    assert not list(tmp_path.rglob("*.part"))
    assert not list(tmp_path.rglob(".drawn"))


def test_a_study_does_not_depend_on_how_many_there_are() -> None:
    few, many = draw_patients(20, seed=1), draw_patients(200, seed=1)
    assert few == many[:20]


def test_the_manifest_follows_its_contract(phantom: Path) -> None:
    table, reports = read(phantom, "manifest.csv"), read(phantom, "reports.csv")
    assert len(read_manifest(phantom / "manifest.csv")) == len(table)
    required = [
        "image",
        "study_id",
        "patient_id",
        "dataset",
        "split",
        "view",
        "age",
        "sex",
        "day",
        "report",
        "mask_lungs",
        "mask_heart",
    ]
    assert list(table) == required
    assert set(table["view"]) == {"PA", "AP", "LATERAL"}
    assert set(table["sex"]) == {"M", "F"}
    assert table["age"].between(18, 99).all()
    assert (table["day"] >= 0).all()
    assert set(table["dataset"]) == set(HOSPITALS)
    assert table["study_id"].nunique() == STUDIES
    assert 1.2 * STUDIES < len(table) < 1.5 * STUDIES
    written = table[table["report"] != ""].drop_duplicates("study_id")
    assert reports.to_dict("list") == {"report_id": list(written["study_id"]), "text": list(written["report"])}
    assert not [c for c in table for f in FINDINGS if f.lower() in c.lower()]


def test_every_hospital_gives_what_it_says(phantom: Path) -> None:
    table = read(phantom, "manifest.csv").drop_duplicates("study_id").set_index("study_id")["dataset"]
    reports, labels = read(phantom, "reports.csv")["report_id"], read(phantom, "labels.csv")["report_id"]
    for name, hospital in HOSPITALS.items():
        studies = set(table.index[table == name])
        assert studies & set(reports) == (studies if hospital.text else set())
        assert studies & set(labels) == (studies if hospital.labels else set())
    assert {(h.text, h.labels) for h in HOSPITALS.values()} == {(True, True), (True, False), (False, True)}


def test_the_label_file_is_a_label_table_that_meets_the_manifest(phantom: Path) -> None:
    table = read_table(phantom / "labels.csv")
    manifest = read_manifest(phantom / "manifest.csv")
    joined = join_labels([(None, table)], manifest, FINDINGS)
    labelled = manifest["dataset"].isin([name for name, h in HOSPITALS.items() if h.labels]).to_numpy()
    assert (joined.looked.any(axis=(1, 2)) == labelled).all()


def test_the_details_say_what_the_label_file_says(phantom: Path) -> None:
    labels = read(phantom, "labels.csv").set_index("report_id")
    details = read(phantom, "truth_details.csv")
    coded = details[details["coded"] != ""]
    assert set(coded["report_id"]) == set(labels.index)
    assert all(labels.loc[r.report_id, f"{r.finding}:state"] == r.coded for r in coded.itertuples())


def test_every_patient_is_in_one_split_and_one_hospital(phantom: Path) -> None:
    table = read(phantom, "manifest.csv")
    assert (table.groupby("patient_id")[["split", "dataset", "sex"]].nunique() == 1).all(axis=None)
    assert table.groupby("patient_id")["study_id"].nunique().isin([1, 2, 3, 4]).all()
    shares = table.drop_duplicates("patient_id")["split"].value_counts(normalize=True)
    assert shares.to_dict() == pytest.approx({"train": 0.7, "val": 0.1, "test": 0.2}, abs=0.04)


@pytest.mark.parametrize("studies", [1, 4, 12])
def test_small_sets_are_whole(studies: int, tmp_path: Path) -> None:
    Phantom(studies=studies, size=32).write(tmp_path)
    assert len(read(tmp_path, "truth.csv")) == studies
    if studies == 12:
        assert set(read(tmp_path, "manifest.csv")["split"]) == {"train", "val", "test"}


def test_images_and_masks_have_the_size_asked_for(phantom: Path) -> None:
    table = read(phantom, "manifest.csv")
    for path in [*table["image"][:20], *table["mask_lungs"][:20], *table["mask_heart"][:20]]:
        with Image.open(phantom / path) as image:
            assert (image.size, image.mode) == ((SIZE, SIZE), "L")
    lungs = [np.asarray(Image.open(phantom / path)) for path in table["mask_lungs"][:20]]
    assert all(set(np.unique(mask)) == {0, 255} and 0.1 < (mask > 0).mean() < 0.6 for mask in lungs)


def test_a_mask_stands_exactly_where_the_truth_is_one(phantom: Path) -> None:
    masks, truth = read(phantom, "truth_masks.csv"), read(phantom, "truth.csv").set_index("report_id")
    table = read(phantom, "manifest.csv")
    expected = {
        (image, f)
        for image, study in zip(table["image"], table["study_id"], strict=True)
        for f in FINDINGS
        if truth.loc[study, f]
    }
    assert set(zip(masks["image"], masks["finding"], strict=True)) == expected
    assert all(np.asarray(Image.open(phantom / path)).any() for path in masks["mask"])
    assert set(table["mask_lungs"]) | set(table["mask_heart"]) | set(masks["mask"]) == {
        p.relative_to(phantom).as_posix() for p in (phantom / "masks").iterdir()
    }


def test_details_agree_with_the_truth(phantom: Path) -> None:
    details, truth = read(phantom, "truth_details.csv"), read(phantom, "truth.csv").set_index("report_id")
    assert list(zip(details["report_id"], details["finding"], strict=True)) == list(itertools.product(truth.index, FINDINGS))
    assert (details["present"].to_numpy().reshape(-1, len(FINDINGS)) == truth[list(FINDINGS)].to_numpy()).all()
    for row in details[details["present"] == 1].itertuples():
        low, high = SIZES[row.finding][["subtle", "moderate", "obvious"].index(row.severity)]
        assert low - 1e-3 <= float(row.size) <= high + 1e-3
        assert row.unit == UNITS[row.finding]
    assert not ((details["omitted"] == "1") & (details["present"] == 0)).any()
    assert not ((details["overcalled"] == "1") & (details["present"] == 1)).any()


def test_gold_is_part_of_the_training_truth(phantom: Path) -> None:
    gold, truth = read(phantom, "gold.csv"), read(phantom, "truth.csv")
    table = read(phantom, "manifest.csv").drop_duplicates("study_id")
    train = set(table[table["split"] == "train"]["study_id"])
    assert set(gold["report_id"]) <= train
    assert len(gold) == -(-len(train) // 3)
    assert gold.merge(truth).shape == gold.shape


def test_the_same_set_is_reused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Phantom(studies=6, size=32).write(tmp_path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.*")}
    Phantom(studies=6, size=32, jobs=2, preview=True).write(tmp_path)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    with Image.open(tmp_path / "contact_sheet.png") as sheet:
        assert len(sheet.getcolors(1 << 24)) > 100
    assert capsys.readouterr().err.splitlines() == ["phantom: 6/6 studies"] * 2


def test_an_interrupted_set_is_finished_without_drawing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Phantom(studies=40, size=32).write(tmp_path / "whole")
    drawn = 0

    def stop_in_the_second_chunk(*arguments: object) -> object:
        nonlocal drawn
        drawn += 1
        if drawn > 28:
            raise KeyboardInterrupt
        return draw(*arguments)  # type: ignore[arg-type]

    draw = module.draw
    root = tmp_path / "interrupted"
    monkeypatch.setattr(module, "draw", stop_in_the_second_chunk)
    with pytest.raises(KeyboardInterrupt):
        Phantom(studies=40, size=32).write(root)
    monkeypatch.setattr(module, "draw", draw)
    assert not (root / "manifest.csv").exists()
    done = (root / ".drawn").read_text().split()
    assert done == ["0"]
    first = min((root / "images").iterdir())
    stamp = first.stat().st_mtime_ns
    (root / ".drawn").write_text("0\n1")  # as a kill leaves it: the last line is torn and does not count
    Phantom(studies=40, size=32, jobs=2).write(root)
    assert digests(root) == digests(tmp_path / "whole")
    assert [p.stat().st_mtime_ns for p in [first]] == [stamp]


def test_another_set_in_the_folder_is_left_alone(tmp_path: Path) -> None:
    Phantom(studies=6, size=32).write(tmp_path)
    before = digests(tmp_path)
    with pytest.raises(InputError, match="studies 6, size 32, seed 0; choose another folder"):
        Phantom(studies=7, size=32).write(tmp_path)
    assert digests(tmp_path) == before


@pytest.mark.parametrize("content", [None, "[]", "{", json.dumps({"studies": 6})])
def test_a_manifest_of_somebody_else_is_left_alone(content: str | None, tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("image\n", encoding="utf-8")
    if content is not None:
        (tmp_path / "phantom.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="choose another folder"):
        Phantom(studies=6, size=32).write(tmp_path)
    assert (tmp_path / "manifest.csv").read_text(encoding="utf-8") == "image\n"


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    with lock(tmp_path / ".lock", "mine"), pytest.raises(InputError, match="another run is writing there"):
        Phantom(studies=2, size=32).write(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="expected a folder that can be written to"):
        Phantom(studies=2, size=32).write(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("wrong", [{"studies": 0}, {"size": 31}, {"size": 2048}, {"seed": -1}, {"jobs": 0}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Phantom(**wrong)
