"""What ``hybridpt list`` shows: objectives, encoders, data sets and tasks, found by walking their packages."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

__all__ = ["KINDS", "Entry", "data_sets", "entries"]


@dataclass(frozen=True)
class Entry:
    """One thing that a configuration or a command can name.

    Attributes:
        kind: ``objective``, ``image encoder``, ``text encoder``, ``data set`` or ``task``.
        name: What it is called.
        summary: First sentence of its documentation.
        class_path: What a configuration names it by.
        use: How to write it: that path, or a command.
        needs: What it cannot do without.
    """

    kind: str
    name: str
    summary: str
    class_path: str
    use: str
    needs: tuple[str, ...]


def entries(kind: str) -> list[Entry]:
    """Return all of a kind, one of ``KINDS``, sorted by name."""
    return sorted(KINDS[kind](), key=lambda entry: (entry.kind, entry.name))


def data_sets() -> dict[str, str]:
    """Return the modules of ``hybridpt.data`` whose one public class has a method ``write``, by name; none is imported."""
    import hybridpt.data

    found = {}
    for path in sorted(Path(hybridpt.data.__path__[0]).glob("[a-z]*.py")):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        classes = [n for n in body if isinstance(n, ast.ClassDef) and not n.name.startswith("_")]
        if any(isinstance(m, ast.FunctionDef) and m.name == "write" for c in classes for m in c.body):
            found[path.stem] = f"hybridpt.data.{path.stem}"
    return found


def _data_sets() -> Iterator[Entry]:
    for name, path in data_sets().items():
        (cls,) = (c for c in _classes_of(importlib.import_module(path)) if hasattr(c, "write"))
        needs = tuple(f"--{option} VALUE" for option in _required(cls))
        yield _entry("data set", name, cls, needs, f"hybridpt data {name} -o FOLDER")


def _objectives() -> Iterator[Entry]:
    import hybridpt.objectives as package

    for cls in _concrete(package, package.Objective):
        yield _entry("objective", cls.__name__, cls, _needs_of_objective(cls))


def _encoders() -> Iterator[Entry]:
    import hybridpt.encoders as package

    for kind, base in (("image encoder", package.ImageEncoder), ("text encoder", package.TextEncoder)):
        for cls in _concrete(package, base):
            parameters = inspect.signature(cls, eval_str=True).parameters
            if any(parameters[name].annotation is Any for name in _required(cls)):
                continue  # made from objects, which no configuration can write: a base of others
            downloads = "pretrained" in parameters and parameters["pretrained"].default is True
            options = tuple(f"{name}: VALUE" for name in _required(cls))
            yield _entry(kind, cls.__name__, cls, options + (("its folder, or the hub",) if downloads else ()))


def _tasks() -> Iterator[Entry]:
    import hybridpt.evaluation as package

    for cls in _concrete(package, object):
        if callable(getattr(cls, "evaluate", None)):
            yield _entry("task", cls.__name__, cls, tuple(_required(cls)))


KINDS: dict[str, Callable[[], Iterator[Entry]]] = {
    "objectives": _objectives,
    "encoders": _encoders,
    "datasets": _data_sets,
    "tasks": _tasks,
}
"""What can be listed, by name."""


def _entry(kind: str, name: str, cls: type, needs: tuple[str, ...], use: str = "") -> Entry:
    package = importlib.import_module(cls.__module__.rpartition(".")[0])
    home = package.__name__ if getattr(package, cls.__name__, None) is cls else cls.__module__
    path = f"{home}.{cls.__name__}"
    return Entry(kind, name, _first_sentence(inspect.getdoc(cls) or ""), path, use or path, needs)


def _first_sentence(text: str) -> str:
    paragraph = " ".join(text.partition("\n\n")[0].split())
    return re.split(r"(?<!\bal)\.(?:\s|$)", paragraph, maxsplit=1)[0] + "."


def _concrete(package: ModuleType, base: type) -> Iterator[type]:
    """The public classes of a package's modules that derive from a base and can be made."""
    for found in pkgutil.iter_modules(package.__path__):
        if not found.name.startswith("_"):
            module = importlib.import_module(f"{package.__name__}.{found.name}")
            yield from (c for c in _classes_of(module) if issubclass(c, base) and not inspect.isabstract(c))


def _classes_of(module: ModuleType) -> list[type]:
    named = (getattr(module, name) for name in getattr(module, "__all__", ()))
    return [value for value in named if inspect.isclass(value) and value.__module__ == module.__name__]


def _required(cls: type) -> list[str]:
    """Names of the arguments without which it cannot be made."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [n for n, p in inspect.signature(cls).parameters.items() if p.default is p.empty and p.kind in kinds]


def _needs_of_objective(cls: type) -> tuple[str, ...]:
    """What an objective with its default options asks for when it is built, and what it refuses to be trained without."""
    from hybridpt.data.sources import Sources
    from hybridpt.objectives import Encoders
    from labelers.errors import UsageError

    if _required(cls):
        return tuple(f"{name}: VALUE" for name in _required(cls))
    asked: list[str] = []

    class Asked(Encoders):
        def need_image(self, who: str) -> Any:
            asked.append("images")
            return SimpleNamespace(width=8)

        def need_text(self, who: str) -> Any:
            asked.append("report text")
            return SimpleNamespace(width=8)

    def sources(*labelers: str) -> Sources:
        return Sources(("finding",), labelers, ("data",), (0.5,), 8)

    objective: Any = cls()
    for what, given in (("labels", sources()), ("channels", sources("labeler"))):
        try:
            objective.check(given)
        except UsageError:
            asked.append(what)
    objective.build(Asked(None, None), sources("labeler"))
    return tuple(what for what in ("images", "report text", "labels", "channels") if what in asked)
