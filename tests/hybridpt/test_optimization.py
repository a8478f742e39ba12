"""Groups, rates, frozen layers, the mean of the weights, and starting from another checkpoint."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn

from hybridpt.checkpoint import load, read_checkpoint
from hybridpt.cli import main
from hybridpt.encoders import ByteEncoder, TimmEncoder, TransformersImageEncoder
from hybridpt.optimization import adamw, freeze_layers, parameter_groups, warmup_cosine
from labelers.errors import UsageError
from tests.conftest import Tiny
from tests.hybridpt.test_export import vision_folder

BOTH = "tests.hybridpt.test_cli.StopAfterOne"


def run(*argv: object) -> int:
    return main([str(a) for a in argv])


def test_every_trained_parameter_is_in_one_group_and_only_matrices_decay() -> None:
    model = nn.ModuleDict({"image": TimmEncoder("vit_tiny_patch16_224", image_size=32), "text": ByteEncoder(16, 1)})
    model["image"].model.norm.requires_grad_(False)
    groups = parameter_groups(model, model["image"], 0.1, 0.05, 0.5)
    listed = [id(p) for group in groups for p in group["params"]]
    assert len(listed) == len(set(listed))
    assert set(listed) == {id(p) for p in model.parameters() if p.requires_grad}
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    names = [n for n, p in model.named_parameters() if id(p) in decayed]
    assert all(p.ndim > 1 for p in model.parameters() if id(p) in decayed)
    assert not any(part in name for name in names for part in ("embedding", "pos_embed", "cls_token", "position", "norm"))
    assert any("attn.qkv.weight" in name for name in names)


@pytest.mark.parametrize("name", ["test_resnet", "vit_tiny_patch16_224"])
def test_rates_fall_by_layers_from_the_end(name: str) -> None:
    encoder = TimmEncoder(name)
    head = nn.Linear(encoder.width, 2)
    model = nn.ModuleList([encoder, head])
    groups = parameter_groups(model, encoder, 0.1, 0.05, 0.5)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    layers = encoder.layers()
    for number, layer in enumerate(layers):
        for p in layer:
            assert rate[id(p)] == pytest.approx(0.1 * 0.5 ** (len(layers) - number))
    assert rate[id(head.weight)] == 0.1
    assert len({group["lr"] for group in parameter_groups(model, encoder, 0.1, 0.05)}) == 1


def test_layers_of_a_transformers_model_are_its_blocks(tmp_path: Path) -> None:
    encoder = TransformersImageEncoder(str(vision_folder(tmp_path / "vision")))
    layers = encoder.layers()
    names = {id(p): n for n, p in encoder.model.named_parameters()}
    assert len(layers) == 4, "embeddings, two blocks, the last norm"
    assert all("embeddings" in names[id(p)] for p in layers[0])
    assert {names[id(p)] for p in layers[3]} == {"layernorm.weight", "layernorm.bias"}
    assert sum(map(len, layers)) == len(names)


def test_the_schedule_rises_and_ends_at_zero_with_the_training() -> None:
    weights = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    optimizer = torch.optim.AdamW([{"params": weights[:1], "lr": 0.1}, {"params": weights[1:], "lr": 0.2}])
    schedule = warmup_cosine(optimizer, 100, 0.1)
    rates = []
    for _ in range(100):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx([0.01, 0.02])
    assert rates[9] == pytest.approx([0.1, 0.2])
    assert rates[55][0] == pytest.approx(0.05 * (1 + math.cos(math.pi * 45 / 90)))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0)


def test_a_fused_optimizer_steps_as_the_textbook_says() -> None:
    """Loshchilov and Hutter, 2019, algorithm 2, in numbers of 64 bits."""
    torch.manual_seed(0)
    weights, slopes = torch.randn(40, 7).double(), torch.randn(30, 40, 7).double()
    first, second, expected = torch.zeros_like(weights), torch.zeros_like(weights), weights.clone()
    trained = {scaled: nn.Parameter(weights.float()) for scaled in (False, True)}
    optimizers = [adamw([{"params": [p], "lr": 0.01, "weight_decay": 0.1}], 1.0, scaled) for scaled, p in trained.items()]
    assert [optimizer.defaults["fused"] for optimizer in optimizers] == [True, False]
    for t, slope in enumerate(slopes, start=1):
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        expected = expected - 0.01 * (first / (1 - 0.9**t) / ((second / (1 - 0.999**t)).sqrt() + 1e-8) + 0.1 * expected)
        for p, optimizer in zip(trained.values(), optimizers, strict=True):
            p.grad = slope.float()
            optimizer.step()
    for p in trained.values():
        torch.testing.assert_close(p.detach().double(), expected, atol=1e-6, rtol=1e-5)


class Float16(MixedPrecision):
    """Half precision with its scaler, on a processor."""

    def __init__(self) -> None:
        super().__init__("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=256.0))


class Norms(Callback):
    """Records the norm and the largest entry of the gradients that every step was made with."""

    seen: ClassVar[list[tuple[float, float]]] = []

    def on_before_zero_grad(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        """Record what the last step left."""
        slopes = [p.grad.flatten() for p in pl_module.parameters() if p.grad is not None]
        if slopes:
            whole = torch.cat(slopes)
            Norms.seen.append((float(whole.norm()), float(whole.abs().max())))


@pytest.mark.parametrize("algorithm", ["norm", "value"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_gradients_are_clipped_in_every_precision(config: Path, tmp_path: Path, precision: str, algorithm: str) -> None:
    Norms.seen.clear()
    how = ("--trainer.plugins", f"{__name__}.Float16") if precision == "16-mixed" else ("--trainer.precision", precision)
    clipped = ("--trainer.gradient_clip_val", 1e-3, "--trainer.gradient_clip_algorithm", algorithm)
    seen = ("--trainer.callbacks+", f"{__name__}.Norms")
    assert run("fit", "--config", config, *how, *clipped, *seen, "--trainer.default_root_dir", tmp_path) == 0
    assert Norms.seen
    for norm, largest in Norms.seen:
        assert (norm if algorithm == "norm" else largest) == pytest.approx(1e-3, rel=1e-3)


def test_frozen_layers_do_not_move_nor_their_statistics(config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert (
        run("fit", "--config", config, "--trainer.default_root_dir", folder, "--model.frozen_layers", 2, "--model.lr", 0.05) == 0
    )
    model = load(folder / "last.ckpt")
    torch.manual_seed(1)
    encoder = model.encoders.image
    frozen = {name for name, p in encoder.named_parameters() if not p.requires_grad}
    assert frozen == {n for n, p in encoder.named_parameters() if any(p is q for layer in encoder.layers()[:2] for q in layer)}
    for name, module in encoder.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            still = f"{name}.weight" in frozen
            assert (int(module.num_batches_tracked) == 0) == still, name
    with pytest.raises(UsageError, match=r"expected -1 \(all\) or a number from 0 to 5, the layers there are, got 9"):
        freeze_layers(TimmEncoder("test_resnet"), 9)


def test_the_mean_of_the_weights_is_what_a_run_leaves(config: Path, tmp_path: Path) -> None:
    """Against the recursion worked out from the weights after every step."""
    arguments = ("fit", "--config", config, "--model.ema", 0.7, "--trainer.callbacks+", f"{__name__}.Record")
    Record.weights.clear()
    assert run(*arguments, "--trainer.default_root_dir", tmp_path / "run") == 0
    body = read_checkpoint(tmp_path / "run" / "last.ckpt")
    names = [n for n, v in body["state_dict"].items() if v.is_floating_point() and not n.startswith("calibration.")]
    mean = {name: Record.weights[0][name] for name in names}
    for step, weights in enumerate(Record.weights[1:], start=1):
        decay = min(0.7, (1 + step) / (10 + step))
        mean = {name: decay * mean[name] + (1 - decay) * weights[name] for name in names}
    for name in names:
        torch.testing.assert_close(body["state_dict"][name], mean[name], rtol=1e-4, atol=1e-6)
        assert torch.equal(body["hybridpt_trained_weights"][name], Record.weights[-1][name])
    assert any((body["state_dict"][n] - Record.weights[-1][n]).abs().max() > 1e-4 for n in names)


def test_a_run_with_a_mean_resumes_as_if_it_had_never_stopped(config: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    mean = ("--model.ema", 0.9)
    assert run("fit", "--config", config, *mean, "--trainer.default_root_dir", whole) == 0
    assert run("fit", "--config", config, *mean, "--trainer.default_root_dir", parts, "--trainer.callbacks+", BOTH) == 0
    assert run("fit", "--config", config, *mean, "--ckpt_path", parts / "last.ckpt") == 0
    one, other = (read_checkpoint(folder / "last.ckpt") for folder in (whole, parts))
    for key in ("state_dict", "hybridpt_trained_weights"):
        for name, value in one[key].items():
            assert torch.equal(value, other[key][name]), name
    first, second = (torch.load(folder / "best.ckpt", weights_only=True)["callbacks"] for folder in (whole, parts))
    scores = [[s["best_model_score"] for n, s in c.items() if "'val/criterion'" in n] for c in (first, second)]
    assert scores[0] == scores[1] != []


class Record(__import__("lightning").Callback):  # type: ignore[misc]
    """Remembers the weights before the first step and after every one."""

    weights: ClassVar[list[dict[str, torch.Tensor]]] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.on_train_batch_end(trainer, pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        self.weights.append({name: value.detach().clone() for name, value in pl_module.state_dict().items()})


def test_a_new_training_starts_from_the_encoders_of_a_checkpoint(
    config: Path, fitted: Path, labeled: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, folder = fitted / "best.ckpt", tmp_path / "run"
    Record.weights.clear()
    arguments = ("--config", config, "--trainer.max_epochs", 1, "--trainer.callbacks+", f"{__name__}.Record")
    assert run("fit", *arguments, "--trainer.default_root_dir", folder, "--model.init_from", first) == 0
    begun = Record.weights[0]
    source = read_checkpoint(first)["state_dict"]
    for name, value in source.items():
        if name.startswith("encoders."):
            assert torch.equal(begun[name], value), name
    assert not torch.equal(begun["objectives.supervised.prototypes"], source["objectives.supervised.prototypes"])
    mine, theirs = (read_checkpoint(path)["hybridpt"]["sources"] for path in (folder / "last.ckpt", first))
    assert mine["patient_key"] == theirs["patient_key"]
    assert set(theirs["patients"]) <= set(mine["patients"])
    other = ("--model.image_encoder.init_args.name", "resnet10t", "--model.init_from", first)
    capsys.readouterr()
    assert run("fit", "--config", config, "--trainer.default_root_dir", tmp_path / "other", *other) == 1
    assert "its image encoder is another than --model.image_encoder" in capsys.readouterr().err
    assert run("fit", "--config", config, "--model.init_from", tmp_path / "absent.ckpt") == 1
    assert "expected a checkpoint, found no file" in capsys.readouterr().err


def test_patients_of_the_first_training_are_refused_in_a_test_of_the_second(
    config: Path, fitted: Path, labeled: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second training leaves out some of the patients of the first, who then stand in its test split."""
    lines = labeled.manifest.read_text(encoding="utf-8").splitlines()
    moved = [line.replace(",train,", ",test,", 1) if i % 5 == 0 else line for i, line in enumerate(lines)]
    manifest = labeled.root / "moved.csv"
    manifest.write_text("\n".join(moved) + "\n", encoding="utf-8")
    given = ("--config", config, "--data.manifest", manifest)
    folder = tmp_path / "run"
    assert (
        run(
            "fit",
            *given,
            "--trainer.default_root_dir",
            folder,
            "--model.init_from",
            fitted / "best.ckpt",
            "--trainer.max_epochs",
            1,
        )
        == 0
    )
    capsys.readouterr()
    assert run("test", *given, "--ckpt_path", folder / "best.ckpt") == 1
    assert "trained on" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_encoder_trains_and_its_checkpoint_is_like_any_other(config: Path, fitted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    given = ("--trainer.max_epochs", 1, "--model.compile", "true", "--model.chunk", 4)
    assert run("fit", "--config", config, *given, "--trainer.default_root_dir", folder) == 0
    body = read_checkpoint(folder / "best.ckpt")
    assert set(body["state_dict"]) == set(read_checkpoint(fitted / "best.ckpt")["state_dict"])
    assert load(folder / "best.ckpt").predict(torch.rand(2, 1, 32, 32)).shape == (2, 2)
