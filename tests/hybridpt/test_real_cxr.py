"""experiments/real_cxr: what its one command makes of two real sources, and the command itself."""

from __future__ import annotations

import runpy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hybridpt.data.manifest import read_manifest
from labelers import STATES, LabelTable, read_gold, read_reports, read_table

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPT = ROOT / "experiments" / "real_cxr" / "run.py"
OWN_TEXT = {"manifest.csv", "reports.csv"}
"""The only files of a run that may hold report text."""


@dataclass(frozen=True)
class Prepared:
    """The folder that the script wrote, its manifest as hybridpt reads it, and the two manifests of the sources."""

    output: Path
    manifest: pd.DataFrame
    notes: pd.DataFrame
    nih: pd.DataFrame


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


@pytest.fixture(scope="module")
def prepared(shared: Path, script: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    root, output = shared / "data" / "real-cxr", tmp_path_factory.mktemp("real") / "run"
    script["prepare"](root, output)
    script["label"](output)
    notes, nih = (pd.read_csv(root / s / "manifest.csv", dtype=str, keep_default_na=False) for s in ("covid-notes", "nih-320"))
    return Prepared(output, read_manifest(output / "manifest.csv", root), notes, nih)


def of(prepared: Prepared, dataset: str) -> pd.DataFrame:
    return prepared.manifest[prepared.manifest["dataset"] == dataset]


def nih_table(prepared: Prepared) -> LabelTable:
    return read_table(prepared.output / "labels-nih.parquet")


def file_names(images: pd.Series) -> set[str]:
    return {Path(image).name for image in images}


def leaks(folder: Path, notes: pd.Series) -> list[str]:
    """Return the files below a folder that hold a stretch of any note, looking into Parquet as well as at bytes."""
    stretches = [
        note[i : i + 30] for note in notes if len(note) >= 40 for i in (0, len(note) // 2 - 15) if note[i : i + 30].isascii()
    ]
    assert len(stretches) > 100
    found = []
    for path in (p for p in folder.rglob("*") if p.is_file() and p.name not in OWN_TEXT):
        text = path.read_bytes().decode("latin-1")
        if path.suffix == ".parquet":
            text += pd.read_parquet(path).to_json()
        if any(stretch in text for stretch in stretches):
            found.append(str(path.relative_to(folder)))
    return found


def test_covid_notes_keeps_every_image_under_a_usable_license_and_no_other(prepared: Prepared) -> None:
    usable = prepared.notes[~prepared.notes["license_class"].isin(["unstated", "no-derivatives"])]
    assert 0 < len(usable) < len(prepared.notes)
    assert file_names(of(prepared, "covid-notes")["image"]) == file_names(usable["image"])


def test_every_image_of_nih_is_a_study_of_its_own(prepared: Prepared) -> None:
    nih = of(prepared, "nih-320")
    assert file_names(nih["image"]) == file_names(prepared.nih["image"])
    assert nih["study_id"].is_unique


def test_images_stay_where_they_are(prepared: Prepared) -> None:
    assert all(Path(image).is_file() for image in prepared.manifest["image"])
    assert not [p for p in prepared.output.rglob("*") if p.suffix in (".jpg", ".jpeg", ".png")]


def test_no_group_of_patients_stands_in_two_splits(prepared: Prepared) -> None:
    sources = pd.concat([prepared.notes, prepared.nih])
    group = dict(zip(sources["image"].map(lambda image: Path(image).name), sources["group_id"], strict=True))
    manifest = prepared.manifest.assign(group=[group[Path(image).name] for image in prepared.manifest["image"]])
    assert (manifest.groupby("group")["split"].nunique() == 1).all()
    assert manifest["patient_id"].tolist() == manifest["group"].tolist()


def test_splits_are_about_70_10_20_in_both_sources_and_follow_the_seed(
    prepared: Prepared, script: dict[str, Any], shared: Path
) -> None:
    shares = prepared.manifest.groupby("dataset")["split"].value_counts(normalize=True).unstack()
    np.testing.assert_allclose(shares[["train", "val", "test"]], [[0.7, 0.1, 0.2]] * 2, atol=0.06)
    nih = script["read_nih"](shared / "data" / "real-cxr")
    same, other = (script["draw"](nih, seed, None)["split"].tolist() for seed in (1, 2))
    assert of(prepared, "nih-320")["split"].tolist() == same
    assert same != other


def test_a_study_is_one_patient_on_one_day_and_its_images_share_the_note(prepared: Prepared) -> None:
    names = prepared.notes["image"].map(lambda image: Path(image).name)
    about = prepared.notes.set_index(names)[["patient_id", "offset_days"]]
    notes = of(prepared, "covid-notes").drop(columns="patient_id")
    joined = notes.set_index(notes["image"].map(lambda image: Path(image).name)).join(about)
    studies = joined.groupby("study_id")
    assert (studies[["patient_id", "offset_days", "report"]].nunique() == 1).all(axis=None)
    dated = joined[joined["offset_days"].str.fullmatch(r"-?\d+")]
    assert (dated.groupby(["patient_id", "offset_days"])["study_id"].nunique() == 1).all()
    assert (studies.size() > 1).any()


def test_reports_have_unique_ids_and_a_repeated_note_stays_with_each_study(prepared: Prepared) -> None:
    reports = list(read_reports(prepared.output / "reports.csv"))
    with_note = prepared.manifest[prepared.manifest["report"] != ""]
    assert {r.report_id: r.text for r in reports} == dict(zip(with_note["study_id"], with_note["report"], strict=True))
    assert len({r.text for r in reports}) < len(reports)


def test_what_nih_does_not_list_is_unmentioned_and_never_negative(prepared: Prepared) -> None:
    table = nih_table(prepared)
    assert table.source == "nih"
    assert set(np.unique(table.state)) == {STATES.index("positive"), STATES.index("unmentioned")}


def test_nih_counts_agree_with_its_manifest(prepared: Prepared, script: dict[str, Any]) -> None:
    table, listed = nih_table(prepared), prepared.nih["labels"].str.split("|").explode().value_counts()
    positive = (table.state == STATES.index("positive")).sum(axis=0)
    counted = dict(zip(table.vocabulary.names, positive.tolist(), strict=True))
    assert counted == {ours: listed.get(theirs, 0) for theirs, ours in script["NIH_FINDINGS"].items()}
    assert len(table) == len(prepared.nih)


def test_gold_judges_the_listed_findings_and_all_findings_of_normal_test_images(prepared: Prepared) -> None:
    gold, table = read_gold(prepared.output / "gold.csv"), nih_table(prepared)
    nih = of(prepared, "nih-320")
    assert list(gold.report_ids) == nih["study_id"][nih["split"] == "test"].tolist()
    assert gold.findings == table.vocabulary.names
    row = {study: i for i, study in enumerate(table.report_ids)}
    listed = table.state[[row[i] for i in gold.report_ids]] == STATES.index("positive")
    column = gold.findings.index("No Finding")
    normal = listed[:, column]
    others = np.delete(gold.truth, column, axis=1)
    np.testing.assert_array_equal(gold.truth[:, column], normal)
    assert (others[normal] == 0).all()
    np.testing.assert_array_equal(others[~normal], np.where(np.delete(listed, column, axis=1)[~normal], 1, np.nan))


def test_no_file_but_manifest_and_reports_holds_text_of_a_note(prepared: Prepared) -> None:
    assert leaks(prepared.output, prepared.notes["report_text"]) == []


@pytest.mark.slow
def test_the_whole_command_gives_a_table_and_refuses_to_run_over_it(shared: Path, prepared: Prepared, tmp_path: Path) -> None:
    output = tmp_path / "run"
    words = ["--root", str(shared / "data" / "real-cxr"), "--output", str(output), "--epochs", "1", "--limit", "60"]
    first = subprocess.run([sys.executable, str(SCRIPT), *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr[-2000:]
    for command in ("labelers run", "hybridpt fit", "hybridpt test"):
        assert f"$ {command} " in first.stdout
    results = pd.read_csv(output / "results.csv")
    scored = results[(results["metric"] == "auprc") & results["value"].notna()]
    assert set(scored["task"]) == {"supervised", "zero_shot"}
    assert "nih-320" in set(scored["dataset"])
    assert (output / "results.png").is_file()
    assert leaks(output, prepared.notes["report_text"]) == []

    again = subprocess.run([sys.executable, str(SCRIPT), *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert again.stderr.startswith("real_cxr: error: ")
    assert len(again.stderr.splitlines()) == 1


def test_a_wrong_root_is_one_clear_line(script: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"real_cxr: error: .*no such file; give the folder .* with --root"):
        script["prepare"](tmp_path, tmp_path / "run")
