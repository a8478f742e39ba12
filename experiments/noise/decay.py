"""Whether the channel's lead on frozen features outlives a free choice of weight decay; README.md beside this."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from cells import FULL, Cells
from labelled import draw_labels
from methods import METHODS
from patients import load
from tables import scores
from training import Features, criterion, fit, predict

from hybridpt.objectives import Supervised

DECAYS = (0.05, 0.2, 0.5, 1.0, 2.0)
COMPARED = ("oracle", "bce", "gce", "channel_true", "channel_gold200")
SEEDS = (1, 2, 3, 4, 5)


def main() -> None:
    """Run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/experiments/noise"), help="folder in which run.py has been")
    output: Path = parser.parse_args().output
    world = load(output / "data", 10_000)
    cells = Cells(output, world, FULL)
    cells.reference()
    inputs, rows = cells.inputs("features"), []
    for seed in SEEDS:
        labels = draw_labels(world, "strong", "class-conditional", seed)
        for name in COMPARED:
            method = METHODS[name]
            sources, train, val = labels.of(method, inputs)
            for decay in DECAYS:
                torch.manual_seed(seed)
                recipe = replace(FULL.settings["features"], decay=decay)
                model = fit(
                    Features(train.images.shape[1]), Supervised(head="linear", **method.options), sources, train, val, recipe
                )
                found = scores(world.test.truth, predict(model, inputs["test"]))
                rows.append((name, str(decay), seed, criterion(model, val), *found))
    frame = pd.DataFrame(rows, columns=["method", "decay", "seed", "val", "auprc", "nll", "ece"])
    best = frame.loc[frame.groupby(["method", "seed"])["val"].idxmin()].assign(decay="by its own validation")
    frame = pd.concat([frame, best])
    frame.to_csv(output / "decay.csv", index=False, float_format="%.5f")
    for measure in ("auprc", "nll", "ece"):
        mean = frame.pivot_table(index="method", columns="decay", values=measure, sort=False)
        share = 100 * (mean - mean.loc["bce"]) / (mean.loc["oracle"] - mean.loc["bce"])
        print(f"\n{measure}, and what comes back of the loss of bce, in percent\n")
        print(
            pd.DataFrame(
                {d: [f"{m:.3f} [{s:+.0f}]" for m, s in zip(mean[d], share[d], strict=True)] for d in mean}, mean.index
            ).to_string()
        )
    print(f"\nall rows: {output / 'decay.csv'}")


if __name__ == "__main__":
    main()
