"""Encoders for others: what is written loads back through timm and transformers to the same features, or is not written."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

import hybridpt
from hybridpt.cli import main
from hybridpt.data.sources import Sources
from hybridpt.encoders import ImageEncoder, ImageFeatures, TimmEncoder, TransformersImageEncoder
from hybridpt.module import HybridModule
from hybridpt.objectives import Supervised
from labelers.errors import InputError, UsageError

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
        "library_name: timm",
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


class Oblique(Supervised):
    """An objective of the tests that a later program does not know."""


def test_an_objective_that_nobody_imported_is_no_hindrance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is a text encoder whose folder is gone: the image encoder is all that is needed. In the folder where the user is."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    checkpoint = timm_checkpoint(tmp_path)
    body = torch.load(checkpoint, weights_only=True)
    model = body["hybridpt"]["model"]
    model["objectives"]["supervised"] = {"class_path": "elsewhere.Oblique", "init_args": {"weight": 0.5}}
    model["text_encoder"] = {"class_path": "hybridpt.encoders.TransformersEncoder", "init_args": {"name": "gone"}}
    torch.save(body, checkpoint)
    with pytest.raises(InputError, match="import elsewhere first"):
        hybridpt.load(checkpoint)
    assert main(["export", str(checkpoint), "-o", "."]) == 0
    assert sorted(p.name for p in here.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert "supervised (Oblique, weight 0.5)" in (here / "README.md").read_text(encoding="utf-8")
    assert main(["export", str(checkpoint), "-o", "."]) == 2  # it holds something now
    assert len(list(here.iterdir())) == 3


TIMM = {
    "resnet10t": (64, (2, 2)),
    "convnext_atto": (64, (2, 2)),
    "mobilenetv3_small_050": (64, (2, 2)),  # a layer between the last map and the pooled vector
    "mobilenetv4_conv_small": (64, (2, 2)),
    "ghostnet_100": (64, (2, 2)),
    "efficientvit_b0": (64, (2, 2)),
    "inception_next_atto": (64, (2, 2)),
    "mambaout_femto": (64, (2, 2)),  # and channels last
    "swin_tiny_patch4_window7_224": (64, (2, 2)),
    "swinv2_cr_tiny_ns_224": (64, (2, 2)),
    "mixer_s32_224": (64, (2, 2)),
    "levit_128s": (64, (1, 1)),
    "xcit_nano_12_p16_224": (64, (4, 4)),
    "mvitv2_tiny": (64, (2, 2)),
    "coat_lite_tiny": (64, (2, 2)),  # weights under two names, and a class token that timm does not count
    "poolformer_s12": (64, (2, 2)),  # without layers
    "deit_tiny_distilled_patch16_224": (64, (4, 4)),  # two tokens of another kind
    "vit_tiny_patch16_224": (64, (4, 4)),
}


@pytest.mark.parametrize("name", TIMM)
def test_families_of_timm(tmp_path: Path, name: str) -> None:
    """Width, places, layers and what others load, against timm's own model with the same weights."""
    if not timm.is_model(name):
        pytest.skip(f"this release of timm has no {name}")
    size, grid = TIMM[name]
    torch.manual_seed(3)
    encoder = TimmEncoder(name, image_size=size).eval()
    encoder.check_size(size)
    image = torch.rand(2, 1, size, size)
    with torch.no_grad():
        features = encoder(image)
        own = encoder.model((image - encoder.mean) / encoder.std)
    torch.testing.assert_close(features.pooled, own)
    assert features.pooled.shape == (2, encoder.width)
    assert features.grid == grid
    assert features.tokens.shape[:2] == (2, grid[0] * grid[1])
    assert sum(len(layer) for layer in encoder.layers()) == len(list(encoder.parameters()))
    names: dict[str, Any] = {"image": image}
    exec(encoder.save(tmp_path, size).replace("{folder}", str(tmp_path)), names)
    torch.testing.assert_close(names["pooled"].detach(), own, rtol=1e-4, atol=1e-5)


def test_what_timm_cannot_make_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for make, part in (
        (lambda: TimmEncoder("vit_tiny_patch16_224").check_size(64), "--data.image_size 64: the image encoder does not take"),
        (lambda: TimmEncoder("coat_tiny")(torch.rand(1, 1, 224, 224)), "'coat_tiny' gives several maps of features"),
        (lambda: TimmEncoder("nest_tiny", image_size=50), "timm's model 'nest_tiny' cannot be made with these options"),
        (lambda: TimmEncoder(str(tmp_path)), "give a checkpoint's encoders by --model.init_from CKPT"),
    ):
        with pytest.raises(UsageError, match=re.escape(part)) as caught:
            make()
        assert "\n" not in str(caught.value)

    def offline(*args: object, **options: object) -> None:
        raise OSError("a page of advice\nabout the hub")

    monkeypatch.setattr("timm.create_model", offline)
    with pytest.raises(UsageError, match=r"timm's weights of 'test_resnet' cannot be loaded \(OSError\); run once") as caught:
        TimmEncoder("test_resnet", pretrained=True)
    assert "advice" not in str(caught.value)


