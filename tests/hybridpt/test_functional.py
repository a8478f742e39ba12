"""Losses against closed forms and slow versions; zero gradient where nothing is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hybridpt.functional import bce_loss, channel_loss, clip_loss, joint_channel_loss, masked_mean, soft_loss, state_logits
from hybridpt.functional.channel import joint_channel_nll
from hybridpt.functional.pool import Pool
from hybridpt.functional.weights import SourceWeights
from labelers.types import NEGATIVE, POSITIVE, STATES, UNCERTAIN, UNMENTIONED

B, S, K = 6, 3, 4


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(B, K, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()


@pytest.fixture
def state() -> Tensor:
    return torch.randint(0, 4, (B, S, K), generator=torch.Generator().manual_seed(1))


def channels(shape: tuple[int, ...]) -> Tensor:
    """Log of random channels, rows summing to one."""
    raw = torch.rand(*shape, 2, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + 0.05
    return (raw / raw.sum(-1, keepdim=True)).log()


def ratio(log_channel: Tensor) -> Tensor:
    return log_channel[..., 1, :] - log_channel[..., 0, :]


def test_channel_is_the_likelihood_written_out(logits: Tensor, state: Tensor) -> None:
    log_channel = channels((B, S, K))
    looked = torch.rand(B, S, K, generator=torch.Generator().manual_seed(3)) < 0.7
    loss = channel_loss(logits, state, ratio(log_channel), looked)
    for b in range(B):
        for k in range(K):
            p = torch.sigmoid(logits[b, k])
            slow = torch.zeros((), dtype=torch.float64)
            for s in range(S):
                if looked[b, s, k]:
                    c = log_channel[b, s, k].exp()
                    said = state[b, s, k]
                    slow = slow - torch.log(p * c[1, said] + (1 - p) * c[0, said])
                    slow = slow + torch.log(c[:, said].max())
            assert loss[b, k].item() == pytest.approx(slow.item(), abs=1e-12)


def test_channel_gradient_is_right(logits: Tensor, state: Tensor) -> None:
    log_channel, looked = channels((B, S, K)), torch.ones(B, S, K, dtype=torch.bool)
    assert torch.autograd.gradcheck(lambda z: channel_loss(z, state, ratio(log_channel), looked), (logits,))


def perfect(error: float = 1e-9) -> Tensor:
    """Absent is called negative, present positive."""
    matrix = torch.full((2, 4), error, dtype=torch.float64)
    matrix[0, NEGATIVE] = matrix[1, POSITIVE] = 1 - 3 * error
    return matrix.log()


@pytest.mark.parametrize("said", [POSITIVE, NEGATIVE])
def test_an_all_but_perfect_channel_is_bce(logits: Tensor, said: int) -> None:
    state = torch.full((B, 1, K), said)
    looked = torch.ones(B, 1, K, dtype=torch.bool)
    loss = channel_loss(logits, state, ratio(perfect()).expand(B, 1, K, 4), looked)
    target = torch.full((B, K), float(said == POSITIVE), dtype=torch.float64)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=0)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    torch.testing.assert_close(gradient, torch.sigmoid(logits) - target, atol=1e-6, rtol=0)


def test_a_state_that_tells_nothing_has_no_gradient(logits: Tensor, state: Tensor) -> None:
    loss = channel_loss(logits, state, torch.zeros(B, S, K, 4), torch.ones(B, S, K, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert (gradient == 0).all()
    assert (loss == 0).all()


def test_who_has_no_channel_takes_no_share_of_what_others_say(logits: Tensor, state: Tensor) -> None:
    """Two siblings of whom the second's channel was refused for all findings but the first."""
    log_channel = channels((B, S, K))[:, :2].clone()
    log_channel[:, 1, 1:] = math.log(0.25)
    both, first = torch.ones(B, 2, K, dtype=torch.bool), torch.ones(B, 2, K, dtype=torch.bool)
    first[:, 1] = False
    pool = Pool(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.6, 0.5]]), torch.tensor([[-0.1, 0.1]]).repeat(K, 1))
    siblings = SourceWeights(torch.ones(2, 2, dtype=torch.bool))
    said = state[:, :2], ratio(log_channel)
    for two, one in (
        (channel_loss(logits, *said, both, siblings), channel_loss(logits, *said, first, siblings)),
        (joint_channel_loss(logits, *said, both, pool), joint_channel_loss(logits, *said, first, pool)),
        (
            joint_channel_nll(logits, said[0], log_channel, both, pool),
            joint_channel_nll(logits, said[0], log_channel, first, pool),
        ),
    ):
        assert torch.equal(two[:, 1:], one[:, 1:])
        assert (two[:, 0] != one[:, 0]).any()


def test_heads_of_states_read_in_half_precision_what_they_read_in_full() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens, query = torch.randn(3, 7, 16, generator=generator), torch.randn(5, 16, generator=generator)
    weight, bias = torch.randn(5, 4, 16, generator=generator), torch.randn(5, 4, generator=generator)
    mask = torch.arange(7) < torch.tensor([[7], [4], [1]])
    full = state_logits(tokens, mask, query, weight, bias)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            half = state_logits(tokens, mask, query, weight, bias)
            other = state_logits(torch.where(mask[..., None], tokens, 9.0), mask, query, weight, bias)
        torch.testing.assert_close(half.float(), full, atol=0.15, rtol=0.05)
        assert torch.equal(half, other)  # what is masked is not read


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [0.0, 5.0, 80.0, -80.0])
def test_channel_is_finite_in_low_precision(dtype: torch.dtype, size: float) -> None:
    z = torch.full((4, 1), size, dtype=dtype, requires_grad=True)
    state = torch.arange(4).view(4, 1, 1)
    loss = channel_loss(z, state, ratio(perfect(1e-3)).float().expand(4, 1, 1, 4), torch.ones(4, 1, 1, dtype=torch.bool))
    loss.sum().backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss).all()
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()


