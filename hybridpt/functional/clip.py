"""Image-text contrast (Radford et al. 2021, arXiv 2103.00020), in which what says the same is never a negative."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["clip_loss"]


def clip_loss(image: Tensor, text: Tensor, study: Tensor, words: Tensor, scale: Tensor) -> Tensor:
    """Symmetric cross-entropy over all pairs; a row's target is shared evenly by the pairs of its study and those of the same words.

    Args:
        image: Unit vectors, (N, D) floating.
        text: Unit vectors, (N, D) floating; row i belongs to image i.
        study: Number of the study of each pair, (N,) int64; equal numbers are positives.
        words: Number of the distinct text of each pair, (N,) int64; equal numbers are positives.
        scale: Inverse temperature, a positive scalar.

    Returns:
        Loss in nats, a scalar; zero with a zero gradient for fewer than two pairs, which have no negatives.
    """
    if len(image) < 2:
        return (image.sum() + text.sum()) * 0.0
    logits = scale * image @ text.T
    same = ((study[:, None] == study) | (words[:, None] == words)).to(torch.promote_types(logits.dtype, torch.float32))
    targets = same / same.sum(dim=1, keepdim=True)
    logits = logits.to(targets.dtype)
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2
