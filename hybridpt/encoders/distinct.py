"""Texts that repeat are encoded once."""

from __future__ import annotations

import torch
from torch import Tensor

from hybridpt.encoders.chunks import encode_in_chunks
from hybridpt.encoders.text import TextEncoder

__all__ = ["encode_distinct", "first_of_each"]


def first_of_each(number: Tensor) -> tuple[Tensor, Tensor]:
    """Return the place of the first of each distinct number, (U,), and for each place which of them it equals, (N,); of (N,) int64."""
    distinct, which = torch.unique(number, return_inverse=True)
    places = torch.arange(len(number), device=number.device)
    first = torch.full_like(distinct, len(number)).scatter_reduce_(0, which, places, "amin")
    return first, which


def encode_distinct(encoder: TextEncoder, tokens: Tensor, mask: Tensor, words: Tensor, chunk: int | None = None) -> Tensor:
    """Encode every distinct text of a batch once; what repeats shares its vector, and its dropout.

    Args:
        encoder: The text encoder.
        tokens: Token ids, (N, T) int64.
        mask: True where a token stands, (N, T) bool.
        words: Number of the distinct text, (N,) int64; texts of equal numbers must have equal tokens.
        chunk: Distinct texts that go through the encoder at a time, as in ``encode_in_chunks``; None for all at once.

    Returns:
        (N, width), as ``encoder(tokens, mask)``.
    """
    first, which = first_of_each(words)
    vectors: Tensor = encode_in_chunks(encoder, (tokens[first], mask[first]), chunk)
    return vectors[which]
