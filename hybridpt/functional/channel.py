"""The likelihood of what a labeler said, through the channel that turned truth into its states."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridpt.functional.pool import Pool, add_up, heard, pooled_evidence
from hybridpt.functional.weights import ALIKE, SourceWeights, sum_over_labelers

__all__ = ["channel_loss", "channel_nll", "channel_penalty", "joint_channel_loss", "joint_channel_nll"]


def channel_loss(logits: Tensor, state: Tensor, llr: Tensor, looked: Tensor, sources: SourceWeights = ALIKE) -> Tensor:
    """Negative log-likelihood of the states up to a constant, summed over the labelers that looked.

    With llr = log C[1, state] - log C[0, state], -log sum_y P(y | x) C[y, state] is softplus(z) - softplus(z + llr) and a constant;
    the constant is chosen so that the best possible logit has no loss: + max(llr, 0). (The forward correction of Patrini et al. 2017,
    arXiv 1609.03683, for one binary finding.) A state that tells nothing, llr = 0, has exactly no loss and no gradient; as llr grows
    the loss becomes binary cross-entropy.

    Args:
        logits: Log-odds z that the finding is present, (B, K) floating; computed in float32 or wider whatever the input.
        state: Codes of ``labelers.STATES``, (B, S, K) int64.
        llr: Log-likelihood ratio of each state under the channel of each sample's data set, (B, S, K, 4) floating.
        looked: True where the labeler judged the sample, (B, S, K) bool.
        sources: How the labelers are weighed.

    Returns:
        Loss in nats, (B, K), not negative; exactly zero where nobody looked.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    ratio = llr.to(dtype).gather(-1, state.unsqueeze(-1)).squeeze(-1)
    return sum_over_labelers(_evidence_loss(logits.to(dtype).unsqueeze(1), ratio), heard(looked, llr), sources)


def joint_channel_loss(logits: Tensor, state: Tensor, llr: Tensor, looked: Tensor, pool: Pool | None = None) -> Tensor:
    """Negative log-likelihood of all that the labelers said of a finding, up to a constant: one channel for what they say together.

    ``channel_loss`` of one labeler whose log-likelihood ratio is ``pooled_evidence``. Of independent witnesses it is the likelihood of
    all their states, where the sum of their single losses is that of each by itself; witnesses that repeat each other do not count twice.

    Args:
        logits: As in ``channel_loss``.
        state: Likewise.
        llr: Likewise.
        looked: Likewise.
        pool: How far the labelers' ratios add up; None for independent witnesses.

    Returns:
        Loss in nats, (B, K), not negative; exactly zero where nobody looked.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return _evidence_loss(logits.to(dtype), pooled_evidence(state, llr.to(dtype), looked, pool))


def _evidence_loss(z: Tensor, ratio: Tensor) -> Tensor:
    # the same by softplus(z) = z + softplus(-z), so that a right answer's small loss is no difference of large numbers
    wrong = torch.where(ratio > 0, -z, z)
    return F.softplus(wrong) - F.softplus(wrong - ratio.abs())


def channel_nll(logits: Tensor, state: Tensor, log_channel: Tensor, looked: Tensor, sources: SourceWeights = ALIKE) -> Tensor:
    """Negative log-likelihood of the states with nothing left out, for channels that are learned as well.

    Args:
        logits: Log-odds that the finding is present, (B, K) floating; computed in float32 or wider whatever the input.
        state: Codes of ``labelers.STATES``, (B, S, K) int64.
        log_channel: log P(state | truth) of each sample's data set, (B, S, K, 2, 4) floating.
        looked: True where the labeler judged the sample, (B, S, K) bool.
        sources: How the labelers are weighed.

    Returns:
        Loss in nats, (B, K), not negative; exactly zero where nobody looked.
    """
    absent, present = _said(logits, state, log_channel)
    return sum_over_labelers(_mixture_nll(logits.to(absent.dtype).unsqueeze(1), absent, present), looked, sources)


def joint_channel_nll(logits: Tensor, state: Tensor, log_channel: Tensor, looked: Tensor, pool: Pool | None = None) -> Tensor:
    """Negative log-likelihood of all that the labelers said of a finding together, for channels that are learned as well.

    Args:
        logits: As in ``channel_nll``.
        state: Likewise.
        log_channel: Likewise.
        looked: Likewise.
        pool: How far the labelers' log-likelihoods add up, without its limits, which would stop the learning; None for independent
            witnesses.

    Returns:
        Loss in nats, (B, K), not negative; exactly zero where nobody who has a channel looked.
    """
    looked = heard(looked, log_channel[..., 1, :] - log_channel[..., 0, :])
    absent, present = (add_up(said, looked, pool) for said in _said(logits, state, log_channel))
    return torch.where(looked.any(dim=1), _mixture_nll(logits.to(absent.dtype), absent, present), 0)


def _said(logits: Tensor, state: Tensor, log_channel: Tensor) -> tuple[Tensor, Tensor]:
    """Log P(state | absent) and log P(state | present), (B, S, K) each."""
    wide = log_channel.to(torch.promote_types(logits.dtype, torch.float32))
    absent, present = wide.gather(-1, state[..., None, None].expand(*state.shape, 2, 1)).squeeze(-1).unbind(-1)
    return absent, present


def _mixture_nll(z: Tensor, absent: Tensor, present: Tensor) -> Tensor:
    return -torch.logaddexp(F.logsigmoid(-z) + absent, F.logsigmoid(z) + present)


def channel_penalty(log_channel: Tensor, evidence: Tensor) -> Tensor:
    """Negative log of the Dirichlet density that gold left for the rows of channels, above that of the best row.

    Args:
        log_channel: log P(state | truth), (..., 2, 4) floating.
        evidence: Gold rows by truth and state with those of the prior, (..., 2, 4); zero where there are none.

    Returns:
        A scalar in nats, zero where the channel is what the evidence says: sum over rows of n * KL(evidence / n, channel).
    """
    total = evidence.sum(dim=-1, keepdim=True)
    best = torch.log(evidence.clamp(min=torch.finfo(evidence.dtype).tiny) / total.clamp(min=1))
    return (evidence * (best - log_channel)).sum()
