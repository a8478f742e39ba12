"""What hostile files try to get run: importing this module, or calling anything in it, is a failed test."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from torch import nn


class Bomb:
    """Pickles to a call that makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


class Encoder(nn.Module):
    """What a checkpoint names to have it imported."""


def explode(marker: Path) -> bytes:
    """Return a pickle that makes the marker; a control makes sure that it does."""
    return pickle.dumps(Bomb(marker))
