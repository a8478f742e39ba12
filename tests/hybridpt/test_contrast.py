"""Contrastive losses against loops over pairs, the plain dense computation, and closed forms; memory that grows with the batch alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hybridpt.functional import clip_loss, label_posterior, siglip_loss, soft_clip_loss, unicl_loss
from hybridpt.functional.pool import Pool

N, D, K = 11, 6, 3
SCALE, BIAS = 9.0, -2.0
Loss = Callable[..., Tensor]


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unit(rows: int, seed: int, dtype: torch.dtype = torch.float64, width: int = D) -> Tensor:
    return F.normalize(torch.randn(rows, width, generator=draws(seed), dtype=torch.float64), dim=-1).to(dtype)


class Case:
    """A batch with repeated studies, texts, sentences and labels, of one data set or of three."""

    def __init__(
        self, rows: int = N, dtype: torch.dtype = torch.float64, width: int = D, weighted: bool = False, apart: bool = False
    ) -> None:
        self.image, self.text = unit(rows, 0, dtype, width), unit(rows, 1, dtype, width)
        self.study = torch.randint(0, max(1, 2 * rows // 3), (rows,), generator=draws(2))
        self.words = torch.randint(0, max(1, rows), (rows,), generator=draws(3))
        other = torch.randint(-1, max(1, rows), (rows, 2), generator=draws(4))
        self.said = torch.cat([self.words[:, None], other], dim=1)
        self.label = torch.randint(-1, 4, (rows,), generator=draws(5))
        self.posterior = torch.rand(rows, K, generator=draws(6), dtype=torch.float64).to(dtype)
        self.known = torch.rand(rows, generator=draws(7)) < 0.8
        self.scale, self.bias = torch.tensor(SCALE, dtype=dtype), torch.tensor(BIAS, dtype=dtype)
        of_datasets = torch.tensor([1, 0.3, 0], dtype=torch.float64)
        self.anchor = of_datasets[torch.arange(rows) % 3] if weighted else None
        self.dataset = torch.randint(0, 3, (rows,), generator=draws(8)) if apart else None

    def of(self, name: str, *features: Tensor, **options: Any) -> Tensor:
        image, text, scale, bias = features or (self.image, self.text, self.scale, self.bias)
        more: Mapping[str, tuple[Tensor, ...]] = {
            "clip": (scale,),
            "siglip": (scale, bias),
            "unicl": (self.label, scale),
            "soft_clip": (self.posterior, self.known, scale),
        }
        given = (image, text, self.study, self.words, *more[name])
        return LOSSES[name](*given, said=self.said, anchor=self.anchor, dataset=self.dataset, **options)

    def meets(self, i: int, j: int) -> bool:
        return self.dataset is None or bool(self.dataset[i] == self.dataset[j])

    def same_report(self, i: int, j: int) -> bool:
        return bool(self.study[i] == self.study[j]) or int(self.words[j]) in self.said[i].tolist()

    def weight(self, name: str, i: int, j: int) -> float:
        """What pair (i, j) counts for, from the definitions, in Python."""
        if not self.meets(i, j):
            return 0.0
        if self.same_report(i, j):
            return 1.0
        if name == "unicl":
            return float(self.label[i] == self.label[j] and self.label[i] >= 0)
        if name == "soft_clip" and self.known[i] and self.known[j]:
            pairs = zip(self.posterior[i].tolist(), self.posterior[j].tolist(), strict=True)
            return math.prod(math.sqrt(p * q) + math.sqrt((1 - p) * (1 - q)) for p, q in pairs)
        return 0.0

    def dense(self, name: str, image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        """The whole matrix of pairs at once, by torch's own losses."""
        rows = len(image)
        anchor = torch.ones(rows, dtype=image.dtype) if self.anchor is None else self.anchor.to(image.dtype)
        weight = torch.tensor([[self.weight(name, i, j) for j in range(rows)] for i in range(rows)], dtype=image.dtype)
        meets = torch.tensor([[self.meets(i, j) for j in range(rows)] for i in range(rows)])
        if name == "siglip":
            logits = scale * image @ text.T + bias
            both = meets * (anchor[:, None] + anchor) / 2
            return (both * F.binary_cross_entropy_with_logits(logits, weight, reduction="none")).sum() / rows
        logits = torch.where(meets, scale * image @ text.T, torch.finfo(image.dtype).min / 2)
        by_row = F.cross_entropy(logits, weight / weight.sum(1, keepdim=True), reduction="none")
        by_column = F.cross_entropy(logits.T, weight.T / weight.T.sum(1, keepdim=True), reduction="none")
        return (anchor * (by_row + by_column)).sum() / (2 * rows)


