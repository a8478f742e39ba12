"""Cross-entropy against the probability that a labeler gives."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridpt.functional.weights import ALIKE, SourceWeights, mean_over_labelers

__all__ = ["soft_loss"]


def soft_loss(logits: Tensor, probability: Tensor, looked: Tensor, sources: SourceWeights = ALIKE) -> Tensor:
    """Binary cross-entropy with probabilities as targets, averaged over the labelers that looked.

    A fused table is one labeler, whose probabilities are posteriors.

    Args:
        logits: Log-odds that the finding is present, (B, K) floating; computed in float32 or wider whatever the input.
        probability: P(present) by each labeler, (B, S, K) floating in [0, 1].
        looked: True where the labeler judged the sample, (B, S, K) bool.
        sources: How the labelers are weighed.

    Returns:
        Loss in nats, (B, K), zero where nobody looked.
    """
    z = logits.unsqueeze(1).to(torch.promote_types(logits.dtype, torch.float32)).expand(probability.shape)
    loss = F.binary_cross_entropy_with_logits(z, probability.to(z.dtype), reduction="none")
    return mean_over_labelers(loss, looked, sources)
