"""How often the 95 % intervals of channel entries hold the entry, over simulations of known channels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from labelers.channel import ALL_DATASETS, ChannelSet, estimate_channels
from labelers.console import progress
from labelers.io import Gold
from labelers.simulation import Simulation, simulate_votes
from labelers.types import STATES, LabelTable, Vocabulary

SIMULATIONS = 100
GOLD_ROWS = (200, 500)
REPORTS, AGREEMENT_SIMULATIONS = 6_000, 40
"""Reports behind channels without gold, and how often they are drawn."""
FEW = 5
"""Fewer reports than this have the finding: their row of the channel is mostly that of other findings."""


def tables(simulation: Simulation) -> list[LabelTable]:
    """One table a labeler."""
    votes = simulation.votes
    vocabulary = Vocabulary.of(votes.findings)
    return [
        LabelTable.from_states(list(votes.report_ids), vocabulary, s, n) for n, s in zip(votes.labelers, votes.state, strict=True)
    ]


def held(simulation: Simulation, found: ChannelSet) -> pd.DataFrame:
    """Every entry: whether its interval holds it, how wide that is, and how many gold reports stand behind its row."""
    votes, rows = simulation.votes, []
    for s, labeler in enumerate(votes.labelers):
        for finding, channel in found.channels[labeler][ALL_DATASETS].items():
            k = votes.findings.index(finding)
            true: NDArray[np.float64] = simulation.channels[s, k]
            for y in (0, 1):
                for state, name in enumerate(STATES):
                    inside = channel.low[y, state] <= true[y, state] <= channel.high[y, state]
                    width = channel.high[y, state] - channel.low[y, state]
                    rows.append((s, k, ("absent", "present")[y], name, inside, width, channel.counts[y].sum()))
    return pd.DataFrame(rows, columns=["labeler", "finding", "truth", "state", "inside", "width", "behind"])


def from_gold(gold_rows: int) -> pd.DataFrame:
    """Channels from gold, a labeler at a time."""
    parts = []
    for seed in range(SIMULATIONS):
        simulation = simulate_votes(gold_rows, seed, shared=0.5)
        gold = Gold(simulation.votes.report_ids, simulation.votes.findings, simulation.truth)
        each = [estimate_channels([table], gold) for table in tables(simulation)]
        channels = {name: body for one in each for name, body in one.channels.items()}
        parts.append(held(simulation, ChannelSet(channels, {})))
    return pd.concat(parts)


def from_agreement(shared: float) -> pd.DataFrame:
    """Channels without gold, from five labelers of which two share errors."""
    drawn = (simulate_votes(REPORTS, seed, shared=shared) for seed in range(AGREEMENT_SIMULATIONS))
    return pd.concat([held(one, estimate_channels(tables(one), None)) for one in drawn])


def summary(what: str, gold_rows: int, shared: float, simulations: int, entries: pd.DataFrame) -> pd.DataFrame:
    """Coverage of all entries, of parts of them, and the least and the greatest of any single entry."""
    parts = {"all": entries, **dict(list(entries.groupby("truth")))}
    parts.update({f"{truth}, {state}": part for (truth, state), part in entries.groupby(["truth", "state"], sort=False)})
    if gold_rows:
        few = entries["behind"] < FEW
        parts.update({f"fewer than {FEW} gold reports": entries[few], f"{FEW} gold reports or more": entries[~few]})
    rows = []
    for name, part in parts.items():
        single = part.groupby(["labeler", "finding", "truth", "state"])["inside"].mean()
        ends = (
            (np.nan, np.nan) if "gold reports" in name else (single.min(), single.max())
        )  # an entry is there in some draws only
        rows.append((what, gold_rows, shared, simulations, name, len(part), part["inside"].mean(), *ends, part["width"].mean()))
    columns = ["what", "gold_rows", "shared", "simulations", "entries", "n", "coverage", "least", "greatest", "width"]
    return pd.DataFrame(rows, columns=columns)


def run(output: Path) -> pd.DataFrame:
    """Measure; minutes."""
    parts = []
    with progress("parts", len(GOLD_ROWS) + 2) as advance:
        for count in GOLD_ROWS:
            parts.append(summary("gold", count, 0.5, SIMULATIONS, from_gold(count)))
            advance(1)
        for shared in (0.0, 0.8):
            parts.append(summary("agreement", 0, shared, AGREEMENT_SIMULATIONS, from_agreement(shared)))
            advance(1)
    rows = pd.concat(parts, ignore_index=True)
    rows.to_csv(output / "coverage.csv", index=False, float_format="%.4f")
    return rows
