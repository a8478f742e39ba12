"""``labelers list | run | explain | score | noise | fuse | agreement | vocabulary``: a thin skin over the functions of the package."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from rich.table import Table

from labelers.agreement import Scores, score
from labelers.console import add_row, check_output, one_line, progress, put, standard_output
from labelers.crosswalk import load_crosswalk
from labelers.errors import InputError, UsageError, unknown_name
from labelers.explain import check_page_name, places_of, tell, write_page
from labelers.io import open_table, read_gold, read_table
from labelers.io.text import decode
from labelers.noise_cli import add_noise_commands, note_unknown
from labelers.ray_engine import label_on_ray
from labelers.registry import FileLabeler, Labeler, create, listing
from labelers.run import Batch, label_in_batches, label_safely, missed_reports, reports_for
from labelers.tree import crosswalk_rows, crosswalk_table, tree_rows, tree_table
from labelers.types import LabelTable, Report
from labelers.vocabulary import load_vocabulary

__all__ = ["guarded", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0 success, 1 bad data, 2 wrong use."""
    parser = _parser()
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:  # an unquoted --text ends here, so only what looks like an option is repeated
        options = [text.partition("=")[0] for text in unknown if re.fullmatch(r"--?[a-z][a-z-]*(=.*)?", text, re.DOTALL)]
        parser.error(f"unknown options: {', '.join(options)}" if options else "more arguments than expected; quote a text")
    with _termination_noticed():
        return guarded("labelers", lambda: arguments.command(arguments))


