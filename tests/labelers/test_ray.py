"""Labeling on Ray: the same bytes as without it, on two nodes, and no report text in what Ray keeps or anybody prints."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import labelers.console
import labelers.ray_engine
from labelers import LabelTable, Report, Vocabulary
from labelers.cli import main
from labelers.run import BATCH

MARKER = "Xylophonist"
"""Planted in every text; neither Ray's logs nor an error may hold it."""
THIS = __name__


class Noting:
    """Finds edema, takes its time, and notes in a folder on which node of Ray it did so."""

    name = "noting"
    version = "1"
    vocabulary = Vocabulary.of(["Edema"])

    def __init__(self, folder: str = "") -> None:
        self.folder = folder

    def label(self, reports: Sequence[Report]) -> LabelTable:
        ray = sys.modules.get("ray")
        if self.folder and ray is not None and ray.is_initialized():
            time.sleep(0.3)
            (Path(self.folder) / ray.get_runtime_context().get_node_id()).touch()
        state = np.array([[0 if "edema" in r.text else 3] for r in reports])
        return LabelTable.from_states([r.report_id for r in reports], self.vocabulary, state, self.name)


class Telling(Noting):
    """Tells what it reads in every way there is."""

    def label(self, reports: Sequence[Report]) -> LabelTable:
        for text in {r.text.replace("\ud83d", "") for r in reports if r.text}:
            print(text, flush=True)
            print(text, file=sys.stderr, flush=True)
            os.write(1, text.encode())
            warnings.warn(text, stacklevel=1)
            logging.getLogger("ray").error(text)
            logging.getLogger().warning(text)
        return super().label(reports)


class Quoting(Noting):
    """Fails and quotes the text."""

    def label(self, reports: Sequence[Report]) -> LabelTable:
        if any(r.text for r in reports):
            raise ValueError([r.text for r in reports])
        return super().label(reports)


class Losing(Noting):
    """Forgets a report."""

    def label(self, reports: Sequence[Report]) -> LabelTable:
        return super().label(reports[1:] if len(reports) > 1 else reports)


class Dying(Noting):
    """Is killed."""

    def label(self, reports: Sequence[Report]) -> LabelTable:
        if any(r.text for r in reports):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().label(reports)


class Differing(Noting):
    """Is of another version on the nodes."""

    def __init__(self) -> None:
        super().__init__()
        ray = sys.modules.get("ray")
        self.version = "2" if ray is not None and ray.is_initialized() else "1"

    def label(self, reports: Sequence[Report]) -> LabelTable:
        table = super().label(reports)
        return LabelTable(**{**vars(table), "version": self.version})


class Unmade(Noting):
    """Cannot be made on a node."""

    def __init__(self) -> None:
        super().__init__()
        ray = sys.modules.get("ray")
        if ray is not None and ray.is_initialized():
            raise ValueError(MARKER)


Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run a command in this process: exit status, standard output and standard error, those of Ray's own code among them."""
    monkeypatch.setattr(labelers.console, "SECONDS", float("inf"))  # no line of progress on a slow machine

    def run(*argv: object) -> tuple[int, str, str]:
        status = main([str(a) for a in argv])
        return status, *capfd.readouterr()

    return run


def write_reports(path: Path, count: int) -> Path:
    texts = [f"{MARKER} edema.", "", f"No {MARKER}.", f"{MARKER} \ud83d edema"]
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"report_id": f"r{i}", "text": texts[i % 4]}) + "\n" for i in range(count))
    return path


def need_ray() -> None:
    """Skip without Ray; else import it as the engine does, which sets what Ray reads at import."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray (extra ray) is not installed")
    labelers.ray_engine._import_ray()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of two nodes of one CPU; at its end nothing under its session's logs holds the marker."""
    need_ray()
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    session = Path(made.head_node.get_session_dir_path())
    try:
        made.add_node(num_cpus=1)
        made.wait_for_nodes()
        yield made
    finally:
        made.shutdown()
    logs = [path for path in (session / "logs").rglob("*") if path.is_file()]
    assert logs
    assert [path.name for path in logs if MARKER.encode() in path.read_bytes()] == []


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_two_nodes_write_the_same_bytes(cli: Cli, cluster: Any, tmp_path: Path, suffix: str) -> None:
    source = write_reports(tmp_path / "reports.jsonl", 8 * BATCH + 7)
    (tmp_path / "nodes").mkdir()
    labeler = ["--labeler", f"{THIS}:Noting", "--set", f"folder={tmp_path / 'nodes'}"]
    assert cli("run", source, *labeler, "-o", tmp_path / f"local{suffix}")[0] == 0
    given = ["--engine", "ray", "--address", cluster.address]
    status, out, err = cli("run", source, *labeler, "-o", tmp_path / f"ray{suffix}", *given)
    assert (status, out) == (0, ""), err
    counted = (
        f"labeled 8,199 reports (2,050 of them empty: every finding unmentioned) with 'noting' -> {tmp_path / f'ray{suffix}'}\n"
    )
    assert err == counted
    assert (tmp_path / f"ray{suffix}").read_bytes() == (tmp_path / f"local{suffix}").read_bytes()
    assert len(list((tmp_path / "nodes").iterdir())) == 2, "both nodes labeled"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("labeler", "status", "part"),
    [
        ("Quoting", 1, "the labeler 'noting' failed with ValueError on reports 1 to 1024"),
        ("Losing", 1, "gave other reports than reports 1 to 1024"),
        ("Dying", 1, "a worker process was killed"),
        ("Differing", 1, "has another labeler 'noting'"),
        ("Unmade", 2, "cannot be made (ValueError)"),
    ],
)
def test_a_labeler_that_fails_is_not_repeated(
    cli: Cli, cluster: Any, tmp_path: Path, labeler: str, status: int, part: str
) -> None:
    source = write_reports(tmp_path / "reports.jsonl", BATCH + 1)
    given = ["--labeler", f"{THIS}:{labeler}", "--engine", "ray", "--address", cluster.address]
    found, out, err = cli("run", source, *given, "-o", tmp_path / "t.parquet")
    assert (found, out) == (status, ""), err
    assert part in err
    assert err.count("\n") == 1, err
    assert MARKER not in err
    assert [p.name for p in tmp_path.iterdir()] == ["reports.jsonl"]