LOSSES: dict[str, Loss] = {"clip": clip_loss, "siglip": siglip_loss, "unicl": unicl_loss, "soft_clip": soft_clip_loss}
names = pytest.mark.parametrize("name", list(LOSSES))
weights = pytest.mark.parametrize("weighted", [False, True])
hospitals = pytest.mark.parametrize("apart", [False, True], ids=["one", "three"])


@names
@weights
@hospitals
def test_every_loss_is_the_sum_over_its_pairs(name: str, weighted: bool, apart: bool) -> None:
    """Loops over pairs, in Python floats, from the definitions of the papers."""
    case = Case(weighted=weighted, apart=apart)
    anchor = [1.0] * N if case.anchor is None else case.anchor.tolist()
    cosine = (case.image @ case.text.T).tolist()
    weight = [[case.weight(name, i, j) for j in range(N)] for i in range(N)]
    slow = 0.0
    if name == "siglip":
        for i in range(N):
            for j in (j for j in range(N) if case.meets(i, j)):
                sign = 1 if weight[i][j] else -1
                slow += (anchor[i] + anchor[j]) / 2 * math.log1p(math.exp(-sign * (SCALE * cosine[i][j] + BIAS))) / N
    else:
        for matrix, target in ((cosine, weight), ([*zip(*cosine, strict=True)], [*zip(*weight, strict=True)])):
            for i, (row, mass, counts) in enumerate(zip(matrix, target, anchor, strict=True)):
                total = sum(math.exp(SCALE * c) for j, c in enumerate(row) if case.meets(i, j))
                likely = sum(w / sum(mass) * math.log(math.exp(SCALE * c) / total) for c, w in zip(row, mass, strict=True))
                slow -= counts * likely / (2 * N)
    assert case.of(name).item() == pytest.approx(slow, abs=1e-12)


@names
@weights
@hospitals
@pytest.mark.parametrize("block", [1, 4, 16])
def test_blocks_change_neither_the_loss_nor_its_gradient(name: str, block: int, weighted: bool, apart: bool) -> None:
    case = Case(37, torch.float32, width=16, weighted=weighted, apart=apart)
    features = (case.image, case.text, case.scale, case.bias)
    values, gradients = [], []
    for loss in (lambda *f: case.of(name, *f, block=block), lambda *f: case.dense(name, *f)):
        leaves = [f.clone().requires_grad_() for f in features]
        values.append(loss(*leaves))
        (3 * values[-1]).backward()  # as under a weight
        gradients.append([leaf.grad for leaf in leaves if leaf.grad is not None])
    torch.testing.assert_close(*values, atol=1e-5, rtol=1e-5)
    assert len(gradients[0]) == (4 if name == "siglip" else 3)
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


@names
@weights
@hospitals
def test_the_gradient_is_right(name: str, weighted: bool, apart: bool) -> None:
    case = Case(5, weighted=weighted, apart=apart)
    leaves = [f.clone().requires_grad_() for f in (case.image, case.text, case.scale, case.bias)]
    assert torch.autograd.gradcheck(lambda *f: case.of(name, *f, block=2), leaves)


@names
@weights
@pytest.mark.parametrize("scale", [0.01, 100.0])
@pytest.mark.parametrize("autocast", [False, True])
@hospitals
def test_finite_and_exact_in_bf16(name: str, scale: float, autocast: bool, weighted: bool, apart: bool) -> None:
    """Features of bfloat16, or a forward pass under autocast, cost the rounding of the features and nothing more."""
    case = Case(9, torch.bfloat16, weighted=weighted, apart=apart)
    case.posterior[0], case.posterior[1] = 0, 1
    features = [f.float() if autocast else f for f in (case.image, case.text, torch.tensor(scale).bfloat16(), case.bias)]
    leaves = [f.clone().requires_grad_() for f in features]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = case.of(name, *leaves)
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(torch.isfinite(leaf.grad).all() for leaf in leaves if leaf.grad is not None)
    assert loss.item() == pytest.approx(case.dense(name, *(f.double() for f in features)).item(), rel=2e-5)


@names
@weights
def test_no_pair_is_zero_with_a_zero_gradient(name: str, weighted: bool) -> None:
    case = Case(0, weighted=weighted)
    leaves = [f.clone().requires_grad_() for f in (case.image, case.text, case.scale, case.bias)]
    loss = case.of(name, *leaves)
    loss.backward()
    assert loss.item() == 0
    assert all((leaf.grad == 0).all() for leaf in leaves if leaf.grad is not None)