TOKENS = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
VISION: dict[str, tuple[str, dict[str, Any], str]] = {
    "ViT": ("ViT", {**TOKENS, "image_size": 32, "patch_size": 8}, "last_hidden_state[:, 0]"),
    "DINOv2": ("Dinov2", {**TOKENS, "image_size": 32, "patch_size": 8}, "pooler_output"),
    "DINOv2 with registers": ("Dinov2WithRegisters", {**TOKENS, "image_size": 32, "patch_size": 8}, "pooler_output"),
    "SigLIP": ("SiglipVision", {**TOKENS, "image_size": 32, "patch_size": 8}, "pooler_output"),
    "CLIP": ("CLIPVision", {**TOKENS, "image_size": 32, "patch_size": 8}, "pooler_output"),
    "ConvNeXt": ("ConvNext", {"hidden_sizes": [16, 16, 16, 32], "depths": [1, 1, 1, 1]}, "pooler_output"),
    "Swin": (
        "Swin",
        {"image_size": 32, "embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4},
        "pooler_output",
    ),
    "ResNet": (
        "ResNet",
        {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic"},
        "pooler_output",
    ),
    "BEiT": ("Beit", {**TOKENS, "image_size": 32, "patch_size": 8, "use_mean_pooling": True}, "last_hidden_state[:, 0]"),
}
GRIDS = {"ConvNeXt": (1, 1), "Swin": (4, 4), "ResNet": (4, 4)}


@pytest.mark.parametrize("size", [32, 48])
@pytest.mark.parametrize("kind", VISION)
def test_families_of_transformers(tmp_path: Path, kind: str, size: int) -> None:
    """What is pooled is what the model itself pools, at its size and another; every weight that is trained has a gradient."""
    import transformers

    name, options, pooled = VISION[kind]
    torch.manual_seed(4)
    getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**options)).save_pretrained(tmp_path / "in")
    encoder = TransformersImageEncoder(str(tmp_path / "in")).eval()
    encoder.check_size(size)
    grey = torch.randint(0, 256, (size, size), generator=torch.Generator().manual_seed(5)).to(torch.uint8)
    features = encoder(grey[None, None] / 255)
    rows, columns = GRIDS.get(kind, (4, 4))
    assert features.grid == (rows * size // 32, columns * size // 32)
    assert features.tokens.shape == (1, features.grid[0] * features.grid[1], encoder.width)
    features.pooled.square().sum().backward()
    unread = [n for n, p in encoder.named_parameters() if p.requires_grad and p.grad is None]
    assert unread == []
    (tmp_path / "out").mkdir()
    code = encoder.save(tmp_path / "out", size)
    assert f"pooled = output.{pooled}" in code
    names: dict[str, Any] = {"image": encoder.example(grey)}
    exec(code.replace("{folder}", str(tmp_path / "out")), names)
    torch.testing.assert_close(names["pooled"].detach(), features.pooled.detach(), rtol=1e-4, atol=1e-5)


def test_models_that_read_text_are_no_image_encoders(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel, CLIPConfig, CLIPModel

    small = {**TOKENS, "vocab_size": 16, "max_position_embeddings": 8}
    BertModel(BertConfig(**small)).save_pretrained(tmp_path / "bert")
    vision = {**TOKENS, "image_size": 32, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=small, vision_config=vision)).save_pretrained(tmp_path / "clip")
    for name in ("bert", "clip"):
        with pytest.raises(UsageError, match="which reads no images, or text too; give one of images alone"):
            TransformersImageEncoder(str(tmp_path / name))


def test_a_folder_for_timm_is_refused_in_one_line(tmp_path: Path) -> None:
    checkpoint = timm_checkpoint(tmp_path)
    assert main(["export", str(checkpoint), "-o", str(tmp_path / "encoder")]) == 0
    with pytest.raises(UsageError, match=r"by their name to the class TimmEncoder|cannot be loaded") as caught:
        TransformersImageEncoder(str(tmp_path / "encoder"))
    assert "\n" not in str(caught.value)


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
    save = TimmEncoder.save
    monkeypatch.setattr(TimmEncoder, "save", lambda self, *args: save(self, *args) + "pooled = pooled * 2\n")
    assert main(["export", str(good), "-o", str(out)]) == 1
    assert "does not give the same features back" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
