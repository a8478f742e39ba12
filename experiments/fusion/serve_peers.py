"""Label models of other packages over simulated votes; started by simulated.py with the peers' Python.

It answers lines "VOTES.npz ANSWERS.npz" on standard input, one after another, so that the packages are imported once.
"""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Any

import numpy as np
import pandas as pd
from crowdkit.aggregation import DawidSkene
from snorkel.labeling.model import LabelModel

POSITIVE, NEGATIVE, UNCERTAIN, UNMENTIONED = range(4)
VOTE = np.array([1, 0, -1, 0, -1])
"""The binary vote of a state: unmentioned counts as absent, uncertain and a labeler that did not look as no vote."""


def crowd_kit(votes: Any, prior: float, truth: Any) -> Any:
    """crowd-kit's Dawid-Skene of one finding, told the truth of the gold reports: (N, S) votes, (N,) truth -> P(present), (N,)."""
    task, worker = np.nonzero(votes >= 0)
    frame = pd.DataFrame({"task": task, "worker": worker, "label": votes[task, worker]})
    known = pd.Series({r: int(truth[r]) for r in np.flatnonzero(~np.isnan(truth)) if (votes[r] >= 0).any()})
    found = DawidSkene(n_iter=100).fit_predict_proba(frame, true_labels=known)
    return found.reindex(columns=[0, 1], fill_value=0.0)[1].reindex(range(len(votes))).fillna(prior).to_numpy()


def snorkel(votes: Any, prior: float) -> Any:
    """Snorkel's LabelModel of one finding, told the share of present: (N, S) votes -> P(present), (N,)."""
    model = LabelModel(cardinality=2, verbose=False)
    model.fit(votes, class_balance=[1 - prior, prior], n_epochs=500, seed=1, progress_bar=False)
    return model.predict_proba(votes)[:, 1]


def answer(source: str, target: str) -> None:
    """Run every model on the votes of all findings."""
    with np.load(source) as data:
        state, truth, prior = data["state"], data["truth"], data["prior"]
    votes = VOTE[state]  # (S, N, K)
    found = {
        "crowd-kit DawidSkene": [crowd_kit(votes[:, :, k].T, p, truth[:, k]) for k, p in enumerate(prior)],
        "snorkel LabelModel": [snorkel(votes[:, :, k].T, p) for k, p in enumerate(prior)],
    }
    np.savez(target, **{name: np.stack(columns, axis=1) for name, columns in found.items()})


def main() -> None:
    """Answer until standard input ends."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    for line in sys.stdin:
        answer(*line.rstrip("\n").split("\t"))
        print("done", flush=True)


if __name__ == "__main__":
    main()