@contextlib.contextmanager
def _termination_noticed() -> Iterator[None]:
    """Let SIGTERM end the program the way Ctrl-C does, so that temporary files are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def guarded(program: str, command: Callable[[], int | None]) -> int:
    """Run a command and turn what goes wrong into one line on standard error and an exit status.

    An unforeseen error shows where it happened, but not its message: that could quote a report.
    """
    try:
        status = command() or 0
        with standard_output():
            return status
    except UsageError as error:
        return _fail(program, str(error), 2)
    except InputError as error:
        return _fail(program, str(error), 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return _fail(program, "interrupted; nothing half-written was left behind", 130)
    except OSError as error:
        where = error.filename or "a file"
        return _fail(
            program, f"{where}: {error.strerror or type(error).__name__}; check the path, its permissions and the disk", 1
        )
    except Exception as error:
        sys.stderr.write("".join(traceback.format_tb(error.__traceback__)))
        return _fail(
            program, f"internal error ({type(error).__name__}); please report the lines above, which hold no report text", 1
        )


def _fail(program: str, message: str, status: int) -> int:
    with contextlib.suppress(OSError):  # nobody can be told
        print(f"{program}: error: {one_line(message)}", file=sys.stderr)
    return status


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {one_line(message)}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="labelers", description="Turn radiology reports into soft labels with a measured noise model.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    command = commands.add_parser("list", help="every labeler, where it comes from and what it lacks")
    command.add_argument("--json", action="store_true", help="as JSON")
    command.set_defaults(command=_list)

    command = commands.add_parser("run", help="label reports")
    command.add_argument("reports", type=Path, help="CSV, Parquet, JSONL, folder of .txt, or Open-I's XML (folder or .tgz)")
    _add_labeler(command)
    command.add_argument("-o", "--output", type=Path, required=True, help="label table to write (.parquet or .csv)")
    command.add_argument("--format", choices=("long", "wide", "chexpert"), default="long", help="layout (default: long)")
    command.add_argument("--text-column", help="column of the text (default: text, report or report_text)")
    command.add_argument("--id-column", help="column of the id (default: report_id, study_id or id)")
    command.add_argument(
        "--jobs", type=_positive, metavar="N", help="processes (default: 1; with --address every CPU of the cluster)"
    )
    command.add_argument(
        "--engine", choices=("local", "ray"), default="local", help="processes of this machine, or Ray (default: local)"
    )
    command.add_argument(
        "--address", metavar="HOST:PORT", help="a running Ray that this machine is a node of, or auto (default: start one)"
    )
    command.add_argument(
        "--allow-host", action="append", default=[], metavar="HOST", help="a node outside private ranges that may have reports"
    )
    command.set_defaults(command=_run)

    command = commands.add_parser("explain", help="what one text says, with the place and the cue that decided")
    given = command.add_mutually_exclusive_group(required=True)
    given.add_argument("--text", help="the text itself")
    given.add_argument("--file", type=Path, help="a text file")
    given.add_argument("stdin", nargs="?", type=_dash, metavar="-", help="read standard input")
    _add_labeler(command)
    shown = command.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="as JSON")
    shown.add_argument("--html", type=Path, metavar="FILE", help="as a page of its own (.html), which holds the text")
    command.set_defaults(command=_explain)

    command = commands.add_parser("score", help="score a label table against gold")
    command.add_argument("table", type=Path, help="label table")
    command.add_argument("gold", type=Path, help="CSV: report_id, then 1, 0 or nothing per finding")
    command.add_argument("--json", action="store_true", help="as JSON")
    command.set_defaults(command=_score)

    add_noise_commands(commands)

    command = commands.add_parser("vocabulary", help="the findings as a tree, or what they are in the labels of a data set")
    command.add_argument("--to", metavar="NAME", help="a cross-walk: the labels of a data set, such as padchest, or a YAML file")
    help_set = "a vocabulary (default: chest); a file that says 'extends: chest' adds to the shipped findings"
    command.add_argument(
        "--set", dest="options", action="append", default=[], type=_option, metavar="vocabulary=FILE", help=help_set
    )
    command.add_argument("--json", action="store_true", help="as JSON")
    command.set_defaults(command=_vocabulary)
    return parser


def _add_labeler(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--labeler", default="context", help="name of 'labelers list' or package.module:Class (default: context)"
    )
    command.add_argument(
        "--set", dest="options", action="append", default=[], type=_option, metavar="KEY=VALUE", help="an option of the labeler"
    )


def _option(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, got '{text}'")
    return key, value


def _dash(text: str) -> str:
    if text != "-":  # it may be a report, so it is not repeated
        raise argparse.ArgumentTypeError('expected --text "...", --file FILE or - for standard input')
    return text


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got '{text}'")
    return int(text)


def _list(arguments: argparse.Namespace) -> None:
    lines = listing()
    if arguments.json:
        put(json.dumps([vars(x) for x in lines], indent=1))
        return
    table = Table("labeler", "version", "what it does", "from", "needs", "lacks", "what to do")
    for x in lines:
        needs = ", ".join([*x.needs, *(f"--set {option}=VALUE" for option in x.options)])
        add_row(table, x.name, x.version, x.summary, x.origin, needs, x.broken or ", ".join(x.missing), x.remedy)
    put(table)


def _run(arguments: argparse.Namespace) -> None:
    if arguments.engine != "ray" and (arguments.address or arguments.allow_host):
        raise UsageError("--address and --allow-host are for a cluster; add --engine ray, or leave them out")
    options = dict(arguments.options)
    labeler = create(arguments.labeler, options)
    blank = label_safely(labeler, [Report("", "")], "an empty report")
    check_output(arguments.output, [arguments.reports], "the reports")
    count = empty = 0
    missed: Counter[str] = Counter()
    with open_table(arguments.output, labeler, arguments.format, blank) as writer, progress("reports") as advance:
        with contextlib.closing(_labeled(arguments, labeler, options, writer.encode)) as batches:
            for batch in batches:
                writer.append(batch.rows)
                count, empty = count + batch.reports, empty + batch.empty
                missed.update(batch.missed)
                advance(batch.reports)
        if not count:
            raise InputError(f"{arguments.reports}: expected one report or more, found none")
        if missed.total() == count:
            raise InputError(f"'{labeler.name}' labeled none of {count:,} reports ({_reasons(missed)}); nothing was written")
    note = f" ({empty:,} of them empty: every finding unmentioned)" if empty else ""
    print(f"labeled {count - missed.total():,} reports{note} with '{labeler.name}' -> {arguments.output}", file=sys.stderr)
    if missed:
        print(
            f"labelers: {missed.total():,} of {count:,} reports have no labels and no row in {arguments.output} "
            f"({_reasons(missed)}); run them again, or count them as unknown",
            file=sys.stderr,
        )


def _reasons(missed: Counter[str]) -> str:
    return ", ".join(f"{reason}: {number:,}" for reason, number in missed.most_common())


def _labeled(
    arguments: argparse.Namespace, labeler: Labeler, options: dict[str, str], encode: Callable[[LabelTable], bytes]
) -> Generator[Batch, None, None]:
    columns = {"text_column": arguments.text_column, "id_column": arguments.id_column}
    if arguments.engine == "ray":
        where = {"jobs": arguments.jobs, "address": arguments.address, "allowed": arguments.allow_host}
        with contextlib.closing(
            label_on_ray(arguments.reports, labeler, arguments.labeler, options, **columns, **where)
        ) as tables:
            for table, empty, missed in tables:
                yield Batch(encode(table), len(table) + sum(missed.values()), empty, missed)
        return
    reports = reports_for(labeler, arguments.reports, **columns)
    yield from label_in_batches(reports, labeler, arguments.labeler, options, encode, arguments.jobs or 1)


def _explain(arguments: argparse.Namespace) -> None:
    if arguments.html is not None:
        check_page_name(arguments.html)
        check_output(arguments.html, [arguments.file] if arguments.file else [], "the text")
    labeler = create(arguments.labeler, dict(arguments.options))
    if isinstance(labeler, FileLabeler):
        raise UsageError(
            f"the labeler '{arguments.labeler}' reads files of its own and no text; use labelers run FILE, or another labeler"
        )
    text = _text_of(arguments)
    table = label_safely(labeler, [Report("", text)], "the text")
    if not len(table):
        raise InputError(f"'{labeler.name}' has no labels of the text ({_reasons(Counter(missed_reports(labeler)))})")
    if arguments.html is not None:
        write_page(arguments.html, text, table)
        print(f"explained the text with '{labeler.name}' (places: {len(table.evidence):,}) -> {arguments.html}", file=sys.stderr)
        return
    places = places_of(table)
    if arguments.json:
        put(json.dumps(places, indent=1))
        return
    with standard_output():
        tell(text, places)


def _text_of(arguments: argparse.Namespace) -> str:
    if arguments.text is not None:
        return str(arguments.text)
    if arguments.file is None:
        if sys.stdin is None:
            raise InputError("standard input is closed; give the text by --text or --file")
        return decode(sys.stdin.buffer.read(), "standard input")
    try:
        return decode(arguments.file.read_bytes(), arguments.file)
    except OSError as error:
        raise InputError(f"{arguments.file}: cannot be read ({error.strerror}); give the path of a text file") from None


def _score(arguments: argparse.Namespace) -> None:
    table, gold = read_table(arguments.table), read_gold(arguments.gold)
    scores = score(table, gold)
    note_unknown(table, gold)
    if arguments.json:
        put(json.dumps(scores.to_dict(), indent=1))
        return
    put(_score_table(scores))
    put(f"{scores.reports:,} reports scored; {scores.without_label:,} of the gold have no label")


def _score_table(scores: Scores) -> Table:
    table = Table("finding", *(("known", "positives", "precision", "recall", "F1", "AUPRC", "NLL", "ECE")))
    for s in scores.findings:
        numbers = (s.precision, s.recall, s.f1, s.auprc, s.nll, s.ece)
        add_row(table, s.finding, str(s.known), str(s.positives), *(_number(v) for v in numbers))
    table.add_section()
    m = scores.macro
    add_row(table, "macro", "", "", *(_number(m[n]) for n in ("precision", "recall", "f1", "auprc", "nll", "ece")))
    add_row(table, "micro", "", "", *(_number(scores.micro[n]) for n in ("precision", "recall", "f1")), "", "", "")
    return table


def _number(value: float) -> str:
    return "-" if value != value else f"{value:.3f}"


def _vocabulary(arguments: argparse.Namespace) -> None:
    options = dict(arguments.options)
    for key in options.keys() - {"vocabulary"}:
        raise unknown_name("option", key, ["vocabulary"])
    lexicon = load_vocabulary(options.get("vocabulary", "chest"))
    if arguments.to is None:
        rows = tree_rows(lexicon)
        table = tree_table(rows)
    else:
        crosswalk = load_crosswalk(arguments.to, lexicon.vocabulary)
        rows = crosswalk_rows(crosswalk, lexicon.vocabulary)
        table = crosswalk_table(rows, crosswalk)
    put(json.dumps(rows, indent=1) if arguments.json else table)
