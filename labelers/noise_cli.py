"""``labelers noise | fuse | agreement``: what labels are worth, and several tables made one."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from labelers.agreement import agreement, shared_errors
from labelers.channel import ChannelSet, estimate_channels, read_channels
from labelers.console import check_output, note, one_line, progress, put
from labelers.errors import InputError, UsageError, shown_names
from labelers.fusion import fuse_votes
from labelers.io import Gold, open_table, read_gold, read_table
from labelers.io.writing import SourceOf
from labelers.noise_report import (
    agreement_tables,
    draw_channels,
    fusion_notes,
    fusion_table,
    gold_notes,
    noise_table,
    pool_table,
    sibling_notes,
)
from labelers.types import LabelTable
from labelers.votes import collect_votes, common_findings, gold_truth

__all__ = ["add_noise_commands", "note_unknown"]

FUSE_BATCH = 50_000
"""Reports that are fused and written at a time."""


def add_noise_commands(commands: Any) -> None:
    """Add the three commands to the subparsers of ``labelers``."""
    command = commands.add_parser("noise", help="estimate what each labeler's states are worth, and how several are best joined")
    command.add_argument("tables", type=Path, nargs="+", help="label tables, one a labeler")
    command.add_argument(
        "--gold",
        type=Path,
        help="CSV: report_id, then 1, 0 or nothing per finding (without it three labelers or more are needed)",
    )
    command.add_argument("--truth", choices=("reports", "images"), help="what the gold was read from (default: reports)")
    command.add_argument("-o", "--output", type=Path, required=True, help="CHANNELS.json to write; a picture lands beside it")
    command.set_defaults(command=_noise)

    command = commands.add_parser("fuse", help="join the tables of several labelers to one posterior")
    command.add_argument("tables", type=Path, nargs="+", help="label tables, one a labeler")
    command.add_argument("--channels", type=Path, required=True, help="CHANNELS.json of 'labelers noise'")
    command.add_argument("-o", "--output", type=Path, required=True, help="label table to write (.parquet or .csv)")
    command.add_argument("--format", choices=("long", "wide", "chexpert"), default="long", help="layout (default: long)")
    command.set_defaults(command=_fuse)

    command = commands.add_parser("agreement", help="coverage, overlap, conflict and kappa of several tables")
    command.add_argument("tables", type=Path, nargs="+", help="label tables, one a labeler")
    command.add_argument("--json", action="store_true", help="as JSON, with every pair and every report in conflict")
    command.set_defaults(command=_agreement)


def note_unknown(table: LabelTable, gold: Gold) -> None:
    """Say which findings of the gold the labels do not have: they may have been misspelt."""
    unknown = [name for name in gold.findings if name not in table.vocabulary]
    if unknown:
        print(
            f"labelers: {len(unknown)} of the gold's findings are not among those of '{table.source}' and are left out: "
            f"{one_line(shown_names(unknown))}",
            file=sys.stderr,
        )


def _read_all(paths: Sequence[Path], evidence: bool = True) -> list[LabelTable]:
    """Read tables two at a time: most of the work is done by libraries that let others run."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda path: read_table(path, evidence=evidence), paths))


def _noise(arguments: argparse.Namespace) -> None:
    if not arguments.output.name:
        raise UsageError(f"{arguments.output}: expected the name of a file to write, got a folder; give a name inside it")
    picture = arguments.output.with_suffix(".png")
    inputs = [*arguments.tables, *([arguments.gold] if arguments.gold else [])]
    check_output(arguments.output, inputs, "the tables and the gold")
    if arguments.output == picture:
        raise UsageError(f"{picture}: the picture of the channels takes this name; give the channels one that ends in .json")
    if arguments.truth and arguments.gold is None:
        raise UsageError("--truth says what the gold was read from; give the gold by --gold, or leave --truth out")
    tables = common_findings(_read_all(arguments.tables))
    gold = None if arguments.gold is None else read_gold(arguments.gold)
    channels = estimate_channels(tables, gold, arguments.truth or "reports")
    channels.write(arguments.output)
    draw_channels(channels, picture)
    put(noise_table(channels))
    if channels.fusion is not None and channels.fusion.held_out:
        put(fusion_table(channels.fusion))
    if channels.pool is not None:
        put(pool_table(channels.pool, collect_votes(tables)))
    for text in _noise_notes(tables, gold, channels):
        note(text)
    note(f"channels of {', '.join(channels.channels)} -> {arguments.output}, {picture}")


def _noise_notes(tables: Sequence[LabelTable], gold: Gold | None, channels: ChannelSet) -> Iterator[str]:
    """What is to be known beside the numbers, the findings of the gold that nobody labels first."""
    shared = None
    if gold is None:
        yield (
            "without gold the truth is inferred from agreement: it holds only if three labelers or more do not share their errors, which "
            "nothing here can show, and the intervals are too narrow where it does not; judge 200 reports as soon as you can, and give them "
            "by --gold"
        )
    else:
        for table in tables:
            note_unknown(table, gold)
        yield from gold_notes(channels, int((~np.isnan(gold.truth)).any(axis=1).sum()))
        if channels.fusion is not None:
            votes = collect_votes(tables, channels.fusion.findings)
            shared = shared_errors(votes, gold_truth(votes, gold))
    for labeler, reasons in channels.refused.items():
        for finding, reason in reasons.items():
            yield f"no channel for '{labeler}' and '{finding}': {reason}"
    if channels.fusion is not None:
        yield from sibling_notes(channels.fusion, shared)
        yield from fusion_notes(channels.fusion)


def _fuse(arguments: argparse.Namespace) -> None:
    check_output(arguments.output, [*arguments.tables, arguments.channels], "the tables and the channels")
    fusion = read_channels(arguments.channels).fusion
    if fusion is None:
        raise InputError(
            f"{arguments.channels}: holds the channels of one labeler, nothing to fuse; estimate them from two tables or more"
        )
    tables = common_findings(_read_all(arguments.tables, evidence=False))
    votes = collect_votes(tables, fusion.findings)
    first = fuse_votes(votes.part(slice(0, 0)), fusion, tables[0].vocabulary)
    with (
        open_table(arguments.output, SourceOf(first), arguments.format) as writer,
        progress("reports", len(votes.report_ids)) as advance,
    ):
        for start in range(0, len(votes.report_ids), FUSE_BATCH):
            table = fuse_votes(votes.part(slice(start, start + FUSE_BATCH)), fusion, tables[0].vocabulary)
            writer.write(table)
            advance(len(table))
    for text in (*sibling_notes(fusion, None), *fusion_notes(fusion)):
        note(text)
    absent = [name for name in fusion.labelers if name not in votes.labelers]
    if absent:
        note(f"no table of {', '.join(absent)} was given: fused as if they had not looked")
    note(
        f"fused {len(votes.report_ids):,} reports x {len(first.vocabulary)} findings of {len(tables)} labelers -> {arguments.output}"
    )


def _agreement(arguments: argparse.Namespace) -> None:
    tables = common_findings(_read_all(arguments.tables))
    if len(tables) < 2:
        raise UsageError("expected the tables of two labelers or more, got one; give another beside it")
    found = agreement(tables)
    if arguments.json:
        put(json.dumps(found.to_dict(), indent=1))
        return
    for table in agreement_tables(found, [table.source for table in tables]):
        put(table)
