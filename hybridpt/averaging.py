"""A running mean of the weights, which is what a run validates, tests and leaves behind."""

from __future__ import annotations

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

__all__ = ["WeightAverage"]

RAW_KEY = "hybridpt_trained_weights"
"""Where a checkpoint keeps the weights that training goes on with, beside the mean under ``state_dict``."""
MEASURED = "calibration."
"""What of a model a validation of the mean has measured: it belongs to the mean, and is not averaged."""
RISE = 10.0
"""In early steps t the decay is at most (1 + t) / (RISE + t), so that the mean forgets where training began."""


class WeightAverage(Callback):
    """Exponential moving average of the weights (Polyak and Juditsky, 1992): mean += (1 - decay) * (weight - mean) after each step.

    Running statistics are averaged with them, whole numbers copied.

    Args:
        decay: In (0, 1).
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self._mean: dict[str, Tensor] = {}
        self._steps = 0
        self._aside: dict[str, Tensor] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with the weights as they are, unless a checkpoint brought a mean."""
        if not self._mean:
            self._mean = {name: value.detach().clone() for name, value in pl_module.state_dict().items()}
        self._mean = {name: value.to(pl_module.device) for name, value in self._mean.items()}

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Move the mean after each step of the optimizer."""
        if trainer.global_step == self._steps:
            return
        self._steps = trainer.global_step
        decay = min(self.decay, (1 + self._steps) / (RISE + self._steps))
        for name, value in pl_module.state_dict().items():
            mean = self._mean[name]
            if mean.shape != value.shape:  # state by training row, which grows as rows are met
                self._mean[name] = value.detach().clone()
            elif mean.is_floating_point():
                mean.lerp_(value.detach(), 1 - decay)
            else:
                mean.copy_(value)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the mean in the place of the weights."""
        if self._mean and trainer.state.fn == "fit":
            self._aside = _copied(pl_module)
            pl_module.load_state_dict(self._mean)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the weights back, beside what the validation found out about the mean."""
        if self._aside:
            measured = {name: value for name, value in _copied(pl_module).items() if name.startswith(MEASURED)}
            self._mean |= measured
            self._aside |= measured
        self._restore(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Put the weights back, that what is saved now can be gone on with."""
        self._restore(pl_module)

    def _restore(self, pl_module: LightningModule) -> None:
        if self._aside:
            pl_module.load_state_dict(self._aside)
            self._aside = {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the mean as the model's weights, and the weights beside it."""
        if self._mean:
            checkpoint[RAW_KEY] = self._aside or _copied(pl_module)
            checkpoint["state_dict"] = {name: value.clone() for name, value in self._mean.items()}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on with the weights, and with the mean."""
        if RAW_KEY in checkpoint:
            self._mean = _copied(pl_module)
            self._steps = int(checkpoint["global_step"])
            pl_module.load_state_dict(checkpoint[RAW_KEY])


def _copied(module: LightningModule) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}
