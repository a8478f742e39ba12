"""How many training rows there are, counted as they come."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hybridpt.functional.gather import gather, meet

__all__ = ["RowCount"]


class RowCount(nn.Module):
    """Counts the distinct rows that any process has shown so far; a checkpoint keeps them."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = torch.zeros(0, dtype=torch.bool)

    def get_extra_state(self) -> Tensor:
        """Return True for each row that was seen, (N,) bool."""
        return self.seen

    def set_extra_state(self, state: Tensor) -> None:
        """Take that back."""
        self.seen = state.clone()

    def forward(self, rows: Tensor) -> Tensor:
        """Add the rows of a batch, (B,) int64, and return the count, a scalar int64; all processes must call it at the same point."""
        rows = gather(rows, meet(len(rows), 0, rows.device))
        self.seen = self.seen.to(rows.device)
        missing = int(rows.max()) + 1 - len(self.seen) if len(rows) else 0
        if missing > 0:
            self.seen = torch.cat([self.seen, self.seen.new_zeros(max(missing, len(self.seen)))])
        self.seen[rows] = True
        return self.seen.sum()
