"""What a person watches: progress and tables, rich on a terminal and plain text in a pipe."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from labelers.errors import InputError, UsageError

__all__ = ["add_row", "check_output", "note", "one_line", "progress", "put", "show", "standard_output"]

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


@contextlib.contextmanager
def standard_output() -> Iterator[None]:
    """Name standard output where it fails; what it has not taken is dropped, lest Python complain of that at its end.

    Raises:
        InputError: It takes no more, for want of room for example.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise InputError(f"standard output: {error.strerror or type(error).__name__}; make room, or send it elsewhere") from None


def one_line(message: str) -> str:
    """Join the lines of a message; what a file's name may hold to steer a terminal is shown as an escape."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(message.splitlines()))


def note(text: str) -> None:
    """Say something on standard error, in one line."""
    print(f"labelers: {one_line(text)}", file=sys.stderr)


def check_output(output: Path, inputs: Sequence[Path], what: str) -> None:
    """Refuse to write over what is read.

    Raises:
        UsageError: The output is one of the inputs.
    """
    if os.path.realpath(output) in map(os.path.realpath, inputs):
        raise UsageError(f"{output}: expected another file than {what}; give the output a name of its own")


def put(shown: str | Table) -> None:
    """Print a line or a table on standard output."""
    with standard_output():
        if isinstance(shown, str):
            print(shown)
        else:
            show(shown)


def add_row(table: Table, *cells: str) -> None:
    """Add cells as they are: square brackets in a name or a path are no markup."""
    table.add_row(*(Text(cell) for cell in cells))
