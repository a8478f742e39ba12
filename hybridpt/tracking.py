"""Logs and progress of a run: wandb kept private, plain lines in a pipe, seeds that make a resumed run go on as it would have."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Literal

from lightning import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import WandbLogger

__all__ = ["EpochSeeds", "PlainProgress", "WandbMode", "wandb_logger", "wandb_loggers"]

WandbMode = Literal["offline", "online", "disabled"]


def wandb_logger(folder: Path, mode: WandbMode, project: str) -> WandbLogger:
    """Make a wandb logger that keeps to itself: no console capture, git, code or machine information.

    Args:
        folder: Where the run's files go, and the run's name.
        mode: ``offline`` writes files only; ``online`` sends them.
        project: Name of the wandb project.
    """
    import wandb

    settings = wandb.Settings(
        console="off",
        disable_code=True,
        disable_git=True,
        save_code=False,
        x_disable_machine_info=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
        silent=True,
    )
    return WandbLogger(
        name=folder.name, save_dir=folder, project=project, offline=mode == "offline", log_model=False, settings=settings
    )


def wandb_loggers(trainer: Trainer) -> list[WandbLogger]:
    """Return the wandb loggers of a run."""
    return [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]


class EpochSeeds(Callback):
    """Seeds every random generator anew at the start of each epoch, so that an epoch does not depend on those before it."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed from the run's seed, the epoch and the process."""
        base = int(os.environ.get("PL_GLOBAL_SEED", "0"))
        workers = bool(int(os.environ.get("PL_SEED_WORKERS", "0")))
        seed_everything(
            (base + 7919 * trainer.current_epoch + 104_729 * trainer.global_rank) % 2**32, workers=workers, verbose=False
        )
        os.environ["PL_GLOBAL_SEED"] = str(base)


class PlainProgress(Callback):
    """One line an epoch, for pipes and log files."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._start = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the epoch's figures."""
        shown: dict[str, Any] = {
            k: v for k, v in trainer.callback_metrics.items() if k in ("train/loss", "val/loss", "val/criterion")
        }
        figures = "  ".join(f"{k} {float(v):.4f}" for k, v in sorted(shown.items()))
        seconds = time.monotonic() - self._start
        print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {figures}  {seconds:.1f} s", flush=True)
