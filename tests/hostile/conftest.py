"""Fixtures of the tests about runs, code and privacy: a tiny data set that can be trained on, and a finished run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hostile.hybrid import Hybrid, make_hybrid
from tests.hostile.processes import run


@pytest.fixture(scope="session")
def hybrid(tmp_path_factory: pytest.TempPathFactory) -> Hybrid:
    return make_hybrid(tmp_path_factory.mktemp("hostile") / "data")


@pytest.fixture(scope="session")
def whole(hybrid: Hybrid, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a fit of two epochs that nobody disturbed, tested afterwards."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert run(["hybridpt", "fit", "--config", hybrid.config, "--trainer.default_root_dir", folder], folder.parent).status == 0
    command = ["hybridpt", "test", "--config", hybrid.config, "--ckpt_path", folder / "best.ckpt"]
    assert run(command, folder.parent).status == 0
    return folder
