"""The image-text objectives: which rows and pairs count and for how much, where their gradient goes, and that repeated texts are
encoded once.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from hybridpt.batch import Batch
from hybridpt.cli import main
from hybridpt.data.sources import Sources
from hybridpt.encoders import ByteEncoder, LexiconEncoder, TextEncoder, TimmEncoder, TransformersEncoder
from hybridpt.encoders.distinct import TextMemory, encode_distinct, first_of_each
from hybridpt.functional import clip_loss, soft_loss, unicl_loss
from hybridpt.functional.weights import LEAST, relative_weights
from hybridpt.module import HybridModule
from hybridpt.objectives import Clip, Objective, ReportStates, SharedProjection, SigLip, SoftClip, Supervised, TextContrast, UniCL
from labelers import UsageError
from labelers.fusion import Fusion
from labelers.rules import Product
from labelers.types import NEGATIVE, POSITIVE
from tests.hybridpt.test_objectives import FINDINGS, SOURCES, channel_set, make_batch, make_model

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
    assert objective.scale.item() == pytest.approx(100)
    assert torch.isfinite(model.losses(written_batch())["loss"])


@contrasts
def test_a_temperature_comes_back_from_its_bound(cls: type[TextContrast]) -> None:
    """As do the prototypes' scale; one step too far is not for good."""
    model = make_model(it=cls(dim=16), head=Supervised(dim=16))
    for objective in model.objectives.values():
        with torch.no_grad():
            objective.log_scale.fill_(20)  # type: ignore[operator,union-attr]
        objective.after_step(model.encoders)  # type: ignore[operator]
        assert objective.log_scale.item() == pytest.approx(math.log(100))  # type: ignore[operator,union-attr]
    found = gradients(model, written_batch())
    assert found["objectives.it.log_scale"] != 0
    assert found["objectives.head.log_scale"] != 0


@contrasts
def test_scores_have_full_precision_in_half_precision(cls: type[TextContrast]) -> None:
    """Rounded to eight bits many images would tie."""
    model = make_model(it=cls(dim=16), head=Supervised(dim=16), line=Supervised(head="linear")).eval()
    with torch.no_grad():
        model.objectives["line"].linear.weight.normal_()  # type: ignore[operator,union-attr]
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        step = _step(model, make_batch(64))
        logits = [objective.logits(step) for objective in model.objectives.values()]  # type: ignore[operator]
    for z in logits:
        assert z.dtype == torch.float32
        assert (z != z.bfloat16().float()).float().mean() > 0.9


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


def test_who_has_no_channel_makes_no_target() -> None:
    """A study that nobody else labelled is unknown: neither like all others of its kind, nor without findings, nor as likely ill as any."""
    measured = dataclasses.replace(SOURCES, channels=channel_set(("one",)))
    objectives = {"unicl": UniCL(dim=16, prompts=True), "soft_clip": SoftClip(dim=16), "head": Supervised()}
    model = built(measured, **objectives).eval()
    soft: Any = Supervised("soft", soft_targets="posterior")
    soft.build(model.encoders, measured)
    batch, unlabelled = written_batch(), written_batch()
    for given in (batch, unlabelled):
        stated(given, EDEMA, NODULE)
        given["has_text"][4:] = False
        given["looked"][::2, 0] = False  # by the other labeler alone
    unlabelled["looked"][::2] = False
    step, other = _step(model, batch), _step(model, unlabelled)
    for name in ("unicl", "soft_clip"):
        posterior: Any = model.objectives[name].posterior  # type: ignore[union-attr]
        assert posterior(step)[1].tolist() == [False, True] * 4
        for term, value in model.objectives[name](step).items():
            torch.testing.assert_close(value, model.objectives[name](other)[term])
    torch.testing.assert_close(soft(step)["nll"], soft(other)["nll"])
    assert soft.counts(step)["nll"] == soft.counts(other)["nll"] == 8


def _step(model: HybridModule, batch: Batch) -> Any:
    from hybridpt.objectives import Step

    return Step(batch, model.encoders, model.llr, pool=model.pool)


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


# whose reports an image is told from


