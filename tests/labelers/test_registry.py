"""Names to labelers: built-in files, entry points, dotted paths, options, and plugins that fail."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import labelers.builtin
from labelers import UsageError, create
from labelers.cli import main
from labelers.registry import ENTRY_POINTS, Labeler, available, listing

PLUGIN = '''
from __future__ import annotations
from collections.abc import Sequence
from pathlib import Path
import numpy as np
from labelers import LabelTable, Report, Vocabulary

__all__ = ["Constant"]

class Constant:
    """Says the same of every report.

    More about it.
    """

    name = "constant"
    version = "2"

    def __init__(self, count: int = 1, rate: float | None = None, loud: bool = False, where: Path = Path("."), word: str = "") -> None:
        self.options = (count, rate, loud, where, word)
        self.vocabulary = Vocabulary.of(["Edema"])

    def label(self, reports: Sequence[Report]) -> LabelTable:
        state = np.full((len(reports), 1), 3)
        return LabelTable.from_states([r.report_id for r in reports], self.vocabulary, state, "constant", version="2")

class Demanding(Constant):
    """Cannot be made without its key."""

    def __init__(self, key: str, **others: str) -> None:
        super().__init__()

class Lacking(Constant):
    requires = ("json", "package_that_nobody_has", "package_that_nobody_has.part")

class Guided(Constant):
    """Tells how to get what it needs."""

    name = "guided"
    requires = {"json": "pip install json", "package_that_nobody_has": "pip install 'nobody[all]'", "other_that_nobody_has": "ask"}

    def __init__(self, model: str, threshold: float = 0.5) -> None:
        super().__init__()

class Renamed(Constant):
    def __init__(self, source: str) -> None:
        super().__init__()
        self.name = source

class Nameless:
    """A class that is no labeler."""
'''
BROKEN = 'raise RuntimeError("the licence\\nhas run out")'

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Give a function that pretends that other packages with these entry points are installed."""
    (tmp_path / "plugin_of_test.py").write_text(PLUGIN, encoding="utf-8")
    (tmp_path / "broken_of_test.py").write_text(BROKEN, encoding="utf-8")
    (tmp_path / "leaving_of_test.py").write_text("raise SystemExit(3)", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))

    def entry_points(**points: str) -> None:
        found = [importlib.metadata.EntryPoint(name, value, ENTRY_POINTS) for name, value in points.items()]

        def pretend(*, group: str) -> list[importlib.metadata.EntryPoint]:
            return found if group == ENTRY_POINTS else []

        monkeypatch.setattr(importlib.metadata, "entry_points", pretend)

    entry_points()
    return entry_points


def builtin_files() -> list[str]:
    (folder,) = labelers.builtin.__path__
    return sorted(p.stem for p in Path(folder).glob("*.py") if not p.stem.startswith("_"))


def test_every_file_in_builtin_is_a_labeler(install: Install) -> None:
    assert list(available()) == builtin_files()
    assert {"context", "keywords"} <= set(available())
    for line in listing():
        if not line.missing and not line.options:
            labeler = create(line.name)
            assert isinstance(labeler, Labeler)
            assert type(labeler).name == line.name, "an instance may have another"


def test_builtin_labelers_are_listed_whole(install: Install) -> None:
    for line in listing():
        assert line.broken is None
        assert line.version
        assert line.summary
        assert line.origin == f"labelers.builtin.{line.name}"


def test_a_dotted_path_works_without_being_registered(install: Install) -> None:
    assert create("plugin_of_test:Constant").name == "constant"


@pytest.mark.parametrize("value", ["plugin_of_test:Constant", "plugin_of_test"])
def test_an_entry_point_is_listed_and_made(install: Install, value: str) -> None:
    install(constant=value)
    line = next(x for x in listing() if x.name == "constant")
    assert (line.version, line.summary, line.origin, line.broken) == ("2", "Says the same of every report.", value, None)
    assert create("constant").version == "2"
    assert list(available()) == sorted(available())


