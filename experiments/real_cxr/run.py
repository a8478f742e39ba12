"""Real chest radiographs of two sources: manifest -> labels -> fit -> test; README.md beside this file says what it is worth."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from labelers import STATES, LabelTable, Vocabulary, create, write_table

CONFIG = Path(__file__).resolve().parent / "config.yaml"
NOTES, NIH = "covid-notes", "nih-320"
EXCLUDED = ("unstated", "no-derivatives")
"""License classes whose images and notes are for local development only."""
SPLITS, CUTS = ("train", "val", "test"), (0.7, 0.8)
"""The splits, and the shares of the patients at which the second and the third begin."""

NO_FINDING = "No Finding"
NIH_FINDINGS = {
    "Atelectasis": "Atelectasis",
    "Cardiomegaly": "Cardiomegaly",
    "Consolidation": "Consolidation",
    "Edema": "Edema",
    "Effusion": "Pleural Effusion",
    "Emphysema": "Emphysema/COPD",
    "Fibrosis": "Pulmonary Fibrosis",
    "Hernia": "Hiatal Hernia",
    "Infiltration": "Infiltrate",
    "Mass": "Mass",
    "Nodule": "Nodule",
    "Pleural_Thickening": "Pleural Thickening",
    "Pneumonia": "Pneumonia",
    "Pneumothorax": "Pneumothorax",
    NO_FINDING: NO_FINDING,
}
"""Names of ChestX-ray14 -> names of the labeler's vocabulary."""
NIH_PROBABILITY = (0.9, 0.05, 0.5, 0.1)
"""P(present) by state. All are guesses: nobody judged these images, so what a listed finding is worth cannot be measured here, and a
tenth for one that is not listed only stays far from 'absent'."""


def read_source(root: Path, name: str) -> pd.DataFrame:
    """Read the manifest of one source as text, with absolute image paths and "" for what is not known."""
    path = root / name / "manifest.csv"
    if not path.is_file():
        raise SystemExit(f"real_cxr: error: {path}: no such file; give the folder that holds {NOTES} and {NIH} with --root")
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table["image"] = [str((root / name / image).resolve()) for image in table["image"]]
    return table.assign(dataset=name, view=table["view"].replace("?", ""))


def read_notes(root: Path) -> pd.DataFrame:
    """Read covid-notes under a usable license: images of one patient on one day are one study, which owns all its notes."""
    table = read_source(root, NOTES)
    table = table[~table["license_class"].isin(EXCLUDED)].reset_index(drop=True)
    dated = table["offset_days"].str.fullmatch(r"-?\d+")
    nth = table.groupby("patient_id").cumcount().astype(str)  # an image of an unknown day is a study by itself
    table["study_id"] = table["patient_id"] + ("_day" + table["offset_days"]).where(dated, "_image" + nth)
    written = table[table["report_text"] != ""].groupby("study_id")["report_text"]
    reports = written.agg(lambda notes: "\n\n".join(dict.fromkeys(notes)))
    return table.assign(report=table["study_id"].map(reports).fillna(""))


def read_nih(root: Path) -> pd.DataFrame:
    """Read nih-320: every image is a study, without a report."""
    table = read_source(root, NIH)
    return table.assign(study_id=[Path(image).stem for image in table["image"]], report="")


def draw(table: pd.DataFrame, seed: int, limit: int | None) -> pd.DataFrame:
    """Put whole groups of patients into splits at random, after dropping those that go beyond ``limit`` images."""
    groups = np.random.default_rng(seed).permutation(np.sort(table["group_id"].unique()))
    if limit is not None:
        groups = groups[table["group_id"].value_counts()[groups].cumsum().to_numpy() <= limit]
    place = np.digitize((np.arange(len(groups)) + 0.5) / max(1, len(groups)), CUTS)
    split = dict(zip(groups, (SPLITS[i] for i in place), strict=True))
    return table[table["group_id"].isin(split)].assign(split=lambda kept: kept["group_id"].map(split))


def nih_findings() -> dict[str, str]:
    """Return the findings of NIH that the labeler of the notes knows too; say which are left out."""
    known = create("context").vocabulary
    left_out = [theirs for theirs, ours in NIH_FINDINGS.items() if ours not in known]
    print(f"NIH labels without a counterpart in the vocabulary of 'context', left out: {', '.join(left_out) or 'none'}")
    return {theirs: ours for theirs, ours in NIH_FINDINGS.items() if theirs not in left_out}


def nih_listed(nih: pd.DataFrame, findings: dict[str, str]) -> pd.DataFrame:
    """Return one row a study, one column a finding: whether NIH lists it."""
    listed = nih.set_index("study_id")["labels"].str.get_dummies("|")
    return listed.reindex(columns=list(findings), fill_value=0).rename(columns=findings).astype(bool)


def nih_labels(listed: pd.DataFrame) -> LabelTable:
    """Turn NIH's lists into states: listed is positive, what is not listed is unmentioned, not negative."""
    state = np.where(listed, STATES.index("positive"), STATES.index("unmentioned"))
    vocabulary = Vocabulary.of(list(listed.columns), name="nih-14")
    return LabelTable.from_states(list(listed.index), vocabulary, state, source="nih", probability=NIH_PROBABILITY)


def nih_gold(listed: pd.DataFrame) -> pd.DataFrame:
    """Turn NIH's lists into what a test can use: 1 listed, 0 for the others of a normal image, else not judged.

    No Finding is judged everywhere, since NIH gives it only where nothing else is listed.
    """
    gold = listed.astype("Int64").where(listed | listed[[NO_FINDING]].to_numpy())
    return gold.assign(**{NO_FINDING: listed[NO_FINDING].astype("Int64")}).rename_axis("report_id")


