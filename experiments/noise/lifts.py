"""What lifts a network that is trained from scratch on strong noise further, beside the channel; README.md beside this."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from cells import FULL
from labelled import Labelled, draw_labels, sources_of
from methods import METHODS
from numpy.typing import NDArray
from patients import FINDINGS, load
from tables import scores
from training import Labels, Recipe, SmallNetwork, fit, predict

from hybridpt.functional.pool import pooled_evidence
from hybridpt.noise import log_channels, pool_of
from hybridpt.objectives import Supervised
from labelers.io import atomic_path
from labelers.votes import SILENT

RECIPE = FULL.settings["scratch"]
Row = tuple[float, float, float]


def plain(labels: Labelled, method: str, recipe: Recipe = RECIPE, gold: bool = False, width: int = 16) -> Row:
    """Train by one method; with ``gold`` on the judged patients too, and on their truth."""
    world = labels.world
    inputs = {name: getattr(world, name).pixels for name in ("train", "val")}
    sources, train, val = labels.of(METHODS[method], inputs)
    if gold:
        none = np.full(world.train.truth.shape, np.nan, np.float32)
        pixels = np.concatenate([train.images, world.judged.pixels[labels.gold_rows]])
        state = np.concatenate([train.state, labels.gold], axis=1)
        train = Labels(pixels, state, np.concatenate([none, labels.truth]))
    torch.manual_seed(labels.seed)
    model = fit(SmallNetwork(width), Supervised(head="linear", **METHODS[method].options), sources, train, val, recipe)
    return scores(world.test.truth, predict(model, world.test.pixels))


def again(labels: Labelled) -> Row:
    """Semi-supervised: networks on either half tell, with the channels, how likely each label of the other is; a third learns from that."""
    world, method = labels.world, METHODS["channel_gold200"]
    halves = [np.arange(len(world.train.truth)) % 2 == half for half in (0, 1)]
    sources, train, val = labels.of(method, {"train": world.train.pixels, "val": world.val.pixels})
    seen = np.empty(world.train.truth.shape, np.float32)
    for mine, other in (halves, halves[::-1]):
        torch.manual_seed(labels.seed)
        part = Labels(train.images[mine], train.state[:, mine])
        model = fit(SmallNetwork(), Supervised(head="linear", **method.options), sources, part, val, RECIPE)
        seen[other] = predict(model, train.images[other])
    held = _posterior(labels, seen)
    taught = Labels(train.images, np.zeros((1, *held.shape), np.int8), probability=held[None])
    torch.manual_seed(labels.seed + 100)
    prior = sources_of(("posterior",), held.mean(0))
    model = fit(SmallNetwork(), Supervised(label_term="soft", head="linear"), prior, taught, None, RECIPE)
    return scores(world.test.truth, predict(model, world.test.pixels))


def _posterior(labels: Labelled, seen: NDArray[np.float32]) -> NDArray[np.float32]:
    """P(present) given what a network sees and what the labelers say, (N, K)."""
    channels = labels.channels("gold200")
    log_channel = log_channels(channels, labels.labelers, ("phantom",), FINDINGS)[0]
    code = torch.from_numpy(labels.train.astype(np.int64)).transpose(0, 1)
    ratio = (log_channel[..., 1, :] - log_channel[..., 0, :]).expand(len(code), *log_channel.shape[:2], 4)
    pool = pool_of(channels, labels.labelers, FINDINGS)
    evidence = pooled_evidence(code.clamp(max=SILENT - 1), ratio, code != SILENT, pool)
    return torch.sigmoid(torch.logit(torch.from_numpy(seen), eps=1e-6) + evidence).numpy()


LIFTS: dict[str, Callable[[Labelled], Row]] = {
    "oracle": lambda labels: plain(labels, "oracle"),
    "bce": lambda labels: plain(labels, "bce"),
    "channel": lambda labels: plain(labels, "channel_gold200"),
    "bce, gold rows": lambda labels: plain(labels, "bce", gold=True),
    "channel, gold rows": lambda labels: plain(labels, "channel_gold200", gold=True),
    "bce, twice as long": lambda labels: plain(labels, "bce", replace(RECIPE, epochs=2 * RECIPE.epochs)),
    "channel, twice as long": lambda labels: plain(labels, "channel_gold200", replace(RECIPE, epochs=2 * RECIPE.epochs)),
    "channel, no augmentation": lambda labels: plain(labels, "channel_gold200", replace(RECIPE, augmented=False)),
    "channel, twice as wide": lambda labels: plain(labels, "channel_gold200", width=32),
    "channel, then semi-supervised": again,
}


def main() -> None:
    """Run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lifts", nargs="*", default=list(LIFTS), metavar="NAME", help=f"only these: {', '.join(LIFTS)}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--output", type=Path, default=Path("runs/experiments/noise"), help="folder in which run.py has been")
    given = parser.parse_args()
    world = load(given.output / "data", 10_000)
    path = given.output / "lifts.csv"
    frame = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["lift", "seed", "auprc", "nll", "ece"])
    for seed in given.seeds:
        for name in given.lifts:
            if ((frame["lift"] == name) & (frame["seed"] == seed)).any():
                continue
            row = LIFTS[name](draw_labels(world, "strong", "class-conditional", seed))
            frame.loc[len(frame)] = [name, seed, *row]
            with atomic_path(path) as temporary:
                frame.to_csv(temporary, index=False, float_format="%.5f")
            print(f"seed {seed}  {name:32s} AUPRC {row[0]:.3f}  NLL {row[1]:.3f}  ECE {row[2]:.3f}", flush=True)
    mean = frame.groupby("lift", sort=False)[["auprc", "nll", "ece"]].mean()
    for measure in ("auprc", "nll"):
        lost = mean.loc["oracle", measure] - mean.loc["bce", measure]
        mean[f"{measure} won back, %"] = 100 * (mean[measure] - mean.loc["bce", measure]) / lost
    print(f"\n{mean.to_string(float_format='%.3f')}\n\nall rows: {path}")


if __name__ == "__main__":
    main()
