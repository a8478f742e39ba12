"""The opinion pool: a slow version, known truth, and its place in CHANNELS.json."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize

from labelers import Gold, InputError, LabelTable, Pool, Vocabulary, estimate_channels, read_channels
from labelers.channel import ChannelSet
from labelers.pool import fit_pool
from labelers.rows import PRIOR_ROWS, mean_row, posterior_rows
from labelers.simulation import Simulation, simulate_votes
from labelers.votes import SILENT, find_patterns, tally


def estimated(drawn: Simulation, gold: int) -> ChannelSet:
    """Channels of simulated labelers from so many gold reports, the first."""
    votes = drawn.votes
    vocabulary = Vocabulary.of(list(votes.findings))
    tables = []
    for s, name in enumerate(votes.labelers):
        looked = (votes.state[s] != SILENT).any(axis=1)
        tables.append(LabelTable.from_states(list(votes.report_ids[looked]), vocabulary, votes.state[s][looked], source=name))
    return estimate_channels(tables, Gold(votes.report_ids[:gold], votes.findings, drawn.truth[:gold]), "images")


def pooled(drawn: Simulation, channels: ChannelSet, rows: slice, one_each: bool = False) -> NDArray[np.float64]:
    """P(present) by prior, channels and pool, cell by cell; with exponents of one as a product of independent witnesses."""
    assert channels.pool is not None
    votes = drawn.votes
    state = votes.state[:, rows]
    out = np.empty(state.shape[1:])
    for n, k in np.ndindex(*out.shape):
        finding = votes.findings[k]
        who = [s for s in range(len(votes.labelers)) if state[s, n, k] != SILENT]
        total = 0.0
        for s, a in zip(who, channels.pool.of([votes.labelers[s] for s in who]), strict=True):
            channel = channels.find(votes.labelers[s], "*", finding)
            assert channel is not None
            ratio = np.log(channel.matrix[1, state[s, n, k]] / channel.matrix[0, state[s, n, k]])
            total += ratio * (1.0 if one_each else a)
        prior = channels.prior[finding]
        out[n, k] = 1 / (1 + (1 - prior) / prior * np.exp(-total))
    return out


def loss(truth: NDArray[np.float32], p: NDArray[np.float64]) -> float:
    return float(-np.mean(np.where(truth > 0, np.log(p), np.log1p(-p))))


def test_exponents_are_those_of_a_slow_fit() -> None:
    """Row by row, each judged by channels from which it was taken out, with another solver."""
    drawn = simulate_votes(60, 3, findings=2, labelers=2, shared=0.6, silent=0.2, prevalence=(0.2, 0.4))
    state, truth = drawn.votes.state, drawn.truth
    counts = np.array(
        [
            [[[((state[s, :, k] == c) & (truth[:, k] == y)).sum() for c in range(4)] for y in (0, 1)] for k in (0, 1)]
            for s in (0, 1)
        ]
    )
    known = (state != SILENT).any(axis=(0, 2))  # reports that a table has
    ratios, offsets, present = [], [], []
    for n, k in np.ndindex(60, 2):
        if (state[:, n, k] == SILENT).any():
            continue
        y, row = int(truth[n, k]), []
        for s in (0, 1):
            one = counts[s, k].astype(float)
            one[y, state[s, n, k]] -= 1
            left = posterior_rows(one, mean_row(counts[s].sum(axis=0).astype(float)))
            row.append(np.log(left[1, state[s, n, k]] / left[0, state[s, n, k]]))
        others = truth[known, k].sum() - y
        ratios.append(row)
        offsets.append(np.log((others + 0.5) / (known.sum() - 1 - others + 0.5)))
        present.append(y)

    def objective(a: NDArray[np.float64]) -> float:
        z = np.array(offsets) + np.array(ratios) @ a
        return float((np.logaddexp(0, z) - np.array(present) * z).sum() + 25 * ((a - 0.5) ** 2).sum())

    expected = minimize(objective, [0.5, 0.5], method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9}).x
    pool = estimated(drawn, 60).pool
    assert pool is not None
    np.testing.assert_allclose(pool.of(drawn.votes.labelers), expected, atol=1e-3)


def test_evidence_of_siblings_is_not_counted_twice() -> None:
    """A labeler and its copy count as one, an independent one in full; and what they say is worth what it was drawn to be worth."""
    drawn = simulate_votes(6000, 1, findings=8, labelers=3, shared=1.0, silent=0.3, prevalence=(0.05, 0.3))
    channels = estimated(drawn, 3000)
    assert channels.pool is not None
    _, twin, copy = names = drawn.votes.labelers
    assert sum(channels.pool.of((twin, copy))) == pytest.approx(1, abs=0.1)
    independent, *both = channels.pool.of(names)
    assert independent == pytest.approx(1, abs=0.15)
    assert sum(both) == pytest.approx(1, abs=0.15)
    rest = slice(3000, 6000)
    best = loss(drawn.truth[rest], drawn.posterior[rest])
    ours, twice = (loss(drawn.truth[rest], pooled(drawn, channels, rest, one_each)) for one_each in (False, True))
    assert ours - best < 0.3 * (twice - best)


def test_independent_witnesses_count_in_full() -> None:
    drawn = simulate_votes(4000, 2, findings=8, labelers=3, prevalence=(0.05, 0.3))
    channels = estimated(drawn, 4000)
    assert channels.pool is not None
    assert channels.pool.of(drawn.votes.labelers) == pytest.approx((1, 1, 1), abs=0.12)


def test_too_little_gold_understates() -> None:
    drawn = simulate_votes(300, 4, findings=4, labelers=3, prevalence=(0.05, 0.3))
    channels = estimated(drawn, 12)
    assert channels.pool is not None
    assert channels.pool.of(drawn.votes.labelers) == pytest.approx((1 / 3, 1 / 3, 1 / 3), abs=0.2)


def test_no_evidence_is_stronger_than_the_gold_could_show() -> None:
    drawn = simulate_votes(400, 5, findings=3, labelers=2, prevalence=(0.05, 0.3))
    pool = estimated(drawn, 200).pool
    assert pool is not None
    present = drawn.truth[:200].sum(axis=0)
    for k, finding in enumerate(drawn.votes.findings):
        assert pool.strongest[finding] == pytest.approx(
            (-np.log(present[k] + PRIOR_ROWS + 1), np.log(200 - present[k] + PRIOR_ROWS + 1))
        )


def test_who_is_not_fitted_shares_equally() -> None:
    pool = Pool({frozenset("ab"): {"a": 0.9, "b": 0.2}}, {})
    assert pool.of(["b", "a"]) == (0.2, 0.9)
    assert pool.of(["a"]) == (1.0,)
    assert pool.of([]) == ()
    assert pool.of(["a", "b", "c", "d"]) == (0.25,) * 4


def test_of_many_labelers_the_sets_that_occur_are_fitted() -> None:
    drawn = simulate_votes(200, 6, findings=2, labelers=7, prevalence=(0.2, 0.4))
    pool = estimated(drawn, 200).pool
    assert pool is not None
    assert list(pool.exponents) == [frozenset(drawn.votes.labelers)]


def test_the_file_keeps_the_pool(tmp_path: Path) -> None:
    channels = estimated(simulate_votes(200, 7, findings=3, labelers=3, prevalence=(0.1, 0.3)), 200)
    channels.write(tmp_path / "c.json")
    back = read_channels(tmp_path / "c.json").pool
    assert back is not None
    assert channels.pool is not None
    assert set(back.exponents) == set(channels.pool.exponents)
    assert len(back.exponents) == 4
    for names, each in channels.pool.exponents.items():
        assert back.exponents[names] == pytest.approx(each, abs=1e-6)
    for finding, ends in channels.pool.strongest.items():
        assert back.strongest[finding] == pytest.approx(ends, abs=1e-6)
    body = json.loads((tmp_path / "c.json").read_text())
    del body["pool"]  # as files were before
    (tmp_path / "old.json").write_text(json.dumps(body))
    assert read_channels(tmp_path / "old.json").pool is None


@pytest.mark.parametrize(
    "broken",
    [
        {"exponents": [{"a": 2.0, "b": 0.1}], "strongest": {}},
        {"exponents": [{"a": float("nan"), "b": 0.1}], "strongest": {}},
        {"exponents": [["a", "b"]], "strongest": {}},
        {"exponents": [], "strongest": {"Edema": [1.0, 2.0]}},
        {"exponents": []},
        7,
    ],
)
def test_what_is_no_pool_is_refused(broken: object, tmp_path: Path) -> None:
    channels = estimated(simulate_votes(100, 8, findings=2, labelers=2, prevalence=(0.2, 0.4)), 100)
    channels.write(tmp_path / "c.json")
    body = json.loads((tmp_path / "c.json").read_text())
    (tmp_path / "c.json").write_text(json.dumps({**body, "pool": broken}))
    with pytest.raises(InputError, match="expected the channels that 'labelers noise' writes"):
        read_channels(tmp_path / "c.json")


def test_agreement_alone_gives_no_pool() -> None:
    drawn = simulate_votes(500, 9, findings=3, labelers=3, prevalence=(0.1, 0.3))
    vocabulary = Vocabulary.of(list(drawn.votes.findings))
    tables = [
        LabelTable.from_states(list(drawn.votes.report_ids), vocabulary, state, source=name)
        for name, state in zip(drawn.votes.labelers, drawn.votes.state, strict=True)
    ]
    assert estimate_channels(tables, None).pool is None


def test_who_has_no_channel_of_a_finding_is_as_one_that_did_not_look() -> None:
    drawn = simulate_votes(300, 5, findings=2, labelers=2, shared=0.6, prevalence=(0.2, 0.4))
    state, names = drawn.votes.state, drawn.votes.labelers
    silent = state.copy()
    silent[1, :, 1] = SILENT
    told = np.array([[True, True], [True, False]])
    whole, without, other = (
        fit_pool(tally(find_patterns(given), drawn.truth), names, drawn.votes.findings, who)
        for given, who in ((state, told), (silent, told), (state, np.ones_like(told)))
    )
    together = frozenset(names)
    assert whole.exponents[together] == pytest.approx(without.exponents[together], abs=2e-3)  # but for its mean row over findings
    assert whole.exponents[together] != pytest.approx(other.exponents[together], abs=2e-2)
