"""Early-learning regularization: a network is held to what it said of a sample before it learned wrong labels by heart."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridpt.functional.gather import gather, meet

__all__ = ["TemporalTargets", "elr_term"]

MEMORY = 0.7
WEIGHT = 3.0
"""Both of the paper's CIFAR-10 experiments."""
SMALLEST = 1e-4


def elr_term(logits: Tensor, target: Tensor) -> Tensor:
    """WEIGHT * log(1 - <p, t>) of each cell, to be added to cross-entropy (Liu et al. 2020, arXiv 2007.00151).

    p are the model's probabilities of absent and present, t their running mean over the epochs, which has no gradient.

    Args:
        logits: Log-odds that the finding is present, (B, K) floating; computed in float32 or wider whatever the input.
        target: Running mean of P(absent) and P(present), (B, K, 2), not negative, sums at most 1.

    Returns:
        Not positive, (B, K), at least WEIGHT * log(SMALLEST).
    """
    z = logits.to(torch.promote_types(logits.dtype, torch.float32))
    # 1 - <p, t> = P(absent) (1 - t_absent) + P(present) (1 - t_present), without a difference that could be zero
    rest = torch.log((1 - target.to(z.dtype)).clamp(min=SMALLEST))
    return WEIGHT * torch.logaddexp(F.logsigmoid(-z) + rest[..., 0], F.logsigmoid(z) + rest[..., 1])


class TemporalTargets(nn.Module):
    """The running mean of what the model said of each training row; all processes hold the same, and a checkpoint keeps it.

    It is an extra state of the module and no buffer: the number of rows is known only as they come, and DDP would send a buffer of that
    size around at every step.

    Args:
        findings: K.
    """

    def __init__(self, findings: int) -> None:
        super().__init__()
        self.mean = torch.zeros(0, findings, 2)

    def get_extra_state(self) -> Tensor:
        """Return the means by row, (N, K, 2) float32."""
        return self.mean

    def set_extra_state(self, state: Tensor) -> None:
        """Take them back."""
        self.mean = state.clone()

    @torch.no_grad()
    def forward(self, rows: Tensor, logits: Tensor) -> Tensor:
        """Move the means of a batch, t = MEMORY * t + (1 - MEMORY) * p from zero on, and return them.

        All processes must call it at the same point. A row that several of them show counts once, by the mean of what was said of it.

        Args:
            rows: Rows of the samples, (B,) int64.
            logits: Log-odds that the finding is present, (B, K) floating.

        Returns:
            (B, K, 2) float32.
        """
        p = torch.sigmoid(torch.stack([-logits, logits], dim=-1).float())
        shard = meet(len(rows), 0, rows.device)
        seen, place, count = torch.unique(gather(rows, shard), return_inverse=True, return_counts=True)
        said = torch.zeros(len(seen), *p.shape[1:], device=p.device).index_add_(0, place, gather(p, shard)) / count[:, None, None]
        self._hold(int(seen.max()) + 1 if len(seen) else 0, p.device)
        self.mean[seen] = MEMORY * self.mean[seen] + (1 - MEMORY) * said
        return self.mean[rows]

    def _hold(self, rows: int, device: torch.device) -> None:
        """Make room for rows: twice what there was, so that it seldom moves."""
        self.mean = self.mean.to(device)
        missing = rows - len(self.mean)
        if missing > 0:
            more = self.mean.new_zeros(max(missing, len(self.mean)), *self.mean.shape[1:])
            self.mean = torch.cat([self.mean, more])
