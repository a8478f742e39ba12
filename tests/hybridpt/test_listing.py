"""``hybridpt list``: what is there is found by walking, and named as a configuration names it."""

from __future__ import annotations

import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from hybridpt.cli import main
from hybridpt.encoders import ImageEncoder, TextEncoder
from hybridpt.listing import KINDS, entries
from hybridpt.objectives import Objective
from tests.conftest import ROOT

BASES = {"objective": Objective, "image encoder": ImageEncoder, "text encoder": TextEncoder}


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["list", *arguments, "--json"]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def cls_of(entry: dict[str, Any]) -> type:
    module, _, name = entry["class_path"].rpartition(".")
    found: type = getattr(importlib.import_module(module), name)
    return found


def test_every_entry_names_a_class_that_can_be_made(capsys: pytest.CaptureFixture[str]) -> None:
    found = listed(capsys)
    assert {e["kind"] for e in found} >= {*BASES, "data set"}
    for entry in found:
        cls = cls_of(entry)
        assert not inspect.isabstract(cls)
        assert issubclass(cls, BASES.get(entry["kind"], object))
        assert entry["summary"].endswith(".")
        assert len(entry["summary"]) > 20
    assert len({e["class_path"] for e in found}) == len(found)


def test_what_the_configurations_name_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    paths = {e["class_path"] for e in listed(capsys)}

    def named(value: Any) -> list[str]:
        if isinstance(value, list):
            return [n for v in value for n in named(v)]
        if not isinstance(value, dict):
            return []
        return [*([value["class_path"]] if "class_path" in value else []), *(n for v in value.values() for n in named(v))]

    used = {
        n for file in (ROOT / "configs" / "fit").glob("*.yaml") for n in named(yaml.safe_load(file.read_text("utf-8"))["model"])
    }
    assert {n for n in used if n.startswith("hybridpt.")}
    assert {n for n in used if n.startswith("hybridpt.")} <= paths


def test_what_they_need_is_what_they_ask_for(capsys: pytest.CaptureFixture[str]) -> None:
    needs = {e["name"]: e["needs"] for e in listed(capsys)}
    assert needs["Supervised"] == ["images", "labels", "channels"]
    assert needs["Clip"] == ["images", "report text"]
    assert needs["ReportStates"] == ["report text", "labels"]
    assert needs["TransformersEncoder"] == ["name: VALUE", "its folder, or the hub"]
    assert needs["ByteEncoder"] == needs["phantom"] == []
    assert not {"HuggingFaceEncoder", "TextContrast", "ImageEncoder"} & set(needs)  # bases, which no configuration can name


MINE = '''
"""A thing of the tests."""
from hybridpt.encoders import ByteEncoder
from hybridpt.objectives import Supervised
__all__ = ["Helper", "Mine"]
class Helper:
    """Another."""
class Mine{base}:
    """Does what
    nobody else (Li et al. 2020) does. And more."""
    def {method}(self, folder):
        pass
'''


@pytest.mark.parametrize(
    ("kind", "package", "base", "method"),
    [
        ("objectives", "hybridpt.objectives", "(Supervised)", "extra"),
        ("encoders", "hybridpt.encoders", "(ByteEncoder)", "extra"),
        ("datasets", "hybridpt.data", "", "write"),
        ("tasks", "hybridpt.evaluation", "", "evaluate"),
    ],
)
def test_one_new_file_is_listed(
    kind: str, package: str, base: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine_of_the_tests.py").write_text(MINE.format(base=base, method=method), encoding="utf-8")
    before = {entry.class_path for entry in entries(kind)}
    path = importlib.import_module(package).__path__
    monkeypatch.setattr(importlib.import_module(package), "__path__", [str(tmp_path), *path])
    (new,) = [entry for entry in entries(kind) if entry.class_path not in before]
    sys.modules.pop(f"{package}.mine_of_the_tests")
    assert new.class_path == f"{package}.mine_of_the_tests.Mine"
    assert new.summary == "Does what nobody else (Li et al. 2020) does."
    assert new.name == ("mine_of_the_tests" if kind == "datasets" else "Mine")


def test_the_table_has_a_line_each_and_an_empty_kind_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["list", "encoders"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(entries("encoders"))
    assert any("TimmEncoder" in line and "hybridpt.encoders.TimmEncoder" in line for line in lines)
    monkeypatch.setitem(KINDS, "tasks", lambda: iter(()))
    assert main(["list", "tasks"]) == 0
    assert capsys.readouterr().out == "tasks: there are none yet\n"
    assert listed(capsys, "tasks") == []


@pytest.mark.parametrize("word", ["objectivs", "--jsn", "Supervised"])
def test_an_unknown_kind_is_refused_in_one_line(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", word]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"unknown kind '{word}'" in err
    assert "datasets, encoders, objectives, tasks" in err


def test_help_and_data_sets_need_no_deep_learning_library() -> None:
    code = "import sys; from hybridpt.cli import main; main(['list', '--help']); main(['list', 'datasets']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: hybridpt list [objectives|encoders|datasets|tasks] [--json]")
    assert "phantom" in done.stdout
    assert done.stdout.strip().endswith("False")
