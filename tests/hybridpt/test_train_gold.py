"""Gold of training studies reaches the loss of a fit."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from hybridpt.cli import main
from tests.conftest import Tiny


def test_gold_of_training_studies_is_trained_on(config: Path, labeled: Tiny, tmp_path: Path) -> None:
    plain, gold = tmp_path / "plain", tmp_path / "gold"
    given = ["fit", "--config", str(config), "--trainer.default_root_dir"]
    assert main([*given, str(plain)]) == 0
    assert main([*given, str(gold), "--data.train_gold", str(labeled.gold)]) == 0
    a, b = (pd.read_csv(run / "metrics.csv") for run in (plain, gold))
    assert list(a) == list(b)
    name = "train/supervised/nll"
    assert not a[name].dropna().equals(b[name].dropna())


def test_gold_of_no_training_study_is_refused(
    config: Path, labeled: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = pd.read_csv(labeled.manifest, dtype=str)
    gold = pd.read_csv(labeled.gold, dtype=str)
    held = manifest["study_id"][manifest["split"] != "train"]
    gold[gold.iloc[:, 0].isin(held)].to_csv(tmp_path / "gold.csv", index=False)
    given = ["fit", "--config", str(config), "--trainer.default_root_dir", str(tmp_path / "run")]
    assert main([*given, "--data.train_gold", str(tmp_path / "gold.csv")]) == 1
    assert "images that are trained on; give gold of their studies, or none" in capsys.readouterr().err
