"""Four-state heads over the tokens of a report: one attention and one head a finding, and what their states are worth."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["presence_logit", "state_logits", "state_loss"]


def state_logits(tokens: Tensor, mask: Tensor, query: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Read a report once a finding: attention over its tokens (Mullenbach et al. 2018, arXiv 1802.05695), then a linear head.

    Args:
        tokens: One vector a token, (B, T, D) floating.
        mask: True where a token stands, (B, T) bool; a text of none is read as if all stood.
        query: What each finding looks for, (K, D).
        weight: The heads, (K, 4, D).
        bias: Likewise, (K, 4).

    Returns:
        Logits of the states in the order of ``labelers.STATES``, (B, K, 4).
    """
    score = torch.einsum("btd,kd->bkt", tokens, query)  # under autocast not of the dtype of the tokens
    score = score.masked_fill(~mask.unsqueeze(1), torch.finfo(score.dtype).min)
    read = torch.softmax(score, dim=-1) @ tokens
    return torch.einsum("bkd,ksd->bks", read, weight) + bias


def presence_logit(logits: Tensor, worth: Tensor) -> Tensor:
    """Turn logits of the states into log-odds that the finding is present: P = sum over states of q(state) P(present | state).

    Args:
        logits: Logits of q, (..., K, 4) floating; computed in float32 or wider whatever the input.
        worth: P(present | state), (K, 4) in (0, 1).

    Returns:
        log(P / (1 - P)), (..., K).
    """
    log_q = F.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=-1)
    return torch.logsumexp(log_q + worth.log(), dim=-1) - torch.logsumexp(log_q + torch.log1p(-worth), dim=-1)


def state_loss(logits: Tensor, state: Tensor, looked: Tensor) -> Tensor:
    """Cross-entropy against the states of every labeler that looked, which share each cell equally.

    Args:
        logits: Logits of the states, (B, K, 4) floating.
        state: Codes of ``labelers.STATES``, (B, S, K) int64.
        looked: True where the labeler judged the report, (B, S, K) bool.

    Returns:
        Loss in nats, (B, K), zero where nobody looked.
    """
    log_q = F.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=-1).unsqueeze(1)
    loss = -log_q.expand(*state.shape, 4).gather(-1, state.unsqueeze(-1)).squeeze(-1)
    return (loss * looked).sum(dim=1) / looked.sum(dim=1).clamp(min=1)
