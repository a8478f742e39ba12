"""Encoders for others: what is written loads back through timm and transformers to the same features, or is not written."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import hybridpt
from hybridpt.cli import main
from hybridpt.data.sources import Sources
from hybridpt.encoders import ImageEncoder, ImageFeatures, TimmEncoder, TransformersImageEncoder
from hybridpt.module import HybridModule
from hybridpt.objectives import Supervised
from labelers.errors import UsageError

SIZE = 28


def vision_folder(folder: Path, **changes: Any) -> Path:
    """A tiny DINOv2 with a preprocessor, as ``save_pretrained`` writes it: the layout of microsoft/rad-dino."""
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIZE, "patch_size": 14}
    torch.manual_seed(0)
    Dinov2Model(Dinov2Config(**{**sizes, **changes})).save_pretrained(folder)
    BitImageProcessor(image_mean=[0.5307, 0.5307, 0.5307], image_std=[0.2583, 0.2583, 0.2583]).save_pretrained(folder)
    return folder


def checkpoint_of(encoder: ImageEncoder, path: Path, config: dict[str, Any], size: int = SIZE) -> Path:
    """A checkpoint as ``hybridpt fit`` writes it, of a model that was built and not trained."""
    model = HybridModule(encoder, {"supervised": Supervised()})
    model.config = {
        "image_encoder": config,
        "objectives": {"supervised": {"class_path": "hybridpt.objectives.Supervised", "init_args": {}}},
    }
    model.build(Sources(("Edema", "Mass"), ("context",), ("north",), (0.2, 0.1), size))
    body: dict[str, Any] = {"state_dict": model.state_dict(), "pytorch-lightning_version": "2.5.0"}
    model.on_save_checkpoint(body)
    torch.save(body, path)
    return path


def timm_checkpoint(folder: Path, name: str = "test_resnet", **arguments: Any) -> Path:
    torch.manual_seed(1)
    encoder = TimmEncoder(name, **arguments)
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()  # statistics of a trained model, which must travel with the weights
    config = {"class_path": "hybridpt.encoders.TimmEncoder", "init_args": {"name": name, **arguments}}
    return checkpoint_of(encoder, folder / "model.ckpt", config, arguments.get("image_size", SIZE))


def run_snippet(card: str, folder: Path, image: Any) -> Tensor:
    """Carry out the code of the model card, as its reader would from the folder's parent."""
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert code is not None
    names: dict[str, Any] = {"image": image}
    exec(code[1], names)  # our own text, under test
    pooled: Tensor = names["pooled"]
    return pooled.detach()


