"""What labelers make of a finding together."""

from __future__ import annotations

import torch
from torch import Tensor

from hybridpt.functional.weights import sibling_votes

__all__ = ["label_posterior"]


def label_posterior(
    state: Tensor,
    probability: Tensor,
    looked: Tensor,
    prior: Tensor,
    llr: Tensor | None = None,
    siblings: Tensor | None = None,
) -> Tensor:
    """P(present) of each finding from what the labelers say of a study; the prior where nobody looked.

    With channels the states' log-likelihood ratios are added to the prior's log-odds, labelers taken as independent; without them it
    is the mean of the probabilities of the labelers that looked. Siblings, which share their errors, share one vote.

    Args:
        state: Codes of ``labelers.STATES``, (B, S, K) int64.
        probability: P(present) by each labeler, (B, S, K) floating in [0, 1].
        looked: True where the labeler judged the study, (B, S, K) bool.
        prior: P(present) of each finding, (K,) in (0, 1).
        llr: Log-likelihood ratio of each state under the channel of each study's data set, (B, S, K, 4); None for no channels.
        siblings: True where two labelers are siblings, and on the diagonal, (S, S) bool; None for no siblings.

    Returns:
        (B, K) float32 or wider, in [0, 1].
    """
    prior = prior.to(torch.promote_types(probability.dtype, torch.float32))
    votes = sibling_votes(looked, siblings).to(prior.dtype)
    if llr is not None:
        said = llr.to(prior.dtype).gather(-1, state.unsqueeze(-1)).squeeze(-1)
        return torch.sigmoid(torch.logit(prior) + (said * votes).sum(dim=1))
    count = votes.sum(dim=1)  # at least one vote where anybody looked
    mean = (probability.to(prior.dtype) * votes).sum(dim=1) / count.clamp(min=1)
    return torch.where(count > 0, mean, prior)
