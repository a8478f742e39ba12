"""Training with weights that are shared out over processes (FSDP): what computes in float32, what is refused, and what needs them whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lightning import Trainer
from lightning.pytorch.strategies import FSDPStrategy
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecision

from labelers.errors import UsageError

__all__ = ["clip_norm", "prepare", "whole"]


def prepare(trainer: Trainer, ema: float | None) -> None:
    """Before the weights are shared out, let mixed precision mean what it means elsewhere: autocast, and all that is kept in float32.

    Lightning would compute with weights and buffers in half precision, in which batch norm loses its statistics, and heads their channels.

    Raises:
        UsageError: A running mean of the weights is wanted too.
    """
    strategy = trainer.strategy
    if not isinstance(strategy, FSDPStrategy):
        return
    if ema is not None:
        raise UsageError(
            f"--model.ema {ema}: a running mean of the weights is kept whole, which FSDP does not have; leave out one of the two"
        )
    if strategy.mixed_precision is None and str(trainer.precision).endswith("-mixed"):
        strategy.mixed_precision = MixedPrecision()


def clip_norm(trainer: Trainer, largest: float) -> bool:
    """Scale the gradients down to a norm over all shards of at most ``largest``; returns False where nothing is shared out."""
    model = trainer.strategy.model
    if not isinstance(model, FullyShardedDataParallel):
        return False
    model.clip_grad_norm_(largest)
    return True


@contextmanager
def whole(trainer: Trainer) -> Iterator[None]:
    """Have all weights whole within the block, to be read; every process must enter it at the same point."""
    model = trainer.strategy.model
    if isinstance(model, FullyShardedDataParallel):
        with FullyShardedDataParallel.summon_full_params(model, writeback=False):
            yield
    else:
        yield
