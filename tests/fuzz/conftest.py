"""Budgets: the profile "ci" unless another is asked for by --hypothesis-profile, and an end to what hangs."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "ci",
    max_examples=100,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
settings.register_profile("long", settings.get_profile("ci"), max_examples=5000, derandomize=False)


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("--hypothesis-profile"):
        settings.load_profile("ci")


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """End a test that hangs: after two minutes, or an hour where the profile is long."""

    def stop(_: int, __: FrameType | None) -> NoReturn:
        pytest.fail("it hangs")

    seconds = 120 if settings().max_examples <= settings.get_profile("ci").max_examples else 3600
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all the files of a test session; every example writes its own over the last."""
    return tmp_path_factory.mktemp("fuzz")
