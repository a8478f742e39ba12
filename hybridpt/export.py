"""``hybridpt export CKPT -o DIR``: the image encoder of a checkpoint for users of timm and transformers, with a model card."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import torch

import hybridpt
from hybridpt.checkpoint import load
from hybridpt.module import HybridModule
from labelers.errors import InputError, UsageError

__all__ = ["export"]

TOLERANCE = 1e-4
"""Largest difference of a pooled feature between the encoder and what was written, relative to the largest feature."""


def export(checkpoint: str | Path, output: str | Path) -> None:
    """Write the image encoder of a checkpoint: weights (safetensors), configuration and README.md, a model card.

    What was written is loaded as its users load it, and must give the same features of a random image, before it gets its name.

    Args:
        checkpoint: A .ckpt file that ``hybridpt fit`` wrote.
        output: Folder to write; it must not exist, or be empty.

    Raises:
        InputError: No checkpoint, or what was written does not load back to the same features.
        UsageError: The folder holds something, or the encoder is of a kind that has no form for others.
    """
    output = Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"{output}: holds something already; choose a folder that does not exist yet")
    model = load(checkpoint)
    encoder, sources = model.encoders.image, model.sources
    assert encoder is not None  # load refuses models of reports alone
    assert sources is not None
    output.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        snippet = encoder.save(made, sources.image_size)
        _check_same(model, made, checkpoint)
        (made / "README.md").write_text(_card(model, snippet.replace("{folder}", output.name)), encoding="utf-8")
        made.chmod(0o777 & ~_umask())
        if output.exists():
            output.rmdir()
        os.replace(made, output)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


@torch.inference_mode()
def _check_same(model: HybridModule, folder: Path, checkpoint: str | Path) -> None:
    encoder, sources = model.encoders.need_image("export"), model.sources
    assert sources is not None
    image = torch.rand(2, 1, sources.image_size, sources.image_size, generator=torch.Generator().manual_seed(0))
    wanted, found = encoder(image).pooled, encoder.load(folder)(image)
    if found.shape != wanted.shape or (found - wanted).abs().max() > TOLERANCE * wanted.abs().max().clamp(min=1e-6):
        raise InputError(
            f"{checkpoint}: its encoder, written for others, does not give the same features back; this is a fault of its class "
            f"{type(encoder).__name__}"
        )


def _card(model: HybridModule, snippet: str) -> str:
    """The model card: what it is, what it was trained on, how to load it, what it must not be used for."""
    sources, encoder = model.sources, model.encoders.need_image("export")
    assert sources is not None
    terms = [f"{name} ({type(objective).__name__}, weight {objective.weight:g})" for name, objective in model.each()]
    findings = "\n".join(f"| {name} | {p:.3f} |" for name, p in zip(sources.findings, sources.prevalence, strict=True))
    weights = sum(p.numel() for p in encoder.parameters())
    return f"""---
library_name: timm
tags: [radiology, chest-x-ray, image-feature-extraction]
---

# Image encoder for radiographs

An encoder of the class `{type(encoder).__name__}` with {weights:,} weights, trained by hybridpt {hybridpt.__version__}. It turns a radiograph of one
grey channel, {sources.image_size} x {sources.image_size} pixels, into a vector of {encoder.width} numbers.

## Use

```python
{snippet.rstrip()}
```

## Training

- Objectives: {", ".join(terms)}.
- Data sets: {", ".join(sources.datasets) or "not named"}.
- Labelers: {", ".join(sources.labelers) or "none"}.
- Findings, with the share of the training studies that a labeler calls positive (or the gold's prior):

| finding | prevalence |
|---|---|
{findings}

## Limits

The encoder was trained on labels with measured noise, not on truth, and knows the hospitals named above. It is a tool of research: it is no medical
device, and nothing here says how well it does on other patients. Evaluate it on your own images before you rely on it. The licence is that of
the data it was trained on; the checkpoint holds no images, no report text and no names of patients, and neither does this folder.
"""
