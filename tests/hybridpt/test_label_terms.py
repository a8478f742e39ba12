"""Label terms and weights of sources: against closed forms and slow versions, and what they win back of what noise takes."""

from __future__ import annotations

import itertools
import math
import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch import multiprocessing as mp

import labelers
from hybridpt.batch import Batch
from hybridpt.cli import main
from hybridpt.data.sources import Sources
from hybridpt.encoders import ImageEncoder, ImageFeatures, TimmEncoder
from hybridpt.evaluation.sources import draw_log_channels
from hybridpt.functional import bce_loss, channel_loss, elr_term, gce_loss, joint_channel_loss, masked_mean, soft_loss
from hybridpt.functional.bce import Uncertain, state_targets, truth_loss
from hybridpt.functional.channel import channel_nll, channel_penalty, joint_channel_nll
from hybridpt.functional.elr import MEMORY, TemporalTargets
from hybridpt.functional.joint import joint_mean
from hybridpt.functional.pool import Pool
from hybridpt.functional.rows import RowCount
from hybridpt.functional.weights import (
    LOWEST,
    LearnedWeights,
    SourceWeights,
    analytic_weights,
    mean_over_labelers,
    sibling_votes,
    sum_over_labelers,
    text_weights,
)
from hybridpt.module import HybridModule
from hybridpt.noise import channel_bits, channel_evidence, log_channels, pool_of, sibling_matrix
from hybridpt.objectives import Encoders, Step, Supervised
from labelers import Channel, ChannelSet, UsageError
from labelers.channel import channel_information, count_states
from labelers.fusion import Fusion
from labelers.metrics import average_precision, expected_calibration_error, log_loss
from labelers.rows import PRIOR_ROWS, mean_row, posterior_rows
from labelers.rules import Product
from labelers.simulation import simulate_votes
from labelers.types import NEGATIVE, POSITIVE, UNCERTAIN, UNMENTIONED
from tests.conftest import Tiny

B, S, K = 6, 3, 4