@contrasts
def test_an_image_is_told_from_the_reports_of_its_own_data_set(cls: type[TextContrast]) -> None:
    """What another hospital's reports say moves no image of this one, unless all are asked for."""
    batch = written_batch()
    batch["dataset"] = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    batch["study"] = batch["words"] = torch.arange(8)
    batch["said"] = batch["words"].unsqueeze(1)
    batch["state"][4:], batch["looked"][4:] = NEGATIVE, True
    for negatives in ("dataset", "all"):
        model = make_model(it=cls(dim=16, negatives=negatives)).eval()  # type: ignore[call-arg]
        step = _step(model, batch)
        image = step.image.pooled.detach().requires_grad_()
        step.image = step.image._replace(pooled=image)
        objective: Any = model.objectives["it"]
        of_texts = []
        for other in (step.text, torch.cat([step.text[:4], torch.randn_like(step.text[4:])])):
            step.text = other
            of_texts.append(torch.autograd.grad(objective(step)["contrast"], image, retain_graph=True)[0])
        assert (of_texts[0] != 0).any(dim=1).all()
        assert torch.allclose(of_texts[0][:4], of_texts[1][:4], atol=1e-9) == (negatives == "dataset")
        assert not torch.allclose(of_texts[0][4:], of_texts[1][4:], atol=1e-6)


@contrasts
def test_one_data_set_is_told_from_itself(cls: type[TextContrast]) -> None:
    sources = dataclasses.replace(SOURCES, datasets=("nih",))
    losses = []
    for negatives in ("dataset", "all"):
        torch.manual_seed(0)
        contrast = cls(dim=16, negatives=negatives)  # type: ignore[call-arg]
        model = HybridModule(TimmEncoder("resnet10t"), {"it": contrast}, ByteEncoder(width=32, depth=1))
        model.build(sources)
        model.eval()
        batch = written_batch()
        batch["dataset"][:] = 0
        losses.append(model.losses(batch)["loss"].item())
    assert losses[0] == losses[1]


@contrasts
def test_negatives_are_those_of_the_data_set_or_all(cls: type[TextContrast]) -> None:
    with pytest.raises(UsageError, match=r"option negatives of \w+: expected 'dataset' or 'all', got 'study'"):
        cls(negatives="study")  # type: ignore[call-arg]


# data sets that count by their text


def test_data_sets_count_relative_to_the_best() -> None:
    nan = math.nan
    assert relative_weights(torch.tensor([0.4, 0.8, 0.0, nan])).tolist() == [0.5, 1, 0, 1, 1]
    for nothing_known in ([nan, nan], [0.0, 0.0], [0.9 * LEAST, 0.0]):  # no judge of any
        assert relative_weights(torch.tensor(nothing_known)).tolist() == [1, 1, 1]
    assert relative_weights(torch.tensor([LEAST, LEAST / 2])).tolist() == pytest.approx([1, 0.5, 1])


def weighted_model(cls: type[TextContrast], on: bool = True) -> HybridModule:
    return make_model(supervised=Supervised("bce", dim=16), it=cls(dim=16, dataset_weights=on))  # type: ignore[call-arg]


@contrasts
def test_a_pair_counts_by_its_data_set_in_training_alone(cls: type[TextContrast]) -> None:
    batch = written_batch()
    batch["dataset"] = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    plain, weighted = weighted_model(cls, on=False).eval(), weighted_model(cls).eval()
    weighted.load_state_dict(plain.state_dict(), strict=False)
    for model in (plain, weighted):
        model.objectives.train()
    key = "it/contrast"
    assert weighted.losses(batch)[key] == plain.losses(batch)[key]  # nothing is known yet
    contrast: Any = weighted.objectives["it"]
    contrast.weigh(torch.tensor([0.2, 0.8]))
    assert contrast.dataset_weight.tolist() == [0.25, 1, 1]
    less = weighted.losses(batch)[key]
    assert less < plain.losses(batch)[key]
    contrast.dataset_weight.zero_()
    weighted.zero_grad()
    weighted.losses(batch)[key].backward()
    assert all((p.grad == 0).all() for p in weighted.parameters() if p.grad is not None)
    assert torch.equal(weighted.eval().losses(batch)[key], plain.eval().losses(batch)[key])


def test_the_weights_of_data_sets_are_those_of_the_anchors() -> None:
    model = weighted_model(Clip).eval()
    contrast: Any = model.objectives["it"].train()
    contrast.weigh(torch.tensor([0.2, 0.8]))
    batch = written_batch()
    batch["dataset"], batch["has_text"] = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1]), torch.arange(8) != 3
    p = contrast.pairs(_step(model, batch))
    assert p.anchor.tolist() == [0.25, 1, 1, 1, 1, 0.25, 1]
    expected = clip_loss(p.image, p.text, p.study, p.words, contrast.scale, said=p.said, anchor=p.anchor, dataset=p.dataset)
    torch.testing.assert_close(model.losses(batch)["it/contrast"], expected)


