"""A look at YAML files before anything is built from them: broken, hostile or overgrown ones are refused in one line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from labelers.errors import UsageError

__all__ = ["check_configuration", "check_configurations", "gives_option"]

MAX_BYTES = 1_000_000
MAX_DEPTH = 100
MAX_NODES = 100_000
"""Values after every alias is written out; a few lines of nested aliases can stand for billions."""
PLAIN = "tag:yaml.org,2002:"
OPTION = re.compile(r"[a-z_][a-z0-9_.]{0,60}")
"""What the options on the highest level look like, and the lines of a report do not: jsonargparse would quote those."""
_NAMED = ("-c", "--config")


def check_configurations(arguments: Sequence[str]) -> None:
    """Check every configuration that a command line names.

    Raises:
        UsageError: As ``check_configuration``.
    """
    for before, argument in zip(["", *arguments], arguments, strict=False):
        option, equals, value = argument.partition("=")
        value = value if equals and option.startswith("-") else argument
        named = before in _NAMED or (equals and option in _NAMED)
        inline = value.lstrip().startswith("{")
        if not inline and (named or (Path(value).suffix.lower() in (".yaml", ".yml") and Path(value).exists())):
            check_configuration(Path(value))


def check_configuration(path: Path) -> None:
    """Check a YAML file; nothing is built from it, and no line of it is quoted, since it might be any file given by mistake.

    A configuration may name any class that Python can import: one from a stranger is a program from a stranger. What it cannot do is
    run something by its YAML alone.

    Raises:
        UsageError: It is no file, too large, not UTF-8, not one YAML mapping of options, gives an option twice, builds objects by
            tags, or grows beyond bounds by aliases or nesting.
    """
    if not path.is_file():
        what = "a folder" if path.is_dir() else "a device or a pipe" if path.exists() else "no file"
        raise UsageError(f"{path}: expected a configuration, found {what}; give a YAML file")
    if path.stat().st_size > MAX_BYTES:
        raise UsageError(f"{path}: expected a configuration of at most {MAX_BYTES:,} bytes, found more; is it another file?")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{path}: expected a configuration that can be read, got {error.strerror}; check its permissions"
        ) from None
    try:
        text = data.decode("utf-8-sig")
        top = _Count(path).walk(text)
    except (UnicodeDecodeError, yaml.reader.ReaderError):
        raise UsageError(f"{path}: expected a configuration as UTF-8 text, found other bytes; is it another file?") from None
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        raise UsageError(f"{path}{line}: not YAML ({error.problem}); correct the line") from None
    if not top:
        raise UsageError(f"{path}: expected a mapping of options, such as 'trainer:' and 'model:'; is it another file?")


def gives_option(arguments: Sequence[str], section: str, name: str) -> bool:
    """Whether a command line, or a configuration that it names, gives the option ``SECTION.NAME``.

    What is wrong with a configuration is not said here.
    """
    for before, argument in zip(["", *arguments], arguments, strict=False):
        option, equals, value = argument.partition("=")
        if option == f"--{section}.{name}":
            return True
        inside = bool(equals) and option in _NAMED
        if (inside or before in _NAMED) and name in _section(value if inside else argument, section):
            return True
    return False


def _section(config: str, section: str) -> Mapping[str, Any]:
    """Return the options of one section of a configuration, given as a path or as YAML itself."""
    try:
        text = Path(config).read_text(encoding="utf-8-sig") if not config.lstrip().startswith("{") else config
        body = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    part = body.get(section) if isinstance(body, dict) else None
    return part if isinstance(part, dict) else {}


class _Count:
    """Walks through the events of a YAML text and counts the values that it stands for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.anchors: dict[str, int] = {}
        self.open: list[_Node] = []

    def walk(self, text: str) -> bool:
        """Return whether the text is one mapping."""
        first: yaml.Event | None = None
        documents = 0
        for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            documents += isinstance(event, yaml.DocumentStartEvent)
            if isinstance(event, yaml.NodeEvent):
                first = first or event
                self._enter(event)
            elif isinstance(event, yaml.CollectionEndEvent):
                node = self.open.pop()
                if node.anchor:
                    self.anchors[node.anchor] = node.size
                self._add(node.size, node.line)
        if documents > 1:
            raise UsageError(f"{self.path}: expected one YAML document, found {documents}; keep one")
        return isinstance(first, yaml.MappingStartEvent)

    def _enter(self, event: yaml.NodeEvent) -> None:
        line = 1 if event.start_mark is None else event.start_mark.line + 1
        if not isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
            size = self.anchors.get(str(event.anchor))
            if size is None:
                self._refuse(line, "an alias of nothing before it, or of what it is in")
            self._value(None, line)
            self._add(size, line)
            return
        if event.tag not in (None, "!") and (not event.tag.startswith(PLAIN) or "python" in event.tag):
            self._refuse(line, "a tag that would build an object")
        scalar = event.value if isinstance(event, yaml.ScalarEvent) else None
        self._value(scalar, line)
        if scalar is None:
            self.open.append(_Node(event.anchor, line, isinstance(event, yaml.MappingStartEvent)))
            if len(self.open) > MAX_DEPTH:
                self._refuse(line, f"nested more than {MAX_DEPTH} deep")
            return
        if event.anchor:
            self.anchors[event.anchor] = 1
        self._add(1, line)

    def _value(self, scalar: str | None, line: int) -> None:
        """Take note of a key or value of the mapping that is open."""
        if self.open and self.open[-1].mapping:
            node = self.open[-1]
            node.key_next = not node.key_next
            if not node.key_next and scalar is not None and scalar != "<<":
                if len(self.open) == 1 and not OPTION.fullmatch(scalar):
                    raise UsageError(f"{self.path}, line {line}: expected the name of an option; is it another file?")
                if scalar in node.keys:
                    self._refuse(line, "an option that the same mapping has given before")
                node.keys.add(scalar)

    def _add(self, size: int, line: int) -> None:
        if self.open:
            self.open[-1].size += size
            if self.open[-1].size > MAX_NODES:
                self._refuse(line, f"aliases that stand for more than {MAX_NODES:,} values")

    def _refuse(self, line: int, what: str) -> NoReturn:
        raise UsageError(f"{self.path}, line {line}: expected plain options, found {what}; correct the line")


class _Node:
    """A mapping or sequence that is not closed yet."""

    def __init__(self, anchor: str | None, line: int, mapping: bool) -> None:
        self.anchor = anchor
        self.line = line
        self.mapping = mapping
        self.key_next = True
        self.keys: set[str] = set()
        self.size = 1
