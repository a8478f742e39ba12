"""Ctrl-C and SIGTERM: asked once, a program ends in order; asked twice by Ctrl-C, at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

__all__ = ["Interrupted", "Signals", "interrupt"]

GRACE = 60
"""Seconds that a child process outlives a SIGTERM, so that its parent can end in order."""


class Interrupted(BaseException):
    """The program was told to end; no ``Exception``, so that nothing on its way out swallows it.

    Args:
        signum: SIGINT or SIGTERM.
        saved: What the person at the terminal should know.
    """

    def __init__(self, signum: int, saved: str = "nothing half-written was left behind") -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}; {saved}")
        self.signum = signum
        self.status = 128 + signum
        """The exit status by which a shell knows the signal."""


class Signals:
    """Handles SIGINT and SIGTERM while it is entered; outside the main thread it does nothing.

    The first signal goes to ``act``. A second SIGINT ends the process at once: every file appears whole or not at all, so nothing is
    lost by that. Forked children (they read images) ignore SIGINT, which a terminal sends to them too, and outlive SIGTERM for a while.

    Args:
        act: Is told the number of the first signal.
    """

    def __init__(self, act: Callable[[int], None]) -> None:
        self._act = act
        self._process = os.getpid()
        self._told = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        """Take the signals over."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        """Give them back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            if signum == signal.SIGTERM:
                signal.alarm(GRACE)
        elif not self._told:
            self._told = True
            self._act(signum)
        elif signum == signal.SIGINT:
            print("hybridpt: ended at once", file=sys.stderr, flush=True)
            os._exit(128 + signum)


def interrupt(signum: int) -> None:
    """End what is being done.

    Raises:
        Interrupted: Always.
    """
    raise Interrupted(signum)
