"""The likelihood of what a labeler said, through the channel that turned truth into its states."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["channel_loss"]


def channel_loss(logits: Tensor, state: Tensor, log_channel: Tensor, looked: Tensor) -> Tensor:
    """Negative log-likelihood of the states, summed over the labelers that looked.

    -log sum_y P(y | x) C[y, state] = softplus(z) - softplus(z + llr) - log C[0, state] with llr = log C[1, state] - log C[0, state]
    (the forward correction of Patrini et al. 2017, arXiv 1609.03683, for one binary finding). A state that tells nothing (llr = 0)
    has no gradient; as llr grows the gradient becomes that of binary cross-entropy.

    Args:
        logits: Log-odds that the finding is present, (B, K) floating; computed in float32 or wider whatever the input.
        state: Codes of ``labelers.STATES``, (B, S, K) int64.
        log_channel: log P(state | truth) of each sample's data set, (B, S, K, 2, 4) floating, or broadcastable to it.
        looked: True where the labeler judged the sample, (B, S, K) bool.

    Returns:
        Loss in nats, (B, K); exactly zero where nobody looked.
    """
    z = logits.unsqueeze(1).to(torch.promote_types(logits.dtype, torch.float32))
    index = state[..., None, None].expand(*state.shape, 2, 1)
    said = log_channel.to(z.dtype).expand(*state.shape, 2, 4).gather(-1, index).squeeze(-1)  # (B, S, K, 2)
    absent, present = said.unbind(-1)
    loss = F.softplus(z) - F.softplus(z + (present - absent)) - absent
    return (loss * looked).sum(dim=1)
