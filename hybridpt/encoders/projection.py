"""A projection into an embedding space of unit vectors."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Projection"]


class Projection(nn.Module):
    """Linear map to unit vectors.

    Args:
        width: Features in.
        dim: Features out.
    """

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, dim, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Map (..., width) to (..., dim) of length one."""
        return F.normalize(self.linear(features).float(), dim=-1)
