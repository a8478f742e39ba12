"""A tiny data set with labels, channels and a configuration, and the command line on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch  # noqa: F401  its log handler keeps the standard error of the moment, which must not be one test's
import pytest
import torch
import yaml

from hybridpt.cli import main
from labelers.cli import main as labelers
from tests.conftest import Tiny, make_tiny
from tests.hybridpt.conftest import hybrid_config

torch.set_num_threads(1)


@dataclass(frozen=True)
class Hybrid:
    """Paths of a data set that can be trained on, and of a configuration that does so in a fraction of a second."""

    data: Tiny
    config: Path

    def run(self, command: str, output: Path, *arguments: object) -> int:
        """Run the command line; what is given here wins over the configuration."""
        words = [command, "--config", self.config, "--trainer.default_root_dir", output, "--trainer.max_epochs", 1, *arguments]
        return main([str(w) for w in words])


def make_hybrid(root: Path, studies: int = 48) -> Hybrid:
    """Write images, reports and gold, label the reports, and measure the channel."""
    data = make_tiny(root, studies=studies)
    table = root / "labels.parquet"
    assert labelers(["run", str(data.reports), "--labeler", "context", "-o", str(table)]) == 0
    assert labelers(["noise", str(table), "--gold", str(data.gold), "-o", str(root / "channels.json")]) == 0
    config = root / "tiny.yaml"
    config.write_text(yaml.safe_dump(hybrid_config(data)), encoding="utf-8")
    return Hybrid(data, config)


def lines_of(capsys: pytest.CaptureFixture[str], word: str) -> list[str]:
    """Return the lines on standard error that hold a word; no run may leave a traceback there."""
    text = capsys.readouterr().err
    assert "Traceback" not in text
    assert "internal error" not in text
    return [line for line in text.splitlines() if word in line]


def one_error(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line that says what went wrong."""
    (line,) = lines_of(capsys, "error:")
    return line