def test_channel_finds_the_true_probability() -> None:
    """Fitted on states drawn through a known channel, the logit recovers the prevalence that plain BCE misses."""
    generator = torch.Generator().manual_seed(5)
    channel = torch.tensor([[0.08, 0.52, 0.05, 0.35], [0.55, 0.10, 0.10, 0.25]], dtype=torch.float64)
    truth = (torch.rand(40_000, generator=generator) < 0.2).long()
    state = torch.multinomial(channel[truth], 1, generator=generator).view(-1, 1, 1)
    looked = torch.ones_like(state, dtype=torch.bool)
    z = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([z], max_iter=50)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = channel_loss(z.expand(len(state), 1), state, ratio(channel.log()).expand(len(state), 1, 1, 4), looked).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert torch.sigmoid(z).item() == pytest.approx(truth.double().mean().item(), abs=0.01)
    assert abs((state == POSITIVE).double().mean().item() - 0.2) > 0.02


def test_losses_are_zero_where_nobody_looked(logits: Tensor, state: Tensor) -> None:
    nobody = torch.zeros(B, S, K, dtype=torch.bool)
    bce, known = bce_loss(logits, state, nobody)
    total = channel_loss(logits, state, ratio(channels((B, S, K))), nobody) + bce + soft_loss(logits, torch.rand(B, S, K), nobody)
    assert (total == 0).all()
    assert not known.any()
    (gradient,) = torch.autograd.grad(masked_mean(total, known), logits)
    assert (gradient == 0).all()


def test_bce_policy_by_state() -> None:
    z = torch.tensor([[0.3]], dtype=torch.float64)
    looked = torch.ones(1, 1, 1, dtype=torch.bool)
    one, zero = math.log1p(math.exp(-0.3)), math.log1p(math.exp(0.3))
    expected = {"positive": (one, True), "negative": (zero, True), "unmentioned": (zero, True), "uncertain": (0.0, False)}
    for code, name in enumerate(STATES):
        loss, known = bce_loss(z, torch.full((1, 1, 1), code), looked)
        assert (loss.item(), known.item()) == (pytest.approx(expected[name][0]), expected[name][1])


def test_bce_averages_over_the_labelers_that_count() -> None:
    z = torch.zeros(1, 1, dtype=torch.float64)
    state = torch.tensor([[[POSITIVE], [UNCERTAIN], [UNMENTIONED]]])
    loss, _ = bce_loss(z, state, torch.ones(1, 3, 1, dtype=torch.bool))
    assert loss.item() == pytest.approx(math.log(2))


def test_soft_is_least_at_the_mean_probability() -> None:
    probability = torch.tensor([[[0.9], [0.3]]], dtype=torch.float64)
    looked = torch.ones(1, 2, 1, dtype=torch.bool)
    z = torch.logit(torch.tensor([[0.6]], dtype=torch.float64)).requires_grad_()
    (gradient,) = torch.autograd.grad(soft_loss(z, probability, looked).sum(), z)
    assert gradient.item() == pytest.approx(0, abs=1e-12)


def unit(rows: int, seed: int) -> Tensor:
    x = torch.randn(rows, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(x, dim=-1)


def test_clip_without_shared_studies_is_the_usual_cross_entropy() -> None:
    image, text, scale = unit(5, 0), unit(5, 1), torch.tensor(12.0, dtype=torch.float64)
    logits = 12.0 * image @ text.T
    target = torch.arange(5)
    usual = (torch.nn.functional.cross_entropy(logits, target) + torch.nn.functional.cross_entropy(logits.T, target)) / 2
    assert clip_loss(image, text, torch.arange(5), torch.arange(5), scale).item() == pytest.approx(usual.item(), abs=1e-12)


@pytest.mark.parametrize("by", ["study", "words"])
def test_clip_shares_the_target_among_one_study_and_the_same_words(by: str) -> None:
    image, text, study = unit(3, 0), unit(3, 1), torch.tensor([4, 9, 4])
    text[2] = text[0]
    words = torch.arange(3) if by == "study" else study
    study = study if by == "study" else torch.arange(3)
    loss = clip_loss(image, text, study, words, torch.tensor(5.0, dtype=torch.float64))
    slow = 0.0
    for a, b in ((image, text), (text, image)):
        log_p = torch.log_softmax(5.0 * a @ b.T, dim=1)
        slow -= (0.5 * (log_p[0, 0] + log_p[0, 2]) + log_p[1, 1] + 0.5 * (log_p[2, 0] + log_p[2, 2])).item() / 6
    assert loss.item() == pytest.approx(slow, abs=1e-12)


@pytest.mark.parametrize("pairs", [0, 1])
def test_clip_without_negatives_is_zero_with_a_zero_gradient(pairs: int) -> None:
    image = unit(pairs, 0).requires_grad_()
    loss = clip_loss(image, unit(pairs, 1), torch.arange(pairs), torch.arange(pairs), torch.tensor(5.0))
    loss.backward()
    assert loss.item() == 0
    assert image.grad is not None
    assert (image.grad == 0).all()
