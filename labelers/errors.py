"""The errors a user can mend; each message is one line that quotes no report text."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

__all__ = ["InputError", "UsageError", "shown_columns", "unknown_name"]


SHOWN = 30
"""Names listed in an error at the most."""
_NOT_A_NAME = re.compile(r"[.,;:!?](\s|$)|\d{3}|\n|(\S+\s+){4}|.{41}")
"""A sentence, an identifier, several lines, five words or 41 characters: what a row holds, and a header does not."""


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
    shown = f"known: {', '.join(names) or 'none'}" if len(names) <= SHOWN else f"{len(names)} are known"
    return UsageError(f"unknown {kind} '{name}': {hint}{shown}")


def shown_columns(names: Sequence[str]) -> str:
    """List column names for an error; a header that looks like a row is not shown, since it may hold a report or an id."""
    if any(_NOT_A_NAME.search(name) for name in names):
        return "not shown, since they look like a row and not like a header (is the header missing?)"
    return ", ".join(names[:SHOWN]) + (f", ... ({len(names)} in all)" if len(names) > SHOWN else "")
