"""A labeler over any number of reports: in batches of one size, in order, in as many processes as asked for."""

from __future__ import annotations

import itertools
import multiprocessing
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from labelers.errors import InputError
from labelers.registry import Labeler, create
from labelers.types import LabelTable, Report

__all__ = ["BATCH", "label_in_batches", "label_safely"]

BATCH = 1024
"""Reports a batch; fixed, so that the output does not depend on the number of processes."""


def label_in_batches(
    reports: Iterable[Report], labeler: Labeler, name: str, options: Mapping[str, str], jobs: int = 1
) -> Generator[tuple[LabelTable, int], None, None]:
    """Yield (table, number of empty texts in it) batch by batch, in the order of the reports.

    Args:
        reports: Any number of reports; read no faster than they are labeled.
        labeler: The labeler, used itself when ``jobs`` is 1.
        name: What the worker processes make their own labeler from, as for ``registry.create``.
        options: Likewise.
        jobs: Number of processes.

    Raises:
        InputError: The labeler failed; the error names the range of reports and quotes none.
    """
    batches = _batches(reports)
    if jobs == 1:
        for first, batch in batches:
            yield label_safely(labeler, batch, f"reports {first} to {first + len(batch) - 1}"), _empty(batch)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_worker, initargs=(name, dict(options))) as pool:
        waiting: deque[tuple[Future[LabelTable], int]] = deque()
        try:
            for first, batch in batches:
                waiting.append((pool.submit(_label_in_worker, batch, first), _empty(batch)))
                if len(waiting) > 2 * jobs:
                    future, empty = waiting.popleft()
                    yield future.result(), empty
            while waiting:
                future, empty = waiting.popleft()
                yield future.result(), empty
        except BrokenProcessPool:
            raise InputError("a worker process was killed (out of memory?); run again with fewer --jobs") from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _batches(reports: Iterable[Report]) -> Iterator[tuple[int, list[Report]]]:
    source = iter(reports)
    for first in itertools.count(1, BATCH):
        batch = list(itertools.islice(source, BATCH))
        if not batch:
            return
        yield first, batch


def _empty(batch: list[Report]) -> int:
    return sum(not report.text.strip() for report in batch)


def label_safely(labeler: Labeler, batch: Sequence[Report], where: str) -> LabelTable:
    """Label a batch; whatever the labeler raises may quote the text, so its message is not passed on.

    Args:
        labeler: The labeler.
        batch: The reports.
        where: What an error calls them, such as ``"reports 1 to 1024"``.

    Raises:
        InputError: The labeler failed, or gave a table of other reports.
    """
    try:
        table = labeler.label(batch)
        complete = list(table.report_ids) == [report.report_id for report in batch]
    except Exception as error:
        raise InputError(
            f"the labeler '{labeler.name}' failed with {type(error).__name__} on {where}; find the one that it fails on by smaller files"
        ) from None
    if not complete:
        raise InputError(
            f"the labeler '{labeler.name}' gave other reports than {where} in their order; mend it with labelers.testing.check_labeler"
        )
    return table


_worker: Labeler


def _start_worker(name: str, options: dict[str, str]) -> None:
    global _worker
    _worker = create(name, options)


def _label_in_worker(batch: list[Report], first: int) -> LabelTable:
    return label_safely(_worker, batch, f"reports {first} to {first + len(batch) - 1}")
