"""Expected against observed states, on data of known truth: how often a warning is false, and what it finds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chi2_contingency

from hybridpt.data.frequencies import PRIOR_WEIGHT, channel_gaps, compare, contradictions, expected_states, fitted_prevalence
from hybridpt.data.labels import JoinedLabels
from labelers import Gold, LabelTable, Vocabulary
from labelers.channel import Channel, ChannelSet, estimate_channels

PREVALENCE = np.array([0.25, 0.2, 0.16, 0.14, 0.12, 0.1, 0.08, 0.06, 0.05, 0.04, 0.03, 0.02])
NAMES = tuple(f"finding {k}" for k in range(len(PREVALENCE)))
Array = NDArray[Any]


def true_channels(generator: np.random.Generator) -> Array:
    """Channels (K, 2, 4) of a labeler that names what is there, denies half of what is not, and says nothing of the rest."""
    rows = (np.array([0.04, 0.45, 0.03, 0.48]), np.array([0.6, 0.06, 0.14, 0.2]))
    return np.stack([[generator.dirichlet(row * 30 + 0.3) for row in rows] for _ in PREVALENCE])


def draw(channels: Array, studies: int, prevalence: Array, generator: np.random.Generator) -> tuple[Array, Array]:
    """Truth and states, each (studies, K)."""
    truth = generator.random((studies, len(NAMES))) < prevalence
    steps = channels.cumsum(axis=-1)[np.arange(len(NAMES)), truth.astype(int)]
    states = (generator.random((studies, len(NAMES), 1)) > steps).sum(axis=-1).clip(0, 3)
    return truth.astype(np.float32), states.astype(np.int8)


def measured(truth: Array, states: Array) -> ChannelSet:
    ids = [str(i) for i in range(len(truth))]
    table = LabelTable.from_states(ids, Vocabulary.of(NAMES), states, "context")
    return estimate_channels([table], Gold(np.array(ids, object), NAMES, truth))


def joined(states: Array) -> JoinedLabels:
    shape = (len(states), 1, len(NAMES))
    return JoinedLabels(NAMES, ("context",), states[:, None], np.zeros(shape, np.float32), np.ones(shape, bool))


def warned(states: Array, channels: ChannelSet) -> list[str]:
    """Findings that contradict their channel, every study its own."""
    n = len(states)
    found = contradictions(joined(states), channels, np.full(n, "nih", object), np.arange(n), np.ones(n, bool))
    return [c.finding for c in found]


def channel(absent: list[float], present: list[float], gold: tuple[int, int] = (150, 50)) -> Channel:
    matrix = np.array([absent, present])
    counts = np.round(matrix * np.array(gold)[:, None]).astype(np.int64)
    return Channel(matrix, matrix, matrix, counts)


USUAL = channel([0.02, 0.5, 0.03, 0.45], [0.8, 0.05, 0.1, 0.05])


def test_expected_states_mix_the_rows_of_the_channel() -> None:
    np.testing.assert_allclose(expected_states(USUAL.matrix, 0.25), [0.215, 0.3875, 0.0475, 0.35])
    np.testing.assert_allclose(expected_states(USUAL.matrix, 0.0), USUAL.matrix[0])


def test_the_chance_is_that_of_a_g_test_of_two_samples() -> None:
    """With gold drawn at random the gold's weight is its number of rows; scipy computes the same test from the table of counts."""
    counts = np.array([300, 400, 60, 240])
    result = compare(counts, USUAL, 0.25)
    rows = USUAL.counts.sum(axis=1) + PRIOR_WEIGHT
    weight = 1 / (0.75**2 / rows[0] + 0.25**2 / rows[1])
    reference = chi2_contingency([weight * result.expected, counts], correction=False, lambda_="log-likelihood")
    assert result.p == pytest.approx(reference.pvalue)
    random = channel(USUAL.matrix[0].tolist(), USUAL.matrix[1].tolist(), gold=(75_000, 25_000))
    rows = random.counts.sum(axis=1)
    assert 1 / (0.75**2 / rows[0] + 0.25**2 / rows[1]) == pytest.approx(100_000)


def test_the_effect_is_the_largest_of_cohens_h() -> None:
    result = compare(np.array([430, 388, 48, 134]), USUAL, 0.25)
    shares = np.array([0.43, 0.388, 0.048, 0.134])
    h = 2 * np.arcsin(np.sqrt(shares)) - 2 * np.arcsin(np.sqrt(result.expected))
    assert result.effect == pytest.approx(np.abs(h).max())


@pytest.mark.parametrize("studies", [100, 20_000])
def test_data_that_follow_their_channels_are_seldom_warned_of(studies: int) -> None:
    """Channels from 200 judged studies: one run in a hundred may be warned of falsely, whatever the size of the data set."""
    generator = np.random.default_rng(3)
    runs, small, false = 100, 0, 0
    for _ in range(runs):
        channels = true_channels(generator)
        known = measured(*draw(channels, 200, PREVALENCE, generator))
        states = draw(channels, studies, PREVALENCE, generator)[1]
        found = known.channels["context"]["*"]
        counts = {n: np.bincount(states[:, k], minlength=4) for k, n in enumerate(NAMES) if n in found}
        small += sum(compare(c, found[n], known.prior[n]).p < 0.05 for n, c in counts.items())
        false += bool(warned(states, known))
    assert 0.02 < small / (runs * len(NAMES)) < 0.08
    assert false <= 4


