"""Every shipped configuration is parsed and its model built by the real command line; the small one runs."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import yaml

from hybridpt.cli import main
from hybridpt.training import HybridCLI
from labelers.cli import main as labelers
from tests.conftest import ROOT

CONFIGS = sorted((ROOT / "configs" / "fit").glob("*.yaml"))
OVERLAYS = sorted((ROOT / "configs" / "trainer").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_configuration_is_accepted(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Parsed by the real command line, its model and data module made; only the training itself is left out."""
    monkeypatch.chdir(tmp_path)
    made: list[HybridCLI] = []
    monkeypatch.setattr(HybridCLI, "_run_subcommand", lambda self, subcommand: made.append(self))
    named = path.relative_to(ROOT).as_posix()  # found from any folder, as it comes with the package
    assert main(["fit", "--config", named, "--wandb.mode", "disabled", "--trainer.accelerator", "cpu"]) == 0
    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert list(made[0].model.objectives) == list(given["model"]["objectives"])


@pytest.mark.parametrize("path", OVERLAYS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_overlay_is_accepted(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its options are parsed and checked; the devices themselves are then taken back to what any machine has."""
    monkeypatch.chdir(tmp_path)
    made: list[HybridCLI] = []
    monkeypatch.setattr(HybridCLI, "_run_subcommand", lambda self, subcommand: made.append(self))
    configs = ["--config", "configs/fit/hybrid.yaml", "--config", path.relative_to(ROOT).as_posix(), "--wandb.mode", "disabled"]
    here = {"accelerator": "cpu", "devices": "1", "num_nodes": "1", "strategy": "auto"}
    assert main(["fit", *configs, *(word for name, value in here.items() for word in (f"--trainer.{name}", value))]) == 0
    given = yaml.safe_load(path.read_text(encoding="utf-8"))["trainer"]
    for name, value in given.items():
        if name not in here:
            assert made[0].config["fit"]["trainer"][name] == value


@pytest.mark.slow
def test_the_phantom_configuration_runs_as_the_readme_shows(tmp_path: Path) -> None:
    """Reports to labels to channel to fit to test, with the shipped configuration, on little data for one epoch."""
    data = tmp_path / "data"
    assert main(["data", "phantom", "--studies", "150", "--size", "64", "--seed", "1", "-o", str(data)]) == 0
    labels, channels = tmp_path / "labels.parquet", tmp_path / "channels.json"
    assert labelers(["run", str(data / "reports.csv"), "--labeler", "context", "-o", str(labels)]) == 0
    tables = [str(labels), str(data / "labels.csv")]
    assert labelers(["noise", *tables, "--gold", str(data / "gold.csv"), "--truth", "images", "-o", str(channels)]) == 0
    config = ["--config", str(ROOT / "configs/fit/hybrid.yaml"), "--wandb.mode", "disabled", "--trainer.accelerator", "cpu"]
    paths = ["--data.manifest", data / "manifest.csv", "--data.labels", f"[{', '.join(tables)}]", "--data.channels", channels]
    common = [*config, *map(str, paths), "--data.gold", str(data / "truth.csv"), "--data.num_workers", "0"]
    run = tmp_path / "run"
    assert main(["fit", *common, "--trainer.default_root_dir", str(run), "--trainer.max_epochs", "1"]) == 0
    assert main(["test", *common, "--ckpt_path", str(run / "best.ckpt")]) == 0
    results = pd.read_csv(run / "results.csv")
    assert set(results["finding"]) >= {"Cardiomegaly", "Pleural Effusion", "Pneumothorax", "Tube", "macro"}
    assert (run / "results.png").exists()
