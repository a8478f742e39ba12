"""A mean over the batch of all processes."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from hybridpt.functional.reduction import masked_mean

__all__ = ["joint_mean"]


def joint_mean(loss: Tensor, known: Tensor) -> Tensor:
    """Mean over the known cells of all processes, though each may know another number of them; a single process's is ``masked_mean``.

    All processes must call it at the same point, with gradients; without them it is the mean of this process alone. The value is
    that of the joint batch on each process. The gradient is this process's share times the number of processes, so that DDP's
    average is the gradient of the joint batch.

    Args:
        loss: Any shape, floating.
        known: The same shape, bool.

    Returns:
        A scalar.
    """
    if not (torch.is_grad_enabled() and dist.is_available() and dist.is_initialized()):
        return masked_mean(loss, known)
    own = (loss * known).sum()
    total = torch.stack([own.detach().double(), known.sum().double()])
    dist.all_reduce(total)
    count = total[1].clamp(min=1)
    share = own * (dist.get_world_size() / count).to(own.dtype)
    return share + ((total[0] / count).to(own.dtype) - share).detach()
