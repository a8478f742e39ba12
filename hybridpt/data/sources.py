"""What the data tell a model before it is built, and what a checkpoint keeps of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

from labelers.channel import ChannelSet

__all__ = ["Sources", "keyed_hash"]


@dataclass(frozen=True)
class Sources:
    """The findings, labelers and data sets that a model is trained on.

    Attributes:
        findings: K names, the columns of every label tensor.
        labelers: S names, the rows of every label tensor.
        datasets: D names.
        prevalence: Share of the training studies in which a labeler says positive, or the gold's prior, K numbers in (0, 1).
        image_size: Side of the standard image in pixels; 0 for a model of reports alone.
        patients: Keyed hashes of the training patients, so that an evaluation can refuse them.
        patient_key: The key of those hashes.
        channels: What was measured of the labelers; not kept in a checkpoint, where the tensors made of it are.
    """

    findings: tuple[str, ...]
    labelers: tuple[str, ...]
    datasets: tuple[str, ...]
    prevalence: tuple[float, ...]
    image_size: int
    patients: frozenset[str] = frozenset()
    patient_key: str = ""
    channels: ChannelSet | None = field(default=None, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return plain types, as a checkpoint holds them."""
        names = [f.name for f in fields(self) if f.name != "channels"]
        values = {n: getattr(self, n) for n in names}
        return {
            n: v if isinstance(v, str | int) else sorted(v) if isinstance(v, frozenset) else list(v) for n, v in values.items()
        }

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> Sources:
        """Undo ``to_dict``."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in body.items()}
        return cls(**{**values, "patients": frozenset(body["patients"])})


def keyed_hash(identifiers: Iterable[str], key: str) -> frozenset[str]:
    """Hash identifiers with a key (BLAKE2b, 64 bits)."""
    secret = bytes.fromhex(key)
    return frozenset(hashlib.blake2b(i.encode(), key=secret, digest_size=8).hexdigest() for i in identifiers)
