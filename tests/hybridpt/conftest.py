"""Fixtures of tests that train: one thread, since the networks are tiny and threads only get in each other's way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from hybridpt.cli import main as hybridpt
from labelers.cli import main as labelers
from tests.conftest import Tiny

torch.set_num_threads(1)

Config = Callable[..., Path]


@pytest.fixture(scope="session")
def labeled(tiny: Tiny) -> Tiny:
    """The tiny data set with its label table and channels, made by the command line."""
    table = tiny.root / "labels.parquet"
    assert labelers(["run", str(tiny.reports), "--labeler", "context", "-o", str(table)]) == 0
    assert labelers(["noise", str(table), "--gold", str(tiny.gold), "-o", str(tiny.root / "channels.json")]) == 0
    return tiny


def hybrid_config(data: Tiny) -> dict[str, object]:
    """A hybrid that trains in seconds."""
    package = "hybridpt.encoders"
    return {
        "trainer": {"max_epochs": 2, "accelerator": "cpu", "devices": 1, "log_every_n_steps": 1},
        "wandb": {"mode": "disabled"},
        "model": {
            "image_encoder": {"class_path": f"{package}.TimmEncoder", "init_args": {"name": "test_resnet"}},
            "text_encoder": {"class_path": f"{package}.ByteEncoder", "init_args": {"width": 32, "depth": 1}},
            "objectives": {
                "supervised": {"class_path": "hybridpt.objectives.Supervised", "init_args": {"dim": 16}},
                "clip": {"class_path": "hybridpt.objectives.Clip", "init_args": {"dim": 16, "weight": 0.1}},
            },
            "lr": 0.003,
        },
        "data": {
            "manifest": str(data.manifest),
            "labels": [str(data.root / "labels.parquet")],
            "channels": str(data.root / "channels.json"),
            "gold": str(data.gold),
            "findings": ["Pleural Effusion", "Cardiomegaly"],
            "image_size": 32,
            "batch_size": 8,
            "num_workers": 0,
        },
    }


@pytest.fixture(scope="session")
def config(labeled: Tiny) -> Path:
    """The configuration of that hybrid, on disk."""
    path = labeled.root / "tiny.yaml"
    path.write_text(yaml.safe_dump(hybrid_config(labeled)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def fitted(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished fit of two epochs."""
    folder = tmp_path_factory.mktemp("runs") / "fit"
    assert hybridpt(["fit", "--config", str(config), "--trainer.default_root_dir", str(folder)]) == 0
    return folder
