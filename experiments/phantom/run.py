"""The phantom tells methods apart: a small network on truth against one on report labels, by amount of data; README.md beside this."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict

from labelers import LabelTable, Vocabulary, write_table

CONFIG = Path(__file__).resolve().parent / "config.yaml"
SOURCES = {"truth": "truth.parquet", "reports": "reports.parquet"}
"""The label tables: what is in the pictures, and what the labeler `context` reads in the reports."""
SIZE = 96
BORDER = 4  # pixels a side
BOOTSTRAPS = 300


@dataclass(frozen=True)
class Plan:
    """How much is run: studies drawn, training studies of each point of the curve with its epochs, and seeds of training."""

    studies: int
    amounts: dict[int, int]
    seeds: tuple[int, ...]


QUICK = Plan(studies=4000, amounts={400: 50, 1600: 30}, seeds=(1,))
FULL = Plan(studies=16000, amounts={500: 60, 2000: 30, 8000: 16}, seeds=(1,))


def run(*command: str | Path, quiet: bool = False) -> None:
    """Show a command of the console scripts and run it with this Python; stop where it fails, it has said why."""
    words = [str(word) for word in command]
    print(f"\n$ {shlex.join(words)}", flush=True)
    output = subprocess.DEVNULL if quiet else None
    status = subprocess.run([sys.executable, "-m", *words], stdout=output, check=False).returncode
    if status:
        raise SystemExit(status)


def draw(output: Path, plan: Plan) -> pd.DataFrame:
    """Draw the phantom; returns its manifest."""
    data = output / "data"
    run(
        "hybridpt",
        "data",
        "phantom",
        "--studies",
        str(plan.studies),
        "--size",
        str(SIZE),
        "--seed",
        "1",
        "--jobs",
        "2",
        "-o",
        data,
    )
    return pd.read_csv(data / "manifest.csv", dtype={"study_id": str}, keep_default_na=False)


def label(output: Path) -> None:
    """Write both label tables, and gold for the test split."""
    truth = pd.read_csv(output / "data" / "truth.csv", index_col="report_id")
    state = np.where(truth.to_numpy() == 1, 0, 1)  # positive, negative
    table = LabelTable.from_states(list(truth.index), Vocabulary.of(list(truth), name="phantom"), state, source="truth")
    write_table(table, output / SOURCES["truth"])
    run("labelers", "run", output / "data" / "reports.csv", "--labeler", "context", "-o", output / SOURCES["reports"])


def cut(output: Path, manifest: pd.DataFrame, plan: Plan) -> None:
    """Write a manifest for each amount: its first training studies that have a report, frontal pictures; val and test stay whole."""
    frontal = manifest[(manifest["view"] != "LATERAL") & (manifest["report"] != "")]
    train = frontal[frontal["split"] == "train"]
    studies = train["study_id"].drop_duplicates()
    most = max(plan.amounts)
    if len(studies) < most:
        raise SystemExit(f"phantom: error: {len(studies)} training studies were drawn, {most} are wanted; draw more")
    for amount in plan.amounts:
        kept = train[train["study_id"].isin(set(studies[:amount]))]
        pd.concat([kept, frontal[frontal["split"] != "train"]]).to_csv(output / "data" / f"manifest-{amount}.csv", index=False)


def train_and_test(output: Path, source: str, amount: int, epochs: int, seed: int) -> pd.DataFrame:
    """Fit on one source of labels, test on truth; what was done before is not done again. Returns the rows of results.csv."""
    folder = output / f"{source}-{amount}-{seed}"
    results = folder / "results.csv"
    if not results.exists():
        config = ("--config", os.path.relpath(CONFIG))
        data = ("--data.manifest", output / "data" / f"manifest-{amount}.csv", "--data.labels", output / SOURCES[source])
        seeds = ("--seed_everything", str(seed), "--data.seed", str(seed), "--trainer.max_epochs", str(epochs))
        started = time.monotonic()
        last = folder / "fit" / "last.ckpt"
        go_on = ("--ckpt_path", last) if last.exists() else ()
        run("hybridpt", "fit", *config, *data, *seeds, *go_on, "--trainer.default_root_dir", folder / "fit", quiet=True)
        print(f"{time.monotonic() - started:.0f} s")
        gold = ("--data.gold", output / "data" / "truth.csv", "--ckpt_path", last)
        run("hybridpt", "test", *config, *data, *seeds, *gold, "--trainer.default_root_dir", folder, quiet=True)
    rows = pd.read_csv(results).query("dataset == 'all'")
    return rows.assign(experiment="curve", source=source, studies=amount, seed=seed)


KEPT = ["experiment", "source", "studies", "seed", "finding", "metric", "value", "low", "high", "n"]


def blind(output: Path, manifest: pd.DataFrame) -> pd.DataFrame:
    """How well classifiers do that see no patient: border, marker and view, hospital, the report's lines that are not about the study.

    Every guess is cross-validated over patients; intervals are bootstrapped over patients.
    """
    first = manifest[manifest["view"] != "LATERAL"].drop_duplicates("study_id")
    truth = pd.read_csv(output / "data" / "truth.csv", index_col="report_id").loc[first["study_id"]]
    seen = {
        "border": np.stack([_border(output / "data" / image) for image in first["image"]]),
        "marker and view": pd.get_dummies(first["dataset"] + first["view"]).to_numpy(float),
        "hospital": pd.get_dummies(first["dataset"]).to_numpy(float),
        "indication": _words(first["report"]),
    }
    rows = []
    for name, features in seen.items():
        for finding in truth:
            label, patients = truth[finding].to_numpy(), first["patient_id"].to_numpy()
            model = HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=8, random_state=0)
            guess = cross_val_predict(model, features, label, groups=patients, cv=GroupKFold(4), method="predict_proba")[:, 1]
            value, low, high = _auroc(label, guess, patients)
            rows.append(("shortcut", name, len(first), 0, finding, "auroc", value, low, high, len(first)))
    return pd.DataFrame(rows, columns=KEPT)


def _border(path: Path) -> NDArray[np.float64]:
    """Means of short pieces along the picture's rim."""
    with Image.open(path) as image:
        pixels = np.asarray(image, float) / 255
    rim = [pixels[:BORDER], pixels[-BORDER:], pixels[:, :BORDER].T, pixels[:, -BORDER:].T]
    return np.concatenate([side.reshape(BORDER, -1, 8).mean(axis=(0, 2)) for side in rim])


