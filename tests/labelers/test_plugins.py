"""Labelers of other packages, built and installed for real: listed, run through the command line, held to the contract."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from labelers import read_table
from labelers.types import POSITIVE, UNMENTIONED
from tests.conftest import ROOT

PLUGINS = ROOT / "tests" / "plugins"
SCRIPT = Path(sys.executable).with_name("labelers")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build both plugins and install them into a folder of their own, without a network."""
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("setuptools, which builds the example plugins, is not installed")
    folder = tmp_path_factory.mktemp("plugins")
    sources = [shutil.copytree(PLUGINS / name, folder / "sources" / name) for name in ("word_labeler", "broken_labeler")]
    target = folder / "site"
    offline = ("--no-build-isolation", "--no-deps", "--no-index", "--disable-pip-version-check", "--no-cache-dir")
    command = [sys.executable, "-m", "pip", "install", *offline, "--target", str(target), *map(str, sources)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return target


def run(installed: Path, *command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, cwd=cwd, env=environment)


def test_both_are_listed_and_the_broken_one_stops_nobody(installed: Path) -> None:
    done = run(installed, SCRIPT, "list", "--json")
    assert done.returncode == 0, done.stderr
    lines = {line["name"]: line for line in json.loads(done.stdout)}
    word, broken = lines["word"], lines["broken"]
    assert (word["version"], word["origin"], word["broken"], word["missing"]) == ("3.0", "word_labeler:Word", None, [])
    assert word["summary"].startswith("One word alone")
    assert broken["broken"] == "ImportError: cannot import name 'parse' from 'parser_of_yesterday'"
    assert broken["remedy"] == "repair or uninstall the package that holds broken_labeler"
    assert [name for name, line in lines.items() if line["broken"]] == ["broken"]
    assert {"context", "keywords", "table"} <= set(lines)
    shown = run(installed, SCRIPT, "list").stdout
    assert "ImportError: cannot import name 'parse'" in shown
    assert "repair or uninstall the package that holds broken_labeler" in shown


def test_it_labels_reports_beside_a_broken_one(installed: Path, tmp_path: Path) -> None:
    reports = tmp_path / "reports.csv"
    reports.write_text('report_id,text\na,"Small Effusion, left."\nb,Clear lungs.\nc,\n', encoding="utf-8")
    out = tmp_path / "labels.parquet"
    done = run(installed, SCRIPT, "run", reports, "--labeler", "word", "--set", "finding=Edema", "--jobs", "2", "-o", out)
    assert done.returncode == 0, done.stderr
    assert "labeled 3 reports (1 of them empty: every finding unmentioned) with 'word'" in done.stderr
    table = read_table(out)
    assert (table.source, table.version, table.vocabulary.names) == ("word", "3.0", ("Edema",))
    assert table.state[:, 0].tolist() == [POSITIVE, UNMENTIONED, UNMENTIONED]
    assert table.evidence.at(0) == [{"start": 6, "end": 14, "state": "positive", "cue": "word"}]
    beside = run(installed, SCRIPT, "run", reports, "--labeler", "keywords", "-o", tmp_path / "keywords.csv")
    assert beside.returncode == 0, beside.stderr


def test_the_broken_one_is_refused_with_its_reason(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "reports.csv").write_text("report_id,text\na,b\n", encoding="utf-8")
    done = run(installed, SCRIPT, "run", tmp_path / "reports.csv", "--labeler", "broken", "-o", tmp_path / "labels.csv")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "'broken' cannot be imported (ImportError: cannot import name 'parse'" in done.stderr
    assert not (tmp_path / "labels.csv").exists()


def test_its_own_tests_pass(installed: Path, tmp_path: Path) -> None:
    """What an author of a plugin runs, in a folder away from this project."""
    shutil.copytree(PLUGINS / "word_labeler" / "tests", tmp_path / "tests")
    done = run(installed, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "2 passed" in done.stdout
