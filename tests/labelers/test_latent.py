"""The latent class model and the rules beside it, against closed forms, brute force and generators that know the exact posterior."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from labelers.latent import LatentModel, Structure, fit, search
from labelers.rows import FLOOR, intervals, mean_row, posterior_rows
from labelers.rules import FLOORS, KINDS, Latent, fit_product
from labelers.simulation import Simulation, simulate_votes
from labelers.types import STATES
from labelers.votes import SILENT, Patterns, Tally, find_patterns, tally


def random_model(seed: int, groups: tuple[tuple[int, ...], ...], classes: int, findings: int = 2) -> LatentModel:
    rng = np.random.default_rng(seed)
    weight = rng.dirichlet(np.ones(2 * classes), findings)
    tables = tuple(rng.dirichlet(np.ones(len(STATES) ** len(g)), (findings, 2 * classes)) for g in groups)
    return LatentModel(groups, weight, tables)


def every_pattern(labelers: int, codes: int) -> NDArray[np.int8]:
    return np.array(list(itertools.product(range(codes), repeat=labelers)), np.int8)


def known_truth(simulation: Simulation, gold: int, seed: int = 0) -> NDArray[np.float32]:
    truth = np.full(simulation.truth.shape, np.nan, np.float32)
    rows = np.random.default_rng(seed).choice(len(truth), gold, replace=False)
    truth[rows] = simulation.truth[rows]
    return truth


def halves(patterns: Patterns, truth: NDArray[np.float32]) -> list[Tally]:
    even = np.arange(len(truth)) % 2 == 0
    return [tally(patterns, truth, rows) for rows in (even, ~even)]


def test_patterns_count_every_cell_once() -> None:
    simulation = simulate_votes(500, 3, silent=0.3)
    patterns = find_patterns(simulation.votes.state)
    np.testing.assert_array_equal(patterns.states[patterns.index].transpose(2, 0, 1), simulation.votes.state)
    counts = tally(patterns, known_truth(simulation, 100))
    assert counts.judged.sum() == 100 * 14
    assert counts.unjudged.sum() == 400 * 14
    k, p = 4, int(patterns.index[7, 4])
    same = (simulation.votes.state[:, :, k] == patterns.states[p][:, None]).all(axis=0)
    assert counts.unjudged[k, p] + counts.judged[k, :, p].sum() == same.sum()


def test_many_labelers_are_numbered_as_few_are() -> None:
    state = np.random.default_rng(0).integers(0, 5, (12, 40, 3)).astype(np.int8)
    patterns = find_patterns(state)
    np.testing.assert_array_equal(patterns.states[patterns.index].transpose(2, 0, 1), state)


def test_the_patterns_of_a_model_are_a_distribution() -> None:
    model = random_model(1, ((0,), (1, 2)), classes=2)
    assert np.exp(model.log_truth(every_pattern(3, 4))).sum(axis=(1, 2)) == pytest.approx([1, 1])


def test_silence_sums_out_what_would_have_been_said() -> None:
    model = random_model(2, ((0, 2), (1,)), classes=2)
    silent = model.log_truth(np.array([[SILENT, 1, 3]], np.int8))
    spelled = model.log_truth(np.array([[s, 1, 3] for s in range(4)], np.int8))
    np.testing.assert_allclose(np.exp(silent[..., 0]), np.exp(spelled).sum(axis=2))
    nobody = model.posterior(np.full((1, 3), SILENT, np.int8))
    np.testing.assert_allclose(nobody[:, 0], model.prior)


def test_channel_and_evidence_of_a_model_by_brute_force() -> None:
    model = random_model(3, ((0,), (1, 2)), classes=2)
    states = every_pattern(3, 4)
    joint = np.exp(model.log_truth(states))
    for labeler in range(3):
        for s in range(4):
            by_hand = joint[:, :, states[:, labeler] == s].sum(axis=2) / joint.sum(axis=2)
            np.testing.assert_allclose(model.channel(labeler)[:, :, s], by_hand)
    pair = joint[:, :, (states[:, 1] == 2) & (states[:, 2] == 0)].sum(axis=2) / joint.sum(axis=2)
    where = np.array([[3, 2, 0]], np.int8)
    np.testing.assert_allclose(model.evidence(where)[1, :, 0], np.log(pair[:, 1] / pair[:, 0]))


def test_gold_alone_gives_the_posterior_mean_in_closed_form() -> None:
    rng = np.random.default_rng(4)
    state = rng.integers(0, 4, (1, 300, 2)).astype(np.int8)
    truth = rng.integers(0, 2, (300, 2)).astype(np.float32)
    model = fit(tally(find_patterns(state), truth), Structure(((0,),)))
    counts = np.array([[[((state[0, :, k] == s) & (truth[:, k] == y)).sum() for s in range(4)] for y in (0, 1)] for k in (0, 1)])
    pooled = counts.sum(axis=0) + 0.5
    weight = counts + 16 * pooled / pooled.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.channel(0), weight / weight.sum(axis=2, keepdims=True), atol=1e-12)


def test_iterations_never_lower_the_posterior_density() -> None:
    simulation = simulate_votes(2000, 5, shared=0.5)
    counts = tally(find_patterns(simulation.votes.state), known_truth(simulation, 100))
    structure = Structure(((0,), (1,), (2,), (3, 4)))

    def likelihood(iterations: int) -> float:
        by_truth = fit(counts, structure, iterations).log_truth(counts.states)
        return float((counts.unjudged * np.log(np.exp(by_truth).sum(axis=1))).sum() + (counts.judged * by_truth).sum())

    values = [likelihood(n) for n in (1, 2, 4, 8, 16, 32)]
    assert all(later > earlier - 5 for earlier, later in itertools.pairwise(values)), "the prior may cost a little"
    assert values[-1] > values[0]


def nll(simulation: Simulation, probability: NDArray[np.floating], rows: NDArray[np.bool_]) -> float:
    p, y = np.clip(probability[rows].astype(np.float64), 1e-7, 1 - 1e-7), simulation.truth[rows]
    return float(-np.where(y > 0, np.log(p), np.log1p(-p)).mean())


@pytest.mark.parametrize("shared", [0.0, 0.5, 0.95])
def test_siblings_are_found_and_the_posterior_is_nearly_exact(shared: float) -> None:
    simulation = simulate_votes(6000, 7, shared=shared)
    truth = known_truth(simulation, 200)
    patterns = find_patterns(simulation.votes.state)
    structure, path = search(halves(patterns, truth))
    assert structure.classes == 1
    assert structure.groups == (((0,), (1,), (2,), (3, 4)) if shared else ((0,), (1,), (2,), (3,), (4,)))
    assert [score for _, score in path] == sorted(score for _, score in path)
    model = fit(tally(patterns, truth), structure)
    found = model.posterior(patterns.states)[np.arange(14), patterns.index]
    unseen = np.isnan(truth[:, 0])
    assert nll(simulation, found, unseen) < 1.2 * nll(simulation, simulation.posterior, unseen)


def test_hard_reports_get_a_class_of_their_own() -> None:
    simulation = simulate_votes(6000, 8, hard=0.5)
    truth = known_truth(simulation, 200)
    patterns = find_patterns(simulation.votes.state)
    structure, _ = search(halves(patterns, truth))
    assert structure.classes > 1
    assert len(structure.groups) == 5


def test_without_gold_the_labelers_agreement_is_enough_when_they_are_independent() -> None:
    simulation = simulate_votes(8000, 9)
    patterns = find_patterns(simulation.votes.state)
    model = fit(tally(patterns, np.full(simulation.truth.shape, np.nan, np.float32)), Structure(tuple((s,) for s in range(5))))
    assert np.abs(model.prior - simulation.prevalence).max() < 0.02
    common = simulation.prevalence > 0.1
    error = np.abs(np.stack([model.channel(s) for s in range(5)]) - simulation.channels)[:, common]
    assert error.max() < 0.08


def test_the_exact_posterior_of_the_generator_is_calibrated() -> None:
    simulation = simulate_votes(40_000, 11, findings=3, shared=0.6, hard=0.4, silent=0.2, prevalence=(0.1, 0.3))
    p, y = simulation.posterior.ravel(), simulation.truth.ravel()
    which = np.digitize(p, [0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98])
    for b in range(8):
        rows = which == b
        error = np.sqrt((p[rows] * (1 - p[rows])).sum()) / rows.sum()
        assert abs(p[rows].mean() - y[rows].mean()) < 4 * error
    for s, k, t in itertools.product(range(5), range(3), (0, 1)):
        said = simulation.votes.state[s, simulation.truth[:, k] == t, k]
        looked = said[said != SILENT]
        for c in range(4):
            expected = simulation.channels[s, k, t, c]
            assert abs((looked == c).mean() - expected) < 4.5 * np.sqrt(expected * (1 - expected) / len(looked)) + 2e-3


def test_exponents_take_back_what_a_labeler_given_twice_counts_twice() -> None:
    simulation = simulate_votes(3000, 12, labelers=2)
    twice = np.stack([simulation.votes.state[0], simulation.votes.state[0], simulation.votes.state[0]])
    patterns = find_patterns(twice)
    thrice = fit_product(tally(patterns, simulation.truth))
    once = fit_product(tally(find_patterns(twice[:1]), simulation.truth))
    assert thrice.exponents.sum() == pytest.approx(once.exponents[0], abs=0.02)
    assert abs(once.exponents[0] - 1) < 0.15, "one labeler by itself is believed as it stands"


@pytest.mark.parametrize("name", sorted(KINDS))
def test_every_rule_survives_the_file(name: str) -> None:
    simulation = simulate_votes(800, 13, silent=0.1)
    counts = tally(find_patterns(simulation.votes.state), known_truth(simulation, 200))
    built = {
        "latent classes": lambda c: Latent(fit(c, Structure(((0,), (1,), (2,), (3, 4)), 2))),
        "product with exponents": fit_product,
    }
    rule = {**built, **FLOORS}[name](counts)
    again = KINDS[name].from_json(rule.to_json())
    p = rule.posterior(counts.states)
    assert p.shape == (14, len(counts.states))
    assert ((p >= 0) & (p <= 1)).all()
    np.testing.assert_array_equal(again.posterior(counts.states), p)


def test_intervals_are_wide_where_nothing_was_seen_and_narrow_where_much_was() -> None:
    counts = np.array([[0, 0, 0, 0], [2, 0, 0, 0], [700, 100, 100, 100]], np.float64)
    low, high = intervals(counts)
    width = high - low
    assert (width[0] > width[2] * 3).all()
    assert low[2, 0] < 0.7 < high[2, 0]
    assert width[2, 0] < 0.07
    np.testing.assert_array_equal(intervals(counts)[0], low)


def test_posterior_rows_by_hand() -> None:
    mean = mean_row(np.array([[6.0, 2.0, 0.0, 0.0]]))[0]
    np.testing.assert_allclose(mean, [0.65, 0.25, 0.05, 0.05])
    np.testing.assert_allclose(posterior_rows(np.array([4.0, 0, 0, 0]), mean), [14.4 / 20, 4 / 20, 0.8 / 20, 0.8 / 20])
    assert posterior_rows(np.array([1e6, 0, 0, 0]), mean).min() == FLOOR


@pytest.mark.parametrize("truth", [0, 1])
def test_intervals_of_a_rare_finding_cover_over_simulations(truth: int) -> None:
    covered = []
    for seed in range(100):
        simulation = simulate_votes(200, seed, findings=8, labelers=2)
        for s in range(2):
            state, y = simulation.votes.state[s], simulation.truth
            counts = np.stack([((state == c) & (y == truth)).sum(axis=0) for c in range(4)], axis=1).astype(np.float64)
            low, high = intervals(counts)
            true = simulation.channels[s, :, truth]
            covered.append(((low <= np.maximum(true, FLOOR)) | (low <= FLOOR)) & (true <= np.maximum(high, FLOOR)))
    assert 0.90 <= np.mean(covered) <= 0.98