def test_a_name_twice_is_refused(install: Install) -> None:
    install(context="plugin_of_test:Constant")
    with pytest.raises(UsageError, match=r"two labelers are named 'context'.*uninstall or rename one"):
        available()
    install(context="labelers.builtin.context")
    assert "context" in available(), "the same class under its own name is no conflict"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("broken_of_test", "RuntimeError: the licence has run out"),
        ("package_that_nobody_has", "ModuleNotFoundError"),
        ("plugin_of_test:Absent", "AttributeError"),
        ("plugin_of_test:Nameless", "AttributeError"),
        ("plugin_of_test:Constant", "expected the class at plugin_of_test:Constant to be named 'mine', it is 'constant'"),
        ("json", "expected one public class in json, found 3"),
        ("leaving_of_test", "SystemExit: 3"),
    ],
)
def test_a_broken_plugin_is_listed_as_broken_and_stops_nobody(install: Install, value: str, reason: str) -> None:
    install(mine=value)
    lines = {x.name: x for x in listing()}
    broken = lines["mine"].broken
    assert broken is not None
    assert reason in broken
    assert lines["mine"].remedy == f"repair or uninstall the package that holds {value.partition(':')[0]}"
    assert "\n" not in broken
    assert [n for n, x in lines.items() if x.broken] == ["mine"]
    assert create("context").name == "context"
    with pytest.raises(UsageError, match="'mine' cannot be imported"):
        create("mine")


def test_what_a_labeler_lacks_is_said(install: Install) -> None:
    with pytest.raises(UsageError, match=r"needs package_that_nobody_has, package_that_nobody_has.part, which is not installed"):
        create("plugin_of_test:Lacking")


def test_what_a_labeler_needs_and_how_to_get_it_is_listed(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install(guided="plugin_of_test:Guided")
    line = next(x for x in listing() if x.name == "guided")
    assert line.needs == ("json", "package_that_nobody_has", "other_that_nobody_has")
    assert line.missing == ("package_that_nobody_has", "other_that_nobody_has")
    assert line.remedy == "pip install 'nobody[all]'; ask"
    assert line.options == ("model",)
    with pytest.raises(
        UsageError, match=r"needs package_that_nobody_has, other_that_nobody_has, .*pip install 'nobody\[all\]'; ask$"
    ):
        create("guided")
    assert main(["list"]) == 0
    (row,) = [text for text in capsys.readouterr().out.splitlines() if text.lstrip().startswith("guided")]
    assert "json, package_that_nobody_has, other_that_nobody_has, --set model=VALUE" in row
    assert "pip install 'nobody[all]'; ask" in row
    assert main(["list", "--json"]) == 0
    (shown,) = [x for x in json.loads(capsys.readouterr().out) if x["name"] == "guided"]
    assert (shown["missing"], shown["options"], shown["remedy"]) == ([*line.missing], ["model"], line.remedy)


def test_an_instance_may_have_a_name_of_its_own(install: Install) -> None:
    assert create("plugin_of_test:Renamed", {"source": "somebody"}).name == "somebody"


def test_unknown_names(install: Install) -> None:
    with pytest.raises(UsageError, match=r"unknown labeler 'keyword': did you mean keywords.*known: .*context, keywords"):
        create("keyword")
    with pytest.raises(UsageError, match="cannot be imported"):
        create(":Class")
    with pytest.raises(UsageError, match="is not a labeler"):
        create("plugin_of_test:Nameless")


def test_options_are_converted_by_type(install: Install) -> None:
    options = {"count": "3", "rate": "0.5", "loud": "True", "where": "a/b", "word": "7"}
    made = create("plugin_of_test:Constant", options)
    assert vars(made)["options"] == (3, 0.5, True, Path("a/b"), "7")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": "three"}, "--set count: expected int, got 'three'"),
        ({"rate": "high"}, "--set rate: expected float, got 'high'"),
        ({"loud": "yes"}, "--set loud: expected bool, got 'yes'"),
        ({"cuont": "3"}, "unknown option of the labeler 'plugin_of_test:Constant' 'cuont': did you mean count"),
    ],
)
def test_options_that_do_not_fit(install: Install, options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        create("plugin_of_test:Constant", options)


def test_an_option_without_a_default_is_asked_for(install: Install) -> None:
    with pytest.raises(UsageError, match=r"needs the option 'key'; give it with --set key=VALUE"):
        create("plugin_of_test:Demanding")
    with pytest.raises(UsageError, match=r"unknown option.*'others'"):
        create("plugin_of_test:Demanding", {"key": "1", "others": "2"})


def test_importing_and_listing_load_no_deep_learning_library() -> None:
    code = (
        "import sys, labelers\n"
        "from labelers.cli import main\n"
        "assert main(['list', '--json']) == 0\n"
        "heavy = {'torch', 'transformers', 'lightning', 'timm', 'hybridpt'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
