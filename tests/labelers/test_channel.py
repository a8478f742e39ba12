"""The noise model: closed forms, known truth, and its file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.stats import entropy

from labelers import ChannelSet, Gold, InputError, LabelTable, Vocabulary, estimate_channels, read_channels
from labelers.channel import ALL_DATASETS, Channel, channel_information, count_states
from labelers.rows import FLOOR, PRIOR_ROWS, raise_to_floor
from labelers.types import NEGATIVE, POSITIVE, STATES, UNCERTAIN, UNMENTIONED

P, N, U, X = POSITIVE, NEGATIVE, UNCERTAIN, UNMENTIONED
TRUE = np.array(
    [
        [[0.05, 0.40, 0.05, 0.50], [0.70, 0.05, 0.15, 0.10]],
        [[0.02, 0.70, 0.08, 0.20], [0.85, 0.02, 0.03, 0.10]],
        [[0.10, 0.20, 0.20, 0.50], [0.40, 0.10, 0.30, 0.20]],
    ]
)
"""Channels that data are drawn from, (finding, truth, state)."""
PREVALENCE = np.array([0.3, 0.1, 0.5])
FINDINGS = ("Edema", "Mass", "Fracture")


def pair(states: NDArray[Any], truth: NDArray[Any], findings: tuple[str, ...] = FINDINGS) -> tuple[LabelTable, Gold]:
    ids = [str(i) for i in range(len(states))]
    table = LabelTable.from_states(ids, Vocabulary.of(findings), states, "me")
    return table, Gold(np.array(ids, object), findings, truth.astype(np.float32))


def draw(generator: np.random.Generator, rows: int) -> tuple[LabelTable, Gold]:
    """Reports whose truth has the given prevalence and whose states come from the true channels."""
    truth = (generator.random((rows, 3)) < PREVALENCE).astype(np.int64)
    cumulative = TRUE.cumsum(axis=2)[np.arange(3), truth]
    states = (generator.random((rows, 3, 1)) > cumulative).sum(axis=2).clip(0, 3)
    return pair(states, truth)


def channels_of(table: LabelTable, gold: Gold) -> dict[str, Channel]:
    return dict(estimate_channels([table], gold).channels[table.source][ALL_DATASETS])


def test_posterior_mean_by_hand() -> None:
    truth = np.array([[1, 1], [1, 0], [1, 0], [0, 1], [0, 0], [0, np.nan]])
    states = np.array([[P, P], [P, N], [U, X], [N, P], [N, N], [X, P]])
    present = np.array([[2, 0, 1, 0], [2, 0, 0, 0]])  # of each finding, by state
    absent = np.array([[0, 2, 0, 1], [0, 2, 0, 1]])
    found = channels_of(*pair(states, truth, FINDINGS[:2]))
    for k, name in enumerate(FINDINGS[:2]):
        for y, counts in enumerate((absent, present)):
            pooled = counts.sum(axis=0) + 0.5
            alpha = counts[k] + PRIOR_ROWS * pooled / pooled.sum()
            np.testing.assert_allclose(found[name].matrix[y], alpha / alpha.sum())
            np.testing.assert_array_equal(found[name].counts[y], counts[k])


def test_no_finding_does_not_enter_the_mean_row() -> None:
    generator = np.random.default_rng(0)
    table, gold = draw(generator, 200)
    states = np.column_stack([table.state, np.full(200, P)])
    truth = np.column_stack([gold.truth, generator.integers(0, 2, 200)])
    more = channels_of(*pair(states, truth, (*FINDINGS, "No Finding")))
    for name, channel in channels_of(table, gold).items():
        np.testing.assert_array_equal(more[name].matrix, channel.matrix)


def test_counts_leave_out_what_was_not_judged() -> None:
    counts = count_states(np.array([[P], [P], [X]], np.int8), np.array([[1], [np.nan], [0]], np.float32))
    assert counts.tolist() == [[[0, 0, 0, 1], [1, 0, 0, 0]]]


@given(arrays(np.int64, (4, 2, 4), elements=st.one_of(st.integers(0, 5), st.integers(0, 100_000))))
def test_rows_sum_to_one_and_no_entry_is_below_the_floor(counts: NDArray[np.int64]) -> None:
    names = [f"f{k}" for k in range(4)]
    cells = np.argwhere(np.ones(counts.shape, bool))
    repeat = np.minimum(counts.ravel(), 50)
    finding, truth, state = np.repeat(cells, repeat, axis=0).T
    rows = len(finding)
    states, judged = np.full((rows + 1, 4), X), np.full((rows + 1, 4), np.nan)
    states[np.arange(rows), finding], judged[np.arange(rows), finding] = state, truth
    judged[rows] = 0
    for channel in channels_of(*pair(states, judged, tuple(names))).values():
        assert (channel.matrix >= FLOOR).all()
        np.testing.assert_allclose(channel.matrix.sum(axis=1), 1, atol=1e-12)
        assert (channel.low <= channel.matrix).all()
        assert (channel.matrix <= channel.high).all()


@given(arrays(np.float64, (3, 4), elements=st.one_of(st.floats(0, 0.01), st.floats(0, 1e6))))
def test_the_floor_is_exact(weight: NDArray[np.float64]) -> None:
    row = (weight + 1e-9) / (weight + 1e-9).sum(axis=1, keepdims=True)
    raised = raise_to_floor(row)
    assert (raised >= FLOOR).all()
    np.testing.assert_allclose(raised.sum(axis=1), 1, atol=1e-12)
    free = raised > FLOOR
    ratio = np.where(free, raised / row, np.nan)
    assert (np.nanmax(ratio, axis=1) - np.nanmin(ratio, axis=1) < 1e-9).all(), "what is above it keeps its proportions"


def test_a_channel_without_small_entries_is_left_alone() -> None:
    np.testing.assert_array_equal(raise_to_floor(TRUE[0]), TRUE[0])


def test_a_known_channel_is_recovered() -> None:
    rows = 5000
    table, gold = draw(np.random.default_rng(3), rows)
    found = channels_of(table, gold)
    for k, name in enumerate(FINDINGS):
        count = found[name].counts.sum(axis=1, keepdims=True)
        error = np.sqrt(TRUE[k] * (1 - TRUE[k]) / count)
        assert (np.abs(found[name].matrix - TRUE[k]) < 4 * error).all()


def test_intervals_cover_the_truth() -> None:
    generator = np.random.default_rng(11)
    covered = []
    for _ in range(100):
        found = channels_of(*draw(generator, 1000))
        covered += [(found[n].low <= TRUE[k]) & (TRUE[k] <= found[n].high) for k, n in enumerate(FINDINGS)]
    assert 0.88 <= np.mean(covered) <= 0.99


def test_a_rare_finding_leans_on_the_mean_row() -> None:
    """Two gold positives say little: the estimate stays close to the labeler's mean row, and far from the raw counts."""
    generator = np.random.default_rng(5)
    table, gold = draw(generator, 2000)
    truth = gold.truth.copy()
    truth[:, 2] = 0
    truth[:2, 2] = 1
    states = table.state.copy()
    states[:2, 2] = N
    row = channels_of(*pair(states, truth))["Fracture"].matrix[1]
    assert row[P] > 0.5
    assert row[N] < 0.3


