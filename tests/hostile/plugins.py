"""Callbacks that misbehave; the command lines of the tests name them by their path."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision


class _At(Callback):
    """Does something once, when a stage reaches a step of the optimizer: at ``sanity``, ``train`` or ``val``."""

    def __init__(self, stage: str = "train", step: int = 5) -> None:
        self.stage = stage
        self.step = step
        self.done = False

    def act(self, trainer: Trainer, batch: Any) -> None:
        """Do it."""

    def _meet(self, stage: str, trainer: Trainer, batch: Any) -> None:
        stage = "sanity" if trainer.sanity_checking else stage
        if not self.done and stage == self.stage and trainer.global_step >= self.step:
            self.done = True
            self.act(trainer, batch)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Look whether it is time."""
        self._meet("train", trainer, batch)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Look whether it is time."""
        self._meet("val", trainer, batch)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Look whether it is time."""
        self._meet("test", trainer, batch)


class Spoil(_At):
    """Makes something that is not finite: of an image of the batch, of a loss, or of a gradient."""

    def __init__(self, what: str, infinite: bool = False, stage: str = "train", step: int = 5) -> None:
        super().__init__(stage, step)
        self.what = what
        self.value = float("inf" if infinite else "nan")

    def act(self, trainer: Trainer, batch: Any) -> None:
        """Spoil."""
        model: Any = trainer.lightning_module
        if self.what == "image":
            batch["image"][1] = self.value
        elif self.what == "loss":
            objective = model.objectives["supervised"]
            objective.forward = lambda step: {"nll": torch.tensor(self.value)}
        else:
            weight = model.objectives["supervised"].prototypes
            weight.register_hook(lambda gradient: torch.full_like(gradient, self.value))


class Signal(_At):
    """Sends the process a signal, or several, one after another."""

    def __init__(self, number: int, times: int = 1, stage: str = "train", step: int = 5) -> None:
        super().__init__(stage, step)
        self.number = number
        self.times = times

    def act(self, trainer: Trainer, batch: Any) -> None:
        """Send."""
        for _ in range(self.times):
            os.kill(os.getpid(), self.number)


class Wait(_At):
    """Says that it is there by one file, and waits for another."""

    def __init__(self, folder: str, stage: str = "train", step: int = 5) -> None:
        super().__init__(stage, step)
        self.folder = folder

    def act(self, trainer: Trainer, batch: Any) -> None:
        """Wait."""
        Path(self.folder, "there").touch()
        while not Path(self.folder, "go").exists():
            time.sleep(0.01)


class Fail(_At):
    """Fails as a machine does that is too small, or with the reports of the manifest in its message."""

    def __init__(self, kind: str, stage: str = "train", step: int = 5) -> None:
        super().__init__(stage, step)
        self.kind = kind

    def act(self, trainer: Trainer, batch: Any) -> None:
        """Fail."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if self.kind == "GPU":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1.00 GiB")
        if self.kind == "memory":
            raise MemoryError
        if self.kind == "allocator":
            torch.empty(2**60)
        if self.kind == "worker":
            workers = trainer.train_dataloader._iterator._workers  # type: ignore[union-attr]
            os.kill(workers[0].pid, signal.SIGKILL)
            time.sleep(30)  # torch's handler of SIGCHLD ends this; to wait for the process here would take the news from it
        if self.kind == "quoting":
            raise ValueError(" ".join(map(str, data.rows.to_numpy().ravel())))


class HalfPrecision(MixedPrecision):
    """16-bit floats with a loss scale so great that the first gradients overflow, as is normal in the beginning."""

    def __init__(self) -> None:
        super().__init__("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**60))
