"""Two processes of DDP, on CPU by gloo, give losses and gradients of one process that holds the joint batch."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from hybridpt.batch import Batch
from hybridpt.encoders import ByteEncoder, TimmEncoder
from hybridpt.functional.gather import ALONE, Shard, gather, meet
from hybridpt.module import HybridModule
from hybridpt.objectives import (
    Clip,
    Objective,
    ReportStates,
    SharedProjection,
    SigLip,
    SoftClip,
    Step,
    Supervised,
    TextContrast,
    UniCL,
)
from hybridpt.text_fit import TextFit
from tests.hybridpt.test_objectives import SOURCES

TEXTS = [
    "no edema",
    "a nodule in the left lung",
    "edema",
    "normal heart",
    "effusion",
    "a longer text about nothing at all",
    "clear",
]
CASES: dict[str, Any] = {
    "clip": Clip,
    "siglip": SigLip,
    "unicl": UniCL,
    "unicl_prompts": lambda **options: UniCL(prompts=True, **options),
    "soft_clip": SoftClip,
    "half_gradient": lambda **options: Clip(gradient=0.5, **options),
    **{
        f"weighted_{cls.__name__}": lambda cls=cls, **options: SharedProjection(
            Supervised("bce", **options), cls(dataset_weights=True, **options)
        )
        for cls in (Clip, SigLip, SoftClip, UniCL)
    },
    "report_states": lambda **options: ReportStates(),
}
TEXTLESS = {"uneven": (0b0110111, 0b111010), "all_on_one": (0b1111111, 0), "one_pair": (0b1, 0)}
"""By name, which images of each of the two processes have a report, as bits."""


def share(rank: int, bits: int) -> Batch:
    """A process's part: 7 images or 6, with studies and texts that the other has as well, and texts of another greatest length."""
    size = 7 - rank
    generator = torch.Generator().manual_seed(rank)
    words = torch.randint(0, 4 + 3 * rank, (size,), generator=generator)
    has_text = torch.tensor([bool(bits >> i & 1) for i in range(size)])
    tokens, mask = ByteEncoder(width=32).tokenizer([TEXTS[w] for w in words.tolist()])
    extra = torch.randint(-1, 7, (size, 1 + 2 * rank), generator=generator)
    return Batch(
        image=torch.rand(size, 1, 32, 32, generator=generator),
        views={},
        tokens=tokens,
        token_mask=mask,
        has_text=has_text,
        state=torch.randint(0, 4, (size, 2, 2), generator=generator),
        probability=torch.rand(size, 2, 2, generator=generator),
        looked=torch.rand(size, 2, 2, generator=generator) < 0.8,
        truth=torch.full((size, 2), torch.nan),
        dataset=torch.randint(0, 3, (size,), generator=generator),
        study=torch.randint(0, 9, (size,), generator=generator),
        words=words,
        said=torch.cat([words[:, None], extra], dim=1),
        row=torch.arange(size) + 7 * rank,
    )


def joint(parts: list[Batch]) -> Batch:
    """Both parts in one."""

    def stacked(key: str, fill: float) -> Tensor:
        values: list[Any] = [part[key] for part in parts]  # type: ignore[literal-required]
        if values[0].ndim == 2:
            wide = max(v.shape[1] for v in values)
            values = [nn.functional.pad(v, (0, wide - v.shape[1]), value=fill) for v in values]
        return torch.cat(values)

    fills = {"said": -1.0}
    return Batch(views={}, **{key: stacked(key, fills.get(key, 0)) for key in parts[0] if key != "views"})  # type: ignore[typeddict-item]


class Losses(nn.Module):
    """A model whose forward pass is its losses, as Lightning's strategy calls it."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        torch.manual_seed(0)
        image: Any = None if isinstance(objective, ReportStates) else TimmEncoder("test_resnet")
        self.model = HybridModule(image, {"it": objective}, ByteEncoder(width=32, depth=1))
        self.model.build(SOURCES)
        self.eval()  # batch norm by batch is another thing in two processes
        for contrast in (m for m in objective.modules() if isinstance(m, TextContrast)):
            contrast.train()
            if contrast.dataset_weights:
                contrast.weigh(torch.tensor([0.25, 1.0]))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.model.losses(batch)


def outcome(module: nn.Module, batch: Batch) -> dict[str, Any]:
    losses = module(batch)
    losses["loss"].backward()
    gradients = {n.removeprefix("module."): p.grad for n, p in module.named_parameters()}
    return {"losses": {n: v.detach() for n, v in losses.items()}, "gradients": gradients}


def fit_part(rank: int) -> Batch:
    """A process's part of a validation: images of a brightness that the labelers of one data set read better than those of the other."""
    generator = torch.Generator().manual_seed(5)
    row = torch.arange(30) if rank == 0 else torch.arange(30, 59)
    dataset, ill = torch.arange(60) % 2, torch.rand(60, generator=generator) < 0.5
    misread = torch.rand(60, generator=generator) < 0.3 * dataset
    batch = share(0, 0)
    probability = (ill ^ misread).float()[:, None, None].expand(60, 2, 2)
    image = 0.6 * ill[:, None, None, None] + 0.4 * torch.rand(60, 1, 32, 32, generator=generator)
    whole = {"image": image, "dataset": dataset, "probability": probability, "row": torch.arange(60)}
    whole |= {"state": torch.zeros(60, 2, 2, dtype=torch.int64), "looked": torch.ones(60, 2, 2, dtype=torch.bool)}
    whole |= {"has_text": torch.arange(60) % 7 > 0}
    return Batch(**{**batch, **{key: value[row] for key, value in whole.items()}})  # type: ignore[typeddict-item]


