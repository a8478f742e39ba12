"""Logs, progress and end of a run: wandb kept private, plain lines in a pipe, a stop from which a run goes on as it would have."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import CSVLogger, WandbLogger

from hybridpt.interruption import Interrupted, Signals, interrupt
from labelers.errors import InputError
from labelers.io import atomic_path

__all__ = [
    "MetricsLogger",
    "PlainProgress",
    "StepSeeds",
    "StopOnSignal",
    "Throughput",
    "WandbMode",
    "wandb_logger",
    "wandb_loggers",
    "without_paths",
]

WandbMode = Literal["offline", "online", "disabled"]


def wandb_logger(folder: Path, mode: WandbMode, project: str) -> WandbLogger:
    """Make a wandb logger that keeps to itself: no console capture, git, code or machine information.

    Args:
        folder: Where the run's files go, and the run's name.
        mode: ``offline`` writes files only; ``online`` sends them.
        project: Name of the wandb project.

    Raises:
        InputError: wandb's folder cannot be written; wandb itself would take the system's temporary folder instead.
    """
    import wandb

    own = folder / "wandb"
    try:
        own.mkdir(parents=True, exist_ok=True)
        writable = os.access(own, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise InputError(f"{own}: expected a folder that wandb can write to; make it one, or give --wandb.mode disabled")
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
    logger = WandbLogger(
        name=folder.name, save_dir=folder, project=project, offline=mode == "offline", log_model=False, settings=settings
    )
    logger._wandb_init.pop("anonymous", None)  # Lightning sets it always, and wandb warns of it
    return logger


def wandb_loggers(trainer: Trainer) -> list[WandbLogger]:
    """Return the wandb loggers of a run."""
    return [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]


def without_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration in plain types without what is or may be the path of a file or a folder, which can name a patient.

    That is every string with a slash, names on a model hub too, and every string under which there is something here.
    """
    kept = {name: _without_paths(value) for name, value in config.items()}
    return {name: value for name, value in kept.items() if value is not _PATH}


_PATH = object()


def _without_paths(value: Any) -> Any:
    if isinstance(value, Mapping):
        return without_paths(value)
    if isinstance(value, list):
        items = [_without_paths(item) for item in value]
        return _PATH if _PATH in items else items
    if isinstance(value, str):
        return _PATH if "/" in value or os.sep in value or os.path.exists(value) else value
    return value if value is None or isinstance(value, bool | int | float) else _PATH


class MetricsLogger(CSVLogger):
    """metrics.csv, which a kill in the middle of writing leaves as it was."""

    @rank_zero_only
    def save(self) -> None:
        """Add the rows since the last time."""
        writer = self.experiment
        if not writer.metrics:
            return
        path = Path(writer.metrics_file_path)
        with atomic_path(path) as temporary:
            if path.exists():
                shutil.copyfile(path, temporary)
            writer.metrics_file_path = str(temporary)
            try:
                super().save()
            finally:
                writer.metrics_file_path = str(path)


class StepSeeds(Callback):
    """Seeds every random generator anew at each step, so that a step does not depend on those before it.

    Several processes start from the weights that one would: Lightning seeds them again when they meet, between encoders and heads.
    """

    def __init__(self) -> None:
        self._state = torch.get_rng_state()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Go on where the model was made."""
        torch.set_rng_state(self._state)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed from the run's seed, the epoch, the number of the batch and the process."""
        base = int(os.environ.get("PL_GLOBAL_SEED", "0"))
        place = np.random.SeedSequence([base, trainer.current_epoch, batch_idx, trainer.global_rank])
        seed = int(place.generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)


