"""A large batch through an encoder in parts, so that memory is that of one part and a contrastive loss still sees the whole."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hybridpt.encoders.image import ImageFeatures

__all__ = ["encode_in_chunks"]


def encode_in_chunks(encoder: nn.Module, inputs: tuple[Tensor, ...], size: int | None) -> Any:
    """Encode a batch, keeping no activations but the outputs: the backward pass computes each part's anew (Chen et al. 2016).

    Random numbers (dropout) are the same both times. Batch statistics are those of a part, and running ones move at both passes.

    Args:
        encoder: Of one vector, or of ``ImageFeatures``, a row.
        inputs: Tensors of B rows each.
        size: Rows of a part; None for all at once, with activations kept.

    Returns:
        What the encoder returns for the whole batch.
    """
    rows = len(inputs[0])
    if size is None or rows <= size or not torch.is_grad_enabled():
        return encoder(*inputs)
    parts = [checkpoint(encoder, *(x[i : i + size] for x in inputs), use_reentrant=False) for i in range(0, rows, size)]
    if isinstance(parts[0], ImageFeatures):
        return ImageFeatures(torch.cat([p.pooled for p in parts]), torch.cat([p.tokens for p in parts]), parts[0].grid)
    return torch.cat(parts)
