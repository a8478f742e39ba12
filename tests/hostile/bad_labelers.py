"""Labelers that misbehave; the command lines of the tests name them by their path."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from typing import Any

from labelers.builtin.keywords import Keywords
from labelers.types import LabelTable, Report


class Slow(Keywords):
    """Takes its time over every batch."""

    name = "slow"

    def label(self, reports: Sequence[Report]) -> LabelTable:
        """Wait, then label."""
        if len(reports) > 1:
            time.sleep(1)
        return super().label(reports)


class Killed(Keywords):
    """Is killed while it labels, as by the kernel when memory runs out."""

    name = "killed"

    def label(self, reports: Sequence[Report]) -> LabelTable:
        """Die."""
        if len(reports) > 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().label(reports)


class Quoting(Keywords):
    """Fails with the report in its message."""

    name = "quoting"

    def __init__(self, kind: str = "ValueError") -> None:
        super().__init__()
        self.kind = kind

    def label(self, reports: Sequence[Report]) -> LabelTable:
        """Fail."""
        text = reports[0].text
        if not text:
            return super().label(reports)
        raise {"ValueError": ValueError, "SystemExit": SystemExit, "Unpicklable": Unpicklable, "MemoryError": MemoryError}[
            self.kind
        ](text)


class Unpicklable(Exception):
    """Cannot be sent from one process to another."""

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(str(self))
