"""``hybridpt fit | validate | test | predict`` (LightningCLI), ``hybridpt data``, ``hybridpt export`` and ``hybridpt list``."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hybridpt.configuration import check_configurations
from hybridpt.interruption import Interrupted, Signals, interrupt
from labelers.cli import guarded
from labelers.errors import unknown_name

__all__ = ["main"]

LISTS = ("--data.labels", "--data.findings")
LIGHTNING = ("fit", "validate", "test", "predict")
USAGE = """usage: hybridpt COMMAND ...

  fit       train a model                          --config FILE [--KEY VALUE ...]
  validate  losses of a checkpoint on split val    --config FILE --ckpt_path CKPT
  test      results.csv and a picture on test      --config FILE --ckpt_path CKPT
  predict   probabilities for every image          --config FILE --ckpt_path CKPT
  data      make or convert a data set             NAME -o FOLDER
  export    the image encoder for timm and transformers, with a model card    CKPT -o FOLDER
  list      what a configuration can name          [objectives|encoders|datasets|tasks] [--json]

'hybridpt COMMAND --help' lists the options of one command."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0 success, 1 bad data, 2 wrong use, 130 after Ctrl-C, 143 after SIGTERM."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with Signals(interrupt):
            return guarded("hybridpt", lambda: _dispatch(arguments))
    except Interrupted as stop:
        print(f"hybridpt: {stop}", file=sys.stderr)
        return stop.status


def _dispatch(arguments: list[str]) -> int | None:
    command = arguments[0] if arguments else "--help"
    if command in ("-h", "--help"):
        print(USAGE)
    elif command in LIGHTNING:
        _lightning(arguments)
    elif command == "data":
        try:
            _data(arguments[1:])
        except Interrupted as stop:
            raise Interrupted(stop.signum, "run the same command again to go on") from None
    elif command == "export":
        _export(arguments[1:])
    elif command == "list":
        _list(arguments[1:])
    else:
        raise unknown_name("command", command, [*LIGHTNING, "data", "export", "list"])
    return 0


def _export(arguments: list[str]) -> None:
    """Run ``hybridpt export CKPT -o FOLDER``."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        prog="hybridpt export", description="Write the image encoder of a checkpoint for users of timm and transformers."
    )
    parser.add_argument("checkpoint", type=str, help="a .ckpt file that 'hybridpt fit' wrote")
    parser.add_argument("-o", "--output", type=str, required=True, help="folder to write; it must not exist yet, or be empty")
    values = parser.parse_args(arguments)
    from hybridpt.export import export

    export(values.checkpoint, values.output)
    print(f"exported the image encoder of {values.checkpoint} -> {values.output}", file=sys.stderr)


def _list(arguments: list[str]) -> None:
    """Run ``hybridpt list [KIND] [--json]``."""
    from rich.table import Table

    from hybridpt.listing import KINDS, entries
    from labelers.console import add_row, put, show

    if {"-h", "--help"} & set(arguments):
        print(
            f"usage: hybridpt list [{'|'.join(KINDS)}] [--json]\n\nWhat a configuration or a command can name; all kinds by default."
        )
        return
    given = [a for a in arguments if a != "--json"]
    for kind in given:
        if kind not in KINDS:
            raise unknown_name("kind", kind, KINDS)
    found = {kind: entries(kind) for kind in given or KINDS}
    if "--json" in arguments:
        put(json.dumps([asdict(entry) for some in found.values() for entry in some], indent=1))
        return
    table = Table("kind", "name", "what it does", "write", "needs")
    for entry in (entry for some in found.values() for entry in some):
        add_row(table, entry.kind, entry.name, entry.summary, entry.use, ", ".join(entry.needs))
    if table.row_count:
        show(table)
    for kind in (kind for kind, some in found.items() if not some):
        put(f"{kind}: there are none yet")


def _lightning(given: list[str]) -> None:
    arguments = [_shipped(a) for a in _lists(given)]
    check_configurations(arguments)
    from hybridpt.training import HybridCLI

    warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
    HybridCLI(args=arguments)


def _lists(arguments: list[str]) -> list[str]:
    """Turn ``--data.labels A B`` into ``--data.labels ["A", "B"]``, the form that jsonargparse reads."""
    out: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        option, equals, value = argument.partition("=")
        if option not in LISTS:
            out.append(argument)
            continue
        values = [value] if equals else []
        while not equals and rest and not rest[0].startswith("--"):
            values.append(rest.pop(0))
        single = len(values) == 1 and (values[0].startswith("[") or values[0] in ("null", "None"))
        out += [option, values[0] if single else json.dumps(values)]
    return out


def _shipped(argument: str) -> str:
    """Find a configuration that comes with the package, named as in the repository: configs/fit/NAME.yaml."""
    if not argument.startswith("configs/") or Path(argument).exists():
        return argument
    package = Path(__file__).resolve().parent
    candidates = (folder / argument for folder in (package, package.parent))  # as installed, as checked out
    return next((str(path) for path in candidates if path.exists()), argument)


def _data(arguments: list[str]) -> None:
    """Run ``hybridpt data NAME -o FOLDER``: the options of a data set are the arguments of its class."""
    import importlib
    import inspect

    from jsonargparse import ArgumentParser

    from hybridpt.listing import data_sets

    names = data_sets()
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: hybridpt data NAME -o FOLDER ...\n\nnames: {', '.join(names)}")
        return
    if arguments[0] not in names:
        raise unknown_name("data set", arguments[0], names)
    module = importlib.import_module(names[arguments[0]])
    cls: Any
    (cls,) = (value for name in module.__all__ if inspect.isclass(value := getattr(module, name)))
    parser = ArgumentParser(
        prog=f"hybridpt data {arguments[0]}", description=(inspect.getdoc(cls) or "").partition("\n\nArgs:")[0]
    )
    parser.add_class_arguments(cls)
    parser.add_argument("-o", "--output", type=str, required=True, help="folder to write to")
    switches = {f"--{n}" for n, p in inspect.signature(cls, eval_str=True).parameters.items() if p.annotation is bool}
    values = parser.parse_args(_switched_on(arguments[1:], switches)).as_dict()
    output = Path(values.pop("output"))
    cls(**values).write(output)


def _switched_on(arguments: list[str], switches: set[str]) -> list[str]:
    """Turn a bare ``--switch`` into ``--switch=true``, the form that jsonargparse reads."""
    following = [*arguments[1:], "--"]
    return [f"{a}=true" if a in switches and n.startswith("-") else a for a, n in zip(arguments, following, strict=True)]
