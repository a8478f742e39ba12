"""A million reports fused: time and memory of the arrays alone, and of the whole command. Each part runs in a process of its own."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, redirect_stderr
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd

from labelers.channel import estimate_channels, read_channels
from labelers.cli import main as labelers_command
from labelers.fusion import fuse_votes
from labelers.io import Gold, open_table
from labelers.io.writing import SourceOf
from labelers.simulation import simulate_votes
from labelers.types import UNMENTIONED, LabelTable, Vocabulary
from labelers.votes import Votes

DISTINCT, TIMES, GOLD, BATCH = 100_000, 10, 200, 50_000
"""So many reports are simulated, and stand so often in the tables, each time under new ids; batches are the command's own."""


def make(folder: Path) -> None:
    """Write the five tables as ``labelers run`` writes them, and their channels."""
    simulation = simulate_votes(DISTINCT, 0, shared=0.5)
    votes = simulation.votes
    vocabulary = Vocabulary.of(votes.findings)
    ids = votes.report_ids.tolist()
    tables = [LabelTable.from_states(ids, vocabulary, s, n) for n, s in zip(votes.labelers, votes.state, strict=True)]
    gold = Gold(votes.report_ids[:GOLD], votes.findings, simulation.truth[:GOLD])
    estimate_channels(tables, gold).write(folder / "channels.json")
    blank = np.full((1, len(vocabulary)), UNMENTIONED)
    with ExitStack() as stack:
        for table in tables:
            empty = LabelTable.from_states([""], vocabulary, blank, table.source)
            writer = stack.enter_context(open_table(folder / f"{table.source}.parquet", SourceOf(table), blank=empty))
            for turn in range(TIMES):
                names = [f"{turn}-{report_id}" for report_id in ids]
                writer.write(LabelTable.from_states(names, vocabulary, table.state, table.source))


def arrays(folder: Path) -> Callable[[], None]:
    """Prepare votes in memory; the call fuses them."""
    fusion = read_channels(folder / "channels.json").fusion
    assert fusion is not None
    one = simulate_votes(DISTINCT, 0, shared=0.5).votes
    names = np.array([f"{i}" for i in range(DISTINCT * TIMES)], object)
    votes = Votes(names, one.labelers, one.findings, np.tile(one.state, (1, TIMES, 1)))
    vocabulary = Vocabulary.of(votes.findings)

    def fuse() -> None:
        for start in range(0, len(names), BATCH):
            fuse_votes(votes.part(slice(start, start + BATCH)), fusion, vocabulary)

    return fuse


def command(folder: Path) -> Callable[[], None]:
    """The call is ``labelers fuse`` on the five files."""
    tables = sorted(map(str, folder.glob("labeler*.parquet")))

    def fuse() -> None:
        with redirect_stderr(StringIO()):
            arguments = ["fuse", *tables, "--channels", str(folder / "channels.json"), "-o", str(folder / "fused.parquet")]
            status = labelers_command(arguments)
        if status:
            raise SystemExit(status)

    return fuse


def peak_mb() -> float:
    """Most memory that this process held."""
    status = Path(
        "/proc/self/status"
    )  # Linux's getrusage goes on counting from what the parent held when it started this process
    if status.exists():
        found = re.search(r"VmHWM:\s+(\d+)", status.read_text(encoding="ascii"))
        return int(found[1]) / 1024 if found else float("nan")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def child(part: str, folder: Path) -> None:
    """One part; prints what it took."""
    fuse = {"arrays": arrays, "command": command}[part](folder)
    cpu, wall = time.process_time(), time.perf_counter()
    fuse()
    took = {"seconds": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    print(json.dumps({**took, "peak_mb": peak_mb()}))


def run(output: Path) -> pd.DataFrame:
    """Measure, three times each; imports, and for the arrays the making of the votes, count in ``wall_s`` alone."""
    folder = output / "speed"
    folder.mkdir(parents=True, exist_ok=True)
    this = [sys.executable, str(Path(__file__).resolve())]
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    if not (folder / "done").exists():
        subprocess.run([*this, "make", str(folder)], env=environment, check=True)
        (folder / "done").touch()
    rows = []
    for part in ("arrays", "command"):
        for turn in range(3):
            load, begun = os.getloadavg()[0], time.perf_counter()
            done = subprocess.run([*this, part, str(folder)], env=environment, check=True, stdout=subprocess.PIPE, text=True)
            wall = time.perf_counter() - begun
            told = json.loads(done.stdout.splitlines()[-1])
            size = {"reports": DISTINCT * TIMES, "findings": 14, "labelers": 5}
            rows.append({"what": part, "turn": turn, **size, **told, "wall_s": wall, "load_before": load})
    frame = pd.DataFrame(rows)
    frame.to_csv(output / "speed.csv", index=False, float_format="%.2f")
    return frame


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]))
    else:
        child(sys.argv[1], Path(sys.argv[2]))
