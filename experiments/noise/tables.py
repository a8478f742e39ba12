"""From scores to results.csv, to what each method wins back, to a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from cells import SETTINGS
from labelled import JUDGED, READ
from methods import METHODS
from numpy.typing import NDArray
from patients import World
from scipy.stats import t
from sources import KINDS, LEVELS

from hybridpt.functional.platt import fit_platt
from labelers.metrics import average_precision, expected_calibration_error, log_loss

LEFT = -105
"""Where the picture ends, in percent won back."""
COLUMNS = ["noise", "kind", "setting", "method", "seed", "auprc", "nll", "recalibrated_nll", "ece"]


def rows(output: Path, world: World) -> pd.DataFrame:
    """Score every cell that was run on the truth of the test patients; means over the findings."""
    out = []
    for path in sorted((output / "cells").glob("*/*.npz")):
        level, kind, seed, method = _parts(path.stem)
        with np.load(path) as kept:
            gold, truth, test = kept["gold"], kept["truth"], kept["test"]
        mended = recalibrated(gold, truth, test)
        about = (level, kind, path.parent.name)
        raw, after = scores(world.test.truth, test), scores(world.test.truth, mended)
        out.append((*about, method, seed, raw[0], raw[1], after[1], raw[2]))
        for name in (n for n, m in METHODS.items() if m.platt and m.like == method):
            out.append((*about, name, seed, raw[0], after[1], after[1], after[2]))
    frame = pd.DataFrame(out, columns=COLUMNS)
    order = {name: place for place, name in enumerate([*SETTINGS, *LEVELS, READ, *KINDS, *JUDGED, *METHODS])}
    return frame.sort_values(
        ["setting", "noise", "kind", "method", "seed"], key=lambda c: c.map(order) if c.dtype == object else c
    )


def _parts(stem: str) -> tuple[str, str, int, str]:
    level, rest = stem.split("-", 1)
    kind = next(kind for kind in (*KINDS, *JUDGED) if rest.startswith(kind))
    seed, method = rest[len(kind) + 1 :].split("-", 1)
    return level, kind, int(seed), method


def scores(truth: NDArray[np.bool_], score: NDArray[np.floating]) -> tuple[float, float, float]:
    """Return AUPRC, NLL and ECE, means over the findings, of (N, K) and (N, K)."""
    columns = range(truth.shape[1])
    measures = (average_precision, log_loss, expected_calibration_error)
    auprc, nll, ece = (float(np.mean([measure(truth[:, k], score[:, k]) for k in columns])) for measure in measures)
    return auprc, nll, ece


def recalibrated(gold: NDArray[np.float32], truth: NDArray[np.float32], test: NDArray[np.float32]) -> NDArray[np.float64]:
    """Recalibrate test scores on the gold, as the package does at the end of a training."""
    slope, intercept = fit_platt(_logit(gold), torch.from_numpy(truth), torch.ones(len(gold)))
    mended: NDArray[np.float64] = torch.sigmoid(slope * _logit(test) + intercept).numpy()
    return mended


def _logit(p: NDArray[np.float32]) -> torch.Tensor:
    return torch.logit(torch.from_numpy(p).double(), eps=1e-6)


def compare(frame: pd.DataFrame) -> pd.DataFrame:
    """What each method wins back of what ``bce`` loses to ``oracle``, seed by seed: means with 95 % intervals (Student's t).

    The share is the ratio R of the mean gain to the mean loss; its interval is that of gain - R loss, seed by seed, over the mean loss
    (the linearised ratio estimator, Cochran 1977, Sampling Techniques, chapter 6). ``lead`` is the measure of ``channel_gold200`` less that
    of the method, ``lead_half`` half its interval.
    """
    by = ["setting", "noise", "kind"]
    out = []
    for place, part in frame.groupby(by, sort=False):
        wide = part.pivot(index="seed", columns="method")
        if "oracle" not in wide["auprc"] or "bce" not in wide["auprc"]:
            continue
        for measure in ("auprc", "nll", "recalibrated_nll", "ece"):
            values = wide[measure]
            base = "bce_platt" if measure == "recalibrated_nll" else "bce"
            lost = (values["oracle"] - values[base]).dropna()
            for method in (name for name in METHODS if name in values):
                gain = (values[method] - values[base]).dropna()
                mean, half = interval(gain)
                percent, percent_half = share(gain, lost)
                lead = (
                    interval((values["channel_gold200"] - values[method]).dropna())
                    if "channel_gold200" in values
                    else (np.nan,) * 2
                )
                out.append(
                    (
                        *place,
                        method,
                        measure,
                        values[method].mean(),
                        mean,
                        half,
                        percent,
                        percent_half,
                        *lead,
                        len(gain),
                    )
                )
    names = ("method", "measure", "value", "gain", "gain_half", "percent", "percent_half", "lead", "lead_half", "seeds")
    return pd.DataFrame(out, columns=[*by, *names])


def interval(values: pd.Series) -> tuple[float, float]:  # type: ignore[type-arg]
    """Mean and half the 95 % interval of paired differences."""
    half = values.std() / np.sqrt(len(values)) * t.ppf(0.975, len(values) - 1) if len(values) > 1 else np.nan
    return float(values.mean()), float(half)


def share(gain: pd.Series, lost: pd.Series) -> tuple[float, float]:  # type: ignore[type-arg]
    """Ratio of two means over the seeds that both have, in percent, and half its 95 % interval."""
    both = gain.index.intersection(lost.index)
    gain, lost = gain[both], lost[both]
    ratio = gain.mean() / lost.mean()
    _, half = interval(gain - ratio * lost)
    return 100 * float(ratio), 100 * half / abs(float(lost.mean()))


def show(frame: pd.DataFrame, compared: pd.DataFrame) -> None:
    """Print a table a setting."""
    for (setting, level), part in compared.groupby(["setting", "noise"], sort=False):
        seeds = part["seeds"].max()
        print(
            f"\n{setting}, {level} noise, {seeds} seeds: mean, and in brackets what comes back of the loss of bce, in percent\n"
        )
        wide = part.assign(
            cell=[f"{v:.3f} [{p:+.0f} ± {h:.0f}]" for v, p, h in part[["value", "percent", "percent_half"]].to_numpy()]
        )
        wide = wide[wide["measure"] != "recalibrated_nll"]
        print(
            wide.pivot_table(index="method", columns=["kind", "measure"], values="cell", aggfunc="first", sort=False).to_string()
        )


def picture(compared: pd.DataFrame, path: Path) -> None:
    """Draw, for strong noise, the share of AUPRC and of NLL that comes back, a panel a setting."""
    from matplotlib.figure import Figure

    strong = compared[(compared["noise"] == "strong") & ~compared["method"].isin(["oracle", "bce"])]
    settings = [s for s in SETTINGS if s in set(strong["setting"])]
    if not settings:
        return
    figure = Figure(figsize=(5 * len(settings) + 1, 11), layout="constrained")
    grid = figure.subplots(2, len(settings), squeeze=False, sharey="row")
    for column, setting in enumerate(settings):
        for row, measure in enumerate(("auprc", "nll")):
            axes = grid[row, column]
            part = strong[(strong["setting"] == setting) & (strong["measure"] == measure)]
            names = [name for name in METHODS if name in set(part["method"])]
            for number, kind in enumerate(KINDS):
                mine = part[part["kind"] == kind].set_index("method").reindex(names)
                place = np.arange(len(names)) + 0.25 * (number - 1)
                drawn = axes.errorbar(mine["percent"], place, xerr=mine["percent_half"], fmt="o", ms=4, capsize=2, label=kind)
                for x, y in zip(mine["percent"], place, strict=True):
                    if x < LEFT:  # beyond the edge: an arrow and the number
                        axes.plot(LEFT + 2, y, "<", ms=4, color=drawn[0].get_color())
                        axes.annotate(f"{x:.0f}", (LEFT + 6, y), fontsize=6, va="center", color=drawn[0].get_color())
            axes.axvline(0, color="gray", lw=0.8)
            axes.axvline(100, color="gray", lw=0.8, ls=":")
            axes.set(
                xlim=(LEFT, 115), title=f"{setting}: {measure.upper()}", xlabel="won back, % of what bce loses to clean labels"
            )
            axes.set_yticks(range(len(names)), names)
    for axes in grid[:, 0]:
        axes.invert_yaxis()
    grid[0, 0].legend(fontsize=8)
    figure.savefig(path, dpi=110)
