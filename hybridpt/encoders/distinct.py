"""Texts that repeat are encoded once: in a batch, or, by a frozen encoder, in a run."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hybridpt.encoders.chunks import encode_in_chunks
from hybridpt.encoders.text import TextEncoder

__all__ = ["TextMemory", "encode_distinct", "first_of_each"]

LIMIT = 2**30
"""Bytes of vectors that a memory holds: some 350,000 texts of width 768."""


def first_of_each(number: Tensor) -> tuple[Tensor, Tensor]:
    """Return the place of the first of each distinct number, (U,), and for each place which of them it equals, (N,); of (N,) int64."""
    distinct, which = torch.unique(number, return_inverse=True)
    places = torch.arange(len(number), device=number.device)
    first = torch.full_like(distinct, len(number)).scatter_reduce_(0, which, places, "amin")
    return first, which


class _Weight(NamedTuple):
    """A tensor of an encoder: where it lies and how often it was written to, and a hash of what it holds."""

    mark: tuple[int, int]
    digest: bytes


class TextMemory:
    """The vectors of the texts that a frozen encoder has met, in the computer's memory, so that each is encoded once a run.

    A vector is given out again only while the encoder is frozen and in evaluation mode, all its weights and buffers hold what they held,
    and device and autocast are the same; whatever differs, all is forgotten. Weights that were written to are compared by their hash, so
    that a running mean of the model, which takes their place for a validation, costs nothing where they never move.

    On a CPU each text is encoded by itself and without padding: its vector then does not depend on what it met first, and a run that is
    gone on with is the same to the last bit. A GPU, which wants large batches, rounds by the batch.

    Texts are known by a hash of their token ids. Neither hashes nor vectors are part of a checkpoint.

    Args:
        limit: Bytes of vectors to hold; beyond them what came first goes first.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self._vectors: OrderedDict[bytes, Tensor] = OrderedDict()
        self._bytes = 0
        self._weights: dict[str, _Weight] = {}
        self._conditions: tuple[object, ...] = ()

    def serves(self, encoder: TextEncoder) -> bool:
        """Whether an encoder gives a text the same vector each time, as far as it can know."""
        return encoder.frozen and not any(module.training for module in encoder.modules())

    @torch.no_grad()
    def encode(self, encoder: TextEncoder, tokens: Tensor, mask: Tensor, chunk: int | None = None) -> Tensor:
        """Return (N, width), as ``encoder(tokens, mask)`` of an encoder that it ``serves``, without a gradient.

        Args:
            encoder: Always the same one.
            tokens: Token ids, (N, T) int64, N from 1.
            mask: True where a token stands, (N, T) bool.
            chunk: New texts that go through the encoder of a GPU at a time; None for all at once.
        """
        self._forget_if_changed(encoder, tokens.device)
        texts = _stripped(tokens, mask)
        keys = [hashlib.blake2b(text.tobytes(), digest_size=16).digest() for text in texts]
        met = {key: self._vectors[key] for key in keys if key in self._vectors}
        new = {key: row for row, key in enumerate(keys) if key not in met}
        size = 1 if tokens.device.type == "cpu" else chunk or len(keys)
        for part in (list(new.items())[i : i + size] for i in range(0, len(new), size)):
            rows, end = [row for _, row in part], max(len(texts[row]) for _, row in part)
            vectors = encoder(tokens[rows, :end], mask[rows, :end]).cpu()
            met.update({key: vector.clone() for (key, _), vector in zip(part, vectors, strict=True)})
        self._keep({key: met[key] for key in new})
        return torch.stack([met[key] for key in keys]).to(tokens.device)

    def _keep(self, new: dict[bytes, Tensor]) -> None:
        self._vectors.update(new)
        self._bytes += sum(vector.nbytes for vector in new.values())
        while self._bytes > self.limit:
            self._bytes -= self._vectors.popitem(last=False)[1].nbytes

    def _forget_if_changed(self, encoder: TextEncoder, device: torch.device) -> None:
        kind = device.type
        conditions = (str(device), torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
        named = chain(encoder.named_parameters(), encoder.named_buffers())
        weights = {name: self._known(name, weight) for name, weight in named}
        before = {name: weight.digest for name, weight in self._weights.items()}
        if conditions != self._conditions or {name: weight.digest for name, weight in weights.items()} != before:
            self._vectors.clear()
            self._bytes = 0
        self._weights, self._conditions = weights, conditions

    def _known(self, name: str, weight: Tensor) -> _Weight:
        known, mark = self._weights.get(name), (weight.data_ptr(), weight._version)
        if known is not None and known.mark == mark:
            return known
        held = weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return _Weight(mark, hashlib.blake2b(str((weight.dtype, weight.shape)).encode() + held.tobytes()).digest())


def _stripped(tokens: Tensor, mask: Tensor) -> list[NDArray[np.int64]]:
    """Return the tokens of each text up to the last that stands, -1 where one before it does not."""
    held, stands = tokens.masked_fill(~mask, -1).cpu().numpy(), mask.cpu().numpy()
    ends = [int(row.nonzero()[0][-1]) + 1 if row.any() else 0 for row in stands]
    return [row[:end] for row, end in zip(held, ends, strict=True)]


def encode_distinct(
    encoder: TextEncoder,
    tokens: Tensor,
    mask: Tensor,
    words: Tensor,
    chunk: int | None = None,
    memory: TextMemory | None = None,
) -> Tensor:
    """Encode every distinct text of a batch once; what repeats shares its vector, and its dropout.

    Args:
        encoder: The text encoder.
        tokens: Token ids, (N, T) int64.
        mask: True where a token stands, (N, T) bool.
        words: Number of the distinct text, (N,) int64; texts of equal numbers must have equal tokens.
        chunk: Distinct texts that go through the encoder at a time, as in ``encode_in_chunks``; None for all at once.
        memory: What it made of earlier texts, for an encoder that is frozen; None to encode them again.

    Returns:
        (N, width), as ``encoder(tokens, mask)``.
    """
    first, which = first_of_each(words)
    if memory is not None and memory.serves(encoder):
        return memory.encode(encoder, tokens[first], mask[first], chunk)[which]
    vectors: Tensor = encode_in_chunks(encoder, (tokens[first], mask[first]), chunk)
    return vectors[which]
