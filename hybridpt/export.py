"""``hybridpt export CKPT -o DIR``: the image encoder of a checkpoint for users of timm and transformers, with a model card."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

import hybridpt
from hybridpt.checkpoint import TrainedEncoder, load_image_encoder
from hybridpt.encoders import ImageEncoder
from labelers.errors import InputError, UsageError

__all__ = ["export"]

TOLERANCE = 1e-4
"""Largest difference of a pooled feature between the encoder and what was written, relative to the largest feature."""


def export(checkpoint: str | Path, output: str | Path) -> None:
    """Write the image encoder of a checkpoint: weights (safetensors), configuration and README.md, a model card.

    The Python of the model card is carried out, and must give the same features of a random image, before anything gets its name.
    Classes of objectives and text encoders are not needed.

    Args:
        checkpoint: A .ckpt file that ``hybridpt fit`` wrote.
        output: Folder to write; it must not exist yet, or be empty.

    Raises:
        InputError: No checkpoint, or what was written does not load back to the same features.
        UsageError: The folder holds something, or the encoder is of a kind that has no form for others.
    """
    output = Path(output).absolute()  # "." has no name
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"{output}: holds something already; choose a folder that is empty or does not exist yet")
    trained = load_image_encoder(checkpoint)
    encoder, sources = trained.encoder, trained.sources
    output.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output if output.exists() else output.parent))
    try:
        snippet = encoder.save(made, sources.image_size)
        _check_same(encoder, sources.image_size, snippet.replace("{folder}", _quoted(made)), checkpoint)
        card = _card(trained, snippet.replace("{folder}", _quoted(Path(output.name))))
        (made / "README.md").write_text(card, encoding="utf-8")
        made.chmod(0o777 & ~_umask())
        if output.exists():  # somebody may be in it
            for path in sorted(made.iterdir()):
                os.replace(path, output / path.name)
        else:
            os.replace(made, output)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _quoted(path: Path) -> str:
    return json.dumps(str(path))[1:-1]


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


@torch.inference_mode()
def _check_same(encoder: ImageEncoder, size: int, snippet: str, checkpoint: str | Path) -> None:
    """Carry out the model card's Python."""
    grey = torch.randint(0, 256, (size, size), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    wanted = encoder(grey[None, None].float() / 255).pooled
    names: dict[str, Any] = {"image": encoder.example(grey)}
    exec(snippet, names)  # by the encoder's class, which runs here anyway
    found = names["pooled"]
    if found.shape != wanted.shape or (found - wanted).abs().max() > TOLERANCE * wanted.abs().max().clamp(min=1e-6):
        raise InputError(
            f"{checkpoint}: its encoder, written for others, does not give the same features back; this is a fault of its class "
            f"{type(encoder).__name__}"
        )


def _card(trained: TrainedEncoder, snippet: str) -> str:
    """The model card: what it is, what it was trained on, how to load it, what it must not be used for."""
    encoder, sources, objectives = trained
    terms = [f"{name} ({kind}, weight {weight:g})" for name, (kind, weight) in objectives.items()]
    findings = "\n".join(f"| {name} | {p:.3f} |" for name, p in zip(sources.findings, sources.prevalence, strict=True))
    weights = sum(p.numel() for p in encoder.parameters())
    return f"""---
library_name: {encoder.library}
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