def _words(reports: pd.Series[str]) -> NDArray[np.float64]:
    """Which words stand in the lines about reason and comparison, for the 60 commonest words."""
    asked = [
        " ".join(
            line.lower()
            for line in report.splitlines()
            if line.lower().startswith(("indication", "clinical", "comparison", "history"))
        )
        for report in reports
    ]
    words = pd.Series(" ".join(asked).split()).value_counts().index[:60]
    return np.array([[float(word in text.split()) for word in words] for text in asked])


def _auroc(label: NDArray[np.int64], guess: NDArray[np.float64], patients: NDArray[np.object_]) -> tuple[float, float, float]:
    draws = np.random.default_rng(0)
    names, owner = np.unique(patients, return_inverse=True)
    values = []
    for _ in range(BOOTSTRAPS):
        times = np.bincount(draws.integers(len(names), size=len(names)), minlength=len(names))[owner]
        if 0 < (label * times).sum() < times.sum():
            values.append(roc_auc_score(label, guess, sample_weight=times))
    low, high = np.quantile(values, [0.025, 0.975])
    return float(roc_auc_score(label, guess)), float(low), float(high)


def macro(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Mean over the findings by source and amount, with its interval over patients; figures and intervals are means over seeds."""
    shown = rows[(rows["experiment"] == "curve") & (rows["metric"] == metric) & (rows["finding"] == "macro")]
    return shown.groupby(["source", "studies"])[["value", "low", "high"]].mean()


def picture(rows: pd.DataFrame, path: Path) -> None:
    """Draw the curves, and the findings at the largest amount."""
    from matplotlib.figure import Figure

    curve = rows[(rows["experiment"] == "curve") & (rows["metric"] == "auprc") & (rows["finding"] != "macro")]
    figure = Figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.4))
    for number, source in enumerate(SOURCES):
        mean = macro(rows, "auprc").loc[source]
        left.errorbar(
            mean.index,
            mean["value"],
            [mean["value"] - mean["low"], mean["high"] - mean["value"]],
            label=source,
            capsize=3,
            marker="o",
        )
        most = curve[(curve["source"] == source) & (curve["studies"] == curve["studies"].max())]
        by = most.groupby("finding", sort=False)[["value", "low", "high"]].mean()
        place = np.arange(len(by)) + 0.4 * number
        error = [by["value"] - by["low"], by["high"] - by["value"]]
        right.barh(place, by["value"], 0.38, xerr=error, capsize=2, label=source)
        right.set_yticks(np.arange(len(by)) + 0.2, by.index)
    left.set(xscale="log", xlabel="training studies", ylabel="AUPRC on truth, mean over 16 findings")
    right.set(xlabel=f"AUPRC on truth, {curve['studies'].max()} training studies", xlim=(0, 1))
    right.invert_yaxis()
    left.legend()
    figure.savefig(path, dpi=130)


def show(rows: pd.DataFrame) -> None:
    """Print the curve, the findings and the shortcuts."""
    for metric in ("auprc", "auroc"):
        print(f"\nmean {metric.upper()} over the findings on truth, with its 95 % interval over patients\n")
        print(macro(rows, metric).to_string(float_format="%.3f"))
    curve = rows[(rows["experiment"] == "curve") & (rows["studies"] == rows.loc[rows["experiment"] == "curve", "studies"].max())]
    shown = curve[curve["metric"].isin(["auprc", "auroc", "prevalence"])]
    print("\nby finding, most training studies\n")
    print(
        shown.pivot_table(index="finding", columns=["metric", "source"], values="value", sort=False).to_string(
            float_format="%.3f"
        )
    )
    blind_rows = rows[rows["experiment"] == "shortcut"]
    print("\nAUROC of classifiers that see no patient; chance is 0.5\n")
    print(blind_rows.pivot_table(index="finding", columns="source", values="value", sort=False).to_string(float_format="%.3f"))
    outside = blind_rows[(blind_rows["low"] > 0.5)]
    print(
        f"\n{len(outside)} of {len(blind_rows)} intervals lie wholly above 0.5 (about {0.025 * len(blind_rows):.0f} would by chance)"
    )


def main() -> None:
    """Run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less data: minutes on two cores")
    parser.add_argument(
        "--output", type=Path, help="folder (default: runs/experiments/phantom, with -quick behind it for --quick)"
    )
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else FULL
    output: Path = arguments.output or Path("runs/experiments") / ("phantom-quick" if arguments.quick else "phantom")
    output.mkdir(parents=True, exist_ok=True)
    manifest = draw(output, plan)
    label(output)
    cut(output, manifest, plan)
    parts = [
        train_and_test(output, source, amount, epochs, seed)[KEPT]
        for amount, epochs in plan.amounts.items()
        for seed in plan.seeds
        for source in SOURCES
    ]
    rows = pd.concat([*parts, blind(output, manifest)])
    rows.to_csv(output / "results.csv", index=False, float_format="%.4f")
    picture(rows, output / "results.png")
    show(rows)
    print(f"\nall rows: {output / 'results.csv'}, picture: {output / 'results.png'}")


if __name__ == "__main__":
    main()