@names
def test_one_pair_has_no_negatives(name: str) -> None:
    case = Case(1)
    image = case.image.clone().requires_grad_()
    loss = case.of(name, image, case.text, case.scale, case.bias)
    loss.backward()
    assert image.grad is not None
    if name == "siglip":  # which needs none
        assert loss.item() == pytest.approx(math.log1p(math.exp(-SCALE * (case.image @ case.text.T).item() - BIAS)))
    else:
        assert loss.item() == 0
        assert (image.grad == 0).all()


@names
def test_data_sets_are_contrasts_of_their_own(name: str) -> None:
    """The loss of a batch of several is the mean of theirs, by their numbers of pairs; a pair alone in its data set has no negatives."""
    case = Case(apart=True)
    assert case.dataset is not None
    case.dataset[:] = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2])
    image = case.image.clone().requires_grad_()
    loss = case.of(name, image, case.text, case.scale, case.bias)
    loss.backward()
    assert image.grad is not None
    parts = 0.0
    for number in range(3):
        own, part = case.dataset == number, Case()
        for key in ("image", "text", "study", "words", "said", "label", "posterior", "known"):
            setattr(part, key, getattr(case, key)[own])
        parts += own.sum().item() / N * part.of(name).item()
    assert loss.item() == pytest.approx(parts, abs=1e-12)
    if name != "siglip":
        assert (image.grad[-1] == 0).all()
    case.dataset[:] = 0
    everybody = case.of(name).item()
    assert everybody != pytest.approx(parts, abs=1e-3)
    case.dataset = None
    assert case.of(name).item() == everybody


def with_gradients(case: Case, name: str) -> tuple[Tensor, list[Tensor]]:
    """The loss, and its gradient by image, text and scale."""
    leaves = [f.clone().requires_grad_() for f in (case.image, case.text, case.scale)]
    loss = case.of(name, *leaves, case.bias, block=4)
    return loss.detach(), list(torch.autograd.grad(loss, leaves))


@names
def test_weights_of_one_change_no_bit(name: str) -> None:
    case = Case(dtype=torch.float32)
    plain = with_gradients(case, name)
    case.anchor = torch.ones(N)
    torch.testing.assert_close(with_gradients(case, name), plain, atol=0, rtol=0)


@names
def test_a_weight_of_zero_gives_no_gradient_from_the_own_terms(name: str) -> None:
    """What is left is the pairs' part as negatives: nothing among themselves, and all that others say of them."""
    case = Case()
    poor = torch.arange(N) >= 6
    case.study, case.words, case.label, case.known[:] = torch.arange(N), torch.arange(N), torch.arange(N), False
    case.said = case.words[:, None]
    case.anchor = torch.zeros(N)
    assert all((g == 0).all() for g in with_gradients(case, name)[1])
    case.anchor = (~poor).double()
    _, (of_image, of_text, _) = with_gradients(case, name)
    cosine = case.image @ case.text.T
    logits = SCALE * cosine + (BIAS if name == "siglip" else 0)
    as_negative = torch.sigmoid(logits) if name == "siglip" else logits.softmax(dim=0)
    torch.testing.assert_close(of_image[poor], (SCALE / (2 * N) * as_negative @ ((~poor)[:, None] * case.text))[poor])
    as_negative = torch.sigmoid(logits) if name == "siglip" else logits.softmax(dim=1)
    torch.testing.assert_close(of_text[poor], (SCALE / (2 * N) * as_negative.T @ ((~poor)[:, None] * case.image))[poor])


@names
def test_images_of_one_study_are_all_positives(name: str) -> None:
    """The targets are uniform; equal vectors are then the best there is, log N, and no pair is pushed apart."""
    case = Case()
    case.study[:] = 4
    case.image[:] = case.text[:] = unit(1, 8)
    text = case.text.clone().requires_grad_()
    loss = case.of(name, case.image, text, case.scale, case.bias)
    loss.backward()
    assert text.grad is not None
    if name == "siglip":
        assert loss.item() == pytest.approx(N * math.log1p(math.exp(-SCALE - BIAS)))
    else:
        assert loss.item() == pytest.approx(math.log(N))
        torch.testing.assert_close(text.grad, torch.zeros_like(text), atol=1e-12, rtol=0)


@names
def test_a_sentence_that_the_other_report_says_as_well_is_no_negative(name: str) -> None:
    """The second image's report holds the first one's text, though another of its sentences was drawn."""
    case = Case(2)
    case.study, case.words = torch.tensor([0, 1]), torch.tensor([7, 8])
    case.label, case.known[:] = torch.tensor([0, 1]), False
    case.said = torch.tensor([[7, -1], [8, -1]])
    apart = case.of(name).item()
    case.said = torch.tensor([[7, -1], [8, 7]])
    assert case.weight(name, 1, 0) == 1
    assert case.weight(name, 0, 1) == 0
    assert case.of(name).item() == pytest.approx(case.dense(name, case.image, case.text, case.scale, case.bias).item())
    assert case.of(name).item() != pytest.approx(apart)


