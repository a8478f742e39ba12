"""A labeler over any number of reports on Ray Data: the batches and the order of ``labelers.run``, on one machine or on several."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import logging
import os
import pickle
import re
import signal
import socket
import threading
import warnings
from collections.abc import Collection, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from labelers.errors import InputError, UsageError
from labelers.hosts import is_private as _is_private
from labelers.io import read_reports
from labelers.registry import FileLabeler, Labeler
from labelers.run import batches, create_safely, empty_texts, label_safely, missed_reports, reports_for
from labelers.types import LabelTable, Report

__all__ = ["label_on_ray"]

RETRIES = 2
"""How often a batch whose worker was killed is labeled again; Ray Data's own default is for ever."""


def label_on_ray(
    path: Path,
    labeler: Labeler,
    name: str,
    options: Mapping[str, str],
    *,
    text_column: str | None = None,
    id_column: str | None = None,
    jobs: int | None = None,
    address: str | None = None,
    allowed: Collection[str] = (),
) -> Generator[tuple[LabelTable, int, dict[str, int]], None, None]:
    """Yield (table, number of empty texts, what ``run.missed_reports`` counts) by batch, in order, as ``run.label_in_batches`` does.

    One task reads the file, where this process runs; the workers, one a CPU, each make a labeler of their own and label. Reports and labels
    travel in Ray's object store, which may put on disk what does not fit its memory, in the folder of Ray's session. Whatever goes
    wrong travels as data, and what a labeler prints is dropped: Ray would keep both in its logs.

    Args:
        path: The reports, as for ``run.reports_for``.
        labeler: The labeler, which the workers' own must equal in name, version and vocabulary.
        name: What the workers make theirs from, as for ``registry.create``; every node needs this package and the labeler's.
        options: Likewise.
        text_column: As for ``io.read_reports``.
        id_column: Likewise.
        jobs: Number of workers; by default 1, or with an address all CPUs of the cluster.
        address: ``HOST:PORT`` of a running Ray that this machine is a node of, or ``auto``; without it one is started for this run.
        allowed: Addresses of nodes outside loopback and private ranges that reports may be sent to.

    Raises:
        UsageError: Ray is not installed, cannot be reached, or has a node whose address is neither private nor allowed; or the
            labeler cannot be made on a node.
        InputError: The reports cannot be read, the labeler failed, a worker was killed, or a node has another labeler.
    """
    ray = _import_ray()
    with _connected(ray, jobs, address):
        _check_nodes(ray, allowed)
        most = None if address is None else jobs  # a Ray of our own has as many CPUs as jobs
        dataset = _dataset(
            ray, (path, text_column, id_column), (name, tuple(options.items())), most, isinstance(labeler, FileLabeler)
        )
        try:
            with contextlib.closing(iter(dataset.iter_rows())) as rows:  # ends Ray Data's threads before the connection
                for row in rows:
                    outcome = pickle.loads(row["outcome"])  # made by our own workers
                    if isinstance(outcome, Exception):
                        raise outcome
                    table, empty, missed = outcome
                    _check_same(table, labeler)
                    yield table, empty, missed
        except ray.exceptions.RayError as error:  # its message may hold anything
            raise InputError(
                f"Ray ended the run with {type(error).__name__}: a worker process was killed (out of memory?) or a node was lost; "
                "run again with fewer --jobs"
            ) from None


def _import_ray() -> Any:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read when Ray starts
    os.environ["RAY_DEDUP_LOGS_SKIP_REGEX"] = ".*"  # read at import; Ray prints what it tells of lost tasks on standard output
    if importlib.util.find_spec("ray") is None:
        raise UsageError("the engine 'ray' needs Ray, which is not installed; pip install 'hybridpt[ray]'")
    ray = importlib.import_module("ray")
    importlib.import_module("ray.data")
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    return ray


@contextlib.contextmanager
def _connected(ray: Any, jobs: int | None, address: str | None) -> Iterator[None]:
    """Start a Ray of our own, or connect to one; either ends with the block. One that this process is already using stays."""
    if ray.is_initialized():
        yield
        return
    if address is not None and address != "auto":
        _check_address(address)
    where = (
        {"address": "local", "_node_ip_address": "127.0.0.1", "num_cpus": jobs or 1, "include_dashboard": False}
        if address is None
        else {"address": address}
    )
    on_termination = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**where, log_to_driver=False, logging_level=logging.CRITICAL)
    except (ConnectionError, RuntimeError, ValueError) as error:
        here = "started here" if address is None else f"reached at '{address}'"
        raise UsageError(
            f"Ray cannot be {here} ({type(error).__name__}); expected a Ray that runs and that this machine is a node of (ray start)"
        ) from None
    try:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_termination)  # Ray puts one of its own in place
        yield
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Refuse what is no address or where nobody listens; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if (
        not re.fullmatch(r"[\w.-]+|\[[0-9a-fA-F:.]+\]", host) or not port.isdecimal()
    ):  # ray:// is for machines outside the cluster
        raise UsageError(f"--address: expected HOST:PORT of a Ray that this machine is a node of, or auto, got '{address}'")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise UsageError(
            f"--address: nobody answers at '{address}' ({reason}); give HOST:PORT as 'ray start' printed it"
        ) from None


