"""Results as rows: one results.csv, a table on the terminal, a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from rich.table import Table

from labelers.io import atomic_path

__all__ = ["COLUMNS", "Row", "draw_results", "show_results", "write_results"]


class Row(NamedTuple):
    """One figure.

    Attributes:
        task: ``supervised`` or ``zero_shot``; with ``/labels`` behind it where the truth is what a labeler said, not gold.
        dataset: Name of the data set, or ``all``.
        split: train, val or test.
        finding: Name, or ``macro``.
        seen: Whether the finding was trained on.
        metric: auprc, auroc, nll (nats), ece or prevalence.
        value: The figure; nan where it is not defined.
        low: Lower end of its 95 % interval.
        high: Upper end.
        n: Studies whose truth is known.
        checkpoint: Path of the checkpoint.
    """

    task: str
    dataset: str
    split: str
    finding: str = ""
    seen: bool = True
    metric: str = ""
    value: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    n: int = 0
    checkpoint: str = ""


COLUMNS = Row._fields
KEYS = ["task", "dataset", "split", "finding", "metric", "checkpoint"]


def write_results(rows: Sequence[Row], path: Path) -> None:
    """Write results.csv; rows already there stay, unless they are about the same thing."""
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    if path.exists():
        table = pd.concat([pd.read_csv(path), table]).drop_duplicates(KEYS, keep="last")
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")


def show_results(rows: Sequence[Row]) -> Table:
    """Return a table of all data sets together: a row a finding, a column a metric."""
    shown = [r for r in rows if r.dataset == "all"]
    metrics = list(dict.fromkeys(r.metric for r in shown))
    table = Table("task", "finding", "n", *metrics)
    for task, finding in dict.fromkeys((r.task, r.finding) for r in shown):
        mine = {r.metric: r for r in shown if (r.task, r.finding) == (task, finding)}
        n = next(iter(mine.values())).n
        table.add_row(task, finding, str(n), *(_cell(mine.get(m)) for m in metrics))
    return table


def _cell(row: Row | None) -> str:
    if row is None or row.value != row.value:
        return "-"
    return f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]"


def draw_results(rows: Sequence[Row], path: Path) -> None:
    """Draw AUPRC by finding and task with its interval, beside the prevalence that chance would reach."""
    from matplotlib.figure import Figure

    shown = [r for r in rows if r.dataset == "all" and r.metric in ("auprc", "prevalence") and r.value == r.value]
    findings = list(dict.fromkeys(r.finding for r in shown if r.finding != "macro" and r.metric == "auprc"))
    tasks = list(dict.fromkeys(r.task for r in shown))
    figure = Figure(figsize=(7, 1.2 + 0.35 * len(findings) * max(1, len(tasks))), layout="constrained")
    axes = figure.subplots()
    for t, task in enumerate(tasks):
        mine = {(r.finding, r.metric): r for r in shown if r.task == task}
        for f, finding in enumerate(findings):
            auprc, prevalence = mine.get((finding, "auprc")), mine.get((finding, "prevalence"))
            y = f + 0.8 * (t + 0.5) / len(tasks) - 0.4
            if auprc is not None:
                low, high = (auprc.low, auprc.high) if auprc.low == auprc.low else (auprc.value, auprc.value)
                error = [[max(0.0, auprc.value - low)], [max(0.0, high - auprc.value)]]
                axes.barh(y, auprc.value, 0.7 / len(tasks), color=f"C{t}", label=task if f == 0 else None, xerr=error, capsize=2)
            if prevalence is not None:
                label = "prevalence (chance)" if f == t == 0 else None
                axes.plot([prevalence.value] * 2, [y - 0.35 / len(tasks), y + 0.35 / len(tasks)], color="black", label=label)
    axes.set_yticks(range(len(findings)), findings)
    axes.set_ylim(max(len(findings), 1) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.set_xlabel("AUPRC, 95 % interval")
    if findings:
        axes.legend(fontsize="small")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
