"""Training with weights shared out over two processes (FSDP), on the CPU: as one process with the joint batch."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pandas as pd
import pytest
import torch
import yaml
from lightning import Trainer
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer

from hybridpt.checkpoint import read_checkpoint
from hybridpt.sharding import prepare
from labelers.errors import UsageError
from tests.conftest import ROOT
from tests.hybridpt.test_distributed_cli import STOP_AFTER, config, errors, pytestmark, run  # noqa: F401

CLIPPED = ("--trainer.gradient_clip_val", "0.1")
"""Below the norm of the gradients, so that it changes what is learned."""


class CpuFSDPStrategy(FSDPStrategy):
    """FSDP by gloo; Lightning's own wants GPUs."""

    def __init__(self, **options: Any) -> None:
        super().__init__(process_group_backend="gloo", **options)

    def _setup_model(self, model: Module) -> Module:
        from torch.distributed.fsdp import FullyShardedDataParallel

        return FullyShardedDataParallel(
            model,
            sharding_strategy=self.sharding_strategy,
            mixed_precision=self.mixed_precision_config,
            device_id=torch.device("cpu"),
            **self.kwargs,
        )

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Tensor]:
        """Gather without ``offload_to_cpu``, which gives views of one buffer where all is on the CPU before."""
        from torch.distributed.fsdp import FullOptimStateDictConfig, FullStateDictConfig, OptimStateKeyType, StateDictType
        from torch.distributed.fsdp import FullyShardedDataParallel as FSDP

        configs = FullStateDictConfig(rank0_only=True), FullOptimStateDictConfig(offload_to_cpu=False, rank0_only=True)
        with FSDP.state_dict_type(self.model, StateDictType.FULL_STATE_DICT, *configs):
            state = FSDP.optim_state_dict(self.model, getattr(optimizer, "optimizer", optimizer))
        return FSDP.rekey_optim_state_dict(state, OptimStateKeyType.PARAM_ID, self.model) if self.global_rank == 0 else state


@pytest.fixture(scope="module")
def overlay(config: Path) -> Path:  # noqa: F811
    """The project's own, but for the processor."""
    body = yaml.safe_load((ROOT / "configs/trainer/fsdp.yaml").read_text(encoding="utf-8"))
    body["trainer"] |= {"accelerator": "cpu", "devices": 2}
    body["trainer"]["strategy"]["class_path"] = f"{__name__}.{CpuFSDPStrategy.__name__}"
    path = config.parent / "fsdp.yaml"
    path.write_text(yaml.safe_dump(body), encoding="utf-8")
    return path


def same(sharded: Path, alone: Path) -> None:
    """What both logged, and the weights, which one file holds whole."""
    parts = [pd.read_csv(path) for path in (sharded / "metrics_1.csv", sharded / "metrics.csv") if path.exists()]
    got, expected = pd.concat(parts, ignore_index=True), pd.read_csv(alone / "metrics.csv")
    assert set(got) == set(expected)
    columns = [name for name in expected if name.split("/")[0] in ("epoch", "step", "train", "val", "weight")]
    pd.testing.assert_frame_equal(got[columns], expected[columns], check_dtype=False, atol=1e-3, rtol=1e-3)
    for name in ("best.ckpt", "last.ckpt"):
        ours, theirs = (read_checkpoint(folder / name, resume=True) for folder in (sharded, alone))
        assert ours["global_step"] == theirs["global_step"]
        torch.testing.assert_close(ours["state_dict"], theirs["state_dict"], atol=1e-3, rtol=1e-3)


def fit_alone(folder: Path, *words: object) -> None:
    done = run("fit", *words, "--data.batch_size", "16", "--trainer.default_root_dir", folder)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_sharded_weights_train_as_whole_ones_clipped_and_when_stopped(config: Path, overlay: Path) -> None:  # noqa: F811
    """Mixed precision is autocast on GPUs, which changes nothing here, and leaves weights and buffers in float32."""
    folder, alone = (config.parent / name for name in ("sharded", "whole"))
    fit_alone(alone, "--config", config, *CLIPPED)
    words = ("fit", "--config", config, "--config", overlay, *CLIPPED)
    stop = ("--trainer.callbacks+", "tests.hybridpt.test_distributed_cli.Stop")
    stopped = run(*words, "--trainer.default_root_dir", folder, *stop)
    assert stopped.returncode == 128 + signal.SIGTERM, stopped.stderr
    (line,) = errors(stopped)
    assert line.startswith(f"hybridpt: stopped by SIGTERM; the state after {STOP_AFTER} steps (epoch 1)")
    resumed = run(*words, "--ckpt_path", folder / "last.ckpt")
    assert resumed.returncode == 0, resumed.stderr
    same(folder, alone)
    tests = [("--config", overlay), ()]
    for number, more in enumerate(tests):
        given = ("test", "--config", config, *more, "--ckpt_path", folder / "best.ckpt", "--wandb.mode", "disabled")
        done = run(*given, "--trainer.default_root_dir", folder / f"tested{number}")
        assert done.returncode == 0, done.stderr
    got, expected = (pd.read_csv(folder / f"tested{number}" / "results.csv") for number in range(len(tests)))
    pd.testing.assert_frame_equal(got, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_what_is_learned_of_the_sources_is_logged(config: Path, overlay: Path, tmp_path: Path) -> None:  # noqa: F811
    learned = {"label_term": "bce", "source_weights": "learned", "dim": 16}
    body = yaml.safe_load(config.read_text(encoding="utf-8"))
    body["model"]["frozen_layers"] = -1  # channels learn beside a shallow head
    body["model"]["objectives"]["supervised"]["init_args"]["channel_trainable"] = True
    body["model"]["objectives"]["weighed"] = {"class_path": "hybridpt.objectives.Supervised", "init_args": learned}
    mine = tmp_path / "learned.yaml"
    mine.write_text(yaml.safe_dump(body), encoding="utf-8")
    fit_alone(tmp_path / "whole", "--config", mine, *CLIPPED)
    done = run("fit", "--config", mine, "--config", overlay, *CLIPPED, "--trainer.default_root_dir", tmp_path / "sharded")
    assert done.returncode == 0, done.stderr
    same(tmp_path / "sharded", tmp_path / "whole")
    assert "weight/weighed/hospital/context" in pd.read_csv(tmp_path / "sharded" / "metrics.csv")
    assert (tmp_path / "sharded" / "channels.png").exists()


def test_a_running_mean_of_shards_is_refused() -> None:
    trainer = SimpleNamespace(strategy=CpuFSDPStrategy(), precision="32-true")
    prepare(cast(Trainer, trainer), None)
    with pytest.raises(UsageError, match=r"--model\.ema 0\.9"):
        prepare(cast(Trainer, trainer), 0.9)
