"""Names to labelers, lazily: the files of ``labelers/builtin`` and the entry points of other packages."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import labelers.builtin
from labelers.errors import UsageError, unknown_name
from labelers.types import LabelTable, Report, Vocabulary

__all__ = ["ENTRY_POINTS", "Labeler", "Listing", "available", "create", "listing"]

ENTRY_POINTS = "hybridpt.labelers"


@runtime_checkable
class Labeler(Protocol):
    """What a labeler is; ``labelers.testing.check_labeler`` is the same contract as a test.

    A class in a file of its own. Its docstring's first line is its line in ``labelers list``; the arguments of ``__init__`` are
    its options (``--set KEY=VALUE``). A class may name the packages it needs at run time in ``requires``.
    """

    name: ClassVar[str]
    version: ClassVar[str]
    vocabulary: Vocabulary

    def label(self, reports: Sequence[Report]) -> LabelTable:
        """Label a batch: one row a report in the order given, the same row whatever else is in the batch."""
        ...


@dataclass(frozen=True)
class Listing:
    """One line of ``labelers list``; ``broken`` says why a labeler cannot be imported, ``missing`` what it lacks to run."""

    name: str
    version: str
    summary: str
    origin: str
    missing: tuple[str, ...] = ()
    broken: str | None = None


def available() -> dict[str, str]:
    """Return where each known labeler's class is found: ``package.module`` for built-in ones, ``package.module:Class`` else.

    Raises:
        UsageError: Two labelers have one name.
    """
    builtin = labelers.builtin
    known = {m.name: f"{builtin.__name__}.{m.name}" for m in pkgutil.iter_modules(builtin.__path__) if not m.name.startswith("_")}
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        if point.name in known and known[point.name] != point.value:
            raise UsageError(
                f"two labelers are named '{point.name}': {known[point.name]} and {point.value}; uninstall or rename one"
            )
        known[point.name] = point.value
    return dict(sorted(known.items()))


def listing() -> list[Listing]:
    """Describe every known labeler; one that cannot be imported is described as broken and stops nobody else."""
    lines = []
    for name, target in available().items():
        try:
            cls = _import(name, target)
        except Exception as error:  # a plugin may fail in any way when it is imported
            lines.append(Listing(name, "", "", target, broken=f"{type(error).__name__}: {error}"))
            continue
        requires: Sequence[str] = getattr(cls, "requires", ())
        missing = tuple(package for package in requires if importlib.util.find_spec(package) is None)
        summary = (inspect.getdoc(cls) or "").split("\n")[0]
        lines.append(Listing(name, str(cls.version), summary, target, missing))
    return lines


def create(name: str, options: Mapping[str, str] | None = None) -> Labeler:
    """Make a labeler by its name or by ``package.module:Class``.

    Args:
        name: A name of ``labelers list``, or the dotted path of a class.
        options: Arguments of the class as text; each is converted to the type that its signature gives.

    Raises:
        UsageError: No such labeler or option, a value of the wrong type, or a package that it needs is missing.
    """
    known = available()
    if name not in known and ":" not in name:
        raise unknown_name("labeler", name, known)
    try:
        cls = _import(name, known.get(name, name))
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"the labeler '{name}' cannot be imported ({type(error).__name__}: {error}); check the path or reinstall it"
        ) from None
    missing = [package for package in getattr(cls, "requires", ()) if importlib.util.find_spec(package) is None]
    if missing:
        raise UsageError(f"the labeler '{name}' needs {', '.join(missing)}, which is not installed; install it with pip")
    labeler = cls(**_arguments(name, cls, options or {}))
    if not isinstance(labeler, Labeler):
        raise UsageError(
            f"'{name}' is not a labeler: expected name, version, vocabulary and label(reports); see labelers.testing.check_labeler"
        )
    return labeler


def _import(name: str, target: str) -> Any:
    module_name, _, class_name = target.partition(":")
    module = importlib.import_module(module_name)
    if class_name:
        return getattr(module, class_name)
    exported: list[Any] = [getattr(module, n) for n in module.__all__]
    classes: list[Any] = [value for value in exported if inspect.isclass(value)]
    if len(classes) != 1:
        raise ImportError(f"expected one public class in {module_name}, found {len(classes)}")
    if classes[0].name != name:
        raise ImportError(f"expected the class of {module_name} to be named '{name}', it is '{classes[0].name}'")
    return classes[0]


def _arguments(name: str, cls: Any, options: Mapping[str, str]) -> dict[str, Any]:
    parameters = {n: p for n, p in inspect.signature(cls, eval_str=True).parameters.items() if n != "self"}
    values: dict[str, Any] = {}
    for key, text in options.items():
        if key not in parameters:
            raise unknown_name(f"option of the labeler '{name}'", key, parameters)
        kind = parameters[key].annotation
        converters: dict[Any, Callable[[str], Any]] = {int: int, float: float, bool: _boolean}
        try:
            values[key] = converters.get(kind, str)(text)
        except ValueError:
            raise UsageError(f"--set {key}: expected {getattr(kind, '__name__', kind)}, got '{text}'") from None
    return values


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"