def test_soft_clip_under_certain_labels_is_unicl() -> None:
    case = Case()
    case.posterior = (case.posterior > 0.5).double()
    case.label = torch.where(case.known, (case.posterior @ torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)).long(), -1)
    assert case.of("soft_clip").item() == pytest.approx(case.of("unicl").item(), abs=1e-12)


def test_equal_posteriors_are_alike_however_uncertain() -> None:
    case = Case()
    case.posterior[:], case.known[:] = torch.tensor([0.5, 0.1, 0.9], dtype=torch.float64), True
    case.image[:] = case.text[:] = unit(1, 8)
    assert case.of("soft_clip").item() == pytest.approx(math.log(N))
    text = case.text.clone().requires_grad_()
    case.of("soft_clip", case.image, text, case.scale, case.bias).backward()
    assert text.grad is not None
    assert text.grad.abs().max() < 1e-12


def test_unicl_of_distinct_labels_and_of_none_is_clip() -> None:
    case = Case()
    for label in (torch.arange(N), torch.full((N,), -1)):
        case.label = label
        assert case.of("unicl").item() == case.of("clip").item()


class Largest(TorchDispatchMode):
    """The elements of the largest tensor that any operation made."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        self.numel = max(self.numel, *sizes, 0)
        return out


@names
@weights
@hospitals
def test_memory_is_linear_in_the_batch(name: str, weighted: bool, apart: bool) -> None:
    def largest(rows: int) -> int:
        case = Case(rows, torch.float32, weighted=weighted, apart=apart)
        leaves = [f.clone().requires_grad_() for f in (case.image, case.text, case.scale, case.bias)]
        with Largest() as seen:
            case.of(name, *leaves, block=32).backward()
        return seen.numel

    small, large = largest(128), largest(512)
    assert 128 <= small <= 32 * 128
    assert large <= 4 * small
    assert large < 512 * 512 / 16


def test_the_posterior_is_the_sum_of_what_the_labelers_tell() -> None:
    state = torch.tensor([[[0, 1], [2, 3]], [[3, 3], [0, 0]]])
    looked = torch.tensor([[[True, True], [True, False]], [[False, False], [False, True]]])
    probability = torch.tensor([[[0.9, 0.1], [0.4, 0.7]], [[0.3, 0.3], [0.3, 0.8]]])
    prior, llr = torch.tensor([0.2, 0.3]), torch.randn(2, 2, 2, 4, generator=draws(9))
    told = label_posterior(state, probability, looked, prior, llr)
    mean = label_posterior(state, probability, looked, prior)
    for b in range(2):
        for k in range(2):
            odds = prior[k].item() / (1 - prior[k].item())
            seen = [s for s in range(2) if looked[b, s, k]]
            for s in seen:
                odds *= math.exp(llr[b, s, k, int(state[b, s, k])].item())
            assert told[b, k].item() == pytest.approx(odds / (1 + odds), rel=1e-5)
            plain = sum(probability[b, s, k].item() for s in seen) / len(seen) if seen else prior[k].item()
            assert mean[b, k].item() == pytest.approx(plain)


def test_siblings_have_one_vote_in_the_posterior() -> None:
    """A labeler and one that only repeats it are that labeler, with channels and without."""
    state, probability = torch.randint(0, 4, (20, 2, K), generator=draws(1)), torch.rand(20, 2, K, generator=draws(2))
    looked, llr = torch.rand(20, 2, K, generator=draws(3)) < 0.7, torch.randn(20, 2, K, 4, generator=draws(4))
    prior, siblings = torch.tensor([0.2, 0.3, 0.05]), torch.tensor([[1, 0, 0], [0, 1, 1], [0, 1, 1]], dtype=torch.bool)
    repeated = [torch.cat([x, x[:, 1:]], dim=1) for x in (state, probability, looked, llr)]
    who = (torch.arange(8)[:, None] >> torch.arange(3)) & 1
    pool = Pool(
        who / torch.stack([who[:, 0], *[who[:, 1] + who[:, 2]] * 2], dim=1).clamp(min=1), torch.tensor([[-99.0, 99.0]] * K)
    )
    for given, channels in ((llr, repeated[3]), (None, None)):
        alone = label_posterior(state, probability, looked, prior, given)
        torch.testing.assert_close(label_posterior(*repeated[:3], prior, channels, siblings, pool), alone)
        assert (label_posterior(*repeated[:3], prior, channels) - alone).abs().max() > 0.01
