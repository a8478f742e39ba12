"""Commands of ours as processes that can be killed: forked from a server that has imported everything once.

A start costs milliseconds that way instead of the seconds that torch takes. Everything else is as in a shell: a process and a session of
its own, its own standard output and error, and no code of ours that knows of the test.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

PRELOADED = ("hybridpt.training", "hybridpt.data.phantom", "labelers.cli", "labelers.builtin.context", "tests.hostile.processes")
TEMPORARY = tempfile.TemporaryDirectory(prefix="hostile-")
"""Where the server, and thus wandb, keeps what it takes for temporary."""
PATIENCE = 120.0
"""Seconds after which a process that should have ended has failed the test."""

Prepare = Callable[[], None]


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit status as a shell gives it (128 + N for the signal N), and what it printed."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """What is on standard error, but for progress and what libraries say of their own."""
        return [line for line in self.err.splitlines() if line.startswith(("hybridpt: ", "labelers: ", "Traceback"))]


class Command:
    """A command that runs in a process of its own.

    Args:
        words: ``hybridpt`` or ``labelers``, then its arguments.
        folder: Where it runs, and where its output is collected.
        prepare: Called in the process before the command; a picklable function of a test module.
    """

    def __init__(self, words: list[object], folder: Path, prepare: Prepare | None = None) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(PRELOADED))
        folder.mkdir(parents=True, exist_ok=True)
        self.out, self.err = folder / "stdout.txt", folder / "stderr.txt"
        self._process = context.Process(target=_enter, args=([str(w) for w in words], folder, prepare))
        with mock.patch.dict(os.environ, TMPDIR=TEMPORARY.name):  # for the server, which starts with the first process
            self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def alive(self) -> bool:
        return self._process.is_alive()

    def send(self, number: int) -> None:
        """Send a signal to the process alone."""
        if self.alive():
            os.kill(self.pid, number)

    def send_all(self, number: int) -> None:
        """Send a signal to the process and its children, as a terminal does with Ctrl-C."""
        os.killpg(self.pid, number)

    def wait(self, seconds: float = PATIENCE) -> Ended:
        """Wait for the end."""
        self._process.join(seconds)
        if self.alive():
            self.clear()
            raise AssertionError(f"still running after {seconds} s: {self.err.read_text(encoding='utf-8')[-2000:]}")
        code = self._process.exitcode
        assert code is not None
        texts = (p.read_text(encoding="utf-8", errors="replace") if p.exists() else "" for p in (self.out, self.err))
        return Ended(code if code >= 0 else 128 - code, *texts)

    def clear(self) -> None:
        """Kill whatever is left of its session, so that a test that fails leaves nothing behind."""
        with contextlib.suppress(OSError):
            self.send_all(signal.SIGKILL)

    def relatives(self) -> list[int]:
        """Return the processes of its session that are alive: children, and theirs."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
                if int(fields[3]) == self.pid and fields[0] != "Z" and int(path.parent.name) != self.pid:
                    found.append(int(path.parent.name))
        return found


def run(words: list[object], folder: Path, prepare: Prepare | None = None) -> Ended:
    """Run a command to its end."""
    return Command(words, folder, prepare).wait()


def shell(words: list[object], folder: Path, **environment: str) -> Ended:
    """Run a command to its end as a user does, in an interpreter of its own; it takes seconds to start."""
    folder.mkdir(parents=True, exist_ok=True)
    outer = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment}
    command = [sys.executable, "-m", *map(str, words)]
    with (folder / "stdout.txt").open("wb") as out, (folder / "stderr.txt").open("wb") as err:
        done = subprocess.run(command, cwd=folder, env=outer, stdout=out, stderr=err, check=False, timeout=PATIENCE)
    return Ended(done.returncode, *((folder / name).read_text(encoding="utf-8") for name in ("stdout.txt", "stderr.txt")))


def until(true: Callable[[], Any], seconds: float = PATIENCE, pause: float = 0.002) -> bool:
    """Wait until something holds; False if it does not in that time."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
    return True


def _enter(words: list[str], folder: Path, prepare: Prepare | None) -> None:
    """Be the process: a session, standard streams and signal handlers as a shell would give it."""
    import torch

    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # Linux's own, in the place of the one that this process was made by
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.chdir(folder)
    for descriptor, name in ((1, "stdout.txt"), (2, "stderr.txt")):
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(file, descriptor)
        os.close(file)
    sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb"), encoding="utf-8")
    sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb"), encoding="utf-8", line_buffering=True)
    torch.set_num_threads(1)
    from hybridpt.cli import main as hybridpt
    from labelers.cli import main as labelers

    sys.argv = words
    if prepare is not None:
        prepare()
    try:
        status = {"hybridpt": hybridpt, "labelers": labelers}[words[0]](words[1:])
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    if "wandb" in sys.modules:
        sys.modules["wandb"].finish()  # as at the end of an interpreter, which a forked process does not come to
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(status)


@dataclass(frozen=True)
class KillAt:
    """Kills the process just before its N-th change to a folder: a file opened for writing, renamed, or removed."""

    folder: str
    number: int

    def __call__(self) -> None:
        _on_change(self.folder, lambda count: os.kill(os.getpid(), signal.SIGKILL) if count == self.number else None)


@dataclass(frozen=True)
class CountChanges:
    """Writes into a file how often a folder was changed."""

    folder: str
    path: str

    def __call__(self) -> None:
        _on_change(self.folder, lambda count: Path(self.path).write_text(str(count), encoding="utf-8"))


def _on_change(folder: str, act: Callable[[int], Any]) -> None:
    count = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event == "open":
            changes = isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        else:
            changes = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir")
        if changes and str(arguments[0]).startswith(folder):
            count += 1
            act(count)

    sys.addaudithook(watch)


@dataclass(frozen=True)
class KillHalfway:
    """Kills the process when half of its N-th checkpoint is on the disk."""

    number: int

    def __call__(self) -> None:
        import torch

        save, count = torch.save, 0

        def half(body: object, file: Any, *arguments: Any, **options: Any) -> None:
            nonlocal count
            count += 1
            if count < self.number:
                return save(body, file, *arguments, **options)
            buffer = io.BytesIO()
            save(body, buffer)
            file.write(buffer.getvalue()[: buffer.tell() // 2])
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)

        torch.save = half


@dataclass(frozen=True)
class SmallFiles:
    """Lets no file grow beyond a size, as a full disk or a quota would."""

    size: int

    def __call__(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.size))