def drawn(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, states and who looked."""
    generator = torch.Generator().manual_seed(seed)
    logits = (2 * torch.randn(B, K, generator=generator, dtype=torch.float64)).requires_grad_()
    return logits, torch.randint(0, 4, (B, S, K), generator=generator), torch.rand(B, S, K, generator=generator) < 0.7


def channel_rows(*shape: int, seed: int = 0) -> Tensor:
    raw = torch.rand(*shape, 2, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.05
    return (raw / raw.sum(-1, keepdim=True)).log()


# the losses


EXTREME = [100.0, -100.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("llr", [10.0, -10.0, 0.0])
def test_every_term_is_finite_at_the_ends(dtype: torch.dtype, llr: float) -> None:
    z = torch.tensor(EXTREME, dtype=dtype).repeat(4, 1).requires_grad_()
    state = torch.arange(4).view(4, 1, 1).expand(4, 1, 3)
    looked = torch.ones(4, 1, 3, dtype=torch.bool)
    log_channel = torch.tensor([[-llr, 0.0], [0.0, 0.0]]).log_softmax(0).T.repeat(1, 2).view(2, 4).expand(4, 1, 3, 2, 4)
    ratios = torch.full((4, 1, 3, 4), llr)
    certain = torch.tensor([1.0, 0.0]).expand(4, 3, 2)
    losses = {
        "channel": channel_loss(z, state, ratios, looked),
        "learned": channel_nll(z, state, log_channel, looked),
        "bce": bce_loss(z, state, looked, "smooth_ones")[0],
        "soft": soft_loss(z, torch.full((4, 1, 3), 1.0), looked),
        "gce": gce_loss(z, *state_targets(state, looked))[0],
        "elr": elr_term(z, certain),
        "truth": truth_loss(z, torch.tensor([1.0, 0.0, torch.nan]).repeat(4, 1))[0],
    }
    for name, loss in losses.items():
        assert loss.dtype == torch.float32, name
        assert torch.isfinite(loss).all(), name
        (gradient,) = torch.autograd.grad(loss.sum(), z)
        assert torch.isfinite(gradient).all(), name
    assert (losses["channel"] >= 0).all()
    assert (losses["channel"] <= max(abs(llr), 0.0) + 1e-5).all()


def test_the_channel_is_bce_in_float32_too() -> None:
    """The usual form is off by a rounding error of the large ratio; this one is not."""
    z = torch.linspace(-20, 20, 401).view(-1, 1)
    for said, ratio in ((POSITIVE, 40.0), (NEGATIVE, -40.0)):
        loss = channel_loss(z, torch.full((401, 1, 1), said), torch.full((401, 1, 1, 4), ratio), torch.ones(401, 1, 1).bool())
        target = torch.full_like(z, float(said == POSITIVE))
        expected = nn.functional.binary_cross_entropy_with_logits(z, target, reduction="none")
        torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-6)


def test_the_whole_likelihood_is_the_sum_written_out() -> None:
    z, state, looked = drawn()
    log_channel = channel_rows(B, S, K).requires_grad_()
    loss = channel_nll(z, state, log_channel, looked)
    p = torch.sigmoid(z).unsqueeze(1)
    c = log_channel.exp().gather(-1, state[..., None, None].expand(B, S, K, 2, 1)).squeeze(-1)
    slow = (-torch.log((1 - p) * c[..., 0] + p * c[..., 1]) * looked).sum(1)
    torch.testing.assert_close(loss, slow)
    llr = log_channel[..., 1, :] - log_channel[..., 0, :]
    ours, whole = (torch.autograd.grad(x.sum(), z, retain_graph=True)[0] for x in (channel_loss(z, state, llr, looked), loss))
    torch.testing.assert_close(ours, whole)
    assert torch.autograd.gradcheck(lambda c: channel_nll(z.detach(), state, c, looked), (log_channel,))


def test_the_prior_of_a_channel_is_a_dirichlet_density() -> None:
    evidence = 40 * torch.rand(3, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1
    evidence[2] = 0
    best = (evidence / evidence.sum(-1, keepdim=True).clamp(min=1)).clamp(min=1e-9).log()
    other = channel_rows(3)
    assert channel_penalty(best, evidence).item() == pytest.approx(0, abs=1e-9)
    density = [
        torch.distributions.Dirichlet(evidence[:2] + 1).log_prob(x[:2].exp() / x[:2].exp().sum(-1, keepdim=True))
        for x in (best, other)
    ]
    assert channel_penalty(other, evidence).item() == pytest.approx((density[0] - density[1]).sum().item())


@pytest.mark.parametrize(
    ("uncertain", "unsure"),
    [("zeros", 0.0), ("ones", 1.0), ("smooth_zeros", 0.15), ("smooth_ones", 0.7), ("ignore", None)],
)
@pytest.mark.parametrize("unmentioned", ["negative", "ignore"])
def test_the_policies_are_cross_entropy_with_these_targets(uncertain: Uncertain, unsure: float | None, unmentioned: Any) -> None:
    z, state, looked = drawn()
    loss, known = bce_loss(z, state, looked, uncertain, unmentioned)
    target = {POSITIVE: 1.0, NEGATIVE: 0.0, UNCERTAIN: unsure, UNMENTIONED: 0.0 if unmentioned == "negative" else None}
    for b in range(B):
        for k in range(K):
            p = torch.sigmoid(z[b, k]).item()
            told = [t for s in range(S) if looked[b, s, k] and (t := target[int(state[b, s, k])]) is not None]
            slow = [-t * math.log(p) - (1 - t) * math.log(1 - p) for t in told]
            assert known[b, k] == bool(told)
            assert loss[b, k].item() == pytest.approx(sum(slow) / max(1, len(slow)))


def test_smooth_targets_fill_their_range_and_mean_what_their_middle_says() -> None:
    z = torch.tensor([[0.7]]).expand(20_000, 1)
    state, looked = torch.full((20_000, 1, 1), UNCERTAIN), torch.ones(20_000, 1, 1, dtype=torch.bool)
    draw = torch.rand(20_000, 1, 1, generator=torch.Generator().manual_seed(0))
    target, _ = state_targets(state, looked, "smooth_ones", draw=draw)
    assert target.min().item() == pytest.approx(0.55, abs=1e-3)
    assert target.max().item() == pytest.approx(0.85, abs=1e-3)
    mean = bce_loss(z, state, looked, "smooth_ones", draw=draw)[0].mean()
    assert mean.item() == pytest.approx(bce_loss(z, state, looked, "smooth_ones")[0][0].item(), abs=2e-3)


def test_gce_is_its_formula_and_lies_between_cross_entropy_and_absolute_error() -> None:
    z, state, looked = drawn()
    target, counted = state_targets(state[:, :1], torch.ones_like(looked[:, :1]), "smooth_ones")
    p = torch.sigmoid(z).unsqueeze(1)
    for q in (0.7, 0.3):
        slow = target * (1 - p**q) / q + (1 - target) * (1 - (1 - p) ** q) / q
        torch.testing.assert_close(gce_loss(z, target, counted, q=q)[0], slow[:, 0])
    torch.testing.assert_close(gce_loss(z, target, counted, q=1e-6)[0], soft_loss(z, target, counted), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        gce_loss(z, target, counted, q=1.0)[0], (target * (1 - p) + (1 - target) * p)[:, 0], atol=1e-9, rtol=1e-9
    )
    loss, known = gce_loss(z, target, torch.zeros_like(counted))
    assert (loss == 0).all()
    assert not known.any()


def test_the_regularizer_is_the_papers() -> None:
    z, _, _ = drawn()
    t = torch.rand(B, K, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    t = 0.9 * t / t.sum(-1, keepdim=True)
    p = torch.stack([1 - torch.sigmoid(z), torch.sigmoid(z)], -1)
    torch.testing.assert_close(elr_term(z, t), 3 * torch.log(1 - (p * t).sum(-1)))
    (gradient,) = torch.autograd.grad(elr_term(z, t).sum(), z)
    assert ((gradient < 0) == (t[..., 1] > t[..., 0])).all()  # it pulls towards what was said earlier


def test_temporal_targets_are_a_running_mean_by_row() -> None:
    targets = TemporalTargets(2)
    z = torch.tensor([[0.0, 2.0], [1.0, -1.0], [3.0, 0.0]], requires_grad=True)
    first = targets(torch.tensor([7, 2, 7]), z)
    p = torch.sigmoid(z.detach())
    assert not first.requires_grad
    torch.testing.assert_close(first[0, :, 1], (1 - MEMORY) * (p[0] + p[2]) / 2)  # the same row twice in one batch
    torch.testing.assert_close(first[0], first[2])
    again = targets(torch.tensor([2]), z[:1])
    torch.testing.assert_close(again[0, :, 1], MEMORY * (1 - MEMORY) * p[1] + (1 - MEMORY) * p[0])
    torch.testing.assert_close(again.sum(-1), torch.full((1, 2), 1 - MEMORY**2))
    other = TemporalTargets(2)
    other.load_state_dict(targets.state_dict())
    torch.testing.assert_close(other(torch.tensor([7, 40]), z[:2]), targets(torch.tensor([7, 40]), z[:2]))


def test_rows_are_counted_once() -> None:
    count = RowCount()
    assert [int(count(torch.tensor(rows, dtype=torch.int64))) for rows in ([3, 5], [], [3, 3, 90], [0])] == [2, 2, 3, 4]
    other = RowCount()
    other.load_state_dict(count.state_dict())
    assert int(other(torch.tensor([90, 1]))) == 5


# the weights


def test_siblings_share_one_vote_among_those_that_judged() -> None:
    siblings = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    counted = torch.tensor([[[1], [1], [1]], [[1], [0], [1]], [[0], [0], [0]]], dtype=torch.bool)
    votes = sibling_votes(counted, siblings)
    assert votes.squeeze(-1).tolist() == [[0.5, 0.5, 1], [1, 0, 1], [0, 0, 0]]
    loss = torch.tensor([1.0, 3.0, 10.0]).view(1, 3, 1).expand(3, 3, 1)
    assert mean_over_labelers(loss, counted, SourceWeights(siblings)).flatten().tolist() == [6.0, 5.5, 0.0]
    assert sum_over_labelers(loss, counted, SourceWeights(siblings)).flatten().tolist() == [12.0, 11.0, 0.0]


def test_a_sibling_that_only_repeats_changes_nothing() -> None:
    z, state, looked = drawn()
    llr = channel_rows(B, 2, K)
    llr = (llr[..., 1, :] - llr[..., 0, :])[:, [0, 1, 1]]
    state[:, 2], looked[:, 2] = state[:, 1], looked[:, 1]
    siblings = SourceWeights(torch.tensor([[1, 0, 0], [0, 1, 1], [0, 1, 1]], dtype=torch.bool))
    two = state[:, :2], looked[:, :2]
    torch.testing.assert_close(channel_loss(z, state, llr, looked, siblings), channel_loss(z, two[0], llr[:, :2], two[1]))
    torch.testing.assert_close(bce_loss(z, state, looked, sources=siblings)[0], bce_loss(z, *two)[0])


def test_a_poor_source_alone_in_a_cell_keeps_its_small_weight() -> None:
    looked = torch.tensor([[[True], [True]], [[False], [True]]])
    loss, scale = torch.ones(2, 2, 1), torch.tensor([1.0, 0.1]).view(1, 2, 1)
    torch.testing.assert_close(mean_over_labelers(loss, looked, SourceWeights(scale=scale)).flatten(), torch.tensor([0.55, 0.1]))


def test_analytic_weights_are_shares_of_the_best_sources_bits() -> None:
    simulation = simulate_votes(10, 0, findings=3, labelers=2)
    names = tuple(f"finding{k}" for k in range(3))
    channels = as_channels(simulation.channels, names)
    bits = channel_bits(channels, ("labeler0", "labeler1", "stranger"), ("a",), names, tuple(simulation.prevalence))
    assert bits.shape == (2, 3, 3)
    assert (bits[:, 2] == 0).all()
    expected = channel_information(simulation.channels[1, 2], float(simulation.prevalence[2]))
    assert bits[0, 1, 2].item() == pytest.approx(expected, abs=1e-6)
    weights = analytic_weights(bits)
    assert (weights.amax(dim=(0, 1)) == 1).all()
    torch.testing.assert_close(weights[0, 0] / weights[0, 1], bits[0, 0] / bits[0, 1])
    assert (analytic_weights(torch.zeros(2, 2, 3)) == 0).all()


def as_channels(matrices: np.ndarray, findings: tuple[str, ...], counts: np.ndarray | None = None) -> ChannelSet:
    """Channels of labelers, (S, K, 2, 4)."""
    counts = np.zeros(matrices.shape, np.int64) if counts is None else counts
    by_labeler = {
        f"labeler{s}": {"*": {f: Channel(m, m, m, c) for f, m, c in zip(findings, row, number, strict=True)}}
        for s, (row, number) in enumerate(zip(matrices, counts, strict=True))
    }
    return ChannelSet(by_labeler, dict.fromkeys(findings, 0.2))


def test_analytic_weights_rank_sources_by_their_true_noise() -> None:
    """Channels measured on 200 gold reports, against the information of the true ones."""
    ranks = []
    for seed in range(8):
        drawn = simulate_votes(200, seed, findings=14, labelers=8, prevalence=(0.05, 0.3))
        names = tuple(f"finding{k}" for k in range(14))
        counts = np.stack([count_states(state, drawn.truth) for state in drawn.votes.state])
        measured = np.stack([posterior_rows(c.astype(np.float64), mean_row(c.sum(0))) for c in counts])
        prior = tuple(drawn.prevalence)
        bits = channel_bits(as_channels(measured, names, counts), tuple(f"labeler{s}" for s in range(8)), (), names, prior)
        true = channel_bits(as_channels(drawn.channels, names), tuple(f"labeler{s}" for s in range(8)), (), names, prior)
        ranks.append(spearmanr(analytic_weights(bits)[0].mean(-1), true[0].mean(-1)).statistic)
    assert np.mean(ranks) >= 0.9


def test_learned_weights_find_the_optimum_of_kendall() -> None:
    """exp(-v) = 1 / (2 l) where that lies above the floor; a source without loss stays at the floor's weight."""
    module = LearnedWeights(2, 2)
    scale, offset = module(torch.tensor([0, 1]))
    torch.testing.assert_close(scale, torch.ones(2, 2, 1))
    torch.testing.assert_close(offset, torch.zeros(2, 2, 1), atol=1e-6, rtol=0)
    loss = torch.tensor([[0.8, 0.2], [0.05, 0.0]])
    optimizer = torch.optim.Adam(module.parameters(), 0.05)
    for _ in range(800):
        scale, offset = module(torch.tensor([0, 1]))
        optimizer.zero_grad()
        (scale.squeeze(-1) * loss + offset.squeeze(-1)).sum().backward()
        optimizer.step()
    torch.testing.assert_close(scale[0, :, 0], 1 / (2 * loss[0]), atol=0.02, rtol=0.02)
    assert (module.log_variance > LOWEST).all()
    assert scale[1, 1].item() == pytest.approx(math.exp(-LOWEST), rel=0.1)


def test_text_weights_are_the_share_of_reports_that_belong_to_their_images() -> None:
    rng = np.random.default_rng(0)
    n, shares = 4000, (0.0, 0.3, 0.7, 1.0)
    dataset = torch.arange(5).repeat_interleave(n)[: 4 * n + 3]
    truth = (rng.random((len(dataset), 3)) < [0.3, 0.1, 0.02]).astype(np.float64)
    image = truth + 0.3 * rng.normal(size=truth.shape)
    text = truth.copy()
    for d, share in enumerate(shares):
        wrong = d * n + np.flatnonzero(rng.random(n) < share)
        text[wrong] = text[rng.permutation(wrong)]
    known = torch.ones(truth.shape, dtype=torch.bool)
    weights = text_weights(torch.tensor(image), torch.tensor(text), known, dataset, 5)
    expected = torch.tensor([1 - share for share in shares], dtype=torch.float64)
    torch.testing.assert_close(weights[:4], expected, atol=0.05, rtol=0)
    assert weights[4].isnan()  # three images tell nothing
    calibrated = text_weights(torch.tensor(np.exp(5 * image)), torch.tensor(text), known, dataset, 5)
    torch.testing.assert_close(calibrated, weights, equal_nan=True)
    one = torch.tensor(np.round(image[:n, :1], 1))  # with ties
    known_area = roc_auc_score(text[:n, 0], one[:, 0])
    weight = text_weights(one, torch.tensor(text[:n, :1]), known[:n, :1], dataset[:n], 1)
    assert weight.item() == pytest.approx(2 * known_area - 1)


# what was measured, laid out


def test_siblings_and_evidence_come_from_the_channels() -> None:
    findings = ("a", "b")
    matrix = np.array([[0.05, 0.6, 0.05, 0.3], [0.7, 0.1, 0.1, 0.1]])
    own = Channel(matrix, matrix, matrix, np.array([[5, 60, 5, 30], [7, 1, 1, 1]]))
    other = Channel(matrix[:, [0, 1, 3, 2]], matrix, matrix, np.zeros((2, 4), np.int64))
    rule = Product(np.array([0.2, 0.2]), np.log(np.stack([[matrix] * 2] * 3)), np.ones(3), 0.0)
    fusion = Fusion(("x", "y", "z"), findings, "product", rule, (("y", "z"),))
    channels = ChannelSet({"x": {"*": {"a": own, "b": own}, "here": {"a": other}}}, {"a": 0.2, "b": 0.1}, fusion=fusion)
    assert sibling_matrix(channels, ("z", "x", "y")).int().tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    assert sibling_matrix(None, ("z", "x")).int().tolist() == [[1, 0], [0, 1]]
    evidence = channel_evidence(channels, ("x", "y"), ("here", "there"), findings)
    assert evidence.owner[:, 0].tolist() == [[0, 2], [2, 2], [2, 2]]
    assert (evidence.rows[:, 1] == 0).all()
    assert (evidence.rows[1] == 0).all()
    np.testing.assert_allclose(evidence.rows[2, 0, 1].sum(-1), [100 + PRIOR_ROWS, 10 + PRIOR_ROWS])
    np.testing.assert_allclose(evidence.rows[0, 0, 0], PRIOR_ROWS * other.matrix, rtol=1e-6)
    log_channel = log_channels(channels, ("x",), ("here", "there"), findings)
    np.testing.assert_allclose(log_channel[0, 0, 0].exp(), other.matrix, rtol=1e-6)  # the data set's own


# the objective on frozen features


class Frozen(nn.Module):
    """An encoder that is done: its features are set by hand."""

    def __init__(self, width: int, trained: bool = False) -> None:
        super().__init__()
        self.width = width
        self.weight = nn.Parameter(torch.zeros(1), requires_grad=trained)


class World(NamedTuple):
    """Frozen features whose findings are known, and what two labelers say: one good for few images, one poor for the rest."""

    features: Tensor
    truth: Tensor
    state: Tensor
    looked: Tensor
    sources: Sources


FINDINGS = tuple(f"finding{k}" for k in range(12))
WIDTH = 24
PREVALENCE = np.geomspace(0.02, 0.25, 12)
POOR = np.array([[0.12, 0.35, 0.05, 0.48], [0.55, 0.08, 0.12, 0.25]])
"""A third missed and 12 % false findings."""
GOOD = np.array([[0.01, 0.60, 0.03, 0.36], [0.93, 0.02, 0.03, 0.02]])


@cache
def law() -> tuple[np.ndarray, np.ndarray]:
    """Weights and intercepts of the true log-odds."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(WIDTH, 12))
    weight *= 3 / np.linalg.norm(weight, axis=0)
    z = rng.normal(size=(20_000, WIDTH)) @ weight
    low, high = np.full(12, -20.0), np.full(12, 20.0)
    for _ in range(40):
        middle = (low + high) / 2
        below = (1 / (1 + np.exp(-z - middle))).mean(axis=0) < PREVALENCE
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return weight, low


def images(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features and truth."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, WIDTH))
    weight, bias = law()
    return features.astype(np.float32), rng.random((n, 12)) < 1 / (1 + np.exp(-features @ weight - bias))


def say(rng: np.random.Generator, channel: np.ndarray, truth: np.ndarray) -> np.ndarray:
    rows = channel[truth.astype(np.int64)]
    return (rng.random(truth.shape)[..., None] > np.cumsum(rows, axis=-1)).sum(axis=-1).clip(0, 3)


@cache
def world(seed: int, n: int = 12_000, gold: int = 200) -> World:
    """95 % of the images labeled by the poor labeler; channels of both measured on other images."""
    features, truth = images(n, seed)
    rng = np.random.default_rng([seed, 1])
    few = rng.random(n) < 0.05
    state = np.where(few[:, None], say(rng, GOOD, truth), say(rng, POOR, truth))
    looked = np.zeros((n, 2, 12), bool)
    looked[few, 0] = looked[~few, 1] = True
    _, judged = images(gold, seed + 50)
    counts = np.stack([count_states(say(rng, c, judged).astype(np.int8), judged.astype(np.float32)) for c in (GOOD, POOR)])
    matrices = np.stack([posterior_rows(c.astype(np.float64), mean_row(c.sum(0))) for c in counts])
    channels = as_channels(matrices, FINDINGS, counts)
    prevalence = tuple(float(p) for p in (judged.sum(0) + 0.5) / (gold + 1))
    sources = Sources(FINDINGS, ("labeler0", "labeler1"), ("here",), prevalence, 32, channels=channels)
    return World(
        torch.tensor(features),
        torch.tensor(truth.astype(np.float32)),
        torch.tensor(state).unsqueeze(1).repeat(1, 2, 1),
        torch.tensor(looked),
        sources,
    )


def built(objective: Supervised, sources: Sources, trained: bool = False) -> tuple[Supervised, Encoders]:
    torch.manual_seed(0)
    encoders = Encoders(cast(ImageEncoder, Frozen(WIDTH, trained)), None)
    objective.check(sources)
    objective.build(encoders, sources)
    return objective.train(), encoders


def a_step(world: World, encoders: Encoders, rows: Tensor, truth: Tensor | None = None, progress: float = 1.0) -> Step:
    n, sources = len(rows), world.sources
    state = world.state[rows]
    batch: Any = {
        "image": torch.zeros(n, 1, 1, 1),
        "state": state,
        "probability": torch.tensor([0.95, 0.05, 0.5, 0.1])[state],
        "looked": world.looked[rows],
        "truth": torch.full((n, 12), torch.nan) if truth is None else truth[rows],
        "dataset": torch.zeros(n, dtype=torch.int64),
        "row": rows,
    }
    absent, present = log_channels(sources.channels, sources.labelers, sources.datasets, FINDINGS).unbind(-2)
    step = Step(cast(Batch, batch), encoders, present - absent, progress)
    features = world.features[rows]
    step.image = ImageFeatures(features, features.unsqueeze(1), (1, 1))
    return step


def fit(objective: Supervised, world: World, truth: Tensor | None = None, steps: int = 40) -> Supervised:
    """The head of all images at once, by L-BFGS with a little decay."""
    objective, encoders = built(objective, world.sources)
    step = a_step(world, encoders, torch.arange(len(world.features)), truth)
    optimizer = torch.optim.LBFGS(objective.parameters(), max_iter=steps, history_size=20, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.stack(list(objective(step).values())).sum() + 1e-5 * objective.linear.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return objective


def judged(objective: Supervised) -> np.ndarray:
    """AUPRC, NLL and ECE on clean truth, the mean over findings."""
    features, truth = images(8000, 99)
    with torch.no_grad():
        logits = objective.linear(torch.tensor(features)) + objective.bias
    p = torch.sigmoid(logits).double().clamp(1e-7, 1 - 1e-7).numpy()
    metrics = (average_precision, log_loss, expected_calibration_error)
    return np.array([np.mean([metric(truth[:, k], p[:, k]) for k in range(12)]) for metric in metrics])


LINEAR: dict[str, Any] = {"head": "linear"}
METHODS: dict[str, dict[str, Any]] = {
    "bce": {"label_term": "bce"},
    "channel": {"label_term": "channel"},
    "channel_learned": {"label_term": "channel", "channel_trainable": True},
    "u_ones": {"label_term": "bce", "uncertain": "ones"},
    "u_smooth": {"label_term": "bce", "uncertain": "smooth_ones"},
    "unmentioned_ignored": {"label_term": "bce", "unmentioned": "ignore"},
    "gce": {"label_term": "gce"},
    "posterior": {"label_term": "soft", "soft_targets": "posterior"},
    "source_weights": {"label_term": "bce", "source_weights": "analytic"},
}


@cache
def table() -> dict[str, np.ndarray]:
    """(AUPRC, NLL, ECE) by method, the mean of two worlds."""
    worlds = [world(seed) for seed in (1, 2)]
    oracle = np.mean([judged(fit(Supervised("bce", **LINEAR), w, w.truth)) for w in worlds], axis=0)
    rows = {
        name: np.mean([judged(fit(Supervised(**options, **LINEAR), w)) for w in worlds], axis=0)
        for name, options in METHODS.items()
    }
    return {"oracle": oracle, **rows}


def back(method: str, metric: int) -> float:
    """Share of what plain cross-entropy loses to clean labels that a method wins back."""
    figures = table()
    lost = figures["oracle"][metric] - figures["bce"][metric]
    return float((figures[method][metric] - figures["bce"][metric]) / lost)


def test_the_channel_wins_back_most_of_what_noise_takes() -> None:
    figures = table()
    assert figures["oracle"][0] - figures["bce"][0] > 0.08
    for method in ("channel", "channel_learned"):
        assert back(method, 0) >= 0.6
        assert back(method, 1) >= 0.85
        assert figures[method][2] < figures["bce"][2] / 3
    for rival in ("u_ones", "u_smooth", "unmentioned_ignored", "gce", "posterior", "source_weights"):
        assert back(rival, 0) < back("channel", 0) - 0.1
        assert back(rival, 1) < back("channel", 1) - 0.1


def test_rivals_stand_where_the_literature_puts_them() -> None:
    assert back("unmentioned_ignored", 0) < 0
    assert back("unmentioned_ignored", 1) < -0.5
    assert back("gce", 0) > 0.2
    assert back("source_weights", 0) > 0.03
    assert back("posterior", 0) > 0.03


def test_gold_rows_are_trained_on_as_such() -> None:
    w = world(1)
    gold = torch.where(torch.arange(len(w.truth))[:, None] < 600, w.truth, torch.nan)
    alone, helped = (judged(fit(Supervised(**LINEAR), w, truth)) for truth in (None, gold))
    assert helped[0] > alone[0] + 0.005
    objective, encoders = built(Supervised(**LINEAR), w.sources)
    rows = torch.arange(50)
    with_gold = a_step(w, encoders, rows, w.truth)
    expected = masked_mean(*truth_loss(objective.logits(with_gold), w.truth[rows]))
    torch.testing.assert_close(objective(with_gold)["nll"], expected)
    with_gold.batch["looked"] = torch.zeros_like(with_gold.batch["looked"])
    torch.testing.assert_close(objective(with_gold)["nll"], expected)  # also where no labeler looked
    without = objective.eval()(a_step(w, encoders, rows))["nll"]
    assert objective(a_step(w, encoders, rows, w.truth))["nll"] == without  # a validation compares models by the labels


def test_a_learned_channel_starts_at_gold_and_moves_towards_the_truth() -> None:
    w = world(2, gold=60)
    objective, encoders = built(Supervised(channel_trainable=True, **LINEAR), w.sources)
    measured = log_channels(w.sources.channels, w.sources.labelers, w.sources.datasets, FINDINGS)
    assert objective.log_channel is not None
    torch.testing.assert_close(objective.log_channel, measured, atol=1e-5, rtol=0)
    losses = objective(a_step(w, encoders, torch.arange(100)))
    assert losses["channel_prior"].item() == pytest.approx(0, abs=1e-4)
    fitted = fit(Supervised(channel_trainable=True, **LINEAR), w)
    assert fitted.log_channel is not None
    true = torch.tensor(POOR, dtype=torch.float32)
    before, after = ((x[0, 1].exp() - true).abs().mean(dim=(0, 2)) for x in (measured, fitted.log_channel))
    assert after[0] < 0.4 * before[0]  # most images lack a finding: their row is soon known better than from 60 gold reports
    assert after[1] < before[1]
    assert torch.equal(fitted.log_channel[0], fitted.log_channel[1])  # no data set has channels of its own here
    other = Supervised(channel_trainable=True, **LINEAR)
    other.build(encoders, Sources(**{**vars(w.sources), "channels": None}))
    other.load_state_dict(fitted.state_dict())  # a checkpoint holds no channels but the tensors
    assert other.log_channel is not None
    torch.testing.assert_close(other.log_channel, fitted.log_channel)
    assert all(p.ndim == 1 for n, p in fitted.named_parameters() if "channel" in n)  # vectors do not decay


def test_channels_are_not_learned_with_a_deep_network() -> None:
    w = world(1)
    objective, encoders = built(Supervised(channel_trainable=True, **LINEAR), w.sources, trained=True)
    with pytest.raises(UsageError, match="frozen image encoder"):
        objective(a_step(w, encoders, torch.arange(10)))


def test_an_unmeasured_finding_stays_silent_where_channels_are_learned() -> None:
    w = world(1)
    assert w.sources.channels is not None
    channels = {
        name: {"*": {f: c for f, c in d["*"].items() if f != FINDINGS[3]}} for name, d in w.sources.channels.channels.items()
    }
    sources = Sources(**{**vars(w.sources), "channels": ChannelSet(channels, w.sources.channels.prior)})
    objective, encoders = built(Supervised(channel_trainable=True, **LINEAR), sources)
    torch.stack(list(objective(a_step(w, encoders, torch.arange(100))).values())).sum().backward()
    gradient = objective.linear.weight.grad
    assert gradient is not None
    assert (gradient[3].abs() < 1e-9).all()
    assert (gradient[4] != 0).any()


def test_learned_weights_rank_sources_by_their_noise() -> None:
    rng = np.random.default_rng(3)
    features, truth = images(4000, 5)
    noise = (0.02, 0.3, 0.1, 0.2)  # share of flipped labels
    flipped = [np.where(rng.random(truth.shape) < share, ~truth, truth) for share in noise]
    state = torch.tensor(np.where(np.stack(flipped, axis=1), POSITIVE, NEGATIVE))
    sources = Sources(FINDINGS, ("a", "b", "c", "d"), ("here",), tuple(PREVALENCE), 32)
    w = World(torch.tensor(features), torch.tensor(truth).float(), state, torch.ones(4000, 4, 12, dtype=torch.bool), sources)
    objective = fit(Supervised("bce", source_weights="learned", **LINEAR), w)
    weights = objective.weight_by_source
    assert weights is not None
    assert weights.shape == (2, 4)
    assert spearmanr(weights[0], -np.array(noise)).statistic == 1
    assert weights[0, 0] > 1.5 * weights[0, 1]


def test_elr_trains_and_keeps_its_targets() -> None:
    w = world(1)
    objective, encoders = built(Supervised("elr", **LINEAR), w.sources)
    optimizer = torch.optim.Adam(objective.parameters(), 0.01)
    for _ in range(3):
        for rows in torch.arange(1000).split(250):
            optimizer.zero_grad()
            losses = objective(a_step(w, encoders, rows))
            torch.stack(list(losses.values())).sum().backward()
            optimizer.step()
    assert sorted(losses) == ["nll", "regularizer"]
    assert losses["regularizer"] < 0
    kept = objective.targets.mean[:1000].sum(-1)
    torch.testing.assert_close(kept, torch.full_like(kept, 1 - MEMORY**3))
    before = objective.targets.mean.clone()
    assert list(objective.eval()(a_step(w, encoders, torch.arange(50)))) == ["nll"]
    assert torch.equal(objective.targets.mean, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_term": "bce", "channel_trainable": True}, "needs the label term channel"),
        ({"source_weights": "learned"}, "would favour poor sources"),
        ({"label_term": "soft", "soft_targets": "posterior", "source_weights": "analytic"}, "weighs the sources itself"),
        ({"warmup": 1.5}, "from 0 to 1, got 1.5"),
        ({"dim": 0}, "from 1, got 0"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        Supervised(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [METHODS["posterior"], METHODS["source_weights"], METHODS["channel_learned"]])
def test_what_needs_channels_says_so(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="needs a measured channel of 'labeler0'; estimate it with 'labelers noise'"):
        Supervised(**options).check(Sources(**{**vars(world(1).sources), "channels": None}))


# several processes


def outcome(module: nn.Module, *inputs: Tensor) -> dict[str, Any]:
    loss = module(*inputs)
    loss.backward()
    return {"loss": loss.detach(), "gradients": {n.removeprefix("module."): p.grad for n, p in module.named_parameters()}}


class Joint(nn.Module):
    """A linear model whose loss is a mean over cells."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(5, 3)

    def forward(self, x: Tensor, known: Tensor) -> Tensor:
        return joint_mean(self.linear(x).square(), known)


class Head(nn.Module):
    """A head on a small world whose forward pass is the sum of its losses."""

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        self.world = world(1, n=400)
        self.objective, self.encoders = built(Supervised(**options, **LINEAR), self.world.sources)

    def forward(self, rows: Tensor) -> Tensor:
        gold = torch.where(torch.arange(400)[:, None] < 5, self.world.truth, torch.nan)
        step = a_step(self.world, self.encoders, rows, gold)
        step.batch["looked"][::3, :, :4] = False
        return torch.stack(list(self.objective(step).values())).sum()


HEADS: dict[str, dict[str, Any]] = {
    "channel": {"label_term": "channel"},
    "channel_learned": METHODS["channel_learned"],
    "elr": {"label_term": "elr"},
    "learned": {"label_term": "bce", "source_weights": "learned"},
}
ROWS = (torch.arange(0, 30), torch.arange(30, 39))


def shares() -> list[tuple[Tensor, Tensor]]:
    x = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
    known = torch.zeros(2, 4, 3, dtype=torch.bool)
    known[0, :, 0], known[1] = True, True
    return [(x[rank], known[rank]) for rank in range(2)]


def work(rank: int, folder: str) -> None:
    """What one of the processes does."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    got = outcome(nn.parallel.DistributedDataParallel(Joint()), *shares()[rank])
    for name, options in HEADS.items():
        got[name] = outcome(nn.parallel.DistributedDataParallel(Head(options)), ROWS[rank])
    targets, count = TemporalTargets(1), RowCount()
    rows = torch.tensor([[2, 4], [4, 9]][rank])
    got["targets"] = targets(rows, torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]][rank]))
    got["mean"], got["count"] = targets.mean, count(rows)
    torch.save(got, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_are_one_with_the_joint_batch() -> None:
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(work, args=(folder,), nprocs=2)
        processes = [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(2)]
    alone = outcome(Joint(), *(torch.cat(parts) for parts in zip(*shares(), strict=True)))
    by_itself = Joint()(*shares()[0])
    assert abs(by_itself.item() - alone["loss"].item()) > 1e-3
    targets = TemporalTargets(1)
    targets(torch.tensor([2, 4, 4, 9]), torch.tensor([[1.0], [2.0], [3.0], [4.0]]))
    heads = {name: outcome(Head(options), torch.cat(ROWS)) for name, options in HEADS.items()}
    for process, rows in zip(processes, ([2, 4], [4, 9]), strict=True):
        torch.testing.assert_close({k: process[k] for k in alone}, alone)
        torch.testing.assert_close({name: process[name] for name in heads}, heads)
        torch.testing.assert_close(process["mean"], targets.mean)  # all hold all
        torch.testing.assert_close(process["targets"], targets.mean[rows])
        assert process["count"] == 3


# the command line


def test_a_picture_of_channels_is_drawn(tmp_path: Path) -> None:
    sources = world(1).sources
    log_channel = log_channels(sources.channels, sources.labelers, sources.datasets, FINDINGS)
    draw_log_channels(log_channel, sources, tmp_path / "channels.png")
    plain = (tmp_path / "channels.png").read_bytes()
    assert plain.startswith(b"\x89PNG")
    log_channel[0, 0] = log_channel[0, 1]
    draw_log_channels(log_channel, sources, tmp_path / "channels.png")  # a data set with channels of its own gets panels
    assert (tmp_path / "channels.png").read_bytes() != plain


def supervised(option: str, value: str) -> list[str]:
    return [f"--model.objectives.supervised.init_args.{option}", value]


@pytest.mark.slow
def test_the_command_line_logs_what_sources_count_for(config: Path, labeled: Tiny, tmp_path: Path) -> None:
    run = tmp_path / "run"
    given = ["fit", "--config", str(config), "--trainer.default_root_dir", str(run)]
    assert main([*given, *supervised("label_term", "gce"), *supervised("source_weights", "learned")]) == 0
    metrics = pd.read_csv(run / "metrics.csv")
    assert (run / "channels.png").exists()
    weights = [c for c in metrics if c.startswith("weight/supervised/")]
    assert any(c.endswith("/others/context") for c in weights)
    assert len(weights) >= 2
    assert (metrics[weights].dropna() > 0).all(axis=None)
    assert len(metrics[weights].dropna()) == 2
    assert any(c.startswith("text_weight/") for c in metrics)
    assert "train/supervised/gce_step" in metrics or "train/supervised/gce" in metrics


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        supervised("label_term", "elr"),
        supervised("channel_trainable", "true"),
        [*supervised("label_term", "elr"), "--model.ema", "0.9"],
    ],
)
def test_the_state_of_a_term_survives_a_checkpoint(options: list[str], config: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    common = ["fit", "--config", str(config), "--model.frozen_layers", "-1", *options]
    assert main([*common, "--trainer.default_root_dir", str(whole)]) == 0
    assert main([*common, "--trainer.default_root_dir", str(parts), "--trainer.max_steps", "3"]) == 0
    last = str(parts / "last.ckpt")
    assert main([*common, "--trainer.default_root_dir", str(parts), "--ckpt_path", last]) == 0
    weights = [torch.load(folder / "last.ckpt", weights_only=True)["state_dict"] for folder in (whole, parts)]
    extra = [name for name in weights[0] if name.endswith("_extra_state")]
    assert extra
    assert weights[0][extra[0]].any()
    assert weights[0][extra[0]].shape == weights[1][extra[0]].shape


# one channel for what several say


def asked(size: int) -> Pool:
    """Exponents drawn at random for every set of labelers."""
    who = (torch.arange(2**size)[:, None] >> torch.arange(size)) & 1
    return Pool(who * torch.rand(2**size, size, generator=torch.Generator().manual_seed(3)), torch.tensor([[-1.5, 2.0]] * K))


def test_the_joint_loss_is_the_likelihood_written_out() -> None:
    """-log of the sum over truths of P(truth) times the product of powered likelihoods, less that of the best logit; and its gradient."""
    z, state, looked = drawn()
    llr = channel_rows(B, S, K)
    llr = llr[..., 1, :] - llr[..., 0, :]
    for pool in (None, asked(S)):
        loss = joint_channel_loss(z, state, llr, looked, pool)
        assert torch.autograd.gradcheck(lambda z, pool=pool: joint_channel_loss(z, state, llr, looked, pool), (z,))
        for b, k in itertools.product(range(B), range(K)):
            who = [s for s in range(S) if looked[b, s, k]]
            powers = torch.ones(S) if pool is None else pool.exponents[sum(2**s for s in who)]
            told = sum(float(powers[s] * llr[b, s, k, int(state[b, s, k])]) for s in who)
            if pool is not None and len(who) > 1:
                told = min(max(told, -1.5), 2.0)
            p = torch.sigmoid(z[b, k]).item()
            slow = -math.log((1 - p) + p * math.exp(told)) + max(told, 0)
            assert loss[b, k].item() == pytest.approx(slow, abs=1e-7)
    log_channel = channel_rows(B, S, K)
    assert torch.autograd.gradcheck(
        lambda c: joint_channel_nll(z.detach(), state, c, looked, asked(S)), (log_channel.requires_grad_(),)
    )
    whole = joint_channel_nll(z, state, log_channel, looked)
    for b, k in itertools.product(range(B), range(K)):
        c = log_channel[b, :, k].exp()
        p, who = torch.sigmoid(z[b, k]), [s for s in range(S) if looked[b, s, k]]
        absent, present = (math.prod(c[s, y, state[b, s, k]].item() for s in who) for y in (0, 1))
        assert whole[b, k].item() == pytest.approx(-math.log((1 - p.item()) * absent + p.item() * present))
    unlimited = asked(S)._replace(strongest=torch.tensor([[-99.0, 99.0]] * K))
    ours, learned = (
        torch.autograd.grad(x.sum(), z)[0]
        for x in (
            joint_channel_loss(z, state, llr, looked, unlimited),
            joint_channel_nll(z, state, log_channel, looked, unlimited),
        )
    )
    torch.testing.assert_close(ours, learned)
    assert (joint_channel_nll(z, state, log_channel, torch.zeros_like(looked), asked(S)) == 0).all()
    assert (joint_channel_loss(z, state, torch.zeros_like(llr), looked, asked(S)) == 0).all()
    assert (joint_channel_loss(z, state, llr, torch.zeros_like(looked), asked(S)) == 0).all()
    (gradient,) = torch.autograd.grad(joint_channel_loss(z, state, llr, looked & (torch.arange(K) > 0), asked(S)).sum(), z)
    assert (gradient[:, 0] == 0).all()
    assert joint_channel_loss(z.bfloat16(), state, llr.float(), looked, asked(S)).dtype == torch.float32


def test_the_joint_loss_is_that_of_single_channels_where_one_looked_and_less_where_several_agree() -> None:
    z, state, looked = drawn()
    llr = channel_rows(B, S, K)
    llr = llr[..., 1, :] - llr[..., 0, :]
    first = looked & (torch.arange(S) == 0)[:, None]
    torch.testing.assert_close(joint_channel_loss(z, state, llr, first), channel_loss(z, state, llr, first))
    with torch.no_grad():
        p, said = torch.sigmoid(z).unsqueeze(1), llr.gather(-1, state.unsqueeze(-1)).squeeze(-1) * looked
        single = -torch.log(1 - p + p * said.exp()).sum(1)
        together = -torch.log(1 - p + p * said.sum(1, keepdim=True).exp()).squeeze(1)
    agree = (said >= 0).all(1) | (said <= 0).all(1)
    assert agree.any()
    assert (together <= single + 1e-9)[agree].all()  # Chebyshev's sum inequality


def test_a_checkpoint_keeps_the_pool() -> None:
    """And a model that was built without channels takes it from there."""
    pool = labelers.Pool({frozenset(("context", "keywords")): {"context": 0.7, "keywords": 0.4}}, {FINDINGS[0]: (-1.0, 2.0)})
    named = (FINDINGS[:2], ("context", "keywords"), ("here",), (0.1, 0.2), 32)
    pair, bare = Sources(*named, channels=ChannelSet({}, {}, pool=pool)), Sources(*named)
    model, again = (HybridModule(TimmEncoder("test_resnet"), {"it": Supervised("bce")}) for _ in range(2))
    model.build(pair)
    again.build(bare)
    assert model.pool.exponents[3].tolist() == pytest.approx([0.7, 0.4])
    assert again.pool.exponents[3].tolist() == [1, 1]
    again.load_state_dict(model.state_dict())
    for mine, theirs in zip(again.pool, model.pool, strict=True):
        assert torch.equal(mine, theirs)


def test_the_pool_is_laid_out_by_who_looked() -> None:
    fitted = labelers.Pool(
        {frozenset("xy"): {"x": 0.9, "y": 0.3}, frozenset("xyz"): {"x": 0.5, "y": 0.2, "z": 1.1}}, {"b": (-2.0, 3.0)}
    )
    channels = ChannelSet({}, {}, pool=fitted)
    pool = pool_of(channels, ("z", "x", "y"), ("a", "b"))
    expected = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0.5, 0.5, 0], [0, 0, 1], [0.5, 0, 0.5], [0, 0.9, 0.3], [1.1, 0.5, 0.2]]
    torch.testing.assert_close(pool.exponents, torch.tensor(expected))
    assert pool.strongest.tolist() == [[-1e4, 1e4], [-2, 3]]
    rule = Product(np.array([0.2]), np.zeros((1, 3, 2, 4)), np.ones(3), 0.0)
    related = ChannelSet({}, {}, fusion=Fusion(("x", "y", "z"), ("a",), "product", rule, (("y", "z"),)))
    assert pool_of(related, ("z", "x", "y"), ("a",)).exponents[7].tolist() == [0.5, 1, 0.5]
    assert pool_of(related, ("z", "x", "y"), ("a",)).exponents[3].tolist() == [1, 1, 0]
    assert pool_of(None, ("z", "x"), ("a",)).exponents.tolist() == [[0, 0], [1, 0], [0, 1], [1, 1]]
    with pytest.raises(UsageError, match="16 labelers or fewer, got 17"):
        pool_of(None, [str(s) for s in range(17)], ("a",))
