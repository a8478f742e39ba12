"""The errors a user can mend; each message is one line that quotes no report text."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["InputError", "UsageError", "unknown_name"]


SHOWN = 30
"""Names listed in an error at the most."""


class InputError(ValueError):
    """Bad data. The command line prints the message on one line and exits with status 1.

    The message says what was expected, what came, where (file, row or key) and what to do. It never quotes report text,
    patient identifiers or cell contents that could hold either.
    """


class UsageError(ValueError):
    """Wrong use: an unknown name, option or value. The command line exits with status 2."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Build the error for a name that nobody registered, with the nearest known ones.

    Args:
        kind: What the name stands for, such as ``"labeler"``.
        name: The name as it was given.
        known: Every name that would have been accepted.

    Returns:
        The error, to be raised by the caller.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    shown = ", ".join(names[:SHOWN]) + (f", ... ({len(names)} in all)" if len(names) > SHOWN else "")
    return UsageError(f"unknown {kind} '{name}': {hint}known: {shown or 'none'}")
