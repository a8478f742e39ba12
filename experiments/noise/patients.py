"""The phantom's frontal pictures as arrays, and who of its patients is there for what."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

SIZE = 48
"""Side of the pictures in pixels."""
FINDINGS = (
    "Cardiomegaly",
    "Pleural Effusion",
    "Pneumothorax",
    "Consolidation",
    "Atelectasis",
    "Edema",
    "Mass",
    "Emphysema/COPD",
    "Scoliosis",
    "Hiatal Hernia",
    "Implanted Device",
    "Tube",
)
"""Those of the phantom that can be seen at that size; nodules, granulomas, fractures and catheters are a pixel or two."""
HOSPITALS = ("east", "north", "south", "west")
SEVERITIES = ("subtle", "moderate", "obvious")


@dataclass(frozen=True)
class Patients:
    """N studies with one frontal picture each.

    Attributes:
        pixels: (N, SIZE, SIZE) uint8.
        truth: What is in the picture, (N, K) bool.
        severity: 0 subtle, 1 moderate, 2 obvious, -1 absent, (N, K) int8.
        report: What the hospital wrote, "" where it writes none, (N,) of str.
        study_id: (N,) of str.
        hospital: Place in HOSPITALS, (N,) int64.
    """

    pixels: NDArray[np.uint8]
    truth: NDArray[np.bool_]
    severity: NDArray[np.int8]
    report: NDArray[np.object_]
    study_id: NDArray[np.object_]
    hospital: NDArray[np.int64]

    def part(self, rows: NDArray[np.int64]) -> Patients:
        """Return some of the studies."""
        fields = (self.pixels, self.truth, self.severity, self.report, self.study_id, self.hospital)
        return Patients(*(values[rows] for values in fields))


@dataclass(frozen=True)
class World:
    """Five sets of patients that share nobody.

    Attributes:
        others: Whom the reference network was trained on, with their truth; nobody else sees them.
        train: Whom the labelers label.
        val: Whom they label for the choice of the epoch.
        judged: Of whom 200 are drawn as gold.
        test: On whose truth everything is measured.
    """

    others: Patients
    train: Patients
    val: Patients
    judged: Patients
    test: Patients


def draw(folder: Path, studies: int, jobs: int) -> None:
    """Draw the phantom; what stands is kept."""
    options = ("--studies", str(studies), "--size", str(SIZE), "--seed", "1", "--jobs", str(jobs), "-o", str(folder))
    status = subprocess.run([sys.executable, "-m", "hybridpt", "data", "phantom", *options], check=False).returncode
    if status:
        raise SystemExit(status)


def load(folder: Path, train: int) -> World:
    """Read what ``draw`` wrote, with so many training studies."""
    if not (folder / "manifest.csv").exists():
        raise SystemExit(
            f"noise: error: there is no {folder / 'manifest.csv'}; run experiments/noise/run.py with this --output first"
        )
    manifest = pd.read_csv(folder / "manifest.csv", dtype={"study_id": str, "patient_id": str}, keep_default_na=False)
    frontal = manifest[manifest["view"] != "LATERAL"].drop_duplicates("study_id").reset_index(drop=True)
    truth = pd.read_csv(folder / "truth.csv", index_col="report_id").loc[frontal["study_id"], list(FINDINGS)]
    everyone = Patients(
        _pixels(folder, frontal["image"]),
        truth.to_numpy(bool),
        _severity(folder, list(frontal["study_id"])),
        frontal["report"].to_numpy(object),
        frontal["study_id"].to_numpy(object),
        pd.Index(HOSPITALS).get_indexer(frontal["dataset"]),
    )
    odd = pd.factorize(frontal["patient_id"])[0] // 10 % 2 == 1  # whole patients; the splits repeat after every ten
    split = frontal["split"].to_numpy()
    rows = [np.flatnonzero(mask) for mask in _groups(split, odd)]
    others, mine, val, judged, test = rows
    if len(mine) < train:
        raise SystemExit(f"noise: error: {len(mine)} training studies were drawn, {train} are wanted; draw more")
    return World(*(everyone.part(part) for part in (others, mine[:train], val, judged, test)))


def _groups(split: NDArray[np.object_], odd: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], ...]:
    train, val = split == "train", split == "val"
    return train & odd, train & ~odd, val & odd, val & ~odd, split == "test"


def _pixels(folder: Path, images: pd.Series[str]) -> NDArray[np.uint8]:
    cache = folder / "frontal.npy"
    if not cache.exists():
        np.save(cache, np.stack([np.asarray(Image.open(folder / image).convert("L"), np.uint8) for image in images]))
    pixels: NDArray[np.uint8] = np.load(cache)
    return pixels


def _severity(folder: Path, studies: list[str]) -> NDArray[np.int8]:
    details = pd.read_csv(folder / "truth_details.csv", usecols=["report_id", "finding", "severity"], dtype=str)
    details["code"] = details["severity"].map({name: code for code, name in enumerate(SEVERITIES)})
    known = details.dropna(subset=["code"])
    wide = known.pivot_table(index="report_id", columns="finding", values="code", aggfunc="max")
    return wide.reindex(index=studies, columns=list(FINDINGS)).fillna(-1).to_numpy(np.int8)
