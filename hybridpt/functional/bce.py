"""Plain binary cross-entropy on what a labeler said, the floor beside the channel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from labelers.types import POSITIVE, UNCERTAIN

__all__ = ["bce_loss"]


def bce_loss(logits: Tensor, state: Tensor, looked: Tensor) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy, averaged over the labelers: positive is 1, negative and unmentioned 0, uncertain ignored.

    Args:
        logits: Log-odds that the finding is present, (B, K) floating.
        state: Codes of ``labelers.STATES``, (B, S, K) int64.
        looked: True where the labeler judged the sample, (B, S, K) bool.

    Returns:
        Loss in nats, (B, K), zero where nothing is known; and where it is known, (B, K) bool.
    """
    z = logits.unsqueeze(1).to(torch.promote_types(logits.dtype, torch.float32)).expand(state.shape)
    counted = looked & (state != UNCERTAIN)
    loss = F.binary_cross_entropy_with_logits(z, (state == POSITIVE).to(z.dtype), reduction="none")
    return (loss * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1), counted.any(dim=1)
