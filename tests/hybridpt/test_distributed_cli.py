"""``hybridpt fit`` and ``test`` in two processes on the CPU, by the real command line: what one process with the joint batch would give."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import yaml
from lightning import Callback, LightningModule, Trainer
from torch import nn

from hybridpt.checkpoint import read_checkpoint
from hybridpt.cli import main
from hybridpt.data.together import together
from hybridpt.encoders import ByteEncoder, HuggingFaceEncoder, TransformersImageEncoder
from hybridpt.failures import explained
from labelers.errors import InputError, UsageError
from tests.conftest import ROOT, Tiny
from tests.hybridpt.conftest import hybrid_config

TWO = ("--trainer.devices", "2", "--trainer.strategy", "ddp")
SIZE = 28
WRITTEN = 3
"""Training images with a report: whatever the order, in some step one of the processes has none."""
STOP_AFTER, SPOIL_AFTER = 3, 2

pytestmark = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two processes need two cores")


class Stop(Callback):
    """Sends SIGTERM to the first process alone."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == STOP_AFTER and trainer.is_global_zero:
            os.kill(os.getpid(), signal.SIGTERM)


class Spoil(Callback):
    """Puts a nan into the second image of the second process."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == SPOIL_AFTER and trainer.global_rank == 1:
            batch["image"][1] = torch.nan


def dino(folder: Path) -> Path:
    """A model such as RAD-DINO, with a mask token that no feature depends on, without batch norm, in small."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_ratio": 2}
    Dinov2Model(Dinov2Config(image_size=SIZE, patch_size=14, **sizes)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def config(labeled: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distributed")
    rows = pd.read_csv(labeled.manifest, dtype=str)
    rows["image"] = [str(labeled.manifest.parent / image) for image in rows["image"]]
    rows.loc[rows.index[rows["split"] == "train"][WRITTEN:], "report"] = ""
    rows = rows.drop(index=rows.index[rows["split"] == "val"][0])  # seven: one comes again in the second process
    rows.to_csv(folder / "manifest.csv", index=False)
    body: dict[str, Any] = hybrid_config(labeled)
    encoder = {"class_path": "hybridpt.encoders.TransformersImageEncoder", "init_args": {"name": str(dino(folder / "dino"))}}
    body["model"]["image_encoder"] = encoder
    more = {"manifest": str(folder / "manifest.csv"), "image_root": str(labeled.manifest.parent), "image_size": SIZE}
    body["data"] |= more
    path = folder / "two.yaml"
    path.write_text(yaml.safe_dump(body), encoding="utf-8")
    return path


def run(*words: object) -> subprocess.CompletedProcess[str]:
    """Run ``hybridpt`` as a user does; it starts the second process by itself."""
    script = Path(sys.executable).parent / "hybridpt"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [str(script), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)


def errors(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("hybridpt: ") and not line.startswith("hybridpt: note:")]


@pytest.fixture(scope="module")
def alone(config: Path) -> Path:
    """The folder of a fit by one process, with the joint batch."""
    folder = config.parent / "alone"
    assert main(["fit", "--config", str(config), "--data.batch_size", "16", "--trainer.default_root_dir", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def two(config: Path) -> Path:
    """The folder of a fit by two processes that was stopped on the way, and gone on with."""
    folder = config.parent / "two"
    stop = ("--trainer.callbacks+", "tests.hybridpt.test_distributed_cli.Stop")
    start = ("fit", "--config", config, *TWO, "--wandb.mode", "offline")
    stopped = run(*start, "--trainer.default_root_dir", folder, *stop)
    assert stopped.returncode == 128 + signal.SIGTERM, stopped.stderr
    (line,) = errors(stopped)
    assert line.startswith(f"hybridpt: stopped by SIGTERM; the state after {STOP_AFTER} steps (epoch 1)")
    assert stopped.stdout.count("epoch 1/2") == 1
    resumed = run(*start, "--ckpt_path", folder / "last.ckpt")
    assert resumed.returncode == 0, resumed.stderr
    assert [resumed.stdout.count(said) for said in ("the run writes into", "epoch 2/2", "the best checkpoint is")] == [1, 1, 1]
    return folder


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_joint_batch_also_when_stopped(alone: Path, two: Path) -> None:
    """The one file of metrics holds each loss of the joint batch once, that of validation too, and the weights end the same."""
    parts = [pd.read_csv(path) for path in (two / "metrics_1.csv", two / "metrics.csv")]
    got, expected = pd.concat(parts, ignore_index=True), pd.read_csv(alone / "metrics.csv")
    assert {"val/criterion", "train/clip/contrast", "train/supervised/nll"} <= set(expected)
    assert set(got) == set(expected)
    assert len(got) == len(expected) >= 6
    columns = [name for name in expected if name.split("/")[0] in ("epoch", "step", "train", "val")]
    pd.testing.assert_frame_equal(got[columns], expected[columns], check_dtype=False, atol=2e-3, rtol=2e-3)
    for name in ("best.ckpt", "last.ckpt"):
        ours, theirs = (read_checkpoint(folder / name, resume=True) for folder in (two, alone))
        assert ours["global_step"] == theirs["global_step"]
        torch.testing.assert_close(ours["state_dict"], theirs["state_dict"], atol=5e-3, rtol=5e-3)
    assert len(list((two / "wandb").glob("offline-run-*"))) == 2  # one a run, not one a process
    assert (two / "channels.png").exists()


@pytest.mark.slow
def test_two_processes_test_as_one(config: Path, two: Path) -> None:
    """Seven images shared out evenly are eight: one counts once all the same."""
    rows = pd.read_csv(config.parent / "manifest.csv", dtype=str)
    seven = config.parent / "seven.csv"
    rows.drop(index=rows.index[rows["split"] == "test"][:1]).to_csv(seven, index=False)
    words = ("test", "--config", config, "--data.manifest", seven, "--ckpt_path", two / "best.ckpt", "--wandb.mode", "disabled")
    done = run(*words, *TWO, "--trainer.default_root_dir", config.parent / "tested")
    assert done.returncode == 0, done.stderr
    assert main([*map(str, words), "--trainer.default_root_dir", str(config.parent / "tested_alone")]) == 0
    got, expected = (pd.read_csv(config.parent / name / "results.csv") for name in ("tested", "tested_alone"))
    assert expected.loc[expected["finding"] == "Pleural Effusion", "n"].eq(7).all()
    pd.testing.assert_frame_equal(got, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_a_nan_in_one_process_stops_both_with_one_file(config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    spoil = ("--trainer.callbacks+", "tests.hybridpt.test_distributed_cli.Spoil")
    done = run("fit", "--config", config, *TWO, "--trainer.default_root_dir", folder, *spoil)
    assert done.returncode == 1
    (line,) = errors(done)
    assert "not finite (train, epoch 1, step 2)" in line
    assert "the 16 images of the batch" in line
    assert [path.name for path in folder.glob("*.json")] == ["nonfinite.json"]
    body = json.loads((folder / "nonfinite.json").read_text(encoding="utf-8"))
    assert body["not_finite_in_the_input"] == {"image": [body["images"][8 + 1]["row"]]}


@pytest.mark.slow
def test_a_checkpoint_that_two_processes_cannot_go_on_from_is_told_once(config: Path, tmp_path: Path) -> None:
    """One process was stopped in the middle of an epoch."""
    words = ("fit", "--config", config, "--trainer.default_root_dir", tmp_path)
    assert run(*words, "--trainer.callbacks+", "tests.hybridpt.test_distributed_cli.Stop").returncode == 128 + signal.SIGTERM
    done = run(*words, *TWO, "--ckpt_path", tmp_path / "last.ckpt")
    assert done.returncode == 2, done.stderr
    (line,) = errors(done)
    assert "in the middle of an epoch with 8 images a batch on 1 process(es), not 8 images a batch on 2" in line


def meet(rank: int, meeting: str, folder: str) -> None:
    """What one of two processes does whose second has bad data."""
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    with together():
        pass
    said = "nothing"
    try:
        with together():
            if rank:
                raise InputError("the second has bad data")
    except InputError as error:
        said = str(error)
    (Path(folder) / f"{rank}.txt").write_text(said, encoding="utf-8")


def test_a_mistake_of_one_process_ends_all_and_is_told_by_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform != "darwin":
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    mp.start_processes(meet, args=(str(tmp_path / "meeting"), str(tmp_path)), nprocs=2, start_method="fork")
    assert {path.name: path.read_text(encoding="utf-8") for path in tmp_path.glob("*.txt")} == {
        "0.txt": "the second has bad data"
    }


def bert() -> HuggingFaceEncoder:
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return HuggingFaceEncoder(BertModel(BertConfig(vocab_size=30, **sizes)), None, 8)


@pytest.mark.parametrize("kind", ["bert", "bytes without a text", "dino"])
def test_the_features_depend_on_every_weight_that_is_trained(kind: str, tmp_path: Path) -> None:
    """DDP waits for the gradient of each."""
    encoder: nn.Module
    if kind == "dino":
        encoder = TransformersImageEncoder(str(dino(tmp_path)))
        encoder(torch.rand(2, 1, SIZE, SIZE)).pooled.sum().backward()
    else:
        encoder = bert() if kind == "bert" else ByteEncoder(width=32, depth=1)
        tokens, mask = ByteEncoder(width=32).tokenizer(["", ""])
        encoder(tokens, mask | (kind == "bert")).sum().backward()
    assert [name for name, p in encoder.named_parameters() if p.requires_grad and p.grad is None] == []


def test_failures_of_processes_say_what_to_do() -> None:
    unused = explained(RuntimeError("Expected to have finished reduction in the prior iteration before starting a new one."))
    assert isinstance(unused, UsageError)
    assert "ddp_find_unused_parameters_true" in str(unused)
    gone = explained(RuntimeError("[/x/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:5"))
    assert isinstance(gone, InputError)
    assert "another process" in str(gone)
