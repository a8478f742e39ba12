"""The house stays as the design draws it: public names, light imports, no shadows, everything in the wheel."""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import hybridpt
import labelers
from tests.conftest import ROOT

PACKAGES = (labelers, hybridpt)
MODULES = sorted(
    m.name
    for package in PACKAGES
    for m in pkgutil.walk_packages(package.__path__, package.__name__ + ".")
    if not m.name.endswith("__main__") and not m.name.startswith("hybridpt.configs")
)


@pytest.mark.parametrize("name", [p.__name__ for p in PACKAGES] + MODULES)
def test_public_names_are_sorted_and_exist(name: str) -> None:
    module = importlib.import_module(name)
    names = getattr(module, "__all__", [])
    assert names == sorted(names, key=lambda n: (not n.isupper(), not n[0].isupper(), n))
    assert all(hasattr(module, n) for n in names)


def python(code: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=cwd, env={**os.environ, **environment}
    )


def test_labelers_needs_no_deep_learning_library() -> None:
    code = """
import sys, labelers
labelers.label(["No effusion."])
from labelers.cli import main
main(["list"])
print(sorted({"torch", "lightning", "transformers", "timm", "matplotlib"} & set(sys.modules)))
"""
    assert python(code).stdout.strip().endswith("[]")


def test_importing_hybridpt_is_light() -> None:
    assert python("import sys, hybridpt, hybridpt.data.phantom; print('torch' in sys.modules)").stdout.strip() == "False"


@pytest.mark.parametrize("script", ["labelers", "hybridpt"])
def test_a_folder_that_shadows_labelers_is_named(script: str, tmp_path: Path) -> None:
    (tmp_path / "labelers").mkdir()
    (tmp_path / "labelers" / "__init__.py").write_text("", encoding="utf-8")
    command = [str(Path(sys.executable).parent / script), "list"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 2
    assert str(tmp_path / "labelers" / "__init__.py") in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_folder_without_code_does_not_shadow(tmp_path: Path) -> None:
    (tmp_path / "labelers").mkdir()
    done = subprocess.run([sys.executable, "-m", "labelers", "list"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0


@pytest.mark.slow
def test_the_wheel_holds_code_resources_and_configurations(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    names = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    assert {"labelers/resources/vocabulary/chest.yaml", "labelers/builtin/context.py", "hybridpt/module.py"} <= names
    assert {f"hybridpt/configs/fit/{p.name}" for p in (ROOT / "configs" / "fit").glob("*.yaml")} <= names
    assert not [n for n in names if n.startswith(("tests", "experiments"))]


@pytest.mark.slow
def test_the_readme_counts_the_cases_of_the_matrix() -> None:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-qq", "tests/hostile", "tests/fuzz"]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    collected = {path.removeprefix("tests/"): int(count) for path, count in re.findall(r"^(tests/\S+\.py): (\d+)$", output, re.M)}
    table = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    assert {path: int(count) for path, count in re.findall(r"^\| (\S+\.py) \| (\d+) \|", table, re.M)} == collected
