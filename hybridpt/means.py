"""Means over an epoch of losses that are means over a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

__all__ = ["EpochMeans"]


class EpochMeans:
    """Collects batches' means; each counts in the epoch's by what it is a mean over (rows, cells, pairs), in whatever batches these come."""

    def __init__(self) -> None:
        self._parts: dict[str, list[Tensor]] = {}

    def add(self, means: Mapping[str, Tensor], counts: Mapping[str, Tensor]) -> None:
        """Add a batch: scalars by name, and over how much each is a mean; every batch must have the same names."""
        for name, mean in means.items():
            count = counts[name].to(mean)
            self._parts.setdefault(name, []).append(torch.stack([mean * count, count]).float().detach())

    def take(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Return the means since the last time, zero where there was nothing to count, and begin anew.

        Args:
            reduce: Sums a tensor over all processes, which must all call this at the same point.
        """
        parts, self._parts = self._parts, {}
        if not parts:
            return {}
        totals = reduce(torch.stack([torch.stack(of).sum(dim=0) for of in parts.values()]))
        return {name: total / count.clamp(min=1) for name, (total, count) in zip(parts, totals, strict=True)}