@pytest.mark.slow
def test_what_a_labeler_prints_is_dropped(cli: Cli, cluster: Any, tmp_path: Path) -> None:
    source = write_reports(tmp_path / "reports.jsonl", 9)
    given = ["--labeler", f"{THIS}:Telling", "--engine", "ray", "--address", cluster.address]
    status, out, err = cli("run", source, *given, "-o", tmp_path / "t.csv")
    assert (status, out) == (0, ""), err
    assert err.startswith("labeled 9 reports")
    assert MARKER not in err


@pytest.mark.slow
def test_bad_reports(cli: Cli, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "late.csv").write_text(
        "id,text\n" + "".join(f"{i},{MARKER}\n" for i in range(2 * BATCH)) + "x\n", encoding="utf-8"
    )
    given = ["--labeler", f"{THIS}:Noting", "-o", "t.csv"]
    said = []
    for engine in (["--engine", "local"], ["--engine", "ray", "--address", cluster.address]):
        for source in ("late.csv", "absent.csv", "."):
            status, out, err = cli("run", source, *given, *engine)
            assert (status, out) == (1, "")
            assert err.count("\n") == 1
            assert MARKER not in err
            said.append(err)
    assert said[:3] == said[3:]
    assert "late.csv, line 2050" in said[0]
    assert [p.name for p in tmp_path.iterdir()] == ["late.csv"]


@pytest.mark.slow
def test_nodes_outside_private_ranges_need_a_word(
    cli: Cli, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelers.ray_engine, "_is_private", lambda _: False)
    source = write_reports(tmp_path / "reports.jsonl", 3)
    given = ["run", source, "--labeler", f"{THIS}:Noting", "-o", tmp_path / "t.csv", "--engine", "ray"]
    given += ["--address", cluster.address]
    status, _, err = cli(*given)
    assert status == 2
    host = err.partition("--allow-host ")[2].strip()
    assert f"a node at {host}," in err
    assert cli(*given, "--allow-host", host)[0] == 0


@pytest.mark.slow
def test_a_ray_of_its_own(tmp_path: Path) -> None:
    need_ray()
    source = write_reports(tmp_path / "reports.jsonl", 2 * BATCH + 1)
    command = [sys.executable, "-m", "labelers", "run", str(source), "--labeler", f"{THIS}:Noting"]
    files = [tmp_path / "ray.parquet", tmp_path / "local.parquet"]
    for file, more in zip(files, (["--engine", "ray", "--jobs", "2"], []), strict=True):
        done = subprocess.run([*command, "-o", str(file), *more], capture_output=True, text=True, timeout=120, check=False)
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        assert all(re.match(r"labeled |\S+ reports$", line) for line in done.stderr.splitlines()), done.stderr
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        (["--address", "auto"], ("--engine ray",)),
        (["--allow-host", "198.51.100.1"], ("--engine ray",)),
        (["--engine", "ray", "--address", "ray://127.0.0.1:1"], ("expected HOST:PORT", "ray://127.0.0.1:1")),
        (["--engine", "ray", "--address", "localhost"], ("expected HOST:PORT", "'localhost'")),
        (["--engine", "ray", "--address", "127.0.0.1:1"], ("nobody answers at '127.0.0.1:1'", "ray start")),
        (["--engine", "ray", "--address", "127.0.0.1:99999"], ("nobody answers",)),
    ],
)
def test_wrong_use(cli: Cli, tmp_path: Path, given: list[str], parts: Sequence[str]) -> None:
    if "ray" in given:
        need_ray()
    source = write_reports(tmp_path / "reports.jsonl", 1)
    status, out, err = cli("run", source, "--labeler", f"{THIS}:Noting", "-o", tmp_path / "t.csv", *given)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert all(part in err for part in parts)
    assert [p.name for p in tmp_path.iterdir()] == ["reports.jsonl"]


def test_without_ray(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    source = write_reports(tmp_path / "reports.jsonl", 1)
    status, _, err = cli("run", source, "--labeler", f"{THIS}:Noting", "-o", tmp_path / "t.csv", "--engine", "ray")
    assert status == 2
    assert "pip install 'hybridpt[ray]'" in err
    assert err.count("\n") == 1


def test_ray_is_not_imported_without_need() -> None:
    code = "import sys, labelers.cli; labelers.cli.main(['list']); sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
