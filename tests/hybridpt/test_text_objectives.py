"""The image-text objectives: which rows and pairs count, where their gradient goes, and that repeated texts are encoded once."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hybridpt.batch import Batch
from hybridpt.data.sources import Sources
from hybridpt.encoders import ByteEncoder
from hybridpt.encoders.distinct import encode_distinct, first_of_each
from hybridpt.functional import unicl_loss
from hybridpt.module import HybridModule
from hybridpt.objectives import Clip, SharedProjection, SigLip, SoftClip, Supervised, TextContrast, UniCL
from labelers import UsageError
from labelers.types import NEGATIVE, POSITIVE
from tests.hybridpt.test_objectives import FINDINGS, SOURCES, make_batch, make_model

contrasts = pytest.mark.parametrize("cls", [Clip, SigLip, SoftClip, UniCL])
TEXTS = ("no edema", "a nodule", "edema", "all clear")


def written_batch(size: int = 8) -> Batch:
    """A batch in which each text stands twice."""
    batch = make_batch(size)
    batch["tokens"], batch["token_mask"] = ByteEncoder(width=32).tokenizer([TEXTS[i % 4] for i in range(size)])
    batch["words"] = torch.arange(size) % 4
    batch["said"] = batch["words"].unsqueeze(1)
    return batch


def gradients(model: HybridModule, batch: Batch) -> dict[str, Tensor]:
    model.zero_grad()
    model.losses(batch)["loss"].backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@contrasts
def test_images_without_a_report_count_for_nothing(cls: type[TextContrast]) -> None:
    model = make_model(it=cls(dim=16)).eval()
    batch = written_batch()
    batch["has_text"][5:] = False
    before = model.losses(batch)["loss"]
    batch["image"][5:] = 0
    batch["state"][5:], batch["study"][5:] = POSITIVE, 0
    assert model.losses(batch)["loss"] == before
    batch["has_text"][:] = False
    assert model.losses(batch)["loss"] == 0
    assert all((g == 0).all() for g in gradients(model, batch).values())


@contrasts
def test_a_repeated_text_is_as_good_as_one_study_and_no_negative(cls: type[TextContrast]) -> None:
    model = make_model(it=cls(dim=16)).eval()
    by_words, by_study, apart = written_batch(), written_batch(), written_batch()
    by_study["study"] = torch.arange(8) % 4
    for batch in (by_study, apart):
        batch["words"] = torch.arange(8)
        batch["said"] = torch.arange(8).unsqueeze(1)
    loss = model.losses(by_words)["loss"].item()
    assert model.losses(by_study)["loss"].item() == pytest.approx(loss, rel=1e-5)
    distinct = model.losses(apart)["loss"].item()
    apart["study"] = torch.arange(8) // 2  # views of one study, of which other sentences were drawn
    assert abs(model.losses(apart)["loss"].item() - distinct) > 1e-4


@contrasts
def test_the_temperature_is_bounded(cls: type[TextContrast]) -> None:
    model = make_model(it=cls(dim=16))
    objective: Any = model.objectives["it"]
    assert objective.scale.item() == pytest.approx(10 if cls is SigLip else 1 / 0.07)
    with torch.no_grad():
        objective.log_scale.fill_(20)
    assert objective.scale.item() == 100
    assert torch.isfinite(model.losses(written_batch())["loss"])


@contrasts
def test_the_gradient_into_the_image_encoder_is_scaled(cls: type[TextContrast]) -> None:
    """The loss, and what everything else learns, stay as they are."""
    batch = written_batch()
    models = {share: make_model(it=cls(dim=16, gradient=share)).eval() for share in (1.0, 0.25, 0.0)}
    losses = [model.losses(batch)["loss"].item() for model in models.values()]
    assert losses[0] == losses[1] == losses[2]
    of = {share: gradients(model, batch) for share, model in models.items()}
    for name, whole in of[1.0].items():
        if name.startswith("encoders.image."):
            torch.testing.assert_close(of[0.25][name], 0.25 * whole)
            assert name not in of[0.0] or (of[0.0][name] == 0).all()
        else:
            torch.testing.assert_close(of[0.25][name], whole)
            torch.testing.assert_close(of[0.0][name], whole)


@pytest.mark.parametrize("gradient", [-0.1, 1.5, math.nan])
def test_a_share_out_of_its_range_is_refused(gradient: float) -> None:
    with pytest.raises(UsageError, match=r"gradient of Clip: expected a number from 0 to 1"):
        Clip(gradient=gradient)


@contrasts
def test_each_distinct_text_is_encoded_once(cls: type[TextContrast]) -> None:
    model = make_model(it=cls(dim=16)).eval()
    encoder = model.encoders.text
    assert encoder is not None
    seen: list[int] = []
    encoder.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    model.losses(written_batch())
    assert seen == [4]


def test_encoding_distinct_texts_changes_no_vector() -> None:
    torch.manual_seed(0)
    encoder, batch = ByteEncoder(width=32, depth=1).eval(), written_batch(7)
    words = batch["words"] * 1000 - 7
    plain = encoder(batch["tokens"], batch["token_mask"])
    for chunk in (None, 3):
        torch.testing.assert_close(encode_distinct(encoder, batch["tokens"], batch["token_mask"], words, chunk), plain)
    first, which = first_of_each(torch.tensor([5, 3, 5, -1, 3]))
    assert first.tolist() == [3, 1, 0]
    assert which.tolist() == [2, 1, 2, 0, 1]


@pytest.mark.parametrize("cls", [UniCL, SoftClip])
def test_targets_from_labels_need_labels(cls: type[TextContrast]) -> None:
    with pytest.raises(UsageError, match=r"needs labels; give label tables with --data\.labels, or use Clip"):
        cls().check(Sources(FINDINGS, (), ("nih",), (0.1, 0.1), 32))
    cls().check(SOURCES)


def stated(batch: Batch, edema: list[bool], nodule: list[bool]) -> None:
    """Let both labelers state the findings."""
    present = torch.tensor([edema, nodule]).T
    batch["state"] = torch.where(present, POSITIVE, NEGATIVE).unsqueeze(1).expand(-1, 2, -1).clone()
    batch["probability"] = present.float().unsqueeze(1).expand(-1, 2, -1).clone()


EDEMA, NODULE = [True, True, False, False] * 2, [False] * 6 + [True] * 2


@pytest.mark.parametrize("channels", [True, False])
def test_unicl_takes_its_classes_from_the_labels(channels: bool) -> None:
    model = make_model(it=UniCL(dim=16)).eval()
    if not channels:
        model.log_channel.zero_()
    objective: Any = model.objectives["it"]
    batch = written_batch()
    batch["words"] = torch.arange(8)
    batch["said"] = torch.arange(8).unsqueeze(1)
    stated(batch, EDEMA, NODULE)
    batch["looked"][3] = False
    label = torch.tensor([2, 2, 0, -1, 2, 2, 1, 1])
    with torch.no_grad():
        image = objective.spaces["text"](model.encoders.image(batch["image"]).pooled)  # type: ignore[misc]
        text = objective.text_projection(model.encoders.text(batch["tokens"], batch["token_mask"]))  # type: ignore[misc]
        expected = unicl_loss(image, text, batch["study"], batch["words"], label, objective.scale)
    torch.testing.assert_close(model.losses(batch)["it/contrast"], expected)
    clip = make_model(it=Clip(dim=16)).eval()
    clip.load_state_dict(model.state_dict(), strict=False)
    assert abs(clip.losses(batch)["loss"].item() - expected.item()) > 1e-3


def test_the_posterior_of_a_strong_channel_outvotes_the_prior() -> None:
    model = make_model(it=UniCL(dim=16))
    batch = written_batch()
    stated(batch, EDEMA, NODULE)
    posterior, known = model.objectives["it"].posterior(_step(model, batch))  # type: ignore[operator,union-attr]
    odds = torch.tensor(SOURCES.prevalence) / (1 - torch.tensor(SOURCES.prevalence))
    positive = odds * (0.7 / 0.05) ** 2
    torch.testing.assert_close(posterior[0, 0], positive[0] / (1 + positive[0]))
    torch.testing.assert_close(posterior[7, 1], positive[1] / (1 + positive[1]))
    assert known.all()


def _step(model: HybridModule, batch: Batch) -> Any:
    from hybridpt.objectives import Step

    return Step(batch, model.encoders, model.llr)


def test_prompts_stand_for_the_images_that_have_labels_alone() -> None:
    model = make_model(it=UniCL(dim=16, prompts=True)).eval()
    bare = make_model(it=UniCL(dim=16)).eval()
    batch = written_batch()
    stated(batch, EDEMA, NODULE)
    assert "it/prompts" not in bare.losses(batch)
    assert model.losses(batch)["it/prompts"] == 0  # all have a report
    batch["has_text"][4:] = False
    batch["looked"][4] = False
    losses = model.losses(batch)
    torch.testing.assert_close(losses["it/contrast"], bare.losses(batch)["it/contrast"])  # no negative among prompts
    objective: Any = model.objectives["it"]
    assert [objective.prompt(f) for f in ([1, 0], [0, 1], [1, 1], [0, 0])] == ["edema", "nodule", "edema, nodule", "no finding"]
    with torch.no_grad():
        prompts = objective.encode_prompts(model.encoders, ["edema", "nodule"])
        image = objective.spaces["text"](model.encoders.image(batch["image"][5:]).pooled)  # type: ignore[misc]
        logits = objective.scale * image @ prompts[[0, 1, 1]].T
        target = torch.tensor([[1.0, 0, 0], [0, 0.5, 0.5], [0, 0.5, 0.5]])
        expected = (nn.functional.cross_entropy(logits, target) + nn.functional.cross_entropy(logits.T, target)) / 2
    torch.testing.assert_close(losses["it/prompts"], expected)


def test_one_projection_serves_labels_and_text() -> None:
    model = make_model(hybrid=SharedProjection(Supervised("bce", dim=16), Clip(dim=16, weight=0.1))).eval()
    hybrid: Any = model.objectives["hybrid"]
    assert hybrid.text.spaces["text"] is hybrid.label.spaces["label"]
    batch = written_batch()
    losses = model.losses(batch)
    torch.testing.assert_close(losses["loss"], losses["hybrid/nll"] + losses["hybrid/contrast"])
    step = _step(model, batch)
    torch.testing.assert_close(losses["hybrid/contrast"], 0.1 * hybrid.text(step)["contrast"])
    torch.testing.assert_close(model.scores(batch)["hybrid"], torch.sigmoid(hybrid.label.logits(step)))
    apart = make_model(label=Supervised("bce", dim=16), text=Clip(dim=16, weight=0.1))
    count = {m: sum(p.numel() for p in m.parameters()) for m in (model, apart)}
    assert count[apart] - count[model] == 16 * model.encoders.image.width  # type: ignore[union-attr]


def test_one_projection_needs_one_dimension() -> None:
    with pytest.raises(UsageError, match="expected the same dim in both parts"):
        make_model(hybrid=SharedProjection(Supervised("bce", dim=16), Clip(dim=32)))
    with pytest.raises(UsageError, match="the label part has no projection"):
        make_model(hybrid=SharedProjection(Supervised("bce", head="linear"), Clip(dim=32)))
    with pytest.raises(UsageError, match="needs labels"):
        SharedProjection().check(Sources(FINDINGS, (), ("nih",), (0.1, 0.1), 32))
