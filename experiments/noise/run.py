"""What each way of training on noisy labels is worth where the noise is known; README.md beside this."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process a core

import patients
import tables
from cells import FULL, SETTINGS, Cells, Recipes, quick
from labelled import JUDGED, READ, run_labelers
from methods import METHODS, with_what_they_need
from sources import KINDS, LEVELS

from labelers.console import progress


@dataclass(frozen=True)
class Plan:
    """How much is run; ``networks`` are the levels of noise for which networks are trained and not heads alone."""

    studies: int
    train: int
    seeds: tuple[int, ...]
    levels: tuple[str, ...]
    kinds: tuple[str, ...]
    networks: tuple[str, ...]
    recipes: Recipes


WHOLE = Plan(32_000, 10_000, (1, 2, 3, 4, 5), tuple(LEVELS), KINDS, ("strong", READ), FULL)
QUICK = Plan(8_000, 2_500, (1, 2), ("strong",), KINDS[:1], ("strong",), quick(FULL))

Cell = tuple[str, str, str, int]


def cells_of(plan: Plan, settings: Iterable[str]) -> list[Cell]:
    """List the cells, seed by seed, those with labels that were read last."""
    drawn = [(level, kind) for level in plan.levels for kind in plan.kinds]
    return [
        (setting, *world, seed)
        for worlds in (drawn, [(READ, judged) for judged in JUDGED])
        for setting in settings
        for seed in plan.seeds
        for world in worlds
        if setting == "features" or world[0] in plan.networks
    ]


@cache
def _cells(output: Path, quickly: bool) -> Cells:
    plan = QUICK if quickly else WHOLE
    return Cells(output, patients.load(output / "data", plan.train), plan.recipes)


def _run(output: Path, quickly: bool, cell: Cell, methods: list[str]) -> None:
    _cells(output, quickly).run(*cell, methods)


def _start(output: Path, quickly: bool, what: str | int) -> None:
    cells = _cells(output, quickly)
    cells.reference() if isinstance(what, str) else cells.text(what)


def run(output: Path, quickly: bool, settings: list[str], methods: list[str], jobs: int) -> None:
    """Run what is not there yet."""
    plan = QUICK if quickly else WHOLE
    patients.draw(output / "data", plan.studies, jobs)
    run_labelers(output)
    _cells(output, quickly)  # reads the pictures once
    starts: list[str | int] = ["reference"] if "features" in settings else []
    starts += list(plan.seeds) if "pretrained" in settings else []
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:  # a GPU cannot be used after a fork
        _wait([pool.submit(_start, output, quickly, what) for what in starts], "starting weights")
        todo = cells_of(plan, settings)
        _wait([pool.submit(_run, output, quickly, cell, methods) for cell in todo], "cells")


def _wait(futures: list, what: str) -> None:  # type: ignore[type-arg]
    with progress(what, len(futures)) as tick:
        for future in as_completed(futures):
            future.result()
            tick(1)


def main() -> None:
    """Run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("settings", nargs="*", metavar="SETTING", help=f"only these: {', '.join(SETTINGS)} (default: all)")
    quickly = "one kind of noise beside labels that are read, fewer pictures, two seeds: minutes on two cores"
    parser.add_argument("--quick", action="store_true", help=quickly)
    parser.add_argument("--methods", nargs="+", choices=sorted(METHODS), default=list(METHODS), metavar="NAME", help="only these")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--output", type=Path, help="folder (default: runs/experiments/noise, with -quick behind it for --quick)")
    given = parser.parse_args()
    output: Path = given.output or Path("runs/experiments") / ("noise-quick" if given.quick else "noise")
    settings = given.settings or list(SETTINGS)
    for setting in settings:
        if setting not in SETTINGS:
            parser.error(f"expected settings among {', '.join(SETTINGS)}, got '{setting}'")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--output: {output} cannot be a folder ({error.strerror}); give another")
    run(output, given.quick, settings, with_what_they_need(given.methods), given.jobs)
    rows = tables.rows(output, _cells(output, given.quick).world)
    read = rows["noise"] == READ
    rows[~read].to_csv(output / "results.csv", index=False, float_format="%.5f")
    rows[read].to_csv(output / "read.csv", index=False, float_format="%.5f")
    compared = tables.compare(rows)
    compared.to_csv(output / "compared.csv", index=False, float_format="%.5f")
    tables.show(rows, compared)
    tables.picture(compared, output / "results.png")
    print(f"\nall rows: {output / 'results.csv'}; against bce: {output / 'compared.csv'}; picture: {output / 'results.png'}")


if __name__ == "__main__":
    main()
