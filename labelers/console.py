"""What a person watches: progress and tables, rich on a terminal and plain text in a pipe."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

__all__ = ["progress", "show"]

SECONDS = 10.0
"""Time between two lines in a pipe."""
PIPE_WIDTH = 10_000
"""Columns of a table that goes into a pipe at the most; no line of it is broken."""


@contextlib.contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Give a function that is told how many more are done.

    Args:
        what: Plural noun of what is counted, such as ``"reports"``.
        total: How many there are, where known.
    """
    with _bar(what, total) if sys.stderr.isatty() else _lines(what, total) as advance:
        yield advance


@contextlib.contextmanager
def _bar(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total)
        yield lambda n: bar.advance(task, n)


@contextlib.contextmanager
def _lines(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    done, said = 0, time.monotonic()
    of = "" if total is None else f" of {total:,}"

    def advance(n: int) -> None:
        nonlocal done, said
        done += n
        if time.monotonic() - said >= SECONDS:
            said = time.monotonic()
            print(f"{done:,}{of} {what}", file=sys.stderr, flush=True)

    yield advance


def show(table: Table) -> None:
    """Print a table on standard output, in a pipe as plain aligned text as wide as it needs to be."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPE_WIDTH)
        table.box = None
    console.print(table)
