"""How good the labels and the graded probabilities of `context` are on judged Open-I reports; README.md beside this."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import beta

from labelers import STATES, Gold, LabelTable, create, read_gold, read_reports, score
from labelers.agreement import NO_FINDING, align

COLUMNS = ["what", "gold", "finding", "said", "value", "low", "high", "n"]
GOLD = {"gold_chexpert14.csv": "CheXpert's names", "gold_fine37.csv": "fine findings"}
COLORS = {"positive": "tab:red", "uncertain": "tab:orange", "negative": "tab:blue", "unmentioned": "tab:gray"}


def reports_file() -> Path:
    """Return the path of the Open-I reports that torchxrayvision ships."""
    spec = importlib.util.find_spec("torchxrayvision")
    if spec is None or spec.origin is None:
        raise SystemExit("labeler_quality: error: the Open-I reports come with torchxrayvision; pip install 'hybridpt[openi]'")
    return Path(spec.origin).parent / "data" / "NLMCXR_reports.tgz"


def interval(hits: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Clopper and Pearson, Biometrika 1934)."""
    low = float(beta.ppf(0.025, hits, count - hits + 1)) if hits else 0.0
    return low, float(beta.ppf(0.975, hits + 1, count - hits)) if hits < count else 1.0


def calibration(table: LabelTable, gold: Gold, name: str) -> pd.DataFrame:
    """Return how often a finding is there, for every probability and state that the labeler gives."""
    findings, state, probability, truth = align(table, gold)
    kept = np.array([finding != NO_FINDING for finding in findings])
    state, said, truth = state[:, kept], probability[:, kept].astype(float).round(3), truth[:, kept]
    rows = []
    for value in np.unique(said):
        for code, word in enumerate(STATES):
            cells = ~np.isnan(truth) & (said == value) & (state == code)
            count, hits = int(cells.sum()), int(truth[cells].sum())
            if count:
                rows.append(("calibration", name, word, value, hits / count, *interval(hits, count), count))
    return pd.DataFrame(rows, columns=COLUMNS)


def quality(table: LabelTable, gold: Gold, name: str) -> pd.DataFrame:
    """Return F1 by finding with the number of gold positives, and macro and micro F1."""
    scores = score(table, gold)
    rows = [("f1", name, one.finding, np.nan, one.f1, np.nan, np.nan, one.positives) for one in scores.findings]
    rows += [("f1", name, mean, np.nan, getattr(scores, mean)["f1"], np.nan, np.nan, 0) for mean in ("macro", "micro")]
    return pd.DataFrame(rows, columns=COLUMNS)


def picture(rows: pd.DataFrame, path: Path) -> None:
    """Draw what was said against what is so, a panel a gold file, and F1 by finding."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 9), layout="constrained")
    for (name, panel), axes in zip(rows.groupby("gold", sort=False), figure.subplots(2, 2), strict=True):
        left, right = axes
        graded = panel[panel["what"] == "calibration"]
        for state, part in graded.groupby("finding", sort=False):
            error = np.abs(np.stack([part["value"] - part["low"], part["high"] - part["value"]]).astype(float))
            left.errorbar(part["said"], part["value"], error, fmt="o", capsize=2, label=state, color=COLORS[str(state)])
        left.plot([0, 1], [0, 1], color="black", linewidth=0.8)
        left.set(xlabel="probability that the labeler gives", ylabel=f"share coded as present, {name}", xlim=(0, 1), ylim=(0, 1))
        left.legend()
        f1 = panel[panel["what"] == "f1"].iloc[::-1]
        right.barh(f1["finding"], f1["value"].astype(float))
        right.set(xlabel="F1 (positive)", xlim=(0, 1))
        right.tick_params(axis="y", labelsize=6)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Label, compare, write and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gold", type=Path, default=Path("../shared/data/openi-gold"), help="folder with the gold files")
    parser.add_argument("--output", type=Path, default=Path("runs/experiments/labeler_quality"))
    arguments = parser.parse_args()
    golds = {name: read_gold(arguments.gold / file) for file, name in GOLD.items()}
    judged = {str(i) for gold in golds.values() for i in gold.report_ids}
    table = create("context").label([report for report in read_reports(reports_file()) if report.report_id in judged])
    rows = pd.concat([part(table, gold, name) for name, gold in golds.items() for part in (calibration, quality)])
    arguments.output.mkdir(parents=True, exist_ok=True)
    rows.to_csv(arguments.output / "results.csv", index=False, float_format="%.4f")
    picture(rows, arguments.output / "results.png")
    print(rows[(rows["what"] == "calibration")].drop(columns="what").to_string(index=False, float_format="{:.3f}".format))
    print(rows[rows["finding"].isin(["macro", "micro", NO_FINDING])][["gold", "finding", "value"]].to_string(index=False))
    print(f"\nall rows: {arguments.output / 'results.csv'}, picture: {arguments.output / 'results.png'}")


if __name__ == "__main__":
    main()
