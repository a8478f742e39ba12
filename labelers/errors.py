"""The errors a user can mend; each message is one line that quotes no report text."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

__all__ = ["InputError", "UsageError", "shown_columns", "shown_names", "unknown_name"]


SHOWN = 30
"""Names listed in an error at the most."""
_NOT_A_NAME = re.compile(r"[.,;:!?](\s|$)|\d{3}|\n|(\S+\s+){4}|.{41}")
"""A sentence, an identifier, several lines, five words or 41 characters: what a row holds, and a header does not."""
_WHAT = "key|text|report|note|study|patient|subject|accession|exam|image|dicom|path|file|split|finding|impression|label|state"
_OF_A_HEADER = re.compile(rf"([^\W_]+[_.-])*(({_WHAT})?u?id|({_WHAT})s?(text|name)?)([_.-][^\W_]+)*")
"""One word that says what a column holds; at least one of a header does, and a short report or a name does not."""
_CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])")


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


def shown_columns(header: Sequence[str], some: Sequence[str] | None = None) -> str:
    """List the column names of a file, or some of them, for an error.

    What may be a row of it is not shown, since that holds a report or an id: a header has names, and one at least that columns have.
    """
    if not any(_OF_A_HEADER.fullmatch(_CAPITAL.sub("_", name.strip("'")).lower()) for name in header):
        return f"not shown, since the {len(header)} in the first row look like no header (is the header missing?)"
    return shown_names(header if some is None or _like_a_row(header) else some)


def shown_names(names: Sequence[str]) -> str:
    """List names for an error, but for those that look like what a row holds."""
    if _like_a_row(names):
        return "not shown, since they look like a row and not like a header (is the header missing?)"
    return ", ".join(names[:SHOWN]) + (f", ... ({len(names)} in all)" if len(names) > SHOWN else "")


def _like_a_row(names: Sequence[str]) -> bool:
    return any(_NOT_A_NAME.search(name) for name in names)
