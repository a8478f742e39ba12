"""Which reports an image is told from, and in what pieces: the demo's hybrid in four ways; README.md beside this."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata, t

import hybridpt
from hybridpt.data.images import read_image
from hybridpt.data.text import contrastive_units
from hybridpt.data.transforms import standard
from labelers.io import atomic_path

DEMO = Path("runs/demo")
UNITS, NEGATIVES = ("report", "sentence"), ("all", "dataset")
MEASURES = (
    ("supervised", "auprc"),
    ("supervised", "nll"),
    ("zero_shot", "auroc"),
    ("retrieval", "hospital"),
    ("retrieval", "report"),
)
Way = tuple[str, str, int]


def run(*command: str | Path) -> None:
    """Run a command of the console scripts with this Python, quietly; stop where it fails, with what it said last."""
    words = [str(word) for word in command]
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"contrast: error: {shlex.join(words)}: {(done.stderr or done.stdout).strip()[-400:]}")


def score(output: Path, config: str, way: Way) -> pd.DataFrame:
    """Train and test in one way, if that was not done yet; returns the means over the findings."""
    unit, negatives, seed = way
    folder = output / f"{Path(config).stem}-{unit}-{negatives}-{seed}"
    results = folder / "test" / "results.csv"
    if not results.exists():
        options = ("--config", config, "--seed_everything", str(seed), "--data.text_unit", unit, "--wandb.mode", "disabled")
        options += ("--model.objectives.clip.init_args.negatives", negatives, "--trainer.enable_progress_bar", "false")
        start = ("hybridpt", "fit", *options, "--trainer.default_root_dir", folder / "fit")
        run(*start, *(("--ckpt_path", folder / "fit" / "last.ckpt") if (folder / "fit" / "last.ckpt").exists() else ()))
        given = ("--ckpt_path", folder / "fit" / "best.ckpt", "--data.gold", DEMO / "data" / "truth.csv")
        run("hybridpt", "test", *options, "--trainer.default_root_dir", folder / "test", *given)
    rows = pd.read_csv(results)
    rows = rows[(rows["finding"] == "macro") & (rows["dataset"] == "all")]
    about = {"config": Path(config).stem, "text_unit": unit, "negatives": negatives, "seed": seed}
    rows = pd.concat([rows[["task", "metric", "value", "low", "high"]], retrieval(folder / "fit" / "best.ckpt", unit)])
    return rows.assign(**about)


@torch.inference_mode()
def retrieval(checkpoint: Path, unit: str) -> pd.DataFrame:
    """Ask which reports of the test lie near an image, by AUROC, so that one half tells nothing; means over the images that have a report.

    ``hospital``: reports of its hospital (its own left out) against those of others. ``report``: its own against others of its hospital.
    """
    model = hybridpt.load(checkpoint)
    clip = model.objectives["clip"]
    manifest = pd.read_csv(DEMO / "data" / "manifest.csv")
    rows = manifest[(manifest["split"] == "test") & manifest["report"].notna()]
    studies = rows.drop_duplicates("study_id")
    texts = contrastive_units(studies["report"].tolist(), unit)
    parts = clip.encode_prompts(model.encoders, [part for text in texts for part in text])
    reports = torch.stack([part.mean(dim=0) for part in parts.split([len(text) for text in texts])])
    size = model.sources.image_size
    pixels = torch.stack([standard(read_image(DEMO / "data" / image), size) for image in rows["image"]])
    images = torch.cat([clip.spaces["text"](model.encoders.image(part).pooled) for part in pixels.split(64)])
    near = rankdata((images @ torch.nn.functional.normalize(reports, dim=1).T).numpy(), axis=1)
    own = rows["study_id"].to_numpy()[:, None] == studies["study_id"].to_numpy()
    here = rows["dataset"].to_numpy()[:, None] == studies["dataset"].to_numpy()
    hospital = [auroc(rank[~mine], near_by[~mine]) for rank, mine, near_by in zip(near, own, here, strict=True)]
    report = [auroc(rank[near_by], mine[near_by]) for rank, mine, near_by in zip(near, own, here, strict=True)]
    found = {"task": "retrieval", "metric": ["hospital", "report"], "value": [np.mean(hospital), np.mean(report)]}
    return pd.DataFrame({**found, "low": np.nan, "high": np.nan})


def auroc(score: np.ndarray, positive: np.ndarray) -> float:
    """How often a positive has the higher score, ties one half (Mann and Whitney 1947); (N,) each."""
    count = positive.sum()
    return float((rankdata(score)[positive].mean() - (count + 1) / 2) / (len(score) - count))


def main() -> None:
    """Run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/fit/hybrid.yaml", help="a fit with an objective clip on the demo's data")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--output", type=Path, default=Path("runs/experiments/contrast"))
    given = parser.parse_args()
    if not (DEMO / "channels.json").exists():
        raise SystemExit(f"contrast: error: there is no {DEMO / 'channels.json'}; run 'make demo' first")
    if given.jobs > 1:
        os.environ["OMP_NUM_THREADS"] = "1"
    ways = [(unit, negatives, seed) for seed, unit, negatives in product(given.seeds, UNITS, NEGATIVES)]
    path: Path = given.output / "results.csv"
    kept = pd.read_csv(path) if path.exists() else pd.DataFrame()
    with ThreadPoolExecutor(given.jobs) as pool:
        for way, rows in zip(ways, pool.map(lambda way: score(given.output, given.config, way), ways), strict=True):
            kept = pd.concat([kept, rows]).drop_duplicates([*rows.columns.drop(["value", "low", "high"])], keep="last")
            with atomic_path(path) as temporary:
                kept.to_csv(temporary, index=False, float_format="%.5f")
            print(f"done: {', '.join(str(part) for part in way)}", flush=True)
    show(kept)
    print(f"\nall rows: {path}")


def show(rows: pd.DataFrame) -> None:
    """Print means over the seeds, and what each way adds to that of the paper, seed by seed, with its 95 % interval (Student's t)."""
    out = []
    for (config, unit, negatives), part in rows.groupby(["config", "text_unit", "negatives"], sort=False):
        first = rows[(rows["config"] == config) & (rows["text_unit"] == UNITS[0]) & (rows["negatives"] == NEGATIVES[0])]
        row = [config, unit, negatives, part["seed"].nunique()]
        for task, metric in MEASURES:
            mine, base = (
                frame[(frame["task"] == task) & (frame["metric"] == metric)].set_index("seed")["value"] for frame in (part, first)
            )
            if mine.empty:
                row += ["", ""]
                continue
            more = (mine - base).dropna()
            half = more.std() / len(more) ** 0.5 * t.ppf(0.975, len(more) - 1) if len(more) > 1 else float("nan")
            row += [f"{mine.mean():.3f}", f"{more.mean():+.3f} ± {half:.3f}"]
        out.append(row)
    names = ["config", "text_unit", "negatives", "seeds"]
    for task, metric in MEASURES:
        names += [f"{task} {metric}", "more"]
    print("\n" + pd.DataFrame(out, columns=names).to_string(index=False))


if __name__ == "__main__":
    main()
