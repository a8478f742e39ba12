"""Random draws that are the same on every machine and under every release of numpy.

Only the raw bits of PCG64 and its seeding are promised to stay the same (NEP 19); what a Generator makes of them is not. So
everything here is made of raw bits with exact arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Draws"]

T = TypeVar("T")

_BYTES = np.uint64(0x00FF00FF00FF00FF)
_BLOCK = 64  # raw numbers that are fetched at once


class Draws:
    """One stream of draws; equal seeds and keys give equal streams, whatever else was drawn before.

    Args:
        seed: Seed of the set, 0 or more.
        key: What the stream is for: numbers, 0 or more.
    """

    def __init__(self, seed: int, *key: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key))
        self._block: list[int] = []

    def _raw(self) -> int:
        if not self._block:
            self._block = self._bits.random_raw(_BLOCK).tolist()
        return self._block.pop()

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Return a number in [low, high)."""
        return low + (high - low) * ((self._raw() >> 11) * 2.0**-53)

    def normal(self, mean: float, spread: float, low: float = -np.inf, high: float = np.inf) -> float:
        """Return a number that is nearly normal (a sum of eight uniforms, never beyond 4.9 spreads), kept within [low, high]."""
        first, second = self._raw(), self._raw()
        total = sum((bits >> shift) & 0xFFFF for bits in (first, second) for shift in (0, 16, 32, 48))
        # Eight uniforms on 0..65535 have the mean 4 * 65535 and the variance 8 * (65536^2 - 1) / 12.
        return min(max(mean + spread * (total - 262140) / 53509.918, low), high)

    def chance(self, probability: float) -> bool:
        """Return True with a probability in [0, 1]."""
        return self.uniform() < probability

    def below(self, count: int) -> int:
        """Return a whole number from 0 to count - 1."""
        return int(self.uniform() * count)

    def pick(self, options: Sequence[T]) -> T:
        """Return one of several, all with the same chance."""
        return options[self.below(len(options))]

    def weighted(self, shares: Sequence[float]) -> int:
        """Return an index, each with its share of the sum."""
        left = self.uniform() * sum(shares)
        for index, share in enumerate(shares):
            left -= share
            if left < 0:
                return index
        return len(shares) - 1

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """Return the items in random order."""
        out = list(items)
        for last in range(len(out) - 1, 0, -1):
            other = self.below(last + 1)
            out[last], out[other] = out[other], out[last]
        return out

    def uniforms(self, *shape: int, low: float = 0.0, high: float = 1.0) -> NDArray[np.float64]:
        """Return numbers in [low, high), float64."""
        raw = self._bits.random_raw(int(np.prod(shape))).reshape(shape)
        return np.asarray(low + (high - low) * ((raw >> np.uint64(11)) * 2.0**-53))

    def normals(self, *shape: int) -> NDArray[np.float32]:
        """Return nearly normal numbers (sums of four bytes, never beyond 3.5 spreads), float32 with mean 0 and spread 1."""
        count = int(np.prod(shape))
        half = (count + 1) // 2
        raw = self._bits.random_raw(half)
        sums = (raw & _BYTES) + ((raw >> np.uint64(8)) & _BYTES)
        sums += sums >> np.uint64(16)
        out = np.empty(2 * half, np.float32)
        out[:half], out[half:] = sums & np.uint64(0xFFFF), (sums >> np.uint64(32)) & np.uint64(0xFFFF)
        # Four bytes have the mean 4 * 127.5 and the variance 4 * (256^2 - 1) / 12.
        out -= np.float32(510)
        out *= np.float32(1 / 147.79937)
        return out[:count].reshape(shape)