def _check_nodes(ray: Any, allowed: Collection[str]) -> None:
    for node in ray.nodes():
        host = node["NodeManagerAddress"]
        if node["Alive"] and host not in allowed and not _is_private(host):
            raise UsageError(
                f"the cluster has a node at {host}, outside loopback and private ranges, where reports are not sent; "
                f"if it may have them, say so by --allow-host {host}"
            )


def _dataset(
    ray: Any,
    source: tuple[Path, str | None, str | None],
    made_from: tuple[str, tuple[tuple[str, str], ...]],
    most: int | None,
    reads: bool,
) -> Any:
    """Build the dataset of outcomes: one row a batch, from the reading on, so that Ray changes neither batches nor order."""
    context = ray.data.DataContext.get_current()
    before = context.target_max_block_size, context.enable_progress_bars, context.execution_options.preserve_order
    context.target_max_block_size = 1  # a block a row: a batch goes on as soon as it is read
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    own = ray.get_runtime_context().get_node_id()
    address = next(node["NodeManagerAddress"] for node in ray.nodes() if node["NodeID"] == own)
    here = {f"node:{address}": 0.001}  # the machine that has the file
    folder = os.getcwd()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`ray_remote_args`")  # max_retries has no other way in until Ray 2.64
            return (
                ray.data.from_items([{"source": pickle.dumps((folder, *source))}], override_num_blocks=1)
                .map_batches(_read, fn_args=made_from if reads else (), batch_format="pyarrow", num_cpus=0, resources=here)
                .map_batches(
                    _label,
                    fn_args=(folder, *made_from),
                    batch_size=1,
                    batch_format="pyarrow",
                    num_cpus=1,
                    concurrency=most,
                    max_retries=RETRIES,
                )
            )
    finally:  # the dataset has a copy
        context.target_max_block_size, context.enable_progress_bars, context.execution_options.preserve_order = before


def _row(name: str, value: object) -> pa.Table:
    return pa.table({name: pa.array([pickle.dumps(value)], pa.large_binary())})  # no Arrow text: it holds no lone surrogates


def _read(source: pa.Table, *made_from: Any) -> Iterator[pa.Table]:
    """Read the reports in a task of Ray, one row a batch: (number of its first report, the reports), or what went wrong.

    ``made_from`` is what a labeler that reads its own files is made from, and nothing for others.
    """
    folder, path, text_column, id_column = pickle.loads(source["source"][0].as_py())
    try:
        with contextlib.chdir(folder):  # errors name the file as the user did
            labeler = _worker(folder, *made_from) if made_from else None
            if isinstance(labeler, UsageError):
                raise labeler
            columns = path, text_column, id_column
            for numbered in batches(read_reports(*columns) if labeler is None else reports_for(labeler, *columns)):
                yield _row("batch", numbered)
    except (InputError, UsageError) as error:
        yield _row("batch", error)
    except Exception as error:
        yield _row("batch", InputError(f"{path}: reading failed with {type(error).__name__}"))


def _label(batch: pa.Table, folder: str, name: str, options: tuple[tuple[str, str], ...]) -> pa.Table:
    """Label a batch in a task of Ray: (table, number of empty texts, what it missed), or what went wrong."""
    return _row("outcome", _outcome(pickle.loads(batch["batch"][0].as_py()), _worker(folder, name, options)))


@functools.cache  # a process does many tasks of one run
def _worker(folder: str, name: str, options: tuple[tuple[str, str], ...]) -> Labeler | UsageError:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # what a labeler prints; Ray keeps both in its logs
        os.dup2(nowhere, stream)
    with contextlib.suppress(OSError):  # a node of another machine
        os.chdir(folder)
    try:
        return create_safely(name, dict(options))
    except UsageError as error:
        return error


def _outcome(
    batch: tuple[int, list[Report]] | Exception, labeler: Labeler | UsageError
) -> tuple[LabelTable, int, dict[str, int]] | Exception:
    if isinstance(batch, Exception):
        return batch
    if isinstance(labeler, UsageError):
        return labeler
    first, reports = batch
    try:
        table = label_safely(labeler, reports, f"reports {first} to {first + len(reports) - 1}")
        return table, empty_texts(reports), missed_reports(labeler)
    except InputError as error:
        return error


def _check_same(table: LabelTable, labeler: Labeler) -> None:
    if (table.source, table.version, table.vocabulary) != (labeler.name, labeler.version, labeler.vocabulary):
        raise InputError(
            f"a node of the cluster has another labeler '{labeler.name}' than this machine; install the same version on every node"
        )
