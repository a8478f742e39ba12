"""Rows of all processes joined into one batch, with gradients; a single process is left as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["ALONE", "Shard", "gather", "meet"]


@dataclass(frozen=True)
class Shard:
    """Where the rows of this process lie in the joint batch of all processes.

    Attributes:
        counts: Rows of each process; empty for a single process that does not talk to others.
        rank: Number of this process.
        width: Greatest width that any process told ``meet``.
    """

    counts: tuple[int, ...] = ()
    rank: int = 0
    width: int = 0

    @property
    def world(self) -> int:
        """Number of processes."""
        return max(1, len(self.counts))

    @property
    def first(self) -> int:
        """Place of this process's first row in the joint batch."""
        return sum(self.counts[: self.rank])

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over the processes, of its shape; without a gradient."""
        if self.counts:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def logsumexp(self, value: Tensor) -> Tensor:
        """Return log of the sum of exp over the processes, of the tensor's shape, -inf where all are; without a gradient."""
        if not self.counts:
            return value
        top = value.clone()
        dist.all_reduce(top, op=dist.ReduceOp.MAX)
        return self.sum(torch.exp(value - top.nan_to_num(neginf=0.0))).log() + top


ALONE = Shard()
"""One process."""


def meet(rows: int, width: int, device: torch.device) -> Shard:
    """Tell the other processes how many rows this one has; all of them must call it at the same point.

    Args:
        rows: Rows of this process; 0 is allowed.
        width: Width of its widest ragged matrix.
        device: Where the backend of torch.distributed wants its tensors.

    Returns:
        The shard of this process; ``ALONE`` but for the width where torch.distributed is not initialized.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return Shard(width=width)
    told = [torch.zeros(2, dtype=torch.int64, device=device) for _ in range(dist.get_world_size())]
    dist.all_gather(told, torch.tensor([rows, width], device=device))
    counts, widths = zip(*(t.tolist() for t in told), strict=True)
    return Shard(tuple(counts), dist.get_rank(), max(widths))


def gather(value: Tensor, shard: Shard) -> Tensor:
    """Join the rows of all processes in the order of their ranks.

    The gradient of a row is the sum of what all processes ask of it. A loss of which every process differentiates its own share
    therefore gets its whole gradient; see ``hybridpt.functional.contrast`` for the scale that DDP's average wants.

    Args:
        value: Rows of this process, (n, ...); the other sizes agree between processes.
        shard: From ``meet(n, ...)``.

    Returns:
        (N, ...), N the sum of n over the processes; ``value`` itself for a single process.
    """
    if not shard.counts:
        return value
    joined: Tensor = _Gather.apply(value, shard)
    return joined


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, shard: Shard) -> Tensor:
        ctx.shard = shard
        padded = value.new_zeros(max(shard.counts), *value.shape[1:])  # backends want equal sizes
        padded[: len(value)] = value
        parts = [torch.empty_like(padded) for _ in shard.counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, shard.counts, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        shard: Shard = ctx.shard
        total = shard.sum(gradient.contiguous())  # not reduce-scatter, which gloo lacks and which wants equal parts
        return total[shard.first : shard.first + shard.counts[shard.rank]], None
