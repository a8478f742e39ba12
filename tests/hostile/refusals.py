"""What goes wrong, through the real command line: each with its one clear line, its exit status, and nothing lost or half-written."""

from __future__ import annotations

import hashlib
import os
import pickle
import resource
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from labelers import LabelTable, Report, Vocabulary
from labelers.cli import main
from labelers.types import NEGATIVE, POSITIVE, UNMENTIONED, Evidence

MARKER = "Xylophonist"
"""Planted in texts and ids; no message may repeat it."""
BEFORE = b"what an earlier run wrote"


class Exploding:
    """A pickle that leaves a folder behind wherever it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("exploded",)


BOMB = pickle.dumps(Exploding())

Cli = Callable[..., tuple[int, str, str]]


class Words:
    """A labeler without a lexicon; its one place of evidence spans the text, and the cue is the text's hash."""

    name: ClassVar[str] = "words"
    version: ClassVar[str] = "1"
    vocabulary = Vocabulary.of(["Edema", "Fracture"])

    def label(self, reports: Sequence[Report]) -> LabelTable:
        state = np.full((len(reports), 2), UNMENTIONED)
        for r, report in enumerate(reports):
            for k, word in enumerate(("edema", "fracture")):
                if word in report.text.lower():
                    state[r, k] = NEGATIVE if f"no {word}" in report.text.lower() else POSITIVE
        read = [r for r, report in enumerate(reports) if report.text]
        whole = Evidence(
            cell=np.array([2 * r for r in read], np.int64),
            start=np.zeros(len(read), np.int32),
            end=np.array([len(reports[r].text) for r in read], np.int32),
            state=np.zeros(len(read), np.int8),
            cue=np.arange(len(read), dtype=np.int32),
            cues=tuple(digest(reports[r].text) for r in read),
        )
        table = LabelTable.from_states([report.report_id for report in reports], self.vocabulary, state, self.name)
        return LabelTable(**{**vars(table), "evidence": whole})


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def runner(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a command of ``labelers`` in this process: exit status, standard output, standard error."""

    def run(*argv: object) -> tuple[int, str, str]:
        try:
            status = main([os.fspath(a) if isinstance(a, Path) else str(a) for a in argv])
        except SystemExit as stop:
            status = int(stop.code or 0)
        out, err = capsys.readouterr()
        return status, out, err

    return run


def snapshot(folder: Path) -> dict[str, object]:
    """Everything below a folder: kind, and bytes or target."""
    return {os.path.relpath(path, folder): _content(path) for path in _walk(folder)}


def _walk(folder: Path) -> Iterator[Path]:
    for name in os.listdir(folder) if os.access(folder, os.R_OK) else ():
        path = folder / name
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)


def _content(path: Path) -> object:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return os.readlink(path)
    return path.read_bytes() if stat.S_ISREG(mode) and os.access(path, os.R_OK) else mode


def refuses(cli: Cli, folder: Path, argv: Sequence[object], parts: Sequence[str], status: int = 1) -> str:
    """A command ends with its one line and the status given, says nothing of a report, and leaves the folder as it was."""
    before = snapshot(folder)
    got, out, err = cli(*argv)
    assert (got, out) == (status, ""), err
    assert err.startswith("labelers"), err
    assert "error: " in err, err
    assert err.count("\n") == 1, err
    assert err[:-1].isprintable(), "what steers a terminal is shown as an escape"
    assert "internal error" not in err, err
    assert MARKER not in err, err
    for part in parts:
        assert part in err, err
    assert snapshot(folder) == before
    return err


def on_a_disk_of(size: int, cli: Cli) -> Cli:
    """No file can grow beyond so many bytes while the command runs; Python ignores the signal, so that writing fails as on a full disk."""

    def run(*argv: object) -> tuple[int, str, str]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            return cli(*argv)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return run