def measured(*ranks: int) -> dict[str, Tensor]:
    """What processes measure of two data sets, and what a contrast makes of it."""
    objective = SharedProjection(Supervised("bce", head="prototypes", dim=16), Clip(dim=16, dataset_weights=True))
    model = Losses(objective).model
    head, texts = cast(Supervised, objective.label), objective.text
    with torch.no_grad():  # a head that sees brightness: the features of bright images less those of dark ones
        bright, dark = (model.encoders.image(torch.full((1, 1, 32, 32), x)).pooled for x in (0.8, 0.2))  # type: ignore[misc]
        head.prototypes.copy_((head.spaces["label"](bright) - head.spaces["label"](dark)).expand(2, -1))
    fit = TextFit(model.objectives)
    fit.begin()
    for rank in ranks:
        fit.see(Step(fit_part(rank), model.encoders, model.llr))
    found = fit.measure(SOURCES.datasets, torch.device("cpu"))
    fit.end()
    return {**found, "counts": cast(Tensor, texts.dataset_weight)}


def work(rank: int, meeting: str, folder: str) -> None:
    """What one of the processes does."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    shard = meet(3 - 2 * rank, 5 + rank, torch.device("cpu"))
    got: dict[str, Any] = {"shard": (shard.counts, shard.rank, shard.width)}
    got["logsumexp"] = shard.logsumexp(torch.tensor([1.0 + rank, -torch.inf, 200.0 * rank, -torch.inf if rank else 3.0]))
    for name, make in CASES.items():
        for pattern, bits in TEXTLESS.items():
            ddp = nn.parallel.DistributedDataParallel(Losses(make(dim=16)))
            got[f"{name}/{pattern}"] = outcome(ddp, share(rank, bits[rank]))
    got["text_weights"] = measured(rank)
    torch.save(got, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def processes() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(work, args=(str(Path(folder) / "meeting"), folder), nprocs=2)
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("pattern", list(TEXTLESS))
@pytest.mark.parametrize("name", list(CASES))
def test_two_processes_are_one_with_the_joint_batch(name: str, pattern: str, processes: list[dict[str, Any]]) -> None:
    parts = [share(rank, bits) for rank, bits in enumerate(TEXTLESS[pattern])]
    alone = outcome(Losses(CASES[name](dim=16)), joint(parts))
    for process in processes:
        got = process[f"{name}/{pattern}"]
        torch.testing.assert_close(got["losses"], alone["losses"], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(got["gradients"], alone["gradients"], atol=2e-6, rtol=1e-4)
    by_itself = Losses(CASES[name](dim=16))(parts[0])["loss"]
    if pattern == "uneven":  # the negatives of the other process matter
        assert abs(by_itself.item() - alone["losses"]["loss"].item()) > 1e-3


@pytest.mark.slow
def test_processes_agree_on_what_the_text_of_a_data_set_is_worth(processes: list[dict[str, Any]]) -> None:
    """Each image counts once, and all processes go on with the same weights."""
    alone, part = measured(0, 1), measured(0)
    assert 0 < alone["mimic"] < alone["nih"]
    torch.testing.assert_close(
        alone["counts"], torch.stack([torch.tensor(1.0), alone["mimic"] / alone["nih"], torch.tensor(1.0)])
    )
    assert part["mimic"].isnan()  # one process alone has seen too little
    for process in processes:
        torch.testing.assert_close(process["text_weights"], alone)
    torch.testing.assert_close(processes[0]["text_weights"], processes[1]["text_weights"], atol=0, rtol=0)


@pytest.mark.slow
def test_processes_tell_each_other_sizes_and_sums(processes: list[dict[str, Any]]) -> None:
    assert [process["shard"] for process in processes] == [((3, 1), 0, 6), ((3, 1), 1, 6)]
    expected = torch.tensor([torch.logaddexp(torch.tensor(1.0), torch.tensor(2.0)).item(), -torch.inf, 200.0, 3.0])
    for process in processes:
        torch.testing.assert_close(process["logsumexp"], expected)


def test_a_single_process_is_left_as_it_is() -> None:
    value = torch.rand(3, 2)
    shard = meet(3, 2, value.device)
    assert shard == Shard(width=2)
    assert (shard.world, shard.first, ALONE.world) == (1, 0, 1)
    assert gather(value, shard) is value
    assert Shard((4, 2, 5), 2).first == 6
