"""Votes of known truth, fused: how near each method comes to the posterior that knows the generator."""

from __future__ import annotations

import itertools
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from peers import one_thread, peer_python
from scipy.optimize import minimize
from scipy.special import expit, logit

from labelers.console import progress
from labelers.fusion import fit_fusion
from labelers.metrics import average_precision, expected_calibration_error, log_loss
from labelers.rules import FLOORS
from labelers.simulation import Simulation, simulate_votes
from labelers.votes import find_patterns, tally

HERE = Path(__file__).resolve().parent
PACKAGES = ("crowd-kit==1.4.1", "snorkel==0.10.0")
GOLD = 200
LEAST_POSITIVES = 5
OURS = "hybridpt"


@dataclass(frozen=True)
class Setting:
    """One simulated set of reports."""

    reports: int
    shared: float
    silent: float
    hard: float
    seed: int


def settings(quick: bool) -> list[Setting]:
    """The grid: shared errors, and beside it silence and reports that are hard for all."""
    if quick:
        return [Setting(6_000, shared, 0.0, 0.0, 0) for shared in (0.0, 0.8)]
    main = [Setting(n, s, 0.0, 0.0, seed) for seed, n, s in itertools.product(range(10), (6_000, 20_000), (0.0, 0.5, 0.8, 0.95))]
    more = [
        Setting(n, s, 0.2, hard, seed)
        for seed, n, s, hard in itertools.product(range(5), (6_000, 20_000), (0.0, 0.8), (0.3, 0.6))
    ]
    return main + more


class Peers:
    """A process of the peers' environment that waits for votes."""

    def __init__(self, python: Path, folder: Path) -> None:
        self._folder = folder
        command = [str(python), str(HERE / "serve_peers.py")]
        self.process = subprocess.Popen(command, env=one_thread(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, simulation: Simulation, truth: NDArray[np.float32]) -> None:
        """Send votes, the truth of the gold reports, and the share of present among them."""
        known = ~np.isnan(truth)
        prior = (np.nansum(truth, axis=0) + 0.5) / (known.sum(axis=0) + 1)
        np.savez(self._folder / "votes.npz", state=simulation.votes.state, truth=truth, prior=prior)
        assert self.process.stdin is not None
        self.process.stdin.write(f"{self._folder / 'votes.npz'}\t{self._folder / 'answers.npz'}\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, NDArray[np.float64]]:
        """Wait for P(present) by each of the peers, (N, K)."""
        assert self.process.stdout is not None
        if self.process.stdout.readline() != "done\n":
            raise SystemExit("fusion: error: the peers' process failed, it has said why")
        with np.load(self._folder / "answers.npz") as data:
            return {name: data[name] for name in data.files}


@contextmanager
def peers(output: Path) -> Iterator[Peers]:
    """Start the peers."""
    python = peer_python(output / "peers", PACKAGES)
    with tempfile.TemporaryDirectory() as folder:
        one = Peers(python, Path(folder))
        try:
            yield one
        finally:
            one.process.communicate()  # closes its input, at which it ends


def platt(probability: NDArray[np.float64], truth: NDArray[np.float32]) -> NDArray[np.float64]:
    """Scale the log-odds on the judged cells, one slope and one intercept for all findings (Platt 1999)."""
    odds = logit(np.clip(probability, 1e-7, 1 - 1e-7))
    known = ~np.isnan(truth)
    z, y = odds[known], truth[known].astype(float)

    def loss(b: NDArray[np.float64]) -> float:
        at = b[0] + b[1] * z
        return float((np.logaddexp(0, at) - y * at).sum())

    b = minimize(loss, np.array([0.0, 1.0]), method="Nelder-Mead").x
    return np.asarray(expit(b[0] + b[1] * odds), np.float64)


def measures(probability: NDArray[np.float64], truth: NDArray[np.float32]) -> dict[str, float]:
    """NLL over all cells, AUPRC over findings with ``LEAST_POSITIVES`` positives or more, and ECE, the mean over findings."""
    columns = list(zip(truth.T, probability.T, strict=True))
    auprc = [average_precision(y, p) for y, p in columns if y.sum() >= LEAST_POSITIVES]
    return {
        "nll": log_loss(truth, probability),
        "auprc": float(np.mean(auprc)),
        "ece": float(np.mean([expected_calibration_error(y, p) for y, p in columns])),
    }


def run_one(setting: Setting, other: Peers) -> pd.DataFrame:
    """All methods on one set of reports, judged on those without gold."""
    simulation = simulate_votes(setting.reports, setting.seed, shared=setting.shared, silent=setting.silent, hard=setting.hard)
    truth = np.full_like(simulation.truth, np.nan)
    truth[:GOLD] = simulation.truth[:GOLD]
    other.ask(simulation, truth)
    patterns = find_patterns(simulation.votes.state)
    counts, at = tally(patterns, truth), (np.arange(truth.shape[1])[None], patterns.index)
    fusion = fit_fusion(simulation.votes, truth)
    rules = {OURS: fusion.rule, **{name: make(counts) for name, make in FLOORS.items()}}
    found = {name: rule.posterior(patterns.states)[at] for name, rule in rules.items()}
    for name, probability in other.answer().items():
        found[name] = probability
    found["snorkel LabelModel + Platt"] = platt(found["snorkel LabelModel"], truth)  # crowd-kit repeats the gold that it was told
    exact = measures(simulation.posterior[GOLD:], simulation.truth[GOLD:])
    rows = []
    for name, probability in {"exact posterior": simulation.posterior, **found}.items():
        values = measures(probability[GOLD:], simulation.truth[GOLD:])
        more = {"nll_ratio": values["nll"] / exact["nll"], "auprc_loss": exact["auprc"] - values["auprc"]}
        chosen = {"rule": fusion.name, "siblings": " ".join("+".join(group) for group in fusion.siblings)}
        rows.append({"method": name, **asdict(setting), **values, **more, **(chosen if name == OURS else {})})
    return pd.DataFrame(rows)


def run(output: Path, quick: bool) -> pd.DataFrame:
    """Run what has not been run yet; every set of reports has a file of its own, so that a run that was stopped goes on."""
    folder = output / "simulated"
    folder.mkdir(parents=True, exist_ok=True)
    grid = settings(quick)
    files = {setting: folder / ("-".join(str(v) for v in asdict(setting).values()) + ".csv") for setting in grid}
    missing = [setting for setting, file in files.items() if not file.exists()]
    if missing:
        with peers(output) as other, progress("sets of reports", len(missing)) as advance:
            for setting in missing:
                rows = run_one(setting, other)
                part = files[setting].with_suffix(".part")
                rows.to_csv(part, index=False)
                part.replace(files[setting])
                advance(1)
    rows = pd.concat([pd.read_csv(file) for file in files.values()], ignore_index=True)
    rows.to_csv(output / "results.csv", index=False, float_format="%.6g")
    return rows
