"""The phantom keeps its promises: one seed gives one set, truth is in the picture, and nothing else gives it away."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from hybridpt.data import _phantom_words as words
from hybridpt.data._phantom_case import FINDINGS, HOSPITALS, draw_case, draw_patients
from hybridpt.data._phantom_image import draw
from hybridpt.data._phantom_report import write_report
from hybridpt.data.manifest import read_manifest
from hybridpt.data.phantom import Phantom
from labelers.errors import InputError, UsageError

STUDIES, SIZE = 200, 48
# A sentence that names a finding, in either hospital's words.
NAMES = {
    "Cardiomegaly": r"cardiomegaly|(heart|cardiac|cardiomediastinal|cardiothoracic|\bctr\b).*(size|enlarge|silhouette|shadow|ratio|limits)",
    "Pleural Effusion": r"effusion|fluid",
    "Pneumothorax": r"pneumothorax",
    "Nodule": r"nodul|coin lesion",
}
DENIAL = r"\b(no|not|without|is absent|clear of|free|negative|normal|excluded)\b"
HEDGE = (
    r"\b(possibl[ey]|borderline|may|might|could|suspicion|suspicious for|suspected|questionable|probable|not excluded)\b"
    r"|cannot (be )?exclude|\?"
)


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("phantom") / "set"
    Phantom(studies=STUDIES, size=SIZE, seed=3).write(root)
    return root


@pytest.fixture(scope="module")
def cases() -> pd.DataFrame:
    """Truth and report state of 4,000 studies, drawn without pictures."""
    rows = []
    for index, (patient, visit) in enumerate(draw_patients(4000, seed=5)):
        case = draw_case(index, patient, visit, seed=5)
        present = {lesion.finding: lesion.severity for lesion in case.lesions}
        _, statements = write_report(case, seed=5)
        rows += [
            (patient.patient_id, patient.dataset, s.finding, s.finding in present, present.get(s.finding, -1), s)
            for s in statements
        ]
    return pd.DataFrame(rows, columns=["patient", "dataset", "finding", "present", "severity", "statement"])


def read(root: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(root / name, keep_default_na=False)


def digests(root: Path) -> dict[str, str]:
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def sentences(text: str) -> list[str]:
    """The sentences of a report without indication and comparison."""
    body = [line for line in text.splitlines() if not re.match(r"(?i)indication|clinical information|comparison", line)]
    return [s for line in body for s in re.split(r"(?<=\.)\s", re.sub(r"(?i)^(findings|impression|conclusion): ", "", line))]


def states(finding: str, text: str) -> set[str]:
    named = [s.lower() for s in sentences(text) if re.search(NAMES[finding], s.lower())]
    return {"uncertain" if re.search(HEDGE, s) else "negative" if re.search(DENIAL, s) else "positive" for s in named}


def test_equal_parameters_give_equal_bytes_whatever_the_jobs(tmp_path: Path) -> None:
    for name, jobs, seed in (("one", 1, 1), ("two", 2, 1), ("other", 1, 2)):
        Phantom(studies=20, size=32, seed=seed, jobs=jobs).write(tmp_path / name)
    one, two, other = (digests(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    assert one["truth.csv"] != other["truth.csv"]
    assert not list(tmp_path.rglob("*.part"))


def test_a_study_does_not_depend_on_how_many_there_are() -> None:
    few, many = draw_patients(20, seed=1), draw_patients(200, seed=1)
    assert [(p.patient_id, p.heart, v) for p, v in few] == [(p.patient_id, p.heart, v) for p, v in many[:20]]


def test_the_manifest_follows_its_contract(phantom: Path) -> None:
    table, reports = read(phantom, "manifest.csv"), read(phantom, "reports.csv")
    assert len(read_manifest(phantom / "manifest.csv")) == len(table)
    required = ["image", "study_id", "patient_id", "dataset", "split", "view", "age", "sex", "report", "mask_lungs", "mask_heart"]
    assert list(table) == required
    assert set(table["view"]) == {"PA", "AP"}
    assert set(table["sex"]) == {"M", "F"}
    assert table["age"].between(18, 99).all()
    assert set(table["dataset"]) == set(HOSPITALS)
    assert reports["report_id"].is_unique
    assert dict(zip(reports["report_id"], reports["text"], strict=True)) == dict(
        zip(table["study_id"], table["report"], strict=True)
    )
    assert len(reports) == STUDIES
    assert STUDIES < len(table) < 1.25 * STUDIES
    assert not [c for c in table for f in FINDINGS if f.lower() in c.lower()]


def test_every_patient_is_in_one_split_and_one_hospital(phantom: Path) -> None:
    table = read(phantom, "manifest.csv")
    assert (table.groupby("patient_id")[["split", "dataset", "sex"]].nunique() == 1).all(axis=None)
    assert table.groupby("patient_id")["study_id"].nunique().isin([1, 2, 3]).all()
    shares = table.drop_duplicates("patient_id")["split"].value_counts(normalize=True)
    assert shares.to_dict() == pytest.approx({"train": 0.7, "val": 0.1, "test": 0.2}, abs=0.01)


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
    assert all(set(np.unique(mask)) == {0, 255} and 0.15 < (mask > 0).mean() < 0.6 for mask in lungs)


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


def test_no_finding_is_too_small_to_be_drawn_at_the_smallest_size() -> None:
    for index, (patient, visit) in enumerate(draw_patients(300, seed=7)):
        case = draw_case(index, patient, visit, seed=7)
        _, masks = draw(case, 0, 32, seed=7)
        assert {"lungs", "heart"} | {lesion.finding for lesion in case.lesions} == set(masks)
        assert all(0 < mask.mean() < 0.6 for mask in masks.values())


def test_the_heart_is_as_wide_as_the_truth_says() -> None:
    """The ratio measured on the masks is the one drawn, but for the turn of the body; .5 or more means cardiomegaly."""
    errors = []
    for index, (patient, visit) in enumerate(draw_patients(60, seed=2)):
        case = draw_case(index, patient, visit, seed=2)
        _, masks = draw(case, 0, 128, seed=2)
        heart, lungs = (np.flatnonzero(masks[name].any(axis=0)) for name in ("heart", "lungs"))
        errors.append(np.ptp(heart) / np.ptp(lungs) - case.heart)
        assert ("Cardiomegaly" in masks) == (case.heart >= 0.5)
    assert abs(np.mean(errors)) < 0.015
    assert np.abs(errors).max() < 0.06


def test_a_finding_shows_on_its_side() -> None:
    """The patient's left is on the right of the picture."""
    middle = 32
    for index, (patient, visit) in enumerate(draw_patients(300, seed=4)):
        case = draw_case(index, patient, visit, seed=4)
        _, masks = draw(case, 0, 64, seed=4)
        for lesion in (one for one in case.lesions if one.side in ("left", "right")):
            columns = np.flatnonzero(masks[lesion.finding].any(axis=0))
            assert (columns.mean() > middle) == (lesion.side == "left")


