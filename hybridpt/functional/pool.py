"""What several labelers say together: a logarithmic opinion pool of their likelihood ratios."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Pool", "add_up", "heard", "pooled_evidence"]


class Pool(NamedTuple):
    """How the log-likelihood ratios of S labelers add up.

    Attributes:
        exponents: What each counts for by who looked, (2 ** S, S) floating; labeler s is bit s of the row's number.
        strongest: How far the evidence of two or more may go towards absent and present, (K, 2) floating, the first not above and the
            second not below 0.
    """

    exponents: Tensor
    strongest: Tensor


def heard(looked: Tensor, llr: Tensor) -> Tensor:
    """Which labelers looked and have a channel of the finding, (B, S, K) bool; one without tells nothing, and takes no share of the others' word.

    Args:
        looked: True where the labeler judged the sample, (B, S, K) bool.
        llr: Log-likelihood ratio of each state under the channel of each sample's data set, zero for no channel, (B, S, K, 4) floating.
    """
    return looked & (llr != 0).any(dim=-1)


def pooled_evidence(state: Tensor, llr: Tensor, looked: Tensor, pool: Pool | None = None) -> Tensor:
    """Log-likelihood ratio of all that the labelers said of a finding, log P(states | present) - log P(states | absent).

    Args:
        state: Codes of ``labelers.STATES``, (B, S, K) int64.
        llr: Log-likelihood ratio of each state under the channel of each sample's data set, (B, S, K, 4) floating.
        looked: True where the labeler judged the sample, (B, S, K) bool.
        pool: How far they add up; None for independent witnesses, whose ratios add up in full.

    Returns:
        (B, K) float32 or wider; exactly zero where nobody looked or no state tells anything.
    """
    said = llr.to(torch.promote_types(llr.dtype, torch.float32)).gather(-1, state.unsqueeze(-1)).squeeze(-1)
    looked = heard(looked, llr)
    total = add_up(said, looked, pool)
    if pool is None:
        return total
    low, high = pool.strongest.to(said.dtype).unbind(-1)
    return torch.where(looked.sum(dim=1) > 1, total.clamp(low, high), total)


def add_up(said: Tensor, looked: Tensor, pool: Pool | None = None) -> Tensor:
    """Sum what the labelers that looked said, (B, S, K) floating, each times its exponent, to (B, K); without limits."""
    if pool is None or said.shape[1] < 2:
        return (said * looked).sum(dim=1)
    bit = 2 ** torch.arange(said.shape[1], device=said.device)
    who = (looked * bit[:, None]).sum(dim=1)
    return (said * pool.exponents.to(said.dtype)[who].transpose(1, 2)).sum(dim=1)
