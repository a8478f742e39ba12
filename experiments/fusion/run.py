"""Labels of several labelers fused: against known truth, for speed, and on real reports; README.md beside this."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import t

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # what experiments share

import coverage
import real
import simulated
import speed

PARTS = ("simulated", "coverage", "real", "speed")
COLORS = {
    simulated.OURS: "black",
    "calibrated vote": "tab:blue",
    "plain product": "tab:green",
    "mean": "tab:gray",
    "best single labeler": "tab:brown",
    "plain Dawid-Skene": "tab:orange",
    "crowd-kit DawidSkene": "tab:red",
    "snorkel LabelModel": "tab:purple",
    "snorkel LabelModel + Platt": "tab:pink",
}


def means(rows: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Mean over seeds with a 95 % interval (Student's t), by setting and method."""
    by = ["reports", "silent", "hard", "shared", "method"]
    grouped = rows.groupby(by, sort=False)[measure].agg(["mean", "std", "count", "max"]).reset_index()
    grouped["half"] = grouped["std"] / np.sqrt(grouped["count"]) * t.ppf(0.975, grouped["count"] - 1)
    return grouped


def tell_simulated(rows: pd.DataFrame) -> None:
    """Print a table a measure, a method a line."""
    for measure in ("nll_ratio", "auprc_loss", "ece"):
        table = means(rows, measure)
        cells = [f"{m:.4f} ± {h:.4f}" for m, h in zip(table["mean"], table["half"], strict=True)]
        wide = table.assign(cell=cells).pivot(index="method", columns=["silent", "hard", "reports", "shared"], values="cell")
        print(f"\n{measure}\n{wide.reindex(['exact posterior', *COLORS]).T.to_string()}")


def picture(rows: pd.DataFrame, covered: pd.DataFrame | None, path: Path) -> None:
    """Draw NLL and AUPRC against shared errors, a line a method, and what the intervals cover."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 9), layout="constrained")
    axes = figure.subplots(2, 2)
    plain = rows[(rows["silent"] == 0) & (rows["hard"] == 0)]
    most = plain["reports"].max()
    panels = [
        (axes[0, 0], plain["reports"].min(), "nll_ratio"),
        (axes[0, 1], most, "nll_ratio"),
        (axes[1, 0], most, "auprc_loss"),
    ]
    for panel, reports, measure in panels:
        table = means(plain[plain["reports"] == reports], measure)
        for method, color in COLORS.items():
            line = table[table["method"] == method]
            panel.errorbar(
                line["shared"], line["mean"], line["half"], marker="o", markersize=3, capsize=2, color=color, label=method
            )
        ratio = measure == "nll_ratio"
        panel.axhline(1.2 if ratio else 0.005, color="black", linestyle=":", linewidth=0.8)
        label = "NLL over that of the exact posterior" if ratio else "AUPRC below that of the exact posterior"
        panel.set(
            xlabel="share of the cells in which one of five labelers copies another", ylabel=f"{label}, {reports:,} reports"
        )
        panel.set_yscale("log" if ratio else "symlog", **({} if ratio else {"linthresh": 0.01}))
        if not ratio:
            panel.set_ylim(bottom=-0.001)
    axes[0, 1].legend(fontsize=7)
    if covered is None:
        axes[1, 1].set_axis_off()
    else:
        chosen = covered[covered["entries"].str.contains(",") | (covered["entries"] == "all")]
        for offset, ((what, gold, shared), part) in enumerate(chosen.groupby(["what", "gold_rows", "shared"], sort=False)):
            name = f"{gold} gold reports" if what == "gold" else f"no gold, shared {shared}"
            axes[1, 1].plot(part["coverage"], np.arange(len(part)) + 0.15 * offset, "o", markersize=4, label=name)
        axes[1, 1].set_yticks(np.arange(len(part)) + 0.2, part["entries"], fontsize=7)
        axes[1, 1].axvspan(0.90, 0.98, color="tab:green", alpha=0.15)
        axes[1, 1].set(xlabel="share of 95 % intervals that hold the entry", xlim=(0.75, 1))
        axes[1, 1].legend(fontsize=7)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Run the parts that are asked for, and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--gold", type=Path, help="gold_chexpert14.csv, for the part 'real'")
    parser.add_argument("--quick", action="store_true", help="two simulated sets of reports in the place of all")
    parser.add_argument("--output", type=Path, default=Path("runs/experiments/fusion"))
    arguments = parser.parse_args()
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    if "real" in arguments.parts and arguments.gold is None:
        parser.error("the part 'real' reads judged reports; give them by --gold FILE")
    if "simulated" in arguments.parts:
        tell_simulated(simulated.run(output, arguments.quick))
    if "coverage" in arguments.parts:
        print(coverage.run(output).to_string(index=False, float_format="{:.3f}".format))
    if "real" in arguments.parts:
        real.tell(real.run(output, arguments.gold))
    if "speed" in arguments.parts:
        print(speed.run(output).to_string(index=False, float_format="{:.2f}".format))
    if (output / "results.csv").exists():
        covered = pd.read_csv(output / "coverage.csv") if (output / "coverage.csv").exists() else None
        picture(pd.read_csv(output / "results.csv"), covered, output / "results.png")


if __name__ == "__main__":
    main()