def test_gold_enriched_for_what_is_rare_raises_no_false_alarm() -> None:
    """Half of the gold holds a rare finding: the prior is kept apart, and the expected states follow it, not the gold."""
    generator = np.random.default_rng(4)
    false = 0
    for _ in range(60):
        channels = true_channels(generator)
        truth, states = draw(channels, 4000, PREVALENCE, generator)
        rare = np.flatnonzero(truth[:, 8:].any(axis=1))[:100]
        chosen = np.union1d(rare, generator.choice(4000, 200, replace=False))
        known = measured(truth[chosen], states[chosen])
        known = ChannelSet(known.channels, dict(zip(NAMES, PREVALENCE.tolist(), strict=True)))
        false += bool(warned(draw(channels, 5000, PREVALENCE, generator)[1], known))
    assert false <= 3


def silent(channels: Array) -> Array:
    """Half of what was denied is left unmentioned."""
    changed = channels.copy()
    changed[..., 3] += changed[..., 1] / 2
    changed[..., 1] /= 2
    return changed


def hedging(channels: Array) -> Array:
    """One report in ten hedges about what is not there."""
    changed = channels.copy()
    changed[:, 0] *= 0.9
    changed[:, 0, 2] += 0.1
    return changed


def overcalling(channels: Array) -> Array:
    """Fifteen of a hundred absent findings are called present."""
    changed = channels.copy()
    changed[:, 0] *= 0.85
    changed[:, 0, 0] += 0.15
    return changed


@pytest.mark.parametrize("change", [silent, hedging, overcalling], ids=lambda change: change.__name__)
def test_a_hospital_that_writes_otherwise_is_noticed(change: Callable[[Array], Array]) -> None:
    generator = np.random.default_rng(5)
    hits = 0
    for _ in range(20):
        channels = true_channels(generator)
        known = measured(*draw(channels, 200, PREVALENCE, generator))
        hits += len(warned(draw(change(channels), 1000, PREVALENCE, generator)[1], known)) > 0
    assert hits >= 19


def test_trifles_in_large_data_are_no_contradiction() -> None:
    """One positive more in a hundred: certain among a million studies and much gold, and not worth a word."""
    counts = np.array([225_000, 377_500, 47_500, 350_000])
    known = channel(USUAL.matrix[0].tolist(), USUAL.matrix[1].tolist(), gold=(75_000, 25_000))
    result = compare(counts, known, 0.25)
    assert result.p < 1e-6
    assert result.effect < 0.05


@pytest.mark.parametrize("prevalence", [0.05, 0.5])
def test_a_prevalence_that_explains_the_states_is_named(prevalence: float) -> None:
    counts = np.round(expected_states(USUAL.matrix, prevalence) * 10_000).astype(np.int64)
    assert fitted_prevalence(counts, USUAL.matrix) == pytest.approx(prevalence, abs=0.011)
    states = np.repeat(np.arange(4), counts)
    everything = np.stack([states] * len(NAMES), axis=1).astype(np.int8)
    channels = ChannelSet({"context": {"*": {NAMES[0]: USUAL}}}, {NAMES[0]: 0.2})
    (found,) = contradictions(
        joined(everything), channels, np.full(10_000, "nih", object), np.arange(10_000), np.ones(10_000, bool)
    )
    assert found.prevalence == pytest.approx(prevalence, abs=0.011)
    assert f"a prevalence of {found.prevalence:.2f} instead of 0.20 would explain it" in str(found)


def test_each_study_counts_once_and_only_what_can_be_compared_is() -> None:
    """Three images a study, two data sets of which one has a channel of its own, rows left out, findings without channel or prior."""
    studies = np.repeat(np.arange(400), 3)
    states = np.zeros((1200, len(NAMES)), np.int8)  # everything positive
    dataset = np.where(studies < 200, "north", "south").astype(object)
    positive = channel([0.97, 0.01, 0.01, 0.01], [0.97, 0.01, 0.01, 0.01])
    channels = ChannelSet(
        {
            "context": {"*": {NAMES[0]: USUAL, NAMES[1]: USUAL}, "south": {NAMES[0]: positive}},
            "another": {"*": {NAMES[2]: USUAL}},
        },
        {NAMES[0]: 0.2, NAMES[2]: 0.2},
    )
    (found,) = contradictions(joined(states), channels, dataset, studies, studies % 2 == 0)
    assert (found.labeler, found.dataset, found.finding, found.studies) == ("context", "north", NAMES[0], 100)
    assert found.prevalence is None or found.prevalence == 1.0
    np.testing.assert_allclose(found.comparison.observed, [1, 0, 0, 0])


def test_gaps_are_the_findings_of_a_labeler_without_any_channel() -> None:
    """One labeler lacks a channel of the finding it judges first, the other has none; a finding nobody judges is no gap."""
    looked = np.ones((4, 2, 3), bool)
    looked[:, :, 2] = False
    labels = JoinedLabels(NAMES[:3], ("context", "nih"), np.zeros((4, 2, 3), np.int8), np.zeros((4, 2, 3), np.float32), looked)
    channels = ChannelSet({"context": {"south": {NAMES[1]: USUAL}}}, {})
    dataset = np.array(["north", "north", "south", "south"], object)
    context, nih = channel_gaps(labels, channels, dataset)
    assert (context.missing, context.known, context.complete) == (NAMES[:1], 2, False)
    assert (nih.missing, nih.known, nih.complete) == (NAMES[:2], 2, True)
    assert str(nih) == "no channel of 'nih' for 2 of its 2 findings (finding 0, finding 1)"
