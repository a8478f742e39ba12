"""Names to labelers, lazily: the files of ``labelers/builtin`` and the entry points of other packages."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Protocol, get_args, runtime_checkable

import labelers.builtin
from labelers.errors import UsageError, unknown_name
from labelers.types import LabelTable, Report, Vocabulary

__all__ = ["ENTRY_POINTS", "FileLabeler", "Labeler", "Listing", "available", "create", "listing"]

ENTRY_POINTS = "hybridpt.labelers"


@runtime_checkable
class Labeler(Protocol):
    """What a labeler is; ``labelers.testing.check_labeler`` is the same contract as a test.

    A class in a file of its own. Its docstring's first line is its line in ``labelers list``; the arguments of ``__init__`` are
    its options (``--set KEY=VALUE``). A class may name the packages it needs at run time in ``requires``: as a tuple of importable
    names, or as a mapping from such a name to how to get it (``{"spacy": "pip install spacy"}``).
    """

    version: ClassVar[str]
    vocabulary: Vocabulary

    @property
    def name(self) -> str:
        """The class's name in ``labelers list``; an instance may have one of its own, which is then the source of its tables."""
        ...

    def label(self, reports: Sequence[Report]) -> LabelTable:
        """Label a batch: one row a report in the order given, the same row whatever else is in the batch."""
        ...


@runtime_checkable
class FileLabeler(Labeler, Protocol):
    """A labeler whose input is not report text; it reads its own files, and ``labelers explain`` has no text for it."""

    def read(self, path: Path, id_column: str | None) -> Iterator[Report]:
        """Yield the records of a file or folder one at a time: each Report's text is one record as ``label`` understands it.

        An empty text is a record that says nothing. ``id_column`` is ``--id-column``, where given. What is wrong is one line:
        ``InputError`` or ``UsageError``.
        """
        ...


@dataclass(frozen=True)
class Listing:
    """One line of ``labelers list``.

    Attributes:
        name: Its name.
        version: Its version.
        summary: What it does.
        origin: Where its class is found.
        missing: Packages that it lacks to run.
        broken: Why it cannot be imported, or None.
        needs: Packages that it imports when it runs, installed or not.
        options: Options that must be given (``--set OPTION=VALUE``).
        remedy: How to get what is missing, or what to do about a broken one; empty where nothing is wrong.
    """

    name: str
    version: str
    summary: str
    origin: str
    missing: tuple[str, ...] = ()
    broken: str | None = None
    needs: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    remedy: str = ""


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
            lines.append(_described(name, target, _import(name, target)))
        except (Exception, SystemExit) as error:  # a plugin may fail in any way when it is imported
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            remedy = f"repair or uninstall the package that holds {target.partition(':')[0]}"
            lines.append(Listing(name, "", "", target, broken=reason, remedy=remedy))
    return lines


def _described(name: str, target: str, cls: Any) -> Listing:
    missing, remedy = _missing(cls)
    summary = (inspect.getdoc(cls) or "").split("\n")[0]
    options = tuple(key for key, parameter in _parameters(cls).items() if parameter.default is parameter.empty)
    needs = tuple(_requirements(cls))
    return Listing(name, str(cls.version), summary, target, missing, needs=needs, options=options, remedy=remedy)


def _requirements(cls: Any) -> dict[str, str]:
    """What a labeler's class names in ``requires``, with how to get each."""
    requires = getattr(cls, "requires", ())
    return dict(requires) if isinstance(requires, Mapping) else dict.fromkeys(requires, "install it with pip")


def _missing(cls: Any) -> tuple[tuple[str, ...], str]:
    """The packages that a labeler needs and that are not installed, and how to get them."""
    lacking = {package: remedy for package, remedy in _requirements(cls).items() if not _installed(package)}
    return tuple(lacking), "; ".join(dict.fromkeys(lacking.values()))


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # the package that holds it is missing
        return False


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
    except (Exception, SystemExit) as error:  # a plugin may fail in any way when it is imported
        raise UsageError(
            f"the labeler '{name}' cannot be imported ({type(error).__name__}: {error}); check the path or reinstall it"
        ) from None
    wrong = UsageError(
        f"'{name}' is not a labeler: expected name, version, vocabulary and label(reports); see labelers.testing.check_labeler"
    )
    if not inspect.isclass(cls) or not callable(getattr(cls, "label", None)):  # never call what merely stands at that path
        raise wrong
    missing, remedy = _missing(cls)
    if missing:
        raise UsageError(f"the labeler '{name}' needs {', '.join(missing)}, which is not installed; {remedy}")
    labeler = cls(**_arguments(name, cls, options or {}))
    if not isinstance(labeler, Labeler):
        raise wrong
    return labeler


def _import(name: str, target: str) -> Any:
    module_name, _, class_name = target.partition(":")
    module = importlib.import_module(module_name)
    if class_name:
        classes = [getattr(module, class_name)]
    else:
        classes = [value for value in (getattr(module, n) for n in module.__all__) if inspect.isclass(value)]
    if len(classes) != 1:
        raise ImportError(f"expected one public class in {module_name}, found {len(classes)}")
    if name != target and classes[0].name != name:
        raise ImportError(f"expected the class at {target} to be named '{name}', it is '{classes[0].name}'")
    return classes[0]


def _parameters(cls: Any) -> dict[str, inspect.Parameter]:
    signature = inspect.signature(cls, eval_str=True).parameters
    return {n: p for n, p in signature.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def _arguments(name: str, cls: Any, options: Mapping[str, str]) -> dict[str, Any]:
    parameters = _parameters(cls)
    values: dict[str, Any] = {}
    for key, text in options.items():
        if key not in parameters:
            raise unknown_name(f"option of the labeler '{name}'", key, parameters)
        kind = _without_none(parameters[key].annotation)
        converters: dict[Any, Callable[[str], Any]] = {int: int, float: float, bool: _boolean, Path: Path}
        try:
            values[key] = converters.get(kind, str)(text)
        except ValueError:
            raise UsageError(f"--set {key}: expected {getattr(kind, '__name__', kind)}, got '{text}'") from None
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in values:
            raise UsageError(f"the labeler '{name}' needs the option '{key}'; give it with --set {key}=VALUE")
    return values


def _without_none(kind: Any) -> Any:
    """The type that an option's text is converted to: of ``float | None`` it is ``float``."""
    kinds = [k for k in get_args(kind) if k is not type(None)] if isinstance(kind, UnionType) else []
    return kinds[0] if len(kinds) == 1 else kind


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"
