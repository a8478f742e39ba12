"""Encoders of transformers in checkpoints: they are made again without the folder that they came from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

import hybridpt
import hybridpt.encoders.kept
from hybridpt.checkpoint import read_checkpoint
from hybridpt.cli import main
from hybridpt.encoders import TransformersEncoder, TransformersImageEncoder
from hybridpt.encoders.kept import kept_files
from labelers.errors import InputError, UsageError
from tests.conftest import Tiny
from tests.hybridpt.conftest import hybrid_config
from tests.hybridpt.test_export import SIZE, vision_folder

TEXTS = ["No effusion.", "", "A somewhat longer sentence about the left lung base, to be padded against."]


def text_folder(folder: Path) -> Path:
    """A small BERT with a hand-written vocabulary, as ``save_pretrained`` writes it."""
    from transformers import BertConfig, BertModel, BertTokenizer

    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "no", "effusion", "left", "lung", ".", "##s", "a", "the"]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(words), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    BertModel(config).save_pretrained(folder)
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


class World:
    """A trained hybrid whose encoders came from two folders, which are gone."""

    def __init__(self, root: Path, data: Tiny) -> None:
        self.vision, self.text = vision_folder(root / "vision"), text_folder(root / "text")
        body: dict[str, Any] = hybrid_config(data)
        package = "hybridpt.encoders"
        body["model"]["image_encoder"] = {
            "class_path": f"{package}.TransformersImageEncoder",
            "init_args": {"name": str(self.vision)},
        }
        body["model"]["text_encoder"] = {"class_path": f"{package}.TransformersEncoder", "init_args": {"name": str(self.text)}}
        body["model"]["lr"] = 0.001
        body["data"]["image_size"] = SIZE
        body["trainer"]["max_epochs"] = 1
        self.config, self.run = root / "kept.yaml", root / "run"
        self.config.write_text(yaml.safe_dump(body), encoding="utf-8")
        assert self("fit", "--trainer.default_root_dir", self.run) == 0
        self.checkpoint = self.run / "best.ckpt"
        self.images = torch.rand(3, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
        self.before = self.outputs()
        for folder in (self.vision, self.text):
            shutil.rmtree(folder)

    def __call__(self, command: str, *options: object) -> int:
        return main([command, "--config", str(self.config), *map(str, options)])

    def outputs(self) -> tuple[pd.DataFrame, torch.Tensor]:
        """Scores of images, and what the text encoder makes of texts."""
        model = hybridpt.load(self.checkpoint)
        text = model.encoders.need_text("test")
        with torch.inference_mode():
            return model.predict(self.images), text(*text.tokenizer(TEXTS))


@pytest.fixture(scope="module")
def world(labeled: Tiny, tmp_path_factory: pytest.TempPathFactory) -> World:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        return World(tmp_path_factory.mktemp("kept"), labeled)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_a_checkpoint_loads_without_the_folders_of_its_encoders(world: World) -> None:
    scores, vectors = world.outputs()
    pd.testing.assert_frame_equal(scores, world.before[0])
    assert torch.equal(vectors, world.before[1])
    assert len(scores.stack().round(4).unique()) > 3
    image: Any = hybridpt.load(world.checkpoint).encoders.image
    assert image.mean.flatten().tolist() == pytest.approx([0.5307] * 3)  # which the weights do not hold


def test_so_do_test_predict_export_and_going_on(world: World, tmp_path: Path) -> None:
    given = ("--ckpt_path", world.checkpoint, "--trainer.default_root_dir")
    assert world("test", *given, tmp_path / "test") == 0
    assert set(pd.read_csv(tmp_path / "test" / "results.csv")["task"]) == {"supervised", "zero_shot"}
    assert world("predict", *given, tmp_path / "predict", "--data.num_workers", 1) == 0
    assert main(["export", str(world.checkpoint), "-o", str(tmp_path / "encoder")]) == 0
    exported = TransformersImageEncoder(str(tmp_path / "encoder")).eval()
    ours = hybridpt.load(world.checkpoint).encoders.need_image("test")
    torch.testing.assert_close(exported(world.images).pooled, ours(world.images).pooled)
    shutil.copytree(world.run, tmp_path / "run")
    assert world("fit", "--ckpt_path", tmp_path / "run" / "last.ckpt", "--trainer.max_epochs", 2) == 0
    body = read_checkpoint(tmp_path / "run" / "last.ckpt")
    assert body["hybridpt"]["kept"] == read_checkpoint(world.checkpoint)["hybridpt"]["kept"]


def test_a_new_fit_still_needs_the_folders(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    timm = {"class_path": "hybridpt.encoders.TimmEncoder", "init_args": {"name": "test_resnet"}}
    for what, options in (("image", ()), ("text", ("--model.image_encoder", json.dumps(timm)))):
        capsys.readouterr()
        assert world("fit", "--trainer.default_root_dir", tmp_path / what, *options) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
        assert len(lines) == 1
        assert f"the {what} model" in lines[0]
        assert "cannot be loaded" in lines[0]


def test_what_is_kept_is_plain_and_holds_no_weights(world: World) -> None:
    kept = read_checkpoint(world.checkpoint)["hybridpt"]["kept"]
    assert set(kept) == {str(world.vision), str(world.text)}
    assert kept[str(world.vision)]["config"]["model_type"] == "dinov2"
    assert "tokenizer.json" in kept[str(world.text)]["tokenizer"]
    assert kept[str(world.text)]["dtype"] == "float32"
    assert len(repr(kept)) < 20_000


def test_a_large_tokenizer_is_missed_only_where_text_is_read(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = text_folder(tmp_path / "text")
    monkeypatch.setattr(hybridpt.encoders.kept, "LARGEST", 100)
    assert TransformersEncoder(str(folder)).kept[str(folder)]["tokenizer"] is None
    body = read_checkpoint(world.checkpoint)
    body["hybridpt"]["kept"][str(world.text)]["tokenizer"] = None
    torch.save(body, tmp_path / "large.ckpt")
    model = hybridpt.load(tmp_path / "large.ckpt")
    pd.testing.assert_frame_equal(model.predict(world.images), world.before[0])
    with pytest.raises(UsageError, match="is not in the checkpoint"):
        model.encoders.need_text("test").tokenizer(["no effusion"])
    capsys.readouterr()
    options = ("--ckpt_path", tmp_path / "large.ckpt", "--trainer.default_root_dir", tmp_path / "out", "--data.num_workers", 1)
    assert world("test", *options) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1
    assert f"the tokenizer of the text model '{world.text}' is not in the checkpoint" in lines[0]


def test_half_precision_is_made_again_as_such(tmp_path: Path) -> None:
    encoder = TransformersImageEncoder(str(vision_folder(tmp_path / "vision")))
    encoder.model.half()
    kept = hybridpt.encoders.kept.keep_image("there", encoder.model, {"image_mean": [0.5], "image_std": [0.5]})
    with kept_files(kept, "a.ckpt"):
        assert TransformersImageEncoder("there").model.dtype == torch.float16


DAMAGED: dict[str, Any] = {
    "no dict": 7,
    "an entry that is none": {"x": None},
    "no model": {"config": {"model_type": "no such thing"}},
    "nonsense for a model": {"config": {"model_type": "dinov2", "hidden_size": "wide"}},
    "a file that leads elsewhere": {"tokenizer": {"../../escaped.json": "{}"}},
    "a tokenizer that is none": {"tokenizer": {"tokenizer.json": "[]", "tokenizer_config.json": "{}"}},
    "a file that is no text": {"tokenizer": {"tokenizer.json": 3}},
    "a preprocessor that is none": {"preprocessor": 7},
    "levels that are none": {"preprocessor": {"image_mean": "grey"}},
    "another type of numbers": {"dtype": "os"},
}


@pytest.mark.parametrize("case", DAMAGED)
@pytest.mark.parametrize("command", ["load", "test"])
def test_what_is_damaged_is_refused_in_one_line(
    world: World, tmp_path: Path, case: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    body = read_checkpoint(world.checkpoint)
    kept, change = body["hybridpt"]["kept"], DAMAGED[case]
    body["hybridpt"]["kept"] = (
        {name: {**entry, **change} for name, entry in kept.items()} if isinstance(change, dict) and "x" not in change else change
    )
    torch.save(body, tmp_path / "damaged.ckpt")
    if command == "load":
        with pytest.raises(InputError, match="damaged"):
            hybridpt.load(tmp_path / "damaged.ckpt")
    else:
        capsys.readouterr()
        assert world("test", "--ckpt_path", tmp_path / "damaged.ckpt", "--trainer.default_root_dir", tmp_path / "out") == 1
        lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
        assert len(lines) == 1
        assert "damaged" in lines[0]
    assert not list(tmp_path.parent.rglob("escaped.json"))


def test_a_configuration_cannot_name_code(world: World, tmp_path: Path) -> None:
    """What would make transformers fetch and run something is left out, and the model is what it was."""
    body = read_checkpoint(world.checkpoint)
    for entry in body["hybridpt"]["kept"].values():
        entry["config"] |= {
            "auto_map": {"AutoModel": "stranger/code--modeling.Anything"},
            "attn_implementation": "stranger/kernel",
            "quantization_config": {"quant_method": "stranger"},
        }
    torch.save(body, tmp_path / "strange.ckpt")
    pd.testing.assert_frame_equal(hybridpt.load(tmp_path / "strange.ckpt").predict(world.images), world.before[0])
