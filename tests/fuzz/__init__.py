"""Anything at all, made by hypothesis: a reader gives a result or an InputError, a labeler keeps its contract, a command its status.

``pytest`` gives each test a fixed budget of the same examples every time; ``pytest tests/fuzz --hypothesis-profile=long`` gives it
fifty times as many, and others on every run.
"""

from __future__ import annotations

from hypothesis import settings

__all__ = ["budget"]


def budget(share: float) -> settings:
    """A part of the profile's examples, for tests whose examples are dear (or cheap)."""
    return settings(max_examples=max(1, round(settings().max_examples * share)))