def prepare(root: Path, output: Path, seed: int = 1, limit: int | None = None) -> None:
    """Write manifest.csv, reports.csv, labels-nih.parquet and gold.csv into ``output``; images stay where they are.

    Args:
        root: Folder that holds the two sources.
        output: Folder to write to; made where it is missing.
        seed: Seed of the splits.
        limit: Most images of each data set, whole patients at random; None for all.
    """
    notes, nih = draw(read_notes(root), seed, limit), draw(read_nih(root), seed, limit)
    output.mkdir(parents=True, exist_ok=True)
    both = pd.concat([notes, nih]).drop(columns="patient_id").rename(columns={"group_id": "patient_id"})
    both["image"] = [os.path.relpath(image, output.resolve()) for image in both["image"]]
    columns = ["image", "study_id", "patient_id", "dataset", "split", "view", "age", "sex", "report"]
    both[columns].to_csv(output / "manifest.csv", index=False)
    reports = notes[notes["report"] != ""].drop_duplicates("study_id").rename(columns={"study_id": "report_id", "report": "text"})
    reports[["report_id", "text"]].to_csv(output / "reports.csv", index=False)
    listed = nih_listed(nih, nih_findings())
    write_table(nih_labels(listed), output / "labels-nih.parquet")
    nih_gold(listed[(nih["split"] == "test").to_numpy()]).to_csv(output / "gold.csv")
    shown = both.assign(noted=both["study_id"].where(both["report"] != "")).groupby(["dataset", "split"], sort=False)
    counts = shown.agg(
        images=("image", "size"), studies=("study_id", "nunique"), patients=("patient_id", "nunique"), noted=("noted", "nunique")
    )
    print(counts.rename(columns={"noted": "studies with a note"}).to_string())


def run(*command: str | Path) -> None:
    """Show a command of the console scripts and run it with this Python; stop where it fails, it has said why."""
    words = [str(word) for word in command]
    print(f"\n$ {shlex.join(words)}", flush=True)
    status = subprocess.run([sys.executable, "-m", *words], check=False).returncode
    if status:
        raise SystemExit(status)


def label(output: Path) -> None:
    """Label the notes."""
    run("labelers", "run", output / "reports.csv", "--labeler", "context", "-o", output / "labels-notes.parquet")


def train_and_test(root: Path, output: Path, seed: int, epochs: int | None) -> None:
    """Fit on both sources, then test against NIH's own labels."""
    config = os.path.relpath(CONFIG)
    tables = f"[{NOTES}={output / 'labels-notes.parquet'}, {NIH}={output / 'labels-nih.parquet'}]"
    data = ("--data.manifest", output / "manifest.csv", "--data.labels", tables, "--data.image_root", root)
    seeds = ("--seed_everything", str(seed), "--data.seed", str(seed))
    length = () if epochs is None else ("--trainer.max_epochs", str(epochs))
    fit = output / "fit"
    run("hybridpt", "fit", "--config", config, *data, *seeds, *length, "--trainer.default_root_dir", fit)
    gold = ("--data.gold", output / "gold.csv", "--ckpt_path", fit / "best.ckpt")
    run("hybridpt", "test", "--config", config, *data, *seeds, *gold, "--trainer.default_root_dir", output)


def show(results: Path) -> None:
    """Print AUPRC with its 95 % interval beside the prevalence, which chance would reach, by finding."""
    table = pd.read_csv(results).query(f"dataset == '{NIH}' and value == value")
    auprc = table[table["metric"] == "auprc"]
    cells = [f"{v:.2f} [{low:.2f}, {high:.2f}]" for v, low, high in auprc[["value", "low", "high"]].itertuples(index=False)]
    keys = ["finding", "task"]
    shown = auprc.assign(cell=cells).set_index(keys)["cell"].unstack().rename_axis(columns=None)
    about = table[table["metric"] == "prevalence"].drop_duplicates("finding").set_index("finding")
    positive = (about["n"] * about["value"]).round().astype(int).astype(str)
    counts = pd.DataFrame({"n": about["n"].astype(str), "positive": positive, "prevalence": about["value"]})
    print(f"\nAUPRC on the test split of {NIH}, against the data set's own text-mined labels\n")
    print(counts.join(shown, how="right").to_string(float_format="%.2f", na_rep="-"), f"\n\nall rows: {results}")


def main() -> None:
    """Run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="folder that holds covid-notes and nih-320")
    parser.add_argument("--output", type=Path, default=Path("runs/real_cxr"), help="new folder (default: runs/real_cxr)")
    parser.add_argument("--epochs", type=int, help="epochs (default: those of config.yaml)")
    parser.add_argument("--seed", type=int, default=1, help="seed of splits and training (default: 1)")
    parser.add_argument("--limit", type=int, metavar="N", help="most images of each data set, for a quick try")
    arguments = parser.parse_args()
    output: Path = arguments.output
    if output.exists() and (output.is_file() or any(output.iterdir())):
        raise SystemExit(f"real_cxr: error: {output}: expected a new or empty folder; remove it or choose another with --output")
    prepare(arguments.root, output, arguments.seed, arguments.limit)
    label(output)
    train_and_test(arguments.root, output, arguments.seed, arguments.epochs)
    show(output / "results.csv")


if __name__ == "__main__":
    main()