@pytest.mark.parametrize(("name", "arguments"), [("test_resnet", {}), ("vit_tiny_patch16_224", {"image_size": 32})])
def test_a_timm_encoder_loads_back_in_timm_and_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, arguments: dict[str, Any]
) -> None:
    from transformers import AutoModel, TimmWrapperConfig

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    checkpoint = timm_checkpoint(tmp_path, name, **arguments)
    assert main(["export", str(checkpoint), "-o", "encoder"]) == 0
    assert sorted(p.name for p in Path("encoder").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    encoder = hybridpt.load(checkpoint).encoders.image
    image = torch.rand(2, 1, 32, 32) if arguments else torch.rand(2, 1, SIZE, SIZE)
    wanted = encoder(image).pooled.detach()
    found = run_snippet(Path("encoder/README.md").read_text(encoding="utf-8"), tmp_path, image)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    body = json.loads(Path("encoder/config.json").read_text(encoding="utf-8"))["pretrained_cfg"]
    reads = "model_args" in inspect.signature(TimmWrapperConfig.__init__).parameters  # older releases make it for three channels
    if not arguments and reads:
        through = AutoModel.from_pretrained("encoder").eval()
        pixels = (image - body["mean"][0]) / body["std"][0]
        torch.testing.assert_close(through(pixels).pooler_output.detach(), wanted, rtol=0, atol=1e-5)


def test_a_transformers_encoder_loads_back_in_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    source = vision_folder(tmp_path / "rad-dino")
    encoder = TransformersImageEncoder(str(source)).eval()
    config = {"class_path": "hybridpt.encoders.TransformersImageEncoder", "init_args": {"name": str(source)}}
    checkpoint = checkpoint_of(encoder, tmp_path / "model.ckpt", config)
    assert main(["export", str(checkpoint), "-o", "encoder"]) == 0
    grey = (torch.rand(SIZE, SIZE, generator=torch.Generator().manual_seed(2)) * 255).to(torch.uint8)
    picture = Image.fromarray(grey.numpy()).convert("RGB")
    found = run_snippet(Path("encoder/README.md").read_text(encoding="utf-8"), tmp_path, picture)
    wanted = encoder(grey[None, None].float() / 255).pooled.detach()
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
    again = TransformersImageEncoder("encoder").eval()
    torch.testing.assert_close(again(grey[None, None].float() / 255).pooled.detach(), wanted)


def test_the_encoder_of_a_transformers_folder(tmp_path: Path) -> None:
    """Against transformers itself: class token, places on their grid, the folder's own normalisation."""
    from transformers import AutoModel

    folder = vision_folder(tmp_path / "vision")
    encoder = TransformersImageEncoder(str(folder)).eval()
    image = torch.rand(2, 1, 42, 28)
    features = encoder(image)
    assert features.grid == (3, 2)
    assert features.tokens.shape == (2, 6, encoder.width)
    plain = AutoModel.from_pretrained(folder).eval()((image.expand(-1, 3, -1, -1) - 0.5307) / 0.2583)
    torch.testing.assert_close(features.pooled, plain.pooler_output)
    torch.testing.assert_close(features.tokens, plain.last_hidden_state[:, 1:])
    with pytest.raises(UsageError, match="multiple of 14, the patch of this image model, got 30"):
        encoder(torch.rand(1, 1, 30, 28))
    with pytest.raises(UsageError, match="cannot be loaded"):
        TransformersImageEncoder(str(tmp_path / "nothing"))
    frozen = TransformersImageEncoder(str(folder), frozen=True).train()
    assert not frozen.model.training
    assert not any(p.requires_grad for p in frozen.parameters())
    one = vision_folder(tmp_path / "one", num_channels=1)
    assert TransformersImageEncoder(str(one), pretrained=False)(torch.rand(1, 1, SIZE, SIZE)).pooled.shape == (1, 32)


def test_the_model_card_says_what_it_was_trained_on(tmp_path: Path) -> None:
    checkpoint = timm_checkpoint(tmp_path)
    assert main(["export", str(checkpoint), "-o", str(tmp_path / "deep" / "encoder")]) == 0
    card = (tmp_path / "deep" / "encoder" / "README.md").read_text(encoding="utf-8")
    for part in (
        "28 x 28 pixels",
        "| Edema | 0.200 |",
        "Data sets: north",
        "Labelers: context",
        "supervised (Supervised, weight 1)",
    ):
        assert part in card


class Odd(ImageEncoder):
    """An encoder of the tests that nobody else can load."""

    width = 4

    def forward(self, image: Tensor) -> ImageFeatures:
        return ImageFeatures(image.new_zeros(len(image), 4), image.new_zeros(len(image), 1, 4), (1, 1))


def test_what_cannot_be_exported_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = checkpoint_of(Odd(), tmp_path / "odd.ckpt", {"class_path": f"{__name__}.Odd", "init_args": {}})
    good = timm_checkpoint(tmp_path)
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("years of work", encoding="utf-8")
    out = tmp_path / "out"
    before = sorted(tmp_path.rglob("*"))
    for argv, status, part in (
        ([str(odd), "-o", str(out)], 2, "an encoder of the class Odd cannot be exported"),
        ([str(good), "-o", str(taken)], 2, "holds something already"),
        ([str(tmp_path / "absent.ckpt"), "-o", str(out)], 1, "expected a checkpoint, found no file"),
    ):
        assert main(["export", *argv]) == status
        err = capsys.readouterr().err
        assert part in err
        assert err.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before
    monkeypatch.setattr(TimmEncoder, "load", lambda self, folder: lambda image: torch.zeros(len(image), self.width))
    assert main(["export", str(good), "-o", str(out)]) == 1
    assert "does not give the same features back" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
