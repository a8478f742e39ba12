"""The likelihood of what a labeler said, through the channel that turned truth into its states."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["channel_loss"]


def channel_loss(logits: Tensor, state: Tensor, llr: Tensor, looked: Tensor) -> Tensor:
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

    Returns:
        Loss in nats, (B, K), not negative; exactly zero where nobody looked.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    z = logits.to(dtype).unsqueeze(1)
    ratio = llr.to(dtype).gather(-1, state.unsqueeze(-1)).squeeze(-1)
    loss = F.softplus(z) - F.softplus(z + ratio) + ratio.clamp(min=0)
    return (loss * (looked & (ratio != 0))).sum(
        dim=1
    )  # exactly zero where nothing is told; the two terms cancel only to rounding
