"""The hybrid step against the forward and backward passes of its own encoders."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from timing import Corpus, alternate, autocast, bert, clear, make_batch, peak_memory, text_encoder, timed_row
from torch.utils.flop_counter import FlopCounterMode

from hybridpt.encoders import ByteEncoder, TextEncoder, TimmEncoder
from hybridpt.module import HybridModule
from hybridpt.objectives import Clip, Supervised

FINDINGS = 16
MAX_LENGTH = 128


@dataclass(frozen=True)
class Setting:
    """What is trained: image encoder, pixels, images a step, layers and width of the BERT (0 layers: the demo's byte encoder)."""

    image: str
    pixels: int
    batch: int
    layers: int
    width: int
    repeats: int


DEMO = Setting("test_resnet", 112, 32, 0, 64, 60)
QUICK = (Setting("test_resnet", 64, 8, 0, 64, 3), Setting("resnet18", 64, 4, 1, 64, 3))
CPU = (DEMO, Setting("resnet50", 224, 16, 4, 256, 12))
GPU = (Setting("resnet50", 224, 256, 12, 768, 30), Setting("vit_base_patch16_224", 224, 256, 12, 768, 30))


def measured(
    setting: Setting, corpus: Corpus, folder: Path, device: torch.device, precision: str, compiled: bool
) -> Iterator[dict[str, object]]:
    """Time both in turn on one batch, whose texts all differ, so that nothing is encoded once for several images."""
    torch.manual_seed(0)
    text: TextEncoder = ByteEncoder(setting.width, 1, 256)
    if setting.layers:
        text = text_encoder(bert(folder / "bert", corpus.reports, setting.layers, setting.width), MAX_LENGTH)
    model = HybridModule(
        TimmEncoder(setting.image), {"supervised": Supervised(), "clip": Clip(weight=0.1)}, text, compile=compiled
    )
    sources = corpus.sources(FINDINGS, setting.pixels)
    model.build(sources)
    model.to(device).train()
    image = torch.rand(setting.batch, 1, setting.pixels, setting.pixels, generator=torch.Generator().manual_seed(0))
    texts = [f"{i} {corpus.reports[i % len(corpus.reports)]}" for i in range(setting.batch)]
    batch = make_batch(image, texts, sources, text.tokenizer, device)

    def bare() -> None:
        clear(model)
        with autocast(device, precision):
            pooled, vectors = model.encoders.image(batch["image"]).pooled, text(batch["tokens"], batch["token_mask"])  # type: ignore[misc]
        (pooled.float().sum() + vectors.float().sum()).backward()

    def hybrid() -> None:
        clear(model)
        with autocast(device, precision):
            losses = model.losses(batch)
        losses["loss"].backward()

    steps = {"encoders": bare, "hybrid": hybrid}
    taken = alternate(steps, setting.repeats, 3, device)
    operations = _operations(bare) if not compiled else None
    for name, step in steps.items():
        row = timed_row(taken, name, "encoders", setting.batch)
        yield {
            "part": "hybrid",
            "name": f"{setting.image} at {setting.pixels}, {_called(setting)}: {name}",
            "batch": setting.batch,
            "precision": precision,
            "compiled": compiled,
            "peak_mb": peak_memory(step, device),
            "operations": operations,
            **row,
        }


def _called(setting: Setting) -> str:
    return f"BERT of {setting.layers} layers x {setting.width}" if setting.layers else "bytes"


def _operations(step: object) -> float:
    """Floating-point operations of the encoders' step, counted by torch; what runs outside matrix products and convolutions is not."""
    with FlopCounterMode(display=False) as counter:
        step()  # type: ignore[operator]
    return float(counter.get_total_flops())
