"""Pictures of probabilities: whether they mean what they say, and how they lie where a finding is present and where it is absent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelers.io import atomic_path

__all__ = ["Panel", "ReliabilityBins", "draw_distributions", "draw_reliability", "panels_of", "reliability_bins"]

BINS = 15
LEAST = 10
"""Cells a bin at the least; with fewer cells there are fewer bins."""
SHOWN = 15
"""Findings that get a panel of their own, those with most positives; all of them are in the panel of all."""
COLUMNS = 4
SIDE = 2.9
"""Inches of a panel."""


class Panel(NamedTuple):
    """Cells that are shown together.

    Attributes:
        title: What they are.
        truth: 1 present, 0 absent, (N,).
        probability: P(present), (N,).
    """

    title: str
    truth: NDArray[np.float32]
    probability: NDArray[np.float32]


class ReliabilityBins(NamedTuple):
    """Bins of about as many cells each, cut at quantiles of the probability; equal probabilities share a bin.

    Attributes:
        said: Mean probability of each bin, (M,).
        found: Share that is present, (M,).
        cells: How many there are, (M,) int64.
    """

    said: NDArray[np.float64]
    found: NDArray[np.float64]
    cells: NDArray[np.int64]

    @property
    def error(self) -> float:
        """Expected calibration error over these bins (Nguyen and O'Connor 2015, arXiv 1508.05154); nan for no cells."""
        return float(np.average(np.abs(self.said - self.found), weights=self.cells)) if len(self.cells) else float("nan")


def reliability_bins(truth: NDArray[np.float32], probability: NDArray[np.float32]) -> ReliabilityBins:
    """Bin N probabilities (N,) with their truth (N,) of 0 and 1."""
    y, p = truth.astype(np.float64), probability.astype(np.float64)
    edges = np.unique(np.quantile(p, np.linspace(0, 1, max(1, min(BINS, len(p) // LEAST)) + 1))) if len(p) else p
    index = np.searchsorted(edges[1:-1], p, side="right")
    count = np.bincount(index)
    kept = count > 0
    said, found = (np.bincount(index, weights=values)[kept] / count[kept] for values in (p, y))
    return ReliabilityBins(said, found, count[kept])


def panels_of(
    name: str, truth: NDArray[np.float32], probability: NDArray[np.float32], findings: Sequence[str] = ()
) -> list[Panel]:
    """Return the panel of all judged cells and, of the findings with most positives, one each.

    Args:
        name: What all cells together are called.
        truth: 1 present, 0 absent, nan not known, (N, K).
        probability: P(present), (N, K).
        findings: K names; none for no panels of their own.
    """
    known = ~np.isnan(truth)
    panels = [Panel(name, truth[known], probability[known])]
    positives = np.nansum(truth, axis=0)
    for k in np.argsort(-positives, kind="stable")[:SHOWN] if len(findings) else ():
        mine = known[:, k]
        if mine.any():
            panels.append(Panel(findings[k], truth[mine, k], probability[mine, k]))
    return panels


def draw_reliability(panels: Sequence[Panel], path: Path) -> None:
    """Draw the share that is present over the probability that was said; the error and how many cells a bin has are in the title.

    Args:
        panels: One or more.
        path: The picture, PNG; written whole or not at all.
    """

    def draw(axes: Any, panel: Panel) -> str:
        bins = reliability_bins(panel.truth, panel.probability)
        axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
        axes.plot(bins.said, bins.found, marker="o", markersize=3)
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="P(present)", ylabel="share present")
        least, most = (int(f(bins.cells)) if len(bins.cells) else 0 for f in (np.min, np.max))
        return f"ECE {bins.error:.3f}, {len(bins.cells)} bins of {least:,}" + (f" to {most:,}" if most > least else "")

    _draw(panels, path, draw)


def draw_distributions(panels: Sequence[Panel], path: Path) -> None:
    """Draw how often each probability was said where the finding is present, and where it is absent.

    Args:
        panels: One or more.
        path: The picture, PNG; written whole or not at all.
    """

    def draw(axes: Any, panel: Panel) -> str:
        edges = np.linspace(0, 1, 41)
        for value, label in ((0, "absent"), (1, "present")):
            chosen = panel.probability[panel.truth == value]
            if len(chosen):
                axes.stairs(np.histogram(chosen, edges)[0], edges, fill=True, alpha=0.55, label=f"{label}: {len(chosen):,}")
        axes.set(xlim=(0, 1), yscale="symlog", xlabel="P(present)", ylabel="cells")
        if len(panel.truth):
            axes.legend(fontsize=6)
        return ""

    _draw(panels, path, draw)


def _draw(panels: Sequence[Panel], path: Path, draw: Callable[[Any, Panel], str]) -> None:
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(SIDE * columns, SIDE * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes, panel in zip(grid, panels, strict=False):
        said = draw(axes, panel)
        counts = f"{int(panel.truth.sum()):,} of {len(panel.truth):,} present"
        title = "\n".join(part for part in (panel.title, counts, said) if part)
        axes.set_title(title.replace("$", r"\$"), fontsize=7)
        axes.tick_params(labelsize=6)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set_fontsize(6)
    for axes in list(figure.axes)[len(panels) :]:
        axes.set_axis_off()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