def test_a_channel_that_tells_nothing_is_refused() -> None:
    truth = np.tile([[1], [0]], (500, 3))
    states = np.where(truth == 1, P, N)
    states[:, 2] = np.where(truth[:, 2] == 1, N, P)
    found = estimate_channels([pair(states, truth)[0]], pair(states, truth)[1])
    assert set(found.channels["me"][ALL_DATASETS]) == {"Edema", "Mass"}
    assert set(found.refused["me"]) == {"Fracture"}
    assert "no likelier" in found.refused["me"]["Fracture"]
    assert found.find("me", "any", "Fracture") is None


def test_prior_is_that_of_the_gold() -> None:
    truth = np.array([[1, 0, np.nan], [1, 0, np.nan], [0, 0, np.nan]])
    table, gold = pair(np.full((3, 3), X), truth)
    prior = estimate_channels([table], gold).prior
    assert prior == pytest.approx({"Edema": 2.5 / 4, "Mass": 0.5 / 4, "Fracture": 0.5})


def test_two_tables_of_one_labeler_are_refused() -> None:
    table, gold = draw(np.random.default_rng(0), 50)
    with pytest.raises(InputError, match="two tables are by the labeler 'me'"):
        estimate_channels([table, table], gold)


def test_a_data_set_of_its_own_comes_before_all() -> None:
    everywhere, there = (Channel(m, m, m, np.zeros((2, 4), np.int64)) for m in (TRUE[0], TRUE[1]))
    channels = ChannelSet({"me": {ALL_DATASETS: {"Edema": everywhere, "Mass": everywhere}, "x": {"Edema": there}}}, {})
    assert channels.find("me", "x", "Edema") is there
    assert channels.find("me", "y", "Edema") is everywhere
    assert channels.find("me", "x", "Mass") is everywhere
    assert channels.find("you", "x", "Edema") is None
    assert channels.find("me", "x", "Fracture") is None