@pytest.mark.parametrize(("finding", "prevalence"), zip(FINDINGS, (0.25, 0.22, 0.12, 0.15), strict=True))
def test_prevalence_is_as_announced_in_both_hospitals(finding: str, prevalence: float, cases: pd.DataFrame) -> None:
    rows = cases[cases["finding"] == finding]
    for _, part in [("both", rows), *rows.groupby("dataset")]:
        # A patient's heart is drawn once, so the patients count, not the studies.
        spread = np.sqrt(prevalence * (1 - prevalence) / part["patient"].nunique())
        assert abs(part["present"].mean() - prevalence) < 4 * spread


def test_severity_does_not_differ_between_hospitals(cases: pd.DataFrame) -> None:
    shares = cases[cases["present"]].groupby("dataset")["severity"].value_counts(normalize=True).unstack()
    assert (shares.loc["north"] - shares.loc["south"]).abs().max() < 0.08


def test_effusion_is_likelier_with_cardiomegaly(cases: pd.DataFrame) -> None:
    wide = (
        cases.assign(study=np.repeat(np.arange(4000), 4)).pivot(index="study", columns="finding", values="present").astype(float)
    )
    share = wide.groupby("Cardiomegaly")["Pleural Effusion"].mean()
    assert share[1.0] > share[0.0] + 0.15


def test_reports_say_what_their_details_record(phantom: Path) -> None:
    reports = read(phantom, "reports.csv").set_index("report_id")["text"]
    for row in read(phantom, "truth_details.csv").itertuples():
        said = states(row.finding, reports[row.report_id])
        assert said == ({row.stated} - {"unmentioned"}), (row.report_id, row.finding)
        if row.stated == "positive":
            assert row.present or row.overcalled, (row.report_id, row.finding)