def test_weights_of_data_sets_are_part_of_a_checkpoint_only_where_they_are_used() -> None:
    model = weighted_model(SigLip)
    model.objectives["it"].weigh(torch.tensor([1.0, 0.5]))  # type: ignore[operator]
    other = weighted_model(SigLip)
    other.load_state_dict(model.state_dict())
    assert other.objectives["it"].dataset_weight.tolist() == [1, 0.5, 1]  # type: ignore[operator,union-attr]
    assert not any("dataset_weight" in name for name in weighted_model(SigLip, on=False).state_dict())


def test_weights_of_data_sets_need_a_supervised_head() -> None:
    with pytest.raises(UsageError, match=r"dataset_weights of Clip needs an objective hybridpt\.objectives\.Supervised"):
        make_model(it=Clip(dim=16, dataset_weights=True))
    make_model(it=SharedProjection(Supervised("bce", dim=16), Clip(dim=16, dataset_weights=True)))


def in_one_and_in_two_goes(given: list[str], folder: Path) -> tuple[dict[str, Tensor], ...]:
    """Weights at the end of a fit, and of one that goes on with what that fit was after its first epoch."""
    keep = {"dirpath": str(folder), "filename": "{epoch}", "save_top_k": -1, "save_on_train_epoch_end": True}
    callback = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": keep}
    common = ["fit", "--config", *given, "--trainer.callbacks", json.dumps([callback])]
    assert main([*common, "--trainer.default_root_dir", str(folder / "whole")]) == 0
    goes_on = ["--trainer.default_root_dir", str(folder / "parts"), "--ckpt_path", str(folder / "epoch=0.ckpt")]
    assert main([*common, *goes_on]) == 0
    whole, parts = (torch.load(folder / name / "last.ckpt", weights_only=True)["state_dict"] for name in ("whole", "parts"))
    return whole, parts


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--model.ema", "0.9"]])
def test_a_run_that_is_gone_on_with_keeps_the_weights(
    options: list[str], config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a running mean of the weights did meanwhile; a second data set comes out at half the worth of the best."""
    manifest = pd.read_csv(config.parent / "manifest.csv")
    manifest.loc[manifest.index % 2 == 0, "dataset"] = "clinic"
    manifest.to_csv(config.parent / "two.csv", index=False)
    monkeypatch.setattr("hybridpt.text_fit.text_weights", lambda *args: torch.tensor([0.4, 0.8]))
    given = [
        "--data.manifest",
        str(config.parent / "two.csv"),
        "--model.objectives.clip.init_args.dataset_weights",
        "true",
        *options,
    ]
    whole, parts = in_one_and_in_two_goes([str(config), *given], tmp_path)
    first = torch.load(tmp_path / "epoch=0.ckpt", weights_only=True)
    trained = first.get("hybridpt_trained_weights", first["state_dict"])
    assert trained["objectives.clip.dataset_weight"].tolist() == [0.5, 1, 1]
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    metrics = pd.read_csv(tmp_path / "whole" / "metrics.csv").filter(like="text_weight/")
    assert metrics.dropna().round(6).to_numpy().tolist() == [[0.4, 0.8]] * 2


# siblings in targets


def sibling_sources() -> Sources:
    """Two labelers that share their errors."""
    assert SOURCES.channels is not None
    rule = Product(np.full(2, 0.2), np.zeros((2, 2, 2, 4)), np.ones(2), 0.0)
    channels = dataclasses.replace(
        SOURCES.channels, fusion=Fusion(SOURCES.labelers, FINDINGS, "product", rule, (SOURCES.labelers,))
    )
    return dataclasses.replace(SOURCES, channels=channels)


def built(sources: Sources, **objectives: Objective) -> HybridModule:
    torch.manual_seed(0)
    model = HybridModule(TimmEncoder("resnet10t"), dict(objectives), ByteEncoder(width=32, depth=1))
    model.build(sources)
    return model


def test_siblings_have_one_vote_in_every_target() -> None:
    """Of contrast and of supervision alike; a checkpoint, which has no channels, knows them too."""
    objectives = {"unicl": UniCL(dim=16), "soft_clip": SoftClip(dim=16), "head": Supervised("soft", soft_targets="posterior")}
    model = built(sibling_sources(), **objectives).eval()
    batch = written_batch()
    stated(batch, EDEMA, NODULE)
    batch["looked"][2, 0] = False
    step = _step(model, batch)
    posterior, known = model.objectives["unicl"].posterior(step)  # type: ignore[operator,union-attr]
    positive = torch.tensor(SOURCES.prevalence) / (1 - torch.tensor(SOURCES.prevalence)) * 0.7 / 0.05
    torch.testing.assert_close(posterior[0, 0], positive[0] / (1 + positive[0]))
    torch.testing.assert_close(posterior[7, 1], positive[1] / (1 + positive[1]))
    assert torch.equal(model.objectives["soft_clip"].posterior(step)[0], posterior)  # type: ignore[operator,union-attr]
    logits = model.objectives["head"].logits(step)  # type: ignore[operator]
    expected = soft_loss(logits, posterior[:, None], known[:, None, None].expand(8, 1, 2)).mean()
    torch.testing.assert_close(model.losses(batch)["head/nll"], expected)
    bare = dataclasses.replace(SOURCES, channels=None)
    again = built(bare, unicl=UniCL(dim=16), soft_clip=SoftClip(dim=16), head=Supervised("soft", soft_targets="posterior")).eval()
    again.load_state_dict(model.state_dict())
    for name, value in model.losses(batch).items():
        torch.testing.assert_close(again.losses(batch)[name], value)


# a frozen text encoder


class Counted:
    """How many texts went through an encoder."""

    def __init__(self, encoder: TextEncoder) -> None:
        self.texts = 0
        encoder.register_forward_pre_hook(self._count)

    def _count(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.texts += len(inputs[0])


def frozen_encoder() -> LexiconEncoder:
    """One with dropout, which must be off."""
    torch.manual_seed(0)
    encoder = LexiconEncoder(width=32, depth=1)
    encoder.requires_grad_(False)
    encoder.train()
    return encoder


def encoded(encoder: TextEncoder, memory: TextMemory | None, *texts: str) -> Tensor:
    tokens, mask = encoder.tokenizer(texts)
    return encode_distinct(encoder, tokens, mask, torch.arange(len(texts)), memory=memory)


def test_a_frozen_encoder_sees_each_text_once_in_training_and_validation() -> None:
    encoder, memory = frozen_encoder(), TextMemory()
    plain = encoded(encoder, None, *TEXTS, "")
    counted = Counted(encoder)
    with torch.inference_mode():
        torch.testing.assert_close(encoded(encoder.eval(), memory, TEXTS[2], TEXTS[0]), plain[[2, 0]])
    encoder.train()
    projection = nn.Linear(32, 2)
    for _ in range(2):
        again = encoded(encoder, memory, *TEXTS, "")
        projection(again).sum().backward()  # what a validation left is good for training
        torch.testing.assert_close(again, plain)
    assert counted.texts == len(TEXTS) + 1
    tokens, mask = encoder.tokenizer([TEXTS[0]])
    wide = nn.functional.pad(tokens, (0, 9), value=3), nn.functional.pad(mask, (0, 9))
    assert torch.equal(encode_distinct(encoder, *wide, torch.tensor([0]), memory=memory), again[:1])
    assert counted.texts == len(TEXTS) + 1
    hole = mask.clone()
    hole[0, 1] = False  # another text
    torch.testing.assert_close(encode_distinct(encoder, tokens, hole, torch.tensor([0]), memory=memory), encoder(tokens, hole))


def test_a_vector_does_not_depend_on_what_was_met_with_it() -> None:
    """So a run that is gone on with, which meets texts in other company, goes on to the last bit."""
    encoder = frozen_encoder()
    long = "a longer sentence about the left lung base, to be padded against"
    alone, among = encoded(encoder, TextMemory(), "edema"), encoded(encoder, TextMemory(), long, "edema", *TEXTS[:2])
    assert torch.equal(alone[0], among[1])


def test_the_memory_forgets_when_the_weights_change() -> None:
    encoder, memory = frozen_encoder(), TextMemory()
    before = encoded(encoder, memory, *TEXTS)
    own = {name: value.clone() for name, value in encoder.state_dict().items()}
    counted = Counted(encoder)
    other = {name: value + 0.1 * torch.randn_like(value) for name, value in own.items()}
    for weights, met in ((own, 0), (other, 4), (other, 4), (own, 8)):  # equal weights put in their place are no change
        with torch.inference_mode():
            encoder.load_state_dict(weights)
        now = encoded(encoder, memory, *TEXTS)
        assert counted.texts == met
        torch.testing.assert_close(now, encoded(encoder, None, *TEXTS))
        counted.texts = met
        assert torch.equal(now, before) == (weights is own)
    with torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal(encoded(encoder, memory, *TEXTS), before)
    assert torch.equal(encoded(encoder, memory, *TEXTS), before)
    encoder.double()
    assert encoded(encoder, memory, *TEXTS).dtype == torch.float64


def test_an_encoder_that_learns_is_not_remembered() -> None:
    encoder, memory = frozen_encoder(), TextMemory()
    next(encoder.model.parameters()).requires_grad_(True)
    for mode in (True, False):
        encoder.train(mode)
        counted = Counted(encoder)
        for _ in range(2):
            assert encoded(encoder, memory, *TEXTS).requires_grad
        assert counted.texts == 2 * len(TEXTS)
    by_hand = frozen_encoder()
    nn.Module.train(by_hand)  # dropout is on
    assert not torch.equal(encoded(by_hand, memory, *TEXTS), encoded(by_hand, memory, *TEXTS))


def test_the_memory_is_bounded() -> None:
    encoder = frozen_encoder()
    memory = TextMemory(limit=3 * 32 * 4)
    counted = Counted(encoder)
    first = encoded(encoder, memory, *TEXTS)  # one more than it holds
    assert counted.texts == 4
    assert torch.equal(encoded(encoder, memory, *TEXTS[1:]), first[1:])
    assert counted.texts == 4
    assert torch.equal(encoded(encoder, memory, TEXTS[0]), first[:1])
    assert counted.texts == 5
    assert torch.equal(encoded(encoder, memory, *TEXTS[:2]), first[:2])  # the second went when the first came back
    assert counted.texts == 6


@contrasts
def test_prompts_of_a_frozen_encoder_are_met_once_too(cls: type[TextContrast]) -> None:
    model = make_model(it=cls(dim=16))
    encoder: Any = model.encoders.text
    encoder.requires_grad_(False)
    model.train()
    counted = Counted(encoder)
    batch = written_batch()
    for mode in (True, False, True):
        model.train(mode)
        model.losses(batch)["loss"].backward()
        model.scores(batch)
    assert counted.texts == 4 + 2 * 2 * 3  # texts, and findings by sides by prompts
    assert model.state_dict().keys() == make_model(it=cls(dim=16)).state_dict().keys()  # none of it is saved


@pytest.mark.slow
def test_a_run_with_a_frozen_text_encoder_encodes_each_text_once_and_goes_on_to_the_last_bit(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = LexiconEncoder(width=32, depth=1)
    encoder.model.save_pretrained(tmp_path / "text")
    encoder.tokenizer.tokenizer.save_pretrained(tmp_path / "text")
    met: list[int] = []
    forward = TransformersEncoder.forward
    monkeypatch.setattr(TransformersEncoder, "forward", lambda self, t, m: (met.append(len(t)), forward(self, t, m))[1])
    text = {
        "class_path": "hybridpt.encoders.TransformersEncoder",
        "init_args": {"name": str(tmp_path / "text"), "frozen": True},
    }
    given = [str(config), "--model.text_encoder", json.dumps(text), "--model.ema", "0.9"]
    whole, parts = in_one_and_in_two_goes(given, tmp_path)
    assert sum(met) == 2 * (4 + 2 * 2 * 3)  # reports of two findings, and prompts; once more in the second go
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    embedding = whole["encoders.text.model.embeddings.word_embeddings.weight"]
    assert torch.equal(embedding, encoder.model.get_input_embeddings().weight)


# batches that add up


@pytest.mark.parametrize(
    "given",
    [
        ["--trainer.accumulate_grad_batches", "4"],
        [
            "--trainer.callbacks",
            '[{"class_path": "lightning.pytorch.callbacks.GradientAccumulationScheduler", "init_args": {"scheduling": {1: 4}}}]',
        ],
    ],
)
def test_batches_that_add_up_are_refused_under_a_contrast(
    given: list[str], config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["fit", "--config", str(config), "--trainer.default_root_dir", str(tmp_path / "run"), *given]
    assert main(common) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "--trainer.accumulate_grad_batches 4: the objective 'clip' contrasts the rows of a batch" in line
    assert "give --data.batch_size 32 --model.chunk 8 in its place" in line
    assert main([*common, "--model.chunk", "3"]) == 2
    assert "give --data.batch_size 32 --model.chunk 3 in its place" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.slow
def test_batches_may_add_up_without_a_contrast(config: Path, tmp_path: Path) -> None:
    supervised = {"supervised": {"class_path": "hybridpt.objectives.Supervised", "init_args": {"dim": 16}}}
    given = ["--trainer.accumulate_grad_batches", "2", "--model.objectives", json.dumps(supervised), "--trainer.max_epochs", "1"]
    assert main(["fit", "--config", str(config), "--trainer.default_root_dir", str(tmp_path), *given]) == 0


def test_objectives_say_whether_they_contrast() -> None:
    told = {cls: cls.contrasts for cls in (Clip, SigLip, SoftClip, UniCL, SharedProjection, Supervised, ReportStates)}
    assert [cls for cls, contrasts in told.items() if not contrasts] == [Supervised, ReportStates]