@pytest.fixture
def written(tmp_path: Path) -> tuple[ChannelSet, Path]:
    table, gold = draw(np.random.default_rng(0), 300)
    channels = estimate_channels([table], gold, truth="images")
    channels = ChannelSet(channels.channels, channels.prior, {"me": {"Hernia": "too rare"}}, channels.truth)
    channels.write(tmp_path / "channels.json")
    return channels, tmp_path / "channels.json"


def test_round_trip(written: tuple[ChannelSet, Path]) -> None:
    channels, path = written
    back = read_channels(path)
    assert back.prior == channels.prior
    assert back.refused == channels.refused
    assert back.truth == "images"
    for name, channel in channels.channels["me"][ALL_DATASETS].items():
        read = back.find("me", "anywhere", name)
        assert read is not None
        for part in ("matrix", "low", "high", "counts"):
            np.testing.assert_allclose(getattr(read, part), getattr(channel, part), atol=1e-6)
        assert (read.matrix >= FLOOR).all()


def test_the_file_names_its_version_and_states(written: tuple[ChannelSet, Path]) -> None:
    body = json.loads(written[1].read_text(encoding="utf-8"))
    assert body["version"] == 1
    assert body["states"] == list(STATES)
    assert np.shape(body["channels"]["me"]["*"]["Edema"]["matrix"]) == (2, 4)
    assert sum(map(sum, body["channels"]["me"]["*"]["Edema"]["counts"])) == 300


def entry(part: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    def change(body: dict[str, Any]) -> dict[str, Any]:
        body["channels"]["me"]["*"]["Edema"][part] = value
        return body

    return change


ROW = [0.25] * 4
BROKEN: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a list": (lambda body: [body], "another layout"),
    "no channels": (lambda body: {"version": 1, "states": list(STATES), "prior": {}}, "another layout"),
    "ragged": (entry("matrix", [ROW, [1]]), "another layout"),
    "refused as a list": (lambda body: {**body, "refused": ["Edema"]}, "another layout"),
    "other version": (lambda body: {**body, "version": 2}, "expected version 1"),
    "other states": (lambda body: {**body, "states": list(reversed(STATES))}, "states positive, negative"),
    "negative entry": (entry("matrix", [ROW, [1.1, -0.1, 0.0, 0.0]]), "me, Edema: expected a 2 x 4 matrix"),
    "zero": (entry("matrix", [ROW, [1.0, 0.0, 0.0, 0.0]]), "me, Edema: expected a 2 x 4 matrix"),
    "nan": (entry("matrix", [ROW, [float("nan")] * 4]), "me, Edema: expected a 2 x 4 matrix"),
    "rows of another sum": (entry("matrix", [ROW, [0.3] * 4]), "me, Edema: expected a 2 x 4 matrix"),
    "two states": (entry("matrix", [[0.5, 0.5]] * 2), "me, Edema: expected a 2 x 4 matrix"),
    "counts of another shape": (entry("counts", [1, 2]), "me, Edema: expected a 2 x 4 matrix"),
    "impossible prior": (lambda body: {**body, "prior": {"Edema": 1.5}}, "prior of Edema: expected a number in"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_channels_are_refused(written: tuple[ChannelSet, Path], case: str) -> None:
    path = written[1]
    change, message = BROKEN[case]
    path.write_text(json.dumps(change(json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8")
    with pytest.raises(InputError, match=f"channels.json.*{message}.*write it again"):
        read_channels(path)


def test_no_channels_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read.*labelers noise"):
        read_channels(tmp_path / "absent.json")
    for content in (b"not JSON", b"\xff\xfe"):
        (tmp_path / "broken.json").write_bytes(content)
        with pytest.raises(InputError, match="another layout"):
            read_channels(tmp_path / "broken.json")


@given(st.floats(0, 1), arrays(np.float64, 4, elements=st.floats(0.01, 1)))
def test_information_of_an_uninformative_channel_is_zero(prior: float, row: NDArray[np.float64]) -> None:
    matrix = np.tile(row / row.sum(), (2, 1))
    assert channel_information(matrix, prior) == pytest.approx(0, abs=1e-12)


@given(st.floats(0, 1))
def test_information_of_a_perfect_channel_is_the_entropy(prior: float) -> None:
    matrix = np.array([[0.0, 0.6, 0.0, 0.4], [0.9, 0.0, 0.1, 0.0]])
    assert channel_information(matrix, prior) == pytest.approx(entropy([prior, 1 - prior], base=2), abs=1e-9)


def test_information_ranks_channels_by_their_noise() -> None:
    perfect = np.array([[0.001, 0.997, 0.001, 0.001], [0.997, 0.001, 0.001, 0.001]])
    bits = [channel_information((1 - a) * perfect + a * 0.25, 0.2) for a in (0.0, 0.2, 0.5, 0.9)]
    assert bits == sorted(bits, reverse=True)
