"""A labeler over any number of reports: in batches of one size, in order, in as many processes as asked for."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

from threadpoolctl import threadpool_limits

from labelers.errors import InputError, UsageError
from labelers.io.reports import checked_reports, read_reports
from labelers.registry import FileLabeler, Labeler, create
from labelers.types import LabelTable, Report

__all__ = [
    "BATCH",
    "Batch",
    "Stopped",
    "batches",
    "create_safely",
    "empty_texts",
    "label_in_batches",
    "label_safely",
    "missed_reports",
    "reports_for",
    "worker_pool",
]

BATCH = 1024
"""Reports a batch; fixed, so that the output does not depend on the number of processes."""


class Stopped(InputError):
    """A labeler cannot go on, for a reason that lies outside the reports; its message holds nothing of them and is passed on."""


class Batch(NamedTuple):
    """What became of a batch of reports.

    Attributes:
        rows: Its labels, encoded.
        reports: Number of its reports.
        empty: Number of those that hold nothing but white space.
        missed: Why some of them have no labels, reason -> number.
    """

    rows: bytes
    reports: int
    empty: int
    missed: Mapping[str, int]


def reports_for(labeler: Labeler, path: Path, text_column: str | None = None, id_column: str | None = None) -> Iterator[Report]:
    """Yield what a labeler is to label: the reports of a file, or its records where the labeler reads files of its own.

    Args:
        labeler: The labeler.
        path: The file or folder.
        text_column: As for ``io.read_reports``.
        id_column: Likewise.

    Raises:
        InputError: The file cannot be read, or an id stands twice.
        UsageError: A text column for a labeler that reads no text.
    """
    if not isinstance(labeler, FileLabeler):
        return read_reports(path, text_column, id_column)
    if text_column is not None:
        raise UsageError(
            f"the labeler '{labeler.name}' reads files of its own, without a column of text; leave out --text-column"
        )
    return checked_reports(_records(labeler, path, id_column), path)


def _records(labeler: FileLabeler, path: Path, id_column: str | None) -> Iterator[Report]:
    try:
        yield from labeler.read(path, id_column)
    except (InputError, UsageError, OSError):
        raise
    except Exception as error:  # its message may quote the file
        raise InputError(
            f"{path}: the labeler '{labeler.name}' failed with {type(error).__name__} when it read this; check the file, or tell its author"
        ) from None


def label_in_batches(
    reports: Iterable[Report],
    labeler: Labeler,
    name: str,
    options: Mapping[str, str],
    encode: Callable[[LabelTable], bytes],
    jobs: int = 1,
) -> Generator[Batch, None, None]:
    """Yield labeled batches in the order of the reports.

    Args:
        reports: Any number of reports; read no faster than they are labeled.
        labeler: The labeler, used itself when ``jobs`` is 1.
        name: What the worker processes make their own labeler from, as for ``registry.create``.
        options: Likewise.
        encode: Turns a table into what is to be written, where it was made: ``TableWriter.encode``.
        jobs: Number of processes.

    Raises:
        InputError: The labeler failed; the error names the range of reports and quotes none.
    """
    if jobs == 1:
        for first, batch in batches(reports):
            table = label_safely(labeler, batch, f"reports {first} to {first + len(batch) - 1}")
            yield Batch(encode(table), len(batch), empty_texts(batch), missed_reports(labeler))
        return
    with worker_pool(jobs, _start_worker, (name, dict(options), encode)) as pool:
        waiting: deque[Future[Batch]] = deque()
        for first, batch in batches(reports):
            waiting.append(pool.submit(_label_in_worker, [r.report_id for r in batch], [r.text for r in batch], first))
            if len(waiting) > 2 * jobs:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextlib.contextmanager
def worker_pool(
    jobs: int, start: Callable[..., None] | None = None, arguments: tuple[Any, ...] = (), writes: bool = False
) -> Iterator[ProcessPoolExecutor]:
    """Give processes that leave Ctrl-C to this one, and end with it however it ends.

    Args:
        jobs: Number of processes. They are spawned: a forked child of a process with threads (torch's, say) can hang.
        start: What each of them does first.
        arguments: Arguments of ``start``.
        writes: Whether they write files. If the block fails, they then finish what they are at; else they are ended at once.

    Raises:
        InputError: One of them was killed.
    """
    context = multiprocessing.get_context("spawn")
    with _Pool(jobs, mp_context=context, initializer=_begin, initargs=(start, arguments)) as pool:
        try:
            yield pool
        except BaseException as error:
            for process in () if writes else list(pool._processes.values()):
                process.terminate()
            pool.shutdown(cancel_futures=True)
            if isinstance(error, BrokenProcessPool):
                raise InputError("a worker process was killed (out of memory?); run again with fewer --jobs") from None
            raise


class _Pool(ProcessPoolExecutor):
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit with SIGINT blocked: a process that is started by this inherits that, from its first instruction on."""
        if not hasattr(signal, "pthread_sigmask"):
            return super().submit(fn, *args, **kwargs)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super().submit(fn, *args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(start: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if start is not None:
        start(*arguments)
    threadpool_limits(1)  # the processes are as many as the cores that are to be used


def _end_with_parent() -> None:
    """Workers hold both ends of their queue, so they would wait for ever for a parent that was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def batches(reports: Iterable[Report]) -> Iterator[tuple[int, list[Report]]]:
    """Yield (number of the first report of a batch, counted from 1; the batch of ``BATCH`` reports, the last one of fewer)."""
    source = iter(reports)
    for first in itertools.count(1, BATCH):
        batch = list(itertools.islice(source, BATCH))
        if not batch:
            return
        yield first, batch


def empty_texts(batch: Sequence[Report]) -> int:
    """Count the reports that hold nothing but white space."""
    return sum(not report.text.strip() for report in batch)


def missed_reports(labeler: Labeler) -> dict[str, int]:
    """Return why reports of the last batch are missing from its table, reason -> number.

    A labeler that can fail on single reports (a server's answers) has the attribute ``missed`` and leaves them out: nothing is
    known of them, which is not the same as unmentioned.
    """
    return {reason: count for reason, count in getattr(labeler, "missed", {}).items() if count}


def label_safely(labeler: Labeler, batch: Sequence[Report], where: str) -> LabelTable:
    """Label a batch; whatever the labeler raises may quote the text, so its message is not passed on.

    The table has a row a report in the order given, but for those that ``missed_reports`` counts.

    Args:
        labeler: The labeler.
        batch: The reports.
        where: What an error calls them, such as ``"reports 1 to 1024"``.

    Raises:
        InputError: The labeler failed, or gave a table of other reports.
    """
    try:
        table = labeler.label(batch)
        given = iter([report.report_id for report in batch])
        in_order = all(report_id in given for report_id in table.report_ids)
        complete = in_order and len(table) + sum(missed_reports(labeler).values()) == len(batch)
    except (KeyboardInterrupt, Stopped):
        raise
    except MemoryError:
        raise InputError(
            f"the labeler '{labeler.name}' ran out of memory on {where}; run it with fewer --jobs, or leave out huge reports"
        ) from None
    except BaseException as error:  # SystemExit, too, would print its message
        raise InputError(
            f"the labeler '{labeler.name}' failed with {type(error).__name__} on {where}; find the one that it fails on by smaller files"
        ) from None
    if not complete:
        raise InputError(
            f"the labeler '{labeler.name}' gave other reports than {where} in their order; mend it with labelers.testing.check_labeler"
        )
    return table


def create_safely(name: str, options: Mapping[str, str]) -> Labeler:
    """Make a labeler in a worker process, where only the message of a ``UsageError`` is fit to be passed on.

    Raises:
        UsageError: It cannot be made, for whatever reason.
    """
    try:
        return create(name, options)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"the labeler '{name}' cannot be made ({type(error).__name__})") from None


_worker: Labeler | UsageError
_encode: Callable[[LabelTable], bytes]


def _start_worker(name: str, options: dict[str, str], encode: Callable[[LabelTable], bytes]) -> None:
    """Make the worker's labeler; what goes wrong is told with the first batch, since the pool would print it."""
    global _worker, _encode
    _encode = encode
    try:
        _worker = create_safely(name, options)
    except UsageError as error:
        _worker = error


def _label_in_worker(ids: list[str], texts: list[str], first: int) -> Batch:
    if isinstance(_worker, UsageError):
        raise _worker
    batch = [Report(*one) for one in zip(ids, texts, strict=True)]
    table = label_safely(_worker, batch, f"reports {first} to {first + len(batch) - 1}")
    return Batch(_encode(table), len(batch), empty_texts(batch), missed_reports(_worker))
