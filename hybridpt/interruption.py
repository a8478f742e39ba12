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
AGAIN = 0.01
"""Seconds after which an interruption that was swallowed is raised again."""


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

    Where Python lets no exception out (of a ``__del__``, of a function that C calls), an ``Interrupted`` is raised again soon after.

    Args:
        act: Is told the number of the first signal.
    """

    def __init__(self, act: Callable[[int], None]) -> None:
        self._act = act
        self._process = os.getpid()
        self._told: int | None = None
        self._swallowed = False
        self._again: threading.Timer | None = None
        self._before: dict[int, Any] = {}
        self._hook = sys.unraisablehook

    def __enter__(self) -> Signals:
        """Take the signals over."""
        if threading.current_thread() is threading.main_thread():
            self._hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
            self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        """Give them back."""
        if not self._before:
            return
        sys.unraisablehook = self._hook
        if self._again is not None:  # its signal must not come when nobody handles it
            self._again.cancel()
            self._again.join()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            if signum == signal.SIGTERM:
                signal.alarm(GRACE)
        elif self._told is None or self._swallowed:
            self._told, self._swallowed = self._told or signum, False
            self._act(self._told)
        elif signum == signal.SIGINT:
            print("hybridpt: ended at once", file=sys.stderr, flush=True)
            os._exit(128 + signum)

    def _unraisable(self, about: Any) -> None:
        """Send a signal for what was swallowed, once Python is out of here: what is raised now would be swallowed too."""
        if isinstance(about.exc_value, Interrupted):
            self._swallowed = True
            self._again = threading.Timer(AGAIN, os.kill, (self._process, signal.SIGTERM))
            self._again.start()
        else:
            self._hook(about)


def interrupt(signum: int) -> None:
    """End what is being done.

    Raises:
        Interrupted: Always.
    """
    raise Interrupted(signum)