def test_details_agree_with_the_truth(phantom: Path) -> None:
    details, truth = read(phantom, "truth_details.csv"), read(phantom, "truth.csv").set_index("report_id")
    assert list(zip(details["report_id"], details["finding"], strict=True)) == list(itertools.product(truth.index, FINDINGS))
    assert (details["present"].to_numpy().reshape(-1, 4) == truth[list(FINDINGS)].to_numpy()).all()
    present = details[details["present"] == 1]
    assert (present["severity"].isin(["subtle", "moderate", "obvious"])).all()
    assert (pd.to_numeric(present["size_thorax_widths"]).between(0.01, 1)).all()
    assert not ((details["omitted"] == 1) & (details["present"] == 0)).any()
    assert not ((details["overcalled"] == 1) & (details["present"] == 1)).any()
    hearts = pd.to_numeric(details[details["finding"] == "Cardiomegaly"]["size_thorax_widths"])
    assert ((hearts >= 0.5) == truth["Cardiomegaly"].to_numpy(bool)).all()


def test_subtle_findings_are_omitted_and_hedged_most(cases: pd.DataFrame) -> None:
    present = cases[cases["present"]]
    omitted = present["statement"].map(lambda s: s.omitted).groupby([present["dataset"], present["severity"]]).mean()
    hedged = present["statement"].map(lambda s: s.hedged).groupby(present["severity"]).mean()
    assert omitted["north", 0] == pytest.approx(0.35, abs=0.07)
    assert omitted["south", 0] == pytest.approx(0.50, abs=0.07)
    assert all(omitted[hospital].is_monotonic_decreasing for hospital in HOSPITALS)
    assert hedged.is_monotonic_decreasing
    overcalled = cases[~cases["present"]]["statement"].map(lambda s: s.overcalled)
    assert 0.01 < overcalled.mean() < 0.04


def test_every_state_has_five_phrasings_or_more() -> None:
    for style, finding, state in itertools.product(HOSPITALS, FINDINGS, ("positive", "uncertain", "negative")):
        phrases = words.STATEMENTS[style][finding][state]
        assert len(set(phrases)) == len(phrases) >= 5


def test_hospitals_write_and_expose_differently(phantom: Path) -> None:
    table = read(phantom, "manifest.csv")
    north, south = (table[table["dataset"] == name]["report"] for name in HOSPITALS)
    assert north.str.contains("IMPRESSION: ").all()
    assert not south.str.contains("IMPRESSION").any()
    assert 0.05 < (~south.str.contains("Findings: ")).mean() < 0.3


def test_the_border_the_view_and_the_hospital_do_not_tell_the_truth() -> None:
    drawn = [draw_case(index, patient, visit, seed=6) for index, (patient, visit) in enumerate(draw_patients(600, seed=6))]
    images = np.stack([draw(case, 0, 32, seed=6)[0] for case in drawn])
    border = np.concatenate([images[:, :2].reshape(600, -1), images[:, :, :2].reshape(600, -1)], axis=1).mean(axis=1)
    portable = [case.views[0] == "AP" for case in drawn]
    north = [case.patient.dataset == "north" for case in drawn]
    for finding in FINDINGS:
        label = [finding in {lesion.finding for lesion in case.lesions} for case in drawn]
        for shortcut in (border, portable, north):
            assert 0.4 < roc_auc_score(label, shortcut) < 0.6


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
    assert (tmp_path / "contact_sheet.png").exists()
    assert capsys.readouterr().err.splitlines() == ["phantom: 6/6 studies"] * 2


def test_an_interrupted_set_is_finished(tmp_path: Path) -> None:
    Phantom(studies=6, size=32).write(tmp_path)
    whole = digests(tmp_path)
    (tmp_path / "manifest.csv").unlink()
    next((tmp_path / "images").iterdir()).unlink()
    Phantom(studies=6, size=32).write(tmp_path)
    assert digests(tmp_path) == whole


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


@pytest.mark.parametrize("wrong", [{"studies": 0}, {"size": 31}, {"size": 2048}, {"seed": -1}, {"jobs": 0}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Phantom(**wrong)
