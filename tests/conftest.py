"""Shared fixtures: a tiny data set whose one finding is a bright square, and the way to the real data where it is at hand."""

from __future__ import annotations

import csv
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


@dataclass(frozen=True)
class Tiny:
    """Paths of a tiny data set."""

    root: Path
    manifest: Path
    reports: Path
    gold: Path


def write_csv(path: Path, rows: list[list[object]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def make_tiny(root: Path, studies: int = 48, size: int = 32) -> Tiny:
    """Write images in which a bright lower left corner is an effusion, with reports that say so, and gold."""
    generator = np.random.default_rng(7)
    (root / "images").mkdir(parents=True)
    manifest: list[list[object]] = [["image", "study_id", "patient_id", "dataset", "split", "report"]]
    reports: list[list[object]] = [["report_id", "text"]]
    gold: list[list[object]] = [["report_id", "Pleural Effusion", "Cardiomegaly"]]
    for i in range(studies):
        effusion, heart = int(generator.random() < 0.4), int(generator.random() < 0.3)
        pixels = generator.integers(40, 90, (size, size)).astype(np.uint8)
        if effusion:
            pixels[size // 2 :, : size // 3] = 220
        if heart:
            pixels[: size // 3, size // 2 :] = 180
        Image.fromarray(pixels).save(root / "images" / f"{i}.png")
        text = ("Small left pleural effusion. " if effusion else "No pleural effusion. ") + (
            "The heart is enlarged." if heart else "Heart size is normal."
        )
        split = "val" if i % 6 == 4 else "test" if i % 6 == 5 else "train"
        manifest.append([f"images/{i}.png", f"s{i}", f"p{i}", "hospital", split, text])
        reports.append([f"s{i}", text])
        gold.append([f"s{i}", effusion, heart])
    return Tiny(
        root,
        write_csv(root / "manifest.csv", manifest),
        write_csv(root / "reports.csv", reports),
        write_csv(root / "gold.csv", gold),
    )


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return make_tiny(tmp_path_factory.mktemp("tiny") / "data")


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("the real data folder ../shared is absent")
    return SHARED


@pytest.fixture(scope="session")
def open_i() -> Path:
    if importlib.util.find_spec("torchxrayvision") is None:
        pytest.skip("torchxrayvision, which ships the Open-I reports (extra openi), is not installed")
    spec = importlib.util.find_spec("torchxrayvision")
    assert spec is not None
    assert spec.origin is not None
    return next(Path(spec.origin).parent.rglob("NLMCXR_reports.tgz"))
