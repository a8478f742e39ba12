"""What labelers make of a finding together."""

from __future__ import annotations

import torch
from torch import Tensor

from hybridpt.functional.pool import Pool, pooled_evidence
from hybridpt.functional.weights import sibling_votes

__all__ = ["label_posterior"]


def label_posterior(
    state: Tensor,
    probability: Tensor,
    looked: Tensor,
    prior: Tensor,
    llr: Tensor | None = None,
    siblings: Tensor | None = None,
    pool: Pool | None = None,
) -> Tensor:
    """P(present) of each finding from what the labelers say of a study; the prior where nobody looked.

    With channels the states' log-likelihood ratios are added to the prior's log-odds, as far as the pool says that they add up, without
    one in full; without channels it is the mean of the probabilities of the labelers that looked, siblings sharing one vote.

    Args:
        state: Codes of ``labelers.STATES``, (B, S, K) int64.
        probability: P(present) by each labeler, (B, S, K) floating in [0, 1].
        looked: True where the labeler judged the study, (B, S, K) bool.
        prior: P(present) of each finding, (K,) in (0, 1).
        llr: Log-likelihood ratio of each state under the channel of each study's data set, (B, S, K, 4); None for no channels.
        siblings: True where two labelers are siblings, and on the diagonal, (S, S) bool; None for no siblings. With channels the pool knows.
        pool: How far the labelers' ratios add up; None for independent witnesses.

    Returns:
        (B, K) float32 or wider, in [0, 1].
    """
    prior = prior.to(torch.promote_types(probability.dtype, torch.float32))
    if llr is not None:
        return torch.sigmoid(torch.logit(prior) + pooled_evidence(state, llr.to(prior.dtype), looked, pool))
    votes = sibling_votes(looked, siblings).to(prior.dtype)
    count = votes.sum(dim=1)  # at least one vote where anybody looked
    mean = (probability.to(prior.dtype) * votes).sum(dim=1) / count.clamp(min=1)
    return torch.where(count > 0, mean, prior)
