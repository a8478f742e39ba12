"""Objectives, and a protocol wide enough for self-distillation: views of its own, a teacher, a hook after the step."""

from __future__ import annotations

import copy
import importlib
import inspect
import pkgutil

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hybridpt.objectives
from hybridpt.batch import Batch, View
from hybridpt.data.sources import Sources
from hybridpt.encoders import ByteEncoder, TimmEncoder
from hybridpt.module import HybridModule
from hybridpt.noise import log_channels
from hybridpt.objectives import Clip, Encoders, Objective, Step, Supervised
from hybridpt.optimization import parameter_groups
from labelers import Channel, ChannelSet, UsageError

FINDINGS = ("Edema", "Nodule")


def channel_set(labelers: tuple[str, ...], datasets: tuple[str, ...] = ("*",)) -> ChannelSet:
    matrix = np.array([[0.05, 0.6, 0.05, 0.3], [0.7, 0.1, 0.1, 0.1]])
    one = Channel(matrix, matrix, matrix, np.zeros((2, 4), np.int64))
    return ChannelSet({s: {d: dict.fromkeys(FINDINGS, one) for d in datasets} for s in labelers}, dict.fromkeys(FINDINGS, 0.2))


SOURCES = Sources(FINDINGS, ("one", "two"), ("nih", "mimic"), (0.2, 0.01), 32, channels=channel_set(("one", "two")))


