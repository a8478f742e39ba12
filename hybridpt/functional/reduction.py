"""From losses per sample and finding to a number."""

from __future__ import annotations

from torch import Tensor

__all__ = ["masked_mean"]


def masked_mean(loss: Tensor, known: Tensor) -> Tensor:
    """Mean over the known cells; zero with a zero gradient where none is known.

    Args:
        loss: Any shape, floating.
        known: The same shape, bool.

    Returns:
        A scalar.
    """
    return (loss * known).sum() / known.sum().clamp(min=1)
