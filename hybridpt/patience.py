"""The end of a fit that no longer gets better."""

from __future__ import annotations

import math
from typing import Any

from lightning import Callback, LightningModule, Trainer

__all__ = ["Patience"]


class Patience(Callback):
    """Ends a fit after so many epochs without a lower ``val/criterion``; epochs without a validation do not count.

    Lightning's EarlyStopping fails where an epoch has no validation, and on resuming keeps the patience of the checkpoint.

    Args:
        epochs: How many; those that went by before a run was gone on with count.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self._best = math.inf
        self._waited = 0
        self._latest: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End at once where the epochs before a checkpoint were too many already."""
        self._stop_if_over(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the figure for the end of the epoch."""
        figure = trainer.callback_metrics.get("val/criterion")
        if figure is not None and not trainer.sanity_checking:
            self._latest = float(figure)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the epoch's last figure with the least."""
        if self._latest is None:
            return
        self._waited = 0 if self._latest < self._best else self._waited + 1
        self._best = min(self._best, self._latest)
        self._latest = None
        self._stop_if_over(trainer)

    def _stop_if_over(self, trainer: Trainer) -> None:
        if self._waited >= self.epochs:
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so where epochs were left."""
        left = trainer.max_epochs == -1 or trainer.current_epoch < (trainer.max_epochs or 0)
        if self._waited >= self.epochs and left and trainer.is_global_zero:
            by = f"by --early_stopping {self.epochs}"
            print(
                f"ended {by} after epoch {trainer.current_epoch}: val/criterion no longer falls below {self._best:.4f}",
                flush=True,
            )

    def state_dict(self) -> dict[str, Any]:
        """Return what a run that goes on must know; how long to wait is not among it."""
        return {"best": self._best, "waited": self._waited, "latest": self._latest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self._best, self._waited, self._latest = state_dict["best"], state_dict["waited"], state_dict["latest"]
