"""What a signal does to a program, in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.conftest import ROOT

PROGRAM = """
import os, signal, sys, time
from hybridpt.interruption import Interrupted, Signals, interrupt

class Closing:
    def __del__(self):
        os.kill(os.getpid(), int(sys.argv[1]))
        time.sleep(0)  # here the signal is handled, where no exception gets out

try:
    with Signals(interrupt):
        closing = Closing()
        del closing
        time.sleep(float(sys.argv[2]))
    time.sleep(0.1)
    print("went on")
except Interrupted as stop:
    print(stop)
    sys.exit(stop.status)
"""


def ended(number: signal.Signals, work: float) -> tuple[int, str, str]:
    """Interrupt the program in a ``__del__`` with so many seconds of work left; returns its status and what it printed."""
    words = [sys.executable, "-c", PROGRAM, str(int(number)), str(work)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout.strip(), done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_that_python_swallowed_is_raised_again(number: signal.Signals) -> None:
    said = f"stopped by {number.name}; nothing half-written was left behind"
    assert ended(number, 30) == (128 + number, said, "")


def test_a_program_that_was_over_before_that_ends_well() -> None:
    assert ended(signal.SIGTERM, 0) == (0, "went on", "")