def make_batch(size: int = 8, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    tokens, mask = ByteEncoder(width=32).tokenizer(["no edema"] * size)
    return Batch(
        image=torch.rand(size, 1, 32, 32, generator=generator),
        views={"local": torch.rand(size, 2, 1, 32, 32, generator=generator)},
        tokens=tokens,
        token_mask=mask,
        has_text=torch.ones(size, dtype=torch.bool),
        state=torch.randint(0, 4, (size, 2, 2), generator=generator),
        probability=torch.rand(size, 2, 2, generator=generator),
        looked=torch.ones(size, 2, 2, dtype=torch.bool),
        truth=torch.full((size, 2), torch.nan),
        dataset=torch.zeros(size, dtype=torch.int64),
        study=torch.arange(size),
        words=torch.arange(size),
        said=torch.arange(size).unsqueeze(1),
        row=torch.arange(size),
    )


def make_model(**objectives: Objective) -> HybridModule:
    torch.manual_seed(0)
    model = HybridModule(TimmEncoder("resnet10t"), dict(objectives), ByteEncoder(width=32, depth=1))
    model.build(SOURCES)
    return model


@pytest.mark.parametrize("head", ["prototypes", "linear"])
@pytest.mark.parametrize("term", ["channel", "bce", "soft"])
def test_supervised_learns_from_every_term_and_head(term: str, head: str) -> None:
    model = make_model(supervised=Supervised(label_term=term, head=head, dim=16))  # type: ignore[arg-type]
    batch = make_batch()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    first = model.losses(batch)["loss"]
    for _ in range(15):
        optimizer.zero_grad()
        loss = model.losses(batch)["loss"]
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.8 * first.item()


def test_the_bias_starts_at_the_prevalence() -> None:
    model = make_model(supervised=Supervised(head="linear")).eval()
    scores = model.scores(make_batch())["supervised"]
    torch.testing.assert_close(scores, torch.tensor([[0.2, 0.01]]).expand(8, 2))


def test_the_channel_waits_for_its_warm_up() -> None:
    batch = make_batch()
    channel = make_model(supervised=Supervised("channel", warmup=0.1)).eval()
    bce = make_model(supervised=Supervised("bce")).eval()
    assert channel.losses(batch, progress=0.05)["loss"] == bce.losses(batch)["loss"]
    assert channel.losses(batch, progress=0.1)["loss"] != bce.losses(batch)["loss"]


def test_a_finding_without_a_channel_costs_nothing() -> None:
    log_channel = log_channels(channel_set(("one",)), ("one", "stranger"), ("nih",), (*FINDINGS, "Mass"))
    assert log_channel.shape == (2, 2, 3, 2, 4)
    torch.testing.assert_close(log_channel.exp().sum(-1), torch.ones(2, 2, 3, 2))
    llr = log_channel[..., 1, :] - log_channel[..., 0, :]
    assert (llr[:, 1] == 0).all()
    assert (llr[:, 0, 2] == 0).all()
    assert (llr[:, 0, :2, 0] > 0).all()


def test_a_data_set_has_its_own_channel_where_it_was_measured() -> None:
    channels = channel_set(("one",), ("mimic",))
    log_channel = log_channels(channels, ("one",), ("mimic", "nih"), FINDINGS)
    assert (log_channel[0] != log_channel[1]).any()
    assert (log_channel[1] == log_channel[2]).all()


def test_supervised_refuses_to_train_without_what_it_needs() -> None:
    with pytest.raises(UsageError, match=r"--data\.labels"):
        Supervised().check(Sources(FINDINGS, (), ("nih",), (0.1, 0.1), 32))
    with pytest.raises(UsageError, match="needs a measured channel of 'two'"):
        Supervised("channel").check(Sources(FINDINGS, ("one", "two"), ("nih",), (0.1, 0.1), 32, channels=channel_set(("one",))))
    Supervised("bce").check(Sources(FINDINGS, ("one",), ("nih",), (0.1, 0.1), 32))


def test_clip_scores_zero_shot_by_prompts() -> None:
    model = make_model(clip=Clip(dim=16)).eval()
    scores = model.scores(make_batch())
    assert scores["clip"].shape == (8, 2)
    before = scores["clip"].clone()
    model.train()
    with torch.no_grad():
        for p in model.objectives["clip"].parameters():
            p.add_(0.3 * torch.randn_like(p))
    assert not torch.equal(model.eval().scores(make_batch())["clip"], before)


def test_clip_uses_only_images_with_text() -> None:
    model = make_model(clip=Clip(dim=16)).eval()
    batch = make_batch()
    batch["has_text"] = torch.tensor([True, True, False, False, False, False, False, False])
    loss = model.losses(batch)["loss"]
    batch["tokens"][2:] = 5
    assert model.losses(batch)["loss"] == loss


def test_clip_needs_a_text_encoder() -> None:
    model = HybridModule(TimmEncoder("resnet10t"), {"clip": Clip()})
    with pytest.raises(UsageError, match="needs a text encoder"):
        model.build(SOURCES)


def test_label_and_text_live_in_separate_spaces() -> None:
    model = make_model(supervised=Supervised(dim=16), clip=Clip(dim=16, weight=0.1))
    spaces = {space: objective.spaces[space] for _, objective in model.each() for space in objective.spaces}
    assert sorted(spaces) == ["label", "text"]
    losses = model.losses(make_batch())
    torch.testing.assert_close(losses["loss"], losses["supervised/nll"] + 0.1 * losses["clip/contrast"])


class SelfDistillation(Objective):
    """A toy of DINO: a student on local crops follows an EMA teacher on the whole image."""

    views = (View("local", count=2, size=32, scale=(0.2, 0.5)),)

    def build(self, encoders: Encoders, sources: Sources) -> None:
        self.teacher = copy.deepcopy(encoders.image).requires_grad_(False)
        self.head = nn.Linear(encoders.image.width, 16)

    def forward(self, step: Step) -> dict[str, Tensor]:
        crops = step.batch["views"]["local"]
        student = step.encoders.image(crops.flatten(0, 1)).pooled
        with torch.no_grad():
            target = self.head(self.teacher(step.batch["image"]).pooled).softmax(-1).repeat_interleave(crops.shape[1], 0)
        return {"distillation": -(target * self.head(student).log_softmax(-1)).sum(-1).mean()}

    def after_step(self, encoders: Encoders) -> None:
        with torch.no_grad():
            for slow, fast in zip(self.teacher.parameters(), encoders.image.parameters(), strict=True):
                slow.lerp_(fast, 0.1)


def test_the_protocol_carries_self_distillation() -> None:
    model = make_model(dino=SelfDistillation(), supervised=Supervised(dim=16))
    assert [v.name for v in model.views] == ["local"]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    teacher = copy.deepcopy(model.objectives["dino"].teacher)
    model.losses(make_batch())["loss"].backward()
    optimizer.step()
    for _, objective in model.each():
        objective.after_step(model.encoders)
    moved = [
        not torch.equal(a, b) for a, b in zip(teacher.parameters(), model.objectives["dino"].teacher.parameters(), strict=True)
    ]
    assert any(moved)
    assert any("dino.teacher" in name for name in model.state_dict())


def shipped() -> list[type[Objective]]:
    """Every objective in the folder, so that a new one is tested without being registered."""
    modules = [
        importlib.import_module(m.name) for m in pkgutil.iter_modules(hybridpt.objectives.__path__, "hybridpt.objectives.")
    ]
    found = {v for m in modules for v in vars(m).values() if isinstance(v, type) and issubclass(v, Objective)}
    return sorted((c for c in found if not inspect.isabstract(c)), key=lambda c: c.__name__)


@pytest.mark.parametrize("cls", shipped())
def test_every_objective_keeps_the_protocol(cls: type[Objective]) -> None:
    model = make_model(tried=cls())
    batch = make_batch()
    losses = model.losses(batch)
    assert losses["loss"].shape == ()
    assert len(losses) >= 2
    losses["loss"].backward()
    gradients = [p.grad for p in model.encoders.parameters() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(g).all() for g in gradients)
    assert any((g != 0).any() for g in gradients)
    for scores in model.eval().scores(batch).values():
        assert scores.shape == (8, len(FINDINGS))
        assert ((scores >= 0) & (scores <= 1)).all()
    copy_of = make_model(tried=cls())
    copy_of.load_state_dict(model.state_dict())
    torch.testing.assert_close(copy_of.eval().scores(batch), model.scores(batch))


def test_nothing_known_gives_no_gradient() -> None:
    model = make_model(supervised=Supervised(dim=16), clip=Clip(dim=16))
    batch = make_batch()
    batch["looked"], batch["has_text"] = torch.zeros_like(batch["looked"]), torch.zeros_like(batch["has_text"])
    model.losses(batch)["loss"].backward()
    assert all((p.grad == 0).all() for p in model.parameters() if p.grad is not None)


def test_norms_biases_temperatures_and_prototypes_do_not_decay() -> None:
    model = make_model(supervised=Supervised(dim=16), clip=Clip(dim=16))
    groups = parameter_groups(model, model.encoders.image, lr=1.0, weight_decay=0.05)
    undecayed = {id(p) for group in groups if not group["weight_decay"] for p in group["params"]}
    named = dict(model.named_parameters())
    for name in (
        "objectives.supervised.prototypes",
        "objectives.supervised.bias",
        "objectives.clip.log_scale",
        "encoders.text.embedding.weight",
    ):
        assert id(named[name]) in undecayed
    assert id(named["objectives.clip.text_projection.linear.weight"]) not in undecayed
    assert id(named["encoders.image.model.bn1.weight"]) in undecayed