class StopOnSignal(Callback):
    """On Ctrl-C or SIGTERM lets the step at work end, saves the state, and ends the run.

    A run that goes on from there gives the same weights to the last bit: no batch is seen twice, none is left out, and a validation
    that was cut short is taken again from its start.

    Args:
        checkpoint: Where to save.
        command: The command that goes on from there.
    """

    def __init__(self, checkpoint: Path, command: str) -> None:
        self.checkpoint = checkpoint
        self.command = command
        self._signals = Signals(self._ask)
        self._asked: int | None = None
        self._in_validation = False
        self._first = False

    def _ask(self, signum: int) -> None:
        self._asked = signum

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals over from Lightning, which would end without saving."""
        self._first = trainer.ckpt_path is not None
        if trainer.received_sigterm:
            interrupt(signal.SIGTERM)
        self._signals.__enter__()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stop where no step is half done: the gradients of several batches may add up to one step."""
        if self._first:  # in the middle of an epoch Lightning counts one step too many for the loggers
            trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
            self._first = False
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._stop_if_asked(trainer, batch_idx)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Stop, unless the validation stands between batches whose gradients add up to one step."""
        done = trainer.fit_loop.epoch_loop.batch_progress.current.completed
        if done % trainer.accumulate_grad_batches and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return
        self._in_validation = True
        self._stop_if_asked(trainer, batch_idx)
        self._in_validation = False

    def _stop_if_asked(self, trainer: Trainer, number: int) -> None:
        asked = self._asked is not None
        if trainer.world_size > 1:  # all processes must stop at the same step; to ask at each one would cost time
            if number % (trainer.log_every_n_steps or 1):  # type: ignore[attr-defined]
                return
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        if asked:
            trainer.save_checkpoint(self.checkpoint, weights_only=False)
            if not trainer.is_global_zero:  # a status of failure would make Lightning kill the first process on its way out
                raise SystemExit(0)
            raise Interrupted(
                self._asked or signal.SIGTERM,
                f"the state after {trainer.global_step} steps (epoch {trainer.current_epoch}) is in {self.checkpoint}; "
                f"go on with: {self.command}",
            )

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write the metrics so far, which a run that goes on from here does not compute again.

        A validation that is cut short is put down as one that has just begun: Lightning would leave out the rest of it.
        """
        for logger in trainer.loggers:
            logger.save()
        if self._in_validation:
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
            for count in (progress["total"], progress["current"]):
                count.update(ready=1, started=1, processed=0, completed=0)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signals back."""
        self._signals.__exit__()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._signals.__exit__()


class Throughput(Callback):
    """Logs how fast an epoch went, without making the CPU wait for the GPU at any step.

    ``throughput/images_per_s`` of all processes, ``throughput/data_share``, the part of that time in which a process waited for the next
    batch to be read, and on GPUs ``throughput/peak_gpu_gib``, the most memory that the tensors of one took. Validations are not counted.
    """

    def __init__(self) -> None:
        self._mark = self._waited = self._worked = 0.0
        self._images = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; an epoch that is gone on with does not start again."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._waited, self._worked, self._images = 0.0, 0.0, 0
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)
        self._mark = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """A batch is there: until now it was waited for."""
        now = time.perf_counter()
        self._waited += now - self._mark
        self._mark = now

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """The step is done, as far as the CPU knows."""
        now = time.perf_counter()
        self._worked += now - self._mark
        self._mark = now
        self._images += len(batch["row"])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the validation out."""
        self._mark = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the figures."""
        seconds = self._waited + self._worked
        if not self._images or seconds <= 0:
            return
        pl_module.log("throughput/images_per_s", trainer.world_size * self._images / seconds, sync_dist=True)
        pl_module.log("throughput/data_share", self._waited / seconds, sync_dist=True)
        if pl_module.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(pl_module.device) / 2**30
            pl_module.log("throughput/peak_gpu_gib", peak, sync_dist=True, reduce_fx="max")


class PlainProgress(Callback):
    """One line an epoch, for pipes and log files."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._validated = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._start = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Know that the epoch has figures of its own; Lightning keeps the earlier ones."""
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the epoch's figures, those of all processes once."""
        names = ["train/loss", *(["val/criterion", "val/loss"] if self._validated else [])]
        self._validated = False
        if not trainer.is_global_zero:
            return
        metrics: dict[str, Any] = trainer.callback_metrics
        figures = "  ".join(f"{name} {float(metrics[name]):.4f}" for name in names if name in metrics)
        place = f"epoch {trainer.current_epoch + 1}"
        if trainer.max_epochs != -1:
            place += f"/{trainer.max_epochs}"
        else:  # there is no last one; where steps are not counted either, the time is limited
            place += f"  step {trainer.global_step}" + (f"/{trainer.max_steps}" if trainer.max_steps != -1 else "")
        print(f"{place}  {figures}  {time.monotonic() - self._start:.1f} s", flush=True)
