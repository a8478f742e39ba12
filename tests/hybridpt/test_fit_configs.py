"""The shipped configurations of the objectives run by the real command line, on little data for one epoch, and are tested."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hybridpt.cli import main
from tests.conftest import ROOT, Tiny

NAMES = ("unimodal", "clip", "siglip", "unicl", "soft_clip", "dlilp", "single_projection")


@pytest.fixture(scope="module")
def partly_written(labeled: Tiny) -> Path:
    """A manifest of which every third image has no report, for prompts to stand in."""
    rows = pd.read_csv(labeled.manifest, dtype=str)
    rows.loc[rows.index % 3 == 0, "report"] = ""
    path = labeled.root / "partly_written.csv"
    rows.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("name", NAMES)
def test_the_configuration_runs(name: str, labeled: Tiny, partly_written: Path, tmp_path: Path) -> None:
    data = {"manifest": partly_written, "labels": f"[{labeled.root / 'labels.parquet'}]", "gold": labeled.gold}
    data |= {"channels": labeled.root / "channels.json", "image_size": 32, "batch_size": 8, "num_workers": 0}
    data["findings"] = "[Pleural Effusion, Cardiomegaly]"
    given = [part for key, value in data.items() for part in (f"--data.{key}", str(value))]
    common = [
        "--config",
        str(ROOT / f"configs/fit/{name}.yaml"),
        "--wandb.mode",
        "disabled",
        "--trainer.accelerator",
        "cpu",
        *given,
    ]
    every_step = ["--trainer.log_every_n_steps", "1"]
    run = tmp_path / "run"
    assert main(["fit", *common, "--trainer.default_root_dir", str(run), "--trainer.max_epochs", "1", *every_step]) == 0
    metrics = pd.read_csv(run / "metrics.csv")
    losses = {column: metrics[column].dropna() for column in metrics if column.startswith("train/")}
    assert losses
    assert all(len(values) and np.isfinite(values).all() for values in losses.values())
    assert ("train/unicl/prompts" in losses) == (name == "unicl")
    assert main(["test", *common, "--ckpt_path", str(run / "best.ckpt")]) == 0
    results = pd.read_csv(run / "results.csv")
    task = "supervised" if name in ("unimodal", "dlilp", "single_projection") else "zero_shot"
    assert task in set(results["task"])
