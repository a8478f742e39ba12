"""Generalized cross-entropy, a loss between cross-entropy and absolute error that wrong labels pull on less."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridpt.functional.weights import ALIKE, SourceWeights, mean_over_labelers

__all__ = ["gce_loss"]

Q = 0.7
"""The value of the paper; 0 would be cross-entropy, 1 absolute error."""


def gce_loss(
    logits: Tensor, target: Tensor, counted: Tensor, sources: SourceWeights = ALIKE, q: float = Q
) -> tuple[Tensor, Tensor]:
    """(1 - p ** q) / q with p the probability of the label (Zhang and Sabuncu 2018, arXiv 1805.07836), averaged over the labelers.

    A target between 0 and 1 counts as that share of either label.

    Args:
        logits: Log-odds that the finding is present, (B, K) floating; computed in float32 or wider whatever the input.
        target: From ``state_targets``, (B, S, K) in [0, 1].
        counted: Likewise, (B, S, K) bool.
        sources: How the labelers are weighed.
        q: In (0, 1].

    Returns:
        Loss in [0, 1 / q], (B, K), zero where nothing is known; and where it is known, (B, K) bool.
    """
    z = logits.unsqueeze(1).to(torch.promote_types(logits.dtype, torch.float32))
    present, absent = (-torch.expm1(q * F.logsigmoid(side)) / q for side in (z, -z))
    share = target.to(z.dtype)
    loss = share * present + (1 - share) * absent
    return mean_over_labelers(loss, counted, sources), counted.any(dim=1)
