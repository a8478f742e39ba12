"""Whether weights rank sources by their true noise: nine labelers from good to bad, and four hospitals with more and more wrong reports."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from cells import FULL, Cells
from labelled import gold_rows, sources_of
from numpy.typing import NDArray
from patients import FINDINGS, Patients, World, load
from scipy.stats import spearmanr
from sources import state_chances
from training import Features, Labels, fit, predict

from hybridpt.functional.weights import text_weights
from hybridpt.noise import channel_bits
from hybridpt.objectives import Supervised
from labelers import LabelTable, Vocabulary
from labelers.channel import ALL_DATASETS, Channel, ChannelSet, estimate_channels
from labelers.io.reading import Gold
from labelers.types import POSITIVE, STATES
from labelers.votes import SILENT

RATES = tuple((miss, miss / 3) for miss in np.linspace(0.05, 0.5, 9).round(3).tolist())
"""Missed and invented, by labeler."""
WRONG = (0.0, 0.25, 0.5, 0.75)
"""Share of the reports that belong to another image, by hospital."""
SEEDS = (1, 2, 3, 4, 5)


def say(matrix: NDArray[np.float64], patients: Patients, rng: np.random.Generator) -> NDArray[np.int8]:
    """Draw what a labeler says, (N, K)."""
    ends = matrix[patients.truth.astype(int)].cumsum(-1)
    return (rng.random(patients.truth.shape)[..., None] > ends[..., :-1]).sum(-1).astype(np.int8)


def sources_by_weight(world: World, features: dict[str, NDArray[np.float32]], seed: int) -> list[tuple[str, float, float]]:
    """Give a ninth of the patients to each labeler; returns kind of weight, true bits and weight of each."""
    rng = np.random.default_rng([seed, 7])
    matrices = [state_chances(*rates) for rates in RATES]
    names = tuple(f"labeler{number}" for number in range(len(RATES)))
    prior = world.train.truth.mean(0)
    exact = ChannelSet({n: {ALL_DATASETS: dict.fromkeys(FINDINGS, _exact(m))} for n, m in zip(names, matrices, strict=True)}, {})
    bits = channel_bits(exact, names, ("phantom",), FINDINGS, prior)[0].mean(-1).tolist()
    judged = world.judged.part(gold_rows(world, seed))
    vocabulary = Vocabulary.of(list(FINDINGS), name="phantom")
    tables = [
        LabelTable.from_states(list(judged.study_id), vocabulary, say(m, judged, rng), n)
        for n, m in zip(names, matrices, strict=True)
    ]
    gold = Gold(judged.study_id, FINDINGS, judged.truth.astype(np.float32))
    measured = [estimate_channels([table], gold, "images") for table in tables]  # unrelated labelers: nothing to join
    known = ChannelSet({n: one.channels[n] for n, one in zip(names, measured, strict=True)}, measured[0].prior, truth="images")
    owner = rng.integers(len(names), size=len(world.train.truth))
    state = np.stack([np.where((owner == s)[:, None], say(m, world.train, rng), SILENT) for s, m in enumerate(matrices)]).astype(
        np.int8
    )
    out = []
    for kind in ("analytic", "learned"):
        torch.manual_seed(seed)
        objective = Supervised(label_term="bce", head="linear", source_weights=kind)  # type: ignore[arg-type]
        train = Labels(features["train"], state)
        fit(
            Features(features["train"].shape[1]),
            objective,
            sources_of(names, prior, known),
            train,
            None,
            FULL.settings["features"],
        )
        assert objective.weight_by_source is not None
        out += [(kind, true, float(weight)) for true, weight in zip(bits, objective.weight_by_source[0], strict=True)]
    return out


def _exact(matrix: NDArray[np.float64]) -> Channel:
    return Channel(matrix, matrix, matrix, np.zeros((2, len(STATES)), np.int64))


def hospitals_by_weight(world: World, features: dict[str, NDArray[np.float32]], seed: int) -> list[tuple[str, float, float]]:
    """Mix up a share of the reports of each hospital; returns the share of right ones and the weight that is found, for each."""
    rng = np.random.default_rng([seed, 8])
    matrix = state_chances(0.2, 0.06)
    torch.manual_seed(seed)
    train = Labels(features["train"], say(matrix, world.train, rng)[None])
    sources = sources_of(("rules",), world.train.truth.mean(0))
    model = fit(
        Features(features["train"].shape[1]),
        Supervised(label_term="bce", head="linear"),
        sources,
        train,
        None,
        FULL.settings["features"],
    )
    image, text = predict(model, features["val"]), say(matrix, world.val, rng)
    hospital = rng.integers(len(WRONG), size=len(text))
    mixed = rng.random(len(text)) < np.array(WRONG)[hospital]
    text[mixed] = text[rng.permutation(np.flatnonzero(mixed))]
    said = torch.from_numpy((text == POSITIVE).astype(np.float32))
    weights = text_weights(
        torch.from_numpy(image), said, torch.ones(said.shape, dtype=torch.bool), torch.from_numpy(hospital), len(WRONG)
    )
    return [("text", 1 - wrong, float(weight)) for wrong, weight in zip(WRONG, weights, strict=True)]


def main() -> None:
    """Run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/experiments/noise"), help="folder in which run.py has been")
    output: Path = parser.parse_args().output
    cells = Cells(output, load(output / "data", 10_000), FULL)
    cells.reference()
    world, features = cells.world, cells.inputs("features")
    rows = [
        (seed, *row) for seed in SEEDS for part in (sources_by_weight, hospitals_by_weight) for row in part(world, features, seed)
    ]
    frame = pd.DataFrame(rows, columns=["seed", "weight", "worth", "value"])
    frame.to_csv(output / "weights.csv", index=False, float_format="%.5f")
    print("rank correlation (Spearman) of the weights with what the sources are worth, seed by seed\n")
    ranks = frame.groupby(["weight", "seed"]).apply(lambda part: spearmanr(part["worth"], part["value"])[0], include_groups=False)
    print(ranks.unstack().to_string(float_format="%.3f"))
    print("\nmean weights, from the best source to the worst\n")
    mean = frame.groupby(["weight", "worth"])["value"].mean().unstack(0)
    print(mean.sort_index(ascending=False).to_string(float_format="%.3f"))
    print(f"\nall rows: {output / 'weights.csv'}")


if __name__ == "__main__":
    main()
