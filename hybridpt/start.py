"""The console scripts: notice a folder that shadows a package before it does harm, then hand over."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

__all__ = ["hybridpt", "labelers", "shadow"]


def shadow() -> str | None:
    """Return the file that Python would import as ``labelers`` instead of ours, or None."""
    ours = Path(__file__).resolve().parent.parent / "labelers" / "__init__.py"
    spec = importlib.util.find_spec("labelers")
    found = None if spec is None or spec.origin is None else Path(spec.origin).resolve()
    return None if found == ours else str(found)


def _shadowed(program: str) -> bool:
    other = shadow()
    if other is not None:
        print(
            f"{program}: error: expected the package labelers beside {Path(__file__).resolve().parent}, but {other} comes first on "
            "Python's path; rename it, or run from another folder",
            file=sys.stderr,
        )
    return other is not None


def labelers() -> int:
    """Run ``labelers``; returns the exit status."""
    return _run("labelers")


def hybridpt() -> int:
    """Run ``hybridpt``; returns the exit status."""
    return _run("hybridpt")


def _run(program: str) -> int:
    if _shadowed(program):
        return 2
    try:
        main = importlib.import_module(f"{program}.cli").main
    except KeyboardInterrupt:
        print(f"{program}: stopped by SIGINT before anything was done", file=sys.stderr)
        return 130
    return int(main())
